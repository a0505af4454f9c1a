use super::relays::Members;
use super::*;
use crate::compile::{Options, compile};
use crate::render::{Applier, Model, Node, Pool, StoreVolume};
use crate::source::File;
use http_body_util::BodyExt as _;
use kube::client::Body;
use moorgate_snapshot::{Channel, KeyPair, Role, Signer as _, Trust};
use serde_json::json;
use std::sync::Arc;

/// An API server that keeps what is applied, as text by path, and counts requests that change anything.
#[derive(Debug, Default)]
struct Server {
    objects: BTreeMap<String, Value>,
    writes: Vec<String>,
    /// How many objects were made.
    made: u32,
    /// Paths whose writes are refused.
    refused: Vec<String>,
}

type Shared = Arc<Mutex<Server>>;

fn client(server: &Shared) -> Client {
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let server = Arc::clone(&server);
        async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let query = parts.uri.query().unwrap_or_default().to_owned();
            let (code, answer) =
                server.lock().unwrap().answer(parts.method.as_str(), parts.uri.path(), &query, body);
            let answer = Body::from(answer.to_string().into_bytes());
            Ok::<_, std::convert::Infallible>(http::Response::builder().status(code).body(answer).unwrap())
        }
    });
    Client::new(service, "default")
}

fn status(code: u16) -> (u16, Value) {
    let reason = if code == 404 { "NotFound" } else { "Conflict" };
    let object = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code,
    });
    (code, object)
}

impl Server {
    fn answer(&mut self, method: &str, path: &str, query: &str, body: Value) -> (u16, Value) {
        if method != "GET" {
            if self.refused.iter().any(|part| path.contains(part)) {
                return status(403);
            }
            self.writes.push(format!("{method} {path}"));
        }
        match method {
            "PATCH" => {
                assert!(
                    query.contains("fieldManager=moorgate-watch") && query.contains("force=true"),
                    "{query}"
                );
                let kept = self.objects.get(path).map(|old| old["status"].clone()).unwrap_or_default();
                let known = self.objects.get(path).map(|old| old["metadata"]["uid"].clone());
                let mut object = body;
                object["status"] = kept;
                self.made += 1;
                object["metadata"]["uid"] = known.unwrap_or_else(|| self.made.to_string().into());
                self.objects.insert(path.to_owned(), object.clone());
                (200, object)
            }
            "POST" => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if self.objects.contains_key(&path) {
                    return status(409);
                }
                let mut object = body;
                let texts = object["stringData"].take();
                for (key, text) in texts.as_object().into_iter().flatten() {
                    use base64::Engine as _;
                    let data = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap());
                    object["data"][key] = data.into();
                }
                self.objects.insert(path, object.clone());
                (201, object)
            }
            "DELETE" => match self.objects.remove(path) {
                Some(_) => (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})),
                None => status(404),
            },
            _ => match self.objects.get(path) {
                Some(object) => (200, object.clone()),
                None if query.contains("labelSelector") => (200, self.list(path, query)),
                None => status(404),
            },
        }
    }

    /// Objects of a kind, in a namespace or in all.
    fn list(&self, path: &str, query: &str) -> Value {
        let decoded = query.replace("%3D", "=").replace("%2F", "/").replace("%2C", ",");
        let selector = decoded.split('&').find_map(|part| part.strip_prefix("labelSelector=")).unwrap();
        let (group, plural) = path.rsplit_once('/').unwrap();
        let own = self.objects.iter().filter(|(found, object)| {
            let here = found.starts_with(group) && found.rsplit('/').nth(1) == Some(plural);
            here && selector.split(',').all(|pair| {
                let (key, value) = pair.split_once('=').unwrap();
                object["metadata"]["labels"][key] == value
            })
        });
        let items: Vec<&Value> = own.map(|(_, object)| object).collect();
        json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})
    }
}

