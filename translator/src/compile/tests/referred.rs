//! Backends and HTTPRouteFilters: whom their errors concern, what is said of them, and what requests get.

use super::{CLASS, compiled, gateway, one, route, two};
use crate::compile::{Blocked, Compilation};
use crate::status::Status;
use moorgate_model::ObjectRef;
use moorgate_model::ir::{Action, Forward, Route};
use moorgate_snapshot::FleetName;

const GROUP: &str = "gateway.envoyproxy.io";

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: {GROUP}/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n---\n"
    )
}

fn backend(name: &str) -> String {
    format!("{{group: {GROUP}, kind: Backend, name: {name}}}")
}

/// Two fleets, each with a route; that of the first has these rules.
fn with(rules: &str, objects: &[String]) -> Compilation {
    compiled(&[
        ("infra.yaml", format!("{CLASS}{}{}", gateway("one"), gateway("two"))),
        ("shop.yaml", route("shop", "one", rules)),
        ("blog.yaml", route("blog", "two", super::FINE)),
        ("objects.yaml", objects.concat()),
    ])
}

fn routes(found: &Compilation) -> Vec<Route> {
    let tables = found.fleets[&FleetName::gateway("infra", "one")].ir.tables();
    tables.values().flat_map(|table| &table.hosts).flat_map(|host| &host.routes).cloned().collect()
}

fn forward(route: &Route) -> Forward {
    match &route.action {
        Action::Forward(forward) => forward.clone(),
        other => panic!("{other:?}"),
    }
}

