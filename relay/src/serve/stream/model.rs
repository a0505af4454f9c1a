//! A client to test with: it keeps what it is sent as Envoy would, and remembers what it refused.

use super::super::proto::{DeltaDiscoveryRequest, DiscoveryRequest, Node, Status};
use super::super::types;
use super::super::view::{Config, Name, TypeSet, Value, View};
use super::{Event, Output, Protocol, Refusal, Response, Settings, Stream};
use bytes::Bytes;
use moorgate_snapshot::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) const CDS: &str = types::CLUSTER;
pub(super) const LDS: &str = types::LISTENER;
pub(super) const RDS: &str = types::ROUTE;
pub(super) const EDS: &str = types::ENDPOINT;
pub(super) const SDS: &str = types::SECRET;

/// A resource: type, name, content. The content of a cluster is `eds:NAME` if it needs endpoints.
pub(super) type Entry<'a> = (&'a str, &'a str, &'a str);

pub(super) fn config(entries: &[Entry<'_>]) -> Arc<Config> {
    let mut types: BTreeMap<Name, BTreeMap<Name, Arc<Value>>> = BTreeMap::new();
    for (type_url, name, content) in entries.iter().filter(|(t, _, _)| *t != EDS && *t != SDS) {
        let needs = content.split_once("eds:").map(|(_, name)| vec![Name::from(name)]).unwrap_or_default();
        let value = Value::new(vec![Bytes::from((*content).to_owned())], needs);
        types.entry((*type_url).into()).or_default().insert((*name).into(), Arc::new(value));
    }
    Config::new(Digest::of(format!("{entries:?}").as_bytes()), types, None)
}

fn bound(entries: &[Entry<'_>], type_url: &str, pending: &[&str]) -> Arc<TypeSet> {
    let of_type = entries.iter().filter(|(t, _, _)| *t == type_url);
    let value = |content: &str| Arc::new(Value::new(vec![Bytes::from(content.to_owned())], vec![]));
    TypeSet::new(
        of_type.map(|(_, name, content)| (Name::from(*name), value(content))).collect(),
        pending.iter().map(|name| Name::from(*name)).collect(),
    )
}

pub(super) fn view(entries: &[Entry<'_>]) -> Arc<View> {
    view_with(entries, None, &[])
}

pub(super) fn view_with(entries: &[Entry<'_>], fallback: Option<Arc<Config>>, pending: &[&str]) -> Arc<View> {
    Arc::new(View {
        config: config(entries),
        fallback,
        endpoints: bound(entries, EDS, pending),
        secrets: bound(entries, SDS, &[]),
        extensions: bound(&[], SDS, &[]),
        leftover: Arc::default(),
    })
}

/// A stream with a client at its other end, and a clock.
pub(super) struct Bench {
    pub stream: Stream,
    pub now: Instant,
    pub protocol: Protocol,
    /// By type: name and version.
    pub held: BTreeMap<String, BTreeMap<String, String>>,
    /// By type: names asked for, `*` included.
    pub asked: BTreeMap<String, BTreeSet<String>>,
    /// Responses that were not acknowledged yet, by type.
    pub open: BTreeMap<String, Response>,
    /// Contents of refused responses.
    pub refused: BTreeSet<(String, String)>,
    /// What the relay remembers of that.
    pub memory: Vec<Refusal>,
    pub nonces: BTreeSet<String>,
    pub events: Vec<Event>,
    pub wake: Option<Instant>,
    /// By type: the version of the last response that it took; state of the world names it when it comes back.
    versions: BTreeMap<String, String>,
    first: bool,
}

impl Bench {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self::with(protocol, Settings::default())
    }

    pub(super) fn with(protocol: Protocol, settings: Settings) -> Self {
        Self {
            stream: Stream::new(protocol, None, Arc::new(settings)),
            now: Instant::now() + Duration::from_hours(1),
            protocol,
            held: BTreeMap::new(),
            asked: BTreeMap::new(),
            open: BTreeMap::new(),
            refused: BTreeSet::new(),
            memory: Vec::new(),
            nonces: BTreeSet::new(),
            events: Vec::new(),
            wake: None,
            versions: BTreeMap::new(),
            first: true,
        }
    }

    fn node(&mut self) -> Option<Node> {
        std::mem::take(&mut self.first).then(|| Node { id: "envoy-1".into(), ..Node::default() })
    }

    pub(super) fn serve(&mut self, view: Arc<View>) -> Vec<Response> {
        self.stream.set_view(view);
        self.poll()
    }

    pub(super) fn after(&mut self, seconds: u64) -> Vec<Response> {
        self.now += Duration::from_secs(seconds);
        self.poll()
    }

    /// Polls, and checks the laws that hold for every response.
    pub(super) fn poll(&mut self) -> Vec<Response> {
        let Output { responses, events, refused, wake } = self.stream.poll(self.now);
        self.memory.extend(refused);
        self.wake = wake;
        assert!(wake.is_none_or(|wake| wake > self.now), "a wake-up in the past spins");
        self.events.extend(events);
        for response in &responses {
            assert!(self.nonces.insert(response.nonce.clone()), "nonce twice: {response:?}");
            assert!(!response.nonce.is_empty());
            let before = self.open.insert(response.type_url.to_string(), response.clone());
            assert!(before.is_none(), "two unacknowledged responses: {before:?} {response:?}");
            let key = (response.type_url.to_string(), text(response));
            assert!(!self.refused.contains(&key), "the same bytes after a refusal: {response:?}");
            let names: BTreeSet<_> =
                response.resources.iter().map(|(name, _)| name).chain(&response.removed).collect();
            assert_eq!(names.len(), response.resources.len() + response.removed.len(), "a name twice");
        }
        responses
    }

    /// A request for names: in state of the world they are the whole subscription, in delta they are added.
    pub(super) fn ask(&mut self, type_url: &str, names: &[&str]) -> Vec<Response> {
        self.request(type_url, names, &[], "", None, &[])
    }

    /// A first delta request after a reconnect.
    pub(super) fn resume(&mut self, type_url: &str, names: &[&str], held: &[(&str, &str)]) -> Vec<Response> {
        for (name, version) in held {
            self.held.entry(type_url.into()).or_default().insert((*name).into(), (*version).into());
        }
        self.request(type_url, names, &[], "", None, held)
    }

    pub(super) fn drop_names(&mut self, type_url: &str, names: &[&str]) -> Vec<Response> {
        for name in names {
            self.asked.entry(type_url.into()).or_default().remove(*name);
        }
        self.request(type_url, &[], names, "", None, &[])
    }

    #[expect(clippy::too_many_arguments, reason = "every field of a request")]
    fn request(
        &mut self,
        type_url: &str,
        names: &[&str],
        gone: &[&str],
        nonce: &str,
        error: Option<&str>,
        held: &[(&str, &str)],
    ) -> Vec<Response> {
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let asked = self.asked.entry(type_url.to_owned()).or_default();
        asked.extend(strings(names));
        let error_detail = error.map(|message| Status { code: 3, message: message.into() });
        match self.protocol {
            Protocol::Delta => {
                let request = DeltaDiscoveryRequest {
                    node: self.node(),
                    type_url: type_url.into(),
                    resource_names_subscribe: strings(names),
                    resource_names_unsubscribe: strings(gone),
                    initial_resource_versions: held
                        .iter()
                        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                        .collect(),
                    response_nonce: nonce.into(),
                    error_detail,
                };
                self.stream.delta(request, self.now).unwrap();
            }
            Protocol::StateOfTheWorld => {
                let resource_names = asked.iter().cloned().collect();
                let request = DiscoveryRequest {
                    node: self.node(),
                    version_info: String::new(),
                    resource_names,
                    type_url: type_url.into(),
                    response_nonce: nonce.into(),
                    error_detail,
                };
                self.stream.state_of_the_world(request, self.now).unwrap();
            }
        }
        self.poll()
    }

    /// The stream breaks, and the client comes back to this or another relay with all that it holds, as Envoy does.
    pub(super) fn reconnect(&mut self, settings: Settings, view: Arc<View>) {
        self.stream = Stream::new(self.protocol, None, Arc::new(settings));
        self.first = true;
        self.open.clear();
        self.nonces.clear();
        self.stream.remember(self.memory.clone());
        self.stream.set_view(view);
        for (type_url, names) in self.asked.clone() {
            let resource_names: Vec<String> = names.into_iter().collect();
            let node = self.node();
            match self.protocol {
                Protocol::Delta => {
                    let initial_resource_versions = self.held.get(&type_url).cloned().unwrap_or_default();
                    let request = DeltaDiscoveryRequest {
                        node,
                        type_url,
                        resource_names_subscribe: resource_names,
                        initial_resource_versions,
                        ..Default::default()
                    };
                    self.stream.delta(request, self.now).unwrap();
                }
                Protocol::StateOfTheWorld => {
                    let version_info = self.versions.get(&type_url).cloned().unwrap_or_default();
                    let request = DiscoveryRequest {
                        version_info,
                        node,
                        resource_names,
                        type_url,
                        ..Default::default()
                    };
                    self.stream.state_of_the_world(request, self.now).unwrap();
                }
            }
            self.poll();
        }
    }

    /// Takes names from the subscription of state of the world.
    pub(super) fn narrow(&mut self, type_url: &str, name: &str) {
        let asked = self.asked.entry(type_url.into()).or_default();
        if asked.len() > 1 && asked.remove(name) {
            self.request(type_url, &[], &[], "", None, &[]);
        }
    }

    /// Whether `*` was asked for.
    pub(super) fn wildcard(&self, type_url: &str) -> bool {
        self.asked.get(type_url).is_some_and(|asked| asked.contains("*"))
    }

    /// Takes the open response of a type, as Envoy applies it.
    pub(super) fn ack(&mut self, type_url: &str) -> Vec<Response> {
        let response = self.open.remove(type_url).expect("a response to acknowledge");
        self.apply(&response);
        self.request(type_url, &[], &[], &response.nonce, None, &[])
    }

    fn apply(&mut self, response: &Response) {
        let type_url = response.type_url.to_string();
        self.versions.insert(type_url.clone(), response.version.to_string());
        let held = self.held.entry(type_url.clone()).or_default();
        if response.protocol == Protocol::StateOfTheWorld && types::kind(&type_url).full_state {
            held.clear();
        }
        for (name, value) in response.resources.iter() {
            held.insert(name.to_string(), value.version().to_string());
        }
        for name in &response.removed {
            held.remove(&**name);
        }
    }

    /// Refuses the open response of a type.
    pub(super) fn nack(&mut self, type_url: &str) -> Vec<Response> {
        let response = self.open.remove(type_url).expect("a response to refuse");
        self.refused.insert((type_url.to_owned(), text(&response)));
        self.request(type_url, &[], &[], &response.nonce, Some("no such thing"), &[])
    }

    /// Acknowledges everything until nothing more comes; the types in the order in which they came.
    pub(super) fn settle(&mut self, mut responses: Vec<Response>) -> Vec<String> {
        let mut order = Vec::new();
        while !responses.is_empty() || !self.open.is_empty() {
            order.extend(responses.iter().map(text_of_type));
            let open: Vec<String> = self.open.keys().cloned().collect();
            responses = open.iter().flat_map(|type_url| self.ack(type_url)).collect();
        }
        order
    }
}

/// `CDS +a +b -c`.
pub(super) fn text_of_type(response: &Response) -> String {
    format!("{}{}", types::kind(&response.type_url).short, names(response))
}

pub(super) fn names(response: &Response) -> String {
    let added = response.resources.iter().map(|(name, _)| format!(" +{name}"));
    added.chain(response.removed.iter().map(|name| format!(" -{name}"))).collect()
}

/// Names and versions of a response.
fn text(response: &Response) -> String {
    let added = response.resources.iter().map(|(name, value)| format!("{name}={}", value.version()));
    added.chain(response.removed.iter().map(|name| format!("-{name}"))).collect::<Vec<_>>().join(",")
}

pub(super) fn shown(responses: &[Response]) -> Vec<String> {
    responses.iter().map(text_of_type).collect()
}
