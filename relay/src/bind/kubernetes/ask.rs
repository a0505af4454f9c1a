//! Requests to the API server, and what their failures mean.

use crate::roster::Passes;
use futures::{Stream, StreamExt as _};
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::core::WatchEvent;
use kube::{Client, Config, Error};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// A connection that is not made by then is given up.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection that is silent for so long is dead: API servers send bookmarks about once a minute.
const SILENCE: Duration = Duration::from_secs(100);
/// The longest words of an API server that are repeated, in characters.
const WORDS: usize = 300;
/// A list of more than is kept is not asked for again soon.
const CROWDED: Duration = Duration::from_mins(5);
/// The longest that an API server may send a client away.
const LONGEST_AWAY: Duration = Duration::from_mins(1);

/// An API server that cannot be found.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The kubeconfig.
    #[error("{path}: {reason}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// What a pod gets from its ServiceAccount is not there.
    #[error("no API server of a cluster that this is a pod of: {0}; outside of pods give a --kubeconfig")]
    Pod(String),
    /// The client cannot be made of it.
    #[error("no client for the API server: {0}")]
    Client(String),
}

/// How fast failures are followed by new tries, and how long a watch lasts.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The wait after the first failure.
    pub base: Duration,
    /// The longest wait.
    pub cap: Duration,
    /// How long one watch lasts, give or take a fifth.
    pub watch: Duration,
    /// How often objects are asked for that are too many to be watched.
    pub poll: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(250),
            cap: Duration::from_secs(20),
            watch: Duration::from_mins(4),
            poll: Duration::from_secs(30),
        }
    }
}

/// A client of an API server.
#[derive(Clone)]
pub struct Api {
    client: Client,
    /// Whose token is shown, if it is not the relay's own.
    passes: Option<Passes>,
    /// Its pace.
    pub pace: Pace,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Api")
    }
}

/// Why a request came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The version that was to be gone on from is forgotten.
    Expired,
    /// No such object, or no such kind.
    Missing,
    /// Not allowed.
    Refused(String),
    /// Come back later.
    Busy(Option<Duration>),
    /// More than is kept.
    Crowded,
    /// Network or server.
    Failed(String),
    /// The answer is none.
    Garbage,
}

impl Fault {
    /// A stable word for metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Missing => "missing",
            Self::Refused(_) => "refused",
            Self::Busy(_) => "busy",
            Self::Crowded => "crowded",
            Self::Failed(_) => "failed",
            Self::Garbage => "garbage",
        }
    }
}

impl Fault {
    /// The least wait before the next try.
    pub(super) fn least(&self) -> Duration {
        match self {
            Self::Busy(Some(after)) => *after,
            Self::Crowded => CROWDED,
            _ => Duration::ZERO,
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Expired => f.write_str("the API server has forgotten the version that was seen last"),
            Self::Missing => f.write_str("the API server has no such thing"),
            Self::Refused(text) => write!(f, "the API server refuses: {text}"),
            Self::Busy(_) => f.write_str("the API server has too much to do"),
            Self::Crowded => f.write_str("more endpoints in one namespace than are kept"),
            Self::Failed(text) => write!(f, "the API server does not answer: {text}"),
            Self::Garbage => f.write_str("the API server's answer cannot be read"),
        }
    }
}

impl Api {
    /// The API server of a kubeconfig's present context, or that of the cluster that this is a pod of. Nothing is asked
    /// yet: it may be down.
    pub async fn connect(kubeconfig: Option<&Path>) -> Result<Self, ConnectError> {
        Self::of(config(kubeconfig).await?)
    }

    /// The same without any credentials: each fleet shows the token of its own Envoys ([`Self::with`]).
    pub async fn without_credentials(kubeconfig: Option<&Path>) -> Result<Self, ConnectError> {
        let mut config = config(kubeconfig).await?;
        config.auth_info = AuthInfo::default();
        Self::of(config)
    }

    /// The same server, asked with the token that is the newest of these at the moment; until there is one, questions wait.
    #[must_use]
    pub fn with(&self, passes: Passes) -> Self {
        Self { passes: Some(passes), ..self.clone() }
    }

    fn of(mut config: Config) -> Result<Self, ConnectError> {
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(SILENCE);
        config.default_retry = false;
        let client = Client::try_from(config).map_err(|error| ConnectError::Client(error.to_string()))?;
        Ok(Self { client, passes: None, pace: Pace::default() })
    }

