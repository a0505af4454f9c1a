//! Gateway API status: conditions made from the same diagnostics that `check` prints.
//!
//! Conditions have no `lastTransitionTime`: nothing here knows the clock, and whoever writes them to a cluster adds it.
//! `Programmed` is `Unknown` with reason `Pending`, because only Envoy's acknowledgement makes it true.

use crate::attach::GATEWAY_GROUP;
use moorgate_model::diagnostic::semantic;
use moorgate_model::{Diagnostic, ObjectRef, Segment};
use serde::Serialize;
use std::collections::BTreeMap;

/// One condition in the Kubernetes form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Such as `Accepted`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// One word in CamelCase, from the Gateway API's lists.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// The generation that was looked at, where the object has one (files have none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// The status of one object in the shape of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Status {
    /// GatewayClass.
    Class {
        /// `Accepted`.
        conditions: Vec<Condition>,
    },
    /// Gateway.
    #[serde(rename_all = "camelCase")]
    Gateway {
        /// `Accepted` and `Programmed`, and where it uses such, `ResolvedRefs` and `InsecureFrontendValidationMode`.
        conditions: Vec<Condition>,
        /// One for each listener of its own.
        listeners: Vec<ListenerStatus>,
        /// How many ListenerSets are attached, if it speaks of any or any speaks of it.
        #[serde(skip_serializing_if = "Option::is_none")]
        attached_listener_sets: Option<usize>,
    },
    /// ListenerSet whose Gateway is ours.
    ListenerSet {
        /// `Accepted` and `Programmed`.
        conditions: Vec<Condition>,
        /// One for each listener.
        listeners: Vec<ListenerStatus>,
    },
    /// Routes: one entry for each parent of ours.
    Route {
        /// In the order of `spec.parentRefs`.
        parents: Vec<ParentStatus>,
    },
    /// An object with conditions of its own: Backend.
    Object {
        /// `Accepted`.
        conditions: Vec<Condition>,
    },
    /// Policies: one entry for each Gateway that the target is served by.
    Policy {
        /// In the order of names.
        ancestors: Vec<AncestorStatus>,
    },
}

/// The status of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// The listener.
    pub name: String,
    /// Route kinds that can attach.
    pub supported_kinds: Vec<RouteGroupKind>,
    /// How many routes are attached.
    pub attached_routes: usize,
    /// `Accepted`, `Programmed`, `ResolvedRefs`, `Conflicted`.
    pub conditions: Vec<Condition>,
}

/// A kind of route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RouteGroupKind {
    /// The API group.
    pub group: String,
    /// The kind.
    pub kind: String,
}

/// What a parent makes of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    /// The reference as the route wrote it.
    pub parent_ref: ParentReference,
    /// Whose verdict this is.
    pub controller_name: String,
    /// `Accepted`, `ResolvedRefs`, and `PartiallyInvalid` where some rules answer 500.
    pub conditions: Vec<Condition>,
}

/// A parent as a route names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// The API group.
    pub group: String,
    /// The kind.
    pub kind: String,
    /// The namespace, if the route wrote one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
    /// The listener, if the route named one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// The port, if the route named one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl ParentReference {
    /// A Gateway as a whole: the ancestor of what policies and backends concern.
    pub fn gateway(namespace: &str, name: &str) -> Self {
        Self {
            group: GATEWAY_GROUP.into(),
            kind: "Gateway".into(),
            namespace: Some(namespace.to_owned()),
            name: name.to_owned(),
            section_name: None,
            port: None,
        }
    }
}

/// What a Gateway makes of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AncestorStatus {
    /// The Gateway.
    pub ancestor_ref: ParentReference,
    /// Whose verdict this is.
    pub controller_name: String,
    /// `Accepted` and `ResolvedRefs`.
    pub conditions: Vec<Condition>,
}

/// The status of every object of ours.
#[derive(Debug, Default)]
pub struct Statuses {
    controller_name: String,
    objects: BTreeMap<ObjectRef, Status>,
}

#[derive(Serialize)]
struct Entry<'a> {
    object: &'a ObjectRef,
    status: &'a Status,
}

impl Statuses {
    /// No status yet.
    pub fn new(controller_name: &str) -> Self {
        Self { controller_name: controller_name.to_owned(), objects: BTreeMap::new() }
    }

    /// Whose verdicts these are.
    pub fn controller_name(&self) -> &str {
        &self.controller_name
    }

    /// Sets the status of an object.
    pub fn set(&mut self, object: ObjectRef, status: Status) {
        self.objects.insert(object, status);
    }

    /// The status of an object.
    pub fn get(&self, object: &ObjectRef) -> Option<&Status> {
        self.objects.get(object)
    }

    /// All, in the order of group, kind, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectRef, &Status)> {
        self.objects.iter()
    }
}

impl Serialize for Statuses {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.objects.iter().map(|(object, status)| Entry { object, status }))
    }
}

/// A condition that holds.
pub fn holds(kind: &'static str, reason: &'static str, generation: Option<i64>) -> Condition {
    Condition { kind, status: "True", reason, message: String::new(), observed_generation: generation }
}

/// `Programmed` before any Envoy has acknowledged.
pub fn pending(generation: Option<i64>) -> Condition {
    let message = "waiting for Envoy to acknowledge the configuration".to_owned();
    Condition {
        kind: "Programmed",
        status: "Unknown",
        reason: "Pending",
        message,
        observed_generation: generation,
    }
}

