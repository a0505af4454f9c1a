//! Machines without Kubernetes: the units of systemd, and the Nomad job.

use super::{files, text};
use anyhow::{Context as _, Result, ensure};
use moorgate_tests::program::{self, Outcome, root, run};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// A machine's root with the units in it, and programs where they are expected.
fn machine(folder: &Path, change: impl Fn(&str) -> String) -> Result<Vec<String>> {
    let units = folder.join("etc/systemd/system");
    std::fs::create_dir_all(&units)?;
    let mut names = Vec::new();
    for file in files(&root().join("deploy/systemd"))? {
        let name = file.file_name().context("a name")?.to_string_lossy().into_owned();
        if file.extension().is_some_and(|end| end == "service" || end == "socket") {
            std::fs::write(units.join(&name), change(&std::fs::read_to_string(&file)?))?;
            names.push(name.replace("@.", "@shop.edge."));
        }
    }
    let targets = ["basic", "multi-user", "network-online", "shutdown", "sockets", "sysinit"];
    let library = folder.join("usr/lib/systemd/system");
    std::fs::create_dir_all(&library)?;
    for target in targets {
        std::fs::write(library.join(format!("{target}.target")), "[Unit]\nDescription=a target\n")?;
    }
    for program in ["usr/local/bin/moorgate-relay", "usr/local/bin/envoy", "bin/kill"] {
        let path = folder.join(program);
        std::fs::create_dir_all(path.parent().context("a folder")?)?;
        std::fs::copy("/bin/true", path)?;
    }
    Ok(names)
}

fn analyze(folder: &Path, words: &[&str], units: &[String]) -> Result<Outcome> {
    let mut command = Command::new("systemd-analyze");
    command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/bin:/bin");
    run(command.args(words).arg(format!("--root={}", folder.display())).args(units))
}

#[test]
fn systemd_understands_every_line_of_its_units() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let units = machine(folder.path(), str::to_owned)?;
    assert_eq!(units.len(), 3, "{units:?}");
    let verified = analyze(folder.path(), &["verify", "--man=no"], &units)?.ended_with(&[0])?;
    assert_eq!(verified.stderr, "", "systemd-analyze says nothing of what is right");
    let folder = tempfile::tempdir()?;
    let units = machine(folder.path(), |text| text.replace("ProtectHome=", "ProtectHoem="))?;
    let verified = analyze(folder.path(), &["verify", "--man=no"], &units)?;
    ensure!(verified.stderr.contains("ProtectHoem"), "{verified:?}");
    Ok(())
}

/// The score of `systemd-analyze security`: 0 is locked in, 10 may do anything.
#[test]
fn units_may_do_little() -> Result<()> {
    let folder = tempfile::tempdir()?;
    machine(folder.path(), str::to_owned)?;
    for (unit, tenths) in [("moorgate-relay.service", "14"), ("moorgate-envoy@shop.edge.service", "19")] {
        let words = ["security", "--offline=true", "--no-pager", "--threshold", tenths];
        analyze(folder.path(), &words, &[unit.to_owned()])?.ended_with(&[0]).context(unit)?;
    }
    let folder = tempfile::tempdir()?;
    machine(folder.path(), |text| {
        text.replace("NoNewPrivileges=yes\n", "").replace("ProtectSystem=strict\n", "")
    })?;
    let words = ["security", "--offline=true", "--no-pager", "--threshold", "14"];
    analyze(folder.path(), &words, &["moorgate-relay.service".to_owned()])?.ended_with(&[1])?;
    Ok(())
}

fn job(text: &str) -> Result<Outcome> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("job.nomad.hcl");
    std::fs::write(&file, text)?;
    let own = ["NOMAD_ALLOC_ID", "NOMAD_TASK_DIR", "NOMAD_ALLOC_DIR", "NOMAD_SECRETS_DIR"];
    // `type = string` is a word of the language.
    let mut variables = json!({ "string": "string", "NOMAD_PORT_health": "19001", "var": { "version": "v1", "store": "file:///s" } });
    for name in own {
        variables[name] = format!("/{name}").into();
    }
    let mut command = Command::new(program::go("hcldec")?);
    command.arg("--spec").arg(root().join("tests/tests/deploy/nomad.hcldec"));
    run(command.args(["--vars", &variables.to_string()]).arg(file))
}

/// Nomad itself is no free software any more, so its own parser, HCL, reads the job, against what its documentation says.
#[test]
fn the_nomad_job_is_one() -> Result<()> {
    let source = text("deploy/nomad/moorgate.nomad.hcl")?;
    let decoded = job(&source)?.ended_with(&[0])?.json()?;
    let group = &decoded["jobs"]["moorgate-edge"]["groups"]["edge"];
    // The relay is there before Envoy, and as long as it.
    assert_eq!(group["tasks"]["relay"]["lifecycle"], json!({ "hook": "prestart", "sidecar": true }));
    for task in ["relay", "envoy"] {
        let config = &group["tasks"][task]["config"];
        assert_eq!((&config["readonly_rootfs"], &config["cap_drop"]), (&json!(true), &json!(["all"])));
    }
    // The relay has every flag that it is told.
    let mut help = Command::new(program::binary("moorgate-relay")?);
    let help = run(help.arg("--help"))?.ended_with(&[0])?.stdout;
    let known: BTreeSet<&str> =
        help.split(|c: char| c.is_whitespace() || c == ',').filter(|word| word.starts_with("--")).collect();
    let words = group["tasks"]["relay"]["config"]["args"].as_array().context("args")?;
    for word in words.iter().filter_map(Value::as_str) {
        ensure!(known.contains(word.split('=').next().unwrap_or_default()), "{word}");
    }
    let checks = &group["services"][0]["checks"][0];
    assert_eq!((&checks["path"], &checks["port"]), (&json!("/readyz"), &json!("health")));
    for (right, wrong) in [
        ("driver = \"docker\"", "drivers = \"docker\""),
        ("count = 2", "count = \"many\""),
        ("  lifecycle {", "  lifecycles {"),
        ("job \"moorgate-edge\" {", "job {"),
    ] {
        job(&source.replacen(right, wrong, 1))?.ended_with(&[1, 2]).context(wrong)?;
    }
    Ok(())
}
