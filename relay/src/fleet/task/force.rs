//! Putting a snapshot in force.

use super::super::choice::{Because, Choice, choose};
use super::super::loaded::{Bindings, Loaded};
use super::Task;
use crate::serve::view::{Config, Name, TypeSet, View};
use moorgate_snapshot::{Binding, BindingKind, Digest, Effective};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

impl Task {
    /// Chooses what is to be served, and asks for its bindings if that changed.
    pub(super) fn decide(&mut self) {
        let (channel, state, pin) = (self.channel.clone(), self.state.clone(), self.pin);
        let (identity, name) = (self.identity.clone(), self.name.clone());
        let effective = channel.as_ref().map(|channel| channel.effective_for(&identity, &name));
        let effective = effective.unwrap_or(Effective::Empty);
        match choose(effective, &state, pin, &mut |id| self.load(id)) {
            Choice::Nothing => {}
            Choice::Retired => self.retire(),
            Choice::Serve(id, because) => {
                let asked_for = matches!(because, Because::Target | Because::Wave | Because::Pin);
                self.change_to(id, if self.seeded && asked_for { Because::Seed } else { because });
            }
        }
        self.next.local_pin = self.pin;
        self.follow_wave();
    }

    pub(super) fn change_to(&mut self, id: Digest, because: Because) {
        let before = self.current.replace((id, because));
        let was_retired = std::mem::replace(&mut self.retired, false);
        if before.map(|(id, _)| id) == Some(id) && !was_retired {
            return;
        }
        let (fleet, short) = (self.label.clone(), id.short());
        let _span =
            tracing::info_span!(target: crate::TRACE, "swap", fleet, snapshot = %short, ?because).entered();
        let refused = |id: &Digest| self.state.is_bad(id);
        let good = |id: &Digest| self.state.good.contains(id);
        // The last good one first; one that nobody has tried yet is better than none.
        let mut others: Vec<Digest> = self.way_back(because).into_iter().collect();
        others.extend(before.iter().map(|(id, _)| *id).filter(good));
        others.extend(self.state.good.iter().copied());
        others.extend(self.fallback);
        others.extend(before.map(|(id, _)| id));
        let others: Vec<Digest> =
            others.into_iter().filter(|other| *other != id && !refused(other)).collect();
        self.fallback = others.into_iter().find(|other| self.load(*other));
        self.state.serving = Some(id);
        self.save_state();
        let stay: BTreeSet<Digest> = self.fallback.into_iter().chain([id]).collect();
        self.loaded.retain(|id, _| stay.contains(id));
        self.hub
            .need(self.loaded.iter().map(|(id, loaded)| (*id, loaded.snapshot.manifest().oldest_envoy())));
        self.keep_only(&stay);
        if let Some(loaded) = self.loaded.get(&id) {
            let apart = loaded.snapshot.pages().iter().map(|page| (page.digest(), page.clone()));
            *self.pages.lock().unwrap_or_else(PoisonError::into_inner) = apart.collect();
        }
        self.ask_for_bindings(&stay);
        self.next.since = Some(self.clock.unix_now());
        tracing::info!(fleet = self.label, snapshot = %id.short(), ?because, "the snapshot is put in force");
        // The binder may have answered for an equal set of names already.
        self.publish();
    }

    /// From a candidate one goes back to what all others serve.
    fn way_back(&self, because: Because) -> Option<Digest> {
        match self.effective() {
            Effective::Serve { fallback: Some(release), .. } if because == Because::Wave => {
                Some(release.snapshot)
            }
            _ => None,
        }
    }

    /// Endpoints and secrets of both snapshots: an Envoy may be at either.
    pub(super) fn ask_for_bindings(&mut self, snapshots: &BTreeSet<Digest>) {
        let current = self.current.map(|(id, _)| id);
        let in_order = snapshots.iter().filter(|id| Some(**id) != current).chain(current.as_ref());
        let mut all: Vec<Bindings> =
            in_order.filter_map(|id| Some(self.loaded.get(id)?.bindings.clone())).collect();
        all.dedup_by(|one, other| one.is(other));
        let same = |asked: &Vec<Bindings>| {
            asked.len() == all.len() && asked.iter().zip(&all).all(|(asked, one)| asked.is(one))
        };
        if self.asked.as_ref().is_some_and(same) {
            // The answer is known, or on its way.
            return;
        }
        let mut by_name: BTreeMap<(BindingKind, &Name), &Binding> = BTreeMap::new();
        by_name.extend(all.iter().flat_map(Bindings::iter).map(|one| ((one.kind, &one.name), one)));
        let bindings = Arc::new(by_name.into_values().cloned().collect());
        self.asked = Some(all);
        self.wanted.send_modify(|wanted| {
            wanted.generation += 1;
            wanted.bindings = bindings;
        });
    }

    /// The fleet is gone: nothing is served any more, which drains listeners and drops secrets.
    pub(super) fn retire(&mut self) {
        if std::mem::replace(&mut self.retired, true) {
            return;
        }
        tracing::warn!(fleet = self.label, "the fleet is retired: its listeners are drained");
        self.current = None;
        self.fallback = None;
        self.loaded.clear();
        self.next.since = Some(self.clock.unix_now());
        self.ask_for_bindings(&BTreeSet::new());
        let nothing = || TypeSet::new(BTreeMap::new(), BTreeSet::new());
        let config = Config::new(Digest::of(b"retired"), BTreeMap::new(), None);
        self.hub.publish(Arc::new(View {
            config,
            fallback: None,
            endpoints: nothing(),
            secrets: nothing(),
            extensions: nothing(),
            leftover: Arc::default(),
        }));
    }

    /// Puts the view in force, if the bindings of its snapshots are known.
    pub(super) fn publish(&mut self) {
        let bound = self.bound.borrow_and_update().clone();
        self.next.bindings = Arc::clone(&bound.report);
        let Some(loaded) = self.current.and_then(|(id, _)| self.loaded.get(&id)) else { return };
        if bound.generation < self.wanted.borrow().generation {
            return;
        }
        let fallback = self.fallback.and_then(|id| self.loaded.get(&id));
        let before = self.hub.view();
        let view = View {
            config: Arc::clone(&loaded.config),
            fallback: fallback.map(|loaded| Arc::clone(&loaded.config)),
            endpoints: bound.endpoints,
            secrets: bound.secrets,
            extensions: bound.extensions,
            leftover: leftover(loaded, fallback, before.as_deref()),
        };
        let same = before.is_some_and(|before| {
            Arc::ptr_eq(&before.config, &view.config)
                && Arc::ptr_eq(&before.endpoints, &view.endpoints)
                && Arc::ptr_eq(&before.secrets, &view.secrets)
                && Arc::ptr_eq(&before.extensions, &view.extensions)
                && before.fallback.as_ref().map(|config| config.id)
                    == view.fallback.as_ref().map(|config| config.id)
        });
        if !same {
            self.hub.publish(Arc::new(view));
        }
    }
}

/// Endpoint sets that only the fallback names, worked out anew when one of both snapshots is another.
fn leftover(loaded: &Loaded, fallback: Option<&Loaded>, before: Option<&View>) -> Arc<BTreeSet<Name>> {
    let Some(fallback) = fallback else { return Arc::default() };
    let same = |view: &&View| {
        view.config.id == loaded.config.id
            && view.fallback.as_ref().is_some_and(|old| old.id == fallback.config.id)
    };
    if let Some(view) = before.filter(same) {
        return Arc::clone(&view.leftover);
    }
    Arc::new(fallback.bindings.endpoints_beside(&loaded.bindings))
}
