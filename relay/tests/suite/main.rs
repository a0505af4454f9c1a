//! The relay from outside: a bare xDS client over real sockets.

mod client;
mod publisher;
mod relay;
mod serve;
