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
    ("GRPCRoute", None),
    ("GRPCRouteNamedRouteRule", None),
    ("GRPCRouteRequestHeaderModifier", None),
    ("Gateway", None),
    ("GatewayAddressEmpty", None),
    ("GatewayBackendClientCertificate", None),
    ("GatewayFrontendClientCertificateValidation", None),
    ("GatewayFrontendClientCertificateValidationInsecureFallback", None),
    ("GatewayHTTPListenerIsolation", None),
    ("GatewayHTTPSListenerDetectMisdirectedRequests", None),
    ("GatewayInfrastructure", None),
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
}
