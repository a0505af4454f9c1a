//! A cold start with everything gone that a relay asks: what was served is served from the disk.

use crate::publisher::{Publisher, endpoints_by_name, resource};
use crate::relay::eventually;
use moorgate_relay::bind::binder::{Names, Sources};
use moorgate_relay::bind::dns::{Answer, Ask, Record};
use moorgate_relay::clock::Clock;
use moorgate_relay::fleet::{Fleet, FleetConfig, Life};
use moorgate_relay::jitter::Jitter;
use moorgate_relay::metrics::Metrics;
use moorgate_relay::serve::proto::ClusterLoadAssignment;
use moorgate_relay::serve::stream::Settings;
use moorgate_relay::serve::types::CLUSTER;
use moorgate_snapshot::{Anchor, Channel, RelayIdentity, Store};
use prost::Message as _;
use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A name server that knows one address, or is gone.
struct Server {
    address: Option<&'static str>,
    asked: AtomicU32,
}

impl Ask for Server {
    fn ask<'a>(&'a self, _: &'a str, record: Record) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            let ttl = Duration::from_secs(5);
            match (self.address, record) {
                (Some(address), Record::A) => {
                    Answer::Addresses { addresses: vec![address.parse().unwrap()], ttl }
                }
                (Some(_), Record::Aaaa) => Answer::Denied { ttl },
                (None, _) => Answer::Failed("nobody answers".to_owned()),
            }
        })
    }
}

/// A fleet on this disk, with this name server.
async fn served(folder: &Path, publisher: &Publisher, server: &Arc<Server>) -> Vec<String> {
    let config = FleetConfig {
        fleet: publisher.fleet.clone(),
        channel: Channel::stable(),
        identity: RelayIdentity::new("relay-1".parse().unwrap(), BTreeMap::new()).unwrap(),
        report_key: None,
        envoy_admins: Vec::new(),
        stores: vec![publisher.store.clone()],
        seed: None,
        trust: Anchor::parse(publisher.trust().as_bytes()).unwrap(),
        cache: Some(folder.join("cache")),
        pin_file: None,
        sources: Sources { names: Names(Arc::<Server>::clone(server)), ..Sources::default() },
        poll_interval: Duration::from_millis(100),
        settings: Settings::default(),
        clock: Clock::default(),
        jitter: Jitter::seeded(1),
    };
    let (life, mut ended) = Life::new();
    let fleet = Fleet::start(config, Arc::new(Metrics::default()), &life).unwrap();
    let stop = life.stop.clone();
    drop(life);
    let found = || {
        let view = fleet.hub.view()?;
        let value = view.endpoints.get("by-name").cloned()?;
        let assignment = ClusterLoadAssignment::decode(&*value.chunks().concat()).unwrap();
        let sockets =
            assignment.endpoints.iter().flat_map(|locality| &locality.lb_endpoints).map(|endpoint| {
                let address = endpoint.endpoint.clone().unwrap().address.unwrap().socket_address.unwrap();
                format!("{}:{}", address.address, address.port_value.unwrap_or_default())
            });
        Some(sockets.collect::<Vec<_>>()).filter(|all| !all.is_empty())
    };
    eventually("endpoints", || found().is_some() && server.asked.load(Ordering::SeqCst) > 1).await;
    let kept = folder.join("cache/shop.edge/endpoints");
    eventually("the endpoints are on disk", || kept.exists()).await;
    let out = found().unwrap();
    drop(fleet);
    stop.cancel();
    let _ = ended.recv().await;
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_and_dns_down_cold_start_with_the_endpoints_of_names() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("store");
    let store = Store::open(&format!("file://{}", place.display())).unwrap();
    let mut publisher = Publisher::new(store);
    let cluster = resource(CLUSTER, "c", "cluster", Some("by-name"));
    publisher.publish(vec![cluster, endpoints_by_name("by-name", "db.example")]).await;
    let there = Arc::new(Server { address: Some("10.0.0.7"), asked: AtomicU32::new(0) });
    let before = served(folder.path(), &publisher, &there).await;
    assert_eq!(before, ["10.0.0.7:8080"]);
    std::fs::remove_dir_all(place).unwrap();
    let gone = Arc::new(Server { address: None, asked: AtomicU32::new(0) });
    assert_eq!(served(folder.path(), &publisher, &gone).await, before);
}
