//! A field that Envoy cannot do is a diagnostic: every field of every kind of the Gateway API's experimental channel is
//! set in a specimen, and taken out or changed again. Then what is served must differ, or a diagnostic must have named it.
//!
//! The list of fields is the published schema's; a new release whose fields no specimen has fails here.

use crate::compile::{Compilation, Options, compile_objects};
use crate::load::{self, Loaded};
use crate::render::Fleet;
use crate::source::File;
use crate::validate::Channel;
use moorgate_model::{
    Class, Diagnostic, FieldPath, Mapping, Node, Object, ObjectRef, Segment, Severity, Value,
};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};

const SCHEMAS: &str = include_str!("../../../data/gateway-api.json");
const BASE: &str = include_str!("fields/base.yaml");
const SPECIMENS: &str = include_str!("fields/specimens.yaml");

/// Fields that rightly change nothing, and why.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("GatewayClass.spec.description", "it is for people"),
    ("GRPCRoute.spec.rules[].sessionPersistence.type", OF_SESSION),
    ("HTTPRoute.spec.rules[].sessionPersistence.type", OF_SESSION),
    ("XBackend.spec.sessionPersistence.type", OF_SESSION),
    ("XBackendTrafficPolicy.spec.sessionPersistence.type", OF_SESSION),
    ("TCPRoute.spec.rules[].name", "the API has one rule: nothing refers to it by name"),
    ("TLSRoute.spec.rules[].name", "the API has one rule: nothing refers to it by name"),
    ("UDPRoute.spec.rules[].name", "the API has one rule: nothing refers to it by name"),
];

const OF_SESSION: &str = "without it a session is by cookie, and rules hold it to the block beside it";

/// Fields of which the API's own rules leave no other value beside the rest of their object.
const DETERMINED: &[&str] = &[
    "BackendTLSPolicy.spec.validation.subjectAltNames[].type",
    "BackendTLSPolicy.spec.validation.wellKnownCACertificates",
    "Gateway.spec.listeners[].filters.requests[].externalAuth.protocol",
    "HTTPRoute.spec.rules[].backendRefs[].filters[].urlRewrite.path.type",
    "HTTPRoute.spec.rules[].filters[].externalAuth.protocol",
    "HTTPRoute.spec.rules[].filters[].requestRedirect.path.type",
    "HTTPRoute.spec.rules[].filters[].urlRewrite.path.type",
    "ListenerSet.spec.listeners[].filters.requests[].externalAuth.protocol",
    "XBackend.spec.tls.mode",
    "XBackend.spec.tls.validation.subjectAltNames[].type",
    "XBackend.spec.tls.validation.wellKnownCACertificates",
    "XBackend.spec.type",
    "XTelemetryPolicy.spec.tracing.attributes[].sourceType",
    "XTelemetryPolicy.spec.tracing.mode",
];

/// A step from an object's root to its fields.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Key(String),
    /// Each item of a list.
    Items,
    /// Each entry of a map.
    Entries,
}

/// A field of the schema.
struct Leaf {
    /// `Kind.spec.a[].b`.
    name: String,
    kind: String,
    steps: Vec<Step>,
    choices: Vec<String>,
}

fn leaves() -> Vec<Leaf> {
    fn walk(nodes: &[Json], node: &Json, at: &Leaf, out: &mut Vec<Leaf>) {
        let node = node.as_u64().map_or(node, |number| &nodes[usize::try_from(number).unwrap()]);
        let deeper = |text: String, step: Step| Leaf {
            name: format!("{}{text}", at.name),
            kind: at.kind.clone(),
            steps: at.steps.iter().cloned().chain([step]).collect(),
            choices: Vec::new(),
        };
        if let Some(fields) = node["properties"].as_object() {
            for (name, node) in fields {
                let root = at.steps.is_empty() && name != "spec";
                if !root {
                    walk(nodes, node, &deeper(format!(".{name}"), Step::Key(name.clone())), out);
                }
            }
        } else if !node["items"].is_null() {
            walk(nodes, &node["items"], &deeper("[]".into(), Step::Items), out);
        } else if node["additionalProperties"].is_u64() || node["additionalProperties"].is_object() {
            out.push(deeper("{}".into(), Step::Entries));
        } else {
            let choices = node["enum"].as_array().into_iter().flatten();
            let choices = choices.filter_map(Json::as_str).map(str::to_owned).collect();
            out.push(Leaf { choices, name: at.name.clone(), kind: at.kind.clone(), steps: at.steps.clone() });
        }
    }
    let data: Json = serde_json::from_str(SCHEMAS).unwrap();
    let mut out = Vec::new();
    for kind in data["kinds"].as_array().unwrap() {
        let versions = kind["channels"]["experimental"].as_array().into_iter().flatten();
        for version in versions.filter(|version| version["storage"] == true) {
            let kind = kind["kind"].as_str().unwrap().to_owned();
            let root = Leaf { name: kind.clone(), kind, steps: Vec::new(), choices: Vec::new() };
            walk(data["nodes"].as_array().unwrap(), &version["schema"], &root, &mut out);
        }
    }
    out
}

