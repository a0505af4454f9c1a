//! Listeners and what they carry: one row a rule, or a bad input. The numbers are those of the catalogue of bad inputs
//! that this project keeps (27 to 80: objects and semantics).

use crate::compile::{Compilation, Options, compile};
use crate::source::File;
use crate::status::{Condition, Status};
use moorgate_model::ir::{Serves, Stream};
use moorgate_snapshot::FleetName;
use rcgen::{CertificateParams, KeyPair};

const BASE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: moorgate}
spec: {controllerName: moorgate.dev/gateway-controller}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {ports: [{name: main, port: 9000}, {name: udp, port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: vault}
spec: {ports: [{name: main, port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: shop}
spec: {type: ExternalName, externalName: far.example.net, ports: [{port: 9000}]}
";

/// A Gateway `shop/edge` with these listeners, in flow style.
fn gateway(listeners: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: shop}}\nspec:\n  \
         gatewayClassName: moorgate\n  listeners: [{listeners}]\n"
    )
}

/// A route `shop/r` with this spec besides its one rule, whose backends stand in flow style.
fn route(kind: &str, spec: &str, backends: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: r, namespace: shop}}\nspec:\n  \
         {spec}\n  rules: [{{backendRefs: [{backends}]}}]\n"
    )
}

fn secret(name: &str, kind: &str, field: &str, text: &str) -> String {
    let text = text.trim_end().replace('\n', "\n    ");
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: shop}}\ntype: {kind}\nstringData:\n  \
         {field}: |\n    {text}\n"
    )
}

/// A TLS Secret for this DNS name.
fn certificate(name: &str, host: &str) -> String {
    let key = KeyPair::generate().unwrap();
    let pem = CertificateParams::new(vec![host.to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    secret(name, "kubernetes.io/tls", "tls.crt", &pem)
}

fn compiled(documents: &[String], open: bool) -> Compilation {
    let text = std::iter::once(BASE).chain(documents.iter().map(String::as_str)).collect::<Vec<_>>();
    let file = File { name: "in.yaml".into(), bytes: text.join("---\n").into_bytes().into() };
    let mut options = Options::default();
    if !open {
        options.attach.open.clear();
    }
    compile(&[file], &options)
}

/// `Kind/name[/part]: Condition`, where a part is a listener or the position of a parent.
fn condition<'c>(compilation: &'c Compilation, place: &str) -> Option<&'c Condition> {
    let (object, wanted) = place.split_once(": ")?;
    let mut words = object.split('/');
    let (kind, name, part) = (words.next()?, words.next()?, words.next());
    let (_, status) =
        compilation.statuses.iter().find(|(object, _)| (&*object.kind, &*object.name) == (kind, name))?;
    let conditions = match (status, part) {
        (Status::Gateway { listeners, .. } | Status::ListenerSet { listeners, .. }, Some(part)) => {
            &listeners.iter().find(|listener| listener.name == part)?.conditions
        }
        (Status::Gateway { conditions, .. } | Status::ListenerSet { conditions, .. }, None) => conditions,
        (Status::Route { parents }, part) => {
            &parents.get(part.map_or(0, |part| part.parse().unwrap()))?.conditions
        }
        _ => return None,
    };
    conditions.iter().find(|condition| condition.kind == wanted)
}

/// What each filter chain does with connections.
fn served(compilation: &Compilation) -> Vec<String> {
    let Some(fleet) = compilation.fleets.get(&FleetName::gateway("shop", "edge")) else { return Vec::new() };
    let stream = |stream: &Stream| {
        let backends = stream.backends.iter();
        let backends = backends
            .map(|backend| format!("{} {}", backend.cluster.as_deref().unwrap_or("closed"), backend.weight));
        backends.collect::<Vec<_>>().join(", ")
    };
    let mut out = Vec::new();
    for (name, listener) in &fleet.ir.listeners {
        for chain in &listener.chains {
            let what = match &chain.serves {
                Serves::Refuse => "refuse".to_owned(),
                Serves::Http(_) => "http".to_owned(),
                Serves::Stream(found) if found.backends.is_empty() => "refuse".to_owned(),
                Serves::Stream(found) => stream(found),
            };
            out.push(format!("{name} {}: {what}", chain.name));
        }
    }
    out
}

