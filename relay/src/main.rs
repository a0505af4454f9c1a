//! The `moorgate-relay` command.
fn main() {}
