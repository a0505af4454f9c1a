//! gRPC for browsers (ClientTrafficPolicy `grpc`).

use crate::{About, Capability, Effect, Kind, Lowering, place};
use envoy_types::pb::envoy::extensions::filters::http::grpc_web::v3::GrpcWeb;
use serde::Deserialize;

/// The capability.
pub(crate) struct ClientGrpc;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    grpc: Option<Wanted>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    enable_web: Option<bool>,
}

const NAME: &str = "envoy.filters.http.grpc_web";

impl Capability for ClientGrpc {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "client_grpc",
        kind: Kind::ClientTraffic,
        fields: &["grpc"],
        except: &[],
        since: "0.3.0",
        docs: "enableWeb: requests of gRPC-Web, which browsers can make, reach backends as gRPC, and their answers come back so.",
        effect: Effect::Filter {
            name: NAME,
            place: place::GRPC_WEB,
            why: "a preflight is answered before; everything behind sees gRPC",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        if spec.grpc.as_ref().is_some_and(|grpc| grpc.enable_web == Some(true)) {
            cx.listener_filter((NAME, place::GRPC_WEB), &GrpcWeb {});
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;

    #[test]
    fn only_where_it_is_asked_for() {
        let compile = |on: bool| {
            testing::compile(Kind::ClientTraffic, &format!(r#"{{"grpc": {{"enableWeb": {on}}}}}"#))
        };
        assert_eq!(compile(true).parts["client_grpc"].on_listener[0].name, NAME);
        assert!(compile(false).parts.is_empty());
    }
}
