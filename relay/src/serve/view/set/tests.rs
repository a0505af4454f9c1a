use super::*;
use bytes::Bytes;

fn value(content: &str) -> Arc<Value> {
    Arc::new(Value::new(vec![Bytes::from(content.to_owned())], vec![]))
}

fn map(entries: &[(&str, &str)]) -> BTreeMap<Name, Arc<Value>> {
    entries.iter().map(|(name, content)| (Name::from(*name), value(content))).collect()
}

fn set(entries: &[(&str, &str)]) -> Arc<TypeSet> {
    TypeSet::new(map(entries), BTreeSet::new())
}

/// So many resources, one of them with another content.
fn many(count: usize, other: usize, content: &str) -> BTreeMap<Name, Arc<Value>> {
    let one = |index: usize| {
        let content = if index == other { content } else { "as before" };
        (Name::from(format!("resource-{index:05}")), value(content))
    };
    (0..count).map(one).collect()
}

fn names(batch: &Batch) -> Vec<&str> {
    batch.iter().map(|(name, _)| &**name).collect()
}

#[test]
fn differences_are_worked_out_once_and_right() {
    let (a, b) = (set(&[("a", "1"), ("b", "1"), ("c", "1")]), set(&[("b", "1"), ("c", "2"), ("d", "1")]));
    let difference = b.since(&a);
    assert_eq!(difference.changed, ["c".into(), "d".into()] as [Name; 2]);
    assert_eq!(difference.removed, ["a".into()] as [Name; 1]);
    assert!(Arc::ptr_eq(&difference, &b.since(&a)));
    for n in 0..50 {
        b.since(&set(&[("n", &n.to_string())]));
    }
    assert!(b.differences.lock().unwrap().len() <= REMEMBERED_DIFFERENCES);
    assert!(Arc::ptr_eq(&b.since(&set(&[])), &b.since(&set(&[]))), "empty sets are alike");
}

#[test]
fn an_equal_set_is_the_old_one_and_versions_are_of_content() {
    let old = set(&[("a", "1"), ("b", "2")]);
    let equal = set(&[("a", "1"), ("b", "2")]);
    assert_eq!(old.version(), equal.version());
    let values = |set: &TypeSet| set.iter().map(|(n, v)| (Arc::clone(n), Arc::clone(v))).collect();
    assert!(Arc::ptr_eq(&old, &TypeSet::following(&old, values(&equal), BTreeSet::new())));
    assert!(Arc::ptr_eq(&old, &TypeSet::of_leaves(Some(&old), equal.leaves.clone())));
    let waits = TypeSet::following(&old, values(&equal), BTreeSet::from(["c".into()]));
    assert!(!Arc::ptr_eq(&old, &waits) && waits.is_pending("c"));
    let other = set(&[("a", "1"), ("b", "3")]);
    let next = TypeSet::following(&old, values(&other), BTreeSet::new());
    assert!(Arc::ptr_eq(old.get("a").unwrap(), next.get("a").unwrap()));
    assert_ne!(old.version(), next.version());
}

/// Whatever is added, changed and taken: a set of leaves is as the map that it was made of, and differs as the maps do.
#[test]
fn leaves_change_nothing() {
    let mut random = 7_u32;
    let mut next = |below: u32| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 8) % below
    };
    let mut content = BTreeMap::new();
    let mut before = set(&[]);
    let mut former: BTreeMap<Name, Arc<Value>> = BTreeMap::new();
    for round in 0..120 {
        for _ in 0..next(if round % 10 == 0 { 400 } else { 6 }) {
            let name = Name::from(format!("r{}", next(900)));
            if next(3) == 0 {
                content.remove(&name);
            } else {
                content.insert(name, value(&next(3).to_string()));
            }
        }
        let after = TypeSet::following(&before, content.clone(), BTreeSet::new());
        assert!(after.iter().map(|(name, _)| name).eq(content.keys()), "round {round}");
        assert!(after.leaves.iter().all(|leaf| !leaf.0.is_empty()));
        assert_eq!(after.len(), content.len());
        for n in 0..900 {
            let name = format!("r{n}");
            let version = |value: Option<&Arc<Value>>| value.map(|value| Arc::clone(value.version()));
            assert_eq!(version(after.get(&name)), version(content.get(&*name)), "{name}");
        }
        let differs =
            |name: &&Name| former.get(*name).is_none_or(|old| old.version() != content[*name].version());
        let changed: Vec<Name> = content.keys().filter(differs).cloned().collect();
        let removed: Vec<Name> = former.keys().filter(|name| !content.contains_key(*name)).cloned().collect();
        assert_eq!(*after.since(&before), Difference { changed, removed }, "round {round}");
        (before, former) = (after, content.clone());
    }
}

