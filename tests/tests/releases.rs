//! Releases with real processes: races, kills, plans, on-call keys, waiting.

use anyhow::{Context as _, Result, ensure};
use moorgate_snapshot::report::{EnvoyReport, FORMAT, Nack, Report};
use moorgate_snapshot::{Channel, Digest, FleetName, KeyPair, Store, layout};
use moorgate_tests::process::Running;
use moorgate_tests::program::{Outcome, moorgate, run};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A store on the local disk, the key of CI and that of people on call.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Result<Self> {
        let bench = Self { dir: tempfile::tempdir()? };
        for key in ["ci.key", "on-call.key"] {
            run(moorgate()?.arg("keygen").arg(bench.path(key)))?.ended_with(&[0])?;
        }
        let public = |name: &str| std::fs::read_to_string(bench.path(name));
        let trust = serde_json::json!({"format": 1, "keys": [
            {"public": public("ci.pub")?, "roles": ["publish", "report"]},
            {"public": public("on-call.pub")?, "roles": ["pin"]},
        ]});
        std::fs::write(bench.path("trust.json"), trust.to_string())?;
        Ok(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn url(&self) -> String {
        format!("file://{}", self.path("store").display())
    }

    /// A source with a gateway on this port.
    fn source(&self, port: u16) -> Result<String> {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: moorgate}}\nspec: \
             {{controllerName: moorgate.dev/gateway-controller}}\n---\napiVersion: gateway.networking.k8s.io/v1\n\
             kind: Gateway\nmetadata: {{name: edge, namespace: shop}}\nspec:\n  gatewayClassName: moorgate\n  \
             listeners: [{{name: http, port: {port}, protocol: HTTP}}]\n"
        );
        let path = self.path(&format!("{port}.yaml"));
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = moorgate()?;
        command.args(words).args(["--store", &self.url(), "--trust"]).arg(self.path("trust.json"));
        Ok(command)
    }

    /// A command that reads.
    fn read(&self, words: &[&str]) -> Result<Outcome> {
        run(&mut self.command(words)?)
    }

    /// A command that writes, with this key.
    fn write(&self, key: &str, words: &[&str]) -> Result<Outcome> {
        let key = format!("file:{}", self.path(key).display());
        run(self.command(words)?.args(["--key", &key]))
    }

    fn publish(&self, port: u16) -> Result<Outcome> {
        let source = self.source(port)?;
        self.write("ci.key", &["publish", &source, "-o", "json"])?.ended_with(&[0])
    }

    fn serving(&self) -> Result<Value> {
        let status = self.read(&["status", "shop/edge", "-o", "json"])?.ended_with(&[0])?.json()?;
        Ok(status["channels"][0]["serving"].clone())
    }

    /// What a relay would report: it serves `snapshot`, with one Envoy that has acknowledged it.
    fn report(&self, relay: &str, snapshot: &Value, change: impl Fn(&mut Report)) -> Result<()> {
        let snapshot: Digest = serde_json::from_value(snapshot.clone())?;
        let now = time::OffsetDateTime::now_utc();
        let mut report = Report {
            format: FORMAT,
            fleet: FleetName::gateway("shop", "edge"),
            channel: Channel::stable(),
            relay: relay.parse()?,
            labels: BTreeMap::new(),
            time: now.replace_nanosecond(0)?,
            interval_seconds: 300,
            version: "0.1.0".into(),
            features: Vec::new(),
            sequence: 1,
            entry: None,
            snapshot: Some(snapshot),
            because: "target".into(),
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
        change(&mut report);
        let key = KeyPair::from_pem(&std::fs::read(self.path("ci.key"))?)?;
        let stored = report.sign(&key)?.encode();
        let fleet = Store::open(&self.url())?.fleet(&FleetName::gateway("shop", "edge"));
        let name = layout::report(&relay.parse()?);
        let runtime = tokio::runtime::Runtime::new()?;
        Ok(runtime.block_on(fleet.overwrite(&name, stored.into()))?)
    }
}

