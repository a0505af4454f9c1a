//! Diagnostics for people, scripts, code scanning and pull requests.

mod github;
mod sarif;
mod text;

pub use github::github;
pub use sarif::sarif;
pub use text::{Excerpts, text};

use moorgate_model::{Diagnostics, Severity};

/// The version of all JSON output: raised when a field changes its meaning or goes.
pub const FORMAT_VERSION: u32 = 1;

/// `2 errors, 1 warning`.
pub fn summary(diagnostics: &Diagnostics) -> String {
    let count = |severity| diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    format!("{}, {}", plural(count(Severity::Error), "error"), plural(count(Severity::Warning), "warning"))
}
