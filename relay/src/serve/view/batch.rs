//! Resources that go out together: listed and encoded once, however many streams send them. A batch lives as long as a
//! stream waits for its acknowledgement or has its bytes to send.

use super::super::frame::Encoded;
use super::super::stream::Protocol;
use super::set::TypeSet;
use super::{Name, Value};
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

/// Resources of one response, by name.
#[derive(Default)]
pub struct Batch {
    entries: Vec<(Name, Arc<Value>)>,
    /// What a client holds with it, if more is to follow.
    after: Option<Arc<TypeSet>>,
    delta: OnceLock<Encoded>,
    state_of_the_world: OnceLock<Encoded>,
}

impl Batch {
    /// A batch of these resources.
    pub fn new(entries: Vec<(Name, Arc<Value>)>) -> Self {
        Self { entries, ..Self::default() }
    }

    /// The one without any.
    pub(in crate::serve) fn nothing() -> Arc<Self> {
        static NOTHING: OnceLock<Arc<Batch>> = OnceLock::new();
        Arc::clone(NOTHING.get_or_init(Arc::default))
    }

    /// The same as a part of what is to be sent: with it, the client holds `after`.
    pub(super) fn leaving(self, after: Option<Arc<TypeSet>>) -> Self {
        Self { after, ..self }
    }

    /// What a client holds with it, if that is not yet all.
    pub(in crate::serve) fn after(&self) -> Option<&Arc<TypeSet>> {
        self.after.as_ref()
    }

    /// Whether it is of exactly these resources.
    pub(super) fn is_of(&self, entries: &[(Name, Arc<Value>)]) -> bool {
        let same = |one: &(Name, Arc<Value>), other: &(Name, Arc<Value>)| {
            Arc::ptr_eq(&one.1, &other.1) && one.0 == other.0
        };
        self.entries.len() == entries.len() && self.entries.iter().zip(entries).all(|(a, b)| same(a, b))
    }

    /// Its bytes in a response; `encode` is asked once.
    pub(in crate::serve) fn encoded(
        &self,
        protocol: Protocol,
        encode: impl FnOnce(&[(Name, Arc<Value>)]) -> Encoded,
    ) -> &Encoded {
        let known = match protocol {
            Protocol::Delta => &self.delta,
            Protocol::StateOfTheWorld => &self.state_of_the_world,
        };
        known.get_or_init(|| encode(&self.entries))
    }
}

impl std::fmt::Debug for Batch {
    /// Without the content: there may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.entries).finish()
    }
}

impl Deref for Batch {
    type Target = [(Name, Arc<Value>)];

    fn deref(&self) -> &Self::Target {
        &self.entries
    }
}
