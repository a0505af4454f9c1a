//! What the Gateway API says and no conformance test asks: who wins, what a wildcard covers, what listeners keep to
//! themselves, and what each extended field of HTTPRoute tells Envoy. One table a rule.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]
#![allow(clippy::too_many_lines, reason = "tables")]

#[path = "semantics/features.rs"]
mod features;
#[path = "semantics/listeners.rs"]
mod listeners;
#[path = "semantics/precedence.rs"]
mod precedence;

use moorgate::compile::{Compilation, Options, compile};
use moorgate::explain::{Answer, Request, direct_status, explain};
use moorgate::source::File;
use moorgate::status::Status;
use moorgate::validate::Channel;
use moorgate_model::ir::Action;
use moorgate_snapshot::FleetName;

const CLASS: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: moorgate}
spec: {controllerName: moorgate.dev/gateway-controller}
";

/// The Gateway `shop/edge` with these listeners, and further fields, in flow style.
fn gateway(listeners: &str, more: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: shop}}\nspec:\n  \
         gatewayClassName: moorgate\n{more}  listeners: [{listeners}]\n"
    )
}

fn service(namespace: &str, name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{ports: [{{name: http, port: \
         80}}]}}\n"
    )
}

/// A route with these fields of its metadata and spec; rules in flow style.
fn route(kind: &str, metadata: &str, spec: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{{metadata}}}\nspec:\n  {spec}\n  rules: {rules}\n"
    )
}

/// Rules that send everything to a Service of the route's namespace.
fn to(service: &str) -> String {
    format!("[{{backendRefs: [{{name: {service}, port: 80}}]}}]")
}

/// Compiles these documents and the class, in the experimental channel.
fn compiled(documents: &[String]) -> Compilation {
    let text =
        std::iter::once(CLASS).chain(documents.iter().map(String::as_str)).collect::<Vec<_>>().join("---\n");
    let mut options = Options::default();
    options.validate.channel = Channel::Experimental;
    compile(&[File { name: "in.yaml".into(), bytes: text.into_bytes().into() }], &options)
}

/// The same, where nothing is wrong.
fn fine(documents: &[String]) -> Compilation {
    let compilation = compiled(documents);
    assert!(!compilation.diagnostics.has_errors(), "{:?}", compilation.diagnostics);
    compilation
}

/// What answers at `shop/edge`: the first cluster's name, a status, `refused` or `no listener`.
fn answer(compilation: &Compilation, method: &str, url: &str, headers: &[&str]) -> String {
    let fleet = &compilation.fleets[&FleetName::gateway("shop", "edge")].ir;
    let headers: Vec<String> = headers.iter().map(|header| (*header).to_owned()).collect();
    match explain(fleet, &Request::parse(method, url, &headers).unwrap()) {
        Answer::NoListener => "no listener".into(),
        Answer::Refused { .. } => "refused".into(),
        Answer::Carried { stream, .. } => {
            stream.backends.iter().find_map(|backend| backend.cluster.clone()).unwrap_or_default()
        }
        Answer::Early { status, .. } => status.to_string(),
        Answer::Misdirected(..) => "421".into(),
        Answer::NotFound(_) => "404".into(),
        Answer::Found(_, route) => match &route.action {
            Action::Forward(_) => route.clusters().next().unwrap_or("500").to_owned(),
            Action::Respond(_) | Action::Redirect(_) => direct_status(route).unwrap_or_default().to_string(),
        },
    }
}

/// A condition of a Gateway's or ListenerSet's listener, or of a parent of a route by its position: `Status/Reason`.
fn condition(compilation: &Compilation, kind: &str, name: &str, part: &str, wanted: &str) -> String {
    let found =
        compilation.statuses.iter().find(|(object, _)| (&*object.kind, &*object.name) == (kind, name));
    let conditions = match found.map(|(_, status)| status) {
        Some(Status::Gateway { listeners, .. } | Status::ListenerSet { listeners, .. })
            if !part.is_empty() =>
        {
            listeners.iter().find(|listener| listener.name == part).map(|listener| &listener.conditions)
        }
        Some(Status::Gateway { conditions, .. } | Status::ListenerSet { conditions, .. }) => Some(conditions),
        Some(Status::Route { parents }) => {
            parents.get(part.parse::<usize>().unwrap_or(0)).map(|parent| &parent.conditions)
        }
        _ => None,
    };
    let found = conditions.into_iter().flatten().find(|condition| condition.kind == wanted);
    found.map_or_else(|| "none".to_owned(), |found| format!("{}/{}", found.status, found.reason))
}

/// How many routes each listener of an object has.
fn attached(compilation: &Compilation, kind: &str, name: &str) -> Vec<usize> {
    let found =
        compilation.statuses.iter().find(|(object, _)| (&*object.kind, &*object.name) == (kind, name));
    match found {
        Some((_, Status::Gateway { listeners, .. } | Status::ListenerSet { listeners, .. })) => {
            listeners.iter().map(|listener| listener.attached_routes).collect()
        }
        _ => Vec::new(),
    }
}
