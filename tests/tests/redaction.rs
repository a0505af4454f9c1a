//! No secret shows: relay and translator run with everything switched on, from debug lines to failures of all kinds, and all
//! that they print, answer, send and store is searched for the private keys, tokens and passwords that they were given.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use anyhow::{Context as _, Result, ensure};
use envoy_types::pb::envoy::service::status::v3::ClientStatusRequest;
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::program::{moorgate, run};
use moorgate_tests::redaction::{Markers, private_material};
use moorgate_tests::stack::Stack;
use moorgate_tests::{ports, runtime, wait};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tonic::transport::Endpoint;

const HOST: &str = "shop.example.com";
const API_TOKEN: &str = "marker-api-token-9f2c71d04e8b";
const CLOUD_KEY: &str = "marker-cloud-key-77c1a5e0d9f3";
const PASSWORD: &str = "marker-password-1b6e40a8c25d";

/// What was said, and where.
#[derive(Default)]
struct Said(Vec<(String, Vec<u8>)>);

impl Said {
    fn note(&mut self, place: &str, text: impl Into<Vec<u8>>) {
        self.0.push((place.to_owned(), text.into()));
    }

    fn judged_by(&self, markers: &Markers) -> Vec<String> {
        let of = |(place, text): &(String, Vec<u8>)| {
            let found = markers.find(text).into_iter().chain(private_material(text));
            found.map(|what| format!("{place}: {what}")).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of).collect()
    }
}

/// A listener that keeps what is sent to it, and answers nothing.
fn sink() -> (u16, Arc<Mutex<Vec<u8>>>) {
    let (kept, port) = (Arc::new(Mutex::new(Vec::new())), ports::free().unwrap());
    let out = Arc::clone(&kept);
    runtime().block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let out = Arc::clone(&out);
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                        out.lock().unwrap().extend(&buffer[..length]);
                    }
                });
            }
        });
    });
    (port, kept)
}

/// A fleet with a good, a mismatched and a missing certificate.
struct Scene {
    stack: Stack,
    _backend: Backend,
    port: u16,
    tls: u16,
    good: Certificate,
    markers: Markers,
    said: Said,
    traces: Arc<Mutex<Vec<u8>>>,
}

impl Scene {
    fn new() -> Result<Self> {
        let (mut stack, backend) = (Stack::new("edge/public")?, Backend::start("cart")?);
        let (port, tls) = (ports::free()?, ports::free()?);
        stack.set_endpoints("shop", "cart", &[backend.address()])?;
        let mut markers = Markers::default();
        for (name, text) in
            [("the API token", API_TOKEN), ("the cloud's key", CLOUD_KEY), ("the password", PASSWORD)]
        {
            markers.text(name, text);
        }
        let [good, bad] = [HOST, "bad.example.com"].map(|name| Certificate::for_names(&[name]));
        let (good, bad) = (good?, bad?);
        markers.key("the good key", &good.key);
        markers.key("the mismatched key", &bad.key);
        markers.key("the publishing key", &std::fs::read_to_string(stack.key())?);
        stack.set_secret("edge", "good", &good)?;
        stack.set_secret("edge", "bad", &Certificate { key: bad.key.clone(), ..good.clone() })?;
        let report = stack.folder().join("keys/report.key");
        run(moorgate()?.arg("keygen").arg(&report))?.ended_with(&[0])?;
        markers.key("the key of reports", &std::fs::read_to_string(&report)?);
        let kubeconfig = stack.folder().join("kubeconfig");
        std::fs::write(&kubeconfig, kubeconfig_text(ports::free()?))?;
        let (collector, traces) = sink();
        stack.relay_arguments = [
            "--log=debug,moorgate_relay=trace,h2=trace,hyper=trace,rustls=trace".to_owned(),
            "--store=s3://bucket/prefix".to_owned(),
            format!("--report-key=file:{}", report.display()),
            "--kubernetes".to_owned(),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--traces=http://127.0.0.1:{collector}"),
        ]
        .to_vec();
        let endpoint = ports::free()?;
        let script = format!(
            "export AWS_ACCESS_KEY_ID=marker AWS_SECRET_ACCESS_KEY={CLOUD_KEY} AWS_REGION=eu-central-1 \
             AWS_ENDPOINT_URL=http://127.0.0.1:{endpoint}; shift; exec \"$@\""
        );
        stack.relay_prefix = ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
        let said = Said::default();
        Ok(Self { stack, _backend: backend, port, tls, good, markers, said, traces })
    }

