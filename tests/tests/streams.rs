//! TLS, TCP and UDP on a real Envoy: publish, relay, Envoy, bytes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use anyhow::{Context as _, Result, bail, ensure};
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{Request, Target, send_until};
use moorgate_tests::program::run;
use moorgate_tests::stack::{Protocol, Stack};
use moorgate_tests::{manifest, ports, runtime, wait};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{SocketAddr, UdpSocket as Socket};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// How long one exchange may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A backend that says its name; dropping it stops it.
struct Peer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peer {
    /// Answers a line on a plain connection.
    fn plain(name: &'static str) -> Self {
        let listener = runtime().block_on(TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let task = runtime().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move { drop(answer(stream, name).await) });
            }
        });
        Self { address, task }
    }

    /// Answers a line on a TLS connection, with the server name and whether the client showed this certificate.
    fn tls(name: &'static str, certificate: &Certificate, client: Option<&Certificate>) -> Self {
        let listener = runtime().block_on(TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(server(certificate, client)));
        let task = runtime().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let stream = acceptor.accept(stream).await?;
                    let session = stream.get_ref().1;
                    let shown = session.peer_certificates().is_some_and(|shown| !shown.is_empty());
                    let text = format!("{name} {} {shown}", session.server_name().unwrap_or("-"));
                    answer(stream, &text).await
                });
            }
        });
        Self { address, task }
    }

    /// Answers each datagram.
    fn datagrams(name: &'static str) -> Self {
        let socket = runtime().block_on(UdpSocket::bind(("127.0.0.1", 0))).unwrap();
        let address = socket.local_addr().unwrap();
        let task = runtime().spawn(async move {
            let mut buffer = [0; 64];
            while let Ok((_, client)) = socket.recv_from(&mut buffer).await {
                let _ = socket.send_to(name.as_bytes(), client).await;
            }
        });
        Self { address, task }
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, text: &str) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn pair(certificate: &Certificate) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    (vec![certificate.der.clone().into()], PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap())
}

fn roots(trusted: &Certificate) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der.clone().into()).unwrap();
    roots
}

fn server(certificate: &Certificate, client: Option<&Certificate>) -> ServerConfig {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let builder = match client {
        Some(client) => {
            let roots = Arc::new(roots(client));
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            builder.with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
        }
        None => builder.with_no_client_auth(),
    };
    let (chain, key) = pair(certificate);
    builder.with_single_cert(chain, key).unwrap()
}

/// Sends a line and reads what comes until the end; nothing at all is an error.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, line: &str) -> Result<String> {
    stream.write_all(line.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    ensure!(!text.is_empty(), "closed without a word");
    Ok(text)
}

fn say(port: u16) -> Result<String> {
    runtime().block_on(async {
        let talk = async { exchange(TcpStream::connect(("127.0.0.1", port)).await?, "hello\n").await };
        tokio::time::timeout(TIMEOUT, talk).await.context("no answer in time")?
    })
}

/// The same over TLS with this server name, trusting one certificate and showing another.
fn say_in_tls(port: u16, name: &str, trusted: &Certificate, own: Option<&Certificate>) -> Result<String> {
    say_line_in_tls(port, name, trusted, own, "hello\n")
}

fn say_line_in_tls(
    port: u16,
    name: &str,
    trusted: &Certificate,
    own: Option<&Certificate>,
    line: &str,
) -> Result<String> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(trusted));
    let config = match own {
        Some(own) => {
            let (chain, key) = pair(own);
            builder.with_client_auth_cert(chain, key)?
        }
        None => builder.with_no_client_auth(),
    };
    let name = ServerName::try_from(name.to_owned())?;
    runtime().block_on(async {
        let talk = async {
            let stream = TcpStream::connect(("127.0.0.1", port)).await?;
            exchange(TlsConnector::from(Arc::new(config)).connect(name, stream).await?, line).await
        };
        tokio::time::timeout(TIMEOUT, talk).await.context("no answer in time")?
    })
}

