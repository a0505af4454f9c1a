//! Deployment models on a real API server, from what `moorgate render` prints and the chart and kustomize hand on: what is
//! published is answered, what one fleet has is nothing to the other, and what is replaced loses no request.
//! `make test-deploy` does more of it.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use anyhow::{Context as _, Result, ensure};
use moorgate_snapshot::{KeyPair, Signer as _};
use moorgate_tests::cluster::Cluster;
use moorgate_tests::models::{Costs, Fixed, Model, Played, Report, SHORT, Stage, markdown, play};
use moorgate_tests::program::{moorgate, root, run};
use serde::Deserialize as _;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

#[test]
fn each_model_serves_and_is_upgraded_without_a_loss() -> Result<()> {
    let stage = Stage::new()?;
    let mut all = BTreeMap::new();
    for model in Model::ALL {
        let played = play(&stage, model, SHORT, |_| ())?;
        let report = &played.report;
        ensure!(report.sent > 100, "{}: only {} requests were sent", model.name(), report.sent);
        ensure!(report.lost.is_empty(), "{}: lost {:?}", model.name(), report.lost);
        // One for each connection that ends while it is asked: a side that drains as it should ends few of them so.
        ensure!(
            report.repeated * 10 < report.sent,
            "{}: {} of {} twice",
            model.name(),
            report.repeated,
            report.sent
        );
        ensure!(played.costs.bytes > 0, "{:?}", played.costs);
        all.insert(model, played);
    }
    // What no machine makes different is what README says.
    let (measured, told) = (Table::of(&markdown(&all)), Table::of_readme()?);
    for row in ["relays, Envoys", "objects to operate, of these workloads", "of these for configuration"] {
        assert_eq!(told.row(row)?, measured.row(row)?, "{row}");
    }
    Ok(())
}

/// A table of Markdown: the cells of its lines.
struct Table(Vec<Vec<String>>);

impl Table {
    fn of(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
        Self(lines.map(|line| line.split('|').map(|cell| cell.trim().to_owned()).collect()).collect())
    }

    /// That of README about what models cost.
    fn of_readme() -> Result<Self> {
        let readme = std::fs::read_to_string(root().join("README.md"))?;
        let (_, section) = readme.split_once("### What each model costs").context("no such section")?;
        Ok(Self::of(section.split("\n## ").next().unwrap_or_default()))
    }

    /// What rows are called.
    fn names(&self) -> Vec<&str> {
        self.0.iter().filter_map(|row| row.first()).map(String::as_str).collect()
    }

    /// The cells of a row, a model each.
    fn row(&self, name: &str) -> Result<&[String]> {
        let row = self.0.iter().find(|row| row.first().is_some_and(|first| first == name));
        Ok(&row.with_context(|| format!("no row {name}"))?[1..])
    }
}

/// The rows are those that `make test-deploy` prints, and what is the same in each of its runs is what it has to be.
#[test]
fn the_table_of_readme_is_the_one_that_is_printed() -> Result<()> {
    let nothing =
        |model| (model, Played { report: Report::default(), costs: Costs::default(), acts: Vec::new() });
    let printed = Table::of(&markdown(&Model::ALL.map(nothing).into()));
    let told = Table::of_readme()?;
    assert_eq!(told.names(), printed.names());
    assert_eq!(told.row("")?, Model::ALL.map(Model::name));
    for (index, model) in Model::ALL.into_iter().enumerate() {
        let Fixed { relays, envoys, watches, configuration } = Fixed::of(model);
        let cell = |row: &str| {
            let cell = told.row(row)?.get(index).map(String::as_str);
            cell.with_context(|| format!("{row} of {}", model.name()))
        };
        assert_eq!(cell("relays, Envoys")?, format!("{relays}, {envoys}"));
        assert_eq!(cell("of these for configuration")?, configuration.to_string());
        for (row, end) in [
            ("API server: requests, watches", format!(", {watches}")),
            ("requests during all acts, lost", ", 0".to_owned()),
        ] {
            ensure!(cell(row)?.ends_with(&end), "{row}: {}, and not {end}", cell(row)?);
        }
    }
    Ok(())
}

/// Where objects of the kinds are that are rendered.
fn path(object: &Value) -> Result<String> {
    let kinds = [
        ("ServiceAccount", "serviceaccounts"),
        ("ConfigMap", "configmaps"),
        ("Service", "services"),
        ("Role", "roles"),
        ("RoleBinding", "rolebindings"),
        ("ClusterRole", "clusterroles"),
        ("ClusterRoleBinding", "clusterrolebindings"),
        ("NetworkPolicy", "networkpolicies"),
        ("PodDisruptionBudget", "poddisruptionbudgets"),
        ("HorizontalPodAutoscaler", "horizontalpodautoscalers"),
        ("Deployment", "deployments"),
        ("DaemonSet", "daemonsets"),
    ];
    let plural = kinds.iter().find(|(kind, _)| object["kind"] == *kind).map(|(_, plural)| *plural);
    let plural = plural.with_context(|| object["kind"].to_string())?;
    let version = object["apiVersion"].as_str().context("a version")?;
    let prefix = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let namespace = object["metadata"]["namespace"].as_str();
    let namespace = namespace.map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
    let name = object["metadata"]["name"].as_str().context("a name")?;
    Ok(format!("{prefix}{namespace}/{plural}/{name}"))
}

