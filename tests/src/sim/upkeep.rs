//! Upkeep beside releases: heads are renewed by a key that can do only that, and a mirror is brought up to date.

use super::chance::Chance;
use super::publishers::other;
use super::weather::Sky;
use super::world::{Place, World};
use crate::fault_store::FaultStore;
use moorgate::publish::{Mirror, renew};
use moorgate_snapshot::Channel;
use std::sync::Arc;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

/// Renews heads until told to stop.
pub(super) async fn renewer(world: Arc<World>, mut chance: Chance, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(chance.millis(5_000..60_000)) => {}
        }
        let channel = if chance.permille(700) { Channel::stable() } else { other() };
        let client = world.client("renewer", Place::First, Sky::roll(&mut chance), chance.fork());
        tokio::select! {
            biased;
            () = client.crashed() => world.count("renew crashed"),
            () = renew_once(&world, &client, &channel) => {}
        }
    }
}

async fn renew_once(world: &World, client: &Arc<FaultStore>, channel: &Channel) {
    let now = OffsetDateTime::from_unix_timestamp(world.unix()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let reader = world.reader(client, channel);
    let renewed = renew(&reader, &world.keys.renewer, now, now + time::Duration::days(1)).await;
    let words = if renewed.is_ok() { "renewed" } else { "renew failed" };
    world.say("renewer", format!("{channel}: {words}"));
    world.count(words);
}

/// When all is well again: heads say until when they hold, and the mirror catches up.
pub(super) async fn last(world: &Arc<World>, mirror: bool) {
    let (client, to) = (FaultStore::calm(&world.bucket), FaultStore::calm(&world.mirror));
    for channel in [Channel::stable(), other()] {
        if world.judge(|monitor| monitor.newest(&channel).is_none()) {
            continue;
        }
        renew_once(world, &client, &channel).await;
        if mirror {
            let (from, to) = (world.reader(&client, &channel), to.store().fleet(&World::fleet()));
            let Mirror { result, .. } = Mirror::update(&from, &to).await;
            if let Err(behind) = result {
                world.judge(|monitor| monitor.violated(format!("the mirror is behind: {}", behind.message)));
            }
        }
    }
}
