//! `moorgate explain`

mod stored;
mod value;

use super::input::{Compiled, Fleets, Reading};
use super::output::{self, json};
use super::{Exit, Failure};
use crate::explain::{Answer, Request, Trace, explain};
use crate::history::Written;
use crate::report::FORMAT_VERSION;
use crate::xds;
use anyhow::anyhow;
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use moorgate_model::diagnostic::catalogue;
use moorgate_model::ir::{
    Action, ClientRanges, FilterChain, Forward, PathMatch, PolicySource, Route, RouteOrigin, Stream,
};
use moorgate_model::{FieldPath, ObjectRef};
use moorgate_snapshot::{Channel, FleetName};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Explain who answers a request, or what a diagnostic's code means
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate explain gateways/ GET https://shop.example.com/cart -H 'x-user: a'
  moorgate explain . POST http://shop.example.com:8080/ --rev main --path gateways
  moorgate explain . CONNECT tls://db.example.com:5432
  moorgate explain --cluster GET https://shop.example.com/cart
  moorgate explain channel:shop/edge@stable GET https://shop.example.com/cart
  moorgate explain MG3006

SOURCE may also be channel:FLEET@CHANNEL (what the channel serves now) or snapshot:ID of a release (--fleet says whose,
--channel where): the answer then comes from the store alone, with the places that were signed beside the snapshot.
Exits 0 if a route forwards or redirects the request, 1 if nobody does.")]
pub(super) struct ExplainArgs {
    /// SOURCE METHOD URL, or one CODE
    #[arg(value_name = "SOURCE METHOD URL | CODE", required = true, num_args = 1..=3)]
    what: Vec<String>,
    /// A header of the request (repeatable); Host replaces the URL's host
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE")]
    headers: Vec<String>,
    #[command(flatten)]
    fleets: Fleets,
    #[command(flatten)]
    reading: Reading,
    /// The channel in whose log a snapshot:ID is looked for
    #[arg(long, default_value_t = Channel::stable())]
    channel: Channel,
    /// The store of snapshot: and channel:
    #[arg(long, value_name = "URL", env = "MOORGATE_STORE", value_delimiter = ',')]
    store: Vec<String>,
    /// Whom to trust for snapshot: and channel:
    #[arg(long, value_name = "FILE", env = "MOORGATE_TRUST")]
    trust: Option<PathBuf>,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For scripts
    Json,
}

/// Runs the command.
pub(super) async fn run(args: ExplainArgs) -> Result<Exit, Failure> {
    let (source, method, url) = match args.what.as_slice() {
        [code] => return explain_code(code),
        [method, url] if args.reading.live.cluster => (None, method, url),
        [source, method, url] if !args.reading.live.cluster => (Some(source), method, url),
        _ => {
            return Err(Failure::new(
                Exit::Usage,
                anyhow!("say SOURCE METHOD URL, --cluster METHOD URL, or one CODE"),
            ));
        }
    };
    let request =
        Request::parse(method, url, &args.headers).map_err(|error| Failure::new(Exit::Usage, error))?;
    let mut said = Said::default();
    if let Some(source) = source
        && let Some((fleet, release)) = stored::release(&args, source).await?
    {
        let (ir, records) = stored::read(&args, &fleet, &release).await?;
        said.add(&args, &Places::Records(Written::new(&records)), &fleet, &explain(&ir, &request));
        return said.print(args.output);
    }
    let compiled = args.reading.compile(&source.into_iter().cloned().collect::<Vec<_>>()).await?;
    if let Some(fleet) = args.fleets.missing(&compiled.compilation) {
        return Err(Failure::new(Exit::Usage, anyhow!("the source has no fleet {fleet}")));
    }
    let places = Places::Compiled(&compiled);
    for (name, fleet) in compiled.compilation.fleets.iter().filter(|(name, _)| args.fleets.wants(name)) {
        said.add(&args, &places, name, &explain(&fleet.ir, &request));
    }
    said.print(args.output)
}

