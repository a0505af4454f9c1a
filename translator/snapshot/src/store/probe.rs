//! Probing a store: does it keep the promises that releases are built on?
//!
//! Everything rests on the create of a log entry being atomic and on reads that see what was written. Stores that speak the
//! right protocol and do not keep its promises exist; one that is found out here never gets a release.

use super::{Create, FleetStore, Get, Store, StoreError};
use crate::fleet::FleetName;
use bytes::Bytes;
use futures::future::join_all;
use serde::Serialize;
use std::fmt;

/// Creates that race for one name.
const RACERS: usize = 16;
/// Races, each for a name of its own. One with no winner, for want of answers, is run again.
const RACES: usize = 3;
/// The longest object that is read back, in bytes.
const LIMIT: usize = 1024;

/// What a store has to promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Promise {
    /// What was never written is reported as missing.
    Missing,
    /// What was written reads back, at once.
    ReadBack,
    /// A name that is taken cannot be created again.
    StaleCreate,
    /// Of creates that race for a name, one wins.
    RacingCreates,
    /// What is written over reads back as the new object, at once.
    Overwrite,
    /// An object that did not change is not sent again, and one that did is.
    ConditionalGet,
    /// A list shows what is there, at once. Wanted; relays do without.
    List,
    /// What was removed is gone. Wanted; publishers do without.
    Delete,
}

impl Promise {
    /// Whether publishing is safe without the right to do this.
    fn is_optional(self) -> bool {
        matches!(self, Self::List | Self::Delete)
    }

    /// The word in outputs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::ReadBack => "read-back",
            Self::StaleCreate => "stale-create",
            Self::RacingCreates => "racing-creates",
            Self::Overwrite => "overwrite",
            Self::ConditionalGet => "conditional-get",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What was found out about a promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is kept, as far as a probe can tell.
    Kept,
    /// It is not kept.
    Broken(String),
    /// These credentials may not do this, and need not.
    NotAllowed,
}

/// What a probe found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The folder where it was done.
    pub folder: String,
    /// In the order of the tests.
    pub checks: Vec<(Promise, Verdict)>,
}

impl Probe {
    /// The promises that are not kept, with what was seen instead.
    pub fn broken(&self) -> impl Iterator<Item = (Promise, &str)> {
        self.checks.iter().filter_map(|(promise, verdict)| match verdict {
            Verdict::Broken(detail) => Some((*promise, detail.as_str())),
            Verdict::Kept | Verdict::NotAllowed => None,
        })
    }
}

impl Store {
    /// Probes below `_probe/` of the store, or of one fleet in it. The nonce must be new: it names the folder.
    pub async fn probe(&self, fleet: Option<&FleetName>, nonce: &str) -> Result<Probe, StoreError> {
        let part = match fleet {
            Some(fleet) => self.fleet(fleet),
            None => FleetStore { prefix: String::new(), ..self.fleet(&FleetName::gateway("probe", "probe")) },
        };
        part.probe(nonce).await
    }
}

impl FleetStore {
    /// Probes below `_probe/` of the fleet. An error if the store could not be asked. Removes what it wrote, as far as it may.
    pub async fn probe(&self, nonce: &str) -> Result<Probe, StoreError> {
        let folder = format!("_probe/{nonce}");
        let probing = Probing { store: self, folder: &folder };
        let mut checks = Vec::new();
        let result = probing.run(&mut checks).await;
        let removed = probing.remove().await;
        result?;
        checks.push((Promise::Delete, removed?));
        Ok(Probe { folder: self.describe(&folder), checks })
    }
}

struct Probing<'a> {
    store: &'a FleetStore,
    folder: &'a str,
}

/// Kept, or broken with a detail.
fn verdict(kept: bool, detail: impl FnOnce() -> String) -> Verdict {
    if kept { Verdict::Kept } else { Verdict::Broken(detail()) }
}

