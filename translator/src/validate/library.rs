//! CEL through the library, with the functions that Kubernetes adds and that published rules use.
//!
//! `matches` is routed to a cache of compiled regular expressions: the library compiles one at each call.

use super::names;
use super::re2;
use super::schema::Schema;
use cel::common::ast::{CallExpr, Expr};
use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelOptional, CelString, STRING_TYPE,
    Type,
};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::parser::Macro;
use cel::{Context, DeclarationError, Env, ExecutionError, Program, Value as CelValue};
use moorgate_model::{Node, Value};
use regex::Regex;
use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, OnceLock, PoisonError, RwLock};

/// A function of the library's environment.
type Answer<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;

/// The name under which `matches` is called with the cache.
const CACHED_MATCHES: &str = "cachedMatches";

/// The one environment, or why it could not be made, which a test rules out.
static ENVIRONMENT: LazyLock<Result<Arc<Env>, String>> =
    LazyLock::new(|| environment().map(Arc::new).map_err(|error| error.to_string()));

/// Regular expressions that rules have used. Their texts come from the schemas, so there are few.
static REGEXES: LazyLock<RwLock<BTreeMap<String, Option<Regex>>>> = LazyLock::new(RwLock::default);

/// An expression, compiled when it is first used.
#[derive(Debug)]
pub(crate) struct Expression {
    text: Box<str>,
    program: OnceLock<Result<Program, String>>,
}

impl Expression {
    /// An expression that is not yet compiled.
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.into(), program: OnceLock::new() }
    }

    /// Its text.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether the expression is true of a value.
    ///
    /// # Errors
    /// It does not compile, cannot be evaluated, or is neither true nor false.
    pub(crate) fn holds(&self, scope: &Scope<'_>) -> Result<bool, String> {
        match self.evaluate(scope)? {
            CelValue::Bool(value) => Ok(value),
            other => Err(format!("the rule gives {other:?}")),
        }
    }

    /// The text that a message expression gives; none if it fails or is blank, as the API server has it.
    pub(crate) fn text_of(&self, scope: &Scope<'_>) -> Option<String> {
        match self.evaluate(scope) {
            Ok(CelValue::String(text)) if !text.trim().is_empty() => Some(text.to_string()),
            _ => None,
        }
    }

    /// Compiles the expression.
    ///
    /// # Errors
    /// What the parser says.
    pub(crate) fn program(&self) -> Result<&Program, &str> {
        self.program
            .get_or_init(|| {
                let environment = ENVIRONMENT.as_ref().map_err(Clone::clone)?;
                environment.compile(&self.text).map_err(|error| error.to_string())
            })
            .as_ref()
            .map_err(String::as_str)
    }

    fn evaluate(&self, scope: &Scope<'_>) -> Result<CelValue, String> {
        let program = self.program()?;
        let context = scope.context.as_ref().ok_or("the library's environment is broken")?;
        program.execute(context).map_err(|error| error.to_string())
    }
}

/// A value, converted once for all rules that are evaluated on it.
pub(crate) struct Scope<'v> {
    context: Option<Context<'v, 'v>>,
}

impl<'v> Scope<'v> {
    /// Converts a value; its schema says how its fields are named.
    pub(crate) fn new(node: &'v Node, schema: &Schema) -> Self {
        let context = ENVIRONMENT.as_ref().ok().map(|environment| {
            let mut context = Context::with_env(Arc::clone(environment));
            context.add_variable_as_val("self", value(node, Some(schema)));
            context
        });
        Self { context }
    }
}

/// A value as the library sees it. Fields are named as Kubernetes escapes them; map keys are left as they are.
fn value<'v>(node: &'v Node, schema: Option<&Schema>) -> Box<dyn Val + 'v> {
    match &node.value {
        Value::Null => Box::new(CelNull),
        Value::Bool(value) => Box::new(CelBool::from(*value)),
        #[allow(clippy::cast_precision_loss, reason = "type number is a double in CEL")]
        Value::Int(number) if schema.is_some_and(|schema| schema.kind == super::schema::Type::Number) => {
            Box::new(CelDouble::from(*number as f64))
        }
        Value::Int(number) => Box::new(CelInt::from(*number)),
        Value::Float(number) => Box::new(CelDouble::from(*number)),
        Value::String(text) => Box::new(CelString::from(&**text)),
        Value::Sequence(items) => {
            let child = schema.and_then(|schema| schema.items.as_deref());
            let items: Vec<Box<dyn Val + 'v>> = items.iter().map(|item| value(item, child)).collect();
            Box::new(CelList::from(items))
        }
        Value::Mapping(fields) => {
            #[allow(
                clippy::disallowed_types,
                reason = "the library's own map; nothing of its order leaves it"
            )]
            let mut map: std::collections::HashMap<CelMapKey<'v>, Box<dyn Val + 'v>> =
                std::collections::HashMap::with_capacity(fields.len());
            for entry in fields.entries() {
                let listed = schema.and_then(|schema| schema.property(&entry.key));
                let child = schema.and_then(|schema| schema.field(&entry.key));
                if listed.is_some()
                    && let Cow::Owned(escaped) = escape(&entry.key)
                {
                    map.insert(CelMapKey::from(escaped), value(&entry.value, child));
                }
                map.insert(CelMapKey::from(&*entry.key), value(&entry.value, child));
            }
            Box::new(CelMap::from(map))
        }
    }
}

