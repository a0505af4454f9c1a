//! `moorgate diff`

mod translator;

use super::access::{StoreArgs, read_failure};
use super::input::{Fleets, Reading};
use super::output::{self, json};
use super::{Exit, Failure};
use crate::diff::{Refusal, Side, Starts, diff, mark, markdown, refusals, starts, text};
use crate::report::FORMAT_VERSION;
use crate::startup;
use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use moorgate_snapshot::channel::Release;
use moorgate_snapshot::digest::DigestError;
use moorgate_snapshot::reader::Reader;
use moorgate_snapshot::{Channel, ChannelError, Digest, FleetName, FleetNameError, Store, Trust};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// Show the effective difference of two sources, revisions, snapshots or channels
#[derive(Debug, Args)]
#[command(after_help = "Sides:
  git:REV                revision of the repository in the current directory (--repo for another)
  dir:PATH               directory or file; a plain PATH means the same
  snapshot:ID            snapshot in the store (--fleet says whose)
  channel:FLEET@CHANNEL  what a channel serves now
  cluster:[CONTEXT]      a live cluster: the context of the kubeconfig, or the current one

Examples:
  moorgate diff git:main git:HEAD --path gateways
  moorgate diff channel:shop/edge@stable dir:gateways/
  moorgate diff cluster: dir:gateways/
  moorgate diff snapshot:3f1c… snapshot:90ab… --fleet shop/edge -o markdown
  moorgate diff gateways/ --translator ./moorgate-0.1.0

A line `- grant … (revoked)`, red on a terminal, says that a ReferenceGrant was taken away; `~ bootstrap` that pods of Envoys are
replaced, because they read their bootstrap once (sources only: it is in no snapshot).

Exits 0 without differences, 1 with, 6 if a side has errors and could not be compiled.")]
pub(super) struct DiffArgs {
    /// The side before
    before: String,
    /// The side after
    #[arg(required_unless_present = "translator", conflicts_with = "translator")]
    after: Option<String>,
    /// Compare what another version of this program makes of BEFORE with what this one makes of it
    #[arg(long, value_name = "BINARY")]
    translator: Option<PathBuf>,
    /// The repository of git: sides
    #[arg(long, value_name = "PATH", default_value = ".")]
    repo: String,
    #[command(flatten)]
    fleets: Fleets,
    #[command(flatten)]
    reading: Reading,
    /// The store of snapshot: and channel: sides
    #[arg(long, value_name = "URL", env = "MOORGATE_STORE", value_delimiter = ',')]
    store: Vec<String>,
    /// Whom to trust for channel: sides: public keys in PEM, or JSON
    #[arg(long, value_name = "FILE", env = "MOORGATE_TRUST")]
    trust: Option<PathBuf>,
    /// Show values of headers and bodies instead of their digests
    #[arg(long)]
    show_values: bool,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For scripts
    Json,
    /// For a pull request
    Markdown,
}

/// Runs the command.
pub(super) async fn run(args: DiffArgs) -> Result<Exit, Failure> {
    let before = match &args.translator {
        Some(program) => Found::of(translator::side(&args, program, &args.before).await?),
        None => side(&args, &args.before).await?,
    };
    let after = side(&args, args.after.as_ref().unwrap_or(&args.before)).await?;
    let mut fleets = diff(&before.side, &after.side, args.show_values)?;
    mark(&mut fleets, &before.side, &after.refused)?;
    let sides = [(&before.side, &before.starts), (&after.side, &after.starts)];
    starts(&mut fleets, sides, args.show_values);
    match args.output {
        Output::Text => output::print(&text(&fleets))?,
        Output::Json => output::print(&json(&json!({ "format_version": FORMAT_VERSION, "fleets": fleets })))?,
        Output::Markdown => output::print(&markdown(&fleets))?,
    }
    Ok(if fleets.is_empty() { Exit::Fine } else { Exit::No })
}

/// What is known of a side.
struct Found {
    /// Its records.
    side: Side,
    /// The references that no grant permits, where it has a source.
    refused: Vec<Refusal>,
    /// What Envoys start with, where it has a source.
    starts: Starts,
}

impl Found {
    /// A side without a source.
    fn of(side: Side) -> Self {
        Self { side, refused: Vec::new(), starts: Starts::new() }
    }
}

async fn side(args: &DiffArgs, text: &str) -> Result<Found, Failure> {
    match text.split_once(':') {
        Some(("snapshot", id)) => Ok(Found::of(snapshot(args, id).await?)),
        Some(("channel", name)) => Ok(Found::of(channel(args, name).await?)),
        Some(("cluster", context)) => cluster(args, context).await,
        _ => {
            let (source, rev) = source(args, text);
            compiled(args, source, rev).await
        }
    }
}

