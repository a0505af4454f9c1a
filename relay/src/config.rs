//! Flags, environment and configuration file, and what they amount to.

use crate::serve::stream::Settings;
use crate::serve::tls::Files;
use clap::Parser;
use moorgate_snapshot::{Channel, FleetName, Store, StoreError};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// The socket that is listened on if nothing else is said.
const DEFAULT_LISTEN: &str = "unix:/run/moorgate/{fleet}.sock";
/// Polling more often than this buys nothing and costs requests.
const MIN_POLL: Duration = Duration::from_secs(1);
/// The largest configuration file.
const MAX_FILE: u64 = 1 << 20;

const EXAMPLES: &str = "\
Examples:
  A sidecar that follows a bucket on the local disk:
    moorgate-relay --store file:///var/lib/moorgate/store --fleet shop/edge --trust /etc/moorgate/trust.pem \\
      --cache /var/cache/moorgate --endpoints /etc/moorgate/endpoints --secrets /etc/moorgate/secrets

  Envoy then uses unix:/run/moorgate/shop.edge.sock. See what is served:
    moorgate-relay ... --admin unix:/run/moorgate/admin.sock
    curl --unix-socket /run/moorgate/admin.sock http://relay/snapshot

  Hold a fleet at a snapshot by hand, with the store down:
    curl --unix-socket /run/moorgate/admin.sock -X POST 'http://relay/pin?fleet=shop/edge&snapshot=ID'

  A pool for two fleets on TCP; the fleet comes from the client's certificate:
    moorgate-relay --store file:///store --fleet shop/edge --fleet class/internal --trust trust.json \\
      --listen tcp:0.0.0.0:18000 --tls-cert tls.crt --tls-key tls.key --client-ca ca.crt \\
      --member spiffe://cluster/ns/shop/sa/envoy=shop/edge --member internal.envoy=class/internal

Every flag can also stand in the file of --config (JSON or YAML, names as here without the dashes in front) and in the
environment as MOORGATE_RELAY_NAME. Flags win over the environment, and the environment over the file.";

