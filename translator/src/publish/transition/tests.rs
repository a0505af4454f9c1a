use super::*;
use moorgate_snapshot::wave::RelayIdentity;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn release(n: u8) -> Release {
    Release::new(Digest::of(&[n]), n.into(), OffsetDateTime::UNIX_EPOCH)
}

fn pin(n: u8) -> Pin {
    Pin { release: release(n), reason: "r".into(), by: "b".into(), expires: None }
}

fn hold() -> Hold {
    Hold { reason: "sale".into(), by: "b".into() }
}

fn steps(count: usize) -> Vec<Step> {
    let step = Step { labels: BTreeMap::new(), percent: 10, bake_seconds: 300, max_error_percent: None };
    vec![step; count]
}

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds)
}

fn out(n: u8, count: usize) -> Act {
    Act::Release { release: release(n), steps: steps(count), pardon: false }
}

fn floor(sequence: u64, lower: bool) -> Act {
    Act::Floor { floor: Floor { sequence, reason: "r".into() }, lower }
}

fn run(acts: Vec<Act>) -> Result<ChannelState, Gate> {
    acts.into_iter()
        .try_fold(ChannelState::default(), |state, act| apply(&state, act, &Channel::stable(), at(1000)))
}

/// What the state names: target, previous good, candidate and its step, pin.
fn named(state: &ChannelState) -> String {
    let number =
        |release: Option<&Release>| release.map_or("-".to_owned(), |found| found.sequence.to_string());
    let wave = state.candidate.as_ref();
    format!(
        "{} {} {}/{} {}{}",
        number(state.target.as_ref()),
        number(state.previous_good.as_ref()),
        number(wave.map(|wave| &wave.release)),
        wave.map_or(0, |wave| wave.step),
        number(state.pin.as_ref().map(|pin| &pin.release)),
        if state.retired { " retired" } else { "" },
    )
}

#[test]
fn each_act_has_its_place() {
    let force = || Act::Step { force: true };
    let unpin = |n, count| Act::Unpin { release: release(n), steps: steps(count) };
    for (acts, expected) in [
        (vec![out(1, 0)], "1 - -/0 -"),
        (vec![out(1, 0), out(2, 0)], "2 1 -/0 -"),
        // Where nothing is served, a wave has nobody to spare.
        (vec![out(1, 2)], "1 - -/0 -"),
        (vec![out(1, 0), out(2, 2)], "1 - 2/1 -"),
        (vec![out(1, 0), out(2, 2), force()], "1 - 2/2 -"),
        (vec![out(1, 0), out(2, 2), force(), force()], "2 1 -/0 -"),
        // A new release takes the place of the wave; the one that is served withdraws it.
        (vec![out(1, 0), out(2, 2), force(), out(3, 1)], "1 - 3/1 -"),
        (vec![out(1, 0), out(2, 2), out(3, 0)], "3 1 -/0 -"),
        (vec![out(1, 0), out(2, 2), out(1, 3)], "1 - -/0 -"),
        // Behind a pin and a hold.
        (vec![out(1, 0), out(2, 0), Act::Pin(pin(1)), out(3, 2)], "2 1 3/0 1"),
        (vec![out(1, 0), out(2, 0), Act::Pin(pin(1)), out(3, 0), unpin(3, 0)], "3 1 -/0 -"),
        (vec![out(1, 0), out(2, 0), Act::Pin(pin(1)), out(3, 0), unpin(3, 2)], "1 1 3/1 -"),
        (vec![out(1, 0), out(2, 0), Act::Pin(pin(1)), unpin(1, 2)], "1 1 -/0 -"),
        (vec![out(1, 0), Act::Hold(hold()), out(2, 1), Act::Lift], "1 - 2/0 -"),
        (vec![out(1, 0), Act::Hold(hold()), out(2, 1), Act::Lift, Act::Step { force: false }], "1 - 2/1 -"),
        (vec![out(1, 0), Act::Hold(hold()), out(2, 0), Act::Lift, Act::Step { force: false }], "2 1 -/0 -"),
        // A wave that is halted stays where it was, marked bad, behind the pin.
        (vec![out(1, 0), out(2, 2), Act::Halt(pin(1))], "1 - 2/1 1"),
        (vec![out(1, 0), out(2, 2), Act::Halt(pin(1)), out(3, 0), unpin(3, 0)], "3 1 -/0 -"),
        (vec![out(1, 0), out(2, 0), floor(2, false)], "2 - -/0 -"),
        (vec![out(1, 0), out(2, 1), Act::Retire], "1 - -/0 - retired"),
        (vec![out(1, 0), Act::Retire, out(2, 3)], "2 - -/0 -"),
    ] {
        let state = run(acts.clone()).unwrap_or_else(|gate| panic!("{acts:?}: {gate}"));
        assert_eq!(named(&state), expected, "{acts:?}");
    }
}

