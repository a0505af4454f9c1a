//! What a field of Envoy Gateway's kinds is, and why it is not carried out, if it is not.

/// Classes of fields, by what carrying them out takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A function of the YAML.
    Pure,
    /// One that brings secret bytes, which are bound by reference.
    Secret,
    /// What others fetch while they compile: a declared input here.
    TranslateTime,
    /// It needs a service, or a file of the proxy's machine, besides Envoy.
    Runtime,
    /// It lies in how Envoy is started, or in what it runs in.
    Bootstrap,
    /// It needs endpoints that live.
    Endpoints,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Pure, Self::Secret, Self::TranslateTime, Self::Runtime, Self::Bootstrap, Self::Endpoints];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::Secret => "secret",
            Self::TranslateTime => "translate-time I/O",
            Self::Runtime => "runtime",
            Self::Bootstrap => "bootstrap",
            Self::Endpoints => "endpoints",
        }
    }
}

use Class::{Bootstrap, Endpoints, Runtime, Secret, TranslateTime};

/// Fields that are not pure, with everything below them; of several that stand above a field the longest counts.
const CLASSES: &[(&str, &str, Class)] = &[
    ("Backend", "tls", Secret),
    ("Backend", "endpoints.zone", Endpoints),
    ("BackendTrafficPolicy", "loadBalancer.backendUtilization", Runtime),
    ("BackendTrafficPolicy", "loadBalancer.dynamicModule", Runtime),
    ("BackendTrafficPolicy", "loadBalancer.endpointOverride", Endpoints),
    ("BackendTrafficPolicy", "loadBalancer.zoneAware", Endpoints),
    ("BackendTrafficPolicy", "rateLimit.global", Runtime),
    ("ClientTrafficPolicy", "http3", Bootstrap),
    ("ClientTrafficPolicy", "tls", Secret),
    ("EnvoyExtensionPolicy", "dynamicModule", Runtime),
    ("EnvoyExtensionPolicy", "extProc", Runtime),
    ("EnvoyExtensionPolicy", "wasm", TranslateTime),
    ("EnvoyProxy", "backendTLS", Secret),
    ("EnvoyProxy", "bootstrap", Bootstrap),
    ("EnvoyProxy", "concurrency", Bootstrap),
    ("EnvoyProxy", "dynamicModules", Runtime),
    ("EnvoyProxy", "extraArgs", Bootstrap),
    ("EnvoyProxy", "geoIP", Runtime),
    ("EnvoyProxy", "logging", Bootstrap),
    ("EnvoyProxy", "provider", Bootstrap),
    ("EnvoyProxy", "routingType", Endpoints),
    ("EnvoyProxy", "shutdown", Bootstrap),
    ("EnvoyProxy", "telemetry.accessLog.settings.sinks.als", Runtime),
    ("EnvoyProxy", "telemetry.accessLog.settings.sinks.openTelemetry", Runtime),
    ("EnvoyProxy", "telemetry.metrics", Bootstrap),
    ("EnvoyProxy", "telemetry.tracing", Runtime),
    ("HTTPRouteFilter", "credentialInjection", Secret),
    ("SecurityPolicy", "apiKeyAuth", Secret),
    ("SecurityPolicy", "authorization.rules.principal.clientIPGeoLocations", Runtime),
    ("SecurityPolicy", "basicAuth", Secret),
    ("SecurityPolicy", "extAuth", Runtime),
    ("SecurityPolicy", "jwt.providers.remoteJWKS", Runtime),
    ("SecurityPolicy", "oidc", TranslateTime),
    ("SecurityPolicy", "oidc.clientSecret", Secret),
];

const MODULE: &str = "a cluster is the same for all fleets, and only the parameters of a fleet register modules; Envoy Gateway publishes the field and \
     does nothing with it either";

