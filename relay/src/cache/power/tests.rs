//! What keeping a snapshot costs a disk, and how its objects stay whole.

use super::*;
use moorgate_snapshot::Record;

/// So many clusters, of which one is as told.
fn clusters(count: u32, text: &str) -> Snapshot {
    let mut records: Vec<Record> = snapshot(0, count).records().cloned().collect();
    let Some(Record::Resource(one)) = records.first_mut() else { panic!("no record") };
    one.bytes = text.as_bytes().to_vec().into();
    Snapshot::build(records).unwrap()
}

/// However many pages there are, a change of one is one page and the manifest, written, and a few objects read again.
#[test]
fn a_change_of_one_page_reads_and_writes_no_others() {
    let mut costs = BTreeSet::new();
    for count in [1_000, 2_000] {
        let (disk, before, after) = (TestDisk::default(), clusters(count, "old"), clusters(count, "new"));
        let cache = disk.cache();
        cache.put(&before).unwrap();
        assert!(before.pages().len() > 5, "{}", before.pages().len());
        disk.inner().steps.clear();
        disk.inner().reads.clear();
        cache.put(&after).unwrap();
        cache.retain(&[before.id(), after.id()].into()).unwrap();
        let inner = disk.inner();
        let writes = inner.steps.iter().filter(|step| matches!(step, Step::Write(..))).count();
        costs.insert((writes, inner.reads.len()));
    }
    // Both that are new are looked for on the disk first.
    assert_eq!(costs, [(2, 2 + 4)].into());
}

/// What rots under a running relay is noticed, and mended while it is in memory.
#[test]
fn what_rots_is_written_again() {
    let (disk, kept) = (TestDisk::default(), snapshot(1, 400));
    let cache = disk.cache();
    cache.put(&kept).unwrap();
    let objects: Vec<PathBuf> = disk.inner().files.keys().cloned().collect();
    for path in &objects {
        disk.inner().files.insert(path.clone(), b"rotten".to_vec());
        let puts = (0..objects.len()).position(|_| {
            cache.put(&kept).unwrap();
            disk.inner().files[path] != b"rotten"
        });
        assert!(puts.is_some_and(|puts| puts <= objects.len() / 4), "{} {puts:?}", path.display());
        disk.inner().files.remove(path);
        cache.put(&kept).unwrap();
        assert!(cache.get(kept.id()).is_ok(), "what is gone is written again at once");
    }
}

/// A folder that could not be synced is synced the next time, though all objects are there by then.
#[test]
fn names_that_may_not_be_durable_are_synced_the_next_time() {
    let (disk, kept) = (TestDisk::default(), snapshot(1, 60));
    let cache = disk.cache();
    disk.inner().unsyncable = true;
    assert!(cache.put(&kept).is_err());
    disk.inner().unsyncable = false;
    disk.inner().steps.clear();
    cache.put(&kept).unwrap();
    assert!(matches!(disk.inner().steps[0], Step::SyncFolder(_)), "{:?}", disk.inner().steps.first());
}
