//! The state machine of one stream: requests, views and the time go in, responses come out. No I/O, no clock.
//!
//! Rules: the xDS protocol page, and what Envoy does in practice. In short: one unacknowledged response a type at
//! most; what changes meanwhile is sent in its newest form after the acknowledgement; additions go clusters,
//! endpoints, listeners, routes, each waiting for the one before; removals go last, after a linger; endpoints are sent
//! again after their cluster changed; nothing that was refused is sent again.

mod heartbeat;
mod leftover;
mod plan;
mod post;
mod subscription;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use super::proto::{DeltaDiscoveryRequest, DiscoveryRequest, Node};
use super::types;
use super::view::{Batch, Config, Contents, Name, TypeSet, View};
use heartbeat::Lives;
use moorgate_snapshot::Digest;
use post::Post;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use subscription::{Answer, Subscription};
use thiserror::Error;

/// Which of the two variants of the protocol a stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `Delta…`: changes only.
    Delta,
    /// `Stream…`: state of the world.
    StateOfTheWorld,
}

/// What an operator may set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a cluster that nothing refers to any more is kept at the client: an old listener may drain on it.
    pub linger: Duration,
    /// After this time without an acknowledgement, later types no longer wait for an earlier one.
    pub phase_timeout: Duration,
    /// How long endpoints of a source that is not read yet are waited for, before they are called missing.
    pub unsynced_wait: Duration,
    /// The size in bytes above which a delta response is split.
    pub max_response: usize,
    /// Names that one stream may subscribe to, all types together.
    pub max_names: usize,
    /// The relay, as the control plane's identifier shows it.
    pub relay: Arc<str>,
    /// Times to live, by type URL and name; none by default, since with one a relay that is gone takes configuration away.
    pub ttls: BTreeMap<Name, BTreeMap<Name, Duration>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            linger: Duration::from_secs(30),
            phase_timeout: Duration::from_secs(15),
            unsynced_wait: Duration::from_secs(2),
            // Clients on Google's gRPC refuse more than 4 MiB (envoy #36169).
            max_response: 4_000_000,
            max_names: 1_000_000,
            relay: Arc::from("moorgate-relay"),
            ttls: BTreeMap::new(),
        }
    }
}

/// A response to send.
#[derive(Debug, Clone)]
pub struct Response {
    /// The variant that it answers.
    pub protocol: Protocol,
    /// The type of its resources.
    pub type_url: Name,
    /// Unique within the stream.
    pub nonce: String,
    /// `version_info`, or for delta `system_version_info`.
    pub version: Arc<str>,
    /// New and changed resources, or in state of the world those that the client shall have.
    pub resources: Arc<Batch>,
    /// Names that are gone or never were; delta only.
    pub removed: Vec<Name>,
    /// Names that nobody knows, answered as aliases without content; VHDS only.
    pub unknown: Vec<Name>,
    /// Resources that the client shall keep, by name and version, without content.
    pub heartbeats: Vec<(Name, Arc<str>)>,
    /// Times to live of resources and heartbeats.
    pub ttls: BTreeMap<Name, Duration>,
    /// The identifier of the control plane.
    pub identifier: String,
}

/// What a stream has to tell the rest of the relay.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A response went out.
    Sent {
        /// Its type.
        type_url: Name,
        /// The snapshot that it belongs to.
        snapshot: Digest,
        /// How many resources it holds.
        resources: usize,
        /// How many names it removes.
        removed: usize,
    },
    /// The client took a response.
    Acked {
        /// Its type.
        type_url: Name,
        /// The snapshot that it belongs to.
        snapshot: Digest,
    },
    /// The client refused a response.
    Refused {
        /// Its type.
        type_url: Name,
        /// The snapshot that it belongs to.
        snapshot: Digest,
        /// The client's words.
        text: String,
        /// The names in it, some only if there are many.
        names: Vec<Name>,
    },
    /// The client took all of a snapshot that it asked for.
    Synced {
        /// The snapshot.
        snapshot: Digest,
    },
    /// A rate limit service, which asks for nothing else, took the limits of a snapshot.
    Limits {
        /// The snapshot.
        snapshot: Digest,
    },
}

/// The contents of a response that a client refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its type.
    pub type_url: Name,
    /// What it held and what it removed.
    pub contents: Arc<Contents>,
}

/// What [`Stream::poll`] found to do.
#[derive(Debug, Default)]
pub struct Output {
    /// Responses, to be sent in this order.
    pub responses: Vec<Response>,
    /// What happened.
    pub events: Vec<Event>,
    /// What the client refused, to be remembered for its next stream.
    pub refused: Vec<Refusal>,
    /// When to poll again at the latest.
    pub wake: Option<Instant>,
}

