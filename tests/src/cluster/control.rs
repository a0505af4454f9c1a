//! The control plane: etcd, API server, controller manager.

use super::names::Folder;
use super::network::{API_SERVER, SERVICE_RANGE};
use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

const ETCD: &str = "http://127.0.0.1:2379";

/// What a cluster of pods and Services needs of the controller manager, and no more.
const CONTROLLERS: &str = "deployment-controller,replicaset-controller,daemonset-controller,\
endpointslice-controller,namespace-controller,serviceaccount-controller,\
root-ca-certificate-publisher-controller,garbage-collector-controller,job-controller";

/// What the API server writes down: each request of the product's own accounts, without bodies.
const AUDIT: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  userGroups:
  - system:serviceaccounts:moorgate-system
  - system:serviceaccounts:models-relays
  - system:serviceaccounts:models-a
  - system:serviceaccounts:models-b
- {level: None}
";

/// Its three processes; dropping it kills them.
pub(super) struct Control {
    processes: Vec<(&'static str, Child)>,
    folder: Folder,
    program: PathBuf,
    turns: u32,
}

fn start(folder: &Folder, program: &Path, name: &str, flags: &[String]) -> Result<Child> {
    let log = File::create(folder.path(&format!("logs/{name}.log")))?;
    let mut command = Command::new(program);
    command.arg(name).args(flags).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // Two cores hold them and forty pods: less garbage collection is worth a little memory.
    command.env("GOGC", "200").kill_on_drop(true).spawn().with_context(|| format!("starting {name}"))
}

fn flags(pairs: &[(&str, String)]) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

fn etcd(folder: &Folder) -> Vec<String> {
    let peer = "http://127.0.0.1:2380";
    flags(&[
        ("data-dir", folder.path("etcd").display().to_string()),
        ("listen-client-urls", ETCD.to_owned()),
        ("advertise-client-urls", ETCD.to_owned()),
        ("listen-peer-urls", peer.to_owned()),
        ("initial-advertise-peer-urls", peer.to_owned()),
        ("initial-cluster", format!("default={peer}")),
        // It need not survive the machine.
        ("unsafe-no-fsync", "true".to_owned()),
        ("log-level", "warn".to_owned()),
    ])
}

fn api_server(folder: &Folder) -> Vec<String> {
    let file = |name: &str| folder.path(name).display().to_string();
    flags(&[
        ("etcd-servers", ETCD.to_owned()),
        ("bind-address", API_SERVER.0.to_owned()),
        ("secure-port", API_SERVER.1.to_string()),
        ("advertise-address", super::network::GATEWAY.to_owned()),
        // Its own Service is answered on the address of that Service itself.
        ("endpoint-reconciler-type", "none".to_owned()),
        ("service-cluster-ip-range", SERVICE_RANGE.to_owned()),
        ("tls-cert-file", file("server.crt")),
        ("tls-private-key-file", file("server.key")),
        ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
        ("service-account-signing-key-file", file("accounts.key")),
        ("service-account-key-file", file("accounts.pub")),
        ("token-auth-file", file("tokens.csv")),
        ("authorization-mode", "RBAC".to_owned()),
        ("audit-policy-file", file("audit.yaml")),
        ("audit-log-path", file("logs/audit.log")),
        ("kubelet-preferred-address-types", "InternalIP".to_owned()),
        ("allow-privileged", "true".to_owned()),
    ])
}

fn controller_manager(folder: &Folder) -> Vec<String> {
    let file = |name: &str| folder.path(name).display().to_string();
    flags(&[
        ("kubeconfig", file("kubeconfig")),
        ("leader-elect", "false".to_owned()),
        ("controllers", CONTROLLERS.to_owned()),
        ("root-ca-file", file("ca.crt")),
        ("service-account-private-key-file", file("accounts.key")),
        ("use-service-account-credentials", "false".to_owned()),
        ("bind-address", "127.0.0.1".to_owned()),
        ("concurrent-deployment-syncs", "10".to_owned()),
        ("kube-api-qps", "200".to_owned()),
        ("kube-api-burst", "400".to_owned()),
    ])
}

impl Control {
    /// Starts all, and returns when the API server is ready.
    pub(super) async fn start(folder: &Folder, program: &Path) -> Result<Self> {
        std::fs::write(folder.path("audit.yaml"), AUDIT)?;
        let mut control =
            Self { processes: Vec::new(), folder: folder.clone(), program: program.to_owned(), turns: 0 };
        for (name, flags) in [("etcd", etcd(folder)), ("kube-apiserver", api_server(folder))] {
            control.processes.push((name, start(folder, program, name, &flags)?));
        }
        control.ready().await?;
        let name = "kube-controller-manager";
        control.processes.push((name, start(folder, program, name, &controller_manager(folder))?));
        Ok(control)
    }

    async fn ready(&mut self) -> Result<()> {
        let client = super::inside::client(&self.folder.path("kubeconfig")).await?;
        loop {
            self.check()?;
            let request = http::Request::get("/readyz").body(Vec::new())?;
            if client.request_text(request).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills the API server, or starts another one on the same etcd; says in a file how often something was done.
    async fn turn(&mut self, what: u8) -> Result<()> {
        let (server, manager) = ("kube-apiserver", "kube-controller-manager");
        match what {
            super::STOP => self.kill(server).await?,
            super::START => {
                let child = start(&self.folder, &self.program, server, &api_server(&self.folder))?;
                self.processes.push((server, child));
                self.ready().await?;
                // Its watches rest for up to a minute after failures: a new one begins at once.
                self.kill(manager).await?;
                let child = start(&self.folder, &self.program, manager, &controller_manager(&self.folder))?;
                self.processes.push((manager, child));
            }
            _ => return Ok(()),
        }
        self.turns += 1;
        Ok(std::fs::write(self.folder.path(super::TURNS), self.turns.to_string())?)
    }

    async fn kill(&mut self, name: &str) -> Result<()> {
        for (_, child) in self.processes.iter_mut().filter(|(known, _)| *known == name) {
            child.kill().await?;
        }
        self.processes.retain(|(known, _)| *known != name);
        Ok(())
    }

    /// An error if one of them has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        for (name, child) in &mut self.processes {
            if let Some(status) = child.try_wait()? {
                bail!("{name} ended ({status})");
            }
        }
        Ok(())
    }

    /// Returns when one of them has ended, which none should; stops and starts the API server when it is asked to.
    pub(super) async fn hold(&mut self, mut turns: mpsc::Receiver<u8>) -> Result<()> {
        loop {
            self.check()?;
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
                Some(what) = turns.recv() => self.turn(what).await?,
            }
        }
    }
}
