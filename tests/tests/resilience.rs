//! What breaks must not stop a serving Envoy: processes killed at any step, the store gone, its objects damaged.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use anyhow::{Result, ensure};
use moorgate_tests::backend::Backend;
use moorgate_tests::http::{Request, Target, send_until};
use moorgate_tests::load::Load;
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::process::Running;
use moorgate_tests::program::{Outcome, run};
use moorgate_tests::stack::{CHANNEL, Stack};
use moorgate_tests::{ports, wait};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const HOST: &str = "shop.example.com";

/// The two backends between which releases go back and forth.
const COLOURS: [&str; 2] = ["blue", "green"];

/// A serving fleet whose one route goes to either of two backends.
struct Stage {
    stack: Stack,
    port: u16,
    colour: usize,
    _backends: Vec<Backend>,
}

impl Stage {
    /// Publishes blue and starts relay and Envoy.
    fn serving() -> Result<Self> {
        let (stack, port) = (Stack::new("edge/public")?, ports::free()?);
        let mut backends = Vec::new();
        for name in COLOURS {
            let backend = Backend::start(name)?;
            stack.set_endpoints("shop", name, &[backend.address()])?;
            backends.push(backend);
        }
        let mut stage = Self { stack, port, colour: 0, _backends: backends };
        stage.write_source()?;
        stage.publish()?;
        stage.stack.start_relay()?;
        stage.stack.start_envoy(&[port])?;
        stage.answers()?;
        Ok(stage)
    }

    fn now(&self) -> &'static str {
        COLOURS[self.colour]
    }

    fn source(&self) -> PathBuf {
        self.stack.folder().join("source.yaml")
    }

    /// The other colour from now on.
    fn turn(&mut self) -> Result<()> {
        self.colour = 1 - self.colour;
        self.write_source()
    }

    fn write_source(&self) -> Result<()> {
        let gateway = manifest::gateway("edge", "public", &[Listener::http("http", self.port)]);
        let rules = manifest::rule("/", self.now());
        let route = manifest::http_route("shop", "shop", "edge/public", &[HOST], &rules);
        let [blue, green] = COLOURS.map(|name| manifest::service("shop", name));
        let all = [manifest::gateway_class(), gateway, route, blue, green];
        Ok(std::fs::write(self.source(), manifest::documents(&all))?)
    }

    fn publish(&self) -> Result<()> {
        self.stack.publish(&self.source())?;
        Ok(())
    }

    /// Waits until the colour of now answers.
    fn answers(&self) -> Result<()> {
        let request = Request::get(HOST, "/");
        let what = format!("an answer of {}", self.now());
        send_until(&Target::plain(self.port), &request, &what, |answer| answer.who() == self.now())?;
        Ok(())
    }

    fn load(&self) -> Load {
        Load::start(&Target::plain(self.port), &Request::get(HOST, "/"), 2, Duration::from_millis(3))
    }

    fn kill_relay(&mut self) -> Result<()> {
        self.stack.relay()?.kill();
        Ok(())
    }
}

/// Every file below a folder, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let list = if entry.file_type().unwrap().is_dir() { &mut folders } else { &mut found };
            list.push(entry.path());
        }
    }
    found.sort();
    found
}

/// Ways to damage a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Cut,
    Empty,
    Flip,
    Remove,
}

const DAMAGES: [Damage; 4] = [Damage::Cut, Damage::Empty, Damage::Flip, Damage::Remove];

/// Damages a file and gives what it held.
fn damage(file: &Path, how: Damage) -> Vec<u8> {
    let good = std::fs::read(file).unwrap();
    let mut bad = good.clone();
    match how {
        Damage::Cut => bad.truncate(good.len() / 2),
        Damage::Empty => bad.clear(),
        Damage::Flip => {
            let middle = bad.len() / 2;
            if let Some(byte) = bad.get_mut(middle) {
                *byte ^= 0x20;
            }
        }
        Damage::Remove => {
            std::fs::remove_file(file).unwrap();
            return good;
        }
    }
    std::fs::write(file, bad).unwrap();
    good
}

#[test]
fn a_damaged_object_never_stops_a_serving_envoy() {
    let mut stage = Stage::serving().unwrap();
    stage.turn().unwrap();
    stage.publish().unwrap();
    stage.answers().unwrap();
    let load = stage.load();
    let objects = files(&stage.stack.store());
    assert!(objects.len() >= 5, "{objects:?}");
    for object in objects {
        for how in DAMAGES {
            let good = damage(&object, how);
            load.wait(20).unwrap();
            stage.stack.relay().unwrap().check().unwrap();
            std::fs::write(&object, good).unwrap();
        }
    }
    let report = load.stop();
    report.nothing_lost().unwrap();
    assert_eq!(report.from(stage.now()), report.sent, "an old snapshot came back: {:?}", report.answers);
    stage.turn().unwrap();
    stage.publish().unwrap();
    stage.answers().unwrap();
}

