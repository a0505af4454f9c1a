use super::*;
use moorgate_snapshot::{BindingKind, BindingSource, ObjectSource};
use proptest::prelude::*;
use std::path::Path;

const USERS: &str =
    "# ours\nann:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc=\r\n\nbob:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n";

fn object(entries: &[(&str, &str)]) -> Pem {
    let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()));
    Pem { entries: entries.collect(), ..Pem::default() }
}

fn entry(object: u32, key: &str, form: Form, or_random: bool) -> Part {
    Part::Entry(Entry { object, key: key.into(), form, or_random })
}

fn template(objects: &[&str], parts: Vec<Part>) -> Template {
    let objects = objects.iter().map(|name| ObjectSource {
        kind: "Secret".into(),
        namespace: "shop".into(),
        name: (*name).into(),
    });
    Template { objects: objects.collect(), parts }
}

fn made(parts: Vec<Part>, objects: &[Pem]) -> Result<Vec<u8>, String> {
    fill(&template(&[], parts), objects).map(|(bytes, _)| bytes).map_err(|error| error.to_string())
}

#[test]
fn users_are_read_as_envoy_reads_them_and_nothing_else_is_taken() {
    let read = |text: &str| made(vec![entry(0, "k", Form::Htpasswd, false)], &[object(&[("k", text)])]);
    let clean = "ann:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc=\nbob:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=";
    assert_eq!(read(USERS).unwrap(), clean.as_bytes());
    assert_eq!(read("# nobody any more\n").unwrap(), NOBODY.as_bytes(), "Envoy takes no empty list");
    for (text, why) in [
        ("ann", "no colon"),
        ("ann:$apr1$x$y", "not hashed by SHA-1"),
        ("ann:{SHA}short", "no SHA-1"),
        (":{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc=", "no name"),
        ("a:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc=\na:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc=", "twice"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(why), "{text:?}: {error}");
        assert!(!error.contains("0DPi") && !error.contains("ann"), "nothing of it is told: {error}");
    }
    assert_eq!(made(vec![entry(0, "k", Form::Opaque, false)], &[object(&[])]).unwrap_err(), "it has no k");
}

#[test]
fn each_entry_of_all_objects_is_a_client_and_the_first_of_a_name_counts() {
    let field = |number, part| Part::Field { number, parts: vec![part] };
    let client =
        Part::Each(vec![Part::Field { number: 1, parts: vec![field(1, Part::Value), field(2, Part::Name)] }]);
    let all = [object(&[("ann", "k1\n"), ("bob", "k2")]), object(&[("ann", "other"), ("cem", "k3")])];
    let bytes = made(vec![client.clone()], &all).unwrap();
    let expected = b"\x0a\x09\x0a\x02k1\x12\x03ann\x0a\x09\x0a\x02k2\x12\x03bob\x0a\x09\x0a\x02k3\x12\x03cem";
    assert_eq!(bytes, expected);
    for (value, why) in [("k1", "the same value"), ("two words", "no word"), ("", "no word")] {
        let wrong = [object(&[("ann", "k1")]), object(&[("bob", value)])];
        assert!(made(vec![client.clone()], &wrong).unwrap_err().contains(why));
    }
    assert!(made(vec![client], &[object(&[])]).unwrap().is_empty(), "no client is one too");
}

#[test]
fn nothing_grows_beyond_its_bound() {
    let large = object(&[("k", &"x".repeat(1 << 20))]);
    let many = |count| vec![entry(0, "k", Form::Opaque, false); count];
    assert!(made(many(4), std::slice::from_ref(&large)).is_ok());
    assert!(made(many(5), std::slice::from_ref(&large)).unwrap_err().contains("too large"));
    let inside = vec![Part::Field { number: 1, parts: many(3) }, Part::Field { number: 1, parts: many(3) }];
    assert!(made(inside, &[large]).unwrap_err().contains("too large"));
}

/// Parts of any shape, as a snapshot may hold them.
fn parts() -> impl Strategy<Value = Vec<Part>> {
    let leaf = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..300).prop_map(|bytes| Part::Bytes(bytes.into())),
        "[a-c]".prop_map(|key| entry(0, &key, Form::Opaque, false)),
    ];
    let tree = leaf.prop_recursive(6, 64, 6, |inner| {
        (1_u32..1 << 29, prop::collection::vec(inner, 0..6))
            .prop_map(|(number, parts)| Part::Field { number, parts })
    });
    prop::collection::vec(tree, 1..5)
}

/// Another way to write the same: by prost's own encoder.
fn written(parts: &[Part], entries: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    parts.iter().fold(Vec::new(), |mut out, part| {
        match part {
            Part::Bytes(bytes) => out.extend_from_slice(bytes),
            Part::Field { number, parts } => {
                prost::encoding::bytes::encode(*number, &written(parts, entries), &mut out);
            }
            Part::Entry(entry) => out.extend_from_slice(&entries[&*entry.key]),
            Part::Each(_) | Part::Name | Part::Value => unreachable!("not among them"),
        }
        out
    })
}

proptest! {
    #[test]
    fn keys_and_lengths_are_those_of_protobuf(
        parts in parts(),
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..400), 3),
    ) {
        let entries: BTreeMap<String, Vec<u8>> =
            ["a", "b", "c"].map(str::to_owned).into_iter().zip(values).collect();
        let object = Pem { entries: entries.clone(), ..Pem::default() };
        prop_assert_eq!(made(parts.clone(), &[object]).unwrap(), written(&parts, &entries));
    }

    #[test]
    fn any_entry_is_taken_or_refused(value in prop::collection::vec(any::<u8>(), 0..200)) {
        let object = Pem { entries: [("k".to_owned(), value)].into(), ..Pem::default() };
        for form in [Form::Opaque, Form::Htpasswd, Form::Word, Form::Authorities, Form::Revoked] {
            drop(made(vec![entry(0, "k", form, false)], std::slice::from_ref(&object)));
        }
        drop(made(vec![Part::Each(vec![Part::Name, Part::Value])], &[object]));
    }
}

