//! Places that proxies do not connect to, whoever asks for it: their own machine, its metadata, and what is near them.
//!
//! Whoever may write a Backend could reach there what is meant for the proxy alone: its admin address, the relay, the
//! credentials of the machine, services past their ReferenceGrants. An operator names exceptions (`--allow-address`); what lies in
//! git does not.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses, with the bits that count, and what they are.
const RANGES: [(IpAddr, u8, &str); 16] = [
    (v4(0, 0, 0, 0), 8, "the machine itself"),
    (v4(127, 0, 0, 0), 8, "the machine itself"),
    (v4(169, 254, 0, 0), 16, "link-local, where machines find their metadata"),
    (v4(224, 0, 0, 0), 4, "no address of one machine"),
    (v4(240, 0, 0, 0), 4, "no address of one machine"),
    (v4(100, 100, 100, 200), 32, "where machines find their metadata"),
    (v4(168, 63, 129, 16), 32, "where machines find their metadata"),
    (v4(192, 0, 0, 192), 32, "where machines find their metadata"),
    (v6(0), 127, "the machine itself"),
    (v6(0xfe80 << 112), 10, "link-local"),
    (v6(0xff00 << 112), 8, "no address of one machine"),
    (v6((0xfd00_0ec2 << 96) | 0x254), 128, "where machines find their metadata"),
    (v6((0xfd20_00ce << 96) | 0x254), 128, "where machines find their metadata"),
    // Addresses of IPv4 by another name: mapped, compatible, and through a gateway (RFC 4291 §2.5.5, RFC 6052 §2.1).
    (v6(0xffff << 32), 96, "an address of IPv4 by another name"),
    (v6(0), 96, "an address of IPv4 by another name"),
    (v6(0x0064_ff9b << 96), 96, "an address of IPv4 by another name"),
];
/// Sockets of relays, and of those who run containers.
const PATHS: [&str; 9] = [
    "/run/moorgate",
    "/run/docker",
    "/run/docker.sock",
    "/run/containerd",
    "/run/crio",
    "/run/podman",
    "/run/secrets",
    "/proc",
    "/var/lib/kubelet",
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(bits: u128) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(bits))
}

/// Whether an address lies in a range.
fn within(address: IpAddr, range: IpAddr, bits: u8) -> bool {
    match (address, range) {
        (IpAddr::V4(address), IpAddr::V4(range)) => {
            let mask = u32::MAX.checked_shl(u32::from(32_u8.saturating_sub(bits))).unwrap_or(0);
            address.to_bits() & mask == range.to_bits() & mask
        }
        (IpAddr::V6(address), IpAddr::V6(range)) => {
            let mask = u128::MAX.checked_shl(u32::from(128_u8.saturating_sub(bits))).unwrap_or(0);
            address.to_bits() & mask == range.to_bits() & mask
        }
        _ => false,
    }
}

/// A range as operators write it: an address, with or without the bits that count.
pub(crate) fn range(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Some(most), |bits| bits.parse().ok())?;
    (bits <= most).then_some((address, bits))
}

/// The ranges that no address may lie in, but for those that are allowed as a whole.
pub(in crate::attach) fn ranges(allowed: &BTreeSet<String>) -> Vec<(IpAddr, u8)> {
    let free: Vec<(IpAddr, u8)> = allowed.iter().filter_map(|text| range(text)).collect();
    let is_free =
        |address: IpAddr, bits: u8| free.iter().any(|(free, of)| *of <= bits && within(address, *free, *of));
    let closed = RANGES.iter().filter(|(address, bits, _)| !is_free(*address, *bits));
    closed.map(|(address, bits, _)| (*address, *bits)).collect()
}

/// Whether proxies may connect to an address, a name, or the path of a socket.
///
/// # Errors
/// They may not; says why.
pub(in crate::attach) fn check(place: &str, allowed: &BTreeSet<String>) -> Result<(), String> {
    if place.starts_with('/') {
        return path(place, allowed);
    }
    if let Ok(address) = place.parse::<IpAddr>() {
        let free = allowed.iter().filter_map(|text| range(text));
        if free.into_iter().any(|(range, bits)| within(address, range, bits)) {
            return Ok(());
        }
        return match RANGES.iter().find(|(range, bits, _)| within(address, *range, *bits)) {
            Some((_, _, what)) => Err(format!("{address} is {what}")),
            None => Ok(()),
        };
    }
    let name = place.trim_end_matches('.').to_ascii_lowercase();
    let named = |entry: &String| match entry.strip_prefix("*.") {
        Some(end) => name.strip_suffix(end).is_some_and(|rest| rest.ends_with('.') && rest.len() > 1),
        None => *entry == name,
    };
    if super::external::is_inside(&name) && !allowed.iter().any(named) {
        return Err(format!("{place:?} is a name of the machine or network that the proxy runs in"));
    }
    Ok(())
}

fn path(place: &str, allowed: &BTreeSet<String>) -> Result<(), String> {
    // `/var/run` is `/run`, and more than one slash is one.
    let parts: Vec<&str> = place.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let parts =
        if let ["var", "run", rest @ ..] = parts.as_slice() { [&["run"], rest].concat() } else { parts };
    let plain = format!("/{}", parts.join("/"));
    let below =
        |above: &str| plain.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if PATHS.iter().any(|forbidden| below(forbidden)) && !allowed.iter().any(|entry| below(entry)) {
        return Err(format!("{place} is a socket of the proxy's machine that is not for backends"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_near_the_proxy_are_refused_unless_they_are_allowed() {
        let none = BTreeSet::new();
        for place in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "169.254.169.254",
            "169.254.1.1",
            "100.100.100.200",
            "168.63.129.16",
            "255.255.255.255",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "localhost",
            "LOCALHOST.",
            "metadata.google.internal",
            "api.shop.svc.cluster.local",
            "/run/moorgate/edge.sock",
            "/var/run/moorgate/edge.sock",
            "//run//./moorgate/edge.sock",
            "/run/docker.sock",
            "/proc/1/root/x",
        ] {
            assert!(check(place, &none).is_err(), "{place}");
        }
        for place in [
            "10.0.0.1",
            "192.168.1.1",
            "203.0.113.7",
            "2001:db8::1",
            "fd00::1",
            "api.example.com",
            "/run/app.sock",
            "/run/moorgates",
        ] {
            assert_eq!(check(place, &none), Ok(()), "{place}");
        }
        let allowed =
            ["127.0.0.0/8", "::1", "*.svc.cluster.local", "/run/moorgate/apps"].map(String::from).into();
        for place in ["127.0.0.1", "::1", "api.shop.svc.cluster.local", "/run/moorgate/apps/one.sock"] {
            assert_eq!(check(place, &allowed), Ok(()), "{place}");
        }
        for place in ["169.254.169.254", "::", "localhost", "svc.cluster.local", "/run/moorgate/edge.sock"] {
            assert!(check(place, &allowed).is_err(), "{place}");
        }
        let all = ranges(&none);
        assert_eq!(all.len(), RANGES.len());
        assert!(
            !ranges(&allowed).contains(&(v4(127, 0, 0, 0), 8)) && ranges(&allowed).len() == all.len() - 1
        );
    }

    #[test]
    fn ranges_as_they_are_written() {
        assert_eq!(range("10.0.0.0/8"), Some((v4(10, 0, 0, 0), 8)));
        assert_eq!(range("::1").map(|(_, bits)| bits), Some(128));
        for text in ["10.0.0.0/33", "10/8", "a", "10.0.0.0/x"] {
            assert_eq!(range(text), None, "{text}");
        }
    }
}
