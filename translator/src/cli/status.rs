//! `moorgate status`

use super::access::{Format, StoreArgs, now, read_failure, store_failure, timestamp, warn};
use super::output::{json as pretty, print};
use super::table::columns;
use super::{Exit, Failure};
use crate::report::FORMAT_VERSION;
use clap::Args;
use moorgate_snapshot::reader::Reader;
use moorgate_snapshot::{Because, Channel, Effective, FleetName, FleetStore, Tail, layout, limits};
use serde_json::{Value, json};

/// How many reports of a fleet are read.
const REPORTS: usize = 10_000;

/// Show what each fleet serves, what waits, and what relays report
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate status --trust ci.pub --store file:///var/lib/moorgate
  moorgate status shop/edge -o json

Exits 5 if a channel cannot be believed. Reports come from relays that write them; they are shown as written, and are
not signed yet.")]
pub(super) struct StatusArgs {
    /// The fleet: namespace/gateway or class/NAME; all of the store if not given
    fleet: Option<FleetName>,
    /// Only this channel; all of the fleet if not given
    #[arg(long)]
    channel: Option<Channel>,
    #[command(flatten)]
    store: StoreArgs,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// One channel as read.
struct Row {
    fleet: FleetName,
    channel: Channel,
    read: Result<Tail, (bool, String)>,
}

/// Runs the command.
pub(super) async fn run(args: StatusArgs) -> Result<Exit, Failure> {
    let store = args.store.open()?;
    let trust = args.store.trust(None).await?;
    let fleets = match args.fleet {
        Some(fleet) => vec![fleet],
        None => store.fleets().await.map_err(store_failure)?,
    };
    let (mut rows, mut reports) = (Vec::new(), Vec::new());
    for fleet in fleets {
        let part = store.fleet(&fleet);
        let channels = match &args.channel {
            Some(channel) => vec![channel.clone()],
            None => part.channels().await.map_err(store_failure)?,
        };
        // One channel that cannot be believed does not hide the others.
        for channel in channels {
            let reader = Reader::new(part.clone(), trust.clone(), channel.clone());
            let read = match reader.newest(None).await {
                Ok(tail) => Ok(tail),
                Err(error) if error.is_integrity() => Err((true, error.to_string())),
                Err(error) => return Err(read_failure(error)),
            };
            rows.push(Row { fleet: fleet.clone(), channel, read });
        }
        reports.extend(read_reports(&part).await?);
    }
    match args.output {
        Format::Text => print(&(text(&rows) + &reports_text(&reports)))?,
        Format::Json => print(&pretty(&json!({
            "format_version": FORMAT_VERSION,
            "channels": rows.iter().map(value).collect::<Vec<Value>>(),
            "reports": reports,
        })))?,
    }
    let broken = rows.iter().any(|row| matches!(row.read, Err((true, _))));
    Ok(if broken { Exit::Integrity } else { Exit::Fine })
}

fn text(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no fleets\n".to_owned();
    }
    let heading = ["FLEET", "CHANNEL", "SEQ", "SERVING", "SINCE", "NOTES"].map(str::to_owned).to_vec();
    let lines = rows.iter().map(|row| {
        let mut line = vec![row.fleet.to_string(), row.channel.to_string()];
        match &row.read {
            Err((_, error)) => line.extend([String::new(), "?".to_owned(), String::new(), error.clone()]),
            Ok(tail) => {
                let entry = tail.entry.as_ref().map(|entry| &entry.entry);
                line.push(entry.map(|entry| entry.sequence.to_string()).unwrap_or_default());
                let serving = entry.and_then(|entry| entry.state.serving());
                line.push(serving.map_or_else(|| "nothing".to_owned(), |release| release.snapshot.short()));
                line.push(entry.map(|entry| timestamp(entry.time)).unwrap_or_default());
                line.push(notes(tail).join("; "));
            }
        }
        line
    });
    columns(&std::iter::once(heading).chain(lines).collect::<Vec<_>>())
}

