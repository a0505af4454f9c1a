use super::*;
use crate::lowering::testing;
use prost::Message as _;

pub(crate) const KEYS: &str = r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#;

fn base(compiled: &crate::Compiled) -> JwtAuthentication {
    JwtAuthentication::decode(compiled.parts["jwt"].filters[0].base.value.as_slice()).unwrap()
}

#[test]
fn a_route_names_what_the_filter_requires() {
    let compiled = testing::compile(
        Kind::Security,
        r#"{"jwt": {"optional": true, "providers": [
            {"name": "a", "issuer": "https://a.example", "audiences": ["x"], "localJWKS": {"type": "Inline", "inline": "{\"keys\": [{\"kty\": \"EC\", \"crv\": \"P-256\", \"x\": \"YQ\", \"y\": \"YQ\"}]}"},
             "claimToHeaders": [{"claim": "sub", "header": "x-sub"}],
             "extractFrom": {"headers": [{"name": "x-token", "valuePrefix": "T "}], "cookies": ["c"], "params": ["p"]}},
            {"name": "b", "localJWKS": {"type": "ValueRef", "valueRef": {"group": "", "kind": "ConfigMap", "name": "here"}}},
            {"name": "c", "remoteJWKS": {"uri": "https://c.example/keys", "cacheDuration": "5m"}}]}}"#,
    );
    assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
    let base = base(&compiled);
    let own: PerRouteConfig = testing::filter(&compiled, "jwt", NAME);
    let Some(per_route_config::RequirementSpecifier::RequirementName(name)) = own.requirement_specifier
    else {
        panic!("a requirement")
    };
    let Some(jwt_requirement::RequiresType::RequiresAny(any)) = &base.requirement_map[&name].requires_type
    else {
        panic!("any of several")
    };
    assert_eq!((any.requirements.len(), base.providers.len()), (4, 3));
    let of = |name: &str| {
        let found = base.providers.iter().find(|(key, _)| key.starts_with(&format!("shop/guard/{name}/")));
        found.unwrap().1.clone()
    };
    let first = of("a");
    assert_eq!((first.from_headers.len(), first.from_cookies.len(), first.from_params.len()), (1, 1, 1));
    assert_eq!((first.payload_in_metadata.as_str(), first.forward), ("a", true));
    let Some(jwt_provider::JwksSourceSpecifier::RemoteJwks(remote)) = of("c").jwks_source_specifier else {
        panic!("remote keys")
    };
    assert_eq!(
        remote.http_uri.unwrap().http_upstream_type,
        Some(http_uri::HttpUpstreamType::Cluster("c.example:443:true".into()))
    );
    assert_eq!(compiled.parts["jwt"].clusters, ["c.example:443:true"]);
}

