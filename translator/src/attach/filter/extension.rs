//! ExtensionRef: a filter that is an object of its own (`HTTPRouteFilter` of gateway.envoyproxy.io).

use super::{Context, Filters};
use crate::attach::spec::Filter;
use moorgate_model::diagnostic::semantic::{BACKEND_NOT_FOUND, UNSUPPORTED_VALUE};
use moorgate_model::ir::PolicySource;
use moorgate_model::{FieldPath, ObjectRef};
use moorgate_policies::{GROUP, Kind};

/// Whether a filter refers to an object of a kind that is known.
pub(super) fn is(filter: &Filter) -> bool {
    let found = filter.extension_ref.as_ref();
    found.is_some_and(|found| found.group == GROUP && found.kind == Kind::RouteFilter.name())
}

/// Adds what the object says. One that is not there, or cannot be carried out, is never passed over.
pub(super) fn lower(cx: &mut Context<'_, '_>, at: &FieldPath, filter: &Filter, out: &mut Filters) {
    let Some(named) = &filter.extension_ref else { return };
    let at = at.key("extensionRef");
    let own = ObjectRef::new(&named.group, &named.kind, &cx.route.reference.namespace, &named.name);
    let Some(found) = cx.policies.referred(&own) else {
        out.broken = true;
        let message = format!("{own} is not in this source");
        let finding = cx.route.diagnostic(&BACKEND_NOT_FOUND, at.key("name"), message);
        cx.findings.push(finding.help("requests that meet this filter are answered with 500"));
        return;
    };
    let Some(compiled) = found.as_ref().filter(|compiled| !compiled.closed) else {
        out.broken = true;
        let message = format!("{own} cannot be carried out");
        let finding = cx.route.diagnostic(&UNSUPPORTED_VALUE, at.key("name"), message);
        cx.findings.push(finding.help("see the diagnostic of that object; until then its rules answer 500"));
        return;
    };
    let added = compiled.together();
    if let Some(what) = conflict(cx, out, &added.rule) {
        out.broken = true;
        return cx.unsupported(at, format!("{own} cannot be used here: {what}"));
    }
    out.sources.push(PolicySource {
        object: own,
        field: FieldPath::root().key("spec"),
        target: format!("{} {at}", cx.route.reference),
        capabilities: compiled.parts.keys().copied().collect(),
        overridden_by: None,
    });
    out.extensions.add(&added);
}

/// What a rule cannot have twice, or a route of this kind not at all.
fn conflict(cx: &Context<'_, '_>, out: &Filters, added: &moorgate_policies::OfRule) -> Option<&'static str> {
    let has = &out.extensions.rule;
    if added.path && (has.path || out.path_rewrite.is_some()) {
        return Some("the rule rewrites the path already");
    }
    if added.host && (has.host || out.host_rewrite.is_some()) {
        return Some("the rule rewrites the host already");
    }
    if !added.cookies.is_empty() && !has.cookies.is_empty() {
        return Some("the rule asks for cookies already");
    }
    let answers = has.respond.is_some() || out.redirect.is_some();
    if added.respond.is_some() && answers {
        return Some("the rule answers requests already");
    }
    let grpc = &*cx.route.reference.kind == "GRPCRoute";
    if grpc && added.respond.is_some_and(|status| status < 300) {
        return Some("a status of 2xx is success without a message, which no client of gRPC understands");
    }
    None
}
