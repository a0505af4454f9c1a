//! YAML events to trees.
//!
//! The composer is a loop with a stack of its own, so that nesting costs no stack, and counts each value before it
//! builds it.

use super::budget::{Budget, Spent, Weight};
use super::document::Chunk;
use super::fault::{Fault, Faults};
use super::scalar::{Scalar, resolve};
use super::text::{clamp, shown};
use moorgate_model::diagnostic::syntax::{
    AMBIGUOUS_NUMBER, NUMBER_OUT_OF_RANGE, TOO_DEEP, TOO_LARGE, UNSUPPORTED_YAML, YAML_INVALID,
};
use moorgate_model::{Entry, Node, Position, Span, Value};
use saphyr_parser::{BufferedInput, Event, Marker, Parser, ScalarStyle, ScanError, Tag};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::Chars;

/// What a document gave.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    /// The trees; one, unless the parser saw documents where the cut saw none.
    pub(super) roots: Vec<Node>,
    /// What is wrong with them.
    pub(super) faults: Vec<Fault>,
    /// Why the rest could not be read.
    pub(super) failure: Option<Fault>,
}

/// Parses the documents of one chunk.
pub(super) fn parse(chunk: &Chunk<'_>, budget: &mut Budget<'_>) -> Parsed {
    if let Some(failure) = too_much_flow(chunk) {
        return Parsed { failure: Some(failure), ..Parsed::default() };
    }
    let parser = Parser::new_from_iter(chunk.text.chars());
    let mut composer = Composer {
        budget,
        first_line: chunk.line,
        frames: Vec::new(),
        nodes: Vec::new(),
        entries: Vec::new(),
        anchors: BTreeMap::new(),
        faults: Faults::default(),
        roots: Vec::new(),
        last_end: Position::default(),
    };
    let failure = composer.run(parser).err().map(|failure| *failure);
    let failure = failure.map(|failure| blame_tab(within(failure, chunk), chunk));
    Parsed { roots: composer.roots, faults: composer.faults.into_vec(), failure }
}

/// The parser reads a flow collection to its end before it says anything, so its size is bounded beforehand.
fn too_much_flow(chunk: &Chunk<'_>) -> Option<Fault> {
    const MOST: usize = 2_000_000;
    if chunk.text.len() <= MOST {
        return None;
    }
    let marks = chunk.text.bytes().filter(|byte| matches!(byte, b'[' | b']' | b'{' | b'}' | b',')).count();
    let message = format!("the document holds more than {MOST} brackets and commas");
    (marks > MOST)
        .then(|| Fault::new(&TOO_LARGE, start_of(chunk), message).help("write large documents as JSON"))
}

/// The first character of a chunk.
pub(super) fn start_of(chunk: &Chunk<'_>) -> Span {
    let start = Position { line: clamp(chunk.line + 1), column: 1 };
    Span { start, end: start }
}

/// What is missing at the end of a document is missed on its last line, not on the first of the next one.
fn within(mut failure: Fault, chunk: &Chunk<'_>) -> Fault {
    let (_, last) = chunk.range();
    if failure.span.start.line > last {
        let text = chunk.text.trim_end_matches(['\n', '\r']);
        let column = clamp(text.rsplit('\n').next().unwrap_or_default().chars().count() + 1);
        let blank = chunk.text.len() - text.len() > 2;
        let start = Position { line: last, column: if blank { 1 } else { column } };
        failure.span = Span { start, end: start };
    }
    failure
}

/// A tab in the indentation is the likely cause of what the parser stumbled over.
fn blame_tab(failure: Fault, chunk: &Chunk<'_>) -> Fault {
    let Some(line) = chunk.tab.map(|line| clamp(chunk.line + line + 1)) else { return failure };
    if failure.code != &YAML_INVALID || line > failure.span.start.line.saturating_add(1) {
        return failure;
    }
    let start = Position { line, column: 1 };
    let message = "not valid YAML: a tab stands in the indentation";
    Fault::new(&YAML_INVALID, Span { start, end: start }, message).help("indent with spaces")
}

type Failure = Box<Fault>;
type Tagged<'a> = Option<Cow<'a, Tag>>;

struct Composer<'a, 'b> {
    budget: &'a mut Budget<'b>,
    first_line: usize,
    frames: Vec<Frame>,
    /// Items of all open sequences, innermost last: one allocation a sequence, of the right size.
    nodes: Vec<Node>,
    /// Fields of all open mappings, innermost last.
    entries: Vec<Entry>,
    anchors: BTreeMap<usize, (Node, Weight)>,
    faults: Faults,
    roots: Vec<Node>,
    /// Where the last value ended: a block ends there too, not where the next one starts.
    last_end: Position,
}

