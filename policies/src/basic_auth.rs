//! Users with passwords (SecurityPolicy `basicAuth`).

use crate::lowering::late::{SecretRef, bytes};
use crate::{About, Capability, Effect, Kind, Lowering, place};
use envoy_types::pb::envoy::extensions::filters::http::basic_auth::v3::BasicAuth as Filter;
use moorgate_model::FieldPath;
use moorgate_model::ir::{LateForm, LatePart};
use prost::Name as _;
use serde::Deserialize;

/// The capability.
pub(crate) struct BasicAuth;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    basic_auth: Option<Rules>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rules {
    users: SecretRef,
    forward_username_header: Option<String>,
}

const NAME: &str = "envoy.filters.http.basic_auth";
/// The key of the Secret.
const USERS: &str = ".htpasswd";
/// `BasicAuth.users`, and `inline_bytes` in that.
const INLINE: [u32; 2] = [1, 2];

impl Capability for BasicAuth {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "basic_auth",
        kind: Kind::Security,
        fields: &["basicAuth"],
        except: &[],
        since: "0.2.0",
        docs: "\
Clients name a user and a password (RFC 7617) that stand in users: a Secret with key .htpasswd, lines as `htpasswd -s` writes them (SHA-1, \
which is all that Envoy knows). Others are answered with 401. forwardUsernameHeader tells the backend the user. The snapshot holds the \
name of the Secret only: the relay reads it, checks it and puts it into the filter's configuration (ECDS), so that a new password needs no \
compile; while there has never been a good one, requests are answered with 500.",
        effect: Effect::Filter {
            name: NAME,
            place: place::BASIC_AUTH,
            why: "users are known before tokens are read, and before anything decides by them",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(rules) = &spec.basic_auth else { return };
        let at = FieldPath::parse("spec.basicAuth");
        let header = rules.forward_username_header.clone().unwrap_or_default();
        if !header.is_empty() && !cx.header_name(at.key("forwardUsernameHeader"), &header) {
            return;
        }
        let Some(secret) = cx.secret(&at.key("users"), &rules.users, &[USERS]) else { return };
        let users =
            LatePart::Entry { object: 0, key: USERS.to_owned(), form: LateForm::Htpasswd, or_random: false };
        let users = INLINE.iter().rev().fold(users, |part, number| LatePart::Field(*number, vec![part]));
        let rest = Filter { forward_username_header: header, ..Default::default() };
        let parts: Vec<LatePart> = [users].into_iter().chain(bytes(&rest)).collect();
        let name = cx.filter_name(NAME, &parts);
        cx.secret_filter((&name, place::BASIC_AUTH), Filter::type_url(), &[secret], parts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::late::filled;
    use crate::lowering::testing;
    use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
    use envoy_types::pb::envoy::config::core::v3::{ExtensionConfigSource, TypedExtensionConfig};
    use prost::Message as _;

    #[test]
    fn the_configuration_comes_by_itself_with_the_users_in_it() {
        let compiled = testing::compile(
            Kind::Security,
            r#"{"basicAuth": {"users": {"name": "staff"}, "forwardUsernameHeader": "x-user"}}"#,
        );
        assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
        let part = &compiled.parts["basic_auth"];
        let ([filter], [value]) = (part.filters.as_slice(), part.late.as_slice()) else { panic!("one each") };
        assert!(filter.is_whole() && filter.name == value.name, "Envoy asks by the name of the filter");
        let source = ExtensionConfigSource::decode(filter.base.value.as_slice()).unwrap();
        assert_eq!((source.type_urls, source.default_config), (vec![Filter::type_url()], None));
        assert_eq!(value.objects, [("Secret".into(), "shop".into(), "staff".into())]);
        let config = filled(&value.parts, &[(USERS, "ann:x")]);
        let config = TypedExtensionConfig::decode(config.as_slice()).unwrap();
        assert_eq!(config.name, filter.name);
        let inner = Filter::decode(config.typed_config.unwrap().value.as_slice()).unwrap();
        assert_eq!(inner.users.unwrap().specifier, Some(Specifier::InlineBytes(b"ann:x".to_vec())));
        assert_eq!(inner.forward_username_header, "x-user");
    }

    #[test]
    fn without_its_secret_it_closes() {
        for (spec, said) in [
            (r#"{"basicAuth": {"users": {"name": "gone"}}}"#, "MG4002 spec.basicAuth.users"),
            (
                r#"{"basicAuth": {"users": {"kind": "ConfigMap", "name": "a"}}}"#,
                "MG4002 spec.basicAuth.users.kind",
            ),
            (
                r#"{"basicAuth": {"users": {"name": "a"}, "forwardUsernameHeader": "a b"}}"#,
                "MG4002 spec.basicAuth.forwardUsernameHeader",
            ),
        ] {
            let compiled = testing::compile(Kind::Security, spec);
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said.to_owned()], true), "{spec}");
            assert!(compiled.parts.is_empty());
        }
    }
}
