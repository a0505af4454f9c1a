//! `moorgate verify --rebuild`: compiles a source again, compares, and co-signs.

use super::access::{read_failure, store_failure, warn};
use super::input::{Compiled, Input};
use super::publish::{descends_in, last_good};
use super::verify::{Steps, Verdict, VerifyArgs};
use super::{Exit, Failure, provenance};
use crate::compile::Kept;
use anyhow::anyhow;
use moorgate_snapshot::channel::Release;
use moorgate_snapshot::signature::Signer;
use moorgate_snapshot::writer::{self, WriteError};
use moorgate_snapshot::{Digest, FleetName, Reader, Role, StoreError};

/// Attestations of one snapshot that are looked at.
const ATTESTATIONS: usize = 100;

/// Compiles, and compares with what the target names; co-signs if asked to and all holds.
pub(super) async fn run(args: &VerifyArgs, steps: &mut Steps) -> Result<(), Failure> {
    let compiled = args.reading.compile(&args.sources).await?;
    if compiled.compilation.diagnostics.has_errors() {
        warn("the source has errors: what they cost is missing from what was rebuilt");
    }
    let rebuilt = match args.target.strip_prefix("snapshot:") {
        Some(id) => by_id(args, &compiled, id, steps).await?,
        None => released(args, &compiled, steps).await?,
    };
    let Some((fleet, snapshot)) = rebuilt.filter(|_| args.cosign) else { return Ok(()) };
    if !steps.hold() {
        steps.add("co-signature", Verdict::Broken, "not signed: not everything above holds");
        return Ok(());
    }
    let Some(key) = &args.key else { return Ok(()) };
    let signer = key.open()?;
    let reader = args.store.reader(&fleet, &args.channel).await?;
    cosign(&reader, &snapshot, &*signer).await?;
    steps.add(
        "co-signature",
        Verdict::Holds,
        format!("{fleet} {} by key {}", snapshot.short(), signer.public().id().short()),
    );
    Ok(())
}

/// The fleet of the source that compiles to this snapshot.
async fn by_id(
    args: &VerifyArgs,
    compiled: &Compiled,
    id: &str,
    steps: &mut Steps,
) -> Result<Option<(FleetName, Digest)>, Failure> {
    let fleets = &compiled.compilation.fleets;
    let found = fleets.iter().find(|(_, fleet)| fleet.snapshot.id().to_string() == id);
    if let Some((name, fleet)) = found {
        steps.add(
            "rebuild",
            Verdict::Holds,
            format!("{name} compiles to the same bytes{}", commit(compiled)),
        );
        return Ok(Some((name.clone(), fleet.snapshot.id())));
    }
    let wanted: Digest = id.parse().map_err(|error| Failure::new(Exit::Usage, anyhow::Error::from(error)))?;
    for name in fleets.keys() {
        let reader = args.store.reader(name, &args.channel).await?;
        for kept in attested(&reader, &wanted).await? {
            let Some(rebuilt) = with_kept(args, compiled, name, &kept, steps).await? else { return Ok(None) };
            if rebuilt == wanted {
                let detail =
                    format!("{name} compiles to the same bytes with what it kept{}", commit(compiled));
                steps.add("rebuild", Verdict::Holds, detail);
                return Ok(Some((name.clone(), rebuilt)));
            }
        }
    }
    let others: Vec<String> =
        fleets.iter().map(|(name, fleet)| format!("{name} {}", fleet.snapshot.id().short())).collect();
    steps.add("rebuild", Verdict::Broken, format!("the source compiles to others: {}", others.join(", ")));
    Ok(None)
}

