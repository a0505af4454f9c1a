//! What is wrong with a value, in the words of the API server, and what to do about it.

use super::nearest::nearest;
use super::schema::{Bounds, Format, Pattern, Schema, Type};
use moorgate_model::diagnostic::schema as codes;
use moorgate_model::{Code, FieldPath, Node, Segment, Value};

/// The longest value or rule that a message repeats, in characters.
const LONGEST_QUOTE: usize = 240;

/// One fault. Its path grows from the end while the walk returns to the root.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) code: &'static Code,
    /// The steps from the value up to the root.
    pub(crate) steps: Vec<Segment>,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

impl Finding {
    /// A fault of the value that the walk stands at.
    pub(crate) fn new(code: &'static Code, message: String, help: Option<String>) -> Self {
        Self { code, steps: Vec::new(), message, help }
    }

    /// The path from the root.
    pub(crate) fn path(&self) -> FieldPath {
        let mut path = FieldPath::root();
        self.steps.iter().rev().for_each(|step| path.push(step.clone()));
        path
    }

    /// The fault of a field below.
    pub(crate) fn at(mut self, field: &str) -> Self {
        self.steps.push(Segment::Key(field.into()));
        self
    }
}

/// A value for a message: short, on one line.
pub(crate) fn quote(node: &Node) -> String {
    match &node.value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::String(text) => format!("{:?}", clip(text)),
        Value::Sequence(_) | Value::Mapping(_) => serde_json::to_string(&node.to_json())
            .map_or_else(|_| node.type_name().into(), |text| clip(&text)),
    }
}

