//! What the tests of `watch` have in common: a namespace, a class, a store, and a line to the API server that can be cut.

use anyhow::{Context as _, Result, bail, ensure};
use moorgate_snapshot::{
    Channel, Digest, FleetName, KeyPair, Reader, Report, Signer as _, Store, Trust, layout, report,
};
use moorgate_tests::cluster::{Cluster, Options};
use moorgate_tests::process::Running;
use moorgate_tests::program::{Outcome, binary, root, run};
use moorgate_tests::wait;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use time::OffsetDateTime;

/// Where the tests' objects, store and keys are.
pub(crate) struct Bench {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) name: String,
    pub(crate) controller: String,
    /// Publishes, and signs reports that are believed.
    pub(crate) key: KeyPair,
    /// Signs reports that are not.
    pub(crate) stranger: KeyPair,
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
}

/// A condition by its type; null without it.
pub(crate) fn condition<'v>(place: &'v Value, kind: &str) -> &'v Value {
    let found = place["conditions"].as_array().and_then(|all| all.iter().find(|one| one["type"] == kind));
    found.unwrap_or(&Value::Null)
}

/// Status and reason of `Programmed`.
pub(crate) fn programmed(place: &Value) -> (&str, &str) {
    let found = condition(place, "Programmed");
    (found["status"].as_str().unwrap_or_default(), found["reason"].as_str().unwrap_or_default())
}

/// All conditions of ours are about the newest generation.
pub(crate) fn ready(gateway: &Value) -> Result<()> {
    let generation = &gateway["metadata"]["generation"];
    let status = &gateway["status"];
    let listeners = status["listeners"].as_array().context("listeners")?;
    ensure!(listeners.len() == gateway["spec"]["listeners"].as_array().map_or(0, Vec::len), "{gateway}");
    for place in listeners.iter().chain([status]) {
        for kind in ["Accepted", "Programmed"] {
            ensure!(condition(place, kind)["observedGeneration"] == *generation, "{kind}: {gateway}");
        }
    }
    Ok(())
}

impl Bench {
    /// A namespace and a class of this name in the shared cluster, and what `watch` may do there: the shipped rights.
    pub(crate) fn new(name: &str) -> Result<Self> {
        Self::on(Cluster::shared()?, name)
    }

    /// The same in a cluster of its own, so that nobody else minds what becomes of it.
    pub(crate) fn alone(name: &str) -> Result<Self> {
        Self::on(Arc::new(Cluster::start(&Options { nodes: 1, ..Options::default() })?), name)
    }

    fn on(cluster: Arc<Cluster>, name: &str) -> Result<Self> {
        let shipped = std::fs::read_to_string(root().join("deploy/kubernetes/watch.yaml"))?;
        let rights: Vec<&str> =
            shipped.split("\n---\n").filter(|part| !part.contains("kind: Deployment")).collect();
        // Each test has a Lease of its own; the name in the role is that of all.
        let rights =
            rights.join("\n---\n").replace("[moorgate-watch]", &format!("[{}]", leases().join(", ")));
        // Each test is an account of its own, so that the API server's log tells them apart.
        let rights = rights.replace("name: moorgate-watch", &format!("name: {name}"));
        cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: moorgate-system}\n")?;
        cluster.apply(&rights)?;
        let kubeconfig = cluster.kubeconfig_of("moorgate-system", name)?;
        let (key, pem) = KeyPair::generate(&[7; 32])?;
        let (stranger, _) = KeyPair::generate(&[8; 32])?;
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("store"))?;
        std::fs::write(folder.path().join("key"), &*pem)?;
        std::fs::write(folder.path().join("trust.pem"), key.public().to_pem())?;
        let controller = format!("example.com/{name}");
        let bench = Self { cluster, name: name.to_owned(), controller, key, stranger, folder, kubeconfig };
        bench.cluster.apply(&bench.class())?;
        Ok(bench)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn class(&self) -> String {
        let Self { name, controller, .. } = self;
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: {name}}}\nspec: {{controllerName: {controller}}}\n"
        )
    }

    /// A Gateway with one listener, and a route to a Service; with the class, so that it stands for itself.
    pub(crate) fn gateway_and_route(&self) -> String {
        let name = &self.name;
        self.class()
            + &format!(
                "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: {name}}}
spec: {{gatewayClassName: {name}, listeners: [{{name: http, port: 80, protocol: HTTP}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: cart, namespace: {name}}}
spec: {{ports: [{{name: http, port: 80, targetPort: 8080}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: cart, namespace: {name}}}
spec: {{parentRefs: [{{name: edge}}], rules: [{{backendRefs: [{{name: cart, port: 80}}]}}]}}
"
            )
    }

    /// Another route to the same Service.
    pub(crate) fn route(&self, name: &str, hostname: &str) -> String {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {0}}}
spec: {{parentRefs: [{{name: edge}}], hostnames: [{hostname}], rules: [{{backendRefs: [{{name: cart, port: 80}}]}}]}}
",
            self.name
        )
    }

    /// A Gateway for a TCPRoute, and a Service.
    pub(crate) fn tcp_gateway(&self) -> String {
        let name = &self.name;
        format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: {name}}}