    fn documents(&self) -> Vec<String> {
        let of = |name: &str, host: &str| Listener::https(name, self.tls, name).hostname(host);
        let listeners = [
            Listener::http("http", self.port),
            of("good", HOST),
            of("bad", "bad.example.com"),
            of("missing", "missing.example.com"),
        ];
        let route =
            manifest::http_route("shop", "shop", "edge/public", &[HOST], &manifest::rule("/", "cart"));
        let secret = format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: good\n  namespace: edge\ntype: kubernetes.io/tls\n\
             stringData:\n  tls.crt: |\n{}\n  tls.key: |\n{}\n  password: {PASSWORD}\n",
            indented(&self.good.certificate),
            indented(&self.good.key)
        );
        let gateway = manifest::gateway("edge", "public", &listeners);
        vec![manifest::gateway_class(), gateway, manifest::service("shop", "cart"), route, secret]
    }

    /// A subcommand, whatever comes of it: with all that it says noted.
    fn hear(&mut self, place: &str, command: &mut Command) -> Result<i32> {
        command.env("AWS_SECRET_ACCESS_KEY", CLOUD_KEY).env("MOORGATE_TEST_KEY", &self.good.key);
        let outcome = run(command)?;
        self.said.note(place, outcome.stdout);
        self.said.note(place, outcome.stderr);
        Ok(outcome.code)
    }
}

fn indented(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

fn kubeconfig_text(port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n  - name: c\n    cluster:\n      \
         server: http://127.0.0.1:{port}\ncontexts:\n  - name: c\n    context: {{ cluster: c, user: u }}\nusers:\n  \
         - name: u\n    user:\n      token: {API_TOKEN}\n"
    )
}

#[test]
fn no_secret_shows_in_what_the_relay_prints_answers_sends_and_stores() {
    let mut scene = Scene::new().unwrap();
    let documents = scene.documents();
    scene.stack.publish_documents(&documents).unwrap();
    scene.stack.start_relay().unwrap();
    scene.stack.start_envoy(&[scene.port, scene.tls]).unwrap();
    let target = Target::tls(scene.tls, HOST, &scene.good.der).unwrap();
    send_until(&target, &Request::get(HOST, "/"), "the good one", |answer| answer.status == 200).unwrap();
    misfortunes(&mut scene).unwrap();
    ask_everything(&mut scene).unwrap();
    scene.stack.relay().unwrap().terminate(Duration::from_secs(30)).unwrap();
    let log = scene.stack.relay().unwrap().output();
    for word in ["TRACE", "DEBUG", "WARN", "does not fit the certificate", "a watch fails"] {
        assert!(log.contains(word), "the relay has not been through {word:?}:\n{log}");
    }
    scene.said.note("the relay's log", log);
    scene.said.note("traces", scene.traces.lock().unwrap().clone());
    assert_eq!(scene.said.judged_by(&scene.markers), [""; 0]);
    for (folder, least) in [("cache", 5), ("store", 5), ("logs", 2)] {
        let (found, read) = scene.markers.find_below(&scene.stack.folder().join(folder)).unwrap();
        assert!(found.is_empty() && read >= least, "{folder}: {read} files: {found:?}");
    }
    // What others may not read: the cache, with what it knows of the fleet.
    check_modes(&scene.stack.cache()).unwrap();
    // And the search is one that finds: in the folder where the keys are.
    let (found, _) = scene.markers.find_below(&scene.stack.folder().join("secrets")).unwrap();
    assert!(found.len() >= 2, "{found:?}");
}

