//! Hostnames: exact, `*.suffix` (any number of labels) or empty for all.

use std::cmp::Reverse;

/// True if every host that `narrow` names is also named by `wide`.
pub fn covers(wide: &str, narrow: &str) -> bool {
    match wide.strip_prefix('*') {
        _ if wide.is_empty() => true,
        // `*.example.com` covers `a.example.com`, `a.b.example.com` and `*.a.example.com`, but not `example.com`.
        Some(suffix) => narrow == wide || (narrow.len() > suffix.len() && narrow.ends_with(suffix)),
        None => wide == narrow,
    }
}

/// True for an IPv4 address, which has the form of a hostname and is none (`Hostname`: "IPs are not allowed").
pub(super) fn is_address(hostname: &str) -> bool {
    hostname.parse::<std::net::Ipv4Addr>().is_ok()
}

/// The hosts that both name, if there are any.
pub fn intersect<'a>(listener: &'a str, route: &'a str) -> Option<&'a str> {
    if covers(listener, route) && !route.is_empty() {
        Some(route)
    } else if covers(route, listener) {
        Some(listener)
    } else {
        None
    }
}

/// Sorts the most specific hostname first: exact, then wildcards by length, then the empty one
/// (HTTPRoute `hostnames`: most characters in a matching hostname win).
pub(super) fn specificity(hostname: &str) -> (Reverse<u8>, Reverse<usize>) {
    let class = match hostname {
        "" => 0,
        name if name.starts_with('*') => 1,
        _ => 2,
    };
    (Reverse(class), Reverse(hostname.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intersections() {
        let cases = [
            ("", "", Some("")),
            ("", "a.example.com", Some("a.example.com")),
            ("a.example.com", "", Some("a.example.com")),
            ("a.example.com", "a.example.com", Some("a.example.com")),
            ("a.example.com", "b.example.com", None),
            ("*.example.com", "a.example.com", Some("a.example.com")),
            ("*.example.com", "a.b.example.com", Some("a.b.example.com")),
            ("*.example.com", "example.com", None),
            ("*.example.com", "*.b.example.com", Some("*.b.example.com")),
            ("a.example.com", "*.example.com", Some("a.example.com")),
            ("*.b.example.com", "*.example.com", Some("*.b.example.com")),
            ("*.example.com", "*.example.org", None),
            ("*.example.com", "anotherexample.com", None),
            ("*.example.com", "*.example.com", Some("*.example.com")),
        ];
        for (listener, route, expected) in cases {
            assert_eq!(intersect(listener, route), expected, "{listener} with {route}");
        }
    }

    #[test]
    fn exact_before_long_wildcard_before_short_before_all() {
        let mut names = ["", "*.com", "a.com", "*.example.com"];
        names.sort_by_key(|name| specificity(name));
        assert_eq!(names, ["a.com", "*.example.com", "*.com", ""]);
    }
}
