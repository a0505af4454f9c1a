//! What scripts and CI rely on: exit codes, streams, shapes (DESIGN §8, §10).

use anyhow::{Context as _, Result};
use moorgate_model::diagnostic::catalogue;
use moorgate_tests::program::{Outcome, moorgate, run, run_with_input};
use moorgate_tests::repository::Repository;
use std::path::{Path, PathBuf};
use std::process::Command;

const COMMANDS: [&str; 30] = [
    "policies",
    "compile",
    "check",
    "diff",
    "explain",
    "plan",
    "publish",
    "promote",
    "pin",
    "unpin",
    "rollback",
    "step",
    "hold",
    "floor",
    "retire",
    "log",
    "verify",
    "gc",
    "store",
    "status",
    "wait",
    "trust",
    "renew",
    "render",
    "keygen",
    "seal",
    "endpoints",
    "bootstrap",
    "completions",
    "version",
];

fn golden(case: &str) -> PathBuf {
    moorgate_tests::program::root().join("tests/golden/httproute").join(case).join("in.yaml")
}

fn call(args: &[&str]) -> Result<Outcome> {
    run(moorgate()?.args(args))
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

#[test]
fn every_command_has_help_with_examples() -> Result<()> {
    let top = call(&["--help"])?.ended_with(&[0])?;
    for command in COMMANDS {
        assert!(top.stdout.contains(command), "{command} is not listed");
        let help = call(&[command, "--help"])?.ended_with(&[0])?;
        assert!(help.stdout.contains("Examples:"), "{command}: {}", help.stdout);
        assert!(help.stderr.is_empty(), "{command}");
    }
    Ok(())
}

#[test]
fn the_answer_is_in_the_exit_code_and_data_on_stdout() -> Result<()> {
    let good = golden("simple");
    let bad = golden("backend-missing");
    let compiled = call(&["compile", path(&good)])?.ended_with(&[0])?;
    assert!(compiled.stdout.starts_with("infra/edge  ") && compiled.stderr.is_empty(), "{}", compiled.stderr);
    let erring = call(&["compile", path(&bad)])?.ended_with(&[1])?;
    assert!(erring.stdout.starts_with("infra/edge  "), "what compiles is printed all the same");
    assert!(erring.stderr.contains("MG3006"), "{}", erring.stderr);
    let checked = call(&["check", path(&bad)])?.ended_with(&[1])?;
    assert!(checked.stdout.contains("in.yaml:") && checked.stdout.contains("MG3006"), "{}", checked.stdout);
    assert!(!checked.stdout.contains('\u{1b}'), "no colour into a pipe");
    call(&["check", path(&good)])?.ended_with(&[0])?;
    call(&["nonsense"])?.ended_with(&[2])?;
    call(&["compile", path(&good), "--fleet", "no such fleet"])?.ended_with(&[2])?;
    call(&["compile", path(&good), "--fleet", "other/fleet"])?.ended_with(&[2])?;
    call(&["check", "/nonexistent/source"])?.ended_with(&[3])?;
    let no_repository = tempfile::tempdir()?;
    call(&["check", path(no_repository.path()), "--rev", "main"])?.ended_with(&[3])?;
    let warned = call(&["check", path(&golden("shadowed"))])?.ended_with(&[0])?;
    assert!(warned.stdout.contains("warning"), "{}", warned.stdout);
    call(&["check", path(&golden("shadowed")), "--deny-warnings"])?.ended_with(&[1])?;
    Ok(())
}

#[test]
fn json_has_the_shapes_of_the_design() -> Result<()> {
    let bad = golden("backend-missing");
    let compiled = call(&["compile", path(&bad), "-o", "json"])?.ended_with(&[1])?.json()?;
    assert!(compiled["format_version"].is_u64());
    let fleet = &compiled["fleets"][0];
    assert_eq!(fleet["fleet"], "infra/edge");
    assert_eq!(fleet["snapshot"].as_str().map(str::len), Some(64));
    assert!(fleet["resources"].as_array().is_some_and(|resources| !resources.is_empty()));
    assert!(compiled["status"].as_array().is_some_and(|status| status.len() == 3), "{}", compiled["status"]);
    let diagnostics = call(&["check", path(&bad), "-o", "json"])?.ended_with(&[1])?.json()?;
    assert!(diagnostics["format_version"].is_u64());
    let first = diagnostics["diagnostics"][0].as_object().context("no diagnostic")?;
    for field in ["code", "class", "severity", "object", "field", "file", "line", "column", "message", "help"]
    {
        assert!(first.contains_key(field), "{field} is missing in {first:?}");
    }
    assert_eq!((&first["class"], &first["severity"]), (&"semantic".into(), &"error".into()));
    let sarif = call(&["check", path(&bad), "-o", "sarif"])?.ended_with(&[1])?.json()?;
    assert_eq!(sarif["version"], "2.1.0");
    assert_eq!(sarif["runs"][0]["results"][0]["ruleId"], "MG3006");
    let github = call(&["check", path(&bad), "-o", "github"])?.ended_with(&[1])?;
    assert!(github.stdout.starts_with("::error file="), "{}", github.stdout);
    let envoy = call(&["compile", path(&golden("simple")), "-o", "envoy"])?.ended_with(&[0])?.json()?;
    assert!(envoy["static_resources"]["listeners"].is_array(), "{envoy}");
    let version = call(&["version", "-o", "json"])?.ended_with(&[0])?.json()?;
    for field in ["format_version", "version", "gateway_api", "envoy", "snapshot_format"] {
        assert!(!version[field].is_null(), "{field}");
    }
    Ok(())
}

#[test]
fn sources_are_files_folders_and_standard_input() -> Result<()> {
    let good = golden("simple");
    let text = std::fs::read(&good)?;
    let expected = call(&["compile", path(&good)])?.ended_with(&[0])?.stdout;
    let piped = run_with_input(moorgate()?.args(["compile", "-"]), &text)?.ended_with(&[0])?;
    assert_eq!(piped.stdout, expected);
    let (one, two) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let text = String::from_utf8(text)?;
    for (index, document) in text.split("---\n").enumerate() {
        let folder = if index % 2 == 0 { &one } else { &two };
        std::fs::write(folder.path().join(format!("{index}.yaml")), document)?;
    }
    let several = call(&["compile", path(one.path()), path(two.path())])?.ended_with(&[0])?;
    assert_eq!(several.stdout, expected);
    Ok(())
}

fn git(folder: &Path, args: &[&str]) -> Result<()> {
    let identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"];
    run(Command::new("git").current_dir(folder).args(identity).args(args))?.ended_with(&[0])?;
    Ok(())
}

#[test]
fn diff_compares_revisions_and_says_so_by_its_exit_code() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("in.yaml");
    let text = std::fs::read_to_string(golden("simple"))?;
    std::fs::write(&file, &text)?;
    git(folder.path(), &["init", "-q"])?;
    git(folder.path(), &["add", "."])?;
    git(folder.path(), &["commit", "-qm", "one"])?;
    std::fs::write(&file, text.replace("value: /cart", "value: /basket"))?;
    git(folder.path(), &["commit", "-qam", "two"])?;
    let repo = path(folder.path());
    let same = call(&["diff", "git:HEAD", &format!("dir:{repo}"), "--repo", repo])?.ended_with(&[0])?;
    assert!(same.stdout.is_empty(), "{}", same.stdout);
    let text_form = call(&["diff", "git:HEAD~1", "git:HEAD", "--repo", repo])?.ended_with(&[1])?;
    assert!(
        text_form.stdout.contains("/basket") && text_form.stdout.contains("/cart"),
        "{}",
        text_form.stdout
    );
    let json =
        call(&["diff", "git:HEAD~1", "git:HEAD", "--repo", repo, "-o", "json"])?.ended_with(&[1])?.json()?;
    assert_eq!(json["fleets"][0]["fleet"], "infra/edge");
    let markdown =
        call(&["diff", "git:HEAD~1", "git:HEAD", "--repo", repo, "-o", "markdown"])?.ended_with(&[1])?;
    assert!(markdown.stdout.starts_with("### Fleet `infra/edge`"), "{}", markdown.stdout);
    std::fs::write(&file, "kind: [")?;
    call(&["diff", "git:HEAD", &format!("dir:{repo}"), "--repo", repo])?.ended_with(&[6])?;
    call(&["diff", "snapshot:0", "git:HEAD", "--repo", repo])?.ended_with(&[2])?;
    Ok(())
}

