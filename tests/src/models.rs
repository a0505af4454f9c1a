//! The three deployment models, from what `moorgate render` prints and the chart or an overlay hands on, on a real API server
//! with pods as processes: acts that operators do while requests flow, and what each model costs.
//!
//! ```text
//!  publish ──▶ moto ◀── tap (counts, cuts) ◀── relays ──▶ Envoys ◀── load (counts what is lost)
//!  render  ──▶ helm or kustomize ──▶ API server ──▶ pods of both kinds, under Pod Security `restricted`
//! ```
//! There are two GatewayClasses, each with a Gateway in a namespace of its own: what the one has is nothing to the other.
//! The second Gateway's Envoys run on one node only, so that a relay of the other node has nothing to do with it.

mod acts;
mod load;
mod program;
mod source;
mod stage;
mod table;
mod tap;
mod tenancy;
mod wrap;

pub use acts::{Act, MOVES, Played, SHORT, WHOLE, play};
pub use load::Report;
pub use program::Program;
pub use source::{FIRST, SECOND, Tenant};
pub use stage::Stage;
pub use table::{Costs, Fixed, markdown};
pub use tap::Tap;

/// How what was rendered comes to an API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Through {
    /// The Helm chart, which is given it as `fleets`.
    Chart,
    /// The kustomize overlay of the model, which holds it.
    Overlay,
}

impl Through {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chart => "the chart",
            Self::Overlay => "kustomize",
        }
    }
}

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

    /// How it is deployed first.
    pub fn through(self) -> Through {
        match self {
            Self::Sidecar | Self::Node => Through::Chart,
            Self::Pool => Through::Overlay,
        }
    }
}
