//! Datagrams: those of one client address and port go to one endpoint, from a port of their own, as long as some come.

use super::{Backends, closing};
use anyhow::Result;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// After so long without a datagram a client is forgotten.
const IDLE: Duration = Duration::from_secs(30);
/// Datagrams that wait for one endpoint; more are lost, as in any network.
const WAITING: usize = 64;

/// Opens a port.
pub(super) async fn start(at: SocketAddr, backends: &Backends) -> Result<JoinHandle<()>> {
    let front = Arc::new(UdpSocket::bind(at).await?);
    let backends = backends.clone();
    Ok(tokio::spawn(async move {
        let (_open, closed) = closing();
        let mut flows: BTreeMap<SocketAddr, mpsc::Sender<Vec<u8>>> = BTreeMap::new();
        let mut buffer = vec![0_u8; 65_536];
        loop {
            let Ok((length, client)) = front.recv_from(&mut buffer).await else { continue };
            let datagram = buffer[..length].to_vec();
            let datagram = match flows.get(&client).map(|flow| flow.try_send(datagram.clone())) {
                Some(Ok(()) | Err(mpsc::error::TrySendError::Full(_))) => continue,
                Some(Err(mpsc::error::TrySendError::Closed(datagram))) => datagram,
                None => datagram,
            };
            let Some(endpoint) = backends.next(client.ip()) else { continue };
            let (sender, receiver) = mpsc::channel(WAITING);
            let _ = sender.try_send(datagram);
            flows.retain(|_, flow| !flow.is_closed());
            flows.insert(client, sender);
            tokio::spawn(flow(Arc::clone(&front), client, endpoint, receiver, closed.clone()));
        }
    }))
}

async fn flow(
    front: Arc<UdpSocket>,
    client: SocketAddr,
    endpoint: SocketAddr,
    mut datagrams: mpsc::Receiver<Vec<u8>>,
    mut closed: watch::Receiver<()>,
) {
    let Ok(back) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await else { return };
    if back.connect(endpoint).await.is_err() {
        return;
    }
    let mut buffer = vec![0_u8; 65_536];
    loop {
        tokio::select! {
            datagram = datagrams.recv() => {
                let Some(datagram) = datagram else { return };
                let _ = back.send(&datagram).await;
            }
            length = back.recv(&mut buffer) => {
                // An endpoint that is not there (any more) is the next flow's chance.
                let Ok(length) = length else { return };
                let _ = front.send_to(&buffer[..length], client).await;
            }
            () = tokio::time::sleep(IDLE) => return,
            _ = closed.changed() => return,
        }
    }
}
