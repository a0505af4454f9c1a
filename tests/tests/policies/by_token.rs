//! Modules of code from a relay on TCP, which knows an Envoy by the token in a file: of its own fleet, and as it is at the time.

use super::behaviour::HOST;
use super::extensions::module;
use super::modules::{RAW, Registry, SENT, header, hex, metric, source, update};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moorgate_snapshot::record::module_path;
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::envoy::Envoy;
use moorgate_tests::http::{Answer, Http2, Request, Target, send};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::ports;
use moorgate_tests::process::Running;
use moorgate_tests::program::run;
use moorgate_tests::stack::Stack;
use moorgate_tests::wait;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

const ISSUER: &str = "https://issuer.example";
/// What the relay counts where a token has another signature than its key makes.
const FORGED: &str = r#"moorgate_relay_connections_refused_total{reason="token_signature"}"#;

/// Whoever gives out projected tokens, with a key of this name.
struct Issuer(EcdsaKeyPair, &'static str);

impl Issuer {
    fn new(name: &'static str) -> Self {
        let random = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, made.as_ref(), &random).unwrap();
        Self(key, name)
    }

    /// The key set (RFC 7517) with its key alone.
    fn keys(&self) -> String {
        let point = &self.0.public_key().as_ref()[1..];
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (x, y) = (part(&point[..32]), part(&point[32..]));
        let key =
            json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.1, "x": x, "y": y});
        json!({"keys": [key]}).to_string()
    }

    /// A token of a pod of this account in the namespace `edge`.
    fn token(&self, account: &str) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let head = json!({"alg": "ES256", "kid": self.1});
        let claims = json!({
            "iss": ISSUER, "aud": ["moorgate-relay"], "exp": 4_000_000_000_u32, "iat": 1, "nbf": 1,
            "sub": format!("system:serviceaccount:edge:{account}"),
            "kubernetes.io": {
                "namespace": "edge", "pod": {"name": format!("{account}-0"), "uid": "2"},
                "serviceaccount": {"name": account, "uid": "1"},
            },
        });
        let message = format!("{}.{}", part(&head), part(&claims));
        let signature = self.0.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// What relay and Envoy are told of each other: files in a folder.
struct Door {
    folder: PathBuf,
    port: u16,
    relay: Target,
}

