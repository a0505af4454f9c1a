//! Places, isolation of documents, Secrets and origins.

use super::*;

#[test]
fn every_value_knows_its_place_in_characters() {
    let loaded = yaml(with_spec(
        "  hostnames:\n  - \"é.example.com\"\n  rules:\n    - matches: [{path: {value: /x}}]\n      text: |\n        a\n        b\n\n  # end\n  empty:\n",
    ));
    assert_eq!(findings(&loaded), [""; 0]);
    let root = &loaded.objects[0].root;
    let span = |path: &str| {
        let span = root.at(&FieldPath::parse(path)).unwrap().span;
        [span.start.line, span.start.column, span.end.line, span.end.column]
    };
    assert_eq!(span("spec.hostnames[0]"), [8, 5, 8, 20]);
    assert_eq!(span("spec.rules[0].matches[0].path.value"), [10, 32, 10, 34]);
    assert_eq!(span("spec.rules[0].matches[0].path"), [10, 24, 10, 35]);
    assert_eq!(span("spec.rules[0].matches"), [10, 16, 10, 37]);
    assert_eq!(span("spec.rules[0]")[..2], [10, 7]);
    assert_eq!(span("spec.rules[0].text")[..4], [12, 9, 15, 3]);
    assert_eq!(span("spec.empty"), [16, 8, 16, 8]);
    assert_eq!(root.locate(&FieldPath::parse("spec.rules")).start.line, 9);
}

#[test]
fn a_broken_document_costs_no_other() {
    let broken = [
        "spec: [\n",
        "a: \"open\n",
        "a: 'x\n\n",
        "a: b: c\n",
        "%BAD\nx\n",
        "a: |\n x\ny\n",
        "*x\n",
        "{a: [b}\n",
        "a: @x\n",
    ];
    for text in broken {
        let loaded = yaml(format!("{ROUTE}---\n{text}---\n{}", ROUTE.replace("shop", "cart")));
        assert_eq!(names(&loaded), ["HTTPRoute team/shop", "HTTPRoute team/cart"], "{text:?}");
        assert_eq!(loaded.diagnostics.len(), 1, "{text:?} {:?}", findings(&loaded));
        let line = loaded.diagnostics.iter().next().unwrap().span.start.line;
        let lines = u32::try_from(text.lines().count()).unwrap();
        assert!((6..=7 + lines).contains(&line), "{text:?} {:?}", findings(&loaded));
        let last = &loaded.objects[1].origin;
        assert_eq!(last.start.line, 8 + lines, "{text:?}");
    }
}

#[test]
fn what_an_object_lacks_is_said_at_its_place() {
    let cases = [
        ("kind: Gateway\nmetadata: {name: x}\n", "MG1017 1:1"),
        ("apiVersion: gateway.networking.k8s.io/v1\nmetadata: {name: x}\n", "MG1017 1:1"),
        ("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n", "MG1017 1:1"),
        (
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  namespace: x\n",
            "MG1017 3:1",
        ),
        (
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  generateName: x-\n",
            "MG1017 4:17",
        ),
        ("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: 12\n", "MG1017 4:9"),
        (
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: x\n  namespace: on\n",
            "MG1017 5:14",
        ),
        ("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: x\n", "MG1017 3:11"),
        ("apiVersion: gateway.networking.k8s.io/v1\nkind: [x]\nmetadata: {name: x}\n", "MG1017 2:7"),
        ("kind HTTPRoute\n", "MG1017 1:1"),
        ("- hosts: all\n", "MG1016 1:1"),
        ("image: x\n", "MG1016 1:1"),
    ];
    for (text, expected) in cases {
        let loaded = yaml(text);
        assert_eq!((findings(&loaded), loaded.objects.len()), (vec![expected.to_string()], 0), "{text}");
    }
    let values = load(&[file("chart/values.yaml", "image: x\n")]);
    assert!(
        values
            .diagnostics
            .iter()
            .next()
            .unwrap()
            .help
            .as_deref()
            .is_some_and(|help| help.contains("helm template"))
    );
    let kubeconfig = "apiVersion: v1\nkind: Config\nusers:\n- user: {client-key-data: c2VjcmV0}\n";
    let loaded = yaml(kubeconfig);
    assert_eq!((findings(&loaded), loaded.redacted.len()), (vec![], 1));
}

const SECRET: &str = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: tls\n  annotations:\n    kubectl.kubernetes.io/last-applied-configuration: '{\"data\":{\"tls.key\":\"CANARY\"}}'\ndata:\n  tls.crt: Q0VSVA==\n  tls.key: CANARY\n  odd: [CANARY, {x: CANARY}]\n  m: 424242\nstringData:\n  password: |\n    CANARY\n    CANARY\n";

