//! What the image `coredns` stands for: a server that answers each question with the asker's own address. The suites up to
//! 1.6 have one as a backend, and take any answer for their question.

use anyhow::{Context as _, Result};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// Header of a message: id, flags, four counts.
const HEADER: usize = 12;
/// The longest message without an extension.
const LONGEST: usize = 512;

/// The answer to a query with one question; none for what is no such query.
fn answer(query: &[u8], asker: Ipv4Addr) -> Option<Vec<u8>> {
    let header = query.get(..HEADER)?;
    let (flags, questions) = (header.get(2)?, header.get(4..6)?);
    if flags & 0x80 != 0 || questions != [0, 1] {
        return None;
    }
    // The name: labels, each after its length, up to an empty one.
    let mut end = HEADER;
    while *query.get(end)? != 0 {
        end += usize::from(*query.get(end)?) + 1;
    }
    // Behind it type and class.
    let question = query.get(HEADER..end + 5)?;
    let mut answer = header.get(..2)?.to_vec();
    // An answer, with authority, recursion as wanted; one question, one record, nothing else.
    answer.extend([0x84 | (flags & 0x01), 0, 0, 1, 0, 1, 0, 0, 0, 0]);
    answer.extend(question);
    // The name of the question; A, IN; no time to live; four bytes.
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
    answer.extend(asker.octets());
    Some(answer)
}

/// Serves on port 53 for ever.
pub fn serve() -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).context("port 53")?;
    let mut buffer = [0_u8; LONGEST];
    loop {
        let (length, asker) = socket.recv_from(&mut buffer)?;
        let IpAddr::V4(address) = asker.ip() else { continue };
        if let Some(answer) = buffer.get(..length).and_then(|query| answer(query, address)) {
            // An asker that is gone costs its own answer only.
            let _ = socket.send_to(&answer, asker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_answered_with_the_askers_address() {
        let query = *b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03foo\x03bar\x00\x00\x01\x00\x01";
        let answered = answer(&query, Ipv4Addr::new(10, 0, 0, 7)).unwrap();
        let wanted = b"\x12\x34\x85\x00\x00\x01\x00\x01\x00\x00\x00\x00\x03foo\x03bar\x00\x00\x01\x00\x01\
            \xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x0a\x00\x00\x07";
        assert_eq!(answered, wanted);
        for length in 0..query.len() {
            assert_eq!(answer(&query[..length], Ipv4Addr::LOCALHOST), None, "{length}");
        }
        assert_eq!(answer(&answered, Ipv4Addr::LOCALHOST), None);
    }
}