/// What signed attestations of a snapshot say that it kept from other commits.
async fn attested(reader: &Reader, snapshot: &Digest) -> Result<Vec<Vec<Kept>>, Failure> {
    let names = match reader.store().list(&format!("att/{snapshot}"), ATTESTATIONS).await {
        Ok(names) => names,
        Err(StoreError::Denied { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(store_failure(error)),
    };
    let mut found = Vec::new();
    for digest in names.iter().filter_map(|name| name.split('.').next()?.parse::<Digest>().ok()) {
        let release = Release {
            attestation: Some(digest),
            ..Release::new(*snapshot, 0, time::OffsetDateTime::UNIX_EPOCH)
        };
        // Others lie there too, and one that nobody trusted signed says nothing.
        if let Ok(kept) = last_good::kept(reader, &release).await
            && !kept.is_empty()
            && !found.contains(&kept)
        {
            found.push(kept);
        }
    }
    Ok(found)
}

/// The snapshot of a fleet with these objects from other commits; none if it cannot be compiled so, which is told.
async fn with_kept(
    args: &VerifyArgs,
    compiled: &Compiled,
    fleet: &FleetName,
    kept: &[Kept],
    steps: &mut Steps,
) -> Result<Option<Digest>, Failure> {
    let input = Input { sources: args.sources.clone(), reading: args.reading.clone() };
    for one in kept {
        let said = last_good::sentence(one);
        match lies_before(&input, compiled, one) {
            Some(true) => steps.add("kept", Verdict::Warning, said),
            Some(false) => {
                let detail = format!("{said}, and that is no part of the history of this commit");
                steps.add("kept", Verdict::Broken, detail);
            }
            None => {
                let detail =
                    format!("{said}: whether that is older cannot be told without the whole history");
                steps.add("kept", Verdict::Unknown, detail);
            }
        }
    }
    match last_good::again(&input, compiled, kept).await {
        Ok(again) => {
            let found = again.fleets.get(fleet).map(|found| found.snapshot.id());
            if found.is_none() {
                steps.add("rebuild", Verdict::Broken, format!("with what is kept there is no fleet {fleet}"));
            }
            Ok(found)
        }
        Err(failure) => {
            let detail =
                format!("it keeps objects of other commits, which cannot be read: {:#}", failure.error);
            steps.add("rebuild", Verdict::Unknown, detail);
            Ok(None)
        }
    }
}

/// Whether the commits that an object was kept from lie in the history of the source.
fn lies_before(input: &Input, compiled: &Compiled, kept: &Kept) -> Option<bool> {
    let Some(commits) = &kept.commits else { return Some(true) };
    let revisions = &compiled.sources.revisions;
    if commits.len() != revisions.len() || revisions.len() != input.sources.len() {
        return None;
    }
    let places = commits.iter().zip(revisions).zip(&input.sources);
    let older = places.map(|((old, revision), source)| {
        let path = std::path::Path::new(source.strip_prefix("file://").unwrap_or(source));
        if **old == *revision.commit { Some(true) } else { descends_in(path, old, &revision.commit) }
    });
    older.collect::<Option<Vec<bool>>>().map(|older| older.into_iter().all(|older| older))
}

/// Compares with the newest release of a channel, and with the commit that it names.
async fn released(
    args: &VerifyArgs,
    compiled: &Compiled,
    steps: &mut Steps,
) -> Result<Option<(FleetName, Digest)>, Failure> {
    let fleet: FleetName =
        args.target.parse().map_err(|error| Failure::new(Exit::Usage, anyhow::Error::from(error)))?;
    let reader = args.store.reader(&fleet, &args.channel).await?;
    let tail = match reader.newest(None).await {
        Ok(tail) => tail,
        // What does not hold is told above.
        Err(error) if error.is_integrity() => return Ok(None),
        Err(error) => return Err(read_failure(error)),
    };
    let Some(release) = tail.entry.and_then(|entry| entry.entry.state.newest().cloned()) else {
        steps.add("rebuild", Verdict::Broken, "nothing is released");
        return Ok(None);
    };
    let Some(rebuilt) = compiled.compilation.fleets.get(&fleet).map(|fleet| fleet.snapshot.id()) else {
        steps.add("rebuild", Verdict::Broken, format!("the source has no fleet {fleet}"));
        return Ok(None);
    };
    source(compiled, &release, steps);
    parameters(args, &reader, &release, steps).await;
    let kept = last_good::kept(&reader, &release).await?;
    let (rebuilt, also) = if kept.is_empty() {
        (rebuilt, "")
    } else {
        let Some(rebuilt) = with_kept(args, compiled, &fleet, &kept, steps).await? else { return Ok(None) };
        (rebuilt, " with what it kept")
    };
    if rebuilt == release.snapshot {
        let detail = format!("{} is what the source compiles to{also}{}", rebuilt.short(), commit(compiled));
        steps.add("rebuild", Verdict::Holds, detail);
        return Ok(Some((fleet, rebuilt)));
    }
    let detail =
        format!("released {}, the source compiles to {}{also}", release.snapshot.short(), rebuilt.short());
    steps.add("rebuild", Verdict::Broken, detail);
    Ok(None)
}

fn source(compiled: &Compiled, release: &Release, steps: &mut Steps) {
    let named = release.source.as_ref().map(|source| source.revision.as_str()).unwrap_or_default();
    let read = compiled.sources.revisions.first();
    let commit = read.filter(|read| !read.dirty).map(|read| &*read.commit).unwrap_or_default();
    if named.is_empty() {
        steps.add("commit", Verdict::Warning, "the release names none");
    } else if named == commit {
        steps.add("commit", Verdict::Holds, named);
    } else {
        let found = if commit.is_empty() { "files that are those of no commit" } else { commit };
        steps.add("commit", Verdict::Broken, format!("the release names {named}, and this is {found}"));
    }
}

/// Options that differ are why bytes differ, more often than not.
async fn parameters(args: &VerifyArgs, reader: &Reader, release: &Release, steps: &mut Steps) {
    let Ok(Some(attestation)) = reader.attestation(release).await else { return };
    let own = provenance::parameters(&args.reading);
    for (name, said) in &attestation.provenance.parameters {
        let here = own.get(name).cloned().unwrap_or_default();
        if here != *said {
            steps.add(
                "options",
                Verdict::Warning,
                format!("{name}: released with {said}, rebuilt with {here}"),
            );
        }
    }
    let version = &attestation.provenance.version;
    if *version != env!("CARGO_PKG_VERSION") {
        let detail = format!("released by version {version}, rebuilt by {}", env!("CARGO_PKG_VERSION"));
        steps.add("translator", Verdict::Warning, detail);
    }
}

async fn cosign(reader: &Reader, snapshot: &Digest, signer: &dyn Signer) -> Result<(), Failure> {
    let (id, fleet) = (signer.public().id(), reader.store().fleet());
    let may =
        |role| reader.trust().keys().any(|key| key.key.id() == id && key.may(role, fleet, reader.channel()));
    if !may(Role::Cosign) {
        return Err(Failure::new(Exit::Refused, anyhow!("key {id} is not trusted to co-sign")));
    }
    writer::write_cosignature(reader.store(), snapshot, signer).await.map_err(|error| {
        let exit = if matches!(error, WriteError::Store(_)) { Exit::Environment } else { Exit::Integrity };
        Failure::new(exit, error)
    })
}

fn commit(compiled: &Compiled) -> String {
    let read = compiled.sources.revisions.first().filter(|read| !read.dirty);
    read.map(|read| format!(", at {}", read.commit)).unwrap_or_default()
}
