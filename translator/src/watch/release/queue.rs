//! Whose turn it is: fleets that have to be published or retired, those that are being written, and those that have to wait.

use moorgate_snapshot::{Digest, FleetName};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::task::Id;
use tokio::time::Instant;

/// The shortest and the longest wait after a fleet was not written.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// A write of a fleet: its snapshot, or none if it is retired.
pub(super) type Act = Option<Digest>;

/// One fleet that is not as it should be.
#[derive(Debug)]
struct Late {
    act: Act,
    failures: u32,
    again: Instant,
    said: String,
    /// A gate refused it: somebody has to decide, and is told.
    gate: bool,
}

/// What there is to do.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// What is the newest in the store.
    pub(super) published: BTreeMap<FleetName, Digest>,
    late: BTreeMap<FleetName, Late>,
    /// Writes that are under way, one a fleet, by their tasks.
    writing: BTreeMap<FleetName, (Id, Act)>,
    /// When a write of a fleet was begun last: whoever waited longest is next.
    begun: BTreeMap<FleetName, Instant>,
    /// Fleets in the store that have no Gateway, and since when.
    vanished: BTreeMap<FleetName, Instant>,
}

impl Queue {
    /// Of fleets as they were compiled those that are to be published now, whoever waited longest first; and when the next
    /// of the others may be tried again.
    pub(super) fn publishable<'c>(
        &mut self,
        compiled: impl Iterator<Item = (&'c FleetName, Digest)>,
        now: Instant,
    ) -> (Vec<(FleetName, Digest)>, Option<Instant>) {
        let (mut due, mut next) = (Vec::new(), None);
        for (name, snapshot) in compiled {
            if self.writing.contains_key(name) {
                continue;
            }
            if self.published.get(name) == Some(&snapshot) {
                // What was refused is no longer wanted.
                self.late.remove(name);
                continue;
            }
            // Something new is tried at once, the same thing again after a while.
            let late = self.late.get(name).filter(|late| late.act == Some(snapshot) && late.again > now);
            match late {
                Some(late) => next = Some(earlier(next, late.again)),
                None => due.push((self.begun.get(name).copied(), name.clone(), snapshot)),
            }
        }
        due.sort_unstable();
        (due.into_iter().map(|(_, name, snapshot)| (name, snapshot)).collect(), next)
    }

    /// Fleets to be retired now, of those without a Gateway; and when the next of the others may be. `found` were in the
    /// store before.
    pub(super) fn retirable(
        &mut self,
        there: &BTreeSet<FleetName>,
        found: Vec<FleetName>,
        after: Duration,
        now: Instant,
    ) -> (Vec<FleetName>, Option<Instant>) {
        let lost = self.published.keys().cloned().chain(found);
        for fleet in lost.filter(|fleet| !there.contains(fleet)).collect::<Vec<_>>() {
            self.vanished.entry(fleet).or_insert(now);
        }
        self.vanished.retain(|fleet, _| !there.contains(fleet));
        let (late, vanished, writing) = (&mut self.late, &self.vanished, &self.writing);
        late.retain(|fleet, _| there.contains(fleet) || vanished.contains_key(fleet));
        let (mut due, mut next) = (Vec::new(), None);
        for (fleet, since) in vanished.iter().filter(|(fleet, _)| !writing.contains_key(*fleet)) {
            let again = late.get(fleet).filter(|late| late.act.is_none()).map(|late| late.again);
            let at = again.into_iter().fold(*since + after, Instant::max);
            if at <= now { due.push(fleet.clone()) } else { next = Some(earlier(next, at)) }
        }
        (due, next)
    }

    /// Fleets that a gate holds back, and why.
    pub(super) fn held(&self) -> BTreeMap<FleetName, String> {
        let held = self.late.iter().filter(|(_, late)| late.gate && late.act.is_some());
        held.map(|(fleet, late)| (fleet.clone(), late.said.clone())).collect()
    }

