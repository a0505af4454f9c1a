//! Access logs (EnvoyProxy `telemetry.accessLog`).

use super::log_fields::{CONNECTION, REQUEST, STREAM};
use super::sink::{Found, Named, Sink};
use super::{Cx, at, grpc};
use crate::BackendRef;
use crate::lowering::any;
use crate::operators;
use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLog, AccessLogFilter, AndFilter, ExtensionFilter, OrFilter, ResponseFlagFilter, access_log,
    access_log_filter, extension_filter,
};
use envoy_types::pb::envoy::config::core::v3::{
    ApiVersion, DataSource, HeaderValue, SubstitutionFormatString, TypedExtensionConfig, data_source,
    substitution_format_string,
};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use envoy_types::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
};
use envoy_types::pb::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;
use envoy_types::pb::envoy::extensions::formatter::cel::v3::Cel;
use envoy_types::pb::envoy::extensions::formatter::metadata::v3::Metadata;
use envoy_types::pb::envoy::extensions::formatter::req_without_query::v3::ReqWithoutQuery;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use envoy_types::pb::opentelemetry::proto::common::v1::{AnyValue, KeyValue, KeyValueList, any_value};
use moorgate_model::FieldPath;
use prost::Message as _;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Deserialize)]
pub(super) struct Spec {
    #[serde(default)]
    disable: bool,
    #[serde(default)]
    settings: Vec<Setting>,
}

