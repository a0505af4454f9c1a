//! Inputs as text of YAML.

use super::{GROUP, KIND, VERSION, hex};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// The file, beside the other objects of a source, that holds all Inputs that are text.
pub const FILE: &str = "moorgate-inputs.yaml";
/// The folder that holds the others, a file each.
pub const FOLDER: &str = "moorgate-inputs";

/// The widest line of base64 (RFC 2045, section 6.8).
const WIDTH: usize = 76;
/// How much of a host's name goes into that of an object.
const HOST: usize = 100;

const HEAD: &str = "\
# What policies need from the network, as it was when somebody last looked: written by `moorgate inputs update`, which also
# takes away what is not needed any more. Review a change here like any other.
";

/// An Input that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// SHA-256 of the content, as hexadecimal digits.
    pub digest: String,
    /// The content.
    pub bytes: Arc<[u8]>,
}

impl Stored {
    /// Content with its digest.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { digest: hex(&bytes), bytes: bytes.into() }
    }
}

/// Namespace and URL.
pub type Key = (String, String);

/// True for the name, within its source, of a file that is written here.
pub fn is_own(name: &str) -> bool {
    name == FILE || name.strip_prefix(FOLDER).is_some_and(|rest| rest.starts_with('/'))
}

/// The files that hold these Inputs, by their names within the source. There are none without Inputs.
pub fn files(inputs: &BTreeMap<Key, Stored>) -> BTreeMap<String, String> {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for ((namespace, url), input) in inputs {
        let name = name(url);
        let text = std::str::from_utf8(&input.bytes).ok().filter(|text| is_plain(text));
        let file = match text {
            Some(_) => FILE.to_owned(),
            None => format!("{FOLDER}/{namespace}-{name}.yaml"),
        };
        let out = files.entry(file).or_insert_with(|| HEAD.to_owned());
        let _ = write!(
            out,
            "---\napiVersion: {GROUP}/{VERSION}\nkind: {KIND}\nmetadata:\n  name: {}\n  namespace: {}\nspec:\n  url: {}\n  digest: sha256:{}\n",
            quoted(&name),
            quoted(namespace),
            quoted(url),
            input.digest,
        );
        if let Some(text) = text {
            out.push_str("  text: |\n");
            text.lines().for_each(|line| line_of(out, line));
            continue;
        }
        out.push_str("  base64: |\n");
        let letters = STANDARD.encode(&input.bytes);
        let lines = letters.as_bytes().chunks(WIDTH).filter_map(|line| std::str::from_utf8(line).ok());
        lines.for_each(|line| line_of(out, line));
    }
    files
}

/// Whether a text comes back from a block of YAML as it is.
fn is_plain(text: &str) -> bool {
    let seen = |byte: u8| byte == b'\n' || (b' '..=b'~').contains(&byte);
    text.bytes().all(seen)
        && text.ends_with('\n')
        && !text.ends_with("\n\n")
        && !text.starts_with([' ', '\n'])
}

fn line_of(out: &mut String, line: &str) {
    if !line.is_empty() {
        out.push_str("    ");
        out.push_str(line);
    }
    out.push('\n');
}

/// Text in double quotes: those of JSON are those of YAML.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A name for the Input of a URL: its host, for people, and what makes it the only one.
fn name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#', '@']).next().unwrap_or_default();
    let mut plain: String = host
        .chars()
        .take(HOST)
        .map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' })
        .collect();
    while plain.contains("--") {
        plain = plain.replace("--", "-");
    }
    let digest = hex(url.as_bytes());
    let plain = plain.trim_matches('-');
    format!("{plain}{}{}", if plain.is_empty() { "" } else { "-" }, digest.get(..12).unwrap_or_default())
}
