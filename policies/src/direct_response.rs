//! Answers by Envoy itself (HTTPRouteFilter `directResponse`).

use crate::{About, Capability, Effect, Kind, Lowering, OfRule, operators};
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, HeaderValue, HeaderValueOption, SubstitutionFormatString, data_source,
    substitution_format_string,
};
use envoy_types::pb::envoy::config::route::v3::{DirectResponseAction, Route, route};
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct DirectResponse;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    direct_response: Option<Rules>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rules {
    content_type: Option<String>,
    body: Option<Body>,
    status_code: Option<i64>,
    header: Option<Headers>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    #[serde(rename = "type")]
    kind: Option<String>,
    inline: Option<String>,
    value_ref: Option<ValueRef>,
}

#[derive(Debug, Deserialize)]
struct ValueRef {
    #[serde(default)]
    group: String,
    kind: String,
    name: String,
}

#[derive(Debug, Deserialize)]
struct Headers {
    #[serde(default)]
    set: Vec<Header>,
    #[serde(default)]
    add: Vec<Header>,
    #[serde(default)]
    remove: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Header {
    name: String,
    value: String,
}

/// The key of a ConfigMap that holds a body.
const KEY: &str = "response.body";
/// Headers that frame a message.
const FRAMING: [&str; 7] =
    ["connection", "content-length", "host", "keep-alive", "te", "transfer-encoding", "upgrade"];

impl Capability for DirectResponse {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "direct_response",
        kind: Kind::RouteFilter,
        fields: &["directResponse"],
        except: &["directResponse.header.remove"],
        since: "0.2.0",
        docs: "\
Envoy answers by itself: statusCode (200 if nothing is said; GRPCRoutes need another than 2xx), contentType, header, and a body, inline or from a \
ConfigMap (key response.body, or its only one; those of its binaryData if it has no data). A body may hold Envoy's command operators, such as %REQ(x-user)%; a percent sign that \
stands for itself is written twice. %ENVIRONMENT% is refused: what the proxy's environment holds is not for clients.",
        effect: Effect::Route,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(rules) = &spec.direct_response else { return };
        let at = FieldPath::parse("spec.directResponse");
        let status = rules.status_code.unwrap_or(200);
        let Some(status) = u16::try_from(status).ok().filter(|status| (200..600).contains(status)) else {
            return cx.invalid(at.key("statusCode"), "that is no status that Envoy answers with");
        };
        let Ok(body_format) = rules.body.as_ref().map(|body| text(body, &at.key("body"), cx)).transpose()
        else {
            return;
        };
        let Some(response_headers_to_add) = headers(rules, &at, cx) else { return };
        // The status is the rule's own: where something refuses it, this is what is left of it.
        let answer = DirectResponseAction { body_format, ..Default::default() };
        cx.route(&Route {
            response_headers_to_add,
            action: Some(route::Action::DirectResponse(answer)),
            ..Default::default()
        });
        cx.rule(&OfRule { respond: Some(status), ..OfRule::default() });
    }
}

/// The body, or nothing after it was said what is wrong.
fn text(body: &Body, at: &FieldPath, cx: &mut Lowering<'_>) -> Result<SubstitutionFormatString, ()> {
    let (text, at) = match (body.kind.as_deref().unwrap_or("Inline"), &body.inline, &body.value_ref) {
        ("Inline", Some(text), None) => (text.clone(), at.key("inline")),
        ("ValueRef", None, Some(reference)) => {
            let at = at.key("valueRef");
            if !reference.group.is_empty() || reference.kind != "ConfigMap" {
                cx.invalid(at.key("kind"), "a body is taken from a ConfigMap");
                return Err(());
            }
            (cx.config_map(&at, &reference.name, &[KEY]).ok_or(())?, at)
        }
        _ => {
            cx.invalid(at.clone(), "exactly the field that the type names must be set");
            return Err(());
        }
    };
    if let Err(why) = operators::check(&text) {
        cx.invalid(at, &format!("Envoy would not take this text: {why}"));
        return Err(());
    }
    let source =
        DataSource { specifier: Some(data_source::Specifier::InlineString(text)), ..Default::default() };
    let format = Some(substitution_format_string::Format::TextFormatSource(source));
    Ok(SubstitutionFormatString { format, ..Default::default() })
}

