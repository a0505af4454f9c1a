//! A path that tells whether a listener is well (ClientTrafficPolicy `healthCheck`).

use crate::{About, Capability, Effect, Kind, Lowering, place};
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier};
use envoy_types::pb::envoy::extensions::filters::http::health_check::v3::HealthCheck;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::BoolValue;
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct ClientHealthCheck;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    health_check: Option<Wanted>,
}

#[derive(Debug, Deserialize)]
struct Wanted {
    path: String,
}

const NAME: &str = "envoy.filters.http.health_check";

impl Capability for ClientHealthCheck {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "client_health_check",
        kind: Kind::ClientTraffic,
        fields: &["healthCheck"],
        except: &[],
        since: "0.3.0",
        docs: "\
A request for exactly this path is answered with 200 by Envoy itself, and with 503 while it drains; no route or backend is asked.",
        effect: Effect::Filter {
            name: NAME,
            place: place::HEALTH,
            why: "a load balancer that asks has no credentials, and no route is meant",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(wanted) = &spec.health_check else { return };
        if !wanted.path.starts_with('/')
            || wanted.path.chars().any(|letter| letter.is_control() || letter == ' ')
        {
            return cx.invalid(
                FieldPath::parse("spec.healthCheck.path"),
                "a path begins with a slash and has no spaces",
            );
        }
        let text = StringMatcher {
            match_pattern: Some(MatchPattern::Exact(wanted.path.clone())),
            ..Default::default()
        };
        let path = HeaderMatcher {
            name: ":path".into(),
            header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(text)),
            ..Default::default()
        };
        let config = HealthCheck {
            pass_through_mode: Some(BoolValue { value: false }),
            headers: vec![path],
            ..Default::default()
        };
        cx.listener_filter((NAME, place::HEALTH), &config);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;

    #[test]
    fn a_path_is_answered() {
        let compile = |path: &str| {
            testing::compile(Kind::ClientTraffic, &format!(r#"{{"healthCheck": {{"path": "{path}"}}}}"#))
        };
        assert_eq!(compile("/up").parts["client_health_check"].on_listener[0].name, NAME);
        for path in ["", "up", "/a b"] {
            assert_eq!(testing::said(&compile(path)), ["MG4002 spec.healthCheck.path"]);
        }
    }
}
