//! Load balancers that Envoy has as extensions only.

use super::{Balancer, TABLE};
use crate::Lowering;
use crate::lowering::{any, milliseconds, time};
use envoy_types::pb::envoy::config::cluster::v3::LoadBalancingPolicy;
use envoy_types::pb::envoy::config::cluster::v3::load_balancing_policy::Policy;
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::extensions::load_balancing_policies::client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin;
use envoy_types::pb::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config::LocalityConfigSpecifier;
use envoy_types::pb::envoy::extensions::load_balancing_policies::common::v3::{
    OrcaOobReportingConfig, SlowStartConfig,
};
use envoy_types::pb::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
use envoy_types::pb::envoy::extensions::load_balancing_policies::maglev::v3::Maglev;
use envoy_types::pb::envoy::extensions::load_balancing_policies::override_host::v3::OverrideHost;
use envoy_types::pb::envoy::extensions::load_balancing_policies::override_host::v3::override_host::OverrideHostSource;
use envoy_types::pb::envoy::extensions::load_balancing_policies::random::v3::Random;
use envoy_types::pb::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use envoy_types::pb::envoy::extensions::load_balancing_policies::wrr_locality::v3::WrrLocality;
use envoy_types::pb::google::protobuf::{BoolValue, Duration, FloatValue, UInt64Value};
use moorgate_model::FieldPath;
use prost::{Message, Name};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Utilization {
    blackout_period: Option<String>,
    weight_expiration_period: Option<String>,
    weight_update_period: Option<String>,
    error_utilization_penalty_percent: Option<u16>,
    #[serde(default, rename = "metricNamesForComputingUtilization")]
    metric_names: Vec<String>,
    keep_response_headers: Option<bool>,
    out_of_band: Option<OutOfBand>,
}

impl Utilization {
    /// Whether clients see what endpoints report.
    pub(super) fn keeps_headers(&self) -> bool {
        self.keep_response_headers == Some(true)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OutOfBand {
    reporting_period: Option<String>,
    port: Option<u16>,
    authority: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Override {
    #[serde(default)]
    extract_from: Vec<Source>,
}

#[derive(Debug, Deserialize)]
struct Source {
    header: Option<String>,
}

fn named<M: Message + Name>(name: &str, config: &M) -> LoadBalancingPolicy {
    let config = TypedExtensionConfig {
        name: format!("envoy.load_balancing_policies.{name}"),
        typed_config: Some(any(config)),
    };
    LoadBalancingPolicy { policies: vec![Policy { typed_extension_config: Some(config) }] }
}

/// The policy; none if something is wrong.
pub(super) fn policy(
    found: &Balancer,
    window: Option<Duration>,
    cx: &mut Lowering<'_>,
) -> Option<LoadBalancingPolicy> {
    let at = FieldPath::parse("spec.loadBalancer");
    let slow_start_config =
        window.map(|window| SlowStartConfig { slow_start_window: Some(window), ..Default::default() });
    let locality_lb_config = match &found.zone_aware {
        Some(zones) => Some(zones.locality(cx)?),
        None => None,
    };
    let base = match (found.kind.as_str(), &found.backend_utilization, &found.consistent_hash) {
        ("RoundRobin", None, None) => {
            named("round_robin", &RoundRobin { slow_start_config, locality_lb_config })
        }
        ("LeastRequest", None, None) => {
            let config = LeastRequest { slow_start_config, locality_lb_config, ..Default::default() };
            named("least_request", &config)
        }
        ("Random", None, None) => named("random", &Random { locality_lb_config }),
        ("ConsistentHash", None, Some(hash)) => {
            let weighted = locality_lb_config.map(|locality| locality.locality_config_specifier);
            let locality_weighted_lb_config = match weighted {
                Some(Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(weighted))) => Some(weighted),
                Some(_) => {
                    let at = at.key("zoneAware").key("preferLocal");
                    cx.invalid(
                        at,
                        "equal requests go to one endpoint, wherever that is: weigh zones, or hash nothing",
                    );
                    return None;
                }
                None => None,
            };
            let table_size = Some(UInt64Value { value: hash.table_size.unwrap_or(TABLE) });
            named("maglev", &Maglev { table_size, locality_weighted_lb_config, ..Default::default() })
        }
        ("BackendUtilization", Some(utilization), None) => {
            let config = weighted(utilization, slow_start_config, &at.key("backendUtilization"), cx)?;
            let picks = named("client_side_weighted_round_robin", &config);
            match locality_lb_config.and_then(|locality| locality.locality_config_specifier) {
                None => picks,
                // This one knows no zones: another one draws the zone by its weight, and asks it for an endpoint there.
                Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {
                    named("wrr_locality", &WrrLocality { endpoint_picking_policy: Some(picks) })
                }
                Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_)) => {
                    let why = "endpoints share by how busy they are, whatever their zone: weigh zones";
                    cx.invalid(at.key("zoneAware").key("preferLocal"), why);
                    return None;
                }
            }
        }
        (kind, ..) => {
            cx.invalid(at.key("type"), &format!("type {kind} is not supported by this version"));
            return None;
        }
    };
    let Some(wanted) = &found.endpoint_override else { return Some(base) };
    let at = at.key("endpointOverride").key("extractFrom");
    let mut sources = Vec::new();
    for (index, source) in wanted.extract_from.iter().enumerate() {
        let header = source.header.as_deref().unwrap_or_default();
        if !cx.header_name(at.index(index).key("header"), header) {
            return None;
        }
        sources.push(OverrideHostSource { header: header.to_ascii_lowercase(), ..Default::default() });
    }
    if sources.is_empty() {
        cx.invalid(at, "nothing says where an endpoint is named");
        return None;
    }
    let config =
        OverrideHost { override_host_sources: sources, fallback_policy: Some(base), ..Default::default() };
    Some(named("override_host", &config))
}

