//! What the parameters of a fleet say of all its Gateways, backends and scripts, on a real Envoy.

use super::behaviour::{HOST, policy};
use moorgate_tests::backend::Backend;
use moorgate_tests::http::{Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::ports;
use moorgate_tests::stack::Stack;
use std::io::BufReader;
use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

fn class() -> String {
    manifest::gateway_class().replace(
        "controllerName",
        "parametersRef: { group: gateway.envoyproxy.io, kind: EnvoyProxy, namespace: edge, name: all }\n  controllerName",
    )
}

fn parameters(spec: &str) -> String {
    format!(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyProxy\nmetadata: {{ name: all, namespace: edge }}\nspec:\n{spec}"
    )
}

fn get(host: &str, path: &str) -> Request {
    Request::get(host, path)
}

/// What a file holds, as soon as this is in it; what it holds after half a minute otherwise.
fn written(path: &Path, wanted: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.contains(wanted) || Instant::now() > deadline {
            return text;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A server that says which protocols each client offers, and hangs up.
fn offered() -> (std::net::SocketAddr, mpsc::Receiver<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut acceptor = rustls::server::Acceptor::default();
            let mut reader = BufReader::new(stream);
            let hello = loop {
                match acceptor.read_tls(&mut reader) {
                    Ok(0) | Err(_) => break None,
                    Ok(_) => {}
                }
                match acceptor.accept() {
                    Ok(Some(accepted)) => break Some(accepted),
                    Ok(None) => {}
                    Err(_) => break None,
                }
            };
            let Some(hello) = hello else { continue };
            let names = hello.client_hello().alpn().map(|names| {
                names.map(|name| String::from_utf8_lossy(name).into_owned()).collect::<Vec<_>>()
            });
            if sender.send(names.unwrap_or_default()).is_err() {
                return;
            }
        }
    });
    (address, receiver)
}

const SCRIPT: &str = "  lua:\n    - type: Inline\n      inline: |\n        ";

#[test]
fn one_fleet_serves_all_gateways_of_the_class_as_its_parameters_say() {
    let mut stack = Stack::new("class/moorgate").unwrap();
    let web = Backend::start("web").unwrap();
    let (tls, hellos) = offered();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    stack.set_endpoints("edge", "tls", &[tls]).unwrap();
    let port = ports::free().unwrap();
    let log = stack.folder().join("checks.log");
    let all = format!(
        "  mergeGateways: true\n  luaValidation: Disabled\n  backendTLS: {{ alpnProtocols: [h2, http/1.1] }}\n  telemetry:\n    \
         healthCheckLog: {{ sinks: [{{ type: File, file: {{ path: {} }} }}] }}\n",
        log.display()
    );
    let gateway = |name: &str, host: &str| {
        manifest::gateway("edge", name, &[Listener::http("http", port).hostname(host)])
    };
    let route = |name: &str, gateway: &str, service: &str| {
        let rules = manifest::rule(&format!("/{name}"), service);
        manifest::http_route("edge", name, &format!("edge/{gateway}"), &[], &rules)
    };
    let extension = |name: &str, script: &str| {
        policy(name, "EnvoyExtensionPolicy", "HTTPRoute", name, &format!("{SCRIPT}{script}\n"))
    };
    let trusted = "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: { name: tls, namespace: edge }\nspec:\n  \
                   targetRefs: [{ group: '', kind: Service, name: tls }]\n  validation: { hostname: tls.example, wellKnownCACertificates: System }\n";
    let documents = [
        class(),
        parameters(&all),
        manifest::service("edge", "web"),
        manifest::service("edge", "tls"),
        trusted.to_owned(),
        gateway("one", HOST),
        gateway("two", "two.example.com"),
        route("here", "one", "web"),
        route("there", "two", "web"),
        route("secret", "one", "tls"),
        route("reaching", "one", "web"),
        route("broken", "one", "web"),
        policy(
            "checked",
            "BackendTrafficPolicy",
            "HTTPRoute",
            "here",
            "  healthCheck: { active: { type: TCP, tcp: {}, timeout: 1s, interval: 1s } }\n",
        ),
        extension(
            "reaching",
            "function envoy_on_request(h) h:headers():add('x-here', tostring(io ~= nil)) end",
        ),
        extension("broken", "function envoy_on_request(h"),
    ];
    stack.publish_documents(&documents).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let target = Target::plain(port);
    let answers = |host: &str, path: &str| send(&target, &get(host, path)).unwrap().status;
    send_until(&target, &get(HOST, "/here"), "an answer", |answer| answer.status == 200).unwrap();

    // Both Gateways are one Envoy's, each with its own hosts.
    assert_eq!((answers("two.example.com", "/there"), answers("two.example.com", "/here")), (200, 404));
    assert_eq!((answers(HOST, "/here"), answers(HOST, "/there")), (200, 404));
    // Scripts are not looked at: one does what would be refused, and one that is none answers 500 by itself.
    let reaching = send(&target, &get(HOST, "/reaching")).unwrap();
    assert_eq!((reaching.status, reaching.echo().unwrap().header("x-here")), (200, vec!["true"]));
    assert_eq!(answers(HOST, "/broken"), 500);
    // What is offered to a backend; it hangs up.
    assert_eq!(answers(HOST, "/secret"), 503);
    assert_eq!(hellos.recv_timeout(Duration::from_secs(30)).unwrap(), ["h2", "http/1.1"]);
    let lines = written(&log, "health_checker_type");
    assert!(lines.contains("\"TCP\"") && lines.contains("edge/web/80+edge.checked"), "{lines}");
}

/// With a limit of connections of its own for each cluster: rules that share one share its limit.
#[test]
fn backends_that_are_not_chosen_have_a_cluster_for_each_rule() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    for service in ["shared", "apart"] {
        stack.set_endpoints("edge", service, &[web.address()]).unwrap();
    }
    let port = ports::free().unwrap();
    let all = "  mergeBackends: { selector: { matchExpressions: [{ key: team, operator: In, values: [a, b] }] } }\n";
    let rules = |service: &str| {
        let one = |path: &str| manifest::rule(&format!("/{service}{path}"), service);
        [one("/1"), one("/2")].concat()
    };
    let route = |service: &str| manifest::http_route("edge", service, "edge/public", &[], &rules(service));
    let plain = manifest::service("edge", "shared");
    let labelled = plain.replace("  namespace: edge\n", "  namespace: edge\n  labels: { team: b }\n");
    assert!(labelled.contains("team: b"), "{labelled}");
    let documents = [
        class(),
        parameters(all),
        labelled,
        manifest::service("edge", "apart"),
        manifest::gateway("edge", "public", &[Listener::http("http", port)]),
        route("shared"),
        route("apart"),
    ];
    stack.publish_documents(&documents).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let target = Target::plain(port);
    send_until(&target, &get(HOST, "/shared/1"), "an answer", |answer| answer.status == 200).unwrap();
    for path in ["/shared/2", "/apart/1", "/apart/2"] {
        send_until(&target, &get(HOST, path), "an answer", |answer| answer.status == 200).unwrap();
    }
    let served =
        |cluster: &str| stack.envoy().unwrap().stat(&format!("cluster.{cluster}.upstream_rq_total")).unwrap();
    let mut served = served;
    assert!(served("edge/shared/80") >= 2);
    assert!(served("edge/apart/80@edge.apart.0") >= 1 && served("edge/apart/80@edge.apart.1") >= 1);
}
