//! `moorgate watch` and `--cluster` on a real API server: what is published and when, whose status survives, and what
//! happens when replicas die and connections break.

#[path = "watch/bench.rs"]
mod bench;
#[path = "watch/elsewhere.rs"]
mod elsewhere;
#[path = "watch/faults.rs"]
mod faults;
#[path = "watch/seen.rs"]
mod seen;

use anyhow::{Context as _, Result, ensure};
use bench::{Bench, condition, programmed, ready};
use moorgate_tests::wait;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// Foreign on purpose: an old generation, and a text that nobody would write again.
fn foreign() -> Value {
    json!({"type": "example.com/Stale", "status": "Unknown", "reason": "Theirs", "message": "kept \u{fc}",
           "observedGeneration": 1, "lastTransitionTime": "2020-02-02T02:02:02Z"})
}

#[test]
fn the_cluster_its_yaml_and_watch_give_one_snapshot() -> Result<()> {
    let bench = Bench::new("offline")?;
    let yaml = bench.gateway_and_route();
    bench.cluster.apply(&yaml)?;
    let of = |output: &str| -> Result<String> {
        let value: Value = serde_json::from_str(output)?;
        let fleets = value["fleets"].as_array().context("fleets")?;
        let mine = fleets.iter().find(|fleet| fleet["fleet"] == "offline/edge").context("the fleet")?;
        Ok(mine["snapshot"].as_str().context("an id")?.to_owned())
    };
    let file = bench.folder().join("offline.yaml");
    std::fs::write(&file, &yaml)?;
    let path = file.display().to_string();
    let offline = of(&bench.moorgate(&["compile", &path, "-o", "json"])?.stdout)?;
    let online = of(&bench.moorgate_on_cluster(&["compile", "-o", "json"])?.stdout)?;
    assert_eq!(online, offline);
    let checked = bench.moorgate_on_cluster(&["check"])?;
    assert!(!checked.stdout.contains("offline/"), "{}", checked.stdout);
    let diff = bench.moorgate_on_cluster(&["diff", "cluster:", &path, "--fleet", "offline/edge"])?;
    assert_eq!((diff.code, diff.stdout.as_str()), (0, ""), "{}", diff.stderr);
    let explained =
        bench.moorgate_on_cluster(&["explain", "GET", "http://a.example/", "--fleet", "offline/edge"])?;
    assert!(explained.stdout.contains("HTTPRoute/offline/cart:"), "{}", explained.stdout);

    let _watch = bench.watch("only", &[])?;
    assert_eq!(bench.published()?.to_string(), offline);
    Ok(())
}

#[test]
fn a_fleet_is_published_when_it_changes_and_only_then() -> Result<()> {
    let bench = Bench::new("changes")?;
    bench.cluster.apply(&bench.gateway_and_route())?;
    let watch = bench.watch("only", &["--retire-after", "1s"])?;
    let first = bench.published()?;
    bench.until_gateway("a verdict", |gateway| {
        ensure!(gateway["status"]["listeners"][0]["attachedRoutes"] == 1, "{gateway}");
        Ok(())
    })?;
    // Status, labels of other objects, and a Service that nobody routes to change no fleet.
    bench.cluster.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: other, namespace: changes}\nspec: {ports: [{port: 1}]}\n",
    )?;
    bench.patch("httproutes", "cart", &json!({"metadata": {"labels": {"a": "b"}}}))?;
    bench.patch("httproutes", "cart", &json!({"spec": {"hostnames": ["b.example"]}}))?;
    let second = bench.published_after(&first)?;
    bench.delete("httproutes", "cart")?;
    bench.published_after(&second)?;
    bench.until_gateway("no route", |gateway| {
        ensure!(gateway["status"]["listeners"][0]["attachedRoutes"] == 0, "{gateway}");
        Ok(())
    })?;
    bench.delete("gateways", "edge")?;
    wait::until("the end of the fleet", || {
        ensure!(
            bench.entries()? == ["publish", "publish", "publish", "retire"],
            "{:?}\n{}",
            bench.entries()?,
            watch.tail()
        );
        Ok(())
    })
}