struct Row {
    what: &'static str,
    documents: Vec<String>,
    /// Nothing may lie elsewhere.
    closed: bool,
    conditions: &'static [(&'static str, &'static str)],
    served: &'static [&'static str],
}

fn check(rows: Vec<Row>) {
    for row in rows {
        let compilation = compiled(&row.documents, !row.closed);
        for (place, expected) in row.conditions {
            let found = condition(&compilation, place);
            let found = found.map(|found| format!("{}/{}", found.status, found.reason));
            assert_eq!(
                found.as_deref().unwrap_or("none"),
                *expected,
                "{}: {place}: {:#?}",
                row.what,
                compilation.diagnostics
            );
        }
        assert_eq!(served(&compilation), row.served, "{}", row.what);
    }
}

const DB: &str = "{name: db, port: 9000}";
const TO_EDGE: &str = "parentRefs: [{name: edge}]";

fn row(
    what: &'static str,
    documents: Vec<String>,
    conditions: &'static [(&'static str, &'static str)],
    served: &'static [&'static str],
) -> Row {
    Row { what, documents, closed: false, conditions, served }
}

#[test]
fn listeners_that_cannot_be_told_apart_are_not_served() {
    let tls = |name: &str, host: &str| {
        format!("{{name: {name}, port: 443, protocol: TLS, hostname: {host}, tls: {{mode: Passthrough}}}}")
    };
    let https = |name: &str, host: &str| {
        format!(
            "{{name: {name}, port: 443, protocol: HTTPS, hostname: {host}, tls: {{certificateRefs: [{{name: c}}]}}}}"
        )
    };
    check(vec![
        row(
            "43: HTTP and TCP on one port, a third listener elsewhere",
            vec![gateway(
                "{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: TCP}, {name: c, port: 81, protocol: HTTP}",
            )],
            &[
                ("Gateway/edge: Accepted", "True/ListenersNotValid"),
                ("Gateway/edge/a: Accepted", "False/ProtocolConflict"),
                ("Gateway/edge/a: Conflicted", "True/ProtocolConflict"),
                ("Gateway/edge/a: Programmed", "False/ProtocolConflict"),
                ("Gateway/edge/b: Conflicted", "True/ProtocolConflict"),
                ("Gateway/edge/c: Conflicted", "False/NoConflicts"),
                ("Gateway/edge/c: Accepted", "True/Accepted"),
            ],
            &["http-81 http-81: http"],
        ),
        row(
            "43: HTTP and HTTPS on one port: nothing left",
            vec![gateway(&format!(
                "{{name: a, port: 443, protocol: HTTP}}, {}",
                https("b", "b.example.com")
            ))],
            &[
                ("Gateway/edge: Accepted", "False/ListenersNotValid"),
                ("Gateway/edge: Programmed", "False/Invalid"),
                ("Gateway/edge/a: Conflicted", "True/ProtocolConflict"),
            ],
            &[],
        ),
        row(
            "43: HTTPS and TLS of one hostname; another name on that port is fine",
            vec![gateway(
                &[https("a", "a.example.com"), tls("b", "a.example.com"), tls("c", "c.example.com")]
                    .join(", "),
            )],
            &[
                ("Gateway/edge/a: Conflicted", "True/ProtocolConflict"),
                ("Gateway/edge/b: Conflicted", "True/ProtocolConflict"),
                ("Gateway/edge/c: Conflicted", "False/NoConflicts"),
            ],
            &["https-443 c: refuse"],
        ),
        row(
            "TCP and UDP share a port number",
            vec![gateway("{name: a, port: 53, protocol: TCP}, {name: b, port: 53, protocol: UDP}")],
            &[("Gateway/edge: Accepted", "True/Accepted")],
            &["tcp-53 tcp-53: refuse", "udp-53 udp-53: refuse"],
        ),
        row(
            "44: hostnames with TLS overlap",
            vec![gateway(
                &[https("a", "a.example.com"), https("b", "'*.example.com'"), https("c", "c.example.org")]
                    .join(", "),
            )],
            &[
                ("Gateway/edge/a: OverlappingTLSConfig", "True/OverlappingHostnames"),
                ("Gateway/edge/b: OverlappingTLSConfig", "True/OverlappingHostnames"),
                ("Gateway/edge/c: OverlappingTLSConfig", "none"),
                ("Gateway/edge: Accepted", "True/Accepted"),
            ],
            &["https-443 a: http", "https-443 b: http", "https-443 c: http"],
        ),
    ]);
}

