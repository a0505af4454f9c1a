//! Publishing a snapshot, and promoting one from another channel.

use super::gates::{self, Allow, Gate};
use super::preview::{shrinks, shrinks_by, understood};
use super::transition::{Act, apply};
use super::{Change, Done, Outcome, PublishError, Publisher};
use crate::history::Records;
use moorgate_snapshot::attestation::Provenance;
use moorgate_snapshot::channel::{BundleRef, ChannelState, Release, Source, Step};
use moorgate_snapshot::entry::{Action, Promoted};
use moorgate_snapshot::gc;
use moorgate_snapshot::reader::{Reader, Tail};
use moorgate_snapshot::writer::{self, Written};
use moorgate_snapshot::{Digest, Role, Snapshot};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A bundle is kept for the next release as long as at most this many of its pages lie outside it …
const BUNDLE_MISSES: usize = 16;
/// … or at most one in so many.
const BUNDLE_SHARE: usize = 8;

/// A snapshot to publish.
pub struct Offer<'a> {
    /// What Envoy will see.
    pub snapshot: &'a Snapshot,
    /// How many routes it has.
    pub routes: u64,
    /// What it was compiled from.
    pub source: Option<Source>,
    /// Small documents that are signed beside it, such as `counts`.
    pub documents: BTreeMap<String, Value>,
    /// What it was made from, and by what: signed beside it.
    pub provenance: Provenance,
    /// The objects that it was made of, signed beside it too.
    pub records: Records,
    /// Who publishes to this channel: CI under one name, a loop in a cluster under another.
    pub writer: String,
    /// What the user asked for beyond the usual.
    pub allow: Allow,
    /// The entry that must be the newest. From a plan.
    pub parent: Option<Parent>,
    /// Which relays take it one after the other; all at once if empty.
    pub steps: Vec<Step>,
    /// Whether the second commit descends from the first; none if it cannot be told.
    pub descends: &'a (dyn Fn(&str, &str) -> Option<bool> + Sync),
}

/// The entry that must be the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// Its slot; 0 if there must be none.
    pub sequence: u64,
    /// The digest of its payload, if it is known.
    pub digest: Option<Digest>,
}

