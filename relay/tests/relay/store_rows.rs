//! Bad stores, one case a row of the catalogue of bad inputs (81 to 95): what is served stays, it is counted under a word of
//! its own, and what is mended is taken.

use crate::attacks::{Scene, key};
use crate::publisher::resource;
use crate::relay::{Place, copy, error, eventually, http, serving, take, world};
use bytes::Bytes;
use moorgate_relay::Relay;
use moorgate_relay::config::Config;
use moorgate_relay::serve::types::CLUSTER;
use moorgate_snapshot::compress::compress;
use moorgate_snapshot::head::Head;
use moorgate_snapshot::store::Settings as StoreSettings;
use moorgate_snapshot::{Digest, Entry, FleetName, Manifest, Page, Record, Snapshot, Store, layout};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A world whose pages lie apart from the manifest.
fn large() -> Vec<Record> {
    let numbers: Vec<String> = (0..6000).map(|n| format!("{n:x}")).collect();
    let text = numbers.concat();
    let clusters = (0..40).map(|n| resource(CLUSTER, &format!("c{n:02}"), &format!("{n} {text}"), None));
    clusters.chain(world("large")).collect()
}

/// Row 81: each of these in place of the manifest that a release names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_081_a_manifest_that_is_cut_or_has_more_or_is_none() {
    let mut scene = Scene::new().await;
    let named = Snapshot::build(world("3")).unwrap();
    let raw = named.manifest().raw().to_vec();
    let whole = compress(&raw).unwrap().to_vec();
    scene.place.publisher.announce(named.id()).await;
    scene.expect("missing", "missing").await;
    let object = layout::manifest(&named.id());
    let bad: [(&str, Vec<u8>); 7] = [
        ("cut", whole[..whole.len() / 2].to_vec()),
        ("empty", Vec::new()),
        ("with more behind", [&whole[..], b"more"].concat()),
        ("cut before it was compressed", compress(&raw[..raw.len() - 1]).unwrap().to_vec()),
        ("with more before it was compressed", compress(&[&raw[..], b"\x00"].concat()).unwrap().to_vec()),
        ("of another magic", [b"\x1f\x8b\x08\x00", &whole[4..]].concat()),
        ("not compressed", raw.clone()),
    ];
    for (what, bytes) in bad {
        let before = scene.count("damaged");
        scene.put(&object, bytes).await;
        scene.place.publisher.announce(named.id()).await;
        eventually(what, || scene.count("damaged") > before).await;
        assert_eq!(serving(&scene.relay), Some(scene.served), "{what}");
    }
    scene.put(&object, whole).await;
    moorgate_snapshot::writer::mend(&scene.place.publisher.part(), &named).await.unwrap();
    // It asks ever more slowly; told to, it asks at once.
    scene.relay.reload().await;
    eventually("mended", || serving(&scene.relay) == Some(named.id())).await;
    scene.relay.stop().await;
}

/// Rows 81 and 89: a version that nobody knows yet, whole and signed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_081_a_manifest_from_the_future() {
    let mut scene = Scene::new().await;
    let raw = Snapshot::build(world("3")).unwrap().manifest().raw().to_vec();
    assert_eq!(raw[..2], [0x08, 1], "the format comes first");
    let future = [&[0x08, 9], &raw[2..]].concat();
    let id = Digest::of(&future);
    scene.put(&layout::manifest(&id), compress(&future).unwrap().to_vec()).await;
    scene.place.publisher.announce(id).await;
    scene.expect("from the future", "upgrade_required").await;
    scene.relay.stop().await;
}