fn settings() -> Settings {
    let (pair, _) = KeyPair::generate(&[7; 32]).unwrap();
    Settings {
        model: Model::Sidecar,
        applier: Applier::Watch,
        controller_name: "moorgate.dev/gateway-controller".into(),
        stores: vec!["file:///store".into()],
        store_volume: Some(StoreVolume::HostPath),
        store_secret: None,
        store_tokens: false,
        store_ca: None,
        channel: Channel::stable(),
        trust: pair.public().to_pem(),
        report_secret: Some(ReportSecret::PerFleet),
        relay_image: "relay:1".into(),
        envoy_image: "envoy:1".into(),
        merged_namespace: "moorgate-system".into(),
    }
}

fn fleet(name: &str, ports: &[u16], addresses: &str) -> Fleet {
    fleet_of(name, "u-1", ports, addresses)
}

fn fleet_of(name: &str, uid: &str, ports: &[u16], addresses: &str) -> Fleet {
    let listeners: Vec<String> =
        ports.iter().map(|port| format!("{{name: p{port}, port: {port}, protocol: HTTP}}")).collect();
    let text = format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {{name: c}},
  spec: {{controllerName: moorgate.dev/gateway-controller}}}}
---
{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: {name}, namespace: infra, uid: {uid}}},
  spec: {{gatewayClassName: c, addresses: [{addresses}], listeners: [{}]}}}}
---
{{apiVersion: v1, kind: Service, metadata: {{name: cart, namespace: infra}}, spec: {{ports: [{{port: 8080}}]}}}}
---
{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, namespace: infra}},
  spec: {{parentRefs: [{{name: {name}}}], rules: [{{backendRefs: [{{name: cart, port: 8080}}]}}]}}}}
",
        listeners.join(", ")
    );
    let file = File { name: "in.yaml".into(), bytes: text.as_bytes().into() };
    let compilation = compile(&[file], &Options::default());
    assert!(!compilation.diagnostics.has_errors(), "{:#?}", compilation.diagnostics);
    let (name, compiled) = compilation.fleets.first_key_value().unwrap();
    Fleet::of(name, compiled, &compilation.objects, "").unwrap()
}

const SERVICE: &str = "/api/v1/namespaces/infra/services/edge-c";

fn ports(server: &Shared) -> Vec<u64> {
    let server = server.lock().unwrap();
    let ports = server.objects[SERVICE]["spec"]["ports"].as_array().unwrap().clone();
    ports.iter().map(|port| port["port"].as_u64().unwrap()).collect()
}

fn writes(server: &Shared) -> Vec<String> {
    std::mem::take(&mut server.lock().unwrap().writes)
}

#[tokio::test]
async fn a_fleet_is_made_once_and_pods_last() {
    let server = Shared::default();
    let provisioner = Provisioner::new(client(&server), settings());
    let first = provisioner.prepare(&fleet("edge", &[80], "")).await.unwrap();
    assert!(!first.waiting, "a new Service has all ports");
    let made = writes(&server);
    assert!(made.last().unwrap().ends_with("/deployments/edge-c"), "{made:#?}");
    assert!(made.iter().any(|write| write.ends_with("/rolebindings/edge-c")), "{made:#?}");
    // Nothing has changed: nothing is written.
    assert_eq!(provisioner.prepare(&fleet("edge", &[80], "")).await.unwrap(), first);
    assert_eq!(provisioner.open(&fleet("edge", &[80], "")).await.unwrap(), first);
    assert_eq!(writes(&server), [""; 0]);
    // Against changes by other hands everything is applied again.
    provisioner.forget();
    assert_eq!(provisioner.prepare(&fleet("edge", &[80], "")).await.unwrap(), first);
    assert_eq!(writes(&server).len(), made.len() - 1, "all but the Secret");
}