impl Probing<'_> {
    async fn run(&self, checks: &mut Vec<(Promise, Verdict)>) -> Result<(), StoreError> {
        let first = Bytes::from_static(b"first");
        // Written before anything is looked for: without the right to list, "missing" is told by what can be read.
        let created = self.store.commit(&self.name("one"), &first, LIMIT).await?;
        let found = self.read("one").await?;
        let detail = || format!("wrote {first:?}, read {found:?}");
        checks.push((Promise::ReadBack, verdict(created && found.as_ref() == Some(&first), detail)));
        let never = self.read("never").await?;
        checks.push((
            Promise::Missing,
            verdict(never.is_none(), || "found an object that nobody wrote".to_owned()),
        ));
        checks.push((Promise::StaleCreate, self.stale_create(&first).await?));
        checks.push((Promise::RacingCreates, self.races().await?));
        checks.push((Promise::ConditionalGet, self.conditional_get().await?));
        checks.push((Promise::Overwrite, self.overwrite().await?));
        checks.push((Promise::List, self.optional(Promise::List, self.list().await)?));
        Ok(())
    }

    fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.store.get(&self.name(name), LIMIT).await
    }

    async fn stale_create(&self, first: &Bytes) -> Result<Verdict, StoreError> {
        let again = self.store.create(&self.name("one"), Bytes::from_static(b"second")).await?;
        let found = self.read("one").await?;
        let kept = again == Create::Conflict && found.as_ref() == Some(first);
        Ok(verdict(kept, || format!("a second create of one name: {again:?}; it then held {found:?}")))
    }

    async fn races(&self) -> Result<Verdict, StoreError> {
        let (mut decided, mut run) = (0, 0);
        while decided < RACES {
            if run == 2 * RACES {
                return Ok(Verdict::Broken("races for a name that nobody won".to_owned()));
            }
            run += 1;
            let name = format!("race-{run}");
            let bytes = |racer: usize| Bytes::from(format!("racer {racer}"));
            let full = self.name(&name);
            let creates = (0..RACERS).map(|racer| self.store.create(&full, bytes(racer)));
            let results = join_all(creates).await;
            // A racer without an answer may have won or not: the object tells.
            let won = |result: &Result<Create, StoreError>| matches!(result, Ok(Create::Created));
            let winners: Vec<usize> =
                (0..RACERS).filter(|racer| results.get(*racer).is_some_and(won)).collect();
            let found = self.read(&name).await?;
            match winners[..] {
                [] => {}
                [winner] if found == Some(bytes(winner)) => decided += 1,
                [winner] => {
                    return Ok(Verdict::Broken(format!(
                        "racer {winner} won, and the object holds {found:?}"
                    )));
                }
                _ => {
                    let count = winners.len();
                    return Ok(Verdict::Broken(format!(
                        "{count} of {RACERS} racing creates of one name won"
                    )));
                }
            }
            if let Some(denied) = results.into_iter().find_map(|result| match result {
                Err(error @ StoreError::Denied { .. }) => Some(error),
                _ => None,
            }) {
                return Err(denied);
            }
        }
        Ok(Verdict::Kept)
    }

    async fn conditional_get(&self) -> Result<Verdict, StoreError> {
        let name = self.name("changing");
        self.store.overwrite(&name, Bytes::from_static(b"one")).await?;
        let Get::Found(found) = self.store.get_if_changed(&name, None, LIMIT).await? else {
            return Ok(Verdict::Broken("an object that was just written is missing".to_owned()));
        };
        let Some(etag) = found.etag else {
            return Ok(Verdict::Broken("objects have no tag".to_owned()));
        };
        let again = self.store.get_if_changed(&name, Some(&etag), LIMIT).await?;
        if again != Get::NotModified {
            return Ok(Verdict::Broken("an object that did not change is sent again".to_owned()));
        }
        self.store.overwrite(&name, Bytes::from_static(b"another")).await?;
        let changed = self.store.get_if_changed(&name, Some(&etag), LIMIT).await?;
        let kept = matches!(&changed, Get::Found(found) if found.bytes == "another");
        Ok(verdict(kept, || format!("a changed object was asked for, and the answer is {changed:?}")))
    }

    async fn overwrite(&self) -> Result<Verdict, StoreError> {
        for n in 0..4 {
            let bytes = Bytes::from(format!("version {n}"));
            self.store.overwrite(&self.name("head"), bytes.clone()).await?;
            let found = self.read("head").await?;
            if found.as_ref() != Some(&bytes) {
                return Ok(Verdict::Broken(format!("wrote {bytes:?}, read {found:?}")));
            }
        }
        Ok(Verdict::Kept)
    }

    async fn list(&self) -> Result<Verdict, StoreError> {
        for name in ["list/a", "list/b/c"] {
            self.store.overwrite(&self.name(name), Bytes::new()).await?;
        }
        let listed = self.store.list(&self.name("list"), 10).await?;
        Ok(verdict(listed == ["a", "b/c"], || format!("wrote a and b/c, and the list is {listed:?}")))
    }

    /// Removes everything, and says whether it is gone.
    async fn remove(&self) -> Result<Verdict, StoreError> {
        let mut names: Vec<String> =
            ["one", "changing", "head", "list/a", "list/b/c"].map(str::to_owned).into();
        names.extend((1..=2 * RACES).map(|run| format!("race-{run}")));
        let mut result = Ok(());
        for name in &names {
            // One that was never written is as good as removed.
            result = self.store.delete(&self.name(name)).await;
            if result.is_err() {
                break;
            }
        }
        let verdict = match result {
            Ok(()) => {
                self.remove_folders().await;
                let found = self.read("one").await?;
                Ok(verdict(found.is_none(), || "an object that was removed is still read".to_owned()))
            }
            Err(error) => Err(error),
        };
        self.optional(Promise::Delete, verdict)
    }

    /// On the local disk, folders are left behind.
    async fn remove_folders(&self) {
        let Some(dir) = self.store.local_dir() else { return };
        for folder in ["list/b", "list", ""] {
            let _ = tokio::fs::remove_dir(dir.join(self.folder).join(folder)).await;
        }
        let _ = tokio::fs::remove_dir(dir.join("_probe")).await;
    }

    fn optional(&self, promise: Promise, result: Result<Verdict, StoreError>) -> Result<Verdict, StoreError> {
        match result {
            Err(StoreError::Denied { .. }) if promise.is_optional() => {
                tracing::debug!(%promise, folder = self.folder, "not allowed with these credentials");
                Ok(Verdict::NotAllowed)
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests;
