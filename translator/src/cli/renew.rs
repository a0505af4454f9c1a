//! `moorgate renew`

use super::access::{Format, KeySource, StoreArgs, duration, failure, now, store_failure, timestamp, warn};
use super::output::{json as pretty, print};
use super::table::columns;
use super::{Exit, Failure};
use crate::publish::{Renewed, renew};
use crate::report::FORMAT_VERSION;
use anyhow::anyhow;
use clap::Args;
use moorgate_snapshot::{Channel, FleetName, Reader};
use serde_json::json;

/// Say that the newest releases are still the newest, on schedule
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate renew --all --expires-in 24h --key file:renew.key --trust trust.json     hourly, from a scheduled job
  moorgate renew shop/edge --channel next --expires-in 6h --key env:RENEW_KEY

A relay whose newest release and renewals have run out raises an alarm and serves on: somebody keeps the store back, or
this job does not run. The key needs the role renew and can do nothing else.")]
pub(super) struct RenewArgs {
    /// The fleets: namespace/gateway or class/NAME
    #[arg(value_name = "FLEET", required_unless_present = "all")]
    fleets: Vec<FleetName>,
    /// All fleets of the store that have the channel
    #[arg(long, conflicts_with = "fleets")]
    all: bool,
    /// The channel
    #[arg(long, default_value_t = Channel::stable())]
    channel: Channel,
    /// For how long this holds: 30m, 12h, 7d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    expires_in: time::Duration,
    /// The key to sign with: file:PATH, env:NAME or exec:COMMAND
    #[arg(long, value_name = "KEY", env = "MOORGATE_KEY", hide_env_values = true)]
    key: KeySource,
    #[command(flatten)]
    store: StoreArgs,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Runs the command. One fleet that fails does not keep back the others.
pub(super) async fn run(args: RenewArgs) -> Result<Exit, Failure> {
    let signer = args.key.open()?;
    let store = args.store.open()?;
    let trust = args.store.trust(Some(signer.public())).await?;
    let fleets = if args.all { store.fleets().await.map_err(store_failure)? } else { args.fleets };
    let (mut rows, mut values, mut worst) = (Vec::new(), Vec::new(), None);
    for fleet in fleets {
        let part = store.fleet(&fleet);
        if args.all && !part.channels().await.map_err(store_failure)?.contains(&args.channel) {
            continue;
        }
        let reader = Reader::new(part, trust.clone(), args.channel.clone());
        let issued = now();
        match Box::pin(renew(&reader, &*signer, issued, issued + args.expires_in)).await.map_err(failure) {
            Ok(Renewed { entry, renewal }) => {
                let until = timestamp(renewal.expires);
                rows.push(vec![
                    fleet.to_string(),
                    args.channel.to_string(),
                    entry.entry.sequence.to_string(),
                    format!("until {until}"),
                ]);
                values.push(json!({"fleet": fleet, "sequence": entry.entry.sequence, "expires": until}));
            }
            Err(failure) => {
                let message = format!("{:#}", failure.error);
                warn(&format!("{fleet}: not renewed: {message}"));
                values.push(json!({"fleet": fleet, "error": message}));
                worst = Some(failure.exit);
            }
        }
    }
    if values.is_empty() {
        return Err(Failure::new(Exit::Refused, anyhow!("no fleet has a channel {}", args.channel)));
    }
    match args.output {
        Format::Text => print(&columns(&rows))?,
        Format::Json => print(&pretty(&json!({
            "format_version": FORMAT_VERSION, "channel": args.channel, "fleets": values,
        })))?,
    }
    Ok(worst.unwrap_or(Exit::Fine))
}
