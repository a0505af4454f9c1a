//! Modules of WebAssembly (EnvoyExtensionPolicy `wasm`).

use crate::free::Free;
use crate::input::Access;
use crate::lowering::SecretRef;
use crate::lowering::{any, milliseconds};
use crate::{About, Capability, Effect, Kind, Lowering, RELAY_CLUSTER, RELAY_MODULES, jwt, place};
use envoy_types::pb::envoy::config::core::v3::{
    AsyncDataSource, BackoffStrategy, HttpUri, RemoteDataSource, RetryPolicy, async_data_source,
    http_uri::HttpUpstreamType,
};
use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::envoy::extensions::filters::http::wasm::v3::Wasm as Filter;
use envoy_types::pb::envoy::extensions::wasm::v3::{
    EnvironmentVariables, FailurePolicy, PluginConfig, VmConfig, plugin_config,
};
use envoy_types::pb::google::protobuf::{Any, StringValue, UInt32Value};
use moorgate_model::FieldPath;
use serde::Deserialize;
use std::time::Duration;

/// The capability.
pub(crate) struct Wasm;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    #[serde(default)]
    wasm: Vec<Module>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Module {
    name: Option<String>,
    #[serde(rename = "rootID")]
    root_id: Option<String>,
    code: Code,
    config: Option<Free>,
    fail_open: Option<bool>,
    env: Option<Environment>,
}

