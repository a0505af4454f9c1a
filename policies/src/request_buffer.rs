//! Requests are held until they are there whole (BackendTrafficPolicy `requestBuffer`).

use crate::quantity::Quantity;
use crate::upgrade::without_usual;
use crate::{About, Capability, Effect, Kind, Lowering, place};
use envoy_types::pb::envoy::config::route::v3::RouteAction;
use envoy_types::pb::envoy::extensions::filters::http::buffer::v3::buffer_per_route::Override;
use envoy_types::pb::envoy::extensions::filters::http::buffer::v3::{Buffer, BufferPerRoute};
use envoy_types::pb::google::protobuf::UInt32Value;
use moorgate_model::FieldPath;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The capability.
pub(crate) struct RequestBuffer;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    request_buffer: Option<Wanted>,
    #[serde(default)]
    http_upgrade: Vec<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Wanted {
    limit: Option<Quantity>,
}

const NAME: &str = "envoy.filters.http.buffer";

impl Capability for RequestBuffer {
    type Spec = Spec;
    const READS: &'static [&'static str] = &["httpUpgrade"];
    const ABOUT: About = About {
        file: "request_buffer",
        kind: Kind::BackendTraffic,
        fields: &["requestBuffer"],
        except: &[],
        since: "0.3.0",
        docs: "\
A request goes to its backend when all of it has come, up to limit bytes; a larger one is answered with 413. Not for requests that stream; those that change the protocol (websocket) do not pass, unless a merged httpUpgrade lists them.",
        effect: Effect::Filter {
            name: NAME,
            place: place::BUFFER,
            why: "a request is held whole before scripts and services see its body",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(wanted) = &spec.request_buffer else { return };
        let found =
            wanted.limit.as_ref().and_then(Quantity::number).and_then(|bytes| u32::try_from(bytes).ok());
        let Some(value) = found.filter(|bytes| *bytes > 0) else {
            let at = FieldPath::parse("spec.requestBuffer.limit");
            return cx.invalid(at, "it is a number of bytes, 1 to 4294967295");
        };
        let buffer = |value| Buffer { max_request_bytes: Some(UInt32Value { value }) };
        let own = BufferPerRoute { r#override: Some(Override::Buffer(buffer(value))) };
        let off = BufferPerRoute { r#override: Some(Override::Disabled(true)) };
        // The one of the listener is never used; Envoy asks for a number.
        cx.busy_filter((NAME, place::BUFFER), &buffer(1), &own, &off);
        if !spec.http_upgrade.is_empty() {
            // Of the policy that it is merged with: what that one lists it means.
            return;
        }
        // A request that changes the protocol never ends, so it would wait for good.
        cx.forward(&RouteAction { upgrade_configs: vec![without_usual()], ..Default::default() }, &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;

    /// Envoy refuses a route that says of one protocol twice whether it passes.
    #[test]
    fn a_change_of_the_protocol_is_spoken_of_once() {
        for (upgrades, spoken) in
            [("", 1), (r#", "httpUpgrade": []"#, 1), (r#", "httpUpgrade": [{"type": "spdy/3.1"}]"#, 2)]
        {
            let spec = format!(r#"{{"requestBuffer": {{"limit": "1Mi"}}{upgrades}}}"#);
            let compiled = testing::compile(Kind::BackendTraffic, &spec);
            let configs = testing::patched::<RouteAction>(&compiled.together().forward).upgrade_configs;
            let names: std::collections::BTreeSet<&str> =
                configs.iter().map(|one| one.upgrade_type.as_str()).collect();
            assert_eq!((configs.len(), names.len()), (spoken, spoken), "{configs:?}");
            assert!(configs.iter().any(|one| one.upgrade_type == "websocket" && !one.enabled.unwrap().value));
        }
        assert_eq!(RequestBuffer::READS, ["httpUpgrade"], "a merge may bring it");
    }

    #[test]
    fn a_limit_that_is_one() {
        let compile = |limit: &str| {
            testing::compile(Kind::BackendTraffic, &format!(r#"{{"requestBuffer": {{"limit": {limit}}}}}"#))
        };
        let own: BufferPerRoute = testing::filter(&compile(r#""2Mi""#), "request_buffer", NAME);
        assert_eq!(
            own.r#override,
            Some(Override::Buffer(Buffer { max_request_bytes: Some(UInt32Value { value: 2 << 20 }) }))
        );
        for limit in ["0", r#""9Gi""#, r#""much""#] {
            assert_eq!(testing::said(&compile(limit)), ["MG4002 spec.requestBuffer.limit"]);
        }
    }
}
