//! `moorgate promote`

use super::access::{ActArgs, Actor, Format, StoreArgs, failure};
use super::rollout::RolloutArgs;
use super::wave::WaveArgs;
use super::{Exit, Failure, outcome};
use crate::publish::Allow;
use clap::Args;
use moorgate_snapshot::{Channel, FleetName};

/// Release in one channel what another one serves
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate promote shop/edge --from next --to stable --key file:ci.key
  moorgate promote shop/edge --from next --to stable --step relay=canary-1,bake=10m --step percent=20 --key file:ci.key

The same bytes under the same id: nothing is compiled.")]
pub(super) struct PromoteArgs {
    /// The fleet: namespace/gateway or class/NAME
    fleet: FleetName,
    /// The channel that serves it
    #[arg(long)]
    from: Channel,
    /// The channel to release it in
    #[arg(long)]
    to: Channel,
    /// Why
    #[arg(long, default_value = "")]
    reason: String,
    /// Also if more than a fifth of the routes go, in all or of a namespace or hostname
    #[arg(long)]
    allow_shrink: bool,
    /// Also if the snapshot is marked bad there: the mark is taken off
    #[arg(long)]
    allow_bad: bool,
    #[command(flatten)]
    wave: WaveArgs,
    #[command(flatten)]
    rollout: RolloutArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    act: ActArgs,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Runs the command.
pub(super) async fn run(args: PromoteArgs) -> Result<Exit, Failure> {
    if args.from == args.to {
        return Err(Failure::new(Exit::Usage, anyhow::anyhow!("--from and --to are the same channel")));
    }
    let actor = Actor::open(&args.store, &args.act).await?;
    let publisher = actor.publisher(&args.fleet, &args.to, &args.reason)?;
    let from = actor.reader(&args.fleet, &args.from);
    let allow = Allow { shrink: args.allow_shrink, bad: args.allow_bad, ..Allow::default() };
    let steps = args.wave.steps()?;
    let done = Box::pin(publisher.promote(&from, allow, &steps)).await.map_err(failure)?;
    outcome::show(&done, None, args.output)?;
    Box::pin(args.rollout.follow(&actor, &done)).await
}
