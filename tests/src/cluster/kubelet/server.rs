//! The server of a node, as far as the API server asks it: logs.

use super::{Kubelet, PORT};
use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::jiff::Timestamp;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A certificate that nobody checks, as the API server has it unless told otherwise.
pub(super) fn tls() -> Result<TlsAcceptor> {
    let own = crate::certificate::Certificate::for_names(&["node"])?;
    let key =
        PrivateKeyDer::from_pem_slice(own.key.as_bytes()).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(own.der)], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves on a node's address.
pub(super) async fn start(kubelet: &Arc<Kubelet>, address: Ipv4Addr, tls: &TlsAcceptor) -> Result<()> {
    let listener = TcpListener::bind((IpAddr::V4(address), PORT)).await.context("a node's port")?;
    let (kubelet, tls) = (Arc::clone(kubelet), tls.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (kubelet, tls) = (Arc::clone(&kubelet), tls.clone());
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let service = service_fn(|request| answer(Arc::clone(&kubelet), request));
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Ok(())
}

async fn answer(
    kubelet: Arc<Kubelet>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = match logs(&kubelet, request.uri()).await {
        Ok(Some(text)) => (StatusCode::OK, text),
        Ok(None) => (StatusCode::NOT_FOUND, b"not found\n".to_vec()),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error:#}\n").into_bytes()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    Ok(response)
}

/// `/containerLogs/{namespace}/{pod}/{container}?sinceTime=…&sinceSeconds=…&tailLines=…&timestamps=…`.
async fn logs(kubelet: &Kubelet, uri: &http::Uri) -> Result<Option<Vec<u8>>> {
    let parts: Vec<&str> = uri.path().trim_start_matches('/').split('/').collect();
    let ["containerLogs", namespace, pod, container] = parts[..] else { return Ok(None) };
    let query: BTreeMap<String, String> = pairs_of(uri.query().unwrap_or_default());
    let mut since =
        query.get("sinceTime").map(|at| at.parse::<Timestamp>()).transpose().context("sinceTime")?;
    if let Some(seconds) = query.get("sinceSeconds") {
        let nanoseconds = i128::from(seconds.parse::<u32>().context("sinceSeconds")?) * 1_000_000_000;
        since = Some(Timestamp::from_nanosecond(Timestamp::now().as_nanosecond() - nanoseconds)?);
    }
    let path = kubelet.folder.container_log(&format!("{namespace}/{pod}"), container);
    if !path.starts_with(kubelet.folder.path("logs/pods"))
        || path.components().any(|part| part.as_os_str() == "..")
    {
        return Ok(None);
    }
    let Ok(text) = tokio::fs::read(path).await else { return Ok(None) };
    let stamped = query.get("timestamps").is_some_and(|wanted| wanted == "true");
    let mut lines: Vec<&[u8]> = Vec::new();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let Some((at, said)) = taken_apart(line) else { continue };
        if since.is_none_or(|since| at >= since) {
            lines.push(if stamped { line } else { said });
        }
    }
    if let Some(count) = query.get("tailLines") {
        let count: usize = count.parse().context("tailLines")?;
        lines.drain(..lines.len().saturating_sub(count));
    }
    Ok(Some(lines.concat()))
}

/// `<time> <stream> F <line>`.
fn taken_apart(line: &[u8]) -> Option<(Timestamp, &[u8])> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let at = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    Some((at, parts.nth(2)?))
}

fn pairs_of(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), decoded(value))).collect()
}

/// Percent-decoding, as far as times need it.
fn decoded(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let hex = |digit: Option<u8>| digit.and_then(|digit| char::from(digit).to_digit(16));
        match byte {
            b'%' => {
                let code = hex(rest.next()).zip(hex(rest.next())).map(|(high, low)| high * 16 + low);
                bytes.push(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(b'?'));
            }
            b'+' => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
