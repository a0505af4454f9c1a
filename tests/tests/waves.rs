//! Waves over whole stacks: real relays in zones, real Envoys, releases by the command.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use anyhow::{Context as _, Result, ensure};
use moorgate_snapshot::{Report, Trust};
use moorgate_tests::backend::Backend;
use moorgate_tests::http::{Request, Target, send};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::process::Running;
use moorgate_tests::program::run;
use moorgate_tests::stack::Stack;
use moorgate_tests::{ports, wait};
use serde_json::Value;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

const HOST: &str = "shop.example.com";
const FLEET: &str = "edge/public";
const ZONES: [&str; 3] = ["canary", "east", "west"];

/// One store, and a relay in each zone.
struct Zones {
    stacks: Vec<Stack>,
    port: u16,
    backend: Backend,
}

impl Zones {
    /// Publishes a first release to all of them.
    fn serving() -> Result<Self> {
        let (port, backend) = (ports::free()?, Backend::start("shop")?);
        let mut stacks = vec![Stack::new(FLEET)?];
        for _ in &ZONES[1..] {
            stacks.push(Stack::beside(&stacks[0])?);
        }
        let mut zones = Self { stacks, port, backend };
        zones.write("shop", None)?;
        zones.stacks[0].publish(&zones.source())?;
        for (stack, zone) in zones.stacks.iter_mut().zip(ZONES) {
            stack.set_endpoints("shop", "shop", &[zones.backend.address()])?;
            let key = format!("file:{}", stack.key().display());
            let envoy = format!("http://127.0.0.1:{}", stack.admin_port());
            let label = format!("zone={zone}");
            let arguments =
                ["--name", zone, "--label", &label, "--report-key", &key, "--envoy-admin", &envoy];
            stack.relay_arguments = arguments.map(str::to_owned).to_vec();
            stack.start_relay()?;
        }
        Ok(zones)
    }

    fn source(&self) -> PathBuf {
        self.stacks[0].folder().join("source.yaml")
    }

    /// The one route goes to this service; the Gateway listens on a second port, too, if one is given.
    fn write(&self, service: &str, second: Option<u16>) -> Result<()> {
        let mut listeners = vec![Listener::http("http", self.port)];
        listeners.extend(second.map(|port| Listener::http("second", port)));
        let gateway = manifest::gateway("edge", "public", &listeners);
        let route = manifest::http_route("shop", "shop", FLEET, &[HOST], &manifest::rule("/", service));
        let services = ["shop", "broken"].map(|name| manifest::service("shop", name));
        let [shop, broken] = services;
        let all = [manifest::gateway_class(), gateway, route, shop, broken];
        Ok(std::fs::write(self.source(), manifest::documents(&all))?)
    }

    /// Publishes what was written as a candidate for the zone `canary`; both snapshots, the one of all and this one.
    fn candidate(&self, step: &str) -> Result<(String, String)> {
        let stable = self.status("canary")?["snapshot"].as_str().context("a snapshot")?.to_owned();
        let candidate = self.stacks[0].compiled(&self.source())?;
        ensure!(stable != candidate, "nothing changed");
        let mut command = self.stacks[0].signed("publish")?;
        command.arg(self.source()).args(["--step", step, "--step", "percent=100"]);
        run(&mut command)?.ended_with(&[0])?;
        Ok((stable, candidate))
    }

    /// What the relay of a zone says of the fleet.
    fn status(&self, zone: &str) -> Result<Value> {
        let at = ZONES.iter().position(|known| *known == zone).context("a zone")?;
        Ok(self.stacks[at].relay_admin("/snapshot")?["fleets"][0].clone())
    }

    /// Waits until the canary has given the candidate back, and returns why.
    fn given_back(&self, stable: &str, candidate: &str) -> Result<String> {
        wait::until("the canary to give the candidate back", || {
            let status = self.status("canary")?;
            let why = status["quarantined"][candidate].as_str();
            ensure!(status["snapshot"] == stable && why.is_some(), "{status}");
            Ok(why.unwrap_or_default().to_owned())
        })
    }

