//! What commands over a store have in common: the store, whom to trust, the key to sign with, and who acts.

use super::{Exit, Failure};
use crate::publish::{Meta, PublishError, Publisher};
use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use moorgate_snapshot::late::{Index, LateStore};
use moorgate_snapshot::reader::{ReadError, Reader};
use moorgate_snapshot::trust::chain::ChainError;
use moorgate_snapshot::{
    Anchor, Channel, FleetName, FleetStore, KeyError, KeyPair, PublicKey, Signer, Store, StoreError, Trust,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use time::OffsetDateTime;

/// Where releases lie and whose signatures count.
#[derive(Debug, Clone, Args)]
pub(super) struct StoreArgs {
    /// The store: file:///dir, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix; repeat for mirrors, to
    /// which the first is copied
    #[arg(long, value_name = "URL", env = "MOORGATE_STORE", value_delimiter = ',', required = true)]
    pub store: Vec<String>,
    /// Whom to trust: public keys in PEM, JSON with roles, fleets and channels, or a document of moorgate trust
    #[arg(long, value_name = "FILE", env = "MOORGATE_TRUST")]
    pub trust: Option<PathBuf>,
}

/// Who acts, and with which key.
#[derive(Debug, Clone, Args)]
pub(super) struct ActArgs {
    /// The key to sign with: file:PATH, env:NAME or exec:COMMAND
    #[arg(long, value_name = "KEY", env = "MOORGATE_KEY", hide_env_values = true)]
    pub key: KeySource,
    /// Who does this; the CI system's user if not given
    #[arg(long, value_name = "NAME", env = "MOORGATE_AUTHOR")]
    pub author: Option<String>,
    /// The CI run, as a URL; the CI system's if not given
    #[arg(long, value_name = "URL", env = "MOORGATE_RUN")]
    pub run: Option<String>,
    /// Who approved this
    #[arg(long, value_name = "NAME", default_value = "")]
    pub approver: String,
    /// Raise an alarm in relays that have seen nothing newer by then: 30m, 12h, 7d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub expires_in: Option<time::Duration>,
    /// Say what would be done, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Write behind entries that are signed by keys which the trust file does not know
    #[arg(long)]
    pub step_over: bool,
}

/// Text for people or JSON for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// For scripts.
    Json,
}

/// Where a private key comes from. Never holds the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeySource {
    /// A PEM file.
    File(PathBuf),
    /// An environment variable that holds the PEM.
    Env(String),
    /// A program that signs: `COMMAND public` prints the public key in PEM; `COMMAND sign` reads the message from stdin
    /// and prints the signature in base64.
    Exec(Vec<String>),
}

impl FromStr for KeySource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            Some(("exec", command)) if !command.trim().is_empty() => {
                Ok(Self::Exec(command.split_whitespace().map(str::to_owned).collect()))
            }
            // What was given may be the key itself: it is not repeated.
            _ => Err("write file:PATH, env:NAME or exec:COMMAND".to_owned()),
        }
    }
}

impl KeySource {
    /// The signer.
    pub(super) fn open(&self) -> Result<Box<dyn Signer>, Failure> {
        match self {
            Self::File(path) => {
                let pem = std::fs::read(path).with_context(|| path.display().to_string())?;
                warn_if_readable(path);
                Ok(Box::new(KeyPair::from_pem(&pem).with_context(|| path.display().to_string())?))
            }
            Self::Env(name) => {
                #[allow(
                    clippy::disallowed_methods,
                    reason = "the user names the variable that holds the key"
                )]
                let pem =
                    std::env::var(name).map_err(|_| anyhow!("the environment has no variable {name}"))?;
                Ok(Box::new(KeyPair::from_pem(pem.as_bytes()).with_context(|| format!("variable {name}"))?))
            }
            Self::Exec(command) => Ok(Box::new(Program::start(command)?)),
        }
    }
}

