//! Connections: bytes both ways, each side's end passed on to the other, a reset too.

use super::{Backends, closing};
use anyhow::Result;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long a connection to an endpoint may take before the next one is tried.
const PATIENCE: Duration = Duration::from_secs(2);

/// Opens a port; its connections end with the task.
pub(super) async fn start(at: SocketAddr, backends: &Backends) -> Result<JoinHandle<()>> {
    let listener = TcpListener::bind(at).await?;
    let backends = backends.clone();
    Ok(tokio::spawn(async move {
        let (_open, closed) = closing();
        loop {
            if let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, backends.clone(), closed.clone()));
            }
        }
    }))
}

/// Drops a connection so that the peer sees a reset, not an orderly end.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

async fn carry(mut client: TcpStream, backends: Backends, mut closed: watch::Receiver<()>) {
    let mut server = None;
    let Ok(from) = client.peer_addr() else { return };
    for _ in 0..3 {
        let Some(endpoint) = backends.next(from.ip()) else { break };
        if let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, TcpStream::connect(endpoint)).await {
            server = Some(stream);
            break;
        }
    }
    let Some(mut server) = server else { return reset(&client) };
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    tokio::select! {
        carried = tokio::io::copy_bidirectional(&mut client, &mut server) => {
            if carried.is_err() {
                reset(&client);
                reset(&server);
            }
        }
        // The Service or its last endpoint is gone.
        _ = closed.changed() => {
            reset(&client);
            reset(&server);
        }
    }
}
