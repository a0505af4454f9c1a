//! Secrets: they are named, and whoever serves Envoy puts them in. Nothing here ever sees a value.

use super::{Lowering, extension, milliseconds};
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, ConfigSource, ExtensionConfigSource, TypedExtensionConfig,
};
use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{SdsSecretConfig, Secret};
use envoy_types::pb::google::protobuf::Any;
use moorgate_model::FieldPath;
use moorgate_model::ir::{Extension, LateForm, LatePart, LateService, LateValue, RouteFilter};
use prost::Message;
use serde::Deserialize;
use std::time::Duration;

/// A reference to a Secret, as policies write it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SecretRef {
    /// The API group, empty for core.
    #[serde(default)]
    pub group: String,
    /// The kind.
    #[serde(default = "kind")]
    pub kind: String,
    /// The name.
    pub name: String,
    /// The namespace, if it is another one.
    pub namespace: Option<String>,
}

fn kind() -> String {
    "Secret".into()
}

/// A Secret that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    namespace: String,
    name: String,
}

/// How long Envoy waits for the configuration of a filter; without it the filter lets nothing pass.
const FETCH: Duration = Duration::from_secs(3);
/// `GenericSecret` in `Secret`, its `secret`, and the bytes in that.
const GENERIC: [u32; 3] = [5, 1, 2];
/// `typed_config` in `TypedExtensionConfig`, and the message in that.
const TYPED: [u32; 2] = [2, 2];

impl Named {
    /// As `namespace/name`.
    pub(crate) fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn object(&self) -> (String, String, String) {
        ("Secret".to_owned(), self.namespace.clone(), self.name.clone())
    }
}

impl Lowering<'_> {
    /// The Secret behind a reference, if it may be used and has these keys, as far as that is known. Without it the policy
    /// is not valid.
    pub(crate) fn secret(&mut self, at: &FieldPath, reference: &SecretRef, keys: &[&str]) -> Option<Named> {
        if !reference.group.is_empty() || reference.kind != "Secret" {
            self.invalid(at.key("kind"), "it is taken from a Secret");
            return None;
        }
        match self.world.secret(self.object, at, reference, keys) {
            Ok(namespace) => Some(Named { namespace, name: reference.name.clone() }),
            Err(finding) => {
                self.invalid.get_or_insert_with(|| finding.message.clone());
                self.failed = true;
                self.closed |= self.kind.restricts(at);
                self.findings.push(*finding);
                None
            }
        }
    }

    /// A Secret's entry by the name under which Envoy asks for it. It is always answered, with random bytes while there is
    /// nothing else, so Envoy waits for it without an end: it never works with an empty one.
    pub(crate) fn sds(&mut self, secret: &Named, key: &str) -> SdsSecretConfig {
        let name = format!("Secret/{}/{}/{key}", secret.namespace, secret.name);
        let entry =
            LatePart::Entry { object: 0, key: key.to_owned(), form: LateForm::Opaque, or_random: true };
        let inner =
            GENERIC.iter().rev().fold(vec![entry], |parts, number| vec![LatePart::Field(*number, parts)]);
        let named = Secret { name: name.clone(), ..Default::default() };
        let parts = [LatePart::Bytes(named.encode_to_vec())].into_iter().chain(inner).collect();
        let service = LateService::Secret;
        self.late(LateValue { name: name.clone(), service, objects: vec![secret.object()], parts });
        SdsSecretConfig { name, sds_config: Some(ads(Duration::ZERO)) }
    }

    /// A filter that stands on listeners under a name of its own, with these parts of its message: those routes have it that
    /// this policy is for, and nothing passes while its Secrets are not there.
    pub(crate) fn secret_filter(
        &mut self,
        (name, place): (&str, u16),
        type_url: String,
        secrets: &[Named],
        inner: Vec<LatePart>,
    ) {
        let any = Any { type_url: type_url.clone(), value: Vec::new() };
        let named = TypedExtensionConfig { name: name.to_owned(), typed_config: None };
        let [outer, value] = TYPED;
        let config = vec![LatePart::Bytes(any.encode_to_vec()), LatePart::Field(value, inner)];
        let parts = vec![LatePart::Bytes(named.encode_to_vec()), LatePart::Field(outer, config)];
        let objects = secrets.iter().map(Named::object).collect();
        self.late(LateValue { name: name.to_owned(), service: LateService::Extension, objects, parts });
        let source = ExtensionConfigSource {
            config_source: Some(ads(FETCH)),
            type_urls: vec![type_url],
            ..Default::default()
        };
        self.whole_filter((name, place), extension(&source));
    }

    /// A filter that stands on listeners whole, and is switched on by routes.
    pub(crate) fn whole_filter(&mut self, (name, place): (&str, u16), base: Extension) {
        self.out.filters.push(whole((name, place), base));
    }

    /// A name that no other policy's part has: `kind/namespace/name/part` without the kind's common end.
    pub fn own_name(&self, part: &str) -> String {
        let reference = &self.object.reference;
        format!("{}/{}/{part}", reference.namespace, reference.name)
    }

    /// The name of a filter that no other policy has, nor the same one merged with another.
    pub(crate) fn filter_name(&self, filter: &str, parts: &[LatePart]) -> String {
        let digest = super::fingerprint(&parts);
        format!("{filter}/{}", self.own_name(&digest))
    }

    fn late(&mut self, value: LateValue) {
        self.out.late.push(value);
    }
}

/// A filter that stands on listeners whole, and is switched on by routes.
pub(crate) fn whole((name, place): (&str, u16), base: Extension) -> RouteFilter {
    let on = FilterConfig { config: Some(Any::default()), ..Default::default() };
    let off = FilterConfig { disabled: true, ..Default::default() };
    let (own, off) = (extension(&on), Some(extension(&off)));
    RouteFilter { place, name: name.to_owned(), base, own, off }
}

/// Parts around the bytes of a message, none if it has none.
pub(crate) fn bytes<M: Message>(message: &M) -> Option<LatePart> {
    let bytes = message.encode_to_vec();
    (!bytes.is_empty()).then_some(LatePart::Bytes(bytes))
}

/// The stream that the listener itself came from.
fn ads(wait: Duration) -> ConfigSource {
    ConfigSource {
        initial_fetch_timeout: Some(milliseconds(wait)),
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    }
}

/// What relays make of a value whose secrets are these, for tests of capabilities: the entry of a key, or all entries.
#[cfg(test)]
pub(crate) fn filled(parts: &[LatePart], entries: &[(&str, &str)]) -> Vec<u8> {
    fn fill(parts: &[LatePart], entries: &[(&str, &str)], each: Option<(&str, &str)>) -> Vec<u8> {
        let mut out = Vec::new();
        for part in parts {
            match part {
                LatePart::Bytes(bytes) => out.extend_from_slice(bytes),
                LatePart::Field(number, parts) => {
                    let inner = fill(parts, entries, each);
                    prost::encoding::bytes::encode(*number, &inner, &mut out);
                }
                LatePart::Entry { key, .. } => {
                    let found = entries.iter().find(|(name, _)| name == key).unwrap();
                    out.extend_from_slice(found.1.as_bytes());
                }
                LatePart::Each(parts) => {
                    entries.iter().for_each(|entry| out.extend(fill(parts, entries, Some(*entry))));
                }
                LatePart::Name => out.extend_from_slice(each.unwrap().0.as_bytes()),
                LatePart::Value => out.extend_from_slice(each.unwrap().1.as_bytes()),
            }
        }
        out
    }
    fill(parts, entries, None)
}
