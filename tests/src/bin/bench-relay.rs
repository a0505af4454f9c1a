//! `make bench-relay`: the relay beside go-control-plane's snapshot cache, under the same clients in one run, and beside
//! Envoy's own share of a change.
//!
//! Clients are delta streams of one process, each on a connection of its own over a Unix socket, that acknowledge
//! unread. Processor time and memory are the server's alone. The peer is told a changed cluster and makes its snapshot
//! of it; the relay finds a signed entry in a store on the local disk, fetches, verifies and keeps the changed pages.
//! Fails below the goals: see [`judge`].
#![allow(clippy::print_stdout, reason = "a program that prints its measurements")]

#[path = "bench-relay/answer.rs"]
mod answer;
#[path = "bench-relay/bare.rs"]
mod bare;
/// The publisher that the relay's own suite uses.
#[path = "../../../relay/tests/relay/publisher.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a suite's own: it ends where something is not as it must be"
)]
mod publisher;
#[path = "bench-relay/servers.rs"]
mod servers;
#[path = "bench-relay/swarm.rs"]
mod swarm;

use anyhow::{Result, ensure};
use clap::Parser;
use moorgate_relay::serve::types::CLUSTER;
use servers::{Peer, Relay, Server};
use std::sync::Arc;
use std::time::{Duration, Instant};
use swarm::{Ask, Swarm};

/// A change with this many clients and resources is judged.
const CLIENTS: usize = 1_000;
const RESOURCES: usize = 10_000;
/// By so much less processor time than the peer.
const TIMES_LESS: f64 = 50.0;
/// Processor time of a change may grow with this power of the number of resources: 0 is flat.
const EXPONENT: f64 = 0.1;
/// Clients that connect at once may take this much of the peer's memory: what they are sent is there once.
const MEMORY_SHARE: f64 = 0.1;
/// What an idle stream may cost, kB.
const IDLE_KILOBYTES: f64 = 40.0;
/// Envoy's own part of the time from a snapshot on disk to its answer.
const ENVOYS_SHARE: f64 = 0.8;

/// A change is repeated until it cost this much altogether, so that ticks of a hundredth of a second do not decide.
const ENOUGH: Duration = Duration::from_millis(500);
const ROUNDS: usize = 50;
/// Nothing has happened for this long: all is done.
const QUIET: Duration = Duration::from_millis(700);

/// The relay beside go-control-plane's snapshot cache
#[derive(Debug, Parser)]
struct Arguments {
    /// Numbers of clients
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, CLIENTS])]
    clients: Vec<usize>,
    /// Numbers of resources
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000, RESOURCES])]
    resources: Vec<usize>,
    /// Idle streams
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// Virtual hosts in the table that a change touches on a real Envoy
    #[arg(long, default_value_t = 1_000)]
    hosts: usize,
    /// Only that change
    #[arg(long)]
    answer: bool,
}

/// What one change cost a server.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    cpu: Duration,
    last: Duration,
    peak: u64,
    bytes: u64,
}

/// One row: the relay, and the peer.
#[derive(Debug, Clone, Copy)]
struct Row {
    clients: usize,
    resources: usize,
    relay: Cost,
    peer: Cost,
}

type Start = fn(&std::path::Path, usize) -> Result<Box<dyn Server>>;

const SERVERS: [Start; 2] = [
    |folder, resources| Ok(Box::new(Relay::start(folder, resources)?)),
    |folder, resources| Ok(Box::new(Peer::start(folder, resources)?)),
];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(!cfg!(debug_assertions), "measure a release build: make bench-relay");
    if arguments.answer {
        let share = answer::measure(arguments.hosts)?;
        let mut goals = Goals::default();
        goals.envoys_share(share);
        return goals.judge();
    }
    let rows = changes(&arguments)?;
    storms()?;
    let idle = idle(arguments.idle)?;
    let share = answer::measure(arguments.hosts)?;
    judge(&rows, idle, share)
}

