//! The pages of `deploy/runbooks`: every shell block is run as it stands, against a store on disk and a real relay.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use anyhow::{Result, ensure};
use moorgate_tests::machine::{FLEET, Machine};
use moorgate_tests::program::run;
use moorgate_tests::wait;
use std::path::Path;
use std::process::Command;

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small whole number")]
fn number(metric: f64) -> u64 {
    metric as u64
}

#[test]
fn first_start() -> Result<()> {
    let machine = Machine::started()?;
    assert_eq!(number(machine.metric("moorgate_relay_trust_document", FLEET)?), 1);
    assert_eq!(number(machine.metric("moorgate_relay_head_expired", FLEET)?), 0);
    Ok(())
}

#[test]
fn leaked_ci_key() -> Result<()> {
    let mut machine = Machine::started()?;
    machine.publish(1, "ci.key")?;
    let honest = machine.serves(2)?["snapshot"].clone();
    machine.publish(66, "ci.key")?;
    machine.publish(67, "ci.key")?;
    let stolen = machine.serves(4)?["snapshot"].clone();
    assert_ne!(stolen, honest);
    machine.write(2)?;
    machine.follow("leaked-ci-key.md")?;
    let served = machine.serves(6)?["snapshot"].clone();
    assert!(served != stolen && served != honest, "{served}");
    assert_eq!(number(machine.metric("moorgate_relay_trust_document", FLEET)?), 2);
    // The thief goes on in vain.
    machine.write(68)?;
    let refused = run(&mut machine.shell("moorgate publish gateways/ --allow-unrelated --key file:ci.key")?)?;
    refused.ended_with(&[4])?;
    Ok(())
}

#[test]
fn lost_key() -> Result<()> {
    let mut machine = Machine::started()?;
    machine.publish(1, "ci.key")?;
    machine.serves(2)?;
    machine.write(2)?;
    machine.follow("lost-key.md")?;
    machine.serves(3)?;
    wait::until("the third document", || {
        machine.reload()?;
        ensure!(number(machine.metric("moorgate_relay_trust_document", FLEET)?) == 3);
        Ok(())
    })
}

#[test]
fn restored_bucket() -> Result<()> {
    let mut machine = Machine::started()?;
    machine.publish(1, "ci.key")?;
    machine.serves(2)?;
    copy(&machine.path("store"), &machine.path("copy"))?;
    machine.publish(2, "ci.key")?;
    machine.publish(3, "ci.key")?;
    let before = machine.serves(4)?["snapshot"].clone();
    std::fs::remove_dir_all(machine.path("store"))?;
    std::fs::rename(machine.path("copy"), machine.path("store"))?;
    wait::until("the relay to notice", || {
        let status = machine.serves(4)?;
        assert_eq!(status["snapshot"], before, "what is served stays");
        machine.reload()?;
        machine.metric("moorgate_relay_refusals_total", "reason=\"rollback\"").map(drop)
    })?;
    machine.write(4)?;
    machine.follow("restored-bucket.md")?;
    assert_ne!(machine.serves(11)?["snapshot"], before);
    // A slot that nobody can read stops gc, which names what mends it; and it does.
    std::fs::write(
        machine.path("store/fleets/gateway/shop/edge/log/stable").join(format!("{:020}", 12)),
        "cut",
    )?;
    let stopped = run(&mut machine.shell("moorgate gc")?)?.ended_with(&[5])?;
    let void = "moorgate trust void next.json shop/edge@stable 12 12";
    ensure!(
        stopped.stderr.contains("entry 12 cannot be read") && stopped.stderr.contains(void),
        "{stopped:?}"
    );
    machine.run(&format!(
        "rm next.json && moorgate trust next next.json
        {void}
        moorgate trust sign next.json --key file:root/a.key
        moorgate trust sign next.json --key file:root/b.key
        moorgate trust publish next.json
        moorgate gc"
    ))?;
    machine.publish(5, "ci.key")?;
    machine.serves(13)?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    run(command.arg("-r").arg(from).arg(to))?.ended_with(&[0])?;
    Ok(())
}
