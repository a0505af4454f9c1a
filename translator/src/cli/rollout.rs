//! `--wait`: staying until a release is live.

use super::access::{Actor, duration, failure};
use super::{Exit, Failure};
use crate::publish::{Done, End, Outcome, Progress, PublishError, Rollout};
use clap::Args;
use moorgate_snapshot::{Channel, Digest, FleetName, KeyError};
use serde_json::{Value, json};
use std::io::Write as _;
use std::time::Duration;

/// Whether to stay until the release is live.
#[derive(Debug, Clone, Args)]
pub(super) struct RolloutArgs {
    /// Stay until relays report the release live; moves its wave on, and halts it if it does harm
    #[arg(long)]
    wait: bool,
    /// The share of relays that must be live in the end, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=100))]
    percent: u8,
    /// How many relays there are, if not all of them report yet
    #[arg(long, value_name = "NUMBER")]
    relays: Option<usize>,
    /// How long to stay: a wave that is not at its end then stands where it is
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    wait_timeout: time::Duration,
    /// The time between two looks at the reports
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    wait_interval: time::Duration,
}

impl RolloutArgs {
    /// Whether to stay.
    pub(super) fn waits(&self) -> bool {
        self.wait
    }

    /// Stays until the snapshot is live. Gives the exit code and what came of it.
    pub(super) async fn drive(
        &self,
        actor: &Actor,
        fleet: &FleetName,
        channel: &Channel,
        snapshot: Digest,
    ) -> Result<(Exit, Value), Failure> {
        let publisher = || {
            let random = |failure: Failure| PublishError::Key(KeyError::Sign(failure.error.to_string()));
            actor.publisher(fleet, channel, "").map_err(random)
        };
        let said = |text: &str| {
            let _ = writeln!(anstream::stderr(), "{fleet}: {}", super::table::clean(text));
        };
        let rollout = Rollout {
            publisher: &publisher,
            snapshot,
            percent: self.percent,
            relays: self.relays,
            interval: standard(self.wait_interval).max(Duration::from_secs(1)),
            timeout: standard(self.wait_timeout),
            said: &said,
        };
        let end = Box::pin(rollout.drive()).await.map_err(failure)?;
        let (exit, word, detail) = match &end {
            End::Live(progress) => (Exit::Fine, "live", progress.summary()),
            End::Refused(progress) => (Exit::No, "refused", progress.summary()),
            End::Halted { entry, why } => {
                (Exit::Refused, "halted", format!("entry {} pins the release before: {why}", entry.sequence))
            }
            End::Stopped(why) => (Exit::Refused, "stopped", why.clone()),
            End::TimedOut(text) => (Exit::TimedOut, "timeout", text.clone()),
        };
        said(&format!("{word}: {detail}"));
        let mut value = json!({"result": word, "detail": detail});
        if let (End::Live(found) | End::Refused(found), Some(object)) = (&end, value.as_object_mut()) {
            object.extend(progress(found));
        }
        if let (End::Halted { entry, .. }, Some(object)) = (&end, value.as_object_mut()) {
            object.insert("sequence".to_owned(), entry.sequence.into());
        }
        Ok((exit, value))
    }
}

impl RolloutArgs {
    /// Stays until what an act has released is live; says how it ended on stderr.
    pub(super) async fn follow(&self, actor: &Actor, done: &Outcome) -> Result<Exit, Failure> {
        let state = &done.entry.state;
        let Some(release) = state.newest().filter(|_| self.wait && done.result != Done::DryRun) else {
            return Ok(Exit::Fine);
        };
        let (fleet, channel) = (&done.entry.fleet, &done.entry.channel);
        Ok(self.drive(actor, fleet, channel, release.snapshot).await?.0)
    }
}

/// Progress for scripts.
pub(super) fn progress(found: &Progress) -> serde_json::Map<String, Value> {
    let rows = |rows: &[(String, String)], state: &str| -> Vec<Value> {
        rows.iter().map(|(relay, why)| json!({"relay": relay, "state": state, "why": why})).collect()
    };
    let mut map = serde_json::Map::new();
    map.insert("live".to_owned(), found.live.into());
    map.insert("expected".to_owned(), found.expected.into());
    map.insert("envoys_acked".to_owned(), found.acked.into());
    let not_live = [rows(&found.refused, "refused"), rows(&found.laggards, "behind")].concat();
    map.insert("not_live".to_owned(), not_live.into());
    map
}

/// Never negative: the command line takes no such durations.
pub(super) fn standard(duration: time::Duration) -> Duration {
    Duration::try_from(duration).unwrap_or_default()
}
