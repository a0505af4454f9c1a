//! One walk over an object that applies defaults, checks structure, and then evaluates rules from the inside out.
//!
//! The order is the API server's: nulls and defaults, structure, list types, CEL. A rule is evaluated only where
//! nothing below it is wrong. Nothing is allocated for a value without faults but its defaults: a fault learns its
//! path on the way back to the root.

use super::combinators;
use super::finding::{self, Finding};
use super::schema::{ListType, Schema, Type, same};
use moorgate_model::{Entry, Mapping, Node, Segment, Span, Value};
use std::collections::BTreeMap;

/// Up to this many items, each pair is compared; longer lists are looked up.
const FEW_ITEMS: usize = 32;

/// A walk over one object.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// Messages must not repeat values: the object holds secrets.
    pub(crate) secret: bool,
    /// What was found.
    pub(crate) findings: Vec<Finding>,
    /// How many of the findings are about structure, so that rules cannot be trusted above them.
    broken: usize,
}

impl Walk {
    /// A walk that may, or may not, repeat values in its messages.
    pub(crate) fn new(secret: bool) -> Self {
        Self { secret, ..Self::default() }
    }

    /// Applies defaults to a value and checks it.
    pub(crate) fn visit(&mut self, node: &mut Node, schema: &Schema) {
        let broken = self.broken;
        let span = node.span;
        match (&mut node.value, schema.kind) {
            (Value::Mapping(fields), Type::Object | Type::Any) => self.object(fields, span, schema),
            (Value::Sequence(items), Type::Array | Type::Any) => self.array(items, schema),
            (Value::String(_), Type::String | Type::IntOrString | Type::Any) => self.string(node, schema),
            (Value::Int(_), Type::Integer | Type::Number | Type::IntOrString | Type::Any)
            | (Value::Float(_), Type::Number | Type::Any) => self.number(node, schema),
            (Value::Float(number), Type::Integer | Type::IntOrString) => {
                let Some(whole) = whole(*number) else {
                    return self.structural(finding::wrong_type(node, schema.kind));
                };
                node.value = Value::Int(whole);
                self.number(node, schema);
            }
            (Value::Bool(_), Type::Boolean | Type::Any) => {}
            (Value::Null, _) if schema.nullable => return,
            _ => return self.structural(finding::wrong_type(node, schema.kind)),
        }
        if !schema.choices.is_empty() && !schema.choices.iter().any(|choice| same(choice, node)) {
            let value = self.quote(node);
            self.structural(finding::unsupported(&value, schema));
        }
        if let Some(combinators) = &schema.combinators
            && let Some((said, branches)) = combinators::fault(node, combinators)
        {
            let value = self.quote(node);
            self.structural(finding::combinator(&value, &said, &branches));
        }
        if self.broken == broken {
            self.rules(node, schema);
        }
    }

    fn object(&mut self, fields: &mut Mapping, span: Span, schema: &Schema) {
        let mut seen: u128 = 0;
        let mut nulls: Vec<Box<str>> = Vec::new();
        for entry in fields.entries_mut() {
            let known = schema.property(&entry.key);
            let child = match known {
                Some((_, property)) => &*property.schema,
                None => match &schema.additional {
                    Some(additional) => &**additional,
                    None if schema.open => continue,
                    None => {
                        self.structural(finding::unknown_field(&entry.key, schema));
                        continue;
                    }
                },
            };
            if entry.value.value == Value::Null && !child.nullable {
                // A null where none may be is as good as nothing: the default, or no field.
                let Some(default) = &child.default else {
                    nulls.push(entry.key.clone());
                    continue;
                };
                entry.value = placed(default, entry.value.span);
            } else {
                let found = self.findings.len();
                self.visit(&mut entry.value, child);
                self.under(found, || Segment::Key(entry.key.clone()));
            }
            if let Some((bit, _)) = known {
                seen |= 1 << bit;
            }
        }
        for name in nulls {
            fields.remove(&name);
        }
        for property in schema.fields(schema.defaulted & !seen) {
            let Some(default) = &property.schema.default else { continue };
            let entry = Entry { key: property.name.clone(), key_span: span, value: placed(default, span) };
            // The name is free: it was not seen, or it was a null that has just been removed.
            let _ = fields.insert(entry);
        }
        for property in schema.fields(schema.required & !schema.defaulted & !seen) {
            self.structural(finding::required(&property.name));
        }
        for name in &schema.required_elsewhere {
            if fields.get(name).is_none() {
                self.structural(finding::required(name));
            }
        }
        self.count(fields.len(), schema, "properties");
    }

    fn array(&mut self, items: &mut [Node], schema: &Schema) {
        if let Some(child) = &schema.items {
            for (index, item) in items.iter_mut().enumerate() {
                let found = self.findings.len();
                if let (Value::Null, false, Some(default)) = (&item.value, child.nullable, &child.default) {
                    *item = placed(default, item.span);
                }
                self.visit(item, child);
                self.under(found, || Segment::Index(index));
            }
        }
        self.count(items.len(), schema, "items");
        if schema.size.most.is_none_or(|most| items.len() <= most) {
            self.duplicates(items, &schema.list);
        }
    }

    fn count(&mut self, count: usize, schema: &Schema, what: &str) {
        if let Some(least) = schema.size.least
            && count < least
        {
            self.structural(finding::too_few(count, least, what));
        }
        if let Some(most) = schema.size.most
            && count > most
        {
            self.structural(finding::too_many(count, most, what));
        }
    }

