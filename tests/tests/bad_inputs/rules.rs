//! Rows 41, 42, 45 to 63, 75 and 76: routes, their rules, and what they name.

use crate::case::Case;
use crate::objects::route;

const ROUTE: &str = "HTTPRoute shop/r";
const R: &str = "http://r.example.com/";

/// A second route of the host, in a namespace of its own, whose rule begins at a mark.
fn rival(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: {namespace}{spec}}}\nspec:\n  \
         parentRefs: [{{name: edge, namespace: shop}}]\n  hostnames: [r.example.com]\n  rules: [{{matches: [¦{{}}], \
         backendRefs: [{{name: web, port: 80, weight: 2}}]}}]\n"
    )
}

const OPEN: &str = "{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}";

fn with_match(text: &str) -> String {
    route(&format!("[{{matches: [{text}], backendRefs: [{{name: web, port: 80}}]}}]"))
}

pub(crate) fn conflicts() -> Vec<Case> {
    let own = route("[{matches: [¦{}], backendRefs: [{name: web, port: 80}]}]");
    let two = |second: String| format!("{own}---\n{second}");
    let at = "spec.rules[0].matches[0]";
    let parent =
        |text: &str| route("[{backendRefs: [{name: web, port: 80}]}]").replace("[{name: edge}]", text);
    let gone = |number, what: &str, text: &str, field: &str, help: &str| {
        Case::new(number, what, parent(text)).error("MG3003", ROUTE, field, help).answer(R, "404")
    };
    vec![
        Case::new(41, "one match in two routes of a namespace", two(rival("shop", "s", "")))
            .warning("MG3015", "HTTPRoute shop/s", at, "")
            .at(1)
            .related(0)
            .answer(R, "shop/web/80 1"),
        // The design settles this as the Gateway API does, and says so, instead of refusing it: nobody who merges two
        // repositories could go on otherwise. Without creation times the first by namespace and name answers.
        Case::with_gateway(
            42,
            "one match in two namespaces",
            format!("{}---\n{}", crate::listeners::gateway(OPEN), two(rival("zoo", "r", ""))),
        )
        .warning("MG3014", "HTTPRoute zoo/r", at, "")
        .at(1)
        .related(0)
        .error("MG3006", "HTTPRoute zoo/r", "spec.rules[0].backendRefs[0].name", "")
        .anywhere()
        .answer(R, "shop/web/80 1"),
        Case::with_gateway(
            42,
            "the older of two namespaces",
            format!(
                "{}---\n{own}---\n{}",
                crate::listeners::gateway(OPEN),
                rival("calm", "r", ", creationTimestamp: '2020-01-01T00:00:00Z'")
            ),
        )
        .warning("MG3014", ROUTE, at, "")
        .related(1)
        .answer(R, "calm/web/80 2"),
        gone(
            47,
            "a section that is not there",
            "[{name: edge, sectionName: ¦other}]",
            "spec.parentRefs[0].sectionName",
            "listeners: http",
        ),
        gone(
            47,
            "a port that is not there",
            "[{name: edge, port: ¦81}]",
            "spec.parentRefs[0].port",
            "listeners: http",
        )
        .condition("HTTPRoute/r: Accepted", "False/NoMatchingParent"),
        // Git need not hold all Gateways, so this is no error.
        Case::new(47, "a Gateway that is not there", parent("[{name: ¦gone}]"))
            .warning("MG3002", ROUTE, "spec.parentRefs[0].name", "")
            .answer(R, "404"),
        Case::new(
            47,
            "one parent of two that is not there",
            parent("[{name: edge, sectionName: ¦other}, {name: edge, sectionName: http}]"),
        )
        .error("MG3003", ROUTE, "spec.parentRefs[0].sectionName", "listeners: http")
        .condition("HTTPRoute/r/0: Accepted", "False/NoMatchingParent")
        .condition("HTTPRoute/r/1: Accepted", "True/Accepted")
        .answer(R, "shop/web/80 1"),
    ]
}

