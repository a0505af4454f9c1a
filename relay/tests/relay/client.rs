//! A bare xDS client.

use bytes::{Buf, BufMut};
use hyper_util::rt::TokioIo;
use moorgate_relay::serve::proto::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Node,
    Status as Refusal,
};
use prost::Message;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

pub(crate) const ADS_DELTA: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
pub(crate) const ADS_WORLD: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

struct Prost<E, D>(PhantomData<(E, D)>);

impl<E, D> Default for Prost<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E: Message + Send + 'static, D: Message + Default + Send + 'static> Codec for Prost<E, D> {
    type Encode = E;
    type Decode = D;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<E: Message, D> Encoder for Prost<E, D> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, item: E, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item.encode_to_vec());
        Ok(())
    }
}

impl<E, D: Message + Default> Decoder for Prost<E, D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        let bytes = source.copy_to_bytes(source.remaining());
        D::decode(bytes).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// A connection to a Unix socket.
pub(crate) async fn channel(path: &Path) -> Result<Channel, tonic::transport::Error> {
    connect(Endpoint::from_static("http://relay"), path).await
}

/// A connection that takes 64 KiB and no more until they were read.
pub(crate) async fn narrow_channel(path: &Path) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_static("http://relay");
    connect(endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535), path).await
}

async fn connect(endpoint: Endpoint, path: &Path) -> Result<Channel, tonic::transport::Error> {
    let path: PathBuf = path.to_owned();
    endpoint
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
}

/// One stream.
pub(crate) struct Talk<Request, Response> {
    requests: mpsc::UnboundedSender<Request>,
    responses: Streaming<Response>,
    first: bool,
    node: String,
}

pub(crate) type Delta = Talk<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;
pub(crate) type World = Talk<DiscoveryRequest, DiscoveryResponse>;

impl<Request, Response> Talk<Request, Response>
where
    Request: Message + Default + Send + 'static,
    Response: Message + Default + Send + 'static,
{
    pub(crate) async fn open(channel: Channel, path: &'static str, node: &str) -> Result<Self, Status> {
        Self::open_with(channel, path, node, None).await
    }

    /// The same with a token.
    pub(crate) async fn open_with(
        channel: Channel,
        path: &'static str,
        node: &str,
        token: Option<&str>,
    ) -> Result<Self, Status> {
        let tokens: Vec<_> = token.map(|token| ("authorization", token)).into_iter().collect();
        Self::open_as(channel, path, node, &tokens).await
    }

    /// The same with several tokens, each in its header.
    pub(crate) async fn open_as(
        channel: Channel,
        path: &'static str,
        node: &str,
        tokens: &[(&'static str, &str)],
    ) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::unbounded_channel();
        let outgoing = futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|request| (request, receiver))
        });
        let mut grpc = Grpc::new(channel).max_decoding_message_size(1 << 30);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = http::uri::PathAndQuery::from_static(path);
        let mut request = tonic::Request::new(outgoing);
        for (header, token) in tokens {
            request.metadata_mut().insert(*header, format!("Bearer {token}").parse().unwrap());
        }
        let response = grpc.streaming(request, path, Prost::<Request, Response>::default()).await?;
        Ok(Self { requests, responses: response.into_inner(), first: true, node: node.into() })
    }

    fn node(&mut self) -> Option<Node> {
        std::mem::take(&mut self.first).then(|| Node { id: self.node.clone(), ..Node::default() })
    }

    /// Whether it gave this name of itself.
    pub(crate) fn node_is(&self, node: &str) -> bool {
        self.node == node
    }

    pub(crate) fn send(&self, request: Request) {
        self.requests.send(request).expect("the stream is open");
    }

    /// The next response; `Ok(None)` when the server ends the stream well.
    pub(crate) async fn next(&mut self) -> Result<Option<Response>, Status> {
        let wait = tokio::time::timeout(Duration::from_secs(20), self.responses.message());
        wait.await.expect("a response within twenty seconds")
    }

    pub(crate) async fn response(&mut self) -> Response {
        self.next().await.expect("no error").expect("a response")
    }
}

impl Delta {
    pub(crate) fn ask(&mut self, type_url: &str, names: &[&str]) {
        let request = DeltaDiscoveryRequest {
            node: self.node(),
            type_url: type_url.into(),
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        self.send(request);
    }

    pub(crate) fn ack(&mut self, response: &DeltaDiscoveryResponse) {
        self.answer(response, None);
    }

    pub(crate) fn nack(&mut self, response: &DeltaDiscoveryResponse, text: &str) {
        self.answer(response, Some(Refusal { code: 3, message: text.into() }));
    }

    fn answer(&mut self, response: &DeltaDiscoveryResponse, error_detail: Option<Refusal>) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail,
            ..Default::default()
        });
    }
}

impl World {
    pub(crate) fn ask(&mut self, type_url: &str, names: &[&str], nonce: &str) {
        let request = DiscoveryRequest {
            node: self.node(),
            type_url: type_url.into(),
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            response_nonce: nonce.into(),
            ..Default::default()
        };
        self.send(request);
    }
}
