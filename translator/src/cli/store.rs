//! `moorgate store`

use super::access::{Format, StoreArgs, nonce, store_failure};
use super::output::{json as pretty, print};
use super::table::columns;
use super::{Exit, Failure};
use crate::report::FORMAT_VERSION;
use clap::{Args, Subcommand};
use moorgate_snapshot::FleetName;
use moorgate_snapshot::store::{Probe, Verdict};
use serde_json::{Value, json};

/// Look after a store
#[derive(Debug, Args)]
pub(super) struct StoreCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Probe(ProbeArgs),
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

/// Runs the command.
pub(super) async fn run(command: StoreCommand) -> Result<Exit, Failure> {
    match command.action {
        Action::Probe(args) => probe(args).await,
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
