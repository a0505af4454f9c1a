//! Counters and gauges, rendered as OpenMetrics text. Labels are fleets, types and reasons: bounded by configuration.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

/// A label's name and its value.
pub type Label<'a> = (&'a str, &'a str);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Counter,
    Gauge,
}

/// Every family: its name, shape and meaning. A name that is not here is not rendered.
const FAMILIES: &[(&str, Shape, &str)] = &[
    ("moorgate_relay_info", Shape::Gauge, "Version of the relay."),
    ("moorgate_relay_fleets", Shape::Gauge, "Fleets that are open, of a relay that opens them on demand."),
    ("moorgate_relay_sequence", Shape::Gauge, "Sequence of the newest verified release."),
    ("moorgate_relay_snapshot_info", Shape::Gauge, "The snapshot in force, short."),
    (
        "moorgate_relay_snapshot_age_seconds",
        Shape::Gauge,
        "Seconds since the snapshot in force was put in force.",
    ),
    ("moorgate_relay_store_age_seconds", Shape::Gauge, "Seconds since the store last answered."),
    ("moorgate_relay_head_expired", Shape::Gauge, "1 if the freshness of the channel's head ran out."),
    (
        "moorgate_relay_trust_document",
        Shape::Gauge,
        "Newest document of the chain of trust; 0 if keys stand in a file alone.",
    ),
    ("moorgate_relay_polls", Shape::Counter, "Polls of the store by result."),
    ("moorgate_relay_refusals", Shape::Counter, "Releases and snapshots that were not accepted, by reason."),
    (
        "moorgate_relay_integrity_refusals",
        Shape::Counter,
        "Those of them that a store which is merely away or behind does not explain.",
    ),
    ("moorgate_relay_channel_info", Shape::Gauge, "The channel that is followed."),
    (
        "moorgate_relay_converged",
        Shape::Gauge,
        "1 if what the channel asks for is in force and every connected Envoy took it.",
    ),
    ("moorgate_relay_envoys", Shape::Gauge, "Envoys: connected, and those that took the snapshot in force."),
    ("moorgate_relay_retired", Shape::Gauge, "1 if the fleet is gone from the source."),
    ("moorgate_relay_channel_pinned", Shape::Gauge, "1 if the channel is pinned by an entry in its log."),
    (
        "moorgate_relay_pin_expires_seconds",
        Shape::Gauge,
        "From when on the channel's pin is too old, Unix time.",
    ),
    ("moorgate_relay_quarantined", Shape::Gauge, "Snapshots that Envoys refused and that are not served."),
    ("moorgate_relay_wave", Shape::Gauge, "1 if the channel's candidate is in force here."),
    (
        "moorgate_relay_unhealthy",
        Shape::Counter,
        "Candidates that were given back because answers of Envoys failed.",
    ),
    ("moorgate_relay_reports", Shape::Counter, "Reports written to the store, by result."),
    ("moorgate_relay_pinned", Shape::Gauge, "1 if the emergency pin beside the relay is in force."),
    (
        "moorgate_relay_pin_missing",
        Shape::Gauge,
        "1 if the emergency pin names a snapshot that this relay does not have.",
    ),
    ("moorgate_relay_streams", Shape::Gauge, "Open xDS streams."),
    ("moorgate_relay_connections", Shape::Counter, "Accepted connections."),
    ("moorgate_relay_connections_refused", Shape::Counter, "Connections turned away, by reason."),
    ("moorgate_relay_modules", Shape::Counter, "Requests for modules of code, by result."),
    ("moorgate_relay_responses", Shape::Counter, "xDS responses sent, by type."),
    ("moorgate_relay_acks", Shape::Counter, "xDS responses that clients took, by type."),
    ("moorgate_relay_nacks", Shape::Counter, "xDS responses that clients refused, by type."),
    ("moorgate_relay_clients_set_back", Shape::Gauge, "Clients that refuse what others took."),
    ("moorgate_relay_endpoints", Shape::Gauge, "Endpoints served."),
    ("moorgate_relay_endpoint_sets", Shape::Gauge, "Endpoint sets by state."),
    ("moorgate_relay_late_generation", Shape::Gauge, "Generation of the store's own endpoints and secrets."),
    (
        "moorgate_relay_late_polls",
        Shape::Counter,
        "Polls of the store's own endpoints and secrets, by result.",
    ),
    ("moorgate_relay_dns_answers", Shape::Counter, "Answers to questions for addresses, by result."),
    ("moorgate_relay_dns_troubled", Shape::Gauge, "Names that do not resolve, by state."),
    (
        "moorgate_relay_binding_errors",
        Shape::Counter,
        "Endpoint and secret files that could not be used, by reason.",
    ),
    ("moorgate_relay_secret_not_after_seconds", Shape::Gauge, "When a served certificate ends, Unix time."),
    ("moorgate_relay_secret_state", Shape::Gauge, "1 for the state that each secret is in."),
    ("moorgate_relay_watches", Shape::Gauge, "Watches on the Kubernetes API server, by kind and state."),
    (
        "moorgate_relay_watch_age_seconds",
        Shape::Gauge,
        "Seconds since the watch was heard that is silent longest, by kind.",
    ),
    ("moorgate_relay_watch_lists", Shape::Counter, "Times that a watch read everything anew, by kind."),
    ("moorgate_relay_watch_events", Shape::Counter, "Events of watches, by kind."),
    ("moorgate_relay_watch_errors", Shape::Counter, "Failures of watches, by kind and reason."),
    ("moorgate_relay_cache_errors", Shape::Counter, "Failures of the disk cache, by operation."),
    ("moorgate_relay_cache_degraded", Shape::Gauge, "1 if the disk cache cannot be written."),
];

