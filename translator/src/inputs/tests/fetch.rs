//! Against real servers with TLS of their own.

use super::super::fetch::{Credential, FetchError, Fetcher, Options};
use super::super::hex;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use moorgate_policies::InputKind;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

type Answer = Response<Full<Bytes>>;

const KEYS: &str = r#"{"keys":[{"kty":"oct"}]}"#;
const MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// A server, and the certificate to trust it.
struct Server {
    host: String,
    authority: Vec<u8>,
}

async fn serve(answer: fn(&Request<Incoming>, &str) -> Answer) -> Server {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = format!("localhost:{}", listener.local_addr().unwrap().port());
    let own = host.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, own) = (acceptor.clone(), own.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(move |request| {
                    let answer = answer(&request, &own);
                    async move {
                        if request.uri().path() == "/silent" {
                            std::future::pending::<()>().await;
                        }
                        Ok::<_, std::convert::Infallible>(answer)
                    }
                });
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Server { host, authority: made.cert.pem().into_bytes() }
}

fn with(status: u16, headers: &[(&str, String)], body: impl Into<Bytes>) -> Answer {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response.body(Full::new(body.into())).unwrap()
}

fn provider(request: &Request<Incoming>, host: &str) -> Answer {
    match request.uri().path() {
        "/keys" => with(200, &[], KEYS),
        "/moved" => with(302, &[("location", format!("https://{host}/keys"))], ""),
        "/down" => with(302, &[("location", format!("http://{host}/keys"))], ""),
        "/round" => with(302, &[("location", format!("https://{host}/round"))], ""),
        "/html" => with(200, &[], "<html>"),
        "/large" => with(200, &[], format!("{{\"keys\":[{{}}],\"a\":\"{}\"}}", "x".repeat(300_000))),
        "/silent" => with(200, &[], ""),
        _ => with(503, &[], "no"),
    }
}

fn fetcher(server: &Server, change: impl FnOnce(&mut Options)) -> Fetcher {
    let mut options = Options { authorities: server.authority.clone(), ..Options::default() };
    change(&mut options);
    Fetcher::new(options).unwrap()
}

#[tokio::test]
async fn keys_are_fetched_and_all_else_is_an_error() {
    let server = serve(provider).await;
    let fetcher = fetcher(&server, |options| options.time = Some(Duration::from_secs(5)));
    let url = |path: &str| format!("https://{}{path}", server.host);
    let get = async |path: &str| fetcher.fetch(InputKind::Keys, &url(path)).await;
    let kept = get("/keys").await.unwrap();
    assert_eq!(kept, super::super::content::kept(InputKind::Keys, KEYS.as_bytes()).unwrap());
    assert_eq!(get("/moved").await.unwrap(), kept);
    assert!(
        matches!(get("/down").await, Err(FetchError::Status { status, .. }) if status.contains("not followed"))
    );
    assert!(matches!(get("/round").await, Err(FetchError::Status { .. })));
    assert!(matches!(get("/gone").await, Err(FetchError::Status { .. })));
    assert!(matches!(get("/html").await, Err(FetchError::Content { .. })));
    assert!(matches!(get("/large").await, Err(FetchError::TooLarge { .. })));
    let plain = format!("http://{}/keys", server.host);
    assert!(matches!(fetcher.fetch(InputKind::Keys, &plain).await, Err(FetchError::Url { .. })));
    let secret = format!("https://me:s3cret@{}/keys", server.host);
    let refused = fetcher.fetch(InputKind::Keys, &secret).await.unwrap_err();
    assert!(!refused.to_string().contains("s3cret"), "{refused}");
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_not_believed() {
    let (one, other) = (serve(provider).await, serve(provider).await);
    let fetcher = fetcher(&other, |_| ());
    let refused = fetcher.fetch(InputKind::Keys, &format!("https://{}/keys", one.host)).await.unwrap_err();
    assert!(
        matches!(&refused, FetchError::Unreachable { message, .. } if message.contains("certificate")),
        "{refused}"
    );
}

/// The time is the test's own: it passes when nothing else does.
#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let server = serve(provider).await;
    let fetcher = fetcher(&server, |options| options.time = Some(Duration::from_millis(300)));
    let slow = fetcher.fetch(InputKind::Keys, &format!("https://{}/silent", server.host)).await;
    assert!(matches!(slow, Err(FetchError::Slow { .. })), "{slow:?}");
}

/// A registry that wants a token, as all of the public ones do.
fn registry(request: &Request<Incoming>, host: &str) -> Answer {
    let packed = super::super::oci::tests::archive("plugin.wasm", MODULE);
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let path = request.uri().path();
    if path == "/token" {
        let query = request.uri().query().unwrap_or_default();
        let good = query.contains("scope=repository%3Aa%2Fb%3Apull")
            && header("authorization") == "Basic bWU6czNjcmV0";
        return if good { with(200, &[], r#"{"token":"t0ken"}"#) } else { with(401, &[], "") };
    }
    if header("authorization") != "Bearer t0ken" {
        let asks = format!(r#"Bearer realm="https://{host}/token",service="it",scope="repository:a/b:pull""#);
        return with(401, &[("www-authenticate", asks)], "");
    }
    let layer = |kind: &str, bytes: &[u8]| {
        format!(r#"{{"layers":[{{"mediaType":"{kind}","digest":"sha256:{}"}}]}}"#, hex(bytes))
    };
    match path {
        "/v2/a/b/manifests/raw" => {
            with(200, &[], layer("application/vnd.module.wasm.content.layer.v1+wasm", MODULE))
        }
        "/v2/a/b/manifests/packed" => {
            with(200, &[], layer("application/vnd.docker.image.rootfs.diff.tar.gzip", &packed))
        }
        "/v2/a/b/manifests/other" => with(200, &[], layer("application/vnd.oci.image.layer.v1.tar", MODULE)),
        "/v2/a/b/manifests/lie" => with(200, &[], layer("application/wasm", b"else")),
        _ if path.ends_with(&hex(MODULE)) => with(200, &[], MODULE),
        _ if path.ends_with(&hex(&packed)) => with(200, &[], packed),
        _ if path.ends_with(&hex(b"else")) => with(200, &[], MODULE),
        _ if path.contains("/manifests/sha256:") => with(200, &[], layer("application/wasm", MODULE)),
        _ => with(404, &[], ""),
    }
}

#[tokio::test]
async fn modules_come_out_of_images() {
    let server = serve(registry).await;
    let known = || BTreeMap::from([(server.host.clone(), Credential::new("bWU6czNjcmV0").unwrap())]);
    let trusted = fetcher(&server, |options| options.registries = known());
    let get = async |image: &str| {
        trusted.fetch(InputKind::Wasm, &format!("oci://{}/a/b{image}", server.host)).await
    };
    assert_eq!(get(":raw").await.unwrap(), MODULE);
    assert_eq!(get(":packed").await.unwrap(), MODULE);
    for image in [":other", ":lie", &format!("@sha256:{}", "a".repeat(64))] {
        assert!(matches!(get(image).await, Err(FetchError::Content { .. })), "{image}");
    }
    assert!(matches!(get(":gone").await, Err(FetchError::Status { .. })));
    let stranger = fetcher(&server, |_| ());
    let refused = stranger.fetch(InputKind::Wasm, &format!("oci://{}/a/b:raw", server.host)).await;
    assert!(matches!(refused, Err(FetchError::Status { .. })), "{refused:?}");
    let keys = trusted.fetch(InputKind::Keys, &format!("oci://{}/a/b:raw", server.host)).await;
    assert!(matches!(keys, Err(FetchError::Url { .. })), "{keys:?}");
}
