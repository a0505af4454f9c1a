//! Bindings from a Kubernetes API server: EndpointSlices of the namespaces that bindings name, and objects by name.
//!
//! ```text
//! wants of all fleets ─▶ keeper ─▶ slices (list, watch; one a namespace) ─┐
//!                                └▶ object (watch by name, get)          ─┴▶ live
//! ```
//! Needed are `list` and `watch` on endpointslices of the backends' namespaces, and `get` and `watch` on the named
//! Secrets, ConfigMaps and ClusterTrustBundles; nothing is ever listed that holds secrets.

mod ask;
mod keeper;
mod object;
mod slices;

pub use ask::{Api, ConnectError, Pace};

use super::live::Live;
use crate::fleet::Life;
use crate::jitter::Jitter;
use crate::metrics::Metrics;
use std::sync::Arc;

/// Watches what fleets want, or this one alone, until that life ends.
pub fn start(api: Api, fleet: Option<&str>, tools: (Arc<Metrics>, Jitter), life: &Life) -> Live {
    let live = Live::default();
    let keeper = keeper::Keeper::new(api, fleet, live.clone(), tools);
    life.spawn(keeper.run(life.stop.clone()));
    live
}
