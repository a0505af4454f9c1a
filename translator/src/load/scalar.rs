//! What an unquoted YAML scalar is.
//!
//! Two versions of YAML and a dozen parsers disagree about unquoted words. Nothing is coerced in silence here: what
//! all agree on is taken, what YAML 1.1 (and with it `kubectl`) takes for a truth value is one, and a number whose
//! notation is read in different ways is an error.
//!
//! | text | is |
//! |---|---|
//! | nothing, `~`, `null` | null |
//! | `true` `false` | a truth value |
//! | `yes` `no` `on` `off` `y` `n`, in any case | a truth value, so a field that wants text reports it |
//! | `12` `+12` `-3` `0` | a whole number; beyond 64 bits an error |
//! | `1.5` `.5` `1.` `1.5e+3` `2E-3` | a number; beyond a double an error |
//! | `010` `0123` `08` | ambiguous: octal in YAML 1.1, decimal in 1.2 |
//! | `0x1F` `0o17` `0b101` | ambiguous: number or text |
//! | `1_000` | ambiguous: number in 1.1, text in 1.2 |
//! | `1:30` `12:30:45` | ambiguous: base 60 in 1.1, text in 1.2 |
//! | `1e3` | ambiguous: text in 1.1 (no sign), number in 1.2 |
//! | `.inf` `-.INF` `.nan` | an error: JSON cannot say it |
//! | `2026-01-31`, `1.2.3`, `10.0.0.0/8`, `1h` and all else | text |

/// An unquoted scalar, resolved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scalar {
    /// Text, as written.
    Text,
    /// Null.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction or exponent.
    Float(f64),
    /// A number in a notation that parsers disagree on.
    Ambiguous(f64),
    /// A number that does not fit, infinity or NaN.
    OutOfRange(f64),
}

/// Resolves unquoted text, by the table of this module.
pub(super) fn resolve(text: &str) -> Scalar {
    match text.as_bytes() {
        [] | [b'~'] => Scalar::Null,
        [b'0'..=b'9' | b'+' | b'-' | b'.', ..] => number(text),
        [b'y' | b'Y' | b'n' | b'N' | b't' | b'T' | b'f' | b'F' | b'o' | b'O', ..] if text.len() <= 5 => {
            word(text)
        }
        _ => Scalar::Text,
    }
}

fn word(text: &str) -> Scalar {
    let is = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is(&["true", "yes", "on", "y"]) {
        Scalar::Bool(true)
    } else if is(&["false", "no", "off", "n"]) {
        Scalar::Bool(false)
    } else if is(&["null"]) {
        Scalar::Null
    } else {
        Scalar::Text
    }
}

fn number(text: &str) -> Scalar {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let sign = if negative { -1.0 } else { 1.0 };
    let Some(first) = digits.bytes().next() else { return Scalar::Text };
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return decimal(text, digits, sign);
    }
    if first == b'.' && [".inf", ".nan"].iter().any(|word| digits.eq_ignore_ascii_case(word)) {
        let value = if digits.eq_ignore_ascii_case(".nan") { f64::NAN } else { f64::INFINITY };
        return Scalar::OutOfRange(sign * value);
    }
    if !(first.is_ascii_digit() || first == b'.') {
        return Scalar::Text;
    }
    if digits.contains('_') {
        let plain = digits.replace('_', "");
        return match number(&plain) {
            Scalar::Int(value) => Scalar::Ambiguous(sign * float(value)),
            Scalar::Float(value) | Scalar::Ambiguous(value) | Scalar::OutOfRange(value) => {
                Scalar::Ambiguous(sign * value)
            }
            _ => Scalar::Text,
        };
    }
    if let [b'0', radix @ (b'x' | b'X' | b'o' | b'O' | b'b' | b'B'), rest @ ..] = digits.as_bytes() {
        let radix = match radix.to_ascii_lowercase() {
            b'x' => 16,
            b'o' => 8,
            _ => 2,
        };
        let all = !rest.is_empty() && rest.iter().all(|byte| char::from(*byte).is_digit(radix));
        return if all { Scalar::Ambiguous(sign * in_radix(&digits[2..], radix)) } else { Scalar::Text };
    }
    if digits.contains(':') {
        return base_60(digits).map_or(Scalar::Text, |value| Scalar::Ambiguous(sign * value));
    }
    fraction(digits, sign)
}

/// Digits only.
fn decimal(text: &str, digits: &str, sign: f64) -> Scalar {
    if digits.len() > 1 && digits.starts_with('0') {
        let octal = digits.bytes().all(|byte| byte < b'8');
        return Scalar::Ambiguous(sign * in_radix(digits, if octal { 8 } else { 10 }));
    }
    text.parse().map_or_else(|_| Scalar::OutOfRange(text.parse().unwrap_or(f64::INFINITY)), Scalar::Int)
}

