//! The whole path on a real Envoy: publish, relay, Envoy, request.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use anyhow::{Result, bail, ensure};
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{Answer, Request, Target, send, send_until};
use moorgate_tests::load::Load;
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::stack::{Protocol, Stack};
use moorgate_tests::{ports, program, wait};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;

const HOST: &str = "shop.example.com";

/// A fleet `edge/public` with one HTTP listener, and backends by name, each a Service of namespace `shop`.
struct Stage {
    stack: Stack,
    port: u16,
    backends: BTreeMap<String, Backend>,
    target: Target,
}

impl Stage {
    /// Lays everything but the routes; starts nothing but the backends.
    fn lay(names: &[&str]) -> Result<Self> {
        let (stack, port) = (Stack::new("edge/public")?, ports::free()?);
        let mut backends = BTreeMap::new();
        for name in names {
            let backend = Backend::start(name)?;
            stack.set_endpoints("shop", name, &[backend.address()])?;
            backends.insert((*name).to_owned(), backend);
        }
        Ok(Self { stack, port, backends, target: Target::plain(port) })
    }

    /// Class, Gateway with these further listeners, and Services.
    fn base(&self, more: &[Listener]) -> Vec<String> {
        let mut listeners = vec![Listener::http("http", self.port)];
        listeners.extend_from_slice(more);
        let mut all = vec![manifest::gateway_class(), manifest::gateway("edge", "public", &listeners)];
        all.extend(self.backends.keys().map(|name| manifest::service("shop", name)));
        all
    }

    fn publish(&self, more: &[Listener], routes: &[String]) -> Result<()> {
        let mut all = self.base(more);
        all.extend_from_slice(routes);
        self.stack.publish_documents(&all)?;
        Ok(())
    }

    /// Publishes one route with these rules, and starts relay and Envoy.
    fn start(&mut self, rules: &str) -> Result<()> {
        self.publish(&[], &[route(rules)])?;
        self.stack.start_relay()?;
        self.stack.start_envoy(&[self.port])
    }

    fn get(&self, path: &str) -> Result<Answer> {
        send(&self.target, &Request::get(HOST, path))
    }

    /// Asks until this backend or status answers: endpoints may arrive a moment after listeners.
    fn answered_by(&self, path: &str, who: &str) -> Result<Answer> {
        let request = Request::get(HOST, path);
        send_until(&self.target, &request, &format!("{path} by {who}"), |answer| answer.who() == who)
    }
}

fn route(rules: &str) -> String {
    manifest::http_route("shop", "shop", "edge/public", &[HOST], rules)
}

/// A rule with a path prefix, filters and one backend; `filters` is YAML in flow style.
fn filtered(prefix: &str, filters: &str, backend: &str) -> String {
    format!(
        "    - matches: [{{ path: {{ type: PathPrefix, value: {prefix} }} }}]\n      filters: [{filters}]\n      \
         backendRefs: [{{ name: {backend}, port: 80 }}]\n"
    )
}

#[test]
fn http_and_https_on_every_envoy_and_protocol() {
    let certificate = Certificate::for_names(&[HOST]).unwrap();
    for (version, envoy) in program::envoys().unwrap() {
        for protocol in [Protocol::Delta, Protocol::StateOfTheWorld] {
            let mut stage = Stage::lay(&["cart", "articles"]).unwrap();
            let port = ports::free().unwrap();
            stage.stack.program.clone_from(&envoy);
            stage.stack.protocol = protocol;
            stage.stack.set_secret("edge", "certificate", &certificate).unwrap();
            let rules = manifest::rule("/cart", "cart") + &manifest::rule("/", "articles");
            let listener = Listener::https("https", port, "certificate");
            stage.publish(&[listener], &[route(&rules)]).unwrap();
            stage.stack.start_relay().unwrap();
            stage.stack.start_envoy(&[stage.port, port]).unwrap();
            let secure = Target::tls(port, HOST, &certificate.der).unwrap();
            for target in [&stage.target, &secure] {
                for (path, backend) in [("/cart/1", "cart"), ("/cartoon", "articles"), ("/", "articles")] {
                    let what = format!("{path} on Envoy {version}, {protocol:?}");
                    let request = Request::get(HOST, path);
                    let answer = send_until(target, &request, &what, |answer| answer.who() == backend);
                    assert_eq!(answer.unwrap().echo().unwrap().path, path, "{what}");
                }
                assert_eq!(send(target, &Request::get("other.example", "/")).unwrap().status, 404);
            }
        }
    }
}

