//! `moorgate retire`

use super::access::{ActArgs, Actor, Format, StoreArgs, failure};
use super::{Exit, Failure, outcome};
use crate::publish::Allow;
use clap::Args;
use moorgate_snapshot::{Channel, FleetName};

/// End a fleet: its relays drain listeners and drop secrets
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate retire shop/edge --reason 'moved to class/shared' --key file:ci.key

A Gateway that is gone from the source goes on being served until this is said, here or by `publish --retire-vanished`.
Publishing the fleet again revives it. A channel that is pinned or held is not retired.")]
pub(super) struct RetireArgs {
    /// The fleet: namespace/gateway or class/NAME
    fleet: FleetName,
    /// Why
    #[arg(long, default_value = "")]
    reason: String,
    /// Who publishes here
    #[arg(long, value_name = "NAME", default_value = "publish")]
    writer: String,
    /// Retire another writer's channel
    #[arg(long)]
    take_over: bool,
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
pub(super) async fn run(args: RetireArgs) -> Result<Exit, Failure> {
    let actor = Actor::open(&args.store, &args.act).await?;
    let publisher = actor.publisher(&args.fleet, &args.channel, &args.reason)?;
    let allow = Allow { other_writer: args.take_over, ..Allow::default() };
    let done = Box::pin(publisher.retire(&args.writer, allow)).await.map_err(failure)?;
    outcome::show(&done, None, args.output)?;
    Ok(Exit::Fine)
}
