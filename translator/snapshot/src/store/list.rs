//! What a store holds, with size and age: whole or not at all, since gc deletes by it.

use super::{FleetStore, StoreError, failed};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStoreExt as _;

/// An object as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name, relative to what was listed.
    pub name: String,
    /// Its stored bytes.
    pub size: u64,
    /// When it was written last, by the store's clock, in seconds since 1970.
    pub modified: i64,
}

impl FleetStore {
    /// The folders below one, by name. Needs the right to list.
    pub async fn folders(&self, under: &str) -> Result<Vec<String>, StoreError> {
        self.store.folders(&format!("{}/{under}", self.prefix)).await
    }

    /// Size and age of an object; none if it is not there.
    pub async fn stat(&self, name: &str) -> Result<Option<Listed>, StoreError> {
        match self.store.inner.head(&self.path(name)?).await {
            Ok(meta) => Ok(Some(Listed {
                name: name.to_owned(),
                size: meta.size,
                modified: meta.last_modified.timestamp(),
            })),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => match failed(&self.describe(name), &error) {
                StoreError::Denied { .. } if self.still_readable().await => Ok(None),
                error => Err(error),
            },
        }
    }

    /// The objects below a folder, by name. More than `most` are an error, and so is an error midway: what this gives is
    /// all there is.
    pub async fn objects(&self, under: &str, most: usize) -> Result<Vec<Listed>, StoreError> {
        let path = self.path(under)?;
        let prefix = format!("{path}/");
        let listed = self.store.inner.list(Some(&path)).take(most.saturating_add(1));
        let found: Vec<_> = match listed.try_collect().await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(failed(&self.describe(under), &error)),
        };
        if found.len() > most {
            return Err(StoreError::Crowded { path: self.describe(under), limit: most });
        }
        let object = |meta: &object_store::ObjectMeta| {
            let name = meta.location.as_ref().strip_prefix(&prefix)?.to_owned();
            Some(Listed { name, size: meta.size, modified: meta.last_modified.timestamp() })
        };
        let mut objects: Vec<Listed> = found.iter().filter_map(object).collect();
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }
}
