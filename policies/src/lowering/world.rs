//! What lowering may ask of the rest of the source.

use super::{BackendRef, ScriptCheck, SecretRef};
use crate::{Access, Input, InputKind, TrustBundle};
use moorgate_model::ir::ClusterPolicies;
use moorgate_model::{Diagnostic, FieldPath, Node, Object, ObjectRef};
use std::collections::BTreeMap;

/// What lowering may ask of the rest of the source.
pub trait World {
    /// The cluster of a backend that the policy refers to at a field; `http2` for gRPC.
    ///
    /// # Errors
    /// It is not there, not permitted, or cannot be used.
    fn backend(
        &mut self,
        policy: &Object,
        at: &FieldPath,
        backend: &BackendRef,
        http2: bool,
    ) -> Result<String, Box<Diagnostic>>;

    /// The cluster of a server outside, by name and port; TLS is verified against the roots of Envoy's image.
    ///
    /// # Errors
    /// The name is one of the proxy's own machine or network.
    fn outside(&mut self, host: &str, port: u16, tls: bool) -> Result<String, String>;

    /// What a URL gave when its input was declared, in the namespace of the policy. That it was asked for is noted, declared
    /// or not.
    ///
    /// # Errors
    /// It is not declared, or cannot be used.
    fn input(
        &mut self,
        policy: &Object,
        at: &FieldPath,
        wanted: (InputKind, &str),
        access: &Access,
    ) -> Result<Input, Box<Diagnostic>>;

    /// CA certificates in PEM by their name, `Kind/namespace/name`, if the source has them.
    fn authority_text(&self, bundle: &str) -> Option<String>;

    /// A cluster like another one, under a name of its own, with what policies add to it.
    fn variant(&mut self, cluster: &str, name: &str, policies: &ClusterPolicies);

    /// The cluster of several clusters of backends together, by their weights.
    ///
    /// # Errors
    /// They do not fit together.
    fn together(&mut self, members: &[(String, u32)]) -> Result<String, String>;
    /// The same, where the server must be signed by a bundle of CA certificates, by its SDS name.
    ///
    /// # Errors
    /// The name is one of the proxy's own machine or network.
    fn outside_signed(&mut self, host: &str, port: u16, bundle: &str) -> Result<String, String>;

    /// The texts of a ConfigMap, or why there are none.
    ///
    /// # Errors
    /// It is not in the source.
    fn config_map(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, String>, String>;

    /// The namespace of the Secret that a policy refers to at a field.
    ///
    /// # Errors
    /// It is not there, not permitted, or lacks one of the keys.
    fn secret(
        &self,
        policy: &Object,
        at: &FieldPath,
        secret: &SecretRef,
        keys: &[&str],
    ) -> Result<String, Box<Diagnostic>>;

    /// Whether an object can serve as a bundle of CA certificates.
    fn trust_bundle(&self, object: &ObjectRef) -> TrustBundle;

    /// Whether proxies may connect to an address, a name, or the path of a socket.
    ///
    /// # Errors
    /// They may not; says why.
    fn allowed(&self, place: &str) -> Result<(), String>;

    /// The SDS name of a certificate for a reference that a policy has at a field.
    ///
    /// # Errors
    /// It is not there, not permitted, or cannot be used.
    fn certificate(&self, policy: &Object, at: &FieldPath) -> Result<String, Box<Diagnostic>>;

    /// Whether a message breaks none of Envoy's rules for its fields. Of one that is put over another (not `whole`) what it
    /// sets is judged.
    ///
    /// # Errors
    /// It breaks one; says which, and where.
    fn fits(&self, type_url: &str, message: &[u8], whole: bool) -> Result<(), String>;

    /// Whether Envoy takes a text for a regular expression (RE2).
    ///
    /// # Errors
    /// It is none, or too large; says why.
    fn regex(&self, text: &str) -> Result<(), String>;

    /// A text of JSON, read; none if it is none.
    fn json(&self, text: &str) -> Option<Node>;

    /// An expression of CEL as an encoded `cel.expr.ParsedExpr`.
    ///
    /// # Errors
    /// It is none, or Envoy could not build or evaluate it; says why.
    fn cel(&self, text: &str) -> Result<Vec<u8>, String>;

    /// How strictly the scripts of a policy are looked at where it is attached.
    fn script_check(&self, policy: &Object) -> ScriptCheck;

    /// Whether a field of a policy has the value that its schema gives to those who say nothing: an API server writes it
    /// into every object.
    fn is_default(&self, policy: &Object, field: &FieldPath) -> bool;
}
