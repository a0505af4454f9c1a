//! Regular expressions as Go's RE2 reads them, for the `regex` crate.
//!
//! Both know the same syntax where schemas use it, with one difference in meaning: `\d`, `\w`, `\s` and `\b` are about
//! ASCII in RE2, and about all of Unicode in `regex`.

use regex::Regex;

/// Compiles an expression.
///
/// # Errors
/// It is not one, or compiles to something too large.
pub(crate) fn compile(text: &str) -> Result<Regex, regex::Error> {
    Regex::new(&ascii_classes(text))
}

/// The expression with its classes spelt out.
fn ascii_classes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars();
    let mut in_class = false;
    while let Some(letter) = letters.next() {
        match letter {
            '[' => in_class = true,
            ']' => in_class = false,
            '\\' => {
                let Some(next) = letters.next() else {
                    out.push('\\');
                    break;
                };
                match (next, in_class) {
                    ('d', _) => out.push_str("[0-9]"),
                    ('w', _) => out.push_str("[0-9A-Za-z_]"),
                    ('s', _) => out.push_str("[\\t\\n\\f\\r ]"),
                    ('D', _) => out.push_str("[^0-9]"),
                    ('W', _) => out.push_str("[^0-9A-Za-z_]"),
                    ('S', _) => out.push_str("[^\\t\\n\\f\\r ]"),
                    ('b', false) => out.push_str("(?-u:\\b)"),
                    _ => out.extend(['\\', next]),
                }
                continue;
            }
            _ => {}
        }
        out.push(letter);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::compile;

    #[test]
    fn classes_are_ascii() {
        for (pattern, text, matches) in [
            (r"^\d+$", "12", true),
            (r"^\d+$", "\u{661}", false),
            (r"^[\d.]+$", "1.2", true),
            (r"^[\d.]+$", "\u{661}", false),
            (r"^\w+$", "aZ_9", true),
            (r"^\w+$", "\u{e9}", false),
            (r"^[^\s]+$", "a\u{a0}b", true),
            (r"^\S+$", "a b", false),
            (r"^\W$", "\u{e9}", true),
            (r"^a\\d$", r"a\d", true),
            (r"^[\]x]+$", "]x", true),
            (r"\bfoo\b", "a foo.", true),
        ] {
            assert_eq!(compile(pattern).unwrap().is_match(text), matches, "{pattern} on {text}");
        }
    }
}
