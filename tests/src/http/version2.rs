//! A bare HTTP/2 client: one connection for requests of any host, as browsers use one where certificate and address fit.

use super::{Answer, Request, TIMEOUT, Target, Transport, dial};
use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

/// One HTTP/2 connection, with prior knowledge in plain text and by ALPN over TLS.
#[derive(Debug)]
pub struct Http2(SendRequest<Full<Bytes>>);

impl Http2 {
    /// Connects.
    pub fn open(target: &Target) -> Result<Self> {
        crate::runtime().block_on(async {
            tokio::time::timeout(TIMEOUT, Self::connect(target)).await.context("no connection in time")?
        })
    }

    async fn connect(target: &Target) -> Result<Self> {
        match &target.0 {
            Transport::Plain(address) => Self::speak(dial(address).await?).await,
            Transport::Unix(_) => anyhow::bail!("HTTP/2 is not spoken on Unix sockets here"),
            Transport::Tls(address, name, config) => {
                let mut config = (**config).clone();
                config.alpn_protocols = vec![b"h2".to_vec()];
                let name = ServerName::try_from(name.clone()).context("a server name")?;
                let stream = TlsConnector::from(Arc::new(config)).connect(name, dial(address).await?).await;
                Self::speak(stream.context("TLS handshake")?).await
            }
        }
    }

    async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Self> {
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Sends a request with this body; trailers stand behind the headers of the answer.
    pub fn send(&mut self, request: &Request, body: &[u8]) -> Result<Answer> {
        let mut built = http::Request::builder()
            .version(http::Version::HTTP_2)
            .method(request.method.as_str())
            .uri(format!("https://{}{}", request.host, request.path));
        for (name, value) in &request.headers {
            built = built.header(name, value);
        }
        let built = built.body(Full::new(Bytes::copy_from_slice(body)))?;
        crate::runtime().block_on(async {
            let exchange = async {
                self.0.ready().await.context("the connection was closed")?;
                let (head, body) = self.0.send_request(built).await.context("sending")?.into_parts();
                let collected = body.collect().await.context("reading the body")?;
                let trailers = collected.trailers().cloned().unwrap_or_default();
                let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
                let headers = head.headers.iter().chain(&trailers);
                let headers = headers.map(|(name, value)| (name.to_string(), text(value))).collect();
                Ok(Answer { status: head.status.as_u16(), headers, body: collected.to_bytes() })
            };
            tokio::time::timeout(TIMEOUT, exchange).await.context("no answer in time")?
        })
    }

    /// Calls a gRPC method (`service/method`) with an empty message.
    pub fn call(&mut self, host: &str, method: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        let mut request = Request::get(host, &format!("/{method}")).method("POST");
        request = request.header("content-type", "application/grpc").header("te", "trailers");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        self.send(&request, &[0, 0, 0, 0, 0])
    }
}
