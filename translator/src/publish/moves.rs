//! Pins, unpins and rollbacks: entries that choose among releases, never a recompile.

use super::gates::Gate;
use super::release::state_of;
use super::transition::{Act, apply};
use super::{Change, Outcome, PublishError, Publisher};
use moorgate_snapshot::channel::{ChannelState, Pin, Release, Step};
use moorgate_snapshot::entry::Action;
use moorgate_snapshot::reader::{Slot, Tail};
use moorgate_snapshot::{Digest, Role, Snapshot};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// How many entries back a release is looked for.
const HISTORY: usize = 1000;
/// The fewest digits of a snapshot id that stand for the whole.
const SHORT: usize = 8;

/// What a move changes for Envoy: a line a resource type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What is served now.
    pub from: Digest,
    /// What will be served.
    pub to: Digest,
    /// The differences, by section.
    pub lines: BTreeMap<String, PlanLine>,
}

/// How many records of a section differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlanLine {
    /// New ones.
    pub added: usize,
    /// Gone ones.
    pub removed: usize,
    /// Others under the same name.
    pub changed: usize,
}

impl Plan {
    fn of(before: &Snapshot, after: &Snapshot) -> Self {
        let mut lines: BTreeMap<String, PlanLine> = BTreeMap::new();
        for change in before.diff(after) {
            let Some(record) = change.after.or(change.before) else { continue };
            let line = lines.entry(record.key().section.to_owned()).or_default();
            match (change.before, change.after) {
                (None, _) => line.added += 1,
                (_, None) => line.removed += 1,
                _ => line.changed += 1,
            }
        }
        Self { from: before.id(), to: after.id(), lines }
    }
}

