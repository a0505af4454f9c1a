use super::*;
use crate::compile::{Compilation, Options, compile};
use crate::render::Fleet;
use crate::source::File;

/// A class and a Gateway with these parameters, and what they name.
fn source(class: &str, gateway: &str, more: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{ name: moorgate }}
spec: {{ controllerName: moorgate.dev/gateway-controller{class} }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: edge, namespace: infra }}
spec: {{ gatewayClassName: moorgate, listeners: [{{ name: http, port: 80, protocol: HTTP }}]{gateway} }}
---
{more}"
    )
}

fn compiled(text: &str) -> Compilation {
    compile(&[File { name: "in.yaml".into(), bytes: text.as_bytes().into() }], &Options::default())
}

fn proxy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyProxy\nmetadata: {{ name: {name}, namespace: infra }}\nspec: {spec}\n---\n"
    )
}

fn config_map(name: &str, data: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: {name}, namespace: infra }}\ndata: {data}\n---\n"
    )
}

const OWN: &str =
    ", infrastructure: { parametersRef: { group: gateway.envoyproxy.io, kind: EnvoyProxy, name: own } }";
const OF_CLASS: &str =
    ", parametersRef: { group: gateway.envoyproxy.io, kind: EnvoyProxy, name: shared, namespace: infra }";
const REPLICAS: &str = "{ provider: { type: Kubernetes, kubernetes: { envoyDeployment: { replicas: 3 } } } }";

/// `Accepted` of the class and the Gateway: status and reason.
fn accepted(compilation: &Compilation) -> [(String, String); 2] {
    let group = crate::attach::GATEWAY_GROUP;
    let class = ObjectRef::new(group, "GatewayClass", "", "moorgate");
    let gateway = ObjectRef::new(group, "Gateway", "infra", "edge");
    [class, gateway].map(|object| {
        let status = serde_json::to_value(compilation.statuses.get(&object).unwrap()).unwrap();
        let accepted = &status["conditions"][0];
        let text = |key: &str| accepted[key].as_str().unwrap().to_owned();
        assert_eq!(text("type"), "Accepted");
        (text("status"), text("reason"))
    })
}

/// Codes, fields and lines of what is found.
fn found(compilation: &Compilation) -> Vec<(&'static str, String, u32)> {
    let one =
        |found: &moorgate_model::Diagnostic| (found.code.id, found.field.to_string(), found.span.start.line);
    compilation.diagnostics.iter().map(one).collect()
}

fn fleet(compilation: &Compilation) -> Fleet {
    let (name, fleet) = compilation.fleets.first_key_value().unwrap();
    Fleet::of(name, fleet, &compilation.objects, "").unwrap()
}

#[test]
fn a_gateways_parameters_take_the_place_of_its_classs() {
    let other = "{ concurrency: 2, provider: { kubernetes: { envoyService: { type: ClusterIP } } } }";
    let both = proxy("own", REPLICAS) + &proxy("shared", other);
    let text = |class, gateway| compiled(&source(class, gateway, &both));
    let none = text("", "");
    let cases = [
        (OF_CLASS, "", (None, Some(2), Some("ClusterIP"))),
        ("", OWN, (Some(3), None, None)),
        (OF_CLASS, OWN, (Some(3), None, None)),
        ("", "", (None, None, None)),
    ];
    for (class, gateway, expected) in cases {
        let compilation = text(class, gateway);
        assert_eq!(found(&compilation), [], "{class} {gateway}");
        let shape = fleet(&compilation).shape;
        assert_eq!((shape.replicas, shape.concurrency, shape.service.kind.as_deref()), expected);
        assert_eq!(accepted(&compilation).map(|(status, _)| status), ["True", "True"]);
        let id = |compilation: &Compilation| compilation.fleets.first_key_value().unwrap().1.snapshot.id();
        assert_eq!(id(&compilation), id(&none), "parameters change no snapshot");
    }
}

