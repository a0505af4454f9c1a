//! Paths as most backends read them, for what decides by a path.

/// What stands behind a path and changes nothing about what is served: parameters of its last segment, which many servers take
/// off (RFC 3986, section 3.3), a query, a fragment. As in Envoy Gateway. Any bytes: a dot would stop at such as are no UTF-8,
/// which Envoy lets pass in a query.
const BEHIND: &str = r"([;?#]\C*)?";

/// What may stand behind a path that an expression of somebody's fits.
pub(crate) const QUERY: &str = r"(\?\C*)?";

/// An expression that fits this path (RE2, over Envoy's `:path`).
pub(crate) fn exact(path: &str) -> String {
    format!("{}{BEHIND}", literal(path))
}

/// An expression that fits this path and whatever is below it, by whole segments.
pub(crate) fn below(prefix: &str) -> String {
    format!(r"{}([/;?#]\C*)?", literal(prefix.trim_end_matches('/')))
}

/// An expression that fits this text only (RE2).
pub(crate) fn literal(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        if letter.is_ascii_punctuation() {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_stand_for_themselves() {
        assert_eq!(literal("/a.b/c-d_1"), r"\/a\.b\/c\-d\_1");
    }

    #[test]
    fn whatever_servers_take_off_may_stand_behind() {
        assert_eq!(exact("/a/"), r"\/a\/([;?#]\C*)?");
        for prefix in ["/a", "/a/"] {
            assert_eq!(below(prefix), r"\/a([/;?#]\C*)?");
        }
        assert_eq!(below("/"), r"([/;?#]\C*)?");
    }
}
