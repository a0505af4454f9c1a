//! The fleets that a relay has open: all that it was told of, or those whose Envoys are here at the moment.
//!
//! ```text
//! an Envoy of shop/edge proves who it is ─▶ enter ─▶ open: cache, store, bindings ─▶ hub
//! no Envoy of shop/edge for a time       ─▶ keep  ─▶ close, and forget what was kept
//! ```
//! On demand, a relay holds configuration and secrets of the fleets on its node and of no other. With passes, what a fleet
//! binds is read with the token of its own Envoy: then the relay has no right of its own to any Secret.

use crate::bind::live::Live;
use crate::fleet::{Fleet, FleetError, Life};
use crate::metrics::Metrics;
use crate::serve::hub::Hub;
use moorgate_snapshot::FleetName;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often it is looked for fleets that nobody asks for any more, at most.
const LOOK: Duration = Duration::from_secs(5);

/// A token with which an Envoy lets the relay read for its fleet. Debug output does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Pass {
    /// The token.
    pub token: Arc<str>,
    /// When it runs out, in seconds since 1970.
    pub expires: i64,
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// The pass of a fleet, as it is at the moment: none before its first Envoy came.
pub type Passes = watch::Receiver<Option<Pass>>;

/// Opens a fleet, whose tasks live as long as the given life.
type Opener = Box<dyn Fn(&FleetName, &Life, Passes) -> Result<Fleet, FleetError> + Send + Sync>;

/// How fleets are opened and closed.
pub struct Demand {
    /// Opens one.
    pub open: Opener,
    /// How long after its last Envoy a fleet is closed.
    pub forget_after: Duration,
    /// Whether an Envoy has to bring a pass.
    pub passes: bool,
    /// The root of the disk cache: what a closed fleet has there is removed.
    pub cache: Option<PathBuf>,
    /// What fleets share of a cluster's watches.
    pub live: Option<Live>,
    /// Where open fleets are counted, and closed ones forgotten.
    pub metrics: Arc<Metrics>,
    /// The life of the relay.
    pub life: Life,
}

/// Why a fleet cannot be asked for now.
#[derive(Debug, Error)]
pub enum RosterError {
    /// It cannot be opened.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// It is not served here.
    #[error("the relay does not serve this fleet")]
    Unknown,
    /// The relay stops.
    #[error("the relay stops")]
    Stopped,
}

/// The fleets of a relay; clones share them.
#[derive(Clone)]
pub struct Roster(Arc<Inner>);

enum Inner {
    Fixed(Vec<Fleet>),
    OnDemand(Demand, Mutex<BTreeMap<FleetName, Place>>),
}

enum Place {
    Open(Open),
    /// Until this says that it is closed.
    Closing(watch::Receiver<bool>),
}

struct Open {
    fleet: Fleet,
    stop: CancellationToken,
    gone: watch::Receiver<bool>,
    /// When it was asked for, or had an Envoy, last.
    used: Instant,
    pass: watch::Sender<Option<Pass>>,
}

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.all().iter().map(|fleet| fleet.name().to_string()).collect();
        f.debug_struct("Roster").field("open", &names).finish_non_exhaustive()
    }
}

impl Roster {
    /// These fleets, as long as the relay runs.
    pub fn fixed(fleets: Vec<Fleet>) -> Self {
        Self(Arc::new(Inner::Fixed(fleets)))
    }

    /// Fleets that are opened when somebody asks for them, and closed when nobody does any more.
    pub fn on_demand(demand: Demand) -> Self {
        let life = demand.life.clone();
        let roster = Self(Arc::new(Inner::OnDemand(demand, Mutex::default())));
        life.spawn(roster.clone().keep(life.stop.clone()));
        roster
    }

    /// The fleets that are open, by name.
    pub fn all(&self) -> Vec<Fleet> {
        match &*self.0 {
            Inner::Fixed(fleets) => fleets.clone(),
            Inner::OnDemand(_, places) => lock(places).values().filter_map(Place::fleet).cloned().collect(),
        }
    }

    /// A fleet, if it is open.
    pub fn find(&self, name: &FleetName) -> Option<Fleet> {
        match &*self.0 {
            Inner::Fixed(fleets) => fleets.iter().find(|fleet| fleet.name() == name).cloned(),
            Inner::OnDemand(_, places) => lock(places).get(name).and_then(Place::fleet).cloned(),
        }
    }

    /// Whether fleets come and go.
    pub fn is_on_demand(&self) -> bool {
        matches!(&*self.0, Inner::OnDemand(..))
    }

    /// Whether an Envoy has to bring a pass.
    pub fn wants_passes(&self) -> bool {
        matches!(&*self.0, Inner::OnDemand(demand, _) if demand.passes)
    }

