//! Rows 43, 44, 46, 64 to 74: listeners, their certificates, policies and classes.

use crate::case::{Case, MARK};
use crate::objects::route;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

const EDGE: &str = "Gateway shop/edge";
const HTTP: &str = "{name: http, port: 80, protocol: HTTP}";

/// The Gateway `shop/edge` with these listeners, in flow style.
pub(crate) fn gateway(listeners: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: shop}}\nspec:\n  \
         gatewayClassName: moorgate\n  listeners: [{listeners}]\n"
    )
}

fn at(listener: usize, field: &str) -> String {
    format!("spec.listeners[{listener}]{field}")
}

pub(crate) fn conflicts() -> Vec<Case> {
    let https = |name: &str, host: &str| {
        format!(
            "{{name: {name}, port: 443, protocol: HTTPS, hostname: {host}, tls: {{certificateRefs: [{{name: c}}]}}}}"
        )
    };
    let marked = |text: String| format!("{MARK}{text}");
    let set = |listeners: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ListenerSet\nmetadata: {{name: more, namespace: shop}}\nspec:\n  \
             parentRef: {{name: edge}}\n  listeners: [{listeners}]\n"
        )
    };
    let allowing = |listeners: &str| {
        gateway(listeners)
            .replace("  listeners:", "  allowedListeners: {namespaces: {from: Same}}\n  listeners:")
    };
    let kind = |kind: &str| {
        route("[{backendRefs: [{name: web, port: 80}]}]").replace("kind: HTTPRoute", &format!("kind: {kind}"))
    };
    vec![
        Case::with_gateway(
            43,
            "HTTP and TCP on one port",
            gateway(&format!(
                "{HTTP}, ¦{{name: a, port: 81, protocol: HTTP}}, ¦{{name: b, port: 81, protocol: TCP}}"
            )),
        )
        .error("MG3013", EDGE, &at(1, ""), "another port or hostname")
        .related(1)
        .error("MG3013", EDGE, &at(2, ""), "another port or hostname")
        .related(0)
        .condition("Gateway/edge: Accepted", "True/ListenersNotValid")
        .condition("Gateway/edge/a: Conflicted", "True/ProtocolConflict")
        .condition("Gateway/edge/b: Conflicted", "True/ProtocolConflict")
        .condition("Gateway/edge/http: Conflicted", "False/NoConflicts")
        .answer("http://fine.example.com:81/", "no listener"),
        Case::with_gateway(
            43,
            "port, protocol and hostname of another listener",
            gateway(&format!("{HTTP}, {{name: a, port: 80, protocol: HTTP}}"))
                .replace("listeners: [", "¦listeners: ["),
        )
        .error("MG2011", EDGE, "spec.listeners", "the rule is: ")
        .alone()
        .answer("http://fine.example.com/", "no fleet"),
        Case::with_gateway(
            43,
            "a ListenerSet wants what its Gateway has",
            allowing(HTTP)
                + &set("¦{name: a, port: 80, protocol: HTTP}, {name: b, port: 81, protocol: HTTP}"),
        )
        .error("MG3013", "ListenerSet shop/more", "spec.listeners[0]", "another port or hostname")
        .condition("ListenerSet/more/a: Conflicted", "True/HostnameConflict")
        .condition("ListenerSet/more/b: Conflicted", "False/NoConflicts")
        .condition("Gateway/edge/http: Conflicted", "False/NoConflicts")
        .condition("Gateway/edge: Accepted", "True/Accepted"),
        Case::with_gateway(
            44,
            "two listeners with TLS whose hostnames overlap, of one certificate",
            gateway(
                &[HTTP.to_owned(), marked(https("a", "a.example.com")), https("b", "'*.example.com'")]
                    .join(", "),
            ) + &format!("---\n{}", kind("HTTPRoute").replace("[r.example.com]", "[a.example.com]")),
        )
        .warning("MG3044", EDGE, &at(1, ""), "")
        .condition("Gateway/edge/a: OverlappingTLSConfig", "True/OverlappingHostnames")
        .condition("Gateway/edge/b: OverlappingTLSConfig", "True/OverlappingHostnames")
        .condition("Gateway/edge: Accepted", "True/Accepted")
        .answer("https://a.example.com/", "shop/web/80 1"),
        Case::with_gateway(
            45,
            "a hostname that no listener has",
            gateway(&format!("{HTTP}, {{name: b, port: 81, protocol: HTTP, hostname: '*.example.org'}}"))
                + "---\n"
                + &kind("HTTPRoute")
                    .replace("[{name: edge}]", "[{name: edge, sectionName: b}]")
                    .replace("hostnames: [r", "¦hostnames: [r"),
        )
        .error("MG3005", "HTTPRoute shop/r", "spec.hostnames", "hostnames of the listeners")
        .condition("HTTPRoute/r: Accepted", "False/NoMatchingListenerHostname")
        .condition("HTTPRoute/r: ResolvedRefs", "True/ResolvedRefs")
        .answer("http://r.example.com:81/", "404")
        .answer("http://r.example.com/", "404"),
        Case::new(
            46,
            "a kind that no listener takes",
            kind("TCPRoute")
                .replace("  hostnames: [r.example.com]\n", "")
                .replace("[{name: edge}]", "[¦{name: edge}]"),
        )
        .error("MG3004", "TCPRoute shop/r", "spec.parentRefs[0]", "allowedRoutes")
        .condition("TCPRoute/r: Accepted", "False/NotAllowedByListeners"),
        Case::new(
            46,
            "a namespace that no listener takes",
            kind("HTTPRoute")
                .replace("namespace: shop}", "namespace: vault}")
                .replace("[{name: edge}]", "[¦{name: edge, namespace: shop}]")
                .replace("name: web,", "name: db,"),
        )
        .error("MG3004", "HTTPRoute vault/r", "spec.parentRefs[0]", "allowedRoutes")
        .condition("HTTPRoute/r: Accepted", "False/NotAllowedByListeners")
        .answer("http://r.example.com/", "404"),
    ]
}

