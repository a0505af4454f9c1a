//! Addresses of Services: those in the cluster, and one from the load balancer for each Service that asks for it.
//!
//! A connection to a port of a Service goes to one of its Ready endpoints; a new one to the next. A datagram goes where
//! the others from the same address and port went. Without a Ready endpoint the port is closed. A Service whose internal
//! traffic policy is `Local` leads a pod to endpoints on its own node alone.

mod tcp;
mod udp;

use super::inside::say;
use super::names::key;
use super::network::{self, API_ADDRESS, API_PORT, API_SERVER, BALANCER_RANGE};
use super::table::Table;
use anyhow::Result;
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The address that a test may ask for, and that nothing else gets.
pub const USABLE: &str = "10.245.255.1";
/// An address that this load balancer does not have.
pub const UNUSABLE: &str = "10.246.0.1";

/// Where a port is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Front {
    address: Ipv4Addr,
    port: u16,
    udp: bool,
}

type Fronts = BTreeMap<Front, Vec<Endpoint>>;

/// An endpoint of a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Endpoint {
    address: SocketAddr,
    /// The node whose pods alone are led there.
    only: Option<String>,
}

/// Endpoints, taken in turn.
#[derive(Clone)]
struct Backends {
    turns: Arc<Mutex<(Vec<Endpoint>, usize)>>,
    /// Who knows on which node a client is.
    pods: Option<Table<Pod>>,
}

impl Backends {
    fn new(endpoints: Vec<Endpoint>, pods: Option<Table<Pod>>) -> Self {
        Self { turns: Arc::new(Mutex::new((endpoints, 0))), pods }
    }

    fn replace(&self, endpoints: Vec<Endpoint>) {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).0 = endpoints;
    }

    /// The next one that a client is led to.
    fn next(&self, client: IpAddr) -> Option<SocketAddr> {
        let mut inner = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        inner.1 = inner.1.wrapping_add(1);
        let (endpoints, turn) = &*inner;
        let asked = endpoints.iter().any(|endpoint| endpoint.only.is_some());
        let node = asked.then(|| self.node(client)).flatten();
        let near = endpoints.iter().filter(|endpoint| endpoint.only.is_none() || endpoint.only == node);
        let near: Vec<SocketAddr> = near.map(|endpoint| endpoint.address).collect();
        near.get(turn.checked_rem(near.len())?).copied()
    }

    /// The node of the pod with this address.
    fn node(&self, client: IpAddr) -> Option<String> {
        let client = client.to_string();
        let mut pods = self.pods.as_ref()?.all().into_iter();
        let pod = pods.find(|pod| {
            pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()).is_some_and(|ip| *ip == client)
        })?;
        pod.spec.as_ref()?.node_name.clone()
    }
}

/// A port that is open; dropping it closes it, and what goes through it.
struct Open {
    backends: Backends,
    task: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Balancer {
    client: Client,
    services: Table<Service>,
    slices: Table<EndpointSlice>,
    pods: Table<Pod>,
    /// The addresses that were given, by Service.
    given: BTreeMap<String, Ipv4Addr>,
    next: u16,
    addresses: BTreeSet<Ipv4Addr>,
    open: BTreeMap<Front, Open>,
}

/// Serves all Services from now on.
pub(super) fn start(client: &Client) {
    let mut balancer = Balancer {
        client: client.clone(),
        services: Table::watch(client),
        slices: Table::watch(client),
        pods: Table::watch(client),
        given: BTreeMap::new(),
        next: 0,
        addresses: BTreeSet::new(),
        open: BTreeMap::new(),
    };
    tokio::spawn(async move {
        let _api = match open_api().await {
            Ok(task) => Some(task),
            Err(error) => {
                say(&format!("load balancer: the API server's own Service: {error:#}"));
                None
            }
        };
        let (mut services, mut slices) = (balancer.services.changes(), balancer.slices.changes());
        loop {
            balancer.turn().await;
            let over = tokio::select! {
                changed = services.changed() => changed.is_err(),
                changed = slices.changed() => changed.is_err(),
            };
            if over {
                return;
            }
        }
    });
}

/// The Service of the API server itself, which has no endpoints that anybody writes.
async fn open_api() -> Result<JoinHandle<()>> {
    let server = SocketAddr::new(API_SERVER.0.parse()?, API_SERVER.1);
    let server = Endpoint { address: server, only: None };
    tcp::start(SocketAddr::new(API_ADDRESS.parse()?, API_PORT), &Backends::new(vec![server], None)).await
}

fn is_mine(address: Ipv4Addr) -> bool {
    address.octets()[..2] == BALANCER_RANGE
}

/// The address that a Service asks for: `None` if any will do, an error text if it cannot be had.
fn asked(spec: &ServiceSpec) -> Result<Option<Ipv4Addr>, String> {
    let Some(text) = spec.load_balancer_ip.as_deref().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match text.parse() {
        Ok(address) if is_mine(address) => Ok(Some(address)),
        _ => Err(format!("{text} is no address of this load balancer")),
    }
}

impl Balancer {
    /// Brings addresses, ports and endpoints to where they should be.
    async fn turn(&mut self) {
        let services = self.services.all();
        let slices = self.slices.all();
        let there: BTreeSet<String> = services.iter().map(|service| key(&**service)).collect();
        self.given.retain(|service, _| there.contains(service));
        let mut fronts = Fronts::new();
        for service in &services {
            let Some(spec) = &service.spec else { continue };
            if key(&**service) == "default/kubernetes" {
                // It is open already.
                continue;
            }
            let balanced = spec.type_.as_deref() == Some("LoadBalancer");
            let outer = if balanced { self.assign(service, spec).await } else { None };
            let external = spec.external_ips.iter().flatten().filter_map(|text| text.parse().ok());
            let addresses: BTreeSet<Ipv4Addr> = outer
                .into_iter()
                .chain(spec.cluster_ip.iter().filter_map(|text| text.parse().ok()))
                .chain(external.filter(|address| is_mine(*address)))
                .collect();
            for port in spec.ports.iter().flatten() {
                let endpoints = endpoints(service, port, &slices);
                let Ok(number) = u16::try_from(port.port) else { continue };
                let udp = port.protocol.as_deref() == Some("UDP");
                for address in &addresses {
                    fronts
                        .entry(Front { address: *address, port: number, udp })
                        .or_default()
                        .extend(endpoints.iter().cloned());
                }
            }
        }
        if let Err(error) = self.serve(fronts).await {
            say(&format!("load balancer: {error:#}"));
        }
    }

