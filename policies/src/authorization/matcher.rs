//! Rules with expressions: Envoy evaluates them one after the other, and the first that fits decides. One that cannot be
//! evaluated does not fit, whatever it would do (Envoy Gateway: "treated as no match").

use super::messages::{CelMatcher, HttpAttributesCelMatchInput};
use crate::lowering::any;
use envoy_types::pb::cel::expr::ParsedExpr;
use envoy_types::pb::envoy::config::rbac::v3::rbac::Action as Verdict;
use envoy_types::pb::envoy::config::rbac::v3::{Action, Principal, principal};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::extensions::matching::common_inputs::network::v3::dynamic_metadata_input;
use envoy_types::pb::envoy::extensions::matching::common_inputs::network::v3::{
    DynamicMetadataInput, SourceIpInput,
};
use envoy_types::pb::envoy::extensions::matching::input_matchers::ip::v3::Ip;
use envoy_types::pb::envoy::extensions::matching::input_matchers::metadata::v3::Metadata;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    HttpRequestHeaderMatchInput, MetadataMatcher, metadata_matcher,
};
use envoy_types::pb::xds::core::v3::TypedExtensionConfig;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_list::predicate::{
    MatchType, PredicateList, SinglePredicate, single_predicate,
};
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_list::{FieldMatcher, Predicate};
use envoy_types::pb::xds::r#type::matcher::v3::matcher::{MatcherList, MatcherType, OnMatch, on_match};
use envoy_types::pb::xds::r#type::matcher::v3::regex_matcher::{EngineType, GoogleRe2};
use envoy_types::pb::xds::r#type::matcher::v3::{Matcher, RegexMatcher, StringMatcher, string_matcher};
use envoy_types::pb::xds::r#type::v3::CelExpression;
use prost::{Message, Name};

/// One rule: whether it allows, whom it fits, and the expression that must be true.
pub(super) struct Rule {
    pub(super) allows: bool,
    pub(super) fits: Option<Principal>,
    pub(super) expression: Option<ParsedExpr>,
}

/// The rules in their order; none if something in them has no counterpart.
pub(super) fn matcher(rules: Vec<Rule>, by_default: bool) -> Option<Matcher> {
    let mut matchers = Vec::new();
    for Rule { allows, fits, expression } in rules {
        let fits = fits.map(|fits| predicate(&fits));
        let all = fits.into_iter().chain(expression.map(|expression| Some(cel(expression))));
        let all = all.collect::<Option<Vec<_>>>()?;
        let predicate = Some(together(all, MatchType::AndMatcher)?);
        matchers.push(FieldMatcher { predicate, on_match: Some(verdict(allows)) });
    }
    Some(Matcher {
        on_no_match: Some(Box::new(verdict(by_default))),
        matcher_type: (!matchers.is_empty()).then_some(MatcherType::MatcherList(MatcherList { matchers })),
    })
}

fn verdict(allows: bool) -> OnMatch {
    let (name, action) = if allows { ("allow", Verdict::Allow) } else { ("deny", Verdict::Deny) };
    let action = Action { name: name.to_owned(), action: action.into() };
    OnMatch { on_match: Some(on_match::OnMatch::Action(extension(name, &action))), ..Default::default() }
}

fn extension<M: Message + Name>(name: &str, message: &M) -> TypedExtensionConfig {
    TypedExtensionConfig { name: name.to_owned(), typed_config: Some(any(message)) }
}

/// Several as one: Envoy takes lists of two and more only.
fn together(mut all: Vec<Predicate>, how: fn(PredicateList) -> MatchType) -> Option<Predicate> {
    if all.len() < 2 {
        return all.pop();
    }
    Some(Predicate { match_type: Some(how(PredicateList { predicate: all })) })
}

fn predicate(principal: &Principal) -> Option<Predicate> {
    let several = |set: &principal::Set| set.ids.iter().map(predicate).collect::<Option<Vec<_>>>();
    match principal.identifier.as_ref()? {
        principal::Identifier::AndIds(set) => together(several(set)?, MatchType::AndMatcher),
        principal::Identifier::OrIds(set) => together(several(set)?, MatchType::OrMatcher),
        principal::Identifier::NotId(inner) => {
            let inner = Box::new(predicate(inner)?);
            Some(Predicate { match_type: Some(MatchType::NotMatcher(inner)) })
        }
        principal::Identifier::Header(found) => {
            let HeaderMatchSpecifier::StringMatch(text) = found.header_match_specifier.as_ref()? else {
                return None;
            };
            let pattern = match text.match_pattern.as_ref()? {
                MatchPattern::Exact(value) => string_matcher::MatchPattern::Exact(value.clone()),
                MatchPattern::SafeRegex(found) => string_matcher::MatchPattern::SafeRegex(RegexMatcher {
                    regex: found.regex.clone(),
                    engine_type: Some(EngineType::GoogleRe2(GoogleRe2 {})),
                }),
                _ => return None,
            };
            let value = StringMatcher { match_pattern: Some(pattern), ignore_case: text.ignore_case };
            Some(header_of(&found.name, value))
        }
        principal::Identifier::RemoteIp(range) => {
            let ip = Ip { cidr_ranges: vec![range.clone()], stat_prefix: "client".into() };
            Some(single("client", &SourceIpInput {}, custom("ip", &ip)))
        }
        principal::Identifier::SourcedMetadata(sourced) => claim(sourced.metadata_matcher.as_ref()?),
        _ => None,
    }
}

