//! Values as policies write them, and as Envoy has them.

use super::Lowering;
use envoy_types::pb::google::protobuf::{Any, Duration as PbDuration};
use moorgate_model::{FieldPath, duration};
use prost::{Message, Name};
use serde::Serialize;
use std::time::Duration;

/// An extension's configuration inside another message.
pub(crate) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// A time that a field says; one that is no duration makes the policy invalid.
pub(crate) fn time(cx: &mut Lowering<'_>, at: &FieldPath, text: Option<&str>) -> Option<Duration> {
    let text = text?;
    let found = duration::parse(text);
    if found.is_none() {
        cx.invalid(at.clone(), &format!("{text:?} is no duration"));
    }
    found
}

/// The same in whole seconds, at least one.
pub(crate) fn seconds(cx: &mut Lowering<'_>, at: &FieldPath, text: Option<&str>) -> Option<u32> {
    let found = time(cx, at, text)?;
    let whole =
        u32::try_from(found.as_secs()).ok().filter(|seconds| *seconds > 0 && found.subsec_nanos() == 0);
    if whole.is_none() {
        cx.invalid(at.clone(), "it is counted in whole seconds, at least one");
    }
    whole
}

/// A time as Envoy has it.
pub(crate) fn milliseconds(time: Duration) -> PbDuration {
    // Durations of the API have at most five digits a unit.
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    PbDuration { seconds, nanos: i32::try_from(time.subsec_nanos()).unwrap_or(0) }
}

/// What tells messages apart that have one name in several merges; it protects nothing (FNV-1a). For messages without maps, whose
/// order is not fixed.
pub(crate) fn digest<M: Message>(message: &M) -> String {
    hash(&message.encode_to_vec())
}

/// The same of plain data, by its JSON.
pub(crate) fn fingerprint<T: Serialize + ?Sized>(data: &T) -> String {
    // Only maps with keys of another kind than text have none.
    hash(&serde_json::to_vec(data).unwrap_or_default())
}

/// The same of bytes.
pub(crate) fn hash(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}