/// Serves Moorgate's snapshots to Envoy: pulls, verifies, keeps on disk, binds endpoints and secrets.
#[derive(Debug, Clone, Default, Parser, Deserialize)]
#[command(name = "moorgate-relay", version, after_help = EXAMPLES)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Options {
    /// A file with any of these settings.
    #[arg(long, value_name = "FILE", env = "MOORGATE_RELAY_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// The store; repeat for mirrors, which are asked when it fails.
    #[arg(long, value_name = "URL", env = "MOORGATE_RELAY_STORE", value_delimiter = ',')]
    pub store: Vec<String>,
    /// A fleet to serve, namespace/gateway or class/NAME; repeats.
    #[arg(long, value_name = "FLEET", env = "MOORGATE_RELAY_FLEET", value_delimiter = ',')]
    pub fleet: Vec<String>,
    /// The channel to follow [default: stable].
    #[arg(long, value_name = "CHANNEL", env = "MOORGATE_RELAY_CHANNEL")]
    pub channel: Option<String>,
    /// The file with the keys that are trusted.
    #[arg(long, value_name = "FILE", env = "MOORGATE_RELAY_TRUST")]
    pub trust: Option<PathBuf>,
    /// Where Envoys connect: unix:PATH, in which {fleet} stands for namespace.gateway, or tcp:ADDRESS; repeats
    /// [default: unix:/run/moorgate/{fleet}.sock].
    #[arg(long, value_name = "ADDRESS", env = "MOORGATE_RELAY_LISTEN", value_delimiter = ',')]
    pub listen: Vec<String>,
    /// The certificate of the relay for TCP, PEM.
    #[arg(long, value_name = "FILE", env = "MOORGATE_RELAY_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", env = "MOORGATE_RELAY_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// The CA that clients on TCP descend from, PEM.
    #[arg(long, value_name = "FILE", env = "MOORGATE_RELAY_CLIENT_CA")]
    pub client_ca: Option<PathBuf>,
    /// Which fleet a name in a client's certificate belongs to; repeats.
    #[arg(long, value_name = "NAME=FLEET", env = "MOORGATE_RELAY_MEMBER", value_delimiter = ',')]
    pub member: Vec<String>,
    /// The folder that survives restarts. Without it, a restart without the store has nothing to serve.
    #[arg(long, value_name = "DIR", env = "MOORGATE_RELAY_CACHE")]
    pub cache: Option<PathBuf>,
    /// The address of /livez, /readyz and /metrics.
    #[arg(long, value_name = "ADDRESS", env = "MOORGATE_RELAY_HEALTH")]
    pub health: Option<String>,
    /// Ready only when an Envoy has taken the snapshot whole.
    #[arg(long, env = "MOORGATE_RELAY_READY_ACKED")]
    pub ready_acked: bool,
    /// The socket of /snapshot, /clients, /pin and /quarantine: unix:PATH.
    #[arg(long, value_name = "ADDRESS", env = "MOORGATE_RELAY_ADMIN")]
    pub admin: Option<String>,
    /// A folder of endpoints: EndpointSlices, or static sets.
    #[arg(long, value_name = "DIR", env = "MOORGATE_RELAY_ENDPOINTS")]
    pub endpoints: Option<PathBuf>,
    /// A folder of secrets: NAMESPACE/NAME/tls.crt, tls.key and ca.crt.
    #[arg(long, value_name = "DIR", env = "MOORGATE_RELAY_SECRETS")]
    pub secrets: Option<PathBuf>,
    /// The time between polls, give or take a fifth [default: 5s].
    #[arg(long, value_name = "TIME", env = "MOORGATE_RELAY_POLL_INTERVAL")]
    pub poll_interval: Option<String>,
    /// How long a cluster stays after nothing refers to it any more [default: 30s].
    #[arg(long, value_name = "TIME", env = "MOORGATE_RELAY_LINGER")]
    pub linger: Option<String>,
    /// How long streams take to end when the relay stops [default: 5s].
    #[arg(long, value_name = "TIME", env = "MOORGATE_RELAY_DRAIN")]
    pub drain: Option<String>,
    /// The largest request in bytes [default: 33554432].
    #[arg(long, value_name = "BYTES", env = "MOORGATE_RELAY_MAX_REQUEST")]
    pub max_request: Option<usize>,
    /// The size in bytes above which a delta response is split [default: 4000000].
    #[arg(long, value_name = "BYTES", env = "MOORGATE_RELAY_MAX_RESPONSE")]
    pub max_response: Option<usize>,
    /// Streams at one time [default: 20000].
    #[arg(long, value_name = "COUNT", env = "MOORGATE_RELAY_MAX_STREAMS")]
    pub max_streams: Option<usize>,
    /// The name of this relay, as Envoys and reports show it.
    #[arg(long, value_name = "NAME", env = "MOORGATE_RELAY_NAME")]
    pub name: Option<String>,
    /// Log lines as text or json [default: text].
    #[arg(long, value_name = "FORMAT", env = "MOORGATE_RELAY_LOG_FORMAT")]
    pub log_format: Option<String>,
    /// What is logged: error, warn, info, debug, or a filter [default: info].
    #[arg(long, value_name = "FILTER", env = "MOORGATE_RELAY_LOG")]
    pub log: Option<String>,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A Unix socket a fleet: a path with `{fleet}` in it.
    Unix(String),
    /// A TCP address.
    Tcp(SocketAddr),
}

