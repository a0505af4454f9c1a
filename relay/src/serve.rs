//! Serves views to xDS clients: delta and state of the world, aggregated and per type.

pub mod admit;
pub mod frame;
pub mod grpc;
pub mod hub;
pub mod listen;
pub mod meter;
mod modules;
pub mod proto;
pub mod share;
pub mod stream;
pub mod tls;
pub mod token;
pub mod types;
pub mod view;
