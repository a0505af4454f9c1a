//! A fleet whose routes flip: one host for each way in which configuration changes, each with a Service of its own.

use crate::flips::publisher::Publisher;
use anyhow::{Context as _, Result, ensure};
use envoy_types::pb::envoy::config::common::mutation_rules::v3::{
    HeaderMutation as Change, header_mutation::Action,
};
use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction,
};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType as NetworkConfig;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener as EnvoyListener};
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::{HeaderMutation, Mutations};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter,
};
use envoy_types::pb::google::protobuf::Any;
use moorgate::compile::{Options, compile};
use moorgate::source::File;
use moorgate_snapshot::{Digest, FleetName, Record, Store};
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{self, Request, send};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::stack::Stack;
use moorgate_tests::{ports, runtime, wait};
use prost::Message as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A way in which configuration changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A route goes to another backend: a cluster comes and another goes.
    Backend,
    /// A host goes from the listener for all hosts to one of its own, and back.
    Host,
    /// A cluster stays under its name and is another one: it speaks HTTP/2 to its backend, or no more.
    Cluster,
    /// All listeners' HTTP filters change.
    Filter,
    /// The certificate is renewed.
    Certificate,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Backend, Self::Host, Self::Cluster, Self::Filter, Self::Certificate];
}

const SWAP: &str = "swap.example.com";
const MOVE: &str = "move.example.com";
const REPLACE: &str = "replace.example.com";
const FILTER: &str = "filter.example.com";

/// One host for each kind; all of them are under load all the time. Certificates are of all of them.
pub(crate) const HOSTS: [&str; 4] = [SWAP, MOVE, REPLACE, FILTER];

/// The clusters that a flip of backends leaves behind go after this time.
const LINGER: &str = "500ms";

/// Which way each kind has flipped last.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    green: bool,
    own: bool,
    modern: bool,
    filters: u32,
}

pub(crate) struct Stage {
    stack: Stack,
    publisher: Publisher,
    authority: CertifiedIssuer<'static, KeyPair>,
    state: State,
    pub(crate) http: u16,
    pub(crate) https: u16,
    pub(crate) client: Arc<ClientConfig>,
    _backends: Vec<Backend>,
}

impl Stage {
    pub(crate) fn start() -> Result<Self> {
        let mut stack = Stack::new("edge/public")?;
        stack.relay_arguments = ["--linger", LINGER].map(str::to_owned).to_vec();
        // What a flip of listeners leaves behind is drained in seconds, so that it happens during the test.
        stack.envoy_arguments = ["--drain-time-s", "3"].map(str::to_owned).to_vec();
        let mut publisher = Publisher::new(Store::open(&stack.store_url())?);
        publisher.fleet = FleetName::gateway("edge", "public");
        std::fs::write(stack.trust(), publisher.trust())?;
        let mut backends = Vec::new();
        for service in ["blue", "green", "move", "replace", "filter"] {
            let backend = Backend::start(service)?;
            stack.set_endpoints("shop", service, &[backend.address()])?;
            backends.push(backend);
        }
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let mut roots = RootCertStore::empty();
        roots.add(AsRef::<rcgen::Certificate>::as_ref(&authority).der().clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut stage = Self {
            publisher,
            authority,
            state: State::default(),
            http: ports::free()?,
            https: ports::free()?,
            client: Arc::new(client),
            _backends: backends,
            stack,
        };
        stage.renew()?;
        let snapshot = stage.publish()?;
        stage.stack.start_relay()?;
        stage.stack.start_envoy(&[stage.http, stage.https])?;
        stage.taken(&snapshot)?;
        for host in HOSTS {
            let target = http::Target::plain(stage.http);
            http::send_until(&target, &Request::get(host, "/"), host, |answer| answer.status == 200)?;
        }
        Ok(stage)
    }

    /// Changes one thing, and waits until Envoy has taken the change.
    pub(crate) fn flip(&mut self, kind: Kind) -> Result<()> {
        match kind {
            Kind::Certificate => {
                let leaf = self.renew()?;
                return wait::until("the new certificate", || {
                    ensure!(self.presented()? == leaf, "another one is presented");
                    Ok(())
                });
            }
            Kind::Backend => self.state.green = !self.state.green,
            Kind::Host => self.state.own = !self.state.own,
            Kind::Cluster => self.state.modern = !self.state.modern,
            Kind::Filter => self.state.filters += 1,
        }
        let snapshot = self.publish()?;
        self.taken(&snapshot)?;
        self.seen(kind)
    }

    /// Envoy acknowledged all of the snapshot.
    fn taken(&self, snapshot: &Digest) -> Result<()> {
        wait::until("Envoy to take the snapshot", || {
            let clients = self.stack.relay_admin("/clients")?;
            ensure!(clients.to_string().contains(&format!("\"synced\":\"{snapshot}\"")), "{clients}");
            Ok(())
        })
    }

    /// New requests on new connections meet the new state.
    fn seen(&self, kind: Kind) -> Result<()> {
        let (host, target) = match kind {
            Kind::Host => (MOVE, http::Target::plain(self.http)),
            Kind::Backend => (SWAP, http::Target::plain(self.http)),
            Kind::Cluster => (REPLACE, http::Target::plain(self.http)),
            Kind::Filter | Kind::Certificate => (FILTER, http::Target::plain(self.http)),
        };
        wait::until("the new state", || {
            let answer = send(&target, &Request::get(host, "/"))?;
            let found = match kind {
                Kind::Backend => answer.who() == if self.state.green { "green" } else { "blue" },
                Kind::Cluster => {
                    let protocol = if self.state.modern { "HTTP/2.0" } else { "HTTP/1.1" };
                    answer.echo()?.protocol == protocol
                }
                Kind::Filter => answer.header("x-filters") == Some(&*self.state.filters.to_string()),
                Kind::Host | Kind::Certificate => answer.status == 200,
            };
            ensure!(found, "{kind:?}: {answer:?}");
            Ok(())
        })
    }

    /// Envoy and relay live.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.stack.relay()?.check()?;
        self.stack.envoy()?.process().check()
    }