    /// The address of a Service; a new one is written to its status.
    async fn assign(&mut self, service: &Service, spec: &ServiceSpec) -> Option<Ipv4Addr> {
        let name = key(service);
        let wanted = match asked(spec) {
            Ok(wanted) => wanted,
            Err(message) => {
                if self.given.remove(&name).is_some() || !shown(service).is_empty() {
                    say(&format!("{name}: {message}"));
                    self.write(service, None).await;
                }
                return None;
            }
        };
        let known = self.given.get(&name).copied();
        let taken =
            |address: Ipv4Addr| self.given.iter().any(|(other, given)| *other != name && *given == address);
        let address = match (wanted, known) {
            (Some(wanted), _) if taken(wanted) => return None,
            (Some(wanted), _) => wanted,
            (None, Some(known)) => known,
            (None, None) => {
                // Not used twice: a client that still knows a Gateway that is gone must not find another there.
                self.next = self.next.checked_add(1)?;
                let [high, low] = self.next.to_be_bytes();
                Ipv4Addr::new(BALANCER_RANGE[0], BALANCER_RANGE[1], high, low)
            }
        };
        self.given.insert(name, address);
        if shown(service) != [address.to_string()] {
            self.write(service, Some(address)).await;
        }
        Some(address)
    }

    async fn write(&self, service: &Service, address: Option<Ipv4Addr>) {
        let ingress: Vec<_> = address.iter().map(|address| json!({"ip": address, "ipMode": "VIP"})).collect();
        let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        let api: Api<Service> =
            Api::namespaced(self.client.clone(), &service.namespace().unwrap_or_default());
        let done =
            api.patch_status(&service.name_any(), &PatchParams::default(), &Patch::Merge(status)).await;
        if let Err(error) = done {
            say(&format!("the address of {}: {error}", key(service)));
        }
    }

    /// Opens and closes ports; adds and removes addresses.
    async fn serve(&mut self, fronts: Fronts) -> Result<()> {
        let wanted: BTreeSet<Ipv4Addr> = fronts.keys().map(|front| front.address).collect();
        self.open.retain(|front, _| fronts.get(front).is_some_and(|endpoints| !endpoints.is_empty()));
        for address in self.addresses.difference(&wanted).copied().collect::<Vec<_>>() {
            network::remove_address(address).await?;
            self.addresses.remove(&address);
        }
        for address in wanted.difference(&self.addresses).copied().collect::<Vec<_>>() {
            network::add_address(address).await?;
            self.addresses.insert(address);
        }
        for (front, endpoints) in fronts {
            if let Some(open) = self.open.get(&front) {
                open.backends.replace(endpoints);
            } else if !endpoints.is_empty() {
                let backends = Backends::new(endpoints, Some(self.pods.clone()));
                let at = SocketAddr::V4(SocketAddrV4::new(front.address, front.port));
                let started =
                    if front.udp { udp::start(at, &backends).await } else { tcp::start(at, &backends).await };
                match started {
                    Ok(task) => {
                        self.open.insert(front, Open { backends, task });
                    }
                    Err(error) => say(&format!("load balancer: {at}: {error:#}")),
                }
            }
        }
        Ok(())
    }
}

/// The addresses that a Service's status shows.
fn shown(service: &Service) -> Vec<String> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    ingress.filter_map(|ingress| ingress.ip.clone()).collect()
}

/// The Ready endpoints of a port of a Service.
fn endpoints(service: &Service, port: &ServicePort, slices: &[Arc<EndpointSlice>]) -> Vec<Endpoint> {
    let name = service.name_any();
    let policy = service.spec.as_ref().and_then(|spec| spec.internal_traffic_policy.as_deref());
    let mine = slices.iter().filter(|slice| {
        slice.namespace() == service.namespace()
            && slice.labels().get("kubernetes.io/service-name") == Some(&name)
            && slice.address_type == "IPv4"
    });
    let mut found = BTreeSet::new();
    for slice in mine {
        let wanted = port.name.as_deref().unwrap_or_default();
        let mut ports = slice.ports.iter().flatten();
        let Some(number) = ports.find(|port| port.name.as_deref().unwrap_or_default() == wanted) else {
            continue;
        };
        let Some(number) = number.port.and_then(|number| u16::try_from(number).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            if endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true) {
                let addresses = endpoint.addresses.iter().filter_map(|text| text.parse().ok());
                let only = endpoint.node_name.as_ref().filter(|_| policy == Some("Local"));
                found.extend(addresses.map(|address: Ipv4Addr| Endpoint {
                    address: SocketAddr::from((address, number)),
                    only: only.cloned(),
                }));
            }
        }
    }
    found.into_iter().collect()
}

/// Ends what belongs to a port when the port is closed.
fn closing() -> (watch::Sender<()>, watch::Receiver<()>) {
    watch::channel(())
}
