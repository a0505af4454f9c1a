//! Where a client is, by its address (SecurityPolicy `authorization.rules.principal.clientIPGeoLocations`).
//!
//! ```text
//! rules ─┬─▶ facts that they ask for ─▶ (databases of the fleet) ─▶ geoip filter: address ─▶ headers
//!        └─▶ principals over these headers ─▶ authorization
//! ```
//! Envoy's filter tells what it found by headers of the request, and one that it finds nothing for it leaves as it came. So a
//! client's own are taken out before anything else happens (`RoutePolicies::reserved`), and no backend sees any.

use crate::authorization::{all_of, any_of, header_of, not};
use crate::lowering::{any, extension, late};
use crate::needs::{Met, Need, What};
use crate::proxy::databases::{self, Database};
use crate::{About, Capability, Effect, Kind, Lowering, place};
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::rbac::v3::Principal;
use envoy_types::pb::envoy::extensions::filters::http::geoip::v3::Geoip;
use envoy_types::pb::envoy::extensions::geoip_providers::common::v3::CommonGeoipProviderConfig;
use envoy_types::pb::envoy::extensions::geoip_providers::common::v3::common_geoip_provider_config::GeolocationFieldKeys;
use envoy_types::pb::envoy::extensions::geoip_providers::maxmind::v3::MaxMindConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use moorgate_model::{FieldPath, Object};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// The capability.
pub(crate) struct ClientLocation;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    authorization: Option<Rights>,
}

#[derive(Debug, Deserialize)]
struct Rights {
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
struct Rule {
    principal: Option<Who>,
}

#[derive(Debug, Deserialize)]
struct Who {
    #[serde(default, rename = "clientIPGeoLocations")]
    locations: Vec<Location>,
}

/// One place, or a sort of network: all that is said of it must hold.
#[derive(Debug, Deserialize)]
pub(crate) struct Location {
    country: Option<String>,
    region: Option<String>,
    city: Option<String>,
    asn: Option<u32>,
    isp: Option<String>,
    anonymous: Option<Anonymous>,
}

#[derive(Debug, Deserialize)]
struct Anonymous {
    #[serde(rename = "isAnonymous")]
    any: Option<bool>,
    #[serde(rename = "isVPN")]
    vpn: Option<bool>,
    #[serde(rename = "isHosting")]
    hosting: Option<bool>,
    #[serde(rename = "isTor")]
    tor: Option<bool>,
    #[serde(rename = "isProxy")]
    proxy: Option<bool>,
}

const NAME: &str = "envoy.filters.http.geoip";
/// Older ones end when a database is not there or cannot be read ("Unable to open Maxmind database file"); this one refuses the
/// listener, so that the relay serves on what was good.
const REFUSING: (u32, u32) = (1, 40);

/// What can be asked of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fact {
    Anonymous,
    Asn,
    City,
    Country,
    Hosting,
    Isp,
    Proxy,
    Region,
    Tor,
    Vpn,
}

impl Fact {
    const fn name(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Asn => "asn",
            Self::City => "city",
            Self::Country => "country",
            Self::Hosting => "hosting",
            Self::Isp => "isp",
            Self::Proxy => "proxy",
            Self::Region => "region",
            Self::Tor => "tor",
            Self::Vpn => "vpn",
        }
    }

    /// The field of a rule that asks for it.
    const fn field(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous.isAnonymous",
            Self::Hosting => "anonymous.isHosting",
            Self::Proxy => "anonymous.isProxy",
            Self::Tor => "anonymous.isTor",
            Self::Vpn => "anonymous.isVPN",
            Self::Asn | Self::City | Self::Country | Self::Isp | Self::Region => self.name(),
        }
    }

    /// The header in which the filter tells it.
    fn header(self) -> String {
        format!("x-moorgate-location-{}", self.name())
    }

    /// The databases that know it: the first that there is answers, as in Envoy.
    const fn databases(self) -> &'static [Database] {
        match self {
            Self::Asn => &[Database::Asn, Database::Isp],
            Self::City | Self::Region => &[Database::City],
            Self::Country => &[Database::Country, Database::City],
            Self::Isp => &[Database::Isp],
            Self::Anonymous | Self::Hosting | Self::Proxy | Self::Tor | Self::Vpn => &[Database::Anonymous],
        }
    }
}

