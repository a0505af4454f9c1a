//! Steps, holds, floors and the end of a fleet: entries without a new snapshot.

use super::gates::{Allow, Gate};
use super::release::state_of;
use super::reports::{Reports, Verdict, judge};
use super::transition::{Act, apply};
use super::{Change, Outcome, PublishError, Publisher};
use moorgate_snapshot::channel::{Floor, Hold, Pin};
use moorgate_snapshot::entry::Action;
use moorgate_snapshot::reader::{Slot, Tail};
use moorgate_snapshot::{ChannelState, Digest, Role};

/// What the reasons of automatic pins start with: by that they are counted.
pub const AUTOMATIC: &str = "wave halted: ";
/// So many automatic pins within [`WINDOW`] are enough: then a person has to look.
const AUTOMATIC_PINS: usize = 2;
/// The time within which automatic pins are counted.
const WINDOW: time::Duration = time::Duration::HOUR;
/// How many entries back automatic pins are looked for.
const LOOK_BACK: usize = 100;

impl Publisher<'_> {
    /// Moves a wave on by one step; after the last one its release is in force for all. Refused before the bake time is
    /// over or while the relays of the present step do not all report that they are well, unless forced. A release that
    /// waits, with nothing to stop it any more, takes its first step. `of` refuses if the candidate is another one.
    pub async fn step(&self, force: bool, of: Option<&Digest>) -> Result<Outcome, PublishError> {
        self.check_key(Role::Publish)?;
        let tail = self.started().await?;
        let before = state_of(&tail);
        is_candidate(&before, of)?;
        // First what needs no reports: a pin, a hold, the bake time.
        let state = apply(&before, Act::Step { force }, self.reader.channel(), self.meta.time)?;
        if let Some(candidate) = before.candidate.as_ref().filter(|wave| wave.step > 0 && !force) {
            let reports = Reports::read(&self.reader).await?;
            match judge(candidate, self.reader.channel(), &reports, self.meta.time) {
                Verdict::Ready(_) => {}
                Verdict::Pending(progress) => {
                    let why = progress.missing(3);
                    return Err(Gate::Unhealthy { step: candidate.step, why }.into());
                }
                Verdict::Halt(why) => return Err(Gate::Unhealthy { step: candidate.step, why }.into()),
            }
        }
        self.act(&tail, Action::Step, state, self.meta.reason.clone()).await
    }

    /// Ends a wave: pins what all other relays serve, and marks the candidate bad.
    pub async fn halt(&self) -> Result<Outcome, PublishError> {
        self.halt_for(self.meta.reason.clone(), None).await
    }

    /// As [`Publisher::halt`], by a program: refused if it did so too often within the hour.
    pub async fn halt_automatically(&self, of: &Digest, why: &str) -> Result<Outcome, PublishError> {
        let tail = self.started().await?;
        let count = self.automatic_pins(&tail).await?;
        if count >= AUTOMATIC_PINS {
            return Err(Gate::AskPerson { count, why: why.to_owned() }.into());
        }
        self.halt_for(cut(&format!("{AUTOMATIC}{why}"), super::REASON_BYTES), Some(of)).await
    }

    async fn halt_for(&self, reason: String, of: Option<&Digest>) -> Result<Outcome, PublishError> {
        self.check_key(Role::Publish)?;
        let tail = self.started().await?;
        let before = state_of(&tail);
        is_candidate(&before, of)?;
        let release = before.serving().cloned().ok_or_else(|| self.empty())?;
        let by = self.meta.author.clone();
        let pin = Pin { release, reason: reason.clone(), by, expires: None };
        let state = apply(&before, Act::Halt(pin), self.reader.channel(), self.meta.time)?;
        self.act(&tail, Action::Pin, state, reason).await
    }

    async fn automatic_pins(&self, tail: &Tail) -> Result<usize, PublishError> {
        let slots = self.reader.history(tail.next.saturating_sub(1), LOOK_BACK).await?;
        let recent = slots.iter().filter(|(_, slot)| match slot {
            Slot::Entry(entry) => {
                let entry = &entry.entry;
                entry.action == Action::Pin
                    && entry.reason.starts_with(AUTOMATIC)
                    && self.meta.time - entry.time <= WINDOW
            }
            Slot::Void(_) | Slot::Empty => false,
        });
        Ok(recent.count())
    }

    /// Stops automation: publishing moves the candidate only, and a wave stands.
    pub async fn hold(&self) -> Result<Outcome, PublishError> {
        self.check_key(Role::Publish)?;
        let tail = self.started().await?;
        let before = state_of(&tail);
        let hold = Hold { reason: self.meta.reason.clone(), by: self.meta.author.clone() };
        if before.hold.as_ref() == Some(&hold)
            && let Some(outcome) = self.unchanged(&tail, Vec::new()).await?
        {
            return Ok(outcome);
        }
        let state = apply(&before, Act::Hold(hold), self.reader.channel(), self.meta.time)?;
        self.act(&tail, Action::Hold, state, self.meta.reason.clone()).await
    }

    /// Lets automation go on. What waited goes on waiting until it is stepped or published again.
    pub async fn lift(&self) -> Result<Outcome, PublishError> {
        self.check_key(Role::Publish)?;
        let tail = self.tail().await?;
        let before = state_of(&tail);
        let state = apply(&before, Act::Lift, self.reader.channel(), self.meta.time)?;
        let mut outcome = self.act(&tail, Action::Hold, state, self.meta.reason.clone()).await?;
        let waits = outcome.entry.state.candidate.as_ref().filter(|wave| wave.step == 0);
        if let Some(waits) = waits {
            let id = waits.release.snapshot.short();
            outcome
                .warnings
                .push(format!("{id} still waits: `moorgate step`, or publishing it again, lets it out"));
        }
        Ok(outcome)
    }

    /// Forbids releases below `sequence`. A floor goes down only if `lower` says so.
    pub async fn floor(&self, sequence: u64, lower: bool) -> Result<Outcome, PublishError> {
        self.check_key(Role::Publish)?;
        let tail = self.started().await?;
        let before = state_of(&tail);
        let floor = Floor { sequence, reason: self.meta.reason.clone() };
        if before.floor.as_ref() == Some(&floor)
            && let Some(outcome) = self.unchanged(&tail, Vec::new()).await?
        {
            return Ok(outcome);
        }
        let act = Act::Floor { floor, lower };
        let state = apply(&before, act, self.reader.channel(), self.meta.time)?;
        self.act(&tail, Action::Floor, state, self.meta.reason.clone()).await
    }

    /// Ends the fleet in this channel: its relays drain listeners and drop secrets. A later publish revives it.
    pub async fn retire(&self, writer: &str, allow: Allow) -> Result<Outcome, PublishError> {
        self.check_key(Role::Publish)?;
        let tail = self.tail().await?;
        let before = state_of(&tail);
        if before.retired
            && let Some(outcome) = self.unchanged(&tail, Vec::new()).await?
        {
            return Ok(outcome);
        }
        if !allow.other_writer {
            super::gates::writer(&before, writer)?;
        }
        let state = apply(&before, Act::Retire, self.reader.channel(), self.meta.time)?;
        self.act(&tail, Action::Retire, state, self.meta.reason.clone()).await
    }

    async fn act(
        &self,
        tail: &Tail,
        action: Action,
        state: ChannelState,
        reason: String,
    ) -> Result<Outcome, PublishError> {
        let change = Change { action, state, promoted: None, reason };
        Box::pin(self.commit(tail, change, Vec::new())).await
    }
}

/// Refuses if the wave is one of another snapshot than was judged.
fn is_candidate(state: &ChannelState, of: Option<&Digest>) -> Result<(), Gate> {
    let candidate = state.candidate.as_ref().map(|candidate| candidate.release.snapshot);
    match (of, candidate) {
        (Some(of), Some(candidate)) if *of != candidate => Err(Gate::OtherCandidate(candidate)),
        _ => Ok(()),
    }
}

/// The start of a text, up to so many bytes, cut at a character.
fn cut(text: &str, most: usize) -> String {
    let end = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].to_owned()
}
