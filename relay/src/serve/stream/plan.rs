//! What to send next of one type.

use super::super::types::{self, Removal};
use super::super::view::{
    Batch, Contents, ENTRY_OVERHEAD, Name, TypeSet, Value, contents, still_says, version_of,
};
use super::subscription::{Exception, Have, Subscription, digest_of};
use super::{Protocol, Settings};
use std::sync::Arc;
use std::time::Instant;

/// What may be sent now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gate<'v> {
    /// Changes; names that the client waits for may be sent always.
    pub additions: bool,
    /// Removals whose linger is over.
    pub removals: bool,
    /// The time.
    pub now: Instant,
    /// What was served before, if it is known: a client of state of the world may name its version.
    pub before: Option<&'v Arc<TypeSet>>,
}

/// A response without its envelope.
#[derive(Debug)]
pub(super) struct Draft {
    pub resources: Arc<Batch>,
    pub removed: Vec<Name>,
    /// Names that were asked for, that nobody knows, and that are answered as aliases.
    pub unknown: Vec<Name>,
    /// Resources that the client holds and must hear of, with their versions.
    pub heartbeats: Vec<(Name, Arc<str>)>,
    /// The version of the type, for state of the world.
    pub version: Arc<str>,
    /// It holds names that the client waits for.
    pub answers: bool,
    /// Endpoints that its new and changed resources need.
    pub needs: Vec<Name>,
}

impl Draft {
    pub(super) fn empty(version: Arc<str>) -> Self {
        Self {
            resources: Batch::nothing(),
            removed: Vec::new(),
            unknown: Vec::new(),
            heartbeats: Vec::new(),
            version,
            answers: false,
            needs: Vec::new(),
        }
    }
}

/// Refused values that are remembered while there is no value of their name.
const MAX_GONE: usize = 1024;

/// What becomes of one name.
#[derive(Debug)]
enum Verdict {
    /// The client holds what it should.
    Same,
    /// Send this.
    Send(Arc<Value>),
    /// Say that it is gone, or never was.
    Remove,
    /// Not now.
    Wait,
    /// Not now, and not because it was asked for: it was refused.
    Blocked,
    /// Never mind.
    Forget,
}

impl Subscription {
    /// Works out the next response, and takes it as applied until the client says otherwise.
    pub(super) fn plan(&mut self, set: &Arc<TypeSet>, gate: &Gate<'_>, settings: &Settings) -> Option<Draft> {
        if self.in_flight.is_some() {
            return None;
        }
        self.take_resume(set, gate.before);
        self.forgo(set);
        self.unblock(set);
        // What was refused together, on an earlier stream perhaps, is taken apart and looked at once more.
        for _ in 0..2 {
            while let Some(group) = self.isolate.pop_front() {
                let names = group.into_iter().filter(|name| self.subscribed(name)).collect();
                let gate = Gate { additions: true, ..*gate };
                if let Some(draft) = self.draft(names, set, &gate, settings, false) {
                    return Some(draft);
                }
            }
            let additions = gate.additions || self.answer_due;
            let gate = Gate { additions, ..*gate };
            if let Some(draft) = self.together(set, additions, settings) {
                return Some(draft);
            }
            let names = self.candidates(set, additions);
            let draft = if self.full_state() {
                self.full_draft(names, set, &gate, settings)
            } else {
                self.draft(names, set, &gate, settings, additions)
            };
            if draft.is_some() || self.isolate.is_empty() {
                return draft;
            }
        }
        None
    }

    /// What has another value by now may be tried again. A value that only went stays refused until a new one comes.
    fn unblock(&mut self, set: &TypeSet) {
        let bound = self.kind.bound;
        self.blocked.retain(|group| still_says(Some(set), group, bound));
        if self.blocked.len() > MAX_GONE {
            self.blocked.retain(|group| group.keys().any(|name| set.get(name).is_some()));
        }
    }

