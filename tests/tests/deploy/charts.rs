//! The chart and the overlays: they hold what `render` and `deploy/kubernetes` say, and a real API server takes them.

use super::{documents, text};
use anyhow::{Context as _, Result, ensure};
use moorgate_tests::cluster::Cluster;
use moorgate_tests::program::{self, Outcome, moorgate, root, run, switched_on};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const STORE: &str = "store.urls[0]=s3://bucket/prefix";
const TLS: &str = "relay.tlsSecret=relays-tls";
const NAMESPACE: &str = "moorgate-system";

/// The models whose fleets have an overlay, with the flags of `render` beside `--model`.
fn models() -> Result<Vec<(String, Vec<&'static str>)>> {
    let relays = [
        "--relay-tls",
        "relays-tls",
        "--relay-ca",
        "relay-ca.pem",
        "--token-issuer",
        "https://kubernetes.default.svc.cluster.local",
    ];
    let mut found = Vec::new();
    for folder in super::files(&root().join("deploy/kustomize"))? {
        let name = folder.file_name().context("a name")?.to_string_lossy().into_owned();
        if folder.join("fleets.yaml").is_file() {
            let flags = if name == "sidecar" { Vec::new() } else { relays.to_vec() };
            found.push((name, flags));
        }
    }
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    ensure!(names == ["node", "pool", "sidecar"], "{names:?}");
    Ok(found)
}

fn rendered(model: &str, flags: &[&str]) -> Result<String> {
    let mut command = moorgate()?;
    command.current_dir(root().join("deploy/kustomize"));
    command.args(["render", "gateways/", "--store", "s3://bucket/prefix", "--trust", "trust.pem"]);
    Ok(run(command.args(["--model", model]).args(flags))?.ended_with(&[0])?.stdout)
}

fn overlay(model: &str) -> PathBuf {
    root().join("deploy/kustomize").join(model)
}

fn helm(words: &[&str]) -> Result<Outcome> {
    let home = tempfile::tempdir()?;
    let mut command = Command::new(program::go("helm")?);
    command.env("HOME", home.path()).env_remove("KUBECONFIG");
    run(command.args(words))
}

/// What the chart gives for these values.
pub(super) fn chart(values: &[&str]) -> Result<Outcome> {
    let folder = root().join("deploy/helm/moorgate");
    let folder = folder.to_str().context("a path")?;
    let mut words =
        vec!["template", "moorgate", folder, "--namespace", NAMESPACE, "--kube-version", "1.35.0"];
    words.extend(values.iter().flat_map(|value| {
        let is_file = value.starts_with("fleets.") || value.starts_with("relay.ca=/");
        let flag = if is_file { "--set-file" } else { "--set" };
        [flag, value]
    }));
    helm(&words)
}

fn objects(values: &[&str]) -> Result<Vec<Value>> {
    documents(&chart(values)?.ended_with(&[0])?.stdout)
}

fn kustomize(folder: &Path) -> Result<Vec<Value>> {
    let mut command = Command::new(program::go("kustomize")?);
    documents(&run(command.arg("build").arg(folder))?.ended_with(&[0])?.stdout)
}

type Key = (String, String, String);

fn key(object: &Value) -> Key {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    (text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]))
}

fn by_key(objects: Vec<Value>) -> BTreeMap<Key, Value> {
    objects.into_iter().map(|object| (key(&object), object)).collect()
}