fn notes(tail: &Tail) -> Vec<String> {
    let mut notes = Vec::new();
    let Some(entry) = tail.entry.as_ref().map(|entry| &entry.entry) else {
        return vec!["nothing published".to_owned()];
    };
    let state = &entry.state;
    if let Some(pin) = &state.pin {
        let over = pin.expires.is_some_and(|expires| expires < now());
        notes.push(format!(
            "pinned by {}: {}{}",
            pin.by,
            pin.reason,
            if over { " (its time is over)" } else { "" }
        ));
    }
    if let Some(hold) = &state.hold {
        notes.push(format!("held by {}: {}", hold.by, hold.reason));
    }
    if let Some(candidate) = &state.candidate {
        notes.push(format!("{} waits", candidate.release.snapshot.short()));
    }
    match state.effective() {
        Effective::Retired => notes.push("retired".to_owned()),
        Effective::Serve { because: Because::TargetIsBad, .. } => {
            notes.push("the target is marked bad: the previous release is served".to_owned());
        }
        Effective::Empty | Effective::Serve { .. } => {}
    }
    if tail.expires().is_some_and(|expires| expires < now()) {
        notes.push("expired".to_owned());
    }
    match tail.head {
        Some(head) if head == entry.sequence => {}
        _ => notes.push("head missing or stale".to_owned()),
    }
    if !tail.voids.is_empty() {
        notes.push(format!("{} void entries", tail.voids.len()));
    }
    notes
}

fn value(row: &Row) -> Value {
    let mut value = json!({"fleet": row.fleet, "channel": row.channel});
    let more = match &row.read {
        Err((_, error)) => json!({"error": error}),
        Ok(tail) => {
            let entry = tail.entry.as_ref().map(|entry| &entry.entry);
            json!({
                "sequence": entry.map(|entry| entry.sequence),
                "time": entry.map(|entry| timestamp(entry.time)),
                "serving": entry.and_then(|entry| entry.state.serving()).map(|release| release.snapshot),
                "state": entry.map(|entry| &entry.state),
                "head": tail.head,
                "void": tail.voids.iter().map(|void| void.sequence).collect::<Vec<u64>>(),
                "notes": notes(tail),
            })
        }
    };
    if let (Some(value), Value::Object(more)) = (value.as_object_mut(), more) {
        value.extend(more);
    }
    value
}

/// Reports as relays wrote them: what is no JSON object, or too large, is left out with a warning.
async fn read_reports(part: &FleetStore) -> Result<Vec<Value>, Failure> {
    let mut reports = Vec::new();
    for name in part.list(layout::REPORTS, REPORTS).await.map_err(store_failure)? {
        let path = format!("{}/{name}", layout::REPORTS);
        let report = match part.get(&path, limits::REPORT_BYTES).await {
            Ok(Some(bytes)) => serde_json::from_slice::<Value>(&bytes).ok().filter(Value::is_object),
            Ok(None) => continue,
            Err(_) => None,
        };
        match report {
            Some(report) => reports.push(json!({
                "fleet": part.fleet(), "relay": name.trim_end_matches(".json"), "signed": false, "report": report,
            })),
            None => warn(&format!("{} is no report", part.describe(&path))),
        }
    }
    Ok(reports)
}

fn reports_text(reports: &[Value]) -> String {
    if reports.is_empty() {
        return String::new();
    }
    let heading = ["FLEET", "RELAY", "REPORT"].map(str::to_owned).to_vec();
    let cell = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let lines = reports.iter().map(|report| {
        let mut fields: Vec<String> = Vec::new();
        if let Some(object) = report["report"].as_object() {
            let short = object.iter().filter(|(_, value)| !value.is_array() && !value.is_object());
            fields.extend(short.map(|(name, value)| format!("{name}={}", cell(value))));
        }
        vec![cell(&report["fleet"]), cell(&report["relay"]), fields.join(" ")]
    });
    format!("\n{}", columns(&std::iter::once(heading).chain(lines).collect::<Vec<_>>()))
}
