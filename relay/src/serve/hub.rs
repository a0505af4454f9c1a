//! One fleet as its streams see it: the view in force, and who took or refused what.

mod refusals;

use super::proto::Node;
use super::stream::{Event, Protocol, Refusal, Response, Settings};
use super::types;
use super::view::{Name, View};
use crate::metrics::Metrics;
use moorgate_snapshot::{Digest, FleetName};
use refusals::Refusals;
pub use refusals::RefusedValue;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, watch};

/// Nodes whose refusals are remembered over reconnects.
const MAX_SET_BACK: usize = 10_000;

/// Bytes of refused values that are remembered over a restart.
const MAX_REMEMBERED: usize = 64 << 10;

/// Characters of a client's name that are kept.
const MAX_WORD: usize = 256;

/// What a hub tells the task of its fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Nobody took this configuration, and one Envoy refused it: it is to be withdrawn.
    Refused {
        /// The snapshot.
        snapshot: Digest,
        /// The resource type, short.
        kind: &'static str,
        /// The node that refused.
        node: String,
        /// Its words.
        text: String,
    },
    /// One Envoy refused what others took: it alone is set back, also when this relay starts again.
    SetBack {
        /// The node that refused.
        node: String,
        /// The snapshot.
        snapshot: Digest,
    },
    /// A client refused a value: see [`Hub::refused_values`].
    RefusedValue,
    /// An Envoy took all of a snapshot.
    Synced {
        /// The snapshot.
        snapshot: Digest,
    },
}

/// A client, for the admin address.
#[derive(Debug, Clone, Serialize)]
pub struct Client {
    /// The node id that it gave.
    pub node: String,
    /// The cluster that it gave.
    pub cluster: String,
    /// Name and version of its program.
    pub agent: String,
    /// Major and minor version, if it is an Envoy.
    #[serde(skip)]
    pub envoy: Option<(u32, u32)>,
    /// Why it gets the snapshot before the one in force, if not because it refused that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfit: Option<String>,
    /// Where it comes from.
    pub peer: String,
    /// `delta` or `state-of-the-world`.
    pub protocol: &'static str,
    /// The snapshot that it holds whole.
    pub synced: Option<Digest>,
    /// The snapshot of which it holds all limits, if it is a rate limit service: that says nothing of Envoys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Digest>,
    /// By type, short.
    pub types: BTreeMap<&'static str, Held>,
}

/// What a client did with one type.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Held {
    /// The snapshot of the last response.
    pub sent: Option<Digest>,
    /// The snapshot of the last response that it took.
    pub acked: Option<Digest>,
    /// A response was sent that it has not answered yet.
    pub unanswered: bool,
    /// Responses that it refused.
    pub nacks: u64,
    /// The snapshot of the response that it refused last and has not taken since.
    pub refuses: Option<Digest>,
    /// Its last words on that.
    pub nack: Option<String>,
    /// Names in the refused response, some only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Name>,
}

/// One fleet.
#[derive(Debug)]
pub struct Hub {
    fleet: FleetName,
    label: String,
    /// How streams behave.
    pub settings: Arc<Settings>,
    views: watch::Sender<Option<Arc<View>>>,
    changes: watch::Sender<()>,
    state: Mutex<State>,
    notices: mpsc::UnboundedSender<Notice>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    clients: BTreeMap<u64, Client>,
    /// Nodes that refuse what others took.
    set_back: BTreeMap<String, Digest>,
    /// What clients refused.
    refusals: Refusals,
    /// The oldest Envoy, major and minor, that understands a snapshot.
    oldest: BTreeMap<Digest, (u32, u32)>,
    /// Snapshots that some Envoy took whole.
    good: BTreeSet<Digest>,
    /// The snapshot that was told last to be taken whole: one Envoy says it for all.
    told: Option<Digest>,
}

