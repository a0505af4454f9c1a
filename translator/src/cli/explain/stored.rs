//! What a release in the store answers, without the sources.

use super::ExplainArgs;
use crate::cli::access::{StoreArgs, read_failure, warn};
use crate::cli::{Exit, Failure};
use crate::history::{Book, Records, Written};
use crate::xds;
use anyhow::{Context as _, anyhow};
use moorgate_model::ir::Fleet;
use moorgate_snapshot::digest::DigestError;
use moorgate_snapshot::{Channel, ChannelError, Digest, FleetName, FleetNameError, Reader, Release, Slot};

/// How many entries back a snapshot is looked for.
const HISTORY: usize = 1000;

/// The release that a source names, if it names one.
pub(super) async fn release(
    args: &ExplainArgs,
    source: &str,
) -> Result<Option<(FleetName, Release)>, Failure> {
    let usage = |error: anyhow::Error| Failure::new(Exit::Usage, error);
    match source.split_once(':') {
        Some(("channel", name)) => {
            let (fleet, channel) =
                name.rsplit_once('@').context("write channel:FLEET@CHANNEL").map_err(usage)?;
            let fleet: FleetName =
                fleet.parse().map_err(|error: FleetNameError| Failure::new(Exit::Usage, error))?;
            let channel: Channel =
                channel.parse().map_err(|error: ChannelError| Failure::new(Exit::Usage, error))?;
            let tail = reader(args, &fleet, &channel).await?.newest(None).await.map_err(read_failure)?;
            let serving = tail.entry.and_then(|entry| entry.entry.state.serving().cloned());
            let none = || Failure::new(Exit::No, anyhow!("{fleet}@{channel} serves nothing"));
            Ok(Some((fleet.clone(), serving.ok_or_else(none)?)))
        }
        Some(("snapshot", id)) => {
            let [fleet] = args.fleets.fleets.as_slice() else {
                return Err(usage(anyhow!("say whose snapshot {id} is: --fleet FLEET")));
            };
            let id: Digest = id.parse().map_err(|error: DigestError| Failure::new(Exit::Usage, error))?;
            let found = released(&reader(args, fleet, &args.channel).await?, &id).await?;
            let none = || {
                let message = anyhow!("no entry of {fleet}@{} names snapshot {id}", args.channel);
                Failure::new(Exit::Refused, message)
            };
            Ok(Some((fleet.clone(), found.ok_or_else(none)?)))
        }
        _ => Ok(None),
    }
}

/// The newest release of a snapshot in a channel.
async fn released(reader: &Reader, id: &Digest) -> Result<Option<Release>, Failure> {
    let tail = reader.newest(None).await.map_err(read_failure)?;
    for (_, slot) in reader.history(tail.next.saturating_sub(1), HISTORY).await.map_err(read_failure)? {
        if let Slot::Entry(entry) = slot
            && let Some(release) = entry.entry.state.releases().find(|release| release.snapshot == *id)
        {
            return Ok(Some(release.clone()));
        }
    }
    Ok(None)
}

/// What Envoy has of a release, with who wrote it. Records that cannot be read leave the places unknown.
pub(super) async fn read(
    args: &ExplainArgs,
    fleet: &FleetName,
    release: &Release,
) -> Result<(Fleet, Records), Failure> {
    let reader = reader(args, fleet, &args.channel).await?;
    let snapshot = reader.fetch(release, &|_| None).await.map_err(read_failure)?;
    let records = match Book::new(reader).records(release).await {
        Ok(Some(records)) => records,
        Ok(None) => {
            warn("the release has no records: places are unknown");
            Records::default()
        }
        Err(error) if error.is_integrity() => {
            warn(&format!("places are unknown: {error}"));
            Records::default()
        }
        Err(error) => return Err(read_failure(error)),
    };
    let ir = xds::read(snapshot.records(), &Written::new(&records))?;
    Ok((ir, records))
}

async fn reader(args: &ExplainArgs, fleet: &FleetName, channel: &Channel) -> Result<Reader, Failure> {
    if args.store.is_empty() {
        return Err(Failure::new(Exit::Usage, anyhow!("which store? give --store URL or MOORGATE_STORE")));
    }
    StoreArgs { store: args.store.clone(), trust: args.trust.clone() }.reader(fleet, channel).await
}
