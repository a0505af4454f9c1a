//! Fleets that are opened on demand.

use super::{ConfigError, Listen};
use crate::serve::tls::Files;
use moorgate_snapshot::FleetName;
use std::time::Duration;

/// How long after its last Envoy a fleet is forgotten if nothing else is said.
const FORGET_AFTER: Duration = Duration::from_mins(10);

/// How fleets are opened and forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnDemand {
    /// How long after its last Envoy left.
    pub forget_after: Duration,
    /// What a fleet binds is read with its Envoys' own tokens.
    pub passes: bool,
}

/// What was asked for.
pub(super) struct Asked {
    pub on_demand: bool,
    pub forget_after: Option<String>,
    pub as_client: bool,
    pub kubernetes: bool,
}

impl Asked {
    /// Fleets that are served from the start are not opened on demand, and who is not known opens none.
    pub(super) fn check(
        self,
        fleets: &[FleetName],
        listen: &[Listen],
        tls: Option<&Files>,
    ) -> Result<Option<OnDemand>, ConfigError> {
        if !self.on_demand {
            return match (self.forget_after, self.as_client) {
                (None, false) => Ok(None),
                (Some(_), _) => Err(ConfigError::Together("--forget-after goes with --on-demand")),
                (None, true) => Err(ConfigError::Together("--kubernetes-as-client goes with --on-demand")),
            };
        }
        if !fleets.is_empty() {
            return Err(ConfigError::Together("--on-demand takes the place of --fleet"));
        }
        let (Some(tls), true) = (tls, listen.iter().all(|listen| matches!(listen, Listen::Tcp(_)))) else {
            return Err(ConfigError::Together(
                "--on-demand needs clients that prove who they are: --listen tcp:ADDRESS with TLS, and no socket",
            ));
        };
        if self.as_client && !self.kubernetes {
            return Err(ConfigError::Together("--kubernetes-as-client goes with --kubernetes"));
        }
        if self.as_client && (!tls.tokens || tls.client_ca.is_some()) {
            return Err(ConfigError::Together(
                "--kubernetes-as-client needs clients that are known by tokens alone: --token-keys without --client-ca",
            ));
        }
        let forget_after = super::time("forget-after", self.forget_after, FORGET_AFTER)?;
        Ok(Some(OnDemand { forget_after, passes: self.as_client }))
    }
}