/// PEM of a certificate for a name, from one year to another.
fn pem(host: &str, from: i32, to: i32) -> String {
    let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

/// The Secret `shop/bad` of this type.
fn secret(kind: &str, field: &str, text: &str) -> String {
    let text = text.trim_end().replace('\n', "\n    ");
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: bad, namespace: shop}}\ntype: {kind}\nstringData:\n  {field}: |\n    {text}\n"
    )
}

/// 2026-01-01.
const NOW: i64 = 1_767_225_600;

pub(crate) fn certificates() -> Vec<Case> {
    let tls = "kubernetes.io/tls";
    let refs = |refs: &str| {
        format!(
            "{}---\n{}",
            gateway(&format!(
                "{HTTP}, {{name: bad, port: 443, protocol: HTTPS, hostname: bad.example.com, ¦tls: {{certificateRefs: [{refs}]}}}}, \
                {{name: good, port: 443, protocol: HTTPS, hostname: good.example.com, tls: {{certificateRefs: [{{name: good}}]}}}}"
            )),
            route("[{backendRefs: [{name: web, port: 80}]}]")
                .replace("[r.example.com]", "[bad.example.com, good.example.com]")
        )
    };
    let own = |text: &str| refs("¦{name: bad}").replacen("¦tls", "tls", 1) + text;
    let reference = at(1, ".tls.certificateRefs[0]");
    let unusable = |number, what: &str, text: String| {
        Case::with_gateway(number, what, own(&text))
            .error("MG3009", EDGE, &reference, "left out")
            .condition("Gateway/edge/bad: ResolvedRefs", "False/InvalidCertificateRef")
            .condition("Gateway/edge/bad: Programmed", "False/Invalid")
            .condition("Gateway/edge/good: Programmed", "Unknown/Pending")
            .condition("Gateway/edge: Accepted", "True/Accepted")
            .answer("https://bad.example.com/", "refused")
            .answer("https://good.example.com/", "shop/web/80 1")
    };
    let dated = |what: &str, text: &str| {
        Case::with_gateway(66, what, own(&secret(tls, "tls.crt", text)))
            .at_time(NOW)
            .warning("MG3020", EDGE, &reference, "it is served all the same; renew it")
            .condition("Gateway/edge/bad: Programmed", "Unknown/Pending")
            .answer("https://bad.example.com/", "shop/web/80 1")
    };
    let (good, key) = (pem("bad.example.com", 2000, 2090), KeyPair::generate().unwrap().serialize_pem());
    vec![
        unusable(64, "no PEM", secret(tls, "tls.crt", "garbage")),
        unusable(64, "PEM of something else", secret(tls, "tls.crt", &key)),
        unusable(
            64,
            "PEM whose inside is no certificate",
            secret(tls, "tls.crt", "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----"),
        ),
        unusable(
            64,
            "a chain whose second certificate is none",
            secret(
                tls,
                "tls.crt",
                &format!("{good}-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----"),
            ),
        ),
        // What stands around certificates is no part of them, as for every reader of PEM.
        Case::with_gateway(
            64,
            "text behind the certificate",
            own(&secret(tls, "tls.crt", &format!("{good}and more"))),
        )
        .answer("https://bad.example.com/", "shop/web/80 1"),
        // Keys are never read here: whether one fits its certificate is found by the relay, which has both.
        unusable(
            65,
            "an RSA key of 1024 bits",
            secret(
                tls,
                "tls.crt",
                include_str!("../../../translator/src/compile/tests/listeners/rsa-1024.pem"),
            ),
        ),
        unusable(
            65,
            "a curve that Envoy does not take",
            secret(tls, "tls.crt", include_str!("secp224r1.pem")),
        ),
        dated("a certificate that expired", &pem("bad.example.com", 2000, 2025)),
        dated("a certificate from the future", &pem("bad.example.com", 2030, 2040)),
        dated("a certificate whose issuer expired", &format!("{good}{}", pem("ca.example.com", 2000, 2025))),
        Case::with_gateway(66, "a certificate of today", own(&secret(tls, "tls.crt", &good))).at_time(NOW),
        Case::with_gateway(
            67,
            "a certificate for another name",
            own(&secret(tls, "tls.crt", &pem("other.example.com", 2000, 2090))),
        )
        .warning("MG3020", EDGE, &reference, "DNS names")
        .answer("https://bad.example.com/", "shop/web/80 1"),
        Case::with_gateway(
            68,
            "one of two certificates is missing",
            refs("¦{name: gone}, {name: bad}").replacen("¦tls", "tls", 1)
                + &secret(tls, "tls.crt", &good)
                + &secret(tls, "tls.crt", &good).replace("name: bad", "name: good"),
        )
        .closed()
        .error("MG3009", EDGE, &reference, "add the Secret")
        .warning("MG3020", EDGE, &at(2, ".tls.certificateRefs[0]"), "")
        .anywhere()
        .condition("Gateway/edge/bad: ResolvedRefs", "False/InvalidCertificateRef")
        .condition("Gateway/edge/bad: Programmed", "Unknown/Pending")
        .answer("https://bad.example.com/", "shop/web/80 1"),
        unusable(69, "a Secret of another type", secret("Opaque", "tls.crt", &good)),
        unusable(69, "a Secret without its key", secret(tls, "other", &good)),
        unusable(
            69,
            "no base64",
            secret(tls, "tls.crt", "x").replace("stringData:\n  tls.crt: |\n    x", "data: {tls.crt: '%%%'}"),
        ),
        Case::with_gateway(
            48,
            "a Secret of another namespace",
            refs("¦{name: gone, namespace: vault}").replacen("¦tls", "tls", 1),
        )
        .closed()
        .error("MG3007", EDGE, &reference, "add a ReferenceGrant in namespace vault")
        .error("MG3009", EDGE, &at(2, ".tls.certificateRefs[0]"), "add the Secret")
        .anywhere()
        .condition("Gateway/edge/bad: ResolvedRefs", "False/RefNotPermitted")
        .answer("https://bad.example.com/", "refused"),
        Case::with_gateway(
            74,
            "a listener with TLS and without certificate",
            refs("").replace("certificateRefs: []", "mode: Terminate, options: {acme.example/x: z}"),
        )
        .error("MG3025", EDGE, &at(1, ".tls"), "add tls.certificateRefs")
        .error("MG3010", EDGE, &at(1, ".tls.options[\"acme.example/x\"]"), "")
        .anywhere()
        .condition("Gateway/edge/bad: ResolvedRefs", "False/InvalidCertificateRef")
        .condition("Gateway/edge/bad: Programmed", "False/Invalid")
        .answer("https://bad.example.com/", "refused")
        .answer("https://good.example.com/", "shop/web/80 1"),
    ]
}

