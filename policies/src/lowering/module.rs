//! Declared inputs, and modules of code among them that the relay hands out.

use super::Lowering;
use crate::{Access, Input, InputKind};
use moorgate_model::FieldPath;
use moorgate_model::ir::Module;

impl Lowering<'_> {
    /// What stands behind a URL that the policy names at a field. It is never fetched here: without a declared input
    /// (`moorgate inputs update`) the policy is not valid.
    pub fn input(&mut self, at: &FieldPath, kind: InputKind, url: &str) -> Option<Input> {
        self.declared(at, (kind, url), &Access::default())
    }

    fn declared(&mut self, at: &FieldPath, wanted: (InputKind, &str), access: &Access) -> Option<Input> {
        let found = self.world.input(self.object, at, wanted, access);
        found.map_or_else(|finding| self.failed_at(at, *finding), Some)
    }

    /// The module in an image: a declared input, which the snapshot takes along.
    pub(crate) fn image(&mut self, at: &FieldPath, url: &str, access: &Access) -> Option<Input> {
        let found = self.declared(at, (InputKind::Wasm, url), access)?;
        self.out.modules.push(Module { digest: found.digest.clone(), bytes: found.bytes.clone() });
        Some(found)
    }

    /// CA certificates by the name of their bundle, if the source has them.
    pub(crate) fn authority_text(&self, bundle: &str) -> Option<String> {
        self.world.authority_text(bundle)
    }
}
