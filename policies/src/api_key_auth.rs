//! Clients with keys (SecurityPolicy `apiKeyAuth`).

use crate::lowering::late::{SecretRef, bytes};
use crate::{About, Capability, Effect, Kind, Lowering, place};
use envoy_types::pb::envoy::extensions::filters::http::api_key_auth::v3::{
    ApiKeyAuth as Filter, Forwarding, KeySource,
};
use moorgate_model::FieldPath;
use moorgate_model::ir::LatePart;
use prost::Name as _;
use serde::Deserialize;

/// The capability.
pub(crate) struct ApiKeyAuth;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    api_key_auth: Option<Rules>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rules {
    #[serde(default)]
    credential_refs: Vec<SecretRef>,
    #[serde(default)]
    extract_from: Vec<Place>,
    #[serde(rename = "forwardClientIDHeader")]
    forward: Option<String>,
    sanitize: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
struct Place {
    #[serde(default)]
    headers: Vec<String>,
    #[serde(default)]
    params: Vec<String>,
    #[serde(default)]
    cookies: Vec<String>,
}

const NAME: &str = "envoy.filters.http.api_key_auth";
/// `ApiKeyAuth.credentials`, and `key` and `client` in that.
const CREDENTIALS: u32 = 1;
const KEY: u32 = 1;
const CLIENT: u32 = 2;

impl Capability for ApiKeyAuth {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "api_key_auth",
        kind: Kind::Security,
        fields: &["apiKeyAuth"],
        except: &[],
        since: "0.2.0",
        docs: "\
Clients show a key that stands in one of the Secrets in credentialRefs: each entry is a client by its name, and its key. extractFrom says \
where it is looked for: headers, params (of the query), cookies, the first that there is. Others are answered with 401. \
forwardClientIDHeader tells the backend the client, sanitize takes the key out of the request. The snapshot holds the names of the Secrets \
only: the relay reads them and puts the keys into the filter's configuration (ECDS), so that a new key needs no compile; while one of the \
Secrets has never been there, requests are answered with 500.",
        effect: Effect::Filter {
            name: NAME,
            place: place::API_KEY_AUTH,
            why: "clients are known before tokens are read, and before anything decides by them",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(rules) = &spec.api_key_auth else { return };
        let at = FieldPath::parse("spec.apiKeyAuth");
        let Some(key_sources) = sources(&rules.extract_from, &at.key("extractFrom"), cx) else { return };
        let header = rules.forward.clone().unwrap_or_default();
        if !header.is_empty() && !cx.header_name(at.key("forwardClientIDHeader"), &header) {
            return;
        }
        let at = at.key("credentialRefs");
        let mut secrets = Vec::new();
        for (index, reference) in rules.credential_refs.iter().enumerate() {
            let Some(secret) = cx.secret(&at.index(index), reference, &[]) else { return };
            secrets.push(secret);
        }
        if secrets.is_empty() {
            return cx.invalid(at, "no Secret holds a key, so none is good");
        }
        let client =
            vec![LatePart::Field(KEY, vec![LatePart::Value]), LatePart::Field(CLIENT, vec![LatePart::Name])];
        let clients = LatePart::Each(vec![LatePart::Field(CREDENTIALS, client)]);
        let hide_credentials = rules.sanitize == Some(true);
        let forwarding =
            (hide_credentials || !header.is_empty()).then_some(Forwarding { header, hide_credentials });
        let rest = Filter { key_sources, forwarding, ..Default::default() };
        let parts: Vec<LatePart> = [clients].into_iter().chain(bytes(&rest)).collect();
        let name = cx.filter_name(NAME, &parts);
        cx.secret_filter((&name, place::API_KEY_AUTH), Filter::type_url(), &secrets, parts);
    }
}

fn sources(places: &[Place], at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Vec<KeySource>> {
    let mut out = Vec::new();
    for (index, place) in places.iter().enumerate() {
        let at = at.index(index);
        for name in &place.headers {
            cx.header_name(at.key("headers"), name).then_some(())?;
            out.push(KeySource { header: name.to_ascii_lowercase(), ..Default::default() });
        }
        for name in &place.params {
            if name.is_empty() || name.len() > 1024 {
                cx.invalid(at.key("params"), "a parameter needs a name of at most 1024 bytes");
                return None;
            }
            out.push(KeySource { query: name.clone(), ..Default::default() });
        }
        for name in &place.cookies {
            // A cookie's name has the letters of a header's (RFC 6265 4.1.1).
            cx.header_name(at.key("cookies"), name).then_some(())?;
            out.push(KeySource { cookie: name.clone(), ..Default::default() });
        }
    }
    if out.is_empty() {
        cx.invalid(at.clone(), "nothing says where keys are");
        return None;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::late::filled;
    use crate::lowering::testing;
    use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
    use prost::Message as _;

    #[test]
    fn each_entry_is_a_client() {
        let compiled = testing::compile(
            Kind::Security,
            r#"{"apiKeyAuth": {"credentialRefs": [{"name": "a"}, {"name": "b", "namespace": "team"}], "sanitize": true,
                "extractFrom": [{"headers": ["X-Key"]}, {"params": ["key"], "cookies": ["key"]}], "forwardClientIDHeader": "x-client"}}"#,
        );
        assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
        let [value] = compiled.parts["api_key_auth"].late.as_slice() else { panic!("one") };
        let namespaces: Vec<_> = value.objects.iter().map(|object| object.1.as_str()).collect();
        assert_eq!(namespaces, ["shop", "team"]);
        let config = filled(&value.parts, &[("ann", "k1"), ("bob", "k2")]);
        let config = TypedExtensionConfig::decode(config.as_slice()).unwrap().typed_config.unwrap();
        assert_eq!(config.type_url, Filter::type_url());
        let found = Filter::decode(config.value.as_slice()).unwrap();
        let clients: Vec<_> = found.credentials.iter().map(|one| (&*one.client, &*one.key)).collect();
        assert_eq!(clients, [("ann", "k1"), ("bob", "k2")]);
        let keys: Vec<_> =
            found.key_sources.iter().map(|one| (&*one.header, &*one.query, &*one.cookie)).collect();
        assert_eq!(keys, [("x-key", "", ""), ("", "key", ""), ("", "", "key")]);
        let forwarding = found.forwarding.unwrap();
        assert!(forwarding.hide_credentials && forwarding.header == "x-client");
    }

    #[test]
    fn what_cannot_be_carried_out_closes() {
        let with = |more: &str| format!(r#"{{"apiKeyAuth": {{{more}}}}}"#);
        let from = r#""extractFrom": [{"headers": ["x-key"]}]"#;
        for (spec, said) in [
            (with(from), "MG4002 spec.apiKeyAuth.credentialRefs"),
            (
                with(&format!(r#""credentialRefs": [{{"name": "a"}}, {{"name": "gone"}}], {from}"#)),
                "MG4002 spec.apiKeyAuth.credentialRefs[1]",
            ),
            (with(r#""credentialRefs": [{"name": "a"}]"#), "MG4002 spec.apiKeyAuth.extractFrom"),
            (
                with(r#""credentialRefs": [{"name": "a"}], "extractFrom": [{"cookies": ["a b"]}]"#),
                "MG4002 spec.apiKeyAuth.extractFrom[0].cookies",
            ),
        ] {
            let compiled = testing::compile(Kind::Security, &spec);
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said.to_owned()], true), "{spec}");
        }
    }
}
