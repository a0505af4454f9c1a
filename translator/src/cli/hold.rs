//! `moorgate hold`

use super::access::{ActArgs, Actor, Format, StoreArgs, failure};
use super::{Exit, Failure, outcome};
use clap::Args;
use moorgate_snapshot::{Channel, FleetName};

/// Stop automation on a channel: publishing moves the candidate only
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate hold shop/edge --reason 'sale until Monday' --key file:ci.key
  moorgate hold shop/edge --lift --key file:ci.key
  moorgate step shop/edge --key file:ci.key              lets out what has waited

While a channel is held, what is published waits, and a wave stands where it is. People may still pin and unpin.")]
pub(super) struct HoldArgs {
    /// The fleet: namespace/gateway or class/NAME
    fleet: FleetName,
    /// Why: shown wherever the hold shows
    #[arg(long, required_unless_present = "lift", default_value = "")]
    reason: String,
    /// End the hold
    #[arg(long)]
    lift: bool,
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
pub(super) async fn run(args: HoldArgs) -> Result<Exit, Failure> {
    let actor = Actor::open(&args.store, &args.act).await?;
    let publisher = actor.publisher(&args.fleet, &args.channel, &args.reason)?;
    let done = if args.lift { Box::pin(publisher.lift()).await } else { Box::pin(publisher.hold()).await };
    outcome::show(&done.map_err(failure)?, None, args.output)?;
    Ok(Exit::Fine)
}
