//! Modules in images: from a real registry into the source, by the store and a relay to a real Envoy.

use super::behaviour::{HOST, policy};
use super::extensions::module;
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::ports;
use moorgate_tests::process::Running;
use moorgate_tests::program::{Outcome, go, moorgate, run};
use moorgate_tests::runtime;
use moorgate_tests::stack::Stack;
use moorgate_tests::wait;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const PASSWORD: &str = "pull-s3cret";
/// bcrypt of that: registries take nothing else.
const USERS: &str = "puller:$2a$04$T3KqYVY6ZXH.f45/6xJFUu74cUKM8uZQ7PwSlJNCM/m69l510rjtO\n";
/// `puller` and the password in base64, as Docker's configuration has them.
const AUTH: &str = "cHVsbGVyOnB1bGwtczNjcmV0";

/// A registry behind TLS that lets in one user; dropping it ends it.
pub(crate) struct Registry {
    _server: Running,
    folder: TempDir,
    port: u16,
    authority: String,
    client: reqwest::Client,
}

impl Registry {
    pub(crate) fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("moorgate-registry-").tempdir().unwrap();
        let port = ports::free().unwrap();
        let (authority, own) = Certificate::signed("localhost").unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, text) in
            [("tls.crt", &own.certificate), ("tls.key", &own.key), ("users", &USERS.to_owned())]
        {
            std::fs::write(at(name), text).unwrap();
        }
        let config = json!({
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"inmemory": {}, "maintenance": {"uploadpurging": {"enabled": false}}},
            "http": {"addr": format!("127.0.0.1:{port}"), "tls": {"certificate": at("tls.crt"), "key": at("tls.key")}},
            "auth": {"htpasswd": {"realm": "images", "path": at("users")}},
        });
        std::fs::write(at("config.yml"), config.to_string()).unwrap();
        let mut command = Command::new(go("registry").unwrap());
        command.arg(at("config.yml")).env("OTEL_TRACES_EXPORTER", "none");
        let server = Running::start("registry", &mut command, folder.path()).unwrap();
        let trusting = Target::tls(port, "localhost", &authority.der).unwrap();
        let (tls, _) = trusting.tls_parts().unwrap();
        let client =
            reqwest::Client::builder().tls_backend_preconfigured((*tls).clone()).no_proxy().build().unwrap();
        let registry = Self { _server: server, folder, port, authority: authority.certificate, client };
        wait::until("the registry", || {
            let asked = registry.client.get(registry.url("/v2/")).send();
            Ok(runtime().block_on(asked).map(|_| ())?)
        })
        .unwrap();
        registry
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// The name of an image here.
    fn image(&self, name: &str) -> String {
        format!("localhost:{}/{name}", self.port)
    }

    /// Where its credentials lie, as `--pull-secret` is told it: Docker's configuration, in a file.
    pub(crate) fn pull_secret(&self) -> String {
        let auths = json!({"auths": {format!("localhost:{}", self.port): {"auth": AUTH}}});
        let file = self.folder.path().join("config.json");
        std::fs::write(&file, auths.to_string()).unwrap();
        format!("edge/pull={}", file.display())
    }

    fn put(&self, url: &str, kind: &str, bytes: &[u8]) {
        let request = self.client.put(url).basic_auth("puller", Some(PASSWORD)).header("content-type", kind);
        let answer = runtime().block_on(request.body(bytes.to_vec()).send()).unwrap();
        assert_eq!(answer.status(), 201, "{url}");
    }

    fn blob(&self, image: &str, bytes: &[u8]) -> Value {
        let begin = self.client.post(self.url(&format!("/v2/{image}/blobs/uploads/")));
        let begun = runtime().block_on(begin.basic_auth("puller", Some(PASSWORD)).send()).unwrap();
        let place = begun.headers()["location"].to_str().unwrap().to_owned();
        let place = if place.starts_with('/') { self.url(&place) } else { place };
        let digest = format!("sha256:{}", hex(bytes));
        self.put(&format!("{place}&digest={digest}"), "application/octet-stream", bytes);
        json!({"digest": digest, "size": bytes.len()})
    }

    /// Pushes an image with one layer; its digest.
    pub(crate) fn push(&self, image: &str, tag: &str, (kind, layer): (&str, &[u8])) -> String {
        let mut layer = self.blob(image, layer);
        layer["mediaType"] = kind.into();
        let mut config = self.blob(image, b"{}");
        config["mediaType"] = "application/vnd.module.wasm.config.v1+json".into();
        self.manifest(
            image,
            tag,
            &json!({
                "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
            }),
        )
    }

    fn manifest(&self, image: &str, tag: &str, manifest: &Value) -> String {
        let bytes = manifest.to_string().into_bytes();
        let url = self.url(&format!("/v2/{image}/manifests/{tag}"));
        self.put(&url, manifest["mediaType"].as_str().unwrap(), &bytes);
        hex(&bytes)
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const RAW: &str = "application/vnd.module.wasm.content.layer.v1+wasm";
/// Modules that the relay sent.
pub(crate) const SENT: &str = r#"moorgate_relay_modules_total{fleet="edge/public",result="sent"}"#;
const COMPAT: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// A module of some hundred kilobytes: behind it stands a section that means nothing (WebAssembly 2.5.12) and does not
/// shrink.
fn large(value: [u8; 8]) -> Vec<u8> {
    let mut noise = vec![4, b'f', b'i', b'l', b'l'];
    let mut state = 1_u32;
    noise.extend((0..500_000).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    }));
    let mut bytes = module(value);
    // LEB128.
    let seven = |shift: usize| u8::try_from((noise.len() >> shift) & 0x7f).unwrap();
    bytes.extend([0, seven(0) | 0x80, seven(7) | 0x80, seven(14)]);
    bytes.extend(noise);
    bytes
}

