//! HTTPRoutes and requests from a seed, made to meet: overlapping hostnames, paths, headers and parameters, and
//! requests that hit them or miss them by little. Unlike [`crate::routes`] they stay plain data, so that a suite can
//! say from the Gateway API's text alone who must answer.

use crate::routes::Numbers;
use std::fmt::Write as _;

/// A listener of the Gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Door {
    /// Its name.
    pub name: &'static str,
    /// Which of the ports, from zero.
    pub port: usize,
    /// Its hostname, empty for all.
    pub hostname: &'static str,
    /// What it speaks.
    pub kind: DoorKind,
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoorKind {
    /// Plain text.
    Http,
    /// TLS.
    Https,
    /// TLS with a certificate that it may not use: every connection is refused.
    Refused,
}

/// How many ports [`DOORS`] has.
pub const PORTS: usize = 4;

/// The listeners of the Gateway `edge/public`.
pub const DOORS: [Door; 10] = [
    door("all", 0, "", DoorKind::Http),
    door("wide", 0, "*.example.com", DoorKind::Http),
    door("exact", 0, "a.example.com", DoorKind::Http),
    door("narrow", 1, "b.example.com", DoorKind::Http),
    door("deep", 1, "*.a.example.com", DoorKind::Http),
    door("alone", 2, "", DoorKind::Http),
    door("tls-wide", 3, "*.example.com", DoorKind::Https),
    door("tls-exact", 3, "a.example.com", DoorKind::Https),
    door("tls-deep", 3, "*.a.example.com", DoorKind::Https),
    door("tls-refused", 3, "b.example.com", DoorKind::Refused),
];

const fn door(name: &'static str, port: usize, hostname: &'static str, kind: DoorKind) -> Door {
    Door { name, port, hostname, kind }
}

/// Names that clients ask for, by SNI or `Host`.
pub const NAMES: [&str; 8] = [
    "a.example.com",
    "b.example.com",
    "c.example.com",
    "x.a.example.com",
    "y.x.a.example.com",
    "x.b.example.com",
    "example.com",
    "other.test",
];

const NAMESPACES: [&str; 2] = ["team-a", "team-b"];
const HOSTNAMES: [&str; 8] = [
    "a.example.com",
    "b.example.com",
    "*.example.com",
    "*.a.example.com",
    "x.a.example.com",
    "*.b.example.com",
    "example.com",
    "other.test",
];
const EXACT: [&str; 10] = ["/", "/a", "/a/", "/a/b", "/ab", "/c", "/A", "/a%20b", "/a;v=1", "/c/"];
const PREFIX: [&str; 9] = ["/", "/a", "/a/", "/a/b", "/ab", "/c", "/a/b/c", "/a%20b", "/c;x"];
const REGEX: [&str; 8] =
    ["/a/[0-9]+", "/a.*", "/(a|c)/b", "/[a-c]", "/a/b/.+", "(?i)/A/B", "/a|/c", "/c/\\d{2,}"];
const METHODS: [&str; 4] = ["GET", "POST", "DELETE", "HEAD"];
const HEADERS: [(&str, &[(bool, &str)]); 3] = [
    ("X-Color", &[(true, "red"), (true, "blue"), (false, "r.*"), (false, ".*"), (true, "red,blue")]),
    ("x-size", &[(true, "large"), (false, "[a-z]+")]),
    ("X-Forwarded-Proto", &[(true, "http"), (true, "https")]),
];
const PARAMETERS: [(&str, &[(bool, &str)]); 2] = [
    ("q", &[(true, "1"), (false, "[0-9]"), (false, ".*"), (true, "a b")]),
    ("r", &[(true, "x"), (true, "1=2")]),
];

/// How a value or path must look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The whole text.
    Exact,
    /// Path segments.
    Prefix,
    /// A regular expression.
    Regex,
}

/// A header or query parameter that must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Its name.
    pub name: &'static str,
    /// True for the whole text, false for a regular expression.
    pub exact: bool,
    /// The text.
    pub value: &'static str,
}

/// A match of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// How the path must look.
    pub kind: Kind,
    /// The path.
    pub path: &'static str,
    /// The method, if it matters.
    pub method: Option<&'static str>,
    /// Headers.
    pub headers: Vec<Value>,
    /// Query parameters.
    pub query: Vec<Value>,
}

/// An HTTPRoute: rules are lists of matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its namespace.
    pub namespace: &'static str,
    /// Its name.
    pub name: String,
    /// The listener that it names, if it names one.
    pub section: Option<&'static str>,
    /// Its hostnames.
    pub hostnames: Vec<&'static str>,
    /// Its rules.
    pub rules: Vec<Vec<Match>>,
}

/// `count` HTTPRoutes.
pub fn routes(numbers: &mut Numbers, count: usize) -> Vec<Route> {
    (0..count).map(|index| route(numbers, index)).collect()
}

