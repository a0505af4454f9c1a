//! Candidates: taking one with its wave, watching it while its step bakes, giving it back.

use super::super::choice::Because;
use super::Task;
use crate::cache::{Refused, Wave};
use crate::canary::{Bake, Health};
use crate::pull::Request;
use moorgate_snapshot::Effective;

/// A snapshot that failed its health bound is tried again after this time, in seconds: answers may have failed for
/// another reason.
const UNHEALTHY: i64 = 3600;
/// The longest time that a step bakes, in seconds.
const MAX_BAKE: u64 = 30 * 86_400;

impl Task {
    /// Notes which step bakes here and since when, and sets the watch over it.
    pub(super) fn follow_wave(&mut self) {
        let bake = self.step_that_bakes();
        self.baking.send_if_modified(|before| {
            let changed = *before != bake;
            *before = bake;
            changed
        });
    }

    fn step_that_bakes(&mut self) -> Option<Bake> {
        let candidate = self.channel.as_ref().and_then(|channel| channel.candidate.as_ref());
        let Some((candidate, step)) = candidate.and_then(|one| Some((one, one.baking()?))) else {
            self.note_wave(None);
            return None;
        };
        let (snapshot, number) = (candidate.release.snapshot, candidate.step);
        let (bound, seconds) = (step.max_error_percent, step.bake_seconds.min(MAX_BAKE));
        let known = self.state.wave.clone().filter(|wave| wave.snapshot == snapshot);
        if self.current != Some((snapshot, Because::Wave)) {
            // It may have been given back: what was seen of it still holds.
            self.note_wave(known);
            return None;
        }
        let wave = known.filter(|wave| wave.step == number).unwrap_or_else(|| Wave {
            snapshot,
            step: number,
            since: self.clock.unix_now(),
            healthy: None,
        });
        let until = wave.since.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX));
        self.note_wave(Some(wave));
        bound.map(|max_error_percent| Bake { snapshot, step: number, until, max_error_percent })
    }

    fn note_wave(&mut self, wave: Option<Wave>) {
        if self.state.wave != wave {
            self.state.wave = wave;
            self.save_state();
        }
    }

    /// What was seen of the step that bakes. A candidate that makes too many answers fail is given back.
    pub(super) fn on_health(&mut self, health: &Health) {
        if self.baking.borrow().as_ref() != Some(&health.bake) {
            return;
        }
        if let Some(error) = &health.error {
            tracing::debug!(fleet = self.label, error, "an Envoy's statistics cannot be read");
        }
        let Some(wave) = self.state.wave.clone() else { return };
        self.note_wave(Some(Wave { healthy: health.healthy, ..wave }));
        if health.healthy != Some(false) {
            return;
        }
        let (snapshot, counts) = (health.bake.snapshot, health.counts);
        let text = format!(
            "health: {} of {} answers were 5xx, more than {} %",
            counts.errors, counts.completed, health.bake.max_error_percent
        );
        tracing::error!(
            fleet = self.label,
            snapshot = %snapshot.short(),
            text,
            "the candidate is given back: Envoys go back to what was served before"
        );
        self.metrics.count("moorgate_relay_unhealthy", &[("fleet", &self.label)]);
        let since = self.clock.unix_now();
        self.state.note_bad(snapshot, Refused { text, since, until: Some(since.saturating_add(UNHEALTHY)) });
        self.save_state();
        self.decide();
    }

    /// Ends what was bad for a time only; whether there was any.
    pub(super) fn try_again(&mut self) -> bool {
        let now = self.clock.unix_now();
        if !self.state.forget_bad(now, |_| true) {
            return false;
        }
        tracing::info!(fleet = self.label, "what failed its health bound is tried again");
        self.state.wave = None;
        self.save_state();
        self.ask_for_wanted();
        true
    }

    /// Fetches what the channel asks for, if it went meanwhile.
    pub(super) fn ask_for_wanted(&mut self) {
        let Effective::Serve { release, .. } = self.effective() else { return };
        let release = release.clone();
        if !self.load(release.snapshot) {
            let _ = self.puller.try_send(Request::Fetch(Box::new(release)));
        }
    }
}
