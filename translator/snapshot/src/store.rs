//! The store: whatever `object_store` reaches, with bounded reads and create-only writes.
//!
//! Nothing that comes out of it is believed here: callers verify. Three facts shape this file
//! (measured on `object_store` 0.14): a create whose answer was lost is retried inside and then reported as a conflict with
//! oneself; a conflict does not prove that an object is there; bodies are not checked by anybody on the way.

mod cloud;
mod error;
mod list;
mod probe;
mod settings;
mod shared;
mod url;

pub use error::{Backend, StoreError};
pub use list::Listed;
pub use probe::{Probe, Promise, Verdict};
pub use settings::Settings;

use crate::fleet::FleetName;
use crate::layout::{self, Channel};
use crate::snapshot::Snapshot;
use crate::writer::{self, WriteError};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    Attribute, GetOptions, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The audience of the tokens by which readers are known to a store at `https://`.
pub const AUDIENCE: &str = "moorgate-store";

/// How often a write is tried whose outcome is unclear.
const ATTEMPTS: u32 = 5;
/// The wait before the second try; it doubles from try to try.
const PAUSE: Duration = Duration::from_millis(50);

/// A bucket, folder or memory with a prefix.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    prefix: Path,
    url: Arc<str>,
    dir: Option<Arc<PathBuf>>,
    /// Whether objects may say how caches treat them. The local disk refuses such objects.
    attributes: bool,
}

/// An object as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Its bytes: not verified.
    pub bytes: Bytes,
    /// A hint for the next conditional get. Two different bodies may have one tag: decide by content.
    pub etag: Option<String>,
}

/// The answer to a get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Get {
    /// The object.
    Found(Fetched),
    /// Not changed since the tag that was given.
    NotModified,
    /// No such object.
    Missing,
}

/// The answer to a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Create {
    /// The object was not there and is now.
    Created,
    /// The store says that the object is there. It may be one's own, and it may not be there at all.
    Conflict,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.url)
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl Store {
    /// Opens `file:///directory` (made at the first write), `memory:///`, `s3://bucket/prefix`, `gs://bucket/prefix` or
    /// `az://container/prefix`, or `https://host:port/prefix` of a `moorgate watch --serve-store`; a bucket with the credentials and the endpoint that the environment names.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        Self::open_with(url, &Settings::from_env())
    }

    /// Opens a store with these settings instead of the environment.
    pub fn open_with(url: &str, settings: &Settings) -> Result<Self, StoreError> {
        url::open(url, settings)
    }

    /// A store over any backend. `url` is what messages call it.
    pub fn new(inner: Arc<dyn ObjectStore>, prefix: Path, url: &str) -> Self {
        Self { inner, prefix, url: url.into(), dir: None, attributes: false }
    }

    /// Whether the store answers at all, be it that one is not allowed to ask.
    pub async fn answers(&self) -> Result<(), StoreError> {
        let name = "_probe/answers";
        match self.inner.head(&self.path(name)?).await {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => match failed(&self.url, &error) {
                StoreError::Denied { .. } => Ok(()),
                error => Err(error),
            },
        }
    }

    /// The part of a fleet: all that its credentials need to reach.
    pub fn fleet(&self, fleet: &FleetName) -> FleetStore {
        FleetStore {
            store: self.clone(),
            fleet: fleet.clone(),
            prefix: fleet.prefix(),
            readable: Arc::default(),
        }
    }

    /// The fleets that have a log, for commands that show all of them. Needs the right to list.
    pub async fn fleets(&self) -> Result<Vec<FleetName>, StoreError> {
        let mut fleets = Vec::new();
        let gateways = self.folders("fleets/gateway").await?;
        for namespace in gateways {
            for name in self.folders(&format!("fleets/gateway/{namespace}")).await? {
                fleets.extend(format!("{namespace}/{name}").parse::<FleetName>());
            }
        }
        for name in self.folders("fleets/class").await? {
            fleets.extend(format!("class/{name}").parse::<FleetName>());
        }
        fleets.sort();
        Ok(fleets)
    }

    /// Writes pages and manifest of a snapshot for a fleet: the objects only, no release.
    pub async fn put_snapshot(&self, fleet: &FleetName, snapshot: &Snapshot) -> Result<(), WriteError> {
        writer::write_snapshot(&self.fleet(fleet), snapshot, &|_| false).await.map(drop)
    }

    async fn folders(&self, under: &str) -> Result<Vec<String>, StoreError> {
        let path = self.path(under)?;
        let result = self.inner.list_with_delimiter(Some(&path)).await;
        let listed = match result {
            Ok(listed) => listed,
            Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(failed(under, &error)),
        };
        let names = listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned));
        Ok(names.collect())
    }

    fn path(&self, name: &str) -> Result<Path, StoreError> {
        let full =
            if self.prefix.as_ref().is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) };
        Path::parse(full).map_err(|_| StoreError::Path(name.to_owned()))
    }
}

