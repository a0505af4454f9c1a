//! `watch --status-only`: status of what others publish, and nothing of its own.

use crate::bench::{Bench, condition, programmed, ready};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

/// Status and reason of the condition about publication.
fn published(gateway: &Value) -> (&str, &str) {
    let found = condition(&gateway["status"], "moorgate.dev/Published");
    (found["status"].as_str().unwrap_or_default(), found["reason"].as_str().unwrap_or_default())
}

#[test]
fn whoever_publishes_from_elsewhere_gets_the_stored_status_and_nothing_else() -> Result<()> {
    let bench = Bench::new("elsewhere")?;
    let yaml = bench.gateway_and_route();
    bench.cluster.apply(&yaml)?;
    let watch = bench.watch("only", &["--status-only"])?;
    // Compiled it would be accepted; published it is not.
    let gateway = bench.until_gateway("to be told", |gateway| {
        ensure!(published(gateway) == ("False", "NotPublished"), "{gateway}\n{}", watch.tail());
        Ok(())
    })?;
    assert_eq!(programmed(&gateway["status"]), ("Unknown", "Pending"));
    assert_eq!(condition(&gateway["status"], "Accepted")["status"], "Unknown");
    let file = bench.folder().join("source.yaml");
    std::fs::write(&file, &yaml)?;
    bench.publish(&file)?;
    let first = bench.published()?;
    let gateway = bench.until_gateway("what is stored", |gateway| {
        ready(gateway)?;
        ensure!(published(gateway) == ("", "") && attached(gateway) == 1, "{gateway}\n{}", watch.tail());
        Ok(())
    })?;
    assert_eq!(condition(&gateway["status"], "Accepted")["status"], "True");
    assert_eq!(programmed(&gateway["status"]), ("Unknown", "Pending"));
    bench.until("httproutes", "cart", "what is stored", |route| {
        let accepted = condition(&route["status"]["parents"][0], "Accepted");
        ensure!(accepted["status"] == "True", "{route}");
        ensure!(accepted["observedGeneration"] == route["metadata"]["generation"], "{route}");
        Ok(())
    })?;
    bench.report(&first, &bench.key)?;
    // Argo CD and Flux wait for this; external-dns reads the addresses.
    bench.cluster.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: envoy, namespace: elsewhere, labels: \
         {gateway.networking.k8s.io/gateway-name: edge}}\nspec: {ports: [{port: 80}], clusterIP: 10.96.40.40}\n",
    )?;
    let is_programmed = |gateway: &Value| {
        ready(gateway)?;
        ensure!(programmed(&gateway["status"]) == ("True", "Programmed"), "{gateway}\n{}", watch.tail());
        let address = json!([{"type": "IPAddress", "value": "10.96.40.40"}]);
        ensure!(gateway["status"]["addresses"] == address, "{gateway}");
        Ok(())
    };
    bench.until_gateway("Programmed", is_programmed)?;
    changed_in_the_cluster(&bench)?;
    // Published as it is now, it is of this generation.
    let newer = yaml.replace("protocol: HTTP}", "protocol: HTTP, hostname: x.example}");
    ensure!(newer != yaml, "nothing was replaced");
    std::fs::write(
        &file,
        newer.replace("rules: [{backendRefs", "hostnames: [x.example], rules: [{backendRefs"),
    )?;
    bench.publish(&file)?;
    bench.report(&bench.published_after(&first)?, &bench.key)?;
    let gateway = bench.until_gateway("Programmed again", is_programmed)?;
    assert_eq!((published(&gateway), gateway["metadata"]["generation"].as_u64()), (("", ""), Some(2)));
    bench.until("httproutes", "cart", "the newest generation", |route| {
        let accepted = condition(&route["status"]["parents"][0], "Accepted");
        ensure!(accepted["observedGeneration"] == route["metadata"]["generation"], "{route}");
        Ok(())
    })?;
    assert_eq!(bench.entries()?, ["publish", "publish"]);
    Ok(())
}

fn attached(gateway: &Value) -> u64 {
    gateway["status"]["listeners"][0]["attachedRoutes"].as_u64().unwrap_or_default()
}

/// Objects that differ from what was published keep the status of their older generation, and Gateways say so.
fn changed_in_the_cluster(bench: &Bench) -> Result<()> {
    bench.patch("httproutes", "cart", &json!({"spec": {"hostnames": ["x.example"]}}))?;
    bench.patch(
        "gateways",
        "edge",
        &json!({"spec": {"listeners": [
        {"name": "http", "port": 80, "protocol": "HTTP", "hostname": "x.example"}]}}),
    )?;
    let gateway = bench.until_gateway("not to be published", |gateway| {
        ensure!(published(gateway) == ("False", "NotPublished"), "{gateway}");
        Ok(())
    })?;
    let generation = gateway["metadata"]["generation"].as_i64().context("a generation")?;
    for kind in ["Accepted", "Programmed"] {
        let old = condition(&gateway["status"], kind);
        assert_eq!(
            (&old["status"], &old["observedGeneration"]),
            (&json!("True"), &json!(generation - 1)),
            "{gateway}"
        );
    }
    let message = condition(&gateway["status"], "moorgate.dev/Published")["message"].clone();
    assert!(message.as_str().is_some_and(|message| message.contains("has it otherwise")), "{message}");
    let route = bench.get("httproutes", "cart")?;
    let accepted = condition(&route["status"]["parents"][0], "Accepted");
    assert!(accepted["observedGeneration"].as_i64() < route["metadata"]["generation"].as_i64(), "{route}");
    Ok(())
}
