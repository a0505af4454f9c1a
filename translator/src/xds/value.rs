//! Small protobuf values that every resource needs.

#![expect(clippy::unnecessary_wraps, reason = "message fields are options, and these fill them")]

use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::{AggregatedConfigSource, ApiVersion, ConfigSource};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value};
use prost::{Message, Name};

pub(super) fn truth(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

pub(super) fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(super) fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

pub(super) fn duration(value: std::time::Duration) -> Duration {
    // Gateway API durations have at most five digits an unit; a foreign one is cut to what protobuf can hold.
    let seconds = i64::try_from(value.as_secs()).unwrap_or(i64::MAX);
    Duration { seconds, nanos: i32::try_from(value.subsec_nanos()).unwrap_or(0) }
}

/// Packs a message; its maps are sorted together with those of the resource that holds it.
pub(super) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// The stream that the resource itself came from.
pub(super) fn ads(initial_fetch_timeout_seconds: i64) -> ConfigSource {
    ConfigSource {
        initial_fetch_timeout: seconds(initial_fetch_timeout_seconds),
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    }
}

/// The fraction over the smallest of Envoy's denominators that holds it; others are rounded down to millionths.
pub(super) fn fraction(numerator: u32, denominator: u32) -> FractionalPercent {
    let denominators = [
        (100, DenominatorType::Hundred),
        (10_000, DenominatorType::TenThousand),
        (1_000_000, DenominatorType::Million),
    ];
    let (numerator, denominator) = (u64::from(numerator), u64::from(denominator.max(1)));
    let exact = denominators.into_iter().find(|(scale, _)| (numerator * scale).is_multiple_of(denominator));
    let (scale, kind) = exact.unwrap_or((1_000_000, DenominatorType::Million));
    FractionalPercent {
        numerator: u32::try_from(numerator * scale / denominator).unwrap_or(u32::MAX),
        denominator: kind.into(),
    }
}