#[test]
fn the_chart_passes_its_linter_and_refuses_wrong_values() -> Result<()> {
    let folder = root().join("deploy/helm/moorgate");
    helm(&["lint", "--strict", folder.to_str().context("a path")?, "--set", STORE])?.ended_with(&[0])?;
    objects(&[STORE])?;
    // Without a store nothing is installed that could not run.
    for (values, place) in [
        (&[][..], "/store/urls"),
        (&[STORE, "model=both"], "/model"),
        (&[STORE, "watch.replicas=0"], "/watch/replicas"),
        (&[STORE, "watch.replicas=two"], "/watch/replicas"),
        (&[STORE, "watch.replcas=2"], "replcas"),
        (&["store.urls[0]=ftp://bucket"], "/store/urls/0"),
        (&[STORE, "watch.image.digest=sha256:1"], "/watch/image/digest"),
        (&[STORE, "watch.extraArgs[0]=take-over"], "/watch/extraArgs/0"),
        (&[STORE, "watch.mode=status-only", "watch.provision=true"], "/watch/provision"),
        (&[STORE, "store.serve=true", "watch.provision=true"], "/store/urls"),
        (&["store.serve=true"], "/watch/provision"),
        (&[STORE, "monitoring.rules=yes please"], "/monitoring/rules"),
        (&[STORE, "watch.provision=true", "fleets.shop=/dev/null"], "/fleets"),
        // Relays in pods of their own need a certificate, and an issuer of tokens.
        (&[STORE, "watch.provision=true", "model=node"], "/relay/tlsSecret"),
        (&[STORE, "watch.provision=true", "model=pool"], "/relay/tlsSecret"),
        (
            &[STORE, "watch.provision=true", "model=node", "relay.tlsSecret=tls", "relay.tokenIssuer="],
            "/relay/tokenIssuer",
        ),
        (&[STORE, "relay.ca=nothing"], "/relay/ca"),
        (&[STORE, "relay.poolReplicas=0"], "/relay/poolReplicas"),
    ] {
        let refused = chart(values)?.ended_with(&[1])?;
        ensure!(refused.stderr.contains(place), "{values:?}: {}", refused.stderr);
    }
    // A fleet that was rendered for another model, and what is no fleet at all.
    let pool = format!("fleets.shop={}", overlay("pool").join("fleets.yaml").display());
    let refused = chart(&["watch.enabled=false", &pool])?.ended_with(&[1])?;
    ensure!(refused.stderr.contains("--model pool, and model is sidecar"), "{}", refused.stderr);
    let other = format!("fleets.shop={}", root().join("deploy/kustomize/base/namespaces.yaml").display());
    let refused = chart(&["watch.enabled=false", &other])?.ended_with(&[1])?;
    ensure!(refused.stderr.contains("not what moorgate render prints"), "{}", refused.stderr);
    Ok(())
}

/// The objects of `deploy/kubernetes`; a later Deployment takes the place of an earlier one.
fn plain(names: &[&str]) -> Result<BTreeMap<Key, Value>> {
    let mut found = Vec::new();
    for name in names {
        found.extend(documents(&text(&format!("deploy/kubernetes/{name}.yaml"))?)?);
    }
    Ok(by_key(found))
}

/// What a chart may add: labels, and in the Deployment what values say.
fn stripped(mut object: Value) -> (Value, Vec<String>) {
    let words = object.pointer("/spec/template/spec/containers/0/args").cloned().unwrap_or_default();
    let words = words.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("labels");
    }
    if let Some(container) =
        object.pointer_mut("/spec/template/spec/containers/0").and_then(Value::as_object_mut)
    {
        container.remove("args");
        container.remove("imagePullPolicy");
    }
    // The CA of relays in pods of their own is there with their model alone.
    for place in ["/spec/template/spec/volumes", "/spec/template/spec/containers/0/volumeMounts"] {
        if let Some(list) = object.pointer_mut(place).and_then(Value::as_array_mut) {
            list.retain(|one| one["name"] != "relays");
        }
    }
    (object, words)
}

#[test]
fn chart_and_plain_manifests_of_watch_are_one() -> Result<()> {
    for (values, names) in [
        (&[STORE][..], &["watch"][..]),
        (&[STORE, "watch.provision=true"], &["watch", "watch-provision"]),
        (&[STORE, "watch.provision=true", "model=pool", TLS], &["watch", "watch-provision"]),
        (&[STORE, "watch.provision=true", "model=node", TLS], &["watch", "watch-provision"]),
        (&["store.serve=true", "watch.provision=true"], &["watch", "watch-provision", "watch-serve-store"]),
    ] {
        let (chart, plain) = (by_key(objects(values)?), plain(names)?);
        assert_eq!(chart.keys().collect::<Vec<_>>(), plain.keys().collect::<Vec<_>>(), "{values:?}");
        for (key, object) in chart {
            ensure!(object["metadata"]["labels"]["app.kubernetes.io/part-of"] == "moorgate", "{object}");
            let ((ours, said), (theirs, wanted)) = (stripped(object), stripped(plain[&key].clone()));
            assert_eq!(ours, theirs, "{key:?}");
            ensure!(wanted.iter().all(|word| said.contains(word)), "{said:?}");
        }
    }
    Ok(())
}

