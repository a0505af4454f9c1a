//! `moorgate log`

use super::access::{Format, StoreArgs, read_failure, timestamp};
use super::output::{json as pretty, print};
use super::table::columns;
use super::{Exit, Failure, audit};
use crate::report::FORMAT_VERSION;
use clap::Args;
use moorgate_snapshot::entry::VerifiedEntry;
use moorgate_snapshot::{Channel, FleetName, Slot};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Show the releases of a fleet, the newest first
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate log shop/edge --trust ci.pub
  moorgate log shop/edge --since 2026-03-01T00:00:00Z --limit 1000 -o json
  moorgate log shop/edge --audit --trust trust.json

Entries that do not verify are shown as void, with the reason. --audit exits 5 if the chain is broken.")]
pub(super) struct LogArgs {
    /// The fleet: namespace/gateway or class/NAME
    fleet: FleetName,
    /// The channel
    #[arg(long, default_value_t = Channel::stable())]
    channel: Channel,
    /// How many entries to read
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// Only entries from this time on (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time_of)]
    since: Option<OffsetDateTime>,
    /// Only entries up to this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time_of)]
    until: Option<OffsetDateTime>,
    /// Follow the whole chain from the newest entry to the first, and say whether it holds
    #[arg(long, conflicts_with_all = ["limit", "since", "until"])]
    audit: bool,
    #[command(flatten)]
    store: StoreArgs,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

fn time_of(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "write a time as 2026-03-01T00:00:00Z".to_owned())
}

/// Runs the command.
pub(super) async fn run(args: LogArgs) -> Result<Exit, Failure> {
    let reader = args.store.reader(&args.fleet, &args.channel).await?;
    if args.audit {
        return audit::run(&reader, args.output).await;
    }
    let tail = reader.newest(None).await.map_err(read_failure)?;
    let slots = reader.history(tail.next.saturating_sub(1), args.limit).await.map_err(read_failure)?;
    let wanted = |slot: &Slot| match slot {
        Slot::Entry(entry) => {
            let time = entry.entry.time;
            args.since.is_none_or(|since| time >= since) && args.until.is_none_or(|until| time <= until)
        }
        // A void slot has no time: it is always worth a look.
        Slot::Void(_) | Slot::Empty => true,
    };
    let slots: Vec<(u64, Slot)> = slots.into_iter().filter(|(_, slot)| wanted(slot)).collect();
    match args.output {
        Format::Text => print(&text(&slots))?,
        Format::Json => print(&pretty(&json!({
            "format_version": FORMAT_VERSION,
            "fleet": args.fleet,
            "channel": args.channel,
            "entries": slots.iter().map(|(sequence, slot)| value(*sequence, slot)).collect::<Vec<Value>>(),
        })))?,
    }
    Ok(Exit::Fine)
}

fn text(slots: &[(u64, Slot)]) -> String {
    if slots.is_empty() {
        return String::new();
    }
    let heading = ["SEQ", "TIME", "ACTION", "SNAPSHOT", "BY", "SOURCE", "REASON"].map(str::to_owned).to_vec();
    let rows = slots.iter().map(|(sequence, slot)| match slot {
        Slot::Entry(entry) => row(entry),
        Slot::Void(error) => {
            let empty = String::new;
            vec![
                sequence.to_string(),
                empty(),
                "void".to_owned(),
                empty(),
                empty(),
                empty(),
                error.to_string(),
            ]
        }
        Slot::Empty => vec![sequence.to_string()],
    });
    columns(&std::iter::once(heading).chain(rows).collect::<Vec<_>>())
}

pub(super) fn row(verified: &VerifiedEntry) -> Vec<String> {
    let entry = &verified.entry;
    let state = &entry.state;
    // What the entry speaks of: the pinned release of a pin, the new one of a publish.
    let release = match &state.pin {
        Some(pin) if entry.action.as_str() == "pin" => Some(&pin.release),
        _ => state.newest(),
    };
    let revision = release.and_then(|release| release.source.as_ref()).map(|source| source.revision.as_str());
    let promoted = entry.promoted.as_ref().map(|from| format!("from {} {}", from.channel, from.sequence));
    vec![
        entry.sequence.to_string(),
        timestamp(entry.time),
        entry.action.as_str().to_owned(),
        release.map(|release| release.snapshot.short()).unwrap_or_default(),
        entry.author.clone(),
        promoted.unwrap_or_else(|| revision.unwrap_or_default().chars().take(12).collect()),
        entry.reason.clone(),
    ]
}

pub(super) fn value(sequence: u64, slot: &Slot) -> Value {
    match slot {
        Slot::Entry(entry) => json!({
            "sequence": sequence,
            "digest": entry.digest,
            "signers": entry.signers,
            "serving": entry.entry.state.serving().map(|release| release.snapshot),
            "entry": entry.entry,
        }),
        Slot::Void(error) => {
            json!({"sequence": sequence, "void": error.label(), "message": error.to_string()})
        }
        Slot::Empty => json!({"sequence": sequence}),
    }
}
