use super::*;
use crate::bind::catalog::{Health as EndpointHealth, Port};
use moorgate_snapshot::{Binding, BindingKind, BindingSource, EndpointSource, Family, ObjectSource};

fn slice(name: &str, service: &str, addresses: &[&str]) -> Slice {
    let endpoint = |text: &&str| Endpoint {
        address: text.parse().unwrap(),
        zone: String::new(),
        health: EndpointHealth::Healthy,
        weight: 1,
    };
    let set =
        PortSet { port: Port::Name("http".into()), endpoints: addresses.iter().map(endpoint).collect() };
    Slice { name: name.into(), service: service.into(), sets: vec![set] }
}

fn live() -> (Live, Arc<str>) {
    let (live, namespace): (_, Arc<str>) = (Live::default(), "shop".into());
    let services = BTreeMap::from([(Arc::clone(&namespace), ["cart".into()].into())]);
    live.want("shop/edge", Wants { services, objects: [].into() });
    live.begin(&Subject::Slices(Arc::clone(&namespace)));
    (live, namespace)
}

fn addresses(live: &Live, service: &str) -> Option<Vec<String>> {
    let found = live.endpoints("shop", service, "http", 80)?;
    Some(found.iter().map(|endpoint| endpoint.address.to_string()).collect())
}

fn object(name: &str) -> Object {
    Object { kind: Kind::Secret, namespace: "shop".into(), name: name.into() }
}

#[test]
fn all_slices_of_a_service_are_merged_and_nothing_is_told_before_the_first_list() {
    let (live, shop) = live();
    assert_eq!(addresses(&live, "cart"), None);
    assert_eq!(live.apply(&shop, slice("a", "cart", &["10.0.0.1:1"])), Ok(()));
    assert_eq!(addresses(&live, "cart"), None, "a watch that told before the list is no list");
    live.list(&shop, vec![slice("a", "cart", &["10.0.0.2:1"]), slice("b", "cart", &["10.0.0.1:1"])]).unwrap();
    assert_eq!(addresses(&live, "cart").unwrap(), ["10.0.0.1:1", "10.0.0.2:1"]);
    assert_eq!(addresses(&live, "pay").unwrap(), [""; 0]);
    live.delete(&shop, "a");
    live.delete(&shop, "never-there");
    assert_eq!(addresses(&live, "cart").unwrap(), ["10.0.0.1:1"]);
    live.apply(&shop, slice("b", "pay", &["10.0.0.1:1"])).unwrap();
    assert_eq!(addresses(&live, "cart").unwrap(), [""; 0], "the slice changed hands");
    assert_eq!(addresses(&live, "pay").unwrap(), ["10.0.0.1:1"]);
}

#[test]
fn only_changes_of_wanted_services_ring() {
    let (live, shop) = live();
    let mut ticks = live.ticks();
    let mut rings = || {
        let rings = ticks.has_changed().unwrap();
        ticks.mark_unchanged();
        rings
    };
    live.list(&shop, vec![slice("a", "cart", &["10.0.0.1:1"]), slice("b", "pay", &[])]).unwrap();
    assert!(rings());
    let (cart, pay) = (live.changed("shop", "cart"), live.changed("shop", "pay"));
    live.apply(&shop, slice("b", "pay", &["10.0.0.9:1"])).unwrap();
    assert!(!rings(), "nobody wants pay");
    assert!(live.changed("shop", "pay") > pay && live.changed("shop", "cart") == cart);
    live.apply(&shop, slice("a", "cart", &["10.0.0.1:1"])).unwrap();
    assert!(!rings(), "nothing changed");
    live.list(&shop, vec![slice("a", "cart", &["10.0.0.1:1"]), slice("b", "pay", &[])]).unwrap();
    assert!(!rings() && live.changed("shop", "cart") == cart, "listed again: the same");
    live.list(&shop, Vec::new()).unwrap();
    assert!(rings() && live.changed("shop", "cart") > cart);
}

#[test]
fn what_was_told_stays_while_a_watch_fails_and_goes_with_it() {
    let (live, shop) = live();
    let subject = Subject::Slices(Arc::clone(&shop));
    live.list(&shop, vec![slice("a", "cart", &["10.0.0.1:1"])]).unwrap();
    assert!(live.fail(&subject, "403"));
    assert!(!live.fail(&subject, "403"), "told once");
    assert_eq!(addresses(&live, "cart").unwrap(), ["10.0.0.1:1"]);
    let failing = [("endpointslices of shop".to_owned(), "403".to_owned())].into();
    assert_eq!(live.watches(), Watches { total: 1, synced: 1, failing });
    assert!(live.work(&subject) && live.watches().failing.is_empty());
    live.forget(&subject);
    assert_eq!(addresses(&live, "cart"), None);
}