/// A request that ends the stream.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Violation {
    /// The first message names no node.
    #[error("the first message of a stream must carry a node with an id")]
    NodeMissing,
    /// ADS needs the type.
    #[error("a message on an aggregated stream must carry a type_url")]
    TypeMissing,
    /// The service of one type was asked for another.
    #[error("this service serves {0} only")]
    WrongType(Name),
    /// Too many types, names, or too long a name.
    #[error("the stream asks for too much: {0}")]
    TooMuch(&'static str),
}

/// Types that one stream may ask for, unknown ones included.
const MAX_TYPES: usize = 32;
/// The longest resource name, in bytes.
const MAX_NAME: usize = 16 * 1024;
/// Snapshots that one stream remembers to have refused.
const MAX_REFUSED: usize = 64;

/// One stream.
#[derive(Debug)]
pub struct Stream {
    protocol: Protocol,
    only: Option<Name>,
    settings: Arc<Settings>,
    node: Option<Node>,
    nonce: u64,
    view: Option<Arc<View>>,
    refused: BTreeSet<Digest>,
    synced: Option<Digest>,
    subscriptions: BTreeMap<(u8, Name), Subscription>,
    nothing: Arc<TypeSet>,
    events: Vec<Event>,
    /// What this client refused now, to be remembered.
    news: Vec<Refusal>,
    /// What it refused on earlier streams.
    remembered: Vec<Refusal>,
    /// Times to live by type, if the client understands them.
    lives: Arc<BTreeMap<Name, Lives>>,
}

impl Stream {
    /// A new stream, of all types or of one only.
    pub fn new(protocol: Protocol, only: Option<Name>, settings: Arc<Settings>) -> Self {
        Self {
            protocol,
            only,
            settings,
            node: None,
            nonce: 0,
            view: None,
            refused: BTreeSet::new(),
            synced: None,
            subscriptions: BTreeMap::new(),
            nothing: TypeSet::new(BTreeMap::new(), BTreeSet::new()),
            events: Vec::new(),
            news: Vec::new(),
            remembered: Vec::new(),
            lives: Arc::default(),
        }
    }

    /// The node of the first message.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// There is something else to serve. Until the first view the stream waits.
    pub fn set_view(&mut self, view: Arc<View>) {
        self.view = Some(view);
    }

    /// This client is known to refuse a snapshot: it gets the one before.
    pub fn set_back(&mut self, snapshot: Digest) {
        if self.refused.len() < MAX_REFUSED {
            self.refused.insert(snapshot);
        }
    }

    /// This client refused these contents on an earlier stream: they are not sent to it again.
    pub fn remember(&mut self, refused: Vec<Refusal>) {
        for Refusal { type_url, contents } in &refused {
            let key = (types::kind(type_url).phase, Arc::clone(type_url));
            if let Some(subscription) = self.subscriptions.get_mut(&key) {
                subscription.remember(contents);
            }
        }
        self.remembered = refused;
    }

    /// When the oldest response that waits for an acknowledgement went out.
    pub fn oldest_unacknowledged(&self) -> Option<Instant> {
        self.subscriptions.values().filter_map(Subscription::in_flight_since).min()
    }

    /// Takes a delta request.
    pub fn delta(&mut self, request: DeltaDiscoveryRequest, now: Instant) -> Result<(), Violation> {
        self.meet(request.node)?;
        let asked = request.resource_names_subscribe.iter().chain(&request.resource_names_unsubscribe);
        check_names(asked.chain(request.initial_resource_versions.keys()))?;
        if request.initial_resource_versions.len() > self.settings.max_names {
            return Err(Violation::TooMuch("names"));
        }
        let subscription = self.subscription(&request.type_url)?;
        let answer = subscription.acknowledge(&request.response_nonce, request.error_detail);
        subscription.delta(
            &request.resource_names_subscribe,
            &request.resource_names_unsubscribe,
            request.initial_resource_versions,
            now,
        );
        self.note(answer);
        self.check_size()
    }

    /// Takes a state-of-the-world request.
    pub fn state_of_the_world(&mut self, request: DiscoveryRequest, now: Instant) -> Result<(), Violation> {
        self.meet(request.node)?;
        check_names(request.resource_names.iter())?;
        let subscription = self.subscription(&request.type_url)?;
        if subscription.is_stale(&request.response_nonce) {
            return Ok(());
        }
        let answer = subscription.acknowledge(&request.response_nonce, request.error_detail);
        subscription.state_of_the_world(&request.resource_names, request.version_info, now);
        self.note(answer);
        self.check_size()
    }

