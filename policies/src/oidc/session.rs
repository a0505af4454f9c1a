//! What a browser keeps of a session.

use crate::lowering::hash;
use envoy_types::pb::envoy::extensions::filters::http::oauth2::v3::cookie_config::SameSite;
use envoy_types::pb::envoy::extensions::filters::http::oauth2::v3::{
    CookieConfig as Cookie, CookieConfigs, OAuth2Credentials, o_auth2_credentials,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::SdsSecretConfig;
use serde::Deserialize;

/// `cookieNames`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CookieNames {
    access_token: Option<String>,
    id_token: Option<String>,
}

/// `cookieConfig`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CookieConfig {
    same_site: Option<String>,
}

/// The secrets, and cookies that no other policy has.
pub(super) fn credentials(
    (secret, hmac): (SdsSecretConfig, SdsSecretConfig),
    owner: &str,
    names: Option<&CookieNames>,
) -> OAuth2Credentials {
    let digest = hash(owner.as_bytes());
    let suffix = digest.get(..8).unwrap_or(&digest);
    let name = |name: &str| format!("{name}-{suffix}");
    let own = |found: Option<&String>, usual: &str| found.cloned().unwrap_or_else(|| name(usual));
    OAuth2Credentials {
        token_secret: Some(secret),
        token_formation: Some(o_auth2_credentials::TokenFormation::HmacSecret(hmac)),
        cookie_names: Some(o_auth2_credentials::CookieNames {
            bearer_token: own(names.and_then(|names| names.access_token.as_ref()), "AccessToken"),
            id_token: own(names.and_then(|names| names.id_token.as_ref()), "IdToken"),
            oauth_hmac: name("OauthHMAC"),
            oauth_expires: name("OauthExpires"),
            refresh_token: name("RefreshToken"),
            oauth_nonce: name("OauthNonce"),
            code_verifier: name("CodeVerifier"),
        }),
        ..Default::default()
    }
}

/// The same for all cookies.
pub(super) fn cookies(config: &CookieConfig) -> Option<CookieConfigs> {
    let same_site = match config.same_site.as_deref()? {
        "Lax" => SameSite::Lax,
        "Strict" => SameSite::Strict,
        _ => SameSite::None,
    };
    let cookie = || Some(Cookie { same_site: same_site.into(), ..Default::default() });
    Some(CookieConfigs {
        bearer_token_cookie_config: cookie(),
        oauth_hmac_cookie_config: cookie(),
        oauth_expires_cookie_config: cookie(),
        id_token_cookie_config: cookie(),
        refresh_token_cookie_config: cookie(),
        oauth_nonce_cookie_config: cookie(),
        code_verifier_cookie_config: cookie(),
    })
}
