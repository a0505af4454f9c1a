//! `moorgate pin`

use super::access::{ActArgs, Actor, Format, StoreArgs, duration, failure, now};
use super::{Exit, Failure, outcome};
use clap::Args;
use moorgate_snapshot::{Channel, FleetName};

/// Hold a channel at a released snapshot
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate pin shop/edge 4f1c2a9b03de --reason 'checkout broken' --key file:on-call.key
  moorgate pin shop/edge 4f1c2a9b03de --reason drill --pin-for 2h --dry-run --key file:on-call.key

While a channel is pinned, publishing goes on behind the pin. A pin ends by `moorgate unpin` only: when its time is
over, relays raise an alarm and keep serving. `moorgate log` lists what can be pinned.")]
pub(super) struct PinArgs {
    /// The fleet: namespace/gateway or class/NAME
    fleet: FleetName,
    /// The snapshot, or the first 8 or more digits of its id
    snapshot: String,
    /// Why: shown wherever the pin shows
    #[arg(long)]
    reason: String,
    /// Raise an alarm if the pin still holds after this time: 30m, 12h, 7d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pin_for: Option<time::Duration>,
    /// The channel
    #[arg(long, default_value_t = Channel::stable())]
    channel: Channel,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    act: ActArgs,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Runs the command.
pub(super) async fn run(args: PinArgs) -> Result<Exit, Failure> {
    let actor = Actor::open(&args.store, &args.act).await?;
    let publisher = actor.publisher(&args.fleet, &args.channel, &args.reason)?;
    let expires = args.pin_for.map(|after| now() + after);
    let (done, plan) = Box::pin(publisher.pin(&args.snapshot, expires)).await.map_err(failure)?;
    outcome::show(&done, plan.as_ref(), args.output)?;
    Ok(Exit::Fine)
}
