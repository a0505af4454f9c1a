//! The Gateway API's own conformance suite, unmodified, against the product on a test cluster.
//!
//! ```text
//!  Cluster ── GatewayClass, RBAC as shipped ──▶ moorgate watch --cluster --provision ──▶ fleets: Envoy and relay, a Service
//!     └── the suite's test program ──▶ go tool test2json ──▶ Verdicts
//! ```
//! The product is not told where it runs: the suite talks to fleets that `--provision` made, as on any cluster.

pub mod verdicts;

use crate::cluster::balancer::{UNUSABLE, USABLE};
use crate::cluster::{Cluster, OUTSIDE, Options, conformance};
use crate::process::Running;
use crate::program::{moorgate, root, run};
use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Service;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use verdicts::Verdicts;

/// A release of the suite: its version, how many tests of gateways it has, and how many of them ask for `CORE` only.
pub const SUITES: [(&str, usize, usize); 2] = [("1.7.0", 147, 76), ("1.6.3", 131, 71)];

/// The features that every implementation of the five profiles has, and two whose absence the suite would ask to see:
/// who does not claim them has to refuse such listeners.
const CORE: [&str; 9] = [
    "Gateway",
    "ReferenceGrant",
    "HTTPRoute",
    "GRPCRoute",
    "TLSRoute",
    "TCPRoute",
    "UDPRoute",
    "TLSRouteModeTerminate",
    "TLSRouteModeMixed",
];

/// The five profiles of gateways.
pub const PROFILES: [&str; 5] = ["GATEWAY-HTTP", "GATEWAY-TLS", "GATEWAY-GRPC", "GATEWAY-TCP", "GATEWAY-UDP"];

/// Features of service meshes: a Service as parent is no Gateway's business.
const MESH: [&str; 10] = [
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteNamedRouteRule",
];

/// The name of the GatewayClass.
pub const CLASS: &str = "gateway-conformance";
const NAMESPACE: &str = "moorgate-system";
const ACCOUNT: &str = "moorgate-watch";
/// The user of the product's images: also that of relays, which write reports into the shared store.
const USER: u32 = 65_532;

/// How much of the suite is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Every test, with every feature.
    Whole,
    /// The tests that ask for no feature beyond the core of the profiles; the suite skips the others.
    Core,
    /// One test.
    One(String),
}

/// Where the fleets' store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Where {
    /// A folder that the translator and all pods share.
    Shared,
    /// Behind `watch --serve-store`: there is no other.
    Served,
}

impl Part {
    /// The one test, if it is one only.
    pub fn only(&self) -> Option<&str> {
        match self {
            Self::One(test) => Some(test),
            Self::Whole | Self::Core => None,
        }
    }
}

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where the fleets' store is.
    pub store: Where,
    /// The suite's version.
    pub suite: String,
    /// How much of it.
    pub part: Part,
    /// How many tests run at a time, of those that may.
    pub parallel: usize,
    /// Where reports and logs go.
    pub out: PathBuf,
}

/// A cluster with the product in it, and a GatewayClass [`CLASS`] for it; dropping it ends both.
#[derive(Debug)]
pub struct Installed {
    /// `moorgate watch --cluster --provision`, with the rights that are shipped.
    pub watch: Running,
    /// The cluster.
    pub cluster: Cluster,
}

/// The objects of `deploy/kubernetes` around `moorgate watch`: its rights and its Service, without the pods that have them.
pub fn rights() -> Result<String> {
    let mut rights = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n");
    let folder = root().join("deploy/kubernetes");
    let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "yaml")) {
        for document in std::fs::read_to_string(file)?.split("\n---") {
            let kind =
                document.lines().find_map(|line| line.strip_prefix("kind: ")).unwrap_or_default().trim();
            let kinds =
                ["Service", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];
            if kinds.contains(&kind) {
                rights.extend(["---\n", document, "\n"]);
            }
        }
    }
    Ok(rights)
}

