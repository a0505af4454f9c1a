//! TLSRoute, TCPRoute and UDPRoute: one rule that sends connections or datagrams to backends.

use super::{Building, Built, Mode, RouteKind, Rules};
use crate::attach::backend::{self, Use};
use crate::attach::index::Indexed;
use crate::attach::spec::{Metadata, ParentRef, StreamRoute, TcpRoute, TlsRoute, UdpRoute};
use moorgate_model::diagnostic::semantic::NO_BACKENDS;
use moorgate_model::ir::{RouteOrigin, Stream, StreamBackend};
use moorgate_model::{FieldPath, Object};
use std::rc::Rc;

macro_rules! kind {
    ($type:ident, $kind:literal, $mode:expr) => {
        impl RouteKind for $type {
            const KIND: &'static str = $kind;
            const MODE: Mode = $mode;

            fn metadata(&self) -> &Metadata {
                &self.0.metadata
            }

            fn parent_refs(&self) -> &[ParentRef] {
                &self.0.spec.parent_refs
            }

            fn default_gateways(&self) -> Option<&str> {
                self.0.spec.use_default_gateways.as_deref()
            }

            fn hostnames(&self) -> &[String] {
                &self.0.spec.hostnames
            }

            fn build(cx: &mut Building<'_, '_>, route: &Indexed<'_, Self>, mode: Mode) -> Built {
                build(cx, route.object, &route.value.0, mode)
            }
        }
    };
}

kind!(TlsRoute, "TLSRoute", Mode::Passthrough);
kind!(TcpRoute, "TCPRoute", Mode::Tcp);
kind!(UdpRoute, "UDPRoute", Mode::Udp);

fn build(cx: &mut Building<'_, '_>, object: &Object, route: &StreamRoute, mode: Mode) -> Built {
    let usage = match mode {
        // Whoever passes TLS through cannot put TLS around it for the backend: the client would not see its certificate.
        Mode::Passthrough => Use::Passthrough,
        Mode::Udp => Use::Datagrams,
        Mode::Http | Mode::Terminate | Mode::Tcp => Use::Stream,
    };
    let (mut findings, mut backends) = (Vec::new(), Vec::new());
    // The API has exactly one rule.
    let rule = route.spec.rules.first();
    let at = FieldPath::root().key("spec").key("rules").index(0).key("backendRefs");
    let denied = cx.policies.denies_route(&object.reference, rule.and_then(|rule| rule.name.as_deref()));
    for (position, backend) in rule.iter().flat_map(|rule| &rule.backend_refs).enumerate() {
        let resolved = backend::resolve_for(usage, cx, object, &at.index(position), backend);
        let cluster = match resolved {
            Ok(cluster) => (!denied).then_some(cluster),
            Err(finding) => {
                findings.push(finding);
                None
            }
        };
        if backend.weight > 0 {
            backends.push(StreamBackend { cluster, weight: backend.weight });
        }
    }
    if backends.is_empty() {
        let message = "the rule has no backend with weight, and closes connections";
        findings.push(object.diagnostic(&NO_BACKENDS, at, message));
    }
    if backends.iter().all(|backend| backend.cluster.is_none()) {
        backends.clear();
    }
    let rule_name = rule.and_then(|rule| rule.name.clone());
    let origin = RouteOrigin { object: object.reference.clone(), rule: 0, rule_name, matched: 0 };
    Built {
        rules: Rules::Stream(Rc::new(Stream {
            origin,
            backends,
            by_source: false,
            clients: None,
            policies: Vec::new(),
        })),
        findings,
    }
}
