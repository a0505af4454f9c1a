//! From one Moorgate to another: versions, stores, regions, environments. Models are the suite `models`' matter.

use crate::document::{commands, headings};
use crate::front::Front;
use crate::site::{STORE_PORT, Site, backend, case, echo, plain, tap};
use anyhow::{Context as _, Result, ensure};
use moorgate_tests::cluster::{Cluster, OUTSIDE, Options};
use moorgate_tests::http::Request;
use moorgate_tests::program::binary;
use moorgate_tests::storage::azurite::{self, Azurite};
use moorgate_tests::wait;
use serde_json::Value;
use std::os::unix::fs::symlink;
use std::sync::Arc;

/// The port at which pods reach the other kind of store.
const OTHER_PORT: u16 = 10_000;

const GATEWAYS: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: moorgate}
spec: {controllerName: moorgate.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {gatewayClassName: moorgate, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{name: http, port: 80, targetPort: 3000}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{name: edge}]
  rules:
  - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-turn, value: turn-0}]}}]
    backendRefs: [{name: cart, port: 80}]
";

/// The repository's next turn.
fn turn(site: &Site, number: u32) -> Result<()> {
    let text = GATEWAYS.replace("turn-0", &format!("turn-{number}"));
    Ok(std::fs::write(site.path("gateways/gateways.yaml"), text)?)
}

fn request() -> Request {
    Request::get("shop.example.com", "/")
}

/// Waits until the backend hears of this turn.
fn hears(site: &Site, number: u32) -> Result<()> {
    let address = site.address("shop", "edge-moorgate")?;
    wait::until("the turn", || {
        let echo = echo(&site.send(&plain(address, 80), &request())?)?;
        ensure!(echo["headers"]["X-Turn"][0] == format!("turn-{number}"), "{echo}");
        Ok(())
    })
}

#[test]
fn a_store_is_exchanged_for_one_of_another_kind_under_load_and_back() -> Result<()> {
    let [both, alone] = commands("### Stores")?;
    let mut site = Site::new("moorgate-old")?;
    let azure = Azurite::start()?;
    azure.container("moorgate-new")?;
    let other = tap(&site.cluster, OTHER_PORT, azure.port(), "moorgate-new")?;
    let (name, value) = azurite::variable(&format!("{OUTSIDE}:{OTHER_PORT}"));
    site.environment.insert(name.to_owned(), value);
    site.write_store_env()?;
    site.backends("shop", &["cart"])?;
    turn(&site, 0)?;
    site.types(
        "kubectl create secret generic moorgate-store --namespace shop --from-env-file=store.env
moorgate keygen ci.key
export MOORGATE_TRUST=ci.pub
moorgate publish gateways/ --store s3://moorgate-old/edge --key file:ci.key
moorgate render gateways/ --store s3://moorgate-old/edge --store-secret moorgate-store | kubectl apply --server-side -f -",
    )?;
    hears(&site, 0)?;
    let address = site.address("shop", "edge-moorgate")?;
    let front = Front::start(&site.cluster, site.folder.path(), [("edge", address), ("nobody", address)])?;
    let load = front.load(&request());
    load.wait(50)?;
    // There: a release in between is published by the new order, and the old store is a mirror.
    site.types(&both)?;
    turn(&site, 1)?;
    site.types(&alone)?;
    hears(&site, 1)?;
    // The old one is gone, and nobody misses it.
    site.tap.cut(true);
    other.forget();
    turn(&site, 2)?;
    site.types("moorgate publish gateways/ --store $NEW --key file:ci.key")?;
    hears(&site, 2)?;
    ensure!(!other.clients().is_empty(), "nobody asks the new store");
    site.tap.cut(false);
    // And back, the names exchanged: what the old one missed is copied first.
    let (old, new) = ("s3://moorgate-old/edge", "az://moorgate-new/edge");
    let back = both.replace(old, "@").replace(new, old).replace('@', new);
    ensure!(back != both, "the commands name no stores");
    site.types(&back)?;
    turn(&site, 3)?;
    site.types(&alone)?;
    hears(&site, 3)?;
    other.cut(true);
    turn(&site, 4)?;
    site.types("moorgate publish gateways/ --store $NEW --key file:ci.key")?;
    hears(&site, 4)?;
    let report = load.stop();
    report.nothing_lost()?;
    println!("{} requests while stores were exchanged, none lost", report.sent);
    let log = site.types("moorgate log shop/edge --store $NEW -o json")?.json()?;
    let entries = log["entries"].as_array().context("entries")?.len();
    ensure!(entries == 5, "{log}");
    Ok(())
}

