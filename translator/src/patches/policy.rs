//! What an EnvoyPatchPolicy says, and whom it concerns.

use super::{Failure, gateway};
use crate::attach::{GATEWAY_GROUP, Options};
use moorgate_model::node::decode;
use moorgate_model::{FieldPath, Node, Object, ObjectRef, Value};
use moorgate_snapshot::FleetName;
use serde::Deserialize;
use serde_json::Value as Json;

/// The kind, of Envoy Gateway's group.
pub(crate) const KIND: &str = "EnvoyPatchPolicy";

/// The fields below `spec` that are carried out: all of them.
pub const FIELDS: [&str; 4] = ["jsonPatches", "priority", "targetRef", "type"];

/// What it does, for the reference.
pub const DOCS: &str = "\
JSON patches (RFC 6902) over what Envoy would get, after everything else, at places that a JSON pointer names or a JSONPath (RFC 9535) \
finds in the Listener, RouteConfiguration or Cluster of a type and name; deploy/patches.md has the names. Lower priorities first, then the \
oldest; a policy is in force as a whole. Off without --envoy-patch-policy. What a patch makes is checked against Envoy's descriptors. \
It opens nothing that is closed, brings no secrets, and takes away what restricts access only with the annotation \
moorgate.dev/may-weaken. If it cannot be carried out and may restrict access, its Gateway answers 500 (moorgate.dev/on-failure).";

/// The annotation that says what happens if the policy cannot be carried out: `Close` or `Ignore`.
const ON_FAILURE: &str = "moorgate.dev/on-failure";
/// The annotation without which no patch may take away what restricts access.
const MAY_WEAKEN: &str = "moorgate.dev/may-weaken";

/// Words that stand in patches that restrict access, or may: rather one too many.
const RESTRICTING: [&str; 26] = [
    "api_key",
    "auth",
    "cidr",
    "client_cert",
    "crl",
    "csrf",
    "deny",
    "direct_response",
    "domains",
    "early_header_mutation",
    "ext_proc",
    "filter_chain_match",
    "geoip",
    "jwt",
    "limit",
    "lua",
    "oauth",
    "quota",
    "rbac",
    "require",
    "san",
    "tls",
    "validation",
    "verify",
    "wasm",
    "whitelist",
];

/// One policy.
pub(super) struct Policy<'o> {
    pub(super) object: &'o Object,
    pub(super) generation: Option<i64>,
    /// The fleets that it concerns.
    pub(super) fleets: Vec<FleetName>,
    /// Their Gateways, as far as they are its.
    pub(super) gateways: Vec<ObjectRef>,
    /// The target, if it is ours.
    pub(super) ancestor: Option<ObjectRef>,
    pub(super) patches: Result<Vec<JsonPatch>, ()>,
    /// What is wrong with the policy itself.
    pub(super) failure: Option<Failure>,
    /// Its target is closed if it cannot be carried out.
    pub(super) closes: bool,
    /// It may take away what restricts access.
    pub(super) may_weaken: bool,
}

/// One patch.
#[derive(Debug, Clone)]
pub(crate) struct JsonPatch {
    pub(crate) type_url: String,
    pub(crate) name: String,
    pub(crate) op: String,
    pub(crate) path: Option<String>,
    pub(crate) json_path: Option<String>,
    pub(crate) from: Option<String>,
    pub(crate) value: Option<Json>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    target_ref: Target,
    #[serde(default)]
    json_patches: Vec<Written>,
}

#[derive(Debug, Deserialize)]
struct Target {
    #[serde(default)]
    group: String,
    kind: String,
    name: String,
}

#[derive(Debug, Deserialize)]
struct Written {
    r#type: String,
    name: String,
    operation: Operation,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Operation {
    op: String,
    path: Option<String>,
    json_path: Option<String>,
    from: Option<String>,
}

fn annotation<'o>(object: &'o Object, name: &str) -> Option<&'o str> {
    object.root.get("metadata")?.get("annotations")?.get(name)?.as_str()
}