impl Publisher<'_> {
    /// Holds the channel at a released snapshot, given by its id or the first digits of it. A pin that holds already is
    /// replaced.
    pub async fn pin(
        &self,
        snapshot: &str,
        expires: Option<OffsetDateTime>,
    ) -> Result<(Outcome, Option<Plan>), PublishError> {
        self.check_key(Role::Pin)?;
        let tail = self.started().await?;
        let release = self.released(&tail, snapshot).await?;
        self.pin_at(&tail, release, expires, self.meta.reason.clone()).await
    }

    /// Pins what was served after entry `sequence`, or the newest good release before the present one: while a wave is
    /// under way that is what all other relays serve.
    pub async fn rollback(
        &self,
        sequence: Option<u64>,
        expires: Option<OffsetDateTime>,
    ) -> Result<(Outcome, Option<Plan>), PublishError> {
        self.check_key(Role::Pin)?;
        let tail = self.started().await?;
        let state = state_of(&tail);
        let served = state.serving().cloned().ok_or_else(|| self.empty())?;
        let release = match sequence {
            Some(sequence) => match self.reader.slot(sequence).await? {
                Slot::Entry(entry) => entry.entry.state.serving().cloned(),
                Slot::Empty | Slot::Void(_) => None,
            }
            .ok_or_else(|| Gate::NotReleased(format!("entry {sequence}")))?,
            None if state.pin.is_none() && state.candidate.as_ref().is_some_and(|wave| wave.step > 0) => {
                served.clone()
            }
            None => self.before(&state, &served).await?,
        };
        let reason = if self.meta.reason.is_empty() {
            format!("rollback from release {} to {}", served.sequence, release.sequence)
        } else {
            self.meta.reason.clone()
        };
        self.pin_at(&tail, release, expires, reason).await
    }

    /// Ends the pin and serves the named release: the one that waits, the target, or the pinned one itself; at once, or in
    /// the steps of a wave, for which the key must be one that may publish.
    pub async fn unpin(&self, to: &str, steps: &[Step]) -> Result<(Outcome, Option<Plan>), PublishError> {
        self.check_key(if steps.is_empty() { Role::Pin } else { Role::Publish })?;
        let tail = self.started().await?;
        let before = state_of(&tail);
        let Some(pin) = &before.pin else {
            return Err(Gate::NotPinned(self.reader.channel().clone()).into());
        };
        let release = self.released(&tail, to).await?;
        let act = Act::Unpin { release: release.clone(), steps: steps.to_vec() };
        let state = apply(&before, act, self.reader.channel(), self.meta.time)?;
        let plan = self.plan(Some(&pin.release), &release).await?;
        let reason = self.meta.reason.clone();
        let change = Change { action: Action::Unpin, state, promoted: None, reason };
        Ok((Box::pin(self.commit(&tail, change, Vec::new())).await?, Some(plan)))
    }

    async fn pin_at(
        &self,
        tail: &Tail,
        mut release: Release,
        expires: Option<OffsetDateTime>,
        reason: String,
    ) -> Result<(Outcome, Option<Plan>), PublishError> {
        let before = state_of(tail);
        // Whether they suffice, readers decide: a release may be older than the rule that asks for them.
        self.gather_cosignatures(&mut release, tail.next).await?;
        let pin =
            Pin { release: release.clone(), reason: reason.clone(), by: self.meta.author.clone(), expires };
        let state = apply(&before, Act::Pin(pin), self.reader.channel(), self.meta.time)?;
        let same = before.pin.as_ref().is_some_and(|pin| {
            pin.release.snapshot == release.snapshot && pin.reason == reason && pin.expires == expires
        });
        if same && let Some(outcome) = self.unchanged(tail, Vec::new()).await? {
            return Ok((outcome, None));
        }
        // A snapshot that gc took is refused here, and not by a thousand relays.
        let plan = self.plan(before.serving(), &release).await?;
        let change = Change { action: Action::Pin, state, promoted: None, reason };
        Ok((Box::pin(self.commit(tail, change, Vec::new())).await?, Some(plan)))
    }

    /// What changes for Envoy. Reads both snapshots whole, which proves that the new one is there.
    async fn plan(&self, from: Option<&Release>, to: &Release) -> Result<Plan, PublishError> {
        let after = self.reader.fetch(to, &|_| None).await?;
        let before = match from {
            // What is served now may be damaged in the store: that must not keep anybody from leaving it.
            Some(from) => self.reader.fetch(from, &|_| None).await.ok(),
            None => None,
        };
        Ok(match before {
            Some(before) => Plan::of(&before, &after),
            None => Plan {
                from: from.map_or(after.id(), |from| from.snapshot),
                to: after.id(),
                lines: BTreeMap::new(),
            },
        })
    }

    pub(super) async fn started(&self) -> Result<Tail, PublishError> {
        let tail = self.tail().await?;
        match &tail.entry {
            None => Err(self.empty().into()),
            Some(entry) if entry.entry.state.retired => {
                Err(Gate::Retired(self.reader.channel().clone()).into())
            }
            Some(_) => Ok(tail),
        }
    }

    pub(super) fn empty(&self) -> Gate {
        Gate::Empty(self.reader.channel().clone())
    }

    /// The newest good release before `served`, above the floor.
    async fn before(&self, state: &ChannelState, served: &Release) -> Result<Release, PublishError> {
        let mut sequence = served.sequence;
        for _ in 0..HISTORY {
            sequence = sequence.saturating_sub(1);
            let entry = match self.reader.slot(sequence).await? {
                Slot::Entry(entry) => entry.entry,
                Slot::Void(_) => continue,
                Slot::Empty => break,
            };
            let found = entry.state.serving().filter(|release| {
                release.snapshot != served.snapshot
                    && !state.bad.contains(&release.snapshot)
                    && !state.below_floor(release)
            });
            if let Some(found) = found {
                return Ok(found.clone());
            }
        }
        Err(Gate::NothingBefore(served.sequence).into())
    }

    /// The newest release whose snapshot has this id, or starts so.
    async fn released(&self, tail: &Tail, id: &str) -> Result<Release, PublishError> {
        let not_released = || Gate::NotReleased(id.chars().take(80).collect());
        if id.len() < SHORT || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(not_released().into());
        }
        let fits = |release: &&Release| release.snapshot.to_string().starts_with(id);
        let mut found: BTreeMap<Digest, Release> = BTreeMap::new();
        let mut keep = |releases: Vec<&Release>| {
            for release in releases.into_iter().filter(fits) {
                found.entry(release.snapshot).or_insert_with(|| release.clone());
            }
            found.len()
        };
        let whole = id.len() == 64;
        let state = state_of(tail);
        let mut count = keep(state.releases().collect());
        let mut sequence = tail.next.saturating_sub(1);
        let mut steps = 0;
        // A whole id is found as soon as it is met; a short one must be shown to be the only one.
        while sequence > 0 && steps < HISTORY && !(whole && count > 0) {
            match self.reader.slot(sequence).await? {
                Slot::Entry(entry) => count = keep(entry.entry.state.releases().collect()),
                Slot::Void(_) => {}
                Slot::Empty => break,
            }
            sequence -= 1;
            steps += 1;
        }
        if count > 1 {
            return Err(Gate::Ambiguous(id.to_owned()).into());
        }
        Ok(found.into_values().next().ok_or_else(not_released)?)
    }
}
