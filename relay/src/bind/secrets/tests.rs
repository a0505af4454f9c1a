use super::*;
use rcgen::{CertifiedKey, generate_simple_self_signed};

fn binding(kind: BindingKind, name: &str) -> Binding {
    let source = BindingSource::Object { kind: "Secret".into(), namespace: "shop".into(), name: name.into() };
    Binding { kind, name: format!("shop/{name}").into(), source }
}

fn write(folder: &Path, name: &str, files: &[(&str, &str)]) {
    let folder = folder.join("shop").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    for (file, text) in files {
        std::fs::write(folder.join(file), text).unwrap();
    }
}

fn pair() -> (String, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["shop.example.com".into()]).unwrap();
    (cert.pem(), signing_key.serialize_pem())
}

#[test]
fn a_good_pair_is_served_and_a_bad_one_costs_only_itself() {
    let folder = tempfile::tempdir().unwrap();
    let ((chain, key), (_, other_key)) = (pair(), pair());
    write(folder.path(), "good", &[("tls.crt", &chain), ("tls.key", &key)]);
    write(folder.path(), "mismatch", &[("tls.crt", &chain), ("tls.key", &other_key)]);
    write(folder.path(), "garbage", &[("tls.crt", "x"), ("tls.key", &key)]);
    write(folder.path(), "no-key", &[("tls.crt", &chain), ("tls.key", "x")]);
    let bindings =
        ["good", "mismatch", "garbage", "no-key", "missing"].map(|name| binding(BindingKind::Secret, name));
    let mut secrets = Secrets::default();
    let errors = secrets.reload(folder.path(), bindings.iter());
    let labels: Vec<_> = errors.iter().map(|(name, error)| (&**name, error.label())).collect();
    let expected = [
        ("shop/mismatch", "mismatch"),
        ("shop/garbage", "certificate"),
        ("shop/no-key", "key"),
        ("shop/missing", "missing"),
    ];
    assert_eq!(labels, expected);
    let served: Vec<_> = secrets.served().keys().map(|name| &**name).collect();
    assert_eq!(served, ["shop/good"]);
    let message = Secret::decode(secrets.served()["shop/good"].bytes.clone()).unwrap();
    assert_eq!(message.name, "shop/good");
    assert!(!format!("{message:?} {secrets:?} {errors:?}").contains("PRIVATE"));
}

#[test]
fn a_pair_that_goes_bad_keeps_the_last_good_one() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = pair();
    write(folder.path(), "good", &[("tls.crt", &chain), ("tls.key", &key)]);
    let bindings = [binding(BindingKind::Secret, "good")];
    let mut secrets = Secrets::default();
    assert!(secrets.reload(folder.path(), bindings.iter()).is_empty());
    let before = secrets.served().clone();
    write(folder.path(), "good", &[("tls.key", &pair().1)]);
    assert_eq!(secrets.reload(folder.path(), bindings.iter()).len(), 1);
    assert_eq!(secrets.served(), &before);
    let (chain, key) = pair();
    write(folder.path(), "good", &[("tls.crt", &chain), ("tls.key", &key)]);
    assert!(secrets.reload(folder.path(), bindings.iter()).is_empty());
    assert_ne!(secrets.served(), &before);
    assert!(secrets.reload(folder.path(), [].iter()).is_empty());
    assert!(secrets.served().is_empty());
}

#[test]
fn bundles_and_names() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "ca", &[("ca.crt", &pair().0)]);
    let bindings = [binding(BindingKind::TrustBundle, "ca"), binding(BindingKind::Secret, "../../etc")];
    let mut secrets = Secrets::default();
    let errors = secrets.reload(folder.path(), bindings.iter());
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].1.label(), "name");
    let message = Secret::decode(secrets.served()["shop/ca"].bytes.clone()).unwrap();
    assert!(message.validation_context.is_some());
}
