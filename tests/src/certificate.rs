//! Certificates for tests: self-signed, made anew in each run.

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, PublicKeyData as _, RevokedCertParams, SanType, SerialNumber,
};
use sha2::{Digest as _, Sha256};

/// A certificate with its key.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate (PEM).
    pub certificate: String,
    /// Its private key (PEM).
    pub key: String,
    /// The certificate (DER), for clients that trust it.
    pub der: Vec<u8>,
}

impl Certificate {
    /// A certificate for these DNS names, valid for a year around today.
    pub fn for_names(names: &[&str]) -> Result<Self> {
        Self::made(names, |_| ())
    }

    /// One whose time is over since 2001.
    pub fn expired(names: &[&str]) -> Result<Self> {
        Self::made(names, |params| {
            params.not_before = rcgen::date_time_ymd(2000, 1, 1);
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        })
    }

    fn made(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Result<Self> {
        let key = KeyPair::generate()?;
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names)?;
        change(&mut params);
        let certificate = params.self_signed(&key)?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() })
    }

    /// What a client pins to trust this certificate alone: Base64 of SHA-256 of its public key's SPKI (RFC 7469 §2.4).
    pub fn pin(&self) -> Result<String> {
        let spki = KeyPair::from_pem(&self.key)?.subject_public_key_info();
        Ok(STANDARD.encode(Sha256::digest(spki)))
    }

    /// An authority, and a certificate for this DNS name or URI that it signed.
    pub fn signed(name: &str) -> Result<(Self, Self)> {
        Self::signed_for(&[name])
    }

    /// The same for several names.
    pub fn signed_for(names: &[&str]) -> Result<(Self, Self)> {
        Self::signed_with(names, |_| ())
    }

    /// The same with a certificate whose time is over since 2001, and that has this user principal name (an other name).
    pub fn signed_and_expired(name: &str, user: &str) -> Result<(Self, Self)> {
        Self::signed_with(&[name], |params| {
            params.not_before = rcgen::date_time_ymd(2000, 1, 1);
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
            let principal = vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3];
            params.subject_alt_names.push(SanType::OtherName((principal, user.into())));
        })
    }

    /// An authority, two certificates for this name that it signed, and its list (PEM) by which the second of them does not
    /// count any more.
    pub fn revoked(name: &str) -> Result<(Self, Self, Self, String)> {
        let own = KeyPair::generate()?;
        let mut params = authority(&format!("authority of {name}"))?;
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&own)?;
        let issuer = Issuer::from_params(&params, &own);
        let leaf = |serial: u64| -> Result<Self> {
            let key = KeyPair::generate()?;
            let mut leaf = CertificateParams::new(vec![name.to_owned()])?;
            leaf.serial_number = Some(SerialNumber::from(serial));
            let leaf = leaf.signed_by(&key, &issuer)?;
            Ok(Self { certificate: leaf.pem(), key: key.serialize_pem(), der: leaf.der().to_vec() })
        };
        let (good, lost) = (leaf(1)?, leaf(2)?);
        let entry = RevokedCertParams {
            serial_number: SerialNumber::from(2_u64),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(2120, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![entry],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&issuer)?.pem()?;
        let root = Self { certificate: root.pem(), key: own.serialize_pem(), der: root.der().to_vec() };
        Ok((root, good, lost, list))
    }

    fn signed_with(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Result<(Self, Self)> {
        let (own, key) = (KeyPair::generate()?, KeyPair::generate()?);
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Who has the name of its issuer has signed itself.
        params.distinguished_name.push(DnType::CommonName, format!("authority of {}", names.join(" ")));
        let root = params.self_signed(&own)?;
        // A name with a colon is a URI, such as a SPIFFE id.
        let (uris, hosts): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.contains(':'));
        let mut leaf = CertificateParams::new(hosts.into_iter().map(str::to_owned).collect::<Vec<_>>())?;
        for uri in uris {
            leaf.subject_alt_names.push(SanType::URI(Ia5String::try_from(uri)?));
        }
        change(&mut leaf);
        let leaf = leaf.signed_by(&key, &Issuer::from_params(&params, &own))?;
        let of = |certificate: &rcgen::Certificate, key: &KeyPair| Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().to_vec(),
        };
        Ok((of(&root, &own), of(&leaf, &key)))
    }
}

/// An authority whose certificates are renewed: who trusts it takes all of them, and who wants to see that one was renewed
/// trusts the authority below it that signed that one alone.
#[derive(Debug)]
pub struct Authority {
    params: CertificateParams,
    key: KeyPair,
    /// What those trust that take all (DER).
    pub der: Vec<u8>,
}

impl Authority {
    /// A new one.
    pub fn new() -> Result<Self> {
        let (params, key) = (authority("root")?, KeyPair::generate()?);
        let der = params.self_signed(&key)?.der().to_vec();
        Ok(Self { params, key, der })
    }

    /// The next certificate for these names, with its chain; in its `der` is the authority that signed it alone.
    pub fn renew(&self, names: &[&str]) -> Result<Certificate> {
        let (between, between_key, key) = (authority("between")?, KeyPair::generate()?, KeyPair::generate()?);
        let signer = between.signed_by(&between_key, &Issuer::from_params(&self.params, &self.key))?;
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let leaf = CertificateParams::new(names)?;
        let leaf = leaf.signed_by(&key, &Issuer::from_params(&between, &between_key))?;
        Ok(Certificate {
            certificate: leaf.pem() + &signer.pem(),
            key: key.serialize_pem(),
            der: signer.der().to_vec(),
        })
    }
}

fn authority(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}
