//! Diagnostics as a compiler prints them, with the line itself.

use crate::source::File;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use moorgate_model::{Diagnostic, Diagnostics, Severity};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The texts that lines are quoted from. Lines of Secrets are never quoted.
#[derive(Debug, Default)]
pub struct Excerpts<'a> {
    files: BTreeMap<&'a str, &'a [u8]>,
    redacted: BTreeMap<Arc<str>, Vec<(u32, u32)>>,
}

impl<'a> Excerpts<'a> {
    /// Quotes from these files, but not the given line ranges (first and last line, from 1).
    pub fn new(files: &'a [File], redacted: BTreeMap<Arc<str>, Vec<(u32, u32)>>) -> Self {
        Self { files: files.iter().map(|file| (&*file.name, &*file.bytes)).collect(), redacted }
    }

    fn line(&self, file: &str, line: u32) -> Option<String> {
        let secret = self
            .redacted
            .get(file)
            .into_iter()
            .flatten()
            .any(|(first, last)| (*first..=*last).contains(&line));
        let bytes = self.files.get(file).filter(|_| !secret && line > 0)?;
        let index = usize::try_from(line - 1).ok()?;
        let text = bytes.split(|byte| *byte == b'\n').nth(index)?;
        let text = String::from_utf8_lossy(text);
        // Long lines are cut.
        Some(text.trim_end_matches('\r').chars().take(200).map(plain).collect())
    }
}

/// What is printed of a character: with control characters a text of somebody's could play with the terminal, or begin a line
/// that a CI takes for a command.
fn plain(c: char) -> char {
    if c.is_control() && c != '\t' { '\u{fffd}' } else { c }
}

fn one_line(text: &str) -> String {
    text.chars().map(plain).collect()
}

/// All findings, one after the other, with a blank line between.
pub fn text(diagnostics: &Diagnostics, excerpts: &Excerpts<'_>) -> String {
    let renderer = Renderer::styled();
    let mut out = String::new();
    for diagnostic in diagnostics {
        out.push_str(&one(diagnostic, excerpts, &renderer));
        out.push_str("\n\n");
    }
    out
}

fn one(diagnostic: &Diagnostic, excerpts: &Excerpts<'_>, renderer: &Renderer) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = match &diagnostic.object {
        Some(object) => format!("{object}: {}", diagnostic.message),
        None => diagnostic.message.clone(),
    };
    let mut group = Group::with_title(level.primary_title(one_line(&title)).id(diagnostic.code.id));
    let quotes = quotes(diagnostic, excerpts);
    for (file, line, start, end, text, label) in &quotes {
        let span = columns(text, *start, *end);
        let kind = if label.is_some() { AnnotationKind::Context } else { AnnotationKind::Primary };
        let label = one_line(&label.clone().unwrap_or_else(|| diagnostic.field.to_string()));
        let snippet = Snippet::source(text.as_str())
            .path(one_line(file))
            .line_start(usize::try_from(*line).unwrap_or(1));
        group = group.element(snippet.annotation(kind.span(span).label(label)));
    }
    if quotes.is_empty()
        && let Some(file) = &diagnostic.file
    {
        let place = format!("{file}:{}:{}", diagnostic.span.start.line, diagnostic.span.start.column);
        group = group.element(Level::NOTE.message(one_line(&format!("at {place}"))));
    }
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(one_line(help)));
    }
    renderer.render(&[group])
}

type Quote<'d> = (&'d str, u32, u32, u32, String, Option<String>);

fn quotes<'d>(diagnostic: &'d Diagnostic, excerpts: &Excerpts<'_>) -> Vec<Quote<'d>> {
    let mut out = Vec::new();
    let (start, end) = (diagnostic.span.start, diagnostic.span.end);
    if let Some(file) = &diagnostic.file
        && let Some(text) = excerpts.line(file, start.line)
    {
        let end = if end.line == start.line { end.column } else { u32::MAX };
        out.push((&**file, start.line, start.column, end, text, None));
    }
    for related in &diagnostic.related {
        if let Some(text) = excerpts.line(&related.file, related.position.line) {
            let column = related.position.column;
            out.push((
                &*related.file,
                related.position.line,
                column,
                column + 1,
                text,
                Some(related.message.clone()),
            ));
        }
    }
    out
}

/// Character columns to byte offsets within one line.
fn columns(text: &str, start: u32, end: u32) -> std::ops::Range<usize> {
    let offset = |column: u32| {
        let count = usize::try_from(column.saturating_sub(1)).unwrap_or(usize::MAX);
        text.char_indices().nth(count).map_or(text.len(), |(offset, _)| offset)
    };
    let start = offset(start);
    start..offset(end).max(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use moorgate_model::diagnostic::semantic::BACKEND_NOT_FOUND;
    use moorgate_model::{FieldPath, Position, Span};

    #[test]
    fn hostile_text_begins_no_line() {
        let hostile = "a\n::set-env name=x::y\u{1b}[2J";
        let files = [File { name: "in.yaml".into(), bytes: b"one: two\n".as_slice().into() }];
        for (file, line) in [("in.yaml", 1), ("a\n::debug::b", 1)] {
            let place = Position { line, column: 1 };
            let finding = Diagnostic::new(&BACKEND_NOT_FOUND, hostile);
            let mut finding = finding.at(file.into(), Span { start: place, end: place }).help(hostile);
            finding.field = FieldPath::root().key(hostile);
            let mut diagnostics = Diagnostics::default();
            diagnostics.push(finding);
            let out = text(&diagnostics, &Excerpts::new(&files, BTreeMap::new()));
            assert!(!out.lines().any(|line| line.starts_with("::")), "{out}");
            assert!(out.contains("set-env") && !out.contains("\u{1b}[2J"), "{out}");
        }
    }
}
