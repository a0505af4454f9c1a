//! `moorgate status`

use super::access::{Format, StoreArgs, now, read_failure, store_failure, timestamp, warn};
use super::output::{json as pretty, print};
use super::table::columns;
use super::{Exit, Failure};
use crate::publish::{Reports, Standing, has_left, standing};
use crate::report::FORMAT_VERSION;
use clap::Args;
use moorgate_snapshot::reader::Reader;
use moorgate_snapshot::{
    Because, Channel, Digest, Effective, FleetName, FleetStore, ReadError, Reported, StoreError, Tail,
};
use serde_json::{Value, json};
use time::OffsetDateTime;

/// Relays that were silent for longer are shown as gone, and counted nowhere.
const GONE_AFTER: time::Duration = time::Duration::DAY;
/// Certificates that run out within this time are worth a note.
const EXPIRING: time::Duration = time::Duration::days(14);

/// Show what each fleet serves, what waits, and what relays report
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate status --trust ci.pub --store file:///var/lib/moorgate
  moorgate status shop/edge -o json

RELAYS counts those that serve what the channel has for them, of all that report; ENVOYS those that have acknowledged it,
of all that are connected. Reports that no trusted key signed are counted as such, and not among the live ones.
Exits 5 if a channel cannot be believed.")]
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
    read: Result<Tail, String>,
    relays: Relays,
}

/// What the relays of a channel report.
#[derive(Debug, Default)]
struct Relays {
    total: usize,
    /// Those that serve what the channel has for them, all of their Envoys having acknowledged it.
    live: usize,
    stale: usize,
    untrusted: usize,
    refused: Vec<String>,
    connected: u64,
    acked: u64,
    expiring: Option<OffsetDateTime>,
}

/// Runs the command.
pub(super) async fn run(args: StatusArgs) -> Result<Exit, Failure> {
    let store = args.store.open_to_read().await?;
    let trust = args.store.trust(None).await?;
    let fleets = match args.fleet {
        Some(fleet) => vec![fleet],
        None => store.fleets().await.map_err(store_failure)?,
    };
    let (time, mut rows, mut reports) = (now(), Vec::new(), Vec::new());
    for fleet in fleets {
        let part = store.fleet(&fleet);
        let reader = |channel: Channel| Reader::new(part.clone(), trust.clone(), channel);
        let found = read_reports(&reader(Channel::stable())).await?;
        // One channel that cannot be believed does not hide the others.
        for channel in channels(&part, args.channel.as_ref()).await? {
            let read = match reader(channel.clone()).newest(None).await {
                Ok(tail) => Ok(tail),
                Err(error) if error.is_integrity() => Err(error.to_string()),
                Err(error) => return Err(read_failure(error)),
            };
            let relays = relays(&found, &channel, read.as_ref().ok(), time);
            rows.push(Row { fleet: fleet.clone(), channel, read, relays });
        }
        reports.extend(found.relays.iter().map(|report| report_value(report, time)));
    }
    match args.output {
        Format::Text => print(&text(&rows, time))?,
        Format::Json => print(&pretty(&json!({
            "format_version": FORMAT_VERSION,
            "channels": rows.iter().map(|row| value(row, time)).collect::<Vec<Value>>(),
            "reports": reports,
        })))?,
    }
    let broken = rows.iter().any(|row| row.read.is_err());
    Ok(if broken { Exit::Integrity } else { Exit::Fine })
}

/// The channels to show. Credentials that may not list show the one that commands mean if none is named.
async fn channels(part: &FleetStore, wanted: Option<&Channel>) -> Result<Vec<Channel>, Failure> {
    match (wanted, part.channels().await) {
        (Some(channel), _) => Ok(vec![channel.clone()]),
        (None, Ok(channels)) => Ok(channels),
        (None, Err(StoreError::Denied { .. })) => Ok(vec![Channel::stable()]),
        (None, Err(error)) => Err(store_failure(error)),
    }
}