#[test]
fn more_endpoints_than_are_kept_change_nothing() {
    let (live, shop) = live();
    live.list(&shop, vec![slice("a", "cart", &["10.0.0.1:1"])]).unwrap();
    let many = vec!["10.0.0.1:1"; MAX_ENDPOINTS];
    assert_eq!(live.apply(&shop, slice("b", "cart", &many)), Err(Crowded));
    assert_eq!(
        live.list(&shop, vec![slice("b", "cart", &many), slice("c", "cart", &["10.0.0.1:1"])]),
        Err(Crowded)
    );
    assert_eq!(addresses(&live, "cart").unwrap(), ["10.0.0.1:1"]);
    assert_eq!(live.apply(&shop, slice("a", "cart", &many)), Ok(()), "as many as fit");
}

#[test]
fn objects_are_pending_then_known_and_a_failure_takes_nothing_back() {
    let live = Live::default();
    let (good, denied) = (object("good"), object("denied"));
    for object in [&good, &denied] {
        assert_eq!(live.object(object), Answer::Pending);
        live.begin(&Subject::Object(object.clone()));
    }
    let pem = Pem { key: Some(b"secret".to_vec()), ..Pem::default() };
    live.tell(&good, Some(pem.clone()));
    for object in [&good, &denied] {
        live.fail(&Subject::Object(object.clone()), "403");
    }
    assert_eq!(live.object(&good), Answer::Found(Arc::new(pem)));
    assert_eq!(live.object(&denied), Answer::Failed("403".into()));
    assert!(!format!("{live:?}").contains("secret\""));
    live.tell(&denied, None);
    assert_eq!(live.object(&denied), Answer::Absent);
}

#[test]
fn bindings_want_exactly_their_services_and_objects() {
    let endpoints = |namespace: &str, service: &str, hostname: &str, addresses: &[&str]| EndpointSource {
        namespace: namespace.into(),
        service: service.into(),
        port_name: "http".into(),
        port: 80,
        family: Family::Any,
        weight: 1,
        hostname: hostname.into(),
        addresses: addresses.iter().map(|address| (*address).into()).collect(),
    };
    let object = |kind: &str, namespace: &str, name: &str| BindingSource::Object {
        kind: kind.into(),
        namespace: namespace.into(),
        name: name.into(),
    };
    let sources = vec![
        endpoints("shop", "cart", "", &[]),
        endpoints("pay", "api", "", &[]),
        endpoints("shop", "far", "example.com", &[]),
        endpoints("shop", "fixed", "", &["10.0.0.1:1"]),
        endpoints("../secrets", "x", "", &[]),
        endpoints("shop", "a?b", "", &[]),
    ];
    let joined = [("ConfigMap", "shop", "more"), ("ConfigMap", "", "none")]
        .map(|(kind, namespace, name)| ObjectSource {
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
        })
        .into();
    let bindings: Vec<Binding> = [
        BindingSource::Endpoints(sources),
        object("Secret", "shop", "tls"),
        object("Secret", "shop", "../other"),
        object("Secret", "", "none"),
        object("ConfigMap", "shop", "ca"),
        object("ClusterTrustBundle", "", "example.com:signer:ca"),
        object("Pod", "shop", "x"),
        BindingSource::Objects(joined),
    ]
    .into_iter()
    .map(|source| Binding { kind: BindingKind::Secret, name: "x".into(), source })
    .collect();
    let wants = Wants::of(bindings.iter());
    let services: Vec<_> = wants.services.iter().map(|(n, s)| format!("{n}: {s:?}")).collect();
    assert_eq!(services, [r#"pay: {"api"}"#, r#"shop: {"cart"}"#]);
    let objects: Vec<_> = wants.objects.iter().map(ToString::to_string).collect();
    assert_eq!(
        objects,
        [
            "secret shop/tls",
            "configmap shop/ca",
            "configmap shop/more",
            "clustertrustbundle example.com:signer:ca"
        ]
    );
}
