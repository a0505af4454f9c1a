//! The EndpointSlices of one namespace: a list in pages, then a watch that goes on from where the last one ended.

use super::ask::{Fault, status_fault};
use super::keeper::Tools;
use crate::bind::catalog;
use crate::bind::live::{self, Crowded, Subject};
use futures::StreamExt as _;
use kube::core::params::{ListParams, WatchParams};
use kube::core::{Request, WatchEvent};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Slices a page: about 30 kB each, with a hundred endpoints.
const PAGE: u32 = 100;
/// A watch that ends sooner than this, and told nothing, did not work.
const TOO_SHORT: Duration = Duration::from_secs(1);

/// A page of a list.
#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: PageMetadata,
    #[serde(default)]
    items: Vec<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

/// How a watch ended, and from where to go on.
struct Ended {
    version: String,
    fault: Option<Fault>,
    worked: bool,
}

/// Follows the slices of a namespace for ever.
pub(super) async fn follow(namespace: Arc<str>, tools: Tools) {
    let subject = Subject::Slices(Arc::clone(&namespace));
    let follower = Follower { namespace, subject, tools };
    let mut version = None;
    let mut failures = 0;
    loop {
        let fault = match version.take() {
            None => match follower.list().await {
                Ok(listed) => {
                    version = Some(listed);
                    continue;
                }
                Err(fault) => fault,
            },
            Some(from) => {
                let ended = follower.watch(from).await;
                if ended.worked {
                    failures = 0;
                }
                match ended.fault {
                    None if ended.worked => {
                        version = Some(ended.version);
                        continue;
                    }
                    // What could not be read would be sent again: only a list leads past it.
                    Some(fault @ (Fault::Expired | Fault::Garbage | Fault::Crowded)) => fault,
                    fault => {
                        version = Some(ended.version);
                        fault.unwrap_or_else(|| Fault::Failed("watches end at once".to_owned()))
                    }
                }
            }
        };
        follower.tools.rest(&follower.subject, &fault, failures).await;
        failures = failures.saturating_add(1);
    }
}

struct Follower {
    namespace: Arc<str>,
    subject: Subject,
    tools: Tools,
}

impl Follower {
    fn request(&self) -> Request {
        Request::new(format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", self.namespace))
    }

    /// Reads all pages; the version from which to watch.
    async fn list(&self) -> Result<String, Fault> {
        self.tools.metrics.count("moorgate_relay_watch_lists", &[("kind", self.subject.plural())]);
        let mut slices = Vec::new();
        let mut endpoints = 0;
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page: Page = self.tools.api.one(self.request().list(&params)).await?;
            self.tools.fine(&self.subject);
            for slice in page.items.into_iter().filter_map(|item| self.trimmed(item)) {
                endpoints += slice.sets.iter().map(|set| set.endpoints.len()).sum::<usize>();
                slices.push(slice);
            }
            if endpoints > live::MAX_ENDPOINTS {
                return Err(Fault::Crowded);
            }
            match page.metadata.next.filter(|next| !next.is_empty()) {
                Some(next) => params = ListParams::default().limit(PAGE).continue_token(&next),
                None if page.metadata.resource_version.is_empty() => return Err(Fault::Garbage),
                None => {
                    self.tools.live.list(&self.namespace, slices).map_err(|Crowded| Fault::Crowded)?;
                    return Ok(page.metadata.resource_version);
                }
            }
        }
    }

    async fn watch(&self, version: String) -> Ended {
        let params = WatchParams::default().timeout(self.tools.span());
        let began = Instant::now();
        let mut ended = Ended { version, fault: None, worked: false };
        let opened = self.tools.api.watch(self.request().watch(&params, &ended.version)).await;
        let mut events = match opened {
            Ok(events) => Box::pin(events),
            Err(fault) => return Ended { fault: Some(fault), ..ended },
        };
        while let Some(event) = events.next().await {
            match event.and_then(|event| self.take(event)) {
                Ok(version) => {
                    ended.version = version.unwrap_or(ended.version);
                    ended.worked = true;
                    self.tools.fine(&self.subject);
                }
                Err(fault) => return Ended { fault: Some(fault), ..ended },
            }
        }
        ended.worked |= began.elapsed() >= TOO_SHORT;
        ended
    }

    /// What an event tells; the version that it brings to.
    fn take(&self, event: WatchEvent<Value>) -> Result<Option<String>, Fault> {
        let (object, gone) = match event {
            WatchEvent::Bookmark(bookmark) => return Ok(Some(bookmark.metadata.resource_version)),
            WatchEvent::Error(status) => return Err(status_fault(&status)),
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
            WatchEvent::Deleted(object) => (object, true),
        };
        self.tools.metrics.count("moorgate_relay_watch_events", &[("kind", self.subject.plural())]);
        let metadata = |field: &str| object.get("metadata")?.get(field)?.as_str().map(str::to_owned);
        let version = metadata("resourceVersion").filter(|version| !version.is_empty());
        let name = metadata("name").unwrap_or_default();
        if gone {
            self.tools.live.delete(&self.namespace, &name);
        } else if let Some(slice) = self.trimmed(object) {
            self.tools.live.apply(&self.namespace, slice).map_err(|Crowded| Fault::Crowded)?;
        } else {
            self.tools.live.delete(&self.namespace, &name);
        }
        Ok(version)
    }

    /// A slice that cannot be read costs itself only.
    fn trimmed(&self, object: Value) -> Option<live::Slice> {
        catalog::slice(object).unwrap_or_else(|_| {
            let labels = [("kind", self.subject.plural()), ("reason", "garbage")];
            self.tools.metrics.count("moorgate_relay_watch_errors", &labels);
            None
        })
    }
}
