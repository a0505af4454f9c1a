//! Credentials that backends ask for (HTTPRouteFilter `credentialInjection`).

use crate::lowering::{SecretRef, any, extension};
use crate::{About, Capability, Effect, Kind, Lowering, place};
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::extensions::filters::http::credential_injector::v3::CredentialInjector;
use envoy_types::pb::envoy::extensions::http::injected_credentials::generic::v3::Generic;
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct CredentialInjection;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    credential_injection: Option<Rules>,
}

#[derive(Debug, Deserialize)]
struct Rules {
    header: Option<String>,
    overwrite: Option<bool>,
    credential: Credential,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Credential {
    value_ref: SecretRef,
}

const NAME: &str = "envoy.filters.http.credential_injector";
/// The key of the Secret that holds the credential.
const KEY: &str = "credential";

impl Capability for CredentialInjection {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "credential_injection",
        kind: Kind::RouteFilter,
        fields: &["credentialInjection"],
        except: &[],
        since: "0.2.0",
        docs: "\
Requests get a header (Authorization, if none is named) with the value under the key credential of a Secret, which is bound by the relay and never \
lies in a snapshot. A request that has the header keeps its own, unless overwrite is true. While the Secret is not there, the value is random: no \
backend takes it. In the filters of a backendRef it is for requests to this backend alone.",
        effect: Effect::Filter {
            name: NAME,
            place: place::CREDENTIAL,
            why: "nobody but the backend sees what is put in",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(rules) = &spec.credential_injection else { return };
        let at = FieldPath::parse("spec.credentialInjection");
        if rules.header.as_ref().is_some_and(|name| !cx.header_name(at.key("header"), name)) {
            return;
        }
        let at = at.key("credential").key("valueRef");
        let Some(secret) = cx.secret(&at, &rules.credential.value_ref, &[KEY]) else { return };
        let credential = Some(cx.sds(&secret, KEY));
        let header = rules.header.clone().unwrap_or_default();
        let generic = Generic { credential, header, ..Default::default() };
        let injector = CredentialInjector {
            overwrite: rules.overwrite == Some(true),
            credential: Some(TypedExtensionConfig {
                name: "envoy.http.injected_credentials.generic".into(),
                typed_config: Some(any(&generic)),
            }),
            ..Default::default()
        };
        // The filter has no settings of routes, so it stands on listeners whole, under a name of its own.
        let name = format!("{NAME}/{}", cx.own_name("credential"));
        cx.whole_filter((&name, place::CREDENTIAL), extension(&injector));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;
    use prost::Message as _;

    #[test]
    fn a_secret_is_named_and_never_written() {
        let compiled = testing::compile(
            Kind::RouteFilter,
            r#"{"credentialInjection": {"header": "x-key", "overwrite": true, "credential": {"valueRef": {"name": "keys"}}}}"#,
        );
        assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
        let [filter] = compiled.parts["credential_injection"].filters.as_slice() else {
            panic!("one filter")
        };
        assert_eq!(filter.name, "envoy.filters.http.credential_injector/shop/guard/credential");
        let injector = CredentialInjector::decode(filter.base.value.as_slice()).unwrap();
        let generic = injector.credential.unwrap().typed_config.unwrap();
        let generic = Generic::decode(generic.value.as_slice()).unwrap();
        assert_eq!((injector.overwrite, generic.header.as_str()), (true, "x-key"));
        assert_eq!(generic.credential.unwrap().name, "Secret/shop/keys/credential");
    }

    #[test]
    fn without_its_secret_nothing_passes() {
        for (spec, field) in [
            (r#"{"header": "a b", "credential": {"valueRef": {"name": "keys"}}}"#, "header"),
            (
                r#"{"credential": {"valueRef": {"kind": "ConfigMap", "name": "keys"}}}"#,
                "credential.valueRef.kind",
            ),
        ] {
            let compiled =
                testing::compile(Kind::RouteFilter, &format!(r#"{{"credentialInjection": {spec}}}"#));
            let said = format!("MG4002 spec.credentialInjection.{field}");
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said], true), "{spec}");
        }
    }
}
