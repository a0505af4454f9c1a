//! What clients refused, kept over reconnects: a client that comes back is not sent the same again.
//!
//! A client is who it has proven to be, and the node id that it gives; what one refused hinders no other. Entries are
//! forgotten when another version of what they name comes into force, by hand, and, the oldest first, for lack of room.

use super::super::stream::Refusal;
use super::super::types;
use super::super::view::{Contents, View, still_says};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes that the memory of one fleet may take.
const MAX_BYTES: usize = 4 << 20;
/// Bytes of them that one client may take, whatever nodes it says it is.
const MAX_OF_CLIENT: usize = 256 << 10;
/// Bytes that an entry takes besides its names.
const ENTRY: usize = 256;
/// Bytes that a name takes besides its letters.
const PER_NAME: usize = 96;

/// The memory of one fleet.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    clients: BTreeMap<Arc<str>, Client>,
    /// The clients of all entries, the oldest first.
    order: BTreeMap<u64, Arc<str>>,
    next: u64,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Client {
    entries: BTreeMap<u64, Entry>,
    bytes: usize,
}

/// A value that a client refused, such as endpoints or a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedValue {
    /// Who the client has proven to be.
    pub client: Arc<str>,
    /// The node id that it gave.
    pub node: String,
    /// What it refused.
    pub refusal: Refusal,
}

#[derive(Debug)]
struct Entry {
    node: String,
    refusal: Refusal,
    bytes: usize,
}

impl Refusals {
    /// Takes note; whether that is new. What alone would take more room than a client has is not kept.
    pub(super) fn note(&mut self, client: &Arc<str>, node: &str, refusal: Refusal) -> bool {
        let bytes = size(&refusal.contents) + node.len();
        if refusal.contents.is_empty() || bytes > MAX_OF_CLIENT {
            return false;
        }
        let known = self.clients.get(client).is_some_and(|own| {
            own.entries.values().any(|entry| entry.node == node && entry.refusal == refusal)
        });
        if known {
            return false;
        }
        while self.bytes + bytes > MAX_BYTES {
            let Some(oldest) = self.order.keys().next().copied() else { break };
            self.forget(oldest);
        }
        while let Some(own) = self.clients.get(client).filter(|own| own.bytes + bytes > MAX_OF_CLIENT) {
            let Some(oldest) = own.entries.keys().next().copied() else { break };
            self.forget(oldest);
        }
        let number = self.next;
        self.next += 1;
        self.order.insert(number, Arc::clone(client));
        let own = self.clients.entry(Arc::clone(client)).or_default();
        own.entries.insert(number, Entry { node: node.to_owned(), refusal, bytes });
        own.bytes += bytes;
        self.bytes += bytes;
        true
    }

    /// What a client refused under this node id.
    pub(super) fn of(&self, client: &str, node: &str) -> Vec<Refusal> {
        let entries = self.clients.get(client).into_iter().flat_map(|own| own.entries.values());
        entries.filter(|entry| entry.node == node).map(|entry| entry.refusal.clone()).collect()
    }

    /// Refused values with who refused them, the newest first, as far as so many bytes go.
    pub(super) fn newest(&self, room: usize) -> Vec<RefusedValue> {
        let mut left = room;
        let newest = self.order.iter().rev().filter_map(|(number, client)| {
            let entry = self.clients.get(client)?.entries.get(number)?;
            Some((client, entry)).filter(|(_, entry)| types::kind(&entry.refusal.type_url).bound)
        });
        let fitting = newest.map_while(|(client, entry)| {
            left = left.checked_sub(entry.bytes + client.len())?;
            let (client, node) = (Arc::clone(client), entry.node.clone());
            Some(RefusedValue { client, node, refusal: entry.refusal.clone() })
        });
        fitting.collect()
    }

    /// Forgets what this view has another version of. A value that is only gone stays refused.
    pub(super) fn prune(&mut self, view: &View) {
        let stale: Vec<u64> = self
            .clients
            .values()
            .flat_map(|own| &own.entries)
            .filter(|(_, entry)| !is_in_force(&entry.refusal, view))
            .map(|(number, _)| *number)
            .collect();
        stale.into_iter().for_each(|number| self.forget(number));
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self { next: self.next, ..Self::default() };
    }

    fn forget(&mut self, number: u64) {
        let Some(client) = self.order.remove(&number) else { return };
        let Some(own) = self.clients.get_mut(&client) else { return };
        let Some(entry) = own.entries.remove(&number) else { return };
        own.bytes = own.bytes.saturating_sub(entry.bytes);
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        if own.entries.is_empty() {
            self.clients.remove(&client);
        }
    }
}

fn size(contents: &Contents) -> usize {
    ENTRY + contents.keys().map(|name| name.len() + PER_NAME).sum::<usize>()
}