    fn meet(&mut self, node: Option<Node>) -> Result<(), Violation> {
        if self.node.is_some() {
            return Ok(());
        }
        let node = node.filter(|node| !node.id.is_empty()).ok_or(Violation::NodeMissing)?;
        if heartbeat::understood(self.protocol, &node.client_features) {
            self.lives = Arc::new(self.settings.ttls.clone());
        }
        self.node = Some(node);
        Ok(())
    }

    fn subscription(&mut self, type_url: &str) -> Result<&mut Subscription, Violation> {
        let type_url = match (&self.only, type_url) {
            (None, "") => return Err(Violation::TypeMissing),
            (Some(only), "") => Arc::clone(only),
            (Some(only), asked) if **only != *asked => return Err(Violation::WrongType(Arc::clone(only))),
            (_, asked) if asked.len() > MAX_NAME => return Err(Violation::TooMuch("a type")),
            (_, asked) => Name::from(asked),
        };
        let key = (types::kind(&type_url).phase, Arc::clone(&type_url));
        if !self.subscriptions.contains_key(&key) && self.subscriptions.len() >= MAX_TYPES {
            return Err(Violation::TooMuch("types"));
        }
        if !self.subscriptions.contains_key(&key) {
            // A table of an earlier stream may come with it, and name what nothing seemed to refer to.
            self.subscriptions.values_mut().for_each(Subscription::linger_anew);
        }
        let (protocol, nothing, remembered) = (self.protocol, &self.nothing, &self.remembered);
        Ok(self.subscriptions.entry(key).or_insert_with(|| {
            let mut subscription = Subscription::new(protocol, Arc::clone(&type_url), Arc::clone(nothing));
            let own = remembered.iter().filter(|refusal| refusal.type_url == type_url);
            own.for_each(|refusal| subscription.remember(&refusal.contents));
            subscription
        }))
    }

    fn check_size(&self) -> Result<(), Violation> {
        let names: usize = self.subscriptions.values().map(Subscription::size).sum();
        if names > self.settings.max_names { Err(Violation::TooMuch("names")) } else { Ok(()) }
    }

    fn note(&mut self, answer: Option<Answer>) {
        match answer {
            Some(Answer::Acked { type_url, snapshot }) => {
                self.events.push(Event::Acked { type_url, snapshot });
            }
            Some(Answer::Refused { type_url, snapshot, text, names, contents }) => {
                if !types::kind(&type_url).bound {
                    self.set_back(snapshot);
                }
                self.news.push(Refusal { type_url: Arc::clone(&type_url), contents });
                self.events.push(Event::Refused { type_url, snapshot, text, names });
            }
            None => {}
        }
    }

    /// The configuration for this client: the one in force, unless it refused that one and there is another.
    fn config(&self, view: &View) -> Arc<Config> {
        match &view.fallback {
            Some(fallback) if self.refused.contains(&view.config.id) => Arc::clone(fallback),
            _ => Arc::clone(&view.config),
        }
    }

    /// Works out what to send now.
    pub fn poll(&mut self, now: Instant) -> Output {
        let mut output = Output::default();
        if let Some(view) = self.view.clone() {
            let config = self.config(&view);
            self.add(&view, &config, now, &mut output);
            self.beat(&view, &config, now, &mut output);
            if self.subscriptions.values().all(Subscription::is_settled) {
                self.remove(&view, &config, now, &mut output);
                self.note_synced(&config);
            }
        }
        output.events = std::mem::take(&mut self.events);
        output.refused = std::mem::take(&mut self.news);
        output
    }

