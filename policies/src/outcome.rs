//! What compiling one policy gave.

use crate::Effects;
use moorgate_model::{Code, Diagnostic, FieldPath, Object, ObjectRef};

/// Effects, and what the policy's status will say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What happens to the targets; already the closed form if anything is wrong.
    pub effects: Effects,
    /// The conditions.
    pub verdict: Verdict,
    /// What was found, with places.
    pub diagnostics: Vec<Diagnostic>,
}

/// The two conditions that depend on the policy alone. A conflict between policies comes on top, from `attach`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `Accepted`.
    pub accepted: Judgement,
    /// `ResolvedRefs`.
    pub resolved_refs: Judgement,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// `True` or `False`.
    pub status: bool,
    /// From the Gateway API's lists.
    pub reason: &'static str,
    /// For people; the first finding where the status is `False`.
    pub message: String,
}

impl Judgement {
    fn good(reason: &'static str, message: &str) -> Self {
        Self { status: true, reason, message: message.to_owned() }
    }

    fn fail(&mut self, reason: &'static str, message: &str) {
        if self.status {
            *self = Self { status: false, reason, message: message.to_owned() };
        }
    }
}

/// Collects what is wrong with one policy.
#[derive(Debug)]
pub struct Report<'a> {
    object: &'a Object,
    verdict: Verdict,
    diagnostics: Vec<Diagnostic>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(object: &'a Object) -> Self {
        let verdict = Verdict {
            accepted: Judgement::good("Accepted", "the policy is in effect"),
            resolved_refs: Judgement::good("ResolvedRefs", "all references are resolved"),
        };
        Self { object, verdict, diagnostics: Vec::new() }
    }

    /// The namespace of the policy, in which its references are looked up.
    pub fn namespace(&self) -> &str {
        &self.object.reference.namespace
    }

    /// The policy itself.
    pub fn policy(&self) -> &ObjectRef {
        &self.object.reference
    }

    /// A finding at a field, given as a path from the object's root (`spec.validation.hostname`).
    pub fn find(&mut self, code: &'static Code, field: FieldPath, message: &str, help: &str) {
        let finding = self.object.diagnostic(code, field, message);
        self.diagnostics.push(if help.is_empty() { finding } else { finding.help(help) });
    }

    /// The policy cannot be carried out: `Accepted` is false. The first reason stands.
    pub fn reject(&mut self, reason: &'static str, message: &str) {
        self.verdict.accepted.fail(reason, message);
    }

    /// A reference is broken: `ResolvedRefs` is false. The first reason stands.
    pub fn unresolved(&mut self, reason: &'static str, message: &str) {
        self.verdict.resolved_refs.fail(reason, message);
    }

    /// The policy is in effect, but not all of it: what its condition `Accepted` says besides.
    pub fn remark(&mut self, message: &str) {
        let accepted = &mut self.verdict.accepted;
        if accepted.status {
            accepted.message = format!("{}; {message}", accepted.message);
        }
    }

    pub(crate) fn is_accepted(&self) -> bool {
        self.verdict.accepted.status
    }

    pub(crate) fn finish(self, effects: Effects) -> Outcome {
        Outcome { effects, verdict: self.verdict, diagnostics: self.diagnostics }
    }
}
