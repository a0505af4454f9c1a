//! JSON to trees, strictly by RFC 8259, with places. Several values may follow each other, as `kubectl` allows.

use super::budget::Budget;
use super::fault::{Fault, Faults};
use super::yaml::{Parsed, too_deep};
use moorgate_model::diagnostic::syntax::{JSON_INVALID, NUMBER_OUT_OF_RANGE, TOO_LARGE};
use moorgate_model::{Entry, Node, Position, Span, Value};

/// Parses all values of a text.
pub(super) fn parse(text: &str, budget: &mut Budget<'_>) -> Parsed {
    let mut reader =
        Reader { text, at: 0, mark: Mark::default(), depth: 0, budget, faults: Faults::default() };
    let mut roots = Vec::new();
    let failure = loop {
        reader.blanks();
        if reader.peek().is_none() {
            break None;
        }
        reader.budget.next_document();
        if roots.len() >= reader.budget.limits.documents_per_file {
            let message = format!("the file holds more than {} documents", roots.len());
            break Some(Box::new(Fault::new(&TOO_LARGE, reader.here(), message)));
        }
        match reader.value() {
            Ok(node) => roots.push(node),
            Err(failure) => break Some(failure),
        }
    };
    Parsed { roots, faults: reader.faults.into_vec(), failure: failure.map(|failure| *failure) }
}

/// A known place: positions are counted on from here, so that each byte is counted once.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: usize,
    position: Position,
}

impl Default for Mark {
    fn default() -> Self {
        Self { at: 0, position: Position { line: 1, column: 1 } }
    }
}

struct Reader<'a, 'b, 'c> {
    text: &'a str,
    at: usize,
    mark: Mark,
    depth: usize,
    budget: &'b mut Budget<'c>,
    faults: Faults,
}

type Failure = Box<Fault>;

impl Reader<'_, '_, '_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// The position of the next byte.
    fn position(&mut self) -> Position {
        let mut position = self.mark.position;
        for byte in &self.text.as_bytes()[self.mark.at..self.at] {
            if *byte == b'\n' {
                position = Position { line: position.line.saturating_add(1), column: 1 };
            } else if *byte & 0xc0 != 0x80 {
                // Bytes that continue a character do not count.
                position.column = position.column.saturating_add(1);
            }
        }
        self.mark = Mark { at: self.at, position };
        position
    }

    fn here(&mut self) -> Span {
        let start = self.position();
        Span { start, end: start }
    }

    fn fail<T>(&mut self, what: &str) -> Result<T, Failure> {
        Err(Box::new(Fault::new(&JSON_INVALID, self.here(), format!("not valid JSON: {what}"))))
    }

    fn since(&mut self, start: Position) -> Span {
        Span { start, end: self.position() }
    }

    fn value(&mut self) -> Result<Node, Failure> {
        let start = self.position();
        if let Err(spent) = self.budget.take(1) {
            return Err(Box::new(Fault::new(&TOO_LARGE, self.here(), spent.message())));
        }
        let value = match self.peek() {
            Some(b'{') => self.nested(Self::object)?,
            Some(b'[') => self.nested(Self::array)?,
            Some(b'"') => Value::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word("true", Value::Bool(true))?,
            Some(b'f') => self.word("false", Value::Bool(false))?,
            Some(b'n') => self.word("null", Value::Null)?,
            Some(_) => return self.fail("expected a value"),
            None => return self.fail("the text ends where a value should stand"),
        };
        Ok(Node::new(value, self.since(start)))
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Value, Failure>) -> Result<Value, Failure> {
        if self.depth >= self.budget.limits.depth {
            return Err(Box::new(too_deep(self.here(), self.budget.limits.depth)));
        }
        self.depth += 1;
        self.at += 1;
        self.blanks();
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn object(&mut self) -> Result<Value, Failure> {
        let mut entries = Vec::new();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Mapping(self.faults.mapping(entries)));
        }
        loop {
            let start = self.position();
            if self.peek() != Some(b'"') {
                return self.fail("expected a key in double quotes");
            }
            let key = self.string()?;
            let key_span = self.since(start);
            self.faults.check_key(&key, key_span);
            self.blanks();
            if self.peek() != Some(b':') {
                return self.fail("expected a colon behind the key");
            }
            self.at += 1;
            self.blanks();
            let value = self.value()?;
            entries.push(Entry { key, key_span, value });
            if !self.more(b'}', "expected a comma or a closing brace")? {
                return Ok(Value::Mapping(self.faults.mapping(entries)));
            }
        }
    }

    fn array(&mut self) -> Result<Value, Failure> {
        let mut items = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Sequence(items));
        }
        loop {
            items.push(self.value()?);
            if !self.more(b']', "expected a comma or a closing bracket")? {
                return Ok(Value::Sequence(items));
            }
        }
    }

    /// Behind an item: true if another follows, false if the collection ends.
    fn more(&mut self, close: u8, otherwise: &str) -> Result<bool, Failure> {
        self.blanks();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.blanks();
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            _ => self.fail(otherwise),
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, Failure> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return self.fail("expected a value");
        }
        self.at += word.len();
        Ok(value)
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }

    /// `-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?`
    fn number(&mut self) -> Result<Value, Failure> {
        let (start, position) = (self.at, self.position());
        let mut whole = true;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let zero = self.peek() == Some(b'0');
        let digits = self.digits();
        if digits == 0 || (zero && digits > 1) {
            return self.fail("not a number, or one with a leading zero");
        }
        if self.peek() == Some(b'.') {
            whole = false;
            self.at += 1;
            if self.digits() == 0 {
                return self.fail("expected a digit behind the point");
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            whole = false;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return self.fail("expected a digit in the exponent");
            }
        }
        let text = &self.text[start..self.at];
        if whole && let Ok(value) = text.parse() {
            return Ok(Value::Int(value));
        }
        let value: f64 = text.parse().unwrap_or(f64::INFINITY);
        if whole || !value.is_finite() {
            let span = self.since(position);
            let message = "this number does not fit into 64 bits, or is not finite";
            self.faults.push(Fault::new(&NUMBER_OUT_OF_RANGE, span, message).mild());
        }
        Ok(Value::Float(value))
    }

    fn string(&mut self) -> Result<Box<str>, Failure> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let start = self.at;
            while !matches!(self.peek(), None | Some(b'"' | b'\\' | 0..=0x1f)) {
                self.at += 1;
            }
            let run = &self.text[start..self.at];
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    // Most strings have no escape, and are copied once.
                    return Ok(if out.is_empty() { run.into() } else { (out + run).into_boxed_str() });
                }
                Some(b'\\') => {
                    out.push_str(run);
                    self.at += 1;
                    out.push(self.escape()?);
                }
                Some(_) => return self.fail("a control character in a string"),
                None => return self.fail("the string has no end"),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Failure> {
        let c = match self.peek() {
            Some(b'n') => '\n',
            Some(b't') => '\t',
            Some(b'r') => '\r',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return self.fail("an unknown escape"),
        };
        self.at += 1;
        Ok(c)
    }

    fn unicode(&mut self) -> Result<char, Failure> {
        let high = self.four_digits()?;
        let code = if (0xd800..0xdc00).contains(&high) && self.text.as_bytes()[self.at..].starts_with(b"\\u")
        {
            self.at += 2;
            let low = self.four_digits()?;
            if !(0xdc00..0xe000).contains(&low) {
                return self.fail("half of a surrogate pair");
            }
            0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)
        } else {
            high
        };
        match char::from_u32(code) {
            Some(c) => Ok(c),
            None => self.fail("half of a surrogate pair"),
        }
    }

    fn four_digits(&mut self) -> Result<u32, Failure> {
        let digits = self
            .text
            .get(self.at..self.at + 4)
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(code) = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()) else {
            return self.fail("expected four hexadecimal digits");
        };
        self.at += 4;
        Ok(code)
    }
}

