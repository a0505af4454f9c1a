//! What the tests of provisioning have in common: the rights that are shipped, a namespace and a class, and one store a
//! `watch`, which is served.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use moorgate_snapshot::envelope::Envelope;
use moorgate_snapshot::store::Settings;
use moorgate_snapshot::{
    Channel, FleetName, KeyPair, Reader, Signer as _, Store, StoreError, Trust, layout, limits,
};
use moorgate_tests::cluster::{Cluster, OUTSIDE};
use moorgate_tests::process::Running;
use moorgate_tests::program::{binary, root};
use moorgate_tests::wait;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// The audience of the relays' tokens.
pub(crate) const AUDIENCE: &str = "moorgate-store";
const SYSTEM: &str = "moorgate-system";
/// Names of the tests, each with a port for its store.
const TESTS: [(&str, u16); 8] = [
    ("tokens", 9441),
    ("disks", 9442),
    ("ports", 9443),
    ("anew", 9444),
    ("addresses", 9445),
    ("merged", 9446),
    ("relays", 9447),
    ("names", 9448),
];

/// A namespace of this name in the shared cluster, and what lies around it.
pub(crate) struct Bench {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) name: String,
    port: u16,
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
    key: KeyPair,
}

/// A condition by its type; null without it.
pub(crate) fn condition<'v>(place: &'v Value, kind: &str) -> &'v Value {
    let found = place["conditions"].as_array().and_then(|all| all.iter().find(|one| one["type"] == kind));
    found.unwrap_or(&Value::Null)
}

/// The rights that are shipped, with the names of all tests, and a Service for the store of each.
fn shipped() -> Result<String> {
    let mut all = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {SYSTEM}}}\n");
    let names = |end: &str| {
        let names: Vec<String> = TESTS.iter().map(|(name, _)| format!("{name}-store{end}")).collect();
        names.join(", ")
    };
    let leases = TESTS.map(|(name, _)| format!("{name}-watch")).join(", ");
    for file in ["watch.yaml", "watch-provision.yaml", "watch-serve-store.yaml"] {
        let text = std::fs::read_to_string(root().join("deploy/kubernetes").join(file))?;
        let text = text
            .replace("[moorgate-watch]", &format!("[{leases}]"))
            .replace("[moorgate-store]", &format!("[{}]", names("")))
            .replace("[moorgate-store-ipv4, moorgate-store-ipv6]", &format!("[{}]", names("-ipv4")));
        for document in text.split("\n---\n") {
            if document.contains("\nkind: Service\n") {
                for (name, _) in TESTS {
                    let own = document.replace("name: moorgate-store", &format!("name: {name}-store"));
                    all.extend(["\n---\n", &own]);
                }
            } else if !document.contains("kind: Deployment") {
                all.extend(["\n---\n", document]);
            }
        }
    }
    Ok(all)
}

