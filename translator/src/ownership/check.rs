//! Objects against the ownership file: who may stay, and what leaving out would open.

use super::pattern::Words;
use super::{Entry, Ownership};
use crate::attach::{Take, covers};
use crate::load::is_ours;
use crate::validate::is_namespaced;
use moorgate_model::diagnostic::semantic::OWNERSHIP_BREACH;
use moorgate_model::{Diagnostic, Diagnostics, FieldPath, Node, Object, ObjectRef};
use std::collections::{BTreeMap, BTreeSet};

/// What came of holding objects against the file.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The objects that may stay, in the given order.
    pub objects: Vec<Object>,
    /// A breach for each of the others.
    pub diagnostics: Diagnostics,
    /// Objects in breach that restrict access, or may: without them more could pass than anybody wrote, so the fleets
    /// that they concern are not published.
    pub holds: BTreeSet<ObjectRef>,
}

/// Kinds without which nothing passes that would not pass with them. Routes are such unless a policy guards them.
const HARMLESS: [&str; 7] =
    ["Gateway", "GatewayClass", "Service", "ReferenceGrant", "Secret", "ConfigMap", "EndpointSlice"];
const ROUTES: [&str; 5] = ["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute"];

/// Takes out the objects that their files may not define.
pub fn check(ownership: &Ownership, objects: Vec<Object>) -> Verdict {
    let mut verdict = Verdict::default();
    let mut entries: BTreeMap<std::sync::Arc<str>, Vec<&Entry>> = BTreeMap::new();
    let mut out = Vec::new();
    for object in objects {
        if !is_ours(&object.reference) {
            verdict.objects.push(object);
            continue;
        }
        let file = &object.origin.file;
        let known = entries.entry(file.clone()).or_insert_with(|| ownership.entries_of(file));
        match breach(known, &object) {
            None => verdict.objects.push(object),
            Some(finding) => {
                verdict.diagnostics.push(finding);
                out.push(object.reference);
            }
        }
    }
    if !out.is_empty() {
        let guarded = Guarded::new(&verdict.objects);
        verdict.holds = out.into_iter().filter(|object| !is_harmless(object, &guarded)).collect();
    }
    verdict
}

impl Ownership {
    /// Whether a take is allowed: some entry that allows the winner also names the loser's namespace, as one of its own
    /// or in `takesFrom`.
    pub fn allows(&self, winner: &Object, take: &Take) -> bool {
        let loser = &take.loser.object.namespace;
        self.entries_of(&winner.origin.file).iter().any(|entry| {
            refusal(entry, winner).is_none() && (entry.namespaces.fit(loser) || entry.takes_from.fit(loser))
        })
    }
}

/// Routes that policies guard.
struct Guarded<'a> {
    named: BTreeSet<(&'a str, &'a str)>,
    /// Namespaces in which a policy selects its targets by label.
    selected: BTreeSet<&'a str>,
}

impl<'a> Guarded<'a> {
    fn new(objects: &'a [Object]) -> Self {
        let mut guarded = Self { named: BTreeSet::new(), selected: BTreeSet::new() };
        for policy in objects.iter().filter(|object| object.reference.kind.ends_with("Policy")) {
            let namespace = &*policy.reference.namespace;
            let Some(spec) = policy.root.get("spec") else { continue };
            if spec.get("targetSelectors").is_some() {
                guarded.selected.insert(namespace);
            }
            let many = spec.get("targetRefs").and_then(Node::as_sequence).unwrap_or_default();
            for target in many.iter().chain(spec.get("targetRef")) {
                guarded.named.extend(target.get("name").and_then(Node::as_str).map(|name| (namespace, name)));
            }
        }
        guarded
    }
}

fn is_harmless(object: &ObjectRef, guarded: &Guarded<'_>) -> bool {
    let kind = &&*object.kind;
    let (namespace, name) = (&*object.namespace, &*object.name);
    HARMLESS.contains(kind)
        || ROUTES.contains(kind)
            && !guarded.named.contains(&(namespace, name))
            && !guarded.selected.contains(namespace)
}

