//! The relay as a process: signals, upgrades, and replicas that nobody can tell apart.

use crate::client::{ADS_DELTA, ADS_WORLD, Delta, World, channel};
use crate::relay::{Place, eventually, take, world};
use moorgate_relay::serve::proto::{DeltaDiscoveryRequest, Node};
use moorgate_relay::serve::types::{CLUSTER, ENDPOINT, LISTENER, SECRET};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

/// A relay that ends with this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn start(place: &Place, name: &str) -> Self {
        Self(command(place, name).spawn().unwrap())
    }

    /// Waits for its end; the exit code.
    fn end(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed().as_secs() < 30, "the relay does not end");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap().success());
}

fn socket(place: &Place, name: &str) -> PathBuf {
    place.path(&format!("{name}.sock"))
}

fn command(place: &Place, name: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moorgate-relay"));
    let store = place.path("store");
    command.args(["--store", &format!("file://{}", store.display()), "--fleet", "shop/edge", "--name", name]);
    command
        .arg("--trust")
        .arg(place.path("trust.pem"))
        .arg("--cache")
        .arg(place.path(&format!("cache-{name}")));
    command.arg("--listen").arg(format!("unix:{}", socket(place, name).display()));
    command.arg("--endpoints").arg(place.path("endpoints")).arg("--secrets").arg(place.path("secrets"));
    command.args(["--poll-interval", "1s", "--drain", "200ms", "--log", "warn"]);
    command.stdin(Stdio::null());
    command
}

/// A stream, as soon as the socket is there.
async fn envoy(socket: &Path, node: &str) -> Delta {
    let start = Instant::now();
    loop {
        if let Ok(channel) = channel(socket).await
            && let Ok(stream) = Delta::open(channel, ADS_DELTA, node).await
        {
            return stream;
        }
        assert!(start.elapsed().as_secs() < 20, "no relay at {}", socket.display());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// What an Envoy holds, by type: names and versions.
type Held = BTreeMap<String, BTreeMap<String, String>>;

/// Takes all there is, and what it is then.
async fn hold(envoy: &mut Delta) -> Held {
    let mut held = Held::new();
    for response in take(envoy).await {
        let of = held.entry(response.type_url).or_default();
        of.extend(response.resources.into_iter().map(|resource| (resource.name, resource.version)));
    }
    held
}

/// Reconnects with what is held, as Envoy does; how many resources of each type come again.
async fn resume(envoy: &mut Delta, held: &Held) -> BTreeMap<String, usize> {
    let mut again: BTreeMap<String, usize> = BTreeMap::new();
    for (number, (type_url, names)) in
        [(CLUSTER, &[][..]), (ENDPOINT, &["cart-endpoints"]), (SECRET, &["shop-tls"]), (LISTENER, &[])]
            .iter()
            .enumerate()
    {
        let request = DeltaDiscoveryRequest {
            node: (number == 0).then(|| Node { id: "e".into(), ..Node::default() }),
            type_url: (*type_url).into(),
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            initial_resource_versions: held.get(*type_url).cloned().unwrap_or_default(),
            ..Default::default()
        };
        envoy.send(request);
    }
    // Whatever comes of it, this is answered after it.
    envoy.ask("type.googleapis.com/the.End", &["end"]);
    loop {
        let response = envoy.response().await;
        if response.type_url.ends_with("the.End") {
            return again;
        }
        *again.entry(response.type_url.clone()).or_default() += response.resources.len();
        assert!(response.removed_resources.is_empty());
        envoy.ack(&response);
    }
}

/// Two relays that never met, with caches of their own, say the same of the same: an Envoy that comes from one to the other
/// gets nothing again, its endpoints apart, which Envoy wants again (envoy #22418).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconnect_other_replica_same_digest() {
    let mut place = Place::new();
    place.publisher.publish(world("1")).await;
    let (mut first, _second) = (Process::start(&place, "one"), Process::start(&place, "two"));
    let mut on_first = envoy(&socket(&place, "one"), "e").await;
    let held = hold(&mut on_first).await;
    assert_eq!(held.keys().collect::<Vec<_>>(), [CLUSTER, ENDPOINT, LISTENER, SECRET]);
    let mut version = Vec::new();
    for name in ["one", "two"] {
        let _ = envoy(&socket(&place, name), "wait").await;
        let stream = channel(&socket(&place, name)).await.unwrap();
        let mut stream = World::open(stream, ADS_WORLD, "w").await.unwrap();
        stream.ask(CLUSTER, &[], "");
        version.push(stream.response().await.version_info);
    }
    assert_eq!(version[0], version[1], "also in state of the world");
    signal(first.0.id(), "TERM");
    assert!(on_first.next().await.unwrap().is_none(), "told to go, with status OK");
    assert_eq!(first.end(), Some(0));
    let mut on_second = envoy(&socket(&place, "two"), "e").await;
    assert_eq!(resume(&mut on_second, &held).await, BTreeMap::from([(ENDPOINT.to_owned(), 1)]));
    // An upgrade in place: a new process with the old cache.
    let _upgraded = Process::start(&place, "one");
    let mut back = envoy(&socket(&place, "one"), "e").await;
    assert_eq!(resume(&mut back, &held).await, BTreeMap::from([(ENDPOINT.to_owned(), 1)]));
}

/// Row 113: signals.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_113_signals_under_load() {
    let mut place = Place::new();
    place.publisher.publish(world("1")).await;
    let mut relay = Process::start(&place, "one");
    let pid = relay.0.id();
    let path = socket(&place, "one");
    let mut envoys = Vec::new();
    for n in 0..30 {
        let mut stream = envoy(&path, &format!("e{n}")).await;
        take(&mut stream).await;
        envoys.push(stream);
    }
    // Read again, and asleep for a while: streams stay, and what is new comes.
    signal(pid, "HUP");
    signal(pid, "STOP");
    place.publisher.publish(world("2")).await;
    signal(pid, "CONT");
    for stream in &mut envoys {
        let response = stream.response().await;
        assert_eq!(response.type_url, CLUSTER);
        // Some of them are in the middle of an update when it ends.
        if !stream.node_is("e7") {
            stream.ack(&response);
        }
    }
    signal(pid, "TERM");
    for stream in &mut envoys {
        while stream.next().await.unwrap().is_some() {}
    }
    assert_eq!(relay.end(), Some(0));
    assert!(!path.exists(), "its socket goes with it");
}

