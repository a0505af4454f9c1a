//! What the loop counts: rendered as OpenMetrics text. Labels are kinds, words and numbers of codes: bounded by the Gateway API
//! and by this program, never by what users name.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Counter,
    Gauge,
    /// Seconds since it happened last.
    Age,
    /// How often, and how many seconds in all.
    Seconds,
}

/// Every family: its name, shape and meaning. What is not here is not rendered.
const FAMILIES: &[(&str, Shape, &str)] = &[
    (INFO, Shape::Gauge, "Version of the program."),
    (LEADS, Shape::Gauge, "1 if this replica writes."),
    (OBJECTS, Shape::Gauge, "Objects that are compiled, by kind."),
    (LISTS, Shape::Counter, "Times that all objects of a kind were read anew."),
    (EVENTS, Shape::Counter, "Changes that watches told, by kind."),
    (WATCH_ERRORS, Shape::Counter, "Watches that broke off, by kind and reason."),
    (HEARD, Shape::Age, "Seconds since the API server answered."),
    (COMPILES, Shape::Seconds, "Compiles."),
    (COMPILED, Shape::Age, "Seconds since the newest compile ended."),
    (DIAGNOSTICS, Shape::Gauge, "Diagnostics of the newest compile, by severity."),
    (FLEETS, Shape::Gauge, "Fleets by state: published, writing, late or blocked."),
    (RELEASES, Shape::Counter, "Releases and retirements, by act and result."),
    (RELEASED, Shape::Age, "Seconds since the store took an entry or was found to be up to date."),
    (REPORTS_READ, Shape::Age, "Seconds since relays' reports were read."),
    (STATUS_WRITES, Shape::Counter, "Writes of status, by result."),
    (STATUS_WAITING, Shape::Gauge, "Objects that wait for Envoys' acknowledgement."),
];

/// Version of the program.
pub(super) const INFO: &str = "moorgate_watch_info";
/// Whether this replica writes.
pub(super) const LEADS: &str = "moorgate_watch_leads";
/// Objects by kind.
pub(super) const OBJECTS: &str = "moorgate_watch_objects";
/// Lists by kind.
pub(super) const LISTS: &str = "moorgate_watch_lists";
/// Events by kind.
pub(super) const EVENTS: &str = "moorgate_watch_events";
/// Broken watches.
pub(super) const WATCH_ERRORS: &str = "moorgate_watch_errors";
/// The API server answered.
pub(super) const HEARD: &str = "moorgate_watch_api_server_age_seconds";
/// Compiles and their time.
pub(super) const COMPILES: &str = "moorgate_watch_compile_seconds";
/// A compile ended.
pub(super) const COMPILED: &str = "moorgate_watch_compile_age_seconds";
/// Diagnostics by severity.
pub(super) const DIAGNOSTICS: &str = "moorgate_watch_diagnostics";
/// Fleets by state.
pub(super) const FLEETS: &str = "moorgate_watch_fleets";
/// Releases by result.
pub(super) const RELEASES: &str = "moorgate_watch_releases";
/// The store took something.
pub(super) const RELEASED: &str = "moorgate_watch_store_age_seconds";
/// Reports were read.
pub(super) const REPORTS_READ: &str = "moorgate_watch_reports_age_seconds";
/// Writes of status by result.
pub(super) const STATUS_WRITES: &str = "moorgate_watch_status_writes";
/// Objects that wait for Envoys.
pub(super) const STATUS_WAITING: &str = "moorgate_watch_status_waiting";

/// A label's name and its value.
type Label<'a> = (&'a str, &'a str);

#[derive(Debug, Clone, Copy)]
enum Value {
    Number(f64),
    Happened(Instant),
    Seconds(u64, f64),
}

/// The loop's metrics.
#[derive(Debug, Default)]
pub(super) struct Meter {
    values: Mutex<BTreeMap<&'static str, BTreeMap<String, Value>>>,
}

