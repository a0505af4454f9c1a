//! A real Envoy as a client of a relay: what it proves, what it refuses, and how it comes back.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

#[path = "envoys/drain.rs"]
mod drain;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::envoy::Envoy;
use moorgate_tests::http::{Request, Target, send};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::program::{moorgate, run};
use moorgate_tests::stack::Stack;
use moorgate_tests::{ports, wait};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use std::path::Path;

/// A fleet `edge/public` with an HTTP listener, whose routes lead to backends of namespace `shop` by their path.
struct Stage {
    stack: Stack,
    port: u16,
    backends: Vec<Backend>,
}

impl Stage {
    fn new(names: &[&str], more: &[Listener], routes: &[String]) -> Result<Self> {
        let (stack, port) = (Stack::new("edge/public")?, ports::free()?);
        let mut backends = Vec::new();
        let mut listeners = vec![Listener::http("http", port)];
        listeners.extend_from_slice(more);
        let mut all = vec![manifest::gateway_class(), manifest::gateway("edge", "public", &listeners)];
        for name in names {
            let backend = Backend::start(name)?;
            stack.set_endpoints("shop", name, &[backend.address()])?;
            backends.push(backend);
            all.push(manifest::service("shop", name));
        }
        let rules: String = names.iter().map(|name| manifest::rule(&format!("/{name}"), name)).collect();
        all.push(manifest::http_route("shop", "paths", "edge/public", &[], &rules));
        all.extend_from_slice(routes);
        stack.publish_documents(&all)?;
        Ok(Self { stack, port, backends })
    }

    fn answers(&self, path: &str) -> Result<()> {
        let answer = send(&Target::plain(self.port), &Request::get("any.example", path))?;
        ensure!(answer.status == 200, "{path}: {}", answer.status);
        Ok(())
    }

    fn until_it_answers(&self, path: &str) -> Result<()> {
        wait::until(&format!("an answer to {path}"), || self.answers(path))
    }

    /// What the relay shows of its only client.
    fn client(&self) -> Result<Value> {
        let shown = self.stack.relay_admin("/clients")?;
        ensure!(shown["fleets"][0]["clients"].as_array().is_some_and(|all| all.len() == 1), "{shown}");
        Ok(shown["fleets"][0]["clients"][0].clone())
    }

    fn quarantined(&self) -> Result<Value> {
        Ok(self.stack.relay_admin("/snapshot")?["fleets"][0]["quarantined"].clone())
    }
}

/// Lays a file so that a reader sees the old text or the new one, as a kubelet does.
fn replace(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path.with_extension("new"), text)?;
    std::fs::rename(path.with_extension("new"), path)?;
    Ok(())
}

/// A certificate that a relay can read and Envoy does not take: a key of a kind that Envoy does not serve. Its neighbour on
/// the same port is live.
#[test]
fn a_secret_that_envoy_refuses_costs_only_its_own_host() -> Result<()> {
    let port = ports::free()?;
    let listeners = [
        Listener::https("good", port, "good").hostname("good.example"),
        Listener::https("bad", port, "bad").hostname("bad.example"),
    ];
    let mut stage = Stage::new(&["one"], &listeners, &[])?;
    let good = Certificate::for_names(&["good.example"])?;
    let odd = {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
        let made = rcgen::CertificateParams::new(vec!["bad.example".to_owned()])?.self_signed(&key)?;
        Certificate { certificate: made.pem(), key: key.serialize_pem(), der: made.der().to_vec() }
    };
    stage.stack.set_secret("edge", "good", &good)?;
    stage.stack.set_secret("edge", "bad", &odd)?;
    stage.stack.start_relay()?;
    stage.stack.start_envoy(&[stage.port])?;
    let over_tls = |name: &str, certificate: &Certificate| {
        let answer = send(&Target::tls(port, name, &certificate.der)?, &Request::get(name, "/one"))?;
        ensure!(answer.status == 200, "{}", answer.status);
        Ok(())
    };
    wait::until("the good host", || over_tls("good.example", &good))?;
    wait::until("the refusal is shown with Envoy's words", || {
        let client = stage.client()?;
        ensure!(client["types"]["SDS"]["nack"].as_str().is_some_and(|text| !text.is_empty()), "{client}");
        Ok(())
    })?;
    assert!(over_tls("bad.example", &odd).is_err());
    assert_eq!(stage.quarantined()?, json!({}));
    let shown = stage.stack.relay_admin("/clients")?.to_string();
    assert!(!shown.contains("PRIVATE KEY") && !shown.contains(odd.key.lines().nth(1).unwrap()));
    let mended = Certificate::for_names(&["bad.example"])?;
    stage.stack.set_secret("edge", "bad", &mended)?;
    wait::until("the mended host", || over_tls("bad.example", &mended))?;
    over_tls("good.example", &good)
}

