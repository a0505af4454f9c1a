//! The `moorgate-relay` command.

#![forbid(unsafe_code)]

use anyhow::Context as _;
use clap::Parser as _;
use moorgate_relay::config::{Config, Options};
use moorgate_relay::drain::End;
use moorgate_relay::run::{Handed, Relay};
use std::io::IsTerminal as _;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

/// Wrong usage.
const USAGE: u8 = 2;
/// The environment is not as it should be: a file, a socket, another relay.
const ENVIRONMENT: u8 = 3;

fn main() -> ExitCode {
    match std::env::args_os().nth(1).as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("drain") => return drain(),
        Some("copy-to") => return copy(),
        _ => {}
    }
    let options = Options { host: host(), ..Options::parse() };
    let checked = options.with_file().map(|options| (options.clone(), options.check()));
    let (options, config) = match checked {
        Ok((options, Ok(config))) => (options, config),
        Ok((_, Err(error))) | Err(error) => return fail(USAGE, &error.into()),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(ENVIRONMENT, &error.into()),
    };
    // What sends traces asks for a runtime around it.
    let entered = runtime.enter();
    let traces = match start_logging(&options, &config) {
        Ok(traces) => traces,
        Err(error) => return fail(USAGE, &error),
    };
    drop(entered);
    let served = runtime.block_on(serve(config));
    end(traces);
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(ENVIRONMENT, &error),
    }
}

/// `moorgate-relay drain`.
fn drain() -> ExitCode {
    let options = moorgate_relay::drain::Options::parse_from(std::env::args_os().skip(1));
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(ENVIRONMENT, &error.into()),
    };
    match runtime.block_on(options.run()) {
        End::Drained => tracing::info!("nobody is connected"),
        End::Late(connected) => tracing::warn!(connected, "time is up"),
    }
    ExitCode::SUCCESS
}

/// `moorgate-relay copy-to`.
fn copy() -> ExitCode {
    let to = moorgate_relay::drain::CopyTo::parse_from(std::env::args_os().skip(1));
    let copied = std::env::current_exe().and_then(|program| to.run(&program));
    match copied.with_context(|| to.folder.display().to_string()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(ENVIRONMENT, &error),
    }
}

#[expect(clippy::print_stderr, reason = "the last word of a command that fails")]
fn fail(code: u8, error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::from(code)
}

#[cfg(feature = "otel")]
type Traces = Option<moorgate_relay::traces::Traces>;
#[cfg(not(feature = "otel"))]
type Traces = ();

/// Log lines to standard error, and spans to a collector if one is named: neither is in the other.
fn start_logging(options: &Options, config: &Config) -> anyhow::Result<Traces> {
    let filter = EnvFilter::try_new(options.log.as_deref().unwrap_or("info")).context("--log")?;
    let filter = filter.add_directive(format!("{}=off", moorgate_relay::TRACE).parse()?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match options.log_format.as_deref().unwrap_or("text") {
        "text" => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        "json" => lines.json().boxed(),
        other => anyhow::bail!("--log-format {other:?}: write text or json"),
    };
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter));
    #[cfg(feature = "otel")]
    {
        let name = config.identity.name().to_string();
        let traces = options.traces.as_deref();
        let traces = traces.map(|to| moorgate_relay::traces::Traces::to(to, &name)).transpose()?;
        subscriber.with(traces.as_ref().map(moorgate_relay::traces::Traces::layer)).init();
        Ok(traces)
    }
    #[cfg(not(feature = "otel"))]
    {
        let _ = config;
        anyhow::ensure!(options.traces.is_none(), "--traces: this relay was built without the feature otel");
        subscriber.init();
        Ok(())
    }
}

#[cfg(feature = "otel")]
fn end(traces: Traces) {
    if let Some(traces) = traces {
        traces.shut_down();
    }
}

#[cfg(not(feature = "otel"))]
fn end((): Traces) {}

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
async fn serve(config: Config) -> anyhow::Result<()> {
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
