//! `--on-error=last-good` of `publish` and `plan`: reads what the parent release was made of, and compiles with it.

use super::{Exit, Failure, Offered, warn};
use crate::cli::access::read_failure;
use crate::cli::input::{Compiled, Input};
use crate::compile::{Commits, Compilation, Former, Kept, LastGood, compile_kept, compile_last_good};
use crate::report::{Excerpts, text};
use crate::source::{self, File, Limits, SourceSpec, Token};
use anyhow::anyhow;
use moorgate_model::Diagnostics;
use moorgate_snapshot::channel::Release;
use moorgate_snapshot::{FleetName, Reader};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

/// The document that names what was kept.
const KEPT: &str = "kept";
/// From how many different revisions objects may be kept at once: each is read.
const REVISIONS: usize = 32;

/// What a release was made of, as far as its signed records say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Parent {
    commits: Commits,
    kept: Vec<Kept>,
}

#[derive(Deserialize)]
struct KeptDocument {
    objects: Vec<Kept>,
}

/// Puts what a compile with last-good objects gives in the place of the fleets that errors concern. `readers` gives the
/// channel of a fleet.
pub(in crate::cli) async fn apply(
    input: &Input,
    readers: &(dyn Fn(&FleetName) -> Reader + Sync),
    compiled: &Compiled,
    offered: &mut Offered,
) -> Result<(), Failure> {
    let concerned = |name: &&FleetName| compiled.compilation.erring.blocks(name);
    let names: Vec<FleetName> = offered.fleets.keys().filter(concerned).cloned().collect();
    if names.is_empty() {
        return Ok(());
    }
    offered.unreadable = false;
    let mut groups: BTreeMap<Parent, Vec<FleetName>> = BTreeMap::new();
    for name in names {
        match parent(&readers(&name), compiled.sources.roots.len()).await {
            Ok(Some(parent)) => groups.entry(parent).or_default().push(name),
            Ok(None) => {
                warn(&format!("{name}: there is no release yet to keep objects from"));
                offered.unreadable |= compiled.compilation.blocked.all;
            }
            Err(failure) => refuse(offered, &name, &failure),
        }
    }
    let mut cache = BTreeMap::new();
    for (parent, names) in groups {
        match former(input, compiled, &parent, &mut cache).await {
            Ok(former) => {
                let found = &compiled.sources.diagnostics;
                let merged = compile_last_good(&compiled.sources.files, found, &former, &compiled.options);
                say_new(compiled, &merged);
                take(input, compiled, offered, merged, &names);
            }
            Err(failure) => {
                for name in names {
                    refuse(offered, &name, &failure);
                }
            }
        }
    }
    Ok(())
}

fn refuse(offered: &mut Offered, name: &FleetName, failure: &Failure) {
    if let Some(fleet) = offered.fleets.get_mut(name) {
        let help = "objects with errors cannot be kept; give the whole history (fetch-depth: 0, or git fetch \
                    --unshallow), or publish without --on-error=last-good";
        fleet.failure = Some((failure.exit, format!("{:#}: {help}", failure.error)));
    }
}

/// What the newest release of a fleet was made of; none if there is no release.
async fn parent(reader: &Reader, sources: usize) -> Result<Option<Parent>, Failure> {
    let tail = reader.newest(None).await.map_err(read_failure)?;
    let Some(release) = tail.entry.as_ref().and_then(|entry| entry.entry.state.newest()) else {
        return Ok(None);
    };
    let refused = |message: String| Failure::new(Exit::Refused, anyhow!(message));
    let attestation = reader.attestation(release).await.map_err(read_failure)?;
    let no_commit =
        || refused(format!("release {} was made of files that are in no commit", release.sequence));
    let mut commits = Commits::new();
    for material in attestation.iter().flat_map(|attestation| &attestation.provenance.materials) {
        if material.annotations.get("dirty") == Some(&Value::Bool(true)) {
            return Err(no_commit());
        }
        commits.extend(material.digest.get("gitCommit").cloned());
    }
    let entry_commit = release.source.as_ref().map(|source| source.revision.clone());
    if commits.is_empty() {
        commits.extend(entry_commit.filter(|commit| !commit.is_empty()));
    }
    if commits.is_empty() {
        return Err(no_commit());
    }
    if commits.len() != sources {
        let message =
            format!("release {} was made of {} sources, not {sources}", release.sequence, commits.len());
        return Err(refused(message));
    }
    let kept = kept(reader, release).await?;
    Ok(Some(Parent { commits, kept }))
}

