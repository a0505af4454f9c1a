//! Policies: objects that change how others are served, one file each.
//!
//! ```text
//!  Object ──▶ AnyPolicy::targets ──▶ (attach: who meets what, who wins)
//!        └──▶ AnyPolicy::compile ──▶ Spec ──validate──▶ lower ──▶ Outcome (effects, verdict, diagnostics)
//! ```
//! A new policy is one file that implements [`Policy`], and two lines here: `mod` and an entry in [`POLICIES`].
//! What a policy can do is the closed list of [`Effects`]; a policy that needs a new power changes that file, under
//! review, and nothing else of the translator has to know the policy.
//!
//! A policy that restricts access fails closed: when it cannot be read or carried out, its effects are
//! [`Policy::refused`], never nothing.
//!
//! The kinds of Envoy Gateway ([`Kind`]) hold many things each, so there a file is a [`Capability`], a part of one kind:
//!
//! ```text
//!  Object ──▶ compile ──▶ uncovered fields: diagnostics (closed, if they restrict)
//!                    └──▶ each capability: Spec ──▶ lower ──▶ Lowered: filters, route, manager, listener, TLS, cluster
//! ```
//! A new one is one file that implements [`Capability`], and two lines here: `mod` and an entry in [`CAPABILITIES`].

mod backend_tls;
mod backend_traffic;
mod capability;
mod dynamic;
mod effects;
mod entry;
mod free;
mod headers;
mod input;
mod kind;
mod limit;
mod lowering;
mod needs;
mod operators;
mod outcome;
pub mod place;
mod policy;
pub mod proxy;
mod quantity;
mod reason;
mod session;
mod span_tags;
mod telemetry;

// One capability a file.
mod address;
mod address_tls;
mod admission_control;
mod api_key_auth;
mod authorization;
mod backend_connection;
mod backend_http;
mod backend_proxy_protocol;
mod backend_telemetry;
mod bandwidth_limit;
mod basic_auth;
mod circuit_breaker;
mod client_connection;
mod client_grpc;
mod client_header_changes;
mod client_headers;
mod client_health_check;
mod client_http1;
mod client_http2;
mod client_http3;
mod client_ip;
mod client_keepalive;
mod client_location;
mod client_proxy_protocol;
mod client_scheme;
mod client_timeout;
mod client_tls;
mod client_validation;
mod compression;
mod cookie_match;
mod cors;
mod credential_injection;
mod csrf;
mod direct_response;
mod dns;
mod dynamic_module;
mod ext_auth;
mod ext_proc;
mod fault;
mod global_rate_limit;
mod health_check;
mod jwt;
mod load_balancer;
mod local_rate_limit;
mod lua;
mod oidc;
mod path_settings;
mod paths;
mod request_buffer;
mod response_override;
mod retry;
mod routing_type;
mod timeout;
mod upgrade;
mod url_rewrite;
mod wasm;

pub use backend_tls::{BackendTls, Validation, upstream_tls};
pub use backend_traffic::BackendTraffic;
pub use capability::{About, AnyCapability, Capability, Coverage, Covered, Effect, uncovered};
pub use dynamic::{dns_cache, dynamic_filters};
pub use effects::Effects;
pub use entry::AnyPolicy;
pub use global_rate_limit::{LimitService, limited};
pub use input::{Access, Input, InputKind};
pub use kind::{GROUP, Kind, VERSION};
pub use lowering::{
    BackendRef, Compiled, Cookies, Lowered, Lowering, OfBackend, OfRule, ScriptCheck, SecretRef, World,
    compile, compile_merged,
};
pub use needs::{Met, Need};
pub use oidc::SESSION_KEY;
pub use outcome::{Judgement, Outcome, Report, Verdict};
pub use policy::{Context, Policy, Target, TargetKind, TrustBundle};
pub use reason::{Class, Settled, class, reason, settled};
pub use session::{SessionPersistence, session};
pub use telemetry::{Telemetry, XTelemetry};

/// The cluster through which Envoy reaches its relay: it stands in every bootstrap.
pub const RELAY_CLUSTER: &str = "moorgate-relay";
/// Where that hands out modules of code; the SHA-256 of one follows.
pub const RELAY_MODULES: &str = "/modules/sha256/";

use capability::Part;
use entry::Entry;
use moorgate_model::ObjectRef;

