//! Names that are resolved instead of looked up in Kubernetes: as long as their records may be kept, and no longer.
//!
//! A server that fails, or does not answer, tells nothing: the last addresses stay. A server that says that a name has
//! no address is believed when it has said so three times, or at once if there is nothing to lose: an address that was
//! given up may soon be somebody else's.

mod ask;

pub use ask::{Answer, Ask, System};

use super::catalog::is_refused;
use crate::jitter::Jitter;
use crate::metrics::Metrics;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A record is kept at least so long, whatever it says: a TTL of zero must not make a storm.
const SHORTEST: Duration = Duration::from_secs(2);
/// A record is kept at most so long: who moves a Service does not wait for a TTL of a week.
const LONGEST: Duration = Duration::from_mins(5);
/// A denial is asked again after at most so long.
const DENIED: Duration = Duration::from_secs(10);
/// So many denials in a row take addresses away.
const DENIALS: u32 = 3;
/// The first and the longest wait after a failure.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long one question may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// So many questions are under way at one time.
const AT_ONCE: usize = 64;
/// Addresses of one name and family that are kept.
const MOST: usize = 1024;

/// The two kinds of addresses, each a question of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Record {
    /// IPv4.
    A,
    /// IPv6.
    Aaaa,
}

/// What is known of one name and kind.
#[derive(Debug, Clone, Default)]
struct Known {
    /// None until a server told something.
    addresses: Option<BTreeSet<IpAddr>>,
    /// Denials in a row.
    denials: u32,
    /// Failures in a row, and what the last one was.
    failures: u32,
    error: Option<String>,
    /// When to ask again; none: now.
    due: Option<Instant>,
}

/// Addresses by name, as last resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    names: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Names whose servers fail or deny them, with the reason.
    pub troubled: BTreeMap<String, Trouble>,
}

/// What is wrong with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// `denied` or `failing`.
    pub state: &'static str,
    /// In words.
    pub reason: String,
}

impl Resolved {
    /// The addresses of a name; `None` if no server has told of it.
    pub fn get(&self, name: &str, port: u16) -> Option<Vec<SocketAddr>> {
        let addresses = self.names.get(name)?;
        Some(addresses.iter().map(|address| SocketAddr::new(*address, port)).collect())
    }
}

/// What is known of all names, and when to ask again. Without I/O: time and answers go in.
#[derive(Debug, Default)]
struct Book {
    known: BTreeMap<(String, Record), Known>,
    jitter: Jitter,
}

impl Book {
    fn new(jitter: Jitter) -> Self {
        Self { known: BTreeMap::new(), jitter }
    }

    /// Forgets what is no longer asked for.
    fn want(&mut self, names: &BTreeSet<String>) {
        self.known.retain(|(name, _), _| names.contains(name));
        for name in names {
            for record in [Record::A, Record::Aaaa] {
                self.known.entry((name.clone(), record)).or_default();
            }
        }
    }

    /// What is to be asked at this moment.
    fn due(&self, now: Instant) -> Vec<(String, Record)> {
        let due = self.known.iter().filter(|(_, known)| known.due.is_none_or(|due| due <= now));
        due.map(|(key, _)| key.clone()).collect()
    }

    /// When something is to be asked next.
    fn next(&self, now: Instant) -> Option<Instant> {
        self.known.values().map(|known| known.due.unwrap_or(now)).min()
    }

