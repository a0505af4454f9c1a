//! What is truly stored.

use super::lock;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, ObjectMeta, PutResult, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// So long after its creation a caching proxy may still say that an object is not there.
const STALE: Duration = Duration::from_secs(30);

/// So far behind is a copy that is behind.
const PAST: Duration = Duration::from_mins(3);

/// A change of what is stored.
#[derive(Debug, Clone)]
pub enum Change<'a> {
    /// An object was written.
    Put {
        /// Its name.
        path: &'a str,
        /// What it holds.
        bytes: &'a Bytes,
        /// What it held before.
        before: Option<&'a Bytes>,
    },
    /// An object was removed.
    Deleted {
        /// Its name.
        path: &'a str,
    },
}

/// Told of every change, after it.
type Watch = Box<dyn Fn(&Change<'_>) + Send + Sync>;

#[derive(Debug)]
struct Object {
    bytes: Bytes,
    before: Option<Bytes>,
    tag: u64,
    modified: i64,
    written: Instant,
}

/// Objects in memory, with the times of a clock that is given, and all the promises of a good store.
pub struct Bucket {
    objects: Mutex<(BTreeMap<String, Object>, u64)>,
    now: Box<dyn Fn() -> i64 + Send + Sync>,
    watch: Mutex<Option<std::sync::Arc<Watch>>>,
    calm: AtomicBool,
    calmed: Notify,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({} objects)", lock(&self.objects).0.len())
    }
}

impl Bucket {
    /// An empty bucket. `now` gives the times of objects, in seconds since 1970.
    pub fn new(now: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self {
            objects: Mutex::default(),
            now: Box::new(now),
            watch: Mutex::default(),
            calm: AtomicBool::new(false),
            calmed: Notify::new(),
        }
    }

    /// Tells of every change from now on.
    pub fn watch(&self, watch: impl Fn(&Change<'_>) + Send + Sync + 'static) {
        *lock(&self.watch) = Some(std::sync::Arc::new(Box::new(watch)));
    }

    /// The faults end: requests that stall fail, and none stalls any more.
    pub fn end_faults(&self) {
        self.calm.store(true, Ordering::SeqCst);
        self.calmed.notify_waiters();
    }

    /// Whether the faults have ended.
    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::SeqCst)
    }

    /// Waits until the faults end.
    pub async fn calm(&self) {
        let calmed = self.calmed.notified();
        if !self.is_calm() {
            calmed.await;
        }
    }

    /// What an object holds.
    pub fn peek(&self, path: &str) -> Option<Bytes> {
        lock(&self.objects).0.get(path).map(|object| object.bytes.clone())
    }

    /// When an object was written last, by the bucket's clock, in seconds since 1970.
    pub fn modified(&self, path: &str) -> Option<i64> {
        lock(&self.objects).0.get(path).map(|object| object.modified)
    }

    /// The names of all objects.
    pub fn names(&self) -> Vec<String> {
        lock(&self.objects).0.keys().cloned().collect()
    }

    /// Changes an object behind everybody's back, as rot or an intruder would. Nobody is told.
    pub fn tamper(&self, path: &str, bytes: Option<Bytes>) {
        let (modified, written) = ((self.now)(), Instant::now());
        let (objects, tags) = &mut *lock(&self.objects);
        *tags += 1;
        match bytes {
            None => drop(objects.remove(path)),
            Some(bytes) => {
                let object = Object { bytes, before: None, tag: *tags, modified, written };
                objects.insert(path.to_owned(), object);
            }
        }
    }

    /// Writes an object.
    pub fn put(&self, path: &str, bytes: &Bytes, create: bool) -> Result<PutResult> {
        let (modified, written) = ((self.now)(), Instant::now());
        let (before, tag) = {
            let (objects, tags) = &mut *lock(&self.objects);
            let before = objects.get(path).map(|object| object.bytes.clone());
            if create && before.is_some() {
                return Err(Error::AlreadyExists { path: path.to_owned(), source: "it exists".into() });
            }
            *tags += 1;
            let object =
                Object { bytes: bytes.clone(), before: before.clone(), tag: *tags, modified, written };
            objects.insert(path.to_owned(), object);
            (before, *tags)
        };
        self.tell(&Change::Put { path, bytes, before: before.as_ref() });
        Ok(PutResult {
            e_tag: Some(quoted(tag)),
            version: None,
            extensions: object_store::Extensions::default(),
        })
    }

    pub(super) fn get(&self, path: &str) -> Option<(ObjectMeta, Bytes)> {
        let (objects, _) = &*lock(&self.objects);
        let object = objects.get(path)?;
        Some((meta(path, object), object.bytes.clone()))
    }

    /// What a cache may still hold: the content before, or that there is none.
    pub(super) fn stale(&self, path: &str) -> Option<(ObjectMeta, Bytes)> {
        let (objects, _) = &*lock(&self.objects);
        let object = objects.get(path)?;
        match &object.before {
            _ if object.written.elapsed() > STALE => Some((meta(path, object), object.bytes.clone())),
            None => None,
            Some(before) => {
                let mut meta = meta(path, object);
                (meta.size, meta.e_tag) = (before.len() as u64, Some(quoted(u64::MAX - object.tag)));
                Some((meta, before.clone()))
            }
        }
    }

    /// What a copy shows that is minutes behind: no young slot of a log, and no head.
    pub(super) fn past(&self, path: &str) -> Option<(ObjectMeta, Bytes)> {
        let (objects, _) = &*lock(&self.objects);
        let object = objects.get(path)?;
        let young = path.contains("/log/") && object.written.elapsed() < PAST;
        (!young && !path.contains("/head/")).then(|| (meta(path, object), object.bytes.clone()))
    }

    pub(super) fn list(&self, prefix: &str) -> Vec<ObjectMeta> {
        let folder = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let (objects, _) = &*lock(&self.objects);
        let below = objects.iter().filter(|(path, _)| path.starts_with(&folder));
        below.map(|(path, object)| meta(path, object)).collect()
    }

    pub(super) fn delete(&self, path: &str) {
        if lock(&self.objects).0.remove(path).is_some() {
            self.tell(&Change::Deleted { path });
        }
    }

    fn tell(&self, change: &Change<'_>) {
        let watch = lock(&self.watch).clone();
        if let Some(watch) = watch {
            watch(change);
        }
    }
}

fn quoted(tag: u64) -> String {
    format!("\"{tag}\"")
}

fn meta(path: &str, object: &Object) -> ObjectMeta {
    let mut meta = ObjectMeta {
        location: Path::from(path),
        // The type is of a crate that nothing else here needs.
        #[allow(clippy::default_trait_access, reason = "it is not named here")]
        last_modified: Default::default(),
        size: object.bytes.len() as u64,
        e_tag: Some(quoted(object.tag)),
        version: None,
    };
    meta.last_modified += Duration::from_secs(u64::try_from(object.modified).unwrap_or_default());
    meta
}
