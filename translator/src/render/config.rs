//! The ConfigMap: Envoy's bootstrap, and whom the relay trusts.

use super::metadata::Metadata;
use super::{Fleet, Settings, container};
use crate::xds::{self, AdsProtocol, BootstrapOptions};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The key of Envoy's bootstrap.
pub(super) const BOOTSTRAP: &str = "envoy.json";
/// The key of the CA of the store.
pub(super) const STORE_CA: &str = "store-ca.pem";
/// The key of the trust file.
pub(super) const TRUST: &str = "trust";

/// The files of the ConfigMap.
pub(super) fn data(fleet: &Fleet, settings: &Settings) -> BTreeMap<&'static str, String> {
    let bootstrap = xds::bootstrap(&BootstrapOptions {
        fleet: fleet.name.to_string(),
        relay: format!("unix:{}", container::RELAY_SOCKET),
        admin: format!("unix:{}", container::ENVOY_ADMIN),
        // Each pod says its own name on the command line.
        node: fleet.object_name(),
        protocol: AdsProtocol::Delta,
    });
    let mut text = serde_json::to_string_pretty(&bootstrap).unwrap_or_default();
    text.push('\n');
    let mut data = BTreeMap::from([(BOOTSTRAP, text), (TRUST, settings.trust.clone())]);
    data.extend(settings.store_ca.as_ref().map(|ca| (STORE_CA, ca.clone())));
    data
}

/// The ConfigMap.
pub(super) fn config_map(metadata: &Metadata, data: &BTreeMap<&'static str, String>) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata.of_fleet(), "data": data})
}
