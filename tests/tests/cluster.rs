//! The test cluster itself: what later suites build on.

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, Service, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, LogParams, PostParams};
use kube::{Client, ResourceExt};
use moorgate_relay::serve::token::{AUDIENCE, KeySource, Keys, TokenError, Tokens};
use moorgate_tests::cluster::balancer::{UNUSABLE, USABLE};
use moorgate_tests::cluster::{Channel, Cluster, Options, definitions};
use moorgate_tests::distil::crds::VERSION;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n---\n")
}

/// One request on a connection of its own; status line and body.
fn get(address: &str, port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect((address, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What the suite's backend says about a request.
fn echo(address: &str, port: u16, path: &str) -> Result<Value> {
    let answer = get(address, port, path)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
    let (start, end) = (body.find('{').context("no JSON")?, body.rfind('}').context("no JSON")?);
    Ok(serde_json::from_str(&body[start..=end])?)
}

async fn address(client: Client, namespace: &str, name: &str) -> Result<String> {
    let service = Api::<Service>::namespaced(client, namespace).get(name).await?;
    let balancer = service.status.and_then(|status| status.load_balancer);
    let ingress = balancer.and_then(|balancer| balancer.ingress).unwrap_or_default();
    ingress.into_iter().next().and_then(|ingress| ingress.ip).context("no address yet")
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

async fn ready(client: Client, namespace: &str, count: usize) -> Result<Vec<Pod>> {
    let pods = Api::<Pod>::namespaced(client, namespace).list(&ListParams::default()).await?.items;
    ensure!(
        pods.len() == count && pods.iter().all(is_ready),
        "{:?}",
        pods.iter().map(|pod| &pod.status).collect::<Vec<_>>()
    );
    Ok(pods)
}

#[test]
fn the_gateway_api_is_served() -> Result<()> {
    let cluster = Cluster::shared()?;
    let published = definitions::published(VERSION, Channel::Experimental)?;
    let kind = |object: &&kube::api::DynamicObject| {
        object.types.as_ref().is_some_and(|types| types.kind == "CustomResourceDefinition")
    };
    let definitions: BTreeSet<String> = published.iter().filter(kind).map(ResourceExt::name_any).collect();
    let served = cluster.with(async |client| {
        Ok(Api::<CustomResourceDefinition>::all(client).list(&ListParams::default()).await?.items)
    })?;
    assert_eq!(served.iter().map(ResourceExt::name_any).collect::<BTreeSet<_>>(), definitions);
    assert_eq!(definitions.len(), 14);
    let gateway = |name: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: default}}\n\
             spec: {{gatewayClassName: c, listeners: [{{name: {name}, port: 80, protocol: HTTP}}, {{name: b, port: 80, protocol: HTTP, hostname: b.example}}]}}\n"
        )
    };
    cluster.apply(&gateway("a"))?;
    let refused = format!("{:#}", cluster.apply(&gateway("b")).expect_err("two listeners of one name"));
    assert!(
        refused.contains("422") || refused.contains("unique") || refused.contains("duplicate"),
        "{refused}"
    );
    Ok(())
}

