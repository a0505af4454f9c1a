//! What policies of Envoy Gateway's kinds add to routes, listeners and clusters, as bytes that only `xds` opens.
//!
//! A policy's own file makes Envoy messages; here they are plain data, so that a new capability changes neither this
//! representation nor what is made of it.

use super::LateValue;
use crate::field::FieldPath;
use crate::object::ObjectRef;
use std::sync::Arc;

/// An encoded message that is put over another one as protobuf merges: fields that it sets win, messages are merged
/// field by field, lists grow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Patch {
    /// The message.
    pub message: Vec<u8>,
    /// Fields that are taken out of the other message before, each as the numbers from its root: what a merge cannot
    /// set back to a default, and lists that do not grow.
    pub clear: Vec<Vec<u32>>,
    /// Lists grow at their front.
    pub first: bool,
}

/// A message with its type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extension {
    /// Such as `type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault`.
    pub type_url: String,
    /// The message.
    pub value: Vec<u8>,
}

/// A filter of requests that a route switches on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteFilter {
    /// Its place among the filters of a listener: lower runs earlier.
    pub place: u16,
    /// Its name; under it a route keeps its own configuration.
    pub name: String,
    /// What stands on the listener. Those of several routes are merged into one.
    pub base: Extension,
    /// What this route says.
    pub own: Extension,
    /// What a virtual host says where the filter has to run on all routes, to keep it from doing anything; none if it
    /// does nothing by itself.
    pub off: Option<Extension>,
}

impl RouteFilter {
    /// Whether it stands on listeners whole and is only switched on by a route (`envoy.config.route.v3.FilterConfig`): whoever
    /// has it is then decided by the first route that Envoy finds, and not by the one that answers.
    pub fn is_whole(&self) -> bool {
        self.own.type_url.ends_with("/envoy.config.route.v3.FilterConfig")
    }
}

/// A policy that had a say, for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicySource {
    /// The policy.
    pub object: ObjectRef,
    /// The field that names the target.
    pub field: FieldPath,
    /// What it is attached to, such as `Gateway infra/edge listener http`.
    pub target: String,
    /// The capabilities of it that are in force here; none if it has no effect here.
    pub capabilities: Vec<&'static str>,
    /// What took its place, if anything.
    pub overridden_by: Option<ObjectRef>,
}

/// What policies add to a route.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoutePolicies {
    /// Which policies, the most specific first.
    pub sources: Vec<PolicySource>,
    /// Filters, in the order of places.
    pub filters: Vec<RouteFilter>,
    /// Over Envoy's `Route`.
    pub route: Vec<Patch>,
    /// Over Envoy's `RouteAction`, where the request goes to backends.
    pub forward: Vec<Patch>,
    /// Clusters that filters ask.
    pub clusters: Vec<String>,
    /// Envoy knows what the route is, so that a filter can tell a service.
    pub described: bool,
    /// Values that filters need and relays make of Secrets.
    pub late: Vec<LateValue>,
}

/// What policies add to a filter chain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChainPolicies {
    /// Which policies, the most specific first.
    pub sources: Vec<PolicySource>,
    /// Over Envoy's `HttpConnectionManager`.
    pub manager: Vec<Patch>,
    /// Over Envoy's `FilterChain`.
    pub chain: Vec<Patch>,
    /// Over Envoy's `DownstreamTlsContext`, where TLS ends.
    pub tls: Vec<Patch>,
    /// Over Envoy's `Listener`: all chains of a listener say the same.
    pub listener: Vec<Patch>,
}

/// What policies add to a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ClusterPolicies {
    /// Over Envoy's `Cluster`.
    pub cluster: Vec<Patch>,
    /// Over the `HttpProtocolOptions` inside, where HTTP is spoken.
    pub upstream: Vec<Patch>,
}

impl ClusterPolicies {
    /// True if nothing is added.
    pub fn is_empty(&self) -> bool {
        self.cluster.is_empty() && self.upstream.is_empty()
    }
}

/// What policies add, shared by everything that they add it to; `None`: nothing.
pub type Added<T> = Option<Arc<T>>;
