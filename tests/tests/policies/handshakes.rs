//! Handshakes: listeners that want certain versions, ciphers, curves, signatures, protocols and certificates, each with a client
//! that has what it wants and one that has not.

use super::behaviour::{HOST, policy};
use super::traffic::raw;
use moorgate_snapshot::Digest;
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::ports;
use moorgate_tests::stack::Stack;
use rustls::crypto::ring::{self as crypto, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, SupportedCipherSuite};
use std::net::TcpStream;
use std::sync::Arc;

/// What a client can do; its answer is what was agreed.
pub(crate) struct Client<'c> {
    server: &'c Certificate,
    pub(crate) suites: Vec<SupportedCipherSuite>,
    groups: Vec<&'static dyn SupportedKxGroup>,
    protocols: Vec<Vec<u8>>,
}

impl<'c> Client<'c> {
    pub(crate) fn of(server: &'c Certificate) -> Self {
        Self {
            server,
            suites: crypto::ALL_CIPHER_SUITES.to_vec(),
            groups: crypto::ALL_KX_GROUPS.to_vec(),
            protocols: Vec::new(),
        }
    }

    /// The version, the cipher and the protocol that were agreed on; none if nothing was.
    pub(crate) fn agrees(
        &self,
        port: u16,
    ) -> Option<(ProtocolVersion, rustls::CipherSuite, Option<Vec<u8>>)> {
        let provider = CryptoProvider {
            cipher_suites: self.suites.clone(),
            kx_groups: self.groups.clone(),
            ..crypto::default_provider()
        };
        let mut roots = RootCertStore::empty();
        roots.add(self.server.der.clone().into()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols.clone_from(&self.protocols);
        let mut connection = ClientConnection::new(Arc::new(config), HOST.try_into().unwrap()).unwrap();
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut socket).ok()?;
        }
        let version = connection.protocol_version().unwrap();
        let suite = connection.negotiated_cipher_suite().unwrap().suite();
        Some((version, suite, connection.alpn_protocol().map(<[u8]>::to_vec)))
    }
}

const OLD: &str = "  tls:
    minVersion: '1.2'
    maxVersion: '1.2'
    ciphers: [ECDHE-ECDSA-AES256-GCM-SHA384]
    alpnProtocols: [http/1.1]
";
const CURVE: &str = "  tls: { ecdhCurves: [P-384], signatureAlgorithms: [ecdsa_secp256r1_sha256] }\n";
const SIGNED: &str = "  tls: { signatureAlgorithms: [rsa_pss_rsae_sha256] }\n";

#[test]
fn handshakes_are_as_their_policies_say() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    let server = Certificate::for_names(&[HOST]).unwrap();
    stack.set_secret("edge", "cert", &server).unwrap();
    let [(first, known), (second, other)] =
        [0; 2].map(|_| Certificate::signed("a.devices.example.com").unwrap());
    let bundle = stack.folder().join("secrets/edge/devices");
    std::fs::create_dir_all(&bundle).unwrap();
    std::fs::write(bundle.join("ca.crt"), first.certificate + &second.certificate).unwrap();
    let ports: [u16; 7] = std::array::from_fn(|_| ports::free().unwrap());
    let [usual, old, curve, signed, whole, key, proxied] = ports;
    let names = ["usual", "old", "curve", "signed", "whole", "key"];
    let mut listeners: Vec<Listener> =
        names.iter().zip(ports).map(|(name, port)| Listener::https(name, port, "cert")).collect();
    listeners.push(Listener::http("proxied", proxied));
    let on = |section: &str, spec: &str| {
        policy(section, "ClientTrafficPolicy", "Gateway", &format!("public, sectionName: {section}"), spec)
    };
    let pinned = |hashes: String| {
        format!(
            "  tls: {{ clientValidation: {{ {hashes}, caCertificateRefs: [{{ group: '', kind: ConfigMap, name: devices }}] }} }}\n"
        )
    };
    let digest = Digest::of(&known.der).to_string();
    let documents = [
        manifest::gateway_class(),
        manifest::service("edge", "web"),
        manifest::gateway("edge", "public", &listeners),
        manifest::http_route("edge", "web", "edge/public", &[], &manifest::rule("/", "web")),
        on("old", OLD),
        on("curve", CURVE),
        on("signed", SIGNED),
        on("whole", &pinned(format!("certificateHashes: ['{digest}']"))),
        on("key", &pinned(format!("spkiHashes: ['{}']", known.pin().unwrap()))),
        on("proxied", "  enableProxyProtocol: true\n"),
    ];
    stack.publish_documents(&documents).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&ports).unwrap();
    let request = Request::get(HOST, "/");
    let target = Target::tls(usual, HOST, &server.der).unwrap();
    send_until(&target, &request, "an answer", |answer| answer.status == 200).unwrap();

    versions(&Client::of(&server), usual, old);
    let few = Client { groups: vec![kx_group::X25519], ..Client::of(&server) };
    let more = Client { groups: vec![kx_group::X25519, kx_group::SECP384R1], ..Client::of(&server) };
    assert!(few.agrees(usual).is_some() && few.agrees(curve).is_none() && more.agrees(curve).is_some());
    // The certificate's key is of another kind than the signatures that may be made.
    assert!(more.agrees(signed).is_none());

    for port in [whole, key] {
        let showing = |client: Option<&Certificate>| Target::mutual(port, HOST, &server.der, client).unwrap();
        send_until(&showing(Some(&known)), &request, "a pinned client", |answer| answer.status == 200)
            .unwrap();
        for client in [Some(&other), None] {
            let answer = send(&showing(client), &request);
            assert!(answer.is_err(), "{port} {answer:?}");
        }
    }
    // Whoever comes by a proxy says so first.
    let asked = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    let told = raw(proxied, format!("PROXY TCP4 203.0.113.9 127.0.0.1 5 6\r\n{asked}").as_bytes());
    assert!(told.contains(" 200 ") && told.contains("203.0.113.9"), "{told}");
    assert!(!raw(proxied, asked.as_bytes()).contains(" 200 "));
}

fn versions(client: &Client<'_>, usual: u16, old: u16) {
    let (version, ..) = client.agrees(usual).unwrap();
    assert_eq!(version, ProtocolVersion::TLSv1_3);
    let offered = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let both = Client { protocols: offered.clone(), ..Client::of(client.server) };
    let wanted = cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384;
    let agreed = (ProtocolVersion::TLSv1_2, wanted.suite(), offered.last().cloned());
    assert_eq!(both.agrees(old), Some(agreed));
    assert_eq!(both.agrees(usual).and_then(|agreed| agreed.2), offered.first().cloned());
    let newer = Client { suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256], ..Client::of(client.server) };
    let others = vec![cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256];
    let another = Client { suites: others, ..Client::of(client.server) };
    for client in [newer, another] {
        assert!(client.agrees(usual).is_some() && client.agrees(old).is_none());
    }
}
