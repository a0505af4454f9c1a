//! Tokens of clients: projected ServiceAccount tokens, judged by the cluster's public keys alone.
//!
//! An Envoy sends its pod's token with each stream, as gRPC metadata. Nobody is asked about it: the API server may be
//! down, and its keys are kept on disk. So what counts is what the token itself says: who signed it, for whom it is meant,
//! until when, and which pod it was given to. That its pod is gone meanwhile shows in no token: they live for an hour at
//! most (<https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#bound-service-account-tokens>).

mod keys;

pub use keys::{KeySet, KeySource, Keys, KeysError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName};
use serde::Deserialize;
use std::sync::Arc;
use thiserror::Error;

/// The longest token, in bytes.
const MAX_TOKEN: usize = 16 << 10;
/// Clocks of machines may differ by so much, in seconds, where a token is said to be too young.
const SKEW: i64 = 60;
/// How the users of ServiceAccounts are called.
pub const ACCOUNT: &str = "system:serviceaccount:";
/// The audience that tokens for relays have if nothing else is said.
pub const AUDIENCE: &str = "moorgate-relay";
/// The header with a token for the API server, by which an Envoy lets a relay read what its fleet binds.
pub const HANDED_OVER: &str = "moorgate-kubernetes-token";

/// Why a token does not count. Its words hold nothing of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    /// There is none.
    #[error("no bearer token")]
    Absent,
    /// It is no signed JWT, or too long.
    #[error("the token cannot be read")]
    Form,
    /// It is signed by a method that does not count, or not at all.
    #[error("the token is signed by a method that does not count")]
    Algorithm,
    /// The key that is said to have signed it is not one of the cluster's.
    #[error("the token is signed by a key that is not known")]
    Key,
    /// The key did not sign it.
    #[error("the token's signature is wrong")]
    Signature,
    /// Somebody else gave it out.
    #[error("the token is of another issuer")]
    Issuer,
    /// It is meant for others.
    #[error("the token is meant for another audience")]
    Audience,
    /// It has run out.
    #[error("the token has expired")]
    Expired,
    /// It is not valid yet.
    #[error("the token is not valid yet")]
    Early,
    /// It is not that of a pod's ServiceAccount.
    #[error("the token is not bound to a pod and its ServiceAccount")]
    Unbound,
}

impl TokenError {
    /// A stable word for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Absent => "token_absent",
            Self::Form => "token_form",
            Self::Algorithm => "token_algorithm",
            Self::Key => "token_key",
            Self::Signature => "token_signature",
            Self::Issuer => "token_issuer",
            Self::Audience => "token_audience",
            Self::Expired => "token_expired",
            Self::Early => "token_early",
            Self::Unbound => "token_unbound",
        }
    }
}

/// Whom a good token is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// The account, `system:serviceaccount:NAMESPACE:NAME`.
    pub account: String,
    /// The name of its pod.
    pub pod: String,
}

/// Judges tokens.
#[derive(Debug)]
pub struct Tokens {
    /// Who must have given them out; the cluster's `--service-account-issuer`.
    pub issuer: String,
    /// Whom they must be meant for.
    pub audience: String,
    /// The issuer's public keys.
    pub keys: Arc<Keys>,
}

/// The first part of a token.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<serde_json::Value>,
}

/// What of the second part counts.
#[derive(Deserialize)]
struct Claims {
    iss: Option<String>,
    sub: Option<String>,
    aud: Option<Audience>,
    exp: Option<i64>,
    nbf: Option<i64>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Bound>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn holds(&self, wanted: &str) -> bool {
        match self {
            Self::One(one) => one == wanted,
            Self::Many(many) => many.iter().any(|one| one == wanted),
        }
    }
}

/// What a token was bound to.
#[derive(Deserialize)]
struct Bound {
    namespace: String,
    serviceaccount: Named,
    pod: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// A token that was read, and not judged yet.
struct Parts<'t> {
    header: Header,
    /// What was signed.
    message: &'t [u8],
    claims: &'t str,
    signature: Vec<u8>,
}

/// The token of a request: `authorization: Bearer TOKEN`.
///
/// # Errors
/// There is none, or more than one.
pub fn bearer(headers: &HeaderMap) -> Result<&str, TokenError> {
    token_in(headers, &AUTHORIZATION)
}

