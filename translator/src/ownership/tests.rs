//! Files, objects and takes against ownership files.

use super::*;
use crate::compile::{Compilation, Options, compile};
use crate::source::File;
use moorgate_snapshot::FleetName;

const FILE: &str = "version: 1
entries:
- name: platform
  paths: [platform/]
  namespaces: [infra, shop, blog]
  kinds: ['*']
  hostnames: ['*']
- name: shop
  paths: [teams/shop/]
  namespaces: [shop]
  hostnames: [shop.example.com, www.example.com]
  takesFrom: [site]
- name: blog
  paths: [teams/blog/]
  namespaces: [blog, blog-*]
  hostnames: ['*.blog.example.com', www.example.com]
- name: site
  paths: [teams/site/]
  namespaces: [site]
  hostnames: [www.example.com]
";

fn root(label: &str, repository: &str, folder: &str) -> Root {
    Root { label: label.into(), repository: repository.into(), folder: folder.into() }
}

fn ownership(text: &str) -> Ownership {
    Ownership::parse("ownership.yaml", text.as_bytes(), vec![root("", "here", "")]).unwrap()
}

fn platform() -> (&'static str, String) {
    let text = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: moorgate}\n\
        spec: {controllerName: moorgate.dev/gateway-controller}\n---\n\
        apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: infra}\n\
        spec:\n  gatewayClassName: moorgate\n  listeners:\n  - {name: http, port: 80, protocol: HTTP, \
        allowedRoutes: {namespaces: {from: All}}}\n";
    ("platform/gateway.yaml", text.to_owned())
}

fn route(namespace: &str, host: &str, path: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: {namespace}}}\n\
         spec:\n  parentRefs: [{{name: edge, namespace: infra}}]\n  hostnames: [{host}]\n  rules:\n  \
         - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n    backendRefs: [{{name: web, port: 80}}]\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: {namespace}}}\n\
         spec: {{ports: [{{name: http, port: 80}}]}}\n---\n"
    )
}

fn compiled(ownership: Option<Ownership>, files: &[(&str, String)]) -> Compilation {
    let files: Vec<File> = files
        .iter()
        .map(|(name, text)| File { name: (*name).into(), bytes: text.as_bytes().into() })
        .collect();
    compile(&files, &Options { ownership, ..Options::default() })
}

/// The platform's Gateway with these files, under the file above.
fn owned(files: &[(&str, String)]) -> Compilation {
    let mut all = vec![platform()];
    all.extend(files.iter().cloned());
    compiled(Some(ownership(FILE)), &all)
}

/// `code file:line field` of each finding.
fn findings(compilation: &Compilation) -> Vec<String> {
    let show = |found: &moorgate_model::Diagnostic| {
        let file = found.file.as_deref().unwrap_or_default();
        format!("{} {file}:{} {}", found.code.id, found.span.start.line, found.field)
    };
    compilation.diagnostics.iter().map(show).collect()
}

fn edge() -> FleetName {
    FleetName::gateway("infra", "edge")
}

#[test]
fn a_file_defines_what_its_entry_says_and_nothing_else() {
    for (file, text, expected) in [
        ("teams/shop/a.yaml", route("shop", "shop.example.com", "/"), ""),
        ("teams/shop/a/b.yaml", route("shop", "SHOP.example.com".to_lowercase().as_str(), "/"), ""),
        ("teams/blog/a.yaml", route("blog-eu", "x.blog.example.com", "/"), ""),
        ("platform/shop.yaml", route("shop", "any.example.com", "/"), ""),
        (
            "teams/blog/a.yaml",
            route("blog", "blog.example.com", "/"),
            "MG3029 teams/blog/a.yaml:6 spec.hostnames[0]",
        ),
        (
            "teams/shop/a.yaml",
            route("shop", "'*.example.com'", "/"),
            "MG3029 teams/shop/a.yaml:6 spec.hostnames[0]",
        ),
        (
            "teams/shop/a.yaml",
            route("blog", "www.example.com", "/"),
            "MG3029 teams/shop/a.yaml:3 metadata.namespace",
        ),
        ("teams/shopping/a.yaml", route("shop", "shop.example.com", "/"), "MG3029 teams/shopping/a.yaml:1 "),
        ("other.yaml", route("shop", "shop.example.com", "/"), "MG3029 other.yaml:1 "),
    ] {
        let found = owned(&[(file, text)]);
        let breach = findings(&found).into_iter().find(|finding| finding.contains("MG3029"));
        assert_eq!(breach.unwrap_or_default(), expected, "{file}");
        assert_eq!(found.fleets[&edge()].routes, usize::from(expected.is_empty()), "{file}");
        // A route that is left out opens nothing, so its neighbours go out.
        assert!(!found.blocked.blocks(&edge()), "{file}");
    }
}

