//! The two servers under the same clients: the relay on a store on the local disk, and go-control-plane's snapshot cache.

use crate::publisher::Publisher;
use anyhow::{Context as _, Result, ensure};
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, cluster};
use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address, socket_address};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use envoy_types::pb::google::protobuf::{Any, Duration as Span};
use moorgate_relay::serve::types::CLUSTER;
use moorgate_snapshot::writer::write_snapshot;
use moorgate_snapshot::{Digest, Record, Resource, Snapshot, Store};
use moorgate_tests::meter::Meter;
use moorgate_tests::process::Running;
use moorgate_tests::program::{self, binary};
use moorgate_tests::{runtime, wait};
use prost::Message as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A server of clusters that can be told to change one of them.
pub(crate) trait Server {
    /// Its name in the tables.
    fn name(&self) -> &'static str;
    /// Its process.
    fn meter(&self) -> Meter;
    /// Where clients connect.
    fn socket(&self) -> &Path;
    /// Lays a change of one cluster ready, which is no part of what is measured.
    fn prepare(&mut self) -> Result<()>;
    /// Makes it.
    fn change(&mut self) -> Result<()>;
}

/// A cluster as a small edge has thousands of.
fn a_cluster(index: usize, version: usize) -> Cluster {
    let address = SocketAddress {
        address: format!("10.{}.{}.{}", index / 65_536, index / 256 % 256, index % 256),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(8080)),
        ..SocketAddress::default()
    };
    let endpoint = Endpoint {
        address: Some(Address { address: Some(address::Address::SocketAddress(address)) }),
        ..Endpoint::default()
    };
    let endpoint = LbEndpoint {
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..LbEndpoint::default()
    };
    let name = format!("shop/service-{index}/8080");
    let assignment = ClusterLoadAssignment {
        cluster_name: name.clone(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() }],
        ..Default::default()
    };
    Cluster {
        name,
        connect_timeout: Some(Span { seconds: 5 + i64::try_from(version).unwrap_or_default(), nanos: 0 }),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::Static.into(),
        )),
        load_assignment: Some(assignment),
        ..Cluster::default()
    }
}

/// `moorgate-relay` on a store on the local disk.
pub(crate) struct Relay {
    process: Running,
    socket: PathBuf,
    publisher: Publisher,
    clusters: Vec<Cluster>,
    version: usize,
    ready: Option<Digest>,
}

impl Relay {
    /// Publishes the first snapshot and starts the relay.
    pub(crate) fn start(folder: &Path, resources: usize) -> Result<Self> {
        let url = format!("file://{}", folder.join("store").display());
        std::fs::create_dir(folder.join("store"))?;
        let publisher = Publisher::new(Store::open(&url)?);
        let trust = folder.join("trust.pem");
        std::fs::write(&trust, publisher.trust())?;
        let socket = folder.join("relay.sock");
        let mut command = Command::new(binary("moorgate-relay")?);
        command.args(["--store", &url, "--fleet", &publisher.fleet.to_string(), "--poll-interval", "1s"]);
        command.arg("--trust").arg(&trust).arg("--cache").arg(folder.join("cache"));
        command.arg("--listen").arg(format!("unix:{}", socket.display()));
        let mut relay = Self {
            publisher,
            clusters: (0..resources).map(|index| a_cluster(index, 0)).collect(),
            version: 0,
            ready: None,
            process: Running::start("relay", &mut command, folder)?,
            socket,
        };
        relay.write()?;
        relay.change()?;
        wait::until("the relay's socket", || {
            relay.process.check()?;
            ensure!(relay.socket.exists(), "no socket yet");
            Ok(())
        })?;
        Ok(relay)
    }

    /// Uploads the clusters as a snapshot that no entry names yet.
    fn write(&mut self) -> Result<()> {
        let record = |cluster: &Cluster| {
            Record::Resource(Resource {
                type_url: CLUSTER.into(),
                name: cluster.name.as_str().into(),
                part: "".into(),
                bytes: cluster.encode_to_vec().into(),
                refs: Vec::new(),
            })
        };
        let snapshot = Snapshot::build(self.clusters.iter().map(record).collect())?;
        runtime().block_on(write_snapshot(&self.publisher.part(), &snapshot, &|_| false))?;
        self.ready = Some(snapshot.id());
        Ok(())
    }
}

impl Server for Relay {
    fn name(&self) -> &'static str {
        "moorgate-relay"
    }

    fn meter(&self) -> Meter {
        Meter(self.process.id())
    }

    fn socket(&self) -> &Path {
        &self.socket
    }

    fn prepare(&mut self) -> Result<()> {
        self.version += 1;
        let place = self.clusters.len() / 2;
        self.clusters[place] = a_cluster(place, self.version);
        self.write()
    }

    fn change(&mut self) -> Result<()> {
        let snapshot = self.ready.take().context("no snapshot was prepared")?;
        runtime().block_on(self.publisher.announce(snapshot));
        Ok(())
    }
}

/// The snapshot cache of go-control-plane; `tests/tools/peer` is its program.
pub(crate) struct Peer {
    process: Running,
    socket: PathBuf,
    folder: PathBuf,
    control: UnixStream,
    resources: usize,
    version: usize,
}

/// A file of clusters as the peer reads it.
fn lay(file: &Path, clusters: &[Cluster]) -> Result<()> {
    let any = |cluster: &Cluster| Any { type_url: CLUSTER.to_owned(), value: cluster.encode_to_vec() };
    let response = DiscoveryResponse { resources: clusters.iter().map(any).collect(), ..Default::default() };
    std::fs::write(file, response.encode_to_vec()).with_context(|| file.display().to_string())
}

impl Peer {
    /// Builds the peer, if it is not there, and starts it.
    pub(crate) fn start(folder: &Path, resources: usize) -> Result<Self> {
        let (socket, control) = (folder.join("peer.sock"), folder.join("control.sock"));
        let first = folder.join("clusters.bin");
        let clusters: Vec<Cluster> = (0..resources).map(|index| a_cluster(index, 0)).collect();
        lay(&first, &clusters)?;
        let mut command = Command::new(program::go("peer")?);
        command.arg("-socket").arg(&socket).arg("-control").arg(&control).arg("-resources").arg(&first);
        let mut process = Running::start("peer", &mut command, folder)?;
        let control = wait::until("the peer", || {
            process.check()?;
            ensure!(socket.exists(), "no socket yet");
            Ok(UnixStream::connect(&control)?)
        })?;
        Ok(Self { process, socket, folder: folder.to_owned(), control, resources, version: 0 })
    }

    fn changed(&self) -> PathBuf {
        self.folder.join("changed.bin")
    }
}

impl Server for Peer {
    fn name(&self) -> &'static str {
        "go-control-plane"
    }

    fn meter(&self) -> Meter {
        Meter(self.process.id())
    }

    fn socket(&self) -> &Path {
        &self.socket
    }

    fn prepare(&mut self) -> Result<()> {
        self.version += 1;
        lay(&self.changed(), &[a_cluster(self.resources / 2, self.version)])
    }

    fn change(&mut self) -> Result<()> {
        writeln!(self.control, "change {}", self.changed().display())?;
        let mut answer = String::new();
        BufReader::new(&self.control).read_line(&mut answer)?;
        ensure!(answer.trim() == "done", "the peer says {answer:?}");
        Ok(())
    }
}
