//! `moorgate log`

use super::access::{Format, StoreArgs, read_failure, timestamp, warn};
use super::output::{json as pretty, print};
use super::table::columns;
use super::{Exit, Failure, audit};
use crate::history::{Book, Event, Wanted, timeline};
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
  moorgate log shop/edge --since 2026-03-01 --until 2026-03-04 -o json
  moorgate log shop/edge --object HTTPRoute/shop/cart
  moorgate log shop/edge --audit --trust trust.json

Entries that do not verify are shown as void, with the reason. With --object only those are shown after which the object
was served otherwise than before, by a publish as well as by a pin or rollback, with the place where it was written; from
the signed records in the store, which outlive gc. A line that only moved with its file is no change.
--audit exits 5 if the chain is broken.")]
pub(super) struct LogArgs {
    /// The fleet: namespace/gateway or class/NAME
    fleet: FleetName,
    /// The channel
    #[arg(long, default_value_t = Channel::stable())]
    channel: Channel,
    /// Only entries that changed this object: KIND/NAMESPACE/NAME
    #[arg(long, value_name = "OBJECT")]
    object: Option<Wanted>,
    /// How many entries to read, from the newest on [default: 20; 1000 with --object, --since or --until]
    #[arg(long)]
    limit: Option<usize>,
    /// Only entries from this time on: 2026-03-01T08:00:00Z, or a day, in UTC
    #[arg(long, value_name = "TIME", value_parser = time_of)]
    since: Option<OffsetDateTime>,
    /// Only entries up to this time; a day without a time is its beginning
    #[arg(long, value_name = "TIME", value_parser = time_of)]
    until: Option<OffsetDateTime>,
    /// Follow the whole chain from the newest entry to the first, and say whether it holds
    #[arg(long, conflicts_with_all = ["limit", "since", "until", "object"])]
    audit: bool,
    #[command(flatten)]
    store: StoreArgs,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

fn time_of(text: &str) -> Result<OffsetDateTime, String> {
    let day = format!("{text}T00:00:00Z");
    let parse = |text: &str| OffsetDateTime::parse(text, &Rfc3339);
    parse(text)
        .or_else(|_| parse(&day))
        .map_err(|_| "write a time as 2026-03-01T08:00:00Z or 2026-03-01".to_owned())
}

/// Runs the command.
pub(super) async fn run(args: LogArgs) -> Result<Exit, Failure> {
    let reader = args.store.reader(&args.fleet, &args.channel).await?;
    if args.audit {
        return audit::run(&reader, args.output).await;
    }
    let tail = reader.newest(None).await.map_err(read_failure)?;
    let narrow = args.object.is_some() || args.since.is_some() || args.until.is_some();
    let limit = args.limit.unwrap_or(if narrow { 1000 } else { 20 });
    let slots = reader.history(tail.next.saturating_sub(1), limit).await.map_err(read_failure)?;
    if narrow && slots.last().is_some_and(|(sequence, _)| *sequence > 1) {
        warn(&format!("only the newest {limit} entries are read; --limit reads more"));
    }
    let in_time = |time: OffsetDateTime| {
        args.since.is_none_or(|since| time >= since) && args.until.is_none_or(|until| time <= until)
    };
    if let Some(object) = &args.object {
        let mut book = Book::new(reader.clone());
        let (mut events, gaps) = timeline(&mut book, object, slots).await.map_err(read_failure)?;
        gaps.iter().for_each(|gap| warn(gap));
        events.retain(|event| in_time(event.entry.entry.time));
        return show_events(&args, object, &events);
    }
    let wanted = |slot: &Slot| match slot {
        Slot::Entry(entry) => in_time(entry.entry.time),
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

fn show_events(args: &LogArgs, object: &Wanted, events: &[Event]) -> Result<Exit, Failure> {
    match args.output {
        Format::Text if events.is_empty() => warn(&format!("no release among these changed {object}")),
        Format::Text => {
            let heading = ["SEQ", "TIME", "ACTION", "OBJECT", "PLACE", "BY", "SOURCE", "RUN", "REASON"];
            let heading = heading.map(str::to_owned).to_vec();
            let rows = events.iter().map(event_row);
            print(&columns(&std::iter::once(heading).chain(rows).collect::<Vec<_>>()))?;
        }
        Format::Json => print(&pretty(&json!({
            "format_version": FORMAT_VERSION,
            "fleet": args.fleet,
            "channel": args.channel,
            "object": object.to_string(),
            "changes": events.iter().map(event_value).collect::<Vec<Value>>(),
        })))?,
    }
    Ok(Exit::Fine)
}

/// Where an object was written: where it is, or where it was if it is gone.
fn place(event: &Event) -> String {
    event.after.as_ref().or(event.before.as_ref()).map(|item| item.place(None)).unwrap_or_default()
}

fn event_row(event: &Event) -> Vec<String> {
    let entry = &event.entry.entry;
    let revision = event.release.as_ref().and_then(|release| release.source.as_ref());
    let approved = |by: &str| if by.is_empty() { String::new() } else { format!(", approved by {by}") };
    vec![
        entry.sequence.to_string(),
        timestamp(entry.time),
        entry.action.as_str().to_owned(),
        event.what.as_str().to_owned(),
        place(event),
        format!("{}{}", entry.author, approved(&entry.approver)),
        revision.map(|source| source.revision.chars().take(12).collect()).unwrap_or_default(),
        entry.run.clone(),
        entry.reason.clone(),
    ]
}

fn event_value(event: &Event) -> Value {
    let entry = &event.entry.entry;
    json!({
        "sequence": entry.sequence,
        "time": timestamp(entry.time),
        "action": entry.action,
        "what": event.what,
        "place": place(event),
        "before": event.before,
        "after": event.after,
        "snapshot": event.release.as_ref().map(|release| release.snapshot),
        "source": event.release.as_ref().and_then(|release| release.source.as_ref()),
        "author": entry.author,
        "run": entry.run,
        "approver": entry.approver,
        "reason": entry.reason,
        "signers": event.entry.signers,
    })
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
