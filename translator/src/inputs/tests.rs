mod fetch;

use super::write::{FILE, Stored, files};
use super::*;
use crate::load::load;
use crate::source::File;

const PROVIDER: &str =
    r#"{"token_endpoint":"https://idp.example/t","issuer":"https://idp.example","name":"é\u202e"}"#;

fn stored(entries: &[(&str, &str, InputKind, &[u8])]) -> BTreeMap<write::Key, Stored> {
    let one = |(namespace, url, kind, bytes): &(&str, &str, InputKind, &[u8])| {
        let kept = content::kept(*kind, bytes).unwrap();
        (((*namespace).to_owned(), (*url).to_owned()), Stored::new(kept))
    };
    entries.iter().map(one).collect()
}

fn objects(files: BTreeMap<String, String>) -> Vec<Object> {
    let file = |(name, text): (String, String)| File { name: name.into(), bytes: text.into_bytes().into() };
    let files: Vec<File> = files.into_iter().map(file).collect();
    let loaded = load(&files);
    assert!(loaded.diagnostics.is_empty(), "{:?}", loaded.diagnostics);
    let (objects, found) = crate::validate::validate(loaded.objects, &crate::validate::Options::default());
    assert!(found.is_empty(), "{found:?}");
    objects
}

#[test]
fn what_is_written_is_read_again() {
    let wasm: Vec<u8> = b"\0asm\x01\0\0\0".iter().copied().chain((0..=255).cycle().take(3000)).collect();
    let module = "oci://registry.example:5000/filters/add:v1";
    let all = stored(&[
        (
            "shop",
            "https://idp.example/.well-known/openid-configuration",
            InputKind::Discovery,
            PROVIDER.as_bytes(),
        ),
        ("true", "https://idp.example/keys?a=\"b\"", InputKind::Keys, br#"{"keys":[{"kty":"oct"}]}"#),
        ("shop", module, InputKind::Wasm, &wasm),
    ]);
    let files = files(&all);
    assert_eq!(files.len(), 2, "{files:?}");
    assert!(files.keys().all(|name| write::is_own(name)) && !write::is_own("moorgate-inputs-other.yaml"));
    let text = &files[FILE];
    assert!(text.contains("\"issuer\": \"https://idp.example\"") && text.is_ascii(), "{text}");
    let read = objects(files.clone());
    assert_eq!(read.len(), 3);
    for object in &read {
        let url = url(object).unwrap();
        let kind = match url {
            _ if url == module => InputKind::Wasm,
            _ if url.contains("keys") => InputKind::Keys,
            _ => InputKind::Discovery,
        };
        let input = super::read(object, kind).unwrap();
        let wanted = &all[&(object.reference.namespace.to_string(), url.to_owned())];
        assert_eq!((&input.digest, &input.bytes), (&wanted.digest, &wanted.bytes));
    }
    assert!(super::read(&read[0], InputKind::Wasm).is_err());
}

#[test]
fn a_content_that_somebody_edited_is_not_used() {
    let all = stored(&[("shop", "https://idp.example/d", InputKind::Discovery, PROVIDER.as_bytes())]);
    let text = files(&all)[FILE].replace("https://idp.example/t", "https://thief.example/t");
    let read = objects(BTreeMap::from([(FILE.to_owned(), text)]));
    let wrong = super::read(&read[0], InputKind::Discovery).unwrap_err();
    assert_eq!(wrong.field.to_string(), "spec.digest");
}

#[test]
fn json_is_written_anew_and_junk_is_refused() {
    let kept = |kind, text: &str| content::kept(kind, text.as_bytes());
    let one = kept(InputKind::Keys, r#"{"b":1,"keys":[{}],"a":"é"}"#).unwrap();
    assert_eq!(one, kept(InputKind::Keys, "{\n \"a\": \"\\u00e9\", \"keys\":[ {} ], \"b\": 1 }").unwrap());
    assert_eq!(std::str::from_utf8(&one).unwrap().lines().nth(1), Some("  \"a\": \"\\u00e9\","));
    for (kind, text) in [
        (InputKind::Keys, "{}"),
        (InputKind::Keys, r#"{"keys": []}"#),
        (InputKind::Keys, "<html>"),
        (InputKind::Discovery, r#"{"issuer": ""}"#),
        (InputKind::Discovery, "[]"),
        (InputKind::Wasm, "\0as"),
        (InputKind::Keys, &format!(r#"{{"keys":[{{}}],"a":"{}"}}"#, "x".repeat(300_000))),
        (InputKind::Keys, &"[".repeat(10_000)),
    ] {
        assert!(kept(kind, text).is_err(), "{kind:?} {text:.40}");
    }
}
