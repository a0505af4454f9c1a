//! What an operator has: a cluster, a store with a mirror, keys, a repository, and what was rendered of it.

use super::load::{self, Lane};
use super::program::Program;
use super::source::{CONTROLLER, FIRST, RELAYS, SECOND, Source, Tenant, backends, namespaces};
use super::tap::Tap;
use super::{Model, Through, wrap};
use crate::certificate::{Authority, Certificate};
use crate::cluster::{Cluster, OUTSIDE, definitions};
use crate::http::Target;
use crate::program::{binary, moorgate, run};
use crate::storage::moto::{self, Moto};
use crate::wait;
use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::api::DynamicObject;
use moorgate_snapshot::{KeyPair, Signer as _};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tempfile::TempDir;

/// The port at which pods reach the store.
const STORE_PORT: u16 = 9000;
/// The port at which relays show their metrics.
const HEALTH_PORT: u16 = 19_001;
/// The tags of relays: in the beginning, and upgraded.
const FIRST_TAG: &str = "first";
const NEXT_TAG: &str = "next";
/// The issuer of the test cluster's tokens.
const ISSUER: &str = "https://kubernetes.default.svc";

/// The label that says who applies an object, and so who removes it.
pub(super) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The kinds that are rendered: where they are, their plural and their name.
pub(super) const KINDS: [(&str, &str, &str); 9] = [
    ("/apis/apps/v1", "deployments", "Deployment"),
    ("/apis/apps/v1", "daemonsets", "DaemonSet"),
    ("/api/v1", "services", "Service"),
    ("/api/v1", "configmaps", "ConfigMap"),
    ("/api/v1", "serviceaccounts", "ServiceAccount"),
    ("/apis/rbac.authorization.k8s.io/v1", "roles", "Role"),
    ("/apis/rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding"),
    ("/apis/networking.k8s.io/v1", "networkpolicies", "NetworkPolicy"),
    ("/apis/policy/v1", "poddisruptionbudgets", "PodDisruptionBudget"),
];

/// What is rendered, besides the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The model.
    pub model: Model,
    /// How it comes to the API server.
    pub through: Through,
    /// Envoy's version.
    pub envoy: String,
    /// Relays are those of [`Stage::next`].
    pub upgraded: bool,
}

/// The stage of one model after the other.
pub struct Stage {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// Between pods and the store.
    pub tap: Tap,
    /// What relays are in the beginning.
    pub first: Program,
    /// What they are upgraded to.
    pub next: Program,
    /// Of all certificates of Gateways.
    authority: Authority,
    /// Those that they have now.
    certificates: Mutex<BTreeMap<Tenant, Certificate>>,
    folder: TempDir,
    moto: Moto,
    /// How often something was restarted.
    turns: AtomicU32,
}

impl Stage {
    /// Everything but what is rendered, with relays that are the program of this build and are upgraded to the same with
    /// another version.
    pub fn new() -> Result<Self> {
        Self::with(None, None)
    }

