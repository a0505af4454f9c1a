//! What clients are answered where something is wrong, and what backends are told of certificates: endpoints that are left out,
//! answers in place of others, faults, compression, and the age of connections. One Envoy with a route for each.

use super::behaviour::{HOST, guarded, policy};
use super::modules::hex;
use super::tokens::{about_ann, bearer, jwt};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{Answer, Connection, Http2, Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::stack::Stack;
use moorgate_tests::{ports, wait};
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

const PASSWORD: &str = "a password of this test";
/// What a request says of a certificate, and what somebody makes up.
const TOLD: &str = "x-forwarded-client-cert";
const FORGED: &str = "By=spiffe://forged;Hash=00";
/// Each listener that asks for a certificate, and what it tells of it.
const MODES: [(&str, &str); 4] = [
    ("clean", "mode: Sanitize"),
    ("set", "mode: SanitizeSet, certDetailsToAdd: [Subject, DNS, URI]"),
    ("append", "mode: AppendForward, certDetailsToAdd: [URI]"),
    ("pass", "mode: ForwardOnly"),
];
/// The host and the URI in the certificate of a device.
const DEVICE: [&str; 2] = ["a.devices.example.com", "spiffe://devices/a"];

/// A server that answers every request with an error and closes the connection. It ends with the test's process.
fn broken() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                if !matches!(stream.read(&mut [0; 4096]), Ok(1..)) {
                    return;
                }
                let head = "HTTP/1.1 500 Broken\r\ncontent-length: 6\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(format!("{head}broken").as_bytes());
                // Until the other side has read it and goes.
                while matches!(stream.read(&mut [0; 4096]), Ok(1..)) {}
            });
        }
    });
    address
}

/// A route with two rules, and what its answers with a status become: that of the second rule.
fn redirected(name: &str, service: &str, (status, more): (u16, &str)) -> [String; 2] {
    let rule = |rule: &str, path: &str, service: &str| {
        format!(
            "    - name: {rule}\n      matches: [{{ path: {{ value: {path} }} }}]\n      \
             backendRefs: [{{ name: {service}, port: 80 }}]\n"
        )
    };
    let sorry = format!("/{name}/sorry");
    let rules = rule("asked", &format!("/{name}"), service) + &rule("sorry", &sorry, "web");
    let spec = format!(
        "  responseOverride:\n    - match: {{ statusCodes: [{{ value: {status} }}] }}\n      \
         redirect: {{ path: {{ type: ReplaceFullPath, replaceFullPath: {sorry} }}{more} }}\n"
    );
    [
        manifest::http_route("edge", name, "edge/public", &[], &rules),
        policy(name, "BackendTrafficPolicy", "HTTPRoute", name, &spec),
    ]
}

fn routes() -> Vec<String> {
    let of = |name: &str, service: &str, spec: &str| guarded(name, service, "BackendTrafficPolicy", spec);
    let route = |name: &str, service: &str| {
        let rule = manifest::rule(&format!("/{name}"), service);
        manifest::http_route("edge", name, "edge/public", &[], &rule)
    };
    let checked = |more: &str| {
        format!(
            "  healthCheck: {{ passive: {{ consecutive5XxErrors: 2, interval: 1s, baseEjectionTime: 10m, {more} }} }}\n"
        )
    };
    let packed = |types: &str| format!("  compression: [{types}]\n");
    let shut = "  responseOverride:
    - match: { statusCodes: [{ value: 401 }] }
      response: { statusCode: 404, contentType: text/plain, body: { type: Inline, inline: 'nothing here' }, header: { set: [{ name: x-replaced, value: '1' }] } }
";
    let basic = "  basicAuth: { users: { name: staff } }\n";
    let us = jwt(&[("us", "")], "");
    let mut all = [
        of("ejected", "pair", &checked("maxEjectionPercent: 50")),
        of("seldom", "pair", &checked("maxEjectionPercent: 10")),
        of("always", "pair", &checked("maxEjectionPercent: 10, alwaysEjectOneEndpoint: true")),
        redirected("moved", "broken", (500, ", statusCode: 301")),
        redirected("asked", "web", (401, "")),
        redirected("known", "web", (401, "")),
        of("shut", "web", shut),
        guarded("plain", "web", "SecurityPolicy", &us),
        of("late", "web", "  faultInjection: { delay: { fixedDelay: 2s } }\n"),
        of("aborted", "web", "  faultInjection: { abort: { grpcStatus: 14 } }\n"),
        of("brotli", "web", &packed("{ type: Brotli }")),
        of("zstd", "web", &packed("{ type: Zstd }")),
        of("several", "web", &packed("{ type: Zstd }, { type: Brotli }")),
        of("aged", "web", "  timeout: { http: { maxConnectionDuration: 1s } }\n"),
    ]
    .concat();
    all.extend([
        route("free", "web"),
        route("both", "pair"),
        route("bare", "broken"),
        policy("asked", "SecurityPolicy", "HTTPRoute", "asked, sectionName: asked", &us),
        policy("known", "SecurityPolicy", "HTTPRoute", "known, sectionName: asked", basic),
        policy("shut", "SecurityPolicy", "HTTPRoute", "shut", &us),
    ]);
    all
}