    /// Each swap left a cluster behind, which Envoy was told to drop.
    pub(crate) fn clusters_left(&mut self) -> Result<()> {
        let removed = self.stack.envoy()?.stat("cluster_manager.cluster_removed")?;
        ensure!(removed > 0, "no cluster was removed");
        for refused in ["listener_manager.lds.update_rejected", "cluster_manager.cds.update_rejected"] {
            ensure!(self.stack.envoy()?.stat(refused)? == 0, "{refused}");
        }
        Ok(())
    }

    /// Lays a new certificate beside the relay: its DER.
    fn renew(&self) -> Result<Vec<u8>> {
        let key = KeyPair::generate()?;
        let names: Vec<String> = HOSTS.iter().map(|host| (*host).to_owned()).collect();
        let leaf = CertificateParams::new(names)?.signed_by(&key, &self.authority)?;
        let certificate =
            Certificate { certificate: leaf.pem(), key: key.serialize_pem(), der: leaf.der().to_vec() };
        self.stack.set_secret("edge", "certificate", &certificate)?;
        Ok(certificate.der)
    }

    /// The certificate that a new connection meets.
    fn presented(&self) -> Result<Vec<u8>> {
        runtime().block_on(async {
            let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.https))).await?;
            let connector = TlsConnector::from(Arc::clone(&self.client));
            let stream = connector.connect(ServerName::try_from(SWAP)?, stream).await?;
            let shown = stream.get_ref().1.peer_certificates().and_then(|shown| shown.first());
            Ok(shown.context("no certificate")?.to_vec())
        })
    }

    fn documents(&self) -> Vec<String> {
        let state = self.state;
        let all = "*.example.com";
        let mut listeners = vec![
            Listener::http("any", self.http).hostname(all),
            Listener::https("tls-any", self.https, "certificate").hostname(all),
        ];
        if state.own {
            listeners.push(Listener::http("own", self.http).hostname(MOVE));
            listeners.push(Listener::https("tls-own", self.https, "certificate").hostname(MOVE));
        }
        let mut documents = vec![manifest::gateway_class(), manifest::gateway("edge", "public", &listeners)];
        let swap = if state.green { "green" } else { "blue" };
        for (host, service) in [(SWAP, swap), (MOVE, "move"), (REPLACE, "replace"), (FILTER, "filter")] {
            let name = host.split('.').next().unwrap_or(host);
            let route =
                manifest::http_route("shop", name, "edge/public", &[host], &manifest::rule("/", service));
            documents.push(route);
            let mut service_text = manifest::service("shop", service);
            if host == REPLACE && state.modern {
                service_text = service_text
                    .replace("      port: 80\n", "      port: 80\n      appProtocol: kubernetes.io/h2c\n");
            }
            documents.push(service_text);
        }
        documents
    }

    /// Compiles, and releases what came of it with the filters of now.
    fn publish(&mut self) -> Result<Digest> {
        let text = manifest::documents(&self.documents());
        let file = File { name: "source.yaml".into(), bytes: text.into_bytes().into() };
        let compilation = compile(&[file], &Options::default());
        let fleet = compilation.fleets.get(&self.publisher.fleet).context("the fleet did not compile")?;
        let records: Result<Vec<Record>> =
            fleet.snapshot.records().map(|record| with_filter(record, self.state.filters)).collect();
        Ok(runtime().block_on(self.publisher.publish(records?)))
    }
}

const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

/// The record; a listener with one more HTTP filter, which names its number on each answer.
fn with_filter(record: &Record, number: u32) -> Result<Record> {
    let mut record = record.clone();
    if let Record::Resource(resource) = &mut record
        && *resource.type_url == *LISTENER
    {
        let mut listener = EnvoyListener::decode(&*resource.bytes)?;
        for chain in listener.filter_chains.iter_mut().chain(&mut listener.default_filter_chain) {
            add_filter(chain, number)?;
        }
        resource.bytes = listener.encode_to_vec().into();
    }
    Ok(record)
}

fn add_filter(chain: &mut FilterChain, number: u32) -> Result<()> {
    for filter in &mut chain.filters {
        let Some(NetworkConfig::TypedConfig(any)) = &mut filter.config_type else { continue };
        let mut manager = HttpConnectionManager::decode(&*any.value)?;
        let header = HeaderValueOption {
            header: Some(HeaderValue {
                key: "x-filters".into(),
                value: number.to_string(),
                ..Default::default()
            }),
            append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
            ..Default::default()
        };
        let response_mutations = vec![Change { action: Some(Action::Append(header)) }];
        let mutations = Some(Mutations { response_mutations, ..Default::default() });
        let config = HeaderMutation { mutations, ..Default::default() };
        let any_config = Any {
            type_url: "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
                .into(),
            value: config.encode_to_vec(),
        };
        let filter = HttpFilter {
            name: "flips".into(),
            config_type: Some(ConfigType::TypedConfig(any_config)),
            ..Default::default()
        };
        manager.http_filters.insert(0, filter);
        any.value = manager.encode_to_vec();
    }
    Ok(())
}