impl Door {
    /// Lays the files, and tells the relay to serve two fleets there, each to an account of its own.
    fn lay(stack: &mut Stack, issuer: &Issuer) -> Self {
        let (folder, port) = (stack.folder().join("keys"), ports::free().unwrap());
        let (authority, own) = Certificate::signed("127.0.0.1").unwrap();
        let relay = Target::tls(port, "127.0.0.1", &authority.der).unwrap();
        let door = Self { folder, port, relay };
        for (name, text) in [
            ("ca.crt", &authority.certificate),
            ("tls.crt", &own.certificate),
            ("tls.key", &own.key),
            ("keys.json", &issuer.keys()),
            ("token", &issuer.token("public")),
        ] {
            door.write(name, text);
        }
        let file = |name: &str| door.folder.join(name).display().to_string();
        let account = |name: &str| format!("system:serviceaccount:edge:{name}=edge/{name}");
        stack.relay_arguments = [
            ("--fleet", "edge/other".to_owned()),
            ("--listen", format!("tcp:127.0.0.1:{port}")),
            ("--tls-cert", file("tls.crt")),
            ("--tls-key", file("tls.key")),
            ("--token-keys", format!("file:{}", file("keys.json"))),
            ("--token-issuer", ISSUER.to_owned()),
            ("--member", account("public")),
            ("--member", account("other")),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
        door
    }

    /// Writes a file that readers see whole, as kubelets do.
    fn write(&self, name: &str, text: &str) {
        let new = self.folder.join(".new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.folder.join(name)).unwrap();
    }

    /// Starts the relay; with two fleets it has two sockets.
    fn open(stack: &Stack) -> Running {
        let usual = stack.relay_command().unwrap();
        let socket = format!("unix:{}", stack.socket().display());
        let sockets = format!("unix:{}", stack.folder().join("{fleet}.sock").display());
        let mut command = Command::new(usual.get_program());
        let each = |argument| if argument == socket.as_str() { OsStr::new(&sockets) } else { argument };
        command.args(usual.get_args().map(each));
        let mut relay = Running::start("relay", &mut command, &stack.folder().join("logs")).unwrap();
        wait::until("the relay to be ready", || {
            relay.check()?;
            let answer = stack.health("/readyz")?;
            anyhow::ensure!(answer.status == 200, "{}", String::from_utf8_lossy(&answer.body));
            Ok(())
        })
        .unwrap();
        relay
    }

    /// Starts an Envoy that has the token's file.
    fn envoy(&self, stack: &Stack) -> Envoy {
        let mut command = stack.command("bootstrap").unwrap();
        command.arg(stack.fleet()).arg("--relay").arg(format!("127.0.0.1:{}", self.port));
        command.arg("--token-file").arg(self.folder.join("token"));
        command.arg("--relay-ca").arg(self.folder.join("ca.crt"));
        command.arg("--admin").arg(format!("127.0.0.1:{}", stack.admin_port()));
        let file = stack.folder().join("bootstrap.json");
        std::fs::write(&file, run(&mut command).unwrap().ended_with(&[0]).unwrap().stdout).unwrap();
        let logs = stack.folder().join("logs");
        Envoy::start("envoy", &stack.program, &file, stack.admin_port(), &logs).unwrap()
    }

    /// What the relay answers to somebody with this token who wants a module.
    fn ask(&self, digest: &str, token: Option<&str>) -> Answer {
        let mut request = Request::get("127.0.0.1", &module_path(digest));
        if let Some(token) = token {
            request = request.header("authorization", &format!("Bearer {token}"));
        }
        Http2::open(&self.relay).unwrap().send(&request, b"").unwrap()
    }
}

/// Pushes a module that says this, and publishes it.
fn release(registry: &Registry, stack: &Stack, folder: &Path, says: [u8; 8]) -> String {
    let module = module(says);
    registry.push("filters/raw", "v1", (RAW, &module));
    update(folder, &["--pull-secret", &registry.pull_secret()]).ended_with(&[0]).unwrap();
    stack.publish(folder).unwrap();
    hex(&module)
}

#[test]
fn modules_come_to_whoever_has_a_token_of_their_fleet() {
    let registry = Registry::start();
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    let (port, other) = (ports::free().unwrap(), ports::free().unwrap());
    let folder = stack.folder().join("source");
    std::fs::create_dir(&folder).unwrap();
    let gateway = manifest::gateway("edge", "other", &[Listener::http("http", other)]);
    let all = format!("{}---\n{gateway}", source(&registry, port, &[("raw", "")]));
    std::fs::write(folder.join("all.yaml"), all).unwrap();
    let first = release(&registry, &stack, &folder, *b"was here");

    let (old, new, stranger) = (Issuer::new("old"), Issuer::new("new"), Issuer::new("old"));
    let door = Door::lay(&mut stack, &old);
    let _relay = Door::open(&stack);
    let sent = door.ask(&first, Some(&old.token("public")));
    assert_eq!((sent.status, hex(&sent.body)), (200, first.clone()));
    let (mine, theirs) = (old.token("public"), old.token("other"));
    for (whose, token, status, code) in [
        ("nobody's", None, 200, Some("16")),
        ("a stranger's", Some(stranger.token("public")), 200, Some("16")),
        ("one of no fleet", Some(old.token("nobody")), 200, Some("7")),
        ("one of another fleet", Some(theirs), 404, None),
        ("half a token", Some(mine[..mine.len() / 2].to_owned()), 200, Some("16")),
    ] {
        let answer = door.ask(&first, token.as_deref());
        assert_eq!((answer.status, answer.header("grpc-status")), (status, code), "{whose}");
        assert!(answer.body.is_empty(), "{whose}: {answer:?}");
    }
    assert_eq!(metric(&stack, SENT), 1, "one of them was sent something");

    let mut envoy = door.envoy(&stack);
    envoy.wait_for_listeners(&[port]).unwrap();
    let target = Target::plain(port);
    header(&target, "/raw", "was here");

    // Its stream goes on while a token lies there that does not count: it is told of a module, and does not get it.
    door.write("token", &stranger.token("public"));
    let (before, sent) = (metric(&stack, FORGED), metric(&stack, SENT));
    release(&registry, &stack, &folder, *b"withheld");
    wait::until("the module to be refused", || {
        envoy.process().check()?;
        anyhow::ensure!(metric(&stack, FORGED) > before, "nobody asks");
        Ok(())
    })
    .unwrap();
    let answer = send(&target, &Request::get(HOST, "/raw")).unwrap();
    assert!(!String::from_utf8_lossy(&answer.body).contains("withheld"), "{answer:?}");
    assert_eq!(metric(&stack, SENT), sent, "it was sent nevertheless");

    // A token that a new key signed takes its place, and is read without a restart; the former key counts no more.
    door.write("keys.json", &new.keys());
    door.write("token", &new.token("public"));
    let third = release(&registry, &stack, &folder, *b"renewed!");
    header(&target, "/raw", "renewed!");
    assert_eq!(door.ask(&third, Some(&new.token("public"))).status, 200);
    assert_eq!(door.ask(&third, Some(&mine)).header("grpc-status"), Some("16"));
}