#[test]
fn diff_shows_what_another_version_makes_of_the_same_source() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("in.yaml");
    let text = std::fs::read_to_string(golden("simple"))?;
    std::fs::write(&file, &text)?;
    let this = moorgate_tests::program::binary("moorgate")?;
    let same = call(&["diff", path(&file), "--translator", path(&this)])?.ended_with(&[0])?;
    assert_eq!(same.stdout, "");
    // Another version is one that makes something else of the source: here it reads another file.
    let changed = folder.path().join("changed.yaml");
    std::fs::write(&changed, text.replace("value: /cart", "value: /basket"))?;
    let other = folder.path().join("other");
    let script = format!(
        "#!/bin/sh\necho \"$@\" > {0}/asked\nfor last; do :; done\ntest \"$last\" = {1} || exit 9\nexec {2} compile -o json --out-dir \"$5\" {3}\n",
        folder.path().display(),
        file.display(),
        this.display(),
        changed.display(),
    );
    std::fs::write(&other, script)?;
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let args = ["diff", path(&file), "--translator", path(&other)];
    let differs = call(&args)?.ended_with(&[1])?;
    let lines: Vec<_> =
        differs.stdout.lines().filter(|line| line.contains("/basket") || line.contains("/cart")).collect();
    assert!(lines.iter().any(|line| line.starts_with('-') || line.contains("/basket")), "{}", differs.stdout);
    let asked = std::fs::read_to_string(folder.path().join("asked"))?;
    assert!(asked.starts_with("compile -o json --out-dir ") && asked.contains(" -- "), "{asked}");
    assert!(!asked.contains("--crds"), "what was not set is left to the other version: {asked}");
    call(&[&args[..], &["--crds", "experimental", "-n", "shop"]].concat())?.ended_with(&[1])?;
    let asked = std::fs::read_to_string(folder.path().join("asked"))?;
    assert!(asked.contains("--namespace shop --crds experimental"), "{asked}");
    // One that fails, or says nothing that is understood, is no empty side.
    for body in ["#!/bin/sh\nexit 3\n", "#!/bin/sh\necho all is well\n"] {
        std::fs::write(&other, body)?;
        call(&args)?.ended_with(&[6])?;
    }
    call(&["diff", "-", "--translator", path(&this)])?.ended_with(&[2])?;
    call(&["diff", path(&file)])?.ended_with(&[2])?;
    Ok(())
}

