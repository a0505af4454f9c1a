//! The proof of each capability: cases that all supported Envoys take, and tests in which a real Envoy does what it says.

#[path = "cases.rs"]
mod cases;

use super::said;
pub(super) use cases::Shown;
use cases::{set_in, words_of};
use moorgate_policies::{About, CAPABILITIES, Coverage, Covered};
use moorgate_tests::program;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A capability, cases of `tests/golden/policies` that set its fields, and tests beside a real Envoy.
type Row = (&'static str, &'static [&'static str], &'static [&'static str]);

/// One row each, in the order of the registry.
const PROOF: &[Row] = &[
    (
        "address",
        &["backend", "zones"],
        &["backends_lie_where_they_say", "requests_stay_in_their_zone_or_go_by_the_weights_of_zones"],
    ),
    ("address_tls", &["backend"], &["backends_lie_where_they_say"]),
    ("admission_control", &["backend-filters"], &["traffic_flows_as_its_policies_say"]),
    ("api_key_auth", &["api-key-auth"], &["each_way_to_prove_who_one_is_lets_pass_and_stops"]),
    (
        "authorization",
        &["authorization", "authorization-expressions"],
        &[
            "each_capability_lets_pass_and_stops",
            "each_way_to_prove_who_one_is_lets_pass_and_stops",
            "expressions_decide_beside_everything_else",
            "who_may_connect_is_decided_before_a_backend_hears_of_it",
            "tokens_are_looked_for_and_read_as_their_policies_say",
        ],
    ),
    (
        "backend_connection",
        &["backend-connection", "backend-cluster"],
        &[
            "connections_are_as_their_policies_say",
            "clients_wait_where_the_buffer_of_a_backend_is_full",
            "traffic_flows_as_its_policies_say",
        ],
    ),
    ("backend_http", &["backend-cluster"], &["traffic_flows_as_its_policies_say"]),
    (
        "backend_proxy_protocol",
        &["backend-cluster"],
        &["traffic_flows_as_its_policies_say", "sinks_outside_are_reached_as_their_settings_say"],
    ),
    ("backend_telemetry", &["backend-filters", "span-tags"], &["traffic_flows_as_its_policies_say"]),
    ("bandwidth_limit", &["backend-filters"], &["traffic_flows_as_its_policies_say"]),
    ("basic_auth", &["basic-auth"], &["each_way_to_prove_who_one_is_lets_pass_and_stops"]),
    (
        "circuit_breaker",
        &["circuit-breaker"],
        &[
            "each_capability_lets_pass_and_stops",
            "retries_their_limits_and_circuit_breakers_together",
            "policies_that_users_combine_work_together",
        ],
    ),
    (
        "client_connection",
        &["client-listener", "client-tls"],
        &[
            "each_capability_lets_pass_and_stops",
            "handshakes_bodies_and_addresses_are_as_policies_say",
            "http3_is_spoken_beside_tcp_and_only_where_all_else_holds",
            "what_clients_are_answered_is_as_policies_say",
        ],
    ),
    ("client_grpc", &["client-listener"], &["listeners_are_as_their_policies_say"]),
    ("client_header_changes", &["client-listener"], &["listeners_are_as_their_policies_say"]),
    (
        "client_headers",
        &["client-connections", "client-listener"],
        &[
            "connections_are_as_their_policies_say",
            "listeners_are_as_their_policies_say",
            "what_clients_are_answered_is_as_policies_say",
        ],
    ),
    ("client_health_check", &["client-listener"], &["listeners_are_as_their_policies_say"]),
    (
        "client_http1",
        &["client-connections", "client-listener"],
        &["connections_are_as_their_policies_say", "listeners_are_as_their_policies_say"],
    ),
    ("client_http2", &["client-connections"], &["connections_are_as_their_policies_say"]),
    ("client_http3", &["client-http3"], &["http3_is_spoken_beside_tcp_and_only_where_all_else_holds"]),
    (
        "client_ip",
        &["client-ip", "client-listener"],
        &[
            "each_capability_lets_pass_and_stops",
            "listeners_are_as_their_policies_say",
            "whoever_is_where_rules_say_passes_and_nobody_else",
        ],
    ),
    ("client_keepalive", &["client-connections"], &["connections_are_as_their_policies_say"]),
    (
        "client_location",
        &["client-location"],
        &[
            "whoever_is_where_rules_say_passes_and_nobody_else",
            "a_database_that_is_not_there_costs_the_change_and_nothing_that_is_served",
            "older_envoys_stay_at_the_snapshot_before",
        ],
    ),
    (
        "client_proxy_protocol",
        &["client-connections", "pinned-clients"],
        &["connections_are_as_their_policies_say", "handshakes_are_as_their_policies_say"],
    ),
    ("client_scheme", &["client-listener"], &["listeners_are_as_their_policies_say"]),
    (
        "client_timeout",
        &["client-timeout", "client-listener"],
        &[
            "each_capability_lets_pass_and_stops",
            "listeners_are_as_their_policies_say",
            "handshakes_bodies_and_addresses_are_as_policies_say",
        ],
    ),
    (
        "client_tls",
        &["client-tls", "client-listener", "pinned-clients"],
        &[
            "handshakes_are_as_their_policies_say",
            "listeners_are_as_their_policies_say",
            "clients_of_a_listener_show_a_certificate",
        ],
    ),
    (
        "client_validation",
        &["client-modes", "client-tls", "pinned-clients"],
        &[
            "clients_of_a_listener_show_a_certificate",
            "clients_are_let_in_by_what_they_show",
            "certificates_may_be_old_and_have_other_names",
            "handshakes_are_as_their_policies_say",
        ],
    ),
    (
        "compression",
        &["compression"],
        &["each_capability_lets_pass_and_stops", "what_clients_are_answered_is_as_policies_say"],
    ),
    ("cookie_match", &["route-filter"], &["filters_of_rules_answer_rewrite_and_match"]),
    (
        "cors",
        &["cors"],
        &[
            "each_capability_lets_pass_and_stops",
            "each_way_to_prove_who_one_is_lets_pass_and_stops",
            "policies_that_users_combine_work_together",
        ],
    ),
    ("credential_injection", &["route-filter"], &["credentials_are_put_in_and_lie_nowhere_else"]),
    ("csrf", &["csrf"], &["each_way_to_prove_who_one_is_lets_pass_and_stops"]),
    ("direct_response", &["route-filter", "operators"], &["filters_of_rules_answer_rewrite_and_match"]),
    (
        "dns",
        &["backend-cluster"],
        &["traffic_flows_as_its_policies_say", "handshakes_bodies_and_addresses_are_as_policies_say"],
    ),
    (
        "dynamic_module",
        &["dynamic-module"],
        &[
            "modules_that_are_registered_run_and_no_others",
            "a_module_that_is_not_there_costs_the_change_and_nothing_that_is_served",
        ],
    ),
    (
        "ext_auth",
        &["ext-auth", "ext-auth-path", "provider-settings"],
        &[
            "each_capability_lets_pass_and_stops",
            "each_way_to_prove_who_one_is_lets_pass_and_stops",
            "a_route_is_found_again_by_what_a_token_says",
            "services_that_answer_let_pass_and_stop",
        ],
    ),
    ("ext_proc", &["extension"], &["services_see_and_change_requests_and_without_them_nothing_passes"]),
    (
        "fault",
        &["fault"],
        &["each_capability_lets_pass_and_stops", "what_clients_are_answered_is_as_policies_say"],
    ),
    (
        "global_rate_limit",
        &["global-rate-limit", "global-rate-limit-noted", "global-rate-limit-service"],
        &["a_service_counts_for_all_envoys_of_a_fleet", "without_a_service_nothing_passes"],
    ),
    (
        "health_check",
        &["health-check"],
        &[
            "each_capability_lets_pass_and_stops",
            "traffic_flows_as_its_policies_say",
            "backends_lie_where_they_say",
            "what_clients_are_answered_is_as_policies_say",
        ],
    ),
    (
        "jwt",
        &["jwt", "jwt-recompute", "pinned-keys"],
        &[
            "each_capability_lets_pass_and_stops",
            "each_way_to_prove_who_one_is_lets_pass_and_stops",
            "a_route_is_found_again_by_what_a_token_says",
            "tokens_are_looked_for_and_read_as_their_policies_say",
        ],
    ),
    (
        "load_balancer",
        &["load-balancer", "backend-balancing", "stream-hash", "zones"],
        &[
            "each_capability_lets_pass_and_stops",
            "traffic_flows_as_its_policies_say",
            "requests_stay_in_their_zone_or_go_by_the_weights_of_zones",
        ],
    ),
    (
        "local_rate_limit",
        &["local-rate-limit"],
        &[
            "each_capability_lets_pass_and_stops",
            "limits_bite_where_their_conditions_hold",
            "policies_that_users_combine_work_together",
        ],
    ),
    (
        "lua",
        &["extension"],
        &[
            "scripts_and_modules_run_and_what_fails_lets_nothing_pass",
            "a_route_that_is_found_again_asks_for_what_it_says",
        ],
    ),
    (
        "oidc",
        &["oidc", "oidc-client-id"],
        &[
            "each_way_to_prove_who_one_is_lets_pass_and_stops",
            "a_missing_key_of_sessions_costs_its_routes_only",
        ],
    ),
    ("path_settings", &["client-timeout"], &["each_capability_lets_pass_and_stops"]),
    ("request_buffer", &["backend-filters"], &["traffic_flows_as_its_policies_say"]),
    (
        "response_override",
        &["backend-filters"],
        &["traffic_flows_as_its_policies_say", "what_clients_are_answered_is_as_policies_say"],
    ),
    (
        "retry",
        &["retry", "own-limits", "merged"],
        &[
            "each_capability_lets_pass_and_stops",
            "traffic_flows_as_its_policies_say",
            "retries_their_limits_and_circuit_breakers_together",
        ],
    ),
    ("routing_type", &["backend-cluster"], &["handshakes_bodies_and_addresses_are_as_policies_say"]),
    (
        "timeout",
        &["timeout", "own-limits", "merged"],
        &["each_capability_lets_pass_and_stops", "what_clients_are_answered_is_as_policies_say"],
    ),
    ("upgrade", &["backend-filters"], &["traffic_flows_as_its_policies_say"]),
    ("url_rewrite", &["route-filter"], &["filters_of_rules_answer_rewrite_and_match"]),
    (
        "wasm",
        &["extension", "module"],
        &[
            "scripts_and_modules_run_and_what_fails_lets_nothing_pass",
            "modules_of_images_go_through_store_and_relay",
            "a_route_that_is_found_again_asks_for_what_it_says",
        ],
    ),
];

/// A field that no case of its capability sets.
const IN_NO_CASE: &[(&str, &str)] = &[("compression", "compression")];

/// A field that no test beside a real Envoy names.
const NOT_ASKED: &[(&str, &str)] = &[("compression", "compressor")];

/// Whether one of these fields is this one of a capability, or lies below it, and is carried out by it and no other.
fn sets(about: &About, field: &str, fields: &BTreeSet<String>) -> bool {
    let covered = Covered::of(about.kind);
    fields.iter().any(|set| {
        let below = set.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let inner = format!("{set}.");
        let names: Vec<&str> = set.split('.').collect();
        below
            && !fields.iter().any(|other| other.starts_with(&inner))
            && covered.state(&names) == Coverage::Full(Some(about.file))
    })
}

/// Each row with what is known of its capability.
fn rows() -> impl Iterator<Item = (&'static About, Row)> {
    CAPABILITIES.iter().map(|capability| capability.about()).zip(PROOF.iter().copied())
}

#[test]
fn the_proof_names_each_capability_and_nothing_else() {
    let known: Vec<&str> = CAPABILITIES.iter().map(|capability| capability.about().file).collect();
    let proven: Vec<&str> = PROOF.iter().map(|(capability, ..)| *capability).collect();
    assert_eq!(proven, known);
    let bare: Vec<_> =
        PROOF.iter().filter(|(_, cases, tests)| cases.is_empty() || tests.is_empty()).collect();
    assert!(bare.is_empty(), "{bare:?}");
    // What the registry says here is what people are told.
    let list: Value = serde_json::from_str(&said(&["-o", "json"])).unwrap();
    let told: BTreeSet<&str> =
        list["policies"].as_array().unwrap().iter().filter_map(|one| one["capability"].as_str()).collect();
    assert!(known.iter().all(|capability| told.contains(capability)), "{told:?}");
}

#[test]
fn each_case_sets_what_it_is_named_for() {
    let folder = program::root().join("tests/golden/policies");
    let mut wrong = Vec::new();
    for (about, (capability, cases, _)) in rows() {
        let of_case = |case: &&str| {
            let all = set_in(&folder.join(case).join("in.yaml"));
            all.get(about.kind.name()).cloned().unwrap_or_default()
        };
        let inputs: Vec<BTreeSet<String>> = cases.iter().map(of_case).collect();
        for (case, fields) in cases.iter().zip(&inputs) {
            if !about.fields.iter().any(|field| sets(about, field, fields)) {
                wrong.push(format!("{capability}: {case} sets nothing of it"));
            }
        }
        for field in about.fields {
            let set = inputs.iter().any(|fields| sets(about, field, fields));
            if set == IN_NO_CASE.contains(&(capability, *field)) {
                wrong.push(format!("{capability}: {field} is set: {set}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether a source has a test of this name.
fn has_test(text: &str, name: &str) -> bool {
    let begins = format!("fn {name}(");
    let lines: Vec<&str> = text.lines().collect();
    lines.windows(2).any(|pair| {
        let marked = pair[0].starts_with("#[test]") || pair[0].starts_with("#[tokio::test");
        marked && pair[1].trim_start_matches("async ").starts_with(&begins)
    })
}

/// All sources of tests, by their paths.
fn tests() -> BTreeMap<String, String> {
    fn below(folder: &Path, out: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(&path, out);
            } else if path.extension().is_some_and(|end| end == "rs") {
                out.insert(path.display().to_string(), std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut out = BTreeMap::new();
    below(&program::root().join("tests/tests"), &mut out);
    out
}

#[test]
fn each_test_asks_a_real_envoy_for_what_it_is_named_for() {
    let tests = tests();
    let mut wrong = Vec::new();
    for (about, (capability, _, names)) in rows() {
        let mut words = Vec::new();
        for name in names {
            let found: Vec<_> = tests.iter().filter(|(_, text)| has_test(text, name)).collect();
            let [(file, text)] = found.as_slice() else {
                wrong.push(format!("{capability}: {name} is a test in {} files", found.len()));
                continue;
            };
            if !text.contains(".start_envoy(") {
                wrong.push(format!("{capability}: {file} starts no Envoy"));
            }
            words.push((name, words_of(text)));
        }
        let asks = |field: &&str, words: &BTreeSet<String>| field.split('.').all(|name| words.contains(name));
        for (name, words) in &words {
            if !about.fields.iter().any(|field| asks(field, words)) {
                wrong.push(format!("{capability}: {name} stands beside none of its fields"));
            }
        }
        for field in about.fields {
            let asked = words.iter().any(|(_, words)| asks(field, words));
            if asked == NOT_ASKED.contains(&(capability, *field)) {
                wrong.push(format!("{capability}: {field} is asked for: {asked}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_row_that_proves_nothing_is_found() {
    let about = |name: &str| {
        CAPABILITIES.iter().map(|capability| capability.about()).find(|about| about.file == name).unwrap()
    };
    let fields = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    let changes = fields(&["headers", "headers.earlyRequestHeaders", "headers.earlyRequestHeaders.remove"]);
    assert!(sets(about("client_header_changes"), "headers.earlyRequestHeaders", &changes));
    assert!(!sets(about("client_header_changes"), "headers.lateResponseHeaders", &changes));
    assert!(!sets(about("client_headers"), "headers", &changes), "these are another capability's");
    assert!(!sets(about("cors"), "cors", &fields(&["corsage", "csrf"])));
    assert!(sets(about("client_http3"), "http3", &fields(&["http3"])), "with nothing below it");
    // In two halves, so that nobody takes it for a test that is switched off.
    let off = ["#[ig", "nore]"].concat();
    let text = format!(
        "#[test]\nfn one() {{\n#[tokio::test]\nasync fn two() {{\n#[test]\n{off}\nfn three() {{\nfn four() {{\n"
    );
    let found = ["one", "two", "three", "four", "o"].map(|name| has_test(&text, name));
    assert_eq!(found, [true, true, false, false, false]);
}
