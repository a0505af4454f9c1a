//! A shared library that Envoy loads as a dynamic module: built from C when a test needs it, by the compiler that links Rust,
//! because such a library cannot be written without `unsafe`, and its interface is one of C.

use crate::program::{root, run};
use anyhow::Result;
use std::path::Path;
use std::process::Command;

/// Builds it: filter `word` answers 418 to requests whose header x-word is not its configuration, filter `answer` 202 to all.
pub fn build(file: &Path) -> Result<()> {
    let source = root().join("tests/src/module/guard.c");
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(file).arg(source);
    run(&mut command)?.ended_with(&[0])?;
    Ok(())
}
