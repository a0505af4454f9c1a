//! A relay, the state that it is to serve, and a client that acknowledges all it gets.

use crate::client::{ADS_DELTA, ADS_WORLD, Delta, World, channel};
use crate::publisher::resource;
use crate::relay::Place;
use moorgate_relay::Relay;
use moorgate_relay::config::Config;
use moorgate_relay::serve::proto::{
    Any, ClusterLoadAssignment, DeltaDiscoveryRequest, DiscoveryRequest, Node,
};
use moorgate_relay::serve::stream::Settings;
use moorgate_relay::serve::types::{CLUSTER, ENDPOINT, LISTENER, ROUTE};
use moorgate_snapshot::{Binding, BindingKind, BindingSource, Digest, EndpointSource, Family, Record};
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Name and version; the version is a number that the content carries.
pub(super) type State = BTreeMap<String, u32>;

/// A response, read.
pub(super) struct Got {
    pub(super) type_url: String,
    pub(super) resources: State,
    pub(super) removed: Vec<String>,
    pub(super) nonce: String,
    /// Of the type in state of the world, of the snapshot in delta.
    pub(super) version: String,
    /// Of each resource, in delta.
    pub(super) versions: BTreeSet<String>,
}

enum Client {
    World(World),
    Delta(Delta),
}

pub(super) struct Rig {
    place: Place,
    relay: Relay,
    client: Client,
    /// What the store holds: type, name, version.
    state: BTreeMap<&'static str, State>,
    snapshot: Option<Digest>,
    /// By type: the last nonce and version, and in state of the world the names subscribed to.
    last: BTreeMap<String, (String, String)>,
    names: BTreeMap<&'static str, BTreeSet<String>>,
    first: bool,
    markers: u32,
    publications: u32,
}

pub(super) fn list(names: &str) -> Vec<&str> {
    names.split(',').collect()
}

/// The stream of a variant.
fn path(variant: &str, type_url: &str) -> &'static str {
    match (variant, type_url) {
        ("sotw_ads", _) => ADS_WORLD,
        ("delta_ads", _) => ADS_DELTA,
        ("sotw", CLUSTER) => "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
        ("sotw", LISTENER) => "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
        ("sotw", ROUTE) => "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
        ("sotw", ENDPOINT) => "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
        ("delta", CLUSTER) => "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
        ("delta", LISTENER) => "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
        ("delta", ROUTE) => "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
        ("delta", ENDPOINT) => "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
        other => panic!("no such variant: {other:?}"),
    }
}

/// A resource whose content tells its name and version.
fn record(type_url: &str, name: &str, version: u32) -> Record {
    if type_url != ENDPOINT {
        return resource(type_url, name, &format!("{name}={version}"), None);
    }
    let source = EndpointSource {
        namespace: "".into(),
        service: "".into(),
        port_name: "".into(),
        port: 0,
        family: Family::Any,
        weight: 1,
        hostname: "".into(),
        addresses: vec![format!("10.0.0.1:{version}").into()],
    };
    let source = BindingSource::Endpoints(vec![source]);
    Record::Binding(Binding { kind: BindingKind::Endpoints, name: name.into(), source })
}

fn read(any: &Any) -> (String, u32) {
    if any.type_url == ENDPOINT {
        let assignment = ClusterLoadAssignment::decode(any.value.clone()).unwrap();
        let endpoint = assignment.endpoints[0].lb_endpoints[0].endpoint.clone().unwrap();
        let port = endpoint.address.unwrap().socket_address.unwrap().port_value.unwrap();
        return (assignment.cluster_name, port);
    }
    let text = std::str::from_utf8(&any.value).unwrap();
    let (name, version) = text.split_once('=').unwrap();
    (name.to_owned(), version.parse().unwrap())
}