/// All places in an object that these steps lead to.
fn places(node: &Node, steps: &[Step], at: &FieldPath, out: &mut Vec<FieldPath>) {
    let Some((step, rest)) = steps.split_first() else { return out.push(at.clone()) };
    match step {
        Step::Key(name) => {
            if let Some(node) = node.get(name) {
                places(node, rest, &at.key(name), out);
            }
        }
        Step::Items => {
            for (index, node) in node.as_sequence().unwrap_or_default().iter().enumerate() {
                places(node, rest, &at.index(index), out);
            }
        }
        Step::Entries => {
            for entry in node.as_mapping().map(Mapping::entries).unwrap_or_default() {
                places(&entry.value, rest, &at.key(&entry.key), out);
            }
        }
    }
}

/// What to put in the place of a field: first nothing.
fn others(node: &Node, leaf: &Leaf) -> Vec<Option<Value>> {
    let text = |text: String| Some(Value::String(text.as_str().into()));
    let mut out = vec![None];
    match &node.value {
        Value::Bool(value) => out.push(Some(Value::Bool(!value))),
        Value::Int(value) => out.extend([1, -1].map(|by| Some(Value::Int(value + by)))),
        Value::String(value) if leaf.choices.is_empty() => {
            let known =
                ["HTTP", "a.example", "/else", "30s", "5s", "Same", "None", "TLS", "Service", "Secret"];
            out.extend([format!("{value}x"), format!("x{value}"), format!("{value}.example")].map(text));
            out.extend(known.map(|other| text(other.to_owned())));
        }
        Value::String(value) => {
            let choices = leaf.choices.iter().filter(|choice| ***choice != **value);
            out.extend(choices.map(|choice| text(choice.clone())));
        }
        _ => {}
    }
    out
}

/// The tree with something else, or nothing, in one place.
fn edit(node: &mut Node, path: &[Segment], change: Option<&Value>) {
    let Some((first, rest)) = path.split_first() else { return };
    match (first, &mut node.value) {
        (Segment::Key(key), Value::Mapping(fields)) => match (rest.is_empty(), change) {
            (true, None) => drop(fields.remove(key)),
            (true, Some(value)) => fields.get_mut(key).unwrap().value = value.clone(),
            (false, _) => edit(fields.get_mut(key).unwrap(), rest, change),
        },
        (Segment::Index(index), Value::Sequence(items)) => match (rest.is_empty(), change) {
            (true, None) => drop(items.remove(*index)),
            (true, Some(value)) => items[*index].value = value.clone(),
            (false, _) => edit(&mut items[*index], rest, change),
        },
        _ => unreachable!("places lead to what is there"),
    }
}

/// A text of objects, and what comes of it.
struct World {
    loaded: Loaded,
    /// With defaults.
    objects: Vec<Object>,
    output: Vec<String>,
    diagnostics: Vec<Diagnostic>,
}

fn compiled(loaded: Loaded) -> Compilation {
    let mut options = Options::default();
    options.validate.channel = Channel::Experimental;
    compile_objects(loaded, &options)
}

/// What people and Envoys see: snapshots, how fleets run, and status.
fn output(compilation: &Compilation) -> Vec<String> {
    let fleets = compilation.fleets.iter().map(|(name, fleet)| {
        let run = Fleet::of(name, fleet, &compilation.objects, "");
        format!("{name} {} {run:?}", fleet.snapshot.id())
    });
    let statuses = serde_json::to_value(&compilation.statuses).unwrap();
    let statuses = statuses.as_array().unwrap().iter().map(ToString::to_string);
    fleets.chain(statuses).collect()
}

