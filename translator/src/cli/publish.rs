//! `moorgate publish`

pub(super) mod last_good;
mod planned;

use super::access::{ActArgs, Actor, Format, StoreArgs, failure, warn};
use super::input::{Compiled, Fleets, Input};
use super::outcome::{row, value};
use super::output::{json as pretty, print};
use super::rollout::RolloutArgs;
use super::table::columns;
use super::wave::WaveArgs;
use super::{Exit, Failure, provenance};
use crate::compile::{Compilation, CompiledFleet, Kept};
use crate::history::Records;
use crate::publish::{Allow, Done, Offer, Outcome, Parent};
use crate::report::FORMAT_VERSION;
use crate::source::{Sources, cluster};
use clap::{Args, ValueEnum};
use moorgate_snapshot::attestation::Provenance;
use moorgate_snapshot::channel::Source;
use moorgate_snapshot::{Channel, Digest, FleetName, Snapshot};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
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
    /// What becomes of objects with errors
    #[arg(long, value_enum, default_value_t = OnError::Isolate)]
    on_error: OnError,
    #[command(flatten)]
    release: Release,
}

/// What becomes of objects with errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OnError {
    /// They cost a rule or a listener, as the Gateway API says, or keep back the fleets that they concern
    Isolate,
    /// They stay as the newest release had them, where nothing gets more open by that
    LastGood,
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
    /// Keep back fleets that any error concerns, not only syntax and schema errors
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
    #[command(flatten)]
    rollout: RolloutArgs,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

const EXAMPLES: &str = "Examples:
  moorgate publish gateways/ --store file:///var/lib/moorgate --key file:ci.key --trust ci.pub
  moorgate publish . --rev \"$GITHUB_SHA\" --path gateways --key env:MOORGATE_SIGNING_KEY -o json
  moorgate publish gateways/ --dry-run --key file:ci.key
  moorgate publish edge.plan --key file:ci.key
  moorgate publish gateways/ --step relay=canary-1,bake=10m --step percent=20,max-errors=2 --wait --key file:ci.key

SOURCE may be a file that `moorgate plan` wrote: exactly those bytes are published, if no channel has moved since.
One entry a fleet. Syntax and schema errors keep back the fleets that they concern; other errors cost a rule or a
listener, as the Gateway API says, unless --strict. With --on-error last-good routes with errors stay as the newest
release had them, where nothing gets more open by that. A snapshot that is published already gives no entry.
With --wait, the wave is moved on as its steps bake and relays report that they are well; one that does harm is halted:
the release before is pinned and the snapshot marked bad. Without, `moorgate step` moves it on.
Exits 1 if errors kept a fleet back or relays refused it, 4 if a gate refused (somebody else was faster, an older commit,
too few routes) or the wave was halted, 7 if --wait ran out of time.";

/// What a compile offers for publishing.
pub(super) struct Offered {
    /// The fleets to publish.
    pub(super) fleets: BTreeMap<FleetName, OfferedFleet>,
    /// Fleets that are wanted and have no snapshot.
    pub(super) refused: Vec<FleetName>,
    /// Whether a file that cannot be read keeps everything back.
    pub(super) unreadable: bool,
    /// Whether these are all fleets of the source, so that others in the store have vanished from it.
    pub(super) complete: bool,
    /// What they were compiled from.
    pub(super) source: Option<Source>,
    /// The same in full, signed beside each snapshot.
    pub(super) provenance: Provenance,
    /// Local paths of sources: in their repositories it is looked up whether a commit descends from another.
    pub(super) repositories: Vec<PathBuf>,
}

/// One fleet to publish.
pub(super) struct OfferedFleet {
    /// What Envoy will see.
    pub(super) snapshot: Snapshot,
    /// How many routes it has.
    pub(super) routes: u64,
    /// Small documents that are signed beside it.
    pub(super) documents: BTreeMap<String, Value>,
    /// The objects that it was made of.
    pub(super) records: Records,
    /// A syntax or schema error concerns it: it is kept back.
    pub(super) blocked: bool,
    /// Any error concerns it: `--strict` keeps it back.
    pub(super) erring: bool,
    /// What a plan was made on.
    pub(super) planned: Option<Planned>,
    /// Objects that are not as the source has them.
    pub(super) kept: Vec<Kept>,
    /// Why it fails before anything is published.
    pub(super) failure: Option<(Exit, String)>,
}

