//! A Kubernetes cluster on one machine, without containers: the real etcd, API server and controller manager, and
//! stand-ins for nodes and for a cloud's load balancer.
//!
//! ```text
//!  suite ──▶ Cluster ──▶ unshare: network, mounts, processes, cgroup ────────────────────────────┐
//!              │          control ── etcd, kube-apiserver, kube-controller-manager               │
//!              │          kubelet ── pods as processes, a network namespace each, on one bridge   │
//!              └ enter ──▶ balancer ─ an address for each Service, forwarded to Ready endpoints   │
//!                        └──────────────────────────────────────────────────────────────────────┘
//! ```
//! Nothing touches the machine's own network, and all of it ends with the value that stands for it, or with the process
//! that holds it. Wanted: root (or user namespaces with a range of subordinate ids), iproute2 and util-linux.
//! The programs are built by `tests/tools/install-go`.

pub mod balancer;
mod cgroup;
pub mod container;
mod control;
mod credentials;
pub mod definitions;
pub mod dns;
mod image;
pub mod inside;
mod kubelet;
mod names;
mod network;
mod programs;
mod table;

pub use network::GATEWAY as OUTSIDE;
pub use programs::{conformance, envoy_gateway, kubectl, kubernetes};

use crate::program::binary;
use crate::wait;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use cgroup::Cgroup;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tempfile::TempDir;

/// What on its standard input has a cluster kill its API server, and start it.
const STOP: u8 = b's';
const START: u8 = b'c';
/// The file that says how often something was done of that.
const TURNS: &str = "turns";

/// Which of the Gateway API's two channels a cluster has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Channel {
    /// What is stable.
    Standard,
    /// All kinds and fields.
    #[default]
    Experimental,
}

/// What a cluster is to be like.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Nodes, each with an address of its own
    #[arg(long, default_value_t = 2)]
    pub nodes: u8,
    /// The Gateway API's channel
    #[arg(long, value_enum, default_value_t)]
    pub channel: Channel,
    /// The Gateway API's version, whose CRDs its Go module publishes
    #[arg(long, default_value = crate::distil::crds::VERSION)]
    pub gateway_api: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 2, channel: Channel::default(), gateway_api: crate::distil::crds::VERSION.to_owned() }
    }
}

/// A running cluster; dropping it ends all its processes and removes its folder.
#[derive(Debug)]
pub struct Cluster {
    outer: Child,
    folder: TempDir,
    cgroup: Option<Cgroup>,
}

