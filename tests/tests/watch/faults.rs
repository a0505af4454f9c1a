//! What happens to the API server, to its definitions and to status under somebody else's hands.

use crate::bench::{Bench, condition, ready};
use anyhow::{Context as _, Result, ensure};
use moorgate_tests::wait;
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[test]
fn an_api_server_that_is_killed_and_forgets_costs_nothing_but_time() -> Result<()> {
    let bench = Bench::alone("restarted")?;
    bench.cluster.apply(&bench.gateway_and_route())?;
    bench.cluster.apply(&bench.route("other", "other.example"))?;
    let line = bench.line()?;
    let watch = bench.watch_over(&line, "only", &["--health", "127.0.0.1:0"])?;
    bench.until_gateway("both routes", |gateway| attached(gateway, 2))?;
    let first = bench.published()?;
    // Killed while everybody watches; etcd keeps what it has.
    bench.cluster.restart_api_server()?;
    bench.patch("httproutes", "cart", &json!({"spec": {"hostnames": ["b.example"]}}))?;
    let second = bench.published_after(&first).with_context(|| watch.tail())?;
    // Now it changes and forgets while nobody looks: where watches broke off is no longer known (410 Gone).
    line.cut();
    bench.delete("httproutes", "other")?;
    bench.patch("httproutes", "cart", &json!({"spec": {"hostnames": ["c.example"]}}))?;
    bench.cluster.restart_api_server()?;
    line.mend();
    bench.published_after(&second).with_context(|| watch.tail())?;
    bench.until_gateway("one route", |gateway| attached(gateway, 1))?;
    let gone = "moorgate_watch_errors_total{kind=\"HTTPRoute\",reason=\"gone\"}";
    ensure!(bench.metric(&watch, gone)?.is_some_and(|times| times >= 1.0), "{}", watch.tail());
    // No fleet was lost meanwhile, and nothing was unpublished.
    let entries: BTreeSet<String> = bench.entries()?.into_iter().collect();
    assert_eq!(entries, BTreeSet::from(["publish".to_owned()]));
    // Status goes on, too.
    bench.patch("gateways", "edge", &json!({"spec": {"listeners": [
        {"name": "http", "port": 80, "protocol": "HTTP"}, {"name": "more", "port": 8080, "protocol": "HTTP"}]}}))?;
    bench.until_gateway("the next generation", ready)?;
    Ok(())
}

fn attached(gateway: &Value, routes: u64) -> Result<()> {
    ensure!(gateway["status"]["listeners"][0]["attachedRoutes"] == routes, "{gateway}");
    Ok(())
}

#[test]
fn definitions_come_late_and_go_again() -> Result<()> {
    let bench = Bench::alone("definitions")?;
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/tcproutes.gateway.networking.k8s.io";
    let mut definition = bench.read(path)?;
    let mut versions = definition["spec"]["versions"].as_array().context("versions")?.iter();
    let version = versions.rfind(|version| version["served"] == true).context("a version")?["name"].clone();
    let routes = format!("{}/tcproutes", version.as_str().context("its name")?);
    for own in ["uid", "resourceVersion", "managedFields", "creationTimestamp", "generation"] {
        definition["metadata"].as_object_mut().context("metadata")?.remove(own);
    }
    definition.as_object_mut().context("an object")?.remove("status");
    let remove = || -> Result<()> {
        bench.cluster.request("DELETE", path, None)?;
        wait::until("the definition to go", || {
            ensure!(bench.read(path).is_err(), "it is there");
            Ok(())
        })
    };
    let route = || bench.cluster.apply(&bench.tcp_route(version.as_str().unwrap_or_default()));
    remove()?;
    bench.cluster.apply(&bench.tcp_gateway())?;
    let watch = bench.watch("only", &["--retire-after", "1s"])?;
    let bare = bench.published()?;
    bench.until_gateway("a verdict", ready)?;
    // It comes, and so does a route.
    bench.cluster.apply(&serde_json::to_string(&definition)?)?;
    wait::until("the definition to be served", route)?;
    let full = bench.published_after(&bare).with_context(|| watch.tail())?;
    bench.until(&routes, "cart", "a verdict", |route| {
        ensure!(condition(&route["status"]["parents"][0], "Accepted")["status"] == "True", "{route}");
        Ok(())
    })?;
    // With the definition all its objects go, and nobody has deleted them one by one: the fleet keeps its routes, and the
    // Gateway says so.
    remove()?;
    let held = |gateway: &Value| condition(&gateway["status"], "moorgate.dev/Published").clone();
    bench.until_gateway("to be held back", |gateway| {
        ensure!(held(gateway)["status"] == "False", "{gateway}\n{}", watch.tail());
        ensure!(held(gateway)["reason"] == "HeldBack", "{gateway}");
        Ok(())
    })?;
    wait::until("the kind to be given up", || {
        ensure!(watch.output().contains("does not serve this kind any more"), "{}", watch.tail());
        Ok(())
    })?;
    assert_eq!(bench.published()?, full);
    // It comes back.
    bench.cluster.apply(&serde_json::to_string(&definition)?)?;
    wait::until("the definition to be served", route)?;
    bench.until_gateway("to be published", |gateway| {
        ensure!(held(gateway) == Value::Null, "{gateway}\n{}", watch.tail());
        Ok(())
    })?;
    assert_eq!((bench.entries()?, bench.published()?), (vec!["publish".to_owned(); 2], full));
    // What somebody deletes ends at once, the last route too.
    bench.delete(&routes, "cart")?;
    bench.published_after(&full).with_context(|| watch.tail())?;
    Ok(())
}

#[test]
fn somebody_who_undoes_status_is_not_fought_without_end() -> Result<()> {
    let bench = Bench::new("fought")?;
    bench.cluster.apply(&bench.gateway_and_route())?;
    let watch = bench.watch("only", &["--health", "127.0.0.1:0"])?;
    let gateway = bench.until_gateway("a verdict", ready)?;
    let right = condition(&gateway["status"], "Accepted").clone();
    let mut undone = 0_usize;
    let mut undo = || -> Result<()> {
        bench.write_status("gateways", "edge", |status| {
            for condition in status["conditions"].as_array_mut().into_iter().flatten() {
                if condition["type"] == "Accepted" {
                    condition["reason"] = json!("Theirs");
                }
            }
        })?;
        undone += 1;
        Ok(())
    };
    wait::until("watch to see that somebody undoes it", || {
        undo()?;
        ensure!(watch.output().contains("somebody undoes"), "{}", watch.tail());
        Ok(())
    })?;
    // From here on it writes rarely, however often that is done.
    let writes = || -> Result<usize> {
        let asked = bench.asked()?;
        let ours =
            |asked: &&crate::bench::Asked| asked.resource == "gateways/status" && asked.verb == "patch";
        Ok(asked.iter().filter(ours).count())
    };
    let before = writes()?;
    for _ in 0..20 {
        undo()?;
    }
    ensure!(writes()? <= before + 1, "{} writes after {before}", writes()?);
    ensure!(before <= undone.max(12), "{before} writes, undone {undone} times");
    // It has not given up: in the end the verdict stands.
    bench.until_gateway("the verdict", |gateway| {
        ensure!(*condition(&gateway["status"], "Accepted") == right, "{gateway}");
        Ok(())
    })?;
    Ok(())
}
