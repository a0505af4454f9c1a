//! Parameters of a fleet: the EnvoyProxy (`gateway.envoyproxy.io/v1alpha1`) that a Gateway or its class names.
//!
//! ```text
//! parametersRef ─▶ EnvoyProxy, or ConfigMap with the same under a key ─▶ spec ─┬─▶ check: what is wrong, what has no effect
//!                                                                              └─▶ render: the shape of pods and Service
//! ```
//! What they say of pods and Services is `render`'s matter, and what they say of Envoy's configuration that of `attach::proxy`.
//! A Gateway's own parameters take the place of its class's as a whole, unless they ask to be merged with them (`mergeType`).

mod check;
mod fields;
mod pods;

pub use fields::all as fields;

pub(crate) use check::{Fault, check};

use crate::attach::{Merge, merged_object};
use moorgate_model::{Entry, FieldPath, Node, Object, ObjectRef, Value};
use std::borrow::Cow;
use thiserror::Error;

/// The group of EnvoyProxy.
pub const GROUP: &str = "gateway.envoyproxy.io";
/// Its kind.
pub const KIND: &str = "EnvoyProxy";
/// The version of its group that is read.
pub const VERSION: &str = "v1alpha1";
/// The key of a ConfigMap under which an EnvoyProxy is looked for: for clusters without its CRD.
pub const KEY: &str = "envoyproxy.yaml";

/// Why parameters cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParametersError {
    /// Neither an EnvoyProxy nor a ConfigMap.
    #[error("parameters cannot be taken from a {kind} of group {group:?}")]
    Kind {
        /// The group.
        group: String,
        /// The kind.
        kind: String,
    },
    /// A class has no namespace in which a bare name could be looked up.
    #[error("parametersRef names no namespace, and objects of kind {0} lie in one")]
    NoNamespace(String),
    /// Not in the source. Whatever kinds are open: parameters are never bound late.
    #[error("{0} is not in this source")]
    Missing(ObjectRef),
    /// Another version of the group.
    #[error("{object} has version {version:?}; {VERSION} is read")]
    Version {
        /// The object.
        object: ObjectRef,
        /// Its version.
        version: String,
    },
    /// A ConfigMap without the key.
    #[error("{0} has no key {KEY:?}")]
    NoKey(ObjectRef),
    /// The text under the key is no EnvoyProxy.
    #[error("{KEY} of {object} cannot be read: {why}")]
    Text {
        /// The ConfigMap.
        object: ObjectRef,
        /// What is wrong with it.
        why: String,
    },
    /// A field has a value that nobody can make sense of.
    #[error("{object} cannot be used: {why}")]
    Malformed {
        /// The object.
        object: ObjectRef,
        /// The first thing that is wrong.
        why: String,
    },
}

/// The `spec` of parameters, and where it stands.
#[derive(Debug, Clone)]
pub struct Parameters<'o> {
    /// The EnvoyProxy or ConfigMap.
    pub object: &'o Object,
    /// The `spec`; null if there is none.
    pub spec: Cow<'o, Node>,
    /// Where it stands in the object: in a ConfigMap, the key.
    pub at: FieldPath,
}

/// Reads an EnvoyProxy, or the one in a ConfigMap.
///
/// # Errors
/// If the object holds none. Whether its fields are sound is for `check` to say.
pub fn read(object: &Object) -> Result<Parameters<'_>, ParametersError> {
    let reference = &object.reference;
    if (&*reference.group, &*reference.kind) == (GROUP, KIND) {
        if &*object.version != VERSION {
            let version = object.version.to_string();
            return Err(ParametersError::Version { object: reference.clone(), version });
        }
        let spec = object.root.get("spec").map_or_else(|| Cow::Owned(nothing()), Cow::Borrowed);
        return Ok(Parameters { object, spec, at: FieldPath::root().key("spec") });
    }
    let text = object.root.get("data").and_then(|data| data.get(KEY)).and_then(Node::as_str);
    let text = text.ok_or_else(|| ParametersError::NoKey(reference.clone()))?;
    let wrong = |why: String| ParametersError::Text { object: reference.clone(), why };
    let root = crate::load::document(text.as_bytes())
        .map_err(|(span, why)| wrong(format!("line {}: {why}", span.start.line)))?;
    let says = |key: &str| root.get(key).and_then(Node::as_str).unwrap_or_default();
    if says("kind") != KIND || says("apiVersion") != format!("{GROUP}/{VERSION}") {
        return Err(wrong(format!("it is no {KIND} of {GROUP}/{VERSION}")));
    }
    let spec = root.get("spec").cloned().unwrap_or_else(nothing);
    Ok(Parameters { object, spec: Cow::Owned(spec), at: FieldPath::root().key("data").key(KEY) })
}

/// The parameters of a Gateway, put over those of its class if they ask for that (`mergeType`); as an object whose `spec` is
/// that of an EnvoyProxy. Those that cannot be read are none.
pub(crate) fn effective(own: Option<&Object>, class: Option<&Object>) -> Option<Object> {
    let plain = |object: &Object| {
        let spec = read(object).ok()?.spec.into_owned();
        let mut out = object.clone();
        if let Value::Mapping(root) = &mut out.root.value {
            root.remove("spec");
            let span = spec.span;
            // The name is free: it was removed.
            let _ = root.insert(Entry { key: "spec".into(), key_span: span, value: spec });
        }
        Some(out)
    };
    let Some(own) = own.and_then(plain) else { return class.and_then(plain) };
    let how = match own.at("spec.mergeType").and_then(Node::as_str) {
        Some("StrategicMerge") => Merge::Strategic,
        Some("JSONMerge") => Merge::Json,
        _ => return Some(own),
    };
    Some(match class.and_then(plain) {
        Some(class) => merged_object(&own, &class, Some(how)),
        None => own,
    })
}

/// The reference of a `parametersRef`, if parameters can be of that kind.
///
/// # Errors
/// If they cannot, or the namespace is not known.
pub fn reference(
    group: &str,
    kind: &str,
    namespace: Option<&str>,
    name: &str,
) -> Result<ObjectRef, ParametersError> {
    if ![(GROUP, KIND), ("", "ConfigMap")].contains(&(group, kind)) {
        return Err(ParametersError::Kind { group: group.to_owned(), kind: kind.to_owned() });
    }
    let namespace = namespace.filter(|namespace| !namespace.is_empty());
    let namespace = namespace.ok_or_else(|| ParametersError::NoNamespace(kind.to_owned()))?;
    Ok(ObjectRef::new(group, kind, namespace, name))
}

fn nothing() -> Node {
    Node::new(moorgate_model::Value::Null, moorgate_model::Span::default())
}

#[cfg(test)]
mod tests;
