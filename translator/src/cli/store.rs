//! `moorgate store`

use super::access::{Format, StoreArgs, nonce, store_failure};
use super::output::{json as pretty, print};
use super::table::columns;
use super::{Exit, Failure, outcome};
use crate::publish::Mirror;
use crate::report::FORMAT_VERSION;
use clap::{Args, Subcommand};
use moorgate_snapshot::store::{Probe, Verdict};
use moorgate_snapshot::{Channel, FleetName, Reader};
use serde_json::{Value, json};

/// Look after a store
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate store probe --store s3://bucket/prefix
  moorgate store mirror --store s3://bucket/prefix --store gs://bucket/prefix --trust ci.pub")]
pub(super) struct StoreCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Probe(ProbeArgs),
    Mirror(MirrorArgs),
}

/// Find out whether a store keeps the promises that releases are built on
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate store probe --store s3://bucket/prefix
  moorgate store probe shop/edge -o json

Races creates of one name, reads back, and tries conditional gets, lists and removal, below _probe/, with the credentials
that publish will use; removes what it wrote. Exits 5 if a promise is broken. The first publish of a channel does the same.")]
struct ProbeArgs {
    /// Probe inside the prefix of this fleet, for credentials that reach no further
    fleet: Option<FleetName>,
    #[command(flatten)]
    store: StoreArgs,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Copy to the mirrors what they lack of the first store
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate store mirror --store s3://bucket/prefix --store gs://bucket/prefix --trust trust.pem
  moorgate store mirror shop/edge --channel stable -o json

Every command that writes does this for the channel that it writes to. Entries are copied as they are signed, so no key is
needed. A mirror whose log holds another entry than the first store is never written to. Exits 3 if a mirror cannot be
reached, and 5 if it contradicts the first store.")]
struct MirrorArgs {
    /// The fleet: namespace/gateway or class/NAME; all of the store if not given
    fleet: Option<FleetName>,
    /// Only this channel; all of the fleet if not given
    #[arg(long)]
    channel: Option<Channel>,
    #[command(flatten)]
    store: StoreArgs,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Runs the command.
pub(super) async fn run(command: StoreCommand) -> Result<Exit, Failure> {
    match command.action {
        Action::Probe(args) => probe(args).await,
        Action::Mirror(args) => Box::pin(mirror(args)).await,
    }
}

async fn probe(args: ProbeArgs) -> Result<Exit, Failure> {
    let store = args.store.open()?;
    let probe = store.probe(args.fleet.as_ref(), &nonce()?).await.map_err(store_failure)?;
    match args.output {
        Format::Text => print(&text(&probe))?,
        Format::Json => print(&pretty(&value(&probe)))?,
    }
    Ok(if probe.broken().next().is_some() { Exit::Integrity } else { Exit::Fine })
}

async fn mirror(args: MirrorArgs) -> Result<Exit, Failure> {
    let mirrors = args.store.open_mirrors()?;
    if mirrors.is_empty() {
        let missing =
            anyhow::anyhow!("name the mirrors behind the first store: --store FIRST --store MIRROR");
        return Err(Failure::new(Exit::Usage, missing));
    }
    let (store, trust) = (args.store.open()?, args.store.trust(None).await?);
    let fleets = match args.fleet {
        Some(fleet) => vec![fleet],
        None => store.fleets().await.map_err(store_failure)?,
    };
    let (mut rows, mut values, mut exit) = (Vec::new(), Vec::new(), Exit::Fine);
    for fleet in fleets {
        let part = store.fleet(&fleet);
        let channels = match &args.channel {
            Some(channel) => vec![channel.clone()],
            None => part.channels().await.map_err(store_failure)?,
        };
        for channel in channels {
            let reader = Reader::new(part.clone(), trust.clone(), channel.clone());
            for mirror in &mirrors {
                let done = Mirror::update(&reader, &mirror.fleet(&fleet)).await;
                let said = match &done.result {
                    Ok(done) => format!("{} entries, {} objects copied", done.entries, done.objects),
                    Err(error) => {
                        let integrity = error.integrity || exit == Exit::Integrity;
                        exit = if integrity { Exit::Integrity } else { Exit::Environment };
                        format!("FAILED: {}", error.message)
                    }
                };
                rows.push(vec![fleet.to_string(), channel.to_string(), mirror.to_string(), said]);
                let mut value = outcome::mirror(&done);
                if let Some(object) = value.as_object_mut() {
                    object.insert("fleet".to_owned(), json!(fleet));
                    object.insert("channel".to_owned(), json!(channel));
                }
                values.push(value);
            }
        }
    }
    match args.output {
        Format::Text => print(&columns(&rows))?,
        Format::Json => print(&pretty(&json!({"format_version": FORMAT_VERSION, "mirrors": values})))?,
    }
    Ok(exit)
}

fn text(probe: &Probe) -> String {
    let rows = probe.checks.iter().map(|(promise, verdict)| {
        let (word, detail) = match verdict {
            Verdict::Kept => ("kept", String::new()),
            Verdict::Broken(detail) => ("BROKEN", detail.clone()),
            Verdict::NotAllowed => ("-", "these credentials may not do this, and need not".to_owned()),
        };
        vec![promise.to_string(), word.to_owned(), detail]
    });
    columns(&rows.collect::<Vec<_>>())
}

fn value(probe: &Probe) -> Value {
    let checks = probe.checks.iter().map(|(promise, verdict)| {
        let (result, detail) = match verdict {
            Verdict::Kept => ("kept", None),
            Verdict::Broken(detail) => ("broken", Some(detail)),
            Verdict::NotAllowed => ("not-allowed", None),
        };
        json!({"promise": promise, "result": result, "detail": detail})
    });
    json!({
        "format_version": FORMAT_VERSION,
        "folder": probe.folder,
        "kept": probe.broken().next().is_none(),
        "checks": checks.collect::<Vec<Value>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use moorgate_snapshot::store::Promise;

    #[test]
    fn a_broken_promise_shows() {
        let checks = vec![
            (Promise::ReadBack, Verdict::Kept),
            (Promise::RacingCreates, Verdict::Broken("3 of 16 won".to_owned())),
            (Promise::List, Verdict::NotAllowed),
        ];
        let probe = Probe { folder: "s3://bucket/_probe/x".to_owned(), checks };
        let text = text(&probe);
        assert!(text.contains("racing-creates  BROKEN  3 of 16 won\n"), "{text}");
        let value = value(&probe);
        assert_eq!(value["kept"], false);
        assert_eq!(value["checks"][1]["detail"], "3 of 16 won");
    }
}