#[test]
fn weights_share_the_requests() {
    let mut stage = Stage::lay(&["heavy", "light", "never"]).unwrap();
    let rule = "    - backendRefs:\n        - { name: heavy, port: 80, weight: 3 }\n        \
                - { name: light, port: 80, weight: 1 }\n        - { name: never, port: 80, weight: 0 }\n";
    stage.start(rule).unwrap();
    for backend in ["heavy", "light"] {
        stage.answered_by("/", backend).unwrap();
    }
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..800 {
        *counts.entry(stage.get("/").unwrap().who()).or_default() += 1;
    }
    // 600 expected, standard deviation 12: seven of them to either side.
    assert!((515..=685).contains(&counts["heavy"]), "{counts:?}");
    assert_eq!(counts["heavy"] + counts["light"], 800, "{counts:?}");
    assert_eq!(stage.backends["never"].received(), 0);
}

#[test]
fn headers_are_set_added_and_removed() {
    let mut stage = Stage::lay(&["cart"]).unwrap();
    let request = "{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: X-Set, value: new }], \
                   add: [{ name: x-add, value: more }], remove: [x-gone] } }";
    let response = "{ type: ResponseHeaderModifier, responseHeaderModifier: { set: [{ name: x-backend, value: \
                    renamed }], add: [{ name: x-extra, value: \"100%\" }], remove: [x-served] } }";
    stage.start(&filtered("/", &format!("{request}, {response}"), "cart")).unwrap();
    let request =
        Request::get(HOST, "/").header("x-set", "old").header("x-add", "first").header("X-Gone", "secret");
    let answer = send_until(&stage.target, &request, "cart", |answer| answer.status == 200).unwrap();
    let echo = answer.echo().unwrap();
    assert_eq!(echo.header("x-set"), ["new"]);
    assert_eq!(echo.header("x-add").join(","), "first,more");
    assert_eq!(echo.header("x-gone"), [""; 0]);
    assert_eq!(answer.header("x-backend"), Some("renamed"));
    assert_eq!(answer.header("x-extra"), Some("100%"));
    assert_eq!(answer.header("x-served"), None);
}

#[test]
fn redirects_name_scheme_host_port_path_and_status() {
    let mut stage = Stage::lay(&["cart"]).unwrap();
    let port = stage.port;
    let cases = [
        // The listener's port is unusual and Envoy would keep that of the Host header, so 443 is spelled out.
        ("/scheme", "{ scheme: https, statusCode: 301 }", 301, format!("https://{HOST}:443/scheme/x?q=1")),
        ("/usual", "{ scheme: https, hostname: a.example }", 302, "https://a.example/usual/x?q=1".to_owned()),
        ("/host", "{ hostname: other.example }", 302, format!("http://other.example:{port}/host/x?q=1")),
        ("/port", "{ port: 8443, statusCode: 307 }", 307, format!("http://{HOST}:8443/port/x?q=1")),
        (
            "/prefix",
            "{ path: { type: ReplacePrefixMatch, replacePrefixMatch: /new }, statusCode: 308 }",
            308,
            format!("http://{HOST}:{port}/new/x?q=1"),
        ),
        (
            "/full",
            "{ path: { type: ReplaceFullPath, replaceFullPath: /only }, statusCode: 303 }",
            303,
            format!("http://{HOST}:{port}/only?q=1"),
        ),
    ];
    let mut rules = manifest::rule("/", "cart");
    rules.extend(cases.iter().map(|(prefix, redirect, _, _)| {
        format!(
            "    - matches: [{{ path: {{ type: PathPrefix, value: {prefix} }} }}]\n      filters: [{{ type: \
             RequestRedirect, requestRedirect: {redirect} }}]\n"
        )
    }));
    stage.start(&rules).unwrap();
    stage.answered_by("/", "cart").unwrap();
    for (prefix, _, status, location) in cases {
        let request = Request::get(&format!("{HOST}:{port}"), &format!("{prefix}/x?q=1"));
        let answer = send(&stage.target, &request).unwrap();
        assert_eq!((answer.status, answer.header("location")), (status, Some(location.as_str())), "{prefix}");
    }
}