/// What is said of a listener's clients.
fn clients() -> Vec<String> {
    let told = |(name, mode): (&str, &str)| {
        let spec = format!(
            "  tls:\n    clientValidation:\n      mode: VerifyIfGiven\n      \
             caCertificateRefs: [{{ group: '', kind: ConfigMap, name: devices }}]\n  \
             headers: {{ xForwardedClientCert: {{ {mode} }} }}\n"
        );
        policy(name, "ClientTrafficPolicy", "Gateway", &format!("public, sectionName: {name}"), &spec)
    };
    let short = "  connection: { connectionLimit: { maxConnectionDuration: 1s } }\n";
    let short = policy("short", "ClientTrafficPolicy", "Gateway", "public, sectionName: short", short);
    MODES.into_iter().map(told).chain([short]).collect()
}

struct Scene {
    stack: Stack,
    web: Backend,
    good: Backend,
    target: Target,
    /// The listener on which connections grow old.
    short: Target,
    /// The listeners that ask for a certificate, in the order of their modes.
    told: [u16; 4],
    server: Certificate,
    device: Certificate,
}

/// Writes a file beside the relay.
fn lay(stack: &Stack, name: &str, key: &str, text: &str) {
    let folder = stack.folder().join("secrets/edge").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(key), text).unwrap();
}

impl Scene {
    fn new() -> Self {
        let mut stack = Stack::new("edge/public").unwrap();
        let [web, good] = ["web", "good"].map(|name| Backend::start(name).unwrap());
        let broken = broken();
        let mut all = vec![manifest::gateway_class()];
        for (service, addresses) in
            [("web", vec![web.address()]), ("pair", vec![good.address(), broken]), ("broken", vec![broken])]
        {
            stack.set_endpoints("edge", service, &addresses).unwrap();
            all.push(manifest::service("edge", service));
        }
        let server = Certificate::for_names(&[HOST]).unwrap();
        stack.set_secret("edge", "cert", &server).unwrap();
        let (authority, device) = Certificate::signed_for(&DEVICE).unwrap();
        lay(&stack, "devices", "ca.crt", &authority.certificate);
        let hash = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, PASSWORD.as_bytes());
        lay(&stack, "staff", ".htpasswd", &format!("ann:{{SHA}}{}\n", STANDARD.encode(hash.as_ref())));
        let [port, short] = [(); 2].map(|()| ports::free().unwrap());
        let told = MODES.map(|_| ports::free().unwrap());
        let mut listeners = vec![Listener::http("http", port), Listener::http("short", short)];
        listeners.extend(MODES.iter().zip(told).map(|((name, _), port)| Listener::https(name, port, "cert")));
        all.push(manifest::gateway("edge", "public", &listeners));
        all.extend(routes());
        all.extend(clients());
        stack.publish_documents(&all).unwrap().ended_with(&[0]).unwrap();
        stack.start_relay().unwrap();
        stack.start_envoy(&[&[port, short][..], &told].concat()).unwrap();
        let [target, short] = [port, short].map(Target::plain);
        let scene = Self { stack, web, good, target, short, told, server, device };
        let known = told.map(|port| scene.at(port, true));
        for target in [&scene.target, &scene.short].into_iter().chain(&known) {
            send_until(target, &get("/free"), "an answer", |answer| answer.status == 200).unwrap();
        }
        scene
    }

    /// A listener that asks for a certificate, and a client that has one or has none.
    fn at(&self, port: u16, known: bool) -> Target {
        let client = known.then_some(&self.device);
        Target::mutual(port, HOST, &self.server.der, client).unwrap()
    }

    fn send(&self, request: &Request) -> Answer {
        send(&self.target, request).unwrap()
    }

    fn ask(&self, path: &str) -> Answer {
        self.send(&get(path))
    }

    /// What Envoy has counted under names with this part, but for those under which it has counted nothing.
    fn counted(&self, part: &str) -> Vec<(String, u64)> {
        let admin = Target::plain(self.stack.admin_port());
        let stats = text(&send(&admin, &Request::get("admin", &format!("/stats?filter={part}"))).unwrap());
        let line = |line: &str| {
            let (name, count) = line.split_once(": ").unwrap();
            (name.to_owned(), count.parse::<u64>().unwrap())
        };
        stats.lines().map(line).filter(|(_, count)| *count > 0).collect()
    }
}