    /// Takes an answer; a stable word for what it was.
    fn take(&mut self, key: &(String, Record), answer: Answer, now: Instant) -> &'static str {
        let Some(known) = self.known.get_mut(key) else { return "unwanted" };
        let (wait, word) = match answer {
            Answer::Addresses { addresses, ttl } => {
                let fit = addresses.into_iter().filter(|address| !is_refused(*address)).take(MOST);
                known.addresses = Some(fit.collect());
                (known.denials, known.failures, known.error) = (0, 0, None);
                (ttl.clamp(SHORTEST, LONGEST), "ok")
            }
            Answer::Denied { ttl } => {
                known.denials += 1;
                (known.failures, known.error) = (0, None);
                let lost = known.addresses.as_ref().is_some_and(|addresses| !addresses.is_empty());
                if !lost || known.denials >= DENIALS {
                    known.addresses = Some(BTreeSet::new());
                }
                (ttl.clamp(SHORTEST, DENIED), "denied")
            }
            Answer::Failed(error) => {
                let wait = self.jitter.back_off(known.failures, BACK_OFF.0, BACK_OFF.1);
                known.failures = known.failures.saturating_add(1);
                known.error = Some(error);
                (wait.max(BACK_OFF.0), "failed")
            }
        };
        // Records that came together are not asked for together for ever, by all relays at once.
        known.due = Some(now + wait.min(self.jitter.around(wait).max(SHORTEST)));
        word
    }

    fn resolved(&self) -> Resolved {
        let mut out = Resolved::default();
        for ((name, _), known) in &self.known {
            if let Some(addresses) = &known.addresses {
                out.names.entry(name.clone()).or_default().extend(addresses);
            }
            if let Some(error) = &known.error {
                let reason = error.clone();
                out.troubled.insert(name.clone(), Trouble { state: "failing", reason });
            }
        }
        // Most names have addresses of one kind: the other one is denied for good, and that is no trouble.
        let both_denied = |name: &String| {
            let of = |record| self.known.get(&(name.clone(), record));
            [Record::A, Record::Aaaa].into_iter().all(|record| of(record).is_some_and(|k| k.denials > 0))
        };
        let denied: Vec<String> =
            self.known.keys().map(|(name, _)| name).filter(|name| both_denied(name)).cloned().collect();
        for name in denied {
            let reason = "its server says that it has no address".to_owned();
            out.troubled.entry(name).or_insert(Trouble { state: "denied", reason });
        }
        out
    }
}

/// Where a resolver tells what it does.
pub struct Outlet {
    /// The fleet, for metrics and log lines.
    pub fleet: String,
    /// Where metrics go.
    pub metrics: Arc<Metrics>,
    /// What is known, whenever that changes.
    pub out: watch::Sender<Resolved>,
}

/// Resolves names when they change and when their records run out, until it is told to stop.
pub async fn resolve(
    mut names: watch::Receiver<BTreeSet<String>>,
    asker: Arc<dyn Ask>,
    outlet: Outlet,
    jitter: Jitter,
    stop: CancellationToken,
) {
    let mut book = Book::new(jitter);
    loop {
        book.want(&names.borrow_and_update());
        round(&mut book, &asker, &outlet).await;
        outlet.show(&book);
        let now = Instant::now();
        let wait = async {
            match book.next(now) {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = names.changed() => if changed.is_err() { return },
            () = wait => {}
        }
    }
}

/// Asks for everything that is due. Each answer counts when it is there: a slow server holds up its own names only.
async fn round(book: &mut Book, asker: &Arc<dyn Ask>, outlet: &Outlet) {
    let mut waiting = book.due(Instant::now()).into_iter();
    let mut running = JoinSet::new();
    loop {
        for key in waiting.by_ref().take(AT_ONCE - running.len()) {
            let asker = Arc::clone(asker);
            running.spawn(async move {
                let answer = tokio::time::timeout(DEADLINE, asker.ask(&key.0, key.1)).await;
                let silent = |_| Answer::Failed("no answer in time".to_owned());
                (key, answer.unwrap_or_else(silent))
            });
        }
        let Some(done) = running.join_next().await else { return };
        let Ok((key, answer)) = done else { continue };
        let result = book.take(&key, answer, Instant::now());
        let labels = [("fleet", outlet.fleet.as_str()), ("result", result)];
        outlet.metrics.count("moorgate_relay_dns_answers", &labels);
        if running.is_empty() || result == "ok" {
            outlet.show(book);
        }
    }
}

impl Outlet {
    /// Tells what is known now, if that is news.
    #[expect(clippy::cast_precision_loss, reason = "metrics are floating point")]
    fn show(&self, book: &Book) {
        let resolved = book.resolved();
        let before = self.out.borrow().clone();
        if before == resolved {
            return;
        }
        for (name, trouble) in &resolved.troubled {
            if before.troubled.get(name).map(|trouble| trouble.state) != Some(trouble.state) {
                let (state, reason) = (trouble.state, &trouble.reason);
                tracing::warn!(fleet = self.fleet, name, state, reason, "a name does not resolve");
            }
        }
        for name in before.troubled.keys().filter(|name| !resolved.troubled.contains_key(*name)) {
            tracing::info!(fleet = self.fleet, name, "the name resolves again, or is no longer asked for");
        }
        for state in ["denied", "failing"] {
            let count = resolved.troubled.values().filter(|trouble| trouble.state == state).count();
            let labels = [("fleet", self.fleet.as_str()), ("state", state)];
            self.metrics.set("moorgate_relay_dns_troubled", &labels, count as f64);
        }
        self.out.send_replace(resolved);
    }
}

#[cfg(test)]
mod tests;
