//! Values that may hold credentials or personal data become digests.

use super::FieldChange;
use moorgate_snapshot::Digest;
use serde_json::Value;

/// Names of fields whose text is a value of the user's rather than structure: header values, bodies, inline data.
const VALUES: [&str; 7] = ["value", "inlineString", "inlineBytes", "exact", "regex", "safeRegex", "password"];

/// Headers of what goes to a service over gRPC.
const METADATA: &str = "initialMetadata";

/// Fields below which values are matched against requests of clients: shown, because they are the route itself.
const SHOWN: [&str; 3] = ["pathSeparatedPrefix", "path", "prefix"];

/// Replaces what must not be shown; the same value always has the same digest, so that equality can be seen.
pub(super) fn redact(change: &mut FieldChange) {
    let name = change.field.rsplit('.').next().unwrap_or_default().to_owned();
    let headers = ["eadersTo", "headers[", METADATA].iter().any(|part| change.field.contains(part));
    for side in [&mut change.before, &mut change.after].into_iter().flatten() {
        walk(&name, headers, side);
    }
}

fn walk(name: &str, headers: bool, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let headers = headers || key.contains("eadersTo") || key == "headers" || key == METADATA;
                walk(key, headers, value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| walk(name, headers, item)),
        Value::String(text) if !SHOWN.contains(&name) && is_value(name, headers) => {
            *text = format!("sha256:{}", Digest::of(text.as_bytes()).short());
        }
        _ => {}
    }
}

fn is_value(name: &str, headers: bool) -> bool {
    let plain = name.trim_end_matches(|c: char| c == ']' || c == '[' || c.is_ascii_digit());
    matches!(plain, "inlineString" | "inlineBytes" | "password") || (headers && VALUES.contains(&plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn header_values_and_bodies_become_digests() {
        let mut change = FieldChange {
            field: "requestHeadersToAdd[0].header".into(),
            before: Some(json!({"key": "authorization", "value": "Bearer secret"})),
            after: Some(json!({"key": "authorization", "value": "Bearer other"})),
        };
        redact(&mut change);
        let (before, after) = (change.before.unwrap().to_string(), change.after.unwrap().to_string());
        assert!(!before.contains("secret") && before.contains("sha256:") && before.contains("authorization"));
        assert_ne!(before, after);
        let mut metadata = FieldChange {
            field: "filterChains[0].filters[0].typedConfig.tracing.provider.typedConfig.grpcService".into(),
            before: Some(json!({"initialMetadata": [{"key": "authorization", "value": "Bearer secret"}]})),
            after: None,
        };
        redact(&mut metadata);
        assert!(metadata.before.unwrap().to_string().contains("sha256:"));
        let mut value = FieldChange {
            field: "tracing.provider.typedConfig.grpcService.initialMetadata[0].value".into(),
            before: Some(json!("Bearer secret")),
            after: None,
        };
        redact(&mut value);
        assert!(value.before.unwrap().as_str().unwrap().starts_with("sha256:"));
        let mut path = FieldChange { field: "match.path".into(), before: Some(json!("/a")), after: None };
        redact(&mut path);
        assert_eq!(path.before, Some(json!("/a")));
    }
}
