//! `moorgate verify`

use super::access::{Format, KeySource, StoreArgs, read_failure, store_failure};
use super::input::Reading;
use super::output::{json as pretty, print};
use super::table::columns;
use super::{Exit, Failure, rebuild};
use crate::report::FORMAT_VERSION;
use anyhow::anyhow;
use clap::Args;
use moorgate_snapshot::channel::Release;
use moorgate_snapshot::reader::ReadError;
use moorgate_snapshot::trust::chain::ChainError;
use moorgate_snapshot::{Channel, Digest, FleetName, Position, Reader, Slot, Tail};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// Check signatures, the chain of entries, and all bytes of what a channel names
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate verify shop/edge --trust ci.pub --store file:///var/lib/moorgate
  moorgate verify snapshot:4f1c… --trust ci.pub -o json
  moorgate verify shop/edge --trust trust.json --rebuild --rev 4c2a91e --path gateways .
  moorgate verify snapshot:4f1c… --trust trust.json --rebuild --rev main . --cosign --key file:second.key

--rebuild compiles the source again and compares: the same bytes, or the answer is no. --cosign then says so with a key
that has the role cosign, for channels that require it; the key's holder chooses what to rebuild from. Objects that a
release kept with --on-error last-good are taken from the commits that it names, which must lie in the history of the
source's; each is listed.
Prints a verdict for each step. Exits 5 if anything does not hold, 3 if the store, or a commit that it takes, cannot be
read.")]
pub(super) struct VerifyArgs {
    /// A fleet (namespace/gateway or class/NAME), or snapshot:ID
    #[arg(value_name = "FLEET or snapshot:ID")]
    pub target: String,
    /// The channel
    #[arg(long, default_value_t = Channel::stable())]
    pub channel: Channel,
    /// With --rebuild: the source
    #[arg(value_name = "SOURCE", requires = "rebuild")]
    pub sources: Vec<String>,
    /// Compile the source again and compare the snapshot
    #[arg(long, requires = "sources")]
    rebuild: bool,
    /// Sign what was rebuilt
    #[arg(long, requires_all = ["rebuild", "key"])]
    pub cosign: bool,
    /// The key to co-sign with: file:PATH, env:NAME or exec:COMMAND
    #[arg(long, value_name = "KEY", env = "MOORGATE_COSIGN_KEY", hide_env_values = true)]
    pub key: Option<KeySource>,
    #[command(flatten)]
    pub reading: Reading,
    /// How many entries to follow the chain back
    #[arg(long, default_value_t = 1000)]
    depth: usize,
    #[command(flatten)]
    pub store: StoreArgs,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// How one step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Holds,
    /// Worth an alarm, and no reader is misled by it.
    Warning,
    /// It cannot be told here: what it takes is missing.
    Unknown,
    Broken,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Holds => "ok",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
            Self::Broken => "broken",
        }
    }
}

pub(super) struct Step {
    what: String,
    verdict: Verdict,
    detail: String,
}

#[derive(Default)]
pub(super) struct Steps(Vec<Step>);

impl Steps {
    pub(super) fn add(&mut self, what: impl Into<String>, verdict: Verdict, detail: impl Into<String>) {
        self.0.push(Step { what: what.into(), verdict, detail: detail.into() });
    }

    /// Whether everything holds so far.
    pub(super) fn hold(&self) -> bool {
        self.0.iter().all(|step| !matches!(step.verdict, Verdict::Broken | Verdict::Unknown))
    }

    fn exit(&self) -> Exit {
        if self.0.iter().any(|step| step.verdict == Verdict::Broken) {
            Exit::Integrity
        } else if self.hold() {
            Exit::Fine
        } else {
            Exit::Environment
        }
    }

    /// Notes what does not hold; a store that cannot be read ends the command.
    fn broken(&mut self, what: impl Into<String>, error: ReadError) -> Result<(), Failure> {
        if !error.is_integrity() {
            return Err(read_failure(error));
        }
        self.add(what, Verdict::Broken, error.to_string());
        Ok(())
    }
}

