//! Rules of listeners, of Gateways and of ListenerSets.

use super::{NativeRule, exists_one, has, is, items, list, string};
use moorgate_model::Node;

/// Whether a listener's protocol is one of these.
fn speaks(listener: &Node, protocols: &[&str]) -> bool {
    string(listener, "protocol").is_some_and(|protocol| protocols.contains(&protocol))
}

/// Whether two listeners have the same port, protocol and hostname.
fn same_place(a: &Node, b: &Node) -> bool {
    let port = |listener: &Node| listener.get("port").and_then(Node::as_int);
    port(a) == port(b)
        && string(a, "protocol") == string(b, "protocol")
        && string(a, "hostname") == string(b, "hostname")
}

/// All of them.
pub(super) const RULES: &[&[(&str, NativeRule)]] = &[&[
    ("self.all(l, l.protocol in ['HTTP', 'TCP', 'UDP'] ? !has(l.tls) : true)", |listeners| {
        items(listeners)
            .iter()
            .all(|listener| !speaks(listener, &["HTTP", "TCP", "UDP"]) || !has(listener, "tls"))
    }),
    (
        "self.all(l, (l.protocol == 'HTTPS' && has(l.tls)) ? (l.tls.mode == '' || l.tls.mode == 'Terminate') : true)",
        |listeners| {
            items(listeners).iter().all(|listener| match listener.get("tls") {
                Some(tls) if is(listener, "protocol", "HTTPS") => {
                    is(tls, "mode", "") || is(tls, "mode", "Terminate")
                }
                _ => true,
            })
        },
    ),
    (
        "self.all(l, (l.protocol == 'TLS' ? has(l.tls) && has(l.tls.mode) && l.tls.mode != '' : true))",
        |listeners| {
            items(listeners).iter().all(|listener| {
                !is(listener, "protocol", "TLS")
                    || listener
                        .get("tls")
                        .and_then(|tls| string(tls, "mode"))
                        .is_some_and(|mode| !mode.is_empty())
            })
        },
    ),
    (
        "self.all(l, l.protocol in ['TCP', 'UDP']  ? (!has(l.hostname) || l.hostname == '') : true)",
        |listeners| {
            items(listeners).iter().all(|listener| {
                !speaks(listener, &["TCP", "UDP"]) || string(listener, "hostname").is_none_or(str::is_empty)
            })
        },
    ),
    ("self.all(l1, self.exists_one(l2, l1.name == l2.name))", |listeners| {
        let listeners = items(listeners);
        listeners.iter().all(|a| exists_one(listeners, |b| string(a, "name") == string(b, "name")))
    }),
    (
        "self.all(l1, self.exists_one(l2, l1.port == l2.port && l1.protocol == l2.protocol && (has(l1.hostname) && \
         has(l2.hostname) ? l1.hostname == l2.hostname : !has(l1.hostname) && !has(l2.hostname))))",
        |listeners| {
            let listeners = items(listeners);
            listeners.iter().all(|a| exists_one(listeners, |b| same_place(a, b)))
        },
    ),
    (
        "self.all(l1, !has(l1.port) || self.exists_one(l2, has(l2.port) && l1.port == l2.port && l1.protocol == \
         l2.protocol && (has(l1.hostname) && has(l2.hostname) ? l1.hostname == l2.hostname : !has(l1.hostname) && \
         !has(l2.hostname))))",
        |listeners| {
            let listeners = items(listeners);
            listeners
                .iter()
                .all(|a| !has(a, "port") || exists_one(listeners, |b| has(b, "port") && same_place(a, b)))
        },
    ),
    ("self.mode == 'Terminate' ? size(self.certificateRefs) > 0 || size(self.options) > 0 : true", |tls| {
        let options = tls.get("options").and_then(Node::as_mapping);
        !is(tls, "mode", "Terminate")
            || !list(tls, "certificateRefs").is_empty()
            || options.is_some_and(|options| !options.is_empty())
    }),
    ("!has(self.filters) || self.protocol in ['HTTP', 'HTTPS']", |listener| {
        !has(listener, "filters") || speaks(listener, &["HTTP", "HTTPS"])
    }),
]];
