//! Answers as JSON.

use super::{Places, carried, own, path, shares};
use crate::explain::{Answer, Trace};
use moorgate_model::FieldPath;
use moorgate_model::ir::{Action, FilterChain, PolicySource, Route, Stream};
use moorgate_snapshot::FleetName;
use serde_json::{Value, json};

/// An answer as an object; lists without entries are left out.
pub(super) fn value(places: &Places<'_>, fleet: &FleetName, answer: &Answer<'_>) -> Value {
    let mut out = match answer {
        Answer::NoListener => json!({ "answer": "no-listener" }),
        Answer::Refused { listener, route: None } => json!({ "answer": "refused", "listener": listener }),
        Answer::Refused { listener, route: Some((chain, stream)) } => {
            carries("refused", places, fleet, (listener, chain), stream)
        }
        Answer::Carried { listener, chain, stream } => {
            carries("carried", places, fleet, (listener, chain), stream)
        }
        Answer::Early { listener, status } => {
            json!({ "answer": "early", "listener": listener, "status": status })
        }
        Answer::Misdirected(found, host) => {
            json!({ "answer": "misdirected", "status": 421, "owner": host.listener, "trace": trace(places, found) })
        }
        Answer::NotFound(found) => {
            json!({ "answer": "not-found", "status": 404, "trace": trace(places, found) })
        }
        Answer::Found(found, winner) => answers(places, fleet, found, winner),
    };
    insert(&mut out, "fleet", json!(fleet));
    out
}

fn insert(out: &mut Value, name: &str, value: Value) {
    if let Some(fields) = out.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
}

fn carries(
    answer: &str,
    places: &Places<'_>,
    fleet: &FleetName,
    (listener, chain): (&str, &FilterChain),
    stream: &Stream,
) -> Value {
    let origin = &stream.origin;
    let place = places.of(&origin.object, "rules", origin.rule);
    let mut out = json!({
        "answer": answer, "listener": listener, "chain": chain.name, "backends": backends(carried(stream)),
        "route": { "object": origin.object, "rule": origin.rule, "rule_name": origin.rule_name, "place": place },
    });
    say_policies(&mut out, places, &places.policies(fleet, chain, (origin, &stream.policies)));
    if let Some(clients) = stream.told_apart() {
        insert(&mut out, "clients", json!({ "allowed": clients.allowed, "denied": clients.denied }));
    }
    out
}

fn answers(places: &Places<'_>, fleet: &FleetName, found: &Trace<'_>, winner: &Route) -> Value {
    let (answer, status, backends) = match &winner.action {
        Action::Respond(respond) => ("respond", Some(respond.status), Vec::new()),
        Action::Redirect(redirect) => ("redirect", Some(redirect.status), Vec::new()),
        Action::Forward(forward) => ("forward", None, backends(shares(forward))),
    };
    let mut out = json!({
        "answer": answer, "status": status, "backends": backends, "route": route(places, winner),
        "trace": trace(places, found),
    });
    say_policies(&mut out, places, &places.policies(fleet, found.chain, own(winner)));
    let patches = places.patches(fleet, found, winner).into_iter().map(|(policy, resource)| {
        let place = places.field(&policy, &FieldPath::parse("spec.jsonPatches"));
        json!({ "object": policy, "resource": resource, "place": place })
    });
    let patches: Vec<Value> = patches.collect();
    if !patches.is_empty() {
        insert(&mut out, "patches", patches.into());
    }
    out
}

fn say_policies(out: &mut Value, places: &Places<'_>, sources: &[PolicySource]) {
    let policy = |source: &PolicySource| {
        json!({
            "object": source.object, "target": source.target, "place": places.field(&source.object, &source.field),
            "capabilities": source.capabilities, "overridden_by": source.overridden_by,
        })
    };
    if !sources.is_empty() {
        insert(out, "policies", sources.iter().map(policy).collect());
    }
}

fn backends<'a>(shares: impl Iterator<Item = (&'a str, f64)>) -> Vec<Value> {
    shares.map(|(name, share)| json!({ "cluster": name, "percent": share })).collect()
}

fn route(places: &Places<'_>, route: &Route) -> Value {
    let origin = &route.origin;
    json!({
        "object": origin.object, "rule": origin.rule, "rule_name": origin.rule_name, "match": origin.matched,
        "place": places.rule(route), "path": path(route),
    })
}

fn trace(places: &Places<'_>, trace: &Trace<'_>) -> Value {
    let losers = trace.losers.iter().map(|(loser, reason)| {
        json!({ "route": route(places, loser), "reason": reason.as_ref().map(ToString::to_string) })
    });
    let losers: Vec<Value> = losers.collect();
    json!({ "listener": trace.listener, "chain": trace.chain.name, "host": trace.host.map(|host| &host.domain), "losers": losers })
}
