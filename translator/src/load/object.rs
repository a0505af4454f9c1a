//! Trees to objects: which object a document holds, Lists taken apart, and what is none of ours.

use super::fault::Fault;
use super::secret::{blank_secret, may_hold_secret};
use super::text::{name_of, shown, unfit_for_name};
use super::yaml::Parsed;
use moorgate_model::diagnostic::syntax::{
    DUPLICATE_OBJECT, ENCRYPTED, HOSTILE_CHARACTER, NESTED_LIST, NOT_AN_OBJECT, OBJECT_INCOMPLETE, UNRENDERED,
};
use moorgate_model::{
    Code, Diagnostic, Diagnostics, Entry, FieldPath, Mapping, Node, Object, ObjectRef, Origin, Span, Value,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Where a document stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) file: &'a Arc<str>,
    /// Its text, for the cause of a failure.
    pub(super) text: &'a str,
    /// First and last line, if the document has lines of its own.
    pub(super) lines: Option<(u32, u32)>,
    /// What Helm says it rendered.
    pub(super) rendered_from: Option<&'a str>,
}

/// The objects so far.
#[derive(Debug, Default)]
pub(super) struct Objects {
    pub(super) list: Vec<Object>,
    pub(super) diagnostics: Diagnostics,
    pub(super) redacted: BTreeMap<Arc<str>, Vec<(u32, u32)>>,
    /// Group, kind, namespace and name of each object, and its index.
    seen: BTreeMap<ObjectRef, usize>,
    names: BTreeSet<Arc<str>>,
}

/// Objects of one document, by place: whose faults count, and whose do not.
#[derive(Debug, Default)]
struct Spans {
    ours: Vec<(Span, ObjectRef)>,
    foreign: Vec<Span>,
}

impl Objects {
    /// Takes what a document gave.
    pub(super) fn take(&mut self, parsed: Parsed, place: &Place<'_>) {
        let mut spans = Spans::default();
        for root in parsed.roots {
            self.root(root, place, &mut spans);
        }
        for fault in parsed.faults {
            self.fault(fault, place.file, &spans);
        }
        if let Some(failure) = parsed.failure {
            self.failure(failure, place);
        }
    }

    /// Lines that must never be quoted.
    pub(super) fn redact(&mut self, file: &Arc<str>, lines: (u32, u32)) {
        self.redacted.entry(file.clone()).or_default().push(lines);
    }

    fn fault(&mut self, fault: Fault, file: &Arc<str>, spans: &Spans) {
        let within = |span: &Span| span.start <= fault.span.start && fault.span.start <= span.end;
        if fault.mild && spans.foreign.iter().any(within) {
            return;
        }
        let object = spans.ours.iter().find(|(span, _)| within(span)).map(|(_, object)| object.clone());
        let mut diagnostic = fault.into_diagnostic(file);
        diagnostic.object = object;
        self.diagnostics.push(diagnostic);
    }

    /// Nothing more of this document can be read.
    fn failure(&mut self, failure: Fault, place: &Place<'_>) {
        if may_hold_secret(place.text) {
            self.redact(place.file, place.lines.unwrap_or((1, u32::MAX)));
        }
        let failure = match place.text.split_once("{{") {
            Some((_, rest)) if rest.contains("}}") => {
                let message = "a template that was not rendered: the document is not YAML";
                Fault::new(&UNRENDERED, failure.span, message).help("give the output of helm template")
            }
            _ => failure,
        };
        self.diagnostics.push(failure.into_diagnostic(place.file));
    }

    fn say(
        &mut self,
        code: &'static Code,
        span: Span,
        place: &Place<'_>,
        message: impl Into<String>,
        help: &str,
    ) {
        let diagnostic = Diagnostic::new(code, message).at(place.file.clone(), span);
        self.diagnostics.push(if help.is_empty() { diagnostic } else { diagnostic.help(help) });
    }

    fn root(&mut self, root: Node, place: &Place<'_>, spans: &mut Spans) {
        match &root.value {
            Value::Null => {}
            Value::Mapping(fields) if fields.get("apiVersion").is_none() && fields.get("kind").is_none() => {
                self.not_an_object(&root, fields.get("{{").is_some(), place, spans);
            }
            Value::Mapping(fields) if is_list(fields) => self.list(root, place, spans),
            Value::Mapping(fields)
                if fields.get("kind").is_none() && base_name(place.file) == "chart.yaml" =>
            {
                let message = "a Helm chart that was not rendered";
                self.say(&UNRENDERED, root.span, place, message, "give the output of helm template");
            }
            Value::Mapping(_) => self.object(root, place, place.lines, spans),
            Value::Sequence(_) => self.not_an_object(&root, false, place, spans),
            _ => {
                self.redact(place.file, place.lines.unwrap_or(lines(root.span)));
                self.say(
                    &OBJECT_INCOMPLETE,
                    root.span,
                    place,
                    "the document is not a mapping, so it is no object",
                    "",
                );
            }
        }
    }

