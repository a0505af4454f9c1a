//! ListenerSet.

use super::{Listener, Metadata, ParentRef};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct ListenerSet {
    pub(in crate::attach) metadata: Metadata,
    pub(in crate::attach) spec: ListenerSetSpec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct ListenerSetSpec {
    pub(in crate::attach) parent_ref: ParentRef,
    #[serde(default)]
    pub(in crate::attach) listeners: Vec<Listener>,
}
