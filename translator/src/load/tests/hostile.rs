//! The hostile inputs of repository and files, by row.

use super::*;
use std::fmt::Write as _;

fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    let mut text = (0..count).map(line).collect::<Vec<_>>().join("\n");
    text.push('\n');
    text
}

#[test]
fn row_1_alias_bombs_are_refused_before_they_expand() {
    let mut bomb = String::from(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\na0: &a0 [l, l, l, l, l, l, l, l, l, l]\n",
    );
    for level in 1..30 {
        let uses = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(bomb, "a{level}: &a{level} [{uses}]").unwrap();
    }
    let loaded = yaml(&bomb);
    assert_eq!(loaded.objects.len(), 0);
    let diagnostic = loaded.diagnostics.iter().next().unwrap();
    assert_eq!(diagnostic.code.id, "MG1011");
    assert!(diagnostic.message.contains("aliases"), "{}", diagnostic.message);
    // One long text, used often.
    let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 100].join(", "));
    assert_eq!(findings(&yaml(text))[0].split(' ').next(), Some("MG1011"));
}

#[test]
fn row_1_modest_aliases_are_expanded() {
    let loaded = yaml(with_spec("  a: &x {b: [1, 2]}\n  c: *x\n"));
    assert_eq!(findings(&loaded), [""; 0]);
    assert_eq!(json_of(&loaded), r#"{"a":{"b":[1,2]},"c":{"b":[1,2]}}"#);
    assert_eq!(findings(&yaml(with_spec("  a: &x [*x]\n"))), ["MG1001 7:10"]);
    // Anchors end with their document.
    assert_eq!(findings(&yaml(with_spec("  a: &x 1\n---\nb: *x\n")))[0], "MG1001 9:4");
}

#[test]
fn row_1_chains_of_aliases_cannot_pile_up_depth() {
    let mut text = String::from("a0: &a0 [x]\n");
    for level in 1..400 {
        writeln!(text, "a{level}: &a{level} [*a{}]", level - 1).unwrap();
    }
    assert_eq!(findings(&yaml(text)), ["MG1010 128:14"]);
}

#[test]
fn row_2_deep_nesting_is_refused_in_every_notation() {
    let depth = 10_000;
    let block: String = lines(depth, |level| format!("{}a:", " ".repeat(level.min(3000))));
    for text in [
        "[".repeat(depth),
        "{a: ".repeat(depth),
        "[{a: ".repeat(depth),
        "- ".repeat(depth),
        "? ".repeat(depth),
        format!("a: {}{}", "[".repeat(depth), "]".repeat(depth)),
        block,
    ] {
        let loaded = yaml(&text);
        let code = loaded.diagnostics.iter().next().map(|d| d.code.id);
        assert!(matches!(code, Some("MG1010" | "MG1013")), "{code:?} {}", &text[..20]);
    }
    for text in ["[".repeat(depth * 10), "{\"a\":".repeat(depth * 10)] {
        assert_eq!(findings(&load(&[file("a.json", text)]))[0].split(' ').next(), Some("MG1010"));
    }
    // Kubernetes' own depth is nothing special.
    let fine = format!("{ROUTE}spec: {}{}\n", "[".repeat(60), "]".repeat(60));
    assert_eq!(findings(&yaml(fine)), [""; 0]);
}

#[test]
fn row_3_duplicate_keys_name_both_lines() {
    let loaded = yaml(with_spec("  a: 1\n  b: 2\n  a: 3\n"));
    assert_eq!(findings(&loaded), ["MG1012 9:3"]);
    let diagnostic = loaded.diagnostics.iter().next().unwrap();
    assert!(diagnostic.message.contains("line 7"), "{}", diagnostic.message);
    assert_eq!((diagnostic.related[0].position.line, diagnostic.related[0].position.column), (7, 3));
    assert_eq!(diagnostic.object.as_ref().map(ToString::to_string).as_deref(), Some("HTTPRoute team/shop"));
    assert_eq!(json_of(&loaded), r#"{"a":1,"b":2}"#);
    assert_eq!(findings(&load(&[file("a.json", "{\"a\": 1,\n \"a\": 2}")])), ["MG1016 1:1", "MG1012 2:2"]);
    // Many keys take another path.
    let many: String = lines(100, |n| format!("  k{}: 0", n % 99));
    assert_eq!(findings(&yaml(with_spec(&many))), ["MG1012 106:3"]);
}

#[test]
fn row_3_a_hundred_thousand_keys_take_no_quadratic_time() {
    let many: String = lines(200_000, |n| format!("  k{n}: 0"));
    assert_eq!(findings(&yaml(with_spec(&many))), [""; 0]);
}

#[test]
fn row_4_merge_keys_tags_and_binaries_are_unsupported() {
    for line in [
        "<<: {a: 1}",
        "a: !custom 1",
        "a: !!binary aGk=",
        "a: !<tag:x> {b: c}",
        "a: !!set {b}",
        "1: a",
        "yes: a",
        "~: a",
    ] {
        let loaded = yaml(with_spec(&format!("  {line}\n")));
        assert!(findings(&loaded)[0].starts_with("MG1013 7:"), "{line}: {:?}", findings(&loaded));
    }
    for line in ["? [a]\n  : b", "[a]: b", "{a: b}: c"] {
        assert!(findings(&yaml(with_spec(&format!("  {line}\n"))))[0].starts_with("MG1013 7:"), "{line}");
    }
    let fine = yaml(with_spec("  \"<<\": 1\n  \"1\": 2\n  a: !!str 12\n  b: !!map {c: !!seq [x]}\n"));
    assert_eq!(findings(&fine), [""; 0]);
    assert_eq!(json_of(&fine), r#"{"<<":1,"1":2,"a":"12","b":{"c":["x"]}}"#);
}

#[test]
fn row_4_other_tools_may_write_what_they_like() {
    let foreign = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: x}\nspec:\n  <<: {a: 1}\n  1: 0x1F\n  b: !vault 9999999999999999999\n";
    let loaded = yaml(foreign);
    assert_eq!((findings(&loaded), names(&loaded)), (vec![], vec!["Job x".to_string()]));
    assert_eq!(findings(&yaml("on: push\njobs: !x {}\n")), ["MG1016 1:1"]);
}

#[test]
fn row_5_and_6_numbers_that_parsers_disagree_on_are_errors_and_words_keep_their_type() {
    let spec = "  a: 010\n  b: 1e3\n  c: 0x1F\n  d: 99999999999999999999\n  e: .nan\n  f: yes\n  g: ~\n  h: \"010\"\n  i: -1\n  j: 1.5\n  k: 'no'\n  l: |\n    12\n";
    let loaded = yaml(with_spec(spec));
    assert_eq!(findings(&loaded), ["MG1014 7:6", "MG1014 8:6", "MG1014 9:6", "MG1015 10:6", "MG1015 11:6"]);
    let at = |key: &str| loaded.objects[0].at(&format!("spec.{key}")).unwrap().value.clone();
    assert_eq!(at("f"), Value::Bool(true));
    assert_eq!(at("g"), Value::Null);
    assert_eq!(at("h"), Value::String("010".into()));
    assert_eq!((at("i"), at("j")), (Value::Int(-1), Value::Float(1.5)));
    assert_eq!((at("k"), at("l")), (Value::String("no".into()), Value::String("12\n".into())));
    assert_eq!(
        findings(&load(&[file("a.json", "{\"a\": 1e999, \"kind\": \"X\"}")])),
        ["MG1017 1:1", "MG1015 1:7"]
    );
}

#[test]
fn row_7_a_mark_is_stripped_with_a_warning_and_other_encodings_are_refused() {
    let loaded = yaml(format!("\u{feff}{ROUTE}"));
    assert_eq!((findings(&loaded), loaded.objects.len()), (vec!["MG1004 1:1".to_string()], 1));
    assert_eq!(loaded.diagnostics.iter().next().unwrap().severity, Severity::Warning);
    let wide: Vec<u8> = ROUTE.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(findings(&yaml(wide)), ["MG1003 1:1"]);
    assert_eq!(findings(&yaml(b"a: b\n  \xff\xfe\n")), ["MG1003 2:3"]);
}

#[test]
fn row_8_characters_that_cannot_be_seen_are_refused() {
    for (text, place) in [
        ("a: \0b", "1:4"),
        ("a: b\n# \u{1b}[2J", "2:3"),
        ("é: \u{85}", "1:4"),
        ("a: \u{7f}", "1:4"),
        ("a: b\rc: d", "1:5"),
    ] {
        assert_eq!(findings(&yaml(text)), [format!("MG1005 {place}")], "{text:?}");
    }
    // A comment that shows other code than there is: refused, and the object is still checked.
    let loaded = yaml(format!("{ROUTE}# \u{202e}x\n"));
    assert_eq!((findings(&loaded), loaded.objects.len()), (vec!["MG1005 6:3".to_string()], 1));
    for name in ["a\u{200b}b", "\"a\\u202eb\"", "\"a\\0b\"", "a\u{ad}b"] {
        let loaded = yaml(ROUTE.replace("name: shop", &format!("name: {name}")));
        assert_eq!((findings(&loaded), loaded.objects.len()), (vec!["MG1005 4:9".to_string()], 0), "{name}");
    }
    assert_eq!(findings(&yaml(with_spec("  \"a\\u200b\": 1\n"))), ["MG1005 7:3"]);
    assert_eq!(findings(&yaml(with_spec("  a: 👨\u{200d}👩 שלום\n"))), [""; 0]);
    let message = |text: &str| yaml(text).diagnostics.iter().next().unwrap().message.clone();
    assert!(!message(&ROUTE.replace("shop", "a\u{200b}b")).contains('\u{200b}'));
}

#[test]
fn row_10_line_ends_of_windows_end_marks_and_many_documents_are_accepted() {
    let text = format!("{ROUTE}...\n---\n{}\n...\n", ROUTE.replace("shop", "cart"));
    for text in [text.clone(), text.replace('\n', "\r\n")] {
        let loaded = yaml(&text);
        assert_eq!(findings(&loaded), [""; 0]);
        assert_eq!(names(&loaded), ["HTTPRoute team/shop", "HTTPRoute team/cart"]);
        assert_eq!((loaded.objects[1].origin.start.line, loaded.objects[1].origin.start.column), (8, 1));
    }
    let crlf = yaml(with_spec("  a: |\n    x\n    y\n").replace('\n', "\r\n"));
    assert_eq!(json_of(&crlf), r#"{"a":"x\ny\n"}"#);
}

#[test]
fn row_10_tabs_cannot_indent() {
    for spec in ["\ta: 1\n", "  a:\n\t  b: 1\n", "  a:\n  \tb: 1\n", "  a:\n\t- b\n", "  - a\n\t- b\n"] {
        let loaded = yaml(with_spec(spec));
        assert!(
            findings(&loaded)[0].starts_with("MG1001"),
            "{spec:?} {:?} {:?}",
            findings(&loaded),
            loaded.objects
        );
        assert!(loaded.diagnostics.iter().next().unwrap().message.contains("tab"), "{spec:?}");
    }
    let loaded = yaml(with_spec("  a: |\n    \ttab\n  b: x\ty # \t\n"));
    assert_eq!((findings(&loaded), json_of(&loaded).as_str()), (vec![], r#"{"a":"\ttab\n","b":"x\ty"}"#));
    assert_eq!(
        names(&load(&[file(
            "a.json",
            "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Service\",\n\t\"metadata\": {\"name\": \"x\"}\n}"
        )])),
        ["Service x"]
    );
}

#[test]
fn row_11_nothing_is_nothing() {
    for text in
        ["", "\n\n", "# only\n# comments", "---", "---\n---\n...\n---\n# x\n", "--- # x\n", "~\n", "null"]
    {
        assert_eq!(yaml(text), Loaded::default(), "{text:?}");
    }
    assert_eq!(load(&[file("a.json", " \n")]), Loaded::default());
    assert_eq!(load(&[]), Loaded::default());
}

#[test]
fn row_12_size_and_count_budgets() {
    let small = Limits {
        file_bytes: 1000,
        documents_per_file: 3,
        nodes_per_document: 20,
        total_nodes: 40,
        ..Limits::DEFAULT
    };
    let codes = |name: &str, text: &str| findings(&load_with(&[file(name, text)], &small));
    assert_eq!(codes("a.yaml", &"#".repeat(1001)), ["MG1011 1:1"]);
    assert_eq!(codes("a.yaml", &"--- \n".repeat(4)), ["MG1011 1:1"]);
    assert_eq!(codes("a.json", &"1 ".repeat(4))[3], "MG1011 1:7");
    assert_eq!(codes("a.yaml", &format!("a: [{}]", "1,".repeat(20))), ["MG1011 1:39"]);
    assert_eq!(codes("a.json", &format!("[{}1]", "1,".repeat(20))), ["MG1011 1:40"]);
    let three: Vec<File> =
        (0..3).map(|n| file(&format!("{n}.yaml"), format!("a: [{}]", "1,".repeat(15)))).collect();
    let loaded = load_with(&three, &small);
    let last = loaded.diagnostics.iter().last().unwrap();
    assert!(last.code.id == "MG1011" && last.message.contains("all documents"), "{last:?}");
    assert_eq!(findings(&yaml("---\n".repeat(100_000))), ["MG1011 1:1"]);
    assert_eq!(findings(&yaml("[],".repeat(1 << 20)))[0], "MG1011 1:1");
}

#[test]
fn row_13_and_14_binaries_and_pointers_are_refused() {
    assert_eq!(findings(&yaml(b"\x1f\x8b\x08\0\0\0\0\0")), ["MG1006 1:1"]);
    assert_eq!(findings(&yaml(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")), ["MG1006 1:1"]);
    assert_eq!(findings(&yaml(b"\x00\x01\x02\x03\xff\xfe")), ["MG1006 1:1"]);
    assert_eq!(
        findings(&yaml("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n")),
        ["MG1007 1:1"]
    );
}

#[test]
fn row_17_and_22_unrendered_templates_and_kustomizations_ask_to_be_rendered() {
    for text in [
        "{{- if .Values.on }}\napiVersion: v1\nkind: Service\n{{- end }}\n",
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {{ .Release.Name }}-x\n",
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {{ .Release.Name }}\n",
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: \"{{ .Release.Name }}\"\n",
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: x\n  labels:\n    {{- include \"x\" . | nindent 4 }}\n",
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../../etc/x.yaml, /abs, 'C:\\x', '%2e%2e/y']\n",
    ] {
        let loaded = yaml(text);
        assert!(findings(&loaded)[0].starts_with("MG1009"), "{text} {:?}", findings(&loaded));
        assert!(loaded.diagnostics.iter().next().unwrap().help.is_some());
        assert_eq!(loaded.objects.len(), 0);
    }
    assert_eq!(findings(&load(&[file("x/kustomization.yaml", "resources: [../x.yaml]\n")])), ["MG1009 1:1"]);
    assert_eq!(
        findings(&load(&[file("x/Chart.yaml", "apiVersion: v2\nname: x\nversion: 1.0.0\n")])),
        ["MG1009 1:1"]
    );
    // Templates of other tools inside of values are text.
    assert_eq!(findings(&yaml(with_spec("  a: '{{ $labels.x }}'\n"))), [""; 0]);
}

#[test]
fn row_23_lists_are_flattened_and_nested_lists_refused() {
    let item = |name: &str| format!("- apiVersion: v1\n  kind: Service\n  metadata:\n    name: {name}\n");
    let loaded = yaml(format!("apiVersion: v1\nkind: List\nitems:\n{}{}", item("a"), item("b")));
    assert_eq!(
        (findings(&loaded), names(&loaded)),
        (vec![], vec!["Service a".to_string(), "Service b".to_string()])
    );
    assert_eq!((loaded.objects[1].origin.start.line, loaded.objects[1].origin.start.column), (8, 3));
    let typed = yaml(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRouteList\nmetadata: {resourceVersion: \"1\"}\nitems:\n- metadata: {name: a, namespace: b}\n",
    );
    assert_eq!(names(&typed), ["HTTPRoute b/a"]);
    assert_eq!(typed.objects[0].at("kind").and_then(moorgate_model::Node::as_str), Some("HTTPRoute"));
    let nested = yaml(format!(
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: List\n  items: []\n{}",
        item("b")
    ));
    assert_eq!(
        (findings(&nested), names(&nested)),
        (vec!["MG1018 4:3".to_string()], vec!["Service b".to_string()])
    );
    assert_eq!(findings(&yaml("apiVersion: v1\nkind: List\nitems: [1]\n")), ["MG1017 3:9"]);
    assert_eq!(yaml("apiVersion: v1\nkind: List\nitems: []\n"), Loaded::default());
}

#[test]
fn row_24_encrypted_secrets_are_absent_with_a_warning() {
    let sops = "apiVersion: v1\nkind: Secret\nmetadata: {name: x, namespace: ns}\ndata:\n  a: ENC[AES256_GCM,data:xx]\nsops:\n  mac: ENC[x]\n";
    let loaded = yaml(sops);
    assert_eq!((findings(&loaded), loaded.objects.len()), (vec!["MG1019 6:1".to_string()], 0));
    assert_eq!(loaded.diagnostics.iter().next().unwrap().severity, Severity::Warning);
    let sealed = "apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nmetadata: {name: x, namespace: ns}\nspec: {encryptedData: {a: xx}}\n";
    assert_eq!(
        (findings(&yaml(sealed)), names(&yaml(sealed))),
        (vec![], vec!["SealedSecret ns/x".to_string()])
    );
}

#[test]
fn row_25_merge_conflicts_are_refused_without_costing_other_documents() {
    let conflict = with_spec("<<<<<<< HEAD\n  a: 1\n=======\n  a: 2\n>>>>>>> branch\n");
    let loaded = yaml(format!("{conflict}---\n{}", ROUTE.replace("shop", "cart")));
    assert_eq!(
        (findings(&loaded), names(&loaded)),
        (vec!["MG1008 7:1".to_string()], vec!["HTTPRoute team/cart".to_string()])
    );
    assert_eq!(findings(&yaml(with_spec("  a: |\n    <<<<<<< HEAD\n"))), [""; 0]);
}

#[test]
fn row_31_an_object_defined_twice_is_an_error_with_both_places() {
    let twice = [file("b.yaml", ROUTE.replace("/v1", "/v1beta1")), file("a.yaml", format!("# x\n{ROUTE}"))];
    let loaded = load(&twice);
    assert_eq!((findings(&loaded), loaded.objects.len()), (vec!["MG1020 4:9".to_string()], 1));
    let diagnostic = loaded.diagnostics.iter().next().unwrap();
    assert_eq!(
        (diagnostic.file.as_deref(), &*diagnostic.related[0].file, diagnostic.related[0].position.line),
        (Some("b.yaml"), "a.yaml", 2)
    );
    assert_eq!(&*loaded.objects[0].origin.file, "a.yaml");
    let bare = "apiVersion: v1\nkind: Service\nmetadata: {name: x}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: default}\n";
    // Whether these are one is known when it is known which namespace is meant by none.
    assert_eq!(findings(&yaml(bare)), [""; 0]);
    let foreign = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n";
    assert_eq!(findings(&yaml(foreign)), [""; 0]);
}
