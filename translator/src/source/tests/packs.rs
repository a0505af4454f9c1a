use super::*;
use crate::source::pack::{PackError, unpack};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use git2::ObjectType;
use proptest::prelude::*;
use std::io::Write as _;

const COMMIT: u8 = 1;
const BLOB: u8 = 3;
const ON_OFFSET: u8 = 6;
const ON_ID: u8 = 7;

fn deflate(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// An entry: its kind, the size it claims, what stands before the data, and the data.
fn entry(kind: u8, size: usize, base: &[u8], data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = size >> 4;
    let mut byte = (kind << 4) | u8::try_from(size & 0x0f).unwrap();
    while rest > 0 {
        out.push(byte | 0x80);
        byte = u8::try_from(rest & 0x7f).unwrap();
        rest >>= 7;
    }
    out.push(byte);
    out.extend_from_slice(base);
    out.extend_from_slice(&deflate(data));
    out
}

fn pack(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut out = b"PACK\0\0\0\x02".to_vec();
    out.extend_from_slice(&u32::try_from(entries.len()).unwrap().to_be_bytes());
    entries.iter().for_each(|entry| out.extend_from_slice(entry));
    out.extend_from_slice(&[0; 20]);
    out
}

/// A delta that copies all of a short base and adds a text.
fn delta(base: usize, added: &[u8]) -> Vec<u8> {
    let short = |n: usize| u8::try_from(n).unwrap();
    let mut out = vec![short(base), short(base + added.len()), 0x90, short(base), short(added.len())];
    out.extend_from_slice(added);
    out
}

fn has(unpacked: &super::super::pack::Unpacked, text: &[u8]) -> bool {
    let id = Oid::hash_object(ObjectType::Blob, text).unwrap();
    unpacked.repository.find_blob(id).is_ok_and(|blob| blob.content() == text)
}

#[test]
fn objects_and_deltas_are_unpacked_in_any_order() {
    let base = entry(BLOB, 3, &[], b"abc");
    let on_offset = {
        let data = delta(3, b"def");
        let distance = u8::try_from(base.len()).unwrap();
        entry(ON_OFFSET, data.len(), &[distance], &data)
    };
    let late = delta(6, b"ghi");
    let id = Oid::hash_object(ObjectType::Blob, b"abcdef").unwrap();
    let on_id = entry(ON_ID, late.len(), id.as_bytes(), &late);
    for entries in [vec![base.clone(), on_offset.clone(), on_id.clone()], vec![on_id, base, on_offset]] {
        let unpacked = unpack(&pack(&entries), &Limits::DEFAULT).unwrap();
        assert!(has(&unpacked, b"abc") && has(&unpacked, b"abcdef") && has(&unpacked, b"abcdefghi"));
        assert!(!unpacked.dropped);
    }
}

#[test]
fn bombs_are_refused_or_left_out() {
    let limits = Limits {
        file_bytes: 1000,
        pack_inflated_bytes: 1 << 20,
        pack_objects: 300,
        delta_depth: 5,
        ..Limits::DEFAULT
    };
    let refused = |pack: &[u8]| unpack(pack, &limits).map(|_| ()).unwrap_err();
    // Too large for a file: left out, and so is what builds on it.
    let big = entry(BLOB, 5000, &[], &[b'x'; 5000]);
    let id = Oid::hash_object(ObjectType::Blob, &[b'x'; 5000]).unwrap();
    let on_big = delta(3, b"def");
    let unpacked = unpack(
        &pack(&[big, entry(ON_ID, on_big.len(), id.as_bytes(), &on_big), entry(BLOB, 2, &[], b"ok")]),
        &limits,
    )
    .unwrap();
    assert!(unpacked.dropped && has(&unpacked, b"ok") && !has(&unpacked, &[b'x'; 5000]));
    // Sizes that are lies.
    assert!(matches!(refused(&pack(&[entry(BLOB, 10, &[], &vec![0; 100_000])])), PackError::Broken(_)));
    assert!(matches!(refused(&pack(&[entry(BLOB, 100, &[], b"short")])), PackError::Broken(_)));
    assert!(matches!(refused(&pack(&[entry(COMMIT, usize::MAX >> 8, &[], b"x")])), PackError::TooLarge(_)));
    assert!(matches!(refused(&pack(&vec![entry(BLOB, 1, &[], b"x"); 301])), PackError::TooMany(300)));
    // A small delta that builds a large object.
    let grow = [3, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x90, 3];
    let base = entry(BLOB, 3, &[], b"abc");
    let distance = [u8::try_from(base.len()).unwrap()];
    let unpacked =
        unpack(&pack(&[base.clone(), entry(ON_OFFSET, grow.len(), &distance, &grow)]), &limits).unwrap();
    assert!(unpacked.dropped && has(&unpacked, b"abc"));
    // A chain.
    let mut chain = vec![base];
    for length in 3..13 {
        let data = delta(length, b"y");
        let distance = [u8::try_from(chain.last().unwrap().len()).unwrap()];
        chain.push(entry(ON_OFFSET, data.len(), &distance, &data));
    }
    assert_eq!(refused(&pack(&chain)), PackError::TooDeep(5));
    assert!(unpack(&pack(&chain[..6]), &limits).is_ok());
}

#[test]
fn broken_packs_are_refused() {
    let refused = |pack: &[u8]| {
        assert!(matches!(unpack(pack, &Limits::DEFAULT).map(|_| ()), Err(PackError::Broken(_))), "{pack:?}");
    };
    let good = pack(&[entry(BLOB, 3, &[], b"abc")]);
    for cut in 0..good.len() {
        refused(&good[..cut]);
    }
    refused(b"");
    refused(&[&good[..], &[0; 4]].concat());
    refused(&pack(&[entry(5, 3, &[], b"abc")]));
    refused(&pack(&[entry(ON_OFFSET, 5, &[0], &delta(3, b"x"))]));
    refused(&pack(&[entry(ON_OFFSET, 6, &[100], &delta(3, b"x"))]));
    refused(&pack(&[entry(ON_ID, 6, &[9; 20], &delta(3, b"x"))]));
    let base = entry(BLOB, 3, &[], b"abc");
    let distance = [u8::try_from(base.len()).unwrap()];
    for bad in [
        vec![4, 3, 0x90, 3],
        vec![3, 3, 0x91, 1, 3],
        vec![3, 3, 0x90, 2],
        vec![3, 3, 0],
        vec![3, 2, 0x90, 3],
        vec![3, 3, 9, 1],
        vec![3],
    ] {
        refused(&pack(&[base.clone(), entry(ON_OFFSET, bad.len(), &distance, &bad)]));
    }
}

proptest! {
    #[test]
    fn flipped_packs_never_panic(position in 12_usize..60, value in any::<u8>(), tail in prop::collection::vec(any::<u8>(), 0..30)) {
        let base = entry(BLOB, 3, &[], b"abc");
        let data = delta(3, b"def");
        let distance = [u8::try_from(base.len()).unwrap()];
        let mut bytes = pack(&[base, entry(ON_OFFSET, data.len(), &distance, &data)]);
        if let Some(byte) = bytes.get_mut(position) {
            *byte = value;
        }
        bytes.extend(tail);
        let _ = unpack(&bytes, &Limits::DEFAULT);
    }
}
