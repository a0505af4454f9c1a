//! One container: its process, its probes, its restarts, its end.

use super::board::{Board, Doing, Ended};
use super::environment::{Asker, expand};
use super::probe::{self, Target};
use super::{Kubelet, Place};
use crate::cluster::container::{Bind, Spec};
use crate::cluster::dns;
use crate::cluster::image::Image;
use crate::cluster::inside::say;
use crate::cluster::names::key;
use crate::cluster::network::Sandbox;
use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, Probe};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::Child;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

/// The pause before a container is started again, at first and at most; a run of ten minutes makes it the first again.
const BACK_OFF: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(20)];
const STEADY: Duration = Duration::from_mins(10);

/// When a container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// Always.
    Always,
    /// Unless it ended well.
    OnFailure,
    /// Never.
    Never,
}

/// A container and its surroundings.
#[derive(Clone)]
pub(super) struct Supervisor {
    /// The nodes.
    pub(super) kubelet: Arc<Kubelet>,
    /// Its node.
    pub(super) place: Place,
    /// Its pod.
    pub(super) pod: Arc<Pod>,
    /// What is to run.
    pub(super) container: Container,
    /// Its network.
    pub(super) sandbox: Sandbox,
    /// The pod's volumes.
    pub(super) volumes: BTreeMap<String, PathBuf>,
    /// Where it reports.
    pub(super) board: Board,
    /// When all has to be over, once it has to be.
    pub(super) stop: watch::Receiver<Option<Instant>>,
}

/// Why a run is over.
enum Over {
    Ended(ExitStatus),
    Unhealthy(String),
    Stopped(Instant),
}

fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255)
}

fn signal(process: u32, signal: Signal) {
    if let Some(group) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process_group(group, signal);
    }
}

async fn stopped(stop: &mut watch::Receiver<Option<Instant>>) -> Instant {
    match stop.wait_for(Option::is_some).await {
        Ok(deadline) => deadline.unwrap_or_else(Instant::now),
        Err(_) => Instant::now(),
    }
}

impl Supervisor {
    /// Runs it until it is not to run again; its last exit code.
    pub(super) async fn run(mut self, again: Again) -> i32 {
        let mut pause = BACK_OFF[0];
        loop {
            let began = Timestamp::now();
            let since = Instant::now();
            let child = match self.start().await {
                Ok(child) => child,
                Err(error) => {
                    let message = format!("{error:#}");
                    let reason = if message.starts_with("image ") {
                        "ErrImagePull"
                    } else {
                        "CreateContainerConfigError"
                    };
                    self.write_waiting(reason, &message);
                    if self.wait(BACK_OFF[0]).await.is_some() {
                        return 255;
                    }
                    continue;
                }
            };
            let process = child.id().unwrap_or_default();
            self.board.write(&self.container.name, |line| {
                line.doing = Doing::Running(began);
                line.started = self.container.startup_probe.is_none();
                line.ready = line.started && self.container.readiness_probe.is_none();
            });
            let (code, last) = self.attend(child, process).await;
            let ended = Ended { code, started: began, finished: Timestamp::now() };
            let over = last || again == Again::Never || (again == Again::OnFailure && code == 0);
            self.board.write(&self.container.name, |line| {
                (line.ready, line.started) = (false, false);
                line.before = Some(ended.clone());
                line.doing = if over {
                    Doing::Ended(ended)
                } else {
                    Doing::Waiting("CrashLoopBackOff".to_owned(), format!("it ended with {code}"))
                };
            });
            if over {
                return code;
            }
            say(&format!("{}: container {} ended with {code}", key(&*self.pod), self.container.name));
            if since.elapsed() > STEADY {
                pause = BACK_OFF[0];
            }
            if self.wait(pause).await.is_some() {
                return code;
            }
            pause = (pause * 2).min(BACK_OFF[1]);
            self.board.write(&self.container.name, |line| line.restarts += 1);
        }
    }

    /// Sleeps; some instant if it has to stop meanwhile.
    async fn wait(&mut self, pause: Duration) -> Option<Instant> {
        tokio::select! {
            deadline = stopped(&mut self.stop) => Some(deadline),
            () = tokio::time::sleep(pause) => None,
        }
    }

    fn write_waiting(&self, reason: &str, message: &str) {
        self.board.write(&self.container.name, |line| {
            line.doing = Doing::Waiting(reason.to_owned(), message.to_owned());
        });
    }

