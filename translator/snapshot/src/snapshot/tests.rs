use super::*;
use crate::assemble::{assemble, runs};
use crate::record::{
    Binding, BindingKind, BindingSource, EndpointSource, Family, ObjectSource, Reference, Resource,
};
use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

fn resource(type_url: &str, name: &str, part: &str, bytes: &[u8]) -> Record {
    Record::Resource(Resource {
        type_url: type_url.into(),
        name: name.into(),
        part: part.into(),
        bytes: Bytes::copy_from_slice(bytes),
        refs: vec![Reference { kind: BindingKind::Endpoints, name: name.into() }],
    })
}

fn binding(name: &str) -> Record {
    Record::Binding(Binding {
        kind: BindingKind::Endpoints,
        name: name.into(),
        source: BindingSource::Endpoints(vec![EndpointSource {
            namespace: "shop".into(),
            service: name.into(),
            port_name: "http".into(),
            port: 80,
            family: Family::Any,
            weight: 1,
            hostname: "".into(),
            addresses: vec!["[::1]:80".into()],
        }]),
    })
}

fn secret(name: &str) -> Record {
    Record::Binding(Binding {
        kind: BindingKind::Secret,
        name: name.into(),
        source: BindingSource::Object { kind: "Secret".into(), namespace: "shop".into(), name: name.into() },
    })
}

/// `n` clusters with bindings, and a route table of `n` / 10 virtual hosts.
fn sample(n: usize) -> Vec<Record> {
    let mut records = vec![secret("tls"), resource(ROUTES, "table", "", b"head")];
    for i in 0..n {
        let name = format!("shop/service-{i}/80");
        records.push(resource(CLUSTER, &name, "", &[u8::try_from(i % 251).unwrap(); 400]));
        records.push(binding(&name));
        if i % 10 == 0 {
            records.push(resource(ROUTES, "table", &format!("host-{i}.example.com"), name.as_bytes()));
        }
    }
    records
}

fn reread(snapshot: &Snapshot) -> Result<Snapshot, SnapshotError> {
    let manifest = Manifest::decode(snapshot.manifest().raw().clone())?;
    let pages = snapshot.pages().iter().map(|page| Page::decode(page.raw().clone()));
    Snapshot::from_pages(manifest, pages.collect::<Result<_, _>>()?)
}

#[test]
fn the_order_of_records_does_not_matter_and_pages_read_back() {
    let snapshot = Snapshot::build(sample(3000)).unwrap();
    let mut shuffled = sample(3000);
    shuffled.reverse();
    shuffled.rotate_left(1234);
    assert_eq!(Snapshot::build(shuffled).unwrap(), snapshot);
    assert_eq!(reread(&snapshot).unwrap(), snapshot);
    assert!(snapshot.pages().len() > 20, "{}", snapshot.pages().len());
    assert!(snapshot.manifest().pages().iter().all(|page| page.inline.is_none()));
}

#[test]
fn one_record_changes_one_page() {
    let before = Snapshot::build(sample(3000)).unwrap();
    let mut records = sample(3000);
    records.push(resource(CLUSTER, "shop/service-2000/81", "", b"new"));
    let after = Snapshot::build(records).unwrap();
    let old: BTreeSet<Digest> = before.pages().iter().map(Page::digest).collect();
    let fresh = after.pages().iter().filter(|page| !old.contains(&page.digest())).count();
    // One page, or two if the new name is a cut.
    assert!((1..=2).contains(&fresh), "{fresh}");
    let changes = before.diff(&after);
    assert_eq!(changes.len(), 1);
    assert!(changes[0].before.is_none());
    assert_eq!(changes[0].after.unwrap().key().name, "shop/service-2000/81");
    assert_eq!(after.diff(&before)[0].before, changes[0].after);
    assert!(before.diff(&before).is_empty());
}

#[test]
fn parts_are_put_together_in_key_order() {
    let records = vec![
        resource(ROUTES, "table", "b", b"3"),
        resource(ROUTES, "table", "", b"1"),
        resource(ROUTES, "table", "a", b"2"),
        resource(CLUSTER, "table", "", b"123"),
    ];
    let assembled = assemble(&Snapshot::build(records).unwrap());
    let table = &assembled.resources[ROUTES]["table"];
    assert_eq!(table.chunks, [&b"1"[..], b"2", b"3"]);
    assert_eq!((table.len, table.refs.len()), (3, 1));
    assert_eq!(table.version(), assembled.resources[CLUSTER]["table"].version());
    assert_eq!(table.version(), Digest::of(b"123"));
}

