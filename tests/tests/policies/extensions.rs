//! HTTPRouteFilter, Backend and EnvoyExtensionPolicy on a real Envoy.

use super::behaviour::HOST;
use moorgate_tests::backend::Backend;
use moorgate_tests::http::{Answer, Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::ports;
use moorgate_tests::program::run;
use moorgate_tests::stack::Stack;

fn get(path: &str) -> Request {
    Request::get(HOST, path)
}

fn body(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// An object of Envoy Gateway's group in namespace `edge`.
fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: {kind}\nmetadata: {{ name: {name}, namespace: edge }}\nspec:\n{spec}"
    )
}

/// A rule `/name` of a Service with a filter of this name.
fn filtered(name: &str, service: Option<&str>) -> String {
    let backends = service.map(|name| format!("      backendRefs: [{{ name: {name}, port: 80 }}]\n"));
    format!(
        "    - matches: [{{ path: {{ type: PathPrefix, value: /{name} }} }}]\n      filters: [{{ type: ExtensionRef, \
         extensionRef: {{ group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: {name} }} }}]\n{}",
        backends.unwrap_or_default()
    )
}

/// A stack whose Gateway has one plain listener and these documents, and its port. What is wrong in them is no matter of
/// the publisher.
fn serving(stack: &mut Stack, documents: Vec<String>) -> (Target, u16) {
    let port = ports::free().unwrap();
    let mut all =
        vec![manifest::gateway_class(), manifest::gateway("edge", "public", &[Listener::http("http", port)])];
    all.extend(documents);
    let file = stack.folder().join("source.yaml");
    std::fs::write(&file, manifest::documents(&all)).unwrap();
    run(stack.signed("publish").unwrap().arg(&file)).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let target = Target::plain(port);
    send_until(&target, &get("/free"), "an answer", |answer| answer.status == 200).unwrap();
    (target, port)
}

#[test]
fn filters_of_rules_answer_rewrite_and_match() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    let rules = [
        manifest::rule("/free", "web"),
        filtered("inline", None),
        filtered("map", Some("web")),
        filtered("regex", Some("web")),
        filtered("header", Some("web")),
        filtered("tenant", Some("web")),
        filtered("cookie", Some("web")),
        filtered("wrong", Some("web")),
        filtered("gone", Some("web")),
    ];
    let long = "closed on Sundays. ".repeat(1000);
    let path = |pattern: &str, to: &str| format!("{{ pattern: '{pattern}', substitution: '{to}' }}");
    let documents = vec![
        manifest::service("edge", "web"),
        manifest::http_route("edge", "all", "edge/public", &[], &rules.concat()),
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: pages, namespace: edge }}\ndata: {{ response.body: '{long}' }}\n"
        ),
        object(
            "HTTPRouteFilter",
            "inline",
            "  directResponse:\n    statusCode: 418\n    contentType: text/plain\n    body: { type: Inline, inline: 'no %REQ(x-drink)%, 100%% sure' }\n    \
             header: { set: [{ name: x-share, value: '50%' }] }\n",
        ),
        object(
            "HTTPRouteFilter",
            "map",
            "  directResponse: { body: { type: ValueRef, valueRef: { group: '', kind: ConfigMap, name: pages } } }\n",
        ),
        object(
            "HTTPRouteFilter",
            "regex",
            &format!(
                "  urlRewrite: {{ path: {{ type: ReplaceRegexMatch, replaceRegexMatch: {} }} }}\n",
                path("^/regex/([^/]+)(/.*)$", r"\2/of/\1")
            ),
        ),
        object(
            "HTTPRouteFilter",
            "header",
            "  urlRewrite: { hostname: { type: Header, header: x-real }, appendXForwardedHost: false }\n",
        ),
        object(
            "HTTPRouteFilter",
            "tenant",
            &format!(
                "  urlRewrite: {{ hostname: {{ type: PathRegex, pathRegex: {} }} }}\n",
                path("^/tenant/([a-z]+)/.*", r"\1.internal")
            ),
        ),
        object(
            "HTTPRouteFilter",
            "cookie",
            "  matches: [{ cookies: [{ name: beta, value: '1' }, { name: user, type: RegularExpression, value: '[a-z]+' }] }, \
             { cookies: [{ name: staff, value: 'yes' }] }]\n",
        ),
        object("HTTPRouteFilter", "wrong", "  directResponse: { body: { type: Inline, inline: '50%' } }\n"),
    ];
    let (target, port) = serving(&mut stack, documents);
    let ask = |request: &Request| send(&target, request).unwrap();

    let inline = ask(&get("/inline").header("x-drink", "coffee"));
    assert_eq!((inline.status, body(&inline).as_str()), (418, "no coffee, 100% sure"));
    assert_eq!((inline.header("content-type"), inline.header("x-share")), (Some("text/plain"), Some("50%")));
    let map = ask(&get("/map"));
    assert_eq!(
        (map.status, body(&map) == long),
        (200, true),
        "a long body is whole, and no backend is asked"
    );
    let echo = |request: &Request| ask(request).echo().unwrap();
    assert_eq!(echo(&get("/regex/tea/cup")).path, "/cup/of/tea");
    assert_eq!(echo(&get("/regex")).path, "/regex", "what is not met stays");
    let seen = echo(&get("/header").header("x-real", "other.example.com"));
    assert_eq!((seen.host.as_str(), seen.header("x-forwarded-host").len()), ("other.example.com", 0));
    let seen = echo(&get("/tenant/blue/a"));
    assert_eq!((seen.host.as_str(), seen.header("x-forwarded-host")), ("blue.internal", vec![HOST]));
    for (cookie, status) in [
        ("beta=1; user=ann", 200),
        ("beta=1; user=7", 404),
        ("beta=2; user=ann", 404),
        ("a=b; staff=yes", 200),
        ("", 404),
    ] {
        assert_eq!(ask(&get("/cookie").header("cookie", cookie)).status, status, "{cookie}");
    }
    // What cannot be carried out, or is not there, is never passed over.
    assert_eq!((ask(&get("/wrong")).status, ask(&get("/gone")).status), (500, 500));
    let explain = |path: &str, cookie: &str| {
        let mut command = moorgate_tests::program::moorgate().unwrap();
        let url = format!("http://{HOST}:{}{path}", port);
        command.args(["explain", "-H", cookie]).arg(stack.folder().join("source.yaml")).args(["GET", &url]);
        run(&mut command).unwrap().ended_with(&[0, 1]).unwrap().stdout
    };
    assert!(explain("/cookie", "cookie: staff=yes").contains("HTTPRouteFilter edge/cookie"));
    assert!(explain("/inline", "x-a: b").contains("418 by Envoy itself; as a filter says"));
}
