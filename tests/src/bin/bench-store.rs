//! `make bench`: what a release costs at a real S3 endpoint, in requests and bytes.
//!
//! moto stands for S3, and a proxy before it counts. `moorgate publish` publishes routes, then the same routes with one
//! changed; readers as relays have them fetch both. Fails above the limits at 10,000 routes, or if a small change grows
//! faster than the configuration.
#![allow(clippy::print_stdout, reason = "a program that prints its measurements")]

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use moorgate::source::File;
use moorgate_snapshot::{Channel, Digest, FleetName, Position, Reader, Release, Snapshot, Store, Trust};
use moorgate_tests::program::{moorgate, run};
use moorgate_tests::storage::moto::{self, Moto};
use moorgate_tests::storage::proxy::{Exchange, Proxy};
use moorgate_tests::{runtime, scale};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Where the limits hold.
const AT: usize = 10_000;
/// Objects that a change of one route uploads, the bundle apart.
const UP_OBJECTS: usize = 6;
/// Bytes of bodies that a change of one route moves, up or down.
const BYTES: usize = 24_000;
/// Requests with which a relay that is up to date fetches a change.
const WARM: usize = 3;
/// Requests with which a relay without a cache fetches everything, pages that changed since the bundle apart.
const COLD: usize = 4;
/// The bytes of a change may grow with this power of the number of routes: 1 would be as the configuration does.
const EXPONENT: f64 = 1.0;

/// What a release costs at a real S3 endpoint
#[derive(Debug, Parser)]
struct Arguments {
    /// Numbers of HTTPRoutes; the limits are those at 10,000, growth is from the first to the last
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000])]
    sizes: Vec<usize>,
}

/// Requests and the bytes of their bodies.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    requests: usize,
    bytes: usize,
}

/// What one size costs.
#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    routes: usize,
    /// All that the first release wrote, the bundle apart.
    whole: Cost,
    /// Uploads of one changed route, the bundle apart.
    up: Cost,
    /// A relay that has the release before.
    warm: Cost,
    /// A relay that has nothing.
    cold: Cost,
    /// Pages that changed since the bundle, which a cold relay fetches one by one.
    beside_bundle: usize,
    /// A poll without news.
    idle: Cost,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let moto = Moto::start()?;
    let mut all = Vec::new();
    println!(
        "{:>8} {:>20} {:>18} {:>18} {:>20} {:>8} {:>16}",
        "routes", "whole", "change up", "change down", "cold down", "+ pages", "idle poll"
    );
    let shown = |cost: Cost| format!("{} / {:.1} kB", cost.requests, kilobytes(cost.bytes));
    for routes in arguments.sizes {
        let one = measure(&moto, routes)?;
        println!(
            "{routes:>8} {:>20} {:>18} {:>18} {:>20} {:>8} {:>16}",
            shown(one.whole),
            shown(one.up),
            shown(one.warm),
            shown(one.cold),
            one.beside_bundle,
            shown(one.idle)
        );
        all.push(one);
    }
    judge(&all)
}

fn judge(all: &[Measured]) -> Result<()> {
    println!(
        "\nlimits at {AT} routes: {UP_OBJECTS} objects and {BYTES} bytes up, {WARM} requests and {BYTES} bytes down, {COLD} requests cold, 1 idle"
    );
    for one in all {
        ensure!(one.idle.requests == 1 && one.idle.bytes == 0, "an idle poll: {:?}", one.idle);
        let cold = one.cold.requests - one.beside_bundle;
        ensure!(cold <= COLD, "a cold relay needs {cold} requests beside changed pages, limit {COLD}");
    }
    if let Some(one) = all.iter().find(|one| one.routes == AT) {
        ensure!(one.up.requests <= UP_OBJECTS, "a change uploads {} objects", one.up.requests);
        ensure!(one.up.bytes <= BYTES, "a change uploads {} bytes", one.up.bytes);
        ensure!(one.warm.requests <= WARM, "a relay fetches a change with {} requests", one.warm.requests);
        ensure!(one.warm.bytes <= BYTES, "a relay fetches a change with {} bytes", one.warm.bytes);
    }
    let (Some(first), Some(last)) = (all.first(), all.last()) else { return Ok(()) };
    if first.routes < last.routes {
        for (name, bytes) in [
            ("the whole", [first.whole.bytes, last.whole.bytes]),
            ("a change, up", [first.up.bytes, last.up.bytes]),
            ("a change, down", [first.warm.bytes, last.warm.bytes]),
        ] {
            let exponent =
                (count(bytes[1]) / count(bytes[0])).ln() / (count(last.routes) / count(first.routes)).ln();
            println!(
                "growth from {} to {} routes: bytes of {name} grow with the power {exponent:.2}",
                first.routes, last.routes
            );
            ensure!(
                name == "the whole" || exponent <= EXPONENT,
                "{name} grows with the power {exponent:.2}, limit {EXPONENT}"
            );
        }
    }
    Ok(())
}

