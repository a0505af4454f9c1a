//! Fetching what inputs are made of. The only place that does, and only `moorgate inputs update` comes here.
//!
//! TLS is rustls with ring, and trusts the platform's roots and those of `--ca-file`. What a server sends is taken for
//! hostile: bytes, time and redirects are bounded, and a redirect never leaves TLS.

use super::content;
use super::oci;
use crate::source::{chain, tls};
use moorgate_policies::InputKind;
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response, Url};
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use std::collections::BTreeMap;
use std::time::Duration;
use thiserror::Error;

const CONNECT_TIME: Duration = Duration::from_secs(10);
/// One input, from the first byte to the last.
const WHOLE_TIME: Duration = Duration::from_mins(1);
const MOST_REDIRECTS: usize = 5;
const AGENT: &str = concat!("moorgate/", env!("CARGO_PKG_VERSION"));

/// Why something could not be fetched.
#[derive(Debug, Error)]
pub enum FetchError {
    /// TLS cannot be set up on this machine.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    /// Neither `https://` nor `oci://`, or with credentials in it.
    #[error("{url}: {message}")]
    Url {
        /// The URL, without credentials.
        url: String,
        /// What is wrong with it.
        message: String,
    },
    /// No answer, or a broken one.
    #[error("{url}: {message}")]
    Unreachable {
        /// The URL.
        url: String,
        /// What went wrong.
        message: String,
    },
    /// An answer without content.
    #[error("{url} answered {status}")]
    Status {
        /// The URL.
        url: String,
        /// The status, and where it would redirect to.
        status: String,
    },
    /// More than an input may hold.
    #[error("{url} sends more than {most} bytes")]
    TooLarge {
        /// The URL.
        url: String,
        /// How many are taken.
        most: usize,
    },
    /// It took too long.
    #[error("{url} did not send all within {} seconds", .time.as_secs())]
    Slow {
        /// The URL.
        url: String,
        /// The time.
        time: Duration,
    },
    /// Something else than what is needed.
    #[error("what was behind {url} {message}")]
    Content {
        /// The URL.
        url: String,
        /// What is wrong with it.
        message: String,
    },
}

/// How to fetch.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// CA certificates in PEM that are trusted beside the platform's.
    pub authorities: Vec<u8>,
    /// True if `http://` is allowed.
    pub plain_http: bool,
    /// `Authorization` of registries, by host and port.
    pub registries: BTreeMap<String, Credential>,
    /// How long one input may take, if not a minute.
    pub time: Option<Duration>,
}

/// User name and password in base64, as Docker's configuration has them. Never printed.
#[derive(Clone)]
pub struct Credential(pub(super) String);

