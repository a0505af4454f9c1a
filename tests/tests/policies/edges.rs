//! What shows at edges only: how long a handshake may take, how much of a request is held, and by which address a Service is
//! reached.

use super::behaviour::{HOST, policy};
use super::traffic::{names, raw, resolver};
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{Request, Target, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::ports;
use moorgate_tests::stack::Stack;
use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::time::Duration;

fn documents([plain, small, patient, hasty]: [u16; 4], web: u16) -> Vec<String> {
    let listeners = [
        Listener::http("plain", plain),
        Listener::http("small", small),
        Listener::https("patient", patient, "cert"),
        Listener::https("hasty", hasty, "cert"),
    ];
    let on = |section: &str, spec: &str| {
        policy(section, "ClientTrafficPolicy", "Gateway", &format!("public, sectionName: {section}"), spec)
    };
    let route = |name: &str, service: &str| {
        manifest::http_route("edge", name, "edge/public", &[], &manifest::rule(&format!("/{name}"), service))
    };
    let script = "  lua: [{ type: Inline, inline: 'function envoy_on_request(handle) handle:body() end' }]\n";
    let by_name = "  routingType: Service\n  dns: { dnsRefreshRate: 5s, lookupFamily: IPv4 }\n";
    vec![
        manifest::gateway_class(),
        manifest::gateway("edge", "public", &listeners),
        manifest::service("edge", "web"),
        manifest::service("edge", "by-name").replace("port: 80\n", &format!("port: {web}\n")),
        route("web", "web"),
        route("held", "web"),
        route("named", "by-name").replace("port: 80\n", &format!("port: {web}\n")),
        on("small", "  connection: { bufferLimit: 1Ki }\n"),
        on("patient", "  timeout: { tcp: { tlsHandshakeTimeout: 1h } }\n"),
        on("hasty", "  timeout: { tcp: { tlsHandshakeTimeout: 500ms } }\n"),
        policy("held", "EnvoyExtensionPolicy", "HTTPRoute", "held", script),
        policy("named", "BackendTrafficPolicy", "HTTPRoute", "named", by_name),
    ]
}

#[test]
fn handshakes_bodies_and_addresses_are_as_policies_say() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    let server = Certificate::for_names(&[HOST]).unwrap();
    stack.set_secret("edge", "cert", &server).unwrap();
    let (asked, questions) = names();
    stack.envoy_arguments = vec!["--config-yaml".into(), resolver(asked)];
    let ports: [u16; 4] = std::array::from_fn(|_| ports::free().unwrap());
    let [plain, small, patient, hasty] = ports;
    stack.publish_documents(&documents(ports, web.address().port())).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&ports).unwrap();
    let request = Request::get(HOST, "/web");
    for target in [Target::plain(plain), Target::tls(hasty, HOST, &server.der).unwrap()] {
        send_until(&target, &request, "an answer", |answer| answer.status == 200).unwrap();
    }

    // Who begins a handshake and does not end it is left; the neighbour waits.
    let begun = |port: u16| {
        let (config, name) = Target::tls(port, HOST, &server.der).unwrap().tls_parts().unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        rustls::ClientConnection::new(config, name).unwrap().write_tls(&mut stream).unwrap();
        stream
    };
    let (mut waits, mut left) = (begun(patient), begun(hasty));
    if let Err(error) = left.read_to_end(&mut Vec::new()) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    waits.set_nonblocking(true).unwrap();
    let still = waits.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(still.kind(), ErrorKind::WouldBlock, "what the server said is there, and no end");

    // A script that wants the whole body gets as much as a connection may hold.
    let posted = |port: u16, length: usize| {
        let body = "x".repeat(length);
        let head =
            format!("POST /held HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\ncontent-length: {length}");
        raw(port, format!("{head}\r\n\r\n{body}").as_bytes())
    };
    for (port, length, status) in [(small, 100, "200"), (small, 8192, "413"), (plain, 8192, "200")] {
        let answer = posted(port, length);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{length} at {port}: {answer}");
    }

    // No endpoint of the Service is known: its own name is enough.
    let named = Request::get(HOST, "/named");
    send_until(&Target::plain(plain), &named, "the Service's address", |answer| answer.status == 200)
        .unwrap();
    let name = b"\x07by-name\x04edge\x03svc\x07cluster\x05local";
    assert!(questions.lock().unwrap().iter().any(|asked| asked.starts_with(name)));
}