/// Whether a policy restricts access, or may: then its target is closed where it cannot be carried out. It can say so itself.
pub(crate) fn restricts(object: &Object) -> bool {
    match annotation(object, ON_FAILURE) {
        Some("Ignore") => false,
        Some("Close") => true,
        _ => object.at("spec.jsonPatches").is_none_or(mentions),
    }
}

fn mentions(node: &Node) -> bool {
    let text = |text: &str| {
        let text = text.to_ascii_lowercase();
        RESTRICTING.iter().any(|word| text.contains(word))
    };
    match &node.value {
        Value::String(found) => text(found),
        Value::Sequence(items) => items.iter().any(mentions),
        Value::Mapping(fields) => {
            fields.entries().iter().any(|entry| text(&entry.key) || mentions(&entry.value))
        }
        _ => false,
    }
}

/// All policies, in the order in which they are applied: by priority, the lowest first, then the oldest, then by name.
pub(super) fn all<'o>(objects: &'o [Object], options: &Options) -> Vec<Policy<'o>> {
    let is_policy = |object: &&Object| {
        *object.reference.kind == *KIND
            && *object.reference.group == *moorgate_policies::GROUP
            && !options.refused.contains(&object.reference)
    };
    let text =
        |object: &Object, field: &str| object.at(field).and_then(Node::as_str).unwrap_or_default().to_owned();
    let mut found: Vec<_> = objects
        .iter()
        .filter(is_policy)
        .map(|object| {
            let created = text(object, "metadata.creationTimestamp");
            let priority = object.at("spec.priority").and_then(Node::as_int).unwrap_or_default();
            let key = (priority, created.is_empty(), created, object.reference.clone());
            (key, read(object, objects, options))
        })
        .collect();
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found.into_iter().map(|(_, policy)| policy).collect()
}

fn read<'o>(object: &'o Object, objects: &[Object], options: &Options) -> Policy<'o> {
    let mut policy = Policy {
        object,
        generation: object.at("metadata.generation").and_then(Node::as_int),
        fleets: Vec::new(),
        gateways: Vec::new(),
        ancestor: None,
        patches: Err(()),
        failure: None,
        closes: restricts(object),
        may_weaken: annotation(object, MAY_WEAKEN) == Some("true"),
    };
    let spec = object.root.get("spec").map(decode::<Spec>);
    let spec = match spec {
        Some(Ok(spec)) => spec,
        Some(Err(error)) => {
            let field = FieldPath::root().key("spec").join(&error.path);
            policy.failure =
                Some(Failure::misfit(field, format!("the policy cannot be read: {}", error.message)));
            return policy;
        }
        None => {
            policy.failure = Some(Failure::misfit(FieldPath::root(), "the policy has no spec"));
            return policy;
        }
    };
    aim(&mut policy, &spec.target_ref, objects, options);
    match patches(object, &spec.json_patches) {
        Ok(patches) => policy.patches = Ok(patches),
        Err(failure) => policy.failure = policy.failure.or(Some(failure)),
    }
    policy
}