pub(crate) fn backends() -> Vec<Case> {
    let backend = |text: &str| route(&format!("[{{backendRefs: [{text}]}}]"));
    let field = |name: &str| format!("spec.rules[0].backendRefs[0]{name}");
    let broken = |number, what: &str, text: &str, code, at: &str, help: &str| {
        Case::new(number, what, backend(text)).error(code, ROUTE, &field(at), help).answer(R, "500")
    };
    let grant = |namespace: &str, from: &str, to: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: {namespace}}}\nspec:\n  \
             from: [{{{from}, namespace: shop}}]\n  to: [{to}]\n"
        )
    };
    let ours = "group: gateway.networking.k8s.io, kind: HTTPRoute";
    let service = "{group: '', kind: Service}";
    let foreign = "¦{name: db, namespace: vault, port: 80}";
    let near = |what: &str, grant: String| {
        Case::new(49, what, backend(foreign) + &grant)
            .error("MG3007", ROUTE, &field(""), "add a ReferenceGrant in namespace vault")
            .condition("HTTPRoute/r: ResolvedRefs", "False/RefNotPermitted")
            .answer(R, "500")
    };
    let inside = |name: &str| {
        let text = backend("{group: gateway.networking.x-k8s.io, kind: XBackend, name: ¦inside}")
            + &format!(
                "---\napiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackend\nmetadata: {{name: inside, namespace: shop}}\n\
                 spec: {{type: ExternalHostname, externalHostname: {{hostname: ¦{name}}}, port: {{number: 80}}}}\n"
            );
        Case::new(52, &format!("the backend {name}"), text)
            .experimental()
            .error("MG3034", ROUTE, &field(".name"), "see the diagnostic of that object")
            .error("MG3033", "XBackend shop/inside", "spec.externalHostname.hostname", "Service")
            .condition("HTTPRoute/r: ResolvedRefs", "False/BackendNotFound")
            .answer(R, "500")
    };
    let mut cases = vec![
        broken(48, "a Service of another namespace, which is there", foreign, "MG3007", "", "add a ReferenceGrant in namespace vault")
            .condition("HTTPRoute/r: Accepted", "True/Accepted")
            .condition("HTTPRoute/r: ResolvedRefs", "False/RefNotPermitted"),
        broken(48, "one that is not there, in the same words", "¦{name: gone, namespace: vault, port: 80}", "MG3007", "", "add a ReferenceGrant in namespace vault"),
        broken(51, "a Service that is not there", "{name: ¦gone, port: 80}", "MG3006", ".name", "add the Service")
            .condition("HTTPRoute/r: ResolvedRefs", "False/BackendNotFound"),
        broken(51, "a Service's name with a slip", "{name: ¦wev, port: 80}", "MG3006", ".name", "is \"web\" meant?"),
        broken(51, "a port that is not there", "{name: web, port: ¦81}", "MG3006", ".port", "ports of the Service: 80"),
        broken(51, "a port of another transport", "{name: web, port: ¦53}", "MG3006", ".port", "ports of the Service"),
        broken(51, "no port", "¦{name: web}", "MG2011", "", "the rule is: ").answer(R, "404").unanswered(),
        broken(51, "a Service of type ExternalName", "{name: ¦far, port: 80}", "MG3023", ".name", "use a Service with endpoints of its own"),
        broken(51, "a kind that is no backend", "{name: web, kind: ¦Pod, port: 80}", "MG3008", ".kind", "use a Service"),
        // Its endpoints are looked up by the relay like those of any other.
        Case::new(
            51,
            "a headless Service",
            backend("{name: bare, port: 80}")
                + "---\napiVersion: v1\nkind: Service\nmetadata: {name: bare, namespace: shop}\nspec: {clusterIP: None, ports: [{port: 80}]}\n",
        )
        .answer(R, "shop/bare/80 1"),
        Case::new(51, "one backend of two is not there: its share", backend("{name: ¦gone, port: 80, weight: 3}, {name: web, port: 80}"))
            .error("MG3006", ROUTE, &field(".name"), "add the Service")
            .answer(R, "500 3, shop/web/80 1"),
        near("a grant in another namespace", grant("shop", ours, service)),
        near("a grant for another kind", grant("vault", "group: gateway.networking.k8s.io, kind: GRPCRoute", service)),
        near("a grant for another group", grant("vault", "group: acme.example, kind: HTTPRoute", service)),
        near("a grant to the group core", grant("vault", ours, "{group: core, kind: Service}")),
        near("a grant to another kind", grant("vault", ours, "{group: '', kind: Secret}")),
        near("a grant to another name", grant("vault", ours, "{group: '', kind: Service, name: other}")),
        Case::new(49, "a grant to an empty name", backend("¦{name: db, namespace: vault, port: 80}") + &grant("vault", ours, "{group: '', kind: Service, name: ¦''}"))
            .error("MG3007", ROUTE, &field(""), "add a ReferenceGrant in namespace vault")
            .error("MG2008", "ReferenceGrant vault/g", "spec.to[0].name", "")
            .answer(R, "500"),
        Case::new(49, "a grant that is one", backend("{name: db, namespace: vault, port: 80}") + &grant("vault", ours, service))
            .answer(R, "vault/db/80 1"),
    ];
    for name in [
        "localhost",
        "127.0.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "metadata.google.internal",
        "db.vault.svc",
        "a.localhost",
    ] {
        cases.push(inside(name));
    }
    cases
}

