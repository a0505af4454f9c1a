//! Driving a release until it is live: watches reports, steps its wave, and halts it if it does harm.
//!
//! Nothing is remembered between two looks: what holds is what the log says. So a job that dies leaves the wave where it
//! stands, and the next one goes on from there.

use super::gates::Gate;
use super::release::state_of;
use super::reports::{GONE_AFTER, Progress, Reports, Verdict, judge};
use super::transition::is_over;
use super::{PublishError, Publisher};
use moorgate_snapshot::channel::{Candidate, ChannelState};
use moorgate_snapshot::{Digest, Entry};
use std::time::Duration;
use tokio::time::Instant;

/// A release on its way to all relays of a channel.
pub struct Rollout<'a> {
    /// A publisher for one more look or entry, with the time and a nonce of its own.
    pub publisher: &'a (dyn Fn() -> Result<Publisher<'a>, PublishError> + Send + Sync),
    /// What shall be live.
    pub snapshot: Digest,
    /// The share of relays that must be live in the end, in percent.
    pub percent: u8,
    /// How many relays there are, if more than report.
    pub relays: Option<usize>,
    /// The time between two looks.
    pub interval: Duration,
    /// How long to look.
    pub timeout: Duration,
    /// Told whenever something changes.
    pub said: &'a (dyn Fn(&str) + Send + Sync),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It is live on the share that was asked for.
    Live(Progress),
    /// It is in force, and so many relays refuse it that it cannot be.
    Refused(Progress),
    /// The wave did harm, and was halted by this entry.
    Halted {
        /// The pin.
        entry: Box<Entry>,
        /// Why.
        why: String,
    },
    /// Somebody else decided otherwise: a pin, another release, the end of the fleet.
    Stopped(String),
    /// The time ran out. The wave stands where it is.
    TimedOut(String),
}

/// One look.
enum Look {
    End(End),
    Wait(String),
}

impl Rollout<'_> {
    /// Looks, steps and halts until there is an end.
    ///
    /// # Errors
    /// What the store has is not to be believed, or a gate refused for good. A store that does not answer is asked again.
    pub async fn drive(&self) -> Result<End, PublishError> {
        let deadline = Instant::now() + self.timeout;
        let mut last = String::new();
        loop {
            let text = match Box::pin(self.look()).await {
                Ok(Look::End(end)) => return Ok(end),
                Ok(Look::Wait(text)) => text,
                Err(error) if passes(&error) => error.to_string(),
                Err(error) => return Err(error),
            };
            if text != last {
                (self.said)(&text);
                last.clone_from(&text);
            }
            if Instant::now() >= deadline {
                return Ok(End::TimedOut(text));
            }
            tokio::time::sleep(self.interval).await;
        }
    }

    async fn look(&self) -> Result<Look, PublishError> {
        let publisher = (self.publisher)()?;
        let state = state_of(&publisher.tail().await?);
        if state.retired {
            return Ok(stopped("the fleet is retired".to_owned()));
        }
        let pinned = state.pin.as_ref().filter(|pin| pin.release.snapshot != self.snapshot);
        if let Some(pin) = pinned {
            let at = pin.release.snapshot.short();
            return Ok(stopped(format!("pinned at {at} by {}: {}", pin.by, pin.reason)));
        }
        let wave = state.candidate.as_ref().filter(|wave| wave.release.snapshot == self.snapshot);
        match wave {
            Some(wave) if state.pin.is_none() => self.go_on(&publisher, &state, wave).await,
            _ if state.serving().is_some_and(|release| release.snapshot == self.snapshot) => {
                self.watch(&publisher).await
            }
            _ => {
                let newest = state.newest().map(|release| release.snapshot.short()).unwrap_or_default();
                Ok(stopped(format!("{newest} has taken its place")))
            }
        }
    }

    /// In force for all: waits for reports.
    async fn watch(&self, publisher: &Publisher<'_>) -> Result<Look, PublishError> {
        let reports = Reports::read(&publisher.reader).await?;
        let (channel, now) = (publisher.reader.channel(), publisher.meta.time);
        let progress = reports.progress(&self.snapshot, channel, now, GONE_AFTER, self.relays);
        Ok(if progress.reached(self.percent) {
            Look::End(End::Live(progress))
        } else if progress.hopeless(self.percent) {
            Look::End(End::Refused(progress))
        } else {
            Look::Wait(progress.summary())
        })
    }

    async fn go_on(
        &self,
        publisher: &Publisher<'_>,
        state: &ChannelState,
        wave: &Candidate,
    ) -> Result<Look, PublishError> {
        if state.bad.contains(&self.snapshot) {
            return Ok(stopped("it is marked bad".to_owned()));
        }
        if let Some(hold) = &state.hold {
            return Ok(Look::Wait(format!("held by {}: {}", hold.by, hold.reason)));
        }
        let place = format!("step {} of {}", wave.step, wave.steps.len());
        if wave.step > 0 {
            let reports = Reports::read(&publisher.reader).await?;
            match judge(wave, publisher.reader.channel(), &reports, publisher.meta.time) {
                Verdict::Halt(why) => {
                    let outcome = Box::pin(publisher.halt_automatically(&self.snapshot, &why)).await?;
                    return Ok(Look::End(End::Halted { entry: Box::new(outcome.entry), why }));
                }
                Verdict::Pending(progress) => {
                    return Ok(Look::Wait(format!("{place}: {}", progress.summary())));
                }
                Verdict::Ready(progress) if !is_over(wave, publisher.meta.time) => {
                    return Ok(Look::Wait(format!("{place} bakes: {}", progress.summary())));
                }
                Verdict::Ready(_) => {}
            }
        }
        let outcome = Box::pin(publisher.step(false, Some(&self.snapshot))).await?;
        let now = outcome.entry.state.candidate.as_ref().map_or_else(
            || "in force for all".to_owned(),
            |wave| format!("step {} of {}", wave.step, wave.steps.len()),
        );
        Ok(Look::Wait(format!("entry {}: {now}", outcome.entry.sequence)))
    }
}

fn stopped(why: String) -> Look {
    Look::End(End::Stopped(why))
}

/// Whether the next look may find it better: a store that does not answer, an entry that somebody else was faster with.
fn passes(error: &PublishError) -> bool {
    match error {
        PublishError::Read(error) => !error.is_integrity(),
        PublishError::Uncertain { .. } | PublishError::Write(_) => true,
        PublishError::Refused(gate) => matches!(
            gate,
            Gate::Moved { .. } | Gate::Baking { .. } | Gate::Unhealthy { .. } | Gate::OtherCandidate(_)
        ),
        _ => false,
    }
}
