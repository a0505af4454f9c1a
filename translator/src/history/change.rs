//! What one release changed against the one before.

use super::{FORMAT, Item, Records, Shift, shift};
use moorgate_snapshot::Digest;
use moorgate_snapshot::attestation::DocumentRef;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The change against the release before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// [`FORMAT`].
    pub format_version: u32,
    /// The release that it is a change of; none for the first one, or where nothing could be read of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Previous>,
    /// How many changes, this one included, lead from the records that the attestation names to this release; 0 if
    /// they are its own.
    pub depth: u32,
    /// The change before this one on that way; none for the first step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<DocumentRef>,
    /// Lines that moved, by file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shifts: BTreeMap<String, Vec<Shift>>,
    /// Objects that differ after those shifts, by [`super::key`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub objects: BTreeMap<String, Changed>,
}

/// The release before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// Its snapshot.
    pub snapshot: Digest,
    /// Its attestation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Digest>,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It says something else, or Envoy gets something else of it.
    Changed,
    /// It stands in another place, beyond the shift of its file.
    Moved,
    /// Only its status differs.
    Status,
}

impl What {
    /// The word in outputs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
            Self::Moved => "moved",
            Self::Status => "status",
        }
    }

    /// What happened between two sights of one object; none if nothing did. Lines within a file do not count.
    pub fn between(before: Option<&Item>, after: Option<&Item>) -> Option<Self> {
        let makes = |item: &Item| item.parts.iter().map(|part| part.makes.clone()).collect::<Vec<_>>();
        match (before, after) {
            (None, None) => None,
            (None, Some(_)) => Some(Self::Added),
            (Some(_), None) => Some(Self::Removed),
            (Some(a), Some(b)) => {
                if a.content != b.content || a.effective != b.effective || makes(a) != makes(b) {
                    Some(Self::Changed)
                } else if a.file != b.file || a.rendered_from != b.rendered_from {
                    Some(Self::Moved)
                } else {
                    (a.status != b.status).then_some(Self::Status)
                }
            }
        }
    }
}

/// One object that differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// In what way.
    pub what: What,
    /// The object as it is now; none if it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<Item>,
}

impl Change {
    /// The change from one state to another. Its place in a row of changes is for the caller to fill in.
    pub fn between(before: &Records, after: &Records) -> Self {
        let mut change = Self {
            format_version: FORMAT,
            previous: None,
            depth: 0,
            before: None,
            shifts: shift::between(before, after),
            objects: BTreeMap::new(),
        };
        for (key, new) in &after.objects {
            let old = before.objects.get(key).cloned().map(|item| change.shifted(item));
            if old.as_ref() != Some(new) {
                // Lines that do not follow their file are a move, too small for `What` to see.
                let what = What::between(old.as_ref(), Some(new)).unwrap_or(What::Moved);
                change.objects.insert(key.clone(), Changed { what, item: Some(new.clone()) });
            }
        }
        for key in before.objects.keys().filter(|key| !after.objects.contains_key(*key)) {
            change.objects.insert(key.clone(), Changed { what: What::Removed, item: None });
        }
        change
    }

    /// Makes of the state before this change the one after it.
    pub fn apply(&self, records: &mut Records) {
        for item in records.objects.values_mut() {
            if let Some(shifts) = self.shifts.get(&item.file) {
                item.line = shift::apply(item.line, shifts);
            }
        }
        for (key, changed) in &self.objects {
            match &changed.item {
                Some(item) => records.objects.insert(key.clone(), item.clone()),
                None => records.objects.remove(key),
            };
        }
    }

    /// An object of the state before, with its line after the shifts.
    pub fn shifted(&self, mut item: Item) -> Item {
        if let Some(shifts) = self.shifts.get(&item.file) {
            item.line = shift::apply(item.line, shifts);
        }
        item
    }
}
