//! References across namespaces: one function decides them all.

use super::index::Index;

/// A reference that may be followed. It can be made only here, so no code path can forget the grant.
#[derive(Debug, Clone)]
pub(super) struct Permitted {
    /// The namespace that is referred to.
    pub(super) namespace: String,
    /// The name that is referred to.
    pub(super) name: String,
}

/// Who refers.
#[derive(Debug, Clone, Copy)]
pub(super) struct From<'a> {
    pub(super) group: &'a str,
    pub(super) kind: &'a str,
    pub(super) namespace: &'a str,
}

/// What is referred to.
#[derive(Debug, Clone, Copy)]
pub(super) struct To<'a> {
    pub(super) group: &'a str,
    pub(super) kind: &'a str,
    pub(super) namespace: Option<&'a str>,
    pub(super) name: &'a str,
}

/// Follows a reference if it stays in its namespace or a `ReferenceGrant` of the target namespace allows it.
/// Existence plays no part, so a refusal says nothing about what exists (ReferenceGrant, security considerations).
pub(super) fn permit(index: &Index<'_>, from: From<'_>, to: To<'_>) -> Option<Permitted> {
    let namespace = to.namespace.unwrap_or(from.namespace);
    let granted = || {
        index.grants(namespace).iter().any(|grant| {
            grant.spec.from.iter().any(|allowed| {
                allowed.group == from.group
                    && allowed.kind == from.kind
                    && allowed.namespace == from.namespace
            }) && grant.spec.to.iter().any(|allowed| {
                allowed.group == to.group
                    && allowed.kind == to.kind
                    && allowed.name.as_deref().is_none_or(|name| name.is_empty() || name == to.name)
            })
        })
    };
    (namespace == from.namespace || granted())
        .then(|| Permitted { namespace: namespace.to_owned(), name: to.name.to_owned() })
}
