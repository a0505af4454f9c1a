//! How much a source may hold: every budget of reading and parsing, in one place.

use std::time::Duration;

/// Bounds on what is read and parsed. They exist so that no repository can exhaust the machine that compiles it; the
/// defaults ([`Limits::DEFAULT`]) leave an order of magnitude above the largest known installations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in one file. Also the most that one git object may inflate to.
    pub file_bytes: u64,
    /// Bytes in all files together.
    pub total_bytes: u64,
    /// Files with one of our extensions.
    pub files: usize,
    /// Entries of folders and git trees that are looked at, whatever their names.
    pub entries: usize,
    /// Folders within folders.
    pub folder_depth: usize,
    /// Documents in one file, empty ones included.
    pub documents_per_file: usize,
    /// Values and keys in one document, each use of an alias counted in full.
    pub nodes_per_document: usize,
    /// Values and keys in all documents together.
    pub total_nodes: usize,
    /// Collections within collections.
    pub depth: usize,
    /// Values and keys that the aliases of one document may add.
    pub alias_nodes: usize,
    /// Bytes of text that the aliases of one document may add.
    pub alias_bytes: usize,
    /// Bytes of a pack that a remote repository sends.
    pub pack_bytes: u64,
    /// Bytes that all objects of a pack inflate to, together.
    pub pack_inflated_bytes: u64,
    /// Objects in a pack.
    pub pack_objects: usize,
    /// Deltas upon deltas in a pack. Git itself writes 50, and never more than 4,095.
    pub delta_depth: usize,
    /// How long a remote repository may take, from the first byte to the last.
    pub fetch_time: Duration,
}

impl Limits {
    /// The bounds that the command uses.
    pub const DEFAULT: Self = Self {
        file_bytes: 64 << 20,
        total_bytes: 512 << 20,
        files: 100_000,
        entries: 1_000_000,
        folder_depth: 64,
        documents_per_file: 65_536,
        nodes_per_document: 4_000_000,
        total_nodes: 40_000_000,
        depth: 128,
        alias_nodes: 500_000,
        alias_bytes: 32 << 20,
        pack_bytes: 256 << 20,
        pack_inflated_bytes: 1 << 30,
        pack_objects: 1_000_000,
        delta_depth: 4_095,
        fetch_time: Duration::from_mins(2),
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
