//! Late values that are in use.

use super::{GcError, Policy, channels, roots};
use crate::digest::Digest;
use crate::envelope::Envelope;
use crate::late::{Index, LateError};
use crate::layout::{self, Channel};
use crate::limits;
use crate::store::FleetStore;
use crate::trust::Trust;
use std::collections::BTreeSet;

/// Indexes that one channel may have.
const INDEXES: usize = 10_000_000;
/// The payload types of indexes, of whatever version.
const PAYLOADS: &str = "application/vnd.moorgate.late";

/// What heads and the newest indexes name, whoever signed them.
///
/// A relay reads the head alone, and keeps on its own disk what it read; a writer goes on behind the newest index. So older
/// ones are of no use to anybody. The list is made before heads are read: an index that comes meanwhile is in its head.
pub(super) async fn named(
    store: &FleetStore,
    trust: &Trust,
    policy: &Policy,
) -> Result<BTreeSet<Digest>, GcError> {
    let mut values = BTreeSet::new();
    for channel in channels(store, "late").await? {
        let folder = format!("late/{channel}/log");
        let mut slots = Vec::new();
        for object in store.objects(&folder, INDEXES).await? {
            // What is no slot, nobody reads.
            slots.extend(object.name.parse::<u64>().ok());
        }
        slots.sort_unstable();
        index(store, trust, &channel, &layout::late_head(&channel), &mut values).await?;
        let mut counted = 0;
        for slot in slots.into_iter().rev() {
            let name = layout::late_entry(&channel, slot);
            counted += usize::from(index(store, trust, &channel, &name, &mut values).await?);
            if counted > policy.keep_last {
                break;
            }
        }
    }
    Ok(values)
}

/// Adds what an index names; whether it verifies. One that is no index says nothing, and one of a later version may say
/// what nobody here can read.
async fn index(
    store: &FleetStore,
    trust: &Trust,
    channel: &Channel,
    name: &str,
    values: &mut BTreeSet<Digest>,
) -> Result<bool, GcError> {
    let Some(stored) = store.get(name, limits::LATE_INDEX_BYTES).await? else { return Ok(false) };
    let verified = match Index::verify(&stored, trust, store.fleet(), channel) {
        Ok(index) => {
            values.extend(index.values().map(|value| value.digest));
            return Ok(true);
        }
        // Nothing is served to this fleet, and nothing may be wrong with it all the same.
        Err(LateError::Cosigned) => true,
        Err(_) => false,
    };
    roots::again(store, name, limits::LATE_INDEX_BYTES, &stored).await?;
    let Ok(envelope) = Envelope::decode(&stored, limits::LATE_INDEX_BYTES) else { return Ok(false) };
    match serde_json::from_slice::<Index>(&envelope.payload) {
        Ok(index) => values.extend(index.values().map(|value| value.digest)),
        Err(error) if envelope.payload_type.starts_with(PAYLOADS) => {
            let reason =
                format!("it cannot be read, and may name what is needed: {error}: nothing was removed");
            return Err(GcError::Unclear { path: store.describe(name), reason });
        }
        Err(_) => return Ok(false),
    }
    Ok(verified)
}
