//! Modules that run inside of Envoy (EnvoyExtensionPolicy `dynamicModule`).
//!
//! ```text
//! policy: name, filter, config ─▶ Need ─▶ (parameters of the fleet: dynamicModules) ─▶ filter with the module's file
//! ```
//! Whoever writes a policy only names a module; which there are, and where their files lie, the operator of a fleet says.

use crate::free::Free;
use crate::lowering::{any, digest, extension, late};
use crate::needs::{Met, Need, What};
use crate::proxy::modules;
use crate::{About, Capability, Effect, Kind, Lowering, place};
use envoy_types::pb::envoy::config::core::v3::{
    AsyncDataSource, DataSource, async_data_source, data_source::Specifier,
};
use envoy_types::pb::envoy::extensions::dynamic_modules::v3::DynamicModuleConfig;
use envoy_types::pb::envoy::extensions::filters::http::dynamic_modules::v3::DynamicModuleFilter;
use envoy_types::pb::google::protobuf::StringValue;
use moorgate_model::{FieldPath, Object};
use serde::Deserialize;

/// The capability.
pub(crate) struct DynamicModule;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    #[serde(default)]
    dynamic_module: Vec<Module>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Module {
    name: String,
    filter_name: Option<String>,
    config: Option<Free>,
    terminal_filter: Option<bool>,
}

/// A module as a policy names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Its name among those of a fleet.
    module: String,
    /// What tells it apart from all others that policies name.
    part: String,
    /// Which filter of it.
    filter: String,
    /// What the filter is told, as JSON.
    config: Option<String>,
}

const NAME: &str = "envoy.filters.http.dynamic_modules";

impl Capability for DynamicModule {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "dynamic_module",
        kind: Kind::Extension,
        fields: &["dynamicModule"],
        except: &[],
        since: "0.2.0",
        docs: "\
Modules that run inside of Envoy (shared libraries, built for its version), on requests and responses, in their order. name is that of \
a module that the EnvoyProxy of the Gateway or class registers (dynamicModules: name, source.local.path, doNotClose, loadGlobally): \
by that its operator grants it, and says where its file lies beside each Envoy. A policy that names another one answers 500 (MG4051). \
filterName says which filter of the module runs, config is given to it as JSON. With terminalFilter the module answers by itself; Envoy takes a \
filter that ends requests for good only as the last of a listener, so a request that the module does not answer goes on to the backends. A module with source.remote is not run: \
where Envoy cannot fetch one it leaves it out, and requests would pass. Envoy refuses a listener whose module is not there or \
cannot be loaded, so that the relay serves the last good snapshot on and reports it.",
        effect: Effect::Filter {
            name: NAME,
            place: place::DYNAMIC_MODULE,
            why: "they see what scripts, services and modules of WebAssembly have made of a request",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let at = FieldPath::parse("spec.dynamicModule");
        for (index, module) in spec.dynamic_module.iter().enumerate() {
            let at = at.index(index);
            if module.terminal_filter == Some(true) {
                let message = "Envoy takes such a filter only as the last of a listener: a request that the module does not answer \
                               goes on to the backends";
                cx.approximate(at.key("terminalFilter"), message);
            }
            let wanted = Wanted {
                module: module.name.clone(),
                part: cx.own_name(&index.to_string()),
                filter: module.filter_name.clone().unwrap_or_default(),
                config: module.config.as_ref().map(Free::text),
            };
            // Nobody can see what a module does to a request.
            cx.recomputes_freely(place::DYNAMIC_MODULE, &at);
            cx.need(Need { at: at.key("name"), what: What::Module(wanted) });
        }
    }
}

