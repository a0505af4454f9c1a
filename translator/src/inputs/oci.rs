//! Modules in OCI images (distribution specification 1.1): manifest, layer, module.
//!
//! Three shapes are in use: a layer that is the module, and an archive with `plugin.wasm` in it, as OCI or as Docker layer
//! (the "compat" variant of the Wasm image specification).

use super::fetch::{FetchError, Fetcher, read, wrong};
use super::hex;
use flate2::read::GzDecoder;
use moorgate_policies::InputKind;
use reqwest::{RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use std::io::Read as _;

/// A manifest is small; registries take none above 4 MiB.
const MOST_MANIFEST: usize = 4 << 20;
const MOST_TOKEN: usize = 64 << 10;
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";
const MODULE: &[&str] = &[
    "application/vnd.module.wasm.content.layer.v1+wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/wasm",
];
const ARCHIVE: &[&str] =
    &["application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip"];
/// The file in an archive.
const PLUGIN: &str = "plugin.wasm";
/// Bytes of a block of an archive (POSIX ustar).
const BLOCK: usize = 512;

/// An image by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    registry: String,
    repository: String,
    /// A tag, or a digest.
    reference: String,
}

impl Image {
    /// From `registry/repository:tag` or `registry/repository@sha256:…`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (registry, rest) = text.split_once('/')?;
        let (repository, reference) = match rest.split_once('@') {
            Some((repository, digest)) => {
                let digits = digest.strip_prefix("sha256:")?;
                let fine = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                let repository = repository.split_once(':').map_or(repository, |(name, _)| name);
                fine.then_some((repository, digest))?
            }
            None => rest.rsplit_once(':').unwrap_or((rest, "latest")),
        };
        let plain = |text: &str, more: &[u8]| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
        };
        let fine = plain(registry, b".-:")
            && plain(repository, b"._-/")
            && plain(reference, b"._-:")
            && !repository.split('/').any(|part| part.is_empty() || part.starts_with('.'));
        let registry = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        fine.then(|| Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            reference: reference.to_owned(),
        })
    }
}

#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
    /// Of an index: the manifests of an image for several platforms.
    #[serde(default)]
    manifests: Vec<OfPlatform>,
}

#[derive(Debug, Deserialize)]
struct OfPlatform {
    digest: String,
    #[serde(default)]
    platform: Platform,
}

#[derive(Debug, Default, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
}

impl OfPlatform {
    /// A module runs everywhere, so any of them will do; some that stand there hold no image at all (`unknown`).
    fn rank(&self) -> u8 {
        match self.platform.architecture.as_str() {
            "wasm" | "wasm32" => 0,
            "amd64" => 1,
            "unknown" => 3,
            _ => 2,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    #[serde(default)]
    media_type: String,
    digest: String,
}

/// The module in an image.
pub(super) async fn module(fetcher: &Fetcher, name: &str, image: &str) -> Result<Vec<u8>, FetchError> {
    let image = Image::parse(image)
        .ok_or_else(|| wrong(name, "it is no image: write oci://registry/repository:tag"))?;
    let mut registry = Registry { fetcher, name, image: &image, token: None };
    let broken = |message: &str| FetchError::Content { url: name.to_owned(), message: message.to_owned() };
    let mut manifest = registry.manifest(&image.reference).await?;
    if let Some(one) =
        manifest.manifests.iter().min_by_key(|one| one.rank()).filter(|_| manifest.layers.is_empty())
    {
        let digest = one.digest.to_ascii_lowercase();
        if !digest
            .strip_prefix("sha256:")
            .is_some_and(|digits| digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            return Err(broken("names a manifest by no digest"));
        }
        manifest = registry.manifest(&digest).await?;
    }
    let of = |types: &[&str]| {
        manifest.layers.iter().rev().find(|layer| types.contains(&layer.media_type.as_str()))
    };
    let (layer, packed) = match (of(MODULE), of(ARCHIVE)) {
        (Some(layer), _) => (layer, false),
        (None, Some(layer)) => (layer, true),
        (None, None) => return Err(broken("has no layer that holds a module")),
    };
    let most = InputKind::Wasm.most_bytes();
    let bytes = registry.get("blobs", &layer.digest, "*/*", most).await?;
    if layer.digest != format!("sha256:{}", hex(&bytes)) {
        return Err(broken("has a layer with another digest than its manifest says"));
    }
    if !packed {
        return Ok(bytes);
    }
    unpack(&bytes, most)
        .ok_or_else(|| broken(&format!("has no {PLUGIN} of at most {most} bytes in its layer")))
}

struct Registry<'a> {
    fetcher: &'a Fetcher,
    /// The URL for messages.
    name: &'a str,
    image: &'a Image,
    token: Option<String>,
}

impl Registry<'_> {
    /// A manifest or an index, compared with its digest, if that is its name.
    async fn manifest(&mut self, reference: &str) -> Result<Manifest, FetchError> {
        let bytes = self.get("manifests", reference, MANIFESTS, MOST_MANIFEST).await?;
        let broken = |message: String| FetchError::Content { url: self.name.to_owned(), message };
        if reference.strip_prefix("sha256:").is_some_and(|digest| !digest.eq_ignore_ascii_case(&hex(&bytes)))
        {
            return Err(broken("has another digest than its name says".to_owned()));
        }
        serde_json::from_slice(&bytes).map_err(|error| broken(format!("has no manifest: {error}")))
    }

