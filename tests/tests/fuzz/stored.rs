//! What lies in a store or beside a relay: manifests, pages, entries, heads, trust, reports, attestations.

use super::{JSON, PROTOBUF, effort, told};
use bytes::Bytes;
use moorgate_snapshot::attestation::{self, Attestation, Material, Provenance};
use moorgate_snapshot::channel::BundleRef;
use moorgate_snapshot::envelope::Envelope;
use moorgate_snapshot::head::Head;
use moorgate_snapshot::late;
use moorgate_snapshot::renewal::{self, Renewal};
use moorgate_snapshot::trust::chain::{self, Link};
use moorgate_snapshot::{
    Anchor, Channel, Digest, Entry, FleetName, KeyPair, Manifest, Page, RelayName, Report, Signer as _,
    Snapshot, Trust, VerifiedEntry, bundle, compress, cosign, entry, report, wave,
};
use moorgate_tests::mutate::fuzz;
use std::collections::BTreeMap;
use time::OffsetDateTime;

const SNAPSHOT: &str = include_str!("../../../translator/snapshot/golden/snapshot.txt");
const ENTRY: &str = include_str!("../../../translator/snapshot/golden/entry.txt");

/// Objects of the golden snapshot by kind.
fn golden(kind: &str) -> Vec<Bytes> {
    let objects = SNAPSHOT.lines().filter(|line| line.starts_with(kind));
    let hex = objects.filter_map(|line| line.split(' ').next_back());
    hex.map(|hex| {
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(byte).collect::<Vec<_>>().into()
    })
    .collect()
}

fn key() -> KeyPair {
    KeyPair::generate(&[7; 32]).unwrap().0
}

fn trust() -> Trust {
    Trust::of([key().public().clone()])
}

fn fleet() -> FleetName {
    FleetName::gateway("shop", "edge")
}

fn entry_payload() -> Vec<u8> {
    ENTRY.lines().next().unwrap().as_bytes().to_vec()
}

/// The entry of a payload that is signed well, so that what is behind the signature is reached.
fn verified(payload: &[u8]) -> Option<VerifiedEntry> {
    let envelope = Envelope::sign(entry::PAYLOAD_TYPE, payload.to_vec(), &[&key()]).unwrap();
    Entry::verify(&envelope.encode(), &trust(), &fleet(), &Channel::stable(), None).ok()
}

#[test]
fn manifest() {
    let take = |input: &[u8]| {
        let Ok(manifest) = Manifest::decode(input.to_vec().into()) else { return false };
        // One encoding: what is taken is what it says, byte for byte, or its id would say nothing.
        assert_eq!(&manifest.raw()[..], input);
        assert_eq!(manifest.id(), Digest::of(input));
        let pages = manifest.pages().iter().filter_map(|page| page.inline.clone());
        let pages = pages.filter_map(|raw| Page::decode(raw).ok()).collect();
        if let Ok(snapshot) = Snapshot::from_pages(manifest, pages) {
            let _ = moorgate_snapshot::assemble(&snapshot);
        }
        true
    };
    let mut corpus: Vec<Vec<u8>> = golden("manifest").iter().map(|raw| raw.to_vec()).collect();
    corpus.push(Snapshot::build(Vec::new()).unwrap().manifest().raw().to_vec());
    told("manifest", fuzz("manifest", corpus, PROTOBUF, effort(20_000), take));
}

/// Pages and the records in them.
#[test]
fn page_and_record() {
    let take = |input: &[u8]| {
        let Ok(page) = Page::decode(input.to_vec().into()) else { return false };
        assert_eq!(&page.raw()[..], input);
        let keys: Vec<_> = page.records().iter().map(moorgate_snapshot::Record::key).collect();
        assert!(keys.windows(2).all(|pair| pair[0] < pair[1]), "sorted, and each once");
        if let Ok(snapshot) = Snapshot::build(page.records().to_vec()) {
            assert_eq!(snapshot.records().count(), page.records().len());
            let _ = moorgate_snapshot::assemble(&snapshot);
        }
        true
    };
    let corpus = golden("page").iter().map(|raw| raw.to_vec()).collect();
    told("page", fuzz("page", corpus, PROTOBUF, effort(20_000), take));
}

#[test]
fn entry_behind_a_good_signature() {
    let take = |input: &[u8]| {
        let Some(found) = verified(input) else { return false };
        let again = found.entry.sign(&[&key()]).unwrap();
        let again = Entry::verify_envelope(again, &trust(), &fleet(), &Channel::stable(), None).unwrap();
        assert_eq!(again.entry, found.entry);
        true
    };
    told("entry", fuzz("entry", vec![entry_payload()], JSON, effort(4000), take));
}

