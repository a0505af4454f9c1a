//! One change after another to an object, each of which an API server may refuse.

use super::generate::{Maker, bound, get, get_mut, is_required};
use super::metadata;
use super::schema::{self, Kind};
use super::words::TEXTS;
use moorgate_model::{FieldPath, Segment};
use serde_json::{Value, json};

/// What is done to a value; each is tried where it fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Act {
    /// A value of another type.
    Type,
    Null,
    Remove,
    /// A field that the schema does not have.
    Unknown,
    /// A field's name in another spelling.
    Misspell,
    /// A field that may be there.
    Add,
    /// A number at a bound of the schema, or beyond.
    Number,
    /// A text of a length at a bound, or beyond.
    Length,
    /// Another text: a little different, or of another form.
    Text,
    /// As many items or entries as there may be, or one more, or too few.
    Count,
    /// An item twice, or almost.
    Twice,
    /// A value anew, with no eye on rules.
    Anew,
    /// What stands in another place of the object.
    Move,
    /// Something in `metadata`.
    Metadata,
    /// Another version or kind.
    Identity,
    /// Something in `status`, which belongs to controllers.
    Status,
}

const ACTS: [(Act, u64); 16] = [
    (Act::Type, 8),
    (Act::Null, 6),
    (Act::Remove, 8),
    (Act::Unknown, 6),
    (Act::Misspell, 3),
    (Act::Add, 8),
    (Act::Number, 10),
    (Act::Length, 10),
    (Act::Text, 14),
    (Act::Count, 6),
    (Act::Twice, 6),
    (Act::Anew, 12),
    (Act::Move, 4),
    (Act::Metadata, 8),
    (Act::Identity, 2),
    (Act::Status, 3),
];

/// Every act.
pub(crate) fn acts() -> impl Iterator<Item = Act> {
    ACTS.into_iter().map(|(act, _)| act)
}

type Path = Vec<Segment>;

/// Changes an object in one way; what was done, and where.
pub(crate) fn mutate(maker: &mut Maker, kind: &Kind, object: &mut Value) -> (Act, String) {
    loop {
        let act = maker.chance.weighted(&ACTS).unwrap();
        if let Some(place) = attempt(maker, kind, object, act) {
            return (act, place);
        }
    }
}

/// Every value below the fields that a schema describes.
fn places(kind: &Kind, object: &Value) -> Vec<Path> {
    fn walk(schema: &Value, value: &Value, path: &mut Path, all: &mut Vec<Path>) {
        all.push(path.clone());
        let mut below = |segment: Segment, value: &Value| {
            if let Some(schema) = schema::step(schema, &segment) {
                path.push(segment);
                walk(schema, value, path, all);
                path.pop();
            }
        };
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| below(Segment::Key(name.as_str().into()), value));
            }
            Value::Array(items) => {
                items
                    .iter()
                    .take(5)
                    .enumerate()
                    .for_each(|(index, value)| below(Segment::Index(index), value));
            }
            _ => {}
        }
    }
    let mut all = Vec::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        let segment = Segment::Key(name.as_str().into());
        if let Some(schema) = schema::step(&kind.schema, &segment)
            && !["apiVersion", "kind", "metadata", "status"].contains(&name.as_str())
        {
            walk(schema, value, &mut vec![segment], &mut all);
        }
    }
    all
}

/// One of the places that an act fits.
fn place(
    maker: &mut Maker,
    kind: &Kind,
    object: &Value,
    fits: impl Fn(&Value, &Value) -> bool,
) -> Option<Path> {
    let mut places = places(kind, object);
    places.retain(|path| match (get(object, path), schema::at(&kind.schema, path)) {
        (Some(value), Some(schema)) => fits(value, schema),
        _ => false,
    });
    (!places.is_empty()).then(|| maker.pick(&places).clone())
}

