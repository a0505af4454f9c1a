//! Provisioning in the loop: each fleet of the newest compile, and the end of fleets whose Gateway is gone.

use super::relays::{self, Members};
use super::{Front, Provisioner};
use crate::attach::GATEWAY_GROUP;
use crate::compile::CompiledFleet;
use crate::render::{Fleet, Settings};
use crate::serve_store::Account;
use crate::watch::acks::{Standing, standing};
use crate::watch::{Turn, View, fleet_of};
use futures::StreamExt as _;
use moorgate_snapshot::FleetName;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Fleets applied at one time.
const PARALLEL: usize = 8;
/// What failed is tried again after so long.
const AGAIN: Duration = Duration::from_secs(2);
/// Everything is applied again so often, against changes by other hands.
const ALL: Duration = Duration::from_mins(10);

/// What was applied of a fleet, and whether its Envoys had acknowledged it by then.
type Applied = BTreeMap<FleetName, (Fleet, bool)>;

/// Where the loop stands.
#[derive(Debug, Default)]
struct Progress {
    applied: Applied,
    /// Relays in pods of their own.
    members: Members,
    /// Fleets whose Gateways were there when the others were removed last.
    pruned: Option<BTreeSet<FleetName>>,
}

impl Provisioner {
    /// Provisions as long as the loop lives; only while this replica leads.
    pub async fn run(self, mut view: View) {
        let mut progress = Progress::default();
        let mut known = Known::default();
        let mut all = Instant::now() + ALL;
        if let Some(front) = &self.front {
            front.ready().await;
        }
        loop {
            let leads = *view.leads.borrow_and_update();
            view.acks.mark_unchanged();
            let turn = view.turns.borrow_and_update().clone();
            if let Some(front) = &self.front {
                match &turn {
                    Some(turn) if leads => front.tell(&view, turn, &self.settings, &mut known),
                    _ => {
                        known = Known::default();
                        front.accounts.forget();
                    }
                }
            }
            if !leads || Instant::now() >= all {
                // Whoever leads meanwhile changes what is there.
                self.forget();
                progress = Progress::default();
                all = Instant::now() + ALL;
            }
            let mut next = all;
            if let Some(turn) = turn.filter(|_| leads)
                && !self.pass(&view, &turn, &mut progress).await
            {
                next = next.min(Instant::now() + AGAIN);
            }
            let goes_on = tokio::select! {
                changed = view.turns.changed() => changed.is_ok(),
                changed = view.leads.changed() => changed.is_ok(),
                changed = view.acks.changed() => changed.is_ok(),
                () = self.authority_changed() => {
                    // What was applied is not what is wanted now.
                    progress = Progress::default();
                    true
                }
                () = tokio::time::sleep_until(next) => true,
            };
            if !goes_on {
                // The loop ends, and says so itself.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until relays have to believe another CA.
    async fn authority_changed(&self) {
        let authority = self.front.as_ref().and_then(|front| front.authority.clone());
        let Some(mut authority) = authority else { return std::future::pending().await };
        let known = authority.borrow_and_update().clone();
        // Who keeps it may be gone, and then it stays.
        if authority.wait_for(|new| *new != known).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Brings everything to where the newest compile wants it; `false` if something has to be tried again.
    async fn pass(&self, view: &View, turn: &Turn, progress: &mut Progress) -> bool {
        let live = gateways(view, turn);
        let fleets = self.fleets(turn);
        progress.members.see(fleets.iter().map(|(fleet, _)| fleet.clone()), &live);
        // Relays first: Envoys are ready when theirs answers.
        let mut fine = self.make_relays(&mut progress.members).await;
        let due = fleets.into_iter().filter_map(|(fleet, compiled)| {
            let acked = acknowledged(view, &fleet.name, compiled);
            let known = progress.applied.get(&fleet.name);
            let same = known.is_some_and(|(known, open)| *known == fleet && *open == acked);
            (!same).then_some((fleet, acked))
        });
        let due: Vec<(Fleet, bool)> = due.collect();
        let applied: Vec<(Fleet, bool, bool)> = futures::stream::iter(due)
            .map(async |(fleet, acked)| {
                let fine = self.one(view, &fleet, acked).await;
                (fleet, acked, fine)
            })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        for (fleet, acked, applied) in applied {
            fine &= applied;
            if applied {
                progress.applied.insert(fleet.name.clone(), (fleet, acked));
            } else {
                progress.applied.remove(&fleet.name);
            }
        }
        if progress.pruned.as_ref() != Some(&live) {
            match self.prune(&live).await {
                Ok(gone) => {
                    gone.iter().for_each(|fleet| tracing::info!(%fleet, "its Gateway is gone: removed"));
                    progress.applied.retain(|fleet, _| live.contains(fleet));
                    progress.pruned = Some(live);
                }
                Err(error) => {
                    fine = false;
                    tracing::warn!(error = %error_text(&error), "fleets whose Gateway is gone could not be removed");
                }
            }
        }
        fine
    }

    /// The fleets that were compiled.
    fn fleets<'t>(&self, turn: &'t Turn) -> Vec<(Fleet, &'t CompiledFleet)> {
        let compilation = &turn.compilation;
        let of = |(name, compiled): (&FleetName, &'t CompiledFleet)| {
            Some((Fleet::of(name, compiled, &compilation.objects, self.home())?, compiled))
        };
        compilation.fleets.iter().filter_map(of).collect()
    }

    async fn one(&self, view: &View, fleet: &Fleet, acked: bool) -> bool {
        let applied = if acked { self.open(fleet).await } else { self.prepare(fleet).await };
        match applied {
            Ok(provisioned) => {
                if let Some(reporter) = provisioned.reporter {
                    let reporters = &view.target.reporters;
                    let mut reporters = reporters.lock().unwrap_or_else(PoisonError::into_inner);
                    reporters.insert(fleet.name.clone(), reporter);
                }
                true
            }
            Err(error) => {
                tracing::warn!(fleet = %fleet.name, error = %error_text(&error), "not provisioned");
                false
            }
        }
    }
}

/// The accounts of fleets whose Gateways are there.
#[derive(Debug, Default)]
struct Known {
    accounts: BTreeMap<FleetName, Account>,
    /// The compile that they are of.
    turn: Option<Arc<Turn>>,
}

impl Front {
    /// Waits until there is a CA: no fleet is made that could not reach its store.
    async fn ready(&self) {
        if let Some(authority) = &self.authority {
            let _ = authority.clone().wait_for(Option::is_some).await;
        }
    }

    /// Says which account belongs to which fleet, before its pods are there. One that cannot be compiled for a while keeps
    /// its account as long as its Gateway is there: its Envoys go on, and so do its relays.
    fn tell(&self, view: &View, turn: &Arc<Turn>, settings: &Settings, known: &mut Known) {
        if known.turn.as_ref().is_some_and(|of| Arc::ptr_eq(of, turn)) {
            return;
        }
        known.turn = Some(Arc::clone(turn));
        let compilation = &turn.compilation;
        let fleets = compilation.fleets.iter();
        let compiled = fleets.filter_map(|(name, compiled)| {
            Fleet::of(name, compiled, &compilation.objects, &settings.merged_namespace)
        });
        let accounts = &mut known.accounts;
        accounts.extend(compiled.map(|fleet| (fleet.name.clone(), account(&fleet, settings))));
        let there = gateways(view, turn);
        accounts.retain(|fleet, _| there.contains(fleet));
        self.accounts.make(accounts.iter().map(|(fleet, account)| (account.clone(), fleet.clone())));
    }
}

/// The ServiceAccount of a fleet's relays.
fn account(fleet: &Fleet, settings: &Settings) -> Account {
    let (namespace, name) = relays::account(fleet, settings);
    Account { namespace, name }
}

/// Whether the fleet's Envoys have acknowledged this very snapshot.
fn acknowledged(view: &View, name: &FleetName, compiled: &CompiledFleet) -> bool {
    let (acks, released) = (view.acks.borrow(), view.released.borrow());
    let (Some(relays), Some(sequences)) = (acks.get(name), released.get(name)) else { return false };
    standing(relays, &[compiled.snapshot.id()], sequences) == Standing::Acked
}

/// The fleets of all Gateways that are there, whether they could be compiled or not.
fn gateways(view: &View, turn: &Turn) -> BTreeSet<FleetName> {
    let gateways = view.objects(GATEWAY_GROUP, "Gateway");
    gateways.iter().map(|live| fleet_of(&live.reference, turn)).collect()
}

/// An error with its causes.
pub(super) fn error_text(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}
