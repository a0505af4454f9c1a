//! What policies add to a message: encoded parts that are put over it.
//!
//! Two encodings behind each other are the encoding of both merged (protobuf, "last one wins"), so that adding a field
//! needs no code here. What a merge cannot do, set a field back to its default or replace a list, a patch asks for by
//! the numbers of the fields that are taken out before.

use envoy_types::pb::envoy::config::core::v3::ExtensionConfigSource;
use envoy_types::pb::envoy::config::route::v3 as route_pb;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value as PbValue, value::Kind};
use moorgate_model::ir::{
    ChainPolicies, Extension, ListenerFilter, Patch, RouteFilter, RouteOrigin, RoutePolicies, RouteTable,
};
use prost::bytes::Buf as _;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
};
use prost::{Message, Name as _};
use std::collections::{BTreeMap, BTreeSet};

/// The message with these patches over it, in their order. A patch that is no message changes nothing; it was encoded
/// from one.
pub(super) fn apply<M: Message + Default>(message: &mut M, patches: &[Patch]) {
    for patch in patches {
        let merged = over(&message.encode_to_vec(), patch);
        if let Ok(patched) = M::decode(merged.as_slice()) {
            *message = patched;
        }
    }
}

/// An extension as Envoy has it.
fn any(extension: &Extension) -> Any {
    Any { type_url: extension.type_url.clone(), value: extension.value.clone() }
}

/// What policies add to a route. A filter that the route itself configures stays as the route says; what policies say of
/// the way to backends has no place on a route that answers by itself.
pub(super) fn route(out: &mut route_pb::Route, added: &RoutePolicies, origin: &RouteOrigin) {
    for filter in &added.filters {
        out.typed_per_filter_config.entry(filter.name.clone()).or_insert_with(|| any(&filter.own));
    }
    if let Some(route_pb::route::Action::Route(action)) = &mut out.action {
        apply(action, &added.forward);
    }
    apply(out, &added.route);
    out.request_headers_to_remove.extend(added.reserved.iter().cloned());
    if out.stat_prefix.contains('%') {
        out.stat_prefix = stat_name(&out.stat_prefix, origin);
    }
    if added.described {
        describe(out, origin);
    }
}

/// Where a route says what it is, and how: as Envoy Gateway does it, for services that know that.
fn describe(out: &mut route_pb::Route, origin: &RouteOrigin) {
    let text = |text: &str| PbValue { kind: Some(Kind::StringValue(text.to_owned())) };
    let object = &origin.object;
    let mut fields = vec![
        ("kind".to_owned(), text(&object.kind)),
        ("name".to_owned(), text(&object.name)),
        ("namespace".to_owned(), text(&object.namespace)),
    ];
    fields.extend(origin.rule_name.iter().map(|rule| ("sectionName".to_owned(), text(rule))));
    let resource = Kind::StructValue(Struct { fields: fields.into_iter().collect() });
    let resources = ListValue { values: vec![PbValue { kind: Some(resource) }] };
    let resources = PbValue { kind: Some(Kind::ListValue(resources)) };
    let route = Struct { fields: [("resources".to_owned(), resources)].into() };
    out.metadata.get_or_insert_default().filter_metadata.insert("envoy-gateway".to_owned(), route);
}

/// The name of a route's counters: a text in which some words stand for parts of the route's name.
fn stat_name(text: &str, origin: &RouteOrigin) -> String {
    let object = &origin.object;
    text.replace("%ROUTE_NAME%", &object.name)
        .replace("%ROUTE_NAMESPACE%", &object.namespace)
        .replace("%ROUTE_KIND%", &object.kind.to_ascii_lowercase())
        .replace("%ROUTE_RULE_NAME%", origin.rule_name.as_deref().unwrap_or("-"))
}

/// What the hosts of a table say, by filter, where filters run before a route is known: nothing shall happen.
pub(super) fn off(table: &RouteTable) -> BTreeMap<String, Any> {
    if table.hosts.iter().all(|host| host.asked.is_none()) {
        return BTreeMap::new();
    }
    let routes = table.hosts.iter().flat_map(|host| &host.routes);
    let filters = routes.filter_map(|route| route.policies.as_ref()).flat_map(|added| &added.filters);
    filters.filter_map(|filter| Some((filter.name.clone(), any(filter.off.as_ref()?)))).collect()
}

