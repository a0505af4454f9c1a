//! Data on stdout.

use super::Failure;
use anyhow::Context as _;
use serde::Serialize;
use std::io::{ErrorKind, Write as _};

/// Prints data as it is. A reader that has seen enough (a closed pipe) is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("stdout").map_err(Failure::from)
        }
        _ => Ok(()),
    }
}

/// JSON for scripts: two spaces, sorted keys, a line end.
pub(super) fn json(value: &impl Serialize) -> String {
    // A value of ours always serialises: keys are strings.
    let value = serde_json::to_value(value).unwrap_or_default();
    let mut text = serde_json::to_string_pretty(&value).unwrap_or_default();
    text.push('\n');
    text
}