#[tokio::test]
async fn ports_reach_the_service_after_envoy_and_leave_it_before() {
    let server = Shared::default();
    let provisioner = Provisioner::new(client(&server), settings());
    provisioner.prepare(&fleet("edge", &[80], "")).await.unwrap();
    let wider = fleet("edge", &[80, 443], "");
    assert!(provisioner.prepare(&wider).await.unwrap().waiting);
    assert_eq!(ports(&server), [80]);
    // Another replica, or this one after a restart, waits too.
    let other = Provisioner::new(client(&server), settings());
    assert!(other.prepare(&wider).await.unwrap().waiting);
    assert_eq!(ports(&server), [80]);
    assert!(!provisioner.open(&wider).await.unwrap().waiting);
    assert_eq!(ports(&server), [80, 443]);
    // One goes and one comes.
    let moved = fleet("edge", &[443, 8080], "");
    assert!(provisioner.prepare(&moved).await.unwrap().waiting);
    assert_eq!(ports(&server), [443]);
    provisioner.open(&moved).await.unwrap();
    assert_eq!(ports(&server), [443, 8080]);
    // A Gateway that is not served keeps its Service.
    let mut none = moved;
    none.ports.clear();
    assert!(!provisioner.prepare(&none).await.unwrap().waiting);
    assert_eq!(ports(&server), [443, 8080]);
}

#[tokio::test]
async fn addresses_are_asked_for_given_and_taken_back() {
    let server = Shared::default();
    let provisioner = Provisioner::new(client(&server), settings());
    let two = fleet("edge", &[80], "{value: 192.0.2.1}, {value: 192.0.2.2}");
    let found = provisioner.prepare(&two).await.unwrap().addresses;
    assert_eq!((found.assigned.len(), found.unusable.len()), (0, 2));
    // The load balancer has the second only.
    let second = {
        let mut server = server.lock().unwrap();
        let services = server.objects.iter_mut().filter(|(_, object)| object["kind"] == "Service");
        let (path, service) =
            services.into_iter().find(|(_, object)| object["spec"]["loadBalancerIP"] == "192.0.2.2").unwrap();
        service["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}]}});
        path.clone()
    };
    assert_ne!(second, SERVICE);
    let found = provisioner.open(&two).await.unwrap().addresses;
    assert_eq!(found.assigned[0].value, "192.0.2.2");
    assert_eq!(found.unusable[0].value, "192.0.2.1");
    // What is not asked for any more goes.
    let found = provisioner.prepare(&fleet("edge", &[80], "{value: 192.0.2.1}")).await.unwrap().addresses;
    assert_eq!((found.assigned.len(), found.unusable.len()), (0, 1));
    assert!(!server.lock().unwrap().objects.contains_key(&second));
}

#[tokio::test]
async fn what_nobody_needs_is_removed_and_nothing_else() {
    let server = Shared::default();
    let foreign = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "theirs", "namespace": "infra",
            "labels": {"app.kubernetes.io/managed-by": "moorgate-watch"},
            "annotations": {"moorgate.dev/fleet": "infra/gone", "moorgate.dev/controller": "other.example/controller"},
        },
    });
    server.lock().unwrap().objects.insert("/api/v1/namespaces/infra/services/theirs".into(), foreign);
    let provisioner = Provisioner::new(client(&server), settings());
    provisioner.prepare(&fleet("edge", &[80], "")).await.unwrap();
    provisioner.prepare(&fleet("gone", &[80], "")).await.unwrap();
    let live = BTreeSet::from([FleetName::gateway("infra", "edge")]);
    // A translator that starts finds what an earlier one left.
    let next = Provisioner::new(client(&server), settings());
    writes(&server);
    assert_eq!(next.prune(&live).await.unwrap(), BTreeSet::from(["infra/gone".to_owned()]));
    assert!(writes(&server).iter().all(|write| write.starts_with("DELETE") && !write.contains("edge")));
    let left = |part: &str| {
        let server = server.lock().unwrap();
        server.objects.keys().filter(|path| path.contains(part)).count()
    };
    // The Secret goes with the Gateway that owns it.
    assert_eq!(left("gone-c"), 1);
    assert!(left("edge-c") > 5);
    assert_eq!(left("theirs"), 1);
    assert!(next.prune(&live).await.unwrap().is_empty());
    assert_eq!(writes(&server), [""; 0]);
}

