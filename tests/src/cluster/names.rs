//! Names, labels and times of objects, and where things are in a cluster's folder.

use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt as _};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// `namespace/name`, or the name.
pub(super) fn key<K: Resource>(object: &K) -> String {
    match &object.meta().namespace {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}

/// Now, as Kubernetes writes times in objects: RFC 3339, in seconds.
pub(super) fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A condition that holds or not, since when.
pub(super) fn condition(kind: &str, holds: bool, since: &str) -> Value {
    serde_json::json!({"type": kind, "status": if holds { "True" } else { "False" }, "lastTransitionTime": since})
}

/// A cluster's folder.
#[derive(Debug, Clone)]
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    /// A path in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What belongs to one pod.
    pub(super) fn pod(&self, uid: &str) -> PathBuf {
        self.0.join("pods").join(uid)
    }

    /// The log of one run of a container.
    pub(super) fn container_log(&self, pod: &str, container: &str) -> PathBuf {
        self.0.join("logs/pods").join(pod.replace('/', "_")).join(format!("{container}.log"))
    }
}

/// The part of a path behind its root.
pub(super) fn relative(path: &str) -> &Path {
    Path::new(path.trim_start_matches('/'))
}
