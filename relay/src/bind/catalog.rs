//! Endpoints: EndpointSlices as Kubernetes writes them, and static sets; here from files.
//!
//! A static set names a Service of the configuration and its addresses:
//! ```yaml
//! endpoints:
//!   - service: shop/cart
//!     port: http              # name or number of the Service port; all ports without it
//!     addresses: ["10.0.0.1:8080", "[2001:db8::1]:8080"]
//!     zone: eu-1a             # optional
//!     weight: 3               # optional, among the sets of one Service
//! ```

mod parse;

pub(super) use parse::services_of_json;
pub use parse::{Unreadable, slice};

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A file that could not be used. The values that it gave before stay.
#[derive(Debug, Error)]
pub enum CatalogError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no valid document.
    #[error("{path}: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// The health of an endpoint, as Kubernetes' conditions tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Ready for new requests.
    Healthy,
    /// Still serving while it terminates: Envoy drains it.
    Draining,
    /// Not ready: sent nothing unless Envoy panics.
    Unhealthy,
}

/// One address of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Where to dial.
    pub address: SocketAddr,
    /// Its zone, empty if unknown.
    pub zone: String,
    /// Whether it takes requests.
    pub health: Health,
    /// The share among endpoints, 1 and up.
    pub weight: u32,
}

/// Which port of a Service something is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Port {
    /// Every port.
    Any,
    /// The port of this name; the empty name is the port without one.
    Name(String),
    /// The port of this number (static sets only: a slice's number is the pod's).
    Number(u16),
}

/// Addresses for one port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSet {
    /// The port.
    pub port: Port,
    /// The addresses.
    pub endpoints: Vec<Endpoint>,
}

/// The Services that one file knows.
pub(super) type Services = BTreeMap<(String, String), Vec<PortSet>>;

/// All endpoints that files tell, by Service.
#[derive(Debug, Default)]
pub struct Catalog {
    files: BTreeMap<PathBuf, Services>,
    synced: bool,
}

impl Catalog {
    /// Reads all files of a folder again. A file that cannot be used keeps what it told before; a file that is gone is
    /// forgotten. If the folder itself cannot be listed, everything stays as it was.
    pub fn reload(&mut self, folder: &Path) -> Vec<CatalogError> {
        let io = |path: &Path, source| CatalogError::Io { path: path.to_path_buf(), source };
        let paths = match super::file::walk(folder) {
            Ok(paths) => paths,
            Err(source) => return vec![io(folder, source)],
        };
        let mut errors = Vec::new();
        let mut files = BTreeMap::new();
        for path in paths.into_iter().filter(|path| parse::is_document(path)) {
            let services = super::file::read(&path, super::file::MAX_FILE_BYTES)
                .map_err(|source| io(&path, source))
                .and_then(|bytes| {
                    parse::services(&path, &bytes)
                        .map_err(|message| CatalogError::Invalid { path: path.clone(), message })
                });
            match services {
                Ok(services) => drop(files.insert(path, services)),
                Err(error) => {
                    errors.push(error);
                    if let Some(last) = self.files.remove(&path) {
                        files.insert(path, last);
                    }
                }
            }
        }
        self.files = files;
        self.synced = true;
        errors
    }

    /// True once the folder was read: from then on a Service without endpoints has none.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// The endpoints of a Service port, sorted; `None` if no file speaks of the Service.
    pub fn endpoints(
        &self,
        namespace: &str,
        service: &str,
        port_name: &str,
        port: u16,
    ) -> Option<Vec<Endpoint>> {
        let key = (namespace.to_owned(), service.to_owned());
        let mut files = self.files.values().filter_map(|services| services.get(&key)).peekable();
        files.peek()?;
        Some(merged(files.flatten(), port_name, port))
    }
}

/// The endpoints of one port in all sets of a Service, sorted by address.
pub fn merged<'s>(sets: impl Iterator<Item = &'s PortSet>, port_name: &str, port: u16) -> Vec<Endpoint> {
    let mut out: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
    for endpoint in sets.filter(|set| set.port.fits(port_name, port)).flat_map(|set| &set.endpoints) {
        // An address may stand in two slices while it moves between them; the healthier word counts.
        let best = out.entry(endpoint.address).or_insert_with(|| endpoint.clone());
        if endpoint.health < best.health {
            *best = endpoint.clone();
        }
    }
    out.into_values().collect()
}

impl Port {
    fn fits(&self, name: &str, number: u16) -> bool {
        match self {
            Self::Any => true,
            Self::Name(own) => own == name,
            Self::Number(own) => *own == number,
        }
    }
}

/// Addresses that no endpoint of a workload can have; a forged slice must not reach the host or its metadata.
pub(super) fn is_refused(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_unspecified() || address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unspecified() || address.is_multicast(),
    }
}

#[cfg(test)]
mod tests;
