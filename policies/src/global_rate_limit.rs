//! Limits that a service counts for all Envoys of a fleet together (BackendTrafficPolicy `rateLimit.global`).
//!
//! ```text
//! rules ─┬─▶ RateLimitPerRoute: which entries a request has ─▶ routes, with the service of their fleet ([`limited`])
//!        └─▶ RateLimitConfig: which limit a row of entries has ─▶ snapshot ─▶ relay ─▶ the service
//! ```
//! The service is envoyproxy/ratelimit; both messages are its own project's. A policy has a domain of counts at each fleet.
//! What is counted for each rule of a route begins with an entry that names the rule, of which the configuration says no
//! value: so the service need not know which routes there are.

use crate::limit::{Rule, Value, told};
use crate::lowering::{extension, milliseconds};
use crate::{About, Capability, Effect, Kind, Lowering, place};
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::{ApiVersion, GrpcService};
use envoy_types::pb::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use envoy_types::pb::envoy::config::route::v3::rate_limit::Action;
use envoy_types::pb::envoy::config::route::v3::rate_limit::action::{ActionSpecifier, GenericKey};
use envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3::rate_limit::XRateLimitHeadersRfcVersion;
use envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3::{RateLimit, RateLimitPerRoute};
use envoy_types::pb::ratelimit::config::ratelimit::v3::{
    RateLimitConfig, RateLimitDescriptor, RateLimitPolicy, RateLimitUnit,
};
use moorgate_model::FieldPath;
use moorgate_model::ir::{RouteFilter, SharedLimits};
use prost::Message;
use serde::Deserialize;
use std::time::Duration;

/// The capability.
pub(crate) struct GlobalRateLimit;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    rate_limit: Option<Limit>,
}

#[derive(Debug, Deserialize)]
struct Limit {
    global: Option<Global>,
}

#[derive(Debug, Deserialize)]
struct Global {
    #[serde(default)]
    rules: Vec<Rule>,
}

const NAME: &str = "envoy.filters.http.ratelimit";
/// The key of the entry that says for which rule of which route a request is counted.
const ROUTE: &str = "route";
/// Envoy 1.38 refuses a limit from metadata in what a route says to the filter ("'limit' field is not supported").
const NOTED_LIMITS: (u32, u32) = (1, 39);

impl Capability for GlobalRateLimit {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "global_rate_limit",
        kind: Kind::BackendTraffic,
        fields: &["rateLimit.global"],
        except: &[],
        since: "0.2.0",
        docs: "\
rateLimit.global: a service (envoyproxy/ratelimit) counts for all Envoys of the fleet together, and gets the limits from a relay of the fleet. Which \
service is said by annotations of the Gateway, or of its GatewayClass: moorgate.dev/rate-limit-service (namespace/name:port of a Service, or \
namespace/name of a Backend), moorgate.dev/rate-limit-timeout (how long it is waited for, 20ms if nothing is said) and moorgate.dev/rate-limit-fail-closed \
(\"true\": what it does not answer is answered with 500; else it passes). Without it what the policy targets answers 500. A request counts for each \
rule whose clientSelectors hold (as those of rateLimit.local), and is answered with 429 if one of them is used up. Each rule of a route has a count of its own; \
with shared all routes of the policy have one together. cost.request says what a request counts for (0: it is only checked), cost.response what its response \
counts for when it is over (a number, or what a filter noted); limit.fromMetadata takes the limit from what a filter noted, a struct with requests_per_unit and \
unit (Envoy 1.39 and newer: older ones of the fleet stay at the snapshot before). shadowMode counts and refuses nothing. Clients are told by X-RateLimit headers, unless xRateLimitHeaders or the ClientTrafficPolicy says otherwise.",
        effect: Effect::Filter {
            name: NAME,
            place: place::GLOBAL_RATE_LIMIT,
            why: "only what the limits of each Envoy let pass is counted for all",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(global) = spec.rate_limit.as_ref().and_then(|limit| limit.global.as_ref()) else { return };
        let at = FieldPath::parse("spec.rateLimit.global.rules");
        let (mut apart, mut together) = (RateLimitPerRoute::default(), RateLimitPerRoute::default());
        let (mut of_each, mut descriptors, mut oldest_envoy) = (Vec::new(), Vec::new(), None);
        for (index, rule) in global.rules.iter().enumerate() {
            let at = at.index(index);
            let Some(limit) = limit(&rule.limit, &at.key("limit").key("unit"), cx) else { return };
            let Some(told) = told(rule, &format!("rule-{index}"), &at, cx) else { return };
            if rule.is_told_its_limit() {
                oldest_envoy = Some(NOTED_LIMITS);
            }
            let shadow = rule.shadow_mode == Some(true);
            if shadow && rule.is_told_its_limit() {
                let message = "the service enforces limits that a filter has noted also in shadow mode";
                cx.approximate(at.key("shadowMode"), message);
            }
            let shared = rule.shared == Some(true);
            let (own, limits) =
                if shared { (&mut together, &mut descriptors) } else { (&mut apart, &mut of_each) };
            own.rate_limits.extend(told.rows);
            limits.extend(chain(told.entries, &limit, shadow));
        }
        if !of_each.is_empty() {
            let key = ROUTE.to_owned();
            descriptors.push(RateLimitDescriptor { key, descriptors: of_each, ..Default::default() });
        }
        if descriptors.is_empty() {
            return;
        }
        let of = cx.counts_of();
        let config = RateLimitConfig { descriptors, ..Default::default() };
        cx.shared_limits(SharedLimits {
            of,
            apart: apart.encode_to_vec(),
            together: together.encode_to_vec(),
            config: config.encode_to_vec().into(),
            oldest_envoy,
        });
    }
}

