//! Any bytes are survived, and trees that are written are read back.

use super::*;
use moorgate_model::Node;
use proptest::prelude::*;
use std::fmt::Write as _;

/// A tree without places.
#[derive(Debug, Clone, PartialEq)]
enum Tree {
    Null,
    Bool(bool),
    Int(i64),
    Text(String),
    List(Vec<Tree>),
    Fields(Vec<(String, Tree)>),
}

fn tree_of(node: &Node) -> Tree {
    match &node.value {
        Value::Null => Tree::Null,
        Value::Bool(value) => Tree::Bool(*value),
        Value::Int(value) => Tree::Int(*value),
        Value::Float(value) => Tree::Text(format!("float {value}")),
        Value::String(value) => Tree::Text(value.to_string()),
        Value::Sequence(items) => Tree::List(items.iter().map(tree_of).collect()),
        Value::Mapping(fields) => Tree::Fields(
            fields.entries().iter().map(|entry| (entry.key.to_string(), tree_of(&entry.value))).collect(),
        ),
    }
}

fn text() -> impl Strategy<Value = String> {
    // Words that need quotes, and characters that need escapes.
    prop_oneof![
        Just("yes".to_string()),
        Just("010".to_string()),
        Just("~".to_string()),
        Just(String::new()),
        Just("- a: b #".to_string()),
        Just("---".to_string()),
        Just("{{ x }}".to_string()),
        "[a-z]{1,8}",
        "[ -~é日😀\n\t]{0,20}",
    ]
}

fn trees() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        Just(Tree::Null),
        any::<bool>().prop_map(Tree::Bool),
        any::<i64>().prop_map(Tree::Int),
        text().prop_map(Tree::Text),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        let keys = prop::collection::btree_map("[a-zA-Z]{3,8}k", inner.clone(), 0..6);
        prop_oneof![
            prop::collection::vec(inner, 0..6).prop_map(Tree::List),
            keys.prop_map(|fields| Tree::Fields(fields.into_iter().collect())),
        ]
    })
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

/// Block style; texts are quoted.
fn write_block(tree: &Tree, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match tree {
        Tree::Null => out.push_str(" ~\n"),
        Tree::Bool(value) => writeln!(out, " {value}").unwrap(),
        Tree::Int(value) => writeln!(out, " {value}").unwrap(),
        Tree::Text(value) => writeln!(out, " {}", quoted(value)).unwrap(),
        Tree::List(items) if items.is_empty() => out.push_str(" []\n"),
        Tree::Fields(fields) if fields.is_empty() => out.push_str(" {}\n"),
        Tree::List(items) => {
            out.push('\n');
            for item in items {
                write!(out, "{pad}-").unwrap();
                write_block(item, indent + 2, out);
            }
        }
        Tree::Fields(fields) => {
            out.push('\n');
            for (key, value) in fields {
                write!(out, "{pad}{key}:").unwrap();
                write_block(value, indent + 2, out);
            }
        }
    }
}

/// Flow style, which is JSON where `strict`.
fn write_flow(tree: &Tree, out: &mut String) {
    match tree {
        Tree::Null => out.push_str("null"),
        Tree::Bool(value) => write!(out, "{value}").unwrap(),
        Tree::Int(value) => write!(out, "{value}").unwrap(),
        Tree::Text(value) => out.push_str(&quoted(value)),
        Tree::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                write_flow(item, out);
            }
            out.push(']');
        }
        Tree::Fields(fields) => {
            out.push('{');
            for (index, (key, value)) in fields.iter().enumerate() {
                write!(out, "{}{}: ", if index == 0 { "" } else { ",\n " }, quoted(key)).unwrap();
                write_flow(value, out);
            }
            out.push('}');
        }
    }
}

fn spec_of(loaded: &Loaded) -> Tree {
    assert_eq!(findings(loaded), [""; 0]);
    tree_of(loaded.objects[0].root.get("spec").unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        load(&[file("a.yaml", &bytes), file("a.json", &bytes), file("-", &bytes)]);
    }

    #[test]
    fn anything_like_yaml_is_survived(
        text in prop::collection::vec(
            prop::sample::select(vec![
                "a", "b: ", ": ", "- ", "? ", "\n", "\n  ", "\n    ", "\t", "---\n", "...\n", "[", "]", "{", "}", ", ",
                "&x ", "*x", "<<: ", "!t ", "!!str ", "|\n  ", ">-\n  ", "'", "\"", "\\u00e9", "#", " # c\n", "%YAML 1.2\n",
                "~", "010", "kind: Secret\n", "apiVersion: v1\n", "metadata:\n  name: x\n", "items:\n", "\r\n", "\r",
                "\u{feff}", "\u{202e}", "é", "😀", "{{", "}}", "<<<<<<< x\n", "\0",
            ]),
            0..60,
        ),
        limits in prop::sample::select(vec![Limits::DEFAULT, Limits { nodes_per_document: 5, depth: 2, alias_nodes: 3, ..Limits::DEFAULT }]),
    ) {
        let text = text.concat();
        let files = [file("a.yaml", &text), file("b.json", &text)];
        let loaded = load_with(&files, &limits);
        let lines = u32::try_from(text.split('\n').count()).unwrap() + 1;
        for diagnostic in &loaded.diagnostics {
            prop_assert!((1..=lines).contains(&diagnostic.span.start.line), "{:?}", diagnostic);
            prop_assert!(diagnostic.span.start.column >= 1);
        }
    }

    #[test]
    fn written_trees_are_read_back(tree in trees()) {
        let mut block = format!("{ROUTE}spec:");
        write_block(&tree, 2, &mut block);
        prop_assert_eq!(spec_of(&yaml(&block)), tree.clone(), "{}", block);
        prop_assert_eq!(spec_of(&yaml(block.replace('\n', "\r\n"))), tree.clone(), "{}", block);
        let mut flow = String::from("{\"apiVersion\": \"gateway.networking.k8s.io/v1\", \"kind\": \"HTTPRoute\", \"metadata\": {\"name\": \"x\"}, \"spec\": ");
        write_flow(&tree, &mut flow);
        flow.push_str("}\n");
        prop_assert_eq!(spec_of(&load(&[file("a.json", &flow)])), tree.clone(), "{}", flow);
        prop_assert_eq!(spec_of(&yaml(format!("--- {flow}"))), tree, "{}", flow);
    }
}
