//! Who is bound to whom: objects to the intermediate representation, and the verdict on each object.
//!
//! ```text
//! objects ─▶ index ─▶ listener (per Gateway) ─▶ parent (routes to listeners) ─▶ kind: rule, backend ─▶ table ─▶ ir
//!                                   every broken reference: diagnostic ─▶ status
//! ```
//! All references across namespaces go through [`grant`]. What cannot be resolved becomes a value that answers 500,
//! so that the rest keeps working (Gateway API: HTTPRoute `backendRefs`).

mod apart;
mod backend;
mod filter;
mod fleet;
mod grant;
mod hostname;
mod index;
mod kind;
mod listener;
mod parameters;
mod parent;
mod policy;
mod precedence;
mod proxy;
mod recomputed;
mod rule;
mod spec;
mod stat_names;
mod table;
mod takes;
mod trust;
mod unsupported;

/// Whether a text can stand in [`Options::allowed`].
pub use backend::is_place;
pub use hostname::{covers, intersect};
pub(crate) use policy::{Merge, merged_object};
pub use takes::{Take, Takes};

use crate::inputs::Wants;
use crate::status::Statuses;
use moorgate_model::{Diagnostics, Object, ObjectRef, ir};
use moorgate_snapshot::FleetName;
use std::collections::{BTreeMap, BTreeSet};

/// The API group of the Gateway API.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// The controller name of Moorgate's own GatewayClasses.
pub const CONTROLLER_NAME: &str = "moorgate.dev/gateway-controller";

/// What decides which objects are ours and what a missing one means.
#[derive(Debug, Clone)]
pub struct Options {
    /// GatewayClasses with this controller name are compiled.
    pub controller_name: String,
    /// Kinds of which the source does not hold all (DESIGN §4): a missing one may live elsewhere.
    pub open: BTreeSet<String>,
    /// The time in seconds since 1970, to warn of certificates that are out of date; without it nobody is warned. It
    /// reaches diagnostics only, and never bytes.
    pub now: Option<i64>,
    /// GatewayClasses whose Gateways are served by one fleet together.
    pub merged: BTreeSet<String>,
    /// Addresses, ranges of them, names and paths of sockets that proxies may connect to though they lie in the proxy's own
    /// machine or network.
    pub allowed: BTreeSet<String>,
    /// Policies that validation refused: what they restrict is closed.
    pub refused: BTreeSet<ObjectRef>,
    /// EnvoyPatchPolicies are applied.
    pub patches: bool,
    /// Gateways of which nothing may be served: a patch that may restrict access cannot be applied.
    pub denied: BTreeSet<ObjectRef>,
}

impl Options {
    /// The fleet that serves a Gateway of a class.
    pub fn fleet(&self, class: &str, namespace: &str, name: &str) -> FleetName {
        if self.merged.contains(class) {
            FleetName::Class { name: class.to_owned() }
        } else {
            FleetName::gateway(namespace, name)
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        let open = ["Secret", "ConfigMap", "ClusterTrustBundle", "EndpointSlice"].map(String::from).into();
        Self {
            controller_name: CONTROLLER_NAME.into(),
            open,
            now: None,
            merged: BTreeSet::new(),
            allowed: BTreeSet::new(),
            refused: BTreeSet::new(),
            patches: false,
            denied: BTreeSet::new(),
        }
    }
}

/// What came of all objects.
#[derive(Debug, Default)]
pub struct Attachment {
    /// What each fleet shall do.
    pub fleets: BTreeMap<FleetName, ir::Fleet>,
    /// What is wrong.
    pub diagnostics: Diagnostics,
    /// Conditions of every object of ours.
    pub statuses: Statuses,
    /// Matches that take requests from routes of another namespace.
    pub takes: Takes,
    /// Inputs that policies ask for, declared or not.
    pub wants: Wants,
}

/// Binds routes to listeners and resolves every reference. Pure; the order of `objects` does not matter.
pub fn attach(objects: &[Object], options: &Options) -> Attachment {
    let mut diagnostics = Diagnostics::default();
    let index = index::Index::new(objects, options, &mut diagnostics);
    let mut gateways = listener::gateways(&index, &mut diagnostics);
    let mut statuses = Statuses::new(&options.controller_name);
    let mut policies = policy::attach(&index, &mut diagnostics);
    policy::listeners(&mut policies, &mut gateways, options, &mut diagnostics);
    let mut routes = parent::attach(&index, &mut gateways, &policies, &mut diagnostics, &mut statuses);
    policy::settle(&index, &mut policies, &gateways, &mut routes, &mut diagnostics);
    policy::hosts(&index, &mut policies, &mut gateways, &routes, &mut diagnostics);
    listener::filters(&index, &policies, &mut gateways, &mut routes, &mut diagnostics);
    policy::telemetry(&index, &mut policies, &mut gateways, &mut routes, &mut diagnostics);
    let proxies = proxy::resolve(&index, &policies, &gateways, &mut routes, &mut diagnostics);
    apart::take(&index, &mut routes);
    listener::report(&index, &gateways, &mut statuses);
    parameters::report(&index, &mut diagnostics);
    unsupported::report(&index, &gateways, &mut diagnostics, &mut statuses);
    backend::external::report(&index, &routes, &mut diagnostics, &mut statuses);
    backend::direct::report(&index, &policies, &mut statuses);
    policy::report(&index, &policies, &gateways, &routes, &mut statuses);
    listener::close(&mut gateways, &options.merged, |gateway| policies.denies_gateway(gateway));
    let (fleets, takes) =
        fleet::assemble(&gateways, (&routes, proxies), &policies, (objects, options), &mut diagnostics);
    let wants = index.wants.take();
    Attachment { fleets, diagnostics, statuses, takes, wants }
}