/// A program of this text, which stands for an older version.
fn older(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, format!("#!/bin/sh\n{text}\n"))?;
    Ok(std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o755))?)
}

/// Every case is compared with the settings that it is written for, and what cannot be compared is no "nothing changes".
#[test]
fn notes_of_a_release_pass_over_nothing_that_the_older_program_cannot_do() -> Result<()> {
    let (root, this) = (moorgate_tests::program::root(), moorgate_tests::program::binary("moorgate")?);
    let folder = tempfile::tempdir()?;
    let (old, asked) = (folder.path().join("old"), folder.path().join("asked"));
    let erring = "httproute/security-policy";
    let notes = |old: &Path, cases: &[&str]| {
        let mut command = Command::new(root.join("tests/tools/release-notes"));
        command.arg(&this).arg(old);
        run(command.args(cases.iter().map(|case| format!("tests/golden/{case}/in.yaml"))))
    };
    let cases = ["httproute/simple", "httproute/xbackend", "policies/patches", erring];
    older(&old, &format!("echo \"$*\" >> {}\nexec {} \"$@\"", asked.display(), this.display()))?;
    let same = notes(&old, &cases)?.ended_with(&[0])?;
    assert_eq!(same.stdout, "Envoys see what they saw.\n");
    assert_eq!(same.stderr, "note: 1 of 4 cases have errors and are not compared\n");
    let asked = std::fs::read_to_string(asked)?;
    for (case, experimental, patches) in
        [(cases[0], false, false), (cases[1], true, false), (cases[2], false, true)]
    {
        let line =
            asked.lines().find(|line| line.contains(case)).with_context(|| format!("{case}: {asked}"))?;
        assert_eq!(line.contains("--crds experimental"), experimental, "{line}");
        assert_eq!(line.contains("--envoy-patch-policy"), patches, "{line}");
    }
    // One that makes something else of a source.
    let changed = folder.path().join("changed.yaml");
    std::fs::write(&changed, std::fs::read_to_string(golden("simple"))?.replace("/cart", "/basket"))?;
    let text = format!("exec {} compile -o json --out-dir \"$5\" {}", this.display(), changed.display());
    older(&old, &text)?;
    let differs = notes(&old, &cases[..1])?.ended_with(&[0])?;
    assert!(differs.stdout.starts_with("## httproute/simple\n"), "{}", differs.stdout);
    assert!(differs.stdout.contains("/basket") && !differs.stdout.contains("what they saw"));
    // One that does nothing, and cases of which none is left.
    let broken = notes(Path::new("/bin/false"), &cases)?.ended_with(&[6])?;
    assert!(broken.stderr.contains("/bin/false cannot compile it"), "{}", broken.stderr);
    let nothing = notes(&this, &[erring])?.ended_with(&[6])?;
    for outcome in [broken, nothing] {
        assert!(!outcome.stdout.contains("what they saw"), "{}", outcome.stdout);
    }
    Ok(())
}

