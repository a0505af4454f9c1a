//! Relays in pods of their own: which there are for a fleet, and what they are called.

use super::metadata::Metadata;
use super::{Fleet, Model, Node, Pool, REPORT_KEY, RenderError, Settings, access, name, node, pool};
use serde_json::{Value, json};

/// Relays that serve several fleets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relays<'s> {
    /// Those of a GatewayClass.
    OfClass(&'s str, &'s Pool),
    /// Those of all nodes.
    OfNodes(&'s Node),
}

impl<'s> Relays<'s> {
    /// Those of the fleets of a class; none where each Envoy has one beside it.
    pub fn of(class: &'s str, settings: &'s Settings) -> Option<Self> {
        match &settings.model {
            Model::Sidecar => None,
            Model::Pool(pool) => Some(Self::OfClass(class, pool)),
            Model::Node(node) => Some(Self::OfNodes(node)),
        }
    }

    /// Their namespace.
    pub fn namespace(self) -> &'s str {
        match self {
            Self::OfClass(_, pool) => &pool.namespace,
            Self::OfNodes(node) => &node.namespace,
        }
    }

    /// The name of their workload, Service and ServiceAccount.
    pub fn object_name(self) -> String {
        match self {
            Self::OfClass(class, _) => name::pool(class),
            Self::OfNodes(_) => node::NAME.to_owned(),
        }
    }

    /// The value of the label that selects them.
    pub fn selected(self) -> String {
        match self {
            Self::OfClass(class, _) => name::digest(&[class]),
            Self::OfNodes(_) => node::SELECTOR.to_owned(),
        }
    }

    /// All their manifests, each before those that need it.
    pub fn manifests(self, fleets: &[Fleet], settings: &Settings) -> Result<Vec<Value>, RenderError> {
        match self {
            Self::OfClass(class, pool) => pool::manifests(class, fleets, settings, pool),
            Self::OfNodes(node) => node::manifests(fleets, settings, node),
        }
    }

    /// The name of the Secret with the key that signs their reports.
    pub fn report_secret_name(self) -> String {
        name::suffixed(&self.object_name(), "report")
    }

    /// Their ServiceAccount, the first of their manifests: the same whichever fleets there are.
    pub fn service_account(self, settings: &Settings) -> Value {
        access::service_account(&self.metadata(settings))
    }

    /// That Secret; never printed. It goes with their ServiceAccount, which has this UID: nobody has to have the right to
    /// delete Secrets.
    pub fn report_secret(self, settings: &Settings, private_key: &str, account: &str) -> Value {
        let mut metadata = self.metadata(settings).named(&self.report_secret_name());
        metadata["ownerReferences"] = json!([{
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "name": self.object_name(),
            "uid": account,
            "blockOwnerDeletion": false,
        }]);
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "stringData": {REPORT_KEY: private_key},
        })
    }

    /// The metadata of their objects.
    pub(super) fn metadata(self, settings: &Settings) -> Metadata {
        let of = Metadata::of_relays(&self.object_name(), &self.selected(), self.namespace(), settings);
        match self {
            Self::OfClass(class, _) => of.of_class(class),
            Self::OfNodes(_) => of,
        }
    }
}