#[test]
fn each_refusal_has_its_gate() {
    type Is = fn(&Gate) -> bool;
    let bad_wave = || vec![out(1, 0), out(2, 2), Act::Halt(pin(1))];
    let with = |mut acts: Vec<Act>, act: Act| {
        acts.push(act);
        acts
    };
    let cases: Vec<(Vec<Act>, Is)> = vec![
        (with(bad_wave(), out(2, 0)), |gate| matches!(gate, Gate::Bad(_))),
        (with(bad_wave(), Act::Step { force: true }), |gate| matches!(gate, Gate::Pinned { .. })),
        (with(bad_wave(), Act::Unpin { release: release(2), steps: vec![] }), |gate| {
            matches!(gate, Gate::Bad(_))
        }),
        (vec![out(1, 0), out(2, 2), Act::Step { force: false }], |gate| {
            matches!(gate, Gate::Baking { step: 1, .. })
        }),
        (vec![out(1, 0), out(2, 2), Act::Hold(hold()), Act::Step { force: true }], |gate| {
            matches!(gate, Gate::Held { .. })
        }),
        (vec![out(1, 0), out(2, 2), Act::Hold(hold()), out(3, 0)], |gate| {
            matches!(gate, Gate::HeldWave { .. })
        }),
        (vec![out(1, 0), Act::Step { force: true }], |gate| matches!(gate, Gate::NoCandidate(_))),
        (vec![out(1, 0), Act::Halt(pin(1))], |gate| matches!(gate, Gate::NoCandidate(_))),
        (vec![out(1, 0), Act::Lift], |gate| matches!(gate, Gate::NotHeld(_))),
        (vec![out(1, 0), Act::Unpin { release: release(1), steps: vec![] }], |gate| {
            matches!(gate, Gate::NotPinned(_))
        }),
        (vec![out(1, 0), out(2, 0), floor(2, false), floor(1, false)], |gate| {
            matches!(gate, Gate::LowerFloor { from: 2, to: 1 })
        }),
        (vec![out(1, 0), floor(2, false)], |gate| matches!(gate, Gate::FloorAbove { floor: 2, sequence: 1 })),
        (vec![out(1, 0), out(2, 0), floor(2, false), Act::Pin(pin(1))], |gate| {
            matches!(gate, Gate::BelowFloor { .. })
        }),
        (vec![out(1, 0), out(2, 0), Act::Pin(pin(1)), floor(2, false)], |gate| {
            matches!(gate, Gate::FloorAbove { sequence: 1, .. })
        }),
        (vec![out(1, 0), Act::Pin(pin(1)), Act::Retire], |gate| matches!(gate, Gate::Pinned { .. })),
        (vec![out(1, 0), Act::Hold(hold()), Act::Retire], |gate| matches!(gate, Gate::Held { .. })),
        (vec![out(1, 0), Act::Retire, Act::Pin(pin(1))], |gate| matches!(gate, Gate::Retired(_))),
        (vec![Act::Hold(hold())], |gate| matches!(gate, Gate::Empty(_))),
        (vec![Act::Retire], |gate| matches!(gate, Gate::Empty(_))),
    ];
    for (acts, is) in cases {
        let gate = run(acts.clone()).map(|state| named(&state)).expect_err(&format!("{acts:?}"));
        assert!(is(&gate), "{acts:?}: {gate}");
    }
    let pardoned = Act::Release { release: release(2), steps: vec![], pardon: true };
    assert!(!run(with(bad_wave(), pardoned)).unwrap().bad.contains(&release(2).snapshot));
}

