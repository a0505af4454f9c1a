//! Codes of policies: attachment, merging, and what a policy cannot do.

crate::codes! { Semantic;
    POLICY_TARGET_NOT_FOUND = "MG4001", Warning, "a policy's target does not exist",
        "The policy names an object, or a section of it, that is not in this source, so it has no effect. \
         Check kind, name and section name, and that the target lies in the policy's namespace.";
}
