//! `moorgate publish`

use super::access::{ActArgs, Actor, Format, StoreArgs, failure, warn};
use super::input::{Fleets, Input};
use super::outcome::{row, value};
use super::output::{json as pretty, print};
use super::table::columns;
use super::wave::WaveArgs;
use super::{Exit, Failure, provenance};
use crate::compile::{Compilation, CompiledFleet};
use crate::history::Records;
use crate::publish::{Allow, Offer, Outcome, Parent};
use crate::report::FORMAT_VERSION;
use crate::source::{Revision, Sources};
use clap::Args;
use moorgate_snapshot::attestation::Provenance;
use moorgate_snapshot::channel::Source;
use moorgate_snapshot::{Channel, FleetName, Snapshot};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use time::OffsetDateTime;

/// Compile a source and release its snapshots
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PublishArgs {
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    fleets: Fleets,
    /// Publish files that are not those of the commit
    #[arg(long)]
    allow_dirty: bool,
    #[command(flatten)]
    release: Release,
}

/// Where and how to publish.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "flags of a command line are independent")]
struct Release {
    /// The channel
    #[arg(long, default_value_t = Channel::stable())]
    channel: Channel,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    act: ActArgs,
    /// Why
    #[arg(long, default_value = "")]
    reason: String,
    /// Publish nothing with errors, not even those that cost only a rule or listener
    #[arg(long)]
    strict: bool,
    /// Publish only if this entry is still the newest; 0 for an unused channel
    #[arg(long, value_name = "SEQ")]
    parent: Option<u64>,
    /// Who publishes here: a channel has one writer
    #[arg(long, value_name = "NAME", default_value = "publish")]
    writer: String,
    /// Publish to another writer's channel, and make it yours
    #[arg(long)]
    take_over: bool,
    /// Publish a commit that does not descend from the published one
    #[arg(long)]
    allow_unrelated: bool,
    /// Publish even if more than a fifth of the routes go, or all
    #[arg(long)]
    allow_shrink: bool,
    /// Publish a snapshot that is marked bad, and take the mark off
    #[arg(long)]
    allow_bad: bool,
    /// Publish what relays report not to understand: they keep what they have
    #[arg(long)]
    allow_old_relays: bool,
    /// Retire fleets of this writer that the source has no more
    #[arg(long)]
    retire_vanished: bool,
    #[command(flatten)]
    wave: WaveArgs,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

const EXAMPLES: &str = "Examples:
  moorgate publish gateways/ --store file:///var/lib/moorgate --key file:ci.key --trust ci.pub
  moorgate publish . --rev \"$GITHUB_SHA\" --path gateways --key env:MOORGATE_SIGNING_KEY -o json
  moorgate publish gateways/ --dry-run --key file:ci.key
  moorgate publish gateways/ --step relay=canary-1,bake=10m --step percent=20,max-errors=2 --key file:ci.key

One entry a fleet. Syntax and schema errors keep back the fleets that they concern; other errors cost a rule or a
listener, as the Gateway API says, unless --strict. A snapshot that is published already gives no entry.
Exits 1 if errors kept a fleet back, 4 if a gate refused: somebody else was faster, an older commit, too few routes.";

/// What a compile offers for publishing.
struct Offered {
    /// The fleets to publish.
    fleets: BTreeMap<FleetName, OfferedFleet>,
    /// Whether these are all fleets of the source, so that others in the store have vanished from it.
    complete: bool,
    /// What they were compiled from.
    source: Option<Source>,
    /// The same in full, signed beside each snapshot.
    provenance: Provenance,
    /// Local paths of sources: in their repositories it is looked up whether a commit descends from another.
    repositories: Vec<PathBuf>,
}

/// One fleet to publish.
struct OfferedFleet {
    /// What Envoy will see.
    snapshot: Snapshot,
    /// How many routes it has.
    routes: u64,
    /// Small documents that are signed beside it.
    documents: BTreeMap<String, Value>,
    /// The objects that it was made of.
    records: Records,
    /// A syntax or schema error concerns it: it is kept back.
    blocked: bool,
    /// Any error concerns it: `--strict` keeps it back.
    erring: bool,
}

impl Offered {
    /// Offers the fleets of a compile that are `wanted`.
    fn of(
        compilation: &Compilation,
        sources: &Sources,
        input: &Input,
        wanted: impl Fn(&FleetName) -> bool,
    ) -> Self {
        let erring = compilation.diagnostics.has_errors();
        let offer = |name: &FleetName, fleet: &CompiledFleet| OfferedFleet {
            snapshot: fleet.snapshot.clone(),
            routes: fleet.routes as u64,
            documents: BTreeMap::new(),
            records: compilation.records(name, fleet),
            blocked: compilation.blocked.blocks(name),
            erring,
        };
        let fleets = compilation.fleets.iter().filter(|(name, _)| wanted(name));
        let fleets: BTreeMap<_, _> = fleets.map(|(name, fleet)| (name.clone(), offer(name, fleet))).collect();
        let paths =
            input.sources.iter().map(|text| PathBuf::from(text.strip_prefix("file://").unwrap_or(text)));
        Self {
            complete: fleets.len() == compilation.fleets.len() && !compilation.blocked.all,
            fleets,
            source: release_source(&sources.revisions),
            provenance: provenance::of(&input.reading, sources),
            repositories: paths.filter(|path| path.exists()).collect(),
        }
    }
}

/// The first of the commits stands for all; the others are in the provenance. Files that are not those of a commit have
/// none.
fn release_source(revisions: &[Revision]) -> Option<Source> {
    let first = revisions.first()?;
    let dirty = revisions.iter().any(|revision| revision.dirty);
    let of_commit = |text: &str| if dirty { String::new() } else { text.to_owned() };
    Some(Source {
        repository: first.repository.as_ref().unwrap_or(&first.source).to_string(),
        revision: of_commit(&first.commit),
        tree: of_commit(&first.tree),
        committed: OffsetDateTime::from_unix_timestamp(first.time).ok().filter(|_| !dirty),
    })
}

/// Runs the command.
pub(super) async fn run(args: PublishArgs) -> Result<Exit, Failure> {
    let compiled = args.input.reading.compile(&args.input.sources).await?;
    compiled.print_diagnostics();
    if let Some(fleet) = args.fleets.missing(&compiled.compilation) {
        return Err(Failure::new(Exit::Usage, anyhow::anyhow!("the source has no fleet {fleet}")));
    }
    if compiled.compilation.fleets.is_empty() {
        // A wrong folder or a render that failed, far more often than a wish.
        let message = "the source has no Gateway of ours: nothing is published";
        return Err(Failure::new(Exit::No, anyhow::anyhow!(message)));
    }
    if let Some(dirty) = compiled.sources.revisions.iter().find(|found| found.dirty && !args.allow_dirty) {
        let message = "has changes that are in no commit: commit them, name a revision with --rev, or say --allow-dirty";
        return Err(Failure::new(Exit::Refused, anyhow::anyhow!("{} {message}", dirty.source)));
    }
    let wanted = |fleet: &FleetName| args.fleets.wants(fleet);
    let offered = Offered::of(&compiled.compilation, &compiled.sources, &args.input, wanted);
    let exit = Box::pin(release(args.release, offered)).await?;
    // A file that cannot be read may hold a whole fleet: what came of the others does not make that right.
    Ok(if exit == Exit::Fine && compiled.compilation.blocked.all { Exit::No } else { exit })
}

/// Publishes each fleet. One that fails does not keep back the others.
async fn release(args: Release, offered: Offered) -> Result<Exit, Failure> {
    let actor = Actor::open(&args.store, &args.act).await?;
    let mut results = Vec::new();
    for (name, fleet) in &offered.fleets {
        let blocked = fleet.blocked || args.strict && fleet.erring;
        let result = if blocked {
            let kept = "errors in its configuration keep it back; moorgate check lists them";
            Err(Failure::new(Exit::No, anyhow::anyhow!(kept)))
        } else {
            one(&args, &actor, &offered, name, fleet).await
        };
        results.push((name.clone(), result));
    }
    if offered.complete {
        results.extend(vanished(&args, &actor, &offered).await?);
    }
    let (mut rows, mut values, mut worst) = (Vec::new(), Vec::new(), Exit::Fine);
    for (name, result) in results {
        match result {
            Ok(outcome) => {
                outcome.warnings.iter().for_each(|warning| warn(&format!("{name}: {warning}")));
                rows.push(row(&outcome));
                values.push(value(&outcome, None));
            }
            Err(failure) => {
                let message = format!("{:#}", failure.error);
                warn(&format!("{name}: not published: {message}"));
                values.push(json!({
                    "fleet": name, "channel": args.channel,
                    "snapshot": offered.fleets.get(&name).map(|fleet| fleet.snapshot.id()),
                    "result": "failed", "exit": code(failure.exit), "error": message,
                }));
                worst = if code(failure.exit) > code(worst) { failure.exit } else { worst };
            }
        }
    }
    match args.output {
        Format::Text => print(&columns(&rows))?,
        Format::Json => print(&pretty(&json!({"format_version": FORMAT_VERSION, "fleets": values})))?,
    }
    Ok(worst)
}

async fn one(
    args: &Release,
    actor: &Actor,
    offered: &Offered,
    name: &FleetName,
    fleet: &OfferedFleet,
) -> Result<Outcome, Failure> {
    let publisher = actor.publisher(name, &args.channel, &args.reason)?;
    let descends =
        |old: &str, new: &str| offered.repositories.iter().find_map(|path| descends_in(path, old, new));
    let offer = Offer {
        snapshot: &fleet.snapshot,
        routes: fleet.routes,
        source: offered.source.clone(),
        records: fleet.records.clone(),
        documents: fleet.documents.clone(),
        provenance: Provenance { run: publisher.meta.run.clone(), ..offered.provenance.clone() },
        writer: args.writer.clone(),
        allow: Allow {
            shrink: args.allow_shrink,
            other_writer: args.take_over,
            unrelated: args.allow_unrelated,
            bad: args.allow_bad,
            old_relays: args.allow_old_relays,
        },
        parent: args.parent.map(|sequence| Parent { sequence, digest: None }),
        steps: args.wave.steps()?,
        descends: &descends,
    };
    Box::pin(publisher.publish(&offer)).await.map_err(failure)
}

/// Whether `new` descends from `old` in the repository around this path; none if it cannot be told there.
fn descends_in(path: &std::path::Path, old: &str, new: &str) -> Option<bool> {
    let repository = git2::Repository::discover(path).ok()?;
    let [old, new] = [old, new].map(|id| git2::Oid::from_str(id).ok());
    let (old, new) = (old?, new?);
    repository.find_commit(old).ok()?;
    match repository.graph_descendant_of(new, old) {
        // In a shallow clone the way back may end before it gets there.
        Ok(false) if repository.is_shallow() => None,
        answer => answer.ok(),
    }
}

/// Fleets that this writer published and that the source has no more: they go on being served, unless asked for
/// otherwise.
async fn vanished(
    args: &Release,
    actor: &Actor,
    offered: &Offered,
) -> Result<Vec<(FleetName, Result<Outcome, Failure>)>, Failure> {
    let mut retired = Vec::new();
    // Credentials of one fleet cannot list the others, and then there is nothing to say.
    let Ok(published) = actor.store().fleets().await else { return Ok(retired) };
    for fleet in published.iter().filter(|fleet| !offered.fleets.contains_key(fleet)) {
        let Ok(tail) = actor.reader(fleet, &args.channel).newest(None).await else { continue };
        let state = tail.entry.map(|entry| entry.entry.state).unwrap_or_default();
        if state.writer != args.writer || state.retired || state.target.is_none() {
            continue;
        }
        if !args.retire_vanished {
            warn(&format!(
                "{fleet} is published, and not in the source any more: it goes on being served until it is retired"
            ));
            continue;
        }
        let publisher = actor.publisher(fleet, &args.channel, "vanished from the source")?;
        retired.push((
            fleet.clone(),
            Box::pin(publisher.retire(&args.writer, Allow::default())).await.map_err(failure),
        ));
    }
    Ok(retired)
}

fn code(exit: Exit) -> u8 {
    match exit {
        Exit::Fine => 0,
        Exit::No => 1,
        Exit::Usage => 2,
        Exit::Environment => 3,
        Exit::Refused => 4,
        Exit::Integrity => 5,
        Exit::OneSide => 6,
        Exit::TimedOut => 7,
    }
}

#[cfg(test)]
mod tests;