/// Failures of many kinds, each of which is told in words.
fn misfortunes(scene: &mut Scene) -> Result<()> {
    let stack = &scene.stack;
    // A key that is cut in half, another that is none, and a certificate that is a key.
    let secrets = stack.folder().join("secrets/edge");
    std::fs::write(secrets.join("bad/tls.key"), &scene.good.key[..scene.good.key.len() / 2])?;
    wait_for(scene, "no usable private key")?;
    std::fs::write(secrets.join("bad/tls.crt"), &scene.good.key)?;
    wait_for(scene, "no usable certificate")?;
    std::fs::write(secrets.join("bad/tls.key"), format!("{PASSWORD} {API_TOKEN}"))?;
    // An endpoint file that is a secret by mistake, and one that says nonsense.
    std::fs::write(scene.stack.folder().join("endpoints/oops.json"), &scene.good.key)?;
    std::fs::write(scene.stack.folder().join("endpoints/oops.yaml"), format!("endpoints: {PASSWORD}"))?;
    wait_for(scene, "an endpoint file is of no use")?;
    // A damaged head, and a trust file that is a private key.
    let head = scene.stack.store().join("fleets/gateway/edge/public/head/stable");
    let before = std::fs::read(&head)?;
    std::fs::write(&head, b"{}")?;
    wait_for(scene, "the head does not verify")?;
    std::fs::write(&head, before)?;
    let trust = std::fs::read(scene.stack.trust())?;
    std::fs::write(scene.stack.trust(), std::fs::read(scene.stack.key())?)?;
    let relay = i32::try_from(scene.stack.relay()?.id())?;
    let relay = rustix::process::Pid::from_raw(relay).context("a process")?;
    rustix::process::kill_process(relay, rustix::process::Signal::HUP)?;
    wait_for(scene, "the keys that were trusted before stay")?;
    std::fs::write(scene.stack.trust(), trust)?;
    // A release that Envoy refuses.
    let taken = std::net::TcpListener::bind("0.0.0.0:0")?;
    let port = taken.local_addr()?.port();
    let mut documents = scene.documents();
    documents[1] = manifest::gateway("edge", "public", &[Listener::http("taken", port)]);
    scene.stack.publish_documents(&documents)?;
    wait_for(scene, "the snapshot is quarantined")
}

fn wait_for(scene: &mut Scene, words: &str) -> Result<()> {
    wait::until(words, || {
        scene.stack.relay()?.check()?;
        ensure!(scene.stack.relay()?.output().contains(words), "not yet");
        Ok(())
    })
}

fn ask_everything(scene: &mut Scene) -> Result<()> {
    let admin = Target::unix(&scene.stack.folder().join("admin.sock"));
    for path in ["/livez", "/readyz", "/metrics", "/snapshot", "/clients", "/pin", "/nothing"] {
        for (place, answer) in [
            ("the health address", scene.stack.health(path)?),
            ("the admin socket", send(&admin, &Request::get("relay", path))?),
        ] {
            scene.said.note(&format!("{place} {path}"), format!("{answer:?}").into_bytes());
            scene.said.note(&format!("{place} {path}"), answer.body.to_vec());
        }
    }
    let socket = format!("unix://{}", scene.stack.folder().join("admin.sock").display());
    let told = runtime().block_on(async {
        let channel = Endpoint::from_shared(socket)?.connect().await?;
        let mut service = ClientStatusDiscoveryServiceClient::new(channel);
        let told = service.fetch_client_status(ClientStatusRequest::default()).await?.into_inner();
        anyhow::Ok(told)
    })?;
    ensure!(!told.config.is_empty(), "no client in the status");
    scene.said.note("the status of clients", prost::Message::encode_to_vec(&told));
    // The report of the relay, as people see it.
    let mut status = scene.stack.command("status")?;
    scene.hear("status", status.args(["-o", "json"]))?;
    Ok(())
}

