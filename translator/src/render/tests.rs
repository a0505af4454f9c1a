use super::*;
use crate::compile::{Options, compile};
use crate::source::File;
use moorgate_model::ir::Transport;

mod startup;

/// A Gateway with these listeners, and this beside them in its `spec` and `metadata`.
pub(super) fn source(listeners: &str, spec: &str, metadata: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{ name: moorgate }}
spec: {{ controllerName: moorgate.dev/gateway-controller }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{ name: edge, namespace: infra{metadata} }}
spec:
  gatewayClassName: moorgate
  listeners: [{listeners}]
{spec}
---
apiVersion: v1
kind: Service
metadata: {{ name: cart, namespace: shop }}
spec: {{ ports: [{{ name: http, port: 8080 }}] }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: cart, namespace: shop }}
spec:
  parentRefs: [{{ name: edge, namespace: infra }}]
  rules: [{{ backendRefs: [{{ name: cart, port: 8080 }}] }}]
"
    )
}

pub(super) const HTTP: &str =
    "{ name: http, port: 80, protocol: HTTP, allowedRoutes: { namespaces: { from: All } } }";
pub(super) const HTTPS: &str =
    "{ name: https, port: 443, protocol: HTTPS, tls: { certificateRefs: [{ name: a }, { name: b }] } }";

/// A Gateway that asks for these addresses.
fn with_addresses(addresses: &str) -> String {
    source(HTTP, &format!("  addresses: {addresses}"), "")
}

pub(super) fn fleet_of(text: &str) -> Fleet {
    let file = File { name: "in.yaml".into(), bytes: text.as_bytes().into() };
    let mut options = Options::default();
    options.validate.channel = crate::validate::Channel::Experimental;
    let compilation = compile(&[file], &options);
    assert!(!compilation.diagnostics.has_errors(), "{:#?}", compilation.diagnostics);
    let (name, compiled) = compilation.fleets.first_key_value().unwrap();
    Fleet::of(name, compiled, &compilation.objects, "moorgate-system").unwrap()
}

#[test]
fn a_merged_class_has_one_fleet_in_a_namespace_of_its_own() {
    let listener = |host: &str| HTTP.replace("port: 80", &format!("port: 80, hostname: {host}"));
    let first = source(
        &listener("a.example"),
        "  addresses: [{ value: 192.0.2.1 }]\n  infrastructure: { labels: { a: b } }",
        "",
    );
    let second = source(&listener("b.example"), "  addresses: [{ value: 192.0.2.2 }]", "");
    let second = second
        .split("\n---\n")
        .nth(1)
        .unwrap()
        .replace("name: edge, namespace: infra", "name: other, namespace: shop");
    let text = format!("{first}---\n{second}").replace(
        "kind: GatewayClass\nmetadata: { name: moorgate }",
        "kind: GatewayClass\nmetadata: { name: moorgate, uid: u-9 }",
    );
    let file = File { name: "in.yaml".into(), bytes: text.as_bytes().into() };
    let mut options = Options::default();
    options.attach.merged.insert("moorgate".into());
    let compilation = compile(&[file], &options);
    assert!(!compilation.diagnostics.has_errors(), "{:#?}", compilation.diagnostics);
    let (name, compiled) = compilation.fleets.first_key_value().unwrap();
    assert_eq!((name.to_string().as_str(), compilation.fleets.len()), ("class/moorgate", 1));
    let fleet = Fleet::of(name, compiled, &compilation.objects, "system").unwrap();
    let made = manifests(&fleet, &settings()).unwrap();
    let services: Vec<&Value> = made.iter().filter(|object| object["kind"] == "Service").collect();
    let addresses: BTreeSet<&str> =
        services.iter().filter_map(|service| service["spec"]["loadBalancerIP"].as_str()).collect();
    assert_eq!(addresses, BTreeSet::from(["192.0.2.1", "192.0.2.2"]));
    for object in made.iter().filter(|object| object["metadata"]["namespace"] == "system") {
        let metadata = &object["metadata"];
        assert!(metadata["name"].as_str().unwrap().starts_with("moorgate-"), "{metadata}");
        assert_eq!(metadata["labels"]["gateway.networking.k8s.io/gateway-class-name"], "moorgate");
        assert_eq!(metadata["labels"]["a"], Value::Null, "what one Gateway asks for is not all Gateways'");
        let owner = &metadata["ownerReferences"][0];
        assert_eq!((&owner["kind"], &owner["uid"]), (&json!("GatewayClass"), &json!("u-9")));
    }
    assert!(made.iter().any(|object| object["kind"] == "Deployment"));
    let elsewhere = made.iter().filter(|object| object["metadata"]["namespace"] != "system");
    assert!(
        elsewhere.clone().count() > 0
            && elsewhere.clone().all(|object| { object["kind"].as_str().unwrap().starts_with("Role") })
    );
}

fn plain() -> Fleet {
    fleet_of(&source(HTTP, "", ""))
}

pub(super) fn settings() -> Settings {
    Settings {
        model: Model::Sidecar,
        applier: Applier::Render,
        controller_name: "moorgate.dev/gateway-controller".into(),
        stores: vec!["s3://bucket/prefix".into()],
        store_volume: None,
        store_secret: None,
        store_tokens: false,
        store_ca: None,
        channel: Channel::stable(),
        trust: "trusted".into(),
        report_secret: None,
        relay_image: "relay:1".into(),
        envoy_image: "envoy:1".into(),
        merged_namespace: "moorgate-system".into(),
    }
}

