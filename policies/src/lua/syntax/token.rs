//! The words and signs of a script.

use super::Mistake;
use std::fmt;

/// What a script consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'t> {
    Name(&'t str),
    /// A word that is no name.
    Word(&'t str),
    Sign(&'static str),
    Number,
    Text,
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(text) | Self::Word(text) | Self::Sign(text) => write!(f, "{text:?}"),
            Self::Number => f.write_str("a number"),
            Self::Text => f.write_str("a text"),
            Self::End => f.write_str("the end"),
        }
    }
}

const WORDS: [&str; 22] = [
    "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in", "local",
    "nil", "not", "or", "repeat", "return", "then", "true", "until", "while",
];
/// Longer ones before those that they begin with.
const SIGNS: [&str; 27] = [
    "...", "..", "::", "==", "~=", "<=", ">=", "+", "-", "*", "/", "%", "^", "#", "<", ">", "=", "(", ")",
    "{", "}", "[", "]", ";", ":", ",", ".",
];

/// Cuts a text into tokens.
pub(super) struct Lexer<'t> {
    rest: &'t str,
    /// The line of the last token.
    pub(super) line: u32,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        // A first line that begins with this is for the shell.
        let first = text.find('\n').unwrap_or(text.len());
        let skip = if text.starts_with('#') { first } else { 0 };
        Self { rest: text.get(skip..).unwrap_or_default(), line: 1 }
    }

    fn mistake<T>(&self, why: &str) -> Result<T, Mistake> {
        Err((self.line, why.to_owned()))
    }

    fn advance(&mut self, bytes: usize) -> &'t str {
        let (before, after) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.rest = after;
        let lines = before.bytes().filter(|byte| *byte == b'\n').count();
        self.line = self.line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
        before
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    pub(super) fn token(&mut self) -> Result<Token<'t>, Mistake> {
        self.blank()?;
        let Some(first) = self.peek() else { return Ok(Token::End) };
        if first.is_ascii_alphabetic() || first == '_' {
            let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let word = self.advance(end.unwrap_or(self.rest.len()));
            return Ok(if WORDS.contains(&word) { Token::Word(word) } else { Token::Name(word) });
        }
        let digit = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
        if digit(self.rest) || self.rest.strip_prefix('.').is_some_and(digit) {
            return self.number();
        }
        match first {
            '"' | '\'' => self.text(first),
            '[' if self.bracket().is_some() => self.long("text"),
            _ => match SIGNS.iter().find(|sign| self.rest.starts_with(**sign)) {
                Some(sign) => {
                    self.advance(sign.len());
                    Ok(Token::Sign(sign))
                }
                None => self.mistake(&format!("{first:?} is no sign of the language")),
            },
        }
    }

    /// Blanks and comments.
    fn blank(&mut self) -> Result<(), Mistake> {
        loop {
            let blanks =
                self.rest.find(|c: char| !" \t\r\n\u{b}\u{c}".contains(c)).unwrap_or(self.rest.len());
            self.advance(blanks);
            if !self.rest.starts_with("--") {
                return Ok(());
            }
            self.advance(2);
            if self.bracket().is_some() {
                self.long("comment")?;
            } else {
                let end = self.rest.find('\n').unwrap_or(self.rest.len());
                self.advance(end);
            }
        }
    }

    /// How many equals signs a long bracket has that begins here, if one does.
    fn bracket(&self) -> Option<usize> {
        let inside = self.rest.strip_prefix('[')?;
        let level = inside.bytes().take_while(|byte| *byte == b'=').count();
        inside.get(level..)?.starts_with('[').then_some(level)
    }

    fn long(&mut self, what: &str) -> Result<Token<'t>, Mistake> {
        let begun = self.line;
        let level = self.bracket().unwrap_or(0);
        let end = format!("]{}]", "=".repeat(level));
        self.advance(level + 2);
        if let Some(at) = self.rest.find(&end) {
            self.advance(at + end.len());
            return Ok(Token::Text);
        }
        self.advance(self.rest.len());
        let line = if what == "text" { begun } else { self.line };
        Err((line, format!("the {what} that begins on line {begun} has no end")))
    }

    fn text(&mut self, quote: char) -> Result<Token<'t>, Mistake> {
        self.advance(1);
        loop {
            let Some(next) = self.peek() else { return self.mistake("a text has no end") };
            match next {
                '\n' | '\r' => return self.mistake("a text ends on its line"),
                '\\' => self.escape()?,
                _ => {
                    self.advance(next.len_utf8());
                    if next == quote {
                        return Ok(Token::Text);
                    }
                }
            }
        }
    }

    fn escape(&mut self) -> Result<(), Mistake> {
        self.advance(1);
        let Some(next) = self.peek() else { return self.mistake("a text has no end") };
        let digits = |text: &str, most: usize, hex: bool| {
            let fits = |byte: &u8| if hex { byte.is_ascii_hexdigit() } else { byte.is_ascii_digit() };
            text.bytes().take(most).take_while(fits).count()
        };
        match next {
            'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\' | '"' | '\'' | '\n' => {
                self.advance(1);
            }
            '\r' => {
                self.advance(if self.rest.starts_with("\r\n") { 2 } else { 1 });
            }
            'z' => {
                self.advance(1);
                let blanks = self.rest.find(|c: char| !c.is_ascii_whitespace()).unwrap_or(self.rest.len());
                self.advance(blanks);
            }
            'x' => {
                self.advance(1);
                if digits(self.rest, 2, true) != 2 {
                    return self.mistake("\\x has two digits");
                }
                self.advance(2);
            }
            'u' => {
                let end = self.rest.find('}');
                let inside = end.and_then(|end| self.rest.get(1..end)?.strip_prefix('{'));
                let number = inside.and_then(|digits| u32::from_str_radix(digits, 16).ok());
                if number.and_then(char::from_u32).is_none() {
                    return self.mistake("\\u{…} is no character");
                }
                self.advance(end.unwrap_or(0) + 1);
            }
            '0'..='9' => {
                let count = digits(self.rest, 3, false);
                if self.advance(count).parse::<u8>().is_err() {
                    return self.mistake("a byte is 255 at most");
                }
            }
            _ => return self.mistake("there is no such escape"),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Token<'t>, Mistake> {
        let hex = self.rest.starts_with("0x") || self.rest.starts_with("0X");
        let mut before = ' ';
        let end = self.rest.find(|c: char| {
            let exponent = if hex { 'p' } else { 'e' };
            let sign = "+-".contains(c) && before.eq_ignore_ascii_case(&exponent);
            before = c;
            !(c.is_ascii_alphanumeric() || c == '.' || c == '_' || sign)
        });
        let text = self.advance(end.unwrap_or(self.rest.len())).to_ascii_lowercase();
        let plain = ["ull", "ll", "i"].iter().find_map(|end| text.strip_suffix(end)).unwrap_or(&text);
        let good = if hex { hexadecimal(plain) } else { plain.parse::<f64>().is_ok() };
        if good { Ok(Token::Number) } else { self.mistake(&format!("{text:?} is no number")) }
    }
}

fn hexadecimal(text: &str) -> bool {
    let digits = text.strip_prefix("0x").unwrap_or_default();
    let (digits, exponent) = digits.split_once('p').map_or((digits, None), |(a, b)| (a, Some(b)));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let some = !whole.is_empty() || !part.is_empty();
    some && hex(whole) && hex(part) && exponent.is_none_or(|exponent| exponent.parse::<i32>().is_ok())
}