    /// The other zones know of the candidate, and never took it.
    fn others_never_saw_it(&self, stable: &str, candidate: &str) -> Result<()> {
        for zone in &ZONES[1..] {
            wait::until("the other zones to know of the candidate", || {
                let status = self.status(zone)?;
                ensure!(status["sequence"].as_u64() >= Some(2), "{status}");
                Ok(())
            })?;
            let status = self.status(zone)?;
            ensure!(status["snapshot"] == stable && status["because"] == "target", "{status}");
            let at = ZONES.iter().position(|known| known == zone).unwrap_or_default();
            let clients = self.stacks[at].relay_admin("/clients")?.to_string();
            ensure!(!clients.contains(candidate), "{clients}");
            let objects = self.stacks[at].cache().join("edge.public/objects").join(candidate);
            ensure!(!objects.exists(), "zone {zone} fetched the candidate");
        }
        Ok(())
    }

    /// The canary's report in the store, by a trusted key.
    fn report(&self) -> Result<Report> {
        let path = self.stacks[0].store().join("fleets/gateway/edge/public/status/canary.json");
        let trust = Trust::parse(&std::fs::read(self.stacks[0].trust())?)?;
        let reported = Report::read(&std::fs::read(path)?, &trust, &FLEET.parse()?, &"canary".parse()?)?;
        ensure!(reported.untrusted.is_none(), "{:?}", reported.untrusted);
        Ok(reported.report)
    }

    /// A publisher that stays, with this wave.
    fn publisher(&self, steps: &[&str]) -> Result<Command> {
        let mut command = self.stacks[0].signed("publish")?;
        command.arg(self.source()).args(["--wait", "--wait-interval", "1s", "-o", "json"]);
        command.args(steps.iter().flat_map(|step| ["--step", step]));
        Ok(command)
    }

    /// The entries of the channel's log, the newest last.
    fn entries(&self) -> Result<Vec<Value>> {
        let mut log = self.stacks[0].command("log")?;
        let printed = run(log.arg(FLEET).args(["-o", "json"]))?.ended_with(&[0])?.json()?;
        let entries = printed["entries"].as_array().context("entries")?;
        let mut entries: Vec<Value> = entries.iter().map(|slot| slot["entry"].clone()).collect();
        entries.sort_by_key(|entry| entry["sequence"].as_u64());
        Ok(entries)
    }

    /// The relays of these zones have the snapshot, as what is in force for all.
    fn in_force(&self, zones: &[&str], snapshot: &str) -> Result<()> {
        for zone in zones {
            wait::until("the release in force", || {
                let status = self.status(zone)?;
                ensure!(status["snapshot"] == snapshot && status["because"] == "target", "{status}");
                Ok(())
            })?;
        }
        Ok(())
    }

    /// No byte of the candidate is in the caches of the other zones, and none of their Envoys was offered it.
    fn others_never_fetched(&self, candidate: &str) -> Result<()> {
        for stack in &self.stacks[1..] {
            let objects = stack.cache().join("edge.public/objects").join(candidate);
            ensure!(!objects.exists(), "{} was fetched", objects.display());
            let clients = stack.relay_admin("/clients")?.to_string();
            ensure!(!clients.contains(candidate), "{clients}");
        }
        Ok(())
    }

    /// The publisher reads the report and does not go on.
    fn publisher_stops(&self) -> Result<()> {
        let mut step = self.stacks[0].signed("step")?;
        run(step.arg(FLEET))?.ended_with(&[4])?;
        Ok(())
    }
}