/// Finds the fleets of a target. Those of others' classes are nobody's matter here.
fn aim(policy: &mut Policy<'_>, target: &Target, objects: &[Object], options: &Options) {
    let field = FieldPath::parse("spec.targetRef");
    let text =
        |object: &Object, field: &str| object.at(field).and_then(Node::as_str).unwrap_or_default().to_owned();
    let of_kind = |kind: &'static str| {
        objects.iter().filter(move |object| {
            *object.reference.group == *GATEWAY_GROUP && *object.reference.kind == *kind
        })
    };
    let ours = |class: &str| {
        of_kind("GatewayClass").any(|found| {
            *found.reference.name == *class && text(found, "spec.controllerName") == options.controller_name
        })
    };
    let class_of = |object: &Object| text(object, "spec.gatewayClassName");
    match (target.group.as_str(), target.kind.as_str()) {
        (GATEWAY_GROUP, "Gateway") => {
            let wanted = gateway(&policy.object.reference.namespace, &target.name);
            let Some(found) = of_kind("Gateway").find(|object| object.reference == wanted) else {
                let message = format!("{wanted} is not in this source");
                policy.failure = Some(Failure::target(field.key("name"), message));
                return;
            };
            let class = class_of(found);
            if !ours(&class) {
                return;
            }
            policy.ancestor = Some(wanted.clone());
            policy.gateways = vec![wanted];
            if options.merged.contains(&class) {
                let message = format!(
                    "the Gateways of class {class} share one fleet, and a patch would be one for all: target the GatewayClass"
                );
                policy.failure = Some(Failure::target(field.key("kind"), message));
                return;
            }
            policy.fleets = vec![FleetName::gateway(&found.reference.namespace, &found.reference.name)];
        }
        (GATEWAY_GROUP, "GatewayClass") => {
            if !ours(&target.name) {
                return;
            }
            policy.ancestor = Some(ObjectRef::new(GATEWAY_GROUP, "GatewayClass", "", &target.name));
            let gateways = of_kind("Gateway").filter(|found| class_of(found) == target.name);
            if !options.merged.contains(&target.name) {
                let message = "each Gateway of this class has a fleet of its own: target the Gateway";
                policy.failure = Some(Failure::target(field.key("kind"), message));
                // Those of its own namespace were meant at least, and it speaks for no others.
                let own =
                    gateways.filter(|found| found.reference.namespace == policy.object.reference.namespace);
                policy.gateways = own.map(|found| found.reference.clone()).collect();
                return;
            }
            policy.gateways = gateways.map(|found| found.reference.clone()).collect();
            policy.fleets = vec![FleetName::Class { name: target.name.clone() }];
        }
        (_, kind) => {
            let message =
                format!("an {KIND} targets a Gateway, or the GatewayClass of a merged fleet, and no {kind}");
            policy.failure = Some(Failure::target(field.key("kind"), message));
        }
    }
}

fn patches(object: &Object, written: &[Written]) -> Result<Vec<JsonPatch>, Failure> {
    let list = FieldPath::parse("spec.jsonPatches");
    if written.is_empty() {
        return Err(Failure::misfit(list, "there is no patch"));
    }
    let one = |(index, written): (usize, &Written)| {
        let at = list.index(index).key("operation");
        let Operation { op, path, json_path, from } = &written.operation;
        let value = object.root.at(&at.key("value")).map(json);
        let needs_value = ["add", "replace", "test"].contains(&op.as_str());
        let needs_from = ["move", "copy"].contains(&op.as_str());
        let wrong =
            |field: &str, message: &str| Err(Failure::misfit(at.key(field), format!("{op} {message}")));
        if needs_value && value.is_none() {
            return wrong("value", "needs a value");
        }
        if op == "remove" && value.is_some() {
            return wrong("value", "takes no value");
        }
        if needs_from != from.is_some() {
            return wrong("from", if needs_from { "needs from" } else { "takes no from" });
        }
        if op != "add" && path.is_none() && json_path.is_none() {
            return wrong("path", "needs a path or a jsonPath");
        }
        Ok(JsonPatch {
            type_url: written.r#type.clone(),
            name: written.name.clone(),
            op: op.clone(),
            path: path.clone(),
            json_path: json_path.clone(),
            from: from.clone(),
            value,
        })
    };
    written.iter().enumerate().map(one).collect()
}

/// A value as it is written.
fn json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::from(*value),
        Value::Int(value) => Json::from(*value),
        Value::Float(value) => Json::from(*value),
        Value::String(text) => Json::from(&**text),
        Value::Sequence(items) => items.iter().map(json).collect(),
        Value::Mapping(fields) => {
            fields.entries().iter().map(|entry| (entry.key.to_string(), json(&entry.value))).collect()
        }
    }
}
