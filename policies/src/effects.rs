//! What policies can do.

use moorgate_model::ir::UpstreamTls;

/// The closed list of effects. Those of one policy are applied by `attach` to what it targets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// Clusters of the target speak TLS like this.
    pub upstream_tls: Option<UpstreamTls>,
}
