//! Whether what an entry makes relays serve is co-signed where that is required.

use super::{ReadError, Reader, Slot};
use crate::channel::Release;
use crate::entry::{EntryError, VerifiedEntry};

impl Reader {
    /// Refuses an entry that names a release without the co-signatures that its channel requires. A release that came
    /// in with an older entry is judged as it was then: the rule may be younger, or a key revoked since.
    pub(super) async fn check_cosigned(
        &self,
        entry: VerifiedEntry,
    ) -> Result<Result<VerifiedEntry, EntryError>, ReadError> {
        let (fleet, channel, sequence) = (self.store.fleet(), &self.channel, entry.entry.sequence);
        let need = self.trust.cosigners(fleet, channel, sequence);
        if need == 0 {
            return Ok(Ok(entry));
        }
        for release in entry.entry.state.releases() {
            let have = self.trust.cosigned(fleet, channel, release, sequence).len();
            if have < need && !(release.sequence < sequence && self.was_fine(release).await?) {
                let snapshot = release.snapshot;
                return Ok(Err(EntryError::NotCosigned { snapshot, have, need }));
            }
        }
        Ok(Ok(entry))
    }

    /// Whether a publisher brought this release in with the entry that it names, and it met the rule of then. The entry
    /// says so, not the release: a forged one could claim to be old.
    async fn was_fine(&self, release: &Release) -> Result<bool, ReadError> {
        let Slot::Entry(origin) = self.plain_slot(release.sequence).await? else { return Ok(false) };
        let (fleet, channel) = (self.store.fleet(), &self.channel);
        let need = self.trust.cosigners(fleet, channel, release.sequence);
        let have = self.trust.cosigned(fleet, channel, release, release.sequence).len();
        Ok(origin.by_publisher && origin.entry.brought(release) && have >= need)
    }
}
