//! What a rate limit service counts: one resource for each domain of counts.

use super::canonical;
use bytes::Bytes;
use envoy_types::pb::ratelimit::config::ratelimit::v3::RateLimitConfig;
use prost::Message as _;

/// The limits of a domain under its name.
pub(super) fn lower(domain: &str, config: &[u8]) -> Bytes {
    // The policy's own file wrote it.
    let limits = RateLimitConfig::decode(config).unwrap_or_default();
    canonical::encode(&RateLimitConfig { name: domain.to_owned(), domain: domain.to_owned(), ..limits })
}
