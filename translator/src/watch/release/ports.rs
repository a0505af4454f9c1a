//! Ports that go: Services are led away from them before Envoys leave them.
//!
//! A release that takes a port away waits while a Service of the fleet still leads there. Whoever makes the fleets narrows
//! the Service at the same time ([`prepare`](crate::watch::provision::Provisioner::prepare)); that it has done so is seen at
//! the Service itself. The wait is bounded: where nobody may change Services, releases go on.

use crate::render::{self, Port};
use crate::source::cluster::{Live, Objects};
use moorgate_snapshot::FleetName;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// A release waits so long for Services.
const PATIENCE: Duration = Duration::from_secs(10);

/// Fleets whose Services lead to ports that are about to go.
#[derive(Debug, Default)]
pub(super) struct Barrier {
    /// Since when, and whether it was given up.
    held: BTreeMap<FleetName, (Instant, bool)>,
}

impl Barrier {
    /// Whether the release of a fleet has to wait, for Services that lead to `led` and a snapshot with the ports `wanted`.
    pub(super) fn holds(
        &mut self,
        fleet: &FleetName,
        led: &[BTreeSet<Port>],
        wanted: &BTreeSet<Port>,
        now: Instant,
    ) -> bool {
        if !led.iter().any(|led| can_be_narrowed(led, wanted)) {
            self.held.remove(fleet);
            return false;
        }
        let (since, given_up) = self.held.entry(fleet.clone()).or_insert((now, false));
        if now.duration_since(*since) < PATIENCE {
            return true;
        }
        if !*given_up {
            *given_up = true;
            tracing::warn!(%fleet, "a Service still leads to a port that goes; published all the same");
        }
        false
    }

    /// When a wait ends that nothing else ended.
    pub(super) fn ends(&self) -> Option<Instant> {
        self.held.values().filter(|(_, given_up)| !given_up).map(|(since, _)| *since + PATIENCE).min()
    }

    /// Forgets fleets, because somebody else publishes.
    pub(super) fn clear(&mut self) {
        self.held.clear();
    }
}

/// Whether a Service leads to a port that is not wanted, and can be led away from it: one has at least one port, so that of
/// a fleet all of whose ports change goes on until the new ones are there.
fn can_be_narrowed(led: &BTreeSet<Port>, wanted: &BTreeSet<Port>) -> bool {
    !led.is_subset(wanted) && !led.is_disjoint(wanted)
}

/// The ports to which each Service leads that was made for a fleet.
pub(super) fn led(objects: &Objects, fleet: &FleetName) -> Vec<BTreeSet<Port>> {
    let services = objects.of_kind("", "Service");
    services.filter(|service| render::is_made_for(&service.labels, fleet)).map(|live| ports(live)).collect()
}

fn ports(service: &Live) -> BTreeSet<Port> {
    let ports = service.fields.get("spec").and_then(|spec| spec["ports"].as_array());
    let port = |port: &Value| {
        let number = port["port"].as_u64().and_then(|number| u16::try_from(number).ok())?;
        Some(Port::of(number, port["protocol"].as_str()))
    };
    ports.into_iter().flatten().filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Ports of Services, ports of the snapshot, and whether it waits.
    type Case<'c> = (&'c [&'c [u16]], &'c [u16], bool);

    fn set(numbers: &[u16]) -> BTreeSet<Port> {
        numbers.iter().map(|number| Port::of(*number, None)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_goes_from_the_service_first_or_after_a_while() {
        let fleet = FleetName::gateway("shop", "edge");
        let cases: [Case<'_>; 8] = [
            // No Service yet, the same ports, one that comes.
            (&[], &[80], false),
            (&[&[80]], &[80], false),
            (&[&[80]], &[80, 443], false),
            // One that goes, also from one of several Services, also if another comes.
            (&[&[80, 443]], &[80], true),
            (&[&[80], &[80, 443]], &[80], true),
            (&[&[80, 443]], &[80, 8080], true),
            // All go: no Service can do without any.
            (&[&[80]], &[443], false),
            (&[&[80]], &[], false),
        ];
        for (led, wanted, waits) in cases {
            let led: Vec<BTreeSet<Port>> = led.iter().map(|ports| set(ports)).collect();
            let mut barrier = Barrier::default();
            assert_eq!(
                barrier.holds(&fleet, &led, &set(wanted), Instant::now()),
                waits,
                "{led:?} {wanted:?}"
            );
            assert_eq!(barrier.ends().is_some(), waits);
        }
        let mut barrier = Barrier::default();
        let wide = [set(&[80, 443])];
        let holds = |barrier: &mut Barrier, led: &[BTreeSet<Port>]| {
            barrier.holds(&fleet, led, &set(&[80]), Instant::now())
        };
        assert!(holds(&mut barrier, &wide));
        // Narrowed: at once. Somebody widens it again: it waits anew.
        assert!(!holds(&mut barrier, &[set(&[80])]));
        assert_eq!(barrier.ends(), None);
        assert!(holds(&mut barrier, &wide));
        tokio::time::advance(PATIENCE / 2).await;
        assert!(holds(&mut barrier, &wide));
        tokio::time::advance(PATIENCE / 2).await;
        assert_eq!(barrier.ends(), Some(Instant::now()));
        // Given up, and for later releases too, until the Service is as it should be.
        assert!(!holds(&mut barrier, &wide) && !holds(&mut barrier, &wide));
        assert_eq!(barrier.ends(), None);
        assert!(!holds(&mut barrier, &[set(&[80])]) && holds(&mut barrier, &wide));
    }

    #[test]
    fn services_are_those_that_were_made_for_the_fleet() {
        let fleet = FleetName::gateway("shop", "edge");
        let [_, kind] = crate::source::cluster::core();
        let mut objects = Objects::default();
        let mut add = |name: &str, labels: &[(String, String)], port: u16| {
            let labels: BTreeMap<_, _> = labels.iter().cloned().collect();
            let object = json!({
                "metadata": {"name": name, "namespace": "shop", "labels": labels},
                "spec": {"ports": [{"port": port, "protocol": "UDP"}, {"port": 80}]},
            });
            objects.insert(Live::of(serde_json::from_value(object).unwrap(), &kind).unwrap());
        };
        let made: Vec<(String, String)> = render::made_for(&fleet).into();
        add("edge", &made, 53);
        // Those that others apply, and of other fleets, are none of ours.
        add("rendered", &made[..1], 1);
        add("other", &render::made_for(&FleetName::gateway("shop", "other")), 2);
        add("plain", &[], 3);
        let expected = BTreeSet::from([Port::of(53, Some("UDP")), Port::of(80, None)]);
        assert_eq!(led(&objects, &fleet), [expected]);
    }
}