#[test]
fn routes_attach_where_listeners_take_them() {
    let tcp = "{name: a, port: 5432, protocol: TCP}, {name: b, port: 6379, protocol: TCP}, {name: web, port: 80, protocol: HTTP}";
    let through = "{name: a, port: 443, protocol: TLS, hostname: a.example.com, tls: {mode: Passthrough}}";
    let older = "apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {name: z, namespace: shop, \
                 creationTimestamp: '2020-01-01T00:00:00Z'}\nspec:\n  parentRefs: [{name: edge}]\n  rules: [{backendRefs: \
                 [{name: db, port: 9000, weight: 7}]}]\n";
    check(vec![
        row(
            "45: no hostname in common",
            vec![
                gateway(through),
                route("TLSRoute", &format!("{TO_EDGE}\n  hostnames: [b.example.com]"), DB),
            ],
            &[
                ("TLSRoute/r: Accepted", "False/NoMatchingListenerHostname"),
                ("TLSRoute/r: ResolvedRefs", "True/ResolvedRefs"),
            ],
            &["https-443 a: refuse"],
        ),
        row(
            "46: the kind does not fit the listener, and is absent",
            vec![gateway(tcp), route("TCPRoute", "parentRefs: [{name: edge, sectionName: web}]", DB)],
            &[("TCPRoute/r: Accepted", "False/NotAllowedByListeners")],
            &["http-80 http-80: http", "tcp-5432 tcp-5432: refuse", "tcp-6379 tcp-6379: refuse"],
        ),
        row(
            "46: the namespace is not allowed, and the route absent",
            vec![
                gateway(
                    "{name: a, port: 5432, protocol: TCP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: other}}}}}",
                ),
                route("TCPRoute", TO_EDGE, DB),
            ],
            &[("TCPRoute/r: Accepted", "False/NotAllowedByListeners")],
            &["tcp-5432 tcp-5432: refuse"],
        ),
        row(
            "47: sections and ports that are not there",
            vec![
                gateway(tcp),
                route(
                    "TCPRoute",
                    "parentRefs: [{name: edge, sectionName: c}, {name: edge, sectionName: b, port: 81}, {name: edge, sectionName: a}]",
                    DB,
                ),
            ],
            &[
                ("TCPRoute/r/0: Accepted", "False/NoMatchingParent"),
                ("TCPRoute/r/1: Accepted", "False/NoMatchingParent"),
                ("TCPRoute/r/2: Accepted", "True/Accepted"),
            ],
            &["http-80 http-80: http", "tcp-5432 tcp-5432: shop/db/9000+tcp 1", "tcp-6379 tcp-6379: refuse"],
        ),
        row(
            "without section and port a route attaches to all listeners of its kind, and the oldest gets the connections",
            vec![gateway(tcp), route("TCPRoute", TO_EDGE, DB), older.to_owned()],
            &[("TCPRoute/r: Accepted", "True/Accepted"), ("TCPRoute/z: Accepted", "True/Accepted")],
            &[
                "http-80 http-80: http",
                "tcp-5432 tcp-5432: shop/db/9000+tcp 7",
                "tcp-6379 tcp-6379: shop/db/9000+tcp 7",
            ],
        ),
    ]);
    let both = compiled(&[gateway(tcp), route("TCPRoute", TO_EDGE, DB), older.to_owned()], true);
    let counts: Vec<usize> = both
        .statuses
        .iter()
        .filter_map(|(_, status)| match status {
            Status::Gateway { listeners, .. } => Some(listeners),
            _ => None,
        })
        .flatten()
        .map(|listener| listener.attached_routes)
        .collect();
    assert_eq!(counts, [2, 2, 0]);
}

