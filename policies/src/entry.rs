//! The registry's view of a policy: decoding, targets and failing closed are written once for all.

use crate::{Context, Effects, Outcome, Policy, Report, Target, TargetKind};
use moorgate_model::diagnostic::policy::{POLICY_INVALID, POLICY_TARGET_KIND};
use moorgate_model::node::decode;
use moorgate_model::{Diagnostic, FieldPath, Node, Object, ObjectRef};
use serde::Deserialize;
use std::marker::PhantomData;

/// A policy of any kind.
pub trait AnyPolicy: Sync {
    /// The API group.
    fn group(&self) -> &'static str;
    /// The kind.
    fn kind(&self) -> &'static str;
    /// The versions of the group that are read.
    fn versions(&self) -> &'static [&'static str];
    /// What it can target.
    fn target_kinds(&self) -> &'static [TargetKind];
    /// The version of Moorgate that brought it.
    fn since(&self) -> &'static str;
    /// What it does.
    fn docs(&self) -> &'static str;
    /// The name of the file that holds it, without `.rs`.
    fn file(&self) -> &'static str;
    /// True if its targets are closed when it cannot be carried out.
    fn restricts(&self) -> bool;
    /// Everything that an object of this kind targets, existing or not, in written order; and a finding for each
    /// reference to a kind that cannot be targeted.
    fn targets(&self, object: &Object) -> (Vec<Target>, Vec<Diagnostic>);
    /// Decodes, validates and lowers one object.
    fn compile(&self, object: &Object, cx: &Context<'_>) -> Outcome;
}

/// Makes an [`AnyPolicy`] of a [`Policy`].
pub(crate) struct Entry<P>(PhantomData<fn() -> P>);

impl<P> Entry<P> {
    pub(crate) const NEW: Self = Self(PhantomData);
}

/// `targetRefs`, with the older single `targetRef` (GEP-713).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Targets {
    target_ref: Option<TargetRef>,
    #[serde(default)]
    target_refs: Vec<TargetRef>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TargetRef {
    #[serde(default)]
    group: String,
    #[serde(default)]
    kind: String,
    name: String,
    section_name: Option<Box<str>>,
}

fn spec() -> FieldPath {
    FieldPath::root().key("spec")
}

fn target(
    kinds: &[TargetKind],
    policy: &Object,
    target: TargetRef,
    field: FieldPath,
) -> Result<Target, Diagnostic> {
    if kinds.iter().any(|kind| kind.group == target.group && kind.kind == target.kind) {
        let object = ObjectRef::new(&target.group, &target.kind, &policy.reference.namespace, &target.name);
        return Ok(Target { object, section: target.section_name, field });
    }
    let message =
        format!("{} cannot target a {:?} of group {:?}", policy.reference.kind, target.kind, target.group);
    let names: Vec<_> = kinds.iter().map(|kind| kind.kind).collect();
    let help = format!("it targets objects of kind {}", names.join(", "));
    Err(policy.diagnostic(&POLICY_TARGET_KIND, field.key("kind"), message).help(help))
}

impl<P: Policy> AnyPolicy for Entry<P> {
    fn group(&self) -> &'static str {
        P::GROUP
    }

    fn kind(&self) -> &'static str {
        P::KIND
    }

    fn versions(&self) -> &'static [&'static str] {
        P::VERSIONS
    }

    fn target_kinds(&self) -> &'static [TargetKind] {
        P::TARGETS
    }

    fn since(&self) -> &'static str {
        P::SINCE
    }

    fn docs(&self) -> &'static str {
        P::DOCS
    }

    fn file(&self) -> &'static str {
        P::FILE
    }

    fn restricts(&self) -> bool {
        P::refused() != Effects::default()
    }

    fn targets(&self, object: &Object) -> (Vec<Target>, Vec<Diagnostic>) {
        let spec_node = object.root.get("spec");
        let targets = match spec_node.map(decode::<Targets>) {
            Some(Ok(targets)) => targets,
            Some(Err(error)) => {
                let message = format!("the targets cannot be read: {}", error.message);
                let finding = object.diagnostic(&POLICY_INVALID, spec().join(&error.path), message);
                return (Vec::new(), vec![finding]);
            }
            None => Targets { target_ref: None, target_refs: Vec::new() },
        };
        let single = targets.target_ref.into_iter().map(|target| (target, spec().key("targetRef")));
        let list = targets.target_refs.into_iter().enumerate();
        let list = list.map(|(index, target)| (target, spec().key("targetRefs").index(index)));
        let (mut found, mut findings) = (Vec::new(), Vec::new());
        for (reference, field) in single.chain(list) {
            match target(P::TARGETS, object, reference, field) {
                Ok(target) => found.push(target),
                Err(finding) => findings.push(finding),
            }
        }
        (found, findings)
    }

    fn compile(&self, object: &Object, cx: &Context<'_>) -> Outcome {
        let mut report = Report::new(object);
        let decoded = match object.root.get("spec").map(|node: &Node| decode::<P::Spec>(node)) {
            Some(Ok(decoded)) => Ok(decoded),
            Some(Err(error)) => {
                Err((spec().join(&error.path), format!("the policy cannot be read: {}", error.message)))
            }
            None => Err((FieldPath::root(), "the policy has no spec".to_owned())),
        };
        let mut effects = Effects::default();
        match &decoded {
            Ok(decoded) => {
                P::validate(decoded, &mut report);
                if report.is_accepted() {
                    effects = P::lower(decoded, cx, &mut report);
                }
            }
            Err((field, message)) => {
                report.find(&POLICY_INVALID, field.clone(), message, "");
                report.reject("Invalid", message);
            }
        }
        let effects = if report.is_accepted() { effects } else { P::refused() };
        report.finish(effects)
    }
}