/// Tables of many parts that go on over pages, beside whole resources and bindings.
fn tables(tables: usize, parts: usize, text: &str) -> Vec<Record> {
    let mut records = sample(60);
    for table in 0..tables {
        let name = format!("table-{table:03}");
        records.push(resource(ROUTES, &name, "", b"head"));
        for part in 0..(parts + table) % 50 {
            let text = if (table, part) == (tables / 2, 3) { text } else { "as before" };
            records.push(resource(ROUTES, &name, &format!("host-{table}-{part}"), text.as_bytes()));
        }
    }
    records
}

#[test]
fn runs_put_together_are_the_whole() {
    let snapshot = Snapshot::build(tables(120, 13, "x")).unwrap();
    let mut expected: BTreeMap<(&str, &str), Vec<Bytes>> = BTreeMap::new();
    let mut bindings = 0;
    for record in snapshot.records() {
        match record {
            Record::Resource(part) => {
                expected.entry((&part.type_url, &part.name)).or_default().push(part.bytes.clone());
            }
            Record::Binding(_) => bindings += 1,
        }
    }
    let assembled = assemble(&snapshot);
    let found = assembled.resources.iter().flat_map(|(type_url, resources)| {
        resources.values().map(move |one| ((&**type_url, &*one.name), one.chunks.clone()))
    });
    assert_eq!(found.collect::<BTreeMap<_, _>>(), expected);
    assert_eq!(assembled.bindings.len(), bindings);
    let single = snapshot.pages().iter().filter(|page| page.continues()).count();
    assert!(single > 20, "{single} pages go on with a resource");
    let sizes = expected.values().map(|chunks| chunks.iter().map(Bytes::len).sum::<usize>() as u64);
    assert_eq!(snapshot.usage().largest_resource, sizes.max().unwrap());
    let weights = snapshot.records().map(|record| page::weight(record) as u64);
    assert_eq!(snapshot.usage().largest_record, weights.max().unwrap());
}

/// A change in one part is a change of one run, or of the two that have its page in common.
#[test]
fn a_change_leaves_other_runs_as_they_are() {
    let (before, after) =
        (Snapshot::build(tables(120, 13, "x")).unwrap(), Snapshot::build(tables(120, 13, "y")).unwrap());
    let digests = |run: &[Page]| run.iter().map(Page::digest).collect::<Vec<_>>();
    let old: BTreeSet<Vec<Digest>> = runs(&before).map(digests).collect();
    let fresh = runs(&after).map(digests).filter(|run| !old.contains(run)).count();
    assert!((1..=2).contains(&fresh) && old.len() > 20, "{fresh} of {}", old.len());
}

#[test]
fn a_decoded_record_shares_the_memory_of_its_page() {
    let snapshot = reread(&Snapshot::build(vec![resource(CLUSTER, "a", "", &[1; 100])]).unwrap()).unwrap();
    let Some(Record::Resource(record)) = snapshot.records().next() else { panic!("no resource") };
    let page = snapshot.pages()[0].raw().as_ptr_range();
    assert!(page.contains(&record.bytes.as_ptr()));
}

#[test]
fn what_cannot_be_a_snapshot_is_refused() {
    let twice = vec![secret("a"), secret("a")];
    assert!(matches!(Snapshot::build(twice), Err(SnapshotError::Duplicate(_))));
    let orphan = vec![resource(ROUTES, "other", "", b""), resource(ROUTES, "table", "a", b"")];
    assert!(matches!(Snapshot::build(orphan), Err(SnapshotError::FirstPart(_))));
    assert_eq!(Snapshot::build(vec![resource(CLUSTER, "", "", b"")]), Err(SnapshotError::Unnamed));
    let huge = resource(CLUSTER, "a", "", &vec![0; limits::RECORD_BYTES]);
    assert!(matches!(Snapshot::build(vec![huge]), Err(SnapshotError::RecordTooLarge { .. })));
    let parts = large_parts(limits::RESOURCE_BYTES / (limits::RECORD_BYTES - 100) + 1);
    assert!(matches!(Snapshot::build(parts), Err(SnapshotError::ResourceTooLarge { .. })));
    let Record::Binding(mut wrong) = secret("a") else { panic!("no binding") };
    wrong.kind = BindingKind::Endpoints;
    assert!(matches!(Snapshot::build(vec![Record::Binding(wrong)]), Err(SnapshotError::BindingSource(_))));
    let Record::Resource(mut unsorted) = resource(CLUSTER, "a", "", b"") else { panic!("no resource") };
    unsorted.refs = ["b", "a"].map(|name| Reference { kind: BindingKind::Secret, name: name.into() }).into();
    let unsorted = Snapshot::build(vec![Record::Resource(unsorted)]);
    assert!(matches!(unsorted, Err(SnapshotError::RefsNotSorted(_))));
    let name: Arc<str> = "n".repeat(limits::NAME_BYTES + 1).into();
    assert!(matches!(Snapshot::build(vec![secret(&name)]), Err(SnapshotError::Limit { .. })));
}

