//! Fleets that a relay opens when their Envoys come, and forgets when these are gone.

use crate::client::Delta;
use crate::issuer::{ISSUER, Issuer, claims, key_set};
use crate::publisher::{Publisher, resource};
use crate::relay::{Place, eventually};
use crate::tls::{Authority, stream};
use moorgate_relay::config::{Config, Listen, MemberFile, OnDemand, TokenKeys, TokenOptions};
use moorgate_relay::serve::tls::Files;
use moorgate_relay::serve::token::HANDED_OVER;
use moorgate_relay::serve::types::CLUSTER;
use moorgate_relay::{Options, Relay};
use moorgate_snapshot::{FleetName, KeyPair, Report, Signer as _, Trust, layout, limits};
use serde_json::json;
use std::time::Duration;
use tonic::{Code, Status};

/// Fleets are forgotten so long after their last Envoy.
const FORGET: Duration = Duration::from_millis(300);
const SHOP: &str = "system:serviceaccount:shop:envoy=shop/edge\n";
const PAY: &str = "system:serviceaccount:pay:envoy=pay/edge\n";

/// A store with two fleets, and what a relay for both needs.
struct Scene {
    place: Place,
    authority: Authority,
    issuer: Issuer,
}

impl Scene {
    async fn new() -> Self {
        let mut place = Place::new();
        place.publisher.publish(vec![resource(CLUSTER, "of-shop", "1", None)]).await;
        let mut other = Publisher::new(place.publisher.store.clone());
        other.fleet = FleetName::gateway("pay", "edge");
        other.publish(vec![resource(CLUSTER, "of-pay", "1", None)]).await;
        let (authority, issuer) = (Authority::new(), Issuer::new("k"));
        let (certificate, key) = authority.leaf("spiffe://moorgate/relay");
        std::fs::write(place.path("tls.crt"), certificate).unwrap();
        std::fs::write(place.path("tls.key"), key).unwrap();
        std::fs::write(place.path("jwks.json"), key_set(&[&issuer])).unwrap();
        std::fs::write(place.path("members"), format!("{SHOP}{PAY}")).unwrap();
        std::fs::write(place.path("report.key"), &*KeyPair::generate(&[8; 32]).unwrap().1).unwrap();
        Self { place, authority, issuer }
    }

    fn config(&self) -> Config {
        let files = Files {
            certificate: self.place.path("tls.crt"),
            key: self.place.path("tls.key"),
            client_ca: None,
            tokens: true,
        };
        let keys = TokenKeys::File(self.place.path("jwks.json"));
        let tokens = TokenOptions { keys, issuer: ISSUER.into(), audience: "moorgate-relay".into() };
        Config {
            fleets: Vec::new(),
            on_demand: Some(OnDemand { forget_after: FORGET, passes: false }),
            listen: vec![Listen::Tcp("127.0.0.1:0".parse().unwrap())],
            tls: Some(files),
            tokens: Some(tokens),
            member_file: Some(self.member_file()),
            report_key: Some(self.place.path("report.key")),
            ..self.place.config()
        }
    }

    /// The file of members, as flags name it.
    fn member_file(&self) -> MemberFile {
        let path = |name: &str| self.place.path(name).display().to_string();
        let options = Options {
            on_demand: true,
            store: vec![format!("file://{}", path("store"))],
            trust: Some(self.place.path("trust.pem")),
            listen: vec!["tcp:127.0.0.1:0".to_owned()],
            tls_cert: Some(self.place.path("tls.crt")),
            tls_key: Some(self.place.path("tls.key")),
            token_keys: Some(format!("file:{}", path("jwks.json"))),
            token_issuer: Some(ISSUER.to_owned()),
            member_file: Some(self.place.path("members")),
            host: Some("relay".to_owned()),
            ..Options::default()
        };
        options.check().unwrap().member_file.unwrap()
    }

    async fn relay(&self) -> Relay {
        Relay::start(self.config()).await.unwrap()
    }

    /// A stream of an Envoy with this account.
    async fn envoy(&self, relay: &Relay, account: &str) -> Result<Delta, Status> {
        let token = self.issuer.token(account);
        self.with(relay, &[("authorization", &token)]).await
    }

