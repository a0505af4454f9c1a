//! How a bad input is written down, and held against what the translator makes of it.

use moorgate::compile::{Compilation, CompiledFleet, Options, compile};
use moorgate::explain::{Answer, Request, explain};
use moorgate::source::File;
use moorgate::status::{Condition, Status};
use moorgate::validate::Channel;
use moorgate_model::ir::{Action, Stream, WeightedBackend};
use moorgate_model::{Class, Diagnostic, Severity};
use moorgate_snapshot::FleetName;
use std::fmt::Write as _;

/// Stands before each place that a finding shall point at.
pub(crate) const MARK: char = '¦';

/// The file that holds what is bad.
pub(crate) const FILE: &str = "bad.yaml";

/// In place of a mark: none.
const ANYWHERE: usize = usize::MAX;

/// Two fleets. `shop/edge` is the one that bad inputs are about; its route `fine` and all of `calm/edge` are neighbours.
const CLASS: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: moorgate}
spec: {controllerName: moorgate.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: calm}
spec: {gatewayClassName: moorgate, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: fine, namespace: calm}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: web, port: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: calm}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: shop}
spec: {type: ExternalName, externalName: far.example.net, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: vault}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: fine, namespace: shop}
spec:
  parentRefs: [{name: edge}]
  hostnames: [fine.example.com]
  rules: [{backendRefs: [{name: web, port: 80}]}]
";

/// The Gateway of most cases.
const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {gatewayClassName: moorgate, listeners: [{name: http, port: 80, protocol: HTTP}]}
";

/// The two fleets with these listeners of `shop/edge`.
pub(crate) fn source(listeners: &str) -> String {
    format!("{CLASS}---\n{}", GATEWAY.replace("{name: http, port: 80, protocol: HTTP}", listeners))
}

/// What a neighbour's request meets.
const NEIGHBOUR: (&str, &str) = ("http://fine.example.com/", "shop/web/80 1");

/// A finding as it must be.
#[derive(Debug, Clone)]
struct Said {
    severity: Severity,
    code: &'static str,
    /// `Kind namespace/name`, or `Kind name`.
    object: String,
    field: String,
    help: String,
    /// Which mark it points at.
    at: usize,
    /// The mark of its other place.
    related: Option<usize>,
}

/// Which fleets an object that an API server would refuse keeps from being published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocks {
    /// The one that it is about.
    Own,
    /// All, because nobody can tell whom it concerns.
    All,
    /// None, because it concerns none.
    None,
}

/// One bad input with its outcome. What is not expected must not be.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// Its number in the catalogue of bad inputs that this project keeps.
    pub(crate) number: u8,
    what: String,
    text: String,
    own_gateway: bool,
    options: Options,
    said: Vec<Said>,
    conditions: Vec<(&'static str, &'static str)>,
    answers: Vec<(String, String)>,
    blocks: Blocks,
    alone: bool,
}

impl Case {
    /// An input beside the usual Gateway.
    pub(crate) fn new(number: u8, what: &str, text: impl Into<String>) -> Self {
        Self {
            number,
            what: what.to_owned(),
            text: text.into(),
            own_gateway: false,
            options: Options::default(),
            said: Vec::new(),
            conditions: Vec::new(),
            answers: Vec::new(),
            blocks: Blocks::Own,
            alone: false,
        }
    }

    /// An input that has the Gateway `shop/edge` itself.
    pub(crate) fn with_gateway(number: u8, what: &str, text: impl Into<String>) -> Self {
        Self { own_gateway: true, ..Self::new(number, what, text) }
    }

    /// Checked against the experimental channel.
    #[must_use]
    pub(crate) fn experimental(mut self) -> Self {
        self.options.validate.channel = Channel::Experimental;
        self
    }

    /// With `--namespace`.
    #[must_use]
    pub(crate) fn namespace(mut self, name: &str) -> Self {
        self.options.validate.namespace = Some(name.to_owned());
        self
    }

    /// With `--closed` for each kind that files leave open.
    #[must_use]
    pub(crate) fn closed(mut self) -> Self {
        self.options.attach.open.clear();
        self
    }

    /// At this time, in seconds since 1970.
    #[must_use]
    pub(crate) fn at_time(mut self, seconds: i64) -> Self {
        self.options.attach.now = Some(seconds);
        self
    }

    fn say(mut self, severity: Severity, code: &'static str, object: &str, field: &str, help: &str) -> Self {
        let at = self.said.len();
        let (object, field, help) = (object.to_owned(), field.to_owned(), help.to_owned());
        self.said.push(Said { severity, code, object, field, help, at, related: None });
        self
    }

    /// An error at the next mark, whose help has this in it.
    #[must_use]
    pub(crate) fn error(self, code: &'static str, object: &str, field: &str, help: &str) -> Self {
        self.say(Severity::Error, code, object, field, help)
    }