    /// A document without apiVersion and kind. Its lines are not quoted: values files hold passwords.
    fn not_an_object(&mut self, root: &Node, template: bool, place: &Place<'_>, spans: &mut Spans) {
        spans.foreign.push(root.span);
        self.redact(place.file, place.lines.unwrap_or(lines(root.span)));
        let base = base_name(place.file);
        let at = Span { start: root.span.start, end: root.span.start };
        if template || base.starts_with("kustomization.") {
            let message = "a kustomization that was not rendered";
            return self.say(&UNRENDERED, at, place, message, "give the output of kustomize build");
        }
        let help = if base.starts_with("values") {
            "this looks like a Helm values file: give the output of helm template instead"
        } else {
            "leave the file out of the source"
        };
        self.say(
            &NOT_AN_OBJECT,
            at,
            place,
            "the document has neither apiVersion nor kind: passed over",
            help,
        );
    }

    /// `List`, `HTTPRouteList` and the like: each item is an object of its own.
    fn list(&mut self, mut root: Node, place: &Place<'_>, spans: &mut Spans) {
        let Value::Mapping(fields) = &mut root.value else { return };
        let version = fields.remove("apiVersion");
        let kind = fields.remove("kind");
        let Some(Entry { value: Node { value: Value::Sequence(items), .. }, .. }) = fields.remove("items")
        else {
            return;
        };
        for mut item in items {
            let span = item.span;
            match &mut item.value {
                Value::Mapping(fields) if is_list(fields) => {
                    self.redact(place.file, lines(span));
                    self.say(&NESTED_LIST, span, place, "a List stands within a List", "lift its items up");
                }
                Value::Mapping(fields) => {
                    inherit(fields, version.as_ref(), kind.as_ref());
                    self.object(item, place, None, spans);
                }
                _ => {
                    self.redact(place.file, lines(span));
                    self.say(&OBJECT_INCOMPLETE, span, place, "an item of the List is not a mapping", "");
                }
            }
        }
    }

    /// One object. `own_lines` if the lines from first to last are its alone.
    fn object(
        &mut self,
        mut root: Node,
        place: &Place<'_>,
        own_lines: Option<(u32, u32)>,
        spans: &mut Spans,
    ) {
        let span = root.span;
        let own_lines = own_lines.unwrap_or(lines(span));
        let Value::Mapping(fields) = &mut root.value else { return };
        let secret = is_core(fields, "Secret");
        if secret {
            blank_secret(fields);
            self.redact(place.file, own_lines);
        }
        let (reference, version) = match self.reference(fields) {
            Ok(reference) => reference,
            Err(Refused::Silent) => {
                spans.foreign.push(span);
                // Such as a kubeconfig, which holds keys.
                return self.redact(place.file, own_lines);
            }
            Err(Refused::Say { code, field, span: at, message, help }) => {
                let at = at.unwrap_or_else(|| root.locate(&FieldPath::parse(field)));
                let at = if at == span { Span { start: span.start, end: span.start } } else { at };
                let mut diagnostic = Diagnostic::new(code, message).at(place.file.clone(), at);
                diagnostic.field = FieldPath::parse(field);
                diagnostic.help = (!help.is_empty()).then(|| help.to_string());
                return self.diagnostics.push(diagnostic);
            }
        };
        let encrypted = fields.entry("sops").filter(|_| secret).map(|entry| entry.key_span);
        let rendered_from = rendered_from(fields, place.rendered_from).map(|text| self.name(&text));
        if is_ours(&reference) {
            spans.ours.push((span, reference.clone()));
        } else {
            spans.foreign.push(span);
        }
        let origin = Origin { file: place.file.clone(), start: span.start, rendered_from };
        let object = Object { reference, version, origin, root };
        if let Some(at) = encrypted {
            let message = "the Secret is encrypted with SOPS: treated as absent";
            let diagnostic =
                Diagnostic::new(&ENCRYPTED, message).about(object.reference, FieldPath::root().key("sops"));
            return self.diagnostics.push(diagnostic.at(place.file.clone(), at));
        }
        self.keep(object);
    }