fn binding(name: &str, kind: BindingKind, template: Template) -> Binding {
    Binding { kind, name: name.into(), source: BindingSource::Template(template) }
}

fn write(folder: &Path, name: &str, files: &[(&str, &str)]) {
    let folder = folder.join("shop").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    files.iter().for_each(|(file, text)| std::fs::write(folder.join(file), text).unwrap());
}

#[test]
fn a_value_follows_its_object_and_a_bad_one_keeps_the_last_good() {
    let folder = tempfile::tempdir().unwrap();
    let parts = vec![Part::Bytes("<".into()), entry(0, ".htpasswd", Form::Htpasswd, false)];
    let bindings = [binding("users", BindingKind::Extension, template(&["users"], parts))];
    let source = Source { folder: Some(folder.path()), ..Source::default() };
    let mut secrets = super::super::Secrets::default();
    let missing = secrets.reload(source, bindings.iter());
    assert_eq!(
        (missing.errors["users"].label(), secrets.served().len()),
        ("missing", 0),
        "nothing stands in"
    );
    let mut told = |text: &str| {
        write(folder.path(), "users", &[(".htpasswd", text)]);
        let label = secrets.reload(source, bindings.iter()).errors.get("users").map(SecretError::label);
        (label, secrets.served()["users"].bytes.clone())
    };
    let good = "ann:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc=";
    assert_eq!(told(good), (None, format!("<{good}").into()));
    assert_eq!(told("ann:plain"), (Some("form"), format!("<{good}").into()));
    let other = "ann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=";
    assert_eq!(told(other), (None, format!("<{other}").into()));
}

/// Credentials are revoked by taking them away; what is not heard of is no news.
#[test]
fn clients_that_are_taken_away_are_let_in_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let users = vec![entry(0, ".htpasswd", Form::Htpasswd, false)];
    let client = Part::Each(vec![Part::Name, Part::Value, Part::Bytes(";".into())]);
    let bindings = [
        binding("users", BindingKind::Extension, template(&["users"], users)),
        binding("keys", BindingKind::Extension, template(&["old", "new"], vec![client])),
        binding("pair", BindingKind::Secret, template(&["pair"], vec![entry(0, "key", Form::Opaque, false)])),
    ];
    let source = Source { folder: Some(folder.path()), ..Source::default() };
    let ann = "ann:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc=";
    write(folder.path(), "users", &[(".htpasswd", ann)]);
    write(folder.path(), "old", &[("ann", "1")]);
    write(folder.path(), "new", &[("bob", "2")]);
    write(folder.path(), "pair", &[("key", "k")]);
    let mut secrets = super::super::Secrets::default();
    let mut told = |source: Source<'_>| {
        let errors = secrets.reload(source, bindings.iter()).errors.into_keys();
        let text = |name: &str| String::from_utf8(secrets.served()[name].bytes.to_vec()).unwrap();
        (errors.collect::<Vec<_>>().join(" "), [text("users"), text("keys"), text("pair")])
    };
    let all = [ann, "ann1;bob2;", "k"].map(str::to_owned);
    assert_eq!(told(source), (String::new(), all.clone()));
    // An API server that tells nothing yet, and one that cannot be asked.
    let silent = crate::bind::live::Live::default();
    let nowhere = Source { live: Some(&silent), ..Source::default() };
    assert_eq!(told(nowhere).1, all);
    for name in ["users", "old", "pair"] {
        std::fs::remove_dir_all(folder.path().join("shop").join(name)).unwrap();
    }
    let left = [NOBODY, "bob2;", "k"].map(str::to_owned);
    assert_eq!(told(source), ("keys pair users".to_owned(), left), "what proves who a server is stays");
    write(folder.path(), "users", &[(".htpasswd", "")]);
    std::fs::remove_dir_all(folder.path().join("shop/new")).unwrap();
    assert_eq!(told(source).1, [NOBODY, "", "k"].map(str::to_owned));
    write(folder.path(), "users", &[(".htpasswd", ann)]);
    assert_eq!(told(source).1[0], ann);
}

#[test]
fn nobody_knows_what_stands_in_for_a_secret_and_it_goes_when_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let parts = vec![Part::Field { number: 5, parts: vec![entry(0, "hmac", Form::Opaque, true)] }];
    let bindings =
        ["one", "two"].map(|name| binding(name, BindingKind::Secret, template(&["hmac"], parts.clone())));
    let source = Source { folder: Some(folder.path()), ..Source::default() };
    let mut secrets = super::super::Secrets::default();
    let mut read = || {
        let errors = secrets.reload(source, bindings.iter()).errors.len();
        let served = |name: &str| secrets.served()[name].clone();
        (errors, served("one"), served("two"))
    };
    let (errors, one, two) = read();
    assert!(errors == 2 && one.stands_in && one.bytes != two.bytes && one.bytes.len() == 45);
    assert!(!format!("{:?}", read()).contains("Random("), "nothing of it is shown");
    assert_eq!(read().1.bytes, one.bytes, "it stays while nothing changes");
    write(folder.path(), "hmac", &[("hmac", "key")]);
    let (errors, one, _) = read();
    assert_eq!((errors, one.stands_in, &*one.bytes), (0, false, &b"\x2a\x03key"[..]));
    std::fs::remove_dir_all(folder.path().join("shop/hmac")).unwrap();
    let (errors, one, _) = read();
    assert_eq!((errors, one.stands_in, &*one.bytes), (2, false, &b"\x2a\x03key"[..]), "the last good one");
}
