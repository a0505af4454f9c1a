//! GEP-2257 durations.

use std::time::Duration;

/// Parses `1h30m`, `500ms`, `0s`: up to four parts of up to five digits, as GEP-2257 has it.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > 5 {
            return None;
        }
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let (unit, millis) = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1000)]
            .into_iter()
            .find(|(unit, _)| rest.starts_with(unit))?;
        rest = rest.get(unit.len()..)?;
        total += Duration::from_millis(number * millis);
        if rest.is_empty() {
            return Some(total);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_of_gep_2257() {
        let good = [
            ("0s", 0),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("99999ms", 99_999),
            ("1h1m1s1ms", 3_661_001),
        ];
        for (text, millis) in good {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "-1s", "1.5s", "100000s", "1d", "s", "1h1m1s1ms1ms", "1 s"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