fn limit(limit: &Value, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<RateLimitPolicy> {
    let unit = RateLimitUnit::from_str_name(&limit.unit.to_ascii_uppercase());
    let Some(unit) = unit.filter(|unit| *unit != RateLimitUnit::Unknown) else {
        cx.invalid(at.clone(), &format!("{:?} is no unit of time", limit.unit));
        return None;
    };
    Some(RateLimitPolicy { unit: unit.into(), requests_per_unit: limit.requests, ..Default::default() })
}

/// The limit of a row of entries, one inside the other.
fn chain(
    entries: Vec<(String, Option<String>)>,
    limit: &RateLimitPolicy,
    shadow_mode: bool,
) -> Option<RateLimitDescriptor> {
    let mut below: Option<RateLimitDescriptor> = None;
    for (key, value) in entries.into_iter().rev() {
        let mut own =
            RateLimitDescriptor { key, value: value.unwrap_or_default(), ..RateLimitDescriptor::default() };
        match below.take() {
            None => (own.rate_limit, own.shadow_mode) = (Some(limit.clone()), shadow_mode),
            Some(inner) => own.descriptors.push(inner),
        }
        below = Some(own);
    }
    below
}

/// The service that counts for a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitService {
    /// The fleet, as it is written.
    pub fleet: String,
    /// The cluster that it is reached by.
    pub cluster: String,
    /// What it is called in requests to it.
    pub authority: String,
    /// How long it is waited for; none for what Envoy has by itself (20 ms).
    pub timeout: Option<Duration>,
    /// What it does not answer does not pass.
    pub closes: bool,
}

/// What limits make of a route whose fleet has a service: its filter, and the domain of its counts. The route is named in a
/// way that no other rule of a route has.
pub fn limited(limits: &SharedLimits, service: &LimitService, route: &str) -> (RouteFilter, String) {
    // Encoded by this file.
    let read = |bytes: &[u8]| RateLimitPerRoute::decode(bytes).unwrap_or_default().rate_limits;
    let entry = Action {
        action_specifier: Some(ActionSpecifier::GenericKey(GenericKey {
            descriptor_key: ROUTE.to_owned(),
            descriptor_value: route.to_owned(),
            ..Default::default()
        })),
    };
    let mut rate_limits = read(&limits.apart);
    rate_limits.iter_mut().for_each(|row| row.actions.insert(0, entry.clone()));
    rate_limits.extend(read(&limits.together));
    let domain = format!("{}/{}", service.fleet, limits.of);
    let own = RateLimitPerRoute { rate_limits, domain: domain.clone(), ..Default::default() };
    let filter = RouteFilter {
        place: place::GLOBAL_RATE_LIMIT,
        name: NAME.to_owned(),
        base: extension(&base(service)),
        own: extension(&own),
        off: None,
    };
    (filter, domain)
}

/// What stands on listeners: the same for all routes of a fleet. Without limits nobody is asked.
fn base(service: &LimitService) -> RateLimit {
    let grpc = EnvoyGrpc {
        cluster_name: service.cluster.clone(),
        authority: service.authority.clone(),
        ..Default::default()
    };
    RateLimit {
        domain: service.fleet.clone(),
        timeout: service.timeout.map(milliseconds),
        failure_mode_deny: service.closes,
        enable_x_ratelimit_headers: XRateLimitHeadersRfcVersion::DraftVersion03.into(),
        rate_limit_service: Some(RateLimitServiceConfig {
            grpc_service: Some(GrpcService {
                target_specifier: Some(TargetSpecifier::EnvoyGrpc(grpc)),
                ..Default::default()
            }),
            transport_api_version: ApiVersion::V3.into(),
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