#[test]
fn a_step_waits_for_its_bake_time_and_not_longer() {
    let state = run(vec![out(1, 0), out(2, 2)]).unwrap();
    let step =
        |seconds: i64| apply(&state, Act::Step { force: false }, &Channel::stable(), at(1000 + seconds));
    assert!(matches!(step(299), Err(Gate::Baking { step: 1, until }) if until == at(1300)));
    assert!(matches!(step(-5000), Err(Gate::Baking { .. })), "a clock that went back opens nothing");
    let next = step(300).unwrap().candidate.unwrap();
    assert_eq!((next.step, next.since), (2, Some(at(1300))));
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let n = 1u8..12;
    let act = prop_oneof![
        4 => (n.clone(), 0usize..3, any::<bool>())
            .prop_map(|(n, count, pardon)| Act::Release { release: release(n), steps: steps(count), pardon }),
        1 => n.clone().prop_map(|n| Act::Pin(pin(n))),
        1 => Just(Act::Halt(pin(1))),
        1 => (n.clone(), 0usize..3).prop_map(|(n, count)| Act::Unpin { release: release(n), steps: steps(count) }),
        3 => any::<bool>().prop_map(|force| Act::Step { force }),
        1 => Just(Act::Hold(hold())),
        1 => Just(Act::Lift),
        1 => (0u64..8, any::<bool>()).prop_map(|(sequence, lower)| floor(sequence, lower)),
        1 => Just(Act::Retire),
    ];
    prop::collection::vec(act, 1..40)
}

fn relays() -> Vec<RelayIdentity> {
    (0..8).map(|n| RelayIdentity::new(format!("r{n}").parse().unwrap(), BTreeMap::new()).unwrap()).collect()
}

/// What all relays serve, each by itself.
fn served(state: &ChannelState) -> Vec<Option<Digest>> {
    relays()
        .iter()
        .map(|relay| match state.effective_for(relay, &Channel::stable()) {
            moorgate_snapshot::Effective::Serve { release, .. } => Some(release.snapshot),
            _ => None,
        })
        .collect()
}

/// What one accepted act may not do.
fn check(before: &ChannelState, act: &Act, after: &ChannelState) {
    let moves_pin = matches!(act, Act::Pin(_) | Act::Halt(_) | Act::Unpin { .. });
    assert!(moves_pin || before.pin == after.pin, "a pin lost");
    let level = |state: &ChannelState| state.floor.as_ref().map_or(0, |floor| floor.sequence);
    let lowers = matches!(act, Act::Floor { lower: true, .. });
    assert!(lowers || level(after) >= level(before), "the floor sank");
    let previous = after.previous_good.as_ref();
    // A mere pin changes nothing else, and so cannot tidy up either.
    assert!(previous.is_none_or(|release| !after.bad.contains(&release.snapshot)), "goes back to a bad one");
    assert!(after.bad.len() <= BAD);
    let quiet = matches!(act, Act::Hold(_) | Act::Lift | Act::Floor { .. });
    assert!(!quiet || served(before) == served(after), "an act that should change nothing for Envoy");
    let stopped = before.pin.is_some() || before.hold.is_some();
    if matches!(act, Act::Release { .. }) && stopped && !before.retired {
        let pardoned = before.bad != after.bad;
        assert!(pardoned || served(before) == served(after), "published through a pin or hold");
    }
    if let Some(release) = after.serving() {
        assert!(!after.below_floor(release) || lowers, "serves what lies below the floor");
    }
    if let (Act::Step { .. }, Some(wave)) = (act, &before.candidate) {
        let done = after.candidate.is_none();
        assert!(!done || after.target.as_ref() == Some(&wave.release), "a wave that ends elsewhere");
        assert!(after.bad.is_empty() || !after.bad.contains(&wave.release.snapshot));
    }
}

proptest! {
    #[test]
    fn no_row_of_acts_breaks_what_holds(acts in acts()) {
        let mut state = ChannelState::default();
        let mut next = 20;
        for (n, mut act) in acts.into_iter().enumerate() {
            // As a publisher does: a release that comes in has the sequence of its entry.
            if let Act::Release { release, .. } = &mut act {
                release.sequence = next;
            }
            // And only what the state or the log names is pinned: here, a release of the state.
            if let Act::Pin(pin) | Act::Halt(pin) = &mut act {
                let served = state.serving().cloned();
                let Some(known) = served else { continue };
                pin.release = known;
            }
            if let Act::Unpin { release, .. } = &mut act {
                let known: Vec<Release> = state.releases().cloned().collect();
                let Some(found) = known.get(usize::from(release.snapshot.as_bytes()[0]) % known.len().max(1)) else {
                    continue;
                };
                release.clone_from(found);
            }
            if let Ok(after) = apply(&state, act.clone(), &Channel::stable(), at(i64::try_from(n).unwrap() * 200)) {
                check(&state, &act, &after);
                next += 1;
                state = after;
            }
        }
    }
}
