//! Where MIGRATION.md is followed: the test cluster, a bucket, and a folder in which somebody types.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::cluster::{self, Cluster, OUTSIDE, Options};
use moorgate_tests::http::{Answer, Connection, Request, Target};
use moorgate_tests::models::Tap;
use moorgate_tests::process::Running;
use moorgate_tests::program::{self, Outcome, binary, root, run, variable};
use moorgate_tests::storage::moto::{self, Moto};
use moorgate_tests::{process, wait};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

/// The port at which pods reach the bucket.
pub(crate) const STORE_PORT: u16 = 9000;

/// Backends and their Services, as a team has them: each says its name.
const BACKENDS: &str = include_str!("backend.yaml");

/// A folder with `gateways/`, on a machine from which cluster and bucket are reached.
pub(crate) struct Site {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) folder: TempDir,
    /// What is exported so far.
    exported: String,
    /// The machine's environment.
    pub(crate) environment: BTreeMap<String, String>,
    /// Between pods and the bucket.
    pub(crate) tap: Tap,
    pub(crate) moto: Moto,
}

/// Where a cluster's pods reach a store on this machine.
pub(crate) fn tap(cluster: &Cluster, port: u16, to: u16, bucket: &'static str) -> Result<Tap> {
    let listener = cluster.enter(|| Ok(TcpListener::bind((OUTSIDE, port))?))?;
    Ok(Tap::start(listener, to, bucket))
}

impl Site {
    /// On a cluster of its own, with a bucket of this name.
    pub(crate) fn new(bucket: &'static str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("moorgate-migration-").tempdir()?;
        process::remember_folder(folder.path());
        let cluster = Arc::new(Cluster::start(&Options::default())?);
        let moto = Moto::start()?;
        moto.bucket(bucket)?;
        let variables = moto::variables(STORE_PORT).into_iter();
        let mut environment: BTreeMap<String, String> =
            variables.map(|(name, value)| (name.to_owned(), value)).collect();
        environment.insert("AWS_ENDPOINT_URL".to_owned(), format!("http://{OUTSIDE}:{STORE_PORT}"));
        let tap = tap(&cluster, STORE_PORT, moto.port(), bucket)?;
        let site = Self { cluster, folder, exported: String::new(), environment, tap, moto };
        site.write_store_env()?;
        std::fs::create_dir(site.path("gateways"))?;
        Ok(site)
    }

