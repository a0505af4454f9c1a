//! What a capability lowers to, and what it may ask while it does.

mod ask;
mod backend;
mod fit;
pub(crate) mod late;
mod merged;
mod module;
mod provider;
mod reference;
mod rule;
#[cfg(test)]
pub(crate) mod testing;
mod text;
mod value;
mod world;

pub(crate) use ask::{LISTENER, extension};
pub use backend::OfBackend;
pub use late::SecretRef;
pub use merged::compile_merged;
pub(crate) use provider::{Asked, Provider, SETTINGS, settings_of};
pub use rule::{Cookies, OfRule};
pub use text::ScriptCheck;
pub(crate) use value::{any, digest, fingerprint, hash, milliseconds, seconds, time};
pub use world::World;

use crate::capability::AnyCapability;
use crate::{Kind, Need, Settled, TrustBundle};
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use moorgate_model::diagnostic::policy::{
    POLICY_APPROXIMATE, POLICY_FIELD_UNSUPPORTED, POLICY_FIELD_UNSUPPORTED_RESTRICTS, POLICY_INVALID,
};
use moorgate_model::ir::{
    ClientRanges, ClientValidation, ClusterPolicies, LateValue, ListenerFilter, Module, Patch, RouteFilter,
    SharedLimits,
};
use moorgate_model::{Code, Diagnostic, FieldPath, Node, Object, ObjectRef};
use serde::Deserialize;
use std::collections::BTreeMap;

/// A reference to a backend, as policies write it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BackendRef {
    /// The API group, empty for core.
    #[serde(default)]
    pub group: String,
    /// The kind.
    #[serde(default = "service")]
    pub kind: String,
    /// The name.
    pub name: String,
    /// The namespace, if it is another one.
    pub namespace: Option<String>,
    /// The port of a Service.
    pub port: Option<u16>,
    /// Its share among several.
    pub weight: Option<u32>,
    /// It is a last resort.
    pub fallback: Option<bool>,
}

fn service() -> String {
    "Service".into()
}

/// What a capability asks of Envoy, or several together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lowered {
    /// Filters of requests.
    pub filters: Vec<RouteFilter>,
    /// Over Envoy's `Route`.
    pub route: Vec<Patch>,
    /// Over Envoy's `RouteAction`.
    pub forward: Vec<Patch>,
    /// Clusters that filters ask.
    pub clusters: Vec<String>,
    /// Over clusters of backends.
    pub cluster: ClusterPolicies,
    /// Over the connection manager.
    pub manager: Vec<Patch>,
    /// Over filter chains.
    pub chain: Vec<Patch>,
    /// Over the whole listener.
    pub listener: Vec<Patch>,
    /// Over TLS towards clients.
    pub tls: Vec<Patch>,
    /// How clients prove who they are.
    pub clients: Option<ClientValidation>,
    /// Whose connections are carried where nobody reads requests.
    pub connections: Option<ClientRanges>,
    /// What changes a rule itself.
    pub rule: OfRule,
    /// Routes say what they are, for a service that is told.
    pub describes: bool,
    /// Values that relays make of Secrets.
    pub late: Vec<LateValue>,
    /// What a service counts for the whole fleet.
    pub limits: Vec<SharedLimits>,
    /// Modules that filters load from the relay.
    pub modules: Vec<Module>,
    /// What makes a backend.
    pub backend: OfBackend,
    /// Filters of all requests of a listener.
    pub on_listener: Vec<ListenerFilter>,
    /// Over filters that stand on listeners anyway, by their names.
    pub changes: Vec<(String, Patch)>,
    /// Over Envoy's `TcpProxy`.
    pub stream: Vec<Patch>,
    /// Over Envoy's `TlsInspector`.
    pub inspector: Vec<Patch>,
    /// HTTP/3 is spoken too.
    pub http3: bool,
    /// Requests that name no host are for the hostname of their listener.
    pub default_host: bool,
    /// What only the parameters of a fleet can give.
    pub needs: Vec<Need>,
    /// The route is looked for again behind the filter at this place, as this field says; true if the filter may have
    /// changed host and path by then.
    pub recomputes: Option<(u16, bool, FieldPath)>,
}