/// Filters that stand on listeners whole: without a route they must not run.
pub(super) fn whole(table: &RouteTable) -> BTreeSet<&str> {
    let routes = table.hosts.iter().flat_map(|host| &host.routes);
    let filters = routes.filter_map(|route| route.policies.as_ref()).flat_map(|added| &added.filters);
    filters.filter(|filter| filter.is_whole()).map(|filter| filter.name.as_str()).collect()
}

/// Headers that only filters set.
pub(super) fn reserved(table: &RouteTable) -> BTreeSet<&str> {
    let routes = table.hosts.iter().flat_map(|host| &host.routes);
    let names = routes.filter_map(|route| route.policies.as_ref()).flat_map(|added| &added.reserved);
    names.map(String::as_str).collect()
}

/// Filters that have to run on all routes of a table where some are looked for again, none if there are no such: Envoy leaves
/// out for good what the first route has no word for, and a filter leads to one that has.
pub(super) fn again(table: &RouteTable) -> Option<BTreeSet<&str>> {
    let routes = table.hosts.iter().flat_map(|host| &host.routes);
    let policies: Vec<_> = routes.filter_map(|route| route.policies.as_ref()).collect();
    policies.iter().find(|added| added.recomputes.is_some())?;
    let filters = policies.into_iter().flat_map(|added| &added.filters);
    Some(filters.filter(|filter| filter.is_idle()).map(|filter| filter.name.as_str()).collect())
}

/// The type of a filter, and what routes need to stand on the listener.
type Bases<'r> = (&'r str, BTreeSet<&'r [u8]>);

/// The filters that routes of a table switch on, with their places, each once and without those of `there`. What several
/// routes need of one filter is merged: they say the same, or have names of their own in it.
pub(super) fn filters(table: &RouteTable, there: &[&str]) -> Vec<(u16, HttpFilter)> {
    let mut found: BTreeMap<(u16, &str), Bases<'_>> = BTreeMap::new();
    let routes = table.hosts.iter().flat_map(|host| &host.routes);
    let filters = routes.filter_map(|route| route.policies.as_ref()).flat_map(|added| &added.filters);
    for RouteFilter { place, name, base, .. } in
        filters.filter(|filter| !there.contains(&filter.name.as_str()))
    {
        let (_, values) = found.entry((*place, name)).or_insert_with(|| (&base.type_url, BTreeSet::new()));
        values.insert(&base.value);
    }
    let filter = |((place, name), (type_url, values)): ((u16, &str), Bases<'_>)| {
        let value: Vec<u8> = values.into_iter().flatten().copied().collect();
        let config = if type_url == ExtensionConfigSource::type_url() {
            // What it does comes by itself; a source is one for each name, so that it is whole.
            let source = ExtensionConfigSource::decode(value.as_slice()).unwrap_or_default();
            http_filter::ConfigType::ConfigDiscovery(source)
        } else {
            http_filter::ConfigType::TypedConfig(Any { type_url: type_url.to_owned(), value })
        };
        let filter = HttpFilter {
            name: name.to_owned(),
            disabled: true,
            config_type: Some(config),
            ..Default::default()
        };
        (place, filter)
    };
    found.into_iter().map(filter).collect()
}

/// A filter of requests as Envoy has it.
pub(super) fn http_filter((name, config): &(String, Extension)) -> HttpFilter {
    HttpFilter {
        name: name.clone(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(config))),
        ..Default::default()
    }
}

/// The filters of a chain: those of its table, and those that policies of the listener add or change.
pub(super) fn listener_filters(
    mut filters: Vec<(u16, HttpFilter)>,
    added: Option<&ChainPolicies>,
) -> Vec<HttpFilter> {
    if let Some(added) = added {
        let own = |filter: &ListenerFilter| {
            (filter.place, http_filter(&(filter.name.clone(), filter.config.clone())))
        };
        filters.extend(added.filters.iter().map(own));
        // Stable: those of one place stay in their order.
        filters.sort_by_key(|(place, _)| *place);
        for (name, patch) in &added.changes {
            // Several filters of one kind have its name at their front.
            let named = filters.iter_mut().filter(|(_, filter)| filter.name.starts_with(name.as_str()));
            for (_, filter) in named {
                if let Some(http_filter::ConfigType::TypedConfig(config)) = &mut filter.config_type {
                    config.value = over(&config.value, patch);
                }
            }
        }
    }
    filters.into_iter().map(|(_, filter)| filter).collect()
}

