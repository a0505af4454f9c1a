//! Rules of filters: each type with its own field, and which filters go together.

use super::{NativeRule, has, is, items, string};
use moorgate_model::{Node, Value};

/// The two rules that tie a filter's type to its field.
macro_rules! union {
    ($field:literal, $kind:literal) => {
        [
            (concat!("!(has(self.", $field, ") && self.type != '", $kind, "')"), |filter| {
                !has(filter, $field) || is(filter, "type", $kind)
            }),
            (concat!("!(!has(self.", $field, ") && self.type == '", $kind, "')"), |filter| {
                has(filter, $field) || !is(filter, "type", $kind)
            }),
        ]
    };
}

/// The rule that a filter of a type occurs at most once.
macro_rules! once {
    ($kind:literal) => {
        (concat!("self.filter(f, f.type == '", $kind, "').size() <= 1"), |filters| {
            items(filters).iter().filter(|filter| is(filter, "type", $kind)).count() <= 1
        })
    };
}

/// The rules that tie a discriminator's value to a field, in the two ways in which they are written.
macro_rules! needs {
    ($discriminator:literal, $kind:literal, $field:literal) => {
        [
            (
                concat!("self.", $discriminator, " == '", $kind, "' ? has(self.", $field, ") : true"),
                |value| !is(value, $discriminator, $kind) || has(value, $field),
            ),
            (
                concat!("has(self.", $field, ") ? self.", $discriminator, " == '", $kind, "' : true"),
                |value| !has(value, $field) || is(value, $discriminator, $kind),
            ),
        ]
    };
}

/// The families that macros write out.
const FAMILIES: [[(&str, NativeRule); 2]; 12] = [
    union!("cors", "CORS"),
    union!("extensionRef", "ExtensionRef"),
    union!("externalAuth", "ExternalAuth"),
    union!("requestHeaderModifier", "RequestHeaderModifier"),
    union!("requestMirror", "RequestMirror"),
    union!("requestRedirect", "RequestRedirect"),
    union!("responseHeaderModifier", "ResponseHeaderModifier"),
    union!("urlRewrite", "URLRewrite"),
    needs!("type", "ReplaceFullPath", "replaceFullPath"),
    needs!("type", "ReplacePrefixMatch", "replacePrefixMatch"),
    needs!("protocol", "GRPC", "grpc"),
    needs!("protocol", "HTTP", "http"),
];

/// The rules that stand alone.
const SINGLE: [(&str, NativeRule); 9] = [
    once!("CORS"),
    once!("RequestHeaderModifier"),
    once!("RequestRedirect"),
    once!("ResponseHeaderModifier"),
    once!("URLRewrite"),
    ("!(self.exists(f, f.type == 'RequestRedirect') && self.exists(f, f.type == 'URLRewrite'))", |filters| {
        let exists = |kind| items(filters).iter().any(|filter| is(filter, "type", kind));
        !(exists("RequestRedirect") && exists("URLRewrite"))
    }),
    ("!(has(self.percent) && has(self.fraction))", |mirror| {
        !(has(mirror, "percent") && has(mirror, "fraction"))
    }),
    ("self.numerator <= self.denominator", |fraction| {
        let number = |field| fraction.get(field).and_then(Node::as_int);
        matches!((number("numerator"), number("denominator")), (Some(part), Some(whole)) if part <= whole)
    }),
    ("!('*' in self && self.size() > 1)", |values| {
        let values = items(values);
        values.len() <= 1
            || !values.iter().any(|value| matches!(&value.value, Value::String(text) if &**text == "*"))
    }),
];

/// Rules of sessions, which are unions like filters.
const SESSIONS: [(&str, NativeRule); 5] = [
    ("!has(self.cookie) || self.type == 'Cookie'", |session| {
        !has(session, "cookie") || is(session, "type", "Cookie")
    }),
    ("self.type != 'Cookie' || has(self.cookie)", |session| {
        !is(session, "type", "Cookie") || has(session, "cookie")
    }),
    ("!has(self.header) || self.type == 'Header'", |session| {
        !has(session, "header") || is(session, "type", "Header")
    }),
    ("self.type != 'Header' || has(self.header)", |session| {
        !is(session, "type", "Header") || has(session, "header")
    }),
    (
        "!has(self.cookie) || !has(self.cookie.lifetimeType) || self.cookie.lifetimeType != 'Permanent' || \
         has(self.absoluteTimeout)",
        |session| {
            let lifetime = session.get("cookie").and_then(|cookie| string(cookie, "lifetimeType"));
            lifetime != Some("Permanent") || has(session, "absoluteTimeout")
        },
    ),
];

/// All of them.
pub(super) const RULES: &[&[(&str, NativeRule)]] = &[FAMILIES.as_flattened(), &SINGLE, &SESSIONS];
