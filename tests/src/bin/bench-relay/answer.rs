//! From a snapshot on disk to another answer of a real Envoy: how much of that time is Envoy's own.
//!
//! A redirect changes in a table of many virtual hosts with four rules each. `moorgate publish` writes to a store aside; from there objects
//! are laid into the relay's store, then the log entry, then the head: from the entry on, time runs. What of it is Envoy's
//! own is measured with the same responses and another Envoy, whose server has them ready: see [`Bare`].

use crate::bare::{Bare, ready};
use crate::swarm::{Ask, Swarm};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use moorgate_relay::serve::types::ROUTE;
use moorgate_tests::envoy::Envoy;
use moorgate_tests::program::run;
use moorgate_tests::stack::Stack;
use moorgate_tests::{manifest, ports};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const ROUNDS: usize = 21;
/// The first ones warm up caches, and do not count.
const WARM: usize = 3;
/// Services that the routes share.
const SERVICES: usize = 50;
/// The time between two requests: a client that asks without pause takes the processor away from whom it measures.
const PAUSE: Duration = Duration::from_micros(200);

/// Measures, prints, and returns Envoy's share, from 0 to 1.
pub(crate) fn measure(hosts: usize) -> Result<f64> {
    let mut stack = Stack::new("bench/edge")?;
    let port = ports::free()?;
    let staging = stack.folder().join("staging");
    std::fs::create_dir(&staging)?;
    publish(&stack, &staging, hosts, port, 0)?;
    lay(&staging, &stack.store())?;
    stack.start_relay()?;
    stack.start_envoy(&[port])?;
    let (mut times, mut responses) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        publish(&stack, &staging, hosts, port, round)?;
        let asks = Asks::start(port, hosts, round)?;
        let laid = lay(&staging, &stack.store())?;
        times.push(asks.answered()?.saturating_duration_since(laid));
        responses.push(table(&stack)?);
    }
    stack.stop_envoy();
    let own = alone(&stack, &staging, hosts, port, &responses)?;
    let pushes = (2 * ROUNDS + 1..=3 * ROUNDS).map(|round| push(&stack, &staging, hosts, port, round));
    let relay = median(pushes.collect::<Result<_>>()?);
    let (whole, own) = (median(times), median(own));
    // One after the other, on a machine that does other things too: of two ways to say it the worse one counts.
    let share = own.as_secs_f64() / whole.max(own + relay).as_secs_f64();
    let shown = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "\na change in a table of {hosts} virtual hosts ({} kB), median of {}: {:.2} ms from the snapshot on disk to Envoy's \
         answer, {:.2} ms from a response that is ready, {:.2} ms to the relay's push to a client that is no Envoy",
        responses.last().map_or(0, Bytes::len) / 1_000,
        ROUNDS - WARM,
        shown(whole),
        shown(own),
        shown(relay)
    );
    Ok(share)
}

/// From the snapshot on disk until a client has the whole response, while no Envoy is busy with it.
fn push(stack: &Stack, staging: &Path, hosts: usize, port: u16, round: usize) -> Result<Duration> {
    publish(stack, staging, hosts, port, round)?;
    let mut bare = Swarm::connect(&stack.socket(), 1, &Ask::all(ROUTE));
    bare.acknowledged(1)?;
    let laid = lay(staging, &stack.store())?;
    Ok(bare.acknowledged(1)?.saturating_duration_since(laid))
}

fn median(times: Vec<Duration>) -> Duration {
    let mut times: Vec<Duration> = times.into_iter().skip(WARM).collect();
    times.sort();
    times[times.len() / 2]
}

/// The response with which a new client gets the table: its bytes but for the nonce are those that Envoy got.
fn table(stack: &Stack) -> Result<Bytes> {
    let mut bare = Swarm::connect(&stack.socket(), 1, &Ask::all(ROUTE));
    bare.message()
}

/// The times of an Envoy whose server has the responses ready. Before each a release is made as before, and not laid: what the
/// machine did last is part of how fast an Envoy is.
fn alone(
    stack: &Stack,
    staging: &Path,
    hosts: usize,
    port: u16,
    responses: &[Bytes],
) -> Result<Vec<Duration>> {
    let socket = stack.folder().join("bare.sock");
    let bare = Bare::start(&socket, &stack.socket())?;
    let admin = ports::free()?;
    let bootstrap = stack.bootstrap_at(&socket, admin)?;
    let logs = stack.folder().join("alone");
    std::fs::create_dir(&logs)?;
    let mut envoy = Envoy::start_with("alone", &stack.program, &bootstrap, admin, &logs, &[])?;
    envoy.wait_for_listeners(&[port])?;
    Asks::start(port, hosts, ROUNDS)?.answered()?;
    bare.take_over();
    let mut times = Vec::new();
    for (index, response) in responses.iter().enumerate() {
        let pieces = ready(response)?;
        publish(stack, staging, hosts, port, ROUNDS + 1 + index)?;
        let asks = Asks::start(port, hosts, index + 1)?;
        let given = Instant::now();
        bare.give(pieces)?;
        times.push(asks.answered()?.saturating_duration_since(given));
    }
    Ok(times)
}

