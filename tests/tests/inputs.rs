//! `moorgate inputs`: what policies need from the network is fetched by this command alone, and stands in the source.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use moorgate_tests::program::{self, Outcome, moorgate, run};
use moorgate_tests::runtime;
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// An identity provider behind TLS; dropping it ends it.
struct Provider {
    port: u16,
    keys: Arc<Mutex<Option<String>>>,
    asked: Arc<Mutex<u32>>,
    authority: String,
    task: JoinHandle<()>,
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Provider {
    fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key)
                .unwrap();
        let listener = runtime().block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let keys: Arc<Mutex<Option<String>>> = Arc::default();
        let asked: Arc<Mutex<u32>> = Arc::default();
        let (served, counted) = (Arc::clone(&keys), Arc::clone(&asked));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let task = runtime().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, served, counted) =
                    (acceptor.clone(), Arc::clone(&served), Arc::clone(&counted));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |_| {
                        *counted.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                        let keys = served.lock().unwrap_or_else(PoisonError::into_inner).clone();
                        let status = if keys.is_some() { 200 } else { 503 };
                        let body = Full::new(Bytes::from(keys.unwrap_or_default()));
                        async move { hyper::Response::builder().status(status).body(body) }
                    });
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { port, keys, asked, authority: made.cert.pem(), task }
    }

    fn gives(&self, keys: Option<&str>) {
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = keys.map(str::to_owned);
    }

    fn asked(&self) -> u32 {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keys(kid: &str) -> String {
    format!(
        r#"{{"keys":[{{"x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kty":"OKP","crv":"Ed25519","kid":"{kid}"}}]}}"#
    )
}

/// The golden case of pinned keys, with another provider.
fn source(folder: &TempDir, port: u16) {
    let golden = program::root().join("tests/golden/policies/pinned-keys/in.yaml");
    let text = std::fs::read_to_string(golden).unwrap();
    // Without its Inputs, and without the policy that lacks one.
    let keep = |document: &&str| !document.contains("kind: Input") && !document.contains("name: lacks");
    let kept: Vec<&str> = text.split("---\n").filter(keep).collect();
    let text = kept.join("---\n").replace("https://login.example.com", &format!("https://localhost:{port}"));
    std::fs::write(folder.path().join("objects.yaml"), text).unwrap();
    std::fs::write(folder.path().join("ca.pem"), "").unwrap();
}

fn update(folder: &Path, more: &[&str]) -> Outcome {
    let mut command = moorgate().unwrap();
    command.args(["inputs", "update"]).arg(folder).args(["--ca-file"]).arg(folder.join("ca.pem")).args(more);
    run(&mut command).unwrap()
}

fn snapshot(folder: &Path, exit: i32) -> String {
    let mut command = moorgate().unwrap();
    let outcome =
        run(command.args(["compile", "-o", "json"]).arg(folder)).unwrap().ended_with(&[exit]).unwrap();
    let compiled: Value = serde_json::from_str(&outcome.stdout).unwrap();
    compiled["fleets"][0]["snapshot"].as_str().unwrap().to_owned()
}

#[test]
fn inputs_change_by_a_reviewed_change_only() {
    let provider = Provider::start();
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("moorgate-inputs.yaml");
    source(&folder, provider.port);
    // A compile asks nobody; what lacks its input is closed.
    snapshot(folder.path(), 1);
    assert_eq!(provider.asked(), 0);
    // A server that nobody vouches for is not believed.
    provider.gives(Some(&keys("a")));
    let refused = update(folder.path(), &[]).ended_with(&[3]).unwrap();
    assert!(refused.stderr.contains("certificate") && refused.stdout.starts_with("missing"), "{refused:?}");
    assert!(!file.exists());

    std::fs::write(folder.path().join("ca.pem"), &provider.authority).unwrap();
    let check = update(folder.path(), &["--check"]).ended_with(&[1]).unwrap();
    assert!(check.stdout.starts_with("added") && !file.exists(), "{check:?}");
    let added = update(folder.path(), &[]).ended_with(&[0]).unwrap();
    assert!(added.stdout.starts_with("added"), "{added:?}");
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(written.contains("\"kid\": \"a\""), "{written}");
    let before = snapshot(folder.path(), 0);

    // The same, said otherwise, changes nothing.
    provider.gives(Some(&keys("a").replace(':', " : ")));
    update(folder.path(), &["--check"]).ended_with(&[0]).unwrap();
    // Nor does a provider that cannot be reached, or sends junk, or too much.
    let large = format!("{{\"keys\":[{{}}],\"pad\":\"{}\"}}", "x".repeat(300_000));
    for answer in [None, Some("<html>"), Some("{\"keys\":[]}"), Some(&*large)] {
        provider.gives(answer);
        let kept = update(folder.path(), &[]).ended_with(&[3]).unwrap();
        assert!(kept.stdout.starts_with("kept") && kept.stderr.contains("stays"), "{kept:?}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), written);
    }
    assert_eq!(snapshot(folder.path(), 0), before);

    // New keys are a change of the source, and of the snapshot.
    provider.gives(Some(&keys("b")));
    assert_eq!(snapshot(folder.path(), 0), before);
    update(folder.path(), &["--check"]).ended_with(&[1]).unwrap();
    let changed = update(folder.path(), &["-o", "json"]).ended_with(&[0]).unwrap();
    let changed: Value = serde_json::from_str(&changed.stdout).unwrap();
    assert_eq!(changed["inputs"][0]["result"], "changed");
    assert_ne!(snapshot(folder.path(), 0), before);

    // An edited content is not used.
    let edited = std::fs::read_to_string(&file).unwrap().replace("\"kid\": \"b\"", "\"kid\": \"thief\"");
    std::fs::write(&file, edited).unwrap();
    let mut command = moorgate().unwrap();
    let said = run(command.arg("check").arg(folder.path())).unwrap().ended_with(&[1]).unwrap().stdout;
    assert!(said.contains("MG4031") && said.contains("moorgate-inputs.yaml"), "{said}");
    update(folder.path(), &[]).ended_with(&[0]).unwrap();

    // What nobody needs any more goes away, unless a file cannot be read that may need it.
    let objects = folder.path().join("objects.yaml");
    let text = std::fs::read_to_string(&objects).unwrap();
    std::fs::write(folder.path().join("broken.yaml"), "kind: [").unwrap();
    std::fs::write(&objects, text.replace("moorgate.dev/pinned-jwks", "other")).unwrap();
    update(folder.path(), &[]).ended_with(&[0]).unwrap();
    assert!(file.exists());
    std::fs::remove_file(folder.path().join("broken.yaml")).unwrap();
    let removed = update(folder.path(), &[]).ended_with(&[0]).unwrap();
    assert!(removed.stdout.starts_with("removed") && !file.exists(), "{removed:?}");
}

/// Clusters take what the translator takes.
#[test]
fn the_crd_is_the_schema_that_is_compiled_in() {
    let read = |path: &str| std::fs::read_to_string(program::root().join(path)).unwrap();
    let crd: Value = yaml_serde::from_str(&read("deploy/kubernetes/inputs.yaml")).unwrap();
    let ours: Value = serde_json::from_str(&read("translator/data/moorgate.json")).unwrap();
    let nodes = &ours["nodes"];
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let own = &nodes[3];
    assert_eq!((&spec["required"], &spec["x-kubernetes-validations"]), (&own["required"], &own["rules"]));
    let fields = own["properties"].as_object().unwrap();
    assert_eq!(spec["properties"].as_object().unwrap().len(), fields.len());
    for (name, node) in fields {
        let mut field = spec["properties"][name].clone();
        field.as_object_mut().unwrap().remove("description");
        assert_eq!(field, nodes[usize::try_from(node.as_u64().unwrap()).unwrap()], "{name}");
    }
    assert_eq!(crd["spec"]["versions"][0]["name"], ours["version"]);
}
