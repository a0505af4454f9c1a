//! `moorgate bootstrap`

use super::output::{self, json};
use super::{Exit, Failure};
use crate::xds::{self, AdsProtocol, BootstrapOptions};
use anyhow::anyhow;
use clap::{Args, ValueEnum};
use moorgate_snapshot::FleetName;

/// Print an Envoy bootstrap that takes a fleet's configuration from its relay
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate bootstrap shop/edge > envoy.json
  moorgate bootstrap shop/edge --relay unix:/run/moorgate/shop.edge.sock --admin unix:/run/envoy/admin.sock")]
pub(super) struct BootstrapArgs {
    /// The fleet: namespace/gateway or class/NAME
    fleet: FleetName,
    /// Where the relay listens: unix:PATH or HOST:PORT; `{fleet}` stands for the fleet's name
    #[arg(long, default_value = "unix:/run/moorgate/{fleet}.sock")]
    relay: String,
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
    let document = xds::bootstrap(&options)
        .ok_or_else(|| Failure::new(Exit::Usage, anyhow!("addresses are unix:PATH or HOST:PORT")))?;
    output::print(&json(&document))?;
    Ok(Exit::Fine)
}
