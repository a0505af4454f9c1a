//! Those who clean up: runs of gc, several at once, each able to die at any request; and the nights between them.

use super::chance::Chance;
use super::monitor::Monitor;
use super::pool::{self, pool};
use super::weather::{self, Sky};
use super::world::{Place, World};
use crate::fault_store::{Fault, FaultStore, Kind, Operation};
use moorgate_snapshot::gc::{self, GcError, Mode, Outcome, Policy};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const HOUR: i64 = 3_600;

/// How long things are kept here: as in life, an act takes no longer than the grace period.
pub(super) const POLICY: Policy = Policy {
    keep_for: Duration::from_hours(8),
    keep_last: 2,
    grace: Duration::from_hours(2),
    delay: Duration::from_hours(2),
    lease: Duration::from_hours(1),
};

/// One who collects until told to stop.
pub(super) async fn collector(world: Arc<World>, name: String, mut chance: Chance, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(chance.millis(2_000..25_000)) => {}
        }
        let client = client(&world, &name, &mut chance);
        collect(&world, &name, &client).await;
    }
}

/// A client in mild weather. Every third run dies at some request, whichever it is about then, and deletes take their time:
/// a publisher may come in between.
fn client(world: &Arc<World>, name: &str, chance: &mut Chance) -> Arc<FaultStore> {
    let sky = Sky::roll_mild(chance);
    let mut weather = weather::decide(Arc::clone(world), name.to_owned(), Place::First, sky, chance.fork());
    let mut left = if chance.permille(333) { chance.below(90) } else { u64::MAX };
    let (world, mut chance) = (Arc::clone(world), chance.fork());
    FaultStore::new(&Arc::clone(&world.bucket), move |operation| {
        let mut verdict = weather(operation);
        if world.bucket.is_calm() {
            return verdict;
        }
        let about = phase(operation);
        if about == "deleting" {
            verdict.wait += chance.millis(0..3_000);
        }
        // Most requests of a run come before those.
        let late = ["condemning", "copying", "deleting"].contains(&about);
        let dies = left == 0 || (late && chance.permille(40));
        left = left.saturating_sub(1);
        if dies {
            left = u64::MAX;
            verdict.fault = Some(if chance.permille(500) { Fault::CrashBefore } else { Fault::CrashAfter });
        }
        if matches!(verdict.fault, Some(Fault::CrashBefore | Fault::CrashAfter)) {
            world.count(&format!("gc dies {about}"));
            world.say("gc", format!("dies {about}: {:?}", verdict.fault));
        }
        verdict
    })
}

/// One run; what it gave, if it lived and went well.
pub(super) async fn collect(world: &World, name: &str, client: &Arc<FaultStore>) -> Option<Outcome> {
    let nonce = world.nonce();
    world.say(name, format!("gc as {nonce}"));
    let holes = world.judge(|monitor| monitor.open_holes());
    let at_once = world.collecting.fetch_add(1, Ordering::SeqCst) + 1;
    if at_once > 1 {
        world.count("gc beside gc");
    }
    let (store, trust) = (client.store().fleet(&World::fleet()), world.trust());
    let mode = Mode::Apply { nonce: nonce.clone() };
    let result = tokio::select! {
        biased;
        () = client.crashed() => None,
        result = gc::collect(&store, &trust, &POLICY, &mode) => Some(result),
    };
    world.collecting.fetch_sub(1, Ordering::SeqCst);
    let words = match &result {
        None => "crashed",
        Some(Ok(outcome)) => {
            let acts = [
                (outcome.condemned.objects, "gc condemned"),
                (outcome.deleted.objects, "gc removed"),
                (outcome.spared.objects, "gc spared"),
            ];
            acts.iter().filter(|(objects, _)| *objects > 0).for_each(|(_, what)| world.count(what));
            "ended"
        }
        Some(Err(GcError::Lease(_))) => "gave way",
        Some(Err(GcError::Unclear { .. })) => "unclear",
        Some(Err(GcError::Read(_))) => "read failed",
        Some(Err(GcError::Store(_) | GcError::Write(_))) => "store failed",
    };
    world.count(&format!("gc {words}"));
    match &result {
        Some(Err(error)) => world.say(name, format!("{nonce}: {words}: {error}")),
        _ => world.say(name, format!("{nonce}: {words}")),
    }
    let outcome = result.and_then(Result::ok);
    if outcome.is_some() {
        world.judge(|monitor| monitor.closed(&holes));
    }
    outcome
}

/// A snapshot that gc has condemned: whoever publishes it now meets gc.
pub(super) fn condemned(world: &World, chance: &mut Chance) -> Option<usize> {
    let names = world.bucket.names();
    let digests =
        names.iter().filter_map(|name| name.split_once("/gc/condemned/manifests/")?.1.rsplit('/').next());
    let numbers: Vec<usize> = digests.filter_map(|digest| pool::number(&digest.parse().ok()?)).collect();
    chance.pick(&numbers).copied()
}

/// Hours pass in which nothing happens, as nights do: never while somebody publishes, who would not take so long.
pub(super) async fn nights(world: Arc<World>, mut chance: Chance, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(chance.millis(2_000..15_000)) => {}
        }
        while world.acting.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let hours = chance.below(6) + 1;
        world.sleep(i64::try_from(hours).unwrap_or_default() * HOUR);
        world.say("all", format!("{hours} hours pass"));
        world.count(if world.collecting.load(Ordering::SeqCst) > 0 { "night in a gc" } else { "night" });
    }
}

/// When all is well again: one last run, behind whatever lease a dead one left.
pub(super) async fn last(world: &Arc<World>) {
    world.sleep(2 * HOUR);
    let client = FaultStore::calm(&world.bucket);
    if collect(world, "gc-last", &client).await.is_some() {
        world.count("gc at the end");
        return;
    }
    // What it cannot read it may not judge by. Whoever publishes the same again mends the channel.
    let store = client.store().fleet(&World::fleet());
    for number in world.judge(Monitor::take_holed) {
        let _ = moorgate_snapshot::writer::restore(&store, &pool()[number].snapshot).await;
    }
}

/// What a run of gc was about when it died, for the count.
pub(super) fn phase(operation: Operation<'_>) -> &'static str {
    let path = operation.path;
    let own = |folder: &str| path.contains(&format!("/gc/{folder}"));
    match operation.kind {
        _ if own("lease") || own("clock") => "at its lease",
        Kind::List => "at a list",
        Kind::Put if own("condemned") => "condemning",
        Kind::Delete if own("") => "at a note",
        Kind::Put if own("removed") => "copying",
        Kind::Delete => "deleting",
        Kind::Put | Kind::Create => "putting back",
        Kind::Get => "reading",
    }
}
