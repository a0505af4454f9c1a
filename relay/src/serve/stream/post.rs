//! From what is to be said to a response with a nonce.

use super::super::view::{Config, Name};
use super::heartbeat::Lives;
use super::plan::Draft;
use super::subscription::Subscription;
use super::{Event, Protocol, Response, Settings};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// What turns drafts into responses.
pub(super) struct Post<'a> {
    config: &'a Config,
    settings: &'a Settings,
    nonce: &'a mut u64,
    events: &'a mut Vec<Event>,
    now: Instant,
}

impl<'a> Post<'a> {
    pub(super) fn new(
        config: &'a Config,
        settings: &'a Settings,
        nonce: &'a mut u64,
        events: &'a mut Vec<Event>,
        now: Instant,
    ) -> Self {
        Self { config, settings, nonce, events, now }
    }

    /// Makes a response of a draft and remembers it as in flight. Nonces count up: a digest would repeat itself after
    /// a rollback.
    pub(super) fn send(
        &mut self,
        subscription: &mut Subscription,
        draft: Draft,
        lives: &BTreeMap<Name, Lives>,
    ) -> Response {
        *self.nonce += 1;
        let nonce = self.nonce.to_string();
        self.events.push(Event::Sent {
            type_url: Arc::clone(subscription.type_url()),
            snapshot: self.config.id,
            resources: draft.resources.len(),
            removed: draft.removed.len(),
        });
        subscription.launch(&draft, nonce.clone(), self.config.id, self.now);
        let mut ttls = Lives::new();
        if let Some(lives) = lives.get(subscription.type_url()) {
            subscription.hear(&draft, lives, self.now);
            let sent = draft.resources.iter().map(|(name, _)| name);
            let names = sent.chain(draft.heartbeats.iter().map(|(name, _)| name));
            ttls = names.filter_map(|name| Some((Arc::clone(name), *lives.get(name)?))).collect();
        }
        let protocol = subscription.protocol();
        let version = match protocol {
            Protocol::Delta => Arc::clone(&self.config.label),
            Protocol::StateOfTheWorld => draft.version,
        };
        Response {
            protocol,
            type_url: Arc::clone(subscription.type_url()),
            nonce,
            version,
            resources: draft.resources,
            removed: draft.removed,
            unknown: draft.unknown,
            heartbeats: draft.heartbeats,
            ttls,
            identifier: format!("{} {}", self.settings.relay, self.config.label),
        }
    }
}
