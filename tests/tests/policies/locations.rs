//! Where clients are, by databases of a real Envoy: whoever they say is meant passes, and nobody else, whatever he claims.

use super::behaviour::{HOST, guarded, policy};
use moorgate_tests::backend::Backend;
use moorgate_tests::http::{Answer, Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::stack::Stack;
use moorgate_tests::{envoy, mmdb, ports, program, wait};
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

/// Headers by which Envoy tells itself where a client is.
const RESERVED: &str = "x-moorgate-location-";

fn lay(folder: &Path) {
    for (name, bytes) in mmdb::made_up().unwrap() {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
}

/// The class, with parameters that name these databases in a folder.
fn class(folder: &Path, files: &[(&str, &str)]) -> [String; 2] {
    let sources: Vec<String> = files
        .iter()
        .map(|(field, file)| {
            format!("{field}DbSource: {{ local: {{ path: {}/{file}.mmdb }} }}", folder.display())
        })
        .collect();
    [
        manifest::gateway_class().replace(
            "controllerName",
            "parametersRef: { group: gateway.envoyproxy.io, kind: EnvoyProxy, namespace: edge, name: all }\n  controllerName",
        ),
        format!(
            "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyProxy\nmetadata: {{ name: all, namespace: edge }}\nspec:\n  \
             filterOrder: [{{ name: envoy.filters.http.rbac, before: envoy.filters.http.cors }}]\n  \
             geoIP: {{ provider: {{ type: MaxMind, maxMind: {{ {} }} }} }}\n",
            sources.join(", ")
        ),
    ]
}

const ALL: &[(&str, &str)] =
    &[("city", "city"), ("asn", "asn"), ("isp", "isp"), ("anonymousIp", "anonymous")];

fn rules(default: &str, rules: &str) -> String {
    format!("  authorization: {{ defaultAction: {default}, rules: [{rules}] }}\n")
}

fn allow(locations: &str) -> String {
    rules("Deny", &format!("{{ action: Allow, principal: {{ clientIPGeoLocations: [{locations}] }} }}"))
}

fn routes() -> Vec<String> {
    let kept_out = "{ action: Deny, principal: { clientIPGeoLocations: [{ country: FR }, { anonymous: { isVPN: true } }] } }";
    let expression = "{ action: Deny, cel: \"request.headers['x-kept'] == 'out'\" }, \
                      { action: Allow, principal: { clientIPGeoLocations: [{ country: de }] } }";
    let security = |name: &str, spec: &str| guarded(name, "web", "SecurityPolicy", spec);
    let mut out = [
        security("country", &allow("{ country: de }")),
        security("kept-out", &rules("Allow", kept_out)),
        security("city", &allow("{ region: be, city: BERLIN }")),
        security("network", &allow("{ asn: 64500, isp: net of the north }, { country: SE }")),
        security("plain", &allow("{ country: DE, anonymous: { isVPN: false, isTor: false } }")),
        security("hidden", &allow("{ anonymous: { isAnonymous: true, isHosting: true, isProxy: true } }")),
        security("expression", &rules("Deny", expression)),
    ]
    .concat();
    out.push(manifest::http_route("edge", "free", "edge/public", &[], &manifest::rule("/free", "web")));
    out
}

/// How each listener finds out who the client is.
const WAYS: [(&str, &str); 4] = [
    ("hops", "  clientIPDetection: { xForwardedFor: { numTrustedHops: 1 } }\n"),
    ("trusted", "  clientIPDetection: { xForwardedFor: { trustedCIDRs: [127.0.0.0/8] } }\n"),
    ("custom", "  clientIPDetection: { customHeader: { name: x-client } }\n"),
    ("proxied", "  proxyProtocol: {}\n"),
];

/// The status of a request of somebody who comes through a proxy that says so by a header.
fn status(port: u16, path: &str, address: &str) -> u16 {
    asked(port, path, &[("x-forwarded-for", address)]).status
}

fn asked(port: u16, path: &str, headers: &[(&str, &str)]) -> Answer {
    let request =
        headers.iter().fold(Request::get(HOST, path), |request, (name, value)| request.header(name, value));
    send(&Target::plain(port), &request).unwrap()
}

/// The same of somebody of whom the proxy tells at the beginning of the connection.
fn proxied(port: u16, path: &str, address: &str) -> u16 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let request = format!(
        "PROXY TCP4 {address} 127.0.0.1 40000 80\r\nGET {path} HTTP/1.1\r\nhost: {HOST}\r\nx-forwarded-for: 192.0.2.1\r\n\
         {RESERVED}country: DE\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn whoever_is_where_rules_say_passes_and_nobody_else() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    lay(stack.folder());
    let [hops, trusted, custom, by_protocol, direct] = [(); 5].map(|()| ports::free().unwrap());
    let [class, parameters] = class(stack.folder(), ALL);
    let of_way = WAYS.iter().zip([hops, trusted, custom, by_protocol]);
    let mut listeners: Vec<Listener> = of_way.map(|((name, _), port)| Listener::http(name, port)).collect();
    listeners.push(Listener::http("direct", direct));
    let mut documents = vec![
        class,
        parameters,
        manifest::service("edge", "web"),
        manifest::gateway("edge", "public", &listeners),
    ];
    documents.extend(WAYS.map(|(name, way)| {
        policy(name, "ClientTrafficPolicy", "Gateway", &format!("public, sectionName: {name}"), way)
    }));
    documents.extend(routes());
    stack.publish_documents(&documents).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[hops, trusted, custom, by_protocol, direct]).unwrap();
    send_until(&Target::plain(hops), &Request::get(HOST, "/free"), "an answer", |answer| {
        answer.status == 200
    })
    .unwrap();

    let (german, hidden, french, tor, unknown) =
        ("192.0.2.1", "192.0.2.200", "198.51.100.200", "198.51.100.1", "203.0.113.7");
    for (path, passes, fails) in [
        ("/country", &[german, hidden][..], &[french, tor, unknown, "2001:db8::1"][..]),
        // Nobody knows where it is, so the default counts.
        ("/kept-out", &[german, unknown], &[french, tor, hidden]),
        ("/city", &[german], &[french, unknown]),
        ("/network", &[german, "2001:db8::1"], &[french, unknown]),
        ("/plain", &[german], &[hidden, french, tor, unknown]),
        ("/hidden", &[french], &[german, hidden, tor, unknown]),
        ("/expression", &[german], &[french, unknown]),
    ] {
        for (addresses, wanted) in [(passes, 200), (fails, 403)] {
            for address in addresses {
                assert_eq!(status(hops, path, address), wanted, "{path} from {address}");
            }
        }
    }
    assert_eq!(asked(hops, "/expression", &[("x-forwarded-for", german), ("x-kept", "out")]).status, 403);
    nobody_claims(hops, direct, unknown);

    // In each way the client is the one whose address the listener goes by.
    assert_eq!(status(hops, "/country", &format!("{unknown}, {german}")), 200);
    assert_eq!(status(hops, "/country", &format!("{german}, {unknown}")), 403);
    assert_eq!(status(trusted, "/country", &format!("{german}, 127.0.0.9")), 200);
    assert_eq!(status(trusted, "/country", &format!("{german}, {unknown}")), 403);
    assert_eq!(asked(custom, "/country", &[("x-client", german), ("x-forwarded-for", unknown)]).status, 200);
    assert_eq!(asked(custom, "/country", &[("x-client", unknown), ("x-forwarded-for", german)]).status, 403);
    assert_eq!([german, unknown].map(|address| proxied(by_protocol, "/country", address)), [200, 403]);
    assert_eq!(status(direct, "/country", german), 403, "who is connected counts, and not what he says");

    // A database that is moved to its place later is noticed, without a new snapshot.
    let more = [("203.0.113.0/24", json!({"country": {"iso_code": "DE"}}))];
    let new = stack.folder().join("new.mmdb");
    std::fs::write(&new, mmdb::database("GeoLite2-City", &more).unwrap()).unwrap();
    std::fs::rename(&new, stack.folder().join("city.mmdb")).unwrap();
    let late = Request::get(HOST, "/country").header("x-forwarded-for", unknown);
    send_until(&Target::plain(hops), &late, "the new database", |answer| answer.status == 200).unwrap();
    assert_eq!(status(hops, "/country", german), 403);
}

/// What Envoy tells itself cannot be told to it, and it tells nobody else.
fn nobody_claims(hops: u16, direct: u16, unknown: &str) {
    let claims = ["country", "Country", "city", "vpn", "asn", "isp"].map(|name| format!("{RESERVED}{name}"));
    for (port, claim) in
        [hops, direct].into_iter().flat_map(|port| claims.iter().map(move |claim| (port, claim)))
    {
        let headers = [(claim.as_str(), "DE"), ("x-forwarded-for", unknown)];
        assert_eq!(asked(port, "/country", &headers).status, 403, "{claim}");
    }
    let twice = [(claims[0].as_str(), "DE"), (claims[0].as_str(), "de"), ("x-forwarded-for", unknown)];
    assert_eq!(asked(hops, "/country", &twice).status, 403);
    for (path, address) in [("/country", "192.0.2.1"), ("/kept-out", unknown), ("/free", unknown)] {
        let answer =
            asked(hops, path, &[("x-forwarded-for", address), (&claims[0], "FR"), (&claims[3], "true")]);
        assert_eq!(answer.status, 200, "{path}");
        let seen = answer.echo().unwrap();
        assert!(!format!("{seen:?}").to_ascii_lowercase().contains(RESERVED), "{path}: {seen:?}");
    }
}

/// A source whose databases are these, with more routes.
fn source(stack: &Stack, port: u16, files: &[(&str, &str)], more: Vec<String>) -> Vec<String> {
    let [class, parameters] = class(stack.folder(), files);
    let gateway = manifest::gateway("edge", "public", &[Listener::http("http", port)]);
    let mut documents = vec![class, parameters, manifest::service("edge", "web"), gateway];
    documents.push(policy("hops", "ClientTrafficPolicy", "Gateway", "public", WAYS[0].1));
    documents.push(manifest::http_route("edge", "free", "edge/public", &[], &manifest::rule("/free", "web")));
    documents.extend(more);
    documents
}

const GONE: &[(&str, &str)] = &[("city", "gone")];

fn later() -> String {
    manifest::http_route("edge", "later", "edge/public", &[], &manifest::rule("/later", "web"))
}

/// A stack that serves this source, with an echo server and databases.
fn serving(program: Option<&Path>, port: u16, files: &[(&str, &str)], more: Vec<String>) -> (Stack, Backend) {
    let mut stack = Stack::new("edge/public").unwrap();
    if let Some(program) = program {
        program.clone_into(&mut stack.program);
    }
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    lay(stack.folder());
    stack.publish_documents(&source(&stack, port, files, more)).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    send_until(&Target::plain(port), &Request::get(HOST, "/free"), "an answer", |answer| {
        answer.status == 200
    })
    .unwrap();
    (stack, web)
}

#[test]
fn a_database_that_is_not_there_costs_the_change_and_nothing_that_is_served() {
    let port = ports::free().unwrap();
    let german = guarded("country", "web", "SecurityPolicy", &allow("{ country: DE }")).to_vec();
    let (mut stack, _web) = serving(None, port, ALL, german.clone());
    let with_later = || german.iter().cloned().chain([later()]).collect();
    stack.publish_documents(&source(&stack, port, GONE, with_later())).unwrap();
    wait::until("Envoy to refuse it", || {
        let status = stack.relay_admin("/snapshot")?;
        let why = status["fleets"][0]["quarantined"].to_string();
        anyhow::ensure!(why.contains("Unable to open Maxmind database file"), "{status}");
        Ok(())
    })
    .unwrap();
    let served = ["/country", "/later"].map(|path| status(port, path, "192.0.2.1"));
    assert_eq!(
        (served, status(port, "/country", "203.0.113.7")),
        ([200, 404], 403),
        "what was good is served on"
    );
    stack.envoy().unwrap().process().check().unwrap();
    stack.publish_documents(&source(&stack, port, ALL, with_later())).unwrap();
    let request = Request::get(HOST, "/later");
    send_until(&Target::plain(port), &request, "the change", |answer| answer.status == 200).unwrap();
}

/// They do not refuse such a listener but end, so no relay gives them one, whether its databases are there or not.
#[test]
fn older_envoys_stay_at_the_snapshot_before() {
    let envoys = program::envoys().unwrap();
    let [_, (_, middle), (_, oldest)] = envoys.as_slice() else { panic!("{envoys:?}") };
    let port = ports::free().unwrap();
    let (mut stack, _web) = serving(Some(oldest), port, &[], Vec::new());
    let mut more = guarded("country", "web", "SecurityPolicy", &allow("{ country: DE }")).to_vec();
    more.push(later());
    stack.publish_documents(&source(&stack, port, GONE, more)).unwrap();
    wait::until("the relay to know that Envoy is too old", || {
        let clients = stack.relay_admin("/clients")?.to_string();
        anyhow::ensure!(clients.contains("needs Envoy 1.40"), "{clients}");
        Ok(())
    })
    .unwrap();
    assert_eq!(["/free", "/later"].map(|path| status(port, path, "192.0.2.1")), [200, 404]);
    stack.envoy().unwrap().process().check().unwrap();

    // That is why.
    let mut command = stack.command("compile").unwrap();
    command.args(["-o", "envoy"]).arg(stack.folder().join("source.yaml"));
    let bootstrap = program::run(&mut command).unwrap().ended_with(&[0]).unwrap().json().unwrap();
    for program in [middle, oldest] {
        let ended = envoy::validate(program, &bootstrap, stack.folder()).unwrap();
        assert!(ended.code >= 128 && ended.stderr.contains("Unable to open Maxmind database"), "{ended:?}");
    }
}