    /// The file with what relays need to reach their store.
    pub(crate) fn write_store_env(&self) -> Result<()> {
        let lines = self.environment.iter().map(|(name, value)| format!("{name}={value}"));
        Ok(std::fs::write(self.path("store.env"), lines.collect::<Vec<_>>().join("\n"))?)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A namespace with backends of these names, which they say when they answer.
    pub(crate) fn backends(&self, namespace: &str, names: &[&str]) -> Result<()> {
        self.cluster.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n"))?;
        names.iter().try_for_each(|name| self.cluster.apply(&backend(namespace, name, name)))
    }

    /// A Secret with a certificate, which the answer holds, for clients.
    pub(crate) fn certificate(&self, namespace: &str, name: &str, hosts: &[&str]) -> Result<Certificate> {
        let own = Certificate::for_names(hosts)?;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": name, "namespace": namespace},
            "data": {"tls.crt": STANDARD.encode(&own.certificate), "tls.key": STANDARD.encode(&own.key)},
        });
        self.cluster.apply(&secret.to_string())?;
        Ok(own)
    }

    /// A shell in the folder, in the cluster's network.
    fn shell(&self, script: &str) -> Result<Command> {
        let mut command = self.cluster.command(Path::new("bash"));
        dress(&mut command, self.folder.path(), &format!("{}{script}", self.exported))?;
        command.env("KUBECONFIG", self.cluster.kubeconfig()).envs(&self.environment);
        Ok(command)
    }

    /// Types some commands, which must succeed; what they export is there for the next ones.
    pub(crate) fn types(&mut self, script: &str) -> Result<Outcome> {
        let outcome = run(&mut self.shell(script)?)?.ended_with(&[0]).with_context(|| script.to_owned())?;
        for line in script.lines().filter(|line| line.starts_with("export ")) {
            self.exported += line;
            self.exported.push('\n');
        }
        Ok(outcome)
    }

    /// Types a command that goes on; it ends with the value.
    pub(crate) fn starts(&self, name: &str, script: &str) -> Result<Running> {
        Running::start(name, &mut self.shell(script)?, self.folder.path())
    }

    /// The address of a Service.
    pub(crate) fn address(&self, namespace: &str, service: &str) -> Result<IpAddr> {
        let path = format!("/api/v1/namespaces/{namespace}/services/{service}");
        wait::until("an address", || {
            let service = self.cluster.request("GET", &path, None)?;
            let address = &service["status"]["loadBalancer"]["ingress"][0]["ip"];
            Ok(address.as_str().with_context(|| service.to_string())?.parse()?)
        })
    }

    /// One request in the cluster's network.
    pub(crate) fn send(&self, target: &Target, request: &Request) -> Result<Answer> {
        self.cluster.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { Connection::open(target).await?.send(request).await })
        })
    }

    /// Waits until a request is answered with this status.
    pub(crate) fn until(&self, target: &Target, request: &Request, status: u16) -> Result<Answer> {
        wait::until("an answer", || {
            let answer = self.send(target, request)?;
            let body = String::from_utf8_lossy(&answer.body);
            ensure!(answer.status == status, "{request:?}: {} {body}", answer.status);
            Ok(answer)
        })
    }
}

/// What a shell is told, wherever it runs: the script, the folder, and the programs that people have.
fn dress(command: &mut Command, folder: &Path, script: &str) -> Result<()> {
    command.args(["-euo", "pipefail", "-c", script]).current_dir(folder);
    let programs =
        [binary("moorgate")?, cluster::kubectl()?, program::go("helm")?, program::go("kustomize")?];
    let folders: Vec<String> =
        programs.iter().filter_map(|program| Some(program.parent()?.display().to_string())).collect();
    command.env("PATH", format!("{}:{}", folders.join(":"), variable("PATH").unwrap_or_default()));
    command.env("HOME", folder).env("LC_ALL", "C");
    for name in ["MOORGATE_STORE", "MOORGATE_TRUST", "MOORGATE_KEY", "http_proxy", "HTTP_PROXY"] {
        command.env_remove(name);
    }
    Ok(())
}

/// Runs a script on this machine.
pub(crate) fn shell(folder: &Path, script: &str) -> Result<Outcome> {
    let mut command = Command::new("bash");
    dress(&mut command, folder, script)?;
    run(&mut command)
}

/// A backend and its Service.
pub(crate) fn backend(namespace: &str, name: &str, says: &str) -> String {
    BACKENDS.replace("@NAMESPACE@", namespace).replace("@NAME@", name).replace("@SAYS@", says)
}

/// Plain text at an address of the cluster.
pub(crate) fn plain(address: IpAddr, port: u16) -> Target {
    Target::plain(0).at(SocketAddr::new(address, port))
}

/// TLS there, trusting this certificate.
pub(crate) fn secure(address: IpAddr, host: &str, certificate: &Certificate) -> Result<Target> {
    Ok(Target::tls(0, host, &certificate.der)?.at(SocketAddr::new(address, 443)))
}

/// What the backend said about a request, as far as it is not different each time.
pub(crate) fn echo(answer: &Answer) -> Result<Value> {
    serde_json::from_slice(&answer.body)
        .with_context(|| format!("no echo: {} {}", answer.status, String::from_utf8_lossy(&answer.body)))
}

/// A file of a case.
pub(crate) fn case(name: &str) -> PathBuf {
    root().join("tests/tests/migration").join(name)
}