    /// How many are as they should be, being written, and put off.
    pub(super) fn counts(&self) -> [(&'static str, usize); 3] {
        [("published", self.published.len()), ("writing", self.writing.len()), ("late", self.late.len())]
    }

    /// A write is under way.
    pub(super) fn begin(&mut self, name: FleetName, task: Id, act: Act, now: Instant) {
        self.begun.insert(name.clone(), now);
        self.writing.insert(name, (task, act));
    }

    /// A task ended without an answer: what it wrote.
    pub(super) fn broken(&mut self, task: Id) -> Option<(FleetName, Act)> {
        let found = self.writing.iter().find(|(_, (id, _))| *id == task);
        let (name, act) = found.map(|(name, (_, act))| (name.clone(), *act))?;
        self.writing.remove(&name);
        Some((name, act))
    }

    /// A write ended well.
    pub(super) fn done(&mut self, name: FleetName, act: Act) {
        self.writing.remove(&name);
        self.late.remove(&name);
        self.vanished.remove(&name);
        if let Some(snapshot) = act {
            self.published.insert(name, snapshot);
        } else {
            self.published.remove(&name);
            self.begun.remove(&name);
        }
    }

    /// A write did not go through: it is said once, and tried again later each time.
    pub(super) fn put_off(&mut self, fleet: &FleetName, act: Act, (why, gate): (&str, bool), now: Instant) {
        self.writing.remove(fleet);
        let fresh = || Late { act, failures: 0, again: now, said: String::new(), gate };
        let known = self.late.entry(fleet.clone()).or_insert_with(fresh);
        if known.said != why {
            tracing::warn!(%fleet, why, "not published; the fleet goes on as it is");
            why.clone_into(&mut known.said);
        }
        if known.act != act {
            (known.act, known.failures) = (act, 0);
        }
        known.gate = gate;
        known.again = now + WAIT.0.saturating_mul(1 << known.failures.min(6)).min(WAIT.1);
        known.failures += 1;
    }
}

fn earlier(known: Option<Instant>, other: Instant) -> Instant {
    known.map_or(other, |known| known.min(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(name: &str) -> FleetName {
        FleetName::gateway("shop", name)
    }

    fn digest(n: u8) -> Digest {
        Digest::of(&[n])
    }

    async fn task() -> Id {
        let task = tokio::spawn(async {});
        let id = task.id();
        let _ = task.await;
        id
    }

    #[test]
    fn a_fleet_that_is_refused_is_tried_again_calmly_and_something_new_at_once() {
        let (edge, now) = (fleet("edge"), Instant::now());
        let mut queue = Queue::default();
        let mut waits = Vec::new();
        for _ in 0..8 {
            queue.put_off(&edge, Some(digest(1)), ("pinned", true), now);
            let (due, next) = queue.publishable([(&edge, digest(1))].into_iter(), now);
            assert!(due.is_empty());
            waits.push((next.unwrap() - now).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        let (due, next) = queue.publishable([(&edge, digest(2))].into_iter(), now);
        assert_eq!((due, next), (vec![(edge.clone(), digest(2))], None));
        queue.put_off(&edge, Some(digest(2)), ("pinned", true), now);
        let (_, next) = queue.publishable([(&edge, digest(2))].into_iter(), now);
        assert_eq!(next, Some(now + WAIT.0));
        // A gate is told to whoever owns the Gateway, until something went through; a store that is away is not.
        assert_eq!(queue.held(), BTreeMap::from([(edge.clone(), "pinned".to_owned())]));
        queue.put_off(&edge, Some(digest(2)), ("no answer", false), now);
        assert!(queue.held().is_empty());
        queue.put_off(&edge, Some(digest(2)), ("pinned", true), now);
        queue.done(edge.clone(), Some(digest(2)));
        assert!(queue.held().is_empty());
        // Nor is one whose refused state was taken back.
        queue.put_off(&edge, Some(digest(3)), ("pinned", true), now);
        assert_eq!(queue.publishable([(&edge, digest(2))].into_iter(), now), (vec![], None));
        assert!(queue.held().is_empty());
    }

    #[tokio::test]
    async fn a_fleet_is_written_once_at_a_time_and_whoever_waited_longest_is_next() {
        let names = ["a", "b", "c"].map(fleet);
        let now = Instant::now();
        let mut queue = Queue::default();
        let due = |queue: &mut Queue, n: u8| {
            queue
                .publishable(names.iter().map(|name| (name, digest(n))), now)
                .0
                .into_iter()
                .map(|(name, _)| name)
        };
        assert!(due(&mut queue, 1).eq(names.clone()));
        queue.begin(names[0].clone(), task().await, Some(digest(1)), now);
        assert!(due(&mut queue, 2).eq(names[1..].iter().cloned()));
        queue.done(names[0].clone(), Some(digest(1)));
        assert!(due(&mut queue, 1).eq(names[1..].iter().cloned()));
        // It changed again: those that were never written come first.
        assert!(due(&mut queue, 2).eq([&names[1], &names[2], &names[0]].into_iter().cloned()));
        // A task that broke off leaves nothing behind.
        let id = task().await;
        queue.begin(names[0].clone(), id, Some(digest(2)), now);
        assert_eq!(queue.broken(id), Some((names[0].clone(), Some(digest(2)))));
        assert_eq!(due(&mut queue, 2).count(), 3);
    }

    #[test]
    fn a_fleet_without_a_gateway_is_retired_after_its_time_and_wakes_nobody_afterwards() {
        let (after, start) = (Duration::from_secs(30), Instant::now());
        let mut queue = Queue::default();
        queue.done(fleet("edge"), Some(digest(1)));
        // Refused before its Gateway went.
        queue.put_off(&fleet("edge"), Some(digest(2)), ("pinned", true), start);
        let none = BTreeSet::new();
        // A class that was merged once is another's, or was ours: whoever ends it looks.
        let class: FleetName = "class/internal".parse().unwrap();
        let found = vec![fleet("old"), class.clone()];
        assert_eq!(queue.retirable(&none, found, after, start), (vec![], Some(start + after)));
        let all = vec![fleet("edge"), fleet("old"), class.clone()];
        assert_eq!(queue.retirable(&none, vec![], after, start + after), (all, None));
        queue.put_off(&fleet("edge"), None, ("denied", false), start + after);
        queue.done(fleet("old"), None);
        queue.done(class, None);
        let again = start + after + WAIT.0;
        assert_eq!(queue.retirable(&none, vec![], after, start + after), (vec![], Some(again)));
        queue.done(fleet("edge"), None);
        assert_eq!(queue.retirable(&none, vec![], after, again), (vec![], None));
        // One that is neither there nor vanished holds no alarm.
        queue.put_off(&fleet("else"), Some(digest(1)), ("pinned", true), again);
        assert_eq!(queue.retirable(&none, vec![], after, again), (vec![], None));
        assert!(queue.late.is_empty());
    }
}
