//! Databases that know where addresses are, in MaxMind's published format (<https://maxmind.github.io/MaxMind-DB/>): those
//! that one can get may not be passed on, so tests write their own.
//!
//! ```text
//! tree of bits ─▶ 16 zero bytes ─▶ records, one behind the other ─▶ mark ─▶ what the database says of itself
//! ```

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::net::IpAddr;

/// Begins what a database says of itself.
const MARK: &[u8] = b"\xab\xcd\xefMaxMind.com";
/// Between the tree and the records.
const GAP: u32 = 16;
const RECORD_BITS: u16 = 32;
/// The tree is one of IPv6; addresses of IPv4 stand at `::/96` in it.
const V4_BITS: u32 = 96;

/// Where a bit leads.
#[derive(Clone, Copy)]
enum Step {
    Nowhere,
    Node(u32),
    Record(u32),
}

/// A database of this type that knows these networks, none of which lies in another. Numbers are 32 bits wide.
pub fn database(kind: &str, networks: &[(&str, Value)]) -> Result<Vec<u8>> {
    let mut tree = vec![[Step::Nowhere; 2]];
    let mut records = Vec::new();
    for (network, record) in networks {
        let offset = u32::try_from(records.len())?;
        write(record, &mut records)?;
        plant(&mut tree, network, Step::Record(offset)).with_context(|| format!("network {network}"))?;
    }
    let count = u32::try_from(tree.len())?;
    let mut out = Vec::new();
    for step in tree.iter().flatten() {
        let value = match step {
            Step::Nowhere => count,
            Step::Node(node) => *node,
            Step::Record(offset) => count + GAP + offset,
        };
        out.extend(value.to_be_bytes());
    }
    out.extend([0; GAP as usize]);
    out.append(&mut records);
    out.extend(MARK);
    describe(kind, count, &mut out)?;
    Ok(out)
}

fn plant(tree: &mut Vec<[Step; 2]>, network: &str, end: Step) -> Result<()> {
    let (address, length) = network.split_once('/').context("no length")?;
    let length: u32 = length.parse()?;
    let (bits, length) = match address.parse()? {
        IpAddr::V4(address) => (u128::from(u32::from(address)), V4_BITS + length),
        IpAddr::V6(address) => (u128::from(address), length),
    };
    ensure!((1..=128).contains(&length), "a length of {length} bits");
    let mut node = 0;
    for position in 0..length {
        let side = usize::from((bits >> (127 - position)) & 1 == 1);
        let next = u32::try_from(tree.len())?;
        let step = tree.get(node).map(|sides| sides[side]).context("no such node")?;
        let step = match step {
            Step::Record(_) => anyhow::bail!("it lies in another network"),
            Step::Nowhere if position + 1 == length => end,
            Step::Nowhere => {
                tree.push([Step::Nowhere; 2]);
                Step::Node(next)
            }
            Step::Node(_) if position + 1 == length => anyhow::bail!("another network lies in it"),
            Step::Node(node) => Step::Node(node),
        };
        tree[node][side] = step;
        if let Step::Node(next) = step {
            node = next as usize;
        }
    }
    Ok(())
}

/// Types of fields by their numbers.
mod field {
    pub(super) const TEXT: u8 = 2;
    pub(super) const SHORT: u8 = 5;
    pub(super) const NUMBER: u8 = 6;
    pub(super) const MAP: u8 = 7;
    pub(super) const LONG: u8 = 9;
    pub(super) const LIST: u8 = 11;
    pub(super) const FLAG: u8 = 14;
}

/// What comes before a field: its type and its size.
fn begin(kind: u8, size: usize, out: &mut Vec<u8>) -> Result<()> {
    // Sizes from 29 on have a byte of their own, types from 8 on too.
    let short = u8::try_from(size.min(29))?;
    if kind < 8 {
        out.push((kind << 5) | short);
    } else {
        out.extend([short, kind - 7]);
    }
    if size >= 29 {
        out.push(u8::try_from(size - 29)?);
    }
    Ok(())
}

