//! Which snapshot is in force.

use crate::cache::State;
use moorgate_snapshot::{Digest, Effective};
use serde::Serialize;

/// Why a snapshot is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Because {
    /// The pin file beside this relay asks for it.
    LocalPin,
    /// The channel is pinned to it.
    Pin,
    /// It is the channel's target.
    Target,
    /// It is the channel's candidate, and the wave has reached this relay.
    Wave,
    /// The channel's target is marked bad, or Envoys refused it here: this is the last good one.
    LastGood,
    /// It came with the machine, and no store has said more yet.
    Seed,
    /// What the channel asks for is not here yet: this is what was served before.
    Cache,
}

impl Because {
    /// A stable word, as in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LocalPin => "local_pin",
            Self::Pin => "pin",
            Self::Target => "target",
            Self::Wave => "wave",
            Self::LastGood => "last_good",
            Self::Cache => "cache",
            Self::Seed => "seed",
        }
    }
}

/// What is to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// Nothing is known yet.
    Nothing,
    /// The fleet is gone.
    Retired,
    /// This.
    Serve(Digest, Because),
}

/// Chooses. `effective` is what the channel asks of this relay, and `here` says whether a snapshot is in memory or in the cache, whole.
pub(super) fn choose(
    effective: Effective<'_>,
    state: &State,
    pin: Option<Digest>,
    here: &mut dyn FnMut(Digest) -> bool,
) -> Choice {
    if let Some(pin) = pin.filter(|pin| here(*pin)) {
        return Choice::Serve(pin, Because::LocalPin);
    }
    let refused = |id: &Digest| state.quarantined.contains_key(id);
    let (release, because, fallback) = match effective {
        Effective::Retired => return Choice::Retired,
        Effective::Serve { release, because, fallback } => (Some(release), because.into(), fallback),
        Effective::Empty => (None, Because::Cache, None),
    };
    let wanted = release.map(|release| release.snapshot);
    if let Some(wanted) = wanted.filter(|id| !refused(id) && here(*id)) {
        return Choice::Serve(wanted, because);
    }
    let was_refused = wanted.as_ref().is_some_and(refused);
    let stand_in = if was_refused { Because::LastGood } else { Because::Cache };
    // Back from a candidate means to what all others serve.
    let back = fallback.filter(|_| because == Because::Wave);
    let mut others: Vec<Digest> = back.iter().map(|release| release.snapshot).collect();
    others.extend(if was_refused { state.good.clone() } else { state.candidates() });
    others.extend(fallback.map(|release| release.snapshot));
    others.extend(state.candidates());
    if let Some(other) = others.into_iter().find(|id| Some(*id) != wanted && !refused(id) && here(*id)) {
        return Choice::Serve(other, stand_in);
    }
    // Nothing better is known: what was refused is better than nothing, since Envoy takes the parts that it can.
    match wanted.into_iter().chain(state.candidates()).find(|id| here(*id)) {
        Some(id) => Choice::Serve(id, because),
        None => Choice::Nothing,
    }
}

