//! The 98 runs of the public suite for xDS servers (ii/xds-test-harness), each by its name: scenario, variant, type.
//!
//! A run is a whole relay: each change of state is a new snapshot in a store, which the relay pulls; a bare client
//! subscribes over a socket and acknowledges everything at once. Where the suite waits some seconds for silence, a later
//! event on the same stream decides here: what is sent in between comes before its answer, or in it.

mod rig;
mod scenarios;

/// Writes a test for each run, and the list of all of them.
macro_rules! runs {
    ($($scenario:ident { $($variant:ident: $($kind:ident)+;)+ })+) => {
        $(mod $scenario {
            $(mod $variant {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $kind() {
                    let run = (stringify!($scenario), stringify!($variant), stringify!($kind));
                    crate::harness::scenarios::run(run).await;
                })+
            })+
        })+
        const RUNS: &[(&str, &str, &str)] = &[
            $($($((stringify!($scenario), stringify!($variant), stringify!($kind)),)+)+)+
        ];
    };
}

runs! {
    // subscribing.feature
    wildcard_returns_all { sotw: cds lds; sotw_ads: cds lds; }
    wildcard_gets_updates { sotw: cds lds; sotw_ads: cds lds; }
    wildcard_gets_new_resources { sotw: cds lds; sotw_ads: cds lds; }
    specific_names_only { sotw: lds rds; sotw_ads: lds rds; delta: lds rds; delta_ads: lds rds; }
    specific_names_updated { sotw: cds lds; sotw_ads: cds lds; }
    specific_names_updated_alone { sotw: rds eds; sotw_ads: rds eds; }
    not_yet_existing_names { sotw: cds lds; sotw_ads: cds lds; }
    not_yet_existing_names_alone { sotw: rds eds; sotw_ads: rds eds; }
    several_types_on_one_stream { sotw_ads: cds_lds rds_eds; }
    // unsubcribing.feature
    unsubscribe_from_some { sotw: cds lds; sotw_ads: cds lds; }
    unsubscribe_from_some_gets_only_the_rest { sotw: rds eds; sotw_ads: rds eds; }
    unsubscribe_from_all { sotw: cds rds lds eds; sotw_ads: cds rds lds eds; }
    // delta.feature
    one_after_another { delta: cds lds rds eds; delta_ads: cds lds rds eds; }
    one_updated { delta: cds lds rds eds; delta_ads: cds lds rds eds; }
    missing_then_created { delta: cds lds rds eds; delta_ads: cds lds rds eds; }
    removed_then_added_again { delta: cds lds rds eds; delta_ads: cds lds rds eds; }
    incremental_unsubscribe { delta: cds lds rds eds; delta_ads: cds lds rds eds; }
    several_types_on_one_delta_stream { delta_ads: cds_lds lds_cds rds_eds eds_rds; }
}

/// What the public suite lacks: the cases of the list that this relay is held to besides, by their ids.
const CASES: &[&str] = &[
    "nack_no_resend",
    "nack_then_fix",
    "nack_with_name_change",
    "nack_partial_resend",
    "stale_nonce_sotw",
    "stale_nonce_delta_honoured",
    "node_first_only",
    "node_changed",
    "wildcard_legacy_vs_star",
    "star_plus_name_unsubscribe",
    "subscribe_to_nothing",
    "resubscribe_held",
    "missing_in_removed",
    "missing_then_created_after_removed",
    "reconnect_delta_no_resend",
    "reconnect_removed_meanwhile",
    "reconnect_eds_resent",
    "reconnect_other_replica_same_digest",
    "reconnect_sotw_same_version",
    "eds_after_cds",
    "two_clusters_one_service_name",
    "order_add",
    "removal_last",
    "removal_linger",
    "phase_timeout",
    "empty_lds_guard",
    "chunk_4mib",
    "big_initial_versions",
    "slow_reader",
    "ttl_heartbeat_sotw",
    "ttl_heartbeat_delta",
    "ttl_store_down",
    "sds_rotate",
    "sds_missing",
    "ecds_no_remove",
    "vhds_alias",
    "odcds_miss",
    "store_down_cold_start_from_disk",
    "corrupt_cache_falls_back_one_generation",
    "drain_goaway",
    "streams_10k",
];

#[test]
fn every_further_case_has_a_test_of_its_name() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    for folder in ["src/serve/stream/tests", "tests/relay"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let has = |case: &&&str| {
        let head = format!("fn {case}()");
        let tests = sources.match_indices(&head);
        tests.map(|(at, _)| &sources[..at]).any(|before| {
            let line = before.trim_end_matches("async ").trim_end();
            line.ends_with(']') && line.rsplit("#[").next().is_some_and(|line| line.contains("test"))
        })
    };
    let missing: Vec<_> = CASES.iter().filter(|case| !has(case)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn all_98_runs_are_here() {
    let of = |variant| RUNS.iter().filter(|(_, own, _)| *own == variant).count();
    assert_eq!([of("sotw"), of("sotw_ads"), of("delta"), of("delta_ads")], [24, 26, 22, 26]);
    assert_eq!(RUNS.len(), 98);
    let names: std::collections::BTreeSet<_> = RUNS.iter().collect();
    assert_eq!(names.len(), RUNS.len(), "a run twice");
}
