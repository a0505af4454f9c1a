//! `moorgate watch --serve-store`

use super::{Exit, Failure};
use crate::serve_store::{Accounts, Api, Certificate, Front, Gate, serve};
use anyhow::{Context as _, anyhow};
use clap::Args;
use moorgate_snapshot::Store;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The store behind HTTPS, for relays in the cluster.
#[derive(Debug, Args)]
#[allow(clippy::struct_field_names, reason = "the names are those of the flags")]
pub(super) struct ServeStoreArgs {
    /// Serve the store to relays at this address, over HTTPS: each reads its own fleet and writes its reports, known by a
    /// token of its ServiceAccount for the audience moorgate-store
    #[arg(long = "serve-store", id = "serve_store", value_name = "ADDRESS", requires_all = ["serve_store_cert", "serve_store_key"])]
    address: Option<SocketAddr>,
    /// The certificate chain for --serve-store, PEM; read again when it changes
    #[arg(long = "serve-store-cert", id = "serve_store_cert", value_name = "FILE", requires = "serve_store")]
    certificate: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long = "serve-store-key", id = "serve_store_key", value_name = "FILE", requires = "serve_store")]
    key: Option<PathBuf>,
    /// Which fleet a ServiceAccount belongs to; repeats
    #[arg(
        long = "serve-store-account",
        id = "serve_store_account",
        value_name = "NAMESPACE/NAME=FLEET",
        requires = "serve_store"
    )]
    accounts: Vec<String>,
}

impl ServeStoreArgs {
    /// The accounts that were given.
    pub(super) fn accounts(&self) -> Result<Accounts, Failure> {
        let accounts = Accounts::configured(&self.accounts);
        accounts.map_err(|error| Failure::new(Exit::Usage, anyhow!("--serve-store-account {error}")))
    }

    /// Starts to serve, if that was asked for. Every replica serves, whichever of them writes.
    pub(super) async fn start(
        &self,
        store: Store,
        client: kube::Client,
        accounts: Accounts,
        stop: watch::Receiver<bool>,
    ) -> Result<Option<JoinHandle<()>>, Failure> {
        let parts = self.address.zip(self.certificate.clone()).zip(self.key.clone());
        let Some(((address, chain), key)) = parts else { return Ok(None) };
        let certificate = Certificate { chain, key };
        let config = certificate.load().context("--serve-store")?;
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("--serve-store {address}"))?;
        tracing::info!(%address, "the store is served");
        let front = Front::new(store, Gate::new(Api::new(client), accounts));
        Ok(Some(tokio::spawn(serve(listener, certificate, config, Arc::new(front), stop))))
    }
}