impl Credential {
    /// From the field `auth` of Docker's configuration, if it holds one.
    pub fn new(auth: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
        (!auth.is_empty() && auth.bytes().all(plain)).then(|| Self(auth.to_owned()))
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// Fetches inputs.
#[derive(Debug)]
pub struct Fetcher {
    client: Client,
    time: Duration,
    pub(super) plain_http: bool,
    pub(super) registries: BTreeMap<String, Credential>,
}

impl Fetcher {
    /// Sets up TLS.
    ///
    /// # Errors
    /// The roots cannot be read.
    pub fn new(options: Options) -> Result<Self, FetchError> {
        let plain_http = options.plain_http;
        let follow = move |from: &Url, to: &Url| {
            to.scheme() == "https" || (plain_http && from.scheme() == "http" && to.scheme() == "http")
        };
        let redirects = Policy::custom(move |attempt| {
            let known = attempt.previous();
            let may =
                known.len() <= MOST_REDIRECTS && known.last().is_some_and(|from| follow(from, attempt.url()));
            if may { attempt.follow() } else { attempt.stop() }
        });
        let client = Client::builder()
            .user_agent(AGENT)
            .connect_timeout(CONNECT_TIME)
            .redirect(redirects)
            .tls_backend_preconfigured(trusting(&options.authorities)?)
            .build()
            .map_err(|error| FetchError::Tls(chain(&error)))?;
        let time = options.time.unwrap_or(WHOLE_TIME);
        Ok(Self { client, time, plain_http, registries: options.registries })
    }

    /// What stands behind a URL now, as it is kept.
    ///
    /// # Errors
    /// It does not come whole, or is not what is needed.
    pub async fn fetch(&self, kind: InputKind, url: &str) -> Result<Vec<u8>, FetchError> {
        let work = async {
            match url.strip_prefix("oci://") {
                Some(image) if kind == InputKind::Wasm => oci::module(self, url, image).await,
                Some(_) => Err(wrong(url, "an image holds a module, and nothing else that is needed")),
                None => {
                    let accept = if kind.is_json() { "application/json" } else { "*/*" };
                    let request = self.get(url, url)?.header("accept", accept);
                    self.body(url, request, kind.most_bytes()).await
                }
            }
        };
        let slow = |_| FetchError::Slow { url: url.to_owned(), time: self.time };
        let bytes = tokio::time::timeout(self.time, work).await.map_err(slow)??;
        content::kept(kind, &bytes).map_err(|message| FetchError::Content { url: url.to_owned(), message })
    }

    /// A request; `name` is the URL for messages.
    pub(super) fn get(&self, name: &str, url: &str) -> Result<RequestBuilder, FetchError> {
        let parsed = Url::parse(url).map_err(|error| wrong(name, &format!("it is no URL: {error}")))?;
        if !parsed.username().is_empty() || parsed.password().is_some() {
            let shown = name.split_once('@').map_or(name, |(_, rest)| rest);
            return Err(wrong(shown, "credentials do not belong into a URL that everybody can read"));
        }
        match parsed.scheme() {
            "https" => Ok(self.client.get(parsed)),
            "http" if self.plain_http => Ok(self.client.get(parsed)),
            "http" => Err(wrong(name, "it is not encrypted: anybody on the way could change it")),
            _ => Err(wrong(name, "only https:// and oci:// can be fetched")),
        }
    }

    /// The answer to a request, whatever its status.
    pub(super) async fn send(&self, name: &str, request: RequestBuilder) -> Result<Response, FetchError> {
        let failed = |error: reqwest::Error| FetchError::Unreachable {
            url: name.to_owned(),
            message: chain(&error.without_url()),
        };
        request.send().await.map_err(failed)
    }

    /// The body of a good answer.
    pub(super) async fn body(
        &self,
        name: &str,
        request: RequestBuilder,
        most: usize,
    ) -> Result<Vec<u8>, FetchError> {
        let response = self.send(name, request).await?;
        read(name, response, most).await
    }
}

/// The body of an answer, if it is a good one.
pub(super) async fn read(name: &str, mut response: Response, most: usize) -> Result<Vec<u8>, FetchError> {
    if !response.status().is_success() {
        let to = response.headers().get("location").and_then(|place| place.to_str().ok());
        let to = to.filter(|_| response.status().is_redirection());
        let to =
            to.map(|place| format!(" to {}, which is not followed", printable(place))).unwrap_or_default();
        let status = format!("{}{to}", response.status());
        return Err(FetchError::Status { url: name.to_owned(), status });
    }
    let too_large = || FetchError::TooLarge { url: name.to_owned(), most };
    let declared = response.content_length().unwrap_or_default();
    if usize::try_from(declared).map_or(true, |declared| declared > most) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let failed = |error: reqwest::Error| FetchError::Unreachable {
        url: name.to_owned(),
        message: chain(&error.without_url()),
    };
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if bytes.len().saturating_add(chunk.len()) > most {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

pub(super) fn wrong(url: &str, message: &str) -> FetchError {
    FetchError::Url { url: url.to_owned(), message: message.to_owned() }
}

fn trusting(authorities: &[u8]) -> Result<ClientConfig, FetchError> {
    let failed = |error: &dyn std::fmt::Display| FetchError::Tls(error.to_string());
    let extra = CertificateDer::pem_slice_iter(authorities).collect::<Result<Vec<_>, _>>();
    tls::trusting(extra.map_err(|error| failed(&error))?).map_err(|error| failed(&error))
}

/// What a server says, fit for a terminal.
fn printable(text: &str) -> String {
    text.chars().take(200).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}