#[test]
fn status_is_merged_and_foreign_entries_survive() -> Result<()> {
    let bench = Bench::new("merged")?;
    bench.cluster.apply(&bench.gateway_and_route())?;
    let watch = bench.watch("only", &[])?;
    bench.until_gateway("a verdict", ready)?;
    let parent = json!({"controllerName": "example.com/other", "conditions": [foreign()],
        "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "unmanaged"}});
    bench.write_status("gateways", "edge", |status| {
        push(&mut status["conditions"], foreign());
        push(&mut status["listeners"][0]["conditions"], foreign());
    })?;
    bench.write_status("httproutes", "cart", |status| push(&mut status["parents"], parent.clone()))?;
    // Several writers at once: each conflict is read and merged again.
    for n in 0..4 {
        let hostname = format!("h{n}.example");
        bench.patch(
            "gateways",
            "edge",
            &json!({"spec": {"listeners": [
            {"name": "http", "port": 80, "protocol": "HTTP", "hostname": hostname}]}}),
        )?;
        bench.patch("httproutes", "cart", &json!({"spec": {"hostnames": [hostname]}}))?;
        bench.write_status("gateways", "edge", |status| {
            push(
                &mut status["conditions"],
                json!({"type": format!("example.com/N{n}"), "status": "True", "reason": "N",
                "message": "", "lastTransitionTime": "2020-02-02T02:02:02Z"}),
            );
        })?;
    }
    let gateway = bench.until_gateway("the newest generation", ready)?;
    let conditions = gateway["status"]["conditions"].as_array().context("conditions")?;
    assert!(conditions.contains(&foreign()), "{conditions:?}");
    for n in 0..4 {
        assert_eq!(condition(&gateway["status"], &format!("example.com/N{n}"))["reason"], "N");
    }
    let listener = &gateway["status"]["listeners"][0];
    assert!(listener["conditions"].as_array().context("conditions")?.contains(&foreign()), "{listener}");
    let route = bench.until("httproutes", "cart", "the newest generation", |route| {
        let ours = &route["status"]["parents"]
            .as_array()
            .context("parents")?
            .iter()
            .find(|entry| entry["controllerName"] == bench.controller)
            .cloned();
        let accepted = ours.as_ref().map(|ours| condition(ours, "Accepted").clone()).context("ours")?;
        ensure!(accepted["observedGeneration"] == route["metadata"]["generation"], "{route}");
        ensure!(accepted["status"] == "True", "{route}");
        Ok(())
    })?;
    assert!(route["status"]["parents"].as_array().context("parents")?.contains(&parent), "{route}");
    // All is said: nothing is written any more.
    let versions = || -> Result<Vec<Value>> {
        let objects = [("gateways", "edge"), ("httproutes", "cart")];
        objects
            .iter()
            .map(|(kind, name)| Ok(bench.get(kind, name)?["metadata"]["resourceVersion"].clone()))
            .collect()
    };
    let before = versions()?;
    bench.cluster.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: noise, namespace: merged}\nspec: {ports: [{port: 1}]}\n",
    )?;
    bench.class_is_judged()?;
    assert_eq!(versions()?, before, "{}", watch.tail());
    // What is ours goes when it applies no more; theirs stays.
    bench.patch("httproutes", "cart", &json!({"spec": {"parentRefs": [{"name": "unmanaged"}]}}))?;
    bench.until("httproutes", "cart", "our entry to go", |route| {
        ensure!(route["status"]["parents"] == json!([parent]), "{route}");
        Ok(())
    })?;
    Ok(())
}

fn push(list: &mut Value, item: Value) {
    if let Some(list) = list.as_array_mut() {
        list.push(item);
    }
}

