//! What `render` has a pod do before its Envoy stops, beside a real Envoy.

use super::*;
use moorgate_tests::http::Connection;
use moorgate_tests::program::{binary, run_with_input};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command};
use std::sync::mpsc;

/// A backend that answers `/slow` when it is told to, and everything else at once.
struct Slow {
    address: SocketAddr,
    /// Has received such a request.
    asked: mpsc::Receiver<()>,
    /// Answers it.
    answer: mpsc::Sender<()>,
}

impl Slow {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (asks, asked) = mpsc::channel();
        let (answer, told) = mpsc::channel::<()>();
        let told = std::sync::Arc::new(std::sync::Mutex::new(told));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (asks, told) = (asks.clone(), told.clone());
                std::thread::spawn(move || {
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    while let Some(Ok(first)) = lines.next() {
                        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                        if first.contains("/slow") {
                            let _ = asks.send(());
                            let _ = told.lock().unwrap().recv();
                        }
                        let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                    }
                });
            }
        });
        Ok(Self { address, asked, answer })
    }
}

/// A process that ends with the test.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The command of the `preStop` that is rendered for these times, with Envoy's admin address and the program as they are here.
fn rendered(shutdown: &str, stack: &Stack) -> Result<Command> {
    let parameters =
        "infrastructure: { parametersRef: { group: gateway.envoyproxy.io, kind: EnvoyProxy, name: own } }";
    let gateway = manifest::gateway("edge", "public", &[Listener::http("http", 80)]);
    let gateway = gateway.replacen("spec:\n", &format!("spec:\n  {parameters}\n"), 1);
    ensure!(gateway.contains(parameters), "{gateway}");
    let proxy = format!(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyProxy\nmetadata: {{ name: own, namespace: edge }}\nspec: {{ shutdown: {shutdown} }}\n"
    );
    let documents = manifest::documents(&[manifest::gateway_class(), gateway, proxy]);
    let mut render = moorgate()?;
    render.args(["render", "-", "--store", "s3://bucket", "--trust"]).arg(stack.trust());
    let text = run_with_input(&mut render, documents.as_bytes())?.ended_with(&[0])?.stdout;
    let documents = yaml_serde::Deserializer::from_str(&text);
    let manifests =
        documents.map(|one| serde::Deserialize::deserialize(one).unwrap()).collect::<Vec<Value>>();
    let deployment = manifests.iter().find(|one| one["kind"] == "Deployment").unwrap();
    let envoy = &deployment["spec"]["template"]["spec"]["containers"][0];
    let words = envoy["lifecycle"]["preStop"]["exec"]["command"].as_array().unwrap();
    let words: Vec<&str> = words.iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(
        words[..3],
        ["/opt/moorgate/moorgate-relay", "drain", "--envoy-admin=unix:/run/moorgate/envoy-admin.sock"]
    );
    // Laid by the same program as in the pod.
    let laid = stack.folder().join("laid");
    std::fs::create_dir_all(&laid)?;
    run(Command::new(binary("moorgate-relay")?).arg("copy-to").arg(&laid))?.ended_with(&[0])?;
    let mut command = Command::new(laid.join("moorgate-relay"));
    command
        .arg("drain")
        .arg(format!("--envoy-admin=http://127.0.0.1:{}", stack.admin_port()))
        .args(&words[3..]);
    Ok(command)
}

fn is_draining(stack: &mut Stack) -> Result<()> {
    let info = stack.envoy()?.admin("/server_info")?;
    ensure!(info.contains("\"DRAINING\""), "{info}");
    Ok(())
}

/// A request in flight ends well, whoever comes later is answered and sent away, and the hook ends with the last client, long
/// before its time is up; the same for a hook whose time is up first.
#[test]
fn a_pod_drains_before_its_envoy_stops() -> Result<()> {
    let mut stage = Stage::new(&["one"], &[], &[])?;
    let slow = Slow::start()?;
    stage.stack.set_endpoints("shop", "one", &[slow.address])?;
    stage.stack.start_relay()?;
    stage.stack.start_envoy(&[stage.port])?;
    stage.until_it_answers("/one")?;
    let port = stage.port;
    let flying =
        std::thread::spawn(move || send(&Target::plain(port), &Request::get("any.example", "/one/slow")));
    slow.asked.recv_timeout(wait::PATIENCE)?;

    // Its time is up, whoever is connected.
    let late =
        run(&mut rendered("{ minDrainDuration: 0s, drainTimeout: 1s }", &stage.stack)?)?.ended_with(&[0])?;
    assert!(late.stderr.contains("time is up"), "{late:?}");
    is_draining(&mut stage.stack)?;
    let back = send(
        &Target::plain(stage.stack.admin_port()),
        &Request::get("admin", "/healthcheck/ok").method("POST"),
    )?;
    assert_eq!(back.status, 200);

    let runtime = moorgate_tests::runtime();
    let mut kept = runtime.block_on(Connection::open(&Target::plain(port)))?;
    let get = Request::get("any.example", "/one");
    assert_eq!(runtime.block_on(kept.send(&get))?.header("connection"), None);
    let mut hook = Guarded(rendered("{ minDrainDuration: 1s, drainTimeout: 1h }", &stage.stack)?.spawn()?);
    wait::until("Envoy drains", || is_draining(&mut stage.stack))?;
    let answer = runtime.block_on(kept.send(&get))?;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "it is sent away");
    assert!(runtime.block_on(kept.send(&get)).is_err(), "and its connection is closed");
    let new = send(&Target::plain(port), &get)?;
    assert_eq!((new.status, new.header("connection")), (200, Some("close")));
    assert!(hook.0.try_wait()?.is_none(), "somebody is still served");
    slow.answer.send(())?;
    let flown = flying.join().unwrap()?;
    assert_eq!((flown.status, flown.header("connection")), (200, Some("close")), "in flight, and told");
    let status = wait::until("the hook ends", || {
        let connected =
            stage.stack.envoy()?.admin("/stats?usedonly&filter=^listener.*downstream_cx_active$")?;
        hook.0.try_wait()?.with_context(|| format!("it runs: {connected}"))
    })?;
    assert!(status.success(), "{status}");
    // Now, and not before, its container is stopped.
    stage.stack.envoy()?.process().terminate(wait::PATIENCE)?;
    Ok(())
}