impl Installed {
    /// Starts both, with the CRDs of a release such as `1.7.0`.
    pub fn start(gateway_api: &str, place: Where) -> Result<Self> {
        let options = Options { gateway_api: format!("v{gateway_api}"), ..Options::default() };
        let cluster = Cluster::start(&options)?;
        let folder = cluster.folder();
        cluster.apply(&rights()?)?;
        cluster.apply(&format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: {CLASS}}}\n\
             spec: {{controllerName: moorgate.dev/gateway-controller}}\n"
        ))?;
        let kubeconfig = cluster.kubeconfig_of(NAMESPACE, ACCOUNT)?;
        let (store, key) = (folder.join("store"), folder.join("watch.key"));
        std::fs::create_dir(&store)?;
        run(moorgate()?.arg("keygen").arg(&key))?.ended_with(&[0])?;
        for owned in [&store, &key] {
            chown(owned, Some(USER), Some(USER))?;
        }
        let product = moorgate()?;
        let mut command = cluster.command(Path::new("setpriv"));
        let user = USER.to_string();
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"]).arg(product.get_program());
        command.args(["watch", "--cluster", "--provision", "--kubeconfig"]).arg(kubeconfig);
        match place {
            Where::Shared => command.args(["--store-volume", "host"]),
            Where::Served => {
                // Pods know no names of Services here.
                let address = cluster.with(async |client| {
                    let api = kube::Api::<Service>::namespaced(client, NAMESPACE);
                    let spec = api.get("moorgate-store").await?.spec;
                    spec.and_then(|spec| spec.cluster_ip).context("the address of the store's Service")
                })?;
                command.args([
                    "--serve-store",
                    &format!("{OUTSIDE}:8443"),
                    "--serve-store-endpoint",
                    OUTSIDE,
                ]);
                command.args(["--relay-store", &format!("https://{address}")])
            }
        };
        command.arg("--store").arg(format!("file://{}", store.display()));
        command.arg("--key").arg(format!("file:{}", key.display()));
        command.arg("--trust").arg(key.with_extension("pub")).args(["--lease-namespace", NAMESPACE]);
        // Each test takes its routes away when it is done: all that a Gateway has.
        command.arg("--allow-shrink").env("NO_COLOR", "1");
        let watch = Running::start("watch", &mut command, folder)?;
        Ok(Self { watch, cluster })
    }

    /// Keeps what tells why something failed.
    fn keep_logs(&self, out: &Path) -> Result<()> {
        let logs = out.join("logs");
        let _ = std::fs::remove_dir_all(&logs);
        std::fs::create_dir_all(&logs)?;
        let folder = self.cluster.folder();
        for name in ["watch.log", "cluster.log"] {
            std::fs::copy(folder.join(name), logs.join(name))?;
        }
        let copied =
            Command::new("cp").arg("-r").arg(folder.join("logs")).arg(logs.join("cluster")).status()?;
        ensure!(copied.success(), "copying logs: {copied}");
        Ok(())
    }

    fn suite(&self, plan: &Plan, report: &Path) -> Result<Command> {
        let mut command = self.cluster.command(Path::new("go"));
        command.args(["tool", "test2json", "-t", "-p", "conformance"]).arg(conformance(&plan.suite)?);
        command.args(["-test.v=test2json", "-test.timeout=0"]);
        command.arg(format!("-test.parallel={}", plan.parallel));
        command.arg(format!("-gateway-class={CLASS}"));
        match &plan.part {
            Part::Core => command.arg(format!("-supported-features={}", CORE.join(","))),
            Part::Whole | Part::One(_) => {
                command.args(["-all-features", &format!("-exempt-features={}", MESH.join(","))])
            }
        };
        command.arg(format!("-conformance-profiles={}", PROFILES.join(",")));
        command.arg(format!("-usable-address={USABLE}")).arg(format!("-unusable-address={UNUSABLE}"));
        command.args([
            "-organization=moorgate",
            "-project=moorgate",
            "-url=https://github.com/moorgate/moorgate",
        ]);
        command.arg(concat!("-version=v", env!("CARGO_PKG_VERSION")));
        command.arg("-contact=https://github.com/moorgate/moorgate/issues");
        command.arg(format!("-report-output={}", report.display()));
        if let Some(test) = plan.part.only() {
            command.arg(format!("-run-test={test}"));
        }
        command.env("KUBECONFIG", self.cluster.kubeconfig()).current_dir(self.cluster.folder());
        Ok(command)
    }
}

