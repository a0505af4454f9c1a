//! `moorgate publish`

use super::access::{ActArgs, Actor, Format, StoreArgs, failure, warn};
use super::outcome::{row, value};
use super::table::{FORMAT_VERSION, columns, print, print_json};
use super::{Exit, Failure};
use crate::publish::{Allow, Offer, Outcome};
use clap::Args;
use moorgate_snapshot::channel::Source;
use moorgate_snapshot::{Channel, FleetName, Snapshot};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where and how to publish; what to publish is the source beside it.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "flags of a command line are independent")]
pub struct PublishArgs {
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
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// For the help of the command.
pub const EXAMPLES: &str = "Examples:
  moorgate publish gateways/ --store file:///var/lib/moorgate --key file:ci.key --trust ci.pub
  moorgate publish . --rev \"$GITHUB_SHA\" --path gateways --key env:MOORGATE_SIGNING_KEY -o json
  moorgate publish gateways/ --dry-run --key file:ci.key

One entry a fleet. Syntax and schema errors keep back the fleets that they concern; other errors cost a rule or a
listener, as the Gateway API says, unless --strict. A snapshot that is published already gives no entry.
Exits 1 if errors kept a fleet back, 4 if a gate refused: somebody else was faster, an older commit, too few routes.";

/// What a compile offers for publishing.
pub struct Offered {
    /// The fleets to publish.
    pub fleets: BTreeMap<FleetName, OfferedFleet>,
    /// Whether these are all fleets of the source, so that others in the store have vanished from it.
    pub complete: bool,
    /// What they were compiled from.
    pub source: Option<Source>,
    /// Local paths of sources: in their repositories it is looked up whether a commit descends from another.
    pub repositories: Vec<PathBuf>,
}

/// One fleet to publish.
pub struct OfferedFleet {
    /// What Envoy will see.
    pub snapshot: Snapshot,
    /// How many routes it has.
    pub routes: u64,
    /// Signed beside it: `origins`, `status`, `provenance` and the like.
    pub documents: BTreeMap<String, Value>,
    /// A syntax or schema error concerns it: it is kept back.
    pub blocked: bool,
    /// Any error concerns it: `--strict` keeps it back.
    pub erring: bool,
}

/// Publishes each fleet. One that fails does not keep back the others.
pub async fn run(args: PublishArgs, offered: Offered) -> Result<Exit, Failure> {
    let actor = Actor::open(&args.store, &args.act)?;
    let (mut rows, mut values, mut worst) = (Vec::new(), Vec::new(), Exit::Fine);
    for (name, fleet) in &offered.fleets {
        let blocked = fleet.blocked || args.strict && fleet.erring;
        let result = if blocked {
            let kept = "errors in its configuration keep it back; moorgate check lists them";
            Err(Failure::new(Exit::No, anyhow::anyhow!(kept)))
        } else {
            one(&args, &actor, &offered, name, fleet).await
        };
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
                    "fleet": name, "channel": args.channel, "snapshot": fleet.snapshot.id(),
                    "result": "failed", "exit": code(failure.exit), "error": message,
                }));
                worst = if code(failure.exit) > code(worst) { failure.exit } else { worst };
            }
        }
    }
    if offered.complete {
        warn_of_vanished(&args, &actor, &offered).await;
    }
    match args.output {
        Format::Text => print(&columns(&rows))?,
        Format::Json => print_json(&json!({"format_version": FORMAT_VERSION, "fleets": values}))?,
    }
    Ok(worst)
}

async fn one(
    args: &PublishArgs,
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
        documents: fleet.documents.clone(),
        writer: args.writer.clone(),
        allow: Allow {
            shrink: args.allow_shrink,
            other_writer: args.take_over,
            unrelated: args.allow_unrelated,
        },
        parent: args.parent,
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

/// Fleets that this writer published and that the source has no more: they go on being served.
async fn warn_of_vanished(args: &PublishArgs, actor: &Actor, offered: &Offered) {
    // Credentials of one fleet cannot list the others, and then there is nothing to say.
    let Ok(published) = actor.store().fleets().await else { return };
    for fleet in published.iter().filter(|fleet| !offered.fleets.contains_key(fleet)) {
        let Ok(tail) = actor.reader(fleet, &args.channel).newest(None).await else { continue };
        let state = tail.entry.map(|entry| entry.entry.state).unwrap_or_default();
        if state.writer == args.writer && !state.retired && state.target.is_some() {
            warn(&format!("{fleet} is published, and not in the source any more: it goes on being served"));
        }
    }
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