fn measure(moto: &Moto, routes: usize) -> Result<Measured> {
    let folder = tempfile::Builder::new().prefix("moorgate-bench-").tempdir()?;
    let bucket = format!("bench-{routes}");
    moto.bucket(&bucket)?;
    let proxy = Proxy::start(moto.port())?;
    let url = format!("s3://{bucket}/moorgate");
    let key = folder.path().join("publish.key");
    run(moorgate()?.arg("keygen").arg(&key))?.ended_with(&[0])?;
    let files = scale::files(routes);
    write(folder.path(), &files)?;
    publish(folder.path(), &proxy, &url)?;
    let whole = uploads(&proxy.take());
    let trust = Trust::parse(&std::fs::read(folder.path().join("publish.pub"))?)?;
    let store = Store::open_with(&url, &Moto::settings_through(proxy.port()))?;
    let fleet: FleetName = FleetName::gateway("edge", "public");
    let reader = Reader::new(store.fleet(&fleet), Arc::new(trust), Channel::stable());
    let (position, release, etag) = poll(&reader, None, None)?;
    let before = fetch(&reader, &release, &BTreeMap::new())?;
    write(folder.path(), &changed(&files, routes / 2)?)?;
    proxy.take();
    publish(folder.path(), &proxy, &url)?;
    let up = uploads(&proxy.take());
    // A relay that is up to date.
    let held: BTreeMap<Digest, Bytes> =
        before.pages().iter().map(|page| (page.digest(), page.raw().clone())).collect();
    let (position, release, etag) = poll(&reader, Some(position), etag.as_deref())?;
    let after = fetch(&reader, &release, &held)?;
    ensure!(after.id() != before.id() && after.id() == release.snapshot, "the change was not published");
    let warm = downloads(&proxy.take());
    let idle = runtime().block_on(reader.poll(Some(position), etag.as_deref(), false))?;
    ensure!(idle.tail.is_none(), "an idle poll found something");
    let idle = downloads(&proxy.take());
    // One without a cache.
    let (_, release, _) = poll(&reader, None, None)?;
    ensure!(
        fetch(&reader, &release, &BTreeMap::new())?.id() == after.id(),
        "a cold relay has another snapshot"
    );
    let seen = proxy.take();
    let beside_bundle = seen.iter().filter(|one| one.path.contains("/pages/")).count();
    Ok(Measured { routes, whole, up, warm, cold: downloads(&seen), beside_bundle, idle })
}

fn write(folder: &Path, files: &[File]) -> Result<()> {
    for file in files {
        let path = folder.join("source").join(&*file.name);
        std::fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        std::fs::write(path, &file.bytes)?;
    }
    Ok(())
}

/// The same files with one path of one route changed.
fn changed(files: &[File], route: usize) -> Result<Vec<File>> {
    let (old, new) = (format!("value: /route-{route}/0\n"), format!("value: /changed-{route}/0\n"));
    let mut count = 0;
    let mut changed = Vec::new();
    for file in files {
        let text = std::str::from_utf8(&file.bytes)?;
        if text.contains(&old) {
            count += 1;
            changed
                .push(File { name: file.name.clone(), bytes: text.replace(&old, &new).into_bytes().into() });
        }
    }
    ensure!(count == 1, "route {route} stands in {count} files");
    Ok(changed)
}

fn publish(folder: &Path, proxy: &Proxy, url: &str) -> Result<()> {
    let mut command = moorgate()?;
    command.arg("publish").arg(folder.join("source")).args(["--channel", "stable", "--store", url]);
    command.arg("--key").arg(format!("file:{}", folder.join("publish.key").display()));
    command.arg("--trust").arg(folder.join("publish.pub"));
    command.envs(moto::variables(proxy.port()));
    run(&mut command)?.ended_with(&[0]).map(drop)
}

/// A poll as a relay does it: without memory it asks the log too.
fn poll(
    reader: &Reader,
    remembered: Option<Position>,
    etag: Option<&str>,
) -> Result<(Position, Release, Option<String>)> {
    let polled = runtime().block_on(reader.poll(remembered, etag, remembered.is_none()))?;
    let entry = polled.tail.and_then(|tail| tail.entry).context("no entry")?;
    let release = entry.entry.state.serving().context("nothing is served")?.clone();
    Ok((entry.position(), release, polled.etag))
}

fn fetch(reader: &Reader, release: &Release, held: &BTreeMap<Digest, Bytes>) -> Result<Snapshot> {
    let (reader, release, held) = (reader.clone(), release.clone(), held.clone());
    let known = move |digest: &Digest| held.get(digest).cloned();
    Ok(runtime().block_on(reader.fetch(&release, &known))?)
}

/// What was uploaded beside the bundle, which is made anew now and then, and the probe before a first release.
fn uploads(seen: &[Exchange]) -> Cost {
    let counted = |one: &&Exchange| {
        one.method == "PUT" && !one.path.contains("/bundles/") && !one.path.contains("/_probe/")
    };
    let puts = seen.iter().filter(counted);
    puts.fold(Cost::default(), |sum, one| Cost { requests: sum.requests + 1, bytes: sum.bytes + one.up })
}

fn downloads(seen: &[Exchange]) -> Cost {
    let add = |sum: Cost, one: &Exchange| Cost {
        requests: sum.requests + 1,
        // What is said about an object that is not there is no part of it, but travels all the same.
        bytes: sum.bytes + one.down,
    };
    seen.iter().fold(Cost::default(), add)
}

fn kilobytes(bytes: usize) -> f64 {
    count(bytes) / 1_000.0
}

#[allow(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}
