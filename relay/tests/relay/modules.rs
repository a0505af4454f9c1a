//! Modules of code over HTTP, on the connections of xDS.

use crate::client::channel;
use crate::serve::{Server, view};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use moorgate_relay::serve::types::CLUSTER;
use moorgate_relay::serve::view::{Config, Value};
use moorgate_snapshot::Digest;
use moorgate_snapshot::record::{MODULE_TYPE, module_path};
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic::body::Body;
use tower::Service as _;

async fn ask(server: &Server, method: Method, path: &str) -> (StatusCode, HeaderMap, Bytes) {
    let mut channel = channel(&server.path).await.unwrap();
    std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let (head, body) = channel.call(request).await.unwrap().into_parts();
    (head.status, head.headers, body.collect().await.unwrap().to_bytes())
}

fn config(modules: &[(&str, &[&'static [u8]])]) -> Arc<Config> {
    let value = |pieces: &[&'static [u8]]| {
        Arc::new(Value::new(pieces.iter().map(|piece| Bytes::from_static(piece)).collect(), vec![]))
    };
    let modules: BTreeMap<_, _> =
        modules.iter().map(|(name, pieces)| (Arc::from(*name), value(pieces))).collect();
    let id = Digest::of(format!("{:?}", modules.keys()).as_bytes());
    Config::new(id, BTreeMap::from([(Arc::from(MODULE_TYPE), modules)]), None)
}

#[tokio::test]
async fn modules_of_the_fleet_are_handed_out_and_no_others() {
    let server = Server::new(100);
    let own = Digest::of(b"onetwothree").to_string();
    let last = Digest::of(b"last").to_string();
    assert_eq!(ask(&server, Method::GET, &module_path(&own)).await.0, StatusCode::NOT_FOUND, "nothing yet");
    let in_force = config(&[(&own, &[b"one", b"two", b"three"]), ("ab", &[b"else"])]);
    server.hub.publish(view(in_force, Some(config(&[(&last, &[b"last"])]))));
    let (status, headers, body) = ask(&server, Method::GET, &module_path(&own)).await;
    assert_eq!((status, &*body), (StatusCode::OK, b"onetwothree".as_slice()));
    assert_eq!(headers["content-length"], "11");
    assert_eq!(headers["content-type"], "application/wasm");
    // Who was set back to the snapshot before needs what that has.
    assert_eq!(ask(&server, Method::GET, &module_path(&last)).await.2, "last");
    for path in [module_path("ab"), module_path(&"0".repeat(64)), module_path(""), module_path("../x")] {
        assert_eq!(ask(&server, Method::GET, &path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(ask(&server, Method::POST, &module_path(&own)).await.0, StatusCode::METHOD_NOT_ALLOWED);
    let count = |result| {
        let labels = [("fleet", "shop/edge"), ("result", result)];
        server.hub.metrics().get("moorgate_relay_modules", &labels)
    };
    let counted = [count("sent"), count("damaged"), count("unknown")];
    assert_eq!(counted, [Some(2.0), Some(1.0), Some(4.0)]);
}

#[tokio::test]
async fn a_module_takes_a_place_among_the_streams() {
    let server = Server::new(1);
    let name = Digest::of(b"one").to_string();
    server.hub.publish(view(config(&[(&name, &[b"one"])]), None));
    let mut envoy = server.delta("e").await;
    envoy.ask(CLUSTER, &[]);
    envoy.response().await;
    assert_eq!(ask(&server, Method::GET, &module_path(&name)).await.0, StatusCode::SERVICE_UNAVAILABLE);
}
