//! Listeners: one Envoy with listeners that have policies, and their neighbours without.

use super::behaviour::{HOST, policy};
use super::traffic::raw;
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::ports;
use moorgate_tests::stack::Stack;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

const OWN: &str =
    "  clientIPDetection: { xForwardedFor: { numTrustedHops: 1, disableXForwardedForAppend: true } }
  grpc: { enableWeb: true }
  healthCheck: { path: /up }
  headers:
    enableEnvoyHeaders: false
    earlyRequestHeaders:
      set: [{ name: x-from, value: '%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%' }]
      addIfAbsent: [{ name: x-tenant, value: none }]
      remove: [x-secret]
      removeOnMatch: [{ type: Prefix, value: x-internal- }]
    lateResponseHeaders: { add: [{ name: x-served-by, value: edge }], remove: [x-served] }
  http1: { http10: { useDefaultHost: true }, ignoredUpgradeTypes: [{ type: Prefix, value: TLS/ }] }
  connection: { bufferLimit: 64Ki, maxAcceptPerSocketEvent: 2 }
";
const SECURE: &str = "  scheme: MatchBackend
  headers: { earlyRequestHeaders: { set: [{ name: x-ja4, value: '%TLS_JA4_FINGERPRINT%' }] } }
  tls: { fingerprints: [JA4], session: { resumption: {} } }
";

#[test]
fn listeners_are_as_their_policies_say() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    for service in ["web", "two"] {
        stack.set_endpoints("edge", service, &[web.address()]).unwrap();
    }
    let server = Certificate::for_names(&[HOST]).unwrap();
    stack.set_secret("edge", "cert", &server).unwrap();
    let ports: [u16; 5] = std::array::from_fn(|_| ports::free().unwrap());
    let [plain, own, usual, secure, bytes] = ports;
    let gateway = manifest::gateway(
        "edge",
        "public",
        &[
            Listener::http("plain", plain),
            Listener::http("own", own).hostname(HOST),
            Listener::https("usual", usual, "cert"),
            Listener::https("secure", secure, "cert"),
        ],
    );
    let tcp = format!("    - name: bytes\n      port: {bytes}\n      protocol: TCP\n");
    let two = manifest::service("edge", "two")
        .replace("port: 80\n", "port: 80\n      appProtocol: kubernetes.io/h2c\n");
    let on = |section: &str, spec: &str| {
        policy(section, "ClientTrafficPolicy", "Gateway", &format!("public, sectionName: {section}"), spec)
    };
    let documents = [
        manifest::gateway_class(),
        manifest::service("edge", "web"),
        two,
        format!("{gateway}{tcp}"),
        manifest::http_route("edge", "web", "edge/public", &[HOST], &manifest::rule("/web", "web")),
        manifest::http_route("edge", "two", "edge/public", &[HOST], &manifest::rule("/two", "two")),
        "apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: { name: bytes, namespace: edge }\nspec:\n  parentRefs: [{ name: public, sectionName: bytes }]\n  \
         rules: [{ backendRefs: [{ name: web, port: 80 }] }]\n"
            .to_owned(),
        on("own", OWN),
        on("plain", "  http1: { http10: {} }\n"),
        on("secure", SECURE),
        on("bytes", "  timeout: { tcp: { idleTimeout: 500ms } }\n"),
    ];
    stack.publish_documents(&documents).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&ports).unwrap();
    let request = Request::get(HOST, "/web");
    for port in [plain, own] {
        send_until(&Target::plain(port), &request, "an answer", |answer| answer.status == 200).unwrap();
    }
    headers(&Target::plain(plain), &Target::plain(own));
    first_version(plain, own);
    let trusting = |port| Target::tls(port, HOST, &server.der).unwrap();
    send_until(&trusting(secure), &request, "an answer", |answer| answer.status == 200).unwrap();
    send_until(&trusting(usual), &request, "an answer", |answer| answer.status == 200).unwrap();
    encrypted(&trusting(usual), &trusting(secure), [usual, secure]);
    // Nothing moves: one limit is half a second, the other an hour.
    assert_eq!(raw(bytes, b""), "");
}

