//! The snapshots that are published in a simulation, small, and of every shape: inline, of many pages, with parts.

use moorgate_snapshot::{Digest, Record, Resource, Snapshot, assemble};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// How many there are.
pub const COUNT: usize = 14;
/// Virtual hosts of the large ones: each starts a page.
const HOSTS: u32 = 12;
/// Bytes of one virtual host: together too many to lie inside the manifest.
const HOST_BYTES: usize = 7 << 10;

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// One of them.
#[derive(Debug)]
pub struct Pooled {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// What a relay must serve of it: the digest of each resource by type and name.
    pub content: BTreeMap<String, BTreeMap<String, Digest>>,
    /// Envoys refuse it.
    pub poisoned: bool,
}

/// All of them, made once.
pub fn pool() -> &'static [Pooled] {
    static POOL: OnceLock<Vec<Pooled>> = OnceLock::new();
    POOL.get_or_init(|| (0..COUNT).map(pooled).collect())
}

/// The number of a snapshot; none if it is not of the pool.
pub fn number(id: &Digest) -> Option<usize> {
    pool().iter().position(|pooled| pooled.snapshot.id() == *id)
}

fn pooled(number: usize) -> Pooled {
    #[allow(clippy::expect_used, reason = "the records are written here")]
    let snapshot = Snapshot::build(records(number)).expect("a snapshot of valid records");
    let mut content: BTreeMap<String, BTreeMap<String, Digest>> = BTreeMap::new();
    for (type_url, resources) in assemble(&snapshot).resources {
        let of_type = content.entry(type_url.to_string()).or_default();
        for (name, resource) in resources {
            of_type.insert(name.to_string(), Digest::of_parts(resource.chunks.iter().map(AsRef::as_ref)));
        }
    }
    Pooled { snapshot, content, poisoned: number % 5 == 4 }
}

/// Even numbers are small, odd ones have pages of their own; neighbours share most of them.
fn records(number: usize) -> Vec<Record> {
    let mut records = vec![
        resource(CLUSTER, "steady", "", b"the same in all".to_vec()),
        resource(CLUSTER, "changing", "", format!("of snapshot {number}").into_bytes()),
    ];
    if number % 2 == 1 {
        records.push(resource(ROUTES, "table", "", b"the first part".to_vec()));
        for (host, name) in hosts().into_iter().enumerate() {
            // One host differs from neighbour to neighbour.
            let salt = if host == number % 7 { number } else { 0 };
            records.push(resource(ROUTES, "table", &name, noise(&name, salt)));
        }
    }
    records
}

/// Names at which pages are cut: their digests end in four zero bits or more.
fn hosts() -> Vec<String> {
    let names = (0..).map(|n: u32| format!("host-{n:05}"));
    let cut =
        |name: &String| Digest::of(name.as_bytes()).as_bytes().last().is_some_and(|byte| byte % 16 == 0);
    names.filter(cut).take(HOSTS as usize).collect()
}

/// Bytes that do not compress, so that pages have a size to speak of.
fn noise(name: &str, salt: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HOST_BYTES);
    let mut counter = 0_u32;
    while bytes.len() < HOST_BYTES {
        bytes.extend_from_slice(Digest::of(format!("{name} {salt} {counter}").as_bytes()).as_bytes());
        counter += 1;
    }
    bytes
}

fn resource(type_url: &str, name: &str, part: &str, bytes: Vec<u8>) -> Record {
    Record::Resource(Resource {
        type_url: type_url.into(),
        name: name.into(),
        part: part.into(),
        bytes: bytes.into(),
        refs: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_has_every_shape() {
        let pages = |n: usize| pool()[n].snapshot.pages().len();
        let apart =
            |n: usize| pool()[n].snapshot.manifest().pages().iter().filter(|p| p.inline.is_none()).count();
        assert_eq!(apart(0), 0);
        assert!(pages(1) > 8 && apart(1) > 8, "{} pages, {} apart", pages(1), apart(1));
        let ids: std::collections::BTreeSet<_> = pool().iter().map(|pooled| pooled.snapshot.id()).collect();
        assert_eq!(ids.len(), COUNT);
        assert!(pool().iter().any(|pooled| pooled.poisoned));
        let shared: std::collections::BTreeSet<_> =
            pool()[1].snapshot.pages().iter().map(moorgate_snapshot::Page::digest).collect();
        let common = pool()[3].snapshot.pages().iter().filter(|page| shared.contains(&page.digest())).count();
        assert!(common >= 8, "{common} pages in common");
    }
}