    fn spec(&self) -> Result<Spec> {
        let container = &self.container;
        let asker = Asker {
            kubelet: &self.kubelet,
            place: &self.place,
            pod: &self.pod,
            address: self.sandbox.address,
        };
        let reference = container.image.as_deref().unwrap_or_default();
        let image =
            self.kubelet.images.get(reference).with_context(|| format!("image {reference:?} is not here"))?;
        let environment = asker.environment(container)?;
        let expanded = |words: &Option<Vec<String>>| -> Vec<String> {
            words.iter().flatten().map(|word| expand(word, &environment)).collect()
        };
        let mut command = expanded(&container.command);
        if command.is_empty() {
            command.clone_from(&image.entrypoint);
        }
        command.extend(expanded(&container.args));
        let folder = container.working_dir.clone().unwrap_or_else(|| "/".to_owned());
        let pod = self.pod.spec.as_ref().and_then(|spec| spec.security_context.clone()).unwrap_or_default();
        let own = container.security_context.clone().unwrap_or_default();
        let id = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
        let user = id(own.run_as_user).or(id(pod.run_as_user)).unwrap_or(image.user);
        anyhow::ensure!(
            user != 0 || own.run_as_non_root.or(pod.run_as_non_root) != Some(true),
            "the container would run as root, which its security context forbids"
        );
        let group = id(own.run_as_group).or(id(pod.run_as_group)).unwrap_or(0);
        let groups = pod.supplemental_groups.iter().flatten().copied().chain(pod.fs_group);
        Ok(Spec {
            root: self.folder()?.join("root"),
            binds: self.binds(&image, &environment)?,
            files: self.files(user),
            read_only: own.read_only_root_filesystem == Some(true),
            own_network: !self.sandbox.is_of_node(),
            command,
            environment,
            folder,
            user,
            group,
            groups: groups.filter_map(|group| u32::try_from(group).ok()).collect(),
        })
    }

    fn folder(&self) -> Result<PathBuf> {
        let folder = self.kubelet.folder.pod(&self.pod.uid().unwrap_or_default());
        let folder = folder.join("containers").join(&self.container.name);
        std::fs::create_dir_all(folder.join("root"))?;
        Ok(folder)
    }

    fn files(&self, user: u32) -> BTreeMap<String, String> {
        let name = self.pod.name_any();
        let address = self.sandbox.address;
        let users = format!("root:x:0:0::/root:/sbin/nologin\nuser:x:{user}:{user}::/:/sbin/nologin\n");
        BTreeMap::from(
            [
                (
                    "/etc/passwd",
                    if user == 0 { "root:x:0:0::/root:/sbin/nologin\n".to_owned() } else { users },
                ),
                ("/etc/group", "root:x:0:\n".to_owned()),
                ("/etc/hosts", format!("127.0.0.1 localhost\n{address} {name}\n")),
                ("/etc/hostname", format!("{name}\n")),
                ("/etc/resolv.conf", dns::resolver(&self.pod.namespace().unwrap_or_default())),
                ("/etc/nsswitch.conf", "hosts: files dns\n".to_owned()),
            ]
            .map(|(path, text)| (path.to_owned(), text)),
        )
    }

    fn binds(&self, image: &Image, environment: &BTreeMap<String, String>) -> Result<Vec<Bind>> {
        let program = |(target, source): (&String, &PathBuf)| {
            let source = std::fs::canonicalize(source).with_context(|| source.display().to_string())?;
            Ok(Bind { source, target: target.clone(), read_only: true })
        };
        let mut binds: Vec<Bind> = image.files.iter().map(program).collect::<Result<_>>()?;
        for mount in self.container.volume_mounts.iter().flatten() {
            let place = self.volumes.get(&mount.name);
            let mut source = place.with_context(|| format!("no volume {:?}", mount.name))?.clone();
            let part = mount.sub_path_expr.as_ref().map(|part| expand(part, environment));
            if let Some(part) = part.or_else(|| mount.sub_path.clone()) {
                source = source.join(part);
                if !source.exists() {
                    std::fs::create_dir_all(&source)?;
                }
                source = std::fs::canonicalize(source)?;
            }
            let read_only = mount.read_only == Some(true);
            binds.push(Bind { source, target: mount.mount_path.clone(), read_only });
        }
        Ok(binds)
    }

