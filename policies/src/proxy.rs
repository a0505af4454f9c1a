//! EnvoyProxy: what the parameters of a class or Gateway say of all Envoys of a fleet (as far as it is Envoy's configuration;
//! how pods and Services look is `render`'s matter).
//!
//! ```text
//! EnvoyProxy of the class ─▶ (merged with that of the Gateway) ─▶ lower ─▶ ir::Proxy ─▶ connection managers, listeners, clusters
//! ```
//! What cannot be carried out costs itself: a sink that is not there gets no lines, and requests go on.

mod access_log;
mod backend_tls;
pub mod bootstrap;
pub(crate) mod databases;
mod health_log;
pub mod log_fields;
mod metrics;
pub(crate) mod modules;
mod order;
mod sink;
mod tracing;

pub use metrics::named_cluster;
pub use modules::REMOTE as REMOTE_MODULE;

use crate::World;
use crate::operators::{self, Operator};
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::{GrpcService, HeaderValue};
use moorgate_model::diagnostic::policy::PARAMETER_UNUSABLE;
use moorgate_model::ir::{BindFamily, Patch, Proxy};
use moorgate_model::node::decode;
use moorgate_model::{Diagnostic, FieldPath, Object};
use prost::{Message, Name};
use serde::Deserialize;

/// The fields below `spec` that are carried out here, with everything below them.
pub const FIELDS: &[&str] = &[
    "backendTLS.alpnProtocols",
    "backendTLS.ciphers",
    "backendTLS.clientCertificateRef",
    "backendTLS.ecdhCurves",
    "backendTLS.maxVersion",
    "backendTLS.minVersion",
    "backendTLS.signatureAlgorithms",
    "bootstrap.jsonPatches",
    "bootstrap.type",
    "bootstrap.value",
    "dynamicModules.doNotClose",
    "dynamicModules.loadGlobally",
    "dynamicModules.name",
    "dynamicModules.source.local",
    "dynamicModules.source.type",
    "filterOrder",
    "geoIP",
    "ipFamily",
    "luaValidation",
    "mergeBackends",
    "mergeGateways",
    "mergeType",
    "preserveRouteOrder",
    "routingType",
    "telemetry.accessLog.disable",
    "telemetry.accessLog.settings.format",
    "telemetry.accessLog.settings.matches",
    "telemetry.accessLog.settings.sinks.als.backendRef",
    "telemetry.accessLog.settings.sinks.als.backendRefs",
    "telemetry.accessLog.settings.sinks.als.backendSettings",
    "telemetry.accessLog.settings.sinks.als.http",
    "telemetry.accessLog.settings.sinks.als.logName",
    "telemetry.accessLog.settings.sinks.als.type",
    "telemetry.accessLog.settings.sinks.file",
    "telemetry.accessLog.settings.sinks.openTelemetry.backendRef",
    "telemetry.accessLog.settings.sinks.openTelemetry.backendRefs",
    "telemetry.accessLog.settings.sinks.openTelemetry.backendSettings",
    "telemetry.accessLog.settings.sinks.openTelemetry.headers",
    "telemetry.accessLog.settings.sinks.openTelemetry.host",
    "telemetry.accessLog.settings.sinks.openTelemetry.port",
    "telemetry.accessLog.settings.sinks.openTelemetry.resourceAttributes",
    "telemetry.accessLog.settings.sinks.openTelemetry.resources",
    "telemetry.accessLog.settings.sinks.type",
    "telemetry.accessLog.settings.type",
    "telemetry.healthCheckLog",
    "telemetry.metrics.clusterStatName",
    "telemetry.metrics.enableGRPCStats",
    "telemetry.metrics.enablePerEndpointStats",
    "telemetry.metrics.enableRequestResponseSizesStats",
    "telemetry.metrics.enableVirtualHostStats",
    "telemetry.metrics.matches",
    "telemetry.metrics.prometheus",
    "telemetry.metrics.sinks.openTelemetry.backendRef",
    "telemetry.metrics.sinks.openTelemetry.backendRefs",
    "telemetry.metrics.sinks.openTelemetry.backendSettings",
    "telemetry.metrics.sinks.openTelemetry.headers",
    "telemetry.metrics.sinks.openTelemetry.host",
    "telemetry.metrics.sinks.openTelemetry.port",
    "telemetry.metrics.sinks.openTelemetry.reportCountersAsDeltas",
    "telemetry.metrics.sinks.openTelemetry.reportHistogramsAsDeltas",
    "telemetry.metrics.sinks.openTelemetry.resourceAttributes",
    "telemetry.metrics.sinks.type",
    "telemetry.requestID",
    "telemetry.tracing.clientSamplingFraction",
    "telemetry.tracing.customTags",
    "telemetry.tracing.overallSamplingFraction",
    "telemetry.tracing.provider.backendRef",
    "telemetry.tracing.provider.backendRefs",
    "telemetry.tracing.provider.backendSettings",
    "telemetry.tracing.provider.host",
    "telemetry.tracing.provider.openTelemetry",
    "telemetry.tracing.provider.port",
    "telemetry.tracing.provider.serviceName",
    "telemetry.tracing.provider.type",
    "telemetry.tracing.provider.zipkin",
    "telemetry.tracing.samplingFraction",
    "telemetry.tracing.samplingRate",
    "telemetry.tracing.spanName",
    "telemetry.tracing.tags",
];

