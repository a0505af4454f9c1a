//! The GitHub Actions and the GitLab template: their steps run in a shell on a real repository, with what a forge would tell
//! them, and with what somebody hostile would leave them.

use super::{documents, files, text};
use anyhow::{Context as _, Result, ensure};
use moorgate_tests::http::{Request, Target, send};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::process::Running;
use moorgate_tests::program::{self, Outcome, moorgate, root, run, variable};
use moorgate_tests::repository::Repository;
use moorgate_tests::{ports, wait};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

const MARKER: &str = "<!-- moorgate:diff -->";

/// A repository with a pull request: `HEAD` merges it into what was there before.
struct Change {
    folder: tempfile::TempDir,
    repository: Repository,
}

fn source(prefix: &str) -> String {
    let gateway = manifest::gateway("shop", "edge", &[Listener::http("http", 8080)]);
    let route = manifest::http_route(
        "shop",
        "web",
        "shop/edge",
        &["shop.example.com"],
        &manifest::rule(prefix, "web"),
    );
    manifest::documents(&[manifest::gateway_class(), gateway, route, manifest::service("shop", "web")])
}

impl Change {
    fn new(proposed: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("moorgate-").tempdir()?;
        let repository = Repository::create(&folder.path().join("repository"))?;
        repository.write("gateways/all.yaml", &source("/old"))?;
        repository.commit("what is there")?;
        repository.git(&["checkout", "--quiet", "-b", "proposal"])?;
        repository.write("gateways/all.yaml", proposed)?;
        repository.commit("a proposal")?;
        repository.git(&["checkout", "--quiet", "main"])?;
        repository.git(&["merge", "--quiet", "--no-ff", "--message", "merge", "proposal"])?;
        Ok(Self { folder, repository })
    }

    fn result(&self) -> PathBuf {
        self.folder.path().join("result")
    }

    /// A script with nothing of this process's environment but the programs.
    fn script(&self, path: &str, variables: &[(&str, &str)]) -> Result<Command> {
        let mut command = Command::new(root().join(path));
        command.env_clear().current_dir(self.repository.path()).envs(variables.iter().copied());
        command.env("PATH", programs()?).env("HOME", self.folder.path());
        Ok(command)
    }

    fn diff(&self, variables: &[(&str, &str)]) -> Result<Outcome> {
        let mut command = self.script(".github/actions/diff/diff.sh", variables)?;
        command.env("MOORGATE_PATH", "gateways").env("MOORGATE_RESULT", self.result());
        run(&mut command)
    }
}

/// `PATH` with `moorgate` in it.
fn programs() -> Result<String> {
    let own = program::binary("moorgate")?;
    let own = own.parent().context("a folder")?.display().to_string();
    Ok(format!("{own}:{}", variable("PATH").context("PATH")?))
}

#[test]
fn a_job_without_secrets_says_what_a_change_does() -> Result<()> {
    let change = Change::new(&source("/new"))?;
    let summary = change.folder.path().join("summary");
    let path = summary.to_str().context("a path")?;
    let done = change.diff(&[("GITHUB_ACTIONS", "true"), ("GITHUB_STEP_SUMMARY", path)])?.ended_with(&[0])?;
    assert_eq!(done.stdout, "", "nothing is wrong, so there is nothing to note");
    let result: Value = serde_json::from_str(&std::fs::read_to_string(change.result().join("result.json"))?)?;
    assert_eq!((&result["check"], &result["diff"]), (&json!(0), &json!(1)));
    let head = change.repository.git(&["rev-parse", "HEAD"])?.stdout;
    assert_eq!(result["head"], head.trim());
    let shown = std::fs::read_to_string(&summary)?;
    ensure!(shown.starts_with(MARKER) && shown.contains("/new") && shown.contains("no errors"), "{shown}");
    // Nothing changes between a commit and itself.
    let same = change.diff(&[("MOORGATE_BASE", "HEAD")])?.ended_with(&[0])?;
    ensure!(same.stdout.contains("nothing changes for Envoy"), "{}", same.stdout);
    // A revision is a commit, whatever it looks like.
    for odd in ["--upload-pack=touch x", "HEAD^9", "HEAD HEAD", ""] {
        let refused = change.diff(&[("MOORGATE_HEAD", odd)])?;
        ensure!(refused.code == 3 || odd.is_empty(), "{odd}: {refused:?}");
    }
    ensure!(!change.repository.path().join("x").exists());
    Ok(())
}

