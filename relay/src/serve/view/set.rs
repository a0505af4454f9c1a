//! All resources of one type, in leaves: sorted runs that one set has in common with the next, so that a change costs what
//! changed and not what there is.

use super::batch::Batch;
use super::{Contents, Name, Value, version_of};
use moorgate_snapshot::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// How many differences a set remembers: streams lag by one or two sets, not by many.
const REMEMBERED_DIFFERENCES: usize = 8;
/// How many batches that are under way a set knows of: they are of a few kinds, however many streams send them.
const REMEMBERED_BATCHES: usize = 16;
/// Resources in a leaf of a set that is not made of pages.
const LEAF: usize = 128;
/// What a resource takes in a response beside its bytes, name and type: an upper bound.
pub(in crate::serve) const ENTRY_OVERHEAD: usize = 48;

/// A run of resources, sorted by name; never empty in a set.
#[derive(Debug)]
pub struct Leaf(Box<[(Name, Arc<Value>)]>);

impl Leaf {
    /// A leaf of these resources, which must be sorted by name, each name once.
    pub fn new(values: Vec<(Name, Arc<Value>)>) -> Arc<Self> {
        debug_assert!(values.is_sorted_by(|(a, _), (b, _)| a < b));
        Arc::new(Self(values.into()))
    }

    fn first(&self) -> &str {
        self.0.first().map_or("", |(name, _)| name)
    }
}

/// All resources of one type.
#[derive(Debug)]
pub struct TypeSet {
    id: u64,
    /// By the names in them; no name stands in two.
    leaves: Vec<Arc<Leaf>>,
    len: usize,
    pending: BTreeSet<Name>,
    version: OnceLock<Arc<str>>,
    differences: Mutex<Vec<(u64, Arc<Difference>)>>,
    batches: Mutex<Batches>,
}

/// Batches that streams are sending: they live as long as one of them does.
#[derive(Debug, Default)]
struct Batches {
    /// By the set that a client holds and the bytes that a response may have.
    steps: Vec<((u64, usize), Weak<Batch>)>,
    others: Vec<Weak<Batch>>,
}

/// What changed between two sets.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Names that are new or have another value, sorted.
    pub changed: Vec<Name>,
    /// Names that are gone, sorted.
    pub removed: Vec<Name>,
}

impl TypeSet {
    /// A set. `pending` names exist, but their value is not known yet.
    pub fn new(values: BTreeMap<Name, Arc<Value>>, pending: BTreeSet<Name>) -> Arc<Self> {
        Self::of(leaves(&values.into_iter().collect::<Vec<_>>()), pending)
    }

    fn of(leaves: Vec<Arc<Leaf>>, pending: BTreeSet<Name>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let len = leaves.iter().map(|leaf| leaf.0.len()).sum();
        // All sets without anything are alike: what streams that hold nothing are sent is worked out once.
        let id = if len == 0 { 0 } else { NEXT.fetch_add(1, Ordering::Relaxed) };
        Arc::new(Self {
            id,
            leaves,
            len,
            pending,
            version: OnceLock::new(),
            differences: Mutex::default(),
            batches: Mutex::default(),
        })
    }

    /// A set that shares what it can with the one before: leaves that are equal become one, and an equal set is the old one.
    pub fn following(
        before: &Arc<Self>,
        values: BTreeMap<Name, Arc<Value>>,
        pending: BTreeSet<Name>,
    ) -> Arc<Self> {
        let mut left = values.into_iter().peekable();
        let mut new: Vec<Arc<Leaf>> = Vec::new();
        for (index, leaf) in before.leaves.iter().enumerate() {
            let end = before.leaves.get(index + 1).map(|next| next.first());
            let mut run = Vec::with_capacity(leaf.0.len());
            while let Some(one) = left.next_if(|(name, _)| end.is_none_or(|end| &**name < end)) {
                run.push(one);
            }
            if run.len() == leaf.0.len() && run.iter().zip(&leaf.0).all(|(new, old)| is_same(new, old)) {
                new.push(Arc::clone(leaf));
                continue;
            }
            for one in &mut run {
                let old = before.get(&one.0).filter(|old| same_value(&one.1, old));
                one.1 = old.map_or_else(|| Arc::clone(&one.1), Arc::clone);
            }
            new.extend(leaves(&run));
        }
        new.extend(leaves(&left.collect::<Vec<_>>()));
        Self::sharing(Some(before), new, pending)
    }

