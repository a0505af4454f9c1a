//! One run: what is needed, what is condemned, what goes.

use super::lease::Lease;
use super::roots::{self, Roots};
use super::{Amount, FOLDERS, GcError, NOTE_BYTES, OBJECTS, Outcome, Policy, Seconds, place, seconds};
use crate::digest::Digest;
use crate::layout::{self, Channel};
use crate::limits;
use crate::reader::{ReadError, Reader};
use crate::store::{FleetStore, Listed};
use crate::trust::Trust;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Manifests read at one time.
const PARALLEL: usize = 16;
/// Objects between two looks at lease and roots; so many are held in memory.
const BATCH: usize = 64;
/// A page or a manifest as it is stored, in bytes.
const STORED: usize = limits::stored(if limits::PAGE_BYTES > limits::MANIFEST_BYTES {
    limits::PAGE_BYTES
} else {
    limits::MANIFEST_BYTES
});

/// Names of objects that must stay.
struct Needed {
    names: BTreeSet<String>,
    snapshots: u64,
    warnings: Vec<String>,
}

/// An object that goes, as it was listed.
struct Doomed {
    name: String,
    size: u64,
    modified: Seconds,
}

pub(super) async fn run(
    store: &FleetStore,
    trust: &Arc<Trust>,
    policy: &Policy,
    lease: Option<&Lease>,
) -> Result<Outcome, GcError> {
    let back = match lease {
        Some(lease) => look_again(store, trust, policy, lease).await?,
        None => 0,
    };
    // The order matters: what is written after the list is not in it, and what was listed is older than the roots.
    let listed = list(store).await?;
    let marks = marks(store).await?;
    let now = match lease {
        Some(lease) => lease.taken,
        // Without a right to write there is no clock but what was written last.
        None => newest(store, &listed).await?,
    };
    let needed = needed(store, trust, policy, now).await?;
    let mut outcome =
        Outcome { snapshots: needed.snapshots, warnings: needed.warnings.clone(), ..Outcome::default() };
    if back > 0 {
        outcome
            .warnings
            .push(format!("{back} objects were needed again when a run before deleted them: they are back"));
    }
    let mut doomed = Vec::new();
    let mut condemned = Vec::new();
    for object in listed.values() {
        let marked = marks.get(&object.name);
        if needed.names.contains(&object.name) {
            outcome.needed.add(object.size);
        } else if now - object.modified < seconds(policy.grace) {
            outcome.young.add(object.size);
        } else if marked.is_none_or(|marked| object.modified >= *marked) {
            outcome.condemned.add(object.size);
            condemned.push(object.name.clone());
        } else if marked.is_some_and(|marked| now - marked < seconds(policy.delay)) {
            outcome.waiting.add(object.size);
        } else {
            let (name, size, modified) = (object.name.clone(), object.size, object.modified);
            doomed.push(Doomed { name, size, modified });
        }
    }
    let keeps_mark: BTreeSet<&str> = condemned.iter().map(String::as_str).collect();
    let spared: Vec<&String> = marks
        .keys()
        .filter(|name| {
            let stays = listed.get(*name).is_none_or(|object| {
                needed.names.contains(*name) || now - object.modified < seconds(policy.grace)
            });
            stays && !keeps_mark.contains(name.as_str())
        })
        .collect();
    for name in &spared {
        outcome.spared.add(listed.get(*name).map_or(0, |object| object.size));
    }
    let Some(lease) = lease else {
        doomed.iter().for_each(|object| outcome.deleted.add(object.size));
        return Ok(outcome);
    };
    for name in spared {
        store.delete(&place::mark(name)).await?;
    }
    for name in condemned {
        store.overwrite(&place::mark(&name), Bytes::from_static(b"condemned\n")).await?;
    }
    delete(store, trust, policy, (lease, doomed), &mut outcome).await?;
    Ok(outcome)
}

/// Looks at the roots once more, then at each object, and deletes. Then looks at the roots again: what an entry names that
/// was committed meanwhile is put back.
async fn delete(
    store: &FleetStore,
    trust: &Arc<Trust>,
    policy: &Policy,
    (lease, doomed): (&Lease, Vec<Doomed>),
    outcome: &mut Outcome,
) -> Result<(), GcError> {
    let mut doomed = doomed.into_iter().peekable();
    while doomed.peek().is_some() {
        lease.check(store).await?;
        let needed_before = needed(store, trust, policy, lease.taken).await?;
        let mut deleted = Vec::new();
        for object in doomed.by_ref().take(BATCH) {
            match delete_one(store, &needed_before, &object).await? {
                Some(stored) => deleted.push((object, stored)),
                None => outcome.spared.add(object.size),
            }
        }
        let named = manifests(&roots::find(store, trust, policy, lease.taken).await?);
        for (object, stored) in deleted.iter().filter(|(object, _)| named.contains(&object.name)) {
            store.create(&object.name, stored.clone()).await?;
        }
        let needed_after = needed(store, trust, policy, lease.taken).await?;
        for (object, stored) in deleted {
            if needed_after.names.contains(&object.name) && !stored.is_empty() {
                store.create(&object.name, stored).await?;
                outcome.spared.add(object.size);
            } else {
                outcome.deleted.add(object.size);
            }
            store.delete(&place::mark(&object.name)).await?;
        }
    }
    Ok(())
}

