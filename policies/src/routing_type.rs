//! By which addresses Services are reached (BackendTrafficPolicy `routingType`).

use crate::{About, Capability, Effect, Kind, Lowering};
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct RoutingType;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    routing_type: Option<String>,
}

impl Capability for RoutingType {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "routing_type",
        kind: Kind::BackendTraffic,
        fields: &["routingType"],
        except: &[],
        since: "0.3.0",
        docs: "\
Endpoint (as without a policy): Envoy knows the endpoints of a Service and balances between them. Service: Envoy has the Service's own address, which the relay finds by its name \
(`service.namespace.svc.cluster.local`), and the cluster's network balances connections.",
        effect: Effect::Cluster,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        match spec.routing_type.as_deref() {
            None => {}
            Some("Endpoint") => cx.by_service(false),
            Some("Service") => cx.by_service(true),
            Some(other) => {
                cx.invalid(
                    FieldPath::parse("spec.routingType"),
                    &format!("{other:?} is neither Endpoint nor Service"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;

    #[test]
    fn both_types() {
        let compile =
            |kind: &str| testing::compile(Kind::BackendTraffic, &format!(r#"{{"routingType": "{kind}"}}"#));
        for (kind, by_service) in [("Endpoint", false), ("Service", true)] {
            assert_eq!(compile(kind).parts["routing_type"].cluster.by_service, Some(by_service));
        }
        assert_eq!(testing::said(&compile("Pod")), ["MG4002 spec.routingType"]);
    }
}
