//! What policies may ask of the rest of the source.

use super::{Policies, cel, reach};
use crate::attach::backend::{self, Use, external};
use crate::attach::grant::{From, To, permit};
use crate::attach::index::Index;
use crate::attach::kind::Building;
use crate::attach::listener::secret;
use crate::attach::rule::check_expression;
use crate::attach::{spec, trust};
use crate::{inputs, validate, xds};
use moorgate_model::diagnostic::policy::{INPUT_MISSING, INPUT_UNUSABLE, POLICY_INVALID};
use moorgate_model::diagnostic::semantic::{BACKEND_UNUSABLE, INVALID_CERTIFICATE, REF_NOT_PERMITTED};
use moorgate_model::ir::{AppProtocol, Cluster, ClusterPolicies, EndpointSource, UpstreamTls};
use moorgate_model::node::decode;
use moorgate_model::{Diagnostic, FieldPath, Mapping, Node, Object, ObjectRef};
use moorgate_policies::{Access, BackendRef, Input, InputKind, ScriptCheck, SecretRef, TrustBundle, World};
use std::collections::BTreeMap;

/// The objects, and the clusters that policies need.
pub(in crate::attach) struct Sources<'s, 'a> {
    pub(in crate::attach) index: &'s Index<'a>,
    pub(in crate::attach) policies: &'s Policies,
    pub(in crate::attach) clusters: &'s mut BTreeMap<String, Cluster>,
}

impl World for Sources<'_, '_> {
    fn backend(
        &mut self,
        policy: &Object,
        at: &FieldPath,
        backend: &BackendRef,
        http2: bool,
    ) -> Result<String, Box<Diagnostic>> {
        let usage = if http2 { Use::Http2 } else { Use::Requests };
        let (index, policies, clusters) = (self.index, self.policies, &mut *self.clusters);
        let mut cx = Building { index, policies, clusters };
        let reference = spec::BackendRef::named(
            (&backend.group, &backend.kind),
            backend.namespace.clone(),
            &backend.name,
            backend.port,
        );
        let name = backend::resolve_for(usage, &mut cx, policy, at, &reference).map_err(Box::new)?;
        if cx.clusters.get(&name).is_some_and(Cluster::is_dynamic) {
            let message = "a Backend of type DynamicResolver is for requests of routes";
            return Err(Box::new(policy.diagnostic(&BACKEND_UNUSABLE, at.clone(), message)));
        }
        Ok(name)
    }

    fn outside(&mut self, host: &str, port: u16, tls: bool) -> Result<String, String> {
        let mut source = external::source(self.index, "", host, port)?;
        let host = host.to_ascii_lowercase();
        source.hostname = Some(host.clone());
        // No namespace has a dot, and an equals sign stands in no name of an object.
        let name = format!("outside/{}={host}/{port}", if tls { "https" } else { "http" });
        let verified =
            UpstreamTls { hostname: host, system_roots: true, refuse: false, ..UpstreamTls::refused() };
        self.clusters.entry(name.clone()).or_insert_with(|| Cluster {
            protocol: AppProtocol::Http1,
            tls: tls.then_some(verified),
            eds_name: name.clone(),
            sources: vec![source],
            retry_budget: None,
            policies: ClusterPolicies::default(),
        });
        Ok(name)
    }

    fn input(
        &mut self,
        policy: &Object,
        at: &FieldPath,
        (kind, url): (InputKind, &str),
        access: &Access,
    ) -> Result<Input, Box<Diagnostic>> {
        let namespace = &*policy.reference.namespace;
        let wanted = inputs::Wanted { namespace: namespace.to_owned(), url: url.to_owned(), kind };
        let mut wants = self.index.wants.borrow_mut();
        wants.entry(wanted).or_insert_with(|| inputs::Asked {
            policy: policy.reference.clone(),
            field: at.clone(),
            access: access.clone(),
        });
        let Some(declared) = self.index.inputs.get(&(namespace, url)) else {
            let message = format!("no Input of namespace {namespace} declares {url}");
            let finding = policy.diagnostic(&INPUT_MISSING, at.clone(), message);
            return Err(Box::new(finding.help("run moorgate inputs update, and commit what it writes")));
        };
        inputs::read(declared, kind).map_err(|wrong| {
            let message = format!("{} cannot be used: {}", declared.reference, wrong.message);
            let place = declared.root.locate(&wrong.field).start;
            let finding = policy.diagnostic(&INPUT_UNUSABLE, at.clone(), message);
            let file = declared.origin.file.clone();
            Box::new(finding.related(file, place, "declared here").help("run moorgate inputs update"))
        })
    }

    fn authority_text(&self, bundle: &str) -> Option<String> {
        trust::text(self.index, bundle)
    }

    fn variant(&mut self, cluster: &str, name: &str, policies: &ClusterPolicies) {
        let Some(base) = self.clusters.get(cluster).filter(|_| !self.clusters.contains_key(name)) else {
            return;
        };
        // No name of an object has a plus sign.
        let variant = base.with(policies, &format!("+{name}"));
        self.clusters.insert(name.to_owned(), variant);
    }

    fn together(&mut self, members: &[(String, u32)]) -> Result<String, String> {
        let names = members.iter().map(|(name, weight)| format!("{name}={weight}"));
        let name = names.collect::<Vec<_>>().join("|");
        let mut clusters =
            members.iter().filter_map(|(name, weight)| Some((self.clusters.get(name)?, *weight)));
        let Some((first, weight)) = clusters.next() else {
            return Err("all its backends have the weight 0".to_owned());
        };
        let weighted = |cluster: &Cluster, weight: u32| {
            let sources = cluster.sources.iter().cloned();
            sources.map(move |source| EndpointSource { weight, ..source }).collect::<Vec<_>>()
        };
        let mut all = Cluster { eds_name: name.clone(), sources: weighted(first, weight), ..first.clone() };
        for (cluster, weight) in clusters {
            if (&cluster.protocol, &cluster.tls) != (&all.protocol, &all.tls) {
                return Err(
                    "its backends differ in protocol or TLS, so they cannot be asked as one".to_owned()
                );
            }
            all.sources.extend(weighted(cluster, weight));
        }
        self.clusters.entry(name.clone()).or_insert(all);
        Ok(name)
    }

