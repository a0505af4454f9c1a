use super::guard;
use super::operation::pointer;
use crate::compile::{Compilation, Options, compile};
use crate::source::File;
use crate::xds;
use serde_json::{Value as Json, json};

const SHOP: &str = include_str!("../../../tests/golden/policies/patches/in.yaml");

fn compiled(text: &str, patches: bool) -> Compilation {
    let mut options = Options::default();
    options.attach.patches = patches;
    compile(&[File { name: "in.yaml".into(), bytes: text.as_bytes().into() }], &options)
}

/// The golden's objects without its patches, and one policy of these patches.
fn with(annotation: &str, patches: &str) -> String {
    let base: Vec<&str> = SHOP
        .split("---\n")
        .filter(|part| {
            !["kind: EnvoyPatchPolicy", "kind: SecurityPolicy", "name: strict"]
                .iter()
                .any(|left| part.contains(left))
        })
        .collect();
    let annotations =
        if annotation.is_empty() { String::new() } else { format!(", annotations: {{ {annotation} }}") };
    format!(
        "{}---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyPatchPolicy\nmetadata: {{ name: one, namespace: shop{annotations} }}\nspec:\n  type: JSONPatch\n  targetRef: {{ group: gateway.networking.k8s.io, kind: Gateway, name: edge }}\n  jsonPatches:\n{patches}",
        base.join("---\n")
    )
}

fn patch(kind: &str, name: &str, operation: &str) -> String {
    let kind = match kind {
        "Listener" => "envoy.config.listener.v3.Listener",
        "RouteConfiguration" => "envoy.config.route.v3.RouteConfiguration",
        "Cluster" => "envoy.config.cluster.v3.Cluster",
        "Secret" => "envoy.extensions.transport_sockets.tls.v3.Secret",
        _ => "envoy.config.endpoint.v3.ClusterLoadAssignment",
    };
    format!("    - {{ type: type.googleapis.com/{kind}, name: {name}, operation: {operation} }}\n")
}

/// Codes and fields of what is said of the policy, and the resources of the only fleet.
fn run(annotation: &str, patches: &str) -> (Vec<String>, Json) {
    let done = compiled(&with(annotation, patches), true);
    let mine = done
        .diagnostics
        .iter()
        .filter(|found| found.object.as_ref().is_some_and(|object| &*object.kind == "EnvoyPatchPolicy"));
    let said = mine.map(|found| format!("{} {}", found.code.id, found.field)).collect();
    let records = done.fleets.values().next().unwrap().snapshot.records();
    (said, xds::json::resources(records).unwrap())
}

fn find<'j>(resources: &'j Json, list: &str, name: &str) -> &'j Json {
    resources[list].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap()
}

const CART: &str = "shop/cart/8080";

#[test]
fn each_operation_does_what_rfc_6902_says() {
    let listener = |operation: &str| {
        let (said, out) = run("", &patch("Listener", "http-80", operation));
        assert_eq!(said, [""; 0], "{operation}");
        find(&out, "listeners", "http-80").clone()
    };
    let out = listener("{ op: add, path: /freebind, value: true }");
    assert_eq!(out["freebind"], true);
    let out = listener("{ op: replace, path: /per_connection_buffer_limit_bytes, value: 1024 }");
    assert_eq!(out["per_connection_buffer_limit_bytes"], 1024);
    let out = listener("{ op: remove, path: /per_connection_buffer_limit_bytes }");
    assert!(out["per_connection_buffer_limit_bytes"].is_null());
    let out =
        listener("{ op: move, from: /per_connection_buffer_limit_bytes, path: /tcp_fast_open_queue_length }");
    assert_eq!(
        (&out["tcp_fast_open_queue_length"], &out["per_connection_buffer_limit_bytes"]),
        (&32768.into(), &Json::Null)
    );
    let out =
        listener("{ op: copy, from: /per_connection_buffer_limit_bytes, path: /tcp_fast_open_queue_length }");
    assert_eq!(
        (&out["tcp_fast_open_queue_length"], &out["per_connection_buffer_limit_bytes"]),
        (&32768.into(), &32768.into())
    );
    let out = listener("{ op: test, path: /name, value: http-80 }");
    assert_eq!(out["name"], "http-80");
    // By name, in whatever place of its list it stands; Envoy Gateway's paths may leave out the root.
    for path in
        ["$.filter_chains[?(@.name == 'http-80')].filters[0].typed_config", "..filters[0].typed_config"]
    {
        let out = listener(&format!("{{ op: add, jsonPath: \"{path}\", path: /via, value: me }}"));
        assert_eq!(out["filter_chains"][0]["filters"][0]["typed_config"]["via"], "me");
    }
}

