//! What a relay reads: requests of clients, tokens, configuration, endpoints, secrets, and its own disk.

use super::{JSON, PROTOBUF, effort, told};
use bytes::Bytes;
use clap::Parser as _;
use moorgate_relay::Options;
use moorgate_relay::bind::catalog::Catalog;
use moorgate_relay::bind::secrets::{Secrets, Source};
use moorgate_relay::cache::Cache;
use moorgate_relay::config::Listen;
use moorgate_relay::csds::proto::string_matcher::Pattern;
use moorgate_relay::csds::proto::{ClientStatusRequest, NodeMatcher, StringMatcher};
use moorgate_relay::serve::listen::Peers;
use moorgate_relay::serve::proto::{DeltaDiscoveryRequest, DiscoveryRequest, Node, Status};
use moorgate_relay::serve::stream::{Protocol, Settings, Stream};
use moorgate_relay::serve::token::{KeySet, KeySource, Keys, Tokens};
use moorgate_relay::serve::types::{CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET};
use moorgate_relay::serve::view::{Config, Name, TypeSet, Value, View};
use moorgate_snapshot::{Binding, BindingKind, BindingSource, Digest, FleetName};
use moorgate_tests::certificate::Certificate;
use moorgate_tests::manifest;
use moorgate_tests::mutate::fuzz;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A view with one resource of each type.
fn view() -> Arc<View> {
    let value = |text: &'static str| {
        Arc::new(Value::new(vec![Bytes::from_static(text.as_bytes())], vec!["e".into()]))
    };
    let types =
        [CLUSTER, LISTENER, ROUTE].map(|url| (Name::from(url), BTreeMap::from([("a".into(), value(url))])));
    let config = Config::new(Digest::of(b"s"), types.into(), None);
    let set = |url| TypeSet::new(BTreeMap::from([("e".into(), value(url))]), BTreeSet::new());
    Arc::new(View {
        config,
        fallback: None,
        endpoints: set(ENDPOINT),
        secrets: set(SECRET),
        extensions: set(moorgate_relay::serve::types::EXTENSION),
        leftover: Arc::default(),
    })
}

fn node() -> Node {
    Node { id: "envoy-1".into(), cluster: "shop/edge".into(), ..Node::default() }
}

/// Requests of one stream, each behind its length: the decoder and the state machine behind it.
fn requests(input: &[u8]) -> Vec<&[u8]> {
    let mut rest = input;
    let mut out = Vec::new();
    while let [high, low, body @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(body.len());
        let (one, more) = body.split_at(length);
        out.push(one);
        rest = more;
    }
    out
}

