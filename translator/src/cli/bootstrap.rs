//! `moorgate bootstrap`

use super::output::{self, json};
use super::{Exit, Failure};
use crate::xds::{self, AdsProtocol, BootstrapOptions, RelayToken};
use anyhow::anyhow;
use clap::{Args, ValueEnum};
use moorgate_snapshot::FleetName;

/// Print an Envoy bootstrap that takes a fleet's configuration from its relay
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate bootstrap shop/edge > envoy.json
  moorgate bootstrap shop/edge --relay unix:/run/moorgate/shop.edge.sock --admin unix:/run/envoy/admin.sock
  moorgate bootstrap shop/edge --relay relay.moorgate.svc:18000 --relay-ca /etc/moorgate/ca.crt \\
    --token-file /var/run/secrets/moorgate/token")]
pub(super) struct BootstrapArgs {
    /// The fleet: namespace/gateway or class/NAME
    fleet: FleetName,
    /// Where the relay listens: unix:PATH or HOST:PORT; `{fleet}` stands for the fleet's name
    #[arg(long, default_value = "unix:/run/moorgate/{fleet}.sock")]
    relay: String,
    /// For a relay at HOST:PORT that knows Envoys by tokens: the file of a projected token of Envoy's ServiceAccount
    /// with the relay's audience
    #[arg(long, value_name = "FILE", requires = "relay_ca")]
    token_file: Option<String>,
    /// The CA of that relay's certificate, PEM
    #[arg(long, value_name = "FILE", requires = "token_file")]
    relay_ca: Option<String>,
    /// Where Envoy's own admin interface listens: unix:PATH or HOST:PORT
    #[arg(long, default_value = "127.0.0.1:19000")]
    admin: String,
    /// The node's name, as the relay shows it
    #[arg(long, value_name = "ID")]
    node: Option<String>,
    /// How Envoy asks
    #[arg(long, value_enum, default_value_t = Protocol::Delta)]
    protocol: Protocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    /// Only what changed
    Delta,
    /// State of the world
    Sotw,
}

/// Runs the command.
pub(super) fn run(args: &BootstrapArgs) -> Result<Exit, Failure> {
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
    };
    let document = match args.token_file.clone().zip(args.relay_ca.clone()) {
        Some((file, ca)) => {
            let words = "addresses are unix:PATH or HOST:PORT, and a token goes to HOST:PORT only";
            let made = xds::bootstrap_with_token(&options, &RelayToken { file, ca });
            made.ok_or_else(|| Failure::new(Exit::Usage, anyhow!(words)))?
        }
        None => xds::bootstrap(&options)
            .ok_or_else(|| Failure::new(Exit::Usage, anyhow!("addresses are unix:PATH or HOST:PORT")))?,
    };
    output::print(&json(&document))?;
    Ok(Exit::Fine)
}