pub(crate) fn matches() -> Vec<Case> {
    let regex = |what: &str, text: &str| {
        let rules = format!(
            "[{{matches: [{{path: {{type: RegularExpression, value: ¦{text}}}}}], backendRefs: [{{name: web, port: 80}}]}}, \
             {{matches: [{{path: {{value: /b}}}}], backendRefs: [{{name: web, port: 80}}]}}]"
        );
        Case::new(54, what, route(&rules))
    };
    let path = "spec.rules[0].matches[0].path";
    let value = "spec.rules[0].matches[0].path.value";
    let refused = |what: &str, text: &str| {
        regex(what, text)
            .error("MG3016", ROUTE, value, "RE2")
            .condition("HTTPRoute/r: PartiallyInvalid", "True/UnsupportedValue")
            .answer(R, "404")
            .answer("http://r.example.com/b", "shop/web/80 1")
    };
    let literal = |text: &str| with_match(&format!("{{¦path: {{value: {text}}}}}"));
    let bad_path = |text: &str| {
        Case::new(60, &format!("the prefix {text}"), literal(text)).error(
            "MG2011",
            ROUTE,
            path,
            "the rule is: ",
        )
    };
    let twice = |text: &str| bad_path(text).error("MG2011", ROUTE, path, "the rule is: ").at(0);
    let mut cases = vec![
        Case::new(
            53,
            "a filter that is an extension: its rule only",
            route(
                "[{matches: [{path: {value: /a}}], filters: [{type: ¦ExtensionRef, extensionRef: {group: a.b, kind: C, name: d}}], \
                 backendRefs: [{name: web, port: 80}]}, {backendRefs: [{name: web, port: 80}]}]",
            ),
        )
        .error("MG3010", ROUTE, "spec.rules[0].filters[0].type", "answered with 500")
        .condition("HTTPRoute/r: PartiallyInvalid", "True/UnsupportedValue")
        .answer("http://r.example.com/a", "500")
        .answer("http://r.example.com/b", "shop/web/80 1"),
        refused("a look ahead", "'/(?=a)'"),
        refused("a look behind", "'/(?<=a)'"),
        refused("a back reference", "'/(a)\\1'"),
        refused("a parenthesis that does not close", "'/(a'"),
        refused("a program that is too large", "'/(((a{100}){100}){100}){100}'"),
        // RE2 takes time in proportion to the text, whatever is nested.
        regex("stars within stars", "'/(a*)*$'").answer("http://r.example.com/aaaa", "shop/web/80 1"),
        regex("a text of a megabyte", &format!("/{}", "a".repeat(1 << 20)))
            .error("MG2008", ROUTE, value, "1024"),
        Case::new(55, "an expression where text stands", literal("/a.b"))
            .answer("http://r.example.com/a.b", "shop/web/80 1")
            .answer("http://r.example.com/axb", "404"),
        Case::new(60, "a prefix with a semicolon", literal("'/a;b'")).answer("http://r.example.com/a;b", "shop/web/80 1"),
        // A path that is wrong in two ways is told both.
        twice("''"),
        twice("'/a#b'"),
        Case::new(
            61,
            "a prefix is replaced where an expression matches",
            route(
                "[¦{matches: [{path: {type: RegularExpression, value: /a.*}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: \
                 ReplacePrefixMatch, replacePrefixMatch: /}}}], backendRefs: [{name: web, port: 80}]}]",
            ),
        )
        .error("MG2011", ROUTE, "spec.rules[0]", "the rule is: "),
    ];
    for text in ["a", "/a//b", "/a/../b", "/a/..", "/%2F", "/a%2fb", "'/a?b'", "'/a b'"] {
        cases.push(bad_path(text));
    }
    cases
}

