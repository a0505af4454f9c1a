//! Who the client is (ClientTrafficPolicy `clientIPDetection`).

use crate::authorization::cidr;
use crate::lowering::any;
use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::http::original_ip_detection::custom_header::v3::CustomHeaderConfig;
use envoy_types::pb::envoy::extensions::http::original_ip_detection::xff::v3::{XffConfig, XffTrustedCidrs};
use envoy_types::pb::envoy::r#type::v3::{HttpStatus, StatusCode};
use envoy_types::pb::google::protobuf::BoolValue;
use moorgate_model::FieldPath;
use prost::{Message, Name};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The capability.
pub(crate) struct ClientIp;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    #[serde(rename = "clientIPDetection")]
    detection: Option<Detection>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Detection {
    x_forwarded_for: Option<Forwarded>,
    custom_header: Option<Custom>,
    #[serde(rename = "directSourceIP")]
    direct: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Forwarded {
    num_trusted_hops: Option<u32>,
    #[serde(default, rename = "trustedCIDRs")]
    trusted: Vec<String>,
    disable_x_forwarded_for_append: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Custom {
    name: String,
    fail_closed: Option<bool>,
}

/// `HttpConnectionManager.use_remote_address`: what is found by an extension and what is seen cannot be mixed.
const SEEN: &[u32] = &[14];

impl Capability for ClientIp {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "client_ip",
        kind: Kind::ClientTraffic,
        fields: &["clientIPDetection"],
        except: &[],
        since: "0.1.0",
        docs: "\
Whose address counts as the client's where rules decide by it: xForwardedFor.numTrustedHops so many entries of X-Forwarded-For from its \
end, xForwardedFor.trustedCIDRs the last entry that is not one of these proxies, customHeader.name what this header says (with failClosed, \
requests without it are answered with 403), directSourceIP who is connected. Without a policy it is who is connected. \
xForwardedFor.disableXForwardedForAppend passes that header on as it came.",
        effect: Effect::ConnectionManager,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(detection) = &spec.detection else { return };
        let at = FieldPath::parse("spec.clientIPDetection");
        match (&detection.x_forwarded_for, &detection.custom_header, &detection.direct) {
            (Some(forwarded), None, None) => xff(forwarded, &at.key("xForwardedFor"), cx),
            (None, Some(custom), None) => {
                if !cx.header_name(at.key("customHeader").key("name"), &custom.name) {
                    return;
                }
                let reject = HttpStatus { code: StatusCode::Forbidden.into() };
                let config = CustomHeaderConfig {
                    header_name: custom.name.clone(),
                    reject_with_status: (custom.fail_closed == Some(true)).then_some(reject),
                    ..Default::default()
                };
                detect("envoy.http.original_ip_detection.custom_header", &config, cx);
            }
            // That is what is done without a policy.
            (None, None, _) => {}
            _ => cx.invalid(at, "the client's address is found in one way"),
        }
    }
}

fn xff(forwarded: &Forwarded, at: &FieldPath, cx: &mut Lowering<'_>) {
    let skips = forwarded.disable_x_forwarded_for_append == Some(true);
    match (forwarded.num_trusted_hops, forwarded.trusted.as_slice()) {
        (Some(hops), []) => {
            let manager = HttpConnectionManager {
                xff_num_trusted_hops: hops,
                skip_xff_append: skips,
                ..Default::default()
            };
            cx.manager(&manager, &[]);
        }
        (None, trusted @ [_, ..]) => {
            let mut cidrs = Vec::new();
            for (index, text) in trusted.iter().enumerate() {
                let Some(range) = cidr(text) else {
                    let message = format!("{text:?} is no range of addresses");
                    return cx.invalid(at.key("trustedCIDRs").index(index), &message);
                };
                cidrs.push(range);
            }
            let config = XffConfig {
                xff_trusted_cidrs: Some(XffTrustedCidrs { cidrs }),
                skip_xff_append: Some(BoolValue { value: skips }),
                ..Default::default()
            };
            detect("envoy.http.original_ip_detection.xff", &config, cx);
        }
        (None, []) if skips => {
            cx.manager(&HttpConnectionManager { skip_xff_append: true, ..Default::default() }, &[]);
        }
        (None, []) => cx.invalid(at.clone(), "neither numTrustedHops nor trustedCIDRs is set"),
        (Some(_), [_, ..]) => cx.invalid(at.clone(), "numTrustedHops and trustedCIDRs are both set"),
    }
}

fn detect<M: Message + Name>(name: &str, config: &M, cx: &mut Lowering<'_>) {
    let typed_config = Some(any(config));
    let extension = TypedExtensionConfig { name: name.into(), typed_config };
    let manager = HttpConnectionManager {
        use_remote_address: Some(BoolValue { value: false }),
        original_ip_detection_extensions: vec![extension],
        ..Default::default()
    };
    cx.manager(&manager, &[SEEN]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};

    fn manager(spec: &str) -> HttpConnectionManager {
        let spec = format!(r#"{{"clientIPDetection": {spec}}}"#);
        let compiled = testing::compile(Kind::ClientTraffic, &spec);
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        patched(&compiled.parts["client_ip"].manager)
    }

    #[test]
    fn addresses_are_found_in_every_way() {
        assert_eq!(manager(r#"{"xForwardedFor": {"numTrustedHops": 2}}"#).xff_num_trusted_hops, 2);
        let trusted = manager(r#"{"xForwardedFor": {"trustedCIDRs": ["10.0.0.0/8"]}}"#);
        assert_eq!(trusted.original_ip_detection_extensions.len(), 1);
        assert_eq!(trusted.use_remote_address, Some(BoolValue { value: false }));
        let custom = manager(r#"{"customHeader": {"name": "x-client", "failClosed": true}}"#);
        let config = custom.original_ip_detection_extensions[0].typed_config.clone().unwrap();
        let config = CustomHeaderConfig::decode(config.value.as_slice()).unwrap();
        assert_eq!((config.header_name.as_str(), config.reject_with_status.is_some()), ("x-client", true));
        assert!(!config.allow_extension_to_set_address_as_trusted);
        let direct =
            testing::compile(Kind::ClientTraffic, r#"{"clientIPDetection": {"directSourceIP": {}}}"#);
        assert!(direct.findings.is_empty() && direct.parts.is_empty());
    }

    #[test]
    fn an_address_that_cannot_be_found_closes() {
        for (spec, said) in [
            (r#"{"xForwardedFor": {}}"#, "MG4002 spec.clientIPDetection.xForwardedFor"),
            (
                r#"{"xForwardedFor": {"trustedCIDRs": ["x"]}}"#,
                "MG4002 spec.clientIPDetection.xForwardedFor.trustedCIDRs[0]",
            ),
            (
                r#"{"xForwardedFor": {"numTrustedHops": 1}, "customHeader": {"name": "a"}}"#,
                "MG4002 spec.clientIPDetection",
            ),
        ] {
            let compiled =
                testing::compile(Kind::ClientTraffic, &format!(r#"{{"clientIPDetection": {spec}}}"#));
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said.to_owned()], true), "{spec}");
        }
    }
}
