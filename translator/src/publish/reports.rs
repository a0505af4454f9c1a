//! What relays report, and what follows for a wave or for somebody who waits.
//!
//! A report is a relay's word. One that nobody trusted signed may halt a wave and never advances one; silence is not
//! health.

use futures::{StreamExt as _, TryStreamExt as _};
use moorgate_snapshot::channel::Candidate;
use moorgate_snapshot::reader::{ReadError, Reader};
use moorgate_snapshot::{Channel, Digest, RelayName, Report, Reported, StoreError, layout, limits};
use std::collections::BTreeSet;
use time::OffsetDateTime;

/// How many reports of a fleet are read.
const REPORTS: usize = 10_000;
/// Reports read at one time.
const PARALLEL: usize = 16;
/// A relay that has been silent for so long is taken to be gone, unless said otherwise.
pub(super) const GONE_AFTER: time::Duration = time::Duration::HOUR;
/// The share of canary relays, in percent, that may refuse without halting a wave, beside any single one of several.
const TOLERATED_PERCENT: usize = 2;

/// The reports of a fleet, over all its channels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reports {
    /// Those that could be read, by relay.
    pub relays: Vec<Reported>,
    /// Objects in their place that are none, with the reason.
    pub unreadable: Vec<(String, String)>,
}

/// How a relay stands to a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It serves the snapshot, and all Envoys connected have acknowledged it.
    Live,
    /// Not yet, or it is not known: why.
    Behind(String),
    /// It, or an Envoy of it, has refused the snapshot: why.
    Refused(String),
}

/// How far relays are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Relays that are live.
    pub live: usize,
    /// Relays that are expected to be.
    pub expected: usize,
    /// Envoys that have acknowledged the snapshot, of live relays.
    pub acked: u64,
    /// Relays that are not live: name and why.
    pub laggards: Vec<(String, String)>,
    /// Relays that have refused: name and why.
    pub refused: Vec<(String, String)>,
}

/// What reports say of the present step of a wave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All relays of the step are live and well.
    Ready(Progress),
    /// Some are not live yet, or do not report.
    Pending(Progress),
    /// The candidate does harm: why.
    Halt(String),
}

impl Progress {
    /// The first `most` laggards and refusals on one line.
    pub fn missing(&self, most: usize) -> String {
        let all: Vec<String> = self.refused.iter().chain(&self.laggards).map(said).collect();
        let more = all.len().saturating_sub(most);
        let mut named: Vec<String> = all.into_iter().take(most).collect();
        if named.is_empty() {
            named.push(self.counts());
        }
        if more > 0 {
            named.push(format!("and {more} more"));
        }
        named.join("; ")
    }

    /// How many are live, in words.
    pub fn counts(&self) -> String {
        format!("{} of {} relays, {} Envoys", self.live, self.expected, self.acked)
    }

    /// How many are live, and the first that are not.
    pub fn summary(&self) -> String {
        if self.refused.is_empty() && self.laggards.is_empty() {
            self.counts()
        } else {
            format!("{}; {}", self.counts(), self.missing(3))
        }
    }

    /// Whether this share of the relays is live, in percent. Of no relays no share is.
    pub fn reached(&self, percent: u8) -> bool {
        self.expected > 0 && self.live * 100 >= usize::from(percent) * self.expected
    }

    /// Whether so many refuse that this share cannot be reached.
    pub fn hopeless(&self, percent: u8) -> bool {
        let left = self.expected.saturating_sub(self.refused.len());
        !self.refused.is_empty() && left * 100 < usize::from(percent) * self.expected
    }

    fn add(&mut self, reported: &Reported, standing: Standing) {
        let name = reported.report.relay.to_string();
        match standing {
            Standing::Live => {
                self.live += 1;
                self.acked += reported.report.envoys_acked;
            }
            Standing::Behind(why) => self.laggards.push((name, why)),
            Standing::Refused(why) => self.refused.push((name, why)),
        }
    }
}

fn said((relay, why): &(String, String)) -> String {
    format!("{relay}: {why}")
}