/// What a release says that it kept from other commits.
pub(in crate::cli) async fn kept(reader: &Reader, release: &Release) -> Result<Vec<Kept>, Failure> {
    let attestation = reader.attestation(release).await.map_err(read_failure)?;
    let document = attestation.as_ref().and_then(|attestation| attestation.documents.get(KEPT));
    let inline = attestation.as_ref().and_then(|attestation| attestation.inline.get(KEPT));
    Ok(match (inline, document) {
        (Some(inline), _) => serde_json::from_value::<KeptDocument>(inline.clone())?.objects,
        (None, Some(document)) => {
            let bytes = reader.document(document).await.map_err(read_failure)?;
            serde_json::from_slice::<KeptDocument>(&bytes)?.objects
        }
        (None, None) => Vec::new(),
    })
}

/// What the documents of a plan say that it keeps.
pub(super) fn of_documents(documents: &BTreeMap<String, Value>) -> Vec<Kept> {
    let document = documents.get(KEPT).cloned();
    let document = document.and_then(|document| serde_json::from_value::<KeptDocument>(document).ok());
    document.map(|document| document.objects).unwrap_or_default()
}

/// Compiles a source again with what a release says that it kept.
pub(in crate::cli) async fn again(
    input: &Input,
    compiled: &Compiled,
    kept: &[Kept],
) -> Result<Compilation, Failure> {
    let commits: BTreeSet<&Commits> = kept.iter().filter_map(|kept| kept.commits.as_ref()).collect();
    if commits.len() > REVISIONS {
        let message = format!("objects are kept from more than {REVISIONS} revisions");
        return Err(Failure::new(Exit::Refused, anyhow!(message)));
    }
    let mut others = BTreeMap::new();
    for commits in commits {
        others.insert(commits.clone(), read(input, compiled, commits).await?);
    }
    let former = Former::new(&[], &Commits::new(), kept, &others);
    let found = &compiled.sources.diagnostics;
    let again = compile_kept(&compiled.sources.files, found, kept, &former, &compiled.options);
    again.map_err(|object| {
        let message = format!("{object} is not in the commits that it is said to be kept from");
        Failure::new(Exit::Refused, anyhow!(message))
    })
}

/// Reads the objects of a release from the repositories of the sources.
async fn former(
    input: &Input,
    compiled: &Compiled,
    parent: &Parent,
    cache: &mut BTreeMap<Commits, Vec<File>>,
) -> Result<Former, Failure> {
    let others: BTreeSet<&Commits> = parent.kept.iter().filter_map(|kept| kept.commits.as_ref()).collect();
    if others.len() > REVISIONS {
        let message = format!("objects are kept from more than {REVISIONS} revisions already");
        return Err(Failure::new(Exit::Refused, anyhow!(message)));
    }
    for commits in std::iter::once(&parent.commits).chain(others.iter().copied()) {
        if !cache.contains_key(commits) {
            let files = read(input, compiled, commits).await?;
            cache.insert(commits.clone(), files);
        }
    }
    let files = cache.get(&parent.commits).map(Vec::as_slice).unwrap_or_default();
    let others: BTreeMap<Commits, Vec<File>> = others
        .into_iter()
        .filter_map(|commits| Some((commits.clone(), cache.get(commits)?.clone())))
        .collect();
    Ok(Former::new(files, &parent.commits, &parent.kept, &others))
}

