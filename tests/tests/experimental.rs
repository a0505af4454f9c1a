//! What the experimental channel adds and the upstream suite does not test, on a real Envoy, and on a real API server.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

#[path = "experimental/telemetry.rs"]
mod telemetry;

use anyhow::{Context as _, Result, ensure};
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::conformance::{CLASS, Installed, Where};
use moorgate_tests::http::{Request, Target, send, send_until};
use moorgate_tests::manifest;
use moorgate_tests::program::run;
use moorgate_tests::stack::Stack;
use moorgate_tests::{ports, wait};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

const HOST: &str = "shop.example.com";

/// Publishes these objects besides class and Services, checked against the experimental channel, and starts relay and Envoy.
fn start(stack: &mut Stack, ports: &[u16], services: &[&str], objects: &[String]) {
    publish(stack, services, objects);
    stack.start_relay().unwrap();
    stack.start_envoy(ports).unwrap();
}

/// Publishes these objects besides class and Services, checked against the experimental channel.
fn publish(stack: &Stack, services: &[&str], objects: &[String]) {
    let mut all = vec![manifest::gateway_class()];
    all.extend(services.iter().map(|name| manifest::service("edge", name)));
    all.extend_from_slice(objects);
    let file = stack.folder().join("source.yaml");
    std::fs::write(&file, manifest::documents(&all)).unwrap();
    let mut command = stack.signed("publish").unwrap();
    run(command.args(["--crds", "experimental"]).arg(&file)).unwrap().ended_with(&[0]).unwrap();
}

/// A service that says yes, names itself in `x-backend`, and adds `x-served: yes`.
fn filter(service: &str) -> String {
    format!(
        "{{ type: ExternalAuth, externalAuth: {{ protocol: HTTP, backendRef: {{ name: {service}, port: 80 }}, http: {{}} }} }}"
    )
}

#[test]
fn listener_filters_run_in_order_before_a_route_is_looked_for() {
    let mut stack = Stack::new("edge/public").unwrap();
    let names = ["member", "guest", "first", "second", "third"];
    let backends = names.map(|name| Backend::start(name).unwrap());
    for backend in &backends {
        stack.set_endpoints("edge", backend.name(), &[backend.address()]).unwrap();
    }
    let [member, guest, first, second, third] = &backends;
    // Nothing listens there.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = closed.local_addr().unwrap();
    drop(closed);
    stack.set_endpoints("edge", "dead", &[dead]).unwrap();
    let (port, other) = (ports::free().unwrap(), ports::free().unwrap());
    let listener = |name: &str, port: u16, host: &str, filters: &str| {
        format!("  - {{ name: {name}, port: {port}, protocol: HTTP, hostname: {host}{filters} }}\n")
    };
    let requests = |filters: &str| format!(", filters: {{ requests: [{filters}] }}");
    let both = requests(&format!("{}, {}", filter("first"), filter("second")));
    let listeners = listener("asked", port, HOST, &both)
        + &listener("free", port, "free.example.com", "")
        + &listener("closed", other, HOST, &requests(&filter("dead")));
    let gateway = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: public, namespace: edge }}\n\
         spec:\n  gatewayClassName: moorgate\n  listeners:\n{listeners}"
    );
    let rules = format!(
        "  - {{ matches: [{{ path: {{ value: /a }}, headers: [{{ name: x-served, value: \"yes\" }}] }}], \
         filters: [{}], backendRefs: [{{ name: member, port: 80 }}] }}\n  \
         - {{ matches: [{{ path: {{ value: /a }} }}], backendRefs: [{{ name: guest, port: 80 }}] }}\n",
        filter("third")
    );
    let route = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: r, namespace: edge }}\n\
         spec:\n  parentRefs: [{{ name: public }}]\n  rules:\n{rules}"
    );
    let services = ["member", "guest", "first", "second", "third", "dead"];
    start(&mut stack, &[port, other], &services, &[gateway, route]);
    let target = Target::plain(port);

    // The header that the services add leads to another route, whose own filter runs then and not before.
    let request = Request::get(HOST, "/a").header("x-served", "no");
    let answer = send_until(&target, &request, "a member", |answer| answer.who() == "member").unwrap();
    let echo = answer.echo().unwrap();
    assert_eq!((echo.host.as_str(), echo.header("x-backend")), (HOST, vec!["third"]));
    assert_eq!(guest.received(), 0);
    let (asked, then, last) = (first.received(), second.received(), third.received());
    assert!(asked > 0 && asked == then && asked == last && last == member.received());
    // Whoever asks for nothing that there is is asked too: before a route is looked for nobody knows.
    assert_eq!(send(&target, &Request::get(HOST, "/none")).unwrap().status, 404);
    assert_eq!((first.received(), second.received(), third.received()), (asked + 1, then + 1, last));
    // The neighbour on the port asks nobody, and takes what the client says.
    assert_eq!(send(&target, &Request::get("free.example.com", "/a")).unwrap().who(), "guest");
    assert_eq!(first.received(), asked + 1);
    let trusting = Request::get("free.example.com", "/a").header("x-served", "yes");
    assert_eq!(send(&target, &trusting).unwrap().who(), "member");
    assert_eq!((first.received(), third.received()), (asked + 1, last + 1), "a rule asks by itself there");
    assert_eq!(send(&target, &Request::get("free.example.com", "/none")).unwrap().status, 404);
    assert_eq!(send(&target, &Request::get("no.example.com", "/a")).unwrap().status, 404);
    // A service that does not answer lets nothing pass.
    let reached = (member.received(), guest.received());
    for path in ["/a", "/none"] {
        let status = send(&Target::plain(other), &Request::get(HOST, path)).unwrap().status;
        assert_eq!(status, 403, "{path}");
    }
    assert_eq!((member.received(), guest.received()), reached);
}