    /// Additions, type by type in order; a later type waits for an earlier one.
    fn add(&mut self, view: &View, config: &Config, now: Instant, output: &mut Output) {
        let (mut open, mut complete) = (true, true);
        let mut resend: Vec<Name> = Vec::new();
        let mut post = Post::new(config, &self.settings, &mut self.nonce, &mut self.events, now);
        for subscription in self.subscriptions.values_mut() {
            let kind = subscription.kind();
            let set = view.set(config, subscription.type_url()).unwrap_or(&self.nothing);
            let before = view.fallback.as_ref().and_then(|before| view.set(before, subscription.type_url()));
            subscription.stays(set);
            if kind.type_url == types::ENDPOINT {
                subscription.recall(view.leftover(config));
                subscription.resend(&resend, now);
            }
            if complete || !kind.gated {
                let gate = plan::Gate { additions: open || !kind.gated, removals: false, now, before };
                if let Some(draft) = subscription.plan(set, &gate, &self.settings) {
                    if kind.type_url == types::CLUSTER {
                        resend.extend(draft.needs.iter().map(Arc::clone));
                    }
                    output.responses.push(post.send(subscription, draft, &self.lives));
                }
            }
            let until = subscription.in_flight_since().map(|since| since + self.settings.phase_timeout);
            if let Some(until) = until.filter(|until| *until > now) {
                open &= !(kind.gates && subscription.in_flight_gates());
                complete &= !(kind.type_url == types::CLUSTER && subscription.has_more());
                output.wake = earliest(output.wake, Some(until));
            }
            output.wake = earliest(output.wake, subscription.waits_until(set, self.settings.unsynced_wait));
        }
    }

    /// Heartbeats of what has a time to live.
    fn beat(&mut self, view: &View, config: &Config, now: Instant, output: &mut Output) {
        let lives = Arc::clone(&self.lives);
        for (type_url, lives) in lives.iter() {
            let key = (types::kind(type_url).phase, Arc::clone(type_url));
            let Some(subscription) = self.subscriptions.get_mut(&key) else { continue };
            let set = view.set(config, type_url).unwrap_or(&self.nothing);
            if let Some(draft) = subscription.beat(set, lives, now) {
                let mut post = Post::new(config, &self.settings, &mut self.nonce, &mut self.events, now);
                output.responses.push(post.send(subscription, draft, &self.lives));
            }
            if subscription.is_settled() {
                output.wake = earliest(output.wake, subscription.next_beat(set, lives));
            }
        }
    }

    /// Removals, when nothing else is under way: what nothing refers to any more, one type after the other.
    /// Endpoints come after the cluster that used them is known to be gone.
    fn remove(&mut self, view: &View, config: &Config, now: Instant, output: &mut Output) {
        let mut post = Post::new(config, &self.settings, &mut self.nonce, &mut self.events, now);
        for type_url in [types::ROUTE, types::CLUSTER, types::ENDPOINT] {
            let key = (types::kind(type_url).phase, Name::from(type_url));
            let Some(subscription) = self.subscriptions.get_mut(&key) else { continue };
            let set = view.set(config, type_url).unwrap_or(&self.nothing);
            let Some(since) = subscription.mark_leaving(set, now) else { continue };
            let due = since + self.settings.linger;
            if due > now {
                output.wake = earliest(output.wake, Some(due));
                continue;
            }
            let gate = plan::Gate { additions: true, removals: true, now, before: None };
            if let Some(draft) = subscription.plan(set, &gate, &self.settings) {
                output.responses.push(post.send(subscription, draft, &self.lives));
                return;
            }
        }
        let key = (types::kind(types::ENDPOINT).phase, Name::from(types::ENDPOINT));
        let Some(subscription) = self.subscriptions.get_mut(&key) else { return };
        let Some(since) = subscription.leave_behind(view.leftover(config), now) else { return };
        match subscription.drop_leftover(self.settings.linger, now) {
            Some(draft) => output.responses.push(post.send(subscription, draft, &self.lives)),
            None => output.wake = earliest(output.wake, Some(since + self.settings.linger)),
        }
    }

    /// Tells once that a client holds a whole snapshot.
    fn note_synced(&mut self, config: &Config) {
        if self.synced == Some(config.id) || self.only.is_some() {
            return;
        }
        let missing = |type_url: &&str| {
            let key = (types::kind(type_url).phase, Name::from(*type_url));
            config.types.get(*type_url).is_some_and(|set| !set.is_empty())
                && !self.subscriptions.get(&key).is_some_and(Subscription::is_clean)
        };
        let unclean = self.subscriptions.values().any(|s| !s.kind().bound && !s.is_clean());
        if !unclean && self.subscriptions.values().map(|s| s.kind().type_url).eq([types::RATE_LIMIT]) {
            self.synced = Some(config.id);
            self.events.push(Event::Limits { snapshot: config.id });
            return;
        }
        if unclean || [types::CLUSTER, types::LISTENER, types::ROUTE].iter().any(missing) {
            return;
        }
        self.synced = Some(config.id);
        self.events.push(Event::Synced { snapshot: config.id });
    }
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

fn check_names<'a>(mut names: impl Iterator<Item = &'a String>) -> Result<(), Violation> {
    if names.any(|name| name.len() > MAX_NAME) { Err(Violation::TooMuch("a name")) } else { Ok(()) }
}
