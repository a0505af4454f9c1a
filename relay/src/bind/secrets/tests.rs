use super::*;
use crate::bind::live::Subject;
use moorgate_snapshot::ObjectSource;
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

fn at(folder: &tempfile::TempDir) -> Source<'_> {
    Source { folder: Some(folder.path()), ..Source::default() }
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
    let errors = secrets.reload(at(&folder), bindings.iter()).errors;
    let labels: Vec<_> = errors.iter().map(|(name, error)| (&**name, error.label())).collect();
    let expected = [
        ("shop/garbage", "certificate"),
        ("shop/mismatch", "mismatch"),
        ("shop/missing", "missing"),
        ("shop/no-key", "key"),
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
    assert!(secrets.reload(at(&folder), bindings.iter()).errors.is_empty());
    let before = secrets.served().clone();
    write(folder.path(), "good", &[("tls.key", &pair().1)]);
    assert_eq!(secrets.reload(at(&folder), bindings.iter()).errors.len(), 1);
    assert_eq!(secrets.served(), &before);
    let (chain, key) = pair();
    write(folder.path(), "good", &[("tls.crt", &chain), ("tls.key", &key)]);
    assert!(secrets.reload(at(&folder), bindings.iter()).errors.is_empty());
    assert_ne!(secrets.served(), &before);
    assert!(secrets.reload(at(&folder), [].iter()).errors.is_empty());
    assert!(secrets.served().is_empty());
}

/// A CA, and a certificate that it issued, with its key.
fn issued() -> (String, String, String) {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["shop.example".into()]).unwrap();
    (leaf.signed_by(&key, &issuer).unwrap().pem(), ca, key.serialize_pem())
}

#[test]
fn a_chain_leads_from_each_certificate_to_its_issuer() {
    let ((leaf, ca, key), (_, other_ca, _)) = (issued(), issued());
    let check = |chain: &str| pair::check_pair(chain.as_bytes(), key.as_bytes());
    check(&leaf).unwrap();
    check(&format!("{leaf}{ca}")).unwrap();
    // The other CA has the same name: only the signature tells.
    for (chain, at) in [(format!("{leaf}{other_ca}"), 1), (format!("{leaf}{ca}{other_ca}"), 2)] {
        let error = check(&chain).unwrap_err();
        assert!(matches!(error, SecretError::Chain(position) if position == at), "{error}");
        assert_eq!(error.label(), "chain");
    }
}

#[test]
fn the_swap_of_a_mounted_secret_is_seen_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mount = folder.path().join("shop/mounted");
    std::fs::create_dir_all(&mount).unwrap();
    // As the kubelet does it: the names are links into `..data`, a link to a generation, which is replaced in one step.
    let generation = |name: &str| {
        let (chain, key) = pair();
        std::fs::create_dir(mount.join(name)).unwrap();
        std::fs::write(mount.join(name).join("tls.crt"), &chain).unwrap();
        std::fs::write(mount.join(name).join("tls.key"), key).unwrap();
        std::os::unix::fs::symlink(name, mount.join("..data_tmp")).unwrap();
        std::fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
        chain
    };
    let first = generation("..2026_01");
    for name in ["tls.crt", "tls.key"] {
        std::os::unix::fs::symlink(Path::new("..data").join(name), mount.join(name)).unwrap();
    }
    let bindings = [binding(BindingKind::Secret, "mounted")];
    let mut secrets = Secrets::default();
    let mut chain = || {
        let errors = secrets.reload(at(&folder), bindings.iter()).errors;
        assert!(errors.is_empty(), "{errors:?}");
        let secret = Secret::decode(secrets.served()["shop/mounted"].bytes.clone()).unwrap();
        secret.tls_certificate.unwrap().certificate_chain.unwrap().inline_bytes.unwrap()
    };
    assert_eq!(chain(), first.as_bytes());
    let second = generation("..2026_02");
    assert_eq!(chain(), second.as_bytes());
    std::fs::remove_dir_all(mount.join("..2026_01")).unwrap();
    assert_eq!(chain(), second.as_bytes());
}

#[test]
fn bundles_and_names() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "ca", &[("ca.crt", &pair().0)]);
    let bindings = [binding(BindingKind::TrustBundle, "ca"), binding(BindingKind::Secret, "../../etc")];
    let mut secrets = Secrets::default();
    let errors = secrets.reload(at(&folder), bindings.iter()).errors;
    assert_eq!(errors.len(), 1);
    assert_eq!(errors["shop/../../etc"].label(), "name");
    let message = Secret::decode(secrets.served()["shop/ca"].bytes.clone()).unwrap();
    assert!(message.validation_context.is_some());
}

