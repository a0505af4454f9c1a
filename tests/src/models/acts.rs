//! What operators do, each act while requests flow.

use super::load::{Load, Report};
use super::source::{EXTRA_PORT, FIRST, RELAYS, SECOND, Source, Tenant};
use super::stage::{Plan, Stage};
use super::table::{Costs, Gauge};
use super::{Model, Through, tenancy};
use crate::{program, wait};
use anyhow::{Context as _, Result, ensure};
use std::time::{Duration, Instant};

/// Something that an operator does, or that happens to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A route leads to another backend, by a snapshot.
    Route,
    /// The backend's pod is replaced by another.
    Pod,
    /// Certificates are renewed.
    Certificate,
    /// What the first fleet has is nothing to the second: what relays hold, ask the store for and read.
    Apart,
    /// Relays are replaced by those of another version.
    Relay,
    /// Envoy's next minor.
    Envoy,
    /// Back to the release before, with neither repository nor CI, and forward again.
    Rollback,
    /// The store is gone, and all pods of a node are replaced by new ones with empty disks.
    StoreGone,
    /// The API server is gone, and a route is changed.
    ApiServerGone,
    /// A listener with a port of its own.
    Port,
    /// The second Gateway goes.
    Delete,
    /// To another model, by this way, and what the old one had is removed.
    Move(Model, Through),
}

/// What every run of all suites does.
pub const SHORT: &[Act] = &[Act::Route, Act::Certificate, Act::Apart, Act::Relay];
/// All acts on one model.
pub const WHOLE: &[Act] = &[
    Act::Route,
    Act::Pod,
    Act::Certificate,
    Act::Apart,
    Act::Relay,
    Act::Envoy,
    Act::Rollback,
    Act::StoreGone,
    Act::ApiServerGone,
    Act::Port,
    Act::Delete,
];
/// From each model to each other one, from the sidecar on, and to each by the chart and by kustomize.
pub const MOVES: &[Act] = &[
    Act::Move(Model::Pool, Through::Chart),
    Act::Move(Model::Node, Through::Overlay),
    Act::Move(Model::Sidecar, Through::Overlay),
    Act::Move(Model::Node, Through::Chart),
    Act::Move(Model::Pool, Through::Overlay),
    Act::Move(Model::Sidecar, Through::Chart),
];

impl Act {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Route => "route changed by snapshot",
            Self::Pod => "pod moved",
            Self::Certificate => "certificate rotated",
            Self::Apart => "each fleet for itself",
            Self::Relay => "relay upgraded",
            Self::Envoy => "Envoy upgraded by one minor",
            Self::Rollback => "rollback by pin without git and CI",
            Self::StoreGone => "store gone, node replaced",
            Self::ApiServerGone => "API server gone",
            Self::Port => "listener port added",
            Self::Delete => "Gateway deleted",
            Self::Move(Model::Sidecar, _) => "moved to sidecar",
            Self::Move(Model::Pool, _) => "moved to pool",
            Self::Move(Model::Node, _) => "moved to node",
        }
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Played {
    /// Requests that were sent, and those that were lost.
    pub report: Report,
    /// What the model cost.
    pub costs: Costs,
    /// The acts, and how long each took.
    pub acts: Vec<(Act, Duration)>,
}

/// A model that runs.
struct Play<'s> {
    stage: &'s Stage,
    load: &'s Load,
    gauge: Gauge,
    plan: Plan,
    source: Source,
}

/// Deploys a model and does all acts while requests flow; removes it again.
pub fn play(stage: &Stage, model: Model, acts: &[Act], say: impl Fn(&str) + Sync) -> Result<Played> {
    let envoys = program::envoys()?;
    let older = envoys.get(1).or(envoys.first()).context("an Envoy")?.0.clone();
    let plan = Plan { model, through: model.through(), envoy: older, upgraded: false };
    let gauge = Gauge::begin(stage);
    let source = Source::first();
    stage.publish(&source)?;
    stage.certify(&plan)?;
    let rendered = stage.render(&plan)?;
    say(&format!("deployed by {}", plan.through.name()));
    stage.cluster.apply(&rendered)?;
    stage.settled().context("the first roll-out")?;
    stage.until(&[FIRST, SECOND], "blue")?;
    say("Gateways served");
    let load = Load::default();
    let lanes = stage.lanes(&[FIRST, SECOND])?;
    let mut play = Play { stage, load: &load, gauge, plan, source };
    play.gauge.objects(&rendered)?;
    let (took, report) = std::thread::scope(|scope| {
        let running = scope.spawn(|| load.run(&stage.cluster, &lanes));
        let played = play.acts(acts, &say);
        load.stop();
        let ran = running.join().map_err(|_| anyhow::anyhow!("the load panicked"));
        played.and_then(|took| ran?.map(|()| (took, load.report())))
    })?;
    let costs = play.gauge.costs();
    play.remove()?;
    Ok(Played { report, costs, acts: took })
}