#[test]
fn a_whole_resource_may_be_added() {
    let value = "{ name: extra, type: STRICT_DNS, load_assignment: { cluster_name: extra } }";
    let (said, out) =
        run("", &patch("Cluster", "extra", &format!("{{ op: add, path: \"\", value: {value} }}")));
    assert_eq!(said, [""; 0]);
    assert_eq!(find(&out, "clusters", "extra")["type"], "STRICT_DNS");
    let twice = patch(
        "Cluster",
        CART,
        &format!("{{ op: add, path: \"\", value: {} }}", value.replace("extra", CART)),
    );
    assert_eq!(run("", &twice).0, ["MG4046 spec.jsonPatches[0].name"]);
}

#[test]
fn what_does_not_fit_is_said_at_its_field_and_changes_nothing() {
    let before = run("", &patch("Listener", "http-80", "{ op: test, path: /name, value: http-80 }")).1;
    let op = |operation: &str| patch("Cluster", CART, operation);
    for (patches, wanted) in [
        (
            patch("Listener", "http-8O", "{ op: add, path: /freebind, value: true }"),
            "MG4041 spec.jsonPatches[0].name",
        ),
        (op("{ op: remove, path: /nothing }"), "MG4042 spec.jsonPatches[0].operation.path"),
        (op("{ op: test, path: /name, value: other }"), "MG4042 spec.jsonPatches[0].operation.path"),
        (
            op("{ op: remove, jsonPath: \"$.filters[?(@.name == 'a')]\" }"),
            "MG4042 spec.jsonPatches[0].operation.jsonPath",
        ),
        (op("{ op: add, path: /nothing, value: 1 }"), "MG4043 spec.jsonPatches[0]"),
        (op("{ op: replace, path: /lb_policy, value: SOON }"), "MG4043 spec.jsonPatches[0]"),
        (op("{ op: add, path: /lb_policy }"), "MG4043 spec.jsonPatches[0].operation.value"),
        (op("{ op: copy, path: /lb_policy }"), "MG4043 spec.jsonPatches[0].operation.from"),
        (op("{ op: remove }"), "MG4043 spec.jsonPatches[0].operation.path"),
        (op("{ op: remove, jsonPath: \"$[?\" }"), "MG4043 spec.jsonPatches[0].operation.jsonPath"),
        (op("{ op: replace, path: /name, value: other }"), "MG4046 spec.jsonPatches[0]"),
        (
            op("{ op: replace, path: /eds_cluster_config/service_name, value: shop/other/80 }"),
            "MG4046 spec.jsonPatches[0]",
        ),
        (
            patch("Secret", "a", "{ op: add, path: \"\", value: { name: a } }"),
            "MG4046 spec.jsonPatches[0].type",
        ),
        (patch("Endpoints", "a", "{ op: add, path: \"\", value: {} }"), "MG4046 spec.jsonPatches[0].type"),
    ] {
        // The first one would do; a policy is in force as a whole.
        let both = format!("{patches}{}", op("{ op: replace, path: /connect_timeout, value: 1s }"));
        let (said, out) = run("moorgate.dev/on-failure: Ignore", &both);
        assert_eq!(said, [wanted], "{patches}");
        assert_eq!(out, before, "{patches}");
    }
}

#[test]
fn a_policy_that_may_restrict_closes_its_gateway_if_it_cannot_be_carried_out() {
    let lost =
        patch("Listener", "http-80", "{ op: add, path: /gone/0, value: { name: envoy.filters.http.rbac } }");
    let closed = |annotation: &str, patches: &str| {
        let out = run(annotation, patches).1;
        let text = find(&out, "routes", "http-80").to_string();
        (text.contains("\"status\":500"), text.contains("\"cluster\":"))
    };
    assert_eq!(closed("", &lost), (true, false));
    assert_eq!(closed("moorgate.dev/on-failure: Ignore", &lost), (false, true));
    let harmless = patch("Listener", "http-80", "{ op: remove, path: /gone }");
    assert_eq!(closed("", &harmless), (false, true));
    assert_eq!(closed("moorgate.dev/on-failure: Close", &harmless), (true, false));
    // Switched off, the same holds.
    for (text, code, closes) in [(&lost, "MG4102", true), (&harmless, "MG4040", false)] {
        let done = compiled(&with("", text), false);
        assert!(done.diagnostics.iter().any(|found| found.code.id == code), "{:?}", done.diagnostics);
        let records = done.fleets.values().next().unwrap().snapshot.records();
        let out = xds::json::resources(records).unwrap();
        assert_eq!(find(&out, "routes", "http-80").to_string().contains("\"status\":500"), closes, "{code}");
    }
}

