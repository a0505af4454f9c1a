//! Serves views to xDS clients: delta and state of the world, aggregated and per type.

pub mod frame;
pub mod grpc;
pub mod hub;
pub mod listen;
pub mod proto;
pub mod stream;
pub mod tls;
pub mod types;
pub mod view;
