//! `moorgate rollback`

use super::access::{ActArgs, Actor, Format, StoreArgs, duration, failure, now};
use super::{Exit, Failure, outcome};
use clap::Args;
use moorgate_snapshot::{Channel, FleetName};

/// Go back to the newest good release before the present one
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate rollback shop/edge --reason 'checkout broken' --key file:on-call.key
  moorgate rollback shop/edge 41 --key file:on-call.key      to what entry 41 served
  moorgate rollback shop/edge --dry-run --key file:on-call.key

A rollback is a pin: publishing goes on behind it, and `moorgate unpin` ends it. It needs neither git nor CI. Done
again, it goes one release further back.")]
pub(super) struct RollbackArgs {
    /// The fleet: namespace/gateway or class/NAME
    fleet: FleetName,
    /// Back to what was served after this entry of the log
    #[arg(value_name = "SEQ")]
    sequence: Option<u64>,
    /// Why: shown wherever the pin shows
    #[arg(long, default_value = "")]
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
pub(super) async fn run(args: RollbackArgs) -> Result<Exit, Failure> {
    let actor = Actor::open(&args.store, &args.act).await?;
    let publisher = actor.publisher(&args.fleet, &args.channel, &args.reason)?;
    let expires = args.pin_for.map(|after| now() + after);
    let (done, plan) = Box::pin(publisher.rollback(args.sequence, expires)).await.map_err(failure)?;
    outcome::show(&done, plan.as_ref(), args.output)?;
    Ok(Exit::Fine)
}
