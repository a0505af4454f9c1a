//! What is read again while a relay runs: certificates, keys, and who may ask.

use super::doors::Roll;
use super::read_key;
use crate::serve::tls::{Files, Tls};
use crate::serve::token::Keys;
use moorgate_snapshot::{KeyPair, Signer as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often files are looked at.
const AGAIN: Duration = Duration::from_mins(1);
/// How often the file of members is looked at where a new fleet's Envoys wait for it.
const MEMBERS: Duration = Duration::from_secs(2);

/// Files that are renewed without anybody telling.
#[derive(Debug, Clone)]
pub(super) struct Reload {
    pub tls: Option<(Files, watch::Sender<Arc<Tls>>)>,
    pub token_keys: Option<Arc<Keys>>,
    pub report_key: Option<(PathBuf, watch::Sender<Arc<KeyPair>>)>,
    pub members: Roll,
}

impl Reload {
    /// Reads all of them again. What cannot be used is reported, and what was read before stays.
    pub(super) async fn again(&self) {
        if let Some((files, sender)) = &self.tls {
            tls(files, sender);
        }
        self.members.again();
        if let Some(keys) = &self.token_keys
            && let Err(error) = keys.refresh().await
        {
            tracing::error!(%error, "the keys of tokens that were read before stay in use");
        }
        if let Some((path, sender)) = &self.report_key {
            report_key(path, sender);
        }
    }

    /// Looks at them from time to time.
    pub(super) fn watch(&self, stop: &CancellationToken) {
        if self.members.is_lively() {
            let (members, stop) = (self.members.clone(), stop.clone());
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(MEMBERS) => members.again(),
                    }
                }
            });
        }
        if self.tls.is_none() && self.report_key.is_none() && self.token_keys.is_none() {
            return;
        }
        let (files, stop) = (self.clone(), stop.clone());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(AGAIN) => {}
                }
                files.again().await;
            }
        });
    }
}

fn tls(files: &Files, sender: &watch::Sender<Arc<Tls>>) {
    match files.load() {
        Ok(config) => drop(sender.send_replace(config)),
        Err(error) => tracing::error!(%error, "the TLS files that were read before stay in use"),
    }
}

/// Reports go on under the key that the file holds now; one that cannot be read changes nothing.
fn report_key(path: &Path, sender: &watch::Sender<Arc<KeyPair>>) {
    match read_key(path) {
        Ok(key) => {
            let changed = sender.send_if_modified(|held| {
                let other = held.public() != key.public();
                if other {
                    held.clone_from(&key);
                }
                other
            });
            if changed {
                tracing::info!(key = %key.public().id(), "reports are signed by another key from now on");
            }
        }
        Err(error) => tracing::error!(%error, "the key of reports that was read before stays in use"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_key_is_taken_over_when_it_is_another_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.key");
        let key = |seed: u8| KeyPair::generate(&[seed; 32]).unwrap();
        let (first, pem) = key(1);
        std::fs::write(&path, pem).unwrap();
        let sender = watch::Sender::new(read_key(&path).unwrap());
        let mut seen = sender.subscribe();
        report_key(&path, &sender);
        assert!(!seen.has_changed().unwrap(), "the same key is no news");
        std::fs::write(&path, "half a k").unwrap();
        report_key(&path, &sender);
        assert!(!seen.has_changed().unwrap());
        assert_eq!(seen.borrow_and_update().public(), first.public());
        let (second, pem) = key(2);
        std::fs::write(&path, pem).unwrap();
        report_key(&path, &sender);
        assert!(seen.has_changed().unwrap());
        assert_eq!(seen.borrow_and_update().public(), second.public());
    }
}
