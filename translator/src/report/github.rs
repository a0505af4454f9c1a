//! GitHub workflow commands: one annotation a diagnostic.

use moorgate_model::{Diagnostics, Severity};
use std::fmt::Write as _;

/// `::error file=…,line=…,col=…,title=MG…::message`, escaped so that no text of a tenant becomes a command.
pub fn github(diagnostics: &Diagnostics) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        let level = if diagnostic.severity == Severity::Error { "error" } else { "warning" };
        let mut properties = Vec::new();
        if let Some(file) = &diagnostic.file {
            properties.push(format!("file={}", property(file)));
            properties.push(format!("line={}", diagnostic.span.start.line));
            properties.push(format!("col={}", diagnostic.span.start.column));
        }
        properties.push(format!(
            "title={}",
            property(&format!("{} {}", diagnostic.code.id, diagnostic.code.title))
        ));
        let mut message = diagnostic.message.clone();
        if let Some(help) = &diagnostic.help {
            let _ = write!(message, "\nhelp: {help}");
        }
        let _ = writeln!(out, "::{level} {}::{}", properties.join(","), data(&message));
    }
    out
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use moorgate_model::Diagnostic;
    use moorgate_model::diagnostic::semantic::BACKEND_NOT_FOUND;

    #[test]
    fn hostile_text_stays_text() {
        let mut diagnostics = Diagnostics::default();
        diagnostics.push(Diagnostic::new(&BACKEND_NOT_FOUND, "a\n::set-env name=x::y % z"));
        let out = github(&diagnostics);
        assert_eq!(out.lines().count(), 1);
        assert!(out.ends_with("::a%0A::set-env name=x::y %25 z\n"), "{out}");
    }
}
