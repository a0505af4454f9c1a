//! EnvoyProxies meet their fleets: what the parameters of a class or Gateway say of Envoy's configuration.
//!
//! A collector of statistics is looked for before an Envoy has met its relay, so its cluster stands in the bootstrap.
//!
//! The Gateways of a merged class share one fleet, so only the parameters of the class count for it.

use super::Options;
use super::index::{Index, Indexed, Key};
use super::listener::Gateway;
use super::parent::Routes;
use super::policy::{Policies, Sources, by_service};
use super::spec::{GatewayClass, ParametersRef};
use crate::{parameters, startup};
use moorgate_model::diagnostic::policy::{PARAMETER_IGNORED, PARAMETER_UNUSABLE};
use moorgate_model::ir::{Dns, DnsFamily};
use moorgate_model::{Diagnostic, Diagnostics, FieldPath, Node, Object, ObjectRef, ir};
use moorgate_policies::World as _;
use moorgate_policies::proxy::{self, Around};
use moorgate_snapshot::FleetName;
use std::collections::BTreeMap;
use std::time::Duration;

/// The settings of each fleet that has any.
pub(super) type Proxies = BTreeMap<FleetName, ir::Proxy>;

/// Follows the parameters of each Gateway of ours.
pub(super) fn resolve<'a>(
    index: &Index<'a>,
    policies: &Policies,
    gateways: &BTreeMap<Key<'a>, Gateway<'a>>,
    routes: &mut Routes<'a>,
    diagnostics: &mut Diagnostics,
) -> Proxies {
    let mut out = Proxies::new();
    let mut said: Vec<Diagnostic> = Vec::new();
    for (key, gateway) in gateways.iter().filter(|(_, gateway)| gateway.is_served()) {
        let fleet = index.options.fleet(gateway.class, key.0, key.1);
        let merged = index.options.merged.contains(gateway.class);
        if merged && own_parameters(index, *key).is_some() {
            said.push(gateway.object.diagnostic(
                &PARAMETER_IGNORED,
                FieldPath::parse("spec.infrastructure.parametersRef"),
                format!(
                    "the Gateways of class {} share one fleet: the parameters of the class count",
                    gateway.class
                ),
            ));
        }
        if !merged {
            said.extend(only_of_class(index, *key));
        }
        if out.contains_key(&fleet) && merged {
            out.get(&fleet).iter().flat_map(|found| &found.clusters).for_each(|name| routes.note(name, *key));
            continue;
        }
        let Some(object) = parameters_of(index, *key) else { continue };
        let mut found = lower(index, policies, routes, &object, service(index.options, gateway));
        found.proxy.clusters.sort();
        found.proxy.clusters.dedup();
        found.proxy.clusters.iter().for_each(|name| routes.note(name, *key));
        said.append(&mut found.findings);
        out.insert(fleet, found.proxy);
    }
    // Several Gateways of a class have the same parameters.
    said.sort_by(|a, b| (&a.object, &a.field, &a.message).cmp(&(&b.object, &b.field, &b.message)));
    said.dedup();
    diagnostics.extend(said);
    out
}

/// What the parameters of a Gateway say that only those of a class can.
fn only_of_class(index: &Index<'_>, key: Key<'_>) -> Option<Diagnostic> {
    let object = object(index, own_parameters(index, key)?, Some(key.0))?;
    let spec = parameters::read(object).ok()?;
    let asked = spec.spec.get("mergeGateways").and_then(Node::as_bool) == Some(true);
    let inside = &*object.reference.kind != parameters::KIND;
    let field = if inside { spec.at } else { spec.at.key("mergeGateways") };
    let message = "mergeGateways has no effect in the parameters of a Gateway: its class has to say it";
    asked.then(|| object.diagnostic(&PARAMETER_IGNORED, field, message))
}

/// The parameters that a Gateway itself names.
fn own_parameters<'i>(index: &'i Index<'_>, key: Key<'i>) -> Option<&'i ParametersRef> {
    index.gateways.get(&key)?.value.spec.infrastructure.as_ref()?.parameters_ref.as_ref()
}

/// What holds for a Gateway: its own parameters, those of its class, or both together.
pub(super) fn parameters_of(index: &Index<'_>, key: Key<'_>) -> Option<Object> {
    let class = index.gateways.get(&key)?.value.spec.gateway_class_name.as_str();
    let own = own_parameters(index, key).filter(|_| !index.options.merged.contains(class));
    let own = own.and_then(|named| object(index, named, Some(key.0)));
    parameters::effective(own, index.classes.get(class).and_then(|class| of_class(index, class)))
}