/// An encoding with a patch over it.
fn over(own: &[u8], patch: &Patch) -> Vec<u8> {
    let cleared = |bytes: Vec<u8>, path: &Vec<u32>| without(&bytes, path).unwrap_or(bytes);
    let mut own = patch.clear.iter().fold(own.to_vec(), cleared);
    if patch.first {
        let mut front = patch.message.clone();
        front.append(&mut own);
        front
    } else {
        own.extend_from_slice(&patch.message);
        own
    }
}

/// The encoding without the fields at the end of a path of field numbers.
fn without(bytes: &[u8], path: &[u32]) -> Option<Vec<u8>> {
    let (wanted, rest) = path.split_first()?;
    let mut out = Vec::with_capacity(bytes.len());
    let mut left = bytes;
    while left.has_remaining() {
        let start = left;
        let (number, wire) = decode_key(&mut left).ok()?;
        if number == *wanted && !rest.is_empty() && wire == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut left).ok()?).ok()?;
            let inner = without(left.get(..length)?, rest)?;
            left.advance(length);
            encode_key(number, wire, &mut out);
            encode_varint(inner.len() as u64, &mut out);
            out.extend_from_slice(&inner);
            continue;
        }
        skip_field(wire, number, &mut left, DecodeContext::default()).ok()?;
        if number != *wanted || !rest.is_empty() {
            out.extend_from_slice(start.get(..start.len() - left.len())?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::value;
    use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions;
    use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
        HttpConnectionManager, HttpFilter,
    };

    fn manager() -> HttpConnectionManager {
        HttpConnectionManager {
            merge_slashes: true,
            http_filters: vec![HttpFilter { name: "a".into(), ..Default::default() }],
            common_http_protocol_options: Some(HttpProtocolOptions {
                idle_timeout: value::seconds(7),
                headers_with_underscores_action: 1,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn patch(message: &HttpConnectionManager) -> Patch {
        Patch { message: message.encode_to_vec(), ..Patch::default() }
    }

    #[test]
    fn fields_win_messages_merge_and_lists_grow() {
        let mut found = manager();
        let more = HttpConnectionManager {
            http_filters: vec![HttpFilter { name: "b".into(), ..Default::default() }],
            common_http_protocol_options: Some(HttpProtocolOptions {
                max_connection_duration: value::seconds(9),
                ..Default::default()
            }),
            ..Default::default()
        };
        apply(&mut found, &[patch(&more)]);
        let common = found.common_http_protocol_options.as_ref().unwrap();
        assert_eq!(
            (&common.idle_timeout, &common.max_connection_duration),
            (&value::seconds(7), &value::seconds(9))
        );
        let names = |found: &HttpConnectionManager| {
            found.http_filters.iter().map(|filter| filter.name.clone()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!((names(&found).as_str(), found.merge_slashes), ("a b", true));
        let mut front = manager();
        apply(&mut front, &[Patch { first: true, ..patch(&more) }]);
        assert_eq!(names(&front), "b a");
    }

    #[test]
    fn fields_are_taken_out_at_any_depth() {
        let mut found = manager();
        let mut nothing = patch(&HttpConnectionManager::default());
        // merge_slashes, http_filters, common_http_protocol_options.headers_with_underscores_action
        nothing.clear = vec![vec![33], vec![5], vec![35, 5], vec![35, 99], vec![77, 1]];
        apply(&mut found, &[nothing]);
        assert!(!found.merge_slashes && found.http_filters.is_empty());
        let common = found.common_http_protocol_options.unwrap();
        assert_eq!((common.headers_with_underscores_action, common.idle_timeout), (0, value::seconds(7)));
    }
}
