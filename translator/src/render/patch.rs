//! Patches of manifests, as an EnvoyProxy has them (`patch`): a JSON merge patch (RFC 7386), or Kubernetes' strategic merge
//! patch, which joins some lists by a key of their items and knows directives (`$patch: delete`, `$retainKeys`, …).
//!
//! What a patch makes is for [`guard`](super::guard) to judge.

use serde_json::{Map, Value};
use std::collections::BTreeSet;
use thiserror::Error;

/// Lists that a strategic merge joins, with the key of their items; a list of texts has none. `[]` stands for an item.
///
/// Source: `x-kubernetes-patch-merge-key` and `x-kubernetes-patch-strategy: merge` in Kubernetes' OpenAPI document (v1.37), of
/// Deployment, DaemonSet, Service, HorizontalPodAutoscaler and PodDisruptionBudget, without `status`.
pub const MERGED_LISTS: [(&str, &str); 17] = [
    ("metadata.finalizers", ""),
    ("metadata.ownerReferences", "uid"),
    ("spec.ports", "port"),
    ("spec.template.metadata.finalizers", ""),
    ("spec.template.metadata.ownerReferences", "uid"),
    ("spec.template.spec.containers", "name"),
    ("spec.template.spec.ephemeralContainers", "name"),
    ("spec.template.spec.evictionResponders", "name"),
    ("spec.template.spec.hostAliases", "ip"),
    ("spec.template.spec.imagePullSecrets", "name"),
    ("spec.template.spec.initContainers", "name"),
    ("spec.template.spec.resourceClaims", "name"),
    ("spec.template.spec.schedulingGates", "name"),
    ("spec.template.spec.topologySpreadConstraints", "topologyKey"),
    ("spec.template.spec.volumes", "name"),
    ("spec.template.spec.volumes[].ephemeral.volumeClaimTemplate.metadata.finalizers", ""),
    ("spec.template.spec.volumes[].ephemeral.volumeClaimTemplate.metadata.ownerReferences", "uid"),
];
/// The same in containers of any kind.
pub const MERGED_LISTS_OF_CONTAINERS: [(&str, &str); 4] = [
    ("env", "name"),
    ("ports", "containerPort"),
    ("volumeDevices", "devicePath"),
    ("volumeMounts", "mountPath"),
];

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// A patch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// A strategic merge patch, not a JSON merge patch.
    pub strategic: bool,
    /// What is merged.
    pub value: Value,
}

/// Why a patch cannot be put over a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{at}: {why}")]
pub(super) struct PatchError {
    /// Where, in the manifest.
    at: String,
    why: String,
}

fn error(at: &str, why: impl Into<String>) -> PatchError {
    let at = if at.is_empty() { "the patch" } else { at };
    PatchError { at: at.to_owned(), why: why.into() }
}

impl Patch {
    /// Reads the field of an EnvoyProxy.
    pub(super) fn read(field: &Value) -> Option<Self> {
        let value = field.get("value")?.clone();
        Some(Self { strategic: field["type"] != "JSONMerge", value })
    }

    /// The manifest with the patch over it. Of a Service's ports those stay that listeners have: parameters of a class speak
    /// for Gateways with different ones.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub(super) fn over(&self, manifest: &Value) -> Result<Value, PatchError> {
        let mut after = self.apply(manifest)?;
        if let (Some(had), Some(ports)) = (
            manifest["spec"]["ports"].as_array(),
            after.pointer_mut("/spec/ports").and_then(Value::as_array_mut),
        ) {
            let protocol = |port: &Value| port["protocol"].as_str().unwrap_or("TCP").to_owned();
            let same = |a: &Value, b: &Value| a["port"] == b["port"] && protocol(a) == protocol(b);
            ports.retain(|port| had.iter().any(|one| same(one, port)));
        }
        Ok(after)
    }

    /// The manifest with the patch over it.
    ///
    /// # Errors
    /// An item of a list that is joined lacks its key, or a directive makes no sense.
    pub(super) fn apply(&self, manifest: &Value) -> Result<Value, PatchError> {
        match (manifest, &self.value) {
            (Value::Object(manifest), Value::Object(patch)) if self.strategic => {
                merge(manifest.clone(), patch.clone(), "").map(Value::Object)
            }
            (manifest, patch @ Value::Object(_)) => Ok(merged(manifest.clone(), patch)),
            _ => Err(error("", "it is no object")),
        }
    }
}