#[test]
fn a_config_map_holds_an_envoy_proxy_for_clusters_without_its_crd() {
    let named = ", infrastructure: { parametersRef: { group: '', kind: ConfigMap, name: own } }";
    let inner = "\n  envoyproxy.yaml: |\n    apiVersion: gateway.envoyproxy.io/v1alpha1\n    kind: EnvoyProxy\n    spec:\n      concurrency: 4\n      logging: { level: { system: debug } }\n";
    let compilation = compiled(&source("", named, &config_map("own", inner)));
    assert_eq!(fleet(&compilation).shape.concurrency, Some(4));
    let found = found(&compilation);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].0, found[0].1.as_str()), ("MG4103", "data[\"envoyproxy.yaml\"]"));
    let refused = [
        "{ other: x }",
        "{ envoyproxy.yaml: 'a: [' }",
        "{ envoyproxy.yaml: 'kind: Deployment' }",
        "{ envoyproxy.yaml: '{apiVersion: gateway.envoyproxy.io/v1alpha1, kind: EnvoyProxy, spec: {concurrency: x}}' }",
    ];
    for data in refused {
        let compilation = compiled(&source("", named, &config_map("own", data)));
        assert_eq!(accepted(&compilation)[1], ("False".into(), "InvalidParameters".into()), "{data}");
        assert!(fleet(&compilation).ports.is_empty(), "{data}");
    }
    // A ConfigMap may live elsewhere for certificates; parameters are read now.
    let gone = compiled(&source("", named, ""));
    assert_eq!(accepted(&gone)[1].1, "InvalidParameters");
}

#[test]
fn what_cannot_be_used_is_not_accepted() {
    let broken = proxy("own", "{ concurrency: many }");
    let elsewhere = proxy("own", REPLICAS).replace("namespace: infra", "namespace: other");
    let old = proxy("own", REPLICAS).replace("v1alpha1", "v1alpha9");
    for (more, at_proxy) in [("", false), (&*broken, true), (&*elsewhere, false), (&*old, true)] {
        let compilation = compiled(&source("", OWN, more));
        let [class, gateway] = accepted(&compilation);
        assert_eq!((class.0.as_str(), gateway.1.as_str()), ("True", "InvalidParameters"), "{more}");
        let errors = found(&compilation).into_iter().filter(|(code, ..)| *code == "MG3018").count();
        assert_eq!(errors, if at_proxy { 2 } else { 1 }, "{more}");
    }
    let other = OF_CLASS.replace("EnvoyProxy", "Deployment");
    let bare = OF_CLASS.replace(", namespace: infra", "");
    for class in [OF_CLASS, &*other, &*bare] {
        let compilation = compiled(&source(class, "", ""));
        assert_eq!(
            accepted(&compilation).map(|(_, reason)| reason),
            ["InvalidParameters"; 2],
            "neither the class nor its Gateways: {class}"
        );
        assert_eq!(found(&compilation).len(), 1, "said once: {class}");
    }
}

#[test]
fn parameters_that_are_merged_are_checked_as_a_whole() {
    let mounts = "{ mergeType: StrategicMerge, provider: { kubernetes: { envoyDeployment: { container: { volumeMounts: [{ name: data, mountPath: /data }] } } } } }";
    let volumes = |name: &str| {
        format!(
            "{{ provider: {{ kubernetes: {{ envoyDeployment: {{ pod: {{ volumes: [{{ name: {name}, emptyDir: {{}} }}] }} }} }} }} }}"
        )
    };
    let of =
        |class: &str| compiled(&source(OF_CLASS, OWN, &(proxy("own", mounts) + &proxy("shared", class))));
    let whole = of(&volumes("data"));
    assert_eq!(accepted(&whole)[1].0, "True", "{:?}", found(&whole));
    let shape = fleet(&whole).shape;
    assert_eq!((shape.volumes.len(), shape.mounts.len()), (1, 1));
    for class in [volumes("other"), "{}".to_owned(), mounts.to_owned()] {
        let compilation = of(&class);
        assert_eq!(
            accepted(&compilation),
            [("True".into(), "Accepted".into()), ("False".into(), "InvalidParameters".into())]
        );
        assert!(fleet(&compilation).ports.is_empty(), "{class}");
    }
}