#[test]
fn errors_are_noted_at_their_lines_and_no_word_of_a_change_is_a_command() -> Result<()> {
    // A name and a value with line breaks and commands in them.
    let hostile = "\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: bad, namespace: shop}\n\
        spec:\n  \"x\\n::set-output name=token::stolen\\n::add-mask::\": 1\n  hostnames: [\"%0A::stop-commands::x\\r::error::y\"]\n";
    let change = Change::new(&format!("{}{hostile}", source("/new")))?;
    let done = change.diff(&[("GITHUB_ACTIONS", "true"), ("GITHUB_STEP_SUMMARY", "/dev/null")])?;
    assert_eq!(done.code, 1, "{done:?}");
    ensure!(done.stdout.contains("::error file=gateways/all.yaml,line="), "{}", done.stdout);
    for line in done.stdout.lines().chain(done.stdout.split('\r')).chain(done.stderr.lines()) {
        let commands = ["::error ", "::warning ", "::notice "];
        ensure!(!line.starts_with("::") || commands.iter().any(|own| line.starts_with(own)), "{line:?}");
    }
    let check = std::fs::read_to_string(change.result().join("check.txt"))?;
    ensure!(check.contains("set-output"), "the reader sees it: {check}");
    // What does not compile on one side is said, and fails the job.
    let broken = Change::new(&format!("{}\n---\n{{{{", source("/new")))?;
    let done = broken.diff(&[])?;
    ensure!(done.code != 0 && done.stdout.contains("**errors**"), "{done:?}");
    Ok(())
}

/// A forge on a local port.
struct Forge {
    _server: Running,
    folder: tempfile::TempDir,
    port: u16,
}

impl Forge {
    fn start(pulls: &Value, comments: &Value) -> Result<Self> {
        let (folder, port) = (tempfile::Builder::new().prefix("moorgate-").tempdir()?, ports::free()?);
        let mut command = Command::new("python3");
        command.arg(root().join("tests/tests/deploy/forge.py")).arg(port.to_string());
        command.arg(pulls.to_string()).arg(comments.to_string());
        let mut server = Running::start("forge", &mut command, folder.path())?;
        wait::until("the forge to listen", || {
            server.check()?;
            std::net::TcpStream::connect(("127.0.0.1", port)).map(drop).context("not yet")
        })?;
        Ok(Self { _server: server, folder, port })
    }

