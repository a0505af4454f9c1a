//! Late values on the whole path: endpoints and sealed secrets from the store, without a file or a cluster beside the relay.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use anyhow::{Result, ensure};
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{Request, Target, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::program::{Outcome, moorgate, run, run_with_input};
use moorgate_tests::redaction::Markers;
use moorgate_tests::stack::{CHANNEL, Stack};
use moorgate_tests::{ports, wait};
use std::net::SocketAddr;
use std::path::PathBuf;

const HOST: &str = "shop.example.com";

struct Scene {
    stack: Stack,
    tls: u16,
    recipient: String,
    markers: Markers,
}

impl Scene {
    /// A fleet with one HTTPS host and one Service, of which nothing lies beside the relay.
    fn new() -> Result<Self> {
        let (mut stack, tls) = (Stack::new("edge/public")?, ports::free()?);
        let identity = stack.folder().join("keys/edge.identity");
        let made = run(moorgate()?.args(["keygen", "--age"]).arg(&identity))?.ended_with(&[0])?;
        let recipient =
            made.stdout.split_whitespace().find(|word| word.starts_with("age1")).unwrap().to_owned();
        let mut markers = Markers::default();
        let text = std::fs::read_to_string(&identity)?;
        markers.text("the identity", text.lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).unwrap());
        stack.relay_arguments = vec![format!("--secrets-identity={}", identity.display())];
        let gateway = manifest::gateway("edge", "public", &[Listener::https("https", tls, "tls")]);
        let route =
            manifest::http_route("shop", "shop", "edge/public", &[HOST], &manifest::rule("/", "cart"));
        stack.publish_documents(&[
            manifest::gateway_class(),
            gateway,
            manifest::service("shop", "cart"),
            route,
        ])?;
        Ok(Self { stack, tls, recipient, markers })
    }

    fn put(&self, addresses: &[SocketAddr]) -> Result<Outcome> {
        let text = format!(
            "endpoints:\n- {{service: shop/cart, port: http, addresses: {addresses:?}, zone: eu-1a}}\n"
        );
        let text =
            addresses.iter().fold(text, |text, one| text.replace(&format!("{one}"), &format!("'{one}'")));
        let signed = self.stack.signed("endpoints")?;
        let arguments: Vec<_> = signed.get_args().skip(1).map(ToOwned::to_owned).collect();
        let mut command = copy_of(&signed, &["endpoints", "put", "edge/public", "-"]);
        run_with_input(command.args(arguments), text.as_bytes())?.ended_with(&[0])
    }

    fn seal(&mut self, certificate: &Certificate, recipient: &str) -> Result<Outcome> {
        self.markers.key("the sealed key", &certificate.key);
        let file = |name: &str| -> PathBuf { self.stack.folder().join(name) };
        std::fs::write(file("sealed.crt"), &certificate.certificate)?;
        std::fs::write(file("sealed.key"), &certificate.key)?;
        let mut command = self.stack.signed("seal")?;
        command.args(["edge/public", "edge/tls", "--recipient", recipient]);
        command.arg("--cert").arg(file("sealed.crt")).arg("--private-key").arg(file("sealed.key"));
        let outcome = run(&mut command)?.ended_with(&[0])?;
        std::fs::remove_file(file("sealed.key"))?;
        Ok(outcome)
    }

    fn answers(&self, certificate: &Certificate, who: &str) -> Result<()> {
        let target = Target::tls(self.tls, HOST, &certificate.der)?;
        send_until(&target, &Request::get(HOST, "/"), who, |answer| answer.who() == who)?;
        Ok(())
    }

    fn secret_is(&self, state: &str) -> Result<()> {
        wait::until(&format!("the secret to be {state}"), || {
            let told = self.stack.relay_admin("/snapshot")?["fleets"][0]["bindings"]["secrets"].clone();
            ensure!(told[0]["state"] == state, "{told}");
            Ok(())
        })
    }
}

/// The program and environment of a command, with other arguments.
fn copy_of(command: &std::process::Command, arguments: &[&str]) -> std::process::Command {
    let mut copy = std::process::Command::new(command.get_program());
    copy.args(arguments);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => copy.env(name, value),
            None => copy.env_remove(name),
        };
    }
    copy
}