    /// A set of leaves, by the names in them; the one before, if that is equal.
    pub fn of_leaves(before: Option<&Arc<Self>>, leaves: Vec<Arc<Leaf>>) -> Arc<Self> {
        Self::sharing(before, leaves, BTreeSet::new())
    }

    fn sharing(before: Option<&Arc<Self>>, leaves: Vec<Arc<Leaf>>, pending: BTreeSet<Name>) -> Arc<Self> {
        let new = Self::of(leaves, pending);
        match before {
            Some(before) if new.equals(before) => Arc::clone(before),
            _ => new,
        }
    }

    fn equals(&self, other: &Self) -> bool {
        let (own, others) = self.apart(other);
        let same = own.eq_by_entry(&others);
        same && self.len == other.len && self.pending == other.pending
    }

    /// The resource of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Value>> {
        let leaf = self.leaves.partition_point(|leaf| leaf.first() <= name).checked_sub(1)?;
        let leaf = &self.leaves.get(leaf)?.0;
        let index = leaf.binary_search_by(|(own, _)| (**own).cmp(name)).ok()?;
        leaf.get(index).map(|(_, value)| value)
    }

    /// All resources, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Arc<Value>)> {
        self.leaves.iter().flat_map(|leaf| leaf.0.iter().map(|(name, value)| (name, value)))
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no resource.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the name exists, though its value is not known yet.
    pub fn is_pending(&self, name: &str) -> bool {
        self.pending.contains(name)
    }

    /// The version of the whole set: a digest of its names and their versions.
    pub fn version(&self) -> &Arc<str> {
        self.version.get_or_init(|| {
            version_of(&contents(self.iter().map(|(name, value)| (name, Some(value.version())))))
        })
    }

    /// What changed since `before`; worked out once for all streams.
    pub fn since(&self, before: &Self) -> Arc<Difference> {
        let mut known = self.differences.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, difference)) = known.iter().find(|(id, _)| *id == before.id) {
            return Arc::clone(difference);
        }
        let difference = Arc::new(self.compare(before));
        if known.len() >= REMEMBERED_DIFFERENCES {
            known.remove(0);
        }
        known.push((before.id, Arc::clone(&difference)));
        difference
    }

    /// Leaves that both have are not looked at.
    fn compare(&self, before: &Self) -> Difference {
        let mut difference = Difference::default();
        let (new, old) = self.apart(before);
        let (mut new, mut old) = (new.entries().peekable(), old.entries().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return difference,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((old, _)), Some((new, _))) => old.cmp(new),
            };
            let was = if order.is_le() { old.next() } else { None };
            let is = if order.is_ge() { new.next() } else { None };
            match (was, is) {
                (Some((name, _)), None) => difference.removed.push(Arc::clone(name)),
                (None, Some((name, _))) => difference.changed.push(Arc::clone(name)),
                (Some((_, old)), Some((name, new))) if old.version() != new.version() => {
                    difference.changed.push(Arc::clone(name));
                }
                _ => {}
            }
        }
    }

    /// The leaves that only this set has, and those that only the other one has.
    fn apart<'s>(&'s self, other: &'s Self) -> (Apart<'s>, Apart<'s>) {
        let pointers = |set: &Self| set.leaves.iter().map(Arc::as_ptr).collect::<BTreeSet<_>>();
        let (own, others) = (pointers(self), pointers(other));
        let lacks = |leaves: &'s [Arc<Leaf>], other: &BTreeSet<*const Leaf>| {
            Apart(leaves.iter().filter(|leaf| !other.contains(&Arc::as_ptr(leaf))).collect())
        };
        (lacks(&self.leaves, &others), lacks(&other.leaves, &own))
    }

    /// What a client that holds `before` and nothing else is sent first, in a response of at most so many bytes; the same
    /// for all of them. `None` if something changed that such a response does not say: a removal, or nothing at all.
    /// `overhead` is what an entry takes beside name and value.
    pub(in crate::serve) fn step(&self, before: &Self, most: usize, overhead: usize) -> Option<Arc<Batch>> {
        let difference = self.since(before);
        if difference.changed.is_empty() || !difference.removed.is_empty() {
            return None;
        }
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        batches.steps.retain(|(_, batch)| batch.strong_count() > 0);
        let key = (before.id, most);
        let known = batches.steps.iter().find(|(of, _)| *of == key);
        if let Some(batch) = known.and_then(|(_, batch)| batch.upgrade()) {
            return Some(batch);
        }
        let changed = difference
            .changed
            .iter()
            .filter_map(|name| Some((Arc::clone(name), Arc::clone(self.get(name)?))));
        let (mut entries, mut size) = (Vec::with_capacity(difference.changed.len()), 0);
        for (name, value) in changed {
            let cost = value.len() + name.len() + overhead;
            if size > 0 && size + cost > most {
                break;
            }
            size += cost;
            entries.push((name, value));
        }
        let after = (entries.len() < difference.changed.len()).then(|| before.with(&entries));
        let batch = Arc::new(Batch::new(entries).leaving(after));
        if batches.steps.len() < REMEMBERED_BATCHES {
            batches.steps.push((key, Arc::downgrade(&batch)));
        }
        Some(batch)
    }

    /// A batch of these resources; the one that others are sending, if there is one.
    pub(in crate::serve) fn batch(&self, entries: Vec<(Name, Arc<Value>)>) -> Arc<Batch> {
        if entries.is_empty() {
            return Batch::nothing();
        }
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        batches.others.retain(|batch| batch.strong_count() > 0);
        let known = batches.others.iter().filter_map(Weak::upgrade).find(|batch| batch.is_of(&entries));
        if let Some(batch) = known {
            return batch;
        }
        let batch = Arc::new(Batch::new(entries));
        if batches.others.len() < REMEMBERED_BATCHES {
            batches.others.push(Arc::downgrade(&batch));
        }
        batch
    }

    /// The same set with these resources in it.
    fn with(&self, entries: &[(Name, Arc<Value>)]) -> Arc<Self> {
        let own = self.iter().chain(entries.iter().map(|(name, value)| (name, value)));
        let values = own.map(|(name, value)| (Arc::clone(name), Arc::clone(value))).collect();
        Self::new(values, BTreeSet::new())
    }
}

