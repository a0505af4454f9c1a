//! How a connection manager reads requests before it looks at routes: as ever, or as a ClientTrafficPolicy says.

use super::patch;
use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::config::core::v3::http_protocol_options::HeadersWithUnderscoresAction as Underscored;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::PathWithEscapedSlashesAction as Escaped;
use moorgate_model::ir::FilterChain;

/// What happens to an escaped slash in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slashes {
    /// It stays.
    Keep,
    /// 400.
    Reject,
    /// 307 to the path without escapes.
    Redirect,
    /// It becomes a slash.
    Forward,
}

/// What happens to a header whose name has a `_`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Underscores {
    /// Nothing.
    Allow,
    /// The request is answered with 400.
    Reject,
    /// Nobody sees it.
    Drop,
}

/// The settings of a filter chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Slashes in a row become one.
    pub merge: bool,
    /// Escaped slashes.
    pub escaped: Slashes,
    /// Headers with a `_` in their names.
    pub underscores: Underscores,
}

impl Default for Reading {
    fn default() -> Self {
        Self { merge: true, escaped: Slashes::Redirect, underscores: Underscores::Reject }
    }
}

impl Reading {
    /// Those of a chain: what policies put over what every chain has.
    pub fn of(chain: &FilterChain) -> Self {
        let Some(policies) = chain.policies.as_ref().filter(|policies| !policies.manager.is_empty()) else {
            return Self::default();
        };
        let mut manager = HttpConnectionManager {
            merge_slashes: true,
            path_with_escaped_slashes_action: Escaped::UnescapeAndRedirect.into(),
            common_http_protocol_options: Some(HttpProtocolOptions {
                headers_with_underscores_action: Underscored::RejectRequest.into(),
                ..HttpProtocolOptions::default()
            }),
            ..HttpConnectionManager::default()
        };
        patch::apply(&mut manager, &policies.manager);
        Self::in_manager(&manager)
    }

    /// Those of a connection manager.
    pub(crate) fn in_manager(manager: &HttpConnectionManager) -> Self {
        let common = manager.common_http_protocol_options.as_ref();
        Self {
            merge: manager.merge_slashes,
            escaped: match manager.path_with_escaped_slashes_action() {
                Escaped::RejectRequest => Slashes::Reject,
                Escaped::UnescapeAndRedirect => Slashes::Redirect,
                Escaped::UnescapeAndForward => Slashes::Forward,
                Escaped::KeepUnchanged | Escaped::ImplementationSpecificDefault => Slashes::Keep,
            },
            underscores: match common.map(HttpProtocolOptions::headers_with_underscores_action) {
                Some(Underscored::RejectRequest) => Underscores::Reject,
                Some(Underscored::DropHeader) => Underscores::Drop,
                Some(Underscored::Allow) | None => Underscores::Allow,
            },
        }
    }
}
