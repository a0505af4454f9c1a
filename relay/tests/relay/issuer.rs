//! Whoever gives out tokens: a cluster's API server, as far as relays see it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://issuer.example";
/// Tokens of the tests end then.
pub(crate) const END: i64 = 4_000_000_000;

/// A signing key and its id.
pub(crate) struct Issuer {
    key: EcdsaKeyPair,
    kid: String,
}

impl Issuer {
    pub(crate) fn new(kid: &str) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        Self { key, kid: kid.to_owned() }
    }

    /// Its public key, as an entry of a key set.
    pub(crate) fn public(&self) -> Value {
        let point = &self.key.public_key().as_ref()[1..];
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
            "x": part(&point[..32]), "y": part(&point[32..])})
    }

    /// A signed token.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = unsigned(header, claims);
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    pub(crate) fn header(&self) -> Value {
        json!({"alg": "ES256", "kid": self.kid})
    }

    /// A good token of an account, `NAMESPACE:NAME`.
    pub(crate) fn token(&self, account: &str) -> String {
        self.sign(&self.header(), &claims(account))
    }
}

/// Header and claims, without a signature.
pub(crate) fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

/// What a projected token of an account says.
pub(crate) fn claims(account: &str) -> Value {
    let (namespace, name) = account.split_once(':').unwrap();
    json!({
        "iss": ISSUER, "aud": ["moorgate-relay"], "exp": END, "iat": 1, "nbf": 1, "jti": "7",
        "sub": format!("system:serviceaccount:{account}"),
        "kubernetes.io": {
            "namespace": namespace,
            "node": {"name": "node-1", "uid": "3"},
            "pod": {"name": format!("{name}-0"), "uid": "2"},
            "serviceaccount": {"name": name, "uid": "1"},
        },
    })
}

pub(crate) fn key_set(issuers: &[&Issuer]) -> String {
    json!({"keys": issuers.iter().map(|issuer| issuer.public()).collect::<Vec<_>>()}).to_string()
}
