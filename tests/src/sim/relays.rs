//! Relays: the real fleet with its puller and disk cache, started, killed at any request, and started again, and the
//! Envoy beside each, which takes what it is given unless it is poisoned.

use super::chance::Chance;
use super::pool::{self, pool};
use super::weather::Sky;
use super::world::{Place, World};
use crate::fault_store::FaultStore;
use moorgate_relay::bind::binder::Sources;
use moorgate_relay::clock::Clock;
use moorgate_relay::fleet::{Fleet, FleetConfig, Life};
use moorgate_relay::jitter::Jitter;
use moorgate_relay::metrics::Metrics;
use moorgate_relay::serve::hub::Session;
use moorgate_relay::serve::proto::Node;
use moorgate_relay::serve::stream::{Event, Protocol, Settings};
use moorgate_relay::serve::types;
use moorgate_relay::serve::view::View;
use moorgate_snapshot::{Channel, Digest, KeyPair, RelayIdentity};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The time between polls.
pub(super) const POLL: Duration = Duration::from_secs(5);
/// How often a relay's status is looked at. Nobody waits for its changes beside the relay's own reports: of several that
/// wait, tokio wakes one or the other first, by a chance that no seed decides.
const LOOK: Duration = Duration::from_millis(100);
/// A year, in seconds.
const YEAR: i64 = 365 * 24 * 3600;

/// What a relay of a run has.
pub(super) struct Kind {
    /// Its name.
    pub name: &'static str,
    /// The channel that it follows.
    pub channel: Channel,
    /// A disk.
    pub cached: bool,
    /// A second store to fall over to.
    pub mirrored: bool,
    /// A key for its reports, which may be one that nobody trusts.
    pub report_key: Option<Arc<KeyPair>>,
}

/// One relay of a run.
pub(super) struct RelayActor {
    world: Arc<World>,
    name: String,
    channel: Channel,
    cache: Option<PathBuf>,
    mirrored: bool,
    report_key: Option<Arc<KeyPair>>,
    chance: Chance,
    /// How wrong its clock is, in seconds.
    off: Arc<AtomicI64>,
    started: u64,
}

/// A relay that runs.
pub struct Running {
    /// Its fleet.
    pub fleet: Fleet,
    /// Its Envoy.
    pub envoy: Session,
    /// Its metrics.
    pub metrics: Arc<Metrics>,
    /// Its client of the store.
    pub client: Arc<FaultStore>,
    /// Its client of the mirror.
    mirror: Option<Arc<FaultStore>>,
    life: Life,
    ended: tokio::sync::mpsc::Receiver<()>,
}

/// What a relay needs to start.
pub struct Setup {
    /// Its name.
    pub name: String,
    /// The channel that it follows.
    pub channel: Channel,
    /// Its cache.
    pub cache: Option<PathBuf>,
    /// The time of day.
    pub clock: Clock,
    /// Spreads its polls.
    pub seed: u64,
    /// Where it pulls from when the store fails.
    pub mirror: Option<Arc<FaultStore>>,
    /// What signs its reports.
    pub report_key: Option<Arc<KeyPair>>,
}

impl Setup {
    /// A relay of the stable channel whose clock is right.
    pub fn new(world: &Arc<World>, name: &str, cached: bool) -> Self {
        let clock = Arc::downgrade(world);
        Self {
            name: name.to_owned(),
            channel: Channel::stable(),
            cache: cached.then(|| world.folder.join(name)),
            clock: Clock::new(move || clock.upgrade().map_or(0, |world| world.unix())),
            seed: 1,
            mirror: None,
            report_key: None,
        }
    }
}

/// Who the relay of this name is.
pub fn identity(name: &str) -> RelayIdentity {
    #[allow(clippy::expect_used, reason = "the names are written in the tests")]
    let name = name.parse().expect("a name of a relay");
    #[allow(clippy::expect_used, reason = "no labels are never too many")]
    RelayIdentity::new(name, std::collections::BTreeMap::new()).expect("a relay")
}

