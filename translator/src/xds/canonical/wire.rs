//! Walks over the fields of an encoded message.

use super::CanonicalError;
use std::ops::Range;

/// A cursor over the fields of one message. It holds no borrow, so that values may be changed between steps.
#[derive(Default)]
pub(super) struct Fields {
    at: usize,
}

/// One field on the wire.
pub(super) struct Field {
    pub(super) number: u32,
    /// Key, length and content.
    pub(super) whole: Range<usize>,
    /// The value of a field that is not delimited.
    pub(super) scalar: u64,
    /// The content of a delimited field.
    content: Option<Range<usize>>,
}

impl Field {
    pub(super) fn is_delimited(&self) -> bool {
        self.content.is_some()
    }

    /// The content, empty if the field is not delimited.
    pub(super) fn value<'b>(&self, message: &'b mut [u8]) -> &'b mut [u8] {
        self.content.clone().and_then(|range| message.get_mut(range)).unwrap_or_default()
    }
}

impl Fields {
    /// The next field, or `None` at the end.
    pub(super) fn next(&mut self, message: &[u8]) -> Result<Option<Field>, CanonicalError> {
        let start = self.at;
        if start >= message.len() {
            return Ok(None);
        }
        let key = self.varint(message)?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number != 0);
        let mut field = Field {
            number: number.ok_or(CanonicalError::Malformed)?,
            whole: start..start,
            scalar: 0,
            content: None,
        };
        match key & 7 {
            0 => field.scalar = self.varint(message)?,
            1 => field.scalar = self.fixed(message, 8)?,
            5 => field.scalar = self.fixed(message, 4)?,
            2 => {
                let length = usize::try_from(self.varint(message)?).map_err(|_| CanonicalError::Malformed)?;
                let end = self.at.checked_add(length).filter(|end| *end <= message.len());
                let end = end.ok_or(CanonicalError::Malformed)?;
                field.content = Some(self.at..end);
                self.at = end;
            }
            3 | 4 => return Err(CanonicalError::Group),
            _ => return Err(CanonicalError::Malformed),
        }
        field.whole.end = self.at;
        Ok(Some(field))
    }

    fn varint(&mut self, message: &[u8]) -> Result<u64, CanonicalError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *message.get(self.at).ok_or(CanonicalError::Malformed)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(CanonicalError::Malformed)
    }

    fn fixed(&mut self, message: &[u8], width: usize) -> Result<u64, CanonicalError> {
        let bytes = message.get(self.at..self.at + width).ok_or(CanonicalError::Malformed)?;
        self.at += width;
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }
}
