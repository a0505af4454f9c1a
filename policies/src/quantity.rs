//! Quantities as Kubernetes writes them (`resource.Quantity`).

use serde::Deserialize;

/// A number of bytes: `1024`, `"32Ki"`, `"1M"`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Quantity {
    /// Plain.
    Number(u64),
    /// With a unit, perhaps.
    Text(String),
}

impl Quantity {
    /// The number; none if it is none, or not a whole one.
    pub(crate) fn number(&self) -> Option<u64> {
        let text = match self {
            Self::Number(number) => return Some(*number),
            Self::Text(text) => text,
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor: u64 = match unit {
            "" => 1,
            "k" => 1000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            _ => return None,
        };
        number.parse::<u64>().ok()?.checked_mul(factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_and_without_units() {
        for (text, number) in [
            ("7", Some(7)),
            ("32Ki", Some(32 * 1024)),
            ("1M", Some(1_000_000)),
            ("2Gi", Some(2 << 30)),
            ("1.5Mi", None),
            ("Ki", None),
            ("99999999999999999999", None),
            ("18446744073709551615k", None),
        ] {
            assert_eq!(Quantity::Text(text.into()).number(), number, "{text}");
        }
        assert_eq!(Quantity::Number(3).number(), Some(3));
    }
}
