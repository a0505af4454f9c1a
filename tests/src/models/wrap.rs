//! What hands on what `render` printed: the Helm chart and the kustomize overlays of `deploy`, as an operator has them.

use super::Model;
use super::source::RELAYS;
use crate::program::{go, root, run};
use anyhow::{Context as _, Result};
use std::path::Path;
use std::process::Command;

/// Which images run, for overlays.
pub(super) struct Tags<'t> {
    /// That of relays.
    pub(super) relay: &'t str,
    /// That of Envoys.
    pub(super) envoy: &'t str,
}

/// What `helm template` makes of it.
pub(super) fn chart(folder: &Path, model: Model, printed: &str) -> Result<String> {
    let (chart, fleets) = (root().join("deploy/helm/moorgate"), folder.join("fleets.yaml"));
    std::fs::write(&fleets, printed)?;
    let mut command = Command::new(go("helm")?);
    command.env("HOME", folder).env_remove("KUBECONFIG").arg("template").arg("models").arg(chart);
    command.args(["--namespace", RELAYS, "--kube-version", "1.35.0", "--set", "watch.enabled=false"]);
    command.args(["--set", &format!("model={}", model.name())]);
    command.args(["--set-file", &format!("fleets.all={}", fleets.display())]);
    Ok(run(&mut command)?.ended_with(&[0])?.stdout)
}

/// What `kustomize build` makes of it, in a copy of the model's overlay.
pub(super) fn overlay(folder: &Path, model: Model, printed: &str, tags: &Tags<'_>) -> Result<String> {
    let (from, to) = (root().join("deploy/kustomize"), folder.join("kustomize"));
    for part in ["base", model.name()] {
        std::fs::create_dir_all(to.join(part))?;
        for entry in std::fs::read_dir(from.join(part))? {
            let entry = entry?;
            std::fs::copy(entry.path(), to.join(part).join(entry.file_name()))?;
        }
    }
    let (own, file) = (to.join(model.name()), to.join(model.name()).join("kustomization.yaml"));
    let text = std::fs::read_to_string(&file)?;
    let text = tagged(&text, "ghcr.io/moorgate/moorgate-relay", tags.relay)?;
    std::fs::write(&file, tagged(&text, "docker.io/envoyproxy/envoy", tags.envoy)?)?;
    std::fs::write(own.join("fleets.yaml"), printed)?;
    let mut command = Command::new(go("kustomize")?);
    Ok(run(command.arg("build").arg(own))?.ended_with(&[0])?.stdout)
}

/// An overlay with another tag of an image.
fn tagged(text: &str, image: &str, tag: &str) -> Result<String> {
    let begin = format!("{{name: {image}, newTag: ");
    let (before, after) = text.split_once(&begin).with_context(|| format!("no tag of {image}: {text}"))?;
    let (_, after) = after.split_once('}').context("an entry that ends")?;
    Ok(format!("{before}{begin}{tag}}}{after}"))
}