    /// The response for a client of which nothing is known but that it holds the base: that of all others like it, whose
    /// resources nobody has to go through again.
    fn together(&mut self, set: &Arc<TypeSet>, additions: bool, settings: &Settings) -> Option<Draft> {
        let plain = self.wildcard
            && self.exceptions.is_empty()
            && self.owed.is_empty()
            && self.blocked.is_empty()
            && self.history.is_empty()
            && self.dropped.is_empty();
        if !plain || !additions || Arc::ptr_eq(&self.base, set) {
            return None;
        }
        let whole = self.protocol == Protocol::StateOfTheWorld;
        let most = if whole { usize::MAX } else { settings.max_response };
        let changed = set.step(&self.base, most, self.overhead())?;
        let mut draft = Draft::empty(self.version(set));
        if self.kind.type_url == types::CLUSTER {
            draft.needs = changed.iter().flat_map(|(_, value)| value.endpoints()).map(Arc::clone).collect();
        }
        draft.answers = self.full_state();
        self.more = changed.after().is_some();
        self.base = changed.after().map_or_else(|| Arc::clone(set), Arc::clone);
        self.answer_due = false;
        draft.resources =
            if self.full_state() { set.step(&self.nothing, most, self.overhead())? } else { changed };
        Some(draft)
    }

    /// What an entry takes in a response beside its name and its bytes, at most.
    fn overhead(&self) -> usize {
        self.type_url.len() + ENTRY_OVERHEAD
    }

    /// What the client says it holds, from an earlier stream.
    fn take_resume(&mut self, set: &Arc<TypeSet>, before: Option<&Arc<TypeSet>>) {
        let version = std::mem::take(&mut self.resume_version);
        if self.kind.full_state && self.wildcard && !version.is_empty() {
            if version == **set.version() {
                self.base = Arc::clone(set);
                self.answer_due = false;
            } else if let Some(before) = before.filter(|before| version == **before.version()) {
                // It comes from what was served before: what left since leaves last here, too.
                self.base = Arc::clone(before);
            }
        }
        for (name, version) in std::mem::take(&mut self.resume) {
            let name = Name::from(name);
            let now = set.get(&name);
            let equal = now.is_some_and(|value| **value.version() == *version);
            let leaves_last = now.is_none() && self.kind.removal == Removal::Last;
            // It lists what it holds, and waits for none of it: what changed meanwhile comes in its turn. A route table
            // that went ahead of its clusters would cost requests, and so would endpoints that left before their cluster.
            if self.kind.resumes || leaves_last {
                self.owed.remove(&name);
            }
            // Endpoints are sent again whatever the client says (envoy #22418).
            let have =
                if self.kind.resumes || !equal { Have::Version(version.into()) } else { Have::Unknown };
            self.exceptions.insert(name, Exception { have, leaving: None });
        }
    }

    /// Names that may need something, sorted, each once.
    fn candidates(&self, set: &Arc<TypeSet>, additions: bool) -> Vec<Name> {
        let mut names: Vec<Name> = Vec::new();
        if additions && !Arc::ptr_eq(&self.base, set) {
            let difference = set.since(&self.base);
            let changed = difference.changed.iter().chain(&difference.removed);
            names.extend(changed.filter(|name| self.subscribed(name)).map(Arc::clone));
        }
        if additions {
            names.extend(self.exceptions.keys().filter(|name| self.subscribed(name)).map(Arc::clone));
        }
        names.extend(self.owed.keys().map(Arc::clone));
        names.sort_unstable();
        names.dedup();
        names
    }

    pub(super) fn have(&self, name: &Name) -> Have {
        match (self.exceptions.get(name), self.base.get(name)) {
            (Some(exception), _) => exception.have.clone(),
            (None, Some(value)) if self.full_state() => Have::Kept(Arc::clone(value)),
            (None, Some(value)) => Have::Version(Arc::clone(value.version())),
            (None, None) => Have::Absent,
        }
    }

    /// Whether what there is of a name was refused. That a refused value is gone may be told.
    fn is_blocked(&self, name: &Name, set: &TypeSet) -> bool {
        self.blocked.iter().any(|group| match group.get(name) {
            Some(Some(_)) => set.get(name).is_some(),
            Some(None) => true,
            None => false,
        })
    }

