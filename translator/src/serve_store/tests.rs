use super::*;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, ETAG, IF_NONE_MATCH};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use moorgate_snapshot::store::{Get, Settings};
use moorgate_snapshot::{FleetName, Store, StoreError, limits};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Tokens are what they stand for: `token of shop/edge`.
struct Plain;

impl Review for Plain {
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<Account>, ReviewError>> {
        let account = match token {
            "unknown" => Err(ReviewError("down".to_owned())),
            token => Ok(token.strip_prefix("token-of-").and_then(|name| name.replace('-', "/").parse().ok())),
        };
        Box::pin(async { account })
    }
}

const EDGE: &str = "/fleets/gateway/shop/edge";

fn front() -> (Store, Front) {
    let store = Store::open("memory:///").unwrap();
    let accounts = Accounts::configured(&["shop/envoy=shop/edge".to_owned()]).unwrap();
    accounts.make([("pay/made".parse().unwrap(), FleetName::gateway("pay", "edge"))]);
    (store.clone(), Front::new(store, Gate::new(Plain, accounts)))
}

async fn ask(front: &Front, method: Method, path: &str, token: &str) -> (StatusCode, Bytes) {
    let request =
        Request::builder().method(method).uri(path).header(AUTHORIZATION, format!("Bearer {token}"));
    let response = front.answer(request.body(Full::new(Bytes::from_static(b"{}"))).unwrap()).await;
    let status = response.status();
    (status, response.into_body().collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn a_fleet_reads_its_own_prefix_and_writes_its_reports_and_that_is_all() {
    let (store, front) = front();
    let edge = FleetName::gateway("shop", "edge");
    store.fleet(&edge).overwrite("head/stable", Bytes::from_static(b"head")).await.unwrap();
    let head = format!("{EDGE}/head/stable");
    let report = format!("{EDGE}/status/relay-1.json");
    let envoy = "token-of-shop-envoy";
    assert_eq!(ask(&front, Method::GET, &head, envoy).await, (StatusCode::OK, "head".into()));
    assert_eq!(ask(&front, Method::PUT, &report, envoy).await.0, StatusCode::NO_CONTENT);
    assert_eq!(store.fleet(&edge).get("status/relay-1.json", 100).await.unwrap().unwrap(), "{}");
    assert_eq!(
        ask(&front, Method::GET, &format!("{EDGE}/log/stable/1"), envoy).await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(ask(&front, Method::GET, "/trust/00000000000000000001", envoy).await.0, StatusCode::NOT_FOUND);
    let cases = [
        // A good token of another fleet, that of no fleet, a bad one, none.
        (Method::GET, head.as_str(), "token-of-pay-made", StatusCode::FORBIDDEN),
        (Method::PUT, report.as_str(), "token-of-pay-made", StatusCode::FORBIDDEN),
        (Method::GET, head.as_str(), "token-of-shop-other", StatusCode::FORBIDDEN),
        (Method::GET, "/trust/00000000000000000001", "token-of-shop-other", StatusCode::FORBIDDEN),
        (Method::GET, head.as_str(), "forged", StatusCode::UNAUTHORIZED),
        (Method::GET, head.as_str(), "", StatusCode::UNAUTHORIZED),
        (Method::GET, head.as_str(), "unknown", StatusCode::SERVICE_UNAVAILABLE),
        // What is nobody's.
        (Method::GET, "/fleets/gateway/shop", envoy, StatusCode::FORBIDDEN),
        (Method::GET, "/", envoy, StatusCode::FORBIDDEN),
        (Method::PUT, head.as_str(), envoy, StatusCode::FORBIDDEN),
        (Method::DELETE, head.as_str(), envoy, StatusCode::METHOD_NOT_ALLOWED),
    ];
    for (method, path, token, expected) in cases {
        assert_eq!(ask(&front, method.clone(), path, token).await.0, expected, "{method} {path} {token}");
    }
    assert_eq!(store.fleet(&edge).get("head/stable", 100).await.unwrap().unwrap(), "head");
}

#[tokio::test]
async fn an_object_that_did_not_change_is_not_sent_again_and_a_report_is_bounded() {
    let (store, front) = front();
    let edge = store.fleet(&FleetName::gateway("shop", "edge"));
    edge.overwrite("head/stable", Bytes::from_static(b"one")).await.unwrap();
    let get = |tag: Option<http::HeaderValue>| {
        let request = Request::get(format!("{EDGE}/head/stable"));
        let mut request = request.header(AUTHORIZATION, "Bearer token-of-shop-envoy");
        if let Some(tag) = tag {
            request = request.header(IF_NONE_MATCH, tag);
        }
        front.answer(request.body(Full::<Bytes>::default()).unwrap())
    };
    let tag = get(None).await.headers().get(ETAG).unwrap().clone();
    assert_eq!(get(Some(tag.clone())).await.status(), StatusCode::NOT_MODIFIED);
    edge.overwrite("head/stable", Bytes::from_static(b"two")).await.unwrap();
    assert_eq!(get(Some(tag)).await.status(), StatusCode::OK);
    let report = |size: usize| {
        let request = Request::put(format!("{EDGE}/status/relay-1.json"));
        let request = request.header(AUTHORIZATION, "Bearer token-of-shop-envoy");
        front.answer(request.body(Full::new(Bytes::from(vec![b'x'; size]))).unwrap())
    };
    assert_eq!(report(limits::REPORT_BYTES + 1).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(edge.get("status/relay-1.json", limits::REPORT_BYTES).await.unwrap(), None);
    assert_eq!(report(limits::REPORT_BYTES).await.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn whoever_asks_too_early_is_not_refused_but_told_to_come_again() {
    let accounts = Accounts::default();
    let store = Store::open("memory:///").unwrap();
    let (leads_out, leads) = watch::channel(false);
    let ledger = Arc::new(Ledger::new(ledger::tests::Paper::default()));
    let front = Front::new(store, Gate::new(Plain, accounts.clone())).in_house(House { leads, ledger });
    let head = format!("{EDGE}/head/stable");
    let get = async || ask(&front, Method::GET, &head, "token-of-shop-envoy").await.0;
    // Another replica writes; nobody knows yet which fleets there are.
    assert_eq!(get().await, StatusCode::SERVICE_UNAVAILABLE);
    leads_out.send_replace(true);
    assert_eq!(get().await, StatusCode::SERVICE_UNAVAILABLE);
    accounts.make([]);
    assert_eq!(get().await, StatusCode::FORBIDDEN);
    accounts.make([("shop/envoy".parse().unwrap(), FleetName::gateway("shop", "edge"))]);
    assert_eq!(get().await, StatusCode::NOT_FOUND);
    leads_out.send_replace(false);
    assert_eq!(get().await, StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn accounts_are_written_one_way() {
    for text in ["shop/envoy", "shop=a/b", "/x=a/b", "x/=a/b", "a/b:c=d/e", "a/b=../x"] {
        assert!(Accounts::configured(&[text.to_owned()]).is_err(), "{text}");
    }
    let accounts = Accounts::configured(&["a/b=c/d".to_owned(), "a/b=class/e".to_owned()]).unwrap();
    let account = "a/b".parse().unwrap();
    assert!(
        accounts.fits(&account, &"c/d".parse().unwrap())
            && accounts.fits(&account, &"class/e".parse().unwrap())
    );
    assert!(!accounts.fits(&account, &"a/b".parse().unwrap()));
    accounts.make([("x/y".parse().unwrap(), "x/z".parse().unwrap())]);
    accounts.make([]);
    assert!(accounts.is_known(&account) && !accounts.is_known(&"x/y".parse().unwrap()));
    assert!(accounts.are_known());
    accounts.forget();
    assert!(!accounts.are_known() && accounts.is_known(&account));
}

/// A CA in `ca.crt`, and what it signed in `tls.crt` and `tls.key`.
fn certificates(folder: &Path) -> Certificate {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    std::fs::write(folder.join("ca.crt"), ca.pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let signed = params.signed_by(&own, &issuer).unwrap();
    std::fs::write(folder.join("tls.crt"), signed.pem()).unwrap();
    std::fs::write(folder.join("tls.key"), own.serialize_pem()).unwrap();
    Certificate { chain: folder.join("tls.crt"), key: folder.join("tls.key") }
}

#[tokio::test]
async fn a_relay_reaches_it_over_tls_with_a_token_that_is_renewed_and_a_ca_that_changes() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = certificates(folder.path());
    let (token, ca) = (folder.path().join("token"), folder.path().join("ca.crt"));
    std::fs::write(&token, "token-of-shop-envoy").unwrap();
    let (store, front) = front();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stop, stopped) = watch::channel(false);
    let (shown_out, shown) = watch::channel(None);
    let server = tokio::spawn(serve(listener, shown, Arc::new(front), stopped));
    shown_out.send_replace(Some(certificate.load().unwrap()));
    let settings = Settings::default().with_front(Some(&token), Some(&ca));
    let far = Store::open_with(&format!("https://localhost:{port}"), &settings).unwrap();
    let edge = FleetName::gateway("shop", "edge");
    let (near, far_part) = (store.fleet(&edge), far.fleet(&edge));
    assert_eq!(far_part.get("head/stable", 100).await.unwrap(), None);
    near.overwrite("head/stable", Bytes::from_static(b"head")).await.unwrap();
    let Get::Found(found) = far_part.get_if_changed("head/stable", None, 100).await.unwrap() else {
        panic!()
    };
    assert_eq!(found.bytes, "head");
    let again = far_part.get_if_changed("head/stable", found.etag.as_deref(), 100).await.unwrap();
    assert_eq!(again, Get::NotModified);
    assert!(matches!(far_part.get("head/stable", 3).await, Err(StoreError::TooLarge { .. })));
    assert_eq!(far_part.stat("head/stable").await.unwrap().unwrap().size, 4);
    far_part.overwrite("status/relay-1.json", Bytes::from_static(b"{}")).await.unwrap();
    assert_eq!(near.get("status/relay-1.json", 100).await.unwrap().unwrap(), "{}");
    far.answers().await.unwrap();
    // The token is another's from now on.
    std::fs::write(&token, "token-of-pay-made").unwrap();
    let other = Store::open_with(&format!("https://localhost:{port}"), &settings).unwrap();
    let denied = other.fleet(&edge).get("head/stable", 100).await;
    assert!(matches!(denied, Err(StoreError::Denied { .. })), "{denied:?}");
    std::fs::write(&token, "token-of-shop-envoy").unwrap();
    assert!(other.fleet(&edge).get("head/stable", 100).await.unwrap().is_some());
    // So is the CA: what it did not sign is not believed.
    let (good, elsewhere) = (std::fs::read(&ca).unwrap(), tempfile::tempdir().unwrap());
    certificates(elsewhere.path());
    std::fs::copy(elsewhere.path().join("ca.crt"), &ca).unwrap();
    assert!(matches!(far_part.get("head/stable", 100).await, Err(StoreError::Failed { .. })));
    std::fs::write(&ca, good).unwrap();
    assert!(far_part.get("head/stable", 100).await.unwrap().is_some());
    stop.send_replace(true);
    tokio::time::timeout(Duration::from_secs(10), server).await.unwrap().unwrap();
}