fn weighted(
    wanted: &Utilization,
    slow_start_config: Option<SlowStartConfig>,
    at: &FieldPath,
    cx: &mut Lowering<'_>,
) -> Option<ClientSideWeightedRoundRobin> {
    let mut limit = |field: &str, text: &Option<String>| {
        time(cx, &at.key(field), text.as_deref()).filter(|time| !time.is_zero()).map(milliseconds)
    };
    let mut config = ClientSideWeightedRoundRobin {
        blackout_period: limit("blackoutPeriod", &wanted.blackout_period),
        weight_expiration_period: limit("weightExpirationPeriod", &wanted.weight_expiration_period),
        weight_update_period: limit("weightUpdatePeriod", &wanted.weight_update_period),
        error_utilization_penalty: wanted
            .error_utilization_penalty_percent
            .map(|percent| FloatValue { value: f32::from(percent) / 100.0 }),
        metric_names_for_computing_utilization: wanted.metric_names.clone(),
        slow_start_config,
        ..Default::default()
    };
    if let Some(apart) = &wanted.out_of_band {
        let at = at.key("outOfBand");
        let period = time(cx, &at.key("reportingPeriod"), apart.reporting_period.as_deref());
        if period.is_some_and(|period| period.is_zero()) {
            cx.invalid(at.key("reportingPeriod"), "it takes some time");
            return None;
        }
        let authority = apart.authority.clone().unwrap_or_default();
        if authority.chars().any(char::is_control) {
            cx.invalid(at.key("authority"), "it holds letters, and no others");
            return None;
        }
        if apart.port.is_some() || !authority.is_empty() {
            let message =
                "Envoy reads port and authority from 1.39 on; an older one asks endpoints at their own port";
            cx.approximate(at, message);
        }
        config.enable_oob_load_report = Some(BoolValue { value: true });
        config.oob_reporting_period = period.map(milliseconds);
        config.oob_reporting_config =
            (apart.port.is_some() || !authority.is_empty()).then(|| OrcaOobReportingConfig {
                port_value: apart.port.map(u32::from).unwrap_or_default(),
                authority,
                ..Default::default()
            });
    }
    Some(config)
}
