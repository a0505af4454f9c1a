//! Which endpoint gets a request (BackendTrafficPolicy `loadBalancer`).

mod hash;
mod typed;
mod zone;

use crate::lowering::{milliseconds, time};
use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    LbConfig, LbPolicy, LeastRequestLbConfig, MaglevLbConfig, RoundRobinLbConfig, SlowStartConfig,
};
use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction};
use envoy_types::pb::google::protobuf::UInt64Value;
use hash::Hash;
use moorgate_model::FieldPath;
use serde::Deserialize;
use typed::{Override, Utilization};
use zone::ZoneAware;

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
    backend_utilization: Option<Utilization>,
    endpoint_override: Option<Override>,
    zone_aware: Option<ZoneAware>,
}

#[derive(Debug, Deserialize)]
struct SlowStart {
    window: String,
}

/// Large enough that each endpoint of some hundreds has its fair share, and a prime, as Envoy asks for.
const TABLE: u64 = 65_537;
/// `Cluster.lb_policy`
const FIELD: &[u32] = &[6];
/// Headers by which endpoints tell how busy they are (ORCA).
const REPORTS: [&str; 2] = ["endpoint-load-metrics", "endpoint-load-metrics-bin"];

impl Capability for LoadBalancer {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "load_balancer",
        kind: Kind::BackendTraffic,
        fields: &["loadBalancer"],
        except: &["loadBalancer.dynamicModule"],
        since: "0.1.0",
        docs: "\
type says which endpoint of a backend gets a request: RoundRobin, Random, LeastRequest (as without a policy), ConsistentHash, which \
sends equal requests to one endpoint (Maglev): by the address of the client (connections and datagrams too), a header or several, a cookie (which Envoy sets if the \
client has none), or query parameters; or BackendUtilization, by how busy endpoints say that they are (ORCA, in their responses or outOfBand). slowStart.window raises \
the share of a new endpoint over this time (RoundRobin, LeastRequest, BackendUtilization). endpointOverride takes an endpoint that a header names, if the backend has \
it: for listeners whose clients are trusted with that. zoneAware.preferLocal keeps requests in the zone of the Envoy that serves them (moorgate \
bootstrap --zone; in manifests of render and watch the pod's label topology.kubernetes.io/zone) while minEndpointsInZoneThreshold endpoints of it are healthy (1, without force) and minEndpointsThreshold (6, if not given) are in all; \
percentageEnabled of them. zoneAware.weightedZones shares requests among zones, whatever endpoints each has; one that is not named has the \
weight 1. Zones are those of EndpointSlices, or of a Backend's endpoints. dynamicModule is not supported: the parameters of a fleet would have to register it, and a cluster is the same for all fleets.",
        effect: Effect::Cluster,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(found) = &spec.load_balancer else { return };
        let at = FieldPath::parse("spec.loadBalancer");
        let start = found.slow_start.as_ref().map(|start| start.window.as_str());
        let window = time(cx, &at.key("slowStart").key("window"), start).map(milliseconds);
        if let Some(hash) = &found.consistent_hash {
            let Some(policies) = hash::hashed(hash, &at.key("consistentHash"), cx) else { return };
            cx.forward(&RouteAction { hash_policy: policies, ..Default::default() }, &[]);
            if hash.is_by_source() {
                cx.by_source();
            }
        }
        if found.backend_utilization.is_some()
            || found.endpoint_override.is_some()
            || found.zone_aware.is_some()
        {
            let Some(policy) = typed::policy(found, window, cx) else { return };
            if found.backend_utilization.as_ref().is_some_and(|utilization| !utilization.keeps_headers()) {
                let response_headers_to_remove = REPORTS.map(String::from).to_vec();
                cx.route(&Route { response_headers_to_remove, ..Default::default() });
            }
            return cx
                .balance(&Cluster { load_balancing_policy: Some(policy), ..Default::default() }, &[FIELD]);
        }
        let slow_start_config =
            window.map(|window| SlowStartConfig { slow_start_window: Some(window), ..Default::default() });
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
                let size = UInt64Value { value: hash.table_size.unwrap_or(TABLE) };
                let config = MaglevLbConfig { table_size: Some(size) };
                (LbPolicy::Maglev, Some(LbConfig::MaglevLbConfig(config)))
            }
            other => {
                return cx.invalid(at.key("type"), &format!("type {other} is not supported by this version"));
            }
        };
        cx.balance(&Cluster { lb_policy: policy.into(), lb_config: config, ..Default::default() }, &[FIELD]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};
    use envoy_types::pb::envoy::extensions::load_balancing_policies::wrr_locality::v3::WrrLocality;
    use prost::Message as _;

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
            let part = &compiled.parts["load_balancer"].cluster.balancing;
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
            assert_eq!(patched::<Cluster>(&part.cluster.balancing).lb_policy(), LbPolicy::Maglev, "{hash}");
            assert_eq!(patched::<RouteAction>(&part.forward).hash_policy.len(), count, "{hash}");
            assert_eq!(part.cluster.by_source, hash.contains("SourceIP"), "{hash}");
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
                r#"{"loadBalancer": {"type": "Random", "zoneAware": {"weightedZones": [{"zone": "a", "weight": 0}]}}}"#,
                "MG4002 spec.loadBalancer.zoneAware.weightedZones[0].weight",
            ),
            (
                r#"{"loadBalancer": {"type": "Random", "zoneAware": {"weightedZones": [{"zone": "a", "weight": 1}, {"zone": "a", "weight": 2}]}}}"#,
                "MG4002 spec.loadBalancer.zoneAware.weightedZones[1].zone",
            ),
            (
                r#"{"loadBalancer": {"type": "Random", "zoneAware": {}}}"#,
                "MG4002 spec.loadBalancer.zoneAware",
            ),
            (
                r#"{"loadBalancer": {"type": "Random", "zoneAware": {"preferLocal": {"percentageEnabled": 101}}}}"#,
                "MG4002 spec.loadBalancer.zoneAware.preferLocal.percentageEnabled",
            ),
            (
                r#"{"loadBalancer": {"type": "Random", "zoneAware": {"preferLocal": {}}}}"#,
                "MG4011 spec.loadBalancer.zoneAware.preferLocal",
            ),
            (
                r#"{"loadBalancer": {"type": "ConsistentHash", "consistentHash": {"type": "SourceIP"}, "zoneAware": {"preferLocal": {"force": {}}}}}"#,
                "MG4002 spec.loadBalancer.zoneAware.preferLocal",
            ),
            (
                r#"{"loadBalancer": {"type": "Random", "endpointOverride": {"extractFrom": [{"header": "a b"}]}}}"#,
                "MG4002 spec.loadBalancer.endpointOverride.extractFrom[0].header",
            ),
            (r#"{"loadBalancer": {"type": "BackendUtilization"}}"#, "MG4002 spec.loadBalancer.type"),
            (
                r#"{"loadBalancer": {"type": "BackendUtilization", "backendUtilization": {}, "zoneAware": {"preferLocal": {"force": {}}}}}"#,
                "MG4002 spec.loadBalancer.zoneAware.preferLocal",
            ),
            (
                r#"{"loadBalancer": {"type": "ConsistentHash", "consistentHash": {"type": "Cookie", "cookie": {"name": "c", "attributes": {"Path": "/; Secure"}}}}}"#,
                "MG4002 spec.loadBalancer.consistentHash.cookie.attributes",
            ),
        ] {
            let compiled = testing::compile(Kind::BackendTraffic, spec);
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said.to_owned()], false), "{spec}");
        }
    }

    #[test]
    fn zones_have_weights_or_come_first() {
        let of = |spec: &str| {
            let compiled = testing::compile(Kind::BackendTraffic, &format!(r#"{{"loadBalancer": {spec}}}"#));
            assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
            compiled.parts["load_balancer"].cluster.clone()
        };
        for kind in ["RoundRobin", "LeastRequest", "Random"] {
            let zones = r#"{"weightedZones": [{"zone": "a", "weight": 3}, {"zone": "b", "weight": 1}]}"#;
            let cluster = of(&format!(r#"{{"type": "{kind}", "zoneAware": {zones}}}"#));
            assert_eq!(
                cluster.zones.iter().map(|(zone, weight)| (zone.as_str(), *weight)).collect::<Vec<_>>(),
                [("a", 3), ("b", 1)]
            );
            let local = r#"{"preferLocal": {"force": {"minEndpointsInZoneThreshold": 2}, "minEndpointsThreshold": 4, "percentageEnabled": 50}}"#;
            let cluster = of(&format!(r#"{{"type": "{kind}", "zoneAware": {local}}}"#));
            assert!(
                cluster.in_zone
                    && cluster.zones.is_empty()
                    && patched::<Cluster>(&cluster.balancing).load_balancing_policy.is_some()
            );
        }
        let hashed = of(
            r#"{"type": "ConsistentHash", "consistentHash": {"type": "SourceIP"}, "zoneAware": {"weightedZones": [{"zone": "a", "weight": 3}]}}"#,
        );
        assert_eq!(hashed.zones["a"], 3);
        let busy = of(
            r#"{"type": "BackendUtilization", "backendUtilization": {}, "zoneAware": {"weightedZones": [{"zone": "a", "weight": 3}]}}"#,
        );
        assert_eq!(busy.zones["a"], 3);
        let outer = patched::<Cluster>(&busy.balancing).load_balancing_policy.unwrap().policies.remove(0);
        let outer = outer.typed_extension_config.unwrap().typed_config.unwrap();
        let outer = WrrLocality::decode(outer.value.as_slice()).unwrap();
        let inner = outer.endpoint_picking_policy.unwrap().policies.remove(0).typed_extension_config.unwrap();
        assert_eq!(inner.name, "envoy.load_balancing_policies.client_side_weighted_round_robin");
    }

    #[test]
    fn named_endpoints_and_utilization_have_a_policy_of_their_own() {
        let of = |spec: &str| {
            let compiled = testing::compile(Kind::BackendTraffic, &format!(r#"{{"loadBalancer": {spec}}}"#));
            assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
            let part = compiled.parts["load_balancer"].clone();
            let policy = patched::<Cluster>(&part.cluster.balancing).load_balancing_policy.unwrap();
            let config = policy.policies[0].typed_extension_config.clone().unwrap();
            (config.name, config.typed_config.unwrap().value.len(), part.route.len())
        };
        for kind in ["RoundRobin", "LeastRequest", "Random"] {
            let (name, size, _) = of(&format!(
                r#"{{"type": "{kind}", "endpointOverride": {{"extractFrom": [{{"header": "a"}}]}}}}"#
            ));
            assert!(name.ends_with("override_host") && size > 10, "{name}");
        }
        let (name, ..) = of(
            r#"{"type": "ConsistentHash", "consistentHash": {"type": "SourceIP"}, "endpointOverride": {"extractFrom": [{"header": "X-To"}]}}"#,
        );
        assert!(name.ends_with("override_host"), "{name}");
        let utilization = |keep: bool, at: &str| {
            format!(
                r#"{{"type": "BackendUtilization", "slowStart": {{"window": "5s"}}, "backendUtilization": {{"blackoutPeriod": "1s", "errorUtilizationPenaltyPercent": 150,
                "metricNamesForComputingUtilization": ["cpu"], "keepResponseHeaders": {keep}, "outOfBand": {{"reportingPeriod": "3s"{at}}}}}}}"#
            )
        };
        let apart = utilization(true, r#", "port": 9, "authority": "a""#);
        let found = testing::compile(Kind::BackendTraffic, &format!(r#"{{"loadBalancer": {apart}}}"#));
        assert_eq!(testing::said(&found), ["MG4011 spec.loadBalancer.backendUtilization.outOfBand"]);
        // Reports are taken out of responses unless it is asked to keep them.
        assert_eq!((of(&utilization(false, "")).2, of(&utilization(true, "")).2), (1, 0));
    }
}
