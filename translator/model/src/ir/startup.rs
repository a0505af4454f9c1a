//! What an EnvoyProxy says of how the Envoys of a fleet start: it stands in their bootstrap, and in no snapshot.

use super::Cluster;

/// What stands in a fleet's bootstrap besides what all fleets have.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Startup {
    /// Prometheus is shown no statistics.
    pub unscraped: bool,
    /// An encoded `Compressor` for what Prometheus is shown.
    pub compressor: Option<Vec<u8>>,
    /// Encoded `StringMatcher`s of the names of statistics that are kept; `None`: all are.
    pub kept: Option<Vec<Vec<u8>>>,
    /// Who statistics are sent to.
    pub sinks: Vec<MetricSink>,
    /// What is put over the bootstrap, after all else.
    pub own: Option<OwnBootstrap>,
}

/// A collector of statistics. Envoy looks for it before its relay says anything, so its cluster stands in the bootstrap, too.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricSink {
    /// Its place among the sinks of the EnvoyProxy.
    pub index: usize,
    /// An encoded `SinkConfig` of OpenTelemetry, which names the cluster.
    pub config: Vec<u8>,
    /// The name of the cluster in the bootstrap.
    pub name: String,
    /// The cluster of the backend among those of routes.
    pub backend: String,
    /// That cluster, with names instead of endpoints that a relay would have to know.
    pub cluster: Option<Cluster>,
    /// The CAs that sign the collector's certificate, PEM; `None`: those of the machine.
    pub authorities: Option<String>,
}

/// A user's own bootstrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnBootstrap {
    /// YAML in the place of everything.
    Replace(String),
    /// YAML that is merged with what is there, as protobuf merges.
    Merge(String),
    /// Patches of what is there.
    Patch(Vec<BootstrapPatch>),
}

/// A patch of a bootstrap (RFC 6902).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BootstrapPatch {
    /// What is done.
    pub op: String,
    /// A JSON pointer.
    pub path: Option<String>,
    /// A JSONPath that finds places; the pointer goes on from there.
    pub json_path: Option<String>,
    /// Another pointer.
    pub from: Option<String>,
    /// The value as JSON.
    pub value: Option<String>,
}
