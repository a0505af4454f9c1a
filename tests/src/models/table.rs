//! What a model costs, as the API server, the kernel, the store's tap and the clients count it.

use super::Model;
use super::acts::Played;
use super::source::{FIRST, RELAYS, SECOND};
use super::stage::Stage;
use crate::cluster::definitions;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// What one kind of process took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// How many there are.
    pub count: usize,
    /// Processor time of all since their start.
    pub cpu: Duration,
    /// Memory of all, in KiB.
    pub memory: u64,
}

/// What a model costs for two fleets with two Envoys each, on two nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Costs {
    /// How long all of this was counted.
    pub period: Duration,
    /// Relays.
    pub relays: Taken,
    /// Envoys.
    pub envoys: Taken,
    /// Questions to the API server that were answered at once.
    pub requests: usize,
    /// Watches on the API server.
    pub watches: usize,
    /// Of both, those about configuration: kinds of the Gateway API, policies and Services.
    pub configuration: usize,
    /// Bytes that the store sent.
    pub bytes: u64,
    /// Requests to the store.
    pub asked: u64,
    /// Objects in the rendered manifests.
    pub objects: usize,
    /// Of these, kinds of pods that somebody has to look after.
    pub workloads: usize,
    /// From the commit until all Gateways answered as it says, each time: compiled, published, pulled and acknowledged.
    pub answered: Vec<Duration>,
}

/// What is the same on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fixed {
    /// How many relays there are.
    pub relays: usize,
    /// How many Envoys.
    pub envoys: usize,
    /// Watches on the API server.
    pub watches: usize,
    /// What it was asked about configuration.
    pub configuration: usize,
}

impl Fixed {
    /// Those of a model. A relay has two watches for each of its fleets: the EndpointSlices of one namespace, and one Secret.
    /// Of the two nodes one has Envoys of both fleets, and the other those of the first.
    pub fn of(model: Model) -> Self {
        let (relays, watches) = match model {
            Model::Sidecar | Model::Pool => (4, 8),
            Model::Node => (2, 6),
        };
        Self { relays, envoys: 4, watches, configuration: 0 }
    }
}

impl Costs {
    /// That a model costs what it has to, and its relays less memory than its Envoys. Processor time is that of a machine
    /// and of a build, and nothing is said of it.
    pub(super) fn hold(&self, model: Model) -> Result<()> {
        let (relays, envoys) = (self.relays, self.envoys);
        let wanted = Fixed::of(model);
        // On a slow machine one may end and begin anew.
        let again = (wanted.watches..=2 * wanted.watches).contains(&self.watches);
        let found = Fixed {
            relays: relays.count,
            envoys: envoys.count,
            watches: if again { wanted.watches } else { self.watches },
            configuration: self.configuration,
        };
        ensure!(found == wanted, "{}: {found:?}, and not {wanted:?}", model.name());
        ensure!(
            relays.memory > 0 && relays.memory < envoys.memory,
            "{}: {} KiB of relays, {} KiB of Envoys",
            model.name(),
            relays.memory,
            envoys.memory
        );
        Ok(())
    }
}

/// Counts while a model runs.
pub(super) struct Gauge {
    costs: Costs,
    begin: Instant,
    /// Questions of the audit log that were there before: those of a watch have a line when it ends, too.
    before: BTreeSet<String>,
}

/// A line of the audit log.
struct Asked {
    user: String,
    verb: String,
    group: String,
    resource: String,
    namespace: String,
}

impl Asked {
    /// Whether it is about what a snapshot is compiled from.
    fn configures(&self) -> bool {
        self.group.starts_with("gateway.") || ["services", "namespaces"].contains(&&*self.resource)
    }
}

impl Gauge {
    /// From now on.
    pub(super) fn begin(stage: &Stage) -> Self {
        stage.tap.forget();
        let before = asked(&audit(stage)).into_keys().collect();
        Self { costs: Costs::default(), begin: Instant::now(), before }
    }

