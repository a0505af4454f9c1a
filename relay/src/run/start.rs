//! How fleets are started: all at once, or each when its first Envoy comes.

use super::RunError;
use crate::bind::binder::Sources;
use crate::bind::late::{Follower, Late};
use crate::bind::live::Live;
use crate::clock::Clock;
use crate::config::Config;
use crate::fleet::{Fleet, FleetConfig, FleetError, Life};
use crate::jitter::Jitter;
use crate::metrics::Metrics;
use crate::roster::{Demand, Passes, Roster};
use moorgate_snapshot::{Anchor, FleetName, KeyPair};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// What every fleet is started with.
pub(super) struct Starter {
    pub config: Config,
    /// The watches that fleets share.
    pub live: Option<Live>,
    /// The API server, for fleets that have watches of their own.
    pub api: Option<Api>,
    /// The key of reports, as it is at the moment.
    pub report_key: Option<watch::Receiver<Arc<KeyPair>>>,
    /// Whom to trust, as it is at the moment.
    pub trust: watch::Receiver<Anchor>,
    pub metrics: Arc<Metrics>,
}

#[cfg(feature = "kubernetes")]
pub(super) type Api = crate::bind::kubernetes::Api;
/// Without the feature there is none.
#[cfg(not(feature = "kubernetes"))]
pub(super) enum Api {}

impl Starter {
    /// All fleets of the configuration, or a way to open those whose Envoys come.
    pub(super) fn roster(self, life: &Life) -> Result<Roster, RunError> {
        let Some(on_demand) = self.config.on_demand.clone() else {
            let start = |fleet: &FleetName| {
                self.start(fleet, life, self.live.clone())
                    .map_err(|source| RunError::Fleet { fleet: fleet.clone(), source })
            };
            return Ok(Roster::fixed(self.config.fleets.iter().map(start).collect::<Result<_, _>>()?));
        };
        Ok(Roster::on_demand(Demand {
            forget_after: on_demand.forget_after,
            passes: on_demand.passes,
            cache: self.config.cache.clone(),
            live: self.live.clone(),
            metrics: Arc::clone(&self.metrics),
            life: life.clone(),
            open: Box::new(move |fleet, life, passes| {
                let own = self.own_live(fleet, life, passes);
                self.start(fleet, life, own.or_else(|| self.live.clone()))
            }),
        }))
    }

    fn start(&self, fleet: &FleetName, life: &Life, live: Option<Live>) -> Result<Fleet, FleetError> {
        let config = &self.config;
        let one = FleetConfig {
            fleet: fleet.clone(),
            channel: config.channel.clone(),
            identity: config.identity.clone(),
            report_key: self.report_key.clone(),
            envoy_admins: config.envoy_admins.clone(),
            stores: config.stores.clone(),
            seed: config.seed.clone(),
            trust: self.trust.borrow().clone(),
            cache: config.cache.clone(),
            pin_file: config.pin_file.as_ref().map(|path| of_fleet(path, fleet)),
            sources: Sources {
                endpoints: config.endpoints.clone(),
                secrets: config.secrets.clone(),
                late: self.late(fleet, life),
                live,
                ..Sources::default()
            },
            poll_interval: config.poll_interval,
            settings: config.settings.clone(),
            clock: Clock::default(),
            jitter: Jitter::default(),
        };
        Fleet::start(one, Arc::clone(&self.metrics), life)
    }

    /// Reads the store's own endpoints and secrets, if that is asked for.
    fn late(&self, fleet: &FleetName, life: &Life) -> Option<Late> {
        let config = &self.config;
        let values = config.store_values.clone()?;
        let late = Late::default();
        let follower = Follower {
            stores: config.stores.iter().map(|store| store.fleet(fleet)).collect(),
            channel: config.channel.clone(),
            trust: self.trust.clone(),
            identities: values.identities,
            file: config.cache.as_ref().map(|cache| cache.join(fleet.socket_name()).join("late")),
            late: late.clone(),
            interval: config.poll_interval,
            jitter: Jitter::default(),
            metrics: Arc::clone(&self.metrics),
        };
        life.spawn(follower.run(life.stop.clone()));
        Some(late)
    }

    /// Watches for this fleet alone, with the tokens of its Envoys.
    #[cfg(feature = "kubernetes")]
    fn own_live(&self, fleet: &FleetName, life: &Life, passes: Passes) -> Option<Live> {
        let api = self.api.as_ref()?.with(passes);
        let tools = (Arc::clone(&self.metrics), Jitter::default());
        Some(crate::bind::kubernetes::start(api, Some(&fleet.to_string()), tools, life))
    }

    #[cfg(not(feature = "kubernetes"))]
    fn own_live(&self, _: &FleetName, _: &Life, _: Passes) -> Option<Live> {
        self.api.as_ref().map(|none| match *none {})
    }
}

/// A path in which `{fleet}` stands for a fleet.
fn of_fleet(path: &Path, fleet: &FleetName) -> PathBuf {
    path.to_string_lossy().replace("{fleet}", &fleet.socket_name()).into()
}

/// The API server, if one is to be asked: watched for all fleets together, or ready for those that bring tokens of their
/// own. It need not answer now.
#[cfg(feature = "kubernetes")]
pub(super) async fn api_server(
    config: &Config,
    metrics: &Arc<Metrics>,
    life: &Life,
) -> Result<(Option<Live>, Option<Api>), RunError> {
    use crate::config::Kubernetes;
    let kubeconfig = match &config.kubernetes {
        None => return Ok((None, None)),
        Some(Kubernetes::Pod) => None,
        Some(Kubernetes::Kubeconfig(file)) => Some(file.as_path()),
    };
    let failed = |error: crate::bind::kubernetes::ConnectError| RunError::Kubernetes(error.to_string());
    if config.on_demand.as_ref().is_some_and(|on_demand| on_demand.passes) {
        return Ok((None, Some(Api::without_credentials(kubeconfig).await.map_err(failed)?)));
    }
    let api = Api::connect(kubeconfig).await.map_err(failed)?;
    let tools = (Arc::clone(metrics), Jitter::default());
    Ok((Some(crate::bind::kubernetes::start(api, None, tools, life)), None))
}

#[cfg(not(feature = "kubernetes"))]
#[expect(clippy::unused_async, reason = "with the feature it waits")]
pub(super) async fn api_server(
    _: &Config,
    _: &Arc<Metrics>,
    _: &Life,
) -> Result<(Option<Live>, Option<Api>), RunError> {
    Ok((None, None))
}
