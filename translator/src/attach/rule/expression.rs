//! Regular expressions that Envoy will take.
//!
//! Envoy compiles with RE2, and refuses a whole route table for one expression that it cannot compile: one tenant's
//! mistake would freeze everybody. So whatever RE2 does not read, or reads otherwise than our own library, is named
//! here (RE2 syntax, github.com/google/re2/wiki/Syntax).

use regex_syntax::ast::{
    Ast, ClassSetItem, ClassUnicodeKind, Flag, FlagsItemKind, GroupKind, Literal, LiteralKind,
    RepetitionKind, RepetitionRange, Visitor, parse::ParserBuilder, visit,
};

/// The longest expression, in bytes: the CRDs allow 1024 for a path and 4096 for a header's value.
const LENGTH_LIMIT: usize = 4096;

/// The most that an expression may take when compiled, in bytes: a guard against expressions that are small to write
/// and large to run. It lies well below RE2's own limit.
const SIZE_LIMIT: usize = 1 << 20;

/// The deepest nesting of groups and repetitions; RE2 stops at 1000.
const NEST_LIMIT: u32 = 100;

/// The most that a repetition may count (RE2 `kMaxRepeat`).
const REPEAT_LIMIT: u32 = 1000;

/// Why an expression cannot be used, or nothing.
pub(in crate::attach) fn check(text: &str) -> Result<(), String> {
    if text.len() > LENGTH_LIMIT {
        return Err(format!("it has {} bytes, and may have {LENGTH_LIMIT}", text.len()));
    }
    let ast = ParserBuilder::new()
        .nest_limit(NEST_LIMIT)
        .build()
        .parse(text)
        .map_err(|error| error.kind().to_string())?;
    visit(&ast, Strict).map_err(str::to_owned)?;
    let compiled = regex::RegexBuilder::new(text).size_limit(SIZE_LIMIT).build();
    compiled.map(drop).map_err(|error| {
        let text = error.to_string();
        text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })
}

/// Stops at the first construct that RE2 lacks or reads otherwise.
struct Strict;

impl Visitor for Strict {
    type Output = ();
    type Err = &'static str;

    fn finish(self) -> Result<(), &'static str> {
        Ok(())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), &'static str> {
        match ast {
            Ast::Flags(set) => flags(&set.flags.items.iter().map(|item| &item.kind).collect::<Vec<_>>()),
            Ast::Group(group) => match &group.kind {
                GroupKind::NonCapturing(set) => {
                    flags(&set.items.iter().map(|item| &item.kind).collect::<Vec<_>>())
                }
                GroupKind::CaptureName { name, .. }
                    if !name.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') =>
                {
                    Err("names of groups have letters, digits and underscores only")
                }
                GroupKind::CaptureName { .. } | GroupKind::CaptureIndex(_) => Ok(()),
            },
            Ast::Assertion(assertion) => {
                use regex_syntax::ast::AssertionKind::{
                    EndLine, EndText, NotWordBoundary, StartLine, StartText, WordBoundary,
                };
                match assertion.kind {
                    StartLine | EndLine | StartText | EndText | WordBoundary | NotWordBoundary => Ok(()),
                    _ => Err("this kind of word boundary is not in RE2"),
                }
            }
            Ast::Repetition(repetition) => match &repetition.op.kind {
                RepetitionKind::Range(range) if most(range) > REPEAT_LIMIT => {
                    Err("a repetition counts to 1000 at most")
                }
                _ if matches!(*repetition.ast, Ast::Repetition(_)) => {
                    Err("a repetition of a repetition is not in RE2")
                }
                _ => Ok(()),
            },
            Ast::Literal(found) => literal(found),
            Ast::ClassUnicode(class) => unicode(&class.kind),
            _ => Ok(()),
        }
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), &'static str> {
        match item {
            ClassSetItem::Bracketed(_) => Err("a class within a class is not in RE2"),
            ClassSetItem::Unicode(class) => unicode(&class.kind),
            ClassSetItem::Literal(found) => literal(found),
            ClassSetItem::Range(range) => literal(&range.start).and_then(|()| literal(&range.end)),
            _ => Ok(()),
        }
    }

    fn visit_class_set_binary_op_pre(
        &mut self,
        _: &regex_syntax::ast::ClassSetBinaryOp,
    ) -> Result<(), &'static str> {
        Err("operations on classes (&&, --, ~~) are not in RE2")
    }
}

