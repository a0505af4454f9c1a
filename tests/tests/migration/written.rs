//! What version 0.1.0 wrote: a store and the cache of a relay. A later program takes both.
//!
//! `MOORGATE_BLESS=1` writes them anew, which only a change of formats before the first release may need.

use crate::site::case;
use anyhow::{Context as _, Result, ensure};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::program::switched_on;
use moorgate_tests::stack::Stack;
use moorgate_tests::wait;
use std::path::Path;

const FLEET: &str = "shop/edge";
const KEPT: &str = "written-by-0.1.0";

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// A relay that has started, whatever else it lacks, serves the snapshot.
fn serves(stack: &mut Stack, snapshot: &str) -> Result<()> {
    stack.start_relay()?;
    stack.wait_for_snapshot(snapshot)
}

fn write() -> Result<()> {
    let mut stack = Stack::new(FLEET)?;
    let rules = manifest::rule("/", "web");
    stack.publish_documents(&[
        manifest::gateway_class(),
        manifest::gateway("shop", "edge", &[Listener::http("http", 8080)]),
        manifest::service("shop", "web"),
        manifest::http_route("shop", "web", FLEET, &["shop.example.com"], &rules),
    ])?;
    let snapshot = stack.compiled(&stack.folder().join("source.yaml"))?;
    serves(&mut stack, &snapshot)?;
    let state = stack.cache().join("shop.edge/state");
    wait::until("the disk", || {
        ensure!(state.is_file(), "{} is not there", state.display());
        Ok(())
    })?;
    stack.kill_all();
    let kept = case(KEPT);
    let _ = std::fs::remove_dir_all(&kept);
    copy(&stack.store(), &kept.join("store"))?;
    copy(&stack.cache(), &kept.join("cache"))?;
    std::fs::copy(stack.trust(), kept.join("publish.pub"))?;
    Ok(std::fs::write(kept.join("snapshot"), snapshot + "\n")?)
}

/// Once from the store, with an empty disk, and once from the disk, without the store.
pub(crate) fn an_older_store_and_an_older_cache_are_served() -> Result<()> {
    if switched_on("MOORGATE_BLESS") {
        write()?;
    }
    let kept = case(KEPT);
    let snapshot = std::fs::read_to_string(kept.join("snapshot"))?.trim().to_owned();
    for part in ["store", "cache"] {
        let mut stack = Stack::new(FLEET)?;
        std::fs::copy(kept.join("publish.pub"), stack.trust())?;
        copy(&kept.join(part), &stack.folder().join(part))?;
        serves(&mut stack, &snapshot).with_context(|| part.to_owned())?;
        let lacks = if part == "store" { stack.cache() } else { stack.store() };
        ensure!(lacks.is_dir(), "{}", lacks.display());
    }
    Ok(())
}
