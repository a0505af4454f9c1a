//! Tokens: what counts and what does not, and how keys are renewed.

use crate::issuer::{END, ISSUER, Issuer, claims, key_set, unsigned};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moorgate_relay::serve::token::{Bearer, KeySet, KeySource, Keys, TokenError, Tokens, bearer};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Made once by `openssl`; the private key is gone. It ends in 2033 for whoever asks the clock.
const RSA_MODULUS: &str = "zL6F_QdnHiq4TUuSrT2VGWEt1tMkClevIkZzgLOTDbmdYKO9VUulu5Bg_SWrz2tssx_0hoyCHtXI6ikw_ZnLnFmnHCaxMjoL9s4O\
    99lI4YAAcT7DrmZA60Ri6zXBkz_ZQ04P8zMwq8WMz5UP6B-58SHrnntZh2vd2nYLMunpNpfU2_d_XSL9mmNkSwSmQdDoT30j_eaa\
    l7AsglgxHuYJOO2Zshq13UaZdIu9wKzMT9Dc7AP_U37IX_6b_-HGGb5NkQULzFLKphcYG8u2pbF4kuMBnMn-s07hUQkGWX_V7xtz\
    1G5L0zryHGc8v-Zduzh8udC3F7ugmTcz48yQ7umYvQ";
const RSA_TOKEN: &str = "eyJhbGciOiAiUlMyNTYiLCAia2lkIjogInJzYSJ9.eyJpc3MiOiAiaHR0cHM6Ly9pc3N1ZXIuZXhhbXBsZSIsICJzdWIiOiAic3l\
    zdGVtOnNlcnZpY2VhY2NvdW50OnNob3A6ZW52b3kiLCAiYXVkIjogWyJtb29yZ2F0ZS1yZWxheSJdLCAiZXhwIjogMjAwMDAwMDA\
    wMCwgImt1YmVybmV0ZXMuaW8iOiB7Im5hbWVzcGFjZSI6ICJzaG9wIiwgInNlcnZpY2VhY2NvdW50IjogeyJuYW1lIjogImVudm9\
    5IiwgInVpZCI6ICIxIn0sICJwb2QiOiB7Im5hbWUiOiAiZWRnZS0xIiwgInVpZCI6ICIyIn19fQ.vDJMpVxc7v9Bu_OEKwQZjONj\
    OsiYmF5XNpai1QR7S4gk-sRz2TxZaKVMScQsam4RIgKHG3xrfrJXz4gpbQr-MXWIuksfx_NUVDcePBkrIFpoqx8l0tj2FQjgA_Lu\
    lmxQ8WOknJJn-R4N0w1VAt-x0vZs5maStCpY32VWvWQIxHvzrdiQ7VXjL4RqiiqJtDDWBZGpwY11J4lFR-Oq3QFVfbz9ipBJZs_z\
    o5iCuFyQuFq-XqycHedyrhFJwZ2ecXCJ4xdfVG32om6dOcmPPO_4UhnstJJwNB07xyK1YXn_N5Em5z6Askyae7OC0A1PJvhpSKtg\
    eaua4c9UxoHA5qB9NQ";

async fn tokens(path: &Path) -> Tokens {
    let keys = Keys::open(KeySource::File(path.to_owned())).await.unwrap();
    Tokens { issuer: ISSUER.into(), audience: "moorgate-relay".into(), keys }
}

/// The claims of a good token with one of them changed; null takes it away.
fn with(name: &str, value: Value) -> Value {
    let mut all = claims("shop:envoy");
    if value.is_null() {
        all.as_object_mut().unwrap().remove(name);
    } else {
        all[name] = value;
    }
    all
}

fn bound(change: impl Fn(&mut Value)) -> Value {
    let mut all = claims("shop:envoy");
    change(&mut all["kubernetes.io"]);
    all
}

