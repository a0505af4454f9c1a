//! `make bench-watch`: how long it takes from a write at the API server until Envoys have it and `Programmed` says so.
//!
//! ```text
//!  PATCH ─▶ API server ─▶ moorgate watch ─▶ store ─▶ relay ─▶ Envoy ─▶ ACK ─▶ report ─▶ watch ─▶ status ─▶ watched here
//!           └──────────── published ────────────┘    └────── reported ───────┘  └──────── told ─────────┘
//! ```
//! All of it is real and runs on two cores: a test cluster, `moorgate watch --provision`, and for each Gateway the pod
//! that it made, with an Envoy and a relay. Fails above the limit.
#![allow(clippy::print_stdout, reason = "a program that prints its measurements")]

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use futures::StreamExt as _;
use futures::future::try_join_all;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::watcher::{self, Event};
use moorgate_snapshot::{Channel, FleetName, Store, layout};
use moorgate_tests::cluster::{Cluster, Options};
use moorgate_tests::conformance::rights;
use moorgate_tests::process::Running;
use moorgate_tests::program::{binary, moorgate, run};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// The user of the product's images: also that of relays, which write reports into the shared store.
const USER: u32 = 65_532;
/// The cores that everything shares.
const CORES: usize = 2;
/// Namespace, class, and what the names of Gateways start with.
const NAME: &str = "bench";
/// What no write may take, lest the bench hang.
const PATIENCE: Duration = Duration::from_mins(3);

/// How long it takes from a write at the API server until Programmed
#[derive(Debug, Parser)]
struct Arguments {
    /// Gateways, each with a fleet of its own
    #[arg(long, default_value_t = 44)]
    fleets: usize,
    /// How often all of them are changed at once
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The limit of the 99th percentile, in milliseconds
    #[arg(long, default_value_t = 5000)]
    limit: u64,
}

/// One write, and when what followed from it was there.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// The release is in the store.
    published: Option<Duration>,
    /// The relay's report that Envoy took it is in the store.
    reported: Option<Duration>,
    /// The status is there to be read.
    programmed: Duration,
}

/// When a generation of a Gateway was seen to be programmed, whole.
type Seen = BTreeMap<String, (i64, Instant)>;

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let cores = two_cores()?;
    let installed = Installed::start()?;
    println!(
        "{} fleets at once on {cores} cores, which also run etcd, kube-apiserver, kube-controller-manager, the pods and this\n\
         program. A fleet is an Envoy and a relay in a pod of the test cluster, made by moorgate watch --provision; the store\n\
         is a folder that they share. Processes stand for containers, network namespaces for nodes.\n",
        arguments.fleets
    );
    let rows = installed.measure(&arguments)?;
    println!("{:<44} {:>6} {:>9} {:>9} {:>9} {:>9}", "milliseconds", "writes", "p50", "p99", "max", "limit");
    let mut held = true;
    for row in &rows {
        held &= row.print(arguments.limit);
    }
    if held {
        return Ok(ExitCode::SUCCESS);
    }
    println!("\nabove the limit of {} ms\n{}", arguments.limit, installed.watch.tail());
    Ok(ExitCode::FAILURE)
}

/// Keeps this process and all that it starts to two cores of those that it may use; how many there are.
fn two_cores() -> Result<usize> {
    let allowed = sched_getaffinity(None)?;
    let mut two = CpuSet::new();
    let usable = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).take(CORES);
    usable.for_each(|core| two.set(core));
    sched_setaffinity(None, &two)?;
    Ok(usize::try_from(two.count())?)
}

/// What was measured of one kind of write.
struct Row {
    name: &'static str,
    samples: Vec<Sample>,
    /// Whether the limit is for these.
    judged: bool,
}

impl Row {
    /// Prints the row and its parts; whether it holds the limit.
    fn print(&self, limit: u64) -> bool {
        let programmed: Vec<Duration> = self.samples.iter().map(|sample| sample.programmed).collect();
        let shown = if self.judged { limit.to_string() } else { "-".to_owned() };
        let p99 = print(self.name, &programmed, &shown);
        let part =
            |of: fn(&Sample) -> Option<Duration>| self.samples.iter().filter_map(of).collect::<Vec<_>>();
        print("  thereof until the release is in the store", &part(|sample| sample.published), "");
        print("  thereof until Envoys' answer is in the store", &part(|sample| sample.reported), "");
        !self.judged || p99 <= Duration::from_millis(limit)
    }
}

