//! Rows 27 to 40: objects by themselves.

use crate::case::Case;

fn route_with(head: &str, spec: &str) -> String {
    format!("{head}\nspec:\n  parentRefs: [{{name: edge}}]\n  hostnames: [r.example.com]\n{spec}\n")
}

const HEAD: &str =
    "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop}";

/// The route `shop/r` of host `r.example.com` with these rules.
pub(crate) fn route(rules: &str) -> String {
    route_with(HEAD, &format!("  rules: {rules}"))
}

fn named(name: &str) -> String {
    route("[{backendRefs: [{name: web, port: 80}]}]").replace("{name: r,", &format!("{{name: {name},"))
}

const FINE: &str = "  rules: [{backendRefs: [{name: web, port: 80}]}]";
const ROUTE: &str = "HTTPRoute shop/r";
const R: &str = "http://r.example.com/";

pub(crate) fn kinds() -> Vec<Case> {
    let kind = |kind: &str| route_with(&HEAD.replace("kind: HTTPRoute", &format!("kind: {kind}")), FINE);
    let version =
        |version: &str| route_with(&HEAD.replace("apiVersion: gateway.networking.k8s.io/v1", version), FINE);
    let gateway_api = "apiVersion: gateway.networking.k8s.io/v1\n";
    vec![
        Case::new(27, "a kind that is nearly one", kind("¦HTTPRoutes"))
            .error("MG2020", "HTTPRoutes shop/r", "kind", "did you mean \"HTTPRoute\"?")
            .blocks_all(),
        Case::new(27, "a kind that may come in a later release", kind("¦AmqpTopic"))
            .error("MG2020", "AmqpTopic shop/r", "kind", "see whether a newer version of Moorgate knows it")
            .blocks_all(),
        Case::new(27, "a version that may come in a later release", version("apiVersion: ¦gateway.networking.k8s.io/v2"))
            .error("MG2021", ROUTE, "apiVersion", "see whether a newer version of Moorgate knows it"),
        Case::new(27, "a group that is nearly the Gateway API's", version("apiVersion: ¦gateway.networking.k8.io/v1"))
            .warning("MG2024", ROUTE, "apiVersion", "did you mean \"gateway.networking.k8s.io\"?"),
        Case::new(28, "a version that is gone from all channels", version("apiVersion: ¦gateway.networking.k8s.io/v1alpha2"))
            .error("MG2021", ROUTE, "apiVersion", "write apiVersion: gateway.networking.k8s.io/v1"),
        Case::new(
            28,
            "a version that only the experimental channel serves",
            kind("TLSRoute").replace(gateway_api, "apiVersion: ¦gateway.networking.k8s.io/v1alpha2\n"),
        )
        .error("MG2022", "TLSRoute shop/r", "apiVersion", "write apiVersion: gateway.networking.k8s.io/v1, or compile"),
        Case::new(
            28,
            "a kind that got another name and group",
            "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: ¦XListenerSet\nmetadata: {name: r, namespace: shop}\n\
             spec: {parentRef: {name: edge}, listeners: [{name: a, port: 81, protocol: HTTP}]}\n",
        )
        .error("MG2020", "XListenerSet shop/r", "kind", "it is kind ListenerSet of gateway.networking.k8s.io now")
        .blocks_all(),
        Case::new(
            28,
            "a version that is deprecated in the experimental channel",
            kind("TLSRoute").replace(gateway_api, "apiVersion: ¦gateway.networking.k8s.io/v1alpha3\n"),
        )
        .experimental()
        .warning("MG2023", "TLSRoute shop/r", "apiVersion", "write apiVersion: gateway.networking.k8s.io/v1")
        .error("MG3004", "TLSRoute shop/r", "spec.parentRefs[0]", "allowedRoutes")
        .anywhere(),
        Case::new(29, "a field with a slip", route("[{¦backenRefs: []}]"))
            .error("MG2002", ROUTE, "spec.rules[0].backenRefs", "did you mean \"backendRefs\"?"),
        Case::new(29, "a field that nothing is like", route("[{¦zzz: 1}]"))
            .error("MG2002", ROUTE, "spec.rules[0].zzz", "the known fields are"),
        Case::new(29, "a field of the kind beside spec", format!("{}hostnames: [a.example]\n", named("r")).replace("hostnames: [a", "¦hostnames: [a"))
            .error("MG2002", ROUTE, "hostnames", "the known fields are"),
        Case::new(30, "a field of the experimental channel", route("[{¦sessionPersistence: {type: Cookie}}]"))
            .error("MG2003", ROUTE, "spec.rules[0].sessionPersistence", "compile with --crds experimental"),
        Case::new(30, "a value of the experimental channel", route("[{filters: [{¦type: ExternalAuth}]}]"))
            .error("MG2003", ROUTE, "spec.rules[0].filters[0].type", "compile with --crds experimental"),
        Case::new(
            30,
            "a kind of the experimental channel",
            "apiVersion: ¦gateway.networking.x-k8s.io/v1alpha1\nkind: XBackend\nmetadata: {name: r, namespace: shop}\n\
             spec: {type: ExternalHostname, externalHostname: {hostname: a.example}, port: {number: 80}}\n",
        )
        .error("MG2022", "XBackend shop/r", "apiVersion", "compile")
        .blocks_all(),
        Case::new(30, "the same in the experimental channel", route("[{backendRefs: [{name: web, port: 80}], retry: {attempts: 1}}]"))
            .experimental()
            .answer(R, "shop/web/80 1"),
    ]
}

