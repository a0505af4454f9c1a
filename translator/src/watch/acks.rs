//! What relays report of fleets: which snapshots Envoys have acknowledged, so that `Programmed` says no more than that.

use super::meter::{Meter, REPORTS_READ};
use super::release::{Released, Target};
use futures::StreamExt as _;
use moorgate_snapshot::reader::Reader;
use moorgate_snapshot::{Digest, FleetName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::Instant;

/// The shortest and the longest time between looks at a fleet that somebody waits for. A look is a list and a read for each
/// relay; what has not come soon comes late, or never.
const LOOK: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// The time between looks grows with this part of the time that somebody has waited.
const PART: u32 = 8;
/// All fleets are looked at so often.
const ALL: Duration = Duration::from_secs(15);
/// Fleets looked at at one time.
const PARALLEL: usize = 16;

/// One relay, by its newest report that is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// Its name.
    pub name: String,
    /// The snapshot in force, if at least one Envoy is there and all have acknowledged it.
    pub acked: Option<Digest>,
    /// No Envoy is there: of several relays for the same Envoys, or on a node that they left.
    pub idle: bool,
    /// The newest release that it has verified.
    pub sequence: u64,
    /// Snapshots that Envoys refused, and their words.
    pub refused: BTreeMap<Digest, String>,
}

/// All relays of each fleet.
pub type Acks = BTreeMap<FleetName, Vec<Relay>>;

/// How a fleet stands to snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Every relay that knows of them has it acknowledged.
    Acked,
    /// Not yet: why.
    Pending(String),
    /// Envoys refuse the newest: why.
    Refused(String),
}

/// How far the relays of a fleet are with the snapshots that an object has had since it was changed, oldest first. A relay
/// that has not seen the release yet, or is gone, holds nothing up: it has not said anything about it. Nor does one without
/// Envoys, if another one has some.
pub(super) fn standing(relays: &[Relay], awaited: &[Digest], sequences: &BTreeMap<Digest, u64>) -> Standing {
    let since = awaited.iter().filter_map(|snapshot| sequences.get(snapshot)).min().copied();
    let is_live = |relay: &&Relay| relay.acked.is_some_and(|acked| awaited.contains(&acked));
    let live = relays.iter().filter(is_live).count();
    if let Some(newest) = awaited.last()
        && let Some((relay, why)) = relays.iter().find_map(|relay| Some((relay, relay.refused.get(newest)?)))
    {
        return Standing::Refused(format!("{}: {why}", relay.name));
    }
    let behind: BTreeSet<&str> = relays
        .iter()
        .filter(|relay| !is_live(relay) && !relay.idle && since.is_some_and(|since| relay.sequence >= since))
        .map(|relay| relay.name.as_str())
        .collect();
    match (live, behind.len()) {
        (0, 0) if relays.iter().any(|relay| relay.acked.is_some()) => {
            Standing::Pending("Envoys have another configuration than this one still".to_owned())
        }
        (0, 0) => Standing::Pending("waiting for Envoy to acknowledge the configuration".to_owned()),
        (_, 0) => Standing::Acked,
        (live, behind) => Standing::Pending(format!(
            "{live} of {} relays have their Envoys' acknowledgement",
            live + behind
        )),
    }
}

/// When to look at a fleet that somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace {
    /// Since when somebody waits for this release.
    since: Instant,
    /// The newest release.
    sequence: Option<u64>,
    next: Instant,
}

impl Pace {
    /// Somebody waits for a release, maybe the same as before.
    fn of(known: Option<Self>, sequence: Option<u64>, now: Instant) -> Self {
        known.filter(|known| known.sequence == sequence).unwrap_or(Self { since: now, sequence, next: now })
    }

    fn looked(&mut self, now: Instant) {
        self.next = now + ((now - self.since) / PART).clamp(LOOK.0, LOOK.1);
    }
}

/// Reads reports as long as the loop lives.
pub(super) async fn run(
    target: Arc<Target>,
    meter: Arc<Meter>,
    mut awaited: watch::Receiver<BTreeSet<FleetName>>,
    mut released: watch::Receiver<Released>,
    out: watch::Sender<Acks>,
) {
    let mut paces: BTreeMap<FleetName, Pace> = BTreeMap::new();
    let mut all = Instant::now();
    loop {
        let now = Instant::now();
        let mut fleets: BTreeSet<FleetName> = BTreeSet::new();
        {
            let released = released.borrow_and_update();
            let newest = |fleet: &FleetName| released.get(fleet)?.values().max().copied();
            let waits = awaited.borrow_and_update();
            let pace =
                |fleet: &FleetName| (fleet.clone(), Pace::of(paces.get(fleet).copied(), newest(fleet), now));
            paces = waits.iter().map(pace).collect();
            fleets.extend(paces.iter().filter(|(_, pace)| pace.next <= now).map(|(fleet, _)| fleet.clone()));
            if all <= now {
                fleets.extend(released.keys().cloned());
                all = now + ALL;
            }
        }
        if read(&target, &fleets, &out).await {
            meter.happened(REPORTS_READ);
        }
        let now = Instant::now();
        let looked = paces.iter_mut().filter(|(fleet, _)| fleets.contains(*fleet));
        looked.for_each(|(_, pace)| pace.looked(now));
        let next = paces.values().map(|pace| pace.next).fold(all, Instant::min);
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            changed = awaited.changed() => if changed.is_err() { return },
            changed = released.changed() => if changed.is_err() { return },
            () = out.closed() => return,
        }
    }
}

