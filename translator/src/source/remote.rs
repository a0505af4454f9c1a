//! Git over HTTPS: the smart protocol, version 2, as far as one commit needs it.
//!
//! Two requests find the commit, a third brings it without its history: `ls-refs`, then `fetch` with `deepen 1`.
//! TLS is rustls with ring and the platform's trusted roots. The answer is hostile until its objects are hashed:
//! lengths, time and bytes are bounded, and a redirect never leaves the host.

mod packet;

use super::spec::Token;
use super::tls;
use super::{GitSpec, Limits, SourceError};
use git2::Oid;
use packet::{Packet, Packets, encode};
use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use rustls::ClientConfig;
use std::time::Duration;

/// Bytes of everything but the pack.
const MOST_TALK: u64 = 16 << 20;
const CONNECT_TIME: Duration = Duration::from_secs(15);
const MOST_REDIRECTS: usize = 3;

/// A commit as it came over the wire.
pub(super) struct Fetched {
    pub(super) url: String,
    pub(super) commit: Oid,
    pub(super) pack: Vec<u8>,
}

/// Fetches the objects of one commit.
pub(super) async fn fetch(spec: &GitSpec, limits: &Limits) -> Result<Fetched, SourceError> {
    let url = &spec.repository;
    let trusting = || tls::trusting(Vec::new()).map_err(|error| no_tls(url, &error));
    let tls = if url.starts_with("https:") { Some(trusting()?) } else { None };
    fetch_with(spec, limits, tls).await
}

/// Fetches with other trust than the platform's.
pub(super) async fn fetch_with(
    spec: &GitSpec,
    limits: &Limits,
    tls: Option<ClientConfig>,
) -> Result<Fetched, SourceError> {
    let work = async {
        let remote = Remote::greet(spec, client(&spec.repository, tls)?).await?;
        let commit = remote.find(spec).await?;
        let pack = remote.fetch(spec, commit, limits).await?;
        Ok(Fetched { url: spec.repository.clone(), commit, pack })
    };
    tokio::time::timeout(limits.fetch_time, work).await.unwrap_or_else(|_| {
        let message = format!("the repository did not come within {} seconds", limits.fetch_time.as_secs());
        Err(SourceError::remote(&spec.repository, message))
    })
}

fn no_tls(url: &str, error: &rustls::Error) -> SourceError {
    SourceError::remote(url, format!("cannot set up TLS: {error}"))
}

fn client(url: &str, own: Option<ClientConfig>) -> Result<Client, SourceError> {
    let builder = Client::builder().user_agent(AGENT).connect_timeout(CONNECT_TIME).redirect(Policy::custom(
        |attempt| {
            let Some(first) = attempt.previous().first() else { return attempt.stop() };
            let next = attempt.url();
            let same = first.host_str() == next.host_str()
                && (first.origin() == next.origin()
                    || (first.scheme() == "http" && next.scheme() == "https"));
            if same && attempt.previous().len() <= MOST_REDIRECTS { attempt.follow() } else { attempt.stop() }
        },
    ));
    let builder = if let Some(own) = own {
        builder.tls_backend_preconfigured(own)
    } else {
        // Without TLS there is nothing to verify, and no roots need to be found.
        let nobody = tls::distrusting().map_err(|error| no_tls(url, &error))?;
        builder.tls_backend_preconfigured(nobody)
    };
    builder.build().map_err(|error| SourceError::remote(url, chain(&error)))
}

const AGENT: &str = concat!("moorgate/", env!("CARGO_PKG_VERSION"));

/// An error of a request with its causes. The caller names the URL, without which the error should come.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        cause = error.source();
    }
    message
}

/// A repository that speaks version 2.
struct Remote {
    client: Client,
    /// The URL to post to, after redirects.
    service: Url,
    /// The URL for messages.
    name: String,
    token: Option<Token>,
}