impl Lowered {
    /// Adds what another one asks.
    pub fn add(&mut self, other: &Self) {
        self.filters.extend(other.filters.iter().cloned());
        self.route.extend(other.route.iter().cloned());
        self.forward.extend(other.forward.iter().cloned());
        self.clusters.extend(other.clusters.iter().cloned());
        self.cluster.add(&other.cluster);
        self.manager.extend(other.manager.iter().cloned());
        self.chain.extend(other.chain.iter().cloned());
        self.listener.extend(other.listener.iter().cloned());
        self.tls.extend(other.tls.iter().cloned());
        self.clients = other.clients.clone().or(self.clients.take());
        self.connections = other.connections.clone().or(self.connections.take());
        self.rule.add(&other.rule);
        self.describes |= other.describes;
        self.late.extend(other.late.iter().cloned());
        self.limits.extend(other.limits.iter().cloned());
        self.modules.extend(other.modules.iter().cloned());
        self.backend.add(&other.backend);
        self.on_listener.extend(other.on_listener.iter().cloned());
        self.changes.extend(other.changes.iter().cloned());
        self.stream.extend(other.stream.iter().cloned());
        self.inspector.extend(other.inspector.iter().cloned());
        self.http3 |= other.http3;
        self.default_host |= other.default_host;
        self.needs.extend(other.needs.iter().cloned());
        self.recomputes = self.recomputes.take().max(other.recomputes.clone());
    }
}

/// One policy on its way to Envoy.
pub struct Lowering<'a> {
    kind: Kind,
    object: &'a Object,
    /// The policy of a wider scope that it is merged with.
    wide: Option<&'a ObjectRef>,
    world: &'a mut dyn World,
    /// What the capability that is being lowered asks.
    out: Lowered,
    closed: bool,
    findings: Vec<Diagnostic>,
    /// The first reason for which the policy as a whole is not accepted.
    invalid: Option<String>,
    /// Fields that have no effect.
    ignored: Vec<FieldPath>,
    /// The capability that is being lowered went wrong.
    failed: bool,
}

/// What came of one policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Compiled {
    /// What each capability that is in force asks of Envoy, by the name of its file.
    pub parts: BTreeMap<&'static str, Lowered>,
    /// Requests must not pass: something that restricts access cannot be carried out.
    pub closed: bool,
    /// What was found.
    pub findings: Vec<Diagnostic>,
    /// Why the policy is not accepted, if it is not.
    pub invalid: Option<String>,
    /// Fields that have no effect.
    pub ignored: Vec<FieldPath>,
}

impl Compiled {
    /// What all its capabilities together ask.
    pub fn together(&self) -> Lowered {
        let mut all = Lowered::default();
        self.parts.values().for_each(|part| all.add(part));
        all
    }
}

/// Compiles a policy: each capability that its fields ask for, and a finding for each field that none carries out.
pub fn compile(kind: Kind, object: &Object, world: &mut dyn World) -> Compiled {
    let mut cx = Lowering::new(kind, object, world);
    for field in crate::uncovered(kind, object) {
        match crate::settled(kind.name(), &crate::kind::keys(&field).skip(1).collect::<Vec<_>>().join(".")) {
            Some(Settled::Unused(why)) => cx.unused(field, why),
            _ if cx.world.is_default(object, &field) => {}
            _ => cx.unsupported(field, "this field is not supported by this version"),
        }
    }
    let mut parts = BTreeMap::new();
    let Some(spec) = object.root.get("spec") else {
        cx.invalid(FieldPath::root().key("spec"), "the policy has no spec");
        return cx.finish(parts);
    };
    for capability in of_kind(kind) {
        if let Some(part) = cx.part(*capability, spec) {
            parts.insert(capability.about().file, part);
        }
    }
    cx.finish(parts)
}

fn of_kind(kind: Kind) -> impl Iterator<Item = &'static &'static dyn AnyCapability> {
    crate::CAPABILITIES.iter().filter(move |capability| capability.about().kind == kind)
}

/// The outermost field that leads to another.
pub(crate) fn top(field: &str) -> FieldPath {
    FieldPath::root().key(field.split_once('.').map_or(field, |(top, _)| top))
}

impl<'a> Lowering<'a> {
    fn new(kind: Kind, object: &'a Object, world: &'a mut dyn World) -> Self {
        Self {
            kind,
            object,
            wide: None,
            world,
            out: Lowered::default(),
            closed: false,
            findings: Vec::new(),
            invalid: None,
            ignored: Vec::new(),
            failed: false,
        }
    }

    /// What a capability asks; nothing if it went wrong: a half of it might do harm.
    fn part(&mut self, capability: &dyn AnyCapability, spec: &Node) -> Option<Lowered> {
        (self.out, self.failed) = (Lowered::default(), false);
        capability.compile(spec, self);
        let out = std::mem::take(&mut self.out);
        if !self.failed
            && let Err(why) = fit::check(&out, &*self.world)
        {
            let mut fields = capability.about().fields.iter().map(|field| top(field));
            let field = fields.find(|field| spec.at(field).is_some()).unwrap_or_else(FieldPath::root);
            self.invalid(
                FieldPath::root().key("spec").join(&field),
                &format!("Envoy does not take it: {why}"),
            );
        }
        (!self.failed && out != Lowered::default()).then_some(out)
    }