    async fn get(&mut self, what: &str, id: &str, accept: &str, most: usize) -> Result<Vec<u8>, FetchError> {
        let Image { registry, repository, .. } = self.image;
        let scheme = if self.fetcher.plain_http { "http" } else { "https" };
        let url = format!("{scheme}://{registry}/v2/{repository}/{what}/{id}");
        let request = |token: Option<&String>| -> Result<RequestBuilder, FetchError> {
            let request = self.fetcher.get(self.name, &url)?.header("accept", accept);
            Ok(match token {
                Some(token) => request.header("authorization", token),
                None => request,
            })
        };
        let mut response = self.fetcher.send(self.name, request(self.token.as_ref())?).await?;
        if response.status() == StatusCode::UNAUTHORIZED && self.token.is_none() {
            let asks = response.headers().get("www-authenticate").and_then(|value| value.to_str().ok());
            let token = self.token(asks.unwrap_or_default()).await?;
            response = self.fetcher.send(self.name, request(Some(&token))?).await?;
            self.token = Some(token);
        }
        read(self.name, response, most).await
    }

    /// What a registry wants to see (distribution's token specification).
    async fn token(&self, asks: &str) -> Result<String, FetchError> {
        let own = self.fetcher.registries.get(&self.image.registry).map(|own| format!("Basic {}", own.0));
        let Some(parts) = asks.strip_prefix("Bearer ") else {
            return own
                .ok_or_else(|| wrong(self.name, "the registry asks who wants it: see --registry-auth"));
        };
        let part = |name: &str| {
            let mut parts = parts.split(',').filter_map(|part| part.trim().split_once('='));
            parts.find(|(key, _)| *key == name).map(|(_, value)| value.trim_matches('"').to_owned())
        };
        let realm = part("realm").unwrap_or_default();
        let mut url =
            Url::parse(&realm).map_err(|_| wrong(self.name, "the registry names no place for tokens"))?;
        let pull = format!("repository:{}:pull", self.image.repository);
        let scope = part("scope").unwrap_or(pull);
        let service = part("service").unwrap_or_default();
        url.query_pairs_mut().append_pair("service", &service).append_pair("scope", &scope);
        let mut request = self.fetcher.get(self.name, url.as_str())?;
        // The realm is the registry's word: only its own host learns who we are.
        let same = |host: &str| {
            self.image.registry.split(':').next() == Some(host) || is_docker(&self.image.registry, host)
        };
        if let Some(own) = own.filter(|_| url.host_str().is_some_and(same)) {
            request = request.header("authorization", own);
        }
        let bytes = self.fetcher.body(self.name, request, MOST_TOKEN).await?;
        let answer: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let token = ["token", "access_token"].into_iter().find_map(|key| answer.get(key)?.as_str());
        let token = token.filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic()));
        token
            .map(|token| format!("Bearer {token}"))
            .ok_or_else(|| wrong(self.name, "the registry gives no token"))
    }
}

