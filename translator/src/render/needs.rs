//! What relays of a fleet have to read from the Kubernetes API: the bindings of its snapshot, and nothing else.

use moorgate_snapshot::record::{Binding, BindingSource};
use moorgate_snapshot::{Record, Snapshot, Template};
use std::collections::{BTreeMap, BTreeSet};

/// Objects that a fleet's relays read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// Namespaces whose EndpointSlices are watched.
    pub endpoints: BTreeSet<String>,
    /// Names by namespace and kind (`Secret`, `ConfigMap`), or by kind without a namespace (`ClusterTrustBundle`).
    pub objects: BTreeMap<(String, String), BTreeSet<String>>,
}

impl Needs {
    /// What the bindings of a snapshot name.
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut needs = Self::default();
        for record in snapshot.records() {
            if let Record::Binding(binding) = record {
                needs.add(binding);
            }
        }
        needs
    }

    /// What several fleets need together.
    pub(super) fn of_all<'n>(all: impl IntoIterator<Item = &'n Self>) -> Self {
        let mut together = Self::default();
        for needs in all {
            together.endpoints.extend(needs.endpoints.iter().cloned());
            for (key, names) in &needs.objects {
                together.objects.entry(key.clone()).or_default().extend(names.iter().cloned());
            }
        }
        together
    }

    fn add(&mut self, binding: &Binding) {
        match &binding.source {
            BindingSource::Endpoints(sources) | BindingSource::Zoned(sources, _) => {
                let services = sources.iter().filter(|source| !source.service.is_empty());
                self.endpoints.extend(services.map(|source| source.namespace.to_string()));
            }
            BindingSource::Object { kind, namespace, name } => {
                self.object(namespace, kind, name);
            }
            BindingSource::Template(Template { objects, .. }) | BindingSource::Objects(objects) => {
                objects.iter().for_each(|one| self.object(&one.namespace, &one.kind, &one.name));
            }
        }
    }

    fn object(&mut self, namespace: &str, kind: &str, name: &str) {
        let key = (namespace.to_owned(), kind.to_owned());
        self.objects.entry(key).or_default().insert(name.to_owned());
    }

    /// Namespaces in which anything is read.
    pub(super) fn namespaces(&self) -> BTreeSet<&str> {
        let objects = self.objects.keys().map(|(namespace, _)| namespace.as_str());
        self.endpoints.iter().map(String::as_str).chain(objects).filter(|name| !name.is_empty()).collect()
    }
}
