//! A certificate authority of the store's own, for clusters in which nobody else signs its certificate.
//!
//! ```text
//! year 0          1                2
//! ├── signs ──────┼─ is believed ──┤
//!                 ├ SPREAD ┼── the next one signs ──
//! ```
//! A next authority is made when half of the life of the newest one is over, and believed for a week before it signs: by
//! then every reader has it. Pure: the clock and randomness of its keys come from outside.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;
use time::{Duration, OffsetDateTime};

/// How long an authority is believed.
const LIFE: Duration = Duration::days(730);
/// The age of the newest one at which the next is made.
const NEXT: Duration = Duration::days(365);
/// Believed for so long before it signs.
const SPREAD: Duration = Duration::days(7);
/// How long a server's certificate holds.
const LEAF: Duration = Duration::days(30);
/// A new one is made so long before its end.
const LEAF_LEFT: Duration = Duration::days(10);
/// Clocks may differ by so much.
const SKEW: Duration = Duration::hours(1);
/// What people see in the certificate.
const NAME: &str = "moorgate store";

/// Why there is no certificate.
#[derive(Debug, Error)]
pub(super) enum AuthorityError {
    /// The library refuses.
    #[error("no certificate can be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// What was kept is nothing of ours.
    #[error("what was kept of the store's CA cannot be read: {0}")]
    Kept(String),
    /// None of them is valid now.
    #[error("no CA of the store is valid now")]
    Expired,
}

/// A certificate that signs others, and its key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Signing {
    /// PEM.
    certificate: String,
    /// PEM.
    key: String,
    /// From when on it is believed.
    #[serde(with = "time::serde::rfc3339")]
    from: OffsetDateTime,
    /// Until when.
    #[serde(with = "time::serde::rfc3339")]
    until: OffsetDateTime,
}

impl fmt::Debug for Signing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signing({} to {})", self.from, self.until)
    }
}

/// All authorities of a store that are believed, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Authority {
    signing: Vec<Signing>,
}

/// A server's certificate.
#[derive(Clone)]
pub(super) struct Leaf {
    /// PEM.
    pub(super) chain: String,
    /// Its key, PEM.
    pub(super) key: String,
    /// When the next one is due.
    pub(super) due: OffsetDateTime,
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Leaf(due {})", self.due)
    }
}

impl Authority {
    /// A first one.
    pub(super) fn new(now: OffsetDateTime) -> Result<Self, AuthorityError> {
        Ok(Self { signing: vec![Signing::new(now)?] })
    }

    /// Reads what [`Authority::kept`] gave.
    pub(super) fn read(text: &[u8]) -> Result<Self, AuthorityError> {
        serde_json::from_slice(text).map_err(|error| AuthorityError::Kept(format!("line {}", error.line())))
    }