impl Hub {
    /// A fleet without a view yet. Notices come out of the receiver.
    pub fn new(
        fleet: FleetName,
        settings: Settings,
        metrics: Arc<Metrics>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Notice>) {
        let (notices, receiver) = mpsc::unbounded_channel();
        let label = fleet.to_string();
        metrics.set("moorgate_relay_streams", &[("fleet", &label)], 0.0);
        metrics.set("moorgate_relay_clients_set_back", &[("fleet", &label)], 0.0);
        // From the start, so that the first refusal is an increase.
        for kind in types::kinds() {
            metrics.add("moorgate_relay_nacks", &[("fleet", &label), ("type", kind.short)], 0.0);
        }
        let hub = Self {
            fleet,
            label,
            settings: Arc::new(settings),
            views: watch::Sender::new(None),
            changes: watch::Sender::new(()),
            state: Mutex::default(),
            notices,
            metrics,
        };
        (Arc::new(hub), receiver)
    }

    /// The fleet.
    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// The relay's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Puts a view in force.
    pub fn publish(&self, view: Arc<View>) {
        let mut state = self.lock();
        state.told = None;
        state.refusals.prune(&view);
        drop(state);
        self.views.send_replace(Some(view));
    }

    /// The view in force.
    pub fn view(&self) -> Option<Arc<View>> {
        self.views.borrow().clone()
    }

    /// Tells of every view that is put in force.
    pub fn views(&self) -> watch::Receiver<Option<Arc<View>>> {
        self.views.subscribe()
    }

    /// Snapshots that some Envoy took whole before, such as those of the disk cache's record.
    pub fn mark_good(&self, snapshot: Digest) {
        self.lock().good.insert(snapshot);
    }

    /// Nodes that refused what others took, such as those of the disk cache's record.
    pub fn mark_set_back(&self, nodes: &BTreeMap<String, Digest>) {
        self.lock().set_back.extend(nodes.iter().map(|(node, snapshot)| (node.clone(), *snapshot)));
    }

    /// Values that clients refused before, such as those of the disk cache's record.
    pub fn mark_refused(&self, values: impl DoubleEndedIterator<Item = RefusedValue>) {
        let mut state = self.lock();
        for value in values.rev() {
            state.refusals.note(&value.client, &value.node, value.refusal);
        }
    }

    /// Values that clients refused, the newest first, to be remembered over a restart: some only, if they are many.
    pub fn refused_values(&self) -> Vec<RefusedValue> {
        self.lock().refusals.newest(MAX_REMEMBERED)
    }

    /// The clients that are connected now.
    pub fn clients(&self) -> Vec<Client> {
        self.lock().clients.values().cloned().collect()
    }

    /// Whether no client is connected.
    pub fn is_empty(&self) -> bool {
        self.lock().clients.is_empty()
    }

    /// Tells when a client comes, goes, takes or refuses something.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Whether some connected client holds this snapshot whole.
    pub fn is_synced(&self, snapshot: &Digest) -> bool {
        self.lock().clients.values().any(|client| client.synced.as_ref() == Some(snapshot))
    }

    /// Connected clients, and those of them that hold this snapshot whole.
    pub fn envoys(&self, snapshot: Option<&Digest>) -> (usize, usize) {
        let state = self.lock();
        let held = state.clients.values().filter_map(|client| client.synced.or(client.limits));
        (state.clients.len(), held.filter(|held| Some(held) == snapshot).count())
    }

    /// The oldest Envoy that understands each of these snapshots, such as `1.38`; all others are forgotten.
    pub fn need<'s>(&self, snapshots: impl Iterator<Item = (Digest, &'s str)>) {
        let version = |text: &str| {
            let mut parts = text.split('.').map(str::parse);
            Some((parts.next()?.ok()?, parts.next()?.ok()?))
        };
        let oldest = snapshots.filter_map(|(id, text)| Some((id, version(text)?)));
        self.lock().oldest = oldest.collect();
    }

    /// Forgets which nodes refuse what others took, and what clients refused on earlier streams.
    pub fn forgive(&self) {
        let mut state = self.lock();
        state.set_back.clear();
        state.told = None;
        state.refusals.clear();
        drop(state);
        self.metrics.set("moorgate_relay_clients_set_back", &[("fleet", &self.label)], 0.0);
    }

    /// A stream begins.
    pub fn connect(self: &Arc<Self>, peer: String, protocol: Protocol) -> Session {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        let protocol = match protocol {
            Protocol::Delta => "delta",
            Protocol::StateOfTheWorld => "state-of-the-world",
        };
        let client = Client {
            node: String::new(),
            cluster: String::new(),
            agent: String::new(),
            envoy: None,
            unfit: None,
            peer,
            protocol,
            synced: None,
            limits: None,
            types: BTreeMap::new(),
        };
        state.clients.insert(id, client);
        self.changes.send_replace(());
        self.show_streams(&state);
        drop(state);
        Session { hub: Arc::clone(self), id }
    }

    fn show_streams(&self, state: &State) {
        #[expect(clippy::cast_precision_loss, reason = "streams are few")]
        let streams = state.clients.len() as f64;
        self.metrics.set("moorgate_relay_streams", &[("fleet", &self.label)], streams);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, name: &'static str, kind: &str) {
        self.metrics.count(name, &[("fleet", &self.label), ("type", kind)]);
    }
}

