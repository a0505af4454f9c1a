//! A browser without a window: it alone decides which connection a request takes, as no library for clients does.

use crate::certificate::Certificate;
use crate::process::Running;
use crate::{program, wait};
use anyhow::{Context as _, Result};
use std::process::Command;

/// What the page writes before its answers, and Chromium after the text of a console message.
const BEFORE: &str = "answers: ";
const AFTER: &str = "\", source: ";

/// Chromium fetches these addresses one after the other, from one page, and says what each came to: the status and the
/// text of the body, or the error.
///
/// Every name leads to 127.0.0.1, and the certificate is trusted as if an authority had signed it.
pub fn fetch(addresses: &[String], certificate: &Certificate) -> Result<Vec<(u16, String)>> {
    let folder = tempfile::Builder::new().prefix("moorgate-browser-").tempdir()?;
    let page = folder.path().join("page.html");
    let addresses = serde_json::to_string(addresses)?;
    let script = format!(
        "(async () => {{
          const answers = [];
          for (const address of {addresses}) {{
            await fetch(address).then(async (answer) => answers.push([answer.status, await answer.text()]))
              .catch((error) => answers.push([0, String(error)]));
          }}
          console.log({BEFORE:?} + JSON.stringify(answers));
        }})();"
    );
    std::fs::write(&page, format!("<!doctype html><script>{script}</script>"))?;
    let tool = program::tool("chromium/chromium")?;
    let mut command = Command::new(&tool);
    command
        .args(["--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"])
        .arg("--host-resolver-rules=MAP * 127.0.0.1")
        .arg(format!("--ignore-certificate-errors-spki-list={}", certificate.pin()?))
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg(format!("file://{}", page.display()))
        .env("HOME", folder.path())
        .env("LD_LIBRARY_PATH", tool.with_file_name("lib"));
    let mut browser = Running::start("chromium", &mut command, folder.path())?;
    let answers = wait::until("the answers of the page", || {
        browser.check()?;
        let said = browser.output();
        let (_, answers) = said.split_once(BEFORE).context("nothing yet")?;
        Ok(answers.split_once(AFTER).context("not yet whole")?.0.to_owned())
    })
    .with_context(|| browser.tail())?;
    serde_json::from_str(&answers).with_context(|| format!("the page said {answers}"))
}
