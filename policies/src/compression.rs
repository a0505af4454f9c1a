//! Compressed responses (BackendTrafficPolicy `compression`).

use crate::lowering::any;
use crate::quantity::Quantity;
use crate::{About, Capability, Effect, Kind, Lowering, place};
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::extensions::compression::brotli::compressor::v3::Brotli;
use envoy_types::pb::envoy::extensions::compression::gzip::compressor::v3::Gzip;
use envoy_types::pb::envoy::extensions::compression::zstd::compressor::v3::Zstd;
use envoy_types::pb::envoy::extensions::filters::http::compressor::v3::{
    Compressor, CompressorOverrides, CompressorPerRoute, ResponseDirectionOverrides, compressor,
    compressor_per_route,
};
use envoy_types::pb::google::protobuf::UInt32Value;
use moorgate_model::FieldPath;
use prost::{Message, Name};
use serde::Deserialize;

/// The capability.
pub(crate) struct Compression;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    #[serde(default)]
    compression: Vec<One>,
    /// Its newer name.
    #[serde(default)]
    compressor: Vec<One>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct One {
    #[serde(rename = "type")]
    kind: String,
    min_content_length: Option<Quantity>,
}

const NAME: &str = "envoy.filters.http.compressor";

impl Capability for Compression {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "compression",
        kind: Kind::BackendTraffic,
        fields: &["compression", "compressor"],
        except: &[],
        since: "0.1.0",
        docs: "\
Responses are compressed for clients that accept it: Gzip, Brotli, Zstd, from minContentLength bytes on (30). Of several types a client's \
Accept-Encoding chooses.",
        effect: Effect::Filter {
            name: NAME,
            place: place::COMPRESSION,
            why: "responses pass the filters backwards: nobody behind it changes a body any more",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        for (list, found) in [("compression", &spec.compression), ("compressor", &spec.compressor)] {
            let at = FieldPath::root().key("spec").key(list);
            for (index, one) in found.iter().enumerate() {
                self::one(one, &at.index(index), cx);
            }
        }
    }
}

fn one(one: &One, at: &FieldPath, cx: &mut Lowering<'_>) {
    let Some((end, library)) = library_of(&one.kind) else {
        return cx.invalid(at.key("type"), &format!("type {} is not known", one.kind));
    };
    let least = match one.min_content_length.as_ref().map(Quantity::number) {
        Some(None) => return cx.invalid(at.key("minContentLength"), "that is no number of bytes"),
        Some(least) => least.and_then(|least| u32::try_from(least).ok()),
        None => None,
    };
    // What stands on the listener is the same for all routes, so each length has a filter of its own.
    let name = match least {
        Some(least) => format!("{NAME}.{end}.{least}"),
        None => format!("{NAME}.{end}"),
    };
    let common = compressor::CommonDirectionConfig {
        min_content_length: least.map(|value| UInt32Value { value }),
        ..Default::default()
    };
    let base = Compressor {
        compressor_library: Some(library),
        response_direction_config: Some(compressor::ResponseDirectionConfig {
            common_config: Some(common),
            ..Default::default()
        }),
        ..Default::default()
    };
    let overrides = CompressorOverrides {
        response_direction_config: Some(ResponseDirectionOverrides::default()),
        ..Default::default()
    };
    let own = CompressorPerRoute { r#override: Some(compressor_per_route::Override::Overrides(overrides)) };
    let off = CompressorPerRoute { r#override: Some(compressor_per_route::Override::Disabled(true)) };
    cx.busy_filter((&name, place::COMPRESSION), &base, &own, &off);
}

/// What compresses by a type of the API, and its short name.
pub(crate) fn library_of(kind: &str) -> Option<(&'static str, TypedExtensionConfig)> {
    Some(match kind {
        "Gzip" => ("gzip", library("gzip", &Gzip::default())),
        "Brotli" => ("brotli", library("brotli", &Brotli::default())),
        "Zstd" => ("zstd", library("zstd", &Zstd::default())),
        _ => return None,
    })
}

fn library<M: Message + Name>(name: &str, config: &M) -> TypedExtensionConfig {
    let typed_config = Some(any(config));
    TypedExtensionConfig { name: format!("envoy.compression.{name}.compressor"), typed_config }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;

    #[test]
    fn each_type_has_a_filter() {
        let compiled = testing::compile(
            Kind::BackendTraffic,
            r#"{"compression": [{"type": "Gzip"}, {"type": "Brotli", "minContentLength": "1Ki"}], "compressor": [{"type": "Zstd"}]}"#,
        );
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let filters = &compiled.parts["compression"].filters;
        let names: Vec<&str> = filters.iter().map(|filter| filter.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "envoy.filters.http.compressor.gzip",
                "envoy.filters.http.compressor.brotli.1024",
                "envoy.filters.http.compressor.zstd",
            ]
        );
        assert!(filters.iter().all(|filter| filter.off.is_some()));
        let wrong = testing::compile(
            Kind::BackendTraffic,
            r#"{"compressor": [{"type": "Gzip", "minContentLength": "x"}]}"#,
        );
        assert_eq!(testing::said(&wrong), ["MG4002 spec.compressor[0].minContentLength"]);
    }
}
