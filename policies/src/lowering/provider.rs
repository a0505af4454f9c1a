//! Services that Envoy itself asks: who decides, who has the keys, who gives tokens. How they are reached is said in the
//! words of BackendTrafficPolicy, so it is lowered by that kind's capabilities.

use super::{BackendRef, Lowered, Lowering, World};
use crate::Kind;
use envoy_types::pb::envoy::config::core::v3::{BackoffStrategy, RetryPolicy, retry_policy};
use envoy_types::pb::envoy::config::route::v3::{self as route, RouteAction};
use moorgate_model::ir::ClusterPolicies;
use moorgate_model::{Diagnostic, Entry, FieldPath, Mapping, Node, Object, Segment, Value};
use prost::Message as _;
use std::time::Duration;

/// The field that says how a service is reached.
pub(crate) const SETTINGS: &str = "backendSettings";

/// Who is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// `backendRef`.
    pub one: Option<&'a BackendRef>,
    /// `backendRefs`.
    pub several: &'a [BackendRef],
    /// A server outside, where there are no references: host, port, and whether by TLS.
    pub outside: Option<(&'a str, u16, bool)>,
    /// The field that names the server outside.
    pub named_by: &'a str,
    /// gRPC is spoken.
    pub http2: bool,
}

/// A service that can be asked.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Provider {
    /// Its cluster.
    pub cluster: String,
    /// What is asked again.
    pub retry: Option<RetryPolicy>,
    /// How long an answer may take.
    pub timeout: Option<Duration>,
}

/// What settings say.
#[derive(Debug, Default)]
struct Settings {
    policies: ClusterPolicies,
    retry: Option<RetryPolicy>,
    timeout: Option<Duration>,
}

impl Lowering<'_> {
    /// The service behind the references at a field, or behind a name; `part` tells the services of one policy apart.
    /// Without one the policy is not valid.
    pub(crate) fn provider(&mut self, at: &FieldPath, asked: Asked<'_>, part: &str) -> Option<Provider> {
        let several: Vec<(FieldPath, &BackendRef)> = match (asked.one, asked.several) {
            (Some(one), []) => vec![(at.key("backendRef"), one)],
            (None, several) => {
                let numbered = several.iter().enumerate();
                numbered.map(|(index, one)| (at.key("backendRefs").index(index), one)).collect()
            }
            (Some(_), _) => {
                self.invalid(at.key("backendRef"), "there are backendRefs too");
                return None;
            }
        };
        let settings = self.settings(at)?;
        if !asked.http2 && !settings.policies.over_http2.is_empty() {
            let message = "the service is not asked by HTTP/2, and is not checked by gRPC";
            self.approximate(at.key(SETTINGS).key("healthCheck").key("active"), message);
        }
        let cluster = match (several.as_slice(), asked.outside) {
            ([], Some((host, port, tls))) => self.outside(&at.key(asked.named_by), host, port, tls)?,
            ([], None) => {
                self.invalid(at.clone(), "there is no backend to ask");
                return None;
            }
            ([(at, one)], _) => self.backend(at, one, asked.http2)?,
            (several, _) => self.together(at, several, asked.http2)?,
        };
        let name = if settings.policies.is_empty() {
            cluster
        } else {
            // What the service is asked by another name must not be changed with it.
            self.out.clusters.retain(|name| *name != cluster);
            let digest = super::fingerprint(&settings.policies);
            let reference = &self.object.reference;
            let name = format!("{cluster}+{}.{}.{part}.{digest}", reference.namespace, reference.name);
            self.world.variant(&cluster, &name, &settings.policies);
            self.out.clusters.push(name.clone());
            name
        };
        Some(Provider { cluster: name, retry: settings.retry, timeout: settings.timeout })
    }

    /// Several backends as one, each with its share of what is asked.
    fn together(
        &mut self,
        at: &FieldPath,
        several: &[(FieldPath, &BackendRef)],
        http2: bool,
    ) -> Option<String> {
        if let Some((at, _)) = several.iter().find(|(_, one)| one.fallback == Some(true)) {
            let message = "Envoy asks all backends of a service by their weights: this one is no last resort";
            self.approximate(at.key("fallback"), message);
        }
        let mut members = Vec::new();
        for (at, one) in several {
            let name = self.backend(at, one, http2)?;
            self.out.clusters.retain(|other| *other != name);
            members.push((name, one.weight.unwrap_or(1)));
        }
        members.retain(|(_, weight)| *weight > 0);
        match self.world.together(&members) {
            Ok(name) => {
                self.out.clusters.push(name.clone());
                Some(name)
            }
            Err(message) => {
                self.invalid(at.key("backendRefs"), &message);
                None
            }
        }
    }

    /// What `backendSettings` at a field say; nothing if they are wrong.
    fn settings(&mut self, at: &FieldPath) -> Option<Settings> {
        let at = at.key(SETTINGS);
        let Some(read) = read(self.object, &at, &mut *self.world) else { return Some(Settings::default()) };
        let Read { all, findings, invalid } = read;
        self.findings.extend(findings);
        if let Some(why) = invalid {
            self.invalid.get_or_insert(why);
            self.failed = true;
            self.closed |= self.kind.restricts(&FieldPath::root().key("spec"));
            return None;
        }
        Some(self.asked(&at, all))
    }

    /// The same for a service that Envoy asks by itself: there is no route to it.
    fn asked(&mut self, at: &FieldPath, all: Lowered) -> Settings {
        let bytes: Vec<u8> = all.forward.iter().flat_map(|patch| patch.message.iter().copied()).collect();
        let action = RouteAction::decode(bytes.as_slice()).unwrap_or_default();
        if !action.hash_policy.is_empty() {
            let message =
                "Envoy asks the service by itself and has no request to hash: endpoints are drawn at random";
            self.approximate(at.key("loadBalancer").key("consistentHash"), message);
        }
        let whole = action.max_stream_duration.and_then(|limit| limit.max_stream_duration);
        let limits = [action.timeout, action.idle_timeout, whole].into_iter().flatten();
        let limits = limits.filter_map(|limit| {
            let (seconds, nanos) = (u64::try_from(limit.seconds).ok()?, u32::try_from(limit.nanos).ok()?);
            Some(Duration::from_secs(seconds) + Duration::from_nanos(nanos.into()))
        });
        let retry = action.retry_policy.map(|policy| {
            if policy.per_try_timeout.is_some() {
                let message = "Envoy limits the whole of what it asks by itself, and not each try";
                self.approximate(at.key("retry").key("perRetry").key("timeout"), message);
            }
            retries(policy)
        });
        let policies = all.cluster;
        Settings { policies, retry, timeout: limits.filter(|limit| !limit.is_zero()).min() }
    }
}

