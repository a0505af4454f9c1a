use super::*;
use crate::channel::{Floor, Hold, Pin, Release};
use crate::signature::KeyPair;
use proptest::prelude::*;

pub(crate) fn key(seed: u8) -> KeyPair {
    KeyPair::generate(&[seed; 32]).unwrap().0
}

fn shop() -> FleetName {
    FleetName::gateway("shop", "edge")
}

fn release(n: u8) -> Release {
    Release {
        snapshot: Digest::of(&[n]),
        sequence: n.into(),
        time: OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap(),
        source: Some(crate::channel::Source {
            repository: "https://git.example/shop".into(),
            revision: "c0ffee".into(),
            tree: String::new(),
            committed: Some(OffsetDateTime::from_unix_timestamp(1_699_999_000).unwrap()),
        }),
        routes: Some(12),
        attestation: Some(Digest::of(b"attestation")),
        bundle: None,
        cosignatures: Vec::new(),
    }
}

fn entry(sequence: u64) -> Entry {
    Entry {
        format: FORMAT,
        features_required: Vec::new(),
        fleet: shop(),
        channel: Channel::stable(),
        sequence,
        previous: Some(Position { sequence: sequence - 1, digest: Digest::of(b"before") }),
        action: Action::Publish,
        state: ChannelState {
            target: Some(release(2)),
            previous_good: Some(release(1)),
            ..Default::default()
        },
        promoted: None,
        author: "ci".into(),
        run: "https://ci.example/7".into(),
        approver: String::new(),
        reason: String::new(),
        time: OffsetDateTime::from_unix_timestamp(1_700_000_100).unwrap(),
        expires: None,
        nonce: "00112233".into(),
    }
}

fn verify(stored: &[u8], slot: u64) -> Result<VerifiedEntry, EntryError> {
    let trust = Trust::of([key(1).public().clone()]);
    Entry::verify(stored, &trust, &shop(), &Channel::stable(), Some(slot))
}

/// Pinned bytes: Ed25519 is deterministic, so the whole stored entry is.
#[test]
fn golden_of_the_format() {
    let mut whole = entry(3);
    whole.state.pin = Some(Pin {
        release: release(1),
        reason: "broken checkout".into(),
        by: "on-call".into(),
        expires: Some(OffsetDateTime::from_unix_timestamp(1_700_086_400).unwrap()),
    });
    whole.state.bad = vec![Digest::of(b"bad")];
    let envelope = whole.sign(&[&key(1)]).unwrap();
    let text = format!(
        "{}\n{}\n",
        String::from_utf8(envelope.payload.clone()).unwrap(),
        String::from_utf8(envelope.encode()).unwrap()
    );
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/entry.txt");
    assert_eq!(std::fs::read_to_string(golden).unwrap_or_default(), text);
}

#[test]
fn an_entry_is_believed_in_its_place_only() {
    let stored = entry(3).sign(&[&key(1)]).unwrap().encode();
    let verified = verify(&stored, 3).unwrap();
    assert_eq!(verified.entry, entry(3));
    assert!(verified.by_publisher);
    assert_eq!(verify(&stored, 4).unwrap_err().label(), "replay");
    let trust = Trust::of([key(1).public().clone()]);
    let elsewhere = |fleet: &FleetName, channel: &str| {
        Entry::verify(&stored, &trust, fleet, &channel.parse().unwrap(), Some(3)).unwrap_err().label()
    };
    assert_eq!(elsewhere(&FleetName::gateway("shop", "other"), "stable"), "replay");
    assert_eq!(elsewhere(&shop(), "next"), "replay");
    let stranger = entry(3).sign(&[&key(2)]).unwrap().encode();
    assert_eq!(verify(&stranger, 3).unwrap_err().label(), "unknown_key");
    let both = entry(3).sign(&[&key(2), &key(1)]).unwrap().encode();
    assert_eq!(verify(&both, 3).unwrap().digest, verified.digest);
}

#[test]
fn the_future_is_named_and_unknown_fields_are_read_over() {
    let sign =
        |payload: String| Envelope::sign(PAYLOAD_TYPE, payload.into_bytes(), &[&key(1)]).unwrap().encode();
    let json = serde_json::to_string(&entry(3)).unwrap();
    let error = verify(&sign(json.replacen("\"format\":1", "\"format\":2", 1)), 3).unwrap_err();
    assert_eq!(error.label(), "upgrade_required");
    let feature = json.replacen("\"format\":1", "\"format\":1,\"features_required\":[\"quorum\"]", 1);
    let error = verify(&sign(feature), 3).unwrap_err();
    assert!(error.to_string().contains("quorum"), "{error}");
    let field = json.replacen("\"format\":1", "\"format\":1,\"weather\":\"rain\"", 1);
    assert_eq!(verify(&sign(field), 3).unwrap().entry, entry(3));
    let twice = json.replacen("\"format\":1", "\"format\":1,\"format\":1", 1);
    assert_eq!(verify(&sign(twice), 3).unwrap_err().label(), "malformed");
    let long = Entry { reason: "r".repeat(limits::ENTRY_BYTES), ..entry(3) };
    let error = verify(&long.sign(&[&key(1)]).unwrap().encode(), 3).unwrap_err();
    assert_eq!(error.label(), "too_large");
}

#[test]
fn a_pin_changes_nothing_but_the_pin() {
    let before = entry(3);
    let mut pin = Entry { action: Action::Pin, ..entry(4) };
    pin.state.pin = Some(Pin { release: release(1), reason: "r".into(), by: "b".into(), expires: None });
    assert_eq!(pin.only_pins(&before), Ok(()));
    let mut more = pin.clone();
    more.state.target = Some(release(9));
    assert!(more.only_pins(&before).is_err());
    let mut hold = pin.clone();
    hold.state.hold = Some(Hold { reason: "r".into(), by: "b".into() });
    assert!(hold.only_pins(&before).is_err());
    let mut unpin = Entry { action: Action::Unpin, ..entry(5) };
    unpin.state.target = Some(release(1));
    assert_eq!(unpin.only_pins(&pin), Ok(()));
    let floor = Some(Floor { sequence: 2, reason: "r".into() });
    let [mut floored, mut below] = [pin.clone(), unpin.clone()];
    floored.state.floor.clone_from(&floor);
    below.state.floor = floor;
    assert!(below.only_pins(&floored).is_err());
    unpin.state.target = Some(release(9));
    assert!(unpin.only_pins(&pin).is_err());
    // An unpin that pins, and one of what is not pinned.
    let pins = Entry { action: Action::Unpin, ..pin.clone() };
    assert!(pins.only_pins(&pin).is_err());
    unpin.state.target = Some(release(1));
    assert!(unpin.only_pins(&before).is_err());
    assert!(Entry { action: Action::Publish, ..pin.clone() }.only_pins(&before).is_err());
}

proptest! {
    #[test]
    fn a_changed_byte_is_refused_or_means_the_same(at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
        let mut stored = entry(3).sign(&[&key(1)]).unwrap().encode();
        let at = at.index(stored.len());
        stored[at] = byte;
        if let Ok(verified) = verify(&stored, 3) {
            prop_assert_eq!(verified.entry, entry(3));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = verify(&bytes, 1);
        let _ = crate::head::Head::decode(&bytes);
        let _ = Trust::parse(&bytes);
        let payload = Envelope::sign(PAYLOAD_TYPE, bytes, &[&key(1)]).unwrap();
        prop_assert!(verify(&payload.encode(), 1).is_err());
    }
}