    /// Adds an object unless it is there already.
    fn keep(&mut self, object: Object) {
        // As it is written: which namespace an object without one goes to is known later.
        let key = object.reference.clone();
        let Some(first) = self.seen.get(&key).and_then(|index| self.list.get(*index)) else {
            self.seen.insert(key, self.list.len());
            self.list.push(object);
            return;
        };
        if !is_ours(&object.reference) {
            return;
        }
        self.diagnostics.push(defined_twice(&object, &first.origin));
    }

    /// A shared text.
    fn name(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.names.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.names.insert(new.clone());
        new
    }

    fn reference(&mut self, fields: &Mapping) -> Result<(ObjectRef, Arc<str>), Refused> {
        let api_version =
            text(fields, "apiVersion", "apiVersion")?.ok_or_else(|| missing("apiVersion", "apiVersion"))?;
        let kind = text(fields, "kind", "kind")?.ok_or_else(|| missing("kind", "kind"))?;
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if group == "kustomize.config.k8s.io" {
            return Err(Refused::Say {
                code: &UNRENDERED,
                field: "kind",
                span: None,
                message: "a kustomization that was not rendered".to_string(),
                help: "give the output of kustomize build",
            });
        }
        let (group, kind) = (self.name(group), self.name(kind));
        let mut reference = ObjectRef { group, kind, namespace: self.name(""), name: self.name("") };
        let result = metadata(fields, &mut reference, self);
        // What other tools keep beside our objects need not have a name.
        result.map_err(|refused| {
            if is_ours(&reference) || refused.is_template() { refused } else { Refused::Silent }
        })?;
        Ok((reference, self.name(version)))
    }
}

