//! How paths are read (ClientTrafficPolicy `path`).

use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::PathWithEscapedSlashesAction,
};
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct PathSettings;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    path: Option<Settings>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Settings {
    escaped_slashes_action: Option<String>,
    disable_merge_slashes: Option<bool>,
}

/// Of the connection manager: `path_with_escaped_slashes_action`, `merge_slashes`
const ESCAPED: &[u32] = &[45];
const MERGE: &[u32] = &[33];

impl Capability for PathSettings {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "path_settings",
        kind: Kind::ClientTraffic,
        fields: &["path"],
        except: &[],
        since: "0.1.0",
        docs: "\
How a path is read before routes are looked at: escapedSlashesAction (UnescapeAndRedirect, UnescapeAndForward, KeepUnchanged, \
RejectRequest) for %2F and %5C, disableMergeSlashes to keep // as it is. Dots are always resolved.",
        effect: Effect::ConnectionManager,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(settings) = &spec.path else { return };
        let mut manager = HttpConnectionManager::default();
        let mut clear: Vec<&[u32]> = Vec::new();
        if let Some(action) = &settings.escaped_slashes_action {
            let action = match action.as_str() {
                "KeepUnchanged" => PathWithEscapedSlashesAction::KeepUnchanged,
                "RejectRequest" => PathWithEscapedSlashesAction::RejectRequest,
                "UnescapeAndRedirect" => PathWithEscapedSlashesAction::UnescapeAndRedirect,
                "UnescapeAndForward" => PathWithEscapedSlashesAction::UnescapeAndForward,
                other => {
                    let at = FieldPath::parse("spec.path.escapedSlashesAction");
                    return cx.invalid(at, &format!("action {other:?} is not known"));
                }
            };
            manager.set_path_with_escaped_slashes_action(action);
            clear.push(ESCAPED);
        }
        if let Some(disable) = settings.disable_merge_slashes {
            manager.merge_slashes = !disable;
            clear.push(MERGE);
        }
        if !clear.is_empty() {
            cx.manager(&manager, &clear);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};

    #[test]
    fn every_action_and_slashes() {
        for (action, number) in [
            ("KeepUnchanged", 1),
            ("RejectRequest", 2),
            ("UnescapeAndRedirect", 3),
            ("UnescapeAndForward", 4),
        ] {
            let spec =
                format!(r#"{{"path": {{"escapedSlashesAction": "{action}", "disableMergeSlashes": true}}}}"#);
            let compiled = testing::compile(Kind::ClientTraffic, &spec);
            let part = &compiled.parts["path_settings"].manager;
            let manager: HttpConnectionManager = patched(part);
            assert_eq!((manager.path_with_escaped_slashes_action, manager.merge_slashes), (number, false));
            assert_eq!(part[0].clear, [vec![45], vec![33]]);
        }
        let wrong = testing::compile(Kind::ClientTraffic, r#"{"path": {"escapedSlashesAction": "Guess"}}"#);
        assert_eq!(testing::said(&wrong), ["MG4002 spec.path.escapedSlashesAction"]);
    }
}
