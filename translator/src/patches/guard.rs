//! What a patch must not take away without saying so: whatever restricts access.
//!
//! Before and after are compared as JSON. Two kinds of thing are guarded:
//! - *Closed answers*: routes, connections and clusters that are closed because a policy of somebody's cannot be carried out, or
//!   because a request is for another listener. No patch opens them, whatever it says.
//! - *Protection*: filters that authenticate, authorize or limit, checks of certificates, and the order of routes that have such.
//!   A policy may weaken these if it says so, and then it is said again.

use crate::attach::covers;
use serde_json::Value as Json;
use std::collections::BTreeSet;

/// What became of what is guarded.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Verdict {
    /// A closed answer would be open.
    pub(super) never: Option<String>,
    /// The resource with closed routes where they answer first again, and what is said about it.
    pub(super) restored: Option<(Json, String)>,
    /// What is weaker.
    pub(super) weaker: Vec<String>,
}

/// Filters that decide who passes, or may: parts of their names.
const FILTERS: [&str; 16] = [
    "api_key",
    "basic_auth",
    "composite",
    "csrf",
    "dynamic_modules",
    "ext_authz",
    "ext_proc",
    "geoip",
    "golang",
    "jwt",
    "local_ratelimit",
    "lua",
    "oauth2",
    "ratelimit",
    "rbac",
    "wasm",
];

/// Statuses of routes that are closed: of broken policies, and of misdirected requests.
const CLOSED: [u64; 2] = [500, 421];

/// Fields of TLS in which it is said whom to believe.
const TRUST: [&str; 5] = [
    "validation_context",
    "validation_context_sds_secret_config",
    "combined_validation_context",
    "validation_context_certificate_provider",
    "custom_validator_config",
];

/// Compares a resource with what patches made of it.
pub(super) fn check(type_url: &str, before: &Json, after: &Json) -> Verdict {
    let mut verdict = Verdict::default();
    match type_url {
        crate::xds::LISTENER_TYPE => listener(before, after, &mut verdict),
        crate::xds::ROUTE_TYPE => table(before, after, &mut verdict),
        crate::xds::CLUSTER_TYPE => cluster(before, after, &mut verdict),
        _ => {}
    }
    verdict
}

fn list<'j>(json: &'j Json, field: &str) -> &'j [Json] {
    json.get(field).and_then(Json::as_array).map_or(&[], Vec::as_slice)
}

fn name(json: &Json) -> &str {
    json.get("name").and_then(Json::as_str).unwrap_or_default()
}

fn restricting(name: &str) -> bool {
    FILTERS.iter().any(|part| name.contains(part))
}

fn chains(listener: &Json) -> impl Iterator<Item = &Json> {
    list(listener, "filter_chains").iter().chain(listener.get("default_filter_chain"))
}

/// Whether connections of a chain are closed at once.
fn refuses(chain: &Json) -> bool {
    list(chain, "filters").first().is_some_and(|filter| name(filter).ends_with(".direct_response"))
}

fn manager(chain: &Json) -> Option<&Json> {
    list(chain, "filters").iter().filter_map(|filter| filter.get("typed_config")).find(|config| {
        config.get("@type").and_then(Json::as_str).is_some_and(|of| of.ends_with(".HttpConnectionManager"))
    })
}

/// Filters of a list that restrict, with all that they say, in their order.
fn guards(filters: &[Json]) -> Vec<&Json> {
    filters.iter().filter(|filter| restricting(name(filter))).collect()
}

/// What happens to headers before anybody looks at them: names that Envoy writes for itself are taken from clients.
fn early(chain: &Json) -> Vec<&Json> {
    manager(chain)
        .map(|manager| list(manager, "early_header_mutation_extensions"))
        .into_iter()
        .flatten()
        .collect()
}

/// What TLS believes, and whether it must.
fn trust(holder: &Json) -> Option<Vec<Option<&Json>>> {
    let config = holder.get("transport_socket")?.get("typed_config")?;
    // PROXY protocol is wrapped around TLS.
    let config = config.get("transport_socket").and_then(|inner| inner.get("typed_config")).unwrap_or(config);
    let common = config.get("common_tls_context");
    let trust = TRUST.iter().map(|field| common?.get(field));
    Some(trust.chain([config.get("@type"), config.get("require_client_certificate")]).collect())
}

