//! A store behind HTTPS, as `watch --serve-store` serves it, with tokens that somebody else than an API server knows.

use anyhow::{Context as _, Result};
use futures::future::BoxFuture;
use moorgate::serve_store::{self, Account, Accounts, Certificate, Gate, Review, ReviewError};
use moorgate_snapshot::Store;
use moorgate_snapshot::store::Settings;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// The account of the fleet `shop/edge`, and its token.
const ACCOUNT: &str = "shop/envoy";
const TOKEN: &str = "the token of shop/envoy";

/// A server over the folder `store` in a folder; dropping it ends it.
pub struct Front {
    port: u16,
    folder: PathBuf,
    _stop: watch::Sender<bool>,
}

struct OneToken;

impl Review for OneToken {
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<Account>, ReviewError>> {
        let account = (token == TOKEN).then(|| ACCOUNT.parse().ok()).flatten();
        Box::pin(async { Ok(account) })
    }
}

impl Front {
    /// Starts a server.
    pub fn start(folder: &Path) -> Result<Self> {
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
        let certificate = Certificate { chain: folder.join("tls.crt"), key: folder.join("tls.key") };
        std::fs::write(&certificate.chain, own.cert.pem())?;
        std::fs::write(&certificate.key, own.signing_key.serialize_pem())?;
        std::fs::write(folder.join("token"), TOKEN)?;
        let store = Store::open(&format!("file://{}/store", folder.display()))?;
        let accounts = Accounts::configured(&[format!("{ACCOUNT}=shop/edge")])?;
        let front = serve_store::Front::new(store, Gate::new(OneToken, accounts));
        let listener = crate::runtime().block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let port = listener.local_addr()?.port();
        let (stop, stopped) = watch::channel(false);
        let (_, shown) = watch::channel(Some(certificate.load().context("the certificate")?));
        crate::runtime().spawn(serve_store::serve(listener, shown, Arc::new(front), stopped));
        Ok(Self { port, folder: folder.to_owned(), _stop: stop })
    }

    /// The store as a relay sees it.
    pub fn store(&self) -> Result<Store> {
        let settings = Settings::default()
            .with_front(Some(&self.folder.join("token")), Some(&self.folder.join("tls.crt")));
        Ok(Store::open_with(&format!("https://localhost:{}", self.port), &settings)?)
    }
}