#[test]
fn rewrites_change_host_and_path() {
    let mut stage = Stage::lay(&["cart"]).unwrap();
    let rewrite = |fields: &str| format!("{{ type: URLRewrite, urlRewrite: {{ {fields} }} }}");
    let rules = [
        filtered("/host", &rewrite("hostname: inner.example"), "cart"),
        filtered("/full", &rewrite("path: { type: ReplaceFullPath, replaceFullPath: /whole }"), "cart"),
        filtered("/prefix", &rewrite("path: { type: ReplacePrefixMatch, replacePrefixMatch: /v2 }"), "cart"),
        filtered("/strip", &rewrite("path: { type: ReplacePrefixMatch, replacePrefixMatch: / }"), "cart"),
    ]
    .concat();
    stage.start(&rules).unwrap();
    let cases = [
        ("/host/a", "inner.example", "/host/a"),
        ("/full/a?q=1", HOST, "/whole?q=1"),
        ("/prefix/a/b?q=1", HOST, "/v2/a/b?q=1"),
        ("/prefix", HOST, "/v2"),
        ("/strip/a", HOST, "/a"),
        ("/strip", HOST, "/"),
    ];
    for (sent, host, path) in cases {
        let echo = stage.answered_by(sent, "cart").unwrap().echo().unwrap();
        assert_eq!((echo.host.as_str(), echo.path.as_str()), (host, path), "{sent}");
    }
}

#[test]
fn invalid_backends_answer_500_empty_ones_503_and_unrouted_paths_404() {
    let mut stage = Stage::lay(&["cart", "idle"]).unwrap();
    stage.stack.set_endpoints("shop", "idle", &[]).unwrap();
    let half = "    - matches: [{ path: { type: PathPrefix, value: /half } }]\n      backendRefs: [{ name: cart, port: 80 \
                }, { name: missing, port: 80 }]\n";
    let rules = [
        manifest::rule("/cart", "cart"),
        manifest::rule("/missing", "missing"),
        manifest::rule("/idle", "idle"),
        half.to_owned(),
    ]
    .concat();
    stage.start(&rules).unwrap();
    stage.answered_by("/cart", "cart").unwrap();
    stage.answered_by("/missing", "500").unwrap();
    stage.answered_by("/idle", "503").unwrap();
    stage.answered_by("/elsewhere", "404").unwrap();
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..400 {
        *counts.entry(stage.get("/half").unwrap().who()).or_default() += 1;
    }
    // 200 expected, standard deviation 10.
    assert!((130..=270).contains(&counts["500"]), "{counts:?}");
    assert_eq!(counts["500"] + counts["cart"], 400, "{counts:?}");
}