/// A relay's configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Stores, the first one first.
    pub stores: Vec<Store>,
    /// Fleets.
    pub fleets: Vec<FleetName>,
    /// The channel of all of them.
    pub channel: Channel,
    /// The file of trusted keys.
    pub trust: PathBuf,
    /// Where Envoys connect.
    pub listen: Vec<Listen>,
    /// Mutual TLS on TCP.
    pub tls: Option<Files>,
    /// Fleets by names in client certificates.
    pub members: BTreeMap<String, FleetName>,
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
    /// The time between polls.
    pub poll_interval: Duration,
    /// How streams behave.
    pub settings: Settings,
    /// The largest request in bytes.
    pub max_request: usize,
    /// Streams at one time.
    pub max_streams: usize,
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
    /// Reads the file of `--config` below what is set already.
    pub fn with_file(self) -> Result<Self, ConfigError> {
        let Some(path) = self.config.clone() else { return Ok(self) };
        let error = |reason: String| ConfigError::File { path: path.clone(), reason };
        let bytes = crate::bind::file::read(&path, MAX_FILE).map_err(|cause| error(cause.to_string()))?;
        let file = parse(&path, &bytes).map_err(error)?;
        Ok(self.over(file))
    }

    /// These settings, and where they say nothing those of `below`.
    fn over(self, below: Self) -> Self {
        let list = |own: Vec<String>, below| if own.is_empty() { below } else { own };
        Self {
            config: self.config,
            store: list(self.store, below.store),
            fleet: list(self.fleet, below.fleet),
            channel: self.channel.or(below.channel),
            trust: self.trust.or(below.trust),
            listen: list(self.listen, below.listen),
            tls_cert: self.tls_cert.or(below.tls_cert),
            tls_key: self.tls_key.or(below.tls_key),
            client_ca: self.client_ca.or(below.client_ca),
            member: list(self.member, below.member),
            cache: self.cache.or(below.cache),
            health: self.health.or(below.health),
            ready_acked: self.ready_acked || below.ready_acked,
            admin: self.admin.or(below.admin),
            endpoints: self.endpoints.or(below.endpoints),
            secrets: self.secrets.or(below.secrets),
            poll_interval: self.poll_interval.or(below.poll_interval),
            linger: self.linger.or(below.linger),
            drain: self.drain.or(below.drain),
            max_request: self.max_request.or(below.max_request),
            max_response: self.max_response.or(below.max_response),
            max_streams: self.max_streams.or(below.max_streams),
            name: self.name.or(below.name),
            log_format: self.log_format.or(below.log_format),
            log: self.log.or(below.log),
        }
    }

    /// Checks the settings.
    pub fn check(self) -> Result<Config, ConfigError> {
        let fleets = all("fleet", &self.fleet)?;
        let listen = match self.listen.as_slice() {
            [] => {
                vec![DEFAULT_LISTEN.parse().map_err(|reason: &str| wrong("listen", DEFAULT_LISTEN, reason))?]
            }
            listen => all("listen", listen)?,
        };
        let members = self.member.iter().map(|text| member(text)).collect::<Result<BTreeMap<_, _>, _>>()?;
        let tls = match (self.tls_cert, self.tls_key, self.client_ca) {
            (Some(certificate), Some(key), Some(client_ca)) => Some(Files { certificate, key, client_ca }),
            (None, None, None) => None,
            _ => return Err(ConfigError::Together("--tls-cert, --tls-key and --client-ca go together")),
        };
        if self.store.is_empty() {
            return Err(ConfigError::Required("store"));
        }
        if fleets.is_empty() {
            return Err(ConfigError::Required("fleet"));
        }
        check_listen(&listen, &fleets, tls.is_some(), &members)?;
        let time = |flag, text: Option<String>, default| match text {
            None => Ok(default),
            Some(text) => duration(&text).ok_or_else(|| wrong(flag, &text, "write 500ms, 5s, 2m or 1h")),
        };
        let poll_interval = time("poll-interval", self.poll_interval, Duration::from_secs(5))?;
        if poll_interval < MIN_POLL {
            return Err(wrong("poll-interval", &format!("{poll_interval:?}"), "at least one second"));
        }
        let defaults = Settings::default();
        let name = self.name.map(|name| format!("moorgate-relay {name}"));
        let settings = Settings {
            linger: time("linger", self.linger, defaults.linger)?,
            max_response: self.max_response.unwrap_or(defaults.max_response),
            relay: name.map_or(defaults.relay, Arc::from),
            ..defaults
        };
        Ok(Config {
            stores: self.store.iter().map(|url| Store::open(url)).collect::<Result<_, _>>()?,
            fleets,
            channel: one("channel", self.channel)?.unwrap_or_default(),
            trust: self.trust.ok_or(ConfigError::Required("trust"))?,
            listen,
            tls,
            members,
            cache: self.cache,
            health: one("health", self.health)?,
            ready_acked: self.ready_acked,
            admin: self.admin.map(|text| unix_path("admin", &text)).transpose()?,
            endpoints: self.endpoints,
            secrets: self.secrets,
            poll_interval,
            settings,
            max_request: self.max_request.unwrap_or(32 << 20),
            max_streams: self.max_streams.unwrap_or(20_000),
            drain: time("drain", self.drain, Duration::from_secs(5))?,
        })
    }
}

fn check_listen(
    listen: &[Listen],
    fleets: &[FleetName],
    tls: bool,
    members: &BTreeMap<String, FleetName>,
) -> Result<(), ConfigError> {
    for address in listen {
        match address {
            Listen::Unix(path) if fleets.len() > 1 && !path.contains("{fleet}") => {
                return Err(ConfigError::Together("with several fleets, a socket path needs {fleet} in it"));
            }
            Listen::Tcp(address) if !tls && !address.ip().is_loopback() => {
                return Err(ConfigError::Together(
                    "TCP beyond this machine needs mutual TLS: --tls-cert, --tls-key and --client-ca",
                ));
            }
            Listen::Tcp(_) if fleets.len() > 1 && (!tls || members.is_empty()) => {
                return Err(ConfigError::Together(
                    "with several fleets on TCP, certificates tell them apart: mutual TLS and --member NAME=FLEET",
                ));
            }
            Listen::Unix(_) | Listen::Tcp(_) => {}
        }
    }
    if members.values().any(|fleet| !fleets.contains(fleet)) {
        return Err(ConfigError::Together("--member names a fleet that is not served"));
    }
    Ok(())
}

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.to_owned())),
            Some(("unix", _)) => Err("the path must be absolute"),
            Some(("tcp", address)) => {
                address.parse().map(Self::Tcp).map_err(|_| "write tcp:ADDRESS:PORT with an IP address")
            }
            _ => Err("write unix:/path or tcp:ADDRESS:PORT"),
        }
    }
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