    /// Counts what was rendered.
    pub(super) fn objects(&mut self, rendered: &str) -> Result<()> {
        let mut objects = definitions::parse(rendered)?;
        // An overlay has namespaces too.
        objects.retain(|object| {
            let labels = object.metadata.labels.as_ref();
            labels.is_some_and(|labels| labels.contains_key("app.kubernetes.io/managed-by"))
        });
        let is_workload = |kind: &str| ["Deployment", "DaemonSet"].contains(&kind);
        let kinds = objects.iter().filter_map(|object| object.types.as_ref());
        self.costs.workloads = kinds.filter(|types| is_workload(&types.kind)).count();
        self.costs.objects = objects.len();
        Ok(())
    }

    /// So long after a commit all Gateways answered as it says.
    pub(super) fn answered(&mut self, after: Duration) {
        self.costs.answered.push(after);
    }

    /// Who asked the API server for what: nobody for another tenant's objects. Counts what everything took until now.
    pub(super) fn readers(&mut self, stage: &Stage, model: Model) -> Result<()> {
        self.costs.period = self.begin.elapsed();
        let mut asked = asked(&audit(stage));
        asked.retain(|id, _| !self.before.contains(id));
        let asked: Vec<Asked> = asked.into_values().collect();
        let mut read = BTreeSet::new();
        for one in &asked {
            if !["secrets", "endpointslices", "configmaps"].contains(&one.resource.as_str()) {
                continue;
            }
            let account = one.user.strip_prefix("system:serviceaccount:").unwrap_or_default();
            let (namespace, name) = account.split_once(':').context("an account")?;
            let tenant = [FIRST, SECOND].into_iter().find(|tenant| match model {
                Model::Sidecar | Model::Node => tenant.namespace == namespace,
                Model::Pool => namespace == RELAYS && name.starts_with(&format!("{}-", tenant.class)),
            });
            let tenant = tenant.with_context(|| format!("{account} {} {}", one.verb, one.resource))?;
            ensure!(
                tenant.namespace == one.namespace,
                "{account} reads {} in {}",
                one.resource,
                one.namespace
            );
            read.insert((tenant.namespace, one.resource.clone()));
        }
        // Both were read at all, or nothing was shown.
        for namespace in [FIRST.namespace, SECOND.namespace] {
            for resource in ["secrets", "endpointslices"] {
                ensure!(
                    read.contains(&(namespace, resource.to_owned())),
                    "nobody reads {resource} of {namespace}"
                );
            }
        }
        self.costs.configuration = asked.iter().filter(|one| one.configures()).count();
        let watches = asked.iter().filter(|one| one.verb == "watch").count();
        (self.costs.watches, self.costs.requests) = (watches, asked.len() - watches);
        for (name, taken) in [("relay", &mut self.costs.relays), ("envoy", &mut self.costs.envoys)] {
            for container in stage.containers(name)? {
                let (cpu, memory) = stage.cluster.usage(&container.uid, name)?;
                taken.count += 1;
                taken.cpu += cpu;
                taken.memory += memory;
            }
        }
        let clients = stage.tap.clients();
        self.costs.bytes = clients.values().map(|seen| seen.bytes).sum();
        self.costs.asked = clients.values().map(|seen| seen.requests).sum();
        Ok(())
    }

    /// What was counted.
    pub(super) fn costs(&self) -> Costs {
        self.costs.clone()
    }
}

/// The lines of the audit log.
fn audit(stage: &Stage) -> Vec<String> {
    let text = std::fs::read_to_string(stage.cluster.folder().join("logs/audit.log")).unwrap_or_default();
    // The last line may be half written.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(str::to_owned).collect()
}

