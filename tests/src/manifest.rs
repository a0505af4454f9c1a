//! Ordinary Gateway API YAML, as people write it.

use anyhow::{Context as _, Result};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The controller name that Moorgate answers to.
pub const CONTROLLER: &str = "moorgate.dev/gateway-controller";

/// A GatewayClass named `moorgate`.
pub fn gateway_class() -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata:\n  name: moorgate\nspec:\n  \
         controllerName: {CONTROLLER}\n"
    )
}

/// A listener of a Gateway; routes of all namespaces may attach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// Its hostname, if it has one.
    pub hostname: Option<String>,
    /// The Secret of its certificate, which makes it HTTPS.
    pub secret: Option<String>,
}

impl Listener {
    /// Plain HTTP for every hostname.
    pub fn http(name: &str, port: u16) -> Self {
        Self { name: name.to_owned(), port, hostname: None, secret: None }
    }

    /// HTTPS with the certificate of this Secret.
    pub fn https(name: &str, port: u16, secret: &str) -> Self {
        Self { secret: Some(secret.to_owned()), ..Self::http(name, port) }
    }

    /// For this hostname only.
    #[must_use]
    pub fn hostname(mut self, hostname: &str) -> Self {
        self.hostname = Some(hostname.to_owned());
        self
    }
}

/// A Gateway.
pub fn gateway(namespace: &str, name: &str, listeners: &[Listener]) -> String {
    let mut text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: {name}\n  namespace: \
         {namespace}\nspec:\n  gatewayClassName: moorgate\n  listeners:\n"
    );
    for listener in listeners {
        let protocol = if listener.secret.is_some() { "HTTPS" } else { "HTTP" };
        let _ = writeln!(text, "    - name: {}\n      port: {}", listener.name, listener.port);
        let _ = writeln!(text, "      protocol: {protocol}");
        if let Some(hostname) = &listener.hostname {
            let _ = writeln!(text, "      hostname: \"{hostname}\"");
        }
        text.push_str("      allowedRoutes:\n        namespaces:\n          from: All\n");
        if let Some(secret) = &listener.secret {
            let _ = writeln!(text, "      tls:\n        certificateRefs:\n          - name: {secret}");
        }
    }
    text
}

/// An HTTPRoute; `rules` is the YAML of its rules, indented by four.
pub fn http_route(namespace: &str, name: &str, parent: &str, hostnames: &[&str], rules: &str) -> String {
    let (parent_namespace, parent) = parent.split_once('/').unwrap_or((namespace, parent));
    let mut text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: {name}\n  namespace: \
         {namespace}\nspec:\n  parentRefs:\n    - name: {parent}\n      namespace: {parent_namespace}\n"
    );
    if !hostnames.is_empty() {
        text.push_str("  hostnames:\n");
        for hostname in hostnames {
            let _ = writeln!(text, "    - \"{hostname}\"");
        }
    }
    text.push_str("  rules:\n");
    text.push_str(rules);
    text
}

/// One rule: requests whose path starts with `prefix` go to a Service's port 80.
pub fn rule(prefix: &str, service: &str) -> String {
    format!(
        "    - matches:\n        - path:\n            type: PathPrefix\n            value: {prefix}\n      \
         backendRefs:\n        - name: {service}\n          port: 80\n"
    )
}

/// A Service with the port 80, named `http`.
pub fn service(namespace: &str, name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {namespace}\nspec:\n  selector:\n    \
         app: {name}\n  ports:\n    - name: http\n      port: 80\n      targetPort: 8080\n"
    )
}

/// An EndpointSlice of a Service; every address has a port of its own, so each gets a slice.
pub fn endpoint_slices(namespace: &str, service: &str, addresses: &[SocketAddr]) -> String {
    let slice = |(number, address): (usize, &SocketAddr)| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {service}-{number}\n  \
             namespace: {namespace}\n  labels:\n    kubernetes.io/service-name: {service}\naddressType: IPv4\nports:\n  \
             - name: http\n    port: {}\n    protocol: TCP\nendpoints:\n  - addresses: [\"{}\"]\n    conditions:\n      \
             ready: true\n",
            address.port(),
            address.ip()
        )
    };
    addresses.iter().enumerate().map(slice).collect::<Vec<_>>().join("---\n")
}

/// Puts documents into one file.
pub fn documents(documents: &[String]) -> String {
    documents.join("---\n")
}

/// The YAML files below a folder, sorted in each.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_manifest_is_yaml_with_a_kind() {
        let listeners =
            [Listener::http("http", 80), Listener::https("https", 443, "cert").hostname("*.a.example")];
        let addresses = ["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()];
        let all = [
            gateway_class(),
            gateway("edge", "public", &listeners),
            http_route("shop", "cart", "edge/public", &["a.example"], &rule("/cart", "cart")),
            service("shop", "cart"),
            endpoint_slices("shop", "cart", &addresses),
        ];
        for text in documents(&all).split("---\n") {
            let value: yaml_serde::Value = yaml_serde::from_str(text).unwrap();
            assert!(value.get("kind").is_some() && value["metadata"].get("name").is_some(), "{text}");
        }
    }
}
