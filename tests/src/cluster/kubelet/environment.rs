//! The environment and the arguments of a container.

use super::payload::{config_map, secret};
use super::{Kubelet, Place};
use crate::cluster::network::{API_ADDRESS, API_PORT};
use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};
use kube::ResourceExt as _;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

type Environment = BTreeMap<String, String>;

/// Who asks.
pub(super) struct Asker<'a> {
    /// The node.
    pub(super) kubelet: &'a Kubelet,
    /// Which one.
    pub(super) place: &'a Place,
    /// The pod.
    pub(super) pod: &'a Pod,
    /// Its address.
    pub(super) address: Ipv4Addr,
}

/// Replaces `$(NAME)` of known names; `$$` is a dollar.
pub(super) fn expand(text: &str, known: &Environment) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            rest = after;
            continue;
        }
        let named = after.strip_prefix('(').and_then(|after| after.split_once(')'));
        if let Some((value, after)) = named.and_then(|(name, after)| Some((known.get(name)?, after))) {
            expanded.push_str(value);
            rest = after;
        } else {
            expanded.push('$');
            rest = after;
        }
    }
    expanded + rest
}

/// `kind['key']` taken apart.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (kind, key) = path.split_once('[')?;
    Some((kind, key.trim_end_matches(']').trim_matches(['\'', '"'])))
}

impl Asker<'_> {
    /// A field of the pod.
    pub(super) fn field(&self, path: &str) -> Result<String> {
        let spec = self.pod.spec.as_ref().context("a pod without a spec")?;
        let lines = |map: &BTreeMap<String, String>| {
            map.iter().map(|(name, value)| format!("{name}={value:?}")).collect::<Vec<_>>().join("\n")
        };
        if let Some((kind, key)) = subscript(path) {
            let map = match kind {
                "metadata.labels" => self.pod.labels(),
                "metadata.annotations" => self.pod.annotations(),
                _ => bail!("unknown field {path}"),
            };
            return Ok(map.get(key).cloned().unwrap_or_default());
        }
        Ok(match path {
            "metadata.name" => self.pod.name_any(),
            "metadata.namespace" => self.pod.namespace().unwrap_or_default(),
            "metadata.uid" => self.pod.uid().unwrap_or_default(),
            "metadata.labels" => lines(self.pod.labels()),
            "metadata.annotations" => lines(self.pod.annotations()),
            "spec.nodeName" => self.place.name.clone(),
            "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
            "status.hostIP" | "status.hostIPs" => self.place.address.to_string(),
            "status.podIP" | "status.podIPs" => self.address.to_string(),
            _ => bail!("unknown field {path}"),
        })
    }

    /// The value of a key of a Secret or ConfigMap; none if that is allowed to be missing.
    fn key(&self, kind: &str, name: &str, key: &str, optional: Option<bool>) -> Result<Option<String>> {
        let namespace = self.pod.namespace().unwrap_or_default();
        let data = match kind {
            "secret" => secret(self.kubelet, &namespace, name),
            _ => config_map(self.kubelet, &namespace, name),
        };
        match data.and_then(|mut data| data.remove(key)) {
            Some(value) => Ok(Some(String::from_utf8(value).context("a value that is no text")?)),
            None if optional == Some(true) => Ok(None),
            None => bail!("{kind} {name:?} or its key {key:?} not found"),
        }
    }

    fn variable(&self, variable: &EnvVar, known: &Environment) -> Result<Option<String>> {
        let Some(from) = &variable.value_from else {
            return Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), known)));
        };
        if let Some(field) = &from.field_ref {
            return self.field(&field.field_path).map(Some);
        }
        if let Some(from) = &from.secret_key_ref {
            return self.key("secret", &from.name, &from.key, from.optional);
        }
        if let Some(from) = &from.config_map_key_ref {
            return self.key("configmap", &from.name, &from.key, from.optional);
        }
        bail!("the source of variable {} is not supported", variable.name)
    }

    /// All variables of a container; an error if something that they need is missing.
    pub(super) fn environment(&self, container: &Container) -> Result<Environment> {
        let mut known = Environment::from(
            [
                ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
                ("HOME", "/".to_owned()),
                ("HOSTNAME", self.pod.name_any()),
                ("KUBERNETES_SERVICE_HOST", API_ADDRESS.to_owned()),
                ("KUBERNETES_SERVICE_PORT", API_PORT.to_string()),
                ("KUBERNETES_SERVICE_PORT_HTTPS", API_PORT.to_string()),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        let namespace = self.pod.namespace().unwrap_or_default();
        for from in container.env_from.iter().flatten() {
            let prefix = from.prefix.as_deref().unwrap_or_default();
            let (data, optional) = match (&from.secret_ref, &from.config_map_ref) {
                (Some(from), _) => (secret(self.kubelet, &namespace, &from.name), from.optional),
                (_, Some(from)) => (config_map(self.kubelet, &namespace, &from.name), from.optional),
                _ => continue,
            };
            if data.is_none() && optional != Some(true) {
                bail!("an object that envFrom names was not found");
            }
            for (name, value) in data.unwrap_or_default() {
                known.insert(format!("{prefix}{name}"), String::from_utf8_lossy(&value).into_owned());
            }
        }
        for variable in container.env.iter().flatten() {
            if let Some(value) = self.variable(variable, &known)? {
                known.insert(variable.name.clone(), value);
            }
        }
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_to_known_variables_are_replaced() {
        let known =
            Environment::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())]);
        for (text, expanded) in
            [("", ""), ("$(A)/$(B)", "1/$(A)"), ("$$(A) $$ $", "$(A) $ $"), ("$(C) $(A $A", "$(C) $(A $A")]
        {
            assert_eq!(expand(text, &known), expanded, "{text}");
        }
    }
}