/// The files of the sources at other commits, under the names that they have now.
async fn read(input: &Input, compiled: &Compiled, commits: &Commits) -> Result<Vec<File>, Failure> {
    let reading = &input.reading;
    let refused = |commit: &str, error: source::SourceError| {
        Failure::new(
            Exit::Refused,
            anyhow!(error).context(format!("the source of the release, {commit:.12}")),
        )
    };
    let token = reading.git_token.as_deref().map(Token::new);
    let mut files = Vec::new();
    let sources = input.sources.iter().zip(&compiled.sources.roots);
    for ((argument, root), commit) in sources.zip(commits) {
        let folder = reading.rev.is_some().then_some(reading.path.as_deref()).flatten();
        let spec =
            SourceSpec::parse(argument, Some(commit), folder).map_err(|error| refused(commit, error))?;
        let spec = spec.with_token(token.clone());
        let read = source::read(&[spec], &Limits::default()).await.map_err(|error| refused(commit, error))?;
        // A source that is one file goes by its label.
        let alone =
            compiled.sources.files.iter().any(|file| !root.label.is_empty() && file.name == root.label);
        files.extend(read.files.into_iter().map(|file| {
            let name = match (&*root.label, alone) {
                ("", _) => file.name,
                (label, true) => label.into(),
                (label, false) => format!("{label}/{}", file.name).into(),
            };
            File { name, bytes: file.bytes }
        }));
    }
    Ok(files)
}

/// Says what is wrong with the objects as they are kept, which the source alone did not show.
fn say_new(compiled: &Compiled, merged: &LastGood) {
    let known: Vec<_> = compiled.compilation.diagnostics.iter().collect();
    let mut new = Diagnostics::default();
    new.extend(merged.compilation.diagnostics.iter().filter(|found| !known.contains(found)).cloned());
    // The lines are those of another commit: no text is quoted from this one.
    let out = text(&new, &Excerpts::new(&[], BTreeMap::new()));
    let _ = anstream::stderr().lock().write_all(out.as_bytes());
}

fn take(input: &Input, compiled: &Compiled, offered: &mut Offered, merged: LastGood, names: &[FleetName]) {
    let LastGood { mut compilation, kept, waiting } = merged;
    if input.reading.deny_warnings {
        compilation.deny_warnings();
    }
    let wanted = |fleet: &FleetName| names.contains(fleet);
    let mut fresh = Offered::of(&compilation, &compiled.sources, input, wanted);
    for name in names {
        let Some(mut fleet) = fresh.fleets.remove(name) else {
            let message = "with what is kept there is no such fleet".to_owned();
            if let Some(fleet) = offered.fleets.get_mut(name) {
                fleet.failure = Some((Exit::No, message));
            }
            continue;
        };
        if let Some(why) = waiting.why(name) {
            fleet.failure = Some((Exit::No, why.to_owned()));
        }
        // What one fleet stores may not tell of the others.
        let both = [&compilation, &compiled.compilation];
        let mine = |one: &&Kept| both.iter().all(|found| found.may_concern(&one.object, name));
        let kept: Vec<Kept> = kept.iter().filter(mine).cloned().collect();
        if !kept.is_empty() {
            let document =
                serde_json::json!({ "format_version": crate::report::FORMAT_VERSION, "objects": kept });
            fleet.documents.insert(KEPT.to_owned(), document);
        }
        fleet.kept = kept;
        offered.fleets.insert(name.clone(), fleet);
    }
    // Files that cannot be read are dealt with, unless they still block.
    offered.unreadable |= compilation.blocked.all;
}

/// What was done with an object, for people.
pub(in crate::cli) fn sentence(kept: &Kept) -> String {
    let object = &kept.object;
    match (&kept.commits, &kept.place) {
        (Some(commits), place) => {
            let commits: Vec<String> = commits.iter().map(|commit| format!("{commit:.12}")).collect();
            let place = place.as_deref().unwrap_or_default();
            format!("{object} is kept as it was in {} ({place})", commits.join(", "))
        }
        (None, _) => format!("{object} is left out: the newest release does not have it"),
    }
}

/// An outcome for scripts, with what was kept.
pub(super) fn with_kept(mut outcome: Value, kept: &[Kept]) -> Value {
    if let Some(object) = outcome.as_object_mut().filter(|_| !kept.is_empty()) {
        object.insert(KEPT.to_owned(), serde_json::json!(kept));
    }
    outcome
}