    async fn with(&self, relay: &Relay, tokens: &[(&'static str, &str)]) -> Result<Delta, Status> {
        stream(&self.authority, relay.tcp()[0], None, ("node", tokens)).await
    }

    /// What the relay says of a fleet in the store.
    async fn report(&self, fleet: &str) -> Report {
        let (fleet, relay) = (fleet.parse().unwrap(), "relay-1".parse().unwrap());
        let part = self.place.publisher.store.fleet(&fleet);
        let stored = part.get(&layout::report(&relay), limits::REPORT_BYTES).await.unwrap().unwrap();
        let trust = Trust::of([KeyPair::generate(&[8; 32]).unwrap().0.public().clone()]);
        let reported = Report::read(&stored, &trust, &fleet, &relay).unwrap();
        assert_eq!(reported.untrusted, None);
        reported.report
    }

    fn on_disk(&self) -> Vec<String> {
        let folder = std::fs::read_dir(self.place.path("cache"));
        let names = folder.into_iter().flatten().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn open(relay: &Relay) -> Vec<String> {
    relay.fleets().iter().map(|fleet| fleet.name().to_string()).collect()
}

/// The only cluster that an Envoy is given.
async fn cluster(envoy: &mut Delta) -> String {
    envoy.ask(CLUSTER, &[]);
    let response = envoy.response().await;
    envoy.ack(&response);
    response.resources[0].name.clone()
}

async fn refused(stream: Result<Delta, Status>) -> Code {
    match stream {
        Err(status) => status.code(),
        Ok(mut envoy) => envoy.next().await.map(|_| ()).unwrap_err().code(),
    }
}

#[tokio::test]
async fn a_fleet_is_here_as_long_as_its_envoys_are() {
    let scene = Scene::new().await;
    let relay = scene.relay().await;
    assert_eq!(open(&relay), Vec::<String>::new());
    let mut first = scene.envoy(&relay, "shop:envoy").await.unwrap();
    assert_eq!(cluster(&mut first).await, "of-shop");
    // Nothing of the other fleet is here: neither in memory nor on the disk.
    assert_eq!((open(&relay), scene.on_disk()), (vec!["shop/edge".to_owned()], vec!["shop.edge".to_owned()]));
    let mut other = scene.envoy(&relay, "pay:envoy").await.unwrap();
    assert_eq!(cluster(&mut other).await, "of-pay");
    assert_eq!(open(&relay), ["pay/edge", "shop/edge"]);
    assert_eq!(relay.metrics().get("moorgate_relay_fleets", &[]), Some(2.0));
    assert_eq!(refused(scene.envoy(&relay, "shop:other").await).await, Code::PermissionDenied);
    // The last Envoy of one leaves: it is forgotten, and the other one does not notice.
    drop(other);
    let count = || relay.metrics().get("moorgate_relay_fleets", &[]);
    eventually("it is forgotten", || open(&relay) == ["shop/edge"] && count() == Some(1.0)).await;
    assert_eq!(scene.on_disk(), ["shop.edge"]);
    assert!(!relay.metrics().render().contains("pay/edge"), "{}", relay.metrics().render());
    let streams = relay.metrics().get("moorgate_relay_streams", &[("fleet", "shop/edge")]);
    assert_eq!(streams, Some(1.0));
    // Who waits for all relays of that fleet is told not to wait for this one.
    assert!(scene.report("pay/edge").await.left && !scene.report("shop/edge").await.left);
    // It comes back, and so does its fleet.
    let mut back = scene.envoy(&relay, "pay:envoy").await.unwrap();
    assert_eq!(cluster(&mut back).await, "of-pay");
    relay.stop().await;
    assert!(scene.report("shop/edge").await.left);
}

/// One fleet with nothing published keeps no others away, and what is published later reaches its Envoys.
#[tokio::test]
async fn a_fleet_without_a_release_costs_itself() {
    let scene = Scene::new().await;
    std::fs::write(scene.place.path("members"), format!("{SHOP}system:serviceaccount:new:envoy=new/edge\n"))
        .unwrap();
    let relay = scene.relay().await;
    let mut waiting = scene.envoy(&relay, "new:envoy").await.unwrap();
    waiting.ask(CLUSTER, &[]);
    let mut first = scene.envoy(&relay, "shop:envoy").await.unwrap();
    assert_eq!(cluster(&mut first).await, "of-shop");
    let health = format!("http://{}/readyz", relay.health().unwrap());
    assert!(head_of(&health).await.starts_with("HTTP/1.1 200"));
    let mut late = Publisher::new(scene.place.publisher.store.clone());
    late.fleet = FleetName::gateway("new", "edge");
    late.publish(vec![resource(CLUSTER, "of-new", "1", None)]).await;
    assert_eq!(waiting.response().await.resources[0].name, "of-new");
    relay.stop().await;
}

/// The head of an answer to a plain GET.
async fn head_of(url: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
    let request = format!("GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// A relay that was restarted serves what it had from its disk at once, with the store gone; what nobody asks for is
/// forgotten all the same.
#[tokio::test]
async fn a_restart_serves_the_fleets_that_were_here() {
    let scene = Scene::new().await;
    let config = Config {
        on_demand: Some(OnDemand { forget_after: Duration::from_mins(10), passes: false }),
        ..scene.config()
    };
    let relay = Relay::start(config).await.unwrap();
    let mut envoys = Vec::new();
    for account in ["shop:envoy", "pay:envoy"] {
        let mut envoy = scene.envoy(&relay, account).await.unwrap();
        cluster(&mut envoy).await;
        envoys.push(envoy);
    }
    // What Envoys took is on the disk a moment later.
    let synced = |fleet: &moorgate_relay::fleet::Fleet| !fleet.status.borrow().good.is_empty();
    eventually("both are known to be good", || relay.fleets().iter().all(synced)).await;
    relay.stop().await;
    drop(envoys);
    std::fs::rename(scene.place.path("store"), scene.place.path("gone")).unwrap();
    // Somebody holds this one by hand: that outlives its Envoys.
    let pinned = scene.place.path("cache").join("pay.edge").join("pin");
    std::fs::write(&pinned, "nothing that is here").unwrap();
    let relay = scene.relay().await;
    let mut envoy = scene.envoy(&relay, "shop:envoy").await.unwrap();
    assert_eq!(cluster(&mut envoy).await, "of-shop");
    eventually("whose Envoys did not come is forgotten", || open(&relay) == ["shop/edge"]).await;
    assert!(pinned.exists());
    relay.stop().await;
}

/// Who is added to the file of members is let in, and who is taken out is cut off.
#[tokio::test]
async fn members_come_and_go() {
    let scene = Scene::new().await;
    std::fs::write(scene.place.path("members"), SHOP).unwrap();
    let relay = scene.relay().await;
    assert_eq!(refused(scene.envoy(&relay, "pay:envoy").await).await, Code::PermissionDenied);
    let mut leaving = scene.envoy(&relay, "shop:envoy").await.unwrap();
    assert_eq!(cluster(&mut leaving).await, "of-shop");
    std::fs::write(scene.place.path("members"), PAY).unwrap();
    relay.reload().await;
    assert!(leaving.next().await.is_err());
    let mut coming = scene.envoy(&relay, "pay:envoy").await.unwrap();
    assert_eq!(cluster(&mut coming).await, "of-pay");
    // Nobody needs to tell: the file is looked at.
    std::fs::write(scene.place.path("members"), format!("{PAY}{SHOP}")).unwrap();
    let mut back = loop {
        match scene.envoy(&relay, "shop:envoy").await {
            Ok(envoy) => break envoy,
            Err(status) => assert_eq!(status.code(), Code::PermissionDenied),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(cluster(&mut back).await, "of-shop");
    relay.stop().await;
}

/// With passes the API server is asked with the tokens of Envoys alone, each for its own fleet.
#[cfg(feature = "kubernetes")]
#[tokio::test]
async fn what_a_fleet_binds_is_read_with_its_envoys_token() {
    use crate::api_server::ApiServer;
    use crate::publisher::secret;
    use moorgate_relay::config::Kubernetes;
    use moorgate_relay::serve::types::SECRET;

    let mut scene = Scene::new().await;
    let records = vec![resource(CLUSTER, "of-shop", "2", None), secret("shop-tls")];
    scene.place.publisher.publish(records).await;
    let server = ApiServer::start().await;
    let pem = |name: &str| std::fs::read(scene.place.path("secrets/shop/tls").join(name)).unwrap();
    let encoded = |name: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(pem(name))
    };
    let data = json!({"tls.crt": encoded("tls.crt"), "tls.key": encoded("tls.key")});
    let object = json!({"metadata": {"name": "tls", "namespace": "shop"}, "data": data});
    server.put("/api/v1/namespaces/shop/secrets", object);
    let kubeconfig = scene.place.path("kubeconfig");
    std::fs::write(&kubeconfig, kubeconfig_of(&server.url())).unwrap();
    let config = Config {
        on_demand: Some(OnDemand { forget_after: FORGET, passes: true }),
        kubernetes: Some(Kubernetes::Kubeconfig(kubeconfig)),
        secrets: None,
        ..scene.config()
    };
    let relay = Relay::start(config).await.unwrap();
    let for_server = |account: &str, end: i64| {
        let mut all = claims(account);
        (all["aud"], all["exp"]) = (json!([ISSUER]), json!(end));
        scene.issuer.sign(&scene.issuer.header(), &all)
    };
    let (shop, end) = (scene.issuer.token("shop:envoy"), 3_900_000_000);
    // One token does not do for the other, and that of somebody else not at all.
    let pass = for_server("shop:envoy", end);
    assert_eq!(refused(scene.with(&relay, &[("authorization", &pass)]).await).await, Code::Unauthenticated);
    assert_eq!(refused(scene.with(&relay, &[("authorization", &shop)]).await).await, Code::Unauthenticated);
    let others = for_server("pay:envoy", end);
    let mixed = [("authorization", &*shop), (HANDED_OVER, &*others)];
    assert_eq!(refused(scene.with(&relay, &mixed).await).await, Code::Unauthenticated);
    assert_eq!((open(&relay), server.requests()), (Vec::new(), Vec::new()));
    let own = [("authorization", &*shop), (HANDED_OVER, &*pass)];
    let mut envoy = scene.with(&relay, &own).await.unwrap();
    envoy.ask(SECRET, &["shop-tls"]);
    let response = loop {
        let response = envoy.response().await;
        envoy.ack(&response);
        // A secret that is not read yet is answered at once, too.
        if !response.resources.is_empty() && response.resources[0].resource.is_some() {
            break response;
        }
    };
    assert_eq!(response.resources[0].name, "shop-tls");
    let askers = server.askers("/secrets");
    assert!(!askers.is_empty() && askers.iter().all(|asker| *asker == pass), "{askers:?}");
    assert_eq!(server.requests().len(), server.askers("shop").len(), "{:?}", server.requests());
    // A token that lasts longer takes its place for what is asked from now on.
    let longer = for_server("shop:envoy", end + 1);
    let newer = [("authorization", &*shop), (HANDED_OVER, &*longer)];
    let mut second = scene.with(&relay, &newer).await.unwrap();
    cluster(&mut second).await;
    server.cut();
    eventually("the newer token is shown", || server.askers("/secrets").contains(&longer)).await;
    drop((envoy, second));
    eventually("it is forgotten, with its watches", || open(&relay).is_empty() && server.open_watches() == 0)
        .await;
    relay.stop().await;
}

/// A stream ends before the token that came with it does, so that the next one comes in time.
#[cfg(feature = "kubernetes")]
#[tokio::test]
async fn a_stream_ends_before_the_token_that_it_brought() {
    use crate::api_server::ApiServer;
    use moorgate_relay::config::Kubernetes;

    let scene = Scene::new().await;
    let server = ApiServer::start().await;
    let kubeconfig = scene.place.path("kubeconfig");
    std::fs::write(&kubeconfig, kubeconfig_of(&server.url())).unwrap();
    let config = Config {
        on_demand: Some(OnDemand { forget_after: FORGET, passes: true }),
        kubernetes: Some(Kubernetes::Kubeconfig(kubeconfig)),
        ..scene.config()
    };
    let relay = Relay::start(config).await.unwrap();
    let end = time::OffsetDateTime::now_utc().unix_timestamp() + 4;
    let mut all = claims("shop:envoy");
    (all["aud"], all["exp"]) = (json!([ISSUER]), json!(end));
    let pass = scene.issuer.sign(&scene.issuer.header(), &all);
    let shop = scene.issuer.token("shop:envoy");
    let mut envoy = scene.with(&relay, &[("authorization", &shop), (HANDED_OVER, &pass)]).await.unwrap();
    assert_eq!(cluster(&mut envoy).await, "of-shop");
    assert_eq!(envoy.next().await.unwrap(), None, "it ends well, and Envoy begins a new one");
    assert!(time::OffsetDateTime::now_utc().unix_timestamp() <= end);
    relay.stop().await;
}

#[cfg(feature = "kubernetes")]
fn kubeconfig_of(server: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{ "name": "x", "cluster": { "server": server } }],
        "users": [{ "name": "x", "user": {} }],
        "contexts": [{ "name": "x", "context": { "cluster": "x", "user": "x" } }],
    })
    .to_string()
}
