//! `make demo`: from a git commit to an answered request, on a real Envoy, in plain words.
//!
//! Ends by itself with a summary and leaves nothing behind; with `KEEP=1` it keeps everything running until Ctrl-C and
//! prints what to try.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that tells a story")]

#[path = "demo/configuration.rs"]
mod configuration;
#[path = "demo/story.rs"]
mod story;
#[path = "demo/teller.rs"]
mod teller;

use anyhow::Result;
use moorgate_tests::{process, program};
use std::process::ExitCode;
use std::sync::mpsc;
use tokio::signal::unix::{SignalKind, signal};

/// What ends the program.
enum End {
    Story(Result<()>),
    Signal,
}

fn main() -> ExitCode {
    let (ended, end) = mpsc::channel();
    if let Err(error) = watch_signals(ended.clone()) {
        eprintln!("error: {error:#}");
        return ExitCode::from(3);
    }
    let keep = program::switched_on("KEEP");
    let teller = std::thread::spawn(move || drop(ended.send(End::Story(story::tell(keep)))));
    match end.recv() {
        Ok(End::Story(Ok(()))) => {
            let _ = teller.join();
            ExitCode::SUCCESS
        }
        Ok(End::Story(Err(error))) => {
            let _ = teller.join();
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
        Ok(End::Signal) | Err(_) => {
            // The teller's thread may be waiting for anything: end what it started without it.
            process::kill_everything();
            println!("\nStopped; nothing is left behind.");
            ExitCode::from(130)
        }
    }
}

fn watch_signals(ended: mpsc::Sender<End>) -> Result<()> {
    let runtime = moorgate_tests::runtime();
    let _guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    runtime.spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        let _ = ended.send(End::Signal);
    });
    Ok(())
}