#[test]
fn publish_refuses_what_is_in_no_commit() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (repo, key) = (folder.path().join("repo"), folder.path().join("ci.key"));
    std::fs::create_dir(&repo)?;
    std::fs::copy(golden("simple"), repo.join("in.yaml"))?;
    git(&repo, &["init", "-q"])?;
    git(&repo, &["add", "."])?;
    git(&repo, &["commit", "-qm", "one"])?;
    call(&["keygen", path(&key)])?.ended_with(&[0])?;
    let store = format!("file://{}/store", path(folder.path()));
    let key = format!("file:{}", path(&key));
    let publish = |extra: &[&str]| -> Result<Outcome> {
        let mut args = vec!["publish", path(&repo), "--store", &store, "--key", &key];
        args.extend(extra);
        call(&args)
    };
    publish(&[])?.ended_with(&[0])?;
    let mut text = std::fs::read_to_string(repo.join("in.yaml"))?;
    text = text.replace("value: /cart", "value: /basket");
    std::fs::write(repo.join("in.yaml"), text)?;
    publish(&[])?.ended_with(&[4])?;
    publish(&["--allow-dirty"])?.ended_with(&[4])?;
    publish(&["--allow-dirty", "--allow-unrelated"])?.ended_with(&[0])?;
    let empty = tempfile::tempdir()?;
    call(&["publish", path(empty.path()), "--store", &store, "--key", &key])?.ended_with(&[1])?;
    Ok(())
}