pub(crate) fn twice() -> Vec<Case> {
    let first = format!("¦{}", named("r"));
    let again = named("r").replace("{name: r,", "{name: ¦r,");
    let both = |second: String| format!("{first}---\n{second}");
    let code = "MG1020";
    let at = "metadata.name";
    let class = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: other}\n\
                 spec: {controllerName: acme.example/c}\n";
    vec![
        Case::new(31, "an object twice, word for word", both(again.clone()))
            .error(code, ROUTE, at, "remove one of the two")
            .at(1)
            .related(0),
        Case::new(31, "an object twice, with other content", both(again.replace("port: 80", "port: 81")))
            .error(code, ROUTE, at, "remove one of the two")
            .at(1)
            .related(0)
            .answer(R, "shop/web/80 1"),
        Case::new(31, "an object twice, in two versions", both(again.replace("io/v1\n", "io/v1beta1\n")))
            .error(code, ROUTE, at, "remove one of the two")
            .at(1)
            .related(0),
        Case::new(31, "an object twice, once without its namespace", both(again.replace(", namespace: shop}", "}")))
            .namespace("shop")
            .error(code, ROUTE, at, "remove one of the two")
            .at(1)
            .related(0),
        Case::new(
            31,
            "two objects, one of them in the namespace that nothing was said of",
            format!(
                "{}---\n{}",
                named("r").replace(", namespace: shop}", "}"),
                named("r").replace(": shop}", ": default}").replace("[{name: edge}]", "[{name: ¦edge}]")
            ),
        )
        .namespace("shop")
        .warning("MG3002", "HTTPRoute default/r", "spec.parentRefs[0].name", "")
        .answer(R, "shop/web/80 1"),
        Case::new(
            31,
            "a GatewayClass twice, once with a namespace, which it does not have",
            format!("¦{class}---\n{}", class.replace("{name: other}", "{name: ¦other, namespace: shop}")),
        )
        .error(code, "GatewayClass other", at, "remove one of the two")
        .at(1)
        .related(0)
        .blocks_none(),
        Case::new(32, "no namespace", named("r").replace("metadata: {name: r, namespace: shop}", "¦metadata: {name: r}"))
            .error("MG2031", "HTTPRoute r", "metadata.namespace", "--namespace")
            .blocks_all(),
        Case::new(32, "no namespace, and one for all", named("r").replace(", namespace: shop", ""))
            .namespace("shop")
            .answer(R, "shop/web/80 1"),
        Case::new(
            33,
            "a filter that is a redirect and another that rewrites",
            route("[{¦filters: [{type: RequestRedirect, requestRedirect: {port: 81}}, {type: URLRewrite, urlRewrite: {hostname: a.b}}]}]"),
        )
        .error("MG2011", ROUTE, "spec.rules[0].filters", "the rule is: "),
        Case::new(
            34,
            "everything left away that has a default",
            route("[{matches: [{headers: [{name: x, value: z}]}], backendRefs: [{name: web, port: 80}]}, {backendRefs: [{name: web, port: 80}]}]"),
        )
        .answer(R, "shop/web/80 1")
        .answer("http://r.example.com/anything", "shop/web/80 1"),
    ]
}

