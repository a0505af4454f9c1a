//! Envoy's client status discovery service on the admin socket: what existing tools (grpcdebug, istioctl and the like) ask
//! an xDS server for.
//!
//! For every client and type: SYNCED, STALE (sent and not answered yet), NOT_SENT, or ERROR with the client's words. It
//! is the same that `/clients` tells. No content of a resource is in it, whatever is asked for: there is nothing to
//! redact.

pub mod proto;

use crate::fleet::Fleet;
use crate::roster::Roster;
use crate::serve::grpc::{self, Outgoing};
use crate::serve::hub::{Client, Held};
use crate::serve::proto::Node;
use crate::serve::types;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use axum::routing::post;
use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use proto::{
    ClientConfig, ClientResourceStatus, ClientStatusRequest, ClientStatusResponse, ConfigStatus,
    GenericXdsConfig, NodeMatcher, UpdateFailureState, string_matcher,
};
use tokio::sync::mpsc;
use tonic::Status;
use tonic::codec::Streaming;

/// A question names a few nodes at most.
const MAX_REQUEST: usize = 64 << 10;
/// Answers that wait for a client that does not read.
const WAITING: usize = 1;
/// Types that every Envoy asks for sooner or later: they are shown also to one that has not yet.
const ALWAYS: [&str; 5] = [types::LISTENER, types::ROUTE, types::CLUSTER, types::ENDPOINT, types::SECRET];

/// The routes of the service.
pub fn router(fleets: Roster) -> Router {
    const SERVICE: &str = "/envoy.service.status.v3.ClientStatusDiscoveryService";
    Router::new()
        .route(&format!("{SERVICE}/FetchClientStatus"), post(answer))
        .route(&format!("{SERVICE}/StreamClientStatus"), post(answer))
        .with_state(fleets)
}

/// One answer to each question, until the client has no more.
async fn answer(State(fleets): State<Roster>, request: Request) -> Response<Body> {
    let decoder = grpc::Prost::<ClientStatusRequest>::default();
    let mut questions = Streaming::new_request(decoder, request.into_body(), None, Some(MAX_REQUEST));
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let end = loop {
            let told = match questions.message().await {
                Ok(Some(question)) => matchers(&question).map(|matchers| status(&fleets.all(), &matchers)),
                Ok(None) => break Status::ok(""),
                Err(status) => break status,
            };
            match told.and_then(|told| message(&told)) {
                Ok(frame) => match sender.send(Outgoing::Message(Box::new(frame.into()))).await {
                    Ok(()) => {}
                    Err(_) => return,
                },
                Err(status) => break status,
            }
        };
        let _ = sender.send(Outgoing::End(end)).await;
    });
    grpc::reply(receiver).map(Body::new)
}

/// A message of gRPC: one byte for "not compressed", four for the length.
fn message(told: &ClientStatusResponse) -> Result<Bytes, Status> {
    let length = told.encoded_len();
    let prefix = u32::try_from(length).map_err(|_| Status::resource_exhausted("too many clients"))?;
    let mut frame = BytesMut::with_capacity(length + 5);
    frame.put_u8(0);
    frame.put_u32(prefix);
    told.encode(&mut frame).map_err(|error| Status::internal(error.to_string()))?;
    Ok(frame.freeze())
}

/// Which nodes are asked for, by their ids.
#[derive(Debug)]
enum Matcher {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
}

impl Matcher {
    fn fits(&self, node: &str) -> bool {
        match self {
            Self::Exact(text) => node == text,
            Self::Prefix(text) => node.starts_with(text),
            Self::Suffix(text) => node.ends_with(text),
            Self::Contains(text) => node.contains(text.as_str()),
        }
    }
}

/// What cannot be carried out is refused: an answer about other nodes than those asked for would mislead.
fn matchers(question: &ClientStatusRequest) -> Result<Vec<Matcher>, Status> {
    question.node_matchers.iter().map(matcher).collect()
}

fn matcher(matcher: &NodeMatcher) -> Result<Matcher, Status> {
    use string_matcher::Pattern;
    if !matcher.node_metadatas.is_empty() {
        return Err(Status::invalid_argument("nodes are matched by their ids only, not by metadata"));
    }
    let Some(id) = &matcher.node_id else { return Ok(Matcher::Prefix(String::new())) };
    match id.pattern.clone().filter(|_| !id.ignore_case) {
        Some(Pattern::Exact(text)) => Ok(Matcher::Exact(text)),
        Some(Pattern::Prefix(text)) => Ok(Matcher::Prefix(text)),
        Some(Pattern::Suffix(text)) => Ok(Matcher::Suffix(text)),
        Some(Pattern::Contains(text)) => Ok(Matcher::Contains(text)),
        None => Err(Status::invalid_argument("an id is matched by exact, prefix, suffix or contains")),
    }
}

