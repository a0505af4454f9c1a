//! `deploy/prometheus` and `deploy/grafana`: alerts fire when they shall, each has its runbook line, and whatever alerts and
//! dashboard ask for is shown by a relay that runs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use anyhow::{Context as _, Result, ensure};
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::program::{self, Outcome, root, run};
use moorgate_tests::stack::Stack;
use moorgate_tests::{ports, wait};
use regex::Regex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

fn promtool(folder: &Path, words: &[&str]) -> Result<Outcome> {
    let mut command = Command::new(program::go("promtool")?);
    run(command.args(words).current_dir(folder))
}

fn rules() -> Result<Value> {
    Ok(yaml_serde::from_str(&std::fs::read_to_string(root().join("deploy/prometheus/alerts.yaml"))?)?)
}

fn dashboard() -> Result<Value> {
    Ok(serde_json::from_str(&std::fs::read_to_string(root().join("deploy/grafana/moorgate.json"))?)?)
}

/// All texts under this key, wherever they stand.
fn texts<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    for (name, inner) in value.as_object().into_iter().flatten() {
        found.extend(inner.as_str().filter(|_| name == key));
        texts(inner, key, found);
    }
    value.as_array().into_iter().flatten().for_each(|item| texts(item, key, found));
}

#[test]
fn alerts_fire_when_they_shall() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::copy(root().join("deploy/prometheus/alerts.yaml"), folder.path().join("alerts.yaml"))?;
    std::fs::copy(root().join("tests/tests/alerts/rules.yaml"), folder.path().join("rules.yaml"))?;
    promtool(folder.path(), &["check", "rules", "--lint=all", "--lint-fatal", "alerts.yaml"])?
        .ended_with(&[0])?;
    promtool(folder.path(), &["test", "rules", "rules.yaml"])?.ended_with(&[0])?;
    // Each alert has a case that fires and one that does not.
    let cases: Value = yaml_serde::from_str(&std::fs::read_to_string(folder.path().join("rules.yaml"))?)?;
    let mut tried: BTreeMap<String, BTreeSet<bool>> = BTreeMap::new();
    let tests = cases["tests"].as_array().context("tests")?;
    for case in tests.iter().flat_map(|test| test["alert_rule_test"].as_array().into_iter().flatten()) {
        let name = case["alertname"].as_str().context("alertname")?.to_owned();
        let fires = case["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty());
        tried.entry(name).or_default().insert(fires);
    }
    let rules = rules()?;
    let mut alerts = Vec::new();
    texts(&rules, "alert", &mut alerts);
    ensure!(alerts.len() >= 8);
    for alert in alerts {
        assert_eq!(tried.get(alert).map_or(0, BTreeSet::len), 2, "{alert}");
    }
    Ok(())
}

#[test]
fn every_alert_has_a_severity_and_its_line_in_the_runbook() -> Result<()> {
    let page = std::fs::read_to_string(root().join("deploy/runbooks/alerts.md"))?;
    let mut told = BTreeSet::new();
    for rule in rules()?["groups"][0]["rules"].as_array().context("rules")? {
        let Some(alert) = rule["alert"].as_str() else { continue };
        let severity = match rule["labels"]["severity"].as_str() {
            Some("page") => "Page.",
            Some("ticket") => "Ticket.",
            other => panic!("{alert}: severity {other:?}"),
        };
        let (_, section) = page.split_once(&format!("\n## {alert}\n\n")).context(alert.to_owned())?;
        ensure!(section.starts_with(severity), "{alert} is not a {severity}");
        let link = rule["annotations"]["runbook_url"].as_str().context("a link")?;
        let anchor = format!("/deploy/runbooks/alerts.md#{}", alert.to_lowercase());
        ensure!(link.ends_with(&anchor), "{alert}: {link}");
        told.insert(alert.to_owned());
    }
    let headings = page.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_owned).collect();
    assert_eq!(told, headings, "the runbook is about other alerts");
    Ok(())
}

