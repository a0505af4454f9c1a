//! The rules of a schema: CEL expressions, evaluated natively where that is known to be the same.

use super::library::{Expression, Scope};
use super::native::{self, NativeRule};
use super::schema::Schema;
use moorgate_model::{FieldPath, Node, Segment};
use std::sync::Arc;

/// One rule at one schema.
#[derive(Debug)]
pub(crate) struct Rule {
    check: Arc<Check>,
    message: Option<Box<str>>,
    message_expression: Option<Box<Expression>>,
    field: FieldPath,
}

/// One rule text, shared by all schemas that have it.
#[derive(Debug)]
pub(crate) struct Check {
    expression: Expression,
    native: Option<NativeRule>,
}

impl Check {
    /// A rule's text, with its native check if there is one for exactly this text.
    pub(crate) fn new(text: &str) -> Self {
        Self { expression: Expression::new(text), native: native::find(text) }
    }

    /// The text.
    pub(crate) fn text(&self) -> &str {
        self.expression.text()
    }

    /// The native check.
    #[cfg(test)]
    pub(crate) fn native(&self) -> Option<NativeRule> {
        self.native
    }

    /// The text as the library sees it.
    #[cfg(test)]
    pub(crate) fn expression(&self) -> &Expression {
        &self.expression
    }
}

impl Rule {
    /// A rule; `field` is where its faults are shown, relative to the value.
    pub(crate) fn new(
        check: Arc<Check>,
        message: Option<&str>,
        message_expression: Option<&str>,
        field: Option<&str>,
    ) -> Self {
        Self {
            check,
            message: message.map(Into::into),
            message_expression: message_expression.map(|text| Box::new(Expression::new(text))),
            field: field.map(|path| FieldPath::parse(path.trim_start_matches('.'))).unwrap_or_default(),
        }
    }

    /// The same rule for a schema that extends its own.
    pub(crate) fn again(&self) -> Self {
        let message_expression =
            self.message_expression.as_ref().map(|expression| Box::new(Expression::new(expression.text())));
        Self {
            check: Arc::clone(&self.check),
            message: self.message.clone(),
            message_expression,
            field: self.field.clone(),
        }
    }

    /// The rule's text.
    pub(crate) fn text(&self) -> &str {
        self.check.text()
    }

    /// The steps to the field that the rule is about.
    pub(crate) fn field(&self) -> &[Segment] {
        self.field.segments()
    }

    /// Its shared part.
    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Check {
        &self.check
    }

    /// Evaluates the rule on a value that is structurally valid. The scope is made when the library is first needed.
    ///
    /// # Errors
    /// What the rule says if it does not hold, or why it cannot be evaluated, which counts as not holding.
    pub(crate) fn check<'v>(
        &self,
        node: &'v Node,
        schema: &Schema,
        scope: &mut Option<Scope<'v>>,
    ) -> Result<(), String> {
        match self.check.native {
            Some(native) if native(node) => return Ok(()),
            Some(_) => {}
            None => {
                let scope = scope.get_or_insert_with(|| Scope::new(node, schema));
                match self.check.expression.holds(scope) {
                    Ok(true) => return Ok(()),
                    Ok(false) => {}
                    Err(reason) => return Err(format!("rule evaluation error: {reason}")),
                }
            }
        }
        let said = self
            .message_expression
            .as_ref()
            .and_then(|expression| expression.text_of(scope.get_or_insert_with(|| Scope::new(node, schema))));
        Err(said
            .or_else(|| self.message.as_deref().map(str::to_owned))
            .unwrap_or_else(|| format!("failed rule: {}", self.check.text())))
    }
}
