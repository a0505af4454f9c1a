//! Names that Kubernetes takes: 63 characters for labels and Services, where a Gateway's name may have 253.

use moorgate_snapshot::{Digest, FleetName};

/// The longest label value, and the longest name of a Service.
const LONGEST: usize = 63;
/// Letters of a digest behind a name that was changed.
const DIGEST: usize = 10;

/// The name of a Gateway's objects: `<gateway>-<class>` as GEP-1762 has it, with a digest where that is too long, is no
/// name of a Service, or could be another Gateway's too (`a-b` of class `c`, and `a` of class `b-c`).
pub(super) fn object(gateway: &str, class: &str) -> String {
    let plain = format!("{gateway}-{class}");
    let fit: String = plain.chars().map(|c| if c == '.' { '-' } else { c }).collect();
    let fit = if fit.starts_with(|c: char| c.is_ascii_digit()) { format!("gw-{fit}") } else { fit };
    // Room for the suffixes of further objects.
    if fit == plain && !class.contains('-') && fit.len() < LONGEST - DIGEST {
        return plain;
    }
    shortened(&fit, &digest(&[gateway, class]), LONGEST - DIGEST - 1)
}

/// The name of the objects of a merged class. With its digest it is no Gateway's, whatever that is called.
pub(super) fn of_class(class: &str) -> String {
    let fit: String = class.chars().map(|c| if c == '.' { '-' } else { c }).collect();
    let fit = if fit.starts_with(|c: char| c.is_ascii_digit()) { format!("gw-{fit}") } else { fit };
    shortened(&fit, &digest(&["", class]), LONGEST - DIGEST - 1)
}

/// The name of the relays of a class, for all its fleets.
pub(super) fn pool(class: &str) -> String {
    suffixed(&of_class(class), "relays")
}

/// Whether relays in pods of their own may be called so.
pub(crate) fn is_of_relays(name: &str) -> bool {
    name == super::node::NAME || name.ends_with("-relays")
}

/// A name with something behind it, within the bound.
pub(super) fn suffixed(name: &str, suffix: &str) -> String {
    let whole = format!("{name}-{suffix}");
    if whole.len() <= LONGEST { whole } else { shortened(name, &digest(&[name, suffix]), LONGEST) }
}

/// A label value that stands for a name: the name itself if it fits, else its beginning and a digest.
pub(super) fn label(name: &str) -> String {
    if name.len() <= LONGEST { name.to_owned() } else { shortened(name, &digest(&[name]), LONGEST) }
}

/// A label value that stands for a fleet.
pub(super) fn fleet(fleet: &FleetName) -> String {
    digest(&[&fleet.to_string()])
}

/// A few letters that tell texts apart.
pub(super) fn digest(parts: &[&str]) -> String {
    let digest = Digest::of(parts.join("\0").as_bytes()).to_string();
    let hex = digest.rsplit(':').next().unwrap_or_default();
    hex.chars().take(DIGEST).collect()
}

fn shortened(name: &str, digest: &str, longest: usize) -> String {
    let room = longest - DIGEST - 1;
    let start: String = name.chars().take(room).collect();
    format!("{}-{digest}", start.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// DNS-1035, the rule for Services.
    fn is_service_name(name: &str) -> bool {
        name.len() <= LONGEST
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.ends_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    }

    #[test]
    fn a_plain_name_is_that_of_the_gep() {
        assert_eq!(object("edge", "moorgate"), "edge-moorgate");
        assert_eq!(suffixed("edge-moorgate", "report"), "edge-moorgate-report");
    }

    #[test]
    fn names_are_fit_for_services_and_differ() {
        let long = "g".repeat(253);
        let other = format!("{}h", "g".repeat(252));
        let dotted = "a.".repeat(126) + "b";
        let pairs = [
            ("edge", "moorgate"),
            (long.as_str(), "moorgate"),
            (other.as_str(), "moorgate"),
            (long.as_str(), other.as_str()),
            (dotted.as_str(), "moorgate"),
            ("1", "c"),
            ("gw-1", "c"),
            ("a.b", "c"),
            ("a-b", "c"),
            ("a", "b-c"),
            ("a", "b.c"),
            ("7", "a-b"),
        ];
        let mut names: BTreeSet<String> =
            pairs.iter().map(|(gateway, class)| object(gateway, class)).collect();
        let classes = ["c", "a.b", "a-b", "7", long.as_str(), other.as_str()];
        names.extend(classes.iter().map(|class| of_class(class)));
        assert_eq!(names.len(), pairs.len() + classes.len(), "{names:?}");
        for name in &names {
            assert!(is_service_name(name), "{name}");
            for suffix in ["report", "0123456789", &long] {
                assert!(is_service_name(&suffixed(name, suffix)), "{name} {suffix}");
            }
        }
    }

    #[test]
    fn labels_keep_what_fits() {
        assert_eq!(label(&"x".repeat(63)), "x".repeat(63));
        let (a, b) = (label(&"x".repeat(64)), label(&"x".repeat(65)));
        assert_ne!(a, b);
        assert_eq!((a.len(), b.len()), (63, 63));
        // The cut falls on a dot: a label value ends with a letter or digit.
        let dots = format!("{}....{}", "x".repeat(50), "y".repeat(50));
        assert!(label(&dots).starts_with(&format!("{}-", "x".repeat(50))), "{}", label(&dots));
    }
}
