//! Objects that break one CEL rule, found by chance and mended until nothing else is wrong with them.

use super::answer::check;
use super::generate::{Maker, bound, get, get_mut};
use super::schema::{self, Kind, Site};
use moorgate_model::Segment;
use serde_json::Value;

/// How many objects are tried for one rule, and how often each is changed.
const OBJECTS: usize = 120;
const CHANGES: usize = 30;
/// So many more are tried for one that breaks nothing else.
const PATIENCE: usize = 12;
/// How many objects an API server is asked about that alone names a rule.
const SUSPECTS: usize = 120;

/// An object that breaks a rule.
#[derive(Debug, Clone)]
pub(crate) struct Breach {
    pub(crate) kind: usize,
    pub(crate) object: Value,
    /// How much else is wrong with it.
    pub(crate) others: usize,
}

/// An object that breaks a rule at one of its places, alone if that can be had.
pub(crate) fn breach(maker: &mut Maker, kinds: &[Kind], sites: &[&Site]) -> Option<Breach> {
    let mut best: Option<Breach> = None;
    let mut patience = OBJECTS;
    for round in 0..OBJECTS {
        let site = sites[round % sites.len()];
        let kind = &kinds[site.kind];
        let Some((base, paths)) = base(maker, kind, site) else { continue };
        for _ in 0..CHANGES {
            let mut object = base.clone();
            disturb(maker, kind, &mut object, &paths);
            let said = check(&object.to_string(), kind.channel);
            let (broken, only_rules) = said.rules(kind);
            if !only_rules || !broken.contains(&site.rule) {
                continue;
            }
            let others = broken.iter().filter(|rule| **rule != site.rule).count();
            if best.as_ref().is_none_or(|best| others < best.others) {
                best = Some(Breach { kind: site.kind, object: object.clone(), others });
            }
            if others > 0
                && let Some(object) = maker.mended(kind, object, Some(&site.rule))
            {
                best = Some(Breach { kind: site.kind, object, others: 0 });
            }
            if best.as_ref().is_some_and(|best| best.others == 0) {
                return best;
            }
        }
        patience = if best.is_some() { patience.min(PATIENCE) } else { patience };
        patience = patience.saturating_sub(1);
        if patience == 0 {
            break;
        }
    }
    best
}

/// Objects that `check` refuses near a rule's place, without naming the rule: something simpler is wrong there too.
pub(crate) fn suspects(maker: &mut Maker, kinds: &[Kind], sites: &[&Site]) -> Vec<Breach> {
    let mut found = Vec::new();
    for round in 0..SUSPECTS * 4 {
        let site = sites[round % sites.len()];
        let kind = &kinds[site.kind];
        let Some((mut object, paths)) = base(maker, kind, site) else { continue };
        let path = maker.pick(&paths).clone();
        match get_mut(&mut object, &path) {
            // The same item again, or one that no form fits.
            Some(Value::Array(items)) if !items.is_empty() => {
                let item = maker.pick(items).clone();
                let text = *maker.pick(super::words::TEXTS);
                items.push(if item.is_string() { text.into() } else { item });
            }
            _ => disturb(maker, kind, &mut object, &paths),
        }
        let said = check(&object.to_string(), kind.channel);
        if !said.accepts() && said.refusals.len() < 3 && found.len() < SUSPECTS {
            found.push(Breach { kind: site.kind, object, others: said.refusals.len() });
        }
    }
    found
}

/// An object that has something at a rule's place, and where.
pub(crate) fn base(maker: &mut Maker, kind: &Kind, site: &Site) -> Option<(Value, Vec<Vec<Segment>>)> {
    let valid = maker.valid(kind, &site.path);
    let paths = concrete(&valid, &site.path);
    if !paths.is_empty() {
        return Some((valid, paths));
    }
    let raw = maker.object(kind, &site.path);
    let paths = concrete(&raw, &site.path);
    (!paths.is_empty()).then_some((raw, paths))
}

/// The paths of an object that lie at a place of its schema.
fn concrete(object: &Value, way: &[String]) -> Vec<Vec<Segment>> {
    let mut paths: Vec<Vec<Segment>> = vec![Vec::new()];
    for step in way {
        let mut longer = Vec::new();
        for path in paths {
            let Some(value) = get(object, &path) else { continue };
            let steps: Vec<Segment> = match (value, step.as_str()) {
                (Value::Array(_) | Value::Object(_), "[]") => below(value),
                (Value::Object(fields), name) if fields.contains_key(name) => vec![Segment::Key(name.into())],
                _ => Vec::new(),
            };
            longer.extend(steps.into_iter().map(|step| {
                let mut path = path.clone();
                path.push(step);
                path
            }));
        }
        paths = longer;
    }
    paths
}

/// The steps to what a value holds.
fn below(value: &Value) -> Vec<Segment> {
    match value {
        Value::Object(fields) => fields.keys().map(|name| Segment::Key(name.as_str().into())).collect(),
        Value::Array(items) => (0..items.len()).map(Segment::Index).collect(),
        _ => Vec::new(),
    }
}

/// Changes a value at one of some paths, or some of what it holds, with or without an eye on rules.
fn disturb(maker: &mut Maker, kind: &Kind, object: &mut Value, paths: &[Vec<Segment>]) {
    for _ in 0..=maker.below(3) {
        maker.tame = maker.once_in(2);
        let mut path = maker.pick(paths).clone();
        // Here, or further in.
        while maker.once_in(2) {
            let steps = get(object, &path).map(below).unwrap_or_default();
            if steps.is_empty() {
                break;
            }
            path.push(maker.pick(&steps).clone());
        }
        let Some(schema) = schema::at(&kind.schema, &path) else { continue };
        let choice = maker.below(6);
        let Some(value) = get_mut(object, &path) else { continue };
        match value {
            Value::Array(items) if !items.is_empty() && choice == 0 => {
                let item = maker.pick(items).clone();
                items.push(item);
            }
            Value::Array(items) if !items.is_empty() && choice == 1 => {
                let mut item = maker.pick(items).clone();
                maker.vary(&mut item, &schema["items"]);
                items.push(item);
            }
            Value::Array(items) if !items.is_empty() && choice == 2 => fill(items, schema),
            Value::Object(_) if choice < 4 => maker.vary(value, schema),
            value => *value = maker.value(schema, &[]),
        }
    }
}

/// As many items as there may be, all alike but for what tells them apart; of lists in them, too.
fn fill(items: &mut Vec<Value>, schema: &Value) {
    let mut item = items[0].clone();
    for (name, value) in item.as_object_mut().into_iter().flatten() {
        let own = &schema["items"]["properties"][name];
        if let (Some(most), Value::Array(inner)) = (bound(own, "maxItems"), value)
            && let Some(first) = inner.first().cloned()
        {
            inner.resize(most.min(64), first);
        }
    }
    item.as_object_mut().and_then(|fields| fields.remove("name"));
    items.resize(bound(schema, "maxItems").unwrap_or(16).min(16), item);
}
