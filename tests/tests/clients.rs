//! Real clients that ask for what ordinary gateways do not: gRPC's own, by an API listener, in state of the world; and an
//! Envoy that finds its virtual hosts on demand.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

/// The publisher that the relay's own suite uses.
#[path = "../../relay/tests/relay/publisher.rs"]
#[allow(dead_code, reason = "another suite uses the rest")]
mod publisher;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType as NetworkConfig;
use envoy_types::pb::envoy::config::listener::v3::{ApiListener, Filter, FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, Vhds, VirtualHost,
};
use envoy_types::pb::envoy::extensions::filters::http::on_demand::v3::OnDemand;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds,
};
use envoy_types::pb::google::protobuf::Any;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use moorgate_relay::serve::types;
use moorgate_snapshot::{
    Binding, BindingKind, BindingSource, EndpointSource, Family, FleetName, Record, Reference, Resource, Store,
};
use moorgate_tests::backend::Backend;
use moorgate_tests::http::{Request, Target, send, send_until};
use moorgate_tests::stack::Stack;
use moorgate_tests::{ports, program, runtime, wait};
use prost::Message;
use publisher::Publisher;
use std::convert::Infallible;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const SERVICE: &str = "greeter.shop";

/// A gRPC server that calls itself healthy; dropping it stops it.
struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    fn start() -> Self {
        let listener = runtime().block_on(TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let task = runtime().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(|_: http::Request<hyper::body::Incoming>| async {
                    Ok::<_, Infallible>(healthy())
                });
                let connection =
                    http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Self { address, task }
    }
}

type Frames = futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>;

/// `HealthCheckResponse { status: SERVING }`.
fn healthy() -> http::Response<StreamBody<Frames>> {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let frames =
        vec![Ok(Frame::data(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]))), Ok(Frame::trailers(trailers))];
    let mut response = http::Response::new(StreamBody::new(futures::stream::iter(frames)));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    response
}

/// The client's process: a call for each line.
struct Client {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Client {
    fn start(stack: &Stack) -> Result<Self> {
        let bootstrap = stack.folder().join("grpc.json");
        let text = serde_json::json!({
            "xds_servers": [{
                "server_uri": format!("unix://{}", stack.socket().display()),
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }],
            "node": {"id": "grpc-1"},
        });
        std::fs::write(&bootstrap, text.to_string())?;
        let mut child = Command::new(program::go("grpc")?)
            .arg(format!("xds:///{SERVICE}"))
            .env("GRPC_XDS_BOOTSTRAP", &bootstrap)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().context("a pipe")?;
        let output = BufReader::new(child.stdout.take().context("a pipe")?);
        Ok(Self { child, input, output })
    }

    /// How a call ended.
    fn call(&mut self) -> Result<String> {
        writeln!(self.input, "anything")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Calls until this server answers.
    fn reaches(&mut self, server: &Server) -> Result<()> {
        let wanted = format!("SERVING {}", server.address);
        wait::until("an answer of the right server", || {
            let found = self.call()?;
            ensure!(found == wanted, "{found}");
            Ok(())
        })
    }
}

fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource::default())),
        ..Default::default()
    }
}

fn any(type_url: &str, message: &impl Message) -> Any {
    Any { type_url: type_url.into(), value: message.encode_to_vec() }
}

fn record(type_url: &str, name: &str, message: &impl Message, refs: Vec<Reference>) -> Record {
    Record::Resource(Resource {
        type_url: type_url.into(),
        name: name.into(),
        part: "".into(),
        bytes: message.encode_to_vec().into(),
        refs,
    })
}

/// A connection manager that asks for this route table.
fn manager(routes: &str, filters: Vec<HttpFilter>) -> Any {
    let manager = HttpConnectionManager {
        stat_prefix: routes.into(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: routes.into(),
        })),
        http_filters: filters,
        ..Default::default()
    };
    any(
        "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        &manager,
    )
}

/// An HTTP filter: its package and its message's name.
fn filter(package: &str, name: &str, message: &impl Message) -> HttpFilter {
    let type_url = format!("type.googleapis.com/envoy.extensions.filters.http.{package}.v3.{name}");
    let config_type = Some(ConfigType::TypedConfig(any(&type_url, message)));
    HttpFilter { name: package.into(), config_type, ..Default::default() }
}

fn router() -> HttpFilter {
    filter("router", "Router", &Router::default())
}

/// A host under which everything goes to one cluster.
fn host(name: &str, domain: &str, prefix: &str, cluster: &str) -> VirtualHost {
    let specifier = ClusterSpecifier::Cluster(cluster.into());
    let action = RouteAction { cluster_specifier: Some(specifier), ..Default::default() };
    let matched =
        RouteMatch { path_specifier: Some(PathSpecifier::Prefix(prefix.into())), ..Default::default() };
    let route = Route { r#match: Some(matched), action: Some(Action::Route(action)), ..Default::default() };
    VirtualHost { name: name.into(), domains: vec![domain.into()], routes: vec![route], ..Default::default() }
}

/// What a gRPC client needs to reach a service by one cluster with these endpoints.
fn world(cluster: &str, endpoints: &[SocketAddr]) -> Vec<Record> {
    let table = "greeter-routes";
    let listener = Listener {
        name: SERVICE.into(),
        api_listener: Some(ApiListener { api_listener: Some(manager(table, vec![router()])) }),
        ..Default::default()
    };
    let routes = RouteConfiguration {
        name: table.into(),
        virtual_hosts: vec![host("greeter", "*", "", cluster)],
        ..Default::default()
    };
    let eds_name = format!("{cluster}-endpoints");
    let cluster_config = Cluster {
        name: cluster.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads()),
            service_name: eds_name.clone(),
        }),
        lb_policy: LbPolicy::RoundRobin.into(),
        ..Default::default()
    };
    let source = EndpointSource {
        namespace: "".into(),
        service: "".into(),
        port_name: "".into(),
        port: 0,
        family: Family::Any,
        weight: 1,
        hostname: "".into(),
        addresses: endpoints.iter().map(|address| address.to_string().into()).collect(),
    };
    let reference = Reference { kind: BindingKind::Endpoints, name: eds_name.as_str().into() };
    vec![
        record(types::LISTENER, SERVICE, &listener, Vec::new()),
        record(types::ROUTE, table, &routes, Vec::new()),
        record(types::CLUSTER, cluster, &cluster_config, vec![reference]),
        Record::Binding(Binding {
            kind: BindingKind::Endpoints,
            name: eds_name.as_str().into(),
            source: BindingSource::Endpoints(vec![source]),
        }),
    ]
}

