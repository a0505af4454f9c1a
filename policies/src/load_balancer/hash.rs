//! What is hashed where equal requests go to one endpoint.

use crate::Lowering;
use crate::lowering::{milliseconds, time};
use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::CookieAttribute;
use envoy_types::pb::envoy::config::route::v3::route_action::{HashPolicy, hash_policy};
use moorgate_model::FieldPath;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hash {
    #[serde(rename = "type")]
    kind: String,
    header: Option<Named>,
    #[serde(default)]
    headers: Vec<Named>,
    cookie: Option<Cookie>,
    #[serde(default)]
    query_params: Vec<Named>,
    pub(super) table_size: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Cookie {
    name: String,
    ttl: Option<String>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

impl Hash {
    /// Whether the client's address is hashed, which connections and datagrams have too.
    pub(super) fn is_by_source(&self) -> bool {
        self.kind == "SourceIP"
    }
}

/// The policies for what is hashed; none if something is wrong.
pub(super) fn hashed(hash: &Hash, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Vec<HashPolicy>> {
    use hash_policy::PolicySpecifier;
    let header = |named: &Named| {
        PolicySpecifier::Header(hash_policy::Header {
            header_name: named.name.to_ascii_lowercase(),
            ..Default::default()
        })
    };
    let specifiers = match hash.kind.as_str() {
        "SourceIP" => {
            vec![PolicySpecifier::ConnectionProperties(hash_policy::ConnectionProperties { source_ip: true })]
        }
        "Header" => hash.header.iter().map(header).collect(),
        "Headers" => hash.headers.iter().map(header).collect(),
        "QueryParams" => {
            let named = hash
                .query_params
                .iter()
                .map(|named| hash_policy::QueryParameter { name: named.name.clone() });
            named.map(PolicySpecifier::QueryParameter).collect()
        }
        "Cookie" => match &hash.cookie {
            Some(cookie) => {
                let ttl = time(cx, &at.key("cookie").key("ttl"), cookie.ttl.as_deref());
                // With a lifetime, also none, Envoy sets the cookie for a client that has none.
                let ttl = Some(ttl.map(milliseconds).unwrap_or_default());
                let plain = |text: &str| {
                    !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b';')
                };
                if !cookie
                    .attributes
                    .iter()
                    .all(|(name, value)| plain(name) && (value.is_empty() || plain(value)))
                {
                    cx.invalid(
                        at.key("cookie").key("attributes"),
                        "an attribute of a cookie has letters, and no semicolon",
                    );
                    return None;
                }
                let attribute = |(name, value): (&String, &String)| CookieAttribute {
                    name: name.clone(),
                    value: value.clone(),
                };
                vec![PolicySpecifier::Cookie(hash_policy::Cookie {
                    name: cookie.name.clone(),
                    ttl,
                    attributes: cookie.attributes.iter().map(attribute).collect(),
                    ..Default::default()
                })]
            }
            None => Vec::new(),
        },
        other => {
            cx.invalid(at.key("type"), &format!("type {other} is not supported by this version"));
            return None;
        }
    };
    let headers = hash.header.iter().chain(&hash.headers);
    if !headers.map(|named| named.name.as_str()).all(|name| cx.header_name(at.clone(), name)) {
        return None;
    }
    let unnamed = |named: &Named| named.name.is_empty();
    if hash.query_params.iter().any(unnamed)
        || hash.cookie.as_ref().is_some_and(|cookie| cookie.name.is_empty())
    {
        cx.invalid(at.clone(), "what is hashed needs a name");
        return None;
    }
    if !hash.table_size.is_none_or(is_prime) {
        cx.invalid(at.key("tableSize"), "the size of the table is no prime, or too large");
        return None;
    }
    if specifiers.is_empty() {
        cx.invalid(at.clone(), "nothing says what is hashed");
        return None;
    }
    let policy = |specifier| HashPolicy { policy_specifier: Some(specifier), ..Default::default() };
    Some(specifiers.into_iter().map(policy).collect())
}

/// Whether Envoy takes a size for a table: a prime up to its bound.
fn is_prime(size: u64) -> bool {
    const MOST: u64 = 5_000_011;
    let divides = |by: &u64| size.is_multiple_of(*by);
    (2..=MOST).contains(&size) && !(2..size).take_while(|by| by * by <= size).any(|by| divides(&by))
}
