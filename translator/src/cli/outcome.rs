//! What the commands that write entries print.

use super::Failure;
use super::access::{Format, timestamp, warn};
use super::output::{json as pretty, print};
use super::table::{clean, columns};
use crate::publish::{Done, Mirror, Outcome, Plan};
use crate::report::FORMAT_VERSION;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// An outcome for scripts.
pub(super) fn value(outcome: &Outcome, plan: Option<&Plan>) -> Value {
    let entry = &outcome.entry;
    let mut value = json!({
        "fleet": entry.fleet,
        "channel": entry.channel,
        "sequence": entry.sequence,
        "result": outcome.result.as_str(),
        "action": entry.action,
        "snapshot": entry.state.newest().map(|release| release.snapshot),
        "serving": entry.state.serving().map(|release| release.snapshot),
        "before": outcome.before.as_ref().map(|release| release.snapshot),
        "entry": entry,
        "written": {"objects": outcome.written.objects, "bytes": outcome.written.bytes},
        "warnings": outcome.warnings,
        "mirrors": outcome.mirrors.iter().map(mirror).collect::<Vec<Value>>(),
    });
    if let (Some(plan), Some(object)) = (plan, value.as_object_mut()) {
        let lines = plan.lines.iter().map(|(section, line)| {
            json!({"type": section, "added": line.added, "removed": line.removed, "changed": line.changed})
        });
        object.insert(
            "plan".to_owned(),
            json!({"from": plan.from, "to": plan.to, "changes": lines.collect::<Vec<_>>()}),
        );
    }
    value
}

/// What became of a mirror.
pub(super) fn mirror(mirror: &Mirror) -> Value {
    match &mirror.result {
        Ok(done) => json!({
            "store": mirror.store, "result": "up-to-date",
            "copied": {"entries": done.entries, "objects": done.objects, "bytes": done.bytes},
        }),
        Err(error) => json!({"store": mirror.store, "result": "failed", "error": error.message}),
    }
}

/// An outcome for people: one line.
pub(super) fn row(outcome: &Outcome) -> Vec<String> {
    let entry = &outcome.entry;
    let newest = entry.state.newest().map(|release| release.snapshot.to_string()).unwrap_or_default();
    vec![
        entry.fleet.to_string(),
        entry.channel.to_string(),
        entry.sequence.to_string(),
        newest,
        match outcome.result {
            Done::Unchanged => "unchanged".to_owned(),
            Done::DryRun => format!("dry run: {}", entry.action.as_str()),
            Done::Committed => entry.action.as_str().to_owned(),
        },
    ]
}

/// Prints what a command on one fleet has done.
pub(super) fn show(outcome: &Outcome, plan: Option<&Plan>, format: Format) -> Result<(), Failure> {
    outcome.warnings.iter().for_each(|warning| warn(warning));
    if format == Format::Json {
        let mut value = value(outcome, plan);
        if let Some(object) = value.as_object_mut() {
            object.insert("format_version".to_owned(), FORMAT_VERSION.into());
        }
        return print(&pretty(&value));
    }
    let entry = &outcome.entry;
    let mut text = columns(&[row(outcome)]);
    let served = |name: &str, digest: Option<String>| {
        format!("{name}  {}\n", digest.unwrap_or_else(|| "nothing".into()))
    };
    text += &served("before ", outcome.before.as_ref().map(|release| release.snapshot.to_string()));
    text += &served("serving", entry.state.serving().map(|release| release.snapshot.to_string()));
    if let Some(pin) = &entry.state.pin {
        let _ = writeln!(text, "pinned   by {}: {}", clean(&pin.by), clean(&pin.reason));
        if let Some(expires) = pin.expires {
            let _ = writeln!(text, "         an alarm from {} on", timestamp(expires));
        }
    }
    if let Some(plan) = plan {
        text += &plan_text(plan);
    }
    print(&text)
}

fn plan_text(plan: &Plan) -> String {
    if plan.from == plan.to {
        return "changes  none\n".to_owned();
    }
    let rows = plan.lines.iter().map(|(section, line)| {
        let kind = section.rsplit(['.', '/']).next().unwrap_or(section);
        let counts = format!("{} added, {} removed, {} changed", line.added, line.removed, line.changed);
        vec!["changes".to_owned(), kind.to_owned(), counts]
    });
    columns(&rows.collect::<Vec<_>>())
}