fn folder() -> Result<tempfile::TempDir> {
    let folder = tempfile::Builder::new().prefix("moorgate-bench-").tempdir()?;
    moorgate_tests::process::remember_folder(folder.path());
    Ok(folder)
}

/// One changed cluster, to each number of clients, of each number of resources.
fn changes(arguments: &Arguments) -> Result<Vec<Row>> {
    println!("one change: processor time, time to the last ACK, peak memory, bytes a client");
    println!(
        "{:>8} {:>10} | {:>40} | {:>40} | {:>6}",
        "clients", "resources", "moorgate-relay", "go-control-plane", "times"
    );
    let mut rows = Vec::new();
    for &resources in &arguments.resources {
        for &clients in &arguments.clients {
            let cost = |start: Start| -> Result<Cost> {
                let folder = folder()?;
                let mut server = start(folder.path(), resources)?;
                one_change(server.as_mut(), clients, resources)
            };
            let row = Row { clients, resources, relay: cost(SERVERS[0])?, peer: cost(SERVERS[1])? };
            let shown = |cost: Cost| {
                format!(
                    "{:>9.2} ms {:>8.1} ms {:>6} MB {:>6}",
                    milliseconds(cost.cpu),
                    milliseconds(cost.last),
                    cost.peak / 1_000,
                    cost.bytes / clients as u64
                )
            };
            println!(
                "{clients:>8} {resources:>10} | {:>40} | {:>40} | {:>6.1}",
                shown(row.relay),
                shown(row.peer),
                ratio(row.peer.cpu, row.relay.cpu)
            );
            rows.push(row);
        }
    }
    Ok(rows)
}

fn one_change(server: &mut dyn Server, clients: usize, resources: usize) -> Result<Cost> {
    let mut swarm = Swarm::connect(server.socket(), clients, &Ask::all(CLUSTER));
    swarm.acknowledged(clients * resources)?;
    swarm.settle(QUIET)?;
    swarm.take_bytes();
    let before = server.meter().cpu()?;
    let (mut rounds, mut times) = (0, Vec::new());
    while rounds < ROUNDS && (rounds < 3 || server.meter().cpu()? < before + ENOUGH) {
        server.prepare()?;
        let start = Instant::now();
        server.change()?;
        times.push(swarm.acknowledged(clients)? - start);
        rounds += 1;
    }
    swarm.settle(QUIET)?;
    times.sort();
    let rounds = u32::try_from(rounds)?;
    Ok(Cost {
        cpu: server.meter().cpu()?.saturating_sub(before) / rounds,
        last: times[times.len() / 2],
        peak: server.meter().peak()?,
        bytes: swarm.take_bytes() / u64::from(rounds),
    })
}

/// A thousand clients that connect at once: with nothing, and with what they held before.
fn storms() -> Result<()> {
    let resources = 1_000;
    println!("\n{CLIENTS} clients connect at once, {resources} resources");
    for known in [false, true] {
        for start in SERVERS {
            let folder = folder()?;
            let server = start(folder.path(), resources)?;
            let mut ask = Ask::all(CLUSTER);
            let versions = swarm::versions(server.socket(), resources)?;
            if known {
                ask.known = Arc::new(versions);
            }
            std::thread::sleep(QUIET);
            let (before, begun) = (server.meter().cpu()?, Instant::now());
            let mut swarm = Swarm::connect(server.socket(), CLIENTS, &ask);
            let done = if known { None } else { Some(swarm.acknowledged(CLIENTS * resources)? - begun) };
            swarm.settle(QUIET * 3)?;
            println!(
                "  {:<22} {:<18} {:>9.1} ms processor time, {:>7} MB peak, {:>9} bytes a client{}",
                if known { "with known versions" } else { "without" },
                server.name(),
                milliseconds(server.meter().cpu()?.saturating_sub(before)),
                server.meter().peak()? / 1_000,
                swarm.take_bytes() / CLIENTS as u64,
                done.map(|done| format!(", last ACK after {:.0} ms", milliseconds(done))).unwrap_or_default()
            );
        }
    }
    Ok(())
}

