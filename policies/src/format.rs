//! Texts with operators that Envoy fills in, such as `%REQ(X-USER)%`: Envoy refuses a whole listener for one that it does not
//! know, so they are read here first.

/// What an operator takes in parentheses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Something,
    Perhaps,
}

/// Operators of the oldest Envoy that is supported ("command operators" of its access log).
const OPERATORS: &[(&str, Takes)] = &[
    ("BYTES_RECEIVED", Takes::Nothing),
    ("BYTES_SENT", Takes::Nothing),
    ("CONNECTION_ID", Takes::Nothing),
    ("CONNECTION_TERMINATION_DETAILS", Takes::Nothing),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", Takes::Nothing),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", Takes::Nothing),
    ("DOWNSTREAM_DIRECT_REMOTE_PORT", Takes::Nothing),
    ("DOWNSTREAM_LOCAL_ADDRESS", Takes::Nothing),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Takes::Nothing),
    ("DOWNSTREAM_LOCAL_PORT", Takes::Nothing),
    ("DOWNSTREAM_LOCAL_SUBJECT", Takes::Nothing),
    ("DOWNSTREAM_LOCAL_URI_SAN", Takes::Nothing),
    ("DOWNSTREAM_PEER_CERT", Takes::Nothing),
    ("DOWNSTREAM_PEER_CERT_V_END", Takes::Perhaps),
    ("DOWNSTREAM_PEER_CERT_V_START", Takes::Perhaps),
    ("DOWNSTREAM_PEER_DNS_SAN", Takes::Nothing),
    ("DOWNSTREAM_PEER_FINGERPRINT_1", Takes::Nothing),
    ("DOWNSTREAM_PEER_FINGERPRINT_256", Takes::Nothing),
    ("DOWNSTREAM_PEER_ISSUER", Takes::Nothing),
    ("DOWNSTREAM_PEER_SERIAL", Takes::Nothing),
    ("DOWNSTREAM_PEER_SUBJECT", Takes::Nothing),
    ("DOWNSTREAM_PEER_URI_SAN", Takes::Nothing),
    ("DOWNSTREAM_REMOTE_ADDRESS", Takes::Nothing),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Takes::Nothing),
    ("DOWNSTREAM_REMOTE_PORT", Takes::Nothing),
    ("DOWNSTREAM_TLS_CIPHER", Takes::Nothing),
    ("DOWNSTREAM_TLS_SESSION_ID", Takes::Nothing),
    ("DOWNSTREAM_TLS_VERSION", Takes::Nothing),
    ("DURATION", Takes::Nothing),
    ("DYNAMIC_METADATA", Takes::Something),
    ("EMIT_TIME", Takes::Perhaps),
    ("FILTER_CHAIN_NAME", Takes::Nothing),
    ("GRPC_STATUS", Takes::Perhaps),
    ("GRPC_STATUS_NUMBER", Takes::Nothing),
    ("HOSTNAME", Takes::Nothing),
    ("LOCAL_REPLY_BODY", Takes::Nothing),
    ("PROTOCOL", Takes::Nothing),
    ("REQ", Takes::Something),
    ("REQUESTED_SERVER_NAME", Takes::Perhaps),
    ("REQUEST_DURATION", Takes::Nothing),
    ("REQUEST_HEADERS_BYTES", Takes::Nothing),
    ("RESP", Takes::Something),
    ("RESPONSE_CODE", Takes::Nothing),
    ("RESPONSE_CODE_DETAILS", Takes::Nothing),
    ("RESPONSE_DURATION", Takes::Nothing),
    ("RESPONSE_FLAGS", Takes::Nothing),
    ("RESPONSE_FLAGS_LONG", Takes::Nothing),
    ("RESPONSE_HEADERS_BYTES", Takes::Nothing),
    ("ROUTE_NAME", Takes::Nothing),
    ("START_TIME", Takes::Perhaps),
    ("STREAM_ID", Takes::Nothing),
    ("TLS_JA3_FINGERPRINT", Takes::Nothing),
    ("TLS_JA4_FINGERPRINT", Takes::Nothing),
    ("TRACE_ID", Takes::Nothing),
    ("TRAILER", Takes::Something),
    ("UNIQUE_ID", Takes::Nothing),
    ("UPSTREAM_CLUSTER", Takes::Nothing),
    ("UPSTREAM_HOST", Takes::Nothing),
    ("UPSTREAM_LOCAL_ADDRESS", Takes::Nothing),
    ("UPSTREAM_REMOTE_ADDRESS", Takes::Nothing),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Takes::Nothing),
    ("UPSTREAM_REMOTE_PORT", Takes::Nothing),
    ("VIRTUAL_CLUSTER_NAME", Takes::Nothing),
];

/// Whether Envoy takes a text with operators; a percent sign of the text's own is written twice.
///
/// # Errors
/// It would not; says why.
pub(crate) fn check(text: &str) -> Result<(), String> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        if let Some(plain) = after.strip_prefix('%') {
            rest = plain;
            continue;
        }
        let length = after
            .bytes()
            .take_while(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_');
        let (name, after) = after.split_at(length.count());
        let Some((_, takes)) = OPERATORS.iter().find(|(known, _)| *known == name) else {
            return Err(format!("%{name} is no operator that Envoy has; a percent sign is written %%"));
        };
        let (argument, after) = match after.strip_prefix('(') {
            Some(inner) => {
                let (argument, after) = inner
                    .split_once(')')
                    .ok_or_else(|| format!("the parenthesis of %{name} is not closed"))?;
                (Some(argument), after)
            }
            None => (None, after),
        };
        match (takes, argument) {
            (Takes::Nothing, Some(_)) => return Err(format!("%{name}% takes nothing in parentheses")),
            (Takes::Something, None | Some("")) => {
                return Err(format!("%{name}(…)% takes a name in parentheses"));
            }
            _ => {}
        }
        let time = name.ends_with("_TIME") || name.contains("_CERT_V_");
        let fits =
            |byte: u8| byte.is_ascii_graphic() && !b"%()".contains(&byte) || time && b"% ".contains(&byte);
        if !argument.unwrap_or_default().bytes().all(fits) {
            return Err(format!("what %{name} has in parentheses is no name"));
        }
        // At most so many characters of the value.
        let after = match after.strip_prefix(':') {
            Some(number) => number.trim_start_matches(|digit: char| digit.is_ascii_digit()),
            None => after,
        };
        rest = after.strip_prefix('%').ok_or_else(|| format!("%{name} is not ended by a percent sign"))?;
    }
    Ok(())
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
            "a %REQ(X-User?:AUTHORITY):12% b",
            "%START_TIME(%Y-%m-%d %H)%",
            "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:claims)%",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "100% sure",
            "%",
            "%NOTHING%",
            "%REQ%",
            "%REQ()%",
            "%REQ(a%",
            "%PROTOCOL(a)%",
            "%PROTOCOL",
            "%req(a)%",
            "%REQ(a b)%",
            "%REQ(a)x%",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(OPERATORS.is_sorted_by_key(|(name, _)| name));
    }
}
