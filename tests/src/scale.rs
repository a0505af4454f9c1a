//! Configurations of any size, for the benches.

use crate::manifest;
use moorgate::source::File;
use std::fmt::Write as _;

/// Documents in one file.
const PER_FILE: usize = 100;

/// HTTPRoutes with two rules each, a hostname for ten of them, a Service for two, all on one listener.
pub fn files(routes: usize) -> Vec<File> {
    let services = (routes / 2).max(1);
    let hosts = (routes / 10).max(1);
    let listeners = [manifest::Listener::http("http", 80)];
    let mut documents = vec![manifest::gateway_class(), manifest::gateway("edge", "public", &listeners)];
    documents.extend((0..services).map(|index| manifest::service("shop", &format!("service-{index}"))));
    for index in 0..routes {
        let mut rules = String::new();
        for rule in 0..2 {
            let _ = write!(
                rules,
                "    - matches:\n        - path:\n            type: PathPrefix\n            value: /route-{index}/{rule}\n          \
                 headers:\n            - name: x-version\n              value: v{rule}\n      backendRefs:\n        - name: \
                 service-{}\n          port: 80\n",
                (index + rule) % services
            );
        }
        let hostname = format!("host-{}.example.com", index % hosts);
        let name = format!("route-{index}");
        documents.push(manifest::http_route("shop", &name, "edge/public", &[&hostname], &rules));
    }
    in_files(&documents)
}

/// How many ListenerSets and certificates there are for so many routes of [`tenants`]: with 100,000 routes, 40,000 of them
/// are attached to ListenerSets, and 10,000 certificates are bound.
const ROUTES_OF_SET: usize = 40;

/// So many routes share a Gateway: a thousand certificates are all filter chains of one Envoy listener, which as one record
/// may have 6 MiB.
const ROUTES_OF_GATEWAY: usize = 10_000;

/// Gateways of many tenants: of each hundred routes forty are attached to ListenerSets, each with a listener and a
/// certificate of its own for four of them; the others to the Gateway's listener, in a namespace for ten.
pub fn tenants(routes: usize) -> Vec<File> {
    let gateways = (routes / ROUTES_OF_GATEWAY).max(1);
    let mut documents = vec![manifest::gateway_class()];
    for gateway in 0..gateways {
        let text =
            manifest::gateway("edge", &format!("public-{gateway}"), &[manifest::Listener::http("http", 80)]);
        documents
            .push(text.replace("spec:\n", "spec:\n  allowedListeners:\n    namespaces:\n      from: All\n"));
    }
    let of_sets = routes * 4 / 10;
    for set in 0..of_sets / ROUTES_OF_SET {
        let mut text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: ListenerSet\nmetadata: {{name: set, namespace: tenant-{set}}}\nspec:\n  \
             parentRef: {{name: public-{}, namespace: edge}}\n  listeners:\n",
            set % gateways
        );
        for listener in 0..ROUTES_OF_SET / 4 {
            let _ = writeln!(
                text,
                "  - {{name: l{listener}, port: 443, protocol: HTTPS, hostname: '*.l{listener}.tenant-{set}.example.com', tls: \
                 {{certificateRefs: [{{name: c{listener}}}]}}}}"
            );
        }
        documents.push(text);
        documents.push(manifest::service(&format!("tenant-{set}"), "web"));
        for route in 0..ROUTES_OF_SET {
            let listener = route / 4;
            documents.push(tenants_route(
                &format!("tenant-{set}"),
                &format!("route-{route}"),
                &format!("kind: ListenerSet, name: set, sectionName: l{listener}"),
                &format!("r{route}.l{listener}.tenant-{set}.example.com"),
            ));
        }
    }
    let attached = of_sets / ROUTES_OF_SET * ROUTES_OF_SET;
    for route in attached..routes {
        let namespace = format!("team-{}", route / 10);
        if route % 10 == 0 || route == attached {
            documents.push(manifest::service(&namespace, "web"));
        }
        let parent = format!("name: public-{}, namespace: edge", route / 10 % gateways);
        documents.push(tenants_route(
            &namespace,
            &format!("route-{route}"),
            &parent,
            &format!("r{route}.example.org"),
        ));
    }
    in_files(&documents)
}

/// HTTPS listeners of one port, each with a hostname and a route of its own: what is owed to misdirected requests must not
/// grow with their pairs. A Gateway has 64 of them, the others are in ListenerSets.
pub fn listeners(count: usize) -> Vec<File> {
    const OF_GATEWAY: usize = 64;
    let own = |from: usize| {
        let mut text = String::new();
        for listener in from..(from + OF_GATEWAY).min(count) {
            let _ = writeln!(
                text,
                "  - {{name: l{listener}, port: 443, protocol: HTTPS, hostname: h{listener}.example.com, tls: \
                 {{certificateRefs: [{{name: cert}}]}}}}"
            );
        }
        text
    };
    let mut documents = vec![
        manifest::gateway_class(),
        manifest::service("edge", "web"),
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: public, namespace: edge}}\nspec:\n  \
             gatewayClassName: moorgate\n  allowedListeners: {{namespaces: {{from: Same}}}}\n  listeners:\n{}",
            own(0)
        ),
    ];
    for set in 1..count.div_ceil(OF_GATEWAY) {
        documents.push(format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: ListenerSet\nmetadata: {{name: set-{set}, namespace: edge}}\nspec:\n  \
             parentRef: {{name: public}}\n  listeners:\n{}",
            own(set * OF_GATEWAY)
        ));
    }
    for listener in 0..count {
        let parent = match listener / OF_GATEWAY {
            0 => format!("name: public, sectionName: l{listener}"),
            set => format!("kind: ListenerSet, name: set-{set}, sectionName: l{listener}"),
        };
        let host = format!("h{listener}.example.com");
        documents.push(tenants_route("edge", &format!("route-{listener}"), &parent, &host));
    }
    in_files(&documents)
}

fn tenants_route(namespace: &str, name: &str, parent: &str, hostname: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
         parentRefs: [{{{parent}}}]\n  hostnames: [{hostname}]\n  rules:\n  - backendRefs: [{{name: web, port: 80}}]\n"
    )
}

fn in_files(documents: &[String]) -> Vec<File> {
    let file = |(index, texts): (usize, &[String])| File {
        name: format!("routes/{index}.yaml").into(),
        bytes: manifest::documents(texts).into_bytes().into(),
    };
    documents.chunks(PER_FILE).enumerate().map(file).collect()
}
