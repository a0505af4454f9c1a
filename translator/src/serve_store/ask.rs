//! What may be asked of the store: nothing that is not listed here.

use moorgate_snapshot::{FleetName, RelayName, layout, limits};

/// Something that may be asked, by whoever belongs to the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    /// An object of a fleet.
    Read {
        /// Whose.
        fleet: FleetName,
        /// Its name below the fleet's prefix.
        name: String,
        /// The most bytes that such an object has.
        limit: usize,
    },
    /// A document of the chain of trust, for everybody who belongs to some fleet.
    Trust(u64),
    /// A report to write.
    Report {
        /// Of which fleet.
        fleet: FleetName,
        /// Its name below the fleet's prefix.
        name: String,
    },
}

/// Why something cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unasked {
    /// There is no such thing for anybody: it may be somebody else's, and it may not exist.
    Forbidden,
    /// The method fits nothing.
    Method,
}

/// Reads a request line.
pub(super) fn ask(method: &http::Method, path: &str) -> Result<Ask, Unasked> {
    let writes = match *method {
        http::Method::GET | http::Method::HEAD => false,
        http::Method::PUT => true,
        _ => return Err(Unasked::Method),
    };
    let path = path.strip_prefix('/').ok_or(Unasked::Forbidden)?;
    // Names of the layout need no encoding, so that what is encoded is none.
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-._:/".contains(&c);
    if !path.bytes().all(plain) || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(Unasked::Forbidden);
    }
    if let Some(number) = path.strip_prefix("trust/") {
        let document = number.parse().ok().filter(|document| layout::trust_document(*document) == number);
        return document.filter(|_| !writes).map(Ask::Trust).ok_or(Unasked::Forbidden);
    }
    let (fleet, name) = of_fleet(path).ok_or(Unasked::Forbidden)?;
    if writes {
        let relay = name.strip_prefix("status/").and_then(|name| name.strip_suffix(".json"));
        let report = relay.and_then(|relay| relay.parse::<RelayName>().ok());
        return report.map(|_| Ask::Report { fleet, name: name.to_owned() }).ok_or(Unasked::Forbidden);
    }
    let limit = limit(name).ok_or(Unasked::Forbidden)?;
    Ok(Ask::Read { fleet, name: name.to_owned(), limit })
}

/// The fleet of a path, and the name below its prefix.
fn of_fleet(path: &str) -> Option<(FleetName, &str)> {
    let rest = path.strip_prefix("fleets/")?;
    let (fleet, name) = if let Some(rest) = rest.strip_prefix("gateway/") {
        let (namespace, rest) = rest.split_once('/')?;
        let (gateway, name) = rest.split_once('/')?;
        (format!("{namespace}/{gateway}"), name)
    } else {
        let (class, name) = rest.strip_prefix("class/")?.split_once('/')?;
        (format!("class/{class}"), name)
    };
    let fleet: FleetName = fleet.parse().ok()?;
    // Only the one spelling of a fleet's prefix.
    (format!("{}/{name}", fleet.prefix()) == path).then_some((fleet, name))
}

/// The most bytes of an object as stored; none if no reader has business with it.
fn limit(name: &str) -> Option<usize> {
    let (folder, rest) = name.split_once('/')?;
    match folder {
        "pages" => Some(limits::stored(limits::PAGE_BYTES)),
        "manifests" => Some(limits::stored(limits::MANIFEST_BYTES)),
        "bundles" => Some(limits::BUNDLE_STORED_BYTES),
        "att" if rest.starts_with("documents/") => Some(limits::stored(limits::DOCUMENT_BYTES)),
        "att" => Some(limits::ATTESTATION_BYTES),
        "log" => Some(limits::ENTRY_BYTES),
        "head" => Some(limits::HEAD_BYTES),
        "status" => Some(limits::REPORT_BYTES),
        "values" => Some(limits::LATE_VALUE_BYTES),
        "late" => Some(limits::LATE_INDEX_BYTES),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    #[test]
    fn reads_and_reports_of_fleets_and_nothing_else() {
        let read = |path: &str| match ask(&Method::GET, path) {
            Ok(Ask::Read { fleet, name, .. }) => format!("{fleet} {name}"),
            Ok(Ask::Trust(number)) => format!("trust {number}"),
            other => format!("{other:?}"),
        };
        assert_eq!(read("/fleets/gateway/shop/edge/head/stable"), "shop/edge head/stable");
        assert_eq!(read("/fleets/class/internal/log/stable/1"), "class/internal log/stable/1");
        assert_eq!(read("/trust/00000000000000000007"), "trust 7");
        for path in [
            "",
            "/",
            "/trust",
            "/trust/7",
            "/trust/../fleets",
            "/fleets/gateway/shop/edge",
            "/fleets/gateway/shop/edge/",
            "/fleets/gateway/shop/edge/gc/condemned",
            "/fleets/gateway/shop/edge/_probe/x",
            "/fleets/gateway/shop/edge/head/../../other/head/stable",
            "/fleets/gateway/shop//head/stable",
            "/fleets/gateway/shop%2Fedge/x/head/stable",
            "/fleets/gateway/shop/edge/head/%2e%2e/x",
            "/fleets/gateway/Shop/edge/head/stable",
            "/fleets/other/shop/edge/head/stable",
            "/_probe/answers",
        ] {
            assert_eq!(ask(&Method::GET, path), Err(Unasked::Forbidden), "{path}");
        }
        let name = "status/relay-1.json".to_owned();
        let fleet = FleetName::gateway("shop", "edge");
        let report = "/fleets/gateway/shop/edge/status/relay-1.json";
        assert_eq!(ask(&Method::PUT, report), Ok(Ask::Report { fleet, name }));
        for path in [
            "/trust/00000000000000000007",
            "/fleets/gateway/shop/edge/head/stable",
            "/fleets/gateway/shop/edge/status/relay-1",
            "/fleets/gateway/shop/edge/status/a/b.json",
            "/fleets/gateway/shop/edge/status/.json",
        ] {
            assert_eq!(ask(&Method::PUT, path), Err(Unasked::Forbidden), "{path}");
        }
        for method in [Method::DELETE, Method::POST, Method::OPTIONS] {
            assert_eq!(ask(&method, report), Err(Unasked::Method));
        }
    }
}
