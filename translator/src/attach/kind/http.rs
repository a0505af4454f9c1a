//! HTTPRoute and GRPCRoute: rules of requests.

use super::{Building, Built, Mode, RouteKind, Rules};
use crate::attach::index::Indexed;
use crate::attach::rule;
use crate::attach::spec::{GrpcRoute, HttpRoute, Metadata, ParentRef};
use std::rc::Rc;

macro_rules! kind {
    ($type:ident, $kind:literal) => {
        impl RouteKind for $type {
            const KIND: &'static str = $kind;
            const MODE: Mode = Mode::Http;

            fn metadata(&self) -> &Metadata {
                &self.metadata
            }

            fn parent_refs(&self) -> &[ParentRef] {
                &self.spec.parent_refs
            }

            fn default_gateways(&self) -> Option<&str> {
                self.spec.use_default_gateways.as_deref()
            }

            fn hostnames(&self) -> &[String] {
                &self.spec.hostnames
            }

            fn build(cx: &mut Building<'_, '_>, route: &Indexed<'_, Self>, _: Mode) -> Built {
                let built = rule::build(cx.index, route, cx.policies, cx.clusters);
                Built { rules: Rules::Http(Rc::new(built.routes)), findings: built.findings }
            }
        }
    };
}

kind!(HttpRoute, "HTTPRoute");
kind!(GrpcRoute, "GRPCRoute");
