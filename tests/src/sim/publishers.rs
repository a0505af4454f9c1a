//! Those who act on channels: jobs that publish, promote, pin and roll back, each with a client of its own, each able to
//! die at any request.

use super::chance::Chance;
use super::collectors;
use super::monitor::Told;
use super::pool::{COUNT, pool};
use super::weather::Sky;
use super::world::{Place, World};
use crate::fault_store::FaultStore;
use moorgate::history::Records;
use moorgate::publish::{Allow, Done, Meta, Offer, Outcome, PublishError, Publisher};
use moorgate_snapshot::attestation::Provenance;
use moorgate_snapshot::channel::Step;
use moorgate_snapshot::{Channel, Signer as _};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use time::OffsetDateTime;

/// A year, in seconds.
const YEAR: i64 = 365 * 24 * 3600;

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Publishes a snapshot of the pool.
    Publish(usize),
    /// Publishes one in two steps: half of the relays, then all.
    Wave(usize),
    /// Moves a wave on, whatever relays report.
    Step,
    /// Ends a wave.
    Halt,
    /// Stops automation.
    Hold,
    /// Lets it go on.
    Lift,
    /// Forbids releases below this one.
    Floor(u64),
    /// Ends the fleet in this channel, until somebody publishes.
    Retire,
    /// Takes what the other channel serves.
    Promote,
    /// Pins a snapshot.
    Pin(String),
    /// Unpins to a snapshot.
    Unpin(String),
    /// Pins the good release before.
    Rollback,
}

impl Act {
    fn word(&self) -> &'static str {
        match self {
            Self::Publish(_) => "publish",
            Self::Wave(_) => "wave",
            Self::Step => "step",
            Self::Halt => "halt",
            Self::Hold => "hold",
            Self::Lift => "lift",
            Self::Floor(_) => "floor",
            Self::Retire => "retire",
            Self::Promote => "promote",
            Self::Pin(_) => "pin",
            Self::Unpin(_) => "unpin",
            Self::Rollback => "rollback",
        }
    }
}

/// One who acts until all steps are taken.
pub(super) async fn publisher(world: Arc<World>, name: String, mut chance: Chance) {
    loop {
        tokio::time::sleep(chance.millis(500..20_000)).await;
        if !world.take_step() {
            return;
        }
        let channel = channel(&mut chance);
        let act = choose(&world, &channel, &mut chance);
        let client = world.client(&name, Place::First, Sky::roll(&mut chance), chance.fork());
        let mirror = world.client(&name, Place::Mirror, Sky::roll(&mut chance), chance.fork());
        let meta = late_or_early(&world, &name, &mut chance);
        let nonce = meta.nonce.clone();
        world.say(&name, format!("{act:?} in {channel} as {nonce}"));
        world.acting.fetch_add(1, Ordering::SeqCst);
        let step_over = chance.permille(500);
        let result = tokio::select! {
            biased;
            () = client.crashed() => None,
            () = mirror.crashed() => None,
            result = carry_out_with(&world, (&client, Some(&mirror)), &channel, &act, meta, step_over) => Some(result),
        };
        if let Some(Ok(Outcome { mirrors, .. })) = &result {
            let behind = mirrors.iter().any(|mirror| mirror.result.is_err());
            world.count(if behind { "mirror behind" } else { "mirror up to date" });
        }
        world.acting.fetch_sub(1, Ordering::SeqCst);
        let (told, words) = tell(result);
        world.say(&name, format!("{nonce}: {words}"));
        world.count(&format!("act {words}"));
        if words == "committed" {
            world.count(&format!("committed {}", act.word()));
        }
        world.judge(|monitor| monitor.told(&nonce, &told));
    }
}

/// The one channel more often than the other.
fn channel(chance: &mut Chance) -> Channel {
    if chance.permille(750) { Channel::stable() } else { other() }
}

/// The channel that promotions come from.
pub fn other() -> Channel {
    "next".parse().unwrap_or_default()
}

fn choose(world: &World, channel: &Channel, chance: &mut Chance) -> Act {
    let any = usize::try_from(chance.below(COUNT as u64)).unwrap_or_default();
    let condemned = collectors::condemned(world, chance).filter(|_| chance.permille(400));
    let number = condemned.unwrap_or(any);
    let released: Vec<String> = world.judge(|monitor| {
        let of = |entry: &moorgate_snapshot::VerifiedEntry| {
            entry.entry.state.releases().map(|release| release.snapshot.to_string()).collect::<Vec<_>>()
        };
        monitor.entries(channel).rev().take(6).flat_map(|(_, entry)| of(entry)).collect()
    });
    let one = chance.pick(&released).cloned().unwrap_or_default();
    let pinned =
        world.judge(|monitor| monitor.newest(channel).is_some_and(|newest| newest.entry.state.pin.is_some()));
    let act = if pinned {
        chance.weighted(&[(0, 4), (3, 5), (4, 1)])
    } else {
        chance.weighted(&[
            (0, 24),
            (1, 4),
            (2, 4),
            (4, 4),
            (5, 8),
            (6, 8),
            (7, 1),
            (8, 1),
            (9, 2),
            (10, 1),
            (11, 1),
        ])
    };
    let floor = world.judge(|monitor| monitor.free(channel)).saturating_sub(1 + chance.below(8));
    match act {
        Some(5) => Act::Wave(number),
        Some(6) => Act::Step,
        Some(7) => Act::Halt,
        Some(8) => Act::Hold,
        Some(9) => Act::Lift,
        Some(10) => Act::Floor(floor),
        Some(11) => Act::Retire,
        Some(1) => Act::Promote,
        Some(2) if !one.is_empty() => Act::Pin(one),
        Some(3) if !one.is_empty() => Act::Unpin(one),
        Some(4) => Act::Rollback,
        _ => Act::Publish(number),
    }
}