#[test]
fn another_namespace_is_reached_by_its_grant_only() {
    let mut stage = Stage::lay(&["cart"]).unwrap();
    let rules = "    - backendRefs: [{ name: cart, namespace: shop, port: 80 }]\n";
    let route = manifest::http_route("blog", "blog", "edge/public", &[HOST], rules);
    stage.publish(&[], std::slice::from_ref(&route)).unwrap();
    stage.stack.start_relay().unwrap();
    stage.stack.start_envoy(&[stage.port]).unwrap();
    stage.answered_by("/", "500").unwrap();
    let grant = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: { name: blog, namespace: \
                 shop }\nspec:\n  from: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: blog }]\n  to: \
                 [{ group: \"\", kind: Service, name: cart }]\n";
    stage.publish(&[], &[route.clone(), grant.to_owned()]).unwrap();
    stage.answered_by("/", "cart").unwrap();
    stage.publish(&[], &[route]).unwrap();
    stage.answered_by("/", "500").unwrap();
}

#[test]
fn a_backend_that_speaks_http_2_is_spoken_to_in_http_2() {
    let mut stage = Stage::lay(&["plain"]).unwrap();
    let modern = Backend::start("modern").unwrap();
    stage.stack.set_endpoints("shop", "modern", &[modern.address()]).unwrap();
    let service = manifest::service("shop", "modern")
        .replace("      port: 80\n", "      port: 80\n      appProtocol: kubernetes.io/h2c\n");
    let rules = manifest::rule("/modern", "modern") + &manifest::rule("/plain", "plain");
    stage.publish(&[], &[service, route(&rules)]).unwrap();
    stage.stack.start_relay().unwrap();
    stage.stack.start_envoy(&[stage.port]).unwrap();
    for (name, protocol) in [("modern", "HTTP/2.0"), ("plain", "HTTP/1.1")] {
        let echo = stage.answered_by(&format!("/{name}"), name).unwrap().echo().unwrap();
        assert_eq!(echo.protocol, protocol);
    }
}

/// Waits until a handshake that trusts only this certificate succeeds.
fn handshakes_with(port: u16, certificate: &Certificate) -> Result<()> {
    let target = Target::tls(port, HOST, &certificate.der)?;
    send_until(&target, &Request::get(HOST, "/"), "the certificate", |answer| answer.status == 200)?;
    Ok(())
}

#[test]
fn a_certificate_rotates_without_a_snapshot_and_costs_no_request() {
    let mut stage = Stage::lay(&["cart"]).unwrap();
    let port = ports::free().unwrap();
    let (old, new) = (Certificate::for_names(&[HOST]).unwrap(), Certificate::for_names(&[HOST]).unwrap());
    stage.stack.set_secret("edge", "certificate", &old).unwrap();
    let listener = Listener::https("https", port, "certificate");
    stage.publish(&[listener], &[route(&manifest::rule("/", "cart"))]).unwrap();
    stage.stack.start_relay().unwrap();
    stage.stack.start_envoy(&[stage.port, port]).unwrap();
    handshakes_with(port, &old).unwrap();
    let before = stage.stack.relay_admin("/snapshot").unwrap()["fleets"][0]["snapshot"].clone();
    stage.answered_by("/", "cart").unwrap();
    let load = Load::start(&stage.target, &Request::get(HOST, "/"), 2, Duration::from_millis(2));
    load.wait(50).unwrap();
    stage.stack.set_secret("edge", "certificate", &new).unwrap();
    handshakes_with(port, &new).unwrap();
    assert!(send(&Target::tls(port, HOST, &old.der).unwrap(), &Request::get(HOST, "/")).is_err());
    load.wait(50).unwrap();
    load.stop().nothing_lost().unwrap();
    assert_eq!(stage.stack.relay_admin("/snapshot").unwrap()["fleets"][0]["snapshot"], before);
}

#[test]
fn a_missing_certificate_costs_its_own_listener_only() {
    let mut stage = Stage::lay(&["cart"]).unwrap();
    let (good, missing) = (ports::free().unwrap(), ports::free().unwrap());
    let certificate = Certificate::for_names(&[HOST]).unwrap();
    stage.stack.set_secret("edge", "certificate", &certificate).unwrap();
    let listeners =
        [Listener::https("good", good, "certificate"), Listener::https("missing", missing, "nowhere")];
    stage.publish(&listeners, &[route(&manifest::rule("/", "cart"))]).unwrap();
    stage.stack.start_relay().unwrap();
    stage.stack.start_envoy(&[stage.port, good]).unwrap();
    stage.answered_by("/", "cart").unwrap();
    handshakes_with(good, &certificate).unwrap();
    let target = Target::tls(missing, HOST, &certificate.der).unwrap();
    assert!(
        send(&target, &Request::get(HOST, "/")).is_err(),
        "nothing may be served without its certificate"
    );
    stage.stack.set_secret("edge", "nowhere", &certificate).unwrap();
    handshakes_with(missing, &certificate).unwrap();
}

#[test]
fn endpoints_change_without_a_compile_and_cost_no_request() {
    let mut stage = Stage::lay(&["cart"]).unwrap();
    stage.start(&manifest::rule("/", "cart")).unwrap();
    stage.answered_by("/", "cart").unwrap();
    let load = Load::start(&stage.target, &Request::get(HOST, "/"), 2, Duration::from_millis(2));
    let second = Backend::start("cart-2").unwrap();
    let first = stage.backends["cart"].address();
    stage.stack.set_endpoints("shop", "cart", &[first, second.address()]).unwrap();
    load.wait_for("cart-2", 20).unwrap();
    stage.stack.set_endpoints("shop", "cart", &[second.address()]).unwrap();
    wait::until("the first endpoint to be idle", || {
        let before = stage.backends["cart"].received();
        load.wait(40)?;
        ensure!(stage.backends["cart"].received() == before, "it still gets requests");
        Ok(())
    })
    .unwrap();
    load.stop().nothing_lost().unwrap();
}

#[test]
fn ten_releases_under_load_lose_no_request() {
    let mut stage = Stage::lay(&["blue", "green"]).unwrap();
    stage.start(&manifest::rule("/", "blue")).unwrap();
    stage.answered_by("/", "blue").unwrap();
    let load = Load::start(&stage.target, &Request::get(HOST, "/"), 3, Duration::from_millis(2));
    for round in 0..10 {
        let now = if round % 2 == 0 { "green" } else { "blue" };
        stage.publish(&[], &[route(&manifest::rule("/", now))]).unwrap();
        load.wait_for(now, 30).unwrap();
    }
    load.stop().nothing_lost().unwrap();
}

#[test]
fn clusters_and_listeners_come_and_go_under_load() {
    let mut stage = Stage::lay(&["blue", "green"]).unwrap();
    stage.start(&manifest::rule("/", "blue")).unwrap();
    stage.answered_by("/", "blue").unwrap();
    let load = Load::start(&stage.target, &Request::get(HOST, "/"), 2, Duration::from_millis(2));
    let more = ports::free().unwrap();
    let rules = manifest::rule("/", "blue") + &manifest::rule("/green", "green");
    stage.publish(&[Listener::http("more", more)], &[route(&rules)]).unwrap();
    let request = Request::get(HOST, "/green");
    send_until(&Target::plain(more), &request, "the new listener", |answer| answer.who() == "green").unwrap();
    stage.publish(&[], &[route(&manifest::rule("/", "blue"))]).unwrap();
    wait::until("the listener to go", || match send(&Target::plain(more), &request) {
        Ok(answer) => bail!("it answers: {}", answer.who()),
        Err(_) => Ok(()),
    })
    .unwrap();
    load.wait(50).unwrap();
    load.stop().nothing_lost().unwrap();
}

#[test]
fn what_envoy_refuses_is_set_aside_and_the_last_good_serves_on() {
    let mut stage = Stage::lay(&["blue", "green"]).unwrap();
    stage.start(&manifest::rule("/", "blue")).unwrap();
    stage.answered_by("/", "blue").unwrap();
    let load = Load::start(&stage.target, &Request::get(HOST, "/"), 2, Duration::from_millis(2));
    // Somebody else has this port, so Envoy cannot listen on it and refuses the listener.
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    stage.publish(&[Listener::http("taken", port)], &[route(&manifest::rule("/", "green"))]).unwrap();
    wait::until("the relay to report the refusal", || {
        let status = stage.stack.relay_admin("/snapshot")?;
        ensure!(text_has(&status, "quarantine"), "{status}");
        let envoy = stage.stack.envoy()?;
        ensure!(envoy.stat("listener_manager.lds.update_rejected")? > 0, "Envoy refused nothing");
        Ok(())
    })
    .unwrap();
    load.wait_for("blue", 100).unwrap();
    // A new Envoy gets the last good one too.
    stage.stack.start_envoy(&[stage.port]).unwrap();
    stage.answered_by("/", "blue").unwrap();
    // And a release that is fine goes through.
    stage.publish(&[], &[route(&manifest::rule("/", "green"))]).unwrap();
    stage.answered_by("/", "green").unwrap();
    drop(load);
}

/// True if a key or a text somewhere in a value contains this word, and is not null or empty.
fn text_has(value: &Value, word: &str) -> bool {
    let full =
        |value: &Value| !matches!(value, Value::Null | Value::Bool(false)) && *value != serde_json::json!([]);
    match value {
        Value::Object(fields) => {
            fields.iter().any(|(name, field)| (name.contains(word) && full(field)) || text_has(field, word))
        }
        Value::Array(items) => items.iter().any(|item| text_has(item, word)),
        Value::String(text) => text.contains(word),
        _ => false,
    }
}
