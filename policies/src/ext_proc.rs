//! Services that see and change requests and responses (EnvoyExtensionPolicy `extProc`).

use crate::lowering::{Asked, milliseconds, time};
use crate::{About, BackendRef, Capability, Effect, Kind, Lowering, place};
use envoy_types::pb::envoy::config::core::v3::GrpcService;
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::{
    BodySendMode, HeaderSendMode,
};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::{
    ExternalProcessor, MetadataOptions, ProcessingMode, external_processor::RouteCacheAction,
    metadata_options::MetadataNamespaces,
};
use envoy_types::pb::envoy::r#type::v3::{HttpStatus, StatusCode};
use envoy_types::pb::google::protobuf::Any;
use moorgate_model::FieldPath;
use serde::Deserialize;
use std::time::Duration;

/// The capability.
pub(crate) struct ExtProc;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    #[serde(default)]
    ext_proc: Vec<Processor>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Processor {
    backend_ref: Option<BackendRef>,
    #[serde(default)]
    backend_refs: Vec<BackendRef>,
    message_timeout: Option<String>,
    fail_open: Option<bool>,
    processing_mode: Option<Mode>,
    shadow_mode: Option<bool>,
    metadata: Option<Metadata>,
    status_on_error: Option<i32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mode {
    request: Option<Side>,
    response: Option<Side>,
    #[serde(default)]
    allow_mode_override: bool,
}

#[derive(Debug, Deserialize)]
struct Side {
    body: Option<String>,
    #[serde(default)]
    attributes: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    accessible_namespaces: Vec<String>,
    #[serde(default)]
    writable_namespaces: Vec<String>,
}

const NAME: &str = "envoy.filters.http.ext_proc";
/// As what a service is addressed.
const HOST: &str = "processor";
/// As the API says, a service that has not answered a message by then has failed.
const TIMEOUT: Duration = Duration::from_millis(200);
/// Attributes begin with one of these; others are expressions that Envoy might not read.
const ATTRIBUTES: [&str; 7] =
    ["connection.", "destination.", "request.", "response.", "source.", "upstream.", "xds.route"];

impl Capability for ExtProc {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "ext_proc",
        kind: Kind::Extension,
        fields: &["extProc"],
        except: &[],
        since: "0.2.0",
        docs: "\
Services see requests and responses and may change or answer them (envoy.service.ext_proc.v3, over gRPC), in their order. processingMode says \
what they see: headers of a side that is named, and its body (Streamed, Buffered, BufferedPartial, FullDuplexStreamed with trailers), with \
attributes. messageTimeout (200ms), metadata that they are told and may write, shadowMode (they are told, and not waited for). A service that fails answers \
500, or statusOnError; with failOpen requests pass. A request stays with its route, also if a service asks for the \
route to be looked for again (clear_route_cache). How it is reached stands in backendSettings, in the words of BackendTrafficPolicy.",
        effect: Effect::Filter {
            name: NAME,
            place: place::EXTERNAL_PROCESSING,
            why: "services change what scripts have prepared for them",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let at = FieldPath::parse("spec.extProc");
        for (index, processor) in spec.ext_proc.iter().enumerate() {
            let at = at.index(index);
            let Some(filter) = lower(processor, &at, index, cx) else { return };
            // The filter has settings of routes for a part of this only, so it stands on listeners whole, under a name of its
            // own, which stays when its settings change.
            let on = FilterConfig { config: Some(Any::default()), ..Default::default() };
            let off = FilterConfig { disabled: true, ..Default::default() };
            let name = format!("{NAME}/{}", cx.own_name(&index.to_string()));
            cx.busy_filter((&name, place::EXTERNAL_PROCESSING), &filter, &on, &off);
        }
    }
}

fn lower(
    processor: &Processor,
    at: &FieldPath,
    index: usize,
    cx: &mut Lowering<'_>,
) -> Option<ExternalProcessor> {
    let asked = Asked {
        one: processor.backend_ref.as_ref(),
        several: &processor.backend_refs,
        outside: None,
        named_by: "backendRefs",
        http2: true,
    };
    let open = processor.fail_open == Some(true);
    let mode = processor.processing_mode.as_ref();
    let sides = [
        ("request", mode.and_then(|mode| mode.request.as_ref())),
        ("response", mode.and_then(|mode| mode.response.as_ref())),
    ];
    let mut bodies = [BodySendMode::None; 2];
    for (body, (key, side)) in bodies.iter_mut().zip(sides) {
        let Some(side) = side else { continue };
        let at = at.key("processingMode").key(key);
        *body = body_mode(side, &at, open, cx)?;
        let wrong = |name: &String| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !ATTRIBUTES.iter().any(|known| name.starts_with(known)) || !name.bytes().all(plain)
        };
        if let Some(index) = side.attributes.iter().position(wrong) {
            cx.invalid(at.key("attributes").index(index), "there is no attribute of this name");
            return None;
        }
    }
    let status_on_error = match processor.status_on_error {
        Some(code) if !(400..600).contains(&code) || StatusCode::try_from(code).is_err() => {
            cx.invalid(at.key("statusOnError"), "it is a status of 400 to 599 that Envoy knows");
            return None;
        }
        found => found.map(|code| HttpStatus { code }),
    };
    let wait = time(cx, &at.key("messageTimeout"), processor.message_timeout.as_deref());
    let provider = cx.provider(at, asked, &format!("ext_proc{index}"))?;
    let headers =
        |side: Option<&Side>| if side.is_some() { HeaderSendMode::Send } else { HeaderSendMode::Skip }.into();
    let trailers = |body: BodySendMode| {
        let whole = body == BodySendMode::FullDuplexStreamed;
        if whole { HeaderSendMode::Send } else { HeaderSendMode::Skip }.into()
    };
    let attributes = |side: Option<&Side>| side.map(|side| side.attributes.clone()).unwrap_or_default();
    let [(_, request), (_, response)] = sides;
    let [request_body, response_body] = bodies;
    Some(ExternalProcessor {
        grpc_service: Some(GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                cluster_name: provider.cluster,
                authority: HOST.into(),
                ..Default::default()
            })),
            timeout: provider.timeout.map(milliseconds),
            retry_policy: provider.retry,
            ..Default::default()
        }),
        failure_mode_allow: open,
        processing_mode: Some(ProcessingMode {
            request_header_mode: headers(request),
            response_header_mode: headers(response),
            request_body_mode: request_body.into(),
            response_body_mode: response_body.into(),
            request_trailer_mode: trailers(request_body),
            response_trailer_mode: trailers(response_body),
        }),
        request_attributes: attributes(request),
        response_attributes: attributes(response),
        message_timeout: Some(milliseconds(wait.unwrap_or(TIMEOUT))),
        allow_mode_override: mode.is_some_and(|mode| mode.allow_mode_override),
        metadata_options: processor.metadata.as_ref().map(metadata),
        observability_mode: processor.shadow_mode == Some(true),
        // Filters that stand before would not be asked what another route asks of them.
        route_cache_action: RouteCacheAction::Retain.into(),
        status_on_error,
        ..Default::default()
    })
}

