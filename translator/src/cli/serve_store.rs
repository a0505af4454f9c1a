//! `moorgate watch --serve-store`

use super::{Exit, Failure};
use crate::serve_store::{
    Accounts, Api, Certificate, ConfigMaps, Endpoint, Front, Gate, House, Keeper, Ledger, Shown, serve,
};
use crate::watch::{Takeover, Target};
use anyhow::{Context as _, anyhow};
use clap::Args;
use moorgate_snapshot::{Store, Trust};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
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
    /// token of its ServiceAccount for the audience moorgate-store. With --provision, relays are told so
    #[arg(long = "serve-store", id = "serve_store", value_name = "ADDRESS")]
    address: Option<SocketAddr>,
    /// The certificate chain for --serve-store, PEM; read again when it changes. Without one, a CA of the store's own is
    /// made and kept in a Secret
    #[arg(long = "serve-store-cert", id = "serve_store_cert", value_name = "FILE", requires_all = ["serve_store", "serve_store_key"])]
    certificate: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long = "serve-store-key", id = "serve_store_key", value_name = "FILE", requires_all = ["serve_store", "serve_store_cert"])]
    key: Option<PathBuf>,
    /// Which fleet a ServiceAccount belongs to, beside those that --provision makes; repeats
    #[arg(
        long = "serve-store-account",
        id = "serve_store_account",
        value_name = "NAMESPACE/NAME=FLEET",
        requires = "serve_store"
    )]
    accounts: Vec<String>,
    /// The Service in the Lease's namespace by which relays reach it, and the Secret of the store's own CA
    #[arg(
        long = "serve-store-service",
        id = "serve_store_service",
        value_name = "NAME",
        requires = "serve_store",
        default_value = "moorgate-store"
    )]
    service: String,
    /// Where this replica is reached: the Service is led there while it writes. Without it, somebody else leads it
    #[arg(long = "serve-store-endpoint", id = "serve_store_endpoint", value_name = "IP", env = "POD_IP")]
    endpoint: Option<IpAddr>,
}

/// What the rest of `watch` knows of a store that is served.
pub(super) struct Served {
    /// Who may read what.
    pub(super) accounts: Accounts,
    /// Its own CA, if it has one.
    pub(super) authority: Option<watch::Receiver<Option<String>>>,
    /// How relays reach it.
    pub(super) url: String,
    /// What comes before this replica writes.
    pub(super) takeover: Option<Takeover>,
    /// The server.
    task: JoinHandle<()>,
}

impl Served {
    /// Waits until the server has ended.
    pub(super) async fn ended(self) {
        let _ = self.task.await;
    }
}

/// What the server is beside.
pub(super) struct Beside<'a> {
    /// The cluster.
    pub(super) client: &'a kube::Client,
    /// The namespace of Lease, Service, Secret and ConfigMaps.
    pub(super) namespace: &'a str,
    /// What is published, and where.
    pub(super) target: &'a Target,
    /// Fleets are made here; with the URLs of stores that their relays are given, if they are given any.
    pub(super) provisions: Option<&'a [String]>,
    /// Whether this replica writes.
    pub(super) leads: watch::Receiver<bool>,
}

