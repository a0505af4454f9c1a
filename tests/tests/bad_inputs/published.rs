//! Rows 40, 50 and 77 to 80: what shows when a source is compared, published, or large.

use crate::case::source;
use moorgate::compile::{Compilation, Options, compile};
use moorgate::diff::{Kind, Side, diff, mark, refusals};
use moorgate::source::File;
use moorgate_model::Severity;
use moorgate_snapshot::FleetName;
use moorgate_tests::program::{Outcome, moorgate, run};
use moorgate_tests::scale;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const GRANT: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: g, namespace: vault}
spec:
  from:
  - {group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}
  - {group: gateway.networking.k8s.io, kind: TCPRoute, namespace: shop}
  - {group: gateway.networking.k8s.io, kind: Gateway, namespace: shop}
  to: [{group: '', kind: Service}, {group: '', kind: Secret}]
";

/// A route `shop/r` of this kind, whose backend lies in another namespace.
fn foreign(kind: &str) -> String {
    let hostnames = if kind == "HTTPRoute" { "  hostnames: [r.example.com]\n" } else { "" };
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: r, namespace: shop}}\nspec:\n  \
         parentRefs: [{{name: edge}}]\n{hostnames}  rules: [{{backendRefs: [{{name: db, namespace: vault, port: 80}}]}}]\n"
    )
}

const LISTENERS: &str = "{name: http, port: 80, protocol: HTTP}, {name: tcp, port: 90, protocol: TCP}, \
    {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert, namespace: vault}]}}";

fn compiled(text: &str) -> Compilation {
    compile(&[File { name: "in.yaml".into(), bytes: text.as_bytes().into() }], &Options::default())
}

fn side(compilation: &Compilation) -> Side {
    let records = |(name, fleet): (&FleetName, &moorgate::compile::CompiledFleet)| {
        (name.clone(), (fleet.snapshot.id(), fleet.snapshot.records().cloned().collect()))
    };
    compilation.fleets.iter().map(records).collect()
}

/// What a change of the source revokes.
fn revoked(before: &str, after: &str) -> Vec<String> {
    let (before, after) = (compiled(before), compiled(after));
    let before = side(&before);
    let mut fleets = diff(&before, &side(&after), false).unwrap();
    mark(&mut fleets, &before, &refusals(&after)).unwrap();
    let changes = fleets.into_iter().flat_map(|fleet| fleet.changes);
    changes.filter(|change| change.kind == Kind::Revoked).map(|change| change.name).collect()
}

/// 50: a grant is removed between commits.
#[test]
fn a_grant_that_is_taken_away_is_marked() {
    let base = source(LISTENERS);
    let (http, tcp) = (foreign("HTTPRoute"), foreign("TCPRoute"));
    let granted = format!("{base}{http}{tcp}{GRANT}");
    let all = [
        "Gateway shop/edge to Secret vault/cert (revoked)",
        "HTTPRoute shop/r to Service vault/db (revoked)",
        "TCPRoute shop/r to Service vault/db (revoked)",
    ];
    assert_eq!(revoked(&granted, &format!("{base}{http}{tcp}")), all);
    // Made narrower, for another kind or another name.
    assert_eq!(
        revoked(
            &granted,
            &granted.replace("{group: '', kind: Service}", "{group: '', kind: Service, name: x}")
        ),
        &all[1..]
    );
    assert_eq!(
        revoked(
            &granted,
            &granted.replace("kind: TCPRoute, namespace: shop", "kind: UDPRoute, namespace: shop")
        ),
        &all[2..]
    );
    // A route that comes without a grant, or goes with it, has nothing revoked.
    let certificate_only = GRANT.replace("kind: HTTPRoute", "kind: GRPCRoute");
    let before = format!("{base}{certificate_only}");
    assert!(revoked(&before, &format!("{before}{http}")).is_empty());
    assert!(revoked(&granted, &format!("{base}{tcp}{certificate_only}")).is_empty());
    // The Service is gone, and its grant is still there.
    assert!(
        revoked(
            &granted,
            &granted
                .replace("metadata: {name: db, namespace: vault}", "metadata: {name: dx, namespace: vault}")
        )
        .is_empty()
    );
}

/// A store, keys, and sources in a temporary folder.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        run(moorgate().unwrap().arg("keygen").arg(place.path("key"))).unwrap().ended_with(&[0]).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn publish(&self, source: &Path, more: &[&str]) -> Outcome {
        let mut command = moorgate().unwrap();
        command.args(["publish", "--store"]).arg(format!("file://{}", self.path("store").display()));
        command.arg("--trust").arg(self.path("key.pub"));
        command.args(["--key", &format!("file:{}", self.path("key").display())]).arg(source).args(more);
        run(&mut command).unwrap()
    }

    /// The entries of the fleet's log.
    fn entries(&self) -> usize {
        let log = self.path("store/fleets/gateway/shop/edge/log/stable");
        std::fs::read_dir(log).map_or(0, Iterator::count)
    }
}