fn files(under: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(under) else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

/// Another program that makes the same of a source writes nothing that a relay would read.
#[test]
fn another_translator_with_the_same_output_releases_nothing() -> Result<()> {
    let bench = Bench::new()?;
    let first = bench.publish(80)?.json()?;
    let before = files(&bench.path("store"));
    let other = bench.path("moorgate");
    let mut program = std::fs::read(moorgate_tests::program::binary("moorgate")?)?;
    // Another digest for provenance to name; what runs is the same.
    program.extend_from_slice(b"another build");
    std::fs::write(&other, program)?;
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let key = format!("file:{}", bench.path("ci.key").display());
    let mut command = Command::new(&other);
    command.args([
        "publish",
        &bench.source(80)?,
        "-o",
        "json",
        "--key",
        &key,
        "--store",
        &bench.url(),
        "--trust",
    ]);
    let second = run(command.arg(bench.path("trust.json")))?.ended_with(&[0])?.json()?;
    let fleet = |report: &Value| report["fleets"][0].clone();
    assert_eq!(fleet(&second)["result"], "unchanged", "{second}");
    assert_eq!(fleet(&second)["snapshot"], fleet(&first)["snapshot"]);
    assert_eq!(files(&bench.path("store")), before, "nothing was written");
    Ok(())
}

/// Both want the slot behind entry 1: one gets it, and the other is told who did.
#[test]
fn of_two_racing_processes_one_publishes_and_one_is_told_so() -> Result<()> {
    let bench = Bench::new()?;
    bench.publish(80)?;
    let key = format!("file:{}", bench.path("ci.key").display());
    for round in 1..=3u16 {
        let parent = round.to_string();
        let start = |n: u16| -> Result<std::thread::JoinHandle<Result<Outcome>>> {
            let source = bench.source(8000 + 10 * round + n)?;
            let mut command = bench.command(&["publish", &source, "--parent", &parent])?;
            command.args(["--key", &key, "--author", &format!("job-{n}")]);
            Ok(std::thread::spawn(move || run(&mut command)))
        };
        let jobs = [start(1)?, start(2)?];
        let mut codes = Vec::new();
        for job in jobs {
            let outcome = job.join().map_err(|_| anyhow::anyhow!("a job panicked"))??;
            if outcome.code == 4 {
                ensure!(
                    outcome.stderr.contains("moved") || outcome.stderr.contains("the channel is at entry"),
                    "{}",
                    outcome.stderr
                );
            }
            codes.push(outcome.code);
        }
        codes.sort_unstable();
        assert_eq!(codes, [0, 4], "round {round}");
    }
    let log = bench.read(&["log", "shop/edge", "-o", "json"])?.ended_with(&[0])?.json()?;
    assert_eq!(log["entries"].as_array().map(Vec::len), Some(4), "one entry a round");
    Ok(())
}

/// Killed when so many of its files are there: what is served is the old release or the new one, whole, and the next run
/// comes through.
#[test]
fn a_publisher_that_is_killed_leaves_no_half_release() -> Result<()> {
    let bench = Bench::new()?;
    bench.publish(80)?;
    let key = format!("file:{}", bench.path("ci.key").display());
    for round in 0..6u16 {
        let before = bench.serving()?;
        let source = bench.source(9000 + round)?;
        let stored = files(&bench.path("store"));
        let mut command = bench.command(&["publish", &source])?;
        let mut job = Running::start("publish", command.args(["--key", &key]), bench.dir.path())?;
        let deadline = Instant::now() + Duration::from_mins(1);
        while files(&bench.path("store")) < stored + usize::from(round) && job.check().is_ok() {
            ensure!(Instant::now() < deadline, "nothing was published");
            std::thread::yield_now();
        }
        job.kill();
        bench.read(&["verify", "shop/edge"])?.ended_with(&[0])?;
        let between = bench.serving()?;
        let again = bench.write("ci.key", &["publish", &source, "-o", "json"])?.ended_with(&[0])?.json()?;
        let new = &again["fleets"][0]["snapshot"];
        assert!(between == before || between == *new, "round {round}: {between}");
        assert_eq!(bench.serving()?, *new, "round {round}");
    }
    Ok(())
}

#[test]
fn a_plan_is_published_byte_for_byte_or_not_at_all() -> Result<()> {
    let bench = Bench::new()?;
    let first = bench.publish(80)?.json()?;
    let source = bench.source(8080)?;
    let (one, two) = (bench.path("one.plan"), bench.path("two.plan"));
    let plan = |out: &Path, format: &str| {
        bench.read(&["plan", &source, "--out", &out.display().to_string(), "-o", format])
    };
    let planned = plan(&one, "json")?.ended_with(&[0])?.json()?;
    let fleet = &planned["fleets"][0];
    assert_eq!(fleet["parent"]["sequence"], 1);
    assert_eq!(fleet["serving"], first["fleets"][0]["snapshot"]);
    assert!(fleet["changes"].as_array().is_some_and(|changes| !changes.is_empty()), "{planned}");
    let page = plan(&two, "markdown")?.ended_with(&[0])?.stdout;
    assert!(page.starts_with("<!-- moorgate plan -->\n") && page.contains("listener"), "{page}");
    assert_eq!(std::fs::read(&one)?, std::fs::read(&two)?, "the same input, another plan");
    // The source is not looked at any more.
    std::fs::remove_file(&source)?;
    let file = one.display().to_string();
    let done = bench.write("ci.key", &["publish", &file, "-o", "json"])?.ended_with(&[0])?.json()?;
    assert_eq!(done["fleets"][0]["snapshot"], fleet["snapshot"]);
    assert_eq!(bench.serving()?, fleet["snapshot"]);
    // The channel has moved: by this very plan.
    let refused = bench.write("ci.key", &["publish", &file])?.ended_with(&[4])?;
    assert!(refused.stderr.contains("entry 2"), "{}", refused.stderr);
    bench.write("ci.key", &["publish", &file, "--channel", "next"])?.ended_with(&[2])?;
    // One byte of it is another.
    let mut bytes = std::fs::read(&two)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&two, bytes)?;
    bench.write("ci.key", &["publish", &two.display().to_string()])?.ended_with(&[5])?;
    Ok(())
}