/// The answers so far.
#[derive(Default)]
struct Said {
    answered: bool,
    values: Vec<Value>,
    text: String,
}

impl Said {
    fn add(&mut self, args: &ExplainArgs, places: &Places<'_>, fleet: &FleetName, answer: &Answer<'_>) {
        self.answered |= match answer {
            Answer::Found(_, route) => !matches!(route.action, Action::Respond(_)) || is_meant(route),
            Answer::Carried { .. } => true,
            Answer::NoListener
            | Answer::Refused { .. }
            | Answer::Early { .. }
            | Answer::Misdirected(..)
            | Answer::NotFound(_) => false,
        };
        match args.output {
            Output::Text => self.text.push_str(&describe(places, fleet, answer)),
            Output::Json => self.values.push(value::value(places, fleet, answer)),
        }
    }

    fn print(self, output: Output) -> Result<Exit, Failure> {
        let text = match output {
            Output::Text => self.text,
            Output::Json => json(&json!({ "format_version": FORMAT_VERSION, "answers": self.values })),
        };
        output::print(&text)?;
        Ok(if self.answered { Exit::Fine } else { Exit::No })
    }
}

fn explain_code(code: &str) -> Result<Exit, Failure> {
    let Some(code) = catalogue().find(|known| known.id.eq_ignore_ascii_case(code)) else {
        return Err(Failure::new(
            Exit::Usage,
            anyhow!("{code:?} is no code of a diagnostic; say SOURCE METHOD URL to explain a request"),
        ));
    };
    let class = format!("{:?}", code.class).to_lowercase();
    let severity = format!("{:?}", code.severity).to_lowercase();
    output::print(&format!("{}: {} ({class} {severity})\n\n{}\n", code.id, code.title, code.explanation))?;
    Ok(Exit::Fine)
}

/// Where places are looked up.
enum Places<'c> {
    /// In the sources.
    Compiled(&'c Compiled),
    /// In the records beside a snapshot.
    Records(Written<'c>),
}

impl Places<'_> {
    /// The place of a rule or listener of an object.
    fn of(&self, object: &ObjectRef, list: &str, index: usize) -> String {
        let place = match self {
            Self::Compiled(compiled) => {
                let field = FieldPath::root().key("spec").key(list).index(index);
                compiled.compilation.place(object, &field)
            }
            Self::Records(written) => written.place(object, Some(index)),
        };
        place.unwrap_or_else(|| "(unknown place)".into())
    }

    /// The place of a field of an object.
    fn field(&self, object: &ObjectRef, field: &FieldPath) -> String {
        let place = match self {
            Self::Compiled(compiled) => compiled.compilation.place(object, field),
            Self::Records(written) => written.target(object, field),
        };
        place.unwrap_or_else(|| "(unknown place)".into())
    }

    /// The policies of a chain, and of a route that has these.
    fn policies(
        &self,
        fleet: &FleetName,
        chain: &FilterChain,
        (route, own): (&RouteOrigin, &[PolicySource]),
    ) -> Vec<PolicySource> {
        match self {
            Self::Compiled(_) => {
                let of_chain = chain.policies.iter().flat_map(|added| &added.sources);
                of_chain.chain(own).cloned().collect()
            }
            Self::Records(written) => written.policies(fleet, chain, Some(route)),
        }
    }

    /// The EnvoyPatchPolicies that changed what a request meets, each with the type and name of the resource. What is said of
    /// the request is without them.
    fn patches(&self, fleet: &FleetName, trace: &Trace<'_>, route: &Route) -> Vec<(ObjectRef, String)> {
        let Self::Compiled(compiled) = self else { return Vec::new() };
        let Some(found) = compiled.compilation.fleets.get(fleet).filter(|found| !found.patches.is_empty())
        else {
            return Vec::new();
        };
        let table = trace.chain.routes().map(|table| (xds::ROUTE_TYPE, table.name.as_str()));
        let mut met: Vec<(&str, &str)> =
            [(xds::LISTENER_TYPE, trace.listener)].into_iter().chain(table).collect();
        met.extend(route.clusters().map(|cluster| (xds::CLUSTER_TYPE, cluster)));
        let mut out = Vec::new();
        for (type_url, name) in met {
            let kind = type_url.rsplit('.').next().unwrap_or_default();
            let policies = found.patches.get(&(type_url.to_owned(), name.to_owned())).into_iter().flatten();
            out.extend(policies.map(|policy| (policy.clone(), format!("{kind} {name}"))));
        }
        out
    }

    fn rule(&self, route: &Route) -> String {
        self.of(&route.origin.object, "rules", route.origin.rule)
    }
}