fn print(name: &str, values: &[Duration], limit: &str) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    // The smallest value that so many of a hundred do not exceed.
    let share = |percent: usize| {
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    };
    let (half, most, last) = (share(50), share(99), share(100));
    println!(
        "{name:<44} {:>6} {:>9} {:>9} {:>9} {limit:>9}",
        sorted.len(),
        half.as_millis(),
        most.as_millis(),
        last.as_millis()
    );
    most
}

/// A cluster with the product in it; dropping it ends both.
struct Installed {
    watch: Running,
    cluster: Cluster,
    store: PathBuf,
}

impl Installed {
    fn start() -> Result<Self> {
        let cluster = Cluster::start(&Options::default())?;
        let folder = cluster.folder();
        cluster.apply(&rights()?)?;
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAME}}}\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: {NAME}}}\n\
             spec: {{controllerName: moorgate.dev/gateway-controller}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: cart, namespace: {NAME}}}\nspec: {{ports: [{{port: 80}}]}}\n"
        ))?;
        let (store, key) = (folder.join("store"), folder.join("watch.key"));
        std::fs::create_dir(&store)?;
        run(moorgate()?.arg("keygen").arg(&key))?.ended_with(&[0])?;
        for owned in [&store, &key] {
            chown(owned, Some(USER), Some(USER))?;
        }
        let mut command = cluster.command(Path::new("setpriv"));
        let user = USER.to_string();
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"]).arg(binary("moorgate")?);
        command.args(["watch", "--cluster", "--provision", "--store-volume", "host"]);
        command.arg("--kubeconfig").arg(cluster.kubeconfig_of("moorgate-system", "moorgate-watch")?);
        command.arg("--store").arg(format!("file://{}", store.display()));
        command.arg("--key").arg(format!("file:{}", key.display()));
        command.arg("--trust").arg(key.with_extension("pub"));
        command.args(["--lease-namespace", "moorgate-system"]).env("NO_COLOR", "1");
        let watch = Running::start("watch", &mut command, folder)?;
        Ok(Self { watch, cluster, store })
    }

    /// Writes and waits, kind by kind.
    fn measure(&self, arguments: &Arguments) -> Result<Vec<Row>> {
        let names: Vec<String> = (0..arguments.fleets).map(|n| format!("{NAME}-{n:02}")).collect();
        let rounds = arguments.rounds;
        self.cluster.with(async |client| {
            let stage = Stage::new(&client, &self.store);
            let mut rows = Vec::new();
            let created = stage.all(&names, |name| listeners(name, 0, &[])).await?;
            rows.push(Row { name: "new: pods with Envoys start first", samples: created, judged: false });
            stage.routes(&names).await?;
            let mut changed = Vec::new();
            for round in 1..=rounds {
                changed.extend(stage.all(&names, |name| listeners(name, round, &[])).await?);
            }
            rows.push(Row { name: "all changed at once", samples: changed, judged: true });
            let mut opened = Vec::new();
            for round in 1..=rounds {
                let port = 8000 + u16::try_from(round)?;
                opened.extend(stage.all(&names, |name| listeners(name, rounds, &[port])).await?);
            }
            rows.push(Row { name: "another port for all at once", samples: opened, judged: true });
            let mut alone = Vec::new();
            for name in &names {
                let one = std::slice::from_ref(name);
                alone.extend(stage.all(one, |name| listeners(name, rounds + 1, &[])).await?);
            }
            rows.push(Row { name: "one after another", samples: alone, judged: true });
            Ok(rows)
        })
    }
}

/// A Gateway with a hostname of this round, and a listener for each further port.
fn listeners(name: &str, round: usize, ports: &[u16]) -> Value {
    let first = json!({"name": "http", "port": 80, "protocol": "HTTP", "hostname": format!("r{round}.{name}.example")});
    let more = ports.iter().map(|port| json!({"name": format!("p{port}"), "port": port, "protocol": "HTTP"}));
    let listeners: Vec<Value> = [first].into_iter().chain(more).collect();
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": name, "namespace": NAME},
        "spec": {"gatewayClassName": NAME, "listeners": listeners},
    })
}

/// Where writes are made and seen.
struct Stage {
    gateways: Api<DynamicObject>,
    routes: Api<DynamicObject>,
    seen: watch::Receiver<Seen>,
    store: PathBuf,
}

impl Stage {
    fn new(client: &kube::Client, store: &Path) -> Self {
        let api = |kind: &str| {
            let gvk = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", kind);
            Api::namespaced_with(client.clone(), NAME, &ApiResource::from_gvk(&gvk))
        };
        let gateways: Api<DynamicObject> = api("Gateway");
        let (out, seen) = watch::channel(Seen::new());
        tokio::spawn(see(gateways.clone(), out));
        Self { gateways, routes: api("HTTPRoute"), seen, store: store.to_owned() }
    }