fn listener(before: &Json, after: &Json, verdict: &mut Verdict) {
    let (mut closed, mut guarded) = (false, false);
    for chain in chains(before) {
        let shown = name(chain);
        let now = chains(after).find(|now| name(now) == shown);
        let mut never = |what: &str| {
            let message = format!("filter chain {shown:?} {what}");
            verdict.never.get_or_insert(message);
        };
        if refuses(chain) {
            closed = true;
            if now != Some(chain) {
                never("refuses connections, and would not any more");
            }
            continue;
        }
        let rds = |chain: &Json| manager(chain).and_then(|manager| manager.get("rds").cloned());
        if now.is_some_and(|now| rds(now) != rds(chain)) {
            never("would have other routes, among which none is closed");
        }
        let trusted = trust(chain);
        let checks =
            trusted.as_ref().is_some_and(|trust| trust.iter().take(TRUST.len()).any(Option::is_some));
        let own = manager(chain).map(|manager| guards(list(manager, "http_filters"))).unwrap_or_default();
        let network = guards(list(chain, "filters"));
        guarded |= checks || !own.is_empty() || !network.is_empty();
        let Some(now) = now else {
            verdict.weaker.push(format!("filter chain {shown:?} is gone: others take its connections"));
            continue;
        };
        if now.get("filter_chain_match") != chain.get("filter_chain_match") {
            verdict.weaker.push(format!("filter chain {shown:?} takes other connections"));
        }
        if trust(now) != trusted {
            verdict
                .weaker
                .push(format!("filter chain {shown:?} checks certificates otherwise, or has no TLS"));
        }
        if !missing(&early(chain), &early(now)).is_empty() {
            verdict
                .weaker
                .push(format!("filter chain {shown:?} believes headers that only Envoy itself may write"));
        }
        let kept = manager(now).map(|manager| guards(list(manager, "http_filters"))).unwrap_or_default();
        for filter in missing(&own, &kept).into_iter().chain(missing(&network, &guards(list(now, "filters"))))
        {
            let message =
                format!("filter {} of filter chain {shown:?} is gone, moved or changed", name(filter));
            verdict.weaker.push(message);
        }
    }
    if (closed || guarded) && list(before, "listener_filters") != list(after, "listener_filters") {
        // Who a client is may be told by one of them.
        verdict.weaker.push("what listener filters find out about connections is changed".to_owned());
    }
    let known: BTreeSet<&str> = chains(before).map(name).collect();
    if let Some(new) = chains(after).find(|chain| !known.contains(name(chain))) {
        let message = format!("filter chain {:?} is new, and takes connections from others", name(new));
        if closed {
            verdict.never.get_or_insert(message);
        } else if guarded {
            verdict.weaker.push(message);
        }
    }
}

/// Those of a list that are not in another one, or stand there in another order.
fn missing<'j>(wanted: &[&'j Json], found: &[&Json]) -> Vec<&'j Json> {
    let mut rest = found;
    let mut out = Vec::new();
    for one in wanted {
        match rest.iter().position(|other| other == one) {
            Some(place) => rest = rest.get(place + 1..).unwrap_or_default(),
            None => out.push(*one),
        }
    }
    out
}

fn is_closed(route: &Json) -> bool {
    let status = route.get("direct_response").and_then(|answer| answer.get("status")).and_then(Json::as_u64);
    status.is_some_and(|status| CLOSED.contains(&status))
}

/// What restricts the requests of a route, or of all routes of a host.
fn own_guards(holder: &Json) -> Vec<(&String, &Json)> {
    let configs = holder.get("typed_per_filter_config").and_then(Json::as_object);
    configs.into_iter().flatten().filter(|(name, _)| restricting(name)).collect()
}

