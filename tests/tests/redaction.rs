//! No secret shows: relay and translator run with everything switched on, from debug lines to failures of all kinds, and all
//! that they print, answer, send and store is searched for the private keys, tokens and passwords that they were given.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
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
/// As long as a SHA-1.
const HASH: &str = "marker-hash-of-ann-5";
const API_KEY: &str = "marker-api-key-4d17b0c2ee91";
const CLIENT_ID: &str = "marker-client-id-0a93f7d6";
const CLIENT_SECRET: &str = "marker-client-secret-83fe52";
const HMAC: &str = "marker-hmac-6bd0a91c52f8";
const CREDENTIAL: &str = "marker-credential-d7e3905b";

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

/// The entry of each Secret that policies need, with its namespace, its name and its key.
fn entries(list: &str) -> [[String; 4]; 7] {
    [
        ["shop", "staff", ".htpasswd", &format!("ann:{{SHA}}{}", STANDARD.encode(HASH))],
        ["shop", "keys", "team-a", API_KEY],
        ["shop", "login", "client-secret", CLIENT_SECRET],
        ["shop", "client", "client-id", CLIENT_ID],
        ["shop", "envoy-oidc-hmac", "hmac-secret", HMAC],
        ["shop", "backend", "credential", &format!("Bearer {CREDENTIAL}")],
        ["edge", "list", "ca.crl", list],
    ]
    .map(|entry| entry.map(str::to_owned))
}

/// An object of Envoy Gateway's group.
fn object(kind: &str, (namespace, name): (&str, &str), spec: &str) -> String {
    format!(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: {kind}\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec:\n{spec}"
    )
}

/// A policy for each kind of Secret that there is, with a route of its own where it is for one; and the Secrets.
fn policies(entries: &[[String; 4]]) -> Vec<String> {
    let login = |path: &str, client: &str| {
        format!(
            "  oidc:\n    provider:\n      issuer: http://idp.example\n      authorizationEndpoint: http://idp.example/authorize\n      \
             tokenEndpoint: http://idp.example/token\n      backendRefs: [{{ name: cart, port: 80 }}]\n    {client}\n    \
             clientSecret: {{ name: login }}\n    redirectURL: https://{HOST}/{path}/callback\n    logoutPath: /{path}/logout\n"
        )
    };
    let keys = "  apiKeyAuth: { credentialRefs: [{ name: keys }], extractFrom: [{ headers: [x-key] }] }\n";
    let mut out = Vec::new();
    for (name, spec) in [
        ("staff", "  basicAuth: { users: { name: staff } }\n".to_owned()),
        ("keys", keys.to_owned()),
        ("login", login("login", "clientID: shop")),
        ("client", login("client", "clientIDRef: { name: client }")),
    ] {
        let target = format!(
            "  targetRefs: [{{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: {name} }}]\n{spec}"
        );
        let rule = manifest::rule(&format!("/{name}"), "cart");
        out.push(manifest::http_route("shop", name, "edge/public", &[HOST], &rule));
        out.push(object("SecurityPolicy", ("shop", name), &target));
    }
    let filter = "      filters: [{ type: ExtensionRef, extensionRef: { group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: backend } }]\n";
    let rule = format!("{}{filter}", manifest::rule("/backend", "cart"));
    out.push(manifest::http_route("shop", "backend", "edge/public", &[HOST], &rule));
    let credential = "  credentialInjection: { credential: { valueRef: { name: backend } } }\n";
    out.push(object("HTTPRouteFilter", ("shop", "backend"), credential));
    let clients = "  targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: public, sectionName: good }]\n  tls:\n    \
                   clientValidation: { caCertificateRefs: [{ group: '', kind: ConfigMap, name: devices }], crl: { refs: [{ name: list }] } }\n";
    out.push(object("ClientTrafficPolicy", ("edge", "clients"), clients));
    out.extend(entries.iter().map(|[namespace, name, key, text]| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{ name: {name}, namespace: {namespace} }}\nstringData:\n  {key}: |\n{}\n",
            indented(text)
        )
    }));
    out
}

/// What of all this a compiler that has understood it names.
const NAMED: [&str; 8] = [
    "envoy.filters.http.basic_auth/shop/staff",
    "envoy.filters.http.api_key_auth/shop/keys",
    "envoy.filters.http.oauth2/shop/login",
    "envoy.filters.http.oauth2/shop/client",
    "Secret/shop/login/client-secret",
    "Secret/shop/envoy-oidc-hmac/hmac-secret",
    "Secret/shop/backend/credential",
    "Revoked/edge/list",
];

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

