//! What is sent to endpoints and expected of them, and who is told of it.

use crate::Lowering;
use crate::lowering::any;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::core::v3::health_check::{self, payload::Payload as Bytes};
use envoy_types::pb::envoy::extensions::health_check::event_sinks::file::v3::HealthCheckEventFileSink;
use moorgate_model::FieldPath;
use serde::Deserialize;
use std::fmt::Write as _;

#[derive(Debug, Deserialize)]
pub(super) struct Payload {
    text: Option<String>,
    binary: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Log {
    #[serde(default)]
    sinks: Vec<Sink>,
    #[serde(default)]
    matches: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Sink {
    file: Option<File>,
}

#[derive(Debug, Deserialize)]
struct File {
    path: String,
}

/// What is sent or expected; the outer none if it is wrong.
#[expect(clippy::option_option, reason = "wrong and absent are two things")]
pub(super) fn payload(
    found: Option<&Payload>,
    at: &FieldPath,
    cx: &mut Lowering<'_>,
) -> Option<Option<health_check::Payload>> {
    let Some(found) = found else { return Some(None) };
    let bytes = match (&found.text, &found.binary) {
        (Some(text), None) if !text.is_empty() => {
            let hex = text.bytes().fold(String::new(), |mut hex, byte| {
                // A String takes everything.
                let _ = write!(hex, "{byte:02x}");
                hex
            });
            Some(Bytes::Text(hex))
        }
        (None, Some(binary)) => {
            STANDARD.decode(binary).ok().filter(|bytes| !bytes.is_empty()).map(Bytes::Binary)
        }
        _ => None,
    };
    if bytes.is_none() {
        cx.invalid(at.clone(), "it is neither a text nor bytes in base64");
        return None;
    }
    Some(Some(health_check::Payload { payload: bytes }))
}

/// Where is written without a choice.
const OUTPUT: &str = "/dev/stdout";

/// The sinks, and whether each failure and each success is told, or only the first of a row.
///
/// # Errors
/// The position of a sink without a path.
pub(crate) fn logged(log: &Log) -> Result<(Vec<TypedExtensionConfig>, bool, bool), usize> {
    let mut sinks = Vec::new();
    let written = log.sinks.iter().map(|sink| sink.file.as_ref().map(|file| file.path.as_str()));
    let written: Vec<&str> = written.map(Option::unwrap_or_default).collect();
    for (index, path) in if written.is_empty() { &[OUTPUT][..] } else { &written }.iter().enumerate() {
        if path.is_empty() || path.chars().any(char::is_control) {
            return Err(index);
        }
        let config = HealthCheckEventFileSink { event_log_path: (*path).to_owned() };
        sinks.push(TypedExtensionConfig {
            name: "envoy.health_check.event_sinks.file".into(),
            typed_config: Some(any(&config)),
        });
    }
    // Without a choice everything is told.
    let each = |name: &str| log.matches.is_empty() || log.matches.iter().any(|found| found == name);
    Ok((sinks, each("Failure"), each("Success")))
}
