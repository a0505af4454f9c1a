//! Argo CD and Flux: their health checks, run by a Lua interpreter and a CEL one on what `watch` writes.

use super::{documents, text};
use anyhow::{Context as _, Result, ensure};
use moorgate_tests::program::{self, root, run};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::process::Command;

/// Objects, and what both say of them: `Healthy`, `Progressing` or `Degraded`.
fn cases() -> Vec<(&'static str, Value, &'static str)> {
    let condition = |kind: &str, status: &str, generation: i64| json!({ "type": kind, "status": status, "reason": "R", "message": "a \"message\"\n", "observedGeneration": generation });
    let gateway = |conditions: Value| json!({ "metadata": { "name": "edge", "generation": 3 }, "status": { "conditions": conditions } });
    let route = |conditions: Value| json!({ "metadata": { "name": "cart", "generation": 3 }, "status": { "parents": [{ "conditions": conditions }] } });
    let accepted = condition("Accepted", "True", 3);
    vec![
        ("Gateway", gateway(json!([accepted, condition("Programmed", "True", 3)])), "Healthy"),
        ("Gateway", gateway(json!([accepted, condition("Programmed", "Unknown", 3)])), "Progressing"),
        ("Gateway", gateway(json!([accepted])), "Progressing"),
        ("Gateway", json!({ "metadata": { "generation": 3 }, "status": {} }), "Progressing"),
        // What is said of an older generation says nothing.
        (
            "Gateway",
            gateway(json!([condition("Accepted", "True", 2), condition("Programmed", "True", 2)])),
            "Progressing",
        ),
        (
            "Gateway",
            gateway(json!([condition("Accepted", "False", 3), condition("Programmed", "False", 3)])),
            "Degraded",
        ),
        ("Gateway", gateway(json!([accepted, condition("Programmed", "False", 3)])), "Degraded"),
        (
            "Gateway",
            gateway(json!([
                accepted,
                condition("moorgate.dev/Published", "False", 3),
                condition("Programmed", "True", 3)
            ])),
            "Degraded",
        ),
        ("HTTPRoute", route(json!([accepted, condition("ResolvedRefs", "True", 3)])), "Healthy"),
        ("HTTPRoute", route(json!([accepted, condition("ResolvedRefs", "False", 3)])), "Degraded"),
        ("HTTPRoute", route(json!([condition("Accepted", "False", 3)])), "Degraded"),
        ("HTTPRoute", route(json!([condition("Accepted", "True", 2)])), "Progressing"),
        ("HTTPRoute", json!({ "metadata": { "generation": 3 }, "status": { "parents": [] } }), "Progressing"),
    ]
}

/// A value as Lua writes it.
fn lua(value: &Value) -> String {
    match value {
        Value::Null => "nil".to_owned(),
        Value::Array(items) => format!("{{{}}}", items.iter().map(lua).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let fields = fields.iter().fold(String::new(), |mut text, (name, value)| {
                let _ = write!(text, "[\"{name}\"] = {}, ", lua(value));
                text
            });
            format!("{{{fields}}}")
        }
        other => other.to_string(),
    }
}

#[test]
fn argo_cd_says_of_gateways_and_routes_what_their_status_says() -> Result<()> {
    let scripts = documents(&text("deploy/gitops/argocd/health.yaml")?)?.remove(0)["data"].take();
    let script = |kind: &str| {
        let key = format!("resource.customizations.health.gateway.networking.k8s.io_{kind}");
        scripts[&key].as_str().map(str::to_owned).context(key)
    };
    let class = |status: &str| json!({ "status": { "conditions": [{ "type": "Accepted", "status": status, "message": "m" }] } });
    let mut all = cases();
    all.push(("GatewayClass", class("True"), "Healthy"));
    all.push(("GatewayClass", class("False"), "Degraded"));
    all.push(("GatewayClass", json!({}), "Progressing"));
    // No status at all: an API server fills Gateways' in, and routes have none until somebody writes it.
    all.push(("HTTPRoute", json!({ "metadata": { "generation": 1 } }), "Progressing"));
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("check.lua");
    for (kind, object, health) in all {
        let program = format!(
            "local function check(obj)\n{}end\nlocal health = check({})\nassert(type(health.message) == \"string\")\nprint(health.status)\n",
            script(kind)?,
            lua(&object)
        );
        std::fs::write(&file, program)?;
        let said = run(Command::new(program::go("glua")?).arg(&file))?.ended_with(&[0])?.stdout;
        assert_eq!(said.trim(), health, "{kind} {object}");
    }
    for kind in ["GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute"] {
        assert_eq!(script(kind)?, script("HTTPRoute")?);
    }
    Ok(())
}

/// As Flux reads them: what is in progress is neither failed nor current yet.
#[test]
fn flux_says_the_same() -> Result<()> {
    let all = documents(&text("deploy/gitops/flux/fleets.yaml")?)?;
    let exprs =
        all.iter().find_map(|object| object["spec"]["healthCheckExprs"].as_array()).context("expressions")?;
    for (kind, object, health) in cases() {
        let checks = exprs.iter().find(|checks| checks["kind"] == kind).context(kind)?;
        let says = |name: &str| -> Result<bool> {
            let program = cel::Program::compile(checks[name].as_str().context("an expression")?)?;
            let mut context = cel::Context::default();
            for field in ["metadata", "status"] {
                context
                    .add_variable(field, object[field].clone())
                    .map_err(|error| anyhow::anyhow!("{error}"))?;
            }
            match program.execute(&context) {
                Ok(cel::Value::Bool(answer)) => Ok(answer),
                other => anyhow::bail!("{kind} {name}: {other:?} of {object}"),
            }
        };
        let said = if says("inProgress")? {
            "Progressing"
        } else if says("failed")? {
            "Degraded"
        } else if says("current")? {
            "Healthy"
        } else {
            "Progressing"
        };
        assert_eq!(said, health, "{kind} {object}");
    }
    Ok(())
}

/// What recipes refer to is there.
#[test]
fn recipes_name_what_exists() -> Result<()> {
    let application = documents(&text("deploy/gitops/argocd/application.yaml")?)?.remove(0);
    let mut paths = vec![application["spec"]["source"]["path"].as_str().context("a path")?.to_owned()];
    let flux = documents(&text("deploy/gitops/flux/fleets.yaml")?)?;
    let own = flux.iter().filter(|object| object["metadata"]["name"] == "moorgate-fleets");
    paths.extend(
        own.filter_map(|object| object["spec"]["path"].as_str())
            .map(|path| path.trim_start_matches("./").to_owned()),
    );
    assert_eq!(paths.len(), 2);
    for path in paths {
        ensure!(root().join(&path).join("kustomization.yaml").is_file(), "{path}");
    }
    Ok(())
}