#[test]
fn a_deployment_answers_at_the_address_of_its_service() -> Result<()> {
    let cluster = Cluster::shared()?;
    cluster.apply(&format!("{}{}", namespace("answers"), include_str!("cluster/answers.yaml")))?;
    let address = cluster.until("the address", async |client| address(client, "answers", "echo").await)?;
    let pods = cluster.until("two pods", async |client| ready(client, "answers", 2).await)?;
    let nodes: BTreeSet<_> = pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
    assert_eq!(nodes.len(), 2, "{nodes:?}");
    let names: BTreeSet<String> = pods.iter().map(ResourceExt::name_any).collect();
    let answered = cluster.enter(|| {
        moorgate_tests::wait::until("answers of both", || {
            let mut answered = BTreeSet::new();
            for turn in 0..6 {
                let said = echo(&address, 80, &format!("/path?{turn}"))?;
                assert_eq!(said["namespace"], "answers");
                answered.insert(said["pod"].as_str().context("a pod")?.to_owned());
            }
            ensure!(answered == names, "{answered:?}");
            Ok(answered)
        })
    })?;
    // What they wrote, by way of the API server.
    let log = cluster.with(async |client| {
        let api = Api::<Pod>::namespaced(client, "answers");
        let mut log = String::new();
        for pod in &answered {
            log += &api.logs(pod, &LogParams { since_seconds: Some(3600), ..LogParams::default() }).await?;
        }
        Ok(log)
    })?;
    assert!(log.contains("Echoing back request made to /path"), "{log}");
    // An address that is asked for, and one that this balancer does not have.
    let usable = cluster.until("the wanted address", async |client| own_address(client, "usable").await)?;
    assert_eq!(usable, USABLE);
    cluster.with(async |client| {
        let unusable = Api::<Service>::namespaced(client.clone(), "answers").get("unusable").await?;
        assert_eq!(unusable.spec.context("a spec")?.load_balancer_ip.as_deref(), Some(UNUSABLE));
        assert!(own_address(client.clone(), "unusable").await.is_err());
        Api::<Deployment>::namespaced(client.clone(), "answers")
            .delete("echo", &DeleteParams::default())
            .await?;
        Ok(())
    })?;
    cluster.until("the end of the pods", async |client| ready(client, "answers", 0).await.map(drop))?;
    cluster.enter(|| {
        moorgate_tests::wait::until("a closed port", || match get(&address, 80, "/") {
            Err(_) => Ok(()),
            Ok(answer) => bail!("{answer}"),
        })
    })
}

async fn own_address(client: Client, name: &str) -> Result<String> {
    address(client, "answers", name).await
}

#[test]
fn datagrams_come_back() -> Result<()> {
    let cluster = Cluster::shared()?;
    cluster.apply(&format!("{}{}", namespace("datagrams"), include_str!("cluster/datagrams.yaml")))?;
    cluster.until("the pods", async |client| ready(client, "datagrams", 2).await)?;
    let address = cluster.until("the address", async |client| address(client, "datagrams", "echo").await)?;
    let answered = cluster.enter(|| {
        moorgate_tests::wait::until("answers of both", || {
            let mut answered = BTreeSet::new();
            for _ in 0..4 {
                // Each from a port of its own.
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.set_read_timeout(Some(Duration::from_secs(2)))?;
                socket.send_to(b"hello", (address.as_str(), 5300))?;
                let mut buffer = [0_u8; 2048];
                let (length, _) = socket.recv_from(&mut buffer)?;
                answered.insert(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            ensure!(answered.len() >= 2, "{answered:?}");
            Ok(answered)
        })
    })?;
    assert!(answered.iter().all(|answer| answer.contains("udp-echo")), "{answered:?}");
    Ok(())
}

#[test]
fn a_pod_is_what_it_says() -> Result<()> {
    let cluster = Cluster::shared()?;
    // The Secret comes later: until then the pod waits.
    cluster.apply(&format!("{}{}", namespace("volumes"), include_str!("cluster/volumes.yaml")))?;
    cluster.until("the reason", async |client| {
        let pod = Api::<Pod>::namespaced(client, "volumes").get("shop").await?;
        let text = format!("{:?}", pod.status);
        ensure!(text.contains("secret \\\"late\\\" not found"), "{text}");
        Ok(())
    })?;
    let secret = |value: &str| {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: late, namespace: volumes}}\nstringData: {{key: {value}}}\n"
        ))
    };
    secret("first")?;
    let pod =
        cluster.until("the pod", async |client| ready(client, "volumes", 1).await)?.pop().context("a pod")?;
    let uid = pod.uid().context("a uid")?;
    let file = |path: &str| cluster.file(&uid, "main", path);
    assert_eq!(file("/etc/secret/deep/key")?, "first");
    assert_eq!(file("/etc/single")?, "text of a map");
    assert_eq!(file("/etc/pod/name")?, "shop");
    let token = file("/var/run/secrets/kubernetes.io/serviceaccount/token")?;
    assert_eq!(token.split('.').count(), 3);
    assert!(file("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")?.contains("BEGIN CERTIFICATE"));
    let status = file("/proc/1/status");
    assert!(status.is_ok());
    // Nothing of the machine but its libraries.
    assert!(file("/etc/os-release").is_err() && file("/bin/sh").is_err());
    secret("second")?;
    moorgate_tests::wait::until("the new value", || {
        let value = file("/etc/secret/deep/key")?;
        ensure!(value == "second", "{value}");
        Ok(())
    })?;
    let status = pod.status.context("a status")?;
    let first = status.init_container_statuses.context("init containers")?;
    let ended =
        first[0].state.as_ref().and_then(|state| state.terminated.as_ref()).context("the first one's end")?;
    assert_eq!(ended.exit_code, 0);
    assert!(first[1].ready && first[1].started == Some(true));
    // Environment, expansion, and the sidecar in the same network.
    let address = status.pod_ip.context("an address")?;
    let said = cluster.enter(|| echo(&address, 4000, "/"))?;
    assert_eq!(
        (&said["pod"], &said["namespace"], &said["service"]),
        (&"shop".into(), &"volumes".into(), &"at-shop".into())
    );
    assert_eq!(cluster.enter(|| echo(&address, 3000, "/"))?["pod"], "sidecar");
    Ok(())
}

