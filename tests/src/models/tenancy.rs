//! Whose things are: what an account may read, by the API server's own word, and which objects a Gateway has.

use super::Model;
use super::source::{FIRST, RELAYS, SECOND, Tenant};
use super::stage::{KINDS, MANAGED_BY, Stage};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;

/// What a fleet's certificates and endpoints take: verb, group, resource and name.
const READ: [(&str, &str, &str, &str); 4] = [
    ("get", "", "secrets", "tls"),
    ("watch", "", "secrets", "tls"),
    ("list", "discovery.k8s.io", "endpointslices", ""),
    ("watch", "discovery.k8s.io", "endpointslices", ""),
];

/// A ServiceAccount.
#[derive(Debug)]
struct Account {
    namespace: String,
    name: String,
}

impl Account {
    /// Whether it has the right, in a namespace.
    fn may(&self, stage: &Stage, namespace: &str, right: (&str, &str, &str, &str)) -> Result<bool> {
        let ((verb, group, resource, name), own) = (right, &self.namespace);
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": format!("system:serviceaccount:{own}:{}", self.name),
                "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{own}"), "system:authenticated"],
                "resourceAttributes": {
                    "namespace": namespace, "verb": verb, "group": group, "resource": resource, "name": name,
                },
            },
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let answer = stage.cluster.request("POST", path, Some(&review))?;
        answer["status"]["allowed"].as_bool().with_context(|| answer.to_string())
    }
}

/// Accounts that read in a cluster, each with the tenant that it reads for, if any.
fn accounts(stage: &Stage, model: Model) -> Result<Vec<(Account, Option<Tenant>)>> {
    // A relay of a node reads as the Envoy that it has a token of.
    let container = if model == Model::Node { "envoy" } else { "relay" };
    let containers = stage.containers(container)?;
    let mut found = Vec::new();
    for tenant in [FIRST, SECOND] {
        let of_class = format!("{}-", tenant.class);
        let own = containers.iter().find(|one| match model {
            Model::Sidecar | Model::Node => one.namespace == tenant.namespace,
            Model::Pool => one.namespace == RELAYS && one.pod.starts_with(&of_class),
        });
        let own = own.with_context(|| format!("nobody reads for {}", tenant.fleet()))?;
        found.push((Account { namespace: own.namespace.clone(), name: own.account.clone() }, Some(tenant)));
    }
    if model == Model::Node {
        let relay = stage.containers("relay")?.into_iter().next().context("no relays")?;
        found.push((Account { namespace: relay.namespace, name: relay.account }, None));
    }
    Ok(found)
}

/// An account may read what its tenant's fleet needs, and neither the other's nor what nobody needs.
pub(super) fn rights(stage: &Stage, model: Model) -> Result<()> {
    for (account, whose) in accounts(stage, model)? {
        for tenant in [FIRST, SECOND] {
            for right in READ {
                let (allowed, wanted) = (account.may(stage, tenant.namespace, right)?, whose == Some(tenant));
                ensure!(allowed == wanted, "{account:?}: {right:?} in {}: {allowed}", tenant.namespace);
            }
            for right in [("list", "", "secrets", ""), ("get", "", "secrets", "store")] {
                let allowed = account.may(stage, tenant.namespace, right)?;
                ensure!(!allowed, "{account:?}: {right:?} in {}", tenant.namespace);
            }
        }
    }
    Ok(())
}

/// What a tenant's Gateway, or its class, has of all that was rendered: kind, namespace and name.
pub(super) fn belongings(stage: &Stage, tenant: Tenant) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (api, plural, kind) in KINDS {
        for object in stage.list(api, plural)? {
            let metadata = &object["metadata"];
            let labels = &metadata["labels"];
            let its = metadata["namespace"] == tenant.namespace
                || labels["gateway.networking.k8s.io/gateway-class-name"] == tenant.class
                || metadata["annotations"]["moorgate.dev/fleet"] == tenant.fleet();
            if its && labels[MANAGED_BY] == "moorgate-render" {
                found.push(format!("{kind} {}/{}", metadata["namespace"], metadata["name"]));
            }
        }
    }
    Ok(found)
}

/// Whether relays of nodes let a tenant's Envoys in.
pub(super) fn is_member(stage: &Stage, tenant: Tenant) -> Result<bool> {
    let maps = stage.list("/api/v1", "configmaps")?;
    let members = maps.iter().find_map(|map| map["data"]["members"].as_str());
    let members = members.context("nothing says which account is of which fleet")?;
    Ok(members.lines().any(|line| line.ends_with(&format!("={}", tenant.fleet()))))
}