/// Lays CA certificates beside the relay.
fn lay(stack: &Stack, place: &str, authority: &Certificate) {
    let folder = stack.folder().join("secrets").join(place);
    std::fs::create_dir_all(&folder).unwrap();
    let new = folder.join(".new");
    std::fs::write(&new, &authority.certificate).unwrap();
    std::fs::rename(new, folder.join("ca.crt")).unwrap();
}

#[test]
fn clients_are_checked_by_bundles_of_several_objects() {
    let mut stack = Stack::new("edge/public").unwrap();
    let backend = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[backend.address()]).unwrap();
    let server = Certificate::for_names(&[HOST]).unwrap();
    stack.set_secret("edge", "cert", &server).unwrap();
    let [devices, partners, later] =
        ["device", "partner", "later"].map(|name| Certificate::signed(name).unwrap());
    lay(&stack, "example.com:devices:roots", &devices.0);
    lay(&stack, "edge/partners", &partners.0);
    let port = ports::free().unwrap();
    let gateway = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: public, namespace: edge }}\n\
         spec:\n  gatewayClassName: moorgate\n  tls: {{ frontend: {{ default: {{ validation: {{ caCertificateRefs: [\
         {{ group: certificates.k8s.io, kind: ClusterTrustBundle, name: 'example.com:devices:roots' }}, \
         {{ group: '', kind: ConfigMap, name: partners }}] }} }} }} }}\n  listeners:\n  \
         - {{ name: https, port: {port}, protocol: HTTPS, tls: {{ certificateRefs: [{{ name: cert }}] }} }}\n"
    );
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: r, namespace: edge }\n\
                 spec: { parentRefs: [{ name: public }], rules: [{ backendRefs: [{ name: web, port: 80 }] }] }\n";
    start(&mut stack, &[port], &["web"], &[gateway, route.to_owned()]);
    let request = Request::get(HOST, "/");
    let target = |client: Option<&Certificate>| Target::mutual(port, HOST, &server.der, client).unwrap();
    let passes = |client: &Certificate, what: &str| {
        send_until(&target(Some(client)), &request, what, |answer| answer.who() == "web").unwrap();
    };
    passes(&devices.1, "a device");
    passes(&partners.1, "a partner");
    for client in [None, Some(&later.1), Some(&server)] {
        let answer = send(&target(client), &request);
        assert!(answer.is_err(), "{answer:?}");
    }
    // One part is renewed without a new snapshot; the other one stays.
    lay(&stack, "edge/partners", &later.0);
    passes(&later.1, "the partner's new authority");
    wait::until("the old one to be refused", || {
        ensure!(send(&target(Some(&partners.1)), &request).is_err(), "it passes");
        Ok(())
    })
    .unwrap();
    passes(&devices.1, "a device");
}

