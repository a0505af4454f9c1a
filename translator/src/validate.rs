//! What an API server would do with an object: apply defaults, then check schema and rules.
//!
//! ```text
//! Object ──▶ kind, version, channel ──▶ metadata ──▶ defaults, structure, CEL ──▶ Object
//!                     └────────────────────┴───────────────────┴──▶ Diagnostics of class schema
//! ```
//! No API server stands between git and us, so this room takes its place. The Gateway API's schemas are data, made
//! from the published CRDs (see [`bundle`]); core kinds are checked in the fields that are read; objects of other
//! programs pass untouched. One object's fault never hides another's, and all faults of one object are reported.

mod bundle;
mod combinators;
mod fields;
mod finding;
mod library;
mod metadata;
mod names;
mod native;
mod nearest;
mod re2;
mod rules;
mod schema;
mod walk;

#[cfg(test)]
mod tests;

use crate::attach::GATEWAY_GROUP;
use crate::load::{defined_twice, is_ours};
use bundle::{Bundle, Kind};
pub use fields::{envoy_gateway_fields, envoy_gateway_version, is_default};
use finding::Finding;
use moorgate_model::diagnostic::schema as codes;
use moorgate_model::{
    Code, Diagnostic, Diagnostics, Entry, FieldPath, Node, Object, ObjectRef, Origin, Segment, Severity,
    Span, Value,
};
pub(crate) use nearest::nearest;
use schema::Schema;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use walk::Walk;

/// The group of the policies that Envoy Gateway's users have; the room `attach` looks at them.
const POLICY_GROUP: &str = "gateway.envoyproxy.io";

/// The Gateway API's release channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Channel {
    /// What is generally available or beta.
    #[default]
    Standard,
    /// All of that, and what may still change or go away.
    Experimental,
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Standard => "standard",
            Self::Experimental => "experimental",
        })
    }
}

/// A channel that is neither `standard` nor `experimental`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no channel: write standard or experimental")]
pub struct UnknownChannel(pub String);

impl FromStr for Channel {
    type Err = UnknownChannel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "standard" => Ok(Self::Standard),
            "experimental" => Ok(Self::Experimental),
            other => Err(UnknownChannel(other.to_owned())),
        }
    }
}

/// What is accepted, and what is assumed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The channel; kinds, fields and values of the experimental one are errors in the standard one.
    pub channel: Channel,
    /// The namespace of namespaced objects that name none; without it, such objects are errors.
    pub namespace: Option<String>,
}

/// The Gateway API release whose schemas are compiled in, such as `v1.7.0`.
pub fn gateway_api_version() -> &'static str {
    &Bundle::gateway_api().version
}

/// Whether objects of a kind live in namespaces; none for kinds that are not checked here.
pub fn is_namespaced(group: &str, kind: &str) -> Option<bool> {
    let bundles = [Bundle::gateway_api(), Bundle::kubernetes(), Bundle::envoy_gateway(), Bundle::moorgate()];
    let known = bundles.into_iter().find_map(|bundle| bundle.kind(group, kind));
    known.map(|kind| kind.namespaced)
}

/// Applies defaults and checks objects, as an API server would.
///
/// Gives back the objects that it would accept, in the given order, with defaults in place, namespaces filled in and
/// beta versions named as the version that they are handled as; and what it would say about the others.
pub fn validate(objects: Vec<Object>, options: &Options) -> (Vec<Object>, Diagnostics) {
    let mut validator = Validator {
        channel: options.channel,
        namespace: options.namespace.as_deref().filter(|name| !name.is_empty()).map(Arc::from),
        diagnostics: Diagnostics::default(),
    };
    let accepted = objects.into_iter().filter_map(|object| validator.object(object)).collect();
    let accepted = validator.once(accepted);
    (accepted, validator.diagnostics)
}

/// Objects that were refused and are given back all the same: policies that may restrict access, and whoever looks at them
/// must know that they are not valid.
pub fn refused(found: &Diagnostics) -> BTreeSet<ObjectRef> {
    let errors = found.iter().filter(|found| found.severity == Severity::Error);
    let objects = errors.filter_map(|found| found.object.as_ref());
    objects.filter(|object| &*object.group == POLICY_GROUP).cloned().collect()
}

struct Validator {
    channel: Channel,
    namespace: Option<Arc<str>>,
    diagnostics: Diagnostics,
}

impl Validator {
    /// The object, unless it would be refused.
    fn object(&mut self, mut object: Object) -> Option<Object> {
        let group = Arc::clone(&object.reference.group);
        let gateway_api = Bundle::gateway_api();
        if let Some(kinds) = gateway_api.kinds(&group) {
            let Some(kind) = kinds.get(&*object.reference.kind) else {
                self.unknown_kind(&object);
                return None;
            };
            return self.known(object, kind, true);
        }
        if let Some(kind) = Bundle::kubernetes().kind(&group, &object.reference.kind) {
            return self.known(object, kind, false);
        }
        if let Some(kind) = Bundle::moorgate().kind(&group, &object.reference.kind) {
            return self.known(object, kind, true);
        }
        if &*group == POLICY_GROUP {
            // All kinds of the group live in namespaces. A policy in none would meet no target, and restrict nothing.
            if !self.fill_namespace(&mut object) {
                self.namespace_missing(&object);
                return None;
            }
            if let Some(kind) = Bundle::envoy_gateway().kind(&group, &object.reference.kind) {
                // One that is refused stays all the same: the room `attach` closes what it restricts.
                let written = object.clone();
                return Some(self.known(object, kind, true).unwrap_or(written));
            }
        } else {
            self.doubtful_group(&object);
        }
        Some(object)
    }

