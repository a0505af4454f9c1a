//! A structural schema in the form in which objects are checked: everything looked up or compiled once.

use super::re2;
use super::rules::Rule;
use moorgate_model::{Node, Value};
use regex::Regex;
use std::sync::{Arc, OnceLock};

/// The most fields that one object may have: they are counted in the bits of a `u128`.
pub(crate) const MOST_FIELDS: usize = 128;

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    /// Anything: the schema only adds checks.
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    /// `x-kubernetes-int-or-string`.
    IntOrString,
}

impl Type {
    /// The word that messages use.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::IntOrString => "integer or string",
        }
    }
}

/// One schema. Schemas share their children, as the data does.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) kind: Type,
    pub(crate) nullable: bool,
    /// Fields, sorted by name.
    pub(crate) properties: Box<[Property]>,
    /// The fields that must be there, as bits of `properties`.
    pub(crate) required: u128,
    /// The fields that have a default, as bits of `properties`.
    pub(crate) defaulted: u128,
    /// Required fields that `properties` does not list: they occur in `anyOf` and the like.
    pub(crate) required_elsewhere: Box<[Box<str>]>,
    /// True if fields that are not listed are let through.
    pub(crate) open: bool,
    /// The schema of fields that are not listed.
    pub(crate) additional: Option<Arc<Schema>>,
    pub(crate) items: Option<Arc<Schema>>,
    pub(crate) list: ListType,
    /// Bounds of length, item or field count, whichever fits the type.
    pub(crate) size: Range<usize>,
    /// Bounds of a number.
    pub(crate) range: Option<Box<Bounds>>,
    pub(crate) pattern: Option<Arc<Pattern>>,
    pub(crate) format: Option<Format>,
    /// The values that are allowed; empty if any is.
    pub(crate) choices: Box<[Node]>,
    /// The value of a missing field, its own nested defaults applied.
    pub(crate) default: Option<Box<Node>>,
    pub(crate) combinators: Option<Box<Combinators>>,
    pub(crate) rules: Box<[Rule]>,
}

/// A field.
#[derive(Debug)]
pub(crate) struct Property {
    pub(crate) name: Box<str>,
    pub(crate) schema: Arc<Schema>,
}

/// Bounds, both inclusive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range<T> {
    pub(crate) least: Option<T>,
    pub(crate) most: Option<T>,
}

/// Bounds of a number.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bounds {
    pub(crate) least: Option<f64>,
    pub(crate) most: Option<f64>,
    pub(crate) exclusive_least: bool,
    pub(crate) exclusive_most: bool,
    pub(crate) multiple: Option<f64>,
}

impl Range<usize> {
    /// Whether a length or count is within the bounds.
    pub(crate) fn holds(self, count: usize) -> bool {
        self.least.is_none_or(|least| count >= least) && self.most.is_none_or(|most| count <= most)
    }
}

impl Bounds {
    /// Whether a number is within the bounds.
    pub(crate) fn hold(&self, number: f64) -> bool {
        let above = |least| if self.exclusive_least { number > least } else { number >= least };
        let below = |most| if self.exclusive_most { number < most } else { number <= most };
        self.least.is_none_or(above)
            && self.most.is_none_or(below)
            && self.multiple.is_none_or(|step| (number / step).fract() == 0.0)
    }
}

/// Which items of a list count as the same.
#[derive(Debug)]
pub(crate) enum ListType {
    /// None do.
    Atomic,
    /// Equal ones.
    Set,
    /// Those that agree in these fields.
    Map(Box<[Box<str>]>),
}

/// `allOf`, `anyOf`, `oneOf`, `not`: value checks only, as structural schemas demand.
#[derive(Debug, Default)]
pub(crate) struct Combinators {
    pub(crate) all_of: Box<[Arc<Schema>]>,
    pub(crate) any_of: Box<[Arc<Schema>]>,
    pub(crate) one_of: Box<[Arc<Schema>]>,
    pub(crate) not: Option<Arc<Schema>>,
}

