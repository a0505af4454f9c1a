//! Scripts (EnvoyExtensionPolicy `lua`).

mod syntax;

use crate::free::Free;
use crate::{About, Capability, Effect, Kind, Lowering, ScriptCheck, place};
use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source};
use envoy_types::pb::envoy::extensions::filters::http::lua::v3::{Lua as Filter, LuaPerRoute, lua_per_route};
use envoy_types::pb::google::protobuf::BoolValue;
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct Lua;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    #[serde(default)]
    lua: Vec<Script>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Script {
    #[serde(rename = "type")]
    kind: String,
    inline: Option<String>,
    value_ref: Option<ValueRef>,
    filter_context: Option<Free>,
}

#[derive(Debug, Deserialize)]
struct ValueRef {
    #[serde(default)]
    group: String,
    kind: String,
    name: String,
}

/// The filter of the first script; that of the second has a 2 behind it.
const NAME: &str = "envoy.filters.http.lua";
/// By which a script has the route looked for again.
const AGAIN: &str = "clearRouteCache";
/// The key of a ConfigMap that holds a script.
const KEY: &str = "lua";
/// So long may a script be, in bytes: every worker of every proxy reads it.
const LONGEST: usize = 256 * 1024;

impl Capability for Lua {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "lua",
        kind: Kind::Extension,
        fields: &["lua"],
        except: &[],
        since: "0.2.0",
        docs: "\
Scripts run on requests and responses (envoy_on_request, envoy_on_response), in their order; inline or from a ConfigMap (key lua, or its only one). \
filterContext is what a script gets of handle:filterContext(). Scripts are checked while compiling, as luaValidation of the EnvoyProxy says: \
their syntax (InsecureSyntax), and by default (Strict) also that they define what Envoy calls, and that no name in them stands for what reaches \
beyond requests (io, require, load, debug, os but for its clock and getenv, and the like); they are never run. Disabled checks nothing. Of several \
Gateways that a policy is attached to the strictest says it. A script that cannot be loaded, or whose \
envoy_on_request fails, answers 500: it may be what decides who passes. A request stays with its route whatever a script changes about it, \
unless the script itself has it looked for again (handle:clearRouteCache()); what the one that is found asks for before scripts run is not asked \
any more, so a route that could lead to one that asks for more, at the same path or in another namespace, is closed. What Envoy does when envoy_on_response fails is left: the response goes on.",
        effect: Effect::Filter {
            name: NAME,
            place: place::LUA,
            why: "scripts see requests that were let in, and may change what is decided by below",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let at = FieldPath::parse("spec.lua");
        for (index, script) in spec.lua.iter().enumerate() {
            let at = at.index(index);
            let Some((text, at_text)) = source(script, &at, cx) else { return };
            if text.len() > LONGEST {
                return cx.invalid(at_text, &format!("a script has at most {LONGEST} bytes"));
            }
            if let Err((line, why)) = checked(&text, cx.script_check()) {
                return cx.invalid(at_text, &format!("line {line} of the script: {why}"));
            }
            let context = script.filter_context.as_ref();
            let filter_context = context.and_then(Free::structure);
            if context.is_some() && filter_context.is_none() {
                return cx.invalid(at.key("filterContext"), "it is an object with names and values");
            }
            let again = text.contains(AGAIN);
            if again {
                cx.recomputes_freely(place::LUA, &at);
            }
            let wrapped = wrapped(&text, &cx.own_name(&format!("lua[{index}]")), again);
            let source = DataSource {
                specifier: Some(data_source::Specifier::InlineString(wrapped)),
                ..Default::default()
            };
            let own = LuaPerRoute {
                filter_context,
                r#override: Some(lua_per_route::Override::SourceCode(source)),
                ..Default::default()
            };
            let name = if index == 0 { NAME.to_owned() } else { format!("{NAME}.{}", index + 1) };
            // What a script changes about a request leads to another route only if it asks for that.
            let base = Filter { clear_route_cache: Some(BoolValue { value: false }), ..Default::default() };
            cx.filter((&name, place::LUA), &base, &own);
        }
    }
}

fn checked(text: &str, how: ScriptCheck) -> Result<(), syntax::Mistake> {
    if how == ScriptCheck::Disabled {
        return Ok(());
    }
    syntax::check(text)?;
    if how == ScriptCheck::InsecureSyntax {
        return Ok(());
    }
    let laxer = |why: String| {
        format!("{why} (luaValidation of an EnvoyProxy says how strictly scripts are looked at)")
    };
    syntax::reach::check(text).map_err(|(line, why)| (line, laxer(why)))
}

