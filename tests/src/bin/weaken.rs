//! Switches off one defence after the other, in a copy of the sources, and shows that its test fails then.
//!
//! The product has no such switches. `tests/weaken.yaml` says what to change; one build carries all changes, and an
//! environment variable chooses one at run time. So a test that passes although its defence is off cannot hide.

#![allow(clippy::print_stdout, reason = "a tool for people")]

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use moorgate_tests::program::root;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

/// Chooses the defence that is off, by its number in the list.
const VARIABLE: &str = "MOORGATE_WEAKEN";
/// Seeds that a simulation may need to meet a weakness.
const SEEDS: &str = "120";

/// Shows that each fault's test fails when its defence is off.
#[derive(Debug, Parser)]
struct Options {
    /// Only defences whose name contains this; repeats.
    #[arg(long)]
    only: Vec<String>,
    /// Applies the changes, and runs nothing.
    #[arg(long)]
    check: bool,
}

/// A defence.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Defence {
    name: String,
    faults: Vec<u8>,
    #[serde(default)]
    tests: Vec<String>,
    #[serde(default)]
    simulation: bool,
    #[serde(default)]
    units: BTreeMap<String, Vec<String>>,
    edits: Vec<Edit>,
}

/// A change in one file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    file: String,
    from: String,
    to: String,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let list = std::fs::read_to_string(root().join("tests/weaken.yaml"))?;
    let defences: Vec<Defence> = yaml_serde::from_str(&list).context("tests/weaken.yaml")?;
    let copy = root().join("target/weakened");
    lay_out(&copy, &changes(&defences)?)?;
    if options.check {
        println!("{} defences can be switched off", defences.len());
        return Ok(());
    }
    let programs = build(&copy)?;
    let start = Instant::now();
    let is_chosen = |defence: &Defence| {
        options.only.is_empty() || options.only.iter().any(|only| defence.name.contains(only))
    };
    for (name, arguments) in with_all(defences.iter().filter(|one| is_chosen(one)), options.only.is_empty()) {
        let whole = run(program(&programs, name)?, &arguments, None)?;
        ensure!(whole.status.success(), "with every defence on:\n{}", tail(&whole));
    }
    println!("every defence on: all tests pass ({} s)", start.elapsed().as_secs());
    let mut failed = Vec::new();
    for (number, defence) in defences.iter().enumerate() {
        if !is_chosen(defence) {
            continue;
        }
        for (name, what, arguments) in trials(defence) {
            let start = Instant::now();
            let output = run(program(&programs, name)?, &arguments, Some(number))?;
            let fails = String::from_utf8_lossy(&output.stdout).contains("test result: FAILED");
            let verdict = if fails { "fails" } else { "PASSES" };
            println!("{what:<12} {verdict:<7} {:>4} s  without: {}", start.elapsed().as_secs(), defence.name);
            if !fails {
                failed.push(format!("{what} without: {}", defence.name));
            }
        }
    }
    let missing = without_defence(&defences);
    ensure!(missing.is_empty(), "faults without a defence in the list: {missing:?}");
    ensure!(failed.is_empty(), "these tests do not see that a defence is off:\n{}", failed.join("\n"));
    Ok(())
}

/// The faults of the catalogue that no defence names.
fn without_defence(defences: &[Defence]) -> Vec<u8> {
    let named: BTreeSet<u8> = defences.iter().flat_map(|defence| defence.faults.iter().copied()).collect();
    (1..=36).filter(|fault| !named.contains(fault)).collect()
}

/// What to run while every defence is on: all faults, if all are tried, and what the defences name besides.
fn with_all<'d>(defences: impl Iterator<Item = &'d Defence>, all: bool) -> BTreeSet<(&'d str, Vec<String>)> {
    let named = defences.flat_map(trials).map(|(name, _, arguments)| (name, arguments));
    let mut out: BTreeSet<_> =
        named.filter(|(name, _)| *name != "simulation" && !(all && *name == "faults")).collect();
    if all {
        out.insert(("faults", Vec::new()));
    }
    out
}

/// What to run for a defence: the program, what it is, and the arguments.
fn trials(defence: &Defence) -> Vec<(&str, String, Vec<String>)> {
    let fault = |number: &u8| {
        let test = format!("fault_{number:02}_");
        ("faults", format!("fault {number:02}"), vec![test])
    };
    let mut trials: Vec<_> = defence.faults.iter().map(fault).collect();
    let named = |test: &String| ("faults", "test".to_owned(), vec![test.clone()]);
    trials.extend(defence.tests.iter().map(named));
    if defence.simulation {
        let test = "every_seed_holds_every_promise".to_owned();
        trials.push(("simulation", "simulation".to_owned(), vec![test]));
    }
    for (name, tests) in &defence.units {
        trials.extend(tests.iter().map(|test| (name.as_str(), "unit".to_owned(), vec![test.clone()])));
    }
    trials
}

