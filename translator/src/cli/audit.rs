//! `moorgate log --audit`

use super::access::{Format, read_failure};
use super::output::{json as pretty, print};
use super::table::columns;
use super::{Exit, Failure, log};
use crate::report::FORMAT_VERSION;
use moorgate_snapshot::reader::{Audit, Audited, End, Reader};
use moorgate_snapshot::{KeyId, Slot};
use serde_json::{Value, json};

/// Walks the whole chain and says who did what when, and whether it holds.
pub(super) async fn run(reader: &Reader, output: Format) -> Result<Exit, Failure> {
    let tail = reader.newest(None).await.map_err(read_failure)?;
    let audit = Box::pin(reader.audit(&tail)).await.map_err(read_failure)?;
    match output {
        Format::Text => print(&text(reader, &audit))?,
        Format::Json => print(&pretty(&json!({
            "format_version": FORMAT_VERSION,
            "fleet": reader.store().fleet(),
            "channel": reader.channel(),
            "holds": audit.holds(),
            "complete": audit.end == End::First,
            "voids": audit.voids(),
            "slots": audit.slots.iter().map(value).collect::<Vec<Value>>(),
        })))?,
    }
    Ok(if audit.holds() { Exit::Fine } else { Exit::Integrity })
}

fn value(audited: &Audited) -> Value {
    let mut value = log::value(audited.sequence, &audited.slot);
    if let (Some(fault), Some(object)) = (audited.fault, value.as_object_mut()) {
        object.insert("fault".to_owned(), fault.as_str().into());
    }
    value
}

fn text(reader: &Reader, audit: &Audit) -> String {
    let heading = ["SEQ", "TIME", "ACTION", "SNAPSHOT", "BY", "SOURCE", "REASON", "SIGNED", "FINDING"];
    let name = |id: &KeyId| {
        let key = reader.trust().keys().find(|key| key.key.id() == *id && !key.name.is_empty());
        key.map_or_else(|| id.short(), |key| key.name.clone())
    };
    let rows = audit.slots.iter().map(|audited| {
        let mut row = match &audited.slot {
            Slot::Entry(entry) => log::row(entry),
            Slot::Void(error) => blank(audited.sequence, "void", &error.to_string()),
            Slot::Empty => blank(audited.sequence, "", ""),
        };
        row.push(match &audited.slot {
            Slot::Entry(entry) => entry.signers.iter().map(name).collect::<Vec<_>>().join(", "),
            Slot::Void(_) | Slot::Empty => String::new(),
        });
        row.push(audited.fault.map(|fault| format!("BROKEN: {}", fault.as_str())).unwrap_or_default());
        row
    });
    let heading = heading.map(str::to_owned).to_vec();
    let text = columns(&std::iter::once(heading).chain(rows).collect::<Vec<_>>());
    let faults = audit.slots.iter().filter(|slot| slot.fault.is_some()).count();
    let end = match audit.end {
        End::First => "to the first entry".to_owned(),
        End::Retention(oldest) => format!("to entry {oldest}: older ones are not kept"),
    };
    let (slots, voids) = (audit.slots.len(), audit.voids());
    let verdict = match faults {
        0 => format!("the chain holds, {end}: {slots} slots, {voids} void\n"),
        _ => format!("the chain is broken at {faults} of {slots} slots, {end}\n"),
    };
    text + &verdict
}

/// The columns of [`log::row`] for a slot without an entry.
fn blank(sequence: u64, action: &str, reason: &str) -> Vec<String> {
    ["", "", action, "", "", "", reason]
        .into_iter()
        .enumerate()
        .map(|(at, text)| if at == 0 { sequence.to_string() } else { text.to_owned() })
        .collect()
}