/// Every policy there is.
pub static POLICIES: &[&dyn AnyPolicy] =
    &[&Entry::<BackendTls>::NEW, &Entry::<BackendTraffic>::NEW, &Entry::<XTelemetry>::NEW];

/// Every capability there is, in the order of names.
pub static CAPABILITIES: &[&dyn AnyCapability] = &[
    &Part::<address::Address>::NEW,
    &Part::<address_tls::AddressTls>::NEW,
    &Part::<admission_control::AdmissionControl>::NEW,
    &Part::<api_key_auth::ApiKeyAuth>::NEW,
    &Part::<authorization::Authorization>::NEW,
    &Part::<backend_connection::BackendConnection>::NEW,
    &Part::<backend_http::BackendHttp>::NEW,
    &Part::<backend_proxy_protocol::BackendProxyProtocol>::NEW,
    &Part::<backend_telemetry::BackendTelemetry>::NEW,
    &Part::<bandwidth_limit::BandwidthLimit>::NEW,
    &Part::<basic_auth::BasicAuth>::NEW,
    &Part::<circuit_breaker::CircuitBreaker>::NEW,
    &Part::<client_connection::ClientConnection>::NEW,
    &Part::<client_grpc::ClientGrpc>::NEW,
    &Part::<client_header_changes::ClientHeaderChanges>::NEW,
    &Part::<client_headers::ClientHeaders>::NEW,
    &Part::<client_health_check::ClientHealthCheck>::NEW,
    &Part::<client_http1::ClientHttp1>::NEW,
    &Part::<client_http2::ClientHttp2>::NEW,
    &Part::<client_http3::ClientHttp3>::NEW,
    &Part::<client_ip::ClientIp>::NEW,
    &Part::<client_keepalive::ClientKeepalive>::NEW,
    &Part::<client_location::ClientLocation>::NEW,
    &Part::<client_proxy_protocol::ClientProxyProtocol>::NEW,
    &Part::<client_scheme::ClientScheme>::NEW,
    &Part::<client_timeout::ClientTimeout>::NEW,
    &Part::<client_tls::ClientTls>::NEW,
    &Part::<client_validation::ClientValidation>::NEW,
    &Part::<compression::Compression>::NEW,
    &Part::<cookie_match::CookieMatch>::NEW,
    &Part::<cors::Cors>::NEW,
    &Part::<credential_injection::CredentialInjection>::NEW,
    &Part::<csrf::Csrf>::NEW,
    &Part::<direct_response::DirectResponse>::NEW,
    &Part::<dns::Dns>::NEW,
    &Part::<dynamic_module::DynamicModule>::NEW,
    &Part::<ext_auth::ExtAuth>::NEW,
    &Part::<ext_proc::ExtProc>::NEW,
    &Part::<fault::Fault>::NEW,
    &Part::<global_rate_limit::GlobalRateLimit>::NEW,
    &Part::<health_check::HealthCheck>::NEW,
    &Part::<jwt::Jwt>::NEW,
    &Part::<load_balancer::LoadBalancer>::NEW,
    &Part::<local_rate_limit::LocalRateLimit>::NEW,
    &Part::<lua::Lua>::NEW,
    &Part::<oidc::Oidc>::NEW,
    &Part::<path_settings::PathSettings>::NEW,
    &Part::<request_buffer::RequestBuffer>::NEW,
    &Part::<response_override::ResponseOverride>::NEW,
    &Part::<retry::Retry>::NEW,
    &Part::<routing_type::RoutingType>::NEW,
    &Part::<timeout::Timeout>::NEW,
    &Part::<upgrade::Upgrade>::NEW,
    &Part::<url_rewrite::UrlRewrite>::NEW,
    &Part::<wasm::Wasm>::NEW,
];

