//! Rules as ranges of addresses, for connections: nothing else is known of a client before it speaks, or of one whose bytes nobody
//! reads.
//!
//! Envoy looks the address up in the ranges of filter chains, so that a denied client meets no backend. Its filter for the same
//! (`envoy.filters.network.rbac`) decides at the first byte of the client, when a backend that speaks first has been heard.

use super::{Operation, Rule, Who};
use envoy_types::pb::envoy::config::core::v3::CidrRange;
use envoy_types::pb::google::protobuf::UInt32Value;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use moorgate_model::ir::ClientRanges;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A range such as `10.0.0.0/8`; an address alone is a range of one.
fn range(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// The same in Envoy's words.
pub(crate) fn cidr(text: &str) -> Option<CidrRange> {
    let range = range(text)?;
    let length = UInt32Value { value: u32::from(range.prefix_len()) };
    Some(CidrRange { address_prefix: range.addr().to_string(), prefix_len: Some(length) })
}

/// What rules make of each address, the first that fits deciding; nothing if one of them speaks of more.
pub(super) fn by_address(rules: &[Rule], by_default: bool) -> Option<ClientRanges> {
    // Every range with the first rule that names it.
    let mut named: BTreeMap<IpNet, usize> = BTreeMap::new();
    for (index, rule) in rules.iter().enumerate() {
        for text in addresses(rule)? {
            named.entry(range(text)?.trunc()).or_insert(index);
        }
    }
    for everybody in [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())] {
        named.entry(everybody).or_insert(rules.len());
    }
    let allows = |rule: usize| rules.get(rule).map_or(by_default, |rule| rule.action == "Allow");
    let mut out = ClientRanges::default();
    // In order, each range stands behind those that hold it.
    let mut around: Vec<(IpNet, usize)> = Vec::new();
    for (range, own) in named {
        while around.last().is_some_and(|(outer, _)| !outer.contains(&range)) {
            around.pop();
        }
        let outer = around.last().map(|(_, rule)| *rule);
        let first = outer.map_or(own, |rule| rule.min(own));
        around.push((range, first));
        if outer.is_some_and(|rule| allows(rule) == allows(first)) {
            // The range around it says the same.
            continue;
        }
        if allows(first) { out.allowed.push(range) } else { out.denied.push(range) }
    }
    Some(out)
}

/// The addresses of a rule that speaks of nothing else.
fn addresses(rule: &Rule) -> Option<&[String]> {
    let Rule { action: _, operation, principal, cel } = rule;
    let Who { addresses, jwt, headers, locations } = principal.as_ref()?;
    let free =
        operation.as_ref().is_none_or(|Operation { methods, path }| methods.is_empty() && path.is_none());
    let alone = free && cel.is_none() && jwt.is_none() && headers.is_empty() && locations.is_empty();
    (alone && !addresses.is_empty()).then_some(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> Vec<Rule> {
        serde_json::from_str(json).unwrap()
    }

    fn of(ranges: &[(&str, &[&str])]) -> Vec<Rule> {
        let rule = |(action, ranges): &(&str, &[&str])| Rule {
            action: (*action).to_owned(),
            operation: None,
            principal: Some(Who {
                addresses: ranges.iter().map(|text| (*text).to_owned()).collect(),
                jwt: None,
                headers: Vec::new(),
                locations: Vec::new(),
            }),
            cel: None,
        };
        ranges.iter().map(rule).collect()
    }

    /// As Envoy chooses: by the longest range.
    fn passes(ranges: &ClientRanges, address: IpAddr) -> bool {
        let all = ranges.allowed.iter().map(|range| (range, true));
        let all = all.chain(ranges.denied.iter().map(|range| (range, false)));
        let mut fits: Vec<_> = all.filter(|(range, _)| range.contains(&address)).collect();
        fits.sort_by_key(|(range, _)| range.prefix_len());
        let lengths: Vec<u8> = fits.iter().map(|(range, _)| range.prefix_len()).collect();
        assert!(lengths.is_sorted_by(|a, b| a < b), "each range is there once: {fits:?}");
        fits.last().unwrap().1
    }

    /// All ways to order four nested and separate ranges under both actions and both defaults, against first come, first served.
    #[test]
    fn the_first_rule_that_fits_decides() {
        let ranges = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "192.0.2.1/24", "10.1.9.9/16"];
        let clients = ["10.1.2.3", "10.1.2.4", "10.2.0.0", "192.0.2.200", "203.0.113.1", "2001:db8::1"];
        for order in 0..6_usize.pow(3) {
            let picked = [order % 6, order / 6 % 6, order / 36].map(|index| ranges[index]);
            for actions in 0..8_u32 {
                for by_default in [true, false] {
                    let action = |index: usize| if actions >> index & 1 == 1 { "Allow" } else { "Deny" };
                    let single = picked.map(|range| [range]);
                    let written: Vec<(&str, &[&str])> =
                        single.iter().enumerate().map(|(index, range)| (action(index), &range[..])).collect();
                    let found = by_address(&of(&written), by_default).unwrap();
                    for client in clients.map(|text| text.parse::<IpAddr>().unwrap()) {
                        let first = picked.iter().position(|text| range(text).unwrap().contains(&client));
                        let wanted = first.map_or(by_default, |index| action(index) == "Allow");
                        assert_eq!(passes(&found, client), wanted, "{written:?} {by_default} {client}");
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_is_said_twice() {
        let found =
            by_address(&of(&[("Allow", &["10.1.0.0/16", "10.0.0.0/8", "10.1.2.3", "::1"])]), false).unwrap();
        let text = |ranges: &[IpNet]| ranges.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(text(&found.allowed), ["10.0.0.0/8", "::1/128"]);
        assert_eq!(text(&found.denied), ["0.0.0.0/0", "::/0"]);
        let everybody = by_address(&[], true).unwrap();
        assert_eq!((text(&everybody.allowed).len(), everybody.denied.len()), (2, 0));
    }

    #[test]
    fn a_rule_that_speaks_of_more_decides_about_no_connection() {
        let alone = r#""clientCIDRs": ["10.0.0.0/8"]"#;
        for more in [
            format!(
                r#"{{"action": "Allow", "principal": {{{alone}}}, "operation": {{"methods": ["GET"]}}}}"#
            ),
            format!(
                r#"{{"action": "Allow", "principal": {{{alone}}}, "operation": {{"path": {{"value": "/"}}}}}}"#
            ),
            format!(r#"{{"action": "Deny", "principal": {{{alone}}}, "cel": "true"}}"#),
            format!(
                r#"{{"action": "Deny", "principal": {{{alone}, "headers": [{{"name": "a", "values": ["b"]}}]}}}}"#
            ),
            format!(r#"{{"action": "Allow", "principal": {{{alone}, "jwt": {{"provider": "p"}}}}}}"#),
            format!(
                r#"{{"action": "Deny", "principal": {{{alone}, "clientIPGeoLocations": [{{"country": "DE"}}]}}}}"#
            ),
            r#"{"action": "Deny", "operation": {"methods": ["GET"]}}"#.to_owned(),
        ] {
            let plain = format!(r#"{{"action": "Allow", "principal": {{{alone}}}}}"#);
            assert!(by_address(&rules(&format!("[{plain}]")), false).is_some());
            assert_eq!(by_address(&rules(&format!("[{plain}, {more}]")), false), None, "{more}");
        }
    }
}
