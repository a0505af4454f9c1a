//! Rules of a path match.

use super::{NativeRule, is, string};
use moorgate_model::Node;

/// The path if it is matched literally, which is when its form matters.
fn literal(path: &Node) -> Option<&str> {
    matches!(string(path, "type"), Some("Exact" | "PathPrefix"))
        .then(|| string(path, "value").unwrap_or_default())
}

/// A rule about the text of a literal path.
macro_rules! literal {
    ($test:literal, $holds:expr) => {
        (concat!("(self.type in ['Exact','PathPrefix']) ? ", $test, " : true"), |path| {
            let holds: fn(&str) -> bool = $holds;
            literal(path).is_none_or(holds)
        })
    };
}

/// Whether every character may stand in a path, percent signs only before two hexadecimal digits.
fn path_characters(path: &str) -> bool {
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let fine = match byte {
            b'%' => bytes.by_ref().take(2).filter(u8::is_ascii_hexdigit).count() == 2,
            _ => byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&byte),
        };
        if !fine {
            return false;
        }
    }
    !path.is_empty()
}

/// All of them.
pub(super) const RULES: &[&[(&str, NativeRule)]] = &[&[
    literal!("self.value.startsWith('/')", |path| path.starts_with('/')),
    literal!("!self.value.contains('//')", |path| !path.contains("//")),
    literal!("!self.value.contains('/./')", |path| !path.contains("/./")),
    literal!("!self.value.contains('/../')", |path| !path.contains("/../")),
    literal!("!self.value.contains('%2f')", |path| !path.contains("%2f")),
    literal!("!self.value.contains('%2F')", |path| !path.contains("%2F")),
    literal!("!self.value.contains('#')", |path| !path.contains('#')),
    literal!("!self.value.endsWith('/..')", |path| !path.ends_with("/..")),
    literal!("!self.value.endsWith('/.')", |path| !path.ends_with("/.")),
    literal!(
        r#"self.value.matches(r"""^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$""")"#,
        path_characters
    ),
    ("self.type in ['Exact','PathPrefix'] || self.type == 'RegularExpression'", |path| {
        literal(path).is_some() || is(path, "type", "RegularExpression")
    }),
]];