impl Reports {
    /// Reads all reports of the fleet. Needs the right to list.
    pub async fn read(reader: &Reader) -> Result<Self, ReadError> {
        let store = reader.store();
        let names = store.list(layout::REPORTS, REPORTS).await?;
        let read: Vec<(String, Option<Result<Reported, String>>)> = futures::stream::iter(names)
            .map(|name| async move {
                let relay = name.strip_suffix(".json").and_then(|name| name.parse::<RelayName>().ok());
                let Some(relay) = relay else {
                    return Ok((name, Some(Err("no name of a relay".to_owned()))));
                };
                let found = match store.get(&layout::report(&relay), limits::REPORT_BYTES).await {
                    Ok(Some(stored)) => {
                        let report = Report::read(&stored, reader.trust(), store.fleet(), &relay);
                        Some(report.map_err(|error| error.to_string()))
                    }
                    Ok(None) => None,
                    Err(error @ StoreError::TooLarge { .. }) => Some(Err(error.to_string())),
                    Err(error) => return Err(ReadError::from(error)),
                };
                Ok((name, found))
            })
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        let mut reports = Self::default();
        for (name, found) in read {
            match found {
                Some(Ok(report)) => reports.relays.push(report),
                Some(Err(why)) => reports.unreadable.push((name, why)),
                None => {}
            }
        }
        Ok(reports)
    }

    /// Those of relays that follow a channel and were heard of within `gone_after`.
    pub fn following<'r>(
        &'r self,
        channel: &'r Channel,
        now: OffsetDateTime,
        gone_after: time::Duration,
    ) -> impl Iterator<Item = &'r Reported> {
        self.relays.iter().filter(move |reported| {
            reported.report.channel == *channel && now - reported.report.time <= gone_after
        })
    }

    /// How far the relays of a channel are with a snapshot. `relays` is how many there are, if more than report.
    pub fn progress(
        &self,
        snapshot: &Digest,
        channel: &Channel,
        now: OffsetDateTime,
        gone_after: time::Duration,
        relays: Option<usize>,
    ) -> Progress {
        let mut progress = Progress::default();
        let all = self.following(channel, now, gone_after);
        for reported in all.filter(|reported| counts(reported, snapshot)) {
            progress.expected += 1;
            progress.add(reported, standing(reported, snapshot, now));
        }
        progress.expected = progress.expected.max(relays.unwrap_or(0));
        progress
    }

    /// Relays that report, signed, what they understand, and lack one of these features: their names, and what they lack.
    pub(super) fn lacking(&self, needed: &[String], now: OffsetDateTime) -> Option<(String, String)> {
        let trusted = self
            .relays
            .iter()
            .filter(|reported| reported.untrusted.is_none() && now - reported.report.time <= GONE_AFTER)
            .filter(|reported| !has_left(reported));
        let (mut relays, mut features) = (Vec::new(), BTreeSet::new());
        for reported in trusted {
            let lacks = needed.iter().filter(|feature| !reported.report.features.contains(feature));
            let lacks: Vec<&String> = lacks.collect();
            if !lacks.is_empty() {
                relays.push(reported.report.relay.to_string());
                features.extend(lacks);
            }
        }
        let more = relays.len().saturating_sub(5);
        relays.truncate(5);
        if more > 0 {
            relays.push(format!("{more} more"));
        }
        let features = features.into_iter().cloned().collect::<Vec<_>>().join(", ");
        (!relays.is_empty()).then(|| (relays.join(", "), features))
    }
}

/// Whether a relay counts among those that are to serve a snapshot. One that has left does not, but that it has refused the
/// snapshot stays true.
fn counts(reported: &Reported, snapshot: &Digest) -> bool {
    !has_left(reported) || refusal(&reported.report, snapshot).is_some()
}

/// Whether a relay serves the fleet no more, by its own word: believed like anything else that makes a wave go on, only if it
/// is signed.
pub fn has_left(reported: &Reported) -> bool {
    reported.report.left && reported.untrusted.is_none()
}

/// How a relay stands to a snapshot.
pub fn standing(reported: &Reported, snapshot: &Digest, now: OffsetDateTime) -> Standing {
    let report = &reported.report;
    if let Some(why) = refusal(report, snapshot) {
        return Standing::Refused(why);
    }
    if report.is_stale(now) {
        let minutes = (now - report.time).whole_minutes();
        return Standing::Behind(format!("silent for {minutes} min"));
    }
    if let Some(error) = &reported.untrusted {
        return Standing::Behind(format!("its report is not believed: {error}"));
    }
    if report.snapshot != Some(*snapshot) {
        let serves = report.snapshot.map_or_else(|| "nothing".to_owned(), |found| found.short());
        let store = if report.store_error.is_empty() {
            String::new()
        } else {
            format!("; its store fails: {}", report.store_error)
        };
        return Standing::Behind(format!("serves {serves}{store}"));
    }
    if report.envoys_acked < report.envoys_connected {
        let (acked, connected) = (report.envoys_acked, report.envoys_connected);
        return Standing::Behind(format!("{acked} of {connected} Envoys have acknowledged it"));
    }
    Standing::Live
}

