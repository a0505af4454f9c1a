//! The programs of the cluster and of the upstream suite, as `tests/tools/install-go` builds them.

use crate::program;
use anyhow::Result;
use std::path::PathBuf;

/// etcd, API server and controller manager in one program.
pub fn kubernetes() -> Result<PathBuf> {
    program::go("cluster")
}

/// The suite of this version (`1.7.0`).
pub fn conformance(version: &str) -> Result<PathBuf> {
    program::go(&format!("conformance-{version}"))
}

/// The program that the suite's backends run.
pub(super) fn echo() -> Result<PathBuf> {
    program::go("echo-basic")
}

/// Envoy Gateway, whose pods run beside ours where somebody comes from it.
pub fn envoy_gateway() -> Result<PathBuf> {
    program::go("envoy-gateway")
}

/// What people type.
pub fn kubectl() -> Result<PathBuf> {
    program::go("kubectl")
}
