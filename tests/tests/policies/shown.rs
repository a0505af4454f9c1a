//! Certificates that clients show: modes, and lists of those that do not count any more, on a real Envoy.

use super::behaviour::{HOST, policy};
use super::security::lie_beside_the_relay_alone;
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::ports;
use moorgate_tests::redaction::Markers;
use moorgate_tests::stack::Stack;

/// A policy for a listener of the same name.
fn validated(name: &str, rules: &str) -> String {
    let of = format!("public, sectionName: {name}");
    policy(
        name,
        "ClientTrafficPolicy",
        "Gateway",
        &of,
        &format!("  tls: {{ clientValidation: {{ {rules} }} }}\n"),
    )
}

#[test]
fn clients_are_let_in_by_what_they_show() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    let server = Certificate::for_names(&[HOST]).unwrap();
    stack.set_secret("edge", "cert", &server).unwrap();
    let (authority, device, lost, list) = Certificate::revoked("a.devices.example.com").unwrap();
    let (_, stranger) = Certificate::signed("a.devices.example.com").unwrap();
    let mut markers = Markers::default();
    // In its first lines stands who made it, which is no secret.
    for line in list.lines().filter(|line| !line.starts_with("-----")).skip(2) {
        markers.text("the list", line);
    }
    for (name, file, text) in [("devices", "ca.crt", &authority.certificate), ("list", "ca.crl", &list)] {
        let folder = stack.folder().join("secrets/edge").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(file), text).unwrap();
    }
    let names = ["request", "request-alone", "any", "any-alone", "verify", "list"];
    let ports = names.map(|_| ports::free().unwrap());
    let [request, request_alone, any, any_alone, verify, list] = ports;
    let listeners: Vec<Listener> =
        names.iter().zip(ports).map(|(name, port)| Listener::https(name, port, "cert")).collect();
    let ca = "caCertificateRefs: [{ group: '', kind: ConfigMap, name: devices }]";
    let documents = [
        manifest::gateway_class(),
        manifest::service("edge", "web"),
        manifest::gateway("edge", "public", &listeners),
        manifest::http_route("edge", "free", "edge/public", &[], &manifest::rule("/", "web")),
        validated("request", &format!("mode: Request, {ca}")),
        validated("request-alone", "mode: Request"),
        validated("any", &format!("mode: RequireAny, {ca}")),
        validated("any-alone", "mode: RequireAny"),
        validated("verify", &format!("mode: RequireAndVerify, {}", ca.replace("ConfigMap", "Secret"))),
        validated(
            "list",
            &format!(
                "mode: VerifyIfGiven, {ca}, crl: {{ refs: [{{ group: '', kind: Secret, name: list }}] }}"
            ),
        ),
    ];
    stack.publish_documents(&documents).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&ports).unwrap();
    let get = Request::get(HOST, "/");
    let target =
        |port, client: Option<&Certificate>| Target::mutual(port, HOST, &server.der, client).unwrap();
    send_until(&target(verify, Some(&device)), &get, "a device", |answer| answer.status == 200).unwrap();
    send_until(&target(list, Some(&device)), &get, "a device", |answer| answer.status == 200).unwrap();
    let passes = |port, client: Option<&Certificate>| {
        send(&target(port, client), &get).map(|answer| answer.status).unwrap_or_default() == 200
    };

    // Whoever asks only takes whatever is shown; whoever requires one takes any.
    for port in [request, request_alone, any] {
        for client in [&device, &lost, &stranger] {
            assert!(passes(port, Some(client)), "{port}");
        }
    }
    assert!(passes(request, None) && passes(request_alone, None));
    assert!(!passes(any, None));
    // Without an authority Envoy would not require one: nobody is let in.
    assert!(!passes(any_alone, None) && !passes(any_alone, Some(&device)));
    // Whoever verifies takes what an authority has signed, and a list takes some of that away again.
    assert!(passes(verify, Some(&lost)) && !passes(verify, Some(&stranger)) && !passes(verify, None));
    assert!(passes(list, Some(&device)) && passes(list, None));
    assert!(!passes(list, Some(&lost)) && !passes(list, Some(&stranger)));
    // A list is read beside the relay, too, and its name alone is told.
    let told = lie_beside_the_relay_alone(&stack, &markers);
    assert!(told.contains("Revoked/edge/list"), "{told}");
}