    /// What is to be kept, keys included.
    pub(super) fn kept(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The one for a later time: with the next authority, and without those that have expired. `None` if it may stay.
    pub(super) fn renewed(&self, now: OffsetDateTime) -> Result<Option<Self>, AuthorityError> {
        let due = self.signing.first().is_none_or(|newest| now - newest.from >= NEXT);
        if !due {
            return Ok(None);
        }
        let mut signing = vec![Signing::new(now)?];
        signing.extend(self.signing.iter().filter(|one| one.until > now).cloned());
        Ok(Some(Self { signing }))
    }

    /// The certificates that readers believe, PEM, the newest first.
    pub(super) fn bundle(&self) -> String {
        self.signing.iter().map(|one| one.certificate.as_str()).collect()
    }

    /// A certificate for a server that is called by these names or addresses.
    pub(super) fn issue(&self, names: &[String], now: OffsetDateTime) -> Result<Leaf, AuthorityError> {
        let valid = || self.signing.iter().filter(|one| one.from <= now && now < one.until);
        // The newest that all readers know; the oldest, where all are new.
        let known = valid().find(|one| now - one.from >= SPREAD);
        let signing = known.or_else(|| valid().next_back()).ok_or(AuthorityError::Expired)?;
        let until = (now + LEAF).min(signing.until);
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = called(NAME);
        (params.not_before, params.not_after) = (now - SKEW, until);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::new(authority(signing.from, signing.until), KeyPair::from_pem(&signing.key)?);
        let key = KeyPair::generate()?;
        let signed = params.signed_by(&key, &issuer)?;
        Ok(Leaf { chain: signed.pem(), key: key.serialize_pem(), due: until - LEAF_LEFT })
    }
}

impl Signing {
    fn new(now: OffsetDateTime) -> Result<Self, AuthorityError> {
        let until = now + LIFE;
        let key = KeyPair::generate()?;
        let certificate = authority(now, until).self_signed(&key)?.pem();
        Ok(Self { certificate, key: key.serialize_pem(), from: now, until })
    }
}

/// What stands in the certificate of an authority.
fn authority(from: OffsetDateTime, until: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    // Told apart by the time, so that readers with two of them look at the right one first.
    params.distinguished_name = called(&format!("{NAME} CA {}", from.unix_timestamp()));
    (params.not_before, params.not_after) = (from - SKEW, until);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn called(name: &str) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    called
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
    use std::sync::Arc;

    const SERVICE: &str = "moorgate-store.moorgate-system.svc";

    fn day(number: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::days(20_000 + number)
    }

    /// Whether a reader with this bundle believes a server at a time.
    fn believes(bundle: &str, leaf: &Leaf, name: &str, at: OffsetDateTime) -> bool {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let end = CertificateDer::from_pem_slice(leaf.chain.as_bytes()).unwrap();
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            at.unix_timestamp().try_into().unwrap(),
        ));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(&end, &[], &name, &[], at).is_ok()
    }

    #[test]
    fn a_server_is_believed_by_its_names_and_for_its_time() {
        let names = [SERVICE.to_owned(), "10.96.0.20".to_owned()];
        let authority = Authority::new(day(0)).unwrap();
        let leaf = authority.issue(&names, day(0)).unwrap();
        let bundle = authority.bundle();
        for name in [SERVICE, "10.96.0.20"] {
            assert!(believes(&bundle, &leaf, name, day(0)) && believes(&bundle, &leaf, name, leaf.due));
        }
        assert!(!believes(&bundle, &leaf, "other.svc", day(0)));
        assert!(!believes(&bundle, &leaf, SERVICE, day(31)));
        let other = Authority::new(day(0)).unwrap();
        assert!(!believes(&other.bundle(), &leaf, SERVICE, day(0)));
    }

    #[test]
    fn readers_have_the_next_authority_before_it_signs_and_no_day_is_without_one() {
        let names = [SERVICE.to_owned()];
        let mut authority = Authority::new(day(0)).unwrap();
        let first = authority.bundle();
        // What a reader holds that looks once in six days.
        let mut held = first.clone();
        let mut renewals = 0;
        for today in 0..1500 {
            if let Some(next) = authority.renewed(day(today)).unwrap() {
                authority = Authority::read(next.kept().as_bytes()).unwrap();
                assert_eq!(authority, next);
                renewals += 1;
            }
            if today % 6 == 0 {
                let leaf = authority.issue(&names, day(today)).unwrap();
                assert!(believes(&held, &leaf, SERVICE, day(today)), "day {today}");
                held = authority.bundle();
            }
        }
        assert_eq!(renewals, 4);
        assert!(authority.signing.len() <= 3, "those that expired are gone: {authority:?}");
        assert!(!authority.bundle().contains(&first));
    }

    #[test]
    fn keys_do_not_show() {
        let authority = Authority::new(day(0)).unwrap();
        let leaf = authority.issue(&[SERVICE.to_owned()], day(0)).unwrap();
        assert!(!format!("{authority:?} {leaf:?}").contains("PRIVATE"));
        let error = Authority::read(br#"{"signing": ["hunter2"]}"#).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
