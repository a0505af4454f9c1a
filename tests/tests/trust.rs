//! Who may do what, with the real commands: co-signatures, provenance, audits, renewals.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use anyhow::{Context as _, Result, ensure};
use moorgate_snapshot::PublicKey;
use moorgate_snapshot::envelope::Envelope;
use moorgate_tests::machine::Machine;
use moorgate_tests::program::{Outcome, run};
use serde_json::Value;
use std::path::PathBuf;

/// A script that must end with this code.
fn ends(machine: &Machine, code: i32, script: &str) -> Result<Outcome> {
    run(&mut machine.shell(script)?)?.ended_with(&[code]).context(script.to_owned())
}

/// A machine with a chain of trust whose source is a git repository, and which requires a co-signature in `stable`.
fn cosigned() -> Result<Machine> {
    let machine = Machine::new()?;
    let git = "git -c user.name=A -c user.email=a@example.com -c init.defaultBranch=main";
    machine.run(&format!("cd gateways && {git} init -q && {git} add -A && {git} commit -q -m one"))?;
    machine.run(
        "moorgate keygen root.key && moorgate keygen ci.key && moorgate keygen on-call.key && moorgate keygen second.key
        moorgate trust init trust.json --root root.pub --threshold 1
        moorgate trust add trust.json ci.pub --role publish
        moorgate trust add trust.json on-call.pub --role pin
        moorgate trust add trust.json second.pub --role cosign --name 'second pair of eyes'
        moorgate trust require trust.json --signatures 1 --channel stable
        moorgate trust sign trust.json --key file:root.key
        moorgate trust publish trust.json",
    )?;
    Ok(machine)
}

const PUBLISH: &str = "moorgate publish gateways --rev HEAD --key file:ci.key -o json";

#[test]
fn a_channel_that_requires_it_serves_what_a_second_key_rebuilt_and_nothing_else() -> Result<()> {
    let machine = cosigned()?;
    let refused = ends(&machine, 4, PUBLISH)?;
    ensure!(refused.stderr.contains("second pair of eyes"), "{}", refused.stderr);
    let id = refused.json()?["fleets"][0]["snapshot"].as_str().context("a snapshot")?.to_owned();
    // A channel without the rule takes it as it is.
    machine.run("moorgate publish gateways --rev HEAD --key file:ci.key --channel next")?;
    let cosign = |from: &str, key: &str| {
        format!("moorgate verify snapshot:{id} --rebuild {from} gateways --cosign --key file:{key}.key")
    };
    // Nobody else, and of no other source.
    ends(&machine, 4, &cosign("--rev HEAD", "ci"))?;
    machine.write(7)?;
    ends(&machine, 5, &cosign("", "second"))?;
    ends(&machine, 4, PUBLISH)?;
    let signed = ends(&machine, 0, &cosign("--rev HEAD", "second"))?;
    ensure!(signed.stdout.contains("co-signature"), "{}", signed.stdout);
    let published = ends(&machine, 0, PUBLISH)?.json()?;
    let target = &published["fleets"][0]["entry"]["state"]["target"];
    ensure!(target["cosignatures"].as_array().is_some_and(|all| all.len() == 1), "{target}");
    ends(&machine, 0, "moorgate verify shop/edge")?;
    // Rebuilt from its commit, the release holds; from other files it does not.
    ends(&machine, 0, "moorgate verify shop/edge --rebuild --rev HEAD gateways")?;
    let other = ends(&machine, 5, "moorgate verify shop/edge --rebuild gateways")?;
    ensure!(other.stdout.contains("the source compiles to"), "{}", other.stdout);
    // On call may pin it: the co-signature goes with the release.
    let pinned =
        ends(&machine, 0, &format!("moorgate pin shop/edge {id} --reason r --key file:on-call.key -o json"))?;
    let pin = &pinned.json()?["entry"]["state"]["pin"]["release"];
    ensure!(pin["cosignatures"].as_array().is_some_and(|all| all.len() == 1), "{pin}");
    ends(&machine, 0, "moorgate verify shop/edge")?;
    Ok(())
}

/// Read as a tool would that knows DSSE, in-toto and SLSA, and nothing of ours.
#[test]
fn the_attestation_beside_a_snapshot_is_plain_in_toto() -> Result<()> {
    let machine = cosigned()?;
    let id = machine.run(&format!("{PUBLISH} --channel next"))?.json()?["fleets"][0]["snapshot"].clone();
    let head = machine.run("git -C gateways rev-parse HEAD HEAD^{tree}")?.stdout;
    let (commit, tree) = head.trim().split_once('\n').context("two lines")?;
    let folder = machine.path("store/fleets/gateway/shop/edge/att").join(id.as_str().context("an id")?);
    let files: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    let [file] = files.as_slice() else { panic!("{files:?}") };
    let envelope: Envelope = serde_json::from_slice(&std::fs::read(file)?)?;
    let (kind, payload) = (&envelope.payload_type, &envelope.payload);
    assert_eq!(kind, "application/vnd.in-toto+json");
    let mut signed = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    signed.extend_from_slice(payload);
    let keys = PublicKey::all_from_pem(&std::fs::read(machine.path("ci.pub"))?)?;
    assert!(keys[0].verifies(&signed, &envelope.signatures[0].sig));
    let statement: Value = serde_json::from_slice(payload)?;
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    assert_eq!(statement["subject"][0]["digest"]["sha256"], id);
    let build = &statement["predicate"]["buildDefinition"];
    assert_eq!(build["resolvedDependencies"][0]["digest"]["gitCommit"], commit);
    assert_eq!(build["resolvedDependencies"][0]["digest"]["gitTree"], tree);
    assert_eq!(build["externalParameters"]["crds"], "standard");
    let run = &statement["predicate"]["runDetails"];
    assert!(
        run["builder"]["builderDependencies"][0]["digest"]["sha256"]
            .as_str()
            .is_some_and(|it| it.len() == 64)
    );
    Ok(())
}

#[test]
fn an_audit_and_a_renewal_tell_by_their_exit_codes() -> Result<()> {
    let machine = cosigned()?;
    for turn in 1..=3 {
        machine.write(turn)?;
        machine.run("moorgate publish gateways --key file:ci.key --channel next --allow-dirty")?;
    }
    let audit = "moorgate log shop/edge --channel next --audit";
    let held = ends(&machine, 0, audit)?;
    ensure!(held.stdout.contains("the chain holds, to the first entry: 3 slots"), "{}", held.stdout);
    ends(&machine, 4, "moorgate renew shop/edge --channel next --expires-in 1h --key file:ci.key")?;
    machine.run(
        "moorgate keygen renew.key && moorgate trust next next.json && moorgate trust add next.json renew.pub --role renew
        moorgate trust sign next.json --key file:root.key && moorgate trust publish next.json",
    )?;
    ends(&machine, 0, "moorgate renew --all --channel next --expires-in 1h --key file:renew.key")?;
    // The same document again is no news; one that nobody signed is refused.
    ends(&machine, 0, "moorgate trust publish next.json && moorgate trust next third.json")?;
    ends(&machine, 4, "moorgate trust publish third.json")?;
    let log = machine.path("store/fleets/gateway/shop/edge/log/next");
    let second = log.join(format!("{:020}", 2));
    let mut bytes = std::fs::read(&second)?;
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&second, bytes)?;
    let broken = ends(&machine, 5, audit)?;
    ensure!(broken.stdout.contains("BROKEN"), "{}", broken.stdout);
    Ok(())
}
