//! What a capability may ask of Envoy: the closed list.

use super::Lowering;
use crate::Need;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::Http2ProtocolOptions;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction};
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use moorgate_model::ir::{
    ClientRanges, ClientValidation, Dns, Extension, ListenerFilter, Patch, ProxyHeader, RouteFilter,
    SharedLimits,
};
use moorgate_model::{FieldPath, ObjectRef};
use prost::{Message, Name};
use std::collections::BTreeMap;

/// The header in which a port's listeners note which of them a request came by.
pub(crate) const LISTENER: &str = "x-moorgate-listener";

fn patch<M: Message>(message: &M, clear: &[&[u32]]) -> Patch {
    let clear = clear.iter().map(|path| path.to_vec()).collect();
    Patch { message: message.encode_to_vec(), clear, first: false }
}

/// A message as an extension.
pub(crate) fn extension<M: Message + Name>(message: &M) -> Extension {
    Extension { type_url: M::type_url(), value: message.encode_to_vec() }
}

impl Lowering<'_> {
    /// A filter of requests: what stands on listeners without effect, and what it does for the routes of this policy.
    pub fn filter<B: Message + Name, R: Message + Name>(
        &mut self,
        (name, place): (&str, u16),
        base: &B,
        own: &R,
    ) {
        let (base, own) = (extension(base), extension(own));
        self.out.filters.push(RouteFilter { place, name: name.to_owned(), base, own, off: None });
    }

    /// A filter of requests that would do something by itself, and what keeps it from that.
    pub fn busy_filter<B: Message + Name, R: Message + Name>(
        &mut self,
        (name, place): (&str, u16),
        base: &B,
        own: &R,
        off: &R,
    ) {
        let off = Some(extension(off));
        let (base, own) = (extension(base), extension(own));
        self.out.filters.push(RouteFilter { place, name: name.to_owned(), base, own, off });
    }

    /// Whose counts a policy's are: its own, or those of it and the one that it is merged with.
    pub(crate) fn counts_of(&self) -> String {
        let name = |reference: &ObjectRef| format!("{}/{}", reference.namespace, reference.name);
        // No name of an object has a plus sign.
        let wide = self.wide.map(|wide| format!("+{}", name(wide)));
        name(&self.object.reference) + &wide.unwrap_or_default()
    }

    /// Something that a service counts for the whole fleet.
    pub fn shared_limits(&mut self, limits: SharedLimits) {
        self.out.limits.push(limits);
    }

    /// Something of the routes.
    pub fn route(&mut self, message: &Route) {
        self.out.route.push(patch(message, &[]));
    }

    /// Something of the way to backends; fields that are cleared are named by their numbers.
    pub fn forward(&mut self, message: &RouteAction, clear: &[&[u32]]) {
        self.out.forward.push(patch(message, clear));
    }

    /// Something of the connection manager.
    pub fn manager(&mut self, message: &HttpConnectionManager, clear: &[&[u32]]) {
        self.out.manager.push(patch(message, clear));
    }

    /// Something of filter chains; `first` puts lists before those that are there.
    pub fn chain(&mut self, message: &FilterChain, first: bool) {
        self.out.chain.push(Patch { first, ..patch(message, &[]) });
    }

    /// Something of filter chains in place of what is there.
    pub fn chain_over(&mut self, message: &FilterChain, clear: &[&[u32]]) {
        self.out.chain.push(patch(message, clear));
    }

    /// Something of the connection manager that puts lists before those that are there.
    pub fn manager_first(&mut self, message: &HttpConnectionManager) {
        self.out.manager.push(Patch { first: true, ..patch(message, &[]) });
    }

    /// Something of the whole listener; `first` puts lists before those that are there.
    pub fn listener(&mut self, message: &Listener, first: bool) {
        self.out.listener.push(Patch { first, ..patch(message, &[]) });
    }

    /// Something of TLS towards clients.
    pub fn tls(&mut self, message: &DownstreamTlsContext, clear: &[&[u32]]) {
        self.out.tls.push(patch(message, clear));
    }

    /// How clients prove who they are.
    pub fn clients(&mut self, clients: ClientValidation) {
        self.out.clients = Some(clients);
    }

    /// Something of the clusters of backends.
    pub fn cluster(&mut self, message: &Cluster, clear: &[&[u32]]) {
        self.out.cluster.cluster.push(patch(message, clear));
    }

    /// How Envoy chooses among the endpoints of a cluster.
    pub fn balance(&mut self, message: &Cluster, clear: &[&[u32]]) {
        self.out.cluster.balancing.push(patch(message, clear));
    }

    /// Something of clusters of backends that speak HTTP/2.
    pub fn cluster_over_http2(&mut self, message: &Cluster) {
        self.out.cluster.over_http2.push(patch(message, &[]));
    }

    /// Something of how HTTP is spoken to backends.
    pub fn upstream(&mut self, message: &HttpProtocolOptions, clear: &[&[u32]]) {
        self.out.cluster.upstream.push(patch(message, clear));
    }

    /// Something of how HTTP/2 is spoken to backends that speak it.
    pub fn upstream_http2(&mut self, message: &Http2ProtocolOptions, clear: &[&[u32]]) {
        self.out.cluster.http2.push(patch(message, clear));
    }

    /// Backends are spoken to by the protocol that the client speaks.
    pub fn client_protocol(&mut self) {
        self.out.cluster.client_protocol = true;
    }

    /// A filter of the requests to backends; it sees each try of a request.
    pub fn upstream_filter<M: Message + Name>(&mut self, name: &str, config: &M) {
        self.out.cluster.filters.push((name.to_owned(), extension(config)));
    }

    /// The address of the client at the beginning of connections to backends.
    pub fn proxy_header(&mut self, version: ProxyHeader) {
        self.out.cluster.proxy_header = Some(version);
    }

    /// How the names of backends are looked for.
    pub fn dns(&mut self, dns: Dns) {
        self.out.cluster.dns = Some(dns);
    }

    /// Whether Services are reached by their own addresses.
    pub fn by_service(&mut self, by_service: bool) {
        self.out.cluster.by_service = Some(by_service);
    }

    /// A filter of all requests of a listener.
    pub fn listener_filter<M: Message + Name>(&mut self, (name, place): (&str, u16), config: &M) {
        let config = extension(config);
        self.out.on_listener.push(ListenerFilter { place, name: name.to_owned(), config });
    }

    /// Something of a filter that stands on listeners anyway, or that routes bring there.
    pub fn change_filter<M: Message>(&mut self, name: &str, message: &M, clear: &[&[u32]]) {
        self.out.changes.push((name.to_owned(), patch(message, clear)));
    }

    /// Something of how bytes are passed on where no requests are read.
    pub fn stream(&mut self, message: &TcpProxy, clear: &[&[u32]]) {
        self.out.stream.push(patch(message, clear));
    }

    /// Something of what is found out of a TLS handshake before it.
    pub fn inspector(&mut self, message: &TlsInspector) {
        self.out.inspector.push(patch(message, &[]));
    }

    /// Weights of the zones of endpoints.
    pub fn zones(&mut self, zones: BTreeMap<String, u32>) {
        self.out.cluster.zones = zones;
    }

    /// Requests stay in Envoy's own zone: it has to know that.
    pub fn in_zone(&mut self) {
        self.out.cluster.in_zone = true;
    }

    /// Connections of these clients are carried, and of no others.
    pub fn connections(&mut self, clients: ClientRanges) {
        self.out.connections = Some(clients);
    }

    /// Connections and datagrams get their endpoint by the client's address.
    pub fn by_source(&mut self) {
        self.out.cluster.by_source = true;
    }

    /// Health checks that name no host ask for that of the endpoint or route.
    pub fn checked_as_route(&mut self) {
        self.out.cluster.checked_as = Some(String::new());
    }

    /// Requests that name no host are for the hostname of their listener.
    pub fn default_host(&mut self) {
        self.out.default_host = true;
    }

    /// The route is looked for again behind the filter at a place, as a field says, by headers that the filter sets.
    pub fn recomputes(&mut self, place: u16, field: &FieldPath) {
        self.out.recomputes.get_or_insert_with(|| (place, false, field.clone()));
    }

    /// The same, where the filter may change everything about a request, its host and path, too.
    pub fn recomputes_freely(&mut self, place: u16, field: &FieldPath) {
        self.out.recomputes.get_or_insert_with(|| (place, true, field.clone()));
    }

    /// Whether a header can be one that somebody else sets. The host of a request was decided upon when its listener was
    /// chosen, and which one that was is noted in a header of Envoy's own: who set them could lead to another host's routes.
    pub fn foreign_header(&mut self, at: FieldPath, name: &str) -> bool {
        if ["host", LISTENER].iter().any(|own| name.eq_ignore_ascii_case(own)) {
            self.invalid(
                at,
                &format!("the header {name:?} is not set here: it decides whose routes a request meets"),
            );
            return false;
        }
        self.header_name(at, name)
    }

    /// Something that only the parameters of a fleet can give.
    pub(crate) fn need(&mut self, need: Need) {
        self.out.needs.push(need);
    }

    /// HTTP/3 beside what is spoken.
    pub fn http3(&mut self) {
        self.out.http3 = true;
    }
}
