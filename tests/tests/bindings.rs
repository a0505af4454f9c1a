//! A relay that asks a real API server, as `render` allows it, and a bare xDS client: what it asks for and how often,
//! what a pod that moves costs, and what stays when the API server or a Service goes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use anyhow::{Context as _, Result, bail, ensure};
use envoy_types::pb::envoy::config::cluster::v3::Cluster as EnvoyCluster;
use envoy_types::pb::envoy::config::core::v3::HealthStatus;
use envoy_types::pb::envoy::config::core::v3::address::Address;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint};
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams};
use moorgate_relay::serve::proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use moorgate_tests::cluster::{Cluster, definitions, inside};
use moorgate_tests::program::{moorgate, run};
use moorgate_tests::stack::Stack;
use moorgate_tests::{certificate, runtime, wait};
use prost::Message as _;
use serde::Deserialize as _;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const SDS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// A Gateway, and routes to Services of two namespaces. A third has a Service that no route names.
const CONFIGURATION: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: moorgate}
spec: {controllerName: moorgate.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public, namespace: edge}
spec:
  gatewayClassName: moorgate
  listeners:
  - {name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
  - {name: https, port: 443, protocol: HTTPS, hostname: a.example, tls: {certificateRefs: [{name: cert}]}}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{name: http, port: 80, targetPort: 3000}]}
---
apiVersion: v1
kind: Service
metadata: {name: pay, namespace: bank}
spec: {selector: {app: pay}, ports: [{name: http, port: 80, targetPort: 3000}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{name: public, namespace: edge}]
  rules: [{backendRefs: [{name: cart, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: pay, namespace: bank}
spec:
  parentRefs: [{name: public, namespace: edge}]
  rules: [{matches: [{path: {value: /pay}}], backendRefs: [{name: pay, port: 80}]}]
";

fn workload(namespace: &str, name: &str) -> String {
    format!(
        "---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: echo
        image: registry.k8s.io/gateway-api/conformance/echo-basic:v0.1.0
        env:
        - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
        - {{name: NAMESPACE, valueFrom: {{fieldRef: {{fieldPath: metadata.namespace}}}}}}
"
    )
}

/// What a response brought: its type, and the names of its resources.
type Brought = (String, Vec<String>);

/// Everything that the relay has sent.
#[derive(Debug, Default)]
struct Seen {
    brought: Vec<Brought>,
    /// Addresses of each endpoint set.
    endpoints: BTreeMap<String, BTreeSet<String>>,
    secrets: BTreeSet<String>,
    error: Option<String>,
}

/// A bare xDS client that takes all.
struct Client {
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    fn start(socket: &Path) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (shared, socket) = (seen.clone(), socket.to_owned());
        let task = runtime().spawn(async move {
            if let Err(error) = talk(&socket, &shared).await {
                shared.lock().unwrap_or_else(PoisonError::into_inner).error = Some(format!("{error:#}"));
            }
        });
        Self { seen, task }
    }

    fn look<T>(&self, at: impl FnOnce(&Seen) -> T) -> Result<T> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = &seen.error {
            bail!("the client's stream: {error}");
        }
        Ok(at(&seen))
    }

    /// The addresses of a Service's endpoints.
    fn addresses(&self, service: &str) -> Result<BTreeSet<String>> {
        self.look(|seen| {
            let named = seen.endpoints.iter().find(|(name, _)| name.contains(service));
            named.map(|(_, addresses)| addresses.clone())
        })?
        .with_context(|| format!("no endpoints of {service} yet"))
    }

    /// How much it has seen so far.
    fn count(&self) -> Result<usize> {
        self.look(|seen| seen.brought.len())
    }

    /// What it has seen since.
    fn since(&self, count: usize) -> Result<Vec<Brought>> {
        self.look(|seen| seen.brought.iter().skip(count).cloned().collect())
    }
}

async fn talk(socket: &Path, seen: &Mutex<Seen>) -> Result<()> {
    let endpoint = tonic::transport::Endpoint::try_from(format!("unix:{}", socket.display()))?;
    let mut grpc = tonic::client::Grpc::new(endpoint.connect().await?);
    grpc.ready().await?;
    let (sender, receiver) = mpsc::unbounded_channel();
    let outgoing = tokio_stream::wrappers::UnboundedReceiverStream::new(receiver);
    let node = Some(Node { id: "bare".to_owned(), ..Node::default() });
    let ask = |node: Option<Node>, kind: &str, names: Vec<String>| DeltaDiscoveryRequest {
        node,
        type_url: kind.to_owned(),
        resource_names_subscribe: names,
        ..DeltaDiscoveryRequest::default()
    };
    sender.send(ask(node, CDS, Vec::new()))?;
    sender.send(ask(None, LDS, Vec::new()))?;
    let path = http::uri::PathAndQuery::from_static(
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
    );
    let codec = tonic_prost::ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
    let mut responses = grpc.streaming(tonic::Request::new(outgoing), path, codec).await?.into_inner();
    while let Some(response) = responses.message().await? {
        let mut wanted: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let names = response.resources.iter().map(|resource| resource.name.clone()).collect();
            seen.brought.push((response.type_url.clone(), names));
            for resource in &response.resources {
                let bytes = resource.resource.as_ref().map(|any| any.value.clone()).unwrap_or_default();
                match response.type_url.as_str() {
                    EDS => drop(seen.endpoints.insert(resource.name.clone(), addresses(&bytes)?)),
                    SDS => drop(seen.secrets.insert(resource.name.clone())),
                    CDS => wanted.entry(EDS).or_default().extend(endpoint_name(&bytes)?),
                    // Names that a listener needs stand in it as text.
                    LDS => wanted.entry(SDS).or_default().extend(secret_names(&bytes)),
                    _ => {}
                }
            }
        }
        sender.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        })?;
        for (kind, names) in wanted.into_iter().filter(|(_, names)| !names.is_empty()) {
            sender.send(ask(None, kind, names))?;
        }
    }
    bail!("the relay has ended the stream")
}