/// Rows 82 and 83: pages that are missing, cut, too large, or have one bit flipped, anywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_082_083_pages_that_are_missing_cut_oversized_or_flipped() {
    let mut scene = Scene::new().await;
    let snapshot = Snapshot::build(large()).unwrap();
    // One that the release before has not: from memory a relay would put the snapshot together without it.
    let apart = snapshot.manifest().pages().iter().filter(|page| page.inline.is_none());
    let apart = apart.max_by_key(|page| page.size).unwrap().digest;
    scene.place.publisher.publish(large()).await;
    eventually("whole", || serving(&scene.relay) == Some(snapshot.id())).await;
    // A relay that has nothing of it yet.
    let path = scene.place.stored(&layout::page(&apart));
    let whole = std::fs::read(&path).unwrap();
    let mut bad: Vec<(String, Option<Vec<u8>>)> = vec![
        ("missing".into(), None),
        ("cut".into(), Some(whole[..whole.len() / 2].to_vec())),
        ("oversized".into(), Some([&whole[..], &vec![7; 64 << 20]].concat())),
    ];
    for at in [0, 4, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        bad.push((format!("flipped at {at}"), Some(flipped)));
    }
    for (what, bytes) in bad {
        match bytes {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let config = Config { cache: None, admin: None, listen: Vec::new(), ..scene.place.config() };
        let relay = Relay::start(config).await.unwrap();
        // The release before is whole: better that than nothing. A bit of the wrapping that changes no content does no harm.
        let refused = || !error(&relay).is_empty() && serving(&relay) == Some(scene.served);
        let harmless = || what.starts_with("flipped") && serving(&relay) == Some(snapshot.id());
        eventually(&what, || refused() || harmless()).await;
        std::fs::write(&path, &whole).unwrap();
        // It asks ever more slowly; told to, it asks at once.
        relay.reload().await;
        eventually(&format!("{what}, mended"), || serving(&relay) == Some(snapshot.id())).await;
        relay.stop().await;
    }
    scene.relay.stop().await;
}

/// Rows 84, 85 and 86, and an object that says that it is small (88).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_084_085_086_088_entries_that_are_forged_replayed_far_or_bombs() {
    let scene = Scene::new().await;
    let next = scene.next();
    let forged: [(&str, Entry, u8, u64, &str); 6] = [
        ("wrong key", next.clone(), 33, 3, "unknown_key"),
        ("a key of another role", next.clone(), 8, 3, "role"),
        ("a key that was revoked", next.clone(), 9, 3, "revoked_key"),
        ("wrong fleet", Entry { fleet: FleetName::gateway("shop", "b"), ..next.clone() }, 7, 3, "replay"),
        ("wrong channel", Entry { channel: "canary".parse().unwrap(), ..next.clone() }, 7, 3, "replay"),
        (
            "same number, other content",
            Entry { sequence: 2, previous: None, ..next.clone() },
            7,
            2,
            "equivocation",
        ),
    ];
    let far = Entry { sequence: u64::MAX, ..next.clone() }.sign(&[&key(7)]).unwrap();
    scene.put("head/stable", Head::of(far).encode()).await;
    scene.expect("far", "fast_forward").await;
    let mut unsigned = next.sign(&[&key(7)]).unwrap();
    unsigned.signatures.clear();
    scene.forge(unsigned, 3).await;
    scene.expect("no signature", "malformed").await;
    // The last one stands in the way of all that come behind it.
    for (what, entry, seed, slot, reason) in forged {
        scene.forge(entry.sign(&[&key(seed)]).unwrap(), slot).await;
        scene.expect(what, reason).await;
    }
    scene.relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_088_a_bomb_is_not_unpacked() {
    let mut scene = Scene::new().await;
    let bomb = compress(&vec![0; 256 << 20]).unwrap();
    assert!(bomb.len() < 1 << 20);
    let id = Digest::of(&bomb);
    scene.put(&layout::manifest(&id), bomb.to_vec()).await;
    scene.place.publisher.announce(id).await;
    scene.expect("bomb", "damaged").await;
    scene.relay.stop().await;
}