fn check_modes(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let kind = std::fs::symlink_metadata(&path)?;
        let mode = kind.permissions().mode() & 0o777;
        ensure!(mode.trailing_zeros() >= 6, "{}: mode {mode:o}", path.display());
        if kind.is_dir() {
            check_modes(&path)?;
        }
    }
    Ok(())
}

#[test]
fn no_secret_shows_in_what_the_translator_prints_and_writes() {
    let mut scene = Scene::new().unwrap();
    let folder = scene.stack.folder().to_owned();
    let source = folder.join("source.yaml");
    let write = |text: &str| std::fs::write(&source, text).unwrap();
    let whole = manifest::documents(&scene.documents());
    write(&whole);
    let other = folder.join("other.yaml");
    std::fs::write(&other, whole.replace("prefix", "exact").replace(HOST, "other.example.com")).unwrap();
    let stack = &scene.stack;
    let mut commands: Vec<Command> = Vec::new();
    let mut add = |command: &mut Command| commands.push(copy(command));
    for output in ["text", "json", "sarif", "github"] {
        add(stack.command("check").unwrap().args(["-o", output]).arg(&source));
    }
    for output in ["text", "json", "envoy"] {
        add(stack.command("compile").unwrap().args(["-o", output]).arg(&source));
    }
    for output in ["text", "json", "markdown"] {
        add(stack.command("diff").unwrap().args(["-o", output]).arg(&source).arg(&other));
    }
    add(stack.command("explain").unwrap().arg(&source).args(["GET", "https://shop.example.com/"]));
    add(stack.command("render").unwrap().arg(&source));
    add(stack.signed("publish").unwrap().arg(&source));
    // A key in the environment that is somebody else's, one that is none, one that is not there.
    for key in ["env:MOORGATE_TEST_KEY", &format!("file:{}", source.display()), "env:NOBODY"] {
        let mut command = stack.command("publish").unwrap();
        add(command.args(["--channel", "stable", "--key", key]).arg(&other));
    }
    for subcommand in [&["log", "edge/public", "--audit"][..], &["status"], &["verify", "edge/public"]] {
        add(stack.command(subcommand[0]).unwrap().args(&subcommand[1..]));
    }
    for mut command in commands {
        scene.hear(&format!("{command:?}"), &mut command).unwrap();
    }
    // The same where the mistake stands beside the secret, or is it.
    let key = "tls.key: |";
    let broken = [
        whole.replace(key, "tls.key: ["),
        whole.replace(key, "tls.key:"),
        whole.replace(&format!("password: {PASSWORD}"), &format!("password: {PASSWORD}: {{ ")),
        whole.replace(&format!("password: {PASSWORD}"), &format!("password: \"{PASSWORD}")),
        whole.replace("stringData:", "data:"),
        whole.replace("stringData:", "stringDato:"),
        whole.replace("kind: Secret", "kind: Service"),
    ];
    for text in broken {
        assert_ne!(text, whole);
        write(&text);
        for output in ["text", "json", "sarif", "github"] {
            let mut command = scene.stack.command("check").unwrap();
            scene.hear("check of a broken Secret", command.args(["-o", output]).arg(&source)).unwrap();
        }
    }
    assert_eq!(scene.said.judged_by(&scene.markers), [""; 0]);
    assert!(
        scene.said.0.iter().map(|(_, text)| text.len()).sum::<usize>() > 50_000,
        "they said next to nothing"
    );
    let (found, read) = scene.markers.find_below(&scene.stack.store()).unwrap();
    assert!(found.is_empty() && read >= 4, "{read} files: {found:?}");
    // And the search is one that finds.
    scene.said.note("planted", whole);
    assert!(!scene.said.judged_by(&scene.markers).is_empty());
}

fn copy(command: &Command) -> Command {
    let mut copy = Command::new(command.get_program());
    copy.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => copy.env(name, value),
            None => copy.env_remove(name),
        };
    }
    copy
}