#[test]
fn programmed_is_what_envoys_acknowledged() -> Result<()> {
    let bench = Bench::new("acked")?;
    bench.cluster.apply(&bench.gateway_and_route())?;
    let _watch = bench.watch("only", &[])?;
    let gateway = bench.until_gateway("a verdict", ready)?;
    assert_eq!(programmed(&gateway["status"]), ("Unknown", "Pending"));
    let first = bench.published()?;
    // Signed by a key that nobody trusts with that, a report says nothing.
    bench.report(&first, &bench.stranger)?;
    bench.patch("gateways", "edge", &json!({"metadata": {"labels": {"a": "b"}}}))?;
    bench.report(&first, &bench.key)?;
    let is_programmed = |gateway: &Value| {
        ensure!(programmed(&gateway["status"]) == ("True", "Programmed"), "{gateway}");
        ensure!(programmed(&gateway["status"]["listeners"][0]) == ("True", "Programmed"), "{gateway}");
        Ok(())
    };
    bench.until_gateway("Programmed", is_programmed)?;
    // Routes leave it alone, though no Envoy has the new snapshot.
    bench.patch("httproutes", "cart", &json!({"spec": {"hostnames": ["b.example"]}}))?;
    let second = bench.published_after(&first)?;
    bench.until("httproutes", "cart", "the verdict", |route| {
        let accepted = condition(&route["status"]["parents"][0], "Accepted");
        ensure!(accepted["observedGeneration"] == route["metadata"]["generation"], "{route}");
        Ok(())
    })?;
    is_programmed(&bench.get("gateways", "edge")?)?;
    // A generation waits for its own snapshot, and says so with all its conditions at once.
    bench.patch("gateways", "edge", &json!({"spec": {"listeners": [
        {"name": "http", "port": 80, "protocol": "HTTP"}, {"name": "more", "port": 8080, "protocol": "HTTP"}]}}))?;
    let third = bench.published_after(&second)?;
    let gateway = bench.until_gateway("the next generation", ready)?;
    assert_eq!(programmed(&gateway["status"]), ("Unknown", "Pending"));
    bench.report(&third, &bench.key)?;
    bench.until_gateway("Programmed again", |gateway| {
        is_programmed(gateway)?;
        ensure!(programmed(&gateway["status"]["listeners"][1]) == ("True", "Programmed"), "{gateway}");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn one_of_two_replicas_writes_and_the_other_takes_over() -> Result<()> {
    let bench = Bench::new("replicas")?;
    bench.cluster.apply(&bench.gateway_and_route())?;
    let mut first = bench.watch("first", &[])?;
    let before = bench.published()?;
    let second = bench.watch("second", &[])?;
    bench.until_gateway("a verdict", ready)?;
    // It died without a word: its Lease runs out, and what is published is what the other one has compiled.
    first.kill();
    bench.patch("httproutes", "cart", &json!({"spec": {"hostnames": ["b.example"]}}))?;
    let after = bench.published_after(&before)?;
    assert_eq!(bench.entries()?, ["publish", "publish"], "{}", second.tail());
    // Whoever comes next agrees by content, and has nothing to write.
    let third = bench.watch("third", &[])?;
    let mut second = second;
    ensure!(second.terminate(Duration::from_secs(20))?.success(), "{}", second.tail());
    wait::until("the third to lead", || {
        ensure!(third.output().contains("leads=true"), "{}", third.tail());
        Ok(())
    })?;
    bench.patch("gateways", "edge", &json!({"metadata": {"annotations": {"a": "b"}}}))?;
    bench.patch("httproutes", "cart", &json!({"spec": {"hostnames": ["c.example"]}}))?;
    bench.published_after(&after)?;
    assert_eq!(bench.entries()?, ["publish"; 3]);
    Ok(())
}

#[test]
fn a_secret_is_read_by_its_name_with_the_rights_that_are_shipped() -> Result<()> {
    let bench = Bench::new("secrets")?;
    bench.cluster.apply(&bench.tls_gateway())?;
    let watch = bench.watch("only", &[])?;
    let resolved = |gateway: &Value| -> (String, String) {
        let found = condition(&gateway["status"]["listeners"][0], "ResolvedRefs");
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"))
    };
    bench.until_gateway("the missing Secret", |gateway| {
        ensure!(
            resolved(gateway) == ("False".into(), "InvalidCertificateRef".into()),
            "{gateway}\n{}",
            watch.tail()
        );
        Ok(())
    })?;
    bench.make_certificate()?;
    bench.until_gateway("the Secret", |gateway| {
        ensure!(resolved(gateway).0 == "True", "{gateway}\n{}", watch.tail());
        Ok(())
    })?;
    let list = bench.as_watch("/api/v1/namespaces/secrets/secrets");
    assert!(format!("{list:?}").contains("403") || format!("{list:?}").contains("orbidden"), "{list:?}");
    Ok(())
}

#[test]
fn a_broken_connection_costs_nothing_but_time() -> Result<()> {
    let bench = Bench::new("broken")?;
    bench.cluster.apply(&bench.gateway_and_route())?;
    let line = bench.line()?;
    let watch = bench.watch_over(&line, "only", &[])?;
    let first = bench.published()?;
    line.cut();
    bench.patch("httproutes", "cart", &json!({"spec": {"hostnames": ["b.example"]}}))?;
    bench.delete("services", "cart")?;
    line.mend();
    bench.published_after(&first).with_context(|| watch.tail())?;
    bench.until("httproutes", "cart", "the Service to be missed", |route| {
        let resolved = condition(&route["status"]["parents"][0], "ResolvedRefs");
        ensure!(resolved["reason"] == "BackendNotFound", "{route}");
        Ok(())
    })?;
    // No fleet was lost meanwhile.
    let entries: BTreeSet<String> = bench.entries()?.into_iter().collect();
    assert_eq!(entries, BTreeSet::from(["publish".to_owned()]));
    Ok(())
}

#[test]
fn a_class_says_what_it_supports_and_others_classes_are_left_alone() -> Result<()> {
    let bench = Bench::new("classes")?;
    bench.cluster.apply(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: classes-theirs}\nspec: {controllerName: example.com/theirs}\n",
    )?;
    let _watch = bench.watch("only", &[])?;
    bench.class_is_judged()?;
    let path = "/apis/gateway.networking.k8s.io/v1/gatewayclasses";
    let ours = bench.read(&format!("{path}/classes"))?;
    let features = ours["status"]["supportedFeatures"].as_array().context("features")?;
    let names: Vec<&str> = features.iter().filter_map(|feature| feature["name"].as_str()).collect();
    assert!(names.is_sorted() && names.contains(&"HTTPRoute"), "{names:?}");
    let theirs = bench.read(&format!("{path}/classes-theirs"))?;
    assert_eq!(condition(&theirs["status"], "Accepted")["reason"], "Pending", "{theirs}");
    Ok(())
}