/// The policy that an object is, if it is one.
pub fn find(object: &ObjectRef) -> Option<&'static dyn AnyPolicy> {
    POLICIES.iter().copied().find(|policy| policy.group() == &*object.group && policy.kind() == &*object.kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Files that are no policies.
    const FRAMEWORK: &[&str] = &[
        "capability",
        "dynamic",
        "effects",
        "entry",
        "format",
        "free",
        "headers",
        "input",
        "kind",
        "limit",
        "lib",
        "lowering",
        "needs",
        "operators",
        "outcome",
        "paths",
        "place",
        "policy",
        "proxy",
        "quantity",
        "reason",
        "session",
        "span_tags",
    ];

    #[test]
    fn every_policy_file_is_registered() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let files: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .filter(|name| !FRAMEWORK.contains(&name.as_str()))
            .collect();
        let policies = POLICIES.iter().map(|policy| policy.file().to_owned());
        let capabilities = CAPABILITIES.iter().map(|capability| capability.about().file.to_owned());
        let registered: BTreeSet<String> = policies.chain(capabilities).collect();
        assert_eq!(files, registered);
    }

    #[test]
    fn capabilities_are_in_order_described_and_do_not_share_fields() {
        let files: Vec<_> = CAPABILITIES.iter().map(|capability| capability.about().file).collect();
        assert!(files.is_sorted(), "{files:?}");
        let mut fields = BTreeSet::new();
        for about in CAPABILITIES.iter().map(|capability| capability.about()) {
            assert!(
                !about.docs.is_empty() && !about.since.is_empty() && !about.fields.is_empty(),
                "{}",
                about.file
            );
            for field in about.fields {
                assert!(fields.insert((about.kind, *field)), "{}: {field}", about.file);
                assert!(!about.kind.attachment().contains(field), "{}: {field}", about.file);
            }
            for field in about.except {
                let below = |above: &&str| field.starts_with(&format!("{above}."));
                assert!(
                    about.fields.iter().any(below),
                    "{}: {field} lies below none of its fields",
                    about.file
                );
            }
        }
    }

    /// Every filter there is, in the order in which requests meet them. A change here is a change of what is decided first.
    #[test]
    fn the_whole_order_of_filters() {
        let mut order: Vec<(u16, &str)> = vec![
            (place::LISTENER, "filters of listeners"),
            (place::CORS, "envoy.filters.http.cors"),
            (place::EXTERNAL_AUTH, "ExternalAuth of routes"),
            (place::SESSION, "envoy.filters.http.stateful_session"),
            (place::RESOLVE, "envoy.filters.http.dynamic_forward_proxy"),
            (place::RESOLVED, "envoy.filters.http.rbac.resolved"),
        ];
        for about in CAPABILITIES.iter().map(|capability| capability.about()) {
            if let Effect::Filter { name, place, why } = about.effect {
                assert!(why.len() > 20, "{}: say why it stands there", about.file);
                order.push((place, name));
            }
        }
        order.sort_unstable();
        order.dedup();
        let names: Vec<&str> = order.into_iter().map(|(_, name)| name).collect();
        assert_eq!(
            names,
            [
                "envoy.filters.http.header_mutation",
                "envoy.filters.http.health_check",
                "envoy.filters.http.custom_response",
                "filters of listeners",
                "envoy.filters.http.fault",
                "envoy.filters.http.cors",
                "envoy.filters.http.grpc_web",
                "envoy.filters.http.csrf",
                "ExternalAuth of routes",
                "envoy.filters.http.ext_authz.policy",
                "envoy.filters.http.api_key_auth",
                "envoy.filters.http.basic_auth",
                "envoy.filters.http.oauth2",
                "envoy.filters.http.jwt_authn",
                "envoy.filters.http.stateful_session",
                "envoy.filters.http.buffer",
                "envoy.filters.http.lua",
                "envoy.filters.http.ext_proc",
                "envoy.filters.http.wasm",
                "envoy.filters.http.dynamic_modules",
                "envoy.filters.http.geoip",
                "envoy.filters.http.rbac",
                "envoy.filters.http.local_ratelimit",
                "envoy.filters.http.ratelimit",
                "envoy.filters.http.bandwidth_limit",
                "envoy.filters.http.dynamic_forward_proxy",
                "envoy.filters.http.rbac.resolved",
                "envoy.filters.http.credential_injector",
                "envoy.filters.http.compressor",
            ]
        );
    }

    #[test]
    fn kinds_are_unique_and_described() {
        let kinds: BTreeSet<_> = POLICIES.iter().map(|policy| (policy.group(), policy.kind())).collect();
        assert_eq!(kinds.len(), POLICIES.len());
        for policy in POLICIES {
            assert!(!policy.docs().is_empty() && !policy.since().is_empty(), "{}", policy.kind());
            assert!(!policy.target_kinds().is_empty() && !policy.versions().is_empty(), "{}", policy.kind());
        }
        let object = ObjectRef::new("gateway.networking.k8s.io", "BackendTLSPolicy", "a", "b");
        assert!(find(&object).is_some());
        assert!(find(&ObjectRef::new("", "BackendTLSPolicy", "a", "b")).is_none());
    }
}
