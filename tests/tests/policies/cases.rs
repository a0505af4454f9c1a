//! What shows that a field is carried out: a case that sets it at its place, and for a few of them something else, with a reason.

use moorgate_policies::Kind;
use moorgate_tests::{manifest, program};
use serde::Deserialize as _;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Fields below `spec` by kind: the names that lead to them, whatever lists lie between.
pub(crate) type Fields = BTreeMap<String, BTreeSet<String>>;

/// What the objects of a case set.
pub(crate) fn set_in(case: &Path) -> Fields {
    let mut out = Fields::new();
    let text = std::fs::read_to_string(case).unwrap();
    for document in yaml_serde::Deserializer::from_str(&text) {
        let object = Value::deserialize(document).unwrap_or_else(|why| panic!("{}: {why}", case.display()));
        set_by(&object, &mut out);
        // Parameters may lie in a ConfigMap.
        let inner = object["data"]["envoyproxy.yaml"].as_str().map(yaml_serde::from_str::<Value>);
        if let Some(Ok(parameters)) = inner {
            set_by(&parameters, &mut out);
        }
    }
    out
}

fn set_by(object: &Value, out: &mut Fields) {
    fn below(value: &Value, at: &str, out: &mut BTreeSet<String>) {
        for item in value.as_array().into_iter().flatten() {
            below(item, at, out);
        }
        for (name, value) in value.as_object().into_iter().flatten() {
            let field = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
            below(value, &field, out);
            out.insert(field);
        }
    }
    if let Some(kind) = object["kind"].as_str() {
        below(&object["spec"], "", out.entry(kind.to_owned()).or_default());
    }
}

/// Fields that no case sets, of a kind (of any without one), and why that is enough: all names of each stand together in a test
/// beside a real Envoy or in one source with its own tests.
const TOLD: &[(&str, &str, &str)] = &[
    ("", "targetSelectors.namespaces", "who is selected is tested where policies are attached"),
    (
        "Backend",
        "tls.ciphers tls.ecdhCurves tls.maxVersion tls.signatureAlgorithms",
        "read by what reads them of listeners",
    ),
    (
        "BackendTrafficPolicy",
        "circuitBreaker.retryBudget.percent.denominator telemetry.tracing.clientSamplingFraction \
         telemetry.tracing.overallSamplingFraction",
        "shares that are read as others are",
    ),
    ("BackendTrafficPolicy", "compression", "the older list beside compressor"),
    (
        "BackendTrafficPolicy",
        "healthCheck.active.grpc.service healthCheck.active.http.expectedResponse.text \
         healthCheck.active.http.requestBody.binary healthCheck.active.overrides.port \
         healthCheck.active.tcp.receive.binary healthCheck.active.tcp.send.binary",
        "other questions than those of cases, in tests of their own file",
    ),
    (
        "BackendTrafficPolicy",
        "http2.connectionKeepalive.idleInterval http2.connectionKeepalive.intervalJitter \
         http2.initialConnectionWindowSize http2.initialStreamWindowSize http2.onInvalidMessage",
        "read by what reads them of listeners",
    ),
    (
        "BackendTrafficPolicy",
        "loadBalancer.backendUtilization.keepResponseHeaders loadBalancer.backendUtilization.outOfBand \
         loadBalancer.consistentHash.header.name loadBalancer.consistentHash.headers.name \
         loadBalancer.consistentHash.queryParams.name",
        "other ways than those of cases, on a real Envoy or in tests of their own file",
    ),
    (
        "BackendTrafficPolicy",
        "rateLimit.global.rules.clientSelectors rateLimit.global.rules.cost rateLimit.local.rules.clientSelectors \
         rateLimit.local.rules.cost.request.metadata rateLimit.local.rules.shadowMode",
        "both kinds of limits are read by one function, and cases have them of one",
    ),
    ("BackendTrafficPolicy", "responseOverride.redirect.port", "one of several parts of an address"),
    ("ClientTrafficPolicy", "connection.connectionLimit.maxStreamDuration", "a limit like those of cases"),
    (
        "ClientTrafficPolicy",
        "headers.earlyRequestHeaders.add headers.lateResponseHeaders.addIfAbsent \
         headers.lateResponseHeaders.removeOnMatch headers.lateResponseHeaders.set",
        "both sides are changed by one function, and cases have each change of one",
    ),
    (
        "ClientTrafficPolicy",
        "tls.clientValidation.allowExpiredCertificate tls.clientValidation.optional \
         tls.clientValidation.subjectAltNames",
        "certificates that are wrong in one thing, on a real Envoy or in tests of their own file",
    ),
    (
        "EnvoyExtensionPolicy",
        "extProc.processingMode.response wasm.code.http.tls.caCertificateRef",
        "on a real Envoy, or in tests of their own file",
    ),
    ("EnvoyPatchPolicy", "jsonPatches.operation.from", "patches are tested by themselves"),
    (
        "EnvoyProxy",
        "backendTLS bootstrap logging.level provider.kubernetes telemetry",
        "what shapes pods, or is handed on as it is, is tested where it is read",
    ),
    (
        "SecurityPolicy",
        "authorization.rules.name extAuth.http.backendSettings jwt.failOpen jwt.providers.extractFrom.params \
         oidc.denyRedirect.headers.type oidc.forwardIDToken.header oidc.provider.backendRefs",
        "on a real Envoy, or in tests of their own file",
    ),
];