spec: {{gatewayClassName: {name}, listeners: [{{name: tcp, port: 9000, protocol: TCP}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: cart, namespace: {name}}}
spec: {{ports: [{{name: tcp, port: 80}}]}}
"
        )
    }

    /// That TCPRoute, in a version that is served.
    pub(crate) fn tcp_route(&self, version: &str) -> String {
        format!(
            "apiVersion: gateway.networking.k8s.io/{version}
kind: TCPRoute
metadata: {{name: cart, namespace: {0}}}
spec: {{parentRefs: [{{name: edge}}], rules: [{{backendRefs: [{{name: cart, port: 80}}]}}]}}
",
            self.name
        )
    }

    /// One object of every other kind that gets a status, and a CA bundle.
    pub(crate) fn one_of_each(&self) -> String {
        include_str!("each.yaml").replace("NAME", &self.name)
    }

    /// A Gateway with a certificate that is not there yet.
    pub(crate) fn tls_gateway(&self) -> String {
        let name = &self.name;
        format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: {name}}}
spec:
  gatewayClassName: {name}
  listeners:
  - {{name: https, port: 443, protocol: HTTPS, hostname: a.example, tls: {{certificateRefs: [{{name: cert}}]}}}}
"
        )
    }

    /// That certificate.
    pub(crate) fn make_certificate(&self) -> Result<()> {
        let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()])?;
        let indent = |pem: String| pem.lines().flat_map(|line| ["    ", line, "\n"]).collect::<String>();
        let (cert, key) = (indent(made.cert.pem()), indent(made.signing_key.serialize_pem()));
        self.cluster.apply(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: cert, namespace: {}}}\ntype: kubernetes.io/tls\nstringData:\n  \
             tls.crt: |\n{cert}  tls.key: |\n{key}",
            self.name
        ))
    }

    /// `moorgate` outside of the cluster.
    pub(crate) fn moorgate(&self, args: &[&str]) -> Result<Outcome> {
        let mut command = Command::new(binary("moorgate")?);
        run(command.args(args).args(["--controller-name", &self.controller]))
    }

    /// Publishes a source as CI would.
    pub(crate) fn publish(&self, source: &Path) -> Result<Outcome> {
        let mut command = Command::new(binary("moorgate")?);
        command.arg("publish").arg(source).args(["--controller-name", &self.controller]);
        command.arg("--key").arg(format!("file:{}", self.folder().join("key").display()));
        run(command.args(["--allow-dirty", "--store", &self.store_url()]))?.ended_with(&[0])
    }

    /// `moorgate … --cluster` with the rights of `watch`.
    pub(crate) fn moorgate_on_cluster(&self, args: &[&str]) -> Result<Outcome> {
        let mut command = self.cluster.command(&binary("moorgate")?);
        command.args(args).args(["--cluster", "--kubeconfig"]).arg(&self.kubeconfig);
        run(command.args(["--controller-name", &self.controller]))
    }

    /// `moorgate watch`, with a Lease of this test.
    pub(crate) fn watch(&self, replica: &str, more: &[&str]) -> Result<Running> {
        self.watch_with(&self.kubeconfig, replica, more)
    }

    /// The same over a line that can be cut.
    pub(crate) fn watch_over(&self, line: &Line, replica: &str, more: &[&str]) -> Result<Running> {
        let text = std::fs::read_to_string(&self.kubeconfig)?;
        let through = format!("https://{}", line.address);
        let kubeconfig = self.folder().join("kubeconfig-line");
        std::fs::write(&kubeconfig, text.replace(&format!("https://{}", server(&text)?), &through))?;
        self.watch_with(&kubeconfig, replica, more)
    }

    fn watch_with(&self, kubeconfig: &Path, replica: &str, more: &[&str]) -> Result<Running> {
        let mut command = self.cluster.command(&binary("moorgate")?);
        command.args(["watch", "--cluster", "--kubeconfig"]).arg(kubeconfig);
        command.args(["--controller-name", &self.controller, "--identity", replica]);
        command.args(["--lease-namespace", "moorgate-system", "--lease-name", &self.name]);
        command.arg("--key").arg(format!("file:{}", self.folder().join("key").display()));
        command.arg("--trust").arg(self.folder().join("trust.pem"));
        command.arg("--store").arg(self.store_url()).args(more);
        Running::start(replica, &mut command, self.folder())
    }

    fn store_url(&self) -> String {
        format!("file://{}", self.folder().join("store").display())
    }

    fn reader(&self) -> Result<Reader> {
        let fleet = FleetName::gateway(&self.name, "edge");
        let trust = Arc::new(Trust::of([self.key.public().clone()]));
        Ok(Reader::new(Store::open(&self.store_url())?.fleet(&fleet), trust, Channel::stable()))
    }

    fn block<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
    }

    fn serving(&self) -> Result<(Digest, u64)> {
        let tail = Self::block(async { Ok(self.reader()?.newest(None).await?) })?;
        let entry = tail.entry.context("nothing is published")?.entry;
        Ok((entry.state.serving().context("nothing is served")?.snapshot, entry.sequence))
    }

    /// The snapshot that is published, once there is one.
    pub(crate) fn published(&self) -> Result<Digest> {
        wait::until("a release", || Ok(self.serving()?.0))
    }

    /// The next one.
    pub(crate) fn published_after(&self, before: &Digest) -> Result<Digest> {
        wait::until("the next release", || {
            let (snapshot, _) = self.serving()?;
            ensure!(snapshot != *before, "still {before}");
            Ok(snapshot)
        })
    }

    /// What was done in the fleet's channel, oldest first.
    pub(crate) fn entries(&self) -> Result<Vec<String>> {
        Self::block(async {
            let reader = self.reader()?;
            let newest = reader.newest(None).await?.entry.map_or(0, |entry| entry.entry.sequence);
            let mut found = Vec::new();
            for sequence in 1..=newest {
                match reader.slot(sequence).await? {
                    moorgate_snapshot::reader::Slot::Entry(entry) => {
                        found.push(entry.entry.action.as_str().to_owned());
                    }
                    other => bail!("slot {sequence}: {other:?}"),
                }
            }
            Ok(found)
        })
    }

    /// Says as a relay that its one Envoy has acknowledged a snapshot.
    pub(crate) fn report(&self, snapshot: &Digest, key: &KeyPair) -> Result<()> {
        let (_, sequence) = self.serving()?;
        let now = OffsetDateTime::now_utc();
        let report = Report {
            format: report::FORMAT,
            fleet: FleetName::gateway(&self.name, "edge"),
            channel: Channel::stable(),
            relay: "relay-1".parse()?,
            labels: BTreeMap::new(),
            time: now.replace_nanosecond(0)?,
            interval_seconds: 300,
            version: "0.1.0".to_owned(),
            features: report::understood(),
            sequence,
            entry: None,
            snapshot: Some(*snapshot),
            because: "target".to_owned(),
            since: None,
            retired: false,
            left: false,
            refused: BTreeMap::new(),
            envoys_connected: 1,
            envoys_acked: 1,
            envoys: Vec::new(),
            healthy: None,
            secrets: Vec::new(),
            store_error: String::new(),
        };
        let name = layout::report(&report.relay);
        let bytes = report.sign(key)?.encode();
        Self::block(async { Ok(self.reader()?.store().overwrite(&name, bytes.into()).await?) })
    }

    /// What was asked of the API server with the rights of `watch`: its log.
    pub(crate) fn asked(&self) -> Result<Vec<Asked>> {
        let text = std::fs::read_to_string(self.cluster.folder().join("logs/audit.log"))?;
        let user = format!("system:serviceaccount:moorgate-system:{}", self.name);
        let mut asked = Vec::new();
        for line in text.lines().filter(|line| line.contains(&user)) {
            // The last line may be half there.
            let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
            if event["user"]["username"] == *user {
                asked.push(Asked::of(&event));
            }
        }
        Ok(asked)
    }

    /// An answer of the health address of a `watch` that was given `--health 127.0.0.1:0`: status and body.
    pub(crate) fn health(&self, watch: &Running, path: &str) -> Result<(u16, String)> {
        let output = watch.output();
        let (_, rest) = output.split_once("probes and metrics").context("no health address yet")?;
        let (_, rest) = rest.split_once("127.0.0.1:").context("no address")?;
        let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let request = format!("GET {path} HTTP/1.1\r\nHost: watch\r\nConnection: close\r\n\r\n");
        self.cluster.enter(move || {
            let mut stream = TcpStream::connect(format!("127.0.0.1:{port}"))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            let status = answer.split(' ').nth(1).context("a status")?.parse()?;
            Ok((status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
        })
    }

    /// The value of a series in the metrics; none if it is not there.
    pub(crate) fn metric(&self, watch: &Running, series: &str) -> Result<Option<f64>> {
        let (_, text) = self.health(watch, "/metrics")?;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map(|value| Ok(value.parse()?)).transpose()
    }

    fn path(&self, kind: &str, name: &str) -> String {
        if let Some((version, plural)) = kind.split_once('/') {
            let group = format!("/apis/gateway.networking.k8s.io/{version}");
            return format!("{group}/namespaces/{}/{plural}/{name}", self.name);
        }
        let group = if kind == "services" { "/api/v1" } else { "/apis/gateway.networking.k8s.io/v1" };
        format!("{group}/namespaces/{}/{kind}/{name}", self.name)
    }

    /// Whatever is at a path of the API.
    pub(crate) fn read(&self, path: &str) -> Result<Value> {
        self.cluster.request("GET", path, None)
    }

    pub(crate) fn get(&self, kind: &str, name: &str) -> Result<Value> {
        self.read(&self.path(kind, name))
    }

    pub(crate) fn patch(&self, kind: &str, name: &str, patch: &Value) -> Result<Value> {
        self.cluster.request("PATCH", &self.path(kind, name), Some(patch))
    }

    pub(crate) fn delete(&self, kind: &str, name: &str) -> Result<()> {
        self.cluster.request("DELETE", &self.path(kind, name), None).map(drop)
    }

    /// Writes status as another controller would: what was read, changed, with its resource version.
    pub(crate) fn write_status(&self, kind: &str, name: &str, change: impl Fn(&mut Value)) -> Result<()> {
        let path = self.path(kind, name);
        wait::until("a write of status", || {
            let mut object = self.read(&path)?;
            change(&mut object["status"]);
            self.cluster.request("PUT", &format!("{path}/status"), Some(&object))
        })?;
        Ok(())
    }

    /// An object, once it is as it should be.
    pub(crate) fn until(
        &self,
        kind: &str,
        name: &str,
        what: &str,
        is: impl Fn(&Value) -> Result<()>,
    ) -> Result<Value> {
        wait::until(what, || {
            let object = self.get(kind, name)?;
            is(&object)?;
            Ok(object)
        })
    }

    pub(crate) fn until_gateway(&self, what: &str, is: impl Fn(&Value) -> Result<()>) -> Result<Value> {
        self.until("gateways", "edge", what, is)
    }

    /// Waits until the class is accepted at its newest generation; changes it first, so that this takes a whole turn.
    pub(crate) fn class_is_judged(&self) -> Result<()> {
        let path = format!("/apis/gateway.networking.k8s.io/v1/gatewayclasses/{}", self.name);
        self.cluster.request("PATCH", &path, Some(&json!({"spec": {"description": "judge again"}})))?;
        wait::until("the class", || {
            let class = self.read(&path)?;
            let accepted = condition(&class["status"], "Accepted");
            ensure!(accepted["status"] == "True", "{class}");
            ensure!(accepted["observedGeneration"] == class["metadata"]["generation"], "{class}");
            Ok(())
        })
    }

    /// A request with the rights of `watch`.
    pub(crate) fn as_watch(&self, path: &str) -> Result<Value> {
        let request = http::Request::get(path).body(Vec::new())?;
        let kubeconfig = self.kubeconfig.clone();
        self.cluster.enter(move || {
            Self::block(async move {
                let client = moorgate_tests::cluster::inside::client(&kubeconfig).await?;
                Ok(client.request::<Value>(request).await?)
            })
        })
    }

    /// A line to the API server that can be cut.
    pub(crate) fn line(&self) -> Result<Line> {
        let upstream = server(&std::fs::read_to_string(&self.kubeconfig)?)?;
        let state = Arc::new(Wire::default());
        let shared = state.clone();
        let address = self.cluster.enter(move || {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let address = listener.local_addr()?;
            // A thread of this one is in the same network.
            std::thread::spawn(move || {
                for client in listener.incoming().map_while(Result::ok) {
                    shared.carry(client, &upstream);
                }
            });
            Ok(address)
        })?;
        Ok(Line { address, state })
    }
}

/// Names of the tests' Leases.
fn leases() -> [&'static str; 19] {
    [
        "moorgate-watch",
        "offline",
        "changes",
        "merged",
        "acked",
        "elsewhere",
        "replicas",
        "secrets",
        "broken",
        "classes",
        "restarted",
        "definitions",
        "fought",
        "rights",
        "seen",
        "held",
        "once",
        "spoken",
        "ancestors",
    ]
}

/// One request in the API server's log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asked {
    pub(crate) verb: String,
    pub(crate) group: String,
    /// With its subresource: `gateways/status`.
    pub(crate) resource: String,
    pub(crate) name: String,
    /// The HTTP status.
    pub(crate) code: u64,
}