    /// Each object once: with a namespace filled in, or one that its kind does not have left away, two may have become one.
    fn once(&mut self, objects: Vec<Object>) -> Vec<Object> {
        let mut seen: BTreeMap<ObjectRef, Origin> = BTreeMap::new();
        let mut kept = Vec::with_capacity(objects.len());
        for object in objects {
            match seen.get(&object.reference) {
                Some(first) if is_ours(&object.reference) => {
                    self.diagnostics.push(defined_twice(&object, first));
                }
                Some(_) => {}
                None => {
                    seen.insert(object.reference.clone(), object.origin.clone());
                    kept.push(object);
                }
            }
        }
        kept
    }

    fn known(&mut self, mut object: Object, kind: &Kind, strict: bool) -> Option<Object> {
        let Some(schema) = kind.schema(self.channel, &object.version) else {
            self.unknown_version(&object, kind);
            return None;
        };
        self.deprecated(&object, kind);
        let mut fine = true;
        if !kind.namespaced {
            object.reference.namespace = Arc::from("");
        } else if !self.fill_namespace(&mut object) {
            self.namespace_missing(&object);
            fine = false;
        }
        let label = !strict && matches!(&*object.reference.kind, "Namespace" | "Service");
        let found =
            metadata::check(&object.root, metadata::Demands { strict, label, namespaced: kind.namespaced });
        let mut walk = Walk::new(!strict && &*object.reference.kind == "Secret");
        walk.visit(&mut object.root, schema);
        for finding in found.into_iter().chain(walk.findings) {
            let finding = self.explained(finding, &object, kind);
            fine &= finding.code.severity != Severity::Error;
            let path = finding.path();
            self.report(&object, finding.code, path, finding.message, finding.help);
        }
        if !fine {
            return None;
        }
        if let Some(handled) = kind.handled(self.channel) {
            object.version = Arc::clone(handled);
        }
        Some(object)
    }

    fn namespace_missing(&mut self, object: &Object) {
        self.report(
            object,
            &codes::NAMESPACE_MISSING,
            FieldPath::root().key("metadata").key("namespace"),
            "Required value: the object names no namespace".into(),
            Some("write metadata.namespace, or give one for all with --namespace".into()),
        );
    }

    /// Gives an object the default namespace if it has none; false if there is none to give.
    fn fill_namespace(&self, object: &mut Object) -> bool {
        if !object.reference.namespace.is_empty() {
            return true;
        }
        let Some(namespace) = &self.namespace else { return false };
        object.reference.namespace = Arc::clone(namespace);
        let Value::Mapping(root) = &mut object.root.value else { return true };
        if let Some(metadata) = root.get_mut("metadata") {
            let span = metadata.span;
            if let Value::Mapping(fields) = &mut metadata.value {
                fields.remove("namespace");
                let value = Node::new(Value::String((&**namespace).into()), span);
                // The name is free: it was removed.
                let _ = fields.insert(Entry { key: "namespace".into(), key_span: span, value });
            }
        }
        true
    }

    /// Says of an unknown field or value whether the experimental channel knows it.
    fn explained(&self, mut finding: Finding, object: &Object, kind: &Kind) -> Finding {
        let unknown = std::ptr::eq(finding.code, &raw const codes::UNKNOWN_FIELD);
        let unsupported = std::ptr::eq(finding.code, &raw const codes::UNSUPPORTED_VALUE);
        if self.channel == Channel::Experimental || !(unknown || unsupported) {
            return finding;
        }
        let Some(root) = kind.schema(Channel::Experimental, &object.version) else { return finding };
        let steps = finding.path();
        let Some(schema) = descend(root, steps.segments()) else { return finding };
        let accepts = || {
            let value = object.root.at(&steps);
            value.is_some_and(|value| schema.choices.iter().any(|choice| schema::same(choice, value)))
        };
        if unknown && let Some(Segment::Key(name)) = steps.segments().last() {
            finding.message = format!("field {name:?} is not in the standard channel");
        }
        if unknown || accepts() {
            finding.code = &codes::EXPERIMENTAL_FIELD;
            finding.help = Some("it is in the experimental channel: compile with --crds experimental".into());
        }
        finding
    }