/// The changed files.
fn changes(defences: &[Defence]) -> Result<BTreeMap<String, String>> {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for (number, defence) in defences.iter().enumerate() {
        let off =
            format!("std::env::var_os({VARIABLE:?}).is_some_and(|off| off == {:?})", number.to_string());
        for edit in &defence.edits {
            let original =
                std::fs::read_to_string(root().join(&edit.file)).with_context(|| edit.file.clone())?;
            let found = original.matches(&edit.from).count();
            ensure!(found == 1, "{}: {} times in {}: {:?}", defence.name, found, edit.file, edit.from);
            let text = files.entry(edit.file.clone()).or_insert(original);
            let overlaps = text.matches(&edit.from).count() != 1;
            ensure!(!overlaps, "{}: another defence changes the same place of {}", defence.name, edit.file);
            *text = text.replace(&edit.from, &edit.to.replace("$OFF", &off));
        }
    }
    Ok(files)
}

/// Copies the sources, changed; what is there already and the same is left alone, so that a second build is short.
fn lay_out(copy: &Path, changed: &BTreeMap<String, String>) -> Result<()> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root())
        .output()
        .context("git ls-files")?;
    ensure!(listed.status.success(), "git ls-files: {}", listed.status);
    let listed = String::from_utf8(listed.stdout)?;
    let names: BTreeSet<&str> = listed.split('\0').filter(|name| !name.is_empty()).collect();
    for name in &names {
        let path = root().join(name);
        let Ok(original) = std::fs::read(&path) else { continue };
        let mut wanted = changed.get(*name).map_or(original, |text| text.clone().into_bytes());
        if *name == "tests/Cargo.toml" {
            // The tools of the copy would take the place of the workspace's own, in the target folder that both use.
            let text = String::from_utf8(wanted)?;
            wanted = text.replacen("[package]\n", "[package]\nautobins = false\n", 1).into_bytes();
        }
        let to = copy.join(name);
        if std::fs::read(&to).is_ok_and(|there| there == wanted) {
            continue;
        }
        std::fs::create_dir_all(to.parent().unwrap_or(copy))?;
        std::fs::write(&to, wanted)?;
    }
    for source in sources(copy)? {
        if !names.contains(source.as_str()) {
            std::fs::remove_file(copy.join(source))?;
        }
    }
    Ok(())
}

/// Rust files of the copy, relative to it.
fn sources(copy: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![copy.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() && path != copy.join("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path.strip_prefix(copy)?.to_string_lossy().into_owned());
            }
        }
    }
    Ok(found)
}

/// The suites built from the copy, by their names, and the unit tests, by those of their crates.
type Programs = BTreeMap<String, PathBuf>;

fn program<'p>(programs: &'p Programs, name: &str) -> Result<&'p Path> {
    programs.get(name).map(PathBuf::as_path).with_context(|| format!("nothing named {name} was built"))
}

/// Builds the suites and the unit tests. Crates from the registry are shared with the build of the workspace itself.
fn build(copy: &Path) -> Result<Programs> {
    let cargo = moorgate_tests::program::variable("CARGO").unwrap_or_else(|| "cargo".to_owned());
    let target = moorgate_tests::program::variable("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| root().join("target"), PathBuf::from);
    let output = Command::new(cargo)
        .args(["test", "--workspace", "--locked", "--no-run", "--message-format", "json"])
        .args(["--lib", "--test", "faults", "--test", "simulation", "--test", "relay", "--target-dir"])
        .arg(target)
        .current_dir(copy)
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cargo test --no-run")?;
    ensure!(output.status.success(), "the weakened sources do not build");
    let mut found = Programs::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let named = (message["target"]["name"].as_str(), message["executable"].as_str());
        // The programs that suites start are built too, and named as their crates.
        if let (Some(name), Some(path), Some(true)) = (named.0, named.1, message["profile"]["test"].as_bool())
        {
            found.insert(name.to_owned(), path.into());
        }
    }
    Ok(found)
}

/// Runs a suite, with one defence off or none.
fn run(program: &Path, arguments: &[String], off: Option<usize>) -> Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).env("RUST_BACKTRACE", "0").env("MOORGATE_SEEDS", SEEDS).env_remove(VARIABLE);
    if let Some(off) = off {
        command.env(VARIABLE, off.to_string());
    }
    let output = command.output().with_context(|| program.display().to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("running 0 tests") {
        bail!("no such test: {arguments:?}");
    }
    Ok(output)
}

fn tail(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