fn joined<M: Message>(requests: &[M]) -> Vec<u8> {
    let framed = |request: &M| {
        let bytes = request.encode_to_vec();
        [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()
    };
    requests.iter().flat_map(framed).collect()
}

/// Gives all requests to one stream. What it has to say stays bounded, and no nonce is used twice.
fn converse<M: Message + Default + PartialEq + std::fmt::Debug>(
    input: &[u8],
    protocol: Protocol,
    give: impl Fn(&mut Stream, M, Instant) -> bool,
) -> bool {
    let settings = Settings { max_names: 1000, ..Settings::default() };
    let mut stream = Stream::new(protocol, None, Arc::new(settings));
    stream.set_view(view());
    let (mut now, mut nonces, mut taken) = (Instant::now(), BTreeSet::new(), false);
    for bytes in requests(input) {
        let Ok(request) = M::decode(bytes) else { return taken };
        assert_eq!(M::decode(&*request.encode_to_vec()).as_ref(), Ok(&request));
        if !give(&mut stream, request, now) {
            return taken;
        }
        taken = true;
        now += Duration::from_secs(1);
        let output = stream.poll(now);
        assert!(output.responses.len() <= 40, "one response a type");
        for response in output.responses {
            assert!(nonces.insert(response.nonce.clone()), "a nonce is used once");
            moorgate_relay::serve::frame::message(&response).unwrap();
        }
    }
    taken
}

#[test]
fn delta_discovery_request() {
    let first = |type_url: &str, names: &[&str]| DeltaDiscoveryRequest {
        node: Some(node()),
        type_url: type_url.into(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        initial_resource_versions: BTreeMap::from([("a".into(), "1".into())]),
        ..Default::default()
    };
    let answer = |nonce: &str, error: bool| DeltaDiscoveryRequest {
        type_url: CLUSTER.into(),
        response_nonce: nonce.into(),
        resource_names_unsubscribe: vec!["*".into()],
        error_detail: error.then(|| Status { code: 3, message: "no".into() }),
        ..Default::default()
    };
    let corpus = vec![
        joined(&[first(CLUSTER, &[]), answer("1", false), first(ENDPOINT, &["e"])]),
        joined(&[first(CLUSTER, &["*", "a"]), answer("1", true), first(LISTENER, &["*"]), answer("2", true)]),
        joined(&[first(SECRET, &["e", "absent"]), answer("1", true)]),
    ];
    let take = |input: &[u8]| {
        converse(input, Protocol::Delta, |stream, request, now| stream.delta(request, now).is_ok())
    };
    told("delta", fuzz("delta", corpus, PROTOBUF, effort(10_000), take));
}

#[test]
fn state_of_the_world_discovery_request() {
    let ask = |type_url: &str, names: &[&str], nonce: &str, error: bool| DiscoveryRequest {
        node: Some(node()),
        version_info: "v".into(),
        type_url: type_url.into(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        response_nonce: nonce.into(),
        error_detail: error.then(|| Status { code: 3, message: "no".into() }),
    };
    let corpus = vec![
        joined(&[
            ask(CLUSTER, &[], "", false),
            ask(CLUSTER, &[], "1", false),
            ask(ENDPOINT, &["e"], "", false),
        ]),
        joined(&[
            ask(LISTENER, &["*"], "", false),
            ask(LISTENER, &["a"], "1", true),
            ask(ROUTE, &["a", ""], "", false),
        ]),
    ];
    let take = |input: &[u8]| {
        let give = |stream: &mut Stream, request, now| stream.state_of_the_world(request, now).is_ok();
        converse(input, Protocol::StateOfTheWorld, give)
    };
    told("sotw", fuzz("sotw", corpus, PROTOBUF, effort(10_000), take));
}

/// Endpoint files: static sets, EndpointSlices and lists of them, as JSON and as YAML.
#[test]
fn endpoint_files() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let static_set =
        r#"{"endpoints":[{"service":"shop/cart","port":"http","addresses":["10.0.0.1:8080","[::1]:80"]}]}"#;
    let slice = r#"{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"cart-1","namespace":"shop",
        "labels":{"kubernetes.io/service-name":"cart"}},"addressType":"IPv4","ports":[{"name":"http","port":8080,"protocol":"TCP"}],
        "endpoints":[{"addresses":["10.0.0.1"],"conditions":{"ready":true,"serving":true,"terminating":false},"zone":"eu-1",
        "hints":{"forZones":[{"name":"eu-1"}]}}]}"#;
    let list = format!(r#"{{"kind":"EndpointSliceList","items":[{slice}]}}"#);
    let yaml = manifest::endpoint_slices("shop", "cart", &["10.0.0.1:8080".parse().unwrap()]);
    for (end, corpus) in [
        ("json", vec![static_set.into(), slice.into(), list.into_bytes()]),
        ("yaml", vec![yaml.into_bytes()]),
    ] {
        let path = folder.path().join(format!("cart.{end}"));
        let take = |input: &[u8]| {
            std::fs::write(&path, input).unwrap();
            let mut catalog = Catalog::default();
            let errors = catalog.reload(folder.path());
            assert!(errors.iter().all(|error| error.to_string().len() < 100_000));
            errors.is_empty()
        };
        told(end, fuzz(end, corpus, JSON, effort(4000), take));
        std::fs::remove_file(&path).unwrap();
    }
}

/// Certificates, keys and bundles. What cannot be served is said without a word of it.
#[test]
fn secrets() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let place = folder.path().join("shop/tls");
    std::fs::create_dir_all(&place).unwrap();
    let pair = Certificate::for_names(&["shop.example"]).unwrap();
    let source = |kind: &str| BindingSource::Object {
        kind: kind.into(),
        namespace: "shop".into(),
        name: "tls".into(),
    };
    let bindings = [
        Binding { kind: BindingKind::Secret, name: "pair".into(), source: source("Secret") },
        Binding { kind: BindingKind::TrustBundle, name: "bundle".into(), source: source("ConfigMap") },
    ];
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        std::fs::write(place.join("tls.crt"), &pair.certificate).unwrap();
        std::fs::write(place.join("tls.key"), &pair.key).unwrap();
        std::fs::write(place.join("ca.crt"), &pair.certificate).unwrap();
        let original = std::fs::read(place.join(name)).unwrap();
        let key_lines: Vec<&str> =
            pair.key.lines().filter(|line| line.len() > 30 && !line.starts_with('-')).collect();
        let take = |input: &[u8]| {
            std::fs::write(place.join(name), input).unwrap();
            let mut secrets = Secrets::default();
            let reloaded = secrets
                .reload(Source { folder: Some(folder.path()), live: None, late: None }, bindings.iter());
            for error in reloaded.errors.values() {
                let text = format!("{error} {error:?}");
                assert!(!key_lines.iter().any(|line| text.contains(line)), "{text}");
            }
            reloaded.errors.is_empty()
        };
        let words: &[&[u8]] =
            &[b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n", b"\n", b"=", b"\x30\x82"];
        told(name, fuzz(name, vec![original], words, effort(1500), take));
    }
}

