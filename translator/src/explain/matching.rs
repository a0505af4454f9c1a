//! Whether one route matches one request.

use super::Request;
use moorgate_model::ir::{PathMatch, Route, ValueMatch};
use std::fmt;

/// The first condition that a request does not meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// The path.
    Path,
    /// The method.
    Method,
    /// A header, by name.
    Header(String),
    /// A query parameter, by name.
    Query(String),
    /// A cookie, by name.
    Cookie(String),
    /// The route is for gRPC requests, and this is none.
    NotGrpc,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => f.write_str("the path differs"),
            Self::Method => f.write_str("the method differs"),
            Self::Header(name) => write!(f, "header {name:?} is absent or differs"),
            Self::Query(name) => write!(f, "query parameter {name:?} is absent or differs"),
            Self::Cookie(name) => write!(f, "cookie {name:?} is absent or differs"),
            Self::NotGrpc => {
                f.write_str("it is for gRPC, and the request has no content-type application/grpc")
            }
        }
    }
}

/// The first condition that fails, or `None` if the route matches.
pub(super) fn mismatch(route: &Route, path: &str, request: &Request) -> Option<Mismatch> {
    let path = path.split('?').next().unwrap_or_default();
    let path_fits = match &route.path {
        PathMatch::Exact(exact) => path == exact,
        // Whole segments: `/v2` is a prefix of `/v2` and `/v2/x`, not of `/v2x`.
        PathMatch::Prefix(prefix) => {
            path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathMatch::Regex(text) => full_match(text, path),
    };
    if !path_fits {
        return Some(Mismatch::Path);
    }
    if route.grpc.is_some() && !request.is_grpc() {
        return Some(Mismatch::NotGrpc);
    }
    if route.method.as_ref().is_some_and(|method| *method != request.method) {
        return Some(Mismatch::Method);
    }
    // A header that stands several times: one value that fits is enough (Envoy from 1.39 on; 1.38 joins them first).
    let present = |name: &str, wanted| request.header(name).any(|value| value_fits(wanted, value));
    let header = route.headers.iter().find(|(name, wanted)| !present(name, wanted));
    if let Some((name, _)) = header {
        return Some(Mismatch::Header(name.clone()));
    }
    let present = |name: &str, wanted| request.query(name).is_some_and(|value| value_fits(wanted, value));
    let query = route.query.iter().find(|(name, wanted)| !present(name, wanted));
    if let Some((name, _)) = query {
        return Some(Mismatch::Query(name.clone()));
    }
    let present = |name: &str, wanted| request.cookie(name).is_some_and(|value| value_fits(wanted, value));
    let cookie = route.cookies.iter().find(|(name, wanted)| !present(name, wanted));
    cookie.map(|(name, _)| Mismatch::Cookie(name.clone()))
}

fn value_fits(wanted: &ValueMatch, value: &str) -> bool {
    match wanted {
        ValueMatch::Exact(exact) => exact == value,
        ValueMatch::Regex(text) => full_match(text, value),
    }
}

/// RE2 full match, as Envoy's `safe_regex`; `attach` has already refused what does not compile.
fn full_match(text: &str, value: &str) -> bool {
    regex::Regex::new(&format!("^(?:{text})$")).is_ok_and(|regex| regex.is_match(value))
}
