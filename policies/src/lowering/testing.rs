//! What tests of capabilities share.

use super::*;
use crate::backend_tls::tests::node;
use crate::{Access, Input, InputKind};
use moorgate_model::diagnostic::policy::INPUT_MISSING;
use moorgate_model::{Origin, Position};
use prost::{Message, Name};

/// What every provider of these tests says of itself.
pub(crate) const DISCOVERY: &str = r#"{
  "authorization_endpoint": "https://idp.example/authorize",
  "issuer": "https://idp.example",
  "jwks_uri": "https://idp.example/keys",
  "token_endpoint": "https://idp.example/token"
}
"#;

/// A source in which every Service is there, ConfigMap `here` has one key `jwks`, every URL without `gone` in it
/// is declared, and nothing else is.
struct Shop;

impl World for Shop {
    fn backend(
        &mut self,
        policy: &Object,
        at: &FieldPath,
        backend: &BackendRef,
        http2: bool,
    ) -> Result<String, Box<Diagnostic>> {
        if backend.name == "gone" {
            return Err(Box::new(policy.diagnostic(
                &POLICY_INVALID,
                at.clone(),
                "Service gone is not there",
            )));
        }
        let end = if http2 { "+h2" } else { "" };
        Ok(format!("shop/{}/{}{end}", backend.name, backend.port.unwrap_or_default()))
    }

    fn outside(&mut self, host: &str, port: u16, tls: bool) -> Result<String, String> {
        if host == "localhost" {
            Err("a name of the proxy itself".into())
        } else {
            Ok(format!("{host}:{port}:{tls}"))
        }
    }

    fn input(
        &mut self,
        policy: &Object,
        at: &FieldPath,
        (kind, url): (InputKind, &str),
        _: &Access,
    ) -> Result<Input, Box<Diagnostic>> {
        let text = match kind {
            InputKind::Discovery => DISCOVERY,
            InputKind::Keys => crate::jwt::tests::KEYS,
            InputKind::Wasm => "\0asm",
        };
        let bytes = text.as_bytes().into();
        let declared = || Input { digest: "0".repeat(64), bytes };
        let lacks = || policy.diagnostic(&INPUT_MISSING, at.clone(), format!("{url} is not declared"));
        if url.contains("gone") { Err(Box::new(lacks())) } else { Ok(declared()) }
    }

    fn authority_text(&self, _: &str) -> Option<String> {
        None
    }

    fn variant(&mut self, _: &str, _: &str, _: &ClusterPolicies) {}

    fn together(&mut self, members: &[(String, u32)]) -> Result<String, String> {
        let named = members.iter().map(|(name, weight)| format!("{name}={weight}"));
        Ok(named.collect::<Vec<_>>().join("|"))
    }

    fn outside_signed(&mut self, host: &str, port: u16, bundle: &str) -> Result<String, String> {
        Ok(format!("{host}:{port}:{bundle}"))
    }

    fn config_map(&self, _: &str, name: &str) -> Result<BTreeMap<String, String>, String> {
        let texts = || BTreeMap::from([("jwks".to_owned(), crate::jwt::tests::KEYS.to_owned())]);
        (name == "here").then(texts).ok_or_else(|| format!("ConfigMap {name} is not in this source"))
    }

    fn secret(
        &self,
        policy: &Object,
        at: &FieldPath,
        secret: &SecretRef,
        _: &[&str],
    ) -> Result<String, Box<Diagnostic>> {
        if secret.name == "gone" {
            return Err(Box::new(policy.diagnostic(&POLICY_INVALID, at.clone(), "Secret gone is not there")));
        }
        Ok(secret.namespace.clone().unwrap_or_else(|| policy.reference.namespace.to_string()))
    }

    fn fits(&self, _: &str, _: &[u8], _: bool) -> Result<(), String> {
        Ok(())
    }