/// A text, cut if it is long.
pub(crate) fn clip(text: &str) -> String {
    match text.char_indices().nth(LONGEST_QUOTE) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

pub(crate) fn wrong_type(node: &Node, want: Type) -> Finding {
    let help = match (want, &node.value) {
        (Type::String, Value::Int(_) | Value::Float(_) | Value::Bool(_)) => {
            Some("quote it if it is meant as text".to_owned())
        }
        (Type::Integer | Type::Number, Value::String(text)) if text.parse::<f64>().is_ok() => {
            Some(format!("write it without quotes: {text}"))
        }
        (Type::Boolean, Value::String(text)) => match &*text.to_ascii_lowercase() {
            "true" | "yes" | "on" => Some("write true, without quotes".to_owned()),
            "false" | "no" | "off" => Some("write false, without quotes".to_owned()),
            _ => None,
        },
        (Type::Array, Value::Mapping(_)) => Some("it is a list: start each item with \"- \"".to_owned()),
        (Type::Array, Value::String(_)) => {
            Some("it is a list: write the value below it, after \"- \"".to_owned())
        }
        (Type::Object, Value::Sequence(_)) => {
            Some("it is one object, not a list: leave out the \"- \"".to_owned())
        }
        (Type::Integer, Value::Float(_)) => Some("write a whole number".to_owned()),
        (_, Value::Null) => Some("write a value, or leave the item out".to_owned()),
        _ => None,
    };
    let message = format!("Invalid value: {:?}: must be of type {}", node.type_name(), want.name());
    Finding::new(&codes::TYPE_MISMATCH, message, help)
}

pub(crate) fn unknown_field(name: &str, schema: &Schema) -> Finding {
    let known = schema.properties.iter().map(|property| &*property.name);
    let help = match nearest(name, known.clone()) {
        Some(meant) => Some(format!("did you mean {meant:?}?")),
        None if schema.properties.is_empty() => None,
        None => Some(format!("the known fields are {}", list(known))),
    };
    Finding::new(&codes::UNKNOWN_FIELD, format!("unknown field {:?}", clip(name)), help).at(name)
}

pub(crate) fn required(name: &str) -> Finding {
    Finding::new(&codes::REQUIRED, "Required value".into(), Some(format!("add {name:?}"))).at(name)
}

pub(crate) fn unsupported(value: &str, schema: &Schema) -> Finding {
    let choices: Vec<String> = schema.choices.iter().map(quote).collect();
    let texts = schema.choices.iter().filter_map(Node::as_str);
    let help = match nearest(value.trim_matches('"'), texts) {
        Some(meant) => format!("did you mean {meant:?}?"),
        None => "write one of these".to_owned(),
    };
    let message = format!("Unsupported value: {value}: supported values: {}", choices.join(", "));
    Finding::new(&codes::UNSUPPORTED_VALUE, message, Some(help))
}

pub(crate) fn pattern(value: &str, text: &str, pattern: &Pattern) -> Finding {
    let message = format!("Invalid value: {value}: should match '{}'", pattern.text);
    Finding::new(&codes::PATTERN_MISMATCH, message, Some(pattern_help(text, pattern)))
}

/// What to write instead, as far as that can be seen.
fn pattern_help(text: &str, pattern: &Pattern) -> String {
    const DURATION: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
    let label = pattern.text.contains("[a-z0-9]([-a-z0-9]*[a-z0-9])?");
    if let Some(letter) = text.chars().find(|letter| !letter.is_ascii()) {
        let found = format!("{letter:?} (U+{:04X}) is not an ASCII character", u32::from(letter));
        return if label {
            format!("{found}; in a host name, write the A-label (xn--…) of an international name")
        } else {
            found
        };
    }
    let lower = text.to_ascii_lowercase();
    let trimmed = text.trim().trim_end_matches('.');
    if lower != text && pattern.matches(&lower) {
        return format!("write it in lower case: {lower}");
    }
    if trimmed != text && pattern.matches(trimmed) {
        return format!("leave out the trailing dot or the space around it: {trimmed}");
    }
    if &*pattern.text == DURATION {
        return "a duration is up to four whole numbers with unit: 1h, 1m30s, 10s, 500ms; 0s disables".into();
    }
    let host = &*pattern.text == r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
    if host {
        let wildcard = text.contains('*').then_some("; a wildcard is the whole first label: *.example.com");
        return format!(
            "a host name has lower case letters, digits, \"-\" and \".\", no port{}",
            wildcard.unwrap_or_default()
        );
    }
    if label {
        "use lower case letters, digits and \"-\"; begin and end with a letter or digit".into()
    } else {
        "write only what the pattern names".into()
    }
}

pub(crate) fn format(value: &str, format: Format) -> Finding {
    let help = match format {
        Format::Int32 | Format::Int64 => "write a smaller number",
        Format::DateTime => "write it as 2026-01-31T12:00:00Z",
        Format::Ipv4 => "write it as 192.0.2.1",
        Format::Ipv6 => "write it as 2001:db8::1",
    };
    let message = format!("Invalid value: {value}: must be of format {}", format.name());
    Finding::new(&codes::FORMAT_MISMATCH, message, Some(help.into()))
}

pub(crate) fn out_of_range(value: &str, number: f64, bounds: &Bounds) -> Finding {
    let than = |bound: Option<f64>, exclusive: bool, word: &str| {
        bound.map(|bound| {
            let equal = if exclusive { "" } else { " or equal to" };
            format!("should be {word} than{equal} {bound}")
        })
    };
    let below =
        bounds.least.is_some_and(|least| number < least || (bounds.exclusive_least && number <= least));
    let above = bounds.most.is_some_and(|most| number > most || (bounds.exclusive_most && number >= most));
    let said = match (below, above) {
        (true, _) => than(bounds.least, bounds.exclusive_least, "greater"),
        (_, true) => than(bounds.most, bounds.exclusive_most, "less"),
        _ => bounds.multiple.map(|step| format!("should be a multiple of {step}")),
    };
    let both = match (bounds.least, bounds.most) {
        (Some(least), Some(most)) => Some(format!("allowed are {least} to {most}")),
        (Some(least), None) => Some(format!("the least is {least}")),
        (None, Some(most)) => Some(format!("the most is {most}")),
        (None, None) => None,
    };
    let message = format!("Invalid value: {value}: {}", said.unwrap_or_default());
    Finding::new(&codes::OUT_OF_RANGE, message, both)
}

pub(crate) fn too_short(value: &str, least: usize) -> Finding {
    let message = format!("Invalid value: {value}: should be at least {least} chars long");
    let help = (least == 1).then(|| "write a value, or leave the field out".to_owned());
    Finding::new(&codes::WRONG_LENGTH, message, help)
}

pub(crate) fn too_long(length: usize, most: usize) -> Finding {
    let message = format!("Too long: may not be more than {most} characters, has {length}");
    Finding::new(&codes::WRONG_LENGTH, message, Some(format!("shorten it to {most} characters")))
}

pub(crate) fn too_few(count: usize, least: usize, what: &str) -> Finding {
    let message = format!("Invalid value: {count}: must have at least {least} {what}");
    Finding::new(&codes::WRONG_COUNT, message, Some(format!("add {}", least.saturating_sub(count))))
}

pub(crate) fn too_many(count: usize, most: usize, what: &str) -> Finding {
    let message = format!("Too many: {count}: must have at most {most} {what}");
    Finding::new(
        &codes::WRONG_COUNT,
        message,
        Some(format!("keep {most}, and put the others into another object")),
    )
}

pub(crate) fn duplicate(value: &str, first: usize, index: usize) -> Finding {
    let message = format!("Duplicate value: {value}: the same as item [{first}]");
    let mut finding =
        Finding::new(&codes::DUPLICATE_ITEM, message, Some("remove one of the two, or merge them".into()));
    finding.steps.push(Segment::Index(index));
    finding
}

pub(crate) fn combinator(value: &str, said: &str, branches: &[String]) -> Finding {
    let help = (!branches.is_empty()).then(|| clip(&format!("allowed: {}", branches.join("; or "))));
    Finding::new(&codes::COMBINATION, format!("Invalid value: {value}: {said}"), help)
}

pub(crate) fn rule(value: &str, message: &str, text: &str) -> Finding {
    let message = format!("Invalid value: {value}: {message}");
    Finding::new(&codes::RULE_VIOLATED, message, Some(format!("the rule is: {}", clip(text))))
}

/// Names for a sentence.
pub(crate) fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    clip(&names.join(", "))
}