impl From<moorgate_snapshot::Because> for Because {
    fn from(because: moorgate_snapshot::Because) -> Self {
        match because {
            moorgate_snapshot::Because::Pin => Self::Pin,
            moorgate_snapshot::Because::Target => Self::Target,
            moorgate_snapshot::Because::TargetIsBad => Self::LastGood,
            moorgate_snapshot::Because::Wave => Self::Wave,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Refused;
    use moorgate_snapshot::channel::{Candidate, Step};
    use moorgate_snapshot::{Channel, ChannelState, RelayIdentity, Release};
    use std::collections::BTreeMap;
    use time::OffsetDateTime;

    fn id(n: u8) -> Digest {
        Digest::of(&[n])
    }

    fn release(n: u8) -> Release {
        Release::new(id(n), n.into(), OffsetDateTime::UNIX_EPOCH)
    }

    fn channel(target: u8, previous: Option<u8>) -> ChannelState {
        ChannelState {
            target: Some(release(target)),
            previous_good: previous.map(release),
            ..ChannelState::default()
        }
    }

    /// The same with a candidate that every relay takes, or none yet.
    fn wave(target: u8, candidate: u8, done: u32) -> ChannelState {
        let step = Step { labels: BTreeMap::new(), percent: 100, bake_seconds: 60, max_error_percent: None };
        let candidate = Candidate { release: release(candidate), step: done, steps: vec![step], since: None };
        ChannelState { candidate: Some(candidate), ..channel(target, None) }
    }

    fn effective(channel: Option<&ChannelState>) -> Effective<'_> {
        let identity = RelayIdentity::new("relay-1".parse().unwrap(), BTreeMap::new()).unwrap();
        channel.map_or(Effective::Empty, |channel| channel.effective_for(&identity, &Channel::stable()))
    }

    /// Snapshots here, the channel, what is served and good, what is quarantined, a local pin: what is chosen.
    #[test]
    fn choices() {
        type Case<'a> =
            (&'a [u8], Option<ChannelState>, &'a [u8], &'a [u8], Option<u8>, Option<(u8, Because)>);
        let cases: Vec<Case<'_>> = vec![
            (&[], None, &[], &[], None, None),
            (&[1], None, &[1], &[], None, Some((1, Because::Cache))),
            (&[2], Some(channel(2, None)), &[], &[], None, Some((2, Because::Target))),
            // Not fetched yet, or refused by the verifier: the one before goes on.
            (&[1], Some(channel(2, Some(1))), &[1], &[], None, Some((1, Because::Cache))),
            // A new relay whose channel has a target that cannot be fetched.
            (&[1], Some(channel(2, Some(1))), &[], &[], None, Some((1, Because::Cache))),
            (&[1, 2], Some(channel(2, Some(1))), &[2, 1], &[2], None, Some((1, Because::LastGood))),
            (&[2], Some(channel(2, None)), &[], &[2], None, Some((2, Because::Target))),
            (&[1, 2], Some(channel(2, None)), &[2], &[], Some(1), Some((1, Because::LocalPin))),
            (&[2], Some(channel(2, None)), &[2], &[], Some(1), Some((2, Because::Target))),
            (&[1, 2], Some(wave(1, 2, 1)), &[1], &[], None, Some((2, Because::Wave))),
            (&[1, 2], Some(wave(1, 2, 0)), &[1], &[], None, Some((1, Because::Target))),
            (&[1], Some(wave(1, 2, 1)), &[1], &[], None, Some((1, Because::Cache))),
            // Back to the target, even if another one was good here last.
            (&[1, 2, 3], Some(wave(1, 2, 1)), &[3], &[2], None, Some((1, Because::LastGood))),
            (&[2, 3], Some(wave(1, 2, 1)), &[3], &[2], None, Some((3, Because::LastGood))),
            (&[1, 2, 3], Some(wave(1, 2, 1)), &[3], &[2, 1], None, Some((3, Because::LastGood))),
            (&[1, 2], Some(wave(1, 2, 1)), &[1], &[], Some(1), Some((1, Because::LocalPin))),
            // By hand, even what was refused.
            (&[1, 2], Some(channel(2, None)), &[2], &[1], Some(1), Some((1, Because::LocalPin))),
        ];
        for (number, (here, channel, good, refused, pin, expected)) in cases.iter().enumerate() {
            let state = State {
                serving: good.first().map(|n| id(*n)),
                good: good.iter().map(|n| id(*n)).collect(),
                quarantined: refused.iter().map(|n| (id(*n), Refused::default())).collect(),
                ..State::default()
            };
            let here: Vec<Digest> = here.iter().map(|n| id(*n)).collect();
            let choice = choose(effective(channel.as_ref()), &state, pin.map(id), &mut |wanted| {
                here.contains(&wanted)
            });
            let expected = expected.map_or(Choice::Nothing, |(n, because)| Choice::Serve(id(n), because));
            assert_eq!(choice, expected, "case {number}");
        }
        let retired = ChannelState { retired: true, ..channel(2, None) };
        let choice = choose(effective(Some(&retired)), &State::default(), None, &mut |_| true);
        assert_eq!(choice, Choice::Retired);
    }
}
