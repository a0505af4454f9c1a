//! Lines that moved together.

use super::Records;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// From this line of the file on, up to the next shift, objects moved by so many lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shift {
    /// The first line, as it was before.
    pub from: u32,
    /// By how many lines; upwards if negative.
    pub by: i64,
}

/// How the objects of each file moved, where they did. Objects that are new, gone or in another file do not count.
pub(super) fn between(before: &Records, after: &Records) -> BTreeMap<String, Vec<Shift>> {
    let mut files: BTreeMap<&str, Vec<(u32, i64)>> = BTreeMap::new();
    for (key, old) in &before.objects {
        if let Some(new) = after.objects.get(key).filter(|new| new.file == old.file) {
            let by = i64::from(new.line) - i64::from(old.line);
            files.entry(&old.file).or_default().push((old.line, by));
        }
    }
    let mut shifts = BTreeMap::new();
    for (file, mut lines) in files {
        lines.sort_unstable();
        let mut moved: Vec<Shift> = Vec::new();
        for (from, by) in lines {
            if by != moved.last().map_or(0, |shift| shift.by) {
                moved.push(Shift { from, by });
            }
        }
        if !moved.is_empty() {
            shifts.insert(file.to_owned(), moved);
        }
    }
    shifts
}

/// Where a line of a file is after its shifts, which rise.
pub(super) fn apply(line: u32, shifts: &[Shift]) -> u32 {
    let by = shifts.iter().take_while(|shift| shift.from <= line).last().map_or(0, |shift| shift.by);
    // What a stored document says may be nonsense: then the line is, and nothing else.
    u32::try_from(i64::from(line).saturating_add(by)).unwrap_or(line)
}
