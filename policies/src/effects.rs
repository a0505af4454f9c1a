//! What policies can do.

use crate::Telemetry;
use moorgate_model::ir::{RetryBudget, Session, UpstreamTls};

/// The closed list of effects. Those of one policy are applied by `attach` to what it targets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// Clusters of the target speak TLS like this.
    pub upstream_tls: Option<UpstreamTls>,
    /// Retries towards the target are bounded like this.
    pub retry_budget: Option<RetryBudget>,
    /// Clients keep their endpoints of the target like this, unless a route says otherwise.
    pub session: Option<Session>,
    /// Gateways of the target tell a collector of their requests.
    pub telemetry: Option<Telemetry>,
}
