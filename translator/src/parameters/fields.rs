//! The fields of an EnvoyProxy (Envoy Gateway v1.9), and what becomes of each.

use moorgate_policies::proxy::REMOTE_MODULE;

use Field::{
    Always, Duration, Flag, Ignored, Items, Level, List, Name, Number, Object, Part, Scalar, Text, Texts,
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
    /// A time (GEP-2257).
    Duration,
    /// The name of an object: that of a Service, or of any other.
    Name {
        /// It is a Service's, which is a name in DNS, too.
        service: bool,
    },
    /// A number or text, for the API server to judge.
    Scalar,
    /// Texts by name.
    Texts,
    /// Passed on as written: the API server judges it.
    Object,
    /// Passed on as written: the API server judges it.
    List,
    /// True or false.
    Flag,
    /// A list of these fields.
    Items(&'static [(&'static str, Field)]),
    /// These fields.
    Part(&'static [(&'static str, Field)]),
    /// Has no effect, for this reason.
    Ignored(&'static str),
    /// A flag for what is always so: it has no effect, for this reason, if it is false.
    Always(&'static str),
}

/// Every field below `spec` that is told apart, with the reason for which it has no effect, if it has none.
pub fn all() -> Vec<(String, Option<&'static str>)> {
    fn walk(field: &Field, at: &str, out: &mut Vec<(String, Option<&'static str>)>) {
        match field {
            Part(known) | Items(known) => {
                for (name, field) in *known {
                    let below = if at.is_empty() { (*name).to_owned() } else { format!("{at}.{name}") };
                    walk(field, &below, out);
                }
            }
            Ignored(why) => out.push((at.to_owned(), Some(*why))),
            _ => out.push((at.to_owned(), None)),
        }
    }
    let mut out = Vec::new();
    walk(&SPEC, "", &mut out);
    out.sort();
    out
}

const ACCOUNT: &str = "the account is who a fleet is for its relay, its store and the cluster: one of another name may have other rights";

/// `spec`.
pub(super) const SPEC: Field = Part(&[
    ("backendTLS", Part(BACKEND_TLS)),
    ("bootstrap", Part(BOOTSTRAP)),
    ("concurrency", Number(1)),
    ("dynamicModules", Items(MODULE)),
    ("extraArgs", List),
    ("filterOrder", List),
    ("geoIP", Part(&[("provider", Part(PLACES))])),
    ("ipFamily", Text(&["DualStack", "IPv4", "IPv6"])),
    ("logging", Part(&[("level", Part(LEVELS))])),
    ("luaValidation", Text(&["Disabled", "InsecureSyntax", "Strict"])),
    ("mergeBackends", Part(&[("selector", Object)])),
    ("mergeGateways", Flag),
    ("mergeType", Text(&["JSONMerge", "Replace", "StrategicMerge"])),
    ("preserveRouteOrder", Flag),
    ("provider", Part(PROVIDER)),
    ("routingType", Text(&["Endpoint", "Service"])),
    ("shutdown", Part(SHUTDOWN)),
    ("telemetry", Part(TELEMETRY)),
]);

const MODULE: &[(&str, Field)] =
    &[("doNotClose", Flag), ("loadGlobally", Flag), ("name", Text(&[])), ("source", Part(MODULE_SOURCE))];

const MODULE_SOURCE: &[(&str, Field)] = &[
    ("local", Part(&[("path", Text(&[]))])),
    ("remote", Ignored(REMOTE_MODULE)),
    ("type", Text(&["Local", "Remote"])),
];

const PLACES: &[(&str, Field)] = &[("maxMind", Part(DATABASES)), ("type", Text(&["MaxMind"]))];

const DATABASES: &[(&str, Field)] = &[
    ("anonymousIpDbSource", Part(DATABASE)),
    ("asnDbSource", Part(DATABASE)),
    ("cityDbSource", Part(DATABASE)),
    ("countryDbSource", Part(DATABASE)),
    ("ispDbSource", Part(DATABASE)),
];

const DATABASE: &[(&str, Field)] = &[("local", Part(&[("path", Text(&[]))]))];
const PATCH: &[(&str, Field)] = &[("type", Text(&["JSONMerge", "StrategicMerge"])), ("value", Object)];

const SHUTDOWN: &[(&str, Field)] =
    &[("drainTimeout", Duration), ("healthCheckFailureDelay", Duration), ("minDrainDuration", Duration)];

const VERSIONS: &[&str] = &["1.0", "1.1", "1.2", "1.3", "Auto"];

const BACKEND_TLS: &[(&str, Field)] = &[
    ("alpnProtocols", List),
    ("ciphers", List),
    ("clientCertificateRef", Object),
    ("ecdhCurves", List),
    ("fingerprints", Ignored("only connections of clients have fingerprints")),
    ("maxVersion", Text(VERSIONS)),
    ("minVersion", Text(VERSIONS)),
    ("signatureAlgorithms", List),
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
    ("accessLog", Part(ACCESS_LOG)),
    ("healthCheckLog", Object),
    ("metrics", Part(METRICS)),
    ("requestID", Object),
    ("tracing", Part(TRACING)),
];

/// What its texts say is the matter of `startup`.
const BOOTSTRAP: &[(&str, Field)] =
    &[("jsonPatches", List), ("type", Text(&["JSONPatch", "Merge", "Replace"])), ("value", Text(&[]))];

const METRICS: &[(&str, Field)] = &[
    ("clusterStatName", Text(&[])),
    ("enableGRPCStats", Flag),
    ("enablePerEndpointStats", Flag),
    ("enableRequestResponseSizesStats", Flag),
    ("enableVirtualHostStats", Flag),
    ("matches", Items(METRIC_MATCH)),
    ("prometheus", Part(PROMETHEUS)),
    ("sinks", Items(METRIC_SINK)),
];

const METRIC_MATCH: &[(&str, Field)] =
    &[("type", Text(&["Exact", "Prefix", "RegularExpression", "Suffix"])), ("value", Text(&[]))];

const PROMETHEUS: &[(&str, Field)] = &[("compression", Part(COMPRESSION)), ("disable", Flag)];

const COMPRESSION: &[(&str, Field)] = &[
    ("brotli", Object),
    ("gzip", Object),
    ("minContentLength", Scalar),
    ("type", Text(&["Brotli", "Gzip", "Zstd"])),
    ("zstd", Object),
];

const METRIC_SINK: &[(&str, Field)] =
    &[("openTelemetry", Part(METRIC_COLLECTOR)), ("type", Text(&["OpenTelemetry"]))];

const METRIC_COLLECTOR: &[(&str, Field)] = &[
    ("backendRef", Object),
    ("backendRefs", List),
    ("backendSettings", Object),
    ("headers", List),
    ("host", Text(&[])),
    // An API server writes one into every object.
    ("port", Scalar),
    ("reportCountersAsDeltas", Flag),
    ("reportHistogramsAsDeltas", Flag),
    ("resourceAttributes", Texts),
];

const ACCESS_LOG: &[(&str, Field)] = &[("disable", Flag), ("settings", Items(LOG_SETTING))];

const LOG_SETTING: &[(&str, Field)] = &[
    ("format", Object),
    ("matches", List),
    ("sinks", Items(LOG_SINK)),
    ("type", Text(&["Listener", "Route", "Upstream"])),
];

const LOG_SINK: &[(&str, Field)] = &[
    ("als", Part(LOG_SERVICE)),
    ("file", Object),
    ("openTelemetry", Part(LOG_COLLECTOR)),
    ("type", Text(&["ALS", "File", "OpenTelemetry"])),
];

const LOG_SERVICE: &[(&str, Field)] = &[
    ("backendRef", Object),
    ("backendRefs", List),
    ("backendSettings", Object),
    ("http", Object),
    ("logName", Text(&[])),
    ("type", Text(&["HTTP", "TCP"])),
];

const LOG_COLLECTOR: &[(&str, Field)] = &[
    ("backendRef", Object),
    ("backendRefs", List),
    ("backendSettings", Object),
    ("headers", List),
    ("host", Text(&[])),
    // An API server writes one into every object.
    ("port", Scalar),
    ("resourceAttributes", Texts),
    ("resources", Texts),
];

const TRACING: &[(&str, Field)] = &[
    ("clientSamplingFraction", Object),
    ("customTags", Object),
    ("overallSamplingFraction", Object),
    ("provider", Part(TRACER)),
    ("samplingFraction", Object),
    ("samplingRate", Number(0)),
    ("spanName", Object),
    ("tags", Texts),
];

const TRACER: &[(&str, Field)] = &[
    ("backendRef", Object),
    ("backendRefs", List),
    ("backendSettings", Object),
    ("host", Text(&[])),
    ("openTelemetry", Object),
    ("port", Scalar),
    ("serviceName", Text(&[])),
    ("type", Text(&["Datadog", "OpenTelemetry", "Zipkin"])),
    ("zipkin", Object),
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
    ("envoyPDB", Part(BUDGET)),
    ("envoyService", Part(SERVICE)),
    ("envoyServiceAccount", Ignored(ACCOUNT)),
    ("useListenerPortAsContainerPort", Always("the port of a listener always is that of the container")),
];

const WORKLOAD: &[(&str, Field)] = &[
    ("container", Part(CONTAINER)),
    ("name", Name { service: false }),
    ("patch", Part(PATCH)),
    ("pod", Part(POD)),
    ("strategy", Object),
];

const DEPLOYMENT: &[(&str, Field)] = &[
    ("container", Part(CONTAINER)),
    ("initContainers", List),
    ("name", Name { service: false }),
    ("patch", Part(PATCH)),
    ("pod", Part(POD)),
    ("replicas", Number(0)),
    ("strategy", Object),
];

const CONTAINER: &[(&str, Field)] = &[
    ("env", List),
    ("image", Text(&[])),
    ("imageRepository", Text(&[])),
    ("resources", Object),
    ("securityContext", Object),
    ("volumeMounts", List),
];

const POD: &[(&str, Field)] = &[
    ("affinity", Object),
    ("annotations", Texts),
    ("imagePullSecrets", List),
    ("labels", Texts),
    ("nodeSelector", Texts),
    ("priorityClassName", Text(&[])),
    ("securityContext", Object),
    ("tolerations", List),
    ("topologySpreadConstraints", List),
    ("volumes", List),
];

const AUTOSCALER: &[(&str, Field)] = &[
    ("behavior", Object),
    ("maxReplicas", Number(1)),
    ("metrics", List),
    ("minReplicas", Number(0)),
    ("name", Name { service: false }),
    ("patch", Part(PATCH)),
];

const BUDGET: &[(&str, Field)] = &[
    ("maxUnavailable", Scalar),
    ("minAvailable", Scalar),
    ("name", Name { service: false }),
    ("patch", Part(PATCH)),
];

const SERVICE: &[(&str, Field)] = &[
    ("allocateLoadBalancerNodePorts", Scalar),
    ("annotations", Texts),
    ("externalTrafficPolicy", Text(&["Local", "Cluster"])),
    ("labels", Texts),
    ("loadBalancerClass", Text(&[])),
    ("loadBalancerIP", Text(&[])),
    ("loadBalancerSourceRanges", List),
    ("name", Name { service: true }),
    ("patch", Part(PATCH)),
    ("type", Text(&["ClusterIP", "LoadBalancer", "NodePort"])),
];