    /// A warning at the next mark.
    #[must_use]
    pub(crate) fn warning(self, code: &'static str, object: &str, field: &str, help: &str) -> Self {
        self.say(Severity::Warning, code, object, field, help)
    }

    /// The last finding points at this mark.
    #[must_use]
    pub(crate) fn at(mut self, mark: usize) -> Self {
        self.said.last_mut().unwrap().at = mark;
        self
    }

    /// Where the last finding points does not matter.
    #[must_use]
    pub(crate) fn anywhere(self) -> Self {
        self.at(ANYWHERE)
    }

    /// The last finding names this mark as its other place.
    #[must_use]
    pub(crate) fn related(mut self, mark: usize) -> Self {
        self.said.last_mut().unwrap().related = Some(mark);
        self
    }

    /// `Kind/name[/part]: Condition` is `Status/Reason`; a part is a listener, or the position of a parent or ancestor.
    #[must_use]
    pub(crate) fn condition(mut self, place: &'static str, expected: &'static str) -> Self {
        self.conditions.push((place, expected));
        self
    }

    /// What answers a request to `shop/edge`: clusters with weights, a status, `refused` or `no listener`.
    #[must_use]
    pub(crate) fn answer(mut self, url: &str, expected: &str) -> Self {
        self.answers.push((url.to_owned(), expected.to_owned()));
        self
    }

    /// Nobody can tell whom the object concerns, so no fleet is published.
    #[must_use]
    pub(crate) fn blocks_all(mut self) -> Self {
        self.blocks = Blocks::All;
        self
    }

    /// The object concerns no fleet.
    #[must_use]
    pub(crate) fn blocks_none(mut self) -> Self {
        self.blocks = Blocks::None;
        self
    }

    /// There is no neighbour on this Gateway, because it is what is bad.
    #[must_use]
    pub(crate) fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Drops what was expected of requests: the object is refused, and what is served is that of the release before.
    #[must_use]
    pub(crate) fn unanswered(mut self) -> Self {
        self.answers.clear();
        self
    }

    /// Everything in which the outcome differs from what it must be.
    pub(crate) fn faults(&self) -> String {
        let (text, marks) = marks(&self.text);
        let compilation = compiled(&self.base(), &text, &self.options);
        let mut out = String::new();
        self.findings(&compilation, &marks, &mut out);
        self.blocked(&compilation, &mut out);
        for (place, expected) in &self.conditions {
            let found =
                condition(&compilation, place).map(|found| format!("{}/{}", found.status, found.reason));
            let found = found.as_deref().unwrap_or("none");
            if found != *expected {
                let _ = writeln!(out, "  {place}: {found}, wanted {expected}");
            }
        }
        let neighbour = (!self.alone).then(|| (NEIGHBOUR.0.to_owned(), NEIGHBOUR.1.to_owned()));
        for (url, expected) in self.answers.iter().chain(&neighbour) {
            let found = answer(&compilation, url);
            if found != *expected {
                let _ = writeln!(out, "  {url}: {found}, wanted {expected}");
            }
        }
        if out.is_empty() { out } else { format!("{}: {}\n{out}", self.number, self.what) }
    }

    fn base(&self) -> String {
        if self.own_gateway { CLASS.to_owned() } else { format!("{CLASS}---\n{GATEWAY}") }
    }

    fn findings(&self, compilation: &Compilation, marks: &[(u32, u32)], out: &mut String) {
        // Where there is no Gateway, its other routes are lost too.
        let lost = |found: &Diagnostic| self.alone && found.file.as_deref() != Some(FILE);
        let mut found: Vec<&Diagnostic> =
            compilation.diagnostics.iter().filter(|found| !lost(found)).collect();
        for said in &self.said {
            let position = found.iter().position(|found| fits(said, found, marks));
            match position {
                Some(position) => drop(found.remove(position)),
                None => drop(writeln!(out, "  not said: {said:?} at {:?}", marks.get(said.at))),
            }
        }
        for found in found {
            let _ = writeln!(out, "  said: {}", shown(found));
        }
    }

    /// What an API server would refuse is not published; what does not fit together is, without its own share. The
    /// other fleet is what it is without the input, to the byte.
    fn blocked(&self, compilation: &Compilation, out: &mut String) {
        let refused = compilation.diagnostics.iter().any(|found| {
            found.severity == Severity::Error && matches!(found.code.class, Class::Syntax | Class::Schema)
        });
        for (fleet, expected) in [
            (edge(), (refused && self.blocks != Blocks::None) || self.blocks == Blocks::All),
            (FleetName::gateway("calm", "edge"), self.blocks == Blocks::All),
        ] {
            if compilation.blocked.blocks(&fleet) != expected {
                let _ = writeln!(out, "  {fleet}: blocked is {}, wanted {expected}", !expected);
            }
        }
        let usual = compiled(&self.base(), "", &Options::default());
        let calm = |compilation: &Compilation| {
            compilation.fleets.get(&FleetName::gateway("calm", "edge")).map(|fleet| fleet.snapshot.id())
        };
        if calm(&usual).is_none() || calm(&usual) != calm(compilation) {
            let _ = writeln!(out, "  the neighbouring fleet is another one");
        }
    }
}