#[test]
fn all_hostnames_and_cluster_wide_kinds_are_for_those_who_own_all() {
    let open = route("shop", "x", "/").replace("  hostnames: [x]\n", "");
    let found = owned(&[("teams/shop/a.yaml", open.clone())]);
    assert_eq!(found.fleets[&edge()].routes, 0);
    let message = &found.diagnostics.iter().next().unwrap().message;
    assert!(message.starts_with("all hostnames: files of shop may claim"), "{message}");
    assert_eq!(owned(&[("platform/a.yaml", open)]).fleets[&edge()].routes, 1);
    let label =
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {edge: 'true'}}\n".to_owned();
    let found = owned(&[("teams/shop/ns.yaml", label.clone())]);
    assert_eq!(findings(&found), ["MG3029 teams/shop/ns.yaml:2 kind"]);
    // A listener may select namespaces by a label that this one lacks then.
    assert!(found.blocked.all);
    assert!(findings(&owned(&[("platform/ns.yaml", label)])).is_empty());
    let (_, gateway) = platform();
    let found = compiled(Some(ownership(FILE)), &[("teams/shop/gateway.yaml", gateway)]);
    assert!(found.fleets.is_empty(), "neither the class nor the Gateway is theirs");
}

#[test]
fn what_restricts_access_is_not_just_left_out() {
    let policy = |namespace: &str, target: &str| {
        format!(
            "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {{name: auth, namespace: {namespace}}}\n\
             spec: {{targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: {target}}}]}}\n"
        )
    };
    let shop = ("teams/shop/a.yaml", route("shop", "shop.example.com", "/"));
    let found = owned(&[shop.clone(), ("teams/blog/policy.yaml", policy("shop", "web"))]);
    assert!(found.blocked.blocks(&edge()), "{:?}", findings(&found));
    let found = owned(&[shop, ("teams/shop/policy.yaml", policy("shop", "web"))]);
    assert!(!found.blocked.blocks(&edge()), "{:?}", findings(&found));
    // The policy is in order, the route that it guards is not: what else matches would answer unguarded.
    let stray = ("teams/blog/a.yaml", route("shop", "shop.example.com", "/"));
    let found = owned(&[stray.clone(), ("teams/shop/policy.yaml", policy("shop", "web"))]);
    assert!(found.blocked.blocks(&edge()), "{:?}", findings(&found));
    let found = owned(&[stray, ("teams/shop/policy.yaml", policy("shop", "other"))]);
    assert!(!found.blocked.blocks(&edge()), "{:?}", findings(&found));
}

#[test]
fn requests_are_taken_only_from_those_who_let_it_happen() {
    let (shop, site, blog) = (
        ("teams/shop/a.yaml", route("shop", "www.example.com", "/shop")),
        ("teams/site/a.yaml", route("site", "www.example.com", "/")),
        ("teams/blog/a.yaml", route("blog", "www.example.com", "/blog")),
    );
    let found = owned(&[shop.clone(), site.clone()]);
    assert!(findings(&found).is_empty() && !found.blocked.blocks(&edge()), "{:?}", findings(&found));
    let found = owned(&[blog.clone(), site.clone()]);
    assert_eq!(findings(&found), ["MG3030 teams/blog/a.yaml:8 spec.rules[0].matches[0]"]);
    let related = &found.diagnostics.iter().next().unwrap().related[0];
    assert_eq!(
        (&*related.file, related.position.line, related.position.column),
        ("teams/site/a.yaml", 8, 15)
    );
    assert!(found.blocked.blocks(&edge()), "nobody can say which of the two was meant");
    // Without the file it is worth a warning, and goes out.
    let found = compiled(None, &[platform(), blog.clone(), site]);
    assert_eq!(findings(&found), ["MG3031 teams/blog/a.yaml:8 spec.rules[0].matches[0]"]);
    assert!(!found.blocked.blocks(&edge()) && !found.diagnostics.has_errors());
    // Equal matches: who comes first by name is no reason.
    let equal = ("teams/shop/a.yaml", route("shop", "www.example.com", "/blog"));
    let found = owned(&[blog, equal]);
    let codes: Vec<&str> = found.diagnostics.iter().map(|found| found.code.id).collect();
    assert_eq!(codes, ["MG3030", "MG3014"]);
    // The platform may define both namespaces, so it takes from itself.
    let both =
        ("platform/a.yaml", route("blog", "www.example.com", "/a") + &route("shop", "www.example.com", "/"));
    assert!(findings(&owned(&[both])).is_empty());
}

