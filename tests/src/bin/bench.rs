//! `make bench`: how long a compile takes beside bare YAML parsing, and how it grows.
//!
//! Both sides read the same texts on one thread in one run, in turn; the best of several rounds counts, so that a busy
//! neighbour does not decide. Fails if 10,000 routes take three times the parse or more, or if time grows faster than
//! the number of routes. The parse is linear by its nature: with how much it seems to grow beyond that, from caches and
//! memory that get slower with size, the growth of the compile is made even.
//!
//! The same is asked of HTTPS listeners of one port, each of which must know the requests that are misdirected to it.
//!
//! Last, a Gateway of many tenants (100,000 routes, of which 40,000 on ListenerSets, and 10,000 certificates) must compile
//! within a share of the same parse, and within a stated memory.
#![allow(clippy::print_stdout, reason = "a program that prints its measurements")]

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use moorgate::compile::{Options, compile};
use moorgate::source::File;
use moorgate_tests::meter::Meter;
use moorgate_tests::scale;
use serde::Deserialize as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// A compile of 10,000 routes must take less than this many times the parse.
const LIMIT_RATIO: f64 = 3.0;

/// Time may grow with this power of the number of routes: 1 is linear, n log n over these sizes is about 1.1.
const LIMIT_EXPONENT: f64 = 1.15;

/// A Gateway of many tenants, with everything that was made before in this process, may take so much memory at most.
const LIMIT_MEMORY: u64 = 6 << 30;

/// Compile against bare YAML parsing, and growth
#[derive(Debug, Parser)]
struct Arguments {
    /// Numbers of HTTPRoutes; the ratio is judged at 10,000, growth from the first to the last
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000])]
    sizes: Vec<usize>,
    /// Rounds at 10,000 routes and fewer; larger sizes take fewer
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// HTTPRoutes of the Gateway of many tenants; 0 leaves it out
    #[arg(long, default_value_t = 100_000)]
    tenants: usize,
}

/// What one size took, best round each.
struct Measured {
    routes: usize,
    parse: Duration,
    compile: Duration,
}

