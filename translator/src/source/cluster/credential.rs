//! How to reach a cluster.

use super::ClusterError;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use std::path::PathBuf;

/// Which cluster, and as whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// A kubeconfig; without one that of the environment, and then the service account of this pod.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig; without one its current context.
    pub context: Option<String>,
}

/// A client of the cluster, and its URL.
pub async fn connect(access: &Access) -> Result<(Client, String), ClusterError> {
    let failed = |error: &dyn std::fmt::Display| ClusterError::Credentials(error.to_string());
    let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
    let config = match &access.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| failed(&error))?;
            Config::from_custom_kubeconfig(file, &options).await.map_err(|error| failed(&error))?
        }
        None if access.context.is_some() => {
            Config::from_kubeconfig(&options).await.map_err(|error| failed(&error))?
        }
        None => match Config::from_kubeconfig(&options).await {
            Ok(config) => config,
            Err(outside) => Config::incluster().map_err(|inside| {
                ClusterError::Credentials(format!("{outside}; and not in a pod: {inside}"))
            })?,
        },
    };
    let url = config.cluster_url.to_string();
    let client = Client::try_from(config).map_err(|error| failed(&super::said(&error)))?;
    Ok((client, url))
}
