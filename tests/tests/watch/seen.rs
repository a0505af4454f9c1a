//! What is seen of `watch`: by the API server, by probes, in the log, in the conditions of Gateways.

use crate::bench::{Asked, Bench, condition, programmed, ready};
use anyhow::{Context as _, Result, ensure};
use moorgate_tests::program::root;
use moorgate_tests::wait;
use serde::Deserialize as _;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Group, resource and verb.
type Right = (String, String, String);

/// What the roles that are shipped grant.
fn granted() -> Result<BTreeSet<Right>> {
    let shipped = std::fs::read_to_string(root().join("deploy/kubernetes/watch.yaml"))?;
    let mut rights = BTreeSet::new();
    for document in yaml_serde::Deserializer::from_str(&shipped) {
        let object = Value::deserialize(document)?;
        for rule in object["rules"].as_array().into_iter().flatten() {
            let texts = |field: &str| -> Vec<String> {
                let list = rule[field].as_array().into_iter().flatten();
                list.filter_map(|item| item.as_str().map(str::to_owned)).collect()
            };
            for group in texts("apiGroups") {
                for resource in texts("resources") {
                    for verb in texts("verbs") {
                        rights.insert((group.clone(), resource.clone(), verb));
                    }
                }
            }
        }
    }
    ensure!(rights.len() > 20, "{rights:?}");
    Ok(rights)
}

#[test]
fn every_right_that_is_shipped_is_used_and_none_is_missing() -> Result<()> {
    let bench = Bench::new("rights")?;
    bench.cluster.apply(&bench.gateway_and_route())?;
    bench.cluster.apply(&bench.one_of_each())?;
    bench.make_certificate()?;
    let watch = bench.watch("only", &[])?;
    let rights = granted()?;
    // Of Envoy Gateway's policies and of declared inputs this cluster has none.
    let elsewhere = |right: &&Right| !["gateway.envoyproxy.io", "moorgate.dev"].contains(&right.0.as_str());
    wait::until("all rights to be used", || {
        let used: BTreeSet<Right> =
            bench.asked()?.into_iter().map(|asked| (asked.group, asked.resource, asked.verb)).collect();
        let is_used = |(group, resource, verb): &&Right| {
            used.iter().any(|(by_group, by, how)| {
                by_group == group && how == verb && (by == resource || resource == "*")
            })
        };
        let unused: Vec<&Right> = rights.iter().filter(elsewhere).filter(|right| !is_used(right)).collect();
        ensure!(unused.is_empty(), "never used: {unused:?}\n{}", watch.tail());
        Ok(())
    })?;
    let refused: Vec<Asked> = bench.asked()?.into_iter().filter(|asked| asked.code == 403).collect();
    assert_eq!(refused, []);
    Ok(())
}

#[test]
fn probes_and_metrics_tell_how_it_is() -> Result<()> {
    let bench = Bench::new("seen")?;
    bench.cluster.apply(&bench.gateway_and_route())?;
    let watch = bench.watch("only", &["--health", "127.0.0.1:0"])?;
    bench.published()?;
    bench.until_gateway("a verdict", ready)?;
    let code = |path: &str| bench.health(&watch, path).map(|(code, _)| code);
    assert_eq!([code("/livez")?, code("/readyz")?, code("/secrets")?], [200, 200, 404]);
    let at_least = |series: &str, least: f64| {
        wait::until(series, || {
            let value = bench.metric(&watch, series)?;
            ensure!(
                value.is_some_and(|value| value >= least),
                "{value:?}: {}",
                bench.health(&watch, "/metrics")?.1
            );
            Ok(())
        })
    };
    for (series, least) in [
        ("moorgate_watch_leads", 1.0),
        ("moorgate_watch_objects{kind=\"HTTPRoute\"}", 1.0),
        ("moorgate_watch_lists_total{kind=\"Gateway\"}", 1.0),
        ("moorgate_watch_compile_seconds_count", 1.0),
        ("moorgate_watch_compile_age_seconds", 0.0),
        ("moorgate_watch_api_server_age_seconds", 0.0),
        ("moorgate_watch_store_age_seconds", 0.0),
        ("moorgate_watch_fleets{state=\"published\"}", 1.0),
        ("moorgate_watch_releases_total{act=\"publish\",result=\"committed\"}", 1.0),
        ("moorgate_watch_status_writes_total{result=\"written\"}", 2.0),
        ("moorgate_watch_status_waiting", 1.0),
    ] {
        at_least(series, least)?;
    }
    // Names of users' objects are no labels.
    let (_, text) = bench.health(&watch, "/metrics")?;
    assert!(!text.contains("seen") && text.ends_with("# EOF\n"), "{text}");
    Ok(())
}