/// Questions by their ids: a watch has a line when it begins and one when it ends.
fn asked(lines: &[String]) -> BTreeMap<String, Asked> {
    let mut all = BTreeMap::new();
    for line in lines {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let user = text(&line["user"]["username"]);
        if !user.starts_with("system:serviceaccount:models-") {
            continue;
        }
        let object = &line["objectRef"];
        let one = Asked {
            user,
            verb: text(&line["verb"]),
            group: text(&object["apiGroup"]),
            resource: text(&object["resource"]),
            namespace: text(&object["namespace"]),
        };
        all.insert(text(&line["auditID"]), one);
    }
    all
}

/// What a row is called, and its cell for a model.
type Row<'r> = (&'r str, &'r dyn Fn(&Played) -> String);

/// The table of README, and how many requests had to be sent twice.
pub fn markdown(played: &BTreeMap<Model, Played>) -> String {
    let mib = |kib: u64| format!("{}.{}", kib / 1024, kib % 1024 * 10 / 1024);
    let rows: [Row<'_>; 11] = [
        ("relays, Envoys", &|one| format!("{}, {}", one.costs.relays.count, one.costs.envoys.count)),
        ("counted over", &|one| format!("{:.0} s", one.costs.period.as_secs_f64())),
        ("objects to operate, of these workloads", &|one| {
            format!("{}, {}", one.costs.objects, one.costs.workloads)
        }),
        ("API server: requests, watches", &|one| format!("{}, {}", one.costs.requests, one.costs.watches)),
        ("of these for configuration", &|one| one.costs.configuration.to_string()),
        ("store: requests, KiB", &|one| format!("{}, {}", one.costs.asked, one.costs.bytes / 1024)),
        ("relays' processor time, all together", &|one| {
            format!("{:.2} s", one.costs.relays.cpu.as_secs_f64())
        }),
        ("Envoys' processor time, all together", &|one| {
            format!("{:.2} s", one.costs.envoys.cpu.as_secs_f64())
        }),
        ("relays' memory, all together (Envoys')", &|one| {
            format!("{} MiB ({} MiB)", mib(one.costs.relays.memory), mib(one.costs.envoys.memory))
        }),
        ("commit until all answer", &|one| {
            let longest = one.costs.answered.iter().max().copied().unwrap_or_default();
            format!("{:.1} s", longest.as_secs_f64())
        }),
        ("requests during all acts, lost", &|one| format!("{}, {}", one.report.sent, one.report.lost.len())),
    ];
    let mut text = String::from("| |");
    for model in played.keys() {
        let _ = write!(text, " {} |", model.name());
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(played.len()));
    text.push('\n');
    for (name, cell) in rows {
        let _ = write!(text, "| {name} |");
        for one in played.values() {
            let _ = write!(text, " {} |", cell(one));
        }
        text.push('\n');
    }
    let repeated: Vec<String> =
        played.iter().map(|(model, one)| format!("{} ({})", one.report.repeated, model.name())).collect();
    let _ = writeln!(text, "\nRequests repeated on a new connection: {}.", repeated.join(", "));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_asked_about_configuration_is_told_apart() {
        let line = |id: &str, group: &str, resource: &str| {
            let object = json!({"apiGroup": group, "resource": resource, "namespace": "models-a"});
            let user = json!({"username": "system:serviceaccount:models-a:one-a"});
            json!({"auditID": id, "verb": "watch", "user": user, "objectRef": object}).to_string()
        };
        let lines = [
            line("1", "", "secrets"),
            line("2", "discovery.k8s.io", "endpointslices"),
            line("3", "gateway.networking.k8s.io", "httproutes"),
            line("4", "gateway.envoyproxy.io", "securitypolicies"),
            line("5", "", "services"),
            // The end of a watch that was counted.
            line("3", "gateway.networking.k8s.io", "httproutes"),
        ];
        let asked = asked(&lines);
        let counted: Vec<&str> =
            asked.iter().filter(|(_, one)| one.configures()).map(|(id, _)| id.as_str()).collect();
        assert_eq!(counted, ["3", "4", "5"]);
    }
}
