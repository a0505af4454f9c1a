//! Path rewrites, of forwarded requests and in redirects.

use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};
use moorgate_model::ir::{PathMatch, PathRewrite};

/// What Envoy offers: a new text for the matched prefix, or a substitution.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Rewrite {
    /// The path stays.
    Nothing,
    /// `prefix_rewrite`.
    Prefix(String),
    /// `regex_rewrite`: pattern and replacement.
    Regex(String, String),
    /// The whole path; the query stays.
    Whole(String),
}

/// Gateway API `ReplacePrefixMatch` works on whole segments, and a trailing slash of prefix or replacement does not
/// count: with prefix `/foo`, `/xyz/` turns `/foo/bar` into `/xyz/bar` and `/foo` into `/xyz`; `/` turns them into
/// `/bar` and `/`. Envoy replaces characters, so an empty replacement needs a substitution that eats the slash.
pub(super) fn lower(path: &PathMatch, rewrite: &PathRewrite) -> Rewrite {
    let replacement = match rewrite {
        PathRewrite::Full(path) => return Rewrite::Whole(rooted(path)),
        PathRewrite::Prefix(replacement) => replacement.trim_end_matches('/'),
    };
    // The API allows a prefix replacement on prefix matches only; elsewhere the match is the whole path.
    let PathMatch::Prefix(prefix) = path else { return Rewrite::Whole(rooted(replacement)) };
    match (prefix.trim_end_matches('/'), replacement) {
        ("", "") => Rewrite::Nothing,
        // The match is `/` itself, so the slash behind the replacement has to be put back.
        ("", replacement) => Rewrite::Prefix(rooted(replacement) + "/"),
        (prefix, "") => Rewrite::Regex(format!("^{}(/|$)", quote(prefix)), "/".into()),
        (_, replacement) => Rewrite::Prefix(rooted(replacement)),
    }
}

/// The substitution for Envoy's `regex_rewrite`, which has no field for a whole path. `\C` is any byte: a path may
/// hold bytes that are not UTF-8.
pub(super) fn substitution(rewrite: Rewrite) -> Option<RegexMatchAndSubstitute> {
    let (pattern, text) = match rewrite {
        Rewrite::Regex(pattern, text) => (pattern, text),
        Rewrite::Whole(path) => (r"^/\C*$".into(), path),
        Rewrite::Nothing | Rewrite::Prefix(_) => return None,
    };
    Some(RegexMatchAndSubstitute {
        pattern: Some(RegexMatcher { regex: pattern, engine_type: None }),
        // `\1` would be a group.
        substitution: text.replace('\\', r"\\"),
    })
}

fn rooted(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Text as an RE2 pattern that matches it.
pub(super) fn quote(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_ascii() && !c.is_ascii_alphanumeric() && c != '_' && c != '/' && c != '-' {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex::bytes::Regex;

    /// What Envoy makes of a path.
    fn apply(prefix: &str, rewrite: &PathRewrite, path: &str) -> String {
        // The route's own match: `prefix: "/"` for any path, else the prefix by segments.
        let matched = if prefix.is_empty() { "/" } else { prefix };
        let path_match = PathMatch::Prefix(prefix.into());
        match lower(&path_match, rewrite) {
            Rewrite::Nothing => path.to_owned(),
            Rewrite::Prefix(text) => text + &path[matched.len()..],
            rewrite @ (Rewrite::Regex(..) | Rewrite::Whole(_)) => {
                let regex = substitution(rewrite).unwrap();
                let pattern = regex.pattern.unwrap().regex.replace(r"\C", r"(?s-u:.)");
                let replaced =
                    Regex::new(&pattern).unwrap().replace_all(path.as_bytes(), regex.substitution.as_bytes());
                String::from_utf8(replaced.into_owned()).unwrap()
            }
        }
    }

    #[test]
    fn prefixes_are_replaced_as_the_api_says() {
        let table = [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo", "/foo", "/xyz/", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/bar", "/foo", "/", "/bar"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/a.b/c", "/a.b", "/", "/c"),
            ("/bar", "", "/xyz", "/xyz/bar"),
            ("/", "", "/xyz", "/xyz/"),
            ("/bar", "", "/", "/bar"),
            ("/bar", "", "xyz", "/xyz/bar"),
        ];
        for (path, prefix, replacement, expected) in table {
            let rewrite = PathRewrite::Prefix(replacement.into());
            assert_eq!(apply(prefix, &rewrite, path), expected, "{path} {prefix} {replacement}");
        }
    }

    #[test]
    fn a_whole_path_is_replaced_once() {
        for path in ["/", "/foo", "/foo/bar/"] {
            assert_eq!(apply("/foo", &PathRewrite::Full("/one".into()), path), "/one");
        }
        let substitution = substitution(Rewrite::Whole(r"/a\1".into())).unwrap();
        assert_eq!(substitution.substitution, r"/a\\1");
    }

    #[test]
    fn quoted_text_matches_itself_only() {
        let text = "/a.b+c(d)[e]{f}|g^h$i\\j~k";
        let regex = Regex::new(&format!("^{}$", quote(text).replace("\\~", "~"))).unwrap();
        assert!(regex.is_match(text.as_bytes()));
        assert!(!regex.is_match(b"/aXb+c(d)[e]{f}|g^h$i\\j~k"));
    }
}
