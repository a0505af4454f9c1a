//! Responses in place of others (BackendTrafficPolicy `responseOverride`).

mod matched;

use crate::headers::{self, Changes, checked};
use crate::lowering::any;
use crate::{About, Capability, Effect, Kind, Lowering, operators, place};
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, HeaderValue, HeaderValueOption, SubstitutionFormatString, data_source,
};
use envoy_types::pb::envoy::config::route::v3::RedirectAction;
use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, SchemeRewriteSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::http::custom_response::v3::CustomResponse;
use envoy_types::pb::envoy::extensions::http::custom_response::local_response_policy::v3::LocalResponsePolicy;
use envoy_types::pb::envoy::extensions::http::custom_response::redirect_policy::v3::RedirectPolicy;
use envoy_types::pb::envoy::extensions::http::custom_response::redirect_policy::v3::redirect_policy::RedirectActionSpecifier;
use envoy_types::pb::google::protobuf::{Any, UInt32Value};
use envoy_types::pb::xds::core::v3::TypedExtensionConfig;
use envoy_types::pb::xds::r#type::matcher::v3::Matcher;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_list::FieldMatcher;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::{MatcherList, MatcherType, OnMatch, on_match};
use matched::Match;
use moorgate_model::FieldPath;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The capability.
pub(crate) struct ResponseOverride;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    #[serde(default)]
    response_override: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
struct Rule {
    #[serde(rename = "match")]
    matched: Match,
    response: Option<Response>,
    redirect: Option<Redirect>,
    source: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    content_type: Option<String>,
    body: Option<Body>,
    status_code: Option<u32>,
    header: Option<Changes>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    inline: Option<String>,
    value_ref: Option<Reference>,
}

