use super::*;
use crate::lowering::late::filled;
use crate::lowering::testing;
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::extensions::filters::http::oauth2::v3::o_auth2_credentials::TokenFormation;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use prost::Message as _;

/// A policy with these fields besides those that it needs.
fn spec(more: &str) -> String {
    format!(
        r#"{{"oidc": {{"provider": {{"issuer": "https://idp.example", "authorizationEndpoint": "https://idp.example/authorize",
            "tokenEndpoint": "https://idp.example/token"}}, "clientID": "shop", "clientSecret": {{"name": "login"}}{more}}}}}"#
    )
}

fn config(spec: &str) -> (OAuth2Config, crate::Lowered) {
    let compiled = testing::compile(Kind::Security, spec);
    assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
    let part = compiled.parts["oidc"].clone();
    let [filter] = part.filters.as_slice() else { panic!("one filter") };
    assert!(filter.is_whole());
    (OAuth2::decode(filter.base.value.as_slice()).unwrap().config.unwrap(), part)
}

#[test]
fn secrets_are_names_that_relays_answer() {
    let (found, part) = config(&spec(""));
    let credentials = found.credentials.unwrap();
    let Some(TokenFormation::HmacSecret(hmac)) = credentials.token_formation else { panic!("a secret") };
    let secret = credentials.token_secret.unwrap();
    assert_eq!(
        (secret.name.as_str(), hmac.name.as_str()),
        ("Secret/shop/login/client-secret", "Secret/shop/envoy-oidc-hmac/hmac-secret")
    );
    // Envoy waits for them without an end: it never works with an empty one.
    let wait = |found: &SdsWait| found.initial_fetch_timeout.map(|time| (time.seconds, time.nanos));
    assert_eq!(wait(&secret.sds_config.unwrap()), Some((0, 0)));
    let names: Vec<_> = part.late.iter().map(|value| value.name.as_str()).collect();
    assert_eq!(names, [secret.name.as_str(), hmac.name.as_str()]);
    let bytes = filled(&part.late[0].parts, &[("client-secret", "s3")]);
    let message = Secret::decode(bytes.as_slice()).unwrap();
    assert_eq!(message.name, secret.name);
    let Some(secret::Type::GenericSecret(generic)) = message.r#type else { panic!("a generic one") };
    let found = generic.secret.unwrap().specifier;
    assert_eq!(found, Some(Specifier::InlineBytes(b"s3".to_vec())));
    assert_eq!(part.clusters, ["idp.example:443:true"]);
}

type SdsWait = envoy_types::pb::envoy::config::core::v3::ConfigSource;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;