fn until(what: &str, wanted: &str, ask: impl Fn() -> Result<String>) {
    let asked = || match ask()? {
        found if found == wanted => Ok(()),
        found => bail!("{found}"),
    };
    wait::until(what, asked).unwrap();
}

/// Class, Gateway `edge/public` with these listeners and further fields in flow style, and Services of namespace `shop`.
fn base(more: &str, listeners: &[String], services: &[&str]) -> Vec<String> {
    let mut gateway = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: public, namespace: edge }}\nspec:\n  \
         gatewayClassName: moorgate\n{more}  listeners:\n"
    );
    for listener in listeners {
        let _ = writeln!(gateway, "    - {{ {listener}, allowedRoutes: {{ namespaces: {{ from: All }} }} }}");
    }
    let mut all = vec![manifest::gateway_class(), gateway];
    all.extend(services.iter().map(|name| manifest::service("shop", name)));
    all
}

/// A route of namespace `shop` to this listener; backends in flow style.
fn route(kind: &str, name: &str, listener: &str, hostname: Option<&str>, backends: &str) -> String {
    let hostnames = hostname.map(|host| format!("  hostnames: [{host}]\n")).unwrap_or_default();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{ name: {name}, namespace: shop }}\nspec:\n  \
         parentRefs: [{{ name: public, namespace: edge, sectionName: {listener} }}]\n{hostnames}  rules: [{{ backendRefs: \
         [{backends}] }}]\n"
    )
}

#[test]
fn server_names_choose_what_passes_through_and_what_ends_here() {
    let (mut stack, port) = (Stack::new("edge/public").unwrap(), ports::free().unwrap());
    let names = [
        "pass.example.com",
        "ends.example.com",
        "web.example.com",
        "safe.example.com",
        "idle.example.com",
        "bytes.example.com",
    ];
    let [pass, ends, web, inner, idle, bytes] = names.map(|name| Certificate::for_names(&[name]).unwrap());
    let through = Peer::tls("through", &pass, None);
    let (plain, web_backend) = (Peer::plain("plain"), Backend::start("web").unwrap());
    for (name, address) in
        [("through", through.address), ("plain", plain.address), ("web", web_backend.address())]
    {
        stack.set_endpoints("shop", name, &[address]).unwrap();
    }
    stack.set_secret("edge", "ends", &ends).unwrap();
    stack.set_secret("edge", "web", &web).unwrap();
    stack.set_secret("edge", "bytes", &bytes).unwrap();
    let listeners = [
        format!(
            "name: through, port: {port}, protocol: TLS, hostname: '*.example.com', tls: {{ mode: Passthrough }}"
        ),
        format!(
            "name: ends, port: {port}, protocol: TLS, hostname: ends.example.com, tls: {{ mode: Terminate, \
             certificateRefs: [{{ name: ends }}] }}"
        ),
        format!(
            "name: web, port: {port}, protocol: HTTPS, hostname: web.example.com, tls: {{ certificateRefs: [{{ name: \
             web }}] }}"
        ),
        format!(
            "name: idle, port: {port}, protocol: TLS, hostname: idle.example.com, tls: {{ mode: Passthrough }}"
        ),
        format!(
            "name: bytes, port: {port}, protocol: TLS, hostname: bytes.example.com, tls: {{ mode: Terminate, \
             certificateRefs: [{{ name: bytes }}] }}"
        ),
    ];
    let mut all = base("", &listeners, &["through", "plain", "web"]);
    all.extend([
        route("TLSRoute", "through", "through", Some("'*.example.com'"), "{ name: through, port: 80 }"),
        route("TLSRoute", "ends", "ends", Some("ends.example.com"), "{ name: plain, port: 80 }"),
        route("TCPRoute", "bytes", "bytes", None, "{ name: plain, port: 80 }"),
        manifest::http_route("shop", "web", "edge/public", &["web.example.com"], &manifest::rule("/", "web")),
    ]);
    stack.publish_documents(&all).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    // The client meets the backend's own certificate, and the backend the client's server name.
    until("what passes through", "through pass.example.com false", || {
        say_in_tls(port, "pass.example.com", &pass, None)
    });
    until("what ends here", "plain", || say_in_tls(port, "ends.example.com", &ends, None));
    until("a TCPRoute where TLS ends", "plain", || say_in_tls(port, "bytes.example.com", &bytes, None));
    let target = Target::tls(port, "web.example.com", &web.der).unwrap();
    let request = Request::get("web.example.com", "/");
    send_until(&target, &request, "HTTPS beside them", |answer| answer.who() == "web").unwrap();
    // A listener without routes closes, and the wider one does not take over; nor does anybody take other names.
    for (name, certificate) in [("idle.example.com", &idle), ("other.example.org", &inner)] {
        assert!(say_in_tls(port, name, certificate, None).is_err(), "{name}");
    }
    assert!(say(port).is_err(), "no TLS at all");
}