impl Remote {
    async fn greet(spec: &GitSpec, client: Client) -> Result<Self, SourceError> {
        let name = spec.repository.clone();
        let fail = |message: String| SourceError::remote(&name, message);
        let base = format!("{}/info/refs", name.trim_end_matches('/'));
        let mut url = Url::parse(&base).map_err(|error| fail(format!("no URL: {error}")))?;
        url.set_query(Some("service=git-upload-pack"));
        let mut remote = Self { client, service: url.clone(), name: name.clone(), token: spec.token.clone() };
        let response = remote.send(remote.client.get(url)).await?;
        // Where a renamed repository was found, it is also fetched.
        let mut service = response.url().clone();
        let Some(path) =
            service.path().strip_suffix("/info/refs").map(|path| format!("{path}/git-upload-pack"))
        else {
            return Err(fail(format!("was redirected to {}, which is no git repository", service.path())));
        };
        service.set_path(&path);
        service.set_query(None);
        remote.service = service;
        remote.check_type(&response, "application/x-git-upload-pack-advertisement")?;
        remote.check_capabilities(Packets::new(response, &name, MOST_TALK)).await?;
        Ok(remote)
    }

    async fn check_capabilities(&self, mut packets: Packets) -> Result<(), SourceError> {
        let mut version = false;
        while let Some(packet) = packets.next().await? {
            let Packet::Data(line) = packet else { continue };
            let line = String::from_utf8_lossy(&line).trim_end().to_string();
            version |= line == "version 2";
            if line.strip_prefix("object-format=").is_some_and(|format| format != "sha1") {
                return Err(self.fail(format!("{line} is not supported: only SHA-1 repositories are")));
            }
            if let Some(message) = line.strip_prefix("ERR ") {
                return Err(self.fail(printable(message.as_bytes())));
            }
        }
        if version {
            return Ok(());
        }
        Err(SourceError::Remote {
            url: self.name.clone(),
            message: "the server does not speak version 2 of git's protocol".to_string(),
            help: Some("clone the repository (git clone --bare) and give the path".to_string()),
        })
    }