/// A condition that a diagnostic makes false, or true where the condition is bad news by itself.
pub fn fails(kind: &'static str, reason: &'static str, message: &str, generation: Option<i64>) -> Condition {
    let status =
        if matches!(kind, "Conflicted" | "PartiallyInvalid" | "Overridden") { "True" } else { "False" };
    Condition { kind, status, reason, message: message.to_owned(), observed_generation: generation }
}

/// `kind` as the diagnostics decide it: the first that speaks of it makes it false, otherwise it holds.
pub fn decide<'a>(
    kind: &'static str,
    good: &'static str,
    diagnostics: impl IntoIterator<Item = &'a Diagnostic>,
    verdict: impl Fn(&Diagnostic) -> Option<(&'static str, &'static str)>,
    generation: Option<i64>,
) -> Condition {
    diagnostics
        .into_iter()
        .find_map(|diagnostic| {
            let (about, reason) = verdict(diagnostic)?;
            (about == kind).then(|| fails(kind, reason, &diagnostic.message, generation))
        })
        .unwrap_or_else(|| holds(kind, good, generation))
}

/// What a diagnostic says about a route at one parent: condition type and reason (HTTPRoute `RouteConditionReason`).
pub fn of_route(diagnostic: &Diagnostic) -> Option<(&'static str, &'static str)> {
    let code = diagnostic.code;
    Some(match code.id {
        id if id == semantic::NO_MATCHING_PARENT.id => ("Accepted", "NoMatchingParent"),
        id if id == semantic::NOT_ALLOWED_BY_LISTENERS.id => ("Accepted", "NotAllowedByListeners"),
        id if id == semantic::NO_MATCHING_HOSTNAME.id => ("Accepted", "NoMatchingListenerHostname"),
        id if id == semantic::ROUTE_KIND_UNSUPPORTED.id => ("Accepted", "UnsupportedValue"),
        id if id == semantic::BACKEND_NOT_FOUND.id => ("ResolvedRefs", "BackendNotFound"),
        id if id == semantic::EXTERNAL_NAME_REFUSED.id => ("ResolvedRefs", "BackendNotFound"),
        id if id == semantic::BACKEND_UNUSABLE.id => ("ResolvedRefs", "BackendNotFound"),
        id if id == semantic::REF_NOT_PERMITTED.id => ("ResolvedRefs", "RefNotPermitted"),
        id if id == semantic::INVALID_KIND.id => ("ResolvedRefs", "InvalidKind"),
        id if id == semantic::UNSUPPORTED_VALUE.id => ("PartiallyInvalid", "UnsupportedValue"),
        id if id == semantic::REGEX_INVALID.id => ("PartiallyInvalid", "UnsupportedValue"),
        _ => return None,
    })
}

/// What a diagnostic says about a listener (`ListenerConditionReason`).
pub fn of_listener(diagnostic: &Diagnostic) -> Option<(&'static str, &'static str)> {
    let code = diagnostic.code;
    Some(match code.id {
        id if id == semantic::UNSUPPORTED_PROTOCOL.id => ("Accepted", "UnsupportedProtocol"),
        id if id == semantic::UNSUPPORTED_VALUE.id => ("Accepted", "UnsupportedValue"),
        id if id == semantic::HOSTNAME_IS_ADDRESS.id => ("Accepted", "UnsupportedValue"),
        id if id == semantic::LISTENER_CONFLICT.id => ("Conflicted", "HostnameConflict"),
        id if id == semantic::INVALID_ROUTE_KINDS.id => ("ResolvedRefs", "InvalidRouteKinds"),
        id if id == semantic::REF_NOT_PERMITTED.id => ("ResolvedRefs", "RefNotPermitted"),
        id if id == semantic::CLIENT_CA_KIND.id => ("ResolvedRefs", "InvalidCACertificateKind"),
        id if id == semantic::CLIENT_CA_INVALID.id => ("ResolvedRefs", "InvalidCACertificateRef"),
        id if id == semantic::NO_CLIENT_CA.id => ("Accepted", "NoValidCACertificate"),
        // Services that a filter asks.
        id if id == semantic::INVALID_KIND.id && is_of_filter(diagnostic) => ("ResolvedRefs", "InvalidKind"),
        id if id == semantic::BACKEND_NOT_FOUND.id => ("ResolvedRefs", "BackendNotFound"),
        id if id == semantic::EXTERNAL_NAME_REFUSED.id => ("ResolvedRefs", "BackendNotFound"),
        id if id == semantic::BACKEND_UNUSABLE.id => ("ResolvedRefs", "BackendNotFound"),
        id if id == semantic::INVALID_KIND.id => ("ResolvedRefs", "InvalidCertificateRef"),
        id if id == semantic::INVALID_CERTIFICATE.id => ("ResolvedRefs", "InvalidCertificateRef"),
        id if id == semantic::TLS_REQUIRED.id => ("ResolvedRefs", "InvalidCertificateRef"),
        _ => return None,
    })
}

fn is_of_filter(diagnostic: &Diagnostic) -> bool {
    diagnostic.field.segments().iter().any(|step| matches!(step, Segment::Key(key) if &**key == "filters"))
}

/// What a diagnostic says about a reference of a Gateway itself (`GatewayConditionReason`).
pub fn of_gateway(diagnostic: &Diagnostic) -> Option<(&'static str, &'static str)> {
    Some(match diagnostic.code.id {
        id if id == semantic::REF_NOT_PERMITTED.id => ("ResolvedRefs", "RefNotPermitted"),
        id if id == semantic::INVALID_KIND.id => ("ResolvedRefs", "InvalidClientCertificateRef"),
        id if id == semantic::INVALID_CERTIFICATE.id => ("ResolvedRefs", "InvalidClientCertificateRef"),
        _ => return None,
    })
}