#[tokio::test]
async fn one_refusal_keeps_nothing_else_back_and_is_tried_again() {
    let server = Shared::default();
    server.lock().unwrap().refused.push("networkpolicies".into());
    let provisioner = Provisioner::new(client(&server), settings());
    let error = provisioner.prepare(&fleet("edge", &[80], "")).await.unwrap_err();
    assert!(error.to_string().starts_with("applying NetworkPolicy infra/edge-c"), "{error}");
    assert!(server.lock().unwrap().objects.contains_key(SERVICE));
    server.lock().unwrap().refused.clear();
    provisioner.prepare(&fleet("edge", &[80], "")).await.unwrap();
    let objects = server.lock().unwrap().objects.keys().cloned().collect::<Vec<_>>();
    assert!(objects.iter().any(|path| path.contains("networkpolicies")), "{objects:#?}");
}

#[tokio::test]
async fn reports_are_signed_by_a_key_of_the_fleet_alone() {
    let server = Shared::default();
    let made = async |name: &str| {
        let provisioner = Provisioner::new(client(&server), settings());
        provisioner.prepare(&fleet(name, &[80], "")).await.unwrap().reporter.unwrap()
    };
    let (one, again, two) = (made("edge").await, made("edge").await, made("other").await);
    assert_eq!(one.id(), again.id(), "the key that is there stays");
    assert_ne!(one.id(), two.id());
    // What its pods trust: who published before, and this key for its reports.
    let server = server.lock().unwrap();
    let config = &server.objects["/api/v1/namespaces/infra/configmaps/edge-c"];
    let trust = Trust::parse(config["data"]["trust"].as_str().unwrap().as_bytes()).unwrap();
    let (own, other) = (FleetName::gateway("infra", "edge"), FleetName::gateway("infra", "other"));
    let stable = Channel::stable();
    let reporter = trust.keys().find(|key| key.key.id() == one.id()).unwrap();
    assert_eq!(reporter.roles, BTreeSet::from([Role::Report]));
    assert!(reporter.may(Role::Report, &own, &stable) && !reporter.may(Role::Report, &other, &stable));
    assert_eq!(trust.keys().filter(|key| key.may(Role::Publish, &own, &stable)).count(), 1);
    assert_eq!(trust.keys().count(), 2);
    let secret = &server.objects["/api/v1/namespaces/infra/secrets/edge-c-report"];
    assert!(secret["data"]["report.key"].is_string());
}

#[tokio::test]
async fn a_gateway_that_was_made_anew_has_a_key_of_its_own() {
    const SECRET: &str = "/api/v1/namespaces/infra/secrets/edge-c-report";
    let server = Shared::default();
    let provisioner = Provisioner::new(client(&server), settings());
    let first = provisioner.prepare(&fleet_of("edge", "u-1", &[80], "")).await.unwrap().reporter.unwrap();
    let anew = fleet_of("edge", "u-2", &[80], "");
    // The garbage collector has not been there yet: nothing is made with a key that is about to go.
    writes(&server);
    let error = provisioner.prepare(&anew).await.unwrap_err();
    assert!(matches!(&error, ProvisionError::Former(name) if name == "edge-c-report"), "{error}");
    assert_eq!(writes(&server), [""; 0]);
    server.lock().unwrap().objects.remove(SECRET).unwrap();
    let second = provisioner.prepare(&anew).await.unwrap().reporter.unwrap();
    assert_ne!(first.id(), second.id());
    let server = server.lock().unwrap();
    let secret = &server.objects[SECRET];
    assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], "u-2");
    let trust =
        server.objects["/api/v1/namespaces/infra/configmaps/edge-c"]["data"]["trust"].as_str().unwrap();
    let trust = Trust::parse(trust.as_bytes()).unwrap();
    let keys: Vec<_> = trust.keys().map(|key| key.key.id()).collect();
    assert!(keys.contains(&second.id()) && !keys.contains(&first.id()));
}