/// Leaves of one set that another one lacks.
struct Apart<'s>(Vec<&'s Arc<Leaf>>);

impl<'s> Apart<'s> {
    fn entries(&self) -> impl Iterator<Item = &'s (Name, Arc<Value>)> {
        self.0.iter().flat_map(|leaf| leaf.0.iter())
    }

    fn eq_by_entry(&self, other: &Self) -> bool {
        let count = |apart: &Self| apart.0.iter().map(|leaf| leaf.0.len()).sum::<usize>();
        count(self) == count(other) && self.entries().zip(other.entries()).all(|(a, b)| is_same(a, b))
    }
}

fn is_same((name, new): &(Name, Arc<Value>), (other, old): &(Name, Arc<Value>)) -> bool {
    name == other && same_value(new, old)
}

fn same_value(new: &Arc<Value>, old: &Arc<Value>) -> bool {
    Arc::ptr_eq(new, old) || (new.version() == old.version() && new.endpoints() == old.endpoints())
}

fn leaves(values: &[(Name, Arc<Value>)]) -> Vec<Arc<Leaf>> {
    values.chunks(LEAF).map(|run| Leaf::new(run.to_vec())).collect()
}

/// Whether a set still says what was said of these names. Of values that are bound by themselves one that is only gone
/// counts as the same.
pub(in crate::serve) fn still_says(set: Option<&TypeSet>, said: &Contents, bound: bool) -> bool {
    said.iter().all(|(name, version)| match set.and_then(|set| set.get(name)) {
        Some(value) => version.as_ref() == Some(value.version()),
        None => version.is_none() || bound,
    })
}

/// A digest of names and versions, `None` for a removal.
pub fn contents<'a>(entries: impl Iterator<Item = (&'a Name, Option<&'a Arc<str>>)>) -> Digest {
    let mut bytes = Vec::new();
    for (name, version) in entries {
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(version.map_or(&b"-"[..], |version| version.as_bytes()));
        bytes.push(0);
    }
    Digest::of(&bytes)
}

#[cfg(test)]
mod tests;
