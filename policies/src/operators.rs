//! Texts with Envoy's command operators (`%REQ(X-USER)%`): Envoy refuses the whole message for one that it does not read, so
//! they are read here first.
//!
//! The lists and forms are those that the oldest supported Envoy takes ("command operators" of its access log), found by asking
//! it; the suite `policies` asks all supported ones again.

/// Operators that stand alone.
const PLAIN: &[&str] = &[
    "ACCESS_LOG_TYPE",
    "BYTES_RECEIVED",
    "BYTES_RETRANSMITTED",
    "BYTES_SENT",
    "CONNECTION_ID",
    "CONNECTION_TERMINATION_DETAILS",
    "CUSTOM_FLAGS",
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
    "DOWNSTREAM_DETECTED_CLOSE_TYPE",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID",
    "DOWNSTREAM_DIRECT_LOCAL_PORT",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    "DOWNSTREAM_DIRECT_REMOTE_PORT",
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "DOWNSTREAM_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_HEADER_BYTES_SENT",
    "DOWNSTREAM_LOCAL_ADDRESS",
    "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID",
    "DOWNSTREAM_LOCAL_CLOSE_REASON",
    "DOWNSTREAM_LOCAL_DNS_SAN",
    "DOWNSTREAM_LOCAL_EMAIL_SAN",
    "DOWNSTREAM_LOCAL_IP_SAN",
    "DOWNSTREAM_LOCAL_OTHERNAME_SAN",
    "DOWNSTREAM_LOCAL_PORT",
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
    "DOWNSTREAM_PEER_CHAIN_SERIALS",
    "DOWNSTREAM_PEER_DNS_SAN",
    "DOWNSTREAM_PEER_EMAIL_SAN",
    "DOWNSTREAM_PEER_FINGERPRINT_1",
    "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_IP_SAN",
    "DOWNSTREAM_PEER_ISSUER",
    "DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_ISSUER_SERIAL",
    "DOWNSTREAM_PEER_OTHERNAME_SAN",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_SUBJECT",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_REMOTE_ADDRESS",
    "DOWNSTREAM_REMOTE_PORT",
    "DOWNSTREAM_TLS_CIPHER",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TLS_VERSION",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "DOWNSTREAM_WIRE_BYTES_RECEIVED",
    "DOWNSTREAM_WIRE_BYTES_SENT",
    "DURATION",
    "FILTER_CHAIN_NAME",
    "GRPC_STATUS_NUMBER",
    "HOSTNAME",
    "LOCAL_REPLY_BODY",
    "PACKETS_RETRANSMITTED",
    "PROTOCOL",
    "REQUEST_DURATION",
    "REQUEST_HEADERS_BYTES",
    "REQUEST_TX_DURATION",
    "RESPONSE_CODE",
    "RESPONSE_DURATION",
    "RESPONSE_FLAGS",
    "RESPONSE_FLAGS_LONG",
    "RESPONSE_HEADERS_BYTES",
    "RESPONSE_TRAILERS_BYTES",
    "RESPONSE_TX_DURATION",
    "ROUNDTRIP_DURATION",
    "ROUTE_NAME",
    "SPAN_ID",
    "STREAM_ID",
    "TLS_JA3_FINGERPRINT",
    "TLS_JA4_FINGERPRINT",
    "TRACE_ID",
    "UNIQUE_ID",
    "UPSTREAM_CLUSTER",
    "UPSTREAM_CLUSTER_RAW",
    "UPSTREAM_CONNECTION_ID",
    "UPSTREAM_CONNECTION_IDS_ATTEMPTED",
    "UPSTREAM_CONNECTION_POOL_READY_DURATION",
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
    "UPSTREAM_DETECTED_CLOSE_TYPE",
    "UPSTREAM_HEADER_BYTES_RECEIVED",
    "UPSTREAM_HEADER_BYTES_SENT",
    "UPSTREAM_HOST",
    "UPSTREAM_HOSTS_ATTEMPTED",
    "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT",
    "UPSTREAM_HOST_NAME",
    "UPSTREAM_HOST_NAMES_ATTEMPTED",
    "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT",
    "UPSTREAM_HOST_NAME_WITHOUT_PORT",
    "UPSTREAM_LOCAL_ADDRESS",
    "UPSTREAM_LOCAL_CLOSE_REASON",
    "UPSTREAM_LOCAL_DNS_SAN",
    "UPSTREAM_LOCAL_IP_SAN",
    "UPSTREAM_LOCAL_PORT",
    "UPSTREAM_LOCAL_URI_SAN",
    "UPSTREAM_PEER_CERT",
    "UPSTREAM_PEER_DNS_SAN",
    "UPSTREAM_PEER_IP_SAN",
    "UPSTREAM_PEER_ISSUER",
    "UPSTREAM_PEER_SUBJECT",
    "UPSTREAM_PEER_URI_SAN",
    "UPSTREAM_PROTOCOL",
    "UPSTREAM_REMOTE_ADDRESS",
    "UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID",
    "UPSTREAM_REMOTE_PORT",
    "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    "UPSTREAM_TLS_CIPHER",
    "UPSTREAM_TLS_SESSION_ID",
    "UPSTREAM_TLS_VERSION",
    "UPSTREAM_TRANSPORT_FAILURE_REASON",
    "UPSTREAM_WIRE_BYTES_RECEIVED",
    "UPSTREAM_WIRE_BYTES_SENT",
    "VIRTUAL_CLUSTER_NAME",
];