pub(crate) fn names() -> Vec<Case> {
    let long = "a".repeat(254);
    let name = |name: &str, code, help: &str| {
        let said = if name == long.as_str() { long.clone() } else { name.replace(['"', '¦'], "") };
        Case::new(35, &format!("the name {name:.20}"), named(&format!("¦{name}"))).error(
            code,
            &format!("HTTPRoute shop/{said}"),
            "metadata.name",
            help,
        )
    };
    let service = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: ¦{name}, namespace: shop}}\nspec: {{ports: [{{port: 80}}]}}\n"
        )
    };
    let labelled =
        |label: &str| named("r").replace("namespace: shop}", &format!("namespace: shop, labels: {label}}}"));
    let host = |hostname: &str, code, help: &str| {
        let bad = named("r").replace("[r.example.com]", &format!("[¦{hostname}]"));
        Case::new(36, &format!("the hostname {hostname:.20}"), bad).error(
            code,
            ROUTE,
            "spec.hostnames[0]",
            help,
        )
    };
    let port = |port: &str, code, help: &str| {
        Case::new(
            37,
            &format!("port {port}"),
            route(&format!("[{{backendRefs: [{{name: web, port: ¦{port}}}]}}]")),
        )
        .error(code, ROUTE, "spec.rules[0].backendRefs[0].port", help)
    };
    vec![
        name(&long, "MG2030", "shorten it"),
        name("Shop", "MG2030", "write \"shop\""),
        name("a_b", "MG2030", "write \"a-b\""),
        name("a..b", "MG2030", "use lower case letters"),
        name("-a", "MG2030", "use lower case letters"),
        Case::new(
            35,
            "a dot in the name of a namespace",
            named("r").replace("namespace: shop}", "namespace: ¦web.x}"),
        )
        .error("MG2030", "HTTPRoute web.x/r", "metadata.namespace", "use lower case letters")
        .blocks_none(),
        Case::new(35, "a dot in the name of a Service", service("web.x"))
            .error("MG2030", "Service shop/web.x", "metadata.name", "use lower case letters")
            .blocks_none(),
        Case::new(35, "a Service's name that is too long", service(&"a".repeat(64)))
            .error("MG2030", &format!("Service shop/{}", "a".repeat(64)), "metadata.name", "shorten it")
            .blocks_none(),
        Case::new(35, "a label's value that is too long", labelled(&format!("{{a: ¦{}}}", "b".repeat(64))))
            .error("MG2032", ROUTE, "metadata.labels.a", "shorten it"),
        Case::new(35, "a label's key that is too long", labelled(&format!("{{{}: ¦b}}", "a".repeat(64))))
            .error("MG2032", ROUTE, &format!("metadata.labels.{}", "a".repeat(64)), "shorten it"),
        host("'*'", "MG2005", "a wildcard is the whole first label"),
        host("'*.*.x'", "MG2005", "a wildcard is the whole first label"),
        host("foo.*", "MG2005", "a wildcard is the whole first label"),
        host("example.com.", "MG2005", "leave out the trailing dot"),
        host("a_b.example.com", "MG2005", "letters, digits"),
        host("EXAMPLE.com", "MG2005", "write it in lower case"),
        host("a.com:80", "MG2005", "letters, digits"),
        host(&format!("{}com", "a.".repeat(130)), "MG2008", "shorten it to 253"),
        Case::new(36, "an empty hostname", named("r").replace("[r.example.com]", "[¦'']"))
            .error("MG2008", ROUTE, "spec.hostnames[0]", "")
            .error("MG2005", ROUTE, "spec.hostnames[0]", "")
            .at(0),
        // An API server takes it, although the field's documentation does not, so it costs the name only.
        Case::new(
            36,
            "an address as hostname",
            named("r").replace("[r.example.com]", "[¦10.0.0.1, r.example.com]"),
        )
        .error("MG3037", ROUTE, "spec.hostnames[0]", "leave hostnames away")
        .answer("http://10.0.0.1/", "404")
        .answer(R, "shop/web/80 1")
        .condition("HTTPRoute/r: Accepted", "True/Accepted"),
        Case::new(
            36,
            "an address as the only hostname",
            named("r").replace("hostnames: [r.example.com]", "¦hostnames: [¦10.0.0.1]"),
        )
        .error("MG3037", ROUTE, "spec.hostnames[0]", "leave hostnames away")
        .at(1)
        .error("MG3005", ROUTE, "spec.hostnames", "hostnames of the listeners")
        .at(0)
        .answer("http://10.0.0.1/", "404")
        .condition("HTTPRoute/r: Accepted", "False/NoMatchingListenerHostname"),
        port("0", "MG2007", "1 to 65535"),
        port("65536", "MG2007", "1 to 65535"),
        port("-1", "MG2007", "1 to 65535"),
        port("80.5", "MG2001", "whole number"),
        port("'80'", "MG2001", "without quotes"),
    ]
}

