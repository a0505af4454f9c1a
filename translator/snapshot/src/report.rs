//! Reports: what a relay runs, signed by it, below its own name in the part of its fleet. So `status`, `wait` and a wave
//! need no connection to a relay.
//!
//! A report is the relay's word and no more: it may halt a wave, and one that is not signed by a key with the role
//! `report` never advances one, nor lets gc remove anything sooner.

use crate::digest::Digest;
use crate::entry;
use crate::envelope::Envelope;
use crate::fleet::FleetName;
use crate::layout::Channel;
use crate::limits;
use crate::manifest;
use crate::signature::{KeyError, Signer};
use crate::trust::{Role, Trust, TrustError};
use crate::wave::{IdentityError, RelayIdentity, RelayName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;
use time::OffsetDateTime;

/// The payload type of reports in their envelopes.
pub const PAYLOAD_TYPE: &str = "application/vnd.moorgate.report.v1+json";
/// The format that this version writes.
pub const FORMAT: u32 = 1;
/// The longest text of Envoy in a report, in bytes.
pub const TEXT_BYTES: usize = 1024;
/// Envoys that a report lists; of more it gives the number only.
pub const ENVOYS: usize = 32;
/// Secrets that a report lists, the soonest to expire first.
pub const SECRETS: usize = 32;

/// What a relay runs. Unknown fields are read over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The format of this object.
    pub format: u32,
    /// The fleet.
    pub fleet: FleetName,
    /// The channel that the relay follows.
    pub channel: Channel,
    /// The relay.
    pub relay: RelayName,
    /// Its labels, such as its zone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When it wrote this.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// In so many seconds the next report is due, whether anything changes or not: a report older than twice that comes
    /// from a relay that is gone or cut off.
    pub interval_seconds: u64,
    /// The relay's version.
    pub version: String,
    /// Formats and features of manifests and entries that it understands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// The newest release that it has verified; 0 if none.
    pub sequence: u64,
    /// The digest of that entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<Digest>,
    /// The snapshot in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Digest>,
    /// Why it is: `target`, `wave`, `pin`, `local_pin`, `last_good`, `cache`, `seed`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub because: String,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub since: Option<OffsetDateTime>,
    /// The fleet is retired, and nothing is served.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retired: bool,
    /// The relay serves this fleet no more, and nothing follows: it has been told to stop, or no Envoy of the fleet is with it
    /// any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left: bool,
    /// Snapshots that Envoys refused here or that failed their health bound, with the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<Digest, String>,
    /// How many Envoys are connected.
    pub envoys_connected: u64,
    /// How many of them have acknowledged the snapshot in force, whole.
    pub envoys_acked: u64,
    /// Up to [`ENVOYS`] of them, those with a refusal first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub envoys: Vec<EnvoyReport>,
    /// Whether the health of Envoys is within the bound of the step that bakes; none if nobody asks or it is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
    /// Up to [`SECRETS`] secrets, without their content.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretReport>,
    /// What the store failed with last, until it answers well again.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub store_error: String,
}

/// One Envoy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvoyReport {
    /// What it calls itself: for people, never to decide by.
    pub node: String,
    /// The snapshot that it has acknowledged whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acked: Option<Digest>,
    /// What it refused last, and still does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nack: Option<Nack>,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nack {
    /// The snapshot; none for an endpoint set or secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Digest>,
    /// The type of resource.
    pub type_url: String,
    /// Envoy's words.
    pub text: String,
}

/// One secret, without its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretReport {
    /// Its name.
    pub name: String,
    /// `ok`, `expired`, `missing`, `invalid` or `last_good`.
    pub state: String,
    /// When its certificate runs out.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub not_after: Option<OffsetDateTime>,
}

/// What a relay of this version puts into [`Report::features`]: the formats that it reads, such as `manifest/1`, and the
/// required features that it understands.
pub fn understood() -> Vec<String> {
    let formats = [format!("entry/{}", entry::FORMAT), format!("manifest/{}", manifest::FORMAT)];
    let features = entry::FEATURES.iter().chain(manifest::FEATURES).map(|feature| (*feature).to_owned());
    formats.into_iter().chain(features).collect()
}

