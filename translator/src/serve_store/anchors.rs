//! The ledger in ConfigMaps: one for each channel of each fleet, a few kilobytes.

use super::ledger::{Anchor, Anchors, LedgerError};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use moorgate_snapshot::Digest;
use std::collections::BTreeMap;
use std::time::Duration;

/// Which store an object belongs to.
const LABEL: &str = "moorgate.dev/store";
/// The API server has so long to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Letters of a digest in a name.
const DIGEST: usize = 20;

/// ConfigMaps of one namespace.
pub struct ConfigMaps {
    api: Api<ConfigMap>,
    namespace: String,
    store: String,
}

impl ConfigMaps {
    /// Those of the store of this name.
    pub fn new(client: kube::Client, namespace: &str, store: &str) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, namespace: namespace.to_owned(), store: store.to_owned() }
    }

    fn name(&self, anchor: &Anchor) -> String {
        let parts = [self.store.as_str(), "\0", &anchor.fleet.to_string(), "\0", anchor.channel.as_str()];
        let digest = Digest::of_parts(parts.iter().map(|part| part.as_bytes())).to_string();
        format!("moorgate-store-{}", digest.chars().take(DIGEST).collect::<String>())
    }

    fn object(&self, anchor: &Anchor) -> ConfigMap {
        let data = [
            ("fleet", anchor.fleet.to_string()),
            ("channel", anchor.channel.to_string()),
            ("sequence", anchor.sequence.to_string()),
            ("entry", anchor.entry.clone()),
        ];
        let metadata = ObjectMeta {
            name: Some(self.name(anchor)),
            namespace: Some(self.namespace.clone()),
            labels: Some(BTreeMap::from([(LABEL.to_owned(), self.store.clone())])),
            resource_version: anchor.version.clone(),
            ..ObjectMeta::default()
        };
        let data = data.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        ConfigMap { metadata, data: Some(data), ..ConfigMap::default() }
    }
}

/// What a ConfigMap holds.
fn read(object: &ConfigMap) -> Option<Anchor> {
    let text = |key: &str| object.data.as_ref()?.get(key);
    Some(Anchor {
        fleet: text("fleet")?.parse().ok()?,
        channel: text("channel")?.parse().ok()?,
        sequence: text("sequence")?.parse().ok()?,
        entry: text("entry")?.clone(),
        version: object.metadata.resource_version.clone(),
    })
}

async fn answer<T>(
    asked: impl Future<Output = Result<T, kube::Error>>,
) -> Result<Result<T, kube::Error>, LedgerError> {
    let late = || LedgerError::Api("the API server does not answer".to_owned());
    tokio::time::timeout(ANSWER, asked).await.map_err(|_| late())
}

fn failed(error: &kube::Error) -> LedgerError {
    LedgerError::Api(crate::source::cluster::said(error))
}

impl Anchors for ConfigMaps {
    fn all(&self) -> BoxFuture<'_, Result<Vec<Anchor>, LedgerError>> {
        Box::pin(async move {
            let params = ListParams::default().labels(&format!("{LABEL}={}", self.store));
            let found = answer(self.api.list(&params)).await?.map_err(|error| failed(&error))?;
            Ok(found.items.iter().filter_map(read).collect())
        })
    }

    fn write<'a>(&'a self, anchor: &'a Anchor) -> BoxFuture<'a, Result<String, LedgerError>> {
        Box::pin(async move {
            let (object, params) = (self.object(anchor), PostParams::default());
            let written = match &anchor.version {
                Some(_) => answer(self.api.replace(&self.name(anchor), &params, &object)).await?,
                None => answer(self.api.create(&params, &object)).await?,
            };
            match written {
                Ok(object) => Ok(object.metadata.resource_version.unwrap_or_default()),
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    Err(LedgerError::Overtaken(anchor.fleet.clone()))
                }
                Err(error) => Err(failed(&error)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_is_read_as_it_was_written() {
        let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::empty()))
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let maps = ConfigMaps::new(kube::Client::new(service, "default"), "infra", "watch");
        let anchor = |fleet: &str| Anchor {
            fleet: fleet.parse().unwrap(),
            channel: moorgate_snapshot::Channel::stable(),
            sequence: 7,
            entry: "{}".to_owned(),
            version: Some("12".to_owned()),
        };
        let object = maps.object(&anchor("shop/edge"));
        assert_eq!(read(&object), Some(anchor("shop/edge")));
        assert_eq!(object.metadata.labels.unwrap()[LABEL], "watch");
        assert_ne!(maps.name(&anchor("shop/edge")), maps.name(&anchor("class/edge")));
        assert_eq!(read(&ConfigMap::default()), None);
    }
}
