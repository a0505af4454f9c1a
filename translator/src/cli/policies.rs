//! `moorgate policies`

use super::output::{self, json};
use super::{Exit, Failure, table};
use crate::report::FORMAT_VERSION;
use crate::{parameters, patches, validate};
use clap::{Args, ValueEnum};
use moorgate_policies::{
    About, CAPABILITIES, Class, Coverage, Covered, Effect, Kind, POLICIES, Settled, proxy, settled,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// List what policies can do, and which of their fields are supported
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate policies
  moorgate policies --fields
  moorgate policies --reference > policies.md

A field that is not supported is a diagnostic at its line; where it restricts access, what the policy targets answers 500.")]
pub(super) struct PoliciesArgs {
    /// Each field of each kind of Envoy Gateway, with its state
    #[arg(long, conflicts_with = "reference")]
    fields: bool,
    /// A page that says what each capability does
    #[arg(long, conflicts_with = "output")]
    reference: bool,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For scripts
    Json,
}

/// Runs the command.
pub(super) fn run(args: &PoliciesArgs) -> Result<Exit, Failure> {
    let text = match (args.reference, args.fields, args.output) {
        (true, ..) => reference(),
        (_, true, Output::Text) => fields_text(),
        (_, true, Output::Json) => {
            json(&json!({ "format_version": FORMAT_VERSION, "fields": fields_json() }))
        }
        (_, _, Output::Text) => list(),
        (_, _, Output::Json) => json(&json!({ "format_version": FORMAT_VERSION, "policies": list_json() })),
    };
    output::print(&text)?;
    Ok(Exit::Fine)
}

/// Capabilities by kind, then in the order of names.
fn capabilities() -> impl Iterator<Item = &'static About> {
    let of = |kind: Kind| CAPABILITIES.iter().map(|one| one.about()).filter(move |about| about.kind == kind);
    Kind::ALL.into_iter().flat_map(of)
}

/// What changes in Envoy, and the place of a filter.
fn effect(about: &About) -> (&'static str, Option<u16>) {
    match about.effect {
        Effect::Filter { name, place, .. } => (name, Some(place)),
        Effect::Route => ("route", None),
        Effect::ConnectionManager => ("connection manager", None),
        Effect::Listener => ("listener", None),
        Effect::DownstreamTls => ("TLS towards clients", None),
        Effect::Cluster => ("cluster", None),
    }
}

fn targets(targets: &[moorgate_policies::TargetKind]) -> String {
    targets.iter().map(|target| target.kind).collect::<Vec<_>>().join(", ")
}

fn list() -> String {
    let header = ["KIND", "CAPABILITY", "FIELDS", "ENVOY", "ORDER", "SINCE", "TARGETS"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for policy in POLICIES {
        let (kind, file, since) = (policy.kind(), policy.file(), policy.since());
        let cells = [kind, file, "spec", "cluster", "", since, &targets(policy.target_kinds())];
        rows.push(cells.map(str::to_owned).to_vec());
    }
    for about in capabilities() {
        let (envoy, place) = effect(about);
        let place = place.map(|place| place.to_string()).unwrap_or_default();
        let fields = about.fields.join(", ");
        let targets = targets(about.kind.targets());
        let cells = [about.kind.name(), about.file, &fields, envoy, &place, about.since, &targets];
        rows.push(cells.map(str::to_owned).to_vec());
    }
    table::columns(&rows)
}

fn list_json() -> Vec<Value> {
    let policies = POLICIES.iter().map(|policy| {
        let targets: Vec<_> = policy.target_kinds().iter().map(|target| target.kind).collect();
        json!({ "kind": policy.kind(), "capability": policy.file(), "since": policy.since(), "targets": targets,
            "docs": policy.docs() })
    });
    let parts = capabilities().map(|about| {
        let (envoy, order) = effect(about);
        let targets: Vec<_> = about.kind.targets().iter().map(|target| target.kind).collect();
        json!({ "kind": about.kind.name(), "capability": about.file, "fields": about.fields, "except": about.except,
            "envoy": envoy, "order": order, "since": about.since, "targets": targets, "docs": about.docs })
    });
    policies.chain(parts).collect()
}

/// All kinds with their fields: those of the published schemas, and what is read of an EnvoyProxy, whose schema holds half of
/// Kubernetes' workload API.
fn all_fields() -> Vec<(&'static str, Vec<String>)> {
    let mut all = validate::envoy_gateway_fields();
    all.push((parameters::KIND, parameters::fields().into_iter().map(|(field, _)| field).collect()));
    all.sort_by_key(|(kind, _)| *kind);
    all
}

/// Why a field is not carried out.
fn reason(kind: &str, field: &str) -> &'static str {
    let own = || parameters::fields().into_iter().find(|(known, _)| known == field)?.1;
    Some(kind)
        .filter(|kind| *kind == parameters::KIND)
        .and_then(|_| own())
        .unwrap_or_else(|| moorgate_policies::reason(kind, field))
}

/// A field's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is carried out, by this capability.
    Carried(&'static str),
    /// Nobody can make use of it.
    Settled(Settled),
    /// It is not carried out.
    Left,
}

impl State {
    /// Its name, for scripts.
    const fn name(self) -> &'static str {
        match self {
            Self::Carried(_) => "carried out",
            Self::Settled(Settled::Refused(_)) => "refused by the schema",
            Self::Settled(Settled::Unused(_)) => "not used by definition",
            Self::Left => "not carried out",
        }
    }
}

fn state(kind: &str, field: &str) -> State {
    carried(kind, field)
        .map(State::Carried)
        .or_else(|| settled(kind, field).map(State::Settled))
        .unwrap_or(State::Left)
}

