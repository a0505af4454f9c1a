//! What the Envoys of a fleet start with, beyond what all have: statistics, and a user's own bootstrap over all of it.
//!
//! ```text
//! xds::bootstrap ─▶ statistics ─▶ own: Replace, Merge or JSONPatch ─▶ guard: finds its relay as before ─▶ envoy.json
//!                                 └─▶ checked against Envoy's descriptors while compiling (parameters)
//! ```
//! Pure. A bootstrap that cannot be used is found where its EnvoyProxy is checked, with samples of how Envoys of all models
//! start; what is left to go wrong here is an error of this fleet alone.

mod guard;
mod own;
mod replace;
#[cfg(test)]
mod tests;

use crate::parameters::Fault;
use crate::xds::{self, AdsProtocol, BootstrapOptions, RelayToken, Shown, XdsError};
use envoy_types::pb::envoy::config::core::v3::GrpcService;
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::extensions::stat_sinks::open_telemetry::v3::{SinkConfig, sink_config};
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use moorgate_model::ir::{self, AppProtocol, ClusterPolicies, Direct, DirectAddress, DirectEndpoint};
use moorgate_model::{FieldPath, Node, Value as NodeValue};
use moorgate_policies::proxy::bootstrap;
use prost::Message as _;
use serde_json::Value;
use thiserror::Error;

/// Why a fleet has no bootstrap.
#[derive(Debug, Error)]
pub enum StartupError {
    /// A message of the fleet cannot be printed.
    #[error(transparent)]
    Xds(#[from] XdsError),
    /// The user's own bootstrap does not go with this one.
    #[error("the EnvoyProxy's bootstrap.{field}: {message}")]
    Own {
        /// The field below `bootstrap`.
        field: FieldPath,
        /// What is wrong.
        message: String,
    },
}

/// Something about a field below `bootstrap`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    /// The field.
    pub(crate) field: FieldPath,
    /// In one sentence.
    pub(crate) message: String,
}

/// A bootstrap with all that a fleet says of how its Envoys start. Statistics are shown at `shown`; nothing static may listen
/// on the ports `taken`.
///
/// # Errors
/// The fleet's own bootstrap does not go with this one.
pub fn complete(
    bootstrap: Value,
    proxy: &ir::Proxy,
    shown: Option<&Shown>,
    taken: &[u16],
) -> Result<Value, StartupError> {
    let base = xds::with_metrics(bootstrap, proxy, shown)?;
    let Some(own) = &proxy.startup.own else { return Ok(base) };
    let applied = own::apply(&base, own, taken);
    applied
        .map(|applied| applied.bootstrap)
        .map_err(|Said { field, message }| StartupError::Own { field, message })
}

/// The port of probes in pods of all models, as far as no listener has it.
const PROBES: u16 = 19001;

/// What is wrong with the bootstrap in the `spec` of an EnvoyProxy.
pub(crate) fn check(spec: &Node) -> Vec<Fault> {
    let at = FieldPath::root().key("bootstrap");
    let Some(written) = spec.get("bootstrap").filter(|node| node.value != NodeValue::Null) else {
        return Vec::new();
    };
    let Some(own) = bootstrap::read(written) else {
        let message = "bootstrap says nothing: it has a value, or patches with type JSONPatch".to_owned();
        return vec![Fault { field: at, message, fatal: true }];
    };
    let fault = |said: Said, fatal: bool| {
        let field = at.join(&said.field);
        Fault { message: format!("{field}: {}", said.message), field, fatal }
    };
    match tried(&sample(spec), &own) {
        Ok(notes) => notes.into_iter().map(|said| fault(said, false)).collect(),
        Err(said) => vec![fault(said, true)],
    }
}

/// Why a fleet's own bootstrap cannot be used with what else it says; it may come of two EnvoyProxies that were merged.
pub(crate) fn refused(proxy: &ir::Proxy) -> Option<Said> {
    tried(proxy, proxy.startup.own.as_ref()?).err()
}

