//! `moorgate gc`

use super::access::{Format, StoreArgs, duration, nonce, store_failure, warn};
use super::output::{json as pretty, print};
use super::table::columns;
use super::{Exit, Failure};
use crate::report::FORMAT_VERSION;
use clap::Args;
use moorgate_snapshot::FleetName;
use moorgate_snapshot::gc::{self, Amount, GcError, Mode, Outcome, Policy};
use serde_json::{Value, json};
use std::time::Duration;

/// Remove pages, manifests and bundles that no release, pin or report needs any more
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate gc --trust gateways.trust --store s3://gateways
  moorgate gc shop/edge --apply
  moorgate gc --apply --keep-for 90d --keep-last 50 -o json

Says what it would do, and does it with --apply: a first run condemns, and a run at least --delay later deletes what is
still not needed. Log entries, attestations and what they name stay. Whatever cannot be listed or read ends the run of
its fleet, and nothing of it is deleted. Give it credentials of its own: nobody else needs the right to delete.
Exits 3 if a store cannot be read or another gc is at work, 5 if something in it does not hold.")]
pub(super) struct GcArgs {
    /// The fleet: namespace/gateway or class/NAME; all of the store if not given
    fleet: Option<FleetName>,
    /// Condemn and delete
    #[arg(long)]
    apply: bool,
    /// Only say what would be done: the default
    #[arg(long, conflicts_with = "apply")]
    dry_run: bool,
    /// Entries this young keep what they name: 30m, 12h, 30d
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30d")]
    keep_for: time::Duration,
    /// So many newest entries of each channel keep what they name, however old
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    keep_last: usize,
    /// Objects this young stay, since a publisher may be at work; longer than any publish takes
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "7d")]
    grace: time::Duration,
    /// Time from condemning to deleting; longer than any publish takes
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "24h")]
    delay: time::Duration,
    /// After so long another run may take over
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    lease: time::Duration,
    #[command(flatten)]
    store: StoreArgs,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Runs the command. A fleet that cannot be read does not keep back the others.
pub(super) async fn run(args: GcArgs) -> Result<Exit, Failure> {
    let store = args.store.open()?;
    let trust = args.store.trust(None).await?;
    let fleets = match &args.fleet {
        Some(fleet) => vec![fleet.clone()],
        None => store.fleets().await.map_err(store_failure)?,
    };
    let policy = Policy {
        keep_for: std_duration(args.keep_for),
        keep_last: args.keep_last.max(1),
        grace: std_duration(args.grace),
        delay: std_duration(args.delay),
        lease: std_duration(args.lease),
    };
    let (mut results, mut worst) = (Vec::new(), Exit::Fine);
    for fleet in fleets {
        let mode = if args.apply { Mode::Apply { nonce: nonce()? } } else { Mode::DryRun };
        let result = gc::collect(&store.fleet(&fleet), &trust, &policy, &mode).await;
        match &result {
            Ok(outcome) => outcome.warnings.iter().for_each(|text| warn(&format!("{fleet}: {text}"))),
            Err(error) => {
                warn(&format!("{fleet}: {error}"));
                worst = if worst == Exit::Integrity { worst } else { exit(error) };
            }
        }
        results.push((fleet, result));
    }
    match args.output {
        Format::Text => print(&text(&results, args.apply))?,
        Format::Json => print(&pretty(&json!({
            "format_version": FORMAT_VERSION,
            "applied": args.apply,
            "fleets": results.iter().map(value).collect::<Vec<Value>>(),
        })))?,
    }
    Ok(worst)
}

type Ran = (FleetName, Result<Outcome, GcError>);

fn std_duration(duration: time::Duration) -> Duration {
    duration.unsigned_abs()
}

fn exit(error: &GcError) -> Exit {
    if error.is_integrity() { Exit::Integrity } else { Exit::Environment }
}

fn text(results: &[Ran], applied: bool) -> String {
    if results.is_empty() {
        return "no fleets\n".to_owned();
    }
    let (condemned, deleted) = if applied { ("CONDEMNED", "DELETED") } else { ("TO CONDEMN", "TO DELETE") };
    let heading = ["FLEET", "SNAPSHOTS", "NEEDED", "YOUNG", condemned, "WAITING", "SPARED", deleted];
    let rows = results.iter().map(|(fleet, result)| match result {
        Ok(outcome) => {
            let amounts = [
                outcome.needed,
                outcome.young,
                outcome.condemned,
                outcome.waiting,
                outcome.spared,
                outcome.deleted,
            ];
            let mut row = vec![fleet.to_string(), outcome.snapshots.to_string()];
            row.extend(amounts.into_iter().map(amount));
            row
        }
        Err(_) => vec![fleet.to_string(), "failed, nothing removed".to_owned()],
    });
    columns(&std::iter::once(heading.map(str::to_owned).to_vec()).chain(rows).collect::<Vec<_>>())
}

/// `12 (3.4 MB)`, in powers of ten.
fn amount(amount: Amount) -> String {
    let (bytes, kilo) = (amount.bytes, 1000);
    match bytes {
        0 => amount.objects.to_string(),
        1..1000 => format!("{} ({bytes} B)", amount.objects),
        1000..1_000_000 => format!("{} ({} kB)", amount.objects, bytes / kilo),
        _ => format!("{} ({}.{} MB)", amount.objects, bytes / kilo / kilo, bytes / kilo % kilo / 100),
    }
}

fn value((fleet, result): &Ran) -> Value {
    match result {
        Ok(outcome) => json!({"fleet": fleet, "outcome": outcome}),
        Err(error) => json!({"fleet": fleet, "error": error.to_string()}),
    }
}