/// The part of one fleet in a store. Names are those of [`crate::layout`].
#[derive(Debug, Clone)]
pub struct FleetStore {
    store: Store,
    fleet: FleetName,
    prefix: String,
    /// The last object that could be read: with it, "not there" is told apart from "not allowed".
    readable: Arc<Mutex<Option<Path>>>,
}

impl FleetStore {
    /// The fleet.
    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// The folder on the local disk, if it is one: for file notification.
    pub fn local_dir(&self) -> Option<PathBuf> {
        self.store.dir.as_ref().map(|dir| dir.join(&self.prefix))
    }

    /// The channels that have a log. Needs the right to list.
    pub async fn channels(&self) -> Result<Vec<Channel>, StoreError> {
        let names = self.store.folders(&format!("{}/log", self.prefix)).await?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// What messages call an object.
    pub fn describe(&self, name: &str) -> String {
        let url = self.store.url.trim_end_matches('/');
        if self.prefix.is_empty() {
            return format!("{url}/{name}");
        }
        format!("{url}/{}/{name}", self.prefix)
    }

    /// Reads an object of at most `limit` bytes. The size that the store declares is a reason to refuse, never to
    /// allocate; reading stops where the limit is passed.
    pub async fn get(&self, name: &str, limit: usize) -> Result<Option<Bytes>, StoreError> {
        match self.get_if_changed(name, None, limit).await? {
            Get::Found(found) => Ok(Some(found.bytes)),
            Get::NotModified | Get::Missing => Ok(None),
        }
    }

    /// Reads an object unless it still has this tag.
    pub async fn get_if_changed(
        &self,
        name: &str,
        etag: Option<&str>,
        limit: usize,
    ) -> Result<Get, StoreError> {
        let mut options = GetOptions { if_none_match: etag.map(str::to_owned), ..GetOptions::default() };
        if !layout::is_immutable(name) {
            options.extensions.insert(cloud::Fresh);
        }
        let path = self.path(name)?;
        let result = match self.store.inner.get_opts(&path, options).await {
            Ok(result) => result,
            Err(object_store::Error::NotFound { .. }) => return Ok(Get::Missing),
            Err(object_store::Error::NotModified { .. }) => return Ok(Get::NotModified),
            Err(error) => match failed(&self.describe(name), &error) {
                StoreError::Denied { .. } if self.still_readable().await => return Ok(Get::Missing),
                error => return Err(error),
            },
        };
        let too_large = || StoreError::TooLarge { path: self.describe(name), limit };
        if result.meta.size > limit as u64 {
            return Err(too_large());
        }
        let etag = result.meta.e_tag.clone();
        let mut stream = result.into_stream();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| failed(&self.describe(name), &error))?;
            if bytes.len() + chunk.len() > limit {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        *self.readable.lock().unwrap_or_else(PoisonError::into_inner) = Some(path);
        Ok(Get::Found(Fetched { bytes: bytes.freeze(), etag }))
    }

    /// Whether what was read before can still be read. Without the right to list, S3 and Google answer "denied" to a get
    /// of an object that is not there.
    async fn still_readable(&self) -> bool {
        let path = self.readable.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match path {
            Some(path) => self.store.inner.head(&path).await.is_ok(),
            None => false,
        }
    }

    /// Writes an object if there is none: the one atomic step of every store. A conflict has to be read back.
    pub async fn create(&self, name: &str, bytes: Bytes) -> Result<Create, StoreError> {
        let options = self.put_options(name, PutMode::Create);
        match self.store.inner.put_opts(&self.path(name)?, PutPayload::from_bytes(bytes), options).await {
            Ok(_) => Ok(Create::Created),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(Create::Conflict)
            }
            Err(error) => Err(failed(&self.describe(name), &error)),
        }
    }

    /// Writes an object, whatever was there.
    pub async fn overwrite(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        let options = self.put_options(name, PutMode::Overwrite);
        let put = self.store.inner.put_opts(&self.path(name)?, PutPayload::from_bytes(bytes), options).await;
        put.map(drop).map_err(|error| failed(&self.describe(name), &error))
    }