#[test]
fn a_release_with_a_damaged_object_waits_and_the_next_one_comes_through() {
    let mut stage = Stage::serving().unwrap();
    let load = stage.load();
    // Enough rounds for every object that a release adds, in every way to damage it.
    for round in 0.. {
        let before: BTreeSet<PathBuf> = files(&stage.stack.store()).into_iter().collect();
        stage.kill_relay().unwrap();
        // A route of its own in each round, so that each release has objects of its own.
        stage.turn().unwrap();
        let path = format!("/round-{round}");
        let extra = manifest::rule(&path, stage.now());
        let route = manifest::http_route("shop", "round", "edge/public", &[HOST], &extra);
        let text = std::fs::read_to_string(stage.source()).unwrap() + "---\n" + &route;
        std::fs::write(stage.source(), text).unwrap();
        stage.publish().unwrap();
        let added: Vec<PathBuf> =
            files(&stage.stack.store()).into_iter().filter(|file| !before.contains(file)).collect();
        let Some(object) = added.get(round / DAMAGES.len()) else {
            assert!(round >= 3 * DAMAGES.len(), "a release added only {added:?}");
            break;
        };
        let good = damage(object, DAMAGES[round % DAMAGES.len()]);
        // It comes up, from its disk at least, and Envoy goes on.
        stage.stack.start_relay().unwrap();
        load.wait(30).unwrap();
        load.report().nothing_lost().unwrap_or_else(|error| panic!("{}: {error:#}", object.display()));
        std::fs::write(object, good).unwrap();
        stage.turn().unwrap();
        stage.publish().unwrap();
        stage.answers().unwrap();
    }
    load.stop().nothing_lost().unwrap();
}

#[test]
fn without_a_store_everything_restarts_and_a_store_that_comes_back_is_followed() {
    let mut stage = Stage::serving().unwrap();
    let load = stage.load();
    load.wait(20).unwrap();
    let hidden = stage.stack.folder().join("hidden");
    std::fs::rename(stage.stack.store(), &hidden).unwrap();
    load.wait(100).unwrap();
    stage.kill_relay().unwrap();
    load.wait(50).unwrap();
    stage.stack.start_relay().unwrap();
    load.wait(50).unwrap();
    load.stop().nothing_lost().unwrap();
    for _ in 0..2 {
        stage.stack.kill_all();
        stage.stack.start_relay().unwrap();
        stage.stack.start_envoy(&[stage.port]).unwrap();
        stage.answers().unwrap();
    }
    let load = stage.load();
    std::fs::rename(&hidden, stage.stack.store()).unwrap();
    stage.turn().unwrap();
    stage.publish().unwrap();
    load.wait_for(stage.now(), 20).unwrap();
    load.stop().nothing_lost().unwrap();
}

#[test]
fn a_relay_killed_at_any_step_of_an_update_never_stops_envoy() {
    let mut stage = Stage::serving().unwrap();
    let load = stage.load();
    for round in 0..8_u64 {
        stage.turn().unwrap();
        let source = stage.source();
        let mut publish = stage.stack.signed("publish").unwrap();
        let logs = stage.stack.folder().join("logs");
        let mut publisher = Running::start("publish", publish.arg(&source), &logs).unwrap();
        // Somewhere between before the commit and after the acknowledgement; which moment it is decides nothing.
        std::thread::sleep(Duration::from_millis(round * 40));
        stage.kill_relay().unwrap();
        stage.stack.start_relay().unwrap();
        let ended = wait::until("the publisher to end", || {
            ensure!(publisher.check().is_err(), "it runs");
            Ok(())
        });
        ended.unwrap();
        load.wait_for(stage.now(), 20).unwrap();
    }
    load.stop().nothing_lost().unwrap();
}

#[test]
fn a_publisher_killed_at_any_step_leaves_a_store_that_verifies() {
    let mut stage = Stage::serving().unwrap();
    let load = stage.load();
    for round in 0..12_u64 {
        stage.turn().unwrap();
        let source = stage.source();
        let mut publish = stage.stack.signed("publish").unwrap();
        let logs = stage.stack.folder().join("logs");
        let mut publisher = Running::start("publish", publish.arg(&source), &logs).unwrap();
        std::thread::sleep(Duration::from_millis(round * 15));
        publisher.kill();
        let mut verify = stage.stack.command("verify").unwrap();
        verify.args(["edge/public", "--channel", CHANNEL]);
        run(&mut verify).unwrap().ended_with(&[0]).unwrap();
        stage.stack.relay().unwrap().check().unwrap();
        stage.publish().unwrap();
        load.wait_for(stage.now(), 5).unwrap();
    }
    load.stop().nothing_lost().unwrap();
}