/// Does one thing somewhere, if there is a place for it: the place.
pub(crate) fn attempt(maker: &mut Maker, kind: &Kind, object: &mut Value, act: Act) -> Option<String> {
    maker.tame = false;
    let path = match act {
        Act::Metadata => return Some(metadata::change(maker, object)),
        Act::Identity => return Some(identity(maker, object)),
        Act::Status => {
            object["status"] = match schema::step(&kind.schema, &Segment::Key("status".into())) {
                Some(own) if maker.once_in(2) => maker.value(own, &[]),
                _ => odd_status(maker),
            };
            return Some("status".to_owned());
        }
        Act::Unknown | Act::Misspell | Act::Add => {
            place(maker, kind, object, |value, schema| value.is_object() && schema["type"] == "object")?
        }
        Act::Number => place(maker, kind, object, |value, _| value.is_number())?,
        Act::Length => place(maker, kind, object, |value, schema| {
            value.is_string() && (!schema["minLength"].is_null() || !schema["maxLength"].is_null())
        })?,
        Act::Text => place(maker, kind, object, |value, _| value.is_string())?,
        Act::Count => place(maker, kind, object, |value, schema| {
            value.as_array().is_some_and(|items| !items.is_empty())
                || schema["additionalProperties"].is_object()
        })?,
        Act::Twice => {
            place(maker, kind, object, |value, _| value.as_array().is_some_and(|items| !items.is_empty()))?
        }
        Act::Type | Act::Null | Act::Remove | Act::Anew | Act::Move => {
            place(maker, kind, object, |_, _| true)?
        }
    };
    let own = schema::at(&kind.schema, &path)?.clone();
    let shown = path.iter().cloned().fold(FieldPath::root(), |mut whole, step| {
        whole.push(step);
        whole
    });
    if act == Act::Remove {
        let (last, above) = path.split_last()?;
        match (get_mut(object, above)?, last) {
            (Value::Object(fields), Segment::Key(name)) => drop(fields.remove(&**name)),
            (Value::Array(items), Segment::Index(index)) => drop(items.remove(*index)),
            _ => return None,
        }
        return Some(shown.to_string());
    }
    if act == Act::Move {
        let other = place(maker, kind, object, |_, _| true)?;
        let value = get(object, &other)?.clone();
        *get_mut(object, &path)? = value;
        return Some(shown.to_string());
    }
    let value = get_mut(object, &path)?;
    let was = value.clone();
    match act {
        Act::Unknown => drop(value.as_object_mut()?.insert("unknown".to_owned(), odd(maker))),
        Act::Misspell => misspell(maker, value)?,
        Act::Add => add(maker, value, &own)?,
        Act::Number => *value = number(maker, &own),
        Act::Length => *value = length(maker, value, &own)?,
        Act::Text => *value = text(maker, value, &own),
        Act::Count => count(maker, value, &own)?,
        Act::Twice => twice(maker, value, &own)?,
        Act::Anew => *value = maker.value(&own, &[]),
        Act::Type => *value = odd(maker),
        _ => *value = Value::Null,
    }
    (*value != was).then(|| shown.to_string())
}

/// A value of some type.
fn odd(maker: &mut Maker) -> Value {
    let odd = [
        json!(true),
        json!(0),
        json!(-1),
        json!(80.0),
        json!(80.5),
        json!(9_223_372_036_854_775_807_i64),
        json!(""),
        json!("odd"),
        json!("80"),
        json!([]),
        json!({}),
        json!(["odd"]),
        json!({ "odd": "odd" }),
        json!([null]),
        json!([[]]),
    ];
    maker.pick(&odd).clone()
}

fn odd_status(maker: &mut Maker) -> Value {
    let odd = [
        json!({}),
        Value::Null,
        json!({ "conditions": [] }),
        json!({ "conditions": [{ "odd": 1 }] }),
        json!({ "conditions": {} }),
        json!({ "conditions": null }),
        json!({ "parents": [{ "conditions": [{ "type": 1 }], "controllerName": "" }] }),
        json!({ "parents": [null] }),
        json!({ "listeners": [{ "name": "A", "supportedKinds": [{ "kind": "" }] }] }),
        json!("done"),
        json!([]),
        json!({ "odd": 1 }),
    ];
    maker.pick(&odd).clone()
}

fn misspell(maker: &mut Maker, value: &mut Value) -> Option<()> {
    let fields = value.as_object_mut()?;
    let names: Vec<String> = fields.keys().cloned().collect();
    let name = (!names.is_empty()).then(|| maker.pick(&names).clone())?;
    let value = fields.remove(&name)?;
    let spelt = match maker.below(3) {
        0 => name.to_uppercase(),
        1 => format!("{name}s"),
        _ => name.chars().skip(1).collect(),
    };
    fields.insert(spelt, value);
    Some(())
}

fn add(maker: &mut Maker, value: &mut Value, schema: &Value) -> Option<()> {
    let fields = value.as_object_mut()?;
    let missing: Vec<&String> =
        schema["properties"].as_object()?.keys().filter(|name| !fields.contains_key(*name)).collect();
    let name = (!missing.is_empty()).then(|| (*maker.pick(&missing)).clone())?;
    let made = maker.value(&schema["properties"][&name], &[]);
    fields.insert(name, made);
    Some(())
}