/// 50, as a reviewer sees it: against a commit, or against what is served.
#[test]
fn a_revocation_is_red_in_a_review() {
    let place = Place::new();
    let base = source(LISTENERS) + &foreign("HTTPRoute");
    let before = place.write("before.yaml", &format!("{base}{GRANT}"));
    let after = place.write("after.yaml", &base);
    place.publish(&before, &[]).ended_with(&[0]).unwrap();
    let wanted = "- grant HTTPRoute shop/r to Service vault/db (revoked)";
    let store = format!("file://{}", place.path("store").display());
    for side in [before.display().to_string(), "channel:shop/edge@stable".to_owned()] {
        let mut command = moorgate().unwrap();
        command
            .args(["diff", &side])
            .arg(&after)
            .args(["--store", &store, "--trust"])
            .arg(place.path("key.pub"));
        let plain = run(&mut command).unwrap().ended_with(&[1]).unwrap().stdout;
        assert!(plain.contains(&format!("  {wanted}\n")) && !plain.contains('\u{1b}'), "{plain}");
        let red = run(command.env("CLICOLOR_FORCE", "1")).unwrap().stdout;
        assert!(red.contains(&format!("\u{1b}[31m{wanted}\u{1b}[0m")), "{red}");
        let json = run(command.args(["-o", "json"])).unwrap().json().unwrap();
        let fleets = json["fleets"].as_array().unwrap();
        let edge = fleets.iter().find(|fleet| fleet["fleet"] == "shop/edge").unwrap();
        assert_eq!(edge["changes"][0]["kind"], "revoked", "{json}");
    }
    // A plan says it too, in each of its forms.
    let plan = |output: &str| {
        let mut command = moorgate().unwrap();
        command.args(["plan", "-o", output, "--store", &store, "--trust"]).arg(place.path("key.pub"));
        run(command.arg(&after)).unwrap().ended_with(&[0]).unwrap().stdout
    };
    assert!(plan("text").contains(&format!("  {wanted}\n")), "{}", plan("text"));
    assert!(plan("markdown").contains(&format!("\n{wanted}\n")), "{}", plan("markdown"));
    let json: serde_json::Value = serde_json::from_str(&plan("json")).unwrap();
    let fleets = json["fleets"].as_array().unwrap();
    let edge = fleets.iter().find(|fleet| fleet["fleet"] == "shop/edge").unwrap();
    assert_eq!(edge["changes"][0]["kind"], "revoked", "{json}");
    let markdown =
        run(moorgate().unwrap().args(["diff", "-o", "markdown"]).args([&before, &after])).unwrap().stdout;
    assert!(markdown.contains("2 revoked") && markdown.contains(&format!("\n{wanted}\n")), "{markdown}");
}

/// 77: nothing is left. 78: too much is gone.
#[test]
fn what_deletes_too_much_is_not_published() {
    let place = Place::new();
    let http = "{name: http, port: 80, protocol: HTTP}";
    let base = source(http);
    let routes = |count: usize| {
        let mut text = base.clone();
        for n in 0..count {
            text += &foreign("HTTPRoute")
                .replace("name: r,", &format!("name: r{n},"))
                .replace("r.example", &format!("r{n}.example"));
        }
        text
    };
    let none = base.split("---\n").filter(|one| !one.contains("HTTPRoute")).collect::<Vec<_>>().join("---\n");
    // Nothing to lose yet: what has no fleet is refused all the same, and a Gateway may come before its routes.
    std::fs::create_dir(place.path("empty")).unwrap();
    let empty = place.path("empty");
    let nothing = place.publish(&empty, &[]).ended_with(&[1]).unwrap();
    assert!(nothing.stderr.contains("no Gateway of ours"), "{}", nothing.stderr);
    place.publish(&place.write("in.yaml", &none), &["--dry-run"]).ended_with(&[0]).unwrap();
    place.publish(&place.write("in.yaml", &routes(30)), &[]).ended_with(&[0]).unwrap();
    assert_eq!(place.entries(), 1);
    let comments = place.write("comments.yaml", "# nothing\n---\n");
    let no_listeners =
        place.write("in.yaml", &routes(30).replace(&format!("listeners: [{http}]"), "listeners: []"));
    for source in [&empty, &comments, &no_listeners] {
        place.publish(source, &["--allow-shrink"]).ended_with(&[1]).unwrap();
    }
    let refused = place.publish(&place.write("in.yaml", &none), &[]).ended_with(&[4]).unwrap();
    assert!(refused.stderr.contains("0 routes where 31 are published"), "{}", refused.stderr);
    let refused = place.publish(&place.write("in.yaml", &routes(20)), &[]).ended_with(&[4]).unwrap();
    assert!(
        refused.stderr.contains("21 routes where 31 are published")
            && refused.stderr.contains("--allow-shrink"),
        "{}",
        refused.stderr
    );
    assert_eq!(place.entries(), 1);
    place.publish(&place.write("in.yaml", &routes(25)), &[]).ended_with(&[0]).unwrap();
    place.publish(&place.write("in.yaml", &none), &["--allow-shrink"]).ended_with(&[0]).unwrap();
    assert_eq!(place.entries(), 3);
}

