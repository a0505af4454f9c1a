//! What an update makes of the Inputs of a source: pure, apart from the fetching that it is given.

use super::write::{Key, Stored, is_own};
use super::{Wants, content, url};
use crate::load::load;
use crate::source::File;
use moorgate_policies::{Access, InputKind};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What became of one Input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The namespace.
    pub namespace: String,
    /// The URL.
    pub url: String,
    /// What happened.
    pub result: What,
    /// The digest before, if there was one.
    pub before: Option<String>,
    /// The digest now, if there is one.
    pub after: Option<String>,
    /// Why nothing was fetched, or who declares it.
    pub message: Option<String>,
}

/// What happened to an Input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It was not declared.
    Added,
    /// Something else is behind the URL now.
    Changed,
    /// The same is.
    Same,
    /// No policy needs it any more.
    Removed,
    /// Nothing came: what was declared stays.
    Kept,
    /// Nothing came, and nothing was declared.
    Missing,
    /// Another file of the source declares it, which this command does not write.
    Elsewhere,
}

impl Change {
    /// True if the files change.
    pub fn writes(&self) -> bool {
        matches!(self.result, What::Added | What::Changed | What::Removed)
    }

    /// True if it could not be fetched.
    pub fn failed(&self) -> bool {
        matches!(self.result, What::Kept | What::Missing)
    }
}

/// What is declared in a source.
#[derive(Debug, Clone, Default)]
pub struct Declared {
    /// In files that are written here.
    pub own: BTreeMap<Key, Stored>,
    /// In others: by which file.
    pub elsewhere: BTreeMap<Key, Arc<str>>,
}

impl Declared {
    /// Reads the Inputs of a source. An own file that cannot be read, such as one with merge conflicts, declares nothing.
    pub fn of(files: &[File]) -> Self {
        let mut declared = Self::default();
        for object in load(files).objects.iter().filter(|object| *object.reference.kind == *super::KIND) {
            let Some(url) = url(object).filter(|_| *object.reference.group == *super::GROUP) else {
                continue;
            };
            let key = (object.reference.namespace.to_string(), url.to_owned());
            if !is_own(&object.origin.file) {
                declared.elsewhere.insert(key, object.origin.file.clone());
                continue;
            }
            // What is kept is good for one of the kinds; which one, who asks for it says.
            let good = InputKind::ALL.into_iter().find_map(|kind| super::read(object, kind).ok());
            if let Some(input) = good {
                declared.own.insert(key, Stored { digest: input.digest, bytes: input.bytes });
            }
        }
        declared
    }
}

/// What is known so far of what is wanted, and by whose right: content, or why there is none.
pub type Fetched = BTreeMap<(InputKind, String, Access), Result<Vec<u8>, String>>;

/// The Inputs of a source after an update, and what changed. `all` is false if the source has errors because of which some
/// policies may not be seen: then nothing is taken away.
pub fn settle(
    declared: &Declared,
    wants: &Wants,
    fetched: &Fetched,
    all: bool,
) -> (BTreeMap<Key, Stored>, Vec<Change>) {
    let mut inputs = BTreeMap::new();
    let mut changes = Vec::new();
    for (wanted, asked) in wants {
        let key = (wanted.namespace.clone(), wanted.url.clone());
        let before = declared.own.get(&key);
        let mut change = Change {
            namespace: key.0.clone(),
            url: key.1.clone(),
            result: What::Elsewhere,
            before: before.map(|before| before.digest.clone()),
            after: None,
            message: None,
        };
        if let Some(file) = declared.elsewhere.get(&key) {
            change.message = Some(format!("{file} declares it"));
            changes.push(change);
            continue;
        }
        // Bad content may have been declared for another kind.
        let usable = before.filter(|before| content::check(wanted.kind, &before.bytes).is_ok());
        let found = match fetched.get(&(wanted.kind, key.1.clone(), asked.access.clone())) {
            Some(Ok(bytes)) => Ok(Stored::new(bytes.clone())),
            Some(Err(message)) => Err(message.clone()),
            None => Err("it was not fetched".to_owned()),
        };
        let now = match found {
            Ok(now) => {
                change.result = match before {
                    None => What::Added,
                    Some(before) if before.digest == now.digest => What::Same,
                    Some(_) => What::Changed,
                };
                Some(now)
            }
            Err(message) => {
                change.message = Some(message);
                change.result = if usable.is_some() { What::Kept } else { What::Missing };
                usable.cloned()
            }
        };
        change.after = now.as_ref().map(|now| now.digest.clone());
        inputs.extend(now.map(|now| (key, now)));
        changes.push(change);
    }
    for (key, before) in &declared.own {
        if wants.keys().any(|wanted| wanted.namespace == key.0 && wanted.url == key.1) {
            continue;
        }
        let mut change = Change {
            namespace: key.0.clone(),
            url: key.1.clone(),
            result: What::Removed,
            before: Some(before.digest.clone()),
            after: None,
            message: None,
        };
        if !all {
            change.result = What::Same;
            change.after.clone_from(&change.before);
            inputs.insert(key.clone(), before.clone());
        }
        changes.push(change);
    }
    changes.sort_by(|a, b| (&a.namespace, &a.url).cmp(&(&b.namespace, &b.url)));
    (inputs, changes)
}