fn render(fleet: &Fleet) -> Vec<Value> {
    manifests(fleet, &settings()).unwrap()
}

pub(super) fn find<'m>(manifests: &'m [Value], kind: &str) -> &'m Value {
    let mut found = manifests.iter().filter(|manifest| manifest["kind"] == kind);
    let first = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "several {kind}");
    first
}

fn pod(manifests: &[Value]) -> &Value {
    &find(manifests, "Deployment")["spec"]["template"]
}

/// Breaches of the Pod Security level `restricted` (Kubernetes: Pod Security Standards, v1.36).
pub(super) fn breaches(spec: &Value) -> Vec<String> {
    const SYSCTLS: [&str; 3] =
        ["net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range", "net.ipv4.tcp_keepalive_time"];
    const VOLUMES: [&str; 8] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let mut out = Vec::new();
    let mut want = |holds: bool, what: String| {
        if !holds {
            out.push(what);
        }
    };
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        want(spec[field] != true, field.to_owned());
    }
    let pod = &spec["securityContext"];
    let sysctls = pod["sysctls"].as_array().into_iter().flatten();
    for sysctl in sysctls {
        want(SYSCTLS.iter().any(|safe| sysctl["name"] == *safe), format!("sysctl {sysctl}"));
    }
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let kinds: Vec<&String> = volume.as_object().unwrap().keys().filter(|key| *key != "name").collect();
        want(kinds.iter().all(|kind| VOLUMES.contains(&kind.as_str())), format!("volume {volume}"));
    }
    let containers = ["initContainers", "containers"]
        .iter()
        .flat_map(|field| spec[field].as_array().into_iter().flatten());
    for container in containers {
        let name = &container["name"];
        let own = &container["securityContext"];
        let either = |field: &str| if own[field].is_null() { pod[field].clone() } else { own[field].clone() };
        want(own["privileged"] != true, format!("{name} privileged"));
        want(own["allowPrivilegeEscalation"] == false, format!("{name} allowPrivilegeEscalation"));
        want(own["capabilities"]["drop"] == json!(["ALL"]), format!("{name} capabilities.drop"));
        let added = own["capabilities"]["add"].as_array().into_iter().flatten();
        want(added.into_iter().all(|one| one == "NET_BIND_SERVICE"), format!("{name} capabilities.add"));
        want(either("runAsNonRoot") == true, format!("{name} runAsNonRoot"));
        want(either("runAsUser") != 0, format!("{name} runAsUser"));
        let profile = either("seccompProfile");
        want(
            profile["type"] == "RuntimeDefault" || profile["type"] == "Localhost",
            format!("{name} seccompProfile"),
        );
        let ports = container["ports"].as_array().into_iter().flatten();
        want(ports.into_iter().all(|port| port["hostPort"].is_null()), format!("{name} hostPort"));
        want(own["readOnlyRootFilesystem"] == true, format!("{name} readOnlyRootFilesystem"));
    }
    out
}

#[test]
fn pods_are_restricted() {
    let fleet = fleet_of(&source(&format!("{HTTP}, {HTTPS}"), "", ""));
    let with = Settings {
        report_secret: Some(ReportSecret::Named("key".into())),
        store_secret: Some("bucket".into()),
        store_tokens: true,
        store_ca: Some("CA".into()),
        stores: vec!["file:///store".into()],
        store_volume: Some(StoreVolume::Claim("store".into())),
        ..settings()
    };
    for settings in [settings(), with] {
        let manifests = manifests(&fleet, &settings).unwrap();
        assert_eq!(breaches(&pod(&manifests)["spec"]), [""; 0]);
    }
    let host = Settings {
        stores: vec!["file:///store".into()],
        store_volume: Some(StoreVolume::HostPath),
        ..settings()
    };
    let manifests = manifests(&fleet, &host).unwrap();
    assert_eq!(breaches(&pod(&manifests)["spec"]).len(), 1, "the check sees what is forbidden");
}

#[test]
fn everything_bears_what_infrastructure_asks_for() {
    let spec = "  infrastructure:
    labels: { team: shop, app.kubernetes.io/managed-by: me, moorgate.dev/fleet: other }
    annotations: { cost: '7', moorgate.dev/fleet: other/other }";
    let fleet = fleet_of(&source(HTTP, spec, ", uid: 0-1-2"));
    let manifests = render(&fleet);
    let pod = pod(&manifests);
    for metadata in manifests.iter().map(|manifest| &manifest["metadata"]).chain([&pod["metadata"]]) {
        let (labels, annotations) = (&metadata["labels"], &metadata["annotations"]);
        assert_eq!(labels["team"], "shop");
        assert_eq!(labels[GATEWAY_NAME_LABEL], "edge");
        assert_eq!(labels[MANAGED_BY_LABEL], "moorgate-render");
        assert_ne!(labels[FLEET_LABEL], "other");
        assert_eq!(annotations["cost"], "7");
        assert_eq!(annotations[FLEET_ANNOTATION], "infra/edge");
    }
    // What it asks for cannot change who is selected.
    let selector = &find(&manifests, "Deployment")["spec"]["selector"]["matchLabels"];
    assert_eq!(*selector, find(&render(&plain()), "Deployment")["spec"]["selector"]["matchLabels"]);
    for (key, value) in selector.as_object().unwrap() {
        assert_eq!(pod["metadata"]["labels"][key], *value);
    }
    assert_eq!(find(&manifests, "Service")["spec"]["selector"], *selector);
}

