//! Goldens of compile: every `tests/golden/<area>/<case>/in.yaml` gives exactly its `out.json`, and configuration that
//! each supported Envoy takes.
//!
//! `MOORGATE_BLESS=1 cargo test --test golden` rewrites the outputs; review them like code. A first line
//! `# crds: experimental` checks a case against the experimental channel, `# patches: applied` switches on EnvoyPatchPolicies.
//! `released.txt` holds the snapshot ids of the last
//! release; `MOORGATE_RELEASED=1` renews it when the next one is made.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use moorgate::compile::{Compilation, Options, compile};
use moorgate::source::File;
use moorgate::validate::Channel;
use moorgate::xds;
use moorgate_snapshot::{Digest, Record, Snapshot};
use moorgate_tests::{envoy, mmdb, module, program};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const INPUT: &str = "in.yaml";
const OUTPUT: &str = "out.json";
const RELEASED: &str = "released.txt";

/// What stands for a part of a resource that is as in the area's first case, `simple`.
const AS_USUAL: &str = "as in simple";

fn golden() -> PathBuf {
    program::root().join("tests/golden")
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.is_dir());
    found.sort();
    found
}

/// Every case: the folders of the folders.
fn cases() -> Vec<PathBuf> {
    let cases: Vec<_> = folders(&golden()).iter().flat_map(|area| folders(area)).collect();
    assert!(cases.len() >= 30, "only {} cases were found", cases.len());
    cases
}

fn name(case: &Path) -> String {
    case.strip_prefix(golden()).unwrap().display().to_string()
}

fn compiled(case: &Path) -> Compilation {
    let bytes = std::fs::read(case.join(INPUT)).unwrap();
    let mut options = Options::default();
    if bytes.starts_with(b"# crds: experimental\n") {
        options.validate.channel = Channel::Experimental;
    }
    options.attach.patches = bytes.starts_with(b"# patches: applied\n");
    compile(&[File { name: INPUT.into(), bytes: bytes.into() }], &options)
}

/// What a case must give: everything that a user sees, without what every case has in common.
fn output(case: &Path, usual: &Value) -> Value {
    let compilation = compiled(case);
    let mut fleets = Map::new();
    for (name, fleet) in &compilation.fleets {
        let mut resources = xds::json::resources(fleet.snapshot.records()).unwrap();
        shorten(&mut resources, usual);
        let value = json!({ "snapshot": fleet.snapshot.id(), "resources": resources, "bindings": bindings(&fleet.snapshot) });
        fleets.insert(name.to_string(), value);
    }
    json!({ "diagnostics": compilation.diagnostics, "status": compilation.statuses, "fleets": fleets })
}

fn bindings(snapshot: &Snapshot) -> Vec<String> {
    let bindings = snapshot.records().filter_map(|record| match record {
        Record::Binding(binding) => Some(format!("{:?} {}", binding.kind, binding.name)),
        Record::Resource(_) => None,
    });
    bindings.collect()
}

/// Envoy's resources of the case that shows the defaults.
fn usual() -> Value {
    let compilation = compiled(&golden().join("httproute/simple"));
    let fleet = compilation.fleets.values().next().unwrap();
    xds::json::resources(fleet.snapshot.records()).unwrap()
}

/// Takes out what the first listener, route table and cluster of `simple` have too, field by field at the same place, so
/// that an output shows what its case is about and a change of a default shows in one file.
fn shorten(resources: &mut Value, usual: &Value) {
    let Value::Object(kinds) = resources else { return };
    for (kind, list) in kinds {
        let (Value::Array(list), Some(usual)) = (list, usual[kind.as_str()].get(0)) else { continue };
        for resource in list {
            if kind != "routes" {
                subtract(resource, usual, true);
            }
        }
    }
}

fn subtract(value: &mut Value, usual: &Value, top: bool) {
    match (value, usual) {
        (Value::Object(fields), Value::Object(usual)) => {
            for (name, field) in fields {
                let Some(usual) = usual.get(name) else { continue };
                if top && name == "name" {
                    continue;
                }
                if field == usual && size(field) > 40 {
                    *field = Value::from(AS_USUAL);
                } else {
                    subtract(field, usual, false);
                }
            }
        }
        (Value::Array(items), Value::Array(usual)) => {
            for (item, usual) in items.iter_mut().zip(usual) {
                if item == usual && size(item) > 40 {
                    *item = Value::from(AS_USUAL);
                } else {
                    subtract(item, usual, false);
                }
            }
        }
        _ => {}
    }
}

