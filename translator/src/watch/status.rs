//! Writing status: whatever differs from what it should be, object by object.
//!
//! ```text
//! Turn (verdicts) ─┐
//! acknowledgements ┼─▶ desired ─▶ merge with what stands ─▶ patch with resourceVersion ─▶ conflict: merged again
//! Services ────────┘                                                                     when the watch shows it
//! ```
//! A write names the version that it was merged with, so that it overwrites nobody; it is made only if the object is
//! still of the generation that was compiled. Nothing is written if nothing changes. Objects wait in the order in which
//! they changed, and only so many are written at one time.

mod address;
mod desired;
mod features;
mod merge;
mod stored;
mod work;

use super::acks::Acks;
use super::meter::{STATUS_WAITING, STATUS_WRITES};
use super::release::{Held, Released, Seams};
use super::stored::Results;
use super::turn::Turn;
use super::{Shared, lock};
use crate::source::cluster::{Kind, Live, answer, is_missing};
use desired::{Facts, desired, desired_of_stored, serving, waits};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use merge::Writer;
use moorgate_model::ObjectRef;
use moorgate_snapshot::FleetName;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
pub(super) use work::Work;

/// Writes at one time.
const PARALLEL: usize = 8;
/// The name under which fields are managed.
const MANAGER: &str = "moorgate";
/// Writes status.
pub(super) struct StatusWriter {
    pub(super) shared: Arc<Shared>,
    pub(super) client: Client,
    pub(super) seams: Seams,
    pub(super) provisions: bool,
    pub(super) turns: watch::Receiver<Option<Arc<Turn>>>,
    pub(super) acks: watch::Receiver<Acks>,
    pub(super) released: watch::Receiver<Released>,
    pub(super) held: watch::Receiver<Held>,
    pub(super) leads: watch::Receiver<bool>,
    pub(super) touched: mpsc::UnboundedReceiver<ObjectRef>,
    /// Fleets whose relays somebody waits for.
    pub(super) awaited_fleets: watch::Sender<BTreeSet<FleetName>>,
    pub(super) work: Work,
    /// The compile whose verdicts were looked at last.
    pub(super) judged: Option<Arc<Turn>>,
    /// What others have published, if this program does not: then nothing else is said.
    pub(super) results: Option<watch::Receiver<Results>>,
    /// What the objects of [`judged`](Self::judged) say, where that is compared.
    pub(super) contents: BTreeMap<ObjectRef, String>,
}

/// How a write ended.
enum End {
    Done(Box<Live>),
    /// Somebody was faster: the object is not what it was at this version, or gone.
    Conflict(Arc<str>),
    Failed(String),
}

impl StatusWriter {
    fn count(&self, result: &str) {
        self.shared.meter.count(STATUS_WRITES, &[("result", result)]);
    }

    /// Writes as long as the loop lives.
    pub(super) async fn run(mut self) {
        let mut writes: JoinSet<(ObjectRef, End)> = JoinSet::new();
        loop {
            self.begin(&mut writes);
            let due = self.work.next();
            tokio::select! {
                changed = self.turns.changed() => if changed.is_err() { return } else { self.judged_anew() },
                changed = self.leads.changed() => if changed.is_err() { return } else { self.all() },
                changed = self.acks.changed() => if changed.is_err() { return } else { self.waiting() },
                changed = self.released.changed() => if changed.is_err() { return } else { self.waiting() },
                changed = changed(&mut self.results) => if changed { self.all() } else { return },
                changed = self.held.changed() => if changed.is_err() { return } else { self.held_back() },
                touched = self.touched.recv() => match touched {
                    Some(reference) => {
                        self.touch(reference);
                        while let Ok(more) = self.touched.try_recv() {
                            self.touch(more);
                        }
                    }
                    None => return,
                },
                Some(ended) = writes.join_next() => if let Ok((reference, end)) = ended {
                    self.end(reference, end);
                },
                () = super::turn::sleep_until(due), if writes.len() < PARALLEL => {}
            }
        }
    }

    /// Everything may be different.
    fn all(&mut self) {
        self.judged = None;
        self.judged_anew();
    }

