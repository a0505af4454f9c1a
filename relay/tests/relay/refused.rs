//! What a client refused is not sent to it again, on no stream of its own; and nobody else goes without it.

use crate::client::{ADS_DELTA, ADS_WORLD, Delta, World, channel};
use crate::serve::{Server, config, server, view};
use moorgate_relay::serve::proto::{DeltaDiscoveryRequest, DiscoveryRequest, Node, Status};
use moorgate_relay::serve::types::{CLUSTER, ENDPOINT, SECRET};
use moorgate_relay::serve::view::View;
use std::sync::Arc;
use tonic::transport::Channel;

/// Serves these values of a bound type; contents are told apart by their sizes.
fn bound(type_url: &str, entries: &[(&str, usize)]) -> Arc<View> {
    let entries: Vec<_> = entries.iter().map(|(name, size)| (type_url, *name, *size)).collect();
    let set = config(&entries).types.get(type_url).map_or_else(crate::serve::empty, Arc::clone);
    let view = view(config(&[(CLUSTER, "c", 1)]), None);
    let (endpoints, secrets) = match type_url {
        ENDPOINT => (set, Arc::clone(&view.secrets)),
        _ => (Arc::clone(&view.endpoints), set),
    };
    Arc::new(View {
        config: Arc::clone(&view.config),
        fallback: None,
        endpoints,
        secrets,
        extensions: Arc::clone(&view.extensions),
        leftover: Arc::default(),
    })
}

/// The next response names just these, the removed ones with a minus.
async fn expect(envoy: &mut Delta, names: &[&str]) -> moorgate_relay::serve::proto::DeltaDiscoveryResponse {
    let response = envoy.response().await;
    let sent = response.resources.iter().map(|resource| resource.name.clone());
    let gone = response.removed_resources.iter().map(|name| format!("-{name}"));
    assert_eq!(sent.chain(gone).collect::<Vec<_>>(), names);
    response
}

/// On one connection, streams come and go; the client is the same process.
async fn stream(channel: &Channel, node: &str) -> Delta {
    Delta::open(channel.clone(), ADS_DELTA, node).await.unwrap()
}

/// Waits until the relay has taken what was sent: whatever is asked for next is answered after it.
async fn settled(envoy: &mut Delta) {
    envoy.ask(CLUSTER, &[]);
    let response = envoy.response().await;
    assert_eq!(response.type_url, CLUSTER, "{response:?}");
    envoy.ack(&response);
}

async fn left(server: &Server) {
    let mut changes = server.hub.changes();
    while !server.hub.clients().is_empty() {
        changes.changed().await.unwrap();
    }
}

#[tokio::test]
async fn a_refused_value_is_not_sent_again_after_a_reconnect() {
    for type_url in [ENDPOINT, SECRET] {
        let server = server();
        let one = channel(&server.path).await.unwrap();
        server.hub.publish(bound(type_url, &[("bad", 7), ("good", 1)]));
        let mut envoy = stream(&one, "envoy-1").await;
        envoy.ask(type_url, &["bad", "good"]);
        // Both together, then each alone: what is wrong is found out.
        let both = expect(&mut envoy, &["bad", "good"]).await;
        envoy.nack(&both, "no such thing");
        let bad = expect(&mut envoy, &["bad"]).await;
        envoy.nack(&bad, "no such thing");
        let good = expect(&mut envoy, &["good"]).await;
        envoy.ack(&good);
        settled(&mut envoy).await;
        drop(envoy);
        left(&server).await;
        // It comes back, holding what it took, as Envoy says it; and once more with nothing, as a process that knows nothing.
        for _ in 0..3 {
            let mut envoy = stream(&one, "envoy-1").await;
            envoy.send(DeltaDiscoveryRequest {
                node: Some(Node { id: "envoy-1".into(), ..Node::default() }),
                type_url: type_url.into(),
                resource_names_subscribe: vec!["bad".into(), "good".into()],
                initial_resource_versions: [("good".to_owned(), good.resources[0].version.clone())].into(),
                ..Default::default()
            });
            // Who waits for it hears that there is nothing for it.
            let response = envoy.response().await;
            assert!(response.resources.iter().all(|resource| resource.name == "good"), "{response:?}");
            assert_eq!(response.removed_resources, ["bad"]);
            envoy.ack(&response);
            settled(&mut envoy).await;
        }
        left(&server).await;
        // Others of the fleet get it: on another node, and another client by the same name is told apart on TCP (`tls`).
        let mut other = stream(&one, "envoy-2").await;
        other.ask(type_url, &["bad"]);
        let taken = expect(&mut other, &["bad"]).await;
        other.ack(&taken);
        // A new version goes to all.
        let mut envoy = stream(&one, "envoy-1").await;
        envoy.ask(type_url, &["bad"]);
        let nothing = expect(&mut envoy, &["-bad"]).await;
        envoy.ack(&nothing);
        server.hub.publish(bound(type_url, &[("bad", 8), ("good", 1)]));
        let fixed = expect(&mut envoy, &["bad"]).await;
        envoy.ack(&fixed);
        let fixed = expect(&mut other, &["bad"]).await;
        other.ack(&fixed);
        // And what was refused before is forgotten with it: a new stream may try it once more.
        settled(&mut envoy).await;
        server.hub.publish(bound(type_url, &[("bad", 7), ("good", 1)]));
        let mut envoy = stream(&one, "envoy-1").await;
        envoy.ask(type_url, &["bad"]);
        expect(&mut envoy, &["bad"]).await;
    }
}

