//! EnvoyPatchPolicy: JSON patches over what Envoy would get, after everything else.
//!
//! ```text
//! records ─▶ resource: message ─▶ JSON ─▶ operation: test, add, … ─▶ guard ─▶ JSON ─▶ message ─▶ records
//!                                   policies by priority, then age        └─▶ what restricts access is as it was
//! ```
//! Resources are found by type and name (`deploy/patches.md`), and checked against Envoy's descriptors. A policy is in force as
//! a whole or not at all. One that may restrict access and cannot be carried out closes the Gateways that it targets; and no
//! patch takes away an answer that is closed because somebody's policy cannot be carried out.

mod guard;
mod operation;
mod policy;
mod resource;
#[cfg(test)]
mod tests;

pub(crate) use operation::on_document;
pub use policy::{DOCS, FIELDS};
pub(crate) use policy::{JsonPatch, KIND, restricts};
pub(crate) use resource::private;

use crate::attach::{GATEWAY_GROUP, Options};
use crate::status::{self, AncestorStatus, ParentReference, Status, Statuses};
use moorgate_model::diagnostic::policy::{
    PATCH_MEETS_NOTHING, PATCH_MISFIT, PATCH_REFUSED, PATCH_TARGET, PATCH_WEAKENED, PATCH_WEAKENS,
};
use moorgate_model::{Code, Diagnostic, FieldPath, Object, ObjectRef, ir};
use moorgate_snapshot::{FleetName, Record};
use policy::Policy;
use resource::State;
use std::collections::{BTreeMap, BTreeSet};

/// Why a patch cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    code: &'static Code,
    /// The field, from `spec` on.
    pub(crate) field: FieldPath,
    /// What is wrong.
    pub(crate) message: String,
}

impl Failure {
    fn nothing(field: FieldPath, message: impl Into<String>) -> Self {
        Self { code: &PATCH_MEETS_NOTHING, field, message: message.into() }
    }

    fn target(field: FieldPath, message: impl Into<String>) -> Self {
        Self { code: &PATCH_TARGET, field, message: message.into() }
    }

    fn misfit(field: FieldPath, message: impl Into<String>) -> Self {
        Self { code: &PATCH_MISFIT, field, message: message.into() }
    }

    fn refused(field: FieldPath, message: impl Into<String>) -> Self {
        Self { code: &PATCH_REFUSED, field, message: message.into() }
    }
}

/// What came of all policies.
#[derive(Debug, Default)]
pub(crate) struct Patched {
    /// The records of fleets that were patched.
    pub(crate) records: BTreeMap<FleetName, Vec<Record>>,
    /// Which policies changed which resources, for `explain`: by fleet, then type and name.
    pub(crate) touched: BTreeMap<FleetName, Touched>,
    /// Gateways of which nothing may be served: a policy that may restrict access cannot be carried out.
    pub(crate) denied: BTreeSet<ObjectRef>,
    /// What was found.
    pub(crate) findings: Vec<Diagnostic>,
    statuses: Vec<(ObjectRef, Status)>,
}

/// Which policies changed which resources, by type URL and name.
pub type Touched = BTreeMap<(String, String), Vec<ObjectRef>>;

impl Patched {
    /// Writes the status of the policies.
    pub(crate) fn report(&mut self, statuses: &mut Statuses) {
        for (object, status) in std::mem::take(&mut self.statuses) {
            statuses.set(object, status);
        }
    }
}

/// Applies all policies to the fleets that they target.
pub(crate) fn apply(
    objects: &[Object],
    options: &Options,
    fleets: &BTreeMap<FleetName, ir::Fleet>,
    records: impl Fn(&ir::Fleet) -> Vec<Record>,
) -> Patched {
    let mut patched = Patched::default();
    if !options.patches {
        return patched;
    }
    let mut states: BTreeMap<FleetName, State> = BTreeMap::new();
    for policy in policy::all(objects, options) {
        let mut failed = policy.failure.clone();
        let mut warnings = Vec::new();
        let mut after: BTreeMap<&FleetName, State> = BTreeMap::new();
        for (name, fleet) in policy.fleets.iter().filter_map(|name| fleets.get_key_value(name)) {
            let before = states.entry(name.clone()).or_insert_with(|| State::new(records(fleet)));
            let Ok(patches) = &policy.patches else { break };
            match run(before, &policy, patches) {
                Ok((state, said)) => {
                    warnings.extend(said);
                    after.insert(name, state);
                }
                Err(failure) => failed = failed.or(Some(failure)),
            }
        }
        if failed.is_none() {
            for (name, state) in after {
                note(&mut patched, name, &policy, &state);
                states.insert(name.clone(), state);
            }
            patched.findings.append(&mut warnings);
        } else if policy.closes {
            patched.denied.extend(policy.gateways.iter().cloned());
        }
        let said = failed.as_ref().map(|failure| said(&policy, failure));
        patched.findings.extend(said);
        let status = standing(&policy, failed.as_ref(), options);
        patched.statuses.extend(status.map(|status| (policy.object.reference.clone(), status)));
    }
    let changed = states.into_iter().filter(|(name, _)| patched.touched.contains_key(name));
    patched.records = changed.map(|(name, state)| (name, state.into_records())).collect();
    patched
}