/// Runs the command.
pub(super) async fn run(args: VerifyArgs) -> Result<Exit, Failure> {
    let mut steps = Steps::default();
    if let Some(id) = args.target.strip_prefix("snapshot:") {
        let id: Digest = id.parse().map_err(|error| Failure::new(Exit::Usage, anyhow::Error::from(error)))?;
        snapshot_anywhere(&args, id, &mut steps).await?;
    } else {
        let fleet: FleetName =
            args.target.parse().map_err(|error| Failure::new(Exit::Usage, anyhow::Error::from(error)))?;
        chain_of_trust(&args.store, &mut steps).await?;
        let reader = args.store.reader(&fleet, &args.channel).await?;
        channel(&reader, args.depth, &mut steps).await?;
    }
    if args.rebuild {
        rebuild::run(&args, &mut steps).await?;
    }
    let holds = steps.hold();
    match args.output {
        Format::Text => {
            let rows = steps
                .0
                .iter()
                .map(|step| vec![step.verdict.as_str().to_owned(), step.what.clone(), step.detail.clone()]);
            print(&columns(&rows.collect::<Vec<_>>()))?;
        }
        Format::Json => print(&pretty(&json!({
            "format_version": FORMAT_VERSION,
            "target": args.target,
            "holds": holds,
            "steps": steps.0.iter().map(|step| json!({
                "step": step.what, "verdict": step.verdict.as_str(), "detail": step.detail,
            })).collect::<Vec<Value>>(),
        })))?,
    }
    Ok(steps.exit())
}

/// Whether the store's chain of trust goes on from the trust file, if that starts one.
async fn chain_of_trust(args: &StoreArgs, steps: &mut Steps) -> Result<(), Failure> {
    let Some(anchor) = args.anchor()?.filter(|anchor| anchor.number().is_some()) else { return Ok(()) };
    let followed = anchor.follow(&args.open()?).await;
    match followed.error {
        Some(ChainError::Store(error)) => return Err(store_failure(error)),
        Some(error) => steps.add("trust", Verdict::Broken, format!("{:#}", anyhow!(error))),
        None => {
            let number = followed.anchor.number().unwrap_or_default();
            steps.add("trust", Verdict::Holds, format!("document {number} is the newest"));
        }
    }
    Ok(())
}

async fn channel(reader: &Reader, depth: usize, steps: &mut Steps) -> Result<(), Failure> {
    let tail = match reader.newest(None).await {
        Ok(tail) => tail,
        Err(error) => return steps.broken("log", error),
    };
    let Some(newest) = &tail.entry else {
        let verdict = if tail.voids.is_empty() { Verdict::Warning } else { Verdict::Broken };
        steps.add("log", verdict, "no entry that verifies");
        return Ok(());
    };
    let signers: Vec<String> = newest.signers.iter().map(|key| format!("key {}", key.short())).collect();
    let entry = &newest.entry;
    steps.add("log", Verdict::Holds, format!("entry {} signed by {}", entry.sequence, signers.join(", ")));
    head(&tail, entry.sequence, entry.expires, steps);
    for void in &tail.voids {
        steps.add(format!("entry {}", void.sequence), Verdict::Broken, format!("void: {}", void.error));
    }
    chain(reader, newest.position(), depth, steps).await?;
    let mut releases: BTreeMap<Digest, (Vec<&str>, &Release)> = BTreeMap::new();
    let state = &entry.state;
    for (name, release) in [
        ("target", state.target.as_ref()),
        ("previous good", state.previous_good.as_ref()),
        ("candidate", state.candidate.as_ref().map(|candidate| &candidate.release)),
        ("pin", state.pin.as_ref().map(|pin| &pin.release)),
    ] {
        if let Some(release) = release {
            releases.entry(release.snapshot).or_insert((Vec::new(), release)).0.push(name);
        }
    }
    for (names, release) in releases.into_values() {
        check_release(reader, &names.join(", "), release, steps).await?;
    }
    Ok(())
}

fn head(tail: &Tail, newest: u64, expires: Option<OffsetDateTime>, steps: &mut Steps) {
    match (&tail.head_error, tail.head) {
        (Some(error), _) => steps.add("head", Verdict::Broken, error.to_string()),
        (None, Some(head)) if head == newest => {
            steps.add("head", Verdict::Holds, format!("names entry {head}"));
        }
        (None, Some(head)) => {
            steps.add("head", Verdict::Warning, format!("names entry {head}, behind the log"));
        }
        (None, None) => steps.add("head", Verdict::Warning, "missing: relays find entries by probing"),
    }
    if expires.is_some_and(|expires| expires < super::access::now()) {
        steps.add("expiry", Verdict::Warning, "the newest entry has expired: relays raise an alarm");
    }
}