#[test]
fn explain_tells_who_answers_and_what_each_code_means() -> Result<()> {
    let good = golden("precedence");
    let won = call(&["explain", path(&good), "GET", "http://shop.example.com/api/v2/x"])?.ended_with(&[0])?;
    assert!(
        won.stdout.contains("HTTPRoute shop/newer rule 0") && won.stdout.contains("in.yaml:"),
        "{}",
        won.stdout
    );
    assert!(won.stdout.contains("not HTTPRoute shop/older rule 0"), "{}", won.stdout);
    let nobody = call(&["explain", path(&good), "GET", "http://other.example.com/"])?.ended_with(&[1])?;
    assert!(nobody.stdout.contains("404"), "{}", nobody.stdout);
    let json = call(&["explain", path(&good), "GET", "http://shop.example.com/", "-o", "json"])?
        .ended_with(&[0])?
        .json()?;
    assert_eq!(json["answers"][0]["answer"], "forward");
    call(&["explain", path(&good), "GET", "shop.example.com"])?.ended_with(&[2])?;
    for code in catalogue() {
        let told = call(&["explain", code.id])?.ended_with(&[0])?;
        assert!(told.stdout.starts_with(code.id) && told.stdout.contains(code.title), "{}", told.stdout);
    }
    call(&["explain", "MG9999"])?.ended_with(&[2])?;
    Ok(())
}

#[test]
fn keys_are_private_and_never_written_over() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir()?;
    let key = folder.path().join("ci.key");
    let made = call(&["keygen", path(&key)])?.ended_with(&[0])?;
    assert!(!format!("{}{}", made.stdout, made.stderr).contains("PRIVATE KEY"));
    assert_eq!(std::fs::metadata(&key)?.permissions().mode() & 0o777, 0o600);
    let before = std::fs::read(&key)?;
    assert_ne!(call(&["keygen", path(&key)])?.code, 0);
    assert_eq!(std::fs::read(&key)?, before);
    Ok(())
}

#[test]
fn completions_and_bootstrap_print_what_tools_read() -> Result<()> {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let printed = call(&["completions", shell])?.ended_with(&[0])?;
        assert!(printed.stdout.contains("moorgate"), "{shell}");
    }
    let bootstrap = call(&["bootstrap", "shop/edge"])?.ended_with(&[0])?.json()?;
    assert!(bootstrap.to_string().contains("/run/moorgate/shop.edge.sock"), "{bootstrap}");
    call(&["bootstrap", "shop/edge", "--admin", "nonsense"])?.ended_with(&[2])?;
    Ok(())
}

/// Annotations and code scanning know files as the repository does, wherever SOURCE lies in it.
/// A source with parameters that say something of the bootstrap.
fn with_parameters(spec: &str) -> Result<String> {
    let text = std::fs::read_to_string(golden("simple"))?;
    let named =
        "parametersRef: { group: gateway.envoyproxy.io, kind: EnvoyProxy, name: all, namespace: infra }";
    let own = format!(
        "\n---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyProxy\nmetadata: {{ name: all, namespace: infra }}\nspec: {spec}\n"
    );
    let class = text.replacen("{ controllerName:", &format!("{{ {named}, controllerName:"), 1);
    Ok(class + &own)
}

#[test]
fn a_bootstrap_with_a_source_has_what_the_fleet_says_of_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("in.yaml");
    std::fs::write(
        &file,
        with_parameters("{ bootstrap: { type: Merge, value: 'stats_flush_interval: 2s' } }")?,
    )?;
    let source = path(&file);
    let made = call(&["bootstrap", "infra/edge", source])?.ended_with(&[0])?.json()?;
    assert_eq!(made["stats_flush_interval"], "2s");
    assert_eq!(made["static_resources"]["listeners"], serde_json::Value::Null, "nobody asked for statistics");
    let shown =
        call(&["bootstrap", "infra/edge", source, "--stats", "[::1]:19002"])?.ended_with(&[0])?.json()?;
    let address = &shown["static_resources"]["listeners"][0]["address"]["socket_address"];
    assert_eq!((address["address"].as_str(), address["port_value"].as_u64()), (Some("::1"), Some(19002)));
    let alone = call(&["bootstrap", "infra/edge", "--stats", "127.0.0.1:19002"])?.ended_with(&[0])?.json()?;
    assert_eq!(alone["static_resources"]["listeners"][0]["name"], "moorgate-stats");
    for stats in ["19002", "unix:/x", "host.example:1"] {
        call(&["bootstrap", "infra/edge", "--stats", stats])?.ended_with(&[2])?;
    }
    call(&["bootstrap", "infra/other", source])?.ended_with(&[2])?;
    // What is not there without a source cannot be patched.
    let patch = "{ bootstrap: { type: JSONPatch, jsonPatches: [{ op: remove, path: /static_resources/listeners }] } }";
    std::fs::write(&file, with_parameters(patch)?)?;
    let refused = call(&["bootstrap", "infra/edge", source])?.ended_with(&[1])?;
    assert!(refused.stdout.is_empty() && refused.stderr.contains("listeners"), "{refused:?}");
    Ok(())
}