#[test]
fn a_chosen_name_is_one_fleets_alone() {
    let named = "{ provider: { kubernetes: { envoyDeployment: { name: proxies }, envoyService: { name: edge-moorgate } } } }";
    let second = |namespace: &str, created: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: other, namespace: {namespace}{created} }}\nspec: {{ gatewayClassName: moorgate, listeners: [{{ name: http, port: 80, protocol: HTTP }}] }}\n---\n"
        )
    };
    let accepts = |text: &str| -> Vec<(String, bool)> {
        let compilation = compiled(text);
        let served = |fleet: &crate::compile::CompiledFleet| !fleet.ir.listeners.is_empty();
        compilation.fleets.iter().map(|(name, fleet)| (name.to_string(), served(fleet))).collect()
    };
    let shared = |more: &str, own: &str| source(OF_CLASS, own, &(proxy("shared", named) + more));
    let both = |edge, other| vec![("infra/edge".to_owned(), edge), ("infra/other".to_owned(), other)];
    // The parameters of a class name the objects of two Gateways alike: the first by name has them, or the older.
    assert_eq!(accepts(&shared(&second("infra", ""), "")), both(true, false));
    let older = second("infra", ", creationTimestamp: '2020-01-01T00:00:00Z'");
    assert_eq!(accepts(&shared(&older, "")), both(false, true));
    // In another namespace they are other objects.
    let apart = vec![("infra/edge".to_owned(), true), ("shop/other".to_owned(), true)];
    assert_eq!(accepts(&shared(&second("shop", ""), "")), apart);
    // Who has a name without having chosen it keeps it, whoever is older.
    let plain = ", infrastructure: { parametersRef: { group: gateway.envoyproxy.io, kind: EnvoyProxy, name: plain } }";
    assert_eq!(accepts(&shared(&(older + &proxy("plain", "{}")), plain)), both(true, false));
}

#[test]
fn an_error_in_parameters_concerns_the_fleets_that_take_them() {
    let compilation = compiled(&source("", OWN, &proxy("own", "{ concurrency: 0 }")));
    assert!(!compilation.erring.all && compilation.erring.fleets.len() == 1);
    let nobodys = compiled(&source("", "", &proxy("own", "{ concurrency: 0 }")));
    assert_eq!(found(&nobodys).len(), 1);
    assert!(!nobodys.erring.all && nobodys.erring.fleets.is_empty());
}