#[test]
fn an_empty_snapshot_has_an_id() {
    let snapshot = Snapshot::build(Vec::new()).unwrap();
    assert_eq!(reread(&snapshot).unwrap(), snapshot);
    assert_eq!(snapshot.usage().largest_resource, 0);
}

#[test]
fn formats_and_features_from_the_future_are_named() {
    let manifest = crate::wire::Manifest { format: 2, ..Default::default() };
    let error = Manifest::decode(manifest.encode_to_vec().into()).unwrap_err();
    assert_eq!(error, SnapshotError::Format(2));
    let required = vec!["sealed-secrets".to_owned()];
    let manifest = crate::wire::Manifest { format: 1, required, ..Default::default() };
    let error = Manifest::decode(manifest.encode_to_vec().into()).unwrap_err();
    assert_eq!(error, SnapshotError::Feature("sealed-secrets".into()));
    assert!(error.needs_upgrade());
    // An optional one is no obstacle, and an unknown field is not canonical.
    let optional = vec!["hints".to_owned()];
    let manifest = crate::wire::Manifest { format: 1, optional, ..Default::default() };
    let mut raw = manifest.encode_to_vec();
    Manifest::decode(raw.clone().into()).unwrap();
    raw.extend_from_slice(&[0x78, 1]);
    assert_eq!(Manifest::decode(raw.into()), Err(SnapshotError::NotCanonical("manifest")));
}

#[test]
fn bundles_of_several_objects_need_a_reader_that_knows_them() {
    let object =
        |name: &str| ObjectSource { kind: "ConfigMap".into(), namespace: "shop".into(), name: name.into() };
    let joined = |kind, objects: &[ObjectSource]| {
        let source = BindingSource::Objects(objects.to_vec());
        Snapshot::build(vec![Record::Binding(Binding { kind, name: "a+b".into(), source }), secret("tls")])
    };
    let snapshot = joined(BindingKind::TrustBundle, &[object("a"), object("b")]).unwrap();
    assert_eq!(snapshot.manifest().required_features(), ["joined-bundles"]);
    assert_eq!(reread(&snapshot).unwrap(), snapshot);
    assert!(Snapshot::build(sample(3)).unwrap().manifest().required_features().is_empty());
    let refused = [
        joined(BindingKind::Secret, &[object("a"), object("b")]),
        joined(BindingKind::TrustBundle, &[object("b"), object("a")]),
        joined(BindingKind::TrustBundle, &[object("a"), object("a")]),
        joined(BindingKind::TrustBundle, &[object("a")]),
        joined(BindingKind::TrustBundle, &[]),
    ];
    for wrong in refused {
        assert!(matches!(wrong, Err(SnapshotError::BindingSource(_))), "{wrong:?}");
    }
}

#[test]
fn a_page_of_another_snapshot_is_refused() {
    let (a, b) = (Snapshot::build(vec![secret("a")]).unwrap(), Snapshot::build(vec![secret("b")]).unwrap());
    let mixed = Snapshot::from_pages(a.manifest().clone(), b.pages().to_vec());
    assert!(matches!(mixed, Err(SnapshotError::PageMismatch(_))));
    assert!(Snapshot::from_pages(a.manifest().clone(), Vec::new()).is_err());
}

