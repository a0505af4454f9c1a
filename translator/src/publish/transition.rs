//! What each act makes of the state of a channel: pure, and all in one place.
//!
//! ```text
//!              publish, promote               step …             step
//! target A ─────────────────────▶ candidate B ─────▶ more relays ─────▶ target B, previous good A
//!      │ pinned or held: B waits at step 0 │ halt: B is bad, A is pinned
//! ```
//! What holds of every state that comes out of here: a pin ends by an unpin only; a floor is lowered on demand only;
//! the previous good release is not marked bad; nothing below the floor is served or gone back to.

use super::gates::{self, Gate};
use moorgate_snapshot::channel::{BAD, Candidate, ChannelState, Floor, Hold, Pin, Release, Step};
use moorgate_snapshot::{Channel, Digest};
use time::OffsetDateTime;

/// What is done to a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Act {
    /// A release comes in, for all at once or in steps. `pardon` takes the mark off a snapshot that is marked bad.
    Release { release: Release, steps: Vec<Step>, pardon: bool },
    /// A release holds the channel.
    Pin(Pin),
    /// As a pin, and the candidate is marked bad: a wave ends.
    Halt(Pin),
    /// The pin ends, and this release is served, at once or in steps.
    Unpin { release: Release, steps: Vec<Step> },
    /// The wave goes on. `force` does not wait for its bake time.
    Step { force: bool },
    /// Automation stops.
    Hold(Hold),
    /// Automation goes on.
    Lift,
    /// What came before is not served any more. `lower` allows a lower floor than there is.
    Floor { floor: Floor, lower: bool },
    /// The fleet is gone.
    Retire,
}

/// The state after an act at the time `now`, or the gate that refuses it.
pub(super) fn apply(
    before: &ChannelState,
    act: Act,
    channel: &Channel,
    now: OffsetDateTime,
) -> Result<ChannelState, Gate> {
    let mut state = before.clone();
    match act {
        Act::Release { release, steps, pardon } => {
            if pardon {
                state.bad.retain(|bad| *bad != release.snapshot);
            }
            gates::bad(&state, &release.snapshot)?;
            state = advance(&state, release, steps, now)?;
        }
        Act::Pin(pin) => {
            started(before, channel)?;
            gates::bad(before, &pin.release.snapshot)?;
            gates::floor(before, &pin.release)?;
            state.pin = Some(pin);
            // A key that may only pin may change nothing else, not even tidy up.
            return Ok(state);
        }
        Act::Halt(pin) => {
            started(before, channel)?;
            let candidate = before.candidate.as_ref().ok_or_else(|| Gate::NoCandidate(channel.clone()))?;
            mark_bad(&mut state, candidate.release.snapshot);
            if before.pin.is_none() {
                gates::bad(&state, &pin.release.snapshot)?;
                state.pin = Some(pin);
            }
        }
        Act::Unpin { release, steps } => {
            started(before, channel)?;
            let pin = state.pin.take().ok_or_else(|| Gate::NotPinned(channel.clone()))?;
            gates::bad(before, &release.snapshot)?;
            gates::floor(before, &release)?;
            unpin(&mut state, pin.release, release, steps, now);
        }
        Act::Step { force } => step(&mut state, channel, now, force)?,
        Act::Hold(hold) => {
            started(before, channel)?;
            state.hold = Some(hold);
        }
        Act::Lift => {
            state.hold.take().ok_or_else(|| Gate::NotHeld(channel.clone()))?;
        }
        Act::Floor { floor, lower } => raise(&mut state, floor, lower, channel)?,
        Act::Retire => {
            started(before, channel)?;
            stopped(before)?;
            state.retired = true;
            state.candidate = None;
        }
    }
    tidy(&mut state);
    Ok(state)
}

/// The state after a new release: in force, the first step of a wave, or waiting if the channel is pinned or held.
fn advance(
    before: &ChannelState,
    release: Release,
    steps: Vec<Step>,
    now: OffsetDateTime,
) -> Result<ChannelState, Gate> {
    let mut state = ChannelState { retired: false, ..before.clone() };
    if before.pin.is_some() || before.hold.is_some() {
        // A hold leaves everything where it is: also the relays that a wave has reached.
        let reached = before.pin.is_none() && before.candidate.as_ref().is_some_and(|wave| wave.step > 0);
        if let Some(hold) = before.hold.as_ref().filter(|_| reached) {
            return Err(Gate::HeldWave { by: hold.by.clone(), reason: hold.reason.clone() });
        }
        state.candidate = Some(Candidate { release, step: 0, steps, since: None });
        return Ok(state);
    }
    // Where nothing is served, or the same, there is nobody to spare.
    let spares = before.serving().is_some_and(|served| served.snapshot != release.snapshot);
    if spares && !steps.is_empty() {
        state.candidate = Some(Candidate { release, step: 1, steps, since: Some(now) });
    } else {
        complete(&mut state, before, release);
    }
    Ok(state)
}