/// The filter of a module that these parameters register.
pub(crate) fn registered(wanted: &Wanted, parameters: Option<&Object>) -> Result<Met, String> {
    let name = &wanted.module;
    let found = parameters.map(|parameters| modules::named(parameters, name)).transpose()?.flatten();
    let found =
        found.ok_or_else(|| format!("no module {name} is registered: dynamicModules does not name it"))?;
    let file = DataSource { specifier: Some(Specifier::Filename(found.path)), ..Default::default() };
    let filter = DynamicModuleFilter {
        dynamic_module_config: Some(DynamicModuleConfig {
            do_not_close: found.do_not_close,
            load_globally: found.load_globally,
            module: Some(AsyncDataSource { specifier: Some(async_data_source::Specifier::Local(file)) }),
            ..Default::default()
        }),
        filter_name: wanted.filter.clone(),
        filter_config: wanted.config.as_ref().map(|config| any(&StringValue { value: config.clone() })),
        ..Default::default()
    };
    // Merged with another policy it may say something else.
    let own = format!("{NAME}/{}/{}", wanted.part, digest(&filter));
    Ok(Met {
        filters: vec![late::whole((&own, place::DYNAMIC_MODULE), extension(&filter))],
        ..Met::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, parameters};
    use prost::Message as _;

    fn needs(modules: &str) -> (Vec<Need>, Vec<String>) {
        let compiled = testing::compile(Kind::Extension, &format!(r#"{{"dynamicModule": {modules}}}"#));
        assert!(!compiled.closed, "{:?}", compiled.findings);
        (compiled.parts["dynamic_module"].needs.clone(), testing::said(&compiled))
    }

    const REGISTERED: &str = r#"{"dynamicModules": [
        {"name": "guard", "source": {"local": {"path": "/opt/guard.so"}}, "doNotClose": true, "loadGlobally": true},
        {"name": "plain", "source": {"type": "Local", "local": {"path": "/opt/plain.so"}}},
        {"name": "near", "source": {"local": {"path": "near.so"}}},
        {"name": "far", "source": {"type": "Remote", "remote": {"url": "https://far.example/far.so", "sha256": "00"}}}]}"#;

    #[test]
    fn a_module_that_is_registered_runs_with_its_settings() {
        let (needs, said) = needs(
            r#"[{"name": "guard", "filterName": "f", "config": {"b": [1, true], "a": "x"}}, {"name": "plain", "terminalFilter": true}]"#,
        );
        assert_eq!(said, ["MG4011 spec.dynamicModule[1].terminalFilter"]);
        let parameters = parameters(REGISTERED);
        let met: Vec<Met> = needs.iter().map(|need| need.meet(Some(&parameters)).unwrap()).collect();
        let filters: Vec<_> = met.iter().flat_map(|met| &met.filters).collect();
        assert!(filters.iter().all(|filter| filter.is_whole()));
        assert!(filters[0].name.starts_with("envoy.filters.http.dynamic_modules/shop/guard/0/"));
        let read = |index: usize| DynamicModuleFilter::decode(filters[index].base.value.as_slice()).unwrap();
        let first = read(0);
        let config = first.dynamic_module_config.unwrap();
        assert!(
            config.do_not_close && config.load_globally && !first.terminal_filter && first.filter_name == "f"
        );
        let told = StringValue::decode(first.filter_config.unwrap().value.as_slice()).unwrap();
        assert_eq!(told.value, r#"{"a":"x","b":[1,true]}"#);
        let second = read(1);
        let config = second.dynamic_module_config.unwrap();
        assert!(!config.do_not_close && !config.load_globally && !second.terminal_filter);
        let Some(async_data_source::Specifier::Local(file)) = config.module.unwrap().specifier else {
            panic!()
        };
        assert_eq!(file.specifier, Some(Specifier::Filename("/opt/plain.so".into())));
    }

    #[test]
    fn no_other_one_does() {
        let parameters = parameters(REGISTERED);
        for (name, why) in [
            ("other", "no module other is registered"),
            ("near", "is no absolute path"),
            ("far", "leaves it out"),
        ] {
            let (needs, _) = needs(&format!(r#"[{{"name": "{name}"}}]"#));
            let said = needs[0].meet(Some(&parameters)).unwrap_err();
            assert!(said.contains(why), "{said}");
            assert!(needs[0].meet(None).is_err());
            assert_eq!(needs[0].at.to_string(), "spec.dynamicModule[0].name");
        }
    }
}