fn headers(plain: &Target, own: &Target) {
    // Who asks whether the listener is well needs no route.
    let up = Request::get("nobody.example", "/up");
    assert_eq!((send(own, &up).unwrap().status, send(plain, &up).unwrap().status), (200, 404));
    let asked = Request::get(HOST, "/web")
        .header("x-secret", "s")
        .header("x-internal-a", "i")
        .header("x-from", "me")
        .header("x-forwarded-for", "203.0.113.7");
    let changed = send(own, &asked).unwrap();
    let seen = changed.echo().unwrap();
    assert_eq!((seen.header("x-from"), seen.header("x-tenant")), (vec!["127.0.0.1"], vec!["none"]));
    assert!(seen.header("x-secret").is_empty() && seen.header("x-internal-a").is_empty(), "{seen:?}");
    assert_eq!(seen.header("x-forwarded-for"), ["203.0.113.7"]);
    assert_eq!((changed.header("x-served-by"), changed.header("x-served")), (Some("edge"), None));
    assert!(changed.headers.iter().all(|(name, _)| !name.starts_with("x-envoy")), "{changed:?}");
    let usual = send(plain, &asked).unwrap();
    let seen = usual.echo().unwrap();
    assert_eq!((seen.header("x-from"), seen.header("x-secret")), (vec!["me"], vec!["s"]));
    // Envoy adds an address of its machine for a client on it.
    assert!(seen.header("x-forwarded-for").concat().starts_with("203.0.113.7,"), "{seen:?}");
    assert!(usual.header("x-envoy-upstream-service-time").is_some() && usual.header("x-served").is_some());
    // Envoy's own answers too.
    assert_eq!(send(own, &Request::get(HOST, "/none")).unwrap().header("x-served-by"), Some("edge"));
    // What browsers send as gRPC-Web is gRPC behind.
    let web = Request::get(HOST, "/web/a.B/C").method("POST").header("content-type", "application/grpc-web");
    let kind =
        |target: &Target| send(target, &web).unwrap().echo().map(|echo| echo.header("content-type").concat());
    assert_eq!(kind(plain).unwrap(), "application/grpc-web");
    let answer = send(own, &web).unwrap();
    assert!(
        answer.header("grpc-message").is_some_and(|seen| seen.contains("application/grpc\"")),
        "{answer:?}"
    );
}

fn first_version(plain: u16, own: u16) {
    let old = b"GET /web HTTP/1.0\r\n\r\n";
    assert!(raw(own, old).contains(" 200 "), "the host of the listener is meant");
    assert!(!raw(plain, old).contains(" 200 "));
    let wish =
        format!("GET /web HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: TLS/1.2\r\n\r\n");
    let once = |port: u16| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(wish.as_bytes()).unwrap();
        let mut buffer = [0; 12];
        stream.read_exact(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer).into_owned()
    };
    assert_eq!((once(own).as_str(), once(plain).as_str()), ("HTTP/1.1 200", "HTTP/1.1 403"));
}

fn encrypted(usual: &Target, secure: &Target, ports: [u16; 2]) {
    let seen = |target: &Target, path: &str| send(target, &Request::get(HOST, path)).unwrap().echo().unwrap();
    let fingerprint = seen(secure, "/web").header("x-ja4").concat();
    assert!(fingerprint.starts_with("t13"), "{fingerprint}");
    assert_eq!(
        (seen(secure, "/two").scheme.as_str(), seen(usual, "/two").scheme.as_str()),
        ("http", "https")
    );
    let tickets = |target: &Target, port: u16| {
        let (config, name) = target.tls_parts().unwrap();
        let mut connection = rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut stream = rustls::Stream::new(&mut connection, &mut socket);
        stream
            .write_all(format!("GET /web HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n").as_bytes())
            .unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
        connection.tls13_tickets_received()
    };
    assert!(tickets(usual, ports[0]) > 0);
    assert_eq!(tickets(secure, ports[1]), 0);
}

/// A client whose certificate is out of date, and who has another kind of name.
#[test]
fn certificates_may_be_old_and_have_other_names() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    let server = Certificate::for_names(&[HOST]).unwrap();
    stack.set_secret("edge", "cert", &server).unwrap();
    let (authority, device) =
        Certificate::signed_and_expired("a.devices.example.com", "ann@corp.example").unwrap();
    let bundle = stack.folder().join("secrets/edge/devices");
    std::fs::create_dir_all(&bundle).unwrap();
    std::fs::write(bundle.join("ca.crt"), &authority.certificate).unwrap();
    let ports: [u16; 3] = std::array::from_fn(|_| ports::free().unwrap());
    let names = ["old", "new", "other"];
    let of = |name: &str, more: &str| {
        let spec = format!(
            "  tls:\n    clientValidation:\n      {more}\n      caCertificateRefs: [{{ group: '', kind: ConfigMap, name: devices }}]\n"
        );
        policy(name, "ClientTrafficPolicy", "Gateway", &format!("public, sectionName: {name}"), &spec)
    };
    let named = |user: &str| {
        format!(
            "allowExpiredCertificate: true\n      subjectAltNames: {{ otherNames: [{{ oid: 1.3.6.1.4.1.311.20.2.3, value: {user} }}] }}"
        )
    };
    let listeners: Vec<Listener> =
        names.iter().zip(ports).map(|(name, port)| Listener::https(name, port, "cert")).collect();
    let documents = [
        manifest::gateway_class(),
        manifest::service("edge", "web"),
        manifest::gateway("edge", "public", &listeners),
        manifest::http_route("edge", "web", "edge/public", &[], &manifest::rule("/", "web")),
        of("old", &named("ann@corp.example")),
        of("new", "mode: RequireAndVerify"),
        of("other", &named("bob@corp.example")),
    ];
    stack.publish_documents(&documents).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&ports).unwrap();
    let request = Request::get(HOST, "/");
    let target = |port| Target::mutual(port, HOST, &server.der, Some(&device)).unwrap();
    send_until(&target(ports[0]), &request, "an old device", |answer| answer.status == 200).unwrap();
    for port in [ports[1], ports[2]] {
        let answer = send(&target(port), &request);
        assert!(answer.is_err(), "{answer:?}");
    }
}