#[test]
fn objects_in_the_gateways_namespace_belong_to_it() {
    let fleet = fleet_of(&source(HTTP, "", ", uid: 0-1-2"));
    for manifest in render(&fleet) {
        let owners = &manifest["metadata"]["ownerReferences"];
        if manifest["metadata"]["namespace"] == "infra" {
            assert_eq!(owners[0]["uid"], "0-1-2", "{manifest:#}");
            assert_eq!(owners[0]["name"], "edge");
        } else {
            assert!(owners.is_null(), "{manifest:#}");
        }
    }
    assert!(render(&plain()).iter().all(|manifest| manifest["metadata"]["ownerReferences"].is_null()));
}

#[test]
fn a_new_listener_changes_no_pod() {
    let (one, two) = (render(&plain()), render(&fleet_of(&source(&format!("{HTTP}, {HTTPS}"), "", ""))));
    assert_eq!(find(&one, "Deployment"), find(&two, "Deployment"));
    assert_eq!(find(&one, "ConfigMap"), find(&two, "ConfigMap"));
    assert_ne!(find(&one, "Service"), find(&two, "Service"));
}

#[test]
fn pods_change_with_what_they_read_once() {
    let other = Settings { trust: "others".into(), ..settings() };
    let (one, two) = (render(&plain()), manifests(&plain(), &other).unwrap());
    assert_ne!(find(&one, "Deployment"), find(&two, "Deployment"));
}

