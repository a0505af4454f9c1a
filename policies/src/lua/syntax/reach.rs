//! What of a script reaches beyond requests: files, processes, other code. Envoy gives scripts all of LuaJIT's libraries.
//!
//! Names are looked at and not what is done with them, so a local variable of such a name is taken for the library.

use super::Mistake;
use super::token::{Lexer, Token};

/// Libraries and functions that reach out, or with which one can get hold of others that do.
const OUT: [&str; 12] = [
    "_G",
    "debug",
    "dofile",
    "ffi",
    "getfenv",
    "io",
    "load",
    "loadfile",
    "loadstring",
    "module",
    "package",
    "require",
];
/// Also `setfenv`, which gives a function other globals.
const ENVIRONMENT: &str = "setfenv";
/// What of `os` only tells.
const TELLING: [&str; 5] = ["clock", "date", "difftime", "getenv", "time"];
/// What Envoy calls.
const ENTRIES: [&str; 2] = ["envoy_on_request", "envoy_on_response"];

/// Refuses a script, whose grammar is sound, that reaches out, or that Envoy would never call.
pub(in crate::lua) fn check(text: &str) -> Result<(), Mistake> {
    let tokens = tokens(text)?;
    let mut entered = false;
    for (place, (token, line)) in tokens.iter().enumerate() {
        let Token::Name(name) = *token else { continue };
        let before = place.checked_sub(1).and_then(|place| tokens.get(place)).map(|(token, _)| *token);
        let behind = |far: usize| tokens.get(place + far).map(|(token, _)| *token);
        if matches!(before, Some(Token::Sign("." | ":"))) {
            // A part of something else: that one is looked at.
            continue;
        }
        let key = matches!(before, Some(Token::Sign("{" | "," | ";"))) && behind(1) == Some(Token::Sign("="));
        if key {
            continue;
        }
        entered |= ENTRIES.contains(&name);
        let tells = || match (behind(1), behind(2)) {
            (Some(Token::Sign(".")), Some(Token::Name(part))) => TELLING.contains(&part),
            _ => false,
        };
        if OUT.contains(&name) || name == ENVIRONMENT {
            return Err((*line, format!("{name} reaches beyond requests")));
        }
        if name == "os" && !tells() {
            return Err((*line, format!("of os only {} may be used", TELLING.join(", "))));
        }
    }
    if entered {
        return Ok(());
    }
    Err((1, format!("neither {} is in it, so Envoy would never call it", ENTRIES.join(" nor "))))
}

fn tokens(text: &str) -> Result<Vec<(Token<'_>, u32)>, Mistake> {
    let mut lexer = Lexer::new(text);
    let mut out = Vec::new();
    loop {
        match lexer.token()? {
            Token::End => return Ok(out),
            token => out.push((token, lexer.line)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reaches_out_is_found_at_its_line() {
        for (text, line) in [
            ("os.execute('rm')", 2),
            ("local o = os", 2),
            ("os['execute']('rm')", 2),
            ("os:execute()", 2),
            ("\nio.open('/etc/passwd')", 3),
            ("local f = loadstring", 2),
            ("require 'ffi'", 2),
            ("_G['i' .. 'o'].popen('id')", 2),
            ("getfenv(0)", 2),
            ("setfenv(1, {})", 2),
            ("x = { y, package }", 2),
            ("x = { [io] = 1 }", 2),
            ("debug.getregistry()", 2),
        ] {
            let script = format!("function envoy_on_request(h) end\n{text}");
            assert_eq!(check(&script).unwrap_err().0, line, "{text}");
        }
    }

    #[test]
    fn what_stays_with_requests_is_let_through() {
        for text in [
            "h:headers():add('x', os.date('%Y') .. os.time() .. (os.getenv('A') or ''))",
            "h.io = h.debug; h:require()",
            "local t = { io = 1, load = 2; os = 3 }",
            "-- require('x')\nlocal s = \"io.open\"",
            "setmetatable({}, { __index = string.format })",
        ] {
            let script = format!("function envoy_on_request(h)\n{text}\nend");
            assert_eq!(check(&script), Ok(()), "{text}");
        }
        assert_eq!(check("local x = 1").unwrap_err().0, 1, "nobody calls it");
        assert_eq!(check("envoy_on_response = function(h) end"), Ok(()));
    }
}