/// What is said of one field: the message, and whether the parameters can still be used.
fn said(spec: &str) -> Vec<(String, bool)> {
    let root = crate::load::document(spec.as_bytes()).unwrap();
    check(&root).into_iter().map(|fault| (fault.field.to_string(), fault.fatal)).collect()
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn fields_without_effect_are_named_and_those_that_make_no_sense_refuse() {
    let kubernetes = |fields: &str| format!("{{ provider: {{ kubernetes: {{ {fields} }} }} }}");
    let cases = [
        ("{ extraArgs: [--cpuset-threads, --mode, validate] }".to_owned(), "extraArgs[1]", false),
        ("{ extraArgs: a }".into(), "extraArgs", true),
        ("{ logging: { level: { system: debug } } }".into(), "logging.level.system", false),
        ("{ shutdown: { drainTimeout: soon } }".into(), "shutdown.drainTimeout", true),
        (
            "{ shutdown: { drainTimeout: 5s, minDrainDuration: 6s } }".into(),
            "shutdown.minDrainDuration",
            false,
        ),
        ("{ shutdown: { healthCheckFailureDelay: 61s } }".into(), "shutdown.healthCheckFailureDelay", false),
        (
            kubernetes("envoyDeployment: { pod: { securityContext: { runAsUser: 0 } } }"),
            "provider.kubernetes.envoyDeployment.pod.securityContext.runAsUser",
            true,
        ),
        (
            kubernetes("envoyDaemonSet: { container: { securityContext: { privileged: true } } }"),
            "provider.kubernetes.envoyDaemonSet.container.securityContext.privileged",
            true,
        ),
        (
            kubernetes("envoyDeployment: { pod: { volumes: [{ name: a, secret: { secretName: b } }] } }"),
            "provider.kubernetes.envoyDeployment.pod.volumes[0].secret",
            true,
        ),
        (
            kubernetes("envoyDaemonSet: { container: { volumeMounts: [{ name: token, mountPath: /a }] } }"),
            "provider.kubernetes.envoyDaemonSet.container.volumeMounts[0].name",
            true,
        ),
        (
            kubernetes("envoyDeployment: { initContainers: [{ name: relay, image: a }] }"),
            "provider.kubernetes.envoyDeployment.initContainers[0].name",
            true,
        ),
        ("{ mergeGateways: true, mergeBackends: {} }".into(), "mergeGateways", true),
        ("{ mergeGateways: 3 }".into(), "mergeGateways", true),
        ("{ preserveRouteOrder: 1 }".into(), "preserveRouteOrder", true),
        ("{ backendTLS: { minVersion: '1.4' } }".into(), "backendTLS.minVersion", true),
        (
            "{ telemetry: { metrics: { prometheus: { disable: 3 } } } }".into(),
            "telemetry.metrics.prometheus.disable",
            true,
        ),
        ("{ bootstrap: { type: Merge, value: 'node: { id: a }' } }".into(), "bootstrap.value", true),
        (
            "{ telemetry: { accessLog: { settings: [{ type: Route }, { type: Other }] } } }".into(),
            "telemetry.accessLog.settings[1].type",
            true,
        ),
        ("{ logging: { level: { default: loud } } }".into(), "logging.level.default", true),
        (
            kubernetes("useListenerPortAsContainerPort: false"),
            "provider.kubernetes.useListenerPortAsContainerPort",
            false,
        ),
        (
            kubernetes(
                "envoyDaemonSet: { container: { env: [{ name: a, value: b }, { name: c, valueFrom: { secretKeyRef: { name: d, key: e } } }] } }",
            ),
            "provider.kubernetes.envoyDaemonSet.container.env[1]",
            false,
        ),
        (
            kubernetes("envoyDeployment: { container: { image: a, imageRepository: b } }"),
            "provider.kubernetes.envoyDeployment.container.imageRepository",
            true,
        ),
        (
            kubernetes("envoyService: { type: ClusterIP, loadBalancerIP: 192.0.2.1 }"),
            "provider.kubernetes.envoyService.loadBalancerIP",
            false,
        ),
        ("{ concurency: 2 }".into(), "concurency", false),
        ("{ provider: { type: Host } }".into(), "provider.type", true),
        (
            kubernetes("envoyDeployment: { pod: { labels: [a] } }"),
            "provider.kubernetes.envoyDeployment.pod.labels",
            true,
        ),
        (kubernetes("envoyDeployment: { name: Upper }"), "provider.kubernetes.envoyDeployment.name", true),
        (kubernetes("envoyService: { name: 1a }"), "provider.kubernetes.envoyService.name", true),
        (
            kubernetes("envoyDaemonSet: { name: moorgate-node }"),
            "provider.kubernetes.envoyDaemonSet.name",
            true,
        ),
        (kubernetes("envoyServiceAccount: { name: a }"), "provider.kubernetes.envoyServiceAccount", false),
        (
            kubernetes("envoyService: { patch: { value: { spec: { selector: { a: b } } } } }"),
            "provider.kubernetes.envoyService.patch.value.spec.selector",
            true,
        ),
        (
            kubernetes(
                "envoyDeployment: { patch: { value: { spec: { template: { spec: { containers: [{ image: a }] } } } } } }",
            ),
            "provider.kubernetes.envoyDeployment.patch.value",
            true,
        ),
        (
            kubernetes(
                "envoyDaemonSet: { patch: { type: JSONMerge, value: { spec: { template: { spec: { hostNetwork: true } } } } } }",
            ),
            "provider.kubernetes.envoyDaemonSet.patch.value.spec.template.spec.hostNetwork",
            true,
        ),
        (kubernetes("envoyHpa: { patch: {} }"), "provider.kubernetes.envoyHpa.patch", true),
        (
            kubernetes("envoyPDB: { patch: { type: Replace } }"),
            "provider.kubernetes.envoyPDB.patch.type",
            true,
        ),
        (kubernetes("envoyDeployment: {}, envoyDaemonSet: {}"), "provider.kubernetes.envoyDaemonSet", true),
        (
            kubernetes("envoyDaemonSet: {}, envoyHpa: { maxReplicas: 2 }"),
            "provider.kubernetes.envoyHpa",
            false,
        ),
        (
            kubernetes("envoyDeployment: { replicas: 2 }, envoyHpa: { maxReplicas: 2 }"),
            "provider.kubernetes.envoyDeployment.replicas",
            false,
        ),
        (
            kubernetes("envoyService: { type: NodePort, loadBalancerSourceRanges: [10.0.0.0/8] }"),
            "provider.kubernetes.envoyService.loadBalancerSourceRanges",
            true,
        ),
        (
            kubernetes("envoyService: { type: ClusterIP, externalTrafficPolicy: Local }"),
            "provider.kubernetes.envoyService.externalTrafficPolicy",
            false,
        ),
    ];
    for (spec, field, fatal) in cases {
        assert_eq!(said(&spec), [(field.to_owned(), fatal)], "{spec}");
    }
    for spec in [
        "{ mergeGateways: true, preserveRouteOrder: false }",
        "{ mergeBackends: {} }",
        "{ logging: { level: { upstream: debug } } }",
        "{ extraArgs: [--cpuset-threads], shutdown: { drainTimeout: 90s, minDrainDuration: 1m } }",
        "{ mergeType: StrategicMerge, provider: { kubernetes: { envoyDeployment: { container: { volumeMounts: [{ name: of-class, mountPath: /a }] } } } } }",
    ] {
        assert_eq!(said(spec), [], "{spec}");
    }
}

/// A specimen of every field that is carried out: each must change what is rendered.
#[test]
fn every_field_that_is_not_named_shapes_the_fleet() {
    use fields::{Field, SPEC};
    fn leaves(field: &Field, at: &FieldPath, out: &mut Vec<(FieldPath, serde_json::Value)>) {
        use serde_json::json;
        let value = match field {
            Field::Part(known) => {
                return known.iter().for_each(|(name, field)| leaves(field, &at.key(name), out));
            }
            Field::Text([]) => json!("a"),
            Field::Text(choices) => json!(choices[0]),
            Field::Level => json!("debug"),
            Field::Number(_) => json!(7),
            Field::Duration => json!("7s"),
            Field::Name { .. } => json!("chosen"),
            Field::Scalar => json!(1),
            Field::Texts | Field::Object => json!({"a": "b"}),
            Field::List if at.to_string() == "extraArgs" => json!(["--cpuset-threads"]),
            Field::List => json!(["a"]),
            // Lists of parts are Envoy's configuration.
            Field::Ignored(_) | Field::Always(_) | Field::Items(_) => return,
            Field::Flag => json!(true),
        };
        out.push((at.clone(), value));
    }
    let plain = fleet(&compiled(&source("", "", "")));
    let mut all = Vec::new();
    leaves(&SPEC, &FieldPath::root(), &mut all);
    // What Envoys do is not how pods look.
    let of_envoy = |path: &str| {
        path == "telemetry.tracing.provider.port"
            || moorgate_policies::proxy::FIELDS.iter().any(|field| path.starts_with(field))
    };
    all.retain(|(path, _)| !of_envoy(&path.to_string()));
    assert!(all.len() > 30, "{}", all.len());
    for (path, value) in all {
        let spec = path.segments().iter().rev().fold(value, |inner, segment| {
            let moorgate_model::Segment::Key(key) = segment else { panic!("no list here") };
            serde_json::json!({&**key: inner})
        });
        let shape = crate::render::Shape::read(&spec);
        // The one kind that there is, and how something is merged that is not there.
        let alone = path.to_string() == "provider.type" || path.to_string().ends_with(".patch.type");
        assert!(shape != plain.shape || alone, "{path}");
    }
}

/// Two objects that are sound may make one that is not: it is as one that is not by itself.
#[test]
fn a_bootstrap_that_does_not_go_with_the_classs_is_refused() {
    let patch = "{ mergeType: StrategicMerge, bootstrap: { type: JSONPatch, jsonPatches: [{ op: add, \
                 jsonPath: \"$.static_resources.listeners[?@.name=='moorgate-stats']\", path: /enable_reuse_port, value: false }] } }";
    let off = "{ telemetry: { metrics: { prometheus: { disable: true } } } }";
    let both = proxy("own", patch) + &proxy("shared", off);
    let compilation = compiled(&source(OF_CLASS, OWN, &both));
    assert_eq!(accepted(&compilation)[1].1, "InvalidParameters");
    let said: Vec<_> = found(&compilation).into_iter().map(|(code, field, _)| (code, field)).collect();
    assert_eq!(said, [("MG3018", "spec.infrastructure.parametersRef".to_owned())]);
    let alone = compiled(&source("", OWN, &both));
    assert_eq!(found(&alone), []);
    assert!(fleet(&alone).proxy.startup.own.is_some());
    // A mistake costs its own Gateway, and no neighbour.
    let broken = proxy("own", "{ bootstrap: { value: 'node: [' } }");
    let other = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: other, namespace: infra }\n\
                 spec: { gatewayClassName: moorgate, listeners: [{ name: http, port: 80, protocol: HTTP }] }\n---\n";
    let compilation = compiled(&source("", OWN, &(broken + other)));
    assert_eq!(accepted(&compilation)[1].1, "InvalidParameters");
    let ports = |name: &str| {
        let (name, found) = compilation.fleets.iter().find(|(fleet, _)| fleet.to_string() == name).unwrap();
        Fleet::of(name, found, &compilation.objects, "").unwrap().ports.len()
    };
    assert_eq!((ports("infra/edge"), ports("infra/other")), (0, 1));
}
