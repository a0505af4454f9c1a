//! As much of an API server as watches need, with faults: lists in pages, watches with history, objects by name.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Fine,
    /// 403.
    Refusing,
    /// 503.
    Failing,
    /// 429.
    Busy,
    /// 200 and no JSON.
    Garbage,
    /// Answers, and ends watches at once.
    Closing,
    /// 410 as an event for versions that are forgotten.
    GoneInStream,
    /// 410 as an answer for them.
    GoneAtOnce,
}

#[derive(Clone, Debug)]
struct Event {
    collection: String,
    version: u64,
    line: Value,
}

#[derive(Debug)]
struct Inner {
    objects: BTreeMap<(String, String), Value>,
    history: Vec<Event>,
    version: u64,
    oldest: u64,
    mood: Mood,
    requests: Vec<(Instant, String)>,
    /// Who asked, by the paths.
    askers: Vec<(String, String)>,
    watches: usize,
}

#[derive(Clone)]
struct Shared {
    inner: Arc<Mutex<Inner>>,
    events: broadcast::Sender<Event>,
    cuts: watch::Sender<u64>,
}

pub(crate) struct ApiServer {
    address: SocketAddr,
    shared: Shared,
    _stop: DropGuard,
}

impl ApiServer {
    pub(crate) async fn start() -> Self {
        let inner = Inner {
            objects: BTreeMap::new(),
            history: Vec::new(),
            version: 100,
            oldest: 0,
            mood: Mood::Fine,
            requests: Vec::new(),
            askers: Vec::new(),
            watches: 0,
        };
        let shared = Shared {
            inner: Arc::new(Mutex::new(inner)),
            events: broadcast::Sender::new(1024),
            cuts: watch::Sender::new(0),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let router = axum::Router::new().fallback(answer).with_state(shared.clone());
        let ended = stop.clone().cancelled_owned();
        tokio::spawn(async move {
            tokio::select! {
                served = axum::serve(listener, router) => served.unwrap(),
                () = ended => {}
            }
        });
        Self { address, shared, _stop: stop.drop_guard() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn be(&self, mood: Mood) {
        self.shared.lock().mood = mood;
    }

    /// Ends all watches in the middle of things.
    pub(crate) fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Watches cannot begin at what was before.
    pub(crate) fn forget_history(&self) {
        let mut inner = self.shared.lock();
        inner.version += 1;
        inner.oldest = inner.version;
        inner.history.clear();
    }

    pub(crate) fn put(&self, collection: &str, object: Value) {
        self.shared.put(collection, object);
    }

    pub(crate) fn delete(&self, collection: &str, name: &str) {
        let mut inner = self.shared.lock();
        if let Some(mut object) = inner.objects.remove(&(collection.to_owned(), name.to_owned())) {
            self.shared.tell(&mut inner, collection, "DELETED", &mut object);
        }
    }

    /// Everything that was asked, in order.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.lock().requests.iter().map(|(_, request)| request.clone()).collect()
    }

    /// The tokens with which something was asked whose path contains this; empty where there was none.
    pub(crate) fn askers(&self, word: &str) -> Vec<String> {
        let inner = self.shared.lock();
        let asked = inner.askers.iter().filter(|(path, _)| path.contains(word));
        asked.map(|(_, token)| token.clone()).collect()
    }

    /// When requests came that contain this.
    pub(crate) fn times(&self, word: &str) -> Vec<Instant> {
        let inner = self.shared.lock();
        inner.requests.iter().filter(|(_, request)| request.contains(word)).map(|(at, _)| *at).collect()
    }

    pub(crate) fn open_watches(&self) -> usize {
        self.shared.lock().watches
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn put(&self, collection: &str, mut object: Value) {
        let mut inner = self.lock();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let key = (collection.to_owned(), name);
        let kind = if inner.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        self.tell(&mut inner, collection, kind, &mut object);
        inner.objects.insert(key, object);
    }

    fn tell(&self, inner: &mut Inner, collection: &str, kind: &str, object: &mut Value) {
        inner.version += 1;
        object["metadata"]["resourceVersion"] = json!(inner.version.to_string());
        let event = Event {
            collection: collection.to_owned(),
            version: inner.version,
            line: json!({ "type": kind, "object": object }),
        };
        inner.history.push(event.clone());
        let _ = self.events.send(event);
    }
}

async fn answer(State(shared): State<Shared>, uri: Uri, headers: HeaderMap) -> Response {
    let query = Query::of(&uri);
    let mood = {
        let mut inner = shared.lock();
        inner.requests.push((Instant::now(), uri.to_string()));
        let token = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        inner.askers.push((uri.to_string(), token.trim_start_matches("Bearer ").to_owned()));
        inner.mood
    };
    match mood {
        Mood::Refusing => return status(403, "forbidden: it is not yours"),
        Mood::Failing => return status(503, "not now"),
        Mood::Busy => return status(429, "too many requests"),
        Mood::Garbage => return (StatusCode::OK, "<html>{\n").into_response(),
        Mood::Closing if query.watch => return (StatusCode::OK, "").into_response(),
        Mood::Fine | Mood::Closing | Mood::GoneInStream | Mood::GoneAtOnce => {}
    }
    if query.watch {
        return serve_watch(&shared, uri.path(), &query, mood);
    }
    let inner = shared.lock();
    let (folder, name) = uri.path().rsplit_once('/').unwrap();
    if let Some(object) = inner.objects.get(&(folder.to_owned(), name.to_owned())) {
        return json_of(object);
    }
    if ["endpointslices", "secrets"].contains(&name) {
        list(&inner, uri.path(), &query)
    } else {
        status(404, "no")
    }
}

fn list(inner: &Inner, path: &str, query: &Query) -> Response {
    let after = query.next.clone().unwrap_or_default();
    let all = inner.objects.iter().filter(|((collection, name), _)| collection == path && *name > after);
    let all: Vec<_> = all.map(|((_, name), object)| (name, object)).collect();
    let page: Vec<_> = all.iter().take(query.limit).collect();
    let next = if all.len() > page.len() { page.last().map(|(name, _)| (*name).clone()) } else { None };
    let items: Vec<&Value> = page.iter().map(|(_, object)| *object).collect();
    let metadata = json!({ "resourceVersion": inner.version.to_string(), "continue": next });
    json_of(&json!({ "kind": "List", "metadata": metadata, "items": items }))
}

fn serve_watch(shared: &Shared, path: &str, query: &Query, mood: Mood) -> Response {
    let mut inner = shared.lock();
    let selected = query.name.clone();
    let fits = move |event: &Event| {
        let name = event.line["object"]["metadata"]["name"].as_str();
        selected.as_deref().is_none_or(|wanted| name == Some(wanted))
    };
    let gone = query.version.is_some_and(|version| version < inner.oldest);
    if gone && mood == Mood::GoneAtOnce {
        return status(410, "too old");
    }
    let mut first: Vec<Value> = Vec::new();
    match query.version {
        _ if gone => first.push(json!({ "type": "ERROR", "object": failure(410, "too old") })),
        Some(version) => {
            let missed = inner.history.iter().filter(|e| e.collection == path && e.version > version);
            first.extend(missed.filter(|event| fits(event)).map(|event| event.line.clone()));
        }
        None => {
            let there = inner.objects.iter().filter(|((collection, _), _)| collection == path);
            let events = there.map(|(_, object)| Event {
                collection: path.to_owned(),
                version: 0,
                line: json!({ "type": "ADDED", "object": object }),
            });
            first.extend(events.filter(|event| fits(event)).map(|event| event.line));
        }
    }
    inner.watches += 1;
    let open = Open(shared.clone());
    let (mut events, mut cuts) = (shared.events.subscribe(), shared.cuts.subscribe());
    let (path, span) = (path.to_owned(), query.span);
    let (lines, out) = tokio::sync::mpsc::unbounded_channel::<Value>();
    first.into_iter().for_each(|line| lines.send(line).unwrap());
    tokio::spawn(async move {
        let _open = open;
        let end = tokio::time::sleep(span);
        tokio::pin!(end);
        if gone {
            return;
        }
        loop {
            tokio::select! {
                () = &mut end => break,
                _ = cuts.changed() => break,
                () = lines.closed() => break,
                event = events.recv() => {
                    let Ok(event) = event else { break };
                    if event.collection == path && fits(&event) && lines.send(event.line).is_err() {
                        break;
                    }
                }
            }
        }
    });
    let stream = futures::stream::unfold(out, |mut out| async move { Some((out.recv().await?, out)) });
    let bytes = stream.map(|line| Ok::<_, Infallible>(Bytes::from(format!("{line}\n"))));
    Response::new(Body::from_stream(bytes))
}

/// A watch that is open.
struct Open(Shared);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().watches -= 1;
    }
}

struct Query {
    watch: bool,
    version: Option<u64>,
    limit: usize,
    next: Option<String>,
    name: Option<String>,
    span: Duration,
}

impl Query {
    fn of(uri: &Uri) -> Self {
        let text = uri.query().unwrap_or_default().replace("%3D", "=");
        let get = |name: &str| {
            let mut pairs = text.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, value)| *key == name && !value.is_empty()).map(|(_, value)| value.to_owned())
        };
        let seconds = get("timeoutSeconds").and_then(|text| text.parse().ok()).unwrap_or(300);
        Self {
            watch: get("watch").is_some_and(|value| value == "true"),
            version: get("resourceVersion").and_then(|text| text.parse().ok()),
            limit: get("limit").and_then(|text| text.parse().ok()).unwrap_or(usize::MAX),
            next: get("continue"),
            name: get("fieldSelector").and_then(|text| Some(text.strip_prefix("metadata.name=")?.to_owned())),
            span: Duration::from_secs(seconds),
        }
    }
}

fn failure(code: u16, message: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message,
        "reason": "Test", "metadata": {} })
}

fn status(code: u16, message: &str) -> Response {
    let body = failure(code, message).to_string();
    (StatusCode::from_u16(code).unwrap(), [("content-type", "application/json")], body).into_response()
}

fn json_of(value: &Value) -> Response {
    ([("content-type", "application/json")], value.to_string()).into_response()
}
