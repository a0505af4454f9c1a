//! Routes and requests made from a seed, dense enough that most requests meet several routes.
//!
//! Every rule marks what it lets through: forwarded requests carry [`RULE_HEADER`], redirects name the rule in their
//! host. So an answer tells which rule gave it.

use crate::http::Request;
use crate::manifest;
use std::fmt::Write as _;

/// The request header that names the rule that forwarded it: `namespace.name.rule`.
pub const RULE_HEADER: &str = "x-rule";

/// The domain of redirects: `rule.name.namespace.redirect.test`.
pub const REDIRECT_DOMAIN: &str = "redirect.test";

/// The namespaces of the generated routes.
pub const NAMESPACES: [&str; 2] = ["team-a", "team-b"];

/// The Services in each namespace; `missing` is referred to too.
pub const SERVICES: [&str; 3] = ["one", "two", "three"];

/// The hostnames of the listeners, in the order of their ports; the last one is HTTPS.
pub const LISTENER_HOSTNAMES: [Option<&str>; 5] =
    [None, Some("*.example.com"), Some("a.example.com"), Some("*.a.example.com"), None];

/// The DNS names that the certificate of the HTTPS listener needs.
pub const CERTIFICATE_NAMES: [&str; 4] = ["example.com", "*.example.com", "*.a.example.com", "other.test"];

const HOSTNAMES: [&str; 6] =
    ["a.example.com", "b.example.com", "*.example.com", "*.a.example.com", "x.a.example.com", "other.test"];
const HOSTS: [&str; 7] = [
    "a.example.com",
    "b.example.com",
    "x.a.example.com",
    "y.a.example.com",
    "example.com",
    "other.test",
    "B.Example.Com",
];
const EXACT: [&str; 6] = ["/", "/a", "/a/", "/a/b", "/ab", "/c"];
const PREFIX: [&str; 7] = ["/", "/a", "/a/", "/a/b", "/ab", "/c", "/a/b/c"];
const REGEX: [&str; 5] = ["/a/[0-9]+", "/a.*", "/(a|c)/b", "/[a-c]", "/a/b/.+"];
const PATHS: [&str; 22] = [
    "/",
    "/a",
    "/a/",
    "/A",
    "/a/b",
    "/a/b/",
    "/a/b/c",
    "/a/b/c/d",
    "/ab",
    "/abc",
    "/c",
    "/c/b",
    "/a/7",
    "/a/77x",
    "/a?q=1",
    "/a/b?q=2&r=x",
    "/c?q=1&q=2",
    "//a",
    "/a/../c",
    "/a/./b",
    "/%61/b",
    "/a%2Fb",
];
const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];

/// A stream of numbers that depends on its seed only (SplitMix64).
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number of the stream.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    /// A number below `limit`, which is over zero.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.draw() % limit.max(1) as u64).unwrap_or_default()
    }

    /// True in `percent` of the cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    pub fn pick<'t, T: ?Sized>(&mut self, items: &[&'t T]) -> &'t T {
        items[self.below(items.len())]
    }

    /// Puts a list into another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// The Gateway `edge/public` with a listener for each port, and the Services.
pub fn base(ports: &[u16]) -> Vec<String> {
    let listeners: Vec<_> = ports
        .iter()
        .zip(LISTENER_HOSTNAMES)
        .enumerate()
        .map(|(index, (port, hostname))| {
            let name = format!("l{index}");
            let secure = index + 1 == LISTENER_HOSTNAMES.len();
            let secret = secure.then(|| "certificate".to_owned());
            manifest::Listener { name, port: *port, hostname: hostname.map(str::to_owned), secret }
        })
        .collect();
    let mut all = vec![manifest::gateway_class(), manifest::gateway("edge", "public", &listeners)];
    for namespace in NAMESPACES {
        all.extend(SERVICES.map(|service| manifest::service(namespace, service)));
    }
    all
}

/// `count` HTTPRoutes.
pub fn routes(numbers: &mut Numbers, count: usize) -> Vec<String> {
    (0..count).map(|index| route(numbers, index)).collect()
}