#[derive(Debug, Deserialize)]
struct Setting {
    format: Option<Format>,
    #[serde(default)]
    matches: Vec<String>,
    #[serde(default)]
    sinks: Vec<Where>,
    r#type: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Format {
    text: Option<String>,
    json: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Where {
    r#type: String,
    als: Option<Als>,
    file: Option<File>,
    open_telemetry: Option<OpenTelemetry>,
}

#[derive(Debug, Deserialize)]
struct File {
    path: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Als {
    backend_ref: Option<BackendRef>,
    #[serde(default)]
    backend_refs: Vec<Sink>,
    log_name: Option<String>,
    r#type: String,
    http: Option<AlsHttp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AlsHttp {
    #[serde(default)]
    request_headers: Vec<String>,
    #[serde(default)]
    response_headers: Vec<String>,
    #[serde(default)]
    response_trailers: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OpenTelemetry {
    backend_ref: Option<BackendRef>,
    #[serde(default)]
    backend_refs: Vec<Sink>,
    #[serde(default)]
    headers: Vec<Header>,
    resource_attributes: Option<BTreeMap<String, String>>,
    resources: Option<BTreeMap<String, String>>,
    host: Option<String>,
    port: Option<u16>,
}

/// Where a collector of OpenTelemetry listens, if nothing is said.
pub(super) const COLLECTOR: u16 = 4317;

#[derive(Debug, Deserialize)]
pub(super) struct Header {
    name: String,
    value: String,
}

impl Header {
    /// For a sink that reads operators and sends what is written all the same; none if it has a percent sign.
    pub(super) fn plain(&self) -> Option<HeaderValue> {
        (!self.value.contains('%')).then(|| self.lower())
    }

    pub(super) fn lower(&self) -> HeaderValue {
        HeaderValue {
            key: self.name.to_ascii_lowercase(),
            // A percent sign would begin one of Envoy's operators.
            value: self.value.replace('%', "%%"),
            ..Default::default()
        }
    }
}

/// Where a log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Requests,
    Connections,
    Listener,
}

/// Where lines go that say nothing else.
const STDOUT: &str = "/dev/stdout";
/// The name under which a service of access logs knows ours.
const LOG_NAME: &str = "accesslog";

pub(super) fn lower(spec: &Spec, cx: &mut Cx<'_, '_>) {
    if spec.settings.is_empty() && !spec.disable {
        return;
    }
    let mut logs: [Vec<Vec<u8>>; 3] = Default::default();
    let settings = spec.settings.iter().enumerate().filter(|_| !spec.disable);
    for (index, setting) in settings {
        let field = at("telemetry.accessLog.settings").index(index);
        let Some(filter) = matches(setting, &field, cx) else { continue };
        let places: &[Place] = match setting.r#type.as_deref() {
            Some("Listener") => &[Place::Listener],
            Some("Route") => &[Place::Requests, Place::Connections],
            Some("Upstream") => {
                let why = "each try at a backend has no log of its own";
                cx.find(field.key("type"), why, "write Route: a line says which backend answered");
                continue;
            }
            _ => &[Place::Requests, Place::Connections, Place::Listener],
        };
        for (number, sink) in setting.sinks.iter().enumerate() {
            let at = field.key("sinks").index(number);
            for place in places {
                let before = cx.out.findings.len();
                let log = sink_log(setting, sink, *place, &at, cx).map(|log| AccessLog {
                    filter: filters(filter.clone(), *place, setting.r#type.is_some()),
                    ..log
                });
                let log = log.filter(|log| cx.fits(log, true, at.clone(), "no line goes there"));
                // One finding for what is the same everywhere.
                if *place != Place::Requests && places.len() > 1 {
                    cx.out.findings.truncate(before);
                }
                if let Some((log, logs)) = log.zip(logs.get_mut(*place as usize)) {
                    logs.push(log.encode_to_vec());
                }
            }
        }
    }
    let [requests, connections, listener] = logs;
    let proxy = &mut cx.out.proxy;
    (proxy.request_logs, proxy.connection_logs, proxy.listener_logs) =
        (Some(requests), Some(connections), Some(listener));
}

/// The expressions of a setting; none if no line can be written.
#[allow(clippy::option_option, reason = "no filter is not the same as nothing")]
fn matches(setting: &Setting, at: &FieldPath, cx: &mut Cx<'_, '_>) -> Option<Option<AccessLogFilter>> {
    if setting.matches.is_empty() {
        return Some(None);
    }
    let mut found = Vec::new();
    for (index, text) in setting.matches.iter().enumerate() {
        match (cx.around.expression)(text) {
            Ok(()) => found.push(expression(text)),
            Err(why) => {
                let field = at.key("matches").index(index);
                let message = format!("{text:?} is no expression of CEL: {why}");
                cx.find(field, message, "it is never true: no line is written because of it");
            }
        }
    }
    match found.len() {
        0 => None,
        1 => Some(found.pop()),
        _ => Some(Some(AccessLogFilter {
            filter_specifier: Some(access_log_filter::FilterSpecifier::OrFilter(OrFilter { filters: found })),
        })),
    }
}

fn expression(text: &str) -> AccessLogFilter {
    let filter = ExtensionFilter {
        name: "envoy.access_loggers.extension_filters.cel".into(),
        config_type: Some(extension_filter::ConfigType::TypedConfig(any(&ExpressionFilter {
            expression: text.to_owned(),
            ..Default::default()
        }))),
    };
    AccessLogFilter { filter_specifier: Some(access_log_filter::FilterSpecifier::ExtensionFilter(filter)) }
}

/// A listener tells of connections that no filter chain is for, and of others only if it is asked for by name.
fn filters(own: Option<AccessLogFilter>, place: Place, named: bool) -> Option<AccessLogFilter> {
    if place != Place::Listener || named {
        return own;
    }
    let unmatched = AccessLogFilter {
        filter_specifier: Some(access_log_filter::FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter {
            flags: vec!["NR".into()],
        })),
    };
    Some(match own {
        None => unmatched,
        Some(own) => AccessLogFilter {
            filter_specifier: Some(access_log_filter::FilterSpecifier::AndFilter(AndFilter {
                filters: vec![unmatched, own],
            })),
        },
    })
}

fn sink_log(
    setting: &Setting,
    sink: &Where,
    place: Place,
    at: &FieldPath,
    cx: &mut Cx<'_, '_>,
) -> Option<AccessLog> {
    let log = |name: &str, config| AccessLog {
        name: name.to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(config)),
        ..Default::default()
    };
    match sink.r#type.as_str() {
        "File" => {
            let path = sink.file.as_ref().and_then(|file| file.path.as_deref()).unwrap_or(STDOUT);
            let format = format(setting, place, cx)?;
            let file = FileAccessLog {
                path: path.to_owned(),
                access_log_format: Some(file_access_log::AccessLogFormat::LogFormat(format)),
            };
            Some(log("envoy.access_loggers.file", any(&file)))
        }
        "ALS" => {
            let als = sink.als.as_ref()?;
            if als.r#type == "HTTP" && place != Place::Requests {
                // Such lines are of requests.
                return None;
            }
            let at = at.key("als");
            let (one, several) = (als.backend_ref.as_ref(), als.backend_refs.as_slice());
            let found = cx.sink(&at, &Named { one, several, outside: None, http2: true })?;
            let common = CommonGrpcAccessLogConfig {
                log_name: als.log_name.clone().unwrap_or_else(|| LOG_NAME.into()),
                grpc_service: Some(grpc(found.cluster, &found.authority, Vec::new())),
                transport_api_version: ApiVersion::V3.into(),
                ..Default::default()
            };
            if als.r#type == "TCP" {
                let tcp = TcpGrpcAccessLogConfig { common_config: Some(common) };
                return Some(log("envoy.access_loggers.tcp_grpc", any(&tcp)));
            }
            let headers = als.http.as_ref();
            let list = |of: fn(&AlsHttp) -> &Vec<String>| headers.map(of).cloned().unwrap_or_default();
            let http = HttpGrpcAccessLogConfig {
                common_config: Some(common),
                additional_request_headers_to_log: list(|http| &http.request_headers),
                additional_response_headers_to_log: list(|http| &http.response_headers),
                additional_response_trailers_to_log: list(|http| &http.response_trailers),
            };
            Some(log("envoy.access_loggers.http_grpc", any(&http)))
        }
        _ => {
            let collector = sink.open_telemetry.as_ref()?;
            let config = open_telemetry(setting, collector, place, &at.key("openTelemetry"), cx)?;
            Some(log("envoy.access_loggers.open_telemetry", any(&config)))
        }
    }
}