    /// A route for each Gateway. They are judged in their own time: Programmed is no matter of theirs.
    async fn routes(&self, names: &[String]) -> Result<()> {
        let writes = names.iter().map(async |name| {
            let route = json!({
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "HTTPRoute",
                "metadata": {"name": name, "namespace": NAME},
                "spec": {"parentRefs": [{"name": name}], "rules": [{"backendRefs": [{"name": "cart", "port": 80}]}]},
            });
            let params = PatchParams::apply(NAME);
            self.routes.patch(name, &params, &Patch::Apply(&route)).await
        });
        try_join_all(writes).await?;
        Ok(())
    }

    /// Writes all of these at once, and waits until each is programmed.
    async fn all(&self, names: &[String], object: impl Fn(&str) -> Value) -> Result<Vec<Sample>> {
        let writes = names.iter().map(|name| self.one(name, object(name)));
        tokio::time::timeout(PATIENCE, try_join_all(writes)).await.with_context(|| self.missing(names))?
    }

    fn missing(&self, names: &[String]) -> String {
        let seen = self.seen.borrow();
        names.iter().fold("waited in vain; programmed:".to_owned(), |mut text, name| {
            let _ = write!(text, " {name}: {:?}", seen.get(name).map(|(generation, _)| generation));
            text
        })
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "the clock of files' times: nothing of it reaches a release"
    )]
    async fn one(&self, name: &str, object: Value) -> Result<Sample> {
        let mut seen = self.seen.clone();
        let (began, clock) = (Instant::now(), SystemTime::now());
        let params = PatchParams::apply(NAME).force();
        let written = self.gateways.patch(name, &params, &Patch::Apply(&object)).await?;
        let generation = written.metadata.generation.context("a generation")?;
        let at = seen.wait_for(|seen| seen.get(name).is_some_and(|(known, _)| *known >= generation)).await?;
        let (known, at) = *at.get(name).context("seen")?;
        ensure!(known == generation, "{name} was changed by somebody else");
        let since = |time: SystemTime| time.duration_since(clock).ok();
        let files = newest(&self.store, name)?;
        Ok(Sample {
            published: files.0.and_then(since),
            reported: files.1.and_then(since),
            programmed: at.saturating_duration_since(began),
        })
    }
}

/// When the newest release and the newest report of a fleet were written.
fn newest(store: &Path, name: &str) -> Result<(Option<SystemTime>, Option<SystemTime>)> {
    let fleet = FleetName::gateway(NAME, name);
    let part = Store::open(&format!("file://{}", store.display()))?.fleet(&fleet);
    let folder = part.local_dir().context("a folder")?;
    let times = |folder: PathBuf| -> Result<Option<SystemTime>> {
        let Ok(files) = std::fs::read_dir(folder) else { return Ok(None) };
        let times: Vec<SystemTime> =
            files.map(|file| Ok(file?.metadata()?.modified()?)).collect::<Result<_>>()?;
        Ok(times.into_iter().max())
    };
    Ok((times(folder.join(layout::log(&Channel::stable())))?, times(folder.join("status"))?))
}

/// Notes when generations are programmed.
async fn see(gateways: Api<DynamicObject>, out: watch::Sender<Seen>) {
    let events = watcher::watcher(gateways, watcher::Config::default());
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let Ok(Event::Apply(gateway) | Event::InitApply(gateway)) = event else { continue };
        let now = Instant::now();
        let name = gateway.metadata.name.clone().unwrap_or_default();
        if let Some(generation) = gateway.metadata.generation.filter(|_| is_programmed(&gateway)) {
            out.send_if_modified(|seen| {
                let is_new = seen.get(&name).is_none_or(|(known, _)| *known < generation);
                if is_new {
                    seen.insert(name, (generation, now));
                }
                is_new
            });
        }
    }
}

/// Whether the Gateway and all its listeners are programmed at the newest generation.
fn is_programmed(gateway: &DynamicObject) -> bool {
    let programmed = |place: &Value| {
        let conditions = place["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|condition| {
            condition["type"] == "Programmed"
                && condition["status"] == "True"
                && condition["observedGeneration"].as_i64() == gateway.metadata.generation
        })
    };
    let status = &gateway.data["status"];
    let listeners = status["listeners"].as_array();
    let wanted = gateway.data["spec"]["listeners"].as_array().map_or(0, Vec::len);
    programmed(status)
        && listeners.is_some_and(|listeners| listeners.len() == wanted && listeners.iter().all(programmed))
}