#[cfg(unix)]
fn warn_if_readable(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let open = std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0);
    if open {
        warn(&format!("{} can be read by others: chmod 600 it", path.display()));
    }
}

#[cfg(not(unix))]
fn warn_if_readable(_: &Path) {}

/// A program that keeps the key.
struct Program {
    command: Vec<String>,
    public: PublicKey,
}

impl Program {
    fn start(command: &[String]) -> Result<Self, Failure> {
        let printed = run(command, "public", b"").map_err(|error| anyhow!("key program: {error}"))?;
        let mut keys = PublicKey::all_from_pem(&printed).context("key program")?;
        match (keys.pop(), keys.is_empty()) {
            (Some(public), true) => Ok(Self { command: command.to_owned(), public }),
            _ => Err(anyhow!("key program: printed several public keys").into()),
        }
    }
}

impl Signer for Program {
    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let printed = run(&self.command, "sign", message).map_err(KeyError::Sign)?;
        let sig = STANDARD.decode(printed.trim_ascii());
        let sig = sig.map_err(|_| KeyError::Sign("the program printed no base64".to_owned()))?;
        if !self.public.verifies(message, &sig) {
            return Err(KeyError::Sign("the program's signature does not fit its public key".to_owned()));
        }
        Ok(sig)
    }
}

