//! Policies: objects that change how others are served, one file each.
//!
//! ```text
//!  Object ──▶ AnyPolicy::targets ──▶ (attach: who meets what, who wins)
//!        └──▶ AnyPolicy::compile ──▶ Spec ──validate──▶ lower ──▶ Outcome (effects, verdict, diagnostics)
//! ```
//! A new policy is one file that implements [`Policy`], and two lines here: `mod` and an entry in [`POLICIES`].
//! What a policy can do is the closed list of [`Effects`]; a policy that needs a new power changes that file, under
//! review, and nothing else of the translator has to know the policy.
//!
//! A policy that restricts access fails closed: when it cannot be read or carried out, its effects are
//! [`Policy::refused`], never nothing.

mod backend_tls;
mod backend_traffic;
mod effects;
mod entry;
mod outcome;
mod policy;
mod session;

pub use backend_tls::{BackendTls, Validation, upstream_tls};
pub use backend_traffic::BackendTraffic;
pub use effects::Effects;
pub use entry::AnyPolicy;
pub use outcome::{Judgement, Outcome, Report, Verdict};
pub use policy::{Context, Policy, Target, TargetKind, TrustBundle};
pub use session::{SessionPersistence, session};

use entry::Entry;
use moorgate_model::ObjectRef;

/// Every policy there is.
pub static POLICIES: &[&dyn AnyPolicy] = &[&Entry::<BackendTls>::NEW, &Entry::<BackendTraffic>::NEW];

/// The policy that an object is, if it is one.
pub fn find(object: &ObjectRef) -> Option<&'static dyn AnyPolicy> {
    POLICIES.iter().copied().find(|policy| policy.group() == &*object.group && policy.kind() == &*object.kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Files that are no policies.
    const FRAMEWORK: &[&str] = &["effects", "entry", "lib", "outcome", "policy", "session"];

    #[test]
    fn every_policy_file_is_registered() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let files: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .filter(|name| !FRAMEWORK.contains(&name.as_str()))
            .collect();
        let registered: BTreeSet<String> = POLICIES.iter().map(|policy| policy.file().to_owned()).collect();
        assert_eq!(files, registered);
    }

    #[test]
    fn kinds_are_unique_and_described() {
        let kinds: BTreeSet<_> = POLICIES.iter().map(|policy| (policy.group(), policy.kind())).collect();
        assert_eq!(kinds.len(), POLICIES.len());
        for policy in POLICIES {
            assert!(!policy.docs().is_empty() && !policy.since().is_empty(), "{}", policy.kind());
            assert!(!policy.target_kinds().is_empty() && !policy.versions().is_empty(), "{}", policy.kind());
        }
        let object = ObjectRef::new("gateway.networking.k8s.io", "BackendTLSPolicy", "a", "b");
        assert!(find(&object).is_some());
        assert!(find(&ObjectRef::new("", "BackendTLSPolicy", "a", "b")).is_none());
    }
}
