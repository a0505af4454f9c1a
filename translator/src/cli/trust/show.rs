//! What a trust document says, for people and scripts.

use super::{Output, newest, read, senseless};
use crate::cli::access::{StoreArgs, store_failure};
use crate::cli::output::{json as pretty, print};
use crate::cli::table::{clean, columns};
use crate::cli::{Exit, Failure};
use crate::report::FORMAT_VERSION;
use anyhow::anyhow;
use clap::Args;
use moorgate_snapshot::PublicKey;
use moorgate_snapshot::envelope::Envelope;
use moorgate_snapshot::trust::document::Document;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Show a document: of a file, or the newest of a store
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate trust show trust.json
  moorgate trust show --trust trust.json --store file:///var/lib/moorgate -o json

Exits 5 if the chain in the store does not hold, or went back behind what --trust says.")]
pub(super) struct Show {
    /// The file; without one, the store's chain is followed from --trust
    file: Option<PathBuf>,
    /// The store, such as file:///var/lib/moorgate
    #[arg(long, value_name = "URL", env = "MOORGATE_STORE", value_delimiter = ',')]
    store: Vec<String>,
    /// A document of the chain that you trust
    #[arg(long, value_name = "FILE", env = "MOORGATE_TRUST")]
    trust: Option<PathBuf>,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

impl Show {
    pub(super) async fn run(self) -> Result<Exit, Failure> {
        let (document, envelope) = if let Some(path) = &self.file {
            let file = read(path)?;
            match serde_json::from_slice::<Envelope>(&file) {
                Ok(envelope) => (Document::parse(&envelope.payload).map_err(senseless)?, Some(envelope)),
                Err(_) => (Document::parse(&file).map_err(senseless)?, None),
            }
        } else {
            if self.store.is_empty() {
                return Err(Failure::new(
                    Exit::Usage,
                    anyhow!("show what? give a file, or --store and --trust"),
                ));
            }
            let args = StoreArgs { store: self.store, trust: self.trust };
            let link = newest(&args).await?;
            let stored = args.open()?.trust_document(link.number()).await.map_err(store_failure)?;
            let envelope = stored.and_then(|stored| serde_json::from_slice(&stored).ok());
            (link.document().map_err(senseless)?, envelope)
        };
        match self.output {
            Output::Text => print(&text(&document, envelope.as_ref())?)?,
            Output::Json => print(&pretty(&value(&document, envelope.as_ref())?))?,
        }
        Ok(Exit::Fine)
    }
}

/// The root keys with whether each signed.
fn roots(document: &Document, envelope: Option<&Envelope>) -> Result<Vec<(String, bool)>, Failure> {
    if document.root.is_none() {
        return Ok(Vec::new());
    }
    let (keys, _) = document.root_keys().map_err(senseless)?;
    let message = envelope.map(Envelope::signed_message).unwrap_or_default();
    let signed = |key: &PublicKey| {
        let signatures = envelope.map(|envelope| envelope.signatures.as_slice()).unwrap_or_default();
        signatures.iter().any(|one| one.keyid == key.id() && key.verifies(&message, &one.sig))
    };
    Ok(keys.values().map(|key| (key.id().to_string(), signed(key))).collect())
}

/// A document for people.
pub(super) fn text(document: &Document, envelope: Option<&Envelope>) -> Result<String, Failure> {
    let mut text = String::new();
    if let (Some(number), Some(root)) = (document.number, &document.root) {
        let _ =
            writeln!(text, "trust document {number}, by {} of {} root keys", root.threshold, root.keys.len());
    }
    let rows: Vec<Vec<String>> = roots(document, envelope)?
        .into_iter()
        .map(|(id, signed)| {
            let state = if signed { "signed" } else { "" };
            vec!["root".to_owned(), id.chars().take(12).collect(), state.to_owned()]
        })
        .collect();
    text += &columns(&rows);
    let mut rows = Vec::new();
    for entry in &document.keys {
        let roles: Vec<String> = entry.roles.iter().map(ToString::to_string).collect();
        let revoked = entry.revoked.as_ref().map(|last| {
            let last: Vec<String> =
                last.iter().map(|(place, last)| format!("{place} up to {last}")).collect();
            if last.is_empty() {
                "revoked, whole".to_owned()
            } else {
                format!("revoked but for {}", last.join(", "))
            }
        });
        for key in PublicKey::all_from_pem(entry.public.as_bytes())? {
            rows.push(vec![
                "key".to_owned(),
                key.id().short(),
                roles.join(","),
                entry.fleets.join(","),
                entry.channels.join(","),
                clean(&entry.name),
                revoked.clone().unwrap_or_default(),
            ]);
        }
    }
    text += &columns(&rows);
    for (place, minimum) in &document.minimum_sequence {
        let _ = writeln!(text, "minimum  {place} {minimum}");
    }
    for (place, range) in
        document.void.iter().flat_map(|(place, all)| all.iter().map(move |one| (place, one)))
    {
        let _ = writeln!(text, "void     {place} {} to {}", range.first, range.last);
    }
    for rule in &document.cosign {
        let (fleets, channels) = (rule.fleets.join(","), rule.channels.join(","));
        let _ = writeln!(text, "cosign   {} in {fleets}@{channels}", rule.signatures);
    }
    Ok(text)
}

fn value(document: &Document, envelope: Option<&Envelope>) -> Result<Value, Failure> {
    let roots = roots(document, envelope)?;
    let signed: Vec<&String> = roots.iter().filter(|(_, signed)| *signed).map(|(id, _)| id).collect();
    let mut ids = Vec::new();
    for entry in &document.keys {
        let keys = PublicKey::all_from_pem(entry.public.as_bytes())?;
        ids.push(keys.iter().map(|key| key.id().to_string()).collect::<Vec<_>>());
    }
    Ok(json!({
        "format_version": FORMAT_VERSION,
        "document": document,
        "root_keys": roots.iter().map(|(id, _)| id).collect::<Vec<_>>(),
        "signed_by": signed,
        "key_ids": ids,
    }))
}
