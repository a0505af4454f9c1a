//! `moorgate inputs`

use super::access::{Format, warn};
use super::input::Reading;
use super::output::{json as pretty, print};
use super::{Exit, Failure};
use crate::compile::{self, compile};
use crate::inputs::fetch::{Credential, Fetcher, Options};
use crate::inputs::update::{Change, Declared, Fetched, What, settle};
use crate::inputs::write::{FILE, FOLDER, Key, Stored, files, is_own};
use crate::report::FORMAT_VERSION;
use crate::source::{self, File, Limits, SourceSpec};
use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use moorgate_model::{Class, Severity};
use moorgate_policies::{Access, InputKind};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A description may name a set of keys, which names nothing; more rounds would be a loop.
const MOST_ROUNDS: usize = 4;

/// What policies need from the network, declared in the source: nothing is fetched while compiling
#[derive(Debug, Args)]
pub(super) struct InputsArgs {
    #[command(subcommand)]
    command: InputsCommand,
}

#[derive(Debug, Subcommand)]
enum InputsCommand {
    Update(Box<UpdateArgs>),
}

/// Fetch what policies need, and write it beside them
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate inputs update gateways/
  moorgate inputs update gateways/ --check            in a scheduled job: exits 1 if a provider gives something else now
  moorgate inputs update gateways/ --registry-auth ~/.docker/config.json
  moorgate inputs update gateways/ --pull-secret shop/pull=pull.json      the credentials of a policy's pullSecretRef