/// Operators that name a header, and perhaps another one for when it is missing.
const HEADERS: &[&str] = &["REQ", "REQUEST_HEADER", "RESP", "RESPONSE_HEADER", "RESPONSE_TRAILER", "TRAILER"];

/// Operators that name something by a path of words.
const KEYS: &[&str] = &["CLUSTER_METADATA", "DYNAMIC_METADATA", "QUERY_PARAM", "UPSTREAM_METADATA"];

/// Operators that name an object of the filter state, and perhaps how it is written.
const STATES: &[&str] = &["FILTER_STATE", "UPSTREAM_FILTER_STATE"];

/// Operators that say a time, in a form of `strftime` if one is given.
const TIMES: &[&str] = &[
    "DOWNSTREAM_PEER_CERT_V_END",
    "DOWNSTREAM_PEER_CERT_V_START",
    "EMIT_TIME",
    "EMIT_TIME_LOCAL",
    "START_TIME",
    "START_TIME_LOCAL",
    "UPSTREAM_PEER_CERT_V_END",
    "UPSTREAM_PEER_CERT_V_START",
];

/// Addresses, of which a mask may leave the first bits.
const ADDRESSES: &[&str] = &[
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
];

/// Operators with a word for how they are written.
const CHOICES: &[(&str, &[&str])] = &[
    ("GRPC_STATUS", &["CAMEL_STRING", "NUMBER", "SNAKE_STRING"]),
    ("PATH", &["NQ", "NQ:ORIG", "NQ:PATH", "WQ", "WQ:ORIG", "WQ:PATH"]),
    ("QUERY_PARAMS", &["DECODED", "ORIG"]),
    ("REQUESTED_SERVER_NAME", &["HOST_FIRST", "SNI_FIRST", "SNI_ONLY"]),
    ("RESPONSE_CODE_DETAILS", &["ALLOW_WHITESPACES"]),
];

/// Operators that read what is no part of the request, or are extensions that must be named beside the text: in access logs
/// and spans only.
const LOGS: &[&str] = &["CEL", "ENVIRONMENT", "METADATA", "REQ_WITHOUT_QUERY"];

/// Kinds of metadata that `METADATA` knows.
const METADATA: &[&str] = &["CLUSTER", "DYNAMIC", "LISTENER", "ROUTE", "UPSTREAM_HOST", "VIRTUAL_HOST"];

/// Whether Envoy takes a text with operators; a percent sign of the text's own is written twice.
///
/// # Errors
/// It would not; says why.
pub(crate) fn check(text: &str) -> Result<(), String> {
    match logged(text)?.iter().find(|operator| LOGS.contains(&operator.name)) {
        Some(Operator { name, .. }) => Err(format!("%{name} is an operator of access logs only")),
        None => Ok(()),
    }
}

