//! What one client may take of the relay: so many at a time, and so many begun in a second.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Over this time beginnings are counted.
const WINDOW: Duration = Duration::from_secs(1);
/// Clients that have nothing open are forgotten beyond this number.
const MAX_IDLE: usize = 4096;

/// Shares of all clients, by a name that a client cannot choose: its process, its address, its credential.
#[derive(Debug)]
pub struct Shares {
    most: usize,
    taken: Mutex<BTreeMap<Arc<str>, Taken>>,
}

#[derive(Debug)]
struct Taken {
    open: usize,
    begun: usize,
    since: Instant,
}

/// Something that a client has open; dropping it gives it back.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Shares>,
    client: Arc<str>,
}

impl Shares {
    /// Each client may have `most` open, and begin as many in a second.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most: most.max(1), taken: Mutex::default() })
    }

    /// One more for this client; `None` if it has its share.
    pub fn take(self: &Arc<Self>, client: &Arc<str>, now: Instant) -> Option<Share> {
        let mut all = self.lock();
        if all.len() >= MAX_IDLE && !all.contains_key(client) {
            all.retain(|_, taken| taken.open > 0);
        }
        let taken = all.entry(Arc::clone(client)).or_insert_with(|| Taken { open: 0, begun: 0, since: now });
        if now.saturating_duration_since(taken.since) >= WINDOW {
            (taken.begun, taken.since) = (0, now);
        }
        if taken.open >= self.most || taken.begun >= self.most {
            return None;
        }
        taken.open += 1;
        taken.begun += 1;
        Some(Share { shares: Arc::clone(self), client: Arc::clone(client) })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(taken) = self.shares.lock().get_mut(&self.client) {
            taken.open = taken.open.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_share_and_no_more_and_others_have_theirs() {
        let (shares, now) = (Shares::new(2), Instant::now());
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let held = [shares.take(&a, now).unwrap(), shares.take(&a, now).unwrap()];
        assert!(shares.take(&a, now).is_none());
        assert!(shares.take(&b, now).is_some());
        drop(held);
        assert!(shares.take(&a, now).is_none(), "it began two in this second");
        assert!(shares.take(&a, now + WINDOW).is_some());
    }

    #[test]
    fn clients_that_come_and_go_are_forgotten() {
        let (shares, now) = (Shares::new(1), Instant::now());
        let stays = shares.take(&"stays".into(), now).unwrap();
        for n in 0..3 * MAX_IDLE {
            assert!(shares.take(&format!("{n}").into(), now).is_some());
        }
        assert!(shares.lock().len() <= MAX_IDLE + 1);
        assert!(shares.take(&"stays".into(), now + WINDOW).is_none(), "what is open is never forgotten");
        drop(stays);
    }
}