fn number(maker: &mut Maker, schema: &Value) -> Value {
    let mut numbers = vec![
        json!(0),
        json!(-1),
        json!(1.0),
        json!(1.5),
        json!(2_147_483_647),
        json!(2_147_483_648_u32),
        json!(4_294_967_297_i64),
        json!(9_007_199_254_740_993_i64),
        json!(i64::MAX),
        json!(i64::MIN),
    ];
    for keyword in ["minimum", "maximum"] {
        if let Some(bound) = schema[keyword].as_i64() {
            numbers.extend([json!(bound - 1), json!(bound), json!(bound + 1)]);
        }
    }
    maker.pick(&numbers).clone()
}

/// A text whose length is at a bound, or one beyond it.
fn length(maker: &mut Maker, value: &Value, schema: &Value) -> Option<Value> {
    let bounds: Vec<usize> =
        ["minLength", "maxLength"].iter().filter_map(|keyword| bound(schema, keyword)).collect();
    let bound = *(!bounds.is_empty()).then(|| maker.pick(&bounds))?;
    let wanted = (bound + maker.below(3)).saturating_sub(1).min(100_000);
    let filler = *maker.pick(&["a", "a", "a", "0", "/", ".a", "\u{e9}", "\u{1F6AA}"]);
    let text: String = value.as_str()?.chars().chain(filler.chars().cycle()).take(wanted).collect();
    Some(text.into())
}

fn text(maker: &mut Maker, value: &Value, schema: &Value) -> Value {
    let was = value.as_str().unwrap_or_default().to_owned();
    let choices = schema["enum"].as_array().filter(|choices| !choices.is_empty());
    if let Some(choices) = choices
        && maker.once_in(2)
    {
        return maker.pick(choices).clone();
    }
    match maker.below(14) {
        0 => was.to_uppercase(),
        1 => was.to_lowercase(),
        2 => was + "\n",
        3 => was + " ",
        4 => format!(" {was}"),
        5 => was + ".",
        6 => format!("-{was}"),
        7 => format!("{was}\u{e9}"),
        8 => format!("{was}{was}"),
        9 => was.chars().rev().collect(),
        10 => format!("*.{was}"),
        _ => (*maker.pick(TEXTS)).to_owned(),
    }
    .into()
}

fn count(maker: &mut Maker, value: &mut Value, schema: &Value) -> Option<()> {
    match value {
        Value::Array(items) => {
            let bounds: Vec<usize> =
                ["minItems", "maxItems"].iter().filter_map(|keyword| bound(schema, keyword)).collect();
            let bound = *(!bounds.is_empty()).then(|| maker.pick(&bounds))?;
            let wanted = (bound + maker.below(3)).saturating_sub(1).min(300);
            let last = items.last()?.clone();
            let names = last["name"].is_string() && maker.once_in(2);
            while items.len() < wanted {
                let mut item = last.clone();
                if names {
                    item["name"] = format!("n{}", items.len()).into();
                }
                items.push(item);
            }
            items.truncate(wanted);
        }
        Value::Object(fields) => {
            let wanted = bound(schema, "maxProperties")? + maker.below(2);
            for number in 0..wanted {
                if fields.len() < wanted {
                    let made = maker.value(&schema["additionalProperties"], &[]);
                    fields.insert(format!("example.com/k{number}"), made);
                }
            }
        }
        _ => return None,
    }
    Some(())
}

fn twice(maker: &mut Maker, value: &mut Value, schema: &Value) -> Option<()> {
    let items = value.as_array_mut()?;
    let mut item = maker.pick(items).clone();
    if maker.once_in(2) {
        maker.vary(&mut item, &schema["items"]);
    }
    if maker.once_in(2) && item.is_object() {
        // A default that is written out is still the same.
        let keys: Vec<String> = item.as_object()?.keys().cloned().collect();
        if let Some(key) = keys.first().filter(|key| !is_required(&schema["items"], key)) {
            item.as_object_mut()?.remove(key);
        }
    }
    items.push(item);
    Some(())
}

fn identity(maker: &mut Maker, object: &mut Value) -> String {
    let api = object["apiVersion"].as_str().unwrap_or_default().to_owned();
    let group = api.split('/').next().unwrap_or_default().to_owned();
    let versions = ["v1", "v1beta1", "v1alpha1", "v1alpha2", "v1alpha3", "v2", "V1", ""];
    let kinds =
        ["Gateways", "gateway", "HttpRoute", "XBackend", "TCPRoute", "HTTPRoute", "TLSRoute", "XMesh"];
    if maker.once_in(2) {
        object["apiVersion"] = format!("{group}/{}", maker.pick(&versions)).into();
        return "apiVersion".to_owned();
    }
    object["kind"] = (*maker.pick(&kinds)).into();
    "kind".to_owned()
}
