//! What the Gateway API's project publishes, on a real API server: `check` and the server take and refuse the same
//! objects, and the conformance suite's Gateways get the same snapshots from files, from the cluster, and from `watch`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

#[path = "differential/answer.rs"]
#[allow(dead_code, reason = "shared with another suite")]
mod answer;
#[path = "watch/bench.rs"]
#[allow(dead_code, reason = "shared with another suite")]
mod bench;
#[path = "differential/schema.rs"]
#[allow(dead_code, reason = "shared with another suite")]
mod schema;

use answer::{Sent, ask, check};
use anyhow::{Context as _, Result, ensure};
use bench::Bench;
use moorgate_snapshot::{Channel as Track, FleetName, Reader, Signer as _, Store, Trust};
use moorgate_tests::cluster::{Channel, Cluster, Options};
use moorgate_tests::distil::crds;
use moorgate_tests::manifest::files;
use moorgate_tests::wait;
use schema::{Kind, kinds};
use serde::Deserialize as _;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The test's class, and the Lease of its `watch`.
const NAME: &str = "offline";

fn module(path: &str) -> PathBuf {
    crds::module(path, crds::VERSION).unwrap().dir
}

/// The objects of a file, with what each run of the suite fills in.
fn objects(file: &Path) -> Vec<Value> {
    let filled = [
        ("{GATEWAY_CLASS_NAME}", NAME),
        ("{GATEWAY_CONTROLLER_NAME}", "example.com/offline"),
        ("PLACEHOLDER_UNUSABLE_ADDRS", "192.0.2.1"),
        ("PLACEHOLDER_USABLE_ADDRS", "192.0.2.2"),
    ];
    let text = std::fs::read_to_string(file).unwrap();
    let text = filled.iter().fold(text, |text, (from, to)| text.replace(from, to));
    let documents = yaml_serde::Deserializer::from_str(&text);
    documents.map(|document| Value::deserialize(document).unwrap()).filter(|value| !value.is_null()).collect()
}

/// Kinds beside the Gateway API's that manifests have.
fn others() -> Vec<Kind> {
    let of = |(group, kind, plural, namespaced): (&str, &str, &str, bool)| Kind {
        channel: Channel::Experimental,
        group: group.to_owned(),
        version: "v1".to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
        namespaced,
        schema: Value::Null,
    };
    let kinds = [
        ("", "Service", "services", true),
        ("", "Secret", "secrets", true),
        ("", "ConfigMap", "configmaps", true),
        ("", "Namespace", "namespaces", false),
        ("", "ServiceAccount", "serviceaccounts", true),
        ("apps", "Deployment", "deployments", true),
        ("discovery.k8s.io", "EndpointSlice", "endpointslices", true),
    ];
    kinds.into_iter().map(of).collect()
}

/// Asks both sides about all objects of some files; how many objects of each file are refused by both.
fn compare(
    cluster: &Cluster,
    channel: Channel,
    files: &[PathBuf],
) -> Result<BTreeMap<PathBuf, (usize, usize)>> {
    let mut known = kinds(crds::VERSION, channel)?;
    known.extend(others());
    let mut sent = Vec::new();
    let mut namespaces = BTreeSet::new();
    for file in files {
        for object in objects(file) {
            // Kinds that this cluster does not have are nobody's business here.
            if !known.iter().any(|kind| kind.kind == object["kind"]) {
                continue;
            }
            namespaces.extend(object["metadata"]["namespace"].as_str().map(str::to_owned));
            sent.push((file, Sent { text: yaml_serde::to_string(&object)?, object }));
        }
    }
    let namespace = |name: &String| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
    cluster.apply(&namespaces.iter().map(namespace).collect::<Vec<_>>().join("---\n"))?;
    let asked: Vec<Sent> = sent.iter().map(|(_, sent)| sent.clone()).collect();
    let online = cluster.with(async |client| ask(&client, &known, &asked).await)?;
    let mut counts: BTreeMap<PathBuf, (usize, usize)> = BTreeMap::new();
    let mut different = Vec::new();
    for ((file, sent), online) in sent.iter().zip(&online) {
        let offline = check(&sent.text, channel);
        let entry = counts.entry((*file).clone()).or_default();
        entry.0 += 1;
        entry.1 += usize::from(!online.accepts());
        if offline.accepts() != online.accepts() {
            let shown = file.display();
            different.push(format!("{shown}\n{}\n  check:  {offline}\n  server: {online}", sent.text));
        }
    }
    ensure!(different.is_empty(), "{} differences:\n{}", different.len(), different.join("\n\n"));
    Ok(counts)
}