    /// The request, by whom it is to be asked.
    async fn signed(
        &self,
        request: Result<Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Request<Vec<u8>>, Fault> {
        let mut request = request.map_err(|_| Fault::Missing)?;
        if let Some(mut passes) = self.passes.clone() {
            let pass = passes.wait_for(Option::is_some).await;
            let token = pass.ok().and_then(|pass| pass.as_ref().map(|pass| format!("Bearer {}", pass.token)));
            let no_credentials = || Fault::Refused("no credentials".to_owned());
            let token = token.ok_or_else(no_credentials)?;
            let mut value = HeaderValue::try_from(token).map_err(|_| no_credentials())?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }

    /// The keys by which this cluster's tokens are judged, as a JSON Web Key Set.
    ///
    /// # Errors
    /// It does not tell, in its own words.
    pub async fn token_keys(&self) -> Result<String, String> {
        let request = Request::get("/openid/v1/jwks").header("accept", "application/jwk-set+json");
        let request = request.body(Vec::new()).map_err(|error| error.to_string())?;
        self.client.request_text(request).await.map_err(|error| fault(&error).to_string())
    }

    /// Asks for one document.
    pub(super) async fn one<T: DeserializeOwned>(
        &self,
        request: Result<Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, Fault> {
        let request = self.signed(request).await?;
        let answer = tokio::time::timeout(SILENCE, self.client.request(request)).await;
        answer.unwrap_or_else(|_| Err(silent())).map_err(|error| fault(&error))
    }

    /// Opens a watch.
    pub(super) async fn watch(
        &self,
        request: Result<Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<impl Stream<Item = Result<WatchEvent<Value>, Fault>> + use<>, Fault> {
        let request = self.signed(request).await?;
        let opened = tokio::time::timeout(SILENCE, self.client.request_events(request)).await;
        let events = opened.unwrap_or_else(|_| Err(silent())).map_err(|error| fault(&error))?;
        Ok(events.map(|event| event.map_err(|error| fault(&error))))
    }
}

async fn config(kubeconfig: Option<&Path>) -> Result<Config, ConnectError> {
    match kubeconfig {
        Some(path) => from_file(path).await,
        None => Config::incluster().map_err(|error| ConnectError::Pod(error.to_string())),
    }
}

async fn from_file(path: &Path) -> Result<Config, ConnectError> {
    let error = |reason: String| ConnectError::Kubeconfig { path: path.to_owned(), reason };
    let file = Kubeconfig::read_from(path).map_err(|cause| error(cause.to_string()))?;
    let options = KubeConfigOptions::default();
    Config::from_custom_kubeconfig(file, &options).await.map_err(|cause| error(cause.to_string()))
}

fn silent() -> Error {
    Error::ReadEvents(std::io::ErrorKind::TimedOut.into())
}

/// What an error means. Words of the client that may repeat a document are not kept: it may hold a secret.
fn fault(error: &Error) -> Fault {
    match error {
        Error::Api(status) => status_fault(status),
        Error::SerdeError(_) | Error::FromUtf8(_) | Error::LinesCodecMaxLineLengthExceeded => Fault::Garbage,
        Error::Service(cause) => Fault::Failed(words(&chain(cause.as_ref()))),
        Error::HyperError(cause) => Fault::Failed(words(&chain(cause))),
        Error::ReadEvents(cause) => Fault::Failed(words(&chain(cause))),
        Error::Auth(_) => Fault::Refused("no credentials".to_owned()),
        _ => Fault::Failed("the request cannot be sent".to_owned()),
    }
}

pub(super) fn status_fault(status: &kube::core::Status) -> Fault {
    match status.code {
        401 | 403 => Fault::Refused(words(&status.message)),
        404 => Fault::Missing,
        410 => Fault::Expired,
        429 => {
            let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
            let after = Duration::from_secs(seconds.into()).min(LONGEST_AWAY);
            Fault::Busy(Some(after).filter(|after| !after.is_zero()))
        }
        code => Fault::Failed(words(&format!("{code} {}", status.message))),
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// On one line, and cut.
fn words(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ").chars().take(WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    #[test]
    fn faults_are_told_apart_and_say_little() {
        let of = |code: u16| status_fault(&Status::failure("no\nway", "").with_code(code));
        assert_eq!(of(403), Fault::Refused("no way".into()));
        assert_eq!(of(401).label(), "refused");
        assert_eq!(of(404), Fault::Missing);
        assert_eq!(of(410), Fault::Expired);
        assert_eq!(of(429), Fault::Busy(None));
        assert_eq!(of(503), Fault::Failed("503 no way".into()));
        let secret = serde_json::from_str::<u8>(r#""hunter2""#).unwrap_err();
        let garbage = fault(&Error::SerdeError(secret));
        assert!(garbage == Fault::Garbage && !garbage.to_string().contains("hunter2"));
        assert_eq!(words(&"ä ".repeat(1000)).chars().count(), WORDS);
    }
}
