//! Packs from remote repositories, unpacked into memory.
//!
//! Nothing is allocated from a size that the pack declares, and nothing is unpacked beyond the limits. Each object is
//! hashed as it is written, so that a tree names either what the commit means or nothing.

use super::Limits;
use flate2::{Decompress, FlushDecompress, Status};
use git2::{ObjectType, Odb, Oid, Repository};
use std::collections::BTreeMap;

/// Why a pack is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PackError {
    #[error("the pack is broken: {0}")]
    Broken(&'static str),
    #[error("the pack holds more than {0} objects")]
    TooMany(usize),
    #[error("the pack inflates to more than {0} bytes")]
    TooLarge(u64),
    #[error("the pack holds deltas upon deltas, more than {0} deep")]
    TooDeep(usize),
    #[error("the pack cannot be stored: {0}")]
    Store(String),
}

impl From<git2::Error> for PackError {
    fn from(error: git2::Error) -> Self {
        Self::Store(error.message().to_string())
    }
}

/// What a pack held.
pub(super) struct Unpacked {
    /// The objects, in memory: a repository without references or configuration.
    pub(super) repository: Repository,
    /// True if some objects are larger than a file may be, and were left out.
    pub(super) dropped: bool,
}

/// Unpacks a pack (versions 2 and 3, SHA-1).
pub(super) fn unpack(pack: &[u8], limits: &Limits) -> Result<Unpacked, PackError> {
    let repository = {
        let odb = Odb::new()?;
        odb.add_new_mempack_backend(1)?;
        Repository::from_odb(odb)?
    };
    let dropped = {
        let odb = repository.odb()?;
        let mut unpacker = Unpacker {
            odb: &odb,
            limits,
            done: BTreeMap::new(),
            depths: BTreeMap::new(),
            by_offset: BTreeMap::new(),
            by_id: BTreeMap::new(),
            inflated: 0,
            dropped: false,
        };
        unpacker.run(pack)?;
        unpacker.dropped
    };
    Ok(Unpacked { repository, dropped })
}

/// A delta whose base is not there yet.
struct Delta {
    offset: usize,
    data: Vec<u8>,
}

struct Unpacker<'a> {
    odb: &'a Odb<'a>,
    limits: &'a Limits,
    /// The id of what stands at an offset, and how many deltas it took.
    done: BTreeMap<usize, (Oid, usize)>,
    /// How many deltas each object took.
    depths: BTreeMap<Oid, usize>,
    /// Deltas that wait for what stands at an offset.
    by_offset: BTreeMap<usize, Vec<Delta>>,
    /// Deltas that wait for an id.
    by_id: BTreeMap<Oid, Vec<Delta>>,
    inflated: u64,
    dropped: bool,
}

const TRAILER: usize = 20;

