//! Hard caps, the same constants in translator and relay.
//!
//! The translator fails at 100 % and warns at [`WARN_PERCENT`], so that a limit is met in CI and never first in a relay.
//! Every reader checks them before it allocates.

use std::fmt;

/// The share of a limit, in percent, from which the translator warns.
pub const WARN_PERCENT: u64 = 80;
/// A stored log entry: the signed envelope as JSON, in bytes.
pub const ENTRY_BYTES: usize = 16 << 10;
/// A stored head, in bytes.
pub const HEAD_BYTES: usize = 32 << 10;
/// A manifest, uncompressed, in bytes.
pub const MANIFEST_BYTES: usize = 8 << 20;
/// A page, uncompressed, in bytes.
pub const PAGE_BYTES: usize = 8 << 20;
/// A name, type URL or part key, in bytes.
pub const NAME_BYTES: usize = 4 << 10;
/// The encoded message of one record, in bytes: a page must hold it together with its names.
pub const RECORD_BYTES: usize = 6 << 20;
/// A resource, all its parts together, in bytes: the route table of 100,000 HTTPRoutes has some 50 MB.
pub const RESOURCE_BYTES: usize = 128 << 20;
/// All pages of a snapshot together, uncompressed, in bytes.
pub const SNAPSHOT_BYTES: u64 = 512 << 20;
/// Records in a snapshot.
pub const SNAPSHOT_RECORDS: u64 = 1_000_000;
/// A signed attestation beside a manifest, in bytes.
pub const ATTESTATION_BYTES: usize = 256 << 10;
/// One document that an attestation names, uncompressed, in bytes: the records of 100,000 HTTPRoutes have some 70 MB.
pub const DOCUMENT_BYTES: usize = 128 << 20;
/// A bundle as stored, in bytes. A snapshot that compresses to more goes without.
pub const BUNDLE_STORED_BYTES: usize = 64 << 20;
/// A document of the chain of trust as stored, in bytes.
pub const TRUST_BYTES: usize = 256 << 10;
/// How many documents of the chain of trust a reader follows in one go.
pub const TRUST_HOPS: usize = 1024;
/// A report of a relay, in bytes.
pub const REPORT_BYTES: usize = 64 << 10;
/// A signed index of late values, as stored, in bytes.
pub const LATE_INDEX_BYTES: usize = 4 << 20;
/// One late value, in bytes: what Kubernetes allows for a Secret.
pub const LATE_VALUE_BYTES: usize = 1 << 20;
/// All late values of a fleet in a channel together, in bytes.
pub const LATE_BYTES: u64 = 256 << 20;
/// How many late values a fleet may have in a channel.
pub const LATE_VALUES: usize = 10_000;
/// How many slots of a log that do not verify are stepped over in a row before a reader gives up.
pub const VOID_RUN: u64 = 16;
/// Pages whose records together stay below this many bytes lie inside the manifest.
pub const INLINE_BYTES: usize = 64 << 10;

/// The largest stored form of `raw` bytes: zstd's bound for incompressible input, and some room.
pub const fn stored(raw: usize) -> usize {
    raw + (raw >> 8) + 1024
}

/// How much of one limit is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitUse {
    /// What is limited, in words.
    pub what: &'static str,
    /// How much there is.
    pub used: u64,
    /// How much there may be.
    pub limit: u64,
}

impl LimitUse {
    /// The share in percent, rounded down.
    pub fn percent(&self) -> u64 {
        self.used.saturating_mul(100) / self.limit.max(1)
    }
}

impl fmt::Display for LimitUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} of {} ({} %)", self.what, self.used, self.limit, self.percent())
    }
}

/// How much of the limits a snapshot uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Records.
    pub records: u64,
    /// Uncompressed bytes of all pages.
    pub bytes: u64,
    /// Uncompressed bytes of the manifest.
    pub manifest_bytes: u64,
    /// Bytes of the largest resource, its parts together.
    pub largest_resource: u64,
    /// Bytes of the largest record: a whole resource or one part, such as a virtual host.
    pub largest_record: u64,
}

impl Usage {
    /// Each limit beside what is used of it.
    pub fn limits(&self) -> [LimitUse; 5] {
        [
            LimitUse { what: "records", used: self.records, limit: SNAPSHOT_RECORDS },
            LimitUse { what: "bytes of the snapshot", used: self.bytes, limit: SNAPSHOT_BYTES },
            LimitUse {
                what: "bytes of the manifest",
                used: self.manifest_bytes,
                limit: MANIFEST_BYTES as u64,
            },
            LimitUse {
                what: "bytes of the largest resource",
                used: self.largest_resource,
                limit: RESOURCE_BYTES as u64,
            },
            LimitUse {
                what: "bytes of the largest record",
                used: self.largest_record,
                limit: RECORD_BYTES as u64,
            },
        ]
    }

    /// The limits of which [`WARN_PERCENT`] or more are used.
    pub fn warnings(&self) -> Vec<LimitUse> {
        self.limits().into_iter().filter(|limit| limit.percent() >= WARN_PERCENT).collect()
    }
}