fn host(index: usize) -> String {
    format!("host-{index}.example.com")
}

fn redirect(round: usize) -> String {
    format!(
        "    - filters:\n        - type: RequestRedirect\n          requestRedirect:\n            hostname: v{round}.example.com\n"
    )
}

/// Four rules as hosts have them: a path, a header, two weighted backends.
fn rules(host: usize) -> String {
    let rule = |rule: usize| {
        let (one, other) = ((host + rule) % SERVICES, (host + rule + 1) % SERVICES);
        format!(
            "    - matches:\n        - path:\n            type: PathPrefix\n            value: /api/{rule}\n          \
             headers:\n            - name: x-version\n              value: v{rule}\n      backendRefs:\n        \
             - {{name: service-{one}, port: 80, weight: 9}}\n        - {{name: service-{other}, port: 80, weight: 1}}\n"
        )
    };
    (0..4).map(rule).collect()
}

fn publish(stack: &Stack, store: &Path, hosts: usize, port: u16, round: usize) -> Result<()> {
    let listener = [manifest::Listener::http("http", port)];
    let mut documents = vec![manifest::gateway_class(), manifest::gateway("bench", "edge", &listener)];
    documents.extend((0..SERVICES).map(|index| manifest::service("bench", &format!("service-{index}"))));
    for index in 0..hosts {
        let rules = if index == hosts / 2 { redirect(round) } else { rules(index) };
        let (name, host) = (format!("route-{index}"), host(index));
        documents.push(manifest::http_route("bench", &name, "bench/edge", &[&host], &rules));
    }
    let file = stack.folder().join("source.yaml");
    std::fs::write(&file, manifest::documents(&documents))?;
    let mut command = stack.signed("publish")?;
    command.env("MOORGATE_STORE", format!("file://{}", store.display())).arg(&file);
    run(&mut command)?.ended_with(&[0]).map(drop)
}

/// Copies what is new, the entry and then the head last; when the entry was laid.
fn lay(from: &Path, to: &Path) -> Result<Instant> {
    let mut files = Vec::new();
    list(from, &mut files)?;
    let place = |file: &PathBuf| {
        let name = file.to_string_lossy();
        (usize::from(name.contains("/log/")) + 2 * usize::from(name.contains("/head/")), name.into_owned())
    };
    files.sort_by_key(place);
    let mut laid = None;
    for file in files {
        let target = to.join(file.strip_prefix(from)?);
        let bytes = std::fs::read(&file)?;
        if std::fs::read(&target).is_ok_and(|old| old == bytes) {
            continue;
        }
        let folder = target.parent().context("a file lies in a folder")?;
        std::fs::create_dir_all(folder)?;
        let mut new = tempfile::Builder::new().prefix(".").tempfile_in(folder)?;
        std::io::Write::write_all(&mut new, &bytes)?;
        if place(&file).0 > 0 {
            laid.get_or_insert_with(Instant::now);
        }
        new.persist(&target)?;
    }
    laid.context("nothing was published")
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Somebody who asks again and again, on one connection, until the answer is that of a round.
struct Asks(std::thread::JoinHandle<Result<Instant>>);

impl Asks {
    fn start(port: u16, hosts: usize, round: usize) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(moorgate_tests::wait::PATIENCE))?;
        let request = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", host(hosts / 2));
        let wanted = format!("location: http://v{round}.example.com");
        Ok(Self(std::thread::spawn(move || until(stream, &request, &wanted))))
    }

    /// When the answer was the one that is waited for.
    fn answered(self) -> Result<Instant> {
        self.0.join().ok().context("the thread that asks")?
    }
}

fn until(mut stream: TcpStream, request: &str, wanted: &str) -> Result<Instant> {
    let deadline = Instant::now() + moorgate_tests::wait::PATIENCE;
    loop {
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        // A redirect has no body.
        while !answer.ends_with(b"\r\n\r\n") {
            let mut some = [0; 4096];
            let read = stream.read(&mut some)?;
            ensure!(read > 0, "Envoy closed the connection");
            answer.extend_from_slice(&some[..read]);
        }
        if String::from_utf8_lossy(&answer).contains(wanted) {
            return Ok(Instant::now());
        }
        ensure!(Instant::now() < deadline, "Envoy still answers {}", String::from_utf8_lossy(&answer));
        std::thread::sleep(PAUSE);
    }
}