#[test]
fn a_chain_of_trust_is_not_changed() {
    let (root, _) = KeyPair::generate(&[1; 32]).unwrap();
    let (acts, _) = KeyPair::generate(&[2; 32]).unwrap();
    let chained = json!({
        "format": 2, "number": 1, "root": {"threshold": 1, "keys": [root.public().to_pem()]},
        "keys": [{"public": acts.public().to_pem(), "roles": ["publish"]}],
    });
    let (name, fleets) = (|| "reports".to_owned(), || vec!["a/b".to_owned()]);
    let found = report::trust(&chained.to_string(), name(), fleets(), acts.public());
    assert!(matches!(found, Err(TrustFileError::Chain)), "{found:?}");
    let plain = json!({"format": 1, "keys": [{"public": acts.public().to_pem(), "roles": ["publish"]}]});
    assert!(report::trust(&plain.to_string(), name(), fleets(), root.public()).is_ok());
    assert!(
        report::trust(&plain.to_string(), name(), fleets(), acts.public()).is_err(),
        "a key is there twice"
    );
}

/// Relays in pods of their own, in the namespace `relays`.
fn with(model: Model) -> Settings {
    Settings { model, ..settings() }
}

fn pool() -> Model {
    Model::Pool(Pool {
        namespace: "relays".into(),
        tls_secret: "tls".into(),
        ca: "CA".into(),
        token_issuer: "https://issuer".into(),
        replicas: 2,
    })
}

fn node() -> Model {
    Model::Node(Node {
        namespace: "relays".into(),
        tls_secret: "tls".into(),
        ca: "CA".into(),
        token_issuer: "https://issuer".into(),
    })
}

fn names(fleets: &[Fleet]) -> BTreeSet<FleetName> {
    fleets.iter().map(|fleet| fleet.name.clone()).collect()
}

/// What is applied is what is rendered; the last fleet takes the relays of its class along.
#[tokio::test]
async fn relays_of_a_class_come_with_its_first_fleet_and_go_with_its_last() {
    let server = Shared::default();
    let provisioner = Provisioner::new(client(&server), with(pool()));
    let fleets = [fleet("edge", &[80], ""), fleet("other", &[80], "")];
    let mut members = Members::default();
    members.see(fleets.clone(), &names(&fleets));
    assert!(provisioner.make_relays(&mut members).await);
    let provisioned = provisioner.prepare(&fleets[0]).await.unwrap();
    let made = writes(&server);
    let deployment = made.iter().position(|write| write.contains("/namespaces/relays/deployments/")).unwrap();
    let envoys =
        made.iter().position(|write| write.ends_with("/namespaces/infra/deployments/edge-c")).unwrap();
    assert!(deployment < envoys, "{made:#?}");
    assert!(!made.iter().any(|write| write.contains("/infra/secrets")), "Envoys have no key: {made:#?}");
    {
        let server = server.lock().unwrap();
        let of = |part: &str| {
            let mut found = server.objects.iter().filter(|(path, _)| path.contains(part));
            found.next().map(|(_, object)| object.clone()).unwrap()
        };
        let args = of("/namespaces/relays/deployments/")["spec"]["template"]["spec"]["containers"][0]["args"]
            .to_string();
        assert!(args.contains("--fleet=infra/edge") && args.contains("--fleet=infra/other"), "{args}");
        // Reports of the relays count for these fleets, and the fleet is told so.
        let trust = of("/namespaces/relays/configmaps/")["data"]["trust"].as_str().unwrap().to_owned();
        let trust = Trust::parse(trust.as_bytes()).unwrap();
        let reporter = provisioned.reporter.unwrap();
        let key = trust.keys().find(|key| key.key.id() == reporter.id()).unwrap();
        assert!(key.roles.contains(&Role::Report) && key.roles.len() == 1);
    }
    let account = {
        let server = server.lock().unwrap();
        let mut all = server.objects.iter();
        let found = all.find(|(path, _)| path.contains("/namespaces/relays/serviceaccounts/"));
        found.map(|(_, object)| object["metadata"]["uid"].clone())
    };
    // Nothing has changed: nothing is written. Nor when a fleet cannot be compiled for a while.
    assert!(provisioner.make_relays(&mut members).await);
    members.see([fleets[0].clone()], &names(&fleets));
    assert!(provisioner.make_relays(&mut members).await);
    assert_eq!(writes(&server), [""; 0]);
    // Another replica finds all of it, and removes what no Gateway is left for.
    let next = Provisioner::new(client(&server), with(pool()));
    let mut members = Members::default();
    members.see([], &BTreeSet::new());
    assert!(next.make_relays(&mut members).await);
    next.prune(&BTreeSet::new()).await.unwrap();
    let account = account.unwrap();
    let server = server.lock().unwrap();
    // Their key's Secret goes with their account, by the garbage collector: nobody here may delete Secrets.
    let left: Vec<(&String, &Value)> = server.objects.iter().collect();
    let [(path, secret)] = left.as_slice() else { panic!("{left:#?}") };
    assert!(path.contains("/namespaces/relays/secrets/"), "{path}");
    assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], account);
}