fn route(numbers: &mut Numbers, index: usize) -> String {
    let namespace = numbers.pick(&NAMESPACES);
    let name = format!("route-{index}");
    let mut text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: {name}\n  namespace: \
         {namespace}\nspec:\n  parentRefs:\n    - name: public\n      namespace: edge\n"
    );
    if numbers.chance(70) {
        let _ = writeln!(text, "      sectionName: l{}", numbers.below(LISTENER_HOSTNAMES.len()));
    }
    let mut hostnames = HOSTNAMES.to_vec();
    numbers.shuffle(&mut hostnames);
    hostnames.truncate(numbers.below(3));
    if !hostnames.is_empty() {
        text.push_str("  hostnames:\n");
        for hostname in hostnames {
            let _ = writeln!(text, "    - \"{hostname}\"");
        }
    }
    text.push_str("  rules:\n");
    for rule in 0..=numbers.below(3) {
        text.push_str("    - filters:\n");
        let marker = format!("{namespace}.{name}.{rule}");
        if numbers.chance(12) {
            let host = format!("r{rule}.{name}.{namespace}.{REDIRECT_DOMAIN}");
            let _ = writeln!(
                text,
                "        - type: RequestRedirect\n          requestRedirect:\n            hostname: {host}\n            \
                 statusCode: {}",
                numbers.pick(&["301", "302"])
            );
        } else {
            let _ = writeln!(
                text,
                "        - type: RequestHeaderModifier\n          requestHeaderModifier:\n            set:\n              \
                 - name: {RULE_HEADER}\n                value: {marker}"
            );
            let service = if numbers.chance(8) { "missing" } else { numbers.pick(&SERVICES) };
            let _ = writeln!(text, "      backendRefs:\n        - name: {service}\n          port: 80");
        }
        matches(numbers, &mut text);
    }
    text
}

fn matches(numbers: &mut Numbers, text: &mut String) {
    let count = numbers.below(4);
    if count == 0 {
        return;
    }
    text.push_str("      matches:\n");
    for _ in 0..count {
        let (kind, value) = match numbers.below(10) {
            0..=3 => ("Exact", numbers.pick(&EXACT)),
            4..=7 => ("PathPrefix", numbers.pick(&PREFIX)),
            _ => ("RegularExpression", numbers.pick(&REGEX)),
        };
        let _ = writeln!(text, "        - path:\n            type: {kind}\n            value: \"{value}\"");
        if numbers.chance(25) {
            let _ = writeln!(text, "          method: {}", numbers.pick(&METHODS));
        }
        if numbers.chance(30) {
            text.push_str("          headers:\n");
            let (kind, value) =
                *numbers.pick(&[&("Exact", "red"), &("Exact", "blue"), &("RegularExpression", "r.*")]);
            let _ = writeln!(text, "            - name: X-Color\n              type: {kind}");
            let _ = writeln!(text, "              value: \"{value}\"");
            if numbers.chance(30) {
                text.push_str("            - name: x-size\n              value: large\n");
            }
        }
        if numbers.chance(25) {
            text.push_str("          queryParams:\n");
            let (kind, value) = *numbers.pick(&[&("Exact", "1"), &("RegularExpression", "[0-9]")]);
            let _ = writeln!(text, "            - name: q\n              type: {kind}");
            let _ = writeln!(text, "              value: \"{value}\"");
        }
    }
}

/// A request, and the listener (by index) that it goes to.
pub fn request(numbers: &mut Numbers) -> (usize, Request) {
    let listener = numbers.below(LISTENER_HOSTNAMES.len());
    let mut request = Request::get(numbers.pick(&HOSTS), numbers.pick(&PATHS));
    if numbers.chance(40) {
        request = request.method(numbers.pick(&METHODS));
    }
    if numbers.chance(40) {
        request = request.header("x-color", numbers.pick(&["red", "blue", "rose", "green"]));
    }
    if numbers.chance(25) {
        request = request.header("x-size", numbers.pick(&["large", "small"]));
    }
    if numbers.chance(15) {
        request.host.push_str(":8080");
    }
    (listener, request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_configuration() {
        assert_eq!(routes(&mut Numbers::new(7), 20), routes(&mut Numbers::new(7), 20));
        assert_ne!(routes(&mut Numbers::new(7), 20), routes(&mut Numbers::new(8), 20));
    }

    #[test]
    fn generated_routes_are_yaml() {
        for text in routes(&mut Numbers::new(1), 200) {
            let value: yaml_serde::Value = yaml_serde::from_str(&text).unwrap();
            assert_eq!(value["kind"].as_str(), Some("HTTPRoute"), "{text}");
        }
    }
}