impl Measured {
    fn ratio(&self) -> f64 {
        self.compile.as_secs_f64() / self.parse.as_secs_f64()
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(!cfg!(debug_assertions), "measure a release build: make bench");
    println!(
        "{:>8} {:>10} {:>12} {:>12} {:>7} {:>12}",
        "routes", "MiB YAML", "parse s", "compile s", "ratio", "us/route"
    );
    let mut all = Vec::new();
    for routes in arguments.sizes {
        let files = scale::files(routes);
        let bytes: usize = files.iter().map(|file| file.bytes.len()).sum();
        let rounds = if routes > 10_000 { arguments.rounds.min(2) } else { arguments.rounds };
        let measured = measure(&files, routes, rounds)?;
        println!(
            "{:>8} {:>10.1} {:>12.4} {:>12.4} {:>7.2} {:>12.1}",
            routes,
            mebibytes(bytes),
            measured.parse.as_secs_f64(),
            measured.compile.as_secs_f64(),
            measured.ratio(),
            measured.compile.as_secs_f64() * 1e6 / count(routes),
        );
        all.push(measured);
    }
    judge(&all)?;
    misdirected(arguments.rounds)?;
    if arguments.tenants > 0 { tenants(arguments.tenants) } else { Ok(()) }
}

/// HTTPS listeners of one port, few and many; the most that one Envoy listener holds is some 2,700.
const LISTENERS: [usize; 2] = [128, 2_048];

/// What misdirected requests cost the compile: sixteen times the listeners are sixteen times the work, and not 256 times.
fn misdirected(rounds: usize) -> Result<()> {
    let measured = LISTENERS.map(|count| measure(&scale::listeners(count), count, rounds));
    let [few, many] = measured;
    let (few, many) = (few?, many?);
    let exponent = exponent(&few, &many);
    println!(
        "HTTPS listeners of one port with a route each: {} in {:.4} s, {} in {:.4} s: {:.1} times for 16 times as many, \
         power {exponent:.3} beside the parse's (1 is linear, limit {LIMIT_EXPONENT})",
        few.routes,
        few.compile.as_secs_f64(),
        many.routes,
        many.compile.as_secs_f64(),
        many.compile.as_secs_f64() / few.compile.as_secs_f64(),
    );
    ensure!(exponent <= LIMIT_EXPONENT, "listeners do not compile linearly: power {exponent:.3}");
    Ok(())
}

/// With which power of the number of routes the compile's time grows, made even by how the parse's seems to.
fn exponent(first: &Measured, last: &Measured) -> f64 {
    1.0 + power(first, last, |one| one.compile) - power(first, last, |one| one.parse)
}

fn power(first: &Measured, last: &Measured, time: fn(&Measured) -> Duration) -> f64 {
    let sizes = (count(last.routes) / count(first.routes)).ln();
    (time(last).as_secs_f64() / time(first).as_secs_f64()).ln() / sizes
}

/// Compiles a Gateway of many tenants once.
fn tenants(routes: usize) -> Result<()> {
    let files = scale::tenants(routes);
    let measured = measure(&files, routes, 1)?;
    let peak = Meter::own().peak()? * 1024;
    println!(
        "\n{routes} routes of many tenants: {:.2} s, {:.2} times the bare parse (limit {LIMIT_RATIO}), {:.0} MiB at most (limit {:.0})",
        measured.compile.as_secs_f64(),
        measured.ratio(),
        mebibytes(usize::try_from(peak)?),
        mebibytes(usize::try_from(LIMIT_MEMORY)?),
    );
    ensure!(measured.ratio() < LIMIT_RATIO, "a compile takes {:.2} times the parse", measured.ratio());
    ensure!(peak < LIMIT_MEMORY, "{peak} bytes of memory");
    Ok(())
}

fn judge(all: &[Measured]) -> Result<()> {
    let (Some(first), Some(last)) = (all.first(), all.last()) else { return Ok(()) };
    if let Some(at) = all.iter().find(|measured| measured.routes == 10_000) {
        let ratio = at.ratio();
        println!("\ncompile of 10,000 routes: {ratio:.2} times the bare parse (limit {LIMIT_RATIO})");
        ensure!(ratio < LIMIT_RATIO, "a compile takes {ratio:.2} times the parse, limit {LIMIT_RATIO}");
    }
    if first.routes < last.routes {
        let (compile, parse) = (power(first, last, |one| one.compile), power(first, last, |one| one.parse));
        let exponent = exponent(first, last);
        println!(
            "growth from {} to {} routes: the compile's time with the power {compile:.3}, the parse's with {parse:.3}: \
             {exponent:.3} (1 is linear, limit {LIMIT_EXPONENT})",
            first.routes, last.routes
        );
        ensure!(exponent <= LIMIT_EXPONENT, "compiling does not grow linearly: power {exponent:.3}");
    }
    Ok(())
}

fn measure(files: &[File], routes: usize, rounds: usize) -> Result<Measured> {
    let mut best = Measured { routes, parse: Duration::MAX, compile: Duration::MAX };
    for _ in 0..rounds.max(1) {
        let start = Instant::now();
        let documents = parse(files)?;
        best.parse = best.parse.min(start.elapsed());
        ensure!(documents > routes, "the parser read {documents} documents");
        let start = Instant::now();
        let compilation = black_box(compile(files, &Options::default()));
        best.compile = best.compile.min(start.elapsed());
        let first = compilation.diagnostics.iter().next().map(|diagnostic| diagnostic.message.as_str());
        ensure!(!compilation.diagnostics.has_errors(), "the routes do not compile: {first:?}");
        let compiled: usize = compilation.fleets.values().map(|fleet| fleet.routes).sum();
        ensure!(compiled >= routes, "{compiled} routes were compiled");
    }
    Ok(best)
}

/// What anything that reads YAML has to do at least: every document as a bare value.
fn parse(files: &[File]) -> Result<usize> {
    let mut count = 0;
    for file in files {
        let text = std::str::from_utf8(&file.bytes).context("our own text")?;
        for document in yaml_serde::Deserializer::from_str(text) {
            black_box(yaml_serde::Value::deserialize(document)?);
            count += 1;
        }
    }
    Ok(count)
}

#[allow(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}

fn mebibytes(bytes: usize) -> f64 {
    count(bytes) / 1_048_576.0
}