#[test]
fn use_of_limits_warns_from_eighty_percent() {
    let most = limits::RESOURCE_BYTES / limits::RECORD_BYTES;
    let near = |records: Vec<Record>| -> Vec<&str> {
        let warnings = Snapshot::build(records).unwrap().usage().warnings();
        warnings.into_iter().map(|limit| limit.what).collect()
    };
    assert!(near(vec![resource(ROUTES, "a", "", &vec![0; limits::RECORD_BYTES / 2])]).is_empty());
    assert_eq!(near(large_parts(most / 2)), ["bytes of the largest record"]);
    assert_eq!(near(large_parts(most)), ["bytes of the largest resource", "bytes of the largest record"]);
}

/// A resource of as many parts, each nearly as large as a record may be.
fn large_parts(count: usize) -> Vec<Record> {
    let name = |index: usize| if index == 0 { String::new() } else { format!("{index:03}") };
    let part = |index| resource(ROUTES, "a", &name(index), &vec![0; limits::RECORD_BYTES - 100]);
    (0..count).map(part).collect()
}

/// Pinned bytes: whoever changes these changes the id of every snapshot and must raise [`crate::manifest::FORMAT`].
#[test]
fn golden_of_the_format() {
    let snapshot = Snapshot::build(vec![
        resource(CLUSTER, "shop/web/80", "", b"\x0a\x0bshop/web/80"),
        resource(ROUTES, "edge", "", b"\x0a\x04edge"),
        resource(ROUTES, "edge", "example.com", b"\x12\x0d\x0a\x0bexample.com"),
        binding("shop/web/80"),
        secret("cert"),
    ])
    .unwrap();
    let mut text = format!("snapshot {}\n", snapshot.id());
    for page in snapshot.pages() {
        writeln!(text, "page {} {}", page.digest(), hex(page.raw())).unwrap();
    }
    writeln!(text, "manifest {}", hex(snapshot.manifest().raw())).unwrap();
    // The cut points and the form without inline pages.
    let large = Snapshot::build(sample(3000)).unwrap();
    writeln!(text, "large {} {}", large.id(), large.pages().len()).unwrap();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/snapshot.txt");
    assert_eq!(std::fs::read_to_string(golden).unwrap_or_default(), text);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Page::decode(bytes.clone().into());
        let _ = Manifest::decode(bytes.clone().into());
        let _ = crate::compress::decompress(&bytes, 1000);
    }

    #[test]
    fn a_changed_byte_is_refused_or_another_snapshot(at in any::<proptest::sample::Index>(), bit in 0..8u8) {
        let snapshot = Snapshot::build(sample(20)).unwrap();
        let mut raw = snapshot.manifest().raw().to_vec();
        let at = at.index(raw.len());
        raw[at] ^= 1 << bit;
        if let Ok(manifest) = Manifest::decode(raw.into()) {
            prop_assert_ne!(manifest.id(), snapshot.id());
        }
    }

    #[test]
    fn what_decodes_encodes_to_the_same(seed in proptest::collection::vec((0..3usize, 0..40u32, 0..4u32), 0..60)) {
        let mut records: Vec<Record> = seed
            .into_iter()
            .map(|(kind, name, part)| match kind {
                0 => resource(CLUSTER, &format!("c{name}"), "", &[1; 30]),
                1 if part > 0 => resource(ROUTES, "table", &format!("h{name}"), &[2; 30]),
                1 => secret(&format!("s{name}")),
                _ => binding(&format!("b{name}")),
            })
            .collect();
        records.push(resource(ROUTES, "table", "", b""));
        records.sort_by(|a, b| a.key().cmp(&b.key()));
        records.dedup();
        let snapshot = Snapshot::build(records.clone()).unwrap();
        prop_assert_eq!(reread(&snapshot).unwrap(), snapshot.clone());
        prop_assert!(snapshot.records().eq(records.iter()));
    }
}

#[test]
fn the_oldest_envoy_is_part_of_what_a_snapshot_is() {
    let records = || vec![resource(CLUSTER, "a", "", b"x")];
    let usual = Snapshot::build(records()).unwrap();
    let newer = Snapshot::build_for(records(), Some("1.39")).unwrap();
    assert_eq!(Snapshot::build_for(records(), None).unwrap().id(), usual.id());
    assert_ne!(newer.id(), usual.id());
    let read = Manifest::decode(newer.manifest().raw().clone()).unwrap();
    assert_eq!((usual.manifest().oldest_envoy(), read.oldest_envoy()), (OLDEST_ENVOY, "1.39"));
}
