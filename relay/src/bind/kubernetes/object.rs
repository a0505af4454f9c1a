//! One object by its name. Lists are never asked for: a watch that selects the name is opened first, then the object is
//! asked for, so that nothing can happen between the two.

use super::ask::{Fault, status_fault};
use super::keeper::Tools;
use crate::bind::live::{Kind, Object, Pem, Subject};
use futures::StreamExt as _;
use k8s_openapi::ByteString;
use kube::core::params::{GetParams, WatchParams};
use kube::core::{Request, WatchEvent};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// A watch that ends sooner than this, and told nothing, did not work.
const TOO_SHORT: Duration = Duration::from_secs(1);

/// The versions of an API group in which a kind may be served, the newest first.
fn versions(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Secret | Kind::Entries | Kind::ConfigMap => &["/api/v1"],
        Kind::ClusterTrustBundle => &["/apis/certificates.k8s.io/v1", "/apis/certificates.k8s.io/v1beta1"],
    }
}

/// How asking or watching ended.
struct Round {
    fault: Option<Fault>,
    worked: bool,
}

/// Follows an object for ever: by a watch, or by asking from time to time.
pub(super) async fn follow(object: Object, watched: bool, tools: Tools) {
    let subject = Subject::Object(object.clone());
    let follower = Follower { object, subject, tools };
    let mut failures = 0;
    let mut version = 0;
    loop {
        let group = versions(follower.object.kind);
        let url = follower.url(group[version % group.len()]);
        let round = if watched { follower.watch(&url).await } else { follower.poll(&url).await };
        if round.worked {
            failures = 0;
        }
        let fault = match round.fault {
            None if round.worked => continue,
            None => Fault::Failed("watches end at once".to_owned()),
            Some(fault) => fault,
        };
        if fault == Fault::Missing {
            version += 1;
            // A kind that is served in none of its versions has no objects.
            if version % group.len() == 0 {
                follower.tools.live.tell(&follower.object, None);
            }
        }
        follower.tools.rest(&follower.subject, &fault, failures).await;
        failures = failures.saturating_add(1);
    }
}

struct Follower {
    object: Object,
    subject: Subject,
    tools: Tools,
}

impl Follower {
    fn url(&self, group: &str) -> String {
        let plural = self.object.kind.plural();
        if self.object.namespace.is_empty() {
            format!("{group}/{plural}")
        } else {
            format!("{group}/namespaces/{}/{plural}", self.object.namespace)
        }
    }

    /// Asks for the object and tells what there is; its version.
    async fn ask(&self, url: &str) -> Result<Option<u64>, Fault> {
        let request = Request::new(url).get(&self.object.name, &GetParams::default());
        let object: Value = self.tools.api.one(request).await?;
        self.tools.fine(&self.subject);
        let version = version(&object);
        self.tell(object)?;
        Ok(version)
    }

    /// Asks, and rests until it is time to ask again.
    async fn poll(&self, url: &str) -> Round {
        match self.ask(url).await {
            Err(Fault::Missing) if self.object.kind != Kind::ClusterTrustBundle => {
                self.tools.fine(&self.subject);
                self.tools.live.tell(&self.object, None);
            }
            Err(fault) => return Round { fault: Some(fault), worked: false },
            Ok(_) => {}
        }
        tokio::time::sleep(self.tools.jitter.around(self.tools.api.pace.poll)).await;
        Round { fault: None, worked: true }
    }

    async fn watch(&self, url: &str) -> Round {
        let selector = format!("metadata.name={}", self.object.name);
        let params = WatchParams::default().fields(&selector).timeout(self.tools.span());
        // Without a version a watch begins with what there is: the version of an old object would be long forgotten.
        let request = Request::new(url).watch(&params, "");
        let mut events = match self.tools.api.watch(request).await {
            Ok(events) => Box::pin(events),
            Err(fault) => return Round { fault: Some(fault), worked: false },
        };
        self.tools.metrics.count("moorgate_relay_watch_lists", &[("kind", self.subject.plural())]);
        let mut seen = match self.ask(url).await {
            Ok(version) => version,
            // The kind is served: the watch was opened. It is the object that is not there.
            Err(Fault::Missing) => {
                self.tools.fine(&self.subject);
                self.tools.live.tell(&self.object, None);
                None
            }
            Err(fault) => return Round { fault: Some(fault), worked: false },
        };
        let began = Instant::now();
        while let Some(event) = events.next().await {
            match event.and_then(|event| self.take(event, &mut seen)) {
                Ok(()) => self.tools.fine(&self.subject),
                Err(fault) => return Round { fault: Some(fault), worked: began.elapsed() >= TOO_SHORT },
            }
        }
        // A watch begins with an event for what there is: that alone is no sign that it works.
        Round { fault: None, worked: began.elapsed() >= TOO_SHORT }
    }

    fn take(&self, event: WatchEvent<Value>, seen: &mut Option<u64>) -> Result<(), Fault> {
        let (object, gone) = match event {
            WatchEvent::Bookmark(_) => return Ok(()),
            WatchEvent::Error(status) => return Err(status_fault(&status)),
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
            WatchEvent::Deleted(object) => (object, true),
        };
        // Events from before the object was asked for bring nothing new.
        let version = version(&object);
        if version.zip(*seen).is_some_and(|(version, seen)| version <= seen) {
            return Ok(());
        }
        *seen = version.or(*seen);
        self.tools.metrics.count("moorgate_relay_watch_events", &[("kind", self.subject.plural())]);
        if gone {
            self.tools.live.tell(&self.object, None);
            Ok(())
        } else {
            self.tell(object)
        }
    }