/// What a plan says of a fleet beside its bytes.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    /// The entry that must be the newest.
    parent: Parent,
    /// The published commit that the planned one was found to descend from.
    descends_from: Option<String>,
}

impl Offered {
    /// Offers the fleets of a compile that are `wanted`.
    fn of(
        compilation: &Compilation,
        sources: &Sources,
        input: &Input,
        wanted: impl Fn(&FleetName) -> bool,
    ) -> Self {
        let offer = |name: &FleetName, fleet: &CompiledFleet| OfferedFleet {
            snapshot: fleet.snapshot.clone(),
            routes: fleet.routes as u64,
            documents: BTreeMap::from([(
                "counts".to_owned(),
                serde_json::to_value(fleet.counts.notable()).unwrap_or_default(),
            )]),
            records: compilation.records(name, fleet),
            blocked: compilation.blocked.blocks(name),
            erring: compilation.erring.blocks(name),
            planned: None,
            kept: Vec::new(),
            failure: None,
        };
        let fleets = compilation.fleets.iter().filter(|(name, _)| wanted(name));
        let fleets: BTreeMap<_, _> = fleets.map(|(name, fleet)| (name.clone(), offer(name, fleet))).collect();
        let paths =
            input.sources.iter().map(|text| PathBuf::from(text.strip_prefix("file://").unwrap_or(text)));
        Self {
            complete: fleets.len() == compilation.fleets.len()
                && !compilation.blocked.all
                && compilation.refused.is_empty(),
            unreadable: compilation.blocked.all,
            fleets,
            refused: compilation.refused.iter().filter(|name| wanted(name)).cloned().collect(),
            source: release_source(sources),
            provenance: provenance::of(&input.reading, sources),
            repositories: paths.filter(|path| path.exists()).collect(),
        }
    }

    /// Whether one commit descends from another: as the plan found, or as the repositories of the sources know.
    pub(super) fn descends<'o>(
        &'o self,
        fleet: &'o OfferedFleet,
    ) -> impl Fn(&str, &str) -> Option<bool> + Sync + 'o {
        move |old, new| {
            let planned = fleet.planned.as_ref().and_then(|planned| planned.descends_from.as_deref());
            if planned == Some(old) {
                return Some(true);
            }
            let in_git = || self.repositories.iter().find_map(|path| descends_in(path, old, new));
            cluster::descends(old, new).or_else(in_git)
        }
    }
}

/// The first of the commits stands for all; the others are in the provenance. Files that are not those of a commit have
/// none.
fn release_source(sources: &Sources) -> Option<Source> {
    if let Some(stand) = &sources.cluster {
        return Some(stand.source());
    }
    let revisions = &sources.revisions;
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
    if let [source] = args.input.sources.as_slice()
        && planned::is_plan(Path::new(source))
    {
        let offered = planned::read(&args, Path::new(source))?;
        return Box::pin(release(args.release, offered)).await;
    }
    let compiled = args.input.reading.compile(&args.input.sources).await?;
    let mut offered = checked(&compiled, &args.input, &args.fleets, args.allow_dirty)?;
    if args.on_error == OnError::LastGood {
        let actor = Actor::open(&args.release.store, &args.release.act).await?;
        let readers = |fleet: &FleetName| actor.reader(fleet, &args.release.channel);
        Box::pin(last_good::apply(&args.input, &readers, &compiled, &mut offered)).await?;
    }
    let unreadable = offered.unreadable;
    let exit = Box::pin(release(args.release, offered)).await?;
    // A file that cannot be read may hold a whole fleet: what came of the others does not make that right.
    Ok(if exit == Exit::Fine && unreadable { Exit::No } else { exit })
}

/// What a compile offers, if it may be published at all. Prints its diagnostics.
pub(super) fn checked(
    compiled: &Compiled,
    input: &Input,
    fleets: &Fleets,
    allow_dirty: bool,
) -> Result<Offered, Failure> {
    compiled.print_diagnostics();
    if let Some(fleet) = fleets.missing(&compiled.compilation) {
        return Err(Failure::new(Exit::Usage, anyhow::anyhow!("the source has no fleet {fleet}")));
    }
    if compiled.compilation.fleets.is_empty() && compiled.compilation.refused.is_empty() {
        // A wrong folder or a render that failed, far more often than a wish.
        let message = "the source has no Gateway of ours: nothing is published";
        return Err(Failure::new(Exit::No, anyhow::anyhow!(message)));
    }
    if let Some(dirty) = compiled.sources.revisions.iter().find(|found| found.dirty && !allow_dirty) {
        let message = "has changes that are in no commit: commit them, name a revision with --rev, or say --allow-dirty";
        return Err(Failure::new(Exit::Refused, anyhow::anyhow!("{} {message}", dirty.source)));
    }
    let wanted = |fleet: &FleetName| fleets.wants(fleet);
    Ok(Offered::of(&compiled.compilation, &compiled.sources, input, wanted))
}