#[test]
fn broken_backends_cost_their_share() {
    let tcp = "{name: a, port: 5432, protocol: TCP}";
    let grant = |from: &str, to: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: vault}}\n\
             spec:\n  from: [{{group: gateway.networking.k8s.io, kind: {from}, namespace: shop}}]\n  to: [{{group: '', kind: {to}}}]\n"
        )
    };
    let foreign = "{name: db, namespace: vault, port: 9000}";
    let refused: &[(&str, &str)] =
        &[("TCPRoute/r: Accepted", "True/Accepted"), ("TCPRoute/r: ResolvedRefs", "False/RefNotPermitted")];
    let missing: &[(&str, &str)] =
        &[("TCPRoute/r: Accepted", "True/Accepted"), ("TCPRoute/r: ResolvedRefs", "False/BackendNotFound")];
    let closed: &[&str] = &["tcp-5432 tcp-5432: refuse"];
    let with = |backends: &str| vec![gateway(tcp), route("TCPRoute", TO_EDGE, backends)];
    let mut granted = with(foreign);
    granted.push(grant("TCPRoute", "Service"));
    let mut of_other_kind = with(foreign);
    of_other_kind.push(grant("UDPRoute", "Service"));
    let mut to_other_kind = with(foreign);
    to_other_kind.push(grant("TCPRoute", "Secret"));
    check(vec![
        row("48: another namespace without a grant", with(foreign), refused, closed),
        row("49: a grant for another kind of route", of_other_kind, refused, closed),
        row("49: a grant to another kind of object", to_other_kind, refused, closed),
        row(
            "a grant",
            granted,
            &[("TCPRoute/r: ResolvedRefs", "True/ResolvedRefs")],
            &["tcp-5432 tcp-5432: vault/db/9000+tcp 1"],
        ),
        row("51: no such Service", with("{name: gone, port: 9000}"), missing, closed),
        row("51: no such port", with("{name: db, port: 1}"), missing, closed),
        row("51: a port of another transport", with("{name: db, port: 53}"), missing, closed),
        row("51: a Service of type ExternalName", with("{name: far, port: 9000}"), missing, closed),
        row(
            "a kind that is no backend",
            with("{group: acme.example, kind: Pool, name: x}"),
            &[("TCPRoute/r: ResolvedRefs", "False/InvalidKind")],
            closed,
        ),
        row(
            "38: all weights zero",
            with("{name: db, port: 9000, weight: 0}"),
            &[("TCPRoute/r: ResolvedRefs", "True/ResolvedRefs")],
            closed,
        ),
        row(
            "one of three is broken: its share is closed",
            with(
                "{name: db, port: 9000, weight: 7}, {name: gone, port: 9000, weight: 2}, {name: far, port: 9000}",
            ),
            missing,
            &["tcp-5432 tcp-5432: shop/db/9000+tcp 7, closed 2, closed 1"],
        ),
        row(
            "datagrams go to a UDP port only",
            vec![
                gateway("{name: a, port: 5353, protocol: UDP}"),
                route("UDPRoute", TO_EDGE, "{name: db, port: 53}, {name: db, port: 9000}"),
            ],
            &[("UDPRoute/r: ResolvedRefs", "False/BackendNotFound")],
            &["udp-5353 udp-5353: shop/db/53+udp 1, closed 1"],
        ),
    ]);
}

