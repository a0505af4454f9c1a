//! Makers of checked-in data: each reads what another project publishes and writes what the translator needs of it.

pub mod crds;
pub mod roots;
pub mod rules;
