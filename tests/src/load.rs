//! A steady load that counts every lost request.

use crate::http::{Connection, Request, Target};
use anyhow::{Result, bail, ensure};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Requests a connection carries before it is opened anew, so that both old and new connections are tried.
const PER_CONNECTION: usize = 25;

/// What happened so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Requests sent.
    pub sent: u64,
    /// Good answers by who gave them.
    pub answers: BTreeMap<String, u64>,
    /// Every request without a good answer (status 200), with its reason.
    pub lost: Vec<String>,
}

impl Report {
    /// An error that lists the lost requests, if any.
    pub fn nothing_lost(&self) -> Result<()> {
        let first: Vec<_> = self.lost.iter().take(5).collect();
        ensure!(self.lost.is_empty(), "{} of {} requests were lost: {first:#?}", self.lost.len(), self.sent);
        ensure!(self.sent > 0, "no request was sent");
        Ok(())
    }

    /// How many answers this backend gave.
    pub fn from(&self, backend: &str) -> u64 {
        self.answers.get(backend).copied().unwrap_or_default()
    }
}

/// Requests that go on until it is stopped or dropped.
#[derive(Debug)]
pub struct Load {
    report: Arc<Mutex<Report>>,
    stop: watch::Sender<bool>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `workers` that each send the request, wait for its answer, pause, and go on.
    pub fn start(target: &Target, request: &Request, workers: usize, pause: Duration) -> Self {
        let report = Arc::new(Mutex::new(Report::default()));
        let (stop, stopped) = watch::channel(false);
        let workers = (0..workers)
            .map(|_| {
                let (target, request) = (target.clone(), request.clone());
                crate::runtime().spawn(work(target, request, pause, Arc::clone(&report), stopped.clone()))
            })
            .collect();
        Self { report, stop, workers }
    }

    /// What happened so far.
    pub fn report(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until `count` more answers came from this backend.
    pub fn wait_for(&self, backend: &str, count: u64) -> Result<()> {
        let before = self.report().from(backend);
        crate::wait::until(&format!("{count} answers of {backend}"), || {
            let now = self.report().from(backend);
            if now >= before + count {
                return Ok(());
            }
            bail!("{} of them came", now - before)
        })
    }

    /// Waits until `count` more requests were sent, whoever answered.
    pub fn wait(&self, count: u64) -> Result<()> {
        let before = self.report().sent;
        crate::wait::until(&format!("{count} requests"), || {
            let now = self.report().sent;
            if now >= before + count {
                return Ok(());
            }
            bail!("{} of them were sent", now - before)
        })
    }

    /// Lets the requests under way end, and says what happened.
    pub fn stop(self) -> Report {
        let _ = self.stop.send(true);
        for worker in self.workers {
            let _ = crate::runtime().block_on(worker);
        }
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn work(
    target: Target,
    request: Request,
    pause: Duration,
    report: Arc<Mutex<Report>>,
    stopped: watch::Receiver<bool>,
) {
    let mut connection: Option<(Connection, usize)> = None;
    while !*stopped.borrow() && stopped.has_changed().is_ok() {
        let outcome = exchange(&target, &request, &mut connection).await;
        {
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.sent += 1;
            match outcome {
                Ok(backend) => *report.answers.entry(backend).or_default() += 1,
                Err(error) => report.lost.push(format!("{error:#}")),
            }
        }
        tokio::time::sleep(pause).await;
    }
}

async fn exchange(
    target: &Target,
    request: &Request,
    connection: &mut Option<(Connection, usize)>,
) -> Result<String> {
    let (mut open, used) = match connection.take() {
        // A connection that the peer closed between two requests costs no request.
        Some((open, used)) if used < PER_CONNECTION && !open.is_closed() => (open, used),
        _ => (Connection::open(target).await?, 0),
    };
    let answer = open.send(request).await?;
    ensure!(answer.status == 200, "status {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
    *connection = Some((open, used + 1));
    Ok(answer.who())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;

    #[test]
    fn a_load_counts_what_is_answered_and_what_is_lost() {
        let backend = Backend::start("one").unwrap();
        let target = Target::plain(backend.address().port());
        let load = Load::start(&target, &Request::get("a.example", "/x"), 2, Duration::from_millis(1));
        load.wait_for("one", 60).unwrap();
        load.report().nothing_lost().unwrap();
        drop(backend);
        crate::wait::until("lost requests", || {
            ensure!(!load.report().lost.is_empty());
            Ok(())
        })
        .unwrap();
        let report = load.stop();
        assert!(report.from("one") >= 60);
        assert!(report.nothing_lost().is_err());
    }
}