/// What a relay shows that has served, was pinned, and has met a head that rotted.
fn shown() -> Result<String> {
    let (mut stack, backend) = (Stack::new("edge/public")?, Backend::start("cart")?);
    let port = ports::free()?;
    stack.set_endpoints("shop", "cart", &[backend.address()])?;
    stack.set_secret("edge", "tls", &Certificate::for_names(&["shop.example.com"])?)?;
    let listeners = [Listener::http("http", port), Listener::https("https", ports::free()?, "tls")];
    let rules = manifest::rule("/", "cart");
    stack.publish_documents(&[
        manifest::gateway_class(),
        manifest::gateway("edge", "public", &listeners),
        manifest::service("shop", "cart"),
        manifest::http_route("shop", "shop", "edge/public", &["shop.example.com"], &rules),
    ])?;
    let source = stack.folder().join("source.yaml");
    let snapshot = stack.compiled(&source)?;
    let mut pin = stack.signed("pin")?;
    run(pin.args(["edge/public", &snapshot, "--reason", "a test", "--pin-for", "30d"]))?.ended_with(&[0])?;
    stack.start_relay()?;
    stack.start_envoy(&[port])?;
    let head = stack.store().join("fleets/gateway/edge/public/head/stable");
    std::fs::write(&head, "rotten").with_context(|| head.display().to_string())?;
    let mut text = String::new();
    wait::until("the relay to show all that happened", || {
        text = String::from_utf8(stack.health("/metrics")?.body.to_vec())?;
        let lines = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        ensure!(lines("moorgate_relay_converged{").ends_with(" 1"), "{text}");
        ensure!(!lines("moorgate_relay_integrity_refusals_total{").ends_with(" 0"), "{text}");
        ensure!(lines("moorgate_relay_channel_pinned{").ends_with(" 1"), "{text}");
        Ok(())
    })?;
    Ok(text)
}

/// The series of a text, with the two labels that a scrape adds.
fn series(text: &str) -> Vec<(String, &str)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let series = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = name.split_once('{').unwrap_or((name, "}"));
        (format!("{name}{{job=\"relays\",instance=\"a:1\",{labels}"), value)
    });
    series.collect()
}

/// Prometheus itself says that each query of the dashboard, and each series that an alert names, finds something in what
/// a running relay shows.
#[test]
fn alerts_and_dashboard_ask_for_what_a_running_relay_shows() -> Result<()> {
    let text = shown()?;
    let (rules, dashboard) = (rules()?, dashboard()?);
    let mut queries = Vec::new();
    let mut panels = Vec::new();
    texts(&dashboard["panels"], "expr", &mut panels);
    ensure!(panels.len() > 15, "{} queries", panels.len());
    queries.extend(panels.iter().map(|query| query.replace("$fleet", ".*")));
    let mut annotations = Vec::new();
    texts(&dashboard["annotations"], "expr", &mut annotations);
    let mut conditions = Vec::new();
    texts(&rules, "expr", &mut conditions);
    // A condition that does not hold finds nothing, so its series are asked for by themselves.
    let selector = Regex::new(r"\bmoorgate_[a-z_]+(\{[^}]*\})?")?;
    for query in conditions.iter().chain(&annotations) {
        let query = query.replace("$fleet", ".*");
        let found: Vec<_> = selector.find_iter(&query).map(|found| found.as_str().to_owned()).collect();
        ensure!(!found.is_empty() || query.contains("moorgate:"), "{query}");
        queries.extend(found);
    }
    let series: Vec<_> = series(&text)
        .iter()
        .map(|(series, value)| json!({ "series": series, "values": format!("{value}x20") }))
        .collect();
    let expected = |query: &String| {
        let found = format!("(count({query}) or vector(0)) > bool 0");
        json!({ "expr": found, "eval_time": "10m", "exp_samples": [{ "labels": "{}", "value": 1 }] })
    };
    let asked: Vec<_> = queries.iter().map(expected).collect();
    let test = json!({ "interval": "1m", "input_series": series, "promql_expr_test": asked });
    let folder = tempfile::tempdir()?;
    let file = json!({ "rule_files": [], "evaluation_interval": "1m", "tests": [test] });
    std::fs::write(folder.path().join("shown.yaml"), file.to_string())?;
    promtool(folder.path(), &["test", "rules", "shown.yaml"])?.ended_with(&[0]).context(text)?;
    // The comparison can fail.
    let wrong =
        file.to_string().replace("moorgate_relay_converged{fleet=~", "moorgate_relay_diverged{fleet=~");
    std::fs::write(folder.path().join("shown.yaml"), wrong)?;
    promtool(folder.path(), &["test", "rules", "shown.yaml"])?.ended_with(&[1])?;
    Ok(())
}

/// What Grafana needs of a dashboard: panels with one place each, and a data source that is chosen where it is looked at.
#[test]
fn the_dashboard_is_one() -> Result<()> {
    let dashboard = dashboard()?;
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().context("panels")? {
        let place = &panel["gridPos"];
        let number = |key: &str| place[key].as_u64().unwrap();
        ensure!(number("x") + number("w") <= 24, "{panel}");
        ensure!(ids.insert(panel["id"].as_u64()), "{panel}");
        ensure!(places.insert((number("x"), number("y"))), "{panel}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}");
        for target in panel["targets"].as_array().context("targets")? {
            ensure!(target["refId"].is_string() && target["legendFormat"].is_string(), "{panel}");
        }
    }
    let variables: Vec<_> =
        dashboard["templating"]["list"].as_array().context("variables")?.iter().map(|v| &v["name"]).collect();
    assert_eq!(variables, ["datasource", "fleet"]);
    Ok(())
}