#[test]
fn index_of_late_values_behind_a_good_signature() {
    let digest = Digest::of(b"value");
    let value = format!(r#"{{"digest":"{digest}","size":5}}"#);
    let text = format!(
        r#"{{"format":1,"fleet":"{}","channel":"stable","generation":7,"time":"1970-01-01T00:00:00Z","author":"ci",
        "endpoints":{{"shop/cart":{value}}},"secrets":{{"shop/tls":{value}}}}}"#,
        fleet()
    );
    let read = |payload: &[u8]| {
        let envelope = Envelope::sign(late::PAYLOAD_TYPE, payload.to_vec(), &[&key()]).unwrap();
        late::Index::verify(&envelope.encode(), &trust(), &fleet(), &Channel::stable()).ok()
    };
    let take = |input: &[u8]| {
        let Some(index) = read(input) else { return false };
        assert_eq!(read(&serde_json::to_vec(&index).unwrap()).as_ref(), Some(&index));
        assert!(index.values().all(|value| value.size <= moorgate_snapshot::limits::LATE_VALUE_BYTES as u64));
        true
    };
    told("late index", fuzz("late index", vec![text.into_bytes()], JSON, effort(4000), take));
}

#[test]
fn envelope_and_head() {
    let sealed = Envelope::sign(entry::PAYLOAD_TYPE, entry_payload(), &[&key()]).unwrap();
    let take = |input: &[u8]| {
        let _ = Entry::verify(input, &trust(), &fleet(), &Channel::stable(), Some(3));
        if let Ok(envelope) = Envelope::decode(input, 1 << 20) {
            assert_eq!(Envelope::decode(&envelope.encode(), 1 << 20), Ok(envelope));
            return true;
        }
        let Ok(head) = Head::decode(input) else { return false };
        assert_eq!(Head::decode(&head.encode()), Ok(head));
        true
    };
    let corpus = vec![sealed.encode(), Head::of(sealed).encode()];
    told("head", fuzz("head", corpus, JSON, effort(10_000), take));
}

#[test]
fn renewal_behind_a_good_signature() {
    let newest = verified(&entry_payload()).unwrap();
    let (from, to) = (OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH + time::Duration::days(1));
    let corpus = vec![Renewal::of(&newest, from, to).sign(&key()).unwrap().payload];
    let take = |input: &[u8]| {
        let envelope = Envelope::sign(renewal::PAYLOAD_TYPE, input.to_vec(), &[&key()]).unwrap();
        let Ok(found) = Renewal::verify(&envelope, &trust(), &newest) else { return false };
        assert_eq!(found.position(), newest.position());
        true
    };
    told("renewal", fuzz("renewal", corpus, JSON, effort(4000), take));
}

fn trust_files() -> Vec<Vec<u8>> {
    let pem = |seed: u8| {
        serde_json::to_string(&KeyPair::generate(&[seed; 32]).unwrap().0.public().to_pem()).unwrap()
    };
    let fixed = format!(
        r#"{{"format":1,"keys":[{{"public":{},"roles":["publish"],"fleets":["shop/*"],"channels":["stable"]}},
        {{"public":{},"roles":["pin"],"revoked":{{"shop/edge@stable":2}}}}],"minimum_sequence":{{"shop/edge@stable":17}}}}"#,
        pem(1),
        pem(2)
    );
    let chained = format!(
        r#"{{"format":2,"number":1,"root":{{"keys":[{}],"threshold":1}},"keys":[{{"public":{},"roles":["publish"]}}]}}"#,
        pem(7),
        pem(8)
    );
    vec![key().public().to_pem().into_bytes(), fixed.into_bytes(), chained.into_bytes()]
}

#[test]
fn trust_file_and_chain() {
    let take = |input: &[u8]| {
        let taken = Trust::parse(input).is_ok() | Anchor::parse(input).is_ok();
        if let Ok(anchor) = Anchor::parse(input) {
            let _ = anchor.trust().jump(&fleet(), &Channel::stable(), 3, 4);
            let remembered = anchor.remember();
            assert_eq!(anchor.resume(remembered.as_ref()).remember(), remembered);
        }
        if let Ok(signed) = chain::sign(input, &[&key()])
            && let Ok(link) = Link::first(&signed.encode())
        {
            let _ = link.next(&signed.encode());
        }
        taken
    };
    told("trust", fuzz("trust", trust_files(), JSON, effort(5000), take));
}

#[test]
fn report_behind_a_good_signature() {
    let relay: RelayName = "relay-1".parse().unwrap();
    let full = r#"{"format":1,"fleet":"shop/edge","channel":"stable","relay":"relay-1","labels":{"zone":"eu-1"},
        "time":"2026-01-02T03:04:05Z","interval_seconds":60,"version":"0.1.0","features":["a"],"sequence":3,
        "because":"target","since":"2026-01-02T03:04:05Z","refused":{},"envoys_connected":1,"envoys_acked":1,
        "envoys":[{"node":"e","nack":{"type_url":"LDS","text":"no"}}],"healthy":true,"secrets":[],"store_error":"x"}"#;
    let take = |input: &[u8]| {
        let envelope = Envelope::sign(report::PAYLOAD_TYPE, input.to_vec(), &[&key()]).unwrap();
        let Ok(found) = Report::read(&envelope.encode(), &trust(), &fleet(), &relay) else { return false };
        let _ = (found.report.identity(), found.report.is_stale(OffsetDateTime::UNIX_EPOCH));
        let report = found.report.clone();
        let texts = report.envoys.iter().filter_map(|envoy| Some(&envoy.nack.as_ref()?.text));
        for text in texts.chain([&report.store_error]) {
            assert!(text.len() <= report::TEXT_BYTES && !text.contains('\u{1b}'), "{text:?}");
        }
        assert!(report.envoys.len() <= report::ENVOYS && report.secrets.len() <= report::SECRETS);
        // What was read once can be written, and is read as the same.
        if let Ok(again) = report.clone().sign(&key()) {
            assert_eq!(Report::read(&again.encode(), &trust(), &fleet(), &relay).unwrap().report, report);
        }
        true
    };
    told("report", fuzz("report", vec![full.as_bytes().to_vec()], JSON, effort(3000), take));
}