#[test]
fn tokens_and_their_keys() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("jwks.json");
    let keys = r#"{"keys":[{"kty":"RSA","kid":"r","use":"sig","alg":"RS256","n":"sXch8w","e":"AQAB"},
        {"kty":"EC","kid":"e","crv":"P-256","alg":"ES256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    std::fs::write(&path, keys).unwrap();
    let words: &[&[u8]] =
        &[b".", b"eyJhbGciOiJub25lIn0", b"e30", b"=", b"AAAA", b"\"kid\":\"e\"", b"\"alg\":\"none\""];
    let sets = fuzz("keys", vec![keys.into()], JSON, effort(10_000), |input| {
        KeySet::parse(input).is_ok_and(|set| !set.is_empty())
    });
    told("keys", sets);
    let opened = runtime.block_on(Keys::open(KeySource::File(path))).unwrap();
    let tokens = Tokens { issuer: "i".into(), audience: "a".into(), keys: opened };
    // {"alg":"ES256","kid":"e"} . {} . 64 zeros
    let token = format!("eyJhbGciOiJFUzI1NiIsImtpZCI6ImUifQ.e30.{}", "A".repeat(86));
    let mut forms = 0;
    fuzz("token", vec![token.clone().into()], words, effort(5000), |input| {
        let text = String::from_utf8_lossy(input);
        let judged = runtime.block_on(tokens.judge(&text, 0));
        assert!(judged.is_err(), "nobody signed this");
        forms += usize::from(judged == Err(moorgate_relay::serve::token::TokenError::Signature));
        // What gets as far as the signature is changed further.
        input == token.as_bytes() || judged == Err(moorgate_relay::serve::token::TokenError::Signature)
    });
    assert!(forms > 0);
}

#[test]
fn configuration_file() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let json = r#"{"store":["file:///s"],"fleet":["a/b","c/d"],"trust":"/t","poll-interval":"7s","channel":"canary",
        "listen":["unix:/x/{fleet}?uid=1&gid=2","tcp:127.0.0.1:1"],"tls-cert":"c","tls-key":"k","client-ca":"a",
        "member":["x=a/b","*=c/d"],"name":"n","label":["zone=eu"],"max-streams":5,"ready-acked":true}"#;
    let yaml = "store: [\"file:///s\"]\nfleet: [a/b]\ntrust: /t\nname: n\ndrain: 5s\n";
    for (end, corpus) in [("json", json), ("yaml", yaml)] {
        let path = folder.path().join(format!("relay.{end}"));
        let flags = ["moorgate-relay", "--config", path.to_str().unwrap()];
        let take = |input: &[u8]| {
            std::fs::write(&path, input).unwrap();
            let options = Options::try_parse_from(flags).unwrap();
            match options.with_file().map(Options::check) {
                Ok(Ok(config)) => {
                    assert!(!config.fleets.is_empty() && !config.stores.is_empty());
                    true
                }
                Ok(Err(error)) | Err(error) => {
                    assert!(!error.to_string().is_empty());
                    false
                }
            }
        };
        told(end, fuzz(end, vec![corpus.into()], JSON, effort(3000), take));
    }
    let listen = fuzz(
        "listen",
        vec![b"unix:/run/x?uid=1&gid=2".to_vec(), b"tcp:[::1]:80".to_vec()],
        &[b"?", b"&uid="],
        effort(20_000),
        |input| {
            let parsed = std::str::from_utf8(input).ok().and_then(|text| text.parse::<Listen>().ok());
            if let Some(Listen::Unix(path, peers)) = &parsed {
                assert!(path.starts_with('/') && !path.contains('?'));
                // What was asked for is never lost: a socket that names users has a list.
                let asked = String::from_utf8_lossy(input).contains("id=");
                assert!(!asked || path.contains("id=") || *peers != Peers::default());
            }
            parsed.is_some()
        },
    );
    told("listen", listen);
}

