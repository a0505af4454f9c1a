use super::super::tests::{HTTP, HTTPS, breaches, find, fleet_of, settings, source};
use super::*;
use crate::render::{Model, ReportSecret, manifests as of_fleet};

fn pool() -> Pool {
    Pool {
        namespace: "relays".into(),
        tls_secret: "relays-tls".into(),
        ca: "CA".into(),
        token_issuer: "https://issuer".into(),
        replicas: 2,
    }
}

fn pooled() -> Settings {
    Settings { model: Model::Pool(pool()), ..settings() }
}

/// Two fleets of one class: one in `infra` with certificates and a route to `shop`, one in `pay`.
fn fleets() -> [Fleet; 2] {
    let first = fleet_of(&source(&format!("{HTTP}, {HTTPS}"), "", ""));
    let second = source(HTTP, "", "").replace("namespace: infra", "namespace: pay");
    [first, fleet_of(&second)]
}

fn relays(fleets: &[Fleet]) -> Vec<Value> {
    manifests("moorgate", fleets, &pooled(), &pool()).unwrap()
}

#[test]
fn each_envoy_is_known_by_its_own_account() {
    let fleets = fleets();
    let made = relays(&fleets);
    let relay = &find(&made, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    let args: Vec<&str> = relay["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
    let members: Vec<&&str> = args.iter().filter(|arg| arg.starts_with("--member=")).collect();
    assert_eq!(
        members,
        [
            &"--member=system:serviceaccount:infra:edge-moorgate=infra/edge",
            &"--member=system:serviceaccount:pay:edge-moorgate=pay/edge"
        ]
    );
    for wanted in
        ["--fleet=infra/edge", "--fleet=pay/edge", "--token-keys=kubernetes", "--token-issuer=https://issuer"]
    {
        assert!(args.contains(&wanted), "{wanted}: {args:?}");
    }
    assert!(!args.iter().any(|arg| arg.contains("unix:/run/moorgate/relay.sock")), "{args:?}");
    for fleet in &fleets {
        let own = of_fleet(fleet, &pooled()).unwrap();
        let account = find(&own, "ServiceAccount");
        let pod = &find(&own, "Deployment")["spec"]["template"]["spec"];
        assert_eq!(pod["serviceAccountName"], account["metadata"]["name"]);
        let token =
            format!("{}:{}", fleet.infrastructure.namespace, account["metadata"]["name"].as_str().unwrap());
        assert!(args.iter().any(|arg| arg.contains(&format!(":{token}={}", fleet.name))), "{token}");
    }
}

#[test]
fn an_envoy_of_a_pool_reads_nothing_and_proves_who_it_is() {
    let [fleet, _] = fleets();
    let own = of_fleet(&fleet, &pooled()).unwrap();
    assert!(own.iter().all(|object| !object["kind"].as_str().unwrap().contains("Role")));
    let spec = &find(&own, "Deployment")["spec"]["template"]["spec"];
    assert_eq!(spec["initContainers"], Value::Null);
    let sources: Vec<&Value> =
        spec["volumes"].as_array().unwrap().iter().map(|volume| &volume["projected"]["sources"]).collect();
    let tokens: Vec<&Value> = sources.iter().filter(|source| !source.is_null()).copied().collect();
    assert_eq!(tokens.len(), 1, "only the one for the relays: {sources:?}");
    assert_eq!(tokens[0][0]["serviceAccountToken"]["audience"], "moorgate-relay");
    let data = &find(&own, "ConfigMap")["data"];
    assert_eq!((&data["trust"], &data["relay-ca.pem"]), (&Value::Null, &json!("CA")));
    let bootstrap: Value = serde_json::from_str(data["envoy.json"].as_str().unwrap()).unwrap();
    let service = &bootstrap["dynamic_resources"]["ads_config"]["grpc_services"][0]["google_grpc"];
    let made = relays(&fleets());
    let (name, port) =
        (&find(&made, "Service")["metadata"], &find(&made, "Service")["spec"]["ports"][0]["port"]);
    let address =
        format!("{}.{}.svc:{port}", name["name"].as_str().unwrap(), name["namespace"].as_str().unwrap());
    assert_eq!(service["target_uri"], address);
    // Nobody else in the pod could say that Envoy is ready.
    let probe = &spec["containers"][0]["readinessProbe"]["httpGet"];
    let listener = &bootstrap["static_resources"]["listeners"][0]["address"]["socket_address"];
    assert_eq!((&probe["path"], &probe["port"]), (&json!("/ready"), &listener["port_value"]));
    let policy = &find(&own, "NetworkPolicy")["spec"]["ingress"][0]["ports"];
    assert!(policy.as_array().unwrap().iter().any(|port| port["port"] == probe["port"]), "{policy}");
}

#[test]
fn relays_read_what_all_their_fleets_need_and_let_in_these_alone() {
    let made = relays(&fleets());
    let rules: Vec<(&str, usize)> = made
        .iter()
        .filter(|object| object["kind"] == "Role")
        .map(|role| {
            (role["metadata"]["namespace"].as_str().unwrap(), role["rules"].as_array().unwrap().len())
        })
        .collect();
    assert_eq!(rules, [("infra", 1), ("shop", 1)]);
    let subject = json!([{"kind": "ServiceAccount", "name": find(&made, "ServiceAccount")["metadata"]["name"], "namespace": "relays"}]);
    assert!(
        made.iter()
            .filter(|object| object["kind"] == "RoleBinding")
            .all(|binding| binding["subjects"] == subject)
    );
    let ingress = &find(&made, "NetworkPolicy")["spec"]["ingress"];
    let peers = ingress[0]["from"].as_array().unwrap();
    for (fleet, peer) in fleets().iter().zip(peers) {
        let own = of_fleet(fleet, &pooled()).unwrap();
        let labels = &find(&own, "Deployment")["spec"]["template"]["metadata"]["labels"];
        for (key, value) in peer["podSelector"]["matchLabels"].as_object().unwrap() {
            assert_eq!(labels[key], *value);
        }
        let namespace = &peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"];
        assert_eq!(*namespace, fleet.infrastructure.namespace);
    }
    let nobody = relays(&[]);
    let ingress = find(&nobody, "NetworkPolicy")["spec"]["ingress"].to_string();
    assert!(!ingress.contains("18000"), "without fleets nobody is let in: {ingress}");
}

#[test]
fn pods_of_a_pool_are_restricted() {
    let with = Settings {
        report_secret: Some(ReportSecret::Named("key".into())),
        store_tokens: true,
        store_secret: Some("bucket".into()),
        ..pooled()
    };
    let [fleet, other] = fleets();
    for settings in [pooled(), with] {
        let made = manifests("moorgate", &[fleet.clone(), other.clone()], &settings, &pool()).unwrap();
        for made in [made, of_fleet(&fleet, &settings).unwrap()] {
            let pod = &find(&made, "Deployment")["spec"]["template"];
            assert_eq!(breaches(&pod["spec"]), [""; 0]);
            for (key, value) in
                find(&made, "Deployment")["spec"]["selector"]["matchLabels"].as_object().unwrap()
            {
                assert_eq!(pod["metadata"]["labels"][key], *value);
            }
        }
    }
}

#[test]
fn pools_of_two_classes_share_nothing() {
    let [fleet, _] = fleets();
    let (one, two) = (
        relays(std::slice::from_ref(&fleet)),
        manifests("other", std::slice::from_ref(&fleet), &pooled(), &pool()).unwrap(),
    );
    for (one, two) in one.iter().zip(&two) {
        assert_ne!(one["metadata"]["name"], two["metadata"]["name"], "{}", one["kind"]);
    }
    let selector = |made: &[Value]| find(made, "Service")["spec"]["selector"].clone();
    assert_ne!(selector(&one), selector(&two));
}