fn worlds() -> Vec<World> {
    let texts: Vec<&str> = SPECIMENS.split("\n=== ").skip(1).collect();
    assert!(texts.len() > 20);
    let world = |text: &&str| {
        let (name, text) = text.split_once('\n').unwrap();
        let file = |name: &str, text: &str| File { name: name.into(), bytes: text.as_bytes().into() };
        let loaded = load::load(&[file("base", BASE), file("specimen", text)]);
        let compilation = compiled(loaded.clone());
        let diagnostics: Vec<Diagnostic> = compilation.diagnostics.iter().cloned().collect();
        let refused = diagnostics.iter().find(|found| found.code.class != Class::Semantic);
        assert_eq!(refused, None, "{name}: the API takes a specimen");
        World { loaded, output: output(&compilation), objects: compilation.objects, diagnostics }
    };
    texts.iter().map(world).collect()
}

/// Whether a finding speaks of a field: of itself, of a part of it, or of something around it that is less than the whole.
fn names(found: &Diagnostic, object: &ObjectRef, field: &FieldPath) -> bool {
    let (mut said, wanted) = (found.field.segments(), field.segments());
    // The type of a union speaks of all its variants.
    if let Some((Segment::Key(last), rest)) = said.split_last()
        && &**last == "type"
    {
        said = rest;
    }
    let whole = *said == [Segment::Key("kind".into())];
    let around = said.len() > 1 && wanted.starts_with(said);
    found.object.as_ref() == Some(object) && (whole || around || said.starts_with(wanted))
}

enum Effect {
    /// The output differs, or a finding names the field.
    Shown,
    /// Another value was taken, and nothing differs.
    Silent,
    /// No other value was taken.
    Refused,
}

fn effect(world: &World, object: usize, field: &FieldPath, leaf: &Leaf) -> Effect {
    let reference = &world.loaded.objects[object].reference;
    if world.diagnostics.iter().any(|found| names(found, reference, field)) {
        return Effect::Shown;
    }
    let mut taken = false;
    let here = world.loaded.objects[object].root.at(field).unwrap();
    for change in others(here, leaf) {
        let mut loaded = world.loaded.clone();
        edit(&mut loaded.objects[object].root, field.segments(), change.as_ref());
        let compilation = compiled(loaded);
        let refused =
            |found: &Diagnostic| found.code.class != Class::Semantic && found.severity == Severity::Error;
        if compilation.diagnostics.iter().any(refused) {
            continue;
        }
        // A field that takes its default when it is gone was not taken out.
        if compilation.objects == world.objects {
            continue;
        }
        taken = true;
        if output(&compilation) != world.output {
            return Effect::Shown;
        }
    }
    if taken { Effect::Silent } else { Effect::Refused }
}

#[test]
fn every_field_is_compiled_or_named() {
    let worlds = worlds();
    let mut problems = Vec::new();
    let mut determined = BTreeSet::new();
    let exempt: BTreeMap<&str, &str> = WITHOUT_EFFECT.iter().copied().collect();
    let leaves = leaves();
    assert!(leaves.len() > 400, "{}", leaves.len());
    for leaf in &leaves {
        let (mut set, mut shown, mut silent) = (false, false, false);
        'found: for world in &worlds {
            for (index, object) in world.loaded.objects.iter().enumerate() {
                if *object.reference.kind != *leaf.kind || &*object.origin.file != "specimen" {
                    continue;
                }
                let mut found = Vec::new();
                places(&object.root, &leaf.steps, &FieldPath::root(), &mut found);
                for field in found {
                    set = true;
                    match effect(world, index, &field, leaf) {
                        Effect::Shown => {
                            shown = true;
                            break 'found;
                        }
                        Effect::Silent => silent = true,
                        Effect::Refused => {}
                    }
                }
            }
        }
        let name = leaf.name.as_str();
        match (set, shown, silent, exempt.contains_key(name)) {
            (false, ..) => problems.push(format!("no specimen sets {name}")),
            (true, true, _, true) => problems.push(format!("{name} has an effect after all")),
            (true, true, _, false) | (true, false, true, true) => {}
            (true, false, true, false) => {
                problems.push(format!("{name} changes nothing, and nobody says so"));
            }
            (true, false, false, _) => drop(determined.insert(name)),
        }
    }
    assert!(problems.is_empty(), "{problems:#?}\n{determined:#?}");
    assert_eq!(determined, DETERMINED.iter().copied().collect());
}
