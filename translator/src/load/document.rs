//! A file cut into documents, before any of them is parsed.
//!
//! YAML allows `---` and `...` at the start of a line nowhere but between documents, so that the cut is safe whatever
//! stands between: a broken document costs its neighbours nothing, and anchors do not reach across.

use super::text::is_hostile;

/// One stretch of a file that holds at most one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk<'a> {
    /// The text, comments and the opening `---` included.
    pub(super) text: &'a str,
    /// The line of the file on which it starts, from 0.
    pub(super) line: usize,
    /// The lines that it has.
    pub(super) lines: usize,
    /// The first character that must not stand in a file: its byte in `text`.
    pub(super) hostile: Option<usize>,
    /// The first line of a merge conflict, from 0 in `text`.
    pub(super) conflict: Option<usize>,
    /// The first line that is indented with a tab, from 0 in `text`.
    pub(super) tab: Option<usize>,
    /// True if it holds nothing but comments, blank lines and markers.
    pub(super) blank: bool,
}

/// What a byte means to the cut.
const PLAIN: u8 = 0;
const LINE_END: u8 = 1;
const SUSPECT: u8 = 2;

static MEANING: [u8; 256] = meaning();

const fn meaning() -> [u8; 256] {
    let mut table = [PLAIN; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = SUSPECT;
        byte += 1;
    }
    table[b'\t' as usize] = PLAIN;
    table[b'\n' as usize] = LINE_END;
    table[0x7f] = SUSPECT;
    // Lead bytes of C1 controls and of the characters that reorder text.
    table[0xc2] = SUSPECT;
    table[0xe2] = SUSPECT;
    table
}

/// Cuts a text into its documents.
pub(super) fn split(text: &str) -> Vec<Chunk<'_>> {
    let mut cut = Cut { text, chunks: Vec::new(), start: 0, first_line: 0, current: Current::default() };
    let bytes = text.as_bytes();
    let (mut line, mut at) = (0, 0);
    while at < bytes.len() {
        cut.line(at, line);
        let start = at;
        while let Some(byte) = bytes.get(at) {
            match MEANING[usize::from(*byte)] {
                PLAIN => {}
                LINE_END => {
                    at += 1;
                    break;
                }
                _ => cut.suspect(at),
            }
            at += 1;
        }
        cut.content(start, at);
        line += 1;
    }
    cut.close(bytes.len(), line);
    cut.chunks
}

#[derive(Debug, Default)]
struct Current {
    hostile: Option<usize>,
    conflict: Option<usize>,
    tab: Option<usize>,
    content: bool,
    marked: bool,
}

struct Cut<'a> {
    text: &'a str,
    chunks: Vec<Chunk<'a>>,
    start: usize,
    first_line: usize,
    current: Current,
}

impl Cut<'_> {
    /// A line starts.
    fn line(&mut self, at: usize, line: usize) {
        let rest = &self.text.as_bytes()[at..];
        match rest {
            // Comments and directives above a `---` belong to the document that it opens.
            [b'-', b'-', b'-', ..] if ends_word(rest) => {
                if self.current.content || self.current.marked {
                    self.close(at, line);
                }
                self.current.marked = true;
            }
            // What follows `...` is a new document even without `---`.
            [b'.', b'.', b'.', ..] if ends_word(rest) => {
                if self.current.content || self.current.marked {
                    self.close(at, line);
                }
            }
            [b'<' | b'>' | b'|', ..] if is_conflict(rest) => {
                self.current.conflict.get_or_insert(line - self.first_line);
            }
            _ => {
                let indent = rest.iter().take_while(|byte| **byte == b' ').count();
                if rest.get(indent) == Some(&b'\t') {
                    self.current.tab.get_or_insert(line - self.first_line);
                }
            }
        }
    }

    /// A character that may be hostile.
    fn suspect(&mut self, at: usize) {
        let bytes = self.text.as_bytes();
        let hostile = match bytes[at] {
            // A carriage return ends a line together with a line feed, or stands for nothing that anybody writes.
            b'\r' => bytes.get(at + 1).is_some_and(|next| *next != b'\n'),
            _ => self.text.get(at..).and_then(|rest| rest.chars().next()).is_some_and(is_hostile),
        };
        if hostile && self.current.hostile.is_none() {
            self.current.hostile = Some(at - self.start);
        }
    }

    /// A line ended: does it hold anything?
    fn content(&mut self, start: usize, end: usize) {
        if self.current.content {
            return;
        }
        let line = &self.text.as_bytes()[start..end];
        let marker = (line.starts_with(b"---") || line.starts_with(b"...")) && ends_word(line);
        let line = if marker { &line[3..] } else { line };
        let first = line.iter().find(|byte| !byte.is_ascii_whitespace());
        self.current.content = match first {
            None | Some(b'#') => false,
            // A directive starts its line.
            Some(b'%') => !line.starts_with(b"%"),
            Some(_) => true,
        };
    }

    fn close(&mut self, end: usize, line: usize) {
        if end > self.start {
            let Current { hostile, conflict, tab, content, .. } = std::mem::take(&mut self.current);
            let text = &self.text[self.start..end];
            let lines = line - self.first_line;
            self.chunks.push(Chunk {
                text,
                line: self.first_line,
                lines,
                hostile,
                conflict,
                tab,
                blank: !content,
            });
        }
        self.current = Current::default();
        self.start = end;
        self.first_line = line;
    }
}

