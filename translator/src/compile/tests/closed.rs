//! Nothing that restricts access fails open: each restricting thing, broken in each way, in each mode of error.

use super::{CLASS, compiled_with};
use crate::compile::{Compilation, Former, LastGood, Options, compile_last_good};
use crate::source::File;
use moorgate_model::Diagnostics;
use moorgate_model::ir::Action;
use moorgate_snapshot::FleetName;

const EDGE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: shop}\n\
    spec:\n  gatewayClassName: moorgate\n  listeners:\n  - {name: http, port: 80, protocol: HTTP}\n";

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web, namespace: shop}\n\
    spec:\n  parentRefs: [{name: edge}]\n  hostnames: [shop.example.com]\n  rules:\n  \
    - {name: all, backendRefs: [{name: web, namespace: shop, port: 80}]}\n---\n\
    apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{name: http, port: 80}]}\n";

/// A thing that restricts access to the route or its backend, in a file of its own.
struct Guard {
    name: &'static str,
    text: &'static str,
    /// True if the guard, when it works, lets requests through under its terms.
    passes: bool,
}

const GUARDS: [Guard; 7] = [
    Guard {
        name: "SecurityPolicy of a route",
        text: "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: g, namespace: shop}\n\
            spec:\n  authorization: {rules: [{action: Allow, principal: {clientCIDRs: [10.0.0.0/8], clientIPGeoLocations: [{country: DE}]}}]}\n  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}]\n",
        passes: false,
    },
    Guard {
        name: "SecurityPolicy of a rule",
        text: "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: g, namespace: shop}\n\
            spec:\n  authorization: {rules: [{action: Allow, principal: {clientCIDRs: [10.0.0.0/8], clientIPGeoLocations: [{country: DE}]}}]}\n  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web, sectionName: all}]\n",
        passes: false,
    },
    Guard {
        name: "SecurityPolicy of a Gateway",
        text: "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: g, namespace: shop}\n\
            spec:\n  authorization: {rules: [{action: Allow, principal: {clientCIDRs: [10.0.0.0/8], clientIPGeoLocations: [{country: DE}]}}]}\n  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]\n",
        passes: false,
    },
    Guard {
        name: "EnvoyExtensionPolicy",
        text: "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyExtensionPolicy\nmetadata: {name: g, namespace: shop}\n\
            spec:\n  wasm: [{name: w, rootID: r, code: {type: HTTP, http: {url: 'https://a.example/w.wasm'}}}]\n  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}]\n",
        passes: false,
    },
    Guard {
        name: "client certificates",
        text: "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: ClientTrafficPolicy\nmetadata: {name: g, namespace: shop}\n\
            spec:\n  tls: {clientValidation: {}}\n  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]\n",
        passes: false,
    },
    Guard {
        name: "rate limit",
        text: "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: {name: g, namespace: shop}\n\
            spec:\n  rateLimit: {}\n  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}]\n",
        passes: false,
    },
    Guard {
        name: "BackendTLSPolicy",
        text: "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: g, namespace: shop}\n\
            spec:\n  targetRefs: [{group: '', kind: Service, name: web}]\n  \
            validation: {hostname: web.internal, wellKnownCACertificates: System}\n",
        passes: true,
    },
];

/// A way to break a guard: what is written, and what stands there then.
const BREAKAGES: [(&str, &str, &str); 11] = [
    ("as it is", "", ""),
    ("syntax", "spec:\n", "spec: [\n"),
    ("text that is no object", "apiVersion:", "version:"),
    ("schema: spec of another type", "spec:\n", "other:\n"),
    ("schema: targets of another type", "targetRefs: [", "targetRefs: 7\n  was: ["),
    ("no targets", "targetRefs: [", "unknown: ["),
    ("wrong kind", "Policy\n", "Polcy\n"),
    ("missing section", "name: web}]", "name: web, sectionName: gone}]"),
    ("no namespace", ", namespace: shop", ""),
    ("wrong kind of target: Service", "kind: Service", "kind: Servce"),
    ("wrong kind of target: route", "kind: HTTPRoute", "kind: HttpRoute"),
];

fn file(name: &str, text: &str) -> File {
    File { name: name.into(), bytes: text.as_bytes().into() }
}

fn source(guard: &str, route: &str) -> Vec<File> {
    let mut files = vec![file("gateway.yaml", &format!("{CLASS}{EDGE}")), file("route.yaml", route)];
    if !guard.is_empty() {
        files.push(file("guard.yaml", guard));
    }
    files
}

/// Whether requests to the shop would reach a backend in a release of this, without TLS where TLS is the guard.
fn open(compilation: &Compilation, passes: bool) -> bool {
    let fleet = FleetName::gateway("shop", "edge");
    if compilation.blocked.blocks(&fleet) {
        return false;
    }
    let Some(found) = compilation.fleets.get(&fleet) else { return false };
    let hosts = found.ir.tables().into_values().flat_map(|table| &table.hosts);
    let routes = hosts.flat_map(|host| &host.routes);
    let mut clusters = routes.flat_map(|route| match &route.action {
        Action::Forward(forward) => {
            forward.backends.iter().filter_map(|backend| backend.cluster.clone()).collect()
        }
        Action::Redirect(_) | Action::Respond(_) => Vec::new(),
    });
    clusters.any(|name| {
        let tls = found.ir.clusters.get(&name).and_then(|cluster| cluster.tls.as_ref());
        !passes || tls.is_none_or(|tls| tls.refuse)
    })
}

