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
    let file = |(index, texts): (usize, &[String])| File {
        name: format!("routes/{index}.yaml").into(),
        bytes: manifest::documents(texts).into_bytes().into(),
    };
    documents.chunks(PER_FILE).enumerate().map(file).collect()
}
