//! The features that a GatewayClass says it supports: one table, each with the test that shows it.
//!
//! Names are those of the Gateway API (`pkg/features`). A feature that the upstream suite tests is shown by that suite
//! (`make conformance`); one that it does not test is claimed only where a test of ours shows it, which stands here.

use serde_json::{Value, json};

/// A feature, and what shows it if the upstream suite does not.
type Feature = (&'static str, Option<&'static str>);

/// By name, as the API wants the list.
const FEATURES: &[Feature] = &[
    ("BackendTLSPolicy", None),
    ("BackendTLSPolicySANValidation", None),
    ("ClusterTrustBundle", Some("experimental: a_cluster_gives_trust_bundles_and_inner_addresses")),
    ("GRPCRoute", None),
    ("GRPCRouteNamedRouteRule", None),
    ("GRPCRouteRequestHeaderModifier", None),
    ("Gateway", None),
    ("GatewayAddressEmpty", None),
    ("GatewayAddressRoutability", Some("experimental: a_cluster_gives_trust_bundles_and_inner_addresses")),
    (
        "GatewayAddressRoutabilityCluster",
        Some("experimental: a_cluster_gives_trust_bundles_and_inner_addresses"),
    ),
    ("GatewayBackendClientCertificate", None),
    ("GatewayFrontendClientCertificateValidation", None),
    ("GatewayFrontendClientCertificateValidationInsecureFallback", None),
    ("GatewayHTTPListenerIsolation", None),
    ("GatewayHTTPSListenerDetectMisdirectedRequests", None),
    ("GatewayInfrastructure", None),
    (
        "GatewayListenerFilters",
        Some("experimental: listener_filters_run_in_order_before_a_route_is_looked_for"),
    ),
    ("GatewayPort8080", None),
    ("GatewayRouteHostnameIntersectionPrecedence", None),
    ("GatewayStaticAddresses", None),
    ("HTTPRoute", None),
    ("HTTPRoute303RedirectStatusCode", None),
    ("HTTPRoute307RedirectStatusCode", None),
    ("HTTPRoute308RedirectStatusCode", None),
    ("HTTPRouteBackendProtocolH2C", None),
    ("HTTPRouteBackendProtocolWebSocket", None),
    ("HTTPRouteBackendRequestHeaderModification", None),
    ("HTTPRouteBackendTimeout", None),
    ("HTTPRouteBackendURLRewrite", None),
    ("HTTPRouteCORS", None),
    ("HTTPRouteDestinationPortMatching", None),
    ("HTTPRouteHostRewrite", None),
    ("HTTPRouteMethodMatching", None),
    ("HTTPRouteNamedRouteRule", None),
    ("HTTPRouteParentRefPort", None),
    ("HTTPRoutePathRedirect", None),
    ("HTTPRoutePathRewrite", None),
    ("HTTPRoutePortRedirect", None),
    ("HTTPRouteQueryParamMatching", None),
    ("HTTPRouteRequestMirror", None),
    ("HTTPRouteRequestMultipleMirrors", None),
    ("HTTPRouteRequestPercentageMirror", None),
    ("HTTPRouteRequestTimeout", None),
    ("HTTPRouteResponseHeaderModification", None),
    ("HTTPRouteRetryCodes", None),
    ("HTTPRouteRetryConnectionError", None),
    ("HTTPRouteSchemeRedirect", None),
    ("ListenerSet", None),
    ("ReferenceGrant", None),
    ("TCPRoute", None),
    ("TLSRoute", None),
    ("TLSRouteModeMixed", None),
    ("TLSRouteModeTerminate", None),
    ("UDPRoute", None),
];

/// `status.supportedFeatures` of a GatewayClass.
pub(super) fn supported() -> Value {
    Value::Array(FEATURES.iter().map(|(name, _)| json!({"name": name})).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_without_repeats_and_fits() {
        assert!(FEATURES.is_sorted_by(|a, b| a.0 < b.0));
        assert!(FEATURES.len() <= 64);
    }

    /// What stands beside a feature is a test: of that suite, and of that name.
    #[test]
    fn claims_that_upstream_does_not_test_have_a_test_here() {
        let shown = FEATURES.iter().filter_map(|(name, test)| Some((name, test.as_ref()?)));
        for (name, test) in shown {
            let (suite, test) = test.split_once(": ").unwrap();
            let file = format!("{}/../tests/tests/{suite}.rs", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.contains(&format!("#[test]\nfn {test}()")), "{name}: {file} has no {test}");
        }
    }
}
