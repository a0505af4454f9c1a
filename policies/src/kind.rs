//! The kinds of Envoy Gateway that capabilities are part of.

use crate::TargetKind;
use crate::lowering::SETTINGS;
use moorgate_model::{FieldPath, Object, ObjectRef, Segment};

/// The API group of these kinds.
pub const GROUP: &str = "gateway.envoyproxy.io";

/// The version of the group that is read.
pub const VERSION: &str = "v1alpha1";

const API: &str = "gateway.networking.k8s.io";

/// A kind of policy that is attached to targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A backend that says itself where it lies; routes and policies refer to it.
    Backend,
    /// Between proxy and backends.
    BackendTraffic,
    /// Between clients and proxy.
    ClientTraffic,
    /// What runs on requests and responses.
    Extension,
    /// A filter that rules of routes refer to by name; it targets nothing by itself.
    RouteFilter,
    /// Who may do what.
    Security,
}

impl Kind {
    /// All kinds, in the order of their names.
    pub const ALL: [Self; 6] = [
        Self::Backend,
        Self::BackendTraffic,
        Self::ClientTraffic,
        Self::Extension,
        Self::RouteFilter,
        Self::Security,
    ];

    /// The kind of an object, if it is one of these.
    pub fn of(object: &ObjectRef) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *object.group == *GROUP && *object.kind == *kind.name())
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backend => "Backend",
            Self::BackendTraffic => "BackendTrafficPolicy",
            Self::ClientTraffic => "ClientTrafficPolicy",
            Self::Extension => "EnvoyExtensionPolicy",
            Self::RouteFilter => "HTTPRouteFilter",
            Self::Security => "SecurityPolicy",
        }
    }

    /// What it can target; what can refer to it, if it is referred to.
    pub fn targets(self) -> &'static [TargetKind] {
        const LISTENERS: &[TargetKind] =
            &[TargetKind { group: API, kind: "Gateway" }, TargetKind { group: API, kind: "ListenerSet" }];
        const ROUTES: &[TargetKind] = &[
            TargetKind { group: API, kind: "Gateway" },
            TargetKind { group: API, kind: "ListenerSet" },
            TargetKind { group: API, kind: "HTTPRoute" },
            TargetKind { group: API, kind: "GRPCRoute" },
            TargetKind { group: API, kind: "TLSRoute" },
            TargetKind { group: API, kind: "TCPRoute" },
            TargetKind { group: API, kind: "UDPRoute" },
        ];
        const REFERRING: &[TargetKind] = &[
            TargetKind { group: API, kind: "HTTPRoute" },
            TargetKind { group: API, kind: "GRPCRoute" },
            TargetKind { group: API, kind: "TLSRoute" },
            TargetKind { group: API, kind: "TCPRoute" },
            TargetKind { group: API, kind: "UDPRoute" },
        ];
        const RULES: &[TargetKind] =
            &[TargetKind { group: API, kind: "HTTPRoute" }, TargetKind { group: API, kind: "GRPCRoute" }];
        match self {
            Self::ClientTraffic => LISTENERS,
            Self::RouteFilter => RULES,
            Self::Backend => REFERRING,
            Self::BackendTraffic | Self::Extension | Self::Security => ROUTES,
        }
    }

    /// Fields below `spec` that say to whom a policy speaks and how it is merged, and are no capability's matter.
    pub fn attachment(self) -> &'static [&'static str] {
        match self {
            Self::Backend | Self::RouteFilter => &[],
            Self::ClientTraffic => &["targetRef", "targetRefs", "targetSelectors"],
            Self::BackendTraffic | Self::Extension | Self::Security => {
                &["mergeType", "targetRef", "targetRefs", "targetSelectors"]
            }
        }
    }

    /// Fields below `spec` under which it is said how a service is reached, in the words of BackendTrafficPolicy.
    pub(crate) fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Security => &[
                "extAuth.grpc.backendSettings",
                "extAuth.http.backendSettings",
                "jwt.providers.remoteJWKS.backendSettings",
                "oidc.provider.backendSettings",
            ],
            Self::Extension => &["extProc.backendSettings"],
            Self::Backend | Self::BackendTraffic | Self::ClientTraffic | Self::RouteFilter => &[],
        }
    }

    /// Fields below `spec` that restrict access: if one of them cannot be carried out, what the policy targets is closed.
    /// An empty name stands for all fields.
    fn restricting(self) -> &'static [&'static str] {
        match self {
            // A limit that does not bite lets pass what it was to stop.
            Self::BackendTraffic => &["rateLimit"],
            // Rules about addresses are wrong if the address is.
            Self::ClientTraffic => &["clientIPDetection", "tls.clientValidation"],
            // A script or service may be what decides who passes.
            // A filter that cannot be carried out is never passed over (HTTPRoute `filters`), and a backend that is not
            // what was meant is not spoken to.
            Self::Backend | Self::Extension | Self::RouteFilter | Self::Security => &[""],
        }
    }

    /// True if its objects are attached to targets.
    pub fn is_attached(self) -> bool {
        !matches!(self, Self::Backend | Self::RouteFilter)
    }

    /// True if a policy has a field that restricts access.
    pub fn asks(self, object: &Object) -> bool {
        let spec = FieldPath::root().key("spec");
        self.restricting().iter().any(|field| {
            let below =
                field.split('.').filter(|key| !key.is_empty()).fold(spec.clone(), |at, key| at.key(key));
            object.root.at(&below).is_some()
        })
    }

    /// True if a field of an object, from its root, restricts access, or holds one that does.
    pub fn restricts(self, field: &FieldPath) -> bool {
        let keys: Vec<&str> = keys(field).skip(1).collect();
        // How a service is reached restricts nobody: without it the service is asked all the same.
        if keys.contains(&SETTINGS) {
            return false;
        }
        let meets = |listed: &str| {
            let listed: Vec<&str> = listed.split('.').filter(|key| !key.is_empty()).collect();
            listed.iter().zip(&keys).all(|(a, b)| a == b)
        };
        self.restricting().iter().any(|listed| meets(listed))
    }
}

/// The names along a path; places in lists are left out.
pub(crate) fn keys(path: &FieldPath) -> impl Iterator<Item = &str> {
    path.segments().iter().filter_map(|step| match step {
        Segment::Key(key) => Some(&**key),
        Segment::Index(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_restrict() {
        let restricts = |kind: Kind, field: &str| kind.restricts(&FieldPath::parse(field));
        assert!(
            restricts(Kind::Security, "spec.cors.maxAge") && restricts(Kind::Extension, "spec.lua[0].type")
        );
        assert!(restricts(Kind::ClientTraffic, "spec.tls.clientValidation.crl"));
        // What stands above may hold it.
        assert!(restricts(Kind::ClientTraffic, "spec.tls") && restricts(Kind::ClientTraffic, "spec"));
        assert!(
            !restricts(Kind::ClientTraffic, "spec.tls.ciphers")
                && !restricts(Kind::ClientTraffic, "spec.http1")
        );
        assert!(restricts(Kind::BackendTraffic, "spec.rateLimit.global.rules[0].limit"));
        assert!(!restricts(Kind::BackendTraffic, "spec.retry"));
        assert!(!restricts(Kind::Security, "spec.extAuth.http.backendSettings.dns"));
    }

    #[test]
    fn kinds_are_found_by_group_and_name() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(&ObjectRef::new(GROUP, kind.name(), "a", "b")), Some(kind));
            assert_eq!(Kind::of(&ObjectRef::new("", kind.name(), "a", "b")), None);
        }
    }
}
