//! The key that signs the reports of a fleet's relays: made here, kept in a Secret beside the fleet, trusted for this fleet
//! and for reports only.

use super::ProvisionError;
use super::api::{Cluster, SECRET};
use crate::render;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moorgate_snapshot::trust::TrustFileError;
use moorgate_snapshot::trust::document::{Document, FIXED, KeyEntry};
use moorgate_snapshot::{KeyError, KeyPair, PublicKey, Role, Signer as _, Trust};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Which Secret holds a key of reports.
pub(super) struct Place<'p> {
    /// Its namespace.
    pub(super) namespace: &'p str,
    /// Its name.
    pub(super) name: String,
    /// The identity of the Gateway, class or ServiceAccount that owns it.
    pub(super) uid: Option<&'p str>,
}

/// The public key of the reports of some relays; `make` makes their Secret of the private one. A Secret that is there stays:
/// pods read their key at their start only.
pub(super) async fn key(
    cluster: &Cluster,
    place: Place<'_>,
    make: impl Fn(&str) -> Value,
) -> Result<PublicKey, ProvisionError> {
    let Place { namespace, name, uid } = place;
    if let Some(found) = cluster.get(&SECRET, namespace, &name).await? {
        if is_former(&found, uid) {
            return Err(ProvisionError::Former(name));
        }
        return read(&found).map_err(|source| ProvisionError::ReportKey { name, source });
    }
    let mut seed = [0; 32];
    SystemRandom::new().fill(&mut seed).map_err(|_| ProvisionError::Random)?;
    let (pair, private) = KeyPair::generate(&seed)
        .map_err(|source| ProvisionError::ReportKey { name: name.clone(), source })?;
    if cluster.create(&SECRET, &make(&private)).await? {
        return Ok(pair.public().clone());
    }
    // Another replica was faster.
    let found = cluster.get(&SECRET, namespace, &name).await?.unwrap_or_default();
    read(&found).map_err(|source| ProvisionError::ReportKey { name, source })
}

/// Whether an object belongs to an owner that had the same name before: it is about to go with that one.
fn is_former(object: &Value, uid: Option<&str>) -> bool {
    let is_ours = |owner: &&Value| {
        ["Gateway", "GatewayClass", "ServiceAccount"].iter().any(|kind| owner["kind"] == *kind)
    };
    let owners = object["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    let owners: Vec<&Value> = owners.iter().filter(is_ours).collect();
    uid.is_some_and(|uid| !owners.is_empty() && owners.iter().all(|owner| owner["uid"] != uid))
}

fn read(secret: &Value) -> Result<PublicKey, KeyError> {
    let text = secret["data"][render::REPORT_KEY].as_str().unwrap_or_default();
    let pem = STANDARD.decode(text).unwrap_or_default();
    Ok(KeyPair::from_pem(&pem)?.public().clone())
}

/// A trust file with this key in it, for reports of these fleets. A file of PEM keys becomes a document that says the same.
pub(super) fn trust(
    base: &str,
    name: String,
    fleets: Vec<String>,
    key: &PublicKey,
) -> Result<String, TrustFileError> {
    let mut document = if base.trim_start().starts_with('{') {
        Document::parse(base.as_bytes())?
    } else {
        let trust = Trust::parse(base.as_bytes())?;
        let keys = trust.keys().map(|trusted| KeyEntry {
            name: String::new(),
            public: trusted.key.to_pem(),
            roles: trusted.roles.clone(),
            fleets: vec!["*".to_owned()],
            channels: vec!["*".to_owned()],
            revoked: None,
        });
        Document {
            format: FIXED,
            number: None,
            root: None,
            keys: keys.collect(),
            minimum_sequence: BTreeMap::new(),
            void: BTreeMap::new(),
            cosign: Vec::new(),
        }
    };
    if document.number.is_some() {
        // What root keys signed is not to be changed by anybody else.
        return Err(TrustFileError::Chain);
    }
    document.keys.push(KeyEntry {
        name,
        public: key.to_pem(),
        roles: BTreeSet::from([Role::Report]),
        fleets,
        channels: vec!["*".to_owned()],
        revoked: None,
    });
    // The key may be one of those that are trusted already.
    document.trust()?;
    serde_json::to_string_pretty(&document).map_err(|error| TrustFileError::Json(error.to_string()))
}
