//! SARIF 2.1.0, for code scanning.

use moorgate_model::diagnostic::catalogue;
use moorgate_model::{Diagnostic, Diagnostics, Severity};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// One run with the rules that occur and a result for each diagnostic.
pub fn sarif(diagnostics: &Diagnostics) -> Value {
    let used: BTreeSet<&str> = diagnostics.iter().map(|diagnostic| diagnostic.code.id).collect();
    let rules: Vec<Value> = catalogue()
        .filter(|code| used.contains(code.id))
        .map(|code| {
            json!({
                "id": code.id,
                "shortDescription": { "text": code.title },
                "fullDescription": { "text": code.explanation },
            })
        })
        .collect();
    let results: Vec<Value> = diagnostics.iter().map(result).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "moorgate", "version": env!("CARGO_PKG_VERSION"), "rules": rules } },
            "results": results,
        }],
    })
}

fn result(diagnostic: &Diagnostic) -> Value {
    let mut text = diagnostic.message.clone();
    if let Some(help) = &diagnostic.help {
        text.push_str(". ");
        text.push_str(help);
    }
    let locations = diagnostic.file.as_ref().map(|file| {
        let (start, end) = (diagnostic.span.start, diagnostic.span.end);
        json!([{ "physicalLocation": {
            "artifactLocation": { "uri": &**file },
            "region": {
                "startLine": start.line.max(1), "startColumn": start.column.max(1),
                "endLine": end.line.max(start.line).max(1), "endColumn": end.column.max(1),
            },
        }}])
    });
    json!({
        "ruleId": diagnostic.code.id,
        "level": if diagnostic.severity == Severity::Error { "error" } else { "warning" },
        "message": { "text": text },
        "locations": locations.unwrap_or_else(|| json!([])),
    })
}
