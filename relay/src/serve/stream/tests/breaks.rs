//! Make before break under random swaps: whatever table a client holds, it holds the clusters of it, and a cluster that no
//! table names any more stays for the linger.
//!
//! The model is a client that takes everything, each response when it likes, and says at each moment what of what it holds
//! would answer 503. It knows nothing of how the relay works.

use super::super::model::*;
use super::super::{Protocol, Settings};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const TABLES: [&str; 3] = ["r0", "r1", "r2"];
const CLUSTERS: [&str; 4] = ["a", "b", "c", "d"];
const LINGER: u64 = 30;

#[derive(Debug, Clone)]
enum Step {
    /// For each table its cluster, and the version of its rest; and a version for all clusters.
    Swap([usize; 3], u8, u8),
    /// Takes so many responses, in the order in which they were sent.
    Take(usize),
    Wait(u64),
    /// The stream breaks; delta says on the next one what it holds.
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let cluster = || 0..CLUSTERS.len();
    prop_oneof![
        3 => ([cluster(), cluster(), cluster()], 0u8..3, 0u8..2).prop_map(|(to, own, all)| Step::Swap(to, own, all)),
        8 => (1usize..4).prop_map(Step::Take),
        2 => (1u64..40).prop_map(Step::Wait),
        1 => Just(Step::Reconnect),
    ]
}

/// What is served: closed, so that each table names clusters that are there.
struct World {
    entries: Vec<(&'static str, &'static str, String)>,
}

impl World {
    fn new(to: [usize; 3], own: u8, all: u8) -> Self {
        let mut entries = vec![(LDS, "l", format!("{own}"))];
        for (table, cluster) in TABLES.iter().zip(to) {
            entries.push((RDS, table, format!("{own} to {}", CLUSTERS[cluster])));
        }
        for cluster in BTreeSet::from(to) {
            entries.push((CDS, CLUSTERS[cluster], format!("{all} eds:{}", CLUSTERS[cluster])));
            entries.push((EDS, CLUSTERS[cluster], "1".to_owned()));
        }
        Self { entries }
    }

    fn entries(&self) -> Vec<Entry<'_>> {
        self.entries.iter().map(|(type_url, name, content)| (*type_url, *name, &**content)).collect()
    }
}

struct Client {
    bench: Bench,
    settings: Settings,
    now: World,
    /// Which cluster a version of a table names.
    names: BTreeMap<String, String>,
    /// When a table that the client held named a cluster last.
    used: BTreeMap<String, Instant>,
    held: BTreeSet<String>,
}

impl Client {
    fn new(protocol: Protocol) -> Self {
        // A client that is slow is waited for: after the timeout nobody promises anything.
        let settings = Settings {
            phase_timeout: Duration::from_hours(100),
            linger: Duration::from_secs(LINGER),
            ..Settings::default()
        };
        let bench = Bench::with(protocol, settings.clone());
        let now = World::new([0, 0, 0], 0, 0);
        let mut client = Self {
            bench,
            settings,
            now,
            names: BTreeMap::new(),
            used: BTreeMap::new(),
            held: BTreeSet::new(),
        };
        client.serve(World::new([0, 0, 0], 0, 0));
        client.bench.ask(CDS, &["*"]);
        client.settle();
        client.bench.ask(LDS, &["*"]);
        client.settle();
        client.bench.ask(RDS, &TABLES);
        client.settle();
        client
    }

    fn serve(&mut self, world: World) {
        let config = config(&world.entries());
        for (_, value) in config.types[RDS].iter() {
            let text = String::from_utf8(value.chunks().concat()).unwrap();
            let (_, cluster) = text.split_once(" to ").unwrap();
            self.names.insert(value.version().to_string(), cluster.to_owned());
        }
        self.bench.serve(view(&world.entries()));
        self.now = world;
    }