/// `plugin.wasm` in an archive, as `docker build` makes it of `FROM scratch`.
fn archive(module: &[u8]) -> Vec<u8> {
    let mut head = [0_u8; 512];
    head[..11].copy_from_slice(b"plugin.wasm");
    head[124..135].copy_from_slice(format!("{:011o}", module.len()).as_bytes());
    head[156] = b'0';
    let mut bytes = [head.as_slice(), module].concat();
    bytes.resize(bytes.len().div_ceil(512) * 512 + 1024, 0);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&bytes).unwrap();
    packed.finish().unwrap()
}

/// The source: a route for each of these images of `filters/` and what more is said of it, and the registry's authority.
pub(crate) fn source(registry: &Registry, port: u16, images: &[(&str, &str)]) -> String {
    let indented = registry.authority.replace('\n', "\n    ");
    let mut documents = vec![
        manifest::gateway_class(),
        manifest::gateway("edge", "public", &[Listener::http("http", port)]),
        manifest::service("edge", "web"),
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: ca, namespace: edge }}\ndata:\n  ca.crt: |\n    {indented}\n"
        ),
        manifest::http_route("edge", "free", "edge/public", &[], &manifest::rule("/free", "web")),
    ];
    let ca = "tls: { caCertificateRef: { group: '', kind: ConfigMap, name: ca } }";
    for (name, more) in images {
        let url = registry.image(&format!("filters/{name}:v1"));
        let spec = format!(
            "  wasm:\n    - name: m\n      code: {{ type: Image, image: {{ url: '{url}', {ca}, pullSecretRef: {{ name: pull }}{more} }} }}\n"
        );
        let rule = manifest::rule(&format!("/{name}"), "web");
        documents.push(manifest::http_route("edge", name, "edge/public", &[], &rule));
        documents.push(policy(name, "EnvoyExtensionPolicy", "HTTPRoute", name, &spec));
    }
    manifest::documents(&documents)
}

pub(crate) fn update(folder: &Path, more: &[&str]) -> Outcome {
    run(moorgate().unwrap().args(["inputs", "update"]).arg(folder).args(more)).unwrap()
}

/// Every file below a folder, with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut files(&path));
        } else if path.is_file() {
            found.insert(path.clone(), std::fs::read(path).unwrap());
        }
    }
    found
}

pub(crate) fn header(target: &Target, path: &str, value: &str) {
    send_until(target, &Request::get(HOST, path), &format!("{path} to say {value}"), |answer| {
        answer.status == 200 && answer.echo().is_ok_and(|echo| echo.header("x-wasm") == [value])
    })
    .unwrap();
}

/// What the relay has counted under a name with these labels.
pub(crate) fn metric(stack: &Stack, series: &str) -> u64 {
    let text = stack.health("/metrics").unwrap();
    let text = String::from_utf8_lossy(&text.body).into_owned();
    text.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse::<u64>().ok()).sum()
}