/// Whoever gives out tokens.
struct Issuer(EcdsaKeyPair);

impl Issuer {
    fn new() -> Result<Self> {
        let random = SystemRandom::new();
        let refused = |_| anyhow::anyhow!("no key");
        let made =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).map_err(refused)?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, made.as_ref(), &random);
        Ok(Self(key.map_err(|error| anyhow::anyhow!("{error}"))?))
    }

    fn key_set(&self) -> String {
        let point = &self.0.public_key().as_ref()[1..];
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "k", "x": part(&point[..32]),
            "y": part(&point[32..])}]})
        .to_string()
    }

    /// A token of `shop/envoy` that ends then.
    fn token(&self, end: i64) -> String {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = json!({
            "iss": "https://issuer.example", "aud": ["moorgate-relay"], "exp": end,
            "sub": "system:serviceaccount:shop:envoy",
            "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "envoy"}, "pod": {"name": "envoy-7"}},
        });
        let message = format!("{}.{}", part(json!({"alg": "ES256", "kid": "k"})), part(claims));
        let signature = self.0.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// An Envoy on TCP is known by the token of its pod, which it reads anew for every stream. With a token that has run out it
/// is not let in again, and serves on.
#[test]
fn an_envoy_is_known_by_its_projected_token() -> Result<()> {
    let mut stage = Stage::new(&["one"], &[], &[])?;
    let (issuer, own) = (Issuer::new()?, Certificate::for_names(&["localhost"])?);
    let (listen, folder) = (ports::free()?, stage.stack.folder().to_owned());
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        replace(&path, text).map(|()| path.display().to_string())
    };
    let token = file("token", &issuer.token(1000))?;
    let (certificate, key) = (file("relay.crt", &own.certificate)?, file("relay.key", &own.key)?);
    let keys = file("jwks.json", &issuer.key_set())?;
    let arguments = format!(
        "--listen tcp:127.0.0.1:{listen} --tls-cert {certificate} --tls-key {key} --token-keys file:{keys} \
         --token-issuer https://issuer.example --member system:serviceaccount:shop:envoy=edge/public"
    );
    stage.stack.relay_arguments = arguments.split(' ').map(str::to_owned).collect();
    stage.stack.start_relay()?;
    let mut command = moorgate()?;
    command.args(["bootstrap", "edge/public", "--relay", &format!("localhost:{listen}")]);
    command.args(["--token-file", &token, "--relay-ca", &certificate]);
    command.args(["--admin", &format!("127.0.0.1:{}", stage.stack.admin_port())]);
    let bootstrap = folder.join("token.json");
    std::fs::write(&bootstrap, run(&mut command)?.ended_with(&[0])?.stdout)?;
    let (program, logs) = (stage.stack.program.clone(), folder.join("logs"));
    let mut envoy = Envoy::start("envoy", &program, &bootstrap, stage.stack.admin_port(), &logs)?;
    let refused = |stage: &Stage| {
        let text = String::from_utf8(stage.stack.health("/metrics")?.body.to_vec())?;
        let line = "moorgate_relay_connections_refused_total{reason=\"token_expired\"}";
        ensure!(text.contains(line), "nothing was refused yet");
        Ok(())
    };
    wait::until("the old token is refused", || refused(&stage))?;
    replace(Path::new(&token), &issuer.token(4_000_000_000))?;
    envoy.wait_for_listeners(&[stage.port])?;
    stage.until_it_answers("/one")?;
    let client = stage.client()?;
    let peer = client["peer"].as_str().unwrap_or_default();
    assert!(peer.contains("system:serviceaccount:shop:envoy pod envoy-7"), "{client}");
    // The relay goes and comes while the token has run out: Envoy serves on, and comes back with the next one.
    replace(Path::new(&token), &issuer.token(1000))?;
    stage.stack.start_relay()?;
    wait::until("the old token is refused again", || refused(&stage))?;
    stage.answers("/one")?;
    replace(Path::new(&token), &issuer.token(4_000_000_000))?;
    wait::until("Envoy is back", || stage.client().map(drop))?;
    stage.answers("/one")
}