/// What it does, for the reference.
pub const DOCS: &str = "\
What holds for all Envoys of a fleet. accessLog: each setting says in which format (text or JSON of Envoy's operators), for which requests \
(expressions of CEL, of which one has to be true) and to which sinks (files, a gRPC access log service, OpenTelemetry) lines go; without \
settings they go to standard output as JSON, and disable stops them. A sink is the first of backendRefs, or host and port (plain text), reached as backendSettings say. tracing sends spans to OpenTelemetry, Zipkin or Datadog, with \
sampling, tags and names; an XTelemetryPolicy on the Gateway comes first. metrics: Envoys show their statistics to Prometheus at \
/stats/prometheus of a port of their own (prometheus: disable, compression), and send them to collectors of OpenTelemetry (sinks); matches \
says which there are, clusterStatName what those of a route's clusters are called, and the enable fields count virtual hosts, endpoints, sizes \
and calls of gRPC. bootstrap replaces, merges or patches what Envoys start with; how they find their relay stays as it is. filterOrder moves filters of requests before or behind others. \
dynamicModules registers modules that policies may run inside of Envoy, by the absolute paths of their files beside it (see dynamic_module). \
geoIP names databases of MaxMind's format by their paths beside each Envoy, for rules by where a client is (see client_location). \
healthCheckLog has what \
active health checks find written to files beside Envoy, where a BackendTrafficPolicy does not say it otherwise. \
backendTLS bounds TLS to backends that have it, says which protocols are offered (alpnProtocols) and which certificate is shown to them. ipFamily says which addresses listeners \
bind, preserveRouteOrder that rules are tried as they are written, routingType whether Services are reached by their own addresses \
(Service) where no BackendTrafficPolicy says it. luaValidation says how strictly scripts are looked at (see lua). \
mergeGateways, in the parameters of a class, has one fleet serve all of its Gateways, as --merge-class does. A backend has one cluster, however \
many rules name it; with mergeBackends.selector that holds for chosen backends only, and each rule has a cluster of its own for all others. mergeType puts the parameters of a Gateway over those of its class. \
What cannot be carried out costs itself (MG4106). The rest shapes pods and Service: see moorgate render.";

/// What the rest of the source knows.
pub struct Around<'a> {
    /// Backends.
    pub world: &'a mut dyn World,
    /// Whether Envoy takes a text for an expression of CEL.
    pub expression: &'a dyn Fn(&str) -> Result<(), String>,
    /// The service name of spans where nothing is said.
    pub service: String,
}

