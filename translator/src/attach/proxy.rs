//! EnvoyProxies meet their fleets: what the parameters of a class or Gateway say of Envoy's configuration.
//!
//! The Gateways of a merged class share one fleet, so only the parameters of the class count for it.

use super::Options;
use super::index::{Index, Indexed, Key};
use super::listener::Gateway;
use super::parent::Routes;
use super::policy::{Policies, Sources};
use super::spec::{GatewayClass, ParametersRef};
use crate::parameters;
use moorgate_model::diagnostic::policy::{PARAMETER_IGNORED, PARAMETER_UNUSABLE};
use moorgate_model::{Diagnostic, Diagnostics, FieldPath, Node, Object, ObjectRef, ir};
use moorgate_policies::proxy::{self, Around};
use moorgate_snapshot::FleetName;
use std::collections::BTreeMap;

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