/// What waits behind a pin is said in the plan, so that the pin is not forgotten.
#[test]
fn a_plan_says_that_it_waits_behind_a_pin() -> Result<()> {
    let bench = Bench::new()?;
    bench.publish(80)?;
    bench.publish(81)?;
    bench
        .write("on-call.key", &["rollback", "shop/edge", "--reason", "checkout broken"])?
        .ended_with(&[0])?;
    let source = bench.source(82)?;
    let planned = bench.read(&["plan", &source])?.ended_with(&[0])?;
    assert!(planned.stdout.contains("waits"), "{}", planned.stdout);
    assert!(planned.stderr.contains("checkout broken"), "{}", planned.stderr);
    Ok(())
}

/// No git, no CI, no source: a key that may pin, the store, and nothing else.
#[test]
fn people_on_call_roll_back_without_git_or_ci() -> Result<()> {
    let bench = Bench::new()?;
    let first = bench.publish(80)?.json()?;
    let second = bench.publish(81)?.json()?;
    let key = format!("file:{}", bench.path("on-call.key").display());
    let empty = tempfile::tempdir()?;
    let mut command =
        bench.command(&["rollback", "shop/edge", "--reason", "checkout broken", "-o", "json"])?;
    command.args(["--key", &key]).env("PATH", "").current_dir(empty.path());
    let rolled = run(&mut command)?.ended_with(&[0])?.json()?;
    assert_eq!(rolled["serving"], first["fleets"][0]["snapshot"]);
    assert_eq!(rolled["action"], "pin");
    assert_eq!(rolled["entry"]["state"]["pin"]["reason"], "checkout broken");
    assert_eq!(bench.serving()?, first["fleets"][0]["snapshot"]);
    let source = bench.source(82)?;
    bench.write("on-call.key", &["publish", &source])?.ended_with(&[4])?;
    bench.write("on-call.key", &["hold", "shop/edge", "--reason", "r"])?.ended_with(&[4])?;
    let back = second["fleets"][0]["snapshot"].as_str().context("no snapshot")?.to_owned();
    bench.write("on-call.key", &["unpin", "shop/edge", "--to", &back])?.ended_with(&[0])?;
    assert_eq!(bench.serving()?, second["fleets"][0]["snapshot"]);
    Ok(())
}

