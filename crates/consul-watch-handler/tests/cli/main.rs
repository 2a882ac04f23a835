//! The real binary against a small Consul.

mod agent;
mod handle;
mod harness;
mod real;
mod stream;
mod watch;
