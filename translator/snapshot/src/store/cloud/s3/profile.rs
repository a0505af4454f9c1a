//! Profiles in the files of the AWS tools, which `object_store` does not read: keys, web identities, region, endpoint.

use crate::store::Settings;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

/// Such a file is never larger, in bytes.
const LARGEST: u64 = 1 << 20;

/// What a profile may say, and the variable that says the same.
const KEYS: [(&str, &str); 8] = [
    ("aws_access_key_id", "AWS_ACCESS_KEY_ID"),
    ("aws_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("aws_session_token", "AWS_SESSION_TOKEN"),
    ("region", "AWS_REGION"),
    ("endpoint_url", "AWS_ENDPOINT_URL"),
    ("role_arn", "AWS_ROLE_ARN"),
    ("role_session_name", "AWS_ROLE_SESSION_NAME"),
    ("web_identity_token_file", "AWS_WEB_IDENTITY_TOKEN_FILE"),
];

/// Where the environment says who one is, so that a default profile is not asked.
const IDENTITIES: [&str; 4] = [
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
];

/// Signing in that needs the AWS command line.
const NEEDS_CLI: [&str; 5] =
    ["sso_session", "sso_start_url", "credential_process", "source_profile", "credential_source"];

/// A profile. Its values may be secrets.
#[derive(Default)]
pub(super) struct Profile {
    values: BTreeMap<String, String>,
}

impl Profile {
    /// The profile that `AWS_PROFILE` names, or the default one.
    pub(super) fn read(settings: &Settings) -> Result<Self, String> {
        let named = settings.first(&["AWS_PROFILE", "AWS_DEFAULT_PROFILE"]);
        let Some(values) = find(settings, named.unwrap_or("default"))? else {
            return match named {
                Some(name) => Err(format!("AWS profile {name:?} is in neither file of the AWS tools")),
                None => Ok(Self::default()),
            };
        };
        if named.is_none() && settings.first(&IDENTITIES).is_some() {
            return Ok(Self { values }.without_identity());
        }
        let has = |key: &str| values.contains_key(key);
        let usable = has("aws_access_key_id") || has("web_identity_token_file");
        if let Some(key) = NEEDS_CLI.into_iter().find(|key| !usable && has(key)) {
            let name = named.unwrap_or("default");
            return Err(format!(
                "AWS profile {name:?} signs in by {key}, which the AWS command line has to do: \
                 eval \"$(aws configure export-credentials --profile {name} --format env)\""
            ));
        }
        Ok(Self { values })
    }

    /// Region and endpoint only, when the keys come from the environment. Files that cannot be read do not matter then.
    pub(super) fn region_of(settings: &Settings) -> Self {
        let name = settings.first(&["AWS_PROFILE", "AWS_DEFAULT_PROFILE"]).unwrap_or("default");
        let values = find(settings, name).ok().flatten().unwrap_or_default();
        Self { values }.without_identity()
    }

    fn without_identity(mut self) -> Self {
        self.values.retain(|key, _| matches!(key.as_str(), "region" | "endpoint_url"));
        self
    }

    /// The profile as variables.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&'static str, &str)> {
        KEYS.iter().filter_map(|(key, name)| self.values.get(*key).map(|value| (*name, value.as_str())))
    }
}

/// A profile of both files; what the file of credentials says goes first.
fn find(settings: &Settings, name: &str) -> Result<Option<BTreeMap<String, String>>, String> {
    let config = settings.file("AWS_CONFIG_FILE", ".aws/config");
    let credentials = settings.file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials");
    let in_config = if name == "default" { name.to_owned() } else { format!("profile {name}") };
    let mut found = None;
    for (path, section) in [(config, in_config.as_str()), (credentials, name)] {
        let Some(text) = path.map(|path| read_file(&path)).transpose()?.flatten() else { continue };
        if let Some(values) = section_of(&text, section) {
            found.get_or_insert_with(BTreeMap::new).extend(values);
        }
    }
    Ok(found)
}

