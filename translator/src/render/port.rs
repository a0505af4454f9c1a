//! Ports of a fleet.

use moorgate_model::ir::{self, FilterChain, Transport};
use std::collections::BTreeSet;

/// A port on which a fleet's Envoys listen: the listener's own, in the Service and in the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// The number, 1 to 65535.
    pub number: u16,
    /// What carries it.
    pub transport: Transport,
}

impl Port {
    /// A port as a Service names it; TCP where it names no protocol.
    pub fn of(number: u16, protocol: Option<&str>) -> Self {
        let transport = if protocol == Some("UDP") { Transport::Udp } else { Transport::Tcp };
        Self { number, transport }
    }

    /// What carries it, as Kubernetes writes it.
    pub fn protocol(self) -> &'static str {
        match self.transport {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
        }
    }

    /// Its name in a Service: up to 15 letters, the same whatever else the Service has.
    pub fn name(self) -> String {
        format!("{}-{}", self.protocol().to_ascii_lowercase(), self.number)
    }
}

/// The ports of a fleet's listeners.
pub fn of(fleet: &ir::Fleet) -> BTreeSet<Port> {
    let own = fleet.listeners.values().map(|listener| (listener.port, listener.transport));
    let quic =
        fleet.listeners.values().filter(|listener| listener.chains.iter().any(FilterChain::speaks_http3));
    let quic = quic.map(|listener| (listener.port, Transport::Udp));
    own.chain(quic).map(|(number, transport)| Port { number, transport }).collect()
}

/// The first port from `from` on that no listener has over TCP.
pub(super) fn free(ports: &BTreeSet<Port>, from: u16) -> u16 {
    let taken = |number: &u16| ports.contains(&Port { number: *number, transport: Transport::Tcp });
    (from..=u16::MAX).find(|number| !taken(number)).unwrap_or(from)
}