/// The source of a side that is compiled, with its revision.
fn source<'a>(args: &'a DiffArgs, text: &'a str) -> (&'a str, Option<&'a str>) {
    match text.split_once(':') {
        Some(("git", rev)) => (&args.repo, Some(rev)),
        Some(("dir", path)) => (path, None),
        _ => (text, args.reading.rev.as_deref()),
    }
}

/// A side that has syntax or schema errors says nothing about what would run, so it is not compared.
async fn compiled(args: &DiffArgs, source: &str, rev: Option<&str>) -> Result<Found, Failure> {
    let mut reading = args.reading.clone();
    reading.rev = rev.map(str::to_owned);
    reading.live.cluster = false;
    if rev.is_none() {
        reading.path = None;
    }
    let name = rev.map_or_else(|| source.to_owned(), |rev| format!("git:{rev}"));
    read(args, &reading, &[source.to_owned()], &name).await
}

/// A live cluster.
async fn cluster(args: &DiffArgs, context: &str) -> Result<Found, Failure> {
    let mut reading = Reading { rev: None, path: None, ownership: None, ..args.reading.clone() };
    reading.live.cluster = true;
    if !context.is_empty() {
        reading.live.context = Some(context.to_owned());
    }
    read(args, &reading, &[], "the cluster").await
}

async fn read(args: &DiffArgs, reading: &Reading, sources: &[String], name: &str) -> Result<Found, Failure> {
    let one_side = |error: anyhow::Error| Failure::new(Exit::OneSide, error);
    let compiled = reading.compile(sources).await.map_err(|failure| one_side(failure.error))?;
    let blocked = &compiled.compilation.blocked;
    let fleets = &compiled.compilation.fleets;
    if blocked.all || fleets.keys().any(|fleet| args.fleets.wants(fleet) && blocked.blocks(fleet)) {
        compiled.print_diagnostics();
        return Err(one_side(anyhow!("{name} has errors and cannot be compared")));
    }
    let wanted = || fleets.iter().filter(|(fleet, _)| args.fleets.wants(fleet));
    let starts = wanted()
        .filter_map(|(fleet, found)| Some((fleet.clone(), startup::comparable(&found.ir.proxy)?)))
        .collect();
    let side = wanted()
        .map(|(fleet, found)| {
            (fleet.clone(), (found.snapshot.id(), found.snapshot.records().cloned().collect()))
        })
        .collect();
    Ok(Found { side, refused: refusals(&compiled.compilation), starts })
}

/// A snapshot is known by its digest, so nobody needs to be trusted for it.
async fn snapshot(args: &DiffArgs, id: &str) -> Result<Side, Failure> {
    let [fleet] = args.fleets.fleets.as_slice() else {
        return Err(Failure::new(Exit::Usage, anyhow!("say whose snapshot {id} is: --fleet FLEET")));
    };
    let id: Digest = id.parse().map_err(|error: DigestError| Failure::new(Exit::Usage, error))?;
    let store = StoreArgs { store: store(args)?, trust: None }.open_to_read().await?;
    by_id(&store, fleet, id).await
}

/// What a store holds under a snapshot's id.
async fn by_id(store: &Store, fleet: &FleetName, id: Digest) -> Result<Side, Failure> {
    let reader = Reader::new(store.fleet(fleet), Arc::new(Trust::of([])), Channel::default());
    fetch(&reader, fleet, &Release::new(id, 0, time::OffsetDateTime::UNIX_EPOCH)).await
}

async fn channel(args: &DiffArgs, name: &str) -> Result<Side, Failure> {
    let usage = |error: anyhow::Error| Failure::new(Exit::Usage, error);
    let (fleet, channel) = name.rsplit_once('@').context("write channel:FLEET@CHANNEL").map_err(usage)?;
    let fleet: FleetName = fleet.parse().map_err(|error: FleetNameError| Failure::new(Exit::Usage, error))?;
    let channel: Channel = channel.parse().map_err(|error: ChannelError| Failure::new(Exit::Usage, error))?;
    let store = StoreArgs { store: store(args)?, trust: args.trust.clone() };
    let reader = store.reader(&fleet, &channel).await?;
    let tail = reader.newest(None).await.map_err(read_failure)?;
    match tail.entry.as_ref().and_then(|found| found.entry.state.serving()) {
        Some(release) => fetch(&reader, &fleet, release).await,
        None => Ok(Side::new()),
    }
}

async fn fetch(reader: &Reader, fleet: &FleetName, release: &Release) -> Result<Side, Failure> {
    let snapshot = reader.fetch(release, &|_| None).await.map_err(read_failure)?;
    Ok([(fleet.clone(), (snapshot.id(), snapshot.records().cloned().collect()))].into())
}

fn store(args: &DiffArgs) -> Result<Vec<String>, Failure> {
    if args.store.is_empty() {
        return Err(Failure::new(Exit::Usage, anyhow!("which store? give --store URL or MOORGATE_STORE")));
    }
    Ok(args.store.clone())
}