/// RFC 7386.
fn merged(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut target = if let Value::Object(fields) = target { fields } else { Map::new() };
    for (field, value) in patch {
        if value.is_null() {
            target.remove(field);
        } else {
            let old = target.remove(field).unwrap_or(Value::Null);
            target.insert(field.clone(), merged(old, value));
        }
    }
    Value::Object(target)
}

/// The key by which the items of a list are joined.
fn key_of(at: &str) -> Option<&'static str> {
    if let Some((_, key)) = MERGED_LISTS.iter().find(|(list, _)| *list == at) {
        return Some(key);
    }
    let rest = at.strip_prefix("spec.template.spec.")?;
    let (containers, list) = rest.split_once("[].")?;
    let lists = ["containers", "ephemeralContainers", "initContainers"].contains(&containers);
    let found = MERGED_LISTS_OF_CONTAINERS.iter().find(|(known, _)| lists && *known == list);
    found.map(|(_, key)| *key)
}

fn merge(
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
    at: &str,
) -> Result<Map<String, Value>, PatchError> {
    match patch.remove(DIRECTIVE).as_ref().map(|directive| directive.as_str().unwrap_or_default()) {
        None => {}
        Some("replace") => return Ok(plain_fields(patch)),
        Some("delete") => return Ok(Map::new()),
        Some(other) => return Err(error(at, format!("$patch is {other:?}: write replace or delete"))),
    }
    retain(&mut original, &mut patch, at)?;
    let orders: Vec<(String, Value)> = patch
        .iter()
        .filter_map(|(field, value)| Some((field.strip_prefix(ORDER)?.to_owned(), value.clone())))
        .collect();
    patch.retain(|field, _| !field.starts_with(ORDER));
    for (field, value) in patch {
        if let Some(list) = field.strip_prefix(DELETE_FROM) {
            let gone = value.as_array().ok_or_else(|| error(at, format!("{field} is no list")))?;
            if let Some(items) = original.get_mut(list).and_then(Value::as_array_mut) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        let below = if at.is_empty() { field.clone() } else { format!("{at}.{field}") };
        let merged = match (original.remove(&field), value) {
            (_, Value::Null) => None,
            (Some(Value::Object(old)), Value::Object(new)) => Some(Value::Object(merge(old, new, &below)?)),
            (Some(Value::Array(old)), Value::Array(new)) => Some(match key_of(&below) {
                Some(key) => Value::Array(join(old, new, key, &below)?),
                None => plain(Value::Array(new)),
            }),
            (_, new) if is_deletion(&new) => None,
            (_, new) => Some(plain(new)),
        };
        original.extend(merged.map(|value| (field, value)));
    }
    for (field, order) in orders {
        let order = order.as_array().ok_or_else(|| error(at, format!("{ORDER}{field} is no list")))?;
        let below = if at.is_empty() { field.clone() } else { format!("{at}.{field}") };
        let key = key_of(&below).unwrap_or_default();
        if let Some(Value::Array(items)) = original.get_mut(&field) {
            let server = items.clone();
            *items = ordered(std::mem::take(items), order, &server, key);
        }
    }
    Ok(original)
}

/// `$retainKeys`: fields that are not named go.
fn retain(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    at: &str,
) -> Result<(), PatchError> {
    let Some(kept) = patch.remove(RETAIN) else { return Ok(()) };
    let kept = kept.as_array().ok_or_else(|| error(at, format!("{RETAIN} is no list")))?;
    let kept: BTreeSet<&str> = kept.iter().filter_map(Value::as_str).collect();
    let stray = patch
        .iter()
        .find(|(field, value)| !value.is_null() && !field.starts_with('$') && !kept.contains(field.as_str()));
    if let Some((field, _)) = stray {
        return Err(error(at, format!("{RETAIN} lacks {field}, which the patch sets")));
    }
    original.retain(|field, _| kept.contains(field.as_str()));
    Ok(())
}

/// Joins two lists.
fn join(original: Vec<Value>, patch: Vec<Value>, key: &str, at: &str) -> Result<Vec<Value>, PatchError> {
    if key.is_empty() {
        let mut out = original.clone();
        out.extend(patch.iter().filter(|item| !original.contains(item)).cloned());
        return Ok(ordered(out, &patch, &original, key));
    }
    let (mut server, mut own, mut replaces) = (original, Vec::new(), false);
    for item in patch {
        if !item.is_object() {
            return Err(error(at, "an item is no object"));
        }
        let directive = item.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or_default());
        if directive == Some("replace") {
            replaces = true;
            continue;
        }
        if item[key].is_null() {
            return Err(error(at, format!("an item lacks {key}, by which it is found")));
        }
        match directive {
            None => own.push(item),
            Some("delete") => server.retain(|one| one[key] != item[key]),
            Some(other) => return Err(error(at, format!("$patch is {other:?}: write replace or delete"))),
        }
    }
    if replaces {
        return Ok(own.into_iter().map(plain).collect());
    }
    let mut out = server.clone();
    for item in &own {
        match out.iter_mut().find(|one| one[key] == item[key]) {
            Some(found) => {
                if let (Value::Object(old), Value::Object(new)) = (found.take(), item) {
                    *found = Value::Object(merge(old, new.clone(), &format!("{at}[]"))?);
                }
            }
            None => out.push(plain(item.clone())),
        }
    }
    Ok(ordered(out, &own, &server, key))
}

