//! `parametersRef` of GatewayClasses and Gateways: whether what they name can be used.

use super::index::{Index, Indexed};
use super::spec::{GatewayClass, ParametersRef};
use crate::parameters::{self, Fault, Parameters, ParametersError};
use moorgate_model::diagnostic::policy::PARAMETER_IGNORED;
use moorgate_model::diagnostic::semantic::INVALID_PARAMETERS;
use moorgate_model::{Diagnostic, Diagnostics, FieldPath, Object, ObjectRef};
use std::collections::BTreeSet;

/// Why the parameters that an object names cannot be used. A bare name is looked up in `namespace`.
pub(super) fn refuse(
    index: &Index<'_>,
    owner: &Object,
    at: FieldPath,
    named: &ParametersRef,
    namespace: Option<&str>,
) -> Option<Diagnostic> {
    let error = usable(index, named, namespace).err()?;
    let help = match &error {
        ParametersError::Kind { .. } => {
            "name an EnvoyProxy of gateway.envoyproxy.io, or a ConfigMap that holds one under envoyproxy.yaml"
        }
        ParametersError::Missing(_) => "parameters are never bound late: the source must hold them",
        _ => "until it is valid, what names it is not accepted",
    };
    Some(owner.diagnostic(&INVALID_PARAMETERS, at, error.to_string()).help(help))
}

fn usable(index: &Index<'_>, named: &ParametersRef, namespace: Option<&str>) -> Result<(), ParametersError> {
    let object = object(index, &reference(named, namespace)?)?;
    let read = parameters::read(object)?;
    match parameters::check(&read.spec).into_iter().find(|fault| fault.fatal) {
        Some(fault) => {
            Err(ParametersError::Malformed { object: object.reference.clone(), why: fault.message })
        }
        None => Ok(()),
    }
}

/// Why the parameters of a Gateway and those of its class cannot be used together, where each alone could: the one may mount
/// what the other says.
pub(super) fn merged(index: &Index<'_>, owner: &Object, at: FieldPath, class: &str) -> Option<Diagnostic> {
    let key = (&*owner.reference.namespace, &*owner.reference.name);
    if index.options.merged.contains(class) {
        return None;
    }
    let both = super::proxy::parameters_of(index, key)?;
    both.at("spec.mergeType").filter(|how| how.as_str() != Some("Replace"))?;
    let mut spec = both.root.get("spec")?.clone();
    if let moorgate_model::Value::Mapping(fields) = &mut spec.value {
        // It is whole now.
        fields.remove("mergeType");
    }
    let fault = parameters::check(&spec).into_iter().find(|fault| fault.fatal)?;
    let error = ParametersError::Malformed { object: both.reference.clone(), why: fault.message };
    let message = format!("with the parameters of class {class}, {error}");
    Some(owner.diagnostic(&INVALID_PARAMETERS, at, message))
}

fn reference(named: &ParametersRef, namespace: Option<&str>) -> Result<ObjectRef, ParametersError> {
    let namespace = named.namespace.as_deref().or(namespace);
    parameters::reference(&named.group, &named.kind, namespace, &named.name)
}

fn object<'a>(index: &Index<'a>, reference: &ObjectRef) -> Result<&'a Object, ParametersError> {
    let kind = if &*reference.kind == parameters::KIND { &index.envoy_proxies } else { &index.config_maps };
    let found = kind.get(&(&*reference.namespace, &*reference.name)).copied();
    found.ok_or_else(|| ParametersError::Missing(reference.clone()))
}

/// Why the parameters of a class cannot be used: neither it nor its Gateways are accepted.
pub(super) fn of_class(index: &Index<'_>, class: &Indexed<'_, GatewayClass>) -> Option<Diagnostic> {
    let named = class.value.spec.parameters_ref.as_ref()?;
    refuse(index, class.object, FieldPath::parse("spec.parametersRef"), named, None)
}

/// Says of every EnvoyProxy, and of every ConfigMap that is named as one, which of its fields are wrong or have no effect.
pub(super) fn report(index: &Index<'_>, diagnostics: &mut Diagnostics) {
    let ours = index.classes.values().map(|class| (class, &class.value.spec));
    let ours = ours.filter(|(_, spec)| spec.controller_name == index.options.controller_name);
    let classes: Vec<_> = ours.collect();
    diagnostics.extend(classes.iter().filter_map(|(class, _)| of_class(index, class)));
    let of_classes = classes.iter().filter_map(|(_, spec)| Some((spec.parameters_ref.as_ref()?, None)));
    let names: BTreeSet<&str> = classes.iter().map(|(class, _)| &*class.object.reference.name).collect();
    let gateways = index.gateways.values();
    let gateways = gateways.filter(|gateway| names.contains(gateway.value.spec.gateway_class_name.as_str()));
    let of_gateways = gateways.filter_map(|gateway| {
        let named = gateway.value.spec.infrastructure.as_ref()?.parameters_ref.as_ref()?;
        Some((named, Some(&*gateway.object.reference.namespace)))
    });
    let named = of_classes.chain(of_gateways).filter_map(|(named, namespace)| {
        let reference = reference(named, namespace).ok()?;
        (&*reference.kind == "ConfigMap").then(|| object(index, &reference).ok()).flatten()
    });
    let config_maps: std::collections::BTreeMap<_, _> =
        named.map(|object| (&object.reference, object)).collect();
    for object in index.envoy_proxies.values().copied().chain(config_maps.into_values()) {
        match parameters::read(object) {
            Ok(read) => diagnostics.extend(findings(&read)),
            Err(error) => {
                diagnostics.push(object.diagnostic(
                    &INVALID_PARAMETERS,
                    FieldPath::root(),
                    error.to_string(),
                ));
            }
        }
    }
}

fn findings<'p>(read: &'p Parameters<'_>) -> impl Iterator<Item = Diagnostic> + 'p {
    let inside = &*read.object.reference.kind != parameters::KIND;
    parameters::check(&read.spec).into_iter().map(move |Fault { field, message, fatal }| {
        let code = if fatal { &INVALID_PARAMETERS } else { &PARAMETER_IGNORED };
        // Inside of a text only the key has a place of its own.
        let at = if inside { read.at.clone() } else { read.at.join(&field) };
        read.object.diagnostic(code, at, message)
    })
}