fn one<T: Copy>(numbers: &mut Numbers, items: &[T]) -> T {
    items[numbers.below(items.len())]
}

fn some<T: Clone>(numbers: &mut Numbers, items: &[T], most: usize) -> Vec<T> {
    let mut items = items.to_vec();
    numbers.shuffle(&mut items);
    items.truncate(numbers.below(most + 1));
    items
}

fn route(numbers: &mut Numbers, index: usize) -> Route {
    let section = numbers.chance(40).then(|| one(numbers, &DOORS).name);
    let rules = (0..=numbers.below(3)).map(|_| (0..=numbers.below(3)).map(|_| a_match(numbers)).collect());
    let rules: Vec<Vec<Match>> = rules.collect();
    let (namespace, hostnames) = (one(numbers, &NAMESPACES), some(numbers, &HOSTNAMES, 3));
    // Names in another order than places, so that a tie that is broken by place shows.
    Route { namespace, name: format!("route-{}", index * 37 % 101), section, hostnames, rules }
}

fn a_match(numbers: &mut Numbers) -> Match {
    let (kind, path) = match numbers.below(10) {
        0..=3 => (Kind::Exact, one(numbers, &EXACT)),
        4..=7 => (Kind::Prefix, one(numbers, &PREFIX)),
        _ => (Kind::Regex, one(numbers, &REGEX)),
    };
    let method = numbers.chance(25).then(|| one(numbers, &METHODS));
    let headers = if numbers.chance(35) { values(numbers, &HEADERS) } else { Vec::new() };
    let query = if numbers.chance(30) { values(numbers, &PARAMETERS) } else { Vec::new() };
    Match { kind, path, method, headers, query }
}