    fn duplicates(&mut self, items: &[Node], list: &ListType) {
        if items.len() < 2 || matches!(list, ListType::Atomic) {
            return;
        }
        if items.len() <= FEW_ITEMS {
            for (index, item) in items.iter().enumerate() {
                let first = items.iter().take(index).position(|earlier| same_item(earlier, item, list));
                if let Some(first) = first {
                    self.duplicate(item, list, first, index);
                }
            }
            return;
        }
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for (index, item) in items.iter().enumerate() {
            match seen.entry(identity(item, list)) {
                std::collections::btree_map::Entry::Occupied(first) => {
                    let first = *first.get();
                    self.duplicate(item, list, first, index);
                }
                std::collections::btree_map::Entry::Vacant(free) => {
                    free.insert(index);
                }
            }
        }
    }

    fn duplicate(&mut self, item: &Node, list: &ListType, first: usize, index: usize) {
        let value = if self.secret { "…".to_owned() } else { finding::clip(&identity(item, list)) };
        self.structural(finding::duplicate(&value, first, index));
    }

    fn string(&mut self, node: &Node, schema: &Schema) {
        let Value::String(text) = &node.value else { return };
        if let Some(most) = schema.size.most
            && text.len() > most
        {
            let length = text.chars().count();
            if length > most {
                self.structural(finding::too_long(length, most));
            }
        }
        if let Some(least) = schema.size.least
            && (text.len() < least || (least > 1 && text.chars().count() < least))
        {
            let value = self.quote(node);
            self.structural(finding::too_short(&value, least));
        }
        if let Some(pattern) = &schema.pattern
            && !pattern.matches(text)
        {
            let value = self.quote(node);
            self.structural(finding::pattern(&value, text, pattern));
        }
        self.format(node, schema);
    }

    fn number(&mut self, node: &Node, schema: &Schema) {
        #[allow(
            clippy::cast_precision_loss,
            reason = "bounds are small; beyond 2^53 every number is out of them"
        )]
        let number = match node.value {
            Value::Int(number) => number as f64,
            Value::Float(number) => number,
            _ => return,
        };
        if let Some(bounds) = &schema.range
            && !bounds.hold(number)
        {
            let value = self.quote(node);
            self.structural(finding::out_of_range(&value, number, bounds));
        } else {
            self.format(node, schema);
        }
    }

    fn format(&mut self, node: &Node, schema: &Schema) {
        if let Some(format) = schema.format
            && !format.fits(&node.value)
        {
            let value = self.quote(node);
            self.structural(finding::format(&value, format));
        }
    }

    fn rules(&mut self, node: &Node, schema: &Schema) {
        let mut scope = None;
        for rule in &schema.rules {
            let Err(message) = rule.check(node, schema, &mut scope) else { continue };
            let value = match node.value {
                Value::Sequence(_) | Value::Mapping(_) => format!("{:?}", node.type_name()),
                _ => self.quote(node),
            };
            let mut found = finding::rule(&value, &message, rule.text());
            found.steps = rule.field().iter().rev().cloned().collect();
            self.findings.push(found);
        }
    }

    /// A value for a message.
    fn quote(&self, node: &Node) -> String {
        if self.secret { "…".to_owned() } else { finding::quote(node) }
    }

    fn structural(&mut self, finding: Finding) {
        self.broken += 1;
        self.findings.push(finding);
    }

    /// Adds a step to the paths of what was found since.
    fn under(&mut self, found: usize, step: impl Fn() -> Segment) {
        for finding in self.findings.iter_mut().skip(found) {
            finding.steps.push(step());
        }
    }
}

/// A whole number that was written with a fraction or exponent: `8e1`.
fn whole(number: f64) -> Option<i64> {
    #[allow(clippy::cast_possible_truncation, reason = "within 2^53 and without fraction: exact")]
    (number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0).then_some(number as i64)
}

/// A default with the place of what it belongs to.
pub(crate) fn placed(default: &Node, span: Span) -> Node {
    let value = match &default.value {
        Value::Sequence(items) => Value::Sequence(items.iter().map(|item| placed(item, span)).collect()),
        Value::Mapping(fields) => {
            let mut copy = Mapping::default();
            for entry in fields.entries() {
                let value = placed(&entry.value, span);
                let _ = copy.insert(Entry { key: entry.key.clone(), key_span: span, value });
            }
            Value::Mapping(copy)
        }
        scalar => scalar.clone(),
    };
    Node::new(value, span)
}

fn same_item(a: &Node, b: &Node, list: &ListType) -> bool {
    match list {
        ListType::Atomic => false,
        ListType::Set => same(a, b),
        ListType::Map(keys) => {
            a.as_mapping().is_some()
                && keys.iter().all(|key| match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => same(a, b),
                    (None, None) => true,
                    _ => false,
                })
        }
    }
}

/// What tells an item of a set or map from its neighbours, as JSON.
fn identity(item: &Node, list: &ListType) -> String {
    match list {
        ListType::Map(keys) => {
            let parts: Vec<String> =
                keys.iter().filter_map(|key| Some(format!("{key:?}:{}", item.get(key).map(text)?))).collect();
            format!("{{{}}}", parts.join(","))
        }
        _ => text(item),
    }
}

/// The whole value as JSON.
fn text(node: &Node) -> String {
    serde_json::to_string(&node.to_json()).unwrap_or_default()
}
