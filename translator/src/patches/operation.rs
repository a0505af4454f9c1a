//! One patch: RFC 6902 on a resource, at the places that a JSONPath (RFC 9535) finds or a pointer (RFC 6901) names.

use super::Failure;
use super::policy::JsonPatch;
use super::resource::{Key, State, is_patched};
use json_patch::jsonptr::PointerBuf;
use json_patch::{
    AddOperation, CopyOperation, MoveOperation, PatchOperation, RemoveOperation, ReplaceOperation,
    TestOperation,
};
use jsonpath_rust::JsonPath as _;
use moorgate_model::FieldPath;
use serde_json::Value as Json;
use std::borrow::Cow;

/// How many places one JSONPath may find.
const MOST_PLACES: usize = 10_000;

/// Applies a patch to the resource that it names.
pub(super) fn apply(state: &mut State, patch: &JsonPatch, at: &FieldPath) -> Result<(), Failure> {
    if !is_patched(&patch.type_url) {
        let message = match patch.type_url.rsplit('.').next() {
            Some("Secret") => "secrets come from relays by SDS, and never stand in a snapshot",
            _ => "endpoints come from relays: give a cluster its endpoints (load_assignment) instead",
        };
        return Err(Failure::refused(at.key("type"), message));
    }
    let key: Key = (patch.type_url.clone(), patch.name.clone());
    let index = at.segments().iter().find_map(|step| match step {
        moorgate_model::Segment::Index(index) => Some(*index),
        moorgate_model::Segment::Key(_) => None,
    });
    let index = index.unwrap_or_default();
    let known = state.json(&key, at)?.map(Cow::into_owned);
    let whole = patch.path.as_deref().unwrap_or_default().is_empty() && patch.json_path.is_none();
    if patch.op == "add" && whole {
        // As Envoy Gateway has it: a resource of its own.
        if known.is_some() {
            let message = format!("there is a resource {:?} already: replace parts of it", patch.name);
            return Err(Failure::refused(at.key("name"), message));
        }
        let value = patch.value.clone().unwrap_or_default();
        state.put(key, value, index);
        return Ok(());
    }
    let Some(mut json) = known else {
        let kind = patch.type_url.rsplit('.').next().unwrap_or_default();
        let names = state.names(&patch.type_url);
        let near = crate::validate::nearest(&patch.name, names.iter().copied());
        let meant = near.map(|near| format!("; is {near:?} meant?")).unwrap_or_default();
        let message = format!("there is no {kind} {:?}{meant}", patch.name);
        return Err(Failure::target(at.key("name"), message));
    };
    let operations = operations(&json, patch, &at.key("operation"))?;
    for operation in operations {
        json_patch::patch(&mut json, std::slice::from_ref(&operation)).map_err(|error| {
            let field = at.key("operation").key(if patch.path.is_some() { "path" } else { "jsonPath" });
            let message = format!("{} meets nothing in {:?}: {}", patch.op, patch.name, error.kind);
            Failure::nothing(field, message)
        })?;
    }
    state.put(key, json, index);
    Ok(())
}

/// Applies a patch to a document that is no resource of a snapshot. What it brings may have so many bytes.
pub(crate) fn on_document(
    json: &mut Json,
    patch: &JsonPatch,
    at: &FieldPath,
    most_bytes: usize,
) -> Result<(), Failure> {
    let mut brought = 0_usize;
    for operation in operations(json, patch, at)? {
        let more = match &operation {
            PatchOperation::Add(add) => Some(&add.value),
            PatchOperation::Replace(replace) => Some(&replace.value),
            PatchOperation::Copy(copy) => json.pointer(copy.from.as_str()),
            PatchOperation::Remove(_) | PatchOperation::Move(_) | PatchOperation::Test(_) => None,
        };
        brought = brought.saturating_add(more.map_or(0, |value| value.to_string().len()));
        if brought > most_bytes {
            let message = format!("{} brings more than {most_bytes} bytes", patch.op);
            return Err(Failure::refused(at.clone(), message));
        }
        json_patch::patch(json, std::slice::from_ref(&operation)).map_err(|error| {
            let field = at.key(if patch.path.is_some() { "path" } else { "jsonPath" });
            let message = format!("{} meets nothing in {:?}: {}", patch.op, patch.name, error.kind);
            Failure::nothing(field, message)
        })?;
    }
    Ok(())
}

