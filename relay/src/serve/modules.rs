//! Modules of code, handed out over HTTP to Envoys of the fleet whose snapshot holds them.
//!
//! They come over the connections, and by the proofs, by which the configuration comes that names them. Nothing is read
//! from disk or store for it: a snapshot is whole before it is served.

use super::frame::Message;
use super::grpc::{Permit, Reply, plain};
use super::hub::Hub;
use super::view::Value;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use moorgate_snapshot::Digest;
use moorgate_snapshot::record::MODULE_TYPE;
use std::sync::Arc;

const FAMILY: &str = "moorgate_relay_modules";

/// Answers a request for the module of this digest; the permit is held until all of it went out.
pub(super) fn answer(hub: &Hub, method: &Method, digest: &str, permit: Permit) -> Response<Reply> {
    if method != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED);
    }
    let fleet = hub.fleet().to_string();
    let count = |result| hub.metrics().count(FAMILY, &[("fleet", &fleet), ("result", result)]);
    let Some(module) = find(hub, digest) else {
        count("unknown");
        return plain(StatusCode::NOT_FOUND);
    };
    // Pages were verified when they came; that a name and its bytes belong together, only the writer has said.
    if Digest::of_parts(module.chunks().iter().map(AsRef::as_ref)).to_string() != digest {
        count("damaged");
        tracing::error!(fleet, digest, "a module of the snapshot has another digest than its name says");
        return plain(StatusCode::NOT_FOUND);
    }
    count("sent");
    let mut response = Response::new(Reply::of(Message::of_pieces(module.chunks()), permit));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/wasm"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(module.len()));
    response
}

/// A module of the snapshot in force, or of the one to which an Envoy may be set back.
fn find(hub: &Hub, digest: &str) -> Option<Arc<Value>> {
    let view = hub.view()?;
    let configs = [Some(&view.config), view.fallback.as_ref()];
    let mut found =
        configs.into_iter().flatten().filter_map(|config| config.types.get(MODULE_TYPE)?.get(digest));
    found.next().map(Arc::clone)
}
