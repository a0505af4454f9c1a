//! What the suites share: the product's own binaries, a real Envoy, echo backends, clients and steady load.
//!
//! ```text
//!  repository ──▶ stack (moorgate publish ──▶ store ──▶ moorgate-relay ──▶ envoy) ◀── http, load
//!  manifest        │ program, process, ports                       │
//!  certificate     └─ secrets/, endpoints/ (beside the relay)      └──▶ backend (echo servers)
//! ```
//! Calls block: servers and clients run on one runtime of their own ([`runtime`]), so that a suite may wait for a
//! process without holding them up. [`distil`] makes checked-in data. Everything that is started ends with the value that stands for it.

pub mod backend;
pub mod browser;
pub mod certificate;
pub mod cluster;
pub mod conformance;
pub mod distil;
pub mod envoy;
pub mod fault_store;
pub mod http;
pub mod load;
pub mod machine;
pub mod manifest;
pub mod matches;
pub mod meter;
pub mod mmdb;
pub mod models;
pub mod module;
pub mod mutate;
pub mod ports;
pub mod process;
pub mod program;
pub mod redaction;
pub mod repository;
pub mod routes;
pub mod scale;
pub mod sim;
pub mod stack;
pub mod storage;
pub mod wait;
pub mod wire;

use std::sync::OnceLock;
use tokio::runtime::Runtime;

/// The runtime of every echo server and client in this process.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        #[allow(clippy::expect_used, reason = "without threads no suite can run")]
        built.expect("a runtime")
    })
}
