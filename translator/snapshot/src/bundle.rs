//! Bundles: the pages of one snapshot in one object, so that a cold start takes a handful of requests.
//!
//! Later snapshots name the same bundle as long as they share most of its pages.

use crate::channel::BundleRef;
use crate::compress::{CompressError, compress, decompress};
use crate::digest::Digest;
use crate::limits;
use crate::snapshot::Snapshot;
use crate::wire;
use bytes::Bytes;
use prost::Message as _;
use std::collections::BTreeMap;

/// From how many pages outside the manifest on a bundle pays.
pub const PAGES: usize = 8;

/// The bundle of a snapshot: its name and its stored bytes. None if it would be too large to read back.
pub fn pack(snapshot: &Snapshot) -> Result<Option<(BundleRef, Bytes)>, CompressError> {
    let pages = snapshot.pages().iter().map(|page| page.raw().clone()).collect();
    let raw = wire::Bundle { pages }.encode_to_vec();
    let stored = compress(&raw)?;
    let name = BundleRef { digest: Digest::of(&raw), size: raw.len() as u64, snapshot: snapshot.id() };
    Ok((stored.len() <= limits::BUNDLE_STORED_BYTES).then_some((name, stored)))
}

/// The pages of a stored bundle by digest; none if it is not the one that was named.
pub fn unpack(stored: &[u8], name: &BundleRef) -> Option<BTreeMap<Digest, Bytes>> {
    let size = usize::try_from(name.size).ok().filter(|_| name.size <= limits::SNAPSHOT_BYTES * 2)?;
    let raw = decompress(stored, size).ok()?;
    if Digest::of(&raw) != name.digest {
        return None;
    }
    let bundle = wire::Bundle::decode(raw).ok()?;
    Some(bundle.pages.into_iter().map(|page| (Digest::of(&page), page)).collect())
}
