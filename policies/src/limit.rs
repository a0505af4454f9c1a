//! Rules of limits: for which requests they are, and how that is told to whoever counts.
//!
//! A rule is told to whoever counts as a row of entries, key and value: first the rule itself, then one entry for each
//! condition that holds. If one does not hold there is no row, and nothing is counted. An entry of which the configuration
//! says no value has a count for each value.

use crate::authorization::cidr;
use crate::{Lowering, paths};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::rate_limit::action::{
    ActionSpecifier, GenericKey, HeaderValueMatch, MaskedRemoteAddress, QueryParameterValueMatch,
    QueryParameters, RemoteAddress, RemoteAddressMatch, RequestHeaders,
};
use envoy_types::pb::envoy::config::route::v3::rate_limit::r#override::{DynamicMetadata, OverrideSpecifier};
use envoy_types::pb::envoy::config::route::v3::rate_limit::{Action, HitsAddend, Override, XRateLimitOption};
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, QueryParameterMatcher, RateLimit};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{AddressMatcher, RegexMatcher, StringMatcher};
use envoy_types::pb::envoy::r#type::metadata::v3::MetadataKey;
use envoy_types::pb::envoy::r#type::metadata::v3::metadata_key::{PathSegment, path_segment};
use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value, UInt64Value};
use envoy_types::pb::xds::core::v3::CidrRange;
use ipnet::IpNet;
use moorgate_model::FieldPath;
use serde::Deserialize;
use std::net::IpAddr;

/// A rule.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rule {
    #[serde(default)]
    client_selectors: Vec<Selector>,
    pub(crate) limit: Value,
    cost: Option<Cost>,
    pub(crate) shared: Option<bool>,
    pub(crate) shadow_mode: Option<bool>,
    x_rate_limit_headers: Option<String>,
}

/// How many in which time.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Value {
    pub(crate) requests: u32,
    pub(crate) unit: String,
    /// Where a filter before may have noted another limit.
    from_metadata: Option<Metadata>,
}

/// What a filter before has noted of a request.
#[derive(Debug, Deserialize)]
struct Metadata {
    namespace: String,
    key: String,
}

/// What a request counts for.
#[derive(Debug, Deserialize)]
pub(crate) struct Cost {
    request: Option<Price>,
    response: Option<Price>,
}

#[derive(Debug, Deserialize)]
struct Price {
    from: String,
    number: Option<u64>,
    metadata: Option<Metadata>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Selector {
    #[serde(default)]
    headers: Vec<Named>,
    #[serde(default)]
    methods: Vec<Plain>,
    path: Option<Plain>,
    #[serde(rename = "sourceCIDR")]
    source: Option<Plain>,
    #[serde(default)]
    query_params: Vec<Named>,
}

#[derive(Debug, Deserialize)]
struct Named {
    #[serde(rename = "type")]
    kind: Option<String>,
    name: String,
    value: Option<String>,
    invert: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Plain {
    #[serde(rename = "type")]
    kind: Option<String>,
    value: String,
    invert: Option<bool>,
}

impl Rule {
    /// Whether it is for all requests.
    pub(crate) fn is_for_all(&self) -> bool {
        self.client_selectors.is_empty()
    }

    /// Whether it takes the limit from what a filter before has noted.
    pub(crate) fn is_told_its_limit(&self) -> bool {
        self.limit.from_metadata.is_some()
    }

