//! Kubernetes objects as read, and references to them.

use crate::diagnostic::{Code, Diagnostic};
use crate::field::FieldPath;
use crate::node::Node;
use crate::origin::Origin;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Names one object: group, kind, namespace and name. Cluster-scoped objects have an empty namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// The API group, empty for core.
    pub group: Arc<str>,
    /// The kind, such as `HTTPRoute`.
    pub kind: Arc<str>,
    /// The namespace, empty if the kind has none.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectRef {
    /// A reference from its four parts.
    pub fn new(group: &str, kind: &str, namespace: &str, name: &str) -> Self {
        Self { group: group.into(), kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// An object with its place and its tree, defaults applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Which object it is.
    pub reference: ObjectRef,
    /// The version of its API group, such as `v1`.
    pub version: Arc<str>,
    /// Where it was read.
    pub origin: Origin,
    /// Its whole tree, from `apiVersion` on.
    pub root: Node,
}

impl Object {
    /// The value at a path from the root.
    pub fn at(&self, path: &str) -> Option<&Node> {
        self.root.at(&FieldPath::parse(path))
    }

    /// A diagnostic about one of its fields, with `file:line:col`.
    pub fn diagnostic(
        &self,
        code: &'static Code,
        field: FieldPath,
        message: impl Into<String>,
    ) -> Diagnostic {
        let span = self.root.locate(&field);
        Diagnostic::new(code, message).about(self.reference.clone(), field).at(self.origin.file.clone(), span)
    }
}
