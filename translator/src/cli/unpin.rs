//! `moorgate unpin`

use super::access::{ActArgs, Actor, Format, StoreArgs, failure};
use super::rollout::RolloutArgs;
use super::wave::WaveArgs;
use super::{Exit, Failure, outcome};
use clap::Args;
use moorgate_snapshot::{Channel, FleetName};

/// End a pin, and name what is served then
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate status shop/edge                         shows what waits behind the pin
  moorgate unpin shop/edge --to 9be04d77aa10 --dry-run --key file:on-call.key
  moorgate unpin shop/edge --to 9be04d77aa10 --key file:on-call.key
  moorgate unpin shop/edge --to 9be04d77aa10 --wave default --key file:ci.key

There is no unpin to whatever is newest: what has changed behind a pin has to be looked at. The output shows what the
move changes. In a wave, relays go on with what was pinned until it reaches them.")]
pub(super) struct UnpinArgs {
    /// The fleet: namespace/gateway or class/NAME
    fleet: FleetName,
    /// The snapshot to serve, or the first 8 or more digits of its id
    #[arg(long, value_name = "SNAPSHOT")]
    to: String,
    #[command(flatten)]
    wave: WaveArgs,
    #[command(flatten)]
    rollout: RolloutArgs,
    /// Why
    #[arg(long, default_value = "")]
    reason: String,
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
pub(super) async fn run(args: UnpinArgs) -> Result<Exit, Failure> {
    let actor = Actor::open(&args.store, &args.act).await?;
    let publisher = actor.publisher(&args.fleet, &args.channel, &args.reason)?;
    let (done, plan) = Box::pin(publisher.unpin(&args.to, &args.wave.steps()?)).await.map_err(failure)?;
    outcome::show(&done, plan.as_ref(), args.output)?;
    Box::pin(args.rollout.follow(&actor, &done)).await
}
