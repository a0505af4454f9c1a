//! Showing what a fleet does.

use super::super::choice::Because;
use super::super::loaded::Loaded;
use super::Task;
use std::sync::Arc;

impl Task {
    /// Shows what the fleet does.
    #[expect(clippy::cast_precision_loss, reason = "metrics are floating point")]
    pub(super) fn tell(&mut self) {
        let loaded = self.current.and_then(|(id, _)| self.loaded.get(&id));
        let next = &mut self.next;
        next.sequence = self.state.sequence;
        next.snapshot = self.current.map(|(id, _)| id);
        next.because = self.current.map(|(_, because)| because);
        next.fallback = self.fallback;
        next.good.clone_from(&self.state.good);
        next.entry = self.state.entry;
        let texts = self.state.quarantined.iter().map(|(id, refused)| (*id, refused.text.clone()));
        next.quarantined = texts.collect();
        next.healthy = self.state.wave.as_ref().and_then(|wave| wave.healthy);
        next.local_pin = self.pin;
        next.retired = self.retired;
        next.expired = self.expires.is_some_and(|expires| expires < self.clock.unix_now());
        next.resources = loaded.map(Loaded::count).unwrap_or_default();
        let fleet = [("fleet", self.label.as_str())];
        let flag = |flag: bool| if flag { 1.0 } else { 0.0 };
        let channel = [("fleet", self.label.as_str()), ("channel", self.name.as_str())];
        self.metrics.set("moorgate_relay_channel_info", &channel, 1.0);
        // From the start, so that the first one is an increase.
        self.metrics.add("moorgate_relay_integrity_refusals", &fleet, 0.0);
        self.metrics.set("moorgate_relay_sequence", &fleet, next.sequence as f64);
        self.metrics.set("moorgate_relay_quarantined", &fleet, next.quarantined.len() as f64);
        self.metrics.set("moorgate_relay_pinned", &fleet, flag(next.because == Some(Because::LocalPin)));
        let missing = self.pin.is_some_and(|pin| next.snapshot != Some(pin)) && !next.retired;
        self.metrics.set("moorgate_relay_pin_missing", &fleet, flag(missing));
        self.metrics.set("moorgate_relay_wave", &fleet, flag(next.because == Some(Because::Wave)));
        self.metrics.set("moorgate_relay_head_expired", &fleet, flag(next.expired));
        self.metrics.set("moorgate_relay_retired", &fleet, flag(next.retired));
        let short = next.snapshot.map(|id| id.short());
        let series: Vec<_> = short.iter().map(|short| (vec![("snapshot", short.as_str())], 1.0)).collect();
        self.metrics.replace("moorgate_relay_snapshot_info", &self.label, &series);
        let pin = self.channel.as_ref().and_then(|channel| channel.pin.as_ref());
        self.metrics.set("moorgate_relay_channel_pinned", &fleet, flag(pin.is_some()));
        let expires = pin.and_then(|pin| pin.expires).map(time::OffsetDateTime::unix_timestamp);
        let series: Vec<_> = expires.iter().map(|end| (Vec::new(), *end as f64)).collect();
        self.metrics.replace("moorgate_relay_pin_expires_seconds", &self.label, &series);
        debug_assert_eq!(next.fleet, self.fleet);
        self.status.send_replace(Arc::new(next.clone()));
    }
}
