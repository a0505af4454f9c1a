//! Connections of clients and to backends: one Envoy with a listener that has a policy, and one that has none.

use super::behaviour::{HOST, policy};
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::ports;
use moorgate_tests::program::run;
use moorgate_tests::stack::Stack;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const CLIENTS: &str = "  proxyProtocol: {}
  headers: { withUnderscoresAction: Allow, requestID: Preserve }
  http1: { http10: {}, preserveHeaderCase: true }
  http2: { maxConcurrentStreams: 7, initialStreamWindowSize: 128Ki }
  tcpKeepalive: { idleTime: 20m, interval: 60s, probes: 3 }
";
const BACKENDS: &str = "  tcpKeepalive: { idleTime: 10m }
  connection: { bufferLimit: 64Ki }
";
/// The header that a load balancer writes for a client (PROXY protocol, version 1).
const PROXY: &str = "PROXY TCP4 203.0.113.9 127.0.0.1 40000 80\r\n";

/// What comes back for these bytes until the other side has no more, or for a second.
fn exchange(port: u16, sent: &[u8]) -> (Vec<u8>, TcpStream) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    stream.write_all(sent).unwrap();
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..length]);
    }
    (answer, stream)
}

fn asked(port: u16, before: &str, version: &str, headers: &str) -> String {
    let request =
        format!("{before}GET / HTTP/{version}\r\nhost: {HOST}\r\nconnection: close\r\n{headers}\r\n");
    String::from_utf8_lossy(&exchange(port, request.as_bytes()).0).into_owned()
}

/// The settings that the other side of an HTTP/2 connection begins with (RFC 9113 §6.5): identifier and value.
fn settings(port: u16, before: &str) -> Vec<(u16, u32)> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let (answer, _) = exchange(port, &[before.as_bytes(), preface].concat());
    let length = usize::from(answer[1]) << 8 | usize::from(answer[2]);
    assert_eq!(answer[3], 4, "the first frame holds settings");
    let entries = answer[9..9 + length].chunks(6);
    entries
        .map(|entry| {
            let value = entry[2..].try_into().unwrap();
            (u16::from_be_bytes([entry[0], entry[1]]), u32::from_be_bytes(value))
        })
        .collect()
}

/// Whether the kernel keeps a timer for probes on Envoy's side of connections of this port.
fn probes(side: &str, port: u16) -> bool {
    let mut ss = Command::new("ss");
    ss.args(["-tnoH", "state", "established", side, "=", &format!(":{port}")]);
    run(&mut ss).unwrap().ended_with(&[0]).unwrap().stdout.contains("timer:(keepalive")
}

#[test]
fn connections_are_as_their_policies_say() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    let (plain, own) = (ports::free().unwrap(), ports::free().unwrap());
    let route = |name: &str, listener: &str| {
        let route = manifest::http_route("edge", name, "edge/public", &[], &manifest::rule("/", "web"));
        route.replace("- name: public", &format!("- sectionName: {listener}\n      name: public"))
    };
    let inside = "  authorization: { defaultAction: Deny, rules: [{ action: Allow, principal: { clientCIDRs: [203.0.113.0/24] } }] }\n";
    let documents = [
        manifest::gateway_class(),
        manifest::service("edge", "web"),
        manifest::gateway("edge", "public", &[Listener::http("http", plain), Listener::http("own", own)]),
        route("plain", "http"),
        route("own", "own"),
        policy("clients", "ClientTrafficPolicy", "Gateway", "public, sectionName: own", CLIENTS),
        policy("backends", "BackendTrafficPolicy", "HTTPRoute", "own", BACKENDS),
        policy("inside", "SecurityPolicy", "HTTPRoute", "own", inside),
    ];
    stack.publish_documents(&documents).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[plain, own]).unwrap();
    let request = Request::get(HOST, "/");
    send_until(&Target::plain(plain), &request, "an answer", |answer| answer.status == 200).unwrap();

    // The address that the load balancer names is the client's; without its header nobody is served.
    assert!(asked(own, PROXY, "1.1", "").starts_with("HTTP/1.1 200"));
    let other = PROXY.replace("203.0.113.9", "198.51.100.1");
    assert!(asked(own, &other, "1.1", "").starts_with("HTTP/1.1 403"));
    assert_eq!(asked(own, "", "1.1", ""), "");
    assert!(asked(plain, PROXY, "1.1", "").starts_with("HTTP/1.1 400"));
    // Names with `_`, ids of requests, and HTTP/1.0.
    let named = "x_team: blue\r\nx-request-id: mine\r\n";
    let kept = asked(own, PROXY, "1.1", named);
    assert!(kept.contains("x_team") && kept.contains("\"mine\""), "{kept}");
    assert!(asked(plain, "", "1.1", named).starts_with("HTTP/1.1 400"));
    let made = asked(plain, "", "1.1", "x-request-id: mine\r\n");
    assert!(made.starts_with("HTTP/1.1 200") && !made.contains("\"mine\""), "{made}");
    assert!(asked(own, PROXY, "1.0", "").contains(" 200 "));
    assert!(asked(plain, "", "1.0", "").contains(" 426 "));
    // Settings: 3 is the most streams at a time, 4 the window of one.
    let found = settings(own, PROXY);
    assert!(found.contains(&(3, 7)) && found.contains(&(4, 128 * 1024)), "{found:?}");
    assert!(!settings(plain, "").contains(&(3, 7)));
    // Silent connections are probed, of clients and to backends.
    let held =
        [TcpStream::connect(("127.0.0.1", own)).unwrap(), TcpStream::connect(("127.0.0.1", plain)).unwrap()];
    assert!(probes("sport", own) && !probes("sport", plain));
    drop(held);
    assert!(probes("dport", web.address().port()));
}