#[test]
fn a_cluster_tells_what_no_file_holds() {
    let folder = tempfile::tempdir().unwrap();
    let (live, (chain, key)) = (Live::default(), pair());
    let pem = |chain: &str, key: &str| Pem {
        chain: Some(chain.into()),
        key: Some(key.into()),
        bundle: Some(chain.into()),
        ..Pem::default()
    };
    write(folder.path(), "file", &[("tls.crt", &chain), ("tls.key", &key)]);
    let bindings = ["bad", "denied", "file", "good", "half", "late", "none"]
        .map(|name| binding(BindingKind::Secret, name));
    let object = |name: &str| {
        let object = Object::of(&binding(BindingKind::Secret, name).source).unwrap();
        live.begin(&Subject::Object(object.clone()));
        object
    };
    live.tell(&object("good"), Some(pem(&chain, &key)));
    live.tell(&object("bad"), Some(pem(&chain, &pair().1)));
    live.tell(&object("half"), Some(Pem { key: None, ..pem(&chain, &key) }));
    live.tell(&object("none"), None);
    live.fail(&Subject::Object(object("denied")), "403 Forbidden");
    let source = Source { folder: Some(folder.path()), late: None, live: Some(&live) };
    let mut secrets = Secrets::default();
    let reloaded = secrets.reload(source, bindings.iter());
    let labels: Vec<_> = reloaded.errors.iter().map(|(name, error)| (&**name, error.label())).collect();
    let expected = [
        ("shop/bad", "mismatch"),
        ("shop/denied", "unreadable"),
        ("shop/half", "incomplete"),
        ("shop/none", "missing"),
    ];
    assert_eq!(labels, expected);
    assert_eq!(reloaded.pending, ["shop/late".into()].into());
    assert_eq!(secrets.served().keys().map(|name| &**name).collect::<Vec<_>>(), ["shop/file", "shop/good"]);
    let before = secrets.served().clone();
    live.tell(&object("good"), None);
    let reloaded = secrets.reload(source, bindings.iter());
    assert_eq!(reloaded.errors["shop/good"].label(), "missing");
    assert_eq!(secrets.served(), &before, "the last good one is served on");
    assert!(!format!("{secrets:?} {reloaded:?} {live:?}").contains("PRIVATE"));
}

#[test]
fn several_bundles_are_one_and_each_keeps_its_own_last_good_state() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (pair().0, pair().0);
    write(folder.path(), "a", &[("ca.crt", a.trim_end())]);
    let object = |kind: &str, namespace: &str, name: &str| ObjectSource {
        kind: kind.into(),
        namespace: namespace.into(),
        name: name.into(),
    };
    let objects =
        vec![object("ClusterTrustBundle", "", "example.com:b:roots"), object("ConfigMap", "shop", "a")];
    let name: Arc<str> = "ClusterTrustBundle//example.com:b:roots+ConfigMap/shop/a".into();
    let source = BindingSource::Objects(objects);
    let bindings = [Binding { kind: BindingKind::TrustBundle, name: Arc::clone(&name), source }];
    let mut secrets = Secrets::default();
    let bundle = |secrets: &Secrets| {
        let secret = Secret::decode(secrets.served()[&name].bytes.clone()).unwrap();
        let bytes = secret.validation_context.unwrap().trusted_ca.unwrap().inline_bytes.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    };
    // Of two, one is there: it is served, and the other is said to be missing.
    assert_eq!(secrets.reload(at(&folder), bindings.iter()).errors[&name].label(), "missing");
    assert_eq!(bundle(&secrets), format!("{}\n", a.trim_end()));
    let roots = folder.path().join("example.com:b:roots");
    std::fs::create_dir(&roots).unwrap();
    std::fs::write(roots.join("ca.crt"), &b).unwrap();
    assert!(secrets.reload(at(&folder), bindings.iter()).errors.is_empty());
    assert_eq!(bundle(&secrets), format!("{b}{}\n", a.trim_end()));
    // A part that goes bad stays as it was, and the other one changes on.
    std::fs::write(roots.join("ca.crt"), "garbage").unwrap();
    let c = pair().0;
    write(folder.path(), "a", &[("ca.crt", &c)]);
    assert_eq!(secrets.reload(at(&folder), bindings.iter()).errors[&name].label(), "certificate");
    assert_eq!(bundle(&secrets), format!("{b}{c}"));
    // Nothing of a name that is no more wanted is remembered.
    secrets.reload(at(&folder), [].iter());
    let empty = tempfile::tempdir().unwrap();
    secrets.reload(at(&empty), bindings.iter());
    assert!(secrets.served().is_empty());
}