/// Looks once more at what earlier runs deleted, and puts back what is needed by now: a run may have died before it looked
/// again itself, a publisher after its commit and before it looked. How many objects came back.
async fn look_again(
    store: &FleetStore,
    trust: &Arc<Trust>,
    policy: &Policy,
    lease: &Lease,
) -> Result<u64, GcError> {
    let copies = store.objects(place::REMOVED, OBJECTS).await?;
    if copies.is_empty() {
        return Ok(0);
    }
    let named = manifests(&roots::find(store, trust, policy, lease.taken).await?);
    let mut back = 0;
    for copy in copies.iter().filter(|copy| named.contains(&copy.name)) {
        back += put_back(store, &copy.name).await?;
    }
    let needed = needed(store, trust, policy, lease.taken).await?;
    for copy in copies {
        if needed.names.contains(&copy.name) {
            back += put_back(store, &copy.name).await?;
        }
        if lease.taken - copy.modified >= seconds(policy.delay) {
            store.delete(&place::removed(&copy.name)).await?;
        }
    }
    Ok(back)
}

/// Writes a deleted object again, from its copy. 0 if it is there.
async fn put_back(store: &FleetStore, name: &str) -> Result<u64, GcError> {
    if store.stat(name).await?.is_some() {
        return Ok(0);
    }
    let Some(stored) = store.get(&place::removed(name), STORED).await? else { return Ok(0) };
    store.create(name, stored).await?;
    Ok(1)
}

/// The manifests that roots name. They come back first: without them nobody can tell which pages are needed.
fn manifests(roots: &Roots) -> BTreeSet<String> {
    roots.snapshots.iter().chain(&roots.manifests).map(layout::manifest).collect()
}

/// Deletes an object and gives its bytes, or none if somebody needs it. A bundle's bytes are not kept: one that is gone
/// costs requests only.
async fn delete_one(store: &FleetStore, needed: &Needed, object: &Doomed) -> Result<Option<Bytes>, GcError> {
    let stored = if object.name.starts_with("bundles/") {
        Bytes::new()
    } else {
        store.get(&object.name, STORED).await?.unwrap_or_default()
    };
    // Before the last look, so that the delete follows it closely.
    if !stored.is_empty() {
        store.overwrite(&place::removed(&object.name), stored.clone()).await?;
    }
    // Who needs it writes it again and takes the mark away.
    let marked = store.get(&place::mark(&object.name), NOTE_BYTES).await?.is_some();
    let stat = store.stat(&object.name).await?;
    let untouched = stat.is_some_and(|stat| stat.modified == object.modified);
    if needed.names.contains(&object.name) || !marked || !untouched {
        store.delete(&place::removed(&object.name)).await?;
        return Ok(None);
    }
    store.delete(&object.name).await?;
    Ok(Some(stored))
}

/// All objects that gc may remove, by name.
async fn list(store: &FleetStore) -> Result<BTreeMap<String, Listed>, GcError> {
    let mut all = BTreeMap::new();
    for folder in FOLDERS {
        for object in store.objects(folder, OBJECTS).await? {
            let name = format!("{folder}/{}", object.name);
            all.insert(name.clone(), Listed { name, ..object });
        }
    }
    Ok(all)
}

/// When each marked object was condemned.
async fn marks(store: &FleetStore) -> Result<BTreeMap<String, Seconds>, GcError> {
    let marks = store.objects(place::CONDEMNED, OBJECTS).await?;
    Ok(marks.into_iter().map(|mark| (mark.name, mark.modified)).collect())
}

/// The youngest object's age: at least so late it is.
async fn newest(store: &FleetStore, listed: &BTreeMap<String, Listed>) -> Result<Seconds, GcError> {
    let mut newest = listed.values().map(|object| object.modified).max().unwrap_or(0);
    for folder in ["log", "head", "late", "status", "gc"] {
        let objects = store.objects(folder, OBJECTS).await?;
        newest = objects.iter().map(|object| object.modified).fold(newest, i64::max);
    }
    Ok(newest)
}

async fn needed(
    store: &FleetStore,
    trust: &Arc<Trust>,
    policy: &Policy,
    now: Seconds,
) -> Result<Needed, GcError> {
    let Roots { served, snapshots, manifests, bundles, values } =
        roots::find(store, trust, policy, now).await?;
    let reader = Reader::new(store.clone(), trust.clone(), Channel::stable());
    let read = |snapshot: Digest| {
        let reader = reader.clone();
        async move {
            match reader.manifest(&snapshot).await {
                Ok(manifest) => Ok((snapshot, Some(manifest))),
                Err(ReadError::Missing(_)) => Ok((snapshot, None)),
                Err(error) => Err(error),
            }
        }
    };
    let found: Vec<_> = futures::stream::iter(snapshots.iter().copied())
        .map(read)
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await?;
    let mut needed = Needed { names: BTreeSet::new(), snapshots: 0, warnings: Vec::new() };
    for (snapshot, manifest) in found {
        let name = layout::manifest(&snapshot);
        let Some(manifest) = manifest else {
            if served.contains(&snapshot) {
                let reason = "missing, though the newest entry names it".to_owned();
                return Err(GcError::Unclear { path: store.describe(&name), reason });
            }
            // Gone before: its pages cannot be told, and without it nobody can use them.
            needed.warnings.push(format!("snapshot {snapshot} is named, and its manifest is gone"));
            continue;
        };
        needed.snapshots += 1;
        needed.names.insert(name);
        let apart = manifest.pages().iter().filter(|page| page.inline.is_none());
        needed.names.extend(apart.map(|page| layout::page(&page.digest)));
    }
    needed.warnings.sort();
    needed.names.extend(manifests.iter().map(layout::manifest));
    needed.names.extend(bundles.iter().map(layout::bundle));
    needed.names.extend(values.iter().map(layout::late_value));
    Ok(needed)
}

impl Amount {
    /// Whether there is anything.
    pub fn is_empty(&self) -> bool {
        self.objects == 0
    }
}
