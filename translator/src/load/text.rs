//! Bytes to text: encodings, and characters that make a text read differently from what it says.

use moorgate_model::Position;
use std::borrow::Cow;

/// Why bytes are no text that can be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotText {
    /// A git LFS pointer.
    LfsPointer,
    /// A known binary format.
    Format(&'static str),
    /// UTF-16 or UTF-32.
    Wide(&'static str),
    /// Not UTF-8, at this place.
    Invalid(Position),
    /// UTF-8, but mostly control characters.
    Binary,
}

/// The text of a file without its byte order mark, and whether it had one.
pub(super) fn decode(bytes: &[u8]) -> Result<(&str, bool), NotText> {
    if let Some(format) = format(bytes) {
        return Err(NotText::Format(format));
    }
    if let Some(wide) = wide(bytes) {
        return Err(NotText::Wide(wide));
    }
    let (bytes, marked) = match bytes.strip_prefix(b"\xef\xbb\xbf") {
        Some(rest) => (rest, true),
        None => (bytes, false),
    };
    if bytes.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Err(NotText::LfsPointer);
    }
    let head = &bytes[..bytes.len().min(8192)];
    let controls =
        head.iter().filter(|byte| **byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c)).count();
    match std::str::from_utf8(bytes) {
        Ok(_) if controls > 3 && controls * 10 > head.len() => Err(NotText::Binary),
        Ok(text) => Ok((text, marked)),
        Err(_) if controls > 0 => Err(NotText::Binary),
        Err(error) => {
            let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            Err(NotText::Invalid(end_of(&valid)))
        }
    }
}

/// Formats that are found under a wrong name, by their first bytes.
fn format(bytes: &[u8]) -> Option<&'static str> {
    const MAGIC: &[(&[u8], &str)] = &[
        (b"\x1f\x8b", "a gzip archive"),
        (b"%PDF-", "a PDF document"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x28\xb5\x2f\xfd", "a zstd archive"),
        (b"BZh", "a bzip2 archive"),
        (b"\xfd7zXZ\0", "an xz archive"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"\x7fELF", "an ELF program"),
        (b"MZ\x90\0", "a Windows program"),
        (b"\x89PNG\r\n", "a PNG image"),
        (b"\xff\xd8\xff", "a JPEG image"),
        (b"GIF8", "a GIF image"),
        (b"SQLite format 3\0", "an SQLite database"),
    ];
    MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, name)| *name)
}

/// Wide encodings by their mark, or by where the zeros of the first ASCII characters stand.
fn wide(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] | [0, 0, 0, 1..=255, ..] | [1..=255, 0, 0, 0, ..] => {
            Some("UTF-32")
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 1..=255, 0, 1..=255, ..] | [1..=255, 0, 1..=255, 0, ..] => {
            Some("UTF-16")
        }
        _ => None,
    }
}

/// The position behind a text that starts at line 1, column 1.
fn end_of(text: &str) -> Position {
    let lines = text.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let columns = text.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Position { line: clamp(lines), column: clamp(columns) }
}

/// Lines and columns beyond four billion stay there; files are far smaller.
pub(super) fn clamp(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Control characters other than tab and line ends, and characters that reorder what is shown: forbidden anywhere in
/// a file as they stand (row 8; "Trojan Source", CVE-2021-42574).
pub(super) fn is_hostile(c: char) -> bool {
    match c {
        '\t' | '\n' | '\r' => false,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        _ => false,
    }
}

/// The first character that a key or name must not hold: hostile ones, line ends, and those without width.
pub(super) fn unfit_for_name(text: &str) -> Option<char> {
    if text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return None;
    }
    text.chars().find(|c| {
        is_hostile(*c)
            || matches!(c, '\t' | '\n' | '\r' | '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
    })
}

/// A character as text that can be seen.
pub(super) fn name_of(c: char) -> String {
    let what = match c {
        '\0' => "NUL",
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => {
            "changes the direction of text"
        }
        '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2064}' | '\u{feff}' => "has no width",
        _ => "a control character",
    };
    format!("U+{:04X} ({what})", u32::from(c))
}

/// A text for a message: hostile characters escaped, and cut at 80 characters.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    if text.len() <= 80 && unfit_for_name(text).is_none() {
        return Cow::Borrowed(text);
    }
    let cut = text.chars().nth(80).is_some();
    let mut out: String = text.chars().take(80).flat_map(escape).collect();
    if cut {
        out.push('…');
    }
    Cow::Owned(out)
}

fn escape(c: char) -> Vec<char> {
    let mut buffer = [0; 4];
    if unfit_for_name(c.encode_utf8(&mut buffer)).is_some() { c.escape_unicode().collect() } else { vec![c] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, swap: bool) -> Vec<u8> {
        text.encode_utf16()
            .flat_map(|unit| if swap { unit.to_be_bytes() } else { unit.to_le_bytes() })
            .collect()
    }

    #[test]
    fn row_7_encodings_other_than_utf_8_are_refused_and_a_mark_is_stripped() {
        assert_eq!(decode(b"\xef\xbb\xbfa: b"), Ok(("a: b", true)));
        assert_eq!(decode("ä: ö".as_bytes()), Ok(("ä: ö", false)));
        for swap in [false, true] {
            assert_eq!(decode(&utf16("kind: Gateway", swap)), Err(NotText::Wide("UTF-16")));
            assert_eq!(decode(&utf16("\u{feff}kind: Gateway", swap)), Err(NotText::Wide("UTF-16")));
        }
        assert_eq!(decode(b"k\0\0\0i\0\0\0"), Err(NotText::Wide("UTF-32")));
        assert_eq!(decode(b"\0\0\0k\0\0\0i"), Err(NotText::Wide("UTF-32")));
        assert_eq!(decode(b"\0\0\xfe\xff\0\0\0k"), Err(NotText::Wide("UTF-32")));
        let place = Position { line: 2, column: 3 };
        assert_eq!(decode(b"a: b\nc:\xff"), Err(NotText::Invalid(place)));
        assert_eq!(decode(b"a: caf\xe9"), Err(NotText::Invalid(Position { line: 1, column: 7 })));
    }

    #[test]
    fn row_13_and_14_binaries_and_pointers_are_named() {
        assert_eq!(decode(b"\x1f\x8b\x08\0\0"), Err(NotText::Format("a gzip archive")));
        assert_eq!(decode(b"%PDF-1.7\n"), Err(NotText::Format("a PDF document")));
        assert_eq!(decode(b"\x01\x02\x03\x04\xff"), Err(NotText::Binary));
        assert_eq!(decode(b"\x05\x01\x02\x03\x04abc"), Err(NotText::Binary));
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n";
        assert_eq!(decode(pointer), Err(NotText::LfsPointer));
    }

    #[test]
    fn row_8_characters_that_cannot_be_seen_are_unfit_for_names() {
        for c in [
            '\0', '\u{1b}', '\u{85}', '\u{9f}', '\u{202e}', '\u{2066}', '\u{200b}', '\u{200d}', '\u{feff}',
            '\n',
        ] {
            assert_eq!(unfit_for_name(&format!("a{c}b")), Some(c));
            assert!(!shown(&format!("a{c}b")).contains(c));
        }
        assert_eq!(unfit_for_name("shop-é-日本"), None);
        assert!(is_hostile('\u{202e}') && !is_hostile('\u{200d}') && !is_hostile('\r'));
    }
}
