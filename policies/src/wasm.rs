//! Modules of WebAssembly (EnvoyExtensionPolicy `wasm`).

use crate::free::Free;
use crate::lowering::{any, milliseconds};
use crate::{About, Capability, Effect, Kind, Lowering, jwt, place};
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
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));

impl Capability for Wasm {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "wasm",
        kind: Kind::Extension,
        fields: &["wasm"],
        except: &["wasm.code.image"],
        since: "0.2.0",
        docs: "\
Modules of WebAssembly run on requests and responses, in their order. Envoy itself fetches a module from code.http.url and takes it only with \
the digest code.http.sha256, which has to be given: nothing is fetched while compiling, and what is not known to be what was meant does not run \
(pullPolicy therefore decides nothing). Over https the server must be signed by an authority of code.http.tls, or by the roots of Envoy's \
image. config is given to the module as JSON, env.hostKeys names variables of the proxy's environment that it sees. \
While a module cannot be had, or fails, requests are answered with an error; with failOpen they pass. Images (code.image) are refused: serve the \
module over HTTP.",
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
            let vm = VmConfig {
                // Modules of one name share a machine; those of two policies never do.
                vm_id: part.clone(),
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
        }
    }
}

/// Where Envoy fetches the code.
fn code(code: &Code, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<AsyncDataSource> {
    let at = at.key("http");
    let Some(source) = code.http.as_ref().filter(|_| code.kind == "HTTP") else {
        if code.kind == "HTTP" {
            cx.invalid(at, "exactly the field that the type names must be set");
        } else {
            // The image itself was named as not supported: there is nothing to run.
            cx.invalid(at, "a module is fetched over HTTP: put it on a server, and name its digest");
        }
        return None;
    };
    let digest = source.sha256.as_deref().unwrap_or_default().to_ascii_lowercase();
    if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
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
    let uri = HttpUri {
        uri: source.url.clone(),
        timeout: Some(milliseconds(TIMEOUT)),
        http_upstream_type: Some(HttpUpstreamType::Cluster(cluster)),
    };
    let retry_policy = RetryPolicy {
        num_retries: Some(UInt32Value { value: RETRIES }),
        retry_back_off: Some(BackoffStrategy {
            base_interval: Some(milliseconds(BACK_OFF.0)),
            max_interval: Some(milliseconds(BACK_OFF.1)),
        }),
        ..Default::default()
    };
    let remote = RemoteDataSource { http_uri: Some(uri), sha256: digest, retry_policy: Some(retry_policy) };
    Some(AsyncDataSource { specifier: Some(async_data_source::Specifier::Remote(remote)) })
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
            (
                r#"{"wasm": [{"code": {"type": "Image", "image": {"url": "a/b:c"}}}]}"#.into(),
                vec!["MG4105 spec.wasm[0].code.image", "MG4002 spec.wasm[0].code.http"],
            ),
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
