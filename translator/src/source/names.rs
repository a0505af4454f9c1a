//! Names of files: which are read, and which cannot be the same file everywhere.

use icu_normalizer::ComposingNormalizerBorrowed;

/// True for `.yaml`, `.yml` and `.json`.
pub(super) fn is_configuration(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    extension.is_some_and(|extension| {
        ["yaml", "yml", "json"].iter().any(|ours| extension.eq_ignore_ascii_case(ours))
    })
}

/// True for what stays out of sight: `.git`, `.github` and the like.
pub(super) fn is_hidden(name: &str) -> bool {
    name.starts_with('.')
}

/// The name as file systems see it that ignore case and how accents are composed.
pub(super) fn folded(name: &str) -> String {
    if name.is_ascii() {
        return name.to_ascii_lowercase();
    }
    let nfc = ComposingNormalizerBorrowed::new_nfc();
    nfc.normalize(&nfc.normalize(name).to_lowercase()).into_owned()
}

/// Why a relative path with `/` between cannot be checked out everywhere.
pub(super) fn unusable(path: &str) -> Option<&'static str> {
    path.split('/').find_map(|part| {
        let stem = part.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
        let numbered = |prefix: &str| stem.strip_prefix(prefix).is_some_and(|n| n.len() == 1 && n != "0" && n.bytes().all(|b| b.is_ascii_digit()));
        if part.is_empty() || part == "." || part == ".." {
            Some("it holds path syntax")
        } else if part.chars().any(|c| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}'..='\u{200f}' | '\u{feff}')) {
            Some("it holds a character that cannot be seen")
        } else if part.contains('\\') {
            Some("a backslash separates folders on Windows")
        } else if part.contains(['<', '>', ':', '"', '|', '?', '*']) {
            Some("it holds a character that Windows does not allow")
        } else if part.ends_with(['.', ' ']) {
            Some("it ends with a dot or blank, which Windows drops")
        } else if matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL") || numbered("COM") || numbered("LPT") {
            Some("the name is reserved on Windows")
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_18_names_that_are_one_on_some_systems_fold_alike() {
        assert_eq!(folded("Shop.YAML"), folded("shop.yaml"));
        assert_eq!(folded("caf\u{e9}.yaml"), folded("CAFE\u{301}.yaml"));
        assert_ne!(folded("cafe.yaml"), folded("caf\u{e9}.yaml"));
        for name in [
            "con.yaml",
            "a/AUX/b.yml",
            "com1.x.json",
            "a\\b.yaml",
            "a:b.yaml",
            "x /y.yaml",
            "a./b.yaml",
            "..",
            "a/../b.yaml",
            "a\u{202e}.yaml",
            "a\n.yaml",
        ] {
            assert!(unusable(name).is_some(), "{name:?}");
        }
        for name in ["console.yaml", "com10.yaml", "a b/é.yaml", "lpt.json", "a..b.yaml"] {
            assert_eq!(unusable(name), None, "{name:?}");
        }
    }
}
