//! Virtual hosts and routes: compared by what they match, so that an inserted rule does not move its neighbours.

use super::{Change, Kind, change, tree};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Compares one part of a route table: a virtual host, or the table's own fields.
pub(super) fn compare(table: &str, before: Option<&Value>, after: Option<&Value>) -> Vec<Change> {
    let (old, new) = (hosts(before), hosts(after));
    let names: BTreeSet<&&str> = old.keys().chain(new.keys()).collect();
    let mut out = Vec::new();
    for name in names {
        let (a, b) = (old.get(name), new.get(name));
        let label = format!("{table} {name}");
        match (a, b) {
            (Some(_), Some(_)) => {}
            (a, b) => out.push(change("host", label.clone(), a.copied(), b.copied())),
        }
        out.extend(routes(&label, a.copied(), b.copied()));
        out.extend(shadows(&label, a.copied(), b.copied()));
    }
    if let (Some(before), Some(after)) = (before, after) {
        let own = |value: &Value| {
            let mut value = value.clone();
            value.as_object_mut().map(|fields| fields.remove("virtualHosts"));
            value
        };
        let fields = tree::compare(&own(before), &own(after));
        if !fields.is_empty() {
            out.push(Change { kind: Kind::Changed, what: "resource", name: table.to_owned(), fields });
        }
    }
    out
}

fn hosts(table: Option<&Value>) -> BTreeMap<&str, &Value> {
    let hosts = table.and_then(|table| table.get("virtualHosts")).and_then(Value::as_array);
    hosts.into_iter().flatten().filter_map(|host| Some((host.get("name")?.as_str()?, host))).collect()
}

fn list(host: Option<&Value>) -> &[Value] {
    host.and_then(|host| host.get("routes")).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A match as a key; equal keys match the same requests.
fn key(route: &Value) -> String {
    route.get("match").map(Value::to_string).unwrap_or_default()
}

/// The routes of a host by match; a second one of the same match gets a number.
fn by_match(host: Option<&Value>) -> BTreeMap<(String, usize), &Value> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    list(host)
        .iter()
        .map(|route| {
            let count = counts.entry(key(route)).or_default();
            *count += 1;
            ((key(route), *count), route)
        })
        .collect()
}

fn routes(host: &str, before: Option<&Value>, after: Option<&Value>) -> Vec<Change> {
    let (old, new) = (by_match(before), by_match(after));
    let names: BTreeSet<&(String, usize)> = old.keys().chain(new.keys()).collect();
    names
        .into_iter()
        .filter(|name| old.get(name) != new.get(name))
        .filter_map(|name| {
            let (a, b) = (old.get(name).copied(), new.get(name).copied());
            let label = format!("{host} {}", describe(b.or(a)?));
            Some(change("route", label, a, b))
        })
        .collect()
}

/// Routes that stand behind another of the same match, and did not before.
fn shadows(host: &str, before: Option<&Value>, after: Option<&Value>) -> Vec<Change> {
    let old = by_match(before);
    let hidden = by_match(after)
        .into_iter()
        .filter(|((text, count), _)| *count > 1 && !old.contains_key(&(text.clone(), *count)));
    hidden
        .map(|(_, route)| Change {
            kind: Kind::Shadowed,
            what: "route",
            name: format!("{host} {}", describe(route)),
            fields: Vec::new(),
        })
        .collect()
}

/// `PathPrefix /cart GET x-a=…` and the object that it comes from.
fn describe(route: &Value) -> String {
    let found = route.get("match");
    let text = |field: &str| found.and_then(|found| found.get(field)).and_then(Value::as_str);
    let mut words = Vec::new();
    if found.is_some_and(|found| found.get("grpc").is_some()) {
        words.push("gRPC".to_owned());
    }
    if let Some(path) = text("path") {
        words.push(format!("Exact {path}"));
    } else if let Some(prefix) = text("pathSeparatedPrefix").or_else(|| text("prefix")) {
        words.push(format!("PathPrefix {prefix}"));
    } else if let Some(regex) =
        found.and_then(|found| found.pointer("/safeRegex/regex")).and_then(Value::as_str)
    {
        words.push(format!("RegularExpression {regex}"));
    }
    for list in ["headers", "queryParameters"] {
        for matcher in found.and_then(|found| found.get(list)).and_then(Value::as_array).into_iter().flatten()
        {
            let name = matcher.get("name").and_then(Value::as_str).unwrap_or_default();
            let value = matcher.pointer("/stringMatch/exact").and_then(Value::as_str);
            match (name, value) {
                (":method", Some(method)) => words.push(method.to_owned()),
                // Values of headers may be credentials, so only the name is told.
                _ if list == "headers" => words.push(format!("header {name}")),
                _ => words.push(format!("?{name}")),
            }
        }
    }
    let share = found.and_then(|found| found.pointer("/runtimeFraction/defaultValue/numerator"));
    if let Some(share) = share.and_then(Value::as_u64) {
        // Fractions of one match are sums: each takes what those before it left of so many.
        words.push(format!("up to {}.{:04} %", share / 10_000, share % 10_000));
    }
    if let Some(name) = route.get("name").and_then(Value::as_str) {
        words.push(format!("({name})"));
    }
    words.join(" ")
}