/// Everything that the translator is asked about a source and another one, and about requests for a port; plans go into a folder.
fn questions(
    stack: &Stack,
    (source, other): (&Path, &Path),
    port: u16,
    plans: &Path,
) -> Result<Vec<Command>> {
    let mut commands: Vec<Command> = Vec::new();
    let mut add = |command: &mut Command| commands.push(copy(command));
    for output in ["text", "json", "sarif", "github"] {
        add(stack.command("check")?.args(["-o", output]).arg(source));
    }
    for output in ["text", "json", "envoy"] {
        add(stack.command("compile")?.args(["-o", output]).arg(source));
    }
    for output in ["text", "json", "markdown"] {
        add(stack.command("diff")?.args(["-o", output]).arg(source).arg(other));
    }
    for output in ["text", "json"] {
        for path in ["", "staff", "keys", "login", "client", "backend"] {
            let url = format!("https://{HOST}:{port}/{path}");
            add(stack.command("explain")?.args(["-o", output]).arg(source).args(["GET", &url]));
        }
    }
    add(stack.command("render")?.arg(source));
    add(stack.command("plan")?.arg("--out").arg(plans.join("first.plan")).arg(source));
    add(stack.signed("publish")?.arg(source));
    for output in ["text", "json", "markdown"] {
        let plan = plans.join(format!("{output}.plan"));
        add(stack.command("plan")?.args(["-o", output, "--show-values", "--out"]).arg(plan).arg(other));
    }
    let url = format!("https://{HOST}:{port}/staff");
    add(stack.command("explain")?.args(["channel:edge/public@stable", "GET", &url]));
    // A key in the environment that is somebody else's, one that is none, one that is not there.
    for key in ["env:MOORGATE_TEST_KEY", &format!("file:{}", source.display()), "env:NOBODY"] {
        add(stack.command("publish")?.args(["--channel", "stable", "--key", key]).arg(other));
    }
    for subcommand in [&["log", "edge/public", "--audit"][..], &["status"], &["verify", "edge/public"]] {
        add(stack.command(subcommand[0])?.args(&subcommand[1..]));
    }
    Ok(commands)
}

/// The same source where a mistake stands beside a secret, or is it.
fn mistakes(whole: &str, entries: &[[String; 4]]) -> Vec<String> {
    let key = "tls.key: |";
    let mut out = vec![
        whole.replace(key, "tls.key: ["),
        whole.replace(key, "tls.key:"),
        whole.replace(&format!("password: {PASSWORD}"), &format!("password: {PASSWORD}: {{ ")),
        whole.replace(&format!("password: {PASSWORD}"), &format!("password: \"{PASSWORD}")),
        whole.replace("stringData:", "data:"),
        whole.replace("stringData:", "stringDato:"),
        whole.replace("kind: Secret", "kind: Service"),
    ];
    let mut unnamed = whole.to_owned();
    for [.., key, _] in entries {
        out.push(whole.replace(&format!("  {key}: |"), &format!("  {key}: [")));
        unnamed = unnamed.replace(&format!("  {key}: |"), &format!("  {key}-of-nobody: |"));
    }
    out.push(unnamed);
    out
}

#[test]
fn no_secret_shows_in_what_the_translator_prints_and_writes() {
    let mut scene = Scene::new().unwrap();
    let folder = scene.stack.folder().to_owned();
    let (source, plans) = (folder.join("source.yaml"), folder.join("plans"));
    std::fs::create_dir(&plans).unwrap();
    let (.., list) = Certificate::revoked("a.devices.example.com").unwrap();
    let entries = entries(&list);
    for (name, text) in [
        ("the hash of a password", HASH),
        ("the API key", API_KEY),
        ("the client's id", CLIENT_ID),
        ("the client's secret", CLIENT_SECRET),
        ("the key of sessions", HMAC),
        ("the credential", CREDENTIAL),
    ] {
        scene.markers.text(name, text);
    }
    // In its first lines stands who made it, which is no secret.
    for line in list.lines().filter(|line| !line.starts_with("-----")).skip(2) {
        scene.markers.text("the list", line);
    }
    let whole = manifest::documents(&[scene.documents(), policies(&entries)].concat());
    std::fs::write(&source, &whole).unwrap();
    let other = folder.join("other.yaml");
    std::fs::write(&other, whole.replace("prefix", "exact").replace(HOST, "other.example.com")).unwrap();
    for mut command in questions(&scene.stack, (&source, &other), scene.tls, &plans).unwrap() {
        scene.hear(&format!("{command:?}"), &mut command).unwrap();
    }
    let said: Vec<u8> = scene.said.0.iter().flat_map(|(_, text)| text.clone()).collect();
    let said = String::from_utf8_lossy(&said);
    let unnamed: Vec<&str> = NAMED.into_iter().filter(|name| !said.contains(*name)).collect();
    assert!(unnamed.is_empty(), "{unnamed:?} was not compiled");
    for text in mistakes(&whole, &entries) {
        assert_ne!(text, whole);
        std::fs::write(&source, &text).unwrap();
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
    for (written, least) in [(scene.stack.store(), 4), (plans, 4)] {
        let (found, read) = scene.markers.find_below(&written).unwrap();
        assert!(found.is_empty() && read >= least, "{}: {read} files: {found:?}", written.display());
    }
    // And the search is one that finds, of each secret.
    scene.said.note("planted", whole);
    let found = scene.said.judged_by(&scene.markers).join("\n");
    let names = "the good key, the password, the hash of a password, the API key, the client's id, \
                 the client's secret, the key of sessions, the credential, the list";
    for name in names.split(", ") {
        assert!(found.contains(&format!("planted: {name} as ")), "{name}: {found}");
    }
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
