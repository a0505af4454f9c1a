//! What is in the volumes that show objects: Secrets, ConfigMaps, the pod itself, tokens.

use super::Kubelet;
use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccount, ServiceAccountTokenProjection, Volume,
    VolumeProjection,
};
use kube::ResourceExt as _;
use kube::api::{Api, PostParams};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its content.
    pub(super) bytes: Vec<u8>,
    /// Its permissions.
    pub(super) mode: u32,
}

/// Files by their path in the volume.
pub(super) type Payload = BTreeMap<String, Piece>;

/// The tokens of a pod, each with the time from which on it is to be renewed.
#[derive(Default)]
pub(super) struct Tokens(BTreeMap<String, (String, Instant)>);

const MODE: i32 = 0o644;

fn mode(own: Option<i32>, default: Option<i32>) -> u32 {
    own.or(default).unwrap_or(MODE).cast_unsigned() & 0o7777
}

/// Picks the named keys, or takes all.
fn pick(
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&Vec<KeyToPath>>,
    default: Option<i32>,
    optional: bool,
) -> Result<Payload> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        let all = data
            .iter()
            .map(|(name, bytes)| (name.clone(), Piece { bytes: bytes.clone(), mode: mode(None, default) }));
        return Ok(all.collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => {
                let piece = Piece { bytes: bytes.clone(), mode: mode(item.mode, default) };
                payload.insert(item.path.clone(), piece);
            }
            None if optional => {}
            None => bail!("references non-existent key {}", item.key),
        }
    }
    Ok(payload)
}

/// The keys and values of a Secret.
pub(super) fn secret(kubelet: &Kubelet, namespace: &str, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
    let secret = kubelet.secrets.get(namespace, name)?;
    Some(secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect())
}

/// The keys and values of a ConfigMap.
pub(super) fn config_map(
    kubelet: &Kubelet,
    namespace: &str,
    name: &str,
) -> Option<BTreeMap<String, Vec<u8>>> {
    let map = kubelet.config_maps.get(namespace, name)?;
    let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    Some(text.chain(binary).collect())
}

fn found(
    data: Option<BTreeMap<String, Vec<u8>>>,
    optional: Option<bool>,
    what: &str,
) -> Result<BTreeMap<String, Vec<u8>>> {
    match data {
        None if optional != Some(true) => bail!("{what} not found"),
        data => Ok(data.unwrap_or_default()),
    }
}

/// One pod's volumes.
pub(super) struct Source<'a> {
    /// The node.
    pub(super) kubelet: &'a Kubelet,
    /// The pod.
    pub(super) pod: &'a Pod,
    /// What fields of the pod say.
    pub(super) field: &'a (dyn Fn(&str) -> Result<String> + Sync),
}

impl Source<'_> {
    fn namespace(&self) -> String {
        self.pod.namespace().unwrap_or_default()
    }

    /// The files of a volume; `None` for a volume that does not show objects.
    pub(super) async fn payload(&self, volume: &Volume, tokens: &mut Tokens) -> Result<Option<Payload>> {
        let namespace = self.namespace();
        if let Some(source) = &volume.secret {
            let name = source.secret_name.as_deref().unwrap_or_default();
            let data = secret(self.kubelet, &namespace, name);
            let data = found(data, source.optional, &format!("secret {name:?}"))?;
            let optional = source.optional == Some(true);
            return pick(&data, source.items.as_ref(), source.default_mode, optional).map(Some);
        }
        if let Some(source) = &volume.config_map {
            let data = config_map(self.kubelet, &namespace, &source.name);
            let data = found(data, source.optional, &format!("configmap {:?}", source.name))?;
            let optional = source.optional == Some(true);
            return pick(&data, source.items.as_ref(), source.default_mode, optional).map(Some);
        }
        if let Some(source) = &volume.downward_api {
            return self.downward(source.items.as_ref(), source.default_mode).map(Some);
        }
        let Some(projected) = &volume.projected else { return Ok(None) };
        let mut payload = Payload::new();
        for source in projected.sources.iter().flatten() {
            payload.extend(self.projection(&volume.name, source, projected.default_mode, tokens).await?);
        }
        Ok(Some(payload))
    }

    fn downward(&self, items: Option<&Vec<DownwardAPIVolumeFile>>, default: Option<i32>) -> Result<Payload> {
        let mut payload = Payload::new();
        for item in items.into_iter().flatten() {
            let field = item.field_ref.as_ref().context("resourceFieldRef is not supported")?;
            let bytes = (self.field)(&field.field_path)?.into_bytes();
            payload.insert(item.path.clone(), Piece { bytes, mode: mode(item.mode, default) });
        }
        Ok(payload)
    }

    async fn projection(
        &self,
        volume: &str,
        source: &VolumeProjection,
        default: Option<i32>,
        tokens: &mut Tokens,
    ) -> Result<Payload> {
        let namespace = self.namespace();
        if let Some(source) = &source.secret {
            let data = secret(self.kubelet, &namespace, &source.name);
            let data = found(data, source.optional, &format!("secret {:?}", source.name))?;
            return pick(&data, source.items.as_ref(), default, source.optional == Some(true));
        }
        if let Some(source) = &source.config_map {
            let data = config_map(self.kubelet, &namespace, &source.name);
            let data = found(data, source.optional, &format!("configmap {:?}", source.name))?;
            return pick(&data, source.items.as_ref(), default, source.optional == Some(true));
        }
        if let Some(source) = &source.downward_api {
            return self.downward(source.items.as_ref(), default);
        }
        let token =
            source.service_account_token.as_ref().context("a projection of a kind that is not supported")?;
        let text = self.token(&format!("{volume}/{}", token.path), token, tokens).await?;
        // As a real node has it: for the pod's group if it has one, else for all.
        let context = self.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let grouped = context.is_some_and(|context| context.fs_group.is_some());
        let piece = Piece { bytes: text.into_bytes(), mode: if grouped { 0o600 } else { 0o644 } };
        Ok(Payload::from([(token.path.clone(), piece)]))
    }

    /// A token of the pod's ServiceAccount, bound to the pod; a known one until four fifths of its time are over.
    async fn token(
        &self,
        key: &str,
        wanted: &ServiceAccountTokenProjection,
        tokens: &mut Tokens,
    ) -> Result<String> {
        if let Some((token, renew)) = tokens.0.get(key)
            && Instant::now() < *renew
        {
            return Ok(token.clone());
        }
        let account = self.pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        let account = account.unwrap_or_else(|| "default".to_owned());
        let seconds = wanted.expiration_seconds.unwrap_or(3600);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: wanted.audience.clone().map(|audience| vec![audience]),
                expiration_seconds: Some(seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(self.pod.name_any()),
                    uid: self.pod.uid(),
                }),
            }),
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.kubelet.client.clone(), &self.namespace());
        let answer = api.create_token_request(&account, &PostParams::default(), &request).await?;
        let token = answer.status.and_then(|status| status.token).context("an answer without a token")?;
        let renew = Instant::now() + Duration::from_secs(seconds.unsigned_abs()).mul_f64(0.8);
        tokens.0.insert(key.to_owned(), (token.clone(), renew));
        Ok(token)
    }
}
