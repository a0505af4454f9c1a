//! Flags, environment and configuration file, and what they amount to.

mod demand;
mod members;
mod options;
mod proof;

pub use demand::OnDemand;
pub use members::{MemberFile, Members};
pub use options::Options;
pub use proof::{TokenKeys, TokenOptions};

use crate::canary::AdminAddress;
use crate::serve::listen::Peers;
use crate::serve::stream::Settings;
use crate::serve::tls::Files;
use crate::serve::types;
use crate::serve::view::Name;
use moorgate_snapshot::store::Settings as StoreSettings;
use moorgate_snapshot::{Channel, FleetName, RelayIdentity, RelayName, Store, StoreError, wave};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// The socket that is listened on if nothing else is said.
const DEFAULT_LISTEN: &str = "unix:/run/moorgate/{fleet}.sock";
/// Polling more often than this buys nothing and costs requests.
const MIN_POLL: Duration = Duration::from_secs(1);
/// A shorter life would be heartbeats and little else.
const MIN_TTL: Duration = Duration::from_secs(3);
/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A Unix socket a fleet: a path with `{fleet}` in it, and who may connect.
    Unix(String, Peers),
    /// A TCP address.
    Tcp(SocketAddr),
}

/// Which Kubernetes API server is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kubernetes {
    /// That of the cluster which this is a pod of.
    Pod,
    /// That of this kubeconfig's present context.
    Kubeconfig(PathBuf),
}

/// How the store's own endpoints and secrets are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreValues {
    /// The file of identities that open sealed secrets.
    pub identities: Option<PathBuf>,
}

/// A relay's configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Stores, the first one first.
    pub stores: Vec<Store>,
    /// What came with the machine: a folder laid out as a store.
    pub seed: Option<Store>,
    /// Fleets.
    pub fleets: Vec<FleetName>,
    /// They are opened on demand instead.
    pub on_demand: Option<OnDemand>,
    /// The channel of all of them.
    pub channel: Channel,
    /// Who this relay is.
    pub identity: RelayIdentity,
    /// What it was to be called, if that is no name of a relay.
    pub unfit_name: Option<String>,
    /// The file of the key that signs its reports.
    pub report_key: Option<PathBuf>,
    /// Where its Envoys show their statistics.
    pub envoy_admins: Vec<AdminAddress>,
    /// The file of trusted keys.
    pub trust: PathBuf,
    /// Where Envoys connect.
    pub listen: Vec<Listen>,
    /// TLS on TCP.
    pub tls: Option<Files>,
    /// Tokens of clients on TCP.
    pub tokens: Option<TokenOptions>,
    /// Fleets by names that clients prove; `*` for every certificate.
    pub members: Members,
    /// A file with more of them, read again while the relay runs.
    pub member_file: Option<MemberFile>,
    /// Where an operator may pin, with `{fleet}` in it.
    pub pin_file: Option<PathBuf>,
    /// The disk cache.
    pub cache: Option<PathBuf>,
    /// The health address.
    pub health: Option<SocketAddr>,
    /// Ready only when an Envoy took the snapshot.
    pub ready_acked: bool,
    /// The admin socket.
    pub admin: Option<PathBuf>,
    /// The folder of endpoints.
    pub endpoints: Option<PathBuf>,
    /// The folder of secrets.
    pub secrets: Option<PathBuf>,
    /// Endpoints and secrets come from the store too, sealed ones opened by this file of identities.
    pub store_values: Option<StoreValues>,
    /// The API server that endpoints and secrets come from.
    pub kubernetes: Option<Kubernetes>,
    /// The time between polls.
    pub poll_interval: Duration,
    /// How streams behave.
    pub settings: Settings,
    /// The largest request in bytes.
    pub max_request: usize,
    /// Streams at one time.
    pub max_streams: usize,
    /// Streams, and connections, of one client.
    pub max_streams_per_client: usize,
    /// How long streams take to end when the relay stops.
    pub drain: Duration,
}