/// The clock of a job may be a year off; nothing is decided by it.
fn late_or_early(world: &World, name: &str, chance: &mut Chance) -> Meta {
    meta(world, name, chance.weighted(&[(0, 18), (YEAR, 1), (-YEAR, 1)]).unwrap_or_default())
}

/// What an entry says of the act; `off` is how wrong the clock is, in seconds.
pub fn meta(world: &World, name: &str, off: i64) -> Meta {
    let time = OffsetDateTime::from_unix_timestamp(world.unix() + off).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    Meta {
        author: name.to_owned(),
        run: String::new(),
        approver: String::new(),
        reason: "simulated".to_owned(),
        time,
        expires: Some(time + time::Duration::hours(1)),
        nonce: world.nonce(),
    }
}

/// Carries out an act with the real publisher, in one store.
pub async fn carry_out(
    world: &Arc<World>,
    client: &Arc<FaultStore>,
    channel: &Channel,
    act: &Act,
    meta: Meta,
    step_over: bool,
) -> Result<Outcome, PublishError> {
    carry_out_with(world, (client, None), channel, act, meta, step_over).await
}

/// The same, with a mirror perhaps.
async fn carry_out_with(
    world: &Arc<World>,
    (client, mirror): (&Arc<FaultStore>, Option<&Arc<FaultStore>>),
    channel: &Channel,
    act: &Act,
    meta: Meta,
    step_over: bool,
) -> Result<Outcome, PublishError> {
    // Whoever pins is on call, and holds no other key.
    let signer = match act {
        Act::Pin(_) | Act::Unpin(_) | Act::Rollback => &world.keys.on_call,
        _ => world.publisher(),
    };
    let _acts = world.keys.act(signer);
    let reader = world.reader(client, channel);
    let mirrors = mirror.map(|mirror| mirror.store().fleet(&World::fleet())).into_iter().collect();
    let publisher = Publisher { reader, signer, meta, dry_run: false, step_over, mirrors };
    let of_pin = |result: Result<(Outcome, _), PublishError>| result.map(|(outcome, _)| outcome);
    match act {
        Act::Publish(number) | Act::Wave(number) => {
            let document = serde_json::json!({"by": signer.public().id().to_string()});
            let offer = Offer {
                snapshot: &pool()[*number].snapshot,
                routes: 100,
                source: None,
                documents: BTreeMap::from([("origins".to_owned(), document)]),
                provenance: Provenance::default(),
                records: Records::default(),
                steps: if matches!(act, Act::Wave(_)) { steps() } else { Vec::new() },
                writer: "publish".into(),
                allow: Allow { bad: true, ..Allow::default() },
                parent: None,
                descends: &|_, _| None,
            };
            Box::pin(publisher.publish(&offer)).await
        }
        Act::Promote => {
            let from = if *channel == Channel::stable() { other() } else { Channel::stable() };
            Box::pin(publisher.promote(&world.reader(client, &from), Allow::default(), &[])).await
        }
        Act::Pin(id) => of_pin(Box::pin(publisher.pin(id, None)).await),
        Act::Unpin(id) => of_pin(Box::pin(publisher.unpin(id, &[])).await),
        Act::Rollback => of_pin(Box::pin(publisher.rollback(None, None)).await),
        Act::Step => Box::pin(publisher.step(true, None)).await,
        Act::Halt => Box::pin(publisher.halt()).await,
        Act::Hold => Box::pin(publisher.hold()).await,
        Act::Lift => Box::pin(publisher.lift()).await,
        Act::Floor(sequence) => Box::pin(publisher.floor(*sequence, false)).await,
        Act::Retire => Box::pin(publisher.retire("publish", Allow::default())).await,
    }
}

/// Half of the relays, then all.
fn steps() -> Vec<Step> {
    let step = |percent| Step { labels: BTreeMap::new(), percent, bake_seconds: 60, max_error_percent: None };
    [50, 100].map(step).to_vec()
}

/// What the act was told, and a word for it.
fn tell(result: Option<Result<Outcome, PublishError>>) -> (Told, &'static str) {
    match result {
        None => (Told::Unknown, "crashed"),
        Some(Ok(outcome)) if outcome.result == Done::Committed => {
            (Told::Committed(outcome.entry.sequence), "committed")
        }
        Some(Ok(_)) => (Told::Nothing, "unchanged"),
        Some(Err(PublishError::Uncertain { .. })) => (Told::Unknown, "uncertain"),
        Some(Err(PublishError::Refused(_))) => (Told::Nothing, "refused"),
        Some(Err(PublishError::Read(_))) => (Told::Nothing, "read failed"),
        Some(Err(PublishError::Write(_))) => (Told::Nothing, "write failed"),
        Some(Err(_)) => (Told::Nothing, "failed"),
    }
}