#[test]
fn secrets_do_not_come_in_by_patches() {
    let socket = "{ name: tls, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: { tls_certificates: [{ private_key: { inline_string: x } }] } } }";
    let add = patch("Cluster", CART, &format!("{{ op: add, path: /transport_socket, value: {socket} }}"));
    assert_eq!(run("moorgate.dev/on-failure: Ignore", &add).0, ["MG4046 spec.jsonPatches[0]"]);
}

fn listener(filters: &[&str]) -> Json {
    let filters: Vec<Json> = filters.iter().map(|name| json!({ "name": name })).collect();
    json!({ "name": "http-80", "filter_chains": [
        { "name": "a", "filters": [{ "name": "m", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "http_filters": filters, "rds": { "route_config_name": "t" }, "early_header_mutation_extensions": [{ "name": "e" }] } }],
          "transport_socket": { "typed_config": { "@type": "x", "common_tls_context": { "validation_context": { "trusted_ca": {} } } } } },
        { "name": "b", "filters": [{ "name": "envoy.filters.network.direct_response" }] },
    ] })
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn protection_of_a_listener_is_not_taken_away_in_silence() {
    let before = listener(&[
        "envoy.filters.http.jwt_authn",
        "envoy.filters.http.cors",
        "envoy.filters.http.rbac",
        "router",
    ]);
    let check = |change: &dyn Fn(&mut Json)| {
        let mut after = before.clone();
        change(&mut after);
        let verdict = guard::check(xds::LISTENER_TYPE, &before, &after);
        (verdict.never.is_some(), verdict.weaker.len())
    };
    let filters = |json: &mut Json| {
        json.pointer_mut("/filter_chains/0/filters/0/typed_config/http_filters")
            .unwrap()
            .as_array_mut()
            .unwrap()
            .clone()
    };
    let set = |json: &mut Json, filters: Vec<Json>| {
        *json.pointer_mut("/filter_chains/0/filters/0/typed_config/http_filters").unwrap() = filters.into();
    };
    assert_eq!(check(&|_| ()), (false, 0));
    // Headers that Envoy writes for itself stay what it writes.
    for (early, weaker) in [(json!([{ "name": "e" }, { "name": "more" }]), 0), (json!([]), 1)] {
        let change = |json: &mut Json| {
            let at = "/filter_chains/0/filters/0/typed_config/early_header_mutation_extensions";
            *json.pointer_mut(at).unwrap() = early.clone();
        };
        assert_eq!(check(&change), (false, weaker));
    }
    // Others come and go.
    assert_eq!(
        check(&|json| {
            let mut all = filters(json);
            all.remove(1);
            all.insert(0, json!({ "name": "buffer" }));
            set(json, all);
        }),
        (false, 0)
    );
    assert_eq!(
        check(&|json| {
            let mut all = filters(json);
            all.remove(0);
            set(json, all);
        }),
        (false, 1)
    );
    assert_eq!(
        check(&|json| {
            let mut all = filters(json);
            all.swap(0, 2);
            set(json, all);
        }),
        (false, 1)
    );
    assert_eq!(
        check(&|json| {
            let mut all = filters(json);
            all[2]["disabled"] = true.into();
            set(json, all);
        }),
        (false, 1)
    );
    assert_eq!(
        check(&|json| *json
            .pointer_mut("/filter_chains/0/transport_socket/typed_config/common_tls_context")
            .unwrap() = json!({})),
        (false, 1)
    );
    assert_eq!(
        check(&|json| drop(json["filter_chains"][0].as_object_mut().unwrap().remove("transport_socket"))),
        (false, 1)
    );
    // Who a client is may be what a filter before the chains says.
    assert_eq!(
        check(&|json| json["listener_filters"] = json!([{ "name": "envoy.filters.listener.proxy_protocol" }])),
        (false, 1)
    );
    // What refuses stays so, and so does where routes come from.
    assert_eq!(check(&|json| json["filter_chains"][1]["filters"] = json!([])), (true, 0));
    assert_eq!(check(&|json| drop(json["filter_chains"].as_array_mut().unwrap().pop())), (true, 0));
    assert_eq!(
        check(&|json| json["filter_chains"].as_array_mut().unwrap().push(json!({ "name": "c" }))),
        (true, 0)
    );
    assert_eq!(
        check(&|json| *json
            .pointer_mut("/filter_chains/0/filters/0/typed_config/rds/route_config_name")
            .unwrap() = "u".into()),
        (true, 0)
    );
}