fn table(before: &Json, after: &Json, verdict: &mut Verdict) {
    let hosts = |table| list(table, "virtual_hosts");
    let mut restored = after.clone();
    let mut moved = Vec::new();
    for host in hosts(before) {
        let routes = list(host, "routes");
        let closed: Vec<&Json> = routes.iter().filter(|route| is_closed(route)).collect();
        let guarded = routes.iter().rposition(|route| !own_guards(route).is_empty());
        let shown = name(host);
        let place = hosts(after).iter().position(|now| name(now) == shown);
        let now = place.and_then(|place| hosts(after).get(place));
        let domains = |host: &Json| host.get("domains").cloned();
        if now.is_none_or(|now| domains(now) != domains(host)) {
            let message = format!("virtual host {shown:?} is gone, or is for other names");
            if closed.is_empty() {
                verdict.weaker.extend((guarded.is_some() || !own_guards(host).is_empty()).then_some(message));
            } else {
                verdict.never.get_or_insert(message);
            }
            continue;
        }
        let (Some(now), Some(place)) = (now, place) else { continue };
        taken(host, before, after, &closed, guarded.is_some(), verdict);
        if own_guards(host) != own_guards(now) {
            verdict.weaker.push(format!("filters of virtual host {shown:?} say something else"));
        }
        if let Some(last) = guarded {
            weaker_routes(shown, routes.get(..=last).unwrap_or_default(), list(now, "routes"), verdict);
        }
        // They answer first again: at worst more is closed in this host than was.
        if let Some(routes) = reclosed(&closed, routes, list(now, "routes")) {
            moved.push(shown);
            let all = restored.get_mut("virtual_hosts").and_then(Json::as_array_mut);
            if let Some(host) = all.and_then(|hosts| hosts.get_mut(place)).and_then(Json::as_object_mut) {
                host.insert("routes".into(), routes.into());
            }
        }
    }
    if !moved.is_empty() {
        let message = format!(
            "in virtual host {} routes are closed because of other policies: no patch opens them, so they answer first",
            moved.join(", ")
        );
        verdict.restored = Some((restored, message));
    }
}

/// Whether a new host takes requests from a host.
fn taken(host: &Json, before: &Json, after: &Json, closed: &[&Json], guarded: bool, verdict: &mut Verdict) {
    let domains = |host: &Json| -> Vec<String> {
        list(host, "domains")
            .iter()
            .filter_map(|domain| Some(domain.as_str()?.to_ascii_lowercase()))
            .collect()
    };
    let known: BTreeSet<&str> = list(before, "virtual_hosts").iter().map(name).collect();
    let own = domains(host);
    let takes = |new: &&Json| {
        domains(new)
            .iter()
            .any(|domain| own.iter().any(|own| own == "*" || domain == "*" || covers(own, domain)))
    };
    let mut new = list(after, "virtual_hosts").iter().filter(|host| !known.contains(name(host)));
    let Some(new) = new.find(takes) else { return };
    let message = format!("virtual host {:?} takes requests from {:?}", name(new), name(host));
    if !closed.is_empty() {
        verdict.never.get_or_insert(message);
    } else if guarded || !own_guards(host).is_empty() {
        verdict.weaker.push(message);
    }
}

fn weaker_routes(host: &str, before: &[Json], after: &[Json], verdict: &mut Verdict) {
    for (index, route) in before.iter().enumerate() {
        let now = after.get(index);
        if now.and_then(|now| now.get("match")) != route.get("match") {
            let message =
                format!("a route of virtual host {host:?} is gone, or another one answers before it");
            verdict.weaker.push(message);
            return;
        }
        if now.map(own_guards) != Some(own_guards(route)) {
            verdict.weaker.push(format!("filters of a route of virtual host {host:?} say something else"));
            return;
        }
    }
}

/// The routes of a host with its closed ones first, if a patch changed them or put anything before them.
fn reclosed(closed: &[&Json], before: &[Json], after: &[Json]) -> Option<Vec<Json>> {
    let last = before.iter().rposition(is_closed)?;
    let same = before
        .get(..=last)?
        .iter()
        .zip(after)
        .all(|(old, new)| if is_closed(old) { old == new } else { old.get("match") == new.get("match") });
    if same && after.len() > last {
        return None;
    }
    let rest = after.iter().filter(|route| !closed.contains(route)).cloned();
    Some(closed.iter().map(|route| (*route).clone()).chain(rest).collect())
}

fn cluster(before: &Json, after: &Json, verdict: &mut Verdict) {
    // One that refuses is static and has no endpoints.
    let refuses = before.get("eds_cluster_config").is_none()
        && before.get("load_assignment").is_none()
        && before.get("cluster_type").is_none()
        && before.get("type").and_then(Json::as_str) == Some("STATIC");
    let shown = name(before);
    if refuses && before != after {
        let message =
            format!("cluster {shown:?} makes no connection because of another policy, and would make some");
        verdict.never.get_or_insert(message);
    }
    if before.get("transport_socket").is_some() && trust(before) != trust(after) {
        verdict.weaker.push(format!("cluster {shown:?} checks certificates otherwise, or has no TLS"));
    }
}
