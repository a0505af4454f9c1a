//! Which objects may have to be written, in which order, and how often.

use super::desired::Awaited;
use moorgate_model::ObjectRef;
use moorgate_snapshot::FleetName;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// So many writes of one object within [`FIGHT`] that left the verdict the same mean that somebody undoes them.
const FIGHT_WRITES: u32 = 8;
/// The time within which writes are counted.
const FIGHT: Duration = Duration::from_secs(30);
/// The wait after a write that failed, and between writes of an object that is fought over.
const WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// An object whose status may have to be written.
#[derive(Debug, Clone, Copy)]
struct Dirty {
    since: Instant,
    again: Instant,
    failures: u32,
}

/// What is remembered of writes of one object.
struct Written {
    first: Instant,
    verdict: Value,
    count: u32,
}

/// What is to be done.
#[derive(Default)]
pub(in crate::watch) struct Work {
    pub(super) awaited: Awaited,
    dirty: BTreeMap<ObjectRef, Dirty>,
    /// Those that may be written now, the longest waiting first.
    ready: BTreeSet<(Instant, ObjectRef)>,
    /// Those that may not yet, by the time when they may.
    later: BTreeSet<(Instant, ObjectRef)>,
    pub(super) writing: BTreeSet<ObjectRef>,
    written: BTreeMap<ObjectRef, Written>,
    /// Objects that Envoys have not acknowledged yet, and whose Envoys.
    pub(super) waiting: BTreeMap<ObjectRef, FleetName>,
}

impl Work {
    /// It may have changed.
    pub(super) fn add(&mut self, reference: ObjectRef) {
        let now = Instant::now();
        // One that fails keeps its time.
        if self.dirty.get(&reference).is_some_and(|dirty| dirty.failures > 0 || dirty.again <= now) {
            return;
        }
        let since = self.dirty.get(&reference).map_or(now, |dirty| dirty.since);
        self.put(reference, Dirty { since, again: now, failures: 0 }, now);
    }

    /// After a failure, later; how much later.
    pub(super) fn again(&mut self, reference: ObjectRef) -> Duration {
        let now = Instant::now();
        let known = self.dirty.get(&reference).copied();
        let mut dirty = known.unwrap_or(Dirty { since: now, again: now, failures: 0 });
        let wait = WAIT.0.saturating_mul(1 << dirty.failures.min(7)).min(WAIT.1);
        dirty.failures = dirty.failures.saturating_add(1);
        dirty.again = now + wait;
        self.put(reference, dirty, now);
        wait
    }

    fn put(&mut self, reference: ObjectRef, dirty: Dirty, now: Instant) {
        self.take(&reference);
        let (list, at) =
            if dirty.again <= now { (&mut self.ready, dirty.since) } else { (&mut self.later, dirty.again) };
        list.insert((at, reference.clone()));
        self.dirty.insert(reference, dirty);
    }

    /// Nothing is to be written of it, or it is being written.
    pub(super) fn take(&mut self, reference: &ObjectRef) {
        if let Some(dirty) = self.dirty.remove(reference) {
            self.ready.remove(&(dirty.since, reference.clone()));
            self.later.remove(&(dirty.again, reference.clone()));
        }
    }

    /// The object that has waited longest and may be written now.
    pub(super) fn due(&mut self, now: Instant) -> Option<ObjectRef> {
        while let Some((at, name)) = self.later.pop_first() {
            if at > now {
                self.later.insert((at, name));
                break;
            }
            if let Some(dirty) = self.dirty.get(&name) {
                self.ready.insert((dirty.since, name));
            }
        }
        // What is written now may change again meanwhile; then it waits for that.
        self.ready.iter().find(|(_, name)| !self.writing.contains(name)).map(|(_, name)| name.clone())
    }

    /// When there is something to do next.
    pub(super) fn next(&self) -> Option<Instant> {
        let ready = self.ready.iter().find(|(_, name)| !self.writing.contains(name));
        let later = self.later.iter().find(|(_, name)| !self.writing.contains(name));
        ready.into_iter().chain(later).map(|(at, _)| *at).min()
    }

