//! The chart as it is installed: what `helm template` prints runs on a real API server, and makes fleets that answer.

use super::charts::chart;
use super::text;
use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moorgate_snapshot::{KeyPair, Signer as _};
use moorgate_tests::certificate::Certificate;
use moorgate_tests::cluster::Cluster;
use moorgate_tests::http::{Connection, Request, Target};
use moorgate_tests::wait;
use serde_json::{Value, json};
use std::net::SocketAddr;

/// The namespace of the Gateway.
const SHOP: &str = "installed";
/// The issuer of the test cluster's tokens.
const ISSUER: &str = "relay.tokenIssuer=https://kubernetes.default.svc";

/// A Gateway on this port, whose route answers by itself.
fn gateway(port: u16) -> String {
    format!(
        "---
apiVersion: v1
kind: Namespace
metadata: {{name: {SHOP}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: {SHOP}}}
spec: {{controllerName: example.com/installed}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: {SHOP}}}
spec: {{gatewayClassName: {SHOP}, listeners: [{{name: http, port: {port}, protocol: HTTP}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: away, namespace: {SHOP}}}
spec:
  parentRefs: [{{name: edge}}]
  rules: [{{filters: [{{type: RequestRedirect, requestRedirect: {{hostname: port-{port}.example}}}}]}}]
"
    )
}

/// What `watch` reads: its key, whom it trusts, and the certificate of its relays, with the authority beside it as
/// cert-manager puts it.
fn secrets(ca: &str, own: &Certificate) -> Result<String> {
    let (key, private) = KeyPair::generate(&[3; 32])?;
    let secret = |name: &str, data: Value| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "data": data,
            "metadata": {"name": name, "namespace": "moorgate-system"},
        })
    };
    let text = |text: &str| STANDARD.encode(text);
    let keys = json!({"signing.key": text(&private), "trust.json": text(&key.public().to_pem())});
    let tls = json!({"tls.crt": text(&own.certificate), "tls.key": text(&own.key), "ca.crt": text(ca)});
    Ok(format!("{}\n---\n{}\n", secret("moorgate-watch", keys), secret("relays-tls", tls)))
}

fn programmed(cluster: &Cluster) -> Result<()> {
    let path = format!("/apis/gateway.networking.k8s.io/v1/namespaces/{SHOP}/gateways/edge");
    wait::until("Programmed", || {
        let gateway = cluster.request("GET", &path, None)?;
        let conditions = gateway["status"]["conditions"].as_array().context("no status")?;
        let found = conditions.iter().find(|one| one["type"] == "Programmed").context("not yet")?;
        ensure!(found["observedGeneration"] == gateway["metadata"]["generation"], "{gateway}");
        ensure!(found["status"] == "True", "{found}");
        Ok(())
    })
}

/// Where the Gateway's route sends whoever asks at this port.
fn answered(cluster: &Cluster, port: u16) -> Result<()> {
    let path = format!("/api/v1/namespaces/{SHOP}/services/edge-{SHOP}");
    wait::until("an answer", || {
        let service = cluster.request("GET", &path, None)?;
        let address = &service["status"]["loadBalancer"]["ingress"][0]["ip"];
        let address = address.as_str().with_context(|| service.to_string())?.parse()?;
        let target = Target::plain(0).at(SocketAddr::new(address, port));
        let answer = cluster.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let request = Request::get("shop.example", "/").header("connection", "close");
            runtime.block_on(async { Connection::open(&target).await?.send(&request).await })
        })?;
        let wanted = format!("http://port-{port}.example");
        let found = answer.header("location").unwrap_or_default();
        ensure!(answer.status == 302 && found.starts_with(&wanted), "{} {found}", answer.status);
        Ok(())
    })
}

/// Names of what a workload of a kind is called in `moorgate-system`.
fn workloads(cluster: &Cluster, plural: &str) -> Result<Vec<String>> {
    let listed =
        cluster.request("GET", &format!("/apis/apps/v1/namespaces/moorgate-system/{plural}"), None)?;
    let items = listed["items"].as_array().context("items")?.iter();
    Ok(items.filter_map(|one| one["metadata"]["name"].as_str().map(str::to_owned)).collect())
}

/// `watch` from the chart, in pods under Pod Security `restricted` and with the chart's rights alone, makes relays of nodes,
/// and then those of a class instead; it is its own store.
#[test]
fn the_installed_chart_makes_fleets_of_other_models_that_answer() -> Result<()> {
    let cluster = Cluster::shared()?;
    let folder = tempfile::tempdir()?;
    let (authority, own) = Certificate::signed("*.moorgate-system.svc")?;
    let file = folder.path().join("ca.crt");
    std::fs::write(&file, &authority.certificate)?;
    let ca = format!("relay.ca={}", file.display());
    cluster.apply(&text("deploy/kustomize/base/namespaces.yaml")?)?;
    cluster.apply(&secrets(&authority.certificate, &own)?)?;
    let common = [
        "store.serve=true",
        "watch.provision=true",
        "watch.controllerName=example.com/installed",
        "watch.replicas=1",
        "relay.tlsSecret=relays-tls",
        ISSUER,
    ];
    let install = |more: &[&str]| -> Result<()> {
        cluster.apply(&chart(&[&common[..], more].concat())?.ended_with(&[0])?.stdout)
    };
    install(&["model=node", &ca])?;
    cluster.apply(&gateway(80))?;
    programmed(&cluster)?;
    answered(&cluster, 80)?;
    ensure!(workloads(&cluster, "daemonsets")? == ["moorgate-node"]);
    // The authority is taken from the Secret now.
    install(&["model=pool", "relay.poolReplicas=1"])?;
    wait::until("the other relays", || {
        let (nodes, all) = (workloads(&cluster, "daemonsets")?, workloads(&cluster, "deployments")?);
        ensure!(nodes.is_empty(), "{nodes:?}");
        ensure!(all.len() == 2 && all.iter().any(|name| name.starts_with("installed-")), "{all:?}");
        Ok(())
    })?;
    cluster.apply(&gateway(8080))?;
    programmed(&cluster)?;
    answered(&cluster, 8080)?;
    // Nothing of it stays for the next test.
    let path = format!("/apis/gateway.networking.k8s.io/v1/namespaces/{SHOP}/gateways/edge");
    cluster.request("DELETE", &path, None)?;
    wait::until("the end of the relays", || {
        let all = workloads(&cluster, "deployments")?;
        ensure!(all == ["moorgate-watch"], "{all:?}");
        Ok(())
    })
}