    fn unknown_kind(&mut self, object: &Object) {
        let bundle = Bundle::gateway_api();
        let reference = &object.reference;
        let kinds = bundle.kinds(&reference.group).into_iter().flatten().map(|(kind, _)| &**kind);
        let release = &bundle.version;
        // What was on trial under another name and group until it was taken in.
        let grown =
            reference.kind.strip_prefix('X').filter(|kind| bundle.kind(GATEWAY_GROUP, kind).is_some());
        let help = match (grown, nearest(&reference.kind, kinds.clone())) {
            (Some(kind), _) => {
                format!("it is kind {kind} of {GATEWAY_GROUP} now: write that, with apiVersion v1")
            }
            (None, Some(meant)) => format!("did you mean {meant:?}?"),
            (None, None) => format!(
                "Gateway API {release} has {}; a later release may have more: see whether a newer version of \
                 Moorgate knows it",
                finding::list(kinds)
            ),
        };
        let message =
            format!("no kind {:?} in group {} of Gateway API {release}", reference.kind, reference.group);
        self.report(object, &codes::UNKNOWN_KIND, FieldPath::root().key("kind"), message, Some(help));
    }

    fn unknown_version(&mut self, object: &Object, kind: &Kind) {
        let reference = &object.reference;
        let version = &object.version;
        let api = |name: &str| match &*reference.group {
            "" => name.to_owned(),
            group => format!("{group}/{name}"),
        };
        let served: Vec<&str> = kind.served(self.channel).map(|name| &**name).collect();
        let instead = kind.handled(self.channel).map(|name| format!("write apiVersion: {}", api(name)));
        let experimental =
            self.channel == Channel::Standard && kind.schema(Channel::Experimental, version).is_some();
        let field = FieldPath::root().key("apiVersion");
        let said = format!("{} is not served as {}", reference.kind, api(version));
        if experimental {
            let flag = "compile with --crds experimental";
            let help = instead.map_or_else(|| flag.to_owned(), |instead| format!("{instead}, or {flag}"));
            let message = format!("{said} in the standard channel");
            self.report(object, &codes::EXPERIMENTAL_KIND, field, message, Some(help));
            return;
        }
        let message = match served.as_slice() {
            [] => format!("{said} in the {} channel", self.channel),
            versions => format!("{said}: served is {}", versions.join(", ")),
        };
        let help = instead.unwrap_or_else(|| {
            let (channel, versions) = (Channel::Experimental, kind.served(Channel::Experimental));
            let versions: Vec<&str> = versions.map(|name| &**name).collect();
            format!("the {channel} channel serves {}", versions.join(", "))
        });
        let later = match &*reference.group {
            "" => String::new(),
            _ => format!(
                "; if a later release than {} has it, see whether a newer version of Moorgate knows it",
                Bundle::of(&reference.group).version
            ),
        };
        self.report(object, &codes::UNKNOWN_VERSION, field, message, Some(help + &later));
    }

    fn deprecated(&mut self, object: &Object, kind: &Kind) {
        let mut versions = kind.versions(self.channel).iter();
        if !versions.any(|version| version.deprecated && version.name == object.version) {
            return;
        }
        let Some(handled) = kind.handled(self.channel) else { return };
        let reference = &object.reference;
        let message = format!("{} {} is deprecated", reference.kind, object.version);
        let help = format!("write apiVersion: {}/{handled}", reference.group);
        let field = FieldPath::root().key("apiVersion");
        self.report(object, &codes::DEPRECATED_VERSION, field, message, Some(help));
    }

    /// Warns if a group looks like a slip: the object would have no effect, and nobody would say so.
    fn doubtful_group(&mut self, object: &Object) {
        let bundle = Bundle::gateway_api();
        let reference = &object.reference;
        let Some(meant) = nearest(&reference.group, bundle.groups()) else { return };
        if bundle.kind(meant, &reference.kind).is_none() {
            return;
        }
        let message = format!("{} of group {:?} has no effect here", reference.kind, reference.group);
        let help = Some(format!("did you mean {meant:?}?"));
        self.report(object, &codes::DOUBTFUL_GROUP, FieldPath::root().key("apiVersion"), message, help);
    }

    fn report(
        &mut self,
        object: &Object,
        code: &'static Code,
        field: FieldPath,
        message: String,
        help: Option<String>,
    ) {
        let name = std::ptr::eq(code, &raw const codes::UNKNOWN_FIELD)
            || std::ptr::eq(code, &raw const codes::EXPERIMENTAL_FIELD);
        let name = name.then(|| name_span(&object.root, &field)).flatten();
        let mut diagnostic: Diagnostic = object.diagnostic(code, field, message);
        if let Some(span) = name {
            // The name is at fault, not the value.
            diagnostic.span = span;
        }
        diagnostic.help = help;
        self.diagnostics.push(diagnostic);
    }
}

/// Where the name of the field at the end of a path stands.
fn name_span(root: &Node, path: &FieldPath) -> Option<Span> {
    let mut parent = path.clone();
    let Some(Segment::Key(name)) = parent.pop() else { return None };
    Some(root.at(&parent)?.as_mapping()?.entry(&name)?.key_span)
}

/// The schema at the end of a path.
fn descend<'a>(root: &'a Schema, steps: &[Segment]) -> Option<&'a Schema> {
    steps.iter().try_fold(root, |schema, step| match step {
        Segment::Key(name) => schema.field(name),
        Segment::Index(_) => schema.items.as_deref(),
    })
}
