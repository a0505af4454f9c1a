use super::*;
use moorgate_snapshot::{Record, Resource};

pub(super) fn fleet() -> FleetName {
    FleetName::gateway("shop", "edge")
}

pub(super) fn snapshot(salt: u32, records: u32) -> Snapshot {
    let record = |number: u32| {
        // Long enough that the pages do not lie inside the manifest.
        let text = format!("{salt} {number} ").repeat(300);
        Record::Resource(Resource {
            type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(),
            name: format!("cluster-{number}").into(),
            part: "".into(),
            bytes: text.into_bytes().into(),
            refs: Vec::new(),
        })
    };
    Snapshot::build((0..records).map(record).collect()).unwrap()
}

pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { out.extend(files(&path)) } else { out.push(path) }
    }
    out.sort();
    out
}

#[test]
fn what_is_put_is_got_after_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let snapshot = snapshot(1, 100);
    let mut state = State { sequence: 3, serving: Some(snapshot.id()), ..State::default() };
    state.note_good(snapshot.id());
    let endpoints: BTreeMap<Arc<str>, Vec<u8>> = [("a".into(), vec![1, 2]), ("b".into(), vec![])].into();
    {
        let cache = Cache::open(root.path(), &fleet()).unwrap();
        cache.put(&snapshot).unwrap();
        cache.save_state(&state).unwrap();
        cache.save_endpoints(&endpoints).unwrap();
        assert!(matches!(Cache::open(root.path(), &fleet()), Err(CacheError::Locked { .. })));
    }
    let cache = Cache::open(root.path(), &fleet()).unwrap();
    assert_eq!(cache.state(), state);
    assert_eq!(cache.get(snapshot.id()).unwrap().id(), snapshot.id());
    assert_eq!(cache.endpoints(), endpoints);
}

#[test]
fn damage_anywhere_is_seen_and_an_older_generation_is_whole() {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::open(root.path(), &fleet()).unwrap();
    let (old, new) = (snapshot(1, 100), snapshot(2, 100));
    cache.put(&old).unwrap();
    let before: BTreeSet<_> = files(&cache.folder.join("objects")).into_iter().collect();
    cache.put(&new).unwrap();
    for path in files(&cache.folder.join("objects")).into_iter().filter(|path| !before.contains(path)) {
        let whole = fs::read(&path).unwrap();
        let damages = [0, whole.len() / 2, whole.len() - 1].map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        });
        let cuts = [Vec::new(), whole[..whole.len() - 1].to_vec(), [whole.as_slice(), b"x"].concat()];
        for bytes in damages.into_iter().chain(cuts) {
            fs::write(&path, bytes).unwrap();
            assert!(cache.get(new.id()).is_err(), "{}", path.display());
            assert!(cache.get(old.id()).is_ok());
        }
        fs::remove_file(&path).unwrap();
        assert!(cache.get(new.id()).is_err());
        // Putting it again mends it.
        cache.put(&new).unwrap();
        assert!(cache.get(new.id()).is_ok());
    }
}

#[test]
fn a_damaged_state_falls_back_to_the_one_before() {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::open(root.path(), &fleet()).unwrap();
    let state = |sequence| State { sequence, ..State::default() };
    cache.save_state(&state(1)).unwrap();
    cache.save_state(&state(2)).unwrap();
    let path = cache.folder.join("state");
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        fs::write(&path, &bytes).unwrap();
        let found = cache.state().sequence;
        assert!(found == 1 || found == 2, "byte {at}");
        fs::write(&path, &whole[..at]).unwrap();
        assert_eq!(cache.state().sequence, 1, "cut at {at}");
    }
    // A damaged newest copy never pushes out the whole one before it.
    fs::write(&path, b"x").unwrap();
    cache.save_state(&state(3)).unwrap();
    fs::write(&path, b"x").unwrap();
    assert_eq!(cache.state().sequence, 1);
}

#[test]
fn only_what_is_kept_stays() {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::open(root.path(), &fleet()).unwrap();
    let snapshots: Vec<_> = (0..8).map(|salt| snapshot(salt, 60)).collect();
    let mut state = State::default();
    for snapshot in &snapshots {
        cache.put(snapshot).unwrap();
        state.note_good(snapshot.id());
    }
    cache.retain(&state.kept()).unwrap();
    let kept: Vec<bool> = snapshots.iter().map(|snapshot| cache.get(snapshot.id()).is_ok()).collect();
    assert_eq!(kept, [false, false, false, true, true, true, true, true]);
}

#[test]
fn endpoints_that_were_damaged_are_not_served() {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::open(root.path(), &fleet()).unwrap();
    cache.save_endpoints(&[("a".into(), vec![1, 2])].into()).unwrap();
    let path = cache.folder.join("endpoints");
    let text = fs::read_to_string(&path).unwrap().replace("[1,2]", "[1,3]");
    fs::write(&path, text).unwrap();
    assert!(cache.endpoints().is_empty());
}

/// A relay that is killed leaves its steps half done: the copy moved aside and no new one, a file beside its place,
/// pages without their manifest.
#[test]
fn a_kill_between_two_writes_costs_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (old, new) = (snapshot(1, 100), snapshot(2, 100));
    let state = State { sequence: 7, serving: Some(old.id()), ..State::default() };
    {
        let cache = Cache::open(root.path(), &fleet()).unwrap();
        cache.put(&old).unwrap();
        cache.save_state(&state).unwrap();
        cache.put(&new).unwrap();
        fs::rename(cache.folder.join("state"), cache.folder.join("state.previous")).unwrap();
        fs::write(cache.folder.join("writing"), b"half a st").unwrap();
        fs::remove_file(cache.place().path(new.id())).unwrap();
    }
    let cache = Cache::open(root.path(), &fleet()).unwrap();
    assert_eq!(cache.state(), state);
    assert!(cache.get(old.id()).is_ok());
    assert!(cache.get(new.id()).is_err());
    cache.put(&new).unwrap();
    cache.save_state(&State { sequence: 8, ..state }).unwrap();
    assert_eq!(cache.state().sequence, 8);
    assert!(cache.get(new.id()).is_ok());
}