fn open_telemetry(
    setting: &Setting,
    collector: &OpenTelemetry,
    place: Place,
    at: &FieldPath,
    cx: &mut Cx<'_, '_>,
) -> Option<OpenTelemetryAccessLogConfig> {
    let format = format(setting, place, cx)?;
    let outside = collector.host.as_deref().map(|host| (host, collector.port.unwrap_or(COLLECTOR)));
    let (one, several) = (collector.backend_ref.as_ref(), collector.backend_refs.as_slice());
    let Found { cluster, authority } = cx.sink(at, &Named { one, several, outside, http2: true })?;
    let headers = collector.headers.iter().map(Header::lower).collect();
    let text = |text: &str| AnyValue { value: Some(any_value::Value::StringValue(text.to_owned())) };
    let pair = |(key, value): (&String, &String)| KeyValue {
        key: key.clone(),
        value: Some(text(value)),
        ..Default::default()
    };
    let resources = collector.resource_attributes.as_ref().or(collector.resources.as_ref());
    let (body, attributes) = match format.format {
        Some(substitution_format_string::Format::TextFormatSource(DataSource {
            specifier: Some(data_source::Specifier::InlineString(line)),
            ..
        })) => (Some(text(&line)), None),
        Some(substitution_format_string::Format::JsonFormat(fields)) => {
            let fields: BTreeMap<String, String> = fields
                .fields
                .into_iter()
                .filter_map(|(key, value)| match value.kind {
                    Some(Kind::StringValue(text)) => Some((key, text)),
                    _ => None,
                })
                .collect();
            (None, Some(KeyValueList { values: fields.iter().map(pair).collect() }))
        }
        _ => (None, None),
    };
    Some(OpenTelemetryAccessLogConfig {
        grpc_service: Some(grpc(cluster, &authority, headers)),
        resource_attributes: resources.map(|all| KeyValueList { values: all.iter().map(pair).collect() }),
        body,
        attributes,
        formatters: format.formatters,
        ..Default::default()
    })
}

/// What a line says: as it is written, or as ever.
fn format(setting: &Setting, place: Place, cx: &mut Cx<'_, '_>) -> Option<SubstitutionFormatString> {
    let json = |fields: BTreeMap<String, String>| {
        let value = |text| Value { kind: Some(Kind::StringValue(text)) };
        let fields = fields.into_iter().map(|(name, text)| (name, value(text))).collect();
        substitution_format_string::Format::JsonFormat(Struct { fields })
    };
    let (format, texts) = match &setting.format {
        Some(Format { text: Some(line), .. }) => {
            let specifier = Some(data_source::Specifier::InlineString(line.clone()));
            let source = DataSource { specifier, ..Default::default() };
            (substitution_format_string::Format::TextFormatSource(source), vec![("text", line.clone())])
        }
        Some(Format { json: Some(fields), .. }) => {
            (json(fields.clone()), fields.values().map(|text| ("json", text.clone())).collect())
        }
        _ => {
            let usual = match place {
                Place::Requests => REQUEST,
                Place::Connections => STREAM,
                Place::Listener => CONNECTION,
            };
            let fields = usual.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
            (json(fields.collect()), Vec::new())
        }
    };
    let mut formatters: BTreeMap<&'static str, TypedExtensionConfig> = BTreeMap::new();
    for (kind, text) in &texts {
        let field = at("telemetry.accessLog.settings").key("format").key(kind);
        let operators = cx.format(text, operators::logged, &field, "nothing is logged in this format")?;
        formatters.extend(operators.iter().filter_map(|operator| extension(operator.name)));
    }
    let formatters = formatters.into_values().collect();
    Some(SubstitutionFormatString { format: Some(format), formatters, ..Default::default() })
}

/// Operators that are extensions.
fn extension(name: &str) -> Option<(&'static str, TypedExtensionConfig)> {
    let (name, config) = match name {
        "REQ_WITHOUT_QUERY" => ("envoy.formatter.req_without_query", any(&ReqWithoutQuery {})),
        "METADATA" => ("envoy.formatter.metadata", any(&Metadata {})),
        "CEL" => ("envoy.formatter.cel", any(&Cel::default())),
        _ => return None,
    };
    Some((name, TypedExtensionConfig { name: name.into(), typed_config: Some(config) }))
}