/// An Envoy on TCP is known by its certificate. Who may ask is a file that is read again while the relay runs: who loses its
/// right is cut off and serves on; with a renewed certificate it is let in again, without a restart.
#[test]
fn an_envoy_is_known_by_its_certificate_until_it_loses_its_right() -> Result<()> {
    let mut stage = Stage::new(&["one"], &[], &[])?;
    let (listen, folder) = (ports::free()?, stage.stack.folder().to_owned());
    let path = |name: &str| folder.join(name).display().to_string();
    let file = |name: &str, text: &str| replace(&folder.join(name), text);
    let (relay_ca, relay) = Certificate::signed("127.0.0.1")?;
    let (first_ca, first) = Certificate::signed("spiffe://edge/first")?;
    let (second_ca, second) = Certificate::signed("spiffe://edge/second")?;
    file("relay.crt", &relay.certificate)?;
    file("relay.key", &relay.key)?;
    file("clients.ca", &format!("{}{}", first_ca.certificate, second_ca.certificate))?;
    file("members", "# who may ask\nspiffe://edge/first=edge/public\n")?;
    let arguments = format!(
        "--listen tcp:127.0.0.1:{listen} --tls-cert {} --tls-key {} --client-ca {} --member-file {}",
        path("relay.crt"),
        path("relay.key"),
        path("clients.ca"),
        path("members"),
    );
    stage.stack.relay_arguments = arguments.split(' ').map(str::to_owned).collect();
    stage.stack.start_relay()?;
    // Envoy's side, with an authority and a certificate that are renewed by renaming.
    std::fs::create_dir(folder.join("tls"))?;
    file("tls/ca.crt", &relay_ca.certificate)?;
    file("tls/tls.crt", &first.certificate)?;
    file("tls/tls.key", &first.key)?;
    let made = |print: &str, to: &str| -> Result<()> {
        let mut command = moorgate()?;
        command.args(["bootstrap", "edge/public", "--relay", &format!("127.0.0.1:{listen}")]);
        command.args(["--relay-ca", &path("tls/ca.crt"), "--client-cert", &path("tls/tls.crt")]);
        command.args(["--client-key", &path("tls/tls.key"), "--client-secrets", &path("client")]);
        command.args(["--admin", &format!("127.0.0.1:{}", stage.stack.admin_port()), "--print", print]);
        file(to, &run(&mut command)?.ended_with(&[0])?.stdout)
    };
    std::fs::create_dir(folder.join("client"))?;
    made("bootstrap", "mutual.json")?;
    made("client-secret", "client/client.json")?;
    made("relay-ca", "client/ca.json")?;
    let (program, logs) = (stage.stack.program.clone(), folder.join("logs"));
    let bootstrap = folder.join("mutual.json");
    let mut envoy = Envoy::start("envoy", &program, &bootstrap, stage.stack.admin_port(), &logs)?;
    envoy.wait_for_listeners(&[stage.port])?;
    stage.until_it_answers("/one")?;
    let is = |stage: &Stage, name: &str| {
        let client = stage.client()?;
        ensure!(client["peer"].as_str().is_some_and(|peer| peer.contains(name)), "{client}");
        Ok(())
    };
    is(&stage, "spiffe://edge/first")?;
    // Half a file cuts nobody off.
    file("members", "spiffe://edge/second\n")?;
    stage.stack.relay()?.hang_up();
    wait::until("the file is refused", || {
        ensure!(stage.stack.relay()?.output().contains("the members that were read before stay"), "not yet");
        Ok(())
    })?;
    is(&stage, "spiffe://edge/first")?;
    file("members", "spiffe://edge/second=edge/public\n")?;
    stage.stack.relay()?.hang_up();
    wait::until("the right is lost", || {
        let text = String::from_utf8(stage.stack.health("/metrics")?.body.to_vec())?;
        let line = |reason: &str| format!("moorgate_relay_connections_refused_total{{reason=\"{reason}\"}}");
        ensure!(text.contains(&line("lost_membership")), "it is still let in");
        ensure!(text.contains(&line("no_member")), "it has not tried again yet");
        Ok(())
    })?;
    stage.answers("/one")?;
    file("tls/tls.key", &second.key)?;
    file("tls/tls.crt", &second.certificate)?;
    wait::until("Envoy is back under its new name", || is(&stage, "spiffe://edge/second"))?;
    stage.answers("/one")
}