/// Why a report is not read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ReportError {
    /// Its form.
    #[error("no valid report: {0}")]
    Malformed(String),
    /// Larger than a report may be.
    #[error("a report of more than {} bytes", limits::REPORT_BYTES)]
    TooLarge,
    /// It speaks of another fleet or relay.
    #[error("a report of another place: {0}")]
    Misplaced(String),
    /// Its labels.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A report as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// What it says.
    pub report: Report,
    /// Why it is not believed; none if a key with the role `report` for this fleet and channel signed it.
    pub untrusted: Option<TrustError>,
}

impl Report {
    /// Signs the report. Texts of others are cut and cleaned, lists are cut, so that it stays below its limit.
    pub fn sign(mut self, signer: &dyn Signer) -> Result<Envelope, ReportError> {
        self.bound();
        let payload = serde_json::to_vec(&self).map_err(|error| ReportError::Malformed(error.to_string()))?;
        let envelope = Envelope::sign(PAYLOAD_TYPE, payload, &[signer])?;
        if envelope.encode().len() > limits::REPORT_BYTES { Err(ReportError::TooLarge) } else { Ok(envelope) }
    }

    /// Reads a stored report of this relay in this fleet. What it says is bounded and cleaned again: a report may come
    /// from anybody who can write there.
    pub fn read(
        stored: &[u8],
        trust: &Trust,
        fleet: &FleetName,
        relay: &RelayName,
    ) -> Result<Reported, ReportError> {
        if stored.len() > limits::REPORT_BYTES {
            return Err(ReportError::TooLarge);
        }
        let malformed = |error: &dyn std::fmt::Display| ReportError::Malformed(error.to_string());
        let envelope = Envelope::decode(stored, limits::REPORT_BYTES).map_err(|error| malformed(&error))?;
        let mut report: Self =
            serde_json::from_slice(&envelope.payload).map_err(|error| malformed(&error))?;
        if (&report.fleet, &report.relay) != (fleet, relay) {
            return Err(ReportError::Misplaced(format!("{} {}", report.fleet, report.relay)));
        }
        let untrusted = trust.verify(&envelope, PAYLOAD_TYPE, Role::Report, fleet, &report.channel).err();
        report.bound();
        Ok(Reported { report, untrusted })
    }

    /// The relay as waves see it.
    pub fn identity(&self) -> Result<RelayIdentity, IdentityError> {
        RelayIdentity::new(self.relay.clone(), self.labels.clone())
    }

    /// Whether the next report is overdue: older than twice the time that it was announced for.
    pub fn is_stale(&self, now: OffsetDateTime) -> bool {
        let seconds = i64::try_from(self.interval_seconds.min(86_400)).unwrap_or(86_400).max(1);
        now - self.time > time::Duration::seconds(2 * seconds)
    }

    fn bound(&mut self) {
        self.envoys.sort_by_key(|envoy| envoy.nack.is_none());
        self.envoys.truncate(ENVOYS);
        self.secrets.sort_by_key(|secret| secret.not_after.map_or(i64::MAX, OffsetDateTime::unix_timestamp));
        self.secrets.truncate(SECRETS);
        self.features.truncate(32);
        while self.refused.len() > 32 {
            self.refused.pop_first();
        }
        // Most of a report are Envoy's words: the more Envoys speak, the shorter.
        let words = self.refused.len() + self.envoys.iter().filter(|envoy| envoy.nack.is_some()).count();
        let each = (limits::REPORT_BYTES / 10 / words.max(1)).min(TEXT_BYTES);
        self.refused.values_mut().for_each(|text| clean(text, each));
        for envoy in &mut self.envoys {
            clean(&mut envoy.node, 64);
            if let Some(nack) = &mut envoy.nack {
                clean(&mut nack.type_url, 96);
                clean(&mut nack.text, each);
            }
        }
        for secret in &mut self.secrets {
            clean(&mut secret.name, 128);
            clean(&mut secret.state, 32);
        }
        self.features.iter_mut().for_each(|feature| clean(feature, 64));
        clean(&mut self.version, 64);
        clean(&mut self.because, 32);
        clean(&mut self.store_error, TEXT_BYTES);
    }
}

/// Takes control characters out, which a terminal would obey, and cuts at a character.
fn clean(text: &mut String, most: usize) {
    if text.chars().any(|c| c.is_control() || is_directional(c)) {
        *text = text.chars().map(|c| if c.is_control() || is_directional(c) { ' ' } else { c }).collect();
    }
    if text.len() > most {
        let cut = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(cut);
    }
}