fn status(fleets: &[Fleet], matchers: &[Matcher]) -> ClientStatusResponse {
    let asked_for =
        |client: &Client| matchers.is_empty() || matchers.iter().any(|matcher| matcher.fits(&client.node));
    let clients = fleets.iter().flat_map(|fleet| {
        let scope = fleet.name().to_string();
        fleet.hub.clients().into_iter().map(move |client| (scope.clone(), client))
    });
    let config = clients.filter(|(_, client)| asked_for(client)).map(|(scope, client)| one(scope, &client));
    ClientStatusResponse { config: config.collect() }
}

fn one(client_scope: String, client: &Client) -> ClientConfig {
    let node = Node {
        id: client.node.clone(),
        cluster: client.cluster.clone(),
        user_agent_name: client.agent.clone(),
        ..Node::default()
    };
    let shown = |kind: &&types::Kind| {
        ALWAYS.contains(&kind.type_url)
            || client.types.get(kind.short).is_some_and(|held| held.sent.is_some())
    };
    let kinds = types::kinds().iter().filter(shown);
    let generic_xds_configs = kinds.map(|kind| of_type(kind, client.types.get(kind.short))).collect();
    ClientConfig { node: Some(node), generic_xds_configs, client_scope }
}

fn of_type(kind: &types::Kind, held: Option<&Held>) -> GenericXdsConfig {
    let version = |digest: Option<moorgate_snapshot::Digest>| digest.map(|digest| digest.to_string());
    let (config, client) = match held {
        Some(held) if held.refuses.is_some() => (ConfigStatus::Error, ClientResourceStatus::Nacked),
        Some(held) if held.unanswered => (ConfigStatus::Stale, ClientResourceStatus::Requested),
        Some(held) if held.acked.is_some() => (ConfigStatus::Synced, ClientResourceStatus::Acked),
        _ => (ConfigStatus::NotSent, ClientResourceStatus::Unknown),
    };
    let error_state = held.filter(|held| held.refuses.is_some()).map(|held| UpdateFailureState {
        details: held.nack.clone().unwrap_or_default(),
        version_info: version(held.refuses).unwrap_or_default(),
    });
    GenericXdsConfig {
        type_url: kind.type_url.to_owned(),
        // What the client holds: what it took last.
        version_info: version(held.and_then(|held| held.acked)).unwrap_or_default(),
        config_status: config.into(),
        client_status: client.into(),
        error_state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moorgate_snapshot::Digest;

    /// What is held, in words.
    fn held(words: &str) -> Held {
        let has = |word: &str| words.split(' ').any(|one| one == word);
        let digest = |word: &str| has(word).then(|| Digest::of(b"s"));
        Held {
            sent: digest("sent"),
            acked: digest("acked"),
            refuses: digest("refuses"),
            nack: has("refuses").then(|| "no".to_owned()),
            unanswered: has("unanswered"),
            ..Held::default()
        }
    }

    #[test]
    fn the_status_of_a_type_follows_from_what_was_sent_taken_and_refused() {
        let kind = types::kind(types::CLUSTER);
        let table = [
            (None, ConfigStatus::NotSent),
            (Some(held("")), ConfigStatus::NotSent),
            (Some(held("sent unanswered")), ConfigStatus::Stale),
            (Some(held("sent acked unanswered")), ConfigStatus::Stale),
            (Some(held("sent acked")), ConfigStatus::Synced),
            (Some(held("sent acked refuses")), ConfigStatus::Error),
            (Some(held("sent refuses unanswered")), ConfigStatus::Error),
        ];
        for (held, expected) in table {
            let found = of_type(kind, held.as_ref());
            assert_eq!(found.config_status(), expected, "{held:?}");
            assert_eq!(found.error_state.is_some(), expected == ConfigStatus::Error);
        }
    }

    #[test]
    fn nodes_are_matched_by_id_and_what_is_not_understood_is_refused() {
        use string_matcher::Pattern;
        let of = |pattern, ignore_case| NodeMatcher {
            node_id: Some(proto::StringMatcher { pattern, ignore_case }),
            node_metadatas: Vec::new(),
        };
        let fits = |pattern| matcher(&of(Some(pattern), false)).unwrap().fits("edge-7");
        assert!(fits(Pattern::Exact("edge-7".into())) && !fits(Pattern::Exact("edge".into())));
        assert!(fits(Pattern::Prefix("edge".into())) && !fits(Pattern::Prefix("7".into())));
        assert!(fits(Pattern::Suffix("-7".into())) && !fits(Pattern::Suffix("edge".into())));
        assert!(fits(Pattern::Contains("ge-".into())) && !fits(Pattern::Contains("x".into())));
        // A regular expression, and letters whatever their case.
        for refused in [of(None, false), of(Some(Pattern::Exact("EDGE-7".into())), true)] {
            assert!(matcher(&refused).is_err());
        }
        let metadata = NodeMatcher { node_metadatas: vec![proto::Unread {}], ..NodeMatcher::default() };
        assert!(matcher(&metadata).is_err());
        assert!(matcher(&NodeMatcher::default()).unwrap().fits("edge-7"));
    }
}
