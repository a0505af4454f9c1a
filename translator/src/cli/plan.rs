//! `moorgate plan`

use super::access::{StoreArgs, failure, now, read_failure, warn};
use super::input::{Fleets, Input};
use super::output::{json as pretty, print};
use super::publish::{Offered, OfferedFleet, OnError, checked, last_good};
use super::table::columns;
use super::{Exit, Failure};
use crate::compile::Kept;
use crate::diff::{FleetDiff, Refusal, Side, diff, mark, markdown, refusals, text};
use crate::publish::{Allow, Offer, PlanFile, PlannedFleet, Preview, preview};
use crate::report::FORMAT_VERSION;
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use moorgate_model::ObjectRef;
use moorgate_snapshot::{Channel, FleetName, Reader};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The first line of the Markdown output: by it a bot finds the comment that it made before.
const MARKER: &str = "<!-- moorgate plan -->";

/// Compile a source, show what publishing it would change, and write it down
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate plan gateways/ --out edge.plan --trust ci.pub
  moorgate plan . --rev \"$GITHUB_SHA\" --path gateways --out edge.plan -o markdown > comment.md
  moorgate publish edge.plan --key file:ci.key

The file holds the snapshots byte for byte and the entry of each channel that they were compared with. `publish` of it
publishes exactly those bytes, and exits 4 if a channel has moved since. No key is needed to plan.
With --on-error last-good the plan holds what publishing in that mode would release.
A line `- grant … (revoked)`, red on a terminal, says that a ReferenceGrant was taken away.
Exits 1 if errors would keep a fleet back, 4 if a gate would refuse one; the file is written all the same. Co-signatures
that a channel requires are asked for by `publish`, once the objects are there to be rebuilt: the plan says who may give
them.")]
pub(super) struct PlanArgs {
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    fleets: Fleets,
    /// Plan files that are not those of the commit
    #[arg(long)]
    allow_dirty: bool,
    /// What becomes of objects with errors
    #[arg(long, value_enum, default_value_t = OnError::Isolate)]
    on_error: OnError,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The channel
    #[arg(long, default_value_t = Channel::stable())]
    channel: Channel,
    /// Who publishes here
    #[arg(long, value_name = "NAME", default_value = "publish")]
    writer: String,
    #[command(flatten)]
    store: StoreArgs,
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

/// One fleet, looked at.
struct Looked {
    name: FleetName,
    preview: Preview,
    diff: Vec<FleetDiff>,
    planned: PlannedFleet,
    kept: Vec<Kept>,
    failure: Option<(Exit, String)>,
}

/// Runs the command.
pub(super) async fn run(args: PlanArgs) -> Result<Exit, Failure> {
    let compiled = args.input.reading.compile(&args.input.sources).await?;
    let mut offered = checked(&compiled, &args.input, &args.fleets, args.allow_dirty)?;
    if args.on_error == OnError::LastGood {
        let (store, trust) = (args.store.open_to_read().await?, args.store.trust(None).await?);
        let readers =
            |fleet: &FleetName| Reader::new(store.fleet(fleet), trust.clone(), args.channel.clone());
        Box::pin(last_good::apply(&args.input, &readers, &compiled, &mut offered)).await?;
    }
    let offered = offered;
    let revocable = refusals(&compiled.compilation);
    let mut looked = Vec::new();
    for (name, fleet) in &offered.fleets {
        looked.push(look(&args, &offered, &revocable, name, fleet).await?);
    }
    if let Some(path) = &args.out {
        let fleets = looked.iter().map(|one| (one.name.clone(), one.planned.clone()));
        let plan = PlanFile {
            channel: args.channel.clone(),
            source: offered.source.clone(),
            provenance: offered.provenance.clone(),
            complete: offered.complete,
            fleets: fleets.collect(),
        };
        std::fs::write(path, plan.encode()?).with_context(|| path.display().to_string())?;
    }
    for one in &looked {
        let kept = one.kept.iter().map(last_good::sentence);
        let said = one.preview.warnings.iter().cloned().chain(kept);
        said.for_each(|warning| warn(&format!("{}: {warning}", one.name)));
    }
    match args.output {
        Output::Text => {
            let rows: Vec<Vec<String>> = looked.iter().map(row).collect();
            let diffs: String = looked.iter().map(|one| text(&one.diff)).collect();
            print(&(columns(&rows) + &diffs))?;
        }
        Output::Json => print(&pretty(&json!({
            "format_version": FORMAT_VERSION,
            "channel": args.channel,
            "fleets": looked.iter().map(value).collect::<Vec<Value>>(),
        })))?,
        Output::Markdown => {
            let mut page = format!("{MARKER}\n");
            for one in &looked {
                let kept = one.kept.iter().map(last_good::sentence);
                let notes = std::iter::once(verdict(one)).chain(one.preview.warnings.iter().cloned());
                let notes = notes.chain(kept);
                page.extend(notes.map(|note| format!("- `{}`: {}\n", one.name, note.replace('\n', " "))));
            }
            page.push('\n');
            page.extend(looked.iter().map(|one| markdown(&one.diff)));
            print(&page)?;
        }
    }
    let refused = |one: &Looked| {
        one.preview.refused.is_some() || matches!(one.failure, Some((Exit::Refused | Exit::Integrity, _)))
    };
    Ok(if looked.iter().any(refused) {
        Exit::Refused
    } else if looked.iter().any(|one| one.planned.blocked) || offered.unreadable {
        Exit::No
    } else {
        Exit::Fine
    })
}

async fn look(
    args: &PlanArgs,
    offered: &Offered,
    refusals: &[Refusal],
    name: &FleetName,
    fleet: &OfferedFleet,
) -> Result<Looked, Failure> {
    let reader = args.store.reader(name, &args.channel).await?;
    let descends = offered.descends(fleet);
    let offer = Offer {
        snapshot: &fleet.snapshot,
        routes: fleet.routes,
        source: offered.source.clone(),
        documents: fleet.documents.clone(),
        provenance: offered.provenance.clone(),
        records: fleet.records.clone(),
        writer: args.writer.clone(),
        allow: Allow::default(),
        parent: None,
        steps: Vec::new(),
        descends: &descends,
    };
    let preview = Box::pin(preview(&reader, &offer, now())).await.map_err(failure)?;
    let before = side(&reader, name, &preview).await?;
    let after =
        Side::from([(name.clone(), (fleet.snapshot.id(), fleet.snapshot.records().cloned().collect()))]);
    let mut diff = diff(&before, &after, args.show_values)?;
    // An object that stays as the last good release had it keeps what it refers to.
    let is_kept = |by: &ObjectRef| fleet.kept.iter().any(|kept| kept.object == *by);
    let refusals: Vec<Refusal> = refusals.iter().filter(|refusal| !is_kept(&refusal.by)).cloned().collect();
    mark(&mut diff, &before, &refusals)?;
    let why = fleet.failure.as_ref().map(|(_, why)| why.clone());
    let planned = PlannedFleet {
        parent: preview.parent,
        snapshot: fleet.snapshot.clone(),
        routes: fleet.routes,
        documents: fleet.documents.clone(),
        records: fleet.records.clone(),
        blocked: fleet.blocked || fleet.failure.is_some(),
        erring: fleet.erring,
        descends_from: preview.descends_from.clone(),
        refused: preview.refused.as_ref().map(ToString::to_string).or(why),
    };
    Ok(Looked {
        name: name.clone(),
        preview,
        diff,
        planned,
        kept: fleet.kept.clone(),
        failure: fleet.failure.clone(),
    })
}

/// What is served now.
async fn side(reader: &Reader, name: &FleetName, preview: &Preview) -> Result<Side, Failure> {
    let Some(release) = &preview.serving else { return Ok(BTreeMap::new()) };
    let snapshot = reader.fetch(release, &|_| None).await.map_err(read_failure)?;
    Ok([(name.clone(), (snapshot.id(), snapshot.records().cloned().collect()))].into())
}

fn verdict(one: &Looked) -> String {
    let changes: usize = one.diff.iter().map(|diff| diff.changes.len()).sum();
    let because = if one.preview.translators { ", by another translator or other options" } else { "" };
    if let Some((_, why)) = &one.failure {
        return format!("kept back: {why}");
    }
    match &one.preview.refused {
        Some(gate) => format!("refused: {gate}"),
        None if one.planned.blocked => "kept back by errors in its configuration".to_owned(),
        None if one.preview.unchanged => "unchanged".to_owned(),
        None if one.preview.waits => format!("waits: {changes} changes{because}"),
        None => format!("{changes} changes{because}"),
    }
}

fn row(one: &Looked) -> Vec<String> {
    let parent = one
        .planned
        .parent
        .map_or_else(|| "first release".to_owned(), |parent| format!("after entry {}", parent.sequence));
    vec![one.name.to_string(), parent, one.planned.snapshot.id().to_string(), verdict(one)]
}

fn value(one: &Looked) -> Value {
    json!({
        "fleet": one.name,
        "parent": one.planned.parent,
        "snapshot": one.planned.snapshot.id(),
        "serving": one.preview.serving.as_ref().map(|release| release.snapshot),
        "routes": one.planned.routes,
        "unchanged": one.preview.unchanged,
        "waits": one.preview.waits,
        "blocked": one.planned.blocked,
        "refused": one.planned.refused,
        "translator_changed": one.preview.translators,
        "warnings": one.preview.warnings,
        "kept": one.kept,
        "changes": one.diff.first().map(|diff| diff.changes.clone()).unwrap_or_default(),
    })
}