/// Reads the reports of these fleets; whether any could be read.
async fn read(target: &Target, fleets: &BTreeSet<FleetName>, out: &watch::Sender<Acks>) -> bool {
    let now = (target.seams.now)();
    let read: Vec<(FleetName, Option<Vec<Relay>>)> = futures::stream::iter(fleets.iter().cloned())
        .map(|fleet| {
            let reader = target.reader_of_reports(&fleet);
            async move { (fleet, relays(&reader, now).await) }
        })
        .buffer_unordered(PARALLEL)
        .collect()
        .await;
    let any = read.iter().any(|(_, relays)| relays.is_some());
    out.send_if_modified(|acks| {
        let mut changed = false;
        for (fleet, relays) in read {
            // A store that does not answer changes nothing.
            if let Some(relays) = relays
                && acks.get(&fleet) != Some(&relays)
            {
                acks.insert(fleet, relays);
                changed = true;
            }
        }
        changed
    });
    any
}

async fn relays(reader: &Reader, now: OffsetDateTime) -> Option<Vec<Relay>> {
    let reports = match crate::publish::Reports::read(reader).await {
        Ok(reports) => reports,
        Err(error) => {
            tracing::debug!(fleet = %reader.store().fleet(), %error, "reports cannot be read");
            return None;
        }
    };
    let believed = reports.relays.into_iter().filter(|reported| {
        let report = &reported.report;
        reported.untrusted.is_none() && report.channel == *reader.channel() && !report.is_stale(now)
    });
    let relays = believed.map(|reported| {
        let report = reported.report;
        let whole = report.envoys_connected > 0 && report.envoys_acked >= report.envoys_connected;
        let nacks = report.envoys.iter().filter_map(|envoy| {
            let nack = envoy.nack.as_ref()?;
            Some((nack.snapshot?, format!("Envoy refuses {}: {}", nack.type_url, nack.text)))
        });
        Relay {
            name: report.relay.to_string(),
            acked: report.snapshot.filter(|_| whole),
            idle: report.envoys_connected == 0,
            sequence: report.sequence,
            refused: report.refused.clone().into_iter().chain(nacks).collect(),
        }
    });
    Some(relays.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(name: &str, acked: Option<u8>, sequence: u64) -> Relay {
        let acked = acked.map(|n| Digest::of(&[n]));
        Relay { name: name.to_owned(), acked, idle: acked.is_none(), sequence, refused: BTreeMap::new() }
    }

    #[test]
    fn what_does_not_come_soon_is_looked_for_less_often_until_there_is_something_new() {
        let start = Instant::now();
        let mut pace = Pace::of(None, Some(1), start);
        assert_eq!(pace.next, start);
        let mut looks = Vec::new();
        while pace.next - start < Duration::from_mins(10) {
            let now = pace.next;
            looks.push((now - start).as_secs_f32());
            pace.looked(now);
            assert_eq!(Pace::of(Some(pace), Some(1), now), pace);
        }
        // Often while it may come any moment, and then at most once in five seconds.
        assert!(looks.iter().filter(|at| **at < 2.0).count() >= 9, "{looks:?}");
        assert!((140..170).contains(&looks.len()), "{}", looks.len());
        let again = Pace::of(Some(pace), Some(2), start + LOOK.1);
        assert_eq!(again, Pace { since: start + LOOK.1, sequence: Some(2), next: start + LOOK.1 });
    }

    #[test]
    fn programmed_is_what_envoys_acknowledged() {
        let [old, first, second] = [0u8, 1, 2].map(|n| Digest::of(&[n]));
        let sequences = BTreeMap::from([(old, 4), (first, 5), (second, 6)]);
        let awaited = [first, second];
        let pending =
            |relays: &[Relay]| matches!(standing(relays, &awaited, &sequences), Standing::Pending(_));
        assert!(pending(&[]));
        // The snapshot before says nothing, nor does a relay without Envoys.
        assert!(pending(&[relay("a", Some(0), 4)]));
        assert!(pending(&[relay("a", None, 6)]));
        for n in [1, 2] {
            assert_eq!(standing(&[relay("a", Some(n), 6)], &awaited, &sequences), Standing::Acked);
        }
        // One that is gone or has not looked yet holds nothing up, nor one without Envoys; one that knows of it and has some
        // does.
        let mut relays = vec![relay("a", Some(2), 6), relay("gone", Some(0), 4), relay("idle", None, 6)];
        assert_eq!(standing(&relays, &awaited, &sequences), Standing::Acked);
        relays[2].idle = false;
        assert!(pending(&relays), "its Envoys have not acknowledged all of it");
        relays.truncate(2);
        relays.push(relay("b", Some(0), 5));
        assert!(pending(&relays));
        // Only the newest can be refused.
        relays[2].refused.insert(first, "no".to_owned());
        assert!(pending(&relays));
        relays[2].refused.insert(second, "bad filter".to_owned());
        assert_eq!(standing(&relays, &awaited, &sequences), Standing::Refused("b: bad filter".to_owned()));
        // What was never published cannot be acknowledged by anybody.
        assert!(matches!(standing(&relays, &[], &sequences), Standing::Pending(_)));
    }
}