#[test]
fn connections_are_shared_by_weight_and_the_broken_share_is_closed() {
    let (mut stack, port) = (Stack::new("edge/public").unwrap(), ports::free().unwrap());
    let (heavy, light) = (Peer::plain("heavy"), Peer::plain("light"));
    stack.set_endpoints("shop", "heavy", &[heavy.address]).unwrap();
    stack.set_endpoints("shop", "light", &[light.address]).unwrap();
    let listeners = [format!("name: tcp, port: {port}, protocol: TCP")];
    let publish = |backends: &str| {
        let mut all = base("", &listeners, &["heavy", "light"]);
        all.push(route("TCPRoute", "tcp", "tcp", None, backends));
        stack.publish_documents(&all).unwrap();
    };
    publish(
        "{ name: heavy, port: 80, weight: 6 }, { name: light, port: 80, weight: 2 }, { name: gone, port: 80, weight: 2 }",
    );
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    for name in ["heavy", "light"] {
        until(name, name, || say(port));
    }
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..400 {
        *counts.entry(say(port).unwrap_or_else(|_| "closed".to_owned())).or_default() += 1;
    }
    // 240, 80 and 80 expected, standard deviations 10, 8 and 8: six of them to either side.
    assert!((180..=300).contains(&counts["heavy"]), "{counts:?}");
    assert!((32..=128).contains(&counts["light"]) && (32..=128).contains(&counts["closed"]), "{counts:?}");
}

fn send_datagram(socket: &Socket, port: u16) -> Result<String> {
    socket.send_to(b"hello", ("127.0.0.1", port))?;
    let mut buffer = [0; 64];
    let (length, _) = socket.recv_from(&mut buffer).context("no datagram came back")?;
    Ok(String::from_utf8(buffer[..length].to_vec())?)
}

fn socket(patience: Duration) -> Socket {
    let socket = Socket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    socket
}