/// Snapshots are the same, and Envoys restart all the same.
#[test]
fn diff_says_that_envoys_restart() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let [before, after] = ["before.yaml", "after.yaml"].map(|name| folder.path().join(name));
    std::fs::write(&before, with_parameters("{ concurrency: 2 }")?)?;
    let own = "{ telemetry: { metrics: { sinks: [{ openTelemetry: { host: otel.example.com, headers: [{ name: x-key, value: hidden }] } }] } } }";
    std::fs::write(&after, with_parameters(own)?)?;
    let [before, after] = [path(&before), path(&after)];
    call(&["diff", before, before])?.ended_with(&[0])?;
    let text = call(&["diff", before, after])?.ended_with(&[1])?.stdout;
    assert!(
        text.contains("  ~ bootstrap Envoys restart with it\n") && text.contains("      statsSinks: "),
        "{text}"
    );
    assert!(text.contains("otel.example.com") && !text.contains("hidden"), "{text}");
    let page = call(&["diff", before, after, "-o", "markdown"])?.ended_with(&[1])?.stdout;
    assert!(
        page.contains("0 added, 0 removed, 1 changed") && page.contains("~ bootstrap Envoys restart"),
        "{page}"
    );
    let json = call(&["diff", before, after, "-o", "json"])?.ended_with(&[1])?.json()?;
    let fleet = &json["fleets"][0];
    assert_eq!((&fleet["before"], &fleet["changes"][0]["what"]), (&fleet["after"], &"bootstrap".into()));
    Ok(())
}

#[test]
fn annotations_name_files_from_the_root_of_the_repository() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let repository = Repository::create(&folder.path().join("repository"))?;
    let wrong = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: shop}\nspec: \
                 {gatewayClassName: 7, listeners: []}\n";
    repository.write("infra/edge/team/gateway.yaml", wrong)?;
    repository.write("other/gateway.yaml", &wrong.replace("edge", "inner"))?;
    repository.commit("one")?;
    let check = |arguments: &[&str], output: &str| -> Result<String> {
        let mut command = moorgate()?;
        command.arg("check").args(arguments).args(["-o", output]).current_dir(repository.path());
        Ok(run(&mut command)?.ended_with(&[1])?.stdout)
    };
    let place = "infra/edge/team/gateway.yaml";
    for source in [
        &["infra/edge"][..],
        &["infra"],
        &["."],
        &[place],
        &["infra/edge/team/../team"],
        &[".", "--rev", "HEAD", "--path", "infra/edge"],
        &[".", "--rev", "HEAD", "--path", place],
        &["other", "infra/edge"],
        &["other/gateway.yaml", place],
    ] {
        let found = check(source, "github")?;
        assert!(found.contains(&format!("file={place},")), "{source:?}: {found}");
        let sarif: serde_json::Value = serde_json::from_str(&check(source, "sarif")?)?;
        let results = sarif["runs"][0]["results"].as_array().context("results")?;
        let at = |result: &serde_json::Value| {
            result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == place
        };
        assert!(results.iter().any(at), "{source:?}: {sarif}");
    }
    // For people and scripts they lie in SOURCE.
    assert!(check(&["infra/edge"], "json")?.contains("\"team/gateway.yaml\""));
    Ok(())
}