/// Docker's registry has its tokens elsewhere.
fn is_docker(registry: &str, host: &str) -> bool {
    registry == "registry-1.docker.io" && host == "auth.docker.io"
}

/// The plugin in an archive, if it is there and not too large.
fn unpack(bytes: &[u8], most: usize) -> Option<Vec<u8>> {
    // The archive holds little else.
    let room = u64::try_from(most.saturating_add(1 << 20)).ok()?;
    let mut archive = GzDecoder::new(bytes).take(room);
    let mut head = [0_u8; BLOCK];
    loop {
        archive.read_exact(&mut head).ok()?;
        let text = |from: usize, to: usize| {
            let field = head.get(from..to).unwrap_or_default();
            std::str::from_utf8(field.split(|byte| *byte == 0).next().unwrap_or_default()).unwrap_or_default()
        };
        let name = text(0, 100);
        if name.is_empty() {
            return None;
        }
        let size = usize::try_from(u64::from_str_radix(text(124, 136).trim(), 8).ok()?).ok()?;
        let regular = matches!(head.get(156), Some(0 | b'0'));
        if regular && name.trim_start_matches("./") == PLUGIN {
            if size > most {
                return None;
            }
            let mut module = Vec::new();
            archive.by_ref().take(u64::try_from(size).ok()?).read_to_end(&mut module).ok()?;
            return (module.len() == size).then_some(module);
        }
        let padded = u64::try_from(size.div_ceil(BLOCK).checked_mul(BLOCK)?).ok()?;
        let skipped = std::io::copy(&mut archive.by_ref().take(padded), &mut std::io::sink()).ok()?;
        if skipped != padded {
            return None;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn names_of_images() {
        let parse =
            |text: &str| Image::parse(text).map(|image| (image.registry, image.repository, image.reference));
        let owned = |a: &str, b: &str, c: &str| Some((a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(parse("ghcr.io/a/b:v1"), owned("ghcr.io", "a/b", "v1"));
        assert_eq!(parse("localhost:5000/b"), owned("localhost:5000", "b", "latest"));
        assert_eq!(parse("docker.io/library/b"), owned("registry-1.docker.io", "library/b", "latest"));
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(parse(&format!("r.io/b:v1@{digest}")), owned("r.io", "b", &digest));
        for text in ["b", "r.io/", "r.io/a/../b", "r.io/a?x=1", "r.io/a@sha256:12", "u@r.io/a", "r.io//a"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    pub(in crate::inputs) fn archive(name: &str, module: &[u8]) -> Vec<u8> {
        use std::io::Write as _;
        let entry = |name: &str, bytes: &[u8]| {
            let mut head = [0_u8; BLOCK];
            head[..name.len()].copy_from_slice(name.as_bytes());
            head[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
            head[156] = b'0';
            let mut out = head.to_vec();
            out.extend_from_slice(bytes);
            out.resize(out.len().div_ceil(BLOCK) * BLOCK, 0);
            out
        };
        let mut bytes = entry("./README", b"a text");
        bytes.extend(entry(name, module));
        bytes.extend([0; 2 * BLOCK]);
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(&bytes).unwrap();
        packed.finish().unwrap()
    }

    #[test]
    fn a_plugin_is_found_in_its_archive() {
        let module = [b"\0asm".as_slice(), &[7; 1000]].concat();
        assert_eq!(unpack(&archive("./plugin.wasm", &module), 2000), Some(module.clone()));
        assert_eq!(unpack(&archive("plugin.wasm", &module), 100), None);
        assert_eq!(unpack(&archive("other.wasm", &module), 2000), None);
        assert_eq!(unpack(&archive("plugin.wasm", &module)[..60], 2000), None);
    }
}
