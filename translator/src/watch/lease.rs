//! Which of several replicas writes: whoever holds the Lease.
//!
//! The clocks of replicas are never compared: a Lease has expired when it was seen unchanged for its whole duration.
//! Whoever cannot renew it in time stops writing before another one may begin.

use crate::source::cluster::answer;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// So long a Lease that is not renewed holds.
const DURATION: Duration = Duration::from_secs(15);
/// Without a renewal for so long its holder stops writing.
const GIVE_UP: Duration = Duration::from_secs(10);
/// The time between renewals, and between looks of those who wait.
const RENEW: Duration = Duration::from_secs(2);

/// An answer has to be there within this time: two of them late, and there is still time to stop.
const ANSWER: Duration = Duration::from_secs(3);

/// Which Lease, and who asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// This replica: no two have the same.
    pub identity: String,
}

/// What is known of the Lease.
struct Seen {
    lease: Lease,
    /// Since when it is as it is.
    since: Instant,
}

/// Holds the Lease whenever it can be had, and says so; gives it back when the loop ends.
pub(super) async fn run(
    client: Client,
    holder: Holder,
    leads: watch::Sender<bool>,
    mut stop: watch::Receiver<bool>,
) {
    let api: Api<Lease> = Api::namespaced(client, &holder.namespace);
    let mut seen: Option<Seen> = None;
    let mut renewed: Option<Instant> = None;
    loop {
        let asked = Instant::now();
        match tokio::time::timeout(ANSWER, attempt(&api, &holder, &mut seen)).await {
            Ok(Ok(true)) => renewed = Some(asked),
            Ok(Ok(false)) => renewed = None,
            Ok(Err(error)) => tracing::warn!(%error, lease = holder.name, "the Lease cannot be renewed"),
            Err(_) => tracing::warn!(lease = holder.name, "the Lease cannot be renewed: no answer"),
        }
        let holds = renewed.is_some_and(|at| at.elapsed() < GIVE_UP);
        leads.send_if_modified(|leads| {
            let changed = *leads != holds;
            if changed {
                tracing::info!(lease = holder.name, identity = holder.identity, leads = holds, "who writes");
            }
            *leads = holds;
            changed
        });
        let left = renewed.map_or(RENEW, |at| GIVE_UP.saturating_sub(at.elapsed())).min(RENEW);
        tokio::select! {
            () = tokio::time::sleep(left.max(Duration::from_millis(100))) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    leads.send_replace(false);
    if let (Some(_), Some(seen)) = (renewed, seen) {
        let mut lease = seen.lease;
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        let name = holder.name.as_str();
        let _ = answer(|| format!("Lease {name}"), api.replace(name, &PostParams::default(), &lease)).await;
    }
}

/// Takes or renews the Lease; false if somebody else holds it.
async fn attempt(
    api: &Api<Lease>,
    holder: &Holder,
    seen: &mut Option<Seen>,
) -> Result<bool, crate::source::cluster::ClusterError> {
    let what = || format!("Lease {}/{}", holder.namespace, holder.name);
    let now = MicroTime(k8s_openapi::jiff::Timestamp::now());
    let Some(lease) = answer(what, api.get_opt(&holder.name)).await? else {
        let metadata = ObjectMeta { name: Some(holder.name.clone()), ..ObjectMeta::default() };
        let spec = Some(taken(None, holder, &now));
        let lease = Lease { metadata, spec };
        return kept(answer(what, api.create(&PostParams::default(), &lease)).await, seen);
    };
    let changed = seen.as_ref().is_none_or(|known| known.lease != lease);
    if changed {
        *seen = Some(Seen { lease: lease.clone(), since: Instant::now() });
    }
    let spec = lease.spec.clone().unwrap_or_default();
    let since = seen.as_ref().map_or_else(Instant::now, |seen| seen.since);
    if !may_take(&spec, holder, since.elapsed()) {
        return Ok(false);
    }
    let lease = Lease { spec: Some(taken(Some(&spec), holder, &now)), ..lease };
    kept(answer(what, api.replace(&holder.name, &PostParams::default(), &lease)).await, seen)
}

/// Whether a Lease that was seen unchanged for so long may be taken or renewed.
fn may_take(spec: &LeaseSpec, holder: &Holder, unchanged: Duration) -> bool {
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
    match spec.holder_identity.as_deref() {
        None | Some("") => true,
        Some(identity) => identity == holder.identity || unchanged >= Duration::from_secs(seconds),
    }
}

fn taken(before: Option<&LeaseSpec>, holder: &Holder, now: &MicroTime) -> LeaseSpec {
    let before = before.cloned().unwrap_or_default();
    let same = before.holder_identity.as_deref() == Some(&holder.identity);
    let transitions = before.lease_transitions.unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(holder.identity.clone()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: before.acquire_time.clone().filter(|_| same).or_else(|| Some(now.clone())),
        renew_time: Some(now.clone()),
        lease_transitions: Some(if same { transitions } else { transitions.saturating_add(1) }),
        ..before
    }
}

/// A write that somebody else was faster with is no failure.
fn kept(
    result: Result<Lease, crate::source::cluster::ClusterError>,
    seen: &mut Option<Seen>,
) -> Result<bool, crate::source::cluster::ClusterError> {
    match result {
        Ok(lease) => {
            *seen = Some(Seen { lease, since: Instant::now() });
            Ok(true)
        }
        Err(crate::source::cluster::ClusterError::Api { source, .. }) if matches!(&*source, Error::Api(status) if status.code == 409) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(identity: &str) -> Holder {
        Holder { namespace: "moorgate".into(), name: "watch".into(), identity: identity.into() }
    }

    #[test]
    fn a_lease_is_taken_when_it_is_free_ours_or_was_silent() {
        let now = MicroTime(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
        let held = taken(None, &holder("a"), &now);
        assert_eq!((held.lease_transitions, held.lease_duration_seconds), (Some(1), Some(15)));
        assert!(may_take(&LeaseSpec::default(), &holder("b"), Duration::ZERO));
        assert!(may_take(&held, &holder("a"), Duration::ZERO));
        assert!(!may_take(&held, &holder("b"), Duration::from_secs(14)));
        assert!(may_take(&held, &holder("b"), DURATION));
        // Whoever holds it looks once more after it gave up, and stops before anybody else may begin.
        assert!(GIVE_UP + RENEW + ANSWER <= DURATION);
        let next = taken(Some(&held), &holder("b"), &now);
        assert_eq!(next.lease_transitions, Some(2));
        let again = taken(Some(&next), &holder("b"), &now);
        assert_eq!(again.lease_transitions, Some(2));
    }
}
