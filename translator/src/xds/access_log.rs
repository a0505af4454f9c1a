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

/// What a line says about a request. Paths are logged without their query, where people put tokens.
const REQUEST: &[(&str, &str)] = &[
    ("start_time", "%START_TIME%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("filter_chain", "%FILTER_CHAIN_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%PATH(NQ:ORIG)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

/// What a line says about a connection whose bytes went to a backend.
const STREAM: &[(&str, &str)] = &[
    ("start_time", "%START_TIME%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("downstream_transport_failure_reason", "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("duration", "%DURATION%"),
    ("filter_chain", "%FILTER_CHAIN_NAME%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
];

/// What a line says about a connection that met no filter chain.
const CONNECTION: &[(&str, &str)] = &[
    ("start_time", "%START_TIME%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("downstream_transport_failure_reason", "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("duration", "%DURATION%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
];

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