/// Why fields are not carried out, with everything below them; of several that stand above a field the longest counts. An empty
/// kind stands for all.
const REASONS: &[(&str, &str, &str)] = &[
    ("BackendTrafficPolicy", "loadBalancer.dynamicModule", MODULE),
    ("EnvoyExtensionPolicy", "extProc.backendSettings.loadBalancer.dynamicModule", MODULE),
    ("SecurityPolicy", "extAuth.grpc.backendSettings.loadBalancer.dynamicModule", MODULE),
    ("SecurityPolicy", "extAuth.http.backendSettings.loadBalancer.dynamicModule", MODULE),
    ("SecurityPolicy", "jwt.providers.remoteJWKS.backendSettings.loadBalancer.dynamicModule", MODULE),
    ("SecurityPolicy", "oidc.provider.backendSettings.loadBalancer.dynamicModule", MODULE),
];

/// A field that no policy can make use of, whoever carries it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The published schema takes no value of it; the message of its rule.
    Refused(&'static str),
    /// By its own description it speaks of something that is not there; what.
    Unused(&'static str),
}

impl Settled {
    /// What is said of it, in one line.
    pub fn describe(self) -> String {
        match self {
            Self::Refused(message) => format!("refused by the schema of the kind: {message}"),
            Self::Unused(why) => format!("not used by definition: {why}"),
        }
    }
}

const OF_CLIENTS: Settled = Settled::Unused(
    "fingerprints are derived from the handshake of a client, and to a backend the proxy itself is the client",
);

/// Such fields, with everything below them.
const SETTLED: &[(&str, &str, Settled)] = &[
    ("Backend", "tls.fingerprints", OF_CLIENTS),
    (
        "BackendTrafficPolicy",
        "rateLimit.local.rules.cost.response",
        Settled::Refused("response cost is not supported for Local Rate Limits"),
    ),
    (
        "BackendTrafficPolicy",
        "rateLimit.local.rules.limit.fromMetadata",
        Settled::Refused("limit fromMetadata is not supported for Local Rate Limits"),
    ),
    (
        "BackendTrafficPolicy",
        "responseOverride.redirect.path.replacePrefixMatch",
        Settled::Refused("only ReplaceFullPath is supported for path.type"),
    ),
    (
        "BackendTrafficPolicy",
        "responseOverride.response.header.remove",
        Settled::Refused("Remove is not supported for header in CustomResponse"),
    ),
    ("EnvoyProxy", "backendTLS.fingerprints", OF_CLIENTS),
    (
        "HTTPRouteFilter",
        "directResponse.header.remove",
        Settled::Refused("header.remove is not supported for DirectResponse"),
    ),
];

/// Whether a field below `spec` is of no use to anybody.
pub fn settled(kind: &str, field: &str) -> Option<Settled> {
    longest(SETTLED, kind, field).copied()
}

/// What is said where nothing better is known.
const LATER: &str = "this version does not carry it out; it is a diagnostic, and where it restricts access its target is closed";

fn longest<'t, T>(table: &'t [(&str, &str, T)], kind: &str, field: &str) -> Option<&'t T> {
    let above = |prefix: &str| {
        field.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let fits = table.iter().filter(|(of, prefix, _)| (of.is_empty() || *of == kind) && above(prefix));
    fits.max_by_key(|(_, prefix, _)| prefix.len()).map(|(_, _, found)| found)
}

/// The class of a field below `spec`.
pub fn class(kind: &str, field: &str) -> Class {
    longest(CLASSES, kind, field).copied().unwrap_or(Class::Pure)
}

/// Why a field below `spec` is not carried out.
pub fn reason(kind: &str, field: &str) -> &'static str {
    longest(REASONS, kind, field).copied().unwrap_or(LATER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_above_a_field_counts() {
        assert_eq!(class("SecurityPolicy", "oidc.clientSecret.name"), Secret);
        assert_eq!(class("SecurityPolicy", "oidc.provider.issuer"), TranslateTime);
        assert_eq!(class("SecurityPolicy", "oidcx"), Class::Pure);
        assert_eq!(reason("BackendTrafficPolicy", "loadBalancer.dynamicModule.name"), MODULE);
        assert_eq!(reason("Backend", "type"), LATER);
        assert_eq!(settled("HTTPRouteFilter", "directResponse.header.set"), None);
        assert!(matches!(
            settled("HTTPRouteFilter", "directResponse.header.remove"),
            Some(Settled::Refused(_))
        ));
    }
}