#[test]
fn several_sources_are_told_apart() {
    let text = "version: 1
entries:
- {name: home, paths: [teams/], namespaces: [shop], hostnames: ['*']}
- {name: far, repository: 'https://git.example/far', paths: [routes/], namespaces: [blog], hostnames: ['*']}
";
    let roots = vec![
        root("infra", "https://git.example/infra", "gateways"),
        root("far@v1", "https://git.example/far", ""),
        root("far@v1/nested", "https://git.example/far", "deep/nested"),
    ];
    let ownership = Ownership::parse("o.yaml", text.as_bytes(), roots).unwrap();
    let entries = |file: &str| -> Vec<String> {
        ownership.entries_of(file).iter().map(|entry| entry.name.clone()).collect()
    };
    assert!(entries("infra/teams/a.yaml").is_empty(), "the folder of the source counts");
    assert_eq!(entries("far@v1/routes/a.yaml"), ["far"]);
    // A folder of the same name in another repository is no way in.
    assert!(entries("far@v1/teams/a.yaml").is_empty());
    // Both meanings of this name must be allowed.
    assert!(entries("far@v1/nested/routes/a.yaml").is_empty());
    assert!(entries("elsewhere/routes/a.yaml").is_empty());
    let one = Ownership::parse("o.yaml", text.as_bytes(), vec![root("", "r", "teams/shop.yaml")]).unwrap();
    assert_eq!(one.entries_of("shop.yaml").len(), 1, "a source that is one file");
}

#[test]
fn the_file_is_read_strictly() {
    let entry = "version: 1\nentries:\n- {name: a, paths: [a/], namespaces: [a]";
    for (text, expected) in [
        ("", "o.yaml:1:1: the file is empty"),
        ("entries: []\n", "o.yaml:1:1: version is missing: write version: 1"),
        ("version: 2\nentries: []\n", "o.yaml:1:10: this program reads version 1 only: upgrade it"),
        ("version: 1\nentrys: []\n", "o.yaml:2:1: unknown field \"entrys\": did you mean entries?"),
        (
            &format!("{entry}, hostname: []}}\n"),
            "o.yaml:3:43: unknown field \"hostname\": did you mean hostnames?",
        ),
        (&format!("{entry}, kinds: HTTPRoute}}\n"), "o.yaml:3:50: kinds is no list"),
        (&format!("{entry}, kinds: [7]}}\n"), "o.yaml:3:51: kinds holds a value of type integer, not text"),
        (
            &format!("{entry}, hostnames: ['*.']}}\n"),
            "o.yaml:3:54: \"*.\" is no hostname: write a.example.com, *.example.com or *",
        ),
        ("version: 1\nversion: 1\nentries: []\n", "o.yaml:2:1: the key \"version\" is already on line 1"),
        ("version: 1\nentries: []\n---\na: 1\n", "o.yaml:1:1: the file holds more than one document"),
    ] {
        let error = Ownership::parse("o.yaml", text.as_bytes(), Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), expected, "{text}");
    }
    let bad = entry.replace("a/", "../a/");
    let error = Ownership::parse("o.yaml", format!("{bad}}}\n").as_bytes(), Vec::new()).unwrap_err();
    assert!(error.message.contains(".."), "{error}");
    assert!(Ownership::parse("o.yaml", &vec![b' '; (1 << 20) + 1], Vec::new()).is_err());
}