fn lower(
    index: &Index<'_>,
    policies: &Policies,
    routes: &mut Routes<'_>,
    object: &Object,
    service: String,
) -> proxy::Lowered {
    let mut sources = Sources { index, policies, clusters: &mut routes.clusters };
    // The other lines draw a picture of it.
    let first = |text: String| text.lines().next().unwrap_or_default().to_owned();
    let expression =
        |text: &str| cel::Program::compile(text).map(drop).map_err(|error| first(error.to_string()));
    let around = Around { world: &mut sources, expression: &expression, service };
    let mut lowered = proxy::lower(object, around);
    collectors(&sources, object, &mut lowered);
    if let Some(said) = startup::refused(&lowered.proxy) {
        lowered.proxy.startup.own = None;
        let field = FieldPath::parse("spec.bootstrap").join(&said.field);
        let finding = object.diagnostic(&PARAMETER_UNUSABLE, field, said.message);
        lowered.findings.push(finding.help("Envoys start without it"));
    }
    if &*object.reference.kind != parameters::KIND {
        // Inside of a text only the key has a place of its own.
        let key = FieldPath::root().key("data").key(parameters::KEY);
        for found in &mut lowered.findings {
            found.span = object.root.locate(&FieldPath::root());
            found.field = key.clone();
        }
    }
    if lowered.proxy.client_certificate.as_deref().is_some_and(|name| !has(index, name)) {
        lowered.findings.push(object.diagnostic(
            &PARAMETER_UNUSABLE,
            FieldPath::parse("spec.backendTLS.clientCertificateRef.name"),
            "the Secret is not in this source",
        ));
        lowered.proxy.client_certificate = None;
    }
    lowered
}

/// How Envoy looks for a collector, where nothing is said.
const LOOKS: Dns = Dns { refresh: Duration::from_secs(30), respect_ttl: true, family: DnsFamily::PreferV4 };

/// Gives the collectors of statistics their clusters, which stand in the bootstrap.
fn collectors(sources: &Sources<'_, '_>, object: &Object, lowered: &mut proxy::Lowered) {
    for mut sink in std::mem::take(&mut lowered.proxy.startup.sinks) {
        let at = FieldPath::parse("spec.telemetry.metrics.sinks").index(sink.index).key("openTelemetry");
        let mut say = |message: &str, help: &str| {
            let finding = object.diagnostic(&PARAMETER_UNUSABLE, at.clone(), message);
            lowered.findings.push(finding.help(help));
        };
        match alone(sources, &sink.backend) {
            Ok(Alone { cluster, authorities, lacks }) => {
                if let Some(lacks) = lacks {
                    say(lacks, "statistics are sent without it");
                }
                (sink.cluster, sink.authorities) = (Some(cluster), authorities);
                lowered.proxy.startup.sinks.push(sink);
            }
            Err(message) => say(&message, "no statistics are sent there"),
        }
    }
}

/// A cluster of which no relay has to know anything.
struct Alone {
    cluster: ir::Cluster,
    authorities: Option<String>,
    /// What of it cannot be had without a relay.
    lacks: Option<&'static str>,
}

fn alone(sources: &Sources<'_, '_>, name: &str) -> Result<Alone, String> {
    let find = |name: &str| sources.clusters.get(name).cloned();
    let mut lacks = None;
    let mut cluster = find(name).ok_or_else(|| "the backend has no cluster".to_owned())?;
    let first = cluster.members().next().map(str::to_owned);
    if let Some(first) = first {
        lacks = Some("a collector of statistics has no fallback endpoints");
        cluster = find(&first).ok_or_else(|| "the backend has no cluster".to_owned())?;
    }
    by_service(&mut cluster);
    cluster.policies.dns.get_or_insert(LOOKS);
    let known = |source: &ir::EndpointSource| source.direct.is_some() || source.hostname.is_some();
    if cluster.sources.is_empty() || !cluster.sources.iter().all(known) {
        return Err("only relays know its endpoints, and statistics are sent before Envoy has met its relay"
            .to_owned());
    }
    let mut authorities = None;
    if let Some(tls) = &mut cluster.tls {
        if tls.refuse {
            return Err("its TLS cannot be carried out".to_owned());
        }
        if tls.client_certificate.take().is_some() {
            lacks = Some("a certificate for a collector of statistics would have to lie in the bootstrap");
        }
        let text = |bundle: &String| {
            let text = sources.authority_text(bundle);
            text.ok_or_else(|| format!("its CA {bundle} is not in this source, and stands in the bootstrap"))
        };
        let texts: Vec<String> = tls.ca_bundles.iter().map(text).collect::<Result<_, _>>()?;
        authorities = (!texts.is_empty()).then(|| texts.join("\n"));
    }
    Ok(Alone { cluster, authorities, lacks })
}

fn has(index: &Index<'_>, secret: &str) -> bool {
    let key = secret.split_once('/').unwrap_or_default();
    index.is_open("Secret") || index.secrets.contains_key(&key)
}

fn service(options: &Options, gateway: &Gateway<'_>) -> String {
    let reference = &gateway.object.reference;
    if options.merged.contains(gateway.class) {
        gateway.class.to_owned()
    } else {
        format!("{}.{}", reference.name, reference.namespace)
    }
}

fn of_class<'a>(index: &Index<'a>, class: &Indexed<'a, GatewayClass>) -> Option<&'a Object> {
    object(index, class.value.spec.parameters_ref.as_ref()?, None)
}

/// The object of parameters; one that cannot be used has kept its Gateways from being accepted.
fn object<'a>(index: &Index<'a>, named: &ParametersRef, namespace: Option<&str>) -> Option<&'a Object> {
    let namespace = named.namespace.as_deref().or(namespace);
    let reference: ObjectRef =
        parameters::reference(&named.group, &named.kind, namespace, &named.name).ok()?;
    let key = (&*reference.namespace, &*reference.name);
    let all = if &*reference.kind == parameters::KIND { &index.envoy_proxies } else { &index.config_maps };
    all.get(&key).copied()
}