impl Capability for ClientLocation {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "client_location",
        kind: Kind::Security,
        fields: &["authorization.rules.principal.clientIPGeoLocations"],
        except: &[],
        since: "0.2.0",
        docs: "\
Rules of authorization by where a client is: a rule fits if all of one of its clientIPGeoLocations does. country, region (ISO codes), city \
(its English name) and isp are compared without regard to upper and lower case, asn is a number. anonymous.isAnonymous, isVPN, isHosting, isTor and \
isProxy are true if the database says so of the address, and false otherwise: such databases list only what they know. An address of which no \
database says what a rule asks for does not fit it, so what comes of it is up to the other rules and defaultAction. The address is the one that \
clientIPDetection of a ClientTrafficPolicy finds, in each of its ways; without one it is who is connected. The databases are files of \
MaxMind's format that the EnvoyProxy of the Gateway or class names (geoIP.provider.maxMind: cityDbSource, countryDbSource, asnDbSource, \
ispDbSource, anonymousIpDbSource); where it names none that knows what a rule asks for, what the policy targets answers 500 (MG4051). Only what the \
rules of a route ask for is looked up, and only in the databases that are needed for it. A file must lie beside each Envoy, on a bare \
machine under that path, and in a pod in a volume that is mounted there; Envoy notices one that is moved to its place later. Envoy 1.40 refuses a \
listener whose database is not there or cannot be read, so that the relay serves the last good snapshot on and reports it; older Envoys would end, so they are \
left at the snapshot before.",
        effect: Effect::Filter {
            name: NAME,
            place: place::LOCATION,
            why: "right before the rules that decide by it, so that nothing else sees what it found out, and nobody is looked up who was kept out before",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let at = FieldPath::parse("spec.authorization.rules");
        let rules = spec.authorization.iter().flat_map(|rights| &rights.rules).enumerate();
        let mut facts = BTreeSet::new();
        let mut first = None;
        for (index, rule) in rules {
            let Some(who) = rule.principal.as_ref().filter(|who| !who.locations.is_empty()) else { continue };
            first.get_or_insert_with(|| at.index(index).key("principal").key("clientIPGeoLocations"));
            facts.extend(who.locations.iter().flat_map(|location| location.asks().into_keys()));
        }
        if let Some(at) = first {
            cx.need(Need { at, what: What::Location(facts) });
        }
    }
}

/// What a fact must be.
enum Wanted {
    /// A text, in upper or lower case.
    Text(String),
    /// Exactly this.
    Exact(String),
    /// Said or not.
    Flag(bool),
}

impl Location {
    fn asks(&self) -> BTreeMap<Fact, Wanted> {
        let text = |text: &Option<String>| text.clone().map(Wanted::Text);
        let flag =
            |of: fn(&Anonymous) -> Option<bool>| self.anonymous.as_ref().and_then(of).map(Wanted::Flag);
        let all = [
            (Fact::Country, text(&self.country)),
            (Fact::Region, text(&self.region)),
            (Fact::City, text(&self.city)),
            (Fact::Isp, text(&self.isp)),
            (Fact::Asn, self.asn.map(|asn| Wanted::Exact(asn.to_string()))),
            (Fact::Anonymous, flag(|about| about.any)),
            (Fact::Vpn, flag(|about| about.vpn)),
            (Fact::Hosting, flag(|about| about.hosting)),
            (Fact::Tor, flag(|about| about.tor)),
            (Fact::Proxy, flag(|about| about.proxy)),
        ];
        all.into_iter().filter_map(|(fact, wanted)| Some((fact, wanted?))).collect()
    }
}