impl Play<'_> {
    fn acts(&mut self, acts: &[Act], say: &impl Fn(&str)) -> Result<Vec<(Act, Duration)>> {
        let mut took = Vec::new();
        for act in acts {
            let begin = Instant::now();
            let before = self.load.report();
            self.load.during(act.name());
            self.act(*act).with_context(|| format!("{}: {}", self.plan.model.name(), act.name()))?;
            let now = self.load.report();
            took.push((*act, begin.elapsed()));
            say(&format!(
                "{}: {:.1} s, {} requests so far, {} lost, {} repeated",
                act.name(),
                begin.elapsed().as_secs_f64(),
                now.sent,
                now.lost.len() - before.lost.len(),
                now.repeated - before.repeated
            ));
        }
        Ok(took)
    }

    fn tenants(&self) -> Vec<Tenant> {
        self.source.tenants.clone()
    }

    fn act(&mut self, act: Act) -> Result<()> {
        match act {
            Act::Route => self.route(),
            Act::Pod => self.pod(),
            Act::Certificate => self.certificate(),
            Act::Apart => self.apart(),
            Act::Relay => self.relay(),
            Act::Envoy => {
                let newest = program::envoys()?.first().context("an Envoy")?.0.clone();
                ensure!(newest != self.plan.envoy, "there is one minor only");
                self.plan.envoy = newest;
                self.roll_out()
            }
            Act::Rollback => self.rollback(),
            Act::StoreGone => self.store_gone(),
            Act::ApiServerGone => self.api_server_gone(),
            Act::Port => self.port(),
            Act::Delete => self.delete(),
            Act::Move(model, through) => self.move_to(model, through),
        }
    }

    fn roll_out(&self) -> Result<()> {
        self.stage.cluster.apply(&self.stage.render(&self.plan)?)?;
        self.stage.settled()?;
        self.stage.until(&self.tenants(), self.source.backend)
    }

    fn turn(&mut self) -> Result<()> {
        self.source.backend = if self.source.backend == "blue" { "green" } else { "blue" };
        self.stage.publish(&self.source)
    }

    fn route(&mut self) -> Result<()> {
        let committed = Instant::now();
        self.turn()?;
        self.stage.until(&self.tenants(), self.source.backend)?;
        self.gauge.answered(committed.elapsed());
        Ok(())
    }

    fn pod(&self) -> Result<()> {
        let before = self.stage.containers("echo")?;
        for tenant in self.tenants() {
            self.stage.restart(tenant.namespace, self.source.backend)?;
        }
        self.stage.settled()?;
        let after = self.stage.containers("echo")?;
        let moved = after.iter().filter(|one| !before.contains(one)).count();
        ensure!(moved == self.tenants().len(), "{moved} pods moved: {after:?}");
        self.stage.until(&self.tenants(), self.source.backend)
    }

    fn certificate(&self) -> Result<()> {
        for tenant in self.tenants() {
            self.stage.renew(tenant)?;
        }
        // Asked by a client that trusts the new certificate alone.
        self.stage.until(&self.tenants(), self.source.backend)
    }

    /// Of each relay: which fleets it has, by its own metrics and by what it asked the store for; and what its account could
    /// read.
    fn apart(&mut self) -> Result<()> {
        let (model, seen) = (self.plan.model, self.stage.tap.clients());
        let relays = self.stage.containers("relay")?;
        ensure!(!relays.is_empty(), "no relays");
        for relay in &relays {
            let address = relay.address.context("an address")?;
            let own: Vec<String> = match model {
                Model::Sidecar => {
                    [FIRST, SECOND].into_iter().filter(|one| one.namespace == relay.namespace).collect()
                }
                Model::Pool => {
                    let of = |one: &Tenant| relay.pod.starts_with(&format!("{}-", one.class));
                    [FIRST, SECOND].into_iter().filter(of).collect::<Vec<_>>()
                }
                Model::Node => {
                    let of = |one: &Tenant| one.node.is_none_or(|node| node == relay.node);
                    [FIRST, SECOND].into_iter().filter(of).collect()
                }
            }
            .into_iter()
            .map(Tenant::fleet)
            .collect();
            ensure!(!own.is_empty(), "a relay of nobody: {relay:?}");
            let metrics = self.stage.metrics(address)?;
            let asked = seen.get(&address).map(|seen| seen.fleets.clone()).unwrap_or_default();
            for tenant in [FIRST, SECOND] {
                let (fleet, wanted) = (tenant.fleet(), own.contains(&tenant.fleet()));
                let held = metrics.contains(&format!("fleet=\"{fleet}\""));
                ensure!(held == wanted, "{} on {} has {fleet}: {held}", relay.pod, relay.node);
                ensure!(
                    asked.contains(&fleet) == wanted,
                    "{} on {} asked for {asked:?}",
                    relay.pod,
                    relay.node
                );
            }
        }
        self.gauge.readers(self.stage, model)?;
        self.gauge.costs().hold(model)?;
        tenancy::rights(self.stage, model)
    }

    /// All relays are another program afterwards, in pods that are new.
    fn relay(&mut self) -> Result<()> {
        let before = self.stage.containers("relay")?;
        self.plan.upgraded = !self.plan.upgraded;
        self.roll_out()?;
        let wanted = self.stage.program(&self.plan);
        let version = format!("version=\"{}\"", wanted.version);
        let after = self.stage.containers("relay")?;
        ensure!(!after.is_empty(), "no relays");
        for relay in &after {
            ensure!(before.iter().all(|one| one.uid != relay.uid), "{} was not replaced", relay.pod);
            ensure!(relay.image.ends_with(&format!(":{}", wanted.tag)), "{} runs {}", relay.pod, relay.image);
            let metrics = self.stage.metrics(relay.address.context("an address")?)?;
            let info = metrics.lines().find(|line| line.starts_with("moorgate_relay_info"));
            let said = info.is_some_and(|line| line.contains(&version));
            ensure!(said, "{}: {info:?}, and not {version}", relay.pod);
        }
        Ok(())
    }

    fn rollback(&mut self) -> Result<()> {
        let good = self.source.backend;
        self.turn()?;
        self.stage.until(&self.tenants(), self.source.backend)?;
        // There is nothing that could be compiled, and nobody who would.
        self.stage.lose_repository()?;
        for tenant in self.tenants() {
            self.stage.act(&["rollback", &tenant.fleet(), "--reason", "it answers wrong"])?;
        }
        self.stage.until(&self.tenants(), good)?;
        // The change is taken back in the repository too, and the pins end.
        self.source.backend = good;
        for (fleet, snapshot) in self.stage.snapshots(&self.source)? {
            self.stage.act(&["unpin", &fleet, "--to", &snapshot])?;
        }
        self.stage.until(&self.tenants(), good)
    }

    fn store_gone(&self) -> Result<()> {
        let before = self.stage.containers("relay")?;
        self.stage.tap.cut(true);
        let replaced = self.replace_node("node-1");
        let answered = replaced.and_then(|()| self.stage.until(&self.tenants(), self.source.backend));
        self.stage.tap.cut(false);
        answered?;
        // Who has nothing on disk asks the first store first.
        let seen = self.stage.tap.clients();
        let relays = self.stage.containers("relay")?;
        let new = relays.iter().filter(|one| before.iter().all(|old| old.uid != one.uid));
        let new: Vec<_> = new.collect();
        ensure!(!new.is_empty(), "no relay was replaced");
        for relay in new {
            let of_it = relay.address.and_then(|address| seen.get(&address));
            ensure!(of_it.is_some_and(|seen| seen.refused > 0), "the store was not gone for {}", relay.pod);
        }
        Ok(())
    }

    /// All of our pods on a node, one after the other, as who drains a node does: new ones begin with empty disks.
    fn replace_node(&self, node: &str) -> Result<()> {
        for name in ["relay", "envoy"] {
            let containers = self.stage.containers(name)?;
            for container in containers.iter().filter(|one| one.node == node) {
                self.stage.evict(container)?;
                self.stage.settled()?;
            }
        }
        Ok(())
    }

    fn api_server_gone(&mut self) -> Result<()> {
        let tenants = self.tenants();
        // Addresses are known by then: who asks for them asks the API server.
        let targets: Vec<_> = tenants
            .iter()
            .map(|tenant| Ok((*tenant, self.stage.plain(*tenant, 80)?)))
            .collect::<Result<_>>()?;
        self.stage.cluster.stop_api_server()?;
        let changed = self.turn().and_then(|()| {
            targets
                .iter()
                .try_for_each(|(tenant, target)| self.stage.until_at(target, *tenant, self.source.backend))
        });
        self.stage.cluster.start_api_server()?;
        changed?;
        self.stage.settled()
    }

    /// Envoys listen before the Service leads there, and no pod is replaced.
    fn port(&mut self) -> Result<()> {
        let pods = |stage: &Stage| -> Result<Vec<String>> {
            let mut all: Vec<String> = stage.containers("envoy")?.into_iter().map(|one| one.uid).collect();
            all.sort();
            Ok(all)
        };
        let before = pods(self.stage)?;
        self.source.extra = true;
        self.stage.publish(&self.source)?;
        self.roll_out()?;
        for tenant in self.tenants() {
            let target = self.stage.plain(tenant, EXTRA_PORT)?;
            self.stage.until_at(&target, tenant, self.source.backend)?;
        }
        ensure!(pods(self.stage)? == before, "a listener replaced pods");
        Ok(())
    }

    /// All objects of the Gateway go, and of its class where the class had some; the other one keeps all that it has.
    fn delete(&mut self) -> Result<()> {
        let node = self.plan.model == Model::Node;
        let (kept, gone) = (self.belongings(FIRST)?, self.belongings(SECOND)?);
        for kind in ["Deployment", "Service", "ConfigMap", "ServiceAccount", "Role", "NetworkPolicy"] {
            let begin = format!("{kind} ");
            ensure!(gone.iter().any(|one| one.starts_with(&begin)), "there was no {kind}: {gone:?}");
        }
        ensure!(!node || tenancy::is_member(self.stage, SECOND)?, "its Envoys were let in by nobody");
        self.load.close(&SECOND.fleet());
        self.source.tenants.retain(|tenant| *tenant != SECOND);
        self.stage.publish(&self.source)?;
        self.stage.act(&["retire", &SECOND.fleet(), "--reason", "its Gateway is gone"])?;
        self.roll_out()?;
        self.stage.prune(&self.plan)?;
        self.stage.settled()?;
        let left = self.stage.containers("envoy")?;
        ensure!(left.iter().all(|one| one.namespace == FIRST.namespace), "{left:?}");
        wait::until("the end of its objects", || {
            let left = self.belongings(SECOND)?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })?;
        let left = self.belongings(FIRST)?;
        ensure!(left == kept, "{left:?} is left of {kept:?}");
        if node {
            ensure!(!tenancy::is_member(self.stage, SECOND)?, "its Envoys would be let in");
            ensure!(tenancy::is_member(self.stage, FIRST)?, "those of the other are not let in");
        }
        Ok(())
    }

    fn belongings(&self, tenant: Tenant) -> Result<Vec<String>> {
        tenancy::belongings(self.stage, tenant)
    }

    /// Both models' relays run for a while; what the old one had goes last.
    fn move_to(&mut self, model: Model, through: Through) -> Result<()> {
        (self.plan.model, self.plan.through) = (model, through);
        self.roll_out()?;
        self.stage.prune(&self.plan)?;
        self.stage.settled()?;
        self.stage.until(&self.tenants(), self.source.backend)
    }

    /// Nothing of it is left for the next one.
    fn remove(&mut self) -> Result<()> {
        self.stage.remove()?;
        let left: Vec<_> = self.stage.list("/apis/apps/v1", "daemonsets")?;
        ensure!(left.is_empty(), "{RELAYS}: {left:?}");
        Ok(())
    }
}