    fn state(&self) -> Result<Value> {
        let answer = send(&Target::plain(self.port), &Request::get("forge", "/_state"))?;
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// Comments on what a finished run left, with the event that GitHub would give.
    fn comment(&self, event: &Value, result: &Path) -> Result<Outcome> {
        let file = self.folder.path().join("event.json");
        std::fs::write(&file, event.to_string())?;
        let mut command = Command::new("python3");
        command
            .arg(root().join(".github/actions/comment/comment.py"))
            .args(["--forge", "github"])
            .arg(result);
        command.env_clear().env("PATH", variable("PATH").unwrap_or_default());
        command.env("GITHUB_EVENT_PATH", file).env("GITHUB_REPOSITORY", "shop/gateways");
        command
            .env("GITHUB_API_URL", format!("http://127.0.0.1:{}", self.port))
            .env("MOORGATE_TOKEN", "sticky");
        run(&mut command)
    }
}

/// The event of a finished run for this commit of a fork.
fn finished(head: &str) -> Value {
    json!({ "workflow_run": {
        "event": "pull_request", "head_sha": head, "head_branch": "proposal",
        "head_repository": { "owner": { "login": "mallory" } },
    } })
}

#[test]
fn one_comment_is_written_and_then_edited_for_the_commit_that_was_looked_at() -> Result<()> {
    let change = Change::new(&source("/new"))?;
    change.diff(&[])?.ended_with(&[0])?;
    let pulls = json!([{ "number": 7, "head": { "sha": "abc" }, "_head": "mallory:proposal" }]);
    // A page full of others' comments, one of which looks like ours.
    let mut others: Vec<Value> =
        (0..120).map(|n| json!({ "id": n, "body": "hm", "user": { "type": "User" } })).collect();
    others[3]["body"] = format!("{MARKER} a person's").into();
    let forge = Forge::start(&pulls, &json!(others))?;
    for _ in 0..2 {
        let done = forge.comment(&finished("abc"), &change.result())?.ended_with(&[0])?;
        assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("", ""));
    }
    let state = forge.state()?;
    assert_eq!(state["writes"], json!(["POST", "PATCH"]));
    let comments = state["comments"].as_array().context("comments")?;
    assert_eq!(comments.len(), 121);
    assert_eq!(comments[3]["body"], format!("{MARKER} a person's"));
    ensure!(comments[120]["body"].as_str().is_some_and(|body| body.contains("/new")), "{}", comments[120]);
    // Of a commit that is not the head any more nothing is said, and nothing of an event of another kind.
    for event in [finished("abd"), json!({ "workflow_run": { "event": "push" } })] {
        forge.comment(&event, &change.result())?.ended_with(&[1])?;
    }
    assert_eq!(forge.state()?["writes"], json!(["POST", "PATCH"]));
    Ok(())
}

/// What stands between the fences of a comment, and what stands outside.
fn parts(body: &str) -> (Vec<String>, Vec<&str>) {
    let (mut inside, mut outside, mut fence) = (Vec::new(), Vec::new(), None::<String>);
    for line in body.lines() {
        let ticks: String = line.chars().take_while(|c| *c == '`').collect();
        match &fence {
            None if ticks.len() >= 3 => fence = Some(ticks),
            None => outside.push(line),
            // CommonMark: a closing fence has at least as many, and nothing behind.
            Some(open) if ticks.len() >= open.len() && line.trim_start_matches('`').trim().is_empty() => {
                fence = None;
            }
            Some(_) => inside.push(line.to_owned()),
        }
    }
    assert!(fence.is_none(), "a block does not end: {body}");
    (inside, outside)
}

/// A fork may rewrite the first workflow, and so what it leaves.
#[test]
fn what_a_fork_leaves_is_data() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let result = folder.path().join("result");
    std::fs::create_dir(&result)?;
    let attack = "@org/everyone\n```\n# out\n````````\n</details>\n<img src=https://evil.example/x onerror=alert(1)>\n\
        ~~~\n[link](javascript:alert(1))\n<!-- moorgate:diff -->\n::set-output name=token::x\n\u{1b}[31mred\n\
        left\u{202e}right\u{2066}\u{200b}\r::add-mask::x\n/merge\n/assign @me\n";
    std::fs::write(result.join("diff.txt"), attack)?;
    std::fs::write(result.join("check.txt"), attack)?;
    let odd = r#"{"check": "0 @org/everyone", "diff": true, "base": "@org", "head": "```", "number": 8, "token": "x"}"#;
    std::fs::write(result.join("result.json"), odd)?;
    let pulls = json!([{ "number": 7, "head": { "sha": "abc" }, "_head": "mallory:proposal" }]);
    let forge = Forge::start(&pulls, &json!([]))?;
    let done = forge.comment(&finished("abc"), &result)?.ended_with(&[0])?;
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("", ""), "a log takes commands");
    let body = forge.state()?["comments"][0]["body"].as_str().context("a comment")?.to_owned();
    let (inside, outside) = parts(&body);
    let outside = outside.join("\n");
    for word in ["@", "evil", "javascript", "set-output", "/merge", "# out", "~~~"] {
        ensure!(!outside.contains(word), "{word} is outside of its block:\n{body}");
        ensure!(inside.iter().any(|line| line.contains(word)), "{word} is not shown:\n{body}");
    }
    assert_eq!(outside.matches("</details>").count(), outside.matches("<details").count());
    ensure!(
        !body
            .chars()
            .any(|c| (c.is_control() && c != '\n' && c != '\t') || "\u{202e}\u{2066}\u{200b}".contains(c))
    );
    ensure!(body.contains("could not be checked") && body.contains("is not known"), "{body}");
    // Links lead nowhere, and neither size nor nesting stops the comment.
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "a token of the runner")?;
    std::fs::remove_file(result.join("diff.txt"))?;
    std::os::unix::fs::symlink(&secret, result.join("diff.txt"))?;
    std::fs::write(result.join("check.txt"), "x`".repeat(3_000_000))?;
    std::fs::write(result.join("result.json"), "[".repeat(200_000))?;
    forge.comment(&finished("abc"), &result)?.ended_with(&[0])?;
    let body = forge.state()?["comments"][0]["body"].as_str().context("a comment")?.to_owned();
    ensure!(!body.contains("token of the runner") && body.len() < 65_536, "{} bytes", body.len());
    parts(&body);
    Ok(())
}