/// Settings that make no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A required setting is missing.
    #[error("--{0} is required")]
    Required(&'static str),
    /// A value cannot be read.
    #[error("--{flag} {value:?}: {reason}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Settings that do not go together.
    #[error("{0}")]
    Together(&'static str),
    /// The configuration file cannot be used.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A store that cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Options {
    /// Checks the settings.
    pub fn check(self) -> Result<Config, ConfigError> {
        let fleets = all("fleet", &self.fleet)?;
        let listen = listen(&self.listen)?;
        let members = self.member.iter().map(|text| members::member(text)).collect::<Result<Members, _>>()?;
        let tokens = proof::tokens(self.token_keys, self.token_issuer, self.token_audience)?;
        let tls = proof::tls((self.tls_cert, self.tls_key), self.client_ca, tokens.is_some())?;
        if self.store.is_empty() {
            return Err(ConfigError::Required("store"));
        }
        if fleets.is_empty() && !self.on_demand {
            return Err(ConfigError::Required("fleet"));
        }
        let kubernetes = kubernetes(self.kubernetes, self.kubeconfig)?;
        let asked = demand::Asked {
            on_demand: self.on_demand,
            forget_after: self.forget_after,
            as_client: self.kubernetes_as_client,
            kubernetes: kubernetes.is_some(),
        };
        let on_demand = asked.check(&fleets, &listen, tls.as_ref())?;
        let many = on_demand.is_some() || fleets.len() > 1;
        let known = Some(&*fleets).filter(|_| on_demand.is_none());
        let member_file = members::of_file(self.member_file, &members, known, tls.as_ref())?;
        check_listen(&listen, many, tls.as_ref(), !members.is_empty() || member_file.is_some())?;
        members::check(&members, known, tls.as_ref())?;
        let pin_file = self.pin_file.map(|path| pin_file(path, many)).transpose()?;
        let max_streams = self.max_streams.unwrap_or(20_000);
        let poll_interval = time("poll-interval", self.poll_interval, Duration::from_secs(5))?;
        if poll_interval < MIN_POLL {
            return Err(wrong("poll-interval", &format!("{poll_interval:?}"), "at least one second"));
        }
        let defaults = Settings::default();
        let (identity, unfit_name) = identity(self.name, self.host, &self.label)?;
        let envoy_admins: Vec<AdminAddress> = all("envoy-admin", &self.envoy_admin)?;
        if many && !envoy_admins.iter().all(AdminAddress::names_the_fleet) {
            return Err(ConfigError::Together(
                "with several fleets, --envoy-admin needs {fleet} in its path",
            ));
        }
        let settings = Settings {
            linger: time("linger", self.linger, defaults.linger)?,
            max_response: self.max_response.unwrap_or(defaults.max_response),
            relay: Arc::from(format!("moorgate-relay {}", identity.name())),
            ttls: ttls(&self.ttl)?,
            ..defaults
        };
        let front = StoreSettings::from_env()
            .with_front(self.store_token_file.as_deref(), self.store_ca_file.as_deref());
        Ok(Config {
            stores: self.store.iter().map(|url| Store::open_with(url, &front)).collect::<Result<_, _>>()?,
            seed: self.seed.map(|folder| seed(&folder)).transpose()?,
            fleets,
            on_demand,
            channel: one("channel", self.channel)?.unwrap_or_default(),
            identity,
            unfit_name,
            report_key: self.report_key.map(|text| key_file("report-key", &text)).transpose()?,
            envoy_admins,
            trust: self.trust.ok_or(ConfigError::Required("trust"))?,
            listen,
            tls,
            tokens,
            members,
            member_file,
            pin_file,
            cache: self.cache,
            health: one("health", self.health)?,
            ready_acked: self.ready_acked,
            admin: self.admin.map(|text| unix_path("admin", &text)).transpose()?,
            endpoints: self.endpoints,
            secrets: self.secrets,
            store_values: store_values(self.store_values, self.secrets_identity)?,
            kubernetes,
            poll_interval,
            settings,
            max_request: self.max_request.unwrap_or(32 << 20),
            max_streams,
            max_streams_per_client: self.max_streams_per_client.unwrap_or(max_streams / 4 * 3).max(1),
            drain: time("drain", self.drain, Duration::from_secs(5))?,
        })
    }
}

/// Who names identities wants what they open.
fn store_values(asked: bool, identities: Option<PathBuf>) -> Result<Option<StoreValues>, ConfigError> {
    if identities.is_some() && !cfg!(feature = "sealed") {
        return Err(ConfigError::Together(
            "--secrets-identity: this relay was built without the feature sealed",
        ));
    }
    Ok((asked || identities.is_some()).then_some(StoreValues { identities }))
}

fn kubernetes(asked: bool, kubeconfig: Option<PathBuf>) -> Result<Option<Kubernetes>, ConfigError> {
    match (asked, kubeconfig) {
        (false, None) => Ok(None),
        (false, Some(_)) => Err(ConfigError::Together("--kubeconfig goes with --kubernetes")),
        (true, _) if !cfg!(feature = "kubernetes") => {
            Err(ConfigError::Together("--kubernetes: this relay was built without the feature kubernetes"))
        }
        (true, None) => Ok(Some(Kubernetes::Pod)),
        (true, Some(file)) => Ok(Some(Kubernetes::Kubeconfig(file))),
    }
}

fn listen(texts: &[String]) -> Result<Vec<Listen>, ConfigError> {
    if texts.is_empty() { all("listen", &[DEFAULT_LISTEN.to_owned()]) } else { all("listen", texts) }
}

fn check_listen(listen: &[Listen], many: bool, tls: Option<&Files>, named: bool) -> Result<(), ConfigError> {
    for address in listen {
        match address {
            Listen::Unix(path, _) if many && !path.contains("{fleet}") => {
                return Err(ConfigError::Together("with several fleets, a socket path needs {fleet} in it"));
            }
            Listen::Tcp(address) if tls.is_none() && !address.ip().is_loopback() => {
                return Err(ConfigError::Together(
                    "TCP beyond this machine needs TLS: --tls-cert and --tls-key, and mutual TLS (--client-ca) or tokens \
                     (--token-keys)",
                ));
            }
            Listen::Tcp(_) if many && tls.is_none() => {
                return Err(ConfigError::Together(
                    "with several fleets on TCP, clients prove which one is theirs: mutual TLS or tokens, and --member \
                     NAME=FLEET",
                ));
            }
            Listen::Tcp(_) if tls.is_some() && !named => {
                return Err(ConfigError::Together(
                    "with TLS, say who may ask: --member NAME=FLEET, or --member '*=FLEET' for every certificate of \
                     --client-ca",
                ));
            }
            Listen::Unix(..) | Listen::Tcp(_) => {}
        }
    }
    Ok(())
}

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("unix", path)) if path.starts_with('/') => {
                let (path, query) = path.split_once('?').unwrap_or((path, ""));
                Ok(Self::Unix(path.to_owned(), proof::peers(query)?))
            }
            Some(("unix", _)) => Err("the path must be absolute"),
            Some(("tcp", address)) => {
                address.parse().map(Self::Tcp).map_err(|_| "write tcp:ADDRESS:PORT with an IP address")
            }
            _ => Err("write unix:/path or tcp:ADDRESS:PORT"),
        }
    }
}