#[test]
fn what_is_not_written_is_declared() {
    let written = r#", "authorizationEndpoint": "https://idp.example/authorize",
            "tokenEndpoint": "https://idp.example/token""#;
    let declared = spec("").replace(written, "");
    assert_eq!(config(&declared).0, config(&spec("")).0, "the same as written");
    let own = spec("").replace(r#""authorizationEndpoint": "https://idp.example/authorize","#, "");
    let own = own.replace("https://idp.example/token", "https://idp.example/other");
    assert_eq!(config(&own).0.token_endpoint.unwrap().uri, "https://idp.example/other");
    for (issuer, said) in [("https://gone.example", "MG4030"), ("https://other.example", "MG4002")] {
        let text = declared.replace("https://idp.example", issuer);
        let compiled = testing::compile(Kind::Security, &text);
        let said = vec![format!("{said} spec.oidc.provider.issuer")];
        assert_eq!((testing::said(&compiled), compiled.closed), (said, true));
    }
}

#[test]
fn defaults_are_those_of_the_api() {
    let (found, _) = config(&spec(""));
    assert_eq!(found.redirect_uri, REDIRECT);
    assert_eq!(
        (found.redirect_path_matcher, found.signout_path),
        (Some(exact("/oauth2/callback")), Some(exact("/logout")))
    );
    assert_eq!(
        (found.auth_scopes, found.use_refresh_token),
        (vec!["openid".into()], Some(BoolValue { value: true }))
    );
    assert!(found.preserve_authorization_header && !found.forward_bearer_token);
    let cookies = found.credentials.unwrap().cookie_names.unwrap();
    assert!(cookies.oauth_hmac.starts_with("OauthHMAC-") && cookies.oauth_hmac.len() == 18);
}

#[test]
fn everything_that_is_said() {
    let (found, _) = config(&spec(
        r#", "scopes": ["openid", "email"], "resources": ["https://api.example"], "redirectURL": "https://shop.example/back", "logoutPath": "/bye",
            "cookieNames": {"accessToken": "A", "idToken": "I"}, "cookieDomain": "shop.example", "cookieConfig": {"sameSite": "Strict"},
            "denyRedirect": {"headers": [{"name": "X-Requested-With", "value": "fetch"}, {"name": "accept", "type": "Prefix", "value": "application/"}]},
            "forwardIDToken": {"header": "x-id"}, "forwardAccessToken": true, "defaultTokenTTL": "1h", "refreshToken": false,
            "defaultRefreshTokenTTL": "2h", "csrfTokenTTL": "5m", "disableTokenEncryption": true"#,
    ));
    assert_eq!(
        (found.redirect_path_matcher, found.signout_path),
        (Some(exact("/back")), Some(exact("/bye")))
    );
    assert_eq!(
        (found.auth_scopes.len(), found.resources.len(), found.deny_redirect_matcher.len()),
        (2, 1, 2)
    );
    let seconds = |time: Option<PbDuration>| time.map(|time| time.seconds);
    assert_eq!(
        [found.default_expires_in, found.default_refresh_token_expires_in, found.csrf_token_expires_in]
            .map(seconds),
        [Some(3600), Some(7200), Some(300)]
    );
    assert!(
        found.forward_bearer_token && !found.preserve_authorization_header && found.disable_token_encryption
    );
    assert_eq!(found.forward_id_token.unwrap().header, "x-id");
    assert_eq!(found.cookie_configs.unwrap().oauth_nonce_cookie_config.unwrap().same_site, 1);
    let credentials = found.credentials.unwrap();
    assert_eq!(
        (credentials.cookie_domain.as_str(), credentials.cookie_names.unwrap().bearer_token.as_str()),
        ("shop.example", "A")
    );
}

#[test]
fn whoever_shows_a_token_that_is_checked_needs_no_session() {
    let jwt = |from: &str| {
        let more = spec(r#", "passThroughAuthHeader": true"#);
        let keys = r#""localJWKS": {"inline": "{\"keys\": [{\"kty\": \"oct\", \"k\": \"YQ\"}]}"}"#;
        more.replacen('{', &format!(r#"{{"jwt": {{"providers": [{{"name": "a", {keys}{from}}}]}}, "#), 1)
    };
    let (found, _) = config(&jwt(""));
    assert_eq!(
        found.pass_through_matcher,
        [header("authorization", Some(MatchPattern::Prefix("Bearer ".into())))]
    );
    let (found, _) = config(&jwt(r#", "extractFrom": {"headers": [{"name": "X-Token"}]}"#));
    assert_eq!(found.pass_through_matcher, [header("x-token", None)]);
    // Whatever is no token would pass, too.
    let open = jwt("").replace(r#"{"jwt": {"#, r#"{"jwt": {"failOpen": true, "#);
    assert!(open.contains("failOpen"), "{open}");
    let open = testing::compile(Kind::Security, &open);
    assert_eq!(
        (testing::said(&open), open.closed),
        (vec!["MG4002 spec.oidc.passThroughAuthHeader".to_owned()], true)
    );
    let alone = testing::compile(Kind::Security, &spec(r#", "passThroughAuthHeader": true"#));
    assert_eq!(
        (testing::said(&alone), alone.closed),
        (vec!["MG4002 spec.oidc.passThroughAuthHeader".to_owned()], true)
    );
}

/// Who merges another `jwt` over a policy that lets its tokens pass: what passes is what is read.
#[test]
fn tokens_of_a_merged_policy_pass_as_it_reads_them() {
    let tokens = |from: &str| {
        format!(
            r#""jwt": {{"providers": [{{"name": "p", "remoteJWKS": {{"uri": "https://a.example/k"}}, "extractFrom": {from}}}]}}"#
        )
    };
    let login = spec(r#", "passThroughAuthHeader": true"#);
    let both = |from: &str| login.replace(r#"{"oidc""#, &format!(r#"{{{}, "oidc""#, tokens(from)));
    let (old, new, cookie) = (
        r#"{"headers": [{"name": "x-old"}]}"#,
        r#"{"headers": [{"name": "x-new"}]}"#,
        r#"{"cookies": ["t"]}"#,
    );
    let mut wide = testing::object(Kind::Security, &both(old));
    wide.reference = moorgate_model::ObjectRef::new(crate::GROUP, "SecurityPolicy", "infra", "wide");
    let of = |from: &str| {
        let narrow = testing::object(Kind::Security, &format!("{{{}}}", tokens(from)));
        testing::compile_merged(Kind::Security, &narrow, &wide, &testing::object(Kind::Security, &both(from)))
    };
    let found = of(new);
    assert!(found.findings.is_empty() && !found.closed, "{:?}", found.findings);
    let part = &found.parts["oidc"];
    let config = OAuth2::decode(part.filters[0].base.value.as_slice()).unwrap().config.unwrap();
    assert_eq!(config.pass_through_matcher, [header("x-new", None)]);
    // Its Secrets are those of the policy that names them.
    assert!(part.late.iter().all(|late| late.name.starts_with("Secret/infra/")), "{:?}", part.late);
    let nothing = of(cookie);
    assert!(nothing.closed && testing::said(&nothing) == ["MG4002 spec.oidc.passThroughAuthHeader"]);
}

#[test]
fn a_client_s_name_may_be_a_secret_too() {
    let text = spec("").replace(r#""clientID": "shop""#, r#""clientIDRef": {"name": "login"}"#);
    let compiled = testing::compile(Kind::Security, &text);
    assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
    let part = &compiled.parts["oidc"];
    let value = part.late.iter().find(|value| value.name == part.filters[0].name).unwrap();
    let bytes = filled(&value.parts, &[("client-id", "shop")]);
    let typed = TypedExtensionConfig::decode(bytes.as_slice()).unwrap().typed_config.unwrap();
    let late = OAuth2::decode(typed.value.as_slice()).unwrap();
    assert_eq!(late.config.unwrap(), config(&spec("")).0, "the same as written");
}

#[test]
fn what_cannot_be_carried_out_closes() {
    for (text, said) in [
        (
            spec("").replace("https://idp.example/token", "ftp://idp"),
            "MG4002 spec.oidc.provider.tokenEndpoint",
        ),
        (spec("").replace("\"login\"", "\"gone\""), "MG4002 spec.oidc.clientSecret"),
        (spec("").replace(r#""clientID": "shop", "#, ""), "MG4002 spec.oidc.clientID"),
        (spec(r#", "redirectURL": "https://shop.example/""#), "MG4002 spec.oidc.redirectURL"),
        (spec(r#", "redirectURL": "https://shop.example/%REQ(x)%""#), "MG4002 spec.oidc.redirectURL"),
        (spec(r#", "logoutPath": "/oauth2/callback""#), "MG4002 spec.oidc.logoutPath"),
        (spec(r#", "csrfTokenTTL": "x""#), "MG4002 spec.oidc.csrfTokenTTL"),
        (
            spec(r#", "denyRedirect": {"headers": [{"name": "a b", "value": "c"}]}"#),
            "MG4002 spec.oidc.denyRedirect.headers[0].name",
        ),
        (
            spec(r#", "forwardAccessToken": true, "forwardIDToken": {"header": "Authorization"}"#),
            "MG4002 spec.oidc.forwardAccessToken",
        ),
    ] {
        let compiled = testing::compile(Kind::Security, &text);
        assert_eq!((testing::said(&compiled), compiled.closed), (vec![said.to_owned()], true), "{text}");
        assert!(!compiled.parts.contains_key("oidc"));
    }
}
