//! The attacks of TUF and a few of ours on a store, each refused under its own word; and what a key may not do.

use super::*;
use crate::channel::{Candidate, Floor, Hold};
use crate::cosign;
use crate::envelope::Envelope;
use crate::renewal::Renewal;
use time::Duration;

/// Key 1 publishes, 2 pins, 3 renews, 4 co-signs; 5 published until entry 2 of stable and is revoked.
fn roles(rest: &str) -> Trust {
    let public = |n: u8| serde_json::to_string(&key(n).public().to_pem()).unwrap();
    let roles = [(1, "publish"), (2, "pin"), (3, "renew"), (4, "cosign"), (5, "publish"), (6, "cosign")];
    let keys: Vec<String> = roles
        .iter()
        .map(|(n, role)| {
            let revoked = if *n == 5 { r#","revoked":{"shop/edge@stable":2}"# } else { "" };
            format!(r#"{{"public":{},"roles":["{role}"]{revoked}}}"#, public(*n))
        })
        .collect();
    Trust::parse(format!(r#"{{"format":1,"keys":[{}]{rest}}}"#, keys.join(",")).as_bytes()).unwrap()
}

fn slot(sequence: u64) -> String {
    layout::entry(&Channel::stable(), sequence)
}

/// What an entry by this key in slot 3, after two honest ones, is refused for; none if it is believed.
async fn refused(entry: &Entry, signer: u8) -> Option<&'static str> {
    let bench = Bench::trusting(roles(""));
    let places = bench.publish(2).await;
    let entry = Entry { previous: entry.previous.or(Some(places[1])), ..entry.clone() };
    bench.put(&slot(3), entry.sign(&[&key(signer)]).unwrap().encode()).await;
    bench.remove("head/stable").await;
    let tail = bench.reader.newest(Some(places[1])).await.unwrap();
    let sequence = tail.entry.unwrap().entry.sequence;
    let label = tail.voids.first().map(|void| void.error.label());
    // What is refused leaves the newest honest entry in force.
    assert_eq!(sequence, if label.is_some() { 2 } else { 3 });
    label
}

#[tokio::test]
async fn entries_that_do_not_belong_are_refused_each_under_its_word() {
    let honest = || Bench::entry(3, release(&small(3), 3), None);
    let of_fleet = Entry { fleet: FleetName::gateway("shop", "other"), ..honest() };
    let of_channel = Entry { channel: "next".parse().unwrap(), ..honest() };
    let future = Entry { format: 2, ..honest() };
    let feature = Entry { features_required: vec!["quorum".into()], ..honest() };
    for (attack, entry, signer, label) in vec![
        ("none", honest(), 1, None),
        ("arbitrary key", honest(), 9, Some("unknown_key")),
        ("wrong role: pin", honest(), 2, Some("role")),
        ("wrong role: renew", honest(), 3, Some("role")),
        ("wrong role: cosign", honest(), 4, Some("role")),
        ("revoked key", honest(), 5, Some("revoked_key")),
        ("cross-fleet replay", of_fleet, 1, Some("replay")),
        ("cross-channel replay", of_channel, 1, Some("replay")),
        ("an entry of another slot", Entry { sequence: 4, ..honest() }, 1, Some("replay")),
        ("unknown future format", future, 1, Some("upgrade_required")),
        ("unknown future feature", feature, 1, Some("upgrade_required")),
    ] {
        assert_eq!(refused(&entry, signer).await, label, "{attack}");
    }
}

#[tokio::test]
async fn what_a_revoked_key_signed_before_holds_and_its_later_entries_are_stepped_over() {
    let bench = Bench::trusting(roles(""));
    let first = bench.append(&Bench::entry(1, release(&small(1), 1), None), &key(5)).await;
    let second = bench.append(&Bench::entry(2, release(&small(2), 2), Some(first)), &key(5)).await;
    assert_eq!(bench.sequence().await, Some(2));
    let mut place = second;
    for sequence in 3..=5 {
        let evil = Bench::entry(sequence, release(&small(66), sequence), Some(place));
        place = bench.append(&evil, &key(5)).await;
    }
    assert_eq!(bench.sequence().await, Some(2));
    // A relay that saw the thief's entry before it heard of the revocation does not go back by itself …
    assert_eq!(bench.reader.newest(Some(place)).await.unwrap_err().label(), "revoked_key");
    // … and takes the next honest one, which follows the last honest one.
    bench.append(&Bench::entry(6, release(&small(6), 6), Some(second)), &key(1)).await;
    for remembered in [None, Some(second), Some(place)] {
        let tail = bench.reader.newest(remembered).await.unwrap();
        assert_eq!(tail.entry.unwrap().entry.sequence, 6);
    }
}

/// A thief with the key publishes once, far away, so that no sequence is left for anybody.
#[tokio::test]
async fn fast_forward_is_bounded_and_only_the_root_of_trust_reaches_further() {
    let bench = Bench::trusting(roles(""));
    let places = bench.publish(2).await;
    for (sequence, label) in [
        (3, None),
        (2 + limits::VOID_RUN, None),
        (3 + limits::VOID_RUN, Some("fast_forward")),
        (u64::MAX, Some("fast_forward")),
    ] {
        let far = Bench::entry(sequence, release(&small(9), sequence), Some(places[1]));
        let head = Head::of(far.sign(&[&key(1)]).unwrap()).encode();
        bench.put("head/stable", head).await;
        let tail = bench.reader.newest(Some(places[1])).await.unwrap();
        assert_eq!(tail.head_error.map(|error| error.label()), label, "{sequence}");
    }
    // Forty entries are lost, or a thief's: the trust file says which, and the log goes on behind them.
    let void = r#","void":{"shop/edge@stable":[{"first":3,"last":42}]}"#;
    let reader = Reader::new(bench.store().clone(), Arc::new(roles(void)), Channel::stable());
    bench.put(&slot(4), b"whatever".to_vec()).await;
    let tail = reader.newest(None).await.unwrap();
    assert_eq!((tail.entry.unwrap().position(), tail.next), (places[1], 43));
    let on = bench.append(&Bench::entry(43, release(&small(9), 43), Some(places[1])), &key(1)).await;
    // Readers that remember a lost entry take it as well: the sequence went on.
    let lost = Position { sequence: 42, digest: Digest::of(b"lost") };
    for remembered in [None, Some(places[1]), Some(lost)] {
        let tail = reader.newest(remembered).await.unwrap();
        assert_eq!((tail.entry.unwrap().position(), tail.next), (on, 44));
    }
    assert!(matches!(reader.slot(4).await.unwrap(), Slot::Void(EntryError::Voided(4))));
    assert!(matches!(reader.slot(5).await.unwrap(), Slot::Void(EntryError::Voided(5))));
    let history = reader.history(43, 100).await.unwrap();
    assert_eq!(history.len(), 43);
    // Nothing in a void slot counts, whoever signed it.
    let head = Bench::entry(40, release(&small(9), 40), None).sign(&[&key(1)]).unwrap();
    bench.put("head/stable", Head::of(head).encode()).await;
    let tail = reader.newest(None).await.unwrap();
    assert_eq!(tail.head_error.map(|error| error.label()), Some("voided"));
}

#[tokio::test]
async fn mixed_swapped_and_endless_objects_are_refused() {
    let bench = Bench::new();
    let [one, two] = [
        large(),
        Snapshot::build((0..2000).map(|i| cluster(&format!("s{i}"), vec![7; 64])).collect()).unwrap(),
    ];
    for snapshot in [&one, &two] {
        writer::write_snapshot(bench.store(), snapshot, &|_| false).await.unwrap();
    }
    let (page, other) = (layout::page(&one.pages()[0].digest()), layout::page(&two.pages()[0].digest()));
    let (whole, strange) = (bench.raw(&page).await, bench.raw(&other).await);
    // Mix and match: a page of another snapshot of the same key. File names swapped: a manifest as a page, and so on.
    let manifest = layout::manifest(&one.id());
    let listed = bench.raw(&manifest).await;
    for (attack, name, bytes, label) in [
        ("mix and match", &page, strange.clone(), "damaged"),
        ("a manifest under a page's name", &page, listed.clone(), "damaged"),
        ("a page under a manifest's name", &manifest, whole.clone(), "damaged"),
        ("another manifest", &manifest, bench.raw(&layout::manifest(&two.id())).await, "damaged"),
        ("an endless page", &page, vec![0; limits::stored(limits::PAGE_BYTES) + 1], "too_large"),
        ("an endless manifest", &manifest, vec![0; limits::stored(limits::MANIFEST_BYTES) + 1], "too_large"),
    ] {
        let before = bench.raw(name).await;
        bench.put(name, bytes).await;
        let error = bench.reader.fetch(&release(&one, 1), &nothing).await.unwrap_err();
        assert_eq!(error.label(), label, "{attack}");
        bench.put(name, before).await;
    }
    assert_eq!(bench.reader.fetch(&release(&one, 1), &nothing).await.unwrap(), one);
}

/// A key that is trusted elsewhere names the page of a stranger: the manifest binds pages, whatever they are called.
#[tokio::test]
async fn a_manifest_whose_pages_are_others_is_refused() {
    let bench = Bench::new();
    let snapshot = large();
    writer::write_snapshot(bench.store(), &snapshot, &|_| false).await.unwrap();
    let pages = snapshot.pages();
    let [first, second] = [0, 1].map(|at| layout::page(&pages[at].digest()));
    let (a, b) = (bench.raw(&first).await, bench.raw(&second).await);
    bench.put(&first, b).await;
    bench.put(&second, a).await;
    let error = bench.reader.fetch(&release(&snapshot, 1), &nothing).await.unwrap_err();
    assert_eq!(error.label(), "damaged");
}

#[tokio::test]
async fn a_renewal_says_no_more_than_that_an_entry_is_the_newest() {
    let bench = Bench::trusting(roles(""));
    let places = bench.publish(2).await;
    let newest = bench.reader.newest(None).await.unwrap().entry.unwrap();
    let (now, later) = (OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH + Duration::days(1));
    let renewal = Renewal::of(&newest, now, later);
    let put = async |renewal: Envelope| {
        let head = Head { renewal: Some(renewal), ..Head::of(newest.envelope.clone()) };
        bench.put("head/stable", head.encode()).await;
        bench.reader.poll(Some(places[1]), None, false).await.unwrap()
    };
    let polled = put(renewal.sign(&key(3)).unwrap()).await;
    // Entry and log are as they were: one conditional get tells of the renewal.
    assert_eq!((polled.tail, polled.renewal), (None, Some(Ok(renewal.clone()))));
    let tail = bench.reader.newest(None).await.unwrap();
    assert_eq!(tail.expires(), Some(later));
    for (what, envelope, label) in [
        ("a publisher's key", renewal.sign(&key(1)).unwrap(), "role"),
        ("a stranger", renewal.sign(&key(9)).unwrap(), "unknown_key"),
        ("of another entry", Renewal { sequence: 1, ..renewal.clone() }.sign(&key(3)).unwrap(), "replay"),
        (
            "of another channel",
            Renewal { channel: "next".parse().unwrap(), ..renewal.clone() }.sign(&key(3)).unwrap(),
            "replay",
        ),
        (
            "another fork",
            Renewal { entry: Digest::of(b"other"), ..renewal.clone() }.sign(&key(3)).unwrap(),
            "replay",
        ),
        ("from the future", Renewal { format: 2, ..renewal.clone() }.sign(&key(3)).unwrap(), "malformed"),
        ("an entry in its place", newest.envelope.clone(), "payload_type"),
    ] {
        let polled = put(envelope).await;
        assert_eq!(polled.renewal.unwrap().unwrap_err().label(), label, "{what}");
        let tail = bench.reader.newest(Some(places[1])).await.unwrap();
        // The entry stands; only its time is not prolonged.
        assert_eq!((tail.entry.as_ref().unwrap().position(), tail.expires()), (places[1], None), "{what}");
    }
    // The key that renews signs no entry, and none that it signs moves a relay.
    assert_eq!(refused(&Bench::entry(3, release(&small(3), 3), None), 3).await, Some("role"));
}

/// What is tried, and how an entry is changed for it.
type Attempt<'a> = (&'a str, &'a dyn Fn(&mut Entry));

#[tokio::test]
async fn the_on_call_key_pins_above_the_floor_and_does_nothing_else() {
    let bench = Bench::trusting(roles(""));
    let places = bench.publish(3).await;
    let mut fourth = Bench::entry(4, release(&small(4), 4), Some(places[2]));
    fourth.action = Action::Floor;
    fourth.state = bench.reader.newest(None).await.unwrap().entry.unwrap().entry.state;
    fourth.state.floor = Some(Floor { sequence: 2, reason: "a grant was revoked".into() });
    fourth.state.writer = "ci".into();
    fourth.state.bad = vec![Digest::of(b"bad")];
    let fourth_place = bench.append(&fourth, &key(1)).await;
    let pin = |to: Release| Pin { release: to, reason: "r".into(), by: "on-call".into(), expires: None };
    let base = Entry {
        sequence: 5,
        previous: Some(fourth_place),
        action: Action::Pin,
        state: ChannelState { pin: Some(pin(release(&small(2), 2))), ..fourth.state.clone() },
        nonce: "5".into(),
        ..fourth.clone()
    };
    let attempt = async |change: &dyn Fn(&mut Entry)| {
        let mut entry = base.clone();
        change(&mut entry);
        bench.put(&slot(5), entry.sign(&[&key(2)]).unwrap().encode()).await;
        bench.put("head/stable", b"none".to_vec()).await;
        let tail = bench.reader.newest(Some(fourth_place)).await.unwrap();
        tail.voids.first().map(|void| void.error.label())
    };
    assert_eq!(attempt(&|_| {}).await, None);
    let attempts: &[Attempt<'_>] = &[
        ("below the floor", &|e| e.state.pin = Some(pin(release(&small(1), 1)))),
        ("never published", &|e| e.state.pin = Some(pin(release(&small(8), 3)))),
        ("a published snapshot with another bundle", &|e| {
            if let Some(pin) = &mut e.state.pin {
                pin.release.attestation = Some(Digest::of(b"other"));
            }
        }),
        ("no pin", &|e| e.state.pin = None),
        ("a lower floor", &|e| e.state.floor = Some(Floor { sequence: 1, reason: "x".into() })),
        ("no floor", &|e| e.state.floor = None),
        ("a target", &|e| e.state.target = Some(release(&small(2), 2))),
        ("a previous good", &|e| e.state.previous_good = Some(release(&small(2), 2))),
        ("a candidate", &|e| {
            e.state.candidate =
                Some(Candidate { release: release(&small(2), 2), step: 0, steps: Vec::new(), since: None });
        }),
        ("a writer", &|e| e.state.writer = "me".into()),
        ("the bad list", &|e| e.state.bad.clear()),
        ("a hold", &|e| e.state.hold = Some(Hold { reason: "r".into(), by: "b".into() })),
        ("retiring", &|e| e.state.retired = true),
    ];
    for (what, change) in attempts {
        assert_eq!(attempt(change).await, Some("more_than_a_pin"), "{what}");
    }
    for action in
        [Action::Publish, Action::Promote, Action::Step, Action::Hold, Action::Floor, Action::Retire]
    {
        assert_eq!(attempt(&|entry| entry.action = action).await, Some("role"), "{action:?}");
    }
    // An unpin that pins, one where no pin is.
    assert_eq!(attempt(&|entry| entry.action = Action::Unpin).await, Some("more_than_a_pin"));
    let none = |entry: &mut Entry| (entry.action, entry.state.pin) = (Action::Unpin, None);
    assert_eq!(attempt(&none).await, Some("more_than_a_pin"));
}

/// Signatures of these keys over a snapshot of the shop.
fn cosigned(snapshot: &Snapshot, sequence: u64, keys: &[u8]) -> Release {
    let sign = |seed: &u8| cosign::sign(&shop(), &snapshot.id(), &key(*seed)).unwrap().signatures.remove(0);
    Release { cosignatures: keys.iter().map(sign).collect(), ..release(snapshot, sequence) }
}

#[tokio::test]
async fn where_co_signatures_are_required_nothing_is_served_without() {
    let rule = r#","cosign":[{"channels":["stable"],"signatures":1,"from":{"shop/edge@stable":3}}]"#;
    let bench = Bench::trusting(roles(rule));
    let places = bench.publish(2).await;
    // The rule is younger than these two.
    assert_eq!(bench.sequence().await, Some(2));
    let attempt = async |release: Release| {
        let mut entry = Bench::entry(3, release, Some(places[1]));
        entry.state.previous_good = Some(super::release(&small(2), 2));
        bench.put(&slot(3), entry.sign(&[&key(1)]).unwrap().encode()).await;
        bench.put("head/stable", b"none".to_vec()).await;
        let tail = bench.reader.newest(Some(places[1])).await.unwrap();
        tail.voids.first().map(|void| void.error.label())
    };
    let snapshot = small(3);
    assert_eq!(attempt(cosigned(&snapshot, 3, &[4])).await, None);
    let of_other = Release { snapshot: small(9).id(), ..cosigned(&snapshot, 3, &[4]) };
    for (what, release) in [
        ("none", release(&snapshot, 3)),
        ("by the publisher itself", cosigned(&snapshot, 3, &[1])),
        ("by a stranger", cosigned(&snapshot, 3, &[9])),
        ("of another snapshot", of_other),
        ("said to be older than the rule", release(&snapshot, 2)),
    ] {
        assert_eq!(attempt(release).await, Some("not_cosigned"), "{what}");
    }
    // A pin keeps the signatures; one without them is refused, and one back to before the rule is none of its business.
    let target = cosigned(&snapshot, 3, &[4]);
    let mut third = Bench::entry(3, target.clone(), Some(places[1]));
    third.state.previous_good = Some(release(&small(2), 2));
    bench.remove(&slot(3)).await;
    let third_place = bench.append(&third, &key(1)).await;
    let pin = async |to: Release| {
        let pin = Pin { release: to, reason: "r".into(), by: "on-call".into(), expires: None };
        let state = ChannelState { pin: Some(pin), ..third.state.clone() };
        let entry =
            Entry { sequence: 4, previous: Some(third_place), action: Action::Pin, state, ..third.clone() };
        bench.put(&slot(4), entry.sign(&[&key(2)]).unwrap().encode()).await;
        bench.put("head/stable", b"none".to_vec()).await;
        let tail = bench.reader.newest(Some(third_place)).await.unwrap();
        tail.voids.first().map(|void| void.error.label())
    };
    assert_eq!(pin(target.clone()).await, None);
    assert_eq!(pin(release(&small(1), 1)).await, None);
    assert_eq!(pin(Release { cosignatures: Vec::new(), ..target }).await, Some("not_cosigned"));
}

#[tokio::test]
async fn two_co_signatures_are_two_keys() {
    let bench = Bench::trusting(roles(r#","cosign":[{"signatures":2}]"#));
    let snapshot = small(1);
    for (keys, believed) in
        [(&[4, 6][..], true), (&[4][..], false), (&[4, 4][..], false), (&[4, 9][..], false)]
    {
        let entry = Bench::entry(1, cosigned(&snapshot, 1, keys), None);
        bench.put(&slot(1), entry.sign(&[&key(1)]).unwrap().encode()).await;
        assert_eq!(bench.sequence().await == Some(1), believed, "{keys:?}");
    }
}

#[tokio::test]
async fn an_audit_follows_every_link_and_finds_what_was_tampered_with() {
    let stable = Channel::stable();
    let faults = async |bench: &Bench| {
        let tail = bench.reader.newest(None).await.unwrap();
        let audit = bench.reader.audit(&tail).await.unwrap();
        let faults: Vec<(u64, Fault)> =
            audit.slots.iter().filter_map(|slot| Some((slot.sequence, slot.fault?))).collect();
        assert_eq!(audit.holds(), faults.is_empty());
        (audit.slots.len(), audit.voids(), faults, audit.end)
    };
    let bench = Bench::new();
    let places = bench.publish(5).await;
    // Noise in a slot breaks nothing: no entry names it.
    bench.put(&slot(6), b"noise".to_vec()).await;
    bench.append(&Bench::entry(7, release(&small(7), 7), Some(places[4])), &key(1)).await;
    assert_eq!(faults(&bench).await, (7, 1, Vec::new(), End::First));
    let whole = [1, 2, 3, 4, 5].map(slot);
    let stored = futures::future::join_all(whole.iter().map(|name| bench.raw(name))).await;
    let other = Bench::entry(3, release(&small(33), 3), Some(places[1])).sign(&[&key(1)]).unwrap().encode();
    let mut damaged = stored[2].clone();
    damaged[40] ^= 1;
    for (what, bytes, fault) in [
        ("another entry", Some(other), Fault::Another),
        ("a flipped bit", Some(damaged), Fault::NamedAndVoid),
        ("nothing", None, Fault::Hole),
    ] {
        match bytes {
            Some(bytes) => bench.put(&slot(3), bytes).await,
            None => bench.remove(&slot(3)).await,
        }
        assert_eq!(faults(&bench).await.2, [(3, fault)], "{what}");
        bench.put(&slot(3), stored[2].clone()).await;
    }
    // An entry that verifies and was never followed: the log was forked, and the other branch won.
    bench.append(&Bench::entry(8, release(&small(8), 8), Some(places[4])), &key(1)).await;
    assert_eq!(faults(&bench).await.2, [(7, Fault::PassedOver)]);
    bench.remove(&layout::entry(&stable, 8)).await;
    assert_eq!(faults(&bench).await.2[0], (8, Fault::OnlyInHead));
    bench.remove("head/stable").await;
    // What is removed with age is no hole.
    bench.remove(&slot(1)).await;
    bench.remove(&slot(2)).await;
    assert_eq!(faults(&bench).await, (5, 1, Vec::new(), End::Retention(3)));
}
