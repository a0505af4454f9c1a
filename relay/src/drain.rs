//! Sends the clients of an Envoy away before it stops: `moorgate-relay drain`, for the `preStop` of its container.
//!
//! ```text
//! /healthcheck/fail ──▶ Envoy closes what it answers, and load balancers leave ──▶ nobody is connected, or time is up
//! ```
//! Envoy goes on to listen meanwhile: whoever has not heard yet is answered, and told not to come back. An image of Envoy
//! holds nothing that could ask it for that, so `moorgate-relay copy-to FOLDER` lays this program where its container sees it.

use crate::canary::{AdminAddress, StatsError};
use clap::Parser;
use http::Method;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// How often connections are counted.
const POLL: Duration = Duration::from_millis(500);
/// `^listener\..*\.downstream_cx_active$`.
const CONNECTIONS: &str = "/stats?filter=%5Elistener%5C..*%5C.downstream_cx_active%24";
/// Connections are told to close, and new ones are taken as before.
const CLOSE: &str = "/drain_listeners?graceful&skip_exit";
/// The same, and whoever asks for Envoy's health hears that it fails.
const FAIL: &str = "/healthcheck/fail";
/// The name of this program in the folder that it is copied to.
pub const PROGRAM: &str = "moorgate-relay";

/// Sends the clients of an Envoy away, and ends when they are gone or time is up.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "moorgate-relay drain",
    after_help = "\
Example, before a container of Envoy is stopped:
  moorgate-relay drain --envoy-admin unix:/run/moorgate/envoy-admin.sock --at-least 10s --at-most 60s"
)]
pub struct Options {
    /// Where Envoy shows its statistics: http://ADDRESS:PORT or unix:/path
    #[arg(long, value_name = "ADDRESS")]
    pub envoy_admin: AdminAddress,
    /// So long clients have to hear of it, even if nobody is connected
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    pub at_least: Duration,
    /// After so long it ends, whoever is still connected
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time)]
    pub at_most: Duration,
    /// So long connections are only told to close, before Envoy's health fails
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = time)]
    pub unhealthy_after: Duration,
    /// The port of a listener whose connections do not count, such as that of probes
    #[arg(long, value_name = "PORT")]
    pub apart: Vec<u16>,
}

fn time(text: &str) -> Result<Duration, &'static str> {
    crate::config::duration(text).ok_or("write 500ms, 5s, 2m or 1h")
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nobody is connected.
    Drained,
    /// Time is up: so many are still connected; nothing if Envoy does not say.
    Late(Option<u64>),
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Close,
    Fail,
    Wait(Duration),
    Over(End),
}

/// What Envoy has been told.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    close: bool,
    fail: bool,
}

impl Options {
    /// What is due after so long, with so many connected.
    fn next(&self, told: Told, passed: Duration, connected: Option<u64>) -> Step {
        if passed >= self.at_most {
            return Step::Over(End::Late(connected));
        }
        if passed >= self.unhealthy_after && !told.fail {
            return Step::Fail;
        }
        if !told.close && !told.fail {
            return Step::Close;
        }
        if passed >= self.at_least && connected == Some(0) {
            return Step::Over(End::Drained);
        }
        Step::Wait(POLL.min(self.at_most.saturating_sub(passed)))
    }

    /// Drains. What Envoy does not answer is asked again until time is up.
    pub async fn run(&self) -> End {
        let began = Instant::now();
        let mut told = Told::default();
        loop {
            let connected = match self.connected().await {
                Ok(connected) => Some(connected),
                Err(error) => {
                    tracing::warn!(%error, "Envoy does not say who is connected");
                    None
                }
            };
            let asked = match self.next(told, began.elapsed(), connected) {
                Step::Over(end) => return end,
                Step::Wait(time) => {
                    tokio::time::sleep(time).await;
                    continue;
                }
                Step::Close => (CLOSE, &mut told.close),
                Step::Fail => (FAIL, &mut told.fail),
            };
            match self.envoy_admin.send(Method::POST, asked.0).await {
                Ok(_) => *asked.1 = true,
                Err(error) => {
                    tracing::warn!(%error, path = asked.0, "Envoy does not drain yet");
                    tokio::time::sleep(POLL).await;
                }
            }
        }
    }

    async fn connected(&self) -> Result<u64, StatsError> {
        connections(&self.envoy_admin.send(Method::GET, CONNECTIONS).await?, &self.apart)
    }
}

/// Connections of clients. A line of a worker counts again what the line of its listener has; a listener of the bootstrap
/// counts under its address and port.
fn connections(text: &[u8], apart: &[u16]) -> Result<u64, StatsError> {
    let mut sum: u64 = 0;
    for line in String::from_utf8_lossy(text).lines() {
        let Some((name, value)) = line.trim_end().rsplit_once(": ") else { continue };
        let name = name.strip_prefix("listener.").and_then(|name| name.strip_suffix(".downstream_cx_active"));
        let Some(name) = name else { continue };
        let of_a_worker = name.rsplit('.').next().is_some_and(|last| last.starts_with("worker_"));
        // Envoy's main thread has a line of its own there.
        let of_admin = name == "admin" || name.starts_with("admin.");
        if of_a_worker || of_admin || apart.iter().any(|port| name.ends_with(&format!("_{port}"))) {
            continue;
        }
        sum = sum.saturating_add(value.parse().map_err(|_| StatsError::Number)?);
    }
    Ok(sum)
}

/// Lays this program into a folder, for a container that sees the folder.
#[derive(Debug, Clone, Parser)]
#[command(name = "moorgate-relay copy-to")]
pub struct CopyTo {
    /// The folder
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
}

