//! Where a Gateway is reached: the addresses of its Service, or those that it names itself.

use crate::render;
use crate::source::cluster::{Live, Objects};
use moorgate_snapshot::FleetName;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a Service says of the Gateway that it is for (GEP-1762).
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// An address: its type, its value, and from where it is reached (GEP-1651); empty if nothing is said of that.
type Address = (String, String, &'static str);

/// Reached from inside of the cluster only.
const CLUSTER: &str = "Cluster";

/// What became of a Gateway's addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    /// `status.addresses`.
    assigned: Vec<Address>,
    /// Asked for and not given.
    unusable: Vec<Address>,
    /// Whether anybody assigns addresses: without a Service nobody here knows.
    known: bool,
}

/// The addresses of a Gateway. `provisions` if its Service is made here, so that it has no address before that is there.
pub(super) fn of(gateway: &Live, fleet: &FleetName, objects: &Objects, provisions: bool) -> Addresses {
    let wishes = wishes(gateway);
    let asked: BTreeSet<Address> = wishes.iter().filter(|(_, value, _)| !value.is_empty()).cloned().collect();
    let shared = matches!(fleet, FleetName::Class { .. });
    let is_its = |service: &&Arc<Live>| {
        if shared { render::is_made_for(&service.labels, fleet) } else { is_of(service, gateway) }
    };
    let services: Vec<_> = objects.of_kind("", "Service").filter(is_its).collect();
    if services.is_empty() && !provisions {
        // Whoever runs the Envoys knows where they are reached, and may have written it down.
        let assigned: Vec<Address> = asked.into_iter().collect();
        return Addresses { known: !assigned.is_empty(), assigned, unusable: Vec::new() };
    }
    // Without a wish for the inside of the cluster, the address of a ClusterIP is as good as any.
    let inside = wishes.iter().any(|(.., routability)| *routability == CLUSTER);
    let given: BTreeSet<Address> = services.iter().flat_map(|service| given(service, inside)).collect();
    let counts = |found: &&Address| {
        let same = |wish: &&Address| wish.2 == found.2;
        if wishes.iter().any(|wish| same(&wish)) {
            !asked.iter().any(|wish| same(&wish)) || asked.contains(*found)
        } else {
            wishes.is_empty()
        }
    };
    Addresses {
        assigned: given.iter().filter(counts).cloned().collect(),
        unusable: asked.iter().filter(|address| !given.contains(address)).cloned().collect(),
        known: true,
    }
}

/// By owner, or by label where nobody owns it. A name of more than 63 characters is no label.
fn is_of(service: &Live, gateway: &Live) -> bool {
    if service.reference.namespace != gateway.reference.namespace {
        return false;
    }
    if !gateway.uid.is_empty() && service.owners.contains(&*gateway.uid) {
        return true;
    }
    service.owners.is_empty()
        && service.labels.get(GATEWAY_NAME).is_some_and(|name| **name == *gateway.reference.name)
}

/// What the Gateway asks for; without a value any.
fn wishes(gateway: &Live) -> BTreeSet<Address> {
    let spec = gateway.fields.get("spec").unwrap_or(&Value::Null);
    let addresses = spec["addresses"].as_array().into_iter().flatten();
    addresses
        .map(|address| {
            let value = address["value"].as_str().unwrap_or_default();
            let routability = if address["routability"] == CLUSTER { CLUSTER } else { "" };
            (address["type"].as_str().unwrap_or("IPAddress").to_owned(), value.to_owned(), routability)
        })
        .collect()
}

fn given(service: &Live, inside: bool) -> Vec<Address> {
    let spec = service.fields.get("spec").unwrap_or(&Value::Null);
    let routability = if inside && spec["type"] == "ClusterIP" { CLUSTER } else { "" };
    let text = |kind: &str, value: &Value| Some((kind.to_owned(), value.as_str()?.to_owned(), routability));
    if spec["type"] != "LoadBalancer" {
        let addresses = spec["clusterIPs"].as_array().into_iter().flatten();
        return addresses
            .filter(|value| *value != "None")
            .filter_map(|value| text("IPAddress", value))
            .collect();
    }
    let ingress = service.status["loadBalancer"]["ingress"].as_array().into_iter().flatten();
    ingress
        .filter_map(|entry| text("IPAddress", &entry["ip"]).or_else(|| text("Hostname", &entry["hostname"])))
        .collect()
}

