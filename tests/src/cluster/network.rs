//! The cluster's network: one bridge, a namespace a pod, and addresses of Services.

use anyhow::{Context as _, Result, ensure};
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// The bridge's own address, by which pods reach what is outside of pods.
pub const GATEWAY: &str = "10.244.0.1";
/// Its hardware address. Without one a bridge takes the lowest of its ports', so a new pod would change it, and pods that know
/// the old one would reach nothing until they ask again, which may take a minute.
const GATEWAY_HARDWARE: &str = "02:00:0a:f4:00:01";
/// Where the API server listens: on no address of a Service, for all ports of those belong to their Services.
pub(super) const API_SERVER: (&str, u16) = ("127.0.0.1", 16_443);
/// The port of the Service `kubernetes`.
pub(super) const API_PORT: u16 = 443;
/// The address of the Service `kubernetes`: the first of its range.
pub(super) const API_ADDRESS: &str = "10.96.0.1";
/// The addresses of Services in the cluster.
pub(super) const SERVICE_RANGE: &str = "10.96.0.0/16";
/// The first two parts of the addresses that the load balancer gives; others it cannot serve.
pub(super) const BALANCER_RANGE: [u8; 2] = [10, 245];

/// Runs some lines of `ip -batch`.
async fn ip(namespace: Option<&str>, lines: &[String]) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("starting ip (iproute2)")?;
    let mut stdin = child.stdin.take().context("a pipe to ip")?;
    stdin.write_all(lines.join("\n").as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip: {said} on {lines:?}");
    Ok(())
}

/// Where the address of a node is.
pub(super) fn node_address(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 243, 0, index.saturating_add(1))
}

/// Makes the bridge and the addresses of nodes.
pub(super) async fn prepare(nodes: u8) -> Result<()> {
    std::fs::create_dir_all("/run/netns").context("/run/netns")?;
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", "/run/netns", "tmpfs", flags, c"mode=755")
        .context("a tmpfs on /run/netns")?;
    let mut lines = vec![
        "link set lo up".to_owned(),
        format!("link add cluster address {GATEWAY_HARDWARE} type bridge"),
        format!("addr add {GATEWAY}/16 dev cluster"),
        "link set cluster up".to_owned(),
        format!("addr add {API_ADDRESS}/32 dev lo"),
    ];
    lines.extend((0..nodes).map(|node| format!("addr add {}/32 dev lo", node_address(node))));
    ip(None, &lines).await
}

/// Adds an address of a Service.
pub(super) async fn add_address(address: Ipv4Addr) -> Result<()> {
    ip(None, &[format!("addr replace {address}/32 dev lo")]).await
}

/// Removes it.
pub(super) async fn remove_address(address: Ipv4Addr) -> Result<()> {
    ip(None, &[format!("addr del {address}/32 dev lo")]).await
}

/// The network namespace of a pod.
#[derive(Debug, Clone)]
pub(super) struct Sandbox {
    /// Its name, for `ip`; the pod's node's own network if empty.
    name: String,
    /// The pod's address.
    pub(super) address: Ipv4Addr,
}

impl Sandbox {
    /// That of the node itself.
    pub(super) fn of_node(address: Ipv4Addr) -> Self {
        Self { name: String::new(), address }
    }

    /// Whether it is the node's own.
    pub(super) fn is_of_node(&self) -> bool {
        self.name.is_empty()
    }

    /// A new one with an address of its own. Addresses are not used twice: whoever still knows a pod that is gone must
    /// not find another in its place.
    pub(super) async fn create() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(256);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        ensure!(number < 65_000, "no more addresses for pods");
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 0, 0)) + number);
        let name = format!("pod-{number}");
        let lines = [
            format!("netns add {name}"),
            format!("link add veth{number} type veth peer name eth0 netns {name}"),
            format!("link set veth{number} master cluster up"),
        ];
        ip(None, &lines).await?;
        let lines = [
            "link set lo up".to_owned(),
            format!("addr add {address}/16 dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add default via {GATEWAY}"),
        ];
        ip(Some(&name), &lines).await?;
        Ok(Self { name, address })
    }

    /// What puts a program into it.
    pub(super) fn enter(&self) -> Command {
        if self.name.is_empty() {
            return Command::new("unshare");
        }
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).args(["--", "unshare"]);
        command
    }

    /// Removes it.
    pub(super) async fn remove(&self) -> Result<()> {
        if self.name.is_empty() {
            return Ok(());
        }
        // With the namespace goes its end of the cable, and with that the other.
        ip(None, &[format!("netns del {}", self.name)]).await
    }
}