#[test]
fn modules_of_images_go_through_store_and_relay() {
    let registry = Registry::start();
    let first = large(*b"was here");
    registry.push("filters/raw", "v1", (RAW, &first));
    let compat = registry.push("filters/compat", "v1", (COMPAT, &archive(&module(*b"packaged"))));
    let arm = registry.push("filters/index", "arm", (COMPAT, &archive(&module(*b"of index"))));
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": MANIFEST, "digest": format!("sha256:{arm}"), "size": 1, "platform": {"architecture": "arm64", "os": "linux"}}],
    });
    registry.manifest("filters/index", "v1", &index);

    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    let port = ports::free().unwrap();
    let folder = stack.folder().join("source");
    std::fs::create_dir(&folder).unwrap();
    let digest = format!(", sha256: {compat}");
    let images = [("raw", ""), ("compat", digest.as_str()), ("index", "")];
    std::fs::write(folder.join("all.yaml"), source(&registry, port, &images)).unwrap();

    // What is not declared is an error; what is private is not given to strangers, and it is said what is missing.
    let checked = run(moorgate().unwrap().arg("check").arg(&folder)).unwrap().ended_with(&[1]).unwrap();
    assert!(checked.stdout.contains("MG4030"), "{}", checked.stdout);
    let stranger = update(&folder, &[]).ended_with(&[3]).unwrap();
    assert!(stranger.stderr.contains("--pull-secret edge/pull=FILE"), "{}", stranger.stderr);
    let secret = registry.pull_secret();
    let told = update(&folder, &["--pull-secret", &secret]).ended_with(&[0]).unwrap();
    assert_eq!(told.stdout.matches("added").count(), 3, "{}", told.stdout);
    update(&folder, &["--pull-secret", &secret, "--check"]).ended_with(&[0]).unwrap();

    stack.publish(&folder).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let target = Target::plain(port);
    for (path, value) in [("/raw", "was here"), ("/compat", "packaged"), ("/index", "of index")] {
        header(&target, path, value);
    }
    assert!(metric(&stack, SENT) > 0);
    for (file, bytes) in files(stack.folder()) {
        let found =
            [PASSWORD, AUTH].iter().any(|word| bytes.windows(word.len()).any(|part| part == word.as_bytes()));
        assert!(!found, "{} holds the credentials", file.display());
    }
    run(stack.command("verify").unwrap().arg("edge/public")).unwrap().ended_with(&[0]).unwrap();

    another_module(&registry, &mut stack, (&folder, &secret), port);
}

/// A new module under the same tag: a difference of the source; what was tampered with is not served.
fn another_module(registry: &Registry, stack: &mut Stack, (folder, secret): (&Path, &str), port: u16) {
    let target = Target::plain(port);
    registry.push("filters/raw", "v1", (RAW, &large(*b"changed!")));
    update(folder, &["--pull-secret", secret, "--check"]).ended_with(&[1]).unwrap();
    let told = update(folder, &["--pull-secret", secret]).ended_with(&[0]).unwrap();
    assert_eq!(told.stdout.matches("changed").count(), 1, "{}", told.stdout);
    stack.kill_all();
    let before = files(&stack.store());
    stack.publish(folder).unwrap();
    let pages = |name: &Path| {
        name.components().any(|part| part.as_os_str() == "pages" || part.as_os_str() == "bundles")
    };
    let new: Vec<_> = files(&stack.store())
        .into_iter()
        .filter(|(name, _)| pages(name) && !before.contains_key(name))
        .collect();
    assert!(!new.is_empty());
    for (name, bytes) in &new {
        let mut other = bytes.clone();
        let middle = other.len() / 2;
        other[middle] ^= 1;
        std::fs::write(name, other).unwrap();
    }
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    header(&target, "/raw", "was here");
    wait::until("the refusal to be counted", || {
        let refused = metric(stack, r#"moorgate_relay_integrity_refusals_total{fleet="edge/public"}"#);
        anyhow::ensure!(refused > 0, "not yet");
        Ok(())
    })
    .unwrap();
    run(stack.command("verify").unwrap().arg("edge/public")).unwrap().ended_with(&[5]).unwrap();
    for (name, bytes) in &new {
        std::fs::write(name, bytes).unwrap();
    }
    // It would look again by itself, ever later the longer it was refused.
    stack.start_relay().unwrap();
    header(&target, "/raw", "changed!");

    // gc keeps what the newest release needs; and neither store nor registry is needed to start again.
    let collect = ["--apply", "--keep-for", "1s", "--keep-last", "1", "--grace", "1s", "--delay", "1s"];
    for _ in 0..2 {
        run(stack.command("gc").unwrap().args(collect)).unwrap().ended_with(&[0]).unwrap();
    }
    run(stack.command("verify").unwrap().arg("edge/public")).unwrap().ended_with(&[0]).unwrap();
    stack.kill_all();
    std::fs::rename(stack.store(), stack.folder().join("gone")).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    for (path, value) in [("/raw", "changed!"), ("/compat", "packaged"), ("/index", "of index")] {
        header(&target, path, value);
    }
    let socket = Target::plain(port);
    assert_eq!(send(&socket, &Request::get(HOST, "/free")).unwrap().status, 200);
}