#[test]
fn an_envoy_killed_at_any_time_comes_back_as_it_was() {
    let mut stage = Stage::serving().unwrap();
    for _ in 0..3 {
        stage.turn().unwrap();
        stage.publish().unwrap();
        stage.stack.envoy().unwrap().process().kill();
        stage.stack.start_envoy(&[stage.port]).unwrap();
        stage.answers().unwrap();
    }
}

#[test]
fn a_damaged_cache_costs_nothing_while_the_store_is_there() {
    let mut stage = Stage::serving().unwrap();
    stage.turn().unwrap();
    stage.publish().unwrap();
    stage.answers().unwrap();
    let load = stage.load();
    stage.kill_relay().unwrap();
    let kept = files(&stage.stack.cache());
    assert!(!kept.is_empty(), "the relay keeps nothing on disk");
    for file in kept {
        for how in DAMAGES {
            stage.kill_relay().unwrap();
            if !file.exists() {
                continue;
            }
            damage(&file, how);
            stage.stack.start_relay().unwrap();
            load.wait(10).unwrap();
            stage.stack.relay().unwrap().check().unwrap();
        }
    }
    stage.answers().unwrap();
    // An older generation may answer while the newest is fetched again.
    load.wait_for(stage.now(), 20).unwrap();
    load.stop().nothing_lost().unwrap();
}

/// A small disk of its own under a relay's cache, in a mount namespace that ends with this value.
struct SmallDisk {
    holder: Running,
    cache: PathBuf,
}

impl SmallDisk {
    /// As root, or as root of a user namespace where the kernel gives one to anybody.
    fn mount(stack: &Stack) -> Result<Self> {
        let cache = stack.cache();
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        let script = "mount -t tmpfs -o size=256k,mode=700 moorgate-test \"$0\" && echo mounted && exec sleep infinity";
        command.args(["sh", "-c", script]).arg(&cache);
        let mut holder = Running::start("disk", &mut command, &stack.folder().join("logs"))?;
        wait::until("a disk of 256 kB", || {
            holder.check()?;
            ensure!(holder.output().contains("mounted"), "{}", holder.output());
            Ok(())
        })?;
        Ok(Self { holder, cache })
    }

    /// How a program is started so that it sees this disk.
    fn inside(&self) -> Vec<String> {
        let process = self.holder.id().to_string();
        let mut words = vec!["nsenter", "--target", &process, "--mount"];
        if !rustix::process::geteuid().is_root() {
            words.extend(["--user", "--preserve-credentials"]);
        }
        words.into_iter().map(str::to_owned).collect()
    }

    /// Runs a script with the cache's folder as `$0`.
    fn run(&self, script: &str) -> Result<Outcome> {
        let inside = self.inside();
        let mut command = Command::new(&inside[0]);
        run(command.args(&inside[1..]).args(["sh", "-euc", script]).arg(&self.cache))?.ended_with(&[0])
    }
}

