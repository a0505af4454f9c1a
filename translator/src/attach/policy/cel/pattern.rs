//! Patterns inside of expressions: Envoy's evaluator takes those of RE2 that compile to a hundred steps.

use crate::attach::rule::check_expression;
use regex_syntax::hir::{Class, Hir, HirKind};
use regex_syntax::utf8::Utf8Sequences;

/// The steps that a compiled pattern may have (Envoy's `regex_max_program_size`).
const STEPS: usize = 100;
/// What every pattern takes besides.
const AROUND: usize = 4;
/// What RE2 needs for all characters beyond ASCII.
const BEYOND_ASCII: usize = 10;

/// Why Envoy would not take a pattern, or nothing. The steps are counted so that RE2 never has more.
pub(super) fn check(pattern: &str) -> Result<(), String> {
    check_expression(pattern).map_err(|why| format!("{pattern:?} is not a valid expression: {why}"))?;
    let hir = regex_syntax::parse(pattern).map_err(|error| error.to_string())?;
    if steps(&hir).saturating_add(AROUND) > STEPS {
        return Err(format!(
            "the pattern {pattern:?} is too large for what Envoy evaluates: use startsWith, or several"
        ));
    }
    Ok(())
}

fn steps(hir: &Hir) -> usize {
    let sum = |parts: &[Hir]| parts.iter().map(steps).fold(0_usize, usize::saturating_add);
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 1,
        HirKind::Literal(literal) => literal.0.len(),
        HirKind::Class(class) => self::class(class),
        HirKind::Repetition(found) => {
            let one = steps(&found.sub).saturating_add(1);
            let times = found.max.unwrap_or(found.min.saturating_add(1)).max(1);
            one.saturating_mul(usize::try_from(times).unwrap_or(usize::MAX))
        }
        HirKind::Capture(found) => steps(&found.sub).saturating_add(2),
        HirKind::Concat(parts) => sum(parts),
        HirKind::Alternation(parts) => sum(parts).saturating_add(parts.len()),
    }
}

fn class(class: &Class) -> usize {
    match class {
        Class::Bytes(bytes) => bytes.ranges().len().saturating_mul(2),
        Class::Unicode(class) => {
            let ranges = class.ranges();
            let whole =
                ranges.last().is_some_and(|range| range.start() <= '\u{80}' && range.end() == char::MAX);
            if whole {
                return ranges.len().saturating_mul(2).saturating_add(BEYOND_ASCII);
            }
            let sequences = ranges.iter().flat_map(|range| Utf8Sequences::new(range.start(), range.end()));
            sequences.fold(0, |sum, sequence| sum.saturating_add(sequence.len() + 1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Envoy's three minors took of each, found by trying: never more than that is let through.
    #[test]
    fn never_more_is_let_through_than_envoy_takes() {
        for (unit, most) in [
            ("a", 96),
            (".", 12),
            ("[a-z]", 96),
            ("(a)", 32),
            ("(?:ab|cd)", 24),
            ("[^/]", 12),
            ("[^/]+", 11),
            ("a?", 48),
            ("(?i:k)", 24),
            ("(?:ab){2,4}", 9),
            ("é", 48),
        ] {
            let fits = (1..=400).take_while(|count| check(&unit.repeat(*count)).is_ok()).count();
            assert!((most / 3..=most).contains(&fits), "{unit}: {fits} of {most}");
        }
        assert!(check("^/(admin|internal)/[a-z0-9-]+/.*$").is_ok());
    }
}