#[test]
fn what_the_project_publishes_gets_one_answer() -> Result<()> {
    for (channel, name) in [(Channel::Experimental, "experimental"), (Channel::Standard, "standard")] {
        let cluster = Cluster::start(&Options { nodes: 1, channel, ..Options::default() })?;
        let project = module(crds::MODULE);
        let mut valid = files(&project.join("examples").join(name)).unwrap();
        if channel == Channel::Experimental {
            let suite = module("sigs.k8s.io/gateway-api/conformance");
            valid.extend(
                ["base", "mesh", "tests"].iter().flat_map(|folder| files(&suite.join(folder)).unwrap()),
            );
        }
        let counts = compare(&cluster, channel, &valid)?;
        let (all, refused) = counts.values().fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        assert_eq!(refused, 0, "{counts:?}");
        assert!(all > 60, "{all} objects");
        let invalid = files(&project.join("hack/invalid-examples").join(name)).unwrap();
        let counts = compare(&cluster, channel, &invalid)?;
        assert_eq!(counts.len(), invalid.len());
        let taken: Vec<_> = counts.iter().filter(|(_, (_, refused))| *refused == 0).collect();
        assert!(taken.is_empty() && invalid.len() > 3, "{taken:?} of {}", invalid.len());
    }
    Ok(())
}

/// What Kubernetes publishes of a kind: lists that a strategic merge patch joins, with the key of their items.
fn joined(definitions: &Value, name: &str, at: &str, above: &[&str], out: &mut BTreeSet<(String, String)>) {
    if above.contains(&name) {
        return;
    }
    let above = [above, &[name]].concat();
    for (field, schema) in definitions[name]["properties"].as_object().into_iter().flatten() {
        let at = if at.is_empty() { field.clone() } else { format!("{at}.{field}") };
        let strategy = schema["x-kubernetes-patch-strategy"].as_str().unwrap_or_default();
        let key = schema["x-kubernetes-patch-merge-key"].as_str().unwrap_or_default();
        if strategy.split(',').any(|one| one == "merge") {
            out.insert((at.clone(), key.to_owned()));
        }
        let named = |schema: &Value| {
            schema["$ref"].as_str().and_then(|name| name.rsplit('/').next()).map(str::to_owned)
        };
        if let Some(inner) = named(schema).filter(|_| at != "status") {
            joined(definitions, &inner, &at, &above, out);
        }
        if let Some(inner) = named(&schema["items"]) {
            joined(definitions, &inner, &format!("{at}[]"), &above, out);
        }
    }
}

#[test]
fn patches_join_the_lists_that_kubernetes_says() -> Result<()> {
    use moorgate::render::{MERGED_LISTS, MERGED_LISTS_OF_CONTAINERS};
    let module = crds::module("k8s.io/kubernetes", "v1.37.2")?.dir;
    let text = std::fs::read_to_string(module.join("api/openapi-spec/swagger.json"))?;
    let document: Value = serde_json::from_str(&text)?;
    let mut published = BTreeSet::new();
    for kind in [
        "io.k8s.api.apps.v1.Deployment",
        "io.k8s.api.apps.v1.DaemonSet",
        "io.k8s.api.core.v1.Service",
        "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
        "io.k8s.api.policy.v1.PodDisruptionBudget",
    ] {
        joined(&document["definitions"], kind, "", &[], &mut published);
    }
    let pair = |(list, key): &(&str, &str)| ((*list).to_owned(), (*key).to_owned());
    let mut ours: BTreeSet<(String, String)> = MERGED_LISTS.iter().map(pair).collect();
    for containers in ["containers", "ephemeralContainers", "initContainers"] {
        let below = |(list, key): &(&str, &str)| {
            (format!("spec.template.spec.{containers}[].{list}"), (*key).to_owned())
        };
        ours.extend(MERGED_LISTS_OF_CONTAINERS.iter().map(below));
    }
    assert_eq!(ours, published);
    Ok(())
}

