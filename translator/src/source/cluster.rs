//! A live cluster as a source: the objects of its API server, in the form of files.
//!
//! ```text
//! discovery ─▶ kinds ─▶ list or watch ─▶ Live: text without status, managed fields and versions ─▶ File
//!                                        references ─▶ Secrets and ConfigMaps, each by its name
//! ```
//! What the API server keeps for itself (status, managed fields, resource versions) is put aside, so that the text of an
//! object changes only when somebody changes the object, and the same objects give the same snapshot as their YAML.
//! Secrets are never listed: those that Gateways of ours name are read one by one, and their keys are dropped while they
//! are decoded.

mod credential;
mod kinds;
mod live;
mod named;

pub use credential::{Access, connect};
pub use kinds::{Kind, core, kinds};
pub use live::{Live, Objects};
pub use named::{Named, read_named, references};

use super::{Root, Sources};
use kube::api::{Api, DynamicObject, ListParams};
use kube::{Client, Error};
use moorgate_model::ObjectRef;
use moorgate_snapshot::Digest;
use moorgate_snapshot::attestation::Material;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// The group of Kubernetes' standard experiments with the Gateway API.
const EXPERIMENTAL_GROUP: &str = "gateway.networking.x-k8s.io";
/// Groups of which every kind is read that the cluster serves.
pub const GROUPS: [&str; 4] =
    [crate::attach::GATEWAY_GROUP, EXPERIMENTAL_GROUP, "gateway.envoyproxy.io", crate::inputs::GROUP];
/// An answer of the API server must be there within this time.
pub const DEADLINE: Duration = Duration::from_secs(15);
/// Objects in one answer of a list.
const PAGE: u32 = 500;

/// Why a cluster cannot be read.
#[derive(Debug, Error)]
pub enum ClusterError {
    /// The kubeconfig, or the service account of this pod.
    #[error("no way to a cluster: {0}")]
    Credentials(String),
    /// The API server refused, or could not be reached.
    #[error("the API server does not give {what}: {}", said(source))]
    Api {
        /// What was asked for.
        what: String,
        /// What it answered.
        #[source]
        source: Box<Error>,
    },
    /// No answer.
    #[error("the API server did not give {0} within {DEADLINE:?}")]
    Deadline(String),
}

/// An answer of the API server in one sentence.
pub(crate) fn said(error: &Error) -> String {
    match error {
        Error::Api(status) => status.message.clone(),
        other => {
            let mut text = other.to_string();
            let mut cause = std::error::Error::source(other);
            while let Some(next) = cause {
                let more = next.to_string();
                if !text.contains(&more) {
                    text = format!("{text}: {more}");
                }
                cause = next.source();
            }
            text
        }
    }
}

/// Whether the API server says that there is no such thing.
pub(crate) fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 404)
}

/// The state of a cluster that was compiled: stands where a git commit stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stand {
    /// The cluster: the UID of its namespace `kube-system`, or its URL if that cannot be read.
    pub cluster: Arc<str>,
    /// The newest resource version that had been seen: Kubernetes lets those of one cluster be compared.
    pub resource_version: u64,
    /// A digest over all texts: two replicas that saw the same agree on it.
    pub digest: Digest,
}

impl Stand {
    /// What an entry of the log says instead of repository, commit and tree.
    pub fn source(&self) -> moorgate_snapshot::channel::Source {
        moorgate_snapshot::channel::Source {
            repository: format!("kubernetes:{}", self.cluster),
            revision: format!("{REVISION}{}", self.resource_version),
            tree: self.digest.to_string(),
            committed: None,
        }
    }

    /// What provenance says of it. It cannot be read again later: the digest is what it was.
    pub fn material(&self) -> Material {
        let annotations = [("resourceVersion", serde_json::json!(self.resource_version))];
        Material {
            uri: format!("kubernetes:{}", self.cluster),
            digest: BTreeMap::from([("sha256".to_owned(), self.digest.to_string())]),
            annotations: annotations.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            ..Material::default()
        }
    }
}

/// What a resource version starts with where a commit is expected.
const REVISION: &str = "resourceVersion:";

/// Whether the second state of a cluster is at least as new as the first; none if one is no state of a cluster.
pub fn descends(old: &str, new: &str) -> Option<bool> {
    let number = |text: &str| text.strip_prefix(REVISION)?.parse::<u64>().ok();
    Some(number(old)? <= number(new)?)
}

/// Waits for an answer, not for ever.
pub(crate) async fn answer<T>(
    what: impl FnOnce() -> String,
    request: impl Future<Output = Result<T, Error>>,
) -> Result<T, ClusterError> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(ClusterError::Api { what: what(), source: Box::new(source) }),
        Err(_) => Err(ClusterError::Deadline(what())),
    }
}

/// Reads everything that a compile needs, once.
pub async fn read(client: &Client, url: &str, controller_name: &str) -> Result<Sources, ClusterError> {
    let mut objects = Objects::default();
    for kind in core().into_iter().chain(kinds(client).await?) {
        list(client, &kind, &mut objects).await?;
    }
    let named = read_named(client, &references(&objects, controller_name)).await?;
    named.into_iter().flatten().for_each(|live| objects.insert(live));
    Ok(sources(&objects, url))
}

async fn list(client: &Client, kind: &Kind, objects: &mut Objects) -> Result<(), ClusterError> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind.resource);
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let what = || format!("the objects of kind {}", kind.resource.kind);
        let page = match answer(what, api.list(&params)).await {
            // A CRD that was removed since discovery.
            Err(ClusterError::Api { source, .. }) if is_missing(&source) => return Ok(()),
            page => page?,
        };
        objects.seen(page.metadata.resource_version.as_deref());
        page.items
            .into_iter()
            .filter_map(|object| Live::of(object, kind))
            .for_each(|live| objects.insert(live));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(()),
        }
    }
}

/// Objects as the files of a source.
pub fn sources(objects: &Objects, url: &str) -> Sources {
    let files = objects.files();
    let parts = files.iter().flat_map(|file| [file.name.as_bytes(), b"\0", &file.bytes, b"\0"]);
    let digest = Digest::of_parts(parts);
    let system = ObjectRef::new("", "Namespace", "", "kube-system");
    let uid = objects.get(&system).map(|live| live.uid.clone()).filter(|uid| !uid.is_empty());
    let cluster: Arc<str> = uid.unwrap_or_else(|| url.into());
    let stand = Stand { cluster: cluster.clone(), resource_version: objects.newest(), digest };
    let root =
        Root { label: "".into(), repository: format!("kubernetes:{cluster}").into(), folder: "".into() };
    Sources { files, roots: vec![root], cluster: Some(stand), ..Sources::default() }
}

/// The objects of a cluster by name.
pub type ByName = BTreeMap<ObjectRef, Arc<Live>>;

#[cfg(test)]
mod tests;
