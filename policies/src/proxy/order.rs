//! The order of filters (EnvoyProxy `filterOrder`).

use moorgate_model::ir::Move;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub(super) struct Position {
    name: String,
    before: Option<String>,
    after: Option<String>,
}

impl Position {
    /// The schema lets only one of the two be written.
    pub(super) fn lower(&self) -> Option<Move> {
        let (other, before) = match (&self.before, &self.after) {
            (Some(other), _) => (other, true),
            (None, Some(other)) => (other, false),
            (None, None) => return None,
        };
        Some(Move { filter: self.name.clone(), before, other: other.clone() })
    }
}
