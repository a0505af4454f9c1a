//! Says who takes requests from whom, and holds it against the ownership file.

use crate::attach::Takes;
use crate::ownership::Ownership;
use moorgate_model::diagnostic::semantic::{MATCHES_NOT_COMPARED, REQUESTS_NOT_OWNED, TAKES_REQUESTS};
use moorgate_model::ir::RouteOrigin;
use moorgate_model::{Diagnostic, FieldPath, Object, ObjectRef, Severity};
use std::collections::BTreeMap;

/// One finding for each pair of objects. Equal conditions are reported already (MG3014), so of those only what the
/// ownership file forbids is said.
pub(super) fn findings(takes: &Takes, objects: &[Object], ownership: Option<&Ownership>) -> Vec<Diagnostic> {
    if takes.found.is_empty() && takes.unfinished.is_empty() {
        return Vec::new();
    }
    let by_name: BTreeMap<&ObjectRef, &Object> =
        objects.iter().map(|object| (&object.reference, object)).collect();
    let mut findings = Vec::new();
    for ((_, _, equal), take) in &takes.found {
        let (Some(winner), Some(loser)) = (by_name.get(&take.winner.object), by_name.get(&take.loser.object))
        else {
            continue;
        };
        let code = match ownership {
            Some(ownership) if ownership.allows(winner, take) => continue,
            Some(_) => &REQUESTS_NOT_OWNED,
            None if *equal => continue,
            None => &TAKES_REQUESTS,
        };
        let host = if take.host.is_empty() { "all hosts" } else { &take.host };
        let message = format!("this match takes requests for {host} that {} also matches", loser.reference);
        let place = loser.root.locate(&match_field(&take.loser)).start;
        let finding = winner.diagnostic(code, match_field(&take.winner), message);
        findings.push(finding.related(
            loser.origin.file.clone(),
            place,
            "this match would answer them otherwise",
        ));
    }
    for (host, origin) in &takes.unfinished {
        let Some(object) = by_name.get(&origin.object) else { continue };
        let message = format!("not all matches for {host} of different namespaces were compared");
        let mut finding = object.diagnostic(&MATCHES_NOT_COMPARED, match_field(origin), message);
        if ownership.is_some() {
            finding.severity = Severity::Error;
        }
        findings.push(finding);
    }
    findings
}

/// Codes whose errors keep back the fleets that their object names, although it is valid by itself.
pub(super) fn holds(diagnostic: &Diagnostic) -> bool {
    [REQUESTS_NOT_OWNED.id, MATCHES_NOT_COMPARED.id].contains(&diagnostic.code.id)
}

/// The field of a match.
fn match_field(origin: &RouteOrigin) -> FieldPath {
    let rule = FieldPath::root().key("spec").key("rules").index(origin.rule);
    rule.key("matches").index(origin.matched)
}