async fn read_reports(reader: &Reader) -> Result<Reports, Failure> {
    match Reports::read(reader).await {
        Ok(reports) => {
            for (name, why) in &reports.unreadable {
                warn(&format!("{}: report {name} is not read: {why}", reader.store().fleet()));
            }
            Ok(reports)
        }
        Err(ReadError::Store(error @ StoreError::Denied { .. })) => {
            warn(&format!("reports are not shown: {error}"));
            Ok(Reports::default())
        }
        Err(error) => Err(read_failure(error)),
    }
}

/// What a channel has for this relay.
fn due(tail: &Tail, reported: &Reported, channel: &Channel) -> Option<Digest> {
    let state = &tail.entry.as_ref()?.entry.state;
    let relay = reported.report.identity().ok()?;
    match state.effective_for(&relay, channel) {
        Effective::Serve { release, .. } => Some(release.snapshot),
        Effective::Empty | Effective::Retired => None,
    }
}

fn relays(reports: &Reports, channel: &Channel, tail: Option<&Tail>, time: OffsetDateTime) -> Relays {
    let mut relays = Relays::default();
    for reported in reports.following(channel, time, GONE_AFTER) {
        let report = &reported.report;
        // What it refused is worth to be known all the same.
        if has_left(reported) && report.refused.is_empty() {
            continue;
        }
        relays.total += 1;
        relays.connected += report.envoys_connected;
        relays.stale += usize::from(report.is_stale(time));
        relays.untrusted += usize::from(reported.untrusted.is_some());
        if !report.refused.is_empty() || report.envoys.iter().any(|envoy| envoy.nack.is_some()) {
            relays.refused.push(report.relay.to_string());
        }
        let expiries = report.secrets.iter().filter_map(|secret| secret.not_after);
        relays.expiring = expiries.chain(relays.expiring).min();
        let due = tail.and_then(|tail| due(tail, reported, channel));
        let live = due.is_some_and(|due| standing(reported, &due, time) == Standing::Live);
        relays.live += usize::from(live);
        relays.acked += if due.is_some() && due == report.snapshot { report.envoys_acked } else { 0 };
    }
    relays
}

fn text(rows: &[Row], time: OffsetDateTime) -> String {
    if rows.is_empty() {
        return "no fleets\n".to_owned();
    }
    let heading = ["FLEET", "CHANNEL", "SEQ", "SERVING", "AGE", "RELAYS", "ENVOYS", "NOTES"];
    let heading = heading.map(str::to_owned).to_vec();
    let lines = rows.iter().map(|row| {
        let relays = &row.relays;
        let share =
            |some: String, total: String| if relays.total == 0 { "-".into() } else { some + "/" + &total };
        let counts = [
            share(relays.live.to_string(), relays.total.to_string()),
            share(relays.acked.to_string(), relays.connected.to_string()),
        ];
        let mut line = vec![row.fleet.to_string(), row.channel.to_string()];
        match &row.read {
            Err(error) => {
                line.extend([String::new(), "?".to_owned(), String::new()]);
                line.extend(counts);
                line.push(error.clone());
            }
            Ok(tail) => {
                let entry = tail.entry.as_ref().map(|entry| &entry.entry);
                line.push(entry.map(|entry| entry.sequence.to_string()).unwrap_or_default());
                let serving = entry.and_then(|entry| entry.state.serving());
                line.push(serving.map_or_else(|| "nothing".to_owned(), |release| release.snapshot.short()));
                line.push(entry.map(|entry| age(time - entry.time)).unwrap_or_default());
                line.extend(counts);
                let notes = notes(tail, time).into_iter().chain(relay_notes(relays, time));
                line.push(notes.collect::<Vec<_>>().join("; "));
            }
        }
        line
    });
    columns(&std::iter::once(heading).chain(lines).collect::<Vec<_>>())
}

