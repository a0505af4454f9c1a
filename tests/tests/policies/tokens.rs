//! Tokens and rights: where a token is looked for, what becomes of a request without one, and what scopes, paths and methods
//! allow. One Envoy with a route for each.

use super::behaviour::{HOST, guarded, keys, keys_of, policy, signed_with, token};
use moorgate_tests::backend::Backend;
use moorgate_tests::http::{Http2, Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::ports;
use moorgate_tests::stack::Stack;

/// The key of somebody else who calls his provider by the same issuer.
const STRANGERS_KEY: &[u8] = b"a key that another namespace has.";
/// A host whose every path has rules.
const PATHS: &str = "paths.example.com";
/// Two rules that keep out whoever is near, as far as they fit.
const RIGHTS: &str = "  authorization:
    defaultAction: Allow
    rules:
      - { action: Deny, operation: { path: { type: PathPrefix, value: /admin } }, principal: { clientCIDRs: [127.0.0.0/8] } }
      - { action: Deny, operation: { methods: [PUT] }, principal: { clientCIDRs: [127.0.0.0/8] } }
";
/// Whoever may read.
const READERS: &str = "  authorization:
    defaultAction: Deny
    rules: [{ action: Allow, principal: { jwt: { provider: us, scopes: [read] } } }]
";

/// Providers of tokens, each with its name and what it has besides, and what holds for all of them.
pub(super) fn jwt(providers: &[(&str, &str)], all: &str) -> String {
    let keys = keys();
    let entry = |(name, more): &(&str, &str)| {
        format!(
            "      - name: {name}\n        issuer: https://{name}.example\n        audiences: [shop]\n        \
             localJWKS: {{ type: Inline, inline: '{keys}' }}\n        \
             claimToHeaders: [{{ claim: sub, header: x-sub }}]\n{more}"
        )
    };
    let providers = providers.iter().map(entry).collect::<Vec<_>>().concat();
    format!("  jwt:\n{all}    providers:\n{providers}")
}

/// A token of this provider about Ann, with more claims behind it.
pub(super) fn about_ann(provider: &str, more: &str) -> String {
    token(&format!(r#"{{"iss":"https://{provider}.example","aud":"shop","sub":"ann"{more}}}"#))
}

fn get(path: &str) -> Request {
    Request::get(HOST, path)
}

/// Shows a token as clients usually do.
pub(super) fn bearer(path: &str, token: &str) -> Request {
    get(path).header("authorization", &format!("Bearer {token}"))
}

fn status(target: &Target, request: &Request) -> u16 {
    send(target, request).unwrap().status
}

/// Who a backend takes the client for.
fn user(target: &Target, request: &Request) -> Vec<String> {
    let answer = send(target, request).unwrap();
    assert_eq!(answer.status, 200, "{request:?}");
    answer.echo().unwrap().header("x-sub").into_iter().map(str::to_owned).collect()
}

fn documents() -> Vec<String> {
    let taken = "        extractFrom: { cookies: [session], params: [ticket] }\n";
    let by = |name: &str, spec: &str| guarded(name, "web", "SecurityPolicy", spec);
    let mut all = [
        by("usual", &jwt(&[("us", "")], "")),
        by("optional", &jwt(&[("us", "")], "    optional: true\n")),
        by("open", &jwt(&[("us", "")], "    failOpen: true\n")),
        by("stranger", &jwt(&[("us", "")], "").replace(&keys(), &keys_of(STRANGERS_KEY))),
        by("taken", &jwt(&[("us", taken)], "")),
        by("either", &jwt(&[("us", taken), ("them", "")], "")),
        by("scopes", &format!("{}{READERS}", jwt(&[("us", "")], ""))),
    ]
    .concat();
    all.push(manifest::http_route("edge", "free", "edge/public", &[], &manifest::rule("/free", "web")));
    all.push(manifest::http_route("edge", "paths", "edge/public", &[PATHS], &manifest::rule("/", "web")));
    all.push(policy("paths", "SecurityPolicy", "HTTPRoute", "paths", RIGHTS));
    all
}

#[test]
fn tokens_are_looked_for_and_read_as_their_policies_say() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    let port = ports::free().unwrap();
    let mut all = vec![
        manifest::gateway_class(),
        manifest::service("edge", "web"),
        manifest::gateway("edge", "public", &[Listener::http("http", port)]),
    ];
    all.extend(documents());
    stack.publish_documents(&all).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let target = Target::plain(port);
    send_until(&target, &get("/free"), "an answer", |answer| answer.status == 200).unwrap();
    without(&target);
    strangers(&target);
    places(&target);
    scopes(&target);
    paths(&target);
    methods(&target);
}

/// Where a token need not be there, one that is there must still be good.
fn without(target: &Target) {
    let good = about_ann("us", "");
    let strange = about_ann("them", "");
    // The same words under a signature of nobody.
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{}", "A".repeat(signature.len()));
    assert_eq!(status(target, &get("/usual")), 401);
    assert!(user(target, &get("/optional").header("x-sub", "eve")).is_empty(), "nobody said who it is");
    for path in ["/usual", "/optional"] {
        assert_eq!(user(target, &bearer(path, &good)), ["ann"], "{path}");
        for wrong in [strange.as_str(), forged.as_str(), "no.token.atall"] {
            assert_eq!(status(target, &bearer(path, wrong)), 401, "{path} {wrong}");
        }
    }
}

/// Policies of one listener share Envoy's filter, and none believes what only the keys of another one say.
fn strangers(target: &Target) {
    let claims = r#"{"iss":"https://us.example","aud":"shop","sub":"ann"}"#;
    let (ours, theirs) = (about_ann("us", ""), signed_with(STRANGERS_KEY, claims));
    assert_eq!(user(target, &bearer("/stranger", &theirs)), ["ann"]);
    assert_eq!(status(target, &bearer("/stranger", &ours)), 401);
    for path in ["/usual", "/optional"] {
        assert_eq!(status(target, &bearer(path, &theirs)), 401, "{path}");
    }
    assert_eq!(user(target, &bearer("/open", &ours)), ["ann"]);
    assert!(user(target, &bearer("/open", &theirs)).is_empty(), "let in, and nobody");
}

/// A provider that says where its tokens are takes them from there and from nowhere else.
fn places(target: &Target) {
    let (ours, theirs) = (about_ann("us", ""), about_ann("them", ""));
    let cookie = |path: &str, name: &str, token: &str| get(path).header("cookie", &format!("{name}={token}"));
    let query = |path: &str, name: &str, token: &str| get(&format!("{path}?{name}={token}"));
    for path in ["/taken", "/either"] {
        for good in [cookie(path, "session", &ours), query(path, "ticket", &ours)] {
            assert_eq!(user(target, &good), ["ann"], "{good:?}");
        }
        for lost in [
            bearer(path, &ours),
            cookie(path, "other", &ours),
            query(path, "other", &ours),
            cookie(path, "session", &theirs),
            get(path),
        ] {
            assert_eq!(status(target, &lost), 401, "{lost:?}");
        }
    }
    // Who says nothing of that looks where tokens usually are, also beside one who does.
    assert_eq!(user(target, &bearer("/either", &theirs)), ["ann"]);
    assert_eq!(status(target, &bearer("/taken", &theirs)), 401);
    assert_eq!(user(target, &bearer("/usual", &ours)), ["ann"]);
    for lost in [cookie("/usual", "session", &ours), query("/usual", "ticket", &ours)] {
        assert_eq!(status(target, &lost), 401, "{lost:?}");
    }
}

/// Providers write in several ways what a token is good for.
fn scopes(target: &Target) {
    let with = |more: &str| status(target, &bearer("/scopes", &about_ann("us", more)));
    for good in [
        r#","scope":"read write""#,
        r#","scope":"read""#,
        r#","scp":["read"]"#,
        r#","scp":["write","read"]"#,
        r#","scp":"read""#,
        r#","scp":"write read""#,
    ] {
        assert_eq!(with(good), 200, "{good}");
    }
    for wrong in [
        "",
        r#","scope":"write""#,
        r#","scope":"reader""#,
        r#","scp":["write"]"#,
        r#","scp":"write""#,
        r#","other":"read""#,
    ] {
        assert_eq!(with(wrong), 403, "{wrong}");
    }
    assert_eq!(status(target, &get("/scopes")), 401);
}

/// A rule about a path holds for whatever a backend may serve as the same.
fn paths(target: &Target) {
    let of = |path: &str| status(target, &Request::get(PATHS, path));
    for kept in [
        "/admin",
        "/admin/",
        "/admin?x",
        "/admin?x=/other",
        "/admin/users",
        "/admin;x=1",
        "/admin;x=1?y",
        "/admin;x=1/users",
    ] {
        assert_eq!(of(kept), 403, "{kept}");
    }
    for open in ["/", "/administrator", "/admin-x", "/other/admin", "/other?path=/admin", "/other;x=/admin"] {
        assert_eq!(of(open), 200, "{open}");
    }
}

/// A rule about a method holds in whatever case it is written. Envoy takes other cases by HTTP/2 only.
fn methods(target: &Target) {
    let by = |method: &str| Request::get(PATHS, "/other").method(method);
    assert_eq!([by("PUT"), by("POST"), by("GET")].map(|request| status(target, &request)), [403, 200, 200]);
    let mut connection = Http2::open(target).unwrap();
    let open = connection.send(&by("post"), b"").unwrap();
    assert_eq!((open.status, open.echo().unwrap().method.as_str()), (200, "post"));
    for kept in ["put", "Put"] {
        assert_eq!(connection.send(&by(kept), b"").unwrap().status, 403, "{kept}");
    }
}
