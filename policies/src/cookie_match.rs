//! Cookies that a request must show (HTTPRouteFilter `matches`).

use crate::lowering::Cookies;
use crate::{About, Capability, Effect, Kind, Lowering, OfRule};
use moorgate_model::FieldPath;
use moorgate_model::ir::ValueMatch;
use serde::Deserialize;

/// The capability.
pub(crate) struct CookieMatch;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    #[serde(default)]
    matches: Vec<Match>,
}

#[derive(Debug, Deserialize)]
struct Match {
    #[serde(default)]
    cookies: Vec<Cookie>,
}

#[derive(Debug, Deserialize)]
struct Cookie {
    #[serde(rename = "type")]
    kind: Option<String>,
    name: String,
    value: String,
}

impl Capability for CookieMatch {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "cookie_match",
        kind: Kind::RouteFilter,
        fields: &["matches"],
        except: &[],
        since: "0.2.0",
        docs: "\
The rule is for requests that also meet one of matches: all of its cookies, exactly or by a regular expression over the whole value. Of \
two rules that are equal otherwise, the one with more cookies comes first.",
        effect: Effect::Route,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let at = FieldPath::parse("spec.matches");
        let mut all: Vec<Cookies> = Vec::new();
        for (index, one) in spec.matches.iter().enumerate() {
            let at = at.index(index).key("cookies");
            let mut cookies = Cookies::new();
            for (index, cookie) in one.cookies.iter().enumerate() {
                let at = at.index(index);
                let value = cookie.value.clone();
                let wanted = match cookie.kind.as_deref().unwrap_or("Exact") {
                    "Exact" => ValueMatch::Exact(value),
                    "RegularExpression" => {
                        if cx.expression(at.key("value"), &value).is_none() {
                            return;
                        }
                        ValueMatch::Regex(value)
                    }
                    other => return cx.invalid(at.key("type"), &format!("{other:?} is no way to compare")),
                };
                // What ends a cookie or its name is in none of them (RFC 6265 §4.1.1).
                if cookie.name.is_empty()
                    || cookie.name.contains(|c: char| "=; ".contains(c) || c.is_control())
                {
                    return cx.invalid(at.key("name"), "that is no name of a cookie");
                }
                cookies.push((cookie.name.clone(), wanted));
            }
            if cookies.is_empty() {
                return cx.invalid(at, "there is no cookie to compare");
            }
            cookies.sort();
            all.push(cookies);
        }
        cx.rule(&OfRule { cookies: all, ..OfRule::default() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;

    #[test]
    fn one_of_several_with_all_of_its_cookies() {
        let compiled = testing::compile(
            Kind::RouteFilter,
            r#"{"matches": [{"cookies": [{"name": "b", "value": "x.*", "type": "RegularExpression"}, {"name": "a", "value": "1"}]},
                {"cookies": [{"name": "c", "value": "2", "type": "Exact"}]}]}"#,
        );
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let exact = |name: &str, value: &str| (name.to_owned(), ValueMatch::Exact(value.into()));
        let expected =
            [vec![exact("a", "1"), ("b".to_owned(), ValueMatch::Regex("x.*".into()))], vec![exact("c", "2")]];
        assert_eq!(compiled.parts["cookie_match"].rule.cookies, expected);
    }

    #[test]
    fn a_condition_that_cannot_be_met_closes() {
        for (cookie, field) in [
            (r#"{"name": "a", "value": "(", "type": "RegularExpression"}"#, "[0].value"),
            (r#"{"name": "a;b", "value": "1"}"#, "[0].name"),
            (r#"{"name": "a", "value": "1", "type": "Prefix"}"#, "[0].type"),
            ("", ""),
        ] {
            let spec = format!(r#"{{"matches": [{{"cookies": [{cookie}]}}]}}"#);
            let compiled = testing::compile(Kind::RouteFilter, &spec);
            let said = format!("MG4002 spec.matches[0].cookies{field}");
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said], true), "{spec}");
        }
    }
}
