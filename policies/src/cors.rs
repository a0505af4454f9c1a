//! Cross-origin requests (SecurityPolicy `cors`).

use crate::{About, Capability, Effect, Kind, Lowering, paths, place};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::{Cors as Filter, CorsPolicy};
use envoy_types::pb::envoy::r#type::matcher::v3::{
    RegexMatcher, StringMatcher, string_matcher::MatchPattern,
};
use envoy_types::pb::google::protobuf::BoolValue;
use moorgate_model::{FieldPath, duration};
use serde::Deserialize;

/// The capability.
pub(crate) struct Cors;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    cors: Option<Rules>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rules {
    #[serde(default)]
    allow_origins: Vec<String>,
    #[serde(default)]
    allow_methods: Vec<String>,
    #[serde(default)]
    allow_headers: Vec<String>,
    #[serde(default)]
    expose_headers: Vec<String>,
    max_age: Option<String>,
    allow_credentials: Option<bool>,
}

const NAME: &str = "envoy.filters.http.cors";

impl Capability for Cors {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "cors",
        kind: Kind::Security,
        fields: &["cors"],
        except: &[],
        since: "0.1.0",
        docs: "\
Scripts of other origins may send requests: allowOrigins (exact, with * in the host, or * for all), allowMethods, allowHeaders, \
exposeHeaders, maxAge, allowCredentials. A preflight of another origin is answered without permission and does not reach the \
backend. A CORS filter of an HTTPRoute comes first.",
        effect: Effect::Filter {
            name: NAME,
            place: place::CORS,
            why: "a preflight carries no credentials, so it is answered before anybody is asked for them",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(rules) = &spec.cors else { return };
        let at = FieldPath::parse("spec.cors");
        let credentials = rules.allow_credentials.unwrap_or_default();
        let max_age = match rules.max_age.as_deref().map(duration::parse) {
            Some(Some(age)) => age.as_secs().to_string(),
            Some(None) => return cx.invalid(at.key("maxAge"), "maxAge is no duration"),
            None => String::new(),
        };
        // Where credentials are allowed a literal * means nothing to browsers (Fetch standard).
        let exposed = rules.expose_headers.iter().filter(|name| !(credentials && *name == "*"));
        let policy = CorsPolicy {
            allow_origin_string_match: rules
                .allow_origins
                .iter()
                .map(|origin| self::origin(origin))
                .collect(),
            allow_methods: listed(&rules.allow_methods),
            allow_headers: listed(&rules.allow_headers),
            expose_headers: exposed.map(String::as_str).collect::<Vec<_>>().join(", "),
            max_age,
            allow_credentials: Some(BoolValue { value: credentials }),
            forward_not_matching_preflights: Some(BoolValue { value: false }),
            ..Default::default()
        };
        cx.filter((NAME, place::CORS), &Filter::default(), &policy);
    }
}

/// A list as Envoy has it. It knows `*` only if nothing stands beside it.
fn listed(names: &[String]) -> String {
    if names.iter().any(|name| name == "*") { "*".to_owned() } else { names.join(", ") }
}

/// `*` takes any origin; a `*` in the host any number of labels, but no port that is not written.
pub(crate) fn origin(origin: &str) -> StringMatcher {
    let pattern = if origin.contains('*') {
        let regex = if origin == "*" {
            ".*".to_owned()
        } else {
            origin.split('*').map(paths::literal).collect::<Vec<_>>().join("[-A-Za-z0-9.]+")
        };
        MatchPattern::SafeRegex(RegexMatcher { regex, engine_type: None })
    } else {
        MatchPattern::Exact(origin.to_owned())
    };
    StringMatcher { match_pattern: Some(pattern), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, filter};

    #[test]
    fn rules_become_a_filter_of_the_route() {
        let compiled = testing::compile(
            Kind::Security,
            r#"{"cors": {"allowOrigins": ["https://a.example", "https://*.b.example"],
            "allowMethods": ["GET", "PUT"], "allowHeaders": ["x-a"], "exposeHeaders": ["*", "x-b"], "maxAge": "1h",
            "allowCredentials": true}}"#,
        );
        assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
        let policy: CorsPolicy = filter(&compiled, "cors", NAME);
        assert_eq!((policy.max_age.as_str(), policy.expose_headers.as_str()), ("3600", "x-b"));
        assert_eq!((policy.allow_methods.as_str(), policy.allow_headers.as_str()), ("GET, PUT", "x-a"));
        let Some(MatchPattern::SafeRegex(regex)) = &policy.allow_origin_string_match[1].match_pattern else {
            panic!("a pattern")
        };
        assert_eq!(regex.regex, "https\\:\\/\\/[-A-Za-z0-9.]+\\.b\\.example");
    }

    #[test]
    fn everything_is_everything_beside_what_is_named() {
        for (names, listed) in [(r#""*""#, "*"), (r#""GET", "*""#, "*"), (r#""GET", "PUT""#, "GET, PUT")] {
            let spec = format!(r#"{{"cors": {{"allowMethods": [{names}], "allowHeaders": [{names}]}}}}"#);
            let policy: CorsPolicy = filter(&testing::compile(Kind::Security, &spec), "cors", NAME);
            assert_eq!((policy.allow_methods.as_str(), policy.allow_headers.as_str()), (listed, listed));
        }
    }

    #[test]
    fn what_cannot_be_read_closes_the_target() {
        let compiled = testing::compile(Kind::Security, r#"{"cors": {"maxAge": "soon"}}"#);
        assert!(compiled.closed && compiled.parts.is_empty() && compiled.invalid.is_some());
    }
}
