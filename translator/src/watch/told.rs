//! Diagnostics in the log: each once when it appears, and once when it is gone.

use super::turn::Turn;
use moorgate_model::{Diagnostic, Severity};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// Lines about diagnostics for one compile; of more only the number is said.
const LINES: usize = 200;

/// What one diagnostic is known by: a line that moves in its object, or a value that changes beside it, is no news.
type Key = (&'static str, String, String, String);

/// What the log has said.
#[derive(Debug, Default)]
struct Told {
    known: BTreeMap<Key, Severity>,
}

/// What became of a diagnostic.
#[derive(Debug, PartialEq, Eq)]
enum News<'d> {
    Appeared(&'d Diagnostic),
    Gone(Key),
}

impl Told {
    fn news<'d>(&mut self, diagnostics: impl Iterator<Item = &'d Diagnostic>) -> Vec<News<'d>> {
        let mut there = BTreeMap::new();
        let mut news = Vec::new();
        for diagnostic in diagnostics {
            let key = key_of(diagnostic);
            if there.insert(key.clone(), diagnostic.severity).is_none() && !self.known.contains_key(&key) {
                news.push(News::Appeared(diagnostic));
            }
        }
        let before = std::mem::replace(&mut self.known, there);
        news.extend(before.into_keys().filter(|key| !self.known.contains_key(key)).map(News::Gone));
        news
    }
}

fn key_of(diagnostic: &Diagnostic) -> Key {
    let object = diagnostic.object.as_ref().map(ToString::to_string).unwrap_or_default();
    (diagnostic.code.id, object, diagnostic.field.to_string(), diagnostic.message.clone())
}

/// Where it is, as an object of the cluster: `HTTPRoute/shop/cart:12:5`.
fn place(diagnostic: &Diagnostic) -> String {
    let file = diagnostic.file.as_deref().unwrap_or_default();
    let start = diagnostic.span.start;
    if start.line == 0 { file.to_owned() } else { format!("{file}:{}:{}", start.line, start.column) }
}

/// Tells diagnostics as long as the loop lives. Only the replica that writes does, and one that begins to write all of them.
pub(super) async fn run(mut turns: watch::Receiver<Option<Arc<Turn>>>, mut leads: watch::Receiver<bool>) {
    let mut told = Told::default();
    loop {
        let turn = turns.borrow_and_update().clone();
        if *leads.borrow_and_update() {
            if let Some(turn) = turn {
                tell(&told.news(turn.compilation.diagnostics.iter()));
            }
        } else {
            told = Told::default();
        }
        tokio::select! {
            changed = turns.changed() => if changed.is_err() { break },
            changed = leads.changed() => if changed.is_err() { break },
        }
    }
    // The loop ends, and says so itself.
    std::future::pending::<()>().await;
}

fn tell(news: &[News<'_>]) {
    for one in news.iter().take(LINES) {
        match one {
            News::Appeared(found) => {
                let (code, place) = (found.code.id, place(found));
                let object = found.object.as_ref().map(ToString::to_string).unwrap_or_default();
                let (field, help) = (found.field.to_string(), found.help.as_deref().unwrap_or_default());
                match found.severity {
                    Severity::Error => {
                        tracing::error!(code, object, field, place, help, "{}", found.message);
                    }
                    Severity::Warning => {
                        tracing::warn!(code, object, field, place, help, "{}", found.message);
                    }
                }
            }
            News::Gone((code, object, field, message)) => {
                tracing::info!(code, object, field, "no more: {message}");
            }
        }
    }
    if let Some(more) = news.len().checked_sub(LINES).filter(|more| *more > 0) {
        tracing::warn!(more, "further diagnostics; moorgate check --cluster lists all");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moorgate_model::diagnostic::semantic;
    use moorgate_model::{FieldPath, ObjectRef};

    fn found(name: &str, message: &str) -> Diagnostic {
        let object = ObjectRef::new("gateway.networking.k8s.io", "HTTPRoute", "shop", name);
        Diagnostic::new(&semantic::BACKEND_NOT_FOUND, message).about(object, FieldPath::root())
    }

    #[test]
    fn each_is_told_when_it_comes_and_when_it_goes() {
        let mut told = Told::default();
        let (a, b) = (found("a", "no such Service"), found("b", "no such Service"));
        assert_eq!(told.news([&a, &b, &a].into_iter()), [News::Appeared(&a), News::Appeared(&b)]);
        assert_eq!(told.news([&a, &b].into_iter()), []);
        let moved = Diagnostic { span: moorgate_model::Span::default(), ..a.clone() };
        assert_eq!(told.news([&moved].into_iter()), [News::Gone(key_of(&b))]);
        assert_eq!(told.news([&b].into_iter()), [News::Appeared(&b), News::Gone(key_of(&a))]);
    }
}