fn is_in_force(refusal: &Refusal, view: &View) -> bool {
    let bound = types::kind(&refusal.type_url).bound;
    let mut configs = std::iter::once(&view.config).chain(&view.fallback);
    configs.any(|config| {
        let set = view.set(config, &refusal.type_url).map(|set| &**set);
        still_says(set, &refusal.contents, bound)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::view::{Config, TypeSet, Value};
    use bytes::Bytes;
    use moorgate_snapshot::Digest;
    use std::collections::BTreeSet;

    fn value(text: &str) -> Arc<Value> {
        Arc::new(Value::new(vec![Bytes::from(text.to_owned())], vec![]))
    }

    fn refusal(type_url: &str, name: &str, text: Option<&str>) -> Refusal {
        let version = text.map(|text| Arc::clone(value(text).version()));
        Refusal { type_url: type_url.into(), contents: Arc::new([(name.into(), version)].into()) }
    }

    fn set(entries: &[(&str, &str)]) -> Arc<TypeSet> {
        let values = entries.iter().map(|(name, text)| ((*name).into(), value(text))).collect();
        TypeSet::new(values, BTreeSet::new())
    }

    fn config(clusters: &[(&str, &str)]) -> Arc<Config> {
        let values = clusters.iter().map(|(name, text)| ((*name).into(), value(text))).collect();
        Config::new(
            Digest::of(format!("{clusters:?}").as_bytes()),
            [(types::CLUSTER.into(), values)].into(),
            None,
        )
    }

    fn view(clusters: &[(&str, &str)], fallback: Option<Arc<Config>>, endpoints: &[(&str, &str)]) -> View {
        View {
            config: config(clusters),
            fallback,
            endpoints: set(endpoints),
            secrets: set(&[]),
            extensions: set(&[]),
            leftover: Arc::default(),
        }
    }

    #[test]
    fn one_client_and_node_is_remembered_and_no_other() {
        let mut refusals = Refusals::default();
        let (one, two): (Arc<str>, Arc<str>) = ("one".into(), "two".into());
        let bad = refusal(types::ENDPOINT, "e", Some("bad"));
        assert!(refusals.note(&one, "node", bad.clone()));
        assert!(!refusals.note(&one, "node", bad.clone()), "told once");
        refusals.note(&two, "node", refusal(types::ENDPOINT, "other", Some("bad")));
        assert_eq!(refusals.of("one", "node"), [bad]);
        assert_eq!(refusals.of("one", "another node"), []);
        assert_eq!(refusals.of("two", "node").len(), 1);
        assert_eq!(refusals.of("three", "node"), []);
        refusals.clear();
        assert_eq!((refusals.of("one", "node").len(), refusals.bytes), (0, 0));
    }

    /// What is in force, and whether a refusal of it is still remembered then.
    #[test]
    fn another_version_is_forgotten_and_a_gap_is_not() {
        let endpoint = refusal(types::ENDPOINT, "e", Some("bad"));
        let cluster = refusal(types::CLUSTER, "c", Some("bad"));
        let gone = refusal(types::CLUSTER, "x", None);
        for (view, expected) in [
            (view(&[("c", "bad")], None, &[("e", "bad")]), [true, true, true]),
            (view(&[("c", "good"), ("x", "1")], None, &[("e", "good")]), [false, false, false]),
            (view(&[], None, &[]), [true, false, true]),
            (view(&[("c", "good")], Some(config(&[("c", "bad"), ("x", "1")])), &[]), [true, true, true]),
        ] {
            let mut refusals = Refusals::default();
            for refusal in [&endpoint, &cluster, &gone] {
                refusals.note(&"one".into(), "node", refusal.clone());
            }
            refusals.prune(&view);
            let left = refusals.of("one", "node");
            assert_eq!(
                [&endpoint, &cluster, &gone].map(|refusal| left.contains(refusal)),
                expected,
                "{view:?}"
            );
            assert_eq!(refusals.order.len(), left.len());
        }
    }

    #[test]
    fn the_newest_refused_values_are_told_as_far_as_there_is_room() {
        let mut refusals = Refusals::default();
        let one: Arc<str> = "one".into();
        refusals.note(&one, "node", refusal(types::CLUSTER, "c", Some("bad")));
        for name in ["old", "new"] {
            refusals.note(&one, "node", refusal(types::ENDPOINT, name, Some("bad")));
        }
        let told = |room: usize| -> Vec<Refusal> {
            refusals.newest(room).into_iter().map(|value| value.refusal).collect()
        };
        let [old, new] = ["old", "new"].map(|name| refusal(types::ENDPOINT, name, Some("bad")));
        assert_eq!(told(4096), [new.clone(), old], "snapshots have a memory of their own");
        assert_eq!(told(ENTRY + PER_NAME + 20), [new]);
        assert_eq!(told(10), []);
    }

    #[test]
    fn memory_is_bounded_and_who_fills_it_forgets_its_own_first() {
        let mut refusals = Refusals::default();
        let name = |n: usize| format!("{n}-{}", "x".repeat(1000));
        let victim: Arc<str> = "victim".into();
        refusals.note(&victim, "node", refusal(types::ENDPOINT, "e", Some("bad")));
        // Under whatever nodes it comes.
        for n in 0..10_000 {
            let node = format!("node-{n}");
            refusals.note(&"hostile".into(), &node, refusal(types::ENDPOINT, &name(n), None));
        }
        assert_eq!(refusals.of("victim", "node").len(), 1);
        assert!(refusals.bytes <= MAX_OF_CLIENT + 1000, "{}", refusals.bytes);
        assert_eq!(refusals.of("hostile", "node-9999").len(), 1, "the newest stays");
        for n in 0..10_000 {
            let client = format!("client-{}", n / 50).into();
            refusals.note(&client, "node", refusal(types::ENDPOINT, &name(n), None));
        }
        assert!(refusals.bytes <= MAX_BYTES);
        let counted: usize = refusals.clients.values().map(|own| own.bytes).sum();
        assert_eq!(counted, refusals.bytes);
        // More than anybody may keep is not kept.
        let many = (0..10_000).map(|n| (name(n).into(), None)).collect();
        let huge = Refusal { type_url: types::CLUSTER.into(), contents: Arc::new(many) };
        refusals.note(&"last".into(), "node", huge);
        assert_eq!(refusals.of("last", "node"), []);
    }
}