#[derive(Debug, Deserialize)]
struct Reference {
    #[serde(default)]
    group: String,
    kind: String,
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Redirect {
    scheme: Option<String>,
    hostname: Option<String>,
    path: Option<Path>,
    port: Option<u32>,
    status_code: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Path {
    replace_full_path: Option<String>,
    replace_prefix_match: Option<IgnoredAny>,
}

const NAME: &str = "envoy.filters.http.custom_response";
/// What the API says where nothing is said of a redirect's status.
const FOUND: u32 = 302;

impl Capability for ResponseOverride {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "response_override",
        kind: Kind::BackendTraffic,
        fields: &["responseOverride"],
        except: &[
            "responseOverride.redirect.path.replacePrefixMatch",
            "responseOverride.response.header.remove",
        ],
        since: "0.3.0",
        docs: "\
The first rule whose match (statusCodes, by value or range; responseHeaders) fits a response replaces it: by response (statusCode, contentType, body, inline or from a ConfigMap's key \
response.body, header to set and add; Envoy's operators are filled in), or by what redirect leads to, which Envoy asks itself and answers with statusCode. source says whose \
responses: Backend, Local (those of Envoy itself) or All.",
        effect: Effect::Filter {
            name: NAME,
            place: place::CUSTOM_RESPONSE,
            why: "responses pass backwards: whoever gave one, also a filter that keeps a request out, it is replaced when all others have seen it",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let mut matchers = Vec::new();
        for (index, rule) in spec.response_override.iter().enumerate() {
            let at = FieldPath::parse("spec.responseOverride").index(index);
            let Some(predicate) = matched::predicate(&rule.matched, rule.source.as_deref(), &at, cx) else {
                return;
            };
            let action = match (&rule.response, &rule.redirect) {
                (Some(response), None) => self::response(response, &at.key("response"), cx),
                (None, Some(redirect)) => self::redirect(redirect, &at.key("redirect"), cx),
                _ => return cx.invalid(at, "a rule has either a response or a redirect"),
            };
            let Some(action) = action else { return };
            let action = TypedExtensionConfig { name: format!("rule-{index}"), typed_config: Some(action) };
            let on = OnMatch { on_match: Some(on_match::OnMatch::Action(action)), ..Default::default() };
            matchers.push(FieldMatcher { predicate: Some(predicate), on_match: Some(on) });
        }
        if matchers.is_empty() {
            return;
        }
        let list = Matcher {
            matcher_type: Some(MatcherType::MatcherList(MatcherList { matchers })),
            ..Default::default()
        };
        let own = CustomResponse { custom_response_matcher: Some(list) };
        cx.filter((NAME, place::CUSTOM_RESPONSE), &CustomResponse::default(), &own);
    }
}

fn response(found: &Response, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Any> {
    let mut out = LocalResponsePolicy::default();
    if let Some(code) = found.status_code {
        if !(200..600).contains(&code) {
            cx.invalid(at.key("statusCode"), "that is no status that Envoy answers with");
            return None;
        }
        out.status_code = Some(UInt32Value { value: code });
    }
    if let Some(body) = &found.body {
        let text = match (&body.inline, &body.value_ref) {
            (Some(text), None) => text.clone(),
            (None, Some(reference)) => {
                let at = at.key("body").key("valueRef");
                if !reference.group.is_empty() || reference.kind != "ConfigMap" {
                    cx.invalid(at.key("kind"), "a body is taken from a ConfigMap");
                    return None;
                }
                cx.config_map(&at.key("name"), &reference.name, &["response.body"])?
            }
            _ => {
                cx.invalid(at.key("body"), "a body is either inline or in a ConfigMap");
                return None;
            }
        };
        if let Err(why) = operators::check(&text) {
            cx.invalid(at.key("body"), &why);
            return None;
        }
        out.body_format = (!text.is_empty()).then(|| SubstitutionFormatString {
            format: Some(Format::TextFormatSource(inline(text))),
            ..Default::default()
        });
    }
    if let Some(kind) = found.content_type.as_deref().filter(|kind| !kind.is_empty()) {
        let value = checked(kind, &at.key("contentType"), cx)?;
        out.response_headers_to_add.push(HeaderValueOption {
            header: Some(HeaderValue { key: "content-type".into(), value, ..Default::default() }),
            append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
            ..Default::default()
        });
    }
    if let Some(changes) = &found.header {
        out.response_headers_to_add.extend(headers::options(changes, &at.key("header"), cx)?);
    }
    Some(any(&out))
}

fn inline(text: String) -> DataSource {
    DataSource { specifier: Some(data_source::Specifier::InlineString(text)), ..Default::default() }
}

fn redirect(found: &Redirect, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Any> {
    let scheme = found.scheme.as_deref();
    if scheme.is_some_and(|scheme| !["http", "https"].contains(&scheme)) {
        cx.invalid(at.key("scheme"), "a scheme is http or https");
        return None;
    }
    let code = found.status_code.unwrap_or(FOUND);
    if !(200..1000).contains(&code) {
        cx.invalid(at.key("statusCode"), "that is no status that Envoy answers with");
        return None;
    }
    let path = found.path.as_ref();
    if path.is_some_and(|path| path.replace_prefix_match.is_some()) {
        cx.unsupported(at.key("path").key("replacePrefixMatch"), "the path is replaced whole or not at all");
        return None;
    }
    let path = path.and_then(|path| path.replace_full_path.clone());
    if path.as_ref().is_some_and(|path| path.contains('#')) {
        cx.invalid(at.key("path").key("replaceFullPath"), "Envoy redirects to no fragment (#) of a page");
        return None;
    }
    let texts = path.iter().chain(&found.hostname);
    if texts.flat_map(|text| text.chars()).any(|letter| letter.is_control() || letter == ' ') {
        cx.invalid(at.clone(), "neither hostname nor path has spaces or line ends");
        return None;
    }
    if path.is_none() && found.hostname.is_none() {
        // Envoy refuses the whole table for it: it would ask the same again.
        cx.invalid(at.clone(), "a redirect names a hostname or a path");
        return None;
    }
    let action = RedirectAction {
        host_redirect: found.hostname.clone().unwrap_or_default(),
        port_redirect: found.port.unwrap_or_default(),
        scheme_rewrite_specifier: scheme
            .map(|scheme| SchemeRewriteSpecifier::SchemeRedirect(scheme.to_owned())),
        path_rewrite_specifier: path.map(PathRewriteSpecifier::PathRedirect),
        ..Default::default()
    };
    Some(any(&RedirectPolicy {
        redirect_action_specifier: Some(RedirectActionSpecifier::RedirectAction(action)),
        status_code: Some(UInt32Value { value: code }),
        ..Default::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;

    fn compile(rules: &str) -> crate::Compiled {
        testing::compile(Kind::BackendTraffic, &format!(r#"{{"responseOverride": [{rules}]}}"#))
    }

    #[test]
    fn rules_are_met_in_their_order() {
        let compiled = compile(
            r#"{"match": {"statusCodes": [{"type": "Value", "value": 404}, {"type": "Range", "range": {"start": 500, "end": 511}}]}, "source": "Backend",
                "response": {"statusCode": 200, "contentType": "text/html", "body": {"type": "Inline", "inline": "sorry %RESPONSE_CODE%"}, "header": {"set": [{"name": "X-A", "value": "b"}]}}},
               {"match": {"responseHeaders": [{"name": "x-error", "value": {"type": "Prefix", "value": "db"}}]}, "redirect": {"hostname": "a.example", "path": {"type": "ReplaceFullPath", "replaceFullPath": "/x"}}}"#,
        );
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let own: CustomResponse = testing::filter(&compiled, "response_override", NAME);
        let Some(MatcherType::MatcherList(list)) = own.custom_response_matcher.unwrap().matcher_type else {
            panic!("list")
        };
        assert_eq!(list.matchers.len(), 2);
    }

    #[test]
    fn what_envoy_does_not_take_is_said() {
        let code = r#""match": {"statusCodes": [{"value": 404}]}"#;
        for (rule, said) in [
            (format!("{{{code}}}"), "MG4002 spec.responseOverride[0]"),
            (
                format!(r#"{{{code}, "response": {{"statusCode": 99}}}}"#),
                "MG4002 spec.responseOverride[0].response.statusCode",
            ),
            (
                format!(r#"{{{code}, "response": {{"body": {{"inline": "50%"}}}}}}"#),
                "MG4002 spec.responseOverride[0].response.body",
            ),
            (
                format!(
                    r#"{{{code}, "response": {{"body": {{"valueRef": {{"kind": "ConfigMap", "name": "gone"}}}}}}}}"#
                ),
                "MG4002 spec.responseOverride[0].response.body.valueRef.name",
            ),
            (
                format!(r#"{{{code}, "response": {{"contentType": "a\nb"}}}}"#),
                "MG4002 spec.responseOverride[0].response.contentType",
            ),
            (
                format!(r#"{{{code}, "response": {{"header": {{"remove": ["a"]}}}}}}"#),
                "MG4104 spec.responseOverride[0].response.header.remove",
            ),
            (
                format!(r#"{{{code}, "source": "Both", "response": {{}}}}"#),
                "MG4002 spec.responseOverride[0].source",
            ),
            (
                format!(r#"{{{code}, "redirect": {{"scheme": "ftp"}}}}"#),
                "MG4002 spec.responseOverride[0].redirect.scheme",
            ),
            (
                format!(r#"{{{code}, "redirect": {{"port": 8080}}}}"#),
                "MG4002 spec.responseOverride[0].redirect",
            ),
            (r#"{"match": {}, "response": {}}"#.into(), "MG4002 spec.responseOverride[0].match"),
            (
                r#"{"match": {"statusCodes": [{"range": {"start": 500, "end": 400}}]}, "response": {}}"#
                    .into(),
                "MG4002 spec.responseOverride[0].match.statusCodes[0]",
            ),
        ] {
            let compiled = compile(&rule);
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said.to_owned()], false), "{rule}");
        }
    }
}
