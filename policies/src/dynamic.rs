//! Requests that go to whatever host they name (Backend of type `DynamicResolver`): Envoy looks the host up before it goes on,
//! and what it found is judged before anybody connects there.

use crate::lowering::any;
use crate::place;
use envoy_types::pb::envoy::config::cluster::v3::cluster::DnsLookupFamily;
use envoy_types::pb::envoy::config::core::v3::{CidrRange, TypedExtensionConfig};
use envoy_types::pb::envoy::config::rbac::v3::{
    Permission, Policy, Principal, Rbac as Rules, permission, principal, rbac,
};
use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use envoy_types::pb::envoy::extensions::filters::http::dynamic_forward_proxy::v3::{
    FilterConfig as Dynamic, filter_config::ImplementationSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::rbac::matchers::upstream_ip_port::v3::UpstreamIpPortMatcher;
use envoy_types::pb::google::protobuf::{Any, UInt32Value};
use moorgate_model::ir::{Extension, RouteFilter};
use prost::{Message, Name};
use std::net::IpAddr;

/// What Envoy knows of the hosts: filter and cluster share it, and have to say the same of it.
pub fn dns_cache() -> DnsCacheConfig {
    DnsCacheConfig {
        name: "dynamic".into(),
        dns_lookup_family: DnsLookupFamily::V4Preferred.into(),
        ..Default::default()
    }
}

/// The filters of a route to such hosts: one that looks them up, and one that refuses addresses in these ranges.
pub fn dynamic_filters(refused: &[(IpAddr, u8)]) -> Vec<RouteFilter> {
    let look = Dynamic {
        save_upstream_address: true,
        implementation_specifier: Some(ImplementationSpecifier::DnsCacheConfig(dns_cache())),
        ..Default::default()
    };
    let range = |(address, bits): &(IpAddr, u8)| {
        let prefix_len = Some(UInt32Value { value: u32::from(*bits) });
        let upstream_ip = Some(CidrRange { address_prefix: address.to_string(), prefix_len });
        let matcher = UpstreamIpPortMatcher { upstream_ip, ..Default::default() };
        let matcher = TypedExtensionConfig {
            name: "envoy.rbac.matchers.upstream_ip_port".into(),
            typed_config: Some(any(&matcher)),
        };
        Permission { rule: Some(permission::Rule::Matcher(matcher)) }
    };
    let policy = Policy {
        permissions: refused.iter().map(range).collect(),
        principals: vec![Principal { identifier: Some(principal::Identifier::Any(true)) }],
        ..Default::default()
    };
    let rules = Rules {
        action: rbac::Action::Deny.into(),
        policies: [("forbidden".to_owned(), policy)].into(),
        ..Default::default()
    };
    let judge = Rbac { rules: Some(rules), ..Default::default() };
    let mut filters = vec![whole("envoy.filters.http.dynamic_forward_proxy", place::RESOLVE, &look)];
    if !refused.is_empty() {
        filters.push(whole("envoy.filters.http.rbac.resolved", place::RESOLVED, &judge));
    }
    filters
}

fn whole<M: Message + Name>(name: &str, place: u16, base: &M) -> RouteFilter {
    let on = FilterConfig { config: Some(Any::default()), ..Default::default() };
    let off = FilterConfig { disabled: true, ..Default::default() };
    let off = Some(extension(&off));
    RouteFilter { place, name: name.to_owned(), base: extension(base), own: extension(&on), off }
}

fn extension<M: Message + Name>(message: &M) -> Extension {
    Extension { type_url: M::type_url(), value: message.encode_to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_judged_behind_who_finds_it() {
        let filters = dynamic_filters(&[(IpAddr::from([127, 0, 0, 0]), 8), (IpAddr::from([0; 16]), 127)]);
        let [look, judge] = filters.as_slice() else { panic!("two filters") };
        assert!(look.place < judge.place && look.off.is_some() && judge.off.is_some());
        let found = Dynamic::decode(look.base.value.as_slice()).unwrap();
        assert!(found.save_upstream_address, "what was found has to be known to be judged");
        let rules = Rbac::decode(judge.base.value.as_slice()).unwrap().rules.unwrap();
        assert_eq!(rules.action(), rbac::Action::Deny);
        let permissions = rules.policies["forbidden"].permissions.iter().map(|permission| match &permission
            .rule
        {
            Some(permission::Rule::Matcher(matcher)) => {
                let any = matcher.typed_config.as_ref().unwrap();
                let range = UpstreamIpPortMatcher::decode(any.value.as_slice()).unwrap().upstream_ip.unwrap();
                format!("{}/{}", range.address_prefix, range.prefix_len.unwrap().value)
            }
            other => panic!("{other:?}"),
        });
        let ranges: Vec<String> = permissions.collect();
        assert_eq!(ranges, ["127.0.0.0/8", "::/127"]);
        assert_eq!(dynamic_filters(&[]).len(), 1);
    }
}