/// What a token says.
fn claim(found: &MetadataMatcher) -> Option<Predicate> {
    let path = found.path.iter().map(|step| {
        let metadata_matcher::path_segment::Segment::Key(key) = step.segment.as_ref()?;
        let segment = dynamic_metadata_input::path_segment::Segment::Key(key.clone());
        Some(dynamic_metadata_input::PathSegment { segment: Some(segment) })
    });
    let path = path.collect::<Option<Vec<_>>>()?;
    let input = DynamicMetadataInput { filter: found.filter.clone(), path };
    let value = Metadata { value: found.value.clone(), invert: false };
    Some(single("claim", &input, custom("claim", &value)))
}

fn single<M: Message + Name>(name: &str, input: &M, matcher: single_predicate::Matcher) -> Predicate {
    let single = SinglePredicate { input: Some(extension(name, input)), matcher: Some(matcher) };
    Predicate { match_type: Some(MatchType::SinglePredicate(single)) }
}

fn custom<M: Message + Name>(name: &str, matcher: &M) -> single_predicate::Matcher {
    single_predicate::Matcher::CustomMatch(extension(name, matcher))
}

fn header_of(name: &str, value: StringMatcher) -> Predicate {
    let input = HttpRequestHeaderMatchInput { header_name: name.to_owned() };
    single("header", &input, single_predicate::Matcher::ValueMatch(value))
}

fn cel(expression: ParsedExpr) -> Predicate {
    let expression = CelExpression { cel_expr_parsed: Some(expression), ..Default::default() };
    let matcher = CelMatcher { expr_match: Some(expression), description: String::new() };
    single("expression", &HttpAttributesCelMatchInput {}, custom("expression", &matcher))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use crate::lowering::testing;
    use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::RbacPerRoute;

    fn compiled(rules: &str) -> crate::Compiled {
        let spec = format!(r#"{{"authorization": {{"rules": {rules}, "defaultAction": "Deny"}}}}"#);
        testing::compile(Kind::Security, &spec)
    }

    fn lowered(rules: &str) -> Matcher {
        let compiled = compiled(rules);
        assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
        let own: RbacPerRoute = testing::filter(&compiled, "authorization", super::super::NAME);
        let rbac = own.rbac.unwrap();
        assert!(rbac.rules.is_none(), "rules would come first");
        rbac.matcher.unwrap()
    }

    /// A predicate in words.
    fn shown(found: &Predicate) -> String {
        let list = |list: &PredicateList, how: &str| {
            format!("({})", list.predicate.iter().map(shown).collect::<Vec<_>>().join(how))
        };
        match found.match_type.as_ref().unwrap() {
            MatchType::AndMatcher(all) => list(all, " and "),
            MatchType::OrMatcher(any) => list(any, " or "),
            MatchType::NotMatcher(inner) => format!("not {}", shown(inner)),
            MatchType::SinglePredicate(single) => {
                let input = single.input.as_ref().unwrap();
                match single.matcher.as_ref().unwrap() {
                    single_predicate::Matcher::ValueMatch(text) => {
                        let bytes = &input.typed_config.as_ref().unwrap().value;
                        let name = HttpRequestHeaderMatchInput::decode(bytes.as_slice()).unwrap().header_name;
                        match text.match_pattern.as_ref().unwrap() {
                            string_matcher::MatchPattern::Exact(text) => format!("{name}={text}"),
                            string_matcher::MatchPattern::SafeRegex(found) => {
                                assert!(found.engine_type.is_some(), "Envoy wants one");
                                format!("{name}~{}", found.regex)
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                    single_predicate::Matcher::CustomMatch(custom) => custom.name.clone(),
                }
            }
        }
    }

    #[test]
    fn each_rule_is_tried_in_turn_and_all_of_it_must_fit() {
        let found = lowered(
            r#"[{"action": "Deny", "cel": "request.path == '/x'"},
                {"action": "Allow", "cel": "true", "operation": {"methods": ["GET", "PUT"], "path": {"value": "/a"}},
                 "principal": {"clientCIDRs": ["10.0.0.0/8"], "jwt": {"provider": "p", "scopes": ["s"], "claims": [{"name": "n", "values": ["v"]}]}}},
                {"action": "Allow", "operation": {"path": {"type": "Exact", "value": "/b", "invert": true}}},
                {"action": "Deny", "operation": {"path": {"type": "RegularExpression", "value": "/c(\\?.*)?"}}}]"#,
        );
        let Some(MatcherType::MatcherList(list)) = found.matcher_type else { panic!("a list") };
        let name = |on: &OnMatch| match on.on_match.as_ref().unwrap() {
            on_match::OnMatch::Action(action) => action.name.clone(),
            on_match::OnMatch::Matcher(_) => panic!("an action"),
        };
        let rules: Vec<String> = list
            .matchers
            .iter()
            .map(|one| {
                format!(
                    "{}: {}",
                    name(one.on_match.as_ref().unwrap()),
                    shown(one.predicate.as_ref().unwrap())
                )
            })
            .collect();
        assert_eq!(
            rules,
            [
                "deny: expression",
                "allow: (((:method=GET or :method=PUT) and :path~\\/a([/;?#]\\C*)? and ip and claim and (claim or claim)) and expression)",
                "allow: not :path~\\/b([;?#]\\C*)?",
                "deny: :path~/c(\\?.*)?",
            ]
        );
        assert_eq!(name(found.on_no_match.as_ref().unwrap()), "deny");
    }

    #[test]
    fn what_cannot_be_said_beside_an_expression_closes() {
        for (rules, said) in [
            (r#"[{"action": "Allow", "cel": "not CEL"}]"#, "MG4002 spec.authorization.rules[0].cel"),
            (
                r#"[{"action": "Allow", "cel": "true"},
                    {"action": "Deny", "operation": {"path": {"type": "RegularExpression", "value": "/a(b"}}}]"#,
                "MG4002 spec.authorization.rules[1].operation.path.value",
            ),
        ] {
            let compiled = compiled(rules);
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said.to_owned()], true), "{rules}");
        }
    }
}
