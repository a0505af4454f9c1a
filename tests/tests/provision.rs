//! `moorgate watch --provision --serve-store` on a real API server, with real pods: a cluster without a bucket.

#[path = "provision/bench.rs"]
mod bench;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bench::{AUDIENCE, Bench, condition};
use moorgate_tests::certificate::Certificate;
use moorgate_tests::cluster::balancer::{UNUSABLE, USABLE};
use moorgate_tests::wait;
use serde_json::json;
use std::time::Duration;

#[test]
fn relays_read_their_own_fleet_by_their_token_and_nothing_else() -> Result<()> {
    let bench = Bench::new("tokens")?;
    bench.apply(&bench.gateway("edge", &[80]))?;
    bench.apply(&bench.gateway("other", &[80]))?;
    bench.apply(&format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: stranger, namespace: {}}}\n",
        bench.name
    ))?;
    let watch = bench.watch("only")?;
    for gateway in ["edge", "other"] {
        bench.until_programmed(gateway).with_context(|| watch.tail())?;
    }
    let own = bench.object_name("edge");
    let token = bench.token(&own, AUDIENCE)?;
    let (head, report) = ("head/stable", "status/tester-1.json");
    let reads = |token: &str, fleet: &str| bench.may_read(token, fleet, head);
    assert!(reads(&token, "edge")?, "its own");
    assert!(!reads(&token, "other")?, "another fleet's");
    assert!(bench.may_write(&token, "edge", report)?, "its own report");
    for (fleet, name) in [("other", report), ("edge", head), ("edge", "log/stable/00000000000000000009")] {
        assert!(!bench.may_write(&token, fleet, name)?, "{fleet} {name}");
    }
    // Somebody else of the same namespace, another audience, and a token of the API server's own.
    for (account, audience) in [
        ("stranger", AUDIENCE),
        (own.as_str(), "elsewhere"),
        (own.as_str(), "https://kubernetes.default.svc"),
    ] {
        assert!(!reads(&bench.token(account, audience)?, "edge")?, "{account} {audience}");
    }
    // As the API server signs them, with an hour left and an hour over; and by a key that is not its own.
    let uid = bench.uid("serviceaccounts", &own)?;
    assert!(reads(&bench.forged(&own, &uid, 3600, true)?, "edge")?, "the form is right");
    assert!(!reads(&bench.forged(&own, &uid, -3600, true)?, "edge")?, "it has expired");
    assert!(!reads(&bench.forged(&own, &uid, 3600, false)?, "edge")?, "another key");
    assert!(!reads("no token", "edge")?);
    // A token of an account that is no more; what was granted before counts no longer either, since its Gateway is gone.
    let [known, unknown] = [
        bench.token(&bench.object_name("other"), AUDIENCE)?,
        bench.token(&bench.object_name("other"), AUDIENCE)?,
    ];
    assert!(reads(&known, "other")?);
    bench.delete("gateways", "other")?;
    wait::until("the end of its account", || {
        ensure!(bench.get("serviceaccounts", &bench.object_name("other")).is_err());
        ensure!(!reads(&known, "other")? && !reads(&unknown, "other")?);
        Ok(())
    })?;
    assert!(reads(&token, "edge")?, "its neighbour has lost nothing");
    Ok(())
}

#[test]
fn an_empty_disk_and_another_replica_go_on_where_relays_are() -> Result<()> {
    let bench = Bench::new("disks")?;
    bench.apply(&bench.gateway("edge", &[80]))?;
    let mut watch = bench.watch("first")?;
    bench.until_programmed("edge").with_context(|| watch.tail())?;
    let (before, _) = bench.until_reported("edge", 1).with_context(|| watch.tail())?;
    // It dies, and its disk with it: a pod that was evicted.
    watch.kill();
    bench.lose_disk()?;
    let mut watch = bench.watch("second")?;
    bench.patch("httproutes", "edge", &json!({"spec": {"hostnames": ["b.example"]}}))?;
    // Its relay follows: nothing went back.
    let (after, snapshot) = bench.until_reported("edge", before + 1).with_context(|| watch.tail())?;
    assert_eq!(bench.published("edge")?, (after, snapshot.clone()));
    assert!(after > before);
    // Without a change nothing is published, and content is there again.
    watch.terminate(Duration::from_secs(20))?;
    bench.lose_disk()?;
    let watch = bench.watch("third")?;
    wait::until("the same release on an empty disk", || {
        ensure!(bench.published("edge")? == (after, snapshot.clone()), "{}", watch.tail());
        ensure!(bench.has_snapshot("edge", &snapshot)?, "{}", watch.tail());
        Ok(())
    })?;
    // A relay that has nothing starts from it.
    bench.delete_pods("edge")?;
    bench.until_reported("edge", after).with_context(|| watch.tail())?;
    assert_eq!(bench.published("edge")?, (after, snapshot));
    Ok(())
}