#[tokio::test]
async fn only_a_pods_own_fresh_token_for_relays_counts() {
    let (ours, stranger) = (Issuer::new("ours"), Issuer::new("ours"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, key_set(&[&ours])).unwrap();
    let tokens = tokens(&path).await;
    let good = ours.token("shop:envoy");
    let sign = |claims: &Value| ours.sign(&ours.header(), claims);
    let header = |header: Value| ours.sign(&header, &claims("shop:envoy"));
    let (head, rest) = good.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    let other_body = unsigned(&ours.header(), &claims("shop:other")).split_once('.').unwrap().1.to_owned();
    let none = unsigned(&json!({"alg": "none", "kid": "ours"}), &claims("shop:envoy"));
    // Signed with the public key as if it were a shared secret: the well-known confusion of methods.
    let hmac = {
        let point = ours.public()["x"].as_str().unwrap().to_owned();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, point.as_bytes());
        let message = unsigned(&json!({"alg": "HS256", "kid": "ours"}), &claims("shop:envoy"));
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, message.as_bytes())))
    };
    let cases: Vec<(&str, String, TokenError)> = vec![
        ("empty", String::new(), TokenError::Form),
        ("no parts", "a".into(), TokenError::Form),
        ("two parts", format!("{head}.{body}"), TokenError::Form),
        ("four parts", format!("{good}.x"), TokenError::Form),
        ("too long", format!("{good}{}", "A".repeat(16 << 10)), TokenError::Form),
        ("no base64", format!("!.{body}.{signature}"), TokenError::Form),
        ("padding", format!("{head}=.{body}.{signature}"), TokenError::Form),
        ("alg none", format!("{none}."), TokenError::Algorithm),
        ("alg none, signed", header(json!({"alg": "none", "kid": "ours"})), TokenError::Algorithm),
        ("a shared secret", hmac, TokenError::Algorithm),
        ("another method", header(json!({"alg": "RS256", "kid": "ours"})), TokenError::Algorithm),
        ("no key named", header(json!({"alg": "ES256"})), TokenError::Key),
        ("unknown key", header(json!({"alg": "ES256", "kid": "theirs"})), TokenError::Key),
        ("extensions", header(json!({"alg": "ES256", "kid": "ours", "crit": ["x"]})), TokenError::Form),
        ("a stranger's signature", stranger.token("shop:envoy"), TokenError::Signature),
        ("other claims", format!("{head}.{other_body}.{signature}"), TokenError::Signature),
        ("no signature", format!("{head}.{body}."), TokenError::Signature),
        ("wrong issuer", sign(&with("iss", json!("https://other.example"))), TokenError::Issuer),
        ("no issuer", sign(&with("iss", Value::Null)), TokenError::Issuer),
        ("the API server's audience", sign(&with("aud", json!([ISSUER]))), TokenError::Audience),
        ("the store's audience", sign(&with("aud", json!("moorgate-store"))), TokenError::Audience),
        ("no audience", sign(&with("aud", Value::Null)), TokenError::Audience),
        ("no end", sign(&with("exp", Value::Null)), TokenError::Expired),
        ("expired", sign(&with("exp", json!(1000))), TokenError::Expired),
        ("not yet", sign(&with("nbf", json!(END))), TokenError::Early),
        ("a user", sign(&with("sub", json!("admin"))), TokenError::Unbound),
        (
            "another account",
            sign(&with("sub", json!("system:serviceaccount:shop:other"))),
            TokenError::Unbound,
        ),
        ("not bound", sign(&with("kubernetes.io", Value::Null)), TokenError::Unbound),
        ("no pod", sign(&bound(|b| b["pod"] = Value::Null)), TokenError::Unbound),
        ("another namespace", sign(&bound(|b| b["namespace"] = json!("other"))), TokenError::Unbound),
        ("an odd name", sign(&bound(|b| b["serviceaccount"]["name"] = json!("a:b"))), TokenError::Unbound),
    ];
    for (what, token, expected) in cases {
        assert_eq!(tokens.judge(&token, 1000).await, Err(expected), "{what}");
    }
    let of_envoy = Bearer { account: "system:serviceaccount:shop:envoy".into(), pod: "envoy-0".into() };
    assert_eq!(tokens.judge(&good, END - 1).await, Ok(of_envoy.clone()));
    assert_eq!(tokens.judge(&good, END).await, Err(TokenError::Expired));
    let one = sign(&with("aud", json!("moorgate-relay")));
    assert_eq!(tokens.judge(&one, 1000).await, Ok(of_envoy));
}

