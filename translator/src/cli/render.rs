//! `moorgate render`

use super::input::{Compiled, Fleets, Input};
use super::{Exit, Failure, output};
use crate::render::{
    self, Applier, Fleet, Model, Node, Pool, RenderError, ReportSecret, Settings, StoreVolume,
};
use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use moorgate_snapshot::Channel;
use moorgate_snapshot::trust::chain::Anchor;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::str::FromStr;

/// Print the manifests that run a source's fleets on Kubernetes
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate render gateways/ --store s3://bucket/prefix --trust trust.json > fleets.yaml
  moorgate render gateways/ --store s3://bucket/prefix --trust trust.json --model pool --pool-tls relays-tls \
    --pool-ca ca.crt --token-issuer https://kubernetes.default.svc.cluster.local
  moorgate render gateways/ --store s3://bucket/prefix --trust trust.json --model node --relay-tls relays-tls \
    --relay-ca ca.crt --token-issuer https://kubernetes.default.svc.cluster.local
  moorgate render gateways/ --fleet shop/edge --store s3://bucket/prefix --trust trust.json | kubectl apply --server-side -f -

For each Gateway: a Deployment of Envoy with a relay in the same pod, its Service, ServiceAccount, Roles for what its routes
and listeners name, NetworkPolicy, and a ConfigMap. Gateway spec.infrastructure and an EnvoyProxy as its parametersRef shape
them. With --model pool, Envoy is alone in its pod, and each class has a Deployment of relays that knows it by the token of
its ServiceAccount. With --model node, a DaemonSet of relays for all classes takes the place of these: each opens the fleets
whose Envoys are on its node, and reads for them with their own tokens. The same source gives the same text. A Gateway none of whose listeners is served has no manifests. Exits 1 if anything
is an error.")]
pub(super) struct RenderArgs {
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    fleets: Fleets,
    /// The store that relays pull from; repeat for mirrors
    #[arg(long, value_name = "URL", env = "MOORGATE_STORE", value_delimiter = ',', required = true)]
    store: Vec<String>,
    /// The file with the keys that relays trust
    #[arg(long, value_name = "FILE", env = "MOORGATE_TRUST")]
    trust: PathBuf,
    /// The channel that relays follow
    #[arg(long, default_value_t)]
    channel: Channel,
    /// A Secret in each Gateway's namespace with the key that signs reports, under report.key
    #[arg(long, value_name = "SECRET")]
    report_secret: Option<String>,
    #[command(flatten)]
    shape: FleetArgs,
    #[command(flatten)]
    pool: PoolArgs,
}

/// Relays in pods of their own: the same for `render` and `watch --provision`.
#[derive(Debug, Clone, Args)]
pub(super) struct PoolArgs {
    /// How Envoys reach a relay
    #[arg(long, value_enum, default_value_t = ModelArg::Sidecar)]
    model: ModelArg,
    /// The namespace of the relays of a pool, or of nodes
    #[arg(
        long,
        visible_alias = "relay-namespace",
        value_name = "NAMESPACE",
        default_value = "moorgate-system"
    )]
    pool_namespace: String,
    /// A Secret in it, of type kubernetes.io/tls, with a certificate for CLASS-DIGEST-relays.NAMESPACE.svc, the Service that
    /// is printed, or for moorgate-node.NAMESPACE.svc
    #[arg(long, visible_alias = "relay-tls", value_name = "SECRET", required_if_eq_any([("model", "pool"), ("model", "node")]))]
    pool_tls: Option<String>,
    /// The file with the CA of that certificate, PEM
    #[arg(long, visible_alias = "relay-ca", value_name = "FILE", required_if_eq_any([("model", "pool"), ("model", "node")]))]
    pool_ca: Option<PathBuf>,
    /// How many relays a pool has
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    pool_replicas: u32,
    /// Who gives out the tokens of ServiceAccounts: the API server's --service-account-issuer
    #[arg(long, value_name = "URL", required_if_eq_any([("model", "pool"), ("model", "node")]))]
    token_issuer: Option<String>,
}

/// What fleets are made of: the same for `render` and `watch --provision`.
#[derive(Debug, Clone, Args)]
pub(super) struct FleetArgs {
    /// The image of moorgate-relay
    #[arg(long, value_name = "IMAGE", default_value = render::RELAY_IMAGE)]
    relay_image: String,
    /// The image of Envoy; it has the program at /usr/local/bin/envoy
    #[arg(long, value_name = "IMAGE", default_value = render::ENVOY_IMAGE)]
    envoy_image: String,
    /// Where pods find a file:// store: host (the same path on their node) or claim:NAME (a PersistentVolumeClaim)
    #[arg(long, value_name = "VOLUME")]
    store_volume: Option<VolumeArg>,
    /// A Secret in each Gateway's namespace whose keys become the relay's environment: the store's credentials
    #[arg(long, value_name = "SECRET")]
    store_secret: Option<String>,
    /// The store is served by watch --serve-store: relays show it a token of their pod
    #[arg(long)]
    store_token: bool,
    /// The namespace of fleets that serve a merged class
    #[arg(long, value_name = "NAMESPACE", default_value = "moorgate-system")]
    merged_namespace: String,
    /// The file with the CA of a store over HTTPS, PEM
    #[arg(long, value_name = "FILE")]
    store_ca: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModelArg {
    /// A relay in each Envoy's pod
    Sidecar,
    /// Relays for each GatewayClass, over TLS
    Pool,
    /// A relay on each node, for the Envoys there, over TLS
    Node,
}

impl PoolArgs {
    /// The model that these ask for.
    pub(super) fn model(&self) -> Result<Model, Failure> {
        let (Some(secret), Some(path), Some(issuer)) = (&self.pool_tls, &self.pool_ca, &self.token_issuer)
        else {
            return Ok(Model::Sidecar);
        };
        if self.model == ModelArg::Sidecar {
            return Ok(Model::Sidecar);
        }
        let ca = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        if !ca.contains("-----BEGIN CERTIFICATE-----") {
            return Err(Failure::new(Exit::Usage, anyhow!("{} holds no certificate", path.display())));
        }
        let (namespace, tls_secret) = (self.pool_namespace.clone(), secret.clone());
        let token_issuer = issuer.clone();
        Ok(if self.model == ModelArg::Node {
            Model::Node(Node { namespace, tls_secret, ca, token_issuer })
        } else {
            Model::Pool(Pool { namespace, tls_secret, ca, token_issuer, replicas: self.pool_replicas })
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct VolumeArg(StoreVolume);

impl FromStr for VolumeArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "host" => Ok(Self(StoreVolume::HostPath)),
            Some(("claim", name)) if !name.is_empty() => Ok(Self(StoreVolume::Claim(name.to_owned()))),
            _ => Err("write host or claim:NAME"),
        }
    }
}

impl FleetArgs {
    /// Whether the CA of the store was given.
    pub(super) fn names_a_store_ca(&self) -> bool {
        self.store_ca.is_some()
    }

