//! What a client asked for of one type, and what it holds.

use super::super::proto::Status;
use super::super::types::{self, Kind, Removal};
use super::super::view::{Batch, Contents, Name, TypeSet, Value, contents};
use super::Protocol;
use super::plan::Draft;
use moorgate_snapshot::Digest;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Refused responses that a subscription remembers, so that none is ever sent again.
const MAX_HISTORY: usize = 256;
/// Names that a report of a refusal lists.
const MAX_REPORTED: usize = 8;
/// The longest text of a refusal that is kept, in characters.
const MAX_TEXT: usize = 4096;

/// What the client holds under a name, where that differs from the base set.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Have {
    /// Nothing.
    Absent,
    /// This version.
    Version(Arc<str>),
    /// This value, which state of the world must repeat until it may leave.
    Kept(Arc<Value>),
    /// It refused a response with this name: it may have applied the part or not.
    Unknown,
}

/// A name whose state at the client differs from the base set.
#[derive(Debug, Clone)]
pub(super) struct Exception {
    /// What the client holds.
    pub have: Have,
    /// Since when nothing refers to it any more.
    pub leaving: Option<Instant>,
}

/// A response that waits for its acknowledgement.
#[derive(Debug)]
pub(super) struct InFlight {
    nonce: String,
    snapshot: Digest,
    since: Instant,
    gates: bool,
    resources: Arc<Batch>,
    /// What it says of other names.
    others: Vec<(Name, Option<Arc<str>>)>,
}

impl InFlight {
    /// The names in it, with their versions; none for a removal.
    fn names(&self) -> impl Iterator<Item = (&Name, Option<&Arc<str>>)> {
        let sent = self.resources.iter().map(|(name, value)| (name, Some(value.version())));
        sent.chain(self.others.iter().map(|(name, version)| (name, version.as_ref())))
    }
}

/// What a request says of the response before it.
#[derive(Debug)]
pub(super) enum Answer {
    /// Taken.
    Acked {
        /// The type.
        type_url: Name,
        /// The snapshot of the response.
        snapshot: Digest,
    },
    /// Refused.
    Refused {
        /// The type.
        type_url: Name,
        /// The snapshot of the response.
        snapshot: Digest,
        /// The client's words.
        text: String,
        /// Some of the names.
        names: Vec<Name>,
        /// All that the response said.
        contents: Arc<Contents>,
    },
}

/// The subscription of one type on one stream.
///
/// What the client holds is the `base` set with `exceptions`, for the names that it is subscribed to; so a client that
/// is up to date costs two words and not a table.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of the protocol")]
pub(super) struct Subscription {
    pub(super) protocol: Protocol,
    pub(super) kind: &'static Kind,
    pub(super) type_url: Name,
    started: bool,
    named: bool,
    pub(super) wildcard: bool,
    pub(super) names: BTreeSet<Name>,
    pub(super) nothing: Arc<TypeSet>,
    pub(super) base: Arc<TypeSet>,
    pub(super) exceptions: BTreeMap<Name, Exception>,
    /// Names that must be answered whatever the client holds, and since when.
    pub(super) owed: BTreeMap<Name, Instant>,
    /// Those of them that the client did not ask for, but whose cluster changed.
    pub(super) again: BTreeSet<Name>,
    /// A wildcard was asked for and must be answered, even if there is nothing.
    pub(super) answer_due: bool,
    pub(super) resume: BTreeMap<String, String>,
    pub(super) resume_version: String,
    pub(super) in_flight: Option<InFlight>,
    last_nonce: String,
    /// Contents that were refused together; held back until one of them has another value.
    pub(super) blocked: Vec<Arc<Contents>>,
    /// Parts of a refused response of independent values, to be tried apart.
    pub(super) isolate: VecDeque<BTreeSet<Name>>,
    pub(super) history: BTreeSet<Digest>,
    pub(super) more: bool,
    /// When the client last heard of a resource that has a time to live.
    pub(super) heard: BTreeMap<Name, Instant>,
    /// Endpoint sets that only the snapshot before names, and since when.
    pub(super) left: BTreeMap<Name, Instant>,
    /// Those that the client was told are gone.
    pub(super) dropped: BTreeSet<Name>,
}

/// The digest under which refused contents are known.
pub(super) fn digest_of(said: &Contents) -> Digest {
    contents(said.iter().map(|(name, version)| (name, version.as_ref())))
}

