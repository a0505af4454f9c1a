//! Access logs: one JSON object a line on standard output.

use super::value;
use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLog, AccessLogFilter, ResponseFlagFilter, access_log, access_log_filter,
};
use envoy_types::pb::envoy::config::core::v3::{SubstitutionFormatString, substitution_format_string};
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::{
    StdoutAccessLog, stdout_access_log::AccessLogFormat,
};
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use moorgate_policies::proxy::log_fields::{CONNECTION, REQUEST, STREAM};
use prost::Message as _;

/// The logs that an EnvoyProxy asks for, or the usual one.
pub(super) fn or_usual(asked: Option<&[Vec<u8>]>, usual: fn() -> AccessLog) -> Vec<AccessLog> {
    match asked {
        // They were encoded from messages.
        Some(logs) => logs.iter().filter_map(|log| AccessLog::decode(log.as_slice()).ok()).collect(),
        None => vec![usual()],
    }
}

/// The log of requests.
pub(super) fn requests() -> AccessLog {
    log(REQUEST, None)
}

/// The log of connections that carry anything but HTTP.
pub(super) fn connections() -> AccessLog {
    log(STREAM, None)
}

/// The log of connections whose server name no filter chain is for: they leave no trace elsewhere.
pub(super) fn unmatched_connections() -> AccessLog {
    let filter = access_log_filter::FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter {
        flags: vec!["NR".into()],
    });
    log(CONNECTION, Some(AccessLogFilter { filter_specifier: Some(filter) }))
}

fn log(fields: &[(&str, &str)], filter: Option<AccessLogFilter>) -> AccessLog {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let fields = fields.iter().map(|(name, format)| ((*name).to_owned(), text(format))).collect();
    let format = SubstitutionFormatString {
        format: Some(substitution_format_string::Format::JsonFormat(Struct { fields })),
        ..Default::default()
    };
    let stdout = StdoutAccessLog { access_log_format: Some(AccessLogFormat::LogFormat(format)) };
    AccessLog {
        name: "envoy.access_loggers.stdout".into(),
        filter,
        config_type: Some(access_log::ConfigType::TypedConfig(value::any(&stdout))),
    }
}
