//! What policies need of the parameters of the fleets that serve their routes (EnvoyProxy).
//!
//! ```text
//! policy ─▶ compile ─▶ Need ─▶ (routes meet a Gateway) ─▶ parameters of its fleet ─▶ Met: filters, or why there are none
//! ```
//! One policy may be in force at Gateways of several fleets, so what is there is known only when its routes have one.

use crate::client_location::{self, Fact};
use crate::dynamic_module::{self, Wanted};
use moorgate_model::ir::RouteFilter;
use moorgate_model::{FieldPath, Object};
use std::collections::BTreeSet;

/// Something that a policy needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The field of the policy that asks for it.
    pub at: FieldPath,
    /// What.
    pub(crate) what: What,
}

/// What is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// Where a client is.
    Location(BTreeSet<Fact>),
    /// A module that runs inside of Envoy.
    Module(Wanted),
}

/// What is put on a route whose fleet has what a policy needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Met {
    /// Filters.
    pub filters: Vec<RouteFilter>,
    /// Headers that only these filters set.
    pub reserved: Vec<String>,
    /// The oldest Envoy that may have it, major and minor, if some that are supported may not.
    pub oldest_envoy: Option<(u32, u32)>,
}

impl Need {
    /// What comes of it at a fleet with these parameters: an EnvoyProxy, or an object with the `spec` of one.
    ///
    /// # Errors
    /// They do not give it; says what is missing.
    pub fn meet(&self, parameters: Option<&Object>) -> Result<Met, String> {
        match &self.what {
            What::Location(facts) => client_location::located(facts, parameters),
            What::Module(wanted) => dynamic_module::registered(wanted, parameters),
        }
    }
}
