//! Git revision in, snapshots out: the translator of Moorgate.
//!
//! ```text
//! source ──▶ load ──▶ validate ──▶ attach ──▶ xds ──▶ snapshot ──▶ publish
//!  files     Object    schema,      ir::Fleet  Record   (crate)      store
//!            trees     defaults,    + status
//!                      CEL
//! ```
//! From `load` to `snapshot` everything is synchronous and pure ([`compile`]); only [`source`], [`inputs`], [`publish`] and [`watch`] do I/O.
//! [`history`] is what is signed beside snapshots. [`diff`] and [`explain`] read the same intermediate representation,
//! [`report`] prints diagnostics, and [`cli`] is one file a command.

pub mod attach;
pub mod cli;
pub mod compile;
pub mod diff;
pub mod explain;
pub mod history;
pub mod inputs;
pub mod load;
pub mod ownership;
pub mod parameters;
pub mod patches;
pub mod publish;
pub mod render;
pub mod report;
pub mod serve_store;
pub mod source;
pub mod startup;
pub mod status;
pub mod validate;
pub mod watch;
pub mod xds;
