//! Goldens of compile: every `tests/golden/<area>/<case>/in.yaml` gives exactly its `out.json`, and configuration that
//! each supported Envoy takes.
//!
//! `MOORGATE_BLESS=1 cargo test --test golden` rewrites the outputs; review them like code. A first line
//! `# crds: experimental` checks a case against the experimental channel.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use moorgate::compile::{Compilation, Options, compile};
use moorgate::source::File;
use moorgate::validate::Channel;
use moorgate::xds;
use moorgate_snapshot::{Record, Snapshot};
use moorgate_tests::{envoy, program};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const INPUT: &str = "in.yaml";
const OUTPUT: &str = "out.json";

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
            expected.insert("manifests.yaml".to_owned());
        }
        if files != expected {
            wrong.push(case);
        }
    }
    assert!(wrong.is_empty(), "each case has {INPUT} and {OUTPUT} and nothing else: {wrong:?}");
}

#[test]
fn every_envoy_takes_every_case() {
    let envoys = program::envoys().unwrap();
    let mut documents = Vec::new();
    for case in cases() {
        for (fleet, compiled) in compiled(&case).fleets {
            let document = xds::envoy_json(compiled.snapshot.records()).unwrap();
            documents.push((format!("{} {fleet}", name(&case)), document));
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
                    let refused = documents.iter().filter_map(|(case, document)| {
                        let outcome = envoy::validate(program, document, folder.path()).unwrap();
                        (outcome.code != 0).then(|| format!("{case}, Envoy {version}: {}", outcome.stderr))
                    });
                    refused.collect::<Vec<_>>()
                })
            })
            .collect();
        judges.into_iter().flat_map(|judge| judge.join().unwrap()).collect()
    });
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