fn describe(places: &Places<'_>, fleet: &FleetName, answer: &Answer<'_>) -> String {
    let mut out = format!("fleet {fleet}\n");
    let _ = match answer {
        Answer::NoListener => writeln!(out, "  no listener has this port: the connection is refused"),
        Answer::Refused { listener, route: None } => {
            writeln!(out, "  listener {listener}: nothing is served for this name: the connection is closed")
        }
        Answer::Refused { listener, route: Some((chain, stream)) } => {
            describe_carrier(places, fleet, (listener, chain), stream, &mut out);
            writeln!(out, "  the connection is closed; see `moorgate check`")
        }
        Answer::Early { listener, status } => {
            writeln!(
                out,
                "  listener {listener}: the path is not normal, Envoy answers {status} before it looks at routes"
            )
        }
        Answer::Carried { listener, chain, stream } => {
            describe_carrier(places, fleet, (listener, chain), stream, &mut out);
            out.push_str("  bytes go on as they are\n");
            if let Some(ClientRanges { allowed, denied }) = stream.told_apart() {
                let list =
                    |ranges: &[IpNet]| ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let _ = writeln!(
                    out,
                    "  clients from {} pass, those from {} do not; the longest range counts",
                    list(allowed),
                    list(denied)
                );
            }
            for (cluster, percent) in carried(stream) {
                let _ = writeln!(out, "  backend {cluster}: {percent:.1} %");
            }
            Ok(())
        }
        Answer::Misdirected(trace, host) => {
            describe_trace(places, trace, &mut out);
            writeln!(
                out,
                "  answer: 421, the connection is for listener {}, and {} belongs to listener {}: a client opens a \
                 connection of its own",
                trace.chain.name,
                host.domain,
                host.listener.as_deref().unwrap_or_default(),
            )
        }
        Answer::NotFound(trace) => {
            describe_trace(places, trace, &mut out);
            writeln!(out, "  answer: 404, no route matches")
        }
        Answer::Found(trace, route) => {
            describe_trace(places, trace, &mut out);
            describe_policies(places, &places.policies(fleet, trace.chain, own(route)), &mut out);
            for (policy, resource) in places.patches(fleet, trace, route) {
                let at = places.field(&policy, &FieldPath::parse("spec.jsonPatches"));
                let _ = writeln!(
                    out,
                    "  policy {policy} patches {resource}: what is said here is without it  ({at})"
                );
            }
            describe_route(places, route, &mut out);
            Ok(())
        }
    };
    let (Answer::Found(trace, _) | Answer::NotFound(trace)) = answer else { return out };
    for (route, reason) in &trace.losers {
        let why =
            reason.as_ref().map_or_else(|| "matches too, but stands behind".to_owned(), ToString::to_string);
        let at = places.rule(route);
        let _ = writeln!(out, "  not {} rule {}: {why}  ({at})", route.origin.object, route.origin.rule);
    }
    out
}

/// The route of a connection, and the policies that have a say about it.
fn describe_carrier(
    places: &Places<'_>,
    fleet: &FleetName,
    (listener, chain): (&str, &FilterChain),
    stream: &Stream,
    out: &mut String,
) {
    describe_chain(places, listener, chain, out);
    let origin = &stream.origin;
    describe_policies(places, &places.policies(fleet, chain, (origin, &stream.policies)), out);
    let at = places.of(&origin.object, "rules", origin.rule);
    let _ = writeln!(out, "  route {} rule {}  ({at})", origin.object, origin.rule);
}