/// What settings came to.
struct Read {
    all: Lowered,
    findings: Vec<Diagnostic>,
    invalid: Option<String>,
}

/// Reads the settings at a field, as a policy of that kind with these fields, and the places that they have here.
fn read(object: &Object, at: &FieldPath, world: &mut dyn World) -> Option<Read> {
    let node = object.root.at(at)?;
    let mut root = Mapping::default();
    let _ = root.insert(Entry { key: "spec".into(), key_span: node.span, value: node.clone() });
    let inner = Object {
        reference: object.reference.clone(),
        version: object.version.clone(),
        origin: object.origin.clone(),
        root: Node::new(Value::Mapping(root), node.span),
    };
    let mut inner = Lowering::new(Kind::BackendTraffic, &inner, world);
    let mut all = Lowered::default();
    for capability in super::of_kind(Kind::BackendTraffic) {
        if let Some(part) = inner.part(*capability, node) {
            all.add(&part);
        }
    }
    let Lowering { mut findings, invalid, .. } = inner;
    findings.iter_mut().for_each(|finding| finding.field = moved(&finding.field, at));
    Some(Read { all, findings, invalid })
}

/// What the settings at a field of any object say, and what is wrong with them; nothing of those that are not valid.
pub(crate) fn settings_of(
    object: &Object,
    at: &FieldPath,
    world: &mut dyn World,
) -> Option<(Lowered, Vec<Diagnostic>)> {
    let Read { all, findings, invalid } = read(object, at, world)?;
    Some((if invalid.is_some() { Lowered::default() } else { all }, findings))
}

/// A field of the inner policy as a field of this one.
fn moved(field: &FieldPath, at: &FieldPath) -> FieldPath {
    field.segments().iter().skip(1).fold(at.clone(), |at, step| match step {
        Segment::Key(key) => at.key(key),
        Segment::Index(index) => at.index(*index),
    })
}