#[test]
fn ports_come_to_envoy_first_and_go_from_the_service_first() -> Result<()> {
    let bench = Bench::new("ports")?;
    bench.apply(&bench.gateway("edge", &[80]))?;
    let watch = bench.watch("only")?;
    bench.until_programmed("edge").with_context(|| watch.tail())?;
    let address = bench.pod_address("edge")?;
    bench.apply(&bench.gateway("edge", &[80, 8080]))?;
    wait::until("the new port in the Service", || {
        // The Service first: as soon as it leads there, Envoy has to listen.
        let ports = bench.service_ports("edge")?;
        ensure!(ports == [80, 8080], "{ports:?}\n{}", watch.tail());
        Ok(())
    })?;
    bench.connect(&address, 8080).context("the Service leads to a port on which Envoy does not listen")?;
    bench.until_programmed("edge")?;
    let (_, before) = bench.published("edge")?;
    bench.apply(&bench.gateway("edge", &[80]))?;
    wait::until("the release without the port", || {
        ensure!(bench.published("edge")?.1 != before, "{}", watch.tail());
        Ok(())
    })?;
    // Published: so the Service must not lead there any more.
    assert_eq!(bench.service_ports("edge")?, [80]);
    wait::until("Envoy to close the port", || {
        ensure!(bench.connect(&address, 8080).is_err());
        Ok(())
    })?;
    bench.connect(&address, 80)
}

#[test]
fn a_gateway_made_anew_is_programmed_by_pods_of_its_own() -> Result<()> {
    let bench = Bench::new("anew")?;
    bench.apply(&bench.gateway("edge", &[80]))?;
    let watch = bench.watch("only")?;
    bench.until_programmed("edge").with_context(|| watch.tail())?;
    let former = bench.uid("gateways", "edge")?;
    bench.delete("gateways", "edge")?;
    bench.apply(&bench.gateway("edge", &[80]))?;
    let gateway = bench.until_programmed("edge").with_context(|| watch.tail())?;
    assert_ne!(gateway["metadata"]["uid"], json!(former));
    let secret = bench.get("secrets", &format!("{}-report", bench.object_name("edge")))?;
    assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], gateway["metadata"]["uid"]);
    Ok(())
}

#[test]
fn a_merged_class_is_served_by_one_fleet() -> Result<()> {
    let bench = Bench::new("merged")?;
    let host = |gateway: &str, host: &str| {
        let listener = format!("port: 80, hostname: {host}.example, protocol");
        bench.gateway(gateway, &[80]).replace("port: 80, protocol", &listener)
    };
    bench.apply(&host("one", "one"))?;
    bench.apply(&host("two", "two"))?;
    let watch = bench.watch_with("only", &["--merge-class", "merged", "--merged-namespace", "merged"])?;
    let [one, two] = [bench.until_programmed("one"), bench.until_programmed("two")];
    let (one, two) = (one.with_context(|| watch.tail())?, two.with_context(|| watch.tail())?);
    // One Service, one address.
    assert_eq!(one["status"]["addresses"], two["status"]["addresses"]);
    assert_eq!(one["status"]["addresses"].as_array().map(Vec::len), Some(1), "{one}");
    let deployments = bench.read("/apis/apps/v1/namespaces/merged/deployments")?;
    assert_eq!(deployments["items"].as_array().map(Vec::len), Some(1));
    let fleet = "class/merged".parse()?;
    let (sequence, _) = bench.published_of(&fleet)?;
    // The younger one asks for what the older one has.
    bench.apply(&host("two", "one"))?;
    bench.until("gateways", "two", "a conflict", |gateway| {
        let listener = &gateway["status"]["listeners"][0];
        ensure!(condition(listener, "Conflicted")["status"] == "True", "{gateway}");
        Ok(())
    })?;
    bench.until_programmed("one")?;
    // It goes, and the fleet goes on.
    bench.delete("gateways", "two")?;
    bench.apply(&host("one", "three"))?;
    bench.until_programmed("one").with_context(|| watch.tail())?;
    assert!(bench.published_of(&fleet)?.0 > sequence);
    Ok(())
}