impl ServeStoreArgs {
    /// Starts to serve, if that was asked for. Every replica serves a store that all of them have; one on a disk is served by
    /// the replica that writes there.
    pub(super) async fn start(
        &self,
        beside: &Beside<'_>,
        url: &str,
        stop: watch::Receiver<bool>,
    ) -> Result<Option<Served>, Failure> {
        let Some(address) = self.address else { return Ok(None) };
        let accounts = Accounts::configured(&self.accounts)
            .map_err(|error| Failure::new(Exit::Usage, anyhow!("--serve-store-account {error}")))?;
        if beside.provisions.is_some() {
            accounts.forget();
        }
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("--serve-store {address}"))?;
        let (shown, authority) = self.certificate(beside)?;
        let store = &beside.target.store;
        let gate = Gate::new(Api::new(beside.client.clone()), accounts.clone());
        let mut front = Front::new(store.clone(), gate);
        let mut takeover = None;
        if beside.provisions.is_some() && is_on_a_disk(url) {
            let maps = ConfigMaps::new(beside.client.clone(), beside.namespace, &self.service);
            let ledger = Arc::new(Ledger::new(maps));
            takeover = Some(take_over(Arc::clone(&ledger), store.clone(), Arc::clone(&beside.target.trust)));
            front = front.in_house(House { leads: beside.leads.clone(), ledger });
        }
        if let Some(ip) = self.endpoint {
            let endpoint = Endpoint {
                client: beside.client.clone(),
                namespace: beside.namespace.to_owned(),
                service: self.service.clone(),
                address: ip,
                port: listener.local_addr().context("--serve-store")?.port(),
            };
            tokio::spawn(endpoint.run(beside.leads.clone()));
        }
        tracing::info!(%address, "the store is served");
        let task = tokio::spawn(serve(listener, shown, Arc::new(front), stop));
        let url = format!("https://{}.{}.svc", self.service, beside.namespace);
        Ok(Some(Served { accounts, authority, url, takeover, task }))
    }

    /// What the server shows, and the CA that signed it, if that is the store's own.
    #[allow(clippy::type_complexity, reason = "two ends of channels")]
    fn certificate(
        &self,
        beside: &Beside<'_>,
    ) -> Result<(watch::Receiver<Shown>, Option<watch::Receiver<Option<String>>>), Failure> {
        if let Some((chain, key)) = self.certificate.clone().zip(self.key.clone()) {
            let files = Certificate { chain, key };
            let (shown_out, shown) = watch::channel(Some(files.load().context("--serve-store-cert")?));
            tokio::spawn(files.keep(shown_out));
            return Ok((shown, None));
        }
        let (shown_out, shown) = watch::channel(None);
        let (authority_out, authority) = watch::channel(None);
        let keeper = Keeper {
            client: beside.client.clone(),
            namespace: beside.namespace.to_owned(),
            name: self.service.clone(),
            names: names(&self.service, beside.namespace, beside.provisions.unwrap_or_default()),
            now: beside.target.seams.now,
        };
        tokio::spawn(keeper.run(shown_out, authority_out));
        Ok((shown, Some(authority)))
    }
}

fn take_over(ledger: Arc<Ledger>, store: Store, trust: Arc<Trust>) -> Takeover {
    Box::new(move || {
        let (ledger, store, trust) = (Arc::clone(&ledger), store.clone(), Arc::clone(&trust));
        Box::pin(async move { ledger.take_over(&store, &trust).await.map_err(|error| error.to_string()) })
    })
}

/// Whether a store is none that all replicas can reach by its nature.
fn is_on_a_disk(url: &str) -> bool {
    ["file://", "memory://"].iter().any(|scheme| url.starts_with(scheme))
}

/// What those who connect call the server: the Service's names, and the hosts of URLs that relays are given.
fn names(service: &str, namespace: &str, urls: &[String]) -> Vec<String> {
    let own = ["", ".svc", ".svc.cluster.local"].map(|end| format!("{service}.{namespace}{end}"));
    let mut names: BTreeSet<String> = own.into_iter().chain([service.to_owned()]).collect();
    names.extend(urls.iter().filter_map(|url| host(url)));
    names.into_iter().collect()
}

/// The host of an HTTPS URL.
fn host(url: &str) -> Option<String> {
    let authority = url.strip_prefix("https://")?.split('/').next()?;
    let host = match authority.strip_prefix('[') {
        Some(address) => address.split(']').next()?,
        None => authority.split(':').next()?,
    };
    (!host.is_empty()).then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_called_as_relays_call_it() {
        let urls = [
            "https://10.96.0.20",
            "https://[fd00::1]:8443/x",
            "https://store.example:1",
            "s3://bucket",
            "https://",
        ];
        let names = names("store", "infra", &urls.map(str::to_owned));
        assert_eq!(
            names,
            [
                "10.96.0.20",
                "fd00::1",
                "store",
                "store.example",
                "store.infra",
                "store.infra.svc",
                "store.infra.svc.cluster.local"
            ]
        );
        for (url, disk) in
            [("file:///x", true), ("memory:///", true), ("s3://b/p", false), ("https://h", false)]
        {
            assert_eq!(is_on_a_disk(url), disk, "{url}");
        }
    }
}
