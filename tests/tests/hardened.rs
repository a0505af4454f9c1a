//! The relay without rights: nobody, a read-only file system, few system calls. It serves all the same.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use anyhow::{Context as _, Result, ensure};
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{Request, Target, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::program::root;
use moorgate_tests::stack::Stack;
use moorgate_tests::{ports, wait};
use std::time::Duration;

const HOST: &str = "shop.example.com";

/// How a program is started so that it may do little.
fn confined(stack: &Stack) -> Vec<String> {
    let mut words = vec!["unshare".to_owned(), "--mount".to_owned(), "--propagation=private".to_owned()];
    if !rustix::process::geteuid().is_root() {
        words.extend(["--user".to_owned(), "--map-root-user".to_owned()]);
    }
    words.push(root().join("tests/tools/confine").display().to_string());
    words.push(stack.folder().display().to_string());
    words
}

/// A line of `/proc/PID/status`.
fn status(process: u32, name: &str) -> Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.context("no such line")?.split_whitespace().next().unwrap_or_default().to_owned())
}

#[test]
fn as_nobody_on_a_read_only_file_system_with_few_system_calls_the_relay_serves_and_restarts() {
    let (mut stack, backend) = (Stack::new("edge/public").unwrap(), Backend::start("cart").unwrap());
    let (port, tls) = (ports::free().unwrap(), ports::free().unwrap());
    let certificate = Certificate::for_names(&[HOST]).unwrap();
    stack.set_endpoints("shop", "cart", &[backend.address()]).unwrap();
    stack.set_secret("edge", "tls", &certificate).unwrap();
    let listeners = [Listener::http("http", port), Listener::https("https", tls, "tls")];
    let publish = |stack: &Stack, rules: &str| {
        let gateway = manifest::gateway("edge", "public", &listeners);
        let route = manifest::http_route("shop", "shop", "edge/public", &[HOST], rules);
        let documents = [manifest::gateway_class(), gateway, manifest::service("shop", "cart"), route];
        stack.publish_documents(&documents).unwrap();
    };
    publish(&stack, &manifest::rule("/", "cart"));
    stack.relay_prefix = confined(&stack);
    stack.start_relay().unwrap();
    let process = stack.relay().unwrap().id();
    assert_eq!(status(process, "Seccomp").unwrap(), "2", "no filter of system calls");
    assert_eq!(status(process, "NoNewPrivs").unwrap(), "1");
    // Root of a user namespace has no other user to be.
    let all = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    if rustix::process::geteuid().is_root() && all.split_whitespace().eq(["0", "0", "4294967295"]) {
        assert_eq!(status(process, "Uid").unwrap(), "65534");
        assert_eq!(u64::from_str_radix(&status(process, "CapEff").unwrap(), 16).unwrap(), 0);
    }
    stack.start_envoy(&[port, tls]).unwrap();
    let answers = |target: &Target, path: &str, status: u16| {
        send_until(target, &Request::get(HOST, path), path, |answer| answer.status == status).unwrap();
    };
    answers(&Target::plain(port), "/", 200);
    answers(&Target::tls(tls, HOST, &certificate.der).unwrap(), "/", 200);
    // A release, a reload, and a start from what the first one kept on the disk.
    publish(&stack, &manifest::rule("/only", "cart"));
    answers(&Target::plain(port), "/", 404);
    let pid = rustix::process::Pid::from_raw(i32::try_from(process).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    wait::until("keys to be read again", || {
        stack.relay()?.check()?;
        ensure!(stack.relay()?.output().contains("trusted keys were read again"), "not yet");
        Ok(())
    })
    .unwrap();
    assert!(stack.relay().unwrap().terminate(Duration::from_secs(30)).unwrap().success());
    std::fs::rename(stack.store(), stack.folder().join("elsewhere")).unwrap();
    stack.start_relay().unwrap();
    answers(&Target::plain(port), "/only", 200);
    // It has never started another program: there is no shell in what it needs.
    let children = format!("/proc/{0}/task/{0}/children", stack.relay().unwrap().id());
    assert_eq!(std::fs::read_to_string(children).unwrap_or_default(), "");
}

#[test]
fn the_confinement_confines() {
    let stack = Stack::new("edge/public").unwrap();
    let words = confined(&stack);
    let run = |program: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new(&words[0]);
        command.args(&words[1..]).args(["--", program]).args(arguments);
        moorgate_tests::program::run(&mut command).unwrap()
    };
    assert_eq!(run("/bin/true", &[]).code, 0);
    // SIGSYS, for a call that nobody without rights needs.
    assert_eq!(run("/usr/bin/chown", &["65534", stack.folder().to_str().unwrap()]).code, 128 + 31);
    let outside = stack.folder().join("../moorgate-confined");
    let touched = run("/usr/bin/touch", &[outside.to_str().unwrap()]);
    assert!(touched.code == 1 && !outside.exists(), "{touched:?}");
}
