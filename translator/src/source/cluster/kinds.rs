//! Which kinds a cluster serves, and in which version.

use super::{ClusterError, GROUPS, answer};
use kube::Client;
use kube::core::{ApiResource, GroupVersionKind};
use std::collections::BTreeMap;

/// A kind to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// How the API server names it.
    pub resource: ApiResource,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Whether objects can be made: those of a kind that is being removed cannot, and are deleted with it.
    pub lasting: bool,
}

impl Kind {
    /// A kind of this group and version.
    pub fn new(group: &str, version: &str, kind: &str, plural: &str, namespaced: bool) -> Self {
        let gvk = GroupVersionKind::gvk(group, version, kind);
        Self { resource: ApiResource::from_gvk_with_plural(&gvk, plural), namespaced, lasting: true }
    }
}

/// Kinds that every cluster has. Secrets and ConfigMaps are read by name, and stand elsewhere.
pub fn core() -> [Kind; 2] {
    [Kind::new("", "v1", "Namespace", "namespaces", false), Kind::new("", "v1", "Service", "services", true)]
}

/// Kinds of [`GROUPS`] that this cluster serves and that can be listed and watched, each in its most stable version.
pub async fn kinds(client: &Client) -> Result<Vec<Kind>, ClusterError> {
    let groups = answer(|| "its API groups".into(), client.list_api_groups()).await?;
    let mut found: BTreeMap<(String, String), Kind> = BTreeMap::new();
    for group in groups.groups.iter().filter(|group| GROUPS.contains(&group.name.as_str())) {
        let mut versions: Vec<&str> = group.versions.iter().map(|version| version.version.as_str()).collect();
        versions.sort_by_key(|version| std::cmp::Reverse(stability(version)));
        for version in versions {
            let name = format!("{}/{version}", group.name);
            let resources =
                answer(|| format!("the resources of {name}"), client.list_api_group_resources(&name)).await?;
            for resource in resources.resources {
                let may = |verb: &str| resource.verbs.iter().any(|has| has == verb);
                let (usable, lasting) = (may("list") && may("watch"), may("create"));
                if !usable || resource.name.contains('/') {
                    continue;
                }
                let kind =
                    Kind::new(&group.name, version, &resource.kind, &resource.name, resource.namespaced);
                let kind = Kind { lasting, ..kind };
                found.entry((group.name.clone(), resource.kind)).or_insert(kind);
            }
        }
    }
    Ok(found.into_values().collect())
}

/// Kubernetes' order of versions: stable before beta before alpha, and of two the higher number.
fn stability(version: &str) -> (u8, u32, u32) {
    let number = |text: &str| text.parse::<u32>().ok();
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    for (rank, word) in [(2, "beta"), (1, "alpha")] {
        if let Some((major, minor)) = rest.split_once(word) {
            return match (number(major), number(minor)) {
                (Some(major), Some(minor)) => (rank, major, minor),
                _ => (0, 0, 0),
            };
        }
    }
    number(rest).map_or((0, 0, 0), |major| (3, major, 0))
}

#[cfg(test)]
mod tests {
    use super::stability;

    #[test]
    fn the_most_stable_version_comes_first() {
        let mut versions = ["v1alpha2", "v2beta1", "odd", "v1", "v1beta1", "v1alpha3"];
        versions.sort_by_key(|version| std::cmp::Reverse(stability(version)));
        assert_eq!(versions, ["v1", "v2beta1", "v1beta1", "v1alpha3", "v1alpha2", "odd"]);
    }
}
