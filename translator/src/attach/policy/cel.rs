//! Expressions of policies (CEL), read into the form in which Envoy takes them.
//!
//! Envoy refuses a whole table of routes for one expression that it cannot build, and one that it cannot evaluate fits
//! nothing: so names, functions and patterns that Envoy has nothing for are found here. What is in the tables is what
//! Envoy's own evaluator is made with (`source/extensions/filters/common/expr`), which has neither macros over lists nor
//! texts made of others.

mod pattern;

use cel::common::ast::{EntryExpr, Expr, IdedEntryExpr, IdedExpr, LiteralValue, SelectExpr};
use cel::parser::Parser;
use envoy_types::pb::cel::expr as pb;
use envoy_types::pb::cel::expr::constant::ConstantKind;
use envoy_types::pb::cel::expr::expr::create_struct::{Entry, entry::KeyKind};
use envoy_types::pb::cel::expr::expr::{Call, CreateList, CreateStruct, ExprKind, Ident, Select};
use prost::Message as _;

/// How deep an expression may be nested: Envoy's parser of messages stops at 100 levels, of which each takes two.
const MAX_DEPTH: usize = 40;

/// What there is before a backend is chosen, with its fields; without any, whatever is asked for. See Envoy's "Attributes".
const ATTRIBUTES: &[(&str, &[&str])] = &[
    (
        "connection",
        &[
            "dns_san_local_certificate",
            "dns_san_peer_certificate",
            "id",
            "mtls",
            "requested_server_name",
            "sha256_peer_certificate_digest",
            "subject_local_certificate",
            "subject_peer_certificate",
            "tls_version",
            "uri_san_local_certificate",
            "uri_san_peer_certificate",
        ],
    ),
    ("destination", &["address", "port"]),
    ("filter_state", &[]),
    ("metadata", &["filter_metadata", "typed_filter_metadata"]),
    (
        "request",
        &[
            "headers",
            "host",
            "id",
            "method",
            "path",
            "protocol",
            "query",
            "referer",
            "scheme",
            "size",
            "time",
            "total_size",
            "url_path",
            "useragent",
        ],
    ),
    ("source", &["address", "port"]),
    (
        "xds",
        &[
            "cluster_name",
            "filter_chain_name",
            "listener_direction",
            "listener_metadata",
            "node",
            "route_metadata",
            "route_name",
            "virtual_host_metadata",
            "virtual_host_name",
        ],
    ),
];

/// What there is only later.
const LATER: [&str; 3] = ["response", "upstream", "upstream_filter_state"];

/// Names of types.
const TYPES: [&str; 10] =
    ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];

/// Functions, and how many arguments they take: a target counts as one.
const FUNCTIONS: &[(&str, &[usize])] = &[
    ("!_", &[1]),
    ("-_", &[1]),
    ("@in", &[2]),
    ("_!=_", &[2]),
    ("_%_", &[2]),
    ("_&&_", &[2]),
    ("_*_", &[2]),
    ("_+_", &[2]),
    ("_-_", &[2]),
    ("_/_", &[2]),
    ("_<=_", &[2]),
    ("_<_", &[2]),
    ("_==_", &[2]),
    ("_>=_", &[2]),
    ("_>_", &[2]),
    ("_?_:_", &[3]),
    ("_[_]", &[2]),
    ("_||_", &[2]),
    ("bool", &[1]),
    ("bytes", &[1]),
    ("contains", &[2]),
    ("double", &[1]),
    ("duration", &[1]),
    ("dyn", &[1]),
    ("endsWith", &[2]),
    ("getDate", &[1, 2]),
    ("getDayOfMonth", &[1, 2]),
    ("getDayOfWeek", &[1, 2]),
    ("getDayOfYear", &[1, 2]),
    ("getFullYear", &[1, 2]),
    ("getHours", &[1, 2]),
    ("getMilliseconds", &[1, 2]),
    ("getMinutes", &[1, 2]),
    ("getMonth", &[1, 2]),
    ("getSeconds", &[1, 2]),
    ("int", &[1]),
    ("matches", &[2]),
    ("size", &[1]),
    ("startsWith", &[2]),
    ("timestamp", &[1]),
    ("type", &[1]),
    ("uint", &[1]),
];

/// Functions that belong to what stands before them.
const OF_TARGETS: &str = "get";

/// An expression as an encoded `cel.expr.ParsedExpr`.
///
/// # Errors
/// It is none, or Envoy could not build or evaluate it; says why.
pub(super) fn parsed(text: &str) -> Result<Vec<u8>, String> {
    let read = Parser::new().parse(text).map_err(|errors| {
        let first = errors.errors.first().map(|error| error.msg.clone()).unwrap_or_default();
        first.lines().next().unwrap_or_default().to_owned()
    })?;
    let expr = Some(*expr(&read, MAX_DEPTH)?);
    Ok(pb::ParsedExpr { expr, source_info: None }.encode_to_vec())
}

