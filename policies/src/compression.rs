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
use serde::de::IgnoredAny;

/// The capability.
pub(crate) struct Compression;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    #[serde(default)]
    compression: Vec<One>,
    /// Its newer name, by which an entry counts only with its settings.
    #[serde(default)]
    compressor: Vec<One>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct One {
    #[serde(rename = "type")]
    kind: String,
    min_content_length: Option<Quantity>,
    gzip: Option<IgnoredAny>,
    brotli: Option<IgnoredAny>,
    zstd: Option<IgnoredAny>,
}

impl One {
    /// Whether it has the settings of its type: there are none yet but that they are there.
    fn is_on(&self) -> bool {
        match self.kind.as_str() {
            "Gzip" => self.gzip.is_some(),
            "Brotli" => self.brotli.is_some(),
            "Zstd" => self.zstd.is_some(),
            // That the type is not known is said later.
            _ => true,
        }
    }
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
Accept-Encoding chooses, and where it does not care the first. An entry of compressor counts only with the settings of its type (gzip: {}), so that a policy can switch off \
what a wider one that it is merged with compresses; compression is not looked at where compressor has entries.",
        effect: Effect::Filter {
            name: NAME,
            place: place::COMPRESSION,
            why: "responses pass the filters backwards: nobody behind it changes a body any more",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let (list, found) = if spec.compressor.is_empty() {
            ("compression", &spec.compression)
        } else {
            ("compressor", &spec.compressor)
        };
        let at = FieldPath::root().key("spec").key(list);
        let counts = |one: &One| list == "compression" || one.is_on();
        let several = found.iter().filter(|one| counts(one)).count() > 1;
        let counted = found.iter().enumerate().filter(|(_, one)| counts(one));
        for (turn, (index, one)) in counted.enumerate() {
            self::one(one, several && turn == 0, &at.index(index), cx);
        }
    }
}

fn one(one: &One, choose_first: bool, at: &FieldPath, cx: &mut Lowering<'_>) {
    let Some((end, library)) = library_of(&one.kind) else {
        return cx.invalid(at.key("type"), &format!("type {} is not known", one.kind));
    };
    let least = match one.min_content_length.as_ref().map(Quantity::number) {
        Some(None) => return cx.invalid(at.key("minContentLength"), "that is no number of bytes"),
        Some(least) => least.and_then(|least| u32::try_from(least).ok()),
        None => None,
    };
    // What stands on the listener is the same for all routes, so each length has a filter of its own.
    let mut name = match least {
        Some(least) => format!("{NAME}.{end}.{least}"),
        None => format!("{NAME}.{end}"),
    };
    if choose_first {
        name.push_str(".first");
    }
    let common = compressor::CommonDirectionConfig {
        min_content_length: least.map(|value| UInt32Value { value }),
        ..Default::default()
    };
    let base = Compressor {
        compressor_library: Some(library),
        choose_first,
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

    /// The filters, and whether each is preferred.
    fn filters(spec: &str) -> Vec<(String, bool)> {
        let compiled = testing::compile(Kind::BackendTraffic, spec);
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let filters = compiled.parts.get("compression").map(|part| part.filters.clone()).unwrap_or_default();
        assert!(filters.iter().all(|filter| filter.off.is_some()));
        let first = |value: &[u8]| Compressor::decode(value).unwrap().choose_first;
        let short = |name: &str| name.strip_prefix(NAME).unwrap().to_owned();
        filters.iter().map(|filter| (short(&filter.name), first(&filter.base.value))).collect()
    }

    #[test]
    fn each_type_has_a_filter_and_the_first_is_preferred() {
        for (spec, wanted) in [
            (
                r#"{"compression": [{"type": "Gzip"}, {"type": "Brotli", "minContentLength": "1Ki"}]}"#,
                vec![(".gzip.first", true), (".brotli.1024", false)],
            ),
            // A single one needs no preference.
            (r#"{"compression": [{"type": "Gzip"}]}"#, vec![(".gzip", false)]),
            (
                r#"{"compressor": [{"type": "Zstd", "zstd": {}, "minContentLength": 9}, {"type": "Gzip", "gzip": {}}]}"#,
                vec![(".zstd.9.first", true), (".gzip", false)],
            ),
            // Only what has its settings counts, and nothing of the older list beside the newer one.
            (
                r#"{"compression": [{"type": "Brotli"}], "compressor": [{"type": "Zstd"}, {"type": "Gzip", "gzip": {}}]}"#,
                vec![(".gzip", false)],
            ),
            (r#"{"compression": [{"type": "Brotli"}], "compressor": [{"type": "Gzip"}]}"#, vec![]),
            (r#"{"compression": [{"type": "Brotli"}], "compressor": []}"#, vec![(".brotli", false)]),
        ] {
            let wanted: Vec<_> = wanted.into_iter().map(|(name, first)| (name.to_owned(), first)).collect();
            assert_eq!(filters(spec), wanted, "{spec}");
        }
        let wrong = testing::compile(
            Kind::BackendTraffic,
            r#"{"compressor": [{"type": "Gzip", "gzip": {}, "minContentLength": "x"}]}"#,
        );
        assert_eq!(testing::said(&wrong), ["MG4002 spec.compressor[0].minContentLength"]);
    }
}