/// The objects that make up configuration: without workloads, and each once; the rest is for another round.
fn rounds() -> Vec<Vec<Value>> {
    let suite = module("sigs.k8s.io/gateway-api/conformance");
    let files: Vec<PathBuf> =
        ["base", "tests"].iter().flat_map(|folder| files(&suite.join(folder)).unwrap()).collect();
    let mut rounds: Vec<BTreeMap<(String, String, String), Value>> = Vec::new();
    for object in files.iter().flat_map(|file| objects(file)) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = text(&object["kind"]);
        if ["Deployment", "ServiceAccount"].contains(&kind.as_str()) {
            continue;
        }
        let metadata = &object["metadata"];
        let key = (text(&metadata["namespace"]), text(&metadata["name"]), kind);
        // A mesh's objects are nobody's Gateway.
        if key.0.starts_with("gateway-conformance-mesh") {
            continue;
        }
        match rounds.iter_mut().find(|round| !round.contains_key(&key)) {
            Some(round) => drop(round.insert(key, object)),
            None => rounds.push(BTreeMap::from([(key, object)])),
        }
    }
    rounds.into_iter().map(|round| round.into_values().collect()).collect()
}

/// What an object refers to by a list or a field of references: kind, namespace and name.
fn references(object: &Value, namespace: &str, found: &mut BTreeSet<(String, String, String)>) {
    let text = |value: &Value, otherwise: &str| value.as_str().unwrap_or(otherwise).to_owned();
    for (key, value) in object.as_object().into_iter().flatten() {
        let single = std::slice::from_ref(value);
        let these = match key.as_str() {
            "certificateRefs" | "caCertificateRefs" => value.as_array().map_or(single, Vec::as_slice),
            "clientCertificateRef" => single,
            _ => &[],
        };
        for one in these {
            let kind = text(&one["kind"], "Secret");
            found.insert((kind, text(&one["namespace"], namespace), text(&one["name"], "")));
        }
        references(value, namespace, found);
    }
    object.as_array().into_iter().flatten().for_each(|item| references(item, namespace, found));
}

