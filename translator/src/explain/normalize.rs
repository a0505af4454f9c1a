//! Paths as Envoy sees them before it looks at routes.
//!
//! The connection managers that `xds` makes unescape `%2F` and `%5C` by a redirect, normalise by RFC 3986 and
//! merge slashes. What decides access must decide on the path that the backend will see.

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
pub fn normalize(path: &str) -> Normalized {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    if !path.starts_with('/') || path.contains('#') {
        return Normalized::Reject;
    }
    let upper = path.to_ascii_uppercase();
    if upper.contains("%2F") || upper.contains("%5C") {
        return Normalized::Redirect;
    }
    if upper.contains("%00") || path.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
        return Normalized::Reject;
    }
    let path = unescape_unreserved(&path.replace('\\', "/"));
    let mut segments: Vec<&str> = Vec::new();
    let mut rest = path.split('/').skip(1).peekable();
    while let Some(segment) = rest.next() {
        let last = rest.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    segments.pop();
                }
                if last {
                    segments.push("");
                }
            }
            _ => segments.push(segment),
        }
    }
    let mut merged = String::with_capacity(path.len());
    for byte in format!("/{}", segments.join("/")).chars() {
        if byte != '/' || !merged.ends_with('/') {
            merged.push(byte);
        }
    }
    if let Some(query) = query {
        merged.push('?');
        merged.push_str(query);
    }
    Normalized::Path(merged)
}

/// Letters, digits and `-._~` are the same with and without escape (RFC 3986 §2.3).
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
        ];
        for (path, expected) in cases {
            assert_eq!(normalize(path), Normalized::Path(expected.into()), "{path}");
        }
        assert_eq!(normalize("/a%2fb"), Normalized::Redirect);
        assert_eq!(normalize("a"), Normalized::Reject);
    }
}