#[test]
fn what_ends_is_started_again() -> Result<()> {
    let cluster = Cluster::shared()?;
    cluster.apply(&format!("{}{}", namespace("ends"), include_str!("cluster/ends.yaml")))?;
    let state = async |client: Client, name: &str| {
        let pod = Api::<Pod>::namespaced(client, "ends").get(name).await?;
        pod.status.context("a status")
    };
    cluster.until("restarts", async |client| {
        let status = state(client, "again").await?;
        let container = status.container_statuses.context("containers")?.pop().context("one")?;
        let ended = container.last_state.and_then(|state| state.terminated).context("an end")?;
        ensure!(container.restart_count >= 2 && ended.exit_code == 2, "{}", container.restart_count);
        Ok(())
    })?;
    cluster.until("an unhealthy one", async |client| {
        let status = state(client, "unhealthy").await?;
        let container = status.container_statuses.context("containers")?.pop().context("one")?;
        ensure!(container.restart_count >= 1 && !container.ready, "{container:?}");
        Ok(())
    })?;
    cluster.until("the end", async |client| {
        let status = state(client, "once").await?;
        ensure!(status.phase.as_deref() == Some("Succeeded"), "{status:?}");
        Ok(())
    })?;
    cluster.until("an unknown image", async |client| {
        let status = format!("{:?}", state(client, "unknown").await?);
        ensure!(status.contains("ErrImagePull"), "{status}");
        Ok(())
    })?;
    let pods = cluster.until("a pod a node", async |client| {
        let set = Api::<DaemonSet>::namespaced(client.clone(), "ends").get("each").await?;
        ensure!(set.status.is_some_and(|status| status.number_ready == 2), "not yet");
        Ok(Api::<Pod>::namespaced(client, "ends")
            .list(&ListParams::default().labels("app=each"))
            .await?
            .items)
    })?;
    let nodes: BTreeSet<_> = pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
    assert_eq!(nodes.len(), 2);
    // A namespace goes with all that is in it.
    cluster.with(async |client| {
        Api::<k8s_openapi::api::core::v1::Namespace>::all(client)
            .delete("ends", &DeleteParams::default())
            .await?;
        Ok(())
    })?;
    cluster.until("the end of the namespace", async |client| {
        let api = Api::<k8s_openapi::api::core::v1::Namespace>::all(client);
        ensure!(api.get_opt("ends").await?.is_none(), "it is there");
        Ok(())
    })
}

