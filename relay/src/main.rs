//! The `moorgate-relay` command.

use anyhow::Context as _;
use clap::Parser as _;
use moorgate_relay::config::Options;
use moorgate_relay::run::{Handed, Relay};
use std::io::IsTerminal as _;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Wrong usage.
const USAGE: u8 = 2;
/// The environment is not as it should be: a file, a socket, another relay.
const ENVIRONMENT: u8 = 3;

fn main() -> ExitCode {
    let options = Options { host: host(), ..Options::parse() };
    let checked = options.with_file().map(|options| (options.clone(), options.check()));
    let (options, config) = match checked {
        Ok((options, Ok(config))) => (options, config),
        Ok((_, Err(error))) | Err(error) => return fail(USAGE, &error.into()),
    };
    if let Err(error) = start_logging(options.log_format.as_deref(), options.log.as_deref()) {
        return fail(USAGE, &error);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(ENVIRONMENT, &error.into()),
    };
    match runtime.block_on(serve(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(ENVIRONMENT, &error),
    }
}

#[expect(clippy::print_stderr, reason = "the last word of a command that fails")]
fn fail(code: u8, error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::from(code)
}

fn start_logging(format: Option<&str>, filter: Option<&str>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter.unwrap_or("info")).context("--log")?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format.unwrap_or("text") {
        "text" => subscriber.with_ansi(std::io::stderr().is_terminal()).init(),
        "json" => subscriber.json().init(),
        other => anyhow::bail!("--log-format {other:?}: write text or json"),
    }
    Ok(())
}

/// What this relay is called if nobody gives it a name: its pod, or else its host.
fn host() -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the command line reads the environment")]
    let pod = std::env::var("POD_NAME").ok().filter(|name| !name.is_empty());
    pod.or_else(|| {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
        Some(host.trim().to_owned()).filter(|host| !host.is_empty())
    })
}

/// The sockets that systemd, or whoever started this process, handed to it (`LISTEN_FDS`, sd_listen_fds(3)).
fn handed() -> Handed {
    let mut held = listenfd::ListenFd::from_env();
    let mut handed = Handed::default();
    for at in 0..held.len() {
        if let Ok(Some(socket)) = held.take_unix_listener(at) {
            handed.unix.push(socket);
        } else if let Ok(Some(socket)) = held.take_tcp_listener(at) {
            handed.tcp.push(socket);
        }
    }
    handed
}

/// Serves until SIGTERM or SIGINT; SIGHUP reads keys again.
async fn serve(config: moorgate_relay::config::Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let relay = Relay::start_with(config, handed()).await?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "the relay serves");
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => relay.reload().await,
        }
    }
    tracing::info!("the relay drains");
    relay.stop().await;
    Ok(())
}
