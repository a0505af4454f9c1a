//! What a capability is: one file that says everything about one thing that a policy of Envoy Gateway's kinds can ask for.

use crate::Kind;
use crate::lowering::{Lowering, top};
use moorgate_model::node::decode;
use moorgate_model::{FieldPath, Mapping, Node, Object};
use serde::de::DeserializeOwned;
use std::marker::PhantomData;

/// A capability.
pub trait Capability: 'static {
    /// The fields below `spec` that it reads; those of others are passed over.
    type Spec: DeserializeOwned;
    /// Everything about it but what it does.
    const ABOUT: About;
    /// Fields below `spec` that it reads besides, and that another capability carries out.
    const READS: &'static [&'static str] = &[];

    /// Checks what the published schema does not, and says what Envoy shall do. What cannot be carried out is said to
    /// `cx`, and never left out in silence.
    fn lower(spec: &Self::Spec, cx: &mut Lowering<'_>);
}

/// What is known of a capability.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// The name of its file, without `.rs`.
    pub file: &'static str,
    /// The kind that it is part of.
    pub kind: Kind,
    /// Fields below `spec` that it carries out, with everything below them: `retry`, `jwt.providers.issuer`.
    pub fields: &'static [&'static str],
    /// Fields below these that it does not carry out.
    pub except: &'static [&'static str],
    /// What it does, for people.
    pub docs: &'static str,
    /// The version of Moorgate that brought it.
    pub since: &'static str,
    /// What it changes in Envoy.
    pub effect: Effect,
}

/// The closed list of what capabilities change. What is not in it, no capability can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// A filter of requests, switched on by the routes that the policy concerns.
    Filter {
        /// Envoy's name for it.
        name: &'static str,
        /// Where it stands (`place`).
        place: u16,
        /// Why there.
        why: &'static str,
    },
    /// The routes that the policy concerns.
    Route,
    /// How requests are read and answered on a listener.
    ConnectionManager,
    /// Connections of a listener, before there are requests.
    Listener,
    /// TLS towards clients.
    DownstreamTls,
    /// Clusters of the backends of routes that the policy concerns: each gets a variant of its own.
    Cluster,
}

/// A capability of any file.
pub trait AnyCapability: Sync {
    /// What is known of it.
    fn about(&self) -> &'static About;
    /// Fields below `spec` that it reads besides.
    fn reads(&self) -> &'static [&'static str];
    /// Reads its fields of a `spec`, if there are any, and lowers them.
    fn compile(&self, spec: &Node, cx: &mut Lowering<'_>);
}

/// Makes an [`AnyCapability`] of a [`Capability`].
pub(crate) struct Part<C>(PhantomData<fn() -> C>);

impl<C: Capability> Part<C> {
    pub(crate) const NEW: Self = Self(PhantomData);
    const KEPT: &'static About = &C::ABOUT;
}

impl<C: Capability> AnyCapability for Part<C> {
    fn about(&self) -> &'static About {
        Self::KEPT
    }

    fn reads(&self) -> &'static [&'static str] {
        C::READS
    }

    fn compile(&self, spec: &Node, cx: &mut Lowering<'_>) {
        if !C::ABOUT.fields.iter().any(|field| spec.at(&top(field)).is_some()) {
            return;
        }
        match decode::<C::Spec>(spec) {
            Ok(decoded) => C::lower(&decoded, cx),
            Err(error) => {
                let field = FieldPath::root().key("spec").join(&error.path);
                cx.invalid(field, &format!("the policy cannot be read: {}", error.message));
            }
        }
    }
}

/// Fields of a policy that no capability carries out: the outermost ones of which nothing is.
pub fn uncovered(kind: Kind, object: &Object) -> Vec<FieldPath> {
    let mut out = Vec::new();
    if let Some(spec) = object.root.get("spec") {
        let at = FieldPath::root().key("spec");
        walk(&Covered::of(kind), spec, &at, &mut Vec::new(), &mut out);
    }
    out
}

/// What a field's state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// It is carried out, by the capability in this file, if it is a capability's.
    Full(Option<&'static str>),
    /// Some fields below it are.
    Partial,
    /// Neither it nor anything below it is.
    None,
}

/// The fields that capabilities of a kind carry out.
pub struct Covered(Vec<(Vec<&'static str>, Listed)>);

/// What a list says of a field and everything below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listed {
    /// It is carried out: by this capability, or as a part of how policies are attached.
    Carried(Option<&'static str>),
    /// It is not.
    Left,
}

impl Covered {
    /// Those of a kind.
    pub fn of(kind: Kind) -> Self {
        let split = |field: &'static str| field.split('.').collect::<Vec<_>>();
        let attachment = kind.attachment().iter();
        let mut listed: Vec<_> = attachment.map(|field| (split(field), Listed::Carried(None))).collect();
        for capability in crate::CAPABILITIES.iter().map(|capability| capability.about()) {
            if capability.kind == kind {
                let carried = Listed::Carried(Some(capability.file));
                listed.extend(capability.fields.iter().map(|field| (split(field), carried)));
                listed.extend(capability.except.iter().map(|field| (split(field), Listed::Left)));
            }
        }
        for settings in kind.settings() {
            listed.push((split(settings), Listed::Left));
            let inner = Self::of(Kind::BackendTraffic).0.into_iter();
            let inner = inner.filter(|(_, state)| *state != Listed::Carried(None));
            listed.extend(inner.map(|(keys, state)| ([split(settings), keys].concat(), state)));
        }
        Self(listed)
    }

    /// The state of a field below `spec`, by the names that lead to it. Of what is listed above it the nearest counts.
    pub fn state(&self, keys: &[&str]) -> Coverage {
        let above = self.0.iter().filter(|(listed, _)| keys.starts_with(listed));
        let nearest =
            above.max_by_key(|(listed, _)| listed.len()).map_or(Listed::Left, |(_, listed)| *listed);
        let differs = |other: Listed| (other == Listed::Left) != (nearest == Listed::Left);
        let mut below =
            self.0.iter().filter(|(listed, _)| listed.len() > keys.len() && listed.starts_with(keys));
        match nearest {
            _ if below.any(|(_, listed)| differs(*listed)) => Coverage::Partial,
            Listed::Carried(file) => Coverage::Full(file),
            Listed::Left => Coverage::None,
        }
    }
}

fn walk<'n>(
    covered: &Covered,
    node: &'n Node,
    at: &FieldPath,
    keys: &mut Vec<&'n str>,
    out: &mut Vec<FieldPath>,
) {
    match covered.state(keys) {
        Coverage::Full(_) => {}
        Coverage::None if !keys.is_empty() => out.push(at.clone()),
        Coverage::Partial | Coverage::None => {
            for (index, item) in node.as_sequence().unwrap_or_default().iter().enumerate() {
                walk(covered, item, &at.index(index), keys, out);
            }
            for entry in node.as_mapping().map(Mapping::entries).unwrap_or_default() {
                keys.push(&entry.key);
                walk(covered, &entry.value, &at.key(&entry.key), keys, out);
                keys.pop();
            }
        }
    }
}
