//! The ConfigMap: Envoy's bootstrap, and whom the relay trusts.

use super::container::{self, CONFIG, ENVOY_ADMIN, KUBERNETES_TOKEN, RELAY_SOCKET, RELAY_TOKEN};
use super::metadata::Metadata;
use super::{Fleet, Model, RenderError, Settings};
use crate::startup;
use crate::xds::{self, AdsProtocol, BootstrapOptions, RelayToken, Shown};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The key of Envoy's bootstrap.
pub(super) const BOOTSTRAP: &str = "envoy.json";
/// The key of the CA of the store.
pub(super) const STORE_CA: &str = "store-ca.pem";
/// The key of the CA of a pool's certificate.
pub(super) const RELAY_CA: &str = "relay-ca.pem";
/// The key of the file that says who is of which fleet.
pub(super) const MEMBERS: &str = "members";
/// The key of the trust file.
pub(super) const TRUST: &str = "trust";

/// The files of a fleet's ConfigMap: where Envoy is alone, nobody reads whom a relay trusts.
pub(super) fn data(
    fleet: &Fleet,
    settings: &Settings,
) -> Result<BTreeMap<&'static str, String>, RenderError> {
    let options = |relay| BootstrapOptions {
        fleet: fleet.name.to_string(),
        relay,
        admin: format!("unix:{ENVOY_ADMIN}"),
        // Each pod says its own name on the command line.
        node: fleet.object_name(),
        protocol: AdsProtocol::Delta,
        zone: None,
    };
    match &settings.model {
        Model::Sidecar => {
            let bootstrap = xds::bootstrap(&options(format!("unix:{RELAY_SOCKET}")));
            let mut data = of_relay(settings);
            data.insert(BOOTSTRAP, text(bootstrap, fleet)?);
            Ok(data)
        }
        Model::Pool(pool) => {
            alone(&options(pool.address(&fleet.infrastructure.class)), fleet, &pool.ca, None)
        }
        Model::Node(node) => {
            let hands_over = format!("{RELAY_TOKEN}/{KUBERNETES_TOKEN}");
            alone(&options(node.address()), fleet, &node.ca, Some(hands_over))
        }
    }
}

/// The files of an Envoy whose relay is elsewhere.
fn alone(
    options: &BootstrapOptions,
    fleet: &Fleet,
    ca: &str,
    hands_over: Option<String>,
) -> Result<BTreeMap<&'static str, String>, RenderError> {
    let token =
        RelayToken { file: format!("{RELAY_TOKEN}/token"), ca: format!("{CONFIG}/{RELAY_CA}"), hands_over };
    let bootstrap = xds::bootstrap_with_token(options, &token);
    let port = container::health_port(&fleet.ports);
    let bootstrap = bootstrap.map(|bootstrap| xds::answering_probes(bootstrap, port));
    Ok(BTreeMap::from([(BOOTSTRAP, text(bootstrap, fleet)?), (RELAY_CA, ca.to_owned())]))
}

/// The files that a relay reads.
pub(super) fn of_relay(settings: &Settings) -> BTreeMap<&'static str, String> {
    let mut data = BTreeMap::from([(TRUST, settings.trust.clone())]);
    data.extend(settings.store_ca.as_ref().map(|ca| (STORE_CA, ca.clone())));
    data
}

/// A bootstrap with what the fleet itself says of it.
fn text(bootstrap: Option<Value>, fleet: &Fleet) -> Result<String, RenderError> {
    let wrong = |why: &dyn std::fmt::Display| RenderError::Startup(why.to_string());
    let bootstrap = bootstrap.ok_or_else(|| wrong(&"the relay has no address"))?;
    let port = container::stats_port(fleet);
    let shown = port.map(|port| Shown::everywhere(port, fleet.proxy.family));
    let taken = [container::health_port(&fleet.ports)];
    let bootstrap =
        startup::complete(bootstrap, &fleet.proxy, shown.as_ref(), &taken).map_err(|error| wrong(&error))?;
    let mut text = serde_json::to_string_pretty(&bootstrap).unwrap_or_default();
    text.push('\n');
    Ok(text)
}

/// The ConfigMap.
pub(super) fn config_map(metadata: &Metadata, data: &BTreeMap<&'static str, String>) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata.of_fleet(), "data": data})
}