fn route(prefix: &str, more: &Json) -> Json {
    let mut out = json!({ "match": { "prefix": prefix } });
    out.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    out
}

#[test]
fn closed_routes_answer_first_again_and_guarded_ones_keep_their_place() {
    let closed = route("/closed", &json!({ "direct_response": { "status": 500 } }));
    let guarded =
        route("/guarded", &json!({ "typed_per_filter_config": { "envoy.filters.http.jwt_authn": {} } }));
    let plain = route("/", &json!({}));
    let table = |first: &[&Json], more: &[Json]| {
        let mut hosts = vec![json!({ "name": "a", "domains": ["*.example.com"], "routes": first })];
        hosts.extend(more.iter().cloned());
        json!({ "name": "t", "virtual_hosts": hosts })
    };
    let (all, half) = (table(&[&closed, &plain], &[]), table(&[&guarded, &plain], &[]));
    let check = |before: &Json, after: &Json| guard::check(xds::ROUTE_TYPE, before, after);
    assert_eq!(check(&all, &all), guard::Verdict::default());
    // In front of it, instead of it, without it: it is there again, and first.
    for routes in [&[&plain, &closed][..], &[&plain], &[]] {
        let verdict = check(&all, &table(routes, &[]));
        let (restored, _) = verdict.restored.unwrap();
        assert_eq!(restored["virtual_hosts"][0]["routes"][0], closed);
        assert_eq!(verdict.never, None);
    }
    // Behind it anything goes.
    assert_eq!(check(&all, &table(&[&closed, &guarded, &plain], &[])), guard::Verdict::default());
    let host = |domain: &str| json!({ "name": "new", "domains": [domain], "routes": [] });
    assert!(check(&all, &table(&[&closed, &plain], &[host("x.example.com")])).never.is_some());
    assert_eq!(check(&all, &table(&[&closed, &plain], &[host("other.test")])), guard::Verdict::default());
    assert!(check(&all, &json!({ "name": "t" })).never.is_some());
    // What is guarded may be weakened, if that is said.
    assert_eq!(check(&half, &table(&[&plain, &guarded], &[])).weaker.len(), 1);
    assert_eq!(check(&half, &table(&[&route("/guarded", &json!({})), &plain], &[])).weaker.len(), 1);
    assert_eq!(check(&half, &table(&[&guarded, &plain], &[host("x.example.com")])).weaker.len(), 1);
    assert_eq!(check(&half, &json!({ "name": "t" })).weaker.len(), 1);
}

#[test]
fn a_cluster_that_refuses_stays_closed_and_tls_stays_verified() {
    let refuses = json!({ "name": "a", "type": "STATIC" });
    let check = |before: &Json, after: &Json| {
        let verdict = guard::check(xds::CLUSTER_TYPE, before, after);
        (verdict.never.is_some(), verdict.weaker.len())
    };
    assert_eq!(check(&refuses, &json!({ "name": "a", "type": "STATIC", "load_assignment": {} })), (true, 0));
    let tls = json!({ "name": "a", "type": "EDS", "eds_cluster_config": {}, "transport_socket": { "typed_config": {
        "@type": "x", "common_tls_context": { "validation_context": { "a": 1 } } } } });
    assert_eq!(check(&tls, &json!({ "name": "a", "type": "EDS", "eds_cluster_config": {} })), (false, 1));
    let mut slower = tls.clone();
    slower["connect_timeout"] = "9s".into();
    assert_eq!(check(&tls, &slower), (false, 0));
}

#[test]
fn normalized_paths_are_pointers() {
    assert_eq!(pointer("$['a'][0]['b/c~d']").unwrap(), "/a/0/b~1c~0d");
    assert_eq!(pointer(r"$['it\'s']").unwrap(), "/it's");
    assert_eq!(pointer("$").unwrap(), "");
    for odd in ["a", "$.a", "$['a", "$[x]", "$[0"] {
        assert_eq!(pointer(odd), None, "{odd}");
    }
}