    /// Whether it only says how many.
    pub(crate) fn is_plain(&self) -> bool {
        let unset = |flag: Option<bool>| flag != Some(true);
        self.cost.is_none()
            && unset(self.shared)
            && unset(self.shadow_mode)
            && self.x_rate_limit_headers.is_none()
    }
}

/// How a rule is told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// One row of actions for each way to meet the rule, and for each again if responses count too.
    pub(crate) rows: Vec<RateLimit>,
    /// The entries that each row gives; none for any value.
    pub(crate) entries: Vec<(String, Option<String>)>,
}

fn action(specifier: ActionSpecifier) -> Action {
    Action { action_specifier: Some(specifier) }
}

/// An entry that is there for every request.
fn always(key: &str) -> Action {
    action(ActionSpecifier::GenericKey(GenericKey {
        descriptor_key: key.to_owned(),
        descriptor_value: key.to_owned(),
        ..Default::default()
    }))
}

/// How a rule is told; none if something of it is wrong.
pub(crate) fn told(rule: &Rule, key: &str, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Told> {
    let mut teller = Teller {
        key,
        actions: vec![always(key)],
        entries: vec![(key.to_owned(), Some(key.to_owned()))],
        number: 0,
    };
    let mut methods = Vec::new();
    for (index, selector) in rule.client_selectors.iter().enumerate() {
        let at = at.key("clientSelectors").index(index);
        teller.selector(selector, &at, cx)?;
        methods.extend(&selector.methods);
    }
    let Teller { actions, mut entries, .. } = teller;
    // Any of the methods will do: each has a row, and all give the same entries.
    let mut rows = vec![actions];
    if !methods.is_empty() {
        let (name, base) = (format!("{key}-method"), rows.remove(0));
        entries.push((name.clone(), Some(name.clone())));
        for method in methods {
            let text = exact(&method.value);
            let mut row = base.clone();
            row.push(header(&name, ":method", text, method.invert));
            rows.push(row);
        }
    }
    let option = match rule.x_rate_limit_headers.as_deref() {
        None => XRateLimitOption::Unspecified,
        Some("Off") => XRateLimitOption::Off,
        Some("DraftVersion03") => XRateLimitOption::DraftVersion03,
        Some(other) => {
            cx.invalid(at.key("xRateLimitHeaders"), &format!("{other:?} is neither Off nor DraftVersion03"));
            return None;
        }
    };
    let limit = rule.limit.from_metadata.as_ref().map(noted_limit);
    let cost = rule.cost.as_ref();
    let mut prices = vec![(cost.and_then(|cost| cost.request.as_ref()), "request")];
    if let Some(price) = cost.and_then(|cost| cost.response.as_ref()) {
        prices.push((Some(price), "response"));
    }
    let mut out = Vec::with_capacity(rows.len() * prices.len());
    for (price, name) in prices {
        let hits_addend = match price {
            Some(price) => Some(addend(price, &at.key("cost").key(name), cx)?),
            None => None,
        };
        // What a response counts for is known at its end; it bounds the requests that come after it.
        out.extend(rows.iter().map(|actions| RateLimit {
            actions: actions.clone(),
            limit: limit.clone(),
            hits_addend: hits_addend.clone(),
            apply_on_stream_done: name == "response",
            x_ratelimit_option: option.into(),
            ..Default::default()
        }));
    }
    Some(Told { rows: out, entries })
}

/// A limit that a filter before has noted: a struct with `requests_per_unit` and `unit`.
fn noted_limit(noted: &Metadata) -> Override {
    let step = PathSegment { segment: Some(path_segment::Segment::Key(noted.key.clone())) };
    let metadata_key = Some(MetadataKey { key: noted.namespace.clone(), path: vec![step] });
    Override {
        override_specifier: Some(OverrideSpecifier::DynamicMetadata(DynamicMetadata { metadata_key })),
    }
}

/// What a request counts for, as Envoy has it.
fn addend(price: &Price, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<HitsAddend> {
    // More is refused by Envoy.
    const MOST: u64 = 1_000_000_000;
    match (price.from.as_str(), price.number, &price.metadata) {
        ("Number", Some(number), None) if number <= MOST => {
            Some(HitsAddend { number: Some(UInt64Value { value: number }), ..Default::default() })
        }
        ("Metadata", None, Some(Metadata { namespace, key })) if plain(namespace) && plain(key) => {
            Some(HitsAddend {
                format: format!("%DYNAMIC_METADATA({namespace}:{key})%"),
                ..Default::default()
            })
        }
        _ => {
            cx.invalid(at.clone(), "from says Number (up to 1000000000) or Metadata (two names), and the field of that name what");
            None
        }
    }
}

/// Whether a name can stand in an operator of Envoy.
fn plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"%():".contains(&byte))
}

fn exact(text: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(MatchPattern::Exact(text.to_owned())), ..Default::default() }
}

