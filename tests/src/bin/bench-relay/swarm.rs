//! Many delta clients in one process, each with a connection of its own, that acknowledge whatever they get unread.

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, BufMut as _};
use hyper_util::rt::TokioIo;
use moorgate_relay::serve::proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use moorgate_relay::serve::types::CLUSTER;
use moorgate_tests::wait::PATIENCE;
use prost::Message;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};

const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// As Envoy's client has them.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 24 << 20;

/// What it hears: the part of `DeltaDiscoveryResponse` that counting needs.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Heard {
    #[prost(message, repeated, tag = "2")]
    resources: Vec<Unread>,
    #[prost(string, tag = "5")]
    nonce: String,
}

/// A resource that nobody looks into.
#[derive(Clone, PartialEq, Message)]
struct Unread {}

/// Prost on the wire; how many bytes came is counted, and the bytes of the last message are kept if asked.
#[derive(Debug, Clone)]
struct Wire(Arc<AtomicU64>);

impl Codec for Wire {
    type Encode = DeltaDiscoveryRequest;
    type Decode = (Heard, bytes::Bytes);
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for Wire {
    type Item = DeltaDiscoveryRequest;
    type Error = Status;

    fn encode(&mut self, item: DeltaDiscoveryRequest, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item.encode_to_vec());
        Ok(())
    }
}

impl Decoder for Wire {
    type Item = (Heard, bytes::Bytes);
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let bytes = source.copy_to_bytes(source.remaining());
        self.0.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let heard = Heard::decode(bytes.clone()).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Some((heard, bytes)))
    }
}

/// What a swarm asks for.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// The type.
    pub type_url: &'static str,
    /// What each client says that it holds: version by name.
    pub known: Arc<BTreeMap<String, String>>,
}

impl Ask {
    /// Everything of a type, with nothing known.
    pub(crate) fn all(type_url: &'static str) -> Self {
        Self { type_url, known: Arc::default() }
    }
}

/// A client acknowledged so many resources.
type Event = Result<(usize, bytes::Bytes)>;

/// The clients; dropping it ends them.
pub(crate) struct Swarm {
    // Held for its drop: it ends the tasks.
    _clients: JoinSet<()>,
    events: mpsc::UnboundedReceiver<Event>,
    bytes: Arc<AtomicU64>,
}

impl Swarm {
    /// Connects so many clients at once.
    pub(crate) fn connect(socket: &Path, clients: usize, ask: &Ask) -> Self {
        let (tell, events) = mpsc::unbounded_channel();
        let bytes = Arc::new(AtomicU64::new(0));
        let mut running = JoinSet::new();
        for index in 0..clients {
            let (socket, ask, tell, wire) =
                (socket.to_owned(), ask.clone(), tell.clone(), Wire(Arc::clone(&bytes)));
            let client = async move {
                if let Err(error) = client(socket, index, &ask, &tell, wire).await {
                    let _ = tell.send(Err(error.context(format!("client {index}"))));
                }
            };
            running.spawn_on(client, moorgate_tests::runtime().handle());
        }
        Self { _clients: running, events, bytes }
    }

    /// Waits until so many resources were acknowledged by all together; the time of the last.
    pub(crate) fn acknowledged(&mut self, resources: usize) -> Result<Instant> {
        let wait = async {
            let mut seen = 0;
            while seen < resources {
                let event = tokio::time::timeout(PATIENCE * 4, self.events.recv()).await;
                let event = event.with_context(|| format!("{seen} of {resources} resources came"))?;
                seen += event.context("all clients ended")??.0;
            }
            if seen > resources {
                bail!("{seen} resources came instead of {resources}");
            }
            Ok(Instant::now())
        };
        moorgate_tests::runtime().block_on(wait)
    }

    /// The next message, whole.
    pub(crate) fn message(&mut self) -> Result<bytes::Bytes> {
        let event = moorgate_tests::runtime()
            .block_on(async { tokio::time::timeout(PATIENCE, self.events.recv()).await });
        Ok(event.context("no message came")?.context("all clients ended")??.1)
    }

    /// Bytes of messages since the last call, all clients together.
    pub(crate) fn take_bytes(&self) -> u64 {
        self.bytes.swap(0, Ordering::Relaxed)
    }

    /// Until nothing has come for this long.
    pub(crate) fn settle(&mut self, quiet: Duration) -> Result<()> {
        let wait = async {
            while let Ok(event) = tokio::time::timeout(quiet, self.events.recv()).await {
                event.context("all clients ended")??;
            }
            Ok(())
        };
        moorgate_tests::runtime().block_on(wait)
    }
}

/// What one client gets that knows nothing: version by name.
pub(crate) fn versions(socket: &Path, resources: usize) -> Result<BTreeMap<String, String>> {
    let mut one = Swarm::connect(socket, 1, &Ask::all(CLUSTER));
    let mut versions = BTreeMap::new();
    while versions.len() < resources {
        let event = moorgate_tests::runtime().block_on(one.events.recv());
        let (_, bytes) = event.context("the client ended")??;
        versions.extend(
            DeltaDiscoveryResponse::decode(bytes)?.resources.into_iter().map(|one| (one.name, one.version)),
        );
    }
    Ok(versions)
}

async fn open(socket: PathBuf) -> Result<Channel> {
    let endpoint = Endpoint::from_static("http://xds")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    let connect = move |_| {
        let socket = socket.clone();
        async move {
            // A full backlog refuses for a moment: a thousand connect at once.
            let deadline = Instant::now() + PATIENCE;
            loop {
                match UnixStream::connect(&socket).await {
                    Ok(stream) => return Ok(TokioIo::new(stream)),
                    Err(error) if Instant::now() > deadline => return Err(error),
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        }
    };
    Ok(endpoint.connect_with_connector(tower::service_fn(connect)).await?)
}

async fn client(
    socket: PathBuf,
    index: usize,
    ask: &Ask,
    tell: &mpsc::UnboundedSender<Event>,
    wire: Wire,
) -> Result<()> {
    let mut grpc = Grpc::new(open(socket).await?).max_decoding_message_size(1 << 30);
    grpc.ready().await?;
    let (say, said) = mpsc::unbounded_channel();
    let first = DeltaDiscoveryRequest {
        node: Some(Node { id: format!("client-{index}"), ..Node::default() }),
        type_url: ask.type_url.to_owned(),
        resource_names_subscribe: vec!["*".to_owned()],
        initial_resource_versions: (*ask.known).clone(),
        ..DeltaDiscoveryRequest::default()
    };
    say.send(first)?;
    let outgoing = tokio_stream::wrappers::UnboundedReceiverStream::new(said);
    let path = http::uri::PathAndQuery::from_static(DELTA);
    let answer = grpc.streaming(tonic::Request::new(outgoing), path, wire).await?;
    let mut heard = answer.into_inner();
    while let Some((message, bytes)) = heard.message().await? {
        let acknowledgement = DeltaDiscoveryRequest {
            type_url: ask.type_url.to_owned(),
            response_nonce: message.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        say.send(acknowledgement)?;
        let _ = tell.send(Ok((message.resources.len(), bytes)));
    }
    bail!("the server ended the stream")
}