#[test]
fn a_diagnostic_is_logged_once_when_it_comes_and_once_when_it_goes() -> Result<()> {
    let bench = Bench::new("spoken")?;
    bench.cluster.apply(&bench.gateway_and_route())?;
    let watch = bench.watch("only", &["--log-format", "json"])?;
    let first = bench.published()?;
    bench.patch(
        "httproutes",
        "cart",
        &json!({"spec": {"rules": [{"backendRefs": [{"name": "nowhere", "port": 80}]}]}}),
    )?;
    let lines = |what: &str| -> Vec<Value> {
        let output = watch.output();
        let lines = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let about = |line: &Value| {
            line["fields"]["code"] == "MG3006"
                && line["fields"]["object"].as_str().is_some_and(|object| object.contains("spoken/cart"))
                && line["fields"]["message"].as_str().is_some_and(|message| message.starts_with(what))
        };
        lines.filter(about).collect()
    };
    let appeared = wait::until("the diagnostic", || lines("").into_iter().next().context("not yet"))?;
    assert_eq!(appeared["level"], "ERROR");
    let place = appeared["fields"]["place"].as_str().context("a place")?;
    assert!(place.starts_with("HTTPRoute/spoken/cart:"), "{place}");
    // Other changes do not say it again.
    let second = bench.published_after(&first)?;
    bench.patch("httproutes", "cart", &json!({"spec": {"hostnames": ["b.example"]}}))?;
    let third = bench.published_after(&second)?;
    assert_eq!(lines("").len(), 1);
    bench.patch(
        "httproutes",
        "cart",
        &json!({"spec": {"rules": [{"backendRefs": [{"name": "cart", "port": 80}]}]}}),
    )?;
    bench.published_after(&third)?;
    wait::until("its end", || {
        ensure!(lines("no more").len() == 1, "{}", watch.tail());
        Ok(())
    })
}