fn size(value: &Value) -> usize {
    value.to_string().len()
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap() + "\n"
}

/// The first line that differs, with both sides.
fn difference(wanted: &str, got: &str) -> String {
    let mut got_lines = got.lines();
    for (number, wanted) in wanted.lines().enumerate() {
        let got = got_lines.next().unwrap_or("(end)");
        if wanted != got {
            return format!("line {}:\n  wanted {wanted}\n  got    {got}", number + 1);
        }
    }
    format!("then more: {}", got_lines.next().unwrap_or("(nothing)"))
}

#[test]
fn every_case_gives_its_output() {
    let bless = program::switched_on("MOORGATE_BLESS");
    let usual = usual();
    let mut wrong = Vec::new();
    for case in cases() {
        let none = Value::Null;
        let is_simple = case.ends_with("httproute/simple");
        let got = pretty(&output(&case, if is_simple { &none } else { &usual }));
        let file = case.join(OUTPUT);
        if bless {
            std::fs::write(&file, got).unwrap();
            continue;
        }
        let wanted = std::fs::read_to_string(&file).unwrap_or_default();
        if wanted != got {
            wrong.push(format!("{}: {}", name(&case), difference(&wanted, &got)));
        }
    }
    assert!(wrong.is_empty(), "{}\nMOORGATE_BLESS=1 rewrites the outputs", wrong.join("\n"));
}

/// Snapshot ids by `<case> <fleet>`.
type Ids = BTreeMap<String, String>;

fn ids() -> Ids {
    let of_case = |case: PathBuf| {
        let name = name(&case);
        let fleets = compiled(&case).fleets.into_iter();
        fleets.map(move |(fleet, found)| (format!("{name} {fleet}"), found.snapshot.id().to_string()))
    };
    cases().into_iter().flat_map(of_case).collect()
}

/// What must stand in the changelog when these ids were released and others are made now: a mark of all that changed, with
/// the cases. A case that is new, or that makes no snapshot any more, changes nothing that anybody serves.
fn mark(released: &Ids, now: &Ids) -> Option<(String, Vec<String>)> {
    let changed =
        released.iter().filter_map(|(case, id)| now.get_key_value(case).filter(|(_, now)| *now != id));
    let changed: Vec<_> = changed.collect();
    let text = changed.iter().fold(String::new(), |mut text, (case, id)| {
        let _ = writeln!(text, "{case} {id}");
        text
    });
    let mark = format!("`output {:.8}`", Digest::of(text.as_bytes()).to_string());
    (!changed.is_empty()).then(|| (mark, changed.into_iter().map(|(case, _)| case.clone()).collect()))
}

/// True if a line under "Changes that Envoy sees" of the newest section bears the mark.
fn is_told(changelog: &str, mark: &str) -> bool {
    let newest = changelog.split("\n## ").nth(1).unwrap_or_default();
    let changes = newest.split("\n### ").find(|part| part.starts_with("Changes that Envoy sees"));
    changes.is_some_and(|changes| changes.lines().any(|line| line.starts_with("- ") && line.contains(mark)))
}

#[test]
fn an_output_that_changed_since_the_last_release_is_told_in_the_changelog() {
    let (file, now) = (golden().join(RELEASED), ids());
    if program::switched_on("MOORGATE_RELEASED") {
        let lines = now.iter().map(|(case, id)| format!("{case} {id}\n"));
        std::fs::write(&file, lines.collect::<String>()).unwrap();
    }
    let text = std::fs::read_to_string(&file).unwrap();
    let released: Ids = text
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(case, id)| (case.into(), id.into()))
        .collect();
    assert!(released.len() >= 30, "{RELEASED} holds only {} ids", released.len());
    let Some((mark, cases)) = mark(&released, &now) else { return };
    let changelog = std::fs::read_to_string(program::root().join("CHANGELOG.md")).unwrap();
    assert!(
        is_told(&changelog, &mark),
        "Envoys see something else than at the last release, in these cases:\n  {}\nSay what under \"### Changes that Envoy \
         sees\" of CHANGELOG.md, in a line that ends with {mark}; `make release-notes OLD=BINARY` shows it",
        cases.join("\n  ")
    );
}

