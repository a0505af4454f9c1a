//! The head of a channel: a hint at the newest entry, which it embeds, so that one conditional GET is an idle poll.
//!
//! It proves nothing by itself: the entry in it is signed, and readers probe the log for a newer one.

use crate::envelope::{Envelope, EnvelopeError};
use crate::limits;
use serde::{Deserialize, Serialize};

/// The format that this version writes.
pub const FORMAT: u32 = 1;

/// The stored head. Unknown fields are read over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The format of this object. Readers take what they find in newer ones.
    pub format: u32,
    /// The newest entry, as in its slot of the log.
    pub entry: Envelope,
    /// A signed statement that this entry is still the newest, by a key with the role `renew`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal: Option<Envelope>,
}

impl Head {
    /// A head around an entry.
    pub fn of(entry: Envelope) -> Self {
        Self { format: FORMAT, entry, renewal: None }
    }

    /// Reads stored bytes.
    pub fn decode(stored: &[u8]) -> Result<Self, EnvelopeError> {
        if stored.len() > limits::HEAD_BYTES {
            return Err(EnvelopeError::TooLarge(limits::HEAD_BYTES));
        }
        serde_json::from_slice(stored).map_err(|error| EnvelopeError::Malformed(error.to_string()))
    }

    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        // Strings and numbers only: serde_json cannot fail on them.
        serde_json::to_vec(self).unwrap_or_default()
    }
}