    async fn start(&self) -> Result<Child> {
        let spec = self.spec()?;
        let file = self.folder()?.join("spec.json");
        std::fs::write(&file, serde_json::to_vec(&spec)?)?;
        let mut command = self.sandbox.enter();
        command.args(["--mount", "--"]).arg(&self.kubelet.program).arg("container").arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.process_group(0).kill_on_drop(true).spawn().context("starting a container")?;
        std::fs::write(file.with_file_name("pid"), child.id().unwrap_or_default().to_string())?;
        let log = self.kubelet.folder.container_log(&key(&*self.pod), &self.container.name);
        tokio::fs::create_dir_all(log.parent().context("a parent")?).await?;
        let log = tokio::fs::OpenOptions::new().create(true).append(true).open(log).await?;
        let log = Arc::new(Mutex::new(log));
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(keep(stdout, "stdout", Arc::clone(&log)));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(keep(stderr, "stderr", log));
        }
        Ok(child)
    }

    /// Waits for the end of a run, and brings it about where it has to; whether it was the last.
    async fn attend(&mut self, mut child: Child, process: u32) -> (i32, bool) {
        let target = Target { container: self.container.clone(), address: self.sandbox.address, process };
        let over = {
            let probes = self.probe(&target);
            let mut stop = self.stop.clone();
            tokio::select! {
                status = child.wait() => Over::Ended(status.unwrap_or_else(|_| ExitStatus::from_raw(0xff00))),
                message = probes => Over::Unhealthy(message),
                deadline = stopped(&mut stop) => Over::Stopped(deadline),
            }
        };
        let (code, last) = match over {
            Over::Ended(status) => (code(status), false),
            Over::Unhealthy(message) => {
                say(&format!("{}: {message}", key(&*self.pod)));
                let grace = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
                let grace = Duration::from_secs(grace.unwrap_or(30).unsigned_abs());
                (self.end(&mut child, &target, Instant::now() + grace).await, false)
            }
            Over::Stopped(deadline) => (self.end(&mut child, &target, deadline).await, true),
        };
        // What it started goes with it.
        signal(process, Signal::KILL);
        (code, last)
    }

    async fn end(&self, child: &mut Child, target: &Target, deadline: Instant) -> i32 {
        self.board.write(&self.container.name, |line| line.ready = false);
        let hook = self.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        if let Some(hook) = hook {
            let _ = tokio::time::timeout_at(deadline, run_hook(hook, target)).await;
        }
        signal(target.process, Signal::TERM);
        if let Ok(Ok(status)) = tokio::time::timeout_at(deadline, child.wait()).await {
            return code(status);
        }
        signal(target.process, Signal::KILL);
        child.wait().await.map_or(137, code)
    }

    /// Probes it as long as it runs; returns only if it has to be started again.
    async fn probe(&self, target: &Target) -> String {
        let name = &self.container.name;
        if let Some(startup) = &self.container.startup_probe {
            let deadline = Instant::now() + probe::grace(startup);
            tokio::time::sleep(probe::delay(startup)).await;
            while let Err(error) = target.ask(startup).await {
                if Instant::now() > deadline {
                    return format!("container {name} did not start: {error:#}");
                }
                tokio::time::sleep(probe::period(startup, false)).await;
            }
            self.board.write(name, |line| {
                line.started = true;
                line.ready = self.container.readiness_probe.is_none();
            });
        }
        tokio::select! {
            message = self.probe_life(target) => message,
            () = self.probe_readiness(target) => std::future::pending().await,
        }
    }

    async fn probe_life(&self, target: &Target) -> String {
        let Some(probe) = &self.container.liveness_probe else { return std::future::pending().await };
        tokio::time::sleep(probe::delay(probe)).await;
        let mut failures = 0;
        loop {
            tokio::time::sleep(probe::period(probe, true)).await;
            failures = match target.ask(probe).await {
                Ok(()) => 0,
                Err(error) if failures + 1 >= probe.failure_threshold.unwrap_or(3) => {
                    return format!("container {} is not alive: {error:#}", self.container.name);
                }
                Err(_) => failures + 1,
            };
        }
    }

    async fn probe_readiness(&self, target: &Target) {
        let Some(probe) = &self.container.readiness_probe else { return std::future::pending().await };
        tokio::time::sleep(probe::delay(probe)).await;
        let (mut good, mut bad, mut ready) = (0, 0, false);
        loop {
            (good, bad) = if target.ask(probe).await.is_ok() { (good + 1, 0) } else { (0, bad + 1) };
            let passes = good >= probe.success_threshold.unwrap_or(1);
            if passes || bad >= probe.failure_threshold.unwrap_or(3) {
                ready = passes;
                self.board.write(&self.container.name, |line| line.ready = ready);
            }
            tokio::time::sleep(probe::period(probe, ready)).await;
        }
    }
}

async fn run_hook(hook: &LifecycleHandler, target: &Target) {
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.unsigned_abs())).await;
    }
    let mut probe = Probe { timeout_seconds: Some(3600), ..Probe::default() };
    probe.exec.clone_from(&hook.exec);
    probe.http_get.clone_from(&hook.http_get);
    if probe.exec.is_some() || probe.http_get.is_some() {
        // As on a real node, a hook that fails holds up nothing.
        let _ = target.ask(&probe).await;
    }
}

/// Keeps each line with its time.
async fn keep(from: impl AsyncRead + Unpin, stream: &str, log: Arc<Mutex<tokio::fs::File>>) {
    let mut lines = BufReader::new(from).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let mut kept = format!("{} {stream} F ", Timestamp::now()).into_bytes();
        kept.extend(line);
        kept.push(b'\n');
        let mut log = log.lock().await;
        if log.write_all(&kept).await.is_err() || log.flush().await.is_err() {
            return;
        }
    }
}