/// Why a mapping gives no object.
enum Refused {
    /// It is none of ours.
    Silent,
    /// It should be one.
    Say { code: &'static Code, field: &'static str, span: Option<Span>, message: String, help: &'static str },
}

impl Refused {
    fn is_template(&self) -> bool {
        matches!(self, Self::Say { code, .. } if **code == UNRENDERED)
    }
}

fn missing(field: &'static str, shown: &str) -> Refused {
    let message = format!("the object has no {shown}");
    Refused::Say { code: &OBJECT_INCOMPLETE, field, span: None, message, help: "" }
}

fn metadata(fields: &Mapping, reference: &mut ObjectRef, names: &mut Objects) -> Result<(), Refused> {
    let Some(node) = fields.get("metadata").filter(|node| node.value != Value::Null) else {
        return Err(missing("metadata", "metadata.name"));
    };
    let Some(metadata) = node.as_mapping() else {
        let message = format!("metadata is of type {}, not object", node.type_name());
        return Err(Refused::Say {
            code: &OBJECT_INCOMPLETE,
            field: "metadata",
            span: None,
            message,
            help: "",
        });
    };
    if let Some(namespace) = text(metadata, "namespace", "metadata.namespace")? {
        reference.namespace = names.name(namespace);
    }
    match text(metadata, "name", "metadata.name")? {
        Some(name) if !name.is_empty() => reference.name = name.into(),
        _ if metadata.get("generateName").is_some() => {
            let message = "the object has a generateName instead of a name".to_string();
            let help = "nothing generates names here: write metadata.name";
            return Err(Refused::Say {
                code: &OBJECT_INCOMPLETE,
                field: "metadata.generateName",
                span: None,
                message,
                help,
            });
        }
        _ => return Err(missing("metadata.name", "metadata.name")),
    }
    Ok(())
}

/// A field that names something: text that can be seen, or absent.
fn text<'a>(fields: &'a Mapping, key: &str, field: &'static str) -> Result<Option<&'a str>, Refused> {
    let Some(node) = fields.get(key) else { return Ok(None) };
    let refuse = |code, message, help| Refused::Say { code, field, span: Some(node.span), message, help };
    let text = match &node.value {
        Value::Null => return Ok(None),
        Value::String(text) => &**text,
        _ => {
            let message = format!("{field} is of type {}, not string", node.type_name());
            return Err(refuse(&OBJECT_INCOMPLETE, message, "quote the value if it is meant as text"));
        }
    };
    if let Some(c) = unfit_for_name(text) {
        let message = format!("{field} {:?} holds {}", shown(text), name_of(c));
        return Err(refuse(&HOSTILE_CHARACTER, message, ""));
    }
    if text.contains("{{") {
        let message = format!("{field} is a template that was not rendered");
        return Err(refuse(&UNRENDERED, message, "give the output of helm template"));
    }
    Ok(Some(text))
}

/// The last part of a file's name, in lower case.
fn base_name(file: &str) -> String {
    file.rsplit('/').next().unwrap_or_default().to_ascii_lowercase()
}

/// Says of an object that it was defined before.
pub(crate) fn defined_twice(object: &Object, first: &Origin) -> Diagnostic {
    let Origin { file, start, .. } = first;
    let message = format!("already defined at {file}:{}", start.line);
    object
        .diagnostic(&DUPLICATE_OBJECT, FieldPath::parse("metadata.name"), message)
        .related(file.clone(), *start, "first defined here")
        .help("remove one of the two")
}

/// A kind that ends in `List`, with items and without a name.
fn is_list(fields: &Mapping) -> bool {
    let kind = fields.get("kind").and_then(Node::as_str);
    kind.is_some_and(|kind| kind.ends_with("List"))
        && matches!(fields.get("items").map(|items| &items.value), Some(Value::Sequence(_) | Value::Null))
        && fields.get("metadata").and_then(|metadata| metadata.get("name")).is_none()
}

/// Items of a typed list, as the API server gives them, do not repeat its version and kind.
fn inherit(item: &mut Mapping, version: Option<&Entry>, kind: Option<&Entry>) {
    let Some((version, kind)) = version.zip(kind) else { return };
    let Some(base) =
        kind.value.as_str().and_then(|kind| kind.strip_suffix("List")).filter(|base| !base.is_empty())
    else {
        return;
    };
    if item.get("apiVersion").is_none() && item.get("kind").is_none() {
        let value = Node::new(Value::String(base.into()), kind.value.span);
        let kind = Entry { key: kind.key.clone(), key_span: kind.key_span, value };
        // Neither is there, so neither can be refused.
        let _ = item.insert(version.clone());
        let _ = item.insert(kind);
    }
}

fn is_core(fields: &Mapping, kind: &str) -> bool {
    fields.get("kind").and_then(Node::as_str) == Some(kind)
        && fields.get("apiVersion").and_then(Node::as_str).is_none_or(|version| !version.contains('/'))
}

/// Kinds that are compiled or referred to. All others pass, however they are written.
pub(crate) fn is_ours(reference: &ObjectRef) -> bool {
    match &*reference.group {
        "" => matches!(
            &*reference.kind,
            "Service" | "Secret" | "ConfigMap" | "Namespace" | "Endpoints" | "List"
        ),
        "certificates.k8s.io" => &*reference.kind == "ClusterTrustBundle",
        "moorgate.dev" | "gateway.envoyproxy.io" | "discovery.k8s.io" | "multicluster.x-k8s.io" => true,
        group => {
            group.ends_with("gateway.networking.k8s.io") || group.ends_with("gateway.networking.x-k8s.io")
        }
    }
}

/// First and last line of a value. What ends before the first character of a line ends on the line above.
fn lines(span: Span) -> (u32, u32) {
    let last = if span.end.column <= 1 { span.end.line.saturating_sub(1) } else { span.end.line };
    (span.start.line, last.max(span.start.line))
}

/// The template or overlay that an object came from: kustomize's annotations, else Helm's comment.
fn rendered_from(fields: &Mapping, comment: Option<&str>) -> Option<String> {
    let annotations = fields.get("metadata").and_then(|metadata| metadata.get("annotations"));
    let annotation =
        |key: &str| annotations.and_then(|annotations| annotations.get(key)).and_then(Node::as_str);
    if let Some(origin) = annotation("config.kubernetes.io/origin") {
        let part = |name: &str| origin.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let path = part("path: ").or_else(|| part("configuredIn: ")).unwrap_or_else(|| origin.trim());
        let from = match (part("repo: "), part("ref: ")) {
            (Some(repo), Some(revision)) => format!("{repo}@{revision}:{path}"),
            (Some(repo), None) => format!("{repo}:{path}"),
            _ => path.to_string(),
        };
        return Some(shown(&from).into_owned());
    }
    let path =
        annotation("internal.config.kubernetes.io/path").or_else(|| annotation("config.kubernetes.io/path"));
    path.or(comment).map(|path| shown(path).into_owned())
}