    /// The streams of a fleet, for somebody who has the right to it: it is opened if it is not open. A pass that lasts
    /// longer than the one before takes its place.
    ///
    /// # Errors
    /// It cannot be opened, or the relay stops.
    pub async fn enter(&self, name: &FleetName, pass: Option<Pass>) -> Result<Arc<Hub>, RosterError> {
        let (demand, places) = match &*self.0 {
            Inner::Fixed(_) => {
                return self.find(name).map(|fleet| fleet.hub).ok_or(RosterError::Unknown);
            }
            Inner::OnDemand(demand, places) => (demand, places),
        };
        loop {
            let mut closing = {
                let mut places = lock(places);
                if demand.life.stop.is_cancelled() {
                    return Err(RosterError::Stopped);
                }
                match places.get_mut(name) {
                    Some(Place::Open(open)) => {
                        open.used = Instant::now();
                        open.renew(pass);
                        return Ok(Arc::clone(&open.fleet.hub));
                    }
                    Some(Place::Closing(gone)) => gone.clone(),
                    None => {
                        let open = demand.open(name)?;
                        open.renew(pass);
                        let hub = Arc::clone(&open.fleet.hub);
                        places.insert(name.clone(), Place::Open(open));
                        demand.count(&places);
                        return Ok(hub);
                    }
                }
            };
            // It is opened again when nothing of it runs any more: its cache has one owner at a time.
            if closing.wait_for(|gone| *gone).await.is_err() {
                return Err(RosterError::Stopped);
            }
        }
    }

    /// Opens those of these fleets that the disk has something of: a relay that was restarted serves at once. Those that
    /// nobody asks for are closed like any other.
    pub async fn reopen<'n>(&self, names: impl IntoIterator<Item = &'n FleetName>) {
        let Inner::OnDemand(demand, _) = &*self.0 else { return };
        let Some(cache) = &demand.cache else { return };
        for name in names {
            if cache.join(name.socket_name()).is_dir()
                && let Err(error) = self.enter(name, None).await
            {
                tracing::warn!(fleet = %name, %error, "not opened from the disk");
            }
        }
    }

    /// Closes what nobody asks for, until the relay stops.
    async fn keep(self, stop: CancellationToken) {
        let Inner::OnDemand(demand, places) = &*self.0 else { return };
        let look = (demand.forget_after / 4).clamp(Duration::from_millis(50), LOOK);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(look) => {}
            }
            for name in demand.due(&mut lock(places)) {
                demand.life.spawn(self.clone().close(name));
            }
        }
    }

    async fn close(self, name: FleetName) {
        let Inner::OnDemand(demand, places) = &*self.0 else { return };
        let (closed, closing) = watch::channel(false);
        let open = match lock(places).insert(name.clone(), Place::Closing(closing)) {
            Some(Place::Open(open)) => open,
            Some(Place::Closing(_)) | None => return,
        };
        open.stop.cancel();
        let mut gone = open.gone.clone();
        drop(open);
        let _ = gone.wait_for(|gone| *gone).await;
        demand.forget(&name);
        let mut places = lock(places);
        places.remove(&name);
        demand.count(&places);
        drop(places);
        closed.send_replace(true);
        tracing::info!(fleet = %name, "no Envoy of it is here any more: closed and forgotten");
    }
}

impl Place {
    fn fleet(&self) -> Option<&Fleet> {
        match self {
            Self::Open(open) => Some(&open.fleet),
            Self::Closing(_) => None,
        }
    }
}

impl Open {
    fn renew(&self, pass: Option<Pass>) {
        let Some(pass) = pass else { return };
        self.pass.send_if_modified(|held| {
            let newer = held.as_ref().is_none_or(|held| held.expires < pass.expires);
            if newer {
                *held = Some(pass);
            }
            newer
        });
    }
}

impl Demand {
    fn open(&self, name: &FleetName) -> Result<Open, FleetError> {
        let (alive, mut ended) = mpsc::channel(1);
        let own = Life { stop: self.life.stop.child_token(), alive };
        let (pass, passes) = watch::channel(None);
        // Whatever fails below, tasks that were started end with the guard.
        let guard = own.stop.clone().drop_guard();
        let fleet = (self.open)(name, &own, passes)?;
        let (told, gone) = watch::channel(false);
        // The relay waits for those that are open, too.
        self.life.spawn(async move {
            let _ = ended.recv().await;
            told.send_replace(true);
        });
        tracing::info!(fleet = %name, "an Envoy of it is here: opened");
        Ok(Open { fleet, stop: guard.disarm(), gone, used: Instant::now(), pass })
    }

    /// Fleets that had no Envoy for long enough.
    fn due(&self, places: &mut BTreeMap<FleetName, Place>) -> Vec<FleetName> {
        let now = Instant::now();
        let mut due = Vec::new();
        for (name, place) in places {
            let Place::Open(open) = place else { continue };
            if !open.fleet.hub.is_empty() {
                open.used = now;
            } else if now.duration_since(open.used) >= self.forget_after {
                due.push(name.clone());
            }
        }
        due
    }

    /// Nothing of a closed fleet stays, but for what an operator pinned by hand.
    fn forget(&self, name: &FleetName) {
        let label = name.to_string();
        if let Some(live) = &self.live {
            live.leave(&label);
        }
        self.metrics.forget(&label);
        let Some(folder) = self.cache.as_ref().map(|cache| cache.join(name.socket_name())) else { return };
        if folder.join("pin").exists() {
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(fleet = label, %error, "what the disk has of a closed fleet cannot be removed");
        }
    }

    fn count(&self, places: &BTreeMap<FleetName, Place>) {
        #[expect(clippy::cast_precision_loss, reason = "fleets are few")]
        let open = places.values().filter(|place| place.fleet().is_some()).count() as f64;
        self.metrics.set("moorgate_relay_fleets", &[], open);
    }
}

fn lock(places: &Mutex<BTreeMap<FleetName, Place>>) -> MutexGuard<'_, BTreeMap<FleetName, Place>> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}