/// Runs the suite; `say` is told how each test ended.
pub fn conduct(plan: &Plan, mut say: impl FnMut(&str)) -> Result<Verdicts> {
    let (_, whole, core) = SUITES
        .iter()
        .find(|(version, _, _)| *version == plan.suite)
        .with_context(|| format!("no suite {}; there are {SUITES:?}", plan.suite))?;
    std::fs::create_dir_all(&plan.out)?;
    let mut installed = Installed::start(&plan.suite, plan.store)?;
    let report = installed.cluster.folder().join("report.yaml");
    let mut child = installed.suite(plan, &report)?.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?;
    let events = BufReader::new(child.stdout.take().context("a pipe")?);
    let mut kept = std::fs::File::create(plan.out.join("events.json"))?;
    let mut log = std::fs::File::create(plan.out.join("suite.log"))?;
    let mut verdicts = Verdicts::new(*whole, if plan.part == Part::Core { *core } else { *whole });
    for line in events.lines() {
        let line = line?;
        writeln!(kept, "{line}")?;
        let (text, ended) = verdicts.take(&line)?;
        log.write_all(text.as_bytes())?;
        if let Some(ended) = ended {
            say(&ended);
        }
    }
    child.wait()?;
    installed.keep_logs(&plan.out)?;
    if let Err(error) = installed.watch.check() {
        say(&format!("{error:#}"));
    }
    if let Ok(text) = std::fs::read_to_string(&report) {
        verdicts.read_report(&text)?;
        if plan.part == Part::Whole {
            submit(plan, &text)?;
        }
    }
    Ok(verdicts)
}

/// Lays the files that go to the Gateway API's repository, as they have to be there.
fn submit(plan: &Plan, report: &str) -> Result<()> {
    let minor = plan.suite.rsplit_once('.').map_or(plan.suite.as_str(), |(minor, _)| minor);
    let version = concat!("v", env!("CARGO_PKG_VERSION"));
    let reports = plan.out.join(format!("reports/v{minor}/moorgate-moorgate"));
    let list = plan.out.join("list/implementations/moorgate-moorgate");
    for folder in [&reports, &list] {
        std::fs::create_dir_all(folder)?;
    }
    let name = format!("experimental-{version}-default-report.yaml");
    std::fs::write(reports.join(&name), report)?;
    std::fs::write(
        reports.join("README.md"),
        format!(
            "# Moorgate\n\n## Table of Contents\n\n|API channel|Implementation version|Mode|Report|\n\
             |-----------|----------------------|----|------|\n\
             |experimental|[{version}](https://github.com/moorgate/moorgate/releases/tag/{version})|default|[report](./{name})|\n\n\
             ## Reproduce\n\n1. Clone the repository and check the version out:\n\n   ```sh\n   \
             git clone https://github.com/moorgate/moorgate.git && cd moorgate && git checkout {version}\n   ```\n\n\
             2. Run the suite; it brings its own cluster:\n\n   ```sh\n   make conformance\n   ```\n\n\
             3. The report is in `target/conformance`.\n"
        ),
    )?;
    std::fs::write(
        list.join("details.yaml"),
        "apiVersion: gateway.networking.kubernetes.io/v1\nkind: ImplementationListDetails\norganization: moorgate\n\
         project: moorgate\nurl: https://github.com/moorgate/moorgate\nfullName: \"Moorgate\"\ndescription: |\n  \
         [Moorgate](https://github.com/moorgate/moorgate) compiles Gateway API resources into content-addressed, signed Envoy\n  \
         snapshots in object storage, which small relays beside Envoy verify, cache and serve. There is no control plane to\n  \
         run: the same compile works in CI on YAML files and beside a live cluster.\n",
    )?;
    Ok(())
}
