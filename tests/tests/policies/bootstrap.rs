//! A user's own bootstrap on a real Envoy that still takes its configuration from its relay (EnvoyProxy `bootstrap`).

use super::behaviour::HOST;
use super::metrics::Stage;
use moorgate_tests::envoy::validate;
use moorgate_tests::http::{Request, Target, send};
use moorgate_tests::manifest;
use moorgate_tests::program::{envoys, moorgate, run};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// What Envoy says that it was started with.
fn dumped(stage: &mut Stage) -> Value {
    let text = stage.stack.envoy().unwrap().admin("/config_dump").unwrap();
    let dump: Value = serde_json::from_str(&text).unwrap();
    let found = dump["configs"].as_array().unwrap().iter().find(|one| one["bootstrap"].is_object());
    found.unwrap()["bootstrap"].clone()
}

/// A connection that was answered, as soon as Envoy has seen those before it end.
fn held(port: u16) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut answer = [0; 12];
        let asked = write!(stream, "GET /one HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
        if asked.and_then(|()| stream.read_exact(&mut answer)).is_ok() {
            assert_eq!(&answer, b"HTTP/1.1 200");
            return stream;
        }
        assert!(Instant::now() < deadline, "no connection is taken");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn indented(text: &str) -> String {
    text.lines().flat_map(|line| ["      ", line, "\n"]).collect()
}

#[test]
fn merged_replaced_and_patched_bootstraps_start_envoys_that_find_their_relay() {
    let mut stage = Stage::new();
    let tag = "stats_config: { stats_tags: [{ tag_name: team, fixed_value: blue }] }\nnode: { metadata: { owner: shop } }\n";
    let patches = "    jsonPatches:\n    - { op: add, path: /stats_config, value: { stats_tags: [{ tag_name: team, fixed_value: blue }] } }\n    \
        - { op: add, path: /node/metadata, value: { owner: shop } }\n    \
        - { op: replace, jsonPath: '$.overload_manager.resource_monitors[0]', path: /typed_config/max_active_downstream_connections, value: 1 }\n";
    for spec in [
        format!("  bootstrap:\n    type: Merge\n    value: |\n{}", indented(tag)),
        format!("  bootstrap:\n    type: Replace\n    value: |\n{}", indented(tag)),
        format!("  bootstrap:\n    type: JSONPatch\n{patches}"),
    ] {
        stage.start(&stage.documents(&spec));
        let made = dumped(&mut stage);
        assert_eq!(made["stats_config"]["stats_tags"][0]["tag_name"], "team", "{spec}");
        assert_eq!(made["node"]["metadata"]["owner"], "shop", "{spec}");
        assert_eq!(made["node"]["cluster"], "edge/public", "{spec}");
        let scraped = send(&Target::plain(stage.stats), &Request::get("any", "/stats/prometheus")).unwrap();
        assert!(String::from_utf8_lossy(&scraped.body).contains("team=\"blue\""), "{spec}");
        // The relay knows it, and what it was sent is in force.
        let clients = stage.stack.relay_admin("/clients").unwrap().to_string();
        assert!(clients.contains("edge/public"), "{clients}");
    }
    // The last one bounds connections: one is held, the next is not taken, and statistics are shown all the same.
    let mut held = held(stage.port);
    assert!(send(&Target::plain(stage.port), &Request::get(HOST, "/one")).is_err());
    for _ in 0..3 {
        let scraped = send(&Target::plain(stage.stats), &Request::get("any", "/stats/prometheus")).unwrap();
        assert_eq!(scraped.status, 200);
    }
    held.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(held, "GET /two HTTP/1.1\r\nhost: {HOST}\r\n\r\n").unwrap();
    assert!(held.read(&mut [0; 12]).unwrap() > 0, "the one that is held is served");
}

/// A copy of Envoy Gateway's own, as its users have it in git.
#[test]
fn a_copied_bootstrap_of_envoy_gateway_starts_an_envoy() {
    let copied = include_str!("../../../translator/src/startup/copied.yaml");
    let mut stage = Stage::new();
    let spec = format!("  bootstrap:\n    type: Replace\n    value: |\n{}", indented(copied));
    stage.start(&stage.documents(&spec));
    let made = dumped(&mut stage);
    assert_eq!(made["stats_config"]["stats_tags"][0]["fixed_value"], "shop");
    assert_eq!(made["admin"]["access_log"][0]["typed_config"]["path"], "/dev/null");
    assert_eq!(send(&Target::plain(stage.port), &Request::get(HOST, "/two")).unwrap().status, 200);
    let scraped = send(&Target::plain(stage.stats), &Request::get("any", "/stats/prometheus")).unwrap();
    assert!(String::from_utf8_lossy(&scraped.body).contains("team=\"shop\""));
}

#[test]
fn what_would_lose_the_relay_is_refused_at_its_line() {
    let stage = Stage::new();
    let spec = "  bootstrap:\n    type: JSONPatch\n    jsonPatches:\n    \
        - { op: remove, jsonPath: \"$.static_resources.clusters[?@.name=='moorgate-relay']\" }\n";
    let file = stage.stack.folder().join("refused.yaml");
    let text = manifest::documents(&stage.documents(spec));
    std::fs::write(&file, &text).unwrap();
    let said = run(moorgate().unwrap().arg("check").arg(&file)).unwrap().ended_with(&[1]).unwrap();
    let line = 1 + text.lines().position(|line| line.contains("jsonPatches")).unwrap();
    let place = format!("refused.yaml:{line}:5");
    let said = format!("{}{}", said.stdout, said.stderr);
    assert!(said.contains("MG3018") && said.contains("moorgate-relay"), "{said}");
    assert!(said.contains(&place), "{place}: {said}");
    let mut command = stage.stack.command("bootstrap").unwrap();
    let none = run(command.arg("edge/public").arg(&file)).unwrap().ended_with(&[1]).unwrap();
    assert_eq!(none.stdout, "", "no bootstrap is printed for a fleet that is refused");
}

/// All that a bootstrap may have, for the Envoys that are supported.
#[test]
fn envoys_of_all_minors_take_a_bootstrap_with_everything() {
    let stage = Stage::new();
    let spec = format!(
        "  ipFamily: DualStack\n  telemetry:\n    metrics:\n      prometheus: {{ compression: {{ type: Brotli, minContentLength: 1Ki }} }}\n      \
         matches: [{{ type: Prefix, value: http. }}, {{ type: RegularExpression, value: 'a.*b' }}]\n      sinks:\n      \
         - {{ type: OpenTelemetry, openTelemetry: {{ host: otel.example.com, port: 4317, resourceAttributes: {{ a: b }}, headers: [{{ name: x-key, value: v }}] }} }}\n      \
         - {{ type: OpenTelemetry, openTelemetry: {{ backendRefs: [{{ name: web, port: 80 }}], reportCountersAsDeltas: true }} }}\n  \
         bootstrap:\n    type: Merge\n    value: |\n{}",
        indented(
            "stats_flush_interval: 2s\nbootstrap_extensions: [{ name: envoy.bootstrap.internal_listener, typed_config: { '@type': type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener } }]\n"
        )
    );
    let file = stage.stack.folder().join("all.yaml");
    std::fs::write(&file, manifest::documents(&stage.documents(&spec))).unwrap();
    let mut command = stage.stack.command("bootstrap").unwrap();
    let made = run(command.arg("edge/public").arg(&file).args(["--stats", "127.0.0.1:1"])).unwrap();
    let made = made.ended_with(&[0]).unwrap().json().unwrap();
    assert_eq!(made["stats_sinks"].as_array().unwrap().len(), 2);
    let envoys = envoys().unwrap();
    assert!(envoys.len() >= 3, "{envoys:?}");
    for (version, program) in envoys {
        let judged = validate(&program, &made, stage.stack.folder()).unwrap();
        let text = format!("{}{}", judged.stdout, judged.stderr);
        assert!(judged.ended_with(&[0]).is_ok(), "{version}: {text}");
    }
}