fn last_good(now: &[File], former: &[File]) -> LastGood {
    let commits = vec!["1".to_owned()];
    let former = Former::new(former, &commits, &[], &std::collections::BTreeMap::new());
    compile_last_good(now, &Diagnostics::default(), &former, &Options::default())
}

#[test]
fn the_route_is_open_without_a_guard() {
    // Otherwise the tests below would show nothing.
    assert!(open(&compiled_with(&source("", ROUTE)), false));
}

#[test]
fn no_broken_guard_lets_anything_pass_by_default() {
    for guard in &GUARDS {
        for (how, from, to) in BREAKAGES {
            let broken = guard.text.replace(from, to);
            let compilation = compiled_with(&source(&broken, ROUTE));
            assert!(
                !open(&compilation, guard.passes),
                "{}, {how}: {:?}",
                guard.name,
                compilation.diagnostics
            );
            assert!(
                how == "as it is" || broken == guard.text || compilation.diagnostics.has_errors(),
                "{}, {how}",
                guard.name
            );
        }
    }
}

/// Whatever the release before was: with the guard, without it, or with another route behind it.
#[test]
fn no_broken_guard_lets_anything_pass_with_last_good() {
    let renamed = ROUTE.replace(
        "name: web, namespace: shop}\nspec:\n  parentRefs",
        "name: old, namespace: shop}\nspec:\n  parentRefs",
    );
    assert_ne!(renamed, ROUTE);
    for guard in &GUARDS {
        let of_old = guard.text.replace("kind: HTTPRoute, name: web", "kind: HTTPRoute, name: old");
        for (how, from, to) in BREAKAGES {
            let broken = guard.text.replace(from, to);
            let now = source(&broken, ROUTE);
            for (before, former) in [
                ("with it", source(guard.text, ROUTE)),
                ("without it", source("", ROUTE)),
                ("without the route", source("", EDGE)),
                ("with it on another route", source(&of_old, &renamed)),
            ] {
                let merged = last_good(&now, &former);
                let found = &merged.compilation;
                assert!(
                    !open(found, guard.passes),
                    "{}, {how}, released {before}: kept {:?}, {:?}",
                    guard.name,
                    merged.kept,
                    found.diagnostics
                );
            }
        }
    }
}

/// The policy goes in the same change in which the route errs: the route that was behind it does not come back alone.
#[test]
fn a_kept_route_never_loses_its_guard() {
    let broken = ROUTE.replace("parentRefs: [", "parentRef: [");
    for guard in &GUARDS {
        let merged = last_good(&source("", &broken), &source(guard.text, ROUTE));
        assert!(!open(&merged.compilation, guard.passes), "{}: {:?}", guard.name, merged.kept);
        // A guard that changed and one that came: in doubt nothing goes out.
        let stricter = guard.text.replace("metadata: {name: g", "metadata: {name: stricter");
        let merged = last_good(&source(&stricter, &broken), &source(guard.text, ROUTE));
        assert!(!open(&merged.compilation, guard.passes), "{}: {:?}", guard.name, merged.kept);
    }
}

/// Without a grant a reference across namespaces answers 500, however the grant is missing.
#[test]
fn no_broken_grant_opens_a_namespace() {
    let route = ROUTE.replace("namespace: shop, port", "namespace: vault, port");
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: vault}\nspec: {ports: [{name: http, port: 80}]}\n";
    let grant = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: vault}\n\
        spec:\n  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}]\n  \
        to: [{group: '', kind: Service}]\n";
    let with = |grant: &str| {
        let mut files = source(grant, &route);
        files.push(file("service.yaml", service));
        files
    };
    assert!(open(&compiled_with(&with(grant)), false));
    for (how, from, to) in [
        ("gone", grant, ""),
        ("narrower", "kind: Service}", "kind: Service, name: other}"),
        ("syntax", "spec:\n", "spec: [\n"),
        ("schema", "kind: Service}", "kind: 7}"),
        ("wrong kind", "ReferenceGrant", "ReferenceGrnt"),
        ("no namespace", ", namespace: vault", ""),
        ("other namespace", "namespace: shop}", "namespace: shoop}"),
    ] {
        let broken = grant.replace(from, to);
        let now = with(&broken);
        let compilation = compiled_with(&now);
        assert!(!open(&compilation, false), "{how}: {:?}", compilation.diagnostics);
        let merged = last_good(&now, &with(""));
        assert!(!open(&merged.compilation, false), "{how}: {:?}", merged.kept);
        // What was granted may stay while the grant cannot be read, but a grant that was taken away is gone.
        let merged = last_good(&now, &with(grant));
        let unreadable = how == "syntax";
        assert!(unreadable || !open(&merged.compilation, false), "{how}: {:?}", merged.kept);
    }
}
