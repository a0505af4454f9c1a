//! Arguments that an EnvoyProxy adds to Envoy's own (`extraArgs`): only those that leave alone where Envoy's configuration
//! comes from, who it is, and how it starts and ends.

use super::rules::Breach;
use moorgate_model::FieldPath;
use std::collections::BTreeSet;

/// Options that may be added, and whether a value follows (Envoy: Command line options, v1.40).
const ALLOWED: [(&str, bool); 14] = [
    ("allow-unknown-fields", false),
    ("allow-unknown-static-fields", false),
    ("cpuset-threads", false),
    ("enable-core-dump", false),
    ("enable-fine-grain-logging", false),
    ("enable-mutex-tracing", false),
    ("file-flush-interval-msec", true),
    ("file-flush-min-size-kb", true),
    ("ignore-unknown-dynamic-fields", false),
    ("log-format", true),
    ("log-format-escaped", false),
    ("reject-unknown-dynamic-fields", false),
    ("skip-deprecated-logs", false),
    ("stats-tag", true),
];
/// Options that a field of the EnvoyProxy stands for.
const FIELDS: [(&str, &str); 6] = [
    ("component-log-level", "logging.level"),
    ("concurrency", "concurrency"),
    ("drain-strategy", "shutdown"),
    ("drain-time-s", "shutdown.drainTimeout"),
    ("l", "logging.level"),
    ("log-level", "logging.level"),
];
/// The option that may come more than once.
const REPEATS: &str = "stats-tag";

/// What is wrong with these arguments.
pub(crate) fn check<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Vec<Breach> {
    let mut out = Vec::new();
    let mut seen = BTreeSet::new();
    let mut all = arguments.into_iter().enumerate();
    while let Some((index, argument)) = all.next() {
        let mut refuse = |why: String| out.push(Breach { at: FieldPath::root().index(index), why });
        let Some(option) = argument.strip_prefix('-') else {
            refuse(format!("{argument:?} belongs to no option"));
            continue;
        };
        let option = option.strip_prefix('-').unwrap_or(option);
        let (name, value) =
            option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        let known = ALLOWED.iter().find(|(known, _)| *known == name && argument.starts_with("--"));
        let Some((_, takes_value)) = known else {
            let stands = FIELDS.iter().find(|(known, _)| *known == name);
            refuse(match stands {
                Some((_, field)) => format!("{argument}: {field} says that"),
                None => format!("{argument}: Envoy's configuration, name and life are Moorgate's own"),
            });
            // What follows was meant for it.
            break;
        };
        if !seen.insert(name) && name != REPEATS {
            refuse(format!("{argument} comes twice"));
        }
        match (takes_value, value) {
            (true, None) if all.next().is_none() => refuse(format!("{argument} lacks its value")),
            (false, Some(_)) => refuse(format!("{argument}: this option has no value")),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_the_relay_alone_is_taken() {
        for arguments in [
            &["--cpuset-threads"][..],
            &["--stats-tag", "a:b", "--stats-tag=c:d"],
            &["--log-format", "--config-path", "--skip-deprecated-logs"],
            &["--file-flush-interval-msec=500"],
            &[],
        ] {
            assert_eq!(check(arguments.iter().copied()), [], "{arguments:?}");
        }
    }

    #[test]
    fn what_would_take_envoy_elsewhere_is_refused() {
        for (arguments, at, word) in [
            (&["--config-path", "/tmp/mine.json"][..], 0, "Moorgate"),
            (&["--cpuset-threads", "--config-yaml={}"], 1, "Moorgate"),
            (&["-c", "/tmp/mine.json"], 0, "Moorgate"),
            (&["--mode", "validate"], 0, "Moorgate"),
            (&["--service-cluster=other"], 0, "Moorgate"),
            (&["--base-id", "3"], 0, "Moorgate"),
            (&["--log-path", "/dev/null"], 0, "Moorgate"),
            (&["--disable-extensions", "envoy.clusters.eds"], 0, "Moorgate"),
            (&["--nobody-knows"], 0, "Moorgate"),
            (&["--version"], 0, "Moorgate"),
            (&["--log-level", "debug"], 0, "logging.level"),
            (&["-l", "debug"], 0, "logging.level"),
            (&["--concurrency=4"], 0, "concurrency"),
            (&["--drain-time-s", "5"], 0, "shutdown.drainTimeout"),
            (&["plain"], 0, "no option"),
            (&["$(A)"], 0, "no option"),
            (&["-cpuset-threads"], 0, "Moorgate"),
            (&["--cpuset-threads", "--cpuset-threads"], 1, "twice"),
            (&["--cpuset-threads=1"], 0, "no value"),
            (&["--stats-tag"], 0, "lacks"),
        ] {
            let found = check(arguments.iter().copied());
            assert_eq!(found.len(), 1, "{arguments:?}: {found:?}");
            assert_eq!(found[0].at, FieldPath::root().index(at), "{arguments:?}");
            assert!(found[0].why.contains(word), "{arguments:?}: {}", found[0].why);
        }
    }
}
