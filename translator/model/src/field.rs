//! Paths to fields, written as the Kubernetes API server writes them.

use std::fmt;

/// One step of a [`FieldPath`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Segment {
    /// A field of a mapping.
    Key(Box<str>),
    /// An item of a list, from zero.
    Index(usize),
}

/// The way from an object's root to one of its fields: `spec.rules[0].matches[1].path`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldPath(Vec<Segment>);

impl FieldPath {
    /// The root of the object.
    pub fn root() -> Self {
        Self::default()
    }

    /// Parses `spec.rules[0].name`; keys that hold a dot or bracket are written `["a.b"]`.
    /// Anything that does not parse is taken as one key, so that no message is lost.
    pub fn parse(text: &str) -> Self {
        let mut path = Self::root();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("[\"") {
                let Some(end) = after.find("\"]") else { return Self::root().key(text) };
                path = path.key(&after[..end]);
                rest = &after[end + 2..];
            } else if let Some(after) = rest.strip_prefix('[') {
                let Some(end) = after.find(']') else { return Self::root().key(text) };
                let Ok(index) = after[..end].parse() else { return Self::root().key(text) };
                path = path.index(index);
                rest = &after[end + 1..];
            } else {
                rest = rest.strip_prefix('.').unwrap_or(rest);
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                path = path.key(&rest[..end]);
                rest = &rest[end..];
            }
        }
        path
    }

    /// This path, one field deeper.
    #[must_use]
    pub fn key(&self, name: &str) -> Self {
        let mut segments = self.0.clone();
        segments.push(Segment::Key(name.into()));
        Self(segments)
    }

    /// This path, one list item deeper.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        let mut segments = self.0.clone();
        segments.push(Segment::Index(index));
        Self(segments)
    }

    /// This path followed by another.
    #[must_use]
    pub fn join(&self, tail: &Self) -> Self {
        let mut segments = self.0.clone();
        segments.extend(tail.0.iter().cloned());
        Self(segments)
    }

    /// Adds a step in place: for walkers that keep one path for a whole object.
    pub fn push(&mut self, segment: Segment) {
        self.0.push(segment);
    }

    /// Takes the last step off.
    pub fn pop(&mut self) -> Option<Segment> {
        self.0.pop()
    }

    /// The steps from the root.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// True for the root itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Key(key) if key.is_empty() || key.contains(['.', '[', ']']) => {
                    write!(f, "[\"{key}\"]")?;
                }
                Segment::Key(key) if position == 0 => f.write_str(key)?,
                Segment::Key(key) => write!(f, ".{key}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_the_api_server_does_and_parses_back() {
        let path = FieldPath::root().key("metadata").key("labels").key("a.b/c").key("x").index(3).key("y");
        assert_eq!(path.to_string(), "metadata.labels[\"a.b/c\"].x[3].y");
        assert_eq!(FieldPath::parse(&path.to_string()), path);
    }

    #[test]
    fn broken_text_stays_one_key() {
        assert_eq!(FieldPath::parse("a[b"), FieldPath::root().key("a[b"));
    }
}