#[test]
fn sessions_of_datagrams_are_shared_by_weight() {
    let (mut stack, udp, tcp) =
        (Stack::new("edge/public").unwrap(), ports::free().unwrap(), ports::free().unwrap());
    let (heavy, light) = (Peer::datagrams("heavy"), Peer::datagrams("light"));
    stack.set_endpoints("shop", "heavy", &[heavy.address]).unwrap();
    stack.set_endpoints("shop", "light", &[light.address]).unwrap();
    // A TCP listener of the same number does not mind.
    let listeners = [
        format!("name: udp, port: {udp}, protocol: UDP"),
        format!("name: both, port: {udp}, protocol: TCP"),
        format!("name: tcp, port: {tcp}, protocol: TCP"),
    ];
    let mut all = base("", &listeners, &["heavy", "light"]);
    for service in &mut all[2..] {
        *service = service.replace("      port: 80\n", "      port: 80\n      protocol: UDP\n");
    }
    let backends = "{ name: heavy, port: 80, weight: 7 }, { name: light, port: 80, weight: 3 }";
    all.push(route("UDPRoute", "udp", "udp", None, backends));
    stack.publish_documents(&all).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[tcp, udp]).unwrap();
    for name in ["heavy", "light"] {
        until(name, name, || send_datagram(&socket(Duration::from_secs(1)), udp));
    }
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..400 {
        let socket = socket(TIMEOUT);
        let first = send_datagram(&socket, udp).unwrap();
        // A session stays where it is.
        assert_eq!(send_datagram(&socket, udp).unwrap(), first);
        *counts.entry(first).or_default() += 1;
    }
    // 280 expected, standard deviation 9: seven of them to either side.
    assert!((215..=345).contains(&counts["heavy"]), "{counts:?}");
    assert_eq!(counts["heavy"] + counts["light"], 400, "{counts:?}");
}

/// Publishes these listeners and a route, whatever was there before.
fn publish_all(stack: &Stack, listeners: &[String], route: String) {
    let mut all = base("", listeners, &["plain", "web"]);
    all.push(route);
    let file = stack.folder().join("source.yaml");
    std::fs::write(&file, manifest::documents(&all)).unwrap();
    run(stack.signed("publish").unwrap().arg("--allow-shrink").arg(&file)).unwrap().ended_with(&[0]).unwrap();
}

/// The Envoy listener of a port takes its name from the protocol, so one that changes is another listener on an address that
/// the first still has. A running Envoy takes over in one step, in both protocols of xDS, and back.
#[test]
fn a_port_changes_its_protocol_under_a_running_envoy() {
    for protocol in [Protocol::Delta, Protocol::StateOfTheWorld] {
        let (mut stack, port) = (Stack::new("edge/public").unwrap(), ports::free().unwrap());
        stack.protocol = protocol;
        let certificate = Certificate::for_names(&["shop.example.com"]).unwrap();
        let (plain, web) = (Peer::plain("plain"), Backend::start("web").unwrap());
        stack.set_endpoints("shop", "plain", &[plain.address]).unwrap();
        stack.set_endpoints("shop", "web", &[web.address()]).unwrap();
        stack.set_secret("edge", "shop", &certificate).unwrap();
        let requests = || {
            let rule = manifest::rule("/", "web");
            manifest::http_route("shop", "web", "edge/public", &["shop.example.com"], &rule)
        };
        let http = format!("name: l, port: {port}, protocol: HTTP");
        let tcp = format!("name: l, port: {port}, protocol: TCP");
        let https =
            format!("name: l, port: {port}, protocol: HTTPS, tls: {{ certificateRefs: [{{ name: shop }}] }}");
        let udp = format!("name: u, port: {port}, protocol: UDP");
        let bytes = || route("TCPRoute", "tcp", "l", None, "{ name: plain, port: 80 }");
        publish_all(&stack, std::slice::from_ref(&http), requests());
        stack.start_relay().unwrap();
        stack.start_envoy(&[port]).unwrap();
        let request = Request::get("shop.example.com", "/");
        let (open, closed) =
            (Target::plain(port), Target::tls(port, "shop.example.com", &certificate.der).unwrap());
        send_until(&open, &request, "HTTP", |answer| answer.who() == "web").unwrap();
        publish_all(&stack, std::slice::from_ref(&tcp), bytes());
        until("TCP in its place", "plain", || say(port));
        // Datagrams of the same number are another socket, which takes nothing away.
        publish_all(&stack, &[tcp, udp.clone()], bytes());
        publish_all(&stack, &[https, udp], requests());
        send_until(&closed, &request, "HTTPS in its place", |answer| answer.who() == "web").unwrap();
        publish_all(&stack, &[http], requests());
        send_until(&open, &request, "HTTP again", |answer| answer.who() == "web").unwrap();
    }
}

