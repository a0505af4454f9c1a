//! Probes of a container: HTTP, TCP, gRPC, or a command in it.

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Container, ExecAction, GRPCAction, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

/// Asks the answer of a container that runs.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// The container.
    pub(super) container: Container,
    /// Its pod's address.
    pub(super) address: Ipv4Addr,
    /// Its process.
    pub(super) process: u32,
}

/// Until a probe has passed once, it is asked this often: what a test waits for is the container, not the probe.
const EAGER: Duration = Duration::from_millis(200);

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.map_or(default, |value| u64::from(value.unsigned_abs())))
}

/// How often, and how many failures in a row count.
pub(super) fn period(probe: &Probe, passed: bool) -> Duration {
    let period = seconds(probe.period_seconds, 10);
    if passed { period } else { period.min(EAGER) }
}

/// How long a container has, from its start, until failures count: so long as the failures that are allowed would take.
pub(super) fn grace(probe: &Probe) -> Duration {
    let failures = probe.failure_threshold.unwrap_or(3).unsigned_abs();
    delay(probe) + seconds(probe.period_seconds, 10) * failures
}

/// How long after the start the first one is.
pub(super) fn delay(probe: &Probe) -> Duration {
    seconds(probe.initial_delay_seconds, 0)
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthAnswer {
    #[prost(int32, tag = "1")]
    status: i32,
}

impl Target {
    fn port(&self, port: &IntOrString) -> Result<u16> {
        match port {
            IntOrString::Int(port) => u16::try_from(*port).context("a port"),
            IntOrString::String(name) => {
                let mut ports = self.container.ports.iter().flatten();
                let found = ports.find(|port| port.name.as_ref() == Some(name));
                let found = found.with_context(|| format!("no port {name:?}"))?;
                u16::try_from(found.container_port).context("a port")
            }
        }
    }

    fn to(&self, host: Option<&String>, port: &IntOrString) -> Result<SocketAddr> {
        let address = match host {
            Some(host) => host.parse().context("the host of a probe is no address")?,
            None => self.address,
        };
        Ok(SocketAddr::from((address, self.port(port)?)))
    }

    /// One attempt; an error if it fails.
    pub(super) async fn ask(&self, probe: &Probe) -> Result<()> {
        let asked = async {
            if let Some(action) = &probe.http_get {
                return self.http(action).await;
            }
            if let Some(action) = &probe.tcp_socket {
                TcpStream::connect(self.to(action.host.as_ref(), &action.port)?).await?;
                return Ok(());
            }
            if let Some(action) = &probe.grpc {
                return self.grpc(action).await;
            }
            self.exec(probe.exec.as_ref().context("a probe that asks nothing")?).await
        };
        tokio::time::timeout(seconds(probe.timeout_seconds, 1), asked).await.context("no answer in time")?
    }

    /// A GET over plain text that is answered with a status from 200 to 399.
    pub(super) async fn http(&self, action: &HTTPGetAction) -> Result<()> {
        ensure!(action.scheme.as_deref().unwrap_or("HTTP") == "HTTP", "probes over HTTPS are not supported");
        let to = self.to(action.host.as_ref(), &action.port)?;
        let mut stream = TcpStream::connect(to).await?;
        let path = action.path.as_deref().unwrap_or("/");
        let mut request =
            format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: kube-probe\r\nConnection: close\r\n");
        for header in action.http_headers.iter().flatten() {
            request.extend([header.name.as_str(), ": ", header.value.as_str(), "\r\n"]);
        }
        stream.write_all((request + "\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        // The status line is all that counts.
        while !answer.contains(&b'\n') && answer.len() < 1024 {
            ensure!(stream.read_buf(&mut answer).await? > 0, "the connection was closed");
        }
        let line = String::from_utf8_lossy(&answer);
        let status: u16 = line.split(' ').nth(1).context("no HTTP")?.parse().context("no HTTP")?;
        ensure!((200..400).contains(&status), "status {status}");
        Ok(())
    }

    async fn grpc(&self, action: &GRPCAction) -> Result<()> {
        let port = u16::try_from(action.port)?;
        let endpoint = format!("http://{}:{port}", self.address);
        let channel = tonic::transport::Endpoint::from_shared(endpoint)?.connect().await?;
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await?;
        let request = HealthRequest { service: action.service.clone().unwrap_or_default() };
        let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let codec: tonic_prost::ProstCodec<HealthRequest, HealthAnswer> = tonic_prost::ProstCodec::default();
        let answer = client.unary(tonic::Request::new(request), path, codec).await?;
        // SERVING.
        ensure!(answer.get_ref().status == 1, "status {}", answer.get_ref().status);
        Ok(())
    }

    /// A command, in the container's mounts, network and root, that ends well.
    pub(super) async fn exec(&self, action: &ExecAction) -> Result<()> {
        let command = action.command.as_deref().unwrap_or_default();
        let process = self.process.to_string();
        let mut entered = Command::new("nsenter");
        entered.args(["--target", &process, "--mount", "--net", "--root", "--wdns=/", "--"]).args(command);
        let output = entered.stdin(Stdio::null()).kill_on_drop(true).output().await?;
        if output.status.success() {
            return Ok(());
        }
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr))
    }
}
