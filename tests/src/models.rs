//! The three deployment models, from what `moorgate render` prints, on a real API server with pods as processes: acts that
//! operators do while requests flow, and what each model costs.
//!
//! ```text
//!  publish ──▶ moto ◀── tap (counts, cuts) ◀── relays ──▶ Envoys ◀── load (counts what is lost)
//!  render  ──▶ API server ──▶ pods of both kinds, under Pod Security `restricted`
//! ```
//! There are two GatewayClasses, each with a Gateway in a namespace of its own: what the one has is nothing to the other.
//! The second Gateway's Envoys run on one node only, so that a relay of the other node has nothing to do with it.

mod acts;
mod load;
mod source;
mod stage;
mod table;
mod tap;

pub use acts::{Act, MOVES, Played, SHORT, WHOLE, play};
pub use load::Report;
pub use source::{FIRST, SECOND, Tenant};
pub use stage::Stage;
pub use table::{Costs, markdown};

/// A deployment model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Model {
    /// A relay in each Envoy's pod.
    Sidecar,
    /// Relays of each class.
    Pool,
    /// A relay on each node.
    Node,
}

impl Model {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sidecar, Self::Pool, Self::Node];

    /// As `render --model` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Pool => "pool",
            Self::Node => "node",
        }
    }
}