/// Row 89: one encoding only, at every depth; what is not it is refused, however well it is signed.
#[test]
fn row_089_protobuf_that_is_not_canonical() {
    let snapshot = Snapshot::build(large()).unwrap();
    let (page, manifest) = (snapshot.pages()[0].raw().to_vec(), snapshot.manifest().raw().to_vec());
    assert!(Page::decode(page.clone().into()).is_ok() && Manifest::decode(manifest.clone().into()).is_ok());
    let varint = |raw: &[u8]| {
        // The first length, with a byte more than it needs.
        let mut long = raw.to_vec();
        let end = 1 + raw[1..].iter().position(|byte| byte & 0x80 == 0).unwrap();
        long[end] |= 0x80;
        long.insert(end + 1, 0);
        long
    };
    let nested = (0..10_000).fold(Vec::new(), |inner: Vec<u8>, _| {
        if inner.len() > 16_000 {
            return inner;
        }
        let length = inner.len().to_le_bytes();
        let (low, high) = (length[0] & 0x7f, (length[0] >> 7) | (length[1] << 1));
        [&[0x0a, 0x80 | low, high][..], &inner].concat()
    });
    let cases = [
        ("an unknown field", [&page[..], b"\xfa\x07\x01x"].concat()),
        ("a group", [&page[..], b"\x0b\x0c"].concat()),
        ("a long varint", varint(&page)),
        ("an endless varint", [&page[..], &[0xff; 20]].concat()),
        ("the same resource twice", [&page[..], &page].concat()),
        ("nesting", nested.clone()),
    ];
    for (what, raw) in cases {
        assert!(Page::decode(Bytes::from(raw)).is_err(), "{what}");
    }
    for (what, raw) in [
        ("an unknown field", [&manifest[..], b"\xfa\x07\x01x"].concat()),
        ("a long varint", [&[0x08, 0x81, 0x00], &manifest[2..]].concat()),
        ("the same page twice", [&manifest[..], &manifest[2..]].concat()),
        ("nesting", nested),
    ] {
        assert!(Manifest::decode(Bytes::from(raw)).is_err(), "{what}");
    }
    // Two resources of one name, which no page can hold.
    let twice = vec![resource(CLUSTER, "a", "1", None), resource(CLUSTER, "a", "2", None)];
    assert!(Snapshot::build(twice).is_err());
}

/// What an HTTPS server answers.
#[derive(Debug, Clone, Copy)]
enum Mood {
    Status(u16, &'static str),
    /// One byte a second.
    Slow,
    Hangs,
    /// Closes in the middle of its answer.
    Cuts,
    /// Somebody else's certificate.
    Stranger,
}

/// A server of one mood, which counts where it sends nobody; its address and certificate.
async fn serve_https(mood: Mood) -> (u16, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = vec![0; 8192];
                while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n";
                    let text = match mood {
                        Mood::Status(code, rest) => format!("HTTP/1.1 {code} X\r\n{rest}"),
                        Mood::Cuts => format!("{head}half"),
                        Mood::Slow => head.to_owned(),
                        Mood::Hangs | Mood::Stranger => String::new(),
                    };
                    let _ = stream.write_all(text.as_bytes()).await;
                    match mood {
                        Mood::Cuts => return,
                        Mood::Hangs => std::future::pending().await,
                        Mood::Slow => {
                            while stream.write_all(b"x").await.is_ok() && stream.flush().await.is_ok() {
                                tokio::time::sleep(Duration::from_secs(1)).await;
                            }
                            return;
                        }
                        Mood::Status(..) | Mood::Stranger => {}
                    }
                }
            });
        }
    });
    let pem = match mood {
        Mood::Stranger => {
            let other = KeyPair::generate().unwrap();
            CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&other).unwrap().pem()
        }
        _ => certificate.pem(),
    };
    (port, pem)
}

/// A store at a server of this mood.
async fn moody(folder: &Path, name: &str, mood: Mood) -> Store {
    let (port, pem) = serve_https(mood).await;
    let file = |end: &str, text: &str| {
        let path: PathBuf = folder.join(format!("{name}.{end}"));
        std::fs::write(&path, text).unwrap();
        path
    };
    let (token, ca) = (file("token", "t"), file("ca", &pem));
    let settings = StoreSettings::default().with_front(Some(&token), Some(&ca));
    Store::open_with(&format!("https://127.0.0.1:{port}"), &settings).unwrap()
}