#[test]
fn pinned_keys_are_those_of_the_declared_input() {
    let of = |uri: &str, pinned: &str| {
        let spec =
            format!(r#"{{"jwt": {{"providers": [{{"name": "a", "remoteJWKS": {{"uri": "{uri}"}}}}]}}}}"#);
        let mut object = testing::object(Kind::Security, &spec);
        let metadata =
            format!(r#"{{"metadata": {{"annotations": {{"{PINNED}": "{pinned}"}}}}, "spec": {spec}}}"#);
        object.root = crate::backend_tls::tests::node(&serde_json::from_str(&metadata).unwrap());
        testing::compile_object(Kind::Security, &object)
    };
    let compiled = of("https://a.example/keys", "true");
    assert!(compiled.findings.is_empty() && compiled.parts["jwt"].clusters.is_empty(), "{compiled:?}");
    let provider = base(&compiled).providers.into_values().next().unwrap();
    let Some(jwt_provider::JwksSourceSpecifier::LocalJwks(keys)) = provider.jwks_source_specifier else {
        panic!("keys that are there")
    };
    assert_eq!(keys.specifier, Some(data_source::Specifier::InlineString(KEYS.into())));
    // Without the input nobody may pass, and without the annotation Envoy asks.
    let missing = of("https://gone.example/keys", "true");
    assert_eq!(testing::said(&missing), ["MG4030 spec.jwt.providers[0].remoteJWKS.uri"]);
    assert!(missing.closed);
    assert_eq!(of("https://a.example/keys", "false").parts["jwt"].clusters, ["a.example:443:true"]);
}

#[test]
fn a_route_that_is_looked_for_again_is_marked() {
    let of = |recompute: &str| {
        let spec = format!(
            r#"{{"jwt": {{"providers": [{{"name": "a", {recompute} "claimToHeaders": [{{"header": "x-a", "claim": "a"}}],
            "localJWKS": {{"inline": "{{\"keys\": [{{\"kty\": \"oct\", \"k\": \"YQ\"}}]}}"}}}}]}}}}"#
        );
        let compiled = testing::compile(Kind::Security, &spec);
        assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
        let provider = base(&compiled).providers.into_values().next().unwrap();
        let field = compiled.parts["jwt"].recomputes.as_ref().map(|(.., field)| field.to_string());
        (provider.clear_route_cache, field)
    };
    assert_eq!(
        of(r#""recomputeRoute": true,"#),
        (true, Some("spec.jwt.providers[0].recomputeRoute".to_owned()))
    );
    assert_eq!((of(r#""recomputeRoute": false,"#), of("")), ((false, None), (false, None)));
}

#[test]
fn what_cannot_be_carried_out_closes() {
    let provider = |text: &str| format!(r#"{{"jwt": {{"providers": [{{"name": "a", {text}}}]}}}}"#);
    for (spec, said) in [
        (r#"{"jwt": {"providers": []}}"#.to_owned(), "MG4002 spec.jwt.providers"),
        (provider(r#""issuer": "x""#), "MG4002 spec.jwt.providers[0]"),
        (provider(r#""remoteJWKS": {"uri": "ftp://a"}"#), "MG4002 spec.jwt.providers[0].remoteJWKS.uri"),
        (
            provider(r#""remoteJWKS": {"uri": "https://localhost/k"}"#),
            "MG4002 spec.jwt.providers[0].remoteJWKS.uri",
        ),
        (
            provider(r#""localJWKS": {"valueRef": {"kind": "ConfigMap", "name": "gone"}}"#),
            "MG4002 spec.jwt.providers[0].localJWKS.valueRef.name",
        ),
        // Host and listener are Envoy's own matter.
        (
            provider(
                r#""claimToHeaders": [{"header": "Host", "claim": "c"}], "remoteJWKS": {"uri": "https://a.example/k"}"#,
            ),
            "MG4002 spec.jwt.providers[0].claimToHeaders",
        ),
        (
            provider(
                r#""claimToHeaders": [{"header": "X-Moorgate-Listener", "claim": "c"}], "remoteJWKS": {"uri": "https://a.example/k"}"#,
            ),
            "MG4002 spec.jwt.providers[0].claimToHeaders",
        ),
        (provider(r#""localJWKS": {"inline": "{\"keys\": []}"}"#), "MG4002 spec.jwt.providers[0].localJWKS"),
        (
            provider(
                r#""localJWKS": {"inline": "{\"keys\": [{\"kty\": \"RSA\", \"n\": \"!\", \"e\": \"AQAB\"}]}"}"#,
            ),
            "MG4002 spec.jwt.providers[0].localJWKS",
        ),
        (
            provider(
                r#""claimToHeaders": [{"header": "a b", "claim": "c"}], "remoteJWKS": {"uri": "https://a.example/k"}"#,
            ),
            "MG4002 spec.jwt.providers[0].claimToHeaders",
        ),
    ] {
        let compiled = testing::compile(Kind::Security, &spec);
        assert_eq!((testing::said(&compiled), compiled.closed), (vec![said.to_owned()], true), "{spec}");
    }
}

#[test]
fn addresses_of_servers() {
    assert_eq!(address("https://a.example/k?x=1"), Some((true, "a.example", 443)));
    assert_eq!(address("http://a.example:8080"), Some((false, "a.example", 8080)));
    for wrong in ["a.example", "https://", "https://a:b/", "https://u@a.example/", "https://[::1]/"] {
        assert_eq!(address(wrong), None, "{wrong}");
    }
}