#[test]
fn endpoints_and_sealed_secrets_come_from_the_store_move_and_outlive_it() {
    let mut scene = Scene::new().unwrap();
    let [one, two] = ["cart-1", "cart-2"].map(|name| Backend::start(name).unwrap());
    let [old, new] = [HOST, HOST].map(|name| Certificate::for_names(&[name]).unwrap());
    let recipient = scene.recipient.clone();
    scene.put(&[one.address()]).unwrap();
    scene.seal(&old, &recipient).unwrap();
    scene.stack.start_relay().unwrap();
    scene.stack.start_envoy(&[scene.tls]).unwrap();
    scene.answers(&old, "cart-1").unwrap();
    let snapshot = scene.stack.relay_admin("/snapshot").unwrap()["fleets"][0]["snapshot"].clone();
    let updates = |scene: &mut Scene, name: &str| scene.stack.envoy().unwrap().stat(name).unwrap();
    let before = updates(&mut scene, "cluster_manager.cds.update_success");
    // The workload moves and the certificate is renewed: no release, and nothing but these values on the wire.
    scene.put(&[two.address()]).unwrap();
    scene.answers(&old, "cart-2").unwrap();
    scene.seal(&new, &recipient).unwrap();
    scene.answers(&new, "cart-2").unwrap();
    assert_eq!(scene.stack.relay_admin("/snapshot").unwrap()["fleets"][0]["snapshot"], snapshot);
    assert_eq!(updates(&mut scene, "cluster_manager.cds.update_success"), before, "clusters were sent again");
    // Sealed for somebody else: the last good one is served on.
    let stranger = moorgate().and_then(|mut command| {
        run(command.args(["keygen", "--age"]).arg(scene.stack.folder().join("keys/stranger.identity")))
    });
    let stranger = stranger.unwrap().stdout;
    let stranger = stranger.split_whitespace().find(|word| word.starts_with("age1")).unwrap().to_owned();
    let other = Certificate::for_names(&[HOST]).unwrap();
    scene.seal(&other, &stranger).unwrap();
    scene.secret_is("last-good").unwrap();
    scene.answers(&new, "cart-2").unwrap();
    scene.seal(&new, &recipient).unwrap();
    scene.secret_is("ok").unwrap();
    // Everything restarts, and the store is gone: both are served from the disk.
    scene.stack.kill_all();
    std::fs::rename(scene.stack.store(), scene.stack.folder().join("elsewhere")).unwrap();
    scene.stack.start_relay().unwrap();
    scene.stack.start_envoy(&[scene.tls]).unwrap();
    scene.answers(&new, "cart-2").unwrap();
    // A new machine, whose cache is empty, and of the stores only a mirror is there: endpoints and secrets are in it.
    std::fs::rename(scene.stack.folder().join("elsewhere"), scene.stack.store()).unwrap();
    scene.stack.kill_all();
    let mirror = scene.stack.folder().join("mirror");
    std::fs::create_dir(&mirror).unwrap();
    let mut command = scene.stack.command("store").unwrap();
    let stores = format!("{},file://{}", scene.stack.store_url(), mirror.display());
    command.arg("mirror").env("MOORGATE_STORE", &stores);
    let told = run(&mut command).unwrap().ended_with(&[0]).unwrap();
    assert!(told.stdout.contains("objects copied"), "{told:?}");
    std::fs::rename(scene.stack.store(), scene.stack.folder().join("elsewhere")).unwrap();
    std::fs::rename(&mirror, scene.stack.store()).unwrap();
    std::fs::remove_dir_all(scene.stack.cache()).unwrap();
    std::fs::create_dir(scene.stack.cache()).unwrap();
    scene.stack.start_relay().unwrap();
    scene.stack.start_envoy(&[scene.tls]).unwrap();
    scene.answers(&new, "cart-2").unwrap();
    // No key in the clear anywhere but in Envoy: not in the store, not on the relay's disk, not in a log.
    scene.stack.kill_all();
    for (folder, least) in [("store", 8), ("cache", 3), ("logs", 2)] {
        let (found, read) = scene.markers.find_below(&scene.stack.folder().join(folder)).unwrap();
        assert!(found.is_empty() && read >= least, "{folder}: {read} files: {found:?}");
    }
    let (found, _) = scene.markers.find_below(&scene.stack.folder().join("keys")).unwrap();
    assert!(!found.is_empty(), "the search finds nothing");
}

#[test]
fn what_is_put_is_listed_and_removed_and_mistakes_have_their_line() {
    let scene = Scene::new().unwrap();
    let address: SocketAddr = "10.0.0.1:8080".parse().unwrap();
    scene.put(&[address]).unwrap();
    let list = || run(scene.stack.command("endpoints").unwrap().args(["list", "edge/public"])).unwrap();
    let listed = list().ended_with(&[0]).unwrap();
    assert!(listed.stdout.starts_with("endpoints shop/cart "), "{}", listed.stdout);
    let mut command = scene.stack.signed("endpoints").unwrap();
    let arguments: Vec<_> = command.get_args().skip(1).map(ToOwned::to_owned).collect();
    command = copy_of(&command, &["endpoints", "remove", "edge/public", "shop/cart"]);
    run(command.args(&arguments)).unwrap().ended_with(&[0]).unwrap();
    assert_eq!(list().stdout, "");
    let mut command = copy_of(&command, &["endpoints", "put", "edge/public", "-"]);
    let wrong = run_with_input(command.args(&arguments), b"endpoints:\n- service: cart\n").unwrap();
    assert!(wrong.code == 1 && wrong.stderr.contains("-:2:"), "{wrong:?}");
    // A stranger's key writes nothing that is believed.
    let stranger = scene.stack.folder().join("keys/stranger.key");
    run(moorgate().unwrap().arg("keygen").arg(&stranger)).unwrap().ended_with(&[0]).unwrap();
    let mut command = copy_of(&command, &["endpoints", "put", "edge/public", "-", "--channel", CHANNEL]);
    let key = format!("file:{}", stranger.display());
    let text = b"endpoints:\n- {service: shop/cart, addresses: ['10.0.0.6:1']}\n";
    let refused = run_with_input(command.args(["--key", &key]), text).unwrap();
    assert_eq!(refused.code, 5, "{refused:?}");
    assert_eq!(list().stdout, "");
}