    /// The settings of all fleets.
    pub(super) fn settings(
        &self,
        applier: Applier,
        controller_name: &str,
        trust: String,
    ) -> Result<Settings, Failure> {
        let read = |path: &PathBuf| std::fs::read_to_string(path).with_context(|| path.display().to_string());
        Ok(Settings {
            model: Model::Sidecar,
            applier,
            controller_name: controller_name.to_owned(),
            stores: Vec::new(),
            store_volume: self.store_volume.clone().map(|volume| volume.0),
            store_secret: self.store_secret.clone(),
            store_tokens: self.store_token,
            store_ca: self.store_ca.as_ref().map(read).transpose()?,
            channel: Channel::stable(),
            trust,
            report_secret: None,
            relay_image: self.relay_image.clone(),
            envoy_image: self.envoy_image.clone(),
            merged_namespace: self.merged_namespace.clone(),
        })
    }
}

/// Runs the command.
pub(super) async fn run(args: RenderArgs) -> Result<Exit, Failure> {
    let trust = std::fs::read(&args.trust).with_context(|| args.trust.display().to_string())?;
    // A file that relays would refuse is found here.
    Anchor::parse(&trust).with_context(|| args.trust.display().to_string())?;
    let trust = String::from_utf8(trust).with_context(|| args.trust.display().to_string())?;
    let settings = Settings {
        model: args.pool.model()?,
        stores: args.store.clone(),
        channel: args.channel.clone(),
        report_secret: args.report_secret.clone().map(ReportSecret::Named),
        ..args.shape.settings(Applier::Render, &args.input.reading.controller_name, trust)?
    };
    let compiled = args.input.reading.compile(&args.input.sources).await?;
    compiled.print_diagnostics();
    if let Some(fleet) = args.fleets.missing(&compiled.compilation) {
        return Err(Failure::new(Exit::Usage, anyhow!("the source has no fleet {fleet}")));
    }
    output::print(&render::documents(&manifests(&compiled, &args.fleets, &settings)?))?;
    Ok(compiled.exit())
}

fn manifests(compiled: &Compiled, wanted: &Fleets, settings: &Settings) -> Result<Vec<Value>, Failure> {
    let compilation = &compiled.compilation;
    let mut classes: BTreeMap<String, Vec<Fleet>> = BTreeMap::new();
    for (name, fleet) in &compilation.fleets {
        let fleet = Fleet::of(name, fleet, &compilation.objects, &settings.merged_namespace);
        for fleet in fleet.into_iter().filter(|fleet| !fleet.ports.is_empty()) {
            classes.entry(fleet.infrastructure.class.clone()).or_default().push(fleet);
        }
    }
    let mut out = Vec::new();
    let all: Vec<Fleet> = classes.values().flatten().cloned().collect();
    for (class, fleets) in classes {
        let printed: Vec<&Fleet> = fleets.iter().filter(|fleet| wanted.wants(&fleet.name)).collect();
        for fleet in &printed {
            out.extend(context(render::manifests(fleet, settings), || format!("fleet {}", fleet.name))?);
        }
        // A pool serves all fleets of its class, whichever of them are printed.
        if let (Model::Pool(pool), false) = (&settings.model, printed.is_empty()) {
            let manifests = render::pool_manifests(&class, &fleets, settings, pool);
            out.extend(context(manifests, || format!("relays of class {class}"))?);
        }
    }
    // The relays of nodes serve all fleets of all classes.
    if let (Model::Node(node), false) = (&settings.model, out.is_empty()) {
        let manifests = render::node_manifests(&all, settings, node);
        out.extend(context(manifests, || "relays of nodes".to_owned())?);
    }
    let text =
        |manifest: &Value, field: &str| manifest["metadata"][field].as_str().unwrap_or_default().to_owned();
    let mut seen = BTreeSet::new();
    for manifest in &out {
        let kind = manifest["kind"].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text(manifest, "namespace"), text(manifest, "name"));
        if !seen.insert((kind.clone(), namespace.clone(), name.clone())) {
            return Err(Failure::new(Exit::Usage, anyhow!("two fleets have a {kind} {namespace}/{name}")));
        }
    }
    Ok(out)
}

fn context<T>(made: Result<T, RenderError>, what: impl Fn() -> String) -> Result<T, Failure> {
    made.with_context(what).map_err(|error| Failure::new(Exit::Usage, error))
}
