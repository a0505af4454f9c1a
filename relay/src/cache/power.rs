//! The power goes, the disk fills up, bytes rot: at each step, and what is left is the old or the new one, whole.

use super::tests::{files, fleet, snapshot};
use super::*;
use std::collections::BTreeMap;

/// One step of a disk.
#[derive(Debug, Clone)]
enum Step {
    Write(PathBuf, Vec<u8>),
    SyncFile(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncFolder(PathBuf),
}

type Image = BTreeMap<PathBuf, Vec<u8>>;

/// A disk in memory that notes each step, and fails as told.
#[derive(Debug, Clone, Default)]
struct TestDisk(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    files: Image,
    steps: Vec<Step>,
    /// Files that were read.
    reads: Vec<PathBuf>,
    /// From this step on there is no room for more.
    full_from: Option<usize>,
    /// Nothing is ever made durable: what a cache would be that forgot to sync.
    careless: bool,
    /// No folder can be synced.
    unsyncable: bool,
}

impl TestDisk {
    fn holding(files: Image) -> Self {
        Self(Arc::new(Mutex::new(Inner { files, ..Inner::default() })))
    }

    fn cache(&self) -> Cache {
        Cache::on(PathBuf::from("/cache"), Box::new(self.clone()), None)
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    fn step(&self, step: Step) -> io::Result<()> {
        let mut inner = self.inner();
        if inner.full_from.is_some_and(|from| inner.steps.len() >= from) {
            // A full disk takes a part, and still moves and removes.
            if let Step::Write(path, bytes) = &step {
                inner.files.insert(path.clone(), bytes[..bytes.len() / 3].to_vec());
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        match step.clone() {
            Step::SyncFolder(_) if inner.unsyncable => return Err(io::ErrorKind::Other.into()),
            Step::Write(path, bytes) => drop(inner.files.insert(path, bytes)),
            Step::Rename(from, to) => {
                let bytes = inner.files.remove(&from).ok_or(io::ErrorKind::NotFound)?;
                inner.files.insert(to, bytes);
            }
            Step::Remove(path) => drop(inner.files.remove(&path).ok_or(io::ErrorKind::NotFound)?),
            Step::SyncFile(_) | Step::SyncFolder(_) if inner.careless => return Ok(()),
            Step::SyncFile(_) | Step::SyncFolder(_) => {}
        }
        inner.steps.push(step);
        Ok(())
    }
}

impl Disk for TestDisk {
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let mut inner = self.inner();
        inner.reads.push(path.to_owned());
        let bytes = inner.files.get(path).cloned().ok_or(io::ErrorKind::NotFound)?;
        if bytes.len() as u64 > limit { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.step(Step::Write(path.to_owned(), bytes.to_vec()))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.step(Step::SyncFile(path.to_owned()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(Step::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step(Step::Remove(path.to_owned()))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.step(Step::SyncFolder(path.to_owned()))
    }

    fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        let inner = self.inner();
        let inside = inner.files.keys().filter(|file| file.parent() == Some(path));
        Ok(inside.filter_map(|file| Some(file.file_name()?.to_str()?.to_owned())).collect())
    }
}

/// What a power cut leaves of a file's content that was not made durable.
#[derive(Debug, Clone, Copy)]
enum Torn {
    Before,
    Nothing,
    Half,
    Zeros,
    Whole,
}

const TORN: [Torn; 5] = [Torn::Before, Torn::Nothing, Torn::Half, Torn::Zeros, Torn::Whole];

/// Files as inodes and names: what is durable of each, and what is not yet.
#[derive(Debug, Clone, Default)]
struct Model {
    /// By inode: the durable content and the newest one.
    contents: Vec<(Vec<u8>, Vec<u8>)>,
    durable: BTreeMap<PathBuf, usize>,
    now: BTreeMap<PathBuf, usize>,
    /// Changes of names, in order, with the folder whose sync makes them durable.
    pending: Vec<(PathBuf, Change)>,
}

#[derive(Debug, Clone)]
enum Change {
    Link(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, change: &Change) {
    match change {
        Change::Link(path, inode) => drop(names.insert(path.clone(), *inode)),
        Change::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
        Change::Remove(path) => drop(names.remove(path)),
    }
}

impl Model {
    fn of(image: &Image) -> Self {
        let mut model = Self::default();
        for (path, bytes) in image {
            model.durable.insert(path.clone(), model.contents.len());
            model.contents.push((bytes.clone(), bytes.clone()));
        }
        model.now.clone_from(&model.durable);
        model
    }

    fn change(&mut self, folder: &Path, change: Change) {
        apply(&mut self.now, &change);
        self.pending.push((folder.to_owned(), change));
    }

    fn step(&mut self, step: &Step) {
        let folder = |path: &Path| path.parent().unwrap().to_owned();
        match step {
            Step::Write(path, bytes) => {
                if let Some(inode) = self.now.get(path) {
                    self.contents[*inode].1.clone_from(bytes);
                } else {
                    let inode = self.contents.len();
                    self.contents.push((Vec::new(), bytes.clone()));
                    self.change(&folder(path), Change::Link(path.clone(), inode));
                }
            }
            Step::SyncFile(path) => {
                let content = &mut self.contents[self.now[path]];
                content.0 = content.1.clone();
            }
            Step::Rename(from, to) => {
                // The link of what is moved goes with it: a journal keeps their order.
                let inode = self.now[from];
                let change = if self.durable.get(from) == Some(&inode) {
                    Change::Rename(from.clone(), to.clone())
                } else {
                    apply(&mut self.now, &Change::Remove(from.clone()));
                    Change::Link(to.clone(), inode)
                };
                self.change(&folder(to), change);
            }
            Step::Remove(path) => self.change(&folder(path), Change::Remove(path.clone())),
            Step::SyncFolder(folder) => {
                let (synced, left) = self.pending.drain(..).partition::<Vec<_>, _>(|(of, _)| of == folder);
                synced.iter().for_each(|(_, change)| apply(&mut self.durable, change));
                self.pending = left;
            }
        }
    }

    /// What may be there when the power comes back: any of the pending changes of names, and of each content that was not
    /// made durable what `torn` says.
    fn crashes(&self) -> Vec<Image> {
        let mut images = Vec::new();
        let count = self.pending.len();
        // All choices of the newest few; of many removals, all or none of the older ones.
        let free = count.min(5);
        for older in [false, true] {
            for choice in 0..1_u32 << free {
                let mut names = self.durable.clone();
                for (number, (_, change)) in self.pending.iter().enumerate() {
                    let newest = number.checked_sub(count - free).map(|bit| choice >> bit & 1 == 1);
                    if newest.unwrap_or(older) {
                        apply(&mut names, change);
                    }
                }
                images.extend(TORN.map(|torn| self.image(&names, torn)));
            }
            if count <= free {
                break;
            }
        }
        images.sort();
        images.dedup();
        images
    }

    fn image(&self, names: &BTreeMap<PathBuf, usize>, torn: Torn) -> Image {
        let content = |inode: &usize| {
            let (durable, now) = &self.contents[*inode];
            match torn {
                _ if durable == now => now.clone(),
                Torn::Before => durable.clone(),
                Torn::Nothing => Vec::new(),
                Torn::Half => now[..now.len() / 2].to_vec(),
                Torn::Zeros => vec![0; now.len()],
                Torn::Whole => now.clone(),
            }
        };
        names.iter().map(|(path, inode)| (path.clone(), content(inode))).collect()
    }
}

fn state(sequence: u64, snapshots: &[&Snapshot]) -> State {
    let mut state = State { sequence, serving: snapshots.last().map(|one| one.id()), ..State::default() };
    snapshots.iter().for_each(|snapshot| state.note_good(snapshot.id()));
    state
}

fn endpoints(n: u8) -> BTreeMap<Arc<str>, Vec<u8>> {
    [("cart".into(), vec![n; 40])].into()
}

/// A cache that served the first snapshot, and all that a relay does when the second one comes.
struct Update {
    old: Snapshot,
    new: Snapshot,
    image: Image,
}

impl Update {
    fn new() -> Self {
        Self::of(60)
    }

    /// Of snapshots with so many records.
    fn of(records: u32) -> Self {
        let (gone, old, new) = (snapshot(0, records), snapshot(1, records), snapshot(2, records));
        let disk = TestDisk::default();
        let cache = disk.cache();
        cache.put(&gone).unwrap();
        cache.put(&old).unwrap();
        cache.save_state(&state(0, &[&gone])).unwrap();
        cache.save_state(&state(1, &[&old])).unwrap();
        cache.save_endpoints(&endpoints(1)).unwrap();
        let image = disk.inner().files.clone();
        Self { old, new, image }
    }

    /// In the order of the fleet's task. Whatever fails, the rest goes on.
    fn run(&self, cache: &Cache) -> Vec<Result<(), CacheError>> {
        let both = state(2, &[&self.old, &self.new]);
        vec![
            cache.put(&self.new),
            cache.save_state(&both),
            cache.retain(&both.kept()),
            cache.save_endpoints(&endpoints(2)),
            cache.save_pin(self.old.id()),
        ]
    }

    /// What is wrong with what a relay finds.
    fn fault(&self, cache: &Cache) -> Option<String> {
        let (found, old, new) = (cache.state(), self.old.id(), self.new.id());
        if found != state(1, &[&self.old]) && found != state(2, &[&self.old, &self.new]) {
            return Some(format!("the state is neither: {found:?}"));
        }
        if cache.get(old).is_err() {
            return Some("the old snapshot is not whole".to_owned());
        }
        if found.serving == Some(new) && cache.get(new).is_err() {
            return Some("the new snapshot is remembered and not whole".to_owned());
        }
        let kept = cache.endpoints();
        (kept != endpoints(1) && kept != endpoints(2)).then(|| "the endpoints are neither".to_owned())
    }

    /// The first fault after a power cut behind any step, in any of the ways that a cut may leave the disk.
    fn cut_anywhere(&self, careless: bool) -> Option<String> {
        let disk = TestDisk::holding(self.image.clone());
        disk.inner().careless = careless;
        for result in self.run(&disk.cache()) {
            result.unwrap();
        }
        let steps = disk.inner().steps.clone();
        assert!(steps.len() > 10, "{}", steps.len());
        let mut model = Model::of(&self.image);
        for (number, step) in steps.iter().enumerate() {
            model.step(step);
            for image in model.crashes() {
                let disk = TestDisk::holding(image);
                let cache = disk.cache();
                if let Some(fault) = self.fault(&cache) {
                    return Some(format!("after step {number}: {fault}"));
                }
                // The next start goes on from there.
                for result in self.run(&cache) {
                    result.unwrap();
                }
                assert_eq!(cache.state().sequence, 2);
                assert!(cache.get(self.new.id()).is_ok() && cache.get(self.old.id()).is_ok());
            }
        }
        None
    }
}

#[test]
fn f21_power_that_goes_at_any_step_leaves_the_old_or_the_new_one() {
    assert_eq!(Update::new().cut_anywhere(false), None);
}

/// The test sees what a cache that never synced would lose.
#[test]
fn f21_without_syncs_a_power_cut_does_damage() {
    assert!(Update::new().cut_anywhere(true).is_some());
}

#[test]
fn f22_a_disk_that_fills_up_at_any_step_costs_nothing_that_was_kept() {
    let update = Update::new();
    let mut failed = 0;
    for full_from in 0.. {
        let disk = TestDisk::holding(update.image.clone());
        disk.inner().full_from = Some(full_from);
        let results = update.run(&disk.cache());
        let full = results.iter().any(Result::is_err);
        failed += usize::from(full);
        let cache = disk.cache();
        // In memory the relay serves the new one; what it finds after a restart is one of both.
        let found = cache.state();
        let at_hand = found.candidates().into_iter().find(|id| cache.get(*id).is_ok());
        assert!(at_hand.is_some(), "full from step {full_from}");
        assert!(cache.get(update.old.id()).is_ok(), "full from step {full_from}");
        // There is room again.
        disk.inner().full_from = None;
        update.run(&cache).into_iter().for_each(|result| result.unwrap());
        assert_eq!(update.fault(&cache), None);
        assert_eq!(cache.state().serving, Some(update.new.id()));
        if !full {
            break;
        }
    }
    assert!(failed > 5, "{failed}");
}

/// A byte flipped, or the file cut there; the whole file is put back afterwards.
fn damaged(disk: &TestDisk, path: &Path, whole: &[u8], at: usize, mut check: impl FnMut(&str)) {
    let mut flipped = whole.to_vec();
    flipped[at] ^= 1 << (at % 8);
    for (how, bytes) in [("flipped", flipped), ("cut", whole[..at].to_vec())] {
        disk.inner().files.insert(path.to_owned(), bytes);
        check(how);
    }
    disk.inner().files.insert(path.to_owned(), whole.to_vec());
}

/// The cache of a small fleet, whose pages lie inside the manifest: each byte of each file, and each length that a file
/// may be cut to.
#[test]
fn f12_damage_of_any_byte_is_the_old_or_the_new_one() {
    let update = Update::of(3);
    let disk = TestDisk::holding(update.image.clone());
    let cache = disk.cache();
    update.run(&cache).into_iter().for_each(|result| result.unwrap());
    let image = disk.inner().files.clone();
    let (old, new) = (update.old.id(), update.new.id());
    let states = [state(1, &[&update.old]), state(2, &[&update.old, &update.new])];
    let mut tried = 0;
    for (path, whole) in &image {
        for at in 0..whole.len() {
            damaged(&disk, path, whole, at, |how| {
                let place = format!("{}, byte {at} {how}", path.display());
                let found = cache.state();
                assert!(states.contains(&found), "{place}: {found:?}");
                let served = found.candidates().into_iter().find_map(|id| cache.get(id).ok());
                let served = served.unwrap_or_else(|| panic!("{place}: nothing to serve"));
                let whole = if served.id() == old { &update.old } else { &update.new };
                assert!(served == *whole && (served.id() == old || served.id() == new), "{place}");
                let kept = cache.endpoints();
                assert!(kept.is_empty() || kept == endpoints(2), "{place}");
                tried += 1;
            });
        }
    }
    let bytes: usize = image.values().map(Vec::len).sum();
    assert!(image.len() > 5 && bytes > 8_000 && tried == 2 * bytes, "{} files, {bytes} bytes", image.len());
}

/// Pages that lie apart, at two thousand places of each: damage is noticed by their own digest, and the snapshot before is
/// what is served.
#[test]
fn f12_damage_of_a_page_that_lies_apart_is_noticed() {
    let update = Update::new();
    let disk = TestDisk::holding(update.image.clone());
    let cache = disk.cache();
    update.run(&cache).into_iter().for_each(|result| result.unwrap());
    let image = disk.inner().files.clone();
    let objects = image.iter().filter(|(path, _)| path.parent().is_some_and(|it| it.ends_with("objects")));
    let (mut pages, mut fell_back) = (0, 0);
    for (path, whole) in objects {
        let digest: Digest = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        pages += usize::from(digest != update.old.id() && digest != update.new.id());
        let stride = whole.len().div_ceil(20);
        for at in (0..whole.len()).step_by((whole.len() / 2000).max(1)) {
            damaged(&disk, path, whole, at, |how| {
                assert!(cache.object(digest, whole.len()).is_err(), "{} at {at} {how}", path.display());
                if at % stride < 50 {
                    let found = cache.state().candidates().into_iter().find_map(|id| cache.get(id).ok());
                    let served = found.unwrap_or_else(|| panic!("{} at {at} {how}", path.display()));
                    fell_back += usize::from(served.id() == update.old.id());
                }
            });
        }
    }
    assert!(pages >= 2 && fell_back > 40, "{pages} {fell_back}");
}

#[test]
fn f22_a_folder_that_takes_no_writes_is_read() {
    let root = tempfile::tempdir().unwrap();
    let snapshot = snapshot(1, 60);
    {
        let cache = Cache::open(root.path(), &fleet()).unwrap();
        assert!(!cache.is_read_only());
        cache.put(&snapshot).unwrap();
        cache.save_state(&state(1, &[&snapshot])).unwrap();
    }
    // The lock cannot be opened for writing, as on a read-only disk; a test may run as root, whom no mode stops.
    let lock = root.path().join(fleet().socket_name()).join("lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    let before = files(root.path());
    let cache = Cache::open(root.path(), &fleet()).unwrap();
    assert!(cache.is_read_only());
    assert_eq!(cache.state().serving, Some(snapshot.id()));
    assert!(cache.get(snapshot.id()).is_ok());
    assert_eq!(files(root.path()), before);
}

mod tests;