fn headers(rules: &Rules, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Vec<HeaderValueOption>> {
    let mut out = Vec::new();
    if let Some(kind) = &rules.content_type {
        out.push(header(cx, &at.key("contentType"), ("content-type", kind), false)?);
    }
    let Some(wanted) = &rules.header else { return Some(out) };
    let at = at.key("header");
    if !wanted.remove.is_empty() {
        cx.unsupported(at.key("remove"), "there is nothing to take away from an answer of Envoy's own");
    }
    for (list, headers) in [("set", &wanted.set), ("add", &wanted.add)] {
        for (index, one) in headers.iter().enumerate() {
            let at = at.key(list).index(index);
            out.push(header(cx, &at, (&one.name, &one.value), list == "add")?);
        }
    }
    Some(out)
}

fn header(
    cx: &mut Lowering<'_>,
    at: &FieldPath,
    (name, value): (&str, &str),
    add: bool,
) -> Option<HeaderValueOption> {
    let key = name.to_ascii_lowercase();
    if !cx.header_name(at.key("name"), &key) {
        return None;
    }
    if FRAMING.contains(&key.as_str()) {
        cx.invalid(at.key("name"), &format!("header {name:?} frames the message and is Envoy's own matter"));
        return None;
    }
    if value.chars().any(|c| c.is_control() && c != '\t') {
        cx.invalid(at.key("value"), &format!("the value of header {name:?} holds control characters"));
        return None;
    }
    let action = if add {
        HeaderAppendAction::AppendIfExistsOrAdd
    } else {
        HeaderAppendAction::OverwriteIfExistsOrAdd
    };
    let header = HeaderValue { key, value: operators::literal(value), ..Default::default() };
    Some(HeaderValueOption {
        header: Some(header),
        append_action: action.into(),
        keep_empty_value: value.is_empty(),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};

    fn answer(spec: &str) -> (u16, DirectResponseAction, Vec<(String, String)>) {
        let compiled = testing::compile(Kind::RouteFilter, &format!(r#"{{"directResponse": {spec}}}"#));
        assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
        let part = &compiled.parts["direct_response"];
        let route: Route = patched(&part.route);
        let headers = route.response_headers_to_add.into_iter().filter_map(|option| option.header);
        let headers = headers.map(|header| (header.key, header.value)).collect();
        let Some(route::Action::DirectResponse(answer)) = route.action else { panic!("an answer") };
        (part.rule.respond.unwrap(), answer, headers)
    }

    fn body(answer: DirectResponseAction) -> String {
        match answer.body_format.unwrap().format {
            Some(substitution_format_string::Format::TextFormatSource(DataSource {
                specifier: Some(data_source::Specifier::InlineString(text)),
                ..
            })) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn answers_with_bodies_and_headers() {
        let (status, plain, headers) = answer("{}");
        assert_eq!((status, plain.body_format, headers.len()), (200, None, 0));
        let (status, full, headers) = answer(
            r#"{"statusCode": 503, "contentType": "text/plain", "body": {"type": "Inline", "inline": "gone, %REQ(x-user)%"},
                "header": {"set": [{"name": "X-A", "value": "50%"}], "add": [{"name": "x-b", "value": "2"}]}}"#,
        );
        assert_eq!((status, full.status), (503, 0));
        assert_eq!(body(full), "gone, %REQ(x-user)%");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(headers, [pair("content-type", "text/plain"), pair("x-a", "50%%"), pair("x-b", "2")]);
        let (_, from_map, _) =
            answer(r#"{"body": {"type": "ValueRef", "valueRef": {"kind": "ConfigMap", "name": "here"}}}"#);
        assert!(body(from_map).contains("keys"));
    }

    #[test]
    fn what_envoy_would_not_take_is_refused() {
        for (spec, field) in [
            (r#"{"statusCode": 100}"#, "statusCode"),
            (r#"{"body": {"type": "Inline"}}"#, "body"),
            (r#"{"body": {"type": "Inline", "inline": "100%"}}"#, "body.inline"),
            (
                r#"{"body": {"type": "ValueRef", "valueRef": {"kind": "Secret", "name": "here"}}}"#,
                "body.valueRef.kind",
            ),
            (
                r#"{"body": {"type": "ValueRef", "valueRef": {"kind": "ConfigMap", "name": "gone"}}}"#,
                "body.valueRef",
            ),
            (r#"{"header": {"set": [{"name": "a b", "value": "1"}]}}"#, "header.set[0].name"),
            (r#"{"header": {"add": [{"name": "Content-Length", "value": "1"}]}}"#, "header.add[0].name"),
            (r#"{"header": {"add": [{"name": "x", "value": "a\nb"}]}}"#, "header.add[0].value"),
        ] {
            let compiled = testing::compile(Kind::RouteFilter, &format!(r#"{{"directResponse": {spec}}}"#));
            let said = format!("MG4002 spec.directResponse.{field}");
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said], true), "{spec}");
        }
    }
}
