//! Zstandard frames, read with a bound.

use crate::limits;
use bytes::Bytes;
use std::io::Read as _;
use thiserror::Error;
use zstd::zstd_safe;

/// Fast and within a few percent of the slower levels for pages of tens of kilobytes.
const LEVEL: i32 = 6;
/// The widest window that a frame may ask memory for: 8 MiB.
const WINDOW_LOG: u32 = 23;

/// Stored bytes that are no proper frame.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CompressError {
    /// The frame is cut, damaged or followed by other bytes.
    #[error("no single zstd frame")]
    Frame,
    /// More comes out than may.
    #[error("more than {0} bytes when decompressed")]
    TooLarge(usize),
}

/// One frame around these bytes. Identity is the digest of `raw`: what zstd makes of it may change between versions.
pub fn compress(raw: &[u8]) -> Result<Bytes, CompressError> {
    zstd::bulk::compress(raw, LEVEL).map(Bytes::from).map_err(|_| CompressError::Frame)
}

/// The bytes inside one frame, at most `limit`. Memory is taken as bytes come out, never as the frame declares.
pub fn decompress(stored: &[u8], limit: usize) -> Result<Bytes, CompressError> {
    if stored.len() > limits::stored(limit) {
        return Err(CompressError::TooLarge(limit));
    }
    // Behind the frame nothing may follow, not even an empty or skippable frame.
    if zstd_safe::find_frame_compressed_size(stored) != Ok(stored.len()) {
        return Err(CompressError::Frame);
    }
    let mut decoder = zstd::Decoder::with_buffer(stored).map_err(|_| CompressError::Frame)?.single_frame();
    decoder.window_log_max(WINDOW_LOG).map_err(|_| CompressError::Frame)?;
    let mut raw = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    decoder.take(bound).read_to_end(&mut raw).map_err(|_| CompressError::Frame)?;
    if raw.len() > limit {
        return Err(CompressError::TooLarge(limit));
    }
    Ok(raw.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bombs_and_tails_are_refused() {
        let raw = vec![7; 10_000_000];
        let stored = compress(&raw).unwrap();
        assert!(stored.len() < 2000);
        assert_eq!(decompress(&stored, raw.len()).unwrap(), raw);
        assert_eq!(decompress(&stored, raw.len() - 1), Err(CompressError::TooLarge(raw.len() - 1)));
        let mut tail = stored.to_vec();
        // An empty skippable frame: zstd itself would read over it.
        tail.extend_from_slice(&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]);
        assert_eq!(decompress(&tail, raw.len()), Err(CompressError::Frame));
        assert_eq!(decompress(&stored[..stored.len() - 1], raw.len()), Err(CompressError::Frame));
        assert_eq!(decompress(b"", 10), Err(CompressError::Frame));
    }

    #[test]
    fn wide_windows_are_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        std::io::copy(&mut &b"small"[..], &mut encoder).unwrap();
        let stored = encoder.finish().unwrap();
        assert_eq!(decompress(&stored, 100), Err(CompressError::Frame));
    }
}
