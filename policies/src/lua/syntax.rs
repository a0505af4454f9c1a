//! Whether a text is a script: the grammar of Lua 5.1 with what LuaJIT adds to it (goto, labels, 64-bit numbers, more
//! escapes). What a script does is for nobody to know before it runs.

pub(super) mod reach;
mod token;

use token::{Lexer, Token};

/// How deep expressions and blocks may be nested: LuaJIT takes 200.
const DEEPEST: u32 = 180;

/// The line of a mistake, and what it is.
pub(super) type Mistake = (u32, String);

/// Reads a whole script.
pub(super) fn check(text: &str) -> Result<(), Mistake> {
    let mut parser = Parser { lexer: Lexer::new(text), token: Token::End, ahead: None, last: 1, depth: 0 };
    parser.next()?;
    parser.functions(true)
}

struct Parser<'t> {
    lexer: Lexer<'t>,
    token: Token<'t>,
    ahead: Option<(Token<'t>, u32)>,
    /// The line of the token before.
    last: u32,
    depth: u32,
}

/// What a block stands in.
#[derive(Debug, Clone, Copy)]
struct Place {
    in_loop: bool,
    varargs: bool,
}

/// What an expression may be used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    /// It can be assigned to.
    Variable,
    /// It can stand alone.
    Call,
    Value,
}

impl<'t> Parser<'t> {
    fn next(&mut self) -> Result<(), Mistake> {
        self.last = self.lexer.line;
        self.token = match self.ahead.take() {
            Some((token, line)) => {
                self.lexer.line = line;
                token
            }
            None => self.lexer.token()?,
        };
        Ok(())
    }

    fn mistake<T>(&self, why: impl Into<String>) -> Result<T, Mistake> {
        Err((self.lexer.line, why.into()))
    }

    fn is(&self, word: &str) -> bool {
        matches!(self.token, Token::Word(found) | Token::Sign(found) if found == word)
    }

    fn take(&mut self, word: &str) -> Result<bool, Mistake> {
        let found = self.is(word);
        if found {
            self.next()?;
        }
        Ok(found)
    }

    fn want(&mut self, word: &str) -> Result<(), Mistake> {
        if self.take(word)? {
            return Ok(());
        }
        self.mistake(format!("{word:?} is missing before {}", self.token))
    }

    /// A word or sign that ends what began on an earlier line.
    fn close(&mut self, word: &str, opened: &str, line: u32) -> Result<(), Mistake> {
        if self.take(word)? {
            return Ok(());
        }
        self.mistake(format!("{word:?} is missing before {}: {opened:?} stands on line {line}", self.token))
    }