/// Three characters, and then the end of the word.
fn ends_word(line: &[u8]) -> bool {
    matches!(line.get(3), None | Some(b' ' | b'\t' | b'\n' | b'\r'))
}

fn is_conflict(line: &[u8]) -> bool {
    [b"<<<<<<<".as_slice(), b">>>>>>>", b"|||||||"]
        .iter()
        .any(|marker| line.starts_with(marker) && matches!(line.get(7), None | Some(b' ' | b'\n' | b'\r')))
}

impl<'a> Chunk<'a> {
    /// Its first and last line in the file, from 1.
    pub(super) fn range(&self) -> (u32, u32) {
        (super::text::clamp(self.line + 1), super::text::clamp(self.line + self.lines.max(1)))
    }

    /// The template that Helm says it rendered: `# Source: chart/templates/route.yaml` above the first content.
    pub(super) fn rendered_from(&self) -> Option<&'a str> {
        let comments = self.text.lines().map(str::trim_start).skip_while(|line| line.starts_with("---"));
        let mut comments = comments.take_while(|line| line.is_empty() || line.starts_with('#'));
        let source = comments.find_map(|line| line.strip_prefix("# Source: "))?;
        Some(source.trim()).filter(|source| !source.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<(&str, usize, usize, bool)> {
        split(text).iter().map(|chunk| (chunk.text, chunk.line, chunk.lines, chunk.blank)).collect()
    }

    #[test]
    fn documents_are_cut_at_markers_and_nowhere_else() {
        assert_eq!(
            texts("a: 1\n---\nb: |\n  ---\n---x\n"),
            [("a: 1\n", 0, 1, false), ("---\nb: |\n  ---\n---x\n", 1, 4, false)]
        );
        assert_eq!(
            texts("--- a\r\n...\r\nb\r\n"),
            [("--- a\r\n", 0, 1, false), ("...\r\nb\r\n", 1, 2, false)]
        );
        assert_eq!(texts(""), []);
    }

    #[test]
    fn comments_and_directives_go_with_the_document_below() {
        assert_eq!(texts("# top\n%YAML 1.2\n---\na\n"), [("# top\n%YAML 1.2\n---\na\n", 0, 4, false)]);
        assert_eq!(texts("---\n# none\n---\na\n")[0], ("---\n# none\n", 0, 2, true));
    }

    #[test]
    fn helm_source_comments_are_found_above_the_content_only() {
        let chunks = split("---\n# Source: shop/templates/route.yaml\na: 1\n---\na: 1\n# Source: no\n");
        assert_eq!(chunks[0].rendered_from(), Some("shop/templates/route.yaml"));
        assert_eq!(chunks[1].rendered_from(), None);
    }

    #[test]
    fn hostile_characters_conflicts_and_tabs_are_placed() {
        let chunks = split("a: b\n---\nc: d\u{202e}\n<<<<<<< HEAD\n \tx\n");
        assert_eq!((chunks[0].hostile, chunks[0].conflict, chunks[0].tab), (None, None, None));
        assert_eq!((chunks[1].hostile, chunks[1].conflict, chunks[1].tab), (Some(8), Some(2), Some(3)));
        assert_eq!(split("a\rb")[0].hostile, Some(1));
        assert_eq!(split("a: é—\r\n")[0].hostile, None);
    }
}
