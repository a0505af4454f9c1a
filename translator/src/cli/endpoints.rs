//! `moorgate endpoints`

use super::access::{ActArgs, Actor, Format, StoreArgs, now, read_failure, warn};
use super::output::{json as pretty, print};
use super::{Exit, Failure};
use crate::load;
use crate::report::FORMAT_VERSION;
use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use clap::{Args, Subcommand};
use moorgate_model::{Node, Span};
use moorgate_snapshot::late::{Index, LateError, LateStore, Polled, ValueRef};
use moorgate_snapshot::reader::ReadError;
use moorgate_snapshot::{Channel, FleetName};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The largest file of endpoints, in bytes.
const BYTES: u64 = 16 << 20;

/// Say in the store where Services run, for relays without files or a cluster beside them
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate endpoints put shop/edge cart.yaml --key file:ci.key
  moorgate endpoints list shop/edge")]
pub(super) struct EndpointsArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Put(Box<PutArgs>),
    Remove(Box<RemoveArgs>),
    List(ListArgs),
}

/// Put endpoint sets: each Service that the file names gets what the file says, others stay
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate endpoints put shop/edge cart.yaml --key file:ci.key
  consul-to-endpoints | moorgate endpoints put shop/edge - --key file:ci.key

The file is YAML or JSON:
  endpoints:
    - service: shop/cart
      port: http              # name or number of the Service port; all ports without it
      addresses: [\"10.0.0.1:8080\", \"[2001:db8::1]:8080\"]
      zone: eu-1a             # optional
      weight: 3               # optional, among the sets of one Service

Relays with --store-values read it at their next poll. It is no release: no snapshot changes.")]
struct PutArgs {
    /// The fleet: namespace/gateway or class/NAME
    fleet: FleetName,
    /// The file; - for standard input
    file: PathBuf,
    #[command(flatten)]
    writing: Writing,
}

/// Take the endpoint sets of Services out of the store's index
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate endpoints remove shop/edge shop/cart --key file:ci.key")]
struct RemoveArgs {
    /// The fleet: namespace/gateway or class/NAME
    fleet: FleetName,
    /// The Services: namespace/name
    #[arg(required = true)]
    service: Vec<Place>,
    #[command(flatten)]
    writing: Writing,
}

/// What writes to the index.
#[derive(Debug, Args)]
pub(super) struct Writing {
    /// The channel
    #[arg(long, default_value_t = Channel::stable())]
    channel: Channel,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    act: ActArgs,
}

/// Show what the store's index names: Services and sealed secrets, without their content
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate endpoints list shop/edge -o json")]
struct ListArgs {
    /// The fleet: namespace/gateway or class/NAME
    fleet: FleetName,
    /// The channel
    #[arg(long, default_value_t = Channel::stable())]
    channel: Channel,
    #[command(flatten)]
    store: StoreArgs,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// A namespace and a name in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place(String);

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |part: &str| {
            let c = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
            !part.is_empty() && part.len() <= 253 && part.bytes().all(c) && !part.starts_with(['.', '-'])
        };
        match text.split_once('/') {
            Some((namespace, name)) if plain(namespace) && plain(name) => Ok(Self(text.to_owned())),
            _ => Err("write namespace/name".to_owned()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs the command.
pub(super) async fn run(args: EndpointsArgs) -> Result<Exit, Failure> {
    match args.command {
        Command::Put(args) => put(*args).await,
        Command::Remove(args) => remove(*args).await,
        Command::List(args) => list(args).await,
    }
}

async fn put(args: PutArgs) -> Result<Exit, Failure> {
    let name = args.file.display().to_string();
    let sets = sets(&read(&args.file)?).map_err(|(span, message)| {
        let place = span.start;
        Failure::new(Exit::No, anyhow!("{name}:{}:{}: {message}", place.line.max(1), place.column.max(1)))
    })?;
    let values: BTreeMap<String, Bytes> = sets
        .into_iter()
        .map(|(service, sets)| (service, Bytes::from(json!({ "endpoints": sets }).to_string())))
        .collect();
    let count = values.len();
    let put = |index: &mut Index, values: &BTreeMap<String, ValueRef>| index.endpoints.extend(values.clone());
    if let Some(index) = args.writing.change(&args.fleet, values, put).await? {
        print(&format!("{}: endpoints of {count} Services, generation {}\n", args.fleet, index.generation))?;
    }
    Ok(Exit::Fine)
}

async fn remove(args: RemoveArgs) -> Result<Exit, Failure> {
    let services: Vec<String> = args.service.iter().map(ToString::to_string).collect();
    let take = |index: &mut Index, _: &BTreeMap<String, ValueRef>| {
        index.endpoints.retain(|service, _| !services.contains(service));
    };
    if let Some(index) = args.writing.change(&args.fleet, BTreeMap::new(), take).await? {
        print(&format!("{}: generation {}\n", args.fleet, index.generation))?;
    }
    Ok(Exit::Fine)
}

impl Writing {
    /// Puts values by name, and changes the index that is to name them; mirrors get it too. None with `--dry-run`.
    pub(super) async fn change(
        &self,
        fleet: &FleetName,
        values: BTreeMap<String, Bytes>,
        change: impl Fn(&mut Index, &BTreeMap<String, ValueRef>),
    ) -> Result<Option<Index>, Failure> {
        let actor = Actor::open(&self.store, &self.act).await?;
        let place = actor.place(fleet);
        let late = LateStore { store: &place, trust: actor.trust(), channel: &self.channel };
        if self.act.dry_run {
            warn("nothing is written: --dry-run");
            return Ok(None);
        }
        let mut put = BTreeMap::new();
        for (name, value) in &values {
            put.insert(name.clone(), late.put(value).await.map_err(late_failure)?);
        }
        let change = |index: &mut Index| change(index, &put);
        let author = actor.author();
        let index = late.change(actor.signer(), (now(), &author), change).await.map_err(late_failure)?;
        late.settle(values.values()).await.map_err(late_failure)?;
        actor.mirror_late(&late, &index).await;
        Ok(Some(index))
    }
}

async fn list(args: ListArgs) -> Result<Exit, Failure> {
    let store = args.store.open_to_read().await?.fleet(&args.fleet);
    let trust = args.store.trust(None).await?;
    let late = LateStore { store: &store, trust: &trust, channel: &args.channel };
    let index = match late.poll(0, None).await.map_err(late_failure)? {
        Polled::Index(index, ..) => Some(index),
        Polled::Same | Polled::Nothing => None,
    };
    match args.output {
        Format::Json => print(&pretty(&json!({ "format_version": FORMAT_VERSION, "index": index })))?,
        Format::Text => {
            let index = index.iter();
            let lines = index.flat_map(|index| {
                let endpoints = index.endpoints.iter().map(|(name, value)| ("endpoints", name, value));
                endpoints.chain(index.secrets.iter().map(|(name, value)| ("secret", name, value)))
            });
            let text: Vec<String> = lines
                .map(|(kind, name, value)| format!("{kind} {name} {}\n", value.digest.short()))
                .collect();
            print(&text.concat())?;
        }
    }
    Ok(Exit::Fine)
}

/// The exit code of late values that could not be read or written.
pub(super) fn late_failure(error: LateError) -> Failure {
    match error {
        LateError::Store(error) => read_failure(ReadError::Store(error)),
        error @ (LateError::Cosigned | LateError::Busy | LateError::TooMany(_)) => {
            Failure::new(Exit::Refused, error)
        }
        error @ LateError::Key(_) => Failure::new(Exit::Environment, error),
        error => Failure::new(Exit::Integrity, error),
    }
}

fn read(file: &std::path::Path) -> Result<Vec<u8>, Failure> {
    let place = || file.display().to_string();
    let mut bytes = Vec::new();
    let result = if file.as_os_str() == "-" {
        std::io::stdin().lock().take(BYTES + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).with_context(place)?.take(BYTES + 1).read_to_end(&mut bytes)
    };
    result.with_context(place)?;
    if bytes.len() as u64 > BYTES {
        return Err(anyhow!("{}: more than {BYTES} bytes", place()).into());
    }
    Ok(bytes)
}

type Refused = (Span, String);

/// The sets by Service, checked as relays check them.
fn sets(bytes: &[u8]) -> Result<BTreeMap<String, Vec<Value>>, Refused> {
    let root = load::document(bytes)?;
    only(&root, &["endpoints"])?;
    let list = root.get("endpoints").ok_or((root.span, "endpoints is missing".to_owned()))?;
    let items = list.as_sequence().ok_or((list.span, "endpoints is no list".to_owned()))?;
    let mut out: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for item in items {
        let (service, set) = set(item)?;
        out.entry(service).or_default().push(set);
    }
    Ok(out)
}

fn set(item: &Node) -> Result<(String, Value), Refused> {
    only(item, &["service", "port", "addresses", "zone", "weight"])?;
    let text = |name: &str| match item.get(name) {
        None => Ok(None),
        Some(node) => node.as_str().map(Some).ok_or((node.span, format!("{name} is no text"))),
    };
    let service = text("service")?.ok_or((item.span, "service is missing".to_owned()))?;
    let service: Place = service.parse().map_err(|message| (item.span, format!("service: {message}")))?;
    let list = item.get("addresses").ok_or((item.span, "addresses is missing".to_owned()))?;
    let list = list.as_sequence().ok_or((list.span, "addresses is no list".to_owned()))?;
    let address = |node: &Node| {
        let address = node.as_str().and_then(|text| text.parse::<SocketAddr>().ok());
        let address = address.filter(|address| address.port() != 0 && !is_nowhere(*address));
        address.map(|address| address.to_string()).ok_or((node.span, "no ip:port to dial".to_owned()))
    };
    let addresses = list.iter().map(address).collect::<Result<Vec<_>, _>>()?;
    let mut set = json!({ "service": service.to_string(), "addresses": addresses });
    match item.get("port") {
        None => {}
        Some(node) => {
            let number = node.as_int().and_then(|number| u16::try_from(number).ok()).filter(|n| *n > 0);
            set["port"] = match (number, node.as_str()) {
                (Some(number), _) => number.into(),
                (None, Some(name)) => name.into(),
                (None, None) => return Err((node.span, "port is neither a name nor 1 to 65535".to_owned())),
            };
        }
    }
    if let Some(zone) = text("zone")? {
        set["zone"] = zone.into();
    }
    if let Some(node) = item.get("weight") {
        let weight = node.as_int().and_then(|weight| u32::try_from(weight).ok()).filter(|weight| *weight > 0);
        set["weight"] = weight.ok_or((node.span, "weight is no number from 1 up".to_owned()))?.into();
    }
    Ok((service.to_string(), set))
}

fn is_nowhere(address: SocketAddr) -> bool {
    let ip = address.ip();
    ip.is_unspecified() || ip.is_multicast() || ip == std::net::Ipv4Addr::BROADCAST
}

fn only(node: &Node, known: &[&str]) -> Result<(), Refused> {
    let Some(mapping) = node.as_mapping() else { return Err((node.span, "this is no mapping".to_owned())) };
    match mapping.entries().iter().find(|field| !known.contains(&&*field.key)) {
        None => Ok(()),
        Some(field) => {
            let help = known.join(", ");
            Err((field.key_span, format!("unknown field {:?}: fields here are {help}", field.key)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_by_service_and_mistakes_are_told_with_their_line() {
        let text = "endpoints:\n- service: shop/cart\n  port: http\n  addresses: ['10.0.0.1:8080']\n  zone: a\n  weight: 3\n\
                    - {service: shop/cart, port: 80, addresses: ['[2001:db8::1]:1']}\n- {service: a/b, addresses: []}\n";
        let read = sets(text.as_bytes()).unwrap();
        assert_eq!(read.keys().collect::<Vec<_>>(), ["a/b", "shop/cart"]);
        let expected = json!([
            { "service": "shop/cart", "port": "http", "addresses": ["10.0.0.1:8080"], "zone": "a", "weight": 3 },
            { "service": "shop/cart", "port": 80, "addresses": ["[2001:db8::1]:1"] },
        ]);
        assert_eq!(json!(read["shop/cart"]), expected);
        for (line, text) in [
            (1, "x: 1"),
            (1, "endpoints: 1"),
            (2, "endpoints:\n- {service: cart, addresses: []}"),
            (2, "endpoints:\n- {service: a/b}"),
            (2, "endpoints:\n- {service: a/b, addresses: [10.0.0.1]}"),
            (2, "endpoints:\n- {service: a/b, addresses: ['0.0.0.0:1']}"),
            (3, "endpoints:\n- service: a/b\n  weight: 0\n  addresses: []"),
            (3, "endpoints:\n- service: a/b\n  ports: 1\n  addresses: []"),
        ] {
            let (span, message) = sets(text.as_bytes()).unwrap_err();
            assert_eq!(span.start.line.max(1), line, "{text}: {message}");
        }
    }
}