/// A file's text; none if there is no such file. Errors never show what is in it.
fn read_file(path: &Path) -> Result<Option<String>, String> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let mut text = String::new();
    let read = file.take(LARGEST + 1).read_to_string(&mut text);
    match read {
        Ok(read) if read as u64 <= LARGEST => Ok(Some(text)),
        Ok(_) => Err(format!("{}: too large", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// The keys of a section; of several with one name, all.
fn section_of(text: &str, section: &str) -> Option<BTreeMap<String, String>> {
    let mut found = None;
    let mut inside = false;
    for line in text.lines() {
        // Indented lines belong to a nested setting, of which none is read.
        if line.starts_with([' ', '\t', '#', ';']) {
            continue;
        }
        let line = line.trim();
        if let Some(rest) = line.strip_prefix('[') {
            let name = rest.split(']').next().unwrap_or_default();
            inside = name.split_whitespace().eq(section.split_whitespace());
            if inside {
                found.get_or_insert_with(BTreeMap::new);
            }
        } else if let (true, Some((key, value))) = (inside, line.split_once('=')) {
            let (key, value) = (key.trim().to_ascii_lowercase(), value.trim().to_owned());
            found.get_or_insert_with(BTreeMap::new).insert(key, value);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "# mine\n[default]\nregion = eu-west-1\ns3 =\n  max_concurrent_requests = 20\n\n[profile ci]\n\
                          region=us-east-2\nendpoint_url = https://minio.example.com\n[profile sso]\nsso_session = corp\n\
                          [profile irsa]\nrole_arn = arn:aws:iam::1:role/r\nweb_identity_token_file = /token\n";
    const CREDENTIALS: &str = "[default]\naws_access_key_id = id\naws_secret_access_key = hunter2\n[ci]\n\
                               aws_access_key_id=ci\naws_secret_access_key=hunter3\n";

    fn home(more: &[(&str, &str)]) -> (tempfile::TempDir, Settings) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".aws")).unwrap();
        std::fs::write(dir.path().join(".aws/config"), CONFIG).unwrap();
        std::fs::write(dir.path().join(".aws/credentials"), CREDENTIALS).unwrap();
        let home = dir.path().to_str().unwrap().to_owned();
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings = Settings::of(more.chain([("HOME".to_owned(), home)]));
        (dir, settings)
    }

    fn read(more: &[(&str, &str)]) -> Result<Vec<(&'static str, String)>, String> {
        let (_dir, settings) = home(more);
        let profile = Profile::read(&settings)?;
        Ok(profile.variables().map(|(name, value)| (name, value.to_owned())).collect())
    }

    #[test]
    fn a_profile_is_that_of_both_files() {
        let expect = |pairs: &[(&'static str, &str)]| {
            Ok(pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect::<Vec<_>>())
        };
        let default =
            [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "hunter2"), ("AWS_REGION", "eu-west-1")];
        assert_eq!(read(&[]), expect(&default));
        let ci = [
            ("AWS_ACCESS_KEY_ID", "ci"),
            ("AWS_SECRET_ACCESS_KEY", "hunter3"),
            ("AWS_REGION", "us-east-2"),
            ("AWS_ENDPOINT_URL", "https://minio.example.com"),
        ];
        assert_eq!(read(&[("AWS_PROFILE", "ci")]), expect(&ci));
        let irsa = [("AWS_ROLE_ARN", "arn:aws:iam::1:role/r"), ("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")];
        assert_eq!(read(&[("AWS_PROFILE", "irsa")]), expect(&irsa));
        // A pod's identity goes before the default profile.
        assert_eq!(read(&[("AWS_WEB_IDENTITY_TOKEN_FILE", "/t")]), expect(&[("AWS_REGION", "eu-west-1")]));
    }

    #[test]
    fn what_cannot_be_carried_out_says_what_to_do() {
        let error = read(&[("AWS_PROFILE", "sso")]).unwrap_err();
        assert!(error.contains("aws configure export-credentials --profile sso"), "{error}");
        assert!(read(&[("AWS_PROFILE", "none")]).unwrap_err().contains("neither file"));
        let (_dir, settings) = home(&[("AWS_SHARED_CREDENTIALS_FILE", "/"), ("AWS_PROFILE", "ci")]);
        assert!(Profile::read(&settings).is_err());
        assert_eq!(Profile::region_of(&settings).variables().count(), 0);
    }
}
