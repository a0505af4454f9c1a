//! Late binding: endpoints and secrets, by the names that a snapshot's bindings ask for.
//!
//! ```text
//! --endpoints DIR ─▶ catalog ─┐
//! --store-values  ─▶ late    ─┤
//! --kubernetes    ─▶ live    ─┤
//! DNS names       ─▶ dns     ─┼─▶ endpoints (EDS) ─┐
//! fixed addresses            ─┘                    ├─▶ TypeSet, one a fleet
//! --kubernetes    ─▶ live    ─┬─▶ secrets (SDS) ───┘
//! --store-values  ─▶ late    ─┤
//! --secrets DIR   ─▶ files   ─┘
//! ```
//! Values change by themselves, so none of them is in a snapshot. A source that vanishes keeps its last value; a name
//! that no source has ever known is pending for a moment, so that Envoy is not told "empty" before sources were read.

pub mod binder;
pub mod catalog;
pub mod dns;
pub mod endpoints;
pub mod file;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod late;
pub mod live;
pub mod secrets;
