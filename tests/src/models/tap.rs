//! Between the cluster's network and the store on this machine: who asked for what, how many bytes came, and the store gone
//! when that is wanted.

use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What one client did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Bytes that it was sent.
    pub bytes: u64,
    /// Requests that it sent, and that were handed on.
    pub requests: u64,
    /// Others, to a bucket that was gone: nobody answered.
    pub refused: u64,
    /// Fleets whose part of the store it asked for.
    pub fleets: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Shared {
    clients: Mutex<BTreeMap<IpAddr, Seen>>,
    /// The bucket that is gone.
    gone: AtomicBool,
    ended: AtomicBool,
}

/// A running tap; it ends with this value.
#[derive(Debug)]
pub struct Tap {
    shared: Arc<Shared>,
    bucket: &'static str,
}

impl Tap {
    /// Carries connections from the listener, which may be in another network, to a port of this machine. `bucket` is the
    /// one that can be cut off.
    pub fn start(listener: TcpListener, to: u16, bucket: &'static str) -> Self {
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if seen.ended.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(client) = client else { continue };
                let shared = Arc::clone(&seen);
                std::thread::spawn(move || drop(carry(client, to, bucket, &shared)));
            }
        });
        Self { shared, bucket }
    }

    /// Whether the bucket is gone from now on.
    pub fn cut(&self, gone: bool) {
        self.shared.gone.store(gone, Ordering::Relaxed);
    }

    /// The bucket that can be cut off.
    pub fn bucket(&self) -> &'static str {
        self.bucket
    }

    /// Counts from now on.
    pub fn forget(&self) {
        self.shared.clients.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What each client did so far.
    pub fn clients(&self) -> BTreeMap<IpAddr, Seen> {
        self.shared.clients.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

fn carry(client: TcpStream, to: u16, bucket: &str, shared: &Arc<Shared>) -> Result<()> {
    let from = client.peer_addr()?.ip();
    let server = TcpStream::connect(("127.0.0.1", to))?;
    let note = |change: &dyn Fn(&mut Seen)| {
        let mut clients = shared.clients.lock().unwrap_or_else(PoisonError::into_inner);
        change(clients.entry(from).or_default());
    };
    let (mut asks, mut asked) = (client.try_clone()?, server.try_clone()?);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(length @ 1..) = asks.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]);
                if shared.gone.load(Ordering::Relaxed) && text.contains(&format!(" /{bucket}")) {
                    note(&|seen| seen.refused += 1);
                    break;
                }
                if asked.write_all(&buffer[..length]).is_err() {
                    break;
                }
                let fleets = text.match_indices("fleets/gateway/").filter_map(|(at, word)| {
                    let mut parts = text[at + word.len()..].split(['/', ' ', '?', '&', '%']);
                    Some(format!("{}/{}", parts.next()?, parts.next()?))
                });
                let fleets: Vec<String> = fleets.collect();
                let requests = u64::try_from(text.matches(" HTTP/1.1\r\n").count()).unwrap_or(0);
                note(&|seen| {
                    seen.requests += requests;
                    seen.fleets.extend(fleets.iter().cloned());
                });
            }
            let _ = asked.shutdown(Shutdown::Both);
            let _ = asks.shutdown(Shutdown::Both);
        });
        let (mut server, mut client) = (server, client);
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = server.read(&mut buffer) {
            note(&|seen| seen.bytes += u64::try_from(length).unwrap_or(0));
            if client.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Both);
        let _ = client.shutdown(Shutdown::Both);
    });
    Ok(())
}