/// Retries as Envoy has them where there is no route. Codes cannot be listed there: of those that are listed by default
/// a service that is overloaded is meant, and it is asked again as after any error of a gateway.
fn retries(policy: route::RetryPolicy) -> RetryPolicy {
    let codes = policy.retriable_status_codes;
    let on = policy.retry_on.split(',').map(|word| match word {
        "retriable-status-codes" if !codes.is_empty() => "gateway-error",
        word => word,
    });
    let back = policy
        .retry_back_off
        .map(|back| BackoffStrategy { base_interval: back.base_interval, max_interval: back.max_interval });
    let hosts = policy.retry_host_predicate.into_iter().map(|one| retry_policy::RetryHostPredicate {
        name: one.name,
        config_type: one.config_type.map(|config| {
            let route::retry_policy::retry_host_predicate::ConfigType::TypedConfig(any) = config;
            retry_policy::retry_host_predicate::ConfigType::TypedConfig(any)
        }),
    });
    let priority = policy.retry_priority.map(|one| retry_policy::RetryPriority {
        name: one.name,
        config_type: one.config_type.map(|config| {
            let route::retry_policy::retry_priority::ConfigType::TypedConfig(any) = config;
            retry_policy::retry_priority::ConfigType::TypedConfig(any)
        }),
    });
    RetryPolicy {
        retry_back_off: back,
        num_retries: policy.num_retries,
        retry_on: on.collect::<Vec<_>>().join(","),
        retry_priority: priority,
        retry_host_predicate: hosts.collect(),
        host_selection_retry_max_attempts: policy.host_selection_retry_max_attempts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;

    fn compiled(settings: &str) -> crate::Compiled {
        let spec = format!(
            r#"{{"extAuth": {{"http": {{"backendRefs": [{{"name": "auth", "port": 80}}], "backendSettings": {settings}}}}}}}"#
        );
        testing::compile(Kind::Security, &spec)
    }

    #[test]
    fn settings_make_a_cluster_of_their_own() {
        let plain = compiled("{}");
        assert_eq!(plain.parts["ext_auth"].clusters, ["shop/auth/80"]);
        let full = compiled(
            r#"{"circuitBreaker": {"maxConnections": 3}, "tcpKeepalive": {"probes": 2}, "timeout": {"tcp": {"connectTimeout": "1s"}}}"#,
        );
        assert!(full.findings.is_empty() && !full.closed, "{:?}", full.findings);
        let [name] = full.parts["ext_auth"].clusters.as_slice() else { panic!("one cluster") };
        assert!(name.starts_with("shop/auth/80+shop.guard.ext_auth."), "{name}");
        let other = compiled(r#"{"circuitBreaker": {"maxConnections": 4}}"#);
        assert_ne!(other.parts["ext_auth"].clusters[0], *name, "another treatment is another cluster");
    }

    #[test]
    fn what_is_wrong_in_settings_is_named_where_it_stands_and_closes() {
        for (settings, said) in [
            (
                r#"{"timeout": {"tcp": {"connectTimeout": "0s"}}}"#,
                "MG4002 spec.extAuth.http.backendSettings.timeout.tcp.connectTimeout",
            ),
            (
                r#"{"loadBalancer": {"type": "ConsistentHash"}}"#,
                "MG4002 spec.extAuth.http.backendSettings.loadBalancer.consistentHash",
            ),
        ] {
            let compiled = compiled(settings);
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said.to_owned()], true));
            assert!(compiled.parts.is_empty() && compiled.invalid.is_some());
        }
    }

    #[test]
    fn what_settings_ask_for_and_nobody_does_is_said_and_closes_nothing() {
        let hash = r#"{"loadBalancer": {"type": "ConsistentHash", "consistentHash": {"type": "SourceIP"}},
            "retry": {"perRetry": {"timeout": "1s"}}}"#;
        let compiled = compiled(hash);
        let at = "spec.extAuth.http.backendSettings";
        let said = [
            format!("MG4011 {at}.loadBalancer.consistentHash"),
            format!("MG4011 {at}.retry.perRetry.timeout"),
        ];
        assert_eq!((testing::said(&compiled), compiled.closed), (said.to_vec(), false));
        let left = self::compiled(r#"{"nobody": {"knows": 1}}"#);
        assert_eq!((testing::said(&left), left.closed), (vec![format!("MG4104 {at}.nobody")], false));
        assert!(left.parts.contains_key("ext_auth"));
    }

    #[test]
    fn several_backends_share() {
        let spec = r#"{"extAuth": {"grpc": {"backendRefs": [{"name": "a", "port": 80, "weight": 3}, {"name": "b", "port": 80, "fallback": true},
            {"name": "c", "port": 80, "weight": 0}]}}}"#;
        let compiled = testing::compile(Kind::Security, spec);
        assert_eq!(testing::said(&compiled), ["MG4011 spec.extAuth.grpc.backendRefs[1].fallback"]);
        assert_eq!(compiled.parts["ext_auth"].clusters, ["shop/a/80+h2=3|shop/b/80+h2=1"]);
    }
}
