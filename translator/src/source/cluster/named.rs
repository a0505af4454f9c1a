//! Secrets, ConfigMaps and ClusterTrustBundles: only those that are named, each read by its name.
//!
//! So the right to `get` is enough: nobody who takes over this program can list the Secrets of a cluster. Private keys
//! are passed over while an answer is decoded: no text of them is ever made.

use super::{ClusterError, Kind, Live, Objects, answer};
use crate::attach::GATEWAY_GROUP;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::DynamicObject;
use kube::core::Request;
use moorgate_model::ObjectRef;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The parts of a Secret that are public.
const PUBLIC: [&str; 2] = ["tls.crt", "ca.crt"];
/// The group of ClusterTrustBundles.
const CERTIFICATES_GROUP: &str = "certificates.k8s.io";
/// CA certificates of the whole cluster.
const BUNDLE: &str = "ClusterTrustBundle";
/// Versions in which they may be served, the newest first.
const BUNDLE_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
/// Requests at one time.
const PARALLEL: usize = 8;

/// A Secret, ConfigMap or ClusterTrustBundle that something refers to.
pub type Named = ObjectRef;

/// What the objects of ours refer to. Gateways of other controllers do not count: their Secrets are not our business.
pub fn references(objects: &Objects, controller_name: &str) -> BTreeSet<Named> {
    let mut found = BTreeSet::new();
    let classes: BTreeSet<&str> = objects
        .of_kind(GATEWAY_GROUP, "GatewayClass")
        .filter(|class| text(&class.fields, &["spec", "controllerName"]) == Some(controller_name))
        .map(|class| {
            collect(&class.fields, "", &mut found);
            &*class.reference.name
        })
        .collect();
    let ours = |gateway: &Live| {
        text(&gateway.fields, &["spec", "gatewayClassName"]).is_some_and(|class| classes.contains(class))
    };
    let mut gateways = BTreeSet::new();
    for gateway in objects.of_kind(GATEWAY_GROUP, "Gateway").filter(|gateway| ours(gateway)) {
        collect(&gateway.fields, &gateway.reference.namespace, &mut found);
        gateways.insert((gateway.reference.namespace.clone(), gateway.reference.name.clone()));
    }
    for live in objects.iter() {
        let namespace = &*live.reference.namespace;
        let refers = match (&*live.reference.group, &*live.reference.kind) {
            (GATEWAY_GROUP, "ListenerSet") => {
                let parent = |key| text(&live.fields, &["spec", "parentRef", key]);
                let gateway = parent("namespace").unwrap_or(namespace);
                parent("name").is_some_and(|name| gateways.contains(&(gateway.into(), name.into())))
            }
            (GATEWAY_GROUP, "GatewayClass" | "Gateway" | "ReferenceGrant") | ("", _) => false,
            _ => true,
        };
        if refers {
            collect(&live.fields, namespace, &mut found);
            let sessions = live.fields.get("spec").is_some_and(|spec| spec.get("oidc").is_some());
            if &*live.reference.kind == "SecurityPolicy" && sessions {
                // What signs the cookies of sessions has one name.
                found.insert(ObjectRef::new("", "Secret", namespace, moorgate_policies::SESSION_KEY));
            }
        }
    }
    found
}

fn text<'v>(fields: &'v Map<String, Value>, path: &[&str]) -> Option<&'v str> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(fields.get(*first)?, |value, key| value.get(key))?.as_str()
}

fn collect(fields: &Map<String, Value>, namespace: &str, found: &mut BTreeSet<Named>) {
    let named = |key: &str| fields.get(key).and_then(Value::as_str);
    // The API server has filled in group and kind wherever they have a default.
    if let (Some(kind @ ("Secret" | "ConfigMap")), Some(name)) = (named("kind"), named("name"))
        && named("group").unwrap_or_default().is_empty()
    {
        let namespace = named("namespace").unwrap_or(namespace);
        if !namespace.is_empty() {
            found.insert(ObjectRef::new("", kind, namespace, name));
        }
    }
    if let (Some(CERTIFICATES_GROUP), Some(BUNDLE), Some(name)) =
        (named("group"), named("kind"), named("name"))
    {
        found.insert(ObjectRef::new(CERTIFICATES_GROUP, BUNDLE, "", name));
    }
    for value in fields.values() {
        walk(value, namespace, found);
    }
}

fn walk(value: &Value, namespace: &str, found: &mut BTreeSet<Named>) {
    match value {
        Value::Object(fields) => collect(fields, namespace, found),
        Value::Array(items) => items.iter().for_each(|item| walk(item, namespace, found)),
        _ => {}
    }
}