/// Characters that make text read in another order than it is written (Unicode UAX #9).
fn is_directional(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::key;

    fn shop() -> FleetName {
        FleetName::gateway("shop", "edge")
    }

    fn report() -> Report {
        Report {
            format: FORMAT,
            fleet: shop(),
            channel: Channel::stable(),
            relay: "relay-1".parse().unwrap(),
            labels: BTreeMap::from([("zone".into(), "eu-1".into())]),
            time: OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap(),
            interval_seconds: 300,
            version: "0.1.0".into(),
            features: understood(),
            sequence: 7,
            entry: Some(Digest::of(b"entry")),
            snapshot: Some(Digest::of(b"snapshot")),
            because: "target".into(),
            since: None,
            retired: false,
            left: false,
            refused: BTreeMap::new(),
            envoys_connected: 1,
            envoys_acked: 0,
            envoys: vec![EnvoyReport {
                node: "envoy\u{1b}[2J".into(),
                acked: None,
                nack: Some(Nack { snapshot: None, type_url: "t".into(), text: "no\nway".into() }),
            }],
            healthy: None,
            secrets: Vec::new(),
            store_error: String::new(),
        }
    }

    fn read(stored: &[u8], trusted: u8) -> Result<Reported, ReportError> {
        let trust = Trust::of([key(trusted).public().clone()]);
        Report::read(stored, &trust, &shop(), &"relay-1".parse().unwrap())
    }

    #[test]
    fn reports_read_back_clean() {
        let stored = report().sign(&key(1)).unwrap().encode();
        let found = read(&stored, 1).unwrap();
        assert_eq!(found.untrusted, None);
        assert_eq!(found.report.envoys[0].node, "envoy [2J");
        assert_eq!(found.report.envoys[0].nack.as_ref().unwrap().text, "no way");
        assert_eq!(found.report.identity().unwrap().labels()["zone"], "eu-1");
        // A stranger's report is shown as such, and not believed.
        assert_eq!(read(&stored, 2).unwrap().untrusted.unwrap().label(), "unknown_key");
        let other = Report { relay: "relay-2".parse().unwrap(), ..report() }.sign(&key(1)).unwrap().encode();
        assert!(matches!(read(&other, 1), Err(ReportError::Misplaced(_))));
        assert!(matches!(read(b"{}", 1), Err(ReportError::Malformed(_))));
        assert!(matches!(read(&vec![b' '; limits::REPORT_BYTES + 1], 1), Err(ReportError::TooLarge)));
    }

    #[test]
    fn what_is_hostile_or_endless_is_cut() {
        // Quotes take two bytes in JSON each.
        for text in ["\u{202e}é", "\"", "\u{1b}\\"] {
            cut(text.repeat(2_000));
        }
    }

    fn cut(text: String) {
        let mut report = report();
        report.refused = (0..100u8).map(|n| (Digest::of(&[n]), text.clone())).collect();
        let nack = Nack { snapshot: None, type_url: text.clone(), text: text.clone() };
        report.envoys = (0..1000)
            .map(|_| EnvoyReport {
                node: text.clone(),
                acked: Some(Digest::of(b"x")),
                nack: Some(nack.clone()),
            })
            .collect();
        report.secrets = (0..1000)
            .map(|_| SecretReport { name: text.clone(), state: text.clone(), not_after: None })
            .collect();
        report.store_error.clone_from(&text);
        report.version = text;
        let stored = report.sign(&key(1)).unwrap().encode();
        assert!(stored.len() <= limits::REPORT_BYTES, "{}", stored.len());
        let found = read(&stored, 1).unwrap().report;
        assert_eq!((found.envoys.len(), found.secrets.len()), (ENVOYS, SECRETS));
        assert!(!found.store_error.contains('\u{202e}'));
    }

    #[test]
    fn silence_is_stale() {
        let report = report();
        assert!(!report.is_stale(report.time + time::Duration::seconds(600)));
        assert!(report.is_stale(report.time + time::Duration::seconds(601)));
        // A clock that runs ahead makes no report old.
        assert!(!report.is_stale(report.time - time::Duration::days(1)));
    }
}
