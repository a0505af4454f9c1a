//! Flags, environment and file, before they are checked.

use super::ConfigError;
use clap::Parser;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The largest configuration file.
const MAX_FILE: u64 = 1 << 20;

const EXAMPLES: &str = "\
Examples:
  A sidecar that follows a bucket on the local disk:
    moorgate-relay --store file:///var/lib/moorgate/store --fleet shop/edge --trust /etc/moorgate/trust.pem \\
      --cache /var/cache/moorgate --endpoints /etc/moorgate/endpoints --secrets /etc/moorgate/secrets

  A sidecar in a pod, which asks the cluster for exactly the endpoints and secrets that its snapshot names:
    moorgate-relay --store s3://bucket/prefix --fleet shop/edge --trust /etc/moorgate/trust.json --kubernetes

  Envoy then uses unix:/run/moorgate/shop.edge.sock. See what is served:
    moorgate-relay ... --admin unix:/run/moorgate/admin.sock
    curl --unix-socket /run/moorgate/admin.sock http://relay/snapshot

  Hold a fleet at a snapshot by hand, with the store down:
    curl --unix-socket /run/moorgate/admin.sock -X POST 'http://relay/pin?fleet=shop/edge&snapshot=ID'

  A pool for two fleets on TCP; the fleet comes from the client's certificate:
    moorgate-relay --store file:///store --fleet shop/edge --fleet class/internal --trust trust.json \\
      --listen tcp:0.0.0.0:18000 --tls-cert tls.crt --tls-key tls.key --client-ca ca.crt \\
      --member spiffe://cluster/ns/shop/sa/envoy=shop/edge --member internal.envoy=class/internal

  The same for pods that are known by their projected tokens, and with sockets for two users of this machine:
    moorgate-relay ... --listen tcp:0.0.0.0:18000 --tls-cert tls.crt --tls-key tls.key --token-keys kubernetes \
      --token-issuer https://kubernetes.default.svc.cluster.local \
      --member system:serviceaccount:shop:envoy=shop/edge --listen 'unix:/run/moorgate/{fleet}.sock?uid=101&uid=102'

  A relay on each node, for the fleets whose Envoys run there, which it reads for with their own tokens:
    moorgate-relay --on-demand --store s3://bucket/prefix --trust trust.json --listen tcp:0.0.0.0:18000 --tls-cert tls.crt \
      --tls-key tls.key --token-keys kubernetes --token-issuer https://kubernetes.default.svc.cluster.local \
      --member-file members --kubernetes --kubernetes-as-client

  A canary in its zone, which goes back by itself when a candidate makes answers fail:
    moorgate-relay ... --name edge-7 --label zone=eu-1 --envoy-admin http://127.0.0.1:9901

  Before an Envoy is stopped, send its clients away; what does that can be laid where Envoy's container sees it:
    moorgate-relay drain --envoy-admin http://127.0.0.1:9901 --at-least 10s --at-most 60s
    moorgate-relay copy-to /opt/moorgate

Every flag can also stand in the file of --config (JSON or YAML, names as here without the dashes in front) and in the
environment as MOORGATE_RELAY_NAME. Flags win over the environment, and the environment over the file.";