/// Who is at one of these places; nothing if that cannot be said.
pub(crate) fn fits(locations: &[Location], at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Principal> {
    let mut places = Vec::new();
    for (index, location) in locations.iter().enumerate() {
        let asks = location.asks();
        if asks.is_empty() {
            cx.invalid(at.index(index), "nothing is said of the place");
            return None;
        }
        places.push(all_of(asks.into_iter().map(|(fact, wanted)| holds(fact, wanted)).collect()));
    }
    Some(any_of(places))
}

fn holds(fact: Fact, wanted: Wanted) -> Principal {
    let told = |value: String, ignore_case| {
        let value = StringMatcher { match_pattern: Some(MatchPattern::Exact(value)), ignore_case };
        header_of(&fact.header(), value)
    };
    match wanted {
        Wanted::Text(text) => told(text, true),
        Wanted::Exact(text) => told(text, false),
        Wanted::Flag(true) => told("true".to_owned(), false),
        Wanted::Flag(false) => not(told("true".to_owned(), false)),
    }
}

/// The filter that finds these facts out, with the databases of these parameters.
pub(crate) fn located(facts: &BTreeSet<Fact>, parameters: Option<&Object>) -> Result<Met, String> {
    let named = parameters.map(databases::named).unwrap_or_default();
    let (mut config, mut keys) = (MaxMindConfig::default(), GeolocationFieldKeys::default());
    for fact in facts {
        let found = fact.databases().iter().find_map(|database| Some((*database, *named.get(database)?)));
        let (database, path) = found.ok_or_else(|| lacks(*fact))?;
        let field = match database {
            Database::Anonymous => &mut config.anon_db_path,
            Database::Asn => &mut config.asn_db_path,
            Database::City => &mut config.city_db_path,
            Database::Country => &mut config.country_db_path,
            Database::Isp => &mut config.isp_db_path,
        };
        path.clone_into(field);
        *key(&mut keys, *fact) = fact.header();
    }
    config.common_provider_config =
        Some(CommonGeoipProviderConfig { geo_field_keys: Some(keys), ..Default::default() });
    let provider = TypedExtensionConfig {
        name: "envoy.geoip_providers.maxmind".to_owned(),
        typed_config: Some(any(&config)),
    };
    // Without a way of its own it takes the address that the connection manager has found.
    let filter = Geoip { provider: Some(provider), ..Default::default() };
    let names: Vec<&str> = facts.iter().map(|fact| fact.name()).collect();
    // Routes that ask for other facts have a filter of their own.
    let name = format!("{NAME}/{}", names.join("."));
    Ok(Met {
        filters: vec![late::whole((&name, place::LOCATION), extension(&filter))],
        reserved: facts.iter().map(|fact| fact.header()).collect(),
        oldest_envoy: Some(REFUSING),
    })
}

fn key(keys: &mut GeolocationFieldKeys, fact: Fact) -> &mut String {
    match fact {
        Fact::Anonymous => &mut keys.anon,
        Fact::Asn => &mut keys.asn,
        Fact::City => &mut keys.city,
        Fact::Country => &mut keys.country,
        Fact::Hosting => &mut keys.anon_hosting,
        Fact::Isp => &mut keys.isp,
        Fact::Proxy => &mut keys.anon_proxy,
        Fact::Region => &mut keys.region,
        Fact::Tor => &mut keys.anon_tor,
        Fact::Vpn => &mut keys.anon_vpn,
    }
}

fn lacks(fact: Fact) -> String {
    let databases = fact.databases().iter();
    let fields: Vec<String> =
        databases.map(|database| format!("geoIP.provider.maxMind.{}", database.field())).collect();
    format!("no database is named for {}: set {}", fact.field(), fields.join(" or "))
}

#[cfg(test)]
mod tests;