fn unsigned(kind: u8, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    begin(kind, bytes.len(), out)?;
    out.extend(bytes);
    Ok(())
}

fn write(value: &Value, out: &mut Vec<u8>) -> Result<()> {
    match value {
        Value::Bool(flag) => begin(field::FLAG, usize::from(*flag), out),
        Value::Number(number) => {
            let number = number.as_u64().context("no unsigned number")?;
            unsigned(field::NUMBER, &u32::try_from(number)?.to_be_bytes(), out)
        }
        Value::String(text) => unsigned(field::TEXT, text.as_bytes(), out),
        Value::Array(items) => {
            begin(field::LIST, items.len(), out)?;
            items.iter().try_for_each(|item| write(item, out))
        }
        Value::Object(fields) => {
            begin(field::MAP, fields.len(), out)?;
            fields.iter().try_for_each(|(name, value)| {
                unsigned(field::TEXT, name.as_bytes(), out)?;
                write(value, out)
            })
        }
        Value::Null => anyhow::bail!("the format knows no null"),
    }
}

fn describe(kind: &str, nodes: u32, out: &mut Vec<u8>) -> Result<()> {
    begin(field::MAP, 9, out)?;
    let mut named = |name: &str, value: &dyn Fn(&mut Vec<u8>) -> Result<()>| {
        unsigned(field::TEXT, name.as_bytes(), out)?;
        value(out)
    };
    let short = |value: u16| move |out: &mut Vec<u8>| unsigned(field::SHORT, &value.to_be_bytes(), out);
    named("node_count", &|out| write(&json!(nodes), out))?;
    named("record_size", &short(RECORD_BITS))?;
    named("ip_version", &short(6))?;
    named("database_type", &|out| write(&json!(kind), out))?;
    named("languages", &|out| write(&json!(["en"]), out))?;
    named("binary_format_major_version", &short(2))?;
    named("binary_format_minor_version", &short(0))?;
    named("build_epoch", &|out| unsigned(field::LONG, &1_u64.to_be_bytes(), out))?;
    named("description", &|out| write(&json!({"en": "made up for a test"}), out))
}

/// Databases that know two countries, an autonomous system with its provider, and a network of anonymous clients: their files.
pub fn made_up() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let berlin = json!({
        "country": {"iso_code": "DE"}, "city": {"names": {"en": "Berlin"}}, "subdivisions": [{"iso_code": "BE"}],
    });
    let city = [
        ("192.0.2.0/24", berlin),
        ("198.51.100.0/24", json!({"country": {"iso_code": "FR"}})),
        ("2001:db8::/32", json!({"country": {"iso_code": "SE"}})),
    ];
    let country = [("192.0.2.0/24", json!({"country": {"iso_code": "DE"}}))];
    let asn = [("192.0.2.0/24", json!({"autonomous_system_number": 64500}))];
    let isp = [("192.0.2.0/24", json!({"autonomous_system_number": 64501, "isp": "Net of the North"}))];
    let anonymous = [
        ("192.0.2.128/25", json!({"is_anonymous": true, "is_anonymous_vpn": true})),
        ("198.51.100.0/25", json!({"is_anonymous": true, "is_tor_exit_node": true})),
        (
            "198.51.100.128/25",
            json!({"is_anonymous": true, "is_hosting_provider": true, "is_public_proxy": true}),
        ),
    ];
    Ok(vec![
        ("city.mmdb", database("GeoLite2-City", &city)?),
        ("country.mmdb", database("GeoLite2-Country", &country)?),
        ("asn.mmdb", database("GeoLite2-ASN", &asn)?),
        ("isp.mmdb", database("GeoIP2-ISP", &isp)?),
        ("anonymous.mmdb", database("GeoIP2-Anonymous-IP", &anonymous)?),
    ])
}