/// A relay judges tokens of pods by the API server's public keys, and keeps those for the time when that is down.
#[test]
fn tokens_of_pods_are_judged_by_keys_that_outlive_the_api_server() -> Result<()> {
    let cluster = Cluster::shared()?;
    cluster.apply(&format!(
        "{}apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: envoy, namespace: tokens}}\n---\napiVersion: v1\n\
         kind: Pod\nmetadata: {{name: edge-0, namespace: tokens}}\nspec:\n  serviceAccountName: envoy\n  nodeSelector: \
         {{nowhere: here}}\n  containers: [{{name: envoy, image: envoy}}]\n",
        namespace("tokens")
    ))?;
    let folder = tempfile::tempdir()?;
    let kept = folder.path().join("token-keys.json");
    let (kubeconfig, now) = (cluster.kubeconfig(), moorgate_relay::clock::unix_now());
    let down = folder.path().join("down");
    let mut elsewhere: Value = serde_json::from_str(&std::fs::read_to_string(&kubeconfig)?)?;
    elsewhere["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1".into();
    std::fs::write(&down, elsewhere.to_string())?;
    cluster.with(async |client| {
        let pod = Api::<Pod>::namespaced(client.clone(), "tokens").get("edge-0").await?;
        let accounts = Api::<ServiceAccount>::namespaced(client, "tokens");
        let ask = async |audience: &str, bound: bool| {
            let bound_object_ref = bound.then(|| BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some("edge-0".to_owned()),
                uid: pod.uid(),
            });
            let audiences = Some(vec![audience.to_owned()]);
            let spec = TokenRequestSpec { audiences, bound_object_ref, expiration_seconds: Some(3600) };
            let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
            let answer = accounts.create_token_request("envoy", &PostParams::default(), &request).await?;
            answer.status.and_then(|status| status.token).context("no token")
        };
        let judge = async |kubeconfig: &std::path::Path| -> Result<Tokens> {
            let api = moorgate_relay::bind::kubernetes::Api::connect(Some(kubeconfig)).await?;
            let keys = Keys::open(KeySource::Api(api, Some(kept.clone()))).await?;
            let issuer = "https://kubernetes.default.svc".to_owned();
            Ok(Tokens { issuer, audience: AUDIENCE.to_owned(), keys })
        };
        let (good, other, unbound) =
            (ask(AUDIENCE, true).await?, ask("moorgate-store", true).await?, ask(AUDIENCE, false).await?);
        let cold = judge(down.as_path()).await?;
        assert_eq!(cold.judge(&good, now).await, Err(TokenError::Key), "nothing was kept yet");
        for kubeconfig in [&kubeconfig, &down] {
            let tokens = judge(kubeconfig.as_path()).await?;
            let bearer = tokens.judge(&good, now).await?;
            assert_eq!(
                (bearer.account.as_str(), bearer.pod.as_str()),
                ("system:serviceaccount:tokens:envoy", "edge-0")
            );
            assert_eq!(tokens.judge(&good, now + 7200).await, Err(TokenError::Expired));
            assert_eq!(tokens.judge(&other, now).await, Err(TokenError::Audience));
            assert_eq!(tokens.judge(&unbound, now).await, Err(TokenError::Unbound));
        }
        Ok(())
    })
}

/// The network namespaces of all processes of this machine.
fn networks() -> BTreeSet<u64> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(std::fs::metadata(entry.path().join("ns/net")).ok()?.ino())).collect()
}

fn interfaces() -> Result<BTreeSet<std::ffi::OsString>> {
    Ok(std::fs::read_dir("/sys/class/net")?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<std::io::Result<_>>()?)
}

#[test]
fn nothing_is_left_behind() -> Result<()> {
    let before = interfaces()?;
    let cluster = Cluster::start(&Options { nodes: 1, channel: Channel::Standard, ..Options::default() })?;
    cluster.apply(&format!("{}{}", namespace("answers"), include_str!("cluster/answers.yaml")))?;
    cluster.until("the pods", async |client| ready(client, "answers", 2).await)?;
    assert_eq!(interfaces()?, before);
    let network = std::fs::metadata(format!("/proc/{}/ns/net", cluster.process()))?.ino();
    assert!(networks().contains(&network));
    let (folder, cgroup) = (cluster.folder().to_owned(), cluster.cgroup().map(std::path::Path::to_owned));
    if let Some(cgroup) = &cgroup {
        let processes = std::fs::read_to_string(cgroup.join("cgroup.procs"))?;
        assert!(processes.lines().count() > 5, "{processes}");
    }
    drop(cluster);
    assert!(!networks().contains(&network));
    assert!(!folder.exists() && cgroup.is_none_or(|cgroup| !cgroup.exists()));
    assert_eq!(interfaces()?, before);
    Ok(())
}