/// Rows 90 and 91: whatever a server answers, a relay serves what it has, and says what is wrong; a cold one serves nothing
/// rather than something else. All of them at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_090_091_whatever_a_bucket_answers() {
    let mut place = Place::new();
    let served = place.publisher.publish(world("1")).await;
    let relay = place.relay().await;
    eventually("served", || serving(&relay) == Some(served)).await;
    relay.stop().await;
    let elsewhere = "location: https://127.0.0.1:1/elsewhere\r\ncontent-length: 0\r\n\r\n";
    let empty = "content-length: 0\r\n\r\n";
    let moods = [
        ("denied", Mood::Status(403, empty)),
        ("unauthorized", Mood::Status(401, empty)),
        ("range", Mood::Status(416, empty)),
        ("busy", Mood::Status(429, "retry-after: 1\r\ncontent-length: 0\r\n\r\n")),
        ("broken", Mood::Status(500, empty)),
        ("away", Mood::Status(503, empty)),
        ("moved", Mood::Status(302, elsewhere)),
        ("moved-for-good", Mood::Status(301, elsewhere)),
        ("not-modified", Mood::Status(304, empty)),
        ("portal", Mood::Status(200, "content-type: text/html\r\ncontent-length: 13\r\n\r\n<html></html>")),
        ("odd-length", Mood::Status(200, "content-length: 99999999999999999999\r\n\r\nx")),
        ("endless", Mood::Status(200, "content-length: 9000000000000000000\r\n\r\nx")),
        ("no-http", Mood::Status(999, "\r\n")),
        ("slow", Mood::Slow),
        ("hangs", Mood::Hangs),
        ("cuts", Mood::Cuts),
        ("stranger", Mood::Stranger),
    ];
    let mut relays = Vec::new();
    for (name, mood) in moods {
        let cache = place.path(name);
        copy(&place.path("cache"), &cache);
        let stores = vec![moody(&place.path(""), name, mood).await];
        let config = Config {
            stores,
            cache: Some(cache),
            listen: Vec::new(),
            admin: None,
            health: None,
            ..place.config()
        };
        relays.push((name, Relay::start(config).await.unwrap()));
    }
    for (name, relay) in &relays {
        let start = std::time::Instant::now();
        while error(relay).is_empty() {
            assert!(start.elapsed() < Duration::from_secs(90), "{name}: nothing is said");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(serving(relay), Some(served), "{name}");
        assert!(relay.metrics().render().contains("moorgate_relay_refusals_total"), "{name}");
    }
    for (_, relay) in relays {
        relay.stop().await;
    }
}

/// Row 91: a list or a head that is behind is read over: the log itself says more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_091_a_stale_head_delays_and_changes_nothing() {
    let mut place = Place::new();
    let first = place.publisher.publish(world("1")).await;
    let stale = std::fs::read(place.stored("head/stable")).unwrap();
    let relay = place.relay().await;
    eventually("first", || serving(&relay) == Some(first)).await;
    let second = place.publisher.publish(world("2")).await;
    std::fs::write(place.stored("head/stable"), &stale).unwrap();
    // The log is asked once a minute, and at once after a reload.
    relay.reload().await;
    eventually("second", || serving(&relay) == Some(second)).await;
    relay.stop().await;
}

