//! `moorgate verify --rebuild`: compiles a source again, compares, and co-signs.

use super::access::{read_failure, warn};
use super::input::Compiled;
use super::verify::{Steps, Verdict, VerifyArgs};
use super::{Exit, Failure, provenance};
use anyhow::anyhow;
use moorgate_snapshot::channel::Release;
use moorgate_snapshot::signature::Signer;
use moorgate_snapshot::writer::{self, WriteError};
use moorgate_snapshot::{Digest, FleetName, Reader, Role};

/// Compiles, and compares with what the target names; co-signs if asked to and all holds.
pub(super) async fn run(args: &VerifyArgs, steps: &mut Steps) -> Result<(), Failure> {
    let compiled = args.reading.compile(&args.sources).await?;
    if compiled.compilation.diagnostics.has_errors() {
        warn("the source has errors: what they cost is missing from what was rebuilt");
    }
    let rebuilt = match args.target.strip_prefix("snapshot:") {
        Some(id) => by_id(&compiled, id, steps),
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
fn by_id(compiled: &Compiled, id: &str, steps: &mut Steps) -> Option<(FleetName, Digest)> {
    let fleets = &compiled.compilation.fleets;
    let found = fleets.iter().find(|(_, fleet)| fleet.snapshot.id().to_string() == id);
    if let Some((name, fleet)) = found {
        steps.add(
            "rebuild",
            Verdict::Holds,
            format!("{name} compiles to the same bytes{}", commit(compiled)),
        );
        return Some((name.clone(), fleet.snapshot.id()));
    }
    let others: Vec<String> =
        fleets.iter().map(|(name, fleet)| format!("{name} {}", fleet.snapshot.id().short())).collect();
    steps.add("rebuild", Verdict::Broken, format!("the source compiles to others: {}", others.join(", ")));
    None
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
    if rebuilt == release.snapshot {
        let detail = format!("{} is what the source compiles to{}", rebuilt.short(), commit(compiled));
        steps.add("rebuild", Verdict::Holds, detail);
        return Ok(Some((fleet, rebuilt)));
    }
    let detail = format!("released {}, the source compiles to {}", release.snapshot.short(), rebuilt.short());
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
