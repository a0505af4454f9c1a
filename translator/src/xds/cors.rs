//! Cross-origin rules.

use super::{rewrite, route, value};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher};
use moorgate_model::ir::Cors;

/// The name of the CORS filter, under which a route keeps its rules.
pub(super) const FILTER: &str = "envoy.filters.http.cors";

/// CORS rules. Where credentials are allowed a literal `*` means nothing to browsers (Fetch standard): Envoy then answers
/// a preflight with the method and headers that it asks for, and has nothing of the kind for headers to expose.
pub(super) fn lower(cors: &Cors) -> CorsPolicy {
    let exposed = cors.expose_headers.iter().filter(|name| !(cors.allow_credentials && *name == "*"));
    CorsPolicy {
        allow_origin_string_match: cors.allow_origins.iter().map(|origin| self::origin(origin)).collect(),
        allow_methods: cors.allow_methods.join(", "),
        allow_headers: cors.allow_headers.join(", "),
        expose_headers: exposed.map(String::as_str).collect::<Vec<_>>().join(", "),
        max_age: cors.max_age.to_string(),
        allow_credentials: value::truth(cors.allow_credentials),
        // A preflight of a foreign origin is answered here, without permission, instead of by the backend.
        forward_not_matching_preflights: value::truth(false),
        ..Default::default()
    }
}

/// `*` takes any origin; `https://*.example.com` takes any number of labels, but no port that is not written.
fn origin(origin: &str) -> StringMatcher {
    if !origin.contains('*') {
        return route::exact(origin);
    }
    let pattern = if origin == "*" {
        ".*".to_owned()
    } else {
        origin.split('*').map(rewrite::quote).collect::<Vec<_>>().join("[-A-Za-z0-9.]+")
    };
    StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::SafeRegex(route::regex(pattern))),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_with_wildcards_keep_to_the_host() {
        let Some(string_matcher::MatchPattern::SafeRegex(matcher)) =
            origin("https://*.example.com").match_pattern
        else {
            panic!("a pattern")
        };
        let regex = regex::Regex::new(&format!("^(?:{})$", matcher.regex.replace("\\:", ":"))).unwrap();
        assert!(regex.is_match("https://a.b.example.com"));
        for foreign in ["https://example.com", "https://evil.com/.example.com", "https://aXexample.com"] {
            assert!(!regex.is_match(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_wildcard_stays_where_envoy_answers_for_the_request() {
        let mut rules = Cors {
            allow_origins: vec!["*".into()],
            allow_methods: vec!["*".into()],
            allow_headers: vec!["*".into()],
            expose_headers: vec!["*".into(), "x-a".into()],
            allow_credentials: true,
            max_age: 5,
        };
        let policy = lower(&rules);
        assert_eq!((policy.allow_methods.as_str(), policy.allow_headers.as_str()), ("*", "*"));
        assert_eq!(policy.expose_headers, "x-a");
        rules.allow_credentials = false;
        assert_eq!(lower(&rules).expose_headers, "*, x-a");
    }
}
