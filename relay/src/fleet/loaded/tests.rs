use super::*;
use moorgate_snapshot::{BindingSource, EndpointSource, Family, Record, Reference, Resource};

const CLUSTER: &str = types::CLUSTER;
const ROUTE: &str = types::ROUTE;

fn resource(type_url: &str, name: &str, part: &str, text: &str) -> Record {
    Record::Resource(Resource {
        type_url: type_url.into(),
        name: name.into(),
        part: part.into(),
        bytes: text.repeat(20).into_bytes().into(),
        refs: vec![Reference { kind: BindingKind::Endpoints, name: name.into() }],
    })
}

fn binding(name: &str) -> Record {
    let source = EndpointSource {
        namespace: "shop".into(),
        service: name.into(),
        port_name: "http".into(),
        port: 80,
        family: Family::Any,
        weight: 1,
        hostname: "".into(),
        addresses: Vec::new(),
    };
    let source = BindingSource::Endpoints(vec![source]);
    Record::Binding(Binding { kind: BindingKind::Endpoints, name: name.into(), source })
}

/// So many clusters with their endpoints, and tables of ten hosts each; one cluster and one host are as told.
fn snapshot(clusters: usize, cluster: &str, host: &str) -> Arc<Snapshot> {
    let mut records = Vec::new();
    for index in 0..clusters {
        let name = format!("shop/service-{index}/80");
        let text = if index == clusters / 2 { cluster } else { "as before" };
        records.extend([resource(CLUSTER, &name, "", text), binding(&name)]);
    }
    for table in 0..clusters / 20 {
        let name = format!("table-{table:04}");
        records.push(resource(ROUTE, &name, "", "head"));
        for index in 0..10 {
            let text = if (table, index) == (clusters / 40, 5) { host } else { "as before" };
            records.push(resource(ROUTE, &name, &format!("host-{table}-{index}.example.com"), text));
        }
    }
    Arc::new(Snapshot::build(records).unwrap())
}

/// The next snapshot as a relay gets it: with the pages that it holds, and the others as they came from the store.
fn fetched(next: &Snapshot, before: Option<&Loaded>) -> Arc<Snapshot> {
    let pages = before.into_iter().flat_map(|before| before.snapshot.pages());
    let held: BTreeMap<Digest, &Page> = pages.map(|page| (page.digest(), page)).collect();
    let page = |page: &Page| {
        let held = held.get(&page.digest()).map(|page| (*page).clone());
        held.unwrap_or_else(|| Page::decode(page.raw().clone()).unwrap())
    };
    let pages = next.pages().iter().map(page).collect();
    Arc::new(Snapshot::from_pages(next.manifest().clone(), pages).unwrap())
}

/// Values of one configuration that the other does not share.
fn fresh(of: &Loaded, beside: &Loaded) -> usize {
    let shared = |type_url: &Name, name: &Name, value: &Arc<Value>| {
        let other = beside.config.types.get(type_url).and_then(|set| set.get(name));
        other.is_some_and(|other| Arc::ptr_eq(other, value))
    };
    let types = of.config.types.iter();
    types.map(|(t, set)| set.iter().filter(|(name, value)| !shared(t, name, value)).count()).sum()
}

/// However many resources there are, a change puts together what lies in its page, and nothing else is hashed.
#[test]
fn a_change_costs_its_page_and_not_what_there_is() {
    for clusters in [200, 4_000] {
        let before = Loaded::new(snapshot(clusters, "old", "old"), None);
        for (next, type_url) in
            [(snapshot(clusters, "new", "old"), CLUSTER), (snapshot(clusters, "old", "new"), ROUTE)]
        {
            let after = Loaded::new(fetched(&next, Some(&before)), Some(&before));
            let new = |part: &&Arc<Part>| !before.parts.values().any(|old| Arc::ptr_eq(old, part));
            let parts: Vec<_> = after.parts.values().filter(new).collect();
            // A table that goes on from the page before belongs to the part that begins there.
            assert!((1..=2).contains(&parts.len()), "{} of {} parts", parts.len(), after.parts.len());
            let values = fresh(&after, &before);
            assert!((1..=1024).contains(&values), "{values} values of {clusters} clusters");
            for (name, set) in &after.config.types {
                let changed = set.since(&before.config.types[name]).changed.len();
                assert_eq!(changed, usize::from(**name == *type_url), "{name}");
                assert_eq!(Arc::ptr_eq(set, &before.config.types[name]), **name != *type_url, "{name}");
            }
            assert!(after.bindings.is(&before.bindings), "endpoints are not asked for again");
            assert_eq!(after.count(), before.count());
        }
    }
}

/// What is put together beside a former one is what it is by itself.
#[test]
fn what_is_shared_changes_nothing() {
    let mut before = Loaded::new(snapshot(400, "0", "0"), None);
    for round in 1..12_u32 {
        let (cluster, host) = ((round / 2).to_string(), (round / 3).to_string());
        let next = snapshot(400 + 7 * (round as usize % 4), &cluster, &host);
        let alone = Loaded::new(Arc::clone(&next), None);
        let after = Loaded::new(fetched(&next, Some(&before)), Some(&before));
        assert!(after.config.types.keys().eq(alone.config.types.keys()));
        for (type_url, set) in &after.config.types {
            let own =
                set.iter().map(|(name, value)| (name, value.version(), value.chunks(), value.endpoints()));
            let others = alone.config.types[type_url].iter();
            assert!(own.eq(others.map(|(n, v)| (n, v.version(), v.chunks(), v.endpoints()))), "{type_url}");
        }
        assert!(after.bindings.iter().eq(alone.bindings.iter()), "round {round}");
        let names =
            |loaded: &Loaded| loaded.bindings.iter().map(|b| Arc::clone(&b.name)).collect::<BTreeSet<_>>();
        assert_eq!(before.bindings.endpoints_beside(&after.bindings), &names(&before) - &names(&after));
        before = after;
    }
}

/// Many changes of one page: what is unchanged in it does not hold on to the pages of the past.
#[test]
fn no_page_of_the_past_is_held() {
    let mut loaded = Loaded::new(fetched(&snapshot(100, "0", "0"), None), None);
    for round in 1..20 {
        let next = snapshot(100, &round.to_string(), "0");
        loaded = Loaded::new(fetched(&next, Some(&loaded)), Some(&loaded));
        let pages: Vec<_> = loaded.snapshot.pages().iter().map(|page| page.raw().as_ptr_range()).collect();
        for (_, value) in loaded.config.types[CLUSTER].iter() {
            let inside = |chunk: &bytes::Bytes| pages.iter().any(|page| page.contains(&chunk.as_ptr()));
            assert!(value.chunks().iter().all(inside), "round {round}");
        }
    }
}
