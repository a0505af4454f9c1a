//! Who wrote what Envoy has: from records to the origins of routes and listeners.

use super::{Records, chain_mark, object, stream_mark};
use crate::xds::Origins;
use moorgate_model::ObjectRef;
use moorgate_model::ir::{ListenerOrigin, RouteOrigin};
use std::collections::BTreeMap;

/// The origins that records know.
#[derive(Debug)]
pub struct Written<'r> {
    records: &'r Records,
    /// Objects by the names that Envoy's routes carry: kind in lower case, namespace, name.
    routes: BTreeMap<(String, String, String), (ObjectRef, &'r str)>,
}

impl<'r> Written<'r> {
    /// Looks through the records once.
    pub fn new(records: &'r Records) -> Self {
        let routes = records.objects.keys().filter_map(|key| {
            let object = object(key)?;
            let name =
                (object.kind.to_ascii_lowercase(), object.namespace.to_string(), object.name.to_string());
            Some((name, (object, key.as_str())))
        });
        Self { routes: routes.collect(), records }
    }

    /// `file:line` of an object, or of one of its rules or listeners; none if nothing is recorded of it.
    pub fn place(&self, object: &ObjectRef, part: Option<usize>) -> Option<String> {
        self.records.objects.get(&super::key(object)).map(|item| item.place(part))
    }
}

impl Origins for Written<'_> {
    fn route(&self, name: &str, matched: &[u8]) -> RouteOrigin {
        let mut parts = name.splitn(4, '/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        let named = (next(), next(), next());
        let rule_name = parts.next();
        let Some((object, key)) = self.routes.get(&named) else {
            let object = ObjectRef::new("", &named.0, &named.1, &named.2);
            return RouteOrigin { object, rule: 0, rule_name, matched: 0 };
        };
        let rule = self.records.objects.get(*key).and_then(|item| item.part_of(&super::mark(matched)));
        RouteOrigin { object: object.clone(), rule: rule.unwrap_or(0), rule_name, matched: 0 }
    }

    fn chain(&self, listener: &str, chain: &str) -> Vec<ListenerOrigin> {
        let prefix = chain_mark(listener, chain, "");
        let mut origins = Vec::new();
        for (key, item) in &self.records.objects {
            let listens = |object: &ObjectRef| matches!(&*object.kind, "Gateway" | "ListenerSet");
            let Some(owner) = object(key).filter(listens) else { continue };
            for (index, part) in item.parts.iter().enumerate() {
                let made = part.makes.iter().filter_map(|made| made.strip_prefix(&prefix));
                // A listener's name has no slash: with one this is a chain whose name only begins alike.
                origins.extend(made.filter(|name| !name.contains('/')).map(|name| {
                    let (owner, listener) = (owner.clone(), name.to_owned());
                    ListenerOrigin { owner, listener, index, hostname: String::new() }
                }));
            }
        }
        origins
    }

    fn stream(&self, listener: &str, chain: &str) -> RouteOrigin {
        let mark = stream_mark(listener, chain);
        let found =
            self.records.objects.iter().find_map(|(key, item)| Some((object(key)?, item.part_of(&mark)?)));
        let (object, rule) = found.unwrap_or_else(|| (ObjectRef::new("", "", "", ""), 0));
        RouteOrigin { object, rule, rule_name: None, matched: 0 }
    }
}