/// The endpoint set that a cluster asks for.
fn endpoint_name(bytes: &[u8]) -> Result<Option<String>> {
    let cluster = EnvoyCluster::decode(bytes)?;
    let named = cluster.eds_cluster_config.map(|config| config.service_name);
    Ok(named.map(|name| if name.is_empty() { cluster.name } else { name }))
}

/// The secrets that a listener asks for, found by what their names hold.
fn secret_names(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let names = text.split(|c: char| !c.is_ascii_graphic()).filter(|part| part.contains("edge/cert"));
    names.map(|name| name.trim_start_matches(|c: char| !c.is_ascii_lowercase()).to_owned()).collect()
}

/// The addresses of a set. Behind one that is not healthy stands what it is instead, so that a pod that is not ready yet,
/// or not gone yet, is no pod that is there: what follows would be taken for a change.
fn addresses(bytes: &[u8]) -> Result<BTreeSet<String>> {
    let set = ClusterLoadAssignment::decode(bytes)?;
    let hosts = set.endpoints.into_iter().flat_map(|locality| locality.lb_endpoints);
    let address = |host: HostIdentifier| match host {
        HostIdentifier::Endpoint(endpoint) => match endpoint.address?.address? {
            Address::SocketAddress(socket) => Some(socket.address),
            _ => None,
        },
        HostIdentifier::EndpointName(_) => None,
    };
    let said = |host: LbEndpoint| {
        let (health, address) = (host.health_status(), address(host.host_identifier?)?);
        let well = matches!(health, HealthStatus::Unknown | HealthStatus::Healthy);
        Some(if well { address } else { format!("{address} {}", health.as_str_name()) })
    };
    Ok(hosts.filter_map(said).collect())
}

/// A cluster with the workloads, a store with the fleet's snapshot, and a relay in the cluster's network with no more
/// rights than `render` prints.
struct Scene {
    // Processes first.
    client: Option<Client>,
    stack: Stack,
    kubeconfig: PathBuf,
    snapshot: String,
    /// Counters of the API server before the relay came.
    before: BTreeMap<String, u64>,
    cluster: Cluster,
}

impl Scene {
    fn start() -> Result<Self> {
        let cluster = Cluster::start(&moorgate_tests::cluster::Options::default())?;
        for namespace in ["edge", "shop", "bank", "quiet"] {
            cluster.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n"))?;
        }
        cluster.apply(CONFIGURATION)?;
        let workloads = workload("shop", "cart") + &workload("bank", "pay") + &workload("quiet", "quiet");
        cluster.apply(&workloads)?;
        for name in ["cert", "other"] {
            cluster.apply(&pair(name)?)?;
        }
        let stack = Stack::new("edge/public")?;
        let source = stack.folder().join("source.yaml");
        std::fs::write(&source, CONFIGURATION)?;
        stack.publish(&source)?;
        let snapshot = stack.compiled(&source)?;
        let (namespace, account) = rights(&cluster, &stack, &source)?;
        let kubeconfig = cluster.kubeconfig_of(&namespace, &account)?;
        let before = counters(&cluster)?;
        let mut scene = Self { client: None, stack, kubeconfig, snapshot, before, cluster };
        let net = format!("--net=/proc/{}/ns/net", scene.cluster.process());
        scene.stack.relay_prefix = vec!["nsenter".to_owned(), net];
        scene.stack.relay_arguments = vec![
            "--kubernetes".to_owned(),
            "--kubeconfig".to_owned(),
            scene.kubeconfig.display().to_string(),
        ];
        scene.relay()?;
        Ok(scene)
    }