    fn fail(&self, message: impl Into<String>) -> SourceError {
        SourceError::remote(&self.name, message)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, SourceError> {
        let mut request = request.header("Git-Protocol", "version=2");
        if let Some(token) = &self.token {
            let (user, secret) = token.parts();
            request = request.basic_auth(user, Some(secret));
        }
        let response = request.send().await.map_err(|error| self.fail(chain(&error.without_url())))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let help = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Some("give a token that may read the repository")
            }
            StatusCode::NOT_FOUND => Some("check the URL; a private repository needs a token"),
            status if status.is_redirection() => Some("the server redirects to another host: give that URL"),
            _ => None,
        };
        let message = format!("the server answered {status}");
        Err(SourceError::Remote { url: self.name.clone(), message, help: help.map(str::to_string) })
    }

    fn check_type(&self, response: &Response, expected: &str) -> Result<(), SourceError> {
        let found =
            response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if found.split(';').next().is_some_and(|found| found.trim() == expected) {
            return Ok(());
        }
        Err(self.fail(format!(
            "no git repository is there: the answer is {:?}, not {expected}",
            printable(found.as_bytes())
        )))
    }

    /// Runs a command: its packets are sent, and the packets of the answer come back.
    async fn command(&self, command: &str, arguments: &[String], most: u64) -> Result<Packets, SourceError> {
        let head =
            [format!("command={command}\n"), format!("agent={AGENT}\n"), "object-format=sha1\n".to_string()];
        let mut body: Vec<u8> = head.iter().flat_map(|line| encode(line)).collect();
        body.extend_from_slice(b"0001");
        body.extend(arguments.iter().flat_map(|line| encode(line)));
        body.extend_from_slice(b"0000");
        let request = self.client.post(self.service.clone());
        let request = request
            .header(CONTENT_TYPE, "application/x-git-upload-pack-request")
            .header("Accept", "application/x-git-upload-pack-result")
            .body(body);
        let response = self.send(request).await?;
        self.check_type(&response, "application/x-git-upload-pack-result")?;
        Ok(Packets::new(response, &self.name, most))
    }

    /// The id of a revision. Tags come before branches, as in git.
    async fn find(&self, spec: &GitSpec) -> Result<Oid, SourceError> {
        let revision = spec.revision.as_str();
        if revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Oid::from_str(revision).map_err(|error| self.fail(error.message()));
        }
        let names: Vec<String> = if revision == "HEAD" || revision.starts_with("refs/") {
            vec![revision.to_string()]
        } else {
            vec![
                format!("refs/tags/{revision}"),
                format!("refs/heads/{revision}"),
                format!("refs/{revision}"),
            ]
        };
        let mut arguments = vec!["peel\n".to_string()];
        arguments.extend(names.iter().map(|name| format!("ref-prefix {name}\n")));
        let mut packets = self.command("ls-refs", &arguments, MOST_TALK).await?;
        let mut best: Option<(usize, Oid)> = None;
        while let Some(packet) = packets.next().await? {
            let Packet::Data(line) = packet else { break };
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut words = line.split_ascii_whitespace();
            let (Some(id), Some(name)) = (words.next(), words.next()) else { continue };
            // An annotated tag names a tag object; peeled it names the commit.
            let id = words.find_map(|word| word.strip_prefix("peeled:")).unwrap_or(id);
            let Some(rank) = names.iter().position(|wanted| wanted == name) else { continue };
            if best.is_none_or(|(found, _)| rank < found) {
                best = Some((rank, Oid::from_str(id).map_err(|error| self.fail(error.message()))?));
            }
        }
        best.map(|(_, id)| id).ok_or_else(|| self.unknown(revision, "no tag or branch has this name"))
    }

    fn unknown(&self, revision: &str, message: &str) -> SourceError {
        let abbreviated =
            (4..40).contains(&revision.len()) && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
        let help = if abbreviated { "a remote repository needs all 40 digits of a commit id" } else { "" };
        SourceError::Revision {
            repository: self.name.clone(),
            revision: revision.to_string(),
            message: message.to_string(),
            help: (!help.is_empty()).then(|| help.to_string()),
        }
    }

    /// The pack of one commit without its history.
    async fn fetch(&self, spec: &GitSpec, commit: Oid, limits: &Limits) -> Result<Vec<u8>, SourceError> {
        let arguments = ["no-progress\n", "ofs-delta\n", &format!("want {commit}\n"), "deepen 1\n", "done\n"];
        let arguments = arguments.map(str::to_string);
        // Each packet of at most 64 KiB has five bytes around the pack's.
        let most = limits.pack_bytes.saturating_add(limits.pack_bytes / 16).saturating_add(MOST_TALK);
        let mut packets = self.command("fetch", &arguments, most).await?;
        let mut pack = Vec::new();
        let mut inside = false;
        while let Some(packet) = packets.next().await? {
            let line = match packet {
                Packet::Data(line) => line,
                Packet::Delimiter => continue,
                Packet::Flush | Packet::End => break,
            };
            if let Some(message) = line.strip_prefix(b"ERR ") {
                let message = printable(message);
                let missing = message.contains("not our ref");
                return Err(if missing {
                    self.unknown(&spec.revision, &message)
                } else {
                    self.fail(message)
                });
            }
            if !inside {
                inside = line.starts_with(b"packfile");
                continue;
            }
            match line.split_first() {
                Some((1, data)) => pack.extend_from_slice(data),
                Some((2, _)) => {}
                Some((3, message)) => {
                    return Err(self.fail(format!("the server says: {}", printable(message))));
                }
                _ => return Err(self.fail("an unknown band in the answer")),
            }
            if u64::try_from(pack.len()).is_ok_and(|length| length > limits.pack_bytes) {
                let message = format!("the commit has more than {} packed bytes", limits.pack_bytes);
                return Err(SourceError::Remote {
                    url: self.name.clone(),
                    message,
                    help: Some("clone the repository and give the path".to_string()),
                });
            }
        }
        if inside { Ok(pack) } else { Err(self.fail("the answer holds no pack")) }
    }
}

/// What a server says, fit for a terminal.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim().chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