#[test]
fn secrets_keep_their_keys_and_lose_their_values() {
    let other = ROUTE.replace('\n', "\n  ");
    for (text, lines) in [
        (SECRET.to_string(), (1, 15)),
        (format!("---\n{SECRET}---\n{ROUTE}"), (1, 16)),
        (
            format!("apiVersion: v1\nkind: List\nitems:\n- {}\n- {other}\n", SECRET.replace('\n', "\n  ")),
            (4, 18),
        ),
    ] {
        let loaded = yaml(&text);
        assert_eq!(findings(&loaded), [""; 0]);
        let debug = format!("{:?}", loaded.objects);
        assert!(!debug.contains("CANARY") && !debug.contains("424242"), "{debug}");
        assert!(debug.contains("Q0VSVA==") && debug.contains("tls.key"));
        let (first, last) = loaded.redacted["a.yaml"][0];
        assert!(first <= lines.0 && last >= lines.1, "{first} {last}");
        if loaded.objects.len() > 1 {
            let route = &loaded.objects[1].origin;
            assert!(last < route.start.line, "{last}");
        }
    }
    let whole = yaml("apiVersion: v1\nkind: Secret\nmetadata: {name: x}\ndata: CANARY\n");
    assert!(!format!("{:?}", whole.objects).contains("CANARY"));
}

#[test]
fn messages_and_quoted_lines_never_show_what_may_be_a_secret() {
    for text in [
        format!("{SECRET}bad: [\n"),
        format!("{SECRET}  pin: 99999999999999999999\n  oct: 0777\n  t: !CANARY2 x\n"),
        format!("{SECRET}<<<<<<< CANARY\n"),
        SECRET.replace("CANARY\n  odd", "\u{1b}CANARY\n  odd"),
        SECRET.replace('\n', "\n\t"),
        "{\"kind\": \"Secret\", \"data\": {\"a\": \"CANARY".to_string(),
        "apiVersion: v1\nkind: Secret\nmetadata: {name: 12}\ndata: {a: CANARY}\n".to_string(),
        "password: CANARY\n".to_string(),
        "- CANARY\n".to_string(),
        "CANARY\n".to_string(),
    ] {
        let loaded = yaml(&text);
        assert!(!loaded.diagnostics.is_empty(), "{text}");
        for diagnostic in &loaded.diagnostics {
            let shown = serde_json::to_string(diagnostic).unwrap().replace("CANARY2", "");
            assert!(!shown.contains("CANARY") && !shown.contains("99999"), "{shown}");
            let line = diagnostic.span.start.line;
            let hidden =
                loaded.redacted["a.yaml"].iter().any(|(first, last)| (*first..=*last).contains(&line));
            assert!(hidden, "{text}\n{diagnostic:?}\n{:?}", loaded.redacted);
        }
    }
}

#[test]
fn rendered_output_keeps_its_origin() {
    let helm = format!("---\n# Source: shop/templates/route.yaml\n{ROUTE}");
    let from = |text: &str| yaml(text).objects[0].origin.rendered_from.clone();
    assert_eq!(from(&helm).as_deref(), Some("shop/templates/route.yaml"));
    let annotated =
        |lines: &str| ROUTE.replace("  name: shop\n", &format!("  name: shop\n  annotations:\n{lines}"));
    let origin = annotated(
        "    config.kubernetes.io/origin: |\n      path: ../base/route.yaml\n      repo: https://example.com/x\n      ref: v1\n",
    );
    assert_eq!(from(&origin).as_deref(), Some("https://example.com/x@v1:../base/route.yaml"));
    let path = annotated("    internal.config.kubernetes.io/path: 'base/route.yaml'\n");
    assert_eq!(from(&path).as_deref(), Some("base/route.yaml"));
    assert_eq!(from(ROUTE), None);
}

#[test]
fn json_and_yaml_give_the_same_object() {
    let json = r#"{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"shop","namespace":"team"},"spec":{"a":[1,true,null,"x"]}}"#;
    let flow = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: shop, namespace: team}, spec: {a: [1, true, ~, x]}}";
    let plain = |loaded: &Loaded| serde_json::to_string(&loaded.objects[0].root.to_json()).unwrap();
    for (name, text) in [("a.json", json), ("a.yaml", json), ("-", json), ("a.yaml", flow)] {
        let loaded = load(&[file(name, text)]);
        assert_eq!((findings(&loaded), plain(&loaded).as_str()), (vec![], json), "{name} {text}");
    }
    let two = format!("{json}\n---\n{}", json.replace("shop", "cart"));
    assert_eq!(names(&yaml(two)), ["HTTPRoute team/shop", "HTTPRoute team/cart"]);
    let stream = format!("{json}\n{}", json.replace("shop", "cart"));
    assert_eq!(names(&load(&[file("-", stream)])), ["HTTPRoute team/shop", "HTTPRoute team/cart"]);
}

#[test]
fn the_order_of_files_does_not_matter() {
    let mut files: Vec<File> =
        (0..5).map(|n| file(&format!("{n}.yaml"), ROUTE.replace("shop", &format!("r{}", n % 3)))).collect();
    let expected = load(&files);
    assert_eq!(expected.diagnostics.len(), 2);
    for _ in 0..files.len() {
        files.rotate_left(1);
        assert_eq!(load(&files), expected);
    }
}
