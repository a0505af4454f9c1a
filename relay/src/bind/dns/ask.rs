//! Asking a name server.

use super::Record;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use hickory_resolver::system_conf::parse_resolv_conf;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Where the system says which name servers there are.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The largest such file.
const MAX_FILE: u64 = 64 << 10;

/// What a name server told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The name has these addresses, for so long.
    Addresses {
        /// The addresses, in no order.
        addresses: Vec<IpAddr>,
        /// How long they may be kept.
        ttl: Duration,
    },
    /// There is no such name, or it has no such address (RFC 2308).
    Denied {
        /// How long that may be kept.
        ttl: Duration,
    },
    /// No server told anything.
    Failed(String),
}

/// Who is asked.
pub trait Ask: Send + Sync {
    /// Asks for the addresses of one kind.
    fn ask<'a>(&'a self, name: &'a str, record: Record) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;
}

/// The name servers of this system, read again when their file changes, and its file of hosts. Names of configuration are
/// whole: no search list is applied.
pub struct System {
    file: PathBuf,
    /// The file as it was read last, and what was made of it.
    read: Mutex<(Vec<u8>, Option<TokioResolver>)>,
}

impl fmt::Debug for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "System({})", self.file.display())
    }
}

impl Default for System {
    fn default() -> Self {
        Self::at(Path::new(RESOLV_CONF))
    }
}

impl System {
    /// Reads name servers from a file like `/etc/resolv.conf`.
    pub fn at(file: &Path) -> Self {
        Self { file: file.to_owned(), read: Mutex::default() }
    }

    /// These name servers, without a file.
    pub fn with(config: ResolverConfig) -> Result<Self, String> {
        let resolver = build(config, ResolverOpts::default())?;
        Ok(Self { file: PathBuf::new(), read: Mutex::new((Vec::new(), Some(resolver))) })
    }

    fn resolver(&self) -> Result<TokioResolver, String> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let fixed = self.file.as_os_str().is_empty();
        let text = match crate::bind::file::read(&self.file, MAX_FILE) {
            _ if fixed => Vec::new(),
            Ok(text) => text,
            // A file that is being replaced: what it said before holds.
            Err(_) if read.1.is_some() => read.0.clone(),
            Err(error) => return Err(format!("{}: {error}", self.file.display())),
        };
        if let Some(resolver) = read.1.as_ref().filter(|_| fixed || text == read.0) {
            return Ok(resolver.clone());
        }
        let (config, options) = parse_resolv_conf(&text).map_err(|error| error.to_string())?;
        let resolver = build(config, options)?;
        *read = (text, Some(resolver.clone()));
        Ok(resolver)
    }
}

fn build(config: ResolverConfig, options: ResolverOpts) -> Result<TokioResolver, String> {
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    // When to ask again is decided by who asks.
    builder.options_mut().cache_size = 0;
    builder.build().map_err(|error| error.to_string())
}

impl Ask for System {
    fn ask<'a>(&'a self, name: &'a str, record: Record) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
        Box::pin(async move {
            let resolver = match self.resolver() {
                Ok(resolver) => resolver,
                Err(error) => return Answer::Failed(error),
            };
            let kind = match record {
                Record::A => RecordType::A,
                Record::Aaaa => RecordType::AAAA,
            };
            let whole = format!("{}.", name.trim_end_matches('.'));
            match resolver.lookup(whole.as_str(), kind).await {
                Ok(lookup) => {
                    let of_kind = || lookup.answers().iter().filter(|found| found.record_type() == kind);
                    let addresses: Vec<IpAddr> = of_kind().filter_map(|found| found.data.ip_addr()).collect();
                    // A name that is an alias is kept no longer than the shortest of its links.
                    let ttl = lookup.answers().iter().map(|found| found.ttl).min().unwrap_or_default();
                    let ttl = Duration::from_secs(ttl.into());
                    if addresses.is_empty() {
                        Answer::Denied { ttl }
                    } else {
                        Answer::Addresses { addresses, ttl }
                    }
                }
                Err(error) => told(&error),
            }
        })
    }
}

/// Only a server that says so denies a name; all else is a failure.
fn told(error: &NetError) -> Answer {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none))
            if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
        {
            Answer::Denied { ttl: Duration::from_secs(none.negative_ttl.unwrap_or_default().into()) }
        }
        other => Answer::Failed(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_file_of_name_servers_is_read_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        let system = System::at(&file);
        assert!(matches!(system.ask("db.example", Record::A).await, Answer::Failed(_)));
        for text in ["nameserver 127.0.0.1\n", "nameserver 127.0.0.2\nsearch example\n"] {
            std::fs::write(&file, text).unwrap();
            system.resolver().unwrap();
            assert_eq!(system.read.lock().unwrap().0, text.as_bytes());
        }
        std::fs::remove_file(&file).unwrap();
        system.resolver().unwrap();
    }
}