    /// Removes an object. One that is not there is as good as removed.
    pub async fn delete(&self, name: &str) -> Result<(), StoreError> {
        match self.store.inner.delete(&self.path(name)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(&self.describe(name), &error)),
        }
    }

    /// Tells caches on the way what may be kept: what its digest names for ever, the rest not at all.
    fn put_options(&self, name: &str, mode: PutMode) -> PutOptions {
        let mut options = PutOptions { mode, ..PutOptions::default() };
        if self.store.attributes {
            let value = if layout::is_immutable(name) { "max-age=31536000, immutable" } else { "no-store" };
            options.attributes.insert(Attribute::CacheControl, value.into());
        }
        options
    }

    /// Sees to it that a content-addressed object is there and whole: creates it, reads back what is said to be there
    /// already, and writes over what does not pass `holds`. Returns whether it wrote.
    pub async fn ensure(
        &self,
        name: &str,
        bytes: &Bytes,
        limit: usize,
        holds: impl Fn(&Bytes) -> bool,
    ) -> Result<bool, StoreError> {
        let mut pause = PAUSE;
        let mut last = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            match self.create(name, bytes.clone()).await {
                Ok(Create::Created) => return Ok(true),
                Ok(Create::Conflict) => match self.get(name, limit).await {
                    Ok(Some(found)) if holds(&found) => return Ok(false),
                    // Said to be there, and is not: try again.
                    Ok(None) => last = Some(StoreError::Broken(self.describe(name))),
                    Ok(Some(_)) | Err(StoreError::TooLarge { .. }) => {
                        tracing::warn!(object = self.describe(name), "damaged in the store: written again");
                        self.overwrite(name, bytes.clone()).await?;
                        return Ok(true);
                    }
                    Err(error) => last = Some(error),
                },
                Err(error @ StoreError::Denied { .. }) => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| StoreError::Broken(self.describe(name))))
    }

    /// Commits an object that only one writer may place: the create of a log entry. A conflict or a lost answer is read
    /// back and compared with what was to be written. `Ok(true)`: it is there, once, and ours.
    pub async fn commit(&self, name: &str, bytes: &Bytes, limit: usize) -> Result<bool, StoreError> {
        let mut pause = PAUSE;
        // What failed when the object may have been placed: from then on, being denied proves nothing.
        let mut doubt = None;
        let mut others = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            match self.create(name, bytes.clone()).await {
                Ok(Create::Created) => return Ok(true),
                Ok(Create::Conflict) => doubt = Some(StoreError::Broken(self.describe(name))),
                Err(error @ StoreError::Denied { .. }) if doubt.is_none() => return Err(error),
                Err(StoreError::Denied { .. }) => {}
                Err(error) => doubt = Some(error),
            }
            match self.get(name, limit).await {
                Ok(Some(found)) if found == *bytes => return Ok(true),
                // Somebody else's, if it is the same twice: what differs may have changed on the way.
                Ok(Some(found)) if others.as_ref() == Some(&found) => return Ok(false),
                Ok(Some(found)) => others = Some(found),
                Err(StoreError::TooLarge { .. }) => return Ok(false),
                Ok(None) | Err(StoreError::Denied { .. }) => {}
                Err(error) => doubt = Some(error),
            }
        }
        Err(doubt.unwrap_or_else(|| StoreError::Broken(self.describe(name))))
    }

    /// The names below a folder, relative to it and sorted, at most `most`. An error midway is an error of the whole.
    pub async fn list(&self, under: &str, most: usize) -> Result<Vec<String>, StoreError> {
        let path = self.path(under)?;
        let prefix = format!("{path}/");
        let listed = self.store.inner.list(Some(&path)).take(most);
        let result: Result<Vec<_>, _> = listed.try_collect().await;
        let objects = match result {
            Ok(objects) => objects,
            Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(failed(&self.describe(under), &error)),
        };
        let name = |path: &Path| path.as_ref().strip_prefix(&prefix).map(str::to_owned);
        let mut names: Vec<String> = objects.iter().filter_map(|meta| name(&meta.location)).collect();
        names.sort();
        Ok(names)
    }

    fn path(&self, name: &str) -> Result<Path, StoreError> {
        if self.prefix.is_empty() {
            return self.store.path(name);
        }
        self.store.path(&format!("{}/{name}", self.prefix))
    }
}

fn failed(path: &str, error: &object_store::Error) -> StoreError {
    StoreError::of_backend(path, error)
}

#[cfg(test)]
mod tests;