/// Publishes each fleet. One that fails does not keep back the others.
async fn release(args: Release, offered: Offered) -> Result<Exit, Failure> {
    let actor = Actor::open(&args.store, &args.act).await?;
    let mut results = Vec::new();
    for (name, fleet) in &offered.fleets {
        let blocked = fleet.blocked || args.strict && fleet.erring;
        let result = if let Some((exit, why)) = &fleet.failure {
            Err(Failure::new(*exit, anyhow::anyhow!(why.clone())))
        } else if blocked {
            let kept = "errors in its configuration keep it back; moorgate check lists them";
            Err(Failure::new(Exit::No, anyhow::anyhow!(kept)))
        } else {
            one(&args, &actor, &offered, name, fleet).await
        };
        results.push((name.clone(), result));
    }
    for name in &offered.refused {
        let why = anyhow::anyhow!("it could not be compiled; moorgate check says why");
        results.push((name.clone(), Err(Failure::new(Exit::No, why))));
    }
    if offered.complete {
        results.extend(vanished(&args, &actor, &offered).await?);
    }
    let (mut rows, mut values, mut worst, mut waits) = (Vec::new(), Vec::new(), Exit::Fine, Vec::new());
    let mut kept = BTreeSet::new();
    for (name, result) in results {
        match result {
            Ok(outcome) => {
                outcome.warnings.iter().for_each(|warning| warn(&format!("{name}: {warning}")));
                rows.push(row(&outcome));
                let of_fleet =
                    offered.fleets.get(&name).map(|fleet| fleet.kept.as_slice()).unwrap_or_default();
                values.push(last_good::with_kept(value(&outcome, None), of_fleet));
                kept.extend(of_fleet.iter().map(last_good::sentence));
                waits.extend(awaited(&args, &outcome).map(|snapshot| (values.len() - 1, name, snapshot)));
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
    kept.iter().for_each(|sentence| warn(sentence));
    if args.output == Format::Text {
        print(&columns(&rows))?;
    }
    // All fleets at one time: each has its own channel.
    let (rollout, channel, actor) = (&args.rollout, &args.channel, &actor);
    let waits = waits.iter().map(|(index, name, snapshot)| async move {
        (*index, name, Box::pin(rollout.drive(actor, name, channel, *snapshot)).await)
    });
    for (index, name, end) in futures::future::join_all(waits).await {
        let (exit, end) = end.unwrap_or_else(|failure| {
            let message = format!("{:#}", failure.error);
            warn(&format!("{name}: {message}"));
            (failure.exit, json!({"result": "failed", "detail": message}))
        });
        worst = if code(exit) > code(worst) { exit } else { worst };
        if let Some(object) = values.get_mut(index).and_then(Value::as_object_mut) {
            object.insert("rollout".to_owned(), end);
        }
    }
    if args.output == Format::Json {
        print(&pretty(&json!({"format_version": FORMAT_VERSION, "fleets": values})))?;
    }
    Ok(worst)
}

/// What has to become live.
fn awaited(args: &Release, outcome: &Outcome) -> Option<Digest> {
    let asked = args.rollout.waits() && outcome.result != Done::DryRun && !outcome.entry.state.retired;
    outcome.entry.state.newest().map(|release| release.snapshot).filter(|_| asked)
}

async fn one(
    args: &Release,
    actor: &Actor,
    offered: &Offered,
    name: &FleetName,
    fleet: &OfferedFleet,
) -> Result<Outcome, Failure> {
    let publisher = actor.publisher(name, &args.channel, &args.reason)?;
    let descends = offered.descends(fleet);
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
        parent: fleet
            .planned
            .as_ref()
            .map(|planned| planned.parent)
            .or_else(|| args.parent.map(|sequence| Parent { sequence, digest: None })),
        steps: args.wave.steps()?,
        descends: &descends,
    };
    Box::pin(publisher.publish(&offer)).await.map_err(failure)
}

/// Whether `new` descends from `old` in the repository around this path; none if it cannot be told there.
pub(super) fn descends_in(path: &std::path::Path, old: &str, new: &str) -> Option<bool> {
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
