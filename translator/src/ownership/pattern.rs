//! Patterns of the ownership file: paths with `*` and `**`, and words with `*`.

/// Path patterns of one entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Paths(Vec<Vec<String>>);

/// The part of a path pattern that stands for any number of folders.
const ANY: &str = "**";

impl Paths {
    /// Reads patterns; the error says what is wrong with the first bad one.
    ///
    /// Parts are divided by `/`. `*` stands for any text within a part, `**` alone in a part for any number of parts,
    /// also none; a slash at the end means everything below. Everything else is meant literally, and case matters.
    pub(super) fn parse<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        patterns.into_iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a path fits one of the patterns.
    pub(super) fn fit(&self, path: &str) -> bool {
        let parts: Vec<&str> = path.split('/').collect();
        self.0.iter().any(|pattern| {
            matches(
                pattern.len(),
                parts.len(),
                |at| pattern.get(at).is_some_and(|part| part == ANY),
                |at, to| {
                    pattern.get(at).zip(parts.get(to)).is_some_and(|(pattern, part)| word(pattern, part))
                },
            )
        })
    }
}

fn parse(pattern: &str) -> Result<Vec<String>, String> {
    let refuse = |why: &str| Err(format!("{pattern:?} {why}"));
    if pattern.is_empty() || pattern.starts_with('/') {
        return refuse("is no path from the root of the repository: write it without a slash at the start");
    }
    if pattern.contains(['\\', '\0', '?', '[', '{', '!']) {
        return refuse("holds a character that has no meaning in paths here: only * and ** stand for others");
    }
    let (pattern_text, below) = match pattern.strip_suffix('/') {
        Some(folder) => (folder, true),
        None => (pattern, false),
    };
    let mut parts: Vec<String> = Vec::new();
    for part in pattern_text.split('/') {
        match part {
            "" | "." | ".." => return refuse("holds an empty part, . or .., which no file's path has"),
            part if part != ANY && part.contains(ANY) => {
                return refuse("has ** beside other text: it stands alone");
            }
            part => parts.push(part.to_owned()),
        }
    }
    if below {
        parts.push("*".to_owned());
        parts.push(ANY.to_owned());
    }
    Ok(parts)
}

/// Words with `*` for any text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Words(Vec<String>);

impl Words {
    pub(super) fn new<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        Self(words.into_iter().map(str::to_owned).collect())
    }

    /// Whether a text fits one of the words.
    pub(super) fn fit(&self, text: &str) -> bool {
        self.0.iter().any(|pattern| word(pattern, text))
    }

    /// For messages.
    pub(super) fn list(&self) -> String {
        if self.0.is_empty() { "none".to_owned() } else { self.0.join(", ") }
    }
}

fn word(pattern: &str, text: &str) -> bool {
    if !pattern.contains('*') {
        return pattern == text;
    }
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    matches(
        pattern.len(),
        text.len(),
        |at| pattern.get(at) == Some(&b'*'),
        |at, to| pattern.get(at) == text.get(to),
    )
}

/// Whether a sequence fits a pattern in which some elements (`any`) stand for any number of others. Pattern times text
/// steps at most, whatever the pattern.
fn matches(
    pattern: usize,
    text: usize,
    any: impl Fn(usize) -> bool,
    one: impl Fn(usize, usize) -> bool,
) -> bool {
    let (mut at, mut to) = (0, 0);
    // The last element that stood for any number, and where it ends now.
    let mut back: Option<(usize, usize)> = None;
    while to < text {
        if at < pattern && any(at) {
            back = Some((at, to));
            at += 1;
        } else if at < pattern && one(at, to) {
            at += 1;
            to += 1;
        } else if let Some((star, end)) = back {
            back = Some((star, end + 1));
            at = star + 1;
            to = end + 1;
        } else {
            return false;
        }
    }
    (at..pattern).all(any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_fit_by_their_parts() {
        for (pattern, path, expected) in [
            ("teams/shop/", "teams/shop/route.yaml", true),
            ("teams/shop/", "teams/shop/a/b/route.yaml", true),
            ("teams/shop/", "teams/shop", false),
            ("teams/shop/", "teams/shopping/route.yaml", false),
            ("teams/shop", "teams/shop/route.yaml", false),
            ("teams/*/routes.yaml", "teams/shop/routes.yaml", true),
            ("teams/*/routes.yaml", "teams/a/b/routes.yaml", false),
            ("teams/**/routes.yaml", "teams/routes.yaml", true),
            ("teams/**/routes.yaml", "teams/a/b/routes.yaml", true),
            ("teams/shop-*.yaml", "teams/shop-eu.yaml", true),
            ("teams/shop-*.yaml", "teams/shop-/eu.yaml", false),
            ("**", "a/b.yaml", true),
            ("*", "a/b.yaml", false),
            ("-", "-", true),
            ("Teams/", "teams/a.yaml", false),
            ("a/**/b/**/c", "a/x/b/y/z/c", true),
            ("a/**/b/**/c", "a/x/y/z/c", false),
        ] {
            assert_eq!(Paths::parse([pattern]).unwrap().fit(path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn what_could_mean_something_else_is_refused() {
        for pattern in
            ["", "/a", "a//b", "../a", "a/../b", "./a", "a\\b", "a/**b", "a?", "[a]", "{a,b}", "!a", "a//"]
        {
            assert!(Paths::parse([pattern]).is_err(), "{pattern:?}");
        }
    }

    /// Backtracking into earlier stars would take exponential time here.
    #[test]
    fn hostile_patterns_take_little_time() {
        let pattern = "a*".repeat(500) + "b";
        assert!(!word(&pattern, &"a".repeat(5000)));
        let pattern = "**/a/".repeat(200) + "b";
        assert!(!Paths::parse([pattern.as_str()]).unwrap().fit(&"a/".repeat(1000)));
    }
}