/// Relays that come back wait for the end of what the former ones had, and have a key of their own.
#[tokio::test]
async fn relays_that_come_back_have_another_key() {
    let server = Shared::default();
    let provisioner = Provisioner::new(client(&server), with(node()));
    let fleets = [fleet("edge", &[80], "")];
    let mut members = Members::default();
    members.see(fleets.clone(), &names(&fleets));
    assert!(provisioner.make_relays(&mut members).await);
    let first = provisioner.reporter_of(&fleets[0]).unwrap();
    members.see([], &BTreeSet::new());
    assert!(provisioner.make_relays(&mut members).await);
    provisioner.prune(&BTreeSet::new()).await.unwrap();
    members.see(fleets.clone(), &names(&fleets));
    assert!(!provisioner.make_relays(&mut members).await, "the former key is about to go");
    // The garbage collector comes.
    server.lock().unwrap().objects.retain(|path, _| !path.contains("/secrets/"));
    assert!(provisioner.make_relays(&mut members).await);
    assert_ne!(provisioner.reporter_of(&fleets[0]).unwrap().id(), first.id());
}

/// A new fleet is let in by relays that go on; each fleet's own account has its rights.
#[tokio::test]
async fn a_new_fleet_restarts_no_relay_of_a_node() {
    let server = Shared::default();
    let provisioner = Provisioner::new(client(&server), with(node()));
    let fleets = [fleet("edge", &[80], ""), fleet("other", &[80], "")];
    let mut members = Members::default();
    members.see([fleets[0].clone()], &names(&fleets[..1]));
    assert!(provisioner.make_relays(&mut members).await);
    provisioner.prepare(&fleets[0]).await.unwrap();
    let made = writes(&server);
    assert!(made.iter().any(|write| write.ends_with("/namespaces/infra/rolebindings/edge-c")), "{made:#?}");
    assert!(!made.iter().any(|write| write.contains("/namespaces/relays/role")), "{made:#?}");
    members.see(fleets.clone(), &names(&fleets));
    assert!(provisioner.make_relays(&mut members).await);
    let changed = writes(&server);
    let plural = |write: &String| write.rsplit('/').nth(1).unwrap_or_default().to_owned();
    let changed: BTreeSet<String> = changed.iter().map(plural).collect();
    assert_eq!(changed, ["configmaps".to_owned(), "networkpolicies".to_owned()].into());
    // From one model to another: what the old one had goes, and what Envoys need meanwhile is there first.
    let pooled = Provisioner::new(client(&server), with(pool()));
    assert!(pooled.make_relays(&mut Members::default()).await);
    let mut members = Members::default();
    members.see(fleets.clone(), &names(&fleets));
    assert!(pooled.make_relays(&mut members).await);
    for fleet in &fleets {
        pooled.prepare(fleet).await.unwrap();
    }
    pooled.prune(&names(&fleets)).await.unwrap();
    let server = server.lock().unwrap();
    let has = |part: &str| server.objects.keys().any(|path| path.contains(part));
    assert!(!has("/daemonsets/") && has("/namespaces/relays/deployments/"));
    // The rights are those of the pool now, and the Envoys' accounts have none.
    assert!(has("/namespaces/infra/roles/") && !has("/namespaces/infra/roles/edge-c"));
}
