//! Modules of code that the relay hands out.

use super::Lowering;
use crate::{Access, Input, InputKind};
use moorgate_model::FieldPath;
use moorgate_model::ir::Module;

impl Lowering<'_> {
    /// The module in an image: a declared input, which the snapshot takes along.
    pub(crate) fn image(&mut self, at: &FieldPath, url: &str, access: &Access) -> Option<Input> {
        match self.world.input(self.object, at, (InputKind::Wasm, url), access) {
            Ok(found) => {
                let module = Module { digest: found.digest.clone(), bytes: found.bytes.clone() };
                self.out.modules.push(module);
                Some(found)
            }
            Err(finding) => self.failed_at(at, *finding),
        }
    }

    /// CA certificates by the name of their bundle, if the source has them.
    pub(crate) fn authority_text(&self, bundle: &str) -> Option<String> {
        self.world.authority_text(bundle)
    }
}