#[test]
fn relays_read_what_bindings_name() {
    let fleet = fleet_of(&source(&format!("{HTTP}, {HTTPS}"), "", ""));
    let manifests = render(&fleet);
    let rules: Vec<(&str, &Value)> = manifests
        .iter()
        .filter(|manifest| manifest["kind"] == "Role")
        .map(|role| (role["metadata"]["namespace"].as_str().unwrap(), &role["rules"]))
        .collect();
    let secrets = json!([{
        "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"], "verbs": ["get", "watch"],
    }]);
    let slices = json!([{"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}]);
    assert_eq!(rules, [("infra", &secrets), ("shop", &slices)]);
    for binding in manifests.iter().filter(|manifest| manifest["kind"] == "RoleBinding") {
        let subject = json!([{"kind": "ServiceAccount", "name": "edge-moorgate", "namespace": "infra"}]);
        assert_eq!(binding["subjects"], subject);
        assert_eq!(binding["roleRef"]["name"], binding["metadata"]["name"]);
    }
    assert!(manifests.iter().all(|manifest| manifest["kind"] != "ClusterRole"));
}

#[test]
fn kinds_without_a_namespace_need_cluster_roles() {
    let mut fleet = plain();
    let key = (String::new(), "ClusterTrustBundle".to_owned());
    fleet.needs.objects.insert(key, BTreeSet::from(["roots".to_owned()]));
    let manifests = render(&fleet);
    let role = find(&manifests, "ClusterRole");
    assert_eq!(role["rules"][0]["resourceNames"], json!(["roots"]));
    assert!(role["metadata"]["namespace"].is_null());
    // Gateways of one name in two namespaces have one each.
    let mut other = fleet.clone();
    other.infrastructure.namespace = "infra2".into();
    assert_ne!(find(&render(&other), "ClusterRole")["metadata"]["name"], role["metadata"]["name"]);
    assert_eq!(find(&manifests, "ClusterRoleBinding")["roleRef"]["kind"], "ClusterRole");
}

#[test]
fn the_token_is_the_relays_alone() {
    let manifests = render(&plain());
    let spec = &pod(&manifests)["spec"];
    assert_eq!(spec["automountServiceAccountToken"], false);
    let mounts = |container: &Value| container["volumeMounts"].to_string();
    assert!(mounts(&spec["initContainers"][0]).contains("/var/run/secrets/kubernetes.io/serviceaccount"));
    assert!(!mounts(&spec["containers"][0]).contains("token"));
}

#[test]
fn relays_show_a_served_store_their_token() {
    let with = Settings { store_tokens: true, store_ca: Some("CA\n".into()), ..settings() };
    let manifests = manifests(&plain(), &with).unwrap();
    let relay = &pod(&manifests)["spec"]["initContainers"][0];
    let args = relay["args"].to_string();
    assert!(args.contains("--store-token-file=/var/run/secrets/moorgate-store/token"), "{args}");
    assert!(args.contains("--store-ca-file=/etc/moorgate/store-ca.pem"), "{args}");
    assert_eq!(find(&manifests, "ConfigMap")["data"]["store-ca.pem"], "CA\n");
    let volumes = pod(&manifests)["spec"]["volumes"].to_string();
    assert!(volumes.contains("\"audience\":\"moorgate-store\""), "{volumes}");
    let plain = render(&plain());
    assert!(!pod(&plain).to_string().contains("moorgate-store"));
}

#[test]
fn every_mount_has_its_volume() {
    let with = Settings {
        store_tokens: true,
        report_secret: Some(ReportSecret::PerFleet),
        stores: vec!["file:///store/a".into(), "s3://bucket".into(), "file:///store/b".into()],
        store_volume: Some(StoreVolume::HostPath),
        ..settings()
    };
    let manifests = manifests(&plain(), &with).unwrap();
    let spec = &pod(&manifests)["spec"];
    let names = |list: &Value| -> BTreeSet<String> {
        list.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    let relay = names(&spec["initContainers"][0]["volumeMounts"]);
    let envoy = names(&spec["containers"][0]["volumeMounts"]);
    assert_eq!(&relay | &envoy, names(&spec["volumes"]));
    let paths: Vec<&Value> =
        spec["volumes"].as_array().unwrap().iter().map(|v| &v["hostPath"]["path"]).collect();
    assert_eq!(paths.iter().filter(|path| !path.is_null()).count(), 2);
}

#[test]
fn local_stores_need_a_volume() {
    let with = |url: &str, volume| Settings { stores: vec![url.into()], store_volume: volume, ..settings() };
    let cases = [
        ("file:///store", None, Err(RenderError::StoreVolume("file:///store".into()))),
        ("file://store", Some(StoreVolume::HostPath), Err(RenderError::StorePath("file://store".into()))),
        ("file:///", Some(StoreVolume::HostPath), Err(RenderError::StorePath("file:///".into()))),
        ("file:///store", Some(StoreVolume::HostPath), Ok(())),
        ("s3://bucket", None, Ok(())),
    ];
    for (url, volume, expected) in cases {
        assert_eq!(manifests(&plain(), &with(url, volume)).map(|_| ()), expected, "{url}");
    }
}

#[test]
fn relays_of_a_live_cluster_look_often() {
    let fleet = fleet_of(&source(HTTP, "", ""));
    for (applier, store_tokens, often) in [
        (Applier::Watch, false, vec!["--poll-interval=2s"]),
        (Applier::Watch, true, vec!["--poll-interval=1s"]),
        (Applier::Render, true, vec!["--poll-interval=1s"]),
        (Applier::Render, false, vec![]),
    ] {
        let manifests = manifests(&fleet, &Settings { applier, store_tokens, ..settings() }).unwrap();
        let args = &pod(&manifests)["spec"]["initContainers"][0]["args"];
        let flags: Vec<&str> = args.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let found: Vec<&str> =
            flags.iter().copied().filter(|flag| flag.starts_with("--poll-interval")).collect();
        assert_eq!(found, often, "a flag that comes twice is refused");
    }
}

#[test]
fn the_health_port_yields_to_a_listener() {
    let fleet = fleet_of(&source(&HTTP.replace("80", "19001"), "", ""));
    let manifests = render(&fleet);
    let relay = &pod(&manifests)["spec"]["initContainers"][0];
    assert_eq!(relay["readinessProbe"]["httpGet"]["port"], 19002);
    assert!(relay["args"].as_array().unwrap().contains(&json!("--health=0.0.0.0:19002")));
    let policy = &find(&manifests, "NetworkPolicy")["spec"]["ingress"][0]["ports"];
    let tcp = |port: u16| json!({"port": port, "protocol": "TCP"});
    assert_eq!(*policy, json!([tcp(19001), tcp(19002), tcp(19003)]), "the last one is for statistics");
}

#[test]
fn ports_of_both_transports_share_a_number() {
    let mut fleet = plain();
    fleet.ports = BTreeSet::from([
        Port { number: 53, transport: Transport::Udp },
        Port { number: 53, transport: Transport::Tcp },
    ]);
    let manifests = render(&fleet);
    let ports = find(&manifests, "Service")["spec"]["ports"].as_array().unwrap();
    let names: Vec<&Value> = ports.iter().map(|port| &port["name"]).collect();
    assert_eq!(names, ["tcp-53", "udp-53"]);
    assert_eq!(ports[1], json!({"name": "udp-53", "port": 53, "targetPort": 53, "protocol": "UDP"}));
    fleet.ports.clear();
    assert!(render(&fleet).iter().all(|manifest| manifest["kind"] != "Service"));
}

#[test]
fn each_address_has_a_service() {
    let addresses = "  addresses: [{ value: 192.0.2.1 }, { type: Hostname, value: a.example }, { type: IPAddress }, \
                     { type: IPAddress, value: 192.0.2.9 }]";
    let fleet = fleet_of(&source(HTTP, addresses, ""));
    let manifests = render(&fleet);
    let services: Vec<_> = manifests.iter().filter(|manifest| manifest["kind"] == "Service").collect();
    let asked: Vec<&Value> = services.iter().map(|service| &service["spec"]["loadBalancerIP"]).collect();
    assert_eq!(asked, ["192.0.2.1", "192.0.2.9"]);
    assert_eq!(services[0]["metadata"]["name"], "edge-moorgate");
    assert_ne!(services[0]["metadata"]["name"], services[1]["metadata"]["name"]);
    assert!(find(&render(&plain()), "Service")["spec"]["loadBalancerIP"].is_null());
}

#[test]
fn an_address_for_the_cluster_has_a_service_inside() {
    let services = |addresses: &str| {
        let fleet = fleet_of(&with_addresses(addresses));
        let manifests = render(&fleet);
        let services = manifests.into_iter().filter(|manifest| manifest["kind"] == "Service");
        services
            .map(|service| {
                let text = |key: &str| service["spec"][key].as_str().unwrap_or_default().to_owned();
                let own = service["metadata"]["name"] == "edge-moorgate";
                (own, text("type"), text("clusterIP") + &text("loadBalancerIP"))
            })
            .collect::<Vec<_>>()
    };
    let one = |own: bool, kind: &str, address: &str| (own, kind.to_owned(), address.to_owned());
    assert_eq!(services("[{ routability: Cluster }]"), [one(false, "ClusterIP", "")]);
    assert_eq!(
        services("[{ routability: Cluster, value: 10.0.0.9 }]"),
        [one(false, "ClusterIP", "10.0.0.9")]
    );
    assert_eq!(
        services("[{ routability: Cluster }, { value: 192.0.2.1 }]"),
        [one(true, "LoadBalancer", "192.0.2.1"), one(false, "ClusterIP", "")]
    );
    assert_eq!(services("[{ routability: '' }]"), [one(true, "LoadBalancer", "")]);
}

fn ip(value: &str) -> Address {
    Address { kind: AddressKind::IpAddress, value: value.into(), routability: Routability::Default }
}

#[test]
fn addresses_are_those_that_were_given_and_asked_for() {
    type Case<'c> = (&'c [Address], &'c [&'c Value], &'c [Address], &'c [Address]);
    let balanced = |ingress: Value| json!({"spec": {"type": "LoadBalancer", "clusterIPs": ["10.0.0.1"]}, "status": {"loadBalancer": {"ingress": ingress}}});
    let host = Address { kind: AddressKind::Hostname, ..ip("lb.example") };
    let cluster = |value: &str| Address { routability: Routability::Cluster, ..ip(value) };
    let one = balanced(json!([{"ip": "192.0.2.1"}]));
    let two = balanced(json!([{"ip": "192.0.2.2"}, {"hostname": "lb.example"}]));
    let none = json!({"spec": {"type": "LoadBalancer", "clusterIPs": ["10.0.0.1"]}});
    let inside = json!({"spec": {"type": "ClusterIP", "clusterIPs": ["10.0.0.1"]}});
    let headless = json!({"spec": {"type": "ClusterIP", "clusterIPs": ["None"]}});
    let cases: [Case<'_>; 14] = [
        (&[], &[&one], &[ip("192.0.2.1")], &[]),
        (&[], &[&none], &[], &[]),
        (&[], &[], &[], &[]),
        (&[], &[&one, &two], &[ip("192.0.2.1"), ip("192.0.2.2"), host.clone()], &[]),
        (&[ip("")], &[&one], &[ip("192.0.2.1")], &[]),
        (&[ip("192.0.2.1")], &[&one, &two], &[ip("192.0.2.1")], &[]),
        (&[ip("192.0.2.1"), ip("192.0.2.9")], &[&one], &[ip("192.0.2.1")], &[ip("192.0.2.9")]),
        (&[ip("192.0.2.9")], &[&none], &[], &[ip("192.0.2.9")]),
        (&[], &[&inside, &headless], &[ip("10.0.0.1")], &[]),
        (&[cluster("")], &[&inside], &[cluster("10.0.0.1")], &[]),
        (&[cluster("")], &[&one], &[], &[]),
        (&[cluster("10.0.0.1")], &[&inside, &one], &[cluster("10.0.0.1")], &[]),
        (&[cluster("10.0.0.9"), ip("")], &[&inside, &one], &[ip("192.0.2.1")], &[cluster("10.0.0.9")]),
        (&[cluster(""), ip("192.0.2.1")], &[&inside, &one], &[cluster("10.0.0.1"), ip("192.0.2.1")], &[]),
    ];
    for (asked, services, assigned, unusable) in cases {
        let found = addresses(asked, services.iter().copied());
        let expected = Addresses { assigned: assigned.to_vec(), unusable: unusable.to_vec() };
        assert_eq!(found, expected, "{asked:?} {services:?}");
    }
}

#[test]
fn an_envoy_proxy_shapes_the_fleet() {
    let spec = json!({
        "concurrency": 2,
        "provider": {"type": "Kubernetes", "kubernetes": {
            "envoyDeployment": {
                "replicas": 3,
                "strategy": {"type": "Recreate"},
                "container": {"image": "envoy:mine", "resources": {"limits": {"cpu": "2"}}},
                "pod": {
                    "labels": {"a": "b", "moorgate.dev/fleet": "x"}, "annotations": {"c": "d"},
                    "nodeSelector": {"e": "f"}, "securityContext": {"runAsUser": 1000},
                },
            },
            "envoyService": {
                "type": "LoadBalancer", "annotations": {"g": "h"}, "labels": {"i": "j"},
                "externalTrafficPolicy": "Cluster", "loadBalancerClass": "k",
            },
            "envoyPDB": {"minAvailable": 1},
        }},
    });
    let fleet = Fleet { shape: Shape::read(&spec), ..plain() };
    let manifests = render(&fleet);
    let deployment = find(&manifests, "Deployment");
    assert_eq!(deployment["spec"]["replicas"], 3);
    assert_eq!(deployment["spec"]["strategy"], json!({"type": "Recreate"}));
    let pod = pod(&manifests);
    assert_eq!(breaches(&pod["spec"]), [""; 0], "{pod:#}");
    assert_eq!(pod["spec"]["securityContext"]["runAsUser"], 1000);
    assert_eq!(pod["spec"]["securityContext"]["runAsNonRoot"], true, "the rest stays as it is");
    assert_eq!(pod["metadata"]["labels"]["a"], "b");
    assert_ne!(pod["metadata"]["labels"]["moorgate.dev/fleet"], "x");
    assert_eq!(pod["metadata"]["annotations"]["c"], "d");
    assert_eq!(pod["spec"]["nodeSelector"], json!({"e": "f"}));
    let envoy = &pod["spec"]["containers"][0];
    assert_eq!(envoy["image"], "envoy:mine");
    assert_eq!(envoy["resources"], json!({"limits": {"cpu": "2"}}));
    assert!(envoy["args"].to_string().contains("\"--concurrency\",\"2\""));
    let service = find(&manifests, "Service");
    assert_eq!(service["metadata"]["annotations"]["g"], "h");
    assert_eq!(service["metadata"]["labels"]["i"], "j");
    assert_eq!(service["spec"]["externalTrafficPolicy"], "Cluster");
    assert_eq!(service["spec"]["loadBalancerClass"], "k");
    let budget = &find(&manifests, "PodDisruptionBudget")["spec"];
    assert_eq!(budget["minAvailable"], 1);
    assert_eq!(budget["selector"]["matchLabels"], deployment["spec"]["selector"]["matchLabels"]);
}

/// A pod that drains, with a database that a container fetches and Envoy reads.
fn stocked() -> Value {
    let mounts = json!([{"name": "geo", "mountPath": "/data/geo", "readOnly": true}]);
    json!({
        "extraArgs": ["--cpuset-threads", "--stats-tag", "a:b"],
        "shutdown": {"drainTimeout": "1m30s", "minDrainDuration": "15s", "healthCheckFailureDelay": "500ms"},
        "provider": {"kubernetes": {"envoyDeployment": {
            "initContainers": [{"name": "fetch", "image": "fetch:1", "volumeMounts": [{"name": "geo", "mountPath": "/geo"}]}],
            "container": {"volumeMounts": mounts, "securityContext": {"readOnlyRootFilesystem": false}},
            "pod": {"volumes": [{"name": "geo", "emptyDir": {"sizeLimit": "1Gi"}}]},
        }}},
    })
}

#[test]
fn an_envoy_proxy_brings_volumes_containers_and_arguments() {
    let fleet = Fleet { shape: Shape::read(&stocked()), ..plain() };
    for model in models() {
        let made = manifests(&fleet, &Settings { model: model.clone(), ..settings() }).unwrap();
        let spec = &pod(&made)["spec"];
        let envoy = &spec["containers"][0];
        assert_eq!(envoy["securityContext"]["readOnlyRootFilesystem"], false);
        assert_eq!(envoy["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
        let mut hardened = spec.clone();
        hardened["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = true.into();
        assert_eq!(breaches(&hardened), [""; 0], "{model:?}");
        let args: Vec<&str> =
            envoy["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
        assert_eq!(args[args.len() - 3..], ["--cpuset-threads", "--stats-tag", "a:b"]);
        let names: Vec<&Value> =
            spec["initContainers"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
        let expected: &[&str] =
            if model == Model::Sidecar { &["drain", "relay", "fetch"] } else { &["drain", "fetch"] };
        assert_eq!(names, expected);
        let last = envoy["volumeMounts"].as_array().unwrap().last().unwrap();
        assert_eq!(last["mountPath"], "/data/geo");
        assert_eq!(spec["volumes"].as_array().unwrap().last().unwrap()["emptyDir"]["sizeLimit"], "1Gi");
    }
}

#[test]
fn an_envoy_proxy_names_objects() {
    let spec = json!({"provider": {"kubernetes": {
        "envoyDeployment": {"name": "proxies"}, "envoyService": {"name": "front"},
        "envoyHpa": {"name": "scaler", "maxReplicas": 3}, "envoyPDB": {"name": "budget", "minAvailable": 1},
    }}});
    let asked = with_addresses("[{ value: 192.0.2.1 }, { value: 192.0.2.9 }]");
    let fleet = Fleet { shape: Shape::read(&spec), ..fleet_of(&asked) };
    for model in models() {
        let made = manifests(&fleet, &Settings { model, ..settings() }).unwrap();
        let names = |kind: &str| -> Vec<&str> {
            let found = made.iter().filter(|one| one["kind"] == kind);
            found.map(|one| one["metadata"]["name"].as_str().unwrap()).collect()
        };
        assert_eq!(names("Deployment"), ["proxies"]);
        assert_eq!(names("Service")[0], "front");
        assert!(names("Service")[1].starts_with("front-"));
        assert_eq!(
            (names("HorizontalPodAutoscaler"), names("PodDisruptionBudget")),
            (vec!["scaler"], vec!["budget"])
        );
        assert_eq!(find(&made, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"], "proxies");
        // Who they are does not change with that.
        assert_eq!(names("ServiceAccount"), ["edge-moorgate"]);
        assert_eq!(pod(&made)["spec"]["serviceAccountName"], "edge-moorgate");
    }
}

/// The models, each with whatever it needs.
pub(super) fn models() -> [Model; 3] {
    let (namespace, tls_secret, ca) = ("relays".to_owned(), "tls".to_owned(), "CA".to_owned());
    let token_issuer = "https://issuer".to_owned();
    let pool = Pool {
        namespace: namespace.clone(),
        tls_secret: tls_secret.clone(),
        ca: ca.clone(),
        token_issuer: token_issuer.clone(),
        replicas: 2,
    };
    [Model::Sidecar, Model::Pool(pool), Model::Node(Node { namespace, tls_secret, ca, token_issuer })]
}

#[test]
fn pods_drain_as_long_as_an_envoy_proxy_says() {
    let usual = render(&plain());
    let spec = &pod(&usual)["spec"];
    assert_eq!(spec["terminationGracePeriodSeconds"], 30);
    assert_eq!(spec["containers"][0]["lifecycle"]["preStop"], json!({"sleep": {"seconds": 5}}));
    let args = spec["containers"][0]["args"].as_array().unwrap();
    assert_eq!(args.last().unwrap(), "$(POD_NAME)", "and nothing behind it");
    let fleet = Fleet { shape: Shape::read(&stocked()), ..plain() };
    for model in models() {
        let made = manifests(&fleet, &Settings { model, ..settings() }).unwrap();
        let spec = &pod(&made)["spec"];
        assert_eq!(spec["terminationGracePeriodSeconds"], 90 + 25);
        let envoy = &spec["containers"][0];
        let command = &envoy["lifecycle"]["preStop"]["exec"]["command"];
        assert_eq!(
            *command,
            json!([
                "/opt/moorgate/moorgate-relay",
                "drain",
                "--envoy-admin=unix:/run/moorgate/envoy-admin.sock",
                "--at-least=15000ms",
                "--at-most=90000ms",
                "--unhealthy-after=500ms",
                "--apart=19001",
                "--apart=19002",
            ])
        );
        let text = envoy["args"].to_string();
        assert!(text.contains("\"--drain-time-s\",\"90\",\"--drain-strategy\",\"immediate\""), "{text}");
        // The program that the hook calls is laid where Envoy's container sees it, by a container that ends before.
        let lays = &spec["initContainers"][0];
        assert_eq!(
            (&lays["image"], &lays["args"]),
            (&json!("relay:1"), &json!(["copy-to", "/opt/moorgate"]))
        );
        assert_eq!(lays["restartPolicy"], Value::Null);
        let seen =
            envoy["volumeMounts"].as_array().unwrap().iter().find(|mount| mount["name"] == "drain").unwrap();
        assert_eq!(lays["volumeMounts"][0]["mountPath"], seen["mountPath"]);
        assert!(spec["volumes"].as_array().unwrap().iter().any(|volume| volume["name"] == "drain"));
    }
    // What the field does not say is as its description has it.
    let shutdown = Shape::read(&json!({"shutdown": {}})).shutdown.unwrap();
    let seconds = [shutdown.at_most, shutdown.at_least, shutdown.unhealthy_after].map(|time| time.as_secs());
    assert_eq!(seconds, [60, 10, 0]);
}

#[test]
fn an_envoy_proxy_names_a_repository_variables_and_an_address() {
    let spec = json!({"provider": {"kubernetes": {
        "envoyDeployment": {"container": {
            "imageRepository": "registry.example:5000/envoy",
            "env": [
                {"name": "A", "value": "b"},
                {"name": "POD_NAME", "value": "mine"},
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            ],
        }},
        "envoyService": {"loadBalancerIP": "192.0.2.7"},
    }}});
    let manifests = render(&Fleet { shape: Shape::read(&spec), ..plain() });
    let envoy = &pod(&manifests)["spec"]["containers"][0];
    assert_eq!(envoy["image"], "registry.example:5000/envoy:1", "the tag is that of the usual image");
    let names: Vec<&str> =
        envoy["env"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["POD_NAME", "A"], "its own name is Moorgate's, and no Secret is read");
    assert!(envoy["env"][0]["valueFrom"].is_object());
    assert_eq!(find(&manifests, "Service")["spec"]["loadBalancerIP"], "192.0.2.7");
}

#[test]
fn a_scaled_deployment_leaves_its_replicas_to_the_scaler() {
    let spec = json!({"provider": {"kubernetes": {
        "envoyDeployment": {"replicas": 3}, "envoyHpa": {"minReplicas": 2, "maxReplicas": 5},
    }}});
    let manifests = render(&Fleet { shape: Shape::read(&spec), ..plain() });
    assert!(find(&manifests, "Deployment")["spec"]["replicas"].is_null());
    let scaler = &find(&manifests, "HorizontalPodAutoscaler")["spec"];
    assert_eq!(scaler["maxReplicas"], 5);
    assert_eq!(scaler["scaleTargetRef"]["name"], "edge-moorgate");
}

#[test]
fn a_daemon_set_takes_the_deployments_place() {
    let spec = json!({"provider": {"kubernetes": {
        "envoyDaemonSet": {"container": {"image": "x"}}, "envoyService": {"type": "ClusterIP"},
        "envoyHpa": {"maxReplicas": 2},
    }}});
    let manifests = render(&Fleet { shape: Shape::read(&spec), ..plain() });
    let set = find(&manifests, "DaemonSet");
    assert_eq!(set["spec"]["updateStrategy"]["type"], "RollingUpdate");
    assert!(set["spec"]["strategy"].is_null());
    assert_eq!(set["spec"]["template"]["spec"]["containers"][0]["image"], "x");
    let service = &find(&manifests, "Service")["spec"];
    assert_eq!(service["type"], "ClusterIP");
    assert!(service["externalTrafficPolicy"].is_null());
    assert!(manifests.iter().all(|manifest| manifest["kind"] != "HorizontalPodAutoscaler"));
}

#[test]
fn keys_of_reports_are_mounted_and_never_printed() {
    let with = Settings { report_secret: Some(ReportSecret::PerFleet), ..settings() };
    let manifests = manifests(&plain(), &with).unwrap();
    assert!(manifests.iter().all(|manifest| manifest["kind"] != "Secret"));
    let text = pod(&manifests)["spec"].to_string();
    assert!(text.contains("\"secretName\":\"edge-moorgate-report\""), "{text}");
    assert!(text.contains("--report-key=file:/etc/moorgate-report/report.key"), "{text}");
    let secret = report_secret(&plain(), &with, "PRIVATE");
    assert_eq!(secret["metadata"]["name"], "edge-moorgate-report");
}

#[test]
fn a_gateway_of_253_letters_is_rendered() {
    let mut fleet = plain();
    fleet.infrastructure.name = "g".repeat(253);
    fleet.name = FleetName::gateway("infra", &fleet.infrastructure.name);
    for manifest in render(&fleet) {
        let metadata = &manifest["metadata"];
        assert!(metadata["name"].as_str().unwrap().len() <= 63);
        assert!(
            metadata["labels"].as_object().unwrap().values().all(|label| label.as_str().unwrap().len() <= 63)
        );
        assert_eq!(metadata["annotations"][FLEET_ANNOTATION], format!("infra/{}", "g".repeat(253)));
    }
}

/// Whether a manifest is what Kubernetes' published types say: a field that they do not have would be lost.
fn typed<K: k8s_openapi::Resource + serde::Serialize + serde::de::DeserializeOwned>(
    manifest: &Value,
) -> bool {
    if manifest["kind"] != K::KIND || manifest["apiVersion"] != K::API_VERSION {
        return false;
    }
    let read: K = serde_json::from_value(manifest.clone()).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), *manifest);
    true
}

#[test]
fn manifests_are_what_kubernetes_types_say() {
    use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
    use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
    use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
    use k8s_openapi::api::networking::v1::NetworkPolicy;
    use k8s_openapi::api::policy::v1::PodDisruptionBudget;
    use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
    let with = Settings {
        report_secret: Some(ReportSecret::PerFleet),
        store_secret: Some("bucket".into()),
        store_tokens: true,
        store_ca: Some("CA".into()),
        stores: vec!["file:///store".into()],
        store_volume: Some(StoreVolume::HostPath),
        ..settings()
    };
    let mut fleet =
        fleet_of(&source(&format!("{HTTP}, {HTTPS}"), "  addresses: [{ value: 192.0.2.1 }]", ", uid: u"));
    let key = (String::new(), "ClusterTrustBundle".to_owned());
    fleet.needs.objects.insert(key, BTreeSet::from(["roots".to_owned()]));
    let deployed = json!({"provider": {"kubernetes": {
        "envoyHpa": {"maxReplicas": 5}, "envoyPDB": {"maxUnavailable": 1},
    }}});
    let placed = json!({"provider": {"kubernetes": {"envoyDaemonSet": {}}}});
    let mut kinds = BTreeSet::new();
    for spec in [deployed, placed] {
        let fleet = Fleet { shape: Shape::read(&spec), ..fleet.clone() };
        let mut all = manifests(&fleet, &with).unwrap();
        all.push(report_secret(&fleet, &with, "key"));
        for manifest in &all {
            let known = typed::<Deployment>(manifest)
                || typed::<DaemonSet>(manifest)
                || typed::<HorizontalPodAutoscaler>(manifest)
                || typed::<ConfigMap>(manifest)
                || typed::<Secret>(manifest)
                || typed::<Service>(manifest)
                || typed::<ServiceAccount>(manifest)
                || typed::<NetworkPolicy>(manifest)
                || typed::<PodDisruptionBudget>(manifest)
                || typed::<ClusterRole>(manifest)
                || typed::<ClusterRoleBinding>(manifest)
                || typed::<Role>(manifest)
                || typed::<RoleBinding>(manifest);
            assert!(known, "{manifest:#}");
            kinds.insert(manifest["kind"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(kinds.len(), 13);
}

/// A listener that takes routes from everywhere, with a policy beside it.
fn with_policy(kind: &str, target: &str, (name, namespace): (&str, &str), spec: &str) -> Fleet {
    let listener =
        HTTPS.replace("protocol: HTTPS", "protocol: HTTPS, allowedRoutes: { namespaces: { from: All } }");
    let own = source(&listener, "", "");
    fleet_of(&format!(
        "{own}---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: {kind}
metadata: {{ name: own, namespace: {namespace} }}
spec: {{ targetRefs: [{{ group: gateway.networking.k8s.io, kind: {target}, name: {name} }}], {spec} }}
"
    ))
}

#[test]
fn services_lead_to_the_port_of_http3() {
    let fleet = with_policy("ClientTrafficPolicy", "Gateway", ("edge", "infra"), "http3: {}");
    let ports: Vec<_> = fleet.ports.iter().map(|port| (port.number, port.transport)).collect();
    assert_eq!(ports, [(443, Transport::Tcp), (443, Transport::Udp)]);
    let text = serde_json::to_string(&render(&fleet)).unwrap();
    assert!(text.contains("\"udp-443\"") && text.contains("\"tcp-443\""), "{text}");
}

#[test]
fn envoys_that_keep_requests_in_their_zone_know_it() {
    let zones = "loadBalancer: { type: Random, zoneAware: { preferLocal: { force: {} } } }";
    let fleet = with_policy("BackendTrafficPolicy", "HTTPRoute", ("cart", "shop"), zones);
    let text = serde_json::to_string(&render(&fleet)).unwrap();
    assert!(text.contains("metadata.labels['topology.kubernetes.io/zone']"), "{text}");
    assert!(text.contains("--config-yaml") && text.contains("moorgate-local"), "{text}");
    let plain = serde_json::to_string(&render(&plain())).unwrap();
    assert!(!plain.contains("--config-yaml") && !plain.contains("ZONE"), "{plain}");
}