    /// There is a new compile: whatever it judges differently may have to be written, and what waits for Envoys.
    fn judged_anew(&mut self) {
        let Some(turn) = self.turns.borrow_and_update().clone() else { return };
        self.work.awaited.note(&turn);
        let before = self.judged.replace(turn.clone());
        if self.results.is_some() {
            self.contents = stored::contents(&turn);
        }
        let same = |reference: &ObjectRef| {
            before.as_ref().is_some_and(|before| {
                before.compiled.get(reference) == turn.compiled.get(reference)
                    && before.compilation.statuses.get(reference) == turn.compilation.statuses.get(reference)
            })
        };
        let objects = lock(&self.shared.objects);
        let ours = objects.iter().filter(|live| !live.reference.group.is_empty());
        let names: Vec<ObjectRef> =
            ours.map(|live| &live.reference).filter(|name| !same(name)).cloned().collect();
        drop(objects);
        names.into_iter().for_each(|name| self.work.add(name));
        self.waiting();
    }

    /// What waits for relays may be different.
    fn waiting(&mut self) {
        self.acks.mark_unchanged();
        let names: Vec<ObjectRef> = self.work.waiting.keys().cloned().collect();
        names.into_iter().for_each(|name| self.work.add(name));
    }

    /// Fleets are held back that were not, or the other way round.
    fn held_back(&mut self) {
        self.held.mark_unchanged();
        let objects = lock(&self.shared.objects);
        let gateways = objects.of_kind(crate::attach::GATEWAY_GROUP, "Gateway");
        let names: Vec<ObjectRef> = gateways.map(|live| live.reference.clone()).collect();
        drop(objects);
        names.into_iter().for_each(|name| self.work.add(name));
    }

    /// One object is different, or the Gateway that it is the Service of.
    fn touch(&mut self, reference: ObjectRef) {
        if reference.group.is_empty() {
            if &*reference.kind == "Service" {
                let objects = lock(&self.shared.objects);
                let gateways = objects.of_kind(crate::attach::GATEWAY_GROUP, "Gateway");
                // That of a merged class lies elsewhere.
                let turn = self.turns.borrow().clone();
                let near = gateways.filter(|live| {
                    live.reference.namespace == reference.namespace
                        || turn.as_ref().is_some_and(|turn| {
                            matches!(super::fleet_of(&live.reference, turn), FleetName::Class { .. })
                        })
                });
                let near: Vec<ObjectRef> = near.map(|live| live.reference.clone()).collect();
                drop(objects);
                near.into_iter().for_each(|gateway| self.work.add(gateway));
            }
            return;
        }
        self.work.add(reference);
    }

    /// Starts writes of objects that need one, as many as may be.
    fn begin(&mut self, writes: &mut JoinSet<(ObjectRef, End)>) {
        if !*self.leads.borrow() {
            self.work.clear();
            return;
        }
        let Some(turn) = self.turns.borrow().clone() else { return };
        let now = Instant::now();
        while writes.len() < PARALLEL {
            let Some(reference) = self.work.due(now) else { break };
            let Some((live, patch, verdict)) = self.difference(&turn, &reference) else {
                self.work.take(&reference);
                continue;
            };
            if self.work.is_fought_over(&reference, &verdict, now) {
                self.count("fought_over");
                tracing::warn!(object = %reference, "somebody undoes what is written to its status: written rarely from now on");
                continue;
            }
            self.work.take(&reference);
            self.work.writing.insert(reference.clone());
            let client = self.client.clone();
            writes.spawn(async move { (reference, write(client, &live, patch).await) });
        }
        self.tell_awaited();
    }

    fn tell_awaited(&self) {
        self.shared.meter.set(STATUS_WAITING, &[], self.work.waiting.len());
        let fleets: BTreeSet<FleetName> = self.work.waiting.values().cloned().collect();
        self.awaited_fleets.send_if_modified(|known| {
            let changed = *known != fleets;
            *known = fleets;
            changed
        });
    }

