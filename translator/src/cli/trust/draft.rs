//! Drafts of trust documents: JSON files that are changed in place until they are signed.

use super::{Place, channel_of, read, role_of, senseless};
use crate::cli::output::print;
use crate::cli::{Exit, Failure};
use anyhow::{Context as _, anyhow};
use clap::Args;
use moorgate_snapshot::PublicKey;
use moorgate_snapshot::envelope::Envelope;
use moorgate_snapshot::trust::Role;
use moorgate_snapshot::trust::document::{CHAINED, CosignRule, Document, KeyEntry, Root, VoidRange};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Draft the first document of a chain
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate trust init trust.json --root a.pub --root b.pub --root c.pub --threshold 2")]
pub(super) struct Init {
    /// Where to write the draft
    #[arg(value_name = "DRAFT")]
    out: PathBuf,
    /// A root key, best kept offline; repeats
    #[arg(long = "root", value_name = "PUB", required = true)]
    roots: Vec<PathBuf>,
    /// How many root keys must sign
    #[arg(long, value_name = "N")]
    threshold: u32,
}

/// Add a key that acts
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate trust add next.json ci.pub --role publish --fleet 'shop/*' --channel stable --name 'shop CI'
  moorgate trust add next.json edge.pub --role report --role renew")]
pub(super) struct Add {
    /// The draft
    draft: PathBuf,
    /// The public key, PEM
    #[arg(value_name = "PUB")]
    key: PathBuf,
    /// What it may do: publish, pin, renew, report, cosign; repeats
    #[arg(long = "role", value_name = "ROLE", required = true, value_parser = role_of)]
    roles: Vec<Role>,
    /// What people call it
    #[arg(long, default_value = "")]
    name: String,
    /// For which fleets: namespace/gateway, class/NAME or namespace/*; all if not given; repeats
    #[arg(long = "fleet", value_name = "FLEET")]
    fleets: Vec<String>,
    /// In which channels; all if not given; repeats
    #[arg(long = "channel", value_name = "CHANNEL")]
    channels: Vec<String>,
}

/// Remove a key: what it signed is not believed any more, from its first entry on
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate trust remove next.json old.pub

To retire a key whose releases still count, use moorgate trust revoke with --last.")]
pub(super) struct Remove {
    /// The draft
    draft: PathBuf,
    /// The public key's file, or the first digits of its id
    key: String,
}

/// Revoke or retire a key: what it signed later than said is not believed
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate trust revoke next.json ci.pub --last shop/edge@stable=41 --last shop/edge@next=57
  moorgate trust revoke next.json stolen.pub          believes nothing that it ever signed

In channels that are not named nothing of the key is believed any more. moorgate log shows the sequences.")]
pub(super) struct Revoke {
    /// The draft
    draft: PathBuf,
    /// The public key's file, or the first digits of its id
    key: String,
    /// The last sequence that is still believed; repeats
    #[arg(long = "last", value_name = "FLEET@CHANNEL=SEQ")]
    last: Vec<Place>,
}

/// Exchange root keys, or change how many must sign
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate trust root next.json --add d.pub --remove a.pub --threshold 2")]
pub(super) struct RootChange {
    /// The draft
    draft: PathBuf,
    /// A new root key; repeats
    #[arg(long = "add", value_name = "PUB")]
    add: Vec<PathBuf>,
    /// A root key to remove, by its file or the first digits of its id; repeats
    #[arg(long = "remove", value_name = "KEY")]
    remove: Vec<String>,
    /// How many root keys must sign
    #[arg(long, value_name = "N")]
    threshold: Option<u32>,
}

/// Require co-signatures by keys that rebuilt what is served
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate trust require next.json --signatures 1 --channel stable --from shop/edge@stable=42
  moorgate trust require next.json --signatures 0     requires none any more

Releases before --from stay as they are; in channels that are not named the rule holds from the first entry on.")]
pub(super) struct Require {
    /// The draft
    draft: PathBuf,
    /// How many keys with the role cosign
    #[arg(long, value_name = "N")]
    signatures: u32,
    /// In which fleets; all if not given; repeats
    #[arg(long = "fleet", value_name = "FLEET")]
    fleets: Vec<String>,
    /// In which channels; all if not given; repeats
    #[arg(long = "channel", value_name = "CHANNEL")]
    channels: Vec<String>,
    /// The first sequence that it holds for; repeats
    #[arg(long = "from", value_name = "FLEET@CHANNEL=SEQ")]
    from: Vec<Place>,
}

/// Declare slots of a log void, so that it goes on behind them
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate trust void next.json shop/edge@stable 41 50

For a store that was restored from an older copy: relays remember entries that it does not have any more. And for a log
with many entries of a revoked key.")]
pub(super) struct Void {
    /// The draft
    draft: PathBuf,
    /// The channel
    #[arg(value_name = "FLEET@CHANNEL", value_parser = channel_of)]
    channel: String,
    /// The first slot
    first: u64,
    /// The last slot
    last: u64,
}

impl Init {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let keys = self.roots.iter().map(|path| pem(path)).collect::<Result<_, _>>()?;
        let document = Document {
            format: CHAINED,
            number: Some(1),
            root: Some(Root { threshold: self.threshold, keys }),
            keys: Vec::new(),
            minimum_sequence: BTreeMap::new(),
            void: BTreeMap::new(),
            cosign: Vec::new(),
        };
        document.root_keys().map_err(senseless)?;
        create(&self.out, &document)?;
        print("draft of trust document 1: add keys that act, then sign\n")?;
        Ok(Exit::Fine)
    }
}