fn header(key: &str, name: &str, text: StringMatcher, invert: Option<bool>) -> Action {
    let matcher = HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(text)),
        ..Default::default()
    };
    action(ActionSpecifier::HeaderValueMatch(HeaderValueMatch {
        descriptor_key: key.to_owned(),
        descriptor_value: key.to_owned(),
        expect_match: Some(BoolValue { value: invert != Some(true) }),
        headers: vec![matcher],
        ..Default::default()
    }))
}

/// Collects the actions and entries of a rule.
struct Teller<'k> {
    key: &'k str,
    actions: Vec<Action>,
    entries: Vec<(String, Option<String>)>,
    number: usize,
}

impl Teller<'_> {
    /// A key that no other condition of the rule has.
    fn next(&mut self) -> String {
        self.number += 1;
        format!("{}-match-{}", self.key, self.number - 1)
    }

    fn add(&mut self, action: Action, key: String, value: Option<String>) {
        self.actions.push(action);
        self.entries.push((key, value));
    }

    fn selector(&mut self, selector: &Selector, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<()> {
        let Selector { headers, methods, path, source, query_params } = selector;
        if headers.is_empty()
            && methods.is_empty()
            && query_params.is_empty()
            && path.is_none()
            && source.is_none()
        {
            cx.invalid(at.clone(), "the selector selects nothing");
            return None;
        }
        for (index, wanted) in headers.iter().enumerate() {
            let at = at.key("headers").index(index);
            if !cx.header_name(at.key("name"), &wanted.name) {
                return None;
            }
            let (key, name) = (self.next(), wanted.name.to_ascii_lowercase());
            if let Some(text) = value(wanted, &at, cx)? {
                self.add(header(&key, &name, text, wanted.invert), key.clone(), Some(key));
            } else {
                let each =
                    RequestHeaders { header_name: name, descriptor_key: key.clone(), ..Default::default() };
                self.add(action(ActionSpecifier::RequestHeaders(each)), key, None);
            }
        }
        for (index, wanted) in query_params.iter().enumerate() {
            let at = at.key("queryParams").index(index);
            if wanted.name.is_empty() {
                cx.invalid(at.key("name"), "a parameter needs a name");
                return None;
            }
            let key = self.next();
            if let Some(text) = value(wanted, &at, cx)? {
                self.add(parameter(&key, wanted, text), key.clone(), Some(key));
            } else {
                let each = QueryParameters {
                    query_parameter_name: wanted.name.clone(),
                    descriptor_key: key.clone(),
                    ..Default::default()
                };
                self.add(action(ActionSpecifier::QueryParameters(each)), key, None);
            }
        }
        if let Some(wanted) = path {
            let text = whole_path(wanted, &at.key("path"), cx)?;
            let key = self.next();
            self.add(header(&key, ":path", text, wanted.invert), key.clone(), Some(key));
        }
        match source {
            Some(wanted) => self.address(wanted, &at.key("sourceCIDR"), cx),
            None => Some(()),
        }
    }

    /// Addresses of a range, together or each for itself.
    fn address(&mut self, wanted: &Plain, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<()> {
        let found =
            cidr(&wanted.value).and_then(|range| network(&range.address_prefix, range.prefix_len?.value));
        let Some((prefix, length)) = found else {
            cx.invalid(at.key("value"), &format!("{:?} is no range of addresses", wanted.value));
            return None;
        };
        let name = format!("{prefix}/{length}");
        if wanted.invert == Some(true) {
            let key = self.next();
            let range = CidrRange {
                address_prefix: prefix.to_string(),
                prefix_len: Some(UInt32Value { value: length }),
            };
            let matcher = RemoteAddressMatch {
                descriptor_key: key.clone(),
                descriptor_value: key.clone(),
                address_matcher: Some(AddressMatcher { ranges: vec![range], invert_match: true }),
                ..Default::default()
            };
            self.add(action(ActionSpecifier::RemoteAddressMatch(matcher)), key.clone(), Some(key));
        } else {
            let size = Some(UInt32Value { value: length });
            let masked = match prefix {
                IpAddr::V4(_) => MaskedRemoteAddress { v4_prefix_mask_len: size, ..Default::default() },
                IpAddr::V6(_) => MaskedRemoteAddress { v6_prefix_mask_len: size, ..Default::default() },
            };
            let key = "masked_remote_address".to_owned();
            self.add(action(ActionSpecifier::MaskedRemoteAddress(masked)), key, Some(name));
        }
        match wanted.kind.as_deref() {
            None | Some("Exact") => {}
            Some("Distinct") => {
                self.add(
                    action(ActionSpecifier::RemoteAddress(RemoteAddress {})),
                    "remote_address".into(),
                    None,
                );
            }
            Some(other) => {
                cx.invalid(at.key("type"), &format!("{other:?} is neither Exact nor Distinct"));
                return None;
            }
        }
        Some(())
    }
}

/// The text that a value is compared with; the inner none if each value counts for itself.
#[expect(clippy::option_option, reason = "wrong and absent are two things")]
fn value(wanted: &Named, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Option<StringMatcher>> {
    let text = wanted.value.clone().unwrap_or_default();
    match wanted.kind.as_deref() {
        None | Some("Exact") => Some(Some(exact(&text))),
        Some("RegularExpression") => {
            let pattern = cx.expression(at.key("value"), &text)?;
            Some(Some(StringMatcher { match_pattern: Some(pattern), ..Default::default() }))
        }
        Some("Distinct") if wanted.invert != Some(true) => Some(None),
        Some(other) => {
            cx.invalid(at.key("type"), &format!("type {other} is not known, or not with invert"));
            None
        }
    }
}

fn parameter(key: &str, wanted: &Named, text: StringMatcher) -> Action {
    let matcher = QueryParameterMatcher {
        name: wanted.name.clone(),
        query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(text)),
    };
    action(ActionSpecifier::QueryParameterValueMatch(QueryParameterValueMatch {
        descriptor_key: key.to_owned(),
        descriptor_value: key.to_owned(),
        expect_match: Some(BoolValue { value: wanted.invert != Some(true) }),
        query_parameters: vec![matcher],
        ..Default::default()
    }))
}

/// What a path must be, whatever query stands behind it.
fn whole_path(wanted: &Plain, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<StringMatcher> {
    let regex = match wanted.kind.as_deref() {
        Some("Exact") => paths::exact(&wanted.value),
        None | Some("PathPrefix") => paths::below(&wanted.value),
        Some("RegularExpression") => {
            cx.expression(at.key("value"), &wanted.value)?;
            format!("(?:{}){}", wanted.value, paths::QUERY)
        }
        Some(other) => {
            cx.invalid(at.key("type"), &format!("type {other} is not known"));
            return None;
        }
    };
    let regex = RegexMatcher { regex, ..Default::default() };
    Some(StringMatcher { match_pattern: Some(MatchPattern::SafeRegex(regex)), ..Default::default() })
}

/// The first address of a range, by which Envoy names it.
fn network(address: &str, length: u32) -> Option<(IpAddr, u32)> {
    let range = IpNet::new(address.parse().ok()?, u8::try_from(length).ok()?).ok()?;
    Some((range.network(), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_named_by_their_first_address() {
        for (address, length, name) in [
            ("192.168.7.9", 16, "192.168.0.0"),
            ("10.1.2.3", 32, "10.1.2.3"),
            ("10.1.2.3", 0, "0.0.0.0"),
            ("2001:db8::9", 32, "2001:db8::"),
            ("2001:db8::9", 0, "::"),
        ] {
            assert_eq!(network(address, length).unwrap().0.to_string(), name);
        }
        assert_eq!((network("10.0.0.1", 33), network("a", 8)), (None, None));
    }
}