/// The formats that an API server checks and that are in use. It ignores others, and so do we.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Int32,
    Int64,
    DateTime,
    Ipv4,
    Ipv6,
}

impl Format {
    /// The format of a name; none if it is not checked.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "int32" => Self::Int32,
            "int64" => Self::Int64,
            "date-time" => Self::DateTime,
            "ipv4" => Self::Ipv4,
            "ipv6" => Self::Ipv6,
            _ => return None,
        })
    }

    /// The name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::DateTime => "date-time",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }

    /// Whether a value has the format; values of other types have it.
    pub(crate) fn fits(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Int32, Value::Int(number)) => i32::try_from(*number).is_ok(),
            (Self::DateTime, Value::String(text)) => {
                time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).is_ok()
            }
            (Self::Ipv4, Value::String(text)) => text.parse::<std::net::Ipv4Addr>().is_ok(),
            (Self::Ipv6, Value::String(text)) => text.parse::<std::net::Ipv6Addr>().is_ok(),
            _ => true,
        }
    }
}

/// A regular expression in RE2's syntax, compiled when it is first met. It matches anywhere, as in the API server.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub(crate) text: Box<str>,
    regex: OnceLock<Option<Regex>>,
}

impl Pattern {
    /// A pattern that is not yet compiled.
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.into(), regex: OnceLock::new() }
    }

    /// The compiled expression; none if it is broken, which a test rules out for the data that is checked in.
    pub(crate) fn regex(&self) -> Option<&Regex> {
        self.regex.get_or_init(|| re2::compile(&self.text).ok()).as_ref()
    }

    /// Whether the pattern matches somewhere. A broken one matches nothing: what cannot be checked is refused.
    pub(crate) fn matches(&self, text: &str) -> bool {
        self.regex().is_some_and(|regex| regex.is_match(text))
    }
}

impl Schema {
    /// A schema that lets everything through.
    pub(crate) fn anything() -> Self {
        Self {
            kind: Type::Any,
            nullable: true,
            properties: Box::default(),
            required: 0,
            defaulted: 0,
            required_elsewhere: Box::default(),
            open: true,
            additional: None,
            items: None,
            list: ListType::Atomic,
            size: Range { least: None, most: None },
            range: None,
            pattern: None,
            format: None,
            choices: Box::default(),
            default: None,
            combinators: None,
            rules: Box::default(),
        }
    }

    /// A field and its bit.
    pub(crate) fn property(&self, name: &str) -> Option<(u32, &Property)> {
        let position = self.properties.binary_search_by(|property| (*property.name).cmp(name)).ok()?;
        Some((u32::try_from(position).ok()?, self.properties.get(position)?))
    }

    /// The schema of one step down.
    pub(crate) fn field(&self, name: &str) -> Option<&Schema> {
        match self.property(name) {
            Some((_, property)) => Some(&property.schema),
            None => self.additional.as_deref(),
        }
    }

    /// The fields that are set in a mask.
    pub(crate) fn fields(&self, mut mask: u128) -> impl Iterator<Item = &Property> {
        std::iter::from_fn(move || {
            let bit = (mask != 0).then(|| mask.trailing_zeros())?;
            mask &= mask - 1;
            self.properties.get(bit as usize)
        })
    }
}

/// Whether two values are the same, wherever they stand: fields in any order, whole numbers as equal to their floats.
pub(crate) fn same(a: &Node, b: &Node) -> bool {
    match (&a.value, &b.value) {
        (Value::Sequence(a), Value::Sequence(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Mapping(a), Value::Mapping(b)) => {
            a.len() == b.len()
                && a.entries()
                    .iter()
                    .all(|entry| b.get(&entry.key).is_some_and(|other| same(&entry.value, other)))
        }
        #[allow(clippy::cast_precision_loss, clippy::float_cmp, reason = "JSON knows one kind of number")]
        (Value::Int(a), Value::Float(b)) | (Value::Float(b), Value::Int(a)) => *a as f64 == *b,
        (a, b) => a == b,
    }
}
