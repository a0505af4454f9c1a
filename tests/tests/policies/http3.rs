//! HTTP/3 on a real Envoy, asked by a client that is not Envoy's.

use super::behaviour::{HOST, policy};
use anyhow::{Context as _, Result};
use bytes::{Buf as _, Bytes};
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{Answer, Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::stack::Stack;
use moorgate_tests::{ports, runtime, wait};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// No answer within this time is none.
const PATIENCE: Duration = Duration::from_secs(5);

/// A client of HTTP/3; each question has a connection of its own.
struct Client(quinn::ClientConfig);

impl Client {
    /// One that trusts a certificate, and may show one.
    fn new(trusted: &[u8], own: Option<&Certificate>) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(trusted.to_vec().into()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            Some(own) => {
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
                config.with_client_auth_cert(vec![own.der.clone().into()], key).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h3".to_vec()];
        Self(quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap())))
    }

    fn ask(&self, port: u16, host: &str, path: &str) -> Result<Answer> {
        let exchange = self.exchange(port, host, path);
        runtime()
            .block_on(async { tokio::time::timeout(PATIENCE, exchange).await.context("no answer in time")? })
    }

    async fn connect(&self, port: u16, host: &str) -> Result<quinn::Connection> {
        let mut endpoint = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        endpoint.set_default_client_config(self.0.clone());
        Ok(endpoint.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), host)?.await?)
    }

    async fn exchange(&self, port: u16, host: &str, path: &str) -> Result<Answer> {
        let connection = h3_quinn::Connection::new(self.connect(port, host).await?);
        let (mut driver, mut sender) = h3::client::new(connection).await?;
        let driven =
            tokio::spawn(async move { std::future::poll_fn(|context| driver.poll_close(context)).await });
        let request = http::Request::get(format!("https://{host}:{port}{path}")).body(())?;
        let mut stream = sender.send_request(request).await?;
        stream.finish().await?;
        let head = stream.recv_response().await?;
        let mut body = Vec::new();
        while let Some(mut part) = stream.recv_data().await? {
            body.extend_from_slice(&part.copy_to_bytes(part.remaining()));
        }
        driven.abort();
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = head.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        Ok(Answer { status: head.status().as_u16(), headers, body: Bytes::from(body) })
    }
}

const OTHER: &str = "other.example";

/// Two HTTPS listeners of one port; the policy with HTTP/3 is for the first, and what both have for the second too.
fn documents(port: u16, (more, both): (&str, &str)) -> Vec<String> {
    let listeners = [
        Listener::https("first", port, "edge-tls").hostname(HOST),
        Listener::https("second", port, "other-tls").hostname(OTHER),
    ];
    let on = |name: &str, section: &str, spec: &str| {
        policy(name, "ClientTrafficPolicy", "Gateway", "public", spec)
            .replace("name: public", &format!("name: public, sectionName: {section}"))
    };
    let spec = format!("  http3: {{}}\n{more}{both}");
    vec![
        manifest::gateway_class(),
        manifest::gateway("edge", "public", &listeners),
        manifest::service("edge", "web"),
        manifest::http_route("edge", "all", "edge/public", &[], &manifest::rule("/", "web")),
        on("quick", "first", &spec),
        on("slow", "second", &format!("  timeout: {{ http: {{ idleTimeout: 1h }} }}\n{both}")),
    ]
}

#[test]
fn http3_is_spoken_beside_tcp_and_only_where_all_else_holds() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    let (own, other) = (Certificate::for_names(&[HOST]).unwrap(), Certificate::for_names(&[OTHER]).unwrap());
    stack.set_secret("edge", "edge-tls", &own).unwrap();
    stack.set_secret("edge", "other-tls", &other).unwrap();
    let port = ports::free().unwrap();
    stack
        .publish_documents(&documents(port, ("", "  connection: { connectionLimit: { value: 2 } }\n")))
        .unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let target = Target::tls(port, HOST, &own.der).unwrap();
    let first =
        send_until(&target, &Request::get(HOST, "/"), "an answer over TCP", |answer| answer.status == 200)
            .unwrap();
    let advertised = format!("h3=\":{port}\"; ma=86400");
    assert_eq!(first.header("alt-svc"), Some(advertised.as_str()));
    let quick = Client::new(&own.der, None);
    let answer = wait::until("an answer over QUIC", || quick.ask(port, HOST, "/over")).unwrap();
    assert_eq!((answer.status, answer.who().as_str()), (200, "web"));
    assert_eq!(answer.header("alt-svc"), Some(advertised.as_str()));
    assert_eq!(answer.echo().unwrap().path, "/over");
    // Another listener of the port has no such policy: it says nothing of HTTP/3, and speaks none.
    let second = Target::tls(port, OTHER, &other.der).unwrap();
    let plain = send(&second, &Request::get(OTHER, "/")).unwrap();
    assert_eq!((plain.status, plain.header("alt-svc")), (200, None));
    assert!(Client::new(&other.der, None).ask(port, OTHER, "/").is_err());
    // What bounds connections bounds these.
    let mut held = Vec::new();
    wait::until("one connection more to be refused", || {
        held.extend(runtime().block_on(quick.connect(port, HOST)));
        anyhow::ensure!(quick.ask(port, HOST, "/").is_err(), "it was answered");
        Ok(())
    })
    .unwrap();
    drop(held);
    wait::until("an answer with fewer of them", || quick.ask(port, HOST, "/")).unwrap();

    // Certificates of clients: over TCP they count, and QUIC, over which not every Envoy asks for them, is not spoken.
    let (authority, client) = Certificate::signed("client.example").unwrap();
    let mut all = documents(
        port,
        (
            "  tls: { clientValidation: { caCertificateRefs: [{ group: '', kind: ConfigMap, name: ca }] } }\n",
            "",
        ),
    );
    all.push(format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: ca, namespace: edge }}\ndata:\n  ca.crt: |\n    {}\n",
        authority.certificate.replace('\n', "\n    ")
    ));
    let bundle = stack.folder().join("secrets/edge/ca");
    std::fs::create_dir_all(&bundle).unwrap();
    std::fs::write(bundle.join("ca.crt"), &authority.certificate).unwrap();
    let published = stack.publish_documents(&all).unwrap();
    assert!(
        published.stderr.contains("MG4104") && published.stderr.contains("certificates of clients"),
        "{}",
        published.stderr
    );
    let mutual = Target::mutual(port, HOST, &own.der, Some(&client)).unwrap();
    wait::until("no more to be said of HTTP/3", || {
        let answer = send(&mutual, &Request::get(HOST, "/"))?;
        anyhow::ensure!(answer.status == 200 && answer.header("alt-svc").is_none(), "{answer:?}");
        anyhow::ensure!(quick.ask(port, HOST, "/").is_err(), "HTTP/3 is spoken");
        Ok(())
    })
    .unwrap();
    assert!(Client::new(&own.der, Some(&client)).ask(port, HOST, "/").is_err());
}