#[test]
fn f29_f30_an_envoy_that_refuses_a_candidate_keeps_it_from_all_other_zones() -> Result<()> {
    let mut zones = Zones::serving()?;
    let port = zones.port;
    zones.stacks[0].start_envoy(&[port])?;
    zones.stacks[1].start_envoy(&[port])?;
    // Somebody else has the second port: Envoy refuses the listener.
    let taken = TcpListener::bind("0.0.0.0:0")?;
    zones.write("shop", Some(taken.local_addr()?.port()))?;
    let (stable, candidate) = zones.candidate("zone=canary,bake=1h")?;
    let why = zones.given_back(&stable, &candidate)?;
    ensure!(why.starts_with("LDS: "), "{why}");
    wait::until("the canary's Envoy to be back", || {
        let clients = zones.stacks[0].relay_admin("/clients")?;
        ensure!(clients["fleets"][0]["clients"][0]["synced"] == stable.as_str(), "{clients}");
        Ok(())
    })?;
    zones.others_never_saw_it(&stable, &candidate)?;
    // A report is one line of clean text.
    let told = why.replace('\n', " ");
    wait::until("the canary's report", || {
        let report = zones.report()?;
        ensure!(report.refused.get(&candidate.parse()?) == Some(&told), "{report:?}");
        ensure!(report.snapshot == Some(stable.parse()?) && report.envoys_acked == 1, "{report:?}");
        ensure!(report.labels["zone"] == "canary" && report.envoys[0].nack.is_some(), "{report:?}");
        Ok(())
    })?;
    zones.publisher_stops()?;
    // A restart does not make it try again.
    zones.stacks[0].start_relay()?;
    ensure!(zones.status("canary")?["snapshot"] == stable.as_str(), "{}", zones.status("canary")?);
    Ok(())
}

#[test]
fn a_candidate_whose_answers_fail_is_given_back_by_its_zone_alone() -> Result<()> {
    let mut zones = Zones::serving()?;
    let port = zones.port;
    zones.stacks[0].start_envoy(&[port])?;
    let ask = || Ok::<_, anyhow::Error>(send(&Target::plain(port), &Request::get(HOST, "/"))?.status);
    wait::until("an answer", || {
        let status = ask()?;
        ensure!(status == 200, "{status}");
        Ok(())
    })?;
    // A service without endpoints: 503.
    zones.write("broken", None)?;
    let (stable, candidate) = zones.candidate("zone=canary,bake=1h,max-errors=10")?;
    wait::until("the candidate to fail and to be given back", || {
        for _ in 0..10 {
            let _ = ask();
        }
        let status = zones.status("canary")?;
        ensure!(status["quarantined"][&candidate].is_string(), "{status}");
        Ok(())
    })?;
    let why = zones.given_back(&stable, &candidate)?;
    ensure!(why.starts_with("health: "), "{why}");
    wait::until("good answers again", || {
        let status = ask()?;
        ensure!(status == 200, "{status}");
        Ok(())
    })?;
    zones.others_never_saw_it(&stable, &candidate)?;
    wait::until("the canary's report", || {
        let report = zones.report()?;
        ensure!(report.healthy == Some(false), "{report:?}");
        ensure!(report.refused.get(&candidate.parse()?) == Some(&why), "{report:?}");
        Ok(())
    })?;
    zones.publisher_stops()
}

#[test]
fn a_publisher_that_waits_takes_a_good_candidate_through_its_steps() -> Result<()> {
    let mut zones = Zones::serving()?;
    let (port, second) = (zones.port, ports::free()?);
    for stack in &mut zones.stacks[..2] {
        stack.start_envoy(&[port])?;
    }
    zones.write("shop", Some(second))?;
    let candidate = zones.stacks[0].compiled(&zones.source())?;
    let steps = ["zone=canary,bake=1s", "zone=east,bake=1s", "percent=100,bake=1s"];
    let done = run(&mut zones.publisher(&steps)?)?.ended_with(&[0])?;
    let fleet = done.json()?["fleets"][0].clone();
    let rollout = &fleet["rollout"];
    ensure!(rollout["result"] == "live" && rollout["live"] == 3 && rollout["envoys_acked"] == 2, "{fleet}");
    // One entry a step: the first with the publish, and the last that puts it in force.
    let entries = zones.entries()?;
    let actions: Vec<&str> = entries.iter().filter_map(|entry| entry["action"].as_str()).collect();
    assert_eq!(actions, ["publish", "publish", "step", "step", "step"], "{entries:?}");
    zones.in_force(&ZONES, &candidate)?;
    for stack in &mut zones.stacks[..2] {
        stack.envoy()?.wait_for_listeners(&[port, second])?;
    }
    Ok(())
}

