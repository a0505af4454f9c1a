//! Who may do what, by address, headers, method, path and claims (SecurityPolicy `authorization`).

mod matcher;
mod messages;
mod ranges;

pub(crate) use ranges::cidr;

use crate::client_location::{self, Location};
use crate::{About, Capability, Effect, Kind, Lowering, jwt, paths, place};
use envoy_types::pb::envoy::config::rbac::v3::{
    Permission, Policy, Principal, Rbac as Rules, SourcedMetadata, permission, principal,
};
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::{Rbac, RbacPerRoute};
use envoy_types::pb::envoy::r#type::matcher::v3::{
    ListMatcher, MetadataMatcher, RegexMatcher, StringMatcher, ValueMatcher, list_matcher, metadata_matcher,
    string_matcher::MatchPattern, value_matcher,
};
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct Authorization;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    authorization: Option<Rights>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rights {
    #[serde(default)]
    rules: Vec<Rule>,
    default_action: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Rule {
    action: String,
    operation: Option<Operation>,
    principal: Option<Who>,
    cel: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Operation {
    #[serde(default)]
    methods: Vec<String>,
    path: Option<PathMatch>,
}

#[derive(Debug, Deserialize)]
struct PathMatch {
    #[serde(rename = "type")]
    kind: Option<String>,
    value: String,
    invert: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Who {
    #[serde(default, rename = "clientCIDRs")]
    addresses: Vec<String>,
    jwt: Option<Token>,
    #[serde(default)]
    headers: Vec<Header>,
    #[serde(default, rename = "clientIPGeoLocations")]
    locations: Vec<Location>,
}

#[derive(Debug, Deserialize)]
struct Token {
    provider: String,
    #[serde(default)]
    claims: Vec<Claim>,
    #[serde(default)]
    scopes: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claim {
    name: String,
    value_type: Option<String>,
    values: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Header {
    name: String,
    values: Vec<String>,
}

const NAME: &str = "envoy.filters.http.rbac";
/// How often rules may change between Allow and Deny: each change is a level of Envoy's tree.
const MOST_CHANGES: usize = 32;

impl Capability for Authorization {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "authorization",
        kind: Kind::Security,
        fields: &["authorization"],
        except: &[],
        since: "0.1.0",
        docs: "\
The first rule that fits a request allows or denies it, otherwise defaultAction does (Deny). A rule fits if everything in it does: \
principal.clientCIDRs, principal.clientIPGeoLocations (see client_location), principal.headers, principal.jwt (claims and scopes of a \
provider of jwt), operation.methods, operation.path, cel (an expression that must be true). An expression may speak of request, source, destination, connection, metadata, \
filter_state and xds, as Envoy's attributes are called; one that Envoy could not build, for lack of such a name or function, closes the \
policy, and one that cannot be evaluated for a request, because what it speaks of is not there, does not fit it. A path is \
looked at without a query and parameters (;), but for the type RegularExpression, which has to fit all of it (/a(\\?.*)?). What is denied is answered with 403. \
On a TCPRoute or TLSRoute, rules that speak of clientCIDRs alone decide about connections: what is denied is closed before a backend \
hears of it. Other rules close such a route, and any close a UDPRoute.",
        effect: Effect::Filter {
            name: NAME,
            place: place::AUTHORIZATION,
            why: "it decides by address, headers and claims, behind everything that finds these out",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(rights) = &spec.authorization else { return };
        let at = FieldPath::parse("spec.authorization");
        let mut rules = Vec::new();
        for (index, rule) in rights.rules.iter().enumerate() {
            let at = at.key("rules").index(index);
            let Some(allows) = allows(&rule.action, &at.key("action"), cx) else { return };
            let Some(fits) = fits(rule, &at, cx) else { return };
            let expression = rule.cel.as_ref().map(|text| cx.cel(&at.key("cel"), text));
            if expression == Some(None) {
                return;
            }
            let fits = (!fits.is_empty()).then(|| all_of(fits));
            rules.push(matcher::Rule { allows, fits, expression: expression.flatten() });
        }
        let by_default = match &rights.default_action {
            Some(action) => allows(action, &at.key("defaultAction"), cx),
            None => Some(false),
        };
        let Some(by_default) = by_default else { return };
        if let Some(connections) = ranges::by_address(&rights.rules, by_default) {
            cx.connections(connections);
        }
        if rules.iter().any(|rule| rule.expression.is_some()) {
            let Some(matcher) = matcher::matcher(rules, by_default) else {
                return cx.invalid(at.key("rules"), "something in them cannot be asked beside an expression");
            };
            let own = RbacPerRoute { rbac: Some(Rbac { matcher: Some(matcher), ..Default::default() }) };
            return cx.filter((NAME, place::AUTHORIZATION), &Rbac::default(), &own);
        }
        let rules: Vec<(bool, Principal)> =
            rules.into_iter().filter_map(|rule| Some((rule.allows, rule.fits?))).collect();
        let changes = rules.windows(2).filter(|pair| matches!(pair, [(a, _), (b, _)] if a != b));
        if changes.count() > MOST_CHANGES {
            return cx.unsupported(at.key("rules"), "the rules change too often between Allow and Deny");
        }
        let allowed = allowed(rules, by_default);
        let permission = Permission { rule: Some(permission::Rule::Any(true)) };
        let policy =
            Policy { permissions: vec![permission], principals: vec![allowed], ..Default::default() };
        let rules = Rules { policies: [("rules".to_owned(), policy)].into(), ..Default::default() };
        let own = RbacPerRoute { rbac: Some(Rbac { rules: Some(rules), ..Default::default() }) };
        cx.filter((NAME, place::AUTHORIZATION), &Rbac::default(), &own);
    }
}

fn allows(action: &str, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<bool> {
    match action {
        "Allow" => Some(true),
        "Deny" => Some(false),
        other => {
            cx.invalid(at.clone(), &format!("action {other:?} is neither Allow nor Deny"));
            None
        }
    }
}

/// Whom the rules allow, the first that fits deciding. From the last rule back: whoever an Allow fits, or the rest allows;
/// whoever no Deny fits, and the rest allows. Neighbours of one action share a level.
fn allowed(rules: Vec<(bool, Principal)>, by_default: bool) -> Principal {
    let anybody = id(principal::Identifier::Any(true));
    let mut rest = if by_default { anybody } else { not(anybody) };
    let mut groups: Vec<(bool, Vec<Principal>)> = Vec::new();
    for (allows, fits) in rules {
        match groups.last_mut().filter(|(action, _)| *action == allows) {
            Some((_, group)) => group.push(fits),
            None => groups.push((allows, vec![fits])),
        }
    }
    for (allows, mut group) in groups.into_iter().rev() {
        rest = if allows {
            group.push(rest);
            any_of(group)
        } else {
            all_of(group.into_iter().map(not).chain([rest]).collect())
        };
    }
    rest
}

fn id(identifier: principal::Identifier) -> Principal {
    Principal { identifier: Some(identifier) }
}

pub(crate) fn not(principal: Principal) -> Principal {
    id(principal::Identifier::NotId(Box::new(principal)))
}

pub(crate) fn any_of(ids: Vec<Principal>) -> Principal {
    id(principal::Identifier::OrIds(principal::Set { ids }))
}

pub(crate) fn all_of(ids: Vec<Principal>) -> Principal {
    id(principal::Identifier::AndIds(principal::Set { ids }))
}

/// Whom a rule fits, all of it; nothing if it cannot be said.
fn fits(rule: &Rule, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Vec<Principal>> {
    let mut all = Vec::new();
    if let Some(operation) = &rule.operation {
        if !operation.methods.is_empty() {
            all.push(any_of(operation.methods.iter().map(|method| self::method(method)).collect()));
        }
        if let Some(path) = &operation.path {
            all.push(self::path(path, &at.key("operation").key("path"), cx)?);
        }
    }
    if let Some(who) = &rule.principal {
        let at = at.key("principal");
        if !who.addresses.is_empty() {
            let mut ranges = Vec::new();
            for (index, text) in who.addresses.iter().enumerate() {
                let Some(range) = cidr(text) else {
                    cx.invalid(
                        at.key("clientCIDRs").index(index),
                        &format!("{text:?} is no range of addresses"),
                    );
                    return None;
                };
                ranges.push(id(principal::Identifier::RemoteIp(range)));
            }
            all.push(any_of(ranges));
        }
        if !who.locations.is_empty() {
            all.push(client_location::fits(&who.locations, &at.key("clientIPGeoLocations"), cx)?);
        }
        for (index, found) in who.headers.iter().enumerate() {
            let at = at.key("headers").index(index);
            if found.values.is_empty() {
                cx.invalid(at, "a header has no value that fits");
                return None;
            }
            if !cx.header_name(at.key("name"), &found.name) {
                return None;
            }
            let name = found.name.to_ascii_lowercase();
            all.push(any_of(found.values.iter().map(|value| header(&name, value)).collect()));
        }
        if let Some(claims) = &who.jwt {
            let named =
                |claim: &Claim| !claim.values.is_empty() && claim.name.split('.').all(|key| !key.is_empty());
            if claims.provider.is_empty() || !claims.claims.iter().all(named) {
                cx.invalid(at.key("jwt"), "a claim needs a name and a value that fits");
                return None;
            }
            self::claims(claims, &mut all);
        }
    }
    if all.is_empty() && rule.cel.is_none() {
        // It would fit everybody, and nobody writes that on purpose.
        cx.invalid(at.clone(), "the rule has no condition that this version knows");
        return None;
    }
    Some(all)
}

fn text(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { match_pattern: Some(pattern), ..Default::default() }
}

fn header(name: &str, value: &str) -> Principal {
    header_of(name, text(MatchPattern::Exact(value.to_owned())))
}

/// Whatever case it is written in, as in Envoy Gateway: a backend may take `get` for `GET`.
fn method(name: &str) -> Principal {
    header_of(":method", StringMatcher { ignore_case: true, ..text(MatchPattern::Exact(name.to_owned())) })
}

/// Whose header is as a matcher says.
pub(crate) fn header_of(name: &str, value: StringMatcher) -> Principal {
    id(principal::Identifier::Header(HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(value)),
        ..Default::default()
    }))
}

/// A path, without what servers do not look at; an expression sees all of it, as in Envoy Gateway.
fn path(found: &PathMatch, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Principal> {
    let own = |regex| MatchPattern::SafeRegex(RegexMatcher { regex, engine_type: None });
    let pattern = match found.kind.as_deref() {
        Some("Exact") => own(paths::exact(&found.value)),
        Some("RegularExpression") => cx.expression(at.key("value"), &found.value)?,
        // Whole segments, as in a route.
        None | Some("PathPrefix") => own(paths::below(&found.value)),
        Some(other) => {
            cx.invalid(at.key("type"), &format!("a path cannot be matched by {other}"));
            return None;
        }
    };
    let fits = header_of(":path", text(pattern));
    Some(if found.invert == Some(true) { not(fits) } else { fits })
}

/// What a token must say: one of the values of each claim, and every scope.
fn claims(found: &Token, all: &mut Vec<Principal>) {
    let metadata = |name: &str, value: ValueMatcher| {
        let keys = [found.provider.as_str()].into_iter().chain(name.split('.'));
        let path = keys.map(|key| metadata_matcher::PathSegment {
            segment: Some(metadata_matcher::path_segment::Segment::Key(key.to_owned())),
        });
        let matcher = MetadataMatcher {
            filter: jwt::NAME.into(),
            path: path.collect(),
            value: Some(value),
            invert: false,
        };
        // Of a request, which is the default.
        let sourced = SourcedMetadata { metadata_matcher: Some(matcher), ..Default::default() };
        id(principal::Identifier::SourcedMetadata(sourced))
    };
    let exact = |value: &str| {
        let matcher = text(MatchPattern::Exact(value.to_owned()));
        ValueMatcher { match_pattern: Some(value_matcher::MatchPattern::StringMatch(matcher)) }
    };
    let listed = |value: &str| {
        let one = list_matcher::MatchPattern::OneOf(Box::new(exact(value)));
        let list = ListMatcher { match_pattern: Some(one) };
        ValueMatcher { match_pattern: Some(value_matcher::MatchPattern::ListMatch(Box::new(list))) }
    };
    for claim in &found.claims {
        let list = claim.value_type.as_deref() == Some("StringArray");
        let one = |value: &String| {
            let as_text = || metadata(&claim.name, exact(value));
            let in_list = || metadata(&claim.name, listed(value));
            match (list, jwt::SCOPES.contains(&claim.name.as_str())) {
                (true, _) => in_list(),
                // Words between spaces are a list by now.
                (false, true) => any_of(vec![as_text(), in_list()]),
                (false, false) => as_text(),
            }
        };
        all.push(any_of(claim.values.iter().map(one).collect()));
    }
    let scope = |scope: &String| any_of(jwt::SCOPES.map(|claim| metadata(claim, listed(scope))).to_vec());
    all.extend(found.scopes.iter().map(scope));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;
    use std::collections::BTreeMap;

    fn compiled(rules: &str, default: &str) -> crate::Compiled {
        let spec = format!(r#"{{"authorization": {{"rules": {rules}, "defaultAction": "{default}"}}}}"#);
        testing::compile(Kind::Security, &spec)
    }

    fn tree(rules: &str, default: &str) -> Principal {
        let compiled = compiled(rules, default);
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let own: RbacPerRoute = testing::filter(&compiled, "authorization", NAME);
        own.rbac.unwrap().rules.unwrap().policies["rules"].principals[0].clone()
    }

    /// Reads the tree as Envoy does, with headers only.
    fn passes(tree: &Principal, request: &BTreeMap<&str, &str>) -> bool {
        match tree.identifier.as_ref().unwrap() {
            principal::Identifier::Any(any) => *any,
            principal::Identifier::NotId(inner) => !passes(inner, request),
            principal::Identifier::OrIds(set) => set.ids.iter().any(|id| passes(id, request)),
            principal::Identifier::AndIds(set) => set.ids.iter().all(|id| passes(id, request)),
            principal::Identifier::Header(header) => {
                let Some(HeaderMatchSpecifier::StringMatch(wanted)) = &header.header_match_specifier else {
                    panic!("a text")
                };
                let Some(MatchPattern::Exact(wanted)) = &wanted.match_pattern else { panic!("exact") };
                request.get(header.name.as_str()) == Some(&wanted.as_str())
            }
            other => panic!("{other:?}"),
        }
    }

    /// All ways to answer four questions with rules of every action, against first come, first served.
    #[test]
    fn the_first_rule_that_fits_decides() {
        let names = ["a", "b", "c", "d"];
        for actions in 0..16_u32 {
            for default in ["Allow", "Deny"] {
                let action = |index: usize| if actions >> index & 1 == 1 { "Allow" } else { "Deny" };
                let rules: Vec<String> = names
                    .iter()
                    .enumerate()
                    .map(|(index, name)| {
                        let action = action(index);
                        format!(r#"{{"action": "{action}", "principal": {{"headers": [{{"name": "{name}", "values": ["1"]}}]}}}}"#)
                    })
                    .collect();
                let tree = tree(&format!("[{}]", rules.join(",")), default);
                for bits in 0..16_u32 {
                    let set = |index: usize| bits >> index & 1 == 1;
                    let request: BTreeMap<&str, &str> =
                        (0..4).filter(|index| set(*index)).map(|index| (names[index], "1")).collect();
                    let first = (0..4).find(|index| set(*index)).map_or(default, action);
                    assert_eq!(passes(&tree, &request), first == "Allow", "{actions:b} {default} {bits:b}");
                }
            }
        }
    }

    #[test]
    fn addresses_methods_paths_and_claims() {
        let rule = r#"[{"action": "Allow", "operation": {"methods": ["GET", "PUT"], "path": {"value": "/a/", "invert": true}},
            "principal": {"clientCIDRs": ["10.0.0.0/8", "::1"], "jwt": {"provider": "p", "scopes": ["s"],
            "claims": [{"name": "x.y", "valueType": "StringArray", "values": ["v"]}]}}}]"#;
        let text = format!("{:?}", tree(rule, "Deny"));
        for part in [":method", "10.0.0.0", "::1", ":path", "\"p\"", "\"x\"", "\"y\"", "\"scope\"", "\"scp\""]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    /// What a token says of its scopes is a list by then, whatever a rule takes it for.
    #[test]
    fn a_claim_of_scopes_is_looked_for_in_the_list_too() {
        for (name, kind, ways) in
            [("scp", "String", 2), ("scope", "String", 2), ("scp", "StringArray", 1), ("role", "String", 1)]
        {
            let rule = format!(
                r#"[{{"action": "Deny", "principal": {{"jwt": {{"provider": "p", "claims": [{{"name": "{name}", "valueType": "{kind}", "values": ["guest"]}}]}}}}}}]"#
            );
            let text = format!("{:?}", tree(&rule, "Allow"));
            assert_eq!(text.matches("\"guest\"").count(), ways, "{text}");
        }
    }

    /// As in Envoy Gateway: an expression sees the query, and the others let anything stand behind that servers take off.
    #[test]
    fn an_expression_sees_the_query() {
        let of = |kind: &str| {
            let rule = format!(
                r#"[{{"action": "Allow", "operation": {{"path": {{"type": "{kind}", "value": "/a"}}}}}}]"#
            );
            format!("{:?}", tree(&rule, "Deny"))
        };
        for (kind, regex) in
            [("RegularExpression", "/a"), ("Exact", r"\/a([;?#]\C*)?"), ("PathPrefix", r"\/a([/;?#]\C*)?")]
        {
            assert!(of(kind).contains(&format!("regex: {regex:?}")), "{}", of(kind));
        }
    }

    #[test]
    fn what_cannot_be_said_closes() {
        for (rule, said) in [
            (r#"[{"action": "Allow"}]"#, "MG4002 spec.authorization.rules[0]"),
            (
                r#"[{"action": "Log", "operation": {"methods": ["GET"]}}]"#,
                "MG4002 spec.authorization.rules[0].action",
            ),
            (
                r#"[{"action": "Allow", "principal": {"clientCIDRs": ["10.0.0.0/40"]}}]"#,
                "MG4002 spec.authorization.rules[0].principal.clientCIDRs[0]",
            ),
            (
                r#"[{"action": "Allow", "operation": {"path": {"type": "RegularExpression", "value": "("}}}]"#,
                "MG4002 spec.authorization.rules[0].operation.path.value",
            ),
            (
                r#"[{"action": "Allow", "principal": {"headers": [{"name": "a b", "values": ["c"]}]}}]"#,
                "MG4002 spec.authorization.rules[0].principal.headers[0].name",
            ),
            (
                r#"[{"action": "Allow", "principal": {"jwt": {"provider": "p", "claims": [{"name": "a..b", "values": ["c"]}]}}}]"#,
                "MG4002 spec.authorization.rules[0].principal.jwt",
            ),
        ] {
            let compiled = compiled(rule, "Allow");
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said.to_owned()], true), "{rule}");
        }
    }
}