fn values(numbers: &mut Numbers, from: &[(&'static str, &'static [(bool, &'static str)])]) -> Vec<Value> {
    let names = some(numbers, from, 2);
    let value = |(name, values): (&'static str, &'static [(bool, &'static str)])| {
        let (exact, value) = one(numbers, values);
        Value { name, exact, value }
    };
    names.into_iter().map(value).collect()
}

/// Class, Gateway, a Service in each namespace, and these routes as YAML.
pub fn manifests(ports: &[u16], routes: &[Route]) -> String {
    let mut text = crate::manifest::gateway_class();
    text.push_str(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: public, namespace: edge }\n\
         spec:\n  gatewayClassName: moorgate\n  listeners:\n",
    );
    for door in DOORS {
        let tls = match door.kind {
            DoorKind::Http => "",
            DoorKind::Https => ", tls: { certificateRefs: [{ name: certificate }] }",
            DoorKind::Refused => ", tls: { certificateRefs: [{ name: certificate, namespace: vault }] }",
        };
        let protocol = if door.kind == DoorKind::Http { "HTTP" } else { "HTTPS" };
        let hostname = if door.hostname.is_empty() {
            String::new()
        } else {
            format!(", hostname: \"{}\"", door.hostname)
        };
        let _ = writeln!(
            text,
            "    - {{ name: {}, port: {}, protocol: {protocol}{hostname}{tls}, allowedRoutes: {{ namespaces: {{ from: \
             All }} }} }}",
            door.name, ports[door.port]
        );
    }
    for namespace in NAMESPACES {
        let _ = write!(text, "---\n{}", crate::manifest::service(namespace, "cart"));
    }
    for route in routes {
        let _ = write!(text, "---\n{}", manifest(route));
    }
    text
}

fn manifest(route: &Route) -> String {
    let section = route.section.map(|section| format!(", sectionName: {section}")).unwrap_or_default();
    let mut text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {}, namespace: {} }}\nspec:\n  \
         parentRefs: [{{ name: public, namespace: edge{section} }}]\n  hostnames: {:?}\n  rules:\n",
        route.name, route.namespace, route.hostnames
    );
    for rule in &route.rules {
        text.push_str("    - backendRefs: [{ name: cart, port: 80 }]\n      matches:\n");
        for found in rule {
            let kind = match found.kind {
                Kind::Exact => "Exact",
                Kind::Prefix => "PathPrefix",
                Kind::Regex => "RegularExpression",
            };
            let _ = writeln!(text, "        - path: {{ type: {kind}, value: '{}' }}", found.path);
            if let Some(method) = found.method {
                let _ = writeln!(text, "          method: {method}");
            }
            for (field, values) in [("headers", &found.headers), ("queryParams", &found.query)] {
                if values.is_empty() {
                    continue;
                }
                let _ = writeln!(text, "          {field}:");
                for Value { name, exact, value } in values {
                    let kind = if *exact { "Exact" } else { "RegularExpression" };
                    let _ =
                        writeln!(text, "            - {{ name: {name}, type: {kind}, value: '{value}' }}");
                }
            }
        }
    }
    text
}

const PATHS: [&str; 20] = [
    "/", "/a", "/a/", "/A", "/a/b", "/a/b/", "/a/b/c", "/a/b/c/d", "/ab", "/abc", "/c", "/c/", "/c/b",
    "/c/77", "/a/7", "/a/77x", "/a%20b", "/a%20b/c", "/a;v=1", "/c;x/1",
];
const QUERIES: [&str; 14] = [
    "?q=1",
    "?q=2",
    "?q=1&q=x",
    "?q=x&q=1",
    "?q=",
    "?q",
    "?Q=1",
    "?q=%31",
    "?q=a%20b",
    "?q=a+b",
    "?r=1=2",
    "?&q=1&r=x",
    "?",
    "?q=1?r=x",
];
/// What path normalisation must see through, or refuse.
const TWISTS: [(&str, &str); 18] = [
    ("/", "//"),
    ("/", "///"),
    ("/", "/./"),
    ("/", "/z/../"),
    ("/", "/z/%2e%2E/"),
    ("/", "/%2e/"),
    ("/", "/z//../"),
    ("/", "%2F"),
    ("/", "%5c"),
    ("/", "\\"),
    ("a", "%61"),
    ("a", "%41"),
    ("b", "%62"),
    ("/", "/%00"),
    ("/", "/%"),
    ("/", "/%zz"),
    ("/", "/\"<>^`{|}"),
    ("/", "/é"),
];
const ENDS: [&str; 15] = [
    "/",
    "//",
    "/.",
    "/..",
    "/../",
    "/%2e%2e",
    "%2f",
    "x",
    "%",
    "%7e~",
    ";",
    "/..;/c",
    "/.;x=1/b",
    "/%2e%2e;/c",
    "/..;\\c",
];
const HEADER_LINES: [(&str, &str); 14] = [
    ("x-color", "red"),
    ("X-COLOR", "blue"),
    ("x-color", "Red"),
    ("x-color", "rose"),
    ("x-color", ""),
    ("x-color", "  red \t"),
    ("x-colour", "red"),
    ("x-size", "large"),
    ("x-size", "LARGE"),
    ("x-size", "large, small"),
    ("x_color", "red"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-proto", "http"),
    ("x-color", "r\u{e9}d"),
];

/// A request as it goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Which of the ports, from zero.
    pub port: usize,
    /// The method.
    pub method: &'static str,
    /// The path with its query.
    pub path: String,
    /// The `Host` header.
    pub host: String,
    /// The other headers.
    pub headers: Vec<(String, String)>,
}

impl Sent {
    /// True if Envoy before 1.39 sees it otherwise: it joins headers that stand several times, and leaves parameters of
    /// dot segments as they are.
    pub fn differs_before_1_39(&self) -> bool {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        let repeats = names.iter().enumerate().any(|(index, name)| names[..index].contains(name));
        repeats || self.path.contains(".;")
    }

    /// True if nothing in path or host needs Envoy's normalisation.
    pub fn is_plain(&self) -> bool {
        let path = self.path.split('?').next().unwrap_or_default();
        PATHS.contains(&path) && NAMES.contains(&self.host.as_str())
    }
}

/// A request.
pub fn request(numbers: &mut Numbers) -> Sent {
    let mut path = one(numbers, &PATHS).to_owned();
    if numbers.chance(30) {
        let (plain, twisted) = one(numbers, &TWISTS);
        // The first slash stays: a path starts with one.
        let places: Vec<usize> = path.match_indices(plain).map(|(place, _)| place).collect();
        if let Some(place) = places.get(numbers.below(places.len())) {
            path.replace_range(*place..*place + plain.len(), twisted);
            if !path.starts_with('/') {
                path.insert(0, '/');
            }
        }
    }
    if numbers.chance(15) {
        path.push_str(one(numbers, &ENDS));
    }
    if numbers.chance(40) {
        path.push_str(one(numbers, &QUERIES));
    }
    let mut host = one(numbers, &NAMES).to_owned();
    match numbers.below(20) {
        0 => host.make_ascii_uppercase(),
        1 => host.push_str(":8080"),
        2 => host.push('.'),
        3 => host.push_str(".:80"),
        4 => host.insert(0, '.'),
        5 => host = host.replacen('e', "E", 1),
        _ => {}
    }
    let mut headers = Vec::new();
    for _ in 0..numbers.below(4) {
        let (name, value) = one(numbers, &HEADER_LINES);
        headers.push((name.to_owned(), value.to_owned()));
    }
    let method = if numbers.chance(50) { "GET" } else { one(numbers, &METHODS) };
    Sent { port: numbers.below(PORTS), method, path, host, headers }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_configuration() {
        let of = |seed| manifests(&[1, 2, 3, 4], &routes(&mut Numbers::new(seed), 20));
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn names_do_not_repeat() {
        let routes = routes(&mut Numbers::new(1), 100);
        let names: std::collections::BTreeSet<_> = routes.iter().map(|route| &route.name).collect();
        assert_eq!(names.len(), 100);
    }
}
