//! What the two sides say about one text: `check`, in this process, and the API server, in a dry run.

use super::schema::Kind;
use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use kube::Client;
use moorgate::compile::{Options, compile};
use moorgate::source::File;
use moorgate::validate;
use moorgate_model::Severity;
use moorgate_model::diagnostic::Class;
use moorgate_tests::cluster::Channel;
use serde_json::Value;
use std::fmt;

/// Requests that are under way at once.
const AT_ONCE: usize = 32;

/// What one side says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    /// Field and words of each refusal; none if the object is accepted.
    pub(crate) refusals: Vec<(String, String)>,
}

impl Answer {
    pub(crate) fn accepts(&self) -> bool {
        self.refusals.is_empty()
    }

    /// The rules that are named as broken, and whether all that is said is about rules.
    pub(crate) fn rules(&self, kind: &Kind) -> (Vec<String>, bool) {
        let of = |(field, words): &(String, String)| super::schema::rule_of(kind, field, words);
        let found: Vec<Option<String>> = self.refusals.iter().map(of).collect();
        let only = found.iter().all(Option::is_some);
        (found.into_iter().flatten().collect(), only)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.accepts() {
            return f.write_str("accepted");
        }
        let shown: Vec<String> =
            self.refusals.iter().map(|(field, words)| format!("refused at {field}: {words}")).collect();
        f.write_str(&shown.join("\n           "))
    }
}

/// How `check --crds CHANNEL --namespace default` compiles.
fn options(channel: Channel) -> Options {
    let mut options = Options::default();
    options.validate.channel = match channel {
        Channel::Standard => validate::Channel::Standard,
        Channel::Experimental => validate::Channel::Experimental,
    };
    options.validate.namespace = Some("default".to_owned());
    options
}

/// `check` on a file: what it says that an API server would say too. References to what is not there, and all else of
/// class semantic, are not an API server's business.
pub(crate) fn check(text: &str, channel: Channel) -> Answer {
    let file = File { name: "object.yaml".into(), bytes: text.as_bytes().into() };
    let compiled = compile(&[file], &options(channel));
    let refusals = compiled
        .diagnostics
        .iter()
        .filter(|found| found.severity == Severity::Error && found.code.class != Class::Semantic)
        .map(|found| (found.field.to_string(), found.message.clone()));
    Answer { refusals: refusals.collect() }
}

/// The path of a collection, as `kubectl` finds it: by what the object says of itself.
fn collection(kinds: &[Kind], object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (api, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let known = kinds.iter().find(|known| known.api_version() == api && known.kind == kind);
    let plural = known.map_or_else(|| format!("{}s", kind.to_lowercase()), |known| known.plural.clone());
    let root = if api.contains('/') {
        format!("/apis/{}", escaped(&api))
    } else {
        format!("/api/{}", escaped(&api))
    };
    let namespace = match object["metadata"]["namespace"].as_str() {
        Some(name) if !name.is_empty() => escaped(name),
        _ => "default".to_owned(),
    };
    if known.is_some_and(|known| !known.namespaced) {
        return format!("{root}/{}", escaped(&plural));
    }
    format!("{root}/namespaces/{namespace}/{}", escaped(&plural))
}

/// A text as part of a path; slashes stay.
fn escaped(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte);
    text.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// One object to be asked about: the text, and what it says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) text: String,
    pub(crate) object: Value,
}

/// Creates it, strictly and without keeping it.
async fn create(client: &Client, kinds: &[Kind], sent: &Sent) -> Result<Answer> {
    let path = format!("{}?dryRun=All&fieldValidation=Strict", collection(kinds, &sent.object));
    answer(client, "POST", &path, "application/yaml", &sent.text).await
}

/// A request, and what it says.
pub(crate) async fn answer(
    client: &Client,
    method: &str,
    path: &str,
    kind: &str,
    body: &str,
) -> Result<Answer> {
    let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
    let request = request.header("accept", "application/json").body(body.as_bytes().to_vec().into())?;
    let response = client.send(request).await.with_context(|| path.to_owned())?;
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await?.to_bytes();
    let said: Value =
        serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into());
    match status {
        200 | 201 => return Ok(Answer::default()),
        // It is valid: that is looked at first.
        409 if said["reason"] == "AlreadyExists" => return Ok(Answer::default()),
        400 | 404 | 405 | 409 | 415 | 422 => {}
        _ => bail!("{method} {path}: {status}: {said}"),
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let causes = said["details"]["causes"].as_array().into_iter().flatten();
    let mut refusals: Vec<(String, String)> =
        causes.map(|cause| (text(&cause["field"]), text(&cause["message"]))).collect();
    if refusals.is_empty() {
        let words = if said["message"].is_string() { text(&said["message"]) } else { said.to_string() };
        refusals.push((String::new(), format!("{status} {words}")));
    }
    Ok(Answer { refusals })
}

/// Asks about many at once; the answers in their order.
pub(crate) async fn ask(client: &Client, kinds: &[Kind], sent: &[Sent]) -> Result<Vec<Answer>> {
    let answers = stream::iter(sent.iter().map(|one| create(client, kinds, one))).buffered(AT_ONCE);
    let answers: Vec<Result<Answer>> = answers.collect().await;
    answers.into_iter().collect()
}