impl Unpacker<'_> {
    fn run(&mut self, pack: &[u8]) -> Result<(), PackError> {
        let body = pack
            .len()
            .checked_sub(TRAILER)
            .and_then(|end| pack.get(..end))
            .ok_or(PackError::Broken("cut short"))?;
        let Some(header) = body.first_chunk::<12>() else { return Err(PackError::Broken("cut short")) };
        let [b'P', b'A', b'C', b'K', 0, 0, 0, 2 | 3, count @ ..] = header else {
            return Err(PackError::Broken("no pack of a known version"));
        };
        let count = usize::try_from(u32::from_be_bytes(*count)).unwrap_or(usize::MAX);
        if count > self.limits.pack_objects {
            return Err(PackError::TooMany(self.limits.pack_objects));
        }
        let mut at = header.len();
        for _ in 0..count {
            at = self.entry(body, at)?;
        }
        if at != body.len() {
            return Err(PackError::Broken("bytes behind the last object"));
        }
        let waiting = !self.by_offset.is_empty() || !self.by_id.is_empty();
        // What builds on an object that was left out is left out too.
        if waiting && !self.dropped { Err(PackError::Broken("a delta without its base")) } else { Ok(()) }
    }

    /// Reads the entry at an offset; gives the offset of the next.
    fn entry(&mut self, body: &[u8], offset: usize) -> Result<usize, PackError> {
        let mut cursor = Cursor { bytes: body, at: offset };
        let first = cursor.byte()?;
        let size = cursor.size(u64::from(first & 0x0f), 4, first & 0x80 != 0)?;
        let kind = match (first >> 4) & 7 {
            1 => Entry::Whole(ObjectType::Commit),
            2 => Entry::Whole(ObjectType::Tree),
            3 => Entry::Whole(ObjectType::Blob),
            4 => Entry::Whole(ObjectType::Tag),
            6 => Entry::OnOffset(cursor.base_offset(offset)?),
            7 => Entry::OnId(Oid::from_bytes(cursor.take(TRAILER)?)?),
            _ => return Err(PackError::Broken("an object of an unknown kind")),
        };
        self.count(size)?;
        let keep = size <= self.limits.file_bytes;
        let (data, used) = inflate(cursor.rest(), size, keep)?;
        let next = cursor.at + used;
        let Some(data) = data else {
            self.dropped = true;
            return Ok(next);
        };
        let delta = Delta { offset, data };
        match kind {
            Entry::Whole(kind) => {
                let id = self.odb.write(kind, &delta.data)?;
                self.settle(offset, id, 0)?;
            }
            Entry::OnOffset(base) => match self.done.get(&base).copied() {
                Some((id, depth)) => self.grow(id, depth, &delta)?,
                None => self.by_offset.entry(base).or_default().push(delta),
            },
            Entry::OnId(base) => match self.depths.get(&base).copied() {
                Some(depth) => self.grow(base, depth, &delta)?,
                None => self.by_id.entry(base).or_default().push(delta),
            },
        }
        Ok(next)
    }

    fn count(&mut self, size: u64) -> Result<(), PackError> {
        self.inflated = self.inflated.saturating_add(size);
        let most = self.limits.pack_inflated_bytes;
        if self.inflated > most { Err(PackError::TooLarge(most)) } else { Ok(()) }
    }

    fn grow(&mut self, base: Oid, depth: usize, delta: &Delta) -> Result<(), PackError> {
        if let Some(id) = self.apply(base, depth, &delta.data)? {
            self.settle(delta.offset, id, depth + 1)?;
        }
        Ok(())
    }

    /// An object is there: so can be what waits for it, and what waits for that.
    fn settle(&mut self, offset: usize, id: Oid, depth: usize) -> Result<(), PackError> {
        let mut settled = vec![(offset, id, depth)];
        while let Some((offset, id, depth)) = settled.pop() {
            self.done.insert(offset, (id, depth));
            self.depths.insert(id, depth);
            let by_offset = self.by_offset.remove(&offset).unwrap_or_default();
            let by_id = self.by_id.remove(&id).unwrap_or_default();
            for delta in by_offset.into_iter().chain(by_id) {
                if let Some(grown) = self.apply(id, depth, &delta.data)? {
                    settled.push((delta.offset, grown, depth + 1));
                }
            }
        }
        Ok(())
    }

    /// Builds an object from its base; nothing if it is too large.
    fn apply(&mut self, base: Oid, depth: usize, delta: &[u8]) -> Result<Option<Oid>, PackError> {
        if depth >= self.limits.delta_depth {
            return Err(PackError::TooDeep(self.limits.delta_depth));
        }
        let mut cursor = Cursor { bytes: delta, at: 0 };
        let base_size = cursor.size(0, 0, true)?;
        let size = cursor.size(0, 0, true)?;
        if size > self.limits.file_bytes {
            self.dropped = true;
            return Ok(None);
        }
        self.count(size)?;
        let base = self.odb.read(base)?;
        if u64::try_from(base.len()) != Ok(base_size) {
            return Err(PackError::Broken("a delta for another base"));
        }
        let built = cursor.build(base.data(), size)?;
        Ok(Some(self.odb.write(base.kind(), &built)?))
    }
}

enum Entry {
    Whole(ObjectType),
    OnOffset(usize),
    OnId(Oid),
}