#[test]
fn an_address_that_cannot_be_had_is_said_and_one_that_can_is_given() -> Result<()> {
    let bench = Bench::new("addresses")?;
    bench.apply(&bench.gateway("edge", &[80]))?;
    let asks = |address: &str| json!({"spec": {"addresses": [{"type": "IPAddress", "value": address}]}});
    bench.patch("gateways", "edge", &asks(UNUSABLE))?;
    let watch = bench.watch("only")?;
    let gateway = bench.until("gateways", "edge", "the verdict", |gateway| {
        let found = condition(&gateway["status"], "Programmed");
        ensure!(
            found["status"] == "False" && found["reason"] == "AddressNotUsable",
            "{gateway}\n{}",
            watch.tail()
        );
        Ok(())
    })?;
    assert!(gateway["status"]["addresses"].as_array().is_none_or(Vec::is_empty), "{gateway}");
    bench.patch("gateways", "edge", &asks(USABLE))?;
    let gateway = bench.until_programmed("edge").with_context(|| watch.tail())?;
    assert_eq!(gateway["status"]["addresses"], json!([{"type": "IPAddress", "value": USABLE}]));
    // One of two is given: what was asked for is not all there.
    let both = json!([{"type": "IPAddress", "value": USABLE}, {"type": "IPAddress", "value": UNUSABLE}]);
    bench.patch("gateways", "edge", &json!({"spec": {"addresses": both}}))?;
    bench.until("gateways", "edge", "the verdict on both", |gateway| {
        let found = condition(&gateway["status"], "Programmed");
        ensure!(found["reason"] == "AddressNotUsable", "{gateway}\n{}", watch.tail());
        ensure!(found["observedGeneration"] == gateway["metadata"]["generation"], "{gateway}");
        ensure!(
            gateway["status"]["addresses"] == json!([{"type": "IPAddress", "value": USABLE}]),
            "{gateway}"
        );
        Ok(())
    })?;
    Ok(())
}

/// Relays of nodes and of classes are made by `watch`, let the fleet's Envoys in, report for it, and go with the last Gateway
/// or when the model changes.
#[test]
fn relays_of_nodes_and_classes_are_made_for_fleets_and_go_with_them() -> Result<()> {
    let bench = Bench::new("relays")?;
    let name = bench.name.clone();
    let (authority, own) = Certificate::signed(&format!("*.{name}.svc"))?;
    let ca = bench.file("ca.crt", &authority.certificate)?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "relays-tls", "namespace": name},
        "data": {"tls.crt": STANDARD.encode(own.certificate), "tls.key": STANDARD.encode(own.key)},
    });
    bench.apply(&secret.to_string())?;
    let issuer = "https://kubernetes.default.svc";
    let workloads = |plural: &str| -> Result<Vec<String>> {
        let listed = bench.read(&format!("/apis/apps/v1/namespaces/{name}/{plural}"))?;
        let names = listed["items"].as_array().context("items")?.iter();
        let mut names: Vec<String> =
            names.filter_map(|one| Some(one["metadata"]["name"].as_str()?.to_owned())).collect();
        names.sort();
        Ok(names)
    };
    let mut ports = vec![80];
    let mut start = |model: &str| -> Result<_> {
        let flags = ["--model", model, "--relay-namespace", &name, "--relay-tls", "relays-tls"];
        let more = [&flags[..], &["--relay-ca", &ca, "--token-issuer", issuer]].concat();
        let watch = bench.watch_with(model, &more)?;
        // Another generation each time, which the Envoys of this model have to take.
        bench.apply(&bench.gateway("edge", &ports))?;
        ports.push(8080);
        bench.until_programmed("edge").with_context(|| watch.tail())?;
        Ok(watch)
    };
    let mut watch = start("node")?;
    assert_eq!(workloads("daemonsets")?, ["moorgate-node"]);
    assert_eq!(workloads("deployments")?, [bench.object_name("edge")]);
    watch.terminate(Duration::from_secs(20))?;
    let watch = start("pool")?;
    wait::until("the end of the relays of nodes", || {
        ensure!(workloads("daemonsets")?.is_empty(), "{}", watch.tail());
        let deployments = workloads("deployments")?;
        let own = bench.object_name("edge");
        ensure!(deployments.len() == 2 && deployments.contains(&own), "{deployments:?}");
        Ok(())
    })?;
    bench.delete("gateways", "edge")?;
    wait::until("the end of the relays of the class", || {
        let left = workloads("deployments")?;
        ensure!(left.is_empty(), "{left:?}\n{}", watch.tail());
        // With the keys that signed their reports, of both models.
        let listed = bench.read(&format!("/api/v1/namespaces/{name}/secrets"))?;
        let names = listed["items"].as_array().context("items")?.iter();
        let names: Vec<_> = names.filter_map(|one| one["metadata"]["name"].as_str()).collect();
        ensure!(names == ["relays-tls"], "{names:?}");
        Ok(())
    })
}

