//! Packet lines: four hexadecimal digits of length, then the data.

use super::{SourceError, chain};
use reqwest::Response;

/// One packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet {
    /// `0000`: the message ends.
    Flush,
    /// `0001`: a section ends.
    Delimiter,
    /// `0002`: the answer ends.
    End,
    /// Bytes.
    Data(Vec<u8>),
}

/// A line as a packet.
pub(super) fn encode(line: &str) -> Vec<u8> {
    let mut packet = format!("{:04x}", line.len() + 4).into_bytes();
    packet.extend_from_slice(line.as_bytes());
    packet
}

/// Takes the first packet off a buffer; nothing if it is not whole yet.
fn decode(buffer: &mut Vec<u8>) -> Result<Option<Packet>, &'static str> {
    let Some(length) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length =
        std::str::from_utf8(length).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    let length = length
        .and_then(|digits| usize::from_str_radix(digits, 16).ok())
        .ok_or("a packet without a length")?;
    let packet = match length {
        0 => Packet::Flush,
        1 => Packet::Delimiter,
        2 => Packet::End,
        3 => return Err("a packet of an impossible length"),
        _ if buffer.len() < length => return Ok(None),
        _ => Packet::Data(buffer[4..length].to_vec()),
    };
    buffer.drain(..length.max(4));
    Ok(Some(packet))
}

/// The packets of an answer, as they come.
pub(super) struct Packets {
    response: Response,
    buffer: Vec<u8>,
    url: String,
    left: u64,
}

impl Packets {
    /// At most so many bytes are read.
    pub(super) fn new(response: Response, url: &str, most: u64) -> Self {
        Self { response, buffer: Vec::new(), url: url.to_string(), left: most }
    }

    /// The next packet; nothing at the end of the answer.
    pub(super) async fn next(&mut self) -> Result<Option<Packet>, SourceError> {
        loop {
            let decoded =
                decode(&mut self.buffer).map_err(|message| SourceError::remote(&self.url, message))?;
            if decoded.is_some() {
                return Ok(decoded);
            }
            let chunk = self.response.chunk().await;
            let chunk = chunk.map_err(|error| SourceError::remote(&self.url, chain(&error.without_url())))?;
            match chunk {
                Some(chunk) => {
                    let length = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
                    self.left = self.left.checked_sub(length).ok_or_else(|| {
                        SourceError::remote(&self.url, "the answer is larger than any that is expected")
                    })?;
                    self.buffer.extend_from_slice(&chunk);
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(SourceError::remote(&self.url, "the answer ends within a packet")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_whole_or_not_at_all() {
        let mut buffer = encode("want x\n");
        assert_eq!(buffer, b"000bwant x\n");
        buffer.extend_from_slice(b"00010000000");
        let mut seen = Vec::new();
        while let Some(packet) = decode(&mut buffer).unwrap() {
            seen.push(packet);
        }
        assert_eq!(seen, [Packet::Data(b"want x\n".to_vec()), Packet::Delimiter, Packet::Flush]);
        assert_eq!(buffer, b"000");
        assert!(decode(&mut b"0003".to_vec()).is_err());
        assert!(decode(&mut b"+001".to_vec()).is_err());
        assert_eq!(decode(&mut b"fff0abc".to_vec()), Ok(None));
    }
}