/// Whoever holds a listening socket and starts one relay after the other on it, as systemd does.
const HOLDER: &str = "
import os, socket, sys
path, argv = sys.argv[1], sys.argv[2:]
held = socket.socket(socket.AF_UNIX)
held.bind(path)
held.listen(64)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os.dup2(held.fileno(), 3)
        os.set_inheritable(3, True)
        os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
        os.execv(argv[0], argv)
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print('ended', flush=True)
";

struct Holder {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pid: Option<u32>,
}

impl Holder {
    fn new(place: &Place) -> Self {
        let relay = command(place, "held");
        let mut holder = Command::new("python3");
        holder
            .args(["-c", HOLDER])
            .arg(socket(place, "held"))
            .arg(relay.get_program())
            .args(relay.get_args());
        let mut child = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output, pid: None }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn start(&mut self) {
        self.input.write_all(b"start\n").unwrap();
        self.pid = Some(self.line().parse().unwrap());
    }

    fn stop(&mut self) {
        signal(self.pid.take().unwrap(), "TERM");
        assert_eq!(self.line(), "ended");
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            let _ = Command::new("kill").arg("-KILL").arg(pid.to_string()).status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A relay is upgraded on a socket that somebody holds for it: while none runs, Envoys wait in its queue instead of being
/// turned away, and the next relay sends them nothing again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_on_a_handed_socket_turns_nobody_away() {
    let mut place = Place::new();
    place.publisher.publish(world("1")).await;
    let (path, mut holder) = (socket(&place, "held"), Holder::new(&place));
    eventually("the holder listens", || path.exists()).await;
    // Before any relay runs, the socket takes Envoys.
    let early = tokio::spawn({
        let path = path.clone();
        async move { Delta::open(channel(&path).await.unwrap(), ADS_DELTA, "e").await.unwrap() }
    });
    holder.start();
    let mut stream = early.await.unwrap();
    let held = hold(&mut stream).await;
    for _ in 0..3 {
        holder.stop();
        assert!(stream.next().await.unwrap().is_none());
        assert!(path.exists(), "the socket is not the relay's to remove");
        let waiting = tokio::spawn({
            let path = path.clone();
            async move { Delta::open(channel(&path).await.unwrap(), ADS_DELTA, "e").await.unwrap() }
        });
        holder.start();
        stream = waiting.await.unwrap();
        assert_eq!(resume(&mut stream, &held).await, BTreeMap::from([(ENDPOINT.to_owned(), 1)]));
    }
}