/// What tools ask of the client status discovery service.
#[test]
fn client_status_request() {
    let matcher = NodeMatcher {
        node_id: Some(StringMatcher { pattern: Some(Pattern::Exact("envoy-1".into())), ignore_case: true }),
        node_metadatas: vec![],
    };
    let corpus = ClientStatusRequest { node_matchers: vec![matcher.clone(), matcher] }.encode_to_vec();
    let take = |input: &[u8]| {
        let Ok(request) = ClientStatusRequest::decode(input) else { return false };
        assert_eq!(ClientStatusRequest::decode(&*request.encode_to_vec()), Ok(request));
        true
    };
    told("csds", fuzz("csds", vec![corpus], PROTOBUF, effort(10_000), take));
}

/// EndpointSlices as an API server sends them: one that is no such thing is an error, and of others no address gets
/// through that cannot be dialled.
#[test]
fn slices_of_an_api_server() {
    let slice = r#"{"metadata":{"name":"cart-1","namespace":"shop","labels":{"kubernetes.io/service-name":"cart"}},
        "addressType":"IPv4","ports":[{"name":"http","port":8080,"protocol":"TCP"}],
        "endpoints":[{"addresses":["10.0.0.1"],"conditions":{"ready":true},"zone":"eu-1"},{"addresses":["0.0.0.0"]}]}"#;
    let take = |input: &[u8]| {
        let Ok(object) = serde_json::from_slice(input) else { return false };
        let Ok(Some(slice)) = moorgate_relay::bind::catalog::slice(object) else { return false };
        let endpoints = slice.sets.iter().flat_map(|set| &set.endpoints);
        assert!(
            endpoints.into_iter().all(|one| one.address.port() > 0 && !one.address.ip().is_unspecified())
        );
        true
    };
    told("slice", fuzz("slice", vec![slice.into()], JSON, effort(10_000), take));
}

/// Who may ask: nobody is let in that no line names, and half a line lets nobody in.
#[test]
fn file_of_members() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("members");
    let flags = "moorgate-relay --store memory:/// --trust /t --fleet a/b --fleet c/d --name n --listen tcp:127.0.0.1:1 \
                 --tls-cert c --tls-key k --client-ca a";
    let flags =
        flags.split(' ').map(str::to_owned).chain(["--member-file".to_owned(), path.display().to_string()]);
    let file = Options::try_parse_from(flags).unwrap().check().unwrap().member_file.unwrap();
    let text = b"# who\nspiffe://x/y=a/b\nEnvoy.Example=c/d\n\n*=a/b\n".to_vec();
    let take = |input: &[u8]| {
        std::fs::write(&path, input).unwrap();
        let Ok(members) = file.read() else { return false };
        let text = String::from_utf8(input.to_vec()).unwrap();
        for (name, fleet) in &members {
            let line = |line: &str| line.trim().eq_ignore_ascii_case(&format!("{name}={fleet}"));
            assert!(text.lines().any(line), "{name}={fleet} in {text:?}");
        }
        true
    };
    let words: &[&[u8]] = &[b"=", b"\n", b"#", b"*", b"a/b", b"=c/d\n", b"system:serviceaccount:"];
    told("members", fuzz("members", vec![text], words, effort(10_000), take));
}

/// A relay's own folder: whatever lies there, it starts.
#[test]
fn files_of_the_cache() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let fleet = FleetName::gateway("shop", "edge");
    let cache = Cache::open(folder.path(), &fleet).unwrap();
    let sets = BTreeMap::from([(Arc::from("e"), b"abc".to_vec())]);
    cache.save_endpoints(&sets).unwrap();
    let mut state = cache.state();
    state.note_good(Digest::of(b"s"));
    cache.save_state(&state).unwrap();
    for name in ["state", "endpoints"] {
        let path = folder.path().join(fleet.socket_name()).join(name);
        let original = std::fs::read(&path).unwrap();
        let take = |input: &[u8]| {
            std::fs::write(&path, input).unwrap();
            // Only what was written is believed.
            let read = if name == "state" { cache.state() == state } else { cache.endpoints() == sets };
            assert!(read || name == "state" || cache.endpoints().is_empty());
            read
        };
        let tried = fuzz(name, vec![original], JSON, effort(3000), take);
        println!("{name}: {tried:?}");
    }
}