/// What a request came to: the object, or the refusal.
fn send(cluster: &Cluster, method: &str, path: &str, kind: &str, body: &Value) -> Result<Value> {
    let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
    let request = request.body(body.to_string().into_bytes())?;
    cluster.with(async move |client| Ok(client.request::<Value>(request).await?))
}

fn apply(cluster: &Cluster, object: &Value, query: &str) -> Result<Value> {
    let path = format!("{}?fieldManager=gitops&force=true{query}", path(object)?);
    send(cluster, "PATCH", &path, "application/apply-patch+yaml", object)
        .with_context(|| format!("applying {} {}", object["kind"], object["metadata"]["name"]))
}

/// The manifests of a case for a model, and with all Gateways of the class merged into one fleet.
fn rendered(case: &Path, folder: &Path, more: &[&str]) -> Result<Vec<Value>> {
    let path = |name: &str| folder.join(name).display().to_string();
    let mut command = moorgate()?;
    command.arg("render").arg(case.join("in.yaml"));
    command.args(["--store", "s3://bucket/prefix", "--trust", &path("trust.pem")]).args(more);
    command.args(["--relay-tls", "relays-tls", "--relay-ca", &path("ca.crt"), "--token-issuer", "https://i"]);
    let text = run(&mut command)?.ended_with(&[0])?.stdout;
    let documents = yaml_serde::Deserializer::from_str(&text);
    let objects = documents.map(|document| -> Result<Value> { Ok(Value::deserialize(document)?) });
    objects.filter(|value| !matches!(value, Ok(Value::Null))).collect()
}

/// A real API server takes all of it by server-side apply, under Pod Security `restricted`, and a second time changes
/// nothing: autoscalers, budgets, several addresses, names of 253 letters, and merged classes, for each model.
#[test]
fn what_is_rendered_is_taken_by_an_api_server_and_stays_as_it_is() -> Result<()> {
    let cluster = Cluster::shared()?;
    let folder = tempfile::tempdir()?;
    let (pair, _) = KeyPair::generate(&[7; 32])?;
    std::fs::write(folder.path().join("trust.pem"), pair.public().to_pem())?;
    std::fs::write(folder.path().join("ca.crt"), "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")?;
    let cases = root().join("tests/golden/render");
    let mut kinds = BTreeSet::new();
    for case in ["plain", "shaped", "parameters", "pods", "long-name"].map(|name| cases.join(name)) {
        for model in Model::ALL {
            for merged in [&[][..], &["--merge-class", "moorgate"]] {
                let args = [&["--model", model.name()][..], merged].concat();
                let objects = rendered(&case, folder.path(), &args)?;
                ensure!(!objects.is_empty(), "{} {args:?}: nothing", case.display());
                kinds.extend(objects.iter().filter_map(|one| one["kind"].as_str().map(str::to_owned)));
                taken(&cluster, &objects).with_context(|| format!("{} {args:?}", case.display()))?;
            }
        }
    }
    for kind in ["HorizontalPodAutoscaler", "PodDisruptionBudget", "DaemonSet", "Deployment", "NetworkPolicy"]
    {
        ensure!(kinds.contains(kind), "no {kind} in {kinds:?}");
    }
    Ok(())
}

fn taken(cluster: &Cluster, objects: &[Value]) -> Result<()> {
    let namespaces: BTreeSet<&str> =
        objects.iter().filter_map(|one| one["metadata"]["namespace"].as_str()).collect();
    for name in namespaces {
        let label = "{pod-security.kubernetes.io/enforce: restricted}";
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {label}}}\n"
        ))?;
    }
    for object in objects {
        apply(cluster, object, "&dryRun=All")?;
        let template = &object["spec"]["template"];
        if template.is_object() {
            admitted(cluster, object)?;
            continue;
        }
        // An owner that this cluster does not have takes its objects along at any moment.
        if object["metadata"]["ownerReferences"].is_array() {
            continue;
        }
        let (first, second) = (apply(cluster, object, "")?, apply(cluster, object, "")?);
        let (first, second) = (said(first), said(second));
        ensure!(first == second, "a second time changes {first} into {second}");
    }
    Ok(())
}

/// An object without what others write into it meanwhile.
fn said(mut object: Value) -> Value {
    object["status"] = Value::Null;
    for field in ["resourceVersion", "managedFields"] {
        object["metadata"][field] = Value::Null;
    }
    object
}

/// A pod of this workload is admitted, and would not be if it might gain privileges.
fn admitted(cluster: &Cluster, workload: &Value) -> Result<()> {
    let namespace = workload["metadata"]["namespace"].as_str().context("a namespace")?;
    let template = &workload["spec"]["template"];
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": template["spec"]["serviceAccountName"], "namespace": namespace},
    });
    apply(cluster, &account, "")?;
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"],
    });
    pod["metadata"]["generateName"] = "admitted-".into();
    let path = format!("/api/v1/namespaces/{namespace}/pods?dryRun=All");
    send(cluster, "POST", &path, "application/json", &pod)
        .with_context(|| format!("a pod of {}", workload["metadata"]["name"]))?;
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = true.into();
    let refused = send(cluster, "POST", &path, "application/json", &pod);
    let words = refused.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(words.contains("PodSecurity"), "{namespace} is not restricted: {words}");
    Ok(())
}