/// Inflates one stream of a known size. Gives the bytes if they are wanted, and how much input it took.
fn inflate(input: &[u8], size: u64, keep: bool) -> Result<(Option<Vec<u8>>, usize), PackError> {
    const BROKEN: PackError = PackError::Broken("an object that does not inflate");
    let mut stream = Decompress::new(true);
    let mut buffer = [0_u8; 16 * 1024];
    let mut out = Vec::new();
    loop {
        let used = usize::try_from(stream.total_in()).map_err(|_| BROKEN)?;
        let before = stream.total_out();
        let rest = input.get(used..).ok_or(BROKEN)?;
        let status = stream.decompress(rest, &mut buffer, FlushDecompress::None).map_err(|_| BROKEN)?;
        let produced = usize::try_from(stream.total_out() - before).map_err(|_| BROKEN)?;
        if stream.total_out() > size {
            return Err(PackError::Broken("an object that is larger than it says"));
        }
        if keep {
            out.extend_from_slice(buffer.get(..produced).unwrap_or_default());
        }
        let used_now = usize::try_from(stream.total_in()).map_err(|_| BROKEN)?;
        if status == Status::StreamEnd {
            let whole = stream.total_out() == size;
            return if whole { Ok((keep.then_some(out), used_now)) } else { Err(BROKEN) };
        }
        if produced == 0 && used_now == used {
            return Err(PackError::Broken("cut short"));
        }
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn byte(&mut self) -> Result<u8, PackError> {
        let byte = *self.bytes.get(self.at).ok_or(PackError::Broken("cut short"))?;
        self.at += 1;
        Ok(byte)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], PackError> {
        let end = self.at.checked_add(count).ok_or(PackError::Broken("cut short"))?;
        let taken = self.bytes.get(self.at..end).ok_or(PackError::Broken("cut short"))?;
        self.at = end;
        Ok(taken)
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// A size in groups of seven bits, lowest first, on top of the bits that are there.
    fn size(&mut self, mut value: u64, mut shift: u32, mut more: bool) -> Result<u64, PackError> {
        while more {
            let byte = self.byte()?;
            if shift > 56 {
                return Err(PackError::Broken("a size beyond all bounds"));
            }
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            more = byte & 0x80 != 0;
        }
        Ok(value)
    }

    /// The offset of a base, written as a distance back from `offset`.
    fn base_offset(&mut self, offset: usize) -> Result<usize, PackError> {
        let mut byte = self.byte()?;
        let mut distance = usize::from(byte & 0x7f);
        while byte & 0x80 != 0 {
            byte = self.byte()?;
            let next = distance.checked_add(1).and_then(|d| d.checked_mul(128));
            distance = next.ok_or(PackError::Broken("a base beyond all bounds"))? | usize::from(byte & 0x7f);
        }
        if distance == 0 {
            return Err(PackError::Broken("a delta upon itself"));
        }
        offset.checked_sub(distance).ok_or(PackError::Broken("a base before the pack"))
    }

    /// Carries out the instructions of a delta.
    fn build(&mut self, base: &[u8], size: u64) -> Result<Vec<u8>, PackError> {
        const WRONG: PackError = PackError::Broken("a delta that does not fit");
        let size = usize::try_from(size).map_err(|_| WRONG)?;
        let mut out = Vec::with_capacity(size.min(1 << 20));
        while self.at < self.bytes.len() {
            let op = self.byte()?;
            let part = if op & 0x80 == 0 {
                if op == 0 {
                    return Err(WRONG);
                }
                self.take(usize::from(op))?
            } else {
                let (mut from, mut count) = (0_usize, 0_usize);
                for bit in 0..4 {
                    if op & (1 << bit) != 0 {
                        from |= usize::from(self.byte()?) << (8 * bit);
                    }
                }
                for bit in 0..3 {
                    if op & (0x10 << bit) != 0 {
                        count |= usize::from(self.byte()?) << (8 * bit);
                    }
                }
                let count = if count == 0 { 0x10000 } else { count };
                base.get(from..from + count).ok_or(WRONG)?
            };
            if out.len() + part.len() > size {
                return Err(WRONG);
            }
            out.extend_from_slice(part);
        }
        if out.len() == size { Ok(out) } else { Err(WRONG) }
    }
}