/// What values say is said to `watch`, in flags that it has.
#[test]
fn values_reach_the_program() -> Result<()> {
    let help = run(moorgate()?.args(["watch", "--help"]))?.ended_with(&[0])?.stdout;
    let values = [
        "store.urls[0]=s3://one/p",
        "store.urls[1]=gs://two/p",
        "store.relayUrl=https://store.example.com",
        "store.relaySecret=bucket",
        "store.secret=credentials",
        "watch.provision=true",
        "watch.channel=next",
        "watch.controllerName=example.com/other",
        "watch.mergeClasses[0]=shared",
        "watch.extraArgs[0]=--retire-after=5m",
        "watch.image.digest=sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "watch.serviceAccountAnnotations.eks\\.amazonaws\\.com/role-arn=arn:aws:iam::1:role/m",
        "relay.image=relay:1",
        "envoy.image=envoy:1",
        "watch.keysSecret=own",
    ];
    let objects = by_key(objects(&values)?);
    let of = |kind: &str| &objects[&(kind.to_owned(), NAMESPACE.to_owned(), "moorgate-watch".to_owned())];
    let pod = &of("Deployment")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let words: Vec<&str> =
        container["args"].as_array().context("args")?.iter().filter_map(Value::as_str).collect();
    for word in &words[1..] {
        let flag = word.split('=').next().unwrap_or_default();
        ensure!(help.contains(&format!("{flag} <")) || help.contains(&format!("{flag}\n")), "{flag}");
    }
    for word in [
        "--provision",
        "--channel=next",
        "--controller-name=example.com/other",
        "--merge-class=shared",
        "--relay-store=https://store.example.com",
        "--store-secret=bucket",
        "--relay-image=relay:1",
        "--envoy-image=envoy:1",
        "--retire-after=5m",
    ] {
        ensure!(words.contains(&word), "{word} in {words:?}");
    }
    assert_eq!(container["env"][0]["value"], "s3://one/p,gs://two/p");
    assert_eq!(container["envFrom"], json!([{ "secretRef": { "name": "credentials" } }]));
    assert_eq!(container["image"], format!("ghcr.io/moorgate/moorgate@sha256:{}", "a".repeat(64)));
    assert_eq!(pod["volumes"][0]["secret"]["secretName"], "own");
    assert_eq!(
        of("ServiceAccount")["metadata"]["annotations"]["eks.amazonaws.com/role-arn"],
        "arn:aws:iam::1:role/m"
    );
    // Whoever only writes status has no key, and makes nothing.
    let quiet = by_key(super::charts::objects(&[STORE, "watch.mode=status-only"])?);
    let deployment = &quiet[&("Deployment".to_owned(), NAMESPACE.to_owned(), "moorgate-watch".to_owned())];
    let words = deployment.pointer("/spec/template/spec/containers/0/args").context("args")?.to_string();
    ensure!(words.contains("--status-only") && !words.contains("--key"), "{words}");
    Ok(())
}