fn pin_file(path: PathBuf, many: bool) -> Result<PathBuf, ConfigError> {
    if many && !path.to_string_lossy().contains("{fleet}") {
        return Err(ConfigError::Together("with several fleets, --pin-file needs {fleet} in its path"));
    }
    Ok(path)
}

fn wrong(flag: &'static str, value: &str, reason: &(impl ToString + ?Sized)) -> ConfigError {
    ConfigError::Value { flag, value: value.to_owned(), reason: reason.to_string() }
}

fn all<T: FromStr<Err: ToString>>(flag: &'static str, texts: &[String]) -> Result<Vec<T>, ConfigError> {
    texts.iter().map(|text| text.parse().map_err(|error: T::Err| wrong(flag, text, &error))).collect()
}

fn one<T: FromStr<Err: ToString>>(
    flag: &'static str,
    text: Option<String>,
) -> Result<Option<T>, ConfigError> {
    text.map(|text| text.parse().map_err(|error: T::Err| wrong(flag, &text, &error))).transpose()
}

/// Who the relay is. A name that somebody gave is taken or refused; that of a host is made fit, and told.
fn identity(
    name: Option<String>,
    host: Option<String>,
    labels: &[String],
) -> Result<(RelayIdentity, Option<String>), ConfigError> {
    let (name, unfit) = match (name, host) {
        (Some(name), _) => (name.parse().map_err(|error| wrong("name", &name, &error))?, None),
        (None, Some(host)) => match host.parse::<RelayName>() {
            Ok(name) => (name, None),
            Err(_) => (fit(&host).ok_or(ConfigError::Required("name"))?, Some(host)),
        },
        (None, None) => return Err(ConfigError::Required("name")),
    };
    let read = |text: &String| wave::label(text).map_err(|error| wrong("label", text, &error));
    let labels = labels.iter().map(read).collect::<Result<BTreeMap<_, _>, _>>()?;
    let identity = RelayIdentity::new(name, labels).map_err(|error| wrong("label", "", &error))?;
    Ok((identity, unfit))
}

