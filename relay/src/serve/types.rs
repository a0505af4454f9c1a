//! What the protocol asks of each resource type. The relay is blind to content; it knows types only by these rules.

/// `LDS`.
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// `CDS`.
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// `RDS`.
pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// `EDS`.
pub const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// `SDS`.
pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// `SRDS`.
pub const SCOPED_ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration";
/// `VHDS`.
pub const VIRTUAL_HOST: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";
/// `ECDS`.
pub const EXTENSION: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
/// `RTDS`.
pub const RUNTIME: &str = "type.googleapis.com/envoy.service.runtime.v3.Runtime";
/// What a rate limit service counts by (envoyproxy/ratelimit). No Envoy asks for it.
pub const RATE_LIMIT: &str = "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig";

/// In the features of a client that drops a resource when its time to live is over (protocol page, TTL).
pub const TTL_FEATURE: &str = "xds.config.supports-resource-ttl";
/// In the features of a client that takes a `Resource` where state of the world has a bare `Any`.
pub const WRAPPER_FEATURE: &str = "xds.config.resource-in-sotw";
/// The type of that wrapper.
pub const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// When a client is told that a resource which it holds is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Together with additions: a new listener may take the address of the one that leaves.
    WithAdditions,
    /// After everything else was acknowledged, and a linger: something may still refer to it.
    Last,
    /// Never: Envoy drops it when nothing refers to it (secrets, extension configuration; envoy #32823).
    Never,
}

/// The rules of one type.
#[derive(Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a table of independent rules")]
pub struct Kind {
    /// The type URL; empty for types that the relay does not know.
    pub type_url: &'static str,
    /// For people and metric labels: `LDS`, `CDS` …
    pub short: &'static str,
    /// Place in the order of additions, low first.
    pub phase: u8,
    /// Changes of this type wait until those of lower phases were acknowledged.
    pub gated: bool,
    /// Types of higher phases wait for this one.
    pub gates: bool,
    /// An empty first request means all resources.
    pub legacy_wildcard: bool,
    /// In state of the world each response holds the full set, and what it lacks is gone.
    pub full_state: bool,
    /// When removals are sent.
    pub removal: Removal,
    /// A version that the client names on reconnect is believed. Not so for endpoints: envoy #22418.
    pub resumes: bool,
    /// Asked for by name only: `*` stands for nothing. Who may have one secret need not have all.
    pub named_only: bool,
    /// A name that nobody knows is answered with itself as an alias and no content: Envoy holds a request up until it
    /// hears of that name.
    pub aliased: bool,
    /// A name that nobody knows is not answered. Envoy would take the answer for one that it waited for, and still wait, its
    /// listener with it; without one it goes on by itself when its time is over, and lets nothing pass.
    pub unanswered: bool,
    /// Each value stands for itself: a refused one is isolated, and the snapshot is not to blame.
    pub bound: bool,
}

const CONFIGURATION: Kind = Kind {
    type_url: "",
    short: "other",
    phase: 3,
    gated: false,
    gates: false,
    legacy_wildcard: false,
    full_state: false,
    removal: Removal::WithAdditions,
    resumes: true,
    named_only: false,
    aliased: false,
    unanswered: false,
    bound: false,
};

static KINDS: [Kind; 10] = [
    Kind { type_url: RUNTIME, short: "RTDS", phase: 0, ..CONFIGURATION },
    // The service names nothing, and takes each response for all that there is.
    Kind {
        type_url: RATE_LIMIT,
        short: "RLS",
        phase: 0,
        legacy_wildcard: true,
        full_state: true,
        ..CONFIGURATION
    },
    Kind {
        type_url: CLUSTER,
        short: "CDS",
        phase: 1,
        gates: true,
        legacy_wildcard: true,
        full_state: true,
        removal: Removal::Last,
        ..CONFIGURATION
    },
    Kind {
        type_url: ENDPOINT,
        short: "EDS",
        phase: 2,
        gates: true,
        removal: Removal::Last,
        resumes: false,
        bound: true,
        ..CONFIGURATION
    },
    Kind {
        type_url: SECRET,
        short: "SDS",
        phase: 2,
        removal: Removal::Never,
        named_only: true,
        bound: true,
        ..CONFIGURATION
    },
    // There are secrets in it too.
    Kind {
        type_url: EXTENSION,
        short: "ECDS",
        phase: 2,
        removal: Removal::Never,
        named_only: true,
        unanswered: true,
        bound: true,
        ..CONFIGURATION
    },
    Kind {
        type_url: LISTENER,
        short: "LDS",
        phase: 3,
        gated: true,
        gates: true,
        legacy_wildcard: true,
        full_state: true,
        ..CONFIGURATION
    },
    Kind {
        type_url: ROUTE,
        short: "RDS",
        phase: 4,
        gated: true,
        gates: true,
        removal: Removal::Last,
        ..CONFIGURATION
    },
    Kind {
        type_url: SCOPED_ROUTE,
        short: "SRDS",
        phase: 5,
        gated: true,
        legacy_wildcard: true,
        full_state: true,
        ..CONFIGURATION
    },
    Kind {
        type_url: VIRTUAL_HOST,
        short: "VHDS",
        phase: 5,
        gated: true,
        legacy_wildcard: true,
        aliased: true,
        ..CONFIGURATION
    },
];

static OTHER: Kind = CONFIGURATION;

/// The rules of a type; those of a type that the relay does not know have an empty `type_url`.
pub fn kind(type_url: &str) -> &'static Kind {
    KINDS.iter().find(|kind| kind.type_url == type_url).unwrap_or(&OTHER)
}

/// All types that the relay knows.
pub fn kinds() -> &'static [Kind] {
    &KINDS
}