#[test]
fn clients_show_certificates_to_the_gateway_and_the_gateway_to_backends() {
    let mut stack = Stack::new("edge/public").unwrap();
    let [checked, optional, tls] = [(); 3].map(|()| ports::free().unwrap());
    let certificate = |name: &str| Certificate::for_names(&[name]).unwrap();
    let (gateway, inner) = (certificate("shop.example.com"), certificate("safe.internal"));
    let (client, stranger, own) = (certificate("client"), certificate("stranger"), certificate("gateway"));
    let (safe, web) = (Peer::tls("safe", &inner, Some(&own)), Backend::start("web").unwrap());
    stack.set_endpoints("shop", "safe", &[safe.address]).unwrap();
    stack.set_endpoints("shop", "web", &[web.address()]).unwrap();
    stack.set_secret("edge", "gateway", &gateway).unwrap();
    stack.set_secret("edge", "own", &own).unwrap();
    for (namespace, name, text) in
        [("edge", "clients", &client.certificate), ("shop", "inner", &inner.certificate)]
    {
        let folder = stack.folder().join("secrets").join(namespace).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("ca.crt"), text).unwrap();
    }
    let refs = "caCertificateRefs: [{ group: '', kind: ConfigMap, name: clients }]";
    let more = format!(
        "  tls:\n    backend: {{ clientCertificateRef: {{ name: own }} }}\n    frontend:\n      default: {{ validation: {{ \
         {refs} }} }}\n      perPort: [{{ port: {optional}, tls: {{ validation: {{ mode: AllowInsecureFallback, {refs} }} \
         }} }}]\n"
    );
    let terminates = "certificateRefs: [{ name: gateway }]";
    let listeners = [
        format!("name: checked, port: {checked}, protocol: HTTPS, tls: {{ {terminates} }}"),
        format!("name: optional, port: {optional}, protocol: HTTPS, tls: {{ {terminates} }}"),
        format!(
            "name: tls, port: {tls}, protocol: TLS, hostname: shop.example.com, tls: {{ mode: Terminate, {terminates} }}"
        ),
    ];
    let mut all = base(&more, &listeners, &["safe", "web"]);
    all.push(route("TLSRoute", "safe", "tls", Some("shop.example.com"), "{ name: safe, port: 80 }"));
    all.push(manifest::http_route(
        "shop",
        "web",
        "edge/public",
        &["shop.example.com"],
        &manifest::rule("/", "web"),
    ));
    all.push(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: { name: safe, namespace: shop }\nspec:\n  \
         targetRefs: [{ group: '', kind: Service, name: safe }]\n  validation:\n    hostname: safe.internal\n    \
         caCertificateRefs: [{ group: '', kind: ConfigMap, name: inner }]\n"
            .to_owned(),
    );
    stack.publish_documents(&all).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[checked, optional, tls]).unwrap();
    // TLS ends, and begins anew towards the backend: with the policy's name and the Gateway's certificate.
    until("the backend to see the Gateway's certificate", "safe safe.internal true", || {
        say_in_tls(tls, "shop.example.com", &gateway, None)
    });
    let get = "GET / HTTP/1.1\r\nhost: shop.example.com\r\nconnection: close\r\n\r\n";
    let status = |port: u16, own: Option<&Certificate>| {
        let text = say_line_in_tls(port, "shop.example.com", &gateway, own, get)?;
        Ok(text.get(..12).unwrap_or_default().to_owned())
    };
    until("a client with its certificate", "HTTP/1.1 200", || status(checked, Some(&client)));
    assert!(status(checked, Some(&stranger)).is_err(), "a certificate that nobody signed");
    assert!(status(checked, None).is_err(), "no certificate");
    for own in [Some(&client), Some(&stranger), None] {
        until("a client that need not show one", "HTTP/1.1 200", || status(optional, own));
    }
}