/// Serves Moorgate's snapshots to Envoy: pulls, verifies, keeps on disk, binds endpoints and secrets.
#[derive(Debug, Clone, Default, Parser, Deserialize)]
#[command(name = "moorgate-relay", version, after_help = EXAMPLES)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools, reason = "flags of a command line are independent")]
pub struct Options {
    /// A file with any of these settings.
    #[arg(long, value_name = "FILE", env = "MOORGATE_RELAY_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// The store; repeat for mirrors, which are asked when it fails.
    #[arg(long, value_name = "URL", env = "MOORGATE_RELAY_STORE", value_delimiter = ',')]
    pub store: Vec<String>,
    /// For stores at https://, the file of the token by which this relay is known: a projected one of its ServiceAccount
    /// with the audience moorgate-store. It is read again for every request.
    #[arg(long, value_name = "FILE", env = "MOORGATE_RELAY_STORE_TOKEN_FILE")]
    pub store_token_file: Option<PathBuf>,
    /// For stores at https://, the CA of their certificates, PEM [default: the system's].
    #[arg(long, value_name = "FILE", env = "MOORGATE_RELAY_STORE_CA_FILE")]
    pub store_ca_file: Option<PathBuf>,
    /// A fleet to serve, namespace/gateway or class/NAME; repeats.
    #[arg(long, value_name = "FLEET", env = "MOORGATE_RELAY_FLEET", value_delimiter = ',')]
    pub fleet: Vec<String>,
    /// Serve no fleet from the start: one is opened when an Envoy connects that --member or --member-file knows, and
    /// forgotten some time after its last Envoy left. For relays on each node, for whatever runs there.
    #[arg(long, env = "MOORGATE_RELAY_ON_DEMAND")]
    pub on_demand: bool,
    /// How long after its last Envoy left a fleet of --on-demand is forgotten [default: 10m].
    #[arg(long, value_name = "TIME", env = "MOORGATE_RELAY_FORGET_AFTER")]
    pub forget_after: Option<String>,
    /// The channel to follow [default: stable].
    #[arg(long, value_name = "CHANNEL", env = "MOORGATE_RELAY_CHANNEL")]
    pub channel: Option<String>,
    /// The file with the keys that are trusted.
    #[arg(long, value_name = "FILE", env = "MOORGATE_RELAY_TRUST")]
    pub trust: Option<PathBuf>,
    /// Where Envoys connect: unix:PATH, in which {fleet} stands for namespace.gateway, or tcp:ADDRESS; repeats. After
    /// unix:PATH?uid=101&gid=5 only these users and groups may connect. A socket that systemd holds is taken over
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
    /// Which fleet a client may ask for: a name in its certificate (SPIFFE or DNS), or the account of its token as
    /// system:serviceaccount:NAMESPACE:NAME; * stands for every certificate of --client-ca; repeats.
    #[arg(long, value_name = "NAME=FLEET", env = "MOORGATE_RELAY_MEMBER", value_delimiter = ',')]
    pub member: Vec<String>,
    /// A file with more of that, NAME=FLEET a line, read again every minute and on SIGHUP: who is let in or cut off
    /// changes while the relay runs.
    #[arg(long, value_name = "FILE", env = "MOORGATE_RELAY_MEMBER_FILE")]
    pub member_file: Option<PathBuf>,
    /// The public keys of the tokens by which clients on TCP are known: file:PATH of a JSON Web Key Set, or kubernetes
    /// for those of the API server, which are kept in the cache.
    #[arg(long, value_name = "KEYS", env = "MOORGATE_RELAY_TOKEN_KEYS")]
    pub token_keys: Option<String>,
    /// Who gives these tokens out: the API server's --service-account-issuer.
    #[arg(long, value_name = "URL", env = "MOORGATE_RELAY_TOKEN_ISSUER")]
    pub token_issuer: Option<String>,
    /// The audience that these tokens must have [default: moorgate-relay].
    #[arg(long, value_name = "NAME", env = "MOORGATE_RELAY_TOKEN_AUDIENCE")]
    pub token_audience: Option<String>,
    /// The folder that survives restarts. Without it, a restart without the store has nothing to serve.
    #[arg(long, value_name = "DIR", env = "MOORGATE_RELAY_CACHE")]
    pub cache: Option<PathBuf>,
    /// A snapshot that came with the machine or image, for a start without store and cache: a folder laid out as a store,
    /// such as a copy of the fleet's part of one.
    #[arg(long, value_name = "DIR", env = "MOORGATE_RELAY_SEED")]
    pub seed: Option<PathBuf>,
    /// A file that holds a fleet at the snapshot whose id stands in it, whatever the channel says, as long as it is there;
    /// {fleet} stands for namespace.gateway. Without it the file "pin" in the fleet's cache does.
    #[arg(long, value_name = "FILE", env = "MOORGATE_RELAY_PIN_FILE")]
    pub pin_file: Option<PathBuf>,
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
    /// Endpoints that `moorgate endpoints put`, and secrets that `moorgate seal` wrote, come from the store.
    #[arg(long, env = "MOORGATE_RELAY_STORE_VALUES")]
    pub store_values: bool,
    /// The file of age identities that open sealed secrets of the store; it implies --store-values, and is read again
    /// whenever they change.
    #[arg(long, value_name = "FILE", env = "MOORGATE_RELAY_SECRETS_IDENTITY")]
    pub secrets_identity: Option<PathBuf>,
    /// Endpoints and secrets that no folder holds come from a Kubernetes API server: that of the cluster which this is a pod
    /// of, or that of --kubeconfig.
    #[arg(long, env = "MOORGATE_RELAY_KUBERNETES")]
    pub kubernetes: bool,
    /// With --on-demand and --kubernetes, read what a fleet binds with the token that its Envoys hand over in the header
    /// moorgate-kubernetes-token, not with the relay's own: it then needs no right to any Secret.
    #[arg(long, env = "MOORGATE_RELAY_KUBERNETES_AS_CLIENT")]
    pub kubernetes_as_client: bool,
    /// The kubeconfig whose present context names the API server; goes with --kubernetes.
    #[arg(long, value_name = "FILE", env = "MOORGATE_RELAY_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// The time between polls, give or take a fifth [default: 5s].
    #[arg(long, value_name = "TIME", env = "MOORGATE_RELAY_POLL_INTERVAL")]
    pub poll_interval: Option<String>,
    /// How long a cluster stays after nothing refers to it any more [default: 30s].
    #[arg(long, value_name = "TIME", env = "MOORGATE_RELAY_LINGER")]
    pub linger: Option<String>,
    /// A resource that clients drop when they have heard nothing of it for so long, such as RTDS/faults=30s, for those that
    /// understand it; the relay sends heartbeats, also without its store. Only for what must end with the relay; repeats.
    #[arg(long, value_name = "TYPE/NAME=TIME", env = "MOORGATE_RELAY_TTL", value_delimiter = ',')]
    pub ttl: Vec<String>,
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
    /// Streams and connections of one client: a process, or an address [default: three quarters of --max-streams].
    #[arg(long, value_name = "COUNT", env = "MOORGATE_RELAY_MAX_STREAMS_PER_CLIENT")]
    pub max_streams_per_client: Option<usize>,
    /// The name of this relay, as Envoys and reports show it and waves count it: unique in its fleet and the same after a
    /// restart [default: POD_NAME, or else the name of the host].
    #[arg(long, value_name = "NAME", env = "MOORGATE_RELAY_NAME")]
    pub name: Option<String>,
    /// A label of this relay, by which a wave may select it, such as zone=eu-1; repeats.
    #[arg(long, value_name = "KEY=VALUE", env = "MOORGATE_RELAY_LABEL", value_delimiter = ',')]
    pub label: Vec<String>,
    /// The key with the role report, file:PATH: what the relay runs is written to the store, signed, for status and waves.
    #[arg(long, value_name = "KEY", env = "MOORGATE_RELAY_REPORT_KEY")]
    pub report_key: Option<String>,
    /// Where an Envoy shows its statistics, http://ADDRESS:PORT or unix:PATH with {fleet} in it: while a step of a wave
    /// bakes, its share of 5xx decides whether the candidate stays; repeats.
    #[arg(long, value_name = "ADDRESS", env = "MOORGATE_RELAY_ENVOY_ADMIN", value_delimiter = ',')]
    pub envoy_admin: Vec<String>,
    /// What the relay is called if no name is given; set by whoever knows pod and host.
    #[arg(skip)]
    #[serde(skip)]
    pub host: Option<String>,
    /// Log lines as text or json [default: text].
    #[arg(long, value_name = "FORMAT", env = "MOORGATE_RELAY_LOG_FORMAT")]
    pub log_format: Option<String>,
    /// Where traces are sent, an OpenTelemetry collector that speaks OTLP on gRPC: http://HOST:4317 or https://HOST:4317.
    #[arg(long, value_name = "URL", env = "MOORGATE_RELAY_TRACES")]
    pub traces: Option<String>,
    /// What is logged: error, warn, info, debug, or a filter [default: info].
    #[arg(long, value_name = "FILTER", env = "MOORGATE_RELAY_LOG")]
    pub log: Option<String>,
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
            store_token_file: self.store_token_file.or(below.store_token_file),
            store_ca_file: self.store_ca_file.or(below.store_ca_file),
            fleet: list(self.fleet, below.fleet),
            on_demand: self.on_demand || below.on_demand,
            forget_after: self.forget_after.or(below.forget_after),
            channel: self.channel.or(below.channel),
            trust: self.trust.or(below.trust),
            listen: list(self.listen, below.listen),
            tls_cert: self.tls_cert.or(below.tls_cert),
            tls_key: self.tls_key.or(below.tls_key),
            client_ca: self.client_ca.or(below.client_ca),
            member: list(self.member, below.member),
            member_file: self.member_file.or(below.member_file),
            token_keys: self.token_keys.or(below.token_keys),
            token_issuer: self.token_issuer.or(below.token_issuer),
            token_audience: self.token_audience.or(below.token_audience),
            cache: self.cache.or(below.cache),
            pin_file: self.pin_file.or(below.pin_file),
            seed: self.seed.or(below.seed),
            health: self.health.or(below.health),
            ready_acked: self.ready_acked || below.ready_acked,
            admin: self.admin.or(below.admin),
            endpoints: self.endpoints.or(below.endpoints),
            secrets: self.secrets.or(below.secrets),
            store_values: self.store_values || below.store_values,
            secrets_identity: self.secrets_identity.or(below.secrets_identity),
            kubernetes: self.kubernetes || below.kubernetes,
            kubernetes_as_client: self.kubernetes_as_client || below.kubernetes_as_client,
            kubeconfig: self.kubeconfig.or(below.kubeconfig),
            poll_interval: self.poll_interval.or(below.poll_interval),
            linger: self.linger.or(below.linger),
            ttl: list(self.ttl, below.ttl),
            drain: self.drain.or(below.drain),
            max_request: self.max_request.or(below.max_request),
            max_response: self.max_response.or(below.max_response),
            max_streams: self.max_streams.or(below.max_streams),
            max_streams_per_client: self.max_streams_per_client.or(below.max_streams_per_client),
            name: self.name.or(below.name),
            label: list(self.label, below.label),
            report_key: self.report_key.or(below.report_key),
            envoy_admin: list(self.envoy_admin, below.envoy_admin),
            host: self.host,
            log_format: self.log_format.or(below.log_format),
            log: self.log.or(below.log),
            traces: self.traces.or(below.traces),
        }
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
fn parse(path: &Path, bytes: &[u8]) -> Result<Options, String> {
    if path.extension().is_none_or(|extension| extension != "json") {
        return Err("this relay was built without the feature yaml: write it as JSON, NAME.json".to_owned());
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}
