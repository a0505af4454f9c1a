//! The loop: changes in, one pure compile over all objects, and its result out.
//!
//! Changes that come close together go into one compile. Nothing is fetched while it runs: what Gateways name was read
//! before. A write of status changes no text, and so sets off nothing.

use super::feed::{Change, KindName};
use super::meter::{COMPILED, COMPILES, DIAGNOSTICS, OBJECTS};
use super::{Shared, lock};
use crate::compile::{self, Compilation, compile};
use crate::source::Sources;
use crate::source::cluster::{self, Live, Stand, references};
use moorgate_model::{ObjectRef, Severity};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Quiet for so long, and a compile begins.
const QUIET: Duration = Duration::from_millis(40);
/// It begins at the latest so long after the first change.
const PATIENCE: Duration = Duration::from_millis(400);
/// The least time between two compiles; they take at most about half of a core.
const CALM: Duration = Duration::from_millis(100);

/// UID and generation of objects.
pub type Compiled = BTreeMap<ObjectRef, (Arc<str>, Option<i64>)>;

/// What a compile gave.
#[derive(Debug)]
pub struct Turn {
    /// Fleets, diagnostics and statuses.
    pub compilation: Compilation,
    /// The state of the cluster that it is of.
    pub stand: Stand,
    /// UID and generation of each object as it was compiled.
    pub compiled: Compiled,
    /// The texts that were compiled.
    pub sources: Sources,
}

/// The loop's own state.
pub(super) struct Turns {
    pub(super) shared: Arc<Shared>,
    pub(super) client: kube::Client,
    pub(super) url: String,
    pub(super) options: compile::Options,
    /// What Gateways refer to: whoever reads these again and again is told here.
    pub(super) wanted: watch::Sender<BTreeSet<ObjectRef>>,
    pub(super) out: watch::Sender<Option<Arc<Turn>>>,
    /// Objects that changed in any way, for who writes status.
    pub(super) touched: mpsc::UnboundedSender<ObjectRef>,
    /// Kinds that have not been listed yet; none before it is known which there are.
    unsynced: Option<BTreeSet<KindName>>,
    listed: BTreeSet<KindName>,
    /// Names that were read, whether anything is there or not.
    read: BTreeSet<ObjectRef>,
    /// First and last change since the last compile began.
    dirty: Option<(Instant, Instant)>,
    not_before: Instant,
}

impl Turns {
    pub(super) fn new(
        shared: Arc<Shared>,
        (client, url): (kube::Client, String),
        options: compile::Options,
        wanted: watch::Sender<BTreeSet<ObjectRef>>,
        out: watch::Sender<Option<Arc<Turn>>>,
        touched: mpsc::UnboundedSender<ObjectRef>,
    ) -> Self {
        Self {
            shared,
            client,
            url,
            options,
            wanted,
            out,
            touched,
            unsynced: None,
            listed: BTreeSet::new(),
            read: BTreeSet::new(),
            dirty: None,
            not_before: Instant::now(),
        }
    }

    /// Compiles as long as changes come.
    pub(super) async fn run(mut self, mut changes: mpsc::Receiver<Change>) {
        loop {
            let due = self.due();
            tokio::select! {
                biased;
                () = sleep_until(due), if due.is_some() => self.compile().await,
                change = changes.recv() => match change {
                    Some(change) => self.take(change),
                    None => return,
                },
            }
        }
    }

    /// When the next compile begins; none if there is nothing to compile yet.
    fn due(&self) -> Option<Instant> {
        let (first, last) = self.dirty?;
        let synced = self.unsynced.as_ref().is_some_and(BTreeSet::is_empty);
        synced.then(|| (last + QUIET).min(first + PATIENCE).max(self.not_before))
    }

    fn take(&mut self, change: Change) {
        let mut changed = false;
        match change {
            Change::Kinds(kinds) => {
                if self.unsynced.is_none() {
                    let listed = &self.listed;
                    self.unsynced = Some(kinds.into_iter().filter(|kind| !listed.contains(kind)).collect());
                    changed = true;
                }
            }
            Change::Listed(kind, objects) => {
                changed = self.replace(&kind, objects);
                if let Some(unsynced) = &mut self.unsynced {
                    changed |= unsynced.remove(&kind);
                }
                self.shared.has_listed(&kind);
                self.listed.insert(kind);
            }
            Change::Lost(kind) => changed = self.replace(&kind, Vec::new()),
            Change::Applied(live) => changed = self.apply(*live),
            Change::Deleted(reference, version) => {
                let mut objects = lock(&self.shared.objects);
                objects.seen(Some(&version));
                changed = objects.remove(&reference).is_some();
                drop(objects);
                self.touch(reference);
            }
            Change::Named(read) => {
                for (reference, live) in read {
                    changed |= self.note(reference, live);
                }
            }
        }
        if changed {
            let now = Instant::now();
            self.dirty = Some((self.dirty.map_or(now, |(first, _)| first), now));
        }
    }

    fn touch(&self, reference: ObjectRef) {
        if reference.group.is_empty() && &*reference.kind == "Service" {
            self.shared.services.notify_one();
        }
        // Nobody who writes status is there if this replica was told not to.
        let _ = self.touched.send(reference);
    }

    /// All objects of a kind, and no others. True if what is compiled changed.
    fn replace(&mut self, (group, kind): &KindName, objects: Vec<Live>) -> bool {
        let there: BTreeSet<ObjectRef> = objects.iter().map(|live| live.reference.clone()).collect();
        let known: Vec<ObjectRef> = {
            let objects = lock(&self.shared.objects);
            objects.of_kind(group, kind).map(|live| live.reference.clone()).collect()
        };
        let mut changed = false;
        for gone in known.into_iter().filter(|reference| !there.contains(reference)) {
            changed |= lock(&self.shared.objects).remove(&gone).is_some();
            self.touch(gone);
        }
        for live in objects {
            changed |= self.apply(live);
        }
        changed
    }