/// The condition of a Backend, as `Status/Reason`.
fn accepted(found: &Compilation, name: &str) -> String {
    match found.statuses.get(&ObjectRef::new(GROUP, "Backend", "shop", name)) {
        Some(Status::Object { conditions }) => format!("{}/{}", conditions[0].status, conditions[0].reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn errors_concern_the_fleets_of_the_routes_that_refer() {
    let rules = format!(
        "[{{backendRefs: [{}], filters: [{{type: ExtensionRef, extensionRef: {{group: {GROUP}, kind: HTTPRouteFilter, name: f}}}}]}}]",
        backend("b")
    );
    for broken in [object("Backend", "b", "{endpoints: 7}"), object("HTTPRouteFilter", "f", "{matches: 7}")] {
        let found = with(&rules, std::slice::from_ref(&broken));
        assert!(
            found.blocked.blocks(&one()) && !found.blocked.blocks(&two()),
            "{broken}: {:?}",
            found.blocked
        );
    }
    let nobody = with(super::FINE, &[object("Backend", "b", "{endpoints: 7}")]);
    assert!(nobody.blocked.all, "a policy may refer to it");
}

#[test]
fn backends_have_a_verdict_of_their_own() {
    let good = object("Backend", "good", "{endpoints: [{ip: {address: 10.0.0.1, port: 80}}]}");
    let bad = object("Backend", "bad", "{endpoints: [{ip: {address: 127.0.0.1, port: 80}}]}");
    let rules = format!("[{{backendRefs: [{}, {}]}}]", backend("good"), backend("bad"));
    let found = with(&rules, &[good, bad]);
    assert_eq!(
        (accepted(&found, "good").as_str(), accepted(&found, "bad").as_str()),
        ("True/Accepted", "False/Invalid")
    );
    let backends = forward(&routes(&found)[0]).backends;
    let clusters: Vec<_> = backends.iter().map(|backend| backend.cluster.as_deref()).collect();
    assert_eq!(clusters, [Some("shop/Backend=good/80"), None]);
    assert_eq!(found.blocked, Blocked::default());
}

#[test]
fn fallbacks_have_their_turns_behind_each_of_the_others() {
    let place = |name: &str, more: &str| {
        object("Backend", name, &format!("{{endpoints: [{{ip: {{address: 10.0.0.1, port: 80}}}}]{more}}}"))
    };
    let all = [place("a", ""), place("last", ", fallback: true"), place("least", ", fallback: true")];
    let rules = format!(
        "[{{backendRefs: [{{name: web, port: 80, weight: 3}}, {}, {}, {}]}}]",
        backend("a"),
        backend("last"),
        backend("least")
    );
    let found = with(&rules, &all);
    let shares: Vec<_> = forward(&routes(&found)[0])
        .backends
        .into_iter()
        .map(|one| (one.cluster.unwrap(), one.weight))
        .collect();
    let turns = |first: &str| format!("{first}|shop/Backend=last/80|shop/Backend=least/80");
    assert_eq!(shares, [(turns("shop/web/80"), 3), (turns("shop/Backend=a/80"), 1)]);
    let clusters = &found.fleets[&one()].ir.clusters;
    assert!(clusters.contains_key("shop/Backend=least/80") && clusters.contains_key("shop/web/80"));
    // Alone, the first of them is asked as any other.
    let alone = with(&format!("[{{backendRefs: [{}]}}]", backend("last")), &all);
    assert_eq!(forward(&routes(&alone)[0]).backends[0].cluster.as_deref(), Some("shop/Backend=last/80"));
}

#[test]
fn what_is_refused_keeps_nothing_of_what_a_filter_answers() {
    let filter = object("HTTPRouteFilter", "f", "{directResponse: {body: {type: Inline, inline: secret}}}");
    let rules = format!(
        "[{{filters: [{{type: ExtensionRef, extensionRef: {{group: {GROUP}, kind: HTTPRouteFilter, name: f}}}}]}}]"
    );
    let open = with(&rules, std::slice::from_ref(&filter));
    let body = |found: &Compilation| routes(found)[0].policies.as_ref().map_or(0, |added| added.route.len());
    assert!(
        matches!(&routes(&open)[0].action, Action::Respond(respond) if respond.status == 200)
            && body(&open) == 1
    );
    // A policy that cannot be carried out closes the route.
    let guard = format!(
        "apiVersion: {GROUP}/v1alpha1\nkind: SecurityPolicy\nmetadata: {{name: g, namespace: shop}}\n\
         spec: {{targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}}], extAuth: {{http: {{backendRefs: [{{name: gone, port: 80}}]}}}}}}\n"
    );
    let closed = with(&rules, &[filter, guard]);
    assert!(
        matches!(&routes(&closed)[0].action, Action::Respond(respond) if respond.status == 500)
            && body(&closed) == 0
    );
}

/// A credential is for the backend whose filter it is: its cluster has the filter, and the rule the value.
#[test]
fn a_credential_of_a_backend_goes_nowhere_else() {
    let filters = format!(
        "filters: [{{type: ExtensionRef, extensionRef: {{group: {GROUP}, kind: HTTPRouteFilter, name: key}}}}]"
    );
    let rules = format!("[{{backendRefs: [{{name: web, port: 80, {filters}}}, {{name: web, port: 80}}]}}]");
    let key =
        object("HTTPRouteFilter", "key", "{credentialInjection: {credential: {valueRef: {name: key}}}}");
    let retry = "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: {name: p, namespace: shop}\n\
                 spec:\n  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}]\n  \
                 loadBalancer: {type: Random}\n---\n";
    for (policies, end) in [("", ""), (retry, "+shop.p")] {
        let found = with(&rules, &[key.clone(), policies.to_owned()]);
        assert!(!found.diagnostics.has_errors(), "{:?}", found.diagnostics);
        let route = routes(&found).remove(0);
        let names = forward(&route).backends.into_iter().filter_map(|backend| backend.cluster);
        let names: Vec<String> = names.collect();
        assert_eq!(names, [format!("shop/web/80+shop:key{end}"), format!("shop/web/80{end}")]);
        let clusters = &found.fleets[&FleetName::gateway("infra", "one")].ir.clusters;
        let filters: Vec<usize> = names.iter().map(|name| clusters[name].policies.filters.len()).collect();
        assert_eq!((filters, route.policies.unwrap().late.len()), (vec![1, 0], 1));
    }
    // What a share of a rule's requests cannot have closes that share.
    let answer = object("HTTPRouteFilter", "key", "{directResponse: {statusCode: 418}}");
    let found = with(&rules, &[answer]);
    assert_eq!(forward(&routes(&found)[0]).backends[0].cluster, None);
}

#[test]
fn bodies_may_lie_in_binary_data() {
    let answer =
        "{directResponse: {body: {type: ValueRef, valueRef: {group: '', kind: ConfigMap, name: text}}}}";
    let rules = format!(
        "[{{filters: [{{type: ExtensionRef, extensionRef: {{group: {GROUP}, kind: HTTPRouteFilter, name: f}}}}]}}]"
    );
    let of = |data: &str| {
        let map = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: text, namespace: shop}}\n{data}\n---\n"
        );
        let found = with(&rules, &[object("HTTPRouteFilter", "f", answer), map]);
        let route = routes(&found).remove(0);
        let patches: Vec<u8> = route
            .policies
            .iter()
            .flat_map(|added| &added.route)
            .flat_map(|patch| patch.message.clone())
            .collect();
        (String::from_utf8_lossy(&patches).contains("hello"), found.diagnostics.has_errors())
    };
    for (data, wanted) in [
        ("binaryData: {response.body: aGVsbG8=}", (true, false)),
        ("binaryData: {only: aGVsbG8=}", (true, false)),
        ("data: {response.body: hello}\nbinaryData: {response.body: Ynll}", (true, false)),
        // No text at all, and two of which none has the name.
        ("binaryData: {response.body: /w==}", (false, true)),
        ("binaryData: {a: aGVsbG8=, b: aGVsbG8=}", (false, true)),
    ] {
        assert_eq!(of(data), wanted, "{data}");
    }
}
