//! Session persistence (GEP-1619): a client keeps its endpoint.

use moorgate_model::ir::Session;
use moorgate_model::{FieldPath, ObjectRef, duration};
use serde::Deserialize;

/// `sessionPersistence` of a rule, a policy or a backend.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionPersistence {
    absolute_timeout: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    cookie: Option<SessionCookie>,
    header: Option<SessionHeader>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SessionCookie {
    name: Option<String>,
    path: Option<String>,
    lifetime_type: Option<String>,
}

#[derive(Debug, Deserialize)]
struct SessionHeader {
    name: String,
}

/// The session, and what of it Envoy cannot do: a field and what to say of it. `part` tells the rules of an object apart.
pub fn session(
    spec: &SessionPersistence,
    at: &FieldPath,
    owner: &ObjectRef,
    part: &str,
) -> (Option<Session>, Option<(FieldPath, &'static str)>) {
    let absolute = spec.absolute_timeout.as_deref().and_then(duration::parse).filter(|time| !time.is_zero());
    let field = at.key("absoluteTimeout");
    if spec.kind.as_deref() == Some("Header") {
        let note = absolute.map(|_| (field, "a session by header has no time limit"));
        let session =
            spec.header.as_ref().map(|header| Session::Header { name: header.name.to_ascii_lowercase() });
        return (session, note);
    }
    let cookie = spec.cookie.as_ref();
    let permanent = cookie.and_then(|cookie| cookie.lifetime_type.as_deref()) == Some("Permanent");
    let note = absolute
        .filter(|_| !permanent)
        .map(|_| (field, "a session cookie has no time limit: a limit needs lifetimeType Permanent"));
    let name = cookie.and_then(|cookie| cookie.name.clone()).unwrap_or_else(|| own_name(owner, part));
    let path = cookie.and_then(|cookie| cookie.path.clone()).unwrap_or_else(|| "/".into());
    (Some(Session::Cookie { name, path, ttl: absolute.filter(|_| permanent) }), note)
}

/// A cookie name that no other rule has, and that stays while the rule keeps its name or place.
fn own_name(owner: &ObjectRef, part: &str) -> String {
    // FNV-1a: it tells names apart and protects nothing.
    let text = format!("{owner}\0{part}");
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("moorgate-session-{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn cookies_and_headers() {
        let owner = ObjectRef::new("gateway.networking.k8s.io", "HTTPRoute", "shop", "cart");
        let at = FieldPath::root();
        let cookie = |name: Option<&str>, lifetime: &str| SessionPersistence {
            absolute_timeout: Some("1h".into()),
            kind: None,
            cookie: Some(SessionCookie {
                name: name.map(Into::into),
                path: None,
                lifetime_type: Some(lifetime.into()),
            }),
            header: None,
        };
        let (found, note) = session(&cookie(Some("a"), "Permanent"), &at, &owner, "0");
        let ttl = Some(Duration::from_hours(1));
        assert_eq!(found, Some(Session::Cookie { name: "a".into(), path: "/".into(), ttl }));
        assert_eq!(note, None);
        let (found, note) = session(&cookie(None, "Session"), &at, &owner, "0");
        let Some(Session::Cookie { name, ttl: None, .. }) = found else { panic!("{found:?}") };
        assert!(name.starts_with("moorgate-session-") && name.len() == 33, "{name}");
        assert!(note.is_some());
        let (other, _) = session(&cookie(None, "Session"), &at, &owner, "1");
        assert_ne!(other, Some(Session::Cookie { name, path: "/".into(), ttl: None }));
        let header = SessionPersistence {
            absolute_timeout: None,
            kind: Some("Header".into()),
            cookie: None,
            header: Some(SessionHeader { name: "X-Session".into() }),
        };
        assert_eq!(
            session(&header, &at, &owner, "0"),
            (Some(Session::Header { name: "x-session".into() }), None)
        );
    }
}