/// An open collection.
struct Frame {
    start: Position,
    anchor: usize,
    kind: Kind,
}

enum Kind {
    Sequence {
        /// Where its items start in `nodes`.
        first: usize,
    },
    Mapping {
        /// Where its fields start in `entries`.
        first: usize,
        /// The key that waits for its value.
        key: Option<(Box<str>, Span)>,
    },
}

impl Composer<'_, '_> {
    fn run(&mut self, mut parser: Parser<'_, BufferedInput<Chars<'_>>>) -> Result<(), Failure> {
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| Box::new(self.scan_error(&error)))?;
            let span = Span { start: self.position(span.start), end: self.position(span.end) };
            match event {
                Event::Scalar(text, style, anchor, tag) => self.scalar(&text, style, anchor, tag, span)?,
                Event::SequenceStart(anchor, tag) => {
                    let first = self.nodes.len();
                    self.open(Kind::Sequence { first }, anchor, span)?;
                    self.check_tag(tag, "seq", span);
                }
                Event::MappingStart(anchor, tag) => {
                    let first = self.entries.len();
                    self.open(Kind::Mapping { first, key: None }, anchor, span)?;
                    self.check_tag(tag, "map", span);
                }
                Event::SequenceEnd | Event::MappingEnd => self.close(span)?,
                Event::Alias(id) => self.alias(id, span)?,
                Event::DocumentEnd => {
                    self.anchors.clear();
                    self.budget.next_document();
                }
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) => {}
            }
        }
        Ok(())
    }

    fn position(&self, marker: Marker) -> Position {
        Position { line: clamp(self.first_line + marker.line()), column: clamp(marker.col() + 1) }
    }

    fn scan_error(&self, error: &ScanError) -> Fault {
        let start = self.position(*error.marker());
        let span = Span { start, end: start };
        match error.info() {
            "recursion limit exceeded" => too_deep(span, 255),
            info => Fault::new(&YAML_INVALID, span, format!("not valid YAML: {info}")),
        }
    }

    /// True where the next scalar is a key.
    fn wants_key(&self) -> bool {
        matches!(self.frames.last(), Some(Frame { kind: Kind::Mapping { key: None, .. }, .. }))
    }

    fn open(&mut self, kind: Kind, anchor: usize, span: Span) -> Result<(), Failure> {
        if self.wants_key() {
            return Err(Box::new(key_not_text(span)));
        }
        if self.frames.len() >= self.budget.limits.depth {
            return Err(Box::new(too_deep(span, self.budget.limits.depth)));
        }
        self.budget.take(1).map_err(|spent| Box::new(too_large(span, spent)))?;
        self.last_end = span.start;
        self.frames.push(Frame { start: span.start, anchor, kind });
        Ok(())
    }

    fn close(&mut self, span: Span) -> Result<(), Failure> {
        let Some(frame) = self.frames.pop() else { return Ok(()) };
        if span.start != span.end {
            // A bracket ends here; the parser's span goes on over the blanks that follow.
            self.last_end = Position { column: span.start.column.saturating_add(1), ..span.start };
        }
        let span = Span { start: frame.start, end: self.last_end.max(frame.start) };
        let value = match frame.kind {
            Kind::Sequence { first } => Value::Sequence(self.nodes.split_off(first)),
            Kind::Mapping { first, .. } => {
                let entries = self.entries.split_off(first);
                Value::Mapping(self.faults.mapping(entries))
            }
        };
        self.place(Node::new(value, span), frame.anchor)
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Tagged<'_>,
        span: Span,
    ) -> Result<(), Failure> {
        self.budget.take(1).map_err(|spent| Box::new(too_large(span, spent)))?;
        let plain = style == ScalarStyle::Plain && tag.is_none();
        if let Some(Frame { kind: Kind::Mapping { key: key @ None, .. }, .. }) = self.frames.last_mut() {
            if anchor != 0 {
                return Err(Box::new(key_not_text(span)));
            }
            if plain {
                check_plain_key(&mut self.faults, text, span);
            }
            self.faults.check_key(text, span);
            *key = Some((Box::from(text), span));
            self.last_end = span.end;
            self.check_tag(tag, "str", span);
            return Ok(());
        }
        let mut span = span;
        if text.is_empty() && plain {
            // Nothing is written: it stands behind its key, not where the next token starts.
            span = Span { start: self.last_end, end: self.last_end };
        }
        self.last_end = span.end;
        self.check_tag(tag, "str", span);
        let value = if plain { self.plain(text, span) } else { Value::String(Box::from(text)) };
        self.place(Node::new(value, span), anchor)
    }

    fn plain(&mut self, text: &str, span: Span) -> Value {
        match resolve(text) {
            Scalar::Text => Value::String(text.into()),
            Scalar::Null => Value::Null,
            Scalar::Bool(value) => Value::Bool(value),
            Scalar::Int(value) => Value::Int(value),
            Scalar::Float(value) => Value::Float(value),
            Scalar::Ambiguous(value) => {
                let message = "this number is read differently by different parsers";
                let fault = Fault::new(&AMBIGUOUS_NUMBER, span, message);
                self.faults
                    .push(fault.mild().help("write a plain decimal number, or quote it if it is text"));
                Value::Float(value)
            }
            Scalar::OutOfRange(value) => {
                let message = "this number does not fit into 64 bits, or is not finite";
                let fault = Fault::new(&NUMBER_OUT_OF_RANGE, span, message);
                self.faults.push(fault.mild().help("quote it if it is text"));
                Value::Float(value)
            }
        }
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<(), Failure> {
        if self.wants_key() {
            return Err(Box::new(key_not_text(span)));
        }
        let Some((node, weight)) = self.anchors.get(&id) else {
            let message = "not valid YAML: an alias stands inside of what it stands for";
            return Err(Box::new(Fault::new(&YAML_INVALID, span, message)));
        };
        if self.frames.len() + weight.depth > self.budget.limits.depth {
            return Err(Box::new(too_deep(span, self.budget.limits.depth)));
        }
        self.budget.take_copy(*weight).map_err(|spent| Box::new(too_large(span, spent)))?;
        let node = node.clone();
        self.last_end = span.end;
        self.place(node, 0)
    }

    /// Puts a value into the open collection, and remembers it if it has an anchor.
    fn place(&mut self, node: Node, anchor: usize) -> Result<(), Failure> {
        if anchor != 0 {
            let weight = Weight::of(&node);
            self.budget.take_copy(weight).map_err(|spent| Box::new(too_large(node.span, spent)))?;
            self.anchors.insert(anchor, (node.clone(), weight));
        }
        match self.frames.last_mut().map(|frame| &mut frame.kind) {
            None => self.roots.push(node),
            Some(Kind::Sequence { .. }) => self.nodes.push(node),
            Some(Kind::Mapping { key, .. }) => {
                if let Some((key, key_span)) = key.take() {
                    self.entries.push(Entry { key, key_span, value: node });
                }
            }
        }
        Ok(())
    }

    /// Tags that say what is the case anyway pass; all others would change the value.
    fn check_tag(&mut self, tag: Tagged<'_>, allowed: &str, span: Span) {
        let Some(tag) = tag else { return };
        let core = tag.is_yaml_core_schema();
        if (core && tag.suffix == allowed) || (tag.handle.is_empty() && tag.suffix == "!") {
            return;
        }
        let name = if core { format!("!!{}", tag.suffix) } else { format!("{}{}", tag.handle, tag.suffix) };
        let message = format!("the tag {:?} is not supported", shown(&name));
        self.faults.push(Fault::new(&UNSUPPORTED_YAML, span, message).mild());
    }
}

/// Unquoted keys that YAML does not read as text.
fn check_plain_key(faults: &mut Faults, text: &str, span: Span) {
    if text == "<<" {
        let fault = Fault::new(&UNSUPPORTED_YAML, span, "merge keys (<<) are not supported");
        faults.push(fault.mild().help("write the fields out"));
    } else if resolve(text) != Scalar::Text {
        let message = format!("the key {:?} is not text", shown(text));
        faults.push(Fault::new(&UNSUPPORTED_YAML, span, message).mild().help("quote it"));
    }
}

fn key_not_text(span: Span) -> Fault {
    Fault::new(&UNSUPPORTED_YAML, span, "a key is not plain text").help("write keys as plain or quoted text")
}

/// The fault of a document that is nested too deeply.
pub(super) fn too_deep(span: Span, most: usize) -> Fault {
    Fault::new(&TOO_DEEP, span, format!("more than {most} collections are nested"))
}

fn too_large(span: Span, spent: Spent) -> Fault {
    Fault::new(&TOO_LARGE, span, spent.message())
}