/// PEM as a literal block of YAML.
fn block(pem: &str, indent: usize) -> String {
    let space = format!("\n{}", " ".repeat(indent));
    format!("|{space}{}", pem.trim_end().replace('\n', &space))
}

/// Objects for a Gateway that only its cluster reaches, whose clients show a certificate, and that has two pods.
fn inner_gateway(server: &Certificate, devices: &Certificate) -> String {
    let (chain, key) = (block(&server.certificate, 4), block(&server.key, 4));
    let roots = block(&devices.certificate, 4);
    format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: inner}}
---
apiVersion: v1
kind: Secret
metadata: {{name: cert, namespace: inner}}
type: kubernetes.io/tls
stringData:
  tls.crt: {chain}
  tls.key: {key}
---
apiVersion: certificates.k8s.io/v1
kind: ClusterTrustBundle
metadata: {{name: devices}}
spec:
  trustBundle: {roots}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: parameters, namespace: inner}}
data:
  envoyproxy.yaml: |
    apiVersion: gateway.envoyproxy.io/v1alpha1
    kind: EnvoyProxy
    spec: {{concurrency: 1, provider: {{kubernetes: {{envoyDeployment: {{replicas: 2}}}}}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: inner}}
spec:
  gatewayClassName: {CLASS}
  addresses: [{{type: IPAddress, routability: Cluster}}]
  infrastructure: {{parametersRef: {{group: '', kind: ConfigMap, name: parameters}}}}
  tls: {{frontend: {{default: {{validation: {{caCertificateRefs: [
    {{group: certificates.k8s.io, kind: ClusterTrustBundle, name: devices}}]}}}}}}}}
  listeners: [{{name: https, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: cert}}]}}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: away, namespace: inner}}
spec:
  parentRefs: [{{name: edge}}]
  rules: [{{filters: [{{type: RequestRedirect, requestRedirect: {{hostname: far.example, statusCode: 301}}}}]}}]
"
    )
}

fn read(product: &Installed, path: &str) -> Result<Value> {
    let request = http::Request::get(path).body(Vec::new())?;
    product.cluster.with(async move |client| Ok(client.request::<Value>(request).await?))
}