/// What came of an EnvoyProxy.
#[derive(Debug, Default)]
pub struct Lowered {
    /// The settings.
    pub proxy: Proxy,
    /// What cannot be carried out.
    pub findings: Vec<Diagnostic>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    telemetry: Telemetry,
    #[serde(rename = "backendTLS")]
    backend_tls: Option<backend_tls::Spec>,
    #[serde(default)]
    filter_order: Vec<order::Position>,
    ip_family: Option<String>,
    #[serde(default)]
    preserve_route_order: bool,
    routing_type: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Telemetry {
    access_log: Option<access_log::Spec>,
    health_check_log: Option<crate::health_check::Log>,
    metrics: Option<metrics::Spec>,
    tracing: Option<tracing::Spec>,
    #[serde(rename = "requestID")]
    request_id: Option<tracing::RequestId>,
}

/// Lowering of one object.
struct Cx<'a, 'w> {
    object: &'a Object,
    around: Around<'w>,
    out: Lowered,
}

/// Lowers the `spec` of an EnvoyProxy, or of one that was merged with that of the class.
pub fn lower(object: &Object, around: Around<'_>) -> Lowered {
    let spec = object.root.get("spec").map(decode::<Spec>);
    let spec = match spec {
        // Its schema was checked; what is wrong there is said there.
        None | Some(Err(_)) => return Lowered::default(),
        Some(Ok(spec)) => spec,
    };
    let mut cx = Cx { object, around, out: Lowered::default() };
    if let Some(log) = &spec.telemetry.access_log {
        access_log::lower(log, &mut cx);
    }
    if let Some(tracing) = &spec.telemetry.tracing {
        cx.out.proxy.tracing = tracing::lower(tracing, &mut cx);
    }
    if let Some(request_id) = &spec.telemetry.request_id {
        let manager = tracing::request_id(request_id);
        cx.out.proxy.manager.push(patch(&manager, &[]));
    }
    if let Some(log) = &spec.telemetry.health_check_log {
        health_log::lower(log, &mut cx);
    }
    if let Some(metrics) = &spec.telemetry.metrics {
        metrics::lower(metrics, &mut cx);
    }
    if let Some(tls) = &spec.backend_tls {
        backend_tls::lower(tls, &mut cx);
    }
    databases::check(&mut cx);
    let own = object.root.get("spec").and_then(|spec| spec.get("bootstrap"));
    cx.out.proxy.startup.own = own.and_then(bootstrap::read);
    cx.out.proxy.order = spec.filter_order.iter().filter_map(order::Position::lower).collect();
    cx.out.proxy.keeps_order = spec.preserve_route_order;
    cx.out.proxy.by_service = spec.routing_type.as_deref() == Some("Service");
    cx.out.proxy.family = match spec.ip_family.as_deref() {
        Some("IPv6") => BindFamily::V6,
        Some("DualStack") => BindFamily::Dual,
        _ => BindFamily::V4,
    };
    cx.out
}

fn patch<M: Message>(message: &M, clear: &[&[u32]]) -> Patch {
    let clear = clear.iter().map(|path| path.to_vec()).collect();
    Patch { message: message.encode_to_vec(), clear, first: false }
}

fn at(path: &str) -> FieldPath {
    FieldPath::root().key("spec").join(&FieldPath::parse(path))
}

impl Cx<'_, '_> {
    /// Something that is not carried out, and what that costs.
    fn find(&mut self, field: FieldPath, message: impl Into<String>, help: &str) {
        let finding = self.object.diagnostic(&PARAMETER_UNUSABLE, field, message);
        self.out.findings.push(finding.help(help));
    }

    /// The operators of a text, if Envoy takes it for a format where it is read so.
    fn judged<'t>(
        &self,
        text: &'t str,
        read: fn(&'t str) -> Result<Vec<Operator<'t>>, String>,
    ) -> Result<Vec<Operator<'t>>, String> {
        let judged = operators::judged(text, read, self.around.expression);
        judged.map_err(|why| format!("{text:?} is no format of Envoy's: {why}"))
    }

    /// The same; what it is not costs what is said.
    fn format<'t>(
        &mut self,
        text: &'t str,
        read: fn(&'t str) -> Result<Vec<Operator<'t>>, String>,
        field: &FieldPath,
        help: &str,
    ) -> Option<Vec<Operator<'t>>> {
        self.judged(text, read).map_err(|why| self.find(field.clone(), why, help)).ok()
    }

    /// Whether Envoy takes a message for what a field asks. One that it does not take has no effect: it would cost the
    /// fleet every release.
    fn fits<M: Message + Name>(&mut self, message: &M, whole: bool, field: FieldPath, help: &str) -> bool {
        let judged = self.around.world.fits(&M::type_url(), &message.encode_to_vec(), whole);
        if let Err(why) = &judged {
            self.find(field, format!("Envoy does not take it: {why}"), help);
        }
        judged.is_ok()
    }
}

/// A service that is asked by gRPC. The name of a cluster is none that a server knows.
fn grpc(cluster: String, authority: &str, headers: Vec<HeaderValue>) -> GrpcService {
    GrpcService {
        initial_metadata: headers,
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: cluster,
            authority: authority.to_owned(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