    /// One object as it is now. True if what is compiled changed.
    fn apply(&mut self, live: Live) -> bool {
        let reference = live.reference.clone();
        let taken = self.shared.take(live);
        if taken.is_some() {
            self.touch(reference);
        }
        taken == Some(true)
    }

    fn note(&mut self, reference: ObjectRef, live: Option<Live>) -> bool {
        self.read.insert(reference.clone());
        if let Some(live) = live {
            return self.apply(live);
        }
        let gone = lock(&self.shared.objects).remove(&reference).is_some();
        self.touch(reference);
        gone
    }

    async fn compile(&mut self) {
        let begin = Instant::now();
        let names = {
            let objects = lock(&self.shared.objects);
            references(&objects, &self.options.attach.controller_name)
        };
        if let Err(error) = self.read_unknown(&names).await {
            // Without them a listener would look broken that is not.
            tracing::warn!(%error, "what Gateways refer to cannot be read: the compile waits");
            self.not_before = Instant::now() + Duration::from_secs(1);
            return;
        }
        self.dirty = None;
        let (sources, compiled): (Sources, Compiled) = {
            let mut objects = lock(&self.shared.objects);
            // What nobody refers to any more is forgotten, Secrets first of all.
            let unnamed: Vec<ObjectRef> =
                self.read.iter().filter(|name| !names.contains(name)).cloned().collect();
            for name in unnamed {
                objects.remove(&name);
                self.read.remove(&name);
            }
            let identity = |live: &Arc<Live>| (live.reference.clone(), (live.uid.clone(), live.generation));
            (cluster::sources(&objects, &self.url), objects.iter().map(identity).collect())
        };
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted != names;
            *wanted = names;
            changed
        });
        let options = self.options.clone();
        let task = tokio::task::spawn_blocking(move || {
            let compilation = compile(&sources.files, &options);
            (sources, compilation)
        });
        let Ok((mut sources, compilation)) = task.await else {
            tracing::error!("the compile broke off; the fleets stay as they are");
            return;
        };
        let took = begin.elapsed();
        self.not_before = Instant::now() + CALM.max(took);
        let Some(stand) = sources.cluster.take() else { return };
        self.measure(took, &compiled, &compilation);
        tracing::debug!(
            fleets = compilation.fleets.len(),
            objects = sources.files.len(),
            milliseconds = took.as_millis(),
            "compiled"
        );
        self.out.send_replace(Some(Arc::new(Turn { compilation, stand, compiled, sources })));
    }

    fn measure(&self, took: Duration, compiled: &Compiled, compilation: &Compilation) {
        let meter = &self.shared.meter;
        meter.took(COMPILES, took.as_secs_f64());
        meter.happened(COMPILED);
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for reference in compiled.keys() {
            *kinds.entry(&reference.kind).or_default() += 1;
        }
        meter.replace(OBJECTS, kinds.into_iter().map(|(kind, count)| (vec![("kind", kind)], count)));
        let errors = compilation.diagnostics.iter().filter(|found| found.severity == Severity::Error).count();
        let warnings = compilation.diagnostics.len() - errors;
        let severities = [("error", errors), ("warning", warnings)];
        meter.replace(DIAGNOSTICS, severities.map(|(severity, count)| (vec![("severity", severity)], count)));
    }

    /// Reads what is named and was never read.
    async fn read_unknown(&mut self, names: &BTreeSet<ObjectRef>) -> Result<(), cluster::ClusterError> {
        let unknown: BTreeSet<ObjectRef> = names.difference(&self.read).cloned().collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let found = cluster::read_named(&self.client, &unknown).await?;
        for (name, live) in unknown.into_iter().zip(found) {
            self.note(name, live);
        }
        Ok(())
    }
}

pub(super) async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Reads Secrets and ConfigMaps again from time to time: what is missing, and ConfigMaps, more often than Secrets, whose
/// rotation is the relay's matter.
pub(super) async fn reread(
    client: kube::Client,
    shared: Arc<Shared>,
    mut wanted: watch::Receiver<BTreeSet<ObjectRef>>,
    changes: mpsc::Sender<Change>,
) {
    /// The time between looks.
    const LOOK: Duration = Duration::from_secs(2);
    /// Every so many looks all are read.
    const ALL: u32 = 5;
    let mut round = 0_u32;
    loop {
        tokio::time::sleep(LOOK).await;
        round = round.wrapping_add(1);
        let names: BTreeSet<ObjectRef> = {
            let objects = lock(&shared.objects);
            let names = wanted.borrow_and_update();
            let often = |name: &&ObjectRef| &*name.kind != "Secret" || objects.get(name).is_none();
            names.iter().filter(|name| round.is_multiple_of(ALL) || often(name)).cloned().collect()
        };
        if names.is_empty() {
            if changes.is_closed() {
                return;
            }
            continue;
        }
        match cluster::read_named(&client, &names).await {
            Ok(found) => {
                let found = names.into_iter().zip(found).collect();
                if changes.send(Change::Named(found)).await.is_err() {
                    return;
                }
            }
            // What was read stays: the watches say already that the API server cannot be reached.
            Err(error) => tracing::debug!(%error, "Secrets and ConfigMaps stay as they were read"),
        }
    }
}