fn expr(found: &IdedExpr, depth: usize) -> Result<Box<pb::Expr>, String> {
    let depth = depth.checked_sub(1).ok_or("it is nested too deep")?;
    let kind = match &found.expr {
        Expr::Ident(name) => {
            known(name)?;
            ExprKind::IdentExpr(Ident { name: name.clone() })
        }
        Expr::Literal(value) => ExprKind::ConstExpr(pb::Constant { constant_kind: Some(constant(value)) }),
        Expr::Select(found) => ExprKind::SelectExpr(Box::new(select(found, depth)?)),
        Expr::Call(call) => {
            let given = call.args.len() + usize::from(call.target.is_some());
            function(&call.func_name, given, call.target.is_some())?;
            arguments(&call.func_name, &call.args)?;
            ExprKind::CallExpr(Box::new(Call {
                target: call.target.as_deref().map(|target| expr(target, depth)).transpose()?,
                function: call.func_name.clone(),
                args: all(&call.args, depth)?,
            }))
        }
        Expr::List(list) if list.optional_indices.is_empty() => {
            ExprKind::ListExpr(CreateList { elements: all(&list.elements, depth)?, ..Default::default() })
        }
        Expr::Map(map) => ExprKind::StructExpr(CreateStruct {
            message_name: String::new(),
            entries: entries(&map.entries, depth)?,
        }),
        Expr::Comprehension(_) => {
            return Err("Envoy does not evaluate all, exists, filter and map".to_owned());
        }
        Expr::Struct(found) => return Err(format!("there is no message {}", found.type_name)),
        Expr::List(_) | Expr::Unspecified => return Err(OPTIONAL.to_owned()),
    };
    let id = i64::try_from(found.id).unwrap_or(i64::MAX);
    Ok(Box::new(pb::Expr { id, expr_kind: Some(kind) }))
}

const OPTIONAL: &str = "it has optional values, which Envoy does not know";

fn all(found: &[IdedExpr], depth: usize) -> Result<Vec<pb::Expr>, String> {
    found.iter().map(|found| expr(found, depth).map(|expr| *expr)).collect()
}

/// Whether there is something of this name, with these fields.
fn known(name: &str) -> Result<&'static [&'static str], String> {
    if let Some((_, fields)) = ATTRIBUTES.iter().find(|(known, _)| *known == name) {
        return Ok(fields);
    }
    if TYPES.contains(&name) {
        return Ok(&[]);
    }
    if LATER.contains(&name) {
        return Err(format!("{name} is not there yet when it is decided who may pass"));
    }
    let names: Vec<&str> = ATTRIBUTES.iter().map(|(name, _)| *name).collect();
    Err(format!("{name} is not known: there are {}", names.join(", ")))
}

fn field(of: &IdedExpr, field: &str) -> Result<(), String> {
    let Expr::Ident(name) = &of.expr else { return Ok(()) };
    let fields = known(name)?;
    if fields.is_empty() || fields.contains(&field) {
        return Ok(());
    }
    Err(format!("{name}.{field} is not known, or not yet there: {name} has {}", fields.join(", ")))
}

fn select(found: &SelectExpr, depth: usize) -> Result<Select, String> {
    field(&found.operand, &found.field)?;
    Ok(Select {
        operand: Some(expr(&found.operand, depth)?),
        field: found.field.clone(),
        test_only: found.test,
    })
}

fn function(name: &str, given: usize, has_target: bool) -> Result<(), String> {
    let Some((_, counts)) = FUNCTIONS.iter().find(|(known, _)| *known == name) else {
        return Err(format!("Envoy has no function {name}"));
    };
    if !counts.contains(&given) || name.starts_with(OF_TARGETS) && !has_target {
        return Err(format!("{name} does not take {given} arguments, what stands before it among them"));
    }
    Ok(())
}

/// What can be told of arguments that are written out.
fn arguments(name: &str, args: &[IdedExpr]) -> Result<(), String> {
    let text = |found: &IdedExpr| match &found.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner().to_owned()),
        _ => None,
    };
    match (name, args) {
        ("matches", [.., pattern]) => match text(pattern) {
            Some(pattern) => pattern::check(&pattern),
            None => Err("the pattern of matches must be written out".to_owned()),
        },
        ("_+_", [a, b]) => {
            let list = |found: &IdedExpr| matches!(found.expr, Expr::List(_));
            let joins = |found: &IdedExpr| text(found).is_some() || list(found);
            if joins(a) || joins(b) {
                return Err("Envoy does not join texts or lists".to_owned());
            }
            Ok(())
        }
        ("_[_]", [of, key]) => text(key).map_or(Ok(()), |key| field(of, &key)),
        _ => Ok(()),
    }
}

fn entries(found: &[IdedEntryExpr], depth: usize) -> Result<Vec<Entry>, String> {
    let entry = |found: &IdedEntryExpr| {
        let (key, value, optional) = match &found.expr {
            EntryExpr::StructField(field) => {
                (KeyKind::FieldKey(field.field.clone()), &field.value, field.optional)
            }
            EntryExpr::MapEntry(entry) => {
                (KeyKind::MapKey(*expr(&entry.key, depth)?), &entry.value, entry.optional)
            }
        };
        if optional {
            return Err(OPTIONAL.to_owned());
        }
        let value = Some(*expr(value, depth)?);
        let id = i64::try_from(found.id).unwrap_or(i64::MAX);
        Ok(Entry { id, key_kind: Some(key), value, optional_entry: false })
    };
    found.iter().map(entry).collect()
}