/// Items of the patch in its order, and each other one before the first of these that it stood before.
fn ordered(items: Vec<Value>, patch: &[Value], server: &[Value], key: &str) -> Vec<Value> {
    let same = |a: &Value, b: &Value| if key.is_empty() { a == b } else { name(a, key) == name(b, key) };
    let place = |item: &Value, list: &[Value]| list.iter().position(|one| same(one, item));
    let (mut own, rest): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| place(item, patch).is_some());
    own.sort_by_key(|item| place(item, patch));
    let mut out = Vec::with_capacity(own.len() + rest.len());
    let mut own = own.into_iter().peekable();
    for item in rest {
        let before = |next: &Value| match (place(&item, server), place(next, server)) {
            (Some(item), Some(next)) => item < next,
            _ => false,
        };
        while let Some(next) = own.next_if(|next| !before(next)) {
            out.push(next);
        }
        out.push(item);
    }
    out.extend(own);
    out
}

/// What an item of a list that is joined is called; in a list of an order, items may be names.
fn name<'v>(item: &'v Value, key: &str) -> &'v Value {
    item.get(key).unwrap_or(item)
}

fn is_deletion(value: &Value) -> bool {
    value.get(DIRECTIVE).is_some_and(|directive| directive == "delete")
}

/// What is new in a manifest: without nulls and directives.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(plain_fields(fields)),
        Value::Array(items) => {
            Value::Array(items.into_iter().filter(|item| !is_deletion(item)).map(plain).collect())
        }
        other => other,
    }
}

