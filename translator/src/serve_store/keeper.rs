//! Keeps the store's own authority in a Secret, so that all replicas and all restarts have the same one, and shows the server
//! a certificate of it.

use super::authority::{Authority, AuthorityError, Leaf};
use super::tls::{CertificateError, Shown, of_pem};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use std::collections::BTreeMap;
use std::time::Duration;
use thiserror::Error;
use time::OffsetDateTime;
use tokio::sync::watch;

/// How often the Secret is looked at: far more often than an authority is believed before it signs.
const LOOK: Duration = Duration::from_hours(1);
/// The wait after a failure.
const AGAIN: Duration = Duration::from_secs(2);
/// The API server has so long to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// The key of the Secret with authorities and their keys.
const AUTHORITY: &str = "authority.json";
/// The key with what readers believe, for people and for who runs relays elsewhere.
const BUNDLE: &str = "ca.crt";

/// Keeps an authority.
pub struct Keeper {
    /// The cluster.
    pub client: kube::Client,
    /// The namespace of the Secret.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What the server is called by those who connect.
    pub names: Vec<String>,
    /// The time of day.
    pub now: fn() -> OffsetDateTime,
}

#[derive(Debug, Error)]
enum KeepError {
    #[error("Secret {name}: {source}")]
    Api { name: String, source: Box<kube::Error> },
    #[error("Secret {0}: the API server does not answer")]
    Deadline(String),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl Keeper {
    /// Keeps it as long as somebody looks: the certificate of the server, and what readers believe.
    pub async fn run(self, shown: watch::Sender<Shown>, bundle: watch::Sender<Option<String>>) {
        let mut known: Option<(Authority, Leaf)> = None;
        let mut said = String::new();
        while !shown.is_closed() {
            let wait = match self.turn(&mut known, &shown, &bundle).await {
                Ok(()) => {
                    said.clear();
                    LOOK
                }
                Err(error) => {
                    let error = error.to_string();
                    if said != error {
                        tracing::warn!(
                            error,
                            "the certificate of the store is not kept; what is there stays in use"
                        );
                        said = error;
                    }
                    AGAIN
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn turn(
        &self,
        known: &mut Option<(Authority, Leaf)>,
        shown: &watch::Sender<Shown>,
        bundle: &watch::Sender<Option<String>>,
    ) -> Result<(), KeepError> {
        let now = (self.now)();
        let authority = self.authority(now).await?;
        bundle.send_if_modified(|known| {
            let new = Some(authority.bundle());
            let changed = *known != new;
            *known = new;
            changed
        });
        if known.as_ref().is_some_and(|(of, leaf)| *of == authority && now < leaf.due) {
            return Ok(());
        }
        let leaf = authority.issue(&self.names, now)?;
        shown.send_replace(Some(of_pem(&leaf.chain, &leaf.key)?));
        *known = Some((authority, leaf));
        Ok(())
    }

    /// The authority that the Secret holds: made if there is none, renewed if it is time. Of several replicas one writes, and
    /// the others take what it wrote.
    async fn authority(&self, now: OffsetDateTime) -> Result<Authority, KeepError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = PostParams::default();
        let mut found = self.answer(api.get_opt(&self.name)).await?;
        if found.is_none() {
            let authority = Authority::new(now)?;
            match self.answer(api.create(&params, &self.secret(&authority, None))).await {
                Ok(_) => return Ok(authority),
                Err(KeepError::Api { source, .. }) if is_conflict(&source) => {}
                Err(error) => return Err(error),
            }
            found = self.answer(api.get_opt(&self.name)).await?;
        }
        let found = found.unwrap_or_default();
        let kept = found.data.as_ref().and_then(|data| data.get(AUTHORITY));
        let authority = Authority::read(kept.map_or(&[], |kept| kept.0.as_slice()))?;
        let Some(renewed) = authority.renewed(now)? else { return Ok(authority) };
        let secret = self.secret(&renewed, found.metadata.resource_version.clone());
        match self.answer(api.replace(&self.name, &params, &secret)).await {
            Ok(_) => Ok(renewed),
            // Another replica was faster: its own at the next look.
            Err(KeepError::Api { source, .. }) if is_conflict(&source) => Ok(authority),
            Err(error) => Err(error),
        }
    }

    fn secret(&self, authority: &Authority, version: Option<String>) -> Secret {
        let data = BTreeMap::from([
            (AUTHORITY.to_owned(), ByteString(authority.kept().into_bytes())),
            (BUNDLE.to_owned(), ByteString(authority.bundle().into_bytes())),
        ]);
        let metadata = ObjectMeta {
            name: Some(self.name.clone()),
            namespace: Some(self.namespace.clone()),
            resource_version: version,
            ..ObjectMeta::default()
        };
        Secret { metadata, data: Some(data), ..Secret::default() }
    }

    async fn answer<T>(&self, asked: impl Future<Output = Result<T, kube::Error>>) -> Result<T, KeepError> {
        let name = || format!("{}/{}", self.namespace, self.name);
        match tokio::time::timeout(ANSWER, asked).await {
            Ok(answer) => answer.map_err(|error| KeepError::Api { name: name(), source: Box::new(error) }),
            Err(_) => Err(KeepError::Deadline(name())),
        }
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