    /// Starts the relay, and a client when it serves.
    fn relay(&mut self) -> Result<()> {
        self.client = None;
        self.stack.spawn_relay()?;
        let snapshot = self.snapshot.clone();
        self.stack.wait_for_snapshot(&snapshot)?;
        self.client = Some(Client::start(&self.stack.socket()));
        Ok(())
    }

    fn client(&self) -> Result<&Client> {
        self.client.as_ref().context("a client")
    }

    /// The addresses of a Service's pods.
    fn pods(&self, namespace: &str) -> Result<BTreeSet<String>> {
        self.cluster.with(async |client| {
            let pods = Api::<Pod>::namespaced(client, namespace).list(&ListParams::default()).await?.items;
            let live = pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
            Ok(live.filter_map(|pod| pod.status?.pod_ip).collect())
        })
    }

    /// Waits until the client has exactly the addresses of the pods that there are, all of them ready.
    fn until_bound(&self, service: &str, namespace: &str) -> Result<BTreeSet<String>> {
        wait::until(&format!("the endpoints of {service}"), || {
            let (found, pods) = (self.client()?.addresses(service)?, self.pods(namespace)?);
            ensure!(!pods.is_empty() && found == pods, "{found:?}, not {pods:?}");
            Ok(found)
        })
    }

    /// How much a counter of the API server has grown since before the relay.
    fn grown(&self, name: &str) -> Result<u64> {
        let now = counters(&self.cluster)?;
        Ok(now.get(name).copied().unwrap_or(0).saturating_sub(self.before.get(name).copied().unwrap_or(0)))
    }

    /// A request with the relay's rights; whether it is allowed.
    fn may(&self, path: &str) -> Result<bool> {
        let kubeconfig = self.kubeconfig.clone();
        let request = http::Request::get(path).body(Vec::new())?;
        self.cluster.enter(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                match inside::client(&kubeconfig).await?.request::<Value>(request).await {
                    Ok(_) => Ok(true),
                    Err(kube::Error::Api(status)) if status.code == 403 => Ok(false),
                    Err(error) => Err(error.into()),
                }
            })
        })
    }
}

/// A Secret with a certificate.
fn pair(name: &str) -> Result<String> {
    let made = certificate::Certificate::for_names(&["a.example"])?;
    let indent = |pem: &str| pem.lines().flat_map(|line| ["    ", line, "\n"]).collect::<String>();
    Ok(format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: edge}}\ntype: kubernetes.io/tls\nstringData:\n  \
         tls.crt: |\n{}  tls.key: |\n{}",
        indent(&made.certificate),
        indent(&made.key)
    ))
}

/// Applies what `render` prints about rights; the relay's account.
fn rights(cluster: &Cluster, stack: &Stack, source: &Path) -> Result<(String, String)> {
    let mut command = moorgate()?;
    command.args(["render", "--store", "s3://bucket/prefix", "--trust"]).arg(stack.trust()).arg(source);
    let printed = run(&mut command)?.ended_with(&[0])?.stdout;
    let mut account = None;
    let mut rights = Vec::new();
    for document in yaml_serde::Deserializer::from_str(&printed) {
        let object = Value::deserialize(document)?;
        let kind = object["kind"].as_str().unwrap_or_default();
        if kind == "ServiceAccount" {
            let text = |field: &str| object["metadata"][field].as_str().map(str::to_owned);
            account = text("namespace").zip(text("name"));
        }
        if kind == "ServiceAccount" || kind.contains("Role") {
            rights.push(object.to_string());
        }
    }
    let objects = definitions::parse(&rights.join("\n---\n"))?;
    cluster.with(async |client| definitions::apply(&client, &objects).await)?;
    account.context("an account")
}