#[test]
fn a_grpc_client_resolves_calls_and_follows() {
    let mut stack = Stack::new("shop/edge").unwrap();
    let mut publisher = Publisher::new(Store::open(&stack.store_url()).unwrap());
    publisher.fleet = FleetName::gateway("shop", "edge");
    std::fs::write(stack.trust(), publisher.trust()).unwrap();
    let [one, two, three] = [(); 3].map(|()| Server::start());
    let mut publish = |cluster: &str, endpoints: &[SocketAddr]| {
        runtime().block_on(publisher.publish(world(cluster, endpoints)));
    };
    publish("first", &[one.address]);
    stack.start_relay().unwrap();
    let mut client = Client::start(&stack).unwrap();
    assert_eq!(
        client.call().unwrap(),
        format!("SERVING {}", one.address),
        "the first call waits until all is there"
    );
    // Other endpoints, then another cluster.
    publish("first", &[two.address]);
    client.reaches(&two).unwrap();
    publish("second", &[three.address]);
    client.reaches(&three).unwrap();
    let clients = stack.relay_admin("/clients").unwrap().to_string();
    assert!(clients.contains("grpc-1") && clients.contains("gRPC Go"), "{clients}");
    assert!(!clients.contains("\"nack\":\""), "{clients}");
    // The relay goes, and calls go on; it comes back, and what is new arrives.
    stack.relay().unwrap().kill();
    assert_eq!(client.call().unwrap(), format!("SERVING {}", three.address));
    publish("third", &[one.address]);
    stack.start_relay().unwrap();
    client.reaches(&one).unwrap();
}

fn address(socket: SocketAddr) -> Address {
    let socket = SocketAddress {
        address: socket.ip().to_string(),
        port_specifier: Some(PortSpecifier::PortValue(socket.port().into())),
        ..Default::default()
    };
    Address { address: Some(AddressKind::SocketAddress(socket)) }
}

/// A listener whose virtual hosts are found on demand, a cluster, and a host of each of these names.
fn on_demand(port: u16, backend: SocketAddr, hosts: &[&str]) -> Vec<Record> {
    let filters = vec![filter("on_demand", "OnDemand", &OnDemand::default()), router()];
    let config_type = Some(NetworkConfig::TypedConfig(manager("demand", filters)));
    let filters = vec![Filter { name: "http".into(), config_type }];
    let listener = Listener {
        name: "demand".into(),
        address: Some(address(SocketAddr::from(([127, 0, 0, 1], port)))),
        filter_chains: vec![FilterChain { filters, ..Default::default() }],
        ..Default::default()
    };
    let routes = RouteConfiguration {
        name: "demand".into(),
        vhds: Some(Vhds { config_source: Some(ads()) }),
        ..Default::default()
    };
    let endpoint = Endpoint { address: Some(address(backend)), ..Default::default() };
    let host_identifier = Some(HostIdentifier::Endpoint(endpoint));
    let lb_endpoints = vec![LbEndpoint { host_identifier, ..Default::default() }];
    let load_assignment = ClusterLoadAssignment {
        cluster_name: "shop".into(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints, ..Default::default() }],
        ..Default::default()
    };
    let cluster = Cluster {
        name: "shop".into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        load_assignment: Some(load_assignment),
        ..Default::default()
    };
    let mut records = vec![
        record(types::LISTENER, "demand", &listener, Vec::new()),
        record(types::ROUTE, "demand", &routes, Vec::new()),
        record(types::CLUSTER, "shop", &cluster, Vec::new()),
    ];
    for domain in hosts {
        let name = format!("demand/{domain}");
        records.push(record(types::VIRTUAL_HOST, &name, &host(&name, domain, "/", "shop"), Vec::new()));
    }
    records
}

#[test]
fn an_envoy_finds_virtual_hosts_on_demand_and_hears_of_those_that_nobody_knows() {
    let mut stack = Stack::new("shop/edge").unwrap();
    let mut publisher = Publisher::new(Store::open(&stack.store_url()).unwrap());
    publisher.fleet = FleetName::gateway("shop", "edge");
    std::fs::write(stack.trust(), publisher.trust()).unwrap();
    let (port, backend) = (ports::free().unwrap(), Backend::start("shop").unwrap());
    let mut publish = |hosts: &[&str]| {
        runtime().block_on(publisher.publish(on_demand(port, backend.address(), hosts)));
    };
    publish(&["known.example"]);
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let target = Target::plain(port);
    let ask = |host: &str, who: &str| {
        send_until(&target, &Request::get(host, "/"), host, |answer| answer.who() == who).unwrap();
    };
    ask("known.example", "shop");
    // The first answer is the last word: without one Envoy would hold the request.
    assert_eq!(send(&target, &Request::get("late.example", "/")).unwrap().status, 404);
    publish(&["known.example", "late.example"]);
    ask("late.example", "shop");
    ask("known.example", "shop");
}