/// The relay's metrics.
#[derive(Debug, Default)]
pub struct Metrics {
    values: Mutex<BTreeMap<&'static str, BTreeMap<String, f64>>>,
}

impl Metrics {
    /// Adds to a counter.
    pub fn add(&self, name: &'static str, labels: &[Label<'_>], amount: f64) {
        *self.lock().entry(name).or_default().entry(key(labels)).or_default() += amount;
    }

    /// Adds one to a counter.
    pub fn count(&self, name: &'static str, labels: &[Label<'_>]) {
        self.add(name, labels, 1.0);
    }

    /// Sets a gauge.
    pub fn set(&self, name: &'static str, labels: &[Label<'_>], value: f64) {
        self.lock().entry(name).or_default().insert(key(labels), value);
    }

    /// Replaces all series of a gauge for one fleet, so that those of names that are gone do not stay.
    pub fn replace(&self, name: &'static str, fleet: &str, series: &[(Vec<Label<'_>>, f64)]) {
        let mut values = self.lock();
        let family = values.entry(name).or_default();
        let prefix = key(&[("fleet", fleet)]);
        family.retain(|labels, _| *labels != prefix && !labels.starts_with(&format!("{prefix},")));
        for (labels, value) in series {
            let mut all = vec![("fleet", fleet)];
            all.extend(labels);
            family.insert(key(&all), *value);
        }
    }

    /// Forgets all series of a fleet.
    pub fn forget(&self, fleet: &str) {
        let own = key(&[("fleet", fleet)]);
        let more = format!("{own},");
        for family in self.lock().values_mut() {
            family.retain(|labels, _| *labels != own && !labels.starts_with(&more));
        }
    }

    /// The value of one series.
    pub fn get(&self, name: &str, labels: &[Label<'_>]) -> Option<f64> {
        self.lock().get(name)?.get(&key(labels)).copied()
    }

    /// All series as OpenMetrics text.
    pub fn render(&self) -> String {
        let values = self.lock();
        let mut text = String::new();
        for (name, shape, help) in FAMILIES {
            let Some(series) = values.get(name).filter(|series| !series.is_empty()) else { continue };
            let (shape, suffix) = match shape {
                Shape::Counter => ("counter", "_total"),
                Shape::Gauge => ("gauge", ""),
            };
            let _ = writeln!(text, "# TYPE {name} {shape}\n# HELP {name} {help}");
            for (labels, value) in series {
                let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
                let _ = writeln!(text, "{name}{suffix}{braces} {value}");
            }
        }
        text.push_str("# EOF\n");
        text
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, BTreeMap<String, f64>>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(labels: &[Label<'_>]) -> String {
    let escape = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value)));
    pairs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_openmetrics_and_series_of_a_fleet_are_replaced() {
        let metrics = Metrics::default();
        metrics.count("moorgate_relay_acks", &[("fleet", "a/b"), ("type", "CDS")]);
        metrics.count("moorgate_relay_acks", &[("fleet", "a/b"), ("type", "CDS")]);
        let name = "moorgate_relay_secret_not_after_seconds";
        metrics.replace(name, "a/b", &[(vec![("secret", "x\"y")], 5.0)]);
        metrics.replace(name, "a/bc", &[(vec![("secret", "z")], 6.0)]);
        metrics.replace(name, "a/b", &[(vec![("secret", "new")], 7.0)]);
        let text = metrics.render();
        assert!(text.contains("# TYPE moorgate_relay_acks counter\n"));
        assert!(text.contains("moorgate_relay_acks_total{fleet=\"a/b\",type=\"CDS\"} 2\n"));
        assert!(
            text.contains("{fleet=\"a/b\",secret=\"new\"} 7")
                && text.contains("{fleet=\"a/bc\",secret=\"z\"} 6")
        );
        assert!(!text.contains("x\\\"y"));
        metrics.forget("a/b");
        assert!(!metrics.render().contains("\"a/b\"") && metrics.render().contains("\"a/bc\""));
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn families_are_unique() {
        let mut names: Vec<_> = FAMILIES.iter().map(|(name, _, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FAMILIES.len());
    }
}