/// The operations, the last place first: what is removed from a list moves nothing that comes after.
fn operations(json: &Json, patch: &JsonPatch, at: &FieldPath) -> Result<Vec<PatchOperation>, Failure> {
    let end = patch.path.as_deref().unwrap_or_default();
    let places = match &patch.json_path {
        None => vec![end.to_owned()],
        Some(text) => {
            let at = at.key("jsonPath");
            // Envoy Gateway's paths may leave out the root.
            let text = match text.chars().next() {
                Some('$') => text.clone(),
                Some('.' | '[') => format!("${text}"),
                _ => format!("$.{text}"),
            };
            let found = json
                .query_only_path(&text)
                .map_err(|error| Failure::misfit(at.clone(), format!("{text:?} is no JSONPath: {error}")))?;
            if found.is_empty() {
                return Err(Failure::nothing(at, format!("{text:?} finds nothing in {:?}", patch.name)));
            }
            if found.len() > MOST_PLACES {
                let message = format!("{text:?} finds more than {MOST_PLACES} places");
                return Err(Failure::refused(at, message));
            }
            let mut places = Vec::with_capacity(found.len());
            for path in found.iter().rev() {
                let pointer = pointer(path).filter(|pointer| json.pointer(pointer).is_some());
                let pointer = pointer
                    .ok_or_else(|| Failure::misfit(at.clone(), format!("{path:?} cannot be pointed at")))?;
                places.push(format!("{pointer}{end}"));
            }
            places
        }
    };
    let parse = |text: &str, field: &str| {
        PointerBuf::parse(text)
            .map_err(|_| Failure::misfit(at.key(field), format!("{text:?} is no JSON pointer (RFC 6901)")))
    };
    let value = || patch.value.clone().unwrap_or_default();
    let from = || parse(patch.from.as_deref().unwrap_or_default(), "from");
    let one = |place: String| {
        let path = parse(&place, "path")?;
        Ok(match patch.op.as_str() {
            "add" => PatchOperation::Add(AddOperation { path, value: value() }),
            "remove" => PatchOperation::Remove(RemoveOperation { path }),
            "replace" => PatchOperation::Replace(ReplaceOperation { path, value: value() }),
            "move" => PatchOperation::Move(MoveOperation { from: from()?, path }),
            "copy" => PatchOperation::Copy(CopyOperation { from: from()?, path }),
            "test" => PatchOperation::Test(TestOperation { path, value: value() }),
            other => return Err(Failure::misfit(at.key("op"), format!("{other:?} is no operation"))),
        })
    };
    places.into_iter().map(one).collect()
}

/// A normalized path (`$['a'][0]`, RFC 9535 section 2.7) as a JSON pointer.
pub(super) fn pointer(path: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = path.strip_prefix('$')?;
    while !rest.is_empty() {
        let inside = rest.strip_prefix('[')?;
        if let Some(name) = inside.strip_prefix('\'') {
            let mut letters = name.char_indices();
            let mut key = String::new();
            let end = loop {
                match letters.next()? {
                    (_, '\\') => key.push(match letters.next()?.1 {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        'b' => '\u{8}',
                        'f' => '\u{c}',
                        other => other,
                    }),
                    (end, '\'') => break end,
                    (_, letter) => key.push(letter),
                }
            };
            out.push('/');
            out.push_str(&key.replace('~', "~0").replace('/', "~1"));
            rest = name.get(end + 1..)?.strip_prefix(']')?;
        } else {
            let (number, after) = inside.split_once(']')?;
            number.parse::<usize>().ok()?;
            out.push('/');
            out.push_str(number);
            rest = after;
        }
    }
    Some(out)
}
