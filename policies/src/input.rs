//! Declared inputs: what stands behind a URL, as it was when somebody last fetched it and had it reviewed.
//!
//! A capability that needs such a thing asks for it by its URL ([`crate::Lowering::input`]) and never fetches it; what is
//! asked for and not declared is a finding, and `moorgate inputs update` fetches exactly that.

use std::sync::Arc;

/// What an input must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InputKind {
    /// The description of an OpenID provider (OpenID Connect Discovery 1.0, section 4.2): a JSON object with an issuer.
    Discovery,
    /// A set of keys (RFC 7517, section 5): a JSON object with a list `keys`.
    Keys,
    /// A WebAssembly module: behind `https://` its bytes, behind `oci://registry/repository:tag` (or `@sha256:…`) an image
    /// that holds it.
    Wasm,
}

/// How a registry is asked for an image: only who fetches needs to know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Access {
    /// The Secret with the credentials, as `namespace/name`: never what it holds.
    pub secret: Option<String>,
    /// CA certificates of the registry, PEM, if the source has them.
    pub authority: Option<String>,
}

impl InputKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Discovery, Self::Keys, Self::Wasm];

    /// Its name on the command line and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Discovery => "discovery",
            Self::Keys => "keys",
            Self::Wasm => "wasm",
        }
    }

    /// True if it is JSON.
    pub const fn is_json(self) -> bool {
        matches!(self, Self::Discovery | Self::Keys)
    }

    /// How many bytes it may have.
    pub const fn most_bytes(self) -> usize {
        match self {
            // Those of large providers have some ten thousand.
            Self::Discovery | Self::Keys => 256 << 10,
            Self::Wasm => 32 << 20,
        }
    }
}

/// A declared input. Its digest was compared with its bytes, and these are what its kind must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// SHA-256 of the bytes, as 64 hexadecimal digits in lower case.
    pub digest: String,
    /// What is behind the URL. JSON is written anew: keys sorted, indented, only ASCII.
    pub bytes: Arc<[u8]>,
}

impl Input {
    /// The bytes as text: of a kind that is JSON, all of them.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap_or_default()
    }
}