/// Reads these objects; none in the place of one that is not there, or that may not be read.
pub async fn read_named(client: &Client, names: &BTreeSet<Named>) -> Result<Vec<Option<Live>>, ClusterError> {
    futures::stream::iter(names).map(|name| read_one(client, name)).buffered(PARALLEL).try_collect().await
}

async fn read_one(client: &Client, name: &Named) -> Result<Option<Live>, ClusterError> {
    if &*name.kind == BUNDLE {
        for version in BUNDLE_VERSIONS {
            let kind = Kind::new(CERTIFICATES_GROUP, version, BUNDLE, "clustertrustbundles", false);
            let url = format!("/apis/{CERTIFICATES_GROUP}/{version}/clustertrustbundles");
            // One that is not there and a version that is not served look alike.
            if let Some(live) = found(name, &kind, get::<DynamicObject>(client, name, &url).await)? {
                return Ok(Some(live));
            }
        }
        return Ok(None);
    }
    let (kind, plural) =
        if &*name.kind == "Secret" { ("Secret", "secrets") } else { ("ConfigMap", "configmaps") };
    let url = format!("/api/v1/namespaces/{}/{plural}", name.namespace);
    let as_read = Kind::new("", "v1", kind, plural, true);
    let read = if kind == "Secret" {
        get::<PublicSecret>(client, name, &url).await.map(PublicSecret::into_object)
    } else {
        get::<DynamicObject>(client, name, &url).await
    };
    found(name, &as_read, read)
}

async fn get<T: DeserializeOwned>(client: &Client, name: &Named, url: &str) -> Result<T, ClusterError> {
    let what = || name.to_string();
    let request = Request::new(url).get(&name.name, &kube::api::GetParams::default());
    let request = request.map_err(|error| ClusterError::Api {
        what: what(),
        source: Box::new(kube::Error::BuildRequest(error)),
    })?;
    answer(what, client.request::<T>(request)).await
}

/// Not there, or not ours to read: to the compiler both is a missing object.
fn found(
    name: &Named,
    kind: &Kind,
    read: Result<DynamicObject, ClusterError>,
) -> Result<Option<Live>, ClusterError> {
    match read {
        Ok(object) => Ok(Live::of(object, kind)),
        Err(ClusterError::Api { source, .. }) if matches!(&*source, kube::Error::Api(status) if matches!(status.code, 403 | 404)) =>
        {
            if let kube::Error::Api(status) = &*source
                && status.code == 403
            {
                tracing::warn!(object = %name, "may not be read: treated as missing");
            }
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A Secret without what is secret in it.
#[derive(Deserialize)]
struct PublicSecret {
    metadata: ObjectMeta,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    data: PublicData,
}

impl PublicSecret {
    fn into_object(self) -> DynamicObject {
        // `kubectl apply` may have left all of it in an annotation.
        let metadata = ObjectMeta { annotations: None, ..self.metadata };
        DynamicObject { types: None, metadata, data: json!({"type": self.kind, "data": self.data.0}) }
    }
}

/// Keys of a Secret with the values of those that are public; of all others the value is empty.
#[derive(Default)]
struct PublicData(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for PublicData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Public;
        impl<'de> Visitor<'de> for Public {
            type Value = PublicData;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the data of a Secret")
            }

            fn visit_unit<E>(self) -> Result<PublicData, E> {
                Ok(PublicData::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PublicData, A::Error> {
                let mut found = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    let value = if PUBLIC.contains(&key.as_str()) {
                        map.next_value::<String>()?
                    } else {
                        map.next_value::<IgnoredAny>()?;
                        String::new()
                    };
                    found.insert(key, value);
                }
                Ok(PublicData(found))
            }
        }
        deserializer.deserialize_any(Public)
    }
}

#[cfg(test)]
mod tests {
    use super::PublicSecret;

    #[test]
    fn keys_are_dropped_while_a_secret_is_decoded() {
        let text = r#"{"apiVersion":"v1","kind":"Secret","type":"kubernetes.io/tls","metadata":{"name":"cert",
            "namespace":"shop","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"S3CRET"}},
            "data":{"tls.crt":"Q0VSVA==","tls.key":"S3CRET","nested":{"x":"S3CRET"},"ca.crt":"Q0E="}}"#;
        let object = serde_json::from_str::<PublicSecret>(text).unwrap().into_object();
        let shown = format!("{object:?}");
        assert!(!shown.contains("S3CRET"), "{shown}");
        assert_eq!(object.data["data"]["tls.crt"], "Q0VSVA==");
        assert_eq!(object.data["data"]["tls.key"], "");
        assert_eq!(object.data["type"], "kubernetes.io/tls");
        let empty = r#"{"metadata":{"name":"a"},"data":null}"#;
        assert_eq!(serde_json::from_str::<PublicSecret>(empty).unwrap().data.0.len(), 0);
    }
}
