//! `moorgate wait`

use super::access::{Format, StoreArgs, duration, now, read_failure};
use super::output::{json as pretty, print};
use super::rollout::{progress as progress_json, standard};
use super::table::{clean, columns};
use super::{Exit, Failure};
use crate::publish::{Progress, Reports};
use crate::report::FORMAT_VERSION;
use anyhow::anyhow;
use clap::Args;
use moorgate_snapshot::{Channel, Digest, FleetName, Reader};
use serde_json::json;
use std::io::Write as _;
use std::time::Duration;
use tokio::time::Instant;

/// The fewest digits of a snapshot id that stand for the whole.
const SHORT: usize = 8;

/// Wait until relays report a snapshot live
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate wait shop/edge --snapshot 9be04d77aa10 --trust ci.pub
  moorgate wait shop/edge --snapshot 9be04d77aa10 --percent 95 --timeout 10m -o json
  moorgate wait shop/edge --relays 12                     what the channel released last, on twelve relays

A relay is live when it serves the snapshot and every Envoy connected to it has acknowledged it. One whose report is
missing, too old, or not signed by a trusted key is not. Relays whose last report says that they have left do not count,
nor do those that were silent for longer than --gone-after.
Exits 1 if so many refuse the snapshot that the share cannot be reached, 7 if the time runs out.")]
pub(super) struct WaitArgs {
    /// The fleet: namespace/gateway or class/NAME
    fleet: FleetName,
    /// The snapshot, or the first 8 or more digits of its id; what the channel released last if not given
    #[arg(long)]
    snapshot: Option<String>,
    /// The channel
    #[arg(long, default_value_t = Channel::stable())]
    channel: Channel,
    /// The share of relays that must be live, in percent
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=100))]
    percent: u8,
    /// How many relays there are, if not all of them report yet
    #[arg(long, value_name = "NUMBER")]
    relays: Option<usize>,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    timeout: time::Duration,
    /// The time between two looks
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    interval: time::Duration,
    /// Do not count relays that were silent for so long
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    gone_after: time::Duration,
    #[command(flatten)]
    store: StoreArgs,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Runs the command.
pub(super) async fn run(args: WaitArgs) -> Result<Exit, Failure> {
    let reader = args.store.reader(&args.fleet, &args.channel).await?;
    let deadline = Instant::now() + standard(args.timeout);
    let interval = standard(args.interval).max(Duration::from_millis(200));
    let snapshot = snapshot(&args, &reader).await?;
    let (mut said, mut last) = (String::new(), Progress::default());
    let exit = loop {
        match Reports::read(&reader).await {
            Ok(reports) => {
                last = reports.progress(&snapshot, &args.channel, now(), args.gone_after, args.relays);
            }
            // A store that does not answer may do so at the next look.
            Err(error) if !error.is_integrity() && Instant::now() < deadline => {
                say(&mut said, &error.to_string());
            }
            Err(error) => return Err(read_failure(error)),
        }
        if last.reached(args.percent) {
            break Exit::Fine;
        }
        if last.hopeless(args.percent) {
            break Exit::No;
        }
        if Instant::now() >= deadline {
            break Exit::TimedOut;
        }
        say(&mut said, &last.summary());
        tokio::time::sleep(interval.min(deadline.saturating_duration_since(Instant::now()))).await;
    };
    show(&args, snapshot, &last, exit)?;
    Ok(exit)
}

/// Progress on stderr, whenever it changes.
fn say(said: &mut String, text: &str) {
    if said != text {
        let _ = writeln!(anstream::stderr(), "{}", clean(text));
        text.clone_into(said);
    }
}

async fn snapshot(args: &WaitArgs, reader: &Reader) -> Result<Digest, Failure> {
    let usage = |message: String| Failure::new(Exit::Usage, anyhow!(message));
    if let Some(Ok(whole)) = args.snapshot.as_ref().map(|id| id.parse::<Digest>()) {
        return Ok(whole);
    }
    let entry = reader.newest(None).await.map_err(read_failure)?.entry;
    let state = entry.map(|entry| entry.entry.state).unwrap_or_default();
    let Some(id) = &args.snapshot else {
        let newest = state.newest().map(|release| release.snapshot);
        return newest
            .ok_or_else(|| usage(format!("nothing is published in {}@{}", args.fleet, args.channel)));
    };
    let fits = |digest: &Digest| id.len() >= SHORT && digest.to_string().starts_with(id.as_str());
    let mut found: Vec<Digest> = state.releases().map(|release| release.snapshot).filter(fits).collect();
    found.dedup();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(usage(format!("the channel has no snapshot {}: give its whole id", clean(id)))),
        [first, rest @ ..] if rest.iter().all(|other| other == first) => Ok(*first),
        _ => Err(usage(format!("{} is the start of several snapshots: write more of it", clean(id)))),
    }
}

fn show(args: &WaitArgs, snapshot: Digest, found: &Progress, exit: Exit) -> Result<(), Failure> {
    let result = match exit {
        Exit::Fine => "live",
        Exit::No => "refused",
        _ => "timeout",
    };
    if args.output == Format::Json {
        let mut value = progress_json(found);
        let more = json!({
            "format_version": FORMAT_VERSION, "fleet": args.fleet, "channel": args.channel,
            "snapshot": snapshot, "percent": args.percent, "result": result,
        });
        value.extend(more.as_object().cloned().unwrap_or_default());
        return print(&pretty(&value));
    }
    let mut rows = vec![vec![
        args.fleet.to_string(),
        args.channel.to_string(),
        snapshot.short(),
        format!("{result}: {}", found.counts()),
    ]];
    let named = |state: &str, rows: &[(String, String)]| -> Vec<Vec<String>> {
        rows.iter().map(|(relay, why)| vec![state.to_owned(), relay.clone(), why.clone()]).collect()
    };
    let mut text = columns(&rows);
    rows = named("refused", &found.refused);
    rows.extend(named("behind", &found.laggards));
    text += &columns(&rows);
    print(&text)
}
