//! Zones (BackendTrafficPolicy `loadBalancer.zoneAware`).

use crate::Lowering;
use envoy_types::pb::envoy::extensions::load_balancing_policies::common::v3::LocalityLbConfig;
use envoy_types::pb::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config::{
    LocalityConfigSpecifier, LocalityWeightedLbConfig, ZoneAwareLbConfig,
    zone_aware_lb_config::ForceLocalZone,
};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{UInt32Value, UInt64Value};
use moorgate_model::FieldPath;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ZoneAware {
    prefer_local: Option<PreferLocal>,
    #[serde(default)]
    weighted_zones: Vec<Weighted>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PreferLocal {
    force: Option<Force>,
    min_endpoints_threshold: Option<u64>,
    percentage_enabled: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Force {
    min_endpoints_in_zone_threshold: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct Weighted {
    zone: String,
    weight: u32,
}

impl ZoneAware {
    /// Whether zones have weights.
    pub(super) fn weighs(&self) -> bool {
        !self.weighted_zones.is_empty()
    }

    /// What it makes of a load balancer; `None` if something is wrong.
    pub(super) fn locality(&self, cx: &mut Lowering<'_>) -> Option<LocalityLbConfig> {
        let at = FieldPath::parse("spec.loadBalancer.zoneAware");
        let specifier = match (&self.prefer_local, self.weighs()) {
            (Some(_), true) => {
                cx.invalid(at, "either preferLocal or weightedZones is set");
                return None;
            }
            (None, false) => {
                cx.invalid(at, "neither preferLocal nor weightedZones is set");
                return None;
            }
            (None, true) => {
                self.weigh(&at.key("weightedZones"), cx)?;
                LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {})
            }
            (Some(local), false) => {
                LocalityConfigSpecifier::ZoneAwareLbConfig(prefer(local, &at.key("preferLocal"), cx)?)
            }
        };
        Some(LocalityLbConfig { locality_config_specifier: Some(specifier) })
    }

    fn weigh(&self, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<()> {
        let mut zones = std::collections::BTreeMap::new();
        for (index, Weighted { zone, weight }) in self.weighted_zones.iter().enumerate() {
            let at = at.index(index);
            if zone.is_empty() || zone.len() > 253 || zone.chars().any(char::is_control) {
                cx.invalid(at.key("zone"), "that is no name of a zone");
                return None;
            }
            // Envoy adds them up in 32 bits.
            if !(1..=1_000_000).contains(weight) {
                cx.invalid(at.key("weight"), "a weight is 1 to 1000000");
                return None;
            }
            if zones.insert(zone.clone(), *weight).is_some() {
                cx.invalid(at.key("zone"), "the zone has two weights");
                return None;
            }
        }
        cx.zones(zones);
        Some(())
    }
}

fn prefer(local: &PreferLocal, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<ZoneAwareLbConfig> {
    let percent = local.percentage_enabled;
    if percent.is_some_and(|percent| percent > 100) {
        cx.invalid(at.key("percentageEnabled"), "it is 0 to 100");
        return None;
    }
    if local.force.is_none() {
        let message = "requests stay in the zone while it has a healthy endpoint: that a zone with many Envoys and few \
                       endpoints sends some of them away, Envoy would have to know where the others of its fleet are";
        cx.approximate(at.clone(), message);
    }
    cx.in_zone();
    let least = local.force.as_ref().and_then(|force| force.min_endpoints_in_zone_threshold).unwrap_or(1);
    Some(ZoneAwareLbConfig {
        routing_enabled: percent.map(|percent| Percent { value: f64::from(percent) }),
        min_cluster_size: local.min_endpoints_threshold.map(|value| UInt64Value { value }),
        force_local_zone: Some(ForceLocalZone { min_size: Some(UInt32Value { value: least }) }),
        ..Default::default()
    })
}
