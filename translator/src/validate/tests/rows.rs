//! Odd values of routes and Gateways, each with the code that refuses it.

use super::{http_route, lines, one};
use crate::validate::{Channel, Options};
use serde_json::{Value as Json, json};

/// The codes that a spec is refused with, in the experimental channel.
fn codes(spec: &Json) -> Vec<String> {
    let options = Options { channel: Channel::Experimental, namespace: None };
    let (accepted, diagnostics) = one(&http_route(spec), &options);
    assert_eq!(accepted.is_some(), diagnostics.is_empty());
    let mut codes: Vec<String> = lines(&diagnostics).iter().map(|line| line[..6].to_owned()).collect();
    codes.dedup();
    codes
}

#[test]
fn host_names() {
    let long = format!("{}.com", "a.".repeat(130));
    for name in
        ["*", "*.*.x", "foo.*", "example.com.", "a_b.com", "EXAMPLE.com", "a..b", "a.com:80", "-a.com"]
    {
        assert_eq!(codes(&json!({ "hostnames": [name] })), ["MG2005"], "{name}");
    }
    assert!(codes(&json!({ "hostnames": [""] })).contains(&"MG2008".to_owned()));
    assert!(codes(&json!({ "hostnames": [long] })).contains(&"MG2008".to_owned()));
    for name in ["*.x", "a", "xn--bcher-kva.example", "1.example.com"] {
        assert_eq!(codes(&json!({ "hostnames": [name] })), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn numbers_and_counts() {
    let backend = |field: &str, value: Json| {
        let mut backend = json!({ "name": "a", "port": 80 });
        backend[field] = value;
        json!({ "rules": [{ "backendRefs": [backend] }] })
    };
    for (field, value, code) in [
        ("port", json!(0), "MG2007"),
        ("port", json!(65536), "MG2007"),
        ("port", json!(-1), "MG2007"),
        ("port", json!(80.5), "MG2001"),
        ("weight", json!(-1), "MG2007"),
        ("weight", json!(1_000_001), "MG2007"),
        ("port", Json::Null, "MG2011"),
    ] {
        assert_eq!(codes(&backend(field, value.clone())), [code], "{field}: {value}");
    }
    assert_eq!(codes(&backend("port", json!(80.0))), Vec::<String>::new());
    assert_eq!(codes(&json!({ "rules": vec![json!({}); 17] })), ["MG2009"]);
    assert_eq!(codes(&json!({ "rules": [{ "matches": vec![json!({}); 65] }] })), ["MG2009"]);
    assert_eq!(codes(&json!({ "rules": vec![json!({ "matches": vec![json!({}); 43] }); 3] })), ["MG2011"]);
    assert_eq!(codes(&json!({ "rules": [] })), ["MG2009"]);
    let mirror = |share: Json| {
        let mut mirror = json!({ "backendRef": { "name": "a", "port": 80 } });
        mirror.as_object_mut().unwrap().extend(share.as_object().unwrap().clone());
        json!({ "rules": [{ "filters": [{ "type": "RequestMirror", "requestMirror": mirror }] }] })
    };
    assert_eq!(codes(&mirror(json!({ "percent": 200 }))), ["MG2007"]);
    assert_eq!(codes(&mirror(json!({ "fraction": { "numerator": 1, "denominator": 0 } }))), ["MG2007"]);
    assert_eq!(codes(&mirror(json!({ "fraction": { "numerator": 101 } }))), ["MG2011"]);
    assert_eq!(codes(&mirror(json!({ "percent": 1, "fraction": { "numerator": 1 } }))), ["MG2011"]);
}

#[test]
fn paths_and_headers() {
    let path = |value: &str| json!({ "rules": [{ "matches": [{ "path": { "value": value } }] }] });
    for value in
        ["a", "/a//b", "/a/../b", "/a/..", "/%2F", "/a%2fb", "/a#b", "/a?b", "/a b", "/\u{e4}", "/%zz", ""]
    {
        assert_eq!(codes(&path(value)), ["MG2011"], "{value}");
    }
    assert_eq!(codes(&path("/a;b=c")), Vec::<String>::new());
    let header = |name: &str, value: &str| json!({ "rules": [{ "matches": [{ "headers": [{ "name": name, "value": value }] }] }] });
    for (name, value) in [("a b", "x"), ("a:", "x"), ("a\r\n", "x")] {
        assert_eq!(codes(&header(name, value)), ["MG2005"], "{name:?}");
    }
    let set = |value: &str| {
        let modifier = json!({ "set": [{ "name": "x", "value": value }] });
        json!({ "rules": [{ "filters": [{ "type": "RequestHeaderModifier", "requestHeaderModifier": modifier }] }] })
    };
    for value in ["a\r\nb: c", "a\u{0}", " a", ""] {
        assert!(!codes(&set(value)).is_empty(), "{value:?}");
    }
}

#[test]
fn durations_and_redirects() {
    let timeout = |request: &str, backend: &str| json!({ "rules": [{ "timeouts": { "request": request, "backendRequest": backend } }] });
    for bad in ["-1s", "1e9h", "5", "1d", "", "1.5s", "100000s", "1h1m1s1ms1s"] {
        assert_eq!(codes(&timeout(bad, "1s")), ["MG2005"], "{bad}");
    }
    assert_eq!(codes(&timeout("1s", "1500ms")), ["MG2011"]);
    for (request, backend) in [("1s", "1000ms"), ("0s", "1h"), ("0h0m", "1h"), ("1m", "0s"), ("1m30s", "89s")]
    {
        assert_eq!(codes(&timeout(request, backend)), Vec::<String>::new(), "{request} {backend}");
    }
    let redirect = |value: Json| json!({ "rules": [{ "filters": [{ "type": "RequestRedirect", "requestRedirect": value }] }] });
    assert_eq!(codes(&redirect(json!({ "scheme": "javascript" }))), ["MG2006"]);
    assert_eq!(codes(&redirect(json!({ "port": 0 }))), ["MG2007"]);
    assert_eq!(codes(&redirect(json!({ "statusCode": 200 }))), ["MG2006"]);
    let both = json!({ "rules": [{ "filters": [
        { "type": "RequestRedirect", "requestRedirect": {} }, { "type": "URLRewrite", "urlRewrite": {} }] }] });
    assert_eq!(codes(&both), ["MG2011"]);
}