/// A cold relay and a cold Envoy on a machine whose store, endpoint files and API server are all gone: what was served is
/// served, endpoints included. And a new machine, whose cache is empty, serves its seed.
#[test]
fn a_cold_start_with_nothing_but_the_disk_and_one_with_nothing_but_a_seed() -> Result<()> {
    let mut stage = Stage::new(&["one"], &[], &[])?;
    stage.stack.start_relay()?;
    stage.stack.start_envoy(&[stage.port])?;
    stage.until_it_answers("/one")?;
    let folder = stage.stack.folder().to_owned();
    let kept = stage.stack.cache().join("edge.public/endpoints");
    wait::until("the endpoints are on disk", || {
        ensure!(kept.exists(), "not yet");
        Ok(())
    })?;
    stage.stack.kill_all();
    std::fs::rename(folder.join("store"), folder.join("seed"))?;
    std::fs::remove_dir_all(folder.join("endpoints"))?;
    let kubeconfig = folder.join("kubeconfig");
    std::fs::write(
        &kubeconfig,
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "x", "cluster": {"server": "https://127.0.0.1:1"}}],
            "users": [{"name": "x", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        })
        .to_string(),
    )?;
    let api_gone = ["--kubernetes", "--kubeconfig", &kubeconfig.display().to_string()].map(str::to_owned);
    stage.stack.relay_arguments = api_gone.to_vec();
    stage.stack.start_relay()?;
    stage.stack.start_envoy(&[stage.port])?;
    stage.until_it_answers("/one")?;
    stage.stack.kill_all();
    // The seed has no endpoints in it: those come from files, on a machine as new as this.
    std::fs::remove_dir_all(stage.stack.cache())?;
    std::fs::create_dir(folder.join("endpoints"))?;
    stage.stack.set_endpoints("shop", "one", &[stage.backends[0].address()])?;
    stage.stack.relay_arguments = vec!["--seed".to_owned(), folder.join("seed").display().to_string()];
    stage.stack.start_relay()?;
    stage.stack.start_envoy(&[stage.port])?;
    stage.until_it_answers("/one")?;
    let because = stage.stack.relay_admin("/snapshot")?["fleets"][0]["because"].clone();
    assert_eq!(because, "seed");
    Ok(())
}