/// The Secrets and ConfigMaps that the suite makes by program, but for those that are meant to be missing.
fn made(objects: &[Value]) -> Result<Vec<Value>> {
    let mut wanted = BTreeSet::new();
    for object in objects {
        references(object, object["metadata"]["namespace"].as_str().unwrap_or_default(), &mut wanted);
    }
    for object in objects {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        wanted.remove(&(text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"])));
    }
    let pair = rcgen::generate_simple_self_signed(vec!["*.example.com".to_owned()])?;
    let (cert, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
    let base64 = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
    let mut made = Vec::new();
    for (kind, namespace, name) in wanted.iter().filter(|(_, _, name)| !name.contains("nonexist")) {
        let metadata = json!({ "name": name, "namespace": namespace });
        match kind.as_str() {
            "Secret" => made.push(json!({
                "apiVersion": "v1", "kind": kind, "metadata": metadata, "type": "kubernetes.io/tls",
                "data": { "tls.crt": base64(&cert), "tls.key": base64(&key) },
            })),
            "ConfigMap" => made.push(
                json!({ "apiVersion": "v1", "kind": kind, "metadata": metadata, "data": { "ca.crt": cert } }),
            ),
            _ => {}
        }
    }
    Ok(made)
}

/// Fleet and snapshot of a compile.
fn fleets(output: &str) -> Result<BTreeMap<String, String>> {
    let value: Value = serde_json::from_str(output).with_context(|| output.to_owned())?;
    let text = |value: &Value| value.as_str().map(str::to_owned).context("a text");
    let fleets = value["fleets"].as_array().context("fleets")?.iter();
    fleets.map(|fleet| Ok((text(&fleet["fleet"])?, text(&fleet["snapshot"])?))).collect()
}

/// The snapshot that is published for a fleet.
fn published(bench: &Bench, fleet: &str) -> Result<String> {
    let (namespace, name) = fleet.split_once('/').context("a fleet of a Gateway")?;
    let store = Store::open(&format!("file://{}", bench.folder().join("store").display()))?;
    let trust = Arc::new(Trust::of([bench.key.public().clone()]));
    let reader = Reader::new(store.fleet(&FleetName::gateway(namespace, name)), trust, Track::stable());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entry = runtime.block_on(reader.newest(None))?.entry.context("nothing is published")?.entry;
    Ok(entry.state.serving().context("nothing is served")?.snapshot.to_string())
}

/// The differences of two sides, by fleet.
fn different<'a>(a: &'a BTreeMap<String, String>, b: &'a BTreeMap<String, String>) -> Vec<&'a String> {
    a.keys().chain(b.keys()).filter(|fleet| a.get(*fleet) != b.get(*fleet)).collect()
}

#[test]
fn the_suites_gateways_are_the_same_from_files_and_cluster_and_watch() -> Result<()> {
    let bench = Bench::new(NAME)?;
    let folder = bench.folder().join("source");
    std::fs::create_dir(&folder)?;
    let class = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": { "name": NAME },
        "spec": { "controllerName": bench.controller },
    });
    let mut all: BTreeMap<(String, String, String), Value> = BTreeMap::new();
    let mut watch = None;
    for round in rounds() {
        // Ties are broken by creation time where there is one, and by namespace and name in files: in this order they
        // are the same.
        let mut objects: Vec<Value> = round.into_iter().chain([class.clone()]).collect();
        objects.extend(made(&objects)?);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let key = |object: &Value| {
            let metadata = &object["metadata"];
            (text(&metadata["namespace"]), text(&metadata["name"]), text(&object["kind"]))
        };
        objects.sort_by_key(|object| (object["kind"] != "Namespace", key(object)));
        let texts: Vec<String> =
            objects.iter().map(|object| Ok(yaml_serde::to_string(object)?)).collect::<Result<_>>()?;
        bench.cluster.apply(&texts.join("---\n"))?;
        all.extend(objects.into_iter().map(|object| (key(&object), object)));
        let texts: Vec<String> =
            all.values().map(|object| Ok(yaml_serde::to_string(object)?)).collect::<Result<_>>()?;
        std::fs::write(folder.join("all.yaml"), texts.join("---\n"))?;
        let path = folder.display().to_string();
        // A cluster has all that there is.
        let closed = ["--closed", "Secret", "--closed", "ConfigMap", "--crds", "experimental"];
        let offline = bench.moorgate(&[&["compile", &path, "-o", "json"], closed.as_slice()].concat())?;
        let offline = fleets(&offline.stdout)?;
        let online = fleets(&bench.moorgate_on_cluster(&["compile", "-o", "json"])?.stdout)?;
        assert!(offline.len() > 90, "{} fleets", offline.len());
        let wrong = different(&offline, &online);
        if let Some(fleet) = wrong.first() {
            let diff = bench.moorgate_on_cluster(&["diff", "cluster:", &path, "--fleet", fleet])?;
            panic!("{} fleets differ: {wrong:?}\n{}{}", wrong.len(), diff.stdout, diff.stderr);
        }
        if watch.is_none() {
            watch = Some(bench.watch("only", &["--allow-shrink"])?);
        }
        let running = watch.as_ref().context("watch")?;
        wait::until("all fleets to be published", || {
            for (fleet, snapshot) in &offline {
                let served =
                    published(&bench, fleet).with_context(|| format!("{fleet}\n{}", running.tail()))?;
                ensure!(served == *snapshot, "{fleet}: {served}, not {snapshot}");
            }
            Ok(())
        })?;
    }
    Ok(())
}