/// An Envoy asks for the endpoints `e`, refuses them and leaves.
async fn refuse_endpoints(server: &Server, one: &Channel) {
    let mut envoy = stream(one, "envoy-1").await;
    envoy.ask(ENDPOINT, &["e"]);
    let bad = expect(&mut envoy, &["e"]).await;
    envoy.nack(&bad, "no");
    settled(&mut envoy).await;
    drop(envoy);
    left(server).await;
}

#[tokio::test]
async fn a_refused_value_that_vanishes_and_comes_back_stays_refused() {
    let server = server();
    let one = channel(&server.path).await.unwrap();
    server.hub.publish(bound(ENDPOINT, &[("e", 7)]));
    refuse_endpoints(&server, &one).await;
    server.hub.publish(bound(ENDPOINT, &[]));
    server.hub.publish(bound(ENDPOINT, &[("e", 7), ("f", 1)]));
    let mut envoy = stream(&one, "envoy-1").await;
    envoy.ask(ENDPOINT, &["e", "f"]);
    expect(&mut envoy, &["f", "-e"]).await;
}

/// A first snapshot that is refused has nothing behind it; its bytes do not come again either.
#[tokio::test]
async fn refused_configuration_without_a_way_back_is_not_sent_again_after_a_reconnect() {
    let server = server();
    let one = channel(&server.path).await.unwrap();
    server.hub.publish(view(config(&[(CLUSTER, "a", 7)]), None));
    let mut delta = stream(&one, "envoy-1").await;
    delta.ask(CLUSTER, &[]);
    let bad = expect(&mut delta, &["a"]).await;
    delta.nack(&bad, "no");
    delta.ask(SECRET, &["x"]);
    expect(&mut delta, &["-x"]).await;
    drop(delta);
    left(&server).await;
    let mut delta = stream(&one, "envoy-1").await;
    delta.ask(CLUSTER, &[]);
    // A wildcard is answered, with nothing.
    expect(&mut delta, &[]).await;
    drop(delta);
    left(&server).await;
    server.hub.publish(view(config(&[(CLUSTER, "a", 8)]), None));
    let mut delta = stream(&one, "envoy-1").await;
    delta.ask(CLUSTER, &[]);
    expect(&mut delta, &["a"]).await;
}

#[tokio::test]
async fn state_of_the_world_remembers_too() {
    let server = server();
    let one = channel(&server.path).await.unwrap();
    server.hub.publish(bound(SECRET, &[("s", 7)]));
    let open = async || World::open(one.clone(), ADS_WORLD, "envoy-1").await.unwrap();
    let mut envoy = open().await;
    envoy.ask(SECRET, &["s"], "");
    let bad = envoy.response().await;
    assert_eq!(bad.resources.len(), 1);
    envoy.send(DiscoveryRequest {
        type_url: SECRET.into(),
        resource_names: vec!["s".into()],
        response_nonce: bad.nonce,
        error_detail: Some(Status { code: 3, message: "no".into() }),
        ..Default::default()
    });
    envoy.ask(CLUSTER, &[], "");
    assert_eq!(envoy.response().await.type_url, CLUSTER);
    drop(envoy);
    left(&server).await;
    let mut envoy = open().await;
    envoy.ask(SECRET, &["s"], "");
    assert!(envoy.response().await.resources.is_empty());
    server.hub.publish(bound(SECRET, &[("s", 8)]));
    // The empty one waits for its acknowledgement first.
    drop(envoy);
    left(&server).await;
    let mut envoy = open().await;
    envoy.ask(SECRET, &["s"], "");
    assert_eq!(envoy.response().await.resources.len(), 1);
}

/// By hand: `DELETE /quarantine`.
#[tokio::test]
async fn what_was_refused_is_tried_again_when_somebody_says_so() {
    let server = server();
    let one = channel(&server.path).await.unwrap();
    server.hub.publish(bound(ENDPOINT, &[("e", 7)]));
    refuse_endpoints(&server, &one).await;
    server.hub.forgive();
    let mut envoy = stream(&one, "envoy-1").await;
    envoy.ask(ENDPOINT, &["e"]);
    expect(&mut envoy, &["e"]).await;
}
