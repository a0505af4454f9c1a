//! Forged requests of browsers (SecurityPolicy `csrf`).

use crate::cors::origin;
use crate::{About, Capability, Effect, Kind, Lowering, place};
use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::extensions::filters::http::csrf::v3::CsrfPolicy;
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct Csrf;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    csrf: Option<Rules>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rules {
    #[serde(default)]
    additional_origins: Vec<String>,
    shadow_fraction: Option<Fraction>,
}

#[derive(Debug, Deserialize)]
struct Fraction {
    numerator: u32,
    denominator: Option<u32>,
}

const NAME: &str = "envoy.filters.http.csrf";
/// Envoy counts fractions in these.
const MILLION: u32 = 1_000_000;

impl Capability for Csrf {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "csrf",
        kind: Kind::Security,
        fields: &["csrf"],
        except: &[],
        since: "0.2.0",
        docs: "\
A request that changes something (POST, PUT, DELETE, PATCH) must name in Origin, or else Referer, the host that it is sent to, or one \
of additionalOrigins (as in cors; Envoy compares host and port, so their scheme does not matter); others are answered with 403. Of \
shadowFraction of the requests it is only counted what would have become of them (csrf.request_valid, csrf.request_invalid).",
        effect: Effect::Filter {
            name: NAME,
            place: place::CSRF,
            why: "a forged request is refused before its cookies count for anything",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(rules) = &spec.csrf else { return };
        let at = FieldPath::parse("spec.csrf");
        let shadow = match &rules.shadow_fraction {
            None => 0,
            Some(Fraction { numerator, denominator }) => {
                let denominator = denominator.unwrap_or(100);
                if denominator == 0 || *numerator > denominator {
                    return cx.invalid(at.key("shadowFraction"), "the fraction is more than one");
                }
                let share = u64::from(*numerator) * u64::from(MILLION) / u64::from(denominator);
                u32::try_from(share).unwrap_or(MILLION)
            }
        };
        let host = |text: &String| origin(text.split_once("://").map_or(text.as_str(), |(_, host)| host));
        let policy = CsrfPolicy {
            filter_enabled: Some(share(MILLION - shadow)),
            // Of those that are not refused.
            shadow_enabled: (shadow > 0).then(|| share(MILLION)),
            additional_origins: rules.additional_origins.iter().map(host).collect(),
        };
        let nobody = CsrfPolicy { filter_enabled: Some(share(0)), ..Default::default() };
        cx.filter((NAME, place::CSRF), &nobody, &policy);
    }
}

fn share(numerator: u32) -> RuntimeFractionalPercent {
    let value = FractionalPercent { numerator, denominator: DenominatorType::Million.into() };
    RuntimeFractionalPercent { default_value: Some(value), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, filter};
    use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

    fn policy(spec: &str) -> CsrfPolicy {
        let compiled = testing::compile(Kind::Security, spec);
        assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
        filter(&compiled, "csrf", NAME)
    }

    #[test]
    fn all_requests_count_unless_a_share_is_only_watched() {
        let plain = policy(r#"{"csrf": {}}"#);
        assert_eq!((plain.filter_enabled, plain.shadow_enabled), (Some(share(MILLION)), None));
        let watched = policy(r#"{"csrf": {"shadowFraction": {"numerator": 1, "denominator": 3}}}"#);
        assert_eq!(watched.filter_enabled, Some(share(666_667)));
        assert_eq!(watched.shadow_enabled, Some(share(MILLION)));
    }

    #[test]
    fn origins_are_compared_without_their_scheme() {
        let found = policy(
            r#"{"csrf": {"additionalOrigins": ["https://a.example:8443", "http://*.b.example", "*"]}}"#,
        );
        let patterns: Vec<_> = found.additional_origins.iter().map(|one| one.match_pattern.clone()).collect();
        assert_eq!(patterns[0], Some(MatchPattern::Exact("a.example:8443".into())));
        let Some(MatchPattern::SafeRegex(regex)) = &patterns[1] else { panic!("a pattern") };
        assert_eq!(regex.regex, "[-A-Za-z0-9.]+\\.b\\.example");
        let Some(MatchPattern::SafeRegex(regex)) = &patterns[2] else { panic!("a pattern") };
        assert_eq!(regex.regex, ".*");
    }

    #[test]
    fn more_than_everything_closes() {
        for fraction in [r#"{"numerator": 5, "denominator": 4}"#, r#"{"numerator": 0, "denominator": 0}"#] {
            let spec = format!(r#"{{"csrf": {{"shadowFraction": {fraction}}}}}"#);
            let compiled = testing::compile(Kind::Security, &spec);
            assert_eq!(testing::said(&compiled), ["MG4002 spec.csrf.shadowFraction"]);
            assert!(compiled.closed && compiled.parts.is_empty());
        }
    }
}
