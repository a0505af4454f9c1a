//! The methods that are served.

use crate::serve::stream::Protocol;
use crate::serve::types;

/// Method paths, with the variant and the type that they stand for.
pub(super) const METHODS: &[(&str, Protocol, Option<&str>)] = &[
    (
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        Protocol::StateOfTheWorld,
        None,
    ),
    (
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
        Protocol::Delta,
        None,
    ),
    (
        "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
        Protocol::StateOfTheWorld,
        Some(types::LISTENER),
    ),
    (
        "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
        Protocol::Delta,
        Some(types::LISTENER),
    ),
    (
        "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
        Protocol::StateOfTheWorld,
        Some(types::CLUSTER),
    ),
    (
        "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
        Protocol::Delta,
        Some(types::CLUSTER),
    ),
    (
        "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
        Protocol::StateOfTheWorld,
        Some(types::ROUTE),
    ),
    ("/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes", Protocol::Delta, Some(types::ROUTE)),
    (
        "/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts",
        Protocol::Delta,
        Some(types::VIRTUAL_HOST),
    ),
    (
        "/envoy.service.route.v3.ScopedRoutesDiscoveryService/StreamScopedRoutes",
        Protocol::StateOfTheWorld,
        Some(types::SCOPED_ROUTE),
    ),
    (
        "/envoy.service.route.v3.ScopedRoutesDiscoveryService/DeltaScopedRoutes",
        Protocol::Delta,
        Some(types::SCOPED_ROUTE),
    ),
    (
        "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
        Protocol::StateOfTheWorld,
        Some(types::ENDPOINT),
    ),
    (
        "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
        Protocol::Delta,
        Some(types::ENDPOINT),
    ),
    (
        "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
        Protocol::StateOfTheWorld,
        Some(types::SECRET),
    ),
    ("/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets", Protocol::Delta, Some(types::SECRET)),
    (
        "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs",
        Protocol::StateOfTheWorld,
        Some(types::EXTENSION),
    ),
    (
        "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/DeltaExtensionConfigs",
        Protocol::Delta,
        Some(types::EXTENSION),
    ),
    (
        "/envoy.service.runtime.v3.RuntimeDiscoveryService/StreamRuntime",
        Protocol::StateOfTheWorld,
        Some(types::RUNTIME),
    ),
    ("/envoy.service.runtime.v3.RuntimeDiscoveryService/DeltaRuntime", Protocol::Delta, Some(types::RUNTIME)),
];
