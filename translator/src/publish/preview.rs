//! What would become of an offer: the gates, without a key and without a write.

use super::PublishError;
use super::cosigned::required;
use super::gates::{self, Counts, Gate};
use super::release::{Offer, check_offer, is_newest, is_translators, state_of, waiting};
use super::reports::Reports;
use super::transition::{Act, apply};
use moorgate_snapshot::channel::{ChannelState, Release};
use moorgate_snapshot::entry::Position;
use moorgate_snapshot::reader::Reader;
use time::OffsetDateTime;

/// The document beside a snapshot that counts routes by namespace and hostname.
const COUNTS: &str = "counts";

/// What would become of an offer now.
#[derive(Debug)]
pub struct Preview {
    /// The newest entry; none if there is none.
    pub parent: Option<Position>,
    /// What the channel serves.
    pub serving: Option<Release>,
    /// The commit of the newest release, if the offered one was found to descend from it.
    pub descends_from: Option<String>,
    /// It is the newest already.
    pub unchanged: bool,
    /// A pin or hold makes it wait.
    pub waits: bool,
    /// The same tree gave another snapshot when it was published.
    pub translators: bool,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// The gate that would refuse it.
    pub refused: Option<Gate>,
}

/// Asks all gates of publishing.
///
/// # Errors
/// The channel could not be read.
pub async fn preview(
    reader: &Reader,
    offer: &Offer<'_>,
    now: OffsetDateTime,
) -> Result<Preview, PublishError> {
    let tail = reader.newest(None).await?;
    let state = state_of(&tail);
    let mut warnings = waiting(&state);
    let asked = gate(reader, offer, &tail, &state, now, &mut warnings).await?;
    let old =
        state.newest().and_then(|release| release.source.as_ref()).map(|source| source.revision.clone());
    let new = offer.source.as_ref().map(|source| source.revision.clone()).unwrap_or_default();
    let descends = |old: &String| !old.is_empty() && (offer.descends)(old, &new) == Some(true);
    Ok(Preview {
        parent: tail.entry.as_ref().map(moorgate_snapshot::VerifiedEntry::position),
        serving: state.serving().cloned(),
        descends_from: old.filter(descends),
        unchanged: is_newest(&state, &offer.snapshot.id()),
        waits: state.pin.is_some() || state.hold.is_some(),
        translators: is_translators(offer, &state),
        warnings,
        refused: asked.err(),
    })
}

async fn gate(
    reader: &Reader,
    offer: &Offer<'_>,
    tail: &moorgate_snapshot::Tail,
    state: &ChannelState,
    now: OffsetDateTime,
    warnings: &mut Vec<String>,
) -> Result<Result<(), Gate>, PublishError> {
    match check_offer(offer, tail, state) {
        Ok(warning) => warnings.extend(warning),
        Err(gate) => return Ok(Err(gate)),
    }
    if is_newest(state, &offer.snapshot.id()) {
        return Ok(Ok(()));
    }
    if let Err(gate) = shrinks(reader, offer, state, warnings).await?
        && !offer.allow.shrink
    {
        return Ok(Err(gate));
    }
    if let Err(gate) = understood(reader, offer, now, warnings).await? {
        return Ok(Err(gate));
    }
    let mut release = Release::new(offer.snapshot.id(), tail.next, now);
    // They are made of what is in the store, so that before the first publish there is none.
    if let Err(gate) = required(reader, &mut release, tail.next).await? {
        warnings.push(gate.to_string());
    }
    let act = Act::Release { release, steps: offer.steps.clone(), pardon: offer.allow.bad };
    Ok(apply(state, act, reader.channel(), now).map(drop))
}

/// Compares the number of routes, in all and of each namespace and hostname, with the release before.
pub(super) async fn shrinks(
    reader: &Reader,
    offer: &Offer<'_>,
    state: &ChannelState,
    warnings: &mut Vec<String>,
) -> Result<Result<(), Gate>, PublishError> {
    let after = offer.documents.get(COUNTS).and_then(|counts| serde_json::from_value(counts.clone()).ok());
    let Some(after) = after else {
        let parent = state.newest().filter(|_| !state.retired);
        return Ok(parent.map_or(Ok(()), |parent| gates::shrink(Some(parent), offer.routes)));
    };
    Ok(compare(reader, state, offer.routes, Ok(after), warnings).await)
}

/// The same for a release of another channel.
pub(super) async fn shrinks_by(
    (from, release): (&Reader, &Release),
    reader: &Reader,
    state: &ChannelState,
    warnings: &mut Vec<String>,
) -> Result<(), Gate> {
    let after = counts_of(from, release).await;
    compare(reader, state, release.routes.unwrap_or(u64::MAX), after, warnings).await
}

/// `after` is none with the reason why it is not known.
async fn compare(
    reader: &Reader,
    state: &ChannelState,
    routes: u64,
    after: Result<Counts, String>,
    warnings: &mut Vec<String>,
) -> Result<(), Gate> {
    let Some(parent) = state.newest().filter(|_| !state.retired) else { return Ok(()) };
    gates::shrink(Some(parent), routes)?;
    let before = counts_of(reader, parent).await;
    match before.and_then(|before| Ok((before, after?))) {
        Ok((before, after)) => gates::shrink_parts(&before, &after),
        Err(why) => {
            warnings.push(format!(
                "routes of each namespace and hostname cannot be compared with the release before ({why}): only \
                 their total is"
            ));
            Ok(())
        }
    }
}

/// The `counts` of a release.
async fn counts_of(reader: &Reader, release: &Release) -> Result<Counts, String> {
    let attestation = reader.attestation(release).await.map_err(|error| error.to_string())?;
    let attestation = attestation.ok_or("it has no attestation")?;
    if let Some(inline) = attestation.inline.get(COUNTS) {
        return serde_json::from_value(inline.clone()).map_err(|error| error.to_string());
    }
    let document = attestation.documents.get(COUNTS).ok_or("it has no counts")?;
    let raw = reader.document(document).await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&raw).map_err(|error| error.to_string())
}

/// Refuses a snapshot that needs what relays report not to understand.
pub(super) async fn understood(
    reader: &Reader,
    offer: &Offer<'_>,
    now: OffsetDateTime,
    warnings: &mut Vec<String>,
) -> Result<Result<(), Gate>, PublishError> {
    let needed = offer.snapshot.manifest().required_features();
    // Most snapshots need nothing, and then nobody has to be asked.
    if needed.is_empty() {
        return Ok(Ok(()));
    }
    let reports = match Reports::read(reader).await {
        Ok(reports) => reports,
        Err(error) => {
            warnings.push(format!("it is not known whether all relays understand it: {error}"));
            return Ok(Ok(()));
        }
    };
    match reports.lacking(needed, now) {
        Some((relays, features)) if offer.allow.old_relays => {
            warnings.push(format!("{relays} do not understand {features}, and keep what they have"));
            Ok(Ok(()))
        }
        Some((relays, features)) => Ok(Err(Gate::OldRelays { relays, features })),
        None => Ok(Ok(())),
    }
}