#[test]
fn what_is_held_back_is_said_and_goes_when_it_is_asked_for() -> Result<()> {
    let bench = Bench::new("held")?;
    bench.cluster.apply(&bench.gateway_and_route())?;
    let watch = bench.watch("only", &["--guard-deletions"])?;
    let first = bench.published()?;
    bench.until_gateway("a verdict", ready)?;
    bench.delete("httproutes", "cart")?;
    let held = |gateway: &Value| condition(&gateway["status"], "moorgate.dev/Published").clone();
    bench.until_gateway("to be held back", |gateway| {
        let held = held(gateway);
        ensure!(held["reason"] == "HeldBack", "{gateway}\n{}", watch.tail());
        ensure!(held["message"].as_str().is_some_and(|message| message.contains("--allow-shrink")), "{held}");
        Ok(())
    })?;
    // A new generation says that it waits for that.
    bench.patch(
        "gateways",
        "edge",
        &json!({"spec": {"listeners": [
        {"name": "http", "port": 80, "protocol": "HTTP", "hostname": "x.example"}]}}),
    )?;
    let gateway = bench.until_gateway("the next generation", ready)?;
    assert_eq!(programmed(&gateway["status"]), ("Unknown", "Pending"));
    let message = condition(&gateway["status"], "Programmed")["message"].clone();
    assert!(message.as_str().is_some_and(|message| message.contains("held back")), "{message}");
    assert_eq!(bench.published()?, first);
    drop(watch);
    let watch = bench.watch("asked", &["--allow-shrink"])?;
    bench.published_after(&first).with_context(|| watch.tail())?;
    bench.until_gateway("nothing to be held back", |gateway| {
        ensure!(held(gateway) == Value::Null, "{gateway}");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn a_generation_is_written_once_and_once_more_when_envoys_have_it() -> Result<()> {
    let bench = Bench::new("once")?;
    bench.cluster.apply(&bench.gateway_and_route())?;
    let _watch = bench.watch("only", &[])?;
    bench.until_gateway("a verdict", ready)?;
    let mut snapshot = bench.published()?;
    let writes = |resource: &str| -> Result<usize> {
        let written =
            |asked: &Asked| asked.verb == "patch" && asked.resource == resource && asked.code == 200;
        Ok(bench.asked()?.into_iter().filter(written).count())
    };
    let is_programmed = |gateway: &Value| {
        ready(gateway)?;
        ensure!(programmed(&gateway["status"]) == ("True", "Programmed"), "{gateway}");
        Ok(())
    };
    bench.report(&snapshot, &bench.key)?;
    bench.until_gateway("Programmed", is_programmed)?;
    for n in 0..3 {
        let before = writes("gateways/status")?;
        bench.patch(
            "gateways",
            "edge",
            &json!({"spec": {"listeners": [
            {"name": "http", "port": 80, "protocol": "HTTP", "hostname": format!("h{n}.example")}]}}),
        )?;
        snapshot = bench.published_after(&snapshot)?;
        bench.until_gateway("the generation", ready)?;
        bench.report(&snapshot, &bench.key)?;
        bench.until_gateway("Programmed", is_programmed)?;
        assert_eq!(
            writes("gateways/status")?,
            before + 2,
            "all conditions of a generation, and that Envoys have it"
        );
    }
    // Routes that come and change leave it alone, but for their number.
    let (before, of_routes) = (writes("gateways/status")?, writes("httproutes/status")?);
    for path in ["/a", "/b"] {
        let rule =
            json!({"matches": [{"path": {"value": path}}], "backendRefs": [{"name": "cart", "port": 80}]});
        bench.patch("httproutes", "cart", &json!({"spec": {"rules": [rule]}}))?;
        snapshot = bench.published_after(&snapshot)?;
        bench.until("httproutes", "cart", "its verdict", |route| {
            let accepted = condition(&route["status"]["parents"][0], "Accepted");
            ensure!(accepted["observedGeneration"] == route["metadata"]["generation"], "{route}");
            Ok(())
        })?;
    }
    bench.class_is_judged()?;
    assert_eq!((writes("gateways/status")?, writes("httproutes/status")?), (before, of_routes + 2));
    is_programmed(&bench.get("gateways", "edge")?)
}

#[test]
fn a_policy_has_sixteen_ancestors_at_most_and_foreign_ones_stay() -> Result<()> {
    let bench = Bench::new("ancestors")?;
    bench.cluster.apply(&bench.gateway_and_route())?;
    bench.cluster.apply(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: cart, namespace: ancestors}\n\
         spec: {targetRefs: [{group: '', kind: Service, name: cart}], validation: {hostname: a.b, wellKnownCACertificates: System}}\n",
    )?;
    let policy = "backendtlspolicies";
    let gateways = |count: usize| -> Result<()> {
        let mut parents = Vec::new();
        for n in 0..count {
            let name = format!("g{n:02}");
            bench.cluster.apply(&format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: ancestors}}\n\
                 spec: {{gatewayClassName: ancestors, listeners: [{{name: http, port: 80, protocol: HTTP}}]}}\n"
            ))?;
            parents.push(json!({"name": name}));
        }
        bench.patch("httproutes", "cart", &json!({"spec": {"parentRefs": parents}})).map(drop)
    };
    gateways(3)?;
    let watch = bench.watch("only", &[])?;
    let list = |policy: &Value| policy["status"]["ancestors"].as_array().cloned().unwrap_or_default();
    bench.until(policy, "cart", "three ancestors", |policy| {
        ensure!(list(policy).len() == 3, "{policy}\n{}", watch.tail());
        Ok(())
    })?;
    // Another controller takes most of the room.
    let theirs = |n: usize| {
        json!({"controllerName": "example.com/other", "ancestorRef": {"name": format!("theirs-{n}")},
               "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "kept \u{fc}",
                               "lastTransitionTime": "2020-02-02T02:02:02Z"}]})
    };
    bench.write_status(policy, "cart", |status| {
        let mut all: Vec<Value> = (0..12).map(theirs).collect();
        all.extend(status["ancestors"].as_array().cloned().unwrap_or_default());
        status["ancestors"] = Value::Array(all);
    })?;
    gateways(8)?;
    let policy = bench.until(policy, "cart", "all the room to be used", |policy| {
        let routes = bench.get("httproutes", "cart")?;
        ensure!(routes["status"]["parents"].as_array().map(Vec::len) == Some(8), "{routes}");
        ensure!(list(policy).len() == 16, "{policy}\n{}", watch.tail());
        Ok(())
    })?;
    let foreign = |entry: &&Value| entry["controllerName"] == "example.com/other";
    let all = list(&policy);
    assert_eq!(all.iter().filter(foreign).count(), 12);
    let kept: Vec<Value> = all.iter().filter(foreign).cloned().collect();
    for (n, entry) in kept.iter().enumerate() {
        let mut wanted = theirs(n);
        // The API server adds what its definition has as default.
        for default in ["group", "kind"] {
            wanted["ancestorRef"][default] = entry["ancestorRef"][default].clone();
        }
        assert_eq!(*entry, wanted);
    }
    Ok(())
}
