//! Which endpoint gets a request (BackendTrafficPolicy `loadBalancer`).

use crate::lowering::{milliseconds, time};
use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    LbConfig, LbPolicy, LeastRequestLbConfig, MaglevLbConfig, RoundRobinLbConfig, SlowStartConfig,
};
use envoy_types::pb::envoy::config::route::v3::RouteAction;
use envoy_types::pb::envoy::config::route::v3::route_action::{HashPolicy, hash_policy};
use envoy_types::pb::google::protobuf::UInt64Value;
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct LoadBalancer;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    load_balancer: Option<Balancer>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Balancer {
    #[serde(rename = "type")]
    kind: String,
    consistent_hash: Option<Hash>,
    slow_start: Option<SlowStart>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hash {
    #[serde(rename = "type")]
    kind: String,
    header: Option<Named>,
    #[serde(default)]
    headers: Vec<Named>,
    cookie: Option<Cookie>,
    #[serde(default)]
    query_params: Vec<Named>,
    table_size: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Cookie {
    name: String,
    ttl: Option<String>,
}

#[derive(Debug, Deserialize)]
struct SlowStart {
    window: String,
}

/// Large enough that each endpoint of some hundreds has its fair share, and a prime, as Envoy asks for.
const TABLE: u64 = 65_537;
/// `Cluster.lb_policy`
const FIELD: &[u32] = &[6];

impl Capability for LoadBalancer {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "load_balancer",
        kind: Kind::BackendTraffic,
        fields: &["loadBalancer"],
        except: &[
            "loadBalancer.backendUtilization",
            "loadBalancer.dynamicModule",
            "loadBalancer.endpointOverride",
            "loadBalancer.zoneAware",
            "loadBalancer.consistentHash.cookie.attributes",
        ],
        since: "0.1.0",
        docs: "\
type says which endpoint of a backend gets a request: RoundRobin, Random, LeastRequest (as without a policy), or ConsistentHash, which \
sends equal requests to one endpoint (Maglev): by the address of the client, a header or several, a cookie (which Envoy sets if the \
client has none), or query parameters. slowStart.window raises the share of a new endpoint over this time (RoundRobin, LeastRequest).",
        effect: Effect::Cluster,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(found) = &spec.load_balancer else { return };
        let at = FieldPath::parse("spec.loadBalancer");
        let start = found.slow_start.as_ref().map(|start| start.window.as_str());
        let window = time(cx, &at.key("slowStart").key("window"), start);
        let slow_start_config = window.map(|window| SlowStartConfig {
            slow_start_window: Some(milliseconds(window)),
            ..Default::default()
        });
        let (policy, config) = match found.kind.as_str() {
            "RoundRobin" => {
                let config = RoundRobinLbConfig { slow_start_config };
                (LbPolicy::RoundRobin, Some(LbConfig::RoundRobinLbConfig(config)))
            }
            "LeastRequest" => {
                let config = LeastRequestLbConfig { slow_start_config, ..Default::default() };
                (LbPolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(config)))
            }
            "Random" => (LbPolicy::Random, None),
            "ConsistentHash" => {
                let Some(hash) = &found.consistent_hash else {
                    return cx.invalid(at.key("consistentHash"), "nothing says what is hashed");
                };
                let Some(policies) = hashed(hash, &at.key("consistentHash"), cx) else { return };
                cx.forward(&RouteAction { hash_policy: policies, ..Default::default() }, &[]);
                let size = UInt64Value { value: hash.table_size.unwrap_or(TABLE) };
                let config = MaglevLbConfig { table_size: Some(size) };
                (LbPolicy::Maglev, Some(LbConfig::MaglevLbConfig(config)))
            }
            other => {
                return cx.invalid(at.key("type"), &format!("type {other} is not supported by this version"));
            }
        };
        cx.cluster(&Cluster { lb_policy: policy.into(), lb_config: config, ..Default::default() }, &[FIELD]);
    }
}

fn hashed(hash: &Hash, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Vec<HashPolicy>> {
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
                vec![PolicySpecifier::Cookie(hash_policy::Cookie {
                    name: cookie.name.clone(),
                    ttl,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};

    #[test]
    fn every_type_has_its_policy() {
        for (kind, policy) in [
            ("RoundRobin", LbPolicy::RoundRobin),
            ("LeastRequest", LbPolicy::LeastRequest),
            ("Random", LbPolicy::Random),
        ] {
            let spec =
                format!(r#"{{"loadBalancer": {{"type": "{kind}", "slowStart": {{"window": "1m"}}}}}}"#);
            let compiled = testing::compile(Kind::BackendTraffic, &spec);
            let part = &compiled.parts["load_balancer"].cluster.cluster;
            // The least type is a default, which merging cannot bring back.
            assert_eq!(part[0].clear, [vec![6]]);
            assert_eq!(patched::<Cluster>(part).lb_policy(), policy);
        }
    }

    #[test]
    fn everything_can_be_hashed() {
        for (hash, count) in [
            (r#"{"type": "SourceIP"}"#, 1),
            (r#"{"type": "Header", "header": {"name": "X-User"}}"#, 1),
            (r#"{"type": "Headers", "headers": [{"name": "a"}, {"name": "b"}]}"#, 2),
            (r#"{"type": "Cookie", "cookie": {"name": "c", "ttl": "1h"}, "tableSize": 11}"#, 1),
            (r#"{"type": "QueryParams", "queryParams": [{"name": "q"}]}"#, 1),
        ] {
            let spec =
                format!(r#"{{"loadBalancer": {{"type": "ConsistentHash", "consistentHash": {hash}}}}}"#);
            let compiled = testing::compile(Kind::BackendTraffic, &spec);
            let part = &compiled.parts["load_balancer"];
            assert_eq!(patched::<Cluster>(&part.cluster.cluster).lb_policy(), LbPolicy::Maglev, "{hash}");
            assert_eq!(patched::<RouteAction>(&part.forward).hash_policy.len(), count, "{hash}");
        }
    }

    #[test]
    fn what_is_not_supported_is_said() {
        for (spec, said) in [
            (
                r#"{"loadBalancer": {"type": "ConsistentHash", "consistentHash": {"type": "SourceIP", "tableSize": 12}}}"#,
                "MG4002 spec.loadBalancer.consistentHash.tableSize",
            ),
            (
                r#"{"loadBalancer": {"type": "ConsistentHash", "consistentHash": {"type": "Header", "header": {"name": "a b"}}}}"#,
                "MG4002 spec.loadBalancer.consistentHash",
            ),
            (r#"{"loadBalancer": {"type": "DynamicModule"}}"#, "MG4002 spec.loadBalancer.type"),
            (r#"{"loadBalancer": {"type": "ConsistentHash"}}"#, "MG4002 spec.loadBalancer.consistentHash"),
            (
                r#"{"loadBalancer": {"type": "Random", "zoneAware": {}}}"#,
                "MG4104 spec.loadBalancer.zoneAware",
            ),
        ] {
            let compiled = testing::compile(Kind::BackendTraffic, spec);
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said.to_owned()], false), "{spec}");
        }
    }
}