impl Addresses {
    /// A Gateway without the address that it needs is not programmed, whatever Envoys say.
    pub(super) fn judge(&self, wanted: &mut Value) {
        if !self.known || (self.unusable.is_empty() && !self.assigned.is_empty()) {
            return;
        }
        let (reason, message) = if self.unusable.is_empty() {
            ("AddressNotAssigned", "no address has been assigned yet".to_owned())
        } else {
            ("AddressNotUsable", format!("not usable here: {}", values(&self.unusable)))
        };
        for condition in wanted["conditions"].as_array_mut().into_iter().flatten() {
            let valid = condition["status"] != "False";
            if condition["type"] == "Programmed" && valid {
                condition["status"] = json!("False");
                condition["reason"] = json!(reason);
                condition["message"] = json!(message);
            }
        }
    }

    /// Writes `status.addresses` and the condition about them.
    pub(super) fn write(&self, wanted: &mut Value, generation: Option<i64>) {
        let addresses = self.assigned.iter().map(|(kind, value, routability)| match *routability {
            "" => json!({"type": kind, "value": value}),
            routability => json!({"type": kind, "value": value, "routability": routability}),
        });
        // The API takes 16.
        wanted["addresses"] = Value::Array(addresses.take(16).collect());
        if !self.known {
            return;
        }
        let (status, reason) = match (self.assigned.is_empty(), self.unusable.is_empty()) {
            (false, true) => ("True", "AddressesAssigned"),
            (false, false) => ("False", "PartiallyAssigned"),
            (true, _) => ("False", "NotAssigned"),
        };
        let message = if self.unusable.is_empty() {
            String::new()
        } else {
            format!("not usable here: {}", values(&self.unusable))
        };
        if let Some(conditions) = wanted["conditions"].as_array_mut() {
            conditions.push(json!({
                "type": "AddressesAssigned", "status": status, "reason": reason, "message": message,
                "observedGeneration": generation,
            }));
        }
    }
}

