//! Pulls releases: polls the channel, verifies entries, fetches the pages that are missing. The same work in calm and in
//! failure; whatever goes wrong, what is served stays.

use crate::TRACE;
use crate::jitter::Jitter;
use crate::metrics::Metrics;
use crate::watch::Folders;
use bytes::Bytes;
use moorgate_snapshot::store::FleetStore;
use moorgate_snapshot::trust::chain::ChainError;
use moorgate_snapshot::{
    Anchor, Because, ChannelState, Digest, Effective, Page, Position, ReadError, Reader, RelayIdentity,
    Release, Snapshot, Tail, VerifiedEntry, layout,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// A poll must be done within this time.
const POLL_DEADLINE: Duration = Duration::from_secs(30);
/// A snapshot must be there within this time.
const FETCH_DEADLINE: Duration = Duration::from_mins(5);
/// How often the log is asked for an entry that the head does not show.
const PROBE: Duration = Duration::from_mins(1);
/// The longest wait after failures.
const BACK_OFF: Duration = Duration::from_mins(1);
/// A local store that tells of changes without end is looked at so often.
const NOTICED: Duration = Duration::from_millis(2);

/// Pages that were verified before.
pub type Held = Arc<dyn Fn(&Digest) -> Option<Page> + Send + Sync>;

/// Uncompressed pages that need not be fetched, to be verified.
pub type Known = Arc<dyn Fn(&Digest) -> Option<Bytes> + Send + Sync>;

/// Snapshots that need not be fetched, whole.
pub type Kept = Arc<dyn Fn(Digest) -> Option<Snapshot> + Send + Sync>;

/// What pulling has to tell.
#[derive(Debug)]
pub enum Pulled {
    /// The store answered.
    Answered,
    /// There is a newer entry. It is verified; its snapshot is on the way.
    Entry(Box<VerifiedEntry>),
    /// The seed holds a newer entry than what is remembered. It is verified, and a snapshot of it follows.
    Seed(Box<VerifiedEntry>),
    /// A snapshot is there.
    Snapshot {
        /// The release that it belongs to.
        release: Box<Release>,
        /// The snapshot, whole and verified.
        snapshot: Arc<Snapshot>,
    },
    /// The chain of trust goes on: to judge by, and to write down.
    Trust(Box<Anchor>),
    /// An entry was said to be still the newest.
    Renewed {
        /// The entry.
        entry: Position,
        /// Until when that holds, in seconds since 1970.
        expires: i64,
    },
    /// Something was refused or failed; a stable word, and a sentence.
    Failed {
        /// The word.
        label: &'static str,
        /// The sentence.
        message: String,
    },
}

/// What a puller is asked to do.
#[derive(Debug)]
pub enum Request {
    /// Poll now.
    Now,
    /// Fetch the snapshot of another release of the newest entry.
    Fetch(Box<Release>),
    /// Judge by other keys.
    Trust(Box<Anchor>),
}

/// Pulls one channel.
pub struct Puller {
    /// The same channel in each store; a later one is asked when an earlier one fails.
    pub readers: Vec<Reader>,
    /// What came with the machine, if anything: looked at once, before the first poll.
    pub seed: Option<Reader>,
    /// Who this relay is: it takes a candidate alone.
    pub identity: RelayIdentity,
    /// Whom the readers trust, and where that may change.
    pub anchor: Anchor,
    /// The time between polls.
    pub interval: Duration,
    /// The newest entry that was verified before.
    pub remembered: Option<Position>,
    /// Pages that are in memory.
    pub held: Held,
    /// Pages that are on disk.
    pub known: Known,
    /// Snapshots that are here.
    pub kept: Kept,
    /// Spreads polls and retries.
    pub jitter: Jitter,
    /// Where metrics go.
    pub metrics: Arc<Metrics>,
    /// Tells what was pulled.
    pub events: mpsc::UnboundedSender<Pulled>,
}

/// What is to be done beside polling.
#[derive(Default)]
struct Progress {
    etag: Option<String>,
    reader: usize,
    probed: Option<Instant>,
    failures: u32,
    seen: Option<Position>,
    /// The newest entry that each store has shown.
    shown: BTreeMap<usize, u64>,
    wanted: VecDeque<Release>,
}

impl Progress {
    /// Asks another store from now on, and its log too.
    fn turn_to(&mut self, reader: usize) {
        self.reader = reader;
        self.etag = None;
        self.probed = None;
    }

    /// Whether a log that ends before what is remembered is that of a mirror which nobody has brought up to date yet, as
    /// opposed to one that was rolled back: a mirror that has not shown the newer entry itself.
    fn lags(&self, remembered: Position) -> bool {
        self.reader > 0 && self.shown.get(&self.reader).is_none_or(|shown| *shown < remembered.sequence)
    }
}

impl Puller {
    /// Polls until it is told to stop.
    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>, stop: CancellationToken) {
        let mut progress = Progress::default();
        let mut folders = Folders::of_whole_files();
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = self.sow() => {}
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(self.first_wait()) => {}
        }
        loop {
            self.watch(&mut folders);
            let looked = Instant::now();
            // A store that does not answer must not hold up the end.
            let wait = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                wait = self.round(&mut progress) => wait,
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                () = folders.changed() => {
                    // The entry is there before the head that shows it.
                    progress.probed = None;
                    tokio::time::sleep_until(looked + NOTICED).await;
                }
                request = requests.recv() => match request {
                    Some(Request::Now) => progress.probed = None,
                    Some(Request::Fetch(release)) => progress.wanted.push_front(*release),
                    Some(Request::Trust(anchor)) => {
                        self.trust(*anchor, &mut progress);
                        progress.probed = None;
                    }
                    None => return,
                },
            }
        }
    }

    /// Takes what came with the machine, if it is newer than what is remembered: verified like all else, and no store is
    /// asked for it.
    async fn sow(&mut self) {
        let Some(seed) = self.seed.take() else { return };
        let seeded = match tokio::time::timeout(POLL_DEADLINE, self.seeded(&seed)).await {
            Ok(seeded) => seeded,
            Err(_) => Err(Failure::deadline(&seed)),
        };
        match seeded {
            Ok(position) => self.remembered = position.or(self.remembered),
            Err(failure) => {
                self.refused(failure.label, format!("the seed is of no use: {}", failure.message));
            }
        }
    }

    async fn seeded(&self, seed: &Reader) -> Result<Option<Position>, Failure> {
        let Some(entry) = seed.newest(None).await?.entry else {
            let message = format!("{} holds no release that verifies", place(seed.store()));
            return Err(Failure { label: "seed", message });
        };
        let position = entry.position();
        if self.remembered.is_some_and(|remembered| position.sequence < remembered.sequence) {
            return Ok(None);
        }
        if let Some(remembered) =
            self.remembered.filter(|one| one.sequence == position.sequence && *one != position)
        {
            let (channel, sequence) = (seed.channel().clone(), remembered.sequence);
            return Err(ReadError::Equivocation { channel, sequence }.into());
        }
        let (mut here, mut failed) = (Vec::new(), None);
        for release in self.wanted(&entry.entry.state, seed) {
            match self.fetch(seed, &release).await {
                Ok(snapshot) => here.push((release, snapshot)),
                Err(failure) => failed = Some(failure),
            }
        }
        // Without a snapshot of it, an entry would only hide what is remembered.
        if let Some(failure) = failed.filter(|_| here.is_empty()) {
            return Err(failure);
        }
        if self.remembered != Some(position) {
            self.tell(Pulled::Seed(Box::new(entry)));
        }
        for (release, snapshot) in here {
            self.tell(Pulled::Snapshot { release: Box::new(release), snapshot });
        }
        Ok(Some(position))
    }

    /// Relays that start together, as after a power cut, do not ask together. A local disk has no such trouble.
    fn first_wait(&self) -> Duration {
        let local = self.readers.iter().all(|reader| reader.store().local_dir().is_some());
        if local { Duration::ZERO } else { self.jitter.share_of(self.interval) }
    }

    /// On a local store a change shows at once: in the folders of heads and of the log.
    fn watch(&self, folders: &mut Folders) {
        for reader in &self.readers {
            if let Some(folder) = reader.store().local_dir() {
                folders.watch(&folder.join("head"), false);
                folders.watch(&folder.join(layout::log(reader.channel())), false);
            }
        }
    }

    /// One poll and what follows from it; how long to wait then.
    async fn round(&mut self, progress: &mut Progress) -> Duration {
        let fleet = self.label();
        let span = tracing::info_span!(target: TRACE, "pull", fleet, outcome = tracing::field::Empty);
        let work = async {
            match self.poll(progress).await {
                Ok(()) => self.fetch_wanted(progress).await,
                Err(failure) => Err(failure),
            }
        };
        let result = work.instrument(span.clone()).await;
        let outcome = match &result {
            Ok(()) => "ok",
            Err(failure) => failure.label,
        };
        span.record("outcome", outcome);
        drop(span);
        self.metrics.count("moorgate_relay_polls", &[("fleet", &fleet), ("result", outcome)]);
        match result {
            Ok(()) => {
                progress.failures = 0;
                self.jitter.around(self.interval)
            }
            Err(failure) => {
                progress.failures += 1;
                // The next store may be a mirror of this one.
                progress.turn_to((progress.reader + 1) % self.readers.len().max(1));
                self.tell(Pulled::Failed { label: failure.label, message: failure.message });
                self.jitter.back_off(progress.failures - 1, self.interval, BACK_OFF.max(self.interval))
            }
        }
    }

    async fn poll(&mut self, progress: &mut Progress) -> Result<(), Failure> {
        let probe = progress.probed.is_none_or(|probed| probed.elapsed() >= PROBE);
        if probe && progress.reader > 0 && progress.failures == 0 {
            // Releases go to the first store: a mirror that is never brought up to date must not hold a relay for ever.
            progress.turn_to(0);
        }
        let stopped = if probe { self.follow(progress).await } else { None };
        let Some(reader) = self.readers.get(progress.reader) else { return Ok(()) };
        let remembered = self.remembered(progress);
        let poll = reader.poll(remembered, progress.etag.as_deref(), probe);
        let polled =
            tokio::time::timeout(POLL_DEADLINE, poll).await.map_err(|_| Failure::deadline(reader))?;
        let polled = match (polled, remembered) {
            (Err(ReadError::RolledBack { .. }), Some(remembered)) if progress.lags(remembered) => {
                return Err(Failure::behind(reader, remembered));
            }
            (polled, _) => polled?,
        };
        if probe {
            progress.probed = Some(Instant::now());
        }
        progress.etag = polled.etag;
        self.tell(Pulled::Answered);
        if let Some(error) = stopped {
            self.refused(error.label(), error.to_string());
        }
        if let Some(tail) = polled.tail {
            self.on_tail(progress, tail, probe);
        }
        match polled.renewal {
            Some(Ok(renewal)) => {
                let (entry, expires) = (renewal.position(), renewal.expires.unix_timestamp());
                self.tell(Pulled::Renewed { entry, expires });
            }
            Some(Err(error)) => self.refused(error.label(), error.to_string()),
            None => {}
        }
        Ok(())
    }

    fn on_tail(&self, progress: &mut Progress, tail: Tail, probe: bool) {
        let mut strangers = false;
        for void in &tail.voids {
            strangers |= void.error.label() == "unknown_key";
            let message =
                format!("entry {} does not verify and is stepped over: {}", void.sequence, void.error);
            self.refused(void.error.label(), message);
        }
        if let Some(error) = &tail.head_error {
            strangers |= error.label() == "unknown_key";
            self.refused(error.label(), format!("the head does not verify: {error}"));
        }
        if strangers && !probe {
            // A key may have come to the chain since it was followed last.
            progress.probed = None;
        }
        let Some(entry) = tail.entry else { return };
        progress.shown.insert(progress.reader, entry.entry.sequence);
        if self.remembered(progress) == Some(entry.position()) && progress.seen.is_some() {
            return;
        }
        progress.seen = Some(entry.position());
        if let Some(reader) = self.readers.get(progress.reader) {
            progress.wanted = self.wanted(&entry.entry.state, reader);
        }
        self.tell(Pulled::Entry(Box::new(entry)));
    }

    /// Follows the chain of trust; returns what stopped it before its end. What is known goes on to count.
    async fn follow(&mut self, progress: &mut Progress) -> Option<ChainError> {
        self.anchor.number()?;
        let store = self.readers.get(progress.reader)?.store().whole().clone();
        // A store that does not answer fails the poll that comes next.
        let followed = tokio::time::timeout(POLL_DEADLINE, self.anchor.follow(&store)).await.ok()?;
        if followed.anchor != self.anchor {
            self.tell(Pulled::Trust(Box::new(followed.anchor.clone())));
            self.trust(followed.anchor, progress);
        }
        followed.error
    }

    fn trust(&mut self, anchor: Anchor, progress: &mut Progress) {
        let trust = anchor.trust();
        let again = |reader: &Reader| {
            Reader::new(reader.store().clone(), Arc::clone(&trust), reader.channel().clone())
        };
        self.readers = self.readers.iter().map(again).collect();
        self.anchor = anchor;
        progress.etag = None;
    }

    /// Fetches what is wanted and not here; what fails stays wanted.
    async fn fetch_wanted(&self, progress: &mut Progress) -> Result<(), Failure> {
        let Some(reader) = self.readers.get(progress.reader) else { return Ok(()) };
        let (mut failed, mut left) = (None, VecDeque::new());
        while let Some(release) = progress.wanted.pop_front() {
            match self.fetch(reader, &release).await {
                Ok(snapshot) => self.tell(Pulled::Snapshot { release: Box::new(release), snapshot }),
                Err(failure) => {
                    left.push_back(release);
                    failed.get_or_insert(failure);
                }
            }
        }
        progress.wanted = left;
        failed.map_or(Ok(()), Err)
    }

    async fn fetch(&self, reader: &Reader, release: &Release) -> Result<Arc<Snapshot>, Failure> {
        if let Some(snapshot) = (self.kept)(release.snapshot) {
            return Ok(Arc::new(snapshot));
        }
        let fetch = reader.fetch_beside(release, &*self.held, &*self.known);
        let fetched = tokio::time::timeout(FETCH_DEADLINE, fetch).await;
        Ok(Arc::new(fetched.map_err(|_| Failure::deadline(reader))??))
    }

    /// What this relay needs of a channel. A candidate comes with what it replaces, so that there is a way back.
    fn wanted(&self, state: &ChannelState, reader: &Reader) -> VecDeque<Release> {
        match state.effective_for(&self.identity, reader.channel()) {
            Effective::Serve { release, because: Because::Wave, fallback } => {
                fallback.into_iter().chain([release]).cloned().collect()
            }
            Effective::Serve { release, .. } => [release.clone()].into(),
            Effective::Empty | Effective::Retired => VecDeque::new(),
        }
    }

    fn remembered(&self, progress: &Progress) -> Option<Position> {
        progress.seen.or(self.remembered)
    }

    fn refused(&self, label: &'static str, message: String) {
        self.tell(Pulled::Failed { label, message });
    }

    fn tell(&self, event: Pulled) {
        let _ = self.events.send(event);
    }

    fn label(&self) -> String {
        self.readers.first().map(|reader| reader.store().fleet().to_string()).unwrap_or_default()
    }
}

/// Reasons that a store explains which is away, denied, behind, or ahead of this relay.
const EXPLAINED: [&str; 8] = [
    "deadline",
    "mirror_behind",
    "missing",
    "seed",
    "store_denied",
    "store_failed",
    "store_url",
    "upgrade_required",
];

/// Whether a refusal for this reason says that somebody meddled, or that something rots; a reason that nobody thought of does.
pub(crate) fn is_integrity(label: &str) -> bool {
    !EXPLAINED.contains(&label)
}

struct Failure {
    label: &'static str,
    message: String,
}

impl Failure {
    fn deadline(reader: &Reader) -> Self {
        Self { label: "deadline", message: format!("{} did not answer in time", place(reader.store())) }
    }

    fn behind(reader: &Reader, remembered: Position) -> Self {
        let sequence = remembered.sequence;
        let message =
            format!("{} has no entry {sequence} yet: a mirror that is behind", place(reader.store()));
        Self { label: "mirror_behind", message }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        use std::error::Error as _;
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        Self { label: error.label(), message }
    }
}

fn place(store: &FleetStore) -> String {
    store.describe("")
}
