//! Opening what was sealed by age for this fleet.

use super::SealError;
use crate::bind::live::Pem;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// What is sealed. Nothing of it is ever shown.
#[derive(Deserialize)]
struct Inside {
    fleet: String,
    secret: String,
    #[serde(rename = "tls.crt")]
    chain: Option<String>,
    #[serde(rename = "tls.key")]
    key: Option<String>,
    #[serde(rename = "ca.crt")]
    bundle: Option<String>,
    /// Other entries, in base64.
    #[serde(default)]
    data: BTreeMap<String, String>,
}

/// The entries of a sealed secret. The identities are read anew each time, so that they may change.
pub(super) fn open(
    identities: Option<&Path>,
    sealed: &[u8],
    fleet: &str,
    secret: &str,
) -> Result<Pem, SealError> {
    let plain = unseal(identities, sealed)?;
    let inside: Inside = serde_json::from_slice(&plain).map_err(|_| SealError::Inside)?;
    // Whoever signs the index could name another fleet's secret, or this one by another name.
    if (inside.fleet.as_str(), inside.secret.as_str()) != (fleet, secret) {
        return Err(SealError::Inside);
    }
    let bytes = |text: Option<String>| text.map(String::into_bytes);
    let entries = inside.data.into_iter().map(|(key, text)| Some((key, STANDARD.decode(text).ok()?)));
    let entries = entries.collect::<Option<_>>().ok_or(SealError::Inside)?;
    Ok(Pem { chain: bytes(inside.chain), key: bytes(inside.key), bundle: bytes(inside.bundle), entries })
}

#[cfg(feature = "sealed")]
fn unseal(identities: Option<&Path>, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    /// The largest file of identities.
    const MAX_FILE: u64 = 64 << 10;
    let file = identities.ok_or(SealError::NoIdentity)?;
    let text = crate::bind::file::read(file, MAX_FILE).map_err(|_| SealError::Identity)?;
    let text = String::from_utf8(text).map_err(|_| SealError::Identity)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let identities = lines.map(str::parse::<age::x25519::Identity>).collect::<Result<Vec<_>, _>>();
    let identities = identities.map_err(|_| SealError::Identity)?;
    if identities.is_empty() {
        return Err(SealError::Identity);
    }
    let opened = identities.iter().find_map(|identity| age::decrypt(identity, sealed).ok());
    opened.ok_or(SealError::Closed)
}

#[cfg(not(feature = "sealed"))]
fn unseal(_: Option<&Path>, _: &[u8]) -> Result<Vec<u8>, SealError> {
    Err(SealError::Unable)
}

#[cfg(all(test, feature = "sealed"))]
mod tests {
    use super::*;
    use age::secrecy::ExposeSecret as _;

    #[test]
    fn only_the_fleet_s_identity_opens_and_only_what_is_inside_under_its_own_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("identity");
        let (ours, others) = (age::x25519::Identity::generate(), age::x25519::Identity::generate());
        let text = format!("# ours\n{}\n", ours.to_string().expose_secret());
        let inside = r#"{"fleet":"shop/edge","secret":"shop/tls","tls.crt":"chain","tls.key":"key"}"#;
        let sealed = age::encrypt(&ours.to_public(), inside.as_bytes()).unwrap();
        let ask = |sealed: &[u8], fleet: &str, secret: &str| open(Some(&file), sealed, fleet, secret);
        assert_eq!(ask(&sealed, "shop/edge", "shop/tls"), Err(SealError::Identity));
        std::fs::write(&file, "no identity").unwrap();
        assert_eq!(ask(&sealed, "shop/edge", "shop/tls"), Err(SealError::Identity));
        std::fs::write(&file, text).unwrap();
        let pem = ask(&sealed, "shop/edge", "shop/tls").unwrap();
        assert_eq!((pem.chain.unwrap(), pem.key.unwrap()), (b"chain".to_vec(), b"key".to_vec()));
        assert!(pem.entries.is_empty());
        let more = r#"{"fleet":"shop/edge","secret":"shop/keys","data":{"ann":"azE="}}"#;
        let more = age::encrypt(&ours.to_public(), more.as_bytes()).unwrap();
        assert_eq!(ask(&more, "shop/edge", "shop/keys").unwrap().entries["ann"], b"k1");
        assert_eq!(ask(&sealed, "shop/other", "shop/tls"), Err(SealError::Inside));
        assert_eq!(ask(&sealed, "shop/edge", "shop/pay"), Err(SealError::Inside));
        assert_eq!(open(None, &sealed, "shop/edge", "shop/tls"), Err(SealError::NoIdentity));
        let foreign = age::encrypt(&others.to_public(), inside.as_bytes()).unwrap();
        assert_eq!(ask(&foreign, "shop/edge", "shop/tls"), Err(SealError::Closed));
        let mut damaged = sealed.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(ask(&damaged, "shop/edge", "shop/tls"), Err(SealError::Closed));
        assert_eq!(ask(b"no age at all", "shop/edge", "shop/tls"), Err(SealError::Closed));
        let nonsense = age::encrypt(&ours.to_public(), b"{}").unwrap();
        assert_eq!(ask(&nonsense, "shop/edge", "shop/tls"), Err(SealError::Inside));
    }
}