    /// Takes the oldest open response, if there is one, and looks at what it holds then.
    fn take(&mut self) -> bool {
        let oldest = self.bench.open.values().min_by_key(|response| response.nonce.parse::<u64>().unwrap());
        let Some(response) = oldest.cloned() else { return false };
        let used = self.named();
        if response.type_url == CDS.into() {
            // Before Envoy acknowledges clusters it asks for the endpoints of those that are new.
            let names = response.resources.iter().map(|(name, _)| &**name);
            let new: Vec<&str> = names.filter(|name| !self.held.contains(*name)).collect();
            if !new.is_empty() {
                self.bench.ask(EDS, &new);
            }
        }
        self.bench.ack(&response.type_url);
        self.used.extend(used.into_iter().map(|cluster| (cluster, self.bench.now)));
        self.look();
        true
    }

    /// It has no use for the endpoints of a cluster that is gone.
    fn forget(&mut self, cluster: &str) {
        self.bench.held.get_mut(EDS).unwrap().remove(cluster);
        match self.bench.protocol {
            Protocol::Delta => drop(self.bench.drop_names(EDS, &[cluster])),
            Protocol::StateOfTheWorld => self.bench.narrow(EDS, cluster),
        }
    }

    fn named(&self) -> BTreeSet<String> {
        let none = BTreeMap::new();
        let tables = self.bench.held.get(RDS).unwrap_or(&none);
        tables.values().filter_map(|version| self.names.get(version).cloned()).collect()
    }

    fn look(&mut self) {
        let none = BTreeMap::new();
        let clusters: BTreeSet<String> = self.bench.held.get(CDS).unwrap_or(&none).keys().cloned().collect();
        for cluster in self.named() {
            assert!(clusters.contains(&cluster), "a table names {cluster}, which is not there: 503");
            assert!(self.bench.held[EDS].contains_key(&cluster), "{cluster} has no endpoints yet: 503");
        }
        let before = std::mem::replace(&mut self.held, clusters);
        let gone: Vec<String> = before.difference(&self.held).cloned().collect();
        for cluster in gone {
            let since = self.used.get(&cluster).map(|used| self.bench.now - *used);
            let early = since.is_some_and(|since| since < Duration::from_secs(LINGER));
            assert!(!early, "{cluster} left {since:?} after its last use");
            self.forget(&cluster);
        }
    }

    fn settle(&mut self) {
        while self.take() {}
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Swap(to, own, all) => self.serve(World::new(*to, *own, *all)),
            Step::Take(count) => {
                for _ in 0..*count {
                    self.take();
                }
            }
            Step::Wait(seconds) => {
                self.bench.after(*seconds);
            }
            Step::Reconnect if self.bench.protocol == Protocol::Delta => {
                let view = view(&self.now.entries());
                self.bench.reconnect(self.settings.clone(), view);
            }
            // State of the world says no more than a version, which only the relay that gave it knows for sure.
            Step::Reconnect => {}
        }
    }
}

fn run(protocol: Protocol, steps: &[Step]) {
    let mut client = Client::new(protocol);
    for step in steps {
        client.step(step);
    }
    client.settle();
    for _ in 0..4 {
        client.bench.after(LINGER + 1);
        client.settle();
    }
    // In the end it holds what is served and nothing else.
    let wanted: BTreeSet<String> = client
        .now
        .entries()
        .iter()
        .filter(|(kind, ..)| *kind == CDS)
        .map(|(_, name, _)| (*name).to_owned())
        .collect();
    assert_eq!(client.held, wanted);
}

proptest! {
    // The same sequences in each run: what they found has its own test in `order` and `delta`.
    #![proptest_config(ProptestConfig {
        cases: 1500,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(47302),
        ..ProptestConfig::default()
    })]

    #[test]
    fn delta_never_holds_a_table_without_its_clusters(steps in prop::collection::vec(step(), 1..60)) {
        run(Protocol::Delta, &steps);
    }

    #[test]
    fn state_of_the_world_never_holds_a_table_without_its_clusters(steps in prop::collection::vec(step(), 1..60)) {
        run(Protocol::StateOfTheWorld, &steps);
    }
}
