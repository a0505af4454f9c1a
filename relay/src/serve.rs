//! Serves views to xDS clients: delta and state of the world, aggregated and per type.

pub mod frame;
pub mod proto;
pub mod stream;
pub mod types;
pub mod view;