/// A change of one resource makes one leaf, and the others are not looked at.
#[test]
fn a_change_makes_one_leaf() {
    let before = TypeSet::new(many(10_000, 0, "as before"), BTreeSet::new());
    let after = TypeSet::following(&before, many(10_000, 5_000, "new"), BTreeSet::new());
    let (new, old) = after.apart(&before);
    assert_eq!((before.leaves.len(), new.0.len(), old.0.len()), (79, 1, 1));
    assert_eq!(after.since(&before).changed, ["resource-05000".into()] as [Name; 1]);
    assert!(after.get("resource-0").is_none() && after.get("z").is_none() && after.get("").is_none());
}

#[test]
fn a_batch_is_one_for_all_and_goes_with_the_last_of_them() {
    let (before, after) = (set(&[("a", "1"), ("b", "1")]), set(&[("a", "1"), ("b", "2"), ("c", "1")]));
    let batch = after.step(&before, usize::MAX, 0).unwrap();
    assert_eq!(names(&batch), ["b", "c"]);
    assert!(batch.after().is_none());
    assert!(Arc::ptr_eq(&batch, &after.step(&before, usize::MAX, 0).unwrap()));
    let all = after.step(&set(&[]), usize::MAX, 0).unwrap();
    assert_eq!(names(&all), ["a", "b", "c"]);
    assert!(Arc::ptr_eq(&all, &after.step(&set(&[]), usize::MAX, 0).unwrap()), "empty sets are alike");
    let same = after.batch(all.to_vec());
    assert!(Arc::ptr_eq(&same, &after.batch(all.to_vec())));
    assert_eq!(names(&after.batch(batch.to_vec())), ["b", "c"]);
    let held = Arc::downgrade(&batch);
    drop(batch);
    assert!(held.upgrade().is_none(), "nobody sends it any more");
    assert!(before.step(&after, usize::MAX, 0).is_none(), "something leaves");
    assert!(after.step(&after, usize::MAX, 0).is_none(), "nothing changed");
    assert!(after.batch(Vec::new()).is_empty());
}

/// What does not fit one response comes in several, each the same for all who are so far.
#[test]
fn a_batch_is_cut_where_a_response_is_full() {
    let whole = TypeSet::new(many(10, 3, "longer than all the others together, by far"), BTreeSet::new());
    let (mut held, mut sent) = (set(&[]), Vec::new());
    loop {
        let batch = whole.step(&held, 60, 2).unwrap();
        assert!(Arc::ptr_eq(&batch, &whole.step(&held, 60, 2).unwrap()));
        assert!(batch.len() == 1 || batch.iter().map(|(n, v)| n.len() + v.len() + 2).sum::<usize>() <= 60);
        sent.extend(names(&batch).into_iter().map(str::to_owned));
        let Some(after) = batch.after() else { break };
        assert!(after.iter().map(|(name, _)| &**name).eq(sent.iter().map(String::as_str)));
        held = Arc::clone(after);
    }
    assert!(whole.iter().map(|(name, _)| &**name).eq(sent.iter().map(String::as_str)));
}
