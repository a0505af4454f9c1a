//! What is compiled: two Gateways of two classes, each with a route to one of two backends.

/// The controller of both classes.
pub(super) const CONTROLLER: &str = "example.com/models";
/// The namespace of relays that are in no Envoy's pod.
pub(super) const RELAYS: &str = "models-relays";
/// The port that a later act adds.
pub(super) const EXTRA_PORT: u16 = 8080;

/// One of those who share the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tenant {
    /// Its GatewayClass.
    pub class: &'static str,
    /// The namespace of its Gateway, backends and certificate.
    pub namespace: &'static str,
    /// Its Gateway.
    pub gateway: &'static str,
    /// The node that alone runs its Envoys.
    pub node: Option<&'static str>,
}

/// The one with Envoys on both nodes.
pub const FIRST: Tenant = Tenant { class: "a", namespace: "models-a", gateway: "one", node: None };
/// The one with Envoys on one node.
pub const SECOND: Tenant = Tenant { class: "b", namespace: "models-b", gateway: "two", node: Some("node-1") };

impl Tenant {
    /// Its fleet.
    pub fn fleet(self) -> String {
        format!("{}/{}", self.namespace, self.gateway)
    }

    /// The name of its Deployment, Service and ServiceAccount.
    pub fn object(self) -> String {
        format!("{}-{}", self.gateway, self.class)
    }

    /// The host name of its certificate.
    pub fn host(self) -> String {
        format!("{}.example", self.gateway)
    }
}

/// The state of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The backend that routes lead to: `blue` or `green`.
    pub backend: &'static str,
    /// Whether there is a listener at [`EXTRA_PORT`].
    pub extra: bool,
    /// Who has a Gateway.
    pub tenants: Vec<Tenant>,
}

impl Source {
    /// As it is in the beginning.
    pub fn first() -> Self {
        Self { backend: "blue", extra: false, tenants: vec![FIRST, SECOND] }
    }

    /// The files.
    pub fn text(&self) -> String {
        self.tenants.iter().map(|tenant| self.of(*tenant)).collect()
    }

    fn of(&self, tenant: Tenant) -> String {
        let Tenant { class, namespace, gateway, node } = tenant;
        let extra = if self.extra {
            format!(", {{name: extra, port: {EXTRA_PORT}, protocol: HTTP}}")
        } else {
            String::new()
        };
        let selector = node
            .map(|node| format!(", pod: {{nodeSelector: {{kubernetes.io/hostname: {node}}}}}"))
            .unwrap_or_default();
        let backend = self.backend;
        let services: String = ["blue", "green"]
            .map(|name| {
                format!(
                    "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: 3000}}]}}
"
                )
            })
            .concat();
        format!(
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: {class}}}
spec: {{controllerName: {CONTROLLER}}}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata: {{name: proxy, namespace: {namespace}}}
spec: {{provider: {{type: Kubernetes, kubernetes: {{envoyDeployment: {{replicas: 2{selector}}}}}}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {gateway}, namespace: {namespace}}}
spec:
  gatewayClassName: {class}
  infrastructure: {{parametersRef: {{group: gateway.envoyproxy.io, kind: EnvoyProxy, name: proxy}}}}
  listeners: [{{name: http, port: 80, protocol: HTTP}}, {{name: https, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: tls}}]}}}}{extra}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {gateway}, namespace: {namespace}}}
spec: {{parentRefs: [{{name: {gateway}}}], rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]}}
{services}"
        )
    }
}

/// The namespaces, all of them restricted.
pub(super) fn namespaces() -> String {
    [RELAYS, FIRST.namespace, SECOND.namespace]
        .map(|name| {
            format!(
                "---
apiVersion: v1
kind: Namespace
metadata: {{name: {name}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}
"
            )
        })
        .concat()
}

/// The backends of a tenant, and their Services.
pub(super) fn backends(tenant: Tenant) -> String {
    let namespace = tenant.namespace;
    ["blue", "green"]
        .map(|name| {
            format!(
                "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: 3000}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      securityContext: {{runAsNonRoot: true, runAsUser: 65532, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
      - name: echo
        image: registry.k8s.io/gateway-api/conformance/echo-basic:v1.7.0
        env:
        - {{name: POD_NAME, value: {name}}}
        - {{name: NAMESPACE, value: {namespace}}}
        readinessProbe: {{httpGet: {{path: /health, port: 3000}}, periodSeconds: 1}}
        # Until nobody is led here any more.
        lifecycle: {{preStop: {{sleep: {{seconds: 3}}}}}}
        securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"
            )
        })
        .concat()
}