#[test]
fn regions_serve_one_snapshot_with_endpoints_of_their_own() -> Result<()> {
    let [apply] = commands("### Regions")?;
    let mut site = Site::new("moorgate-regions")?;
    turn(&site, 0)?;
    let published = site.types(
        "moorgate keygen ci.key
export MOORGATE_STORE=s3://moorgate-regions/edge MOORGATE_TRUST=ci.pub
moorgate publish gateways/ --key file:ci.key -o json
moorgate render gateways/ --store-secret moorgate-store > fleets.yaml",
    )?;
    let from = published.stdout.find('{').context("no JSON")?;
    let published: Value = serde_json::from_str(&published.stdout[from..])?;
    let snapshot = published["fleets"][0]["snapshot"].as_str().context("a snapshot")?.to_owned();
    let second = Arc::new(Cluster::start(&Options::default())?);
    let _tap = tap(&second, STORE_PORT, site.moto.port(), "moorgate-regions")?;
    let first = Arc::clone(&site.cluster);
    for (region, cluster) in [("eu", first), ("us", second)] {
        site.cluster = cluster;
        site.cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n")?;
        site.cluster.apply(&backend("shop", "cart", region))?;
        site.types(
            "kubectl create secret generic moorgate-store --namespace shop --from-env-file=store.env",
        )?;
        site.types(&apply)?;
        hears(&site, 0)?;
        let address = site.address("shop", "edge-moorgate")?;
        let answer = echo(&site.send(&plain(address, 80), &request())?)?;
        assert_eq!(answer["pod"], region);
        let pods = site.cluster.request("GET", "/api/v1/namespaces/shop/pods", None)?;
        let pods = pods["items"].as_array().context("pods")?;
        let serves =
            |pod: &&Value| pod["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("edge-"));
        let pod = pods.iter().find(serves).context("no Envoy")?["status"]["podIP"].as_str();
        let metrics = site
            .send(&plain(pod.context("an address")?.parse()?, 19_001), &Request::get("relay", "/metrics"))?;
        let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
        let line = metrics.lines().find(|line| line.starts_with("moorgate_relay_snapshot_info"));
        ensure!(
            line.is_some_and(|line| line.contains(&snapshot[..12])),
            "{region} serves {line:?}, not {snapshot}"
        );
    }
    Ok(())
}

#[test]
fn environments_differ_in_hash_and_diff_says_in_what() -> Result<()> {
    let [script] = commands("### Environments")?;
    let folder = tempfile::tempdir()?;
    for name in ["charts", "overlays"] {
        symlink(case("environments").join(name), folder.path().join(name))?;
    }
    let outcome = crate::site::shell(folder.path(), &script)?.ended_with(&[0])?;
    for line in ["- host http-80 staging.example.com", "+ host http-80 shop.example.com"] {
        ensure!(outcome.stdout.contains(line), "{}", outcome.stdout);
    }
    let id = |script: &str| -> Result<String> {
        let compiled = crate::site::shell(folder.path(), &format!("{script} | moorgate compile - -o json"))?;
        let compiled = compiled.ended_with(&[0])?.json()?;
        Ok(compiled["fleets"][0]["snapshot"].as_str().context("a snapshot")?.to_owned())
    };
    let [staging, production] = ["staging.example.com", "shop.example.com"]
        .map(|host| id(&format!("helm template edge charts/edge --set host={host}")));
    let (staging, production) = (staging?, production?);
    assert_ne!(staging, production);
    // One hostname, one hash, whoever rendered it.
    assert_eq!(id("kustomize build overlays/staging")?, staging);
    assert_eq!(id("kustomize build overlays/production")?, production);
    Ok(())
}

#[test]
fn another_version_is_asked_first_and_starts_from_what_an_older_one_wrote() -> Result<()> {
    let [ask] = commands("### Versions")?;
    let folder = tempfile::tempdir()?;
    symlink(binary("moorgate")?, folder.path().join("moorgate-old"))?;
    std::fs::create_dir(folder.path().join("gateways"))?;
    std::fs::write(folder.path().join("gateways/gateways.yaml"), GATEWAYS)?;
    let script = format!(
        "export MOORGATE_STORE=file://$PWD/store MOORGATE_TRUST=ci.pub
mkdir store; moorgate keygen ci.key; ./moorgate-old publish gateways/ --key file:ci.key
{ask}"
    );
    let outcome = crate::site::shell(folder.path(), &script)?.ended_with(&[0])?;
    ensure!(outcome.stdout.contains("unchanged"), "{}", outcome.stdout);
    crate::written::an_older_store_and_an_older_cache_are_served()
}

/// Whatever has commands on the page is followed by a test of this suite.
#[test]
fn no_command_of_the_page_is_left_out() -> Result<()> {
    let followed = [
        ("## From Envoy Gateway", 8),
        ("### From Istio's gateway", 1),
        ("### Served from what was converted", 1),
        ("### Versions", 1),
        ("### Stores", 2),
        ("### Regions", 1),
        ("### Environments", 1),
    ];
    let followed = followed.map(|(heading, count)| (heading.to_owned(), count));
    assert_eq!(headings()?, followed);
    Ok(())
}