impl Bench {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let cluster = Cluster::shared()?;
        cluster.apply(&shipped()?)?;
        let (_, port) = TESTS.into_iter().find(|(test, _)| *test == name).context("a test of this name")?;
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: {name}}}\nspec: {{controllerName: example.com/{name}}}\n"
        ))?;
        let kubeconfig = cluster.kubeconfig_of(SYSTEM, "moorgate-watch")?;
        let (key, pem) = KeyPair::generate(&[9; 32])?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("key"), &*pem)?;
        std::fs::write(folder.path().join("trust.pem"), key.public().to_pem())?;
        let bench = Self { cluster, name: name.to_owned(), port, folder, kubeconfig, key };
        bench.lose_disk()?;
        Ok(bench)
    }

    /// Takes everything off the disk on which the store lies.
    pub(crate) fn lose_disk(&self) -> Result<()> {
        let store = self.folder.path().join("store");
        let _ = std::fs::remove_dir_all(&store);
        Ok(std::fs::create_dir(&store)?)
    }

    fn store_url(&self) -> String {
        format!("file://{}", self.folder.path().join("store").display())
    }

    /// The URL by which relays reach the store. Pods here know no names of Services.
    fn served_url(&self) -> Result<String> {
        let service = self.read(&format!("/api/v1/namespaces/{SYSTEM}/services/{}-store", self.name))?;
        Ok(format!("https://{}", service["spec"]["clusterIP"].as_str().context("an address")?))
    }

    /// `watch` as it is shipped, outside of a pod.
    pub(crate) fn watch(&self, replica: &str) -> Result<Running> {
        self.watch_with(replica, &[])
    }

    pub(crate) fn watch_with(&self, replica: &str, more: &[&str]) -> Result<Running> {
        let name = &self.name;
        let folder = self.folder.path();
        let mut command = self.cluster.command(&binary("moorgate")?);
        command.args(["watch", "--cluster", "--provision", "--kubeconfig"]).arg(&self.kubeconfig);
        command.args(["--controller-name", &format!("example.com/{name}"), "--identity", replica]);
        command.args(["--lease-namespace", SYSTEM, "--lease-name", &format!("{name}-watch")]);
        command.arg("--key").arg(format!("file:{}", folder.join("key").display()));
        command.arg("--trust").arg(folder.join("trust.pem")).args(["--store", &self.store_url()]);
        command.args([
            "--serve-store",
            &format!("{OUTSIDE}:{}", self.port),
            "--serve-store-endpoint",
            OUTSIDE,
        ]);
        command.args(["--serve-store-service", &format!("{name}-store")]);
        command.args(["--relay-store", &self.served_url()?]).args(more);
        Running::start(replica, &mut command, folder)
    }

    /// A Gateway with listeners on these ports, and a route that has its name.
    pub(crate) fn gateway(&self, gateway: &str, ports: &[u16]) -> String {
        let name = &self.name;
        let listeners: Vec<String> =
            ports.iter().map(|port| format!("{{name: p{port}, port: {port}, protocol: HTTP}}")).collect();
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {gateway}, namespace: {name}}}\n\
             spec: {{gatewayClassName: {name}, listeners: [{}]}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: backend, namespace: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {gateway}, namespace: {name}}}\n\
             spec: {{parentRefs: [{{name: {gateway}}}], rules: [{{backendRefs: [{{name: backend, port: 80}}]}}]}}\n",
            listeners.join(", ")
        )
    }

    pub(crate) fn apply(&self, yaml: &str) -> Result<()> {
        self.cluster.apply(yaml)
    }

    /// The name of what is made for a Gateway.
    pub(crate) fn object_name(&self, gateway: &str) -> String {
        format!("{gateway}-{}", self.name)
    }

    /// A file of this test, and its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    fn path(&self, kind: &str, name: &str) -> String {
        let group = match kind {
            "gateways" | "httproutes" => "/apis/gateway.networking.k8s.io/v1",
            "deployments" => "/apis/apps/v1",
            _ => "/api/v1",
        };
        format!("{group}/namespaces/{}/{kind}/{name}", self.name)
    }

    pub(crate) fn read(&self, path: &str) -> Result<Value> {
        self.cluster.request("GET", path, None)
    }

    pub(crate) fn get(&self, kind: &str, name: &str) -> Result<Value> {
        self.read(&self.path(kind, name))
    }

    pub(crate) fn uid(&self, kind: &str, name: &str) -> Result<String> {
        Ok(self.get(kind, name)?["metadata"]["uid"].as_str().context("a UID")?.to_owned())
    }

    pub(crate) fn patch(&self, kind: &str, name: &str, patch: &Value) -> Result<Value> {
        self.cluster.request("PATCH", &self.path(kind, name), Some(patch))
    }

    pub(crate) fn delete(&self, kind: &str, name: &str) -> Result<()> {
        self.cluster.request("DELETE", &self.path(kind, name), None).map(drop)
    }

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

    /// A Gateway whose newest generation real Envoys have acknowledged.
    pub(crate) fn until_programmed(&self, gateway: &str) -> Result<Value> {
        self.until("gateways", gateway, "Programmed", |gateway| {
            let found = condition(&gateway["status"], "Programmed");
            ensure!(found["status"] == "True", "{gateway}");
            ensure!(found["observedGeneration"] == gateway["metadata"]["generation"], "{gateway}");
            Ok(())
        })
    }

    /// A token of an account, as its pods have one.
    pub(crate) fn token(&self, account: &str, audience: &str) -> Result<String> {
        let path = format!("{}/token", self.path("serviceaccounts", account));
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [audience], "expirationSeconds": 3600},
        });
        let answer = self.cluster.request("POST", &path, Some(&body))?;
        Ok(answer["status"]["token"].as_str().context("a token")?.to_owned())
    }

    /// A token as the API server would sign it, that ends so many seconds from now; or signed by a key of nobody.
    pub(crate) fn forged(&self, account: &str, uid: &str, ends: i64, own: bool) -> Result<String> {
        let name = &self.name;
        let ends = OffsetDateTime::now_utc().unix_timestamp() + ends;
        let claims = json!({
            "iss": "https://kubernetes.default.svc", "aud": [AUDIENCE],
            "iat": ends - 7200, "nbf": ends - 7200, "exp": ends,
            "sub": format!("system:serviceaccount:{name}:{account}"),
            "kubernetes.io": {"namespace": name, "serviceaccount": {"name": account, "uid": uid}},
        });
        let encode = |text: &[u8]| URL_SAFE_NO_PAD.encode(text);
        let message = format!(
            "{}.{}",
            encode(br#"{"alg":"ES256","typ":"JWT"}"#),
            encode(claims.to_string().as_bytes())
        );
        let random = SystemRandom::new();
        let pem = std::fs::read(self.cluster.folder().join("accounts.key"))?;
        let signing = if own {
            PrivatePkcs8KeyDer::from_pem_slice(&pem)?.secret_pkcs8_der().to_vec()
        } else {
            let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
            made.ok().context("a key")?.as_ref().to_vec()
        };
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &signing, &random);
        let pair = pair.ok().context("the key")?;
        let signature = pair.sign(&random, message.as_bytes()).ok().context("a signature")?;
        Ok(format!("{message}.{}", encode(signature.as_ref())))
    }

    /// Does something with the served store, as a relay with this token would.
    fn served<T: Send>(
        &self,
        token: &str,
        work: impl AsyncFnOnce(Store) -> Result<T, StoreError> + Send,
    ) -> Result<Result<T, StoreError>> {
        let secret = self.read(&format!("/api/v1/namespaces/{SYSTEM}/secrets/{}-store", self.name))?;
        let ca = secret["data"]["ca.crt"].as_str().context("the CA")?;
        let (folder, url) = (tempfile::tempdir()?, self.served_url()?);
        let [token_file, ca_file] = ["token", "ca.crt"].map(|name| folder.path().join(name));
        std::fs::write(&token_file, token)?;
        std::fs::write(&ca_file, base64::engine::general_purpose::STANDARD.decode(ca)?)?;
        let settings = Settings::default().with_front(Some(&token_file), Some(&ca_file));
        let store = Store::open_with(&url, &settings)?;
        self.cluster.enter(|| block(async { Ok(work(store).await) }))
    }

    pub(crate) fn may_read(&self, token: &str, fleet: &str, name: &str) -> Result<bool> {
        let fleet = FleetName::gateway(&self.name, fleet);
        let name = name.to_owned();
        let read = async move |store: Store| store.fleet(&fleet).get(&name, limits::HEAD_BYTES).await;
        match self.served(token, read)? {
            Ok(Some(_)) => Ok(true),
            Ok(None) | Err(StoreError::Denied { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn may_write(&self, token: &str, fleet: &str, name: &str) -> Result<bool> {
        let fleet = FleetName::gateway(&self.name, fleet);
        let name = name.to_owned();
        let write =
            async move |store: Store| store.fleet(&fleet).overwrite(&name, Bytes::from_static(b"{}")).await;
        match self.served(token, write)? {
            Ok(()) => Ok(true),
            Err(StoreError::Denied { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn reader(&self, fleet: &FleetName) -> Result<Reader> {
        let trust = Arc::new(Trust::of([self.key.public().clone()]));
        Ok(Reader::new(Store::open(&self.store_url())?.fleet(fleet), trust, Channel::stable()))
    }

    /// Sequence and snapshot of what is published, on the disk where the store lies.
    pub(crate) fn published(&self, gateway: &str) -> Result<(u64, String)> {
        self.published_of(&FleetName::gateway(&self.name, gateway))
    }

    pub(crate) fn published_of(&self, fleet: &FleetName) -> Result<(u64, String)> {
        let reader = self.reader(fleet)?;
        let tail = block(async { Ok(reader.newest(None).await?) })?;
        let entry = tail.entry.context("nothing is published")?.entry;
        let serving = entry.state.serving().context("nothing is served")?;
        Ok((entry.sequence, serving.snapshot.to_string()))
    }

    /// Whether a snapshot lies there, whole.
    pub(crate) fn has_snapshot(&self, gateway: &str, snapshot: &str) -> Result<bool> {
        let reader = self.reader(&FleetName::gateway(&self.name, gateway))?;
        block(async {
            let tail = reader.newest(None).await?;
            let entry = tail.entry.context("nothing is published")?.entry;
            let release = entry.state.serving().context("nothing is served")?;
            Ok(release.snapshot.to_string() == snapshot && reader.fetch(release, &|_| None).await.is_ok())
        })
    }

    /// Sequence and snapshot that a relay reports as acknowledged, once that is what is published, at this place or later.
    pub(crate) fn until_reported(&self, gateway: &str, sequence: u64) -> Result<(u64, String)> {
        let reader = self.reader(&FleetName::gateway(&self.name, gateway))?;
        wait::until("a report", || {
            let store = reader.store();
            let reports = block(async {
                let mut reports = Vec::new();
                for name in store.list(layout::REPORTS, 100).await? {
                    reports.extend(store.get(&format!("status/{name}"), limits::REPORT_BYTES).await?);
                }
                Ok(reports)
            })?;
            let (_, wanted) = self.published(gateway)?;
            let mut seen = Vec::new();
            for report in reports {
                let Ok(envelope) = Envelope::decode(&report, limits::REPORT_BYTES) else { continue };
                let report: Value = serde_json::from_slice(&envelope.payload)?;
                let acked = report["envoys_connected"].as_u64().unwrap_or(0) > 0
                    && report["envoys_acked"] == report["envoys_connected"];
                if let (Some(found), Some(snapshot), true) = (
                    report["sequence"].as_u64().filter(|found| *found >= sequence),
                    report["snapshot"].as_str().filter(|found| *found == wanted),
                    acked,
                ) {
                    return Ok((found, snapshot.to_owned()));
                }
                seen.push(report);
            }
            anyhow::bail!("{seen:?}")
        })
    }

    fn pods(&self, gateway: &str) -> Result<Vec<Value>> {
        let path = format!(
            "/api/v1/namespaces/{}/pods?labelSelector=gateway.networking.k8s.io/gateway-name={gateway}",
            self.name
        );
        Ok(self.read(&path)?["items"].as_array().context("pods")?.clone())
    }

    pub(crate) fn delete_pods(&self, gateway: &str) -> Result<()> {
        for pod in self.pods(gateway)? {
            self.delete("pods", pod["metadata"]["name"].as_str().context("a name")?)?;
        }
        Ok(())
    }

    /// The address of a Gateway's pod.
    pub(crate) fn pod_address(&self, gateway: &str) -> Result<String> {
        let pods = self.pods(gateway)?;
        let pod = pods.first().context("a pod")?;
        Ok(pod["status"]["podIP"].as_str().context("an address")?.to_owned())
    }

    pub(crate) fn service_ports(&self, gateway: &str) -> Result<Vec<u64>> {
        let service = self.get("services", &self.object_name(gateway))?;
        let ports = service["spec"]["ports"].as_array().context("ports")?;
        Ok(ports.iter().filter_map(|port| port["port"].as_u64()).collect())
    }

    /// Whether somebody listens.
    pub(crate) fn connect(&self, address: &str, port: u16) -> Result<()> {
        let at = SocketAddr::new(address.parse()?, port);
        self.cluster.enter(|| Ok(TcpStream::connect_timeout(&at, Duration::from_secs(5)).map(drop)?))
    }
}

fn block<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
