//! What a snapshot must know of a page beside its keys: worked out once, so that putting a snapshot together costs what
//! its pages are in number, and not what they hold.

use crate::page::weight;
use crate::record::{Key, Record};

/// The shape of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The first later part, the first record aside, that does not follow a part of its resource.
    pub orphan: Option<usize>,
    /// Bytes of the resource that the page begins with, as far as they lie here.
    pub head: usize,
    /// Bytes of the resource that the page ends with, as far as they lie here.
    pub tail: usize,
    /// The page holds parts of a single resource.
    pub single: bool,
    /// The resource of which most bytes lie here: its first record here, and the bytes.
    pub largest: (usize, usize),
    /// The largest record, as it counts in a page.
    pub heaviest: usize,
}

impl Shape {
    /// The shape of these records, which are sorted. Bindings count as resources without bytes.
    pub(crate) fn of(records: &[Record]) -> Self {
        let bytes = |record: &Record| match record {
            Record::Resource(resource) => resource.bytes.len(),
            Record::Binding(_) => 0,
        };
        let mut shape = Self { orphan: None, head: 0, tail: 0, single: true, largest: (0, 0), heaviest: 0 };
        let mut begun = 0;
        for (index, record) in records.iter().enumerate() {
            shape.heaviest = shape.heaviest.max(weight(record));
            let before = index.checked_sub(1).and_then(|before| records.get(before));
            if before.is_some_and(|before| !same_resource(&before.key(), &record.key())) {
                if !record.key().part.is_empty() {
                    shape.orphan = shape.orphan.or(Some(index));
                }
                shape.single = false;
                (shape.tail, begun) = (0, index);
            }
            shape.tail += bytes(record);
            if shape.single {
                shape.head = shape.tail;
            }
            if shape.tail > shape.largest.1 {
                shape.largest = (begun, shape.tail);
            }
        }
        shape
    }
}

/// Whether two keys are of one resource.
pub(crate) fn same_resource(one: &Key<'_>, other: &Key<'_>) -> bool {
    (one.section, one.name) == (other.section, other.name)
}
