//! What policies may ask of the rest of the source.

use super::Policies;
use crate::attach::backend::{self, Use, external};
use crate::attach::index::Index;
use crate::attach::kind::Building;
use crate::attach::rule::check_expression;
use crate::attach::{spec, trust};
use crate::{inputs, validate};
use moorgate_model::diagnostic::policy::{INPUT_MISSING, INPUT_UNUSABLE};
use moorgate_model::ir::{AppProtocol, Cluster, ClusterPolicies, UpstreamTls};
use moorgate_model::{Diagnostic, FieldPath, Mapping, Node, Object, ObjectRef};
use moorgate_policies::{BackendRef, Input, InputKind, TrustBundle, World};
use std::collections::BTreeMap;

/// The objects, and the clusters that policies need.
pub(super) struct Sources<'s, 'a> {
    pub(super) index: &'s Index<'a>,
    pub(super) policies: &'s Policies,
    pub(super) clusters: &'s mut BTreeMap<String, Cluster>,
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
        backend::resolve_for(usage, &mut cx, policy, at, &reference).map_err(Box::new)
    }

    fn outside(&mut self, host: &str, port: u16, tls: bool) -> Result<String, String> {
        let mut source = external::source("", host, port)?;
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
        kind: InputKind,
        url: &str,
    ) -> Result<Input, Box<Diagnostic>> {
        let namespace = &*policy.reference.namespace;
        let wanted = inputs::Wanted { namespace: namespace.to_owned(), url: url.to_owned(), kind };
        let mut wants = self.index.wants.borrow_mut();
        wants.entry(wanted).or_insert_with(|| (policy.reference.clone(), at.clone()));
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

    fn config_map(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, String>, String> {
        let found = self.index.config_maps.get(&(namespace, name));
        let object = found.ok_or_else(|| format!("ConfigMap {namespace}/{name} is not in this source"))?;
        let data = object.root.get("data").and_then(Node::as_mapping);
        let texts = data.map(Mapping::entries).unwrap_or_default().iter();
        Ok(texts
            .filter_map(|entry| Some((entry.key.to_string(), entry.value.as_str()?.to_owned())))
            .collect())
    }

    fn regex(&self, text: &str) -> Result<(), String> {
        check_expression(text)
    }

    fn json(&self, text: &str) -> Option<Node> {
        crate::load::document(text.as_bytes()).ok()
    }

    fn is_default(&self, policy: &Object, field: &FieldPath) -> bool {
        validate::is_default(policy, field)
    }

    fn trust_bundle(&self, object: &ObjectRef) -> TrustBundle {
        trust::bundle(self.index, object)
    }
}