/// Why no entry allows the object; none if one does.
fn breach(entries: &[&Entry], object: &Object) -> Option<Diagnostic> {
    let mut nearest: Option<Refusal> = None;
    for entry in entries {
        let refusal = refusal(entry, object)?;
        // The entry that got furthest is the one that was meant.
        if nearest.as_ref().is_none_or(|nearest| nearest.step < refusal.step) {
            nearest = Some(refusal);
        }
    }
    let Some(Refusal { field, message, .. }) = nearest else {
        let message = format!("no entry of the ownership file speaks of files at {}", object.origin.file);
        return Some(object.diagnostic(&OWNERSHIP_BREACH, FieldPath::root(), message));
    };
    let help =
        "move the object to a file that may define it, or have the ownership file changed on its own branch";
    Some(object.diagnostic(&OWNERSHIP_BREACH, field, message).help(help))
}

struct Refusal {
    /// How much of the entry fitted.
    step: u8,
    field: FieldPath,
    message: String,
}

/// Why an entry does not allow an object.
fn refusal(entry: &Entry, object: &Object) -> Option<Refusal> {
    let ObjectRef { group, kind, namespace, name } = &object.reference;
    let metadata = FieldPath::root().key("metadata");
    let refuse = |step, field, message| Some(Refusal { step, field, message });
    let namespaced = is_namespaced(group, kind).unwrap_or(!namespace.is_empty());
    // A Namespace is its own: its labels decide which routes a listener takes.
    let own = if &**kind == "Namespace" { Some((name, "name")) } else { None };
    let own = own.or_else(|| namespaced.then_some((namespace, "namespace")));
    if let Some((found, field)) = own
        && !entry.namespaces.fit(found)
    {
        let allowed = entry.namespaces.list();
        let message = format!("files of {} may define objects in these namespaces: {allowed}", entry.name);
        return refuse(0, metadata.key(field), message);
    }
    let kinds = entry.kinds.as_ref();
    if kinds.map_or(!namespaced, |kinds| !kinds.fit(kind)) {
        let allowed = kinds.map_or_else(|| "those that live in namespaces".to_owned(), Words::list);
        return refuse(
            1,
            FieldPath::root().key("kind"),
            format!("files of {} may define objects of these kinds: {allowed}", entry.name),
        );
    }
    let allowed = |claimed: &str| {
        entry
            .hostnames
            .iter()
            .any(|owned| covers(if owned == "*" { "" } else { owned }, &claimed.to_ascii_lowercase()))
    };
    let (field, claimed) = claims(object).into_iter().find(|(_, claimed)| !allowed(claimed))?;
    let what = if claimed.is_empty() { "all hostnames" } else { &claimed };
    let list = if entry.hostnames.is_empty() { "none".to_owned() } else { entry.hostnames.join(", ") };
    refuse(2, field, format!("{what}: files of {} may claim these hostnames: {list}", entry.name))
}

/// The hostnames that a route, Gateway or ListenerSet claims, with their fields; empty for all.
fn claims(object: &Object) -> Vec<(FieldPath, String)> {
    let spec = FieldPath::root().key("spec");
    let hostname = |node: Option<&Node>| node.and_then(Node::as_str).unwrap_or_default().to_owned();
    match &*object.reference.kind {
        "HTTPRoute" | "GRPCRoute" | "TLSRoute" => {
            let at = spec.key("hostnames");
            let names = object.root.at(&at).and_then(Node::as_sequence).unwrap_or_default();
            if names.is_empty() {
                return vec![(spec, String::new())];
            }
            names.iter().enumerate().map(|(index, name)| (at.index(index), hostname(Some(name)))).collect()
        }
        "Gateway" | "ListenerSet" => {
            let at = spec.key("listeners");
            let listeners = object.root.at(&at).and_then(Node::as_sequence).unwrap_or_default();
            let claim = |(index, listener): (usize, &Node)| {
                let at = at.index(index);
                match listener.get("hostname") {
                    Some(name) => (at.key("hostname"), hostname(Some(name))),
                    None => (at, String::new()),
                }
            };
            listeners.iter().enumerate().map(claim).collect()
        }
        _ => Vec::new(),
    }
}
