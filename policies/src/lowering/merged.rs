//! A policy that was merged with one of a wider scope.

use super::{Compiled, Lowered, Lowering, World, of_kind, top};
use crate::Kind;
use crate::capability::AnyCapability;
use moorgate_model::{FieldPath, Object};
use std::collections::BTreeMap;

/// Compiles a policy that was merged with one of a wider scope. What only one of them speaks of is as that one has it, with
/// its own namespace; what both do is read from the merged object, which stands for the narrower one.
pub fn compile_merged(
    kind: Kind,
    (narrow, of_narrow): (&Object, &Compiled),
    (wide, of_wide): (&Object, &Compiled),
    merged: &Object,
    world: &mut dyn World,
) -> Compiled {
    let mut cx = Lowering::new(kind, merged, world);
    cx.wide = Some(&wide.reference);
    let mut parts = BTreeMap::new();
    for capability in of_kind(kind) {
        let file = capability.about().file;
        let own = |object| written(capability.about().fields, object);
        // What it reads besides may have changed by the merge, which it does not see in its own policy.
        let besides = |object| written(capability.reads(), object);
        let part = match (own(narrow), own(wide)) {
            (true, true) => cx.of(merged, *capability, merged),
            (true, false) if besides(wide) => cx.of(narrow, *capability, merged),
            (false, true) if besides(narrow) => cx.of(wide, *capability, merged),
            (true, false) => of_narrow.parts.get(file).cloned(),
            (false, true) => of_wide.parts.get(file).cloned(),
            (false, false) => None,
        };
        if let Some(part) = part {
            parts.insert(file, part);
        }
    }
    cx.closed |= of_narrow.closed || of_wide.closed;
    cx.finish(parts)
}

/// Whether a policy has some of these fields.
fn written(fields: &[&str], object: &Object) -> bool {
    let spec = FieldPath::root().key("spec");
    fields.iter().any(|field| object.root.at(&spec.join(&top(field))).is_some())
}

impl<'a> Lowering<'a> {
    /// What a capability asks as a part of one policy, where all fields are as they were merged.
    fn of(&mut self, policy: &'a Object, capability: &dyn AnyCapability, merged: &Object) -> Option<Lowered> {
        let before = std::mem::replace(&mut self.object, policy);
        let part = merged.root.get("spec").and_then(|spec| self.part(capability, spec));
        self.object = before;
        part
    }
}