/// The positions behind each of some values, for tests of places.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Limits;
    use moorgate_model::FieldPath;

    fn read(text: &str) -> Parsed {
        parse(text, &mut Budget::new(&Limits::DEFAULT))
    }

    #[test]
    fn values_keep_their_places_in_characters() {
        let parsed =
            read("{\n\t\"é\": [1, -2.5e1, \"a\\u00e9\\ud83d\\ude00\\n\"],\n \"x\": {}}\n{\"y\": null}");
        assert_eq!(parsed.failure, None);
        let json: Vec<String> =
            parsed.roots.iter().map(|root| serde_json::to_string(&root.to_json()).unwrap()).collect();
        assert_eq!(json, ["{\"é\":[1,-25.0,\"aé😀\\n\"],\"x\":{}}", "{\"y\":null}"]);
        let at = |path: &str| parsed.roots[0].locate(&FieldPath::parse(path)).start;
        assert_eq!(at("é[1]"), Position { line: 2, column: 11 });
        assert_eq!(at("x"), Position { line: 3, column: 2 });
        assert_eq!(parsed.roots[1].span.start, Position { line: 4, column: 1 });
    }

    #[test]
    fn what_is_not_json_is_refused_at_its_place() {
        for (text, line, column) in [
            ("{\"a\": 01}", 1, 9),
            ("{\"a\": NaN}", 1, 7),
            ("{\"a\": 1,}", 1, 9),
            ("{a: 1}", 1, 2),
            ("[1 2]", 1, 4),
            ("\"\\ud800x\"", 1, 8),
            ("\"a\nb\"", 1, 3),
            ("{\"a\":\n", 2, 1),
            ("[\"\\uD83D\\u0041\"]", 1, 15),
            ("// x", 1, 1),
            ("\"", 1, 2),
            ("[1.]", 1, 4),
        ] {
            let failure = read(text).failure.unwrap_or_else(|| panic!("{text} was read"));
            assert_eq!(
                (failure.code.id, failure.span.start),
                ("MG1002", Position { line, column }),
                "{text}"
            );
        }
    }
}