    fn regex(&self, text: &str) -> Result<(), String> {
        if text.matches('(').count() == text.matches(')').count() { Ok(()) } else { Err("not closed".into()) }
    }

    fn json(&self, text: &str) -> Option<Node> {
        serde_json::from_str(text).ok().map(|value: serde_json::Value| node(&value))
    }

    fn cel(&self, text: &str) -> Result<Vec<u8>, String> {
        let read = envoy_types::pb::cel::expr::ParsedExpr::default().encode_to_vec();
        if text.starts_with("not ") { Err("no expression".into()) } else { Ok(read) }
    }

    fn script_check(&self, _: &Object) -> ScriptCheck {
        ScriptCheck::default()
    }

    fn is_default(&self, _: &Object, field: &FieldPath) -> bool {
        field.to_string() == "spec.connection.maxAcceptPerSocketEvent"
    }

    fn allowed(&self, place: &str) -> Result<(), String> {
        if place == "localhost" { Err("a name of the proxy itself".into()) } else { Ok(()) }
    }

    fn certificate(&self, policy: &Object, at: &FieldPath) -> Result<String, Box<Diagnostic>> {
        let name = policy.root.at(&at.key("name")).and_then(Node::as_str).unwrap_or_default();
        Ok(format!("shop/{name}"))
    }

    fn trust_bundle(&self, object: &ObjectRef) -> TrustBundle {
        if &*object.name == "gone" { TrustBundle::Missing } else { TrustBundle::Usable }
    }
}

/// A source in which every Service is there.
pub(crate) fn world() -> impl World {
    Shop
}

/// The EnvoyProxy `shop/guard`.
pub(crate) fn parameters(spec: &str) -> Object {
    let mut object = object(Kind::Security, spec);
    object.reference = ObjectRef::new(crate::GROUP, "EnvoyProxy", "shop", "guard");
    object
}

/// The object `shop/guard` of a kind.
pub(crate) fn object(kind: Kind, spec: &str) -> Object {
    let value: serde_json::Value = serde_json::from_str(&format!("{{\"spec\":{spec}}}")).unwrap();
    Object {
        reference: ObjectRef::new(crate::GROUP, kind.name(), "shop", "guard"),
        version: crate::VERSION.into(),
        origin: Origin { file: "a.yaml".into(), start: Position::default(), rendered_from: None },
        root: node(&value),
    }
}

pub(crate) fn compile(kind: Kind, spec: &str) -> Compiled {
    compile_object(kind, &object(kind, spec))
}

pub(crate) fn compile_object(kind: Kind, object: &Object) -> Compiled {
    super::compile(kind, object, &mut Shop)
}

/// A policy that was merged with a wider one.
pub(crate) fn compile_merged(kind: Kind, narrow: &Object, wide: &Object, merged: &Object) -> Compiled {
    let (of_narrow, of_wide) = (compile_object(kind, narrow), compile_object(kind, wide));
    super::compile_merged(kind, (narrow, &of_narrow), (wide, &of_wide), merged, &mut Shop)
}

/// Codes and fields of all findings.
pub(crate) fn said(compiled: &Compiled) -> Vec<String> {
    compiled.findings.iter().map(|found| format!("{} {}", found.code.id, found.field)).collect()
}

/// What patches make of an empty message.
pub(crate) fn patched<M: Message + Default>(patches: &[Patch]) -> M {
    let bytes: Vec<u8> = patches.iter().flat_map(|patch| patch.message.clone()).collect();
    M::decode(bytes.as_slice()).unwrap()
}

/// What the routes of a policy say to a filter.
pub(crate) fn filter<M: Message + Default + Name>(compiled: &Compiled, file: &str, name: &str) -> M {
    let found = compiled.parts[file].filters.iter().find(|filter| filter.name == name).unwrap();
    assert_eq!(found.own.type_url, M::type_url());
    M::decode(found.own.value.as_slice()).unwrap()
}