#[test]
fn attestation_behind_a_good_signature() {
    let attestation = Attestation {
        fleet: fleet(),
        snapshot: Digest::of(b"s"),
        documents: BTreeMap::from([(
            "origins".to_owned(),
            attestation::DocumentRef { digest: Digest::of(b"d"), size: 1 },
        )]),
        inline: BTreeMap::from([("status".to_owned(), serde_json::json!({"a": [1, null]}))]),
        provenance: Provenance {
            materials: vec![Material {
                name: "n".into(),
                uri: "git+https://x".into(),
                ..Material::default()
            }],
            version: "0.1.0".into(),
            translator: Some(Digest::of(b"t")),
            ..Provenance::default()
        },
    };
    let take = |input: &[u8]| {
        let envelope = Envelope::sign(attestation::PAYLOAD_TYPE, input.to_vec(), &[&key()]).unwrap();
        let _ = cosign::read(&envelope.encode(), &fleet(), &Digest::of(b"s"));
        let Ok(found) = Attestation::verify(&envelope.encode(), &trust(), &fleet(), &Digest::of(b"s")) else {
            return false;
        };
        let payload = found.payload().unwrap();
        let again = Envelope::sign(attestation::PAYLOAD_TYPE, payload, &[&key()]).unwrap();
        assert_eq!(Attestation::verify(&again.encode(), &trust(), &fleet(), &Digest::of(b"s")), Ok(found));
        true
    };
    let corpus = vec![attestation.payload().unwrap()];
    told("attestation", fuzz("attestation", corpus, JSON, effort(3000), take));
}

/// What is compressed says nothing of its size that is believed.
#[test]
fn compressed_objects_and_bundles() {
    let snapshot =
        Snapshot::build(Page::decode(golden("page")[0].clone()).unwrap().records().to_vec()).unwrap();
    let (name, stored) = bundle::pack(&snapshot).unwrap().unwrap();
    let zeros = compress::compress(&vec![0; 1 << 20]).unwrap();
    let take = |input: &[u8]| {
        let opened = compress::decompress(input, 1 << 20);
        if let Ok(raw) = &opened {
            assert!(raw.len() <= 1 << 20);
            let named = BundleRef { digest: Digest::of(raw), size: raw.len() as u64, ..name };
            let _ = bundle::unpack(input, &named);
        }
        assert!(*input == stored[..] || bundle::unpack(input, &name).is_none_or(|pages| !pages.is_empty()));
        opened.is_ok()
    };
    let corpus = vec![stored.to_vec(), zeros.to_vec(), compress::compress(b"abc").unwrap().to_vec()];
    told("compressed", fuzz("compressed", corpus, &[b"\x28\xb5\x2f\xfd"], effort(5000), take));
}

/// Names that become paths, labels of metrics, and words of messages.
#[test]
fn names() {
    let take = |input: &[u8]| {
        let Ok(text) = std::str::from_utf8(input) else { return false };
        let plain = |text: &str| {
            let steps = text.split('/').all(|part| !matches!(part, "" | "." | ".."));
            assert!(steps && !text.contains(char::is_control), "{text:?}");
        };
        let mut taken = false;
        if let Ok(fleet) = text.parse::<FleetName>() {
            assert_eq!(fleet.to_string(), text);
            plain(&fleet.prefix());
            assert!(!fleet.socket_name().contains('/'));
            taken = true;
        }
        if let Ok(channel) = text.parse::<Channel>() {
            assert_eq!(channel.as_str(), text);
            plain(text);
            assert!(!text.contains('/'));
            taken = true;
        }
        if let Ok(relay) = text.parse::<RelayName>() {
            assert_eq!(relay.as_str(), text);
            assert!(!text.contains('/') && !text.starts_with('.'));
            taken = true;
        }
        if let Ok(digest) = text.parse::<Digest>() {
            assert_eq!(digest.to_string(), text);
            taken = true;
        }
        let _ = wave::label(text);
        taken
    };
    let words: &[&[u8]] = &[b"..", b"/", b"class/", b"%2e", b"\0", b"\xc3\xa4", b"@", b"=", b"-"];
    let corpus =
        ["shop/edge", "class/internal", "stable", "relay-1.zone_a"].map(|text| text.as_bytes().to_vec());
    let digest = Digest::of(b"x").to_string().into_bytes();
    told("names", fuzz("names", [&corpus[..], &[digest]].concat(), words, effort(50_000), take));
}
