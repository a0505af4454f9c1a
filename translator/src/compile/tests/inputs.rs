//! Bad rules and backends, by their numbers in the catalogue of inputs: what is said of each, and what requests get.

use super::*;
use moorgate_model::Class;
use moorgate_model::ir::{Action, PathMatch};

/// What an input gets.
enum Outcome {
    /// The object is refused, as an API server would.
    Refused,
    /// This code, and this answer of Envoy itself; `None`: a backend answers.
    Semantic(&'static str, Option<u16>),
    /// Nothing is said, and a backend answers.
    Fine,
}

use Outcome::{Fine, Refused, Semantic};

/// A rule with this match and a backend.
fn matching(found: &str) -> String {
    format!("[{{matches: [{{{found}}}], backendRefs: [{{name: web, port: 80}}]}}]")
}

/// A rule with this filter and a backend.
fn filtering(filter: &str) -> String {
    format!("[{{filters: [{{{filter}}}], backendRefs: [{{name: web, port: 80}}]}}]")
}

fn setting(name: &str, value: &str) -> String {
    filtering(&format!(
        "type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: {name}, value: {value}}}]}}"
    ))
}

fn path(kind: &str, value: &str) -> String {
    matching(&format!("path: {{type: {kind}, value: {value}}}"))
}

fn rules(field: &str) -> String {
    format!("[{{backendRefs: [{{name: web, port: 80}}], {field}}}]")
}

fn backends(refs: &str) -> String {
    format!("[{{backendRefs: [{refs}]}}]")
}

/// The status that Envoy itself gives for the route that a rule made.
fn given(compilation: &Compilation) -> Option<u16> {
    let tables = compilation.fleets[&one()].ir.tables();
    let route = tables.values().flat_map(|table| &table.hosts).flat_map(|host| &host.routes).next().unwrap();
    match &route.action {
        Action::Respond(respond) => Some(respond.status),
        Action::Redirect(redirect) => Some(redirect.status),
        Action::Forward(_) => None,
    }
}

fn cases() -> Vec<(u32, String, Outcome)> {
    let redirect =
        |text: &str| format!("[{{filters: [{{type: RequestRedirect, requestRedirect: {{{text}}}}}]}}]");
    let mirror = |share: &str| {
        filtering(&format!(
            "type: RequestMirror, requestMirror: {{backendRef: {{name: web, port: 80}}, {share}}}"
        ))
    };
    let both = "[{filters: [{type: RequestRedirect, requestRedirect: {hostname: a.b}}, {type: URLRewrite, urlRewrite: \
        {hostname: a.b}}]}]";
    let expression = |text: &str| path("RegularExpression", text);
    vec![
        (29, rules("backenRefs: []"), Refused),
        (33, both.into(), Refused),
        (34, matching(""), Fine),
        (37, backends("{name: web, port: 0}"), Refused),
        (37, backends("{name: web, port: 65536}"), Refused),
        (37, backends("{name: web, port: -1}"), Refused),
        (38, backends("{name: web, port: 80, weight: -1}"), Refused),
        (38, backends("{name: web, port: 80, weight: 1000001}"), Refused),
        (38, backends("{name: web, port: 80, weight: 0}"), Semantic("MG3021", Some(500))),
        (39, format!("[{}]", vec!["{}"; 17].join(", ")), Refused),
        (48, backends("{name: web, namespace: blog, port: 80}"), Semantic("MG3007", Some(500))),
        (51, backends("{name: gone, port: 80}"), Semantic("MG3006", Some(500))),
        (51, backends("{name: web, port: 81}"), Semantic("MG3006", Some(500))),
        (51, backends("{name: web, kind: Pod, port: 80}"), Semantic("MG3008", Some(500))),
        (
            53,
            filtering("type: ExtensionRef, extensionRef: {group: a.b, kind: C, name: d}"),
            Semantic("MG3010", Some(500)),
        ),
        (54, expression("'(?=a)'"), Semantic("MG3016", None)),
        (54, expression("'(a)\\1'"), Semantic("MG3016", None)),
        (54, expression("'(((a{100}){100}){100}){100}'"), Semantic("MG3016", None)),
        (54, expression("'(a*)*$'"), Fine),
        (56, setting("'a b'", "c"), Refused),
        (56, setting("'a:'", "c"), Refused),
        (56, setting("a", "\"c\\r\\nd: e\""), Semantic("MG3010", Some(500))),
        (57, setting("a", "'%REQ(x)%'"), Semantic("MG3024", None)),
        (57, setting("a", "'100%'"), Semantic("MG3024", None)),
        (58, setting("Host", "a"), Semantic("MG3010", Some(500))),
        (58, setting("Connection", "close"), Semantic("MG3010", Some(500))),
        (58, setting("x-envoy-retry-on", "5xx"), Semantic("MG3010", Some(500))),
        (58, setting("Content-Length", "'0'"), Semantic("MG3010", Some(500))),
        (59, redirect("scheme: javascript"), Refused),
        (59, redirect("port: 0"), Refused),
        (59, redirect("statusCode: 301"), Semantic("MG3035", Some(301))),
        (60, path("PathPrefix", "a"), Refused),
        (60, path("PathPrefix", "/a//b"), Refused),
        (60, path("PathPrefix", "/a/../b"), Refused),
        (60, path("PathPrefix", "/a%2Fb"), Refused),
        (60, path("PathPrefix", "'/a#b'"), Refused),
        (60, path("Exact", "/a/.."), Refused),
        (60, path("PathPrefix", "'/a;b'"), Fine),
        (
            61,
            "[{matches: [{path: {type: RegularExpression, value: /a.*}}], filters: [{type: URLRewrite, urlRewrite: \
             {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}], backendRefs: [{name: web, port: 80}]}]"
                .into(),
            Refused,
        ),
        (62, rules("timeouts: {request: -1s}"), Refused),
        (62, rules("timeouts: {request: 1e9h}"), Refused),
        (62, rules("timeouts: {request: '5'}"), Refused),
        (62, rules("timeouts: {request: 0s}"), Fine),
        (63, rules("timeouts: {request: 1s, backendRequest: 2s}"), Refused),
        (75, mirror("percent: 200"), Refused),
        (75, mirror("fraction: {numerator: 1, denominator: 0}"), Refused),
        (75, mirror("fraction: {numerator: 1, denominator: 3}"), Fine),
        // What the API allows is not refused, but said.
        (76, filtering("type: CORS, cors: {allowOrigins: ['*'], allowCredentials: true}"), Semantic("MG3036", None)),
    ]
}

#[test]
fn each_bad_rule_gets_its_outcome() {
    for (number, rules, outcome) in cases() {
        let compilation = with_rules(&rules);
        let found: Vec<_> =
            compilation.diagnostics.iter().map(|found| (found.code.id, found.code.class)).collect();
        let context = format!("{number}: {rules}\n{found:?}");
        match outcome {
            Refused => {
                assert!(found.iter().any(|(_, class)| *class == Class::Schema), "{context}");
                assert!(compilation.blocked.blocks(&one()), "{context}");
            }
            Semantic(code, status) => {
                assert!(found.iter().any(|(id, _)| *id == code), "{context}");
                if code != "MG3016" {
                    assert_eq!(given(&compilation), status, "{context}");
                }
                assert!(!compilation.blocked.blocks(&one()), "{context}");
            }
            Fine => {
                assert_eq!(found, [], "{context}");
                assert_eq!(given(&compilation), None, "{context}");
            }
        }
        assert!(!compilation.blocked.blocks(&two()), "{context}");
    }
}

#[test]
fn text_is_matched_as_it_stands() {
    // 55: what looks like an expression and is none.
    let compilation = with_rules(&path("Exact", "/a.b"));
    let fleet = &compilation.fleets[&one()].ir;
    let route = &fleet.tables()["http-80"].hosts[1].routes;
    let route = route.first().or(fleet.tables()["http-80"].hosts[0].routes.first()).cloned().unwrap();
    assert_eq!(route.path, PathMatch::Exact("/a.b".into()));
}

#[test]
fn names_and_hosts() {
    // 36, 45 and 47: hostnames, and parents that are not there.
    let of = |hostnames: &str, parent: &str| {
        let text = route("shop", "one", FINE)
            .replace("[shop.example.com]", hostnames)
            .replace("{name: one, namespace: infra}", parent);
        compiled(&[("infra.yaml", format!("{CLASS}{}", gateway("one"))), ("shop.yaml", text)])
    };
    let parent = "{name: one, namespace: infra}";
    for hostname in ["'*'", "'*.*.x'", "'foo.*'", "'a.example.'", "a_b.example", "''"] {
        let found = of(&format!("[{hostname}]"), parent);
        assert!(found.diagnostics.iter().any(|found| found.code.class == Class::Schema), "36: {hostname}");
    }
    let code = |found: &Compilation| found.diagnostics.iter().map(|found| found.code.id).collect::<Vec<_>>();
    assert_eq!(code(&of("[a.example]", "{name: gone, namespace: infra}")), ["MG3002"], "47: Gateway");
    assert_eq!(
        code(&of("[a.example]", "{name: one, namespace: infra, sectionName: other}")),
        ["MG3003"],
        "47: section"
    );
    assert_eq!(code(&of("[a.example]", "{name: one, namespace: infra, port: 81}")), ["MG3003"], "47: port");
    assert!(of("[a.example]", parent).diagnostics.is_empty());
}

#[test]
fn equal_matches_are_settled_and_said() {
    // 41 and 42: the first by name answers, and the other is told, within a namespace and across.
    let infra = ("infra.yaml", format!("{CLASS}{}", gateway("one")));
    let with_host = |name: &str, namespace: &str| {
        route(name, "one", FINE)
            .replace(&format!("{name}.example.com"), "same.example.com")
            .replace(&format!("namespace: {name}"), &format!("namespace: {namespace}"))
    };
    for (namespaces, code) in [(["shop", "shop"], "MG3015"), (["shop", "blog"], "MG3014")] {
        let [a, b] = namespaces;
        let second = with_host("b", b).replace(
            "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}",
            "apiVersion: v1\nkind: Service\nmetadata: {name: other, namespace: shop}",
        );
        let compilation = compiled(&[infra.clone(), ("a.yaml", with_host("a", a)), ("b.yaml", second)]);
        let codes: Vec<_> = compilation.diagnostics.iter().map(|found| found.code.id).collect();
        assert_eq!(codes, [code], "{namespaces:?}");
        let tables = compilation.fleets[&one()].ir.tables();
        let host = tables["http-80"].hosts.iter().find(|host| host.domain == "same.example.com").unwrap();
        let first = host.routes.first().unwrap();
        assert_eq!(&*first.origin.object.namespace, if a < b { a } else { b }, "{namespaces:?}");
    }
}