/// The status line that a pod answers a GET with, over TLS and inside of the cluster's network.
fn asked(
    product: &Installed,
    pod: IpAddr,
    server: &Certificate,
    client: Option<&Certificate>,
) -> Result<String> {
    let (config, name) = Target::mutual(443, HOST, &server.der, client)?.tls_parts().context("TLS")?;
    product.cluster.enter(move || {
        let stream = TcpStream::connect_timeout(&SocketAddr::new(pod, 443), Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let connection = rustls::ClientConnection::new(config, name)?;
        let mut stream = rustls::StreamOwned::new(connection, stream);
        stream
            .write_all(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        Ok(text.lines().next().unwrap_or_default().to_owned())
    })
}

#[test]
fn a_cluster_gives_trust_bundles_and_inner_addresses() {
    let product = Installed::start("1.7.0", Where::Shared).unwrap();
    let server = Certificate::for_names(&[HOST]).unwrap();
    let [device, stranger] = ["device", "stranger"].map(|name| Certificate::signed(name).unwrap());
    product.cluster.apply(&inner_gateway(&server, &device.0)).unwrap();
    let gateway = "/apis/gateway.networking.k8s.io/v1/namespaces/inner/gateways/edge";
    let status = wait::until("the Gateway to be programmed", || {
        let status = read(&product, gateway)?["status"].take();
        let conditions = status["conditions"].as_array().context("conditions")?;
        let holds = |kind: &str| conditions.iter().any(|one| one["type"] == kind && one["status"] == "True");
        ensure!(holds("Programmed") && holds("AddressesAssigned"), "{status}");
        Ok(status)
    })
    .unwrap();
    // The address is that of the Service inside, and there is no other Service.
    let services = read(&product, "/api/v1/namespaces/inner/services").unwrap();
    let services = services["items"].as_array().unwrap();
    assert_eq!(services.len(), 1, "{services:?}");
    assert_eq!(services[0]["spec"]["type"], "ClusterIP");
    let address = &services[0]["spec"]["clusterIP"];
    let expected = serde_json::json!([{"type": "IPAddress", "value": address, "routability": "Cluster"}]);
    assert_eq!(status["addresses"], expected);
    // The parameters shaped the fleet.
    let fleets = read(&product, "/apis/apps/v1/namespaces/inner/deployments").unwrap();
    assert_eq!(fleets["items"][0]["spec"]["replicas"], 2);
    let pods = wait::until("two pods", || {
        let pods = read(&product, "/api/v1/namespaces/inner/pods")?;
        let ips = pods["items"].as_array().into_iter().flatten().filter_map(|pod| {
            let ready = pod["status"]["conditions"]
                .as_array()?
                .iter()
                .any(|one| one["type"] == "Ready" && one["status"] == "True");
            pod["status"]["podIP"].as_str().filter(|_| ready)?.parse::<IpAddr>().ok()
        });
        let ips: Vec<IpAddr> = ips.collect();
        ensure!(ips.len() == 2, "{ips:?}");
        Ok(ips)
    })
    .unwrap();
    // Relays read the bundle by its name, with rights that name it, and Envoys check clients by it.
    for pod in &pods {
        wait::until("a device to pass", || {
            let line = asked(&product, *pod, &server, Some(&device.1))?;
            ensure!(line.contains(" 301 "), "{line}");
            Ok(())
        })
        .unwrap();
        for client in [None, Some(&stranger.1)] {
            let answer = asked(&product, *pod, &server, client);
            assert!(!answer.as_ref().is_ok_and(|line| line.starts_with("HTTP")), "{answer:?}");
        }
    }
    // A bundle that changes is read again.
    let renewed = inner_gateway(&server, &stranger.0);
    let bundle = renewed.split("\n---\n").find(|text| text.contains("kind: ClusterTrustBundle")).unwrap();
    product.cluster.apply(bundle).unwrap();
    wait::until("the new authority", || {
        let line = asked(&product, pods[0], &server, Some(&stranger.1))?;
        ensure!(line.contains(" 301 "), "{line}");
        Ok(())
    })
    .unwrap();
    // What is not there is said, and nobody passes.
    let gone = renewed.split("\n---\n").find(|text| text.contains("kind: Gateway\n")).unwrap();
    product.cluster.apply(&gone.replace("name: devices", "name: gone")).unwrap();
    wait::until("the missing bundle", || {
        let status = read(&product, gateway)?["status"].take();
        let listener = status["listeners"][0]["conditions"].as_array().context("conditions")?;
        let reason = |kind: &str| listener.iter().find(|one| one["type"] == kind).map(|one| &one["reason"]);
        ensure!(reason("Accepted") == Some(&"NoValidCACertificate".into()), "{status}");
        ensure!(reason("ResolvedRefs") == Some(&"InvalidCACertificateRef".into()), "{status}");
        Ok(())
    })
    .unwrap();
}
