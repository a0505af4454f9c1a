//! What stands behind a URL, as it is kept.

use moorgate_policies::InputKind;
use serde_json::Value;
use std::fmt::Write as _;

/// The first bytes of a WebAssembly module (core specification, section 5.5.16).
const MAGIC: &[u8] = b"\0asm";

/// What is kept of an answer: JSON is written anew, so that a provider that changes the order of keys or the space between
/// them changes nothing, and a review sees line by line what did change.
///
/// # Errors
/// Says what is wrong with it, behind "what was behind it".
pub fn kept(kind: InputKind, bytes: &[u8]) -> Result<Vec<u8>, String> {
    check(kind, bytes)?;
    if !kind.is_json() {
        return Ok(bytes.to_vec());
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|error| format!("is no JSON: {error}"))?;
    let text = serde_json::to_string_pretty(&value).map_err(|error| format!("is no JSON: {error}"))?;
    let mut out = String::with_capacity(text.len() + 1);
    for letter in text.chars() {
        if letter.is_ascii() && letter != '\u{7f}' {
            out.push(letter);
        } else {
            // Only strings hold such letters. What cannot be seen in a review is written out.
            for unit in letter.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out.push('\n');
    fits(kind, out.len())?;
    Ok(out.into_bytes())
}

/// Whether bytes are what a kind must be.
///
/// # Errors
/// Says what is wrong with them, behind "what was behind it".
pub fn check(kind: InputKind, bytes: &[u8]) -> Result<(), String> {
    fits(kind, bytes.len())?;
    let json = || serde_json::from_slice::<Value>(bytes).map_err(|error| format!("is no JSON: {error}"));
    match kind {
        InputKind::Discovery => match json()?.get("issuer") {
            Some(Value::String(issuer)) if !issuer.is_empty() => Ok(()),
            _ => Err("has no issuer, so it describes no OpenID provider".into()),
        },
        InputKind::Keys => match json()?.get("keys") {
            Some(Value::Array(keys)) if keys.iter().any(Value::is_object) => Ok(()),
            _ => Err("has no keys".into()),
        },
        InputKind::Wasm if bytes.starts_with(MAGIC) => Ok(()),
        InputKind::Wasm => Err("is no WebAssembly module".into()),
    }
}

fn fits(kind: InputKind, size: usize) -> Result<(), String> {
    let most = kind.most_bytes();
    if size > most { Err(format!("has {size} bytes, and at most {most} are taken")) } else { Ok(()) }
}
