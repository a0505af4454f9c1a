//! `moorgate bootstrap`

use super::input::Reading;
use super::output::{self, json};
use super::{Exit, Failure};
use crate::startup;
use crate::xds::{self, AdsProtocol, BootstrapOptions, RelayCertificate, RelayToken, Shown};
use anyhow::anyhow;
use clap::{Args, ValueEnum};
use moorgate_model::ir;
use moorgate_snapshot::FleetName;
use serde_json::Value;
use std::io::Write as _;

/// Print an Envoy bootstrap that takes a fleet's configuration from its relay
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate bootstrap shop/edge > envoy.json
  moorgate bootstrap shop/edge --relay unix:/run/moorgate/shop.edge.sock --admin unix:/run/envoy/admin.sock
  moorgate bootstrap shop/edge --zone eu-1a > envoy.json
  moorgate bootstrap shop/edge --relay relay.moorgate.svc:18000 --relay-ca /etc/moorgate/ca.crt \\
    --token-file /var/run/secrets/moorgate/token
  moorgate bootstrap shop/edge gateways/ --stats 127.0.0.1:19002 > envoy.json

  With a source, what the EnvoyProxy of the fleet says of telemetry.metrics and bootstrap holds; without one, nobody says anything.

  With a certificate, which Envoy takes anew when its file is renewed:
    tls='--relay relay.example:18000 --relay-ca /tls/ca.crt --client-cert /tls/tls.crt --client-key /tls/tls.key'
    moorgate bootstrap shop/edge $tls --client-secrets /etc/envoy/relay > /etc/envoy/envoy.json
    moorgate bootstrap shop/edge $tls --print client-secret > /etc/envoy/relay/client.json
    moorgate bootstrap shop/edge $tls --print relay-ca > /etc/envoy/relay/ca.json")]