/// Runs the program with one more argument. No shell: the words are passed as they are.
fn run(command: &[String], verb: &str, input: &[u8]) -> Result<Vec<u8>, String> {
    let Some((program, args)) = command.split_first() else { return Err("no program".to_owned()) };
    let child = Command::new(program)
        .args(args)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn();
    let mut child = child.map_err(|error| format!("{program}: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input says so by its exit code.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(format!("{program} {verb}: {}", output.status))
    }
}

impl StoreArgs {
    /// Opens the store: the first one.
    pub(super) fn open(&self) -> Result<Store, Failure> {
        match self.store.first() {
            Some(url) => Store::open(url).map_err(|error| Failure::new(Exit::Usage, error)),
            None => Err(Failure::new(Exit::Usage, anyhow!("--store is missing"))),
        }
    }

    /// Opens the mirrors.
    pub(super) fn open_mirrors(&self) -> Result<Vec<Store>, Failure> {
        let open = |url: &String| Store::open(url).map_err(|error| Failure::new(Exit::Usage, error));
        self.store.iter().skip(1).map(open).collect()
    }

    /// Opens the first store that answers: for commands that only read.
    pub(super) async fn open_to_read(&self) -> Result<Store, Failure> {
        let first = self.open()?;
        if self.store.len() < 2 {
            return Ok(first);
        }
        for store in std::iter::once(first.clone()).chain(self.open_mirrors()?) {
            match store.answers().await {
                Ok(()) => return Ok(store),
                Err(error) => warn(&format!("{:#}", anyhow::Error::from(error))),
            }
        }
        // None does: the first says why.
        Ok(first)
    }

    /// Reads the trust file, if one is given.
    pub(super) fn anchor(&self) -> Result<Option<Anchor>, Failure> {
        let Some(path) = &self.trust else { return Ok(None) };
        let file = std::fs::read(path).with_context(|| path.display().to_string())?;
        Ok(Some(Anchor::parse(&file).with_context(|| path.display().to_string())?))
    }

    /// Whom to trust: the trust file, and what the store's chain says since if it starts one; without a file `own` only.
    /// A chain that does not go on as it should is a warning: what the file says still counts, as it does for relays.
    pub(super) async fn trust(&self, own: Option<&PublicKey>) -> Result<Arc<Trust>, Failure> {
        let anchor = match (self.anchor()?, own) {
            (Some(anchor), _) => anchor,
            (None, Some(own)) => return Ok(Arc::new(Trust::of([own.clone()]))),
            (None, None) => {
                let message = "whom to trust? give --trust FILE or MOORGATE_TRUST";
                return Err(Failure::new(Exit::Usage, anyhow!(message)));
            }
        };
        let followed = anchor.follow(&self.open_to_read().await?).await;
        match followed.error {
            Some(ChainError::Store(error)) => return Err(store_failure(error)),
            Some(error) => warn(&format!("{:#}", anyhow!(error))),
            None => {}
        }
        Ok(followed.anchor.trust())
    }

    /// A reader of one channel, in the first store that answers.
    pub(super) async fn reader(&self, fleet: &FleetName, channel: &Channel) -> Result<Reader, Failure> {
        let store = self.open_to_read().await?;
        Ok(Reader::new(store.fleet(fleet), self.trust(None).await?, channel.clone()))
    }
}

/// Everything to act with, opened once.
pub(super) struct Actor {
    store: Store,
    mirrors: Vec<Store>,
    trust: Arc<Trust>,
    signer: Box<dyn Signer>,
    act: ActArgs,
}

impl Actor {
    /// Opens store, trust and key.
    pub(super) async fn open(store: &StoreArgs, act: &ActArgs) -> Result<Self, Failure> {
        let signer = act.key.open()?;
        let trust = store.trust(Some(signer.public())).await?;
        Ok(Self { store: store.open()?, mirrors: store.open_mirrors()?, trust, signer, act: act.clone() })
    }

    /// The store.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// The fleet's part of the store.
    pub(super) fn place(&self, fleet: &FleetName) -> FleetStore {
        self.store.fleet(fleet)
    }

    /// Whom to trust.
    pub(super) fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Who signs.
    pub(super) fn signer(&self) -> &dyn Signer {
        &*self.signer
    }

    /// Who acts.
    pub(super) fn author(&self) -> String {
        self.act.author.clone().unwrap_or_else(ci_author)
    }

    /// Copies late values to the mirrors. One that fails is told, and brought up to date by the next change.
    pub(super) async fn mirror_late(&self, late: &LateStore<'_>, index: &Index) {
        for mirror in &self.mirrors {
            if let Err(error) = late.copy_to(index, &mirror.fleet(&index.fleet)).await {
                warn(&format!("a mirror was not written: {:#}", anyhow::Error::from(error)));
            }
        }
    }

    /// A reader of one channel.
    pub(super) fn reader(&self, fleet: &FleetName, channel: &Channel) -> Reader {
        Reader::new(self.store.fleet(fleet), self.trust.clone(), channel.clone())
    }

    /// A publisher for one entry.
    pub(super) fn publisher(
        &self,
        fleet: &FleetName,
        channel: &Channel,
        reason: &str,
    ) -> Result<Publisher<'_>, Failure> {
        let time = now();
        let meta = Meta {
            author: self.act.author.clone().unwrap_or_else(ci_author),
            run: self.act.run.clone().unwrap_or_else(ci_run),
            approver: self.act.approver.clone(),
            reason: reason.to_owned(),
            time,
            expires: self.act.expires_in.map(|after| time + after),
            nonce: nonce()?,
        };
        let (dry_run, step_over) = (self.act.dry_run, self.act.step_over);
        let mirrors = self.mirrors.iter().map(|store| store.fleet(fleet)).collect();
        let reader = self.reader(fleet, channel);
        Ok(Publisher { reader, signer: &*self.signer, meta, dry_run, step_over, mirrors })
    }
}

/// The time, in whole seconds. It goes into entries and is never part of a snapshot.
pub(super) fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(0).unwrap_or(now)
}

/// 16 random bytes in hexadecimal.
pub(super) fn nonce() -> Result<String, Failure> {
    let bytes: [u8; 16] = random()?;
    Ok(bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
}

/// Random bytes from the system.
pub(super) fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow!("the system gives no random bytes"))?;
    Ok(bytes)
}