#[test]
fn what_was_merged_is_published() -> Result<()> {
    let change = Change::new(&source("/new"))?;
    let path = |name: &str| change.folder.path().join(name).display().to_string();
    std::fs::create_dir(path("store"))?;
    run(moorgate()?.args(["keygen", &path("ci.key")]))?.ended_with(&[0])?;
    let (store, key) = (format!("file://{}", path("store")), std::fs::read_to_string(path("ci.key"))?);
    let trust = path("ci.pub");
    let variables = [
        ("MOORGATE_STORE", store.as_str()),
        ("MOORGATE_TRUST", &trust),
        ("MOORGATE_KEY", "env:MOORGATE_SIGNING_KEY"),
        ("MOORGATE_SIGNING_KEY", &key),
        ("MOORGATE_PATH", "gateways"),
        ("MOORGATE_AUTHOR", "ada"),
        ("MOORGATE_RUN", "https://ci.example.com/runs/1"),
        ("MOORGATE_ARGS", "--reason=a release\n\n--channel=next"),
    ];
    let publish = ".github/actions/publish/publish.sh";
    // Flags come last, and clap refuses one that is said twice: the channel is the Action's own input.
    run(&mut change.script(publish, &variables)?)?.ended_with(&[2])?;
    let mut variables = variables.to_vec();
    variables[7] = ("MOORGATE_ARGS", "--reason=a release");
    let done = run(&mut change.script(publish, &variables)?)?.ended_with(&[0])?;
    ensure!(done.stdout.contains("shop/edge"), "{done:?}");
    let mut log = moorgate()?;
    log.args(["log", "shop/edge", "--store", &store, "--trust", &trust, "-o", "json"]);
    let log = run(&mut log)?.ended_with(&[0])?.json()?;
    let entry = log["entries"][0].to_string();
    ensure!(
        entry.contains("ada") && entry.contains("ci.example.com/runs/1") && entry.contains("a release"),
        "{entry}"
    );
    let again = run(&mut change.script(publish, &variables)?)?.ended_with(&[0])?;
    ensure!(again.stdout.contains("unchanged"), "{again:?}");
    Ok(())
}