#[test]
fn a_change_wants_its_line() {
    let ids =
        |ids: &[(&str, &str)]| ids.iter().map(|(case, id)| ((*case).into(), (*id).into())).collect::<Ids>();
    let released = ids(&[("a f", "1"), ("b f", "2")]);
    assert_eq!(mark(&released, &released), None);
    assert_eq!(mark(&released, &ids(&[("a f", "1"), ("c f", "3")])), None);
    let (first, cases) = mark(&released, &ids(&[("a f", "1"), ("b f", "3")])).unwrap();
    assert_eq!(cases, ["b f"]);
    let (second, _) = mark(&released, &ids(&[("a f", "1"), ("b f", "4")])).unwrap();
    assert_ne!(first, second, "a further change wants a further look");
    let changelog = |section: &str, line: &str| {
        format!(
            "# Changelog\n\n## [Unreleased]\n\n### {section}\n\n{line}\n\n## [0.1.0]\n\n### Changes that Envoy sees\n\n- {second}\n"
        )
    };
    let told = format!("- Idle connections end sooner. {first}");
    assert!(is_told(&changelog("Changes that Envoy sees", &told), &first));
    assert!(!is_told(&changelog("Added", &told), &first));
    assert!(!is_told(&changelog("Changes that Envoy sees", "- Idle connections end sooner."), &first));
    assert!(
        !is_told(&changelog("Changes that Envoy sees", &told), &second),
        "that of an older version does not count"
    );
}

#[test]
fn no_file_is_forgotten() {
    let mut wrong = Vec::new();
    for area in folders(&golden()) {
        let files: Vec<_> = std::fs::read_dir(&area).unwrap().map(|entry| entry.unwrap().path()).collect();
        wrong.extend(files.into_iter().filter(|path| path.is_file()));
    }
    for case in cases() {
        let files: BTreeSet<String> = std::fs::read_dir(&case)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let mut expected = BTreeSet::from([INPUT.to_owned(), OUTPUT.to_owned()]);
        // The suite `render` has its output beside it.
        if case.parent().is_some_and(|area| area.ends_with("render")) {
            expected.extend(["manifests.yaml", "pool.yaml", "node.yaml"].map(str::to_owned));
        }
        if files != expected {
            wrong.push(case);
        }
    }
    assert!(wrong.is_empty(), "each case has {INPUT} and {OUTPUT} and nothing else: {wrong:?}");
}

/// Where cases say that databases and modules lie beside Envoy.
const BESIDE: [&str; 2] = ["/var/lib/geoip", "/var/lib/modules"];

/// The same with what lies in a folder.
fn beside(document: &Value, folder: &Path) -> Value {
    let folder = folder.display().to_string();
    let text = BESIDE.iter().fold(document.to_string(), |text, named| text.replace(named, &folder));
    serde_json::from_str(&text).unwrap()
}

#[test]
fn every_envoy_takes_every_case() {
    let envoys = program::envoys().unwrap();
    let mut documents = Vec::new();
    for case in cases() {
        for (fleet, compiled) in compiled(&case).fleets {
            let document = xds::envoy_json(compiled.snapshot.records()).unwrap();
            let oldest = compiled.snapshot.manifest().oldest_envoy().to_owned();
            documents.push((format!("{} {fleet}", name(&case)), document, oldest));
        }
    }
    assert!(documents.len() >= 30, "only {} fleets were compiled", documents.len());
    let refused: Vec<String> = std::thread::scope(|scope| {
        let judges: Vec<_> = envoys
            .iter()
            .map(|(version, program)| {
                let documents = &documents;
                scope.spawn(move || {
                    let folder = tempfile::tempdir().unwrap();
                    for (name, bytes) in mmdb::made_up().unwrap() {
                        std::fs::write(folder.path().join(name), bytes).unwrap();
                    }
                    module::build(&folder.path().join("guard.so")).unwrap();
                    let minor = |version: &str| {
                        version.split('.').take(2).map(|part| part.parse().unwrap()).collect::<Vec<u32>>()
                    };
                    let refused = documents.iter().filter_map(|(case, document, oldest)| {
                        // A relay never gives it to an older one, which would refuse it, or end without its databases.
                        let taken = minor(version) >= minor(oldest);
                        let here = taken.then(|| beside(document, folder.path()));
                        let document = here.as_ref().unwrap_or(document);
                        let outcome = envoy::validate(program, document, folder.path()).unwrap();
                        (taken != (outcome.code == 0))
                            .then(|| format!("{case}, Envoy {version}: {}", outcome.stderr))
                    });
                    refused.collect::<Vec<_>>()
                })
            })
            .collect();
        judges.into_iter().flat_map(|judge| judge.join().unwrap()).collect()
    });
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
