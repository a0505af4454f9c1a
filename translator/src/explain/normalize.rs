//! Paths as Envoy sees them before it looks at routes.
//!
//! Unless a policy says otherwise ([`Reading`]), the connection managers that `xds` makes unescape `%2F` and `%5C` by a redirect, normalise by RFC 3986 and
//! merge slashes. What decides access must decide on the path that the backend will see.

use super::{Reading, Slashes};
use std::fmt::Write as _;

/// A path after normalisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Normalized {
    /// The path to match, with its query as sent.
    Path(String),
    /// It held an escaped slash: 307 to the unescaped path.
    Redirect,
    /// It is no path: 400.
    Reject,
}

/// Normalises a path with its query.
///
/// In Envoy's order: what is no HTTP at all; escaped slashes; parameters of dot segments (`/..;x/`, from Envoy 1.39 on:
/// 1.38 leaves them as they are); escapes; dot segments; slashes in a row.
pub fn normalize(sent: &str, reading: Reading) -> Normalized {
    if !sent.starts_with('/') || sent.contains('#') || !sent.bytes().all(|byte| (0x21..0x7f).contains(&byte))
    {
        return Normalized::Reject;
    }
    let (path, query) = sent.split_once('?').map_or((sent, None), |(path, query)| (path, Some(query)));
    let mut unescaped = unescape_slashes(path);
    let escaped = unescaped != path;
    if reading.escaped == Slashes::Keep {
        path.clone_into(&mut unescaped);
    }
    let path = without_parameters(&unescaped);
    if path.contains("%00") {
        return Normalized::Reject;
    }
    match reading.escaped {
        Slashes::Redirect if escaped => return Normalized::Redirect,
        Slashes::Reject if escaped => return Normalized::Reject,
        _ => {}
    }
    let path = resolve(&canonical(&path.replace('\\', "/")));
    let path = if reading.merge { merge_slashes(&path) } else { path };
    Normalized::Path(query.map_or(path.clone(), |query| format!("{path}?{query}")))
}

fn unescape_slashes(path: &str) -> String {
    let path = path.replace("%2F", "/").replace("%2f", "/");
    path.replace("%5C", "\\").replace("%5c", "\\")
}

/// Some backends take `/..;x/` for `/../`.
fn without_parameters(path: &str) -> String {
    let segment = |segment| match segment {
        text if str::starts_with(text, ".;") => ".",
        text if str::starts_with(text, "..;") => "..",
        text => text,
    };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

/// Resolves `.` and `..`; above the root is the root.
fn resolve(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut rest = path.split('/').skip(1).peekable();
    while let Some(segment) = rest.next() {
        if segment == ".." {
            segments.pop();
        }
        if !matches!(segment, "." | "..") {
            segments.push(segment);
        } else if rest.peek().is_none() {
            segments.push("");
        }
    }
    format!("/{}", segments.join("/"))
}

/// Envoy's way: a path of nothing but slashes keeps two of them, and so is not `/`.
fn merge_slashes(path: &str) -> String {
    if !path.contains("//") {
        return path.to_owned();
    }
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    format!("/{}{}", segments.join("/"), if path.ends_with('/') { "/" } else { "" })
}

/// Letters, digits and `-._~` are the same with and without escape (RFC 3986 §2.3); what a URL may not hold is escaped.
fn canonical(path: &str) -> String {
    let path = unescape_unreserved(path);
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if matches!(c, '"' | '<' | '>' | '^' | '`' | '{' | '|' | '}') {
            let _ = write!(out, "%{:02X}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

fn unescape_unreserved(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(position) = rest.find('%') {
        out.push_str(&rest[..position]);
        let escape = rest.get(position..position + 3);
        let byte = escape.and_then(|escape| u8::from_str_radix(&escape[1..], 16).ok());
        match (escape, byte) {
            (Some(_), Some(byte)) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                out.push(byte.into());
            }
            (Some(escape), _) => out.push_str(escape),
            (None, _) => {
                out.push_str(&rest[position..]);
                return out;
            }
        }
        rest = &rest[position + 3..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let cases = [
            ("/", "/"),
            ("/a/b?c=/../d", "/a/b?c=/../d"),
            ("/a//b///c", "/a/b/c"),
            ("/a/./b/../c", "/a/c"),
            ("/a/..", "/"),
            ("/../../a", "/a"),
            ("/a/.", "/a/"),
            ("/%61%2e%2E/b", "/a../b"),
            ("/a/%2e%2e/b", "/b"),
            ("/a\\b", "/a/b"),
            ("/a%20b", "/a%20b"),
            ("/a%", "/a%"),
            ("/a%zz", "/a%zz"),
            ("//", "//"),
            ("///?b", "//?b"),
            ("/a//..", "/a/"),
            ("/a/..//b", "/b"),
            ("/..", "/"),
            ("/\"<>^`{|}", "/%22%3C%3E%5E%60%7B%7C%7D"),
            ("/[a]'(b)!*,$&=@:+;", "/[a]'(b)!*,$&=@:+;"),
            ("/~%7e%2d%5F%e4", "/~~-_%e4"),
            ("/a/b/..;x=1/c", "/a/c"),
            ("/a/b/.;/c", "/a/b/c"),
            ("/a/..;", "/"),
            ("/a/%2e%2e;/c", "/a/..;/c"),
            ("/a\\..;/c", "/a/..;/c"),
            ("/a/..;\\c", "/"),
            ("/a..;/b", "/a..;/b"),
            ("/a/...;/b", "/a/...;/b"),
        ];
        for (path, expected) in cases {
            assert_eq!(normalize(path, Reading::default()), Normalized::Path(expected.into()), "{path}");
        }
        for path in ["/a%2fb", "/%5C", "/a%2Fb?c"] {
            assert_eq!(normalize(path, Reading::default()), Normalized::Redirect, "{path}");
        }
        for path in ["a", "/a#b", "/a?b#c", "/%00", "/%2F%00", "/a b", "/\u{e9}"] {
            assert_eq!(normalize(path, Reading::default()), Normalized::Reject, "{path}");
        }
    }

    #[test]
    fn paths_as_policies_say() {
        let with = |escaped, merge| Reading { merge, escaped, ..Reading::default() };
        for (path, reading, expected) in [
            ("/a%2Fb//c", with(Slashes::Keep, true), Normalized::Path("/a%2Fb/c".into())),
            ("/a%2Fb//c", with(Slashes::Forward, true), Normalized::Path("/a/b/c".into())),
            ("/a%2Fb//c", with(Slashes::Forward, false), Normalized::Path("/a/b//c".into())),
            ("/a%5c..%2fb", with(Slashes::Forward, true), Normalized::Path("/b".into())),
            ("/a%2Fb", with(Slashes::Reject, true), Normalized::Reject),
            ("/a//b", with(Slashes::Reject, false), Normalized::Path("/a//b".into())),
        ] {
            assert_eq!(normalize(path, reading), expected, "{path}");
        }
    }
}