#[derive(Debug, Deserialize)]
struct Code {
    #[serde(rename = "type")]
    kind: String,
    http: Option<Source>,
    image: Option<Image>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Image {
    url: String,
    sha256: Option<String>,
    pull_secret_ref: Option<SecretRef>,
    tls: Option<Tls>,
}

#[derive(Debug, Deserialize)]
struct Source {
    url: String,
    sha256: Option<String>,
    tls: Option<Tls>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tls {
    ca_certificate_ref: CaRef,
}

#[derive(Debug, Deserialize)]
struct CaRef {
    #[serde(default)]
    group: String,
    #[serde(default = "secret")]
    kind: String,
    name: String,
    namespace: Option<String>,
}

fn secret() -> String {
    "Secret".into()
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Environment {
    #[serde(default)]
    host_keys: Vec<String>,
}

const NAME: &str = "envoy.filters.http.wasm";
/// How long Envoy waits for the code.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often it asks again, and how long it waits before that: a listener is not changed before the last answer.
const RETRIES: u32 = 5;
/// The same of a relay, which has what its snapshot names; but of several, Envoy may meet one that is a moment behind.
const RELAY_RETRIES: u32 = 20;
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));

impl Capability for Wasm {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "wasm",
        kind: Kind::Extension,
        fields: &["wasm"],
        except: &[],
        since: "0.2.0",
        docs: "\
Modules of WebAssembly run on requests and responses, in their order. The module of an image (code.image) is a declared input: moorgate inputs \
update pulls it by its tag, or its digest code.image.sha256, with the credentials of code.image.pullSecretRef (--pull-secret) and the \
authorities of code.image.tls; the module is published with the snapshot, and each fleet's relay hands it out to its Envoys. From code.http.url \
Envoy itself fetches a module, and takes it only with the digest code.http.sha256, which has to be given: nothing is fetched while compiling, and \
what is not known to be what was meant does not run (pullPolicy therefore decides nothing). Over https the server must be signed by an authority of code.http.tls, or by the roots of Envoy's \
image. config is given to the module as JSON, env.hostKeys names variables of the proxy's environment that it sees. \
While a module cannot be had, or fails, requests are answered with an error; with failOpen they pass. When a module changes a header of a \
request, Envoy looks for the route again; what the one that is found asks for before modules run is not asked any more, so a route that \
could lead to one that asks for more, at the same path or in another namespace, is closed: attach such policies to the Gateway.",
        effect: Effect::Filter {
            name: NAME,
            place: place::WASM,
            why: "modules see what scripts and services have made of a request",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let at = FieldPath::parse("spec.wasm");
        for (index, module) in spec.wasm.iter().enumerate() {
            let at = at.index(index);
            let part = cx.own_name(&index.to_string());
            let Some(code) = code(&module.code, &at.key("code"), cx) else { return };
            let digest = match &code.specifier {
                Some(async_data_source::Specifier::Remote(remote)) => remote.sha256.as_str(),
                _ => "",
            };
            let vm = VmConfig {
                // Modules of one name share a machine; those of two policies never do. Envoy goes on with the machine that it
                // has under a name, whatever code is asked for by then.
                vm_id: format!("{part}@{digest}"),
                runtime: "envoy.wasm.runtime.v8".into(),
                code: Some(code),
                environment_variables: module.env.as_ref().map(|env| EnvironmentVariables {
                    host_env_keys: env.host_keys.clone(),
                    ..Default::default()
                }),
                ..Default::default()
            };
            let open = module.fail_open == Some(true);
            let plugin = PluginConfig {
                name: module.name.clone().unwrap_or_else(|| part.clone()),
                root_id: module.root_id.clone().unwrap_or_default(),
                configuration: module
                    .config
                    .as_ref()
                    .map(|config| any(&StringValue { value: config.text() })),
                failure_policy: if open { FailurePolicy::FailOpen } else { FailurePolicy::FailClosed }.into(),
                vm: Some(plugin_config::Vm::VmConfig(vm)),
                ..Default::default()
            };
            // The filter has no settings of routes, so it stands on listeners whole, under a name of its own.
            let on = FilterConfig { config: Some(Any::default()), ..Default::default() };
            let off = FilterConfig { disabled: true, ..Default::default() };
            let filter = Filter { config: Some(plugin) };
            cx.busy_filter((&format!("{NAME}/{part}"), place::WASM), &filter, &on, &off);
            // Envoy looks for the route again when a module has changed a header.
            cx.recomputes_freely(place::WASM, &at);
        }
    }
}

/// Where Envoy fetches the code.
fn code(code: &Code, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<AsyncDataSource> {
    match (code.kind.as_str(), &code.http, &code.image) {
        ("HTTP", Some(source), _) => server(source, &at.key("http"), cx),
        ("Image", _, Some(found)) => image(found, &at.key("image"), cx),
        (kind, ..) => {
            let field = if kind == "Image" { "image" } else { "http" };
            cx.invalid(at.key(field), "exactly the field that the type names must be set");
            None
        }
    }
}

/// The module in an image, as it was declared: the relay has it.
fn image(image: &Image, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<AsyncDataSource> {
    let Some(url) = reference(image) else {
        let why = "that is no image: write registry/repository:tag, and as sha256 64 hexadecimal digits";
        cx.invalid(at.key("url"), why);
        return None;
    };
    let secret = match &image.pull_secret_ref {
        Some(secret) => Some(cx.secret(&at.key("pullSecretRef"), secret, &[".dockerconfigjson"])?.path()),
        None => None,
    };
    let authority = match &image.tls {
        Some(own) => {
            let at = at.key("tls").key("caCertificateRef");
            let bundle = authority(&own.ca_certificate_ref, &at, cx)?;
            cx.authority_text(&bundle)
        }
        None => None,
    };
    let module = cx.image(&at.key("url"), &url, &Access { secret, authority })?;
    let uri = format!("http://{RELAY_CLUSTER}{RELAY_MODULES}{}", module.digest);
    Some(remote(uri, RELAY_CLUSTER.to_owned(), module.digest, RELAY_RETRIES))
}

/// An image by the name under which it is declared: `oci://registry/repository:tag`, or by its digest, if that is given.
fn reference(image: &Image) -> Option<String> {
    let name = image.url.strip_prefix("oci://").unwrap_or(&image.url);
    let (first, rest) = name.split_once('/').unwrap_or(("", name));
    // What has neither dot nor port is a folder of Docker's registry.
    let name = match first {
        "" => format!("docker.io/library/{rest}"),
        "localhost" => name.to_owned(),
        first if first.contains(['.', ':']) => name.to_owned(),
        _ => format!("docker.io/{name}"),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@[]".contains(&byte);
    if name.len() > 1024 || !name.bytes().all(plain) || name.ends_with(['/', ':', '@']) {
        return None;
    }
    let Some(digest) = &image.sha256 else { return Some(format!("oci://{name}")) };
    let digest = digest.strip_prefix("sha256:").unwrap_or(digest).to_ascii_lowercase();
    let tagged = name.split_once('@').map_or(name.as_str(), |(tagged, _)| tagged);
    // A colon behind the last slash begins a tag.
    let (folder, last) = tagged.rsplit_once('/')?;
    let last = last.split_once(':').map_or(last, |(last, _)| last);
    is_digest(&digest).then(|| format!("oci://{folder}/{last}@sha256:{digest}"))
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A module on a server, which Envoy asks itself.
fn server(source: &Source, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<AsyncDataSource> {
    let digest = source.sha256.as_deref().unwrap_or_default().to_ascii_lowercase();
    if !is_digest(&digest) {
        let why =
            "the digest of the module is needed, 64 hexadecimal digits: nothing is fetched while compiling";
        cx.invalid(at.key("sha256"), why);
        return None;
    }
    let Some((tls, host, port)) = jwt::address(&source.url) else {
        cx.invalid(at.key("url"), "that is no address of a server, http://host/path or https://host/path");
        return None;
    };
    let authority = match &source.tls {
        Some(own) if tls => {
            Some(authority(&own.ca_certificate_ref, &at.key("tls").key("caCertificateRef"), cx)?)
        }
        Some(_) => {
            cx.invalid(at.key("tls"), "the address is one of plain text");
            return None;
        }
        None => None,
    };
    let cluster = match authority {
        Some(bundle) => cx.outside_signed(&at.key("url"), host, port, &bundle)?,
        None => cx.outside(&at.key("url"), host, port, tls)?,
    };
    Some(remote(source.url.clone(), cluster, digest, RETRIES))
}

/// Code that Envoy gets over HTTP, and knows by its digest.
fn remote(uri: String, cluster: String, digest: String, retries: u32) -> AsyncDataSource {
    let uri = HttpUri {
        uri,
        timeout: Some(milliseconds(TIMEOUT)),
        http_upstream_type: Some(HttpUpstreamType::Cluster(cluster)),
    };
    let retry_policy = RetryPolicy {
        num_retries: Some(UInt32Value { value: retries }),
        retry_back_off: Some(BackoffStrategy {
            base_interval: Some(milliseconds(BACK_OFF.0)),
            max_interval: Some(milliseconds(BACK_OFF.1)),
        }),
        ..Default::default()
    };
    let remote = RemoteDataSource { http_uri: Some(uri), sha256: digest, retry_policy: Some(retry_policy) };
    AsyncDataSource { specifier: Some(async_data_source::Specifier::Remote(remote)) }
}

/// The bundle that signs the server.
fn authority(reference: &CaRef, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<String> {
    let CaRef { group, kind, name, namespace } = reference;
    if namespace.as_deref().is_some_and(|other| other != cx.namespace()) {
        cx.invalid(at.key("namespace"), "it lies in the namespace of the policy");
        return None;
    }
    cx.authority(at, group, kind, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;
    use prost::Message as _;

    const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn spec(more: &str, http: &str) -> String {
        format!(r#"{{"wasm": [{{"name": "m"{more}, "code": {{"type": "HTTP", "http": {http}}}}}]}}"#)
    }

    #[test]
    fn a_module_is_fetched_by_envoy_and_known_by_its_digest() {
        let http =
            format!(r#"{{"url": "https://a.example:8443/m.wasm", "sha256": "{}"}}"#, DIGEST.to_uppercase());
        let more = r#", "rootID": "r", "config": {"a": [1]}, "env": {"hostKeys": ["REGION"]}"#;
        let compiled = testing::compile(Kind::Extension, &spec(more, &http));
        assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
        let part = &compiled.parts["wasm"];
        assert_eq!(part.clusters, ["a.example:8443:true"]);
        let [filter] = part.filters.as_slice() else { panic!("one filter") };
        assert_eq!(filter.name, "envoy.filters.http.wasm/shop/guard/0");
        let plugin = Filter::decode(filter.base.value.as_slice()).unwrap().config.unwrap();
        assert_eq!((plugin.name.as_str(), plugin.root_id.as_str()), ("m", "r"));
        assert_eq!(plugin.failure_policy(), FailurePolicy::FailClosed);
        let config = StringValue::decode(plugin.configuration.unwrap().value.as_slice()).unwrap();
        assert_eq!(config.value, r#"{"a":[1]}"#);
        let Some(plugin_config::Vm::VmConfig(vm)) = plugin.vm else { panic!("a machine") };
        let Some(async_data_source::Specifier::Remote(remote)) = vm.code.unwrap().specifier else {
            panic!("from afar")
        };
        assert_eq!(
            (remote.sha256.as_str(), remote.http_uri.unwrap().uri.ends_with("/m.wasm")),
            (DIGEST, true)
        );
    }

    #[test]
    fn a_server_may_have_authorities_of_its_own() {
        let ca = r#"{"caCertificateRef": {"group": "", "kind": "ConfigMap", "name": "ca"}}"#;
        let http = format!(r#"{{"url": "https://a.example/m", "sha256": "{DIGEST}", "tls": {ca}}}"#);
        let compiled = testing::compile(Kind::Extension, &spec("", &http));
        assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
        assert_eq!(compiled.parts["wasm"].clusters, ["a.example:443:ConfigMap/shop/ca"]);
        let plain = testing::compile(Kind::Extension, &spec("", &http.replace("https", "http")));
        assert_eq!(testing::said(&plain), ["MG4002 spec.wasm[0].code.http.tls"]);
        let gone = testing::compile(Kind::Extension, &spec("", &http.replace("\"ca\"", "\"gone\"")));
        assert_eq!(testing::said(&gone), ["MG4002 spec.wasm[0].code.http.tls.caCertificateRef.name"]);
    }

    fn image(image: &str) -> String {
        format!(r#"{{"wasm": [{{"code": {{"type": "Image", "image": {image}}}}}]}}"#)
    }

    #[test]
    fn a_module_of_an_image_comes_from_the_relay() {
        let ca = r#"{"caCertificateRef": {"group": "", "kind": "ConfigMap", "name": "ca"}}"#;
        let spec = image(&format!(
            r#"{{"url": "r.example/a:v1", "pullSecretRef": {{"name": "pull"}}, "tls": {ca}}}"#
        ));
        let compiled = testing::compile(Kind::Extension, &spec);
        assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
        let part = &compiled.parts["wasm"];
        let [module] = part.modules.as_slice() else { panic!("one module") };
        assert_eq!(&*module.bytes, b"\0asm");
        assert!(part.clusters.is_empty() && part.late.is_empty(), "neither a server nor a secret is named");
        let text = String::from_utf8_lossy(&part.filters[0].base.value).into_owned();
        assert!(text.contains(&format!("http://moorgate-relay/modules/sha256/{}", module.digest)), "{text}");
        assert!(!text.contains("pull"), "{text}");
    }

    #[test]
    fn images_have_one_name() {
        let named = |url: &str, sha256: Option<&str>| {
            reference(&Image {
                url: url.into(),
                sha256: sha256.map(Into::into),
                pull_secret_ref: None,
                tls: None,
            })
        };
        for (url, name) in [
            ("oci://ghcr.io/a/b:v1", "oci://ghcr.io/a/b:v1"),
            ("localhost:5000/b", "oci://localhost:5000/b"),
            ("a/b:v1", "oci://docker.io/a/b:v1"),
            ("b", "oci://docker.io/library/b"),
        ] {
            assert_eq!(named(url, None).as_deref(), Some(name));
        }
        let by_digest = format!("oci://localhost:5000/b@sha256:{DIGEST}");
        for url in ["localhost:5000/b", "localhost:5000/b:v1", "oci://localhost:5000/b@sha256:00"] {
            assert_eq!(named(url, Some(&DIGEST.to_uppercase())), Some(by_digest.clone()), "{url}");
        }
        assert_eq!(named("r.example/b:", None), None);
    }

    #[test]
    fn what_cannot_be_known_does_not_run() {
        let good = format!(r#"{{"url": "https://a.example/m", "sha256": "{DIGEST}"}}"#);
        for (spec, said) in [
            (spec("", r#"{"url": "https://a.example/m"}"#), vec!["MG4002 spec.wasm[0].code.http.sha256"]),
            (
                spec("", &good.replace("https://a.example", "ftp://a")),
                vec!["MG4002 spec.wasm[0].code.http.url"],
            ),
            (spec("", &good.replace("a.example", "localhost")), vec!["MG4002 spec.wasm[0].code.http.url"]),
            (image(r#"{"url": "r.example/a b"}"#), vec!["MG4002 spec.wasm[0].code.image.url"]),
            (image(r#"{"url": "r.example/a", "sha256": "12"}"#), vec!["MG4002 spec.wasm[0].code.image.url"]),
            (image(r#"{"url": "r.example/gone"}"#), vec!["MG4030 spec.wasm[0].code.image.url"]),
            (
                image(r#"{"url": "r.example/a", "pullSecretRef": {"name": "gone"}}"#),
                vec!["MG4002 spec.wasm[0].code.image.pullSecretRef"],
            ),
            (r#"{"wasm": [{"code": {"type": "Image"}}]}"#.into(), vec!["MG4002 spec.wasm[0].code.image"]),
        ] {
            let compiled = testing::compile(Kind::Extension, &spec);
            assert_eq!(
                (testing::said(&compiled), compiled.closed),
                (said.iter().map(|one| (*one).to_owned()).collect(), true),
                "{spec}"
            );
        }
    }
}