pub(crate) fn filters() -> Vec<Case> {
    let filter =
        |text: &str| route(&format!("[{{filters: [{{{text}}}], backendRefs: [{{name: web, port: 80}}]}}]"));
    let set = |name: &str, value: &str| {
        filter(&format!(
            "type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: {name}, value: {value}}}]}}"
        ))
    };
    let header = "spec.rules[0].filters[0].requestHeaderModifier.set[0]";
    let protected = |name: &str| {
        Case::new(58, &format!("the header {name} is set"), set(&format!("¦{name}"), "a"))
            .error("MG3010", ROUTE, &format!("{header}.name"), "answered with 500")
            .answer(R, "500")
    };
    let redirect =
        |text: &str| route(&format!("[{{filters: [{{type: RequestRedirect, requestRedirect: {text}}}]}}]"));
    let redirected = |what: &str, text: &str, code, field: &str, help: &str| {
        Case::new(59, what, redirect(text)).error(
            code,
            ROUTE,
            &format!("spec.rules[0].filters[0].requestRedirect.{field}"),
            help,
        )
    };
    let mirror = |share: &str| {
        filter(&format!(
            "type: RequestMirror, requestMirror: {{backendRef: {{name: web, port: 80}}, {share}}}"
        ))
    };
    let cors = |text: &str| filter(&format!("type: CORS, ¦cors: {text}"));
    let timeout = |what: &str, text: &str| {
        let rules = format!("[{{backendRefs: [{{name: web, port: 80}}], timeouts: {{request: ¦{text}}}}}]");
        Case::new(62, what, route(&rules))
    };
    let bad_time = |text: &str| {
        timeout(&format!("the time {text}"), text).error(
            "MG2005",
            ROUTE,
            "spec.rules[0].timeouts.request",
            "1h, 1m30s",
        )
    };
    let mut cases = vec![
        Case::new(56, "a blank in a header's name", set("¦'a b'", "c")).error(
            "MG2005",
            ROUTE,
            &format!("{header}.name"),
            "",
        ),
        Case::new(56, "a colon in a header's name", set("¦'a:'", "c")).error(
            "MG2005",
            ROUTE,
            &format!("{header}.name"),
            "",
        ),
        Case::new(56, "a line break in a header's name", set("¦\"a\\r\\nb\"", "c")).error(
            "MG2005",
            ROUTE,
            &format!("{header}.name"),
            "",
        ),
        Case::new(56, "a line break in a header's value", set("a", "¦\"c\\r\\nd: e\""))
            .error("MG3010", ROUTE, &format!("{header}.value"), "answered with 500")
            .answer(R, "500"),
        Case::new(56, "a zero byte in a header's value", set("a", "¦\"c\\0\""))
            .error("MG3010", ROUTE, &format!("{header}.value"), "answered with 500")
            .answer(R, "500"),
        Case::new(57, "a formatter of Envoy in a header's value", set("a", "¦'%REQ(x)%'"))
            .warning("MG3024", ROUTE, &format!("{header}.value"), "")
            .answer(R, "shop/web/80 1"),
        Case::new(57, "a lone percent sign", set("a", "¦'100%'"))
            .warning("MG3024", ROUTE, &format!("{header}.value"), "")
            .answer(R, "shop/web/80 1"),
        redirected(
            "a scheme that runs scripts",
            "{scheme: ¦javascript}",
            "MG2006",
            "scheme",
            "write one of these",
        ),
        redirected("port 0", "{port: ¦0}", "MG2007", "port", "1 to 65535"),
        redirected(
            "a status that is no redirect",
            "{statusCode: ¦200}",
            "MG2006",
            "statusCode",
            "write one of these",
        ),
        // The Gateway API lets a redirect name nothing but its status, so it is served; clients end the loop.
        Case::new(
            59,
            "a redirect to where the client is",
            redirect("{statusCode: 301}").replace("requestRedirect: ", "¦requestRedirect: "),
        )
        .warning("MG3035", ROUTE, "spec.rules[0].filters[0].requestRedirect", "")
        .answer(R, "301"),
        // Zero means no limit (GEP-1742), in both fields.
        timeout("no time at all", "0s").answer(R, "shop/web/80 1"),
        Case::new(
            63,
            "a backend gets more time than the request",
            route("[{backendRefs: [{name: web, port: 80}], ¦timeouts: {request: 1s, backendRequest: 2s}}]"),
        )
        .error("MG2011", ROUTE, "spec.rules[0].timeouts", "the rule is: "),
        // An API server takes any whole number; Envoy gets as many as it can count.
        Case::new(
            63,
            "more attempts than a number holds",
            route("[{backendRefs: [{name: web, port: 80}], retry: {attempts: 99999999999}}]"),
        )
        .experimental()
        .answer(R, "shop/web/80 1"),
        Case::new(75, "two hundred percent", mirror("percent: ¦200")).error(
            "MG2007",
            ROUTE,
            "spec.rules[0].filters[0].requestMirror.percent",
            "0 to 100",
        ),
        Case::new(75, "a share of zero", mirror("fraction: {numerator: 1, denominator: ¦0}")).error(
            "MG2007",
            ROUTE,
            "spec.rules[0].filters[0].requestMirror.fraction.denominator",
            "1",
        ),
        Case::new(75, "more than the whole", mirror("¦fraction: {numerator: 101}")).error(
            "MG2011",
            ROUTE,
            "spec.rules[0].filters[0].requestMirror.fraction",
            "the rule is: ",
        ),
        // The Gateway API allows it (`allowCredentials`): Envoy then answers with the one origin that asked.
        Case::new(76, "all origins with credentials", cors("{allowOrigins: ['*'], allowCredentials: true}"))
            .warning("MG3036", ROUTE, "spec.rules[0].filters[0].cors", "")
            .answer(R, "shop/web/80 1"),
    ];
    cases.extend(
        ["Host", "Connection", "x-envoy-retry-on", "Content-Length", "Transfer-Encoding", "Upgrade", "TE"]
            .map(protected),
    );
    cases.extend(["-1s", "1e9h", "'5'", "1d", "1.5s", "100000s", "''"].map(bad_time));
    cases
}