fn get(path: &str) -> Request {
    Request::get(HOST, path)
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

#[test]
fn what_clients_are_answered_is_as_policies_say() {
    let scene = Scene::new();
    endpoints(&scene);
    elsewhere(&scene);
    kept_out(&scene);
    faults(&scene);
    packed(&scene);
    ages(&scene);
    certificates(&scene);
}

/// An endpoint whose answers are errors is left out, as far as so many of all may be. Other routes to the same Service ask it.
fn endpoints(scene: &Scene) {
    let answers = |path: &str| (0..40).map(|_| scene.ask(path).status).collect::<BTreeSet<u16>>();
    let both = BTreeSet::from([200, 500]);
    for path in ["/both", "/seldom"] {
        assert_eq!(answers(path), both, "{path}");
    }
    for path in ["/ejected", "/always"] {
        wait::until(&format!("an endpoint of {path} to be left out"), || {
            let found = answers(path);
            anyhow::ensure!(found == BTreeSet::from([200]), "{found:?}");
            Ok(())
        })
        .unwrap();
        assert_eq!(scene.ask(path).who(), scene.good.name());
    }
    // One of two is more than ten of a hundred.
    for path in ["/both", "/seldom"] {
        assert_eq!(answers(path), both, "{path}");
    }
}

/// Instead of an error of a backend comes what Envoy is answered elsewhere, with a status of its own.
fn elsewhere(scene: &Scene) {
    let moved = scene.ask("/moved");
    assert_eq!((moved.status, moved.who().as_str()), (301, "web"));
    assert_eq!(moved.echo().unwrap().path, "/moved/sorry");
    let sorry = scene.ask("/moved/sorry");
    assert_eq!((sorry.status, sorry.who().as_str()), (200, "web"), "what is well stays as it is");
    let bare = scene.ask("/bare");
    assert_eq!((bare.status, text(&bare).as_str()), (500, "broken"));
}

/// The same for whom a filter keeps out, before a backend is asked.
fn kept_out(scene: &Scene) {
    let credentials = STANDARD.encode(format!("ann:{PASSWORD}"));
    let basic = get("/known").header("authorization", &format!("Basic {credentials}"));
    let good = |path: &str| bearer(path, &about_ann("us", ""));
    // Users come to Envoy by themselves.
    send_until(&scene.target, &basic, "the user to be known", |answer| answer.status == 200).unwrap();
    for (path, known) in [("/asked", good("/asked")), ("/known", basic)] {
        let answer = scene.send(&known);
        assert_eq!((answer.status, answer.echo().unwrap().path.as_str()), (200, path));
        let wrong = get(path).header("authorization", "Bearer nobody");
        for unknown in [get(path), wrong] {
            let answer = scene.send(&unknown);
            assert_eq!((answer.status, answer.who().as_str()), (302, "web"), "{unknown:?}");
            assert_eq!(answer.echo().unwrap().path, format!("{path}/sorry"));
        }
    }
    let shut = scene.ask("/shut");
    assert_eq!((shut.status, text(&shut).as_str()), (404, "nothing here"));
    assert_eq!((shut.header("x-replaced"), shut.header("content-type")), (Some("1"), Some("text/plain")));
    assert_eq!(scene.send(&good("/shut")).who(), "web");
    let plain = scene.ask("/plain");
    assert_eq!((plain.status, plain.header("x-replaced")), (401, None));
    assert_eq!(scene.send(&good("/plain")).who(), "web");
}

fn faults(scene: &Scene) {
    assert_eq!(scene.ask("/free").who(), "web");
    assert!(scene.counted("fault.delays_injected").is_empty());
    let before = Instant::now();
    assert_eq!(scene.ask("/late").who(), "web");
    // Envoy's clock stands still while it does something, so a little may be missing.
    assert!(before.elapsed() > Duration::from_millis(1900), "{:?}", before.elapsed());
    let counted: Vec<u64> =
        scene.counted("fault.delays_injected").into_iter().map(|(_, count)| count).collect();
    assert_eq!(counted, [1]);
    // A call is refused in the words of gRPC, and no backend hears of it.
    let mut connection = Http2::open(&scene.target).unwrap();
    let mut call = |service: &str| {
        let answer = connection.call(HOST, &format!("{service}/Add"), &[]).unwrap();
        (answer.status, answer.header("grpc-status").map(str::to_owned), answer.backend().is_some())
    };
    let heard = scene.web.received();
    assert_eq!(call("aborted"), (200, Some("14".to_owned()), false));
    assert_eq!(scene.web.received(), heard);
    assert_eq!(call("free"), (200, None, true));
    assert_eq!(scene.web.received(), heard + 1);
}

/// Answers are compressed for those who can read them, by what the route has.
fn packed(scene: &Scene) {
    let asked = |path: &str, accepted: &str| {
        let request =
            if accepted.is_empty() { get(path) } else { get(path).header("accept-encoding", accepted) };
        scene.send(&request)
    };
    for (path, accepted, wanted) in [
        ("/brotli", "br", Some("br")),
        ("/brotli", "zstd", None),
        ("/brotli", "identity", None),
        ("/brotli", "", None),
        ("/zstd", "zstd", Some("zstd")),
        ("/zstd", "br", None),
        ("/zstd", "", None),
        ("/several", "br", Some("br")),
        ("/several", "zstd", Some("zstd")),
        ("/several", "br, zstd", Some("zstd")),
        ("/several", "gzip", None),
        ("/several", "", None),
        ("/free", "br, zstd, gzip", None),
    ] {
        let answer = asked(path, accepted);
        let found = (answer.status, answer.header("content-encoding"));
        assert_eq!(found, (200, wanted), "{path} {accepted}");
        assert_eq!(answer.echo().is_ok(), wanted.is_none(), "{path} {accepted}");
    }
    let unpacked = zstd::decode_all(&asked("/zstd", "zstd").body[..]).unwrap();
    assert!(String::from_utf8(unpacked).unwrap().contains(r#""path":"/zstd""#));
}

/// An old connection of a client is closed with an answer, and one to a backend when nothing is under way.
fn ages(scene: &Scene) {
    let runtime = moorgate_tests::runtime();
    let open = |target: &Target| runtime.block_on(Connection::open(target)).unwrap();
    let (mut kept, mut short) = (open(&scene.target), open(&scene.short));
    let request = get("/free");
    assert_eq!(runtime.block_on(kept.send(&request)).unwrap().status, 200);
    wait::until("the last answer of an old connection", || {
        let answer = runtime.block_on(short.send(&request))?;
        anyhow::ensure!(answer.header("connection") == Some("close"), "{answer:?}");
        Ok(())
    })
    .unwrap();
    let answer = runtime.block_on(kept.send(&request)).unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, None));
    wait::until("an old connection to a backend to be given up", || {
        anyhow::ensure!(scene.ask("/aged").status == 200, "no answer");
        let counted = scene.counted("upstream_cx_max_duration_reached");
        anyhow::ensure!(counted.len() == 1, "only one cluster has such a limit: {counted:?}");
        Ok(())
    })
    .unwrap();
}

/// What a backend is told of a client's certificate is what the certificate says; what a client says itself counts only where
/// the policy wants that.
fn certificates(scene: &Scene) {
    let told = |target: &Target, forged: bool| -> Vec<String> {
        let request = get("/free").header("x-team", "blue");
        let request = if forged { request.header(TOLD, FORGED) } else { request };
        let echo = send(target, &request).unwrap().echo().unwrap();
        assert_eq!(echo.header("x-team"), ["blue"], "other headers are passed on");
        echo.header(TOLD).into_iter().map(str::to_owned).collect()
    };
    // Who has shown none has nothing to say of one, whatever the mode is.
    assert!(told(&scene.target, true).is_empty());
    for (port, (mode, _)) in scene.told.into_iter().zip(MODES) {
        assert!(told(&scene.at(port, false), true).is_empty(), "{mode}");
    }
    let [clean, set, append, pass] = scene.told.map(|port| scene.at(port, true));
    assert!(told(&clean, true).is_empty() && told(&clean, false).is_empty());
    assert_eq!(told(&pass, true), [FORGED]);
    let [hash, dns, uri] = [
        format!("Hash={}", hex(&scene.device.der)),
        format!("DNS={}", DEVICE[0]),
        format!("URI={}", DEVICE[1]),
    ];
    for forged in [true, false] {
        let said = told(&set, forged).join(" and ");
        for part in [hash.as_str(), dns.as_str(), uri.as_str(), "Subject=\""] {
            assert!(said.contains(part), "{part} in {said}");
        }
        assert!(!said.contains("forged"), "{said}");
    }
    // Behind what came stands the same of the client itself, and no more than was asked for.
    let said = told(&append, true).join(" and ");
    let own = said.strip_prefix(&format!("{FORGED},")).unwrap_or_else(|| panic!("{said}"));
    for own in [own, told(&append, false).join(" and ").as_str()] {
        assert!(own.contains(&hash) && own.contains(&uri), "{own}");
        assert!(!own.contains("DNS=") && !own.contains("Subject=") && !own.contains("forged"), "{own}");
    }
}
