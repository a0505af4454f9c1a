//! How clients prove who they are, as it is configured.

use super::{ConfigError, wrong};
use crate::serve::listen::Peers;
use crate::serve::tls::Files;
use crate::serve::token;
use moorgate_snapshot::FleetName;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where the public keys of tokens come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenKeys {
    /// A file.
    File(PathBuf),
    /// The API server that `--kubernetes` names.
    Kubernetes,
}

/// Which tokens count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenOptions {
    /// Whose signatures.
    pub keys: TokenKeys,
    /// Who gives them out.
    pub issuer: String,
    /// Whom they are meant for.
    pub audience: String,
}

pub(super) fn tokens(
    keys: Option<String>,
    issuer: Option<String>,
    audience: Option<String>,
) -> Result<Option<TokenOptions>, ConfigError> {
    let (keys, issuer) = match (keys, issuer) {
        (Some(keys), Some(issuer)) => (keys, issuer),
        (None, None) if audience.is_none() => return Ok(None),
        _ => return Err(ConfigError::Together("--token-keys and --token-issuer go together")),
    };
    let keys = match (keys.as_str(), keys.strip_prefix("file:").filter(|path| !path.is_empty())) {
        (_, Some(path)) => TokenKeys::File(path.into()),
        ("kubernetes", None) if cfg!(feature = "kubernetes") => TokenKeys::Kubernetes,
        ("kubernetes", None) => {
            return Err(ConfigError::Together(
                "--token-keys kubernetes: this relay was built without the feature kubernetes",
            ));
        }
        _ => return Err(wrong("token-keys", &keys, "write file:PATH or kubernetes")),
    };
    if issuer.is_empty() || audience.as_deref() == Some("") {
        return Err(ConfigError::Together("--token-issuer and --token-audience are not empty"));
    }
    let audience = audience.unwrap_or_else(|| token::AUDIENCE.to_owned());
    Ok(Some(TokenOptions { keys, issuer, audience }))
}

/// Tokens and certificates are of worth to whoever overhears them, so neither goes without TLS.
pub(super) fn tls(
    own: (Option<PathBuf>, Option<PathBuf>),
    client_ca: Option<PathBuf>,
    tokens: bool,
) -> Result<Option<Files>, ConfigError> {
    match (own, client_ca) {
        ((Some(certificate), Some(key)), client_ca) if tokens || client_ca.is_some() => {
            Ok(Some(Files { certificate, key, client_ca, tokens }))
        }
        ((None, None), None) if !tokens => Ok(None),
        ((None, None), _) if tokens => {
            Err(ConfigError::Together("--token-keys needs TLS: --tls-cert and --tls-key"))
        }
        _ => Err(ConfigError::Together(
            "--tls-cert, --tls-key and --client-ca go together; --token-keys takes the place of --client-ca",
        )),
    }
}

pub(super) fn check_members(
    members: &BTreeMap<String, FleetName>,
    tls: Option<&Files>,
) -> Result<(), ConfigError> {
    for name in members.keys() {
        let account = name.starts_with(token::ACCOUNT);
        if account && !token::is_account(name) {
            return Err(wrong("member", name, "write system:serviceaccount:NAMESPACE:NAME=FLEET"));
        }
        if account && !tls.is_some_and(|files| files.tokens) {
            return Err(ConfigError::Together("--member of a ServiceAccount goes with --token-keys"));
        }
        if !account && tls.is_none_or(|files| files.client_ca.is_none()) {
            return Err(ConfigError::Together("--member of a certificate goes with --client-ca"));
        }
    }
    Ok(())
}

/// `uid=101&gid=5`.
pub(super) fn peers(query: &str) -> Result<Peers, &'static str> {
    let mut peers = Peers::default();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (key, number) = part.split_once('=').unwrap_or((part, ""));
        let number = number.parse().map_err(|_| "write ?uid=NUMBER&gid=NUMBER")?;
        match key {
            "uid" => peers.users.insert(number),
            "gid" => peers.groups.insert(number),
            _ => return Err("write ?uid=NUMBER&gid=NUMBER"),
        };
    }
    Ok(peers)
}
