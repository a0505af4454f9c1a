//! The fields of an EnvoyProxy (Envoy Gateway v1.9), and what becomes of each.

use Field::{
    Ignored, IgnoredFlag, Level, List, Number, Object, Part, Refused, RefusedFlag, Scalar, Text, Texts,
};

/// What a field holds, and what becomes of it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Field {
    /// One of these texts; any if there are none.
    Text(&'static [&'static str]),
    /// A log level of Envoy.
    Level,
    /// A whole number that is at least this.
    Number(i64),
    /// A number or text, for the API server to judge.
    Scalar,
    /// Texts by name.
    Texts,
    /// Passed on as written: the API server judges it.
    Object,
    /// Passed on as written: the API server judges it.
    List,
    /// These fields.
    Part(&'static [(&'static str, Field)]),
    /// Has no effect, for this reason.
    Ignored(&'static str),
    /// A flag that has no effect, for this reason, if it is true.
    IgnoredFlag(&'static str),
    /// Restricts, or changes which rule answers, and cannot be carried out: no fleet comes of it.
    Refused(&'static str),
    /// The same for a flag that is true.
    RefusedFlag(&'static str),
}

const RESTRICTED: &str =
    "pods keep to the Pod Security level restricted, and mount what they need and no more";
const NAMED: &str = "objects of a fleet have fixed names, by which they are found again";
const PATCHED: &str =
    "manifests are not patched; change the output of moorgate render in your repository instead";
const BOOT: &str = "Envoy's bootstrap is Moorgate's own, so that a fleet always finds its relay";
const LATER: &str = "this version does not compile it";

/// `spec`.
pub(super) const SPEC: Field = Part(&[
    ("backendTLS", Part(BACKEND_TLS)),
    ("bootstrap", Ignored(BOOT)),
    ("concurrency", Number(1)),
    ("dynamicModules", Ignored(LATER)),
    ("extraArgs", Ignored("Envoy's arguments are Moorgate's own")),
    ("filterOrder", Ignored("HTTP filters have a fixed order")),
    ("geoIP", Ignored(LATER)),
    ("ipFamily", Ignored("listeners take IPv4 and IPv6 wherever the pod has both")),
    ("logging", Part(&[("level", Part(LEVELS))])),
    ("luaValidation", Ignored("no Lua is compiled")),
    ("mergeBackends", IgnoredFlag("each backend has a cluster of its own")),
    ("mergeGateways", IgnoredFlag("each Gateway has a fleet of its own")),
    ("mergeType", Ignored("a Gateway's parameters take the place of its class's as a whole")),
    (
        "preserveRouteOrder",
        RefusedFlag("rules are sorted as the Gateway API says, so another rule may answer"),
    ),
    ("provider", Part(PROVIDER)),
    ("routingType", Ignored("Envoy always connects to endpoints; a backend of type Service is not known")),
    ("shutdown", Ignored("pods drain for 5 seconds and end within 30")),
    ("telemetry", Part(TELEMETRY)),
]);

const BACKEND_TLS: &[(&str, Field)] = &[
    ("alpnProtocols", Ignored("the protocol of a backend decides what is negotiated")),
    ("ciphers", Refused("cipher suites towards backends are Envoy's")),
    ("clientCertificateRef", Ignored("say it in the Gateway's spec.tls.backend.clientCertificateRef")),
    ("ecdhCurves", Refused("curves towards backends are Envoy's")),
    ("maxVersion", Ignored("TLS 1.2 and 1.3 are spoken towards backends")),
    ("minVersion", Refused("TLS 1.2 and 1.3 are spoken towards backends")),
    ("signatureAlgorithms", Refused("signature algorithms towards backends are Envoy's")),
];

/// Names of Envoy's loggers as Envoy Gateway has them.
pub(super) const LEVELS: &[(&str, Field)] = &[
    ("admin", Level),
    ("client", Level),
    ("connection", Level),
    ("default", Level),
    ("filter", Level),
    ("http", Level),
    ("main", Level),
    ("router", Level),
    ("runtime", Level),
    ("system", Ignored("Envoy has no logger of that name")),
    ("upstream", Level),
];

const TELEMETRY: &[(&str, Field)] = &[
    ("accessLog", Ignored("access is logged to standard output, as JSON")),
    ("metrics", Ignored("Envoy's own metrics are at its admin interface")),
    ("requestID", Ignored(LATER)),
    ("tracing", Ignored("use an XTelemetryPolicy on the Gateway")),
];

const PROVIDER: &[(&str, Field)] = &[
    ("host", Ignored("fleets are rendered for Kubernetes")),
    ("kubernetes", Part(KUBERNETES)),
    ("type", Text(&["Kubernetes"])),
];

const KUBERNETES: &[(&str, Field)] = &[
    ("envoyDaemonSet", Part(WORKLOAD)),
    ("envoyDeployment", Part(DEPLOYMENT)),
    ("envoyHpa", Part(AUTOSCALER)),
    ("envoyPdb", Part(BUDGET)),
    ("envoyService", Part(SERVICE)),
    ("envoyServiceAccount", Ignored(NAMED)),
    ("useListenerPortAsContainerPort", IgnoredFlag("the port of a listener always is that of the container")),
];

const WORKLOAD: &[(&str, Field)] = &[
    ("container", Part(CONTAINER)),
    ("name", Ignored(NAMED)),
    ("patch", Ignored(PATCHED)),
    ("pod", Part(POD)),
    ("strategy", Object),
];

const DEPLOYMENT: &[(&str, Field)] = &[
    ("container", Part(CONTAINER)),
    ("initContainers", Ignored(RESTRICTED)),
    ("name", Ignored(NAMED)),
    ("patch", Ignored(PATCHED)),
    ("pod", Part(POD)),
    ("replicas", Number(0)),
    ("strategy", Object),
];

const CONTAINER: &[(&str, Field)] = &[
    ("env", Ignored(BOOT)),
    ("image", Text(&[])),
    ("imageRepository", Ignored("write the whole image in image")),
    ("resources", Object),
    ("securityContext", Ignored(RESTRICTED)),
    ("volumeMounts", Ignored(RESTRICTED)),
];

const POD: &[(&str, Field)] = &[
    ("affinity", Object),
    ("annotations", Texts),
    ("imagePullSecrets", List),
    ("labels", Texts),
    ("nodeSelector", Texts),
    ("priorityClassName", Text(&[])),
    ("securityContext", Ignored(RESTRICTED)),
    ("tolerations", List),
    ("topologySpreadConstraints", List),
    ("volumes", Ignored(RESTRICTED)),
];

const AUTOSCALER: &[(&str, Field)] = &[
    ("behavior", Object),
    ("maxReplicas", Number(1)),
    ("metrics", List),
    ("minReplicas", Number(0)),
    ("name", Ignored(NAMED)),
    ("patch", Ignored(PATCHED)),
];

const BUDGET: &[(&str, Field)] = &[
    ("maxUnavailable", Scalar),
    ("minAvailable", Scalar),
    ("name", Ignored(NAMED)),
    ("patch", Ignored(PATCHED)),
];

const SERVICE: &[(&str, Field)] = &[
    ("allocateLoadBalancerNodePorts", Scalar),
    ("annotations", Texts),
    ("externalTrafficPolicy", Text(&["Local", "Cluster"])),
    ("labels", Texts),
    ("loadBalancerClass", Text(&[])),
    ("loadBalancerIP", Ignored("say it in the Gateway's spec.addresses")),
    ("loadBalancerSourceRanges", List),
    ("name", Ignored(NAMED)),
    ("patch", Ignored(PATCHED)),
    ("type", Text(&["ClusterIP", "LoadBalancer", "NodePort"])),
];