/// A release comes into force for all.
fn complete(state: &mut ChannelState, before: &ChannelState, release: Release) {
    let good = |served: &&Release| !before.bad.contains(&served.snapshot);
    let served = before.serving().filter(good);
    if let Some(served) = served.filter(|served| served.snapshot != release.snapshot) {
        state.previous_good = Some(served.clone());
    }
    state.target = Some(release);
    state.candidate = None;
}

fn unpin(state: &mut ChannelState, pinned: Release, release: Release, steps: Vec<Step>, now: OffsetDateTime) {
    // What waited is named here, or has to be published again: it must not come later by itself.
    state.candidate = None;
    if release.snapshot == pinned.snapshot {
        state.target = Some(release);
    } else if steps.is_empty() {
        if !state.bad.contains(&pinned.snapshot) {
            state.previous_good = Some(pinned);
        }
        state.target = Some(release);
    } else {
        // Relays that the wave has not reached go on with what was pinned.
        state.target = Some(pinned);
        state.candidate = Some(Candidate { release, step: 1, steps, since: Some(now) });
    }
}

fn step(state: &mut ChannelState, channel: &Channel, now: OffsetDateTime, force: bool) -> Result<(), Gate> {
    started(state, channel)?;
    stopped(state)?;
    let before = state.clone();
    let candidate = state.candidate.as_mut().ok_or_else(|| Gate::NoCandidate(channel.clone()))?;
    gates::bad(&before, &candidate.release.snapshot)?;
    gates::floor(&before, &candidate.release)?;
    if let Some(until) = baked_at(candidate).filter(|until| now < *until && !force) {
        return Err(Gate::Baking { step: candidate.step, until });
    }
    if usize::try_from(candidate.step).is_ok_and(|done| done < candidate.steps.len()) {
        candidate.step += 1;
        candidate.since = Some(now);
    } else {
        let release = candidate.release.clone();
        complete(state, &before, release);
    }
    Ok(())
}

/// Whether the present step of a wave has baked.
pub(super) fn is_over(candidate: &Candidate, now: OffsetDateTime) -> bool {
    baked_at(candidate).is_none_or(|until| now >= until)
}

/// When the present step of a wave has baked; none before the first step.
fn baked_at(candidate: &Candidate) -> Option<OffsetDateTime> {
    let seconds = i64::try_from(candidate.baking()?.bake_seconds).unwrap_or(i64::MAX);
    candidate.since?.checked_add(time::Duration::seconds(seconds))
}

fn raise(state: &mut ChannelState, floor: Floor, lower: bool, channel: &Channel) -> Result<(), Gate> {
    started(state, channel)?;
    let to = floor.sequence;
    if let Some(from) = state.floor.as_ref().map(|floor| floor.sequence).filter(|from| *from > to && !lower) {
        return Err(Gate::LowerFloor { from, to });
    }
    // What is served must not fall below it: that has to be changed first.
    let wave = state.candidate.as_ref().filter(|wave| wave.step > 0).map(|wave| &wave.release);
    let pin = state.pin.as_ref().map(|pin| &pin.release);
    let served = [state.serving(), state.target.as_ref(), pin, wave];
    let below = served.into_iter().flatten().find(|release| release.sequence < to);
    if let Some(below) = below {
        return Err(Gate::FloorAbove { floor: to, sequence: below.sequence });
    }
    state.floor = Some(floor);
    let floored = state.clone();
    state.previous_good = state.previous_good.take().filter(|release| !floored.below_floor(release));
    state.candidate = state.candidate.take().filter(|wave| !floored.below_floor(&wave.release));
    Ok(())
}

/// Marks a snapshot bad; beyond [`BAD`] marks the oldest gives way.
fn mark_bad(state: &mut ChannelState, snapshot: Digest) {
    state.bad.retain(|bad| *bad != snapshot);
    state.bad.push(snapshot);
    let over = state.bad.len().saturating_sub(BAD);
    state.bad.drain(..over);
}

fn tidy(state: &mut ChannelState) {
    let bad = &state.bad;
    state.previous_good = state.previous_good.take().filter(|release| !bad.contains(&release.snapshot));
}

fn started(state: &ChannelState, channel: &Channel) -> Result<(), Gate> {
    if state.retired {
        Err(Gate::Retired(channel.clone()))
    } else if state.releases().next().is_none() {
        Err(Gate::Empty(channel.clone()))
    } else {
        Ok(())
    }
}

/// Refuses what a pin or hold keeps from going on.
fn stopped(state: &ChannelState) -> Result<(), Gate> {
    if let Some(pin) = &state.pin {
        return Err(Gate::Pinned { by: pin.by.clone(), reason: pin.reason.clone() });
    }
    match &state.hold {
        Some(hold) => Err(Gate::Held { by: hold.by.clone(), reason: hold.reason.clone() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