fn describe_chain(places: &Places<'_>, listener: &str, chain: &FilterChain, out: &mut String) {
    for origin in &chain.origins {
        let at = places.of(&origin.owner, "listeners", origin.index);
        let _ = writeln!(out, "  listener {listener}: {} of {}  ({at})", origin.listener, origin.owner);
    }
}

fn describe_trace(places: &Places<'_>, trace: &Trace<'_>, out: &mut String) {
    describe_chain(places, trace.listener, trace.chain, out);
    let host = trace.host.map_or("(none)", |host| host.domain.as_str());
    let _ = writeln!(out, "  host {host}");
}

/// Which policies have a say, and which have none because of others.
fn describe_policies(places: &Places<'_>, sources: &[PolicySource], out: &mut String) {
    for source in sources {
        let what = match &source.overridden_by {
            Some(other) => format!("has no effect here, {other} takes its place"),
            None if source.capabilities.is_empty() => "in force, with nothing that Envoy could do".to_owned(),
            None => source.capabilities.join(", "),
        };
        let at = places.field(&source.object, &source.field);
        let _ = writeln!(out, "  policy {} on {}: {what}  ({at})", source.object, source.target);
    }
}

/// Where a route comes from, with the policies that it has.
fn own(route: &Route) -> (&RouteOrigin, &[PolicySource]) {
    (&route.origin, route.policies.as_ref().map_or(&[], |added| &added.sources))
}

fn describe_route(places: &Places<'_>, route: &Route, out: &mut String) {
    let origin = &route.origin;
    let named = origin.rule_name.as_ref().map(|name| format!(" {name:?}")).unwrap_or_default();
    let at = places.rule(route);
    let _ = writeln!(out, "  route {} rule {}{named}: {}  ({at})", origin.object, origin.rule, path(route));
    match &route.action {
        Action::Respond(respond) => {
            let why = if is_meant(route) { "as a filter says" } else { "see `moorgate check`" };
            let _ = writeln!(out, "  answer: {} by Envoy itself; {why}", respond.status);
        }
        Action::Redirect(redirect) => {
            let _ = writeln!(out, "  answer: redirect {}", redirect.status);
        }
        Action::Forward(forward) => {
            for (cluster, percent) in shares(forward) {
                let _ = writeln!(out, "  backend {cluster}: {percent:.1} %");
            }
        }
    }
}

/// Whether a filter of the rule answers, and not an error.
fn is_meant(route: &Route) -> bool {
    let mut added = route.policies.iter().filter(|added| !added.route.is_empty());
    added.any(|added| added.sources.iter().any(|source| source.capabilities.contains(&"direct_response")))
}

/// What a route asks of the path.
fn path(route: &Route) -> String {
    let text = match &route.path {
        PathMatch::Exact(path) => format!("Exact {path}"),
        PathMatch::Prefix(path) if path.is_empty() => "PathPrefix /".to_owned(),
        PathMatch::Prefix(path) => format!("PathPrefix {path}"),
        PathMatch::Regex(path) => format!("RegularExpression {path}"),
    };
    if route.grpc.is_some() { format!("gRPC {text}") } else { text }
}

fn shares(forward: &Forward) -> impl Iterator<Item = (&str, f64)> {
    let backends = forward
        .backends
        .iter()
        .map(|backend| (backend.cluster.as_deref().unwrap_or("(invalid: 500)"), f64::from(backend.weight)));
    percent(backends)
}

fn carried(stream: &Stream) -> impl Iterator<Item = (&str, f64)> {
    let backends = stream.backends.iter().map(|backend| {
        (backend.cluster.as_deref().unwrap_or("(invalid: closed)"), f64::from(backend.weight))
    });
    percent(backends)
}

fn percent<'a>(
    weights: impl Iterator<Item = (&'a str, f64)> + Clone,
) -> impl Iterator<Item = (&'a str, f64)> {
    let total: f64 = weights.clone().map(|(_, weight)| weight).sum();
    weights.map(move |(name, weight)| (name, 100.0 * weight / total))
}