#[test]
fn a_bad_certificate_costs_its_listener_only() {
    let listeners = "{name: bad, port: 443, protocol: HTTPS, hostname: bad.example.com, tls: {certificateRefs: [{name: bad}]}}, \
                     {name: good, port: 443, protocol: HTTPS, hostname: good.example.com, tls: {certificateRefs: [{name: good}]}}";
    let unusable: &[(&str, &str)] = &[
        ("Gateway/edge/bad: ResolvedRefs", "False/InvalidCertificateRef"),
        ("Gateway/edge/bad: Programmed", "False/Invalid"),
        ("Gateway/edge/good: ResolvedRefs", "True/ResolvedRefs"),
        ("Gateway/edge/good: Programmed", "Unknown/Pending"),
        ("Gateway/edge: Accepted", "True/Accepted"),
    ];
    let refused: &[&str] = &["https-443 bad: refuse", "https-443 good: http"];
    let with = |bad: String| vec![gateway(listeners), certificate("good", "good.example.com"), bad];
    let small = include_str!("listeners/rsa-1024.pem");
    let tls = "kubernetes.io/tls";
    check(vec![
        row("64: no PEM", with(secret("bad", tls, "tls.crt", "garbage")), unusable, refused),
        row(
            "64: PEM of something else",
            with(secret(
                "bad",
                tls,
                "tls.crt",
                "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----",
            )),
            unusable,
            refused,
        ),
        row(
            "65: an RSA key that Envoy refuses",
            with(secret("bad", tls, "tls.crt", small)),
            unusable,
            refused,
        ),
        row(
            "69: a Secret of another type",
            with(secret("bad", "Opaque", "tls.crt", small)),
            unusable,
            refused,
        ),
        row("69: a Secret without its key", with(secret("bad", tls, "other", small)), unusable, refused),
        row(
            "67: a certificate for another name is served, and said",
            with(certificate("bad", "other.example.com")),
            &[("Gateway/edge/bad: ResolvedRefs", "True/ResolvedRefs")],
            &["https-443 bad: http", "https-443 good: http"],
        ),
    ]);
}

#[test]
fn certificates_that_are_missing_or_not_permitted() {
    let good = certificate("good", "good.example.com");
    let several =
        "{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: gone}, {name: good}]}}";
    let foreign =
        "{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: gone, namespace: vault}]}}";
    let bare = "{name: a, port: 443, protocol: TLS, tls: {mode: Terminate, options: {acme.example/x: z}}}, \
                {name: good, port: 443, protocol: HTTPS, hostname: good.example.com, tls: {certificateRefs: [{name: good}]}}";
    check(vec![
        row(
            "74: a TLS listener without certificate",
            vec![gateway(bare), good.clone()],
            &[
                ("Gateway/edge/a: ResolvedRefs", "False/InvalidCertificateRef"),
                ("Gateway/edge/a: Programmed", "False/Invalid"),
                ("Gateway/edge/good: Programmed", "Unknown/Pending"),
            ],
            &["https-443 a: refuse", "https-443 good: http"],
        ),
        Row {
            closed: true,
            ..row(
                "68: one of several is missing: the others are served",
                vec![gateway(several), good],
                &[
                    ("Gateway/edge/a: ResolvedRefs", "False/InvalidCertificateRef"),
                    ("Gateway/edge/a: Programmed", "Unknown/Pending"),
                ],
                &["https-443 a: http"],
            )
        },
        Row {
            closed: true,
            ..row(
                "48: the grant is asked for before the Secret",
                vec![gateway(foreign)],
                &[("Gateway/edge/a: ResolvedRefs", "False/RefNotPermitted")],
                &["https-443 a: refuse"],
            )
        },
    ]);
}
