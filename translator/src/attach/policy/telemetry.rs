//! XTelemetryPolicies meet their Gateways: the collector of each becomes a cluster, and listeners learn what to tell it
//! (Gateway API v1.7, GEP-4768). A policy that cannot be carried out costs spans, and no request.

use super::world::Sources;
use super::{Attached, Policies, condition, entry};
use crate::attach::index::{Index, Key};
use crate::attach::kind::Mode;
use crate::attach::listener::{Gateway, Listener};
use crate::attach::parent::Routes;
use crate::status::{self, AncestorStatus};
use moorgate_model::diagnostic::policy::POLICY_CONFLICTED;
use moorgate_model::ir::{SpanProtocol, Tracing};
use moorgate_model::{Diagnostic, Diagnostics, FieldPath, Object, ObjectRef};
use moorgate_policies::{BackendRef, Telemetry, World as _};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The port of OTLP over HTTP; that over gRPC has 4317 (OpenTelemetry protocol, default ports).
const HTTP_PORT: u16 = 4318;

/// Follows each policy to its collector, and gives what it asks for to the listeners of its Gateways.
pub(in crate::attach) fn resolve<'a>(
    index: &Index<'a>,
    policies: &mut Policies,
    gateways: &mut BTreeMap<Key<'a>, Gateway<'a>>,
    routes: &mut Routes<'a>,
    diagnostics: &mut Diagnostics,
) {
    let mut attached = std::mem::take(&mut policies.attached);
    for policy in attached.iter_mut().filter(|policy| policy.telemetry.is_some()) {
        let keys = policy.gateways.keys().filter_map(|gateway| key_of(index, gateway));
        let own: Vec<Key<'a>> = keys.filter(|key| gateways.contains_key(key)).collect();
        let object = object_of(index, policy);
        let (Some(telemetry), Some(object), false) = (&policy.telemetry, object, own.is_empty()) else {
            continue;
        };
        match follow(index, policies, routes, object, telemetry) {
            Ok(tracing) => {
                own.iter().for_each(|key| routes.note(&tracing.cluster, *key));
                tell(index, policy, gateways, &tracing);
            }
            Err(finding) => {
                let about = status::of_route(&finding).filter(|(about, _)| *about == "ResolvedRefs");
                let verdict = &mut policy.verdict.resolved_refs;
                verdict.status = false;
                verdict.reason = about.map_or("BackendNotFound", |(_, reason)| reason);
                verdict.message.clone_from(&finding.message);
                "no spans are sent: see ResolvedRefs".clone_into(&mut policy.verdict.accepted.message);
                diagnostics.push(finding);
            }
        }
    }
    agree(index, &mut attached, gateways, diagnostics);
    policies.attached = attached;
}

fn key_of<'a>(index: &Index<'a>, gateway: &ObjectRef) -> Option<Key<'a>> {
    index.gateway_key(&gateway.namespace, &gateway.name)
}

fn object_of<'a>(index: &Index<'a>, policy: &Attached) -> Option<&'a Object> {
    index.others.iter().copied().find(|object| object.reference == policy.policy)
}

/// The spans with the cluster that takes them.
fn follow(
    index: &Index<'_>,
    policies: &Policies,
    routes: &mut Routes<'_>,
    policy: &Object,
    telemetry: &Telemetry,
) -> Result<Tracing, Diagnostic> {
    let protocol = protocol(index, policy, &telemetry.collector);
    let mut sources = Sources { index, policies, clusters: &mut routes.clusters };
    let (at, http2) = (Telemetry::collector_field(), protocol == SpanProtocol::Grpc);
    let cluster = sources.backend(policy, &at, &telemetry.collector, http2).map_err(|finding| *finding)?;
    let source = routes.clusters.get(&cluster).and_then(|cluster| cluster.sources.first());
    let authority = source.map(|source| match &source.hostname {
        Some(hostname) => hostname.clone(),
        None => format!("{}.{}.svc:{}", source.service, source.namespace, source.port),
    });
    let authority = authority.unwrap_or_default();
    Ok(Tracing { cluster, authority, protocol, ..telemetry.tracing.clone() })
}

/// How the collector takes spans: as its port says, or else by the number that the protocol has given out.
fn protocol(index: &Index<'_>, policy: &Object, collector: &BackendRef) -> SpanProtocol {
    let namespace = collector.namespace.as_deref().unwrap_or(&policy.reference.namespace);
    let key = (namespace, collector.name.as_str());
    let (says, port) = if collector.kind == "XBackend" {
        let backend = index.x_backends.get(&key).map(|backend| &backend.value.spec);
        (backend.and_then(|spec| spec.protocol.as_deref()), backend.map(|spec| spec.port.number))
    } else {
        let ports = index.services.get(&key).map(|service| service.value.spec.ports.as_slice());
        let mut ports = ports.unwrap_or_default().iter().filter(|port| port.transport() == "TCP");
        let port = ports.find(|port| Some(port.port) == collector.port);
        (port.and_then(|port| port.app_protocol.as_deref()), collector.port)
    };
    let http = match says {
        Some(says) => ["http", "https", "HTTP", "HTTP11"].contains(&says),
        None => port == Some(HTTP_PORT),
    };
    if http { SpanProtocol::Http } else { SpanProtocol::Grpc }
}