impl Subscription {
    pub(super) fn new(protocol: Protocol, type_url: Name, nothing: Arc<TypeSet>) -> Self {
        Self {
            protocol,
            kind: types::kind(&type_url),
            type_url,
            started: false,
            named: false,
            wildcard: false,
            names: BTreeSet::new(),
            base: Arc::clone(&nothing),
            nothing,
            exceptions: BTreeMap::new(),
            owed: BTreeMap::new(),
            again: BTreeSet::new(),
            answer_due: false,
            resume: BTreeMap::new(),
            resume_version: String::new(),
            in_flight: None,
            last_nonce: String::new(),
            blocked: Vec::new(),
            isolate: VecDeque::new(),
            history: BTreeSet::new(),
            more: false,
            heard: BTreeMap::new(),
            left: BTreeMap::new(),
            dropped: BTreeSet::new(),
        }
    }

    pub(super) fn kind(&self) -> &'static Kind {
        self.kind
    }

    pub(super) fn type_url(&self) -> &Name {
        &self.type_url
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(super) fn in_flight_since(&self) -> Option<Instant> {
        self.in_flight.as_ref().map(|response| response.since)
    }

    /// Whether later types wait for the response in flight, or for names that come after it.
    pub(super) fn in_flight_gates(&self) -> bool {
        self.in_flight.as_ref().is_some_and(|response| response.gates || !self.owed.is_empty())
    }

    pub(super) fn has_more(&self) -> bool {
        self.more
    }

    /// Nothing is in flight and nothing more is to be sent, removals aside.
    pub(super) fn is_settled(&self) -> bool {
        self.in_flight.is_none() && !self.more && self.isolate.is_empty()
    }

    /// Settled, and nothing was refused or is owed.
    pub(super) fn is_clean(&self) -> bool {
        self.started
            && self.is_settled()
            && self.blocked.is_empty()
            && self.owed.is_empty()
            && !self.answer_due
            && !self.exceptions.iter().any(|(name, e)| e.have == Have::Unknown && self.subscribed(name))
    }

    /// Names that it keeps in memory.
    pub(super) fn size(&self) -> usize {
        self.names.len() + self.resume.len()
    }

    pub(super) fn subscribed(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Whether full sets are sent: then a client's state is never in doubt, and refusals are of whole responses.
    pub(super) fn full_state(&self) -> bool {
        self.protocol == Protocol::StateOfTheWorld && self.kind.full_state
    }

    /// A request whose nonce is not of the newest response was written before that came: a newer one follows it.
    pub(super) fn is_stale(&self, nonce: &str) -> bool {
        self.started && !nonce.is_empty() && nonce != self.last_nonce
    }

    /// Takes acknowledgement or refusal, if the nonce is of the response in flight.
    pub(super) fn acknowledge(&mut self, nonce: &str, error: Option<Status>) -> Option<Answer> {
        let response = self.in_flight.take_if(|response| response.nonce == nonce)?;
        let (type_url, snapshot) = (Arc::clone(&self.type_url), response.snapshot);
        let Some(error) = error else { return Some(Answer::Acked { type_url, snapshot }) };
        let names = response.names().take(MAX_REPORTED).map(|(name, _)| Arc::clone(name)).collect();
        let refused = Arc::new(self.refuse(&response));
        let text = error.message.chars().take(MAX_TEXT).collect();
        Some(Answer::Refused { type_url, snapshot, text, names, contents: refused })
    }

    /// The client refused a response: what of it was applied is unknown, and it is not sent again.
    fn refuse(&mut self, response: &InFlight) -> Contents {
        let refused = response.names().map(|(name, version)| (Arc::clone(name), version.map(Arc::clone)));
        let refused: Contents = refused.collect();
        self.note_refused(&refused);
        if self.full_state() {
            self.base = Arc::clone(&self.nothing);
            self.exceptions.clear();
            return refused;
        }
        for name in refused.keys() {
            let exception = Exception { have: Have::Unknown, leaving: None };
            self.exceptions.insert(Arc::clone(name), exception);
        }
        self.hold_back(&refused);
        refused
    }

    fn note_refused(&mut self, refused: &Contents) {
        if self.history.len() < MAX_HISTORY {
            self.history.insert(digest_of(refused));
        }
    }

    /// Of values that stand for themselves the bad ones are looked for; all else stays away as a whole.
    pub(super) fn hold_back(&mut self, refused: &Contents) {
        if self.kind.bound && refused.len() > 1 {
            let mut rest: BTreeSet<Name> = refused.keys().map(Arc::clone).collect();
            let middle = rest.iter().nth(rest.len() / 2).map(Arc::clone);
            let second = middle.map(|middle| rest.split_off(&middle)).unwrap_or_default();
            self.isolate.push_front(second);
            self.isolate.push_front(rest);
        } else if !refused.is_empty() {
            self.blocked.push(Arc::new(refused.clone()));
        }
    }

    /// The client refused this on an earlier stream.
    pub(super) fn remember(&mut self, refused: &Arc<Contents>) {
        self.note_refused(refused);
        let together = self.kind.bound && refused.len() > 1;
        if !self.full_state() && !together {
            self.blocked.push(Arc::clone(refused));
        }
    }

    /// Takes the names of a delta request. Subscriptions count before unsubscriptions (protocol page).
    pub(super) fn delta(
        &mut self,
        subscribe: &[String],
        unsubscribe: &[String],
        initial: BTreeMap<String, String>,
        now: Instant,
    ) {
        if !std::mem::replace(&mut self.started, true) {
            if subscribe.is_empty() && self.kind.legacy_wildcard {
                self.subscribe_all(initial.is_empty());
            }
            self.resume = initial;
        }
        for name in subscribe {
            if name == "*" {
                self.subscribe_all(self.resume.is_empty());
            } else {
                let name = Name::from(name.as_str());
                self.again.remove(&name);
                self.owed.insert(Arc::clone(&name), now);
                self.names.insert(name);
            }
        }
        for name in unsubscribe {
            if name == "*" {
                self.unsubscribe_all();
            } else if let Some(name) = self.names.take(name.as_str()) {
                self.forget(&name);
                if self.wildcard {
                    // The client cannot know whether the wildcard still covers it: it must be told.
                    self.owed.insert(name, now);
                }
            }
        }
    }

    /// Takes the names of a state-of-the-world request: the whole subscription.
    pub(super) fn state_of_the_world(&mut self, asked: &[String], version: String, now: Instant) {
        let first = !std::mem::replace(&mut self.started, true);
        if asked.is_empty() {
            if first && self.kind.legacy_wildcard {
                self.subscribe_all(true);
                self.resume_version = version;
            } else if self.named {
                self.unsubscribe_all();
                self.replace_names(BTreeSet::new(), now);
            }
            return;
        }
        self.named = true;
        let resumes = first && !version.is_empty() && self.kind.resumes && !self.full_state();
        if asked.iter().any(|name| name == "*") {
            self.subscribe_all(true);
            if first && asked.len() == 1 {
                self.resume_version = version;
            }
        } else {
            self.unsubscribe_all();
        }
        // The public test suite unsubscribes from everything with one empty name: it names nothing.
        let names = asked.iter().filter(|name| !name.is_empty() && *name != "*");
        self.replace_names(names.map(|name| Name::from(name.as_str())).collect(), now);
        if resumes {
            // From an earlier stream it holds them, in versions that nobody can tell: all come again, in their turn, since
            // a route table that went ahead of its clusters would cost requests.
            for name in std::mem::take(&mut self.owed).into_keys() {
                self.exceptions.insert(name, Exception { have: Have::Version(Arc::from("")), leaving: None });
            }
        }
    }

    fn replace_names(&mut self, names: BTreeSet<Name>, now: Instant) {
        let before = std::mem::replace(&mut self.names, names);
        let gone: Vec<Name> = before.difference(&self.names).map(Arc::clone).collect();
        for name in gone {
            self.forget(&name);
        }
        for name in self.names.difference(&before) {
            self.again.remove(name);
            self.owed.insert(Arc::clone(name), now);
        }
    }

    fn subscribe_all(&mut self, answer: bool) {
        if self.kind.named_only {
            self.answer_due |= answer;
            return;
        }
        if std::mem::replace(&mut self.wildcard, true) {
            return;
        }
        self.answer_due = answer;
        // The client holds its names and no more.
        let held: Vec<(Name, Have)> =
            self.names.iter().map(|name| (Arc::clone(name), self.have(name))).collect();
        self.exceptions.retain(|_, exception| exception.have == Have::Unknown);
        self.base = Arc::clone(&self.nothing);
        for (name, have) in held.into_iter().filter(|(_, have)| *have != Have::Absent) {
            self.exceptions.insert(name, Exception { have, leaving: None });
        }
    }

    fn unsubscribe_all(&mut self) {
        if !std::mem::replace(&mut self.wildcard, false) {
            return;
        }
        self.answer_due = false;
        let names = &self.names;
        self.exceptions.retain(|name, _| names.contains(name));
        self.owed.retain(|name, _| names.contains(name));
        self.doubt(None);
    }

    /// A response is under way while the client unsubscribes: whether it will keep those names is unknown.
    fn doubt(&mut self, only: Option<&Name>) {
        let Some(response) = &self.in_flight else { return };
        for (name, _) in response.names() {
            if only.map_or(!self.names.contains(name), |only| only == name) {
                let exception = Exception { have: Have::Unknown, leaving: None };
                self.exceptions.insert(Arc::clone(name), exception);
            }
        }
    }

    /// The client no longer wants a name. What it refused stays known.
    fn forget(&mut self, name: &Name) {
        self.owed.remove(name);
        if !self.wildcard {
            self.exceptions.remove(name);
            self.doubt(Some(name));
        }
    }

    /// These names must be sent again, if the client is subscribed to them.
    pub(super) fn resend(&mut self, names: &[Name], now: Instant) {
        for name in names {
            if self.subscribed(name) && !self.owed.contains_key(name) {
                self.owed.insert(Arc::clone(name), now);
                self.again.insert(Arc::clone(name));
            }
        }
    }

    /// What is to be sent again and went meanwhile leaves in its turn; who did not ask is not told at once.
    pub(super) fn forgo(&mut self, set: &TypeSet) {
        let owed = &mut self.owed;
        self.again.retain(|name| {
            let stays = owed.contains_key(name) && (set.get(name).is_some() || set.is_pending(name));
            if !stays {
                owed.remove(name);
            }
            stays
        });
    }

    /// When a name that is waited for is to be called missing.
    pub(super) fn waits_until(&self, set: &TypeSet, wait: Duration) -> Option<Instant> {
        if self.in_flight.is_some() {
            return None;
        }
        self.owed.iter().filter(|(name, _)| set.is_pending(name)).map(|(_, since)| *since + wait).min()
    }

    /// Whatever is leaving stays for the linger from now on.
    pub(super) fn linger_anew(&mut self) {
        self.left.clear();
        self.exceptions.values_mut().for_each(|exception| exception.leaving = None);
    }

    /// What is served again does not leave, however short it was there.
    pub(super) fn stays(&mut self, set: &TypeSet) {
        for (name, exception) in &mut self.exceptions {
            if exception.leaving.is_some() && (set.get(name).is_some() || set.is_pending(name)) {
                exception.leaving = None;
            }
        }
    }

    /// Starts the linger of names that are to leave last; the earliest start of those that wait.
    pub(super) fn mark_leaving(&mut self, set: &TypeSet, now: Instant) -> Option<Instant> {
        if self.kind.removal != Removal::Last {
            return None;
        }
        let mut earliest = None;
        let (wildcard, names) = (self.wildcard, &self.names);
        for (name, exception) in &mut self.exceptions {
            let wanted = wildcard || names.contains(name);
            let stays = set.get(name).is_some() || set.is_pending(name);
            if !wanted || stays || exception.have == Have::Absent {
                exception.leaving = None;
                continue;
            }
            let since = *exception.leaving.get_or_insert(now);
            earliest = Some(earliest.map_or(since, |earliest: Instant| earliest.min(since)));
        }
        earliest
    }

    /// A response went out.
    pub(super) fn launch(&mut self, draft: &Draft, nonce: String, snapshot: Digest, now: Instant) {
        let gone = draft.removed.iter().chain(&draft.unknown).map(|name| (Arc::clone(name), None));
        let beats =
            draft.heartbeats.iter().map(|(name, version)| (Arc::clone(name), Some(Arc::clone(version))));
        let (resources, others) = (Arc::clone(&draft.resources), gone.chain(beats).collect());
        let gates = self.kind.gates && (!self.kind.bound || draft.answers);
        self.last_nonce.clone_from(&nonce);
        self.in_flight = Some(InFlight { nonce, snapshot, since: now, gates, resources, others });
    }
}