/// An archive as releases have it, whose programs are this build's; its digest.
fn release(folder: &Path) -> Result<String> {
    let content = folder.join("content");
    for part in ["diff", "comment", "publish"] {
        std::fs::create_dir_all(content.join("ci").join(part))?;
        for file in files(&root().join(".github/actions").join(part))? {
            let name = file.file_name().context("a name")?.to_owned();
            std::fs::copy(&file, content.join("ci").join(part).join(name))?;
        }
    }
    for name in ["moorgate", "moorgate-relay"] {
        let script = format!("#!/bin/sh\nexec {} \"$@\"\n", program::binary(name)?.display());
        std::fs::write(content.join(name), script)?;
        std::fs::set_permissions(content.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let releases = folder.join("releases/v0.1.0");
    std::fs::create_dir_all(&releases)?;
    for machine in ["amd64", "arm64"] {
        let archive = releases.join(format!("moorgate-v0.1.0-linux-{machine}.tar.gz"));
        let mut tar = Command::new("tar");
        // The same bytes for both: the digest is one.
        tar.args([
            "--create",
            "--mtime=@0",
            "--sort=name",
            "--use-compress-program=gzip --no-name",
            "--file",
        ]);
        tar.arg(&archive).args(["--directory", content.to_str().context("a path")?]);
        run(tar.args(["moorgate", "moorgate-relay", "ci"]))?.ended_with(&[0])?;
    }
    let mut sum = Command::new("sha256sum");
    let sum = run(sum.arg(releases.join("moorgate-v0.1.0-linux-amd64.tar.gz")))?.ended_with(&[0])?.stdout;
    Ok(sum.split(' ').next().context("a digest")?.to_owned())
}

#[test]
fn a_release_is_taken_only_with_its_digest() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let digest = release(folder.path())?;
    let releases = format!("file://{}/releases", folder.path().display());
    let setup = |version: &str, digest: &str| {
        let mut command = Command::new(root().join(".github/actions/setup/setup.sh"));
        command.arg(folder.path().join("bin")).env("MOORGATE_RELEASES", &releases);
        run(command.env("MOORGATE_VERSION", version).env("MOORGATE_SHA256", digest))
    };
    setup("v0.1.0", &digest.replace(char::is_numeric, "0"))?.ended_with(&[5])?;
    ensure!(!folder.path().join("bin").exists());
    setup("v0.1.0/../v0.1.0", &digest)?.ended_with(&[2])?;
    let done = setup("v0.1.0", &digest)?.ended_with(&[0])?;
    ensure!(done.stdout.contains("moorgate"), "{done:?}");
    Ok(())
}

/// The template's jobs, in the order and with the variables that GitLab gives.
#[test]
fn the_gitlab_template_does_the_same() -> Result<()> {
    let change = Change::new(&source("/new"))?;
    let digest = release(change.folder.path())?;
    let path = |name: &str| change.folder.path().join(name).display().to_string();
    std::fs::create_dir(path("store"))?;
    run(moorgate()?.args(["keygen", &path("ci.key")]))?.ended_with(&[0])?;
    let forge = Forge::start(&json!([]), &json!([]))?;
    let template = &documents(&text("deploy/ci/gitlab/moorgate.yml")?)?[0];
    let revision = |name: &str| {
        Ok::<_, anyhow::Error>(change.repository.git(&["rev-parse", name])?.stdout.trim().to_owned())
    };
    let job = |name: &str| -> Result<Outcome> {
        let lines = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let script =
            [lines(&template[".moorgate"]["before_script"]), lines(&template[name]["script"])].concat();
        let script = script.join("\n").replace("/tmp/moorgate", &path("unpacked"));
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &script]).current_dir(change.repository.path()).env_clear();
        command.env("PATH", variable("PATH").unwrap_or_default()).env("HOME", change.folder.path());
        let mut given = vec![
            ("CI_API_V4_URL", format!("http://127.0.0.1:{}/api/v4", forge.port)),
            ("CI_PROJECT_ID", "12".to_owned()),
            ("CI_MERGE_REQUEST_IID", "7".to_owned()),
            ("CI_MERGE_REQUEST_DIFF_BASE_SHA", revision("HEAD^1")?),
            ("CI_COMMIT_SHA", revision("HEAD")?),
            ("CI_PIPELINE_URL", "https://gitlab.example.com/p/1".to_owned()),
            ("GITLAB_USER_LOGIN", "ada".to_owned()),
        ];
        for from in [&template["variables"], &template[name]["variables"]] {
            for (name, value) in from.as_object().into_iter().flatten() {
                let value = value.as_str().context("a text")?;
                let known = given.iter().find(|(name, _)| value == format!("${name}"));
                given.push((name, known.map_or(value.to_owned(), |(_, value)| value.clone())));
            }
        }
        command.envs(given);
        command
            .env("MOORGATE_SHA256", &digest)
            .env("MOORGATE_RELEASES", format!("file://{}", path("releases")));
        command.env("MOORGATE_TOKEN", "sticky").env("MOORGATE_PATH", "gateways");
        command
            .env("MOORGATE_STORE", format!("file://{}", path("store")))
            .env("MOORGATE_TRUST", path("ci.pub"));
        command.env("MOORGATE_SIGNING_KEY", std::fs::read_to_string(path("ci.key"))?);
        run(&mut command)
    };
    for _ in 0..2 {
        job("moorgate:diff")?.ended_with(&[0])?;
    }
    let state = forge.state()?;
    assert_eq!(state["writes"], json!(["POST", "PUT"]));
    ensure!(state["comments"][0]["body"].as_str().is_some_and(|body| body.contains("/new")), "{state}");
    ensure!(change.repository.path().join("moorgate-result/diff.txt").is_file(), "what the job keeps");
    let published = job("moorgate:publish")?.ended_with(&[0])?;
    ensure!(published.stdout.contains("shop/edge"), "{published:?}");
    Ok(())
}