/// Gives the spans to the listeners of the Gateways on which the policy is in effect.
fn tell<'a>(
    index: &Index<'a>,
    policy: &Attached,
    gateways: &mut BTreeMap<Key<'a>, Gateway<'a>>,
    tracing: &Tracing,
) {
    let open = policy.gateways.iter().filter(|(_, refused)| refused.is_none());
    for (reference, _) in open {
        let Some(gateway) = key_of(index, reference).and_then(|key| gateways.get_mut(&key)) else { continue };
        let mut tracing = tracing.clone();
        if tracing.service_name.is_empty() {
            tracing.service_name = if index.options.merged.contains(gateway.class) {
                gateway.class.to_owned()
            } else {
                format!("{}.{}", reference.name, reference.namespace)
            };
        }
        let tracing = Arc::new(tracing);
        let requests = gateway.listeners.iter_mut().filter(|listener| listener.mode == Some(Mode::Http));
        requests.for_each(|listener| listener.tracing = Some(Arc::clone(&tracing)));
    }
}

/// A port without TLS is one connection manager, and that one knows one collector: Gateways of a merged class that share
/// such a port and are not traced alike are not traced, so that nobody learns of requests that are not his.
fn agree<'a>(
    index: &Index<'a>,
    attached: &mut [Attached],
    gateways: &mut BTreeMap<Key<'a>, Gateway<'a>>,
    diagnostics: &mut Diagnostics,
) {
    loop {
        let refused = disagreeing(index, gateways);
        if refused.is_empty() {
            return;
        }
        for (key, message) in refused {
            let Some(gateway) = gateways.get_mut(&key) else { continue };
            gateway.listeners.iter_mut().for_each(|listener| listener.tracing = None);
            let reference = &gateway.object.reference;
            let policy = attached.iter_mut().find(|policy| {
                policy.telemetry.is_some() && policy.gateways.get(reference).is_some_and(Option::is_none)
            });
            let Some(policy) = policy else { continue };
            policy.gateways.insert(reference.clone(), Some(("Conflicted", message.clone())));
            let finding = object_of(index, policy).map(|object| {
                object.diagnostic(&POLICY_CONFLICTED, FieldPath::parse("spec.targetRefs"), message)
            });
            let help = "target all Gateways that share the port, or none";
            diagnostics.extend(finding.map(|finding| finding.help(help)));
        }
    }
}

/// The listeners of a port: their Gateways, and what each tells a collector.
type Sharing<'g, 'a> = Vec<(Key<'a>, Option<&'g Arc<Tracing>>)>;

/// Gateways that are traced, each with the port that keeps it from it.
fn disagreeing<'a>(
    index: &Index<'a>,
    gateways: &BTreeMap<Key<'a>, Gateway<'a>>,
) -> BTreeMap<Key<'a>, String> {
    let mut ports: BTreeMap<(&str, u16), Sharing<'_, 'a>> = BTreeMap::new();
    let merged = |gateway: &Gateway<'_>| index.options.merged.contains(gateway.class) && gateway.is_served();
    for (key, gateway) in gateways.iter().filter(|(_, gateway)| merged(gateway)) {
        let plain = |listener: &&Listener<'_>| listener.accepted && listener.spec.protocol == "HTTP";
        for listener in gateway.listeners.iter().filter(plain) {
            let port = (gateway.class, listener.spec.port);
            ports.entry(port).or_default().push((*key, listener.tracing.as_ref()));
        }
    }
    let mut refused = BTreeMap::new();
    for ((_, port), sharing) in ports {
        for (key, tracing) in sharing.iter().filter(|(_, tracing)| tracing.is_some()) {
            let Some((other, _)) = sharing.iter().find(|(_, other)| other != tracing) else { continue };
            refused.entry(*key).or_insert_with(|| {
                format!(
                    "Gateway {}/{} shares port {port} and is not traced in the same way",
                    other.0, other.1
                )
            });
        }
    }
    refused
}

/// The status of a policy at the Gateways that it targets: those of ours, and those that nobody has.
pub(super) fn ancestors(
    attached: &Attached,
    own: &BTreeMap<Key<'_>, Gateway<'_>>,
    controller_name: &str,
) -> Vec<AncestorStatus> {
    let known: BTreeSet<(&str, &str)> = own.keys().copied().collect();
    let concerns = |(gateway, refused): &(&ObjectRef, &Option<(&str, String)>)| {
        known.contains(&(&*gateway.namespace, &*gateway.name))
            || refused.as_ref().is_some_and(|(reason, _)| *reason == "TargetNotFound")
    };
    let ancestor = |(gateway, refused): (&ObjectRef, &Option<(&'static str, String)>)| {
        let verdict = &attached.verdict;
        let accepted = match refused {
            Some((reason, message)) if verdict.accepted.status => {
                status::fails("Accepted", reason, message, attached.generation)
            }
            _ => condition("Accepted", &verdict.accepted, attached.generation),
        };
        entry(attached, (&gateway.namespace, &gateway.name), accepted, controller_name)
    };
    attached.gateways.iter().filter(concerns).map(ancestor).collect()
}