/// One stream at its hub; it signs off when dropped.
#[derive(Debug)]
pub struct Session {
    hub: Arc<Hub>,
    id: u64,
}

impl Session {
    /// The hub.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Takes note of who the client is. For a node that is known to refuse a snapshot, that snapshot comes back.
    pub fn meet(&self, node: &Node) -> Option<Digest> {
        let mut state = self.hub.lock();
        let client = state.clients.get_mut(&self.id)?;
        let version = node.user_agent_build_version.as_ref().and_then(|build| build.version);
        let version = version.map(|v| format!(" {}.{}.{}", v.major, v.minor, v.patch)).unwrap_or_default();
        client.agent = clip(&format!("{}{version}", node.user_agent_name));
        let build = node.user_agent_build_version.as_ref().and_then(|build| build.version);
        client.envoy = build.filter(|_| node.user_agent_name == "envoy").map(|v| (v.major, v.minor));
        client.cluster = clip(&node.cluster);
        client.node = clip(&node.id);
        let node = client.node.clone();
        self.hub.changes.send_replace(());
        state.set_back.get(&node).copied()
    }

    /// What this client refused on earlier streams. `client` is who it has proven to be: what it says of itself does not
    /// do, or it could spoil another's.
    pub fn refusals(&self, client: &str) -> Vec<Refusal> {
        let state = self.hub.lock();
        let node = state.clients.get(&self.id).map(|client| client.node.as_str());
        node.map(|node| state.refusals.of(client, node)).unwrap_or_default()
    }

    /// Takes note of what it refused now.
    pub fn refuse(&self, client: &Arc<str>, refusal: Refusal) {
        let mut state = self.hub.lock();
        let Some(node) = state.clients.get(&self.id).map(|client| client.node.clone()) else { return };
        let bound = types::kind(&refusal.type_url).bound;
        if state.refusals.note(client, &node, refusal) && bound {
            let _ = self.hub.notices.send(Notice::RefusedValue);
        }
    }

    /// Whether the client is an Envoy too old for a snapshot: it would refuse that, or worse, take a part of it.
    pub fn is_too_old(&self, snapshot: &Digest) -> bool {
        let mut state = self.hub.lock();
        let oldest = state.oldest.get(snapshot).copied();
        let Some(client) = state.clients.get_mut(&self.id) else { return false };
        let needed = oldest.filter(|oldest| client.envoy.is_some_and(|envoy| envoy < *oldest));
        let unfit = needed.map(|(major, minor)| format!("{} needs Envoy {major}.{minor}", snapshot.short()));
        if client.unfit != unfit {
            if let Some(reason) = &unfit {
                let (fleet, node) = (&self.hub.label, &client.node);
                tracing::warn!(
                    fleet,
                    node,
                    agent = client.agent,
                    reason,
                    "an Envoy is too old for the snapshot"
                );
            }
            client.unfit = unfit;
            self.hub.changes.send_replace(());
        }
        needed.is_some()
    }

