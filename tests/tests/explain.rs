//! `explain` against a real Envoy, and both against the Gateway API's text: generated Gateways and routes, compiled by
//! the product, run with every route answering by its own name, and asked thousands of times.
//!
//! Three configurations of two thousand requests each, one on each supported Envoy; `MOORGATE_EXPLAIN_ROUNDS` asks for
//! more, `MOORGATE_SEED` starts elsewhere: round n has the seed `MOORGATE_SEED` + n. A failure names both.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use moorgate::compile::{Options, compile};
use moorgate::explain::{Answer, Request, explain};
use moorgate::source::File;
use moorgate::xds;
use moorgate_model::Severity;
use moorgate_model::ir;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::envoy::Envoy;
use moorgate_tests::http::{self, Target};
use moorgate_tests::matches::{self, DOORS, Door, DoorKind, Kind, Match, NAMES, Route, Sent, Value};
use moorgate_tests::routes::Numbers;
use moorgate_tests::wire::Wire;
use moorgate_tests::{ports, program};
use serde_json::json;
use std::cmp::Reverse;
use std::collections::BTreeMap;

const REQUESTS: usize = 2_000;
const TLS_REQUESTS: usize = 150;

/// The response header in which a route says its name.
const NAME: &str = "x-route";

fn number(name: &str, otherwise: u64) -> u64 {
    program::variable(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// A generated configuration, compiled.
struct Case {
    ports: Vec<u16>,
    routes: Vec<Route>,
    fleet: ir::Fleet,
    envoy: serde_json::Value,
}

fn case(numbers: &mut Numbers) -> Case {
    let ports: Vec<u16> = (0..matches::PORTS).map(|_| ports::free().unwrap()).collect();
    let routes = matches::routes(numbers, 60);
    let text = matches::manifests(&ports, &routes);
    let file = File { name: "generated.yaml".into(), bytes: text.into_bytes().into() };
    let compilation = compile(&[file], &Options::default());
    for found in &compilation.diagnostics {
        let expected = found.severity == Severity::Warning
            || found.object.as_ref().is_some_and(|object| &*object.kind == "Gateway")
            || found.code.id == moorgate_model::diagnostic::semantic::NO_MATCHING_HOSTNAME.id;
        assert!(expected, "{found:?}");
    }
    let fleet = compilation.fleets.into_values().next().unwrap();
    let envoy = xds::envoy_json(fleet.snapshot.records()).unwrap();
    Case { ports, routes, fleet: fleet.ir, envoy }
}

/// The name of a route: table, host, place.
fn name(table: &str, host: &str, index: usize) -> String {
    format!("{table} {host} {index}")
}

/// Has every route of the product's own configuration answer with its name, and needs nothing but this file.
fn answering(case: &Case, admin: u16, certificate: &Certificate) -> serde_json::Value {
    let mut document = case.envoy.clone();
    document.as_object_mut().unwrap().remove("dynamic_resources");
    document["admin"]["address"] = json!({"socket_address": {"address": "127.0.0.1", "port_value": admin}});
    document["static_resources"]["clusters"] = json!([]);
    let chains = document["static_resources"]["listeners"].as_array_mut().unwrap().iter_mut();
    for chain in chains.flat_map(|listener| listener["filter_chains"].as_array_mut().unwrap()) {
        if let Some(socket) = chain.get_mut("transport_socket") {
            let common = socket["typed_config"]["common_tls_context"].as_object_mut().unwrap();
            common.remove("tls_certificate_sds_secret_configs").unwrap();
            common.insert(
                "tls_certificates".to_owned(),
                json!([{
                    "certificate_chain": {"inline_string": certificate.certificate},
                    "private_key": {"inline_string": certificate.key},
                }]),
            );
        }
        let manager = chain["filters"][0]["typed_config"].as_object_mut().unwrap();
        manager.remove("access_log");
        let Some(table) = manager.get_mut("route_config") else { continue };
        let table_name = table["name"].as_str().unwrap().to_owned();
        for host in table["virtual_hosts"].as_array_mut().unwrap() {
            let host_name = host["name"].as_str().unwrap().to_owned();
            let Some(routes) = host.get_mut("routes") else { continue };
            // What answers misdirected requests stays as it is.
            let routes =
                routes.as_array_mut().unwrap().iter_mut().filter(|route| route["name"] != "misdirected");
            for (index, route) in routes.enumerate() {
                let value = name(&table_name, &host_name, index);
                *route = json!({
                    "match": route["match"],
                    "direct_response": {"status": 200},
                    "response_headers_to_add": [{"header": {"key": NAME, "value": value}}],
                });
            }
        }
    }
    document
}

/// What `explain` says, in the words of [`heard`], and the route behind it.
fn said(fleet: &ir::Fleet, request: &Request) -> (String, Option<ir::RouteOrigin>) {
    match explain(fleet, request) {
        Answer::NoListener | Answer::Refused { .. } | Answer::Carried { .. } => ("closed".to_owned(), None),
        Answer::Early { status, .. } => (status.to_string(), None),
        Answer::Misdirected(..) => ("421".to_owned(), None),
        Answer::NotFound(_) => ("404".to_owned(), None),
        Answer::Found(trace, route) => {
            let host = trace.host.unwrap();
            let index = host.routes.iter().position(|candidate| std::ptr::eq(candidate, route)).unwrap();
            (name(&trace.chain.routes().unwrap().name, &host.name, index), Some(route.origin.clone()))
        }
    }
}

/// What a named route asks for.
fn conditions(fleet: &ir::Fleet, route: &str) -> String {
    let tables = fleet.tables();
    let hosts = tables.values().flat_map(|table| table.hosts.iter().map(|host| (&table.name, host)));
    let mut routes = hosts.flat_map(|(table, host)| {
        host.routes.iter().enumerate().map(move |(index, route)| (name(table, &host.name, index), route))
    });
    let found = routes.find(|(name, _)| name == route).map(|(_, route)| route);
    found.map_or_else(String::new, |route| {
        format!("{:?} {:?} {:?} {:?}", route.path, route.method, route.headers, route.query)
    })
}

/// What Envoy did.
fn heard(answer: &http::Answer) -> String {
    answer.header(NAME).map_or_else(|| answer.status.to_string(), str::to_owned)
}

fn asked(sent: &Sent, scheme: &str, server_name: &str, port: u16) -> Request {
    let mut headers = vec![format!("Host: {}", sent.host)];
    headers.extend(sent.headers.iter().map(|(name, value)| format!("{name}: {value}")));
    Request::parse(sent.method, &format!("{scheme}://{server_name}:{port}{}", sent.path), &headers).unwrap()
}

#[test]
fn envoy_and_the_gateway_api_agree_with_explain() {
    let seed = number("MOORGATE_SEED", 20_260_511);
    for round in 0..number("MOORGATE_EXPLAIN_ROUNDS", 3) {
        let seed = seed + round;
        let mut numbers = Numbers::new(seed);
        let case = case(&mut numbers);
        let folder = tempfile::tempdir().unwrap();
        let admin = ports::free().unwrap();
        let certificate = Certificate::for_names(&NAMES).unwrap();
        let bootstrap = folder.path().join("bootstrap.json");
        std::fs::write(&bootstrap, answering(&case, admin, &certificate).to_string()).unwrap();
        let envoys = program::envoys().unwrap();
        let (version, program) = &envoys[usize::try_from(round).unwrap() % envoys.len()];
        let mut envoy = Envoy::start("envoy", program, &bootstrap, admin, folder.path()).unwrap();
        envoy.wait_for_listeners(&case.ports).unwrap();
        let oldest = version.starts_with("1.38.");
        let mut wrong = plain(&case, &mut numbers, oldest);
        wrong.extend(secure(&case, &mut numbers, oldest, &certificate));
        assert!(
            wrong.is_empty(),
            "round {round}, seed {seed}, Envoy {version}: {} wrong, such as\n{}",
            wrong.len(),
            wrong[..wrong.len().min(12)].join("\n")
        );
    }
}

fn plain(case: &Case, numbers: &mut Numbers, oldest: bool) -> Vec<String> {
    let mut wires: Vec<Wire> = case.ports.iter().map(|port| Wire::new(*port)).collect();
    let mut wrong = Vec::new();
    let mut answers: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..REQUESTS {
        let mut sent = matches::request(numbers);
        sent.port %= matches::PORTS - 1;
        if oldest && sent.differs_before_1_39() {
            continue;
        }
        let mut headers = vec![("host".to_owned(), sent.host.clone())];
        headers.extend(sent.headers.iter().cloned());
        let answer = wires[sent.port].send(sent.method, &sent.path, &headers).unwrap();
        let (said, origin) = said(&case.fleet, &asked(&sent, "http", "127.0.0.1", case.ports[sent.port]));
        if said != heard(&answer) {
            let heard = heard(&answer);
            let [ours, theirs] = [&said, &heard].map(|name| conditions(&case.fleet, name));
            wrong.push(format!("{sent:?}\n  explain {said} {ours}\n  Envoy   {heard} {theirs}"));
        }
        let class = if said.contains(' ') {
            "route"
        } else {
            ["400", "404", "307"].into_iter().find(|status| *status == said).unwrap()
        };
        *answers.entry(class).or_default() += 1;
        if sent.is_plain() && said != "400" {
            let got = origin.map(|origin| (origin.object.name.to_string(), origin.rule, origin.matched));
            let due = due(&case.routes, &sent);
            if got != due {
                wrong.push(format!("{sent:?}\n  explain {got:?}\n  the API {due:?}"));
            }
        }
    }
    // A generator that only misses would prove nothing.
    for class in ["route", "404", "400", "307"] {
        assert!(answers.get(class).is_some_and(|count| *count > REQUESTS / 100), "{answers:?}");
    }
    wrong
}

fn secure(case: &Case, numbers: &mut Numbers, oldest: bool, certificate: &Certificate) -> Vec<String> {
    let port = *case.ports.last().unwrap();
    let mut wrong = Vec::new();
    for _ in 0..TLS_REQUESTS {
        let mut sent = matches::request(numbers);
        let server_name = NAMES[numbers.below(NAMES.len())];
        // Most clients ask for the name that they connected to.
        if numbers.chance(70) {
            server_name.clone_into(&mut sent.host);
        }
        // This client writes only what a URL may hold.
        let parsed = sent.path.parse::<::http::uri::PathAndQuery>();
        if oldest && sent.differs_before_1_39()
            || parsed.is_err()
            || parsed.is_ok_and(|parsed| parsed.as_str() != sent.path)
        {
            continue;
        }
        let target = Target::tls(port, server_name, &certificate.der).unwrap();
        let mut request = http::Request::get(&sent.host, &sent.path).method(sent.method);
        request.headers.clone_from(&sent.headers);
        let heard =
            http::send(&target, &request).map_or_else(|_| "closed".to_owned(), |answer| heard(&answer));
        let (said, _) = said(&case.fleet, &asked(&sent, "https", server_name, port));
        if said != heard {
            wrong.push(format!("TLS to {server_name}: {sent:?}\n  explain {said}\n  Envoy   {heard}"));
        }
    }
    wrong
}

/// Who must answer a request that needs no normalisation, by the text of the Gateway API: the most specific listener
/// that has the name (GEP-1713), the most specific hostname there, then the order of HTTPRoute matches.
fn due(routes: &[Route], sent: &Sent) -> Option<(String, usize, usize)> {
    let doors = DOORS.iter().filter(|door| door.port == sent.port && door.kind == DoorKind::Http);
    let door =
        doors.filter(|door| has(door.hostname, &sent.host)).max_by_key(|door| weight(door.hostname))?;
    // Hostnames that this door serves: its own, and those of its routes as far as it has them.
    let mut placed: Vec<(&str, &str, &Route)> = Vec::new();
    for route in routes.iter().filter(|route| route.section.is_none_or(|section| section == door.name)) {
        let written: &[&str] = if route.hostnames.is_empty() { &[""] } else { &route.hostnames };
        placed.extend(
            written.iter().filter_map(|written| Some((meet(door.hostname, written)?, *written, route))),
        );
    }
    let served = placed.iter().map(|(host, ..)| *host).chain([door.hostname]);
    // Names that another door of this port has more exactly are that door's.
    let host = served.filter(|host| has(host, &sent.host) && owner(door.port, host) == Some(door.name));
    let host = host.max_by_key(|host| weight(host))?;
    let here = placed.iter().filter(|(placed, ..)| *placed == host);
    let candidates = here.flat_map(|(_, written, route)| {
        let matches = route.rules.iter().enumerate().flat_map(|(rule, matches)| {
            matches.iter().enumerate().map(move |(index, found)| (rule, index, found))
        });
        matches.map(move |(rule, index, found)| (*written, *route, rule, index, found))
    });
    let fits = candidates.filter(|(.., found)| fits(found, sent));
    let first = fits.min_by_key(|(written, route, rule, index, found)| {
        let length = found.path.trim_end_matches(if found.kind == Kind::Prefix { '/' } else { '\0' }).len();
        let kind = match found.kind {
            Kind::Exact => 0,
            Kind::Regex => 1,
            Kind::Prefix => 2,
        };
        (
            Reverse(weight(written)),
            (kind, Reverse(length), found.method.is_none()),
            (Reverse(found.headers.len()), Reverse(found.query.len())),
            (route.namespace, route.name.clone(), *rule, *index),
        )
    })?;
    Some((first.1.name.clone(), first.2, first.3))
}

/// More is more specific: exact names, then the longest wildcard, then all.
fn weight(hostname: &str) -> (u8, usize) {
    match hostname {
        "" => (0, 0),
        name if name.starts_with('*') => (1, name.len()),
        name => (2, name.len()),
    }
}

fn has(hostname: &str, host: &str) -> bool {
    match hostname.strip_prefix('*') {
        _ if hostname.is_empty() || hostname == host => true,
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => false,
    }
}

fn meet<'h>(one: &'h str, other: &'h str) -> Option<&'h str> {
    let narrow = if weight(one) >= weight(other) { one } else { other };
    (has(one, narrow) && has(other, narrow)).then_some(narrow)
}

fn owner(port: usize, host: &str) -> Option<&'static str> {
    let doors = DOORS.iter().filter(|door| door.port == port && has(door.hostname, host));
    doors.max_by_key(|door: &&Door| weight(door.hostname)).map(|door| door.name)
}

fn fits<'s>(found: &Match, sent: &'s Sent) -> bool {
    let (path, query) = sent.path.split_once('?').unwrap_or((&sent.path, ""));
    let path_fits = match found.kind {
        Kind::Exact => path == found.path,
        Kind::Regex => whole(found.path, path),
        Kind::Prefix => {
            let prefix = found.path.trim_end_matches('/');
            path == prefix || path.starts_with(&format!("{prefix}/"))
        }
    };
    // How a header that stands several times counts is left to implementations: each value by itself.
    let header = |name: &str| {
        let sent = sent.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let values: Vec<&str> = sent.map(|(_, value)| value.trim()).collect();
        // The first proxy says how the client came; what the client says is not believed.
        if name.eq_ignore_ascii_case("x-forwarded-proto") { vec!["http"] } else { values }
    };
    let parameter = |name: &str| {
        let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.find(|(other, _)| *other == name).map(|(_, value)| value).into_iter().collect()
    };
    let all = |wanted: &[Value], get: &dyn Fn(&str) -> Vec<&'s str>| {
        wanted.iter().all(|wanted| {
            let fits =
                |value: &&str| if wanted.exact { *value == wanted.value } else { whole(wanted.value, value) };
            get(wanted.name).iter().any(fits)
        })
    };
    path_fits
        && found.method.is_none_or(|method| method == sent.method)
        && all(&found.headers, &header)
        && all(&found.query, &parameter)
}

fn whole(expression: &str, text: &str) -> bool {
    regex::Regex::new(&format!("^(?:{expression})$")).unwrap().is_match(text)
}