/// The capability that carries a field out, if one does.
fn carried(kind: &str, field: &str) -> Option<&'static str> {
    if kind == patches::KIND && patches::FIELDS.iter().any(|known| field.split('.').next() == Some(known)) {
        return Some("patches");
    }
    if kind == parameters::KIND {
        let above = |known: &&&str| {
            field.strip_prefix(**known).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if proxy::FIELDS.iter().any(|known| above(&known)) {
            return Some("proxy");
        }
        let own = parameters::fields();
        let carried = own.iter().any(|(known, why)| known == field && why.is_none());
        return carried.then_some("render");
    }
    let kind = Kind::ALL.into_iter().find(|known| known.name() == kind)?;
    let keys: Vec<&str> = field.split('.').collect();
    match Covered::of(kind).state(&keys) {
        Coverage::Full(file) => Some(file.unwrap_or("attachment")),
        // A field without fields of its own has nothing below it.
        Coverage::Partial | Coverage::None => None,
    }
}

/// How many fields there are, and what of them.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    carried: usize,
    refused: usize,
    unused: usize,
    all: usize,
}

impl Sum {
    fn add(&mut self, state: State) {
        self.all += 1;
        match state {
            State::Carried(_) => self.carried += 1,
            State::Settled(Settled::Refused(_)) => self.refused += 1,
            State::Settled(Settled::Unused(_)) => self.unused += 1,
            State::Left => {}
        }
    }

    /// What nobody can make use of is not missing.
    fn show(self) -> String {
        let mut out = format!("{} of {} fields", self.carried + self.refused + self.unused, self.all);
        for (count, what) in
            [(self.refused, "refused by the schema of the kind"), (self.unused, "not used by definition")]
        {
            if count > 0 {
                let _ = write!(out, ", {count} {what}");
            }
        }
        out
    }
}

fn fields_text() -> String {
    let mut out = format!("Envoy Gateway {}\n", validate::envoy_gateway_version());
    let mut classes: BTreeMap<Class, Sum> = BTreeMap::new();
    for (kind, fields) in all_fields() {
        let rows: Vec<_> = fields.iter().map(|field| (field, state(kind, field))).collect();
        let mut sum = Sum::default();
        rows.iter().for_each(|(_, state)| sum.add(*state));
        let _ = writeln!(out, "\n{kind}: {}", sum.show());
        for (field, state) in rows {
            let class = moorgate_policies::class(kind, field);
            classes.entry(class).or_default().add(state);
            let _ = match state {
                State::Carried(capability) => writeln!(out, "  yes {field}  {capability}"),
                State::Settled(settled) => {
                    writeln!(out, "  -   {field}  {}: {}", class.name(), settled.describe())
                }
                State::Left => writeln!(out, "  no  {field}  {}: {}", class.name(), reason(kind, field)),
            };
        }
    }
    out.push('\n');
    for class in Class::ALL {
        let sum = classes.get(&class).copied().unwrap_or_default();
        let _ = writeln!(out, "{}: {}", class.name(), sum.show());
    }
    out
}

fn fields_json() -> Vec<Value> {
    let fields = all_fields().into_iter();
    fields
        .flat_map(|(kind, fields)| {
            fields.into_iter().map(move |field| {
                let state = state(kind, &field);
                let capability = if let State::Carried(name) = state { Some(name) } else { None };
                let why = match state {
                    State::Carried(_) => None,
                    State::Settled(settled) => Some(settled.describe()),
                    State::Left => Some(reason(kind, &field).to_owned()),
                };
                json!({
                    "kind": kind, "field": format!("spec.{field}"), "supported": state != State::Left,
                    "state": state.name(), "capability": capability,
                    "class": moorgate_policies::class(kind, &field).name(), "reason": why,
                })
            })
        })
        .collect()
}

/// The page, as Markdown.
fn reference() -> String {
    let mut out = "# Policies\n".to_owned();
    for policy in POLICIES {
        let versions = policy.versions().join(", ");
        let _ = write!(
            out,
            "\n## {}\n\n`{}`, {versions}. Targets: {}. Since {}.\n\n{}\n",
            policy.kind(),
            policy.group(),
            targets(policy.target_kinds()),
            policy.since(),
            policy.docs()
        );
    }
    for kind in Kind::ALL {
        let group = moorgate_policies::GROUP;
        let how = if kind.is_attached() { "Targets" } else { "Referred to by" };
        let _ = write!(out, "\n## {}\n\n`{group}`. {how}: {}.\n", kind.name(), targets(kind.targets()));
        for about in capabilities().filter(|about| about.kind == kind) {
            let list = |fields: &[&str]| {
                fields.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", ")
            };
            let _ = write!(out, "\n### {}\n\n{} Since {}.", about.file, list(about.fields), about.since);
            if !about.except.is_empty() {
                let _ = write!(out, " Not supported: {}.", list(about.except));
            }
            let _ = match about.effect {
                Effect::Filter { name, place, why } => {
                    write!(out, " Envoy's filter `{name}`, place {place}: {why}.")
                }
                _ => write!(out, " In Envoy: {}.", effect(about).0),
            };
            let _ = write!(out, "\n\n{}\n", about.docs);
        }
    }
    let others = [
        (patches::KIND, "Gateway, or the GatewayClass of a merged fleet", patches::DOCS),
        (parameters::KIND, "none: parametersRef of a GatewayClass or Gateway names it", proxy::DOCS),
    ];
    for (kind, targets, docs) in others {
        let group = moorgate_policies::GROUP;
        let _ = write!(out, "\n## {kind}\n\n`{group}`. Targets: {targets}. Since 0.1.0.\n\n{docs}\n");
    }
    out
}