/// Counters of the API server that concern what relays ask: `VERB resource scope`.
fn counters(cluster: &Cluster) -> Result<BTreeMap<String, u64>> {
    let metrics = cluster.with(async |client| {
        Ok(client.request_text(http::Request::get("/metrics").body(Vec::new())?).await?)
    })?;
    let mut counters = BTreeMap::new();
    for line in metrics.lines() {
        let Some((name, rest)) = line.split_once('{') else { continue };
        let Some((labels, value)) = rest.rsplit_once("} ") else { continue };
        let label = |key: &str| {
            let (_, value) = labels.split_once(&format!("{key}=\""))?;
            value.split_once('"').map(|(value, _)| value)
        };
        let verb = match name {
            "apiserver_longrunning_requests" => "watching",
            "apiserver_request_total" => label("verb").unwrap_or_default(),
            _ => continue,
        };
        let (Some(resource), Some(scope)) = (label("resource"), label("scope")) else { continue };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of requests")]
        let value = value.parse::<f64>()? as u64;
        *counters.entry(format!("{verb} {resource} {scope}")).or_default() += value;
    }
    Ok(counters)
}

/// One watch a backend namespace and one list for it, one watch by name for the Secret that a listener names, and
/// nothing besides: neither by what was asked, nor by right.
fn exactly_what_the_manifest_names(scene: &Scene) -> Result<()> {
    for (counter, expected) in [
        ("watching endpointslices namespace", 2),
        ("LIST endpointslices namespace", 2),
        ("watching secrets resource", 1),
        ("watching secrets namespace", 0),
        ("LIST secrets namespace", 0),
        ("watching configmaps resource", 0),
    ] {
        wait::until(counter, || {
            let grown = scene.grown(counter)?;
            ensure!(grown == expected, "{counter}: {grown}, not {expected}");
            Ok(())
        })?;
    }
    let slices = "/apis/discovery.k8s.io/v1/namespaces";
    let secrets = "/api/v1/namespaces/edge/secrets";
    for (path, expected) in [
        (format!("{slices}/shop/endpointslices"), true),
        (format!("{slices}/bank/endpointslices"), true),
        (format!("{slices}/quiet/endpointslices"), false),
        ("/apis/discovery.k8s.io/v1/endpointslices".to_owned(), false),
        (format!("{secrets}/cert"), true),
        (format!("{secrets}/other"), false),
        (secrets.to_owned(), false),
        ("/api/v1/namespaces/shop/services".to_owned(), false),
        ("/api/v1/namespaces/shop/pods".to_owned(), false),
    ] {
        assert_eq!(scene.may(&path)?, expected, "{path}");
    }
    let sent = scene.client()?.look(|seen| seen.secrets.clone())?;
    assert!(sent.len() == 1, "{sent:?}");
    Ok(())
}

/// A pod that moves reaches Envoys as its Service's endpoint set, and as nothing else; nothing is compiled.
fn a_pod_moves(scene: &mut Scene) -> Result<()> {
    let (before, count) = (scene.until_bound("cart", "shop")?, scene.client()?.count()?);
    scene.cluster.with(async |client| {
        let pods = Api::<Pod>::namespaced(client, "shop");
        pods.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
        Ok(())
    })?;
    wait::until("another pod", || {
        let found = scene.client()?.addresses("cart")?;
        ensure!(!found.is_empty() && found.is_disjoint(&before), "{found:?}");
        Ok(())
    })?;
    scene.until_bound("cart", "shop")?;
    for (kind, names) in scene.client()?.since(count)? {
        assert_eq!((kind.as_str(), names.len()), (EDS, 1), "{names:?}");
        assert!(names[0].contains("cart"), "{names:?}");
    }
    let snapshot = scene.snapshot.clone();
    scene.stack.wait_for_snapshot(&snapshot)?;
    // What moves elsewhere is nobody's business.
    let count = scene.client()?.count()?;
    scene.cluster.with(async |client| {
        let pods = Api::<Pod>::namespaced(client, "quiet");
        pods.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
        Ok(())
    })?;
    scene.until_bound("pay", "bank")?;
    assert_eq!(scene.client()?.since(count)?, Vec::<Brought>::new());
    Ok(())
}

/// The API server dies and comes back: the last endpoints stay, nobody is told anything, and at most one list a namespace
/// follows. Then the watches work again.
fn the_api_server_restarts(scene: &Scene) -> Result<()> {
    let count = scene.client()?.count()?;
    let before = scene.client()?.addresses("cart")?;
    scene.cluster.restart_api_server()?;
    wait::until("the watches", || {
        let now = counters(&scene.cluster)?;
        let watching = now.get("watching endpointslices namespace").copied().unwrap_or(0);
        ensure!(watching >= 2, "{watching}");
        Ok(())
    })?;
    let lists = counters(&scene.cluster)?.get("LIST endpointslices namespace").copied().unwrap_or(0);
    assert!(lists <= 2, "{lists} lists");
    assert_eq!(scene.client()?.addresses("cart")?, before);
    assert_eq!(scene.client()?.since(count)?, Vec::<Brought>::new(), "nothing has changed");
    Ok(())
}