impl Meter {
    /// Adds one to a counter.
    pub(super) fn count(&self, name: &'static str, labels: &[Label<'_>]) {
        let mut values = self.lock();
        let value = values.entry(name).or_default().entry(key(labels)).or_insert(Value::Number(0.0));
        if let Value::Number(number) = value {
            *number += 1.0;
        }
    }

    /// Sets a gauge.
    pub(super) fn set(&self, name: &'static str, labels: &[Label<'_>], number: usize) {
        self.lock().entry(name).or_default().insert(key(labels), Value::Number(float(number)));
    }

    /// Sets all series of a gauge: those that are not named are gone.
    pub(super) fn replace<'l>(
        &self,
        name: &'static str,
        series: impl IntoIterator<Item = (Vec<Label<'l>>, usize)>,
    ) {
        let series = series.into_iter().map(|(labels, number)| (key(&labels), Value::Number(float(number))));
        let series = series.collect();
        self.lock().insert(name, series);
    }

    /// It happened now.
    pub(super) fn happened(&self, name: &'static str) {
        self.lock().entry(name).or_default().insert(String::new(), Value::Happened(Instant::now()));
    }

    /// It took so long.
    pub(super) fn took(&self, name: &'static str, seconds: f64) {
        let mut values = self.lock();
        let value = values.entry(name).or_default().entry(String::new()).or_insert(Value::Seconds(0, 0.0));
        if let Value::Seconds(count, sum) = value {
            *count += 1;
            *sum += seconds;
        }
    }

    /// All series as OpenMetrics text.
    pub(super) fn render(&self) -> String {
        let values = self.lock();
        let mut text = String::new();
        for (name, shape, help) in FAMILIES {
            let Some(series) = values.get(name).filter(|series| !series.is_empty()) else { continue };
            let (word, suffix) = match shape {
                Shape::Counter => ("counter", "_total"),
                Shape::Gauge | Shape::Age => ("gauge", ""),
                Shape::Seconds => ("summary", ""),
            };
            let _ = writeln!(text, "# TYPE {name} {word}\n# HELP {name} {help}");
            for (labels, value) in series {
                let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
                let _ = match value {
                    Value::Number(number) => writeln!(text, "{name}{suffix}{braces} {number}"),
                    Value::Happened(at) => {
                        writeln!(text, "{name}{braces} {:.3}", at.elapsed().as_secs_f64())
                    }
                    Value::Seconds(count, sum) => {
                        writeln!(text, "{name}_count{braces} {count}\n{name}_sum{braces} {sum:.6}")
                    }
                };
            }
        }
        text.push_str("# EOF\n");
        text
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, BTreeMap<String, Value>>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts are small")]
fn float(number: usize) -> f64 {
    number as f64
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
    fn text_is_openmetrics_and_what_is_gone_does_not_stay() {
        let meter = Meter::default();
        meter.count(EVENTS, &[("kind", "Gateway")]);
        meter.count(EVENTS, &[("kind", "Gateway")]);
        meter.took(COMPILES, 0.25);
        meter.took(COMPILES, 0.5);
        meter.happened(COMPILED);
        for series in [vec![("Gateway", 2), ("Service", 1)], vec![("Gateway", 3)]] {
            let series = series.into_iter().map(|(kind, number)| (vec![("kind", kind)], number));
            meter.replace(OBJECTS, series);
        }
        let text = meter.render();
        let lines: Vec<&str> = text.lines().collect();
        for line in [
            "# TYPE moorgate_watch_events counter",
            "moorgate_watch_events_total{kind=\"Gateway\"} 2",
            "# TYPE moorgate_watch_compile_seconds summary",
            "moorgate_watch_compile_seconds_count 2",
            "moorgate_watch_compile_seconds_sum 0.750000",
            "moorgate_watch_objects{kind=\"Gateway\"} 3",
        ] {
            assert!(lines.contains(&line), "{line}\n{text}");
        }
        assert!(lines.iter().any(|line| line.starts_with("moorgate_watch_compile_age_seconds 0.")), "{text}");
        assert!(!text.contains("Service") && text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn families_are_unique() {
        let mut names: Vec<_> = FAMILIES.iter().map(|(name, _, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FAMILIES.len());
    }
}