    fn finish(self, parts: BTreeMap<&'static str, Lowered>) -> Compiled {
        let Self { closed, findings, invalid, ignored, .. } = self;
        Compiled { parts, closed, findings, invalid, ignored }
    }
}

impl Lowering<'_> {
    /// A field that is not carried out. Where it restricts access, what the policy targets is closed; elsewhere the field
    /// has no effect.
    pub fn unsupported(&mut self, field: FieldPath, message: &str) {
        self.refuse(field.clone(), &POLICY_FIELD_UNSUPPORTED, &POLICY_FIELD_UNSUPPORTED_RESTRICTS, message);
        self.ignored.push(field);
    }

    /// A field that speaks of something that is not there: whatever it restricts, there is nothing to restrict.
    fn unused(&mut self, field: FieldPath, why: &str) {
        let finding = self.object.diagnostic(&POLICY_FIELD_UNSUPPORTED, field.clone(), why);
        self.findings.push(finding.help("the field has no effect"));
        self.ignored.push(field);
    }

    /// A field that is wrong. Where it restricts access, what the policy targets is closed; elsewhere its capability has
    /// no effect.
    pub fn invalid(&mut self, field: FieldPath, message: &str) {
        self.invalid.get_or_insert_with(|| message.to_owned());
        self.failed = true;
        self.refuse(field, &POLICY_INVALID, &POLICY_INVALID, message);
    }

    fn refuse(&mut self, field: FieldPath, open: &'static Code, restricts: &'static Code, message: &str) {
        let closes = self.kind.restricts(&field);
        let (code, help) = if closes {
            let targets = "what the policy targets answers 500, because the field restricts access";
            let refers = "rules that refer to it answer 500";
            (restricts, if self.kind.is_attached() { targets } else { refers })
        } else {
            (open, "the field has no effect")
        };
        self.closed |= closes;
        self.findings.push(self.object.diagnostic(code, field, message).help(help));
    }

    /// A field of which Envoy does something near; the message says what.
    pub fn approximate(&mut self, field: FieldPath, message: &str) {
        self.findings.push(self.object.diagnostic(&POLICY_APPROXIMATE, field, message));
    }

    /// The cluster of a backend that filters ask. Without it the policy is not valid.
    pub fn backend(&mut self, at: &FieldPath, backend: &BackendRef, http2: bool) -> Option<String> {
        match self.world.backend(self.object, at, backend, http2) {
            Ok(name) => {
                self.out.clusters.push(name.clone());
                Some(name)
            }
            Err(finding) => self.failed_at(at, *finding),
        }
    }

    fn failed_at<T>(&mut self, at: &FieldPath, finding: Diagnostic) -> Option<T> {
        self.invalid.get_or_insert_with(|| finding.message.clone());
        self.failed = true;
        self.closed |= self.kind.restricts(at);
        self.findings.push(finding);
        None
    }

    /// An annotation of the policy.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.object.root.get("metadata")?.get("annotations")?.get(name)?.as_str()
    }

    /// The cluster of a server outside.
    pub fn outside(&mut self, at: &FieldPath, host: &str, port: u16, tls: bool) -> Option<String> {
        match self.world.outside(host, port, tls) {
            Ok(name) => {
                self.out.clusters.push(name.clone());
                Some(name)
            }
            Err(message) => {
                self.invalid(at.clone(), &message);
                None
            }
        }
    }

    /// Whether a name can be that of a header.
    pub fn header_name(&mut self, at: FieldPath, name: &str) -> bool {
        let good = is_header_name(name);
        if !good {
            self.invalid(at, &format!("{name:?} is no name of a header"));
        }
        good
    }

    /// A text as an expression that Envoy takes. One that it does not take makes the policy invalid.
    pub fn expression(&mut self, at: FieldPath, text: &str) -> Option<MatchPattern> {
        if let Err(why) = self.world.regex(text) {
            self.invalid(at, &format!("{text:?} is not a valid expression: {why}"));
            return None;
        }
        Some(MatchPattern::SafeRegex(RegexMatcher { regex: text.to_owned(), engine_type: None }))
    }

    /// Whether an object can serve as a bundle of CA certificates.
    pub fn trust_bundle(&self, object: &ObjectRef) -> TrustBundle {
        self.world.trust_bundle(object)
    }
}

/// Whether a name can be that of a header: Envoy would refuse a whole table of routes for another one, and take a percent
/// sign or parenthesis for its own.
pub(crate) fn is_header_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(plain)
}