    /// Somebody else writes.
    pub(super) fn clear(&mut self) {
        self.dirty.clear();
        self.ready.clear();
        self.later.clear();
    }

    /// It is gone.
    pub(super) fn forget(&mut self, reference: &ObjectRef) {
        self.waiting.remove(reference);
        self.written.remove(reference);
    }

    /// Counts writes of one and the same verdict; true if this one has to wait.
    pub(super) fn is_fought_over(&mut self, reference: &ObjectRef, verdict: &Value, now: Instant) -> bool {
        let fresh = || Written { first: now, verdict: verdict.clone(), count: 0 };
        let known = self.written.entry(reference.clone()).or_insert_with(fresh);
        if known.verdict != *verdict || now - known.first > FIGHT {
            *known = fresh();
        }
        known.count += 1;
        if known.count <= FIGHT_WRITES {
            return false;
        }
        let again = known.first + FIGHT + Duration::from_secs(1);
        if let Some(dirty) = self.dirty.get(reference).copied() {
            // Counted as a failure: further changes do not hasten it.
            self.put(reference.clone(), Dirty { again, failures: dirty.failures.max(1), ..dirty }, now);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn name(name: &str) -> ObjectRef {
        ObjectRef::new("g", "K", "n", name)
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_change_is_written_first() {
        let mut work = Work::default();
        for one in ["c", "a", "b"] {
            work.add(name(one));
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        // Changed again, it keeps its place.
        work.add(name("c"));
        let now = Instant::now();
        assert!(work.next().is_some_and(|at| at <= now));
        let mut order = Vec::new();
        while let Some(next) = work.due(now) {
            order.push(next.name.to_string());
            work.take(&next);
        }
        assert_eq!(order, ["c", "a", "b"]);
        assert_eq!(work.next(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_being_written_waits_and_holds_nobody_up() {
        let mut work = Work::default();
        work.add(name("a"));
        let first = work.due(Instant::now()).unwrap();
        work.take(&first);
        work.writing.insert(first.clone());
        work.add(first.clone());
        assert_eq!((work.due(Instant::now()), work.next()), (None, None));
        work.add(name("b"));
        assert_eq!(work.due(Instant::now()), Some(name("b")));
        work.take(&name("b"));
        work.writing.remove(&first);
        assert_eq!(work.due(Instant::now()), Some(first));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_fails_is_tried_again_later_and_holds_nobody_up() {
        let mut work = Work::default();
        work.add(name("a"));
        let waits: Vec<Duration> = (0..8).map(|_| work.again(name("a"))).collect();
        assert_eq!(waits[..3], [500, 1000, 2000].map(Duration::from_millis));
        assert_eq!(waits[7], WAIT.1);
        work.add(name("b"));
        assert_eq!(work.due(Instant::now()), Some(name("b")));
        // A change does not shorten the wait of an object that fails.
        work.add(name("a"));
        work.take(&name("b"));
        assert_eq!(work.due(Instant::now()), None);
        assert_eq!(work.next(), Some(Instant::now() + WAIT.1));
        tokio::time::advance(WAIT.1).await;
        assert_eq!(work.due(Instant::now()), Some(name("a")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_fight_is_noticed_and_news_is_not_taken_for_one() {
        let mut work = Work::default();
        let verdict = json!({"a": 1});
        for n in 0..20 {
            assert!(!work.is_fought_over(&name("news"), &json!({"n": n}), Instant::now()));
        }
        for n in 0..20 {
            work.add(name("a"));
            let fought = work.is_fought_over(&name("a"), &verdict, Instant::now());
            assert_eq!(fought, n >= FIGHT_WRITES, "{n}");
        }
        assert_eq!(work.due(Instant::now()), None);
        tokio::time::advance(FIGHT + Duration::from_secs(2)).await;
        assert_eq!(work.due(Instant::now()), Some(name("a")));
        assert!(!work.is_fought_over(&name("a"), &verdict, Instant::now()));
    }
}
