//! Codes of policies: attachment, merging, and what a policy cannot do.

crate::codes! { Semantic;
    POLICY_TARGET_NOT_FOUND = "MG4001", Warning, "a policy's target does not exist",
        "The policy names an object, or a section of it, that is not in this source, so it has no effect. \
         Check kind, name and section name, and that the target lies in the policy's namespace.";
    POLICY_UNSUPPORTED = "MG4101", Warning, "a policy of this kind is not supported yet",
        "The kind is known, but this version does not compile it, and it restricts nothing. It has no effect.";
    POLICY_RESTRICTS = "MG4102", Error, "a policy that restricts access is not supported yet",
        "This version cannot carry the policy out. Because it restricts who may do what, everything that it targets \
         answers 500 until the policy is removed or supported: nothing passes that it would have stopped.";
}