Writes moorgate-inputs.yaml (OpenID descriptions, sets of keys) and moorgate-inputs/ (Wasm modules) into FOLDER: objects of kind
Input with URL, digest and content. Commit them; a change is a change of the source, to be reviewed. What no policy needs any
more is taken away. What cannot be fetched stays as it was declared, is named on stderr, and the command exits 3.")]
struct UpdateArgs {
    /// The folder of the objects
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    #[command(flatten)]
    reading: Reading,
    /// Write nothing; exit 1 if anything would change
    #[arg(long)]
    check: bool,
    /// CA certificates to trust besides those of this machine, PEM
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Docker's config.json, for registries that ask who wants an image
    #[arg(long, value_name = "FILE")]
    registry_auth: Option<PathBuf>,
    /// What Secret NAMESPACE/NAME holds as .dockerconfigjson, for the images whose policies name it in pullSecretRef; repeats.
    /// It is read here alone, and written nowhere
    #[arg(long = "pull-secret", value_name = "NAMESPACE/NAME=FILE", value_parser = pull_secret)]
    pull_secrets: Vec<(String, PathBuf)>,
    /// Allow http://, which anybody on the way can change
    #[arg(long)]
    plain_http: bool,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Runs the command.
pub(super) async fn run(args: InputsArgs) -> Result<Exit, Failure> {
    let InputsCommand::Update(args) = args.command;
    if args.reading.live.cluster || args.reading.rev.is_some() || !args.folder.is_dir() {
        return Err(Failure::new(Exit::Usage, anyhow!("inputs are written into a folder: name one")));
    }
    let fetchers = Fetchers::new(&args)?;
    let spec = SourceSpec::Path(args.folder.clone());
    let read = source::read(&[spec], &Limits::default()).await?;
    let declared = Declared::of(&read.files);
    let (own, others): (Vec<File>, Vec<File>) = read.files.into_iter().partition(|file| is_own(&file.name));
    let (inputs, changes) = follow(fetchers, &others, &declared, &args.reading.options()).await;
    let wanted = files(&inputs);
    let present: BTreeSet<String> = own.iter().map(|file| file.name.to_string()).collect();
    let stale = own.iter().any(|file| wanted.get(&*file.name).map(String::as_bytes) != Some(&*file.bytes))
        || wanted.keys().any(|name| !present.contains(name));
    if !args.check {
        write(&args.folder, &wanted, &present)?;
    }
    say(&changes, args.output)?;
    Ok(if changes.iter().any(Change::failed) {
        Exit::Environment
    } else if args.check && stale {
        Exit::No
    } else {
        Exit::Fine
    })
}

fn pull_secret(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("write NAMESPACE/NAME=FILE")?;
    let named =
        name.split_once('/').is_some_and(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
    if named && !file.is_empty() {
        Ok((name.to_owned(), file.into()))
    } else {
        Err("write NAMESPACE/NAME=FILE".into())
    }
}

/// How images are fetched: a policy's own credentials and authorities serve that policy's images.
struct Fetchers {
    options: Options,
    secrets: BTreeMap<String, BTreeMap<String, Credential>>,
    made: BTreeMap<Access, Fetcher>,
}

impl Fetchers {
    fn new(args: &UpdateArgs) -> Result<Self, Failure> {
        let read =
            |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let credentials = |path: &PathBuf| {
            let found = registries(&read(path)?);
            found.ok_or_else(|| anyhow!("{} is no configuration of Docker", path.display()))
        };
        let authorities = args.ca_file.as_ref().map(read).transpose()?.unwrap_or_default();
        let registries = args.registry_auth.as_ref().map(credentials).transpose()?.unwrap_or_default();
        let secrets = args.pull_secrets.iter().map(|(name, file)| Ok((name.clone(), credentials(file)?)));
        let secrets = secrets.collect::<Result<_, anyhow::Error>>()?;
        let options = Options { authorities, plain_http: args.plain_http, registries, time: None };
        // What this machine cannot do at all is no matter of one input.
        let plain = Fetcher::new(options.clone()).map_err(|error| Failure::new(Exit::Environment, error))?;
        Ok(Self { options, secrets, made: BTreeMap::from([(Access::default(), plain)]) })
    }

    async fn fetch(&mut self, kind: InputKind, url: &str, access: &Access) -> Result<Vec<u8>, String> {
        if !self.made.contains_key(access) {
            let mut options = self.options.clone();
            if let Some(authority) = &access.authority {
                options.authorities.push(b'\n');
                options.authorities.extend_from_slice(authority.as_bytes());
            }
            if let Some(own) = access.secret.as_ref().and_then(|secret| self.secrets.get(secret)) {
                options.registries.clone_from(own);
            }
            let made = Fetcher::new(options).map_err(|error| error.to_string())?;
            self.made.insert(access.clone(), made);
        }
        let Some(fetcher) = self.made.get(access) else { return Err("nothing fetches it".to_owned()) };
        let found = fetcher.fetch(kind, url).await;
        found.map_err(|error| match &access.secret {
            Some(secret) if !self.secrets.contains_key(secret) => {
                format!(
                    "{error}; the policy names Secret {secret}: --pull-secret {secret}=FILE has what it holds"
                )
            }
            _ => error.to_string(),
        })
    }
}

/// Fetches what the policies of a source ask for, and what they ask for when they have that.
async fn follow(
    mut fetchers: Fetchers,
    others: &[File],
    declared: &Declared,
    options: &compile::Options,
) -> (BTreeMap<Key, Stored>, Vec<Change>) {
    let mut fetched = Fetched::new();
    let mut inputs = declared.own.clone();
    let mut round = 0;
    loop {
        round += 1;
        let mut all = others.to_vec();
        let named =
            |(name, text): (String, String)| File { name: name.into(), bytes: text.into_bytes().into() };
        all.extend(files(&inputs).into_iter().map(named));
        let compiled = compile(&all, options);
        let unseen = compiled
            .diagnostics
            .iter()
            .any(|found| found.severity == Severity::Error && found.code.class != Class::Semantic);
        let asked = compiled.wants.iter();
        let asked = asked.map(|(wanted, asked)| (wanted.kind, wanted.url.clone(), asked.access.clone()));
        let asked: BTreeSet<_> = asked.collect();
        let new: Vec<_> = asked.into_iter().filter(|key| !fetched.contains_key(key)).collect();
        if new.is_empty() || round > MOST_ROUNDS {
            return settle(declared, &compiled.wants, &fetched, !unseen);
        }
        for (kind, url, access) in new {
            let found = fetchers.fetch(kind, &url, &access).await;
            fetched.insert((kind, url, access), found);
        }
        // What is not asked for in this round may be in the next.
        let (now, _) = settle(declared, &compiled.wants, &fetched, false);
        inputs = now;
    }
}

/// Writes files that changed, each as a whole, and removes those that hold nothing any more.
fn write(
    folder: &Path,
    wanted: &BTreeMap<String, String>,
    present: &BTreeSet<String>,
) -> Result<(), Failure> {
    for (name, text) in wanted {
        let path = folder.join(name);
        if std::fs::read(&path).is_ok_and(|known| known == text.as_bytes()) {
            continue;
        }
        let place = path.parent().unwrap_or(folder);
        let whole = || -> std::io::Result<()> {
            std::fs::create_dir_all(place)?;
            let mut file = tempfile::NamedTempFile::new_in(place)?;
            std::io::Write::write_all(&mut file, text.as_bytes())?;
            readable(file.as_file())?;
            file.persist(&path)?;
            Ok(())
        };
        whole().with_context(|| format!("cannot write {}", path.display()))?;
    }
    for name in present.iter().filter(|name| !wanted.contains_key(*name)) {
        let path = folder.join(name);
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    // Only an empty one goes.
    let _ = std::fs::remove_dir(folder.join(FOLDER));
    Ok(())
}

/// A file of a repository is for everybody who may read that.
fn readable(file: &std::fs::File) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    file.sync_all()
}

fn say(changes: &[Change], format: Format) -> Result<(), Failure> {
    for change in changes.iter().filter(|change| change.failed()) {
        let message = change.message.as_deref().unwrap_or_default();
        let after = if change.result == What::Kept { "; what was declared stays" } else { "" };
        warn(&format!("{message}{after}"));
    }
    if format == Format::Json {
        return print(&pretty(&json!({ "format_version": FORMAT_VERSION, "inputs": changes })));
    }
    let mut text = String::new();
    for change in changes {
        let what = match change.result {
            What::Added => "added",
            What::Changed => "changed",
            What::Same => "same",
            What::Removed => "removed",
            What::Kept => "kept",
            What::Missing => "missing",
            What::Elsewhere => "elsewhere",
        };
        let short = |digest: &Option<String>| {
            digest.as_deref().map_or_else(|| "nothing".to_owned(), |digest| format!("sha256:{digest:.12}"))
        };
        let digests = match change.result {
            What::Changed => format!("{} to {}", short(&change.before), short(&change.after)),
            What::Removed => short(&change.before),
            What::Elsewhere => change.message.clone().unwrap_or_default(),
            _ => short(&change.after),
        };
        let _ = writeln!(text, "{what:9} {} {}  {digests}", change.namespace, change.url);
    }
    if changes.is_empty() {
        text = format!("no policy needs anything from the network: no {FILE}\n");
    }
    print(&text)
}

/// The credentials of Docker's configuration, by registry.
fn registries(bytes: &[u8]) -> Option<BTreeMap<String, Credential>> {
    let config: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let auths = config.get("auths")?.as_object()?;
    let one = |(host, auth): (&String, &serde_json::Value)| {
        let host = host.trim_start_matches("https://").split('/').next()?.to_owned();
        let host = if host == "index.docker.io" { "registry-1.docker.io".into() } else { host };
        Some((host, Credential::new(auth.get("auth")?.as_str()?)?))
    };
    Some(auths.iter().filter_map(one).collect())
}