fn constant(value: &LiteralValue) -> ConstantKind {
    match value {
        LiteralValue::Boolean(value) => ConstantKind::BoolValue(*value.inner()),
        LiteralValue::Bytes(value) => ConstantKind::BytesValue(value.inner().to_vec()),
        LiteralValue::Double(value) => ConstantKind::DoubleValue(*value.inner()),
        LiteralValue::Int(value) => ConstantKind::Int64Value(*value.inner()),
        LiteralValue::String(value) => ConstantKind::StringValue(value.inner().to_owned()),
        LiteralValue::UInt(value) => ConstantKind::Uint64Value(*value.inner()),
        LiteralValue::Null => ConstantKind::NullValue(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An expression, in words.
    fn shown(expr: &pb::Expr) -> String {
        let inner = |expr: &Option<Box<pb::Expr>>| shown(expr.as_ref().unwrap());
        match expr.expr_kind.as_ref().unwrap() {
            ExprKind::IdentExpr(ident) => ident.name.clone(),
            ExprKind::ConstExpr(constant) => format!("{:?}", constant.constant_kind.as_ref().unwrap()),
            ExprKind::SelectExpr(select) => {
                let test = if select.test_only { "?" } else { "" };
                format!("{}.{}{test}", inner(&select.operand), select.field)
            }
            ExprKind::CallExpr(call) => {
                let target = call.target.iter().map(|target| shown(target));
                let args: Vec<String> = target.chain(call.args.iter().map(shown)).collect();
                format!("{}({})", call.function, args.join(", "))
            }
            ExprKind::ListExpr(list) => {
                format!("[{}]", list.elements.iter().map(shown).collect::<Vec<_>>().join(", "))
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn expressions_keep_their_shape() {
        for (text, expected) in [
            (
                "request.headers['x-team'] == 'a'",
                "_==_(_[_](request.headers, StringValue(\"x-team\")), StringValue(\"a\"))",
            ),
            (
                "request.path.startsWith('/a') && !true",
                "_&&_(startsWith(request.path, StringValue(\"/a\")), !_(BoolValue(true)))",
            ),
            ("has(request.headers.x)", "request.headers.x?"),
            ("request.size in [1, 2]", "@in(request.size, [Int64Value(1), Int64Value(2)])"),
            (
                "source.port > 5u || 1.5 < -2.0",
                "_||_(_>_(source.port, Uint64Value(5)), _<_(DoubleValue(1.5), DoubleValue(-2.0)))",
            ),
            (
                "request.time.getHours('UTC') < 8",
                "_<_(getHours(request.time, StringValue(\"UTC\")), Int64Value(8))",
            ),
            ("connection.mtls ? true : false", "_?_:_(connection.mtls, BoolValue(true), BoolValue(false))"),
        ] {
            let bytes = parsed(text).unwrap_or_else(|why| panic!("{text}: {why}"));
            let read = pb::ParsedExpr::decode(bytes.as_slice()).unwrap();
            assert_eq!(shown(&read.expr.unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn what_envoy_could_not_build_or_evaluate_is_said() {
        for (text, why) in [
            ("", ""),
            ("request.", ""),
            ("a ==", ""),
            ("requests.path == 'a'", "requests is not known"),
            ("request.pth == 'a'", "request.pth is not known"),
            ("request['pth'] == 'a'", "request.pth is not known"),
            ("response.code == 200", "response is not there yet"),
            ("request.duration > duration('1s')", "request.duration is not known, or not yet there"),
            ("[1].exists(n, n > 0)", "Envoy does not evaluate"),
            ("request.headers.all(h, h != 'a')", "Envoy does not evaluate"),
            ("request.path.lowerAscii() == 'a'", "Envoy has no function lowerAscii"),
            ("string(request.size) == '1'", "Envoy has no function string"),
            ("request.path.startsWith('a', 'b')", "startsWith does not take 3"),
            ("getHours(request.time) < 2", "getHours does not take 1"),
            ("request.path + 'a' == 'b'", "Envoy does not join"),
            ("request.path.matches('(')", ""),
            ("request.path.matches(request.host)", "the pattern of matches must be written out"),
            ("request.path.matches('a{200}')", "too large"),
            ("google.rpc.Status{code: 1} == 1", "there is no message"),
        ] {
            let found = parsed(text).unwrap_err();
            assert!(found.contains(why) && !found.is_empty(), "{text}: {found}");
        }
        let deep = format!("{}true{}", "!(".repeat(60), ")".repeat(60));
        assert!(parsed(&deep).is_err());
        let sum = (0..MAX_DEPTH + 2).map(|n| format!("source.port * {n}")).collect::<Vec<_>>().join(" - ");
        assert_eq!(parsed(&format!("{sum} > 0")).unwrap_err(), "it is nested too deep");
    }
}