impl CopyTo {
    /// Copies `program`; one that is there already is replaced at once or not at all.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn run(&self, program: &Path) -> io::Result<()> {
        let (new, old) = (self.folder.join(".new"), self.folder.join(PROGRAM));
        // With its permissions.
        std::fs::copy(program, &new)?;
        std::fs::rename(&new, &old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn options(more: &[&str]) -> Options {
        let own = ["moorgate-relay drain", "--envoy-admin", "unix:/none"];
        Options::try_parse_from(own.iter().chain(more)).unwrap()
    }

    #[test]
    fn each_step_has_its_time() {
        let plain = options(&["--at-least", "10s", "--at-most", "60s"]);
        let late = options(&["--at-least", "2s", "--at-most", "8s", "--unhealthy-after", "5s"]);
        let none = Told::default();
        let (closed, failed) = (Told { close: true, fail: false }, Told { close: false, fail: true });
        let both = Told { close: true, fail: true };
        let wait = Step::Wait(POLL);
        let cases = [
            (&plain, none, 0, Some(3), Step::Fail),
            (&plain, none, 30, None, Step::Fail),
            (&plain, failed, 0, Some(0), wait),
            (&plain, failed, 9, Some(0), wait),
            (&plain, failed, 10, Some(1), wait),
            (&plain, failed, 10, Some(0), Step::Over(End::Drained)),
            (&plain, failed, 59, None, wait),
            (&plain, failed, 60, Some(2), Step::Over(End::Late(Some(2)))),
            (&plain, none, 60, None, Step::Over(End::Late(None))),
            (&late, none, 0, Some(1), Step::Close),
            (&late, closed, 4, Some(1), wait),
            (&late, closed, 4, Some(0), Step::Over(End::Drained)),
            (&late, closed, 5, Some(1), Step::Fail),
            (&late, both, 6, Some(1), wait),
        ];
        for (options, told, passed, connected, expected) in cases {
            let found = options.next(told, Duration::from_secs(passed), connected);
            assert_eq!(found, expected, "{told:?} {passed} {connected:?}");
        }
        // The last wait is no longer than what is left.
        let rest = plain.next(failed, Duration::from_millis(59_900), Some(1));
        assert_eq!(rest, Step::Wait(Duration::from_millis(100)));
    }

    #[test]
    fn listeners_are_counted_once_and_those_apart_not_at_all() {
        let text =
            b"listener.http-80.downstream_cx_active: 3\nlistener.http-80.worker_0.downstream_cx_active: 2\n\
            listener.http-80.worker_1.downstream_cx_active: 1\nlistener.a.b.downstream_cx_active: 4\n\
            listener.admin.downstream_cx_active: 1\nlistener.admin.main_thread.downstream_cx_active: 1\nlistener.[__]_19001.downstream_cx_active: 9\n\
            listener.x.downstream_cx_total: 5\n\xff\n: \n";
        assert_eq!(connections(text, &[19001]).unwrap(), 7);
        assert_eq!(connections(b"", &[]).unwrap(), 0, "an Envoy without listeners has no clients");
        assert!(connections(b"listener.a.downstream_cx_active: -1\n", &[]).is_err());
    }

    /// An Envoy that has these answers for who is connected, the last one for ever; and what it was asked to do.
    async fn envoy(counts: &'static [u64]) -> (AdminAddress, Arc<Mutex<Vec<String>>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let acts = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&acts);
        tokio::spawn(async move {
            let mut counts = counts.iter().copied().peekable();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap();
                let line =
                    String::from_utf8_lossy(&request[..read]).lines().next().unwrap_or_default().to_owned();
                let mut body = "OK\n".to_owned();
                if line.starts_with("GET /stats") {
                    let count = counts.next_if(|_| true).or_else(|| counts.peek().copied()).unwrap_or(0);
                    body = format!("listener.http-80.downstream_cx_active: {count}\n");
                } else {
                    told.lock().unwrap().push(line);
                }
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (address, acts)
    }

    #[tokio::test]
    async fn ends_when_the_last_client_is_gone() {
        let (envoy_admin, acts) = envoy(&[2, 1, 0]).await;
        let options = Options { envoy_admin, ..options(&["--at-least", "0s", "--at-most", "1h"]) };
        assert_eq!(options.run().await, End::Drained);
        assert_eq!(*acts.lock().unwrap(), ["POST /healthcheck/fail HTTP/1.1"]);
    }

    #[tokio::test]
    async fn tells_connections_first_where_health_fails_later() {
        let (envoy_admin, acts) = envoy(&[1, 1, 1, 1, 0]).await;
        let more = ["--at-least", "0s", "--at-most", "1h", "--unhealthy-after", "1ms"];
        assert_eq!(Options { envoy_admin, ..options(&more) }.run().await, End::Drained);
        let acts = acts.lock().unwrap().clone();
        assert_eq!(acts.last().unwrap(), "POST /healthcheck/fail HTTP/1.1");
        assert!(
            acts.len() == 1 || acts[0] == "POST /drain_listeners?graceful&skip_exit HTTP/1.1",
            "{acts:?}"
        );
    }

    #[tokio::test]
    async fn an_envoy_that_does_not_answer_holds_nothing_up_for_longer() {
        let end = options(&["--at-least", "0s", "--at-most", "700ms"]).run().await;
        assert_eq!(end, End::Late(None));
    }

    #[test]
    fn a_copy_is_the_program() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        std::fs::write(&program, "one").unwrap();
        let to = CopyTo { folder: folder.path().to_owned() };
        to.run(&program).unwrap();
        std::fs::write(&program, "two").unwrap();
        to.run(&program).unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join(PROGRAM)).unwrap(), "two");
        assert!(CopyTo { folder: "/nonexistent".into() }.run(&program).is_err());
    }
}