/// Older names of a list of one, and the newer ones: what follows is read by one function.
const OLDER: &[(&str, &str)] = &[("backendRef", "backendRefs"), ("targetRef", "targetRefs")];
/// What every reference has; one function reads it.
const PARTS: &[&str] = &["fallback", "group", "kind", "name", "namespace", "port", "sectionName", "weight"];

fn newest(name: &str) -> &str {
    OLDER.iter().find(|(older, _)| *older == name).map_or(name, |&(_, newer)| newer)
}

fn is_reference(name: &str) -> bool {
    name.ends_with("Ref") || name.ends_with("Refs") || ["clientSecret", "refs", "users"].contains(&name)
}

/// Cases and sources.
pub(crate) struct Shown {
    cases: Fields,
    /// The words of each source.
    sources: Vec<BTreeSet<String>>,
}

impl Shown {
    pub(crate) fn new() -> Self {
        let mut shown = Self { cases: Fields::new(), sources: Vec::new() };
        for case in manifest::files(&program::root().join("tests/golden")).unwrap() {
            let input = case.ends_with("in.yaml").then(|| set_in(&case));
            for (kind, fields) in input.into_iter().flatten() {
                shown.cases.entry(kind).or_default().extend(fields);
            }
        }
        for folder in ["tests/tests/policies", "policies/src", "translator/src"] {
            words_below(&program::root().join(folder), &mut shown.sources);
        }
        shown
    }

    /// Whether a case sets this field, at its place.
    pub(crate) fn in_a_case(&self, kind: &str, field: &str) -> bool {
        self.cases.get(kind).is_some_and(|fields| fields.contains(field))
    }

    /// Whether it is shown, by a case or as `TOLD` says.
    pub(crate) fn holds(&self, kind: &str, field: &str) -> bool {
        if self.in_a_case(kind, field) {
            return true;
        }
        let names: Vec<&str> = field.split('.').collect();
        let newer: Vec<&str> = names.iter().map(|name| newest(name)).collect();
        if newer != names {
            return self.holds(kind, &newer.join("."));
        }
        // Services are reached as policies of this kind say, by one function.
        if let Some((above, setting)) = field.split_once(".backendSettings.") {
            let block = self.holds(kind, &format!("{above}.backendSettings"));
            return block && self.holds("BackendTrafficPolicy", setting);
        }
        let of_kind = |known: &Kind| known.name() == kind && known.attachment().contains(&names[0]);
        if Kind::ALL.iter().any(of_kind) && self.cases.values().any(|fields| fields.contains(field)) {
            return true;
        }
        if let [.., reference, part] = names.as_slice()
            && is_reference(reference)
            && PARTS.contains(part)
        {
            let above = field.rsplit_once('.').is_some_and(|(above, _)| self.holds(kind, above));
            return above && (self.has_part(part) || self.told(&[*reference, *part]));
        }
        let below = |told: &str| {
            field.strip_prefix(told).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let named = |(of, fields, _): &(&str, &str, &str)| {
            (of.is_empty() || *of == kind) && fields.split(' ').any(below)
        };
        TOLD.iter().any(named) && self.told(&names)
    }

    /// Whether some reference of a case has this part.
    fn has_part(&self, part: &str) -> bool {
        self.cases.values().flatten().any(|field| {
            let above = field.strip_suffix(part).and_then(|above| above.strip_suffix('.'));
            above.is_some_and(|above| is_reference(above.rsplit('.').next().unwrap_or_default()))
        })
    }

    /// Whether some source has all of these words.
    fn told(&self, names: &[&str]) -> bool {
        self.sources.iter().any(|words| names.iter().all(|name| words.contains(*name)))
    }
}

/// The words of a text.
pub(crate) fn words_of(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_owned).collect()
}

/// Sources that list fields and show none.
const LISTS: &[&str] = &["cases.rs", "proof.rs"];

/// The words of every source and input below a folder.
fn words_below(folder: &Path, out: &mut Vec<BTreeSet<String>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            words_below(&path, out);
        } else if path.extension().is_some_and(|end| end == "rs" || end == "yaml")
            && !LISTS.iter().any(|list| path.ends_with(list))
        {
            out.push(words_of(&std::fs::read_to_string(&path).unwrap()));
        }
    }
}
