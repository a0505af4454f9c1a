//! What the user asked to read.

use super::SourceError;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A source, as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSpec {
    /// A folder or file.
    Path(PathBuf),
    /// Standard input.
    Stdin,
    /// A git repository at a revision.
    Git(GitSpec),
}

/// A git repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitSpec {
    /// A path, or a URL without credentials.
    pub repository: String,
    /// A commit, also abbreviated in local repositories, a tag or a branch.
    pub revision: String,
    /// The folder to read, relative to the root of the repository with `/` between; empty for all of it.
    pub folder: String,
    /// What a remote repository asks for.
    pub token: Option<Token>,
    /// True if `http://` is allowed for hosts other than this machine.
    pub plain_http: bool,
}

/// A user name and password or token for HTTP basic authentication. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    user: Arc<str>,
    secret: Arc<str>,
}

impl Token {
    /// A token; most forges take any user name beside it.
    pub fn new(secret: &str) -> Self {
        Self::with_user("x-access-token", secret)
    }

    /// A user name with its password or token.
    pub fn with_user(user: &str, secret: &str) -> Self {
        Self { user: user.into(), secret: secret.into() }
    }

    pub(super) fn parts(&self) -> (&str, &str) {
        (&self.user, &self.secret)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl SourceSpec {
    /// A source from its argument, `--rev` and `--path`. With a revision the argument names a git repository.
    ///
    /// # Errors
    /// [`SourceError::Usage`] if the three do not go together.
    pub fn parse(argument: &str, revision: Option<&str>, folder: Option<&str>) -> Result<Self, SourceError> {
        let usage = |message: String| Err(SourceError::Usage(message));
        if argument.is_empty() {
            return usage("the source is empty".to_string());
        }
        let Some(revision) = revision else {
            if folder.is_some() {
                return usage("--path names a folder of a git revision: give --rev too".to_string());
            }
            if argument == "-" {
                return Ok(Self::Stdin);
            }
            if is_url(argument) || is_scp(argument) {
                let (url, _) = split_credentials(argument);
                return usage(format!("{url} is a git repository: say which revision with --rev"));
            }
            return Ok(Self::Path(PathBuf::from(argument)));
        };
        if argument == "-" {
            return usage("standard input has no revisions".to_string());
        }
        if revision.is_empty()
            || revision.starts_with([':', '-'])
            || revision.contains("..")
            || revision.contains('\0')
        {
            return usage(format!("{revision:?} names no commit"));
        }
        let (repository, token) = split_credentials(argument);
        let folder = clean_folder(folder.unwrap_or_default())?;
        let spec = GitSpec { repository, revision: revision.to_string(), folder, token, plain_http: false };
        spec.is_remote()?;
        Ok(Self::Git(spec))
    }

    /// The source with credentials for its remote repository; those of its URL win.
    #[must_use]
    pub fn with_token(mut self, token: Option<Token>) -> Self {
        if let Self::Git(git) = &mut self
            && git.token.is_none()
        {
            git.token = token;
        }
        self
    }

    /// How messages and names of files call the source.
    pub(super) fn label(&self) -> String {
        match self {
            Self::Stdin => "-".to_string(),
            Self::Path(path) => path.to_string_lossy().trim_end_matches('/').to_string(),
            Self::Git(GitSpec { repository, revision, folder, .. }) if folder.is_empty() => {
                format!("{repository}@{revision}")
            }
            Self::Git(GitSpec { repository, revision, folder, .. }) => {
                format!("{repository}@{revision}/{folder}")
            }
        }
    }
}

impl GitSpec {
    /// True if it is read through HTTP.
    pub(super) fn is_remote(&self) -> Result<bool, SourceError> {
        let scheme = self.repository.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            None if is_scp(&self.repository) => Err(no_ssh(&self.repository)),
            None | Some("file") => Ok(false),
            Some("https") => Ok(true),
            Some("http") if self.plain_http || is_this_machine(&self.repository) => Ok(true),
            Some("http") => {
                Err(SourceError::Usage(format!("{} is not encrypted: use https", self.repository)))
            }
            Some("ssh" | "git+ssh" | "ssh+git") => Err(no_ssh(&self.repository)),
            Some(scheme) => Err(SourceError::Usage(format!(
                "cannot read git over {scheme}: use https, or clone it and give the path"
            ))),
        }
    }

    /// The path of a local repository.
    pub(super) fn local_path(&self) -> PathBuf {
        PathBuf::from(self.repository.strip_prefix("file://").unwrap_or(&self.repository))
    }
}

fn no_ssh(repository: &str) -> SourceError {
    SourceError::Usage(format!(
        "cannot read {repository} over ssh: use its https URL, or clone it (git clone --bare) and give the path"
    ))
}

fn is_url(text: &str) -> bool {
    text.split_once("://")
        .is_some_and(|(scheme, _)| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+'))
}

/// `user@host:path`, which git takes for ssh.
fn is_scp(text: &str) -> bool {
    !text.contains("://")
        && text.split_once(':').is_some_and(|(host, _)| host.contains('@') && !host.contains('/'))
}

fn is_this_machine(url: &str) -> bool {
    let parsed = reqwest::Url::parse(url).ok();
    parsed
        .as_ref()
        .and_then(reqwest::Url::host_str)
        .is_some_and(|host| matches!(host, "localhost" | "127.0.0.1" | "[::1]"))
}

/// A URL without its user name and password, and these.
fn split_credentials(argument: &str) -> (String, Option<Token>) {
    let (Some((scheme, _)), Ok(mut url)) = (argument.split_once("://"), reqwest::Url::parse(argument)) else {
        return (argument.to_string(), None);
    };
    if !matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https")
        || (url.username().is_empty() && url.password().is_none())
    {
        return (argument.to_string(), None);
    }
    let (user, password) = (unescape(url.username()), unescape(url.password().unwrap_or_default()));
    // Neither can fail for http and https.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    // `https://TOKEN@host/` is as common as `https://user:TOKEN@host/`.
    let token =
        if password.is_empty() { Token::with_user(&user, &user) } else { Token::with_user(&user, &password) };
    (url.to_string(), Some(token))
}

/// A URL for records and messages.
pub(super) fn without_credentials(url: &str) -> String {
    split_credentials(url).0
}

/// Percent escapes of a URL's user part.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'%').then(|| tail.get(..2)).flatten();
        let code = code
            .and_then(|code| std::str::from_utf8(code).ok())
            .and_then(|code| u8::from_str_radix(code, 16).ok());
        rest = if code.is_some() { &tail[2..] } else { tail };
        out.push(code.unwrap_or(*first));
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A folder within a repository: relative, `/` between, without ways out of it.
fn clean_folder(folder: &str) -> Result<String, SourceError> {
    let drive = folder.as_bytes().get(1) == Some(&b':');
    let parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let escapes = parts.iter().any(|part| *part == ".." || part.to_ascii_lowercase().contains("%2e"));
    if folder.starts_with('/') || folder.contains(['\\', '\0']) || drive || escapes {
        return Err(SourceError::Usage(format!("--path {folder:?} is not a folder within the repository")));
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(argument: &str) -> Result<GitSpec, SourceError> {
        match SourceSpec::parse(argument, Some("main"), None)? {
            SourceSpec::Git(git) => Ok(git),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arguments_say_what_is_read() {
        assert_eq!(SourceSpec::parse("-", None, None).unwrap(), SourceSpec::Stdin);
        assert_eq!(SourceSpec::parse("a/b:c", None, None).unwrap(), SourceSpec::Path("a/b:c".into()));
        assert!(git("https://host/x.git").unwrap().is_remote().unwrap());
        assert!(!git("../x").unwrap().is_remote().unwrap());
        assert_eq!(git("file:///x/y").unwrap().local_path(), PathBuf::from("/x/y"));
        assert!(git("http://127.0.0.1:80/x").unwrap().is_remote().unwrap());
        for (argument, revision, folder) in [
            ("https://host/x.git", None, None),
            ("git@host:x/y.git", None, None),
            ("git@host:x/y.git", Some("main"), None),
            ("ssh://host/x", Some("main"), None),
            ("git://host/x", Some("main"), None),
            ("http://host/x", Some("main"), None),
            ("-", Some("main"), None),
            ("x", None, Some("folder")),
            ("x", Some(""), None),
            ("x", Some(":/text"), None),
            ("x", Some("a..b"), None),
            ("", None, None),
        ] {
            let error = SourceSpec::parse(argument, revision, folder).unwrap_err();
            assert!(error.is_usage(), "{error}");
        }
        assert!(git("git@host:x").unwrap_err().to_string().contains("https"));
    }

    #[test]
    fn row_17_folders_cannot_leave_the_repository() {
        for folder in ["../x", "a/../../x", "/etc", "a\\b", "C:/x", "a/%2e%2e/b", "%2E%2E"] {
            assert!(SourceSpec::parse("x", Some("main"), Some(folder)).is_err(), "{folder}");
        }
        let spec = SourceSpec::parse("x", Some("main"), Some("./a//b/")).unwrap();
        assert_eq!(spec.label(), "x@main/a/b");
    }

    #[test]
    fn credentials_never_show() {
        let spec = SourceSpec::parse("https://me:s3cr%2Ft@host/x.git", Some("main"), None).unwrap();
        assert!(!format!("{spec:?} {}", spec.label()).contains("s3cr"));
        let SourceSpec::Git(git) = spec else { panic!() };
        assert_eq!(git.repository, "https://host/x.git");
        assert_eq!(git.token.unwrap().parts(), ("me", "s3cr/t"));
        let missing = SourceSpec::parse("https://tok3n@host/x.git", None, None).unwrap_err();
        assert!(!missing.to_string().contains("tok3n"));
    }
}