    /// What has to be written of an object, and what it says then.
    fn difference(
        &mut self,
        turn: &Turn,
        reference: &ObjectRef,
    ) -> Option<(Arc<Live>, Map<String, Value>, Value)> {
        let objects = lock(&self.shared.objects);
        let Some(live) = objects.get(reference).cloned() else {
            self.work.forget(reference);
            return None;
        };
        // One that changed since is compiled again in a moment; one that is new, too.
        let (uid, generation) = turn.compiled.get(reference)?;
        if *uid != live.uid || *generation != live.generation {
            return None;
        }
        let (acks, released, held) = (self.acks.borrow(), self.released.borrow(), self.held.borrow());
        let facts = Facts {
            turn,
            objects: &objects,
            acks: &acks,
            released: &released,
            held: &held,
            provisions: self.provisions,
        };
        let wanted = match &self.results {
            Some(results) => {
                let results = results.borrow();
                let facts = stored::Facts { results: &results, acks: &acks, contents: &self.contents };
                desired_of_stored(&live, (&*objects, self.provisions), turn, &facts)?
            }
            None => desired(&live, &facts, &self.work.awaited)?,
        };
        match serving(reference, turn).filter(|_| waits(&wanted)) {
            Some(fleet) => drop(self.work.waiting.insert(reference.clone(), fleet)),
            None => drop(self.work.waiting.remove(reference)),
        }
        let now = crate::watch::timestamp((self.seams.now)());
        let controller_name = turn.compilation.statuses.controller_name();
        let writer = Writer { controller_name, generation: live.generation, now: &now };
        let changes = merge::changes(&live.status, &wanted, writer)?;
        Some((live, changes, wanted))
    }

    fn end(&mut self, reference: ObjectRef, end: End) {
        self.work.writing.remove(&reference);
        match end {
            End::Done(live) => {
                self.count("written");
                self.shared.refresh(*live);
                // What changed while it was written.
                self.work.add(reference);
            }
            End::Conflict(version) => {
                self.count("conflict");
                // The watch brings what stands now, if it has not yet: until then it would be the same conflict again.
                let known = lock(&self.shared.objects).get(&reference).cloned();
                if known.is_some_and(|known| known.resource_version != version) {
                    self.work.add(reference);
                }
            }
            End::Failed(why) => {
                self.count("failed");
                let again = self.work.again(reference.clone());
                tracing::warn!(object = %reference, why, again = again.as_secs_f32(), "its status was not written");
            }
        }
    }
}

/// Others have published something; false if nobody can say so any more.
async fn changed(results: &mut Option<watch::Receiver<Results>>) -> bool {
    match results {
        Some(results) => results.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}

/// Writes the fields that changed, if the object is still as it was read.
async fn write(client: Client, live: &Live, changes: Map<String, Value>) -> End {
    let reference = &live.reference;
    let resource = resource_of(live);
    let api: Api<DynamicObject> = if reference.namespace.is_empty() {
        Api::all_with(client, &resource)
    } else {
        Api::namespaced_with(client, &reference.namespace, &resource)
    };
    let patch = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"resourceVersion": &*live.resource_version, "uid": &*live.uid},
        "status": changes,
    });
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let what = || format!("a write of the status of {reference}");
    let kind = Kind { resource, namespaced: !reference.namespace.is_empty(), lasting: true };
    let live_of = |object| Live::of(object, &kind).map(Box::new);
    match answer(what, api.patch_subresource("status", &reference.name, &params, &Patch::Merge(&patch))).await
    {
        Ok(object) => {
            live_of(object).map_or_else(|| End::Failed("the answer is no object".to_owned()), End::Done)
        }
        Err(crate::source::cluster::ClusterError::Api { source, .. })
            if is_missing(&source) || is_conflict(&source) =>
        {
            End::Conflict(live.resource_version.clone())
        }
        Err(error) => End::Failed(error.to_string()),
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

fn resource_of(live: &Live) -> ApiResource {
    let gvk = GroupVersionKind::gvk(&live.reference.group, &live.version, &live.reference.kind);
    ApiResource::from_gvk_with_plural(&gvk, &live.plural)
}
