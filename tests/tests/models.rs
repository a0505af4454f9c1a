//! Deployment models on a real API server, from what `moorgate render` prints: what is published is answered, and what is
//! replaced loses no request.

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moorgate_snapshot::{KeyPair, Signer as _};
use moorgate_tests::certificate::Certificate;
use moorgate_tests::cluster::Cluster;
use moorgate_tests::program::{moorgate, run};
use moorgate_tests::wait;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The namespace of relays.
const RELAYS: &str = "pool-relays";
/// The namespace of Gateways and backends.
const GATEWAYS: &str = "pool-gateways";
/// The issuer of the test cluster's tokens.
const ISSUER: &str = "https://kubernetes.default.svc";

/// Two Gateways of a class, each with a route, and two backends.
fn source(backend: &str) -> String {
    let class = "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: pool}
spec: {controllerName: example.com/pool}
";
    let gateways = ["one", "two"].map(|gateway| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {gateway}, namespace: {GATEWAYS}}}
spec: {{gatewayClassName: pool, listeners: [{{name: http, port: 80, protocol: HTTP}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {gateway}, namespace: {GATEWAYS}}}
spec: {{parentRefs: [{{name: {gateway}}}], rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]}}
"
        )
    });
    let services = ["blue", "green"].map(|name| {
        format!(
            "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {GATEWAYS}}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: 3000}}]}}
"
        )
    });
    [class.to_owned()].into_iter().chain(gateways).chain(services).collect::<Vec<_>>().join("---\n")
}

fn backends() -> String {
    let of = |name: &str| {
        format!(
            "---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {GATEWAYS}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
      - name: echo
        image: registry.k8s.io/gateway-api/conformance/echo-basic:v1.7.0
        env:
        - {{name: POD_NAME, value: {name}}}
        - {{name: NAMESPACE, value: {GATEWAYS}}}
        readinessProbe: {{httpGet: {{path: /health, port: 3000}}, periodSeconds: 1}}
"
        )
    };
    of("blue") + &of("green")
}

/// What an operator has: a cluster, a store, a key and sources.
struct Bench {
    cluster: Arc<Cluster>,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("moorgate-").tempdir()?;
        // Pods read the store with a user of their own.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let bench = Self { cluster: Cluster::shared()?, folder };
        let (pair, pem) = KeyPair::generate(&[5; 32])?;
        std::fs::write(bench.path("key"), &*pem)?;
        std::fs::write(bench.path("trust.pem"), pair.public().to_pem())?;
        std::fs::create_dir(bench.path("store"))?;
        for namespace in [RELAYS, GATEWAYS] {
            bench
                .cluster
                .apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n"))?;
        }
        Ok(bench)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = moorgate()?;
        command.args(words).args(["--store", &format!("file://{}", self.path("store"))]);
        command.args(["--trust", &self.path("trust.pem")]);
        Ok(command)
    }

    /// Publishes all fleets of this source.
    fn publish(&self, source: &str) -> Result<()> {
        std::fs::write(self.path("source.yaml"), source)?;
        let (source, key) = (self.path("source.yaml"), format!("file:{}", self.path("key")));
        let words = ["publish", &source, "--controller-name", "example.com/pool", "--key", &key];
        run(&mut self.command(&words)?)?.ended_with(&[0])?;
        Ok(())
    }

    /// The manifests of the model `pool`.
    fn render(&self) -> Result<String> {
        let (source, ca) = (self.path("source.yaml"), self.path("ca.crt"));
        let words = ["render", &source, "--controller-name", "example.com/pool", "--store-volume", "host"];
        let mut command = self.command(&words)?;
        command.args(["--model", "pool", "--pool-namespace", RELAYS, "--pool-tls", "relays-tls"]);
        command.args(["--pool-ca", &ca, "--token-issuer", ISSUER]);
        Ok(run(&mut command)?.ended_with(&[0])?.stdout)
    }

    /// Renders, and gives the relays a certificate for the name of their Service.
    fn deploy(&self) -> Result<String> {
        std::fs::write(self.path("ca.crt"), Certificate::signed("nobody")?.0.certificate)?;
        let pool = pool(&self.render()?)?;
        let (authority, own) = Certificate::signed(&format!("{pool}.{RELAYS}.svc"))?;
        std::fs::write(self.path("ca.crt"), &authority.certificate)?;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "relays-tls", "namespace": RELAYS},
            "data": {"tls.crt": STANDARD.encode(own.certificate), "tls.key": STANDARD.encode(own.key)},
        });
        self.cluster.apply(&secret.to_string())?;
        self.cluster.apply(&self.render()?)?;
        Ok(pool)
    }

    /// The address of a Gateway's Service.
    fn address(&self, gateway: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{GATEWAYS}/services/{gateway}-pool");
        wait::until("an address", || {
            let service = self.cluster.request("GET", &path, None)?;
            let address = &service["status"]["loadBalancer"]["ingress"][0]["ip"];
            Ok(address.as_str().with_context(|| service.to_string())?.to_owned())
        })
    }

    fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Value>> {
        let path = format!("/api/v1/namespaces/{namespace}/pods?labelSelector={selector}");
        Ok(self.cluster.request("GET", &path, None)?["items"].as_array().context("pods")?.clone())
    }

    /// Waits until so many relays are ready, and there are no others.
    fn until_relays(&self, count: usize) -> Result<Vec<String>> {
        wait::until("relays", || {
            let pods = self.pods(RELAYS, "app.kubernetes.io/component=relay")?;
            let ready = pods.iter().filter(|pod| {
                let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
                conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
            });
            let names = ready.filter_map(|pod| Some(pod["metadata"]["name"].as_str()?.to_owned()));
            let names: Vec<String> = names.collect();
            ensure!(names.len() == count && pods.len() == count, "{} of {} ready", names.len(), pods.len());
            Ok(names)
        })
    }
}