    /// The span of a response that goes out.
    pub(super) fn span(&self, response: &Response) -> tracing::Span {
        let kind = types::kind(&response.type_url).short;
        let (resources, removed) = (response.resources.len(), response.removed.len());
        let (fleet, version) = (self.hub.label.as_str(), &*response.version);
        tracing::info_span!(target: crate::TRACE, "push", fleet, r#type = kind, version, resources, removed)
    }

    /// Takes note of an event.
    pub fn report(&self, event: Event) {
        let mut state = self.hub.lock();
        let Some(client) = state.clients.get_mut(&self.id) else { return };
        if !matches!(event, Event::Sent { .. }) {
            self.hub.changes.send_replace(());
        }
        match event {
            Event::Sent { type_url, snapshot, .. } => {
                let kind = types::kind(&type_url).short;
                let held = client.types.entry(kind).or_default();
                held.sent = Some(snapshot);
                held.unanswered = true;
                self.hub.count("moorgate_relay_responses", kind);
            }
            Event::Acked { type_url, snapshot } => {
                let kind = types::kind(&type_url);
                let held = client.types.entry(kind.short).or_default();
                held.acked = Some(snapshot);
                held.unanswered = false;
                // Who takes another snapshot may still refuse the one before.
                held.refuses = held.refuses.filter(|refused| !kind.bound && *refused != snapshot);
                self.hub.count("moorgate_relay_acks", kind.short);
            }
            Event::Limits { snapshot } => client.limits = Some(snapshot),
            Event::Synced { snapshot } => {
                client.synced = Some(snapshot);
                if state.good.insert(snapshot) {
                    tracing::info!(fleet = self.hub.label, snapshot = %snapshot.short(), "an Envoy took the snapshot");
                }
                if state.told.replace(snapshot) != Some(snapshot) {
                    let _ = self.hub.notices.send(Notice::Synced { snapshot });
                }
            }
            Event::Refused { type_url, snapshot, text, names } => {
                let text = plain(&text);
                let kind = types::kind(&type_url);
                let held = client.types.entry(kind.short).or_default();
                held.nacks += 1;
                held.unanswered = false;
                held.refuses = Some(snapshot);
                held.nack = Some(text.clone());
                held.refused = names;
                self.hub.count("moorgate_relay_nacks", kind.short);
                self.judge(&mut state, kind, snapshot, text);
            }
        }
    }

    /// Whose fault a refusal is: the configuration's, unless another Envoy took it; of limits they take none.
    fn judge(&self, state: &mut State, kind: &types::Kind, snapshot: Digest, text: String) {
        let node = state.clients.get(&self.id).map(|client| client.node.clone()).unwrap_or_default();
        let (fleet, short) = (&self.hub.label, snapshot.short());
        if kind.bound {
            tracing::warn!(fleet, node, r#type = kind.short, text, "an Envoy refused a value");
            return;
        }
        let took =
            |client: &Client| client.types.get(kind.short).is_some_and(|held| held.acked == Some(snapshot));
        let others =
            state.clients.iter().any(|(id, client)| *id != self.id && client.node != node && took(client));
        if others || (kind.type_url != types::RATE_LIMIT && state.good.contains(&snapshot)) {
            tracing::warn!(
                fleet,
                node,
                r#type = kind.short,
                snapshot = short,
                text,
                "one Envoy refused what others took"
            );
            if state.set_back.len() < MAX_SET_BACK || state.set_back.contains_key(&node) {
                state.set_back.insert(node.clone(), snapshot);
                let _ = self.hub.notices.send(Notice::SetBack { node, snapshot });
            }
            #[expect(clippy::cast_precision_loss, reason = "nodes are few")]
            let count = state.set_back.len() as f64;
            self.hub.metrics.set("moorgate_relay_clients_set_back", &[("fleet", fleet)], count);
        } else {
            tracing::error!(
                fleet,
                node,
                r#type = kind.short,
                snapshot = short,
                text,
                "an Envoy refused the snapshot"
            );
            let notice = Notice::Refused { snapshot, kind: kind.short, node, text };
            let _ = self.hub.notices.send(notice);
        }
    }
}

/// Clients choose these words: they are kept short, and mean nothing to a terminal.
fn clip(text: &str) -> String {
    plain(&text.chars().take(MAX_WORD).collect::<String>())
}

/// On one line, and without characters that control a terminal or turn the direction of text.
fn plain(text: &str) -> String {
    let odd = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if odd(c) { ' ' } else { c }).collect()
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        state.clients.remove(&self.id);
        self.hub.changes.send_replace(());
        self.hub.show_streams(&state);
    }
}

#[cfg(test)]
mod tests;