/// 79: a result over a limit is an error that names what takes most of it.
#[test]
fn what_is_too_large_is_named_with_its_largest_parts() {
    // All on one hostname, as one record of at most 6 MiB: three large routes, and one that is small.
    let mut text = source("{name: http, port: 80, protocol: HTTP}");
    for (name, matches, bytes) in [("a", 64, 40_000), ("b", 64, 50_000), ("c", 64, 20_000), ("d", 1, 10)] {
        let mut rules = String::new();
        for n in 0..matches {
            let _ = write!(rules, "{{headers: [");
            // A value has 4096 bytes at most.
            for part in 0..(bytes / 4000).max(1) {
                let _ = write!(rules, "{{name: x-{n}-{part}, value: {}}}, ", "v".repeat(bytes.min(4000)));
            }
            rules.push_str("]}, ");
        }
        let _ = write!(
            text,
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
             parentRefs: [{{name: edge}}]\n  hostnames: [r.example.com]\n  rules: [{{matches: [{rules}], backendRefs: [{{name: web, \
             port: 80}}]}}]\n"
        );
    }
    let compilation = compiled(&text);
    let found: Vec<_> =
        compilation.diagnostics.iter().filter(|found| found.severity == Severity::Error).collect();
    let [found] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(
        (found.code.id, found.object.as_ref().map(ToString::to_string).as_deref()),
        ("MG3027", Some("Gateway shop/edge"))
    );
    assert!(found.help.as_ref().is_some_and(|help| help.starts_with("split what is largest")));
    let largest: Vec<&str> =
        found.related.iter().filter_map(|other| other.message.split(" takes").next()).collect();
    assert_eq!(largest, ["HTTPRoute shop/b", "HTTPRoute shop/a", "HTTPRoute shop/c"]);
    assert!(!compilation.fleets.contains_key(&FleetName::gateway("shop", "edge")));
    assert!(compilation.fleets.contains_key(&FleetName::gateway("calm", "edge")));
}

/// 80: names of Envoy's resources are never cut, and take over their parts with separators that no part can have, so
/// none meets another; if two did, the snapshot would be refused (`SnapshotError::Duplicate`).
#[test]
fn long_and_similar_names_stay_apart() {
    let long = |last: &str| format!("{}{last}", "a".repeat(62));
    let pairs = [
        ("a-b".to_owned(), "c".to_owned()),
        ("a".to_owned(), "b-c".to_owned()),
        (long("a"), long("b")),
        (long("b"), long("b")),
        (long("a"), long("a")),
    ];
    let mut text = source("{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}");
    for (namespace, service) in &pairs {
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: {namespace}}}\nspec: {{ports: [{{port: 80}}]}}\n\
             ---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {service}, namespace: {namespace}}}\nspec:\n  \
             parentRefs: [{{name: edge, namespace: shop}}]\n  rules: [{{matches: [{{path: {{value: /{namespace}/{service}}}}}], \
             backendRefs: [{{name: {service}, port: 80}}]}}]\n"
        );
    }
    let compilation = compiled(&text);
    assert!(!compilation.diagnostics.has_errors(), "{:?}", compilation.diagnostics);
    let fleet = &compilation.fleets[&FleetName::gateway("shop", "edge")];
    for (namespace, service) in &pairs {
        assert!(
            fleet.ir.clusters.contains_key(&format!("{namespace}/{service}/80")),
            "{namespace}/{service}"
        );
    }
    // And the neighbour's.
    assert_eq!(fleet.ir.clusters.len(), pairs.len() + 1);
}

/// 40, on a scale that a test can have: as many objects again take as many bytes again, and nothing is refused. `make
/// bench` compiles all of it, and holds it to a time and to memory.
#[test]
fn large_sources_grow_in_proportion() {
    let bytes = |routes: usize| {
        let compilation = compile(&scale::tenants(routes), &Options::default());
        let first = compilation.diagnostics.iter().find(|found| found.severity == Severity::Error);
        assert!(first.is_none(), "{first:?}");
        let fleet = &compilation.fleets[&FleetName::gateway("edge", "public-0")];
        assert_eq!((fleet.routes, compilation.fleets.len()), (routes, 1));
        fleet.snapshot.usage().bytes
    };
    let (some, twice) = (bytes(1_000), bytes(2_000));
    assert!(
        twice * 10 > some * 17 && twice * 10 < some * 23,
        "{some} bytes for 1000 routes, {twice} for 2000"
    );
}

#[test]
fn the_source_of_these_tests_is_fine() {
    let compilation = compiled(&source("{name: http, port: 80, protocol: HTTP}"));
    assert!(compilation.diagnostics.is_empty(), "{:?}", compilation.diagnostics);
}
