//! Session persistence: requests of one client go to one endpoint, as a cookie or header says.

use super::value;
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::{
    StatefulSession, StatefulSessionPerRoute, stateful_session_per_route,
};
use envoy_types::pb::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
use envoy_types::pb::envoy::extensions::http::stateful_session::header::v3::HeaderBasedSessionState;
use envoy_types::pb::envoy::r#type::http::v3::Cookie;
use moorgate_model::ir::Session;

/// The filter's name, under which a route keeps its session.
pub(super) const FILTER: &str = "envoy.filters.http.stateful_session";

/// The filter as listeners have it: without a session.
pub(super) fn filter() -> StatefulSession {
    StatefulSession::default()
}

/// What a route says. An endpoint that is gone is replaced by another, and the client told so.
pub(super) fn lower(session: &Session) -> StatefulSessionPerRoute {
    let (name, typed_config) = match session {
        Session::Cookie { name, path, ttl } => {
            let cookie = Cookie {
                name: name.clone(),
                ttl: Some(value::duration(ttl.unwrap_or_default())),
                path: path.clone(),
                attributes: Vec::new(),
            };
            let state = CookieBasedSessionState { cookie: Some(cookie) };
            ("envoy.http.stateful_session.cookie", value::any(&state))
        }
        Session::Header { name } => {
            let state = HeaderBasedSessionState { name: name.clone() };
            ("envoy.http.stateful_session.header", value::any(&state))
        }
    };
    let state = TypedExtensionConfig { name: name.into(), typed_config: Some(typed_config) };
    StatefulSessionPerRoute {
        r#override: Some(stateful_session_per_route::Override::StatefulSession(StatefulSession {
            session_state: Some(state),
            ..Default::default()
        })),
    }
}
