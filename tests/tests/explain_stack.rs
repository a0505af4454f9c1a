//! `explain` against the whole path: generated routes published, served by a relay, answered by a real Envoy.
//!
//! A seed is printed with every difference. `MOORGATE_EXPLAIN_SEED` replays one, `MOORGATE_EXPLAIN_REQUESTS` says how
//! many requests each configuration gets.

use anyhow::{Context as _, Result};
use moorgate::compile::{Options, compile};
use moorgate::explain::{Answer, Request as Explained, direct_status, explain};
use moorgate::source::File;
use moorgate_model::ir;
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{self, Request, Target};
use moorgate_tests::routes::{self, Numbers};
use moorgate_tests::stack::Stack;
use moorgate_tests::{manifest, ports};

const ROUTES: usize = 40;
const REQUESTS: usize = 1500;

#[test]
fn listeners_on_ports_of_their_own() -> Result<()> {
    let ports = [ports::free()?, ports::free()?, ports::free()?, ports::free()?, ports::free()?];
    agree(seed(11), ports)
}

#[test]
fn listeners_that_share_a_port() -> Result<()> {
    let (shared, secure) = (ports::free()?, ports::free()?);
    agree(seed(23), [shared, shared, shared, shared, secure])
}

#[test]
fn two_listeners_that_share_a_port() -> Result<()> {
    let (one, two, secure) = (ports::free()?, ports::free()?, ports::free()?);
    agree(seed(37), [one, one, two, two, secure])
}

fn number(name: &str) -> Option<u64> {
    #[allow(clippy::disallowed_methods, reason = "a knob of the suite")]
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn seed(given: u64) -> u64 {
    number("MOORGATE_EXPLAIN_SEED").unwrap_or(given)
}

/// Sends generated requests through a whole stack, and asks `explain` the same.
fn agree(seed: u64, ports: [u16; 5]) -> Result<()> {
    let mut numbers = Numbers::new(seed);
    let mut documents = routes::base(&ports);
    documents.extend(routes::routes(&mut numbers, ROUTES));
    let file =
        File { name: "generated.yaml".into(), bytes: manifest::documents(&documents).into_bytes().into() };
    let compilation = compile(&[file], &Options::default());
    let fleet = &compilation.fleets.values().next().context("no fleet")?.ir;

    let mut stack = Stack::new("edge/public")?;
    let certificate = Certificate::for_names(&routes::CERTIFICATE_NAMES)?;
    stack.set_secret("edge", "certificate", &certificate)?;
    let mut backends = Vec::new();
    for namespace in routes::NAMESPACES {
        for service in routes::SERVICES {
            let backend = Backend::start(&format!("{namespace}.{service}"))?;
            stack.set_endpoints(namespace, service, &[backend.address()])?;
            backends.push(backend);
        }
    }
    stack.publish_documents(&documents)?;
    stack.start_relay()?;
    let mut listening = ports.to_vec();
    listening.dedup();
    stack.start_envoy(&listening)?;

    let count = number("MOORGATE_EXPLAIN_REQUESTS")
        .map_or(REQUESTS, |count| usize::try_from(count).unwrap_or(REQUESTS));
    let (mut differences, mut forwarded) = (Vec::new(), 0);
    for _ in 0..count {
        let (listener, request) = routes::request(&mut numbers);
        let port = ports[listener];
        let expected = expected(fleet, port, &request)?;
        let name = request.host.split(':').next().unwrap_or_default().to_ascii_lowercase();
        let secure = listener + 1 == ports.len();
        let target = if secure { Target::tls(port, &name, &certificate.der)? } else { Target::plain(port) };
        let got = observed(&http::send(&target, &request)?);
        forwarded += usize::from(got.starts_with("rule"));
        if got != expected {
            differences.push(format!("{request:?} on port {port}: explain says {expected}, Envoy {got}"));
        }
    }
    assert!(differences.is_empty(), "seed {seed}: {} differ:\n{}", differences.len(), differences.join("\n"));
    assert!(
        forwarded * 4 > count,
        "seed {seed}: only {forwarded} of {count} requests met a rule: the test has no teeth"
    );
    Ok(())
}

/// What `explain` says: the rule that answers, or the status.
fn expected(fleet: &ir::Fleet, port: u16, request: &Request) -> Result<String> {
    let scheme = if fleet
        .listeners
        .values()
        .any(|listener| listener.port == port && listener.chains.iter().any(|chain| chain.tls.is_some()))
    {
        "https"
    } else {
        "http"
    };
    let host = request.host.split(':').next().unwrap_or_default();
    let mut headers: Vec<String> =
        request.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    headers.push(format!("Host: {}", request.host));
    let explained =
        Explained::parse(&request.method, &format!("{scheme}://{host}:{port}{}", request.path), &headers)?;
    Ok(match explain(fleet, &explained) {
        Answer::NoListener | Answer::Refused { .. } | Answer::Carried { .. } => "refused".into(),
        Answer::Early { status, .. } => format!("status {status}"),
        Answer::Misdirected(..) => "status 421".into(),
        Answer::NotFound(_) => "status 404".into(),
        Answer::Found(_, route) if direct_status(route) == Some(500) => "status 500".into(),
        Answer::Found(_, route) => {
            let origin = &route.origin;
            format!("rule {}.{}.{}", origin.object.namespace, origin.object.name, origin.rule)
        }
    })
}

/// What Envoy did: backends echo the header that names the rule, redirects carry it in their host.
fn observed(answer: &http::Answer) -> String {
    if let Some(location) =
        answer.header("location").filter(|location| location.contains(routes::REDIRECT_DOMAIN))
    {
        let host =
            location.split("://").nth(1).unwrap_or_default().split(['/', ':']).next().unwrap_or_default();
        let mut labels = host.split('.');
        let rule = labels.next().unwrap_or_default().trim_start_matches('r').to_owned();
        let (name, namespace) = (labels.next().unwrap_or_default(), labels.next().unwrap_or_default());
        return format!("rule {namespace}.{name}.{rule}");
    }
    match answer.echo() {
        Ok(echo) => {
            format!("rule {}", echo.header(routes::RULE_HEADER).first().copied().unwrap_or("(unmarked)"))
        }
        Err(_) => format!("status {}", answer.status),
    }
}