#[test]
fn waiting_ends_when_relays_say_so() -> Result<()> {
    let bench = Bench::new()?;
    let published = bench.publish(80)?.json()?;
    let snapshot = published["fleets"][0]["snapshot"].clone();
    let id = snapshot.as_str().context("no snapshot")?;
    let wait = |more: &[&str]| {
        bench.read(
            &[&["wait", "shop/edge", "--timeout", "1s", "--interval", "1s", "-o", "json"], more].concat(),
        )
    };
    let nobody = wait(&[])?.ended_with(&[7])?.json()?;
    assert_eq!((&nobody["result"], &nobody["expected"]), (&"timeout".into(), &0.into()));
    bench.report("relay-a", &snapshot, |_| {})?;
    let live = wait(&["--snapshot", &id[..12]])?.ended_with(&[0])?.json()?;
    assert_eq!((&live["live"], &live["envoys_acked"]), (&1.into(), &1.into()));
    let more = wait(&["--relays", "2"])?.ended_with(&[7])?.json()?;
    assert_eq!((&more["live"], &more["expected"]), (&1.into(), &2.into()));
    bench.report("relay-b", &snapshot, |report| {
        report.envoys_acked = 0;
        let nack = Nack {
            snapshot: report.snapshot,
            type_url: "type.googleapis.com/envoy.config.listener.v3.Listener".into(),
            text: "cannot bind\u{1b}[31m".into(),
        };
        report.envoys = vec![EnvoyReport { node: "edge-1".into(), acked: None, nack: Some(nack) }];
    })?;
    let refused = bench.read(&["wait", "shop/edge", "--timeout", "60s"])?.ended_with(&[1])?;
    assert!(
        refused.stdout.contains("relay-b") && refused.stdout.contains("cannot bind"),
        "{}",
        refused.stdout
    );
    assert!(!refused.stdout.contains('\u{1b}'), "{}", refused.stdout);
    // Half of them are live: that is a share too.
    wait(&["--percent", "50"])?.ended_with(&[0])?;
    let table = bench.read(&["status"])?.ended_with(&[0])?.stdout;
    assert!(table.contains("1/2") && table.contains("refused by relay-b"), "{table}");
    let status = bench.read(&["status", "-o", "json"])?.ended_with(&[0])?.json()?;
    assert_eq!(status["reports"][0]["trusted"], true);
    assert_eq!(status["channels"][0]["relays"]["live"], 1);
    Ok(())
}

/// `publish --wait` of a wave: the canary refuses, the channel is pinned back, and the job says so.
#[test]
fn a_job_that_waits_halts_its_wave() -> Result<()> {
    let bench = Bench::new()?;
    let first = bench.publish(80)?.json()?;
    let source = bench.source(81)?;
    let wave = ["publish", &source, "--step", "relay=relay-a,bake=1h", "-o", "json"];
    let published = bench.write("ci.key", &wave)?.ended_with(&[0])?.json()?;
    let new = published["fleets"][0]["snapshot"].clone();
    assert_eq!(bench.serving()?, first["fleets"][0]["snapshot"], "only the canary takes it");
    bench.write("ci.key", &["step", "shop/edge"])?.ended_with(&[4])?;
    bench.report("relay-a", &first["fleets"][0]["snapshot"], |report| {
        let new = serde_json::from_value(new.clone()).expect("a digest");
        report.refused.insert(new, "Envoy edge-1: no".into());
    })?;
    // The first job is gone; the next one finds the wave where it stands.
    let halted = bench.write("ci.key", &[&wave[..], &["--wait"]].concat())?.ended_with(&[4])?.json()?;
    assert_eq!(halted["fleets"][0]["rollout"]["result"], "halted", "{halted}");
    let status = bench.read(&["status", "-o", "json"])?.ended_with(&[0])?.json()?;
    let state = &status["channels"][0]["state"];
    assert_eq!(state["bad"][0], new);
    assert_eq!(state["pin"]["release"]["snapshot"], first["fleets"][0]["snapshot"]);
    bench.write("ci.key", &wave)?.ended_with(&[4])?;
    Ok(())
}