/// A real disk that is full, and then takes no writes at all: what was kept is served, and what comes in while the disk is
/// full is served from memory.
#[test]
fn f22_a_full_or_read_only_disk_costs_nothing_but_the_newest_generation() -> Result<()> {
    let mut stack = Stack::new("edge/public")?;
    let disk = SmallDisk::mount(&stack)?;
    stack.relay_prefix = disk.inside();
    let publish = |stack: &Stack, path: &str| -> Result<String> {
        let gateway = manifest::gateway("edge", "public", &[Listener::http("http", 8080)]);
        let rules = manifest::rule(path, "shop");
        let route = manifest::http_route("shop", "shop", "edge/public", &[HOST], &rules);
        let all = [manifest::gateway_class(), gateway, route, manifest::service("shop", "shop")];
        stack.publish_documents(&all)?;
        stack.compiled(&stack.folder().join("source.yaml"))
    };
    let serves = |stack: &Stack, snapshot: &str, cache: Option<&str>| {
        wait::until("the relay to serve it", || {
            let status = stack.relay_admin("/snapshot")?["fleets"][0].clone();
            ensure!(status["snapshot"] == snapshot, "{status}");
            ensure!(cache.is_none_or(|cache| status["cache"] == cache), "{status}");
            Ok(())
        })
    };
    let store = stack.folder().join("store");
    let away = stack.folder().join("store-away");
    let first = publish(&stack, "/one")?;
    stack.start_relay()?;
    serves(&stack, &first, Some("ok"))?;

    // Full to the last block.
    disk.run("dd if=/dev/zero of=\"$0/fill\" bs=1024 2>/dev/null || true")?;
    let second = publish(&stack, "/two")?;
    serves(&stack, &second, Some("degraded"))?;
    // The power goes, the disk is still full and the store away: the generation before.
    stack.kill_all();
    std::fs::rename(&store, &away)?;
    stack.start_relay()?;
    serves(&stack, &first, None)?;
    std::fs::rename(&away, &store)?;
    serves(&stack, &second, Some("degraded"))?;

    // There is room again: it is kept with the next look at the store, and nobody restarts anything.
    disk.run("rm \"$0/fill\"")?;
    serves(&stack, &second, Some("ok"))?;
    let third = publish(&stack, "/three")?;
    serves(&stack, &third, Some("ok"))?;

    // No writes at all from now on: neither without the store nor with it.
    stack.kill_all();
    disk.run("mount -o remount,ro \"$0\"")?;
    std::fs::rename(&store, &away)?;
    stack.start_relay()?;
    serves(&stack, &third, None)?;
    std::fs::rename(&away, &store)?;
    let fourth = publish(&stack, "/four")?;
    serves(&stack, &fourth, Some("degraded"))
}

/// Endpoints as an operator gives them beside the relay, with a weight.
fn weigh(stack: &Stack, service: &str, addresses: &[SocketAddr], weight: u32) -> Result<()> {
    let set = |address: &SocketAddr| serde_json::json!({ "service": format!("shop/{service}"), "port": "http", "addresses": [address], "weight": weight });
    let sets: Vec<_> = addresses.iter().map(set).collect();
    let text = serde_json::json!({ "endpoints": sets }).to_string();
    let path = stack.folder().join(format!("endpoints/{service}.json"));
    std::fs::write(path.with_extension("new"), text)?;
    Ok(std::fs::rename(path.with_extension("new"), path)?)
}

/// A consistent hash adds up the weights of a zone, and refuses what is beyond 32 bits.
#[test]
fn endpoints_that_envoy_refuses_cost_only_themselves() {
    let (mut stack, port) = (Stack::new("edge/public").unwrap(), ports::free().unwrap());
    let [old, new, beside, moved] =
        ["old", "new", "beside", "moved"].map(|name| Backend::start(name).unwrap());
    let hosts = ["hashed.example.com", "beside.example.com"];
    let mut documents = vec![
        manifest::gateway_class(),
        manifest::gateway("edge", "public", &[Listener::http("http", port)]),
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: { namespace: shop, name: hash }\n\
         spec:\n  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: hashed }]\n  loadBalancer: { type: \
         ConsistentHash, consistentHash: { type: SourceIP } }\n"
            .to_owned(),
    ];
    for (service, host) in ["hashed", "beside"].into_iter().zip(hosts) {
        documents.push(manifest::service("shop", service));
        documents.push(manifest::http_route(
            "shop",
            service,
            "edge/public",
            &[host],
            &manifest::rule("/", service),
        ));
    }
    weigh(&stack, "hashed", &[old.address()], 1).unwrap();
    weigh(&stack, "beside", &[beside.address()], 1).unwrap();
    stack.publish_documents(&documents).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let answers = |host: &str, who: &str| {
        send_until(&Target::plain(port), &Request::get(host, "/"), who, |answer| answer.who() == who)
            .unwrap();
    };
    answers(hosts[0], "old");
    answers(hosts[1], "beside");
    weigh(&stack, "hashed", &[old.address(), new.address()], u32::MAX).unwrap();
    let client = |stack: &Stack| {
        stack.relay_admin("/clients").map(|told| told["fleets"][0]["clients"][0]["types"]["EDS"].clone())
    };
    wait::until("Envoy to refuse the endpoints", || {
        let told = client(&stack)?;
        ensure!(told["nack"].as_str().is_some_and(|text| text.contains("weights")), "{told}");
        Ok(())
    })
    .unwrap();
    // A neighbour moves, and what was there before stays in force.
    weigh(&stack, "beside", &[moved.address()], 1).unwrap();
    answers(hosts[1], "moved");
    answers(hosts[0], "old");
    let refusals = client(&stack).unwrap()["nacks"].clone();
    // Mended, they are taken; the refused ones never came again.
    weigh(&stack, "hashed", &[new.address()], 1).unwrap();
    answers(hosts[0], "new");
    assert_eq!(client(&stack).unwrap()["nacks"], refusals);
}