impl Add {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let public = pem(&self.key)?;
        let all = |given: Vec<String>| if given.is_empty() { vec!["*".to_owned()] } else { given };
        let entry = KeyEntry {
            name: self.name,
            public,
            roles: self.roles.into_iter().collect(),
            fleets: all(self.fleets),
            channels: all(self.channels),
            revoked: None,
        };
        change(&self.draft, |document| {
            document.keys.push(entry);
            Ok(())
        })
    }
}

impl Remove {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        change(&self.draft, |document| {
            let at = find(document, &self.key)?;
            document.keys.remove(at);
            Ok(())
        })
    }
}

impl Revoke {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        change(&self.draft, |document| {
            let at = find(document, &self.key)?;
            if let Some(entry) = document.keys.get_mut(at) {
                let last = self.last.iter().map(|place| (place.name.clone(), place.sequence));
                entry.revoked = Some(last.collect());
            }
            Ok(())
        })
    }
}

impl RootChange {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let added: Vec<String> = self.add.iter().map(|path| pem(path)).collect::<Result<_, _>>()?;
        change(&self.draft, |document| {
            let Some(root) = &mut document.root else { return Err(usage("no document of a chain")) };
            for key in &self.remove {
                let fits = ids(root.keys.iter().map(String::as_str), key)?;
                root.keys.remove(fits);
            }
            root.keys.extend(added);
            root.threshold = self.threshold.unwrap_or(root.threshold);
            Ok(())
        })
    }
}

impl Require {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let all = |given: Vec<String>| if given.is_empty() { vec!["*".to_owned()] } else { given };
        let (fleets, channels) = (all(self.fleets), all(self.channels));
        change(&self.draft, |document| {
            document.cosign.retain(|rule| (&rule.fleets, &rule.channels) != (&fleets, &channels));
            if self.signatures > 0 {
                let from = self.from.iter().map(|place| (place.name.clone(), place.sequence)).collect();
                document.cosign.push(CosignRule { fleets, channels, signatures: self.signatures, from });
            }
            Ok(())
        })
    }
}

impl Void {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        change(&self.draft, |document| {
            let ranges = document.void.entry(self.channel).or_default();
            ranges.push(VoidRange { first: self.first, last: self.last });
            ranges.sort_by_key(|range| range.first);
            Ok(())
        })
    }
}

/// Changes a draft. One that is signed is left alone: its signatures are for what it says.
fn change(path: &Path, change: impl FnOnce(&mut Document) -> Result<(), Failure>) -> Result<Exit, Failure> {
    let file = read(path)?;
    if serde_json::from_slice::<Envelope>(&file).is_ok() {
        return Err(usage("it is signed already: draft anew with moorgate trust next"));
    }
    // A draft without keys is no document yet.
    let mut document: Document = serde_json::from_slice(&file).with_context(|| path.display().to_string())?;
    change(&mut document)?;
    let text = pretty(&document)?;
    Document::parse(&text).map_err(senseless)?;
    replace(path, &text)?;
    Ok(Exit::Fine)
}

fn usage(message: &'static str) -> Failure {
    Failure::new(Exit::Usage, anyhow!(message))
}

/// The place of the key in the document: by the file of its public key, or the start of its id.
fn find(document: &Document, key: &str) -> Result<usize, Failure> {
    ids(document.keys.iter().map(|entry| entry.public.as_str()), key)
}

fn ids<'a>(texts: impl Iterator<Item = &'a str>, key: &str) -> Result<usize, Failure> {
    let path = Path::new(key);
    let wanted = if path.exists() {
        let keys = PublicKey::all_from_pem(&read(path)?).with_context(|| key.to_owned())?;
        keys.first().map(|key| key.id().to_string()).unwrap_or_default()
    } else {
        key.to_owned()
    };
    let mut found = Vec::new();
    for (at, text) in texts.enumerate() {
        let keys = PublicKey::all_from_pem(text.as_bytes())?;
        if wanted.len() >= 8 && keys.iter().any(|key| key.id().to_string().starts_with(&wanted)) {
            found.push(at);
        }
    }
    match found.as_slice() {
        [at] => Ok(*at),
        [] => Err(Failure::new(Exit::Usage, anyhow!("the document has no key {key}"))),
        _ => Err(Failure::new(Exit::Usage, anyhow!("{key} is the start of several keys: write more of it"))),
    }
}

/// One public key from a file, as it goes into documents.
fn pem(path: &Path) -> Result<String, Failure> {
    let keys = PublicKey::all_from_pem(&read(path)?).with_context(|| path.display().to_string())?;
    match keys.as_slice() {
        [key] => Ok(key.to_pem()),
        _ => Err(Failure::new(Exit::Usage, anyhow!("{}: several keys in one file", path.display()))),
    }
}

fn pretty(document: &Document) -> Result<Vec<u8>, Failure> {
    let mut text = serde_json::to_vec_pretty(document)?;
    text.push(b'\n');
    Ok(text)
}

/// Writes a new draft; what is there is never written over.
pub(super) fn create(path: &Path, document: &Document) -> Result<(), Failure> {
    let mut file = std::fs::File::create_new(path).with_context(|| path.display().to_string())?;
    Ok(file.write_all(&pretty(document)?).with_context(|| path.display().to_string())?)
}

/// Writes a file so that it is the old one or the new one.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    std::fs::write(&beside, bytes)
        .and_then(|()| std::fs::rename(&beside, path))
        .with_context(|| path.display().to_string())?;
    Ok(())
}
