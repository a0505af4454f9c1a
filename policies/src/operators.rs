//! Texts with Envoy's command operators (`%REQ(x-user)%`): one that Envoy does not read costs it the whole message that holds
//! it, so only operators that are known are let through.

/// Operators that stand alone.
const PLAIN: &[&str] = &[
    "BYTES_RECEIVED",
    "BYTES_SENT",
    "CONNECTION_ID",
    "CONNECTION_TERMINATION_DETAILS",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_ADDRESS",
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_PORT",
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_ISSUER",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_SUBJECT",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_REMOTE_ADDRESS",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_REMOTE_PORT",
    "DOWNSTREAM_TLS_CIPHER",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TLS_VERSION",
    "DURATION",
    "HOSTNAME",
    "LOCAL_REPLY_BODY",
    "PROTOCOL",
    "REQUESTED_SERVER_NAME",
    "REQUEST_DURATION",
    "RESPONSE_CODE",
    "RESPONSE_CODE_DETAILS",
    "RESPONSE_DURATION",
    "RESPONSE_FLAGS",
    "RESPONSE_FLAGS_LONG",
    "ROUTE_NAME",
    "START_TIME",
    "STREAM_ID",
    "TRACE_ID",
    "UPSTREAM_CLUSTER",
    "UPSTREAM_HOST",
    "UPSTREAM_REMOTE_ADDRESS",
    "UPSTREAM_TRANSPORT_FAILURE_REASON",
    "VIRTUAL_CLUSTER_NAME",
];
/// Operators that name something in parentheses.
const NAMED: &[&str] = &["DYNAMIC_METADATA", "FILTER_STATE", "REQ", "RESP", "START_TIME", "TRAILER"];

/// Why Envoy would not take a text, if so. A percent sign that stands for itself is written twice.
pub(crate) fn check(text: &str) -> Result<(), String> {
    let mut rest = text;
    while let Some(start) = rest.find('%') {
        let inside = rest.get(start + 1..).unwrap_or_default();
        if let Some(after) = inside.strip_prefix('%') {
            rest = after;
            continue;
        }
        let name = inside.split(|c: char| !c.is_ascii_uppercase() && c != '_' && !c.is_ascii_digit());
        let name = name.into_iter().next().unwrap_or_default();
        let mut after = inside.get(name.len()..).unwrap_or_default();
        let mut known = PLAIN;
        if let Some(arguments) = after.strip_prefix('(') {
            known = NAMED;
            let end = arguments.find(')').filter(|end| *end > 0);
            let end = end.ok_or_else(|| format!("%{name}( has no end, or nothing inside"))?;
            let plain = |c: char| c.is_ascii_graphic() || c == ' ';
            if !arguments.get(..end).is_some_and(|inside| inside.chars().all(|c| plain(c) && c != '(')) {
                return Err(format!("what %{name} names is no plain text"));
            }
            after = arguments.get(end + 1..).unwrap_or_default();
        }
        if !known.contains(&name) {
            return Err(format!("%{name} is no operator that is known; a percent sign is written %%"));
        }
        if let Some(length) = after.strip_prefix(':') {
            let digits = length.bytes().take_while(u8::is_ascii_digit).count();
            if !(1..=6).contains(&digits) {
                return Err(format!("the length behind %{name} is no number"));
            }
            after = length.get(digits..).unwrap_or_default();
        }
        rest = after.strip_prefix('%').ok_or_else(|| format!("%{name} has no percent sign at its end"))?;
    }
    Ok(())
}

/// A text that stands for itself.
pub(crate) fn literal(text: &str) -> String {
    text.replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_that_are_known_and_others() {
        for text in [
            "",
            "plain",
            "100%%",
            "%RESPONSE_CODE%",
            "a %REQ(x-user?:authority):10% b",
            "%START_TIME%",
            "%DYNAMIC_METADATA(a:b)%%PROTOCOL%",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        for text in [
            "100%",
            "%",
            "%REQ%",
            "%REQ()%",
            "%REQ(a%",
            "%req(a)%",
            "%ENVIRONMENT(KEY)%",
            "%PROTOCOL",
            "%PROTOCOL:x%",
            "%PROTOCOL(a)%",
            "%REQ(a\u{1})%",
        ] {
            assert!(check(text).is_err(), "{text}");
        }
        assert_eq!(check(&literal("100% %REQ(a)%")), Ok(()));
    }
}