    fn name(&mut self) -> Result<&'t str, Mistake> {
        match self.token {
            Token::Name(name) => {
                self.next()?;
                Ok(name)
            }
            _ => self.mistake(format!("a name is missing before {}", self.token)),
        }
    }

    fn deeper(&mut self) -> Result<(), Mistake> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return self.mistake("it is nested too deep");
        }
        Ok(())
    }

    /// The body of a function, or the whole script.
    fn functions(&mut self, whole: bool) -> Result<(), Mistake> {
        if whole {
            self.block(Place { in_loop: false, varargs: true })?;
            return if self.token == Token::End {
                Ok(())
            } else {
                self.mistake(format!("the end of the script is missing before {}", self.token))
            };
        }
        let line = self.lexer.line;
        let mut varargs = false;
        self.want("(")?;
        while !self.is(")") {
            if self.take("...")? {
                varargs = true;
                break;
            }
            self.name()?;
            if !self.take(",")? {
                break;
            }
            if self.is(")") {
                return self.mistake("a name is missing before \")\"");
            }
        }
        self.want(")")?;
        self.block(Place { in_loop: false, varargs })?;
        self.close("end", "function", line)
    }

    fn block(&mut self, place: Place) -> Result<(), Mistake> {
        self.deeper()?;
        loop {
            while self.take(";")? {}
            let ends = ["end", "else", "elseif", "until"].iter().any(|word| self.is(word));
            if ends || self.token == Token::End {
                break;
            }
            let last = self.is("return");
            self.statement(place)?;
            if last {
                self.take(";")?;
                let ends = ["end", "else", "elseif", "until"].iter().any(|word| self.is(word));
                if !ends && self.token != Token::End {
                    return self.mistake("nothing stands behind return in its block");
                }
                break;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn statement(&mut self, place: Place) -> Result<(), Mistake> {
        let line = self.lexer.line;
        let Token::Word(word) = self.token else {
            if self.is("::") {
                self.next()?;
                self.name()?;
                return self.want("::");
            }
            return self.expression_statement(place);
        };
        let inside = Place { in_loop: true, ..place };
        match word {
            "if" => self.branches(place),
            "while" => {
                self.next()?;
                self.expression(place)?;
                self.want("do")?;
                self.block(inside)?;
                self.close("end", "while", line)
            }
            "do" => {
                self.next()?;
                self.block(place)?;
                self.close("end", "do", line)
            }
            "for" => self.counted(place),
            "repeat" => {
                self.next()?;
                self.block(inside)?;
                self.close("until", "repeat", line)?;
                self.expression(place)
            }
            "function" => {
                self.next()?;
                self.name()?;
                while self.take(".")? {
                    self.name()?;
                }
                if self.take(":")? {
                    self.name()?;
                }
                self.functions(false)
            }
            "local" => self.local(place),
            "return" => {
                self.next()?;
                let ends = ["end", "else", "elseif", "until", ";"].iter().any(|word| self.is(word));
                if ends || self.token == Token::End { Ok(()) } else { self.expressions(place) }
            }
            "break" if place.in_loop => self.next(),
            "break" => self.mistake("break stands in no loop"),
            "goto" => {
                self.next()?;
                self.name().map(drop)
            }
            _ => self.expression_statement(place),
        }
    }

    fn branches(&mut self, place: Place) -> Result<(), Mistake> {
        let line = self.lexer.line;
        loop {
            self.next()?;
            self.expression(place)?;
            self.want("then")?;
            self.block(place)?;
            if !self.is("elseif") {
                break;
            }
        }
        if self.take("else")? {
            self.block(place)?;
        }
        self.close("end", "if", line)
    }

    fn counted(&mut self, place: Place) -> Result<(), Mistake> {
        let line = self.lexer.line;
        self.next()?;
        self.name()?;
        if self.take("=")? {
            self.expression(place)?;
            self.want(",")?;
            self.expression(place)?;
            if self.take(",")? {
                self.expression(place)?;
            }
        } else {
            while self.take(",")? {
                self.name()?;
            }
            self.want("in")?;
            self.expressions(place)?;
        }
        self.want("do")?;
        self.block(Place { in_loop: true, ..place })?;
        self.close("end", "for", line)
    }

    fn local(&mut self, place: Place) -> Result<(), Mistake> {
        self.next()?;
        if self.take("function")? {
            self.name()?;
            return self.functions(false);
        }
        self.name()?;
        while self.take(",")? {
            self.name()?;
        }
        if self.take("=")? { self.expressions(place) } else { Ok(()) }
    }

    fn expression_statement(&mut self, place: Place) -> Result<(), Mistake> {
        let mut is = self.primary(place)?;
        if is == Is::Call {
            return Ok(());
        }
        loop {
            if is != Is::Variable {
                return self.mistake(format!("there is no statement before {}", self.token));
            }
            if !self.take(",")? {
                break;
            }
            is = self.primary(place)?;
        }
        self.want("=")?;
        self.expressions(place)
    }

    fn expressions(&mut self, place: Place) -> Result<(), Mistake> {
        self.expression(place)?;
        while self.take(",")? {
            self.expression(place)?;
        }
        Ok(())
    }

    /// Operands with operators between: how they bind is no matter here.
    fn expression(&mut self, place: Place) -> Result<(), Mistake> {
        self.deeper()?;
        loop {
            while ["not", "-", "#"].iter().any(|sign| self.is(sign)) {
                self.next()?;
            }
            self.operand(place)?;
            let operators =
                ["+", "-", "*", "/", "%", "^", "..", "<", ">", "<=", ">=", "==", "~=", "and", "or"];
            if !operators.iter().any(|sign| self.is(sign)) {
                break;
            }
            self.next()?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn operand(&mut self, place: Place) -> Result<(), Mistake> {
        match self.token {
            Token::Number | Token::Text | Token::Word("nil" | "true" | "false") => self.next(),
            Token::Sign("...") if place.varargs => self.next(),
            Token::Sign("...") => self.mistake("... stands in a function that has none"),
            Token::Sign("{") => self.table(place),
            Token::Word("function") => {
                self.next()?;
                self.functions(false)
            }
            _ => self.primary(place).map(drop),
        }
    }

    /// A name or something in parentheses, with what follows it.
    fn primary(&mut self, place: Place) -> Result<Is, Mistake> {
        let line = self.lexer.line;
        let mut is = match self.token {
            Token::Name(_) => {
                self.next()?;
                Is::Variable
            }
            Token::Sign("(") => {
                self.next()?;
                self.expression(place)?;
                self.close(")", "(", line)?;
                Is::Value
            }
            _ => return self.mistake(format!("something is missing before {}", self.token)),
        };
        loop {
            match self.token {
                Token::Sign(".") => {
                    self.next()?;
                    self.name()?;
                    is = Is::Variable;
                }
                Token::Sign("[") => {
                    let line = self.lexer.line;
                    self.next()?;
                    self.expression(place)?;
                    self.close("]", "[", line)?;
                    is = Is::Variable;
                }
                Token::Sign(":") => {
                    self.next()?;
                    self.name()?;
                    self.arguments(place)?;
                    is = Is::Call;
                }
                Token::Sign("(" | "{") | Token::Text => {
                    self.arguments(place)?;
                    is = Is::Call;
                }
                _ => return Ok(is),
            }
        }
    }

    fn arguments(&mut self, place: Place) -> Result<(), Mistake> {
        let line = self.lexer.line;
        match self.token {
            Token::Text => self.next(),
            Token::Sign("{") => self.table(place),
            Token::Sign("(") => {
                if line != self.last {
                    return self.mistake(
                        "this is a call of what stands on the line before, or a new statement: write a semicolon between",
                    );
                }
                self.next()?;
                if !self.is(")") {
                    self.expressions(place)?;
                }
                self.close(")", "(", line)
            }
            _ => self.mistake(format!("arguments are missing before {}", self.token)),
        }
    }

    fn table(&mut self, place: Place) -> Result<(), Mistake> {
        let line = self.lexer.line;
        self.deeper()?;
        self.want("{")?;
        while !self.is("}") {
            if self.take("[")? {
                self.expression(place)?;
                self.want("]")?;
                self.want("=")?;
            } else if matches!(self.token, Token::Name(_)) {
                let here = self.lexer.line;
                let ahead = self.lexer.token()?;
                let keyed = ahead == Token::Sign("=");
                self.ahead = Some((ahead, self.lexer.line));
                self.lexer.line = here;
                if keyed {
                    self.next()?;
                    self.next()?;
                }
            }
            self.expression(place)?;
            if !self.take(",")? && !self.take(";")? {
                break;
            }
        }
        self.close("}", "{", line)?;
        self.depth -= 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn scripts() {
        for text in [
            "",
            "-- nothing\n--[[ at\nall ]] --[==[ ]] ]==]",
            "#!shebang is a comment\nx = 1",
            "function envoy_on_request(handle)\n  handle:headers():add(\"a\", 'b\\n\\x41\\065\\z  c')\nend",
            "local a, b = 1, {x = 1, [2] = 3; 4, f(), y}\nreturn a.b[1]:c{}\"d\"[[e]](...)",
            "for i = 1, 10, 2 do if i > 3 then break elseif not i then goto over else do end end ::over:: end",
            "for k, v in pairs({}) do while true do repeat local x = -#k .. v until x end end",
            "local function f(a, ...) return ..., select('#', ...) end",
            "function a.b.c:d() end",
            "x = 0x1F + 1e10 - .5 * 3. / 2 ^ 3 % 4ULL == 0x1p4 ~= 7i",
            "a.b, c[1] = f(), (g)()",
            "return",
            "return function() return 1; end",
            "x = [==[ ]] ]=] ]==]",
            "f\n'text'",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn no_scripts() {
        for (text, line) in [
            ("function f(", 1),
            ("function f()\n x = 1\n", 3),
            ("x = ", 1),
            ("x == 1", 1),
            ("if x then\nelse\nelse\nend", 3),
            ("break", 1),
            ("while true do break; end break", 1),
            ("function f() return ... end", 1),
            ("return 1\nx = 2", 2),
            ("x = 'a\n'", 1),
            ("x = \"a", 1),
            ("x = [[a", 1),
            ("--[[ a\n", 2),
            ("x = 12abc", 1),
            ("x = '\\q'", 1),
            ("x = '\\300'", 1),
            ("local 1", 1),
            ("x = {1, 2", 1),
            ("x = a b", 1),
            ("f\n(x)", 2),
            ("x = 1 ? 2", 1),
            ("local x = = 1", 1),
            ("end", 1),
            ("::a", 1),
            ("function f(a,) end", 1),
            ("x = `", 1),
        ] {
            assert_eq!(check(text).map_err(|(line, _)| line), Err(line), "{text}");
        }
        let deep = format!("x = {}1{}", "(".repeat(1000), ")".repeat(1000));
        assert!(check(&deep).is_err());
    }
}