    /// The same with relays that are this program, and are upgraded to that one.
    pub fn with(first: Option<PathBuf>, next: Option<PathBuf>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("moorgate-models-").tempdir()?;
        let cluster = Cluster::shared()?;
        let moto = Moto::start()?;
        let listener = cluster.enter(|| Ok(TcpListener::bind((OUTSIDE, STORE_PORT))?))?;
        let tap = Tap::start(listener, moto.port(), "main");
        let (authority, certificates) = (Authority::new()?, Mutex::default());
        let first = Program::of(first.map_or_else(|| binary("moorgate-relay"), Ok)?, FIRST_TAG)?;
        let next = match next {
            Some(path) => Program::of(path, NEXT_TAG)?,
            None => first.with_another_version(&folder.path().join("next"), NEXT_TAG)?,
        };
        for program in [&first, &next] {
            cluster.load_image(&format!("moorgate-relay:{}", program.tag), &program.path)?;
        }
        let turns = AtomicU32::default();
        let stage = Self { cluster, tap, first, next, authority, certificates, folder, moto, turns };
        for bucket in ["main", "mirror"] {
            stage.moto.bucket(bucket)?;
        }
        let (key, pem) = KeyPair::generate(&[5; 32])?;
        std::fs::write(stage.path("key"), &*pem)?;
        std::fs::write(stage.path("trust.pem"), key.public().to_pem())?;
        stage.cluster.apply(&namespaces())?;
        for tenant in [FIRST, SECOND] {
            stage.cluster.apply(&backends(tenant))?;
            stage.renew(tenant)?;
        }
        for namespace in [RELAYS, FIRST.namespace, SECOND.namespace] {
            let mut data = BTreeMap::from(moto::variables(STORE_PORT));
            data.insert("AWS_ENDPOINT_URL", format!("http://{OUTSIDE}:{STORE_PORT}"));
            let secret = json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "store", "namespace": namespace},
                "stringData": data,
            });
            stage.cluster.apply(&secret.to_string())?;
        }
        Ok(stage)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// A command of an operator on this machine.
    pub fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = moorgate()?;
        command.args(words).args(["--store", "s3://main/x", "--store", "s3://mirror/x"]);
        command.args(["--trust", &self.path("trust.pem")]).envs(moto::variables(self.moto.port()));
        Ok(command)
    }

    /// An act on a channel, which needs the key and nothing else.
    pub fn act(&self, words: &[&str]) -> Result<()> {
        let mut command = self.command(words)?;
        command.args(["--key", &format!("file:{}", self.path("key"))]);
        run(&mut command)?.ended_with(&[0])?;
        Ok(())
    }

    /// Publishes all fleets of the repository.
    pub fn publish(&self, source: &Source) -> Result<()> {
        let path = self.path("source.yaml");
        std::fs::write(&path, source.text())?;
        self.act(&["publish", &path, "--controller-name", CONTROLLER])
    }

    /// The repository is gone.
    pub fn lose_repository(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.path("source.yaml"))?)
    }

    /// What relays of a plan run.
    pub fn program(&self, plan: &Plan) -> &Program {
        if plan.upgraded { &self.next } else { &self.first }
    }

    /// The manifests of the repository that was published last, as the chart or the overlay hands them on.
    pub fn render(&self, plan: &Plan) -> Result<String> {
        let (printed, relay) = (self.printed(plan)?, &self.program(plan).tag);
        let tags = wrap::Tags { relay, envoy: &format!("v{}", plan.envoy) };
        match plan.through {
            Through::Chart => wrap::chart(self.folder.path(), plan.model, &printed),
            Through::Overlay => wrap::overlay(self.folder.path(), plan.model, &printed, &tags),
        }
    }

    /// What `render` prints.
    fn printed(&self, plan: &Plan) -> Result<String> {
        let mut command = moorgate()?;
        command.args(["render", &self.path("source.yaml"), "--controller-name", CONTROLLER]);
        command.args(["--store", "s3://main/x", "--store", "s3://mirror/x", "--store-secret", "store"]);
        command.args(["--trust", &self.path("trust.pem"), "--model", plan.model.name()]);
        // Overlays say by themselves which images run.
        if plan.through == Through::Chart {
            let relay = format!("ghcr.io/moorgate/moorgate-relay:{}", self.program(plan).tag);
            let envoy = format!("docker.io/envoyproxy/envoy:v{}", plan.envoy);
            command.args(["--relay-image", &relay, "--envoy-image", &envoy]);
        }
        if plan.model != Model::Sidecar {
            command.args([
                "--relay-namespace",
                RELAYS,
                "--relay-tls",
                "relays-tls",
                "--token-issuer",
                ISSUER,
            ]);
            command.args(["--relay-ca", &self.path("ca.crt")]);
        }
        Ok(run(&mut command)?.ended_with(&[0])?.stdout)
    }

    /// Gives relays a certificate for the names of their Services, all models together.
    pub fn certify(&self, plan: &Plan) -> Result<()> {
        std::fs::write(self.path("ca.crt"), Certificate::signed("nobody")?.0.certificate)?;
        let mut names = Vec::new();
        for model in [Model::Pool, Model::Node] {
            for object in definitions::parse(&self.printed(&Plan { model, ..plan.clone() })?)? {
                let is_service = object.types.as_ref().is_some_and(|types| types.kind == "Service");
                if is_service && object.metadata.namespace.as_deref() == Some(RELAYS) {
                    names.push(format!("{}.{RELAYS}.svc", object.metadata.name.context("a name")?));
                }
            }
        }
        ensure!(names.len() == 3, "Services of relays: {names:?}");
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (authority, own) = Certificate::signed_for(&names)?;
        std::fs::write(self.path("ca.crt"), &authority.certificate)?;
        self.tls_secret(RELAYS, "relays-tls", &own)
    }

    fn tls_secret(&self, namespace: &str, name: &str, own: &Certificate) -> Result<()> {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": name, "namespace": namespace},
            "data": {"tls.crt": STANDARD.encode(&own.certificate), "tls.key": STANDARD.encode(&own.key)},
        });
        self.cluster.apply(&secret.to_string())
    }

    /// Gives a tenant's Gateway another certificate.
    pub fn renew(&self, tenant: Tenant) -> Result<()> {
        let own = self.authority.renew(&[&tenant.host()])?;
        self.tls_secret(tenant.namespace, "tls", &own)?;
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant, own);
        Ok(())
    }

    /// Where a tenant's Gateway speaks TLS, as a client sees it that trusts the newest certificate alone.
    pub fn secure(&self, tenant: Tenant) -> Result<Target> {
        let certificates = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        let own = certificates.get(&tenant).context("a certificate")?;
        self.trusting(tenant, &own.der)
    }

    fn trusting(&self, tenant: Tenant, trusted: &[u8]) -> Result<Target> {
        let address = SocketAddr::new(self.address(tenant)?, 443);
        Ok(Target::tls(0, &tenant.host(), trusted)?.at(address))
    }

    /// Where it speaks plain text.
    pub fn plain(&self, tenant: Tenant, port: u16) -> Result<Target> {
        Ok(load::plain(SocketAddr::new(self.address(tenant)?, port)))
    }

    /// The address of a tenant's Gateway.
    pub fn address(&self, tenant: Tenant) -> Result<IpAddr> {
        let path = format!("/api/v1/namespaces/{}/services/{}", tenant.namespace, tenant.object());
        wait::until("an address", || {
            let service = self.cluster.request("GET", &path, None)?;
            let address = &service["status"]["loadBalancer"]["ingress"][0]["ip"];
            Ok(address.as_str().with_context(|| service.to_string())?.parse()?)
        })
    }

    /// Where requests are sent all the time. Those over TLS take any certificate of our authority.
    pub fn lanes(&self, tenants: &[Tenant]) -> Result<Vec<Lane>> {
        let mut lanes = Vec::new();
        for tenant in tenants {
            let lane = |target, kept| Lane { fleet: tenant.fleet(), target, host: tenant.host(), kept };
            lanes.push(lane(self.plain(*tenant, 80)?, false));
            lanes.push(lane(self.plain(*tenant, 80)?, true));
            lanes.push(lane(self.trusting(*tenant, &self.authority.der)?, false));
        }
        Ok(lanes)
    }

    /// Waits until each of these answers by this backend, in plain text and over TLS.
    pub fn until(&self, tenants: &[Tenant], backend: &str) -> Result<()> {
        for tenant in tenants {
            for target in [self.plain(*tenant, 80)?, self.secure(*tenant)?] {
                self.until_at(&target, *tenant, backend)?;
            }
        }
        Ok(())
    }

    /// Waits until this backend answers there.
    pub fn until_at(&self, target: &Target, tenant: Tenant, backend: &str) -> Result<()> {
        self.cluster.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            wait::until("an answer", || {
                let who = runtime.block_on(load::who(target, &tenant.host()))?;
                ensure!(who == backend, "{who} answers, and not {backend}");
                Ok(())
            })
        })
    }

    /// All objects of a kind in our namespaces.
    pub fn list(&self, api: &str, plural: &str) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        for namespace in [RELAYS, FIRST.namespace, SECOND.namespace] {
            let listed =
                self.cluster.request("GET", &format!("{api}/namespaces/{namespace}/{plural}"), None)?;
            all.extend(listed["items"].as_array().context("items")?.iter().cloned());
        }
        Ok(all)
    }

    /// Waits until all workloads run what they are told to, and nothing else runs.
    pub fn settled(&self) -> Result<()> {
        wait::until("all pods", || {
            let mut wanted = 0;
            for plural in ["deployments", "daemonsets"] {
                for one in self.list("/apis/apps/v1", plural)? {
                    let (status, name) = (&one["status"], &one["metadata"]["name"]);
                    ensure!(status["observedGeneration"] == one["metadata"]["generation"], "{name} is new");
                    let number = |field: &str| status[field].as_u64().unwrap_or(0);
                    let (all, fields) = if plural == "deployments" {
                        let all = one["spec"]["replicas"].as_u64().unwrap_or(1);
                        (all, ["replicas", "updatedReplicas", "availableReplicas"])
                    } else {
                        let all = number("desiredNumberScheduled");
                        (all, ["currentNumberScheduled", "updatedNumberScheduled", "numberAvailable"])
                    };
                    ensure!(fields.iter().all(|field| number(field) == all), "{name}: {status}");
                    wanted += usize::try_from(all)?;
                }
            }
            let pods = self.list("/api/v1", "pods")?;
            ensure!(pods.len() == wanted, "{} pods of {wanted}", pods.len());
            Ok(())
        })
    }

    /// The containers of this name: pod and node, with the uid of the pod.
    pub fn containers(&self, name: &str) -> Result<Vec<Container>> {
        let mut found = Vec::new();
        for pod in self.list("/api/v1", "pods")? {
            let spec = &pod["spec"];
            let containers = [&spec["containers"], &spec["initContainers"]];
            let mut containers = containers.iter().filter_map(|all| all.as_array()).flatten();
            if let Some(container) = containers.find(|container| container["name"] == name) {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                found.push(Container {
                    namespace: text(&pod["metadata"]["namespace"]),
                    pod: text(&pod["metadata"]["name"]),
                    uid: text(&pod["metadata"]["uid"]),
                    node: text(&spec["nodeName"]),
                    address: text(&pod["status"]["podIP"]).parse().ok(),
                    account: text(&spec["serviceAccountName"]),
                    name: name.to_owned(),
                    image: text(&container["image"]),
                });
            }
        }
        Ok(found)
    }

    /// Removes what a model has and this plan does not: what a GitOps controller prunes.
    pub fn prune(&self, plan: &Plan) -> Result<()> {
        self.prune_but(&definitions::parse(&self.render(plan)?)?)
    }

    fn prune_but(&self, wanted: &[DynamicObject]) -> Result<()> {
        for (api, plural, kind) in KINDS {
            for found in self.list(api, plural)? {
                let metadata = &found["metadata"];
                let ours = metadata["labels"][MANAGED_BY] == "moorgate-render";
                let stays = wanted.iter().any(|one| {
                    one.types.as_ref().is_some_and(|types| types.kind == kind)
                        && one.metadata.name.as_deref() == metadata["name"].as_str()
                        && one.metadata.namespace.as_deref() == metadata["namespace"].as_str()
                });
                if ours && !stays {
                    let (Some(namespace), Some(name)) =
                        (metadata["namespace"].as_str(), metadata["name"].as_str())
                    else {
                        bail!("an object without a name");
                    };
                    let path = format!("{api}/namespaces/{namespace}/{plural}/{name}");
                    let policy = json!({"propagationPolicy": "Background"});
                    self.cluster.request("DELETE", &path, Some(&policy))?;
                }
            }
        }
        Ok(())
    }

    /// What the fleets of a repository compile to.
    pub fn snapshots(&self, source: &Source) -> Result<BTreeMap<String, String>> {
        let path = self.path("source.yaml");
        std::fs::write(&path, source.text())?;
        let mut command = moorgate()?;
        command.args(["compile", &path, "--controller-name", CONTROLLER, "-o", "json"]);
        let compiled: Value = serde_json::from_str(&run(&mut command)?.ended_with(&[0])?.stdout)?;
        let fleets = compiled["fleets"].as_array().context("fleets")?.iter();
        let text = |value: &Value| value.as_str().map(str::to_owned).context("a text");
        fleets.map(|fleet| Ok((text(&fleet["fleet"])?, text(&fleet["snapshot"])?))).collect()
    }

    /// What a relay shows of itself.
    pub fn metrics(&self, address: IpAddr) -> Result<String> {
        let request = crate::http::Request::get("relay", "/metrics").header("connection", "close");
        self.cluster.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let target = load::plain(SocketAddr::new(address, HEALTH_PORT));
                let answer = crate::http::Connection::open(&target).await?.send(&request).await?;
                Ok(String::from_utf8_lossy(&answer.body).into_owned())
            })
        })
    }

    /// Has a pod end as it does when its node is drained.
    pub fn evict(&self, container: &Container) -> Result<()> {
        let path = format!("/api/v1/namespaces/{}/pods/{}", container.namespace, container.pod);
        self.cluster.request("DELETE", &path, None).map(drop)
    }

    /// Removes all that was rendered.
    pub fn remove(&self) -> Result<()> {
        self.prune_but(&[])?;
        wait::until("nothing but backends", || {
            let (relays, envoys) = (self.containers("relay")?, self.containers("envoy")?);
            ensure!(relays.is_empty() && envoys.is_empty(), "{relays:?} {envoys:?}");
            Ok(())
        })
    }

    /// Replaces all pods of a workload.
    pub fn restart(&self, namespace: &str, name: &str) -> Result<()> {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed).to_string();
        let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/{name}");
        let change = json!({"spec": {"template": {"metadata": {"annotations": {"example.com/turn": turn}}}}});
        self.cluster.request("PATCH", &path, Some(&change)).map(drop)
    }
}

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Of its pod.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// Of its pod.
    pub uid: String,
    /// Where it runs.
    pub node: String,
    /// Of its pod.
    pub address: Option<IpAddr>,
    /// The ServiceAccount of its pod.
    pub account: String,
    /// Its own name.
    pub name: String,
    /// What it runs.
    pub image: String,
}
