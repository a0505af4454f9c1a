//! When an object changed: what each entry of a channel made of it.

use super::{Book, Item, Wanted, What};
use moorgate_snapshot::reader::{ReadError, Slot};
use moorgate_snapshot::{Release, VerifiedEntry};

/// An entry after which an object was served otherwise than before.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The entry.
    pub entry: VerifiedEntry,
    /// The release that is served from it on; none if nothing is.
    pub release: Option<Release>,
    /// What happened to the object.
    pub what: What,
    /// The object as it was served before.
    pub before: Option<Item>,
    /// The object as it is served from then on.
    pub after: Option<Item>,
}

/// What an entry leaves the object as.
enum Sight {
    /// As it is, or not there.
    Seen(Option<Item>),
    /// Nothing is recorded of it.
    Unknown,
}

/// The entries among `slots` (the newest first, as [`moorgate_snapshot::Reader::history`] gives them) that changed what
/// is served of an object: a publish as well as a pin, a rollback or an unpin. The oldest slot counts only if it is the
/// first of the log; otherwise it says what was before. A change of the status alone does not count. Releases without
/// readable records are left out, and named in the second part with the reason.
///
/// # Errors
/// The store failed.
pub async fn timeline(
    book: &mut Book,
    wanted: &Wanted,
    slots: Vec<(u64, Slot)>,
) -> Result<(Vec<Event>, Vec<String>), ReadError> {
    let (mut events, mut gaps) = (Vec::new(), Vec::new());
    let mut before = match slots.last() {
        Some((1, _)) | None => Sight::Seen(None),
        Some(_) => Sight::Unknown,
    };
    let mut served: Option<Release> = None;
    for (sequence, slot) in slots.into_iter().rev() {
        let Slot::Entry(entry) = slot else { continue };
        let release = entry.entry.state.serving().cloned();
        if same(served.as_ref(), release.as_ref()) && !matches!(before, Sight::Unknown) {
            continue;
        }
        let after = match &release {
            None => Sight::Seen(None),
            Some(release) => match book.item(release, wanted).await {
                Ok(Some(item)) => Sight::Seen(item),
                Ok(None) => {
                    gaps.push(format!("entry {sequence}: the release has no records"));
                    Sight::Unknown
                }
                Err(error) if error.is_integrity() => {
                    gaps.push(format!("entry {sequence}: {error}"));
                    Sight::Unknown
                }
                Err(error) => return Err(error),
            },
        };
        served.clone_from(&release);
        if let (Sight::Seen(old), Sight::Seen(new)) = (&before, &after) {
            let what = What::between(old.as_ref(), new.as_ref()).filter(|what| *what != What::Status);
            if let Some(what) = what {
                let (before, after) = (old.clone(), new.clone());
                events.push(Event { entry: *entry, release, what, before, after });
            }
        }
        // Across a gap the last sight counts: the change shows at the first entry behind it.
        if matches!(after, Sight::Seen(_)) {
            before = after;
        }
    }
    events.reverse();
    Ok((events, gaps))
}

fn same(a: Option<&Release>, b: Option<&Release>) -> bool {
    a.map(|release| (release.snapshot, release.attestation))
        == b.map(|release| (release.snapshot, release.attestation))
}