/// Why this relay, or an Envoy of it, does not take the snapshot.
fn refusal(report: &Report, snapshot: &Digest) -> Option<String> {
    if let Some(text) = nack(report, snapshot) {
        return Some(text);
    }
    if let Some(why) = report.refused.get(snapshot) {
        return Some(if why.is_empty() { "refused".to_owned() } else { why.clone() });
    }
    let unwell = report.healthy == Some(false) && report.snapshot == Some(*snapshot);
    unwell.then(|| "its Envoys answer with more errors than the step allows".to_owned())
}

fn nack(report: &Report, snapshot: &Digest) -> Option<String> {
    report.envoys.iter().find_map(|envoy| {
        let nack = envoy.nack.as_ref().filter(|nack| nack.snapshot == Some(*snapshot))?;
        Some(format!("Envoy {} refuses {}: {}", envoy.node, nack.type_url, nack.text))
    })
}

/// What reports say of the present step of a wave.
///
/// It halts at any refusal by an Envoy, at any relay above its bound of errors, and if the relays that refuse are all that
/// report or more than one and [`TOLERATED_PERCENT`]. It is ready when every relay that the steps so far select is live;
/// a step by labels that selects nobody is not, and neither is the last one, or one with a bound of errors, before an Envoy
/// has acknowledged the candidate.
pub fn judge(candidate: &Candidate, channel: &Channel, reports: &Reports, now: OffsetDateTime) -> Verdict {
    let snapshot = &candidate.release.snapshot;
    let bounded = candidate.baking().is_some_and(|step| step.max_error_percent.is_some());
    let is_last = usize::try_from(candidate.step).is_ok_and(|n| n >= candidate.steps.len());
    let mut progress = Progress::default();
    let mut reporting = 0;
    let all = reports.following(channel, now, GONE_AFTER);
    for reported in all.filter(|reported| counts(reported, snapshot)) {
        reporting += 1;
        let report = &reported.report;
        let name = &report.relay;
        // Whoever it is: a relay that a step does not select has no business with the candidate, and its word counts.
        if let Some(text) = nack(report, snapshot) {
            return Verdict::Halt(format!("{name}: {text}"));
        }
        let selected = report.identity().is_ok_and(|relay| candidate.taken_by(&relay, channel));
        if !selected {
            continue;
        }
        if report.healthy == Some(false) && report.snapshot == Some(*snapshot) {
            return Verdict::Halt(format!("{name}: {}", refusal(report, snapshot).unwrap_or_default()));
        }
        progress.expected += 1;
        let standing = match standing(reported, snapshot, now) {
            // Unknown is not healthy: too few answers, or a relay that was not told where its Envoys count them. One without
            // Envoys has nothing to tell, as on a node that they left, or of several for the same Envoys.
            Standing::Live if bounded && report.healthy.is_none() && report.envoys_connected > 0 => {
                Standing::Behind("it is not known how its Envoys answer".to_owned())
            }
            standing => standing,
        };
        progress.add(reported, standing);
    }
    let refused = progress.refused.len();
    let tolerated = (progress.expected * TOLERATED_PERCENT / 100).max(1);
    if refused > tolerated || refused > 0 && refused == progress.expected {
        return Verdict::Halt(progress.refused.iter().take(3).map(said).collect::<Vec<_>>().join("; "));
    }
    if reporting == 0 {
        progress.laggards.push(("no relay".to_owned(), "reports".to_owned()));
    } else if progress.expected == 0 && candidate.baking().is_some_and(|step| !step.labels.is_empty()) {
        progress
            .laggards
            .push(("no relay that reports".to_owned(), "has the labels of this step".to_owned()));
    } else if progress.acked == 0 && (is_last || bounded && progress.live > 0) {
        progress.laggards.push(("no Envoy".to_owned(), "has acknowledged the candidate".to_owned()));
    }
    if progress.live == progress.expected && progress.laggards.is_empty() {
        Verdict::Ready(progress)
    } else {
        Verdict::Pending(progress)
    }
}

#[cfg(test)]
mod tests;
