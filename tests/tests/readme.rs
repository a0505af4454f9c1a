//! The quick start of README.md, followed to the letter by a shell on a machine with a network of its own.

use anyhow::{Context as _, Result, ensure};
use moorgate_tests::program::{self, run};
use std::path::Path;
use std::process::Command;

const SECTION: &str = "## Quick start without Kubernetes";

/// The blocks of the section: the language and the text.
fn blocks() -> Result<Vec<(String, String)>> {
    let readme = std::fs::read_to_string(program::root().join("README.md"))?;
    let (_, section) = readme.split_once(SECTION).context(SECTION)?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut found = Vec::new();
    let mut rest = section;
    while let Some((_, after)) = rest.split_once("\n```") {
        let (block, after) = after.split_once("\n```\n").context("a block without an end")?;
        let (language, text) = block.split_once('\n').context("an empty block")?;
        found.push((language.to_owned(), format!("{text}\n")));
        rest = after;
    }
    Ok(found)
}

/// Writes a file whose first line is a comment with its path.
fn write(folder: &Path, text: &str) -> Result<()> {
    let name =
        text.lines().next().and_then(|line| line.strip_prefix("# ")).context("a file says its path")?;
    let path = folder.join(name.split(':').next().unwrap_or(name));
    std::fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
    std::fs::write(path, text)?;
    Ok(())
}

#[test]
fn the_quick_start_does_what_it_says() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("moorgate-").tempdir()?;
    let mut scripts = Vec::new();
    for (language, text) in blocks()? {
        match language.as_str() {
            "yaml" => write(folder.path(), &text)?,
            "sh" => scripts.push(text),
            other => anyhow::bail!("what is a block of {other}?"),
        }
    }
    let [script] = scripts.as_slice() else { anyhow::bail!("{} scripts", scripts.len()) };
    // What the sentences below the block say in words.
    let then = "
echo == a change
sed -i 's/rules: \\[{ backendRefs/rules: [{ matches: [{ path: { value: \\/cart } }], backendRefs/' gateways/shop.yaml
code=0; moorgate diff channel:shop/edge@stable gateways/ || code=$?; test $code = 1
moorgate publish gateways/ --key file:ci.key
until [ $(curl -s -o /dev/null -w '%{http_code}' http://localhost:8080/) = 404 ]; do sleep 0.1; done
moorgate rollback shop/edge --key file:ci.key
until [ $(curl -s -o /dev/null -w '%{http_code}' http://localhost:8080/) = 200 ]; do sleep 0.1; done
echo == gone back
kill $(jobs -p)
";
    std::fs::write(
        folder.path().join("follow.sh"),
        format!("set -euo pipefail\nip link set lo up\n{script}{then}"),
    )?;
    let (tool, envoy) = (program::binary("moorgate")?, program::envoy()?);
    let of = |program: &Path| program.parent().map(|folder| folder.display().to_string()).unwrap_or_default();
    let path = format!("{}:{}:{}", of(&tool), of(&envoy), program::variable("PATH").unwrap_or_default());
    let namespaces = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let mut shell = Command::new("unshare");
    shell
        .args(namespaces)
        .args(["timeout", "100", "bash", "follow.sh"])
        .current_dir(folder.path())
        .env("PATH", path);
    for name in ["MOORGATE_STORE", "MOORGATE_TRUST", "http_proxy", "HTTP_PROXY"] {
        shell.env_remove(name);
    }
    let outcome = run(&mut shell)?.ended_with(&[0])?;
    let first = outcome.stdout.find("HTTP/1.1 200 OK").context("no answer")?;
    let (_, later) = outcome.stdout[first..].split_once("== a change\n").context("no change")?;
    // Envoy's access log goes to the same place whenever it likes.
    ensure!(later.contains("/cart") && later.contains("== gone back\n"), "{later}");
    Ok(())
}