/// Follows each entry to the one it names as previous.
async fn chain(reader: &Reader, newest: Position, depth: usize, steps: &mut Steps) -> Result<(), Failure> {
    let mut place = newest;
    for checked in 0..depth {
        let found = reader.slot(place.sequence).await.map_err(read_failure)?;
        let what = format!("entry {}", place.sequence);
        let previous = match found {
            Slot::Entry(entry) if entry.digest == place.digest => entry.entry.previous,
            Slot::Entry(_) => {
                steps.add(what, Verdict::Broken, "not the entry that the next one names");
                return Ok(());
            }
            Slot::Void(error) => {
                steps.add(what, Verdict::Broken, format!("void: {error}"));
                return Ok(());
            }
            Slot::Empty if checked == 0 => {
                steps.add(what, Verdict::Broken, "the head holds it, the log does not");
                return Ok(());
            }
            // gc removes old entries.
            Slot::Empty => {
                steps.add("chain", Verdict::Holds, format!("{checked} entries; older ones are not kept"));
                return Ok(());
            }
        };
        let Some(previous) = previous else {
            steps.add("chain", Verdict::Holds, format!("{} entries, from the first one", checked + 1));
            return Ok(());
        };
        place = previous;
    }
    steps.add("chain", Verdict::Holds, format!("the newest {depth} entries"));
    Ok(())
}

async fn check_release(
    reader: &Reader,
    names: &str,
    release: &Release,
    steps: &mut Steps,
) -> Result<(), Failure> {
    let what = format!("{names} {}", release.snapshot.short());
    // Page by page: a bundle would hide a page that is missing.
    let plain = Release { bundle: None, ..release.clone() };
    let snapshot = match reader.fetch(&plain, &|_| None).await {
        Ok(snapshot) => snapshot,
        Err(error) => return steps.broken(what, error),
    };
    let (pages, records) = (snapshot.pages().len(), snapshot.manifest().records());
    steps.add(&what, Verdict::Holds, format!("{pages} pages, {records} records"));
    if let Some(bundle) = &release.bundle {
        if bundle.snapshot != release.snapshot || reader.bundle_holds(bundle, &snapshot).await {
            steps.add(format!("{what} bundle"), Verdict::Holds, bundle.digest.short());
        } else {
            let detail = "missing or damaged: cold relays fetch page by page";
            steps.add(format!("{what} bundle"), Verdict::Warning, detail);
        }
    }
    let what = format!("{what} attestation");
    let attestation = match reader.attestation(release).await {
        Ok(Some(attestation)) => attestation,
        Ok(None) => return Ok(()),
        Err(error) => return steps.broken(what, error),
    };
    for (name, document) in &attestation.documents {
        if let Err(error) = reader.document(document).await {
            return steps.broken(format!("{what} {name}"), error);
        }
    }
    let names = attestation.documents.keys().chain(attestation.inline.keys());
    let mut names: Vec<&str> = names.map(String::as_str).collect();
    names.push("provenance");
    steps.add(what, Verdict::Holds, names.join(", "));
    Ok(())
}

/// A snapshot by its id, in whichever fleet has it.
async fn snapshot_anywhere(args: &VerifyArgs, id: Digest, steps: &mut Steps) -> Result<(), Failure> {
    let fleets = args.store.open_to_read().await?.fleets().await.map_err(store_failure)?;
    let mut found = false;
    for fleet in fleets {
        let reader = args.store.reader(&fleet, &args.channel).await?;
        if matches!(reader.manifest(&id).await, Err(ReadError::Missing(_))) {
            continue;
        }
        found = true;
        let release = released(&reader, &id, args.depth).await?;
        if let Some(release) = &release {
            let detail = format!("entry {} of {}@{}", release.sequence, fleet, args.channel);
            steps.add("released", Verdict::Holds, detail);
        } else {
            let detail = format!("no entry of {fleet}@{} names it: nothing vouches for it", args.channel);
            steps.add("released", Verdict::Warning, detail);
        }
        let bare = Release::new(id, 0, OffsetDateTime::UNIX_EPOCH);
        check_release(&reader, &fleet.to_string(), &release.unwrap_or(bare), steps).await?;
    }
    if found {
        Ok(())
    } else {
        Err(Failure::new(Exit::Refused, anyhow!("no fleet in this store has snapshot {id}")))
    }
}

async fn released(reader: &Reader, id: &Digest, depth: usize) -> Result<Option<Release>, Failure> {
    let tail = match reader.newest(None).await {
        Ok(tail) => tail,
        Err(error) if error.is_integrity() => return Ok(None),
        Err(error) => return Err(read_failure(error)),
    };
    for (_, slot) in reader.history(tail.next.saturating_sub(1), depth).await.map_err(read_failure)? {
        if let Slot::Entry(entry) = slot
            && let Some(release) = entry.entry.state.releases().find(|release| release.snapshot == *id)
        {
            return Ok(Some(release.clone()));
        }
    }
    Ok(None)
}