fn plain_fields(fields: Map<String, Value>) -> Map<String, Value> {
    let kept = fields.into_iter().filter(|(field, value)| {
        let directive = field == DIRECTIVE || field == RETAIN;
        let directive = directive || field.starts_with(DELETE_FROM) || field.starts_with(ORDER);
        !(directive || value.is_null() || is_deletion(value))
    });
    kept.map(|(field, value)| (field, plain(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: &Value) -> Value {
        json!({"spec": {"template": {"spec": spec}}})
    }

    fn strategic(manifest: &Value, value: Value) -> Result<Value, PatchError> {
        Patch { strategic: true, value }.apply(manifest)
    }

    #[test]
    fn lists_are_joined_by_their_keys() {
        let own = pod(&json!({
            "containers": [{
                "name": "envoy", "args": ["a"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            }],
            "tolerations": [{"key": "a"}],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {}}],
        }));
        let cases = [
            (
                json!({"containers": [{"name": "envoy", "env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}]}]}),
                "/spec/template/spec/containers/0/env",
                json!([{"name": "A", "value": "1"}, {"name": "B", "value": "3"}, {"name": "C", "value": "4"}]),
            ),
            (
                json!({"containers": [{"name": "envoy", "args": ["b"]}]}),
                "/spec/template/spec/containers/0/args",
                json!(["b"]),
            ),
            (
                json!({"tolerations": [{"key": "b"}]}),
                "/spec/template/spec/tolerations",
                json!([{"key": "b"}]),
            ),
            (
                json!({"containers": [{"name": "more", "image": null}]}),
                "/spec/template/spec/containers/0",
                json!({"name": "more"}),
            ),
            (
                json!({"volumes": [{"name": "v", "$patch": "delete"}]}),
                "/spec/template/spec/volumes",
                json!([{"name": "w", "emptyDir": {}}]),
            ),
            (
                json!({"volumes": [{"$patch": "replace"}, {"name": "x", "emptyDir": {}}]}),
                "/spec/template/spec/volumes",
                json!([{"name": "x", "emptyDir": {}}]),
            ),
            (
                json!({"volumes": [{"name": "w", "emptyDir": null, "configMap": {"name": "c"}}]}),
                "/spec/template/spec/volumes/1",
                json!({"name": "w", "configMap": {"name": "c"}}),
            ),
            (
                json!({"volumes": [{"name": "w", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]}),
                "/spec/template/spec/volumes/1",
                json!({"name": "w", "configMap": {"name": "c"}}),
            ),
            (
                json!({"$setElementOrder/volumes": [{"name": "w"}, {"name": "v"}]}),
                "/spec/template/spec/volumes/0/name",
                json!("w"),
            ),
            (
                json!({"containers": [{"name": "envoy", "$deleteFromPrimitiveList/args": ["a"]}]}),
                "/spec/template/spec/containers/0/args",
                json!([]),
            ),
            (json!({"containers": null}), "/spec/template/spec/containers", Value::Null),
            (
                json!({"affinity": {"a": null, "b": {"$patch": "replace", "c": 1}}}),
                "/spec/template/spec/affinity",
                json!({"b": {"c": 1}}),
            ),
        ];
        for (patch, at, expected) in cases {
            let made = strategic(&own, pod(&patch)).unwrap();
            assert_eq!(*made.pointer(at).unwrap_or(&Value::Null), expected, "{patch}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        let own = pod(&json!({"containers": [{"name": "envoy"}]}));
        for patch in [
            json!({"containers": [{"image": "a"}]}),
            json!({"containers": ["a"]}),
            json!({"containers": [{"name": "envoy", "$patch": "merge"}]}),
            json!({"$patch": "append"}),
            json!({"$retainKeys": ["a"], "b": 1}),
            json!({"$deleteFromPrimitiveList/containers": "a"}),
        ] {
            assert!(strategic(&own, pod(&patch)).is_err(), "{patch}");
        }
        assert!(strategic(&own, json!([])).is_err());
    }

    #[test]
    fn a_service_port_is_found_by_its_number() {
        let own =
            json!({"spec": {"ports": [{"port": 80, "name": "tcp-80"}, {"port": 443, "name": "tcp-443"}]}});
        let made = strategic(&own, json!({"spec": {"ports": [{"port": 443, "nodePort": 30443}]}})).unwrap();
        assert_eq!(made["spec"]["ports"][1], json!({"port": 443, "name": "tcp-443", "nodePort": 30443}));
        let made = strategic(&own, json!({"spec": {"$patch": "replace", "type": "ClusterIP"}})).unwrap();
        assert_eq!(made, json!({"spec": {"type": "ClusterIP"}}));
    }

    /// The examples of RFC 7386, appendix A.
    #[test]
    fn a_json_merge_patch_is_that_of_its_rfc() {
        for (target, patch, expected) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            assert_eq!(
                Patch { strategic: false, value: patch.clone() }.apply(&target),
                Ok(expected),
                "{patch}"
            );
        }
    }
}