    fn judge(&self, name: &Name, set: &TypeSet, gate: &Gate<'_>, settings: &Settings) -> Verdict {
        if self.is_blocked(name, set) {
            // Who comes with nothing and refused it before waits for an answer: there is nothing for it.
            let waits = self.owed.contains_key(name) && self.have(name) == Have::Absent;
            return if waits { Verdict::Remove } else { Verdict::Blocked };
        }
        let owed = self.owed.get(name);
        let have = self.have(name);
        if let Some(value) = set.get(name) {
            if owed.is_none() && self.dropped.contains(name) {
                return Verdict::Same;
            }
            let held = match &have {
                Have::Version(version) => version == value.version(),
                Have::Kept(kept) => kept.version() == value.version(),
                Have::Absent | Have::Unknown => false,
            };
            return match owed {
                None if held => Verdict::Same,
                None if !gate.additions => Verdict::Wait,
                _ => Verdict::Send(Arc::clone(value)),
            };
        }
        let waits = set.is_pending(name);
        match owed {
            Some(since) if waits && *since + settings.unsynced_wait > gate.now => Verdict::Wait,
            Some(_) if self.kind.removal == Removal::Never && have != Have::Absent => Verdict::Forget,
            Some(_) if self.kind.unanswered => Verdict::Wait,
            Some(_) => Verdict::Remove,
            None if have == Have::Absent => Verdict::Same,
            None if waits => Verdict::Wait,
            None => match self.kind.removal {
                Removal::WithAdditions if gate.additions => Verdict::Remove,
                Removal::Last if gate.removals && self.has_left(name, gate, settings) => Verdict::Remove,
                Removal::Never => Verdict::Forget,
                Removal::WithAdditions | Removal::Last => Verdict::Wait,
            },
        }
    }

    fn has_left(&self, name: &Name, gate: &Gate<'_>, settings: &Settings) -> bool {
        let leaving = self.exceptions.get(name).and_then(|exception| exception.leaving);
        leaving.is_some_and(|since| since + settings.linger <= gate.now)
    }

    /// The response of changes: delta, and the types of state of the world whose responses may be partial.
    /// `advance` makes the set the new base.
    fn draft(
        &mut self,
        names: Vec<Name>,
        set: &Arc<TypeSet>,
        gate: &Gate<'_>,
        settings: &Settings,
        advance: bool,
    ) -> Option<Draft> {
        let mut draft = Draft::empty(self.version(set));
        let mut verdicts = Vec::with_capacity(names.len());
        let (mut size, mut resources) = (0, Vec::new());
        self.more = false;
        for name in names {
            let mut verdict = self.judge(&name, set, gate, settings);
            let cost = match &verdict {
                Verdict::Send(value) => value.len() + name.len() + self.overhead(),
                Verdict::Remove => name.len() + 4,
                _ => 0,
            };
            let split = self.protocol == Protocol::Delta;
            if cost > 0 && split && size > 0 && size + cost > settings.max_response {
                self.more = true;
                verdict = Verdict::Wait;
            } else if cost > 0 {
                size += cost;
                draft.answers |= self.owed.contains_key(&name);
                match &verdict {
                    Verdict::Send(value) => {
                        draft.needs.extend(value.endpoints().iter().map(Arc::clone));
                        resources.push((Arc::clone(&name), Arc::clone(value)));
                    }
                    _ if self.kind.aliased && self.have(&name) == Have::Absent => {
                        draft.unknown.push(Arc::clone(&name));
                    }
                    _ => draft.removed.push(Arc::clone(&name)),
                }
            }
            verdicts.push((name, verdict));
        }
        draft.resources = set.batch(resources);
        let mut due = std::mem::take(&mut self.answer_due);
        if self.protocol == Protocol::StateOfTheWorld {
            // There are no removals in state of the world; a missing name that is waited for gets an answer without
            // it, except from a relay that does not know the type.
            draft.removed.clear();
            draft.unknown.clear();
            due = (due || draft.answers) && !self.kind.type_url.is_empty();
        }
        let refused = self.was_refused(&draft);
        self.settle(verdicts, set, advance, refused.is_some());
        if let Some(refused) = refused {
            self.hold_back(&refused);
            return None;
        }
        let empty = draft.resources.is_empty() && draft.removed.is_empty() && draft.unknown.is_empty();
        (due || !empty).then_some(draft)
    }

