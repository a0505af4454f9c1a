//! What a binder has to look at again.

use crate::bind::live::Ticks;
use std::time::Duration;
use tokio::sync::watch;

/// Changes of a cluster are gathered for so long: a rollout is many of them.
const GATHER: Duration = Duration::from_millis(10);
/// Binding takes at most this share of the time, one in so many, however fast a cluster changes.
const SHARE: u32 = 4;
/// No change waits longer than this to be looked at.
const LONGEST: Duration = Duration::from_secs(1);

/// Which endpoint sets are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Resolve {
    Nothing,
    /// Those of Services that changed in the cluster.
    Changed,
    Everything,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    /// Files of endpoints are read.
    pub files: bool,
    /// Endpoints are resolved.
    pub endpoints: Resolve,
    /// Secrets are read.
    pub secrets: bool,
}

impl Due {
    pub(super) fn everything() -> Self {
        Self { files: true, endpoints: Resolve::Everything, secrets: true }
    }

    /// Names have other addresses.
    pub(super) fn resolving() -> Self {
        Self { files: false, endpoints: Resolve::Everything, secrets: false }
    }

    /// Only what else changed.
    pub(super) fn nothing() -> Self {
        Self { files: false, endpoints: Resolve::Nothing, secrets: false }
    }

    /// This, and what changed in the cluster since it was looked at.
    pub(super) fn with_changes(self, before: Ticks, now: Ticks) -> Self {
        let changed = if before.endpoints == now.endpoints { Resolve::Nothing } else { Resolve::Changed };
        Self {
            endpoints: self.endpoints.max(changed),
            secrets: self.secrets || before.objects != now.objects,
            ..self
        }
    }
}

/// Waits for a change of what the store has; without it for ever.
pub(super) async fn told(late: Option<&mut watch::Receiver<u64>>) {
    let Some(late) = late else { return std::future::pending().await };
    if late.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits for a change of the cluster, and then a little for more. `took` is how long binding took last. Without a cluster
/// it waits for ever.
pub(super) async fn rung(ticks: Option<&mut watch::Receiver<Ticks>>, took: Duration) {
    let Some(ticks) = ticks else { return std::future::pending().await };
    if ticks.changed().await.is_err() {
        return std::future::pending().await;
    }
    tokio::time::sleep((took * SHARE).clamp(GATHER, LONGEST)).await;
}