fn env(name: &str) -> Option<String> {
    #[allow(
        clippy::disallowed_methods,
        reason = "who acts is told by the CI system, and goes into the entry only"
    )]
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn ci_author() -> String {
    let names = ["GITHUB_ACTOR", "GITLAB_USER_LOGIN", "BUILD_USER_ID", "USER"];
    names.into_iter().find_map(env).unwrap_or_else(|| "unknown".to_owned())
}

fn ci_run() -> String {
    let github = || {
        let [server, repository, run] = ["GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID"].map(env);
        Some(format!("{}/{}/actions/runs/{}", server?, repository?, run?))
    };
    github().or_else(|| env("CI_JOB_URL")).or_else(|| env("BUILD_URL")).unwrap_or_default()
}

/// Reads `90s`, `30m`, `12h`, `7d`.
pub(super) fn duration(text: &str) -> Result<time::Duration, String> {
    let error = || "write a number and s, m, h or d, such as 12h".to_owned();
    let unit = text.chars().last().ok_or_else(error)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(error()),
    };
    let number: u32 = text.strip_suffix(unit).and_then(|number| number.parse().ok()).ok_or_else(error)?;
    Ok(time::Duration::seconds(i64::from(number) * seconds))
}

/// RFC 3339 UTC.
pub(super) fn timestamp(time: OffsetDateTime) -> String {
    time.to_offset(time::UtcOffset::UTC)
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_else(|_| time.unix_timestamp().to_string())
}

/// Says something on stderr that does not end the command.
pub(super) fn warn(message: &str) {
    let _ = writeln!(anstream::stderr(), "warning: {message}");
}

/// The exit code of a read that failed.
pub(super) fn read_failure(error: ReadError) -> Failure {
    let exit = if error.is_integrity() { Exit::Integrity } else { Exit::Environment };
    Failure::new(exit, error)
}

/// The exit code of an act that failed.
pub(super) fn failure(error: PublishError) -> Failure {
    match error {
        PublishError::Read(error) => read_failure(error),
        error @ (PublishError::Refused(_) | PublishError::NotTrusted(_)) => {
            Failure::new(Exit::Refused, error)
        }
        error @ PublishError::ReadBack(_) => Failure::new(Exit::Integrity, error),
        error => Failure::new(Exit::Environment, error),
    }
}

/// The exit code of a store that failed.
pub(super) fn store_failure(error: StoreError) -> Failure {
    read_failure(ReadError::Store(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_by_where_they_lie() {
        assert_eq!("file:a/b".parse(), Ok(KeySource::File("a/b".into())));
        assert_eq!("env:KEY".parse(), Ok(KeySource::Env("KEY".into())));
        assert_eq!(
            "exec:kms --key 1".parse(),
            Ok(KeySource::Exec(["kms", "--key", "1"].map(str::to_owned).into()))
        );
        let secret = "-----BEGIN PRIVATE KEY-----:x";
        assert!(!secret.parse::<KeySource>().unwrap_err().contains("BEGIN"));
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("12h"), Ok(time::Duration::hours(12)));
        for text in ["", "12", "h", "-1h", "1w", "1.5h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_program_signs_and_is_not_believed_blindly() {
        use std::os::unix::fs::PermissionsExt as _;
        let (pair, _) = KeyPair::generate(&[3; 32]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let message = b"message";
        let sig = STANDARD.encode(pair.sign(message).unwrap());
        let script = format!(
            "#!/bin/sh\nif [ \"$1\" = public ]; then echo '{}'; else cat > /dev/null; echo {sig}; fi\n",
            pair.public().to_pem().trim_end()
        );
        let path = dir.path().join("kms");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        let Ok(signer) = KeySource::Exec(vec![path.display().to_string()]).open() else {
            panic!("not opened")
        };
        assert_eq!(signer.public(), pair.public());
        assert_eq!(signer.sign(message).unwrap(), pair.sign(message).unwrap());
        assert!(matches!(signer.sign(b"another"), Err(KeyError::Sign(_))));
        assert!(KeySource::Exec(vec!["/nonexistent".to_owned()]).open().is_err());
    }
}