fn edge() -> FleetName {
    FleetName::gateway("shop", "edge")
}

/// The text without its marks, and the line and column of each.
fn marks(text: &str) -> (String, Vec<(u32, u32)>) {
    let (mut line, mut column) = (1, 1);
    let (mut out, mut marks) = (String::new(), Vec::new());
    for letter in text.chars() {
        match letter {
            MARK => {
                marks.push((line, column));
                continue;
            }
            '\n' => (line, column) = (line + 1, 1),
            _ => column += 1,
        }
        out.push(letter);
    }
    (out, marks)
}

fn compiled(base: &str, text: &str, options: &Options) -> Compilation {
    let file = |name: &str, text: &str| File { name: name.into(), bytes: text.as_bytes().into() };
    compile(&[file("base.yaml", base), file(FILE, text)], options)
}

fn fits(said: &Said, found: &Diagnostic, marks: &[(u32, u32)]) -> bool {
    let object = found.object.as_ref().map(ToString::to_string);
    let place = (found.span.start.line, found.span.start.column);
    let related = said.related.is_none_or(|mark| {
        found.related.iter().any(|related| {
            &*related.file == FILE
                && marks.get(mark) == Some(&(related.position.line, related.position.column))
        })
    });
    let helps = found.help.as_ref().is_some_and(|help| !help.is_empty() && help.contains(&said.help));
    (found.severity, found.code.id) == (said.severity, said.code)
        && object.unwrap_or_default() == said.object
        && found.field.to_string() == said.field
        && found.file.as_deref() == Some(FILE)
        && (said.at == ANYWHERE || marks.get(said.at) == Some(&place))
        && related
        && (helps || (said.help.is_empty() && said.severity == Severity::Warning))
}

fn shown(found: &Diagnostic) -> String {
    format!(
        "{:?} {} {} {} at {}:{}:{}: {} | {} | {:?}",
        found.severity,
        found.code.id,
        found.object.as_ref().map(ToString::to_string).unwrap_or_default(),
        found.field,
        found.file.as_deref().unwrap_or("none"),
        found.span.start.line,
        found.span.start.column,
        found.message,
        found.help.as_deref().unwrap_or("no help"),
        found.related,
    )
}

fn condition<'c>(compilation: &'c Compilation, place: &str) -> Option<&'c Condition> {
    let (object, wanted) = place.split_once(": ")?;
    let mut words = object.split('/');
    let (kind, name, part) = (words.next()?, words.next()?, words.next());
    let number = part.map_or(0, |part| part.parse().unwrap_or(usize::MAX));
    let (_, status) = compilation
        .statuses
        .iter()
        .find(|(object, _)| (&*object.kind, &*object.name) == (kind, name) && &*object.namespace != "calm")?;
    let conditions = match (status, part) {
        (Status::Gateway { listeners, .. } | Status::ListenerSet { listeners, .. }, Some(part)) => {
            &listeners.iter().find(|listener| listener.name == part)?.conditions
        }
        (
            Status::Class { conditions }
            | Status::Object { conditions }
            | Status::Gateway { conditions, .. }
            | Status::ListenerSet { conditions, .. },
            _,
        ) => conditions,
        (Status::Route { parents }, _) => &parents.get(number)?.conditions,
        (Status::Policy { ancestors }, _) => &ancestors.get(number)?.conditions,
    };
    conditions.iter().find(|condition| condition.kind == wanted)
}

fn answer(compilation: &Compilation, url: &str) -> String {
    let Some(CompiledFleet { ir, .. }) = compilation.fleets.get(&edge()) else { return "no fleet".into() };
    let request = Request::parse("GET", url, &[]).unwrap();
    match explain(ir, &request) {
        Answer::NoListener => "no listener".into(),
        Answer::Refused { .. } => "refused".into(),
        Answer::Carried { stream, .. } => carried(stream),
        Answer::Early { status, .. } => status.to_string(),
        Answer::Misdirected(..) => "421".into(),
        Answer::NotFound(_) => "404".into(),
        Answer::Found(_, route) => match &route.action {
            Action::Respond(respond) => respond.status.to_string(),
            Action::Redirect(redirect) => redirect.status.to_string(),
            Action::Forward(forward) => forward.backends.iter().map(share).collect::<Vec<_>>().join(", "),
        },
    }
}

fn share(backend: &WeightedBackend) -> String {
    format!("{} {}", backend.cluster.as_deref().unwrap_or("500"), backend.weight)
}

fn carried(stream: &Stream) -> String {
    let backends = stream.backends.iter();
    let shares = backends
        .map(|backend| format!("{} {}", backend.cluster.as_deref().unwrap_or("closed"), backend.weight));
    shares.collect::<Vec<_>>().join(", ")
}
