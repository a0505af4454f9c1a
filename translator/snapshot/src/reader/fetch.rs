//! Fetching snapshots: manifest, bundle, pages; each bounded by what was signed, hashed, and read back canonically.

use super::{ReadError, Reader};
use crate::attestation::{Attestation, DocumentRef};
use crate::bundle;
use crate::channel::{BundleRef, Release};
use crate::compress::decompress;
use crate::digest::Digest;
use crate::layout;
use crate::limits;
use crate::manifest::{Manifest, PageRef};
use crate::page::Page;
use crate::snapshot::{Snapshot, SnapshotError};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use std::collections::BTreeMap;

/// Pages fetched at one time.
const PARALLEL: usize = 16;
/// From how many missing pages on the bundle is worth its bytes.
const BUNDLE_FROM: usize = 6;

impl Reader {
    /// Fetches and verifies the snapshot of a release. `known` gives the uncompressed bytes of pages that the caller
    /// holds already; they are hashed like all others.
    pub async fn fetch(
        &self,
        release: &Release,
        known: &(dyn Fn(&Digest) -> Option<Bytes> + Send + Sync),
    ) -> Result<Snapshot, ReadError> {
        self.fetch_beside(release, &|_| None, known).await
    }

    /// The same for a caller that has read pages before: those that `held` gives are not verified again.
    pub async fn fetch_beside(
        &self,
        release: &Release,
        held: &(dyn Fn(&Digest) -> Option<Page> + Send + Sync),
        known: &(dyn Fn(&Digest) -> Option<Bytes> + Send + Sync),
    ) -> Result<Snapshot, ReadError> {
        let manifest = self.manifest(&release.snapshot).await?;
        let refused = |error| ReadError::Snapshot { id: release.snapshot, error };
        let mut pages: BTreeMap<Digest, Page> = BTreeMap::new();
        let mut missing: Vec<&PageRef> = Vec::new();
        for page in manifest.pages() {
            if let Some(held) = held(&page.digest).filter(|held| page.describes(held)) {
                pages.insert(page.digest, held);
                continue;
            }
            match page.inline.clone() {
                Some(raw) => {
                    pages.insert(page.digest, read_page(raw, page).map_err(refused)?);
                }
                // What the caller holds may be damaged: then it is fetched.
                None => match known(&page.digest).and_then(|raw| read_page(raw, page).ok()) {
                    Some(held) => drop(pages.insert(page.digest, held)),
                    None => missing.push(page),
                },
            }
        }
        let (early, late) = match release.bundle {
            Some(bundle) if missing.len() >= BUNDLE_FROM => (Some(bundle), None),
            bundle => (None, bundle),
        };
        if let Some(name) = early {
            self.unbundle(&name, &mut missing, &mut pages).await;
        }
        let fetched = match (self.pages(&missing).await, late) {
            // What is damaged or gone may lie in the bundle, which was not worth its bytes before.
            (Err(ReadError::Damaged { .. } | ReadError::Missing(_)), Some(name)) => {
                self.unbundle(&name, &mut missing, &mut pages).await;
                self.pages(&missing).await?
            }
            (fetched, _) => fetched?,
        };
        pages.extend(fetched.into_iter().map(|page| (page.digest(), page)));
        let ordered = manifest.pages().iter().filter_map(|page| pages.remove(&page.digest)).collect();
        let id = release.snapshot.short();
        let _span =
            tracing::info_span!(target: crate::TRACE, "verify", what = "snapshot", snapshot = %id).entered();
        Snapshot::from_pages(manifest, ordered).map_err(refused)
    }

    /// Takes from a bundle what it holds of the pages that are missing.
    async fn unbundle(
        &self,
        name: &BundleRef,
        missing: &mut Vec<&PageRef>,
        pages: &mut BTreeMap<Digest, Page>,
    ) {
        let bundled = self.bundle(name).await;
        missing.retain(|page| {
            let found = bundled.get(&page.digest).and_then(|raw| read_page(raw.clone(), page).ok());
            found.map(|found| pages.insert(page.digest, found)).is_none()
        });
    }