#[tokio::test]
async fn rsa_keys_count_as_api_servers_use_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let key =
        json!({"kty": "RSA", "kid": "rsa", "use": "sig", "alg": "RS256", "n": RSA_MODULUS, "e": "AQAB"});
    std::fs::write(&path, json!({"keys": [key]}).to_string()).unwrap();
    let tokens = tokens(&path).await;
    assert_eq!(tokens.judge(RSA_TOKEN, 1000).await.unwrap().pod, "edge-1");
    let (message, signature) = RSA_TOKEN.rsplit_once('.').unwrap();
    let forged = format!("{message}.{}", signature.replace('A', "B"));
    assert_eq!(tokens.judge(&forged, 1000).await, Err(TokenError::Signature));
}

/// A new key counts as soon as a token names it, and an old one until the file lacks it.
#[tokio::test(start_paused = true)]
async fn keys_are_rotated_without_a_restart() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, key_set(&[&old])).unwrap();
    let tokens = tokens(&path).await;
    assert_eq!(tokens.judge(&new.token("a:b"), 1000).await, Err(TokenError::Key));
    std::fs::write(&path, key_set(&[&old, &new])).unwrap();
    tokio::time::advance(Duration::from_millis(999)).await;
    assert_eq!(tokens.judge(&new.token("a:b"), 1000).await, Err(TokenError::Key), "a flood reads no files");
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(tokens.judge(&new.token("a:b"), 1000).await.is_ok());
    assert!(tokens.judge(&old.token("a:b"), 1000).await.is_ok());
    // What cannot be read takes nothing back.
    for damaged in ["", "{}", r#"{"keys":[]}"#, "garbage"] {
        std::fs::write(&path, damaged).unwrap();
        assert!(tokens.keys.refresh().await.is_err(), "{damaged}");
        assert!(tokens.judge(&new.token("a:b"), 1000).await.is_ok());
    }
    std::fs::write(&path, key_set(&[&new])).unwrap();
    tokens.keys.refresh().await.unwrap();
    assert_eq!(tokens.judge(&old.token("a:b"), 1000).await, Err(TokenError::Key));
    assert!(tokens.judge(&new.token("a:b"), 1000).await.is_ok());
}

#[tokio::test]
async fn key_sets_hold_what_counts_and_nothing_else() {
    let good = Issuer::new("good").public();
    let changed = |name: &str, value: &str| {
        let mut key = good.clone();
        key[name] = json!(value);
        key
    };
    for bad in [
        json!({"kty": "oct", "kid": "good", "k": "c2VjcmV0"}),
        changed("use", "enc"),
        changed("alg", "ES384"),
        changed("crv", "secp256k1"),
        changed("x", "AAAA"),
        changed("x", "not base64"),
        json!({"kty": "RSA", "kid": "good", "n": RSA_MODULUS}),
    ] {
        assert!(KeySet::parse(json!({"keys": [&bad]}).to_string().as_bytes()).is_err(), "{bad}");
        let both = KeySet::parse(json!({"keys": [bad, good]}).to_string().as_bytes()).unwrap();
        assert_eq!(both.len(), 1);
    }
    assert!(KeySet::parse(&vec![b' '; 1 << 20]).is_err());
    let missing = Keys::open(KeySource::File("/nonexistent/jwks.json".into())).await.unwrap_err();
    assert!(missing.to_string().contains("/nonexistent/jwks.json"));
}

#[test]
fn a_request_has_one_bearer_token() {
    let headers = |values: &[&str]| {
        let mut map = http::HeaderMap::new();
        for value in values {
            map.append("authorization", value.parse().unwrap());
        }
        map
    };
    assert_eq!(bearer(&headers(&["Bearer x.y.z"])), Ok("x.y.z"));
    assert_eq!(bearer(&headers(&["bearer x"])), Ok("x"));
    for values in [&[][..], &["x.y.z"], &["Basic x"], &["Bearer x", "Bearer y"]] {
        assert_eq!(bearer(&headers(values)), Err(TokenError::Absent), "{values:?}");
    }
}