    /// The response with the full set.
    fn full_draft(
        &mut self,
        names: Vec<Name>,
        set: &Arc<TypeSet>,
        gate: &Gate<'_>,
        settings: &Settings,
    ) -> Option<Draft> {
        let verdicts: Vec<(Name, Verdict)> = names
            .into_iter()
            .map(|name| {
                let verdict = self.judge(&name, set, gate, settings);
                (name, verdict)
            })
            .collect();
        let changes =
            verdicts.iter().any(|(_, verdict)| matches!(verdict, Verdict::Send(_) | Verdict::Remove));
        if !changes && !self.answer_due {
            self.settle(verdicts, set, gate.additions, false);
            return None;
        }
        let mut resources: Vec<(Name, Arc<Value>)> = set
            .iter()
            .filter(|(name, _)| self.subscribed(name))
            .map(|(name, value)| (Arc::clone(name), Arc::clone(value)))
            .collect();
        let kept = verdicts
            .iter()
            .filter(|(name, verdict)| matches!(verdict, Verdict::Wait) && set.get(name).is_none());
        let kept: Vec<_> = kept
            .filter_map(|(name, _)| match self.have(name) {
                Have::Kept(value) => Some((Arc::clone(name), value)),
                _ => None,
            })
            .collect();
        let mut version = self.version(set);
        if !kept.is_empty() {
            resources.extend(kept);
            resources.sort_by(|(a, _), (b, _)| a.cmp(b));
            version =
                version_of(&contents(resources.iter().map(|(name, value)| (name, Some(value.version())))));
        }
        let sent = verdicts.iter().filter_map(|(_, verdict)| match verdict {
            Verdict::Send(value) => Some(value.endpoints()),
            _ => None,
        });
        let needs = sent.flatten().map(Arc::clone).collect();
        let resources = set.batch(resources);
        let draft = Draft { resources, answers: true, needs, ..Draft::empty(version) };
        if self.was_refused(&draft).is_some() {
            self.owed.clear();
            self.answer_due = false;
            return None;
        }
        // An answer to a name carries the whole set, so it brings all of it up to date, gate or no gate.
        self.settle(verdicts, set, true, false);
        self.answer_due = false;
        Some(draft)
    }

    /// What a response says, if the client refused just that before.
    fn was_refused(&self, draft: &Draft) -> Option<Contents> {
        if self.history.is_empty() {
            return None;
        }
        let sent =
            draft.resources.iter().map(|(name, value)| (Arc::clone(name), Some(Arc::clone(value.version()))));
        let gone = draft.removed.iter().chain(&draft.unknown).map(|name| (Arc::clone(name), None));
        let said: Contents = sent.chain(gone).collect();
        self.history.contains(&digest_of(&said)).then_some(said)
    }

    /// Records the verdicts: what was sent counts as held.
    fn settle(&mut self, verdicts: Vec<(Name, Verdict)>, set: &Arc<TypeSet>, advance: bool, refused: bool) {
        let mut changes = Vec::with_capacity(verdicts.len());
        for (name, verdict) in verdicts {
            let (have, answered) = match verdict {
                Verdict::Send(_) | Verdict::Remove if refused => (Have::Unknown, true),
                Verdict::Blocked => (Have::Unknown, true),
                Verdict::Send(value) => {
                    self.dropped.remove(&name);
                    (Have::Version(Arc::clone(value.version())), true)
                }
                Verdict::Remove | Verdict::Forget => (Have::Absent, true),
                Verdict::Wait | Verdict::Same => (self.have(&name), false),
            };
            if answered {
                self.owed.remove(&name);
                self.again.remove(&name);
            }
            changes.push((name, have));
        }
        if advance {
            self.base = Arc::clone(set);
        }
        for (name, have) in changes {
            let base = self.base.get(&name).map(|value| value.version());
            let as_base = match &have {
                Have::Absent => base.is_none(),
                Have::Version(version) => base == Some(version),
                Have::Kept(value) => base == Some(value.version()),
                Have::Unknown => false,
            };
            if as_base {
                self.exceptions.remove(&name);
            } else {
                let exception =
                    self.exceptions.entry(name).or_insert(Exception { have: Have::Absent, leaving: None });
                exception.have = have;
            }
        }
    }

    /// The version of the type; delta has none.
    pub(super) fn version(&self, set: &TypeSet) -> Arc<str> {
        match self.protocol {
            Protocol::Delta => Arc::from(""),
            Protocol::StateOfTheWorld => Arc::clone(set.version()),
        }
    }
}
