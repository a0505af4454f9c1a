use super::*;
use crate::signature::{KeyPair, Signer as _};

fn key(seed: u8) -> KeyPair {
    KeyPair::generate(&[seed; 32]).unwrap().0
}

fn file(seed: u8, rest: &str) -> Vec<u8> {
    let public = serde_json::to_string(&key(seed).public().to_pem()).unwrap();
    format!(
        r#"{{"format":1,"keys":[{{"public":{public},{rest}}}],"minimum_sequence":{{"shop/edge@stable":17}}}}"#
    )
    .into_bytes()
}

#[test]
fn roles_fleets_and_channels_hold() {
    let trust =
        Trust::parse(&file(1, r#""roles":["publish"],"fleets":["shop/*"],"channels":["stable"]"#)).unwrap();
    let envelope = Envelope::sign("t", b"x".to_vec(), &[&key(1)]).unwrap();
    let fleet = FleetName::gateway("shop", "edge");
    let stable: Channel = "stable".parse().unwrap();
    let check = |role, fleet: &FleetName, channel: &str| {
        trust.verify(&envelope, "t", role, fleet, &channel.parse().unwrap())
    };
    assert_eq!(check(Role::Publish, &fleet, "stable"), Ok(()));
    assert_eq!(check(Role::Pin, &fleet, "stable").unwrap_err().label(), "role");
    assert_eq!(check(Role::Publish, &fleet, "next").unwrap_err().label(), "role");
    assert!(check(Role::Publish, &FleetName::gateway("shopping", "edge"), "stable").is_err());
    assert_eq!(trust.minimum_sequence(&fleet, &stable), 17);
    assert_eq!(trust.minimum_sequence(&FleetName::gateway("shop", "other"), &stable), 0);
}

#[test]
fn a_reporter_may_report_of_its_fleet_and_nothing_else() {
    let fleet = FleetName::gateway("shop", "edge");
    let trust = Trust::of([key(1).public().clone()]).and_reporter(key(2).public().clone(), &fleet);
    let by = |seed| Envelope::sign("t", b"x".to_vec(), &[&key(seed)]).unwrap();
    let check = |seed, role, fleet: &FleetName| trust.verify(&by(seed), "t", role, fleet, &Channel::stable());
    assert_eq!(check(2, Role::Report, &fleet), Ok(()));
    assert_eq!(check(2, Role::Publish, &fleet).unwrap_err().label(), "role");
    assert_eq!(check(2, Role::Report, &FleetName::gateway("shop", "other")).unwrap_err().label(), "role");
    // A key that is trusted for more keeps that.
    let again = trust.and_reporter(key(1).public().clone(), &fleet);
    assert_eq!(again.verify(&by(1), "t", Role::Publish, &fleet, &Channel::stable()), Ok(()));
}

#[test]
fn signatures_are_checked() {
    let trust = Trust::of([key(1).public().clone()]);
    let mut envelope = Envelope::sign("t", b"x".to_vec(), &[&key(2), &key(1)]).unwrap();
    assert_eq!(trust.signers(&envelope, "t").unwrap().len(), 1);
    assert_eq!(trust.signers(&envelope, "other").unwrap_err().label(), "payload_type");
    envelope.payload = b"y".to_vec();
    assert_eq!(trust.signers(&envelope, "t").unwrap_err().label(), "bad_signature");
    let stranger = Envelope::sign("t", b"x".to_vec(), &[&key(2)]).unwrap();
    assert_eq!(trust.signers(&stranger, "t").unwrap_err().label(), "unknown_key");
}

#[test]
fn trust_files_are_read_strictly() {
    let pem = key(1).public().to_pem() + &key(2).public().to_pem();
    assert_eq!(Trust::parse(pem.as_bytes()).unwrap().keys().count(), 2);
    assert!(matches!(Trust::parse(&file(1, r#""role":["publish"]"#)), Err(TrustFileError::Json(_))));
    assert!(matches!(Trust::parse(&file(1, r#""roles":["root"]"#)), Err(TrustFileError::Json(_))));
    assert_eq!(Trust::parse(br#"{"format":3,"chain":[]}"#), Err(TrustFileError::Format(3)));
    assert_eq!(Trust::parse(br#"{"format":1,"keys":[]}"#), Err(TrustFileError::Empty));
    assert!(Trust::parse(b"").is_err());
}

#[test]
fn a_revoked_key_is_believed_up_to_its_last_honest_sequence() {
    let trust =
        Trust::parse(&file(1, r#""roles":["publish","report"],"revoked":{"shop/edge@stable":41}"#)).unwrap();
    let fleet = FleetName::gateway("shop", "edge");
    let (stable, next): (Channel, Channel) = (Channel::stable(), "next".parse().unwrap());
    let revoked = trust.keys().next().unwrap();
    assert!(revoked.may_at(Role::Publish, &fleet, &stable, 41));
    assert!(!revoked.may_at(Role::Publish, &fleet, &stable, 42));
    assert!(!revoked.may_at(Role::Pin, &fleet, &stable, 1));
    // In channels that are not named, and in what has no sequence, nothing is believed.
    assert!(!revoked.may_at(Role::Publish, &fleet, &next, 1));
    let envelope = Envelope::sign("t", b"x".to_vec(), &[&key(1)]).unwrap();
    let error = trust.verify(&envelope, "t", Role::Report, &fleet, &stable).unwrap_err();
    assert_eq!(error.label(), "revoked_key");
}

#[test]
fn jumps_are_counted_without_void_slots() {
    let rest = r#""roles":["publish"]}],"void":{"shop/edge@stable":[{"first":5,"last":9},{"first":20,"last":20}]},"keep":[{"#;
    let text = String::from_utf8(file(1, rest)).unwrap().replace(r#","keep":[{}]"#, "");
    let text = text.replace(r#""shop/edge@stable":17"#, r#""shop/other@stable":17"#);
    let trust = Trust::parse(text.as_bytes()).unwrap();
    let (shop, stable) = (FleetName::gateway("shop", "edge"), Channel::stable());
    for (previous, sequence, jump) in [
        (0, 1, 1),
        (4, 10, 1),
        (4, 11, 2),
        (7, 10, 1),
        (3, 21, 12),
        (10, 21, 10),
        (4, u64::MAX, u64::MAX - 10),
    ] {
        assert_eq!(trust.jump(&shop, &stable, previous, sequence), jump, "{previous} {sequence}");
    }
    // What the file says is the minimum needs no entry before it.
    assert_eq!(trust.jump(&FleetName::gateway("shop", "other"), &stable, 0, 18), 2);
    assert_eq!(trust.voided(&shop, &stable, 9), Some(VoidRange { first: 5, last: 9 }));
    assert_eq!(trust.voided(&shop, &stable, 10), None);
}

#[test]
fn documents_that_make_no_sense_are_refused() {
    let public = |seed| serde_json::to_string(&key(seed).public().to_pem()).unwrap();
    let document = |rest: &str| {
        let text = format!(
            r#"{{"format":2,"number":1,"root":{{"threshold":1,"keys":[{}]}},"keys":[{{"public":{},"roles":["publish"]}}]{rest}}}"#,
            public(8),
            public(1)
        );
        Document::parse(text.as_bytes())
    };
    assert!(document("").is_ok());
    for rest in [
        r#","minimum_sequence":{"shop/edge":1}"#,
        r#","minimum_sequence":{"shop@stable":1}"#,
        r#","void":{"shop/edge@stable":[{"first":0,"last":3}]}"#,
        r#","void":{"shop/edge@stable":[{"first":4,"last":3}]}"#,
        r#","void":{"shop/edge@stable":[{"first":4,"last":6},{"first":6,"last":7}]}"#,
        r#","cosign":[{"signatures":0}]"#,
        r#","cosign":[{"signatures":5}]"#,
        r#","cosign":[{"signatures":1,"from":{"shop/edge@Stable":1}}]"#,
        r#","weather":"rain""#,
    ] {
        assert!(document(rest).is_err(), "{rest}");
    }
    let parse = |from: &str, to: &str| {
        let text = serde_json::to_string(&document("").unwrap()).unwrap();
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        Document::parse(changed.as_bytes())
    };
    assert!(parse(r#""threshold":1"#, r#""threshold":2"#).is_err());
    assert!(parse(r#""threshold":1"#, r#""threshold":0"#).is_err());
    assert!(parse(r#""number":1,"#, "").is_err());
    assert!(parse(r#""number":1"#, r#""number":0"#).is_err());
    assert!(parse(r#""format":2"#, r#""format":1"#).is_err());
    assert!(parse(r#"["publish"]"#, r#"["publish","cosign"]"#).is_err());
    assert!(parse(&public(8), &public(1)).is_err());
}