impl Running {
    /// Starts the real fleet over this client.
    ///
    /// # Panics
    /// Somebody else has the cache.
    pub fn start(world: &World, client: &Arc<FaultStore>, setup: Setup) -> Self {
        let config = FleetConfig {
            fleet: World::fleet(),
            channel: setup.channel,
            identity: identity(&setup.name),
            report_key: setup.report_key.map(|key| tokio::sync::watch::channel(key).1),
            envoy_admins: Vec::new(),
            stores: [client].into_iter().chain(&setup.mirror).map(FaultStore::store).collect(),
            seed: None,
            trust: world.keys.anchor(),
            cache: setup.cache,
            pin_file: None,
            sources: Sources::default(),
            poll_interval: POLL,
            settings: Settings::default(),
            clock: setup.clock,
            jitter: Jitter::seeded(setup.seed),
        };
        let (life, ended) = Life::new();
        let metrics = Arc::new(Metrics::default());
        #[allow(clippy::expect_used, reason = "nobody else has this cache")]
        let fleet = Fleet::start(config, Arc::clone(&metrics), &life).expect("a fleet");
        let envoy = fleet.hub.connect("simulated".into(), Protocol::Delta);
        envoy.meet(&Node { id: setup.name, ..Node::default() });
        Self { fleet, envoy, metrics, client: Arc::clone(client), mirror: setup.mirror, life, ended }
    }

    /// The number of the snapshot that is served.
    pub fn served(&self) -> Option<usize> {
        pool::number(&self.fleet.hub.view()?.config.id)
    }

    /// The newest entry that it knows.
    pub fn sequence(&self) -> u64 {
        self.fleet.status.borrow().sequence
    }

    /// How often something was refused for this reason.
    pub fn refusals(&self, reason: &str) -> f64 {
        let labels = [("fleet", "shop/edge"), ("reason", reason)];
        self.metrics.get("moorgate_relay_refusals", &labels).unwrap_or_default()
    }

    /// Ends at once, as a process does that is killed: tasks are dropped where they wait.
    pub async fn stop(mut self) {
        self.life.stop.cancel();
        drop(self.life);
        let _ = self.ended.recv().await;
    }
}

/// Resolves when a request to one of these stores says that its caller died.
async fn crashed(client: &FaultStore, mirror: Option<&FaultStore>) {
    let mirror = async {
        match mirror {
            Some(mirror) => mirror.crashed().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = client.crashed() => {}
        () = mirror => {}
    }
}

/// Why one life of a relay ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Crashed,
    Stopped,
    Over,
}

impl RelayActor {
    /// A relay of this channel; without a cache it forgets everything when it ends.
    pub(super) fn new(world: &Arc<World>, of: Kind, chance: Chance) -> Self {
        Self {
            cache: of.cached.then(|| world.folder.join(of.name)),
            world: Arc::clone(world),
            name: of.name.to_owned(),
            channel: of.channel,
            mirrored: of.mirrored,
            report_key: of.report_key,
            chance,
            off: Arc::default(),
            started: 0,
        }
    }

    /// Lives, dies and comes back until the run is over; then it must serve what the channel says.
    pub(super) async fn run(mut self, over: tokio_util::sync::CancellationToken) {
        loop {
            let mut running = self.start();
            let end = self.live(&mut running, &over).await;
            if end == End::Over {
                let status = running.fleet.status.borrow().clone();
                let served = running.fleet.hub.view().map(|view| view.config.id);
                if self.off.load(Ordering::SeqCst) == 0 && self.world.renewed.load(Ordering::SeqCst) {
                    self.world.judge(|monitor| monitor.fresh(&self.name, &self.channel, status.expired));
                }
                self.world.say(&self.name, format!("at {} with {served:?}", status.sequence));
                let (name, channel) = (self.name.clone(), self.channel.clone());
                self.world.judge(|monitor| monitor.converged(&name, &channel, status.sequence, served));
                running.stop().await;
                return;
            }
            self.world.say(&self.name, format!("{end:?}"));
            self.world.count(&format!("relay {end:?}"));
            running.stop().await;
            self.pause(&over).await;
        }
    }

    fn start(&mut self) -> Running {
        self.started += 1;
        if self.cache.is_none() {
            let name = self.name.clone();
            self.world.judge(|monitor| monitor.forgets(&name));
        }
        let sky = if self.world.bucket.is_calm() { Sky::Clear } else { Sky::roll(&mut self.chance) };
        let client = self.world.client(&self.name, Place::First, sky, self.chance.fork());
        let mirror_sky = if sky == Sky::Storm { Sky::Rain } else { sky };
        let mirror = self.world.client(&self.name, Place::Mirror, mirror_sky, self.chance.fork());
        let (world, off) = (Arc::downgrade(&self.world), Arc::clone(&self.off));
        let now = move || world.upgrade().map_or(0, |world| world.unix()) + off.load(Ordering::SeqCst);
        let setup = Setup {
            name: self.name.clone(),
            channel: self.channel.clone(),
            cache: self.cache.clone(),
            clock: Clock::new(now),
            seed: self.chance.number(),
            mirror: self.mirrored.then_some(mirror),
            report_key: self.report_key.clone(),
        };
        let running = Running::start(&self.world, &client, setup);
        self.world.say(&self.name, format!("start {} under {sky:?}", self.started));
        running
    }

