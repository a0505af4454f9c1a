//! `moorgate step`

use super::access::{ActArgs, Actor, Format, StoreArgs, failure};
use super::{Exit, Failure, outcome};
use clap::Args;
use moorgate_snapshot::{Channel, FleetName};

/// Move a wave on by one step, or halt it
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate step shop/edge --key file:ci.key
  moorgate step shop/edge --force --reason 'zone eu-2 has no relays yet' --key file:ci.key
  moorgate step shop/edge --halt --reason '5xx in checkout' --key file:ci.key

Time alone moves no wave on. A step is refused (exit 4) before the one before it has baked, and while relays of the wave
refuse the release, lag behind or do not report. The step after the last puts the release in force for all.
--halt pins what all other relays serve and marks the snapshot bad.")]
pub(super) struct StepArgs {
    /// The fleet: namespace/gateway or class/NAME
    fleet: FleetName,
    /// Go on before the bake time is over, and whatever relays report
    #[arg(long)]
    force: bool,
    /// End the wave
    #[arg(long, conflicts_with = "force", requires = "reason")]
    halt: bool,
    /// Why
    #[arg(long)]
    reason: Option<String>,
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
pub(super) async fn run(args: StepArgs) -> Result<Exit, Failure> {
    let actor = Actor::open(&args.store, &args.act).await?;
    let reason = args.reason.as_deref().unwrap_or_default();
    let publisher = actor.publisher(&args.fleet, &args.channel, reason)?;
    let done = if args.halt {
        Box::pin(publisher.halt()).await
    } else {
        Box::pin(publisher.step(args.force, None)).await
    };
    outcome::show(&done.map_err(failure)?, None, args.output)?;
    Ok(Exit::Fine)
}
