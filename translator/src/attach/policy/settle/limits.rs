//! Global rate limits meet the service that counts for their fleet (envoyproxy/ratelimit).
//!
//! Envoy Gateway takes its address from the settings of its controller. Here is no controller, and the service reads its
//! limits from a relay of one fleet: so the fleet names it. An annotation of the Gateway says which it is, or one of the
//! GatewayClass for all Gateways of the class that say nothing; where these share a fleet, only the class counts.

use super::{Settling, Together};
use crate::attach::index::Index;
use crate::attach::listener::Gateway;
use crate::attach::policy::held::Chosen;
use crate::attach::policy::world::Sources;
use moorgate_model::diagnostic::policy::RATE_LIMIT_SERVICE;
use moorgate_model::ir::{Route, RouteOrigin};
use moorgate_model::{Diagnostic, FieldPath, Node, Object, duration};
use moorgate_policies::{BackendRef, GROUP, Kind, LimitService, World as _, limited};
use std::rc::Rc;
use std::sync::Arc;

/// Which service, `namespace/name:port` of a Service or `namespace/name` of a Backend; its own namespace a Gateway may leave out.
const SERVICE: &str = "moorgate.dev/rate-limit-service";
/// How long it is waited for, such as `50ms`.
const TIMEOUT: &str = "moorgate.dev/rate-limit-timeout";
/// `true`: what it does not answer does not pass.
const FAIL_CLOSED: &str = "moorgate.dev/rate-limit-fail-closed";

/// The field of a policy that asks for such limits.
const FIELD: &str = "spec.rateLimit.global";

impl Settling<'_, '_> {
    /// Puts what is counted for the fleet on a route. A route whose fleet has no service for it answers 500.
    pub(super) fn limit(
        &mut self,
        route: &mut Route,
        together: &Together,
        chosen: &[(Kind, Chosen)],
        gateway: &(String, String),
    ) {
        let service = match &*self.service(gateway) {
            Ok(service) => service.clone(),
            Err(why) => {
                self.uncounted(chosen, gateway, why);
                route.refuse(500);
                return;
            }
        };
        let mut added = route.policies.take().map(|added| (*added).clone()).unwrap_or_default();
        for limits in &together.limits {
            let (filter, domain) = limited(limits, &service, &named(&route.origin));
            added.filters.push(filter);
            added.counted.push((domain.into(), Arc::clone(&limits.config)));
            added.oldest_envoy = added.oldest_envoy.max(limits.oldest_envoy);
        }
        added.filters.sort();
        added.clusters.push(service.cluster);
        route.policies = Some(Arc::new(added));
    }

    /// Says of the policies that ask for limits that nobody counts them here.
    fn uncounted(&mut self, chosen: &[(Kind, Chosen)], gateway: &(String, String), why: &str) {
        let numbers = chosen.iter().flat_map(|(_, chosen)| [Some(chosen.winner), chosen.merged]).flatten();
        for number in numbers {
            let Some(one) = self.policies.held.all.get(number) else { continue };
            let asks = one.kind == Kind::BackendTraffic && one.object.at(FIELD).is_some();
            if !asks || self.settled.unmet.contains_key(&(number, gateway.clone())) {
                continue;
            }
            self.settled.unmet.entry((number, gateway.clone())).or_default().insert(why.to_owned());
            let finding = one.object.diagnostic(&RATE_LIMIT_SERVICE, FieldPath::parse(FIELD), why);
            let help = format!(
                "set the annotation {SERVICE} of the Gateway or its class to the namespace/name:port of a rate limit service; \
                 until then the routes of the policy at this Gateway answer 500"
            );
            self.diagnostics.push(finding.help(help));
        }
    }

    /// The service of a Gateway's fleet, looked for once.
    fn service(&mut self, name: &(String, String)) -> Rc<Result<LimitService, String>> {
        if let Some(known) = self.services.get(name) {
            return Rc::clone(known);
        }
        let key = self.index.gateway_key(&name.0, &name.1);
        let found = match key.and_then(|key| self.gateways.get(&key)) {
            Some(gateway) => self.find(gateway),
            None => Err(format!("Gateway {}/{} is not in this source", name.0, name.1)),
        };
        let found = Rc::new(found);
        self.services.insert(name.clone(), Rc::clone(&found));
        found
    }

    fn find(&mut self, gateway: &Gateway<'_>) -> Result<LimitService, String> {
        let own = &gateway.object.reference;
        let Some(object) = speaker(self.index, gateway) else {
            return Err(format!("Gateway {}/{} names no rate limit service", own.namespace, own.name));
        };
        let fleet = self.index.options.fleet(gateway.class, &own.namespace, &own.name).to_string();
        self.read(object, fleet).map_err(|finding| {
            let why = format!(
                "the rate limit service of Gateway {}/{} cannot be used: {}",
                own.namespace, own.name, finding.message
            );
            self.diagnostics.push(finding);
            why
        })
    }