    /// One life: looks at every change of what is served and known, and has the Envoy answer.
    async fn live(&mut self, running: &mut Running, over: &tokio_util::sync::CancellationToken) -> End {
        let mut views = running.fleet.hub.views();
        let (client, mirror) = (Arc::clone(&running.client), running.mirror.clone());
        let until = Instant::now() + self.chance.millis(20_000..400_000);
        let mut answer: Option<(Instant, Arc<View>)> = None;
        let mut look = Instant::now() + LOOK;
        let mut last = None;
        loop {
            let calm = self.world.bucket.is_calm();
            let answer_at = answer.as_ref().map(|(at, _)| *at);
            tokio::select! {
                biased;
                () = over.cancelled() => return End::Over,
                () = crashed(&client, mirror.as_deref()) => return End::Crashed,
                () = tokio::time::sleep_until(look) => {
                    look = Instant::now() + LOOK;
                    if !running.fleet.status.has_changed().unwrap_or(false) {
                        continue;
                    }
                    let sequence = running.fleet.status.borrow_and_update().sequence;
                    let (name, channel) = (&self.name, &self.channel);
                    self.world.judge(|monitor| monitor.shows(name, channel, sequence));
                    if last != Some(sequence) {
                        self.world.say(name, format!("knows entry {sequence}"));
                        last = Some(sequence);
                    }
                }
                _ = views.changed() => {
                    let Some(view) = views.borrow_and_update().clone() else { continue };
                    self.world.judge(|monitor| monitor.serves(&self.name, &self.channel, &view));
                    self.world.say(&self.name, format!("serves {}", words(&view.config.id)));
                    answer = Some((Instant::now() + self.chance.millis(10..3_000), view));
                }
                () = sleep_until(answer_at), if answer_at.is_some() => {
                    if let Some((_, view)) = answer.take() {
                        self.answer(running, &view);
                    }
                }
                () = tokio::time::sleep_until(until), if !calm && Instant::now() < until => return End::Stopped,
            }
            if !calm && self.chance.permille(20) {
                self.turn_clock();
            }
        }
    }

    /// Envoy takes what it was sent, or refuses what is poisoned.
    fn answer(&self, running: &Running, view: &View) {
        let snapshot = view.config.id;
        let poisoned = pool::number(&snapshot).is_some_and(|number| pool()[number].poisoned);
        let type_url = types::CLUSTER.into();
        let event = if poisoned {
            self.world.count("nack");
            Event::Refused { type_url, snapshot, text: "poisoned".to_owned(), names: Vec::new() }
        } else {
            Event::Synced { snapshot }
        };
        self.world.say(
            &self.name,
            format!("Envoy {} {}", if poisoned { "refuses" } else { "takes" }, words(&snapshot)),
        );
        running.envoy.report(event);
    }

    /// Clocks jump: a year ahead, a year back, and right again.
    fn turn_clock(&mut self) {
        let off = self.chance.weighted(&[(0, 2), (YEAR, 1), (-YEAR, 1), (-3, 1)]).unwrap_or_default();
        self.off.store(off, Ordering::SeqCst);
        self.world.count("clock jump");
        self.world.say(&self.name, format!("clock is {off} s off"));
    }

    /// The time between two lives, in which a disk may rot.
    async fn pause(&mut self, over: &tokio_util::sync::CancellationToken) {
        if self.chance.permille(150)
            && let Some(cache) = &self.cache
            && let Some(name) =
                damage(&cache.join(World::fleet().socket_name()).join("objects"), &mut self.chance)
        {
            self.world.count("cache damage");
            self.world.say(&self.name, format!("disk damages {name}"));
        }
        let pause = self.chance.millis(0..15_000);
        let world = Arc::clone(&self.world);
        tokio::select! {
            biased;
            () = over.cancelled() => {}
            () = world.bucket.calm() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// A snapshot's number in the pool.
fn words(id: &Digest) -> String {
    pool::number(id).map_or_else(|| id.short(), |number| format!("snapshot {number}"))
}

/// Changes one bit of one file, or cuts it; its name.
fn damage(folder: &Path, chance: &mut Chance) -> Option<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    let name = chance.pick(&names)?.clone();
    let path = folder.join(&name);
    let mut bytes = std::fs::read(&path).ok()?;
    if chance.permille(300) {
        bytes.truncate(bytes.len() / 2);
    } else {
        let at = usize::try_from(chance.below(bytes.len() as u64)).ok()?;
        *bytes.get_mut(at)? ^= 4;
    }
    std::fs::write(path, bytes).ok()?;
    Some(name)
}
