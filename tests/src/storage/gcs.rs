//! A double of Google Cloud Storage: the part of its XML protocol that `object_store` uses.
//!
//! No emulator speaks it (fake-gcs-server reads preconditions from the JSON protocol only), so this one is written after
//! Google's documentation. The real service is not tested.

use anyhow::Result;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LAST_MODIFIED};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use moorgate_snapshot::store::Settings;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The longest page of a list, as Google's.
const PAGE: usize = 1_000;
/// No object of the double was changed at another time.
const CHANGED: [&str; 2] = ["Sun, 06 Nov 1994 08:49:37 GMT", "1994-11-06T08:49:37.000Z"];

/// A running double, of one bucket; dropping it ends it.
#[derive(Debug)]
pub struct Gcs {
    address: SocketAddr,
    task: JoinHandle<()>,
}

struct Object {
    bytes: Bytes,
    generation: u64,
    cache_control: Option<http::HeaderValue>,
}

#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Object>,
    generation: u64,
}

/// The name of the only bucket.
pub const BUCKET: &str = "bucket";

impl Gcs {
    /// Starts one on a free port.
    pub fn start() -> Result<Self> {
        let listener = crate::runtime().block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        let task = crate::runtime().spawn(serve(listener));
        Ok(Self { address, task })
    }

    /// How to reach it.
    pub fn settings(&self) -> Settings {
        Settings::of([("STORAGE_EMULATOR_HOST", self.address.to_string())])
    }
}

impl Drop for Gcs {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener) {
    let bucket = Arc::new(Mutex::new(Bucket::default()));
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let bucket = Arc::clone(&bucket);
        connections.spawn(async move {
            let service = service_fn(|request| answer(Arc::clone(&bucket), request));
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    bucket: Arc<Mutex<Bucket>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return Ok(status(StatusCode::BAD_REQUEST)) };
    let body = body.to_bytes();
    let path = head.uri.path().trim_start_matches('/');
    let (name, key) = path.split_once('/').unwrap_or((path, ""));
    let key = decoded(key);
    if name != BUCKET {
        return Ok(status(StatusCode::NOT_FOUND));
    }
    let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(match head.method {
        Method::GET if key.is_empty() => list(&bucket, head.uri.query().unwrap_or_default()),
        Method::GET | Method::HEAD => get(&bucket, &key, &head.headers, head.method == Method::HEAD),
        Method::PUT => put(&mut bucket, key, &head.headers, body),
        Method::DELETE if bucket.objects.remove(&key).is_some() => status(StatusCode::NO_CONTENT),
        Method::DELETE => status(StatusCode::NOT_FOUND),
        _ => status(StatusCode::NOT_IMPLEMENTED),
    })
}

fn put(bucket: &mut Bucket, key: String, headers: &HeaderMap, bytes: Bytes) -> Response<Full<Bytes>> {
    let there = bucket.objects.get(&key).map_or(0, |object| object.generation);
    let wanted = headers.get("x-goog-if-generation-match").and_then(|value| value.to_str().ok());
    if wanted.is_some_and(|wanted| wanted.parse() != Ok(there)) {
        return status(StatusCode::PRECONDITION_FAILED);
    }
    bucket.generation += 1;
    let cache_control = headers.get(CACHE_CONTROL).cloned();
    let object = Object { bytes, generation: bucket.generation, cache_control };
    let mut response = status(StatusCode::OK);
    describe(&object, response.headers_mut());
    bucket.objects.insert(key, object);
    response
}

fn get(bucket: &Bucket, key: &str, headers: &HeaderMap, head_only: bool) -> Response<Full<Bytes>> {
    let Some(object) = bucket.objects.get(key) else { return status(StatusCode::NOT_FOUND) };
    let unchanged = headers.get(IF_NONE_MATCH).is_some_and(|tag| tag.as_bytes() == etag(object).as_bytes());
    let mut response = if unchanged { status(StatusCode::NOT_MODIFIED) } else { status(StatusCode::OK) };
    describe(object, response.headers_mut());
    if head_only {
        response.headers_mut().insert(CONTENT_LENGTH, object.bytes.len().into());
    } else if !unchanged {
        *response.body_mut() = Full::from(object.bytes.clone());
    }
    response
}

fn describe(object: &Object, headers: &mut HeaderMap) {
    let text = |text: String| http::HeaderValue::try_from(text).ok();
    headers.extend(text(etag(object)).map(|value| (ETAG, value)));
    headers.insert("x-goog-generation", object.generation.into());
    headers.insert(LAST_MODIFIED, http::HeaderValue::from_static(CHANGED[0]));
    headers.extend(object.cache_control.clone().map(|value| (CACHE_CONTROL, value)));
}

fn etag(object: &Object) -> String {
    format!("\"{:x}\"", object.generation)
}

fn list(bucket: &Bucket, query: &str) -> Response<Full<Bytes>> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let query: BTreeMap<&str, String> = pairs.map(|(name, value)| (name, decoded(value))).collect();
    let text = |name: &str| query.get(name).map_or("", String::as_str);
    let (prefix, delimiter, after) = (text("prefix"), text("delimiter"), text("continuation-token"));
    let most = query.get("max-keys").and_then(|most| most.parse().ok()).unwrap_or(PAGE).min(PAGE);
    let mut xml = String::from("<?xml version='1.0' encoding='UTF-8'?><ListBucketResult>");
    let mut folders = BTreeSet::new();
    let (mut count, mut last) = (0, None);
    for (key, object) in bucket.objects.iter().filter(|(key, _)| key.starts_with(prefix)) {
        let rest = &key[prefix.len()..];
        let folder = (!delimiter.is_empty()).then(|| rest.find(delimiter)).flatten();
        let shown = match folder {
            Some(end) => format!("{prefix}{}", &rest[..end + delimiter.len()]),
            None => key.clone(),
        };
        if shown.as_str() <= after || folders.contains(&shown) {
            continue;
        }
        if count == most {
            let _ =
                write!(xml, "<NextContinuationToken>{}</NextContinuationToken>", last.unwrap_or_default());
            break;
        }
        count += 1;
        last = Some(shown.clone());
        if folder.is_some() {
            folders.insert(shown);
        } else {
            let (size, tag, changed) = (object.bytes.len(), etag(object).replace('"', "&quot;"), CHANGED[1]);
            let _ = write!(
                xml,
                "<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>{changed}</LastModified><ETag>{tag}</ETag></Contents>"
            );
        }
    }
    for folder in folders {
        let _ = write!(xml, "<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>");
    }
    xml += "</ListBucketResult>";
    let mut response = Response::new(Full::from(xml));
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/xml"));
    response
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// Percent decoding; names in the suites are ASCII.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digits = (byte == b'%').then(|| [rest.next(), rest.next()].map(Option::unwrap_or_default));
        let number =
            digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok());
        bytes.push(number.unwrap_or(if byte == b'+' { b' ' } else { byte }));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
