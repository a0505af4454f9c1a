//! `moorgate floor`

use super::access::{ActArgs, Actor, Format, StoreArgs, failure};
use super::{Exit, Failure, outcome};
use clap::Args;
use moorgate_snapshot::{Channel, FleetName};

/// Forbid going back behind a release
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate floor shop/edge 41 --reason 'grant to team-x revoked' --key file:ci.key
  moorgate floor shop/edge 38 --lower --reason 'grant is back' --key file:ci.key

Releases that entered the channel before entry SEQ are not pinned, unpinned or rolled back to any more, nor gone back to
by a relay. What is served now has to lie at or above the floor.")]
pub(super) struct FloorArgs {
    /// The fleet: namespace/gateway or class/NAME
    fleet: FleetName,
    /// The lowest release that may be served
    #[arg(value_name = "SEQ")]
    sequence: u64,
    /// Why
    #[arg(long)]
    reason: String,
    /// Put the floor down
    #[arg(long)]
    lower: bool,
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
pub(super) async fn run(args: FloorArgs) -> Result<Exit, Failure> {
    let actor = Actor::open(&args.store, &args.act).await?;
    let publisher = actor.publisher(&args.fleet, &args.channel, &args.reason)?;
    let done = Box::pin(publisher.floor(args.sequence, args.lower)).await.map_err(failure)?;
    outcome::show(&done, None, args.output)?;
    Ok(Exit::Fine)
}