/// What parameters name is nobody else's, and what had another name goes; pods are as they are patched, and drain.
#[test]
fn names_that_parameters_choose_take_nothing_over_and_leave_nothing_behind() -> Result<()> {
    let bench = Bench::new("names")?;
    let parameters = |deployment: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: parameters, namespace: names}}\ndata:\n  envoyproxy.yaml: |\n    \
             apiVersion: gateway.envoyproxy.io/v1alpha1\n    kind: EnvoyProxy\n    spec:\n      \
             shutdown: {{drainTimeout: 20s, minDrainDuration: 1s}}\n      provider:\n        type: Kubernetes\n        kubernetes:\n          \
             envoyDeployment:\n            name: {deployment}\n            \
             patch: {{value: {{spec: {{template: {{metadata: {{labels: {{patched: 'yes'}}}}}}}}}}}}\n          \
             envoyService: {{name: front}}\n"
        )
    };
    let foreign = "apiVersion: v1\nkind: Service\nmetadata: {name: front, namespace: names}\nspec: {selector: {app: shop}, ports: [{port: 9}]}\n";
    bench.apply(foreign)?;
    bench.apply(&parameters("proxies"))?;
    let named = "spec: {infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: parameters}}, gatewayClassName";
    bench.apply(&bench.gateway("edge", &[80]).replace("spec: {gatewayClassName", named))?;
    let watch = bench.watch("only")?;
    wait::until("the Service of somebody else", || {
        ensure!(watch.output().contains("Service names/front is there already"), "{}", watch.tail());
        Ok(())
    })?;
    let front = bench.get("services", "front")?;
    assert_eq!(
        (&front["spec"]["selector"], &front["spec"]["ports"][0]["port"]),
        (&json!({"app": "shop"}), &json!(9))
    );
    assert!(bench.get("deployments", "proxies").is_err(), "nothing is made in half");
    bench.delete("services", "front")?;
    let gateway = bench.until_programmed("edge").with_context(|| watch.tail())?;
    let given = &bench.get("services", "front")?["status"]["loadBalancer"]["ingress"][0]["ip"];
    assert_eq!(gateway["status"]["addresses"][0]["value"], *given);
    assert_eq!(
        bench.get("deployments", "proxies")?["spec"]["template"]["metadata"]["labels"]["patched"],
        "yes"
    );
    for (kind, usual) in [("deployments", bench.object_name("edge")), ("services", bench.object_name("edge"))]
    {
        assert!(bench.get(kind, &usual).is_err(), "{kind} {usual}");
    }
    bench.apply(&parameters("others"))?;
    wait::until("the new name alone", || {
        bench.get("deployments", "others")?;
        ensure!(bench.get("deployments", "proxies").is_err(), "{}", watch.tail());
        Ok(())
    })?;
    bench.until_programmed("edge").with_context(|| watch.tail())?;
    Ok(())
}