    fn tell(&self, object: Value) -> Result<(), Fault> {
        // A server that ignores the selector must not pass off another object.
        let is_it = object.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Value::as_str);
        if is_it != Some(&*self.object.name) {
            return Err(Fault::Garbage);
        }
        let pem = trimmed(self.object.kind, object).ok_or(Fault::Garbage)?;
        self.tools.live.tell(&self.object, Some(pem));
        Ok(())
    }
}

/// The version as a number: they can be compared since Kubernetes 1.35, where it is promised, and before, where it is so.
fn version(object: &Value) -> Option<u64> {
    object.get("metadata")?.get("resourceVersion")?.as_str()?.parse().ok()
}

#[derive(Deserialize)]
struct Bytes {
    #[serde(rename = "tls.crt")]
    chain: Option<ByteString>,
    #[serde(rename = "tls.key")]
    key: Option<ByteString>,
    #[serde(rename = "ca.crt")]
    bundle: Option<ByteString>,
}

#[derive(Deserialize)]
struct Text {
    #[serde(rename = "ca.crt")]
    bundle: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Trust {
    trust_bundle: String,
}

/// The entries that count; `None` if the object cannot be read.
fn trimmed(kind: Kind, mut object: Value) -> Option<Pem> {
    let mut field = |name: &str| object.get_mut(name).map(Value::take).filter(|value| !value.is_null());
    match kind {
        Kind::Secret => {
            let Some(data) = field("data") else { return Some(Pem::default()) };
            let data: Bytes = serde_json::from_value(data).ok()?;
            let bytes = |entry: Option<ByteString>| entry.map(|entry| entry.0);
            let (chain, key, bundle) = (bytes(data.chain), bytes(data.key), bytes(data.bundle));
            Some(Pem { chain, key, bundle, ..Pem::default() })
        }
        Kind::Entries => {
            let data: Option<BTreeMap<String, ByteString>> =
                field("data").map(serde_json::from_value).transpose().ok()?;
            let entries = data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
            Some(Pem { entries: entries.collect(), ..Pem::default() })
        }
        Kind::ConfigMap => {
            let text: Option<Text> = field("data").map(serde_json::from_value).transpose().ok()?;
            let bytes: Option<Bytes> = field("binaryData").map(serde_json::from_value).transpose().ok()?;
            let binary = || bytes.and_then(|bytes| bytes.bundle).map(|bundle| bundle.0);
            let bundle = text.and_then(|text| text.bundle).map(String::into_bytes).or_else(binary);
            Some(Pem { bundle, ..Pem::default() })
        }
        Kind::ClusterTrustBundle => {
            let trust: Trust = serde_json::from_value(field("spec")?).ok()?;
            Some(Pem { bundle: Some(trust.trust_bundle.into_bytes()), ..Pem::default() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_are_trimmed_to_the_entries_that_count() {
        let secret = json!({ "metadata": { "managedFields": [{}] }, "data": {
            "tls.crt": "Y2hhaW4=", "tls.key": "a2V5", "password": "aHVudGVyMg==" } });
        let pem = trimmed(Kind::Secret, secret).unwrap();
        assert_eq!(
            (pem.chain.unwrap(), pem.key.unwrap(), pem.bundle),
            (b"chain".into(), b"key".into(), None)
        );
        let bundle = |kind, object| trimmed(kind, object).and_then(|pem| pem.bundle);
        assert_eq!(bundle(Kind::Secret, json!({ "data": { "ca.crt": "Y2E=" } })), Some(b"ca".into()));
        assert_eq!(bundle(Kind::ConfigMap, json!({ "data": { "ca.crt": "ca" } })), Some(b"ca".into()));
        assert_eq!(
            bundle(Kind::ConfigMap, json!({ "binaryData": { "ca.crt": "Y2E=" } })),
            Some(b"ca".into())
        );
        assert_eq!(bundle(Kind::ConfigMap, json!({ "data": null })), None);
        let trust = json!({ "spec": { "signerName": "a/b", "trustBundle": "ca" } });
        assert_eq!(bundle(Kind::ClusterTrustBundle, trust), Some(b"ca".into()));
        assert_eq!(trimmed(Kind::Secret, json!({})), Some(Pem::default()));
        // Only who asks for everything gets more.
        let all = json!({ "data": { "a": "MQ==", "tls.key": "a2V5" } });
        assert!(trimmed(Kind::Secret, all.clone()).unwrap().entries.is_empty());
        let entries = trimmed(Kind::Entries, all).unwrap().entries;
        assert_eq!(
            entries.into_iter().collect::<Vec<_>>(),
            [("a".into(), b"1".to_vec()), ("tls.key".into(), b"key".to_vec())]
        );
        for broken in [json!({ "data": { "tls.crt": "no base64!" } }), json!({ "data": [] })] {
            assert_eq!(trimmed(Kind::Secret, broken), None);
        }
    }
}