/// What Envoys of a fleet start with, with names that mean nothing: what people compare. Field names are in lowerCamelCase, as
/// in all that is compared. None if it cannot be made.
pub fn comparable(proxy: &ir::Proxy) -> Option<Value> {
    let sample = samples(proxy).ok()?.into_iter().next()?;
    let made = match &proxy.startup.own {
        Some(own) => own::apply(&sample, own, &[PROBES]).ok()?.bootstrap,
        None => sample,
    };
    let bytes = xds::json::parse(xds::BOOTSTRAP_TYPE, &made).ok()?;
    xds::json::message(xds::BOOTSTRAP_TYPE, &bytes).ok()
}

/// What is said of a bootstrap whose Envoys start like those of any model.
fn tried(proxy: &ir::Proxy, own: &ir::OwnBootstrap) -> Result<Vec<Said>, Said> {
    let mut notes = None;
    let samples = samples(proxy).map_err(|why| own::said(&FieldPath::root(), why.to_string()))?;
    for sample in samples {
        let applied = own::apply(&sample, own, &[PROBES])?;
        // What is said of the first is said of all.
        notes.get_or_insert(applied.notes);
    }
    Ok(notes.unwrap_or_default())
}

/// Bootstraps as `render` makes them for its models, with names that mean nothing.
fn samples(proxy: &ir::Proxy) -> Result<Vec<Value>, XdsError> {
    let options = |relay: &str| BootstrapOptions {
        fleet: "sample/sample".into(),
        relay: relay.into(),
        admin: "unix:/run/moorgate/envoy-admin.sock".into(),
        node: "sample".into(),
        protocol: AdsProtocol::Delta,
        zone: None,
    };
    let token = |hands_over: Option<String>| {
        let token = RelayToken { file: "/run/token".into(), ca: "/etc/ca.pem".into(), hands_over };
        xds::bootstrap_with_token(&options("relays.sample.svc:18000"), &token)
    };
    let ready = |bootstrap| xds::answering_probes(bootstrap, PROBES);
    let plain = xds::bootstrap(&options("unix:/run/moorgate/relay.sock"));
    let all =
        [plain, token(None).map(ready), token(Some("/run/other".into())).map(ready)].into_iter().flatten();
    let shown = Shown::everywhere(PROBES + 1, proxy.family);
    all.map(|bootstrap| xds::with_metrics(bootstrap, proxy, Some(&shown))).collect()
}

/// What a `spec` says of statistics, as far as it changes where things stand in a bootstrap.
fn sample(spec: &Node) -> ir::Proxy {
    let metrics = spec.at(&FieldPath::parse("telemetry.metrics"));
    let of = |path: &str| metrics.and_then(|metrics| metrics.at(&FieldPath::parse(path)));
    let mut proxy = ir::Proxy::default();
    proxy.startup.unscraped = of("prometheus.disable").and_then(Node::as_bool) == Some(true);
    // Which ones changes no place.
    let matched =
        || StringMatcher { match_pattern: Some(MatchPattern::Exact("sample".into())), ..Default::default() };
    proxy.startup.kept = of("matches").and_then(Node::as_sequence).map(|_| vec![matched().encode_to_vec()]);
    let sinks = of("sinks").and_then(Node::as_sequence).unwrap_or_default();
    proxy.startup.sinks = (0..sinks.len()).map(sample_sink).collect();
    proxy
}

fn sample_sink(index: usize) -> ir::MetricSink {
    let name = format!("moorgate-metrics-{index}");
    let service = GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: name.clone(),
            ..EnvoyGrpc::default()
        })),
        ..GrpcService::default()
    };
    let config = SinkConfig {
        protocol_specifier: Some(sink_config::ProtocolSpecifier::GrpcService(service)),
        ..SinkConfig::default()
    };
    let address = DirectAddress::Host("collector.invalid".into(), 4317);
    let endpoint = DirectEndpoint { address, hostname: None, zone: None };
    let cluster = ir::Cluster {
        protocol: AppProtocol::Http2,
        tls: None,
        eds_name: String::new(),
        sources: vec![ir::EndpointSource::of_direct("", Direct::Endpoint(endpoint))],
        retry_budget: None,
        policies: ClusterPolicies::default(),
    };
    ir::MetricSink {
        index,
        config: config.encode_to_vec(),
        backend: name.clone(),
        name,
        cluster: Some(cluster),
        authorities: None,
    }
}