fn values(addresses: &[Address]) -> String {
    addresses.iter().map(|(_, value, _)| value.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::cluster::Kind;

    fn gateway(addresses: &Value) -> Live {
        let kind = Kind::new("gateway.networking.k8s.io", "v1", "Gateway", "gateways", true);
        let object = json!({"metadata": {"name": "edge", "namespace": "shop", "uid": "u1"}, "spec": {"addresses": addresses}});
        Live::of(serde_json::from_value(object).unwrap(), &kind).unwrap()
    }

    fn service(metadata: &Value, kind: &str, ingress: &Value) -> Live {
        let [_, service] = crate::source::cluster::core();
        let object = json!({"metadata": metadata, "spec": {"type": kind, "clusterIPs": ["10.0.0.9"]},
                            "status": {"loadBalancer": {"ingress": ingress}}});
        Live::of(serde_json::from_value(object).unwrap(), &service).unwrap()
    }

    fn labelled() -> Value {
        json!({"name": "edge-svc", "namespace": "shop", "labels": {GATEWAY_NAME: "edge"}})
    }

    fn found(gateway: &Live, services: Vec<Live>, provisions: bool) -> Addresses {
        let mut objects = Objects::default();
        services.into_iter().for_each(|service| objects.insert(service));
        of(gateway, &FleetName::gateway("shop", "edge"), &objects, provisions)
    }

    fn pair(kind: &str, value: &str) -> Address {
        (kind.to_owned(), value.to_owned(), "")
    }

    #[test]
    fn addresses_are_those_of_the_service() {
        let any = gateway(&json!([{"type": "IPAddress"}]));
        let ingress = json!([{"ip": "192.0.2.1"}, {"hostname": "lb.example"}]);
        let owned = json!({"name": "x", "namespace": "shop", "ownerReferences": [
            {"apiVersion": "v1", "kind": "Gateway", "name": "edge", "uid": "u1"}]});
        for metadata in [labelled(), owned] {
            let addresses = found(&any, vec![service(&metadata, "LoadBalancer", &ingress)], true);
            assert_eq!(addresses.assigned, [pair("Hostname", "lb.example"), pair("IPAddress", "192.0.2.1")]);
        }
        // That of another Gateway, or in another namespace, is not ours.
        let elsewhere = json!({"name": "x", "namespace": "other", "labels": {GATEWAY_NAME: "edge"}});
        let another = json!({"name": "x", "namespace": "shop", "labels": {GATEWAY_NAME: "edge"}, "ownerReferences": [
            {"apiVersion": "v1", "kind": "Gateway", "name": "edge", "uid": "former"}]});
        let services = [elsewhere, another].map(|metadata| service(&metadata, "LoadBalancer", &ingress));
        assert_eq!(found(&any, services.into(), true).assigned, []);
        assert_eq!(
            found(&any, vec![service(&labelled(), "ClusterIP", &json!([]))], true).assigned,
            [pair("IPAddress", "10.0.0.9")]
        );
    }

    #[test]
    fn static_addresses_are_given_or_not_usable() {
        let asks = gateway(
            &json!([{"type": "IPAddress", "value": "192.0.2.1"}, {"type": "IPAddress", "value": "192.0.2.9"}]),
        );
        let ingress = json!([{"ip": "192.0.2.1"}, {"ip": "192.0.2.2"}]);
        let addresses = found(&asks, vec![service(&labelled(), "LoadBalancer", &ingress)], true);
        assert_eq!(addresses.assigned, [pair("IPAddress", "192.0.2.1")]);
        assert_eq!(addresses.unusable, [pair("IPAddress", "192.0.2.9")]);
        let mut wanted =
            json!({"conditions": [{"type": "Programmed", "status": "True", "reason": "Programmed"}]});
        addresses.judge(&mut wanted);
        addresses.write(&mut wanted, Some(3));
        assert_eq!(wanted["conditions"][0]["reason"], "AddressNotUsable");
        assert_eq!(wanted["conditions"][1]["reason"], "PartiallyAssigned");
        assert_eq!(wanted["addresses"], json!([{"type": "IPAddress", "value": "192.0.2.1"}]));
    }

    #[test]
    fn an_address_for_the_cluster_is_that_of_a_service_inside() {
        let asks =
            |value: &str| gateway(&json!([{"type": "IPAddress", "value": value, "routability": "Cluster"}]));
        let balanced = service(&labelled(), "LoadBalancer", &json!([{"ip": "192.0.2.1"}]));
        let inner = json!({"name": "inner", "namespace": "shop", "labels": {GATEWAY_NAME: "edge"}});
        let inner = service(&inner, "ClusterIP", &json!([]));
        let cluster = ("IPAddress".to_owned(), "10.0.0.9".to_owned(), CLUSTER);
        let addresses = found(&asks(""), vec![balanced.clone(), inner.clone()], true);
        assert_eq!((addresses.assigned.as_slice(), addresses.unusable.len()), ([cluster].as_slice(), 0));
        let mut wanted = json!({"conditions": []});
        addresses.write(&mut wanted, None);
        let written = json!([{"type": "IPAddress", "value": "10.0.0.9", "routability": "Cluster"}]);
        assert_eq!(wanted["addresses"], written);
        let other = found(&asks("10.0.0.8"), vec![inner], true);
        assert_eq!((other.assigned.len(), other.unusable.len()), (0, 1));
        assert_eq!(found(&asks(""), vec![balanced], true).assigned, []);
    }

    #[test]
    fn without_a_service_the_gateway_says_where_it_is() {
        let asks = gateway(&json!([{"type": "Hostname", "value": "edge.example"}]));
        let addresses = found(&asks, Vec::new(), false);
        assert_eq!((addresses.assigned.len(), addresses.known), (1, true));
        let silent = found(&gateway(&json!([])), Vec::new(), false);
        let mut wanted = json!({"conditions": [{"type": "Programmed", "status": "True"}]});
        silent.judge(&mut wanted);
        silent.write(&mut wanted, Some(1));
        assert_eq!(
            wanted,
            json!({"addresses": [], "conditions": [{"type": "Programmed", "status": "True"}]})
        );
        // Where fleets are made here, one without a Service has no address yet.
        let mut wanted = json!({"conditions": [{"type": "Programmed", "status": "True"}]});
        found(&gateway(&json!([])), Vec::new(), true).judge(&mut wanted);
        assert_eq!(wanted["conditions"][0]["reason"], "AddressNotAssigned");
    }
}
