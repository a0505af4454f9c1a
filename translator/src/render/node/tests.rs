use super::super::tests::{HTTP, HTTPS, breaches, find, fleet_of, settings, source};
use super::*;
use crate::render::{Model, manifests as of_fleet};

fn node() -> Node {
    Node {
        namespace: "relays".into(),
        tls_secret: "relays-tls".into(),
        ca: "CA".into(),
        token_issuer: "https://issuer".into(),
    }
}

fn on_nodes() -> Settings {
    Settings { model: Model::Node(node()), ..settings() }
}

/// Two fleets of two classes: one in `infra` with certificates and a route to `shop`, one in `pay`.
fn fleets() -> [Fleet; 2] {
    let first = fleet_of(&source(&format!("{HTTP}, {HTTPS}"), "", ""));
    let second = source(HTTP, "", "").replace("namespace: infra", "namespace: pay");
    [first, fleet_of(&second)]
}

fn relays(fleets: &[Fleet]) -> Vec<Value> {
    manifests(fleets, &on_nodes(), &node()).unwrap()
}

#[test]
fn a_relay_of_a_node_may_read_nothing_and_each_envoy_what_its_fleet_binds() {
    let fleets = fleets();
    let made = relays(&fleets);
    let role = |object: &&Value| object["kind"].as_str().unwrap().contains("Role");
    assert_eq!(made.iter().find(role), None, "the relays' own account has no rights");
    let args = find(&made, "DaemonSet")["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
    for wanted in ["--on-demand", "--kubernetes-as-client", "--member-file=/etc/moorgate/members"] {
        assert!(args.contains(wanted), "{wanted}: {args}");
    }
    assert!(!args.contains("--fleet"), "{args}");
    for fleet in &fleets {
        let own = of_fleet(fleet, &on_nodes()).unwrap();
        let sidecar = of_fleet(fleet, &settings()).unwrap();
        let roles = |manifests: &[Value]| manifests.iter().filter(role).cloned().collect::<Vec<_>>();
        assert!(!roles(&own).is_empty());
        assert_eq!(roles(&own), roles(&sidecar), "the very rights of a relay beside it");
        let spec = &find(&own, "Deployment")["spec"]["template"]["spec"];
        let volumes = spec["volumes"].as_array().unwrap();
        let tokens = volumes.iter().find(|volume| volume["name"] == "relay-token").unwrap();
        let sources = tokens["projected"]["sources"].as_array().unwrap();
        assert_eq!(sources[0]["serviceAccountToken"]["audience"], "moorgate-relay");
        assert_eq!(sources[1]["serviceAccountToken"]["audience"], Value::Null);
        let bootstrap = find(&own, "ConfigMap")["data"]["envoy.json"].as_str().unwrap();
        let file = sources[1]["serviceAccountToken"]["path"].as_str().unwrap();
        assert!(bootstrap.contains(&format!("/var/run/secrets/moorgate-relay/{file}\"")), "{bootstrap}");
        assert!(bootstrap.contains("\"moorgate-node.relays.svc:18000\""), "{bootstrap}");
        assert_eq!(breaches(spec), Vec::<String>::new());
    }
    let spec = &find(&made, "DaemonSet")["spec"]["template"]["spec"];
    assert_eq!(breaches(spec), Vec::<String>::new());
}

#[test]
fn envoys_reach_the_relay_of_their_own_node_alone() {
    let made = relays(&fleets());
    let service = find(&made, "Service");
    assert_eq!(service["metadata"]["name"], "moorgate-node");
    assert_eq!(service["spec"]["internalTrafficPolicy"], "Local");
    let labels = &find(&made, "DaemonSet")["spec"]["template"]["metadata"]["labels"];
    for (key, value) in service["spec"]["selector"].as_object().unwrap() {
        assert_eq!(labels[key], *value);
    }
    let ingress = &find(&made, "NetworkPolicy")["spec"]["ingress"];
    assert_eq!(ingress[0]["from"].as_array().unwrap().len(), 2, "the Envoys of both fleets");
}

#[test]
fn a_new_fleet_is_let_in_without_a_restart_and_a_new_trust_file_is_not() {
    let fleets = fleets();
    let (one, both) = (relays(&fleets[..1]), relays(&fleets));
    assert_eq!(find(&one, "DaemonSet"), find(&both, "DaemonSet"));
    let members = |made: &[Value]| find(made, "ConfigMap")["data"]["members"].as_str().unwrap().to_owned();
    assert!(!members(&one).contains("pay/edge"));
    let lines: Vec<String> = members(&both).lines().skip(1).map(str::to_owned).collect();
    assert_eq!(
        lines,
        [
            "system:serviceaccount:infra:edge-moorgate=infra/edge",
            "system:serviceaccount:pay:edge-moorgate=pay/edge"
        ]
    );
    let turned = [fleets[1].clone(), fleets[0].clone()];
    assert_eq!(members(&relays(&turned)), members(&both));
    let other = Settings { trust: "other".into(), ..on_nodes() };
    let other = manifests(&fleets, &other, &node()).unwrap();
    assert_ne!(find(&other, "DaemonSet"), find(&both, "DaemonSet"));
}
