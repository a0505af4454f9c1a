//! A pod, from the moment that it is bound to a node to its deletion.

use super::board::{Board, Doing};
use super::environment::Asker;
use super::payload::Source;
use super::status::{is_sidecar, status};
use super::supervise::{Again, Supervisor};
use super::volume::Volumes;
use super::{Kubelet, Place};
use crate::cluster::network::Sandbox;
use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Volumes are looked at again at least this often: tokens grow old, and what was missing may be there.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

struct Worker {
    kubelet: Arc<Kubelet>,
    place: Place,
    pod: Arc<Pod>,
    sandbox: Sandbox,
    volumes: Volumes,
    board: Board,
    written: Value,
}

/// The two times at which containers have to stop: first those of the pod, then its sidecars.
struct Stops {
    containers: watch::Sender<Option<Instant>>,
    sidecars: watch::Sender<Option<Instant>>,
}

fn restarts(spec: &PodSpec) -> Again {
    match spec.restart_policy.as_deref() {
        Some("Never") => Again::Never,
        Some("OnFailure") => Again::OnFailure,
        _ => Again::Always,
    }
}

/// Runs it; returns when it is gone.
pub(super) async fn run(
    kubelet: Arc<Kubelet>,
    place: Place,
    pod: Arc<Pod>,
    mut news: watch::Receiver<Option<Arc<Pod>>>,
) -> Result<()> {
    let host = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let sandbox = if host { Sandbox::of_node(place.address) } else { Sandbox::create().await? };
    let folder = kubelet.folder.pod(&pod.uid().unwrap_or_default());
    let volumes = Volumes::new(folder.join("volumes"), &pod);
    let mut worker =
        Worker { kubelet, place, pod, sandbox, volumes, board: Board::new(), written: Value::Null };
    worker.live(&mut news).await;
    worker.volumes.remove();
    let _ = std::fs::remove_dir_all(folder);
    let removed = worker.sandbox.remove().await;
    worker.forget().await?;
    removed
}

impl Worker {
    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.kubelet.client.clone(), &self.pod.namespace().unwrap_or_default())
    }

    async fn lay_volumes(&mut self) -> Result<()> {
        let asker = Asker {
            kubelet: &self.kubelet,
            place: &self.place,
            pod: &self.pod,
            address: self.sandbox.address,
        };
        let field = |path: &str| asker.field(path);
        let source = Source { kubelet: &self.kubelet, pod: &self.pod, field: &field };
        self.volumes.lay(&source).await
    }

    /// Until it is being deleted; ends its containers then.
    async fn live(&mut self, news: &mut watch::Receiver<Option<Arc<Pod>>>) {
        let stops = Stops { containers: watch::channel(None).0, sidecars: watch::channel(None).0 };
        let mut running: Option<JoinHandle<()>> = None;
        let mut board = self.board.changes();
        let mut secrets = self.kubelet.secrets.changes();
        let mut config_maps = self.kubelet.config_maps.changes();
        loop {
            match self.lay_volumes().await {
                Ok(()) if running.is_none() => {
                    running = Some(tokio::spawn(self.containers(&stops).run()));
                }
                Err(error) if running.is_none() => self.explain(&format!("{error:#}")),
                // All is well; or it runs with what it has.
                Ok(()) | Err(_) => {}
            }
            self.report().await;
            let again = tokio::time::sleep(LOOK_AGAIN);
            tokio::select! {
                _ = board.changed() => {}
                _ = secrets.changed() => {}
                _ = config_maps.changed() => {}
                () = again => {}
                news = news.changed() => {
                    if news.is_err() {
                        break;
                    }
                }
            }
            let Some(pod) = news.borrow_and_update().clone() else { break };
            self.pod = pod;
            if self.pod.metadata.deletion_timestamp.is_some() {
                break;
            }
        }
        let grace = self.pod.metadata.deletion_grace_period_seconds.unwrap_or(0).unsigned_abs();
        let deadline = Instant::now() + Duration::from_secs(grace);
        stops.containers.send_replace(Some(deadline));
        let Some(mut running) = running else { return };
        loop {
            tokio::select! {
                _ = &mut running => return,
                _ = board.changed() => {
                    self.report().await;
                    let over = self.pod.spec.as_ref().is_some_and(|spec| {
                        let line = |container: &Container| self.board.get(&container.name).doing;
                        spec.containers.iter().all(|container| !matches!(line(container), Doing::Running(_)))
                    });
                    if over {
                        stops.sidecars.send_replace(Some(deadline));
                    }
                }
            }
        }
    }

    /// Says of all containers why they do not run yet.
    fn explain(&self, message: &str) {
        let spec = self.pod.spec.as_ref();
        for container in spec.into_iter().flat_map(|spec| &spec.containers) {
            let doing = Doing::Waiting("ContainerCreating".to_owned(), message.to_owned());
            self.board.write(&container.name, |line| line.doing = doing);
        }
    }

    async fn report(&mut self) {
        let now = status(&self.pod, &self.place, Some(&self.sandbox), &self.board);
        if now == self.written {
            return;
        }
        // A pod of another life with the same name is not meant.
        let patch = json!({"metadata": {"uid": self.pod.uid()}, "status": now});
        let name = self.pod.name_any();
        if self.api().patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await.is_ok() {
            self.written = now;
        }
    }

    /// Deletes the object, now that nothing is left of it here.
    async fn forget(&self) -> Result<()> {
        let preconditions = Preconditions { uid: self.pod.uid(), ..Preconditions::default() };
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        match self.api().delete(&self.pod.name_any(), &params).await {
            Err(kube::Error::Api(error)) if error.code == 404 || error.code == 409 => Ok(()),
            done => done.map(drop).context("deleting a pod"),
        }
    }

    fn containers(&self, stops: &Stops) -> Containers {
        let first = Supervisor {
            kubelet: Arc::clone(&self.kubelet),
            place: self.place.clone(),
            pod: Arc::clone(&self.pod),
            container: Container::default(),
            sandbox: self.sandbox.clone(),
            volumes: self.volumes.places(),
            board: self.board.clone(),
            stop: stops.containers.subscribe(),
        };
        Containers { pattern: first, sidecars: stops.sidecars.subscribe() }
    }
}

