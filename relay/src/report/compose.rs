//! What a report says.

use super::INTERVAL;
use crate::bind::binder;
use crate::fleet::Status as FleetStatus;
use crate::serve::hub::{Client, Held};
use crate::serve::types;
use moorgate_snapshot::report::{EnvoyReport, FORMAT, Nack, SecretReport, understood};
use moorgate_snapshot::{Digest, RelayIdentity, Report};
use time::OffsetDateTime;

/// A report of this moment, in seconds since 1970. Signing it cuts and cleans what others said.
pub(super) fn compose(
    identity: &RelayIdentity,
    status: &FleetStatus,
    clients: &[Client],
    now: i64,
) -> Report {
    let envoys = clients.iter().map(|client| envoy(client, status)).collect();
    let acked = clients.iter().filter(|client| took(client).is_some() && took(client) == status.snapshot);
    let mut labels = identity.labels().clone();
    labels.remove(moorgate_snapshot::wave::RELAY_LABEL);
    Report {
        format: FORMAT,
        fleet: status.fleet.clone(),
        channel: status.channel.clone(),
        relay: identity.name().clone(),
        labels,
        time: moment(now),
        interval_seconds: INTERVAL.as_secs(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        features: understood(),
        sequence: status.sequence,
        entry: status.entry,
        snapshot: status.snapshot,
        because: status.because.map(|because| because.as_str().to_owned()).unwrap_or_default(),
        since: status.since.map(moment),
        retired: status.retired,
        left: false,
        refused: status.quarantined.clone(),
        envoys_connected: clients.len() as u64,
        envoys_acked: acked.count() as u64,
        envoys,
        healthy: status.healthy,
        secrets: status.bindings.secrets.iter().map(secret).collect(),
        store_error: status.store.error.clone().unwrap_or_default(),
    }
}

/// The snapshot that a client took: an Envoy all of it, a rate limit service its limits.
fn took(client: &Client) -> Option<Digest> {
    client.synced.or(client.limits)
}

fn envoy(client: &Client, status: &FleetStatus) -> EnvoyReport {
    EnvoyReport { node: client.node.clone(), acked: took(client), nack: nack(client, status) }
}

/// What an Envoy refuses still: a value, or a part of a snapshot that is in force or is bad here.
fn nack(client: &Client, status: &FleetStatus) -> Option<Nack> {
    let said = |(short, held): (&&'static str, &Held)| {
        let (snapshot, text) = (held.refuses?, held.nack.clone()?);
        let kind = types::kinds().iter().find(|kind| kind.short == *short);
        let bound = kind.is_some_and(|kind| kind.bound);
        let matters =
            bound || status.snapshot == Some(snapshot) || status.quarantined.contains_key(&snapshot);
        let type_url = kind.map_or(*short, |kind| kind.type_url).to_owned();
        matters.then(|| Nack { snapshot: (!bound).then_some(snapshot), type_url, text })
    };
    let mut all: Vec<Nack> = client.types.iter().filter_map(said).collect();
    // A refused snapshot says more than a refused value.
    all.sort_by_key(|nack| nack.snapshot.is_none());
    all.into_iter().next()
}

fn secret(secret: &binder::SecretReport) -> SecretReport {
    let state = if secret.state == "last-good" { "last_good" } else { secret.state };
    SecretReport {
        name: secret.name.to_string(),
        state: state.to_owned(),
        not_after: secret.not_after.map(moment),
    }
}

/// A time of day that a report can hold: a clock may show anything.
fn moment(seconds: i64) -> OffsetDateTime {
    let latest = 253_402_300_799;
    OffsetDateTime::from_unix_timestamp(seconds.clamp(0, latest)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Because;
    use moorgate_snapshot::{Channel, FleetName, wave};
    use std::collections::BTreeMap;

    fn client(node: &str, synced: Option<Digest>, held: &[(&'static str, Held)]) -> Client {
        Client {
            envoy: None,
            unfit: None,
            node: node.into(),
            cluster: String::new(),
            agent: String::new(),
            peer: String::new(),
            protocol: "delta",
            synced,
            limits: None,
            types: held.iter().cloned().collect(),
        }
    }

    fn refuses(snapshot: Digest) -> Held {
        Held { nack: Some("no".into()), refuses: Some(snapshot), ..Held::default() }
    }

    #[test]
    fn a_report_says_what_envoys_took_and_refuse() {
        let (now, bad, old) = (Digest::of(b"now"), Digest::of(b"bad"), Digest::of(b"old"));
        let mut status = FleetStatus::new(FleetName::gateway("shop", "edge"), Channel::stable());
        status.snapshot = Some(now);
        status.because = Some(Because::LastGood);
        status.quarantined = BTreeMap::from([(bad, "LDS: no".into())]);
        status.since = Some(i64::MAX);
        let identity = RelayIdentity::new(
            "relay-1".parse().unwrap(),
            BTreeMap::from([wave::label("zone=eu-1").unwrap()]),
        )
        .unwrap();
        let clients = [
            client("a", Some(now), &[("LDS", refuses(bad)), ("EDS", refuses(now))]),
            client("b", Some(old), &[("CDS", refuses(old))]),
            client("c", None, &[("SDS", refuses(now))]),
        ];
        let report = compose(&identity, &status, &clients, 1_700_000_000);
        assert_eq!((report.envoys_connected, report.envoys_acked), (3, 1));
        assert_eq!(report.because, "last_good");
        assert_eq!(report.features, understood());
        assert_eq!(report.labels, BTreeMap::from([("zone".into(), "eu-1".into())]));
        let nacks: Vec<_> = report.envoys.iter().map(|envoy| envoy.nack.clone()).collect();
        let nack =
            |snapshot, type_url: &str| Some(Nack { snapshot, type_url: type_url.into(), text: "no".into() });
        assert_eq!(nacks, [nack(Some(bad), types::LISTENER), None, nack(None, types::SECRET)]);
        assert_eq!(report.refused[&bad], "LDS: no");
    }
}