/// An operator in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Operator<'t> {
    /// Such as `REQ`.
    pub(crate) name: &'t str,
    /// What stands in parentheses behind it.
    pub(crate) argument: Option<&'t str>,
}

/// The operators of a format of an access log or a tag of spans.
///
/// # Errors
/// Envoy would not take it; says why.
pub(crate) fn logged(text: &str) -> Result<Vec<Operator<'_>>, String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        if let Some(plain) = after.strip_prefix('%') {
            rest = plain;
            continue;
        }
        let letter = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
        let (name, after) = after.split_at(after.bytes().take_while(letter).count());
        let (argument, after) = argument(name, after)?;
        shape(name, argument)?;
        let after = length(name, after)?;
        rest = after.strip_prefix('%').ok_or_else(|| format!("%{name} is not ended by a percent sign"))?;
        found.push(Operator { name, argument });
    }
    Ok(found)
}

/// The operators of a tag or name of spans: those of logs, but one.
///
/// # Errors
/// Envoy would not take it; says why.
pub(crate) fn spanned(text: &str) -> Result<Vec<Operator<'_>>, String> {
    let found = logged(text)?;
    match found.iter().find(|operator| operator.name == "REQ_WITHOUT_QUERY") {
        Some(Operator { name, .. }) => Err(format!("%{name} is an operator of access logs only")),
        None => Ok(found),
    }
}

/// The operators of a text as it is read in one place, where its expressions of CEL are such, too.
///
/// # Errors
/// Envoy would not take it; says why.
pub(crate) fn judged<'t>(
    text: &'t str,
    read: fn(&'t str) -> Result<Vec<Operator<'t>>, String>,
    expression: impl FnMut(&'t str) -> Result<(), String>,
) -> Result<Vec<Operator<'t>>, String> {
    let found = read(text)?;
    let expressions = found.iter().filter(|operator| operator.name == "CEL");
    expressions.map(|one| one.argument.unwrap_or_default()).try_for_each(expression)?;
    Ok(found)
}

/// A text that stands for itself.
pub(crate) fn literal(text: &str) -> String {
    text.replace('%', "%%")
}

/// What stands in parentheses, and what follows.
fn argument<'t>(name: &str, after: &'t str) -> Result<(Option<&'t str>, &'t str), String> {
    let Some(inner) = after.strip_prefix('(') else { return Ok((None, after)) };
    // Envoy looks for the first one.
    let (argument, after) =
        inner.split_once(')').ok_or_else(|| format!("the parenthesis of %{name} is not closed"))?;
    Ok((Some(argument), after))
}

/// Whether an operator takes this in parentheses.
fn shape(name: &str, argument: Option<&str>) -> Result<(), String> {
    let words =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"%()".contains(&b));
    let choices = CHOICES.iter().find(|(known, _)| *known == name).map(|(_, choices)| *choices);
    let given = argument.unwrap_or_default();
    let fits = if PLAIN.contains(&name) {
        given.is_empty()
    } else if HEADERS.contains(&name) || name == "REQ_WITHOUT_QUERY" {
        header(given)
    } else if STATES.contains(&name) {
        let (key, form) = given.split_once(':').unwrap_or((given, "PLAIN"));
        let field = form.strip_prefix("FIELD:");
        words(key) && (["PLAIN", "TYPED"].contains(&form) || field.is_some_and(words))
    } else if TIMES.contains(&name) {
        given.bytes().all(|byte| (byte.is_ascii_graphic() || byte == b' ') && !b"()".contains(&byte))
    } else if ADDRESSES.contains(&name) {
        given.is_empty() || given.parse::<u8>().is_ok_and(|bits| bits <= 128)
    } else if let Some(choices) = choices {
        argument.is_none() || choices.contains(&given)
    } else if name == "COMMON_DURATION" {
        span(given)
    } else if name == "METADATA" {
        words(given) && given.split_once(':').is_some_and(|(kind, _)| METADATA.contains(&kind))
    } else if KEYS.contains(&name) || name == "ENVIRONMENT" {
        words(given)
    } else if name == "CEL" {
        !given.trim().is_empty() && !given.chars().any(char::is_control)
    } else {
        return Err(format!("%{name} is no operator that Envoy has; a percent sign is written %%"));
    };
    if fits {
        return Ok(());
    }
    Err(match argument {
        None => format!("%{name}(…)% takes a name in parentheses"),
        Some(_) if PLAIN.contains(&name) => format!("%{name}% takes nothing in parentheses"),
        Some(_) => format!("what %{name} has in parentheses is not what it takes"),
    })
}