fn body_mode(side: &Side, at: &FieldPath, open: bool, cx: &mut Lowering<'_>) -> Option<BodySendMode> {
    let at = at.key("body");
    Some(match side.body.as_deref() {
        None => BodySendMode::None,
        Some("Streamed") => BodySendMode::Streamed,
        Some("Buffered") => BodySendMode::Buffered,
        Some("BufferedPartial") => BodySendMode::BufferedPartial,
        Some("FullDuplexStreamed") if open => {
            cx.invalid(
                at,
                "a body that the service sends on itself cannot go on without it: failOpen is true",
            );
            return None;
        }
        Some("FullDuplexStreamed") => BodySendMode::FullDuplexStreamed,
        Some(other) => {
            cx.invalid(at, &format!("{other:?} is no way to send a body"));
            return None;
        }
    })
}

fn metadata(metadata: &Metadata) -> MetadataOptions {
    let namespaces = |names: &[String]| {
        (!names.is_empty()).then(|| MetadataNamespaces { untyped: names.to_vec(), ..Default::default() })
    };
    MetadataOptions {
        forwarding_namespaces: namespaces(&metadata.accessible_namespaces),
        receiving_namespaces: namespaces(&metadata.writable_namespaces),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;
    use prost::Message as _;

    fn spec(more: &str) -> String {
        format!(r#"{{"extProc": [{{"backendRefs": [{{"name": "proc", "port": 9000}}]{more}}}]}}"#)
    }

    fn filter(more: &str) -> ExternalProcessor {
        let compiled = testing::compile(Kind::Extension, &spec(more));
        assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
        let [filter] = compiled.parts["ext_proc"].filters.as_slice() else { panic!("one filter") };
        assert_eq!(filter.name, "envoy.filters.http.ext_proc/shop/guard/0");
        ExternalProcessor::decode(filter.base.value.as_slice()).unwrap()
    }

    #[test]
    fn what_a_service_sees_and_may_do() {
        let plain = filter("");
        let mode = plain.processing_mode.unwrap();
        assert_eq!(mode.request_header_mode(), HeaderSendMode::Skip);
        assert!(!plain.failure_mode_allow && !plain.allow_mode_override && !plain.observability_mode);
        assert_eq!(plain.message_timeout, Some(milliseconds(TIMEOUT)));
        let Some(TargetSpecifier::EnvoyGrpc(target)) = plain.grpc_service.unwrap().target_specifier else {
            panic!("by Envoy")
        };
        assert_eq!(target.cluster_name, "shop/proc/9000+h2");
        let full = filter(
            r#", "failOpen": true, "messageTimeout": "1s", "shadowMode": true, "statusOnError": 503,
            "processingMode": {"request": {"body": "Buffered", "attributes": ["request.path", "xds.route_name"]}, "response": {}, "allowModeOverride": true},
            "metadata": {"accessibleNamespaces": ["a"], "writableNamespaces": ["b"]}"#,
        );
        let mode = full.processing_mode.unwrap();
        assert_eq!(
            (mode.request_header_mode(), mode.response_header_mode()),
            (HeaderSendMode::Send, HeaderSendMode::Send)
        );
        assert_eq!(
            (mode.request_body_mode(), mode.response_body_mode()),
            (BodySendMode::Buffered, BodySendMode::None)
        );
        assert_eq!((full.request_attributes.len(), full.status_on_error.unwrap().code), (2, 503));
        let options = full.metadata_options.unwrap();
        assert_eq!(options.forwarding_namespaces.unwrap().untyped, ["a"]);
        assert_eq!(options.receiving_namespaces.unwrap().untyped, ["b"]);
        assert!(full.failure_mode_allow && full.allow_mode_override && full.observability_mode);
        let duplex = filter(r#", "processingMode": {"response": {"body": "FullDuplexStreamed"}}"#)
            .processing_mode
            .unwrap();
        assert_eq!(
            (duplex.response_trailer_mode(), duplex.request_trailer_mode()),
            (HeaderSendMode::Send, HeaderSendMode::Skip)
        );
    }

    #[test]
    fn what_cannot_be_carried_out_closes() {
        for (more, field) in [
            (r#", "statusOnError": 200"#, ".statusOnError"),
            (r#", "messageTimeout": "x""#, ".messageTimeout"),
            (r#", "processingMode": {"request": {"body": "All"}}"#, ".processingMode.request.body"),
            (
                r#", "failOpen": true, "processingMode": {"request": {"body": "FullDuplexStreamed"}}"#,
                ".processingMode.request.body",
            ),
            (
                r#", "processingMode": {"response": {"attributes": ["request.path", "1 + 1"]}}"#,
                ".processingMode.response.attributes[1]",
            ),
        ] {
            let compiled = testing::compile(Kind::Extension, &spec(more));
            let said = format!("MG4002 spec.extProc[0]{field}");
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said], true), "{more}");
        }
        let gone = spec("").replace("proc\"", "gone\"");
        assert!(testing::compile(Kind::Extension, &gone).closed);
    }
}