fn member(text: &str) -> Result<(String, FleetName), ConfigError> {
    let (name, fleet) = text.rsplit_once('=').ok_or_else(|| wrong("member", text, "write NAME=FLEET"))?;
    Ok((name.to_owned(), fleet.parse().map_err(|error| wrong("member", text, &error))?))
}

fn unix_path(flag: &'static str, text: &str) -> Result<PathBuf, ConfigError> {
    let path = text.strip_prefix("unix:").filter(|path| path.starts_with('/'));
    path.map(PathBuf::from).ok_or_else(|| wrong(flag, text, "write unix:/path"))
}

/// `500ms`, `5s`, `2m`, `1h`.
fn duration(text: &str) -> Option<Duration> {
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

#[cfg(feature = "yaml")]
fn parse(path: &Path, bytes: &[u8]) -> Result<Options, String> {
    if path.extension().is_some_and(|extension| extension == "json") {
        return serde_json::from_slice(bytes).map_err(|error| error.to_string());
    }
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    yaml_serde::from_str(text).map_err(|error| error.to_string())
}

#[cfg(not(feature = "yaml"))]
fn parse(_path: &Path, bytes: &[u8]) -> Result<Options, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(flags: &[&str]) -> Options {
        let base = ["moorgate-relay", "--store", "memory:///", "--trust", "/t"];
        Options::try_parse_from(base.iter().chain(flags)).unwrap()
    }

    fn refusal(flags: &[&str]) -> String {
        options(flags).check().unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_those_of_a_sidecar() {
        let config = options(&["--fleet", "shop/edge"]).check().unwrap();
        assert_eq!(config.listen, [Listen::Unix("/run/moorgate/{fleet}.sock".into())]);
        assert_eq!(config.channel.as_str(), "stable");
        assert_eq!(config.poll_interval, Duration::from_secs(5));
        assert_eq!(config.max_request, 32 << 20);
    }

    #[test]
    fn what_would_be_unsafe_or_unclear_is_refused_in_words() {
        let fleet = ["--fleet", "a/b"];
        let with = |flags: &[&str]| refusal(&[&fleet[..], flags].concat());
        assert_eq!(refusal(&[]), "--fleet is required");
        assert!(with(&["--listen", "tcp:0.0.0.0:18000"]).contains("mutual TLS"));
        assert!(with(&["--listen", "tcp:localhost:1"]).contains("IP address"));
        assert!(with(&["--listen", "/x"]).contains("unix:/path"));
        assert!(with(&["--fleet", "c/d", "--listen", "unix:/x"]).contains("{fleet}"));
        assert!(with(&["--fleet", "c/d", "--listen", "tcp:127.0.0.1:1"]).contains("--member"));
        assert!(with(&["--tls-cert", "x"]).contains("go together"));
        assert!(with(&["--poll-interval", "10ms"]).contains("one second"));
        assert!(with(&["--poll-interval", "5"]).contains("5s"));
        assert!(with(&["--member", "x=other/fleet"]).contains("not served"));
        assert!(with(&["--fleet", "../x"]).contains("no fleet"));
        assert!(with(&["--channel", "A"]).contains("no channel"));
        assert!(options(&[&fleet[..], &["--listen", "tcp:127.0.0.1:0"]].concat()).check().is_ok());
    }

    #[test]
    fn a_file_gives_what_flags_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relay.json");
        let text = r#"{"fleet": ["a/b"], "poll-interval": "7s", "channel": "canary"}"#;
        std::fs::write(&path, text).unwrap();
        let flags = ["--channel", "stable", "--config", path.to_str().unwrap()];
        let config = options(&flags).with_file().unwrap().check().unwrap();
        assert_eq!(config.poll_interval, Duration::from_secs(7));
        assert_eq!(config.channel.as_str(), "stable");
        assert_eq!(config.fleets, [FleetName::gateway("a", "b")]);
        std::fs::write(&path, r#"{"flet": []}"#).unwrap();
        let error = options(&flags).with_file().unwrap_err().to_string();
        assert!(error.contains("flet"), "{error}");
    }

    #[cfg(feature = "yaml")]
    #[test]
    fn a_file_may_be_yaml() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relay.yaml");
        std::fs::write(&path, "fleet: [a/b]\nready-acked: true\n").unwrap();
        let flags = ["--config", path.to_str().unwrap()];
        assert!(options(&flags).with_file().unwrap().check().unwrap().ready_acked);
    }

    #[test]
    fn the_help_has_examples() {
        use clap::CommandFactory;
        Options::command().debug_assert();
        assert!(Options::command().render_long_help().to_string().contains("--unix-socket"));
    }
}
