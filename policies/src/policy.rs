//! What a policy is.

use crate::{Effects, Report};
use moorgate_model::{FieldPath, ObjectRef};
use serde::de::DeserializeOwned;

/// A kind of policy.
pub trait Policy: 'static {
    /// The `spec` of its objects. Fields that it does not name are found by `validate`, from the published schema.
    type Spec: DeserializeOwned;
    /// The API group.
    const GROUP: &'static str;
    /// The kind.
    const KIND: &'static str;
    /// The versions of the group that are read.
    const VERSIONS: &'static [&'static str];
    /// What it can target.
    const TARGETS: &'static [TargetKind];
    /// The version of Moorgate that brought it.
    const SINCE: &'static str;
    /// What it does, for the reference.
    const DOCS: &'static str;
    /// The name of its file.
    const FILE: &'static str;

    /// Rules of one object that its schema does not hold, or that are vital enough to be checked again. After an
    /// error the effects are [`Self::refused`].
    fn validate(spec: &Self::Spec, report: &mut Report<'_>);

    /// The effects of a valid policy. After an error the effects are [`Self::refused`] all the same.
    fn lower(spec: &Self::Spec, cx: &Context<'_>, report: &mut Report<'_>) -> Effects;

    /// The effects of a policy that cannot be carried out: for one that restricts access, that nothing passes.
    fn refused() -> Effects;
}

/// A kind that a policy can target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetKind {
    /// The API group, empty for core.
    pub group: &'static str,
    /// The kind.
    pub kind: &'static str,
}

/// What a policy names: an object of its own namespace, or one section of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The object.
    pub object: ObjectRef,
    /// The section: a Service's port name, a Gateway's listener, a route's rule.
    pub section: Option<Box<str>>,
    /// Where the policy says so, from the object's root.
    pub field: FieldPath,
}

/// What lowering may look at besides the policy itself.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Says whether an object can serve as a bundle of CA certificates (key `ca.crt`).
    pub trust_bundle: &'a dyn Fn(&ObjectRef) -> TrustBundle,
}

/// What is known about a bundle of CA certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustBundle {
    /// It is in the source and holds at least one certificate, or its kind is open and it is bound late.
    Usable,
    /// Its kind is closed and it is not in the source.
    Missing,
    /// It is in the source and cannot be used; says why.
    Unusable(String),
}
