//! What Envoy holds for a backend that takes nothing (BackendTrafficPolicy `connection.bufferLimit`).

use super::behaviour::{HOST, guarded};
use moorgate_tests::backend::Backend;
use moorgate_tests::http::{Request, Target, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::ports;
use moorgate_tests::stack::Stack;
use moorgate_tests::wait;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// More than all kernels between client and backend hold.
const BODY: usize = 64 << 20;

/// A backend that reads the head of a request, and its body when it is told to.
fn late() -> (SocketAddr, Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (go, told) = channel::<()>();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::with_capacity(1024, stream);
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|length| length > 2) {
            line.clear();
        }
        if told.recv().is_err() {
            return;
        }
        let mut rest = vec![0; 1 << 20];
        let mut found = 0;
        while found < BODY {
            match reader.read(&mut rest) {
                Ok(length @ 1..) if rest[..length].iter().all(|byte| *byte == b'x') => found += length,
                _ => break,
            }
        }
        let found = found.to_string();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{found}", found.len());
        let _ = reader.get_mut().write_all(answer.as_bytes());
        // Until the other side has read it and goes.
        while matches!(reader.read(&mut rest), Ok(1..)) {}
    });
    (address, go)
}

/// Sends all of a large request.
fn upload(port: u16, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    for side in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
        side(&stream, Some(Duration::from_mins(1))).unwrap();
    }
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\ncontent-length: {BODY}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let part = vec![b'x'; 1 << 20];
    (0..BODY / part.len()).for_each(|_| stream.write_all(&part).unwrap());
    stream
}

/// What is answered to it: how much of it came.
fn answered(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.rsplit_once("\r\n\r\n").unwrap().1.to_owned()
}

#[test]
fn clients_wait_where_the_buffer_of_a_backend_is_full() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    let ((wide, wide_goes), (tight, tight_goes)) = (late(), late());
    for (name, address) in [("web", web.address()), ("wide", wide), ("tight", tight)] {
        stack.set_endpoints("edge", name, &[address]).unwrap();
    }
    let port = ports::free().unwrap();
    let limited = |name: &str, limit: &str| {
        guarded(name, name, "BackendTrafficPolicy", &format!("  connection: {{ bufferLimit: {limit} }}\n"))
    };
    let mut documents = vec![
        manifest::gateway_class(),
        manifest::gateway("edge", "public", &[Listener::http("http", port)]),
        manifest::http_route("edge", "free", "edge/public", &[], &manifest::rule("/free", "web")),
    ];
    documents.extend(["web", "wide", "tight"].map(|name| manifest::service("edge", name)));
    documents.extend([limited("wide", "128Mi"), limited("tight", "16Ki")].concat());
    stack.publish_documents(&documents).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let free = Request::get(HOST, "/free");
    send_until(&Target::plain(port), &free, "an answer", |answer| answer.status == 200).unwrap();
    let mut paused = |service: &str| -> u64 {
        let stats =
            stack.envoy().unwrap().admin("/stats?filter=upstream_flow_control_backed_up_total").unwrap();
        let of = |line: &&str| line.contains(&format!("edge/{service}/"));
        let lines: Vec<&str> = stats.lines().filter(of).collect();
        assert_eq!(lines.len(), 1, "{stats}");
        lines[0].rsplit_once(": ").unwrap().1.parse().unwrap()
    };

    // A wide one takes all of it, though its backend has read nothing.
    let sent = upload(port, "/wide");
    assert_eq!(paused("wide"), 0);
    wide_goes.send(()).unwrap();
    assert_eq!(answered(sent), BODY.to_string());

    // A tight one is full; the client sends the rest when the backend takes it, and nothing of it is lost.
    let sending = std::thread::spawn(move || answered(upload(port, "/tight")));
    wait::until("the client to be held up", || {
        anyhow::ensure!(paused("tight") > 0, "not yet");
        Ok(())
    })
    .unwrap();
    tight_goes.send(()).unwrap();
    assert_eq!(sending.join().unwrap(), BODY.to_string());
}
