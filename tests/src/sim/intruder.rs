//! One who can write to the bucket and holds no key that counts, or only one that may pin; and rot, which holds none.

use super::chance::Chance;
use super::monitor::slot;
use super::publishers::other;
use super::world::World;
use bytes::Bytes;
use moorgate_snapshot::channel::Pin;
use moorgate_snapshot::entry::Action;
use moorgate_snapshot::envelope::Envelope;
use moorgate_snapshot::head::Head;
use moorgate_snapshot::{Channel, Digest, Entry, Signer, VerifiedEntry, layout};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio_util::sync::CancellationToken;

/// Slots that are spoilt in one run: fewer in a row than readers step over.
const SLOTS: usize = 5;

/// What was damaged: the object, what it held, and what it holds.
type Damaged = (String, Bytes, Bytes);

/// Does harm until it is told to stop, and undoes the rot then.
pub(super) async fn intruder(world: Arc<World>, mut chance: Chance, stop: CancellationToken) {
    let mut spoilt = 0;
    let mut damaged: Vec<Damaged> = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep(chance.millis(10_000..90_000)) => {}
        }
        let channel = if chance.permille(700) { Channel::stable() } else { other() };
        let act = chance.below(6);
        if act < 3 && spoilt < SLOTS {
            spoilt += usize::from(spoil_slot(&world, &channel, &mut chance));
        } else if act == 3 {
            spoil_head(&world, &channel, &mut chance);
        } else if act > 3 && world.acting.load(Ordering::SeqCst) == 0 {
            damaged.extend(rot(&world, &mut chance));
        }
    }
    for (path, before, now) in damaged.into_iter().rev() {
        if world.bucket.peek(&path) == Some(now) {
            world.bucket.tamper(&path, Some(before));
        }
    }
}

/// Takes the next slot of a log with something that must not count.
fn spoil_slot(world: &World, channel: &Channel, chance: &mut Chance) -> bool {
    let (free, newest) = world.judge(|monitor| (monitor.free(channel), monitor.newest(channel).cloned()));
    let (what, bytes) = match (chance.below(4), newest) {
        (0, Some(newest)) => ("a replay", Bytes::from(newest.envelope.encode())),
        (1, Some(newest)) => ("a stranger's entry", signed(&newest, free, &*world.keys.stranger, |_| {})),
        (2, Some(newest)) => ("a pin of nothing", signed(&newest, free, &world.keys.on_call, pin_of_nothing)),
        _ => ("garbage", Bytes::from_static(b"{\"payloadType\":")),
    };
    let path = format!("{}/{}", World::fleet().prefix(), layout::entry(channel, free));
    world.judge(|monitor| monitor.forged(path.clone()));
    let done = world.bucket.put(&path, &bytes, true).is_ok();
    world.say("intruder", format!("{what} in slot {free} of {channel}"));
    world.count(&format!("intruder {what}"));
    done
}

/// The newest entry, continued and changed.
fn signed(newest: &VerifiedEntry, slot: u64, signer: &dyn Signer, change: impl FnOnce(&mut Entry)) -> Bytes {
    let mut entry = newest.entry.clone();
    (entry.sequence, entry.previous) = (slot, Some(newest.position()));
    entry.nonce = format!("forged-{slot}");
    change(&mut entry);
    let envelope = entry.sign(&[signer]).map(|envelope| envelope.encode());
    Bytes::from(envelope.unwrap_or_default())
}

/// A key that may only pin pins what was never published.
fn pin_of_nothing(entry: &mut Entry) {
    entry.action = Action::Pin;
    let release = entry.state.releases().next().cloned();
    entry.state.pin = release.map(|mut release| {
        release.snapshot = Digest::of(b"never published");
        Pin { release, reason: "forged".into(), by: "intruder".into(), expires: None }
    });
}

/// Points the head at something old, forged, or nothing at all.
fn spoil_head(world: &World, channel: &Channel, chance: &mut Chance) {
    let old: Vec<Envelope> =
        world.judge(|monitor| monitor.entries(channel).map(|(_, entry)| entry.envelope.clone()).collect());
    let (what, bytes) = match (chance.below(3), chance.pick(&old)) {
        (0, Some(old)) => ("an old head", Some(Bytes::from(Head::of(old.clone()).encode()))),
        (1, _) => ("no head", None),
        _ => ("a broken head", Some(Bytes::from_static(b"\0\0"))),
    };
    let path = format!("{}/{}", World::fleet().prefix(), layout::head(channel));
    if world.bucket.peek(&path).is_some() {
        world.bucket.tamper(&path, bytes);
        world.say("intruder", format!("{what} in {channel}"));
        world.count(&format!("intruder {what}"));
    }
}

/// A log and the chain of trust stand for themselves, heads are spoilt anyhow, and a lease that says nothing holds until
/// somebody looks.
fn may_rot(name: &str) -> bool {
    slot(name).is_none() && !["/head/", "/gc/", "trust/"].iter().any(|part| name.contains(part))
}

/// One stored object is not what it was any more.
fn rot(world: &World, chance: &mut Chance) -> Option<Damaged> {
    let names = world.bucket.names();
    let blobs: Vec<String> = names.into_iter().filter(|name| may_rot(name)).collect();
    let path = chance.pick(&blobs)?.clone();
    let before = world.bucket.peek(&path)?;
    let mut bytes = before.to_vec();
    let at = usize::try_from(chance.below(bytes.len() as u64)).ok()?;
    *bytes.get_mut(at)? ^= 1 << chance.below(8);
    let now = Bytes::from(bytes);
    world.bucket.tamper(&path, Some(now.clone()));
    world.say("rot", &path);
    world.count("rot");
    Some((path, before, now))
}