    /// What the annotations of a Gateway or class say.
    fn read(&mut self, object: &Object, fleet: String) -> Result<LimitService, Diagnostic> {
        let wrong =
            |name: &str, message: String| object.diagnostic(&RATE_LIMIT_SERVICE, field(name), message);
        let text = annotation(object, SERVICE).unwrap_or_default();
        let named = reference(text, &object.reference.namespace).ok_or_else(|| {
            wrong(SERVICE, format!("{text:?} is neither namespace/name:port nor namespace/name"))
        })?;
        let timeout = match annotation(object, TIMEOUT) {
            None => None,
            Some(text) => Some(
                duration::parse(text)
                    .filter(|time| !time.is_zero())
                    .ok_or_else(|| wrong(TIMEOUT, format!("{text:?} is no time to wait, such as 50ms")))?,
            ),
        };
        let closes = match annotation(object, FAIL_CLOSED) {
            None | Some("false") => false,
            Some("true") => true,
            Some(text) => return Err(wrong(FAIL_CLOSED, format!("{text:?} is neither true nor false"))),
        };
        // Whoever writes a class may name what he likes; a Gateway needs a grant for another namespace.
        let mut asking = object.clone();
        if asking.reference.namespace.is_empty() {
            asking.reference.namespace = named.namespace.as_deref().unwrap_or_default().into();
        }
        let mut world = Sources { index: self.index, policies: self.policies, clusters: &mut self.clusters };
        let cluster = world.backend(&asking, &field(SERVICE), &named, true).map_err(|mut finding| {
            finding.object = Some(object.reference.clone());
            *finding
        })?;
        Ok(LimitService { fleet, cluster, authority: named.name, timeout, closes })
    }
}

/// The object that names the service of a Gateway's fleet.
fn speaker<'o>(index: &Index<'o>, gateway: &Gateway<'o>) -> Option<&'o Object> {
    let class = index.classes.get(gateway.class).map(|class| class.object);
    let own = Some(gateway.object).filter(|_| !index.options.merged.contains(gateway.class));
    [own, class].into_iter().flatten().find(|object| annotation(object, SERVICE).is_some())
}

fn field(annotation: &str) -> FieldPath {
    FieldPath::root().key("metadata").key("annotations").key(annotation)
}

fn annotation<'o>(object: &'o Object, name: &str) -> Option<&'o str> {
    object.root.at(&field(name)).and_then(Node::as_str)
}

/// `[namespace/]name:port` is a Service, `[namespace/]name` a Backend. A class has no namespace that could be left out.
fn reference(text: &str, own: &str) -> Option<BackendRef> {
    let (namespace, rest) = match text.split_once('/') {
        Some((namespace, rest)) => (Some(namespace), rest),
        None => (None, text),
    };
    let (name, port) = match rest.split_once(':') {
        Some((name, port)) => (name, Some(port.parse().ok().filter(|port| *port != 0)?)),
        None => (rest, None),
    };
    let part = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        !part.is_empty() && part.len() <= 253 && part.bytes().all(plain)
    };
    let there = namespace.map_or(!own.is_empty(), part);
    (there && part(name)).then(|| BackendRef {
        group: if port.is_some() { String::new() } else { GROUP.to_owned() },
        kind: if port.is_some() { "Service" } else { "Backend" }.to_owned(),
        name: name.to_owned(),
        namespace: namespace.map(str::to_owned),
        port,
        weight: None,
        fallback: None,
    })
}

/// A name that only this rule has: by its own name, or else by its place.
fn named(origin: &RouteOrigin) -> String {
    let object = &origin.object;
    let kind = object.kind.to_ascii_lowercase();
    let rule = match &origin.rule_name {
        Some(rule) => format!("/{rule}"),
        None => format!("#{}", origin.rule),
    };
    format!("{kind}/{}/{}{rule}", object.namespace, object.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_by_its_port_and_a_backend_without() {
        let read = |text: &str, own: &str| {
            reference(text, own).map(|found| (found.kind, found.namespace, found.name, found.port))
        };
        let service = |namespace: Option<&str>| {
            Some(("Service".to_owned(), namespace.map(str::to_owned), "limits".to_owned(), Some(8081)))
        };
        assert_eq!(read("limits:8081", "edge"), service(None));
        assert_eq!(read("shared/limits:8081", "edge"), service(Some("shared")));
        assert_eq!(read("shared/limits:8081", ""), service(Some("shared")));
        let backend = Some(("Backend".to_owned(), Some("shared".to_owned()), "limits".to_owned(), None));
        assert_eq!(read("shared/limits", "edge"), backend);
        for wrong in ["", "/limits:1", "a/:1", "a/b:0", "a/b:70000", "a/b:x", "a/b/c:1", "A/b:1", "a/b: 1"] {
            assert_eq!(read(wrong, "edge"), None, "{wrong}");
        }
        assert_eq!(read("limits:8081", ""), None);
    }
}