pub(crate) fn policies() -> Vec<Case> {
    let policy = |name: &str, targets: &str, more: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: {name}, namespace: shop{more}}}\nspec:\n  \
             targetRefs: [{targets}]\n  validation: {{hostname: {name}.internal, wellKnownCACertificates: System}}\n"
        )
    };
    let to = |name: &str, more: &str| format!("{{group: '', kind: Service, name: {name}{more}}}");
    let own = route("[{backendRefs: [{name: web, port: 80}]}]");
    let class = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: other}\nspec:\n  controllerName: ";
    let theirs = gateway(HTTP).replace("name: edge", "name: theirs").replace("moorgate", "other");
    vec![
        // A policy is judged by each Gateway that serves a target; where no target is there, nobody can judge.
        Case::new(70, "a policy whose target is not there", own.clone() + &policy("p", &format!("¦{}", to("gone", "")), ""))
            .warning("MG4001", "BackendTLSPolicy shop/p", "spec.targetRefs[0]", "")
            .condition("BackendTLSPolicy/p: Accepted", "none"),
        Case::new(70, "a policy whose port is not there: its target is closed", own.clone() + &policy("p", &format!("¦{}", to("web", ", sectionName: gone")), ""))
            .error("MG4010", "BackendTLSPolicy shop/p", "spec.targetRefs[0]", "correct the name")
            .condition("BackendTLSPolicy/p: Accepted", "False/TargetNotFound")
            .alone(),
        Case::new(70, "a policy that names a target twice", own.clone() + &policy("p", &format!("{}, {}", to("web", ""), to("web", "")), "").replace("targetRefs: [", "¦targetRefs: ["))
            .error("MG2011", "BackendTLSPolicy shop/p", "spec.targetRefs", "the rule is: "),
        // What a policy targets are Services and routes, which point at no policy: there is no way around in a circle.
        Case::new(71, "two policies for one target: the first by name", own.clone() + &policy("p", &to("web", ""), "") + &policy("q", &format!("¦{}", to("web", "")), ""))
            .warning("MG4007", "BackendTLSPolicy shop/q", "spec.targetRefs[0]", "")
            .condition("BackendTLSPolicy/p: Accepted", "True/Accepted")
            .condition("BackendTLSPolicy/q: Accepted", "False/Conflicted"),
        Case::new(
            71,
            "two policies for one target: the older",
            own.clone() + &policy("p", &format!("¦{}", to("web", "")), ", creationTimestamp: '2024-01-01T00:00:00Z'")
                + &policy("q", &to("web", ""), ", creationTimestamp: '2020-01-01T00:00:00Z'"),
        )
        .warning("MG4007", "BackendTLSPolicy shop/p", "spec.targetRefs[0]", "")
        .condition("BackendTLSPolicy/p: Accepted", "False/Conflicted")
        .condition("BackendTLSPolicy/q: Accepted", "True/Accepted"),
        Case::new(71, "a policy for a port beside one for its Service: both hold", own.clone() + &policy("p", &to("web", ""), "") + &policy("q", &to("web", ", sectionName: http"), ""))
            .condition("BackendTLSPolicy/p: Accepted", "True/Accepted")
            .condition("BackendTLSPolicy/q: Accepted", "True/Accepted"),
        Case::new(72, "a GatewayClass of another controller, and its Gateway", format!("{class}acme.example/c\n---\n{theirs}"))
            .condition("GatewayClass/other: Accepted", "none")
            .condition("Gateway/theirs: Accepted", "none"),
        Case::new(73, "a GatewayClass with parameters that are not there", format!("{class}moorgate.dev/gateway-controller\n  ¦parametersRef: {{group: acme.example, kind: Tuning, name: gone}}\n---\n{theirs}"))
            .error("MG3018", "GatewayClass other", "spec.parametersRef", "")
            .condition("GatewayClass/other: Accepted", "False/InvalidParameters")
            .condition("Gateway/theirs: Accepted", "False/InvalidParameters")
            .condition("Gateway/edge: Accepted", "True/Accepted"),
    ]
}