/// A state with all patches of a policy, and what they weaken on purpose.
fn run(
    before: &State,
    policy: &Policy<'_>,
    patches: &[policy::JsonPatch],
) -> Result<(State, Vec<Diagnostic>), Failure> {
    let mut state = before.clone();
    state.touched.clear();
    for (index, patch) in patches.iter().enumerate() {
        let at = FieldPath::parse("spec.jsonPatches").index(index);
        operation::apply(&mut state, patch, &at)?;
    }
    let field = FieldPath::parse("spec.jsonPatches");
    let mut warnings = Vec::new();
    for (key, origin) in state.touched.clone() {
        let at = field.index(origin);
        state.check(&key, &at)?;
        let (Some(old), Some(new)) = (before.json(&key, &at)?, state.json(&key, &at)?) else { continue };
        let verdict = guard::check(&key.0, &old, &new);
        if let Some(message) = verdict.never {
            return Err(Failure::refused(at, message));
        }
        if let Some(front) = verdict.restored {
            state.replace(&key, front.0, &at)?;
            warnings.push(policy.object.diagnostic(&PATCH_WEAKENED, at.clone(), front.1));
        }
        for message in verdict.weaker {
            if !policy.may_weaken {
                return Err(Failure { code: &PATCH_WEAKENS, field: at, message });
            }
            warnings.push(policy.object.diagnostic(&PATCH_WEAKENED, at.clone(), message));
        }
    }
    Ok((state, warnings))
}

fn note(patched: &mut Patched, name: &FleetName, policy: &Policy<'_>, state: &State) {
    let touched = patched.touched.entry(name.clone()).or_default();
    for key in state.touched.keys() {
        touched.entry(key.clone()).or_default().push(policy.object.reference.clone());
    }
}

fn said(policy: &Policy<'_>, failure: &Failure) -> Diagnostic {
    let finding = policy.object.diagnostic(failure.code, failure.field.clone(), failure.message.as_str());
    finding.help(if policy.closes && !policy.gateways.is_empty() {
        "nothing of the policy is in force, and what it targets answers 500, because it may restrict access"
    } else {
        "nothing of the policy is in force"
    })
}

/// The status at the Gateways or the class that is ours.
fn standing(policy: &Policy<'_>, failed: Option<&Failure>, options: &Options) -> Option<Status> {
    let generation = policy.generation;
    let conditions = match failed {
        None => vec![status::holds("Accepted", "Accepted", generation), status::pending(generation)],
        Some(failure) => {
            // Reasons as Envoy Gateway has them.
            let reason = match failure.code.id {
                id if id == PATCH_TARGET.id || id == PATCH_MEETS_NOTHING.id => "ResourceNotFound",
                _ => "Invalid",
            };
            let accepted = if policy.patches.is_ok() && policy.failure.is_none() {
                status::holds("Accepted", "Accepted", generation)
            } else {
                status::fails("Accepted", "Invalid", &failure.message, generation)
            };
            vec![accepted, status::fails("Programmed", reason, &failure.message, generation)]
        }
    };
    let ancestor = policy.ancestor.as_ref()?;
    let mut reference = ParentReference::gateway(&ancestor.namespace, &ancestor.name);
    if &*ancestor.kind != "Gateway" {
        reference.kind = ancestor.kind.to_string();
        reference.namespace = None;
    }
    let ancestors = vec![AncestorStatus {
        ancestor_ref: reference,
        controller_name: options.controller_name.clone(),
        conditions,
    }];
    Some(Status::Policy { ancestors })
}

/// A Gateway by name.
fn gateway(namespace: &str, name: &str) -> ObjectRef {
    ObjectRef::new(GATEWAY_GROUP, "Gateway", namespace, name)
}
