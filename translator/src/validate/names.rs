//! The forms of names, labels and addresses that the API server knows.
//!
//! Each function says what is wrong with a text, or nothing. Source: `k8s.io/apimachinery/pkg/util/validation`.

use std::net::IpAddr;

/// The longest DNS-1123 subdomain.
const LONGEST_SUBDOMAIN: usize = 253;

/// The longest label of a host name, and the longest label value.
const LONGEST_LABEL: usize = 63;

fn lower_or_digit(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Whether a part has the form of a DNS-1123 label, whatever its length.
fn label_form(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().copied().is_some_and(lower_or_digit)
        && bytes.last().copied().is_some_and(lower_or_digit)
        && bytes.iter().all(|&byte| lower_or_digit(byte) || byte == b'-')
}

/// A DNS-1123 label: the names of namespaces, and of what Services' DNS names are made.
pub(crate) fn label(text: &str) -> Option<&'static str> {
    if text.len() > LONGEST_LABEL {
        return Some("must be no more than 63 characters");
    }
    (!label_form(text)).then_some(
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
         end with an alphanumeric character",
    )
}

/// A DNS-1035 label: as DNS-1123, and begins with a letter.
pub(crate) fn label_1035(text: &str) -> Option<&'static str> {
    if text.len() > LONGEST_LABEL {
        return Some("must be no more than 63 characters");
    }
    let letter = text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    (!letter || !label_form(text)).then_some(
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
         character, and end with an alphanumeric character",
    )
}

/// A DNS-1123 subdomain: the names of most objects.
pub(crate) fn subdomain(text: &str) -> Option<&'static str> {
    if text.len() > LONGEST_SUBDOMAIN {
        return Some("must be no more than 253 characters");
    }
    (!text.split('.').all(label_form)).then_some(
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
         start and end with an alphanumeric character",
    )
}

/// The part of a label's key behind the slash.
fn name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=LONGEST_LABEL).contains(&bytes.len())
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// A qualified name: the keys of labels and annotations.
pub(crate) fn qualified_name(text: &str) -> Option<&'static str> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    if prefix.is_some_and(|prefix| subdomain(prefix).is_some()) {
        return Some("the prefix before '/' must be a DNS subdomain of at most 253 characters");
    }
    (!name_part(name)).then_some(
        "the name part must be 1 to 63 alphanumeric characters, '-', '_' or '.', and must start and end with an \
         alphanumeric character",
    )
}

/// The value of a label.
pub(crate) fn label_value(text: &str) -> Option<&'static str> {
    (!text.is_empty() && !name_part(text)).then_some(
        "a valid label must be empty or at most 63 alphanumeric characters, '-', '_' or '.', and must start and end \
         with an alphanumeric character",
    )
}

/// An IPv4 or IPv6 address, without zone; no IPv4 address in the clothes of an IPv6 one.
pub(crate) fn is_ip(text: &str) -> bool {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => address.to_ipv4_mapped().is_none(),
        Ok(IpAddr::V4(_)) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_api_servers_forms() {
        let long = "a".repeat(64);
        for (check, text, fine) in [
            (label as fn(&str) -> Option<&'static str>, "a-1", true),
            (label, "1a", true),
            (label, "a.b", false),
            (label, "A", false),
            (label, "-a", false),
            (label, "a-", false),
            (label, "", false),
            (label, &long, false),
            (label_1035, "1a", false),
            (label_1035, "a1", true),
            (subdomain, "a.b-c.1", true),
            (subdomain, "a..b", false),
            (subdomain, "a.b.", false),
            (subdomain, "a_b", false),
            (qualified_name, "app", true),
            (qualified_name, "example.com/App_1.x", true),
            (qualified_name, "Example.com/app", false),
            (qualified_name, "a/b/c", false),
            (qualified_name, "/a", false),
            (qualified_name, "a/", false),
            (qualified_name, &long, false),
            (label_value, "", true),
            (label_value, "v1.2_x-Y", true),
            (label_value, "-x", false),
            (label_value, &long, false),
        ] {
            assert_eq!(check(text).is_none(), fine, "{text:?}");
        }
    }

    #[test]
    fn addresses() {
        for (text, fine) in [
            ("10.0.0.1", true),
            ("::1", true),
            ("::ffff:1.2.3.4", false),
            ("1.2.3", false),
            ("fe80::1%eth0", false),
        ] {
            assert_eq!(is_ip(text), fine, "{text}");
        }
    }
}
