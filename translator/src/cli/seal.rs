//! `moorgate seal`

use super::access::Format;
use super::endpoints::{Place, Writing};
use super::output::{json as pretty, print};
use super::{Exit, Failure};
use crate::report::FORMAT_VERSION;
use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Args;
use moorgate_snapshot::FleetName;
use moorgate_snapshot::late::{Index, ValueRef};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The largest file that is sealed, in bytes: what Kubernetes allows for a whole Secret.
const BYTES: u64 = 1 << 20;

/// Put a certificate and its key into the store, sealed so that only the fleet's relays can open them
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate keygen --age edge.identity       prints the recipient, age1…; the relays get --secrets-identity edge.identity
  moorgate seal shop/edge shop/tls --cert tls.crt --private-key tls.key --recipient age1… --key file:ci.key
  moorgate seal shop/edge shop/login --entry client-secret=FILE --recipient age1… --key file:ci.key
  moorgate seal shop/edge shop/tls --remove --key file:ci.key

SECRET is the Secret or ConfigMap that the configuration names, as namespace/name. It is sealed by age for each of the
recipients: while an identity is replaced, name the old and the new one. A relay opens it in memory, checks it, and serves
it by SDS; a renewed certificate needs no release. Nothing of it is printed, and the store holds it sealed only.")]
pub(super) struct SealArgs {
    /// The fleet: namespace/gateway or class/NAME
    fleet: FleetName,
    /// The object that the configuration names: namespace/name
    secret: Place,
    /// The chain of certificates, PEM
    #[arg(long, value_name = "FILE", requires = "private_key")]
    cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    private_key: Option<PathBuf>,
    /// CA certificates, PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Another entry of a Secret, such as client-secret, .htpasswd or a client's key, and the file that holds it; repeats
    #[arg(long, value_name = "KEY=FILE")]
    entry: Vec<String>,
    /// Who can open it, age1…; repeats
    #[arg(long, value_name = "RECIPIENT")]
    recipient: Vec<String>,
    /// Take it out of the store's index
    #[arg(long, conflicts_with_all = ["cert", "ca", "entry", "recipient"])]
    remove: bool,
    #[command(flatten)]
    writing: Writing,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Runs the command.
pub(super) async fn run(args: SealArgs) -> Result<Exit, Failure> {
    let name = args.secret.to_string();
    let mut values = BTreeMap::new();
    if !args.remove {
        values.insert(name.clone(), Bytes::from(args.sealed()?));
    }
    let change = |index: &mut Index, values: &BTreeMap<String, ValueRef>| match values.get(&name) {
        Some(value) => drop(index.secrets.insert(name.clone(), *value)),
        None => drop(index.secrets.remove(&name)),
    };
    let Some(index) = args.writing.change(&args.fleet, values, change).await? else { return Ok(Exit::Fine) };
    let done = if args.remove { "removed" } else { "sealed" };
    match args.output {
        Format::Text => {
            print(&format!("{} {name} {done}, generation {}\n", args.fleet, index.generation))?;
        }
        Format::Json => print(&pretty(&json!({
            "format_version": FORMAT_VERSION,
            "fleet": args.fleet,
            "secret": name,
            "result": done,
            "generation": index.generation,
        })))?,
    }
    Ok(Exit::Fine)
}

impl SealArgs {
    fn sealed(&self) -> Result<Vec<u8>, Failure> {
        let usage = |text: &str| Failure::new(Exit::Usage, anyhow!("{text}"));
        if self.cert.is_none() && self.ca.is_none() && self.entry.is_empty() {
            return Err(usage("what is to be sealed? give --cert and --private-key, --ca, or --entry"));
        }
        let recipients = self.recipient.iter().map(|text| {
            let known = text.parse::<age::x25519::Recipient>();
            known.map_err(|_| usage(&format!("{text:?} is no recipient: one begins with age1")))
        });
        let recipients = recipients.collect::<Result<Vec<_>, _>>()?;
        if recipients.is_empty() {
            return Err(usage("for whom? give --recipient age1…"));
        }
        let read = |file: Option<&Path>, kind| file.map(|file| pem(file, kind)).transpose();
        let chain = read(self.cert.as_deref(), "CERTIFICATE")?;
        let key = read(self.private_key.as_deref(), "PRIVATE KEY")?;
        let bundle = read(self.ca.as_deref(), "CERTIFICATE")?;
        let mut data = BTreeMap::new();
        for text in &self.entry {
            let pair = text.split_once('=').filter(|(key, file)| !key.is_empty() && !file.is_empty());
            let (key, file) =
                pair.ok_or_else(|| usage(&format!("{text:?} is no entry: one is written KEY=FILE")))?;
            data.insert(key.to_owned(), STANDARD.encode(bounded(Path::new(file))?));
        }
        let inside = json!({
            "fleet": self.fleet,
            "secret": self.secret.to_string(),
            "tls.crt": chain,
            "tls.key": key,
            "ca.crt": bundle,
            "data": data,
        });
        seal(&recipients, inside.to_string().as_bytes()).map_err(Failure::from)
    }
}

/// A file that is not too large.
fn bounded(file: &Path) -> Result<Vec<u8>, Failure> {
    let place = || file.display().to_string();
    let size = std::fs::metadata(file).with_context(place)?.len();
    if size > BYTES {
        return Err(anyhow!("{}: more than {BYTES} bytes", place()).into());
    }
    Ok(std::fs::read(file).with_context(place)?)
}

/// A PEM file. What is wrong with it is told without a word of it.
fn pem(file: &Path, kind: &str) -> Result<String, Failure> {
    let place = || file.display().to_string();
    let text = String::from_utf8(bounded(file)?).map_err(|_| anyhow!("{}: it is no text", place()))?;
    if !text.contains(&format!("{kind}-----")) {
        return Err(Failure::new(Exit::No, anyhow!("{}: no {kind} in PEM", place())));
    }
    Ok(text)
}

fn seal(recipients: &[age::x25519::Recipient], plain: &[u8]) -> anyhow::Result<Vec<u8>> {
    use std::io::Write as _;
    let all = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
    let encryptor = age::Encryptor::with_recipients(all).map_err(|_| anyhow!("no recipient"))?;
    let mut sealed = Vec::new();
    let mut writer = encryptor.wrap_output(&mut sealed)?;
    writer.write_all(plain)?;
    writer.finish()?;
    Ok(sealed)
}
