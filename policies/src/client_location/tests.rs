use super::*;
use crate::lowering::testing::{self, parameters};
use prost::Message as _;

fn compiled(rules: &str) -> crate::Compiled {
    testing::compile(Kind::Security, &format!(r#"{{"authorization": {{"rules": {rules}}}}}"#))
}

fn need(locations: &str) -> Need {
    let compiled = compiled(&format!(
        r#"[{{"action": "Deny", "principal": {{"clientCIDRs": ["10.0.0.0/8"]}}}},
            {{"action": "Allow", "principal": {{"clientIPGeoLocations": {locations}}}}}]"#
    ));
    assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
    let [need] = compiled.parts["client_location"].needs.as_slice() else { panic!("one need") };
    assert_eq!(need.at.to_string(), "spec.authorization.rules[1].principal.clientIPGeoLocations");
    need.clone()
}

fn databases(fields: &[&str]) -> Object {
    let fields: Vec<String> = fields
        .iter()
        .map(|field| format!(r#""{field}DbSource": {{"local": {{"path": "/db/{field}.mmdb"}}}}"#))
        .collect();
    parameters(&format!(
        r#"{{"geoIP": {{"provider": {{"type": "MaxMind", "maxMind": {{{}}}}}}}}}"#,
        fields.join(",")
    ))
}

fn config(met: &Met) -> MaxMindConfig {
    let [filter] = met.filters.as_slice() else { panic!("one filter") };
    assert!(filter.is_whole() && filter.place == place::LOCATION && filter.off.is_some());
    let geoip = Geoip::decode(filter.base.value.as_slice()).unwrap();
    // The connection manager knows the client's address, and nobody else is asked.
    assert!(geoip.xff_config.is_none() && geoip.custom_header_config.is_none());
    let provider = geoip.provider.unwrap().typed_config.unwrap();
    MaxMindConfig::decode(provider.value.as_slice()).unwrap()
}

#[test]
fn only_what_rules_ask_for_is_looked_up_and_in_no_other_database() {
    let all = databases(&["city", "country", "asn", "isp", "anonymousIp"]);
    let met = need(r#"[{"country": "DE"}, {"country": "fr", "anonymous": {"isTor": false}}]"#);
    let met = met.meet(Some(&all)).unwrap();
    assert_eq!(met.filters[0].name, "envoy.filters.http.geoip/country.tor");
    assert_eq!(met.reserved, ["x-moorgate-location-country", "x-moorgate-location-tor"]);
    assert_eq!(met.oldest_envoy, Some((1, 40)));
    let found = config(&met);
    assert_eq!((&*found.country_db_path, &*found.anon_db_path), ("/db/country.mmdb", "/db/anonymousIp.mmdb"));
    assert_eq!((&*found.city_db_path, &*found.asn_db_path, &*found.isp_db_path), ("", "", ""));
    let keys = found.common_provider_config.unwrap().geo_field_keys.unwrap();
    let wanted = GeolocationFieldKeys {
        country: "x-moorgate-location-country".into(),
        anon_tor: "x-moorgate-location-tor".into(),
        ..Default::default()
    };
    assert_eq!(keys, wanted);
}

#[test]
fn each_fact_has_a_database_and_without_it_it_is_said_which() {
    let anonymous = |flag: &str| format!(r#"[{{"anonymous": {{"{flag}": true}}}}]"#);
    let cases: [(String, &[&str], &str); 11] = [
        (r#"[{"country": "DE"}]"#.into(), &["country"], "country"),
        (r#"[{"country": "DE"}]"#.into(), &["city"], "country"),
        (r#"[{"region": "BE"}]"#.into(), &["city"], "region"),
        (r#"[{"city": "Berlin"}]"#.into(), &["city"], "city"),
        (r#"[{"asn": 64500}]"#.into(), &["asn"], "asn"),
        (r#"[{"asn": 64500}]"#.into(), &["isp"], "asn"),
        (r#"[{"isp": "Net"}]"#.into(), &["isp"], "isp"),
        (anonymous("isAnonymous"), &["anonymousIp"], "anonymous.isAnonymous"),
        (anonymous("isVPN"), &["anonymousIp"], "anonymous.isVPN"),
        (anonymous("isHosting"), &["anonymousIp"], "anonymous.isHosting"),
        (anonymous("isProxy"), &["anonymousIp"], "anonymous.isProxy"),
    ];
    let all = ["city", "country", "asn", "isp", "anonymousIp"];
    for (locations, needed, name) in cases {
        let need = need(&locations);
        assert!(need.meet(Some(&databases(needed))).is_ok(), "{locations}");
        let knows = |field: &&&str| need.meet(Some(&databases(&[**field]))).is_ok();
        let others: Vec<&str> = all.iter().filter(|field| !knows(field)).copied().collect();
        let why = need.meet(Some(&databases(&others))).unwrap_err();
        assert!(why.starts_with(&format!("no database is named for {name}: set ")), "{why}");
        assert!(why.contains(needed[0]) && need.meet(None).is_err(), "{why}");
    }
}

#[test]
fn a_path_that_envoy_would_refuse_names_nothing() {
    let need = need(r#"[{"country": "DE"}]"#);
    for path in ["/db/city.db", "/db/a\\nb.mmdb", ""] {
        let spec = format!(
            r#"{{"geoIP": {{"provider": {{"type": "MaxMind", "maxMind": {{"cityDbSource": {{"local": {{"path": "{path}"}}}}}}}}}}}}"#
        );
        assert!(need.meet(Some(&parameters(&spec))).is_err(), "{path}");
    }
}

#[test]
fn places_are_told_by_headers_without_regard_to_case_and_flags_by_what_is_said() {
    let rules = r#"[{"action": "Allow", "principal": {"clientIPGeoLocations": [{"country": "de", "asn": 7}, {"anonymous": {"isVPN": true, "isTor": false}}]}}]"#;
    let compiled = compiled(rules);
    let own: envoy_types::pb::envoy::extensions::filters::http::rbac::v3::RbacPerRoute =
        testing::filter(&compiled, "authorization", "envoy.filters.http.rbac");
    let rules = own.rbac.unwrap().rules.unwrap();
    let allowed = &rules.policies["rules"].principals[0];
    assert_eq!(
        shown(allowed),
        "any(all(any(all(asn=7, country~de), all(not(tor=true), vpn=true))), not(anybody))"
    );
}

fn shown(principal: &Principal) -> String {
    use envoy_types::pb::envoy::config::rbac::v3::principal::Identifier;
    use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
    let list = |ids: &[Principal]| ids.iter().map(shown).collect::<Vec<_>>().join(", ");
    match principal.identifier.as_ref().unwrap() {
        Identifier::OrIds(set) => format!("any({})", list(&set.ids)),
        Identifier::AndIds(set) => format!("all({})", list(&set.ids)),
        Identifier::NotId(inner) => format!("not({})", shown(inner)),
        Identifier::Any(true) => "anybody".to_owned(),
        Identifier::Header(header) => {
            let Some(HeaderMatchSpecifier::StringMatch(text)) = &header.header_match_specifier else {
                panic!()
            };
            let Some(MatchPattern::Exact(value)) = &text.match_pattern else { panic!() };
            let name = header.name.strip_prefix("x-moorgate-location-").unwrap();
            format!("{name}{}{value}", if text.ignore_case { "~" } else { "=" })
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_place_of_which_nothing_is_said_closes() {
    let compiled = compiled(r#"[{"action": "Allow", "principal": {"clientIPGeoLocations": [{}]}}]"#);
    let said = "MG4002 spec.authorization.rules[0].principal.clientIPGeoLocations[0]";
    assert_eq!((testing::said(&compiled), compiled.closed), (vec![said.to_owned()], true));
}
