//! What happens to requests: latency, and each fault so many times in a thousand.

use super::chance::Chance;
use super::world::{Place, World};
use crate::fault_store::{Decide, Fault, Kind, Operation, Verdict};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How bad it is for one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sky {
    /// Nothing fails.
    Clear,
    /// Hardly a request fails.
    Mist,
    /// Few requests fail.
    Rain,
    /// A third of all requests fails.
    Storm,
}

impl Sky {
    /// One by chance.
    pub fn roll(chance: &mut Chance) -> Self {
        chance.weighted(&[(Self::Clear, 2), (Self::Rain, 5), (Self::Storm, 2)]).unwrap_or(Self::Clear)
    }

    /// One by chance for acts of very many requests, which would hardly ever come through in rain.
    pub fn roll_mild(chance: &mut Chance) -> Self {
        chance.weighted(&[(Self::Clear, 4), (Self::Mist, 4), (Self::Rain, 1)]).unwrap_or(Self::Clear)
    }

    fn permille(self) -> u64 {
        match self {
            Self::Clear => 0,
            Self::Mist => 8,
            Self::Rain => 60,
            Self::Storm => 330,
        }
    }
}

const GET: &[(Fault, u64)] = &[
    (Fault::Error, 20),
    (Fault::SlowDown, 10),
    (Fault::Denied, 4),
    (Fault::Stall, 3),
    (Fault::Cut, 10),
    (Fault::Broken, 10),
    (Fault::Flip, 15),
    (Fault::Stale, 15),
    (Fault::CrashBefore, 3),
    (Fault::CrashAfter, 2),
];
const CREATE: &[(Fault, u64)] = &[
    (Fault::Error, 15),
    (Fault::SlowDown, 10),
    (Fault::Denied, 3),
    (Fault::FalseConflict, 12),
    (Fault::OwnConflict, 15),
    (Fault::Lost, 15),
    (Fault::Stall, 2),
    (Fault::Damage, 12),
    (Fault::CrashBefore, 4),
    (Fault::CrashAfter, 5),
];
const PUT: &[(Fault, u64)] = &[
    (Fault::Error, 20),
    (Fault::Denied, 3),
    (Fault::Lost, 15),
    (Fault::Stall, 2),
    (Fault::CrashBefore, 5),
    (Fault::CrashAfter, 5),
];
const LIST: &[(Fault, u64)] = &[
    (Fault::Error, 20),
    (Fault::Denied, 5),
    (Fault::Stall, 3),
    (Fault::Broken, 30),
    (Fault::CrashBefore, 5),
    (Fault::CrashAfter, 5),
];
const DELETE: &[(Fault, u64)] =
    &[(Fault::Error, 20), (Fault::Lost, 20), (Fault::CrashBefore, 10), (Fault::CrashAfter, 10)];

/// Decides for one client.
pub(super) fn decide(world: Arc<World>, who: String, place: Place, sky: Sky, mut chance: Chance) -> Decide {
    // A relay may for a while be shown the log as it was: by a cache, or by a bucket that was restored.
    let mut behind = 0_u32;
    let is_relay = who.starts_with("relay");
    let may_be_behind = is_relay && sky != Sky::Clear;
    Box::new(move |operation| {
        if world.bucket.is_calm() {
            return Verdict { wait: Duration::from_millis(20), fault: None };
        }
        if place == Place::Mirror && is_relay {
            world.count("relay asks the mirror");
        }
        let wait = if chance.permille(30) { chance.millis(200..6_000) } else { chance.millis(1..60) };
        if may_be_behind && behind == 0 && chance.permille(8) {
            behind = 25;
        }
        behind = behind.saturating_sub(1);
        let fault = if place == Place::First && world.down.load(Ordering::SeqCst) {
            Some(Fault::Error)
        } else if behind > 0 && operation.kind == Kind::Get {
            Some(Fault::Past)
        } else if chance.permille(sky.permille()) {
            chance.weighted(table(operation.kind)).filter(|fault| fits(*fault, operation, &who))
        } else {
            None
        };
        if let Some(fault) = fault {
            world.count(&format!("fault {fault:?}"));
        }
        let fault_words = fault.map(|fault| format!(" {fault:?}")).unwrap_or_default();
        let at = if place == Place::Mirror { " of the mirror" } else { "" };
        world.say(&who, format!("{:?} {}{at}{fault_words}", operation.kind, operation.path));
        Verdict { wait, fault }
    })
}

fn table(kind: Kind) -> &'static [(Fault, u64)] {
    match kind {
        Kind::Get => GET,
        Kind::Put => PUT,
        Kind::Create => CREATE,
        Kind::List => LIST,
        Kind::Delete => DELETE,
    }
}

/// Transport checks what small signed objects hold; a damaged entry that is reported as stored would be a void slot, and
/// no protocol over such a store can promise more than that. So damage on the way in is for what is read back.
///
/// gc goes to the store itself: a cache between it and the store that still shows what was there before, or that nothing
/// was, would have it judge by a past that no list agrees with.
fn fits(fault: Fault, operation: Operation<'_>, who: &str) -> bool {
    match fault {
        Fault::Damage => !operation.path.contains("/log/") && !operation.path.starts_with("trust/"),
        Fault::Stale => !who.starts_with("gc"),
        _ => true,
    }
}