impl Rig {
    /// "A target setup with these services, each with these resources, and starting version 1", and a client.
    pub(super) async fn set_up(variant: &str, types: &[&'static str], names: &str) -> Self {
        let place = Place::new();
        // The suite removes resources and wants to hear of it at once.
        let settings = Settings { linger: Duration::ZERO, ..Settings::default() };
        let config = Config { settings, poll_interval: Duration::from_millis(20), ..place.config() };
        let relay = Relay::start(config).await.unwrap();
        let channel = channel(&place.path("shop.edge.sock")).await.unwrap();
        let path = path(variant, types[0]);
        let client = if variant.starts_with("sotw") {
            Client::World(World::open(channel, path, "test-id").await.unwrap())
        } else {
            Client::Delta(Delta::open(channel, path, "test-id").await.unwrap())
        };
        let resources: State = list(names).into_iter().map(|name| (name.to_owned(), 1)).collect();
        let mut rig = Self {
            place,
            relay,
            client,
            state: types.iter().map(|type_url| (*type_url, resources.clone())).collect(),
            snapshot: None,
            last: BTreeMap::new(),
            names: BTreeMap::new(),
            first: true,
            markers: 0,
            publications: 0,
        };
        rig.publish().await;
        rig
    }

    /// Puts a resource into the store, or a new version of it, as a new snapshot, and waits until the relay serves that.
    pub(super) async fn put(&mut self, type_url: &'static str, name: &str, version: u32) {
        self.state.entry(type_url).or_default().insert(name.to_owned(), version);
        self.publish().await;
    }

    pub(super) async fn remove(&mut self, type_url: &'static str, name: &str) {
        self.state.entry(type_url).or_default().remove(name);
        self.publish().await;
    }

    /// The marker of the next check changes with each snapshot: who sees it has seen all before it.
    fn marker(&self) -> String {
        format!("marker-{}", self.markers)
    }

    async fn publish(&mut self) {
        self.publications += 1;
        let marker = self.marker();
        for resources in self.state.values_mut() {
            resources.insert(marker.clone(), self.publications);
        }
        let records = self.state.iter().flat_map(|(type_url, resources)| {
            resources.iter().map(|(name, version)| record(type_url, name, *version))
        });
        let snapshot = self.place.publisher.publish(records.collect()).await;
        let mut views = self.relay.fleets()[0].hub.views();
        let served = views.wait_for(|view| view.as_ref().is_some_and(|view| view.config.id == snapshot));
        tokio::time::timeout(Duration::from_secs(20), served).await.expect("it is served").unwrap();
        self.snapshot = Some(snapshot);
    }

    /// All that is served of a type.
    pub(super) fn all(&self, type_url: &str) -> State {
        self.state[type_url].clone()
    }

    /// These of what is served.
    pub(super) fn only(&self, type_url: &str, names: &str) -> State {
        list(names).into_iter().map(|name| (name.to_owned(), self.state[type_url][name])).collect()
    }

    fn node(&mut self) -> Option<Node> {
        std::mem::take(&mut self.first).then(|| Node { id: "test-id".into(), ..Node::default() })
    }

    /// In state of the world the whole subscription, in delta what is added to it.
    pub(super) fn subscribe(&mut self, type_url: &'static str, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.request(type_url, names, Vec::new());
    }

    pub(super) fn unsubscribe(&mut self, type_url: &'static str, names: &[&str]) {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        self.request(type_url, Vec::new(), names);
    }

    fn request(&mut self, type_url: &'static str, names: Vec<String>, gone: Vec<String>) {
        let node = self.node();
        let (nonce, version) = self.last.get(type_url).cloned().unwrap_or_default();
        match &self.client {
            Client::World(client) => {
                self.names.insert(type_url, names.iter().cloned().collect());
                // The suite forgets the version when it unsubscribes from everything.
                let version_info = if names == [""] { String::new() } else { version };
                client.send(DiscoveryRequest {
                    version_info,
                    node,
                    resource_names: names,
                    type_url: type_url.into(),
                    response_nonce: nonce,
                    error_detail: None,
                });
            }
            Client::Delta(client) => client.send(DeltaDiscoveryRequest {
                node,
                type_url: type_url.into(),
                resource_names_subscribe: names,
                resource_names_unsubscribe: gone,
                ..DeltaDiscoveryRequest::default()
            }),
        }
    }

    /// The next response, acknowledged at once.
    pub(super) async fn next(&mut self) -> Got {
        let got = match &mut self.client {
            Client::World(client) => {
                let response = client.response().await;
                let names = &self.names[&*response.type_url];
                client.send(DiscoveryRequest {
                    version_info: response.version_info.clone(),
                    resource_names: names.iter().cloned().collect(),
                    type_url: response.type_url.clone(),
                    response_nonce: response.nonce.clone(),
                    ..DiscoveryRequest::default()
                });
                Got {
                    resources: response.resources.iter().map(read).collect(),
                    removed: Vec::new(),
                    versions: BTreeSet::new(),
                    type_url: response.type_url,
                    nonce: response.nonce,
                    version: response.version_info,
                }
            }
            Client::Delta(client) => {
                let response = client.response().await;
                client.ack(&response);
                let contents = response.resources.iter().map(|entry| entry.resource.as_ref().unwrap());
                let resources: State = contents.map(read).collect();
                let names: Vec<&String> = response.resources.iter().map(|entry| &entry.name).collect();
                assert!(
                    names.iter().all(|name| resources.contains_key(*name)),
                    "names are those of contents"
                );
                Got {
                    resources,
                    removed: response.removed_resources,
                    versions: response.resources.into_iter().map(|entry| entry.version).collect(),
                    type_url: response.type_url,
                    nonce: response.nonce,
                    version: response.system_version_info,
                }
            }
        };
        assert!(!got.nonce.is_empty() && !got.version.is_empty());
        self.last.insert(got.type_url.clone(), (got.nonce.clone(), got.version.clone()));
        got
    }

    /// The next response is of this type and holds exactly these.
    pub(super) async fn receives(&mut self, type_url: &str, resources: &State) -> Got {
        let got = self.next().await;
        assert_eq!((got.type_url.as_str(), &got.resources), (type_url, resources));
        if matches!(self.client, Client::Delta(_)) {
            assert_eq!(Some(&*got.version), self.snapshot.map(|id| id.short()).as_deref());
        }
        got
    }

    /// Nothing came since the last response: a marker is asked for, and its answer holds the marker of the newest snapshot
    /// and nothing that was not to be expected in it.
    pub(super) async fn is_silent(&mut self, type_url: &'static str) {
        let marker = self.marker();
        if !self.state[type_url].contains_key(&marker) {
            // The last check was the last change.
            self.publish().await;
        }
        self.markers += 1;
        let newest = self.state[type_url][&marker];
        let mut wanted = State::from([(marker.clone(), newest)]);
        if let (Client::World(_), Some(names)) = (&self.client, self.names.get(type_url)) {
            let names: Vec<String> = names.iter().filter(|name| !name.is_empty()).cloned().collect();
            if [CLUSTER, LISTENER].contains(&type_url) {
                // The full set is sent there, or nothing.
                wanted.extend(
                    names.iter().filter_map(|name| Some((name.clone(), *self.state[type_url].get(name)?))),
                );
            }
            let names: Vec<&str> = names.iter().map(String::as_str).chain([&*marker]).collect();
            self.subscribe(type_url, &names);
        } else {
            self.subscribe(type_url, &[&marker]);
        }
        loop {
            let got = self.next().await;
            assert_eq!(got.type_url, type_url);
            let mut others = got.resources.clone();
            let seen = others.remove(&marker);
            let names: Vec<&String> = others.keys().collect();
            let expected: Vec<&String> = wanted.keys().filter(|name| **name != marker).collect();
            assert_eq!(names, expected, "{:?}", got.resources);
            // The stream may not have seen the newest snapshot yet, nor the marker; then that comes in another response.
            assert!(
                got.removed.is_empty() || (seen.is_none() && got.removed == [&*marker]),
                "{:?}",
                got.removed
            );
            if seen == Some(newest) {
                assert_eq!(got.resources, wanted);
                return;
            }
        }
    }

    /// For a wildcard: the next change is the next response, so nothing came in between.
    pub(super) async fn is_silent_until_the_next_change(&mut self, type_url: &'static str) {
        self.put(type_url, "later", 1).await;
        let all = self.all(type_url);
        self.receives(type_url, &all).await;
    }

    pub(super) async fn end(self) {
        self.relay.stop().await;
    }
}