impl Publisher<'_> {
    /// Publishes a snapshot to the channel. One that is the newest already gives no entry. While the channel is pinned or
    /// held, only its candidate moves.
    pub async fn publish(&self, offer: &Offer<'_>) -> Result<Outcome, PublishError> {
        self.check_key(Role::Publish)?;
        let tail = self.tail().await?;
        let state = state_of(&tail);
        let mut warnings = self.offer_warnings(offer, &state);
        warnings.extend(check_offer(offer, &tail, &state)?);
        let id = offer.snapshot.id();
        let pardoned = offer.allow.bad && state.bad.contains(&id);
        if !pardoned
            && is_newest(&state, &id)
            && let Some(mut outcome) = self.unchanged(&tail, warnings.clone()).await?
        {
            if !self.dry_run {
                // What a lifecycle rule or a restored bucket lost comes back.
                outcome.written = writer::restore(self.reader.store(), offer.snapshot).await?;
            }
            return Ok(outcome);
        }
        let mut reason = self.meta.reason.clone();
        if let Err(gate) = shrinks(&self.reader, offer, &state, &mut warnings).await? {
            if !offer.allow.shrink {
                return Err(gate.into());
            }
            reason = allowed(&reason, "shrink", &gate);
        }
        understood(&self.reader, offer, self.meta.time, &mut warnings).await??;
        let mut release = Release {
            source: offer.source.clone(),
            routes: Some(offer.routes),
            ..Release::new(id, tail.next, self.meta.time)
        };
        let next = |release: Release| {
            let steps = offer.steps.clone();
            let act = Act::Release { release, steps, pardon: offer.allow.bad };
            let state = apply(&state, act, self.reader.channel(), self.meta.time)?;
            Ok::<_, Gate>(ChannelState { writer: offer.writer.clone(), ..state })
        };
        // As long as it will be: an entry that is too long is refused before anything is uploaded.
        let longest = Release {
            attestation: Some(id),
            bundle: Some(BundleRef { digest: id, size: u64::MAX, snapshot: id }),
            ..release.clone()
        };
        let change =
            |state| Change { action: Action::Publish, state, promoted: None, reason: reason.clone() };
        self.check_size(&tail, change(next(longest)?))?;
        let mut written = Written::default();
        if !self.dry_run {
            self.probe_before_first(&tail).await?;
            written = self.upload(offer, state.newest(), &mut release).await?;
            self.read_back(offer.snapshot, &release).await?;
            self.require_cosignatures(&mut release, tail.next).await?;
        }
        let mut outcome = Box::pin(self.commit(&tail, change(next(release)?), warnings)).await?;
        if outcome.result == Done::Committed {
            match gc::recheck(self.reader.store(), offer.snapshot).await {
                Ok(mended) => written = written.and(mended),
                Err(error) => outcome.warnings.push(format!("gc may have taken pages away: {error}")),
            }
        }
        Ok(Outcome { written, ..outcome })
    }

    /// Releases what another channel of the fleet serves, the same bytes, in this one.
    pub async fn promote(
        &self,
        from: &Reader,
        allow: Allow,
        steps: &[Step],
    ) -> Result<Outcome, PublishError> {
        self.check_key(Role::Publish)?;
        let origin = from.newest(None).await?;
        let Some(origin) = origin.entry else { return Err(Gate::Empty(from.channel().clone()).into()) };
        if origin.entry.state.retired {
            return Err(Gate::Retired(from.channel().clone()).into());
        }
        let served = origin.entry.state.serving().cloned();
        let served = served.ok_or_else(|| Gate::Empty(from.channel().clone()))?;
        let tail = self.tail().await?;
        let before = state_of(&tail);
        if !allow.bad {
            gates::bad(&before, &served.snapshot)?;
        }
        let mut reason = self.meta.reason.clone();
        let mut warnings = waiting(&before);
        if let Err(gate) = shrinks_by((from, &served), &self.reader, &before, &mut warnings).await {
            if !allow.shrink {
                return Err(gate.into());
            }
            reason = allowed(&reason, "shrink", &gate);
        }
        let pardoned = allow.bad && before.bad.contains(&served.snapshot);
        if !pardoned
            && is_newest(&before, &served.snapshot)
            && let Some(outcome) = self.unchanged(&tail, Vec::new()).await?
        {
            return Ok(outcome);
        }
        self.probe_before_first(&tail).await?;
        // All of it must be there before a channel names it.
        self.reader.fetch(&Release { bundle: None, ..served.clone() }, &|_| None).await?;
        let mut release = Release { sequence: tail.next, time: self.meta.time, ..served };
        self.require_cosignatures(&mut release, tail.next).await?;
        let promoted = Promoted { channel: from.channel().clone(), sequence: origin.entry.sequence };
        let act = Act::Release { release, steps: steps.to_vec(), pardon: allow.bad };
        let state = apply(&before, act, self.reader.channel(), self.meta.time)?;
        let change = Change { action: Action::Promote, state, promoted: Some(promoted), reason };
        Box::pin(self.commit(&tail, change, warnings)).await
    }

    /// Refuses a key before anything is uploaded with it.
    pub(super) fn check_key(&self, role: Role) -> Result<(), PublishError> {
        let id = self.signer.public().id();
        let (fleet, channel) = (self.reader.store().fleet(), self.reader.channel());
        let trusted = self.reader.trust().keys().any(|key| {
            key.key.id() == id && (key.may(role, fleet, channel) || key.may(Role::Publish, fleet, channel))
        });
        if trusted { Ok(()) } else { Err(Gate::Key(id).into()) }
    }

    fn offer_warnings(&self, offer: &Offer<'_>, state: &ChannelState) -> Vec<String> {
        let mut warnings = waiting(state);
        if is_translators(offer, state) {
            warnings.push(
                "the source is the one that is published, and the snapshot differs: this comes from another translator \
                 or other options"
                    .to_owned(),
            );
        }
        for limit in offer.snapshot.usage().warnings() {
            warnings.push(format!("near a limit: {limit}"));
        }
        let expiry = state.pin.as_ref().and_then(|pin| pin.expires);
        if expiry.is_some_and(|expiry| expiry < self.meta.time) {
            warnings.push("the pin has expired; it holds until somebody unpins".to_owned());
        }
        warnings
    }

    /// Writes pages, manifest, bundle and attestation.
    async fn upload(
        &self,
        offer: &Offer<'_>,
        parent: Option<&Release>,
        release: &mut Release,
    ) -> Result<Written, PublishError> {
        let store = self.reader.store();
        let there = match parent {
            Some(parent) => self.pages_of(&parent.snapshot).await,
            None => BTreeSet::new(),
        };
        let mut written = writer::write_snapshot(store, offer.snapshot, &|page| there.contains(page)).await?;
        release.bundle = match parent.and_then(|parent| parent.bundle) {
            Some(bundle) if self.still_pays(&bundle, offer.snapshot).await => Some(bundle),
            _ => {
                let fresh = writer::write_bundle(store, offer.snapshot).await?;
                match fresh {
                    Some(name) if !self.reader.bundle_holds(&name, offer.snapshot).await => {
                        return Err(PublishError::ReadBack(format!("bundle {}", name.digest)));
                    }
                    fresh => fresh,
                }
            }
        };
        let (digest, beside) = Box::pin(self.attest(offer, parent)).await?;
        release.attestation = Some(digest);
        written = written.and(beside);
        Ok(written)
    }

    /// The pages of a snapshot; none if its manifest cannot be read, so that all are written.
    async fn pages_of(&self, snapshot: &Digest) -> BTreeSet<Digest> {
        match self.reader.manifest(snapshot).await {
            Ok(manifest) => manifest.pages().iter().map(|page| page.digest).collect(),
            Err(_) => BTreeSet::new(),
        }
    }

    /// Whether a cold relay still gets most pages from this bundle.
    async fn still_pays(&self, bundle: &BundleRef, snapshot: &Snapshot) -> bool {
        let bundled = self.pages_of(&bundle.snapshot).await;
        let pages = snapshot.pages();
        let misses = pages.iter().filter(|page| !bundled.contains(&page.digest())).count();
        misses <= BUNDLE_MISSES.max(pages.len() / BUNDLE_SHARE) && misses < pages.len()
    }

    /// Reads all of it back as a relay will, page by page. What does not hold is written again, once.
    async fn read_back(&self, snapshot: &Snapshot, release: &Release) -> Result<(), PublishError> {
        let plain = Release { bundle: None, ..release.clone() };
        // First what was found there and gc has condemned, so that from here on it stays.
        match gc::guard(&self.reader, std::slice::from_ref(&plain)).await {
            Ok(_) => {}
            Err(error) if error.is_integrity() => drop(writer::mend(self.reader.store(), snapshot).await?),
            Err(error) => return Err(error.into()),
        }
        let read = match self.reader.fetch(&plain, &|_| None).await {
            Ok(read) => read,
            Err(error) if error.is_integrity() => {
                tracing::warn!(%error, "what is in the store does not hold: written again");
                writer::mend(self.reader.store(), snapshot).await?;
                self.reader.fetch(&plain, &|_| None).await?
            }
            Err(error) => return Err(error.into()),
        };
        if read != *snapshot {
            return Err(PublishError::ReadBack(format!("snapshot {}", snapshot.id())));
        }
        self.reader.attestation(release).await?;
        Ok(())
    }
}

