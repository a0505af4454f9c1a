//! Texts that policies bring: of ConfigMaps, of JSON, and scripts.

use super::Lowering;
use envoy_types::pb::cel::expr::ParsedExpr;
use moorgate_model::{FieldPath, Node};
use prost::Message as _;

/// How strictly scripts are looked at before Envoy gets them, the strictest last (EnvoyProxy `luaValidation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum ScriptCheck {
    /// Not at all: one that does not load answers 500.
    Disabled,
    /// They must be scripts.
    InsecureSyntax,
    /// They must also be called by Envoy, and not reach beyond requests.
    #[default]
    Strict,
}

impl ScriptCheck {
    /// What a name in an EnvoyProxy stands for.
    pub fn of_name(name: &str) -> Self {
        match name {
            "Disabled" => Self::Disabled,
            "InsecureSyntax" => Self::InsecureSyntax,
            _ => Self::Strict,
        }
    }
}

impl Lowering<'_> {
    /// The namespace of the policy.
    pub fn namespace(&self) -> &str {
        &self.object.reference.namespace
    }

    /// An expression that Envoy can evaluate. Another one makes the policy invalid.
    pub fn cel(&mut self, at: &FieldPath, text: &str) -> Option<ParsedExpr> {
        self.parsed(text).map_err(|why| self.invalid(at.clone(), &why)).ok()
    }

    /// A text as an expression of CEL.
    ///
    /// # Errors
    /// It is none, or Envoy could not build or evaluate it; says why.
    pub fn parsed(&self, text: &str) -> Result<ParsedExpr, String> {
        let read = self.world.cel(text);
        let read =
            read.and_then(|bytes| ParsedExpr::decode(bytes.as_slice()).map_err(|error| error.to_string()));
        read.map_err(|why| format!("the expression cannot be used: {why}"))
    }

    /// A text of a ConfigMap in the policy's namespace, under the first of these keys that it has, or else its only one.
    pub fn config_map(&mut self, at: &FieldPath, name: &str, keys: &[&str]) -> Option<String> {
        let found = self.world.config_map(self.namespace(), name);
        let found = found.and_then(|texts| {
            let named = keys.iter().find_map(|key| texts.get(*key));
            let only = || texts.values().next().filter(|_| texts.len() == 1);
            named
                .or_else(only)
                .cloned()
                .ok_or_else(|| format!("ConfigMap {name} has no key {}", keys.join(" or ")))
        });
        found.map_err(|message| self.invalid(at.clone(), &message)).ok()
    }

    /// How strictly the policy's scripts are looked at.
    pub fn script_check(&self) -> ScriptCheck {
        self.world.script_check(self.object)
    }

    /// A text of JSON, read.
    pub fn json(&self, text: &str) -> Option<Node> {
        self.world.json(text)
    }
}