/// The text of a script, and where it is named.
fn source(script: &Script, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<(String, FieldPath)> {
    match (script.kind.as_str(), &script.inline, &script.value_ref) {
        ("Inline", Some(text), None) => Some((text.clone(), at.key("inline"))),
        ("ValueRef", None, Some(reference)) => {
            let at = at.key("valueRef");
            if !reference.group.is_empty() || reference.kind != "ConfigMap" {
                cx.invalid(at.key("kind"), "a script is taken from a ConfigMap");
                return None;
            }
            Some((cx.config_map(&at, &reference.name, &[KEY])?, at))
        }
        _ => {
            cx.invalid(at.clone(), "exactly the field that the type names must be set");
            None
        }
    }
}

/// The script inside of one that loads it. Envoy refuses a whole table of routes for a script that does not load, and
/// lets a request pass when its script fails: so loading is tried, and what fails answers 500. A script in which the name of
/// it does not stand cannot have the route looked for again by other ways to write it.
fn wrapped(text: &str, name: &str, again: bool) -> String {
    let mut level = String::new();
    while text.contains(&format!("]{level}]")) || text.ends_with(&format!("]{level}")) {
        level.push('=');
    }
    let stays = if again {
        String::new()
    } else {
        format!(
            "    local known = meta(handle)\n    if type(known) == \"table\" then known.{AGAIN} = nil end\n"
        )
    };
    // A first line break inside of these brackets is not part of the text.
    format!(
        "local meta = getmetatable\n\
         local script, why = loadstring([{level}[\n{text}]{level}], \"={name}\")\n\
         local loaded = script ~= nil\n\
         if loaded then loaded, why = pcall(script) end\n\
         local on_request = envoy_on_request\n\
         local function refuse(handle, why)\n  handle:logErr(\"{name}: \" .. tostring(why))\n  \
         handle:respond({{[\":status\"] = \"500\"}}, \"\")\nend\n\
         if not loaded then\n  envoy_on_response = nil\n  function envoy_on_request(handle) refuse(handle, why) end\n\
         elseif on_request ~= nil then\n  function envoy_on_request(handle)\n{stays}    \
         local fine, why = pcall(on_request, handle)\n    if not fine then refuse(handle, why) end\n  end\nend\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;
    use prost::Message as _;

    fn script(spec: &str, name: &str) -> (String, LuaPerRoute) {
        let compiled = testing::compile(Kind::Extension, spec);
        assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
        let own: LuaPerRoute = testing::filter(&compiled, "lua", name);
        match own.r#override.clone() {
            Some(lua_per_route::Override::SourceCode(DataSource {
                specifier: Some(data_source::Specifier::InlineString(text)),
                ..
            })) => (text, own),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn scripts_in_their_order_with_what_they_are_told() {
        let spec = r#"{"lua": [{"type": "Inline", "inline": "function envoy_on_request(h) end", "filterContext": {"a": 1}},
            {"type": "Inline", "inline": "envoy_on_response = a[b[1]]"}]}"#;
        let (first, own) = script(spec, NAME);
        assert!(
            first.contains("[\nfunction envoy_on_request(h) end]]") && first.contains("=shop/guard/lua[0]")
        );
        assert_eq!(own.filter_context.unwrap().fields.len(), 1);
        let (second, _) = script(spec, "envoy.filters.http.lua.2");
        assert!(second.contains("[=[\nenvoy_on_response = a[b[1]]]=]"), "{second}");
        assert!(
            syntax::check(&first).is_ok() && syntax::check(&second).is_ok(),
            "what is around is sound too"
        );
    }

    #[test]
    fn a_request_stays_with_its_route_unless_the_script_says_otherwise() {
        let of = |text: &str| {
            let spec = format!(r#"{{"lua": [{{"type": "Inline", "inline": "{text}"}}]}}"#);
            let compiled = testing::compile(Kind::Extension, &spec);
            assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
            let part = &compiled.parts["lua"];
            let base = Filter::decode(part.filters[0].base.value.as_slice()).unwrap();
            let (text, _) = script(&spec, NAME);
            let again =
                part.recomputes.clone().map(|(place, freely, field)| (place, freely, field.to_string()));
            (base.clear_route_cache, text.contains("known.clearRouteCache = nil"), again)
        };
        let never = Some(BoolValue { value: false });
        let script = "function envoy_on_request(h) h:headers():replace('x', 'y') end";
        assert_eq!(of(script), (never, true, None));
        let script = "function envoy_on_request(h) h:clearRouteCache() end";
        assert_eq!(of(script), (never, false, Some((place::LUA, true, "spec.lua[0]".to_owned()))));
    }

    #[test]
    fn how_strictly_scripts_are_looked_at() {
        let (broken, reaching) = ("function f(", "function envoy_on_request(h) os.exit() end");
        assert!(
            checked(broken, ScriptCheck::Disabled).is_ok()
                && checked(reaching, ScriptCheck::Disabled).is_ok()
        );
        let syntax = ScriptCheck::InsecureSyntax;
        assert!(checked(broken, syntax).is_err() && checked(reaching, syntax).is_ok());
        assert!(checked("x = 1", syntax).is_ok() && checked("x = 1", ScriptCheck::Strict).is_err());
        assert!(checked(reaching, ScriptCheck::Strict).is_err());
        // What Envoy gets of a script that nobody looked at can be loaded all the same: it answers 500 by itself.
        assert!(syntax::check(&wrapped(broken, "a", false)).is_ok());
    }

    #[test]
    fn what_is_no_script_closes() {
        for (script, said) in [
            (r#""type": "Inline""#, ""),
            (r#""type": "Inline", "inline": "function f()""#, ".inline"),
            (r#""type": "Inline", "inline": "x = 1""#, ".inline"),
            (
                r#""type": "Inline", "inline": "function envoy_on_request(h) io.open('/etc/passwd') end""#,
                ".inline",
            ),
            (
                r#""type": "Inline", "inline": "function envoy_on_request(h) end", "filterContext": [1]"#,
                ".filterContext",
            ),
            (r#""type": "ValueRef", "valueRef": {"kind": "ConfigMap", "name": "gone"}"#, ".valueRef"),
            (r#""type": "ValueRef", "valueRef": {"kind": "Secret", "name": "here"}"#, ".valueRef.kind"),
        ] {
            let compiled = testing::compile(Kind::Extension, &format!(r#"{{"lua": [{{{script}}}]}}"#));
            let said = format!("MG4002 spec.lua[0]{said}");
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said], true), "{script}");
        }
    }
}
