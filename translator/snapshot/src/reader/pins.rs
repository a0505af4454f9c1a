//! What a key that may only pin may do: hold a channel at what was published above the floor, and nothing else.

use super::{ReadError, Reader, Slot};
use crate::entry::{Action, Entry, EntryError, VerifiedEntry};
use crate::limits;

/// How many entries by such keys may follow one another: the reader has to go through all of them.
const CHAIN: usize = 64;

impl Reader {
    /// What a signature alone does not show: that a key which may only pin did no more, and that what is served is
    /// co-signed where that is required.
    pub(super) async fn check_rights(
        &self,
        entry: VerifiedEntry,
    ) -> Result<Result<VerifiedEntry, EntryError>, ReadError> {
        match self.check_pin(entry).await? {
            Ok(entry) => self.check_cosigned(entry).await,
            Err(error) => Ok(Err(error)),
        }
    }

    /// Compares an entry that no publisher signed with those before it, back to one that a publisher did sign.
    async fn check_pin(&self, entry: VerifiedEntry) -> Result<Result<VerifiedEntry, EntryError>, ReadError> {
        let Some(key) = entry.signers.first().copied().filter(|_| !entry.by_publisher) else {
            return Ok(Ok(entry));
        };
        let refused = |why| Ok(Err(EntryError::MoreThanAPin(key, why)));
        let mut current = entry.entry.clone();
        for _ in 0..CHAIN {
            let Some(place) = current.previous else { return refused("nothing was published before") };
            let before = match self.plain_slot(place.sequence).await? {
                Slot::Entry(before) if before.digest == place.digest => *before,
                // It is there, a few slots before one that is taken, and not shown: that is no verdict.
                Slot::Empty
                    if place.sequence > 0 && place.sequence + limits::VOID_RUN >= current.sequence =>
                {
                    return Err(ReadError::Missing(self.describe_slot(place.sequence)));
                }
                _ => return refused("the entry before it does not verify"),
            };
            if let Err(why) = current.only_pins(&before.entry) {
                return refused(why);
            }
            if let Some(why) = self.unpublished(&current, &before.entry).await? {
                return refused(why);
            }
            if before.by_publisher {
                return Ok(Ok(entry));
            }
            current = before.entry;
        }
        refused("too many pins in a row")
    }

    /// Why a pinned release is none that was published above the floor.
    async fn unpublished(&self, entry: &Entry, before: &Entry) -> Result<Option<&'static str>, ReadError> {
        let Some(pin) = entry.state.pin.as_ref().filter(|_| entry.action == Action::Pin) else {
            return Ok((entry.action == Action::Pin).then_some("it pins nothing"));
        };
        if before.state.below_floor(&pin.release) {
            return Ok(Some("the release lies below the floor"));
        }
        if before.state.releases().any(|release| release.is_the_same(&pin.release)) {
            return Ok(None);
        }
        Ok(match self.plain_slot(pin.release.sequence).await? {
            Slot::Entry(origin) if origin.by_publisher && origin.entry.brought(&pin.release) => None,
            _ => Some("the release was not published here"),
        })
    }
}
