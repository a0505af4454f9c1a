//! Renewing a head: saying that its entry is still the newest, so that relays see a store that is kept back.

use super::PublishError;
use super::gates::Gate;
use moorgate_snapshot::reader::Reader;
use moorgate_snapshot::renewal::Renewal;
use moorgate_snapshot::signature::Signer;
use moorgate_snapshot::{Role, VerifiedEntry, writer};
use time::OffsetDateTime;

/// How often a head is written again because a release came in between.
const ATTEMPTS: usize = 4;

/// A renewed head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// The entry that it names.
    pub entry: VerifiedEntry,
    /// What it says of it.
    pub renewal: Renewal,
}

/// Signs anew that the newest entry of a channel is the newest, and writes it into the head. The key needs the role
/// `renew` and no other.
pub async fn renew(
    reader: &Reader,
    signer: &dyn Signer,
    issued: OffsetDateTime,
    expires: OffsetDateTime,
) -> Result<Renewed, PublishError> {
    let (store, channel, id) = (reader.store(), reader.channel(), signer.public().id());
    let may =
        |role| reader.trust().keys().any(|key| key.key.id() == id && key.may(role, store.fleet(), channel));
    if !may(Role::Renew) {
        return Err(Gate::Key(id).into());
    }
    let mut tail = reader.newest(None).await?;
    for _ in 0..ATTEMPTS {
        let entry = tail.entry.ok_or_else(|| Gate::Empty(channel.clone()))?;
        let renewal = Renewal::of(&entry, issued, expires);
        let envelope = renewal.sign(signer)?;
        writer::write_renewed_head(store, &entry, envelope).await?;
        tail = reader.newest(Some(entry.position())).await?;
        if tail.entry.as_ref().map(VerifiedEntry::position) == Some(entry.position()) {
            return Ok(Renewed { entry, renewal });
        }
        // A release came in between, and this head is behind it: once more.
    }
    Err(PublishError::ReadBack("the channel moves faster than its head can be renewed".to_owned()))
}