/// Row 92: a head that goes to and fro brings Envoys nothing to and fro.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_092_a_flapping_pointer() {
    let mut place = Place::new();
    place.publisher.publish(world("1")).await;
    let old = std::fs::read(place.stored("head/stable")).unwrap();
    let second = place.publisher.publish(world("2")).await;
    let new = std::fs::read(place.stored("head/stable")).unwrap();
    let relay = place.relay().await;
    eventually("second", || serving(&relay) == Some(second)).await;
    let mut views = relay.fleets()[0].hub.views();
    views.borrow_and_update();
    let polls = || {
        let text = relay.metrics().render();
        let lines = text.lines().filter(|line| line.starts_with("moorgate_relay_polls_total"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    for round in 0..20 {
        let before = polls();
        std::fs::write(place.stored("head/stable"), if round % 2 == 0 { &old } else { &new }).unwrap();
        eventually("a poll", || polls() > before).await;
    }
    assert!(!views.has_changed().unwrap(), "nothing was put in force");
    relay.stop().await;
}

/// Row 93, and the operator's own file: one that names what is not here changes nothing and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_093_a_pin_of_what_is_not_here() {
    let mut place = Place::new();
    let first = place.publisher.publish(world("1")).await;
    let own = place.path("emergency-pin");
    let config = Config { pin_file: Some(own.clone()), ..place.config() };
    let relay = Relay::start(config.clone()).await.unwrap();
    eventually("first", || serving(&relay) == Some(first)).await;
    let mut envoy = place.envoy("e").await;
    take(&mut envoy).await;
    eventually("first is good", || relay.fleets()[0].status.borrow().good == [first]).await;
    let second = place.publisher.publish(world("2")).await;
    eventually("second", || serving(&relay) == Some(second)).await;
    let gauge = |name: &str| relay.metrics().get(name, &[("fleet", "shop/edge")]);
    std::fs::write(&own, format!("{}\n", Digest::of(b"nobody's"))).unwrap();
    eventually("pin_missing", || gauge("moorgate_relay_pin_missing") == Some(1.0)).await;
    assert_eq!((serving(&relay), gauge("moorgate_relay_pinned")), (Some(second), Some(0.0)));
    std::fs::write(&own, format!("{first}\n")).unwrap();
    eventually("pinned", || serving(&relay) == Some(first)).await;
    assert_eq!(gauge("moorgate_relay_pin_missing"), Some(0.0));
    // Commands do not fight with the file.
    let (status, text) = http(&relay, &place, "DELETE", "/pin").await;
    assert!(status == 409 && text.contains("emergency-pin"), "{status} {text}");
    // Half a file takes back no pin.
    std::fs::write(&own, &first.to_string()[..10]).unwrap();
    assert_eq!(http(&relay, &place, "POST", &format!("/pin?snapshot={second}")).await.0, 409);
    // It holds over a restart without a store, endpoints included.
    std::fs::write(&own, format!("{first}\n")).unwrap();
    relay.stop().await;
    std::fs::rename(place.path("store"), place.path("away")).unwrap();
    let relay = Relay::start(config).await.unwrap();
    eventually("pinned from disk", || serving(&relay) == Some(first)).await;
    let taken = take(&mut place.envoy("e").await).await;
    assert_eq!(taken[0].system_version_info, first.short());
    std::fs::remove_file(&own).unwrap();
    eventually("the channel is followed again", || serving(&relay) == Some(second)).await;
    relay.stop().await;
}

/// Row 94: whatever is left of a cache is used, and if nothing is, the seed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_094_a_cache_that_is_all_damaged_gives_way_to_the_seed() {
    let mut place = Place::new();
    let first = place.publisher.publish(world("1")).await;
    copy(&place.path("store"), &place.path("seed"));
    let second = place.publisher.publish(world("2")).await;
    let relay = place.relay().await;
    eventually("second", || serving(&relay) == Some(second)).await;
    relay.stop().await;
    std::fs::remove_dir_all(place.path("store")).unwrap();
    let fleet = place.path("cache/shop.edge");
    for path in std::fs::read_dir(fleet.join("objects")).unwrap().map(|entry| entry.unwrap().path()) {
        std::fs::write(path, b"damaged").unwrap();
    }
    for name in ["state", "state.previous", "endpoints"] {
        if fleet.join(name).exists() {
            std::fs::write(fleet.join(name), b"damaged").unwrap();
        }
    }
    // A file that a killed relay was writing.
    std::fs::write(fleet.join("writing"), b"half").unwrap();
    let seed = Store::open(&format!("file://{}", place.path("seed").display())).unwrap();
    let relay = Relay::start(Config { seed: Some(seed), ..place.config() }).await.unwrap();
    eventually("the seed", || serving(&relay) == Some(first)).await;
    relay.stop().await;
}

/// Row 87: `a_frozen_store_raises_an_alarm_until_a_renewal_comes`; row 95: `two_relays_do_not_share_a_cache`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_087_095_an_expired_release_is_served_and_a_cache_has_one_relay() {
    let mut place = Place::new();
    place.publisher.expires = Some(time::OffsetDateTime::UNIX_EPOCH + time::Duration::days(1));
    let served = place.publisher.publish(world("1")).await;
    let relay = place.relay().await;
    let expired = || relay.metrics().get("moorgate_relay_head_expired", &[("fleet", "shop/edge")]);
    eventually("served with an alarm", || serving(&relay) == Some(served) && expired() == Some(1.0)).await;
    let second =
        Relay::start(Config { admin: None, health: None, listen: Vec::new(), ..place.config() }).await;
    assert!(second.unwrap_err().to_string().contains("another relay uses this cache"));
    relay.stop().await;
}