/// All containers of a pod, in their order.
struct Containers {
    pattern: Supervisor,
    sidecars: watch::Receiver<Option<Instant>>,
}

impl Containers {
    fn supervisor(&self, container: &Container, stop: &watch::Receiver<Option<Instant>>) -> Supervisor {
        Supervisor { container: container.clone(), stop: stop.clone(), ..self.pattern.clone() }
    }

    /// Returns when all of them have ended for good.
    async fn run(self) {
        let Some(spec) = self.pattern.pod.spec.clone() else { return };
        let mut tasks = Vec::new();
        for container in spec.init_containers.iter().flatten() {
            if is_sidecar(container) {
                tasks.push(tokio::spawn(self.supervisor(container, &self.sidecars).run(Again::Always)));
                if !self.started(container).await {
                    break;
                }
                continue;
            }
            let again = if restarts(&spec) == Again::Never { Again::Never } else { Again::OnFailure };
            let code = self.supervisor(container, &self.pattern.stop).run(again).await;
            if code != 0 {
                break;
            }
        }
        let ready = spec.init_containers.iter().flatten().all(|container| {
            let line = self.pattern.board.get(&container.name);
            if is_sidecar(container) {
                line.started
            } else {
                matches!(&line.doing, Doing::Ended(end) if end.code == 0)
            }
        });
        if ready && self.pattern.stop.borrow().is_none() {
            for container in &spec.containers {
                tasks.push(tokio::spawn(self.supervisor(container, &self.pattern.stop).run(restarts(&spec))));
            }
        } else {
            // Nothing follows that they could serve.
            for container in &spec.containers {
                self.pattern.board.write(&container.name, |line| line.ready = false);
            }
        }
        for task in tasks {
            let _ = task.await;
        }
    }

    /// Waits until a sidecar has started; false if all has to stop before.
    async fn started(&self, container: &Container) -> bool {
        let mut changes = self.pattern.board.changes();
        let mut stop = self.pattern.stop.clone();
        loop {
            if self.pattern.board.get(&container.name).started {
                return true;
            }
            tokio::select! {
                _ = changes.changed() => {}
                _ = stop.wait_for(Option::is_some) => return false,
            }
        }
    }
}
