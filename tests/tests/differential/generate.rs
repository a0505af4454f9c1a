//! Objects by chance from a published schema: valid ones, and wild ones whose structure holds and whose rules may not.

use super::answer::check;
use super::schema::{self, Kind};
use super::words::TEXTS;
use moorgate_model::{FieldPath, Segment};
use moorgate_tests::sim::chance::Chance;
use regex::Regex;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Fields that say which of their neighbours may be set.
const SWITCHES: [&str; 4] = ["type", "mode", "protocol", "sourceType"];

/// Groups and kinds that rules know together.
const REFERENTS: [(&str, &str); 5] = [
    ("", "Service"),
    ("", "ConfigMap"),
    ("gateway.networking.x-k8s.io", "XBackend"),
    ("certificates.k8s.io", "ClusterTrustBundle"),
    ("gateway.networking.k8s.io", "Gateway"),
];

/// How often an object is mended before another one is made.
const MENDINGS: usize = 60;

/// Makes values.
pub(crate) struct Maker {
    pub(crate) chance: Chance,
    /// Whether fields are set as their switches say, so that most values hold all rules.
    pub(crate) tame: bool,
    fitting: BTreeMap<String, Vec<&'static str>>,
}

impl Maker {
    pub(crate) fn new(chance: Chance) -> Self {
        Self { chance, tame: true, fitting: BTreeMap::new() }
    }

    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.chance.below(times) == 0
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.chance.below(bound as u64)).unwrap()
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// An object of a kind with the fields on the way to some place of its schema; not valid yet.
    pub(crate) fn object(&mut self, kind: &Kind, way: &[String]) -> Value {
        let number = self.below(1000);
        let mut object = json!({
            "apiVersion": kind.api_version(), "kind": kind.kind, "metadata": { "name": format!("made-{number}") },
        });
        if kind.namespaced {
            object["metadata"]["namespace"] = "default".into();
        }
        for (name, child) in kind.schema["properties"].as_object().unwrap() {
            if !["apiVersion", "kind", "metadata", "status"].contains(&name.as_str()) {
                let rest = way.strip_prefix(std::slice::from_ref(name)).unwrap_or_default();
                object[name] = self.value(child, rest);
            }
        }
        object
    }

    /// An object of a kind that `check` accepts.
    pub(crate) fn valid(&mut self, kind: &Kind, way: &[String]) -> Value {
        loop {
            self.tame = true;
            let object = self.object(kind, way);
            if let Some(object) = self.mended(kind, object, None) {
                return object;
            }
        }
    }

    /// Changes an object until all that `check` says of it is the one rule, or nothing.
    pub(crate) fn mended(&mut self, kind: &Kind, mut object: Value, keep: Option<&str>) -> Option<Value> {
        for _ in 0..MENDINGS {
            let said = check(&object.to_string(), kind.channel);
            let other = said.refusals.iter().find(|(field, words)| {
                keep.is_none() || schema::rule_of(kind, field, words).as_deref() != keep
            });
            let Some((field, _)) = other else {
                return (keep.is_none() || !said.accepts()).then_some(object);
            };
            let path = FieldPath::parse(field);
            self.mend(kind, &mut object, path.segments());
        }
        None
    }

    /// Makes anew, empties or takes away what is at a path, or above it.
    fn mend(&mut self, kind: &Kind, object: &mut Value, path: &[Segment]) {
        let (Some((last, above)), Some(own)) = (path.split_last(), schema::at(&kind.schema, path)) else {
            if let Some((_, above)) = path.split_last() {
                self.mend(kind, object, above);
            }
            return;
        };
        let Some(parent) = schema::at(&kind.schema, above) else { return };
        if get(object, path).is_some_and(Value::is_object) && self.once_in(2) {
            // One of its fields less, or more.
            let fields: Vec<&String> =
                own["properties"].as_object().into_iter().flatten().map(|(n, _)| n).collect();
            if let Some(name) = (!fields.is_empty()).then(|| (*self.pick(&fields)).clone()) {
                let made = self.value(&own["properties"][&name], &[]);
                let fields = get_mut(object, path).and_then(Value::as_object_mut).unwrap();
                if fields.remove(&name).is_none() {
                    fields.insert(name, made);
                }
            }
            return;
        }
        let made = self.value(own, &[]);
        let again = self.once_in(2);
        match (get_mut(object, above), last) {
            (Some(Value::Object(fields)), Segment::Key(name)) => {
                if again || is_required(parent, name) {
                    fields.insert(name.to_string(), made);
                } else {
                    fields.remove(&**name);
                }
            }
            (Some(Value::Array(items)), Segment::Index(index)) if *index < items.len() => {
                if again || items.len() <= bound(parent, "minItems").unwrap_or(0) {
                    items[*index] = made;
                } else {
                    items.remove(*index);
                }
            }
            _ => self.mend(kind, object, above),
        }
        if self.once_in(6) && !above.is_empty() {
            self.mend(kind, object, above);
        }
    }

    /// A value for a schema, with what is on the way.
    pub(crate) fn value(&mut self, schema: &Value, way: &[String]) -> Value {
        if let Some(choices) = schema["enum"].as_array() {
            return self.pick(choices).clone();
        }
        match schema["type"].as_str() {
            Some("object") => Value::Object(self.fields(schema, way)),
            Some("array") => Value::Array(self.items(schema, way)),
            Some("integer" | "number") => self.number(schema),
            Some("boolean") => self.once_in(2).into(),
            _ => self.text(schema).into(),
        }
    }

    fn fields(&mut self, schema: &Value, way: &[String]) -> Map<String, Value> {
        let mut fields = Map::new();
        let none = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&none);
        let switch = SWITCHES.iter().find_map(|name| Some((*name, properties.get(*name)?)));
        let switch = switch.filter(|(_, schema)| schema["type"] == "string" && self.tame);
        let mut values: Vec<String> = Vec::new();
        let mut chosen = String::new();
        if let Some((name, schema)) = switch {
            values = texts(&schema["enum"]);
            let value = self.value(schema, &[]);
            chosen = value.as_str().unwrap_or_default().to_lowercase();
            fields.insert(name.to_owned(), value);
        }
        let rest = way.split_first();
        let share = 2 + self.chance.below(3);
        for (name, child) in properties {
            let lower = name.to_lowercase();
            let on_the_way = rest.filter(|(step, _)| *step == name).map(|(_, rest)| rest);
            let belongs = !chosen.is_empty() && lower.starts_with(&chosen);
            let alien = values.iter().any(|value| lower.starts_with(&value.to_lowercase())) && !belongs;
            let wanted = is_required(schema, name) || belongs || (!alien && self.once_in(share));
            if !fields.contains_key(name) && (wanted || on_the_way.is_some()) {
                let value = self.value(child, on_the_way.unwrap_or_default());
                fields.insert(name.clone(), value);
            }
        }
        if fields.contains_key("group") && fields.contains_key("kind") && self.once_in(2) {
            let (group, kind) = *self.pick(&REFERENTS);
            fields.insert("group".to_owned(), group.into());
            fields.insert("kind".to_owned(), kind.into());
        }
        if schema["additionalProperties"].is_object() {
            let least = bound(schema, "minProperties").unwrap_or(0);
            for _ in 0..least.max(self.below(3)) {
                let key = *self.pick(TEXTS);
                let value = self.value(&schema["additionalProperties"], &[]);
                fields.insert(key.to_owned(), value);
            }
        }
        fields
    }

    fn items(&mut self, schema: &Value, way: &[String]) -> Vec<Value> {
        let (least, most) = (bound(schema, "minItems").unwrap_or(0), bound(schema, "maxItems").unwrap_or(64));
        let rest = way.split_first().filter(|(step, _)| *step == "[]").map(|(_, rest)| rest);
        let least = if rest.is_some() { least.max(1) } else { least };
        let count = least.max(self.below(4)).min(most);
        let mut items: Vec<Value> =
            (0..count).map(|_| self.value(&schema["items"], rest.unwrap_or_default())).collect();
        if self.tame || items.is_empty() {
            return items;
        }
        if self.once_in(8) {
            // As many as there may be, all alike.
            let item = items[0].clone();
            items.resize(most.min(64), item);
        } else if items.len() > 1 && self.once_in(2) {
            // Almost the same twice.
            items[1] = items[0].clone();
            if self.once_in(2) {
                self.vary(&mut items[1], &schema["items"]);
            }
        }
        items
    }

    /// Adds, changes or takes away one field.
    pub(crate) fn vary(&mut self, value: &mut Value, schema: &Value) {
        let Some(properties) = schema["properties"].as_object().filter(|fields| !fields.is_empty()) else {
            *value = self.value(schema, &[]);
            return;
        };
        let names: Vec<&String> = properties.keys().collect();
        let name = (*self.pick(&names)).clone();
        let Some(fields) = value.as_object_mut() else { return };
        if is_required(schema, &name) || fields.remove(&name).is_none() || self.once_in(2) {
            let made = self.value(&properties[&name], &[]);
            fields.insert(name, made);
        }
    }

    fn number(&mut self, schema: &Value) -> Value {
        let numbers = [0, 1, 2, 50, 80, 100, 443, 500, 8080];
        let within = |number: &i64| {
            schema["minimum"].as_i64().is_none_or(|least| *number >= least)
                && schema["maximum"].as_i64().is_none_or(|most| *number <= most)
        };
        let fitting: Vec<i64> = numbers.into_iter().filter(within).collect();
        if fitting.is_empty() { schema["minimum"].clone() } else { (*self.pick(&fitting)).into() }
    }

    /// A text of the right length and form.
    pub(crate) fn text(&mut self, schema: &Value) -> String {
        if schema["format"] == "date-time" {
            return "2026-01-31T12:00:00Z".to_owned();
        }
        let key = format!("{}|{}|{}", schema["pattern"], schema["minLength"], schema["maxLength"]);
        let fitting = self.fitting.entry(key).or_insert_with(|| {
            let pattern = schema["pattern"].as_str().map(|text| Regex::new(text).unwrap());
            let fits = |text: &&str| {
                let length = text.chars().count();
                bound(schema, "minLength").is_none_or(|least| length >= least)
                    && bound(schema, "maxLength").is_none_or(|most| length <= most)
                    && pattern.as_ref().is_none_or(|pattern| pattern.is_match(text))
            };
            TEXTS.iter().copied().filter(fits).collect()
        });
        assert!(!fitting.is_empty(), "no text of this suite fits {schema}");
        let at = usize::try_from(self.chance.below(fitting.len() as u64)).unwrap();
        fitting[at].to_owned()
    }
}

/// Whether a schema wants a field.
pub(crate) fn is_required(schema: &Value, name: &str) -> bool {
    schema["required"].as_array().into_iter().flatten().any(|required| required == name)
}

/// A bound of lengths and counts.
pub(crate) fn bound(schema: &Value, keyword: &str) -> Option<usize> {
    schema[keyword].as_u64().and_then(|bound| usize::try_from(bound).ok())
}

fn texts(values: &Value) -> Vec<String> {
    values.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The value at a path.
pub(crate) fn get<'a>(value: &'a Value, path: &[Segment]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, segment| match segment {
        Segment::Key(name) => value.get(&**name),
        Segment::Index(index) => value.get(index),
    })
}

/// The same, to be changed.
pub(crate) fn get_mut<'a>(value: &'a mut Value, path: &[Segment]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |value, segment| match segment {
        Segment::Key(name) => value.get_mut(&**name),
        Segment::Index(index) => value.get_mut(index),
    })
}
