//! Ports of a Service while a snapshot is on its way.

use serde_json::{Value, json};

/// Takes the ports from a Service manifest that the live Service does not have yet: Envoys may not listen there. Ports
/// that are gone from the manifest go at once. If none would be left the live ones stay, because a Service has at least
/// one, and new ones take their place when Envoys listen there. A Service that is not there yet is made with all its
/// ports: nobody knows its address, and no pod is ready.
pub(super) fn narrow(manifest: &mut Value, live: Option<&Value>) {
    let Some(live) = live.and_then(|service| service["spec"]["ports"].as_array()) else { return };
    let Some(wanted) = manifest["spec"]["ports"].as_array() else { return };
    let same = |a: &Value, b: &Value| a["port"] == b["port"] && a["protocol"] == b["protocol"];
    let mut ports: Vec<Value> =
        wanted.iter().filter(|port| live.iter().any(|found| same(port, found))).cloned().collect();
    if ports.is_empty() {
        // Without what the API server added, such as node ports.
        let plain = |port: &Value| {
            json!({
                "name": port["name"], "port": port["port"], "targetPort": port["targetPort"],
                "protocol": port["protocol"],
            })
        };
        ports = live.iter().map(plain).collect();
    }
    manifest["spec"]["ports"] = ports.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(ports: &[(&str, u16)]) -> Value {
        let port = |(protocol, number): &(&str, u16)| {
            json!({
                "name": format!("{}-{number}", protocol.to_lowercase()), "port": number, "targetPort": number,
                "protocol": protocol,
            })
        };
        json!({"spec": {"ports": ports.iter().map(port).collect::<Vec<_>>()}})
    }

    #[test]
    fn new_ports_wait_and_old_ones_go_first() {
        let (http, https, dns) = (("TCP", 80), ("TCP", 443), ("UDP", 53));
        let dns_tcp = ("TCP", 53);
        let cases: [(&[_], Option<&[_]>, &[_]); 7] = [
            (&[http, https], None, &[http, https]),
            (&[http, https], Some(&[http]), &[http]),
            (&[http], Some(&[http, https]), &[http]),
            (&[http, dns], Some(&[http, https]), &[http]),
            (&[dns], Some(&[http]), &[http]),
            (&[dns, dns_tcp], Some(&[dns_tcp]), &[dns_tcp]),
            (&[dns], Some(&[dns_tcp]), &[dns_tcp]),
        ];
        for (wanted, live, expected) in cases {
            let mut manifest = service(wanted);
            narrow(&mut manifest, live.map(service).as_ref());
            assert_eq!(manifest, service(expected), "{wanted:?} over {live:?}");
        }
    }

    #[test]
    fn what_the_server_added_is_not_taken_over() {
        let mut live = service(&[("TCP", 80)]);
        live["spec"]["ports"][0]["nodePort"] = 30_000.into();
        let mut manifest = service(&[("TCP", 443)]);
        narrow(&mut manifest, Some(&live));
        assert_eq!(manifest, service(&[("TCP", 80)]));
    }
}
