//! `XTelemetryPolicy` (Gateway API v1.7, experimental, GEP-4768): what a Gateway tells a collector of its requests.

#[cfg(test)]
mod tests;

use crate::{BackendRef, Context, Effects, Policy, Report, TargetKind};
use moorgate_model::FieldPath;
use moorgate_model::diagnostic::policy::{POLICY_APPROXIMATE, POLICY_INVALID};
use moorgate_model::ir::{SpanAttribute, SpanProtocol, SpanValue, Tracing};
use serde::Deserialize;

/// The policy.
#[derive(Debug)]
pub struct XTelemetry;

/// Spans and whom they are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telemetry {
    /// Who takes the spans: a reference that `attach` follows.
    pub collector: BackendRef,
    /// The spans. Cluster, authority and protocol are the collector's, and an empty service name is to be that of the
    /// Gateway: `attach` knows them.
    pub tracing: Tracing,
}

impl Telemetry {
    /// Where a policy names its collector.
    pub fn collector_field() -> FieldPath {
        tracing().key("provider").key("backendRef")
    }
}

/// `spec`.
#[derive(Debug, Deserialize)]
pub struct Spec {
    tracing: Option<TracingSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TracingSpec {
    mode: Option<String>,
    provider: Option<Provider>,
    sampling_rate: Option<Fraction>,
    parent_based_sampling: Option<ParentBasedSampling>,
    service_name: Option<String>,
    span_name: Option<String>,
    #[serde(default)]
    attributes: Vec<Attribute>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Provider {
    backend_ref: BackendRef,
    #[serde(default)]
    headers: Vec<Header>,
}

#[derive(Debug, Deserialize)]
struct Header {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
struct Fraction {
    numerator: u32,
    #[serde(default = "hundred")]
    denominator: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ParentBasedSampling {
    mode: Option<String>,
    sampling_rate: Option<Fraction>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attribute {
    name: String,
    source_type: String,
    header_name: Option<String>,
    literal_value: Option<String>,
    #[serde(rename = "attributeKey")]
    key: Option<String>,
}

fn hundred() -> u32 {
    100
}

/// Headers that belong to the transport: Envoy or the protocol of spans sets them.
const FRAMING: [&str; 10] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// OpenTelemetry's semantic conventions (HTTP, URL, network, TLS, user agent, RPC) and what Envoy has of them. What Envoy
/// writes in another form than they ask for is left out, such as `HTTP/2` for `2`.
const CONVENTIONS: &[(&str, &str)] = &[
    ("client.address", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
    ("client.port", "%DOWNSTREAM_REMOTE_PORT%"),
    ("http.request.body.size", "%BYTES_RECEIVED%"),
    ("http.request.method", "%REQ(:METHOD)%"),
    ("http.response.body.size", "%BYTES_SENT%"),
    ("http.response.status_code", "%RESPONSE_CODE%"),
    ("network.local.address", "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%"),
    ("network.local.port", "%DOWNSTREAM_LOCAL_PORT%"),
    ("network.peer.address", "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"),
    ("network.peer.port", "%DOWNSTREAM_DIRECT_REMOTE_PORT%"),
    ("rpc.grpc.status_code", "%GRPC_STATUS_NUMBER%"),
    ("tls.client.issuer", "%DOWNSTREAM_PEER_ISSUER%"),
    ("tls.client.server_name", "%REQUESTED_SERVER_NAME%"),
    ("tls.client.subject", "%DOWNSTREAM_PEER_SUBJECT%"),
    ("url.path", "%PATH(NQ:ORIG)%"),
    ("url.scheme", "%REQ(:SCHEME)%"),
    ("user_agent.original", "%REQ(USER-AGENT)%"),
];

fn tracing() -> FieldPath {
    FieldPath::root().key("spec").key("tracing")
}

impl Policy for XTelemetry {
    type Spec = Spec;
    const GROUP: &'static str = "gateway.networking.x-k8s.io";
    const KIND: &'static str = "XTelemetryPolicy";
    const VERSIONS: &'static [&'static str] = &["v1alpha1"];
    const TARGETS: &'static [TargetKind] =
        &[TargetKind { group: "gateway.networking.k8s.io", kind: "Gateway" }];
    const SINCE: &'static str = "0.1.0";
    const FILE: &'static str = "telemetry";
    const DOCS: &'static str = "\
Requests to the targeted Gateways become spans, which go to the collector that tracing.provider names: over OTLP/HTTP if \
its port is 4318, its appProtocol is http or https, or an XBackend's protocol is HTTP or HTTP11, and over OTLP/gRPC \
otherwise. samplingRate is the share of new traces (all without it). A request that carries a traceparent is sampled if \
its parent is; with parentBasedSampling.mode Disabled it is treated like a new one. serviceName is NAME.NAMESPACE of the \
Gateway by default, or the class's name where Gateways share a fleet. Attributes come from a header of the request, or of \
the response if the request has none of the name, from a text, or from one of those of OpenTelemetry's semantic \
conventions that Envoy knows; they are texts. A policy that is not valid has no effect: requests are served without spans.";

    /// What the published schema says already, again where Envoy would refuse a listener for it.
    fn validate(spec: &Spec, report: &mut Report<'_>) {
        let Some(spec) = spec.tracing.as_ref().filter(|spec| is_enabled(spec)) else { return };
        let at = tracing();
        let Some(provider) = &spec.provider else {
            return invalid(report, at.key("provider"), "no provider is set, although the mode is Enabled");
        };
        for (index, Header { name, value }) in provider.headers.iter().enumerate() {
            let field = at.key("provider").key("headers").index(index);
            if FRAMING.contains(&&*name.to_ascii_lowercase()) || name.starts_with(':') {
                invalid(report, field.key("name"), &format!("header {name:?} cannot be set"));
            }
            if value.chars().any(|c| c.is_control() && c != '\t') {
                let message = format!("the value of header {name:?} holds control characters");
                invalid(report, field.key("value"), &message);
            } else if value.contains('%') {
                // Over gRPC there is no way to write one: doubled it arrives doubled.
                let message = format!(
                    "the value of header {name:?} holds a percent sign, which Envoy takes for a command"
                );
                invalid(report, field.key("value"), &message);
            }
        }
        if spec.sampling_rate.as_ref().is_some_and(|rate| rate.numerator > rate.denominator) {
            invalid(report, at.key("samplingRate"), "the numerator is greater than the denominator");
        }
        if let Some(rate) =
            spec.parent_based_sampling.as_ref().and_then(|parent| parent.sampling_rate.as_ref())
            && rate.numerator != rate.denominator
        {
            let field = at.key("parentBasedSampling").key("samplingRate");
            let message = "Envoy follows its parent spans' decisions for all of them: a share of them cannot be sampled";
            invalid(report, field, message);
        }
    }

    fn lower(spec: &Spec, _: &Context<'_>, report: &mut Report<'_>) -> Effects {
        let Some(spec) = spec.tracing.as_ref().filter(|spec| is_enabled(spec)) else {
            return Effects::default();
        };
        let Some(provider) = &spec.provider else { return Effects::default() };
        let mut headers: Vec<(String, String)> = Vec::new();
        for Header { name, value } in &provider.headers {
            let name = name.to_ascii_lowercase();
            // Of names that mean the same the first counts (HTTPHeader `name`).
            if headers.iter().all(|(other, _)| *other != name) {
                headers.push((name, value.clone()));
            }
        }
        let parent = spec.parent_based_sampling.as_ref().and_then(|parent| parent.mode.as_deref());
        let sampling = spec.sampling_rate.as_ref();
        let tracing = Tracing {
            cluster: String::new(),
            authority: String::new(),
            protocol: SpanProtocol::Grpc,
            headers,
            service_name: spec.service_name.clone().unwrap_or_default(),
            span_name: spec.span_name.clone(),
            sampling: sampling.map_or((100, 100), |rate| (rate.numerator, rate.denominator.max(1))),
            follows_parent: parent != Some("Disabled"),
            attributes: attributes(&spec.attributes, report),
        };
        let telemetry = Telemetry { collector: provider.backend_ref.clone(), tracing };
        Effects { telemetry: Some(telemetry), ..Effects::default() }
    }

    /// It restricts nobody: without it there are no spans.
    fn refused() -> Effects {
        Effects::default()
    }
}

fn is_enabled(spec: &TracingSpec) -> bool {
    spec.mode.as_deref() == Some("Enabled")
}

fn invalid(report: &mut Report<'_>, field: FieldPath, message: &str) {
    report.find(&POLICY_INVALID, field, message, "requests are served, and no spans are sent");
    report.reject("Invalid", message);
}

/// Those that Envoy can fill; of others the report tells, and the rest goes on without them (GEP-4768, "gracefully omit it
/// or signal the limitation").
fn attributes(list: &[Attribute], report: &mut Report<'_>) -> Vec<SpanAttribute> {
    let mut out = Vec::new();
    for (index, attribute) in list.iter().enumerate() {
        let value = match (attribute.source_type.as_str(), attribute) {
            ("Header", Attribute { header_name: Some(name), .. }) => Some(header(name)),
            ("Literal", Attribute { literal_value: Some(text), .. }) => {
                Some(SpanValue::Literal(text.clone()))
            }
            ("Attribute", Attribute { key: Some(key), .. }) => convention(key),
            _ => None,
        };
        if let Some(value) = value {
            out.push(SpanAttribute { name: attribute.name.clone(), value });
        } else {
            let field = tracing().key("attributes").index(index);
            let key = attribute.key.as_deref().unwrap_or_default();
            let message = format!("Envoy has no {key:?}: spans go without attribute {:?}", attribute.name);
            report.find(&POLICY_APPROXIMATE, field.key("attributeKey"), &message, "");
            report.remark(&message);
        }
    }
    out
}

/// True if a name can stand in a format string as it is.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// A header of the request, or else of the response.
fn header(name: &str) -> SpanValue {
    let name = name.to_ascii_lowercase();
    if !is_plain(&name) {
        return SpanValue::Header(name);
    }
    let of = |command: &str| format!("{{\"command\":\"{command}\",\"param\":\"{name}\"}}");
    SpanValue::Format(format!("%COALESCE({{\"operators\":[{},{}]}})%", of("REQ"), of("RESP")))
}

/// The value of an attribute that semantic conventions name.
fn convention(key: &str) -> Option<SpanValue> {
    if let Ok(found) = CONVENTIONS.binary_search_by(|(name, _)| (*name).cmp(key)) {
        return CONVENTIONS.get(found).map(|(_, format)| SpanValue::Format((*format).to_owned()));
    }
    let request = key.strip_prefix("http.request.header.").map(|name| ("REQ", name));
    let (command, name) =
        request.or_else(|| key.strip_prefix("http.response.header.").map(|name| ("RESP", name)))?;
    (!name.is_empty() && is_plain(name)).then(|| SpanValue::Format(format!("%{command}({name})%")))
}
