//! What users come from: the real Envoy Gateway, installed as its own chart says, in its own namespace.

use crate::site::Site;
use anyhow::{Context as _, Result, ensure};
use moorgate_tests::cluster::{self, Cluster};
use moorgate_tests::distil::crds::{ENVOY_GATEWAY, module};
use moorgate_tests::program::{self, run};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const NAMESPACE: &str = "envoy-gateway-system";

/// Installs it: the CRDs and the chart of its module, with nothing changed but the image, which the chart leaves open, and
/// the webhook that tells Envoys of their zone, which this cluster's binder knows nothing of.
pub(crate) fn install(site: &Site) -> Result<()> {
    // Pods ask for it later, and shall not wait for a compiler.
    cluster::envoy_gateway()?;
    let module = module(ENVOY_GATEWAY.module, ENVOY_GATEWAY.version)?;
    let chart = module.dir.join("charts/gateway-helm");
    let definitions = chart.join("charts/crds/crds/generated");
    for entry in std::fs::read_dir(&definitions).with_context(|| definitions.display().to_string())? {
        site.cluster.apply(&std::fs::read_to_string(entry?.path())?)?;
    }
    let own = site.path("chart");
    copy(&chart, &own)?;
    let values = std::fs::read_to_string(own.join("values.tmpl.yaml"))?;
    let image = format!("docker.io/envoyproxy/gateway:{}", ENVOY_GATEWAY.version);
    let values =
        values.replace("${GatewayImage}", &image).replace("${GatewayImagePullPolicy}", "IfNotPresent");
    std::fs::write(own.join("values.yaml"), values)?;
    let mut helm = Command::new(program::go("helm")?);
    helm.args(["template", "eg"]).arg(&own).args(["--namespace", NAMESPACE]);
    helm.args(["--set", "topologyInjector.enabled=false", "--set", "crds.enabled=false"]);
    let manifests = run(&mut helm)?.ended_with(&[0])?.stdout;
    site.cluster.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n"))?;
    site.cluster.apply(&manifests)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            // Not the permissions: Go's module cache may not be written to.
            std::fs::write(target, std::fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

/// Whether it says of a Gateway that it is programmed.
pub(crate) fn programmed(cluster: &Cluster, path: &str) -> Result<Value> {
    cluster.until("Envoy Gateway", async |client| {
        let request = http::Request::builder().uri(path).body(Vec::new())?;
        let gateway: Value = client.request(request).await?;
        let conditions = gateway["status"]["conditions"].as_array().context("no conditions")?;
        let good = conditions.iter().any(|one| one["type"] == "Programmed" && one["status"] == "True");
        ensure!(good, "{}", gateway["status"]);
        Ok(gateway)
    })
}

/// The last lines of its pods and of its Envoys.
pub(crate) fn logs(cluster: &Cluster) -> String {
    let mut said = String::new();
    let pods = std::fs::read_dir(cluster.folder().join("logs/pods")).into_iter().flatten().flatten();
    for pod in pods.filter(|pod| pod.file_name().to_string_lossy().starts_with(NAMESPACE)) {
        for log in std::fs::read_dir(pod.path()).into_iter().flatten().flatten() {
            let text = std::fs::read(log.path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(15)..].join("\n");
            said.extend([log.path().display().to_string().as_str(), "\n", tail.as_str(), "\n"]);
        }
    }
    said
}
