//! What active health checks find (EnvoyProxy `telemetry.healthCheckLog`), for checks of which no policy says it.

use super::{Cx, at};
use crate::health_check::{Log, logged};
use envoy_types::pb::envoy::config::core::v3::HealthCheck;
use prost::Message as _;

pub(super) fn lower(log: &Log, cx: &mut Cx<'_, '_>) {
    match logged(log) {
        Ok((event_logger, failures, successes)) => {
            let check = HealthCheck {
                event_logger,
                always_log_health_check_failures: failures,
                always_log_health_check_success: successes,
                ..Default::default()
            };
            cx.out.proxy.health_log = Some(check.encode_to_vec());
        }
        Err(index) => {
            let field = at("telemetry.healthCheckLog.sinks").index(index);
            cx.find(field, "a file needs a path", "nothing is written of health checks");
        }
    }
}
