//! How the names of backends are looked for (BackendTrafficPolicy `dns`).

use crate::lowering::time;
use crate::{About, Capability, Effect, Kind, Lowering};
use moorgate_model::FieldPath;
use moorgate_model::ir::{Dns as Rules, DnsFamily};
use serde::Deserialize;
use std::time::Duration;

/// The capability.
pub(crate) struct Dns;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    dns: Option<Wanted>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    dns_refresh_rate: Option<String>,
    respect_dns_ttl: Option<bool>,
    lookup_family: Option<String>,
}

/// What the API says where nothing is said.
const REFRESH: Duration = Duration::from_secs(30);
/// Envoy takes no less (`DnsCluster.dns_refresh_rate`: more than a millisecond).
const LEAST: Duration = Duration::from_millis(1);

impl Capability for Dns {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "dns",
        kind: Kind::BackendTraffic,
        fields: &["dns"],
        except: &[],
        since: "0.3.0",
        docs: "\
Backends whose endpoints are names (ExternalName, XBackend, Backend) are looked for by Envoy itself in place of the relay: every \
dnsRefreshRate (30s), or as long as the answer says (respectDnsTtl, true unless it is said otherwise), for addresses of \
lookupFamily (IPv4, IPv6, IPv4Preferred, IPv6Preferred, IPv4AndIPv6). It has no effect on backends that have endpoints.",
        effect: Effect::Cluster,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(wanted) = &spec.dns else { return };
        let at = FieldPath::parse("spec.dns");
        let rate = at.key("dnsRefreshRate");
        let refresh = time(cx, &rate, wanted.dns_refresh_rate.as_deref()).unwrap_or(REFRESH);
        if refresh <= LEAST {
            return cx.invalid(rate, "it takes more than 1ms");
        }
        let family = match wanted.lookup_family.as_deref() {
            None | Some("IPv4Preferred") => DnsFamily::PreferV4,
            Some("IPv4") => DnsFamily::V4,
            Some("IPv6") => DnsFamily::V6,
            Some("IPv6Preferred") => DnsFamily::PreferV6,
            Some("IPv4AndIPv6") => DnsFamily::All,
            Some(other) => {
                return cx.invalid(at.key("lookupFamily"), &format!("{other:?} is no family of addresses"));
            }
        };
        cx.dns(Rules { refresh, respect_ttl: wanted.respect_dns_ttl.unwrap_or(true), family });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;

    #[test]
    fn names_are_looked_for_as_it_is_said() {
        let found = |dns: &str| {
            let compiled = testing::compile(Kind::BackendTraffic, &format!(r#"{{"dns": {dns}}}"#));
            assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
            compiled.parts["dns"].cluster.dns.unwrap()
        };
        assert_eq!(found("{}"), Rules { refresh: REFRESH, respect_ttl: true, family: DnsFamily::PreferV4 });
        for (name, family) in [
            ("IPv4", DnsFamily::V4),
            ("IPv6", DnsFamily::V6),
            ("IPv6Preferred", DnsFamily::PreferV6),
            ("IPv4AndIPv6", DnsFamily::All),
        ] {
            let spec =
                format!(r#"{{"dnsRefreshRate": "5s", "respectDnsTtl": false, "lookupFamily": "{name}"}}"#);
            assert_eq!(found(&spec), Rules { refresh: Duration::from_secs(5), respect_ttl: false, family });
        }
        for (spec, field) in [
            (r#"{"dnsRefreshRate": "1ms"}"#, "dnsRefreshRate"),
            (r#"{"lookupFamily": "IPX"}"#, "lookupFamily"),
        ] {
            let compiled = testing::compile(Kind::BackendTraffic, &format!(r#"{{"dns": {spec}}}"#));
            assert_eq!(testing::said(&compiled), [format!("MG4002 spec.dns.{field}")]);
        }
    }
}