/// What is heard on a connection until the other side closes it.
fn until_closed(port: u16, sent: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(moorgate_tests::wait::PATIENCE)).unwrap();
    let mut heard = Vec::new();
    let ended = stream.write_all(sent.as_bytes()).and_then(|()| stream.read_to_end(&mut heard));
    // Closed before all was read that was sent, it is a reset.
    let reset = |error: &std::io::Error| {
        matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe)
    };
    assert!(ended.as_ref().is_ok() || ended.as_ref().is_err_and(reset), "{ended:?}");
    String::from_utf8(heard).unwrap()
}

/// A backend that speaks first, as databases do, and counts who comes.
fn speaks_first() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
            let Ok(mut stream) = stream else { return };
            // Whoever has gone need not hear it.
            let _ = stream.write_all(b"welcome");
        }
    });
    (address, count)
}

#[test]
fn who_may_connect_is_decided_before_a_backend_hears_of_it() {
    let mut stack = Stack::new("edge/public").unwrap();
    let (first, count) = speaks_first();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "first", &[first]).unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    let names = ["shut.example.com", "any.example.com", "open.example.com"];
    let server = Certificate::for_names(&names).unwrap();
    stack.set_secret("edge", "cert", &server).unwrap();
    let (bytes, tls) = (ports::free().unwrap(), ports::free().unwrap());
    let ends = |name: &str, host: &str| {
        format!(
            "    - {{ name: {name}, port: {tls}, protocol: TLS, hostname: '{host}', tls: {{ mode: Terminate, \
             certificateRefs: [{{ name: cert }}] }} }}\n"
        )
    };
    let gateway = manifest::gateway("edge", "public", &[]);
    let route = |name: &str, service: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {{ name: {name}, namespace: edge }}\nspec:\n  \
             parentRefs: [{{ name: public, sectionName: {name} }}]\n  rules: [{{ backendRefs: [{{ name: {service}, port: 80 }}] }}]\n"
        )
    };
    let some = "  authorization:
    defaultAction: Deny
    rules:
      - { action: Deny, principal: { clientCIDRs: [203.0.113.9/32] } }
      - { action: Allow, principal: { clientCIDRs: [203.0.113.0/24] } }
";
    let shut = "  authorization: { defaultAction: Allow, rules: [{ action: Deny, principal: { clientCIDRs: [127.0.0.0/8] } }] }\n";
    let open = "  authorization: { rules: [{ action: Allow, principal: { clientCIDRs: [127.0.0.0/8] } }] }\n";
    let documents = [
        manifest::gateway_class(),
        manifest::service("edge", "first"),
        manifest::service("edge", "web"),
        format!(
            "{gateway}    - {{ name: bytes, port: {bytes}, protocol: TCP }}\n{}{}{}",
            ends("shut", names[0]),
            ends("wide", "*.example.com"),
            ends("open", names[2])
        ),
        route("bytes", "first"),
        route("shut", "web"),
        route("wide", "web"),
        route("open", "web"),
        policy(
            "proxied",
            "ClientTrafficPolicy",
            "Gateway",
            "public, sectionName: bytes",
            "  proxyProtocol: {}\n",
        ),
        policy("some", "SecurityPolicy", "TCPRoute", "bytes", some),
        policy("shut", "SecurityPolicy", "TCPRoute", "shut", shut),
        policy("open", "SecurityPolicy", "TCPRoute", "open", open),
    ];
    stack.publish_documents(&documents).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[bytes, tls]).unwrap();

    let request = Request::get(names[1], "/");
    let at = |name: &str| Target::tls(tls, name, &server.der).unwrap();
    send_until(&at(names[1]), &request, "an answer", |answer| answer.status == 200).unwrap();
    assert_eq!(send(&at(names[2]), &Request::get(names[2], "/")).unwrap().status, 200);
    // The wider name is not asked for a client whom the narrow one keeps out.
    assert!(send(&at(names[0]), &Request::get(names[0], "/")).is_err());

    let heard = |from: &str| until_closed(bytes, &PROXY.replace("203.0.113.9", from));
    assert_eq!(heard("203.0.113.7"), "welcome");
    let before = count.load(Ordering::SeqCst);
    for from in ["203.0.113.9", "198.51.100.1", "127.0.0.1"] {
        assert_eq!(heard(from), "", "{from}");
    }
    assert_eq!(count.load(Ordering::SeqCst), before, "nobody else has met the backend");
    assert_eq!(heard("203.0.113.200"), "welcome");
    assert_eq!(count.load(Ordering::SeqCst), before + 1);
}