/// RE2 knows `i`, `m`, `s` and `U`.
fn flags(items: &[&FlagsItemKind]) -> Result<(), &'static str> {
    let known = items.iter().all(|item| match item {
        FlagsItemKind::Negation => true,
        FlagsItemKind::Flag(flag) => {
            matches!(
                flag,
                Flag::CaseInsensitive | Flag::MultiLine | Flag::DotMatchesNewLine | Flag::SwapGreed
            )
        }
    });
    if known { Ok(()) } else { Err("of flags RE2 knows i, m, s and U") }
}

fn most(range: &RepetitionRange) -> u32 {
    match range {
        RepetitionRange::Exactly(count)
        | RepetitionRange::AtLeast(count)
        | RepetitionRange::Bounded(_, count) => *count,
    }
}

/// Escapes that RE2 reads: punctuation, `\x..`, `\x{..}` and the C escapes; not `\u....`, and no escaped letter or
/// non-ASCII character.
fn literal(literal: &Literal) -> Result<(), &'static str> {
    use regex_syntax::ast::{HexLiteralKind, SpecialLiteralKind};
    match &literal.kind {
        LiteralKind::HexFixed(HexLiteralKind::X) | LiteralKind::HexBrace(HexLiteralKind::X) => Ok(()),
        LiteralKind::HexFixed(_) | LiteralKind::HexBrace(_) => Err("\\u is not in RE2: write \\x{…}"),
        LiteralKind::Special(SpecialLiteralKind::Space) => Err("an escaped space is not in RE2"),
        LiteralKind::Superfluous if !literal.c.is_ascii_punctuation() => {
            Err("only punctuation is escaped in RE2")
        }
        LiteralKind::Octal => Err("octal escapes are read otherwise in RE2: write \\x.."),
        _ => Ok(()),
    }
}

/// General categories have one spelling in RE2 (`L`, `Lu`); names and scripts vary with its Unicode version.
fn unicode(kind: &ClassUnicodeKind) -> Result<(), &'static str> {
    const CATEGORIES: [&str; 29] = [
        "Cc", "Cf", "Co", "Cs", "Ll", "Lm", "Lo", "Lt", "Lu", "Mc", "Me", "Mn", "Nd", "Nl", "No", "Pc", "Pd",
        "Pe", "Pf", "Pi", "Po", "Ps", "Sc", "Sk", "Sm", "So", "Zl", "Zp", "Zs",
    ];
    let known = match kind {
        ClassUnicodeKind::OneLetter(letter) => "CLMNPSZ".contains(*letter),
        ClassUnicodeKind::Named(name) => {
            CATEGORIES.contains(&name.as_str()) || name.len() == 1 && "CLMNPSZ".contains(name.as_str())
        }
        ClassUnicodeKind::NamedValue { .. } => false,
    };
    if known {
        Ok(())
    } else {
        Err("of Unicode classes only general categories such as \\pL and \\p{Lu} are safe")
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn what_re2_reads_the_same_is_taken() {
        for text in [
            "/v[0-9]+/.*",
            "(?i)abc",
            "a{2,1000}",
            "\\d+\\.\\w*",
            "[[:alpha:]_-]+",
            "(?P<id>[a-f\\x2d]+)",
            "\\pL\\p{Lu}",
            "^/a$",
            "a|b|",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_re2_lacks_or_reads_otherwise_is_named() {
        for text in [
            "(?=a)b",
            "(?<!a)b",
            "(a)\\1",
            "a{1001}",
            "(?x)a b",
            "[a&&b]",
            "[a[b]]",
            "\\u0041",
            "a**",
            "(",
            "[",
            "\\p{Script=Greek}",
            "\\b{start}a",
            "(((a{100}){100}){100}){100}",
            "(?<a.b>c)",
        ] {
            assert!(check(text).is_err(), "{text}");
        }
        assert!(check(&"a".repeat(5000)).is_err());
        assert!(check(&format!("{}a{}", "(".repeat(500), ")".repeat(500))).is_err());
    }
}