/// A time span in its largest unit.
fn age(span: time::Duration) -> String {
    let seconds = span.whole_seconds().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn relay_notes(relays: &Relays, time: OffsetDateTime) -> Vec<String> {
    let mut notes = Vec::new();
    if !relays.refused.is_empty() {
        let more = relays.refused.len().saturating_sub(3);
        let mut names: Vec<String> = relays.refused.iter().take(3).cloned().collect();
        if more > 0 {
            names.push(format!("{more} more"));
        }
        notes.push(format!("refused by {}", names.join(", ")));
    }
    if relays.stale > 0 {
        notes.push(format!("{} relays silent", relays.stale));
    }
    if relays.untrusted > 0 {
        notes.push(format!("{} reports not believed", relays.untrusted));
    }
    if let Some(expiry) = relays.expiring.filter(|expiry| *expiry - time < EXPIRING) {
        let word = if expiry < time { "expired" } else { "expires" };
        notes.push(format!("a certificate {word} {}", timestamp(expiry)));
    }
    notes
}

fn notes(tail: &Tail, time: OffsetDateTime) -> Vec<String> {
    let mut notes = Vec::new();
    let Some(entry) = tail.entry.as_ref().map(|entry| &entry.entry) else {
        return vec!["nothing published".to_owned()];
    };
    let state = &entry.state;
    if let Some(pin) = &state.pin {
        let over = pin.expires.is_some_and(|expires| expires < time);
        let over = if over { " (its time is over)" } else { "" };
        notes.push(format!("pinned by {}: {}{over}", pin.by, pin.reason));
    }
    if let Some(hold) = &state.hold {
        notes.push(format!("held by {}: {}", hold.by, hold.reason));
    }
    if let Some(candidate) = &state.candidate {
        let id = candidate.release.snapshot.short();
        notes.push(if state.bad.contains(&candidate.release.snapshot) {
            format!("{id} is marked bad")
        } else if candidate.step == 0 || state.pin.is_some() {
            format!("{id} waits")
        } else {
            format!("{id} goes out: step {} of {}", candidate.step, candidate.steps.len())
        });
    }
    if let Some(floor) = &state.floor {
        notes.push(format!("floor {}: {}", floor.sequence, floor.reason));
    }
    match state.effective() {
        Effective::Retired => notes.push("retired".to_owned()),
        Effective::Serve { because: Because::TargetIsBad, .. } => {
            notes.push("the target is marked bad: the previous release is served".to_owned());
        }
        Effective::Empty | Effective::Serve { .. } => {}
    }
    if tail.expires().is_some_and(|expires| expires < time) {
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

fn value(row: &Row, time: OffsetDateTime) -> Value {
    let relays = &row.relays;
    let mut value = json!({
        "fleet": row.fleet,
        "channel": row.channel,
        "relays": {
            "total": relays.total, "live": relays.live, "silent": relays.stale, "untrusted": relays.untrusted,
            "refused": relays.refused, "envoys_connected": relays.connected, "envoys_acked": relays.acked,
            "certificate_expires": relays.expiring.map(timestamp),
        },
    });
    let more = match &row.read {
        Err(error) => json!({"error": error}),
        Ok(tail) => {
            let entry = tail.entry.as_ref().map(|entry| &entry.entry);
            json!({
                "sequence": entry.map(|entry| entry.sequence),
                "time": entry.map(|entry| timestamp(entry.time)),
                "serving": entry.and_then(|entry| entry.state.serving()).map(|release| release.snapshot),
                "state": entry.map(|entry| &entry.state),
                "head": tail.head,
                "void": tail.voids.iter().map(|void| void.sequence).collect::<Vec<u64>>(),
                "notes": notes(tail, time).into_iter().chain(relay_notes(relays, time)).collect::<Vec<_>>(),
            })
        }
    };
    if let (Some(value), Value::Object(more)) = (value.as_object_mut(), more) {
        value.extend(more);
    }
    value
}

/// A report as it was read, and whether it is believed.
fn report_value(reported: &Reported, time: OffsetDateTime) -> Value {
    json!({
        "fleet": reported.report.fleet,
        "relay": reported.report.relay,
        "trusted": reported.untrusted.is_none(),
        "untrusted": reported.untrusted.as_ref().map(ToString::to_string),
        "silent": reported.report.is_stale(time),
        "left": has_left(reported),
        "report": reported.report,
    })
}