impl Asked {
    fn of(event: &Value) -> Self {
        let object = &event["objectRef"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let sub = object["subresource"].as_str().map(|sub| format!("/{sub}")).unwrap_or_default();
        Self {
            verb: text(&event["verb"]),
            group: text(&object["apiGroup"]),
            resource: text(&object["resource"]) + &sub,
            name: text(&object["name"]),
            code: event["responseStatus"]["code"].as_u64().unwrap_or_default(),
        }
    }
}

/// The address of the server that a kubeconfig names.
fn server(kubeconfig: &str) -> Result<String> {
    let (_, rest) = kubeconfig.split_once("https://").context("no server")?;
    Ok(rest.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect())
}

/// A line to the API server.
pub(crate) struct Line {
    pub(crate) address: SocketAddr,
    state: Arc<Wire>,
}

#[derive(Default)]
struct Wire {
    cut: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Wire {
    fn carry(&self, client: TcpStream, upstream: &str) {
        if self.cut.load(Ordering::SeqCst) {
            return;
        }
        let Ok(server) = TcpStream::connect(upstream) else { return };
        let copies = [(&client, &server), (&server, &client)]
            .map(|(a, b)| Some((a.try_clone().ok()?, b.try_clone().ok()?)));
        for (mut from, mut to) in copies.into_iter().flatten() {
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = from.read(&mut buffer) {
                    if to.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(Shutdown::Both);
            });
        }
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).extend([client, server]);
    }
}

impl Line {
    /// Breaks all connections, and makes no new ones.
    pub(crate) fn cut(&self) {
        self.state.cut.store(true, Ordering::SeqCst);
        let mut streams = self.state.streams.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn mend(&self) {
        self.state.cut.store(false, Ordering::SeqCst);
    }
}