#[test]
fn f30_a_publisher_that_waits_halts_what_one_envoy_refuses_and_pins() -> Result<()> {
    let mut zones = Zones::serving()?;
    let port = zones.port;
    for stack in &mut zones.stacks[..2] {
        stack.start_envoy(&[port])?;
    }
    let stable = zones.status("canary")?["snapshot"].as_str().context("a snapshot")?.to_owned();
    let taken = TcpListener::bind("0.0.0.0:0")?;
    zones.write("shop", Some(taken.local_addr()?.port()))?;
    let candidate = zones.stacks[0].compiled(&zones.source())?;
    let ended = run(&mut zones.publisher(&["zone=canary,bake=1h", "percent=100"])?)?.ended_with(&[4])?;
    let rollout = ended.json()?["fleets"][0]["rollout"].clone();
    let detail = rollout["detail"].as_str().context("a reason")?;
    ensure!(rollout["result"] == "halted" && rollout["sequence"] == 3, "{rollout}");
    // The relay, and what its Envoy said.
    let why = zones.given_back(&stable, &candidate)?;
    let said = why.strip_prefix("LDS: ").context("what Envoy said")?.replace('\n', " ");
    ensure!(detail.contains("canary: ") && detail.contains(said.trim()), "{detail}\n{said}");
    ensure!(ended.stderr.contains("canary: "), "{}", ended.stderr);
    let entries = zones.entries()?;
    let newest = entries.last().context("an entry")?;
    ensure!(newest["action"] == "pin" && newest["sequence"] == 3, "{newest}");
    ensure!(newest["state"]["pin"]["release"]["snapshot"] == stable.as_str(), "{newest}");
    ensure!(newest["state"]["bad"][0] == candidate.as_str(), "{newest}");
    for zone in ZONES {
        wait::until("the pin everywhere", || {
            let status = zones.status(zone)?;
            ensure!(status["sequence"] == 3 && status["snapshot"] == stable.as_str(), "{status}");
            Ok(())
        })?;
    }
    zones.others_never_fetched(&candidate)
}

#[test]
fn a_publisher_that_is_killed_leaves_the_wave_where_it_stands() -> Result<()> {
    let mut zones = Zones::serving()?;
    let (port, second) = (zones.port, ports::free()?);
    zones.stacks[0].start_envoy(&[port])?;
    zones.write("shop", Some(second))?;
    let candidate = zones.stacks[0].compiled(&zones.source())?;
    let steps = ["zone=canary,bake=1h", "zone=east,bake=1s", "percent=100,bake=1s"];
    let logs = zones.stacks[0].folder().join("logs");
    let mut publisher = Running::start("publisher", &mut zones.publisher(&steps)?, &logs)?;
    wait::until("the publisher to watch the first step bake", || {
        publisher.check()?;
        ensure!(publisher.output().contains("step 1 of 3 bakes"), "{}", publisher.output());
        Ok(())
    })?;
    publisher.kill();
    // Where it stood, whatever the canary reports.
    let stands = |zones: &Zones, step: u64, count: usize| -> Result<()> {
        let entries = zones.entries()?;
        let newest = entries.last().context("an entry")?;
        ensure!(entries.len() == count && newest["state"]["candidate"]["step"] == step, "{entries:?}");
        Ok(())
    };
    stands(&zones, 1, 2)?;
    ensure!(zones.status("canary")?["snapshot"] == candidate.as_str(), "{}", zones.status("canary")?);
    zones.others_never_fetched(&candidate)?;
    // Anybody goes on: by a step, and by the same command again, which takes it to its end.
    let mut step = zones.stacks[0].signed("step")?;
    run(step.arg(FLEET).args(["--force", "--reason", "seen enough"]))?.ended_with(&[0])?;
    stands(&zones, 2, 3)?;
    let done = run(&mut zones.publisher(&steps)?)?.ended_with(&[0])?;
    let fleet = done.json()?["fleets"][0].clone();
    ensure!(fleet["result"] == "unchanged" && fleet["rollout"]["result"] == "live", "{fleet}");
    assert_eq!(zones.entries()?.len(), 5);
    zones.in_force(&ZONES, &candidate)
}