/// `digits* [. digits*] [e [sign] digits+]`, with a digit before the exponent.
fn fraction(digits: &str, sign: f64) -> Scalar {
    let (mantissa, exponent) = match digits.find(['e', 'E']) {
        Some(at) => (&digits[..at], Some(&digits[at + 1..])),
        None => (digits, None),
    };
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let numeric = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !numeric(whole) || !numeric(part) || (whole.is_empty() && part.is_empty()) {
        return Scalar::Text;
    }
    let signed = exponent.is_none_or(|exponent| exponent.starts_with(['+', '-']));
    if let Some(exponent) = exponent {
        let power = exponent.trim_start_matches(['+', '-']);
        if power.is_empty() || exponent.len() - power.len() > 1 || !numeric(power) {
            return Scalar::Text;
        }
    }
    match digits.parse::<f64>() {
        Ok(value) if !value.is_finite() => Scalar::OutOfRange(sign * value),
        Ok(value) if signed && !(whole.len() > 1 && whole.starts_with('0')) => Scalar::Float(sign * value),
        Ok(value) => Scalar::Ambiguous(sign * value),
        Err(_) => Scalar::Text,
    }
}

/// `[1-9][0-9]*(:[0-5]?[0-9])+`, the last with a fraction if any.
fn base_60(digits: &str) -> Option<f64> {
    let mut total = 0.0;
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    if !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    for (position, group) in whole.split(':').enumerate() {
        let numeric = !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit());
        let fits = if position == 0 {
            !group.starts_with('0')
        } else {
            group.len() <= 2 && group < "6" || group.len() == 1
        };
        if !numeric || !fits {
            return None;
        }
        total = total * 60.0 + group.parse::<f64>().ok()?;
    }
    Some(total + format!("0.{part}0").parse::<f64>().unwrap_or(0.0))
}

fn in_radix(digits: &str, radix: u32) -> f64 {
    digits
        .chars()
        .filter_map(|c| c.to_digit(radix))
        .fold(0.0, |sum, digit| sum * f64::from(radix) + f64::from(digit))
}

#[allow(clippy::cast_precision_loss)] // An ambiguous number is an error whatever its last digits.
fn float(value: i64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_5_unquoted_words_and_numbers_are_never_coerced_in_silence() {
        use Scalar::{Ambiguous, Bool, Float, Int, Null, Text};
        let table: &[(&str, Scalar)] = &[
            ("", Null),
            ("~", Null),
            ("null", Null),
            ("NULL", Null),
            ("true", Bool(true)),
            ("FALSE", Bool(false)),
            ("yes", Bool(true)),
            ("No", Bool(false)),
            ("ON", Bool(true)),
            ("off", Bool(false)),
            ("y", Bool(true)),
            ("N", Bool(false)),
            ("nope", Text),
            ("oncall", Text),
            ("yesno", Text),
            ("0", Int(0)),
            ("-0", Int(0)),
            ("12", Int(12)),
            ("+12", Int(12)),
            ("-3", Int(-3)),
            ("9223372036854775807", Int(i64::MAX)),
            ("-9223372036854775808", Int(i64::MIN)),
            ("1.5", Float(1.5)),
            (".5", Float(0.5)),
            ("1.", Float(1.0)),
            ("-1.5e+3", Float(-1500.0)),
            ("0.1", Float(0.1)),
            ("2E-1", Float(0.2)),
            ("010", Ambiguous(8.0)),
            ("-010", Ambiguous(-8.0)),
            ("08", Ambiguous(8.0)),
            ("00", Ambiguous(0.0)),
            ("0x1F", Ambiguous(31.0)),
            ("0o17", Ambiguous(15.0)),
            ("0b101", Ambiguous(5.0)),
            ("1_000", Ambiguous(1000.0)),
            ("1:30", Ambiguous(90.0)),
            ("12:30:45", Ambiguous(45_045.0)),
            ("1e3", Ambiguous(1000.0)),
            ("1.5e3", Ambiguous(1500.0)),
            ("01.5", Ambiguous(1.5)),
            ("2026-01-31", Text),
            ("2026-01-31T10:00:00Z", Text),
            ("1.2.3", Text),
            ("10.0.0.0/8", Text),
            ("1h", Text),
            ("-", Text),
            (".", Text),
            ("+", Text),
            ("0x", Text),
            ("0xg", Text),
            ("0b2", Text),
            ("1e", Text),
            ("1e+", Text),
            ("1:60", Text),
            ("01:30", Text),
            ("fe80::1", Text),
            ("1::2", Text),
            ("-a", Text),
            ("...", Text),
            ("e3", Text),
            ("+-5", Text),
            ("1e++5", Text),
            ("12e", Text),
            ("1_a", Text),
            ("é", Text),
            ("1é", Text),
        ];
        for (text, expected) in table {
            assert_eq!(resolve(text), *expected, "{text:?}");
        }
    }

    #[test]
    fn row_6_numbers_that_do_not_fit_are_out_of_range() {
        for text in [
            "9223372036854775808",
            "-9223372036854775809",
            ".inf",
            "-.Inf",
            "+.INF",
            ".nan",
            ".NaN",
            "1e+400",
        ] {
            assert!(matches!(resolve(text), Scalar::OutOfRange(_)), "{text}");
        }
    }
}
