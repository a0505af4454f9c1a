//! The side that another version of this program makes of the same source.

use super::{DiffArgs, by_id};
use crate::cli::{Exit, Failure};
use crate::diff::Side;
use anyhow::{Context as _, anyhow, bail};
use moorgate_snapshot::{Digest, FleetName, Store};
use serde::Deserialize;
use std::path::Path;
use std::process::Stdio;
use tokio::process::Command;

/// What `compile -o json` says of a fleet, of which every version says this much.
#[derive(Debug, Deserialize)]
struct Report {
    fleets: Vec<Compiled>,
}

#[derive(Debug, Deserialize)]
struct Compiled {
    fleet: FleetName,
    snapshot: Digest,
}

/// The records that the program at `program` compiles `source` to. It is run like any command of the one who asks, and what
/// it writes is believed as far as digests hold.
pub(super) async fn side(args: &DiffArgs, program: &Path, source: &str) -> Result<Side, Failure> {
    let arguments = arguments(args, source).map_err(|error| Failure::new(Exit::Usage, error))?;
    let folder = tempfile::tempdir().context("a folder for the other translator")?;
    let store = folder.path().canonicalize().context("a folder for the other translator")?;
    let one_side = |error: anyhow::Error| Failure::new(Exit::OneSide, error);
    let report = run(args, program, &arguments, &store).await.map_err(one_side)?;
    let store = Store::open(&format!("file://{}", store.display()))?;
    let mut side = Side::new();
    for Compiled { fleet, snapshot } in report.fleets {
        if !args.fleets.wants(&fleet) {
            continue;
        }
        side.extend(by_id(&store, &fleet, snapshot).await?);
    }
    Ok(side)
}

async fn run(args: &DiffArgs, program: &Path, arguments: &[String], store: &Path) -> anyhow::Result<Report> {
    let mut command = Command::new(program);
    command.args(["compile", "-o", "json", "--out-dir"]).arg(store).args(arguments);
    // Not an argument, which every process of the machine may read.
    if let Some(token) = &args.reading.git_token {
        command.env("MOORGATE_GIT_TOKEN", token);
    }
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .await
        .with_context(|| program.display().to_string())?;
    // 1: the source has errors; what could be compiled is there all the same.
    if !matches!(output.status.code(), Some(0 | 1)) {
        bail!("{} compile: {}", program.display(), output.status);
    }
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{} compile -o json says nothing that is understood", program.display()))
}

/// The source and how to read it. A setting that was not given is left to the other version, which need not know it.
fn arguments(args: &DiffArgs, source: &str) -> anyhow::Result<Vec<String>> {
    let reading = &args.reading;
    let mut out = Vec::new();
    let mut push = |flag: &str, value: &str| out.extend([flag.to_owned(), value.to_owned()]);
    if let Some(("snapshot" | "channel" | "cluster", _)) = source.split_once(':') {
        return Err(anyhow!("with --translator, name a source: git:REV, dir:PATH or a path"));
    }
    let (source, rev) = super::source(args, source);
    if source == "-" {
        return Err(anyhow!(
            "with --translator, two programs read the source: it cannot be the standard input"
        ));
    }
    if let Some(rev) = rev {
        push("--rev", rev);
        reading.path.iter().for_each(|path| push("--path", path));
    }
    reading.namespace.iter().for_each(|namespace| push("--namespace", namespace));
    reading.crds.iter().for_each(|crds| push("--crds", crds.name()));
    if reading.controller_name != crate::attach::CONTROLLER_NAME {
        push("--controller-name", &reading.controller_name);
    }
    reading.merged.iter().for_each(|class| push("--merge-class", class));
    reading.open.iter().for_each(|kind| push("--open", kind));
    reading.closed.iter().for_each(|kind| push("--closed", kind));
    // Last, behind what says that no more options come: a path may begin with a dash.
    let patches: Vec<_> =
        reading.envoy_patch_policy.then(|| "--envoy-patch-policy".to_owned()).into_iter().collect();
    Ok([out, patches, vec!["--".to_owned(), source.to_owned()]].concat())
}
