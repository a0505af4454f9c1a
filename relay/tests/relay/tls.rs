//! TCP: certificates and tokens say whose configuration a client may read; nothing else does.

use crate::client::{ADS_DELTA, Delta};
use crate::issuer::{ISSUER, Issuer, claims, key_set};
use crate::serve::{Server, config, server, view};
use moorgate_relay::metrics::Metrics;
use moorgate_relay::serve::admit::{Membership, Proofs};
use moorgate_relay::serve::hub::Hub;
use moorgate_relay::serve::listen::TcpSocket;
use moorgate_relay::serve::stream::Settings;
use moorgate_relay::serve::tls::{Files, Tls};
use moorgate_relay::serve::token::{KeySource, Keys, Tokens};
use moorgate_relay::serve::types::{CLUSTER, SECRET};
use moorgate_snapshot::FleetName;
use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::{Code, Status};

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate with a name of its own: a URI, or a DNS name.
    pub(crate) fn leaf(&self, name: &str) -> (String, String) {
        self.leaf_until(name, None)
    }

    fn leaf_until(&self, name: &str, end: Option<time::OffsetDateTime>) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["relay".to_owned()]).unwrap();
        params.not_after = end.unwrap_or(params.not_after);
        let text = Ia5String::try_from(name).unwrap();
        params.subject_alt_names.push(if name.contains(':') {
            SanType::URI(text)
        } else {
            SanType::DnsName(text)
        });
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

fn by_name(members: &[(&str, &Arc<Hub>)]) -> Membership {
    Membership::ByName(members.iter().map(|(name, hub)| ((*name).to_owned(), Arc::clone(hub))).collect())
}

/// A TCP address with TLS, and what lies beside it.
struct Door {
    authority: Authority,
    folder: TempDir,
    files: Files,
    tls: watch::Sender<Arc<Tls>>,
    members: watch::Sender<Membership>,
    address: SocketAddr,
    metrics: Arc<Metrics>,
}

impl Door {
    /// Serves these fleets, with client certificates, tokens or both.
    async fn open(
        server: &Server,
        members: &[(&str, &Arc<Hub>)],
        client_ca: bool,
        issuers: &[&Issuer],
    ) -> Self {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        let path = |name: &str| folder.path().join(name);
        let (certificate, key) = authority.leaf("spiffe://moorgate/relay");
        std::fs::write(path("tls.crt"), certificate).unwrap();
        std::fs::write(path("tls.key"), key).unwrap();
        std::fs::write(path("ca.crt"), authority.0.pem()).unwrap();
        let files = Files {
            certificate: path("tls.crt"),
            key: path("tls.key"),
            client_ca: client_ca.then(|| path("ca.crt")),
            tokens: !issuers.is_empty(),
        };
        let tokens = if issuers.is_empty() {
            None
        } else {
            std::fs::write(path("jwks.json"), key_set(issuers)).unwrap();
            let keys = Keys::open(KeySource::File(path("jwks.json"))).await.unwrap();
            Some(Arc::new(Tokens { issuer: ISSUER.into(), audience: "moorgate-relay".into(), keys }))
        };
        let tls = watch::Sender::new(files.load().unwrap());
        let socket = TcpSocket::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (address, metrics) = (socket.address(), Arc::new(Metrics::default()));
        let members = watch::Sender::new(by_name(members));
        let proofs = Proofs {
            membership: members.subscribe(),
            tls: Some(tls.subscribe()),
            tokens,
            clock: moorgate_relay::clock::Clock::new(|| 1000),
            metrics: Arc::clone(&metrics),
        };
        tokio::spawn(socket.serve(proofs, server.frontend.clone()));
        Self { authority, folder, files, tls, members, address, metrics }
    }

    /// A stream with these proofs.
    async fn stream(
        &self,
        client: Option<(String, String)>,
        token: Option<&str>,
        node: &str,
    ) -> Result<Delta, Status> {
        let tokens: Vec<_> = token.map(|token| ("authorization", token)).into_iter().collect();
        stream(&self.authority, self.address, client, (node, &tokens)).await
    }

    /// The name of the only cluster that is served.
    async fn cluster(&self, client: Option<(String, String)>, token: Option<&str>) -> Result<String, Code> {
        let mut envoy = self.stream(client, token, "node").await.map_err(|status| status.code())?;
        envoy.ask(CLUSTER, &[]);
        let response = envoy.next().await.map_err(|status| status.code())?.ok_or(Code::Cancelled)?;
        Ok(response.resources[0].name.clone())
    }

    fn refusals(&self, reason: &str) -> f64 {
        self.metrics.get("moorgate_relay_connections_refused", &[("reason", reason)]).unwrap_or_default()
    }
}