/// A field's name as a rule writes it, where that differs: reserved words and letters that no identifier has.
fn escape(name: &str) -> Cow<'_, str> {
    const RESERVED: [&str; 18] = [
        "as",
        "break",
        "const",
        "continue",
        "else",
        "false",
        "for",
        "function",
        "if",
        "import",
        "in",
        "let",
        "loop",
        "namespace",
        "null",
        "package",
        "return",
        "true",
    ];
    if RESERVED.contains(&name) {
        return Cow::Owned(format!("__{name}__"));
    }
    if !name.contains(['.', '-', '/']) && !name.contains("__") {
        return Cow::Borrowed(name);
    }
    let escaped = name.replace("__", "__underscores__");
    Cow::Owned(escaped.replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__"))
}

/// The standard library, its string extension, and Kubernetes' functions.
fn environment() -> Result<Env, DeclarationError> {
    let mut env = Env::stdlib();
    cel::extensions::strings(&mut env)?;
    cel::extensions::lists(&mut env)?;
    env.add_macro(Macro::receiver("matches", 1, |helper, target, arguments| {
        let (Some(text), Some(pattern)) = (target.take(), arguments.pop()) else { return Ok(None) };
        let call = CallExpr { func_name: CACHED_MATCHES.into(), target: None, args: vec![text, pattern] };
        Ok(Some(helper.next_expr(Expr::Call(call))))
    }))?;
    env.add_overload(
        CACHED_MATCHES,
        "cached_matches_string_string",
        vec![STRING_TYPE, STRING_TYPE],
        matches,
    )?;
    env.add_overload("isIP", "is_ip_string", vec![STRING_TYPE], is_ip)?;
    env.add_type(FORMAT.to_owned())?;
    for (name, id, make) in FORMATS {
        env.add_overload(name, id, vec![], make)?;
    }
    env.add_member_overload(
        "validate",
        "format_validate_string",
        FORMAT.to_owned(),
        vec![STRING_TYPE],
        validate,
    )?;
    Ok(env)
}

fn argument<'a>(arguments: &'a [CowVal<'_, '_>], index: usize) -> Result<&'a str, ExecutionError> {
    arguments
        .get(index)
        .and_then(|value| value.downcast_ref::<CelString<'_>>())
        .map(CelString::inner)
        .ok_or(ExecutionError::MissingArgumentOrTarget)
}

/// `text.matches(pattern)`: anywhere in the text, as in RE2.
#[allow(clippy::needless_pass_by_value, reason = "the library's signature")]
fn matches<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let (text, pattern) = (argument(&arguments, 0)?, argument(&arguments, 1)?);
    let broken =
        || ExecutionError::function_error("matches", format!("{pattern:?} is not a regular expression"));
    let known = REGEXES.read().unwrap_or_else(PoisonError::into_inner).get(pattern).cloned();
    let regex = known.unwrap_or_else(|| {
        let regex = re2::compile(pattern).ok();
        REGEXES.write().unwrap_or_else(PoisonError::into_inner).insert(pattern.to_owned(), regex.clone());
        regex
    });
    let regex = regex.ok_or_else(broken)?;
    Ok(CowVal::owned(CelBool::from(regex.is_match(text))))
}

/// `isIP(text)`.
#[allow(clippy::needless_pass_by_value, reason = "the library's signature")]
fn is_ip<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    Ok(CowVal::owned(CelBool::from(names::is_ip(argument(&arguments, 0)?))))
}

/// The type of `format.dns1123Label()` and its like.
static FORMAT: Type = Type::new_unspecified_type("kubernetes.NamedFormat");

/// A named format: says what is wrong with a text, if anything is.
#[derive(Debug, Clone, Copy)]
struct NamedFormat(fn(&str) -> Option<&'static str>);

impl Val for NamedFormat {
    fn get_type(&self) -> &Type {
        &FORMAT
    }

    fn cel_type() -> &'static Type {
        &FORMAT
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(*self)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for NamedFormat {}

/// A function without arguments that makes a value.
type Make = for<'b, 'v> fn(Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v>;

/// The formats by name, each with the id of its overload.
const FORMATS: [(&str, &str, Make); 5] = [
    ("format.dns1123Label", "format_dns1123_label", |_| Ok(CowVal::owned(NamedFormat(names::label)))),
    ("format.dns1123Subdomain", "format_dns1123_subdomain", |_| {
        Ok(CowVal::owned(NamedFormat(names::subdomain)))
    }),
    ("format.dns1035Label", "format_dns1035_label", |_| Ok(CowVal::owned(NamedFormat(names::label_1035)))),
    ("format.qualifiedName", "format_qualified_name", |_| {
        Ok(CowVal::owned(NamedFormat(names::qualified_name)))
    }),
    ("format.labelValue", "format_label_value", |_| Ok(CowVal::owned(NamedFormat(names::label_value)))),
];

/// `format.validate(text)`: an optional list of what is wrong.
#[allow(clippy::needless_pass_by_value, reason = "the library's signature")]
fn validate<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Answer<'b, 'v> {
    let format = arguments
        .first()
        .and_then(|value| value.downcast_ref::<NamedFormat>())
        .ok_or(ExecutionError::MissingArgumentOrTarget)?;
    let answer = match (format.0)(argument(&arguments, 1)?) {
        None => CelOptional::none(),
        Some(fault) => {
            let fault: Box<dyn Val> = Box::new(CelString::from(fault));
            CelOptional::of(Box::new(CelList::from(vec![fault])))
        }
    };
    Ok(CowVal::owned(answer))
}
