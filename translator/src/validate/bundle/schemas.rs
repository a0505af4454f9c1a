//! All schemas of a bundle, for tests.

use super::{Bundle, Schema};
use std::sync::Arc;

impl Bundle {
    /// Every schema of every served version, each once, children too.
    pub(crate) fn schemas(&self) -> Vec<(String, Arc<Schema>)> {
        fn add(path: &str, schema: &Arc<Schema>, all: &mut Vec<(String, Arc<Schema>)>) {
            if all.iter().any(|(_, known)| Arc::ptr_eq(known, schema)) {
                return;
            }
            all.push((path.to_owned(), Arc::clone(schema)));
            for property in &schema.properties {
                add(&format!("{path}.{}", property.name), &property.schema, all);
            }
            let below = schema.items.iter().chain(&schema.additional);
            below.for_each(|child| add(&format!("{path}[]"), child, all));
        }
        let mut all = Vec::new();
        for (name, kind) in self.groups.values().flatten() {
            for version in kind.standard.iter().chain(&kind.experimental) {
                version.schema.iter().for_each(|schema| add(name, schema, &mut all));
            }
        }
        all
    }
}
