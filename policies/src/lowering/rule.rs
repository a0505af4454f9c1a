//! What a filter of a rule changes in the rule itself (HTTPRouteFilter).

use super::Lowering;
use moorgate_model::ir::ValueMatch;

/// Conditions on cookies that must all be met, sorted by name.
pub type Cookies = Vec<(String, ValueMatch)>;

/// What changes a rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OfRule {
    /// Requests are answered by Envoy with this status, and go to no backend.
    pub respond: Option<u16>,
    /// A request must meet one of these too; without any nothing is asked for.
    pub cookies: Vec<Cookies>,
    /// The path is written anew.
    pub path: bool,
    /// The host is written anew.
    pub host: bool,
}

impl OfRule {
    /// Adds what another one says; the first that answers does.
    pub(super) fn add(&mut self, other: &Self) {
        self.respond = self.respond.or(other.respond);
        self.cookies.extend(other.cookies.iter().cloned());
        self.path |= other.path;
        self.host |= other.host;
    }
}

impl Lowering<'_> {
    /// Something of the rule.
    pub(crate) fn rule(&mut self, rule: &OfRule) {
        self.out.rule.add(rule);
    }
}
