//! Declared inputs: what a compile needs from the network stands in the source, as objects of kind `Input`.
//!
//! ```text
//!  compile ──▶ what policies ask for ──▶ fetch, oci ──▶ content ──▶ update ──▶ write: moorgate-inputs.yaml
//!     ▲                                                                              │
//!     └──────────────── Input: url, digest, content ◀── review, commit ◀─────────────┘
//! ```
//! Nothing is fetched while compiling. An Input lies in the namespace of the policies that need it, so that nobody decides
//! for others what stands behind a URL of theirs. Its digest is that of its content, and is compared each time.

pub mod content;
pub mod fetch;
mod oci;
pub mod update;
pub mod write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moorgate_model::{FieldPath, Node, Object, ObjectRef};
use moorgate_policies::{Access, Input, InputKind};
use ring::digest::{SHA256, digest};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The group of Inputs.
pub const GROUP: &str = "moorgate.dev";
/// Their kind.
pub const KIND: &str = "Input";
/// The version of the group that is read.
pub const VERSION: &str = "v1alpha1";

/// What a policy asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// The namespace of the policy.
    pub namespace: String,
    /// The URL.
    pub url: String,
    /// What it must be.
    pub kind: InputKind,
}

/// Who asks for something, and how it is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The first policy that asks.
    pub policy: ObjectRef,
    /// The field in which it does.
    pub field: FieldPath,
    /// How a registry is asked.
    pub access: Access,
}

/// Everything that is asked for.
pub type Wants = BTreeMap<Wanted, Asked>;

/// Why an Input cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// The field at fault.
    pub field: FieldPath,
    /// In one sentence.
    pub message: String,
}

/// The URL that an Input is about.
pub fn url(input: &Object) -> Option<&str> {
    input.root.get("spec")?.get("url")?.as_str()
}

/// What an Input holds, if that is what is needed.
///
/// # Errors
/// The digest does not fit the content, or the content is not of the kind.
pub fn read(input: &Object, kind: InputKind) -> Result<Input, Unusable> {
    let wrong = |field: &str, message: String| {
        Err(Unusable { field: FieldPath::root().key("spec").key(field), message })
    };
    let text = |field: &str| input.root.get("spec")?.get(field).and_then(Node::as_str);
    let bytes = match (text("text"), text("base64")) {
        (Some(text), None) => text.as_bytes().to_vec(),
        (None, Some(text)) => {
            let most = kind.most_bytes();
            let Some(bytes) = decoded(text, most) else {
                return wrong("base64", format!("it is no base64 of at most {most} bytes"));
            };
            bytes
        }
        _ => return wrong("text", "the content stands in either text or base64".into()),
    };
    let found = hex(&bytes);
    let declared = text("digest").and_then(|digest| digest.strip_prefix("sha256:")).unwrap_or_default();
    if found != declared {
        return wrong("digest", format!("the content has digest sha256:{found}, and not this one"));
    }
    match content::check(kind, &bytes) {
        Ok(()) => Ok(Input { digest: found, bytes: bytes.into() }),
        Err(message) => wrong("url", format!("what was behind it {message}")),
    }
}

/// The bytes of a base64 text with line ends in it.
fn decoded(text: &str, most: usize) -> Option<Vec<u8>> {
    // Four letters hold three bytes; a line end for each 76 letters is allowed for.
    if text.len() > most.saturating_mul(2) {
        return None;
    }
    let letters: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(letters).ok().filter(|bytes| bytes.len() <= most)
}

/// SHA-256 as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
