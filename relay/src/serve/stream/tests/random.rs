//! Random sequences against the model client: whatever happens, it ends with what it asked for.

use super::super::model::*;
use super::super::{Protocol, Settings, types};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

const TYPES: [&str; 5] = [CDS, LDS, RDS, EDS, SDS];
/// The place of secrets among them: they are asked for by name only.
const SECRETS: usize = 4;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Debug, Clone)]
enum Step {
    Ask(usize, Vec<usize>),
    AskAll(usize),
    Drop(usize, usize),
    DropAll(usize),
    Serve(Vec<(usize, usize, u8)>),
    Ack(usize),
    Nack(usize),
    Wait(u64),
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let kind = 0..TYPES.len();
    let name = 0..NAMES.len();
    let world = prop::collection::vec((0..TYPES.len(), 0..NAMES.len(), 0u8..3), 0..12);
    prop_oneof![
        3 => (kind.clone(), prop::collection::vec(name.clone(), 1..3)).prop_map(|(t, n)| Step::Ask(t, n)),
        1 => (0..SECRETS).prop_map(Step::AskAll),
        1 => (0..SECRETS).prop_map(Step::DropAll),
        2 => (kind.clone(), name).prop_map(|(t, n)| Step::Drop(t, n)),
        3 => world.prop_map(Step::Serve),
        6 => kind.clone().prop_map(Step::Ack),
        1 => kind.prop_map(Step::Nack),
        1 => (0u64..40).prop_map(Step::Wait),
        1 => Just(Step::Reconnect),
    ]
}

fn entries(world: &[(usize, usize, u8)]) -> BTreeMap<(usize, usize), String> {
    let content = |t: usize, n: usize, c: u8| match t {
        0 => format!("{c} eds:{}", NAMES[n]),
        _ => c.to_string(),
    };
    world.iter().map(|(t, n, c)| ((*t, *n), content(*t, *n, *c))).collect()
}

fn list(world: &BTreeMap<(usize, usize), String>) -> Vec<Entry<'_>> {
    world.iter().map(|((t, n), content)| (TYPES[*t], NAMES[*n], content.as_str())).collect()
}

fn run(protocol: Protocol, steps: &[Step]) {
    let settings = Settings { max_response: 150, ..Settings::default() };
    let mut bench = Bench::with(protocol, settings.clone());
    let mut world = BTreeMap::new();
    let mut refused = false;
    for step in steps {
        match step {
            Step::Ask(t, names) => {
                let names: Vec<&str> = names.iter().map(|n| NAMES[*n]).collect();
                bench.ask(TYPES[*t], &names);
            }
            Step::AskAll(t) => {
                bench.ask(TYPES[*t], &["*"]);
            }
            Step::Drop(t, n) if protocol == Protocol::Delta => {
                let (type_url, name) = (TYPES[*t], NAMES[*n]);
                // Without a subscription this would be the first request of the type, a legacy wildcard.
                if bench.asked.contains_key(type_url) {
                    bench.drop_names(type_url, &[name]);
                    if !bench.wildcard(type_url)
                        && let Some(held) = bench.held.get_mut(type_url)
                    {
                        held.remove(name);
                    }
                }
            }
            Step::DropAll(t) if protocol == Protocol::Delta && bench.wildcard(TYPES[*t]) => {
                let type_url = TYPES[*t];
                bench.drop_names(type_url, &["*"]);
                let asked = bench.asked[type_url].clone();
                if let Some(held) = bench.held.get_mut(type_url) {
                    held.retain(|name, _| asked.contains(name));
                }
            }
            Step::Drop(t, n) => bench.narrow(TYPES[*t], NAMES[*n]),
            Step::DropAll(t) if protocol == Protocol::StateOfTheWorld => bench.narrow(TYPES[*t], "*"),
            Step::Reconnect => {
                // What came after its subscription had ended is no client's to keep, or to tell of later.
                let asked = &bench.asked;
                for (type_url, held) in &mut bench.held {
                    let names = asked.get(type_url);
                    held.retain(|name, _| {
                        names.is_some_and(|names| names.contains("*") || names.contains(name))
                    });
                }
                // What it refused is forgotten with the stream; the next response may hold it again.
                bench.reconnect(settings.clone(), view(&list(&world)));
            }
            Step::Serve(new) => {
                world = entries(new);
                bench.serve(view(&list(&world)));
            }
            Step::Ack(t) if bench.open.contains_key(TYPES[*t]) => {
                bench.ack(TYPES[*t]);
            }
            Step::Nack(t) if bench.open.contains_key(TYPES[*t]) => {
                bench.nack(TYPES[*t]);
                refused = true;
            }
            Step::DropAll(_) | Step::Ack(_) | Step::Nack(_) => {}
            Step::Wait(seconds) => {
                bench.now += Duration::from_secs(*seconds);
                bench.poll();
            }
        }
    }
    // A last view with contents that were never refused, then calm: acknowledgements and time.
    let last: BTreeMap<_, _> = world.iter().map(|(key, content)| (*key, format!("last {content}"))).collect();
    let end = view(&list(&last));
    let responses = bench.serve(end.clone());
    bench.settle(responses);
    for _ in 0..4 {
        let responses = bench.after(31);
        bench.settle(responses);
    }
    assert!(bench.poll().is_empty());
    check(&bench, &last, refused);
}

/// The client holds what is served of what it asked for, and nothing that is gone; types that a client drops by itself
/// (secrets) or that state of the world cannot take back are allowed to linger.
fn check(bench: &Bench, last: &BTreeMap<(usize, usize), String>, refused: bool) {
    let end = view(&list(last));
    for (t, type_url) in TYPES.iter().enumerate() {
        let Some(asked) = bench.asked.get(*type_url) else { continue };
        let all = asked.contains("*");
        let nothing = BTreeMap::new();
        let held = bench.held.get(*type_url).unwrap_or(&nothing);
        let set = end.set(&end.config, type_url);
        for (n, name) in NAMES.iter().enumerate() {
            if !all && !asked.contains(*name) {
                continue;
            }
            let wanted = set.and_then(|set| set.get(name)).map(|value| value.version().to_string());
            assert_eq!(wanted.is_some(), last.contains_key(&(t, n)));
            let kind = types::kind(type_url);
            let may_linger = kind.removal == types::Removal::Never
                || (bench.protocol == Protocol::StateOfTheWorld && !kind.full_state);
            // A refused removal is not repeated either.
            if wanted.is_none() && (may_linger || refused) {
                continue;
            }
            assert_eq!(held.get(*name), wanted.as_ref(), "{type_url} {name} refused={refused}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn delta_ends_with_what_was_asked_for(steps in prop::collection::vec(step(), 1..60)) {
        run(Protocol::Delta, &steps);
    }

    #[test]
    fn state_of_the_world_ends_with_what_was_asked_for(steps in prop::collection::vec(step(), 1..60)) {
        run(Protocol::StateOfTheWorld, &steps);
    }
}