impl Cluster {
    /// Starts one, and returns when its API answers, its CRDs are established and its nodes are there.
    pub fn start(options: &Options) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("moorgate-cluster-").tempdir()?;
        crate::process::remember_folder(folder.path());
        // Pods run as other users, and have to reach what is theirs in here.
        let open = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open)?;
        let programs = kubernetes()?;
        let cgroup = Cgroup::create(folder.path())?;
        let log = File::create(folder.path().join("cluster.log"))?;
        let mut command = Command::new("sh");
        // In its cgroup before it is anything else, so that nothing is born outside.
        command.args(["-c", "[ -z \"$0\" ] || echo 0 >\"$0/cgroup.procs\"; exec \"$@\""]);
        command.arg(cgroup.as_ref().map_or(Path::new(""), Cgroup::path));
        command.arg("unshare").args([
            "--net",
            "--mount",
            "--pid",
            "--cgroup",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]);
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user", "--map-auto"]);
        }
        command.arg(binary("cluster")?).arg("run").arg("--folder").arg(folder.path());
        command.arg("--kubernetes").arg(programs).args(["--nodes", &options.nodes.to_string()]);
        command.args(["--gateway-api", &options.gateway_api, "--channel"]);
        command.arg(match options.channel {
            Channel::Standard => "standard",
            Channel::Experimental => "experimental",
        });
        // It ends when this pipe does, whatever becomes of this process.
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        let outer = command.spawn().context("starting unshare (util-linux)")?;
        let mut cluster = Self { outer, folder, cgroup };
        wait::until("the test cluster", || cluster.ready())??;
        Ok(cluster)
    }

    /// An outer error means not yet; an inner one that it has ended.
    fn ready(&mut self) -> Result<Result<()>> {
        if let Some(status) = self.outer.try_wait()? {
            return Ok(Err(anyhow!("the test cluster ended ({status}):\n{}", self.log("cluster"))));
        }
        ensure!(self.folder().join("ready").exists(), "{}", self.log("cluster"));
        Ok(Ok(()))
    }

    /// Its folder: `kubeconfig`, `logs/` of the control plane and of pods.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A kubeconfig of `system:masters`; its address is reachable in the cluster's network only.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder().join("kubeconfig")
    }

    /// The end of a log: `cluster`, `etcd`, `kube-apiserver` or `kube-controller-manager`.
    pub fn log(&self, name: &str) -> String {
        let file = if name == "cluster" { "cluster.log".to_owned() } else { format!("logs/{name}.log") };
        let text = std::fs::read(self.folder().join(file)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// The process that is in the cluster's namespaces of network and mounts, and outlives all others in there.
    pub fn process(&self) -> u32 {
        self.outer.id()
    }

    /// The cgroup that holds all of its processes; none where this user may not make one.
    pub fn cgroup(&self) -> Option<&Path> {
        self.cgroup.as_ref().map(Cgroup::path)
    }

    /// Kills the API server, and starts another one on the same etcd: its watch cache begins anew.
    pub fn restart_api_server(&self) -> Result<()> {
        self.stop_api_server()?;
        self.start_api_server()
    }

    /// Kills the API server.
    pub fn stop_api_server(&self) -> Result<()> {
        self.turn(STOP)
    }

    /// Starts one on the same etcd.
    pub fn start_api_server(&self) -> Result<()> {
        self.turn(START)
    }

    fn turn(&self, what: u8) -> Result<()> {
        let count = || -> Result<u32> {
            let text = std::fs::read_to_string(self.folder().join(TURNS)).unwrap_or_default();
            Ok(if text.is_empty() { 0 } else { text.parse()? })
        };
        let before = count()?;
        self.outer.stdin.as_ref().context("its standard input")?.write_all(&[what])?;
        wait::until("a turn of the API server", || {
            ensure!(count()? > before, "{}", self.log("cluster"));
            Ok(())
        })
    }

    /// What a container's process took so far: processor time, and memory in KiB.
    pub fn usage(&self, pod_uid: &str, container: &str) -> Result<(std::time::Duration, u64)> {
        let folder = self.folder().join("pods").join(pod_uid).join("containers").join(container);
        let process = std::fs::read_to_string(folder.join("pid")).context("no such container")?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.process()));
        command.args(["--", "cat", &format!("/proc/{process}/stat"), &format!("/proc/{process}/status")]);
        let text = crate::program::run(&mut command)?.ended_with(&[0])?.stdout;
        crate::meter::parse(&text)
    }

    /// Has an image of this `name:tag` stand for a program, which containers see as `/usr/local/bin/name`.
    pub fn load_image(&self, reference: &str, program: &Path) -> Result<()> {
        let name = reference.split(':').next().unwrap_or(reference);
        let folder = image::loaded(self.folder()).join(reference);
        std::fs::create_dir_all(&folder)?;
        // There at once, and whole.
        std::fs::copy(program, folder.join("new")).with_context(|| program.display().to_string())?;
        Ok(std::fs::rename(folder.join("new"), folder.join(name))?)
    }

    /// A command that will run in the cluster's network, outside of its pods.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.process())).arg("--").arg(program);
        command
    }

    /// The cluster that the tests of this process share; it ends when the last of them lets go of it.
    pub fn shared() -> Result<Arc<Self>> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cluster) = shared.upgrade() {
            return Ok(cluster);
        }
        let cluster = Arc::new(Self::start(&Options::default())?);
        *shared = Arc::downgrade(&cluster);
        Ok(cluster)
    }

    /// A kubeconfig with a token of a ServiceAccount, in a new file.
    pub fn kubeconfig_of(&self, namespace: &str, account: &str) -> Result<PathBuf> {
        let path = self.folder().join(format!("kubeconfig-{namespace}-{account}"));
        let request = TokenRequest {
            spec: Some(TokenRequestSpec { expiration_seconds: Some(86_400), ..TokenRequestSpec::default() }),
            ..TokenRequest::default()
        };
        let answer = self.with(async |client| {
            let api: kube::Api<ServiceAccount> = kube::Api::namespaced(client, namespace);
            Ok(api.create_token_request(account, &kube::api::PostParams::default(), &request).await?)
        })?;
        let token = answer.status.and_then(|status| status.token).context("an answer without a token")?;
        let authority = std::fs::read_to_string(self.folder().join("ca.crt"))?;
        std::fs::write(&path, credentials::kubeconfig(&authority, &token)?)?;
        Ok(path)
    }

    /// A file as a container of a pod sees it.
    pub fn file(&self, pod_uid: &str, container: &str, path: &str) -> Result<String> {
        let folder = self.folder().join("pods").join(pod_uid).join("containers").join(container);
        let process = std::fs::read_to_string(folder.join("pid")).context("no such container")?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.process()));
        command.args(["--", "cat", &format!("/proc/{process}/root{path}")]);
        Ok(crate::program::run(&mut command)?.ended_with(&[0])?.stdout)
    }

    /// A request to the API server, with the rights of `system:masters`; a PATCH is a merge patch.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
        let request = request.body(body.map_or_else(Vec::new, |body| body.to_string().into_bytes()))?;
        self.with(async move |client| Ok(client.request::<Value>(request).await?))
    }

    /// Applies the objects of a YAML stream, in their order.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        let objects = definitions::parse(yaml)?;
        self.with(async |client| definitions::apply(&client, &objects).await)
    }

    /// Does some work on a thread that is in the cluster's network: each socket that it makes is there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace =
            File::open(format!("/proc/{}/ns/net", self.process())).context("the cluster's network")?;
        let inside = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        };
        std::thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// The same for asynchronous work with a client of `system:masters`.
    pub fn with<T: Send>(&self, work: impl AsyncFnOnce(kube::Client) -> Result<T> + Send) -> Result<T> {
        let kubeconfig = self.kubeconfig();
        self.enter(|| {
            // Of one thread: others would not be in the namespace.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { work(inside::client(&kubeconfig).await?).await })
        })
    }

    /// Asks again and again, with a client of `system:masters`, until there is an answer.
    pub fn until<T: Send>(
        &self,
        what: &str,
        ask: impl AsyncFn(kube::Client) -> Result<T> + Send,
    ) -> Result<T> {
        self.with(async move |client| {
            let deadline = std::time::Instant::now() + wait::PATIENCE;
            loop {
                match ask(client.clone()).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) if std::time::Instant::now() > deadline => {
                        bail!("waited {} s for {what}; last: {error:#}", wait::PATIENCE.as_secs())
                    }
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                }
            }
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The first process in there takes the rest with it when it dies, and dies with this one.
        if let Some(pid) = i32::try_from(self.outer.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.outer.wait();
    }
}
