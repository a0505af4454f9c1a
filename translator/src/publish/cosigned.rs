//! Gathering the co-signatures that a channel requires.

use super::gates::Gate;
use super::{PublishError, Publisher};
use moorgate_snapshot::channel::Release;
use moorgate_snapshot::{ReadError, Reader, Role, cosign, layout};

impl Publisher<'_> {
    /// Takes into the release what the store has of co-signatures that count here, if it needs any; refuses if they are
    /// too few. All objects are there by then: whoever co-signs finds them, and the same command commits.
    pub(super) async fn require_cosignatures(
        &self,
        release: &mut Release,
        sequence: u64,
    ) -> Result<(), PublishError> {
        Ok(required(&self.reader, release, sequence).await??)
    }

    /// The same without a refusal: how many are needed, and how many there are.
    pub(super) async fn gather_cosignatures(
        &self,
        release: &mut Release,
        sequence: u64,
    ) -> Result<(usize, usize), PublishError> {
        Ok(gather(&self.reader, release, sequence).await?)
    }
}

/// Whether the store has as many co-signatures of a release as its channel requires; takes them into it.
pub(super) async fn required(
    reader: &Reader,
    release: &mut Release,
    sequence: u64,
) -> Result<Result<(), Gate>, ReadError> {
    let (need, have) = gather(reader, release, sequence).await?;
    if have >= need {
        return Ok(Ok(()));
    }
    let (fleet, channel) = (reader.store().fleet(), reader.channel());
    let able = reader.trust().keys().filter(|key| key.may(Role::Cosign, fleet, channel));
    let missing = able.filter(|key| release.cosignatures.iter().all(|one| one.keyid != key.key.id()));
    let missing: Vec<String> = missing.map(|key| format!("{} {}", key.key.id().short(), key.name)).collect();
    let missing = missing.iter().map(|key| key.trim_end().to_owned()).collect::<Vec<_>>().join(", ");
    Ok(Err(Gate::NotCosigned { snapshot: release.snapshot, have, need, missing }))
}

async fn gather(reader: &Reader, release: &mut Release, sequence: u64) -> Result<(usize, usize), ReadError> {
    let (store, channel, trust) = (reader.store(), reader.channel(), reader.trust());
    let fleet = store.fleet();
    let need = trust.cosigners(fleet, channel, sequence);
    let counted = |release: &Release| trust.cosigned(fleet, channel, release, sequence);
    if need == 0 || counted(release).len() >= need {
        return Ok((need, need));
    }
    let mut found = release.clone();
    for key in trust.keys().filter(|key| key.may(Role::Cosign, fleet, channel)) {
        let id = key.key.id();
        let name = layout::cosignature(&release.snapshot, &id);
        let stored = store.get(&name, cosign::BYTES).await?;
        let signatures = stored.and_then(|stored| cosign::read(&stored, fleet, &release.snapshot).ok());
        for signature in signatures.unwrap_or_default().into_iter().filter(|one| one.keyid == id) {
            found.cosignatures.retain(|one| one.keyid != id);
            found.cosignatures.insert(0, signature);
        }
        // One that does not hold would only take the place of another.
        let holds = counted(&found);
        found.cosignatures.retain(|one| holds.contains(&one.keyid));
        if holds.len() >= need {
            break;
        }
    }
    let have = counted(&found).len();
    release.cosignatures = found.cosignatures;
    Ok((need, have))
}
