//! What policies refer to besides backends.

use super::Lowering;
use moorgate_model::FieldPath;

impl Lowering<'_> {
    /// One entry of a ConfigMap in the policy's namespace; nothing else of it will do.
    pub(crate) fn config_map_entry(&mut self, at: &FieldPath, name: &str, key: &str) -> Option<String> {
        let found = self.world.config_map(self.namespace(), name);
        let found = found.and_then(|mut texts| {
            texts.remove(key).ok_or_else(|| format!("ConfigMap {name} has no key {key}"))
        });
        found.map_err(|message| self.invalid(at.clone(), &message)).ok()
    }

    /// Routes say what they are: kind, name, namespace and rule.
    pub(crate) fn describe_route(&mut self) {
        self.out.describes = true;
    }
}