    /// Fetches pages side by side.
    async fn pages(&self, missing: &[&PageRef]) -> Result<Vec<Page>, ReadError> {
        // Owned names: a future that borrows them would not be `Send` for every lifetime, as spawned tasks must be.
        let missing: Vec<PageRef> = missing.iter().copied().cloned().collect();
        futures::stream::iter(missing)
            .map(|page| async move { self.page(&page).await })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    /// Fetches and verifies a manifest.
    pub async fn manifest(&self, snapshot: &Digest) -> Result<Manifest, ReadError> {
        let name = layout::manifest(snapshot);
        let raw = self.blob(&name, snapshot, limits::MANIFEST_BYTES).await?;
        Manifest::decode(raw).map_err(|error| ReadError::Snapshot { id: *snapshot, error })
    }

    /// Fetches and verifies one page; a damaged one is fetched twice, since the damage may lie on the way.
    pub async fn page(&self, page: &PageRef) -> Result<Page, ReadError> {
        let name = layout::page(&page.digest);
        let raw = match self.blob(&name, &page.digest, page.size).await {
            Err(ReadError::Damaged { .. }) => self.blob(&name, &page.digest, page.size).await?,
            other => other?,
        };
        read_page(raw, page).map_err(|error| ReadError::Damaged {
            path: self.store.describe(&name),
            reason: error.to_string(),
        })
    }

    /// A compressed object under the digest of its uncompressed bytes.
    async fn blob(&self, name: &str, digest: &Digest, limit: usize) -> Result<Bytes, ReadError> {
        let path = || self.store.describe(name);
        let stored = self.store.get(name, limits::stored(limit)).await?;
        let stored = stored.ok_or_else(|| ReadError::Missing(path()))?;
        let raw = decompress(&stored, limit)
            .map_err(|error| ReadError::Damaged { path: path(), reason: error.to_string() })?;
        if Digest::of(&raw) != *digest {
            return Err(ReadError::Damaged { path: path(), reason: "its digest is another".to_owned() });
        }
        Ok(raw)
    }

    /// The pages of a bundle. One that is missing or damaged only costs requests.
    async fn bundle(&self, name: &BundleRef) -> BTreeMap<Digest, Bytes> {
        let path = layout::bundle(&name.digest);
        let stored = self.store.get(&path, limits::BUNDLE_STORED_BYTES).await;
        let pages = stored.ok().flatten().and_then(|stored| bundle::unpack(&stored, name));
        pages.unwrap_or_else(|| {
            tracing::warn!(bundle = self.store.describe(&path), "of no use: pages are fetched one by one");
            BTreeMap::new()
        })
    }

    /// Whether a bundle is there and holds all that it should: all pages of its snapshot.
    pub async fn bundle_holds(&self, name: &BundleRef, snapshot: &Snapshot) -> bool {
        let pages = self.bundle(name).await;
        snapshot.pages().iter().all(|page| pages.contains_key(&page.digest()))
    }

    /// Whether a stored manifest, page or document holds: for writers that read back.
    pub fn holds(stored: &Bytes, digest: &Digest, limit: usize) -> bool {
        decompress(stored, limit).is_ok_and(|raw| Digest::of(&raw) == *digest)
    }

    /// Fetches and verifies the attestation of a release, if it has one.
    pub async fn attestation(&self, release: &Release) -> Result<Option<Attestation>, ReadError> {
        let Some(digest) = &release.attestation else { return Ok(None) };
        let name = layout::attestation(&release.snapshot, digest);
        let stored = self.store.get(&name, limits::ATTESTATION_BYTES).await?;
        let stored = stored.ok_or_else(|| ReadError::Missing(self.store.describe(&name)))?;
        if Digest::of(&stored) != *digest {
            let reason = "its digest is another".to_owned();
            return Err(ReadError::Damaged { path: self.store.describe(&name), reason });
        }
        let attestation = Attestation::verify(&stored, &self.trust, self.store.fleet(), &release.snapshot)?;
        Ok(Some(attestation))
    }

    /// Fetches and verifies a document that an attestation names.
    pub async fn document(&self, document: &DocumentRef) -> Result<Bytes, ReadError> {
        let limit = usize::try_from(document.size).unwrap_or(usize::MAX).min(limits::DOCUMENT_BYTES);
        self.blob(&layout::document(&document.digest), &document.digest, limit).await
    }
}

fn read_page(raw: Bytes, named: &PageRef) -> Result<Page, SnapshotError> {
    let bytes = raw.len();
    let _span = tracing::info_span!(target: crate::TRACE, "verify", what = "page", bytes).entered();
    if Digest::of(&raw) != named.digest {
        return Err(SnapshotError::PageMismatch(named.digest));
    }
    let page = Page::decode(raw)?;
    if named.describes(&page) { Ok(page) } else { Err(SnapshotError::PageMismatch(named.digest)) }
}