/// Relays in pods of their own: what `watch` is told of them, and that it sees the CA of their certificate and not its key.
#[test]
fn values_of_relays_reach_the_program() -> Result<()> {
    let help = run(moorgate()?.args(["watch", "--help"]))?.ended_with(&[0])?.stdout;
    let file = root().join("deploy/kustomize/relay-ca.pem");
    let ca = format!("relay.ca={}", file.display());
    for model in ["pool", "node"] {
        let chosen = format!("model={model}");
        let values = [STORE, "watch.provision=true", &chosen, TLS, "relay.poolReplicas=3", &ca];
        let wanted = [
            format!("--model={model}"),
            format!("--relay-namespace={NAMESPACE}"),
            "--relay-tls=relays-tls".to_owned(),
            "--token-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        ];
        let mut seen = Vec::new();
        for values in [&values[..], &values[..5]] {
            let objects = by_key(objects(values)?);
            let of = |kind: &str, name: &str| {
                objects.get(&(kind.to_owned(), NAMESPACE.to_owned(), name.to_owned()))
            };
            let template = &of("Deployment", "moorgate-watch").context("watch")?["spec"]["template"];
            let container = &template["spec"]["containers"][0];
            let words: Vec<&str> =
                container["args"].as_array().context("args")?.iter().filter_map(Value::as_str).collect();
            for word in &words[1..] {
                let flag = word.split('=').next().unwrap_or_default();
                let known = [" <", "\n", "]"].map(|end| help.contains(&format!("{flag}{end}")));
                ensure!(known.contains(&true), "{flag} is no flag");
            }
            ensure!(wanted.iter().all(|word| words.contains(&word.as_str())), "{words:?}");
            assert_eq!(words.contains(&"--pool-replicas=3"), model == "pool", "{words:?}");
            // The file that it is told of is where the volume is seen.
            let path = words.iter().find_map(|word| word.strip_prefix("--relay-ca=")).context("a CA")?;
            let mounts = container["volumeMounts"].as_array().context("mounts")?;
            let mount = mounts.iter().find(|mount| mount["name"] == "relays").context("a mount")?;
            assert_eq!(path, format!("{}/ca.crt", mount["mountPath"].as_str().context("a path")?));
            let volumes = template["spec"]["volumes"].as_array().context("volumes")?;
            let volume = volumes.iter().find(|volume| volume["name"] == "relays").context("a volume")?;
            let map = of("ConfigMap", "moorgate-relay-ca");
            seen.push((volume.clone(), template["metadata"]["annotations"].clone(), map.cloned()));
        }
        let [(given, noted, map), (own, unnoted, none)] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!(given["configMap"]["name"], "moorgate-relay-ca");
        assert_eq!(map.as_ref().context("a map")?["data"]["ca.crt"], std::fs::read_to_string(&file)?);
        ensure!(
            noted["moorgate.dev/relay-ca"].is_string() && unnoted.is_null() && none.is_none(),
            "{seen:?}"
        );
        // Of a Secret with a private key only the authority.
        assert_eq!(own["secret"]["items"], json!([{"key": "ca.crt", "path": "ca.crt"}]));
    }
    Ok(())
}

/// `render` alone makes fleets: overlays hold what it prints, and chart and kustomize hand it on as it is.
#[test]
fn render_chart_and_overlays_agree() -> Result<()> {
    for (model, flags) in models()? {
        let (text, file) = (rendered(&model, &flags)?, overlay(&model).join("fleets.yaml"));
        if switched_on("MOORGATE_BLESS") {
            std::fs::write(&file, &text)?;
        }
        ensure!(std::fs::read_to_string(&file)? == text, "{}: MOORGATE_BLESS=1", file.display());
        let wanted = by_key(documents(&text)?);
        let fleets = format!("fleets.shop={}", file.display());
        let chart = by_key(objects(&["watch.enabled=false", &format!("model={model}"), &fleets])?);
        assert_eq!(chart, wanted, "the chart with {model}");
        let mut built = by_key(kustomize(&overlay(&model))?);
        built.retain(|(kind, _, _), _| kind != "Namespace");
        assert_eq!(built, wanted, "the overlay {model}");
    }
    Ok(())
}

#[test]
fn what_prometheus_and_grafana_get_is_what_is_tested() -> Result<()> {
    let all = by_key(objects(&[
        STORE,
        "monitoring.podMonitor=true",
        "monitoring.rules=true",
        "monitoring.dashboard=true",
        "monitoring.labels.release=prometheus",
    ])?);
    let of = |kind: &str, name: &str| &all[&(kind.to_owned(), NAMESPACE.to_owned(), name.to_owned())];
    let rules: Value = yaml_serde::from_str(&text("deploy/prometheus/alerts.yaml")?)?;
    assert_eq!(of("PrometheusRule", "moorgate")["spec"], rules);
    assert_eq!(of("PrometheusRule", "moorgate")["metadata"]["labels"]["release"], "prometheus");
    assert_eq!(
        of("ConfigMap", "moorgate-dashboard")["data"]["moorgate.json"],
        text("deploy/grafana/moorgate.json")?
    );
    // The monitor selects what `render` makes, by the port on which relays show metrics.
    for (model, flags) in models()? {
        let values = [STORE, &format!("model={model}"), "monitoring.podMonitor=true"];
        let monitor = by_key(objects(&values)?).remove(&(
            "PodMonitor".into(),
            NAMESPACE.into(),
            "moorgate-relays".into(),
        ));
        let monitor = monitor.context("a monitor")?;
        let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().context("labels")?.clone();
        let selected: Vec<Value> = documents(&rendered(&model, &flags)?)?
            .into_iter()
            .map(|object| object["spec"]["template"].clone())
            .filter(|pod| wanted.iter().all(|(name, value)| pod["metadata"]["labels"][name] == *value))
            .collect();
        let [pod] = selected.as_slice() else { panic!("{model}: {} pods are selected", selected.len()) };
        let containers = ["initContainers", "containers"].map(|key| pod["spec"][key].as_array().cloned());
        let relay = containers.into_iter().flatten().flatten().find(|container| container["name"] == "relay");
        let ports = relay.context("a relay")?["ports"].to_string();
        ensure!(ports.contains("\"health\""), "{model}: {ports}");
    }
    Ok(())
}

/// Where an object lies.
fn path(object: &Value) -> Result<String> {
    let (kind, namespace, name) = key(object);
    let version = object["apiVersion"].as_str().context("apiVersion")?;
    let root = if version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{version}") };
    let plural = match kind.to_lowercase() {
        word if word.ends_with("policy") => word.replace("policy", "policies"),
        word => format!("{word}s"),
    };
    Ok(if namespace.is_empty() {
        format!("{root}/{plural}/{name}")
    } else {
        format!("{root}/namespaces/{namespace}/{plural}/{name}")
    })
}

/// Server-side apply without effect, and with every unknown field an error.
fn dry_run(cluster: &Cluster, object: &Value) -> Result<Value> {
    let uri = format!("{}?dryRun=All&fieldManager=deploy&force=true&fieldValidation=Strict", path(object)?);
    let request = http::Request::patch(uri).header("content-type", "application/apply-patch+yaml");
    let request = request.body(object.to_string().into_bytes())?;
    cluster.with(async move |client| Ok(client.request::<Value>(request).await?))
}

/// A pod of a workload, as its controller would make it, without effect.
fn pod(cluster: &Cluster, workload: &Value) -> Result<Value> {
    let (_, namespace, name) = key(workload);
    let mut pod = workload["spec"]["template"].clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = format!("{name}-dry").into();
    let uri = format!("/api/v1/namespaces/{namespace}/pods?dryRun=All&fieldValidation=Strict");
    cluster.request("POST", &uri, Some(&pod))
}

#[test]
fn a_real_api_server_takes_all_of_it_and_pods_fit_the_level_restricted() -> Result<()> {
    let cluster = Cluster::shared()?;
    cluster.apply(&text("deploy/kustomize/base/namespaces.yaml")?)?;
    let mut all = vec![
        ("deploy/kubernetes".to_owned(), kustomize(&root().join("deploy/kubernetes"))?),
        ("rate limits".to_owned(), documents(&text("deploy/ratelimit/kubernetes.yaml")?)?),
        ("status-only".to_owned(), objects(&[STORE, "watch.mode=status-only"])?),
        ("provision".to_owned(), objects(&[STORE, "watch.provision=true", "monitoring.dashboard=true"])?),
        ("serve-store".to_owned(), objects(&["store.serve=true", "watch.provision=true"])?),
    ];
    for model in ["model=pool", "model=node"] {
        let ca = format!("relay.ca={}", root().join("deploy/kustomize/relay-ca.pem").display());
        all.push((model.to_owned(), objects(&[STORE, "watch.provision=true", model, TLS, &ca])?));
    }
    for (model, _) in models()? {
        all.push((format!("overlay {model}"), kustomize(&overlay(&model))?));
        let fleets = format!("fleets.shop={}", overlay(&model).join("fleets.yaml").display());
        all.push((
            format!("chart {model}"),
            objects(&["watch.enabled=false", &format!("model={model}"), &fleets])?,
        ));
    }
    let mut pods = 0;
    for (what, objects) in &all {
        // A pod needs its account; nothing else is made.
        for account in objects.iter().filter(|object| object["kind"] == "ServiceAccount") {
            cluster.apply(&yaml_serde::to_string(account)?)?;
        }
        for object in objects {
            let taken = dry_run(&cluster, object).with_context(|| format!("{what}: {object}"))?;
            assert_eq!(taken["kind"], object["kind"]);
            if object["spec"]["template"].is_object() {
                pod(&cluster, object).with_context(|| format!("{what}: {object}"))?;
                pods += 1;
            }
        }
    }
    ensure!(pods >= 10, "{pods} pods");
    // It would refuse others.
    let mut wrong = all[0].1.iter().find(|object| object["kind"] == "Deployment").context("one")?.clone();
    wrong["spec"]["template"]["spec"]["hostNetwork"] = true.into();
    let refused = format!("{:#}", pod(&cluster, &wrong).unwrap_err());
    ensure!(refused.contains("restricted"), "{refused}");
    wrong["spec"]["template"]["spec"]["hostNetwerk"] = true.into();
    ensure!(dry_run(&cluster, &wrong).is_err(), "an unknown field was taken");
    Ok(())
}