/// `name` or `name?other`, where names of HTTP/2 begin with a colon.
fn header(text: &str) -> bool {
    let plain = |text: &str| {
        let text = text.strip_prefix(':').unwrap_or(text);
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte))
    };
    match text.split_once('?') {
        Some((name, other)) => plain(name) && plain(other),
        None => plain(text),
    }
}

/// `from:to`, and perhaps the unit.
fn span(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let word = |text: &&str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    match parts.as_slice() {
        [from, to] => word(from) && word(to),
        [from, to, unit] => word(from) && word(to) && ["ms", "us", "ns"].contains(unit),
        _ => false,
    }
}

/// What follows the number of characters that are kept at most, which not all operators take.
fn length<'t>(name: &str, after: &'t str) -> Result<&'t str, String> {
    let Some(number) = after.strip_prefix(':') else { return Ok(after) };
    let digits = number.bytes().take_while(u8::is_ascii_digit).count();
    if !(1..=6).contains(&digits) {
        return Err(format!("the length behind %{name} is no number"));
    }
    let cut = HEADERS.contains(&name)
        || STATES.contains(&name)
        || LOGS.contains(&name)
        || ["DYNAMIC_METADATA", "PATH", "QUERY_PARAM", "QUERY_PARAMS"].contains(&name);
    if !cut {
        return Err(format!("%{name}% is not cut to a length"));
    }
    Ok(number.get(digits..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_read_as_envoy_reads_them() {
        for good in [
            "",
            "plain",
            "100%% sure",
            "%TLS_JA4_FINGERPRINT%",
            "%RESPONSE_CODE%%PROTOCOL%",
            "a %REQ(X-User?:AUTHORITY):12% b",
            "%START_TIME(%Y-%m-%d %H)%",
            "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:claims)%",
            "%FILTER_STATE(a.b:FIELD:c)%",
            "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
            "%PATH(NQ)%%PATH%",
            "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(24)%",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "100% sure",
            "%",
            "%NOTHING%",
            "%DOWNSTREAM_NOTHING%",
            "%REQ%",
            "%REQ()%",
            "%REQ(a%",
            "%REQ(a:b)%",
            "%REQ(a?b?c)%",
            "%REQ(a b)%",
            "%REQ(a)x%",
            "%REQ(a\u{1})%",
            "%req(a)%",
            "%PROTOCOL(a)%",
            "%PROTOCOL",
            "%PROTOCOL:5%",
            "%REQ(a):x%",
            "%FILTER_STATE(a:b)%",
            "%COMMON_DURATION(a)%",
            "%PATH(a)%",
        ] {
            assert!(logged(bad).is_err(), "{bad}");
        }
        assert_eq!(check(&literal("100% %REQ(a)%")), Ok(()));
    }

    #[test]
    fn some_stand_in_logs_only() {
        for text in [
            "%ENVIRONMENT(KEY)%",
            "%METADATA(ROUTE:a:b)%",
            "%REQ_WITHOUT_QUERY(:path)%",
            "%CEL(request.path)%",
        ] {
            assert!(check(text).is_err() && logged(text).is_ok_and(|names| names.len() == 1), "{text}");
        }
        assert!(logged("%METADATA(a)%").is_err());
        assert!(spanned("%REQ_WITHOUT_QUERY(:path)%").is_err() && spanned("%CEL(request.path)%").is_ok());
    }
}