/// What a workflow may do, and that it runs nothing whose content could change behind its back.
#[test]
fn workflows_are_sound_and_those_for_forks_have_no_rights() -> Result<()> {
    let mut all = files(&root().join(".github/workflows"))?;
    all.extend(files(&root().join("deploy/ci/github"))?);
    let mut lint = Command::new(program::go("actionlint")?);
    // What is not installed everywhere is not asked.
    run(lint.args(["-shellcheck=", "-pyflakes="]).args(&all))?.ended_with(&[0])?;
    all.extend(files(&root().join(".github/actions"))?.into_iter().map(|folder| folder.join("action.yml")));
    for file in &all {
        let content = std::fs::read_to_string(file)?;
        for (number, line) in content.lines().enumerate() {
            let Some((_, uses)) = line.split_once("uses: ") else { continue };
            let reference = uses.split(' ').next().unwrap_or_default();
            let (name, version) = reference.split_once('@').unwrap_or((reference, ""));
            let own = name.starts_with("./.github/") || name.starts_with("moorgate/moorgate/");
            let fixed = version.len() == 40 && version.bytes().all(|byte| byte.is_ascii_hexdigit());
            ensure!(own || fixed, "{}:{}: {uses}", file.display(), number + 1);
        }
        // An input that stands in a script is run by the shell that reads it.
        for script in documents(&content)?[0]["runs"]["steps"].as_array().into_iter().flatten() {
            let script = script["run"].as_str().unwrap_or_default();
            ensure!(!script.contains("${{"), "{}: {script}", file.display());
        }
    }
    let job = documents(&text("deploy/ci/github/moorgate.yml")?)?.remove(0);
    assert_eq!(job["permissions"], json!({ "contents": "read" }));
    let shown = job.to_string();
    ensure!(
        !shown.contains("secrets.")
            && !shown.contains("pull_request_target")
            && !shown.contains("github.token")
    );
    ensure!(shown.contains("\"persist-credentials\":false"));
    let comment = documents(&text("deploy/ci/github/moorgate-comment.yml")?)?.remove(0);
    assert_eq!(comment["permissions"], json!({}));
    let job = &comment["jobs"]["comment"];
    assert_eq!(job["permissions"], json!({ "actions": "read", "pull-requests": "write" }));
    let steps = job["steps"].to_string();
    ensure!(!steps.contains("checkout") && !steps.contains("\"run\":"), "{steps}");
    Ok(())
}