/// A Secret that is replaced is sent anew, to whom it is named, without a snapshot.
fn a_secret_is_replaced(scene: &Scene) -> Result<()> {
    let count = scene.client()?.count()?;
    scene.cluster.apply(&pair("cert")?)?;
    scene.cluster.apply(&pair("other")?)?;
    let sent = wait::until("the new certificate", || {
        let sent = scene.client()?.since(count)?;
        ensure!(!sent.is_empty(), "nothing yet");
        Ok(sent)
    })?;
    assert!(sent.iter().all(|(kind, names)| kind == SDS && names.len() == 1), "{sent:?}");
    let names = scene.cluster.with(async |client| {
        let secrets = Api::<Secret>::namespaced(client, "edge").list(&ListParams::default()).await?;
        Ok(secrets.items.into_iter().filter_map(|secret| secret.metadata.name).collect::<BTreeSet<_>>())
    })?;
    assert!(names.contains("other"), "{names:?}");
    Ok(())
}

/// A Service that is gone has no endpoints: its set is sent empty, and its neighbours stay.
fn a_service_vanishes(scene: &Scene) -> Result<()> {
    let cart = scene.client()?.addresses("cart")?;
    scene.cluster.with(async |client| {
        Api::<Service>::namespaced(client.clone(), "bank").delete("pay", &DeleteParams::default()).await?;
        let slices = Api::<EndpointSlice>::namespaced(client, "bank");
        slices.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
        Ok(())
    })?;
    wait::until("no endpoints", || {
        let found = scene.client()?.addresses("pay")?;
        ensure!(found.is_empty(), "{found:?}");
        Ok(())
    })?;
    assert_eq!(scene.client()?.addresses("cart")?, cart);
    Ok(())
}

/// The addresses of a Service's endpoints in a relay's cache.
fn kept(folder: &Path, service: &str) -> Result<BTreeSet<String>> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if let Ok(found) = kept(&path, service) {
                return Ok(found);
            }
        } else if path.ends_with("endpoints") {
            let file: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
            let sets = file["sets"].as_object().context("sets")?;
            let (_, set) = sets.iter().find(|(name, _)| name.contains(service)).context("no such set")?;
            return addresses(&Vec::<u8>::deserialize(set)?);
        }
    }
    bail!("no endpoints in {}", folder.display())
}

/// A relay that starts anew while no API server answers serves the endpoints that it had.
fn a_relay_starts_without_the_api_server(scene: &mut Scene) -> Result<()> {
    let cart = scene.client()?.addresses("cart")?;
    // The disk is written every other second.
    wait::until("the endpoints on disk", || {
        let kept = kept(&scene.stack.cache(), "cart")?;
        ensure!(kept == cart, "{kept:?}, not {cart:?}");
        Ok(())
    })?;
    let nowhere = scene.stack.folder().join("kubeconfig-nowhere");
    let text = std::fs::read_to_string(&scene.kubeconfig)?;
    let server = text.lines().find_map(|line| line.split_once("https://")).context("a server")?.1;
    let server = server.trim_end_matches(['"', ',', ' ']);
    std::fs::write(&nowhere, text.replace(server, "127.0.0.1:1"))?;
    scene.stack.relay_arguments[2] = nowhere.display().to_string();
    scene.relay()?;
    wait::until("the last endpoints", || {
        let found = scene.client()?.addresses("cart")?;
        ensure!(found == cart, "{found:?}");
        Ok(())
    })
}

/// One relay's life on one cluster, act by act: each leaves what the next begins with.
#[test]
fn a_relay_on_a_real_api_server() -> Result<()> {
    let mut scene = Scene::start()?;
    for (service, namespace) in [("cart", "shop"), ("pay", "bank")] {
        scene.until_bound(service, namespace)?;
    }
    wait::until("the secret", || {
        let (secrets, brought) = scene.client()?.look(|seen| (seen.secrets.clone(), seen.brought.clone()))?;
        ensure!(!secrets.is_empty(), "{brought:?}");
        Ok(())
    })?;
    exactly_what_the_manifest_names(&scene)?;
    a_pod_moves(&mut scene)?;
    the_api_server_restarts(&scene)?;
    a_pod_moves(&mut scene)?;
    a_secret_is_replaced(&scene)?;
    a_service_vanishes(&scene)?;
    a_relay_starts_without_the_api_server(&mut scene)
}