/// A connection to a relay that this authority vouches for.
async fn connect(
    authority: &Authority,
    address: SocketAddr,
    client: Option<(String, String)>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.0.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match client {
        Some((certificate, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("relay").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// A stream of this node with these proofs: a certificate, and tokens in their headers.
pub(crate) async fn stream(
    authority: &Authority,
    address: SocketAddr,
    client: Option<(String, String)>,
    (node, tokens): (&str, &[(&'static str, &str)]),
) -> Result<Delta, Status> {
    let refused = |error: &dyn std::fmt::Display| Status::unavailable(error.to_string());
    let stream = connect(authority, address, client).await.map_err(|error| refused(&error))?;
    let cell = std::sync::Mutex::new(Some(stream));
    let connector = tower::service_fn(move |_| {
        let stream = cell.lock().unwrap().take();
        async move { stream.map(hyper_util::rt::TokioIo::new).ok_or_else(|| std::io::Error::other("used")) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://relay");
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| refused(&error))?;
    Delta::open_as(channel, ADS_DELTA, node, tokens).await
}

/// Another fleet of the same relay, whose only cluster is `b`, with a secret of its own.
fn other_fleet() -> Arc<Hub> {
    let (hub, notices) = Hub::new(FleetName::gateway("other", "b"), Settings::default(), Arc::default());
    // Nobody listens to what its Envoys say.
    drop(notices);
    let secrets = Arc::clone(&config(&[(SECRET, "b-tls", 7)]).types[SECRET]);
    let view = view(config(&[(CLUSTER, "b", 1)]), None);
    let view = moorgate_relay::serve::view::View {
        config: Arc::clone(&view.config),
        fallback: None,
        endpoints: Arc::clone(&view.endpoints),
        secrets,
        extensions: Arc::clone(&view.extensions),
        leftover: Arc::default(),
    };
    hub.publish(Arc::new(view));
    hub
}

#[tokio::test]
async fn the_fleet_comes_from_the_certificate() {
    let server = server();
    server.hub.publish(view(config(&[(CLUSTER, "a", 1)]), None));
    let b = other_fleet();
    let members = [("spiffe://shop/envoy", &server.hub), ("envoy.b.example", &b)];
    let door = Door::open(&server, &members, true, &[]).await;
    let leaf = |name: &str| Some(door.authority.leaf(name));
    assert_eq!(door.cluster(leaf("spiffe://shop/envoy"), None).await, Ok("a".into()));
    assert_eq!(
        door.cluster(leaf("Envoy.B.example"), None).await,
        Ok("b".into()),
        "names of hosts have no case"
    );
    let a = door.stream(leaf("spiffe://shop/envoy"), None, "b").await.unwrap();
    assert!(server.hub.clients().iter().all(|client| client.peer.contains("spiffe://shop/envoy")));
    drop(a);
    for name in ["spiffe://shop/envoy/x", "SPIFFE://shop/envoy", "*", "system:serviceaccount:shop:envoy"] {
        assert!(door.cluster(leaf(name), None).await.is_err(), "{name} gets nothing");
    }
    let impostor = Authority::new();
    assert!(door.cluster(Some(impostor.leaf("spiffe://shop/envoy")), None).await.is_err());
    assert!(door.cluster(None, None).await.is_err(), "no certificate, no service");
    assert!(door.refusals("no_member") >= 4.0);
}

#[tokio::test]
async fn every_certificate_is_admitted_only_where_that_is_said() {
    let server = server();
    server.hub.publish(view(config(&[(CLUSTER, "a", 1)]), None));
    let b = other_fleet();
    let door = Door::open(&server, &[("*", &server.hub), ("envoy.b.example", &b)], true, &[]).await;
    assert_eq!(door.cluster(Some(door.authority.leaf("spiffe://any/body")), None).await, Ok("a".into()));
    assert_eq!(door.cluster(Some(door.authority.leaf("envoy.b.example")), None).await, Ok("b".into()));
    assert!(door.cluster(Some(Authority::new().leaf("spiffe://any/body")), None).await.is_err());
    assert!(door.cluster(None, None).await.is_err());
}

/// The relay's certificate and the clients' CA are those of the moment.
#[tokio::test]
async fn tls_files_are_renewed_without_a_restart() {
    let server = server();
    server.hub.publish(view(config(&[(CLUSTER, "a", 1)]), None));
    let mut door = Door::open(&server, &[("spiffe://shop/envoy", &server.hub)], true, &[]).await;
    let old = door.authority.leaf("spiffe://shop/envoy");
    assert!(door.cluster(Some(old.clone()), None).await.is_ok());
    let mut held = door.stream(Some(old.clone()), None, "node").await.unwrap();
    held.ask(CLUSTER, &[]);
    let first = held.response().await;
    held.ack(&first);
    // A pair that does not fit is not taken over.
    let next = Authority::new();
    let (certificate, key) = next.leaf("spiffe://moorgate/relay");
    std::fs::write(&door.files.certificate, certificate).unwrap();
    assert!(door.files.load().is_err());
    std::fs::write(&door.files.key, key).unwrap();
    let (before, authorities) = (door.authority.0.pem(), door.folder.path().join("ca.crt"));
    // While both authorities count, whoever is connected stays.
    std::fs::write(&authorities, format!("{before}{}", next.0.pem())).unwrap();
    door.tls.send_replace(door.files.load().unwrap());
    server.hub.publish(view(config(&[(CLUSTER, "a", 2)]), None));
    let second = held.response().await;
    held.ack(&second);
    std::fs::write(&authorities, next.0.pem()).unwrap();
    door.tls.send_replace(door.files.load().unwrap());
    door.authority = next;
    let new = door.authority.leaf("spiffe://shop/envoy");
    assert!(door.cluster(Some(new), None).await.is_ok());
    assert!(door.cluster(Some(old), None).await.is_err(), "the old authority is trusted no more");
    assert!(held.next().await.is_err(), "and whom it vouched for is cut off");
    assert!(door.refusals("lost_trust") >= 1.0);
}

/// Who loses its right, or gets that of another fleet, is cut off at once; nobody else notices.
#[tokio::test]
async fn who_may_ask_changes_while_the_relay_runs() {
    let server = server();
    server.hub.publish(view(config(&[(CLUSTER, "a", 1)]), None));
    let (b, issuer) = (other_fleet(), Issuer::new("k"));
    let (first, second) = ("spiffe://shop/first", "spiffe://shop/second");
    let (account, moved) = ("system:serviceaccount:shop:envoy", "system:serviceaccount:shop:moved");
    let all = [(first, &server.hub), (second, &server.hub), (account, &server.hub), (moved, &server.hub)];
    let door = Door::open(&server, &all, true, &[&issuer]).await;
    let leaf = |name: &str| Some(door.authority.leaf(name));
    let [of_account, of_moved] = ["shop:envoy", "shop:moved"].map(|name| issuer.token(name));
    let mut streams = Vec::new();
    for (certificate, token) in
        [(leaf(first), None), (leaf(second), None), (None, Some(&of_account)), (None, Some(&of_moved))]
    {
        let mut envoy = door.stream(certificate, token.map(String::as_str), "node").await.unwrap();
        envoy.ask(CLUSTER, &[]);
        let response = envoy.response().await;
        envoy.ack(&response);
        streams.push(envoy);
    }
    let [mut one, mut two, mut three, mut four] = <[Delta; 4]>::try_from(streams).ok().unwrap();
    door.members.send_replace(by_name(&[(second, &server.hub), (account, &server.hub), (moved, &b)]));
    assert!(one.next().await.is_err(), "a certificate that names no fleet any more");
    assert!(four.next().await.is_err(), "an account of another fleet now");
    assert!(door.refusals("lost_membership") >= 2.0);
    assert!(door.cluster(leaf(first), None).await.is_err());
    assert_eq!(door.cluster(None, Some(&of_moved)).await, Ok("b".into()));
    server.hub.publish(view(config(&[(CLUSTER, "a", 2)]), None));
    for envoy in [&mut two, &mut three] {
        assert_eq!(envoy.response().await.resources[0].name, "a", "who kept its right kept its stream");
    }
    // The token's account goes too, and the first comes back.
    door.members.send_replace(by_name(&[(first, &server.hub), (second, &server.hub)]));
    assert!(three.next().await.is_err());
    assert_eq!(door.cluster(None, Some(&of_account)).await, Err(Code::PermissionDenied));
    assert_eq!(door.cluster(leaf(first), None).await, Ok("a".into()));
}

/// A stream does not outlive the certificate that it was opened with.
#[tokio::test]
async fn a_certificate_that_runs_out_takes_its_streams_along() {
    let server = server();
    server.hub.publish(view(config(&[(CLUSTER, "a", 1)]), None));
    let door = Door::open(&server, &[("spiffe://shop/envoy", &server.hub)], true, &[]).await;
    let end = time::OffsetDateTime::now_utc() + Duration::from_secs(2);
    let leaf = door.authority.leaf_until("spiffe://shop/envoy", Some(end));
    let mut envoy = door.stream(Some(leaf), None, "node").await.unwrap();
    envoy.ask(CLUSTER, &[]);
    let first = envoy.response().await;
    envoy.ack(&first);
    // The relay looks at it whenever it reads its files again.
    let again = async {
        loop {
            door.tls.send_replace(door.files.load().unwrap());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let next = tokio::select! {
        next = envoy.next() => next,
        () = again => unreachable!("it goes on for ever"),
    };
    assert!(next.is_err());
    assert!(time::OffsetDateTime::now_utc() >= end, "it was cut off too early");
    assert!(door.refusals("lost_trust") >= 1.0);
}

#[tokio::test]
async fn the_fleet_comes_from_the_token() {
    let server = server();
    server.hub.publish(view(config(&[(CLUSTER, "a", 1)]), None));
    let (b, issuer) = (other_fleet(), Issuer::new("k"));
    let members =
        [("system:serviceaccount:shop:envoy", &server.hub), ("system:serviceaccount:other:envoy", &b)];
    let door = Door::open(&server, &members, false, &[&issuer]).await;
    let (of_a, of_b) = (issuer.token("shop:envoy"), issuer.token("other:envoy"));
    assert_eq!(door.cluster(None, Some(&of_a)).await, Ok("a".into()));
    assert_eq!(door.cluster(None, Some(&of_b)).await, Ok("b".into()));
    // What a client says of itself decides nothing, and of another fleet's secret it hears what it would of none.
    let mut envoy = door.stream(None, Some(&of_a), "other/b").await.unwrap();
    envoy.ask(SECRET, &["b-tls", "of-nobody"]);
    let response = envoy.response().await;
    assert!(response.resources.is_empty());
    assert_eq!(response.removed_resources, ["b-tls", "of-nobody"]);
    // Its refusals are its own fleet's business.
    envoy.nack(&response, "no");
    assert!(b.clients().is_empty());
    let peer = server.hub.clients().last().unwrap().peer.clone();
    assert!(peer.contains("system:serviceaccount:shop:envoy pod envoy-0"), "{peer}");
    assert!(!peer.contains(&of_a[..20]));
}

#[tokio::test]
async fn tokens_that_do_not_count_open_nothing() {
    let server = server();
    server.hub.publish(view(config(&[(CLUSTER, "a", 1)]), None));
    let (issuer, stranger) = (Issuer::new("k"), Issuer::new("k"));
    let door =
        Door::open(&server, &[("system:serviceaccount:shop:envoy", &server.hub)], false, &[&issuer]).await;
    let changed = |name: &str, value: serde_json::Value| {
        let mut all = claims("shop:envoy");
        all[name] = value;
        issuer.sign(&issuer.header(), &all)
    };
    let cases = [
        (None, Code::Unauthenticated, "token_absent"),
        (Some("x".to_owned()), Code::Unauthenticated, "token_form"),
        (Some(stranger.token("shop:envoy")), Code::Unauthenticated, "token_signature"),
        (Some(changed("exp", json!(999))), Code::Unauthenticated, "token_expired"),
        (Some(changed("aud", json!(["moorgate-store"]))), Code::Unauthenticated, "token_audience"),
        (Some(changed("iss", json!("https://other"))), Code::Unauthenticated, "token_issuer"),
        (Some(issuer.token("shop:other")), Code::PermissionDenied, "no_member"),
    ];
    for (token, code, reason) in cases {
        assert_eq!(door.cluster(None, token.as_deref()).await, Err(code), "{reason}");
        assert!(door.refusals(reason) > 0.0, "{reason}");
    }
    assert!(server.hub.clients().is_empty());
}

/// Where both are asked for, either is enough, and one that is bad is not made good by the other.
#[tokio::test]
async fn certificates_and_tokens_go_together() {
    let server = server();
    server.hub.publish(view(config(&[(CLUSTER, "a", 1)]), None));
    let (b, issuer) = (other_fleet(), Issuer::new("k"));
    let members = [("spiffe://shop/envoy", &server.hub), ("system:serviceaccount:other:envoy", &b)];
    let door = Door::open(&server, &members, true, &[&issuer]).await;
    let token = issuer.token("other:envoy");
    let leaf = |name: &str| Some(door.authority.leaf(name));
    assert_eq!(door.cluster(leaf("spiffe://shop/envoy"), None).await, Ok("a".into()));
    assert_eq!(door.cluster(None, Some(&token)).await, Ok("b".into()));
    assert_eq!(door.cluster(leaf("spiffe://shop/envoy"), Some(&token)).await, Ok("a".into()));
    assert!(door.cluster(leaf("spiffe://other/envoy"), Some(&token)).await.is_err());
    assert_eq!(door.cluster(None, None).await, Err(Code::Unauthenticated));
}

#[test]
fn a_missing_key_is_named_without_its_content() {
    let files = Files {
        certificate: "/nonexistent/tls.crt".into(),
        key: "/nonexistent/tls.key".into(),
        client_ca: Some("/nonexistent/ca.crt".into()),
        tokens: false,
    };
    assert!(files.load().unwrap_err().to_string().contains("/nonexistent/ca.crt"));
    let nobody = Files { client_ca: None, ..files };
    assert!(nobody.load().unwrap_err().to_string().contains("prove nothing"));
}
