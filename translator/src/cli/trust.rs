//! `moorgate trust`

mod draft;
mod show;

use super::access::{Format, KeySource, StoreArgs, store_failure};
use super::output::print;
use super::{Exit, Failure};
use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use moorgate_snapshot::envelope::Envelope;
use moorgate_snapshot::trust::chain::{self, Anchor, ChainError, Link, LinkError, SignError};
use moorgate_snapshot::trust::document::Document;
use moorgate_snapshot::trust::{Role, TrustFileError};
use moorgate_snapshot::{Channel, FleetName};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Say who may do what, in documents that offline keys sign
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TrustArgs {
    #[command(subcommand)]
    step: Step,
}

const EXAMPLES: &str = "Examples:
  The first document: two of three root keys, a key for CI, one for on-call:
    moorgate trust init trust.json --root a.pub --root b.pub --root c.pub --threshold 2
    moorgate trust add trust.json ci.pub --role publish --name ci
    moorgate trust add trust.json on-call.pub --role pin --name on-call
    moorgate trust sign trust.json --key file:a.key      on one machine; pass the file on
    moorgate trust sign trust.json --key file:b.key      on another
    moorgate trust publish trust.json --store s3://bucket/gateways
    moorgate-relay --trust trust.json …                  once: newer documents are followed
  The next one, after a leak:
    moorgate trust next next.json --trust trust.json --store s3://bucket/gateways
    moorgate trust revoke next.json ci.pub --last shop/edge@stable=41
    moorgate trust add next.json ci2.pub --role publish --name ci
    moorgate trust sign next.json --key file:a.key …     then publish

A document is signed by a threshold of the root keys of the one before and of its own. A draft is JSON and may be edited
by hand; once it is signed, any change makes its signatures void.";

#[derive(Debug, Subcommand)]
enum Step {
    Init(draft::Init),
    Next(Next),
    Add(draft::Add),
    Remove(draft::Remove),
    Revoke(draft::Revoke),
    Root(draft::RootChange),
    Require(draft::Require),
    Void(draft::Void),
    Sign(Sign),
    Publish(Publish),
    Show(show::Show),
}

/// Draft the document that follows the newest one
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate trust next next.json --trust trust.json --store file:///var/lib/moorgate")]
struct Next {
    /// Where to write the draft
    #[arg(value_name = "DRAFT")]
    out: PathBuf,
    #[command(flatten)]
    store: StoreArgs,
}

/// Add a signature to a document
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate trust sign trust.json --key file:a.key
  moorgate trust sign trust.json --key exec:'kms --key root'

Prints what is signed: read it. Needs no store and no network.")]
struct Sign {
    /// The draft, or the document with the signatures that it has
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The root key: file:PATH, env:NAME or exec:COMMAND
    #[arg(long, value_name = "KEY", env = "MOORGATE_ROOT_KEY", hide_env_values = true)]
    key: KeySource,
}

/// Put a signed document into the store
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate trust publish trust.json --store file:///var/lib/moorgate
  moorgate trust publish next.json --trust trust.json --store file:///var/lib/moorgate

Exits 4 if signatures are missing, or if another document has the place.")]
struct Publish {
    /// The signed document
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    store: StoreArgs,
}

/// A channel of a fleet and a sequence: `shop/edge@stable=41`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    name: String,
    sequence: u64,
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || "write FLEET@CHANNEL=SEQUENCE, such as shop/edge@stable=41".to_owned();
        let (name, sequence) = text.split_once('=').ok_or_else(error)?;
        let name = channel_of(name)?;
        Ok(Self { name, sequence: sequence.parse().map_err(|_| error())? })
    }
}