/// Memory of a stream that has what it wants, kB: the relay's.
fn idle(streams: usize) -> Result<f64> {
    println!("\n{streams} idle streams, each on a connection of its own, 100 resources");
    let mut own = 0.0;
    for start in SERVERS {
        let folder = folder()?;
        let server = start(folder.path(), 100)?;
        swarm::versions(server.socket(), 100)?;
        let before = server.meter().resident()?;
        let mut swarm = Swarm::connect(server.socket(), streams, &Ask::all(CLUSTER));
        swarm.acknowledged(streams * 100)?;
        swarm.settle(QUIET)?;
        let each = number(server.meter().resident()? - before) / number(streams as u64);
        println!("  {:<18} {each:>6.1} kB a stream", server.name());
        if server.name() == "moorgate-relay" {
            own = each;
        }
    }
    Ok(own)
}

/// The goals, of which none may be missed.
#[derive(Default)]
struct Goals {
    missed: usize,
}

impl Goals {
    fn goal(&mut self, met: bool, text: &str) {
        println!("{} {text}", if met { "met:   " } else { "MISSED:" });
        self.missed += usize::from(!met);
    }

    fn envoys_share(&mut self, share: f64) {
        let text = format!(
            "of the time from a snapshot on disk to Envoy's answer {:.0} % is Envoy's own (goal {:.0} %)",
            share * 100.0,
            ENVOYS_SHARE * 100.0
        );
        self.goal(share >= ENVOYS_SHARE, &text);
    }

    fn judge(self) -> Result<()> {
        ensure!(self.missed == 0, "{} goals were missed", self.missed);
        Ok(())
    }
}

/// Holds what was measured against the goals.
fn judge(rows: &[Row], idle: f64, share: f64) -> Result<()> {
    println!();
    let mut goals = Goals::default();
    let at = |resources: usize| rows.iter().find(|row| row.clients == CLIENTS && row.resources == resources);
    if let Some(row) = at(RESOURCES) {
        let times = ratio(row.peer.cpu, row.relay.cpu);
        goals.goal(
            times >= TIMES_LESS,
            &format!(
                "a change to {CLIENTS} clients of {RESOURCES} resources takes {times:.1} times less processor time than \
                 go-control-plane's snapshot cache (goal {TIMES_LESS})"
            ),
        );
        let memory = number(row.relay.peak) / number(row.peer.peak.max(1));
        goals.goal(
            memory <= MEMORY_SHARE,
            &format!(
                "{CLIENTS} clients that connect at once for {RESOURCES} resources take {} MB, {:.1} % of the peer's memory \
                 (goal {:.0} %)",
                row.relay.peak / 1_000,
                memory * 100.0,
                MEMORY_SHARE * 100.0
            ),
        );
        if let Some(few) = rows.iter().find(|other| other.clients == CLIENTS && other.resources < RESOURCES) {
            let grows = number(row.resources as u64) / number(few.resources as u64);
            let power = ratio(row.relay.cpu, few.relay.cpu).ln() / grows.ln();
            goals.goal(
                power <= EXPONENT,
                &format!(
                    "from {} to {} resources that time grows with the power {power:.3} (goal {EXPONENT}; 0 is flat)",
                    few.resources, row.resources
                ),
            );
        }
    }
    goals.goal(idle <= IDLE_KILOBYTES, &format!("an idle stream takes {idle:.1} kB (goal {IDLE_KILOBYTES})"));
    goals.envoys_share(share);
    goals.judge()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn ratio(one: Duration, other: Duration) -> f64 {
    // A tick is the least that was measured.
    one.as_secs_f64() / other.as_secs_f64().max(1e-5)
}

#[allow(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
fn number(number: u64) -> f64 {
    number as f64
}