/// Whether there is nothing to release: this snapshot is the newest. One that waits is, as long as it has to.
pub(super) fn is_newest(state: &ChannelState, snapshot: &Digest) -> bool {
    let stopped = state.pin.is_some() || state.hold.is_some();
    let waits = state.candidate.as_ref().is_some_and(|candidate| candidate.step == 0);
    !state.retired
        && (stopped || !waits)
        && state.newest().is_some_and(|release| release.snapshot == *snapshot)
}

/// Whether the same tree gives another snapshot than it gave when it was published.
pub(super) fn is_translators(offer: &Offer<'_>, state: &ChannelState) -> bool {
    let tree = |source: Option<&Source>| source.map(|source| source.tree.clone()).unwrap_or_default();
    let new = tree(offer.source.as_ref());
    state.newest().is_some_and(|release| {
        release.snapshot != offer.snapshot.id() && !new.is_empty() && tree(release.source.as_ref()) == new
    })
}

/// A reason that says which gate was told to let it pass.
fn allowed(reason: &str, what: &str, gate: &Gate) -> String {
    let gate = match gate {
        Gate::Shrunk { before, after } => format!("{after} routes after {before}"),
        Gate::PartShrunk { what, before, after } => format!("{what}: {after} routes after {before}"),
        other => other.to_string(),
    };
    let space = if reason.is_empty() { "" } else { " " };
    format!("{reason}{space}[{what} allowed: {gate}]")
}

/// The state that the newest entry holds.
pub(super) fn state_of(tail: &Tail) -> ChannelState {
    tail.entry.as_ref().map(|entry| entry.entry.state.clone()).unwrap_or_default()
}

pub(super) fn waiting(state: &ChannelState) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(pin) = &state.pin {
        let at = pin.release.snapshot.short();
        warnings.push(format!(
            "pinned at {at} by {} ({}): this release waits behind the pin",
            pin.by, pin.reason
        ));
    }
    if let Some(hold) = &state.hold {
        warnings.push(format!("held by {} ({}): this release waits", hold.by, hold.reason));
    }
    warnings
}

/// The gates of publishing.
pub(super) fn check_offer(
    offer: &Offer<'_>,
    tail: &Tail,
    state: &ChannelState,
) -> Result<Option<String>, Gate> {
    let mut warning = None;
    let newest = tail.entry.as_ref().map_or(0, |entry| entry.entry.sequence);
    if let Some(parent) = offer.parent {
        if parent.sequence != newest {
            return Err(Gate::NotAtParent { found: newest, expected: parent.sequence });
        }
        let digest = tail.entry.as_ref().map(|entry| entry.digest);
        if parent.digest.is_some_and(|planned| digest != Some(planned)) {
            return Err(Gate::OtherParent(newest));
        }
    }
    if !offer.allow.other_writer {
        gates::writer(state, &offer.writer)?;
    }
    if !offer.allow.unrelated {
        warning = gates::descent(state.newest(), offer.source.as_ref(), offer.descends)?;
    }
    if !offer.allow.bad {
        gates::bad(state, &offer.snapshot.id())?;
    }
    Ok(warning)
}
