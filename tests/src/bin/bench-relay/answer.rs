//! From a snapshot on disk to another answer of a real Envoy: how much of that time is Envoy's own.
//!
//! A redirect changes in a table of many virtual hosts with four rules each. `moorgate publish` writes to a store aside; from there objects
//! are laid into the relay's store, then the log entry, then the head: from the entry on, time runs. A bare client on the
//! relay's socket hears the new table when Envoy does; what passes until then is the relay's.

use crate::swarm::{Ask, Swarm};
use anyhow::{Context as _, Result, ensure};
use moorgate_relay::serve::types::ROUTE;
use moorgate_tests::http::{Request, Target, send};
use moorgate_tests::program::run;
use moorgate_tests::stack::Stack;
use moorgate_tests::{manifest, ports};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const ROUNDS: usize = 21;
/// Services that the routes share.
const SERVICES: usize = 50;

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
    let mut bare = Swarm::connect(&stack.socket(), 1, &Ask::all(ROUTE));
    bare.acknowledged(1)?;
    let mut times = Vec::new();
    for round in 1..=ROUNDS {
        publish(&stack, &staging, hosts, port, round)?;
        let laid = lay(&staging, &stack.store())?;
        let asked = std::thread::spawn(move || answered(port, &host(hosts / 2), round));
        let heard = bare.acknowledged(1)? - laid;
        let answer = asked.join().ok().context("the thread that asks")?? - laid;
        times.push((heard, answer));
    }
    times.sort_by_key(|(_, answer)| *answer);
    let (heard, answer) = times[times.len() / 2];
    let share = 1.0 - (heard.as_secs_f64() / answer.as_secs_f64()).min(1.0);
    let shown = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "\na change in a table of {hosts} virtual hosts, median of {ROUNDS}: {:.2} ms from the snapshot on disk to the \
         relay's push, {:.2} ms to Envoy's answer",
        shown(heard),
        shown(answer)
    );
    Ok(share)
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

/// When Envoy first answers as of this round.
fn answered(port: u16, host: &str, round: usize) -> Result<Instant> {
    let (target, request) = (Target::plain(port), Request::get(host, "/"));
    let wanted = format!("http://v{round}.example.com");
    let deadline = Instant::now() + moorgate_tests::wait::PATIENCE;
    loop {
        let answer = send(&target, &request)?;
        if answer.header("location").is_some_and(|location| location.starts_with(&wanted)) {
            return Ok(Instant::now());
        }
        ensure!(Instant::now() < deadline, "Envoy still answers {answer:?}");
    }
}