pub(crate) fn counts() -> Vec<Case> {
    let weight = |weight: &str, code, help: &str| {
        let rules = format!("[{{backendRefs: [{{name: web, port: 80, weight: ¦{weight}}}]}}]");
        Case::new(38, &format!("weight {weight}"), route(&rules)).error(
            code,
            ROUTE,
            "spec.rules[0].backendRefs[0].weight",
            help,
        )
    };
    let most = vec!["{name: web, port: 80, weight: 1000000}"; 16].join(", ");
    let many = |item: &str, count: usize| vec![item; count].join(", ");
    vec![
        weight("-1", "MG2007", "0 to 1000000"),
        weight("1000001", "MG2007", "0 to 1000000"),
        Case::new(38, "all weights zero", route("[{¦backendRefs: [{name: web, port: 80, weight: 0}]}]"))
            .warning("MG3021", ROUTE, "spec.rules[0].backendRefs", "")
            .answer(R, "500")
            .condition("HTTPRoute/r: ResolvedRefs", "True/ResolvedRefs"),
        // Sixteen backends are as many as a rule can have, so their sum always fits into 32 bits.
        Case::new(38, "the largest sum of weights", route(&format!("[{{backendRefs: [{most}]}}]")))
            .answer(R, &vec!["shop/web/80 1000000"; 16].join(", ")),
        Case::new(
            39,
            "seventeen rules",
            route(&format!("[{}]", many("{}", 17))).replace("rules: ", "¦rules: "),
        )
        .error("MG2009", ROUTE, "spec.rules", "keep 16"),
        Case::new(39, "65 matches of a rule", route(&format!("[{{¦matches: [{}]}}]", many("{}", 65)))).error(
            "MG2009",
            ROUTE,
            "spec.rules[0].matches",
            "keep 64",
        ),
        Case::new(
            39,
            "129 matches in all",
            route(&format!("[{}]", many(&format!("{{matches: [{}]}}", many("{}", 43)), 3)))
                .replace("rules: ", "¦rules: "),
        )
        .error("MG2011", ROUTE, "spec.rules", "the rule is: "),
        Case::with_gateway(
            39,
            "65 listeners",
            crate::listeners::gateway(
                &(0..65)
                    .map(|n| format!("{{name: l{n}, port: {}, protocol: HTTP}}", 80 + n))
                    .collect::<Vec<_>>()
                    .join(", "),
            )
            .replace("listeners: [", "¦listeners: ["),
        )
        .error("MG2009", "Gateway shop/edge", "spec.listeners", "keep 64")
        .alone()
        .answer(R, "no fleet"),
    ]
}
