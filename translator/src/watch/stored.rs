//! What others have published: the newest release of each fleet, and the status that was signed beside it. Only read, never
//! compiled: `--status-only` writes nothing that is not in here or in relays' reports.

use super::release::{Released, Target};
use super::turn::Turn;
use crate::history::{Book, Records};
use futures::StreamExt as _;
use moorgate_snapshot::entry::Position;
use moorgate_snapshot::reader::{ReadError, Reader};
use moorgate_snapshot::{Digest, FleetName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The time between looks at the channels.
const LOOK: Duration = Duration::from_secs(3);
/// How often the log is asked for an entry that the head does not show.
const PROBE: Duration = Duration::from_mins(1);
/// Channels looked at at one time.
const PARALLEL: usize = 8;

/// What is published of a fleet.
#[derive(Debug)]
pub(super) struct Published {
    /// The snapshot that is served.
    pub(super) snapshot: Digest,
    /// The release that it belongs to.
    sequence: u64,
    /// What it was made from, as its release says.
    pub(super) revision: String,
    /// All objects that it was made of, with their status.
    pub(super) records: Records,
}

impl Published {
    /// The release that the snapshot belongs to.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// One that no store has.
    #[cfg(test)]
    pub(super) fn unstored(snapshot: Digest, revision: &str, records: Records) -> Self {
        Self { snapshot, sequence: 1, revision: revision.to_owned(), records }
    }
}

/// What is published, by fleet. A fleet that was retired, or of which nothing was published yet, is not in it.
pub(super) type Results = BTreeMap<FleetName, Arc<Published>>;

/// One channel.
struct Channel {
    reader: Reader,
    book: Book,
    etag: Option<String>,
    seen: Option<Position>,
    probed: Option<Instant>,
    published: Option<Arc<Published>>,
    /// What went wrong last, so that it is said once.
    failed: String,
}

impl Channel {
    fn new(reader: Reader) -> Self {
        let book = Book::new(reader.clone());
        Self { reader, book, etag: None, seen: None, probed: None, published: None, failed: String::new() }
    }

    /// Looks whether there is something new. What cannot be read changes nothing.
    async fn look(&mut self) {
        match self.read().await {
            Ok(()) => self.failed.clear(),
            Err(error) => {
                let error = error.to_string();
                if self.failed != error {
                    tracing::warn!(fleet = %self.reader.store().fleet(), error, "what is published cannot be read");
                }
                self.failed = error;
            }
        }
    }

    async fn read(&mut self) -> Result<(), ReadError> {
        let probe = self.probed.is_none_or(|probed| probed.elapsed() >= PROBE);
        let polled = self.reader.poll(self.seen, self.etag.as_deref(), probe).await?;
        if let Some(entry) = polled.tail.and_then(|tail| tail.entry)
            && self.seen != Some(entry.position())
        {
            let state = &entry.entry.state;
            let serving = state.serving().filter(|_| !state.retired);
            self.published = match serving {
                Some(release) => self.book.records(release).await?.map(|records| {
                    let source = release.source.as_ref();
                    let revision = source.map(|source| source.revision.clone()).unwrap_or_default();
                    let (snapshot, sequence) = (release.snapshot, release.sequence);
                    Arc::new(Published { snapshot, sequence, revision, records })
                }),
                None => None,
            };
            // The neighbours of old releases are read again if need be.
            self.book = Book::new(self.reader.clone());
            self.seen = Some(entry.position());
        }
        // Only now: what could not be read whole is looked at again.
        self.etag = polled.etag;
        if probe {
            self.probed = Some(Instant::now());
        }
        Ok(())
    }
}

/// Looks at the channels of all fleets of ours as long as the loop lives.
pub(super) async fn run(
    target: Arc<Target>,
    mut turns: watch::Receiver<Option<Arc<Turn>>>,
    released: watch::Sender<Released>,
    out: watch::Sender<Results>,
) {
    let mut channels: BTreeMap<FleetName, Channel> = BTreeMap::new();
    loop {
        let fleets: Vec<FleetName> = {
            let turn = turns.borrow_and_update();
            let compilation = turn.as_ref().map(|turn| &turn.compilation);
            let fleets = compilation.map(|all| all.fleets.keys().chain(&all.refused).cloned().collect());
            fleets.unwrap_or_default()
        };
        channels.retain(|fleet, _| fleets.contains(fleet));
        for fleet in fleets {
            channels.entry(fleet).or_insert_with_key(|fleet| Channel::new(target.reader(fleet)));
        }
        let looks = futures::stream::iter(channels.values_mut()).map(Channel::look);
        looks.buffer_unordered(PARALLEL).collect::<Vec<()>>().await;
        let results: Results = channels
            .iter()
            .filter_map(|(fleet, channel)| Some((fleet.clone(), channel.published.clone()?)))
            .collect();
        tell(&results, &released, &out);
        let next = Instant::now() + LOOK;
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            // A Gateway that is new is looked up at once.
            changed = turns.changed() => if changed.is_err() { return },
        }
    }
}

fn tell(results: &Results, released: &watch::Sender<Released>, out: &watch::Sender<Results>) {
    let same = |known: &Results| {
        known.len() == results.len()
            && known.iter().zip(results).all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(a.1, b.1))
    };
    if same(&out.borrow()) {
        return;
    }
    let of = |published: &Arc<Published>| BTreeMap::from([(published.snapshot, published.sequence)]);
    released.send_replace(results.iter().map(|(fleet, one)| (fleet.clone(), of(one))).collect());
    out.send_replace(results.clone());
}