pub(super) struct BootstrapArgs {
    /// The fleet: namespace/gateway or class/NAME
    fleet: FleetName,
    /// Directories, files, `-` for stdin, or with --rev git repositories: where the EnvoyProxy of the fleet is
    #[arg(value_name = "SOURCE", conflicts_with = "cluster")]
    sources: Vec<String>,
    #[command(flatten)]
    reading: Reading,
    /// Show statistics at /stats/prometheus of IP:PORT, and nothing else of the admin interface there
    #[arg(long, value_name = "IP:PORT", value_parser = shown)]
    stats: Option<Shown>,
    /// Where the relay listens: unix:PATH or HOST:PORT; `{fleet}` stands for the fleet's name
    #[arg(long, default_value = "unix:/run/moorgate/{fleet}.sock")]
    relay: String,
    /// For a relay at HOST:PORT that knows Envoys by tokens: the file of a projected token of Envoy's ServiceAccount
    /// with the relay's audience
    #[arg(long, value_name = "FILE", requires = "relay_ca")]
    token_file: Option<String>,
    /// The CA of the certificate of a relay at HOST:PORT, PEM; the certificate must name HOST
    #[arg(long, value_name = "FILE")]
    relay_ca: Option<String>,
    /// For a relay at HOST:PORT that knows Envoys by certificates: Envoy's own, PEM
    #[arg(long, value_name = "FILE", requires_all = ["client_key", "relay_ca"], conflicts_with = "token_file")]
    client_cert: Option<String>,
    /// The key of that, PEM
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    client_key: Option<String>,
    /// The folder in which Envoy finds what --print client-secret prints as client.json, and what --print relay-ca prints
    /// as ca.json: with that it takes renewed certificates without a restart
    #[arg(long, value_name = "DIR", requires = "client_cert")]
    client_secrets: Option<String>,
    /// What to print
    #[arg(long, value_enum, default_value_t = Printed::Bootstrap)]
    print: Printed,
    /// Where Envoy's own admin interface listens: unix:PATH or HOST:PORT
    #[arg(long, default_value = "127.0.0.1:19000")]
    admin: String,
    /// The node's name, as the relay shows it
    #[arg(long, value_name = "ID")]
    node: Option<String>,
    /// The zone in which Envoy runs, such as eu-1a, for policies that keep requests there (zoneAware.preferLocal)
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// How Envoy asks
    #[arg(long, value_enum, default_value_t = Protocol::Delta)]
    protocol: Protocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Printed {
    /// The bootstrap
    Bootstrap,
    /// client.json of the folder of --client-secrets: where Envoy's certificate lies, and nothing secret
    ClientSecret,
    /// ca.json of that folder: where the CA of the relay's certificate lies
    RelayCa,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    /// Only what changed
    Delta,
    /// State of the world
    Sotw,
}

fn shown(text: &str) -> Result<Shown, String> {
    Shown::parse(text).ok_or_else(|| "write IP:PORT, with brackets around an IPv6 address".to_owned())
}

/// Runs the command.
pub(super) async fn run(args: BootstrapArgs) -> Result<Exit, Failure> {
    let bootstrap = document(&args)?;
    if args.sources.is_empty() && !args.reading.live.cluster || args.print != Printed::Bootstrap {
        return finish(bootstrap, &ir::Proxy::default(), &args).map(|()| Exit::Fine);
    }
    let compiled = args.reading.compile(&args.sources).await?;
    compiled.print_diagnostics();
    let compilation = &compiled.compilation;
    let fleet = compilation.fleets.get(&args.fleet).filter(|fleet| !fleet.ir.listeners.is_empty());
    let Some(fleet) = fleet else {
        if compilation.diagnostics.has_errors() {
            return Ok(Exit::No);
        }
        return Err(Failure::new(Exit::Usage, anyhow!("the source has no fleet {}", args.fleet)));
    };
    if args.zone.is_none() && fleet.ir.clusters.values().any(|cluster| cluster.policies.in_zone) {
        let mut stderr = anstream::stderr().lock();
        let _ = writeln!(
            stderr,
            "requests of {} stay in their zone: say with --zone which one it is",
            args.fleet
        );
    }
    finish(bootstrap, &fleet.ir.proxy, &args)?;
    Ok(compiled.exit())
}

/// Prints a bootstrap with what its fleet says of it.
fn finish(bootstrap: Value, proxy: &ir::Proxy, args: &BootstrapArgs) -> Result<(), Failure> {
    let document = if args.print == Printed::Bootstrap {
        let made = startup::complete(bootstrap, proxy, args.stats.as_ref(), &[]);
        made.map_err(|error| Failure::new(Exit::No, error))?
    } else {
        bootstrap
    };
    output::print(&json(&document))?;
    Ok(())
}

/// What is printed, as far as it is the same for all fleets.
fn document(args: &BootstrapArgs) -> Result<Value, Failure> {
    let relay = args.relay.replace("{fleet}", &args.fleet.socket_name());
    let options = BootstrapOptions {
        fleet: args.fleet.to_string(),
        relay,
        admin: args.admin.clone(),
        node: args.node.clone().unwrap_or_else(|| args.fleet.socket_name()),
        protocol: match args.protocol {
            Protocol::Delta => AdsProtocol::Delta,
            Protocol::Sotw => AdsProtocol::StateOfTheWorld,
        },
        zone: args.zone.clone(),
    };
    let usage = |words: &'static str| Failure::new(Exit::Usage, anyhow!(words));
    let tls = args.certificate();
    let document = match (args.token_file.clone().zip(args.relay_ca.clone()), &tls, args.print) {
        (_, Some(tls), Printed::ClientSecret) => Some(xds::client_secret(tls)),
        (_, Some(tls), Printed::RelayCa) => Some(xds::relay_authority(tls)),
        (_, None, Printed::ClientSecret | Printed::RelayCa) => {
            return Err(usage("--print of a secret goes with --client-cert and --client-key"));
        }
        (_, Some(tls), Printed::Bootstrap) => xds::bootstrap_with_certificate(&options, tls),
        (Some((file, ca)), None, _) => {
            xds::bootstrap_with_token(&options, &RelayToken { file, ca, hands_over: None })
        }
        (None, None, _) if args.relay_ca.is_some() => {
            return Err(usage("--relay-ca goes with --token-file, or with --client-cert and --client-key"));
        }
        (None, None, _) => xds::bootstrap(&options),
    };
    document.ok_or_else(|| {
        usage("addresses are unix:PATH or HOST:PORT, and a token or certificate goes to HOST:PORT only")
    })
}

impl BootstrapArgs {
    fn certificate(&self) -> Option<RelayCertificate> {
        Some(RelayCertificate {
            certificate: self.client_cert.clone()?,
            key: self.client_key.clone()?,
            ca: self.relay_ca.clone()?,
            secrets: self.client_secrets.clone(),
        })
    }
}