    fn outside_signed(&mut self, host: &str, port: u16, bundle: &str) -> Result<String, String> {
        let plain = self.outside(host, port, true)?;
        let name = format!("{plain}+{bundle}");
        if let Some(base) = self.clusters.get(&plain).filter(|_| !self.clusters.contains_key(&name)) {
            let ca_bundles = vec![bundle.to_owned()];
            let tls = base.tls.clone().map(|tls| UpstreamTls { ca_bundles, system_roots: false, ..tls });
            let signed = Cluster { tls, ..base.clone() };
            self.clusters.insert(name.clone(), signed);
        }
        Ok(name)
    }

    fn config_map(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, String>, String> {
        use base64::Engine as _;
        let found = self.index.config_maps.get(&(namespace, name));
        let object = found.ok_or_else(|| format!("ConfigMap {namespace}/{name} is not in this source"))?;
        let entries = |field| {
            let data = object.root.get(field).and_then(Node::as_mapping);
            let entries = data.map(Mapping::entries).unwrap_or_default().iter();
            entries.filter_map(|entry| Some((entry.key.to_string(), entry.value.as_str()?)))
        };
        let texts: BTreeMap<_, _> = entries("data").map(|(key, text)| (key, text.to_owned())).collect();
        if !texts.is_empty() {
            return Ok(texts);
        }
        // A text that was put in as bytes, as charts do with files.
        let decoded = |(key, text): (String, &str)| {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok();
            let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
            let why = || format!("binaryData.{key} of ConfigMap {namespace}/{name} is no text in UTF-8");
            text.map(|text| (key.clone(), text)).ok_or_else(why)
        };
        entries("binaryData").map(decoded).collect()
    }

    fn secret(
        &self,
        policy: &Object,
        at: &FieldPath,
        secret: &SecretRef,
        keys: &[&str],
    ) -> Result<String, Box<Diagnostic>> {
        let ObjectRef { group, kind, namespace, .. } = &policy.reference;
        let from = From { group, kind, namespace };
        let to = To { group: "", kind: "Secret", namespace: secret.namespace.as_deref(), name: &secret.name };
        let Some(permitted) = permit(self.index, from, to) else {
            let namespace = secret.namespace.as_deref().unwrap_or_default();
            let message =
                format!("Secret {namespace}/{} may not be used from {}", secret.name, policy.reference);
            let finding = policy.diagnostic(&REF_NOT_PERMITTED, at.clone(), message);
            return Err(Box::new(finding.help(format!("add a ReferenceGrant in namespace {namespace}"))));
        };
        let name = format!("{}/{}", permitted.namespace, permitted.name);
        let lacks = |message: String, help: String| {
            Err(Box::new(policy.diagnostic(&POLICY_INVALID, at.clone(), message).help(help)))
        };
        let found = self.index.secrets.get(&(permitted.namespace.as_str(), permitted.name.as_str()));
        let Some(found) = found else {
            if self.index.is_open("Secret") {
                return Ok(permitted.namespace);
            }
            let help = "what the policy targets answers 500: add the Secret, or correct the name";
            return lacks(format!("Secret {name} is not in this source"), help.to_owned());
        };
        let has = |key: &str| {
            let of = |list: &str| found.root.get(list).is_some_and(|data| data.get(key).is_some());
            of("data") || of("stringData")
        };
        match keys.iter().find(|key| !has(key)) {
            Some(key) => lacks(
                format!("Secret {name} has no key {key}"),
                "what the policy targets answers 500: add the key".to_owned(),
            ),
            None => Ok(permitted.namespace),
        }
    }

    fn fits(&self, type_url: &str, message: &[u8], whole: bool) -> Result<(), String> {
        xds::fits(type_url, message, whole)
    }

    fn regex(&self, text: &str) -> Result<(), String> {
        check_expression(text)
    }

    fn json(&self, text: &str) -> Option<Node> {
        crate::load::document(text.as_bytes()).ok()
    }

    fn cel(&self, text: &str) -> Result<Vec<u8>, String> {
        cel::parsed(text)
    }

    fn script_check(&self, policy: &Object) -> ScriptCheck {
        reach::script_check(self.index, policy)
    }

    fn is_default(&self, policy: &Object, field: &FieldPath) -> bool {
        validate::is_default(policy, field)
    }

    fn allowed(&self, place: &str) -> Result<(), String> {
        backend::may_connect(self.index, place)
    }

    fn certificate(&self, policy: &Object, at: &FieldPath) -> Result<String, Box<Diagnostic>> {
        let wrong = |message: String| Box::new(policy.diagnostic(&INVALID_CERTIFICATE, at.clone(), message));
        let node = policy.root.at(at).ok_or_else(|| wrong("there is no reference".to_owned()))?;
        let reference: spec::CertificateRef = decode(node).map_err(|error| wrong(error.message.clone()))?;
        let mut findings = Vec::new();
        let name = secret(self.index, policy, at, &reference, None, &mut findings);
        name.ok_or_else(|| match findings.into_iter().next() {
            Some(finding) => Box::new(finding),
            None => wrong("the Secret cannot be used".to_owned()),
        })
    }

    fn trust_bundle(&self, object: &ObjectRef) -> TrustBundle {
        trust::bundle(self.index, object)
    }
}
