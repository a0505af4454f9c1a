//! A bare HTTP/1.1 client: sends the request line and headers exactly as given, over plain text or TLS.

mod version2;

pub use version2::Http2;

use crate::certificate::Certificate;
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// No answer within this time is a lost request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where to connect, and how.
#[derive(Debug, Clone)]
pub struct Target(Transport);

#[derive(Debug, Clone)]
enum Transport {
    Plain(SocketAddr),
    Tls(SocketAddr, String, Arc<ClientConfig>),
    Unix(PathBuf),
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl Target {
    /// Plain text on a local port.
    pub fn plain(port: u16) -> Self {
        Self(Transport::Plain(local(port)))
    }

    /// Plain text on a Unix socket.
    pub fn unix(path: &Path) -> Self {
        Self(Transport::Unix(path.to_owned()))
    }

    /// TLS on a local port with this server name, trusting one certificate (DER).
    pub fn tls(port: u16, server_name: &str, trusted: &[u8]) -> Result<Self> {
        Self::mutual(port, server_name, trusted, None)
    }

    /// The same, with a certificate that the client shows when it is asked for one.
    pub fn mutual(
        port: u16,
        server_name: &str,
        trusted: &[u8],
        client: Option<&Certificate>,
    ) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.to_vec().into())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match client {
            Some(client) => {
                let key = PrivateKeyDer::from_pem_slice(client.key.as_bytes())?;
                config.with_client_auth_cert(vec![client.der.clone().into()], key)?
            }
            None => config.with_no_client_auth(),
        };
        Ok(Self(Transport::Tls(local(port), server_name.to_owned(), Arc::new(config))))
    }
}

impl Target {
    /// The same at another address.
    #[must_use]
    pub fn at(self, address: SocketAddr) -> Self {
        Self(match self.0 {
            Transport::Plain(_) => Transport::Plain(address),
            Transport::Tls(_, name, config) => Transport::Tls(address, name, config),
            unix @ Transport::Unix(_) => unix,
        })
    }

    /// What TLS is spoken with, and to whom: for those who make the connection themselves.
    pub fn tls_parts(&self) -> Option<(Arc<ClientConfig>, ServerName<'static>)> {
        let Transport::Tls(_, name, config) = &self.0 else { return None };
        Some((Arc::clone(config), ServerName::try_from(name.clone()).ok()?))
    }
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path with its query, sent as it is.
    pub path: String,
    /// The `Host` header.
    pub host: String,
    /// The other headers, in order.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// A GET.
    pub fn get(host: &str, path: &str) -> Self {
        Self { method: "GET".to_owned(), path: path.to_owned(), host: host.to_owned(), headers: Vec::new() }
    }

    /// With another method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn build(&self) -> Result<http::Request<Full<Bytes>>> {
        let mut request = http::Request::builder().method(self.method.as_str()).uri(self.path.as_str());
        request = request.header("host", &self.host);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Full::default()).with_context(|| format!("building {self:?}"))
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers, names in lower case, in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The first header of this name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// The echo backend that answered, if one did.
    pub fn backend(&self) -> Option<&str> {
        self.header(crate::backend::NAME_HEADER)
    }

    /// Who answered: the backend's name, or the status code.
    pub fn who(&self) -> String {
        self.backend().map_or_else(|| self.status.to_string(), str::to_owned)
    }

    /// What an echo backend received.
    pub fn echo(&self) -> Result<crate::backend::Echo> {
        serde_json::from_slice(&self.body).with_context(|| format!("no echo in {self:?}"))
    }
}

async fn dial(address: &SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await.context("connecting")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One connection, used for request after request.
#[derive(Debug)]
pub struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    /// Connects.
    pub async fn open(target: &Target) -> Result<Self> {
        tokio::time::timeout(TIMEOUT, Self::connect(target)).await.context("no connection in time")?
    }

    async fn connect(target: &Target) -> Result<Self> {
        match &target.0 {
            Transport::Plain(address) => Self::speak(dial(address).await?).await,
            Transport::Unix(path) => {
                Self::speak(UnixStream::connect(path).await.context("connecting")?).await
            }
            Transport::Tls(address, name, config) => {
                let name = ServerName::try_from(name.clone()).context("a server name")?;
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = dial(address).await?;
                Self::speak(connector.connect(name, stream).await.context("TLS handshake")?).await
            }
        }
    }

    async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Self> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Sends one request and reads its whole answer.
    pub async fn send(&mut self, request: &Request) -> Result<Answer> {
        let request = request.build()?;
        let exchange = async {
            self.0.ready().await.context("the connection was closed")?;
            let (head, body) = self.0.send_request(request).await.context("sending")?.into_parts();
            let body = body.collect().await.context("reading the body")?.to_bytes();
            let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
            Ok(Answer { status: head.status.as_u16(), headers, body })
        };
        tokio::time::timeout(TIMEOUT, exchange).await.context("no answer in time")?
    }

    /// True if the peer has closed it, or said that it will.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// Sends one request on a connection of its own.
pub fn send(target: &Target, request: &Request) -> Result<Answer> {
    crate::runtime().block_on(async { Connection::open(target).await?.send(request).await })
}

/// Asks until the answer satisfies `wanted`.
pub fn send_until(
    target: &Target,
    request: &Request,
    what: &str,
    wanted: impl Fn(&Answer) -> bool,
) -> Result<Answer> {
    crate::wait::until(what, || {
        let answer = send(target, request)?;
        if wanted(&answer) {
            return Ok(answer);
        }
        bail!("{} answered with status {}", answer.who(), answer.status)
    })
}
