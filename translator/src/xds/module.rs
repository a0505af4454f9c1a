//! Modules of code: resources that are no messages, in parts of one size.

use bytes::Bytes;
use moorgate_model::ir::{Fleet, Module, RouteTable};
use moorgate_snapshot::record::{MODULE_PART_BYTES, MODULE_TYPE, Resource};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The modules that the routes of a fleet load, each once.
pub(super) fn records(fleet: &Fleet) -> impl Iterator<Item = Resource> {
    let of_table = |table: &'_ RouteTable| -> BTreeMap<String, Arc<[u8]>> {
        let routes = table.hosts.iter().flat_map(|host| &host.routes);
        let modules = routes.filter_map(|route| route.policies.as_ref()).flat_map(|added| &added.modules);
        modules.map(|Module { digest, bytes }| (digest.clone(), Arc::clone(bytes))).collect()
    };
    let modules: BTreeMap<_, _> = fleet.tables().into_values().flat_map(of_table).collect();
    let type_url: Arc<str> = MODULE_TYPE.into();
    modules.into_iter().flat_map(move |(digest, bytes)| parts(&type_url, &digest.into(), &bytes))
}

fn parts(type_url: &Arc<str>, name: &Arc<str>, bytes: &[u8]) -> Vec<Resource> {
    let part = |(number, bytes): (usize, &[u8])| Resource {
        type_url: Arc::clone(type_url),
        name: Arc::clone(name),
        // The first part of a resource has no key, and keys are sorted as text.
        part: if number == 0 { "".into() } else { format!("{number:04}").into() },
        bytes: Bytes::copy_from_slice(bytes),
        refs: Vec::new(),
    };
    bytes.chunks(MODULE_PART_BYTES).enumerate().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use moorgate_snapshot::{Record, Snapshot, assemble};

    #[test]
    fn a_module_is_put_together_from_its_parts() {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(2 * MODULE_PART_BYTES + 7).collect();
        let made = parts(&MODULE_TYPE.into(), &"a".into(), &bytes);
        assert_eq!(made.iter().map(|part| &*part.part).collect::<Vec<_>>(), ["", "0001", "0002"]);
        let snapshot = Snapshot::build(made.into_iter().map(Record::Resource).collect()).unwrap();
        assert_eq!(snapshot.manifest().required_features(), ["modules"]);
        // Two do not fit into a page.
        assert!(snapshot.pages().len() > 1);
        let assembled = assemble(&snapshot);
        assert_eq!(assembled.resources[MODULE_TYPE]["a"].chunks.concat(), bytes);
        let plain = Snapshot::build(Vec::new());
        assert!(plain.is_ok_and(|plain| plain.manifest().required_features().is_empty()));
        let path = moorgate_snapshot::record::module_path("a");
        assert_eq!(path, format!("{}a", moorgate_policies::RELAY_MODULES));
    }
}
