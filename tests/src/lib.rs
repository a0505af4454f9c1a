//! Suites that cross packages, and the tools that make checked-in data.

pub mod distil;