/// The nearest name to this text; none if it has no letter or digit.
fn fit(text: &str) -> Option<RelayName> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '-' };
    let mapped: String = text.chars().take(100).map(plain).collect();
    mapped.trim_matches(|c: char| !c.is_ascii_alphanumeric()).parse().ok()
}

/// `RTDS/faults=30s` and the like, by type URL and name.
fn ttls(texts: &[String]) -> Result<BTreeMap<Name, BTreeMap<Name, Duration>>, ConfigError> {
    let mut all: BTreeMap<Name, BTreeMap<Name, Duration>> = BTreeMap::new();
    for text in texts {
        let parts = text.rsplit_once('=').and_then(|(resource, time)| {
            let (short, name) = resource.split_once('/')?;
            Some((short, name, duration(time)?))
        });
        let Some((short, name, life)) = parts else {
            return Err(wrong("ttl", text, "write TYPE/NAME=TIME, such as RTDS/faults=30s"));
        };
        let Some(kind) = types::kinds().iter().find(|kind| kind.short == short) else {
            return Err(wrong("ttl", text, "a type is LDS, CDS, EDS, RDS, SRDS, VHDS, SDS, ECDS or RTDS"));
        };
        if life < MIN_TTL {
            return Err(wrong("ttl", text, "at least three seconds"));
        }
        all.entry(kind.type_url.into()).or_default().insert(name.into(), life);
    }
    Ok(all)
}

/// The folder of a seed as a store.
fn seed(folder: &std::path::Path) -> Result<Store, ConfigError> {
    let shown = folder.display().to_string();
    let absolute = std::path::absolute(folder).map_err(|error| wrong("seed", &shown, &error))?;
    let text = absolute.to_str().ok_or_else(|| wrong("seed", &shown, "the path is no text"))?;
    Ok(Store::open(&format!("file://{}", text.replace('%', "%25")))?)
}

fn key_file(flag: &'static str, text: &str) -> Result<PathBuf, ConfigError> {
    let path = text.strip_prefix("file:").filter(|path| !path.is_empty());
    path.map(PathBuf::from).ok_or_else(|| wrong(flag, "…", "write file:PATH"))
}

fn unix_path(flag: &'static str, text: &str) -> Result<PathBuf, ConfigError> {
    let path = text.strip_prefix("unix:").filter(|path| path.starts_with('/'));
    path.map(PathBuf::from).ok_or_else(|| wrong(flag, text, "write unix:/path"))
}

/// A time, or what it is if nothing is said.
fn time(flag: &'static str, text: Option<String>, default: Duration) -> Result<Duration, ConfigError> {
    match text {
        None => Ok(default),
        Some(text) => duration(&text).ok_or_else(|| wrong(flag, &text, "write 500ms, 5s, 2m or 1h")),
    }
}

/// `500ms`, `5s`, `2m`, `1h`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