/// Checks `shop/edge@stable`.
fn channel_of(text: &str) -> Result<String, String> {
    let (fleet, channel) = text.rsplit_once('@').ok_or("write FLEET@CHANNEL, such as shop/edge@stable")?;
    fleet.parse::<FleetName>().map_err(|error| error.to_string())?;
    channel.parse::<Channel>().map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

/// A role on the command line.
fn role_of(text: &str) -> Result<Role, String> {
    let quoted = serde_json::Value::from(text);
    serde_json::from_value(quoted).map_err(|_| "one of publish, pin, renew, report, cosign".to_owned())
}

/// Runs the command.
pub(super) async fn run(args: TrustArgs) -> Result<Exit, Failure> {
    match args.step {
        Step::Init(args) => args.run(),
        Step::Next(args) => args.run().await,
        Step::Add(args) => args.run(),
        Step::Remove(args) => args.run(),
        Step::Revoke(args) => args.run(),
        Step::Root(args) => args.run(),
        Step::Require(args) => args.run(),
        Step::Void(args) => args.run(),
        Step::Sign(args) => args.run(),
        Step::Publish(args) => args.run().await,
        Step::Show(args) => args.run().await,
    }
}

impl Next {
    async fn run(self) -> Result<Exit, Failure> {
        let newest = newest(&self.store).await?;
        let mut document = newest.document().map_err(senseless)?;
        document.number = newest.number().checked_add(1);
        draft::create(&self.out, &document)?;
        print(&format!("draft of trust document {}\n", newest.number().saturating_add(1)))?;
        Ok(Exit::Fine)
    }
}

impl Sign {
    fn run(&self) -> Result<Exit, Failure> {
        let file = read(&self.file)?;
        let signer = self.key.open()?;
        let envelope = match chain::sign(&file, &[&*signer]) {
            Ok(envelope) => envelope,
            Err(SignError::Link(LinkError::Document(error))) => return Err(senseless(error)),
            Err(error) => return Err(error.into()),
        };
        draft::replace(&self.file, &envelope.encode())?;
        let document = Document::parse(&envelope.payload).map_err(senseless)?;
        print(&show::text(&document, Some(&envelope))?)?;
        Ok(Exit::Fine)
    }
}

impl Publish {
    async fn run(self) -> Result<Exit, Failure> {
        let file = read(&self.file)?;
        let envelope: Envelope = serde_json::from_slice(&file)
            .with_context(|| format!("{}: not signed yet: moorgate trust sign", self.file.display()))
            .map_err(|error| Failure::new(Exit::Refused, error))?;
        let document = Document::parse(&envelope.payload).map_err(senseless)?;
        let store = self.store.open()?;
        let number = document.number.unwrap_or_default();
        let there = store.trust_document(number).await.map_err(store_failure)?;
        if there.is_some_and(|there| there == envelope.encode()) {
            print(&format!("trust document {number} is there already\n"))?;
            return Ok(Exit::Fine);
        }
        let known = if number == 1 { None } else { Some(newest(&self.store).await?) };
        match chain::publish(&store, &envelope, known.as_deref()).await {
            Ok(true) => {
                print(&format!("trust document {number} is in {}\n", store.describe_trust_document(number)))?;
                Ok(Exit::Fine)
            }
            Ok(false) => {
                let message =
                    format!("the store has another trust document {number}: look at it, then draft anew");
                Err(Failure::new(Exit::Refused, anyhow!(message)))
            }
            Err(ChainError::Store(error)) => Err(store_failure(error)),
            Err(error @ ChainError::Refused { .. }) => {
                let told = anyhow::Error::from(error);
                Err(Failure::new(Exit::Refused, anyhow!("{told:#}")))
            }
            Err(error) => Err(Failure::new(Exit::Integrity, error)),
        }
    }
}

/// The newest document of the chain that the trust file starts. Whatever the store has that does not verify ends it.
async fn newest(args: &StoreArgs) -> Result<Arc<Link>, Failure> {
    let anchor = args.anchor()?.ok_or_else(|| {
        Failure::new(Exit::Usage, anyhow!("which chain? give --trust FILE: a document of it that you trust"))
    })?;
    let followed = anchor.follow(&args.open()?).await;
    match (followed.error, followed.anchor) {
        (Some(ChainError::Store(error)), _) => Err(store_failure(error)),
        (Some(error), _) => Err(Failure::new(Exit::Integrity, anyhow!("{:#}", anyhow::Error::from(error)))),
        (None, Anchor::Chain(link)) => Ok(link),
        (None, Anchor::Fixed(_)) => {
            Err(Failure::new(Exit::Usage, anyhow!("the trust file stands for itself: it starts no chain")))
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    Ok(std::fs::read(path).with_context(|| path.display().to_string())?)
}

/// What a document says makes no sense: the answer is no.
fn senseless(error: TrustFileError) -> Failure {
    Failure::new(Exit::No, error)
}

/// Text or JSON.
type Output = Format;
