//! `moorgate render`: the manifests of `tests/golden/render/*/in.yaml` are exactly `manifests.yaml`, with `--model pool`
//! exactly `pool.yaml`, and with `--model node` exactly `node.yaml`.
//!
//! `MOORGATE_BLESS=1 cargo test --test render` rewrites them; review them like code.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use anyhow::{Context as _, Result};
use moorgate_snapshot::{KeyPair, Signer as _};
use moorgate_tests::program::{Outcome, moorgate, root, run, run_with_input, switched_on};
use std::path::{Path, PathBuf};
use std::process::Command;

fn cases() -> Vec<PathBuf> {
    let folder = root().join("tests/golden/render");
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 3, "only {} cases were found", cases.len());
    cases
}

/// A trust file with the same key at every run.
fn trust(folder: &Path) -> PathBuf {
    let (pair, _) = KeyPair::generate(&[7; 32]).unwrap();
    let path = folder.join("trust.pem");
    std::fs::write(&path, pair.public().to_pem()).unwrap();
    path
}

/// What looks like a CA: nobody reads it here.
fn ca(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("ca.crt");
    std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nZ29sZGVu\n-----END CERTIFICATE-----\n")?;
    Ok(path)
}

fn pool(ca: &Path) -> Result<[&str; 8]> {
    let ca = ca.to_str().context("a path")?;
    let issuer = "https://kubernetes.default.svc";
    Ok(["--model", "pool", "--pool-tls", "relays-tls", "--pool-ca", ca, "--token-issuer", issuer])
}

fn node(ca: &Path) -> Result<[&str; 8]> {
    let ca = ca.to_str().context("a path")?;
    let issuer = "https://kubernetes.default.svc";
    Ok(["--model", "node", "--relay-tls", "relays-tls", "--relay-ca", ca, "--token-issuer", issuer])
}

fn render(trust: &Path) -> Result<Command> {
    let mut command = moorgate()?;
    command.args(["render", "--store", "s3://bucket/prefix", "--trust"]).arg(trust);
    command.args(["--relay-image", "relay:golden", "--envoy-image", "envoy:golden"]);
    Ok(command)
}

#[test]
fn every_case_gives_its_manifests() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let trust = trust(folder.path());
    let ca = ca(folder.path())?;
    let (pool, node) = (pool(&ca)?, node(&ca)?);
    let mut wrong = Vec::new();
    for case in cases() {
        let models = [("manifests.yaml", &[][..]), ("pool.yaml", &pool[..]), ("node.yaml", &node[..])];
        for (output, more) in models {
            let found = run(render(&trust)?.arg(case.join("in.yaml")).args(more))?.ended_with(&[0])?.stdout;
            let golden = case.join(output);
            if switched_on("MOORGATE_BLESS") {
                std::fs::write(&golden, found)?;
            } else if std::fs::read_to_string(&golden).unwrap_or_default() != found {
                wrong.push(golden.display().to_string());
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}\nMOORGATE_BLESS=1 rewrites them");
    Ok(())
}

#[test]
fn the_order_of_objects_does_not_matter() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let trust = trust(folder.path());
    let case = cases().into_iter().find(|case| case.ends_with("shaped")).context("a case")?;
    let text = std::fs::read_to_string(case.join("in.yaml"))?;
    let mut objects: Vec<&str> = text.split("\n---\n").collect();
    objects.reverse();
    let turned = objects.join("\n---\n");
    let found = run_with_input(render(&trust)?.arg("-"), turned.as_bytes())?.ended_with(&[0])?.stdout;
    assert_eq!(found, std::fs::read_to_string(case.join("manifests.yaml"))?);
    Ok(())
}

#[test]
fn ends_as_scripts_expect() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let trust = trust(folder.path());
    let plain = root().join("tests/golden/render/plain/in.yaml");
    let run_with = |more: &[&str], input: &str| -> Result<Outcome> {
        run_with_input(render(&trust)?.args(more), input.as_bytes())
    };
    let path = plain.to_str().context("a path")?;
    run_with(&[path, "--fleet", "shop/edge"], "")?.ended_with(&[0])?;
    let missing = run_with(&[path, "--fleet", "shop/none"], "")?.ended_with(&[2])?;
    assert!(missing.stdout.is_empty() && missing.stderr.contains("shop/none"), "{missing:?}");
    let local = run_with(&[path, "--store", "file:///var/lib/moorgate"], "")?.ended_with(&[2])?;
    assert!(local.stdout.is_empty() && local.stderr.contains("--store-volume"), "{local:?}");
    run_with(&[path, "--store", "file:///var/lib/moorgate", "--store-volume", "claim:store"], "")?
        .ended_with(&[0])?;
    run_with(&[path, "--store-volume", "tape"], "")?.ended_with(&[2])?;
    // Pools and nodes want to know more.
    for missing in [2, 4, 6] {
        let ca = ca(folder.path())?;
        for model in [pool(&ca)?, node(&ca)?] {
            let mut args = model.to_vec();
            args.drain(missing..missing + 2);
            run_with(&[&[path], &args[..]].concat(), "")?.ended_with(&[2])?;
        }
    }
    run_with(&[path, "--model", "pool", "--pool-tls", "t", "--token-issuer", "i", "--pool-ca", path], "")?
        .ended_with(&[2])?;
    // A Gateway that is not served has no manifests, and its error is told.
    let text = std::fs::read_to_string(&plain)?.replace("protocol: HTTP }", "protocol: SMTP }");
    let refused = run_with(&["-"], &text)?.ended_with(&[1])?;
    assert!(!refused.stdout.contains("Deployment") && !refused.stderr.is_empty(), "{refused:?}");
    // Relays would not start with it.
    let bad = folder.path().join("bad.pem");
    std::fs::write(&bad, "no key")?;
    let mut command = moorgate()?;
    command.args(["render", path, "--store", "s3://b", "--trust"]).arg(&bad);
    let bad = run(&mut command)?.ended_with(&[3])?;
    assert!(bad.stderr.contains("bad.pem"), "{}", bad.stderr);
    Ok(())
}