/// The name of the relays' Service in what was rendered.
fn pool(manifests: &str) -> Result<String> {
    for document in manifests.split("---\n") {
        if document.contains("\nkind: Service\n") && document.contains("port: 18000") {
            let name = document.lines().find_map(|line| line.strip_prefix("  name: "));
            return Ok(name.context("a name")?.to_owned());
        }
    }
    bail!("no Service of relays")
}

/// Who answers one request, on a connection of its own.
fn ask(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&format!("{address}:80").parse()?, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: any.example\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{}", answer.lines().next().unwrap_or("nothing"));
    for backend in ["blue", "green"] {
        if answer.contains(&format!("\"pod\": \"{backend}\"")) {
            return Ok(backend.to_owned());
        }
    }
    bail!("{answer}")
}

#[test]
fn relays_of_a_class_serve_its_envoys_and_are_replaced_without_a_loss() -> Result<()> {
    let bench = Bench::new()?;
    bench.publish(&source("blue"))?;
    bench.cluster.apply(&source("blue"))?;
    bench.cluster.apply(&backends())?;
    let pool = bench.deploy()?;
    let cluster = &bench.cluster;
    let addresses = [bench.address("one")?, bench.address("two")?];
    let until = |backend: &str| {
        cluster.enter(|| {
            for address in &addresses {
                wait::until("an answer", || {
                    let who = ask(address)?;
                    ensure!(who == backend, "{who}");
                    Ok(())
                })?;
            }
            Ok(())
        })
    };
    until("blue")?;
    let first = bench.until_relays(2)?;
    // Nobody but the relays reads anything: the accounts of Envoys have no rights, and no token for the API server.
    for gateway in ["one", "two"] {
        let account = format!("system:serviceaccount:{GATEWAYS}:{gateway}-pool");
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
            "user": account, "resourceAttributes": {
                "namespace": GATEWAYS, "verb": "list", "group": "discovery.k8s.io", "resource": "endpointslices",
            },
        }});
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        assert_ne!(cluster.request("POST", path, Some(&review))?["status"]["allowed"], true, "{account}");
    }
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            cluster.enter(|| {
                let mut lost = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    for address in &addresses {
                        lost.extend(ask(address).err().map(|error| format!("{error:#}")));
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                Ok(lost)
            })
        });
        let changes = || -> Result<()> {
            // A release reaches all Envoys of the class.
            bench.publish(&source("green"))?;
            until("green")?;
            // A relay that is gone at once, and relays of another version: Envoys serve on, and follow the new ones.
            let path = format!("/api/v1/namespaces/{RELAYS}/pods/{}", first.first().context("a relay")?);
            cluster.request("DELETE", &path, Some(&json!({"gracePeriodSeconds": 0})))?;
            let path = format!("/apis/apps/v1/namespaces/{RELAYS}/deployments/{pool}");
            let newer =
                json!({"spec": {"template": {"metadata": {"annotations": {"example.com/version": "2"}}}}});
            cluster.request("PATCH", &path, Some(&newer))?;
            wait::until("new relays", || {
                let names = bench.until_relays(2)?;
                ensure!(names.iter().all(|name| !first.contains(name)), "{names:?}");
                Ok(())
            })?;
            bench.publish(&source("blue"))?;
            until("blue")
        };
        let changed = changes();
        stop.store(true, Ordering::Relaxed);
        let lost = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
        changed?;
        let asked = asked.load(Ordering::Relaxed);
        ensure!(asked > 100, "only {asked} requests were sent");
        ensure!(lost.is_empty(), "{} of {asked} requests were lost: {:?}", lost.len(), lost.first());
        Ok(())
    })
}
