//! Who lines and spans are sent to.

use super::Cx;
use crate::BackendRef;
use crate::lowering::{SETTINGS, fingerprint, settings_of};
use envoy_types::pb::envoy::config::route::v3::RouteAction;
use moorgate_model::FieldPath;
use moorgate_model::diagnostic::policy::PARAMETER_UNUSABLE;
use moorgate_model::ir::ClusterPolicies;
use prost::Message as _;
use serde::Deserialize;

/// One of several backends of a sink.
#[derive(Debug, Deserialize)]
pub(super) struct Sink {
    #[serde(flatten)]
    backend: BackendRef,
}

/// How a sink is named.
pub(super) struct Named<'n> {
    /// `backendRef`.
    pub(super) one: Option<&'n BackendRef>,
    /// `backendRefs`.
    pub(super) several: &'n [Sink],
    /// `host` and `port`, where there are no references.
    pub(super) outside: Option<(&'n str, u16)>,
    /// gRPC is spoken.
    pub(super) http2: bool,
}

/// A sink that lines can be sent to.
pub(super) struct Found {
    pub(super) cluster: String,
    /// The name of a cluster is none that a server knows; this one it may.
    pub(super) authority: String,
}

impl Cx<'_, '_> {
    /// The only backend of a sink, reached as its settings say.
    pub(super) fn sink(&mut self, at: &FieldPath, named: &Named<'_>) -> Option<Found> {
        let one = named.one.map(|one| (one, at.key("backendRef")));
        let first = named.several.first().map(|first| (&first.backend, at.key("backendRefs").index(0)));
        if named.several.len() > 1 {
            let field = at.key("backendRefs").index(1);
            self.find(field, "one backend is asked", "the first one is; put several behind one Service");
        }
        let mut policies = ClusterPolicies::default();
        let (cluster, authority) = match (first.or(one), named.outside) {
            (Some((backend, at)), _) => {
                match self.around.world.backend(self.object, &at, backend, named.http2) {
                    Ok(name) => (name, backend.name.clone()),
                    Err(finding) => {
                        self.out.findings.push(*finding);
                        return None;
                    }
                }
            }
            (None, Some((host, port))) => {
                // gRPC is spoken to a server that says nothing of itself.
                policies.speaks_http2 = named.http2;
                (self.outside(at, host, port)?, host.to_owned())
            }
            (None, None) => {
                let help = "name one in backendRefs; until then nothing is sent";
                self.find(at.clone(), "no backend is named", help);
                return None;
            }
        };
        policies.add(&self.settings(at));
        let cluster = self.variant(cluster, &policies);
        self.out.proxy.clusters.push(cluster.clone());
        Some(Found { cluster, authority })
    }

    /// The cluster of a server outside, in plain text.
    fn outside(&mut self, at: &FieldPath, host: &str, port: u16) -> Option<String> {
        match self.around.world.outside(host, port, false) {
            Ok(name) => Some(name),
            Err(why) => {
                self.find(at.key("host"), why, "name a backend in backendRefs; until then nothing is sent");
                None
            }
        }
    }

    /// What the settings at a sink say of its cluster. What they say of single requests has no place here: Envoy sends by itself.
    fn settings(&mut self, at: &FieldPath) -> ClusterPolicies {
        let at = at.key(SETTINGS);
        let Some((all, findings)) = settings_of(self.object, &at, &mut *self.around.world) else {
            return ClusterPolicies::default();
        };
        let help = "the sink is reached without it";
        for finding in findings {
            let finding = self.object.diagnostic(&PARAMETER_UNUSABLE, finding.field, finding.message);
            self.out.findings.push(finding.help(help));
        }
        let bytes: Vec<u8> = all.forward.iter().flat_map(|patch| patch.message.iter().copied()).collect();
        let action = RouteAction::decode(bytes.as_slice()).unwrap_or_default();
        if action.retry_policy.is_some() {
            self.find(at.key("retry"), "Envoy does not send what is logged twice", help);
        }
        if !action.hash_policy.is_empty() {
            self.find(at.key("loadBalancer").key("consistentHash"), "there is no request to hash", help);
        }
        all.cluster
    }

    /// A cluster with what is added to it, under a name of its own.
    fn variant(&mut self, cluster: String, policies: &ClusterPolicies) -> String {
        if policies.is_empty() {
            return cluster;
        }
        let digest = fingerprint(policies);
        let reference = &self.object.reference;
        let name = format!("{cluster}+{}.{}.{digest}", reference.namespace, reference.name);
        self.around.world.variant(&cluster, &name, policies);
        name
    }
}
