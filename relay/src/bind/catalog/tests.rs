use super::*;

const SLICE: &str = r"
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: cart-1, namespace: shop, labels: { kubernetes.io/service-name: cart } }
addressType: IPv4
ports: [{ name: http, port: 3000 }, { name: metrics, port: 9090 }, { name: dns, port: 53, protocol: UDP }]
endpoints:
  - { addresses: [10.0.0.2], zone: b, conditions: { ready: true } }
  - { addresses: [10.0.0.1] }
  - { addresses: [10.0.0.3], conditions: { ready: false, serving: true, terminating: true } }
  - { addresses: [10.0.0.4], conditions: { ready: false, serving: false, terminating: true } }
  - { addresses: [10.0.0.5], conditions: { ready: false } }
";

fn catalog(files: &[(&str, &str)]) -> (tempfile::TempDir, Catalog, Vec<CatalogError>) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let mut catalog = Catalog::default();
    let errors = catalog.reload(folder.path());
    (folder, catalog, errors)
}

fn addresses(catalog: &Catalog, port_name: &str) -> Vec<(String, Health)> {
    let found = catalog.endpoints("shop", "cart", port_name, 8080).unwrap();
    found.into_iter().map(|endpoint| (endpoint.address.to_string(), endpoint.health)).collect()
}

#[test]
fn slices_are_read_by_port_name_with_health() {
    let (_folder, catalog, errors) = catalog(&[("a.yaml", SLICE)]);
    assert!(errors.is_empty(), "{errors:?}");
    let expected = [
        ("10.0.0.1:3000".to_owned(), Health::Healthy),
        ("10.0.0.2:3000".to_owned(), Health::Healthy),
        ("10.0.0.3:3000".to_owned(), Health::Draining),
        ("10.0.0.5:3000".to_owned(), Health::Unhealthy),
    ];
    assert_eq!(addresses(&catalog, "http"), expected);
    assert_eq!(addresses(&catalog, "dns")[0].0, "10.0.0.1:53");
    assert_eq!(addresses(&catalog, "other"), []);
    assert_eq!(catalog.endpoints("shop", "pay", "http", 8080), None);
}

#[test]
fn static_sets_and_lists() {
    let json = r#"{"kind":"EndpointSliceList","items":[{"metadata":{"name":"x","namespace":"shop",
        "labels":{"kubernetes.io/service-name":"cart"}},"ports":[{"name":"http","port":1}],
        "endpoints":[{"addresses":["10.1.0.1"]}]}]}"#;
    let sets = "endpoints:\n- { service: shop/cart, port: 8080, addresses: ['127.0.0.1:81', '[2001:db8::1]:82'], weight: 3 }\n";
    let (_folder, catalog, errors) = catalog(&[("a.json", json), ("b.yml", sets), ("c.txt", "not read")]);
    assert!(errors.is_empty(), "{errors:?}");
    let expected =
        ["10.1.0.1:1", "127.0.0.1:81", "[2001:db8::1]:82"].map(|text| (text.to_owned(), Health::Healthy));
    assert_eq!(addresses(&catalog, "http"), expected);
}

#[test]
fn a_broken_file_keeps_what_it_told_and_costs_no_neighbour() {
    let other = SLICE.replace("cart", "pay");
    let (folder, mut catalog, _) = catalog(&[("a.yaml", SLICE), ("b.yaml", &other)]);
    std::fs::write(folder.path().join("a.yaml"), "kind: EndpointSlice\nmetadata: [").unwrap();
    std::fs::remove_file(folder.path().join("b.yaml")).unwrap();
    let errors = catalog.reload(folder.path());
    assert_eq!(errors.len(), 1);
    assert!(errors[0].to_string().contains("a.yaml"), "{}", errors[0]);
    assert_eq!(addresses(&catalog, "http").len(), 4);
    assert_eq!(catalog.endpoints("shop", "pay", "http", 8080), None);
    std::fs::remove_dir_all(folder.path()).unwrap();
    assert_eq!(catalog.reload(folder.path()).len(), 1);
    assert_eq!(addresses(&catalog, "http").len(), 4);
}

#[test]
fn hostile_documents_are_errors() {
    for text in [
        "endpoints: [{ service: cart, addresses: [] }]",
        "endpoints: [{ service: a/b, addresses: ['example.com:80'] }]",
        "endpoints: [{ service: a/b, addresses: ['10.0.0.1:0'] }]",
        "endpoints: [{ service: a/b, addresses: [], weight: 0 }]",
        "endpoints: [{ service: a/b, addresses: [], typo: 1 }]",
        "kind: EndpointSlice\nmetadata: { name: a, labels: { kubernetes.io/service-name: b } }",
        "\u{0}",
    ] {
        let (_folder, _, errors) = catalog(&[("a.yaml", text)]);
        assert_eq!(errors.len(), 1, "{text}");
    }
}