/// The token for the API server that an Envoy hands over: `moorgate-kubernetes-token: Bearer TOKEN`.
///
/// # Errors
/// There is none, or more than one.
pub fn handed_over(headers: &HeaderMap) -> Result<&str, TokenError> {
    token_in(headers, &HeaderName::from_static(HANDED_OVER))
}

fn token_in<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h str, TokenError> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(TokenError::Absent) };
    let text = value.to_str().map_err(|_| TokenError::Form)?;
    let (scheme, token) = text.split_once(' ').ok_or(TokenError::Absent)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(TokenError::Absent) }
}

impl Tokens {
    /// Judges a token at a time, in seconds since 1970.
    ///
    /// # Errors
    /// It does not count.
    pub async fn judge(&self, token: &str, now: i64) -> Result<Bearer, TokenError> {
        let claims = self.signed(token).await?;
        if !claims.aud.as_ref().is_some_and(|audience| audience.holds(&self.audience)) {
            self.issued(&claims)?;
            return Err(TokenError::Audience);
        }
        self.claims(claims, now).map(|(bearer, _)| bearer)
    }

    /// Judges a token that the bearer of another one hands over, for use elsewhere: it has to be of the same pod, and whom
    /// it is meant for is judged there. When it runs out, in seconds since 1970.
    ///
    /// # Errors
    /// It does not count.
    pub async fn handed_over(&self, token: &str, by: &Bearer, now: i64) -> Result<i64, TokenError> {
        let (bearer, end) = self.claims(self.signed(token).await?, now)?;
        if bearer == *by { Ok(end) } else { Err(TokenError::Unbound) }
    }

    /// What a token says, if its signature is right.
    async fn signed(&self, token: &str) -> Result<Claims, TokenError> {
        let parts = read(token)?;
        let kid = parts.header.kid.as_deref().ok_or(TokenError::Key)?;
        if !keys::counts(&parts.header.alg) {
            return Err(TokenError::Algorithm);
        }
        let key = self.keys.find(kid).await.ok_or(TokenError::Key)?;
        key.verify(&parts.header.alg, parts.message, &parts.signature)?;
        serde_json::from_slice(&decoded(parts.claims)?).map_err(|_| TokenError::Form)
    }

    fn issued(&self, claims: &Claims) -> Result<(), TokenError> {
        if claims.iss.as_deref() == Some(&self.issuer) { Ok(()) } else { Err(TokenError::Issuer) }
    }

    /// Of which pod a token is whose signature is right, and when it runs out.
    fn claims(&self, claims: Claims, now: i64) -> Result<(Bearer, i64), TokenError> {
        self.issued(&claims)?;
        // A token without an end is one of the old Secrets.
        let end = claims.exp.filter(|end| *end > now).ok_or(TokenError::Expired)?;
        if claims.nbf.is_some_and(|begin| begin > now.saturating_add(SKEW)) {
            return Err(TokenError::Early);
        }
        let bound = claims.kubernetes.ok_or(TokenError::Unbound)?;
        let pod = bound.pod.filter(|pod| !pod.name.is_empty()).ok_or(TokenError::Unbound)?;
        let account = format!("{ACCOUNT}{}:{}", bound.namespace, bound.serviceaccount.name);
        if claims.sub.as_deref() != Some(&account) || !is_account(&account) {
            return Err(TokenError::Unbound);
        }
        Ok((Bearer { account, pod: pod.name }, end))
    }
}

/// Whether a name is `system:serviceaccount:NAMESPACE:NAME`.
pub fn is_account(name: &str) -> bool {
    let parts = name.strip_prefix(ACCOUNT).and_then(|rest| rest.split_once(':'));
    parts.is_some_and(|(namespace, name)| !namespace.is_empty() && !name.is_empty() && !name.contains(':'))
}

fn read(token: &str) -> Result<Parts<'_>, TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::Form);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Form)?;
    let (header, claims) = message.split_once('.').ok_or(TokenError::Form)?;
    let header: Header = serde_json::from_slice(&decoded(header)?).map_err(|_| TokenError::Form)?;
    // Extensions that must be understood are not.
    if header.crit.is_some() || claims.contains('.') {
        return Err(TokenError::Form);
    }
    Ok(Parts { header, message: message.as_bytes(), claims, signature: decoded(signature)? })
}

fn decoded(text: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Form)
}
