//! Refused values between the hub, which knows them as a stream does, and the memory on disk.

use crate::cache::RefusedValue as Remembered;
use crate::serve::hub::RefusedValue;
use crate::serve::stream::Refusal;
use std::sync::Arc;

/// As it is written down.
pub(super) fn remember(value: &RefusedValue) -> Remembered {
    let contents = value.refusal.contents.iter();
    Remembered {
        client: value.client.to_string(),
        node: value.node.clone(),
        kind: value.refusal.type_url.to_string(),
        versions: contents
            .map(|(name, version)| (name.to_string(), version.as_deref().map(str::to_owned)))
            .collect(),
    }
}

/// As it was written down.
pub(super) fn recall(value: &Remembered) -> RefusedValue {
    let versions = value.versions.iter();
    let contents = versions.map(|(name, version)| (name.as_str().into(), version.as_deref().map(Into::into)));
    RefusedValue {
        client: value.client.as_str().into(),
        node: value.node.clone(),
        refusal: Refusal { type_url: value.kind.as_str().into(), contents: Arc::new(contents.collect()) },
    }
}
